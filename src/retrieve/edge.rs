//! The embedded Qdrant engine as vector store: one folder, one process, no server.
//!
//! ```text
//! folder/lock         held (flock) as long as the store is open
//! folder/stamp.json   what the index was made with; written last, so a folder without it is half made
//! folder/points/      the engine's shard
//! ```
//! What is durable is the state at the last [`VectorStore::checkpoint`]: the engine does not replay its write-ahead log
//! at load. The index is a projection of the ticket store, so whatever is later is indexed again from there.

use std::fs::{self, File, TryLockError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use qdrant_edge::external::serde_json::{Value, json};
use qdrant_edge::{
    Condition, CountRequest, CreateIndex, Distance, EdgeConfig, EdgeOptimizersConfig, EdgeShard,
    EdgeSparseVectorParams, EdgeVectorParams, FieldCondition, FieldIndexOperations, Filter as EngineFilter, JsonPath,
    Match, Modifier, NamedQuery, NamedVectors, OperationResult, PayloadFieldSchema, PayloadSchemaType, PointId,
    PointInsertOperations, PointOperations, PointStruct, QueryEnum, ScoredPoint, SearchRequest, SparseVector,
    UpdateOperation, Vector, VectorInternal, Vectors, WithPayloadInterface,
};
use serde::{Deserialize, Serialize};

use super::bm25::{self, SparseTerms};
use super::{Filter, Hit, Legs, MemoryPoint, RetrieveError, SearchQuery, VectorStore, check_vector};
use crate::ticket::MemoryKind;

const PROBLEM: &str = "problem";
const SOLUTION: &str = "solution";
const BM25: &str = "bm25";
const MEMORY_ID: &str = "memory_id";
const KIND: &str = "kind";
const PRODUCT: &str = "product";
const LANGUAGE: &str = "language";
const PASSAGE: &str = "passage";
/// Version of the layout above; raise it when points of an older one cannot be read.
const FORMAT: u32 = 1;
/// Points in one operation: bounds the memory that the write-ahead log's record of it takes.
const BATCH: usize = 256;
/// Below about 80,000 vectors of 384 an exact scan takes less than the graph costs to build; in kilobytes.
const GRAPH_FROM_KB: usize = 120_000;

/// What an index was made with. Another model's vectors or another analysis of words cannot be compared with ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Stamp {
    format: u32,
    analysis: u32,
    model: String,
    dimensions: usize,
}

/// The embedded engine in a folder of its own.
pub struct EdgeStore {
    folder: PathBuf,
    stamp: Stamp,
    /// Read by searches and updates; written only while `clear` changes the shard. None after a failed `clear`.
    shard: RwLock<Option<EdgeShard>>,
    /// One writer at a time: the engine's flush panics when it races an update.
    writer: Mutex<()>,
    /// Keeps other processes out; released by the operating system when we die.
    _lock: File,
}

impl EdgeStore {
    /// Opens the index in `folder`, or makes an empty one. `model` is [`crate::embed::Embedder::name`].
    ///
    /// Fails with `Locked` when another process (or another store of this one) has it open, and with `Rebuild` when it
    /// is damaged, half made, or made with another model: then [`EdgeStore::reset`] and index everything again.
    pub fn open(folder: &Path, model: &str, dimensions: usize) -> Result<Self, RetrieveError> {
        let lock = lock(folder)?;
        let stamp = Stamp { format: FORMAT, analysis: bm25::ANALYSIS_VERSION, model: model.to_owned(), dimensions };
        let shard = match (read_stamp(folder)?, points_path(folder).exists()) {
            (None, false) => create(folder, &stamp)?,
            (None, true) => return Err(rebuild(folder, "it was left half made")),
            (Some(_), false) => return Err(rebuild(folder, "its points are gone")),
            (Some(found), true) if found != stamp => {
                let reason = format!(
                    "it was made with {} ({} dimensions, format {}.{}), wanted is {model} ({dimensions} dimensions, \
                     format {FORMAT}.{})",
                    found.model, found.dimensions, found.format, found.analysis, stamp.analysis
                );
                return Err(rebuild(folder, &reason));
            }
            (Some(_), true) => load(folder, dimensions)?,
        };
        Ok(Self {
            folder: folder.to_owned(),
            stamp,
            shard: RwLock::new(Some(shard)),
            writer: Mutex::new(()),
            _lock: lock,
        })
    }

    /// Moves what is in `folder` to `points.old` beside it (replacing an older one) and opens an empty index.
    pub fn reset(folder: &Path, model: &str, dimensions: usize) -> Result<Self, RetrieveError> {
        let held = lock(folder)?;
        move_away(folder).map_err(|error| index_error(folder, error))?;
        drop(held);
        Self::open(folder, model, dimensions)
    }

    /// Compacts after a bulk load or many deletions, and builds a search graph once the index is large. Blocks updates
    /// for seconds to minutes, not searches.
    pub fn optimize(&self) -> Result<(), RetrieveError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.with_shard(|shard| shard.optimize().map(|_| ()))
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

    fn update(&self, operations: Vec<UpdateOperation>) -> Result<(), RetrieveError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.with_shard(|shard| operations.into_iter().try_for_each(|operation| shard.update(operation)))
    }
}

impl VectorStore for EdgeStore {
    fn upsert(&self, points: &[MemoryPoint]) -> Result<(), RetrieveError> {
        for point in points {
            check_vector(&point.problem, self.stamp.dimensions)?;
            check_vector(&point.solution, self.stamp.dimensions)?;
        }
        for batch in points.chunks(BATCH) {
            let batch = batch.iter().map(engine_point).collect::<OperationResult<Vec<_>>>();
            let batch = batch.map_err(|error| index_error(&self.folder, error))?;
            let insert = PointInsertOperations::PointsList(batch.into_iter().map(Into::into).collect());
            self.update(vec![UpdateOperation::PointOperation(PointOperations::UpsertPoints(insert))])?;
        }
        Ok(())
    }

    fn delete(&self, memory_ids: &[String]) -> Result<(), RetrieveError> {
        if memory_ids.is_empty() {
            return Ok(());
        }
        let theirs = EngineFilter::new_must(any_of(MEMORY_ID, memory_ids.to_vec()));
        self.update(vec![UpdateOperation::PointOperation(PointOperations::DeletePointsByFilter(theirs))])
    }

    fn search(&self, query: &SearchQuery) -> Result<Legs, RetrieveError> {
        if query.limit == 0 {
            return Ok(Legs::default());
        }
        let terms = bm25::query_terms(&query.text, &query.language);
        let mut legs = Legs::default();
        if !terms.is_empty() {
            legs.lexical = self.leg(BM25, VectorInternal::Sparse(sparse(terms)), query)?;
        }
        if query.vector.is_empty() {
            return Ok(legs);
        }
        check_vector(&query.vector, self.stamp.dimensions)?;
        legs.problem = self.leg(PROBLEM, VectorInternal::Dense(query.vector.clone()), query)?;
        legs.solution = self.leg(SOLUTION, VectorInternal::Dense(query.vector.clone()), query)?;
        Ok(legs)
    }

    fn count(&self) -> Result<u64, RetrieveError> {
        let all = CountRequest { filter: None, exact: true };
        self.with_shard(|shard| shard.count(all)).map(|count| count as u64)
    }

    fn checkpoint(&self) -> Result<(), RetrieveError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.with_shard(|shard| {
            shard.flush();
            Ok(())
        })
    }

    fn clear(&self) -> Result<(), RetrieveError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shard = self.shard.write().unwrap_or_else(PoisonError::into_inner);
        // A new shard, not a deletion of points: that also empties the write-ahead log, which only ever grows.
        close(shard.take());
        move_away(&self.folder).map_err(|error| index_error(&self.folder, error))?;
        let _ = fs::remove_dir_all(old_path(&self.folder));
        *shard = Some(create(&self.folder, &self.stamp)?);
        Ok(())
    }
}

impl EdgeStore {
    fn leg(&self, name: &str, vector: VectorInternal, query: &SearchQuery) -> Result<Vec<Hit>, RetrieveError> {
        let request = SearchRequest {
            query: QueryEnum::Nearest(NamedQuery { query: vector, using: Some(name.into()) }),
            filter: engine_filter(&query.filter),
            params: None,
            limit: query.limit,
            offset: 0,
            with_payload: Some(WithPayloadInterface::Bool(true)),
            with_vector: None,
            score_threshold: None,
        };
        let points = self.with_shard(|shard| shard.search(request))?;
        let mut hits: Vec<Hit> = points.into_iter().filter_map(hit).collect();
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.point.cmp(&b.point)));
        Ok(hits)
    }
}

impl Drop for EdgeStore {
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

fn lock(folder: &Path) -> Result<File, RetrieveError> {
    fs::create_dir_all(folder).map_err(|error| index_error(folder, error))?;
    let file = File::options().create(true).truncate(false).write(true).open(folder.join("lock"));
    let file = file.map_err(|error| index_error(folder, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RetrieveError::Locked { path: folder.display().to_string() }),
        Err(TryLockError::Error(error)) => Err(index_error(folder, error)),
    }
}

fn read_stamp(folder: &Path) -> Result<Option<Stamp>, RetrieveError> {
    match fs::read(stamp_path(folder)) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(stamp) => Ok(Some(stamp)),
            Err(_) => Err(rebuild(folder, "its stamp is unreadable")),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(index_error(folder, error)),
    }
}

fn create(folder: &Path, stamp: &Stamp) -> Result<EdgeShard, RetrieveError> {
    let points = points_path(folder);
    fs::create_dir_all(&points).map_err(|error| index_error(folder, error))?;
    let made = catch_unwind(|| -> OperationResult<EdgeShard> {
        let shard = EdgeShard::new(&points, config(stamp.dimensions))?;
        for key in [MEMORY_ID, KIND, PRODUCT, LANGUAGE] {
            shard.update(payload_index(key, PayloadSchemaType::Keyword))?;
        }
        shard.update(payload_index(PASSAGE, PayloadSchemaType::Integer))?;
        shard.flush();
        Ok(shard)
    });
    let shard = match made {
        Ok(Ok(shard)) => shard,
        Ok(Err(error)) => return Err(index_error(folder, error)),
        Err(_) => return Err(index_error(folder, "the engine could not make its files; is the disk full?")),
    };
    write_stamp(folder, stamp).map_err(|error| index_error(folder, error))?;
    Ok(shard)
}

/// Writes beside and renames, so that a stamp is whole or absent.
fn write_stamp(folder: &Path, stamp: &Stamp) -> std::io::Result<()> {
    let temporary = folder.join("stamp.json.new");
    fs::write(&temporary, serde_json::to_vec(stamp)?)?;
    File::open(&temporary)?.sync_all()?;
    fs::rename(temporary, stamp_path(folder))
}

fn load(folder: &Path, dimensions: usize) -> Result<EdgeShard, RetrieveError> {
    let points = points_path(folder);
    // Without this check the engine makes an empty shard in place of lost segments, and nothing would be found.
    let segments = fs::read_dir(points.join("segments")).map(|entries| entries.flatten().count()).unwrap_or(0);
    if segments == 0 {
        return Err(rebuild(folder, "its segments are gone"));
    }
    match catch_unwind(|| EdgeShard::load(&points, Some(config(dimensions)))) {
        Ok(Ok(shard)) => Ok(shard),
        Ok(Err(error)) => Err(rebuild(folder, &error.to_string())),
        Err(_) => Err(rebuild(folder, "the engine cannot read it")),
    }
}

fn move_away(folder: &Path) -> std::io::Result<()> {
    match fs::remove_file(stamp_path(folder)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let points = points_path(folder);
    if !points.exists() {
        return Ok(());
    }
    let old = old_path(folder);
    if old.exists() {
        fs::remove_dir_all(&old)?;
    }
    fs::rename(points, old)
}

fn points_path(folder: &Path) -> PathBuf {
    folder.join("points")
}

fn old_path(folder: &Path) -> PathBuf {
    folder.join("points.old")
}

fn stamp_path(folder: &Path) -> PathBuf {
    folder.join("stamp.json")
}

fn index_error(folder: &Path, reason: impl ToString) -> RetrieveError {
    RetrieveError::Index { path: folder.display().to_string(), reason: reason.to_string() }
}

fn rebuild(folder: &Path, reason: &str) -> RetrieveError {
    RetrieveError::Rebuild { path: folder.display().to_string(), reason: reason.to_owned() }
}

fn config(dimensions: usize) -> EdgeConfig {
    let dense = EdgeVectorParams::builder(dimensions, Distance::Cosine).build();
    let optimizers = EdgeOptimizersConfig {
        default_segment_number: Some(1),
        indexing_threshold: Some(GRAPH_FROM_KB),
        ..EdgeOptimizersConfig::default()
    };
    EdgeConfig::builder()
        .vector(PROBLEM, dense.clone())
        .vector(SOLUTION, dense)
        .sparse_vector(BM25, EdgeSparseVectorParams::builder().modifier(Modifier::Idf).build())
        .on_disk_payload(false)
        .optimizers(optimizers)
        .build()
}

fn payload_index(key: &str, schema: PayloadSchemaType) -> UpdateOperation {
    UpdateOperation::FieldIndexOperation(FieldIndexOperations::CreateIndex(CreateIndex {
        field_name: path(key),
        field_schema: Some(PayloadFieldSchema::FieldType(schema)),
    }))
}

fn path(key: &str) -> JsonPath {
    JsonPath { first_key: key.to_owned(), rest: vec![] }
}

fn engine_point(point: &MemoryPoint) -> OperationResult<PointStruct> {
    let text = format!("{}\n{}", point.problem_text, point.solution_text);
    let terms = bm25::document_terms(&text, &point.language);
    let mut vectors =
        NamedVectors::default().add_vector(PROBLEM, point.problem.clone()).add_vector(SOLUTION, point.solution.clone());
    if !terms.is_empty() {
        vectors = vectors.add_vector(BM25, Vector::new_sparse(terms.indices, terms.values)?);
    }
    let payload = json!({
        MEMORY_ID: point.memory_id,
        KIND: point.kind.name(),
        PRODUCT: point.product,
        LANGUAGE: point.language,
        PASSAGE: point.passage,
    });
    Ok(PointStruct::new(PointId::Uuid(point.id), Vectors::from(vectors), payload))
}

fn sparse(terms: SparseTerms) -> SparseVector {
    SparseVector { indices: terms.indices, values: terms.values }
}

fn engine_filter(filter: &Filter) -> Option<EngineFilter> {
    let mut must = Vec::new();
    if let Some(product) = &filter.product {
        must.push(any_of(PRODUCT, vec![product.clone()]));
    }
    if !filter.languages.is_empty() {
        must.push(any_of(LANGUAGE, filter.languages.clone()));
    }
    if let Some(kind) = filter.kind {
        must.push(any_of(KIND, vec![kind.name().to_owned()]));
    }
    let must_not = if filter.exclude.is_empty() { vec![] } else { vec![any_of(MEMORY_ID, filter.exclude.clone())] };
    let some = |conditions: Vec<Condition>| Some(conditions).filter(|conditions| !conditions.is_empty());
    let filter = EngineFilter { must: some(must), must_not: some(must_not), ..EngineFilter::new() };
    (filter != EngineFilter::new()).then_some(filter)
}

fn any_of(key: &str, values: Vec<String>) -> Condition {
    Condition::Field(FieldCondition::new_match(path(key), Match::from(values)))
}

/// None for a point whose payload is not ours; it cannot be looked up.
fn hit(point: ScoredPoint) -> Option<Hit> {
    let PointId::Uuid(id) = point.id else { return None };
    let payload = point.payload?.0;
    let text = |key: &str| payload.get(key).and_then(Value::as_str);
    Some(Hit {
        point: id,
        memory_id: text(MEMORY_ID)?.to_owned(),
        passage: payload.get(PASSAGE).and_then(Value::as_u64)? as usize,
        kind: if text(KIND)? == MemoryKind::Article.name() { MemoryKind::Article } else { MemoryKind::Ticket },
        language: text(LANGUAGE)?.to_owned(),
        score: point.score,
    })
}
