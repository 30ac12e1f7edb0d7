//! Attention of packed sequences within themselves, as encoders want it: every token looks at all tokens of its own sequence.
//!
//! A task is one head of one sequence. It lays the keys out in blocks of sixteen positions, number by number (`[blocks, width,
//! 16]`), so that the scores of sixteen positions come out side by side, and the values close together. Every query is computed
//! in the same order whatever is computed beside it: its result does not depend on the batch, the threads or the level.

// Sums of rows and tiles are numbered alike in several arrays.
#![allow(clippy::needless_range_loop)]

use std::cell::RefCell;
use std::f32::consts::LOG2_E;

use super::isa::{Isa, LANES, Plain};
use super::rows::halved;
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};
use super::{Level, pool};

/// Queries that are computed together, all over the same positions.
const QUERIES: usize = 6;

/// The product that attention reads and what it needs to know about it.
#[derive(Clone, Copy)]
pub struct Heads<'a> {
    /// `[tokens, 3, heads, width]`: query, key and value of every token. Queries carry the scale 1 / sqrt(width).
    pub qkv: &'a [f32],
    /// Added to the queries, `[heads, width]`. One for the keys would change nothing (softmax ignores what all scores have in
    /// common), and one for the values belongs to what comes after, since the weights add up to one.
    pub query_bias: &'a [f32],
    pub heads: usize,
    /// Where each sequence begins, in tokens, and last where the last one ends.
    pub bounds: &'a [usize],
}

/// What a thread works in, kept from call to call.
#[derive(Default)]
struct Scratch {
    /// `[blocks, width, 16]`.
    keys: Vec<f32>,
    /// `[positions, width]`.
    values: Vec<f32>,
    /// `[QUERIES, width]`.
    queries: Vec<f32>,
    /// `[QUERIES, 16 * blocks]`.
    scores: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Writes softmax(query * keys) * values of every token and head to `out`, `[tokens, heads, width]`, on all threads.
///
/// # Panics
/// When the lengths do not fit each other or the width of a head is no multiple of 16: the caller made a mistake.
pub fn self_attention(level: Level, input: Heads<'_>, out: &mut [f32]) {
    let hidden = input.query_bias.len();
    let tokens = input.bounds.last().copied().unwrap_or(0);
    assert!(hidden.is_multiple_of(input.heads * LANES), "width of a head");
    assert!(input.bounds.is_sorted() && input.bounds.first().is_none_or(|first| *first == 0), "bounds");
    assert!(input.qkv.len() == tokens * 3 * hidden && out.len() == tokens * hidden, "lengths");
    let out = SharedOut(out.as_mut_ptr());
    let sequences = input.bounds.len().saturating_sub(1);
    pool().run(sequences * input.heads, &|index| {
        let (sequence, head) = (index / input.heads, index % input.heads);
        let task = Task { input, hidden, head, first: input.bounds[sequence], end: input.bounds[sequence + 1], out };
        if task.first < task.end {
            SCRATCH.with_borrow_mut(|scratch| task.run(level, scratch));
        }
    });
}

/// An output that several threads write, each its own rows and columns.
#[derive(Clone, Copy)]
struct SharedOut(*mut f32);

// SAFETY: tasks write disjoint parts, and `self_attention` holds the only reference while they run.
unsafe impl Send for SharedOut {}
// SAFETY: as above.
unsafe impl Sync for SharedOut {}

/// One head of one sequence.
struct Task<'a> {
    input: Heads<'a>,
    hidden: usize,
    head: usize,
    first: usize,
    end: usize,
    out: SharedOut,
}

impl Task<'_> {
    fn run(&self, level: Level, scratch: &mut Scratch) {
        // SAFETY: `Level` says that the processor has the instructions; sizes were checked in `self_attention`.
        unsafe {
            match level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => self.on_avx512(scratch),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => self.on_avx2(scratch),
                Level::Plain => self.on::<Plain, 1>(scratch),
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")]
    unsafe fn on_avx512(&self, scratch: &mut Scratch) {
        unsafe { self.on::<Avx512, 2>(scratch) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn on_avx2(&self, scratch: &mut Scratch) {
        unsafe { self.on::<Avx2, 1>(scratch) }
    }

    fn width(&self) -> usize {
        self.hidden / self.input.heads
    }

    /// The numbers of a token: 0 its query, 1 its key, 2 its value.
    #[inline(always)]
    fn part(&self, position: usize, part: usize) -> &[f32] {
        &self.input.qkv[((self.first + position) * 3 + part) * self.hidden + self.head * self.width()..][..self.width()]
    }

    /// `V` vectors of sixteen fit the registers beside each other.
    #[inline(always)]
    unsafe fn on<S: Isa, const V: usize>(&self, scratch: &mut Scratch) {
        let (length, width) = (self.end - self.first, self.width());
        let room = length.next_multiple_of(LANES);
        scratch.keys.resize(room * width, 0.0);
        scratch.values.resize(room * width, 0.0);
        scratch.queries.resize(QUERIES * width, 0.0);
        scratch.scores.resize(QUERIES * room, 0.0);
        self.lay_out(length, scratch);
        let mut first = 0;
        while first < length {
            // Shares of about equal size: few queries make poor use of a loaded key.
            let shares = (length - first).div_ceil(QUERIES);
            let count = (length - first).div_ceil(shares);
            unsafe {
                match count {
                    1 => self.some::<S, 1, V>(first, length, scratch),
                    2 => self.some::<S, 2, V>(first, length, scratch),
                    3 => self.some::<S, 3, V>(first, length, scratch),
                    4 => self.some::<S, 4, V>(first, length, scratch),
                    5 => self.some::<S, 5, V>(first, length, scratch),
                    _ => self.some::<S, QUERIES, V>(first, length, scratch),
                }
            }
            first += count;
        }
    }

    #[inline(always)]
    fn lay_out(&self, length: usize, scratch: &mut Scratch) {
        let width = self.width();
        for position in 0..length {
            let keys = &mut scratch.keys[position / LANES * LANES * width + position % LANES..];
            for (number, key) in self.part(position, 1).iter().enumerate() {
                keys[number * LANES] = *key;
            }
            scratch.values[position * width..][..width].copy_from_slice(self.part(position, 2));
        }
    }

    /// `Q` queries from position `first` on.
    #[inline(always)]
    unsafe fn some<S: Isa, const Q: usize, const V: usize>(&self, first: usize, length: usize, scratch: &mut Scratch) {
        let width = self.width();
        let room = length.next_multiple_of(LANES);
        let bias = &self.input.query_bias[self.head * width..][..width];
        for (query, to) in scratch.queries.chunks_exact_mut(width).take(Q).enumerate() {
            for ((to, value), bias) in to.iter_mut().zip(self.part(first + query, 0)).zip(bias) {
                *to = value + bias;
            }
        }
        let scores = &mut scratch.scores[..Q * room];
        // SAFETY: the scratch was given room for all positions and queries; outputs are this task's own.
        unsafe {
            let mut block = 0;
            while block + V <= room / LANES {
                score::<S, Q, V>(
                    scratch.keys.as_ptr(),
                    scratch.queries.as_ptr(),
                    width,
                    block,
                    room,
                    scores.as_mut_ptr(),
                );
                block += V;
            }
            while block < room / LANES {
                score::<S, Q, 1>(
                    scratch.keys.as_ptr(),
                    scratch.queries.as_ptr(),
                    width,
                    block,
                    room,
                    scores.as_mut_ptr(),
                );
                block += 1;
            }
            let mut shares = [0.0; Q];
            for (scores, share) in scores.chunks_exact_mut(room).zip(&mut shares) {
                scores[length..].fill(f32::NEG_INFINITY);
                *share = weigh(scores);
            }
            let to = self.out.0.add((self.first + first) * self.hidden + self.head * width);
            let mut vector = 0;
            while vector + V <= width / LANES {
                let values = scratch.values.as_ptr().add(vector * LANES);
                mix::<S, Q, V>(values, width, scores.as_ptr(), length, shares, to.add(vector * LANES), self.hidden);
                vector += V;
            }
            while vector < width / LANES {
                let values = scratch.values.as_ptr().add(vector * LANES);
                mix::<S, Q, 1>(values, width, scores.as_ptr(), length, shares, to.add(vector * LANES), self.hidden);
                vector += 1;
            }
        }
    }
}

/// Scores of `Q` queries at `B` blocks of sixteen positions.
#[inline(always)]
unsafe fn score<S: Isa, const Q: usize, const B: usize>(
    keys: *const f32,
    queries: *const f32,
    width: usize,
    block: usize,
    room: usize,
    scores: *mut f32,
) {
    unsafe {
        let keys = keys.add(block * width * LANES);
        let mut sums = [[S::splat(0.0); B]; Q];
        for number in 0..width {
            let mut some = [S::splat(0.0); B];
            for at in 0..B {
                some[at] = S::load(keys.add((at * width + number) * LANES));
            }
            for query in 0..Q {
                let value = S::splat(*queries.add(query * width + number));
                for at in 0..B {
                    sums[query][at] = S::mul_add(value, some[at], sums[query][at]);
                }
            }
        }
        for query in 0..Q {
            for at in 0..B {
                S::store(scores.add(query * room + (block + at) * LANES), sums[query][at]);
            }
        }
    }
}

/// Sums of `V` vectors of values, weighted by `Q` queries' weights, each times its query's share.
#[inline(always)]
unsafe fn mix<S: Isa, const Q: usize, const V: usize>(
    values: *const f32,
    width: usize,
    weights: *const f32,
    length: usize,
    shares: [f32; Q],
    to: *mut f32,
    step: usize,
) {
    let room = length.next_multiple_of(LANES);
    unsafe {
        let mut sums = [[S::splat(0.0); V]; Q];
        for position in 0..length {
            let mut some = [S::splat(0.0); V];
            for at in 0..V {
                some[at] = S::load(values.add(position * width + at * LANES));
            }
            for query in 0..Q {
                let weight = S::splat(*weights.add(query * room + position));
                for at in 0..V {
                    sums[query][at] = S::mul_add(weight, some[at], sums[query][at]);
                }
            }
        }
        for query in 0..Q {
            for at in 0..V {
                S::store(to.add(query * step + at * LANES), S::mul(sums[query][at], S::splat(shares[query])));
            }
        }
    }
}

/// Turns the scores of one query, a multiple of sixteen, into weights that are not yet divided by their sum; one over that sum.
#[inline(always)]
fn weigh(scores: &mut [f32]) -> f32 {
    let (sixteens, _) = scores.as_chunks_mut::<LANES>();
    let mut largest = [f32::NEG_INFINITY; LANES];
    for sixteen in sixteens.iter() {
        for (largest, score) in largest.iter_mut().zip(sixteen) {
            *largest = if *score > *largest { *score } else { *largest };
        }
    }
    let largest = halved(largest, |one, other| if one > other { one } else { other });
    let mut sums = [0.0; LANES];
    for sixteen in sixteens {
        for (score, sum) in sixteen.iter_mut().zip(&mut sums) {
            *score = exp_below_zero(*score - largest);
            *sum += *score;
        }
    }
    1.0 / halved(sums, |one, other| one + other)
}

/// e to the power of x for x <= 0, relative error below 3e-7; what is below -87 gives 1e-38.
///
/// x = n ln 2 + r with whole n and |r| <= ln 2 / 2: the Taylor polynomial of degree 6 gives e^r, and n goes into the exponent
/// bits.
#[inline(always)]
fn exp_below_zero(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it rounds to a whole number, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, so that n ln 2 is exact enough.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const TERMS: [f32; 6] = [1.0, 1.0, 1.0 / 2.0, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0];

    let x = if x > -87.0 { x } else { -87.0 };
    let shifted = x.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    let mut sum = 1.0 / 720.0;
    let mut at = TERMS.len();
    while at > 0 {
        at -= 1;
        sum = f32::mul_add(sum, r, TERMS[at]);
    }
    sum * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One query's attention as its formula says, in f64: `width` numbers.
    fn exact(input: &Heads<'_>, hidden: usize, sequence: usize, token: usize, head: usize) -> Vec<f64> {
        let width = hidden / input.heads;
        let at = |token: usize, part: usize, number: usize| {
            f64::from(input.qkv[(token * 3 + part) * hidden + head * width + number])
        };
        let positions = input.bounds[sequence]..input.bounds[sequence + 1];
        let query = |number| at(token, 0, number) + f64::from(input.query_bias[head * width + number]);
        let score = |key| (0..width).map(|number| query(number) * at(key, 1, number)).sum::<f64>();
        let weights: Vec<f64> = positions.clone().map(|key| score(key).exp()).collect();
        let total: f64 = weights.iter().sum();
        let sum =
            |number| positions.clone().zip(&weights).map(|(token, weight)| weight * at(token, 2, number)).sum::<f64>();
        (0..width).map(|number| sum(number) / total).collect()
    }

    #[test]
    fn attention_is_exact_and_the_same_bits_on_every_level_and_in_every_batch() {
        let mut random = fastrand::Rng::with_seed(12);
        for (heads, width) in [(2, 16), (3, 32), (2, 48), (1, 64)] {
            let hidden = heads * width;
            let bounds = [0, 1, 1, 18, 50, 113];
            let mut numbers = |count: usize| (0..count).map(|_| random.f32() * 2.0 - 1.0).collect::<Vec<f32>>();
            let (qkv, query_bias) = (numbers(113 * 3 * hidden), numbers(hidden));
            let input = Heads { qkv: &qkv, query_bias: &query_bias, heads, bounds: &bounds };
            let run = |level: Level, input: Heads<'_>| {
                let mut out = vec![f32::NAN; input.qkv.len() / 3];
                self_attention(level, input, &mut out);
                out
            };
            let reference = run(Level::Plain, input);
            for (sequence, ends) in bounds.windows(2).enumerate() {
                for token in ends[0]..ends[1] {
                    for head in 0..heads {
                        let found = &reference[token * hidden + head * width..][..width];
                        for (found, wanted) in found.iter().zip(exact(&input, hidden, sequence, token, head)) {
                            assert!((f64::from(*found) - wanted).abs() < 1e-5, "{found} for {wanted}");
                        }
                    }
                }
                let alone = Heads {
                    qkv: &qkv[ends[0] * 3 * hidden..ends[1] * 3 * hidden],
                    bounds: &[0, ends[1] - ends[0]],
                    ..input
                };
                assert_eq!(run(Level::here(), alone), reference[ends[0] * hidden..ends[1] * hidden]);
            }
            for level in Level::all() {
                assert_eq!(run(*level, input), reference, "{level:?}");
            }
        }
    }

    #[test]
    fn large_scores_neither_overflow_nor_vanish() {
        let mut qkv = vec![0.0; 3 * 48];
        // Rows of query, key and value: the first token's query meets the second's key, the others meet zeros.
        qkv[..16].fill(30.0);
        qkv[64..80].fill(30.0);
        for (token, value) in [1.0, 2.0, 3.0].into_iter().enumerate() {
            qkv[token * 48 + 32..(token + 1) * 48].fill(value);
        }
        let mut out = vec![f32::NAN; 48];
        let input = Heads { qkv: &qkv, query_bias: &[0.0; 16], heads: 1, bounds: &[0, 3] };
        self_attention(Level::here(), input, &mut out);
        assert!((out[0] - 2.0).abs() < 1e-6, "{}", out[0]);
        assert!((out[16] - 2.0).abs() < 1e-6, "equal weights: {}", out[16]);
    }
}
