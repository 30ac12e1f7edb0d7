//! `respondo audit replay`: a decision made again.

use std::io::Write;

use anyhow::{Result, bail};
use uuid::Uuid;

use crate::app::{App, Need};
use crate::replay::Replay;
use crate::settings::Settings;

/// # Errors
/// When there is no such decision, or something came out differently.
pub async fn run(settings: Settings, id: Uuid) -> Result<()> {
    let app = App::open(settings, Need::Replies).await?;
    app.indexer.catch_up(|_| {}).await?;
    for problem in &app.degraded {
        eprintln!("note: {problem}");
    }
    let replayed = app.pipeline.replay(id).await;
    app.close().await;
    let replay = replayed?;
    write_replay(&mut std::io::stdout().lock(), &replay)?;
    if !replay.is_same() {
        bail!("the replay of decision {} came out differently", replay.decision);
    }
    Ok(())
}

fn write_replay(out: &mut impl Write, replay: &Replay) -> std::io::Result<()> {
    let said = |same| if same { "the same" } else { "different" };
    writeln!(out, "replayed  decision {} of ticket {} ({} messages)", replay.decision, replay.ticket, replay.messages)?;
    writeln!(out, "judgement {}", replay.same_judgement.map_or("not recorded", said))?;
    writeln!(out, "decision  {}", said(replay.same_decision))?;
    writeln!(out, "draft     {}", said(replay.same_draft))?;
    for line in &replay.outcome {
        writeln!(out, "  {line}")?;
    }
    match &replay.differences {
        None => writeln!(out, "inputs    not recorded: the decision is from before they were"),
        Some(differences) if differences.is_empty() => writeln!(out, "inputs    the same"),
        Some(differences) => {
            writeln!(out, "inputs    different now:")?;
            differences.iter().try_for_each(|difference| writeln!(out, "  {difference}"))
        }
    }
}
