//! Qwen2 forward pass on candle's quantised matrices, with a key-value cache that can be cut back and restored.
//!
//! candle's own `quantized_qwen2` keeps its cache private and copies all of it at every token, dequantises the whole
//! token table to f32 (930 MB for 152k x 1,536) and cannot start behind a kept prefix. This file keeps the table
//! quantised, writes keys and values into buffers allocated once, groups the query heads of one key head into one
//! matrix product, and can save and restore the state after a shared prefix.
//!
//! Shapes below: t new tokens, n cached plus new tokens, d head width, g query heads per key head, k key heads.

use std::io::{Read, Seek};

use candle_core::quantized::{GgmlDType, QMatMul, QTensor, gguf_file};
use candle_core::{D, DType, Device, Module, Result, Tensor};

/// Keys and values of one layer after some prefix: two tensors of shape (k, prefix, d).
type LayerState = (Tensor, Tensor);

/// The model's state after reading a prefix; cheap to restore, about 56 KB a token for the 1.5B model.
#[derive(Clone)]
pub struct PrefixState {
    layers: Vec<LayerState>,
    len: usize,
}

struct Layer {
    attention_norm: Tensor,
    q: QMatMul,
    k: QMatMul,
    v: QMatMul,
    q_bias: Tensor,
    k_bias: Tensor,
    v_bias: Tensor,
    output: QMatMul,
    mlp_norm: Tensor,
    gate: QMatMul,
    up: QMatMul,
    down: QMatMul,
    keys: Tensor,
    values: Tensor,
}

pub struct Qwen2 {
    token_table: QTensor,
    layers: Vec<Layer>,
    norm: Tensor,
    head: QMatMul,
    cos: Tensor,
    sin: Tensor,
    heads: usize,
    key_heads: usize,
    head_width: usize,
    epsilon: f32,
    context: usize,
    device: Device,
}

impl Qwen2 {
    /// Reads the weights of a GGUF file of architecture `qwen2`. `context` bounds prompt plus reply and sizes the cache.
    ///
    /// # Errors
    /// When a weight or a metadata key is missing or of another shape.
    pub fn load<R: Read + Seek>(
        content: &gguf_file::Content,
        reader: &mut R,
        context: usize,
        device: &Device,
    ) -> Result<Self> {
        let get = |key: &str| match content.metadata.get(key) {
            Some(value) => Ok(value),
            None => candle_core::bail!("metadata key `{key}` is missing"),
        };
        let heads = get("qwen2.attention.head_count")?.to_u32()? as usize;
        let key_heads = get("qwen2.attention.head_count_kv")?.to_u32()? as usize;
        let width = get("qwen2.embedding_length")?.to_u32()? as usize;
        let layer_count = get("qwen2.block_count")?.to_u32()? as usize;
        let trained_context = get("qwen2.context_length")?.to_u32()? as usize;
        let epsilon = get("qwen2.attention.layer_norm_rms_epsilon")?.to_f32()?;
        let rope_base = get("qwen2.rope.freq_base").and_then(|v| v.to_f32()).unwrap_or(10_000.0);
        if heads == 0 || key_heads == 0 || !heads.is_multiple_of(key_heads) || !width.is_multiple_of(heads) {
            candle_core::bail!("head counts {heads}/{key_heads} do not divide the width {width}");
        }
        let head_width = width / heads;
        let context = context.min(trained_context);

        let mut tensor = |name: &str| content.tensor(reader, name, device);
        let token_table = tensor("token_embd.weight")?;
        let head = match tensor("output.weight") {
            Ok(weight) => QMatMul::from_qtensor(weight)?,
            // Small models tie the output matrix to the token table.
            Err(_) => QMatMul::from_qtensor(tensor("token_embd.weight")?)?,
        };
        let norm = tensor("output_norm.weight")?.dequantize(device)?;
        let mut layers = Vec::with_capacity(layer_count);
        for index in 0..layer_count {
            let mut part = |name: &str| tensor(&format!("blk.{index}.{name}"));
            let cache = || Tensor::zeros((key_heads, context, head_width), DType::F32, device);
            layers.push(Layer {
                attention_norm: part("attn_norm.weight")?.dequantize(device)?,
                q: QMatMul::from_qtensor(part("attn_q.weight")?)?,
                k: QMatMul::from_qtensor(part("attn_k.weight")?)?,
                v: QMatMul::from_qtensor(part("attn_v.weight")?)?,
                q_bias: part("attn_q.bias")?.dequantize(device)?,
                k_bias: part("attn_k.bias")?.dequantize(device)?,
                v_bias: part("attn_v.bias")?.dequantize(device)?,
                output: QMatMul::from_qtensor(part("attn_output.weight")?)?,
                mlp_norm: part("ffn_norm.weight")?.dequantize(device)?,
                gate: QMatMul::from_qtensor(part("ffn_gate.weight")?)?,
                up: QMatMul::from_qtensor(part("ffn_up.weight")?)?,
                down: QMatMul::from_qtensor(part("ffn_down.weight")?)?,
                keys: cache()?,
                values: cache()?,
            });
        }
        let (cos, sin) = rotary_tables(head_width, rope_base, context, device)?;
        Ok(Self {
            token_table,
            layers,
            norm,
            head,
            cos,
            sin,
            heads,
            key_heads,
            head_width,
            epsilon,
            context,
            device: device.clone(),
        })
    }

    /// Most tokens that prompt and reply may have together.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Reads `tokens` at positions `position..` and gives the logits (vocabulary size) behind the last one. Positions
    /// before `position` must have been read or restored; later ones are overwritten.
    ///
    /// # Errors
    /// When the positions exceed the context, or candle fails.
    pub fn forward(&mut self, tokens: &[u32], position: usize) -> Result<Tensor> {
        let count = tokens.len();
        if count == 0 || position + count > self.context {
            candle_core::bail!("{count} tokens at {position} exceed the context of {}", self.context);
        }
        let ids = Tensor::new(tokens, &self.device)?;
        let mut hidden = self.token_table.embedding(&ids)?;
        let mask = if count == 1 { None } else { Some(self.causal_mask(count, position)?) };
        let cos = self.cos.narrow(0, position, count)?;
        let sin = self.sin.narrow(0, position, count)?;
        for layer in &self.layers {
            let attended = self.attend(layer, &hidden, position, mask.as_ref(), &cos, &sin)?;
            hidden = (hidden + attended)?;
            let normed = candle_nn::ops::rms_norm(&hidden, &layer.mlp_norm, self.epsilon)?;
            let (gate, up) = pair_forward(&layer.gate, &layer.up, &normed)?;
            hidden = (hidden + layer.down.forward(&(candle_nn::ops::silu(&gate)? * up)?)?)?;
        }
        let last = hidden.narrow(0, count - 1, 1)?.contiguous()?;
        let last = candle_nn::ops::rms_norm(&last, &self.norm, self.epsilon)?;
        self.head.forward(&last)?.squeeze(0)
    }

    /// Causal self-attention of the new tokens over the cache and themselves; (t, width) in and out.
    fn attend(
        &self,
        layer: &Layer,
        hidden: &Tensor,
        position: usize,
        mask: Option<&Tensor>,
        cos: &Tensor,
        sin: &Tensor,
    ) -> Result<Tensor> {
        let count = hidden.dim(0)?;
        let total = position + count;
        let normed = candle_nn::ops::rms_norm(hidden, &layer.attention_norm, self.epsilon)?;
        let split = |x: Tensor, heads: usize| x.reshape((count, heads, self.head_width))?.transpose(0, 1)?.contiguous();
        let q = split(layer.q.forward(&normed)?.broadcast_add(&layer.q_bias)?, self.heads)?;
        let (k, v) = pair_forward(&layer.k, &layer.v, &normed)?;
        let k = split(k.broadcast_add(&layer.k_bias)?, self.key_heads)?;
        let v = split(v.broadcast_add(&layer.v_bias)?, self.key_heads)?;
        let rotate = |x: Tensor| candle_nn::rotary_emb::rope(&x.unsqueeze(0)?, cos, sin)?.squeeze(0);
        let q = (rotate(q)? * (1.0 / (self.head_width as f64).sqrt()))?;
        layer.keys.slice_set(&rotate(k)?, 1, position)?;
        layer.values.slice_set(&v, 1, position)?;

        // Query heads that share a key head form one matrix: (k, g*t, d) x (k, d, n).
        let rows = self.heads / self.key_heads * count;
        let q = q.reshape((self.key_heads, rows, self.head_width))?;
        let keys = layer.keys.narrow(1, 0, total)?;
        let values = layer.values.narrow(1, 0, total)?;
        let scores = q.matmul(&keys.t()?)?;
        let scores = match mask {
            None => scores,
            Some(mask) => scores.reshape((self.heads, count, total))?.broadcast_add(mask)?.reshape((
                self.key_heads,
                rows,
                total,
            ))?,
        };
        let weights = candle_nn::ops::softmax_last_dim(&scores)?;
        let mixed = weights.matmul(&values)?.reshape((self.heads, count, self.head_width))?;
        let mixed = mixed.transpose(0, 1)?.contiguous()?.reshape((count, self.heads * self.head_width))?;
        layer.output.forward(&mixed)
    }

    /// (t, n) with 0 where a new token may look and minus infinity where it may not.
    fn causal_mask(&self, count: usize, position: usize) -> Result<Tensor> {
        let total = position + count;
        let mut mask = vec![0f32; count * total];
        for row in 0..count {
            mask[row * total + position + row + 1..(row + 1) * total].fill(f32::NEG_INFINITY);
        }
        Tensor::from_vec(mask, (count, total), &self.device)
    }

    /// Copies the state after the first `len` positions.
    ///
    /// # Errors
    /// When candle fails.
    pub fn save_prefix(&self, len: usize) -> Result<PrefixState> {
        let copy = |cache: &Tensor| cache.narrow(1, 0, len)?.force_contiguous();
        let layers = self.layers.iter().map(|l| Ok((copy(&l.keys)?, copy(&l.values)?))).collect::<Result<Vec<_>>>()?;
        Ok(PrefixState { layers, len })
    }

    /// Puts a saved state back at the start of the cache.
    ///
    /// # Errors
    /// When candle fails.
    pub fn restore_prefix(&self, state: &PrefixState) -> Result<usize> {
        for (layer, (keys, values)) in self.layers.iter().zip(&state.layers) {
            layer.keys.slice_set(keys, 1, 0)?;
            layer.values.slice_set(values, 1, 0)?;
        }
        Ok(state.len)
    }
}

/// Two matrices over the same input; one pass over it where candle's kernels can.
fn pair_forward(a: &QMatMul, b: &QMatMul, x: &Tensor) -> Result<(Tensor, Tensor)> {
    if let (QMatMul::QTensor(qa), QMatMul::QTensor(qb)) = (a, b)
        && qa.dtype() == qb.dtype()
        && qa.dtype() != GgmlDType::F32
        && let Some(mut both) = QTensor::gemv_fused_shared_lhs(&[qa, qb], x)?
        && let (Some(second), Some(first)) = (both.pop(), both.pop())
    {
        return Ok((first, second));
    }
    Ok((a.forward(x)?, b.forward(x)?))
}

/// Cosines and sines of rotary position embedding, each (context, d / 2).
fn rotary_tables(head_width: usize, base: f32, context: usize, device: &Device) -> Result<(Tensor, Tensor)> {
    let frequencies: Vec<f32> =
        (0..head_width).step_by(2).map(|i| 1.0 / base.powf(i as f32 / head_width as f32)).collect();
    let half = frequencies.len();
    let frequencies = Tensor::from_vec(frequencies, (1, half), device)?;
    let positions = Tensor::arange(0, context as u32, device)?.to_dtype(DType::F32)?.reshape((context, 1))?;
    let angles = positions.matmul(&frequencies)?;
    debug_assert_eq!(angles.dim(D::Minus1)?, half);
    Ok((angles.cos()?, angles.sin()?))
}
