//! `respondo migrate store`: everything that is stored, from SQLite to PostgreSQL or back.

use std::io::Write;

use anyhow::{Result, ensure};

use crate::app::open_store;
use crate::settings::Settings;
use crate::store::Store;

/// Copies from where the settings say into the other database, which must be empty. The service has to be stopped.
///
/// # Errors
/// When the store is in use, the target is not empty, or either does not answer.
pub async fn run(settings: Settings, to: &str) -> Result<()> {
    let schema = &settings.database.schema;
    let target = match to {
        "sqlite" => {
            ensure!(
                !settings.database.url.is_empty(),
                "the settings name no PostgreSQL to copy from; set database.url, or say --to postgres://..."
            );
            Store::open(&settings.data.folder).await?
        }
        url => Store::open_server(url, schema).await?,
    };
    // For writing: it keeps a service that has the store to itself from starting meanwhile.
    let source = open_store(&settings).await?;
    let mut out = std::io::stdout().lock();
    let mut written = Ok(());
    let copied = source.copy_into(&target, |table, rows| {
        if written.is_ok() && rows > 0 {
            written = writeln!(out, "{table:<17} {rows}");
        }
    });
    copied.await?;
    written?;
    match to {
        "sqlite" => {
            writeln!(out, "Copied into {}. Empty database.url in the settings to use it.", target.path().display())?
        }
        _ => writeln!(
            out,
            "Copied into {}. Set database.url (or RESPONDO_DATABASE__URL) to use it.",
            target.path().display()
        )?,
    }
    writeln!(out, "The next start fills the search index from it; vectors come from the cache that was copied.")?;
    source.close().await;
    target.close().await;
    Ok(())
}
