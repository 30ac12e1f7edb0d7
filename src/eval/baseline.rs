//! Baselines: results that later ones are held against, small enough to stand in the repository and readable as a diff.
//!
//! A baseline keeps every figure, but of the cases only ids, slices and the columns that the gates of its suite need;
//! no text. Its table is written by column (`ids`, then one line for each slice and column).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::EvalError;
use super::compare::check_origin;
use super::figures::{self, Figure};
use super::files::write_whole;
use super::record::{DataNote, FORMAT, Made, MemoryNote, PartResult, RunResult};
use super::suite::{PartKind, Suite};
use super::table::{Row, Table};

/// Where baselines stand, one per suite.
pub const FOLDER: &str = "eval/baselines";

/// Six decimals, as in tables: more than a figure shows.
const SCALE: f64 = 1e6;

/// The baseline of a suite.
pub fn path(suite: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{suite}.json"))
}

/// The command that makes it.
pub fn command(suite: &str) -> String {
    format!("respondo eval run {suite} --save-baseline")
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    suite: String,
    suite_version: u32,
    about: String,
    made: Made,
    parts: Vec<StoredPart>,
}

#[derive(Serialize, Deserialize)]
struct StoredPart {
    name: String,
    kind: PartKind,
    about: String,
    data: DataNote,
    memory: Option<MemoryNote>,
    skipped: Option<String>,
    figures: Vec<Figure>,
    cases: StoredTable,
}

/// A table by column; `slices` has the positions of the rows of each slice.
#[derive(Default, Serialize, Deserialize)]
struct StoredTable {
    ids: Vec<String>,
    slices: BTreeMap<String, Vec<usize>>,
    columns: BTreeMap<String, Vec<Option<f64>>>,
}

/// Writes what later runs of the suite are to be compared with. The file appears whole or not at all.
///
/// # Errors
/// [`EvalError::Data`] when the result is of another suite, version or format; [`EvalError::Run`] when it cannot be
/// written.
pub fn save(path: &Path, suite: &Suite, result: &RunResult) -> Result<(), EvalError> {
    check_origin(suite, result, "the result")?;
    let stored = Stored {
        format: result.format,
        suite: result.suite.clone(),
        suite_version: result.suite_version,
        about: result.about.clone(),
        made: result.made.clone(),
        parts: result.parts.iter().map(|part| stored_part(suite, part)).collect(),
    };
    let value = serde_json::to_value(&stored).context("cannot write the baseline as JSON")?;
    let mut text = String::new();
    layout(&value, 0, &mut text);
    text.push('\n');
    Ok(write_whole(path, text.as_bytes())?)
}

/// Reads a baseline; None where there is none yet.
///
/// # Errors
/// [`EvalError::Data`] when the file is empty, half written, of another format or contradicts itself;
/// [`EvalError::Run`] when it cannot be read.
pub fn load(path: &Path) -> Result<Option<RunResult>, EvalError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == ErrorKind::InvalidData => return Err(EvalError::data(path, "is no text")),
        Err(error) => return Err(anyhow::Error::new(error).context(format!("cannot read {}", path.display())).into()),
    };
    let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let refuse = |reason: String| EvalError::data(path, format!("{reason}; make it with `{}`", command(&name)));
    if text.trim().is_empty() {
        return Err(refuse("is empty".to_owned()));
    }
    let value: Value = serde_json::from_str(&text).map_err(|error| match error.is_eof() {
        true => refuse("is half written (ends in the middle)".to_owned()),
        false => refuse(format!("is no valid JSON: {error}")),
    })?;
    match value.get("format").and_then(Value::as_u64) {
        Some(format) if format == u64::from(FORMAT) => {}
        Some(format) => return Err(refuse(format!("has format {format}, this program reads format {FORMAT}"))),
        None => return Err(refuse("is no baseline (it has no `format`)".to_owned())),
    }
    let stored: Stored = serde_json::from_value(value).map_err(|error| refuse(format!("is no baseline: {error}")))?;
    restored(stored).map(Some).map_err(refuse)
}

fn stored_part(suite: &Suite, part: &PartResult) -> StoredPart {
    let rounded = |value: f64| (value * SCALE).round() / SCALE;
    let figures = part.figures.iter().map(|figure| Figure {
        value: rounded(figure.value),
        low: rounded(figure.low),
        high: rounded(figure.high),
        ..figure.clone()
    });
    StoredPart {
        name: part.name.clone(),
        kind: part.kind,
        about: part.about.clone(),
        data: part.data.clone(),
        memory: part.memory.clone(),
        skipped: part.skipped.clone(),
        figures: figures.collect(),
        cases: stored_table(&part.table, &needed(suite, &part.name)),
    }
}

/// The columns that the gates on a part are computed from.
fn needed(suite: &Suite, name: &str) -> BTreeSet<String> {
    let metrics = suite.parts.iter().filter(|part| part.name == name).flat_map(figures::of);
    let gated = |metric: &str| suite.gates.iter().any(|gate| gate.part == name && gate.metric == metric);
    metrics.filter(|metric| gated(&metric.name)).flat_map(|metric| metric.columns()).collect()
}

fn stored_table(table: &Table, columns: &BTreeSet<String>) -> StoredTable {
    if columns.is_empty() {
        return StoredTable::default();
    }
    let mut slices: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, row) in table.rows.iter().enumerate() {
        for slice in &row.slices {
            slices.entry(slice.clone()).or_default().push(at);
        }
    }
    StoredTable {
        ids: table.rows.iter().map(|row| row.id.clone()).collect(),
        slices,
        columns: table.only(columns).columns,
    }
}

fn restored(stored: Stored) -> Result<RunResult, String> {
    let part = |part: StoredPart| {
        let table = restored_table(part.cases).map_err(|reason| format!("part `{}` {reason}", part.name))?;
        Ok(PartResult {
            name: part.name,
            kind: part.kind,
            about: part.about,
            data: part.data,
            memory: part.memory,
            skipped: part.skipped,
            figures: part.figures,
            charts: Vec::new(),
            beside: Vec::new(),
            failures: Vec::new(),
            cached: 0,
            seconds: 0.0,
            table,
        })
    };
    let parts: Result<Vec<PartResult>, String> = stored.parts.into_iter().map(part).collect();
    Ok(RunResult {
        format: stored.format,
        suite: stored.suite,
        suite_version: stored.suite_version,
        about: stored.about,
        made: stored.made,
        parts: parts?,
    })
}

fn restored_table(stored: StoredTable) -> Result<Table, String> {
    let count = stored.ids.len();
    if let Some((name, values)) = stored.columns.iter().find(|(_, values)| values.len() != count) {
        return Err(format!("has {count} cases, but {} values in the column `{name}`", values.len()));
    }
    let mut seen = BTreeSet::new();
    if let Some(id) = stored.ids.iter().find(|id| !seen.insert(id.as_str())) {
        return Err(format!("has the case `{id}` twice"));
    }
    let mut rows: Vec<Row> = stored.ids.into_iter().map(|id| Row { id, slices: Vec::new() }).collect();
    for (slice, positions) in stored.slices {
        for at in positions {
            let row = rows.get_mut(at).ok_or_else(|| format!("names case {at} of {count} in the slice `{slice}`"))?;
            row.slices.push(slice.clone());
        }
    }
    Ok(Table { rows, columns: stored.columns })
}

/// JSON with what holds no further object or list on one line: a figure, a column, the notes on where it comes from.
fn layout(value: &Value, depth: usize, out: &mut String) {
    let nested = |value: &Value| value.is_array() || value.is_object();
    let pad = "  ".repeat(depth + 1);
    match value {
        Value::Array(items) if items.iter().any(nested) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at == 0 { "\n" } else { ",\n" });
                out.push_str(&pad);
                layout(item, depth + 1, out);
            }
            out.push_str(&format!("\n{}]", "  ".repeat(depth)));
        }
        Value::Object(fields) if fields.values().any(nested) => {
            out.push('{');
            for (at, (name, field)) in fields.iter().enumerate() {
                out.push_str(if at == 0 { "\n" } else { ",\n" });
                out.push_str(&format!("{pad}{}: ", Value::from(name.as_str())));
                layout(field, depth + 1, out);
            }
            out.push_str(&format!("\n{}}}", "  ".repeat(depth)));
        }
        flat => out.push_str(&flat.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::compare::tests::{good, half_broken, result, suite};
    use super::super::{compare::Verdict, gate};
    use super::*;

    const GATES: &str = "\n[[gate]]\npart = \"search\"\nmetric = \"ndcg@10\"\nslice = \"language=es\"\n";

    fn saved() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep").join("small.json");
        save(&path, &suite(GATES), &result(good)).expect("saved");
        (folder, path)
    }

    #[test]
    fn a_baseline_keeps_figures_and_the_columns_of_gates() {
        let (_folder, path) = saved();
        let (read, run) = (load(&path).expect("valid").expect("there"), result(good));
        assert_eq!(read.made, run.made);
        assert_eq!(read.parts[0].table, run.parts[0].table.only(&BTreeSet::from(["ndcg@10".to_owned()])));
        assert_eq!(read.parts[0].figures.len(), run.parts[0].figures.len());
        assert!(read.parts[1].table.rows.is_empty(), "no gate, no cases");
        assert_eq!(read.parts[1].figures.len(), run.parts[1].figures.len());
    }

    #[test]
    fn a_run_against_its_own_baseline_is_no_change_and_a_broken_one_is_caught() {
        let (_folder, path) = saved();
        let baseline = load(&path).expect("valid").expect("there");
        let (comparison, outcomes) = gate::check(&suite(GATES), Some(&baseline), &result(good)).expect("checked");
        let comparison = comparison.expect("compared");
        assert!(comparison.notes.is_empty(), "{:?}", comparison.notes);
        assert!(comparison.changes.iter().all(|change| change.verdict == Verdict::Same && change.high == 0.0));
        assert!(outcomes[0].passed);
        let (_, outcomes) = gate::check(&suite(GATES), Some(&baseline), &result(half_broken)).expect("checked");
        assert!(!outcomes[0].passed);
    }

    #[test]
    fn the_file_is_made_for_diffs_and_written_whole() {
        let (_folder, path) = saved();
        let text = fs::read_to_string(&path).expect("readable");
        let columns: Vec<&str> = text.lines().filter(|line| line.trim_start().starts_with("\"ndcg@10\": [")).collect();
        assert_eq!(columns.len(), 1, "a column is a line");
        let is_figure = |line: &&str| line.contains("\"metric\":\"ndcg@10\"");
        assert_eq!(text.lines().filter(is_figure).count(), 3, "a figure is a line");
        assert!(text.len() < 8_000, "{} bytes", text.len());
        save(&path, &suite(GATES), &result(half_broken)).expect("replaced");
        let names = fs::read_dir(path.parent().expect("a folder")).expect("listed").count();
        assert_eq!(names, 1, "nothing half written is left");
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let (folder, path) = saved();
        let text = fs::read_to_string(&path).expect("readable");
        let refused = |text: &str| {
            fs::write(&path, text).expect("written");
            let error = load(&path).expect_err("refused");
            assert_eq!(error.exit_code(), 2);
            let error = error.to_string();
            assert!(error.contains("small.json") && error.contains(&command("small")), "{error}");
            error
        };
        assert!(refused("").contains("is empty"));
        assert!(refused(" \n").contains("is empty"));
        assert!(refused(&text[..text.len() / 2]).contains("half written"));
        assert!(refused("<html>").contains("no valid JSON"));
        assert!(refused("{}").contains("no `format`"));
        assert!(refused("{\"format\": 1}").contains("missing field"));
        assert!(refused(&text.replacen("\"format\": 1", "\"format\": 9", 1)).contains("format 9"));
        assert!(refused(&text.replacen("\"case 1\"", "\"case 2\"", 1)).contains("`case 2` twice"));
        assert!(refused(&text.replacen("\"case 1\",", "", 1)).contains("39 cases, but 40 values"));
        assert_eq!(load(&folder.path().join("none.json")).expect("no error"), None);
    }

    #[test]
    fn a_result_of_another_version_is_not_saved() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("small.json");
        let mut old = result(good);
        old.suite_version = 1;
        assert_eq!(save(&path, &suite(GATES), &old).expect_err("refused").exit_code(), 2);
        assert!(!path.exists());
    }
}
