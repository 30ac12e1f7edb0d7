//! Products of rounded activations with packed weights.
//!
//! A number of the result depends on its own row of activations and its own row of weights only, and is always summed in the
//! same order: it comes out the same bit by bit whether its row is computed alone or among others, on one thread or several,
//! with or without special instructions. Reading several tokens at once therefore gives what reading them one by one gives.

// Loops of a constant length over arrays that live in registers: written by index they are unrolled for certain.
#![allow(clippy::needless_range_loop)]

use super::activations::Activations;
use super::isa::{Isa, LANES, Plain};
use super::weights::{
    BLOCK, BYTES_BLOCK, Format, Packed, Q4K_BLOCK, Q4K_BYTES, Q4K_HEAD, Q6K_BLOCK, Q6K_BYTES, Q6K_HEAD,
};
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};
use super::{Level, pool};

/// Rows of activations that are computed together: a weight is unpacked once for all of them, and their sums fit the
/// registers.
const ROWS: usize = 12;
/// Tasks per thread, so that a thread that is held up leaves its share to the others.
const TASKS_PER_THREAD: usize = 6;

/// One product: `out` is `[rows, outputs]`.
pub struct Product<'a> {
    pub weights: &'a Packed,
    pub out: &'a mut [f32],
}

/// Multiplies the activations with several matrices of the same width in one go, on all threads.
///
/// # Panics
/// When a width or the length of an output does not fit: the caller made a mistake.
pub fn multiply(level: Level, activations: &Activations, products: &mut [Product<'_>]) {
    let rows = activations.rows();
    for product in products.iter() {
        assert_eq!(product.weights.inputs(), activations.inputs(), "width of the weights");
        assert_eq!(product.out.len(), rows * product.weights.outputs(), "length of the output");
        assert!(product.weights.format == Format::Rows8 || activations.group() == 1, "scales per 32 numbers");
    }
    let tiles: usize = products.iter().map(|product| product.weights.tiles()).sum();
    let step = tiles.div_ceil(pool().threads() * TASKS_PER_THREAD).max(1);
    let mut tasks = Vec::with_capacity(pool().threads() * TASKS_PER_THREAD + products.len());
    for product in products.iter_mut() {
        let (weights, out) = (product.weights, SharedOut(product.out.as_mut_ptr()));
        let tiles = weights.tiles();
        tasks.extend((0..tiles).step_by(step).map(|first| Task {
            weights,
            out,
            first,
            end: (first + step).min(tiles),
        }));
    }
    pool().run(tasks.len(), &|index| tasks[index].run(level, activations));
}

/// An output that several threads write, each its own columns.
#[derive(Clone, Copy)]
struct SharedOut(*mut f32);

// SAFETY: tasks write disjoint columns, and `multiply` holds the only reference while they run.
unsafe impl Send for SharedOut {}
// SAFETY: as above.
unsafe impl Sync for SharedOut {}

/// Some tiles of one product.
struct Task<'a> {
    weights: &'a Packed,
    out: SharedOut,
    first: usize,
    end: usize,
}

impl Task<'_> {
    fn run(&self, level: Level, activations: &Activations) {
        // SAFETY: `Level` says that the processor has the instructions; sizes were checked in `multiply`.
        unsafe {
            match level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => self.run_avx512(activations),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => self.run_avx2(activations),
                _ => self.run_on::<Plain>(activations),
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn run_avx512(&self, activations: &Activations) {
        unsafe { self.run_on::<Avx512>(activations) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn run_avx2(&self, activations: &Activations) {
        unsafe { self.run_on::<Avx2>(activations) }
    }

    #[inline(always)]
    unsafe fn run_on<S: Isa>(&self, activations: &Activations) {
        let rows = activations.rows();
        for tile in self.first..self.end {
            let mut first = 0;
            while first < rows {
                // Shares of about equal size rather than full ones and a rest: few rows make poor use of an unpacked weight.
                let shares = (rows - first).div_ceil(ROWS);
                let count = (rows - first).div_ceil(shares);
                let part = Part { weights: self.weights, activations, tile, first };
                unsafe {
                    match count {
                        1 => part.compute::<S, 1>(self.out),
                        2 => part.compute::<S, 2>(self.out),
                        3 => part.compute::<S, 3>(self.out),
                        4 => part.compute::<S, 4>(self.out),
                        5 => part.compute::<S, 5>(self.out),
                        6 => part.compute::<S, 6>(self.out),
                        7 => part.compute::<S, 7>(self.out),
                        8 => part.compute::<S, 8>(self.out),
                        9 => part.compute::<S, 9>(self.out),
                        10 => part.compute::<S, 10>(self.out),
                        11 => part.compute::<S, 11>(self.out),
                        _ => part.compute::<S, ROWS>(self.out),
                    }
                }
                first += count;
            }
        }
    }
}

/// Sixteen columns of some rows of a product.
struct Part<'a> {
    weights: &'a Packed,
    activations: &'a Activations,
    tile: usize,
    first: usize,
}

impl Part<'_> {
    #[inline(always)]
    unsafe fn compute<S: Isa, const M: usize>(&self, out: SharedOut) {
        unsafe {
            let sums = match self.weights.format {
                Format::Q4K => self.q4k::<S, M>(),
                Format::Q6K => self.q6k::<S, M>(),
                Format::Blocks8 => self.blocks8::<S, M>(),
                Format::Rows8 => self.rows8::<S, M>(),
            };
            let outputs = self.weights.outputs();
            let column = self.tile * LANES;
            for (row, sums) in sums.into_iter().enumerate() {
                let to = out.0.add((self.first + row) * outputs + column);
                if column + LANES <= outputs {
                    S::store(to, sums);
                } else {
                    let mut whole = [0.0; LANES];
                    S::store(whole.as_mut_ptr(), sums);
                    std::ptr::copy_nonoverlapping(whole.as_ptr(), to, outputs - column);
                }
            }
        }
    }

    /// Pointer to four activations of row `row` of this part.
    #[inline(always)]
    unsafe fn four(&self, block: usize, row: usize, vector: usize) -> i32 {
        unsafe {
            let at = (block * self.activations.rows() + self.first + row) * BLOCK + vector * 4;
            self.activations.bytes.as_ptr().add(at).cast::<i32>().read_unaligned()
        }
    }

    /// Adds the products with one vector of weights to the sums of all rows. Rows inside, so that their sums do not wait for
    /// each other.
    #[inline(always)]
    unsafe fn dot_rows<S: Isa, const M: usize>(
        &self,
        dots: &mut [S::Ints; M],
        weights: S::Ints,
        block: usize,
        vector: usize,
    ) {
        for (row, dot) in dots.iter_mut().enumerate() {
            *dot = unsafe { S::dot_small(*dot, weights, self.four(block, row, vector)) };
        }
    }

    #[inline(always)]
    unsafe fn q4k<S: Isa, const M: usize>(&self) -> [S::Floats; M] {
        unsafe {
            let rows = self.activations.rows();
            let blocks = self.activations.inputs() / BLOCK;
            let mut from = self.weights.bytes().as_ptr().add(self.tile * (blocks / 8) * Q4K_BYTES);
            let scales = self.activations.scales.as_ptr().add(self.first);
            let totals = self.activations.scaled_sums.as_ptr().add(self.first);
            let mut sums = [S::splat(0.0); M];
            for superblock in 0..blocks / 8 {
                let d = S::load_f16(from.cast());
                let dmin = S::load_f16(from.add(2 * LANES).cast());
                for inner in 0..8 {
                    let block = superblock * 8 + inner;
                    let at = from.add(Q4K_HEAD + inner * Q4K_BLOCK);
                    prefetch::<5>(at.wrapping_add(AHEAD));
                    let scale = S::mul(d, S::load_u8(at));
                    let minimum = S::mul(dmin, S::load_u8(at.add(LANES)));
                    let data = at.add(2 * LANES);
                    let mut dots = [S::splat_int(0); M];
                    for z in 0..4 {
                        let packed = S::load_bytes(data.add(64 * z));
                        self.dot_rows::<S, M>(&mut dots, S::low_nibbles(packed), block, 2 * z);
                        self.dot_rows::<S, M>(&mut dots, S::high_nibbles(packed), block, 2 * z + 1);
                    }
                    for row in 0..M {
                        let dot = S::mul(S::to_floats(dots[row]), scale);
                        sums[row] = S::mul_add(dot, S::splat(*scales.add(block * rows + row)), sums[row]);
                        sums[row] = S::mul_sub(minimum, S::splat(*totals.add(block * rows + row)), sums[row]);
                    }
                }
                from = from.add(Q4K_BYTES);
            }
            sums
        }
    }

    #[inline(always)]
    unsafe fn q6k<S: Isa, const M: usize>(&self) -> [S::Floats; M] {
        unsafe {
            let rows = self.activations.rows();
            let blocks = self.activations.inputs() / BLOCK;
            let mut from = self.weights.bytes().as_ptr().add(self.tile * (blocks / 8) * Q6K_BYTES);
            let scales = self.activations.scales.as_ptr().add(self.first);
            let offsets = self.activations.half_offsets.as_ptr().add(self.first);
            let mut sums = [S::splat(0.0); M];
            for superblock in 0..blocks / 8 {
                let d = S::load_f16(from.cast());
                for inner in 0..8 {
                    let block = superblock * 8 + inner;
                    let at = from.add(Q6K_HEAD + inner * Q6K_BLOCK);
                    prefetch::<7>(at.wrapping_add(AHEAD));
                    let data = at.add(2 * LANES);
                    for half in 0..2 {
                        let scale = S::mul(d, S::load_i8(at.add(half * LANES).cast()));
                        let mut dots = [S::splat_int(0); M];
                        for row in 0..M {
                            dots[row] = S::splat_int((*offsets.add(block * rows + row))[half]);
                        }
                        self.dot_q6k::<S, M>(&mut dots, data, block, half);
                        for row in 0..M {
                            let dot = S::mul(S::to_floats(dots[row]), scale);
                            sums[row] = S::mul_add(dot, S::splat(*scales.add(block * rows + row)), sums[row]);
                        }
                    }
                }
                from = from.add(Q6K_BYTES);
            }
            sums
        }
    }

    /// Adds the products with half a block. One vector of weights is put together at a time: with four at hand there are not
    /// enough registers for the sums.
    #[inline(always)]
    unsafe fn dot_q6k<S: Isa, const M: usize>(
        &self,
        dots: &mut [S::Ints; M],
        data: *const u8,
        block: usize,
        half: usize,
    ) {
        unsafe {
            let high = S::load_bytes(data.add(256 + 64 * half));
            let low = S::load_bytes(data.add(128 * half));
            let weights = S::or(S::low_nibbles(low), S::two_bits_high::<0>(high));
            self.dot_rows::<S, M>(dots, weights, block, 4 * half);
            let weights = S::or(S::high_nibbles(low), S::two_bits_high::<1>(high));
            self.dot_rows::<S, M>(dots, weights, block, 4 * half + 1);
            let low = S::load_bytes(data.add(128 * half + 64));
            let weights = S::or(S::low_nibbles(low), S::two_bits_high::<2>(high));
            self.dot_rows::<S, M>(dots, weights, block, 4 * half + 2);
            let weights = S::or(S::high_nibbles(low), S::two_bits_high::<3>(high));
            self.dot_rows::<S, M>(dots, weights, block, 4 * half + 3);
        }
    }

    #[inline(always)]
    unsafe fn blocks8<S: Isa, const M: usize>(&self) -> [S::Floats; M] {
        unsafe {
            let rows = self.activations.rows();
            let blocks = self.activations.inputs() / BLOCK;
            let from = self.weights.bytes().as_ptr().add(self.tile * blocks * BYTES_BLOCK);
            let weight_scales = self.weights.scales.as_ptr().add(self.tile * blocks * LANES);
            let scales = self.activations.scales.as_ptr().add(self.first);
            let offsets = self.activations.group_offsets.as_ptr().add(self.first);
            let mut sums = [S::splat(0.0); M];
            for block in 0..blocks {
                let data = from.add(block * BYTES_BLOCK);
                prefetch::<8>(data.wrapping_add(AHEAD));
                let scale = S::load(weight_scales.add(block * LANES));
                for row in 0..M {
                    let mut dot = S::start_offset(*offsets.add(block * rows + row));
                    for vector in 0..8 {
                        dot = S::dot_offset(dot, S::load_bytes(data.add(64 * vector)), self.four(block, row, vector));
                    }
                    let dot = S::mul(S::to_floats(dot), scale);
                    sums[row] = S::mul_add(dot, S::splat(*scales.add(block * rows + row)), sums[row]);
                }
            }
            sums
        }
    }

    #[inline(always)]
    unsafe fn rows8<S: Isa, const M: usize>(&self) -> [S::Floats; M] {
        unsafe {
            let rows = self.activations.rows();
            let group = self.activations.group();
            let blocks = self.activations.inputs() / BLOCK;
            let from = self.weights.bytes().as_ptr().add(self.tile * blocks * BYTES_BLOCK);
            let scales = self.activations.scales.as_ptr().add(self.first);
            let offsets = self.activations.group_offsets.as_ptr().add(self.first);
            let mut sums = [S::splat(0.0); M];
            for index in 0..blocks / group {
                let mut dots = [S::splat_int(0); M];
                for row in 0..M {
                    dots[row] = S::start_offset(*offsets.add(index * rows + row));
                }
                for block in index * group..(index + 1) * group {
                    let data = from.add(block * BYTES_BLOCK);
                    for vector in 0..8 {
                        let weights = S::load_bytes(data.add(64 * vector));
                        for row in 0..M {
                            dots[row] = S::dot_offset(dots[row], weights, self.four(block, row, vector));
                        }
                    }
                }
                for row in 0..M {
                    let scale = S::splat(*scales.add(index * rows + row));
                    sums[row] = S::mul_add(S::to_floats(dots[row]), scale, sums[row]);
                }
            }
            let scale = S::load(self.weights.scales.as_ptr().add(self.tile * LANES));
            for row in 0..M {
                sums[row] = S::mul(sums[row], scale);
            }
            sums
        }
    }
}

/// How far ahead weights are asked for, in bytes. The processor's own reading ahead ends at every page (4 KB), and in a loop with
/// much arithmetic it does not run far enough before that; from 8 to 24 KB make no difference, none at all costs half the speed.
const AHEAD: usize = 12_288;

/// Asks for `LINES` cache lines from `from` on. Any address will do: nothing is read of one that is not ours.
#[inline(always)]
fn prefetch<const LINES: usize>(from: *const u8) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..LINES {
        // SAFETY: a hint, which never faults.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(from.wrapping_add(line * 64).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = from;
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::GgmlDType;
    use proptest::prelude::*;

    /// Bytes of a matrix in a file's format; the f16 scales are made small numbers.
    fn file_bytes(dtype: GgmlDType, outputs: usize, inputs: usize, random: &mut fastrand::Rng) -> Vec<u8> {
        let (size, at): (usize, &[usize]) = match dtype {
            GgmlDType::Q4K => (144, &[0, 2]),
            _ => (210, &[208]),
        };
        let mut bytes: Vec<u8> = (0..outputs * inputs / 256 * size).map(|_| random.u8(..)).collect();
        for block in bytes.chunks_exact_mut(size) {
            for at in at {
                let scale = half::f16::from_f32(random.f32() * 0.01);
                block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
        }
        bytes
    }

    fn packed(kind: usize, outputs: usize, inputs: usize, random: &mut fastrand::Rng) -> Packed {
        match kind {
            0 | 1 => {
                let dtype = if kind == 0 { GgmlDType::Q4K } else { GgmlDType::Q6K };
                let bytes = file_bytes(dtype, outputs, inputs, random);
                Packed::from_gguf(dtype, &bytes, outputs, inputs).expect("sizes").expect("a packed format")
            }
            _ => {
                let values: Vec<f32> = (0..outputs * inputs).map(|_| random.f32() - 0.5).collect();
                Packed::from_f32(&values, outputs, inputs, kind == 3).expect("sizes")
            }
        }
    }

    /// The matrix as f32, `[outputs, inputs]`.
    fn decoded(weights: &Packed) -> Vec<f32> {
        let mut values = vec![0.0; weights.outputs() * weights.inputs()];
        for (output, row) in values.chunks_exact_mut(weights.inputs()).enumerate() {
            assert!(weights.decode(output, row));
        }
        values
    }

    fn product(level: Level, weights: &Packed, values: &[f32], wide: bool) -> Vec<f32> {
        let mut activations = Activations::default();
        if wide {
            activations.set_wide(values, weights.inputs())
        } else {
            activations.set(values, weights.inputs())
        }
        let mut out = vec![f32::NAN; activations.rows() * weights.outputs()];
        multiply(level, &activations, &mut [Product { weights, out: &mut out }]);
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn products_are_close_to_exact_ones_and_the_same_bits_on_every_level(
            kind in 0usize..4, outputs in 1usize..70, superblocks in 1usize..4, rows in 1usize..20, seed in any::<u64>(),
        ) {
            let mut random = fastrand::Rng::with_seed(seed);
            let inputs = 256 * superblocks;
            let weights = packed(kind, outputs, inputs, &mut random);
            let values: Vec<f32> = (0..rows * inputs).map(|_| random.f32() * 2.0 - 1.0).collect();
            let wide = kind == 3;
            let reference = product(Level::Plain, &weights, &values, wide);
            let exact = decoded(&weights);
            for row in 0..rows {
                for output in 0..outputs {
                    let pairs = || {
                        let inputs = values[row * inputs..][..inputs].iter();
                        inputs.zip(&exact[output * weights.inputs()..]).map(|(a, b)| (f64::from(*a), f64::from(*b)))
                    };
                    let sum: f64 = pairs().map(|(a, b)| a * b).sum();
                    // Half a step of rounding per input, adding up like a random walk; ten times that never happens.
                    let error = pairs().map(|(_, b)| (b / 254.0).powi(2)).sum::<f64>().sqrt() * 10.0 + 1e-4;
                    let found = f64::from(reference[row * outputs + output]);
                    prop_assert!((found - sum).abs() < error, "{found} for {sum}, {error} allowed");
                }
            }
            for level in Level::all() {
                prop_assert_eq!(&product(*level, &weights, &values, wide), &reference, "{:?}", level);
            }
            let alone = product(Level::here(), &weights, &values[(rows - 1) * inputs..], wide);
            prop_assert_eq!(&alone[..], &reference[(rows - 1) * outputs..], "a row alone");
        }
    }

    #[test]
    fn packed_matrices_hold_what_candle_reads_in_the_file() {
        let mut random = fastrand::Rng::with_seed(5);
        for dtype in [GgmlDType::Q4K, GgmlDType::Q6K] {
            let bytes = file_bytes(dtype, 20, 512, &mut random);
            let storage = candle_core::quantized::QStorage::from_data(
                std::borrow::Cow::Borrowed(&bytes),
                &candle_core::Device::Cpu,
                dtype,
            );
            let tensor = candle_core::quantized::QTensor::new(storage.expect("storage"), (20, 512)).expect("tensor");
            let theirs = tensor.dequantize(&candle_core::Device::Cpu).expect("decoded").flatten_all().expect("flat");
            let packed = Packed::from_gguf(dtype, &bytes, 20, 512).expect("sizes").expect("a packed format");
            for (ours, theirs) in decoded(&packed).iter().zip(theirs.to_vec1::<f32>().expect("f32")) {
                assert!((ours - theirs).abs() <= theirs.abs() * 1e-6 + 1e-7, "{ours} for {theirs}");
            }
            assert!(!packed.decode(20, &mut [0.0; 512]) && !packed.decode(0, &mut [0.0; 511]));
        }
    }

    #[test]
    fn several_products_share_one_pass() {
        let mut random = fastrand::Rng::with_seed(3);
        let (one, other) = (packed(0, 48, 256, &mut random), packed(1, 33, 256, &mut random));
        let values: Vec<f32> = (0..5 * 256).map(|_| random.f32()).collect();
        let mut activations = Activations::default();
        activations.set(&values, 256);
        let (mut first, mut second) = (vec![0.0; 5 * 48], vec![0.0; 5 * 33]);
        multiply(
            Level::here(),
            &activations,
            &mut [Product { weights: &one, out: &mut first }, Product { weights: &other, out: &mut second }],
        );
        assert_eq!(first, product(Level::here(), &one, &values, false));
        assert_eq!(second, product(Level::here(), &other, &values, false));
    }

    #[test]
    fn sizes_that_do_not_fit_are_errors() {
        assert!(Packed::from_f32(&[0.0; 33], 1, 33, false).is_err());
        assert!(Packed::from_f32(&[0.0; 33], 1, 32, false).is_err());
        assert!(Packed::from_gguf(GgmlDType::Q4K, &[0; 143], 1, 256).is_err());
        assert!(Packed::from_gguf(GgmlDType::Q5K, &[0; 176], 1, 256).expect("no mistake").is_none());
    }
}
