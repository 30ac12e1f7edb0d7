//! Attention over kept keys and values.
//!
//! Keys lie in blocks of sixteen positions, number by number: `[blocks, width, 16]`, so that the scores of sixteen positions come
//! out side by side. Values lie position by position: `[positions, width]`. Every query is computed in the same order whatever
//! is computed beside it, so that its result does not depend on that.

// Loops of a constant length over arrays that live in registers: written by index they are unrolled for certain.
#![allow(clippy::needless_range_loop)]

use super::Level;
use std::cell::RefCell;

use super::isa::{Isa, LANES, Plain};
use super::rows::softmax_body;
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};

/// Queries whose sums are held in registers together.
const QUERIES: usize = 3;
/// Positions whose values pass by at a time: 16 KB at a width of 128.
const POSITIONS: usize = 32;

/// The kept keys and values of one head.
#[derive(Clone, Debug)]
pub struct KeyValues {
    width: usize,
    /// `[blocks, width, 16]`.
    keys: Vec<f32>,
    /// `[16 * blocks, width]`, an even number of blocks.
    values: Vec<f32>,
}

/// One query: where its numbers are and where its result goes, both as wide as the head.
pub struct Query<'a> {
    pub query: &'a [f32],
    pub out: &'a mut [f32],
    /// Positions that it may look at, from the first one on; at least one.
    pub visible: usize,
}

impl KeyValues {
    /// Room for `positions` of `width` numbers; `width` is a multiple of 16.
    pub fn new(positions: usize, width: usize) -> Self {
        let room = positions.next_multiple_of(2 * LANES) * width;
        Self { width, keys: vec![0.0; room], values: vec![0.0; room] }
    }

    /// Numbers of a key and of a value.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Positions that there is room for.
    pub fn positions(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// Keeps the key and value of a position.
    pub fn put(&mut self, position: usize, key: &[f32], value: &[f32]) {
        let (block, lane) = (position / LANES, position % LANES);
        let keys = &mut self.keys[block * LANES * self.width..][..LANES * self.width];
        for (to, number) in keys[lane..].iter_mut().step_by(LANES).zip(key) {
            *to = *number;
        }
        self.values[position * self.width..][..self.width].copy_from_slice(value);
    }

    /// A copy of the first `positions`.
    pub fn first(&self, positions: usize) -> Self {
        let numbers = positions.next_multiple_of(LANES) * self.width;
        Self { width: self.width, keys: self.keys[..numbers].to_vec(), values: self.values[..numbers].to_vec() }
    }

    /// Overwrites the start with what [`KeyValues::first`] copied.
    pub fn restore(&mut self, first: &Self) {
        self.keys[..first.keys.len()].copy_from_slice(&first.keys);
        self.values[..first.values.len()].copy_from_slice(&first.values);
    }

    /// Memory held, in bytes.
    pub fn size(&self) -> usize {
        (self.keys.len() + self.values.len()) * size_of::<f32>()
    }
}

thread_local! {
    /// Scores to work in, kept from call to call.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Attention of every query over the first [`Query::visible`] positions: out = softmax(query * keys) * values. Queries carry the
/// scale 1 / sqrt(width) already. Queries that are passed together share the loads of keys and values.
///
/// # Panics
/// When a query is not as wide as the head, or fewer positions are kept than it may see: the caller made a mistake.
pub fn attend(level: Level, kept: &KeyValues, queries: &mut [Query<'_>]) {
    assert!(queries.iter().all(|one| one.query.len() == kept.width && one.out.len() == kept.width), "width");
    assert!(queries.iter().all(|one| one.visible > 0 && one.visible <= kept.positions()), "positions");
    SCORES.with_borrow_mut(|scores| {
        let most = queries.iter().map(|one| one.visible).max().unwrap_or(0);
        let room = most.next_multiple_of(2 * LANES);
        scores.resize(queries.len() * room, 0.0);
        let mut work = Work { kept, queries, scores, room };
        // SAFETY: `Level` says that the processor has the instructions; sizes were checked above.
        unsafe {
            match level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => work.run_avx512(),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => work.run_avx2(),
                Level::Plain => work.run::<Plain>(),
            }
        }
    });
}

struct Work<'a, 'b> {
    kept: &'a KeyValues,
    queries: &'a mut [Query<'b>],
    /// `[queries, room]`.
    scores: &'a mut [f32],
    room: usize,
}

impl Work<'_, '_> {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")]
    unsafe fn run_avx512(&mut self) {
        unsafe { self.run::<Avx512>() }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn run_avx2(&mut self) {
        unsafe { self.run::<Avx2>() }
    }

    /// Keys and values pass by in pieces that stay in the cache while all queries use them.
    #[inline(always)]
    unsafe fn run<S: Isa>(&mut self) {
        let most = self.queries.iter().map(|one| one.visible).max().unwrap_or(0);
        for first in (0..most).step_by(2 * LANES) {
            for from in (0..self.queries.len()).step_by(QUERIES) {
                if self.reach(from) > first {
                    unsafe { self.score_some::<S>(from, first) };
                }
            }
        }
        for (query, scores) in self.queries.iter().zip(self.scores.chunks_exact_mut(self.room)) {
            scores[query.visible..].fill(f32::NEG_INFINITY);
            softmax_body(scores, self.room);
            // The bounded exponential makes a tiny weight of minus infinity; what is not visible counts nothing at all.
            scores[query.visible..].fill(0.0);
        }
        for query in self.queries.iter_mut() {
            query.out.fill(0.0);
        }
        for first in (0..most).step_by(POSITIONS) {
            for from in (0..self.queries.len()).step_by(QUERIES) {
                let end = self.reach(from).min(first + POSITIONS);
                if end > first {
                    unsafe { self.mix_some::<S>(from, first, end) };
                }
            }
        }
    }

    /// Positions that the queries from `from` on see at most.
    #[inline(always)]
    fn reach(&self, from: usize) -> usize {
        self.queries[from..].iter().take(QUERIES).map(|one| one.visible).max().unwrap_or(0)
    }

    #[inline(always)]
    unsafe fn score_some<S: Isa>(&mut self, from: usize, first: usize) {
        unsafe {
            match self.queries.len() - from {
                1 => self.score::<S, 1>(from, first),
                2 => self.score::<S, 2>(from, first),
                _ => self.score::<S, QUERIES>(from, first),
            }
        }
    }

    #[inline(always)]
    unsafe fn mix_some<S: Isa>(&mut self, from: usize, first: usize, end: usize) {
        let vectors = self.kept.width / LANES;
        let mut vector = 0;
        unsafe {
            while vector + 4 <= vectors {
                match self.queries.len() - from {
                    1 => self.mix::<S, 1, 4>(from, first, end, vector),
                    2 => self.mix::<S, 2, 4>(from, first, end, vector),
                    _ => self.mix::<S, QUERIES, 4>(from, first, end, vector),
                }
                vector += 4;
            }
            while vector < vectors {
                match self.queries.len() - from {
                    1 => self.mix::<S, 1, 1>(from, first, end, vector),
                    2 => self.mix::<S, 2, 1>(from, first, end, vector),
                    _ => self.mix::<S, QUERIES, 1>(from, first, end, vector),
                }
                vector += 1;
            }
        }
    }

    /// Scores of `Q` queries at the 32 positions from `first` on; there are enough sums to keep the multipliers busy.
    #[inline(always)]
    unsafe fn score<S: Isa, const Q: usize>(&mut self, from: usize, first: usize) {
        const BLOCKS: usize = 2;
        unsafe {
            let step = self.kept.width * LANES;
            let keys = self.kept.keys.as_ptr().add(first / LANES * step);
            let queries: [*const f32; Q] = std::array::from_fn(|at| self.queries[from + at].query.as_ptr());
            let mut sums = [[S::splat(0.0); BLOCKS]; Q];
            for number in 0..self.kept.width {
                let keys: [S::Floats; BLOCKS] = std::array::from_fn(|at| S::load(keys.add(at * step + number * LANES)));
                for query in 0..Q {
                    let value = S::splat(*queries[query].add(number));
                    for at in 0..BLOCKS {
                        sums[query][at] = S::mul_add(value, keys[at], sums[query][at]);
                    }
                }
            }
            for query in 0..Q {
                for at in 0..BLOCKS {
                    let to = self.scores.as_mut_ptr().add((from + query) * self.room + first + at * LANES);
                    S::store(to, sums[query][at]);
                }
            }
        }
    }

    /// Adds the positions `first..end` to `V` vectors of the results of `Q` queries.
    #[inline(always)]
    unsafe fn mix<S: Isa, const Q: usize, const V: usize>(
        &mut self,
        from: usize,
        first: usize,
        end: usize,
        vector: usize,
    ) {
        unsafe {
            let width = self.kept.width;
            let values = self.kept.values.as_ptr().add(vector * LANES);
            let weights: [*const f32; Q] = std::array::from_fn(|at| self.scores.as_ptr().add((from + at) * self.room));
            let to: [*mut f32; Q] =
                std::array::from_fn(|at| self.queries[from + at].out.as_mut_ptr().add(vector * LANES));
            let mut sums = [[S::splat(0.0); V]; Q];
            for query in 0..Q {
                for at in 0..V {
                    sums[query][at] = S::load(to[query].add(at * LANES));
                }
            }
            for position in first..end {
                let values: [S::Floats; V] =
                    std::array::from_fn(|at| S::load(values.add(position * width + at * LANES)));
                for query in 0..Q {
                    let weight = S::splat(*weights[query].add(position));
                    for at in 0..V {
                        sums[query][at] = S::mul_add(weight, values[at], sums[query][at]);
                    }
                }
            }
            for query in 0..Q {
                for at in 0..V {
                    S::store(to[query].add(at * LANES), sums[query][at]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, random: &mut fastrand::Rng) -> Vec<f32> {
        (0..count).map(|_| random.f32() * 2.0 - 1.0).collect()
    }

    /// Attention as its formula says, in f64.
    fn exact(query: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>]) -> Vec<f64> {
        let dot = |key: &Vec<f32>| query.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let weights: Vec<f64> = keys.iter().map(|key| dot(key).exp()).collect();
        let total: f64 = weights.iter().sum();
        let column = |at: usize| weights.iter().zip(values).map(|(weight, value)| weight * f64::from(value[at])).sum();
        (0..query.len()).map(|at| -> f64 { column(at) }).map(|sum: f64| sum / total).collect()
    }

    #[test]
    fn attention_is_exact_and_the_same_bits_on_every_level_and_beside_other_queries() {
        let mut random = fastrand::Rng::with_seed(11);
        for width in [32, 48, 64, 128] {
            for visible in [1, 15, 16, 17, 33, 100] {
                let mut kept = KeyValues::new(128, width);
                let keys: Vec<Vec<f32>> = (0..128).map(|_| numbers(width, &mut random)).collect();
                let values: Vec<Vec<f32>> = (0..128).map(|_| numbers(width, &mut random)).collect();
                for position in 0..128 {
                    kept.put(position, &keys[position], &values[position]);
                }
                let queries: Vec<Vec<f32>> = (0..5).map(|_| numbers(width, &mut random)).collect();
                let run = |level: Level, queries: &[Vec<f32>]| {
                    let mut outs = vec![vec![f32::NAN; width]; queries.len()];
                    let mut pairs: Vec<Query<'_>> =
                        queries.iter().zip(&mut outs).map(|(query, out)| Query { query, out, visible }).collect();
                    // One that sees more beside them.
                    let mut more = vec![0.0; width];
                    pairs.push(Query { query: &queries[0], out: &mut more, visible: 128 });
                    attend(level, &kept, &mut pairs);
                    drop(pairs);
                    outs
                };
                let reference = run(Level::Plain, &queries);
                for (query, out) in queries.iter().zip(&reference) {
                    for (found, wanted) in out.iter().zip(exact(query, &keys[..visible], &values[..visible])) {
                        assert!((f64::from(*found) - wanted).abs() < 1e-4, "{found} for {wanted}");
                    }
                }
                for level in Level::all() {
                    assert_eq!(run(*level, &queries), reference, "{level:?}");
                    assert_eq!(run(*level, &queries[4..])[0], reference[4], "{level:?} alone");
                }
            }
        }
    }

    #[test]
    fn a_restored_start_is_the_start_that_was_kept() {
        let mut kept = KeyValues::new(64, 16);
        for position in 0..20 {
            kept.put(position, &[position as f32; 16], &[1.0; 16]);
        }
        let first = kept.first(20);
        let mut other = KeyValues::new(64, 16);
        other.put(3, &[9.0; 16], &[9.0; 16]);
        other.restore(&first);
        assert_eq!(other.keys[..320], kept.keys[..320]);
        assert_eq!(other.values[..320], kept.values[..320]);
        assert!(first.size() < kept.size());
    }
}
