//! A result for people and for machines: terminal, Markdown for a pull request, JUnit, and one HTML file that works offline.

pub mod chart;
pub mod html;
pub mod junit;
#[cfg(test)]
mod made_up;
pub mod markdown;
pub mod terminal;
mod view;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::path::Path;

use super::EvalError;
use super::compare::{Change, Comparison, GateOutcome, Verdict};
use super::figures::{Better, Figure};
use super::files::write_whole;
use super::record::{CaseRecord, PartResult, RunResult};
use super::suite::ALL;
use crate::bench::wilson;

/// Writes `report.html`, `report.md` and `junit.xml` into the folder, each whole or not at all. `cases` are the single cases
/// to be shown, by part; [`worst`] picks them. Gates may have been checked without a comparison.
///
/// # Errors
/// When the folder cannot be written to.
pub fn write_all(
    folder: &Path,
    result: &RunResult,
    cases: &[(String, Vec<CaseRecord>)],
    comparison: Option<&Comparison>,
    gates: &[GateOutcome],
) -> Result<(), EvalError> {
    let before = comparison.map_or_else(|| markdown::gates(gates), |both| markdown::comparison(both, gates) + "\n");
    let summary = before + &markdown::summary(result);
    write(&folder.join("report.html"), &html::render(result, cases, comparison, gates)?)?;
    write(&folder.join("report.md"), &summary)?;
    write(&folder.join("junit.xml"), &junit::xml(result, gates))
}

fn write(path: &Path, text: &str) -> Result<(), EvalError> {
    Ok(write_whole(path, text.as_bytes())?)
}

/// The `limit` worst cases: highest badness first, then by id. Holds no more than `limit` cases (and one) at a time.
pub fn worst(cases: impl Iterator<Item = CaseRecord>, limit: usize) -> Vec<CaseRecord> {
    if limit == 0 {
        return Vec::new();
    }
    let mut kept = BinaryHeap::new();
    for case in cases {
        kept.push(Ranked(case));
        if kept.len() > limit {
            kept.pop();
        }
    }
    kept.into_sorted_vec().into_iter().map(|Ranked(case)| case).collect()
}

/// Orders the worst first.
fn by_badness(one: &CaseRecord, other: &CaseRecord) -> Ordering {
    // A badness that is no number says nothing: it counts as none.
    let badness = |case: &CaseRecord| if case.badness.is_nan() { 0.0 } else { case.badness };
    badness(other).total_cmp(&badness(one)).then_with(|| one.id.cmp(&other.id))
}

/// The greatest is the one to be let go of first.
struct Ranked(CaseRecord);

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        by_badness(&self.0, &other.0)
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

/// One kind of failure over the parts in which it occurred.
#[derive(Clone, Debug, PartialEq)]
struct Mend {
    failure: String,
    count: usize,
    /// Part, cases that fail in this way, cases of the part; most frequent first.
    parts: Vec<(String, usize, usize)>,
}

/// Kinds of failure, most frequent first. Frequent means a large share of the cases of a part; a share of few cases counts
/// with caution (lower end of its 95 % Wilson interval), so that 2 of 3 do not stand before 150 of 300.
fn mend_first(result: &RunResult) -> Vec<Mend> {
    let mut kinds: BTreeMap<&str, Vec<(String, usize, usize)>> = BTreeMap::new();
    for part in result.parts.iter().filter(|part| part.skipped.is_none()) {
        for (failure, count) in part.failures.iter().filter(|(_, count)| *count > 0) {
            let of = part.data.used.max(*count);
            kinds.entry(failure).or_default().push((part.name.clone(), *count, of));
        }
    }
    let share = |(_, count, of): &(String, usize, usize)| wilson(*count, *of).0;
    let mut mends: Vec<(f64, Mend)> = kinds
        .into_iter()
        .map(|(failure, mut parts)| {
            parts.sort_by(|one, other| share(other).total_cmp(&share(one)));
            let count = parts.iter().map(|(_, count, _)| count).sum();
            (parts.first().map_or(0.0, share), Mend { failure: failure.to_owned(), count, parts })
        })
        .collect();
    mends.sort_by(|one, other| other.0.total_cmp(&one.0).then_with(|| other.1.count.cmp(&one.1.count)));
    mends.into_iter().map(|(_, mend)| mend).collect()
}

/// Decimals with which a figure is shown.
fn decimals(metric: &str) -> usize {
    match metric {
        _ if metric.contains("-ms") || metric.ends_with("-mib") => 0,
        "words" | "tokens" | "chrf" | "jargon" | "reading-ease" => 1,
        _ if metric.contains("-hours") => 1,
        _ => 3,
    }
}

/// A value as it is shown: shares with three decimals, milliseconds with none.
fn number(metric: &str, value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let decimals = decimals(metric);
    let shown = format!("{value:.decimals$}");
    // What rounds to nothing has no sign.
    let zero = shown.starts_with('-') && !shown.contains(|c: char| ('1'..='9').contains(&c));
    if zero { shown[1..].to_owned() } else { shown }
}

/// A difference as it is shown, always with its sign.
fn signed(metric: &str, value: f64) -> String {
    let shown = number(metric, value);
    if value > 0.0 && shown.contains(|c: char| ('1'..='9').contains(&c)) { format!("+{shown}") } else { shown }
}

fn interval(metric: &str, low: f64, high: f64) -> String {
    format!("[{}, {}]", number(metric, low), number(metric, high))
}

fn signed_interval(metric: &str, low: f64, high: f64) -> String {
    format!("[{}, {}]", signed(metric, low), signed(metric, high))
}

fn direction(better: Better) -> &'static str {
    match better {
        Better::Higher => "higher is better",
        Better::Lower => "lower is better",
        Better::Neither => "",
    }
}

fn arrow(better: Better) -> &'static str {
    match better {
        Better::Higher => "↑",
        Better::Lower => "↓",
        Better::Neither => " ",
    }
}

/// Metrics of a part in the order in which they were computed.
fn metrics(part: &PartResult) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for figure in &part.figures {
        if !names.contains(&figure.metric.as_str()) {
            names.push(&figure.metric);
        }
    }
    names
}

fn figure<'a>(part: &'a PartResult, metric: &str, slice: &str) -> Option<&'a Figure> {
    part.figures.iter().find(|figure| figure.metric == metric && figure.slice == slice)
}

/// Slices of a part beside `all`, the largest first: languages, then the others.
fn slices(part: &PartResult) -> (Vec<String>, Vec<String>) {
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for figure in part.figures.iter().filter(|figure| figure.slice != ALL) {
        let size = sizes.entry(&figure.slice).or_default();
        *size = figure.cases.max(*size);
    }
    let mut sorted: Vec<(&str, usize)> = sizes.into_iter().collect();
    sorted.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    let names = sorted.into_iter().map(|(slice, _)| slice.to_owned());
    names.partition(|slice| slice.starts_with("language="))
}

/// A slice for people: `es` for `language=es`, all else as it is.
fn slice_name(slice: &str) -> &str {
    slice.strip_prefix("language=").unwrap_or(slice)
}

/// What was run, in one sentence.
fn extent(part: &PartResult) -> String {
    let mut text = format!("{} of {} cases", part.data.used, part.data.available);
    if part.cached > 0 {
        text += &format!(", {} of them from an earlier run", part.cached);
    }
    text + &format!(", {}", duration(part.seconds))
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 0.95 => format!("{:.0} ms", s.max(0.0) * 1000.0),
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// The changes that are no accident, the worst first, and the others.
fn split(comparison: &Comparison) -> (Vec<&Change>, Vec<&Change>) {
    let (mut told, others): (Vec<&Change>, Vec<&Change>) =
        comparison.changes.iter().partition(|change| change.verdict != Verdict::Same);
    told.sort_by_key(|change| match change.verdict {
        Verdict::Worse => 0,
        Verdict::Better => 1,
        Verdict::Different | Verdict::Same => 2,
    });
    (told, others)
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::Same => "no significant change",
        Verdict::Different => "different",
    }
}

/// What to keep in mind when many figures are compared at once. None where nothing changed.
fn by_accident(told: usize, figures: usize) -> Option<String> {
    let expected = (figures as f64 * 0.05).ceil();
    (told > 0 && figures > 10).then(|| {
        format!(
            "Of {figures} figures compared, about {expected:.0} would stand out by accident alone (95 % intervals): \
             trust the gates and what moves in several places."
        )
    })
}

/// Characters that XML 1.0 knows.
fn is_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{FFFD}' | '\u{10000}'..)
}

/// Text for XML and HTML, in elements and in attributes. What XML forbids becomes U+FFFD.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' => out.push_str("&#9;"),
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            c if is_xml(c) => out.push(c),
            _ => out.push('\u{FFFD}'),
        }
    }
    out
}

/// Characters that turn the direction of writing, so that a text looks like another.
fn turns_direction(c: char) -> bool {
    matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// One line without anything that moves a cursor or turns the direction of writing.
fn one_line(text: &str) -> String {
    let blank = |c: char| c.is_control() || c.is_whitespace();
    let kept: String = text.chars().filter(|c| !turns_direction(*c)).map(|c| if blank(c) { ' ' } else { c }).collect();
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(id: &str, badness: f64) -> CaseRecord {
        CaseRecord { id: id.into(), badness, ..CaseRecord::default() }
    }

    #[test]
    fn the_worst_are_kept_in_order() {
        let cases =
            || [case("c", 1.0), case("a", 3.0), case("b", 1.0), case("d", f64::NAN), case("e", 0.5)].into_iter();
        let ids = |limit| worst(cases(), limit).into_iter().map(|case| case.id).collect::<Vec<_>>();
        assert_eq!(ids(3), ["a", "b", "c"]);
        assert_eq!(ids(9), ["a", "b", "c", "e", "d"], "what is no number is not bad");
        assert!(ids(0).is_empty());
    }

    #[test]
    fn numbers_are_shown_by_what_they_measure() {
        assert_eq!(number("right", 0.123_44), "0.123");
        assert_eq!(number("total-ms-p50", 1234.6), "1235");
        assert_eq!(number("right", f64::NAN), "–");
        assert_eq!(number("right", -0.0001), "0.000");
        assert_eq!(signed("right", 0.0001), "0.000");
        assert_eq!(signed("right", 0.01), "+0.010");
        assert_eq!(signed("right", -0.01), "-0.010");
    }

    #[test]
    fn a_large_share_of_few_cases_counts_with_caution() {
        let mut result = made_up::result();
        result.parts.truncate(2);
        let (large, small) = result.parts.split_at_mut(1);
        large[0].data.used = 300;
        large[0].failures = vec![("often".into(), 150), ("never".into(), 0)];
        small[0].data.used = 3;
        small[0].failures = vec![("twice".into(), 2), ("often".into(), 1)];
        small[0].skipped = None;
        let mends = mend_first(&result);
        let names: Vec<&str> = mends.iter().map(|mend| mend.failure.as_str()).collect();
        assert_eq!(names, ["often", "twice"]);
        assert_eq!(mends[0].count, 151);
        assert_eq!(mends[0].parts.len(), 2);
    }

    #[test]
    fn nothing_half_written_stays() {
        let folder = tempfile::tempdir().expect("folder");
        let result = made_up::result();
        write_all(folder.path(), &result, &made_up::cases(), None, &[]).expect("written");
        write_all(folder.path(), &result, &[], Some(&made_up::comparison()), &made_up::gates()).expect("over the old");
        let mut names: Vec<String> = std::fs::read_dir(folder.path())
            .expect("folder")
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        assert_eq!(names, ["junit.xml", "report.html", "report.md"]);
        write_all(&folder.path().join("missing"), &result, &[], None, &[]).expect("the folder is made");
        let error =
            write_all(&folder.path().join("report.md"), &result, &[], None, &[]).expect_err("a file is no folder");
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("report.md"), "{error}");
    }

    #[test]
    fn one_line_moves_no_cursor() {
        assert_eq!(one_line("a\u{1b}[31m\r\nb\u{2028}c\u{202E}d \u{85}"), "a [31m b cd");
    }
}
