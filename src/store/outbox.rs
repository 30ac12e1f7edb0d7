//! Replies on their way to the customer.
//!
//! A reply is put here in the transaction that decides on it, so it is never decided and forgotten; unique keys see to
//! it that it is put here once. A sender claims a row for the time of a lease, sends, and marks it sent. When a sender
//! dies between sending and marking, the row is claimed again after the lease with `attempts` above 1 and the same
//! idempotency key: a channel passes the key on where its provider takes one, and asks the provider where it does not. What
//! goes to the ticket's own event stream needs none of that: [`Store::deliver`] is one transaction.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use sqlx::AnyConnection;
use uuid::Uuid;

use super::events::append;
use super::rows::{self, now_ms};
use super::{EventRow, Store, StoreError};
use crate::ticket::{Author, Message};

/// Longest pause between two attempts, in seconds; the pauses double from 2 s.
const LONGEST_PAUSE_S: i64 = 300;

/// A message to be sent, claimed by one sender.
#[derive(Clone, Debug)]
pub struct OutboxRow {
    pub id: Uuid,
    pub ticket_id: Uuid,
    pub message_id: Uuid,
    pub channel: String,
    pub customer: Option<String>,
    pub subject: String,
    pub author: Author,
    /// Name of the agent who wrote it, if one did.
    pub agent: Option<String>,
    pub body: String,
    /// The same at every attempt, and different for every message.
    pub idempotency_key: String,
    /// This attempt included; above 1 the message may have gone out already.
    pub attempts: i64,
    pub last_error: Option<String>,
    pub created_at: Timestamp,
}

impl Store {
    /// Claims up to `limit` messages that wait to be sent, oldest first, for `lease_s` seconds each.
    pub async fn claim_outbox(&self, limit: u32, lease_s: u32) -> Result<Vec<OutboxRow>, StoreError> {
        let now = now_ms();
        // No message is made to wait for longer: one that seems to was written before the clock was set back, and is due.
        let longest_wait = 2 * LONGEST_PAUSE_S.max(lease_s.into()) * 1000;
        // Asked at every tick of the sender: a read is free, an empty write transaction keeps others waiting.
        let waiting = sqlx::query(
            "SELECT id FROM outbox WHERE status = 'pending' AND (not_before <= $1 OR not_before > $2) LIMIT 1",
        )
        .bind(now)
        .bind(now + longest_wait)
        .fetch_optional(&self.reader)
        .await?;
        if waiting.is_none() {
            return Ok(Vec::new());
        }
        let mut tx = self.write().await?;
        let found = sqlx::query(
            "SELECT o.id, o.ticket_id, o.message_id, o.idempotency_key, o.attempts + 1 AS attempts, o.last_error, \
                    o.created_at, m.author, m.agent, m.body, t.channel, t.customer, t.subject \
             FROM outbox o JOIN messages m ON m.id = o.message_id JOIN tickets t ON t.id = o.ticket_id \
             WHERE o.status = 'pending' AND (o.not_before <= $1 OR o.not_before > $2) \
             ORDER BY o.created_at, o.id LIMIT $3",
        )
        .bind(now)
        .bind(now + longest_wait)
        .bind(i64::from(limit))
        .fetch_all(&mut *tx)
        .await?;
        let claimed: Vec<OutboxRow> = found.iter().map(outbox_row).collect::<Result<_, StoreError>>()?;
        for row in &claimed {
            sqlx::query("UPDATE outbox SET attempts = attempts + 1, not_before = $1 WHERE id = $2")
                .bind(now + i64::from(lease_s) * 1000)
                .bind(row.id.to_string())
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(claimed)
    }

    /// The message has gone out. Saying it twice does no harm.
    pub async fn mark_sent(&self, id: Uuid) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let changed = sqlx::query(
            "UPDATE outbox SET status = 'sent', last_error = NULL, sent_at = COALESCE(sent_at, $1) WHERE id = $2",
        )
        .bind(now_ms())
        .bind(id.to_string())
        .execute(&mut *tx)
        .await?;
        if changed.rows_affected() == 0 {
            return Err(StoreError::NotFound(format!("message {id} in the outbox")));
        }
        tx.commit().await?;
        Ok(())
    }

    /// Delivers claimed messages whose channel is the ticket's own event stream: their events and the mark that they were sent,
    /// all or nothing. Gives the event of each, to be told to those who follow its ticket; None where it was sent before, or
    /// its ticket erased.
    pub async fn deliver(&self, rows: &[OutboxRow]) -> Result<Vec<Option<EventRow>>, StoreError> {
        let now = now_ms();
        let mut told = Vec::with_capacity(rows.len());
        let mut tx = self.write().await?;
        for row in rows {
            let changed = sqlx::query(
                "UPDATE outbox SET status = 'sent', last_error = NULL, sent_at = $1 WHERE id = $2 AND status = 'pending'",
            )
            .bind(now)
            .bind(row.id.to_string())
            .execute(&mut *tx)
            .await?;
            if changed.rows_affected() == 0 {
                told.push(None);
                continue;
            }
            let message = json!({
                "message_id": row.message_id, "author": row.author, "agent": row.agent, "body": row.body,
            });
            told.push(Some(append(&mut tx, row.ticket_id, "message", message, now).await?));
        }
        tx.commit().await?;
        Ok(told)
    }

    /// Sending failed: gives the row back, to be tried again after a pause that doubles with every attempt. A row that was
    /// sent in the meantime stays sent.
    pub async fn release(&self, id: Uuid, error: &str) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let row = sqlx::query("SELECT attempts FROM outbox WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&mut *tx)
            .await?
            .ok_or_else(|| StoreError::NotFound(format!("message {id} in the outbox")))?;
        let pause_s = pause_seconds(rows::integer(&row, "attempts")?);
        sqlx::query("UPDATE outbox SET not_before = $1, last_error = $2 WHERE id = $3 AND status = 'pending'")
            .bind(now_ms() + pause_s * 1000)
            .bind(error)
            .bind(id.to_string())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }
}

fn pause_seconds(attempts: i64) -> i64 {
    let doublings = attempts.clamp(1, 16);
    (1_i64 << doublings).min(LONGEST_PAUSE_S)
}

/// Puts a message into the outbox, in the transaction that made it. `idempotency_key` names the occasion (the draft, the
/// message acknowledged), so that a second reply on the same occasion fails with [`StoreError::Conflict`]. It is not sent
/// before `hold` is over.
pub(super) async fn insert(
    conn: &mut AnyConnection,
    message: &Message,
    idempotency_key: &str,
    now: i64,
    hold: Duration,
) -> Result<(), StoreError> {
    let inserted = sqlx::query(
        "INSERT INTO outbox (id, ticket_id, message_id, idempotency_key, status, not_before, created_at) \
         VALUES ($1, $2, $3, $4, 'pending', $5, $6)",
    )
    .bind(Uuid::now_v7().to_string())
    .bind(message.ticket_id.to_string())
    .bind(message.id.to_string())
    .bind(idempotency_key)
    .bind(now.saturating_add(i64::try_from(hold.as_millis()).unwrap_or(i64::MAX)))
    .bind(now)
    .execute(conn)
    .await;
    match inserted {
        Ok(_) => Ok(()),
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
            Err(StoreError::Conflict(format!("{idempotency_key} was replied to already")))
        }
        Err(error) => Err(error.into()),
    }
}

fn outbox_row(row: &sqlx::any::AnyRow) -> Result<OutboxRow, StoreError> {
    Ok(OutboxRow {
        id: rows::id(row, "id")?,
        ticket_id: rows::id(row, "ticket_id")?,
        message_id: rows::id(row, "message_id")?,
        channel: rows::text(row, "channel")?,
        customer: rows::optional_text(row, "customer")?,
        subject: rows::text(row, "subject")?,
        author: rows::named(row, "author")?,
        agent: rows::optional_text(row, "agent")?,
        body: rows::text(row, "body")?,
        idempotency_key: rows::text(row, "idempotency_key")?,
        attempts: rows::integer(row, "attempts")?,
        last_error: rows::optional_text(row, "last_error")?,
        created_at: rows::time(row, "created_at")?,
    })
}
