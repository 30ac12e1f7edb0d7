//! `respondo retention`: what has been kept for long enough goes.

use std::io::Write;

use anyhow::Result;
use jiff::Timestamp;

use crate::app::{open_store, open_store_shared};
use crate::personal::{forget_evaluations, retention};
use crate::settings::Settings;
use crate::store::Expiring;

/// A dry run reads beside a running service; without one the store must not be in use, unless several share it.
pub async fn run(settings: Settings, dry_run: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if dry_run {
        let store = open_store_shared(&settings).await?;
        for (rule, expiring) in retention::plan(&store, &settings.retention, Timestamp::now()).await? {
            write_line(&mut out, &rule, &expiring)?;
        }
        store.close().await;
        writeln!(out, "Nothing was removed. Times are set in [retention].")?;
        return Ok(());
    }
    let store = open_store(&settings).await?;
    let holder = format!("{}/command", std::process::id());
    let total = retention::run(&store, &settings.retention, Timestamp::now(), &holder, |_| {}).await?;
    store.close().await;
    if total.tickets > 0 {
        forget_evaluations();
    }
    write_line(&mut out, "removed", &total)?;
    Ok(())
}

fn write_line(out: &mut impl Write, name: &str, expiring: &Expiring) -> std::io::Result<()> {
    let Expiring { tickets, messages, files, events, idempotency_keys } = expiring;
    writeln!(
        out,
        "{name}: {tickets} conversations with {messages} messages, {files} files, {events} events, \
         {idempotency_keys} idempotency keys"
    )
}
