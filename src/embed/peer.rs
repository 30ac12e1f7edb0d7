//! candle's own BERT over the same weights: the peer that our forward pass is measured against and tested with.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config, HiddenAct};

use super::container::{BertShape, Container};
use super::{EmbedError, in_batches, normalise};

/// Sequences in one forward pass, padded to the longest of them.
const BATCH: usize = 32;
/// Masked out, so any id does; this is the one that XLM-R vocabularies pad with.
const PADDING: u32 = 1;

/// candle's `BertModel` with the decoded weights of our container.
pub struct CandlePeer {
    model: BertModel,
}

impl CandlePeer {
    /// Decodes the whole container to f32 (470 MB for multilingual-e5-small).
    ///
    /// # Errors
    /// [`EmbedError::File`] when the file is missing, damaged or of another model; [`EmbedError::Model`] from candle.
    pub fn load(container: &Path) -> Result<Self, EmbedError> {
        Self::from_container(&Container::open(container)?)
    }

    pub(super) fn from_container(container: &Container) -> Result<Self, EmbedError> {
        let shape = container.shape();
        let config = Config {
            vocab_size: shape.vocab,
            hidden_size: shape.hidden,
            num_hidden_layers: shape.layers,
            num_attention_heads: shape.heads,
            intermediate_size: shape.ffn,
            hidden_act: HiddenAct::Gelu,
            max_position_embeddings: shape.positions,
            type_vocab_size: shape.types,
            layer_norm_eps: f64::from(shape.norm_eps),
            ..Config::default()
        };
        let weights = VarBuilder::from_tensors(hub_tensors(container)?, DType::F32, &Device::Cpu);
        Ok(Self { model: BertModel::load(weights, &config)? })
    }

    /// The unit vector of one sequence of token ids, which has at least one.
    ///
    /// # Errors
    /// When candle fails, for example at an id beyond the vocabulary.
    pub fn vector(&self, ids: &[u32]) -> Result<Vec<f32>, EmbedError> {
        let ids = Tensor::from_slice(ids, (1, ids.len()), &Device::Cpu)?;
        let hidden = self.model.forward(&ids, &ids.zeros_like()?, None)?;
        let mut vector = hidden.mean(1)?.squeeze(0)?.to_vec1()?;
        normalise(&mut vector);
        Ok(vector)
    }

    /// One unit vector per sequence, in order, in padded batches of sequences of about one length: how candle's model is
    /// meant to be used in bulk.
    ///
    /// # Errors
    /// As [`CandlePeer::vector`].
    pub fn vectors(&self, sequences: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EmbedError> {
        in_batches(sequences, BATCH, |padded| self.batch(padded))
    }

    fn batch(&self, sequences: &[&[u32]]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let width = sequences.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(sequences.len() * width);
        let mut mask = Vec::with_capacity(sequences.len() * width);
        for sequence in sequences {
            ids.extend((0..width).map(|at| sequence.get(at).copied().unwrap_or(PADDING)));
            mask.extend((0..width).map(|at| u32::from(at < sequence.len())));
        }
        let shape = (sequences.len(), width);
        let ids = Tensor::from_vec(ids, shape, &Device::Cpu)?;
        let mask = Tensor::from_vec(mask, shape, &Device::Cpu)?;
        let hidden = self.model.forward(&ids, &ids.zeros_like()?, Some(&mask))?;
        // The sum serves as well as the mean: only the direction stays.
        let mask = mask.to_dtype(DType::F32)?.unsqueeze(2)?;
        let mut vectors = hidden.broadcast_mul(&mask)?.sum(1)?.to_vec2::<f32>()?;
        vectors.iter_mut().for_each(|vector| normalise(vector));
        Ok(vectors)
    }
}

/// The container's tensors, decoded, under the names and in the shapes that the Hugging Face hub uses.
pub(super) fn hub_tensors(container: &Container) -> Result<HashMap<String, Tensor>, EmbedError> {
    let BertShape { hidden, layers, ffn, vocab, positions, types, .. } = container.shape();
    let mut tensors = HashMap::new();
    let mut add = |from: String, to: String, shape: &[usize]| -> Result<(), EmbedError> {
        let values = container.tensor(&from, shape.iter().product())?;
        tensors.insert(to, Tensor::from_vec(values, shape, &Device::Cpu)?);
        Ok(())
    };
    add("emb.word".into(), "embeddings.word_embeddings.weight".into(), &[vocab, hidden])?;
    add("emb.pos".into(), "embeddings.position_embeddings.weight".into(), &[positions, hidden])?;
    add("emb.type".into(), "embeddings.token_type_embeddings.weight".into(), &[types, hidden])?;
    add("emb.ln.w".into(), "embeddings.LayerNorm.weight".into(), &[hidden])?;
    add("emb.ln.b".into(), "embeddings.LayerNorm.bias".into(), &[hidden])?;
    for layer in 0..layers {
        for (ours, hubs, inputs, outputs) in [
            ("q", "attention.self.query", hidden, hidden),
            ("k", "attention.self.key", hidden, hidden),
            ("v", "attention.self.value", hidden, hidden),
            ("ao", "attention.output.dense", hidden, hidden),
            ("fi", "intermediate.dense", hidden, ffn),
            ("fo", "output.dense", ffn, hidden),
        ] {
            let hubs = format!("encoder.layer.{layer}.{hubs}");
            add(format!("l{layer}.{ours}.w"), format!("{hubs}.weight"), &[outputs, inputs])?;
            add(format!("l{layer}.{ours}.b"), format!("{hubs}.bias"), &[outputs])?;
        }
        for (ours, hubs) in [("aln", "attention.output.LayerNorm"), ("oln", "output.LayerNorm")] {
            let hubs = format!("encoder.layer.{layer}.{hubs}");
            add(format!("l{layer}.{ours}.w"), format!("{hubs}.weight"), &[hidden])?;
            add(format!("l{layer}.{ours}.b"), format!("{hubs}.bias"), &[hidden])?;
        }
    }
    Ok(tensors)
}

#[cfg(test)]
pub mod tests {
    use std::io::Write;

    use super::super::container::tests::tiny_container;
    use super::*;

    /// A tiny BERT with made-up weights.
    pub fn tiny() -> Container {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(&tiny_container()).expect("written");
        Container::open(file.path()).expect("the tiny container")
    }

    #[test]
    fn a_padded_batch_gives_the_vectors_of_each_sequence_alone() {
        let peer = CandlePeer::from_container(&tiny()).expect("candle's model");
        let sequences = [vec![0, 5, 2], vec![1], vec![0, 3, 4, 5, 6, 7, 1, 1, 2], vec![7, 7]];
        let together = peer.vectors(&sequences).expect("vectors");
        for (ids, vector) in sequences.iter().zip(&together) {
            let alone = peer.vector(ids).expect("a vector");
            let similarity: f32 = alone.iter().zip(vector).map(|(one, other)| one * other).sum();
            assert!(similarity > 0.999_99, "{ids:?}: cosine {similarity}");
        }
        assert!(peer.vectors(&[]).expect("no vectors").is_empty());
    }

    #[test]
    fn an_id_beyond_the_vocabulary_and_a_missing_file_are_errors() {
        let peer = CandlePeer::from_container(&tiny()).expect("candle's model");
        assert!(peer.vector(&[8]).is_err());
        let error = CandlePeer::load(Path::new("/nonexistent/e5.bin")).err().expect("no file").to_string();
        assert!(error.contains("/nonexistent/e5.bin") && error.contains("respondo models pull"), "{error}");
    }
}
