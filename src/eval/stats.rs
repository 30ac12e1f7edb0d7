//! Statistics over the rows of a table, with bootstrap intervals.
//!
//! An interval is that of the percentile bootstrap (Efron, "Bootstrap methods: another look at the jackknife", 1979; Efron and
//! Tibshirani, 1993, chapter 13): as many cases are drawn with replacement as there are, the figure is computed anew, a
//! thousand times over, and the middle 95 % of these figures are the interval. Two runs are compared by the paired bootstrap
//! (Berg-Kirkpatrick, Burkett and Klein, "An empirical investigation of statistical significance in NLP", 2012): the same
//! cases are drawn from both, so that what makes a case hard for both cancels out. The seed is fixed: the same rows give
//! the same interval.
//!
//! What an interval is not: it says how the figure would vary over other cases drawn in the same way, nothing of other
//! data, of wrong labels or of a model that answers differently each time. It takes cases as independent, which
//! variants of one request are not. Below some 30 cases it is too narrow; of a single case, or of cases that all have the same
//! value, it is a point, which is no certainty. Figures that resampling shifts to one side (calibration error, quantiles at
//! the edge, what a threshold buys) may lie at the border of their interval; it is widened to hold them.

use super::figures::Statistic;
use super::selective::{Budget, Ranked, area, recall_at_false_alarms};
use super::table::Table;
use crate::triage::heads::CLASSES;
use crate::triage::measure::{self, Judged};

const RESAMPLES: usize = 1_000;
const SEED: u64 = 7;
/// Below this a difference is one of rounding.
const NOTHING: f64 = 1e-12;

/// A statistic with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
    /// Cases that have a value.
    pub cases: usize,
}

/// A statistic over the rows at `positions`; None where no row has a value.
pub fn estimate(statistic: &Statistic, table: &Table, positions: &[usize]) -> Option<Estimate> {
    let columns = columns(statistic, table)?;
    let rows: Vec<Vec<f64>> = positions.iter().filter_map(|at| row(statistic, &columns, *at)).collect();
    let value_of = prepare(statistic, &rows);
    let value = value_of(&vec![1; rows.len()])?;
    let mut draws = Vec::with_capacity(RESAMPLES);
    resample(rows.len(), |counts| draws.extend(value_of(counts)));
    let (low, high) = interval(draws, value);
    Some(Estimate { value, low, high, cases: rows.len() })
}

/// The mean of `values` with its interval; all 0 without values.
pub fn bootstrap_mean(values: &[f64]) -> Estimate {
    let Some(value) = mean(values, &vec![1; values.len()]) else {
        return Estimate { value: 0.0, low: 0.0, high: 0.0, cases: 0 };
    };
    let mut draws = Vec::with_capacity(RESAMPLES);
    resample(values.len(), |counts| draws.extend(mean(values, counts)));
    let (low, high) = interval(draws, value);
    Estimate { value, low, high, cases: values.len() }
}

/// The difference of a statistic between two tables of the same cases (`new` minus `old`), with the interval of the paired
/// bootstrap: the same cases are drawn from both.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    pub old: f64,
    pub new: f64,
    pub low: f64,
    pub high: f64,
    pub cases: usize,
}

/// `old` and `new` have the same cases in the same order. Only cases that have a value in both count, so `old` and `new` of the
/// result may differ from the figures of the two runs. None where there are no such cases.
pub fn difference(statistic: &Statistic, old: &Table, new: &Table) -> Option<Difference> {
    let (old_columns, new_columns) = (columns(statistic, old)?, columns(statistic, new)?);
    let both = |at| Some((row(statistic, &old_columns, at)?, row(statistic, &new_columns, at)?));
    let (old_rows, new_rows): (Vec<_>, Vec<_>) = (0..old.rows.len().min(new.rows.len())).filter_map(both).unzip();
    let (old_of, new_of) = (prepare(statistic, &old_rows), prepare(statistic, &new_rows));
    let all = vec![1; old_rows.len()];
    let (old, new) = (old_of(&all)?, new_of(&all)?);
    let exact = |change: f64| if change.abs() < NOTHING { 0.0 } else { change };
    let mut draws = Vec::with_capacity(RESAMPLES);
    resample(old_rows.len(), |counts| {
        let change = new_of(counts).zip(old_of(counts)).map(|(new, old)| exact(new - old));
        draws.extend(change);
    });
    let (low, high) = interval(draws, exact(new - old));
    Some(Difference { old, new, low, high, cases: old_rows.len() })
}

/// The columns of a statistic; None where the table lacks one.
fn columns<'a>(statistic: &Statistic, table: &'a Table) -> Option<Vec<&'a [Option<f64>]>> {
    statistic.columns().iter().map(|name| table.column(name)).collect()
}

/// The values of one case; None where one is missing or the truth or the label is no class.
fn row(statistic: &Statistic, columns: &[&[Option<f64>]], at: usize) -> Option<Vec<f64>> {
    let values: Vec<f64> = columns.iter().map(|column| column.get(at).copied().flatten()).collect::<Option<_>>()?;
    let is_judgement = match statistic {
        Statistic::Accuracy(_)
        | Statistic::MacroF1(_)
        | Statistic::CalibrationError(_)
        | Statistic::Brier(_)
        | Statistic::Kappa { .. }
        | Statistic::RecallAtFalseAlarms { .. } => true,
        Statistic::Mean(_)
        | Statistic::Ratio(..)
        | Statistic::Quantile(..)
        | Statistic::RiskCoverageArea { .. }
        | Statistic::SafeCoverage { .. } => false,
    };
    let is_class = |value: &f64| (0..CLASSES).any(|class| *value == class as f64);
    (!is_judgement || values.iter().take(2).all(is_class)).then_some(values)
}

/// Computes a statistic where case `i` occurs `counts[i]` times. None where it has no value: no case, nothing to divide by.
type Value = Box<dyn Fn(&[u32]) -> Option<f64>>;

/// What can be done once for all resamples (sorting, above all) is done here.
fn prepare(statistic: &Statistic, rows: &[Vec<f64>]) -> Value {
    let column = |at: usize| -> Vec<f64> { rows.iter().filter_map(|row| row.get(at).copied()).collect() };
    match statistic {
        Statistic::Mean(_) => {
            let values = column(0);
            Box::new(move |counts| mean(&values, counts))
        }
        Statistic::Ratio(..) => {
            let (part, whole) = (column(0), column(1));
            Box::new(move |counts| {
                let whole = total(&whole, counts);
                (whole != 0.0).then(|| total(&part, counts) / whole)
            })
        }
        Statistic::Quantile(_, share) => quantile(&column(0), *share),
        Statistic::Accuracy(_) => judgements(rows, |judged| measure::accuracy(&measure::confusion(judged))),
        Statistic::MacroF1(_) => judgements(rows, |judged| measure::macro_f1(&measure::confusion(judged))),
        Statistic::Kappa { ordered, .. } => {
            let ordered = *ordered;
            judgements(rows, move |judged| measure::kappa(&measure::confusion(judged), ordered))
        }
        Statistic::CalibrationError(_) => judgements(rows, measure::calibration_error),
        Statistic::Brier(_) => judgements(rows, measure::brier),
        Statistic::RecallAtFalseAlarms { rate, .. } => {
            let is_wanted: Vec<f64> = column(0).iter().map(|truth| f64::from(u8::from(*truth == 0.0))).collect();
            let (ranked, rate) = (Ranked::new(&column(2), &is_wanted), *rate);
            Box::new(move |counts| recall_at_false_alarms(&ranked.curve(counts), rate))
        }
        Statistic::RiskCoverageArea { .. } => {
            let ranked = Ranked::new(&column(0), &column(1));
            Box::new(move |counts| area(&ranked.curve(counts)))
        }
        Statistic::SafeCoverage { budget, .. } => {
            let ranked = Ranked::new(&column(0), &column(1));
            let budget = Budget::new(rows.len(), *budget);
            Box::new(move |counts| {
                let points = ranked.curve(counts);
                points.last()?;
                Some(budget.safe(&points).map_or(0.0, |safe| safe.coverage))
            })
        }
    }
}

fn total(values: &[f64], counts: &[u32]) -> f64 {
    values.iter().zip(counts).map(|(value, count)| value * f64::from(*count)).sum()
}

fn mean(values: &[f64], counts: &[u32]) -> Option<f64> {
    let cases: u32 = counts.iter().sum();
    // Adding 0 turns the -0.0 of a sum of nothing but zeros below zero into 0.
    (cases > 0).then(|| total(values, counts) / f64::from(cases) + 0.0)
}

/// The smallest value that at least `share` of the cases do not exceed (the inverse of the empirical distribution: type 1 of
/// Hyndman and Fan, 1996). Always a value that occurred; 0 is the smallest, 1 the largest.
fn quantile(values: &[f64], share: f64) -> Value {
    let mut sorted: Vec<(f64, usize)> = values.iter().copied().zip(0..).collect();
    sorted.sort_by(|one, other| one.0.total_cmp(&other.0));
    Box::new(move |counts| {
        let cases: u32 = counts.iter().sum();
        let needed = (share * f64::from(cases)).ceil().clamp(1.0, f64::from(cases).max(1.0));
        let mut seen = 0;
        let reached = |(_, at): &&(f64, usize)| {
            seen += counts.get(*at).copied().unwrap_or_default();
            f64::from(seen) >= needed
        };
        sorted.iter().find(reached).map(|(value, _)| *value)
    })
}

/// Rows of truth and probabilities, measured as triage training does.
fn judgements(rows: &[Vec<f64>], measure: impl Fn(&[Judged]) -> f32 + 'static) -> Value {
    let judged = |row: &Vec<f64>| {
        let [truth, label, said @ ..] = row.as_slice() else { return None };
        let probabilities = std::array::from_fn(|class| said.get(class).copied().unwrap_or_default() as f32);
        Some(Judged { truth: *truth as usize, label: *label as usize, probabilities })
    };
    let all: Vec<Judged> = rows.iter().filter_map(judged).collect();
    Box::new(move |counts| {
        let mut drawn = Vec::with_capacity(all.len());
        for (judged, count) in all.iter().zip(counts) {
            drawn.extend((0..*count).map(|_| *judged));
        }
        (!drawn.is_empty()).then(|| f64::from(measure(&drawn)))
    })
}

/// Tells `each`, for every resample, how often every case is drawn.
fn resample(cases: usize, mut each: impl FnMut(&[u32])) {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut counts = vec![0; cases];
    for _ in 0..RESAMPLES {
        counts.fill(0);
        for _ in 0..cases {
            counts.get_mut(random.usize(..cases)).into_iter().for_each(|count| *count += 1);
        }
        each(&counts);
    }
}

/// The middle 95 % of the draws, widened to hold `value`.
fn interval(mut draws: Vec<f64>, value: f64) -> (f64, f64) {
    draws.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let position = (share * draws.len().saturating_sub(1) as f64).round() as usize;
        draws.get(position).copied().unwrap_or(value)
    };
    (at(0.025).min(value), at(0.975).max(value))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::table::Row;
    use super::*;

    /// A table of columns; None is a gap.
    fn table(columns: &[(&str, Vec<Option<f64>>)]) -> Table {
        let mut table = Table::default();
        for at in 0..columns.iter().map(|(_, values)| values.len()).max().unwrap_or_default() {
            let values: BTreeMap<String, f64> =
                columns.iter().filter_map(|(name, values)| Some(((*name).to_owned(), (*values.get(at)?)?))).collect();
            table.push(Row { id: format!("case-{at}"), slices: Vec::new() }, &values);
        }
        table
    }

    fn all(table: &Table) -> Vec<usize> {
        (0..table.rows.len()).collect()
    }

    fn some(values: impl IntoIterator<Item = f64>) -> Vec<Option<f64>> {
        values.into_iter().map(Some).collect()
    }

    /// Judgements of `t` that give `sure` to the labelled class and share the rest.
    fn judged(pairs: &[(f64, usize)], sure: f64) -> Table {
        let names = ["t.p0", "t.p1", "t.p2", "t.p3"];
        let labels = some(pairs.iter().map(|pair| pair.1 as f64));
        let mut columns = vec![("t.truth", some(pairs.iter().map(|pair| pair.0))), ("t.label", labels)];
        columns.extend(names.into_iter().enumerate().map(|(class, name)| {
            (name, some(pairs.iter().map(|pair| if pair.1 == class { sure } else { (1.0 - sure) / 3.0 })))
        }));
        table(&columns)
    }

    fn triage_statistics() -> Vec<Statistic> {
        let t = || "t".to_owned();
        vec![
            Statistic::Accuracy(t()),
            Statistic::MacroF1(t()),
            Statistic::Kappa { task: t(), ordered: true },
            Statistic::Kappa { task: t(), ordered: false },
            Statistic::CalibrationError(t()),
            Statistic::Brier(t()),
            Statistic::RecallAtFalseAlarms { task: t(), rate: 0.05 },
        ]
    }

    fn plain_statistics() -> Vec<Statistic> {
        let (confidence, right) = (|| "c".to_owned(), || "r".to_owned());
        vec![
            Statistic::Mean("c".into()),
            Statistic::Ratio("r".into(), "c".into()),
            Statistic::Quantile("c".into(), 0.5),
            Statistic::RiskCoverageArea { confidence: confidence(), right: right() },
            Statistic::SafeCoverage { confidence: confidence(), right: right(), budget: 0.2 },
        ]
    }

    #[test]
    fn interval_holds_the_mean_and_is_stable() {
        let values: Vec<f64> = (0..200).map(|i| f64::from(i % 2)).collect();
        let estimate = bootstrap_mean(&values);
        assert_eq!(estimate, bootstrap_mean(&values));
        assert_eq!((estimate.value, estimate.cases), (0.5, 200));
        // The standard error is 0.035, so the interval is about 0.43 to 0.57.
        assert!((0.40..0.46).contains(&estimate.low) && (0.54..0.60).contains(&estimate.high));
        assert_eq!(bootstrap_mean(&[]).value, 0.0);
        assert_eq!(bootstrap_mean(&[1.0]), Estimate { value: 1.0, low: 1.0, high: 1.0, cases: 1 });
        let table = table(&[("x", some(values))]);
        assert_eq!(super::estimate(&Statistic::Mean("x".into()), &table, &all(&table)), Some(estimate));
    }

    #[test]
    fn the_interval_covers_the_truth_about_as_often_as_it_says() {
        let mut random = fastrand::Rng::with_seed(1);
        let covered = (0..300)
            .filter(|_| {
                let values: Vec<f64> = (0..60).map(|_| f64::from(u8::from(random.f64() < 0.4))).collect();
                let estimate = bootstrap_mean(&values);
                estimate.low <= 0.4 && 0.4 <= estimate.high
            })
            .count();
        assert!((270..=297).contains(&covered), "{covered} of 300");
    }

    #[test]
    fn only_rows_with_a_value_count() {
        let table =
            table(&[("x", vec![Some(1.0), None, Some(3.0), Some(9.0)]), ("y", vec![None, Some(1.0), Some(2.0)])]);
        let mean = estimate(&Statistic::Mean("x".into()), &table, &[0, 1, 2, 77]).expect("two");
        assert_eq!((mean.value, mean.cases), (2.0, 2));
        let ratio = estimate(&Statistic::Ratio("x".into(), "y".into()), &table, &all(&table)).expect("one");
        assert_eq!((ratio.value, ratio.cases), (1.5, 1));
        assert_eq!(estimate(&Statistic::Mean("x".into()), &table, &[1]), None);
        assert_eq!(estimate(&Statistic::Mean("unknown".into()), &table, &[0]), None);
        let nothing = self::table(&[("r", some([1.0, 2.0])), ("c", some([0.0, 0.0]))]);
        assert_eq!(estimate(&Statistic::Ratio("r".into(), "c".into()), &nothing, &[0, 1]), None);
    }

    #[test]
    fn quantiles_are_values_that_occurred() {
        let table = table(&[("x", some([40.0, 10.0, 30.0, 20.0]))]);
        let at = |share| estimate(&Statistic::Quantile("x".into(), share), &table, &all(&table)).expect("four").value;
        assert_eq!([0.0, 0.25, 0.5, 0.51, 0.95, 1.0].map(at), [10.0, 10.0, 20.0, 30.0, 40.0, 40.0]);
    }

    #[test]
    fn triage_figures_are_those_of_training() {
        let pairs: Vec<(f64, usize)> = (0..120).map(|at| (f64::from(at % 4), (at as usize * 7 / 5) % 4)).collect();
        let table = judged(&pairs, 0.7);
        let rows: Vec<Judged> = pairs
            .iter()
            .map(|(truth, label)| Judged {
                truth: *truth as usize,
                label: *label,
                probabilities: std::array::from_fn(|class| if class == *label { 0.7 } else { 0.1 }),
            })
            .collect();
        let [accuracy, macro_f1, kappa, ece, brier] = measure::figures(&rows, true).map(f64::from);
        let [_, _, plain_kappa, ..] = measure::figures(&rows, false).map(f64::from);
        let expected = [accuracy, macro_f1, kappa, plain_kappa, ece, brier];
        for (statistic, expected) in triage_statistics().iter().zip(expected) {
            let figure = estimate(statistic, &table, &all(&table)).expect("a figure");
            assert!((figure.value - expected).abs() < 1e-5, "{statistic:?}: {figure:?}, not {expected}");
            assert!(
                figure.low <= figure.value && figure.value <= figure.high && figure.low < figure.high,
                "{figure:?}"
            );
        }
    }

    #[test]
    fn the_same_twice_is_no_difference_at_all() {
        let pairs: Vec<(f64, usize)> = (0..90).map(|at| (f64::from(at % 4), (at as usize / 3) % 4)).collect();
        let triage = judged(&pairs, 0.6);
        let (c, r) = ((0..90).map(|at| f64::from(at % 11) / 10.0), (0..90).map(|at| f64::from(u8::from(at % 13 != 0))));
        let plain = table(&[("c", some(c)), ("r", some(r))]);
        let cases = triage_statistics().into_iter().map(|one| (one, &triage));
        for (statistic, table) in cases.chain(plain_statistics().into_iter().map(|one| (one, &plain))) {
            let same = difference(&statistic, table, &table.clone()).expect("cases");
            assert_eq!((same.new - same.old, same.low, same.high, same.cases), (0.0, 0.0, 0.0, 90), "{statistic:?}");
        }
    }

    #[test]
    fn pairs_show_what_two_intervals_would_hide() {
        let old: Vec<f64> = (0..100).map(|at| f64::from(at % 10)).collect();
        let before = table(&[("x", some(old.clone()))]);
        let after =
            table(&[("x", some(old.iter().enumerate().map(|(at, x)| x + if at % 2 == 0 { 0.3 } else { 0.1 })))]);
        let statistic = Statistic::Mean("x".into());
        let change = difference(&statistic, &before, &after).expect("cases");
        assert!((change.new - change.old - 0.2).abs() < 1e-9 && change.low > 0.17 && change.high < 0.23, "{change:?}");
        let alone = estimate(&statistic, &before, &all(&before)).expect("cases");
        assert!(alone.high - alone.low > 0.8, "{alone:?}");
        let back = difference(&statistic, &after, &before).expect("cases");
        assert!((back.low + change.high).abs() < 1e-9 && (back.high + change.low).abs() < 0.01, "{back:?}");
    }

    #[test]
    fn differences_need_a_value_on_both_sides() {
        let old = table(&[("x", vec![Some(1.0), None, Some(3.0)])]);
        let new = table(&[("x", vec![Some(2.0), Some(8.0), None])]);
        let change = difference(&Statistic::Mean("x".into()), &old, &new).expect("one case");
        assert_eq!((change.old, change.new, change.low, change.high, change.cases), (1.0, 2.0, 1.0, 1.0, 1));
        let gaps = table(&[("x", vec![None, Some(8.0), None])]);
        assert_eq!(difference(&Statistic::Mean("x".into()), &old, &gaps), None);
        assert_eq!(difference(&Statistic::Mean("x".into()), &old, &Table::default()), None);
    }

    #[test]
    fn one_case_equal_cases_and_wrong_truths_do_no_harm() {
        for statistic in triage_statistics() {
            for pairs in [&[(0.0, 0)][..], &[(2.0, 1)], &[(3.0, 3); 5]] {
                if let Some(figure) = estimate(&statistic, &judged(pairs, 1.0), &[0, 1, 2, 3, 4]) {
                    assert!(
                        figure.value.is_finite() && figure.low <= figure.high,
                        "{statistic:?} {pairs:?} {figure:?}"
                    );
                }
            }
            let wrong = judged(&[(7.0, 0), (-1.0, 0), (0.5, 0)], 0.9);
            assert_eq!(estimate(&statistic, &wrong, &[0, 1, 2]), None, "{statistic:?}");
            assert_eq!(difference(&statistic, &wrong, &wrong), None);
        }
        for statistic in plain_statistics() {
            let one = estimate(&statistic, &table(&[("c", some([0.5])), ("r", some([1.0]))]), &[0]).expect("one");
            assert!(one.value.is_finite() && one.low == one.high, "{statistic:?} {one:?}");
        }
    }
}
