//! The embedded Qdrant engine as vector store: one folder, one process, no server.
//!
//! What is durable is the state at the last [`VectorStore::checkpoint`]: the engine does not replay its write-ahead log
//! at load. The index is a projection of the ticket store, so whatever is later is indexed again from there.
//!
//! Points are added to a part of the index that is scanned. Once it has `engine::GRAPH_FROM` points, a thread of low
//! priority builds search graphs of it; searches and updates go on meanwhile. What such a build reads must not be changed
//! under it, so the engine keeps changes of stored points in memory until it is done: where a process ends before that, the
//! index has to be rebuilt, and a file says so. New points are not concerned.

mod build;
mod engine;
mod known;
mod layout;
mod plan;
mod points;
mod search;
mod transfer;
mod words;

use std::collections::HashSet;
use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use qdrant_edge::{
    EdgeShard, OperationResult, PointId, PointInsertOperations, PointOperations, UpdateOperation, WithPayloadInterface,
};
use uuid::Uuid;

use super::bm25;
use super::transfer::StoredPoint;
use super::{Legs, MemoryPoint, RetrieveError, SearchQuery, VectorStore, check_vector};
use build::Build;
use known::{Known, Sample};
use layout::{Stamp, index_error, rebuild};

pub use search::Effort;

/// Version of the layout; raise it when an index of an older one cannot be read or is kept otherwise.
const FORMAT: u32 = 2;
/// Points in one operation: bounds the memory that the write-ahead log's record of it takes.
const BATCH: usize = 256;

/// The embedded engine in a folder of its own.
pub struct EdgeStore {
    inner: Arc<Inner>,
}

/// Shared with the thread that builds graphs.
struct Inner {
    folder: PathBuf,
    stamp: Stamp,
    /// Read by searches, updates and builds; written only while `clear` changes the shard. None after a failed `clear`.
    shard: RwLock<Option<EdgeShard>>,
    /// One writer at a time: the engine's flush panics when it races an update.
    writer: Mutex<Changes>,
    /// Replaced whole. As of the last checkpoint, so that a crash changes no ranking; only languages are added at once.
    known: RwLock<Arc<Known>>,
    build: Mutex<Build>,
    built: Condvar,
    /// Keeps other processes out; released by the operating system when we die.
    _lock: File,
}

/// What was changed since the last checkpoint.
#[derive(Default)]
struct Changes {
    lowest: Option<PointId>,
}

impl Changes {
    fn add(&mut self, ids: &[PointId]) {
        self.lowest = ids.iter().copied().chain(self.lowest).min();
    }
}

impl EdgeStore {
    /// Opens the index in `folder`, or makes an empty one. `model` is [`crate::embed::Embedder::name`].
    ///
    /// # Errors
    /// `Locked` when another process (or another store of this one) has it open, and `Rebuild` when it is damaged, half
    /// made, or made with another model: then [`EdgeStore::reset`] and index everything again.
    pub fn open(folder: &Path, model: &str, dimensions: usize) -> Result<Self, RetrieveError> {
        let lock = layout::lock(folder)?;
        let stamp = Stamp { format: FORMAT, analysis: bm25::ANALYSIS_VERSION, model: model.to_owned(), dimensions };
        layout::opening(folder)?;
        let opened = Self::load(folder, stamp, lock);
        layout::opened(folder)?;
        opened
    }

    fn load(folder: &Path, stamp: Stamp, lock: File) -> Result<Self, RetrieveError> {
        let shard = layout::open(folder, &stamp)?;
        let inner = Inner {
            folder: folder.to_owned(),
            stamp,
            shard: RwLock::new(Some(shard)),
            writer: Mutex::default(),
            known: RwLock::default(),
            build: Mutex::default(),
            built: Condvar::new(),
            _lock: lock,
        };
        let known = inner.with_shard(Known::read).map_err(|error| match error {
            // Reading needs no room on the disk, nor any permission that opening did not.
            RetrieveError::Index { reason, .. } => rebuild(folder, &reason),
            error => error,
        })?;
        *inner.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
        let store = Self { inner: Arc::new(inner) };
        // What an earlier process left unbuilt.
        store.inner.build_where_due(&store.inner.writer());
        Ok(store)
    }

    /// Moves what is in `folder` to `points.old` beside it (replacing an older one) and opens an empty index.
    ///
    /// # Errors
    /// As [`EdgeStore::open`].
    pub fn reset(folder: &Path, model: &str, dimensions: usize) -> Result<Self, RetrieveError> {
        let held = layout::lock(folder)?;
        layout::move_away(folder).map_err(|error| index_error(folder, error))?;
        drop(held);
        Self::open(folder, model, dimensions)
    }

    /// [`VectorStore::search`] with a choice of how thoroughly; the service's is [`Effort::Served`].
    ///
    /// # Errors
    /// `Dimensions` or `NotFinite` for such a vector, `Index` when the engine fails.
    pub fn search_with(&self, query: &SearchQuery, effort: Effort) -> Result<Legs, RetrieveError> {
        if query.limit == 0 {
            return Ok(Legs::default());
        }
        if !query.vector.is_empty() {
            check_vector(&query.vector, self.inner.stamp.dimensions)?;
        }
        let known = self.inner.known();
        let legs = self.inner.with_shard(|shard| search::legs(shard, &known, query, effort))?;
        let [problem, solution, lexical] = legs;
        let background = match query.vector.is_empty() {
            true => Vec::new(),
            false => known.sample.centroids.background(&query.vector),
        };
        Ok(Legs { problem, solution, lexical, background })
    }
}

impl VectorStore for EdgeStore {
    fn upsert(&self, points: &[MemoryPoint]) -> Result<(), RetrieveError> {
        for point in points {
            check_vector(&point.problem, self.inner.stamp.dimensions)?;
            check_vector(&point.solution, self.inner.stamp.dimensions)?;
        }
        for batch in points.chunks(BATCH) {
            layout::check_room(&self.inner.folder)?;
            self.inner.insert(&batch.iter().map(StoredPoint::from).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    fn prune(&self, memory_ids: &[String], kept: &[Uuid]) -> Result<(), RetrieveError> {
        let inner = &self.inner;
        let kept: HashSet<PointId> = kept.iter().copied().map(PointId::Uuid).collect();
        let mut changes = inner.writer();
        let mut ids = inner.with_shard(|shard| points::ids_of(shard, memory_ids))?;
        ids.retain(|id| !kept.contains(id));
        if ids.is_empty() {
            return Ok(());
        }
        inner.note_changed()?;
        changes.add(&ids);
        inner.update(PointOperations::DeletePoints { ids })
    }

    fn search(&self, query: &SearchQuery) -> Result<Legs, RetrieveError> {
        self.search_with(query, Effort::Served)
    }

    fn count(&self) -> Result<u64, RetrieveError> {
        let all = qdrant_edge::CountRequest { filter: None, exact: true };
        self.inner.with_shard(|shard| shard.count(all)).map(|count| count as u64)
    }

    fn checkpoint(&self) -> Result<(), RetrieveError> {
        let inner = &self.inner;
        let mut changes = inner.writer();
        inner.flush()?;
        inner.refresh_known(changes.lowest)?;
        changes.lowest = None;
        inner.build_where_due(&changes);
        Ok(())
    }

    fn compact(&self) -> Result<(), RetrieveError> {
        self.merge()
    }

    fn clear(&self) -> Result<(), RetrieveError> {
        let inner = &self.inner;
        let _changes = inner.writer_without_build();
        let mut shard = inner.shard.write().unwrap_or_else(PoisonError::into_inner);
        // A new shard, not a deletion of points: that also empties the write-ahead log.
        close(shard.take());
        layout::move_away(&inner.folder).map_err(|error| index_error(&inner.folder, error))?;
        let _ = fs::remove_dir_all(layout::old_path(&inner.folder));
        *shard = Some(layout::create(&inner.folder, &inner.stamp)?);
        *inner.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::default();
        Ok(())
    }
}

impl Inner {
    fn writer(&self) -> MutexGuard<'_, Changes> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `act` on the shard; a panic inside the engine (full disk, damaged file) becomes an error.
    fn with_shard<T>(&self, act: impl FnOnce(&EdgeShard) -> OperationResult<T>) -> Result<T, RetrieveError> {
        let shard = self.shard.read().unwrap_or_else(PoisonError::into_inner);
        let Some(shard) = shard.as_ref() else {
            return Err(rebuild(&self.folder, "clearing it failed"));
        };
        match catch_unwind(AssertUnwindSafe(|| act(shard))) {
            Ok(result) => result.map_err(|error| index_error(&self.folder, error)),
            Err(_) => Err(index_error(&self.folder, "the engine gave up; is the disk full?")),
        }
    }

    /// To be called by the writer.
    fn update(&self, operation: PointOperations) -> Result<(), RetrieveError> {
        self.with_shard(|shard| shard.update(UpdateOperation::PointOperation(operation)))
    }

    /// Adds or replaces a batch of points whose vectors were checked.
    fn insert(&self, batch: &[StoredPoint]) -> Result<(), RetrieveError> {
        let ids: Vec<PointId> = batch.iter().map(|point| PointId::Uuid(point.id)).collect();
        let insert = batch.iter().map(points::engine_point).collect::<OperationResult<Vec<_>>>();
        let insert = insert.map_err(|error| index_error(&self.folder, error))?;
        let insert = PointInsertOperations::PointsList(insert.into_iter().map(Into::into).collect());
        let mut changes = self.writer();
        self.note_replaced(&ids)?;
        self.update(PointOperations::UpsertPoints(insert))?;
        changes.add(&ids);
        self.note_added(batch);
        Ok(())
    }

    /// Languages are known as soon as they are there, since searches name them.
    fn note_added(&self, points: &[StoredPoint]) {
        let known = self.known();
        if points.iter().any(|point| !known.languages.contains_key(&point.language)) {
            let mut languages = known.languages.clone();
            for point in points {
                languages.entry(point.language.clone()).or_default();
            }
            let sample = Arc::clone(&known.sample);
            self.set_known(Known { points: known.points, languages, sample, ..Known::default() });
        }
    }

    /// Notes a change where any of these points is stored already.
    fn note_replaced(&self, ids: &[PointId]) -> Result<(), RetrieveError> {
        if self.is_building() {
            let no_payload = Some(WithPayloadInterface::Bool(false));
            let stored = self.with_shard(|shard| shard.retrieve(ids, no_payload, None))?;
            if !stored.is_empty() {
                self.note_changed()?;
            }
        }
        Ok(())
    }

    /// Leaves a note on disk that a build is under way whose end the index needs; see the module.
    fn note_changed(&self) -> Result<(), RetrieveError> {
        if self.is_building() {
            let noted = File::create(layout::changed_path(&self.folder)).and_then(|file| file.sync_all());
            noted.map_err(|error| index_error(&self.folder, error))?;
        }
        Ok(())
    }

    /// Brings what searches know up to date; `lowest` is the lowest id of the points that changed.
    fn refresh_known(&self, lowest: Option<PointId>) -> Result<(), RetrieveError> {
        let Some(lowest) = lowest else { return Ok(()) };
        let points = self.with_shard(|shard| Ok(shard.info().points_count))?;
        let known = self.known();
        let sample = match known.sample.holds(lowest) {
            true => Arc::new(self.with_shard(Sample::read)?),
            false => Arc::clone(&known.sample),
        };
        let languages = self.with_shard(Known::languages)?;
        self.set_known(Known { points, languages, sample, ..Known::default() });
        Ok(())
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// To be called by the writer.
    fn set_known(&self, known: Known) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
    }
}

impl Drop for EdgeStore {
    fn drop(&mut self) {
        let _changes = self.inner.writer();
        // A build that is under way ends with the process; the shard is closed when its thread lets go of it.
        if self.inner.is_building()
            && let Err(error) = self.inner.flush()
        {
            tracing::error!(%error, "vector index could not be written to disk; it will be caught up from the ticket store");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        close(self.shard.get_mut().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Dropping a shard flushes it, and panics where that fails; what is lost is indexed again at the next start.
fn close(shard: Option<EdgeShard>) {
    if catch_unwind(AssertUnwindSafe(|| drop(shard))).is_err() {
        tracing::error!("vector index could not be written to disk; it will be caught up from the ticket store");
    }
}
