//! `respondo stats`: what is stored.

use std::io::Write;

use anyhow::Result;

use crate::app::open_store_shared;
use crate::settings::Settings;

pub async fn run(settings: Settings, json: bool) -> Result<()> {
    let store = open_store_shared(&settings).await?;
    let stats = store.stats().await?;
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &stats)?;
        writeln!(out)?;
        return Ok(());
    }
    let counts = |rows: &[(String, u64)]| {
        rows.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    };
    writeln!(out, "data      {} ({:.1} MB)", store.path().display(), stats.bytes as f64 / 1e6)?;
    writeln!(out, "tickets   {} of {} customers, {} messages", stats.tickets, stats.customers, stats.messages)?;
    writeln!(out, "  state   {}", counts(&stats.tickets_by_state))?;
    writeln!(out, "drafts    {}", stats.drafts)?;
    writeln!(out, "  decided {}", counts(&stats.decisions_by_action))?;
    writeln!(out, "  outcome {}", counts(&stats.outcomes))?;
    writeln!(out, "outbox    {} to be sent", stats.outbox_pending)?;
    let memory = &stats.memory;
    writeln!(out, "memory    {} items, {} wait to be indexed", memory.items, memory.unindexed)?;
    writeln!(out, "  kind    {}", counts(&memory.by_kind))?;
    writeln!(out, "  lang    {}", counts(&memory.by_language))?;
    writeln!(out, "  product {}", counts(&memory.by_product))?;
    writeln!(out, "  index   {}", counts(&memory.generations))?;
    if let Some(time) = memory.expected_time {
        let (median, most) = (time.median_hours, time.p90_hours);
        writeln!(out, "  solved  half within {median:.1} h, nine of ten within {most:.1} h")?;
    }
    writeln!(out, "vectors   {} texts in the cache", stats.cached_embeddings)?;
    Ok(())
}
