//! Whether new weights are worse than those that are there.
//!
//! Rows that weights have learnt from speak for them. So the weights that are there are judged by memories that they have not
//! learnt from, and the new ones by folds of those: each row by weights from the other folds and the other memories.

use super::train::{Example, balanced, fit};
use super::{RelevanceError, RelevanceModel};

const FOLDS: usize = 5;
const RESAMPLES: usize = 1_000;

/// How the squared error changes where the new weights replace those that are there; answered and unanswered rows of every
/// memory in equal parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Memories that the weights that are there have not learnt from.
    pub memories: Vec<String>,
    pub rows: usize,
    pub before: f64,
    pub after: f64,
    /// Bounds of `after - before`: 95 %, bootstrap over rows in pairs.
    pub low: f64,
    pub high: f64,
}

impl Change {
    pub fn is_surely_worse(&self) -> bool {
        self.low > 0.0
    }
}

/// Compares; None where the weights that are there know every memory or were made for another embedder.
///
/// # Errors
/// When a memory, or what is left of all without one fold, has no answered or no unanswered request.
pub fn compare(
    present: &RelevanceModel,
    examples: &[Example],
    embedder: &str,
    seed: u64,
) -> Result<Option<Change>, RelevanceError> {
    let unknown: Vec<&Example> = examples.iter().filter(|one| !present.memories.contains(&one.memory)).collect();
    if unknown.is_empty() || present.embedder != embedder {
        return Ok(None);
    }
    let weights = balanced(&unknown)?;
    let error =
        |model: &RelevanceModel, one: &Example| (model.of_facts(&one.facts) - f64::from(u8::from(one.fits))).powi(2);
    let before: Vec<f64> = unknown.iter().map(|one| error(present, one)).collect();
    let mut after = vec![0.0; unknown.len()];
    for fold in 0..FOLDS {
        let others: Vec<&Example> = examples.iter().filter(|one| fold_of(one) != fold).collect();
        let model = fit(&others, embedder)?;
        let kept = after.iter_mut().zip(&unknown).filter(|(_, one)| fold_of(one) == fold);
        kept.for_each(|(slot, one)| *slot = error(&model, one));
    }
    let mean = |errors: &[f64]| errors.iter().zip(&weights).map(|(error, weight)| error * weight).sum::<f64>();
    let (low, high) = bounds(&before, &after, &weights, seed);
    let mut memories: Vec<String> = unknown.iter().map(|one| one.memory.clone()).collect();
    memories.sort();
    memories.dedup();
    Ok(Some(Change { memories, rows: unknown.len(), before: mean(&before), after: mean(&after), low, high }))
}

/// Requests of the same words lie in one fold, in whatever memory.
fn fold_of(example: &Example) -> usize {
    let digest = crate::store::sha256_hex(example.text.as_bytes());
    digest.bytes().take(8).fold(0, |sum, byte| sum * 31 + usize::from(byte)) % FOLDS
}

fn bounds(before: &[f64], after: &[f64], weights: &[f64], seed: u64) -> (f64, f64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut draws: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let (mut change, mut total) = (0.0, 0.0);
            for _ in before {
                let at = random.usize(..before.len());
                change += weights[at] * (after[at] - before[at]);
                total += weights[at];
            }
            change / total
        })
        .collect();
    draws.sort_by(f64::total_cmp);
    (draws[RESAMPLES * 25 / 1_000], draws[RESAMPLES * 975 / 1_000])
}

#[cfg(test)]
mod tests {
    use super::super::train::tests::examples;
    use super::super::{FACTS, Facts};
    use super::*;

    /// Weights that know `memory`, leaning on the closeness of the closest.
    fn present(memory: &str, slope: f64) -> RelevanceModel {
        let mut values = [0.0; FACTS];
        values[0] = slope;
        let weights = RelevanceModel::new("e", -slope * 0.85, Facts::from_values(values)).expect("numbers");
        RelevanceModel { memories: vec![memory.to_owned()], ..weights }
    }

    #[test]
    fn weights_that_say_the_contrary_are_replaced_and_good_ones_are_not() {
        let rows = examples("own", 0.8);
        let contrary = compare(&present("other", -80.0), &rows, "e", 7).expect("both kinds").expect("compared");
        assert!(contrary.high < 0.0 && !contrary.is_surely_worse(), "{contrary:?}");
        assert_eq!((contrary.memories.as_slice(), contrary.rows), (["own".to_owned()].as_slice(), 60));
        // Labels by chance teach nothing; what is there knows better.
        let learnt: Vec<Example> = examples("bad", 0.8)
            .into_iter()
            .enumerate()
            .map(|(at, one)| Example { fits: at % 2 == 0, memory: "bad".into(), text: format!("b{at}"), ..one })
            .collect();
        let mut both = rows;
        both.extend(learnt);
        let known = RelevanceModel { memories: vec!["bad".to_owned()], ..present("bad", 120.0) };
        let worse = compare(&known, &both, "e", 7).expect("both kinds").expect("compared");
        assert!(worse.is_surely_worse(), "{worse:?}");
    }

    #[test]
    fn what_was_learnt_from_is_no_judge() {
        let rows = examples("own", 0.8);
        assert_eq!(compare(&present("own", -80.0), &rows, "e", 7).expect("both kinds"), None);
        assert_eq!(compare(&present("other", -80.0), &rows, "another", 7).expect("both kinds"), None);
    }
}
