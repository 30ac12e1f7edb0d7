//! What the page shows, ready for the template: numbers as text, charts as SVG.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{by_accident, chart, direction, extent, figure, interval, mend_first, metrics, number, signed};
use super::{signed_interval, slice_name, slices, split, verdict};
use crate::eval::compare::{Change, Comparison, GateOutcome};
use crate::eval::figures::{self, Better, Figure};
use crate::eval::record::{CaseRecord, Made, PartResult, RunResult};
use crate::eval::suite::ALL;

/// Languages that are columns beside `all`; the others are folded.
const LANGUAGES: usize = 4;
/// Kinds of failure that stand open at the top.
const MENDS: usize = 8;
/// Weak slices that are told, and the cases that such a slice has at least.
const WEAK: usize = 6;
const WEAK_CASES: usize = 10;

#[derive(Serialize)]
pub struct Page<'a> {
    suite: &'a str,
    version: u32,
    about: &'a str,
    at: &'a str,
    made: Vec<(&'static str, String)>,
    mends: Vec<MendRow>,
    more_mends: Vec<MendRow>,
    weak: Vec<WeakRow>,
    gates: Vec<GateRow>,
    passed: usize,
    comparison: Option<ComparisonView>,
    parts: Vec<PartView<'a>>,
}

#[derive(Serialize)]
struct MendRow {
    failure: String,
    count: usize,
    parts: Vec<MendPart>,
}

#[derive(Serialize)]
struct MendPart {
    name: String,
    count: usize,
    of: usize,
    percent: String,
    /// Cases of this kind that are in the page.
    shown: usize,
    link: String,
}

#[derive(Serialize)]
struct WeakRow {
    part: String,
    slice: String,
    metric: String,
    value: String,
    interval: String,
    all: String,
    cases: usize,
    link: String,
}

#[derive(Serialize)]
struct ComparisonView {
    before: String,
    after: String,
    told: Vec<ChangeRow>,
    others: Vec<ChangeRow>,
    caution: Option<String>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct GateRow {
    name: String,
    passed: bool,
    reason: String,
}

#[derive(Serialize)]
struct ChangeRow {
    name: String,
    old: String,
    new: String,
    difference: String,
    interval: String,
    svg: String,
    verdict: &'static str,
    cases: usize,
}

#[derive(Serialize)]
struct PartView<'a> {
    name: &'a str,
    kind: &'static str,
    about: &'a str,
    skipped: Option<&'a str>,
    extent: String,
    path: &'a str,
    notes: &'a [String],
    memory: Option<(usize, &'a str)>,
    columns: Vec<String>,
    rows: Vec<FigureRow>,
    folded: Vec<FoldedMetric>,
    beside: Vec<(&'a str, String, &'a str)>,
    charts: Vec<String>,
    failures: Vec<MendPart>,
}

#[derive(Serialize)]
struct FigureRow {
    metric: String,
    about: &'static str,
    direction: &'static str,
    cells: Vec<Option<Cell>>,
    cases: usize,
}

#[derive(Serialize)]
struct Cell {
    name: String,
    value: String,
    interval: String,
    svg: String,
    cases: usize,
}

/// A metric over the slices that are no columns, the weakest first.
#[derive(Serialize)]
struct FoldedMetric {
    metric: String,
    direction: &'static str,
    cells: Vec<Cell>,
}

/// How many of the cases in the page failed in which way, by part and kind.
type Shown<'a> = BTreeMap<(&'a str, &'a str), usize>;

pub fn page<'a>(
    result: &'a RunResult,
    cases: &[(String, Vec<CaseRecord>)],
    comparison: Option<&Comparison>,
    gates: &[GateOutcome],
) -> Page<'a> {
    let mut shown = Shown::new();
    for (part, cases) in cases {
        for failure in cases.iter().flat_map(|case| &case.failures) {
            *shown.entry((part, failure)).or_default() += 1;
        }
    }
    let mut mends: Vec<MendRow> = mend_first(result)
        .into_iter()
        .map(|mend| MendRow {
            parts: mend
                .parts
                .iter()
                .map(|(part, count, of)| mend_part(&shown, &mend.failure, part, *count, *of))
                .collect(),
            count: mend.count,
            failure: mend.failure,
        })
        .collect();
    let more_mends = mends.split_off(mends.len().min(MENDS));
    Page {
        suite: &result.suite,
        version: result.suite_version,
        about: &result.about,
        at: &result.made.at,
        made: made(&result.made),
        mends,
        more_mends,
        weak: weak(result),
        gates: gate_rows(gates),
        passed: gates.iter().filter(|gate| gate.passed).count(),
        comparison: comparison.map(comparison_view),
        parts: result.parts.iter().map(|part| part_view(part, &shown)).collect(),
    }
}

fn made(made: &Made) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("Code", made.code.clone()),
        ("Embedding model", made.embedder.clone()),
        ("Language model", made.generator.clone().unwrap_or_else(|| "none".to_owned())),
        ("Machine", made.machine.clone()),
        ("Prompts", made.prompts.clone()),
        ("Settings", made.settings.clone()),
        ("Command", made.command.clone()),
    ];
    rows.retain(|(_, value)| !value.is_empty());
    rows
}

fn mend_part(shown: &Shown<'_>, failure: &str, part: &str, count: usize, of: usize) -> MendPart {
    MendPart {
        name: part.to_owned(),
        count,
        of,
        percent: format!("{:.0} %", count as f64 * 100.0 / of.max(1) as f64),
        shown: shown.get(&(part, failure)).copied().unwrap_or(0),
        link: link(&[("part", part), ("failure", failure)]),
    }
}

/// Address of the cases that a filter leaves, within the page.
fn link(filters: &[(&str, &str)]) -> String {
    let encoded = |text: &str| {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
        text.bytes()
            .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect()
    };
    let pairs: Vec<String> = filters
        .iter()
        .map(|(name, value)| {
            let value: String = encoded(value);
            format!("{name}={value}")
        })
        .collect();
    format!("#cases?{}", pairs.join("&"))
}

/// Slices whose whole interval is worse than the figure over all cases, the widest gap first; one figure per slice.
fn weak(result: &RunResult) -> Vec<WeakRow> {
    let mut found: Vec<(f64, &PartResult, &Figure, &Figure)> = Vec::new();
    for part in &result.parts {
        for slice in part.figures.iter().filter(|slice| slice.slice != ALL && slice.cases >= WEAK_CASES) {
            // Gaps of shares can be compared; of milliseconds and words they cannot.
            let Some(all) = figure(part, &slice.metric, ALL).filter(|all| super::decimals(&all.metric) == 3) else {
                continue;
            };
            let worse = match slice.better {
                Better::Higher => slice.high < all.value,
                Better::Lower => slice.low > all.value,
                Better::Neither => false,
            };
            if worse {
                found.push(((slice.value - all.value).abs(), part, slice, all));
            }
        }
    }
    found.sort_by(|one, other| other.0.total_cmp(&one.0));
    let mut told: Vec<(&str, &str)> = Vec::new();
    found.retain(|(_, part, slice, _)| {
        let key = (part.name.as_str(), slice.slice.as_str());
        let new = !told.contains(&key);
        told.push(key);
        new
    });
    found.into_iter().take(WEAK).map(|(_, part, slice, all)| weak_row(part, slice, all)).collect()
}

fn weak_row(part: &PartResult, slice: &Figure, all: &Figure) -> WeakRow {
    let mut filters = vec![("part", part.name.as_str())];
    filters.extend(slice.slice.split_once('=').filter(|(name, _)| ["language", "queue"].contains(name)));
    WeakRow {
        part: part.name.clone(),
        slice: slice.slice.replacen('=', " ", 1),
        metric: slice.metric.clone(),
        value: number(&slice.metric, slice.value),
        interval: interval(&slice.metric, slice.low, slice.high),
        all: number(&all.metric, all.value),
        cases: slice.cases,
        link: link(&filters),
    }
}

/// What failed first.
fn gate_rows(gates: &[GateOutcome]) -> Vec<GateRow> {
    let mut rows: Vec<GateRow> = gates
        .iter()
        .map(|gate| GateRow {
            name: name(&gate.part, &gate.metric, &gate.slice),
            passed: gate.passed,
            reason: gate.reason.clone(),
        })
        .collect();
    rows.sort_by_key(|gate| gate.passed);
    rows
}

fn comparison_view(comparison: &Comparison) -> ComparisonView {
    let (told, others) = split(comparison);
    let said = |made: &Made| format!("{}, code {}", made.at, made.code);
    ComparisonView {
        before: said(&comparison.old),
        after: said(&comparison.new),
        caution: by_accident(told.len(), comparison.changes.len()),
        told: told.into_iter().map(change).collect(),
        others: others.into_iter().map(change).collect(),
        notes: comparison.notes.clone(),
    }
}

fn change(change: &Change) -> ChangeRow {
    let (metric, difference) = (&change.metric, change.new - change.old);
    let range = signed_interval(metric, change.low, change.high);
    let span = chart::span_of_differences([difference, change.low, change.high].into_iter());
    ChangeRow {
        name: name(&change.part, metric, &change.slice),
        old: number(metric, change.old),
        new: number(metric, change.new),
        svg: chart::interval(difference, change.low, change.high, span, &range),
        difference: signed(metric, difference),
        interval: range,
        verdict: verdict(change.verdict),
        cases: change.cases,
    }
}

fn name(part: &str, metric: &str, slice: &str) -> String {
    let slice = if slice == ALL { String::new() } else { format!(" ({})", slice_name(slice)) };
    format!("{part} {metric}{slice}")
}

fn part_view<'a>(part: &'a PartResult, shown: &Shown<'_>) -> PartView<'a> {
    let (mut languages, others) = slices(part);
    let mut folded = languages.split_off(languages.len().min(LANGUAGES));
    folded.extend(others);
    let columns: Vec<String> = std::iter::once(ALL.to_owned()).chain(languages).collect();
    let of = part.data.used;
    PartView {
        name: &part.name,
        kind: part.kind.name(),
        about: &part.about,
        skipped: part.skipped.as_deref(),
        extent: extent(part),
        path: &part.data.path,
        notes: &part.data.notes,
        memory: part.memory.as_ref().map(|memory| (memory.items, memory.separation.as_str())),
        rows: rows(part, &columns),
        columns: columns.iter().map(|slice| slice_name(slice).to_owned()).collect(),
        folded: metrics(part).into_iter().filter_map(|metric| folded_metric(part, metric, &folded)).collect(),
        beside: part.beside.iter().map(|one| (&*one.name, number(&one.name, one.value), &*one.about)).collect(),
        charts: part.charts.iter().map(chart::draw).collect(),
        failures: part
            .failures
            .iter()
            .map(|(failure, count)| MendPart {
                name: failure.clone(),
                ..mend_part(shown, failure, &part.name, *count, of.max(*count))
            })
            .collect(),
    }
}

fn rows(part: &PartResult, columns: &[String]) -> Vec<FigureRow> {
    let known = figures::of_kind(part.kind, 0.0);
    let about = |metric: &str| known.iter().find(|known| known.name == metric).map_or("", |known| known.about);
    let row = |metric: &str| {
        let all = figure(part, metric, ALL)?;
        let found: Vec<Option<&Figure>> = columns.iter().map(|slice| figure(part, metric, slice)).collect();
        let span = span(found.iter().flatten().copied());
        let cells = found.into_iter().map(|found| found.map(|found| cell(found, span))).collect();
        Some(FigureRow {
            metric: metric.to_owned(),
            about: about(metric),
            direction: direction(all.better),
            cells,
            cases: all.cases,
        })
    };
    metrics(part).into_iter().filter_map(row).collect()
}

fn folded_metric(part: &PartResult, metric: &str, slices: &[String]) -> Option<FoldedMetric> {
    let mut found: Vec<&Figure> = slices.iter().filter_map(|slice| figure(part, metric, slice)).collect();
    let better = found.first()?.better;
    match better {
        Better::Higher => found.sort_by(|one, other| one.value.total_cmp(&other.value)),
        Better::Lower => found.sort_by(|one, other| other.value.total_cmp(&one.value)),
        Better::Neither => {}
    }
    let span = span(found.iter().copied());
    let cells = found.into_iter().map(|found| cell(found, span)).collect();
    Some(FoldedMetric { metric: metric.to_owned(), direction: direction(better), cells })
}

/// The axis that the intervals of these figures share.
fn span<'a>(figures: impl Iterator<Item = &'a Figure>) -> (f64, f64) {
    chart::span(figures.flat_map(|figure| [figure.low, figure.value, figure.high]))
}

fn cell(figure: &Figure, span: (f64, f64)) -> Cell {
    let (metric, slice) = (&figure.metric, slice_name(&figure.slice));
    let (value, range) = (number(metric, figure.value), interval(metric, figure.low, figure.high));
    let about = format!("{metric}, {slice}: {value}, 95 % interval {range}, {} cases", figure.cases);
    Cell {
        name: slice.to_owned(),
        svg: chart::interval(figure.value, figure.low, figure.high, span, &about),
        value,
        interval: range,
        cases: figure.cases,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::report::made_up;

    #[test]
    fn weak_slices_are_those_surely_below_the_whole() {
        let rows = weak(&made_up::result());
        let told: Vec<(&str, &str, &str)> =
            rows.iter().map(|row| (row.part.as_str(), row.slice.as_str(), row.metric.as_str())).collect();
        assert_eq!(
            told,
            [("search", "queue billing", "mrr"), ("drafts", "language es", "right")],
            "one figure per slice, the widest gap"
        );
        assert_eq!(rows[0].link, "#cases?part=search&queue=billing");
    }

    #[test]
    fn links_carry_any_text() {
        assert_eq!(link(&[("failure", "a&b=c d \"é")]), "#cases?failure=a%26b%3Dc%20d%20%22%C3%A9");
    }

    #[test]
    fn kinds_of_failure_say_how_many_cases_are_shown() {
        let (result, cases) = (made_up::result(), made_up::cases());
        let page = page(&result, &cases, None, &[]);
        let first = &page.mends[0];
        assert_eq!((first.count, first.parts.len()), (76, 2));
        assert_eq!((first.parts[0].name.as_str(), first.parts[0].count, first.parts[0].shown), ("search", 61, 60));
    }
}
