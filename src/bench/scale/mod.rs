//! `respondo bench scale`: how retrieval behaves as the memory grows to a million items.
//!
//! The index is the service's own, filled through the same calls; the items are synthetic (see `synthetic`). Building and
//! measuring are two processes, so that what building leaves in memory is not counted.

mod build;
mod measure;
mod report;
mod synthetic;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::settings::Settings;
use measure::Figures;
use synthetic::{Real, Synthetic};

/// Searches of each size, on texts that no item was made of.
const SEARCHES: usize = 500;
/// Hits that recall is measured on.
const CUTOFF: usize = 10;
/// Points that each leg gives in each language; what the service uses too.
const LEG_LIMIT: usize = 100;

#[derive(Debug, Args)]
pub struct ScaleArgs {
    /// Sizes of the memory; ratios are to the first
    #[arg(long, value_delimiter = ',', default_value = "10000,100000")]
    items: Vec<usize>,
    /// Folder of real support data; without it the project's own samples are what items are made of
    #[arg(long, default_value = "../shared/data")]
    data: PathBuf,
    /// Where the indexes go, about 6 KB an item and twice that while building; a temporary folder that is removed when
    /// left out
    #[arg(long)]
    folder: Option<PathBuf>,
    /// How often the searches are timed
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    repeats: u16,
    /// Also write the tables to this file
    #[arg(long)]
    report: Option<PathBuf>,
    /// Only build the indexes that --folder lacks
    #[arg(long, requires = "folder", conflicts_with = "measure_only")]
    build_only: bool,
    /// Only measure the indexes in --folder
    #[arg(long, requires = "folder")]
    measure_only: bool,
}

/// A real request.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Asked {
    vector: Vec<f32>,
    text: String,
    language: String,
}

/// What is known of an index once it is built; kept beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Built {
    items: usize,
    /// What the items were made of.
    source: String,
    /// Real requests with their vectors; none of them is an item, and no item was made of one.
    requests: Vec<Asked>,
    insert_seconds: f64,
    /// From the last insertion until everything had been built.
    finish_seconds: f64,
    /// The right answers: ids of the [`CUTOFF`] nearest items of each search, by problem and by solution.
    problem: Vec<Vec<String>>,
    solution: Vec<Vec<String>>,
}

/// Builds and measures; prints the tables.
///
/// # Errors
/// When the models, the data or the disk fail, or an index in the folder was made of something else.
pub async fn run(settings: Settings, args: ScaleArgs, machine: String) -> Result<()> {
    ensure!(args.items.iter().all(|items| *items >= CUTOFF), "--items needs sizes of at least {CUTOFF}");
    if !args.build_only && !args.measure_only {
        return tokio::task::spawn_blocking(move || in_two_processes(args.folder.as_deref())).await?;
    }
    let folder = args.folder.clone().context("--folder is missing")?;
    if args.measure_only {
        return tokio::task::spawn_blocking(move || measured(&args, &folder, &machine)).await?;
    }
    let synthetic = Synthetic::new(Real::read(&settings, &args.data, SEARCHES).await?);
    let build =
        move || args.items.iter().try_for_each(|items| build::build(&folder_of(&folder, *items), *items, &synthetic));
    tokio::task::spawn_blocking(build).await?
}

/// This command again with `--build-only`, then with `--measure-only`.
fn in_two_processes(folder: Option<&Path>) -> Result<()> {
    let temporary = tempfile::Builder::new().prefix("respondo-scale").tempdir().context("cannot make a folder")?;
    let program = std::env::current_exe().context("cannot find this program's file")?;
    for phase in ["--build-only", "--measure-only"] {
        let mut command = Command::new(&program);
        command.args(std::env::args_os().skip(1)).arg(phase);
        if folder.is_none() {
            command.arg("--folder").arg(temporary.path());
        }
        let status = command.status().with_context(|| format!("cannot start {}", program.display()))?;
        ensure!(status.success(), "`respondo bench scale {phase}` failed; see above");
    }
    Ok(())
}

fn measured(args: &ScaleArgs, folder: &Path, machine: &str) -> Result<()> {
    let mut figures: Vec<Figures> = Vec::new();
    for items in &args.items {
        let built = read_built(&folder_of(folder, *items))?;
        if let Some(first) = figures.first() {
            ensure!(
                first.built.source == built.source,
                "the indexes in {} were made of different things ({}; {}); remove one and build it again",
                folder.display(),
                first.built.source,
                built.source
            );
        }
        eprintln!("measuring {items} items");
        figures.push(measure::measure(&folder_of(folder, *items), built, usize::from(args.repeats))?);
    }
    let text = report::to_markdown(&figures, machine);
    println!("{text}");
    if let Some(path) = &args.report {
        std::fs::write(path, text)
            .with_context(|| format!("cannot write {}; choose another file with --report", path.display()))?;
    }
    Ok(())
}

fn read_built(folder: &Path) -> Result<Built> {
    let path = built_path(folder);
    let bytes = std::fs::read(&path)
        .with_context(|| format!("no index in {}; build it with --build-only", folder.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is unreadable; remove it", path.display()))
}

fn folder_of(folder: &Path, items: usize) -> PathBuf {
    folder.join(items.to_string())
}

fn built_path(folder: &Path) -> PathBuf {
    folder.join("built.json")
}
