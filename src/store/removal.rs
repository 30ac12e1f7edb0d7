//! Conversations that go with all that hangs on them, and how what is left stays right.

use std::ops::AddAssign;

use serde::Serialize;
use sqlx::AnyConnection;
use uuid::Uuid;

use super::statement::Statement;
use super::{Dialect, Store, StoreError};

/// Tickets per statement: bound values stay far below the limit of 32,766, also where a statement names them twice.
const TICKETS: usize = 500;
/// Up to this size a SQLite file is written anew after an erasure beside a running service: a second or two, in which others
/// wait to write.
const WRITTEN_ANEW_BYTES: u64 = 256 << 20;

/// What went with some tickets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    pub tickets: u64,
    pub messages: u64,
    pub files: u64,
    pub drafts: u64,
    pub decisions: u64,
    pub events: u64,
    /// Replies that had not gone out yet; nobody sends them now.
    pub unsent: u64,
}

impl AddAssign for Removed {
    fn add_assign(&mut self, other: Self) {
        self.tickets += other.tickets;
        self.messages += other.messages;
        self.files += other.files;
        self.drafts += other.drafts;
        self.decisions += other.decisions;
        self.events += other.events;
        self.unsent += other.unsent;
    }
}

/// Whether a SQLite file is written anew after something was deleted from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// Deleted content is overwritten, which leaves copies where pages were split before.
    No,
    /// Where that is quick.
    IfSmall,
    Yes,
}

/// Deletes tickets with everything that refers to them, in the caller's transaction; the audit trail stays. With
/// `keep_figures` the counts of the desk stay as well.
pub(super) async fn remove_tickets(
    conn: &mut AnyConnection,
    dialect: Dialect,
    tickets: &[Uuid],
    keep_figures: bool,
) -> Result<Removed, StoreError> {
    let mut removed = Removed::default();
    for chunk in tickets.chunks(TICKETS) {
        let ids: Vec<String> = chunk.iter().map(Uuid::to_string).collect();
        if keep_figures {
            keep_counts(conn, dialect, &ids).await?;
        }
        removed += remove_chunk(conn, &ids).await?;
    }
    Ok(removed)
}

async fn remove_chunk(conn: &mut AnyConnection, ids: &[String]) -> Result<Removed, StoreError> {
    // Merging moves messages and leaves what is about them where it was.
    let of_ticket_or_message =
        "ticket_id IN ({ids}) OR message_id IN (SELECT id FROM messages WHERE ticket_id IN ({ids}))";
    let unsent = format!("DELETE FROM outbox WHERE status = 'pending' AND ({of_ticket_or_message})");
    let mut removed = Removed { unsent: run(conn, &unsent, ids).await?, ..Removed::default() };
    for table in ["outbox", "idempotency_keys"] {
        run(conn, &format!("DELETE FROM {table} WHERE {of_ticket_or_message}"), ids).await?;
    }
    let files = "DELETE FROM attachments WHERE message_id IN (SELECT id FROM messages WHERE ticket_id IN ({ids}))";
    removed.files = run(conn, files, ids).await?;
    // In an order in which nothing is deleted that something still refers to.
    for table in ["outcomes", "triages", "ticket_vectors", "corrections", "ticket_words"] {
        of_tickets(conn, table, ids).await?;
    }
    removed.decisions = of_tickets(conn, "decisions", ids).await?;
    removed.drafts = of_tickets(conn, "drafts", ids).await?;
    removed.events = of_tickets(conn, "events", ids).await?;
    removed.messages = of_tickets(conn, "messages", ids).await?;
    run(conn, "UPDATE tickets SET merged_into = NULL WHERE merged_into IN ({ids})", ids).await?;
    removed.tickets = run(conn, "DELETE FROM tickets WHERE id IN ({ids})", ids).await?;
    Ok(removed)
}

async fn of_tickets(conn: &mut AnyConnection, table: &str, ids: &[String]) -> Result<u64, StoreError> {
    run(conn, &format!("DELETE FROM {table} WHERE ticket_id IN ({{ids}})"), ids).await
}

/// Adds the tickets to the counts of removed ones.
async fn keep_counts(conn: &mut AnyConnection, dialect: Dialect, ids: &[String]) -> Result<(), StoreError> {
    let automatic = dialect.json_is_true("d.decision", &["automatic"]);
    let counts = [
        "SELECT t.created_at / 86400000, COALESCE(t.queue, ''), 'asked', COUNT(*) FROM tickets t \
         WHERE t.id IN ({ids}) GROUP BY 1, 2"
            .to_owned(),
        "SELECT o.created_at / 86400000, COALESCE(t.queue, ''), o.outcome, COUNT(*) \
         FROM outcomes o JOIN tickets t ON t.id = o.ticket_id WHERE o.ticket_id IN ({ids}) GROUP BY 1, 2, 3"
            .to_owned(),
        format!(
            "SELECT d.created_at / 86400000, COALESCE(t.queue, ''), 'automatic', COUNT(*) \
             FROM decisions d JOIN tickets t ON t.id = d.ticket_id WHERE d.ticket_id IN ({{ids}}) AND {automatic} \
             GROUP BY 1, 2"
        ),
    ];
    for count in counts {
        let query = format!(
            "INSERT INTO past_figures (day, queue, what, n) {count} \
             ON CONFLICT (day, queue, what) DO UPDATE SET n = past_figures.n + excluded.n"
        );
        run(conn, &query, ids).await?;
    }
    Ok(())
}

/// Runs a statement with the ids in the place of every `{ids}`; gives the number of rows.
pub(super) async fn run(conn: &mut AnyConnection, sql: &str, ids: &[String]) -> Result<u64, StoreError> {
    let mut query = Statement::new("");
    for (index, piece) in sql.split("{ids}").enumerate() {
        if index > 0 {
            query.push_list(ids.iter().map(String::as_str));
        }
        query.push(piece);
    }
    Ok(query.build().execute(conn).await?.rows_affected())
}

impl Store {
    /// Sees to it that what was deleted is not on the disk any more. In a SQLite file: the search's index of words, the pages
    /// and the write-ahead log. A PostgreSQL server overwrites in its own time (autovacuum, its own log).
    ///
    /// What cannot be done now, since another program reads the file, is done by a later call, and is only logged.
    pub async fn fold(&self, rewrite: Rewrite) {
        if self.dialect != Dialect::Sqlite {
            return;
        }
        let small = std::fs::metadata(self.path()).is_ok_and(|file| file.len() <= WRITTEN_ANEW_BYTES);
        let mut steps = Vec::new();
        if rewrite == Rewrite::Yes || (rewrite == Rewrite::IfSmall && small) {
            steps.extend(["INSERT INTO ticket_words (ticket_words) VALUES ('optimize')", "VACUUM"]);
        }
        steps.push("PRAGMA wal_checkpoint(TRUNCATE)");
        for step in steps {
            if let Err(error) = sqlx::query(step).execute(&self.writer).await {
                tracing::warn!(%error, step, "deleted text may stay in the files until the next time");
            }
        }
    }
}
