//! Any BERT-family embedder from a folder as the Hugging Face hub keeps it, run by candle's own models. Slower than the
//! built-in one, but general: BERT and XLM-RoBERTa encoders of any size, with mean pooling.

use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{bert, xlm_roberta};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use super::e5::{cut_ids, load_tokenizer};
use super::{DEFAULT_MAX_TOKENS, EmbedError, Embedder, Prefixes, Role, cut, in_batches, normalise};

/// Texts in one forward pass; all are padded to the longest of them.
const BATCH: usize = 16;
/// No more is tokenised per token that is read: longer pieces are rare in any vocabulary.
const BYTES_PER_TOKEN: usize = 48;
/// Start, end and one token between.
const LEAST_MAX_TOKENS: usize = 3;

/// What a folder does not say about its model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CandleBertOptions {
    pub prefixes: Prefixes,
    /// Cap on the tokens read of each text; the model's own limit holds beside it.
    pub max_tokens: usize,
}

impl Default for CandleBertOptions {
    fn default() -> Self {
        Self { prefixes: Prefixes::default(), max_tokens: DEFAULT_MAX_TOKENS }
    }
}

/// An [`Embedder`] over candle's BERT or XLM-RoBERTa.
pub struct CandleBertEmbedder {
    device: Device,
    model: Model,
    tokenizer: Tokenizer,
    name: String,
    hidden: usize,
    max_tokens: usize,
    padding: u32,
    prefixes: Prefixes,
}

enum Model {
    Bert(Box<bert::BertModel>),
    XlmRoberta(Box<xlm_roberta::XLMRobertaModel>),
}

/// The part of `config.json` that both families share.
#[derive(Deserialize)]
struct CommonConfig {
    model_type: String,
    hidden_size: usize,
    max_position_embeddings: usize,
    #[serde(default)]
    pad_token_id: u32,
}

/// The first GPU where the program was built for one and one is there, else the processor.
fn device() -> candle_core::Result<Device> {
    if cfg!(feature = "cuda") { Device::cuda_if_available(0) } else { Ok(Device::Cpu) }
}

impl CandleBertEmbedder {
    /// Loads `config.json`, `tokenizer.json` and `model.safetensors` of a folder, weights as f32.
    ///
    /// # Errors
    /// [`EmbedError::File`] when one of them is missing, damaged, or of a family that is not supported.
    pub fn load(folder: &Path, options: CandleBertOptions) -> Result<Self, EmbedError> {
        let config_path = folder.join("config.json");
        let config_text = read(&config_path)?;
        let config: CommonConfig = parse(&config_path, &config_text)?;
        let tokenizer_path = folder.join("tokenizer.json");
        let tokenizer = load_tokenizer(&tokenizer_path)?;
        let weights_path = folder.join("model.safetensors");
        let weights = read(&weights_path)?;
        let name = name_of(folder, &options, [&config_text, &read(&tokenizer_path)?, &weights]);

        let device = device()?;
        let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &device)
            .map_err(|error| EmbedError::file(&weights_path, format!("is no safetensors file: {error}")))?;
        let wrong_weights = |error| EmbedError::file(&weights_path, format!("does not fit its config.json: {error}"));
        let (model, positions) = match config.model_type.as_str() {
            "bert" => {
                let model =
                    bert::BertModel::load(weights, &parse(&config_path, &config_text)?).map_err(wrong_weights)?;
                (Model::Bert(Box::new(model)), config.max_position_embeddings)
            }
            "xlm-roberta" => {
                let weights = if weights.contains_tensor("roberta.embeddings.word_embeddings.weight") {
                    weights.pp("roberta")
                } else {
                    weights
                };
                let model = xlm_roberta::XLMRobertaModel::new(&parse(&config_path, &config_text)?, weights)
                    .map_err(wrong_weights)?;
                // Its positions begin after the padding id.
                let positions = config.max_position_embeddings.saturating_sub(config.pad_token_id as usize + 1);
                (Model::XlmRoberta(Box::new(model)), positions)
            }
            other => {
                let reason = format!("model type {other} is not supported; use a bert or xlm-roberta model");
                return Err(EmbedError::file(&config_path, reason));
            }
        };
        Ok(Self {
            model,
            device,
            tokenizer,
            name,
            hidden: config.hidden_size,
            max_tokens: options.max_tokens.clamp(LEAST_MAX_TOKENS, positions.max(LEAST_MAX_TOKENS)),
            padding: config.pad_token_id,
            prefixes: options.prefixes,
        })
    }

    fn tokenise(&self, texts: &[&str], role: Role) -> Result<Vec<Vec<u32>>, EmbedError> {
        let prefix = self.prefixes.of(role);
        let prefixed = texts
            .iter()
            .map(|text| format!("{prefix}{}", cut(text.trim_start(), self.max_tokens * BYTES_PER_TOKEN)))
            .collect();
        let encodings = self
            .tokenizer
            .encode_batch_fast(prefixed, true)
            .map_err(|error| EmbedError::Tokenizer(error.to_string()))?;
        let mut tokens: Vec<Vec<u32>> =
            encodings.iter().map(|encoding| cut_ids(encoding.get_ids(), self.max_tokens)).collect();
        // A tokenizer without start and end marks gives nothing at all for an empty text.
        tokens.iter_mut().filter(|ids| ids.is_empty()).for_each(|ids| ids.push(self.padding));
        Ok(tokens)
    }

    /// Mean-pooled unit vectors of one padded batch.
    fn forward(&self, sequences: &[&[u32]]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let width = sequences.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(sequences.len() * width);
        let mut mask = Vec::with_capacity(sequences.len() * width);
        for sequence in sequences {
            ids.extend((0..width).map(|at| sequence.get(at).copied().unwrap_or(self.padding)));
            mask.extend((0..width).map(|at| u32::from(at < sequence.len())));
        }
        let shape = (sequences.len(), width);
        let ids = Tensor::from_vec(ids, shape, &self.device)?;
        let mask = Tensor::from_vec(mask, shape, &self.device)?;
        let types = ids.zeros_like()?;
        let hidden = match &self.model {
            Model::Bert(model) => model.forward(&ids, &types, Some(&mask))?,
            Model::XlmRoberta(model) => model.forward(&ids, &mask, &types, None, None, None)?,
        };
        let mask = mask.to_dtype(DType::F32)?.unsqueeze(2)?;
        // The sum serves as well as the mean: only the direction stays.
        let mut vectors = hidden.broadcast_mul(&mask)?.sum(1)?.to_vec2::<f32>()?;
        vectors.iter_mut().for_each(|vector| normalise(vector));
        Ok(vectors)
    }
}

impl Embedder for CandleBertEmbedder {
    fn name(&self) -> &str {
        &self.name
    }

    fn dimensions(&self) -> usize {
        self.hidden
    }

    fn embed(&mut self, texts: &[&str], role: Role) -> Result<Vec<Vec<f32>>, EmbedError> {
        let tokens = self.tokenise(texts, role)?;
        in_batches(&tokens, BATCH, |sequences| self.forward(sequences))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, EmbedError> {
    fs::read(path).map_err(|error| {
        let reason =
            format!("cannot be read: {error}; the folder needs config.json, tokenizer.json and model.safetensors");
        EmbedError::file(path, reason)
    })
}

fn parse<T: for<'a> Deserialize<'a>>(path: &Path, text: &[u8]) -> Result<T, EmbedError> {
    serde_json::from_slice(text)
        .map_err(|error| EmbedError::file(path, format!("is no configuration of a supported model: {error}")))
}

/// The folder's name, and a digest of everything that the vectors depend on.
fn name_of(folder: &Path, options: &CandleBertOptions, files: [&[u8]; 3]) -> String {
    let mut hasher = Sha256::new();
    for file in files {
        hasher.update(Sha256::digest(file));
    }
    hasher.update(format!("{options:?}"));
    let digest: String = hasher.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let folder = folder.file_name().unwrap_or_default().to_string_lossy();
    format!("{folder}-{digest}")
}

#[cfg(test)]
mod tests {
    use super::super::peer::tests::tiny;
    use super::super::peer::{CandlePeer, hub_tensors};
    use super::*;

    const TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,"model":{"type":"WordLevel",
        "vocab":{"[PAD]":0,"[UNK]":1,"site":2,"down":3,"sitio":4,"caido":5,"query":6,"is":7},"unk_token":"[UNK]"}}"#;
    const CONFIG: &str = r#"{"model_type":"bert","vocab_size":8,"hidden_size":32,"num_hidden_layers":1,
        "num_attention_heads":2,"intermediate_size":64,"hidden_act":"gelu","hidden_dropout_prob":0.1,
        "max_position_embeddings":16,"type_vocab_size":2,"initializer_range":0.02,"layer_norm_eps":1e-12,
        "pad_token_id":0}"#;

    /// A folder with a tiny BERT, as the hub would give it.
    fn tiny_folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let weights = folder.path().join("model.safetensors");
        candle_core::safetensors::save(&hub_tensors(&tiny()).expect("tensors"), weights).expect("weights");
        fs::write(folder.path().join("config.json"), CONFIG).expect("config");
        fs::write(folder.path().join("tokenizer.json"), TOKENIZER).expect("tokenizer");
        folder
    }

    #[test]
    fn padding_changes_no_vector() {
        let folder = tiny_folder();
        let mut embedder = CandleBertEmbedder::load(folder.path(), CandleBertOptions::default()).expect("an embedder");
        assert_eq!(embedder.dimensions(), 32);
        let vectors = embedder.embed(&["site down", "sitio", "site site is down caido"], Role::Query).expect("vectors");
        let peer = CandlePeer::from_container(&tiny()).expect("candle's model");
        for (vector, ids) in vectors.iter().zip([vec![2, 3], vec![4], vec![2, 2, 7, 3, 5]]) {
            let wanted = peer.vector(&ids).expect("a vector");
            let similarity: f32 = vector.iter().zip(&wanted).map(|(one, other)| one * other).sum();
            assert!(similarity > 0.999_99, "{ids:?}: cosine {similarity}");
        }
    }

    #[test]
    fn strange_texts_are_embedded_too() {
        let folder = tiny_folder();
        let mut embedder = CandleBertEmbedder::load(folder.path(), CandleBertOptions::default()).expect("an embedder");
        let huge = "site ".repeat(200_000);
        let vectors = embedder.embed(&["", "🙂", &huge, "\u{202e}\0"], Role::Passage).expect("vectors");
        for vector in vectors {
            let norm: f32 = vector.iter().map(|value| value * value).sum();
            assert!((norm - 1.0).abs() < 1e-4);
        }
    }

    #[test]
    fn the_name_changes_with_what_changes_vectors() {
        let folder = tiny_folder();
        let plain = CandleBertEmbedder::load(folder.path(), CandleBertOptions::default()).expect("an embedder");
        let prefixed = CandleBertOptions { prefixes: Prefixes::e5(), ..CandleBertOptions::default() };
        let prefixed = CandleBertEmbedder::load(folder.path(), prefixed).expect("an embedder");
        assert_ne!(plain.name(), prefixed.name());
    }

    #[test]
    fn errors_name_the_file_and_the_reason() {
        let folder = tiny_folder();
        let load = || CandleBertEmbedder::load(folder.path(), CandleBertOptions::default());
        let config = folder.path().join("config.json");
        fs::write(&config, CONFIG.replace("\"bert\"", "\"gpt2\"")).expect("config");
        let error = load().err().expect("another family").to_string();
        assert!(error.contains("gpt2") && error.contains("config.json"), "{error}");
        fs::write(&config, CONFIG.replace("\"hidden_size\":32", "\"hidden_size\":48")).expect("config");
        let error = load().err().expect("wrong size").to_string();
        assert!(error.contains("model.safetensors"), "{error}");
        fs::write(&config, CONFIG).expect("config");
        fs::write(folder.path().join("model.safetensors"), b"no weights").expect("weights");
        let error = load().err().expect("no weights").to_string();
        assert!(error.contains("no safetensors"), "{error}");
        fs::remove_file(folder.path().join("tokenizer.json")).expect("removed");
        let error = load().err().expect("no tokenizer").to_string();
        assert!(error.contains("tokenizer.json"), "{error}");
    }
}
