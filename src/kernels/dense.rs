//! Products of many rows of activations with one matrix of [`Format::Rows8`]: what an encoder does most of the time.
//!
//! As in [`super::matmul`], with two groups of sixteen outputs at a time: every activation that is loaded is used twice, which
//! is a fifth faster where loads are what limits. The bits are those of [`super::multiply`].

// Sums of rows and tiles are numbered alike in several arrays.
#![allow(clippy::needless_range_loop)]

use super::activations::Activations;
use super::isa::{Isa, LANES, Plain};
use super::weights::{BLOCK, BYTES_BLOCK, Format, Packed};
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};
use super::{Level, pool};

/// Tasks per thread, so that a thread that is held up leaves its share to the others.
const TASKS_PER_THREAD: usize = 6;

/// `out` (`[rows, outputs]`) becomes activations * weights, on all threads.
///
/// # Panics
/// When the weights have another format, or a width or the length of `out` does not fit: the caller made a mistake.
pub fn multiply_rows(level: Level, activations: &Activations, weights: &Packed, out: &mut [f32]) {
    assert_eq!(weights.format, Format::Rows8, "format of the weights");
    assert_eq!(weights.inputs(), activations.inputs(), "width of the weights");
    assert_eq!(out.len(), activations.rows() * weights.outputs(), "length of the output");
    let pairs = weights.tiles().div_ceil(2);
    let step = pairs.div_ceil(pool().threads() * TASKS_PER_THREAD).max(1);
    let out = SharedOut(out.as_mut_ptr());
    pool().run(pairs.div_ceil(step), &|index| {
        let task = Task { weights, activations, out, first: 2 * index * step, end: 2 * (index + 1) * step };
        // SAFETY: `Level` says that the processor has the instructions; sizes were checked above.
        unsafe {
            match level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => task.run_avx512(),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => task.run_avx2(),
                Level::Plain => task.run_on::<Plain, 1>(1),
            }
        }
    });
}

/// An output that several threads write, each its own columns.
#[derive(Clone, Copy)]
struct SharedOut(*mut f32);

// SAFETY: tasks write disjoint columns, and `multiply_rows` holds the only reference while they run.
unsafe impl Send for SharedOut {}
// SAFETY: as above.
unsafe impl Sync for SharedOut {}

/// Some tiles of sixteen outputs.
struct Task<'a> {
    weights: &'a Packed,
    activations: &'a Activations,
    out: SharedOut,
    first: usize,
    end: usize,
}

impl Task<'_> {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn run_avx512(&self) {
        unsafe { self.run_on::<Avx512, 2>(8) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn run_avx2(&self) {
        unsafe { self.run_on::<Avx2, 1>(4) }
    }

    /// `T` tiles and at most `most` rows at a time: their sums fit the registers.
    #[inline(always)]
    unsafe fn run_on<S: Isa, const T: usize>(&self, most: usize) {
        let end = self.end.min(self.weights.tiles());
        let mut tile = self.first;
        while tile < end {
            let tiles = T.min(end - tile);
            let rows = self.activations.rows();
            let mut first = 0;
            while first < rows {
                // Shares of about equal size rather than full ones and a rest: few rows make poor use of a loaded weight.
                let shares = (rows - first).div_ceil(most);
                let count = (rows - first).div_ceil(shares);
                unsafe {
                    if tiles == T {
                        self.rows::<S, T>(tile, first, count)
                    } else {
                        self.rows::<S, 1>(tile, first, count)
                    }
                }
                first += count;
            }
            tile += tiles;
        }
    }

    #[inline(always)]
    unsafe fn rows<S: Isa, const T: usize>(&self, tile: usize, first: usize, count: usize) {
        unsafe {
            match count {
                1 => self.compute::<S, T, 1>(tile, first),
                2 => self.compute::<S, T, 2>(tile, first),
                3 => self.compute::<S, T, 3>(tile, first),
                4 => self.compute::<S, T, 4>(tile, first),
                5 => self.compute::<S, T, 5>(tile, first),
                6 => self.compute::<S, T, 6>(tile, first),
                7 => self.compute::<S, T, 7>(tile, first),
                _ => self.compute::<S, T, 8>(tile, first),
            }
        }
    }

    /// `T` tiles of `M` rows.
    #[inline(always)]
    unsafe fn compute<S: Isa, const T: usize, const M: usize>(&self, tile: usize, first: usize) {
        unsafe {
            let (rows, group) = (self.activations.rows(), self.activations.group());
            let blocks = self.activations.inputs() / BLOCK;
            let from = self.weights.bytes().as_ptr().add(tile * blocks * BYTES_BLOCK);
            let bytes = self.activations.bytes.as_ptr().add(first * BLOCK);
            let scales = self.activations.scales.as_ptr().add(first);
            let offsets = self.activations.group_offsets.as_ptr().add(first);
            let mut sums = [[S::splat(0.0); T]; M];
            for index in 0..blocks / group {
                let mut dots = [[S::splat_int(0); T]; M];
                for row in 0..M {
                    dots[row] = [S::start_offset(*offsets.add(index * rows + row)); T];
                }
                for block in index * group..(index + 1) * group {
                    for vector in 0..8 {
                        let mut weights = [S::splat_int(0); T];
                        for at in 0..T {
                            weights[at] = S::load_bytes(from.add((at * blocks + block) * BYTES_BLOCK + 64 * vector));
                        }
                        for row in 0..M {
                            let four = bytes.add((block * rows + row) * BLOCK + 4 * vector).cast::<i32>();
                            let four = four.read_unaligned();
                            for at in 0..T {
                                dots[row][at] = S::dot_offset(dots[row][at], weights[at], four);
                            }
                        }
                    }
                }
                for row in 0..M {
                    let scale = S::splat(*scales.add(index * rows + row));
                    for at in 0..T {
                        sums[row][at] = S::mul_add(S::to_floats(dots[row][at]), scale, sums[row][at]);
                    }
                }
            }
            let outputs = self.weights.outputs();
            for at in 0..T {
                let scale = S::load(self.weights.scales.as_ptr().add((tile + at) * LANES));
                let column = (tile + at) * LANES;
                for row in 0..M {
                    let values = S::mul(sums[row][at], scale);
                    let to = self.out.0.add((first + row) * outputs + column);
                    if column + LANES <= outputs {
                        S::store(to, values);
                    } else {
                        let mut whole = [0.0; LANES];
                        S::store(whole.as_mut_ptr(), values);
                        std::ptr::copy_nonoverlapping(whole.as_ptr(), to, outputs - column);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Product, multiply};
    use super::*;

    #[test]
    fn every_level_gives_the_bits_of_the_other_product() {
        let mut random = fastrand::Rng::with_seed(9);
        for (outputs, inputs) in [(16, 32), (33, 128), (65, 96), (384, 256)] {
            let weights: Vec<f32> = (0..outputs * inputs).map(|_| random.f32() - 0.5).collect();
            let weights = Packed::from_f32(&weights, outputs, inputs, true).expect("sizes");
            for rows in [1, 5, 8, 9, 31] {
                let values: Vec<f32> = (0..rows * inputs).map(|_| random.f32() * 2.0 - 1.0).collect();
                let mut activations = Activations::default();
                activations.set_wide(&values, inputs);
                let mut wanted = vec![0.0; rows * outputs];
                multiply(Level::Plain, &activations, &mut [Product { weights: &weights, out: &mut wanted }]);
                for level in Level::all() {
                    let mut out = vec![f32::NAN; rows * outputs];
                    multiply_rows(*level, &activations, &weights, &mut out);
                    assert_eq!(out, wanted, "{level:?}: {rows} rows, {outputs} x {inputs}");
                }
            }
        }
    }
}
