//! The gates of a suite: what must not get worse than the baseline, and what must be reached whatever that says.
//!
//! A gate is shut in doubt: without data, without a figure, without something to compare with, it fails. On few cases
//! a change may be plainly bad and yet no sure one; floors are for that.

use super::compare::{Change, Comparison, GateOutcome, ROUNDING, Verdict, check_origin, compare, is_of_machine};
use super::figures::{self, Better, Figure};
use super::record::{PartResult, RunResult};
use super::suite::{Gate, Suite};
use super::{EvalError, baseline};

/// Of the cases of the baseline, at least this share must be in the new run: what is no longer asked cannot get worse.
const SHARED: f64 = 0.5;

/// Holds a run against the gates of its suite. The comparison is over the parts that have gates; None without a
/// baseline.
///
/// # Errors
/// [`EvalError::Suite`] when the suite has no gate or one that can never fail; [`EvalError::Data`] when run or baseline
/// are of another suite, version or format.
pub fn check(
    suite: &Suite,
    baseline: Option<&RunResult>,
    new: &RunResult,
) -> Result<(Option<Comparison>, Vec<GateOutcome>), EvalError> {
    check_gates(suite)?;
    check_origin(suite, new, "the new result")?;
    let mut gated = suite.clone();
    gated.parts.retain(|part| suite.gates.iter().any(|gate| gate.part == part.name));
    let comparison = baseline.map(|old| compare(&gated, old, new)).transpose()?;
    let outcomes = suite.gates.iter().map(|gate| {
        let against = comparison.as_ref().zip(baseline);
        let judged = judge(suite, gate, against, new);
        let (passed, reason) = match judged {
            Ok(reason) => (true, reason),
            Err(reason) => (false, reason),
        };
        let (part, metric, slice) = (gate.part.clone(), gate.metric.clone(), gate.slice.clone());
        GateOutcome { part, metric, slice, passed, reason }
    });
    let outcomes = outcomes.collect();
    Ok((comparison, outcomes))
}

/// Refuses a suite whose gates would let anything pass; worth asking before a long run.
///
/// # Errors
/// [`EvalError::Suite`] when it has no gate, or one on a figure of which neither direction is better.
pub fn check_gates(suite: &Suite) -> Result<(), EvalError> {
    let refuse = |reason: String| Err(EvalError::Suite { suite: suite.name.clone(), reason });
    if suite.gates.is_empty() {
        return refuse("has no gate; `respondo eval gate` would pass whatever happens. Add a [[gate]]".to_owned());
    }
    for gate in &suite.gates {
        // A share may have a floor though more of it is not better; "at least so many milliseconds" is nobody's wish.
        let pointless = gate.floor.is_none() || is_of_machine(&gate.metric);
        if pointless && better(suite, gate) == Some(Better::Neither) {
            let (metric, part) = (&gate.metric, &gate.part);
            return refuse(format!(
                "neither direction of `{metric}` (part `{part}`) is better, so no gate can hold it"
            ));
        }
    }
    Ok(())
}

fn better(suite: &Suite, gate: &Gate) -> Option<Better> {
    let part = suite.parts.iter().find(|part| part.name == gate.part)?;
    figures::of(part).into_iter().find(|metric| metric.name == gate.metric).map(|metric| metric.better)
}

/// Ok with the figures in words, or Err with why the gate fails.
fn judge(
    suite: &Suite,
    gate: &Gate,
    against: Option<(&Comparison, &RunResult)>,
    new: &RunResult,
) -> Result<String, String> {
    let figure = figure(gate, new)?;
    let floor = gate.floor.map(|floor| reaches(figure, floor)).transpose()?;
    let Some((comparison, old)) = against else {
        let command = baseline::command(&suite.name);
        return match floor {
            Some(reason) => Ok(format!("{reason}; not compared, since there is no baseline")),
            None => Err(format!("there is no baseline to compare with; make one with `{command}`")),
        };
    };
    let change = comparison
        .changes
        .iter()
        .find(|change| change.part == gate.part && change.metric == gate.metric && change.slice == gate.slice)
        .ok_or_else(|| not_compared(suite, gate, comparison))?;
    if let Some((shared, before)) = hollow(gate, old, new) {
        return Err(format!(
            "only {shared} of the baseline's {before} cases are in the new run; what is left says little"
        ));
    }
    let words = in_words(change);
    if change.verdict == Verdict::Worse && (change.new - change.old).abs() > gate.tolerance + ROUNDING {
        return Err(format!("worse: {words}, tolerance {}", gate.tolerance));
    }
    Ok(floor.map_or(words.clone(), |floor| format!("{words}; {floor}")))
}

/// The gate's figure in the new run, or why there is none.
fn figure<'a>(gate: &Gate, new: &'a RunResult) -> Result<&'a Figure, String> {
    let missing = |what: String| Err(format!("{what}; a gate without data fails"));
    let Some(part) = find(new, gate) else {
        return missing(format!("the run has no part `{}`", gate.part));
    };
    if let Some(reason) = &part.skipped {
        return missing(format!("the part was skipped: {reason}"));
    }
    let figure = part.figures.iter().find(|figure| figure.metric == gate.metric && figure.slice == gate.slice);
    match figure {
        Some(figure) if figure.cases > 0 && figure.value.is_finite() => Ok(figure),
        _ if part.table.rows.is_empty() => missing("the part has no cases".to_owned()),
        _ => missing(format!("no case of slice `{}` has a value for `{}`", gate.slice, gate.metric)),
    }
}

fn find<'a>(run: &'a RunResult, gate: &Gate) -> Option<&'a PartResult> {
    run.parts.iter().find(|part| part.name == gate.part)
}

fn reaches(figure: &Figure, floor: f64) -> Result<String, String> {
    let value = figure.value;
    match figure.better {
        Better::Lower if value > floor => Err(format!("{value:.4} is above {floor}, the most that is let pass")),
        Better::Lower => Ok(format!("{value:.4} is at most {floor}")),
        _ if value < floor => Err(format!("{value:.4} is below {floor}, the least that is let pass")),
        _ => Ok(format!("{value:.4} is at least {floor}")),
    }
}

fn not_compared(suite: &Suite, gate: &Gate, comparison: &Comparison) -> String {
    let named = format!("part `{}` is not compared: ", gate.part);
    let why = comparison.notes.iter().find_map(|note| note.strip_prefix(&named));
    let why = why.unwrap_or("the baseline has no such figure");
    format!("nothing to compare with: {why}; make the baseline again with `{}`", baseline::command(&suite.name))
}

/// How many cases of the baseline are left, where that is too few.
fn hollow(gate: &Gate, old: &RunResult, new: &RunResult) -> Option<(usize, usize)> {
    let (old, new) = (find(old, gate)?, find(new, gate)?);
    let (shared, before) = (old.table.shared(&new.table).len(), old.table.rows.len());
    ((shared as f64) < SHARED * before as f64).then_some((shared, before))
}

fn in_words(change: &Change) -> String {
    let Change { old, new, low, high, cases, .. } = change;
    let by = new - old;
    format!("{old:.4} before, {new:.4} now ({by:+.4}, 95 % {low:+.4} to {high:+.4}, {cases} cases)")
}

#[cfg(test)]
mod tests {
    use super::super::compare::tests::{figure_all, good, half_broken, result, suite};
    use super::super::table::Table;
    use super::*;

    fn ndcg(more: &str) -> Suite {
        suite(&format!("\n[[gate]]\npart = \"search\"\nmetric = \"ndcg@10\"\n{more}\n"))
    }

    fn outcome(suite: &Suite, old: Option<&RunResult>, new: &RunResult) -> GateOutcome {
        check(suite, old, new).expect("checked").1.remove(0)
    }

    #[test]
    fn the_same_against_the_same_passes() {
        let run = result(good);
        let (comparison, outcomes) = check(&ndcg(""), Some(&run), &run).expect("checked");
        assert!(outcomes[0].passed, "{outcomes:?}");
        assert!(outcomes[0].reason.contains("40 cases"), "{outcomes:?}");
        assert!(comparison.expect("compared").changes.iter().all(|change| change.part == "search"));
    }

    #[test]
    fn a_broken_half_fails_and_an_improvement_passes() {
        let (whole, broken) = (result(good), result(half_broken));
        let worse = outcome(&ndcg(""), Some(&whole), &broken);
        assert!(!worse.passed && worse.reason.starts_with("worse: "), "{worse:?}");
        assert!(outcome(&ndcg(""), Some(&broken), &whole).passed);
        assert!(outcome(&ndcg("slice = \"language=en\""), Some(&whole), &broken).passed);
        assert!(!outcome(&ndcg("slice = \"language=es\""), Some(&whole), &broken).passed);
    }

    #[test]
    fn worse_within_the_tolerance_passes() {
        let (old, new) = (result(good), result(|at| good(at) - 0.01));
        assert!(!outcome(&ndcg("tolerance = 0.005"), Some(&old), &new).passed);
        assert!(outcome(&ndcg("tolerance = 0.01"), Some(&old), &new).passed);
    }

    #[test]
    fn a_floor_holds_with_and_without_a_baseline() {
        let run = result(good);
        let low = outcome(&ndcg("floor = 0.99"), Some(&run), &run);
        assert!(!low.passed && low.reason.contains("below 0.99"), "{low:?}");
        assert!(!outcome(&ndcg("floor = 0.99"), None, &run).passed);
        let held = outcome(&ndcg("floor = 0.5"), None, &run);
        assert!(held.passed && held.reason.contains("no baseline"), "{held:?}");
        let without = outcome(&ndcg(""), None, &run);
        assert!(!without.passed && without.reason.contains(&baseline::command("small")), "{without:?}");
        let most = suite("\n[[gate]]\npart = \"replies\"\nmetric = \"jargon\"\nfloor = 0.5\n");
        let above = outcome(&most, Some(&run), &run);
        assert!(!above.passed && above.reason.contains("above 0.5"), "less is better: {above:?}");
    }

    #[test]
    fn a_gate_without_data_fails() {
        let run = result(good);
        let failed = |suite: &Suite, spoil: &dyn Fn(&mut RunResult), wanted: &str| {
            let mut new = result(good);
            spoil(&mut new);
            for baseline in [None, Some(&run)] {
                let outcome = outcome(suite, baseline, &new);
                assert!(!outcome.passed && outcome.reason.contains(wanted), "{outcome:?} does not say {wanted}");
                assert!(outcome.reason.contains("a gate without data fails"), "{outcome:?}");
            }
        };
        let gated = ndcg("floor = 0.1");
        failed(&gated, &|run| drop(run.parts.remove(0)), "no part `search`");
        failed(&gated, &|run| run.parts[0].skipped = Some("data is missing".to_owned()), "data is missing");
        failed(&gated, &|run| (run.parts[0].table, run.parts[0].figures) = Default::default(), "no cases");
        failed(&ndcg("slice = \"queue=billing\""), &|_| {}, "queue=billing");
    }

    #[test]
    fn a_baseline_that_cannot_be_compared_fails_the_gate() {
        let new = result(good);
        let failed = |spoil: &dyn Fn(&mut RunResult), wanted: &str| {
            let mut old = result(good);
            spoil(&mut old);
            let outcome = outcome(&ndcg("floor = 0.1"), Some(&old), &new);
            assert!(!outcome.passed && outcome.reason.contains(wanted), "{outcome:?} does not say {wanted}");
        };
        failed(&|run| run.parts[0].data.corpus = Some("other".to_owned()), "cut anew");
        failed(&|run| run.parts[0].table = Table::default(), "no cases");
        failed(&|run| drop(run.parts[0].table.columns.remove("ndcg@10")), "no such figure");
    }

    #[test]
    fn a_run_that_lost_most_cases_fails() {
        let mut new = result(good);
        new.parts[0].table = new.parts[0].table.pick(&(0..12).collect::<Vec<_>>());
        figure_all(&mut new);
        let outcome = outcome(&ndcg(""), Some(&result(good)), &new);
        assert!(!outcome.passed && outcome.reason.contains("12 of the baseline's 40"), "{outcome:?}");
    }

    #[test]
    fn suites_whose_gates_can_never_fail_are_refused() {
        let run = result(good);
        let none = check(&suite(""), Some(&run), &run).expect_err("no gate");
        assert_eq!(none.exit_code(), 2);
        assert!(none.to_string().contains("has no gate"), "{none}");
        let either = suite("\n[[gate]]\npart = \"replies\"\nmetric = \"words\"\n");
        assert!(check(&either, Some(&run), &run).expect_err("neither").to_string().contains("neither direction"));
        let floored = suite("\n[[gate]]\npart = \"replies\"\nmetric = \"words\"\nfloor = 90\n");
        assert!(outcome(&floored, Some(&run), &run).reason.contains("below 90"));
        let mut other = result(good);
        other.suite_version = 2;
        assert_eq!(check(&ndcg(""), None, &other).expect_err("another version").exit_code(), 2);
        assert_eq!(check(&ndcg(""), Some(&other), &run).expect_err("another version").exit_code(), 2);
    }
}
