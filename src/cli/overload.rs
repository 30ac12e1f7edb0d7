//! `respondo bench overload`: the running service under more than it can do.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::bench::machine;
use super::load::prepare;
use crate::app::model_cache;
use crate::bench::load::{Material, kept_folder};
use crate::bench::overload::{Plan, run as put_under_overload};
use crate::settings::Settings;

#[derive(Debug, Args)]
pub struct OverloadArgs {
    /// Seconds of load.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Load as a multiple of what the service can do, which is measured first.
    #[arg(long, default_value_t = 4.0)]
    factor: f64,
    /// Memory items; real tickets and articles, as many as the data has.
    #[arg(long, default_value_t = 2_000)]
    items: usize,
    /// Folder of the data sets; our own samples where it is absent.
    #[arg(long, default_value = "../shared/data")]
    data: PathBuf,
    /// Data folder of the service under load, kept for the next run; one for each number of items in the cache folder by
    /// default.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Where the report goes beside standard output.
    #[arg(long)]
    report: Option<PathBuf>,
}

pub async fn run(settings: Settings, config: Option<PathBuf>, args: OverloadArgs) -> Result<()> {
    ensure!(args.factor > 0.0 && args.factor <= 100.0, "--factor must be above 0 and at most 100");
    ensure!(args.seconds > 0 && args.items > 0, "--seconds and --items must be above 0");
    let material = Material::find(&args.data)?;
    let folder = args.folder.unwrap_or_else(|| kept_folder(&model_cache(&settings), "overload", args.items));
    let concurrency = settings.server.concurrency;
    let bounds = format!(
        "{concurrency} replies at once, a deadline of {} s, {} tickets waiting at most",
        settings.draft.deadline_seconds, settings.server.most_waiting
    );
    let (rows, items) = prepare(settings, &material, folder.clone(), args.items).await?;
    let length = Duration::from_secs(args.seconds);
    let plan = Plan { folder, config, concurrency, length, factor: args.factor };
    let report = tokio::task::spawn_blocking(move || put_under_overload(&plan, &rows)).await??;
    let about = [
        ("command", std::env::args().collect::<Vec<_>>().join(" ").replace("target/release/", "")),
        ("date", jiff::Zoned::now().date().to_string()),
        ("machine", machine()),
        ("memory", format!("{items} items")),
        ("texts", material.source.clone()),
        (
            "load",
            format!("{} times the capacity for {} s, messages independent of each other", args.factor, args.seconds),
        ),
        ("bounds", bounds),
    ];
    let text = report.to_markdown(&about);
    println!("{text}");
    if let Some(path) = args.report {
        std::fs::write(&path, text)
            .with_context(|| format!("cannot write {}; choose another file with --report", path.display()))?;
        println!("{}", path.display());
    }
    ensure!(report.lost == 0, "{} accepted tickets have no word from us", report.lost);
    Ok(())
}
