//! One request as searches of the engine.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::resume_unwind;
use std::thread;

use qdrant_edge::{
    EdgeShard, Filter as EngineFilter, NamedQuery, OperationResult, PointId, QueryEnum, Record, SearchParams,
    SearchRequest, SparseVector, VectorInternal, VectorStructInternal, WithPayloadInterface, WithVector,
};
use uuid::Uuid;

use super::engine::{BM25, PROBLEM, SOLUTION};
use super::known::Known;
use super::plan::{Part, Plan};
use super::points::{engine_filter, hit, sparse};
use super::words;
use crate::retrieve::bm25::{self, SparseTerms};
use crate::retrieve::{Hit, SearchQuery};

/// How thoroughly is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// As the service does: exactly in a small memory, by the graphs and the rarer words in a large one.
    Served,
    /// Every point and every word, whatever it takes: what the served search is measured against.
    Exact,
}

/// Points with their scores, by id.
pub(super) type Scored = BTreeMap<Uuid, f32>;

/// A found point: the hit without a score, its vectors and its words.
pub(super) struct Found {
    hit: Hit,
    problem: Vec<f32>,
    solution: Vec<f32>,
    pub words: SparseVector,
}

/// Problem, solution and lexical leg, best first, ties by id.
///
/// The engine finds candidates, in a large memory by vectors of 8 bits and by the rarer words; then every point that any
/// leg found is scored by all of them, on the vectors as they came and by all words.
pub(super) fn legs(
    shard: &EdgeShard,
    known: &Known,
    query: &SearchQuery,
    effort: Effort,
) -> OperationResult<[Vec<Hit>; 3]> {
    let terms = bm25::query_terms(&query.text, &query.language);
    let candidates = candidates(shard, known, query, &terms, effort)?;
    let found = retrieve(shard, &candidates, !query.vector.is_empty(), !terms.is_empty())?;
    let by_words = words::scores(shard, &known.rarity, &terms, &found)?;
    let scored = |id: &Uuid, hit: &Hit| Some(Hit { score: *by_words.get(id)?, ..hit.clone() });
    let lexical = ranked(found.iter().filter_map(|(id, found)| scored(id, &found.hit)));
    if query.vector.is_empty() {
        return Ok([Vec::new(), Vec::new(), lexical]);
    }
    let by = |vector: fn(&Found) -> &[f32]| {
        let scored = found.values().map(|found| Hit { score: dot(&query.vector, vector(found)), ..found.hit.clone() });
        let length = dot(&query.vector, &query.vector).sqrt().max(f32::MIN_POSITIVE);
        ranked(scored.map(|hit| Hit { score: hit.score / length, ..hit }))
    };
    Ok([by(|found| &found.problem), by(|found| &found.solution), lexical])
}

/// What any leg finds.
fn candidates(
    shard: &EdgeShard,
    known: &Known,
    query: &SearchQuery,
    terms: &SparseTerms,
    effort: Effort,
) -> OperationResult<BTreeSet<Uuid>> {
    let plan = Plan::of(known, query, engine_filter(shard, &query.filter)?, effort);
    let mut legs = Vec::new();
    if !query.vector.is_empty() {
        let vector = VectorInternal::Dense(query.vector.clone());
        legs.extend([PROBLEM, SOLUTION].map(|name| (name, vector.clone(), &plan.dense)));
    }
    if !terms.is_empty() {
        let chosen = if effort == Effort::Exact { terms.clone() } else { known.affordable(terms) };
        legs.push((BM25, VectorInternal::Sparse(sparse(&chosen)), &plan.words));
    }
    let search = |(name, vector, parts): (&str, VectorInternal, &Vec<Part>)| -> OperationResult<Vec<Uuid>> {
        let mut found = Vec::new();
        for part in parts {
            found.extend(
                nearest(shard, name, vector.clone(), part.filter.clone(), part.limit, part.params)?.into_keys(),
            );
        }
        Ok(found)
    };
    let found = if plan.side_by_side { side_by_side(legs, search) } else { legs.into_iter().map(search).collect() };
    Ok(found?.into_iter().flatten().collect())
}

/// Each leg in a thread of its own. A panic in one goes on in the caller.
fn side_by_side<L: Send, T: Send>(
    legs: Vec<L>,
    search: impl Fn(L) -> OperationResult<T> + Sync,
) -> OperationResult<Vec<T>> {
    thread::scope(|scope| {
        let search = &search;
        let legs: Vec<_> = legs.into_iter().map(|leg| scope.spawn(move || search(leg))).collect();
        legs.into_iter().map(|leg| leg.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

pub(super) fn nearest(
    shard: &EdgeShard,
    name: &str,
    vector: VectorInternal,
    filter: Option<EngineFilter>,
    limit: usize,
    params: SearchParams,
) -> OperationResult<Scored> {
    let request = SearchRequest {
        query: QueryEnum::Nearest(NamedQuery { query: vector, using: Some(name.into()) }),
        filter,
        params: Some(params),
        limit,
        offset: 0,
        // Read once for all legs.
        with_payload: Some(WithPayloadInterface::Bool(false)),
        with_vector: None,
        score_threshold: None,
    };
    let points = shard.search(request)?;
    Ok(points.into_iter().filter_map(|point| Some((uuid(point.id)?, point.score))).collect())
}

/// The points with these ids, and their vectors and words where they are asked for.
pub(super) fn retrieve(
    shard: &EdgeShard,
    ids: &BTreeSet<Uuid>,
    with_vectors: bool,
    with_words: bool,
) -> OperationResult<BTreeMap<Uuid, Found>> {
    let ids: Vec<PointId> = ids.iter().copied().map(PointId::Uuid).collect();
    let mut wanted = if with_vectors { vec![PROBLEM.into(), SOLUTION.into()] } else { vec![] };
    if with_words {
        wanted.push(BM25.into());
    }
    let records = shard.retrieve(&ids, Some(WithPayloadInterface::Bool(true)), Some(WithVector::Selector(wanted)))?;
    Ok(records.into_iter().filter_map(found).collect())
}

fn found(record: Record) -> Option<(Uuid, Found)> {
    let id = uuid(record.id)?;
    let hit = hit(id, record.payload.as_ref()?)?;
    let mut vectors = match record.vector {
        Some(VectorStructInternal::Named(vectors)) => vectors,
        _ => HashMap::new(),
    };
    let mut dense = |name: &str| match vectors.remove(name) {
        Some(VectorInternal::Dense(vector)) => vector,
        _ => Vec::new(),
    };
    let (problem, solution) = (dense(PROBLEM), dense(SOLUTION));
    let words = match vectors.remove(BM25) {
        Some(VectorInternal::Sparse(words)) => words,
        _ => SparseVector::default(),
    };
    Some((id, Found { hit, problem, solution, words }))
}

/// Best first; what comes in the order of ids, ties stay in.
fn ranked(hits: impl Iterator<Item = Hit>) -> Vec<Hit> {
    let mut ranked: Vec<Hit> = hits.collect();
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    ranked
}

/// Scalar product of vectors of one length; the stored ones have length 1. In sixteen sums, which the compiler makes
/// vector instructions of.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_lanes, a_rest) = a.as_chunks::<16>();
    let (b_lanes, b_rest) = b.as_chunks::<16>();
    let mut sums = [0.0f32; 16];
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (x, y))| *sum += x * y);
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum::<f32>()
}

fn uuid(id: PointId) -> Option<Uuid> {
    match id {
        PointId::Uuid(id) => Some(id),
        PointId::NumId(_) => None,
    }
}
