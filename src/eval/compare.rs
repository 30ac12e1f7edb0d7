//! Two results of one suite, compared in pairs: which figures changed, and is that more than accident?

use serde::{Deserialize, Serialize};

use super::EvalError;
use super::figures::{self, Better, Metric};
use super::record::{FORMAT, Made, PartResult, RunResult};
use super::stats;
use super::suite::{Part, Suite};
use super::table::Table;

/// The changes between two runs of a suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub suite: String,
    pub old: Made,
    pub new: Made,
    /// Every figure that both runs have, in the order of the suite.
    pub changes: Vec<Change>,
    /// What could not be compared and why; what to know when reading (cases that only one run has, other data).
    pub notes: Vec<String>,
}

/// One figure before and after, over the cases that both runs have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub part: String,
    pub metric: String,
    pub slice: String,
    pub old: f64,
    pub new: f64,
    /// 95 % interval of `new - old` by the paired bootstrap.
    pub low: f64,
    pub high: f64,
    pub cases: usize,
    pub better: Better,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Better,
    Worse,
    /// The interval holds 0, or there are too few cases: no difference can be claimed.
    Same,
    /// Surely different, where neither direction is better.
    Different,
}

/// What came of one gate of the suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateOutcome {
    pub part: String,
    pub metric: String,
    pub slice: String,
    pub passed: bool,
    /// In words: the figures, the bound that was broken, or why there was nothing to compare.
    pub reason: String,
}

/// Fewer pairs claim nothing: even if all five changed in one direction, chance does that in 2 of 32 times (sign test),
/// while the bootstrap of few equal differences has an interval without width.
const FEWEST_PAIRS: usize = 6;
/// What is smaller than this comes from rounding.
pub(super) const ROUNDING: f64 = 1e-9;

/// Compares every figure that both runs have, over the cases that both have.
///
/// What cannot be compared (a part that one run skipped, a corpus that was cut anew, times of another machine) is left
/// out and said in the notes, never reported as zero.
///
/// # Errors
/// [`EvalError::Data`] when a result has another format or belongs to another suite or version of the suite.
pub fn compare(suite: &Suite, old: &RunResult, new: &RunResult) -> Result<Comparison, EvalError> {
    check_origin(suite, old, "the older result")?;
    check_origin(suite, new, "the newer result")?;
    let mut comparison = Comparison {
        suite: suite.name.clone(),
        old: old.made.clone(),
        new: new.made.clone(),
        changes: Vec::new(),
        notes: Vec::new(),
    };
    let same_machine = old.made.machine == new.made.machine;
    let mut left_out = false;
    for part in &suite.parts {
        match align(find(old, &part.name), find(new, &part.name)) {
            Ok(aligned) => {
                comparison.notes.extend(aligned.notes.iter().map(|note| format!("part `{}`: {note}", part.name)));
                let all = figures::of(part);
                let (metrics, of_machine): (Vec<_>, Vec<_>) =
                    all.into_iter().partition(|m| same_machine || !is_of_machine(&m.name));
                left_out |= has_any(&of_machine, &aligned.old) && has_any(&of_machine, &aligned.new);
                comparison.changes.extend(changes(part, &metrics, &aligned));
            }
            Err(reason) => comparison.notes.push(format!("part `{}` is not compared: {reason}", part.name)),
        }
    }
    if left_out {
        let (old, new) = (&old.made.machine, &new.made.machine);
        comparison.notes.push(format!("times and memory are not compared: made on `{old}` and on `{new}`"));
    }
    Ok(comparison)
}

/// Refuses a result that the suite as it stands did not make.
pub(super) fn check_origin(suite: &Suite, run: &RunResult, which: &str) -> Result<(), EvalError> {
    let again = match run.made.command.as_str() {
        "" => super::baseline::command(&suite.name),
        command => command.to_owned(),
    };
    let refuse = |reason: String| Err(EvalError::data(format!("{which}, made {}", run.made.at), reason));
    if run.format != FORMAT {
        return refuse(format!(
            "has format {}, this program reads and writes format {FORMAT}; make it again with `{again}`",
            run.format
        ));
    }
    if run.suite != suite.name {
        return refuse(format!("is of suite `{}`, not of `{}`; choose results of one suite", run.suite, suite.name));
    }
    if run.suite_version != suite.version {
        return refuse(format!(
            "was made with version {} of suite `{}`, which has version {} now; run the baseline again with `{again}`",
            run.suite_version, suite.name, suite.version
        ));
    }
    Ok(())
}

/// Whether a figure says as much about the machine as about the program.
pub fn is_of_machine(metric: &str) -> bool {
    metric.contains("-ms-p") || metric == "memory-mib"
}

/// The same cases in the same order.
struct Aligned {
    old: Table,
    new: Table,
    notes: Vec<String>,
}

fn find<'a>(run: &'a RunResult, part: &str) -> Option<&'a PartResult> {
    run.parts.iter().find(|result| result.name == part)
}

fn align(old: Option<&PartResult>, new: Option<&PartResult>) -> Result<Aligned, String> {
    let old = with_cases(old, "older")?;
    let new = with_cases(new, "newer")?;
    if old.kind != new.kind {
        return Err(format!("it is of kind {} in the older run and {} in the newer", old.kind.name(), new.kind.name()));
    }
    let pairs = old.table.shared(&new.table);
    let (before, after, shared) = (old.table.rows.len(), new.table.rows.len(), pairs.len());
    if old.data.corpus != new.data.corpus {
        return Err(format!(
            "the corpus was cut anew: ids changed, {shared} of {before} cases are shared; make the older result again"
        ));
    }
    if pairs.is_empty() {
        return Err(format!(
            "the data was cut anew: ids changed, 0 of {before} cases are shared; make the older result again"
        ));
    }
    let mut notes = Vec::new();
    if shared < before || shared < after {
        let (lost, come) = (before - shared.min(before), after - shared.min(after));
        notes.push(format!("{shared} cases are compared; {lost} are only in the older run, {come} only in the newer"));
    } else if old.data.cases != new.data.cases {
        notes.push("the texts of its cases have changed, though their ids have not".to_owned());
    }
    if let (Some(a), Some(b)) = (&old.memory, &new.memory)
        && a.digest != b.digest
    {
        notes.push(format!("the memory differs ({} items before, {} now)", a.items, b.items));
    }
    let (here, there): (Vec<usize>, Vec<usize>) = pairs.into_iter().unzip();
    Ok(Aligned { old: old.table.pick(&here), new: new.table.pick(&there), notes })
}

fn with_cases<'a>(part: Option<&'a PartResult>, which: &str) -> Result<&'a PartResult, String> {
    let part = part.ok_or_else(|| format!("the {which} run does not have it"))?;
    if let Some(reason) = &part.skipped {
        return Err(format!("the {which} run skipped it: {reason}"));
    }
    if part.table.rows.is_empty() {
        return Err(format!("the {which} run has no cases of it (a baseline keeps those that gates need)"));
    }
    Ok(part)
}

fn has_any(metrics: &[Metric], table: &Table) -> bool {
    metrics.iter().flat_map(Metric::columns).any(|column| table.column(&column).is_some())
}

/// Slices are those of the newer run: both sides of a difference must be over the same cases.
fn changes(part: &Part, metrics: &[Metric], aligned: &Aligned) -> Vec<Change> {
    let mut changes = Vec::new();
    for slice in aligned.new.slices() {
        let positions = aligned.new.slice(&slice);
        let (old, new) = (aligned.old.pick(&positions), aligned.new.pick(&positions));
        for metric in metrics {
            let Some(difference) = stats::difference(&metric.statistic, &old, &new) else { continue };
            changes.push(Change {
                part: part.name.clone(),
                metric: metric.name.clone(),
                slice: slice.clone(),
                old: difference.old,
                new: difference.new,
                low: difference.low,
                high: difference.high,
                cases: difference.cases,
                better: metric.better,
                verdict: verdict(metric.better, difference.low, difference.high, difference.cases),
            });
        }
    }
    changes
}

fn verdict(better: Better, low: f64, high: f64, cases: usize) -> Verdict {
    let (up, down) = (low > ROUNDING, high < -ROUNDING);
    match better {
        _ if cases < FEWEST_PAIRS || !(up || down) => Verdict::Same,
        Better::Neither => Verdict::Different,
        Better::Higher if up => Verdict::Better,
        Better::Lower if down => Verdict::Better,
        Better::Higher | Better::Lower => Verdict::Worse,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::super::suite::PartKind;
    use super::super::table::Row;
    use super::super::{baseline, record::DataNote, record::MemoryNote};
    use super::*;

    const SUITE: &str = r#"
        name = "small"
        version = 3
        seed = 7
        [[part]]
        name = "search"
        kind = "retrieval"
        data = { format = "beir", path = "faq" }
        [[part]]
        name = "replies"
        kind = "drafts"
        data = { format = "gold", path = "gold" }
    "#;

    /// A suite of a retrieval part `search` and a drafts part `replies`; `gates` is appended.
    pub fn suite(gates: &str) -> Suite {
        Suite::parse(&format!("{SUITE}{gates}"), Path::new("")).expect("a valid suite")
    }

    /// A result of that suite with 40 cases in each part; half of them are Spanish.
    pub fn result(ndcg: impl Fn(usize) -> f64) -> RunResult {
        let search = part("search", PartKind::Retrieval, |at| {
            vec![("ndcg@10", ndcg(at)), ("mrr", ndcg(at)), ("map", 0.5 + at as f64 / 1_000.0)]
        });
        let replies = part("replies", PartKind::Drafts, |at| {
            vec![("words", 40.0 + at as f64), ("jargon", 1.0), ("total-ms", 900.0 + at as f64)]
        });
        let made = Made {
            at: "2026-01-02T03:04:05Z".to_owned(),
            command: "respondo eval run small".to_owned(),
            machine: "two cores".to_owned(),
            ..Made::default()
        };
        let about = "made up".to_owned();
        let mut run = RunResult {
            format: FORMAT,
            suite: "small".to_owned(),
            suite_version: 3,
            about,
            made,
            parts: vec![search, replies],
        };
        figure_all(&mut run);
        run
    }

    /// Computes the figures again after the tables were changed.
    pub fn figure_all(run: &mut RunResult) {
        let suite = suite("");
        for part in &mut run.parts {
            let kind = suite.parts.iter().find(|known| known.name == part.name).expect("known");
            part.figures = figures::compute(&figures::of(kind), &part.table);
        }
    }

    fn part(name: &str, kind: PartKind, values: impl Fn(usize) -> Vec<(&'static str, f64)>) -> PartResult {
        let mut table = Table::default();
        for at in 0..40 {
            let slices = vec![format!("language={}", if at % 2 == 0 { "en" } else { "es" })];
            let values: BTreeMap<String, f64> =
                values(at).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            table.push(Row { id: format!("case {at}"), slices }, &values);
        }
        PartResult {
            name: name.to_owned(),
            kind,
            about: String::new(),
            data: DataNote { cases: "c1".to_owned(), corpus: Some("k1".to_owned()), ..DataNote::default() },
            memory: Some(MemoryNote { digest: "m1".to_owned(), items: 9, ..MemoryNote::default() }),
            skipped: None,
            figures: Vec::new(),
            charts: Vec::new(),
            beside: Vec::new(),
            failures: Vec::new(),
            cached: 0,
            seconds: 1.0,
            table,
        }
    }

    pub fn good(at: usize) -> f64 {
        0.7 + (at % 7) as f64 / 30.0
    }

    /// The Spanish half finds next to nothing.
    pub fn half_broken(at: usize) -> f64 {
        if at.is_multiple_of(2) { good(at) } else { good(at) / 5.0 }
    }

    fn change<'a>(comparison: &'a Comparison, metric: &str, slice: &str) -> &'a Change {
        let wanted = |change: &&Change| change.metric == metric && change.slice == slice;
        comparison.changes.iter().find(wanted).expect("compared")
    }

    #[test]
    fn the_same_against_the_same_is_no_change() {
        let run = result(good);
        let comparison = compare(&suite(""), &run, &run).expect("comparable");
        assert!(comparison.notes.is_empty(), "{:?}", comparison.notes);
        assert!(comparison.changes.len() >= 15, "every figure and slice: {}", comparison.changes.len());
        for change in &comparison.changes {
            assert_eq!((change.verdict, change.low, change.high), (Verdict::Same, 0.0, 0.0), "{change:?}");
        }
    }

    #[test]
    fn a_broken_half_is_worse_and_the_other_half_the_same() {
        let comparison = compare(&suite(""), &result(good), &result(half_broken)).expect("comparable");
        assert_eq!(change(&comparison, "ndcg@10", "all").verdict, Verdict::Worse);
        assert_eq!(change(&comparison, "ndcg@10", "language=es").verdict, Verdict::Worse);
        assert_eq!(change(&comparison, "ndcg@10", "language=en").verdict, Verdict::Same);
        assert_eq!(change(&comparison, "map", "all").verdict, Verdict::Same);
        let back = compare(&suite(""), &result(half_broken), &result(good)).expect("comparable");
        assert_eq!(change(&back, "ndcg@10", "all").verdict, Verdict::Better);
    }

    #[test]
    fn the_verdict_follows_the_interval_and_the_direction() {
        assert_eq!(verdict(Better::Lower, 0.1, 0.2, 40), Verdict::Worse);
        assert_eq!(verdict(Better::Lower, -0.2, -0.1, 40), Verdict::Better);
        assert_eq!(verdict(Better::Neither, -0.2, -0.1, 40), Verdict::Different);
        assert_eq!(verdict(Better::Higher, -0.2, 0.0, 40), Verdict::Same);
        assert_eq!(verdict(Better::Higher, 1e-16, 2e-16, 40), Verdict::Same);
        assert_eq!(verdict(Better::Higher, f64::NAN, f64::NAN, 40), Verdict::Same);
        assert_eq!(verdict(Better::Higher, -1.0, -1.0, 5), Verdict::Same, "five cases prove nothing");
    }

    #[test]
    fn results_of_another_suite_version_or_format_are_refused() {
        let refused = |spoil: &dyn Fn(&mut RunResult)| {
            let mut old = result(good);
            spoil(&mut old);
            let error = compare(&suite(""), &old, &result(good)).expect_err("refused");
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        };
        let version = refused(&|run| run.suite_version = 2);
        assert!(version.contains("version 2") && version.contains("version 3"), "{version}");
        assert!(version.contains("run the baseline again with `respondo eval run small`"), "{version}");
        assert!(refused(&|run| run.suite = "full".to_owned()).contains("suite `full`, not of `small`"));
        assert!(refused(&|run| run.format = FORMAT + 1).contains("format 2"));
        let mut without = result(good);
        (without.suite_version, without.made.command) = (1, String::new());
        let error = compare(&suite(""), &without, &result(good)).expect_err("refused").to_string();
        assert!(error.contains(&baseline::command("small")), "{error}");
    }

    #[test]
    fn a_corpus_that_was_cut_anew_is_said_and_not_reported_as_zero() {
        let (mut old, new) = (result(good), result(half_broken));
        old.parts[0].data.corpus = Some("k0".to_owned());
        for row in old.parts[0].table.rows.iter_mut().skip(3) {
            row.id.insert_str(0, "old ");
        }
        let comparison = compare(&suite(""), &old, &new).expect("the rest is comparable");
        assert!(comparison.changes.iter().all(|change| change.part == "replies"));
        let note = &comparison.notes[0];
        assert!(note.contains("`search` is not compared") && note.contains("3 of 40 cases are shared"), "{note}");
        let mut none = result(good);
        none.parts[1].table.rows.iter_mut().for_each(|row| row.id.push('x'));
        let comparison = compare(&suite(""), &none, &new).expect("the rest is comparable");
        assert!(comparison.notes[0].contains("0 of 40 cases are shared"), "{:?}", comparison.notes);
    }

    #[test]
    fn parts_without_cases_are_said() {
        let (mut old, mut new) = (result(good), result(good));
        old.parts[0].table = Table::default();
        new.parts[1].skipped = Some("no data".to_owned());
        let comparison = compare(&suite(""), &old, &new).expect("comparable in principle");
        assert!(comparison.changes.is_empty());
        assert!(comparison.notes[0].contains("older run has no cases"), "{:?}", comparison.notes);
        assert!(comparison.notes[1].contains("newer run skipped it: no data"), "{:?}", comparison.notes);
        new.parts.remove(1);
        let comparison = compare(&suite(""), &result(good), &new).expect("comparable in principle");
        assert!(comparison.notes[0].contains("does not have it"), "{:?}", comparison.notes);
    }

    #[test]
    fn what_differs_beside_the_figures_is_noted() {
        let (mut old, new) = (result(good), result(good));
        old.parts[0].table = old.parts[0].table.pick(&(5..40).rev().collect::<Vec<_>>());
        old.parts[1].data.cases = "c0".to_owned();
        old.parts[1].memory = Some(MemoryNote { digest: "m0".to_owned(), items: 7, ..MemoryNote::default() });
        let comparison = compare(&suite(""), &old, &new).expect("comparable");
        assert!(comparison.notes[0].contains("35 cases are compared; 0 are only in the older run, 5 only"));
        assert!(comparison.notes[1].contains("texts of its cases have changed"));
        assert!(comparison.notes[2].contains("7 items before, 9 now"));
        assert_eq!(change(&comparison, "ndcg@10", "all").cases, 35);
        assert!(comparison.changes.iter().all(|change| change.verdict == Verdict::Same), "the order does not matter");
    }

    #[test]
    fn times_are_compared_on_the_same_machine_only() {
        let (old, mut new) = (result(good), result(good));
        let timed = |comparison: &Comparison| comparison.changes.iter().any(|change| is_of_machine(&change.metric));
        assert!(timed(&compare(&suite(""), &old, &new).expect("comparable")));
        new.made.machine = "64 cores".to_owned();
        let comparison = compare(&suite(""), &old, &new).expect("comparable");
        assert!(!timed(&comparison));
        assert!(comparison.notes[0].contains("`two cores` and on `64 cores`"), "{:?}", comparison.notes);
        assert!(is_of_machine("first-token-ms-p95") && is_of_machine("memory-mib"));
        assert!(!is_of_machine("useful-reply-hours-p50"), "the team's time is not the machine's");
    }
}
