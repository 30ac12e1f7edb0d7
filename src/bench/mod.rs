//! Measurements that end up in `docs/`: the command that made a figure is in this repository.

pub mod crash;
pub mod desk;
pub mod learning;
pub mod load;
pub mod models;
pub mod overload;
pub mod peers;
pub mod prompts;
mod report;
pub mod requests;
#[cfg(feature = "edge")]
pub mod scale;
mod side_by_side;
pub mod writing;

use sha2::{Digest, Sha256};

/// Value at a share (0 to 1) of sorted figures, by the nearest-rank method.
pub fn quantile(sorted: &[f32], share: f64) -> f32 {
    if sorted.is_empty() {
        return f32::NAN;
    }
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// Clopper-Pearson-free and simple: Wilson's 95 % interval for a share of successes
/// (E. B. Wilson, 1927), in percent.
pub fn wilson(successes: usize, count: usize) -> (f64, f64) {
    if count == 0 {
        return (0.0, 100.0);
    }
    const Z: f64 = 1.959_964;
    let n = count as f64;
    let share = successes as f64 / n;
    let centre = share + Z * Z / (2.0 * n);
    let margin = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (100.0 * (centre - margin) / scale, 100.0 * (centre + margin) / scale)
}

/// A number that orders ids without preference and the same way everywhere.
fn shuffle_key(seed: &str, id: &str) -> [u8; 32] {
    Sha256::digest(format!("{seed}{id}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_figures_that_occurred() {
        let sorted = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(quantile(&sorted, 0.5), 2.0);
        assert_eq!(quantile(&sorted, 0.95), 4.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn wilson_intervals_are_the_published_ones() {
        // 81 of 100: 0.7222 to 0.8749.
        let (low, high) = wilson(81, 100);
        assert!((low - 72.2).abs() < 0.1 && (high - 87.5).abs() < 0.1, "{low} {high}");
        let (low, high) = wilson(100, 100);
        assert!((low - 96.3).abs() < 0.1 && (high - 100.0).abs() < 0.1, "{low} {high}");
    }
}
