//! `respondo demo`: from nothing to two answered requests and a running service.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::ask::answer_in_terminal;
use super::ingest;
use super::render::Style;
use super::serve::Service;
use crate::app::{App, EMBEDDING_MODEL, Need, model_store, open_store};
use crate::inference::CHAT_MODEL;
use crate::intake;
use crate::intake::import::ImportOptions;
use crate::learn::ingest::ingest_file;
use crate::models::for_terminal;
use crate::settings::{EmbeddingKind, GenerationFallback, GenerationKind, Settings};
use crate::ticket::{AnswerKind, MemoryKind};

/// The sample memory and requests that come with the program: an invented hosting and streaming company.
const TICKETS: &str = include_str!("../../samples/tickets.jsonl");
const ARTICLES: &str = include_str!("../../samples/articles.jsonl");

/// One request in each language, of the kind that comes in.
const REQUESTS: [(&str, &str); 2] = [
    (
        "es",
        "buenas, desde ayer mis correos llegan a la carpeta de spam de mis clientes, sobre todo los de gmail. no he \
         cambiado nada y estoy perdiendo pedidos, que hago??",
    ),
    (
        "en",
        "hi, my radio stream keeps dropping every few minutes when the autodj takes over from my live show, listeners \
         are complaining. what can i do?",
    ),
];

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Port, in place of the one in the settings; 0 takes a free one.
    #[arg(long)]
    port: Option<u16>,
    /// End after the two sample requests instead of serving on.
    #[arg(long)]
    once: bool,
    /// Keep the demo's data here instead of `respondo-demo` in the working folder.
    #[arg(long)]
    demo_data: Option<PathBuf>,
}

pub async fn run(mut settings: Settings, args: DemoArgs) -> Result<()> {
    let style = Style::for_stdout();
    // Apart from the team's own data, so that sample tickets never end up beside real ones.
    settings.data.folder = args.demo_data.unwrap_or_else(|| PathBuf::from("respondo-demo"));
    if let Some(port) = args.port {
        settings.server.port = port;
    }
    println!("{}", style.heading("1. Models"));
    pull_models(&settings)?;
    println!("{}", style.heading("2. Sample memory"));
    load_samples(&settings).await?;
    let app = App::open(settings, Need::Replies).await?;
    ingest::index(&app).await?;
    let stats = app.store.memory_stats().await?;
    println!("  {} items from an invented hosting and streaming company", stats.items);
    app.degraded.iter().for_each(|problem| eprintln!("  note: {problem}"));
    println!("{}", style.heading("3. Reading the prompts (once per start)"));
    app.pipeline.warm_up().await;
    let service = Service::start(app).await?;
    for (number, (language, message)) in REQUESTS.iter().enumerate() {
        println!("\n{} ({language})", style.heading(&format!("{}. A customer writes", number + 4)));
        println!("  {message}\n");
        let request = intake::prepare("", message, None, None, Vec::new())?;
        answer_in_terminal(service.pipeline(), &request).await?;
    }
    if args.once {
        return service.close().await;
    }
    println!("\n{}", style.heading("Now you"));
    println!(
        "  open both addresses below in a browser: write as a customer, answer as the team. Ctrl-C here ends the demo."
    );
    println!("  for programs: http://{}/docs", service.address());
    service.until_stopped().await
}

fn pull_models(settings: &Settings) -> Result<()> {
    let (manifest, store) = model_store(settings)?;
    let mut wanted = Vec::new();
    if settings.embedding.kind == EmbeddingKind::E5 {
        wanted.push(EMBEDDING_MODEL);
    }
    let chosen = &settings.generation;
    let runs_here = match chosen.kind {
        GenerationKind::Gguf => true,
        GenerationKind::OpenAi => chosen.fallback == GenerationFallback::Gguf,
        GenerationKind::None => false,
    };
    if runs_here && chosen.file.as_os_str().is_empty() {
        wanted.push(CHAT_MODEL);
    }
    for name in wanted {
        let folder = store.ensure(manifest.get(name)?, for_terminal().as_mut())?;
        println!("  {name}: {}", folder.display());
    }
    Ok(())
}

/// The samples travel inside the program; the import reads files, as it does for a team.
async fn load_samples(settings: &Settings) -> Result<()> {
    let store = open_store(settings).await?;
    let folder = settings.data.folder.join("samples");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot write {}", folder.display()))?;
    for (name, text, kind) in
        [("tickets.jsonl", TICKETS, MemoryKind::Ticket), ("articles.jsonl", ARTICLES, MemoryKind::Article)]
    {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        let options =
            ImportOptions { answers: vec![AnswerKind::Accepted, AnswerKind::MostHelpful], ..ImportOptions::default() };
        let report = ingest_file(&store, &path, kind, options, |_| {}, |_, _| {}).await?;
        let (new, known) = (report.put.new + report.put.changed, report.put.same);
        println!("  {name}: {new} new, {known} known, {} rejected", report.rejected);
        report.reasons.iter().for_each(|(reason, count)| println!("    {count} rows: {reason}"));
    }
    store.close().await;
    Ok(())
}
