//! Our own forward pass of a BERT encoder on the CPU. The sequences of a pass lie one behind the other without padding, so no
//! time goes into tokens that do not exist; only attention looks at sequences one by one.
//!
//! Weights and the inputs of every product are rounded to 8 bits ([`Format::Rows8`](crate::kernels::Format::Rows8): a scale per
//! output row of the weights, one per 128 inputs); sums, residuals, layer norm and attention are f32. Many sequences are shared
//! out in passes, one thread each; a single pass is shared out step by step. Both give the same bits, and so does any batch.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::EmbedError;
use super::below::Below;
use super::container::{BertShape, Container, QuantisedRows};
use super::reader::Reader;
use crate::kernels::encoder::{gelu_then_round, normalise_then_round, round};
use crate::kernels::rows::{self, LayerNorm};
use crate::kernels::self_attention::{Heads, self_attention};
use crate::kernels::{Activations, Level, Packed, multiply_rows, pool};

/// Tokens in one forward pass, about: enough to make good use of a loaded weight, and few enough that what is between two
/// products (1.2 MB per 192 tokens at most) stays close to the core.
const TOKENS_PER_PASS: usize = 192;
/// With fewer tokens than this per thread, all threads work on one pass instead.
const LEAST_PER_THREAD: usize = 48;
/// The kernels read heads in vectors of so many numbers.
const HEAD_STEP: usize = 16;

/// Weights of a BERT encoder, ready to run: 8-bit but for the word embeddings, which stay 4-bit.
pub struct PackedBert {
    shape: BertShape,
    words: QuantisedRows,
    /// `[positions, hidden]`.
    positions: Vec<f32>,
    /// The embedding of token type 0: e5 uses no other.
    first_type: Vec<f32>,
    norm: LayerNorm,
    layers: Vec<Layer>,
    top: Option<ReadingTop>,
    below: Below,
    /// Memory of passes that are over, for those to come: at most one per thread.
    spare: Mutex<Vec<Memory>>,
}

/// The upper layers of a reader of requests, in place of those that embed.
struct ReadingTop {
    layers: Vec<Layer>,
    reader: Reader,
}

struct Layer {
    /// Query, key and value in one, `[3 * hidden, hidden]`; the query's part carries attention's 1 / sqrt(head width).
    qkv: Packed,
    query_bias: Vec<f32>,
    /// Its bias contains the value's, which passes through attention as it is.
    attention_out: Dense,
    attention_norm: LayerNorm,
    ffn_in: Dense,
    ffn_out: Dense,
    ffn_norm: LayerNorm,
}

/// `weight * x + bias`; the bias is added by what follows the product.
struct Dense {
    weight: Packed,
    bias: Vec<f32>,
}

/// What a pass works in.
#[derive(Default)]
struct Memory {
    /// `[tokens, hidden]`: what goes from layer to layer.
    hidden: Vec<f32>,
    /// The input of the next product.
    rounded: Activations,
    /// `[tokens, 3 * hidden]` and `[tokens, ffn]`.
    wide: Vec<f32>,
    /// `[tokens, hidden]`.
    narrow: Vec<f32>,
}

impl PackedBert {
    /// Decodes and repacks the weights (21 MB for multilingual-e5-small, 5 MB for a reader's layers above its lower half, and 54 MB of word
    /// embeddings), on all threads. A reader is left out where the layers below its own are not as they were published.
    ///
    /// # Errors
    /// [`EmbedError::File`] when a tensor is missing, or has another size than the shape says or one that the kernels do not run, or
    /// the reader is for another shape.
    pub fn load(mut container: Container, reader: Option<Reader>) -> Result<Self, EmbedError> {
        let shape = container.shape();
        if !(shape.hidden / shape.heads).is_multiple_of(HEAD_STEP) {
            let reason = format!(
                "has {} attention heads over {} numbers; the width of a head must be a multiple of {HEAD_STEP}",
                shape.heads, shape.hidden
            );
            return Err(container.wrong(reason));
        }
        let layers = load_layers(&container, 0..shape.layers)?;
        let top = match reader.filter(|reader| container.published_below(reader.tuning().changed_layers().start)) {
            Some(reader) if !reader.fits(shape) => {
                return Err(container.wrong("the reader of requests was made for a model of another shape".to_owned()));
            }
            Some(reader) => {
                container = container.tuned(reader.tuning().clone())?;
                Some(ReadingTop { layers: load_layers(&container, reader.tuning().changed_layers())?, reader })
            }
            None => None,
        };
        let positions = container.tensor("emb.pos", shape.positions * shape.hidden)?;
        let mut first_type = container.tensor("emb.type", shape.types * shape.hidden)?;
        first_type.truncate(shape.hidden);
        let norm = load_norm(&container, "emb.ln")?;
        let words = container.into_rows("emb.word", shape.vocab, shape.hidden)?;
        Ok(Self {
            shape,
            words,
            positions,
            first_type,
            norm,
            layers,
            top,
            below: Below::default(),
            spare: Mutex::default(),
        })
    }

    /// The reader that was loaded with the weights.
    pub fn reader(&self) -> Option<&Reader> {
        self.top.as_ref().map(|top| &top.reader)
    }

    /// The model's sizes.
    pub fn shape(&self) -> BertShape {
        self.shape
    }

    /// One mean-pooled, not yet normalised vector per sequence of token ids. Every sequence has at least one token and
    /// at most as many as the model has positions. A sequence's vector is the same, bit by bit, in any company.
    ///
    /// # Errors
    /// [`EmbedError::Tokenizer`] when an id or a length is beyond the model.
    pub fn forward(&self, sequences: &[&[u32]]) -> Result<Vec<Vec<f32>>, EmbedError> {
        self.run(sequences, None)
    }

    /// [`Reader::scores`] of each sequence; None without a reader. One that was just embedded, alone, costs the upper layers only.
    ///
    /// # Errors
    /// As [`PackedBert::forward`].
    pub fn read(&self, sequences: &[&[u32]]) -> Result<Option<Vec<Vec<f32>>>, EmbedError> {
        self.top.as_ref().map(|top| self.run(sequences, Some(top))).transpose()
    }

    /// What each sequence says to `top`; its vector where there is none.
    fn run(&self, sequences: &[&[u32]], top: Option<&ReadingTop>) -> Result<Vec<Vec<f32>>, EmbedError> {
        for sequence in sequences {
            if sequence.is_empty() || sequence.len() > self.shape.positions {
                return Err(EmbedError::Tokenizer(format!(
                    "a sequence has {} tokens, the model reads 1 to {}",
                    sequence.len(),
                    self.shape.positions
                )));
            }
        }
        let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.len()).collect();
        let plan = Plan::new(&lengths, pool().threads());
        let run = |pass: &[usize]| self.pass(&pass.iter().map(|&at| sequences[at]).collect::<Vec<_>>(), top);
        let mut pooled: Vec<Result<Vec<Vec<f32>>, EmbedError>> = plan.passes.iter().map(|_| Ok(Vec::new())).collect();
        if plan.thread_each {
            // Within a thread's own pass, the kernels find the pool taken and stay on that thread.
            pool().chunks(&mut pooled, 1, |index, pooled| pooled.fill_with(|| run(&plan.passes[index])));
        } else {
            pooled.iter_mut().zip(&plan.passes).for_each(|(pooled, pass)| *pooled = run(pass));
        }
        let mut vectors = vec![Vec::new(); sequences.len()];
        for (pass, pooled) in plan.passes.iter().zip(pooled) {
            for (&at, vector) in pass.iter().zip(pooled?) {
                vectors[at] = vector;
            }
        }
        Ok(vectors)
    }

    fn pass(&self, sequences: &[&[u32]], top: Option<&ReadingTop>) -> Result<Vec<Vec<f32>>, EmbedError> {
        let mut memory = self.spare().pop().unwrap_or_default();
        let mut bounds = vec![0];
        for sequence in sequences {
            bounds.push(bounds.last().map_or(0, |end| end + sequence.len()));
        }
        let done = self.lower_layers(sequences, &bounds, top.is_some(), &mut memory);
        if done.is_ok() {
            let upper = top.map_or(&self.layers[self.shared_layers()..], |top| &top.layers);
            upper.iter().for_each(|layer| layer.forward(&bounds, self.shape.heads, &mut memory));
        }
        let width = self.shape.hidden;
        let of_each = bounds.windows(2).map(|ends| &memory.hidden[ends[0] * width..ends[1] * width]);
        let end = |tokens| top.map_or_else(|| mean(tokens, width), |top| top.reader.scores(tokens));
        let pooled = done.map(|()| of_each.map(end).collect());
        let mut spare = self.spare();
        if spare.len() < pool().threads() {
            spare.push(memory);
        }
        pooled
    }

    fn spare(&self) -> std::sync::MutexGuard<'_, Vec<Memory>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Layers that a reader has in common with those that embed; all of them without one.
    fn shared_layers(&self) -> usize {
        self.top.as_ref().map_or(self.layers.len(), |top| top.reader.tuning().changed_layers().start)
    }

    /// The shared layers; what they make of a sequence that is embedded alone is kept for reading it.
    fn lower_layers(
        &self,
        sequences: &[&[u32]],
        bounds: &[usize],
        is_read: bool,
        memory: &mut Memory,
    ) -> Result<(), EmbedError> {
        let alone = sequences.first().filter(|_| sequences.len() == 1 && self.top.is_some());
        if let Some(hidden) = alone.filter(|_| is_read).and_then(|sequence| self.below.take(sequence)) {
            memory.hidden = hidden;
            round(Level::here(), &memory.hidden, self.shape.hidden, &mut memory.rounded);
            return Ok(());
        }
        self.embed_tokens(sequences, bounds.last().copied().unwrap_or(0), memory)?;
        let shared = &self.layers[..self.shared_layers()];
        shared.iter().for_each(|layer| layer.forward(bounds, self.shape.heads, memory));
        if let Some(sequence) = alone.filter(|_| !is_read) {
            self.below.keep(sequence, &memory.hidden);
        }
        Ok(())
    }

    /// The normalised sum of word, position and type of every token.
    fn embed_tokens(&self, sequences: &[&[u32]], tokens: usize, memory: &mut Memory) -> Result<(), EmbedError> {
        let width = self.shape.hidden;
        memory.narrow.resize(tokens * width, 0.0);
        memory.hidden.clear();
        let ids = sequences.iter().copied().flatten();
        for (&id, row) in ids.zip(memory.narrow.chunks_exact_mut(width)) {
            if !self.words.decode(id as usize, row) {
                return Err(EmbedError::Tokenizer(format!(
                    "token id {id} is beyond the model's {} words; tokenizer.json belongs to another model",
                    self.shape.vocab
                )));
            }
        }
        for sequence in sequences {
            memory.hidden.extend_from_slice(&self.positions[..sequence.len() * width]);
        }
        let Memory { hidden, rounded, narrow, .. } = memory;
        normalise_then_round(Level::here(), narrow, &self.first_type, &self.norm, hidden, rounded);
        Ok(())
    }
}

impl Layer {
    /// From and to `memory.hidden` and `memory.rounded`, which hold the same numbers.
    fn forward(&self, bounds: &[usize], heads: usize, memory: &mut Memory) {
        let level = Level::here();
        let Memory { hidden, rounded, wide, narrow } = memory;
        let tokens = rounded.rows();
        let product = |weights: &Packed, rounded: &Activations, out: &mut Vec<f32>| {
            out.resize(tokens * weights.outputs(), 0.0);
            multiply_rows(level, rounded, weights, out);
        };
        product(&self.qkv, rounded, wide);
        narrow.resize(hidden.len(), 0.0);
        self_attention(level, Heads { qkv: wide, query_bias: &self.query_bias, heads, bounds }, narrow);
        round(level, narrow, self.query_bias.len(), rounded);
        product(&self.attention_out.weight, rounded, narrow);
        normalise_then_round(level, narrow, &self.attention_out.bias, &self.attention_norm, hidden, rounded);
        product(&self.ffn_in.weight, rounded, wide);
        gelu_then_round(level, wide, &self.ffn_in.bias, rounded);
        product(&self.ffn_out.weight, rounded, narrow);
        normalise_then_round(level, narrow, &self.ffn_out.bias, &self.ffn_norm, hidden, rounded);
    }
}

/// How sequences are shared out over forward passes.
struct Plan {
    /// Indices of sequences; about equally many tokens in every pass.
    passes: Vec<Vec<usize>>,
    /// Every pass has a thread of its own. Otherwise they come one after the other, each on all threads.
    thread_each: bool,
}

impl Plan {
    /// The longest sequence is placed first, always into the emptiest pass.
    fn new(lengths: &[usize], threads: usize) -> Self {
        let tokens: usize = lengths.iter().sum();
        let needed = tokens.div_ceil(TOKENS_PER_PASS);
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let per_thread = tokens / threads.max(1);
        // With few tokens, or one long sequence, a thread would work while the others wait.
        let thread_each = threads > 1 && per_thread >= LEAST_PER_THREAD && longest * 4 <= per_thread * 5;
        let count = if thread_each { needed.next_multiple_of(threads) } else { needed };
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|&index| Reverse(lengths[index]));
        let mut passes: Vec<Vec<usize>> = vec![Vec::new(); count];
        let mut emptiest: BinaryHeap<_> = (0..count).map(|pass| Reverse((0, pass))).collect();
        for index in order {
            if let Some(mut first) = emptiest.peek_mut() {
                passes[first.0.1].push(index);
                first.0.0 += lengths[index];
            }
        }
        passes.retain(|pass| !pass.is_empty());
        Self { passes, thread_each }
    }
}

fn mean(tokens: &[f32], width: usize) -> Vec<f32> {
    let mut sum = vec![0.0; width];
    tokens.chunks_exact(width).for_each(|row| rows::add_bias(Level::here(), &mut sum, row));
    let count = (tokens.len() / width) as f32;
    sum.iter_mut().for_each(|value| *value /= count);
    sum
}

fn load_layers(container: &Container, wanted: Range<usize>) -> Result<Vec<Layer>, EmbedError> {
    let mut layers: Vec<Option<Result<Layer, EmbedError>>> = wanted.clone().map(|_| None).collect();
    let load = |index| load_layer(container, wanted.start + index);
    pool().chunks(&mut layers, 1, |index, layer| layer.fill_with(|| Some(load(index))));
    layers.into_iter().flatten().collect()
}

fn load_layer(container: &Container, index: usize) -> Result<Layer, EmbedError> {
    let BertShape { hidden, heads, ffn, .. } = container.shape();
    let name = |part: &str| format!("l{index}.{part}");
    let query_scale = 1.0 / ((hidden / heads) as f32).sqrt();
    let mut qkv = container.tensor(&name("q.w"), hidden * hidden)?;
    qkv.iter_mut().for_each(|value| *value *= query_scale);
    qkv.extend(container.tensor(&name("k.w"), hidden * hidden)?);
    qkv.extend(container.tensor(&name("v.w"), hidden * hidden)?);
    let mut query_bias = container.tensor(&name("q.b"), hidden)?;
    query_bias.iter_mut().for_each(|value| *value *= query_scale);
    let value_bias = container.tensor(&name("v.b"), hidden)?;

    let out = container.tensor(&name("ao.w"), hidden * hidden)?;
    let mut out_bias = container.tensor(&name("ao.b"), hidden)?;
    for (bias, row) in out_bias.iter_mut().zip(out.chunks_exact(hidden)) {
        *bias += row.iter().zip(&value_bias).map(|(weight, value)| weight * value).sum::<f32>();
    }
    Ok(Layer {
        qkv: pack(container, &name("q.w"), &qkv, 3 * hidden, hidden)?,
        query_bias,
        attention_out: Dense { weight: pack(container, &name("ao.w"), &out, hidden, hidden)?, bias: out_bias },
        attention_norm: load_norm(container, &name("aln"))?,
        ffn_in: load_dense(container, &name("fi"), ffn, hidden)?,
        ffn_out: load_dense(container, &name("fo"), hidden, ffn)?,
        ffn_norm: load_norm(container, &name("oln"))?,
    })
}

fn load_dense(container: &Container, name: &str, outputs: usize, inputs: usize) -> Result<Dense, EmbedError> {
    let matrix = format!("{name}.w");
    let weight = pack(container, &matrix, &container.tensor(&matrix, outputs * inputs)?, outputs, inputs)?;
    Ok(Dense { weight, bias: container.tensor(&format!("{name}.b"), outputs)? })
}

fn pack(
    container: &Container,
    name: &str,
    values: &[f32],
    outputs: usize,
    inputs: usize,
) -> Result<Packed, EmbedError> {
    Packed::from_f32(values, outputs, inputs, true).map_err(|error| container.wrong(format!("tensor {name}: {error}")))
}

fn load_norm(container: &Container, name: &str) -> Result<LayerNorm, EmbedError> {
    let BertShape { hidden, norm_eps, .. } = container.shape();
    Ok(LayerNorm {
        weight: container.tensor(&format!("{name}.w"), hidden)?,
        shift: container.tensor(&format!("{name}.b"), hidden)?,
        eps: norm_eps,
    })
}

#[cfg(test)]
mod tests {
    use super::super::normalise;
    use super::super::peer::CandlePeer;
    use super::super::peer::tests::tiny;
    use super::super::reader::tests::{mean_reader, upper_reader};
    use super::super::tuning::Tuning;
    use super::super::tuning::tests::tiny_tuning;
    use super::*;

    fn cosine(mut vector: Vec<f32>, reference: &[f32]) -> f32 {
        normalise(&mut vector);
        vector.iter().zip(reference).map(|(one, other)| one * other).sum()
    }

    #[test]
    fn packed_sequences_give_what_candle_gives_for_each_alone() {
        let peer = CandlePeer::from_container(&tiny()).expect("candle's model");
        let model = PackedBert::load(tiny(), None).expect("our model");
        let sequences: [&[u32]; 4] = [&[0, 5, 2], &[1], &[0, 3, 4, 5, 6, 7, 1, 1, 2], &[7, 7]];
        let vectors = model.forward(&sequences).expect("vectors");
        for (ids, vector) in sequences.iter().zip(vectors) {
            let similarity = cosine(vector, &peer.vector(ids).expect("a vector"));
            assert!(similarity > 0.999, "{ids:?}: cosine {similarity}");
        }
        assert!(model.forward(&[]).expect("no vectors").is_empty());
    }

    #[test]
    fn a_difference_is_in_the_weights_of_both() {
        let tuned = |seed| tiny().tuned(Tuning::parse(&tiny_tuning(4, seed)).expect("a difference")).expect("it fits");
        let vector = |container| PackedBert::load(container, None).expect("our model").forward(&[&[0, 3, 4, 5, 2]]);
        let (plain, one, other) = (vector(tiny()), vector(tuned(1)), vector(tuned(2)));
        let [plain, one, other] = [plain, one, other].map(|vectors| vectors.expect("vectors").remove(0));
        let peer = CandlePeer::from_container(&tuned(1)).expect("candle's model");
        let wanted = peer.vector(&[0, 3, 4, 5, 2]).expect("a vector");
        assert!(cosine(one, &wanted) > 0.999);
        assert!(cosine(plain, &wanted) < 0.99 && cosine(other, &wanted) < 0.99);
        // The one that the program brings is for the model that it pulls.
        let error = tiny().tuned(Tuning::built_in().expect("built in")).err().expect("another shape").to_string();
        assert!(error.contains("another shape"), "{error}");
    }

    #[test]
    fn a_reader_has_upper_layers_of_its_own() {
        let sequences: [&[u32]; 2] = [&[0, 3, 4, 5, 2], &[7, 1]];
        let plain = PackedBert::load(tiny(), None).expect("our model");
        assert!(plain.read(&sequences).expect("nothing to read with").is_none());
        let both = PackedBert::load(tiny(), Some(mean_reader(3))).expect("our model");
        let vectors = |model: &PackedBert| model.forward(&sequences).expect("vectors");
        assert_eq!(vectors(&both), vectors(&plain), "the vectors stay as they were");
        let tuned = tiny().tuned(Tuning::parse(&tiny_tuning(2, 3)).expect("a difference")).expect("it fits");
        let wanted = vectors(&PackedBert::load(tuned, None).expect("our model"));
        let read = both.read(&sequences).expect("scores").expect("a reader");
        for (scores, vector) in read.iter().zip(&wanted) {
            assert!(
                scores.iter().zip(vector).all(|(score, value)| (score - value).abs() < 1e-5),
                "{scores:?} {vector:?}"
            );
        }
        assert_ne!(read[0][..3], vectors(&plain)[0][..3]);
        // From what embedding it alone has left, and from the start: the same bits.
        for _ in 0..2 {
            both.forward(&sequences[..1]).expect("a vector");
            assert_eq!(both.read(&sequences[..1]).expect("scores").expect("a reader"), read[..1]);
            assert_eq!(both.read(&sequences[..1]).expect("scores").expect("a reader"), read[..1]);
        }
    }

    #[test]
    fn a_reader_needs_the_lower_layers_that_it_learnt_on() {
        let tuned = || tiny().tuned(Tuning::parse(&tiny_tuning(2, 3)).expect("a difference")).expect("it fits");
        assert!(PackedBert::load(tiny(), Some(upper_reader())).expect("our model").reader().is_some());
        assert!(PackedBert::load(tuned(), Some(upper_reader())).expect("our model").reader().is_none());
        assert!(PackedBert::load(tuned(), Some(mean_reader(1))).expect("our model").reader().is_some());
        let other = PackedBert::load(tiny(), Some(Reader::built_in().expect("built in"))).err().expect("another shape");
        assert!(other.to_string().contains("another shape"), "{other}");
    }

    #[test]
    fn ids_and_lengths_beyond_the_model_are_errors() {
        let model = PackedBert::load(tiny(), None).expect("our model");
        assert!(model.forward(&[&[8]]).is_err());
        assert!(model.forward(&[&[]]).is_err());
        assert!(model.forward(&[&[1; 17]]).is_err());
        assert!(model.forward(&[&[1; 16]]).is_ok());
    }

    #[test]
    fn plans_hold_every_sequence_once_in_passes_of_about_equal_size() {
        let lengths: Vec<usize> = (0..500).map(|index| 1 + (index * 37) % 256).collect();
        let tokens: usize = lengths.iter().sum();
        for threads in [1, 2, 3, 8] {
            let plan = Plan::new(&lengths, threads);
            let mut seen: Vec<usize> = plan.passes.iter().flatten().copied().collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..500).collect::<Vec<_>>());
            assert!(plan.thread_each == (threads > 1) && plan.passes.len().is_multiple_of(threads));
            for pass in &plan.passes {
                let size: usize = pass.iter().map(|&index| lengths[index]).sum();
                assert!(size <= tokens / plan.passes.len() + 256, "{size} tokens in one pass of {threads} threads");
            }
        }
        assert!(Plan::new(&[], 2).passes.is_empty());
        let few = Plan::new(&[20, 30], 2);
        assert!(few.passes.len() == 1 && !few.thread_each);
        assert!(!Plan::new(&[512, 40], 2).thread_each, "one thread would wait for the other");
        assert!(!Plan::new(&[156], 2).thread_each, "one thread would wait for the other");
        assert!(Plan::new(&[90, 80], 2).thread_each);
    }
}
