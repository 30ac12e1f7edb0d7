//! What a search has to know of the index before it starts: languages, mean vectors, and which words are common.
//!
//! Mean vectors and words come from the first points by id. Ids are hashes, so these are a fair sample of a large memory.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use qdrant_edge::{
    EdgeShard, FacetRequest, FacetValue, OperationResult, PointId, Record, ScrollRequest, VectorInternal,
    VectorStructInternal, WithPayloadInterface, WithVector,
};

use super::engine::{BM25, LANGUAGE, PROBLEM, SOLUTION, path};
use super::points::{kind, text};
use crate::retrieve::background::{Centroids, SAMPLE};
use crate::retrieve::bm25::SparseTerms;

/// Entries of the inverted index that the candidates of one search by words may take. A request has about six times as
/// many entries as the index has points, so all of its words are read up to about 60,000 points.
const ENTRIES: f32 = 400_000.0;
/// Words looked up in any case, the rarest ones.
const LEAST_WORDS: usize = 4;
/// More languages than any memory has.
const LANGUAGES: usize = 1_000;

/// See the module.
#[derive(Default)]
pub(super) struct Known {
    pub points: usize,
    /// At least those of all points.
    pub languages: BTreeSet<String>,
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
        let languages = FacetRequest { key: path(LANGUAGE), limit: LANGUAGES, filter: None, exact: false };
        let languages = shard.facet(languages)?.hits.into_iter().filter_map(|hit| match hit.value {
            FacetValue::Keyword(language) => Some(language),
            _ => None,
        });
        let languages = languages.collect();
        Ok(Self { points: shard.info().points_count, languages, sample: Arc::new(Sample::read(shard)?) })
    }

    /// The rarest of the terms, as many as may be read; all of them in a small memory.
    pub fn affordable(&self, terms: &SparseTerms) -> SparseTerms {
        let share = |term: u32| self.sample.share(term);
        let mut by_share: Vec<(f32, usize)> =
            terms.indices.iter().enumerate().map(|(at, term)| (share(*term), at)).collect();
        by_share.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut entries = 0.0;
        let mut chosen: Vec<usize> = by_share
            .into_iter()
            .enumerate()
            .take_while(|(count, (share, _))| {
                entries += share * self.points as f32;
                *count < LEAST_WORDS || entries <= ENTRIES
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
    fn a_small_memory_reads_every_word_and_a_large_one_the_rarest() {
        let terms = SparseTerms { indices: (0..20).collect(), values: vec![1.0; 20] };
        assert_eq!(known(50_000).affordable(&terms), terms);
        let chosen = known(1_000_000).affordable(&terms);
        // Ten words that the sample lacks, and those of shares 0, 0.1 and 0.2.
        assert_eq!(chosen.indices, [0, 1, 2, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
        assert_eq!(chosen.values.len(), chosen.indices.len());
        let common = SparseTerms { indices: (5..10).collect(), values: vec![1.0; 5] };
        assert_eq!(known(10_000_000).affordable(&common).indices, [5, 6, 7, 8]);
        assert!(known(10).affordable(&SparseTerms::default()).is_empty());
    }
}
