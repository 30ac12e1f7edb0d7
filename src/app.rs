//! Builds the parts from the settings and wires them together.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::decide::relevance::RelevanceModel;
use crate::draft::Drafter;
use crate::draft::prompt::Prompts;
use crate::embed::{
    CachedEmbedder, CandleBertEmbedder, CandleBertOptions, DEFAULT_KEPT, E5Embedder, E5Options, Embedder,
    MaskedEmbedder, OpenAiEmbedder, OpenAiOptions, Prefixes, Reader, Tuning,
};
use crate::events::Events;
use crate::inference::generator::Generator;
use crate::inference::gguf::GgufGenerator;
use crate::inference::masked::MaskedGenerator;
use crate::inference::openai::{Endpoint, OpenAiGenerator};
use crate::inference::{CHAT_MODEL, Inference, Models};
use crate::learn::index::{self, Indexer, LearnError};
use crate::models::{Manifest, ModelStore, default_cache_dir, free_space};
use crate::pipeline::Pipeline;
use crate::retrieve::rerank::Reranker;
use crate::retrieve::retriever::Retriever;
use crate::retrieve::server::ServerStore;
use crate::retrieve::server::settings::IndexKind;
use crate::retrieve::{RetrieveError, VectorStore};
use crate::settings::{EmbeddingKind, Generation, GenerationFallback, GenerationKind, Settings};
use crate::store::{DATABASE_FILE, Store, StoreError, create_private_dir};
use crate::triage;

/// Name of the built-in embedding model in the manifest, and its files.
pub const EMBEDDING_MODEL: &str = "multilingual-e5-small";
pub const EMBEDDING_CONTAINER: &str = "e5-small-q4.bin";
pub const EMBEDDING_TOKENIZER: &str = "tokenizer.json";
/// Folder of the vector index inside the data folder.
pub const INDEX_FOLDER: &str = "index";
/// What a process with an index in its data folder claims of a database that others share, and how long it waits for one
/// that has just ended to be noticed.
const EMBEDDED_INDEX: &str = "embedded index";
const CLAIM_WAIT: Duration = Duration::from_secs(5);
/// Free disk space that a start demands: the index engine maps sparse files of about 235 MB.
const LEAST_FREE_BYTES: u64 = 260_000_000;

/// Most connections to a model server, each with a thread.
const MOST_CONNECTIONS: usize = 64;

/// What a command needs of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Embedding, index and store.
    Memory,
    /// Also the language model.
    Replies,
}

/// The program's parts, ready for use.
pub struct App {
    pub settings: Arc<Settings>,
    pub store: Store,
    pub inference: Inference,
    pub vectors: Arc<dyn VectorStore>,
    pub indexer: Indexer,
    pub pipeline: Pipeline,
    /// Parts that are missing, in words; the service runs without them as well as it can.
    pub degraded: Vec<String>,
}

impl App {
    /// Opens the data folder and loads the models.
    ///
    /// # Errors
    /// When the data folder is in use, unreadable or on a full disk, or the embedding model is missing. A missing language
    /// model is not an error: replies are then extractive, and [`App::degraded`] says so.
    pub async fn open(settings: Settings, need: Need) -> Result<Self> {
        let settings = Arc::new(settings);
        if settings.database.url.is_empty() {
            // Before the store: on a full disk SQLite fails with words that say nothing of it.
            check_space(&settings.data.folder)?;
            check_database(&settings.data.folder)?;
        }
        let store = open_store(&settings).await?;
        // The language model is read from the disk while the other core reads the embedding model and then the index.
        let loading = Arc::clone(&settings);
        let writing = tokio::task::spawn_blocking(move || wanted_generators(&loading, need));
        let loading = Arc::clone(&settings);
        let embedder =
            tokio::task::spawn_blocking(move || took("embedding model", || load_embedder(&loading))).await??;
        let mut degraded = Vec::new();
        let (name, dimensions) = (embedder.name().to_owned(), embedder.dimensions());
        let vectors = open_index(&settings, &name, dimensions, &store, &mut degraded).await?;
        let Generators { servers, local, problem } = writing.await?;
        degraded.extend(problem);
        let inference = Inference::start_all(Models { embedder, servers, local });
        let pipeline = pipeline(&settings, &store, &inference, &vectors).await?;
        let indexer = indexer(&pipeline, &vectors);
        Ok(Self { settings, store, inference, vectors, indexer, pipeline, degraded })
    }

    /// Opens what another team of this installation has of its own; the models are shared.
    ///
    /// # Errors
    /// As [`App::open`].
    pub async fn beside(&self, settings: Settings) -> Result<Self> {
        let (settings, inference) = (Arc::new(settings), self.inference.clone());
        let store = open_store(&settings).await?;
        let mut degraded = Vec::new();
        let (name, dimensions) = (inference.embedder_name().to_owned(), inference.dimensions());
        let vectors = open_index(&settings, &name, dimensions, &store, &mut degraded).await?;
        let pipeline = pipeline(&settings, &store, &inference, &vectors).await?;
        let indexer = indexer(&pipeline, &vectors);
        Ok(Self { settings, store, inference, vectors, indexer, pipeline, degraded })
    }

    /// Stops the models and closes the files.
    pub async fn close(self) {
        let inference = self.inference.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || inference.stop()).await {
            tracing::warn!(%error, "inference did not stop cleanly");
        }
        self.store.close().await;
    }
}

/// Opens the store that the settings name, for writing.
///
/// # Errors
/// When the data folder is in use, unreadable or on a full disk, or the database does not answer.
pub async fn open_store(settings: &Settings) -> Result<Store, StoreError> {
    let database = &settings.database;
    match database.url.is_empty() {
        true => Store::open(&settings.data.folder).await,
        false => Store::open_server(&database.url, &database.schema).await,
    }
}

/// Opens the store that the settings name for reading, beside whoever writes.
///
/// # Errors
/// [`StoreError::NotFound`] when there is none yet.
pub async fn open_store_shared(settings: &Settings) -> Result<Store, StoreError> {
    let database = &settings.database;
    match database.url.is_empty() {
        true => Store::open_shared(&settings.data.folder).await,
        false => Store::open_server_shared(&database.url, &database.schema).await,
    }
}

/// The stages over a store, its index and the models.
///
/// # Errors
/// When a prompt is malformed or the store fails.
pub async fn pipeline(
    settings: &Arc<Settings>,
    store: &Store,
    inference: &Inference,
    vectors: &Arc<dyn VectorStore>,
) -> Result<Pipeline> {
    let prompts = Prompts::load(settings.draft.prompts())?;
    let retriever = Retriever::with_fusion(Arc::clone(vectors), settings.retrieval.fusion());
    let triage = triage::own::model(&settings.data.folder).context("built-in triage model")?;
    // A part of the evaluation may want no model though one is here.
    let opinion = inference.opinion_name().filter(|_| settings.generation.wants_opinion());
    let triage = triage.for_models(inference.embedder_name(), inference.reader_name(), opinion);
    let relevance = match settings.draft.relevance() {
        Some(path) => RelevanceModel::load(path).context("draft.relevance")?,
        None => RelevanceModel::embedded().context("built-in weights of evidence relevance")?,
    };
    let reranker = match settings.draft.rerank() {
        Some(path) => Reranker::load(path).context("draft.rerank")?,
        None => Reranker::embedded().context("built-in weights of what serves a reply")?,
    };
    let sources = inference.sources_name().filter(|_| settings.generation.weighs_evidence());
    Ok(Pipeline {
        store: store.clone(),
        events: Events::new(store.clone()),
        inference: inference.clone(),
        retriever: Arc::new(retriever.with_citations(Arc::default())),
        triage: Arc::new(triage),
        relevance: relevance.for_embedder(inference.embedder_name()).map(Arc::new),
        reranker: reranker.for_states(sources).map(Arc::new),
        drafter: Arc::new(Drafter::new(prompts, inference.clone(), settings)),
        usual_time: store.memory_stats().await?.expected_time,
        settings: Arc::clone(settings),
    })
}

/// What keeps the index, and what the stages know of the memory's links, in step with the store.
fn indexer(pipeline: &Pipeline, vectors: &Arc<dyn VectorStore>) -> Indexer {
    let citations = Arc::clone(pipeline.retriever.citations());
    let (store, inference) = (pipeline.store.clone(), pipeline.inference.clone());
    Indexer::new(store, inference, Arc::clone(vectors), citations)
}

/// The language models that a start found.
#[derive(Default)]
struct Generators {
    /// Connections to the model server.
    servers: Vec<Box<dyn Generator>>,
    local: Option<Box<dyn Generator>>,
    /// What keeps a model from being there, in words.
    problem: Option<String>,
}

/// The language models, where they are wanted.
fn wanted_generators(settings: &Settings, need: Need) -> Generators {
    let chosen = &settings.generation;
    if need == Need::Memory || chosen.kind == GenerationKind::None {
        return Generators::default();
    }
    let mut found = Generators::default();
    if chosen.kind == GenerationKind::OpenAi {
        found.servers = model_servers(settings);
        if chosen.fallback == GenerationFallback::None {
            return found;
        }
    }
    match took("language model", || load_local_generator(settings)) {
        Ok(generator) => found.local = Some(generator),
        Err(error) => {
            let problem = match found.servers.is_empty() {
                true => format!("replies are extractive only: {error:#}"),
                false => format!("no local model stands behind the model server: {error:#}"),
            };
            tracing::warn!("{problem}");
            found.problem = Some(problem);
        }
    }
    found
}

/// A connection to the model server for each reply that is drafted at the same time.
fn model_servers(settings: &Settings) -> Vec<Box<dyn Generator>> {
    let Generation { url, model, api_key, silence_seconds, timeout_seconds, mask, .. } = &settings.generation;
    // The local model, or the extractive reply, still needs its time when the server has said nothing.
    let silence = Duration::from_secs_f32(*silence_seconds).min(settings.draft.deadline() / 2);
    let server = OpenAiGenerator::new(Endpoint {
        url: url.clone(),
        model: model.clone(),
        api_key: Some(api_key.clone()).filter(|key| !key.is_empty()),
        timeout: Duration::from_secs_f32(*timeout_seconds),
        silence,
    });
    let connection = || -> Box<dyn Generator> {
        match mask.applies(url) {
            true => Box::new(MaskedGenerator::new(Box::new(server.clone()))),
            false => Box::new(server.clone()),
        }
    };
    (0..settings.server.concurrency.clamp(1, MOST_CONNECTIONS)).map(|_| connection()).collect()
}

/// Does a part of the start and logs what it took.
fn took<T>(part: &'static str, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let done = work();
    tracing::info!(part, seconds = started.elapsed().as_secs_f32(), "opened");
    done
}

/// Folder for what can be fetched or made again, as the settings say.
pub fn model_cache(settings: &Settings) -> PathBuf {
    match settings.models.cache.as_os_str().is_empty() {
        true => default_cache_dir(),
        false => settings.models.cache.clone(),
    }
}

/// Manifest and folder of the models, as the settings say.
///
/// # Errors
/// When the user's manifest cannot be read.
pub fn model_store(settings: &Settings) -> Result<(Manifest, ModelStore)> {
    let own = Some(settings.models.manifest.as_path()).filter(|path| !path.as_os_str().is_empty());
    let manifest = Manifest::load(own)?;
    let store = ModelStore::new(model_cache(settings));
    Ok(match settings.models.source.as_os_str().is_empty() {
        true => (manifest, store),
        false => (manifest, store.with_local_folder(settings.models.source.clone())),
    })
}

/// Loads the embedding model that the settings name.
///
/// # Errors
/// When a file is missing or damaged, or the endpoint does not answer.
pub fn load_embedder(settings: &Settings) -> Result<Box<dyn Embedder>> {
    let chosen = &settings.embedding;
    let prefixes = Prefixes { query: chosen.query_prefix.clone(), passage: chosen.passage_prefix.clone() };
    let embedder: Box<dyn Embedder> = match chosen.kind {
        EmbeddingKind::E5 => {
            let (manifest, store) = model_store(settings)?;
            let model = manifest.get(EMBEDDING_MODEL)?;
            let file = |name: &str| existing(store.path(model, name));
            let (container, tokenizer) = (file(EMBEDDING_CONTAINER)?, file(EMBEDDING_TOKENIZER)?);
            let tuning = Tuning::named(&chosen.tuning).context("embedding.tuning")?;
            let reader = Some(Reader::built_in()?);
            Box::new(E5Embedder::load(
                &container,
                &tokenizer,
                E5Options { max_tokens: chosen.max_tokens, tuning, reader },
            )?)
        }
        EmbeddingKind::Bert => {
            let options = CandleBertOptions { prefixes, max_tokens: chosen.max_tokens };
            Box::new(CandleBertEmbedder::load(&chosen.folder, options)?)
        }
        EmbeddingKind::OpenAi => {
            let server = OpenAiEmbedder::new(OpenAiOptions {
                base_url: chosen.url.clone(),
                model: chosen.model.clone(),
                api_key: Some(chosen.api_key.clone()).filter(|key| !key.is_empty()),
                dimensions: Some(chosen.dimensions).filter(|dimensions| *dimensions > 0),
                prefixes,
                timeout: Duration::from_secs_f32(chosen.timeout_seconds),
                batch: 32,
                // About four bytes a token.
                max_text_bytes: chosen.max_tokens * 4,
                ..OpenAiOptions::default()
            });
            let server = server.context("with embedding.dimensions set, a start does not need the server")?;
            match chosen.mask.applies(&chosen.url) {
                true => Box::new(MaskedEmbedder::new(Box::new(server))),
                false => Box::new(server),
            }
        }
    };
    Ok(Box::new(CachedEmbedder::new(embedder, DEFAULT_KEPT)))
}

/// The chat model that the settings name: one connection to the model server, or the local model.
///
/// # Errors
/// As [`load_local_generator`].
pub fn load_generator(settings: &Settings) -> Result<Box<dyn Generator>> {
    match settings.generation.kind {
        GenerationKind::OpenAi => model_servers(settings).pop().context("no connection to the model server"),
        GenerationKind::Gguf | GenerationKind::None => load_local_generator(settings),
    }
}

/// Loads the chat model that runs in process.
///
/// # Errors
/// When its file is missing or damaged, or of a family that does not run in process.
pub fn load_local_generator(settings: &Settings) -> Result<Box<dyn Generator>> {
    let chosen = &settings.generation;
    let file = match chosen.file.as_os_str().is_empty() {
        false => chosen.file.clone(),
        true => {
            let (manifest, store) = model_store(settings)?;
            let model = manifest.get(CHAT_MODEL)?;
            let name = model.files.first().map(|file| file.name.clone()).unwrap_or_default();
            store.path(model, &name)
        }
    };
    let file = existing(file)?;
    let loaded = GgufGenerator::load(&file, chosen.context);
    Ok(Box::new(loaded.with_context(|| format!("cannot load {}; `respondo models verify` checks it", file.display()))?))
}

pub(crate) fn existing(path: PathBuf) -> Result<PathBuf> {
    anyhow::ensure!(path.is_file(), "model file {} is missing; run `respondo models pull`", path.display());
    Ok(path)
}

/// Opens the vector index; one that is damaged or was made by another model is started anew and filled from the store. A
/// server that cannot be used now may be back later: until then searches fail, and [`App::degraded`] says why.
async fn open_index(
    settings: &Settings,
    model: &str,
    dimensions: usize,
    store: &Store,
    degraded: &mut Vec<String>,
) -> Result<Arc<dyn VectorStore>> {
    let data = &settings.data.folder;
    let name = model.to_owned();
    let on_server = settings.index.kind == IndexKind::Server;
    let (vectors, emptied): (Arc<dyn VectorStore>, bool) = if on_server {
        (Arc::new(ServerStore::new(&settings.index, &name, dimensions)?), false)
    } else {
        check_alone(store).await?;
        create_private_dir(data)?;
        check_space(data)?;
        let folder = data.join(INDEX_FOLDER);
        let opening = move || took("search index", || open_or_reset(&folder, &name, dimensions));
        tokio::task::spawn_blocking(opening).await??
    };
    match index::compare(&vectors, store, model, emptied).await {
        Ok(true) => degraded.push("the search index is rebuilt from the store".to_owned()),
        Ok(false) => {}
        Err(LearnError::Index(error)) if on_server => {
            tracing::warn!(%error, "nothing can be searched until the vector server is there");
            degraded.push(format!("nothing can be searched for now: {error}"));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(vectors)
}

/// What the index holds is marked in the store. Two indexes beside one store would each miss what the other was given.
async fn check_alone(store: &Store) -> Result<()> {
    let until = Instant::now() + CLAIM_WAIT;
    let mut claimed = store.claim(EMBEDDED_INDEX).await?;
    while !claimed && Instant::now() < until {
        tokio::time::sleep(CLAIM_WAIT / 20).await;
        claimed = store.claim(EMBEDDED_INDEX).await?;
    }
    anyhow::ensure!(
        claimed,
        "another process that shares this database has an index in its data folder; set index.kind = \"server\" for all of \
         them, or run one only"
    );
    Ok(())
}

/// The engine maps files that grow into the free space; where there is none left, the system ends the process without a
/// word. So we say it first.
fn check_space(data: &Path) -> Result<()> {
    // The folder may be new; its disk is there.
    let absolute = std::path::absolute(data).with_context(|| format!("cannot find {}", data.display()))?;
    let there = absolute.ancestors().find(|folder| folder.exists()).unwrap_or(&absolute);
    let free = free_space(there).with_context(|| format!("cannot ask for the free space of {}", data.display()))?;
    anyhow::ensure!(
        free >= LEAST_FREE_BYTES,
        "the disk of {} has {} MB left and the search index needs {} MB; free some space or choose another folder with --data",
        data.display(),
        free / 1_000_000,
        LEAST_FREE_BYTES / 1_000_000
    );
    Ok(())
}

/// An empty file is a new database to SQLite. Beside an index of a memory, it is one whose content was lost, and the desk
/// must not begin anew as if nothing had been.
fn check_database(data: &Path) -> Result<()> {
    let (database, log) = (data.join(DATABASE_FILE), data.join(format!("{DATABASE_FILE}-wal")));
    let is_empty = |file: &Path| std::fs::metadata(file).is_ok_and(|file| file.len() == 0);
    let lost = is_empty(&database) && (is_empty(&log) || !log.exists()) && data.join(INDEX_FOLDER).exists();
    anyhow::ensure!(
        !lost,
        "the database {} is empty, though it had content; put a backup in its place with `respondo restore FILE`, or \
         remove it to begin anew",
        database.display()
    );
    Ok(())
}

/// The index, and whether it had to be started anew.
#[cfg(feature = "edge")]
fn open_or_reset(folder: &Path, model: &str, dimensions: usize) -> Result<(Arc<dyn VectorStore>, bool), RetrieveError> {
    use crate::retrieve::edge::EdgeStore;
    match EdgeStore::open(folder, model, dimensions) {
        Ok(store) => Ok((Arc::new(store), false)),
        // Only what the engine calls beyond repair; a full disk or a missing permission is not mended by starting anew.
        Err(error @ RetrieveError::Rebuild { .. }) => {
            tracing::warn!(%error, "search index is started anew");
            Ok((Arc::new(EdgeStore::reset(folder, model, dimensions)?), true))
        }
        Err(error) => Err(error),
    }
}

/// Without the embedded engine the index lives in memory and is filled at every start.
#[cfg(not(feature = "edge"))]
fn open_or_reset(
    _folder: &Path,
    _model: &str,
    dimensions: usize,
) -> Result<(Arc<dyn VectorStore>, bool), RetrieveError> {
    Ok((Arc::new(crate::retrieve::memory::MemoryStore::new(dimensions)), true))
}
