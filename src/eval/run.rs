//! A run of a suite: loads the models, runs the parts, and leaves a folder with the result and the reports.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};

use super::compare::{Comparison, GateOutcome};
use super::kept::KeptVectors;
use super::parts::{self, Context, digest};
use super::record::{CaseRecord, FORMAT, Made, PartResult, RunResult};
use super::suite::{Format, Part, Replies, Suite};
use super::{EvalError, OWN_STORE, report};
use crate::app;
use crate::draft::prompt::Prompts;
use crate::inference::Inference;
use crate::models::default_cache_dir;
use crate::settings::{GenerationKind, Settings};

/// Name of the result in a run's folder.
pub const RESULT: &str = "result.json";
/// Folders of [`cache`].
pub const CASES: &str = "cases";
pub const VECTORS: &str = "vectors";
/// Cases of each part in the report, worst first.
const CASES_SHOWN: usize = 250;
/// How often a log (no terminal) says how far it is.
const SAID_EVERY: Duration = Duration::from_secs(20);

/// Where runs keep what the next one can use.
pub fn cache() -> PathBuf {
    default_cache_dir().join("eval")
}

/// How a suite is run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Folder of the run.
    pub out: PathBuf,
    /// Only these parts; empty for all.
    pub parts: Vec<String>,
    /// Takes no case from an earlier run.
    pub fresh: bool,
    /// The command, for the record.
    pub command: String,
}

/// Runs a suite and writes `result.json` and the records of the cases. Until it is whole, everything stands in a folder
/// beside; an interrupted run leaves the earlier one as it was, and goes on where it stopped when it is started again.
///
/// # Errors
/// When the suite or its data is wrong, or the models or the disk fail.
pub async fn run(settings: &Settings, suite: &Suite, options: &Options) -> Result<RunResult, EvalError> {
    let chosen = chosen(suite, &options.parts)?;
    let partial = partial_folder(&options.out);
    // Said before the work, not after it.
    check_ours(&options.out)?;
    clear(&partial)?;
    std::fs::create_dir_all(&partial).with_context(|| format!("cannot make the folder {}", partial.display()))?;
    let generates = chosen.iter().any(|part| part.replies == Replies::Generated);
    let inference = load(settings, generates).await?;
    let made = made(settings, &inference, generates, &options.command)?;
    let cases = cache().join(CASES);
    super::cases::prune(&cases);
    super::cases::prune(&cases.join(OWN_STORE));
    let vectors = match chosen.iter().any(|part| part.data.format == Format::Store) {
        true => cache().join(VECTORS).join(OWN_STORE),
        false => cache().join(VECTORS),
    };
    let progress = Progress::default();
    let context = Context {
        settings,
        suite,
        made: &made,
        inference: inference.clone(),
        vectors: KeptVectors::open(&vectors, inference.clone())?,
        kept: (!options.fresh).then_some(cases),
        out: &partial,
        progress: &|what, done, of| progress.tell(what, done, of),
    };
    let mut results = Vec::new();
    for part in chosen {
        results.push(parts::run(&context, part).await?);
    }
    progress.finish();
    let stopping = inference.clone();
    tokio::task::spawn_blocking(move || stopping.stop()).await.context("inference did not stop")?;
    let result = result(suite, made, results);
    write_json(&partial.join(RESULT), &result)?;
    put_in_place(&partial, &options.out)?;
    Ok(result)
}

fn result(suite: &Suite, made: Made, parts: Vec<PartResult>) -> RunResult {
    RunResult {
        format: FORMAT,
        suite: suite.name.clone(),
        suite_version: suite.version,
        about: suite.about.clone(),
        made,
        parts,
    }
}

fn chosen<'a>(suite: &'a Suite, names: &[String]) -> Result<Vec<&'a Part>, EvalError> {
    if let Some(unknown) = names.iter().find(|name| suite.parts.iter().all(|part| part.name != **name)) {
        let known: Vec<&str> = suite.parts.iter().map(|part| part.name.as_str()).collect();
        let reason = format!("has no part `{unknown}`; it has {}", known.join(", "));
        return Err(EvalError::Suite { suite: suite.name.clone(), reason });
    }
    Ok(suite.parts.iter().filter(|part| names.is_empty() || names.contains(&part.name)).collect())
}

async fn load(settings: &Settings, generates: bool) -> Result<Inference, EvalError> {
    if generates && settings.generation.kind == GenerationKind::None {
        let reason = "the suite judges generated replies, and generation.kind is \"none\"";
        return Err(EvalError::Run(anyhow::anyhow!(reason)));
    }
    let settings = settings.clone();
    let loaded = tokio::task::spawn_blocking(move || {
        let embedder = app::load_embedder(&settings)?;
        let generator = if generates { Some(app::load_generator(&settings)?) } else { None };
        anyhow::Ok(Inference::start(embedder, generator))
    });
    Ok(loaded.await.context("models could not be loaded")??)
}

fn made(settings: &Settings, inference: &Inference, generates: bool, command: &str) -> Result<Made, EvalError> {
    let prompts = Prompts::load(settings.draft.prompts()).context("prompts")?;
    let generation = &settings.generation;
    // Everything of the settings that bears on an answer, and no key.
    let mut bearing = vec![
        format!("{:?} {:?}", settings.retrieval, settings.policy),
        format!("{} {} {}", settings.draft.evidence_tokens, settings.draft.retrieved, settings.embedding.max_tokens),
        format!("{:?} {} {} {}", generation.kind, generation.context, generation.max_tokens, generation.model),
    ];
    if !generation.second_opinion {
        bearing.push("no second opinion".to_owned());
    }
    if !settings.draft.link_hosts.is_empty() {
        bearing.push(format!("{:?}", settings.draft.link_hosts));
    }
    Ok(Made {
        at: jiff::Timestamp::now().strftime("%FT%TZ").to_string(),
        command: command.to_owned(),
        machine: machine(),
        code: format!("{} {}", env!("CARGO_PKG_VERSION"), env!("RESPONDO_CODE")),
        embedder: inference.embedder_name().to_owned(),
        generator: inference.generator_name().filter(|_| generates).map(str::to_owned),
        prompts: prompts.digest().to_owned(),
        settings: digest(&bearing),
    })
}

/// Processor, cores and memory, where the system tells.
fn machine() -> String {
    let field = |file: &str, name: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let processor = field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kib: u64 = field("/proc/meminfo", "MemTotal")
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or_default();
    format!("{processor}, {cores} cores, {} GiB", kib.div_ceil(1 << 20))
}

/// Writes the reports into the run's folder.
///
/// # Errors
/// When the records cannot be read back or the disk is full.
pub fn write_reports(
    out: &Path,
    result: &RunResult,
    comparison: Option<&Comparison>,
    gates: &[GateOutcome],
) -> Result<(), EvalError> {
    let mut cases = Vec::new();
    for part in result.parts.iter().filter(|part| part.skipped.is_none()) {
        let records = records(&out.join("cases").join(format!("{}.jsonl", part.name)))?;
        cases.push((part.name.clone(), report::worst(records, CASES_SHOWN)));
    }
    report::write_all(out, result, &cases, comparison, gates)
}

/// The records of a file, one after the other.
///
/// # Errors
/// When there is no such file. A line that is no record ends the reading.
pub fn records(path: &Path) -> Result<impl Iterator<Item = CaseRecord> + use<>, EvalError> {
    let lines = std::io::BufRead::lines(super::data::reader(path)?);
    Ok(lines.map_while(|line| serde_json::from_str(&line.ok()?).ok()))
}

/// Reads the result of a run: a folder, or a file such as a baseline.
///
/// # Errors
/// When there is none, or it is half written.
pub fn read_result(path: &Path) -> Result<RunResult, EvalError> {
    if !path.is_dir() {
        let found = super::baseline::load(path)?;
        return found.ok_or_else(|| EvalError::data(path, "is not there; give the folder of a run or a baseline"));
    }
    let file = path.join(RESULT);
    let text = std::fs::read(&file)
        .map_err(|error| EvalError::data(&file, format!("{error}; a run that was interrupted has no result")))?;
    let result: RunResult = serde_json::from_slice(&text).map_err(|error| EvalError::data(&file, error))?;
    match result.format == FORMAT {
        true => Ok(result),
        false => Err(EvalError::data(&file, format!("has format {}, this program reads {FORMAT}", result.format))),
    }
}

fn write_json(path: &Path, result: &RunResult) -> Result<(), EvalError> {
    let text = serde_json::to_vec(result).context("result")?;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

fn partial_folder(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    out.with_file_name(name)
}

/// A folder that holds anything but a run is left alone.
fn check_ours(folder: &Path) -> Result<(), EvalError> {
    if !folder.exists() {
        return Ok(());
    }
    let ours = ["cases", RESULT, "report.html", "report.md", "junit.xml"];
    let entries = std::fs::read_dir(folder).with_context(|| format!("{} is no folder", folder.display()))?;
    for entry in entries.flatten() {
        if !ours.iter().any(|name| entry.file_name() == *name) {
            let reason = format!("{} holds other files than a run's; choose another --out", folder.display());
            return Err(EvalError::Run(anyhow::anyhow!(reason)));
        }
    }
    Ok(())
}

fn clear(folder: &Path) -> Result<(), EvalError> {
    if !folder.exists() {
        return Ok(());
    }
    check_ours(folder)?;
    std::fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    Ok(())
}

fn put_in_place(partial: &Path, out: &Path) -> Result<(), EvalError> {
    clear(out)?;
    std::fs::rename(partial, out).with_context(|| format!("cannot write {}", out.display()))?;
    Ok(())
}

/// A bar in a terminal, a line now and then in a log.
#[derive(Default)]
struct Progress {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    what: String,
    bar: Option<ProgressBar>,
    started: Option<Instant>,
    first: usize,
    said: Option<Instant>,
}

impl Progress {
    fn tell(&self, what: &str, done: usize, of: usize) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.what != what {
            if let Some(bar) = state.bar.take() {
                bar.finish_and_clear();
            }
            *state = State { what: what.to_owned(), started: Some(Instant::now()), first: done, ..State::default() };
            if std::io::stderr().is_terminal() {
                let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {eta} left");
                let bar = ProgressBar::new(of as u64).with_message(what.to_owned());
                state.bar = Some(style.map(|style| bar.clone().with_style(style)).unwrap_or(bar));
            }
        }
        match &state.bar {
            Some(bar) => bar.set_position(done as u64),
            None if state.said.is_none_or(|said| said.elapsed() > SAID_EVERY) || done == of => {
                eprintln!("{what}: {done} of {of}{}", left(&state, done, of));
                state.said = Some(Instant::now());
            }
            None => {}
        }
    }

    fn finish(&self) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(bar) = state.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn left(state: &State, done: usize, of: usize) -> String {
    let new = done.saturating_sub(state.first);
    match state.started {
        Some(started) if new > 0 && done < of => {
            let each = started.elapsed().as_secs_f64() / new as f64;
            format!(", about {:.0} s left", each * (of - done) as f64)
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_other_files_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("out");
        clear(&out).expect("nothing there");
        std::fs::create_dir_all(out.join("cases")).expect("made");
        std::fs::write(out.join(RESULT), "{}").expect("written");
        clear(&out).expect("a run's");
        assert!(!out.exists());
        std::fs::create_dir(&out).expect("made");
        std::fs::write(out.join("letters.txt"), "dear").expect("written");
        assert!(clear(&out).expect_err("not ours").to_string().contains("--out"));
        assert!(out.join("letters.txt").exists());
        assert_eq!(partial_folder(&out).file_name().and_then(|name| name.to_str()), Some("out.part"));
    }

    #[test]
    fn a_result_that_is_missing_or_cut_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(read_result(folder.path()).expect_err("none").to_string().contains("interrupted"));
        std::fs::write(folder.path().join(RESULT), "{\"format\": 1, \"sui").expect("written");
        assert_eq!(read_result(folder.path()).expect_err("cut").exit_code(), 2);
    }
}
