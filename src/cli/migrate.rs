//! `respondo migrate`: moves the vector index between the data folder and a server, and compares the two; moves the store.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use indicatif::ProgressBar;

use super::ingest::bar;
use super::migrate_store;
use crate::app::{INDEX_FOLDER, load_embedder, open_store_shared};
use crate::retrieve::server::ServerStore;
use crate::retrieve::transfer::{Comparison, Transfer, compare, copy};
use crate::retrieve::{Filter, RetrieveError, SearchQuery, VectorStore};
use crate::settings::Settings;
use crate::ticket::MemoryItem;

/// Points that each leg gives in each language, as the service asks for them.
const CANDIDATES: usize = 100;
/// Points read at once to choose searches from.
const PAGE: usize = 512;
/// Differences that are named; the others are counted.
const SHOWN: usize = 10;

#[derive(Debug, Subcommand)]
pub enum MigrateCommand {
    /// Copy the vector index to a server or back without embedding anything again. Stop the service first.
    Vectors(VectorsArgs),
    /// Copy tickets, memory and everything else into an empty database, then say what to change in the settings. Stop the
    /// service first.
    Store {
        /// `postgres://...`, or `sqlite` for the data folder.
        #[arg(long)]
        to: String,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Place {
    /// The data folder.
    Embedded,
    /// The Qdrant server of `[index]` in the settings.
    Server,
}

#[derive(Debug, Args)]
pub struct VectorsArgs {
    /// Where the index goes; what was there is replaced once all is copied.
    #[arg(long, value_enum, required_unless_present = "check")]
    to: Option<Place>,
    /// Compare both places, after the copy if there is one: the first ten items of so many searches by texts of the memory.
    #[arg(long, value_name = "SEARCHES")]
    check: Option<usize>,
}

/// Both places, open.
struct Both {
    embedded: Arc<dyn Transfer>,
    server: Arc<dyn Transfer>,
}

pub async fn run(settings: Settings, command: MigrateCommand) -> Result<()> {
    let args = match command {
        MigrateCommand::Vectors(args) => args,
        MigrateCommand::Store { to } => return migrate_store::run(settings, &to).await,
    };
    if let Some((key, reason)) = settings.index.server_problem() {
        bail!("settings: {key}: {reason}");
    }
    let opened = settings.clone();
    let both = tokio::task::spawn_blocking(move || open(&opened, args.to)).await??;
    if let Some(place) = args.to {
        let (from, to) = match place {
            Place::Server => (Arc::clone(&both.embedded), Arc::clone(&both.server)),
            Place::Embedded => (Arc::clone(&both.server), Arc::clone(&both.embedded)),
        };
        tokio::task::spawn_blocking(move || copied(from.as_ref(), to.as_ref())).await??;
        let kind = match place {
            Place::Server => "server",
            Place::Embedded => "embedded",
        };
        println!("To use it, set in respondo.toml and start the service again:\n\n[index]\nkind = \"{kind}\"");
    }
    match args.check {
        Some(searches) => check(&settings, both, searches).await,
        None => Ok(()),
    }
}

fn open(settings: &Settings, to: Option<Place>) -> Result<Both> {
    let embedder = load_embedder(settings)?;
    let (model, dimensions) = (embedder.name(), embedder.dimensions());
    let folder = settings.data.folder.join(INDEX_FOLDER);
    let embedded = embedded(&folder, model, dimensions, matches!(to, Some(Place::Embedded)))?;
    let server = ServerStore::new(&settings.index, model, dimensions)?;
    match server.prepare() {
        Err(RetrieveError::Rebuild { .. }) if matches!(to, Some(Place::Server)) => server.clear()?,
        prepared => drop(prepared?),
    }
    Ok(Both { embedded, server: Arc::new(server) })
}

/// The index in the data folder; one that is to be replaced may be damaged.
#[cfg(feature = "edge")]
fn embedded(folder: &Path, model: &str, dimensions: usize, replaced: bool) -> Result<Arc<dyn Transfer>> {
    use crate::retrieve::edge::EdgeStore;
    let store = match EdgeStore::open(folder, model, dimensions) {
        Err(RetrieveError::Rebuild { .. }) if replaced => EdgeStore::reset(folder, model, dimensions)?,
        opened => opened?,
    };
    Ok(Arc::new(store))
}

#[cfg(not(feature = "edge"))]
fn embedded(_: &Path, _: &str, _: usize, _: bool) -> Result<Arc<dyn Transfer>> {
    bail!("this program was built without the embedded engine; build it with the feature `edge`")
}

fn copied(from: &dyn Transfer, to: &dyn Transfer) -> Result<()> {
    let wanted = from.count()?;
    ensure!(wanted > 0, "there is nothing to copy; `respondo reindex` fills an index from the store");
    let bar = bar("copying {bar:30} {pos}/{len} points  {per_sec}  {eta} left");
    bar.set_length(wanted);
    let copied = copy(from, to, &mut |done| bar.set_position(done))?;
    bar.finish_and_clear();
    let arrived = to.count()?;
    ensure!(
        copied == wanted && arrived == wanted,
        "{wanted} points were to be copied, {copied} were read and {arrived} arrived; stop what writes to the index and \
         copy again"
    );
    println!("copied {copied} points");
    Ok(())
}

async fn check(settings: &Settings, both: Both, searches: usize) -> Result<()> {
    let store = open_store_shared(settings).await?;
    let embedded = Arc::clone(&both.embedded);
    let points = tokio::task::spawn_blocking(move || asked(embedded.as_ref(), searches)).await??;
    let ids: Vec<String> = points.iter().map(|search| search.text.clone()).collect();
    let items = store.items(&ids).await?;
    store.close().await;
    let searches: Vec<SearchQuery> = points.into_iter().filter_map(|search| with_text(search, &items)).collect();
    ensure!(!searches.is_empty(), "the index holds no item of the memory; `respondo reindex` fills it");
    let bar = bar("comparing {bar:30} {pos}/{len} searches  {eta} left");
    bar.set_length(searches.len() as u64);
    let compared = tokio::task::spawn_blocking(move || compared(&both, &searches, &bar)).await??;
    for difference in compared.differences.iter().take(SHOWN) {
        println!("  {difference}");
    }
    println!("{} of {} searches find the same ten items first", compared.same, compared.searches);
    ensure!(compared.same == compared.searches, "the two indexes differ; copy again, or reindex both");
    Ok(())
}

fn compared(both: &Both, searches: &[SearchQuery], bar: &ProgressBar) -> Result<Comparison> {
    let (one, other): (&dyn VectorStore, &dyn VectorStore) = (both.embedded.as_ref(), both.server.as_ref());
    let compared = compare(one, other, searches, &mut |done| bar.set_position(done));
    bar.finish_and_clear();
    compared.context("comparing")
}

/// Searches by the first items by id; ids are hashes, so these are a fair sample. Their text is the item's id yet.
fn asked(store: &dyn Transfer, wanted: usize) -> Result<Vec<SearchQuery>> {
    let (mut searches, mut next) = (Vec::new(), None);
    while searches.len() < wanted {
        let (points, after) = store.page(next, PAGE)?;
        let first_passages = points.into_iter().filter(|point| point.passage == 0);
        searches.extend(first_passages.map(|point| SearchQuery {
            vector: point.problem,
            text: point.memory_id,
            language: point.language,
            filter: Filter::default(),
            limit: CANDIDATES,
        }));
        next = after;
        if next.is_none() {
            break;
        }
    }
    searches.truncate(wanted);
    Ok(searches)
}

/// None for an item that the store has no more.
fn with_text(search: SearchQuery, items: &[MemoryItem]) -> Option<SearchQuery> {
    let item = items.iter().find(|item| item.id == search.text)?;
    Some(SearchQuery { text: format!("{}\n{}", item.title, item.problem), ..search })
}
