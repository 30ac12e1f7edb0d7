//! `respondo bench learning`: what a team's own labels bring, by their number.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use crate::app::load_embedder;
use crate::embed::{Embedder, Role};
use crate::settings::Settings;
use crate::triage::TriageModel;
use crate::triage::adapt::{Verdict, adapt, judge_best};
use crate::triage::data::{Labelled, Task, read};
use crate::triage::heads::{CLASSES, Heads, TriageError};
use crate::triage::measure::{BRIER, KAPPA, figures};
use crate::triage::prepare::{Prepared, prepare};

/// Judgements that people at a desk set right.
const TASKS: [Task; 2] = [Task::Urgency, Task::Difficulty];

#[derive(Debug, Args)]
pub struct LearningArgs {
    /// Labelled requests that the heads have not learnt from (.jsonl.gz), as `scripts/encoder/labelled.py` writes them
    rows: PathBuf,
    /// Numbers of labels
    #[arg(long, value_delimiter = ',', default_values_t = [50, 100, 200, 400])]
    labels: Vec<usize>,
    /// How often, each time with others of the rows
    #[arg(long, default_value_t = 5)]
    repeats: u64,
    /// As a team would label that takes every request one step less seriously
    #[arg(long)]
    calm: bool,
}

/// What came of learning from some of the rows, on all others.
struct Learnt {
    task: Task,
    is_taken: bool,
    /// Kappa and Brier score before and after.
    kappa: [f32; 2],
    brier: [f32; 2],
}

pub fn run(settings: &Settings, args: &LearningArgs) -> Result<String> {
    let base = TriageModel::embedded()?;
    let mut embedder = load_embedder(settings)?;
    ensure!(base.embedder() == embedder.name(), "the heads were made for the embedding model {}", base.embedder());
    let rows = read(&args.rows)?;
    let most = args.labels.iter().copied().max().unwrap_or(0);
    ensure!(most < rows.len(), "{} rows are too few to learn from {most} and to measure by the others", rows.len());
    let rows = prepared(embedder.as_mut(), base.reader(), rows, args.calm)?;
    let mut said =
        "| labels | judgement | learnt | kappa | Brier score (lower is better) |\n|---|---|---|---|---|".to_owned();
    for &labels in &args.labels {
        let runs: Vec<Learnt> = (0..args.repeats).flat_map(|seed| learnt(base.heads(), &rows, labels, seed)).collect();
        for task in TASKS {
            let runs: Vec<&Learnt> = runs.iter().filter(|one| one.task == task).collect();
            said.push_str(&line(labels, task, &runs));
        }
        eprintln!("{labels} labels: done");
    }
    Ok(said)
}

fn prepared(
    embedder: &mut dyn Embedder,
    reader: Option<&str>,
    mut rows: Vec<Labelled>,
    calm: bool,
) -> Result<Vec<Prepared>> {
    // Only what was judged is a label.
    rows.retain(|row| row.urgency > 0 && row.difficulty > 0);
    for row in &mut rows {
        (row.evidence, row.next) = (String::new(), String::new());
        row.urgency = (row.urgency + u8::from(calm)).min(u8::try_from(CLASSES)?);
    }
    let failed = |error: crate::embed::EmbedError| TriageError::Embedding(error.to_string());
    let mut embed = |texts: &[&str]| embedder.embed(texts, Role::Query).map_err(failed);
    let mut prepared = prepare(rows, "requests", &mut embed, &mut |line| eprintln!("{line}"))?;
    if embedder.reader() == reader {
        crate::triage::prepare::read_all(&mut prepared, &mut |text| embedder.read(&[text]).map_err(failed))?;
    }
    Ok(prepared)
}

fn learnt(base: &Heads, rows: &[Prepared], labels: usize, seed: u64) -> Vec<Learnt> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut order);
    let pick = |at: &[usize]| at.iter().map(|at| rows[*at].clone()).collect::<Vec<_>>();
    let (own, others) = (pick(&order[..labels]), pick(&order[labels..]));
    let (heads, gains) = adapt(base, &own, None, seed, &mut |_| {});
    let measured = |task: Task| {
        let [before, after] = [base, &heads].map(|heads| figures(&judge_best(heads, &others, task), task.ordered()));
        let is_taken = gains.iter().any(|gain| gain.task == task && gain.verdict == Verdict::Taken);
        Learnt { task, is_taken, kappa: [before[KAPPA], after[KAPPA]], brier: [before[BRIER], after[BRIER]] }
    };
    TASKS.map(measured).into_iter().collect()
}

fn line(labels: usize, task: Task, runs: &[&Learnt]) -> String {
    let taken = runs.iter().filter(|one| one.is_taken).count();
    let mean = |of: &dyn Fn(&Learnt) -> f32| runs.iter().map(|one| of(one)).sum::<f32>() / runs.len().max(1) as f32;
    let cell = |of: &dyn Fn(&Learnt) -> [f32; 2]| {
        let changes = runs.iter().map(|one| of(one)[1] - of(one)[0]);
        let (low, high) = changes.fold((f32::MAX, f32::MIN), |(low, high), change| (low.min(change), high.max(change)));
        format!("{:.3} -> {:.3} ({low:+.3} to {high:+.3})", mean(&|one| of(one)[0]), mean(&|one| of(one)[1]))
    };
    format!(
        "\n| {labels} | {} | {taken} of {} | {} | {} |",
        task.name(),
        runs.len(),
        cell(&|one| one.kappa),
        cell(&|one| one.brier)
    )
}
