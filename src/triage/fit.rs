//! Fitting one head: its two linear views, their mix, the threshold for abstaining.

use super::features::Row;
use super::heads::{CLASSES, Linear, Mix, Scores};
use super::measure::Judged;
use super::optimise::minimise;

const LINEAR_STEPS: usize = 120;
const MIX_STEPS: usize = 200;
/// Keeps the mix near plain addition where data are few.
const MIX_L2: f64 = 1e-3;
/// Keeps a mix near the one that it goes out from, like so many rows that speak for it.
const START_ROWS: f64 = 5.0;

/// One row to learn from.
#[derive(Clone, Copy)]
pub struct Example<'a> {
    pub row: &'a Row,
    pub class: usize,
    pub weight: f32,
}

/// Multinomial logistic regression: the weighted mean log loss plus `l2` / 2 times the squared weights (not the bias). With a `start`,
/// the squared distance from its weights takes the place of the squared weights.
pub fn linear(examples: &[Example], dimensions: usize, l2: f32, start: Option<&Linear>) -> Linear {
    // Only positions that occur have weights other than zero: fit those alone.
    let mut compact = vec![u32::MAX; dimensions];
    let mut positions = Vec::new();
    for (position, _) in examples.iter().flat_map(|example| example.row) {
        let slot = &mut compact[*position as usize];
        if *slot == u32::MAX {
            *slot = positions.len() as u32;
            positions.push(*position as usize);
        }
    }
    let pack = |example: &Example| -> Row {
        example.row.iter().map(|(position, value)| (compact[*position as usize], *value)).collect()
    };
    let rows: Vec<Row> = examples.iter().map(pack).collect();
    let total: f64 = examples.iter().map(|example| f64::from(example.weight)).sum();
    let from = |example: &Example| start.map_or([0.0; CLASSES], |start| start.scores(example.row).map(f64::from));
    let from: Vec<[f64; CLASSES]> = examples.iter().map(from).collect();
    let bias_start = positions.len() * CLASSES;
    let found = minimise(vec![0.0; bias_start + CLASSES], LINEAR_STEPS, |point, gradient| {
        let (weights, bias) = point.split_at(bias_start);
        let (weight_slopes, bias_slopes) = gradient.split_at_mut(bias_start);
        weight_slopes.iter_mut().zip(weights).for_each(|(slope, weight)| *slope = f64::from(l2) * weight);
        bias_slopes.fill(0.0);
        let mut value = f64::from(l2) / 2.0 * weights.iter().map(|weight| weight * weight).sum::<f64>();
        for ((example, row), from) in examples.iter().zip(&rows).zip(&from) {
            let mut scores = *from;
            scores.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
            for (position, feature) in row {
                let start = *position as usize * CLASSES;
                let weights = &weights[start..start + CLASSES];
                scores.iter_mut().zip(weights).for_each(|(score, weight)| *score += weight * f64::from(*feature));
            }
            let share = f64::from(example.weight) / total;
            let (loss, slopes) = log_loss(&scores, example.class);
            value += share * loss;
            let slopes = slopes.map(|slope| slope * share);
            for (position, feature) in row {
                let start = *position as usize * CLASSES;
                let targets = &mut weight_slopes[start..start + CLASSES];
                targets.iter_mut().zip(slopes).for_each(|(target, slope)| *target += slope * f64::from(*feature));
            }
            bias_slopes.iter_mut().zip(slopes).for_each(|(target, slope)| *target += slope);
        }
        value
    });
    let none = || Linear { weights: vec![0.0; dimensions * CLASSES], bias: [0.0; CLASSES] };
    let mut linear = start.cloned().unwrap_or_else(none);
    for (slot, position) in positions.iter().enumerate() {
        for class in 0..CLASSES {
            linear.weights[position * CLASSES + class] += found[slot * CLASSES + class] as f32;
        }
    }
    linear.bias.iter_mut().zip(&found[bias_start..]).for_each(|(to, from)| *to += *from as f32);
    linear
}

/// Loss and its slope by score.
fn log_loss(scores: &[f64; CLASSES], class: usize) -> (f64, [f64; CLASSES]) {
    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers = scores.map(|score| (score - highest).exp());
    let total: f64 = powers.iter().sum();
    let mut slopes = powers.map(|power| power / total);
    let loss = -(slopes[class].max(1e-12)).ln();
    slopes[class] -= 1.0;
    (loss, slopes)
}

/// Which views are at hand; each takes those before it along.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Known {
    Text,
    Meaning,
    Reading,
    Opinion,
}

impl Known {
    pub const ALL: [Self; 4] = [Self::Text, Self::Meaning, Self::Reading, Self::Opinion];
}

/// Scores of the views for a text that none had seen, and the truth.
#[derive(Clone, Copy, Debug)]
pub struct Unseen {
    pub text: Scores,
    pub meaning: Scores,
    /// None where the reader has learnt from the text.
    pub reading: Option<Scores>,
    /// None where no language model has read it.
    pub opinion: Option<Scores>,
    pub truth: usize,
}

impl Unseen {
    /// The scores of the views; 0 where there are none.
    pub fn scores(&self) -> [Scores; 4] {
        [self.text, self.meaning, self.reading.unwrap_or_default(), self.opinion.unwrap_or_default()]
    }
}

/// Scales and offsets in a point of the search.
const SCALES: usize = 4;

/// Fits the scales and offsets of [`Mix`] for the views that are known: near plain addition, or near `start`.
pub fn mix(unseen: &[Unseen], known: Known, start: Option<&Mix>) -> Mix {
    let views = known as usize + 1;
    let count = unseen.len().max(1) as f64;
    let mut anchor = vec![0.0; SCALES + CLASSES];
    let l2 = match start {
        Some(Mix { text, meaning, reading, opinion, offsets }) => {
            let numbers = [text, meaning, reading, opinion].into_iter().chain(offsets);
            anchor.iter_mut().zip(numbers).for_each(|(slot, number)| *slot = f64::from(*number));
            START_ROWS / count
        }
        None => {
            anchor[..views].fill(1.0 / views as f64);
            MIX_L2
        }
    };
    let found = minimise(anchor.clone(), MIX_STEPS, |point, gradient| {
        gradient.fill(0.0);
        let mut value = 0.0;
        for one in unseen {
            let of_views = one.scores();
            let mut scores = [0.0; CLASSES];
            for class in 0..CLASSES {
                let of_views = of_views[..views].iter().zip(point);
                scores[class] =
                    point[SCALES + class] + of_views.map(|(view, scale)| scale * f64::from(view[class])).sum::<f64>();
            }
            let (loss, slopes) = log_loss(&scores, one.truth);
            value += loss / count;
            for (class, slope) in slopes.into_iter().enumerate() {
                for (target, view) in gradient.iter_mut().zip(&of_views[..views]) {
                    *target += slope * f64::from(view[class]) / count;
                }
                gradient[SCALES + class] += slope / count;
            }
        }
        for ((at, anchor), slope) in point.iter().zip(&anchor).zip(gradient.iter_mut()) {
            value += l2 / 2.0 * (at - anchor) * (at - anchor);
            *slope += l2 * (at - anchor);
        }
        value
    });
    let found: Vec<f32> = found.into_iter().map(|value| value as f32).collect();
    let mut offsets = [0.0; CLASSES];
    offsets.copy_from_slice(&found[SCALES..]);
    Mix { text: found[0], meaning: found[1], reading: found[2], opinion: found[3], offsets }
}

/// Width of the band that the rule of [`abstain_below`] looks at, and the fewest rows it believes.
const BAND: f32 = 0.05;
const BAND_ROWS: usize = 20;

/// The rule for abstaining: act only where acting is right more often than wrong, even for the least certain request
/// acted on. The threshold is the lowest probability, in steps of 0.01, from which every band of 0.05 above holds at
/// least half right answers among unseen rows.
pub fn abstain_below(judged: &[Judged]) -> f32 {
    let mut threshold = 0.25;
    for step in 25..80 {
        let low = step as f32 / 100.0;
        let band: Vec<bool> = judged
            .iter()
            .filter(|one| (low..low + BAND).contains(&one.probability()))
            .map(|one| one.label == one.truth)
            .collect();
        let right = band.iter().filter(|right| **right).count();
        if band.len() >= BAND_ROWS && right * 2 < band.len() {
            threshold = low + 0.01;
        }
    }
    threshold
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::triage::heads::softmax;
    use crate::triage::measure::best;

    #[test]
    fn learns_what_can_be_separated() {
        let rows: Vec<Row> = (0..40u32).map(|at| vec![(at % 4, 1.0), (4 + at % 3, 0.5)]).collect();
        let examples: Vec<Example> =
            rows.iter().map(|row| Example { row, class: row[0].0 as usize, weight: 1.0 }).collect();
        let learnt = linear(&examples, 10, 1e-3, None);
        for example in &examples {
            let scores = learnt.scores(example.row);
            assert_eq!(best(&softmax(scores)), example.class);
        }
        // Nothing new is learnt from what is known; what is new moves a start as far as the strength lets it.
        let swapped: Vec<Example> = examples.iter().map(|one| Example { class: 3 - one.class, ..*one }).collect();
        let moved = |l2| linear(&swapped, 10, l2, Some(&learnt));
        let label = |linear: &Linear, example: &Example| best(&softmax(linear.scores(example.row)));
        for example in &swapped {
            assert_eq!(label(&moved(1e-3), example), example.class);
        }
        let (near, far) = (moved(1e3), moved(1e-3));
        let away = |linear: &Linear| {
            linear.weights.iter().zip(&learnt.weights).map(|(one, other)| (one - other).powi(2)).sum::<f32>()
        };
        assert!(away(&near) < 0.01 && away(&far) > 1.0, "{} {}", away(&near), away(&far));
    }

    #[test]
    fn the_mix_trusts_the_view_that_knows_and_cools_overconfidence() {
        let unseen: Vec<Unseen> = (0..400)
            .map(|at| {
                let truth = at % 4;
                let mut text = [0.0; CLASSES];
                text[if at % 10 < 3 { (truth + 1) % 4 } else { truth }] = 9.0;
                let mut meaning = [0.0; CLASSES];
                meaning[at / 4 % 4] = 3.0;
                Unseen { text, meaning, reading: Some(text), opinion: None, truth }
            })
            .collect();
        let two = mix(&unseen, Known::Meaning, None);
        assert!(two.text > 0.1 && two.text < 0.5 && two.reading == 0.0, "{two:?}");
        assert!(two.meaning.abs() < 0.1, "{two:?}");
        let all = mix(&unseen, Known::Reading, None);
        assert!((all.text + all.reading - two.text).abs() < 0.05 && all.meaning.abs() < 0.1, "{all:?}");
        let alone = mix(&unseen, Known::Text, None);
        assert!(alone.text > 0.1 && (alone.meaning, alone.reading) == (0.0, 0.0), "{alone:?}");
        let (near, far) = (mix(&unseen[..2], Known::Meaning, Some(&two)), mix(&unseen[..2], Known::Meaning, None));
        let away = |mix: &Mix| (mix.text - two.text).powi(2) + (mix.meaning - two.meaning).powi(2);
        assert!(away(&near) < away(&far) && near.reading == 0.0, "{near:?} {far:?} {two:?}");
    }

    #[test]
    fn abstains_where_wrong_is_more_likely() {
        let judged: Vec<Judged> = (0..400)
            .map(|at| {
                let high = at % 2 == 0;
                let probability = if high { 0.9 } else { 0.42 };
                let rest = (1.0 - probability) / 3.0;
                let right = high || at % 5 == 1;
                Judged { truth: usize::from(!right), label: 0, probabilities: [probability, rest, rest, rest] }
            })
            .collect();
        let threshold = abstain_below(&judged);
        assert!((0.42..0.6).contains(&threshold), "{threshold}");
        assert_eq!(abstain_below(&[]), 0.25);
    }
}
