//! How good judgements are: accuracy, macro-F1, kappa, calibration, with bootstrap intervals.

use super::data::Task;
use super::heads::CLASSES;
use crate::ticket::{Class, Urgency};

/// Bins for the calibration error, of equal width.
const BINS: usize = 10;
const RESAMPLES: usize = 1_000;
/// From which probability on a request is critical: one that is missed is held twice as bad as one raised for nothing.
pub const CRITICAL_FROM: f32 = 1.0 / 3.0;

/// A judgement beside the truth.
#[derive(Clone, Copy, Debug)]
pub struct Judged {
    pub truth: usize,
    /// The class that was named.
    pub label: usize,
    pub probabilities: [f32; CLASSES],
}

impl Judged {
    pub fn new(task: Task, truth: usize, probabilities: [f32; CLASSES]) -> Self {
        Self { truth, label: label(task, &probabilities), probabilities }
    }

    /// How probable the class that was named was said to be.
    pub fn probability(&self) -> f32 {
        self.probabilities.get(self.label).copied().unwrap_or_default()
    }
}

/// The class to name. On a scale the median: of all classes the one with the least expected distance from the truth; and
/// critical from [`CRITICAL_FROM`] on. Elsewhere the most probable.
pub fn label(task: Task, probabilities: &[f32; CLASSES]) -> usize {
    let critical = Urgency::Critical.index();
    if task == Task::Urgency && probabilities[critical] >= CRITICAL_FROM {
        return critical;
    }
    if !task.ordered() {
        return best(probabilities);
    }
    let mut below = 0.0;
    let reached = |said: &f32| {
        below += said;
        below >= 0.5
    };
    // Where rounding keeps the sum from a half, the most probable.
    probabilities.iter().position(reached).unwrap_or_else(|| best(probabilities))
}

/// The most probable class, the first of equal ones.
pub fn best(probabilities: &[f32; CLASSES]) -> usize {
    (1..CLASSES).fold(0, |best, here| if probabilities[here] > probabilities[best] { here } else { best })
}

/// The measures of one head, in the order of [`MEASURES`].
pub type Figures = [f32; MEASURES.len()];
pub const MEASURES: [&str; 5] = ["accuracy", "macro_f1", "kappa", "ece", "brier"];
/// Where kappa and Brier score stand among them.
pub const KAPPA: usize = 2;
pub const BRIER: usize = 4;

/// `ordered`: kappa weighs misses by their squared distance (Cohen 1968); else every miss counts the same.
pub fn figures(judged: &[Judged], ordered: bool) -> Figures {
    let table = confusion(judged);
    [accuracy(&table), macro_f1(&table), kappa(&table, ordered), calibration_error(judged), brier(judged)]
}

/// `table[truth][label]`.
pub fn confusion(judged: &[Judged]) -> [[usize; CLASSES]; CLASSES] {
    let mut table = [[0; CLASSES]; CLASSES];
    judged.iter().for_each(|one| table[one.truth][one.label] += 1);
    table
}

/// Share labelled right; 0 without any.
pub(crate) fn accuracy(table: &[[usize; CLASSES]; CLASSES]) -> f32 {
    let right: usize = (0..CLASSES).map(|class| table[class][class]).sum();
    right as f32 / table.iter().flatten().sum::<usize>().max(1) as f32
}

/// Mean of the classes' F1, over the classes that the truth has.
pub(crate) fn macro_f1(table: &[[usize; CLASSES]; CLASSES]) -> f32 {
    let scores = (0..CLASSES).filter_map(|class| {
        let truth: usize = table[class].iter().sum();
        let labelled: usize = table.iter().map(|row| row[class]).sum();
        (truth > 0).then(|| 2.0 * table[class][class] as f32 / (truth + labelled) as f32)
    });
    let (sum, count) = scores.fold((0.0, 0), |(sum, count), score| (sum + score, count + 1));
    sum / count.max(1) as f32
}

/// Cohen's kappa; 0 where chance alone would never disagree.
pub(crate) fn kappa(table: &[[usize; CLASSES]; CLASSES], ordered: bool) -> f32 {
    let total: usize = table.iter().flatten().sum();
    let (mut seen, mut chance) = (0.0f64, 0.0f64);
    for truth in 0..CLASSES {
        for label in 0..CLASSES {
            let distance = truth.abs_diff(label) as f64;
            let weight = if ordered { distance * distance } else { f64::from(u8::from(truth != label)) };
            let row: usize = table[truth].iter().sum();
            let column: usize = table.iter().map(|row| row[label]).sum();
            seen += weight * table[truth][label] as f64;
            chance += weight * row as f64 * column as f64 / total.max(1) as f64;
        }
    }
    if chance == 0.0 { 0.0 } else { (1.0 - seen / chance) as f32 }
}

/// Expected calibration error of the probability of the class that was named.
pub(crate) fn calibration_error(judged: &[Judged]) -> f32 {
    let mut bins = [(0.0f32, 0.0f32); BINS];
    for one in judged {
        let probability = one.probability();
        let bin = ((probability * BINS as f32) as usize).min(BINS - 1);
        bins[bin].0 += probability;
        bins[bin].1 += f32::from(u8::from(one.label == one.truth));
    }
    bins.iter().map(|(said, was)| (said - was).abs()).sum::<f32>() / judged.len().max(1) as f32
}

/// Mean squared distance of the probabilities from the truth, summed over the classes.
pub(crate) fn brier(judged: &[Judged]) -> f32 {
    let miss = |one: &Judged| {
        let distance = |(class, said): (usize, &f32)| (said - f32::from(u8::from(class == one.truth))).powi(2);
        one.probabilities.iter().enumerate().map(distance).sum::<f32>()
    };
    judged.iter().map(miss).sum::<f32>() / judged.len().max(1) as f32
}

/// Percentile bootstrap, 95 %: lower and upper bound of each measure.
pub fn intervals(judged: &[Judged], ordered: bool, seed: u64) -> [(f32, f32); MEASURES.len()] {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut draws: [Vec<f32>; MEASURES.len()] = Default::default();
    let mut sample = Vec::with_capacity(judged.len());
    for _ in 0..RESAMPLES {
        sample.clear();
        sample.extend((0..judged.len()).map(|_| judged[random.usize(..judged.len())]));
        let measured = figures(&sample, ordered);
        draws.iter_mut().zip(measured).for_each(|(draws, value)| draws.push(value));
    }
    draws.map(|mut draws| {
        draws.sort_by(f32::total_cmp);
        (draws[RESAMPLES * 25 / 1_000], draws[RESAMPLES * 975 / 1_000])
    })
}

/// A difference with its 95 % bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    pub by: f32,
    pub low: f32,
    pub high: f32,
}

/// What each measure of `after` differs by from that of `before`, the same rows judged by another model: percentile bootstrap over rows
/// drawn in pairs.
///
/// # Panics
/// When the two differ in length: the caller made a mistake.
pub fn changes(before: &[Judged], after: &[Judged], ordered: bool, seed: u64) -> [Change; MEASURES.len()] {
    assert_eq!(before.len(), after.len(), "judgements of the same rows");
    let by = |before: &[Judged], after: &[Judged]| -> Figures {
        let (before, after) = (figures(before, ordered), figures(after, ordered));
        std::array::from_fn(|at| after[at] - before[at])
    };
    let mut random = fastrand::Rng::with_seed(seed);
    let mut draws: [Vec<f32>; MEASURES.len()] = Default::default();
    for _ in 0..RESAMPLES {
        let drawn: Vec<usize> = before.iter().map(|_| random.usize(..before.len())).collect();
        let of = |judged: &[Judged]| drawn.iter().map(|at| judged[*at]).collect::<Vec<_>>();
        draws.iter_mut().zip(by(&of(before), &of(after))).for_each(|(draws, value)| draws.push(value));
    }
    let whole = by(before, after);
    let mut at = 0;
    draws.map(|mut draws| {
        draws.sort_by(f32::total_cmp);
        let change = Change { by: whole[at], low: draws[RESAMPLES * 25 / 1_000], high: draws[RESAMPLES * 975 / 1_000] };
        at += 1;
        change
    })
}

/// Log loss per row.
pub fn log_loss(judged: &[Judged]) -> f32 {
    let loss = |one: &Judged| -one.probabilities[one.truth].max(1e-6).ln();
    judged.iter().map(loss).sum::<f32>() / judged.len().max(1) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sure(truth: usize, label: usize) -> Judged {
        let mut probabilities = [0.0; CLASSES];
        probabilities[label] = 1.0;
        Judged { truth, label, probabilities }
    }

    #[test]
    fn perfect_judgements_have_perfect_figures() {
        let judged: Vec<Judged> = (0..CLASSES).map(|class| sure(class, class)).collect();
        assert_eq!(figures(&judged, true), [1.0, 1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn a_scale_is_read_in_the_middle_and_critical_requests_are_not_missed() {
        let cases: [(Task, [f32; CLASSES], usize); 8] = [
            // The most probable class is at the edge, most of the weight is not.
            (Task::Difficulty, [0.4, 0.3, 0.2, 0.1], 1),
            (Task::Difficulty, [0.1, 0.2, 0.3, 0.4], 2),
            (Task::Difficulty, [0.5, 0.2, 0.2, 0.1], 0),
            (Task::Urgency, [0.34, 0.6, 0.05, 0.01], 0),
            (Task::Urgency, [0.3, 0.1, 0.5, 0.1], 2),
            (Task::Next, [0.4, 0.3, 0.2, 0.1], 0),
            (Task::Next, [0.34, 0.6, 0.05, 0.01], 1),
            // No distribution at all.
            (Task::Difficulty, [0.0; CLASSES], 0),
        ];
        for (task, probabilities, expected) in cases {
            assert_eq!(label(task, &probabilities), expected, "{task:?} {probabilities:?}");
            assert_eq!(Judged::new(task, 3, probabilities).probability(), probabilities[expected]);
        }
    }

    #[test]
    fn one_answer_for_all_has_kappa_zero() {
        let judged: Vec<Judged> = (0..CLASSES).map(|class| sure(class, 2)).collect();
        let [accuracy, macro_f1, kappa, ece, _] = figures(&judged, false);
        assert!((accuracy - 0.25).abs() < 1e-6 && (macro_f1 - 0.1).abs() < 1e-6);
        assert!(kappa.abs() < 1e-6 && (ece - 0.75).abs() < 1e-6);
    }

    #[test]
    fn near_misses_cost_less_where_classes_are_ordered() {
        let near = [sure(0, 1), sure(1, 1), sure(2, 2), sure(3, 3)];
        let far = [sure(0, 3), sure(1, 1), sure(2, 2), sure(3, 3)];
        assert!(figures(&near, true)[2] > figures(&far, true)[2]);
        let (near, far) = (figures(&near, false), figures(&far, false));
        assert!((near[0] - far[0]).abs() < 1e-6);
    }

    #[test]
    fn intervals_hold_the_figure() {
        let judged: Vec<Judged> = (0..200).map(|at| sure(at % 4, if at % 3 == 0 { 0 } else { at % 4 })).collect();
        let measured = figures(&judged, true);
        for (value, (low, high)) in measured.iter().zip(intervals(&judged, true, 7)) {
            assert!(low <= *value && *value <= high && high > low);
        }
    }

    #[test]
    fn a_change_is_sure_where_the_rows_agree_on_it() {
        let truth: Vec<Judged> = (0..200).map(|at| sure(at % 4, at % 4)).collect();
        let some: Vec<Judged> = (0..200).map(|at| sure(at % 4, if at % 3 == 0 { 0 } else { at % 4 })).collect();
        let better = changes(&some, &truth, true, 7);
        assert!(better[KAPPA].low > 0.0 && better[BRIER].high < 0.0, "{better:?}");
        assert!((better[0].by - 0.255).abs() < 0.02, "{better:?}");
        let same = changes(&some, &some, true, 7);
        assert!(same.iter().all(|one| (one.by, one.low, one.high) == (0.0, 0.0, 0.0)), "{same:?}");
    }
}
