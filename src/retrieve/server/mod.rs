//! A Qdrant server or cluster as vector store, over gRPC.
//!
//! What is found and how it is scored is the same as with the embedded engine (`retrieve/contract.rs` runs over both), with
//! one difference: in a collection of several shards each shard counts for itself how rare a word is.
//!
//! Writes are acknowledged when they are applied and in the server's log (`wait`), on as many replicas as
//! `index.write_consistency` says; so a checkpoint has nothing left to wait for. What a search has to know besides, the mean
//! vectors, is read again after changes.
//!
//! A server that cannot be reached, is too old or has lost the collection makes every call an error within the deadline,
//! or at once where the breaker is open (`link.rs`). [`VectorStore::prepare`], called every few seconds, mends what can be
//! mended: it checks the version, and makes the collection where there is none.

mod breaker;
mod collections;
mod link;
mod points;
mod sample;
mod schema;
mod search;
pub mod settings;

// The tests of the whole program use what is left over here.
#[cfg(test)]
#[allow(dead_code)]
mod fake;
#[cfg(test)]
pub(super) mod tests;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use qdrant_client::qdrant::points_selector::PointsSelectorOneOf;
use qdrant_client::qdrant::{
    CollectionInfo, Condition, CountPoints, DeletePoints, Filter as ServerFilter, PointStruct, PointsSelector,
    ScrollPoints, UpsertPoints,
};
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::bm25;
use super::transfer::{StoredPoint, Transfer};
use super::{Legs, MemoryPoint, Prepared, RetrieveError, SearchQuery, VectorStore, check_vector};
use collections::Collections;
use link::{Failure, Link};
use sample::Sample;
use schema::Stamp;
use settings::IndexSettings;

pub use breaker::BreakerState;

/// Points in one write: about a megabyte.
const BATCH: usize = 256;
/// Longest wait for the server's search graphs after a bulk load, and how often to ask.
const SETTLE: Duration = Duration::from_secs(1_200);
const SETTLE_PAUSE: Duration = Duration::from_millis(500);

/// How things stand between us and the server.
#[derive(Clone, Debug)]
pub struct LinkState {
    pub url: String,
    pub breaker: BreakerState,
    /// The server's version, or what is wrong.
    pub server: String,
}

/// A collection on a Qdrant server; see the module.
pub struct ServerStore {
    inner: Arc<Inner>,
    /// None only while it is dropped.
    runtime: Option<Runtime>,
}

struct Inner {
    link: Link,
    settings: IndexSettings,
    stamp: Stamp,
    state: Mutex<State>,
}

struct State {
    /// What the server was found to be, or why it is not ready.
    ready: Result<Ready, String>,
    /// The collection that a rebuild of this process fills.
    building: Option<String>,
    sample: Option<Arc<Sample>>,
    /// Something was written since the sample was read.
    changed: bool,
}

#[derive(Clone, Debug)]
struct Ready {
    version: String,
    shards: u32,
}

impl ServerStore {
    /// Nothing is sent yet: [`VectorStore::prepare`] looks for the server. `model` is [`crate::embed::Embedder::name`].
    ///
    /// # Errors
    /// When the address is malformed, or the system has no thread left.
    pub fn new(settings: &IndexSettings, model: &str, dimensions: usize) -> Result<Self, RetrieveError> {
        let failed =
            |error: std::io::Error| RetrieveError::Server { url: settings.url.clone(), reason: error.to_string() };
        // Of its own, so that it can be called from any thread that may block.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("vector-server")
            .enable_all()
            .build()
            .map_err(failed)?;
        let state = State { ready: Err("not asked yet".to_owned()), building: None, sample: None, changed: false };
        let inner = Inner {
            link: Link::new(settings)?,
            settings: settings.clone(),
            stamp: Stamp { model: model.to_owned(), dimensions },
            state: Mutex::new(state),
        };
        Ok(Self { inner: Arc::new(inner), runtime: Some(runtime) })
    }

    /// The server's version, whatever it holds.
    ///
    /// # Errors
    /// When it does not answer, is of a version that we do not speak to, or refuses the key.
    pub fn version(&self) -> Result<String, RetrieveError> {
        self.wait(|inner| async move {
            let version = inner.link.version(inner.settings.search_deadline()).await?;
            // Anybody may ask for the version.
            inner.collections().find().await?;
            Ok(version)
        })
    }

    /// Does the work on the store's own threads and waits for it.
    fn wait<T, F>(&self, work: impl FnOnce(Arc<Inner>) -> F) -> Result<T, RetrieveError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, RetrieveError>> + Send + 'static,
    {
        let ended = || RetrieveError::Server {
            url: self.inner.settings.url.clone(),
            reason: "the call was broken off".to_owned(),
        };
        let Some(runtime) = &self.runtime else { return Err(ended()) };
        let (done, result) = std::sync::mpsc::sync_channel(1);
        let work = work(Arc::clone(&self.inner));
        runtime.spawn(async move {
            // Whoever asked waits below.
            drop(done.send(work.await));
        });
        result.recv().unwrap_or_else(|_| Err(ended()))
    }

    fn check(&self, points: &[StoredPoint]) -> Result<(), RetrieveError> {
        for point in points {
            check_vector(&point.problem, self.inner.stamp.dimensions)?;
            check_vector(&point.solution, self.inner.stamp.dimensions)?;
        }
        Ok(())
    }
}

impl Drop for ServerStore {
    fn drop(&mut self) {
        // Does not wait, so that it may be dropped anywhere.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl VectorStore for ServerStore {
    fn upsert(&self, points: &[MemoryPoint]) -> Result<(), RetrieveError> {
        self.put(&points.iter().map(StoredPoint::from).collect::<Vec<_>>())
    }

    fn prune(&self, memory_ids: &[String], kept: &[Uuid]) -> Result<(), RetrieveError> {
        if memory_ids.is_empty() {
            return Ok(());
        }
        let mut filter = ServerFilter::must([points::any_of(schema::MEMORY_ID, memory_ids.iter().cloned())]);
        if !kept.is_empty() {
            filter.must_not.push(Condition::has_id(kept.iter().copied().map(points::server_id)));
        }
        self.wait(|inner| async move { inner.delete(filter).await })
    }

    fn search(&self, query: &SearchQuery) -> Result<Legs, RetrieveError> {
        if query.limit == 0 {
            return Ok(Legs::default());
        }
        if !query.vector.is_empty() {
            check_vector(&query.vector, self.inner.stamp.dimensions)?;
        }
        let query = query.clone();
        self.wait(|inner| async move { inner.search(&query).await })
    }

    fn count(&self) -> Result<u64, RetrieveError> {
        self.wait(|inner| async move {
            inner.ready()?;
            Ok(inner.count().await?)
        })
    }

    fn checkpoint(&self) -> Result<(), RetrieveError> {
        self.wait(|inner| async move { inner.refresh_sample().await })
    }

    fn compact(&self) -> Result<(), RetrieveError> {
        self.wait(|inner| async move { inner.settle().await })
    }

    fn clear(&self) -> Result<(), RetrieveError> {
        self.begin_rebuild()?;
        self.finish_rebuild()
    }

    fn begin_rebuild(&self) -> Result<(), RetrieveError> {
        self.wait(|inner| async move { inner.begin_rebuild().await })
    }

    fn finish_rebuild(&self) -> Result<(), RetrieveError> {
        self.wait(|inner| async move { inner.finish_rebuild().await })
    }

    fn prepare(&self) -> Result<Prepared, RetrieveError> {
        self.wait(|inner| async move {
            let prepared = inner.prepare().await;
            if let Err(error) = &prepared
                && inner.ready().is_err()
            {
                let reason = match error {
                    RetrieveError::Server { reason, .. } => reason.clone(),
                    other => other.to_string(),
                };
                inner.lock().ready = Err(reason);
            }
            prepared
        })
    }

    fn link(&self) -> Option<LinkState> {
        let server = match &self.inner.lock().ready {
            Ok(ready) => format!("Qdrant {}", ready.version),
            Err(reason) => reason.clone(),
        };
        Some(LinkState { url: self.inner.settings.url.clone(), breaker: self.inner.link.breaker(), server })
    }
}

impl Transfer for ServerStore {
    fn page(&self, from: Option<Uuid>, limit: usize) -> Result<(Vec<StoredPoint>, Option<Uuid>), RetrieveError> {
        self.wait(move |inner| async move {
            inner.ready()?;
            Ok(inner.page(from, limit, inner.settings.write_deadline()).await?)
        })
    }

    fn put(&self, points: &[StoredPoint]) -> Result<(), RetrieveError> {
        self.check(points)?;
        if points.is_empty() {
            return Ok(());
        }
        let points: Vec<PointStruct> = points.iter().map(points::server_point).collect();
        self.wait(|inner| async move { inner.put(points).await })
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collections(&self) -> Collections<'_> {
        Collections { link: &self.link, settings: &self.settings, stamp: &self.stamp }
    }

    fn ready(&self) -> Result<Ready, Failure> {
        self.lock().ready.clone().map_err(|reason| self.link.failure(reason))
    }

    /// Notes that the collection is gone, so that it is made again.
    fn note<T>(&self, result: Result<T, Failure>) -> Result<T, Failure> {
        if let Err(failure) = &result
            && failure.missing
        {
            self.lock().ready = Err(failure.reason.clone());
        }
        result
    }

    async fn prepare(&self) -> Result<Prepared, RetrieveError> {
        if self.ready().is_ok() {
            match self.count().await {
                Ok(_) => {}
                Err(failure) if failure.missing => {}
                Err(failure) => return Err(failure.into()),
            }
        }
        if self.ready().is_ok() {
            self.refresh_sample().await?;
            return Ok(Prepared::Before);
        }
        let version = self.link.version(self.settings.search_deadline()).await?;
        let collections = self.collections();
        let found = collections.find().await?;
        if found.taken {
            let name = &self.settings.collection;
            let reason =
                format!("it has a collection {name} that is no alias of ours; choose another index.collection");
            return Err(self.link.failure(reason).into());
        }
        let live = match found.live {
            Some(live) => live,
            None => {
                let created = collections.create().await?;
                collections.switch(&created).await?;
                created
            }
        };
        let info = collections.info(&live).await?;
        if let Some(difference) = collections.difference(&info) {
            let path = format!("{} (collection {live})", self.link.url);
            return Err(RetrieveError::Rebuild { path, reason: difference });
        }
        self.set_ready(version, &info);
        Ok(Prepared::Now)
    }

    fn set_ready(&self, version: String, info: &CollectionInfo) {
        let params = info.config.as_ref().and_then(|config| config.params.as_ref());
        let shards = params.map_or(1, |params| params.shard_number);
        tracing::info!(version, shards, url = self.link.url, "vector server is ready");
        let mut state = self.lock();
        state.ready = Ok(Ready { version, shards });
        state.sample = None;
    }

    async fn search(&self, query: &SearchQuery) -> Result<Legs, RetrieveError> {
        let ready = self.ready()?;
        let until = Instant::now() + self.settings.search_deadline();
        let terms = bm25::query_terms(&query.text, &query.language);
        let background = match query.vector.is_empty() {
            true => Vec::new(),
            false => self.sample(until).await?.centroids.background(&query.vector),
        };
        let deadline = until.saturating_duration_since(Instant::now());
        let batch = search::batch(&self.settings.collection, query, &terms, ready.shards, deadline);
        let Some(batch) = batch else { return Ok(Legs { background, ..Legs::default() }) };
        let ask = || {
            self.link.call(deadline, |client| {
                let batch = batch.clone();
                async move { client.query_batch(batch).await }
            })
        };
        let found = match ask().await {
            // Another process may just have put a new collection in the place of the old one.
            Err(failure) if failure.missing => ask().await,
            found => found,
        };
        let found = self.note(found)?;
        let [problem, solution, lexical] = search::ranked(query, found.result);
        Ok(Legs { problem, solution, lexical, background })
    }

    async fn count(&self) -> Result<u64, Failure> {
        let request = CountPoints {
            collection_name: self.settings.collection.clone(),
            exact: Some(true),
            ..CountPoints::default()
        };
        let counted = self.link.call(self.settings.search_deadline(), |client| {
            let request = request.clone();
            async move { client.count(request).await }
        });
        Ok(self.note(counted.await)?.result.map_or(0, |result| result.count))
    }

    async fn put(&self, points: Vec<PointStruct>) -> Result<(), RetrieveError> {
        self.ready()?;
        self.lock().changed = true;
        let written = self.collections().written().await?;
        for batch in points.chunks(BATCH) {
            for collection in &written {
                let upserted = self.link.call(self.settings.write_deadline(), |client| {
                    let request = UpsertPoints {
                        collection_name: collection.clone(),
                        wait: Some(true),
                        points: batch.to_vec(),
                        ..UpsertPoints::default()
                    };
                    async move { client.upsert_points(request).await }
                });
                upserted.await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, filter: ServerFilter) -> Result<(), RetrieveError> {
        self.ready()?;
        self.lock().changed = true;
        for collection in self.collections().written().await? {
            let deleted = self.link.call(self.settings.write_deadline(), |client| {
                let selected = PointsSelectorOneOf::Filter(filter.clone());
                let request = DeletePoints {
                    collection_name: collection.clone(),
                    wait: Some(true),
                    points: Some(PointsSelector { points_selector_one_of: Some(selected) }),
                    ..DeletePoints::default()
                };
                async move { client.delete_points(request).await }
            });
            deleted.await?;
        }
        Ok(())
    }

    async fn page(
        &self,
        from: Option<Uuid>,
        limit: usize,
        deadline: Duration,
    ) -> Result<(Vec<StoredPoint>, Option<Uuid>), Failure> {
        let request = ScrollPoints {
            collection_name: self.settings.collection.clone(),
            offset: from.map(points::server_id),
            limit: Some(u32::try_from(limit).unwrap_or(u32::MAX)),
            with_payload: Some(true.into()),
            with_vectors: Some(true.into()),
            ..ScrollPoints::default()
        };
        let page = self.link.call(deadline, |client| {
            let request = request.clone();
            async move { client.scroll(request).await }
        });
        let page = self.note(page.await)?;
        let next = page.next_page_offset.as_ref().and_then(points::uuid);
        Ok((page.result.into_iter().filter_map(points::stored_point).collect(), next))
    }

    /// Waits until the server has built its search graphs.
    async fn settle(&self) -> Result<(), RetrieveError> {
        self.ready()?;
        let started = Instant::now();
        for collection in self.collections().written().await? {
            while !self.collections().is_settled(&collection).await? {
                if started.elapsed() > SETTLE {
                    tracing::warn!(collection, "the server is still building search graphs; searches work meanwhile");
                    return Ok(());
                }
                tokio::time::sleep(SETTLE_PAUSE).await;
            }
        }
        Ok(())
    }

    async fn begin_rebuild(&self) -> Result<(), RetrieveError> {
        self.link.version(self.settings.search_deadline()).await?;
        let collections = self.collections();
        // What an earlier rebuild left half built.
        for left in collections.find().await?.beside {
            collections.drop_collection(&left).await?;
        }
        let building = collections.create().await?;
        self.lock().building = Some(building);
        Ok(())
    }

    async fn finish_rebuild(&self) -> Result<(), RetrieveError> {
        let Some(building) = self.lock().building.take() else { return Ok(()) };
        let version = self.link.version(self.settings.search_deadline()).await?;
        let collections = self.collections();
        let live = collections.find().await?.live;
        collections.switch(&building).await?;
        if let Some(old) = live
            && let Err(failure) = collections.drop_collection(&old).await
        {
            tracing::warn!(reason = failure.reason, old, "the old collection stays until the next rebuild");
        }
        self.set_ready(version, &collections.info(&building).await?);
        Ok(())
    }
}
