//! The expected time against the time it took: the older tickets are the memory, the newer ones are asked.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;

use super::{Context, Key, Runner, digest};
use crate::embed::Role;
use crate::eval::EvalError;
use crate::eval::data::store::{self, Split};
use crate::eval::data::{Identified, drawn, gold};
use crate::eval::desk::{Desk, imported};
use crate::eval::record::{CaseRecord, Chart, DataNote, MemoryNote, ShownEvidence};
use crate::eval::suite::{Format, Part};
use crate::eval::table::Table;
use crate::store::DATABASE_FILE;
use crate::ticket::{ExpectedTime, MemoryItem, MemoryKind, Request, Retrieved};
use crate::triage::Meaning;

/// Shorter times count as this: it is six minutes, and the logarithm has no end below.
const SHORTEST_HOURS: f64 = 0.1;
/// Off by more than this factor is a failure.
const FAR: f64 = 10.0;
/// Found tickets shown with a case, and characters of each.
const SHOWN: usize = 8;
const SHOWN_CHARACTERS: usize = 400;
/// Bands of the expected median in the chart: below so many hours.
const BANDS: [(f64, &str); 5] = [
    (4.0, "under 4 hours"),
    (24.0, "4 to 24 hours"),
    (72.0, "1 to 3 days"),
    (168.0, "3 to 7 days"),
    (f64::INFINITY, "over a week"),
];

pub struct Time {
    desk: Desk,
    cases: Vec<Case>,
    /// Of the cases, in order.
    vectors: Vec<Vec<f32>>,
    data: DataNote,
}

/// A newer ticket.
struct Case {
    item: MemoryItem,
    request: Request,
    /// What it really took.
    hours: f64,
}

impl Identified for Case {
    fn id(&self) -> &str {
        &self.item.id
    }
    fn language(&self) -> &str {
        self.item.language.code()
    }
}

/// Reads the tickets, splits them by time, sets up the desk over the older ones and embeds the newer ones.
///
/// # Errors
/// When the tickets are missing or too few have a date and a time of solution, or the models fail.
pub async fn prepare(context: &Context<'_>, part: &Part) -> Result<Time, EvalError> {
    if !part.memory.is_empty() {
        return Err(EvalError::Suite {
            suite: context.suite.name.clone(),
            reason: format!("part `{}` learns from its own older tickets; leave `memory` out", part.name),
        });
    }
    let Split { past, later, cut, mut notes } = split(context, part).await?;
    let newer = later.len();
    let cases: Vec<Case> = later.into_iter().filter_map(case).collect();
    if cases.is_empty() {
        let path = source(context, part);
        return Err(EvalError::data(path, format!("none of the {newer} tickets since {cut} has a time of solution")));
    }
    if cases.len() < newer {
        let left_out = newer - cases.len();
        notes.push(format!("{left_out} newer tickets without a time of solution or without words are left out"));
    }
    let (cases, mut data) = drawn(context.suite, part, cases);
    let texts: Vec<String> = cases.iter().map(|case| case.request.text()).collect();
    let named: Vec<(String, String)> =
        cases.iter().zip(&texts).map(|(case, text)| (case.item.id.clone(), text.clone())).collect();
    data.notes = notes;
    data.corpus = Some(digest(&past.iter().map(|item| item.id.as_str()).collect::<Vec<_>>()));
    data.cases = digest(&named.iter().flat_map(|(id, text)| [id.as_str(), text]).collect::<Vec<_>>());
    if part.data.format == Format::Store {
        data.path = "the team's store".to_owned();
    }
    let desk = Desk::open(context, part, past, &named).await?;
    let label = format!("{}: requests", part.name);
    let vectors = context.vectors.of(&texts, Role::Query, |done| (context.progress)(&label, done, texts.len())).await?;
    Ok(Time { desk, cases, vectors, data })
}

async fn split(context: &Context<'_>, part: &Part) -> Result<Split, EvalError> {
    if part.data.format == Format::Store {
        return store::split(context).await;
    }
    let path = source(context, part);
    store::by_time(imported(&path, MemoryKind::Ticket)?, &path)
}

fn source(context: &Context<'_>, part: &Part) -> PathBuf {
    match part.data.format {
        Format::Store => context.settings.data.folder.join(DATABASE_FILE),
        _ => context.suite.path(&part.data.path),
    }
}

/// None for a ticket whose time is unknown or whose text intake would refuse.
fn case(item: MemoryItem) -> Option<Case> {
    let hours = f64::from(item.resolved_hours.filter(|hours| hours.is_finite() && *hours >= 0.0)?);
    let request = gold::request(&gold::from_item(&item)).ok()?;
    Some(Case { item, request, hours })
}

impl Runner for Time {
    fn data(&self) -> DataNote {
        self.data.clone()
    }

    fn memory(&self) -> Option<MemoryNote> {
        Some(self.desk.note.clone())
    }

    fn cases(&self) -> Vec<Key> {
        let key = |case: &Case| {
            let queue = case.request.queue.as_deref().unwrap_or_default();
            let product = case.request.product.as_deref().unwrap_or_default();
            let hours = case.hours.to_string();
            let text = case.request.text();
            let parts =
                [case.item.id.as_str(), text.as_str(), case.item.language.code(), queue, product, hours.as_str()];
            Key { id: case.item.id.clone(), digest: digest(&parts) }
        };
        self.cases.iter().map(key).collect()
    }

    fn scope(&self) -> String {
        String::new()
    }

    async fn run(&mut self, at: usize) -> Result<CaseRecord, EvalError> {
        let case = self.cases.get(at).context("no such case")?;
        let vector = self.vectors.get(at).context("no such case")?;
        let pipeline = &self.desk.pipeline;
        // As `Pipeline::judge`, with the kept vector.
        let found = pipeline.find(&case.request, Some(vector), pipeline.settings.draft.retrieved).await?;
        let meaning = Meaning { vector: Some(vector), ..Meaning::default() };
        let triage = pipeline.triage.judge(&case.request, meaning, &found, pipeline.usual_time);
        Ok(record(case, triage.expected_time, pipeline.usual_time, &found))
    }

    fn charts(&self, table: &Table) -> Vec<Chart> {
        vec![coverage_by_band(table)]
    }
}

fn record(case: &Case, expected: Option<ExpectedTime>, usual: Option<ExpectedTime>, found: &[Retrieved]) -> CaseRecord {
    let mut values = BTreeMap::from([("truth-hours".to_owned(), case.hours)]);
    values.insert("expected".to_owned(), f64::from(u8::from(expected.is_some_and(|time| time.samples > 0))));
    if let Some(time) = expected {
        values.insert("pinball".to_owned(), pinball(&time, case.hours));
        values.insert("covered-90".to_owned(), f64::from(u8::from(case.hours <= f64::from(time.p90_hours))));
        values.insert("median-hours".to_owned(), f64::from(time.median_hours));
        values.insert("p90-hours".to_owned(), f64::from(time.p90_hours));
    }
    if let Some(time) = usual {
        values.insert("pinball-global".to_owned(), pinball(&time, case.hours));
    }
    let (failure, badness) = failure(expected, case.hours);
    CaseRecord {
        id: case.item.id.clone(),
        language: case.item.language.code().to_owned(),
        queue: case.item.queue.clone(),
        slices: case.item.product.iter().map(|product| format!("product={product}")).collect(),
        message: case.request.text(),
        values,
        failures: failure.map(str::to_owned).into_iter().collect(),
        badness,
        evidence: found.iter().take(SHOWN).map(shown).collect(),
        reference: Some(format!("solved after {:.1} hours", case.hours)),
        notes: vec![("expected time".to_owned(), in_words(expected))],
        ..CaseRecord::default()
    }
}

/// Natural logarithm of hours: a miss by a factor counts the same for minutes and for weeks.
fn log_hours(hours: f64) -> f64 {
    hours.max(SHORTEST_HOURS).ln()
}

/// Mean pinball loss of median and 90 % value in log hours (Koenker and Bassett 1978): for the quantile `q`, a truth above
/// costs `q` times the distance, one below `1 - q` times.
fn pinball(time: &ExpectedTime, hours: f64) -> f64 {
    let loss = |quantile: f64, said: f32| {
        let distance = log_hours(hours) - log_hours(f64::from(said));
        (quantile * distance).max((quantile - 1.0) * distance)
    };
    (loss(0.5, time.median_hours) + loss(0.9, time.p90_hours)) / 2.0
}

/// What went wrong, and how bad it is: whoever waits longer than expected is worse off than who is served early.
fn failure(expected: Option<ExpectedTime>, hours: f64) -> (Option<&'static str>, f64) {
    let Some(time) = expected else { return (Some("no expected time"), 1.0) };
    let late = log_hours(hours) - log_hours(f64::from(time.median_hours));
    let far = FAR.ln();
    if late > far {
        (Some("took more than ten times the expected median"), late)
    } else if late < -far {
        (Some("took less than a tenth of the expected median"), -late / 3.0)
    } else {
        (None, late.max(0.0) / far)
    }
}

fn in_words(expected: Option<ExpectedTime>) -> String {
    let Some(time) = expected else { return "none: the memory has no times".to_owned() };
    let from = match time.samples {
        0 => "the whole memory, for want of similar tickets".to_owned(),
        samples => format!("{samples} similar tickets"),
    };
    format!("median {:.1} hours, 90 % within {:.1} hours; from {from}", time.median_hours, time.p90_hours)
}

fn shown(found: &Retrieved) -> ShownEvidence {
    let took =
        found.item.resolved_hours.map_or("time unknown".to_owned(), |hours| format!("solved after {hours:.1} hours"));
    let problem: String = found.item.problem.chars().take(SHOWN_CHARACTERS).collect();
    ShownEvidence {
        id: found.item.id.clone(),
        title: found.item.title.clone(),
        text: format!("{took}\n{problem}"),
        similarity: f64::from(found.similarity),
        relevant: None,
    }
}

/// Share of cases solved within the 90 % value, by the expected median. Bands without a case are left out.
fn coverage_by_band(table: &Table) -> Chart {
    let none: &[Option<f64>] = &[];
    let columns = ["median-hours", "covered-90"].map(|name| table.column(name).unwrap_or(none));
    let mut bands = [(0.0, 0_usize); BANDS.len()];
    for (median, covered) in columns[0].iter().zip(columns[1]).filter_map(|(median, covered)| median.zip(*covered)) {
        let band = BANDS.iter().position(|(bound, _)| median < *bound).and_then(|band| bands.get_mut(band));
        band.into_iter().for_each(|(sum, count)| {
            *sum += covered;
            *count += 1;
        });
    }
    let filled = BANDS.iter().zip(bands).filter(|(_, (_, count))| *count > 0);
    Chart::Bars {
        title: "Solved within the 90 % value, by expected median (0.9 is right)".to_owned(),
        unit: "share".to_owned(),
        bars: filled.map(|((_, name), (sum, count))| (format!("{name} ({count})"), sum / count as f64)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::data::store::tests::ticket;
    use crate::eval::parts::testing::Bench;
    use crate::store::{Store, content_hash};

    const EXPECTED: ExpectedTime = ExpectedTime { median_hours: 10.0, p90_hours: 100.0, samples: 7 };

    fn case_of(hours: f64) -> Case {
        let item = ticket(1, hours as f32);
        case(item).map(|case| Case { hours, ..case }).expect("a case")
    }

    #[test]
    fn the_loss_is_zero_at_the_quantiles_and_charges_lateness_more() {
        let same = ExpectedTime { p90_hours: 10.0, ..EXPECTED };
        assert!(pinball(&same, 10.0).abs() < 1e-9);
        let e = std::f64::consts::E;
        // One unit of log hours above: (0.5 + 0.9) / 2; below: (0.5 + 0.1) / 2.
        assert!((pinball(&same, 10.0 * e) - 0.7).abs() < 1e-6);
        assert!((pinball(&same, 10.0 / e) - 0.3).abs() < 1e-6);
        // Under six minutes nothing gets shorter.
        assert_eq!(pinball(&same, 0.0), pinball(&same, 0.1));
    }

    #[test]
    fn a_case_says_how_it_failed() {
        let values = |hours| record(&case_of(hours), Some(EXPECTED), Some(EXPECTED), &[]);
        let late = values(101.0);
        assert_eq!(late.failures, ["took more than ten times the expected median"]);
        assert_eq!((late.values["covered-90"], late.values["expected"]), (0.0, 1.0));
        assert_eq!(values(100.0).values["covered-90"], 1.0);
        assert!(values(100.0).failures.is_empty());
        let early = values(0.9);
        assert_eq!(early.failures, ["took less than a tenth of the expected median"]);
        assert!(late.badness > early.badness);
        let global = ExpectedTime { samples: 0, ..EXPECTED };
        assert_eq!(record(&case_of(5.0), Some(global), Some(global), &[]).values["expected"], 0.0);
        let none = record(&case_of(5.0), None, None, &[]);
        assert_eq!((none.failures.len(), none.values.contains_key("pinball")), (1, false));
    }

    #[test]
    fn coverage_is_counted_per_band() {
        let mut table = Table::default();
        for (median, hours) in [(1.0, 5.0), (1.0, 50.0), (200.0, 5.0)] {
            let time = ExpectedTime { median_hours: median, p90_hours: median * 10.0, samples: 5 };
            let record = record(&case_of(hours), Some(time), None, &[]);
            table.push(record.row(), &record.values);
        }
        let Chart::Bars { bars, .. } = coverage_by_band(&table) else { panic!("bars") };
        assert_eq!(bars, [("under 4 hours (2)".to_owned(), 0.5), ("over a week (1)".to_owned(), 1.0)]);
        let Chart::Bars { bars, .. } = coverage_by_band(&Table::default()) else { panic!("bars") };
        assert!(bars.is_empty());
    }

    /// Every other ticket is about mail (an hour) or about a printer (a hundred hours).
    fn telling(day: i64) -> MemoryItem {
        let (about, hours) =
            if day % 2 == 0 { ("my mail messages missing", 1.0) } else { ("printer paper problem", 100.0) };
        let problem = format!("{about} {}", ["again", "today", "since yesterday"][(day % 3) as usize]);
        MemoryItem { title: about.to_owned(), problem: format!("{problem} number {day}"), ..ticket(day, hours) }
    }

    #[tokio::test]
    async fn newer_tickets_of_the_store_are_judged_by_older_ones() {
        let bench = Bench::new("kind = \"time\"\ndata = { format = \"store\" }");
        let store = Store::open(&bench.settings.data.folder).await.expect("store");
        let items: Vec<MemoryItem> = (0..100).map(telling).collect();
        let hashes: Vec<String> = items.iter().map(|item| content_hash(item).expect("hash")).collect();
        store.put_items(&items, &hashes).await.expect("stored");
        let mut time = prepare(&bench.context(), bench.part()).await.expect("prepared");
        let cut = time.cases.iter().filter_map(|case| case.item.created_at).min().expect("cases");
        assert!(time.desk.items.iter().all(|item| item.created_at.is_some_and(|created| created < cut)));
        assert_eq!((time.cases().len(), time.memory().map(|memory| memory.items)), (30, Some(68)));
        for at in 0..time.cases.len() {
            let record = time.run(at).await.expect("judged");
            assert_eq!(record.values["expected"], 1.0, "{record:?}");
            assert!(record.values["pinball"] < record.values["pinball-global"], "{record:?}");
        }
    }

    #[tokio::test]
    async fn a_memory_beside_is_refused() {
        let part = "kind = \"time\"\ndata = { format = \"tickets\", path = \"t.jsonl\" }\n\
                    memory = [{ as = \"articles\", path = \"a.jsonl\" }]";
        let bench = Bench::new(part);
        let error = prepare(&bench.context(), bench.part()).await.err().expect("refused");
        assert!(error.to_string().contains("own older tickets") && error.exit_code() == 2, "{error}");
    }
}
