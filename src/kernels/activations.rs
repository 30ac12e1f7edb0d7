//! The inputs of a matrix product, rounded to 8 bits with a scale per 32 numbers, or per 128.

use super::isa::{Isa, LANES, Plain};
use super::weights::BLOCK;
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};
use super::{Level, pool};

/// Rows of activations as the kernels read them: block by block, and within a block row by row, so that the rows of a tile
/// lie side by side.
#[derive(Default)]
pub struct Activations {
    rows: usize,
    inputs: usize,
    /// Blocks that share a scale.
    group: usize,
    /// `[blocks, rows, 32]`.
    pub(super) bytes: Vec<i8>,
    /// `[blocks / group, rows]`.
    pub(super) scales: Vec<f32>,
    /// Scale times the sum of the block's bytes, `[blocks, rows]`.
    pub(super) scaled_sums: Vec<f32>,
    /// -32 times the sum of the bytes of either half of a block, `[blocks, rows, 2]`: Q6_K stores its numbers with 32 added.
    pub(super) half_offsets: Vec<[i32; 2]>,
    /// -128 times the sum of the bytes of a group, `[blocks / group, rows]`: for weights that are stored with 128 added.
    pub(super) group_offsets: Vec<i32>,
}

/// Numbers that a thread rounds at a time; fewer are not worth the hand-over.
const NUMBERS_PER_TASK: usize = 1 << 15;
/// Blocks that share a scale where a matrix has one scale per row: 128 numbers.
pub(super) const WIDE_GROUP: usize = 4;

impl Activations {
    /// Rounds `[rows, inputs]` numbers, with a scale per 32 (for all formats but [`super::Format::Rows8`]). `inputs` is a
    /// multiple of 32. Memory is reused from call to call.
    pub fn set(&mut self, values: &[f32], inputs: usize) {
        self.round(values, inputs, 1);
    }

    /// As [`Activations::set`] with a scale per 128 numbers where the width allows, for [`super::Format::Rows8`].
    pub fn set_wide(&mut self, values: &[f32], inputs: usize) {
        self.round(values, inputs, wide_group(inputs));
    }

    /// Makes room for rows that are rounded elsewhere, for [`super::Format::Rows8`] only, and says how many blocks share a scale.
    pub(super) fn resize_wide(&mut self, rows: usize, inputs: usize) -> usize {
        let group = wide_group(inputs);
        (self.rows, self.inputs, self.group) = (rows, inputs, group);
        self.resize();
        group
    }

    fn resize(&mut self) {
        let blocks = self.inputs / BLOCK * self.rows;
        self.bytes.resize(blocks * BLOCK, 0);
        self.half_offsets.resize(blocks, [0; 2]);
        self.scaled_sums.resize(blocks, 0.0);
        self.scales.resize(blocks / self.group, 0.0);
        self.group_offsets.resize(blocks / self.group, 0);
    }

    fn round(&mut self, values: &[f32], inputs: usize, group: usize) {
        let rows = values.len() / inputs.max(1);
        (self.rows, self.inputs, self.group) = (rows, inputs, group);
        self.resize();
        let level = Level::here();
        // Groups per task: as many as are worth the hand-over.
        let groups = (NUMBERS_PER_TASK / (rows * group * BLOCK).max(1)).max(1);
        let parts = self
            .bytes
            .chunks_mut(groups * group * rows * BLOCK)
            .zip(self.half_offsets.chunks_mut(groups * group * rows))
            .zip(self.scaled_sums.chunks_mut(groups * group * rows))
            .zip(self.scales.chunks_mut(groups * rows).zip(self.group_offsets.chunks_mut(groups * rows)))
            .enumerate()
            .map(|(index, (((bytes, half_offsets), scaled_sums), (scales, group_offsets)))| Groups {
                values: &values[index * groups * group * BLOCK..],
                inputs,
                rows,
                group,
                bytes,
                half_offsets,
                scaled_sums,
                scales,
                group_offsets,
            });
        pool().each(parts, values.len() <= NUMBERS_PER_TASK, |part| round_groups(level, part));
    }

    /// Rows of the last [`Activations::set`].
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers in a row.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Blocks that share a scale.
    pub(super) fn group(&self) -> usize {
        self.group
    }
}

/// Blocks that share a scale in rows of this width, where a matrix has one scale per row.
fn wide_group(inputs: usize) -> usize {
    if inputs.is_multiple_of(BLOCK * WIDE_GROUP) { WIDE_GROUP } else { 1 }
}

/// Some groups of blocks, of all rows.
struct Groups<'a> {
    /// Of the first row, from the group's first number on.
    values: &'a [f32],
    inputs: usize,
    rows: usize,
    group: usize,
    bytes: &'a mut [i8],
    half_offsets: &'a mut [[i32; 2]],
    scaled_sums: &'a mut [f32],
    scales: &'a mut [f32],
    group_offsets: &'a mut [i32],
}

/// Rounds some groups.
fn round_groups(level: Level, part: Groups<'_>) {
    // SAFETY: `Level` says that the processor has the instructions.
    unsafe {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => round_avx512(part),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => round_avx2(part),
            Level::Plain => round_on::<Plain>(part),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn round_avx512(part: Groups<'_>) {
    unsafe { round_on::<Avx512>(part) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn round_avx2(part: Groups<'_>) {
    unsafe { round_on::<Avx2>(part) }
}

#[inline(always)]
unsafe fn round_on<S: Isa>(part: Groups<'_>) {
    let (rows, group) = (part.rows, part.group);
    for row in 0..rows {
        for index in 0..part.scales.len() / rows {
            let values = &part.values[row * part.inputs + index * group * BLOCK..][..group * BLOCK];
            let at = index * rows + row;
            // SAFETY: as the caller says; all loads and stores lie in the slices of 32 that are taken here.
            unsafe {
                let mut largest = S::splat_int(0);
                for sixteen in values.as_chunks::<LANES>().0 {
                    largest = S::max_ints(largest, S::magnitudes(S::load(sixteen.as_ptr())));
                }
                let (scale, inverse) = scale_of(f32::from_bits(S::largest(largest) as u32));
                part.scales[at] = scale;
                let mut group_sum = 0;
                for (block, values) in values.as_chunks::<BLOCK>().0.iter().enumerate() {
                    let at = (index * group + block) * rows + row;
                    let bytes = &mut part.bytes[at * BLOCK..][..BLOCK];
                    let inverse = S::splat(inverse);
                    let first = S::round(S::mul(S::load(values.as_ptr()), inverse));
                    let second = S::round(S::mul(S::load(values[LANES..].as_ptr()), inverse));
                    S::store_i8(bytes.as_mut_ptr(), first);
                    S::store_i8(bytes[LANES..].as_mut_ptr(), second);
                    let sums = [S::total(first), S::total(second)];
                    part.half_offsets[at] = sums.map(|sum| -32 * sum);
                    part.scaled_sums[at] = scale * (sums[0] + sums[1]) as f32;
                    group_sum += sums[0] + sums[1];
                }
                part.group_offsets[at] = -128 * group_sum;
            }
        }
    }
}

/// The scale that maps the largest magnitude to 127, and its inverse; both 0 where that is 0 or no number.
pub(super) fn scale_of(largest: f32) -> (f32, f32) {
    if largest > 0.0 && largest.is_finite() { (largest / 127.0, 127.0 / largest) } else { (0.0, 0.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_to_within_half_a_step() {
        let values: Vec<f32> = (0..3 * 256).map(|at| ((at * 37 % 101) as f32 - 50.0) * 0.37).collect();
        let mut activations = Activations::default();
        for wide in [false, true] {
            if wide {
                activations.set_wide(&values, 256)
            } else {
                activations.set(&values, 256)
            }
            let group = activations.group();
            for row in 0..3 {
                for input in 0..256 {
                    let block = input / BLOCK;
                    let scale = activations.scales[block / group * 3 + row];
                    let byte = activations.bytes[(block * 3 + row) * BLOCK + input % BLOCK];
                    let error = (f32::from(byte) * scale - values[row * 256 + input]).abs();
                    assert!(error <= scale * 0.501, "row {row}, input {input}: {error} with scale {scale}");
                }
            }
        }
    }

    #[test]
    fn zeros_and_what_is_no_number_become_zero() {
        let mut values = vec![0.0; 64];
        values[40] = f32::NAN;
        values[41] = f32::INFINITY;
        let mut activations = Activations::default();
        activations.set(&values, 64);
        assert!(activations.scales.iter().all(|scale| *scale == 0.0));
        assert!(activations.scaled_sums.iter().all(|sum| *sum == 0.0));
    }
}
