//! `respondo train rerank`.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::Sources;
use super::train::{Example, Figures, Row, train};
use crate::decide::relevance::RelevanceModel;
use crate::inference::generator::Generator as _;
use crate::inference::gguf::GgufGenerator;
use crate::inference::opinion::{Matter, States};
use crate::models::default_cache_dir;
use crate::triage::command::language_model;
use crate::triage::train::replace;

/// Train what tells which of what was found serves a reply
#[derive(Debug, Args)]
pub struct TrainRerankArgs {
    /// JSON lines with memory, subject, body, language, evidence (as POST /v1/triage gives it), and what is known of fits (true or false), serves
    /// (ids of the items that an agent would use) and reply (sentences, each with text and evidence: ids)
    #[arg(required = true)]
    pub rows: Vec<PathBuf>,
    /// Where the weights go; `draft.rerank` in the settings names them
    #[arg(long, default_value = "models/rerank.bin")]
    pub out: PathBuf,
    /// The model that reads: `built-in`, or a GGUF file
    #[arg(long, default_value = "built-in")]
    pub language_model: String,
    /// The weights of the facts of a search; the built-in ones where none are named
    #[arg(long)]
    pub relevance: Option<PathBuf>,
}

/// Reads, learns, writes the weights; what is there already is kept beside.
///
/// # Errors
/// When a file is missing or a row is wrong, the model fails, or there is too little to learn from.
pub fn run(args: &TrainRerankArgs) -> Result<()> {
    let relevance = match &args.relevance {
        Some(path) => RelevanceModel::load(path)?,
        None => RelevanceModel::embedded()?,
    };
    let mut rows = Vec::new();
    for path in &args.rows {
        rows.extend(read(path)?);
    }
    let cache = default_cache_dir();
    let mut model = language_model(&cache, &args.language_model)?;
    let states_name = model.weighs().context("the model shows no states of what was found")?.to_owned();
    let kept = cache.join("states");
    let mut examples = Vec::with_capacity(rows.len());
    for (at, row) in rows.iter().enumerate() {
        let sources = Sources::of(&row.request(), &row.evidence);
        if !sources.matter.sources.is_empty() {
            let states = study_kept(&mut model, &kept, &sources.matter)?;
            examples.push(Example::of(row, &sources, &states, &relevance));
        }
        if (at + 1) % 100 == 0 || at + 1 == rows.len() {
            eprintln!("{} of {} rows read", at + 1, rows.len());
        }
    }
    let (reranker, figures) = train(&examples, &states_name, &mut |line| eprintln!("{line}"))?;
    replace(&args.out, &reranker.to_bytes())?;
    println!("{}", table(&figures));
    Ok(())
}

fn read(path: &Path) -> Result<Vec<Row>> {
    let text = fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(number, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("{}, line {}", path.display(), number + 1))
    };
    lines.map(parse).collect()
}

/// The states of what was found for a request; kept in `folder`, since reading takes seconds and learning is done again and again.
fn study_kept(model: &mut GgufGenerator, folder: &Path, matter: &Matter) -> Result<States> {
    let name = crate::store::sha256_hex(format!("{:?} {matter:?}", model.weighs()).as_bytes());
    let path = folder.join(name);
    let pieces = matter.sources.iter().flatten().count();
    if let Ok(bytes) = fs::read(&path) {
        let numbers: Vec<f32> = bytes
            .chunks_exact(4)
            .filter_map(|four| four.first_chunk::<4>())
            .map(|four| f32::from_le_bytes(*four))
            .collect();
        let width = numbers.len() / pieces.max(1);
        // Pieces that there was no room for are kept as zeros.
        if width > 0 && width * pieces == numbers.len() {
            let row = |row: &[f32]| if row.iter().all(|value| *value == 0.0) { Vec::new() } else { row.to_vec() };
            return Ok(numbers.chunks_exact(width).map(row).collect());
        }
    }
    let states = model.study(matter, &mut || ControlFlow::Continue(()))?.context("the model gave no states")?;
    ensure!(states.len() == pieces, "{} states of {pieces} pieces", states.len());
    let width = states.iter().map(Vec::len).max().unwrap_or(0);
    let row = |state: &Vec<f32>| if state.is_empty() { vec![0.0; width] } else { state.clone() };
    let bytes: Vec<u8> = states.iter().flat_map(row).flat_map(f32::to_le_bytes).collect();
    fs::create_dir_all(folder).with_context(|| format!("{}: cannot make the folder", folder.display()))?;
    fs::write(&path, bytes).with_context(|| format!("{}: cannot write", path.display()))?;
    Ok(states)
}

fn table(figures: &[Figures]) -> String {
    let mut lines = vec![
        "| memory, judged by weights from other requests | items | AUC | sentences | AUC | requests | AUC of fit | by the facts alone |".to_owned(),
        "|---|---|---|---|---|---|---|---|".to_owned(),
    ];
    lines.extend(figures.iter().map(|one| {
        let shown = |auc: f64| if auc.is_finite() { format!("{auc:.3}") } else { "-".to_owned() };
        let cell = |(count, auc): (usize, f64)| format!("{count} | {}", shown(auc));
        let (items, sentences, fits) = (cell(one.items), cell(one.sentences), cell(one.fits));
        format!("| {} | {items} | {sentences} | {fits} | {} |", one.name, shown(one.by_facts))
    }));
    lines.join("\n")
}
