//! What a part does: prepares its cases, runs those that are not kept from an earlier run, and sums up.

pub mod drafts;
pub mod live;
pub mod retrieval;
pub mod safety;
pub mod stability;
#[cfg(test)]
pub mod testing;
pub mod time;
pub mod triage;

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::OWN_STORE;
use super::cases::KeptCases;
use super::kept::{KeptVectors, hex};
use super::record::{Beside, CaseRecord, Chart, DataNote, Made, MemoryNote, PartResult};
use super::suite::{Format, Part, PartKind, Suite, WhenMissing};
use super::table::Table;
use super::{EvalError, figures};
use crate::inference::Inference;
use crate::settings::Settings;
use crate::store::DATABASE_FILE;

/// What all parts of a run work with.
pub struct Context<'a> {
    pub settings: &'a Settings,
    pub suite: &'a Suite,
    pub made: &'a Made,
    pub inference: Inference,
    pub vectors: KeptVectors,
    /// Folder of kept records; None runs every case anew.
    pub kept: Option<PathBuf>,
    /// Where `cases/PART.jsonl` is written.
    pub out: &'a Path,
    /// Hears what is being done: part, done, of how many.
    pub progress: &'a dyn Fn(&str, usize, usize),
}

/// Who a case is, before it is run.
#[derive(Clone, Debug)]
pub struct Key {
    /// Unique in the part.
    pub id: String,
    /// [`digest`] of everything of this case that bears on its record.
    pub digest: String,
}

/// A part that is ready to run.
pub trait Runner {
    fn data(&self) -> DataNote;
    fn memory(&self) -> Option<MemoryNote>;
    /// In the order in which they are run and written.
    fn cases(&self) -> Vec<Key>;
    /// What all cases share beside code, models, prompts and settings: the part's own parameters.
    fn scope(&self) -> String;
    /// Runs one case.
    fn run(&mut self, at: usize) -> impl Future<Output = Result<CaseRecord, EvalError>>;
    fn charts(&self, _table: &Table) -> Vec<Chart> {
        Vec::new()
    }
    fn beside(&self, _table: &Table) -> Vec<Beside> {
        Vec::new()
    }
}

/// Runs one part of the suite.
///
/// # Errors
/// When its data is missing or wrong, or the models or the disk fail. Missing data of a part that may be missing is no
/// error: the result says that it was skipped.
pub async fn run(context: &Context<'_>, part: &Part) -> Result<PartResult, EvalError> {
    if let Some(missing) = missing(context, part) {
        if part.when_missing == WhenMissing::Skip {
            return Ok(skipped(part, format!("{} is not there", missing.display())));
        }
        return Err(EvalError::data(&missing, "is not there; check the suite's path, or set when_missing = \"skip\""));
    }
    match part.kind {
        PartKind::Retrieval => drive(context, part, retrieval::prepare(context, part).await?).await,
        PartKind::Triage => drive(context, part, triage::prepare(context, part).await?).await,
        PartKind::Time => drive(context, part, time::prepare(context, part).await?).await,
        PartKind::Drafts => drive(context, part, drafts::prepare(context, part).await?).await,
        PartKind::Safety => safety::run(context, part).await,
        PartKind::Stability => drive(context, part, stability::prepare(context, part).await?).await,
        PartKind::Live => drive(context, part, live::prepare(context, part).await?).await,
    }
}

fn missing(context: &Context<'_>, part: &Part) -> Option<PathBuf> {
    // Without a store and without `skip`, opening it says what to do.
    if part.data.format == Format::Store && part.when_missing == WhenMissing::Skip {
        let database = context.settings.data.folder.join(DATABASE_FILE);
        return (!database.is_file()).then_some(database);
    }
    let paths = std::iter::once(&part.data.path).chain(part.memory.iter().map(|memory| &memory.path));
    paths.filter(|path| !path.as_os_str().is_empty()).map(|path| context.suite.path(path)).find(|path| !path.exists())
}

fn skipped(part: &Part, reason: String) -> PartResult {
    PartResult {
        name: part.name.clone(),
        kind: part.kind,
        about: part.about.clone(),
        data: DataNote::default(),
        memory: None,
        skipped: Some(reason),
        figures: Vec::new(),
        charts: Vec::new(),
        beside: Vec::new(),
        failures: Vec::new(),
        cached: 0,
        seconds: 0.0,
        table: Table::default(),
    }
}

/// Runs the cases one after the other. Each record is kept and written as soon as it is there; only its numbers stay in
/// memory.
async fn drive(context: &Context<'_>, part: &Part, mut runner: impl Runner) -> Result<PartResult, EvalError> {
    let started = Instant::now();
    let cases = runner.cases();
    if cases.is_empty() {
        return Err(EvalError::data(context.suite.path(&part.data.path), "holds no case for this part"));
    }
    let mut kept = match &context.kept {
        Some(folder) if part.data.format == Format::Store => {
            Some(KeptCases::open(&folder.join(OWN_STORE), &scope(context, part, &runner))?)
        }
        Some(folder) => Some(KeptCases::open(folder, &scope(context, part, &runner))?),
        None => None,
    };
    let mut records = Records::create(context.out, &part.name)?;
    let (mut table, mut failures, mut cached) = (Table::default(), BTreeMap::<String, usize>::new(), 0);
    for (at, case) in cases.iter().enumerate() {
        let known = kept.as_ref().and_then(|kept| kept.get(&case.digest));
        cached += usize::from(known.is_some());
        let record = match known {
            Some(record) => record,
            None => {
                let record = runner.run(at).await?;
                if let Some(kept) = &mut kept {
                    kept.put(&case.digest, &record)?;
                }
                record
            }
        };
        table.push(record.row(), &record.values);
        record.failures.iter().for_each(|failure| *failures.entry(failure.clone()).or_default() += 1);
        records.write(&record)?;
        (context.progress)(&part.name, at + 1, cases.len());
    }
    records.finish()?;
    let mut failures: Vec<(String, usize)> = failures.into_iter().collect();
    failures.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(PartResult {
        name: part.name.clone(),
        kind: part.kind,
        about: part.about.clone(),
        data: runner.data(),
        memory: runner.memory(),
        skipped: None,
        figures: figures::compute(&figures::of(part), &table),
        charts: runner.charts(&table),
        beside: runner.beside(&table),
        failures,
        cached,
        seconds: started.elapsed().as_secs_f64(),
        table,
    })
}

fn scope(context: &Context<'_>, part: &Part, runner: &impl Runner) -> String {
    let made = context.made;
    let memory = runner.memory().map(|memory| memory.digest).unwrap_or_default();
    let generator = made.generator.as_deref().unwrap_or_default();
    let shared = [&made.code, &made.embedder, generator, &made.prompts, &made.settings, &memory, &runner.scope()];
    format!("{}-{}", part.kind.name(), digest(&shared))
}

/// The records of a part, written beside their final place until they are whole.
struct Records {
    writer: BufWriter<File>,
    partial: PathBuf,
    whole: PathBuf,
}

impl Records {
    fn create(out: &Path, part: &str) -> Result<Self, EvalError> {
        let folder = out.join("cases");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let (partial, whole) = (folder.join(format!("{part}.jsonl.part")), folder.join(format!("{part}.jsonl")));
        let file = File::create(&partial).with_context(|| format!("cannot write {}", partial.display()))?;
        Ok(Self { writer: BufWriter::new(file), partial, whole })
    }

    fn write(&mut self, record: &CaseRecord) -> Result<(), EvalError> {
        let write = || -> anyhow::Result<()> {
            serde_json::to_writer(&mut self.writer, record)?;
            Ok(self.writer.write_all(b"\n")?)
        };
        let mut write = write;
        write().with_context(|| format!("cannot write {}", self.partial.display()))?;
        Ok(())
    }

    fn finish(mut self) -> Result<(), EvalError> {
        let done = self.writer.flush().and_then(|()| std::fs::rename(&self.partial, &self.whole));
        done.with_context(|| format!("cannot write {}", self.whole.display()))?;
        Ok(())
    }
}

/// SHA-256 over parts of text, each with its length; 24 hexadecimal digits.
pub fn digest<S: AsRef<str>>(parts: &[S]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.as_ref().len() as u64).to_le_bytes());
        hasher.update(part.as_ref());
    }
    hex(&hasher.finalize(), 12)
}

/// [`digest`] of anything that can be written as JSON.
pub fn digest_of(value: &impl Serialize) -> String {
    digest(&[serde_json::to_string(value).unwrap_or_default()])
}
