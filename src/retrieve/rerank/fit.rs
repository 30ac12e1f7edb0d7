//! Whether what was found answers the request, once it has been read.

use super::{Weights, sigmoid};

/// Numbers of a [`Fit`].
pub const NUMBERS: usize = 4;
/// Probabilities nearer to 0 or 1 say no more.
const LEAST_DOUBT: f32 = 1e-3;

/// Weighs what the facts of the search say ([`crate::decide::relevance`]) and how far the items serve.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Fit {
    pub bias: f32,
    pub facts: f32,
    pub best: f32,
    pub all: f32,
}

impl Fit {
    pub fn from_numbers([bias, facts, best, all]: [f32; NUMBERS]) -> Self {
        Self { bias, facts, best, all }
    }

    pub fn numbers(&self) -> [f32; NUMBERS] {
        [self.bias, self.facts, self.best, self.all]
    }

    /// Calibrated probability, 0 to 1, that what was found answers the request; `facts` is the probability before it was read.
    pub fn probability(&self, facts: f32, weights: &Weights) -> f32 {
        let [facts, best, all] = features(facts, &weights.items);
        sigmoid(self.bias + self.facts * facts + self.best * best + self.all * all)
    }
}

/// Log odds by the facts, of the item that serves best, and the mean over the items.
pub(super) fn features(facts: f32, items: &[f32]) -> [f32; NUMBERS - 1] {
    let facts = facts.clamp(LEAST_DOUBT, 1.0 - LEAST_DOUBT);
    let best = items.iter().copied().fold(f32::MIN, f32::max);
    let mean = items.iter().sum::<f32>() / items.len().max(1) as f32;
    let bounded = |odds: f32| odds.clamp(-10.0, 10.0);
    [(facts / (1.0 - facts)).ln(), bounded(best), bounded(mean)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_serves_better_fits_better() {
        let fit = Fit { bias: 0.0, facts: 0.5, best: 1.0, all: 0.1 };
        let of =
            |facts, items: &[f32]| fit.probability(facts, &Weights { items: items.to_vec(), ..Weights::default() });
        assert!(of(0.5, &[2.0, -1.0]) > of(0.5, &[0.0, -1.0]));
        assert!(of(0.9, &[0.0]) > of(0.1, &[0.0]));
        for facts in [0.0, 1.0] {
            assert!((0.0..=1.0).contains(&of(facts, &[])), "nothing read");
        }
    }
}
