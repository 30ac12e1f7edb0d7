//! `respondo train relevance`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::RelevanceModel;
use super::compare::{Change, compare};
use super::train::{Example, Judged, Row, fit, judge_each};
use crate::embed::{Tuning, e5};
use crate::triage::train::replace;

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
    /// Write the weights even where those that are there are surely better on memories that they have not learnt from
    #[arg(long)]
    pub anyway: bool,
    /// Decides the resamples
    #[arg(long, default_value_t = 20_261_123)]
    pub seed: u64,
}

/// Trains, judges each memory by weights from the others, writes the weights. What is there already is kept beside, and stays
/// where it is where it is surely better.
///
/// # Errors
/// When a file is missing or a row is wrong, there is too little to learn from, or the weights that are there are better.
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
    if !args.anyway && args.out.exists() {
        let change = compare(&RelevanceModel::load(&args.out)?, &examples, &embedder, args.seed)?;
        eprintln!("{}", compared(change.as_ref()));
        if change.is_some_and(|change| change.is_surely_worse()) {
            bail!("{}: the weights that are there stay; `--anyway` replaces them all the same", args.out.display());
        }
    }
    let header = format!("# Made by `respondo train relevance` from {} rows.\n", examples.len());
    replace(&args.out, (header + &model.to_toml()?).as_bytes())?;
    println!("{}", table(&judged));
    Ok(())
}

fn compared(change: Option<&Change>) -> String {
    let Some(change) = change else {
        return "the weights that are there know all of these memories, or another embedder: not compared".to_owned();
    };
    format!(
        "on {} rows of {}, which the weights that are there have not seen: Brier score {:.3} -> {:.3} ({:+.3} [{:+.3}, {:+.3}])",
        change.rows,
        change.memories.join(", "),
        change.before,
        change.after,
        change.after - change.before,
        change.low,
        change.high
    )
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::triage::time::tests::neighbour;

    /// Requests that closeness decides, or the contrary of it.
    fn rows(memory: &str, is_contrary: bool) -> String {
        let line = |at: u16| {
            let is_close = at.is_multiple_of(3);
            let similarity = if is_close { 0.85 } else { 0.6 } + f32::from(at % 7) * 0.005;
            let row = Row {
                memory: memory.to_owned(),
                subject: String::new(),
                body: format!("{memory} {at}"),
                language: "en".to_owned(),
                evidence: vec![neighbour("a", similarity, None, None)],
                fits: is_close != is_contrary,
            };
            serde_json::to_string(&row).expect("JSON") + "\n"
        };
        (0..60).map(line).collect()
    }

    #[test]
    fn worse_weights_replace_nothing_and_the_last_ones_are_kept() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("one.jsonl"), rows("one", false)).expect("writable");
        fs::write(path("wrong.jsonl"), rows("one", true) + &rows("three", true)).expect("writable");
        fs::write(path("two.jsonl"), rows("two", false)).expect("writable");
        let learn = |names: &[&str], anyway: bool| {
            let rows = names.iter().map(|name| path(name)).collect();
            run(&TrainRelevanceArgs { rows, out: path("w.toml"), embedder: Some("e".to_owned()), anyway, seed: 7 })
        };
        learn(&["one.jsonl"], false).expect("nothing is there yet");
        let good = fs::read(path("w.toml")).expect("weights");
        // What the first ones know says nothing; what they do not know speaks for the second, right or wrong.
        learn(&["one.jsonl"], false).expect("not compared");
        assert_eq!(fs::read(path("w.previous.toml")).expect("kept"), good);
        learn(&["wrong.jsonl"], false).expect("better where these are the truth");
        learn(&["one.jsonl"], true).expect("asked for");
        let good = fs::read(path("w.toml")).expect("weights");
        // What they know was labelled the other way round meanwhile, what they do not know speaks for them.
        let relabelled = fs::read_to_string(path("wrong.jsonl")).expect("rows").replace("\"three\"", "\"one\"");
        fs::write(path("wrong.jsonl"), relabelled).expect("writable");
        let refused = learn(&["wrong.jsonl", "two.jsonl"], false).expect_err("worse").to_string();
        assert!(refused.contains("--anyway"), "{refused}");
        assert_eq!(fs::read(path("w.toml")).expect("weights"), good);
    }
}
