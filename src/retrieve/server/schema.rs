//! How a collection is made: names, graph, quantisation, and what is in memory and what on disk. As in the embedded engine,
//! whose figures these are (`retrieve/edge/engine.rs`).

use std::collections::HashMap;

use qdrant_client::qdrant::payload_index_params::IndexParams;
use qdrant_client::qdrant::quantization_config::Quantization;
use qdrant_client::qdrant::value::Kind;
use qdrant_client::qdrant::vectors_config::Config;
use qdrant_client::qdrant::{
    AcornSearchParams, CreateCollection, CreateFieldIndexCollection, Distance, FieldType, HnswConfigDiff,
    KeywordIndexParams, Modifier, OptimizersConfigDiff, PayloadIndexParams, QuantizationConfig,
    QuantizationSearchParams, QuantizationType, ScalarQuantization, SearchParams, SparseVectorConfig,
    SparseVectorParams, Value, VectorParams, VectorParamsMap, VectorsConfig,
};

use super::settings::{IndexSettings, Quantisation};
use crate::retrieve::bm25;

pub(super) use crate::retrieve::names::{BM25, KIND, LANGUAGE, MEMORY_ID, PASSAGE, PROBLEM, PRODUCT, SOLUTION};

/// Version of the layout; raise it when a collection of an older one cannot be read or is kept otherwise.
const FORMAT: i64 = 1;
/// Vectors that are scanned, exactly, before a graph is built of a part or where a filter leaves fewer.
const GRAPH_FROM: u64 = 20_000;
/// Neighbours of a point in the graph, and candidates looked at when it is linked and in a search.
const LINKS: u64 = 24;
const CANDIDATES_BUILDING: u64 = 200;
const CANDIDATES_SEARCHING: u64 = 256;

/// What a collection was made with, kept in its metadata. Another model's vectors or another analysis of words cannot be
/// compared with ours.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stamp {
    pub model: String,
    pub dimensions: usize,
}

impl Stamp {
    fn metadata(&self) -> HashMap<String, Value> {
        HashMap::from([
            ("respondo_format".to_owned(), FORMAT.into()),
            ("respondo_analysis".to_owned(), i64::from(bm25::ANALYSIS_VERSION).into()),
            ("respondo_model".to_owned(), self.model.clone().into()),
            ("respondo_dimensions".to_owned(), (self.dimensions as i64).into()),
        ])
    }

    /// How a collection with this metadata differs from ours; None where it does not.
    pub fn difference(&self, metadata: &HashMap<String, Value>) -> Option<String> {
        let ours = self.metadata();
        if ours.iter().all(|(key, value)| metadata.get(key) == Some(value)) {
            return None;
        }
        let described = |metadata: &HashMap<String, Value>| {
            let shown = |key: &str| match metadata.get(key).and_then(|value| value.kind.as_ref()) {
                Some(Kind::StringValue(text)) => text.clone(),
                Some(Kind::IntegerValue(number)) => number.to_string(),
                _ => "unknown".to_owned(),
            };
            format!(
                "{} ({} dimensions, format {}.{})",
                shown("respondo_model"),
                shown("respondo_dimensions"),
                shown("respondo_format"),
                shown("respondo_analysis")
            )
        };
        Some(format!("it was made with {}, wanted is {}", described(metadata), described(&ours)))
    }
}

/// A new collection.
#[expect(deprecated, reason = "servers before 1.19 do not know the field `memory` that takes the place of `on_disk`")]
pub(super) fn collection(name: &str, settings: &IndexSettings, stamp: &Stamp) -> CreateCollection {
    let kilobytes = (GRAPH_FROM * stamp.dimensions as u64 * size_of::<f32>() as u64).div_ceil(1024);
    let graph = HnswConfigDiff {
        m: Some(LINKS),
        ef_construct: Some(CANDIDATES_BUILDING),
        full_scan_threshold: Some(kilobytes),
        payload_m: Some(LINKS),
        on_disk: Some(false),
        ..HnswConfigDiff::default()
    };
    let eight_bits = ScalarQuantization {
        r#type: QuantizationType::Int8.into(),
        quantile: Some(0.99),
        always_ram: Some(true),
        ..ScalarQuantization::default()
    };
    let quantization = match settings.quantisation {
        Quantisation::None => None,
        Quantisation::Scalar => Some(QuantizationConfig { quantization: Some(Quantization::Scalar(eight_bits)) }),
    };
    let dense = VectorParams {
        size: stamp.dimensions as u64,
        distance: Distance::Cosine.into(),
        on_disk: Some(settings.on_disk),
        ..VectorParams::default()
    };
    let map = HashMap::from([(PROBLEM.to_owned(), dense), (SOLUTION.to_owned(), dense)]);
    let words = SparseVectorParams { modifier: Some(Modifier::Idf.into()), ..SparseVectorParams::default() };
    CreateCollection {
        collection_name: name.to_owned(),
        hnsw_config: Some(graph),
        optimizers_config: Some(OptimizersConfigDiff {
            indexing_threshold: Some(kilobytes),
            ..OptimizersConfigDiff::default()
        }),
        shard_number: Some(settings.shards),
        replication_factor: Some(settings.replicas),
        write_consistency_factor: Some(settings.write_consistency),
        on_disk_payload: Some(settings.on_disk),
        vectors_config: Some(VectorsConfig { config: Some(Config::ParamsMap(VectorParamsMap { map })) }),
        quantization_config: quantization,
        sparse_vectors_config: Some(SparseVectorConfig { map: HashMap::from([(BM25.to_owned(), words)]) }),
        metadata: stamp.metadata(),
        ..CreateCollection::default()
    }
}

/// Indexes of the payload. Only the language is part of every search and has links of its own in the graphs.
pub(super) fn payload_indexes(collection: &str) -> Vec<CreateFieldIndexCollection> {
    let index = |key: &str| {
        let keyword = KeywordIndexParams { enable_hnsw: Some(key == LANGUAGE), ..KeywordIndexParams::default() };
        CreateFieldIndexCollection {
            collection_name: collection.to_owned(),
            wait: Some(true),
            field_name: key.to_owned(),
            field_type: Some(FieldType::Keyword.into()),
            field_index_params: Some(PayloadIndexParams {
                index_params: Some(IndexParams::KeywordIndexParams(keyword)),
            }),
            ..CreateFieldIndexCollection::default()
        }
    };
    [MEMORY_ID, KIND, PRODUCT, LANGUAGE].into_iter().map(index).collect()
}

/// A search for candidates.
pub(super) fn served() -> SearchParams {
    SearchParams {
        hnsw_ef: Some(CANDIDATES_SEARCHING),
        quantization: Some(QuantizationSearchParams { rescore: Some(true), ..QuantizationSearchParams::default() }),
        acorn: Some(AcornSearchParams { enable: Some(true), max_selectivity: None }),
        ..SearchParams::default()
    }
}

/// A search that scores by the vectors as they came.
pub(super) fn exact() -> SearchParams {
    SearchParams { exact: Some(true), ..SearchParams::default() }
}
