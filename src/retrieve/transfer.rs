//! Moving an index as it is, vectors and all, and comparing the two afterwards.

use uuid::Uuid;

use super::bm25::{self, SparseTerms};
use super::fuse::{Fusion, Weights, fuse};
use super::retriever::best_passages;
use super::{Legs, MemoryPoint, Ranked, RetrieveError, SearchQuery, VectorStore};
use crate::ticket::MemoryKind;

/// Points read and written at once: about 3 KB each.
const PAGE: usize = 512;
/// Items compared of each search, and what two scores may differ by for the same: servers sum in another order.
const COMPARED: usize = 10;
const SAME: f32 = 1e-3;

/// A point as an index keeps it: its texts are words with weights already.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredPoint {
    pub id: Uuid,
    pub memory_id: String,
    pub kind: MemoryKind,
    pub product: Option<String>,
    pub language: String,
    pub passage: usize,
    /// Unit vectors.
    pub problem: Vec<f32>,
    pub solution: Vec<f32>,
    /// Empty where the texts have no word that counts.
    pub words: SparseTerms,
}

impl From<&MemoryPoint> for StoredPoint {
    fn from(point: &MemoryPoint) -> Self {
        let text = format!("{}\n{}", point.problem_text, point.solution_text);
        Self {
            id: point.id,
            memory_id: point.memory_id.clone(),
            kind: point.kind,
            product: point.product.clone(),
            language: point.language.clone(),
            passage: point.passage,
            problem: point.problem.clone(),
            solution: point.solution.clone(),
            words: bm25::document_terms(&text, &point.language),
        }
    }
}

/// A store whose points can be read and written as they are.
pub trait Transfer: VectorStore {
    /// Up to `limit` points in the order of their ids from `from` on (None: from the first), and where the next page
    /// begins.
    ///
    /// # Errors
    /// When the store fails.
    fn page(&self, from: Option<Uuid>, limit: usize) -> Result<(Vec<StoredPoint>, Option<Uuid>), RetrieveError>;
    /// Adds or replaces by point id.
    ///
    /// # Errors
    /// As [`VectorStore::upsert`].
    fn put(&self, points: &[StoredPoint]) -> Result<(), RetrieveError>;
}

/// Copies all points into an index that takes the place of what `to` held, and gives their number. `progress` hears how
/// many are done.
///
/// # Errors
/// When one of the stores fails; a server then goes on with what it held.
pub fn copy(from: &dyn Transfer, to: &dyn Transfer, progress: &mut dyn FnMut(u64)) -> Result<u64, RetrieveError> {
    to.begin_rebuild()?;
    let (mut copied, mut next) = (0, None);
    loop {
        let (points, after) = from.page(next, PAGE)?;
        to.put(&points)?;
        copied += points.len() as u64;
        progress(copied);
        next = after;
        if next.is_none() {
            break;
        }
    }
    to.checkpoint()?;
    to.finish_rebuild()?;
    Ok(copied)
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    pub searches: usize,
    /// Searches whose first ten items are the same on both sides, but for the order of equal scores.
    pub same: usize,
    /// Text of each search that differs, with what differs.
    pub differences: Vec<String>,
}

/// Does each search on both stores and compares the first ten items.
///
/// # Errors
/// When one of the stores fails.
pub fn compare(
    one: &dyn VectorStore,
    other: &dyn VectorStore,
    searches: &[SearchQuery],
    progress: &mut dyn FnMut(u64),
) -> Result<Comparison, RetrieveError> {
    let mut comparison = Comparison { searches: searches.len(), ..Comparison::default() };
    for (number, search) in searches.iter().enumerate() {
        let (here, there) = (first(&one.search(search)?), first(&other.search(search)?));
        match difference(&here, &there) {
            None => comparison.same += 1,
            Some(difference) => {
                let text: String = search.text.chars().take(60).collect();
                comparison.differences.push(format!("{}: {difference}", text.replace('\n', " ")));
            }
        }
        progress(number as u64 + 1);
    }
    Ok(comparison)
}

fn first(legs: &Legs) -> Vec<Ranked> {
    // All passages of an article have the vector of its title in common: which of them are among the candidates hangs on the
    // order of equal scores, and so does what those behind the best one add.
    let weights = Weights { further_passages: 0.0, ..Weights::default() };
    let mut ranked = best_passages(fuse(legs, Fusion::Weighted(weights)));
    ranked.truncate(COMPARED);
    ranked
}

/// Where two lists differ other than by the order of equal scores.
fn difference(one: &[Ranked], other: &[Ranked]) -> Option<String> {
    if one.len() != other.len() {
        return Some(format!("{} items, and {} on the other side", one.len(), other.len()));
    }
    let differs = |(a, b): &(&Ranked, &Ranked)| a.memory_id != b.memory_id && (a.score - b.score).abs() > SAME;
    let (rank, (a, b)) = one.iter().zip(other).enumerate().find(|(_, pair)| differs(pair))?;
    Some(format!("place {}: {} ({:.4}) and {} ({:.4})", rank + 1, a.memory_id, a.score, b.memory_id, b.score))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranked(list: &[(&str, f32)]) -> Vec<Ranked> {
        let item = |(id, score): &(&str, f32)| Ranked {
            memory_id: (*id).to_owned(),
            passage: 0,
            score: *score,
            similarity: 0.0,
            lexical: 0.0,
        };
        list.iter().map(item).collect()
    }

    #[test]
    fn equal_scores_may_change_places_and_nothing_else_may() {
        let one = ranked(&[("a", 0.9), ("b", 0.5), ("c", 0.5)]);
        assert_eq!(difference(&one, &one), None);
        assert_eq!(difference(&one, &ranked(&[("a", 0.9), ("c", 0.5), ("b", 0.5)])), None);
        let moved = difference(&one, &ranked(&[("b", 0.95), ("a", 0.9), ("c", 0.5)])).expect("another order");
        assert!(moved.starts_with("place 1: a (0.9000) and b"), "{moved}");
        assert!(difference(&one, &one[..2]).is_some());
    }
}
