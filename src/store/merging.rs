//! Merging a duplicate: two tickets of one customer become one conversation.

use serde_json::json;
use sqlx::AnyConnection;
use sqlx::Row;
use uuid::Uuid;

use super::handling::{audit, last_author};
use super::rows::{self, load_ticket, now_ms};
use super::tickets::{set_state, supersede_drafts, taken_over};
use super::{Store, StoreError};
use crate::ticket::{Author, Ticket, TicketState};

impl Store {
    /// Moves a duplicate's messages into another ticket, in the order in which they were written, and sets the duplicate
    /// aside. What the customer writes to the duplicate from now on is added to the other one, which is worked on again
    /// where its last word is the customer's. Gives the ticket that has the conversation.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a ticket and itself; [`StoreError::Conflict`] when the tickets are of two customers,
    /// since each would read the other's words, or when the duplicate was merged before.
    pub async fn merge(&self, duplicate: Uuid, into: Uuid, by: &str) -> Result<Ticket, StoreError> {
        let mut tx = self.write().await?;
        let from = load_ticket(&mut tx, duplicate).await?;
        if survivor(&mut tx, duplicate).await? != duplicate {
            return Err(StoreError::Conflict("this ticket was merged into another one before".to_owned()));
        }
        let into = survivor(&mut tx, into).await?;
        if into == duplicate {
            return Err(StoreError::Invalid("a ticket cannot be merged into itself".to_owned()));
        }
        let to = load_ticket(&mut tx, into).await?;
        if let (Some(one), Some(other)) = (&from.customer, &to.customer)
            && one != other
        {
            return Err(StoreError::Conflict(format!(
                "the tickets are of two customers, {one} and {other}: each would read the other's words"
            )));
        }
        let now = now_ms();
        move_conversation(&mut tx, duplicate, into).await?;
        supersede_drafts(&mut tx, duplicate).await?;
        sqlx::query(
            "UPDATE tickets SET merged_into = $1, assignee = NULL, taken_over = 0, snoozed_until = NULL WHERE id = $2",
        )
        .bind(into.to_string())
        .bind(duplicate.to_string())
        .execute(&mut *tx)
        .await?;
        set_state(&mut tx, duplicate, TicketState::Discarded, now).await?;
        sqlx::query("DELETE FROM ticket_vectors WHERE ticket_id = $1")
            .bind(duplicate.to_string())
            .execute(&mut *tx)
            .await?;
        let state = match last_author(&mut tx, into).await? {
            Some(Author::Customer) if taken_over(&mut tx, into).await? => TicketState::Escalated,
            Some(Author::Customer) => TicketState::Received,
            _ => to.state,
        };
        if state == TicketState::Received {
            supersede_drafts(&mut tx, into).await?;
        }
        set_state(&mut tx, into, state, now).await?;
        for (ticket, detail) in [(duplicate, json!({ "into": into })), (into, json!({ "duplicate": duplicate }))] {
            audit(&mut tx, by, "merged", ticket, detail, now).await?;
        }
        let merged = load_ticket(&mut tx, into).await?;
        tx.commit().await?;
        Ok(merged)
    }

    /// The ticket that has this one's conversation: itself, unless it was merged.
    pub async fn survivor(&self, ticket: Uuid) -> Result<Uuid, StoreError> {
        survivor(&mut *self.reader.acquire().await?, ticket).await
    }
}

/// See [`Store::survivor`]. Only survivors are merged into, so a chain ends.
pub(super) async fn survivor(conn: &mut AnyConnection, ticket: Uuid) -> Result<Uuid, StoreError> {
    let mut survivor = ticket;
    loop {
        let row = sqlx::query("SELECT merged_into FROM tickets WHERE id = $1")
            .bind(survivor.to_string())
            .fetch_optional(&mut *conn)
            .await?;
        let next = row.map(|row| rows::optional_id(&row, "merged_into")).transpose()?.flatten();
        match next {
            Some(next) => survivor = next,
            None => return Ok(survivor),
        }
    }
}

async fn move_conversation(conn: &mut AnyConnection, from: Uuid, to: Uuid) -> Result<(), StoreError> {
    let messages = sqlx::query("SELECT id FROM messages WHERE ticket_id IN ($1, $2) ORDER BY created_at, id")
        .bind(from.to_string())
        .bind(to.to_string())
        .fetch_all(&mut *conn)
        .await?;
    // Places are unique: first the new ones as negative numbers, then all turned round at once.
    for (index, row) in messages.iter().enumerate() {
        sqlx::query("UPDATE messages SET ticket_id = $1, position = $2 WHERE id = $3")
            .bind(to.to_string())
            .bind(-1 - i64::try_from(index).unwrap_or(i64::MAX - 1))
            .bind(row.try_get::<String, _>("id")?)
            .execute(&mut *conn)
            .await?;
    }
    sqlx::query("UPDATE messages SET position = -position WHERE ticket_id = $1")
        .bind(to.to_string())
        .execute(&mut *conn)
        .await?;
    for moves in [
        "UPDATE outbox SET ticket_id = $1 WHERE ticket_id = $2 AND status = 'pending'",
        "UPDATE ticket_words SET ticket_id = $1 WHERE ticket_id = $2",
    ] {
        sqlx::query(moves).bind(to.to_string()).bind(from.to_string()).execute(&mut *conn).await?;
    }
    Ok(())
}
