//! `respondo audit verify` and `replay`: whether the audit trail is as it was written, and decisions come out as they did.

use std::io::Write;

use anyhow::{Result, bail};
use clap::Subcommand;
use uuid::Uuid;

use super::replay;
use crate::app::open_store_shared;
use crate::settings::Settings;
use crate::store::AuditHead;

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Check that no line was changed, deleted, inserted or moved; exit code 1 names the first that was.
    ///
    /// Prints the head: the last line and its hash. Note it elsewhere: only by a noted head can it be found that the
    /// end of the trail was cut off, or that all of it was written anew.
    Verify {
        /// A head that was noted before: it must still be in the trail.
        #[arg(long, value_name = "ID:HASH")]
        head: Option<AuditHead>,
    },
    /// Run the pipeline again on what the customer had written when a decision was made, and say whether judgement, decision
    /// and draft come out the same; if not, what has changed since. Nothing is sent or recorded.
    ///
    /// Works with the models, settings and memory of today. Exit code 1: something came out differently. Stop the service
    /// first, or replay on a restored backup.
    Replay {
        /// Of the decision, or of a ticket for its last decision.
        id: Uuid,
    },
}

/// `verify` reads beside a running service.
///
/// # Errors
/// When the trail is broken or cannot be read, or a replay comes out differently.
pub async fn run(settings: Settings, command: AuditCommand) -> Result<()> {
    let noted = match command {
        AuditCommand::Verify { head } => head,
        AuditCommand::Replay { id } => return replay::run(settings, id).await,
    };
    let store = open_store_shared(&settings).await?;
    let check = store.verify_audit(noted.as_ref()).await?;
    if let Some(broken) = check.broken {
        bail!("line {} of the audit trail: {} ({} lines before it are whole)", broken.id, broken.reason, check.lines);
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "audit     {} lines, all as they were written", check.lines)?;
    if check.unchained > 0 {
        writeln!(out, "unchained {} of them, from before the trail was a chain", check.unchained)?;
    }
    if let Some(head) = check.head {
        writeln!(out, "head      {head}")?;
    }
    Ok(())
}
