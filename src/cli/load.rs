//! `respondo bench load`: the running service under load.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::bench::machine;
use super::ingest;
use crate::app::{App, Need, model_cache};
use crate::bench::load::{Arrivals, Flow, GenerationLoad, Goals, Material, Plan, kept_folder, run as put_under_load};
use crate::bench::requests::Row;
use crate::settings::Settings;

#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Memory items; real tickets and articles, as many as the data has.
    #[arg(long, default_value_t = 16_000)]
    items: usize,
    /// Folder of the data sets; our own samples where it is absent.
    #[arg(long, default_value = "../shared/data")]
    data: PathBuf,
    /// Data folder of the service under load, kept for the next run; one for each number of items in the cache folder by
    /// default.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// A service that runs already, with its own memory; then none is started.
    #[arg(long)]
    url: Option<String>,
    /// Messages a second.
    #[arg(long, default_value_t = 5.0)]
    rate: f64,
    /// Seconds of load, for each state of the language model.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// How messages arrive.
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson)]
    arrivals: Arrivals,
    /// Which way a message takes.
    #[arg(long, value_enum, default_value_t = Flow::Triage)]
    flow: Flow,
    /// Whether replies are written meanwhile.
    #[arg(long, value_enum, default_value_t = GenerationLoad::Both)]
    generation: GenerationLoad,
    /// Replies in work at the same time while replies are written.
    #[arg(long, default_value_t = 3)]
    writers: usize,
    /// Starts of the service that are timed; 0 for none.
    #[arg(long, default_value_t = 6)]
    starts: usize,
    /// Where the report goes; a JSON file of the same name beside it.
    #[arg(long, default_value = "docs/load-report.md")]
    out: PathBuf,
}

pub async fn run(settings: Settings, config: Option<PathBuf>, args: LoadArgs) -> Result<()> {
    ensure!(args.rate > 0.0 && args.rate <= 1_000.0, "--rate must be above 0 and at most 1000 messages a second");
    ensure!(args.seconds > 0 && args.items > 0 && args.writers > 0, "--seconds, --items and --writers must be above 0");
    let material = Material::find(&args.data)?;
    let folder = args.folder.clone().unwrap_or_else(|| kept_folder(&model_cache(&settings), "load", args.items));
    let key = Some(settings.server.api_key.clone());
    let embedder = settings.clone();
    let (rows, items) = prepare(embedder, &material, folder.clone(), args.items).await?;
    let plan = Plan {
        folder,
        config,
        url: args.url.clone(),
        key,
        starts: args.starts,
        rate: args.rate,
        length: Duration::from_secs(args.seconds),
        arrivals: args.arrivals,
        flow: args.flow,
        generation: args.generation,
        writers: args.writers,
    };
    let report = tokio::task::spawn_blocking(move || put_under_load(&plan, &rows)).await??;
    let memory = match &args.url {
        Some(url) => format!("of the service at {url}"),
        None => format!("{items} items"),
    };
    let about = [
        ("command", std::env::args().collect::<Vec<_>>().join(" ").replace("target/release/", "")),
        ("date", jiff::Zoned::now().date().to_string()),
        ("machine", machine()),
        ("memory", memory),
        ("texts", material.source.clone()),
        ("messages", messages(&args, report.distinct)),
        ("way of a message", way(args.flow).to_owned()),
    ];
    let text = report.to_markdown(&about, Goals::default());
    println!("{text}");
    let json = serde_json::to_string_pretty(&report.to_json(&about, Goals::default()))?;
    for (path, content) in [(args.out.clone(), text), (args.out.with_extension("json"), json)] {
        std::fs::write(&path, content)
            .with_context(|| format!("cannot write {}; choose another file with --out", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

/// Brings the memory to its size and the index up to date; what will be asked, and how many items there are.
pub(super) async fn prepare(
    mut settings: Settings,
    material: &Material,
    folder: PathBuf,
    wanted: usize,
) -> Result<(Vec<Row>, usize)> {
    settings.data.folder = folder;
    let app = App::open(settings, Need::Memory).await?;
    let held = material.fill(&app.store, wanted).await?;
    if held < wanted {
        eprintln!("note: the data has {held} items, not {wanted}");
    }
    ingest::index(&app).await?;
    let rows = material.requests(&app.store).await?;
    app.close().await;
    Ok((rows, held))
}

fn messages(args: &LoadArgs, distinct: usize) -> String {
    let sent = (args.rate * args.seconds as f64).round() as usize;
    let repeats = match distinct < sent {
        true => format!("; only {distinct} are different, so they are repeated"),
        false => format!("; each once, of {distinct} at hand"),
    };
    let arrivals = if args.arrivals == Arrivals::Poisson { "independent of each other" } else { "at equal distances" };
    format!("{} a second for {} s, {arrivals}; none is in the memory{repeats}", args.rate, args.seconds)
}

fn way(flow: Flow) -> &'static str {
    match flow {
        Flow::Triage => "POST /v1/triage, until the whole answer with judgement and evidence is there",
        Flow::Ticket => {
            "POST /v1/tickets, then the ticket's event stream, until the event `triage`, which follows `evidence`"
        }
    }
}
