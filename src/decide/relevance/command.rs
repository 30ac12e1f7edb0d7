//! `respondo train relevance`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use super::train::{Example, Judged, Row, fit, judge_each};
use crate::embed::{Tuning, e5};

/// Train the weights that judge whether evidence fits a request
#[derive(Debug, Args)]
pub struct TrainRelevanceArgs {
    /// JSON lines with memory, subject, body, language, evidence (as POST /v1/triage gives it) and fits (true or false)
    #[arg(required = true)]
    pub rows: Vec<PathBuf>,
    /// Where the weights go; `draft.relevance` in the settings names them
    #[arg(long, default_value = "models/relevance.toml")]
    pub out: PathBuf,
    /// Name of the embedder that gave the similarities; the built-in one where it is not named
    #[arg(long)]
    pub embedder: Option<String>,
}

/// Trains, judges each memory by weights from the others, writes the weights.
///
/// # Errors
/// When a file is missing or a row is wrong, or there is too little to learn from.
pub fn run(args: &TrainRelevanceArgs) -> Result<()> {
    let mut examples = Vec::new();
    for path in &args.rows {
        examples.extend(read(path)?);
    }
    let embedder = match &args.embedder {
        Some(name) => name.clone(),
        None => e5::name_with(Some(&Tuning::built_in()?)),
    };
    let judged = judge_each(&examples, &embedder)?;
    let model = fit(&examples.iter().collect::<Vec<_>>(), &embedder)?;
    let header = format!("# Made by `respondo train relevance` from {} rows.\n", examples.len());
    fs::write(&args.out, header + &model.to_toml()?)
        .with_context(|| format!("{}: cannot write", args.out.display()))?;
    println!("{}", table(&judged));
    Ok(())
}

fn read(path: &Path) -> Result<Vec<Example>> {
    let text = fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()))?;
    let mut examples = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let row: Row =
            serde_json::from_str(line).with_context(|| format!("{}, line {}", path.display(), number + 1))?;
        examples.extend(Example::of(&row));
    }
    Ok(examples)
}

fn table(judged: &[Judged]) -> String {
    let mut lines = vec![
        "| memory, judged by weights from the others | rows | fitting | AUC | Brier | ECE |".to_owned(),
        "|---|---|---|---|---|---|".to_owned(),
    ];
    lines.extend(judged.iter().map(|one| {
        format!(
            "| {} | {} | {} | {:.3} | {:.3} | {:.3} |",
            one.memory, one.rows, one.fitting, one.auc, one.brier, one.ece
        )
    }));
    lines.join("\n")
}
