//! How the engine keeps our points: names, graph, quantisation, and what is in memory and what on disk.
//!
//! Per item of two vectors of 384: 768 bytes of 8-bit vectors, the links of two graphs, ids and languages are in memory;
//! the vectors as they came, payloads, the other payload indexes and the words are mapped from disk.

use qdrant_edge::{
    AcornSearchParams, CreateIndex, Distance, EdgeConfig, EdgeOptimizersConfig, EdgeSparseVectorParams,
    EdgeVectorParams, FieldIndexOperations, HnswIndexConfig, JsonPath, KeywordIndexParams, Modifier,
    PayloadFieldSchema, PayloadSchemaParams, QuantizationSearchParams, ScalarQuantizationConfig, ScalarType,
    SearchParams, UpdateOperation,
};

pub(super) use crate::retrieve::names::{BM25, KIND, LANGUAGE, MEMORY_ID, PASSAGE, PROBLEM, PRODUCT, SOLUTION};

/// A part of the index with fewer points than this is scanned, exactly: that takes a few milliseconds, and what is scanned
/// needs no building. The same bound holds for the points that a filter leaves over in a part with a graph.
pub(super) const GRAPH_FROM: usize = 20_000;
/// From this many points on, a smaller part is scanned beside what has a graph: it would cost more than the graph's share.
const LARGE: usize = 4 * GRAPH_FROM;
const SCANNED_IN_LARGE: usize = GRAPH_FROM / 4;
/// The same after a merge, whose every step rebuilds the whole index.
pub(super) const SCANNED_AFTER_MERGE: usize = 1_000;
/// Neighbours of a point in the graph (twice as many in its lowest layer), and candidates looked at when it is linked.
const LINKS: usize = 24;
const CANDIDATES_BUILDING: usize = 200;
/// Candidates looked at in a search, and in one of a vast memory for the request's language and for the others: recall
/// at a million items hangs on the first (0.92 with 256, 0.96 with 512), and little of the second is among the best.
const CANDIDATES_SEARCHING: usize = 256;
const CANDIDATES_IN_VAST: (usize, usize) = (1024, 100);
/// From this many points on, what a search looks up for every point is most of its time; see `plan`.
pub(super) const VAST: usize = 10 * GRAPH_FROM;
const ENOUGH_BY_EIGHT_BITS: f64 = 100.0;
/// Parts that the index may have before small ones are merged. Each is searched for itself; with more of them a large one
/// is rebuilt less often as points come in.
pub(super) const PARTS: usize = 4;

/// What a shard is made and opened with.
pub(super) fn config(dimensions: usize) -> EdgeConfig {
    let graph = HnswIndexConfig {
        m: LINKS,
        ef_construct: CANDIDATES_BUILDING,
        full_scan_threshold: kilobytes(dimensions, GRAPH_FROM),
        max_indexing_threads: 0,
        on_disk: Some(false),
        payload_m: Some(LINKS),
        inline_storage: None,
    };
    let eight_bits =
        ScalarQuantizationConfig { r#type: ScalarType::Int8, quantile: Some(0.99), always_ram: Some(true) };
    let dense = EdgeVectorParams::builder(dimensions, Distance::Cosine)
        .on_disk(true)
        .hnsw_config(graph)
        .quantization_config(eight_bits.into())
        .build();
    EdgeConfig::builder()
        .vector(PROBLEM, dense.clone())
        .vector(SOLUTION, dense)
        .sparse_vector(BM25, EdgeSparseVectorParams::builder().modifier(Modifier::Idf).on_disk(true).build())
        .on_disk_payload(true)
        .optimizers(into_parts(dimensions, PARTS, GRAPH_FROM))
        .build()
}

/// How many parts there may be and how many points one may have without a graph. Parts are as large as they get.
pub(super) fn into_parts(dimensions: usize, parts: usize, scanned: usize) -> EdgeOptimizersConfig {
    EdgeOptimizersConfig {
        indexing_threshold: Some(kilobytes(dimensions, scanned)),
        default_segment_number: Some(parts),
        max_segment_size: Some(usize::MAX),
        ..EdgeOptimizersConfig::default()
    }
}

/// Points of an index of `points` that may be scanned at every search.
pub(super) fn scanned(points: usize) -> usize {
    if points < LARGE { GRAPH_FROM } else { SCANNED_IN_LARGE }
}

/// Vectors in the engine's measure.
fn kilobytes(dimensions: usize, vectors: usize) -> usize {
    (vectors * dimensions * size_of::<f32>()).div_ceil(1024)
}

/// Indexes of the payload. Only the language is part of every search: it alone is in memory and has links of its own in
/// the graphs, so that a language with few points is found as well as the others.
pub(super) fn payload_indexes() -> Vec<UpdateOperation> {
    let index = |key: &str| {
        let often = key == LANGUAGE;
        let keyword =
            KeywordIndexParams { on_disk: Some(!often), enable_hnsw: Some(often), ..KeywordIndexParams::default() };
        UpdateOperation::FieldIndexOperation(FieldIndexOperations::CreateIndex(CreateIndex {
            field_name: path(key),
            field_schema: Some(PayloadFieldSchema::FieldParams(PayloadSchemaParams::Keyword(keyword))),
        }))
    };
    [MEMORY_ID, KIND, PRODUCT, LANGUAGE].into_iter().map(index).collect()
}

/// Candidates looked at in a graph for the request's language and for the others.
pub(super) fn candidates(vast: bool) -> (usize, usize) {
    if vast { CANDIDATES_IN_VAST } else { (CANDIDATES_SEARCHING, CANDIDATES_SEARCHING) }
}

/// A search for `limit` points as the service does it.
pub(super) fn served(limit: usize, candidates: usize) -> SearchParams {
    // The best by 8 bits hold the best ten by the exact vectors when there are a hundred of them, which we score. Of
    // fewer, the engine chooses by the exact vectors among a hundred.
    let more = (ENOUGH_BY_EIGHT_BITS / limit.max(1) as f64).max(1.0);
    SearchParams {
        hnsw_ef: Some(candidates),
        quantization: Some(QuantizationSearchParams {
            ignore: false,
            rescore: Some(more > 1.0),
            oversampling: Some(more),
        }),
        acorn: Some(AcornSearchParams { enable: true, max_selectivity: None }),
        ..SearchParams::default()
    }
}

/// A search that scores every point by the vectors as they came.
pub(super) fn exact() -> SearchParams {
    SearchParams { exact: true, ..SearchParams::default() }
}

pub(super) fn path(key: &str) -> JsonPath {
    JsonPath { first_key: key.to_owned(), rest: vec![] }
}
