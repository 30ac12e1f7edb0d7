//! Attention over kept keys and values.
//!
//! Keys lie in blocks of sixteen positions, number by number: `[blocks, width, 16]`, so that the scores of sixteen positions come
//! out side by side. Values lie position by position: `[positions, width]`. Every query is computed in the same order whatever
//! is computed beside it, so that its result does not depend on that.

use super::Level;
use super::isa::{Isa, LANES, Plain};
use super::rows::softmax_body;
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};

/// Queries that are computed together, all over the same positions.
const QUERIES: usize = 3;

/// The kept keys and values of one head.
#[derive(Clone, Debug)]
pub struct KeyValues {
    width: usize,
    /// `[blocks, width, 16]`.
    keys: Vec<f32>,
    /// `[16 * blocks, width]`.
    values: Vec<f32>,
}

/// One query: where its numbers are and where its result goes, both as wide as the head.
pub struct Query<'a> {
    pub query: &'a [f32],
    pub out: &'a mut [f32],
}

impl KeyValues {
    /// Room for `positions` of `width` numbers; `width` is a multiple of 16.
    pub fn new(positions: usize, width: usize) -> Self {
        let room = positions.next_multiple_of(LANES) * width;
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

/// Attention of every query over the first `visible` positions: out = softmax(query * keys) * values. Queries carry the scale
/// 1 / sqrt(width) already. `scores` is memory to work in, reused from call to call.
///
/// # Panics
/// When a query is not as wide as the head, or fewer positions are kept: the caller made a mistake.
pub fn attend(level: Level, kept: &KeyValues, visible: usize, queries: &mut [Query<'_>], scores: &mut Vec<f32>) {
    assert!(visible > 0 && visible <= kept.positions(), "positions");
    assert!(queries.iter().all(|one| one.query.len() == kept.width && one.out.len() == kept.width), "width");
    scores.resize(QUERIES * visible.next_multiple_of(LANES), 0.0);
    for some in queries.chunks_mut(QUERIES) {
        // SAFETY: `Level` says that the processor has the instructions; sizes were checked above.
        unsafe {
            match level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => on_avx512(kept, visible, some, scores),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => on_avx2(kept, visible, some, scores),
                Level::Plain => on::<Plain>(kept, visible, some, scores),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")]
unsafe fn on_avx512(kept: &KeyValues, visible: usize, queries: &mut [Query<'_>], scores: &mut [f32]) {
    unsafe { on::<Avx512>(kept, visible, queries, scores) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn on_avx2(kept: &KeyValues, visible: usize, queries: &mut [Query<'_>], scores: &mut [f32]) {
    unsafe { on::<Avx2>(kept, visible, queries, scores) }
}

#[inline(always)]
unsafe fn on<S: Isa>(kept: &KeyValues, visible: usize, queries: &mut [Query<'_>], scores: &mut [f32]) {
    unsafe {
        match queries {
            [one] => some::<S, 1>(kept, visible, [one], scores),
            [one, two] => some::<S, 2>(kept, visible, [one, two], scores),
            [one, two, three] => some::<S, QUERIES>(kept, visible, [one, two, three], scores),
            _ => {}
        }
    }
}

#[inline(always)]
unsafe fn some<S: Isa, const Q: usize>(
    kept: &KeyValues,
    visible: usize,
    mut queries: [&mut Query<'_>; Q],
    scores: &mut [f32],
) {
    let room = visible.next_multiple_of(LANES);
    unsafe {
        let from: [*const f32; Q] = std::array::from_fn(|at| queries[at].query.as_ptr());
        // Two blocks of positions at a time: enough sums to keep the multipliers busy.
        let blocks = room / LANES;
        let mut block = 0;
        while block + 2 <= blocks {
            score::<S, Q, 2>(kept, from, block, room, scores.as_mut_ptr());
            block += 2;
        }
        if block < blocks {
            score::<S, Q, 1>(kept, from, block, room, scores.as_mut_ptr());
        }
        for query in 0..Q {
            let scores = &mut scores[query * room..][..room];
            scores[visible..].fill(f32::NEG_INFINITY);
            softmax_body(scores, room);
            // Minus infinity becomes a tiny weight by the bounded exponential; what is not visible counts nothing at all.
            scores[visible..].fill(0.0);
        }
        let to: [*mut f32; Q] = std::array::from_fn(|at| queries[at].out.as_mut_ptr());
        let vectors = kept.width / LANES;
        let mut vector = 0;
        while vector + 4 <= vectors {
            mix::<S, Q, 4>(kept, scores.as_ptr(), room, visible, vector, to);
            vector += 4;
        }
        while vector < vectors {
            mix::<S, Q, 1>(kept, scores.as_ptr(), room, visible, vector, to);
            vector += 1;
        }
    }
}

/// Scores of `Q` queries at `B` blocks of sixteen positions.
#[inline(always)]
unsafe fn score<S: Isa, const Q: usize, const B: usize>(
    kept: &KeyValues,
    queries: [*const f32; Q],
    block: usize,
    room: usize,
    scores: *mut f32,
) {
    unsafe {
        let step = kept.width * LANES;
        let keys = kept.keys.as_ptr().add(block * step);
        let mut sums = [[S::splat(0.0); B]; Q];
        for number in 0..kept.width {
            let keys: [S::Floats; B] = std::array::from_fn(|at| S::load(keys.add(at * step + number * LANES)));
            for query in 0..Q {
                let value = S::splat(*queries[query].add(number));
                for at in 0..B {
                    sums[query][at] = S::mul_add(value, keys[at], sums[query][at]);
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

/// `V` vectors of the results of `Q` queries.
#[inline(always)]
unsafe fn mix<S: Isa, const Q: usize, const V: usize>(
    kept: &KeyValues,
    weights: *const f32,
    room: usize,
    visible: usize,
    vector: usize,
    to: [*mut f32; Q],
) {
    unsafe {
        let values = kept.values.as_ptr().add(vector * LANES);
        let mut sums = [[S::splat(0.0); V]; Q];
        for position in 0..visible {
            let values: [S::Floats; V] =
                std::array::from_fn(|at| S::load(values.add(position * kept.width + at * LANES)));
            for query in 0..Q {
                let weight = S::splat(*weights.add(query * room + position));
                for at in 0..V {
                    sums[query][at] = S::mul_add(weight, values[at], sums[query][at]);
                }
            }
        }
        for query in 0..Q {
            for at in 0..V {
                S::store(to[query].add((vector + at) * LANES), sums[query][at]);
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
                        queries.iter().zip(&mut outs).map(|(query, out)| Query { query, out }).collect();
                    attend(level, &kept, visible, &mut pairs, &mut Vec::new());
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
