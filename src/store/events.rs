//! What a client that follows a ticket is shown, kept so that it can reconnect without a gap.
//!
//! Every call is a synced transaction: write stages and whole sentences, or many tokens in one call, not one token each.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use sqlx::AnyConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use super::rows::{self, now_ms, timestamp};
use super::{Store, StoreError};

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct EventRow {
    /// 1, 2, 3 ... in its ticket.
    pub seq: i64,
    pub kind: String,
    #[schema(value_type = Object)]
    pub data: Value,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Appends an event in the transaction that makes what it tells of.
pub(super) async fn append(
    conn: &mut AnyConnection,
    ticket_id: Uuid,
    kind: &str,
    data: Value,
    now: i64,
) -> Result<EventRow, StoreError> {
    let inserted = sqlx::query(
        "INSERT INTO events (ticket_id, seq, kind, data, created_at) \
         SELECT $1, COALESCE(MAX(seq), 0) + 1, $2, $3, $4 FROM events WHERE ticket_id = $5 RETURNING seq",
    )
    .bind(ticket_id.to_string())
    .bind(kind)
    .bind(data.to_string())
    .bind(now)
    .bind(ticket_id.to_string())
    .fetch_one(conn)
    .await;
    let row = match inserted {
        Err(sqlx::Error::Database(error)) if error.is_foreign_key_violation() => {
            return Err(StoreError::NotFound(format!("ticket {ticket_id}")));
        }
        other => other?,
    };
    Ok(EventRow { seq: rows::integer(&row, "seq")?, kind: kind.to_owned(), data, created_at: timestamp(now)? })
}

impl Store {
    /// Appends events, in their order, and returns them with their numbers in the ticket.
    pub async fn append_events(
        &self,
        ticket_id: Uuid,
        events: Vec<(&'static str, Value)>,
    ) -> Result<Vec<EventRow>, StoreError> {
        let now = now_ms();
        let mut appended = Vec::with_capacity(events.len());
        let mut tx = self.write().await?;
        for (kind, data) in events {
            appended.push(append(&mut tx, ticket_id, kind, data, now).await?);
        }
        tx.commit().await?;
        Ok(appended)
    }

    /// Appends one event and returns its number in the ticket, from 1 on.
    #[cfg(test)]
    pub async fn append_event(&self, ticket_id: Uuid, kind: &'static str, data: &Value) -> Result<i64, StoreError> {
        let appended = self.append_events(ticket_id, vec![(kind, data.clone())]).await?;
        Ok(appended[0].seq)
    }

    /// Number of the ticket's last event, or of its last one of a kind; 0 where there is none.
    pub async fn last_event(&self, ticket_id: Uuid, kind: Option<&str>) -> Result<i64, StoreError> {
        let row = sqlx::query(
            "SELECT COALESCE(MAX(seq), 0) AS last FROM events WHERE ticket_id = $1 AND ($2 IS NULL OR kind = $2)",
        )
        .bind(ticket_id.to_string())
        .bind(kind)
        .fetch_one(&self.reader)
        .await?;
        rows::integer(&row, "last")
    }

    /// Events of a ticket with a number above `seq`, in order; 0 for all.
    pub async fn events_after(&self, ticket_id: Uuid, seq: i64) -> Result<Vec<EventRow>, StoreError> {
        let found = sqlx::query("SELECT * FROM events WHERE ticket_id = $1 AND seq > $2 ORDER BY seq")
            .bind(ticket_id.to_string())
            .bind(seq)
            .fetch_all(&self.reader)
            .await?;
        let event = |row| {
            Ok(EventRow {
                seq: rows::integer(row, "seq")?,
                kind: rows::text(row, "kind")?,
                data: rows::json(row, "data")?,
                created_at: rows::time(row, "created_at")?,
            })
        };
        found.iter().map(event).collect()
    }
}
