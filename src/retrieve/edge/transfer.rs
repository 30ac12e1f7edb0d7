//! Reading and writing points as they are.

use qdrant_edge::{
    PointId, Record, ScrollRequest, VectorInternal, VectorStructInternal, WithPayloadInterface, WithVector,
};
use uuid::Uuid;

use super::engine::{BM25, PROBLEM, PRODUCT, SOLUTION};
use super::points::{hit, text};
use super::{BATCH, EdgeStore};
use crate::retrieve::bm25::SparseTerms;
use crate::retrieve::transfer::{StoredPoint, Transfer};
use crate::retrieve::{RetrieveError, check_vector};

impl Transfer for EdgeStore {
    fn page(&self, from: Option<Uuid>, limit: usize) -> Result<(Vec<StoredPoint>, Option<Uuid>), RetrieveError> {
        let page = ScrollRequest {
            offset: from.map(PointId::Uuid),
            limit: Some(limit),
            with_payload: Some(WithPayloadInterface::Bool(true)),
            with_vector: WithVector::Selector(vec![PROBLEM.into(), SOLUTION.into(), BM25.into()]),
            ..ScrollRequest::default()
        };
        let (records, next) = self.inner.with_shard(|shard| shard.scroll(page))?;
        let next = match next {
            Some(PointId::Uuid(id)) => Some(id),
            _ => None,
        };
        Ok((records.into_iter().filter_map(stored).collect(), next))
    }

    fn put(&self, points: &[StoredPoint]) -> Result<(), RetrieveError> {
        for point in points {
            check_vector(&point.problem, self.inner.stamp.dimensions)?;
            check_vector(&point.solution, self.inner.stamp.dimensions)?;
        }
        points.chunks(BATCH).try_for_each(|batch| self.inner.insert(batch))
    }
}

/// The point as it is stored; None for one that is not ours.
fn stored(record: Record) -> Option<StoredPoint> {
    let PointId::Uuid(id) = record.id else { return None };
    let payload = record.payload.as_ref()?;
    let hit = hit(id, payload)?;
    let product = text(payload, PRODUCT).map(str::to_owned);
    let Some(VectorStructInternal::Named(mut vectors)) = record.vector else { return None };
    let mut dense = |name: &str| match vectors.remove(name) {
        Some(VectorInternal::Dense(vector)) => Some(vector),
        _ => None,
    };
    let (problem, solution) = (dense(PROBLEM)?, dense(SOLUTION)?);
    let words = match vectors.remove(BM25) {
        Some(VectorInternal::Sparse(words)) => SparseTerms { indices: words.indices, values: words.values },
        _ => SparseTerms::default(),
    };
    Some(StoredPoint {
        id,
        memory_id: hit.memory_id,
        kind: hit.kind,
        product,
        language: hit.language,
        passage: hit.passage,
        problem,
        solution,
        words,
    })
}
