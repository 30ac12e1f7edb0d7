//! A Qdrant server for tests, in this process: the calls that the vector store makes, over real gRPC on a port of its own,
//! answered by an exact engine, with faults on demand. Calls that the store does not make are unimplemented.
//!
//! Nothing of the crate is used here, so that the tests of the whole program can include this folder too.

mod engine;

use std::future::Future;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::qdrant_client::qdrant::collections_server::{Collections, CollectionsServer};
use ::qdrant_client::qdrant::points_server::{Points, PointsServer};
use ::qdrant_client::qdrant::qdrant_server::{Qdrant, QdrantServer};
use ::qdrant_client::qdrant::*;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::metadata::MetadataMap;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};

use engine::Engine;

/// A running server; gone when dropped.
pub struct Fake {
    shared: Arc<Shared>,
    listener: StdListener,
    address: SocketAddr,
    /// Replaced when connections are dropped. None only in between.
    runtime: Option<Runtime>,
    /// Certificate and key, where it speaks TLS.
    identity: Option<(String, String)>,
}

#[derive(Default)]
struct Shared {
    engine: Mutex<Engine>,
    faults: Mutex<Faults>,
    /// Connections are closed as they come in, and calls on older ones are unavailable.
    gone: AtomicBool,
    calls: AtomicU64,
}

#[derive(Default)]
struct Faults {
    failing: Option<(Code, u32)>,
    delay: Duration,
    version: Option<String>,
    key: Option<String>,
}

impl Fake {
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// A server that speaks TLS, with this certificate and its key (PEM).
    pub fn start_with_tls(certificate: &str, key: &str) -> Self {
        Self::start_with(Some((certificate.to_owned(), key.to_owned())))
    }

    fn start_with(identity: Option<(String, String)>) -> Self {
        let listener = StdListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("address");
        let mut fake = Self { shared: Arc::default(), listener, address, runtime: None, identity };
        fake.serve();
        fake
    }

    fn serve(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = self.listener.try_clone().expect("the same port");
        let shared = Arc::clone(&self.shared);
        let mut server = Server::builder();
        if let Some((certificate, key)) = &self.identity {
            let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
            server = server.tls_config(tls).expect("a certificate");
        }
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("listener");
            let gone = Arc::clone(&shared);
            let incoming = futures::stream::unfold(listener, move |listener| {
                let gone = Arc::clone(&gone);
                async move {
                    loop {
                        let (connection, _) = listener.accept().await.ok()?;
                        if !gone.gone.load(Ordering::SeqCst) {
                            return Some((Ok::<_, std::io::Error>(connection), listener));
                        }
                    }
                }
            });
            let served = server
                .add_service(QdrantServer::from_arc(Arc::clone(&shared)))
                .add_service(CollectionsServer::from_arc(Arc::clone(&shared)))
                .add_service(PointsServer::from_arc(shared))
                .serve_with_incoming(incoming);
            served.await.expect("served");
        });
        self.runtime = Some(runtime);
    }

    pub fn url(&self) -> String {
        let scheme = if self.identity.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The next `times` calls fail so.
    pub fn fail(&self, code: Code, times: u32) {
        self.faults().failing = Some((code, times));
    }

    /// Every call takes that much longer.
    pub fn delay(&self, delay: Duration) {
        self.faults().delay = delay;
    }

    /// The version that the server says it has.
    pub fn version(&self, version: &str) {
        self.faults().version = Some(version.to_owned());
    }

    /// The key that every call has to bring from now on.
    pub fn key(&self, key: &str) {
        self.faults().key = Some(key.to_owned());
    }

    /// Goes away, or comes back with what it held.
    pub fn gone(&self, gone: bool) {
        self.shared.gone.store(gone, Ordering::SeqCst);
    }

    /// Closes all connections; new ones are taken.
    pub fn drop_connections(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
        self.serve();
    }

    /// Loses everything.
    pub fn wipe(&self) {
        *self.shared.engine() = Engine::default();
    }

    /// Calls that came in.
    pub fn calls(&self) -> u64 {
        self.shared.calls.load(Ordering::SeqCst)
    }

    /// Names of the collections.
    pub fn collections(&self) -> Vec<String> {
        self.shared.engine().names()
    }

    /// What the alias stands for.
    pub fn behind(&self, alias: &str) -> Option<String> {
        self.shared.engine().behind(alias)
    }

    /// How a collection was asked for.
    pub fn asked(&self, collection: &str) -> Option<CreateCollection> {
        self.shared.engine().asked(collection)
    }

    /// Points of a collection.
    pub fn points(&self, collection: &str) -> Option<usize> {
        self.shared.engine().points(collection)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a call in, or fails it as was asked for.
    async fn admit(&self, metadata: Option<&MetadataMap>) -> Result<(), Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.gone.load(Ordering::SeqCst) {
            return Err(Status::unavailable("gone"));
        }
        let delay = {
            let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
            let brought = metadata.map(|metadata| metadata.get("api-key").and_then(|key| key.to_str().ok()));
            if faults.key.is_some() && brought.is_some_and(|brought| faults.key.as_deref() != brought) {
                return Err(Status::unauthenticated("Invalid API key or JWT"));
            }
            if let Some((code, times)) = &mut faults.failing
                && *times > 0
            {
                *times -= 1;
                return Err(Status::new(*code, "asked to fail"));
            }
            faults.delay
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        Ok(())
    }

    fn version(&self) -> String {
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.version.clone().unwrap_or_else(|| "1.18.3".to_owned())
    }
}

type Reply<'f, T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send + 'f>>;

/// Methods of a service: each with what it takes and gives, and the engine's method that answers, where one does.
macro_rules! calls {
    ($($name:ident: $taken:ident => $given:ident $(by $method:ident)?;)*) => {
        $(calls!(@one $name, $taken, $given $(, $method)?);)*
    };
    (@one $name:ident, $taken:ident, $given:ident, $method:ident) => {
        fn $name<'s, 'f>(&'s self, request: Request<$taken>) -> Reply<'f, $given>
        where
            's: 'f,
            Self: 'f,
        {
            Box::pin(async move {
                self.admit(Some(request.metadata())).await?;
                let answer = self.engine().$method(request.into_inner());
                answer.map(Response::new)
            })
        }
    };
    (@one $name:ident, $taken:ident, $given:ident) => {
        fn $name<'s, 'f>(&'s self, _: Request<$taken>) -> Reply<'f, $given>
        where
            's: 'f,
            Self: 'f,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($name))) })
        }
    };
}

impl Qdrant for Shared {
    fn health_check<'s, 'f>(&'s self, _: Request<HealthCheckRequest>) -> Reply<'f, HealthCheckReply>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async {
            // As the real one: anybody may ask.
            self.admit(None).await?;
            let title = "qdrant - vector search engine".to_owned();
            Ok(Response::new(HealthCheckReply { title, version: self.version(), commit: None }))
        })
    }
}

impl Collections for Shared {
    calls! {
        get: GetCollectionInfoRequest => GetCollectionInfoResponse by info;
        list: ListCollectionsRequest => ListCollectionsResponse by list;
        create: CreateCollection => CollectionOperationResponse by create;
        update: UpdateCollection => CollectionOperationResponse;
        delete: DeleteCollection => CollectionOperationResponse by drop_collection;
        update_aliases: ChangeAliases => CollectionOperationResponse by change_aliases;
        list_collection_aliases: ListCollectionAliasesRequest => ListAliasesResponse;
        list_aliases: ListAliasesRequest => ListAliasesResponse by list_aliases;
        collection_cluster_info: CollectionClusterInfoRequest => CollectionClusterInfoResponse;
        collection_exists: CollectionExistsRequest => CollectionExistsResponse;
        update_collection_cluster_setup: UpdateCollectionClusterSetupRequest => UpdateCollectionClusterSetupResponse;
        create_shard_key: CreateShardKeyRequest => CreateShardKeyResponse;
        delete_shard_key: DeleteShardKeyRequest => DeleteShardKeyResponse;
        list_shard_keys: ListShardKeysRequest => ListShardKeysResponse;
    }
}

impl Points for Shared {
    calls! {
        upsert: UpsertPoints => PointsOperationResponse by upsert;
        delete: DeletePoints => PointsOperationResponse by delete;
        get: GetPoints => GetResponse;
        update_vectors: UpdatePointVectors => PointsOperationResponse;
        delete_vectors: DeletePointVectors => PointsOperationResponse;
        set_payload: SetPayloadPoints => PointsOperationResponse;
        overwrite_payload: SetPayloadPoints => PointsOperationResponse;
        delete_payload: DeletePayloadPoints => PointsOperationResponse;
        clear_payload: ClearPayloadPoints => PointsOperationResponse;
        create_field_index: CreateFieldIndexCollection => PointsOperationResponse by index_field;
        delete_field_index: DeleteFieldIndexCollection => PointsOperationResponse;
        create_vector_name: CreateVectorNameRequest => PointsOperationResponse;
        delete_vector_name: DeleteVectorNameRequest => PointsOperationResponse;
        search: SearchPoints => SearchResponse;
        search_batch: SearchBatchPoints => SearchBatchResponse;
        search_groups: SearchPointGroups => SearchGroupsResponse;
        scroll: ScrollPoints => ScrollResponse by scroll;
        recommend: RecommendPoints => RecommendResponse;
        recommend_batch: RecommendBatchPoints => RecommendBatchResponse;
        recommend_groups: RecommendPointGroups => RecommendGroupsResponse;
        discover: DiscoverPoints => DiscoverResponse;
        discover_batch: DiscoverBatchPoints => DiscoverBatchResponse;
        count: CountPoints => CountResponse by count;
        update_batch: UpdateBatchPoints => UpdateBatchResponse;
        query: QueryPoints => QueryResponse;
        query_batch: QueryBatchPoints => QueryBatchResponse by query_batch;
        query_groups: QueryPointGroups => QueryGroupsResponse;
        facet: FacetCounts => FacetResponse;
        search_matrix_pairs: SearchMatrixPoints => SearchMatrixPairsResponse;
        search_matrix_offsets: SearchMatrixPoints => SearchMatrixOffsetsResponse;
    }
}
