//! What a search has to know of the index before it starts: languages, mean vectors, and which words are common.
//!
//! Mean vectors and words come from the first points by id. Ids are hashes, so these are a fair sample of a large memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use qdrant_edge::{
    EdgeShard, FacetRequest, FacetValue, OperationResult, PointId, Record, ScrollRequest, VectorInternal,
    VectorStructInternal, WithPayloadInterface, WithVector,
};

use super::engine::{BM25, LANGUAGE, PROBLEM, SOLUTION, VAST, path};
use super::points::{kind, text};
use super::words::Rarity;
use crate::retrieve::SearchQuery;
use crate::retrieve::background::{Centroids, SAMPLE};
use crate::retrieve::bm25::SparseTerms;

/// Entries of the inverted index that the candidates of one search by words may take. A request has about six times as
/// many entries as the index has points, so all of its words are read up to about 60,000 points.
const ENTRIES: f32 = 400_000.0;
/// The same in a vast memory, where all words are searched at once and the rarer ones say enough.
const ENTRIES_IN_VAST: f32 = 200_000.0;
/// Words looked up in any case, the rarest ones.
const LEAST_WORDS: usize = 4;
/// More languages than any memory has.
const LANGUAGES: usize = 1_000;

/// See the module.
#[derive(Default)]
pub(super) struct Known {
    pub points: usize,
    /// At least those of all points, with how many have each; 0 for one that came since.
    pub languages: BTreeMap<String, usize>,
    pub rarity: Rarity,
    pub sample: Arc<Sample>,
}

/// What is known from the first points by id.
#[derive(Default)]
pub(super) struct Sample {
    pub centroids: Centroids,
    /// Points with words, and how many of them hold each word.
    worded: usize,
    holding: HashMap<u32, usize>,
    /// The last point of a full sample: changes behind it do not change the sample.
    last: Option<PointId>,
}

impl Known {
    pub fn read(shard: &EdgeShard) -> OperationResult<Self> {
        let (points, languages) = (shard.info().points_count, Self::languages(shard)?);
        Ok(Self { points, languages, rarity: Rarity::default(), sample: Arc::new(Sample::read(shard)?) })
    }

    /// Languages with how many points have each.
    pub fn languages(shard: &EdgeShard) -> OperationResult<BTreeMap<String, usize>> {
        let languages = FacetRequest { key: path(LANGUAGE), limit: LANGUAGES, filter: None, exact: false };
        let counted = shard.facet(languages)?.hits.into_iter().filter_map(|hit| match hit.value {
            FacetValue::Keyword(language) => Some((language, hit.count)),
            _ => None,
        });
        Ok(counted.collect())
    }

    /// The request's language, and the others that it wants; those that no point has are left out.
    pub fn split(&self, query: &SearchQuery) -> (Vec<String>, Vec<String>) {
        let wanted =
            |language: &&String| query.filter.languages.is_empty() || query.filter.languages.contains(language);
        self.languages.keys().filter(wanted).cloned().partition(|language| *language == query.language)
    }

    /// Share of the points in one of these languages.
    pub fn share(&self, languages: &[String]) -> f32 {
        let count: usize = languages.iter().filter_map(|language| self.languages.get(language)).sum();
        count as f32 / self.points.max(1) as f32
    }

    /// Whether conditions on the language are saved where they can be, and more candidates looked at.
    pub fn is_vast(&self) -> bool {
        self.points >= VAST
    }

    /// The rarest of the terms, as many as may be read; all of them in a small memory.
    pub fn affordable(&self, terms: &SparseTerms) -> SparseTerms {
        let share = |term: u32| self.sample.share(term);
        let mut by_share: Vec<(f32, usize)> =
            terms.indices.iter().enumerate().map(|(at, term)| (share(*term), at)).collect();
        by_share.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let bound = if self.is_vast() { ENTRIES_IN_VAST } else { ENTRIES };
        let mut entries = 0.0;
        let mut chosen: Vec<usize> = by_share
            .into_iter()
            .enumerate()
            .take_while(|(count, (share, _))| {
                entries += share * self.points as f32;
                *count < LEAST_WORDS || entries <= bound
            })
            .map(|(_, (_, at))| at)
            .collect();
        chosen.sort_unstable();
        let (indices, values) = chosen
            .into_iter()
            .filter_map(|at| Some((terms.indices.get(at).copied()?, terms.values.get(at).copied()?)))
            .unzip();
        SparseTerms { indices, values }
    }
}

impl Sample {
    pub fn read(shard: &EdgeShard) -> OperationResult<Self> {
        let first = ScrollRequest {
            limit: Some(SAMPLE),
            with_payload: Some(WithPayloadInterface::Bool(true)),
            with_vector: WithVector::Selector(vec![PROBLEM.into(), SOLUTION.into(), BM25.into()]),
            ..ScrollRequest::default()
        };
        let (records, _) = shard.scroll(first)?;
        let mut sample = Self::default();
        for record in &records {
            sample.add(record);
        }
        sample.last = records.last().filter(|_| records.len() == SAMPLE).map(|record| record.id);
        Ok(sample)
    }

    /// Whether a change of the point with this id, the lowest of all that changed, changes the sample.
    pub fn holds(&self, lowest: PointId) -> bool {
        self.last.is_none_or(|last| lowest <= last)
    }

    fn add(&mut self, record: &Record) -> Option<()> {
        let payload = record.payload.as_ref()?;
        let Some(VectorStructInternal::Named(vectors)) = &record.vector else { return None };
        if let Some(VectorInternal::Sparse(words)) = vectors.get(BM25) {
            self.worded += 1;
            for term in &words.indices {
                *self.holding.entry(*term).or_default() += 1;
            }
        }
        let (Some(VectorInternal::Dense(problem)), Some(VectorInternal::Dense(solution))) =
            (vectors.get(PROBLEM), vectors.get(SOLUTION))
        else {
            return None;
        };
        self.centroids.add(kind(payload)?, text(payload, LANGUAGE)?, problem, solution);
        Some(())
    }

    /// Estimated share of points that hold the term; half a point of the sample where none does.
    fn share(&self, term: u32) -> f32 {
        let holding = self.holding.get(&term).map_or(0.5, |count| *count as f32);
        holding / self.worded.max(1) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(points: usize) -> Known {
        let sample =
            Sample { worded: 1_000, holding: (0..10).map(|n| (n, 100 * n as usize)).collect(), ..Sample::default() };
        Known { points, sample: Arc::new(sample), ..Known::default() }
    }

    #[test]
    fn a_small_memory_reads_every_word_and_larger_ones_the_rarest() {
        let terms = SparseTerms { indices: (0..20).collect(), values: vec![1.0; 20] };
        assert_eq!(known(50_000).affordable(&terms), terms);
        let chosen = known(180_000).affordable(&terms);
        // Ten words that the sample lacks, and those of shares up to 0.6.
        assert_eq!(chosen.indices, [0, 1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
        assert_eq!(chosen.values.len(), chosen.indices.len());
        let of_a_vast_one = known(500_000).affordable(&terms);
        assert_eq!(of_a_vast_one.indices, [0, 1, 2, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
        let common = SparseTerms { indices: (5..10).collect(), values: vec![1.0; 5] };
        assert_eq!(known(10_000_000).affordable(&common).indices, [5, 6, 7, 8]);
        assert!(known(10).affordable(&SparseTerms::default()).is_empty());
    }
}
