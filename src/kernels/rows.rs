//! The parts of a transformer layer that are no matrix products: each works in place on rows of f32, in loops that the
//! compiler turns into vector instructions, once for every [`Level`](super::Level). All levels give the same bits.

use std::f32::consts::LOG2_E;

use super::isa::LANES;
use super::level_dispatch;

level_dispatch! {
    /// Adds `bias` to every row.
    pub fn add_bias(rows: &mut [f32], bias: &[f32]) = add_bias_body;

    /// `out` becomes every row of `rows` divided by its root mean square and multiplied by `weight`.
    pub fn rms_norm(rows: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = rms_norm_body;

    /// `gate` becomes gate * sigmoid(gate) * up, number by number.
    pub fn silu_times(gate: &mut [f32], up: &[f32]) = silu_times_body;

    /// Adds `more` to `values`, number by number.
    pub fn add(values: &mut [f32], more: &[f32]) = add_body;

    /// Rotary position embedding of one head: the numbers `i` and `i + half` are turned as a pair by the angle of their frequency;
    /// `cos` and `sin` hold half as many numbers as the head.
    pub fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) = rotate_body;

    /// Place of the largest number, the first of equals; 0 where there is none.
    pub fn argmax(values: &[f32]) -> usize = argmax_body;
}

#[inline(always)]
fn add_bias_body(rows: &mut [f32], bias: &[f32]) {
    for row in rows.chunks_exact_mut(bias.len()) {
        for (value, bias) in row.iter_mut().zip(bias) {
            *value += bias;
        }
    }
}

#[inline(always)]
fn rms_norm_body(rows: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    for (row, out) in rows.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let scale = 1.0 / (lanes_sum_of_squares(row) / width as f32 + eps).sqrt();
        for ((out, value), weight) in out.iter_mut().zip(row).zip(weight) {
            *out = value * scale * weight;
        }
    }
}

#[inline(always)]
fn silu_times_body(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

#[inline(always)]
fn add_body(values: &mut [f32], more: &[f32]) {
    for (value, more) in values.iter_mut().zip(more) {
        *value += more;
    }
}

#[inline(always)]
fn rotate_body(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(cos.len());
    for (((first, second), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        let (one, other) = (*first, *second);
        *first = one * cos - other * sin;
        *second = one * sin + other * cos;
    }
}

#[inline(always)]
fn argmax_body(values: &[f32]) -> usize {
    let largest = lanes_max(values);
    values.iter().position(|value| *value == largest).unwrap_or(0)
}

#[inline(always)]
pub(super) fn softmax_body(rows: &mut [f32], width: usize) {
    for row in rows.chunks_exact_mut(width) {
        let largest = lanes_max(row);
        for value in row.iter_mut() {
            *value = exp(*value - largest);
        }
        let scale = 1.0 / lanes_sum(row);
        for value in row.iter_mut() {
            *value *= scale;
        }
    }
}

/// Layer norm: the learnt scale and shift after normalisation to mean 0 and variance 1.
pub struct LayerNorm {
    pub weight: Vec<f32>,
    pub shift: Vec<f32>,
    pub eps: f32,
}

/// e to the power of x, relative error below 3e-7; clamped to what a normal f32 can hold.
///
/// x = n ln 2 + r with whole n and |r| <= ln 2 / 2: the Taylor polynomial of degree 6 gives e^r, and n goes into the
/// exponent bits.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it rounds to a whole number, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, so that n ln 2 is exact enough.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;

    let x = if x > -87.0 { x } else { -87.0 };
    let x = if x < 88.0 { x } else { 88.0 };
    let shifted = x * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let tail = ((((r / 720.0 + 1.0 / 120.0) * r + 1.0 / 24.0) * r + 1.0 / 6.0) * r + 0.5) * r * r;
    let power_of_two = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    (1.0 + r + tail) * power_of_two
}

// Sums run side by side in lanes: a single one would force the additions into one long chain.

#[inline(always)]
fn lanes_sum(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value;
        }
    }
    sums.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

#[inline(always)]
fn lanes_sum_of_squares(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value * value;
        }
    }
    sums.iter().sum::<f32>() + rest.iter().map(|value| value * value).sum::<f32>()
}

#[inline(always)]
fn lanes_max(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut largest = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (largest, value) in largest.iter_mut().zip(chunk) {
            *largest = if *value > *largest { *value } else { *largest };
        }
    }
    largest.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// All lanes joined into one, half with half: an order that is the same and short on every level.
#[inline(always)]
pub(super) fn halved(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = join(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_over_its_whole_range() {
        for step in -8_690..8_790 {
            let x = step as f32 / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 3e-7, "exp({x}) is off by {error}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
        assert!(exp(f32::INFINITY).is_finite());
    }

    #[test]
    fn softmax_sums_to_one_also_with_large_scores() {
        let mut rows = vec![1_000.0, 1_001.0, -1_000.0, 0.0, 0.0, 0.0];
        softmax_body(&mut rows, 3);
        assert!((rows[1] - 0.731_058_6).abs() < 1e-6);
        assert!((rows[..3].iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((rows[3] - 1.0 / 3.0).abs() < 1e-6);
    }
}
