//! An exact vector store in memory: for tests, for small desks and for builds without the embedded engine.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use uuid::Uuid;

use super::background::{Centroids, SAMPLE};
use super::bm25::{self, SparseTerms};
use super::{Filter, Hit, Legs, MemoryPoint, RetrieveError, SearchQuery, VectorStore, check_vector};

/// Scans every point at every search. A few milliseconds for ten thousand points; nothing survives the process.
pub struct MemoryStore {
    dimensions: usize,
    /// Many searches or one writer; no lock is held while embedding.
    points: RwLock<Points>,
}

#[derive(Default)]
struct Points {
    by_id: BTreeMap<Uuid, Stored>,
    /// How many points hold each term.
    containing: HashMap<u32, usize>,
    /// Points with at least one term: the total of the inverse document frequency.
    with_terms: usize,
    /// Made by the first search after a change.
    centroids: OnceLock<Centroids>,
}

struct Stored {
    point: MemoryPoint,
    terms: SparseTerms,
}

impl MemoryStore {
    /// An empty store for vectors of `dimensions` values.
    pub fn new(dimensions: usize) -> Self {
        Self { dimensions, points: RwLock::default() }
    }

    // A panic under the lock leaves at worst one point half counted; searching on beats refusing all searches.
    fn read(&self) -> RwLockReadGuard<'_, Points> {
        self.points.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Points> {
        self.points.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VectorStore for MemoryStore {
    fn upsert(&self, points: &[MemoryPoint]) -> Result<(), RetrieveError> {
        for point in points {
            check_vector(&point.problem, self.dimensions)?;
            check_vector(&point.solution, self.dimensions)?;
        }
        let mut stored = self.write();
        for point in points {
            stored.remove(point.id);
            stored.insert(point.clone());
        }
        Ok(())
    }

    fn prune(&self, memory_ids: &[String], kept: &[Uuid]) -> Result<(), RetrieveError> {
        let doomed: HashSet<&str> = memory_ids.iter().map(String::as_str).collect();
        let mut stored = self.write();
        let ids: Vec<Uuid> =
            stored.by_id.values().filter(|s| doomed.contains(s.point.memory_id.as_str())).map(|s| s.point.id).collect();
        for id in ids.into_iter().filter(|id| !kept.contains(id)) {
            stored.remove(id);
        }
        Ok(())
    }

    fn search(&self, query: &SearchQuery) -> Result<Legs, RetrieveError> {
        let stored = self.read();
        let wanted = Wanted::new(&query.filter);
        let candidates: Vec<&Stored> = stored.by_id.values().filter(|s| wanted.takes(&s.point)).collect();
        let lexical = stored.lexical(query, &candidates);
        if query.vector.is_empty() {
            let found = best_of_each_language(&candidates, &[&lexical], query);
            return Ok(Legs { lexical: hits(&candidates, &lexical, &found), ..Legs::default() });
        }
        check_vector(&query.vector, self.dimensions)?;
        let cosines = |of: fn(&MemoryPoint) -> &[f32]| -> Vec<Option<f32>> {
            candidates.iter().map(|stored| Some(cosine(&query.vector, of(&stored.point)))).collect()
        };
        let problem = cosines(|point| &point.problem);
        let solution = cosines(|point| &point.solution);
        let found = best_of_each_language(&candidates, &[&lexical, &problem, &solution], query);
        Ok(Legs {
            problem: hits(&candidates, &problem, &found),
            solution: hits(&candidates, &solution, &found),
            lexical: hits(&candidates, &lexical, &found),
            background: stored.centroids().background(&query.vector),
        })
    }

    fn count(&self) -> Result<u64, RetrieveError> {
        Ok(self.read().by_id.len() as u64)
    }

    fn checkpoint(&self) -> Result<(), RetrieveError> {
        Ok(())
    }

    fn compact(&self) -> Result<(), RetrieveError> {
        Ok(())
    }

    fn clear(&self) -> Result<(), RetrieveError> {
        *self.write() = Points::default();
        Ok(())
    }
}

impl Points {
    fn centroids(&self) -> &Centroids {
        self.centroids.get_or_init(|| {
            let mut centroids = Centroids::default();
            for Stored { point, .. } in self.by_id.values().take(SAMPLE) {
                centroids.add(point.kind, &point.language, &point.problem, &point.solution);
            }
            centroids
        })
    }

    fn insert(&mut self, point: MemoryPoint) {
        self.centroids.take();
        let text = format!("{}\n{}", point.problem_text, point.solution_text);
        let terms = bm25::document_terms(&text, &point.language);
        self.with_terms += usize::from(!terms.is_empty());
        for term in &terms.indices {
            *self.containing.entry(*term).or_default() += 1;
        }
        self.by_id.insert(point.id, Stored { point, terms });
    }

    fn remove(&mut self, id: Uuid) {
        let Some(old) = self.by_id.remove(&id) else { return };
        self.centroids.take();
        self.with_terms -= usize::from(!old.terms.is_empty());
        for term in &old.terms.indices {
            if let Some(count) = self.containing.get_mut(term) {
                *count = count.saturating_sub(1);
            }
        }
    }

    /// BM25 of each candidate; None without a word in common.
    fn lexical(&self, query: &SearchQuery, candidates: &[&Stored]) -> Vec<Option<f32>> {
        let terms = bm25::query_terms(&query.text, &query.language);
        let weights: HashMap<u32, f32> = terms
            .indices
            .iter()
            .zip(&terms.values)
            .map(|(index, value)| {
                let containing = self.containing.get(index).copied().unwrap_or(0);
                (*index, value * bm25::idf(self.with_terms, containing))
            })
            .collect();
        let score = |stored: &&Stored| {
            let products = stored.terms.indices.iter().zip(&stored.terms.values);
            let mut matched = products.filter_map(|(index, value)| weights.get(index).map(|w| w * value)).peekable();
            matched.peek()?;
            Some(matched.sum())
        };
        candidates.iter().map(score).collect()
    }
}

/// The filter with its lists as sets.
struct Wanted<'a> {
    filter: &'a Filter,
    languages: HashSet<&'a str>,
    exclude: HashSet<&'a str>,
    only: HashSet<&'a str>,
}

impl<'a> Wanted<'a> {
    fn new(filter: &'a Filter) -> Self {
        Self {
            filter,
            languages: filter.languages.iter().map(String::as_str).collect(),
            exclude: filter.exclude.iter().map(String::as_str).collect(),
            only: filter.only.iter().map(String::as_str).collect(),
        }
    }

    fn takes(&self, point: &MemoryPoint) -> bool {
        let product = self.filter.product.is_none() || self.filter.product == point.product;
        let language = self.languages.is_empty() || self.languages.contains(point.language.as_str());
        let kind = self.filter.kind.is_none_or(|kind| kind == point.kind);
        let id = point.memory_id.as_str();
        let named = (self.only.is_empty() || self.only.contains(id)) && !self.exclude.contains(id);
        product && language && kind && named
    }
}

/// Positions of the candidates that are among the best of any leg, in the request's language or in the others.
fn best_of_each_language(candidates: &[&Stored], legs: &[&[Option<f32>]], query: &SearchQuery) -> BTreeSet<usize> {
    let (own, others): (Vec<usize>, Vec<usize>) =
        (0..candidates.len()).partition(|&position| candidates[position].point.language == query.language);
    let mut found = BTreeSet::new();
    for leg in legs {
        for part in [&own, &others] {
            let mut scored: Vec<(f32, usize)> = part.iter().filter_map(|&at| Some((leg[at]?, at))).collect();
            // Candidates are in the order of their ids, which breaks ties.
            scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
            found.extend(scored.into_iter().take(query.limit).map(|(_, position)| position));
        }
    }
    found
}

/// The found candidates that a leg has a score for, best first, ties by id.
fn hits(candidates: &[&Stored], leg: &[Option<f32>], found: &BTreeSet<usize>) -> Vec<Hit> {
    let mut hits: Vec<Hit> = found
        .iter()
        .filter_map(|&position| {
            let point = &candidates[position].point;
            Some(Hit {
                point: point.id,
                memory_id: point.memory_id.clone(),
                passage: point.passage,
                kind: point.kind,
                language: point.language.clone(),
                score: leg[position]?,
            })
        })
        .collect();
    hits.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.point.cmp(&b.point)));
    hits
}

/// Cosine of two vectors of the same length, 0 when one of them is zero.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot: f32 = a.iter().zip(b).map(|(x, y)| x * y).sum();
    let norms = (squared(a) * squared(b)).sqrt();
    if norms > 0.0 { dot / norms } else { 0.0 }
}

fn squared(vector: &[f32]) -> f32 {
    vector.iter().map(|x| x * x).sum()
}
