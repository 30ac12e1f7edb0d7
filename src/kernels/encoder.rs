//! What stands between the matrix products of a BERT encoder. Each function reads the f32 rows of one product and leaves them
//! rounded as the next product wants them, so that no row travels to memory and back in between. All levels give the same bits,
//! and a row's result depends on that row alone.

use super::activations::{Activations, scale_of};
use super::isa::{Isa, LANES, Plain};
use super::rows::{LayerNorm, halved};
use super::weights::BLOCK;
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};
use super::{Level, pool};

/// Numbers that a thread takes at a time; fewer are not worth the hand-over.
const NUMBERS_PER_TASK: usize = 1 << 13;
/// Most numbers that share a scale.
const WIDEST: usize = 128;

/// Rounds `rows` (`[rows, width]`), with a scale per 128 numbers where the width allows.
pub fn round(level: Level, rows: &[f32], width: usize, into: &mut Activations) {
    run(level, Source::Rows(rows), width, rows.len() / width.max(1), into);
}

/// Rounds gelu(row + bias) of every row of `sums` (`[rows, width of bias]`).
pub fn gelu_then_round(level: Level, sums: &[f32], bias: &[f32], into: &mut Activations) {
    run(level, Source::Gelu { sums, bias }, bias.len(), sums.len() / bias.len().max(1), into);
}

/// The end of a BERT sub-layer: every row of `hidden` becomes layer_norm(hidden + sums + bias), and that is rounded.
///
/// # Panics
/// When `hidden` and `sums` differ in length: the caller made a mistake.
pub fn normalise_then_round(
    level: Level,
    sums: &[f32],
    bias: &[f32],
    norm: &LayerNorm,
    hidden: &mut [f32],
    into: &mut Activations,
) {
    assert_eq!(hidden.len(), sums.len(), "length of the residual");
    let (rows, width) = (sums.len() / bias.len().max(1), bias.len());
    let hidden = Shared(hidden.as_mut_ptr());
    run(level, Source::Normalise { sums, bias, norm, hidden }, width, rows, into);
}

/// A start of memory that several threads write, each its own part.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);

// SAFETY: tasks write disjoint rows, and their starter holds the only reference while they run.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

/// Where the numbers to round come from.
#[derive(Clone, Copy)]
enum Source<'a> {
    Rows(&'a [f32]),
    Gelu { sums: &'a [f32], bias: &'a [f32] },
    Normalise { sums: &'a [f32], bias: &'a [f32], norm: &'a LayerNorm, hidden: Shared<f32> },
}

/// Where they go: the parts of [`Activations`] that products of [`super::Format::Rows8`] read.
#[derive(Clone, Copy)]
struct Target {
    rows: usize,
    width: usize,
    /// Numbers that share a scale.
    group: usize,
    bytes: Shared<i8>,
    scales: Shared<f32>,
    offsets: Shared<i32>,
}

fn run(level: Level, source: Source<'_>, width: usize, rows: usize, into: &mut Activations) {
    let group = into.resize_wide(rows, width) * BLOCK;
    let target = Target {
        rows,
        width,
        group,
        bytes: Shared(into.bytes.as_mut_ptr()),
        scales: Shared(into.scales.as_mut_ptr()),
        offsets: Shared(into.group_offsets.as_mut_ptr()),
    };
    let step = (NUMBERS_PER_TASK / width.max(1)).max(1);
    pool().run(rows.div_ceil(step), &|index| {
        let (first, end) = (index * step, ((index + 1) * step).min(rows));
        // SAFETY: `Level` says that the processor has the instructions; the target has room for all rows, and every task
        // has rows of its own.
        unsafe {
            match level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => on_avx512(source, target, first, end),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => on_avx2(source, target, first, end),
                Level::Plain => on::<Plain>(source, target, first, end),
            }
        }
    });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")]
unsafe fn on_avx512(source: Source<'_>, target: Target, first: usize, end: usize) {
    unsafe { on::<Avx512>(source, target, first, end) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn on_avx2(source: Source<'_>, target: Target, first: usize, end: usize) {
    unsafe { on::<Avx2>(source, target, first, end) }
}

/// Rows `first` to `end`.
#[inline(always)]
unsafe fn on<S: Isa>(source: Source<'_>, target: Target, first: usize, end: usize) {
    let (width, group) = (target.width, target.group);
    for row in first..end {
        match source {
            Source::Rows(rows) => {
                for (index, values) in rows[row * width..][..width].chunks_exact(group).enumerate() {
                    unsafe { target.put::<S>(row, index, values) }
                }
            }
            Source::Gelu { sums, bias } => {
                let groups = sums[row * width..][..width].chunks_exact(group).zip(bias.chunks_exact(group));
                for (index, (sums, bias)) in groups.enumerate() {
                    let mut values = [0.0; WIDEST];
                    for ((value, sum), bias) in values.iter_mut().zip(sums).zip(bias) {
                        *value = gelu(sum + bias);
                    }
                    unsafe { target.put::<S>(row, index, &values[..group]) }
                }
            }
            Source::Normalise { sums, bias, norm, hidden } => {
                // SAFETY: `hidden` is as long as `sums`, and no other task has this row.
                let hidden = unsafe { std::slice::from_raw_parts_mut(hidden.0.add(row * width), width) };
                add_then_normalise(hidden, &sums[row * width..][..width], bias, norm);
                for (index, values) in hidden.chunks_exact(group).enumerate() {
                    unsafe { target.put::<S>(row, index, values) }
                }
            }
        }
    }
}

impl Target {
    /// Rounds one group of a row.
    #[inline(always)]
    unsafe fn put<S: Isa>(self, row: usize, index: usize, values: &[f32]) {
        let at = index * self.rows + row;
        let (values, _) = values.as_chunks::<BLOCK>();
        // SAFETY: as the caller says; loads and stores lie in the chunks of 32 that are taken here.
        unsafe {
            let mut largest = S::splat_int(0);
            for block in values {
                largest = S::max_ints(largest, S::magnitudes(S::load(block.as_ptr())));
                largest = S::max_ints(largest, S::magnitudes(S::load(block[LANES..].as_ptr())));
            }
            let (scale, inverse) = scale_of(f32::from_bits(S::largest(largest) as u32));
            let inverse = S::splat(inverse);
            // Whole numbers up to 127, four per block and lane at most: their sums are exact in f32.
            let mut sums = S::splat(0.0);
            for (block, values) in values.iter().enumerate() {
                let bytes = self.bytes.0.add(((index * (self.group / BLOCK) + block) * self.rows + row) * BLOCK);
                for half in 0..2 {
                    let rounded = S::round(S::mul(S::load(values[half * LANES..].as_ptr()), inverse));
                    S::store_i8(bytes.add(half * LANES), rounded);
                    sums = S::mul_add(S::to_floats(rounded), S::splat(1.0), sums);
                }
            }
            *self.scales.0.add(at) = scale;
            *self.offsets.0.add(at) = S::total(S::round(sums)).wrapping_mul(-128);
        }
    }
}

/// `row` becomes layer_norm(row + sums + bias).
#[inline(always)]
fn add_then_normalise(row: &mut [f32], sums: &[f32], bias: &[f32], norm: &LayerNorm) {
    for ((value, sum), bias) in row.iter_mut().zip(sums).zip(bias) {
        *value += sum + bias;
    }
    normalise(row, norm);
}

/// Layer norm of one row: mean 0 and variance 1, then the learnt scale and shift.
#[inline(always)]
fn normalise(row: &mut [f32], norm: &LayerNorm) {
    let count = row.len() as f32;
    let mut sums = [0.0; LANES];
    for sixteen in row.as_chunks::<LANES>().0 {
        for (sum, value) in sums.iter_mut().zip(sixteen) {
            *sum += value;
        }
    }
    let mean = halved(sums, |one, other| one + other) / count;
    let mut squares = [0.0; LANES];
    for sixteen in row.as_chunks::<LANES>().0 {
        for (sum, value) in squares.iter_mut().zip(sixteen) {
            let value = value - mean;
            *sum = value.mul_add(value, *sum);
        }
    }
    let scale = 1.0 / (halved(squares, |one, other| one + other) / count + norm.eps).sqrt();
    for ((value, weight), shift) in row.iter_mut().zip(&norm.weight).zip(&norm.shift) {
        *value = ((*value - mean) * scale).mul_add(*weight, *shift);
    }
}

/// x * Phi(x), the exact GELU, to within 3e-6 (and 3e-7 |x| beyond |x| = 5).
///
/// Phi(x) = 1/2 + u f(u^2) with u = x held within +-5, where Phi is 0 or 1 to 3e-7. f is a Chebyshev interpolation of degree 12
/// over t = 2 u^2 / 25 - 1, which goes from -1 to 1. There is no division and no exponential in it.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    const TERMS: [f32; 13] = [
        0.141_363_81,
        -0.070_295_91,
        0.051_517_93,
        -0.040_451_28,
        0.031_476_76,
        -0.023_213_127,
        0.016_236_09,
        -0.011_307_125,
        0.006_766_527_4,
        -0.002_526_917,
        0.001_374_596_1,
        -0.001_676_730_9,
        0.000_735_376_4,
    ];
    let u = if x > -5.0 { x } else { -5.0 };
    let u = if u < 5.0 { u } else { 5.0 };
    let t = (u * u).mul_add(2.0 / 25.0, -1.0);
    let mut sum = TERMS[12];
    let mut at = 12;
    while at > 0 {
        at -= 1;
        sum = sum.mul_add(t, TERMS[at]);
    }
    x * u.mul_add(sum, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Error function by its series, in f64; good for |x| <= 4.
    fn exact_erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            let n = f64::from(n);
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn gelu_is_close_to_its_exact_form() {
        for step in -6_000..=6_000 {
            let x = step as f32 / 1_000.0;
            // The series holds up to 4 / sqrt 2; beyond, GELU is x or 0 to 2e-4 and the other tests are as strict.
            if x.abs() <= 5.6 {
                let exact = 0.5 * f64::from(x) * (1.0 + exact_erf(f64::from(x) / std::f64::consts::SQRT_2));
                let error = (f64::from(gelu(x)) - exact).abs();
                assert!(error < 3e-6, "gelu({x}) is off by {error}");
            }
        }
        assert_eq!(gelu(0.0), 0.0);
        assert!((gelu(20.0) - 20.0).abs() < 1e-5 && gelu(-20.0).abs() < 1e-5);
        assert!((gelu(1e4) / 1e4 - 1.0).abs() < 1e-6);
    }

    fn numbers(count: usize, random: &mut fastrand::Rng) -> Vec<f32> {
        (0..count).map(|_| random.f32() * 6.0 - 3.0).collect()
    }

    /// What was rounded, as f32.
    fn read(rounded: &Activations) -> Vec<f32> {
        let (rows, width) = (rounded.rows(), rounded.inputs());
        let group = rounded.scales.len() / rows;
        let value = |row: usize, at: usize| {
            let byte = rounded.bytes[(at / BLOCK * rows + row) * BLOCK + at % BLOCK];
            f32::from(byte) * rounded.scales[at / (width / group) * rows + row]
        };
        (0..rows * width).map(|at| value(at / width, at % width)).collect()
    }

    #[test]
    fn every_level_rounds_the_same_numbers_to_the_same_bits() {
        let mut random = fastrand::Rng::with_seed(4);
        for (rows, width) in [(1, 32), (7, 64), (33, 384)] {
            let (sums, residual) = (numbers(rows * width, &mut random), numbers(rows * width, &mut random));
            let bias = numbers(width, &mut random);
            let norm =
                LayerNorm { weight: numbers(width, &mut random), shift: numbers(width, &mut random), eps: 1e-12 };
            let mut results = Vec::new();
            for level in Level::all() {
                let mut parts = [(); 3].map(|()| Activations::default());
                let mut hidden = residual.clone();
                round(*level, &sums, width, &mut parts[0]);
                gelu_then_round(*level, &sums, &bias, &mut parts[1]);
                normalise_then_round(*level, &sums, &bias, &norm, &mut hidden, &mut parts[2]);
                let parts = parts.map(|part| (part.bytes, part.scales, part.group_offsets));
                results.push((parts, hidden));
            }
            assert!(results.iter().all(|result| result == &results[0]), "{rows} x {width}");
        }
    }

    #[test]
    fn rounded_numbers_are_the_ones_that_were_meant() {
        let mut random = fastrand::Rng::with_seed(5);
        let (rows, width) = (5, 256);
        let (sums, residual) = (numbers(rows * width, &mut random), numbers(rows * width, &mut random));
        let bias = numbers(width, &mut random);
        let norm = LayerNorm { weight: vec![2.0; width], shift: vec![0.5; width], eps: 1e-12 };
        let mut rounded = Activations::default();
        let near = |rounded: &Activations, wanted: &[f32]| {
            let largest = wanted.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            let found = read(rounded);
            found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() <= largest / 254.0 + 1e-5)
        };
        round(Level::here(), &sums, width, &mut rounded);
        assert!(near(&rounded, &sums));
        for (group, offset) in rounded.group_offsets.iter().enumerate() {
            let (part, row) = (group / rows, group % rows);
            let blocks =
                (part * 4..part * 4 + 4).flat_map(|block| &rounded.bytes[(block * rows + row) * BLOCK..][..BLOCK]);
            assert_eq!(*offset, -128 * blocks.map(|byte| i32::from(*byte)).sum::<i32>());
        }
        gelu_then_round(Level::here(), &sums, &bias, &mut rounded);
        let wanted: Vec<f32> = sums.iter().enumerate().map(|(at, sum)| gelu(sum + bias[at % width])).collect();
        assert!(near(&rounded, &wanted));
        let mut hidden = residual.clone();
        normalise_then_round(Level::here(), &sums, &bias, &norm, &mut hidden, &mut rounded);
        assert!(near(&rounded, &hidden));
        for row in hidden.chunks_exact(width) {
            let mean = row.iter().sum::<f32>() / width as f32;
            let variance = row.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / width as f32;
            assert!((mean - 0.5).abs() < 1e-4 && (variance - 4.0).abs() < 1e-3, "{mean} {variance}");
        }
    }
}
