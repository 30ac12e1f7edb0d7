//! The service killed again and again while it works: nothing accepted may be lost, nothing may be done twice.
//!
//! A process of its own is sent requests by customers who repeat whatever was not acknowledged under its old key, and by an
//! agent who approves drafts. It is killed (SIGKILL) at moments that a seed decides: while it starts, while it fills its
//! index, anywhere in the work, after a decision, after a reply was told and before it is marked as sent. When all is quiet,
//! what was acknowledged is compared with what is there.
//!
//! Replies are extractive: that is the fastest real work, so that a kill finds most requests half done.

mod check;
mod client;
mod drive;
mod plan;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;

use self::check::{Checker, Figures};
use self::client::Client;
use self::drive::{Driven, drive};
use self::plan::{Moment, Plan};
use super::load::service::Start;
use super::requests::Row;
use crate::eval::data::lines;
use crate::settings::Settings;
use crate::store::Store;

/// Violations that are told one by one.
const TOLD: usize = 20;
/// Files of the samples: the memory, and what is asked.
const MEMORY: [(&str, &str); 2] = [("tickets.jsonl", "tickets"), ("articles.jsonl", "articles")];
const REQUESTS: &str = "requests.jsonl";

#[derive(Clone, Debug, clap::Args)]
pub struct CrashArgs {
    /// New tickets, further messages and approvals, together.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    requests: u32,
    /// How often the service is killed.
    #[arg(long, default_value_t = 200)]
    kills: u32,
    /// Decides who writes what and when the service is killed; another one every time by default.
    #[arg(long)]
    seed: Option<u64>,
    /// Customers who write at the same time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=200))]
    clients: u16,
    /// PostgreSQL database of the service, in place of a file in its data folder; it must be empty.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Data folder without tickets; its memory is used as it is. A new one with the samples by default, removed when all
    /// is well.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Folder of the samples.
    #[arg(long, default_value = "samples")]
    samples: PathBuf,
    /// Where the report goes, beside the terminal.
    #[arg(long)]
    report: Option<PathBuf>,
}

/// Runs it and says what came of it.
///
/// # Errors
/// When something acknowledged is lost, done twice or left undone, or the service does not start or fails by itself.
pub async fn run(settings: Settings, config: Option<PathBuf>, args: CrashArgs) -> Result<()> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    let texts: Vec<Row> = lines(&args.samples.join(REQUESTS))
        .context("the samples are missing; name their folder with --samples, or start in the repository")?;
    let made = match &args.folder {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("respondo-crash-").tempdir().context("no temporary folder")?),
    };
    let folder = args.folder.clone().or_else(|| made.as_ref().map(|made| made.path().to_owned())).unwrap_or_default();
    eprintln!("seed {seed}, data folder {}", folder.display());
    let start = Start { folder: folder.clone(), config, environment: environment(&args) };
    let done = survive(&settings, &args, seed, texts, start).await;
    match done {
        Ok(text) => {
            println!("{text}");
            Ok(())
        }
        Err(error) => {
            // The folder is what a failure can be understood from.
            let kept = made.map_or(folder, tempfile::TempDir::keep);
            Err(error.context(format!("seed {seed}; the data folder {} is kept", kept.display())))
        }
    }
}

/// What the service is told beside the caller's settings.
fn environment(args: &CrashArgs) -> Vec<(&'static str, String)> {
    let mut environment = vec![("RESPONDO_GENERATION__KIND", "none".to_owned()), ("RESPONDO_LOG", "error".to_owned())];
    environment.extend(args.database.clone().map(|url| ("RESPONDO_DATABASE__URL", url)));
    environment
}

async fn survive(settings: &Settings, args: &CrashArgs, seed: u64, texts: Vec<Row>, start: Start) -> Result<String> {
    let samples = args.samples.clone();
    let (filling, on_server) = (start.clone(), args.database.is_some());
    tokio::task::spawn_blocking(move || fill(&filling, &samples, on_server)).await??;
    let store = open(settings, args, &start).await?;
    let tickets = store.stats().await?.tickets;
    ensure!(tickets == 0, "the store holds {tickets} tickets already; choose an empty one");
    let plan = Plan::new(seed, args.requests as usize, args.kills as usize, &texts);
    let client = Client::new(&settings.server.api_key);
    let began = Instant::now();
    let (driving, clients, asking) = (plan.clone(), usize::from(args.clients), client.clone());
    let driven = tokio::task::spawn_blocking(move || {
        let bar = ProgressBar::new(driving.kills.len() as u64);
        let driven = drive(&driving, &start, &asking, clients, &|kills| bar.set_position(kills as u64));
        bar.finish_and_clear();
        driven
    });
    let mut driven = driven.await??;
    let worked = began.elapsed();
    let url = driven.url.clone();
    let figures = Checker { store: &store, client: &client, url: &url }.check(&mut driven).await?;
    store.close().await;
    let text = report(seed, args, &plan, &driven, &figures, worked);
    if let Some(path) = &args.report {
        std::fs::write(path, &text)
            .with_context(|| format!("cannot write {}; choose another file with --report", path.display()))?;
    }
    let Driven { process, wrong, .. } = driven;
    tokio::task::spawn_blocking(move || process.stop()).await?.context("at the stop after all")?;
    if !wrong.is_empty() {
        bail!("{} things are wrong:\n{}\n\n{text}", wrong.len(), first(&wrong));
    }
    Ok(text)
}

/// The store that the service writes to, for reading.
async fn open(settings: &Settings, args: &CrashArgs, start: &Start) -> Result<Store> {
    Ok(match &args.database {
        Some(url) => Store::open_server_shared(url, &settings.database.schema).await?,
        None => Store::open_shared(&start.folder).await?,
    })
}

/// Reads the samples into the memory, unless the folder has a database.
fn fill(start: &Start, samples: &Path, on_server: bool) -> Result<()> {
    if !on_server && start.folder.join(crate::store::DATABASE_FILE).exists() {
        return Ok(());
    }
    for (file, kind) in MEMORY {
        let path = samples.join(file);
        let path = path.to_str().with_context(|| format!("the name {} is not UTF-8", path.display()))?;
        let output = start.command(&["ingest", path, "--as", kind])?.output().context("cannot start respondo")?;
        ensure!(output.status.success(), "{path} was not read: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn first(wrong: &[String]) -> String {
    let told: Vec<String> = wrong.iter().take(TOLD).map(|wrong| format!("- {wrong}")).collect();
    told.join("\n")
}

fn report(seed: u64, args: &CrashArgs, plan: &Plan, driven: &Driven, figures: &Figures, worked: Duration) -> String {
    let mut text = String::from("# The service killed while it works\n\n");
    let mut line = |name: &str, value: String| {
        // A String takes everything.
        let _ = writeln!(text, "- {name}: {value}");
    };
    let database = if args.database.is_some() { " --database URL" } else { "" };
    let again =
        format!("respondo bench crash --requests {} --kills {} --seed {seed}{database}", args.requests, args.kills);
    line("command", again);
    line("date", jiff::Zoned::now().date().to_string());
    line("store", if args.database.is_some() { "PostgreSQL" } else { "SQLite" }.to_owned());
    line("replies", "extractive (generation.kind = none)".to_owned());
    line("seconds", format!("{:.0}, and {:.0} until all was quiet", worked.as_secs_f64(), figures.quiet_after_s));
    for moment in Moment::ALL {
        let kills = plan.kills.iter().filter(|kill| kill.moment == moment).count();
        line(&format!("killed {}", moment.words()), kills.to_string());
    }
    line("requests without an answer, sent again", driven.cut_off.to_string());
    line("tickets", figures.tickets.to_string());
    line("messages of customers", figures.messages.to_string());
    line("messages to customers", figures.replies.to_string());
    let approved = format!(
        "{}, of which {} were recorded though the answer was cut off; {} found no draft to approve",
        figures.approved, driven.unheard, driven.without_draft
    );
    line("approvals", approved);
    line("approved answers in the memory", figures.learned.to_string());
    line("points of the index", figures.points.to_string());
    line("lines of the audit trail, all as they were written", figures.audit_lines.to_string());
    line("wrong", driven.wrong.len().to_string());
    text
}
