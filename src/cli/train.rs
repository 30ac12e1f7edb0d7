//! `respondo train`: small models of our own, learnt anew or moved towards what a team says.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};

use crate::app::{load_embedder, load_local_generator, open_store_shared};
use crate::embed::{Embedder, Role};
use crate::inference::generator::GenerateError;
use crate::learn::judged::{JudgedRequest, requests};
use crate::settings::Settings;
use crate::ticket::{Class, Difficulty, NextStep, Urgency};
use crate::triage::TriageModel;
use crate::triage::adapt::{Gain, LEAST_LABELS, Present, Verdict, adapt};
use crate::triage::data::Task;
use crate::triage::heads::{Own, TriageError};
use crate::triage::measure::{BRIER, Change, KAPPA, figures};
use crate::triage::opinion::consider_prepared;
use crate::triage::own::{self, Undone};
use crate::triage::prepare::{Prepared, prepare, read_all};

#[derive(Debug, Subcommand)]
pub enum TrainCommand {
    /// Move the judgement of urgency and difficulty towards what people at the desk decided; the next start uses it.
    Desk(DeskArgs),
    /// Train the heads for urgency, difficulty and next step.
    Triage(crate::triage::command::TrainTriageArgs),
    /// Train the weights that judge whether evidence fits a request.
    Relevance(crate::decide::relevance::command::TrainRelevanceArgs),
    /// Train what tells which of what was found, and which of its sentences, serve a reply.
    Rerank(crate::retrieve::rerank::command::TrainRerankArgs),
}

#[derive(Debug, Args)]
pub struct DeskArgs {
    /// Only say what would be learnt
    #[arg(long)]
    dry_run: bool,
    /// Take back what was learnt last
    #[arg(long, conflicts_with = "dry_run")]
    undo: bool,
    /// Decides the folds and the resamples
    #[arg(long, default_value_t = 20_261_122)]
    seed: u64,
}

pub async fn run(settings: Settings, command: TrainCommand) -> Result<()> {
    match command {
        TrainCommand::Triage(args) => tokio::task::spawn_blocking(move || crate::triage::command::run(args)).await?,
        TrainCommand::Relevance(args) => crate::decide::relevance::command::run(&args),
        TrainCommand::Rerank(args) => {
            tokio::task::spawn_blocking(move || crate::retrieve::rerank::command::run(&args)).await?
        }
        TrainCommand::Desk(DeskArgs { undo: true, .. }) => {
            println!("{}", undone(&settings.data.folder)?);
            Ok(())
        }
        TrainCommand::Desk(args) => {
            let store = open_store_shared(&settings).await?;
            let rows = requests(&store).await?;
            println!("{}", tokio::task::spawn_blocking(move || learn(&settings, &rows, &args)).await??);
            Ok(())
        }
    }
}

fn undone(data: &Path) -> Result<&'static str> {
    Ok(match own::undo(data)? {
        Undone::Previous => "the heads before the last ones count again, from the next start on",
        Undone::BuiltIn => "the heads that come with the program count again, from the next start on",
        Undone::Nothing => "nothing to take back: this desk has no heads of its own",
    })
}

/// Learns from the desk's rows; what came of it, in words.
fn learn(settings: &Settings, rows: &[JudgedRequest], args: &DeskArgs) -> Result<String> {
    let Some(until) = rows.iter().map(|one| one.at).max() else {
        bail!("nobody has decided about a ticket at this desk yet: there is nothing to learn from");
    };
    let base = TriageModel::embedded()?;
    let mut embedder = load_embedder(settings)?;
    let (trained, running) = (base.embedder(), embedder.name());
    ensure!(
        trained == running,
        "the heads were made for the embedding model {trained}, and {running} is configured: they judge the text alone \
         there, and cannot be moved"
    );
    let mut prepared = read(embedder.as_mut(), base.reader(), rows)?;
    drop(embedder);
    consider(settings, &base, &mut prepared)?;
    let there = own::present(&settings.data.folder).unwrap_or_else(|error| {
        eprintln!("note: the desk's own heads cannot be read and take no part: {error}");
        None
    });
    let is_new: Vec<bool> = match there.as_ref().and_then(|heads| heads.header.own.as_ref()) {
        Some(own) => rows.iter().map(|one| one.at > own.until).collect(),
        None => vec![true; rows.len()],
    };
    let present = there.as_ref().map(|heads| Present { heads, is_new: &is_new });
    let mut progress = |line: &str| eprintln!("{line}");
    let (mut heads, gains) = adapt(base.heads(), &prepared, present.as_ref(), args.seed, &mut progress);
    let mut said = told(rows, &gains);
    let is_moved = gains.iter().any(|gain| gain.verdict == Verdict::Taken);
    if is_moved && !args.dry_run {
        heads.header.own = Some(Own { base: TriageModel::embedded_digest().to_owned(), until });
        heads.header.trained_on = jiff::Zoned::now().date().to_string();
        heads.header.seed = args.seed;
        heads.header.rows.insert("desk".to_owned(), rows.len());
        let path = own::save(&settings.data.folder, &heads)?;
        let _ = write!(
            said,
            "\n{}: written, used from the next start on; `respondo train desk --undo` takes it back",
            path.display()
        );
    } else {
        said.push_str(if is_moved { "\nnothing is written: this was a dry run" } else { "\nnothing is replaced" });
    }
    Ok(said)
}

/// The rows with their vectors, and what the reader says of them where it is the one of the heads.
fn read(embedder: &mut dyn Embedder, reader: Option<&str>, rows: &[JudgedRequest]) -> Result<Vec<Prepared>> {
    let failed = |error: crate::embed::EmbedError| TriageError::Embedding(error.to_string());
    let labelled = rows.iter().map(|one| one.row.clone()).collect();
    let mut embed = |texts: &[&str]| embedder.embed(texts, Role::Query).map_err(failed);
    let mut prepared = prepare(labelled, "desk", &mut embed, &mut |line| eprintln!("{line}"))?;
    if embedder.reader() == reader {
        read_all(&mut prepared, &mut |text| embedder.read(&[text]).map_err(failed))?;
    }
    Ok(prepared)
}

/// Adds what the language model makes of the rows, where it is the one of the heads.
fn consider(settings: &Settings, base: &TriageModel, prepared: &mut [Prepared]) -> Result<()> {
    let Some(states) = base.opinion() else { return Ok(()) };
    let note = "the new heads will judge without the language model's opinion";
    if !settings.generation.wants_opinion() {
        eprintln!("note: the settings want no second opinion: {note}");
        return Ok(());
    }
    let mut model = match load_local_generator(settings) {
        Ok(model) => model,
        Err(error) => {
            eprintln!("note: {error:#}: {note}");
            return Ok(());
        }
    };
    if model.considers() != Some(states) {
        eprintln!("note: {} is not the model that the heads were made with: {note}", model.name());
        return Ok(());
    }
    let failed = |error: GenerateError| TriageError::Embedding(error.to_string());
    let mut consider = |text: &str| model.consider(text, &mut || ControlFlow::Continue(())).map_err(failed);
    consider_prepared(prepared, "desk", &mut consider, &mut |line| eprintln!("{line}"))?;
    Ok(())
}

fn told(rows: &[JudgedRequest], gains: &[Gain]) -> String {
    let corrected = rows.iter().filter(|one| one.is_corrected).count();
    let mut said = format!(
        "{} tickets that people decided about, {corrected} of them with a judgement set right. Every figure is of rows that \
         the new heads had not seen; brackets: 95 %, in pairs.\n\n| judgement | labels | kappa | Brier score (lower is better) | |\n|---|---|---|---|---|\n",
        rows.len(),
    );
    for gain in gains {
        let [before, after] = [&gain.before, &gain.after].map(|judged| figures(judged, gain.task.ordered()));
        let cell = |at: usize, change: Change| {
            format!(
                "{:.3} -> {:.3} ({:+.3} [{:+.3}, {:+.3}])",
                before[at], after[at], change.by, change.low, change.high
            )
        };
        let (kappa, brier) = match gain.verdict {
            Verdict::TooFew => (format!("{:.3}", before[KAPPA]), format!("{:.3}", before[BRIER])),
            _ => (cell(KAPPA, gain.kappa), cell(BRIER, gain.brier)),
        };
        let name = gain.task.name();
        let _ = writeln!(said, "| {name} | {} | {kappa} | {brier} | {} |", gain.before.len(), verdict(gain.verdict));
    }
    for gain in gains.iter().filter(|gain| gain.verdict == Verdict::Taken) {
        said.push_str(&shares(gain));
    }
    said
}

fn verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::Taken => "learnt".to_owned(),
        Verdict::TooFew => format!("left as it is: fewer than {LEAST_LABELS} labels"),
        Verdict::NotBetter => "left as it is: not surely better".to_owned(),
        Verdict::Worse(change) => format!(
            "the desk's own heads stay: on newer labels the new ones are worse (Brier score {:+.3} [{:+.3}, {:+.3}])",
            change.by, change.low, change.high
        ),
    }
}

/// What was learnt, as far as numbers tell: how often each class is named.
fn shares(gain: &Gain) -> String {
    let names: Vec<&str> = match gain.task {
        Task::Urgency => Urgency::ALL.iter().map(|class| class.name()).collect(),
        Task::Difficulty => Difficulty::ALL.iter().map(|class| class.name()).collect(),
        Task::Next => NextStep::ALL.iter().map(|class| class.name()).collect(),
    };
    let mut said = format!("\n| {} | {} |\n|---|{}\n", gain.task.name(), names.join(" | "), "---|".repeat(names.len()));
    for (whose, shares) in ["people", "before", "now"].into_iter().zip(gain.shares()) {
        let cells: Vec<String> = shares.iter().map(|share| format!("{:.0} %", 100.0 * share)).collect();
        let _ = writeln!(said, "| {whose} | {} |", cells.join(" | "));
    }
    said
}
