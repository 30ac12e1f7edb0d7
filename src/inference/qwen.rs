//! Our own forward pass of the Qwen family (Qwen2.5, Qwen3) on the kernels of [`crate::kernels`].
//!
//! Several sequences can be read or written in one pass, several tokens of each: decoding is bound by the memory that the weights
//! are read from, and a weight that has been read serves all tokens of the pass. What a token gets does not depend on what is
//! computed beside it, bit by bit, so neither the size of the pieces that a prompt is read in, nor other replies, nor guesses
//! that are checked together change what is written.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::ControlFlow;

use candle_core::quantized::{GgmlDType, gguf_file};
use candle_core::{Device, Result};

use crate::kernels::rows::{self, argmax};
use crate::kernels::{Activations, KeyValues, Level, Packed, Product, Query, attend, multiply, pool};

mod sequence;
#[cfg(test)]
mod tests;

pub use sequence::{Prefix, Sequence};

/// Tokens of one sequence whose queries share the keys and values that pass by.
const TOKENS_PER_TASK: usize = 4;
/// Numbers that a thread takes at a time between the matrix products.
const NUMBERS_PER_TASK: usize = 1 << 14;

/// Sizes of a model, from its metadata.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Numbers of a token's hidden state.
    width: usize,
    /// Query heads, and the heads of keys and values that groups of them share.
    heads: usize,
    key_heads: usize,
    head_width: usize,
    /// Width inside the feed-forward part.
    inner: usize,
    epsilon: f32,
    /// Most positions of a sequence.
    context: usize,
}

/// The weights.
pub struct Qwen {
    shape: Shape,
    /// `[vocabulary, width]`; small models use it as the output matrix as well.
    tokens: Packed,
    head: Option<Packed>,
    norm: Vec<f32>,
    layers: Vec<Layer>,
    /// Of the rotary embedding, `[context, head width / 2]`.
    cos: Vec<f32>,
    sin: Vec<f32>,
    level: Level,
    work: Work,
}

struct Layer {
    attention_norm: Vec<f32>,
    query: Packed,
    key: Packed,
    value: Packed,
    /// Of query, key and value; Qwen2 has them.
    biases: Option<[Vec<f32>; 3]>,
    /// Of every query and key head; Qwen3 has them.
    head_norms: Option<[Vec<f32>; 2]>,
    output: Packed,
    inner_norm: Vec<f32>,
    gate: Packed,
    up: Packed,
    down: Packed,
}

/// What one sequence adds to a pass.
pub struct Part<'a> {
    pub sequence: &'a mut Sequence,
    /// At least one.
    pub tokens: &'a [u32],
    /// Of how many of the last tokens the prediction is wanted.
    pub predictions: usize,
}

/// Memory that passes work in, reused from one to the next.
#[derive(Default)]
struct Work {
    hidden: Vec<f32>,
    normed: Vec<f32>,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    /// Queries and their results in the order of the heads: `[parts, key heads, tokens, heads of the group, head width]`.
    by_head: Vec<f32>,
    attended: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    added: Vec<f32>,
    logits: Vec<f32>,
    activations: Activations,
}

/// A tensor's bytes, as they lie in the file.
struct Source<'a> {
    content: &'a gguf_file::Content,
    file: &'a mut File,
    bytes: Vec<u8>,
}

impl Source<'_> {
    fn metadata(&self, key: &str) -> Result<&gguf_file::Value> {
        match self.content.metadata.get(key) {
            Some(value) => Ok(value),
            None => candle_core::bail!("metadata key `{key}` is missing"),
        }
    }

    fn number(&self, key: &str) -> Result<usize> {
        Ok(self.metadata(key)?.to_u32()? as usize)
    }

    fn has(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    /// A matrix `[outputs, inputs]`; the two sizes are checked.
    fn matrix(&mut self, name: &str, outputs: Option<usize>, inputs: usize) -> Result<Packed> {
        let Some(info) = self.content.tensor_infos.get(name) else {
            candle_core::bail!("tensor `{name}` is missing");
        };
        let (rows, columns) = info.shape.dims2()?;
        if columns != inputs || outputs.is_some_and(|outputs| outputs != rows) {
            candle_core::bail!("tensor `{name}` is {rows} x {columns}, {outputs:?} x {inputs} is wanted");
        }
        if matches!(info.ggml_dtype, GgmlDType::Q4K | GgmlDType::Q6K) {
            let block = info.ggml_dtype.block_size();
            let size = rows * columns / block * info.ggml_dtype.type_size();
            self.bytes.resize(size, 0);
            self.file.seek(SeekFrom::Start(self.content.tensor_data_offset + info.offset))?;
            self.file.read_exact(&mut self.bytes)?;
            let packed = Packed::from_gguf(info.ggml_dtype, &self.bytes, rows, columns);
            if let Some(packed) = packed.map_err(candle_core::Error::wrap)? {
                return Ok(packed);
            }
        }
        let values = self.vector(name, rows * columns)?;
        Packed::from_f32(&values, rows, columns, false).map_err(candle_core::Error::wrap)
    }

    /// All numbers of a tensor, decoded.
    fn vector(&mut self, name: &str, count: usize) -> Result<Vec<f32>> {
        let tensor = self.content.tensor(self.file, name, &Device::Cpu)?.dequantize(&Device::Cpu)?;
        let values = tensor.flatten_all()?.to_vec1::<f32>()?;
        if values.len() != count {
            candle_core::bail!("tensor `{name}` has {} numbers, {count} are wanted", values.len());
        }
        Ok(values)
    }
}

impl Qwen {
    /// Families that this forward pass runs, by the name in the file.
    pub const FAMILIES: [&str; 2] = ["qwen2", "qwen3"];

    /// Reads and repacks a model of `family`. `context` caps the tokens of prompt and reply together.
    ///
    /// # Errors
    /// When a weight or a metadata key is missing or of another shape, or the file is cut short.
    pub fn load(family: &str, content: &gguf_file::Content, file: &mut File, context: usize) -> Result<Self> {
        let mut source = Source { content, file, bytes: Vec::new() };
        let key = |key: &str| format!("{family}.{key}");
        let shape = read_shape(&source, family, context)?;
        let Shape { width, head_width, context, .. } = shape;
        let tokens = source.matrix("token_embd.weight", None, width)?;
        let head = match source.has("output.weight") {
            true => Some(source.matrix("output.weight", Some(tokens.outputs()), width)?),
            false => None,
        };
        let norm = source.vector("output_norm.weight", width)?;
        let count = source.number(&key("block_count"))?;
        let layers = (0..count).map(|index| load_layer(&mut source, index, shape)).collect::<Result<Vec<_>>>()?;
        let base = source.metadata(&key("rope.freq_base")).and_then(|value| value.to_f32()).unwrap_or(10_000.0);
        let (cos, sin) = rotary_tables(head_width, base, context);
        let level = Level::here();
        Ok(Self { shape, tokens, head, norm, layers, cos, sin, level, work: Work::default() })
    }

    /// Most tokens that prompt and reply may have together.
    pub fn context(&self) -> usize {
        self.shape.context
    }

    /// Words of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.tokens.outputs()
    }

    /// Memory of the weights, in bytes.
    pub fn size(&self) -> usize {
        let of_layer = |layer: &Layer| {
            [&layer.query, &layer.key, &layer.value, &layer.output, &layer.gate, &layer.up, &layer.down]
                .iter()
                .map(|weights| weights.size())
                .sum::<usize>()
        };
        let layers: usize = self.layers.iter().map(of_layer).sum();
        layers + self.tokens.size() + self.head.as_ref().map_or(0, Packed::size)
    }

    /// A sequence of which nothing has been read. Its memory is taken up as it grows.
    pub fn sequence(&self) -> Sequence {
        let Shape { key_heads, head_width, context, .. } = self.shape;
        let kept = (0..self.layers.len() * key_heads).map(|_| KeyValues::new(context, head_width)).collect();
        Sequence { kept, len: 0 }
    }

    /// Reads the tokens of all parts in one pass and gives the most probable next token behind each of the last
    /// [`Part::predictions`] tokens, part by part. `check` is asked after every layer; when it breaks off, the pass has no result
    /// and no effect.
    ///
    /// # Errors
    /// When a token is beyond the vocabulary or a sequence would grow beyond the context.
    pub fn predict(
        &mut self,
        parts: &mut [Part<'_>],
        check: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Option<Vec<u32>>> {
        let vocabulary = self.vocabulary();
        let level = self.level;
        let logits = self.logits(parts, check)?;
        Ok(logits.map(|logits| logits.chunks_exact(vocabulary).map(|row| argmax(level, row) as u32).collect()))
    }

    /// As [`Qwen::predict`], giving the scores of all words: `[predictions, vocabulary]`.
    ///
    /// # Errors
    /// As [`Qwen::predict`].
    pub fn logits(
        &mut self,
        parts: &mut [Part<'_>],
        check: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Option<&[f32]>> {
        let layers = self.layers.len();
        if self.through(parts, layers, check)?.is_break() {
            return Ok(None);
        }
        let mut work = std::mem::take(&mut self.work);
        self.score(&mut work, parts);
        self.work = work;
        Ok(Some(&self.work.logits))
    }

    /// Reads the tokens of all parts in one pass as far as the first `layers` layers, and gives the states behind them: `[tokens, width]`. A
    /// sequence that was read so far can only be read on as far. `check` as in [`Qwen::predict`].
    ///
    /// # Errors
    /// As [`Qwen::predict`].
    pub fn hidden(
        &mut self,
        parts: &mut [Part<'_>],
        layers: usize,
        check: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Option<&[f32]>> {
        Ok(self.through(parts, layers, check)?.is_continue().then_some(&self.work.hidden))
    }

    fn through(
        &mut self,
        parts: &mut [Part<'_>],
        layers: usize,
        check: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let mut work = std::mem::take(&mut self.work);
        let done = self.pass(&mut work, parts, layers, check);
        self.work = work;
        let done = done?;
        if done.is_continue() {
            parts.iter_mut().for_each(|part| part.sequence.len += part.tokens.len());
        }
        Ok(done)
    }

    fn pass(
        &self,
        work: &mut Work,
        parts: &mut [Part<'_>],
        layers: usize,
        check: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        self.embed(work, parts)?;
        for (index, layer) in self.layers.iter().enumerate().take(layers) {
            if check().is_break() {
                return Ok(ControlFlow::Break(()));
            }
            self.attention(work, parts, index, layer);
            self.feed_forward(work, layer);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Looks the tokens of all parts up: `[rows, width]`.
    fn embed(&self, work: &mut Work, parts: &[Part<'_>]) -> Result<()> {
        let width = self.shape.width;
        let rows = parts.iter().map(|part| part.tokens.len()).sum::<usize>();
        work.hidden.resize(rows * width, 0.0);
        let mut hidden = work.hidden.chunks_exact_mut(width);
        for part in parts {
            let end = part.sequence.len + part.tokens.len();
            if part.tokens.is_empty() || end > self.shape.context {
                candle_core::bail!(
                    "{} tokens to position {end} exceed a context of {}",
                    part.tokens.len(),
                    self.shape.context
                );
            }
            for (token, row) in part.tokens.iter().zip(&mut hidden) {
                if !self.tokens.decode(*token as usize, row) {
                    candle_core::bail!("token {token} is beyond the vocabulary of {}", self.tokens.outputs());
                }
            }
        }
        Ok(())
    }

    fn attention(&self, work: &mut Work, parts: &mut [Part<'_>], index: usize, layer: &Layer) {
        let Shape { width, heads, key_heads, head_width, epsilon, .. } = self.shape;
        let rows = work.hidden.len() / width;
        normalise(self.level, &work.hidden, &layer.attention_norm, epsilon, &mut work.normed);
        work.activations.set(&work.normed, width);
        work.query.resize(rows * heads * head_width, 0.0);
        work.key.resize(rows * key_heads * head_width, 0.0);
        work.value.resize(rows * key_heads * head_width, 0.0);
        let mut products = [
            Product { weights: &layer.query, out: &mut work.query },
            Product { weights: &layer.key, out: &mut work.key },
            Product { weights: &layer.value, out: &mut work.value },
        ];
        multiply(self.level, &work.activations, &mut products);
        if let Some([query, key, value]) = &layer.biases {
            rows::add_bias(self.level, &mut work.query, query);
            rows::add_bias(self.level, &mut work.key, key);
            rows::add_bias(self.level, &mut work.value, value);
        }
        self.place(work, parts, index, layer);
        self.look(work, parts, index);
        work.activations.set(&work.attended, heads * head_width);
        self.add_product(work, &layer.output);
    }

    /// Turns queries and keys by their positions, keeps keys and values, and orders the queries by head.
    fn place(&self, work: &mut Work, parts: &mut [Part<'_>], index: usize, layer: &Layer) {
        let Shape { heads, key_heads, head_width, epsilon, .. } = self.shape;
        let (group, scale) = (heads / key_heads, 1.0 / (head_width as f32).sqrt());
        work.by_head.resize(work.query.len(), 0.0);
        let mut turned = vec![0.0; head_width];
        let mut prepare = |head: &[f32], norm: Option<&Vec<f32>>, position: usize| {
            match norm {
                Some(norm) => rows::rms_norm(self.level, head, norm, epsilon, &mut turned),
                None => turned.copy_from_slice(head),
            }
            let half = head_width / 2;
            let (cos, sin) = (&self.cos[position * half..][..half], &self.sin[position * half..][..half]);
            rows::rotate(self.level, &mut turned, cos, sin);
            turned.clone()
        };
        let (mut row, mut start) = (0, 0);
        for part in parts {
            let count = part.tokens.len();
            for token in 0..count {
                let position = part.sequence.len + token;
                for key_head in 0..key_heads {
                    let at = (row * key_heads + key_head) * head_width;
                    let norm = layer.head_norms.as_ref().map(|norms| &norms[1]);
                    let key = prepare(&work.key[at..at + head_width], norm, position);
                    let kept = &mut part.sequence.kept[index * key_heads + key_head];
                    kept.put(position, &key, &work.value[at..at + head_width]);
                }
                for head in 0..heads {
                    let norm = layer.head_norms.as_ref().map(|norms| &norms[0]);
                    let query = prepare(&work.query[(row * heads + head) * head_width..][..head_width], norm, position);
                    let slot = (head / group * count + token) * group + head % group;
                    let to = &mut work.by_head[start + slot * head_width..][..head_width];
                    to.iter_mut().zip(&query).for_each(|(to, value)| *to = value * scale);
                }
                row += 1;
            }
            start += count * heads * head_width;
        }
    }

    /// Attention of all queries; the results in the order of the rows.
    fn look(&self, work: &mut Work, parts: &[Part<'_>], index: usize) {
        let Shape { heads, key_heads, head_width, .. } = self.shape;
        let group = heads / key_heads;
        // Few tokens: the heads of a group are shared out. Many: they share what passes by.
        let shared = (2..=group).find(|share| group.is_multiple_of(*share)).map_or(group, |share| group / share);
        let mut out = std::mem::take(&mut work.gate);
        out.resize(work.by_head.len(), 0.0);
        let mut tasks = Vec::new();
        let (mut outs, mut queries) = (out.as_mut_slice(), work.by_head.as_slice());
        for part in parts {
            let count = part.tokens.len();
            let heads_per_task = if count < 2 * TOKENS_PER_TASK { shared } else { TOKENS_PER_TASK * group };
            for key_head in 0..key_heads {
                let (these, rest) = outs.split_at_mut(count * group * head_width);
                let (asked, more) = queries.split_at(count * group * head_width);
                (outs, queries) = (rest, more);
                let kept = &part.sequence.kept[index * key_heads + key_head];
                let numbers = heads_per_task * head_width;
                for (at, (out, query)) in these.chunks_mut(numbers).zip(asked.chunks(numbers)).enumerate() {
                    tasks.push((kept, query, out, at * heads_per_task, part.sequence.len));
                }
            }
        }
        pool().each(tasks.into_iter(), false, |(kept, query, out, first, start)| {
            let pairs = query.chunks_exact(head_width).zip(out.chunks_exact_mut(head_width)).enumerate();
            let mut queries: Vec<Query<'_>> = pairs
                .map(|(at, (query, out))| Query { query, out, visible: start + (first + at) / group + 1 })
                .collect();
            attend(self.level, kept, &mut queries);
        });
        self.by_rows(&out, parts, &mut work.attended);
        work.gate = out;
    }

    /// From the order of the heads to that of the rows.
    fn by_rows(&self, by_head: &[f32], parts: &[Part<'_>], to: &mut Vec<f32>) {
        let Shape { heads, key_heads, head_width, .. } = self.shape;
        let group = heads / key_heads;
        to.resize(by_head.len(), 0.0);
        let mut start = 0;
        for part in parts {
            let count = part.tokens.len();
            for (slot, numbers) in
                by_head[start..][..count * heads * head_width].chunks_exact(group * head_width).enumerate()
            {
                let (key_head, token) = (slot / count, slot % count);
                let at = start + (token * key_heads + key_head) * group * head_width;
                to[at..at + group * head_width].copy_from_slice(numbers);
            }
            start += count * heads * head_width;
        }
    }

    fn feed_forward(&self, work: &mut Work, layer: &Layer) {
        let Shape { width, inner, epsilon, .. } = self.shape;
        let rows = work.hidden.len() / width;
        normalise(self.level, &work.hidden, &layer.inner_norm, epsilon, &mut work.normed);
        work.activations.set(&work.normed, width);
        work.gate.resize(rows * inner, 0.0);
        work.up.resize(rows * inner, 0.0);
        let mut products =
            [Product { weights: &layer.gate, out: &mut work.gate }, Product { weights: &layer.up, out: &mut work.up }];
        multiply(self.level, &work.activations, &mut products);
        let little = work.gate.len() <= NUMBERS_PER_TASK;
        let chunks = work.gate.chunks_mut(NUMBERS_PER_TASK).zip(work.up.chunks(NUMBERS_PER_TASK));
        pool().each(chunks, little, |(gate, up)| rows::silu_times(self.level, gate, up));
        work.activations.set(&work.gate, inner);
        self.add_product(work, &layer.down);
    }

    /// Adds the product of the activations to the hidden state.
    fn add_product(&self, work: &mut Work, weights: &Packed) {
        work.added.resize(work.hidden.len(), 0.0);
        multiply(self.level, &work.activations, &mut [Product { weights, out: &mut work.added }]);
        rows::add(self.level, &mut work.hidden, &work.added);
    }

    /// Scores of all words behind the tokens that predictions are wanted of.
    fn score(&self, work: &mut Work, parts: &[Part<'_>]) {
        let width = self.shape.width;
        let mut wanted = Vec::new();
        let mut end = 0;
        for part in parts {
            end += part.tokens.len();
            wanted
                .extend_from_slice(&work.hidden[(end - part.predictions.min(part.tokens.len())) * width..end * width]);
        }
        normalise(self.level, &wanted, &self.norm, self.shape.epsilon, &mut work.normed);
        let head = self.head.as_ref().unwrap_or(&self.tokens);
        work.logits.resize(wanted.len() / width * head.outputs(), 0.0);
        if !wanted.is_empty() {
            work.activations.set(&work.normed, width);
            multiply(self.level, &work.activations, &mut [Product { weights: head, out: &mut work.logits }]);
        }
    }
}

fn normalise(level: Level, rows: &[f32], weight: &[f32], epsilon: f32, out: &mut Vec<f32>) {
    out.resize(rows.len(), 0.0);
    rows::rms_norm(level, rows, weight, epsilon, out);
}

fn read_shape(source: &Source<'_>, family: &str, context: usize) -> Result<Shape> {
    let key = |key: &str| format!("{family}.{key}");
    let heads = source.number(&key("attention.head_count"))?;
    let key_heads = source.number(&key("attention.head_count_kv"))?;
    let width = source.number(&key("embedding_length"))?;
    if heads == 0 || key_heads == 0 || !heads.is_multiple_of(key_heads) || width == 0 {
        candle_core::bail!("head counts {heads}/{key_heads} or width {width} make no sense");
    }
    let head_width = source.number(&key("attention.key_length")).unwrap_or(width / heads);
    if !head_width.is_multiple_of(16) || head_width == 0 {
        candle_core::bail!("heads of {head_width} numbers; the kernels want a multiple of 16");
    }
    Ok(Shape {
        width,
        heads,
        key_heads,
        head_width,
        inner: source.number(&key("feed_forward_length"))?,
        epsilon: source.metadata(&key("attention.layer_norm_rms_epsilon"))?.to_f32()?,
        context: context.min(source.number(&key("context_length"))?),
    })
}

fn load_layer(source: &mut Source<'_>, index: usize, shape: Shape) -> Result<Layer> {
    let Shape { width, heads, key_heads, head_width, inner, .. } = shape;
    let (queries, keys) = (heads * head_width, key_heads * head_width);
    let name = |part: &str| format!("blk.{index}.{part}");
    let biases = match source.has(&name("attn_q.bias")) {
        true => Some([
            source.vector(&name("attn_q.bias"), queries)?,
            source.vector(&name("attn_k.bias"), keys)?,
            source.vector(&name("attn_v.bias"), keys)?,
        ]),
        false => None,
    };
    let head_norms = match source.has(&name("attn_q_norm.weight")) {
        true => Some([
            source.vector(&name("attn_q_norm.weight"), head_width)?,
            source.vector(&name("attn_k_norm.weight"), head_width)?,
        ]),
        false => None,
    };
    Ok(Layer {
        attention_norm: source.vector(&name("attn_norm.weight"), width)?,
        query: source.matrix(&name("attn_q.weight"), Some(queries), width)?,
        key: source.matrix(&name("attn_k.weight"), Some(keys), width)?,
        value: source.matrix(&name("attn_v.weight"), Some(keys), width)?,
        biases,
        head_norms,
        output: source.matrix(&name("attn_output.weight"), Some(width), queries)?,
        inner_norm: source.vector(&name("ffn_norm.weight"), width)?,
        gate: source.matrix(&name("ffn_gate.weight"), Some(inner), width)?,
        up: source.matrix(&name("ffn_up.weight"), Some(inner), width)?,
        down: source.matrix(&name("ffn_down.weight"), Some(width), inner)?,
    })
}

/// Cosines and sines of rotary position embedding (RoFormer, Su et al. 2021), each `[context, head width / 2]`.
fn rotary_tables(head_width: usize, base: f32, context: usize) -> (Vec<f32>, Vec<f32>) {
    let frequencies: Vec<f64> =
        (0..head_width).step_by(2).map(|at| f64::from(base).powf(-(at as f64) / head_width as f64)).collect();
    let angles = (0..context).flat_map(|position| frequencies.iter().map(move |one| position as f64 * one));
    angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip()
}
