//! Our points as the server's and back, filters, and hits from payloads.

use std::collections::HashMap;

use qdrant_client::Payload;
use qdrant_client::qdrant::point_id::PointIdOptions;
use qdrant_client::qdrant::value::Kind;
use qdrant_client::qdrant::vector_output::Vector as Found;
use qdrant_client::qdrant::{
    Condition, Filter as ServerFilter, NamedVectors, PointId, PointStruct, RetrievedPoint, Value, Vector, VectorsOutput,
};
use uuid::Uuid;

use super::schema::{BM25, KIND, LANGUAGE, MEMORY_ID, PASSAGE, PROBLEM, PRODUCT, SOLUTION};
use crate::retrieve::bm25::SparseTerms;
use crate::retrieve::transfer::StoredPoint;
use crate::retrieve::{Filter, Hit};
use crate::ticket::MemoryKind;

pub(super) fn server_point(point: &StoredPoint) -> PointStruct {
    let mut vectors = NamedVectors::default()
        .add_vector(PROBLEM, Vector::new_dense(point.problem.clone()))
        .add_vector(SOLUTION, Vector::new_dense(point.solution.clone()));
    if !point.words.is_empty() {
        let words = Vector::new_sparse(point.words.indices.clone(), point.words.values.clone());
        vectors = vectors.add_vector(BM25, words);
    }
    let mut payload = Payload::new();
    payload.insert(MEMORY_ID, point.memory_id.as_str());
    payload.insert(KIND, point.kind.name());
    payload.insert(LANGUAGE, point.language.as_str());
    payload.insert(PASSAGE, point.passage as i64);
    payload.insert(PRODUCT, point.product.as_deref().map_or(Kind::NullValue(0).into(), Value::from));
    PointStruct::new(server_id(point.id), vectors, payload)
}

/// The point as it is stored; None for one that is not ours.
pub(super) fn stored_point(point: RetrievedPoint) -> Option<StoredPoint> {
    let id = uuid(point.id.as_ref()?)?;
    let hit = hit(id, &point.payload)?;
    let vectors = point.vectors?;
    let words = match vectors.get_vector_by_name(BM25) {
        Some(Found::Sparse(words)) => SparseTerms { indices: words.indices, values: words.values },
        _ => SparseTerms::default(),
    };
    Some(StoredPoint {
        id,
        memory_id: hit.memory_id,
        kind: hit.kind,
        product: text(&point.payload, PRODUCT).map(str::to_owned),
        language: hit.language,
        passage: hit.passage,
        problem: dense(&vectors, PROBLEM)?,
        solution: dense(&vectors, SOLUTION)?,
        words,
    })
}

fn dense(vectors: &VectorsOutput, name: &str) -> Option<Vec<f32>> {
    match vectors.get_vector_by_name(name)? {
        Found::Dense(vector) => Some(vector.data),
        _ => None,
    }
}

/// The request's filter without its languages.
pub(super) fn server_filter(filter: &Filter) -> ServerFilter {
    let product = filter.product.as_ref().map(|product| any_of(PRODUCT, [product.clone()]));
    let kind = filter.kind.map(|kind| any_of(KIND, [kind.name().to_owned()]));
    let named = (!filter.only.is_empty()).then(|| any_of(MEMORY_ID, filter.only.iter().cloned()));
    let excluded = (!filter.exclude.is_empty()).then(|| any_of(MEMORY_ID, filter.exclude.iter().cloned()));
    ServerFilter {
        must: product.into_iter().chain(kind).chain(named).collect(),
        must_not: excluded.into_iter().collect(),
        ..ServerFilter::default()
    }
}

pub(super) fn any_of(key: &str, values: impl IntoIterator<Item = String>) -> Condition {
    Condition::matches(key, values.into_iter().collect::<Vec<String>>())
}

/// The hit of a point, without its score. None for a payload that is not ours; it cannot be looked up.
pub(super) fn hit(id: Uuid, payload: &HashMap<String, Value>) -> Option<Hit> {
    let kind = text(payload, KIND)?;
    Some(Hit {
        point: id,
        memory_id: text(payload, MEMORY_ID)?.to_owned(),
        passage: whole(payload, PASSAGE)?,
        kind: if kind == MemoryKind::Article.name() { MemoryKind::Article } else { MemoryKind::Ticket },
        language: text(payload, LANGUAGE)?.to_owned(),
        score: 0.0,
    })
}

fn text<'a>(payload: &'a HashMap<String, Value>, key: &str) -> Option<&'a str> {
    match payload.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

fn whole(payload: &HashMap<String, Value>, key: &str) -> Option<usize> {
    match payload.get(key)?.kind.as_ref()? {
        Kind::IntegerValue(number) => usize::try_from(*number).ok(),
        _ => None,
    }
}

pub(super) fn server_id(id: Uuid) -> PointId {
    PointIdOptions::Uuid(id.to_string()).into()
}

pub(super) fn uuid(id: &PointId) -> Option<Uuid> {
    match id.point_id_options.as_ref()? {
        PointIdOptions::Uuid(id) => id.parse().ok(),
        PointIdOptions::Num(_) => None,
    }
}
