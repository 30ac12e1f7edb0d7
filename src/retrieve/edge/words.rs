//! Scores of found points by the words of a request.
//!
//! The engine scores given points by walking through every word's list of points, which takes most of a search in a large
//! memory; the points' own words are a short read. How rare a word is only the engine knows: it is asked once and kept.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use qdrant_edge::{EdgeShard, Filter as EngineFilter, OperationResult, PointId, SparseVector, VectorInternal};
use uuid::Uuid;

use super::engine::{self, BM25};
use super::points::{has_id, sparse};
use super::search::{Found, Scored, nearest};
use crate::retrieve::bm25::SparseTerms;

/// Words kept with their rarity: more than the requests of a day have, and a few megabytes.
const KEPT: usize = 100_000;

/// Inverse document frequencies as the engine has them, by word; see [`crate::retrieve::bm25::idf`].
#[derive(Debug, Default)]
pub(super) struct Rarity(Mutex<HashMap<u32, f32>>);

impl Rarity {
    /// Of a word that the point holds with this value above 0.
    fn of(&self, shard: &EdgeShard, term: u32, holder: Uuid, value: f32) -> OperationResult<f32> {
        if let Some(kept) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&term) {
            return Ok(*kept);
        }
        let alone = sparse(&SparseTerms { indices: vec![term], values: vec![1.0] });
        let these = Some(EngineFilter::new_must(has_id([PointId::Uuid(holder)])));
        let scored = nearest(shard, BM25, VectorInternal::Sparse(alone), these, 1, engine::exact())?;
        // A point that was deleted meanwhile says nothing, and is asked for again.
        let Some(score) = scored.get(&holder) else { return Ok(0.0) };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(term, score / value);
        Ok(score / value)
    }
}

/// BM25 scores of the points that have a word in common with the request.
pub(super) fn scores(
    shard: &EdgeShard,
    rarity: &Rarity,
    terms: &SparseTerms,
    points: &BTreeMap<Uuid, Found>,
) -> OperationResult<Scored> {
    let mut asked: Vec<(u32, f32)> = terms.indices.iter().copied().zip(terms.values.iter().copied()).collect();
    asked.sort_unstable_by_key(|(term, _)| *term);
    // Of each word of this request.
    let mut rarities: Vec<Option<f32>> = vec![None; asked.len()];
    let mut scored = Scored::new();
    for (id, point) in points {
        let mut score = 0.0;
        for (term, value) in held(&point.words) {
            let Ok(at) = asked.binary_search_by_key(&term, |(term, _)| *term) else { continue };
            let (Some((_, weight)), Some(known)) = (asked.get(at), rarities.get_mut(at)) else { continue };
            let rarity = match *known {
                Some(rarity) => rarity,
                None => *known.insert(rarity.of(shard, term, *id, value)?),
            };
            score += weight * rarity * value;
        }
        if score > 0.0 {
            scored.insert(*id, score);
        }
    }
    Ok(scored)
}

fn held(words: &SparseVector) -> impl Iterator<Item = (u32, f32)> {
    words.indices.iter().copied().zip(words.values.iter().copied()).filter(|(_, value)| *value > 0.0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::retrieve::bm25;
    use crate::retrieve::contract::samples;
    use crate::retrieve::edge::EdgeStore;
    use crate::retrieve::edge::search::retrieve;
    use crate::retrieve::{MemoryPoint, VectorStore};

    #[test]
    fn scores_are_those_of_the_engine() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let points: Vec<MemoryPoint> = samples();
        let store = EdgeStore::open(folder.path(), "test", points[0].problem.len()).expect("new index");
        store.upsert(&points).expect("upsert");
        let terms = bm25::query_terms("contraseña password buzón mailbox quota nothing", "es");
        let ids: BTreeSet<Uuid> = points.iter().map(|point| point.id).collect();
        let rarity = Rarity::default();
        let compare = |shard: &EdgeShard| {
            let found = retrieve(shard, &ids, false, true)?;
            let ours = scores(shard, &rarity, &terms, &found)?;
            let query = VectorInternal::Sparse(sparse(&terms));
            Ok((ours, nearest(shard, BM25, query, None, points.len(), engine::exact())?))
        };
        // The second time with what was kept.
        for _ in 0..2 {
            let (ours, engines) = store.inner.with_shard(compare).expect("scores");
            assert!(ours.len() >= 3 && ours.keys().eq(engines.keys()), "{ours:?} {engines:?}");
            for (id, score) in &ours {
                assert!((score - engines[id]).abs() < 1e-4 * score, "{score} {}", engines[id]);
            }
        }
        assert!(!rarity.0.lock().expect("lock").is_empty());
    }
}
