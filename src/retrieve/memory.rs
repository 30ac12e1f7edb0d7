//! An exact vector store in memory: for tests, for small desks and for builds without the embedded engine.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use uuid::Uuid;

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

    fn delete(&self, memory_ids: &[String]) -> Result<(), RetrieveError> {
        let doomed: HashSet<&str> = memory_ids.iter().map(String::as_str).collect();
        let mut stored = self.write();
        let ids: Vec<Uuid> =
            stored.by_id.values().filter(|s| doomed.contains(s.point.memory_id.as_str())).map(|s| s.point.id).collect();
        for id in ids {
            stored.remove(id);
        }
        Ok(())
    }

    fn search(&self, query: &SearchQuery) -> Result<Legs, RetrieveError> {
        let stored = self.read();
        let wanted = Wanted::new(&query.filter);
        let candidates: Vec<&Stored> = stored.by_id.values().filter(|s| wanted.takes(&s.point)).collect();

        let mut legs = Legs { lexical: stored.lexical(query, &candidates), ..Legs::default() };
        if query.vector.is_empty() {
            return Ok(legs);
        }
        check_vector(&query.vector, self.dimensions)?;
        legs.problem = best(&candidates, query.limit, |s| Some(cosine(&query.vector, &s.point.problem)));
        legs.solution = best(&candidates, query.limit, |s| Some(cosine(&query.vector, &s.point.solution)));
        Ok(legs)
    }

    fn count(&self) -> Result<u64, RetrieveError> {
        Ok(self.read().by_id.len() as u64)
    }

    fn checkpoint(&self) -> Result<(), RetrieveError> {
        Ok(())
    }

    fn clear(&self) -> Result<(), RetrieveError> {
        *self.write() = Points::default();
        Ok(())
    }
}

impl Points {
    fn insert(&mut self, point: MemoryPoint) {
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
        self.with_terms -= usize::from(!old.terms.is_empty());
        for term in &old.terms.indices {
            if let Some(count) = self.containing.get_mut(term) {
                *count = count.saturating_sub(1);
            }
        }
    }

    fn lexical(&self, query: &SearchQuery, candidates: &[&Stored]) -> Vec<Hit> {
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
        best(candidates, query.limit, |stored| {
            let products = stored.terms.indices.iter().zip(&stored.terms.values);
            let mut matched = products.filter_map(|(index, value)| weights.get(index).map(|w| w * value)).peekable();
            matched.peek()?;
            Some(matched.sum())
        })
    }
}

/// The filter with its lists as sets.
struct Wanted<'a> {
    filter: &'a Filter,
    languages: HashSet<&'a str>,
    exclude: HashSet<&'a str>,
}

impl<'a> Wanted<'a> {
    fn new(filter: &'a Filter) -> Self {
        Self {
            filter,
            languages: filter.languages.iter().map(String::as_str).collect(),
            exclude: filter.exclude.iter().map(String::as_str).collect(),
        }
    }

    fn takes(&self, point: &MemoryPoint) -> bool {
        let product = self.filter.product.is_none() || self.filter.product == point.product;
        let language = self.languages.is_empty() || self.languages.contains(point.language.as_str());
        let kind = self.filter.kind.is_none_or(|kind| kind == point.kind);
        product && language && kind && !self.exclude.contains(point.memory_id.as_str())
    }
}

/// The `limit` points with the highest score, ties by id.
fn best(candidates: &[&Stored], limit: usize, score: impl Fn(&Stored) -> Option<f32>) -> Vec<Hit> {
    let mut scored: Vec<(f32, &MemoryPoint)> =
        candidates.iter().filter_map(|stored| Some((score(stored)?, &stored.point))).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.id.cmp(&b.1.id)));
    scored.truncate(limit);
    scored
        .into_iter()
        .map(|(score, point)| Hit {
            point: point.id,
            memory_id: point.memory_id.clone(),
            passage: point.passage,
            kind: point.kind,
            language: point.language.clone(),
            score,
        })
        .collect()
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
