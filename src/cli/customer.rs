//! `respondo customer export` and `erase`: all that is held about one customer.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Subcommand;
use jiff::Timestamp;

use crate::app::{App, Need, open_store_shared};
use crate::personal::{self, Places, export};
use crate::retrieve::RetrieveError;
use crate::settings::Settings;
use crate::store::{Erasure, Rewrite, StoreError};

/// Who does it, for the audit trail.
const BY: &str = "system";

#[derive(Debug, Subcommand)]
pub enum CustomerCommand {
    /// Write everything about one customer into a ZIP file; also beside a running service.
    Export {
        /// What the channel calls the customer, or the id of a ticket that names nobody.
        id: String,
        /// The file; it must not be there yet.
        #[arg(long, value_name = "FILE.zip")]
        to: PathBuf,
    },
    /// Delete everything about one customer from store, memory and search index. What is in backups stays in them.
    ///
    /// The service must be stopped, or the store in PostgreSQL and the data folder in nobody's use; while it runs,
    /// administrators do this at /desk/customers.
    Erase {
        /// What the channel calls the customer, or the id of a ticket that names nobody.
        #[arg(required_unless_present = "again", conflicts_with = "again")]
        id: Option<String>,
        /// Keep the desk's counts by day and queue right; they name nobody.
        #[arg(long)]
        keep_figures: bool,
        /// Erase once more who was erased before and is there again, as after a restore.
        #[arg(long)]
        again: bool,
    },
}

pub async fn run(settings: Settings, command: CustomerCommand) -> Result<()> {
    match command {
        CustomerCommand::Export { id, to } => export_to(&settings, &id, &to).await,
        CustomerCommand::Erase { id, keep_figures, .. } => erase(settings, id, keep_figures).await,
    }
}

async fn export_to(settings: &Settings, customer: &str, to: &Path) -> Result<()> {
    let store = open_store_shared(settings).await?;
    // Asked first: no file is made for a customer who is not there.
    personal::held(&store, customer).await?;
    let file = new_private_file(to).with_context(|| format!("cannot make {}", to.display()))?;
    let exported = export::export(&store, customer, &file).await;
    store.close().await;
    if exported.is_err() {
        drop(std::fs::remove_file(to));
    }
    let held = exported.with_context(|| format!("cannot write {}", to.display()))?;
    file.sync_all().with_context(|| format!("cannot write {}", to.display()))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "exported  {}", to.display())?;
    writeln!(out, "tickets   {}, {} messages, {} files", held.tickets.len(), held.messages, held.files)?;
    Ok(())
}

/// Readable by its owner only; never in place of a file that is there.
fn new_private_file(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Whether a running service has the store, or the search index beside a shared one.
fn in_use(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(StoreError::Locked(_)))
        || matches!(error.downcast_ref(), Some(RetrieveError::Locked { .. }))
}

async fn erase(settings: Settings, customer: Option<String>, keep_figures: bool) -> Result<()> {
    let app = App::open(settings, Need::Memory).await.map_err(|error| match in_use(&error) {
        true => anyhow!(
            "{error}. While the service runs, an administrator erases customers at /desk/customers; or stop the service"
        ),
        false => error,
    })?;
    let places = Places { store: app.store.clone(), vectors: app.vectors.clone(), live: None };
    let wanted: Vec<(String, Option<Timestamp>)> = match customer {
        Some(customer) => vec![(customer, None)],
        None => app.store.erased_before().await?.into_iter().map(|(who, when)| (who, Some(when))).collect(),
    };
    let mut done = Ok(());
    for (customer, until) in &wanted {
        let erasure = Erasure { by: BY, keep_figures, until: *until };
        done = personal::erase(&places, customer, erasure, Rewrite::Yes).await.map(|(report, learned)| {
            let gone = report.removed;
            println!(
                "erased    {} tickets, {} messages, {} files, {} drafts, {learned} memory items; {} replies not sent",
                gone.tickets, gone.messages, gone.files, gone.drafts, gone.unsent
            );
            println!("known as  {}", report.customer_hash);
        });
        if done.is_err() {
            break;
        }
    }
    app.close().await;
    if let Err(error) = done {
        bail!("{error}");
    }
    if wanted.is_empty() {
        println!("nobody who was erased is there again");
    }
    println!("Backups and files that were exported before hold what they held: remove or replace them.");
    Ok(())
}
