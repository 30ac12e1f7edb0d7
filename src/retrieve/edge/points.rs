//! Our points as the engine's, filters, and hits back from payloads.

use std::collections::BTreeSet;

use qdrant_edge::external::serde_json::{Value, json};
use qdrant_edge::{
    Condition, EdgeShard, FieldCondition, Filter as EngineFilter, HasIdCondition, Match, NamedVectors, OperationResult,
    Payload, PointId, PointStruct, ScrollRequest, SparseVector, Vector, Vectors, WithPayloadInterface,
};
use uuid::Uuid;

use super::engine::{BM25, KIND, LANGUAGE, MEMORY_ID, PASSAGE, PROBLEM, PRODUCT, SOLUTION, path};
use crate::retrieve::bm25::SparseTerms;
use crate::retrieve::transfer::StoredPoint;
use crate::retrieve::{Filter, Hit};
use crate::ticket::MemoryKind;

/// Points looked up at once where their number is not known.
const PAGE: usize = 10_000;

pub(super) fn engine_point(point: &StoredPoint) -> OperationResult<PointStruct> {
    let mut vectors =
        NamedVectors::default().add_vector(PROBLEM, point.problem.clone()).add_vector(SOLUTION, point.solution.clone());
    if !point.words.is_empty() {
        let words = Vector::new_sparse(point.words.indices.clone(), point.words.values.clone())?;
        vectors = vectors.add_vector(BM25, words);
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

pub(super) fn sparse(terms: &SparseTerms) -> SparseVector {
    SparseVector { indices: terms.indices.clone(), values: terms.values.clone() }
}

/// The request's filter without its languages.
pub(super) fn engine_filter(shard: &EdgeShard, filter: &Filter) -> OperationResult<EngineFilter> {
    let mut must = Vec::new();
    if let Some(product) = &filter.product {
        must.push(any_of(PRODUCT, [product.clone()]));
    }
    if let Some(kind) = filter.kind {
        must.push(any_of(KIND, [kind.name().to_owned()]));
    }
    // By point, not by memory id: looked up once here, not for every candidate of a search.
    if !filter.only.is_empty() {
        must.push(has_id(ids_of(shard, &filter.only)?));
    }
    let excluded = ids_of(shard, &filter.exclude)?;
    let must_not = if excluded.is_empty() { vec![] } else { vec![has_id(excluded)] };
    let some = |conditions: Vec<Condition>| Some(conditions).filter(|conditions| !conditions.is_empty());
    Ok(EngineFilter { must: some(must), must_not: some(must_not), ..EngineFilter::new() })
}

/// Ids of all points of these memory items.
pub(super) fn ids_of(shard: &EdgeShard, memory_ids: &[String]) -> OperationResult<Vec<PointId>> {
    let mut ids = Vec::new();
    let mut offset = None;
    while !memory_ids.is_empty() {
        let page = ScrollRequest {
            offset,
            limit: Some(PAGE),
            filter: Some(EngineFilter::new_must(any_of(MEMORY_ID, memory_ids.iter().cloned()))),
            with_payload: Some(WithPayloadInterface::Bool(false)),
            ..ScrollRequest::default()
        };
        let (records, next) = shard.scroll(page)?;
        ids.extend(records.into_iter().map(|record| record.id));
        offset = next;
        if offset.is_none() {
            break;
        }
    }
    Ok(ids)
}

pub(super) fn any_of(key: &str, values: impl IntoIterator<Item = String>) -> Condition {
    // A set: the engine's plan should not depend on the order in which values were named.
    let values: BTreeSet<String> = values.into_iter().collect();
    Condition::Field(FieldCondition::new_match(path(key), Match::from(values.into_iter().collect::<Vec<_>>())))
}

pub(super) fn has_id(ids: impl IntoIterator<Item = PointId>) -> Condition {
    Condition::HasId(ids.into_iter().collect::<HasIdCondition>())
}

/// The hit of a point, without its score. None for a payload that is not ours; it cannot be looked up.
pub(super) fn hit(id: Uuid, payload: &Payload) -> Option<Hit> {
    Some(Hit {
        point: id,
        memory_id: text(payload, MEMORY_ID)?.to_owned(),
        passage: payload.0.get(PASSAGE).and_then(Value::as_u64)? as usize,
        kind: kind(payload)?,
        language: text(payload, LANGUAGE)?.to_owned(),
        score: 0.0,
    })
}

pub(super) fn kind(payload: &Payload) -> Option<MemoryKind> {
    let name = text(payload, KIND)?;
    Some(if name == MemoryKind::Article.name() { MemoryKind::Article } else { MemoryKind::Ticket })
}

pub(super) fn text<'a>(payload: &'a Payload, key: &str) -> Option<&'a str> {
    payload.0.get(key).and_then(Value::as_str)
}
