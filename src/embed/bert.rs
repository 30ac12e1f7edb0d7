//! Our own forward pass of a BERT encoder on the CPU, made for bulk: the sequences of a batch lie one behind the other
//! without padding, so no time goes into tokens that do not exist; only attention looks at sequences one by one.
//!
//! The matrix products are candle's; everything between them works in place (see [`crate::kernels`]).

use candle_core::{CpuStorage, DType, Device, InplaceOp1, InplaceOp2, Layout, Storage, Tensor};
use rayon::prelude::*;

use super::EmbedError;
use super::container::{BertShape, Container, QuantisedRows};
use crate::kernels::Level;
use crate::kernels::rows::{self as kernels, LayerNorm};

/// Rows a thread takes at a time; small enough to share out evenly, large enough to pay for the hand-over.
const ROWS_PER_TASK: usize = 16;
/// Attention heads are shared out in groups, so that a single sequence keeps two cores busy.
const HEAD_GROUPS: usize = 2;

/// Weights of a BERT encoder, ready to run: f32 but for the word embeddings, which stay 4-bit.
pub struct PackedBert {
    shape: BertShape,
    words: QuantisedRows,
    /// `[positions, hidden]`, with the embedding of token type 0 added: e5 uses no other.
    positions: Vec<f32>,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

struct Layer {
    /// Query, key and value in one, `[hidden, 3 * hidden]`; the query's part carries attention's 1 / sqrt(head width).
    qkv: Dense,
    attention_out: Dense,
    attention_norm: LayerNorm,
    ffn_in: Dense,
    ffn_out: Dense,
    ffn_norm: LayerNorm,
}

/// `x * weight + bias`; the bias is added by what follows the product.
struct Dense {
    /// `[inputs, outputs]`.
    weight: Tensor,
    bias: Vec<f32>,
}

impl PackedBert {
    /// Decodes the weights (85 MB for multilingual-e5-small).
    ///
    /// # Errors
    /// [`EmbedError::File`] when a tensor is missing or has another size than the shape says.
    pub fn load(container: Container) -> Result<Self, EmbedError> {
        let shape = container.shape();
        let layers = (0..shape.layers).map(|index| load_layer(&container, index)).collect::<Result<Vec<_>, _>>()?;
        let mut positions = container.tensor("emb.pos", shape.positions * shape.hidden)?;
        let types = container.tensor("emb.type", shape.types * shape.hidden)?;
        let first_type = types.get(..shape.hidden).unwrap_or_default();
        kernels::add_bias(Level::here(), &mut positions, first_type);
        let norm = load_norm(&container, "emb.ln")?;
        let words = container.into_rows("emb.word", shape.vocab, shape.hidden)?;
        Ok(Self { shape, words, positions, norm, layers })
    }

    /// The model's sizes.
    pub fn shape(&self) -> BertShape {
        self.shape
    }

    /// One mean-pooled, not yet normalised vector per sequence of token ids. Every sequence has at least one token and
    /// at most as many as the model has positions.
    ///
    /// # Errors
    /// [`EmbedError::Tokenizer`] when an id or a length is beyond the model; [`EmbedError::Model`] from candle.
    pub fn forward(&self, sequences: &[&[u32]]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.len()).collect();
        let tokens: usize = lengths.iter().sum();
        let embedded = self.embed_tokens(sequences, tokens)?;
        let mut hidden = Tensor::from_vec(embedded, (tokens, self.shape.hidden), &Device::Cpu)?;
        for layer in &self.layers {
            hidden = layer.forward(hidden, &lengths, self.shape)?;
        }
        with_values(&hidden, |values| mean_pool(values, &lengths, self.shape.hidden))
    }

    fn embed_tokens(&self, sequences: &[&[u32]], tokens: usize) -> Result<Vec<f32>, EmbedError> {
        let width = self.shape.hidden;
        let mut embedded = vec![0.0; tokens * width];
        let mut rows = embedded.chunks_exact_mut(width);
        for sequence in sequences {
            if sequence.is_empty() || sequence.len() > self.shape.positions {
                return Err(EmbedError::Tokenizer(format!(
                    "a sequence has {} tokens, the model reads 1 to {}",
                    sequence.len(),
                    self.shape.positions
                )));
            }
            let positions = self.positions.chunks_exact(width);
            for ((&id, position), row) in sequence.iter().zip(positions).zip(&mut rows) {
                if !self.words.decode(id as usize, row) {
                    return Err(EmbedError::Tokenizer(format!(
                        "token id {id} is beyond the model's {} words; tokenizer.json belongs to another model",
                        self.shape.vocab
                    )));
                }
                kernels::add_bias(Level::here(), row, position);
                self.norm.apply(row);
            }
        }
        Ok(embedded)
    }
}

impl Layer {
    /// `hidden` and the result are `[tokens, hidden size]`.
    fn forward(&self, hidden: Tensor, lengths: &[usize], shape: BertShape) -> Result<Tensor, EmbedError> {
        let qkv = hidden.matmul(&self.qkv.weight)?;
        qkv.inplace_op1(&AddBias { bias: &self.qkv.bias })?;
        let context = attend(&qkv, lengths, shape)?;

        let attended = context.matmul(&self.attention_out.weight)?;
        attended.inplace_op2(&hidden, &AddThenNormalise { dense: &self.attention_out, norm: &self.attention_norm })?;

        let inner = attended.matmul(&self.ffn_in.weight)?;
        inner.inplace_op1(&AddBiasThenGelu { bias: &self.ffn_in.bias })?;
        let out = inner.matmul(&self.ffn_out.weight)?;
        out.inplace_op2(&attended, &AddThenNormalise { dense: &self.ffn_out, norm: &self.ffn_norm })?;
        Ok(out)
    }
}

/// One sequence and one group of heads: the unit that attention is shared out in.
struct AttentionTask {
    first_token: usize,
    length: usize,
    group: usize,
}

/// Self-attention of each sequence within itself: `[tokens, 3 * hidden]` to `[tokens, hidden]`.
fn attend(qkv: &Tensor, lengths: &[usize], shape: BertShape) -> Result<Tensor, EmbedError> {
    let groups = if shape.heads.is_multiple_of(HEAD_GROUPS) { HEAD_GROUPS } else { 1 };
    let mut tasks = Vec::with_capacity(lengths.len() * groups);
    let mut first_token = 0;
    for &length in lengths {
        tasks.extend((0..groups).map(|group| AttentionTask { first_token, length, group }));
        first_token += length;
    }
    let contexts = tasks
        .par_iter()
        .map(|task| attend_heads(qkv, task, shape, shape.heads / groups))
        .collect::<candle_core::Result<Vec<_>>>()?;

    let mut joined = vec![0.0; first_token * shape.hidden];
    let mut rest = joined.as_mut_slice();
    for (parts, &length) in contexts.chunks_exact(groups).zip(lengths) {
        let (rows, after) = rest.split_at_mut(length * shape.hidden);
        rest = after;
        for (group, part) in parts.iter().enumerate() {
            let first_column = group * shape.hidden / groups;
            with_values(part, |heads| scatter_heads(heads, rows, length, shape, first_column))?;
        }
    }
    Ok(Tensor::from_vec(joined, (first_token, shape.hidden), &Device::Cpu)?)
}

/// Attention of some heads of one sequence, `[heads, length, head width]`.
fn attend_heads(qkv: &Tensor, task: &AttentionTask, shape: BertShape, heads: usize) -> candle_core::Result<Tensor> {
    let head_width = shape.hidden / shape.heads;
    let parts = qkv
        .narrow(0, task.first_token, task.length)?
        .reshape((task.length, 3, shape.heads, head_width))?
        .narrow(2, task.group * heads, heads)?;
    let query = parts.get_on_dim(1, 0)?.transpose(0, 1)?;
    let key = parts.get_on_dim(1, 1)?.transpose(0, 1)?;
    let value = parts.get_on_dim(1, 2)?.transpose(0, 1)?;
    let weights = query.matmul(&key.transpose(1, 2)?)?;
    weights.inplace_op1(&Softmax { width: task.length })?;
    weights.matmul(&value)
}

/// Puts `[heads, length, head width]` into columns of `[length, hidden]`, from `first_column` on.
fn scatter_heads(heads: &[f32], rows: &mut [f32], length: usize, shape: BertShape, first_column: usize) {
    let head_width = shape.hidden / shape.heads;
    for (head, values) in heads.chunks_exact(length * head_width).enumerate() {
        let column = first_column + head * head_width;
        for (row, part) in rows.chunks_exact_mut(shape.hidden).zip(values.chunks_exact(head_width)) {
            row[column..column + head_width].copy_from_slice(part);
        }
    }
}

fn mean_pool(hidden: &[f32], lengths: &[usize], width: usize) -> Vec<Vec<f32>> {
    let mut rest = hidden;
    let mut pooled = Vec::with_capacity(lengths.len());
    for &length in lengths {
        let (rows, after) = rest.split_at(length * width);
        rest = after;
        let mut sum = vec![0.0; width];
        for row in rows.chunks_exact(width) {
            kernels::add_bias(Level::here(), &mut sum, row);
        }
        sum.iter_mut().for_each(|value| *value /= length as f32);
        pooled.push(sum);
    }
    pooled
}

fn load_layer(container: &Container, index: usize) -> Result<Layer, EmbedError> {
    let BertShape { hidden, heads, ffn, .. } = container.shape();
    let prefix = |part: &str| format!("l{index}.{part}");
    let query_scale = 1.0 / ((hidden / heads) as f32).sqrt();
    let mut weight = Vec::with_capacity(3 * hidden * hidden);
    let mut bias = Vec::with_capacity(3 * hidden);
    for (part, scale) in [("q", query_scale), ("k", 1.0), ("v", 1.0)] {
        let part_weight = container.tensor(&prefix(&format!("{part}.w")), hidden * hidden)?;
        let part_bias = container.tensor(&prefix(&format!("{part}.b")), hidden)?;
        weight.extend(part_weight.iter().map(|value| value * scale));
        bias.extend(part_bias.iter().map(|value| value * scale));
    }
    Ok(Layer {
        qkv: Dense::new(weight, bias, hidden)?,
        attention_out: load_dense(container, &prefix("ao"), hidden, hidden)?,
        attention_norm: load_norm(container, &prefix("aln"))?,
        ffn_in: load_dense(container, &prefix("fi"), hidden, ffn)?,
        ffn_out: load_dense(container, &prefix("fo"), ffn, hidden)?,
        ffn_norm: load_norm(container, &prefix("oln"))?,
    })
}

fn load_dense(container: &Container, name: &str, inputs: usize, outputs: usize) -> Result<Dense, EmbedError> {
    let weight = container.tensor(&format!("{name}.w"), inputs * outputs)?;
    let bias = container.tensor(&format!("{name}.b"), outputs)?;
    Dense::new(weight, bias, inputs)
}

fn load_norm(container: &Container, name: &str) -> Result<LayerNorm, EmbedError> {
    let BertShape { hidden, norm_eps, .. } = container.shape();
    Ok(LayerNorm {
        weight: container.tensor(&format!("{name}.w"), hidden)?,
        shift: container.tensor(&format!("{name}.b"), hidden)?,
        eps: norm_eps,
    })
}

impl Dense {
    /// From a weight as files keep it, `[outputs, inputs]`.
    fn new(weight: Vec<f32>, bias: Vec<f32>, inputs: usize) -> Result<Self, EmbedError> {
        let weight = Tensor::from_vec(weight, (bias.len(), inputs), &Device::Cpu)?.t()?.contiguous()?;
        Ok(Self { weight, bias })
    }
}

struct AddBias<'a> {
    bias: &'a [f32],
}

impl InplaceOp1 for AddBias<'_> {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        values_mut(storage, layout)?
            .par_chunks_mut(ROWS_PER_TASK * self.bias.len())
            .for_each(|rows| kernels::add_bias(Level::here(), rows, self.bias));
        Ok(())
    }
}

struct AddBiasThenGelu<'a> {
    bias: &'a [f32],
}

impl InplaceOp1 for AddBiasThenGelu<'_> {
    fn name(&self) -> &'static str {
        "add-bias-then-gelu"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        values_mut(storage, layout)?
            .par_chunks_mut(ROWS_PER_TASK * self.bias.len())
            .for_each(|rows| kernels::add_bias_then_gelu(Level::here(), rows, self.bias));
        Ok(())
    }
}

/// The second tensor is the residual.
struct AddThenNormalise<'a> {
    dense: &'a Dense,
    norm: &'a LayerNorm,
}

impl InplaceOp2 for AddThenNormalise<'_> {
    fn name(&self) -> &'static str {
        "add-then-normalise"
    }

    fn cpu_fwd(
        &self,
        storage: &mut CpuStorage,
        layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> candle_core::Result<()> {
        let bias = &self.dense.bias;
        let chunk = ROWS_PER_TASK * bias.len();
        let residual = values(residual, residual_layout)?;
        values_mut(storage, layout)?
            .par_chunks_mut(chunk)
            .zip(residual.par_chunks(chunk))
            .for_each(|(rows, residual)| kernels::add_then_normalise(Level::here(), rows, residual, bias, self.norm));
        Ok(())
    }
}

struct Softmax {
    width: usize,
}

impl InplaceOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax-rows"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        kernels::softmax(Level::here(), values_mut(storage, layout)?, self.width);
        Ok(())
    }
}

fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> candle_core::Result<&'a mut [f32]> {
    let CpuStorage::F32(values) = storage else {
        candle_core::bail!("f32 values are wanted");
    };
    match layout.contiguous_offsets().and_then(|(start, end)| values.get_mut(start..end)) {
        Some(values) => Ok(values),
        None => candle_core::bail!("contiguous values are wanted"),
    }
}

fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets().and_then(|(start, end)| values.get(start..end)) {
        Some(values) => Ok(values),
        None => candle_core::bail!("contiguous values are wanted"),
    }
}

/// Reads a contiguous f32 tensor without copying it.
fn with_values<R>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> R) -> Result<R, EmbedError> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        return Err(candle_core::Error::UnexpectedDType {
            msg: "a tensor on the CPU is wanted",
            expected: DType::F32,
            got: tensor.dtype(),
        }
        .into());
    };
    Ok(read(values(storage, layout)?))
}

#[cfg(test)]
mod tests {
    use super::super::normalise;
    use super::super::peer::CandlePeer;
    use super::super::peer::tests::tiny;
    use super::*;

    fn cosine(mut vector: Vec<f32>, reference: &[f32]) -> f32 {
        normalise(&mut vector);
        vector.iter().zip(reference).map(|(one, other)| one * other).sum()
    }

    #[test]
    fn packed_sequences_give_what_candle_gives_for_each_alone() {
        let peer = CandlePeer::from_container(&tiny()).expect("candle's model");
        let model = PackedBert::load(tiny()).expect("our model");
        let sequences: [&[u32]; 4] = [&[0, 5, 2], &[1], &[0, 3, 4, 5, 6, 7, 1, 1, 2], &[7, 7]];
        let vectors = model.forward(&sequences).expect("vectors");
        for (ids, vector) in sequences.iter().zip(vectors) {
            let similarity = cosine(vector, &peer.vector(ids).expect("a vector"));
            assert!(similarity > 0.999_99, "{ids:?}: cosine {similarity}");
        }
        assert!(model.forward(&[]).expect("no vectors").is_empty());
    }

    #[test]
    fn ids_and_lengths_beyond_the_model_are_errors() {
        let model = PackedBert::load(tiny()).expect("our model");
        assert!(model.forward(&[&[8]]).is_err());
        assert!(model.forward(&[&[]]).is_err());
        assert!(model.forward(&[&[1; 17]]).is_err());
        assert!(model.forward(&[&[1; 16]]).is_ok());
    }
}
