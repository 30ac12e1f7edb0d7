//! One request as searches of the engine.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use qdrant_edge::{
    EdgeShard, Filter as EngineFilter, NamedQuery, OperationResult, PointId, QueryEnum, Record, SearchParams,
    SearchRequest, VectorInternal, VectorStructInternal, WithPayloadInterface, WithVector,
};
use uuid::Uuid;

use super::engine::{self, BM25, LANGUAGE, PROBLEM, SOLUTION};
use super::known::Known;
use super::points::{any_of, engine_filter, has_id, hit, sparse};
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
type Scored = BTreeMap<Uuid, f32>;

/// A found point: the hit without a score, and its vectors.
struct Found {
    hit: Hit,
    problem: Vec<f32>,
    solution: Vec<f32>,
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
    let parts = parts(known, query, engine_filter(shard, &query.filter)?);
    let params = match effort {
        Effort::Served => engine::served(query.limit),
        Effort::Exact => engine::exact(),
    };
    let search = |name: &str, vector: VectorInternal| -> OperationResult<Scored> {
        let mut scored = Scored::new();
        for part in &parts {
            scored.extend(nearest(shard, name, vector.clone(), part.clone(), query.limit, params)?);
        }
        Ok(scored)
    };
    let mut candidates = BTreeSet::new();
    if !query.vector.is_empty() {
        for name in [PROBLEM, SOLUTION] {
            candidates.extend(search(name, VectorInternal::Dense(query.vector.clone()))?.into_keys());
        }
    }
    let terms = bm25::query_terms(&query.text, &query.language);
    let mut lexical = Scored::new();
    if !terms.is_empty() {
        let chosen = if effort == Effort::Exact { terms.clone() } else { known.affordable(&terms) };
        lexical = search(BM25, VectorInternal::Sparse(sparse(&chosen)))?;
        candidates.extend(lexical.keys().copied());
        if chosen != terms {
            lexical.clear();
        }
        score_words(shard, &terms, &mut lexical, &candidates)?;
    }
    let found = retrieve(shard, &candidates, !query.vector.is_empty())?;
    let scored = |id: &Uuid, hit: &Hit| Some(Hit { score: *lexical.get(id)?, ..hit.clone() });
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

/// Filters for the points in the request's language and for those in all others, which are searched apart: in a memory of
/// two languages one search would hardly reach the other one, since texts of a language are close to each other whatever
/// they say. The others are named: the engine looks those up, while it would go through all points for "any but this".
fn parts(known: &Known, query: &SearchQuery, filter: EngineFilter) -> Vec<Option<EngineFilter>> {
    let wanted = |language: &&String| query.filter.languages.is_empty() || query.filter.languages.contains(language);
    let (own, others): (Vec<String>, Vec<String>) =
        known.languages.iter().filter(wanted).cloned().partition(|language| *language == query.language);
    let parts = [own, others].into_iter().filter(|languages| !languages.is_empty());
    parts
        .map(|languages| {
            let mut part = filter.clone();
            if languages.len() < known.languages.len() {
                part.must.get_or_insert_default().push(any_of(LANGUAGE, languages));
            }
            Some(part).filter(|part| part.must.is_some() || part.must_not.is_some())
        })
        .collect()
}

/// Scores the candidates that have no score by words yet; those without a word in common get none.
fn score_words(
    shard: &EdgeShard,
    terms: &SparseTerms,
    scored: &mut Scored,
    candidates: &BTreeSet<Uuid>,
) -> OperationResult<()> {
    let missing: Vec<PointId> =
        candidates.iter().filter(|id| !scored.contains_key(*id)).copied().map(PointId::Uuid).collect();
    if !missing.is_empty() {
        let count = missing.len();
        let these = Some(EngineFilter::new_must(has_id(missing)));
        let terms = VectorInternal::Sparse(sparse(terms));
        scored.extend(nearest(shard, BM25, terms, these, count, engine::exact())?);
    }
    Ok(())
}

fn nearest(
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

/// The points with these ids, and their vectors where they are asked for.
fn retrieve(shard: &EdgeShard, ids: &BTreeSet<Uuid>, with_vectors: bool) -> OperationResult<BTreeMap<Uuid, Found>> {
    let ids: Vec<PointId> = ids.iter().copied().map(PointId::Uuid).collect();
    let vectors = with_vectors.then(|| WithVector::Selector(vec![PROBLEM.into(), SOLUTION.into()]));
    let records = shard.retrieve(&ids, Some(WithPayloadInterface::Bool(true)), vectors)?;
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
    Some((id, Found { hit, problem, solution }))
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
