//! `respondo backup` and `restore`: everything that is stored, in one file.

use std::io::Write;
use std::path::Path;

use anyhow::Result;

use crate::app::{INDEX_FOLDER, open_store_shared};
use crate::retrieve::server::settings::IndexKind;
use crate::settings::Settings;
use crate::store::{BackupContent, Store, restore as restore_store};

pub async fn run(settings: Settings, target: &Path) -> Result<()> {
    let store = open_store_shared(&settings).await?;
    let backup = store.backup(target).await?;
    store.close().await;
    let mut out = std::io::stdout().lock();
    writeln!(out, "backup    {} ({:.1} MB)", backup.path.display(), backup.content.bytes as f64 / 1e6)?;
    write_content(&mut out, &backup.content)?;
    writeln!(out, "Keep it as private as the data folder: it holds what customers wrote, and the key to their links.")?;
    Ok(())
}

pub async fn restore(settings: Settings, file: &Path) -> Result<()> {
    let data = &settings.data.folder;
    let restored = restore_store(data, file, &data.join(INDEX_FOLDER)).await?;
    let on_server = settings.index.kind == IndexKind::Server;
    if on_server {
        // What the server holds is of another time than the backup.
        let store = Store::open(data).await?;
        store.mark_all_unindexed().await?;
        store.close().await;
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "restored  {} ({:.1} MB)", restored.path.display(), restored.content.bytes as f64 / 1e6)?;
    write_content(&mut out, &restored.content)?;
    if let Some(old) = restored.old {
        writeln!(out, "before    {} (remove it when all is well, or restore it to go back)", old.display())?;
    }
    if restored.erasures > 0 {
        writeln!(
            out,
            "erased    {} erasures of customers are known that may have come after this backup",
            restored.erasures
        )?;
    }
    writeln!(
        out,
        "Customers who were erased after the backup was made are in it again: before you start the service, run"
    )?;
    writeln!(out, "`respondo customer erase --again`, and once more erase those it does not know.")?;
    match on_server {
        true => writeln!(out, "Run `respondo reindex`: the index on the server is of another time than the backup.")?,
        false => writeln!(out, "Start `respondo serve`: the search index is filled again from the store.")?,
    }
    Ok(())
}

fn write_content(out: &mut impl Write, content: &BackupContent) -> std::io::Result<()> {
    writeln!(out, "tickets   {}, {} messages", content.tickets, content.messages)?;
    writeln!(out, "memory    {} items", content.items)
}
