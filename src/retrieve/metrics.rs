//! How good a ranking is: nDCG, reciprocal rank, recall, and how sure we are of their means.

use std::collections::BTreeSet;

/// Normalised discounted cumulative gain at `cutoff` with binary gains: Järvelin and Kekäläinen, "Cumulated gain-based
/// evaluation of IR techniques" (2002), discount `1 / log2(rank + 1)`. 0 to 1; 0 when nothing is relevant.
pub fn ndcg(ranking: &[String], relevant: &BTreeSet<String>, cutoff: usize) -> f64 {
    let discount = |position: usize| 1.0 / ((position + 2) as f64).log2();
    let gain: f64 = ranking
        .iter()
        .take(cutoff)
        .enumerate()
        .filter(|(_, id)| relevant.contains(*id))
        .map(|(position, _)| discount(position))
        // Not `sum`: that of nothing is -0.0, and would be printed so.
        .fold(0.0, |total, gain| total + gain);
    let ideal: f64 = (0..relevant.len().min(cutoff)).map(discount).sum();
    if ideal == 0.0 { 0.0 } else { gain / ideal }
}

/// One over the rank of the first relevant result within `cutoff`, 0 when there is none.
pub fn reciprocal_rank(ranking: &[String], relevant: &BTreeSet<String>, cutoff: usize) -> f64 {
    let first = ranking.iter().take(cutoff).position(|id| relevant.contains(id));
    first.map_or(0.0, |position| 1.0 / (position + 1) as f64)
}

/// Share of the relevant results found within `cutoff`, 0 when nothing is relevant.
pub fn recall(ranking: &[String], relevant: &BTreeSet<String>, cutoff: usize) -> f64 {
    if relevant.is_empty() {
        return 0.0;
    }
    let found: BTreeSet<&String> = ranking.iter().take(cutoff).filter(|id| relevant.contains(*id)).collect();
    found.len() as f64 / relevant.len() as f64
}

/// A mean with the 95 % interval of the percentile bootstrap (Efron, 1979).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

const RESAMPLES: usize = 1000;

/// Mean of `values` and where it would fall in 95 of 100 repetitions with other requests. The same values give the
/// same interval.
pub fn bootstrap_mean(values: &[f64]) -> Estimate {
    if values.is_empty() {
        return Estimate { mean: 0.0, low: 0.0, high: 0.0 };
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let mut random = fastrand::Rng::with_seed(7);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let sum: f64 = (0..values.len()).filter_map(|_| values.get(random.usize(..values.len()))).sum();
            sum / values.len() as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let quantile = |share: f64| means.get((share * (RESAMPLES - 1) as f64).round() as usize).copied().unwrap_or(mean);
    Estimate { mean, low: quantile(0.025), high: quantile(0.975) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(names: &str) -> Vec<String> {
        names.split_whitespace().map(String::from).collect()
    }

    fn set(names: &str) -> BTreeSet<String> {
        ids(names).into_iter().collect()
    }

    #[test]
    fn figures_match_values_computed_by_hand() {
        let ranking = ids("a b c d e");
        // Relevant at ranks 2 and 4: (1/log2(3) + 1/log2(5)) / (1/log2(2) + 1/log2(3)) = (0.63093+0.43068)/1.63093.
        assert!((ndcg(&ranking, &set("b d"), 10) - 0.650_921).abs() < 1e-5);
        assert!((ndcg(&ranking, &set("b d"), 3) - 0.386_853).abs() < 1e-5);
        assert_eq!(ndcg(&ranking, &set("a"), 10), 1.0);
        assert_eq!(reciprocal_rank(&ranking, &set("c e"), 10), 1.0 / 3.0);
        assert_eq!(reciprocal_rank(&ranking, &set("e"), 4), 0.0);
        assert_eq!(recall(&ranking, &set("b d z"), 10), 2.0 / 3.0);
        assert_eq!(recall(&ranking, &set("b d"), 2), 0.5);
    }

    #[test]
    fn nothing_relevant_or_nothing_found_is_zero() {
        for figure in [ndcg, reciprocal_rank, recall] {
            assert_eq!(figure(&ids("a b"), &set(""), 10), 0.0);
            assert_eq!(figure(&[], &set("a"), 10), 0.0);
            assert!(figure(&[], &set("a"), 10).is_sign_positive());
        }
    }

    #[test]
    fn interval_holds_the_mean_and_is_stable() {
        let values: Vec<f64> = (0..200).map(|i| f64::from(i % 2)).collect();
        let estimate = bootstrap_mean(&values);
        assert_eq!(estimate, bootstrap_mean(&values));
        assert_eq!(estimate.mean, 0.5);
        // The standard error is 0.035, so the interval is about 0.43 to 0.57.
        assert!((0.40..0.46).contains(&estimate.low) && (0.54..0.60).contains(&estimate.high));
        assert_eq!(bootstrap_mean(&[]).mean, 0.0);
        assert_eq!(bootstrap_mean(&[1.0]), Estimate { mean: 1.0, low: 1.0, high: 1.0 });
    }
}
