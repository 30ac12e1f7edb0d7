//! The embedded Qdrant engine as vector store: one folder, one process, no server.
//!
//! ```text
//! folder/lock         held (flock) as long as the store is open
//! folder/stamp.json   what the index was made with; written last, so a folder without it is half made
//! folder/points/      the engine's shard
//! ```
//! What is durable is the state at the last [`VectorStore::checkpoint`]: the engine does not replay its write-ahead log
//! at load. The index is a projection of the ticket store, so whatever is later is indexed again from there.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use qdrant_edge::external::serde_json::{Value, json};
use qdrant_edge::{
    Condition, CountRequest, CreateIndex, Distance, EdgeConfig, EdgeOptimizersConfig, EdgeShard,
    EdgeSparseVectorParams, EdgeVectorParams, FieldCondition, FieldIndexOperations, Filter as EngineFilter,
    HasIdCondition, JsonPath, Match, Modifier, NamedQuery, NamedVectors, OperationResult, Payload, PayloadFieldSchema,
    PayloadSchemaType, PointId, PointInsertOperations, PointOperations, PointStruct, QueryEnum, Record, ScoredPoint,
    ScrollRequest, SearchRequest, SparseVector, UpdateOperation, Vector, VectorInternal, VectorStructInternal, Vectors,
    WithPayloadInterface, WithVector,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::background::{Background, Centroids, SAMPLE};
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
    /// As of the last checkpoint, so that a crash changes no ranking; replaced whole, read by searches.
    centroids: RwLock<Centroids>,
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
        let store = Self {
            folder: folder.to_owned(),
            stamp,
            shard: RwLock::new(Some(shard)),
            writer: Mutex::new(()),
            centroids: RwLock::default(),
            _lock: lock,
        };
        store.measure_centroids()?;
        Ok(store)
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
        let words = (!terms.is_empty()).then(|| VectorInternal::Sparse(sparse(terms)));
        let mut meaning = None;
        if !query.vector.is_empty() {
            check_vector(&query.vector, self.stamp.dimensions)?;
            meaning = Some(VectorInternal::Dense(query.vector.clone()));
        }
        let asked = [(PROBLEM, meaning.clone()), (SOLUTION, meaning), (BM25, words)];
        let mut legs: [Vec<Hit>; 3] = Default::default();
        for (leg, (name, vector)) in legs.iter_mut().zip(&asked) {
            *leg = self.of_each_language(name, vector.as_ref(), query)?;
        }
        let found: HashSet<Uuid> = legs.iter().flatten().map(|hit| hit.point).collect();
        for (leg, (name, vector)) in legs.iter_mut().zip(&asked) {
            self.complete(leg, name, vector.as_ref(), &found)?;
            leg.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.point.cmp(&b.point)));
        }
        let [problem, solution, lexical] = legs;
        Ok(Legs { problem, solution, lexical, background: self.background(&query.vector) })
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
        })?;
        self.measure_centroids()
    }

    fn clear(&self) -> Result<(), RetrieveError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut shard = self.shard.write().unwrap_or_else(PoisonError::into_inner);
        // A new shard, not a deletion of points: that also empties the write-ahead log, which only ever grows.
        close(shard.take());
        move_away(&self.folder).map_err(|error| index_error(&self.folder, error))?;
        let _ = fs::remove_dir_all(old_path(&self.folder));
        *shard = Some(create(&self.folder, &self.stamp)?);
        *self.centroids.write().unwrap_or_else(PoisonError::into_inner) = Centroids::default();
        Ok(())
    }
}

impl EdgeStore {
    /// The best hits in the request's language and in all others, searched apart: in a memory of two languages one search
    /// would hardly reach the other one, since texts of a language are close to each other whatever they say.
    fn of_each_language(
        &self,
        name: &str,
        vector: Option<&VectorInternal>,
        query: &SearchQuery,
    ) -> Result<Vec<Hit>, RetrieveError> {
        let Some(vector) = vector else { return Ok(Vec::new()) };
        let language = any_of(LANGUAGE, vec![query.language.clone()]);
        let mut own = engine_filter(&query.filter);
        own.must.get_or_insert_default().push(language.clone());
        let mut others = engine_filter(&query.filter);
        others.must_not.get_or_insert_default().push(language);
        let mut hits = self.leg(name, vector.clone(), own, query.limit)?;
        hits.append(&mut self.leg(name, vector.clone(), others, query.limit)?);
        Ok(hits)
    }

    /// Scores the points that only other legs found.
    fn complete(
        &self,
        leg: &mut Vec<Hit>,
        name: &str,
        vector: Option<&VectorInternal>,
        found: &HashSet<Uuid>,
    ) -> Result<(), RetrieveError> {
        let Some(vector) = vector else { return Ok(()) };
        let scored: HashSet<Uuid> = leg.iter().map(|hit| hit.point).collect();
        let missing: HasIdCondition = found.difference(&scored).map(|id| PointId::Uuid(*id)).collect();
        let count = found.len().saturating_sub(scored.len());
        if count > 0 {
            let filter = EngineFilter::new_must(Condition::HasId(missing));
            leg.append(&mut self.leg(name, vector.clone(), filter, count)?);
        }
        Ok(())
    }

    fn leg(
        &self,
        name: &str,
        vector: VectorInternal,
        filter: EngineFilter,
        limit: usize,
    ) -> Result<Vec<Hit>, RetrieveError> {
        let request = SearchRequest {
            query: QueryEnum::Nearest(NamedQuery { query: vector, using: Some(name.into()) }),
            filter: Some(filter),
            params: None,
            limit,
            offset: 0,
            with_payload: Some(WithPayloadInterface::Bool(true)),
            with_vector: None,
            score_threshold: None,
        };
        let points = self.with_shard(|shard| shard.search(request))?;
        Ok(points.into_iter().filter_map(hit).collect())
    }

    fn background(&self, vector: &[f32]) -> Vec<Background> {
        if vector.is_empty() {
            return Vec::new();
        }
        self.centroids.read().unwrap_or_else(PoisonError::into_inner).background(vector)
    }

    fn measure_centroids(&self) -> Result<(), RetrieveError> {
        let sample = ScrollRequest {
            limit: Some(SAMPLE),
            with_payload: Some(WithPayloadInterface::Bool(true)),
            with_vector: WithVector::Selector(vec![PROBLEM.into(), SOLUTION.into()]),
            ..ScrollRequest::default()
        };
        let (records, _) = self.with_shard(|shard| shard.scroll(sample))?;
        let mut centroids = Centroids::default();
        for record in &records {
            add_to(&mut centroids, record);
        }
        *self.centroids.write().unwrap_or_else(PoisonError::into_inner) = centroids;
        Ok(())
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
    let segments = match fs::read_dir(points.join("segments")) {
        Ok(entries) => entries.flatten().count(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(index_error(folder, error)),
    };
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

fn engine_filter(filter: &Filter) -> EngineFilter {
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
    EngineFilter { must: some(must), must_not: some(must_not), ..EngineFilter::new() }
}

fn any_of(key: &str, values: Vec<String>) -> Condition {
    Condition::Field(FieldCondition::new_match(path(key), Match::from(values)))
}

/// None for a point whose payload is not ours; it cannot be looked up.
fn hit(point: ScoredPoint) -> Option<Hit> {
    let PointId::Uuid(id) = point.id else { return None };
    let payload = point.payload?;
    Some(Hit {
        point: id,
        memory_id: text(&payload, MEMORY_ID)?.to_owned(),
        passage: payload.0.get(PASSAGE).and_then(Value::as_u64)? as usize,
        kind: kind(&payload)?,
        language: text(&payload, LANGUAGE)?.to_owned(),
        score: point.score,
    })
}

fn add_to(centroids: &mut Centroids, record: &Record) -> Option<()> {
    let payload = record.payload.as_ref()?;
    let Some(VectorStructInternal::Named(vectors)) = &record.vector else { return None };
    let (Some(VectorInternal::Dense(problem)), Some(VectorInternal::Dense(solution))) =
        (vectors.get(PROBLEM), vectors.get(SOLUTION))
    else {
        return None;
    };
    centroids.add(kind(payload)?, text(payload, LANGUAGE)?, problem, solution);
    Some(())
}

fn kind(payload: &Payload) -> Option<MemoryKind> {
    let name = text(payload, KIND)?;
    Some(if name == MemoryKind::Article.name() { MemoryKind::Article } else { MemoryKind::Ticket })
}

fn text<'a>(payload: &'a Payload, key: &str) -> Option<&'a str> {
    payload.0.get(key).and_then(Value::as_str)
}
