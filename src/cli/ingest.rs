//! `respondo ingest`, `forget` and `reindex`: what the memory is made of.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use crate::app::{App, Need, open_store};
use crate::intake::import::{ImportOptions, parse_mapping};
use crate::learn::index::{self, IndexReport};
use crate::learn::ingest::{FileReport, ingest_file};
use crate::settings::Settings;
use crate::store::Store;
use crate::ticket::{AnswerKind, Language, MemoryKind};

/// Rejected rows named on the terminal; the file of `--rejects` has all of them.
const REJECTS_SHOWN: u64 = 10;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Tickets,
    Articles,
}

#[derive(Debug, Args)]
pub struct IngestArgs {
    /// Files: .jsonl, .jsonl.gz, .csv, .csv.gz.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// What the files hold.
    #[arg(long = "as", value_enum)]
    kind: Kind,
    /// For CSV and foreign JSON: our field and their column, as in `id=ticket_no,body=description,answer=reply`.
    #[arg(long, default_value = "")]
    map: String,
    /// Language of rows that do not tell (ISO 639-1).
    #[arg(long)]
    language: Option<String>,
    /// Product of rows that do not tell.
    #[arg(long)]
    product: Option<String>,
    /// Public address of a row; `{id}` and `{digits}` are filled in.
    #[arg(long)]
    url: Option<String>,
    /// Also take the first helper's reply where none was accepted or found helpful (noisier).
    #[arg(long)]
    first_replies: bool,
    /// Only tickets that are marked as solved.
    #[arg(long)]
    solved_only: bool,
    /// Write every rejected row (file, line, id, reason; tab-separated) here.
    #[arg(long)]
    rejects: Option<PathBuf>,
    /// Store now, index later (at the next start, or by `respondo reindex`).
    #[arg(long)]
    no_index: bool,
}

pub async fn run(settings: Settings, args: IngestArgs) -> Result<()> {
    for path in &args.paths {
        ensure!(path.is_file(), "{} is not a file; name files, or check the path", path.display());
    }
    let options = import_options(&args)?;
    let kind = match args.kind {
        Kind::Tickets => MemoryKind::Ticket,
        Kind::Articles => MemoryKind::Article,
    };
    let mut rejects = match &args.rejects {
        Some(path) => {
            let file = std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            Some(std::io::BufWriter::new(file))
        }
        None => None,
    };
    if args.no_index {
        let store = open_store(&settings).await?;
        for path in &args.paths {
            read_file(&store, path, kind, options.clone(), &mut rejects).await?;
        }
        return Ok(());
    }
    let app = App::open(settings, Need::Memory).await?;
    for path in &args.paths {
        read_file(&app.store, path, kind, options.clone(), &mut rejects).await?;
    }
    index(&app).await?;
    app.close().await;
    Ok(())
}

fn import_options(args: &IngestArgs) -> Result<ImportOptions> {
    let mut answers = vec![AnswerKind::Approved, AnswerKind::Accepted, AnswerKind::MostHelpful];
    if args.first_replies {
        answers.push(AnswerKind::FirstHelper);
    }
    Ok(ImportOptions {
        mapping: parse_mapping(&args.map)?,
        language: args.language.as_deref().map(Language::new),
        product: args.product.clone(),
        url_template: args.url.clone(),
        answers,
        solved_only: args.solved_only,
    })
}

async fn read_file(
    store: &Store,
    path: &Path,
    kind: MemoryKind,
    options: ImportOptions,
    rejects: &mut Option<std::io::BufWriter<std::fs::File>>,
) -> Result<()> {
    let started = Instant::now();
    let bar = bar("{msg} {bar:30} {percent:>3} %  {bytes_per_sec}  {eta} left");
    bar.set_message(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
    let mut shown = 0;
    let mut failed = Ok(());
    let rejected = |reject: &crate::intake::import::Reject| {
        let id = reject.id.as_deref().unwrap_or("-");
        if let Some(file) = rejects
            && failed.is_ok()
        {
            failed = writeln!(file, "{}\t{}\t{id}\t{}", path.display(), reject.line, reject.reason);
        }
        if shown < REJECTS_SHOWN {
            bar.suspend(|| eprintln!("  line {}: {id} {}", reject.line, reject.reason));
        }
        shown += 1;
    };
    let progress = |read, total| {
        bar.set_length(total);
        bar.set_position(read);
    };
    let report = ingest_file(store, path, kind, options, rejected, progress).await?;
    bar.finish_and_clear();
    failed.context("cannot write the file of rejected rows")?;
    print_file(path, &report, started.elapsed(), rejects.is_some());
    Ok(())
}

fn print_file(path: &Path, report: &FileReport, took: Duration, listed: bool) {
    let rows = report.put.new + report.put.changed + report.put.same + report.rejected;
    let per_second = rows as f64 / took.as_secs_f64().max(0.001);
    println!(
        "{}: {} new, {} changed, {} known, {} rejected of {rows} rows ({per_second:.0} rows/s)",
        path.display(),
        report.put.new,
        report.put.changed,
        report.put.same,
        report.rejected
    );
    for (reason, count) in &report.reasons {
        println!("  {count:>6}  {reason}");
    }
    if report.rejected > REJECTS_SHOWN && !listed {
        println!("  (--rejects FILE lists every rejected row with its line)");
    }
}

/// Brings the index up to date, with progress and time left.
pub async fn index(app: &App) -> Result<IndexReport> {
    let waiting = app.store.memory_stats().await?.unindexed;
    let bar = bar("indexing {bar:30} {pos}/{len} items  {eta} left  {msg}");
    bar.set_length(waiting);
    let report = app
        .indexer
        .catch_up(|report| {
            bar.set_position(report.items);
            bar.set_message(format!("{:.0} tokens/s", report.tokens as f64 / report.seconds.max(0.001)));
        })
        .await?;
    bar.finish_and_clear();
    if report.items > 0 {
        println!(
            "indexed {} items ({} points, {} texts embedded, {} tokens) in {:.1} s: {:.0} items/s, {:.0} tokens/s",
            report.items,
            report.points,
            report.embedded,
            report.tokens,
            report.seconds,
            report.items as f64 / report.seconds.max(0.001),
            report.tokens as f64 / report.seconds.max(0.001)
        );
    }
    Ok(report)
}

/// A progress bar of this shape, its length not known yet.
pub fn bar(template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

pub async fn forget(settings: Settings, id: &str) -> Result<()> {
    let app = App::open(settings, Need::Memory).await?;
    let known = app.store.forget(id).await?;
    index::remove(&app.vectors, vec![id.to_owned()]).await?;
    app.close().await;
    ensure!(known, "the memory has no item `{id}`; `respondo stats` says what it holds");
    println!("forgotten: {id}");
    Ok(())
}

pub async fn reindex(settings: Settings) -> Result<()> {
    let app = App::open(settings, Need::Memory).await?;
    let vectors = app.vectors.clone();
    tokio::task::spawn_blocking(move || vectors.begin_rebuild()).await??;
    app.store.mark_all_unindexed().await?;
    index(&app).await?;
    let vectors = app.vectors.clone();
    tokio::task::spawn_blocking(move || vectors.finish_rebuild()).await??;
    app.close().await;
    Ok(())
}
