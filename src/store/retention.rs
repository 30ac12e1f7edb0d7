//! What is old enough to go: closed conversations, their files, events, idempotency keys; a batch at a time.
//!
//! A conversation is closed when it waits neither for the team nor in a snooze, and nothing of it waits to be sent. How old
//! it is, its last message says. The present is an argument everywhere.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::removal::remove_tickets;
use super::rows::{self, now_ms};
use super::statement::Statement;
use super::work::milliseconds;
use super::{Audit, Removed, Store, StoreError, write_audit};

/// Whose conversations a rule is about.
#[derive(Clone, Copy, Debug)]
pub enum Queues<'a> {
    /// One queue.
    Named(&'a str),
    /// All but these, and what has no queue.
    Others(&'a [String]),
}

/// What a rule takes away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expiring {
    pub tickets: u64,
    pub messages: u64,
    /// Files of conversations that stay.
    pub files: u64,
    pub events: u64,
    pub idempotency_keys: u64,
}

/// Closed tickets `t` at a time.
fn push_closed<'q>(query: &mut Statement<'q>, queues: &Queues<'q>, now: Timestamp) {
    query.push(
        "t.state IN ('answered', 'waiting', 'discarded') AND t.merged_into IS NULL \
         AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.ticket_id = t.id AND o.status = 'pending') \
         AND (t.snoozed_until IS NULL OR t.snoozed_until <= ",
    );
    query.push_bind(now.as_millisecond()).push(")");
    match queues {
        Queues::Named(name) => {
            query.push(" AND t.queue = ").push_bind(*name);
        }
        Queues::Others([]) => {}
        Queues::Others(names) => {
            query.push(" AND (t.queue IS NULL OR t.queue NOT IN (");
            query.push_list(names.iter().map(String::as_str)).push("))");
        }
    }
}

/// Closed tickets that nobody has written to since `before`.
fn push_expired<'q>(query: &mut Statement<'q>, queues: &Queues<'q>, before: Timestamp, now: Timestamp) {
    query.push("SELECT t.id FROM tickets t WHERE t.created_at < ").push_bind(before.as_millisecond()).push(" AND ");
    push_closed(query, queues, now);
    query.push(" AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.ticket_id = t.id AND m.created_at >= ");
    query.push_bind(before.as_millisecond()).push(")");
}

/// Files from before `before` of closed tickets.
fn push_expired_files<'q>(query: &mut Statement<'q>, queues: &Queues<'q>, before: Timestamp, now: Timestamp) {
    query.push(
        "SELECT a.id FROM attachments a JOIN messages f ON f.id = a.message_id JOIN tickets t ON t.id = f.ticket_id \
         WHERE a.created_at < ",
    );
    query.push_bind(before.as_millisecond()).push(" AND ");
    push_closed(query, queues, now);
}

impl Store {
    /// How many tickets and messages [`Store::remove_expired`] would remove in all.
    pub async fn expired(
        &self,
        queues: Queues<'_>,
        before: Timestamp,
        now: Timestamp,
    ) -> Result<(u64, u64), StoreError> {
        let mut query = Statement::new("SELECT (SELECT COUNT(*) FROM (");
        push_expired(&mut query, &queues, before, now);
        query.push(") AS tickets_that_go) AS tickets, (SELECT COUNT(*) FROM messages WHERE ticket_id IN (");
        push_expired(&mut query, &queues, before, now);
        query.push(")) AS messages");
        let row = query.build().fetch_one(&self.reader).await?;
        Ok((rows::count(&row, "tickets")?, rows::count(&row, "messages")?))
    }

    /// How many files [`Store::remove_expired_files`] would remove in all.
    pub async fn expired_files(
        &self,
        queues: Queues<'_>,
        before: Timestamp,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut query = Statement::new("SELECT COUNT(*) AS n FROM (");
        push_expired_files(&mut query, &queues, before, now);
        query.push(") AS files_that_go");
        rows::count(&query.build().fetch_one(&self.reader).await?, "n")
    }

    /// Removes up to `limit` closed conversations that nobody has written to since `before`, with the duplicates that were
    /// merged into them; their counts stay. Gives the tickets; none when there are none.
    pub async fn remove_expired(
        &self,
        queues: Queues<'_>,
        before: Timestamp,
        now: Timestamp,
        limit: u32,
    ) -> Result<(Vec<Uuid>, Removed), StoreError> {
        let mut query = Statement::new("");
        push_expired(&mut query, &queues, before, now);
        query.push(" ORDER BY t.id LIMIT ").push_bind(i64::from(limit));
        // Without the write lock at first: mostly there is nothing.
        if query.build().fetch_optional(&self.reader).await?.is_none() {
            return Ok((Vec::new(), Removed::default()));
        }
        let mut tx = self.write().await?;
        let mut query = Statement::new("");
        push_expired(&mut query, &queues, before, now);
        query.push(" ORDER BY t.id LIMIT ").push_bind(i64::from(limit));
        let mut found = query.build().fetch_all(&mut *tx).await?;
        let mut tickets: Vec<Uuid> = Vec::new();
        while !found.is_empty() {
            let new: Vec<Uuid> = found.iter().map(|row| rows::id(row, "id")).collect::<Result<_, _>>()?;
            let mut merged = Statement::new("SELECT id FROM tickets WHERE merged_into IN (");
            merged.push_list(new.iter().map(Uuid::to_string)).push(")");
            found = merged.build().fetch_all(&mut *tx).await?;
            tickets.extend(new);
        }
        if tickets.is_empty() {
            return Ok((tickets, Removed::default()));
        }
        let removed = remove_tickets(&mut tx, self.dialect, &tickets, true).await?;
        sqlx::query("DELETE FROM customers WHERE NOT EXISTS (SELECT 1 FROM tickets t WHERE t.customer = customers.id)")
            .execute(&mut *tx)
            .await?;
        let detail = json!({ "removed": removed, "tickets": tickets, "without_messages_since": before });
        let entry = Audit { actor: "system", action: "conversations expired", ticket_id: None, subject: None, detail };
        write_audit(&mut tx, entry, now_ms()).await?;
        tx.commit().await?;
        Ok((tickets, removed))
    }

    /// Removes up to `limit` files from before `before` of closed conversations; gives how many.
    pub async fn remove_expired_files(
        &self,
        queues: Queues<'_>,
        before: Timestamp,
        now: Timestamp,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let mut query = Statement::new("");
        push_expired_files(&mut query, &queues, before, now);
        query.push(" LIMIT 1");
        if query.build().fetch_optional(&self.reader).await?.is_none() {
            return Ok(0);
        }
        let mut tx = self.write().await?;
        let mut query = Statement::new("DELETE FROM attachments WHERE id IN (");
        push_expired_files(&mut query, &queues, before, now);
        query.push(" LIMIT ").push_bind(i64::from(limit)).push(")");
        let removed = query.build().execute(&mut *tx).await?.rows_affected();
        let detail = json!({ "files": removed, "older_than": before });
        let entry = Audit { actor: "system", action: "files expired", ticket_id: None, subject: None, detail };
        write_audit(&mut tx, entry, now_ms()).await?;
        tx.commit().await?;
        Ok(removed)
    }

    /// How many events [`Store::remove_expired_events`] would take or empty, and how many keys
    /// [`Store::remove_expired_keys`] would remove.
    pub async fn expired_rows(
        &self,
        events: Option<Timestamp>,
        keys: Option<Timestamp>,
    ) -> Result<(u64, u64), StoreError> {
        let row = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM events WHERE created_at < $1 AND kind <> 'expired') AS events, \
                    (SELECT COUNT(*) FROM idempotency_keys WHERE created_at < $2) AS keys",
        )
        .bind(events.map_or(i64::MIN, |before| before.as_millisecond()))
        .bind(keys.map_or(i64::MIN, |before| before.as_millisecond()))
        .fetch_one(&self.reader)
        .await?;
        Ok((rows::count(&row, "events")?, rows::count(&row, "keys")?))
    }

    /// Removes up to `limit` events from before `before`; gives how many. A ticket's last event stays as an empty one, so
    /// that numbers go on and are never given twice.
    pub async fn remove_expired_events(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let found = sqlx::query(
            "SELECT e.ticket_id, e.seq, (SELECT MAX(l.seq) FROM events l WHERE l.ticket_id = e.ticket_id) AS last \
             FROM events e WHERE e.created_at < $1 AND e.kind <> 'expired' ORDER BY e.created_at LIMIT $2",
        )
        .bind(before.as_millisecond())
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await?;
        if found.is_empty() {
            return Ok(0);
        }
        let mut tx = self.write().await?;
        for row in &found {
            let (ticket, seq) = (rows::text(row, "ticket_id")?, rows::integer(row, "seq")?);
            let change = match seq == rows::integer(row, "last")? {
                true => "UPDATE events SET kind = 'expired', data = '{}' WHERE ticket_id = $1 AND seq = $2",
                false => "DELETE FROM events WHERE ticket_id = $1 AND seq = $2",
            };
            sqlx::query(change).bind(ticket).bind(seq).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(found.len() as u64)
    }

    /// Removes up to `limit` idempotency keys from before `before`; gives how many.
    pub async fn remove_expired_keys(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        if self.expired_rows(None, Some(before)).await?.1 == 0 {
            return Ok(0);
        }
        let mut tx = self.write().await?;
        let removed = sqlx::query(
            "DELETE FROM idempotency_keys WHERE (scope, key) IN \
                 (SELECT scope, key FROM idempotency_keys WHERE created_at < $1 LIMIT $2)",
        )
        .bind(before.as_millisecond())
        .bind(i64::from(limit))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(removed.rows_affected())
    }

    /// Takes a task for `lease`, or goes on having it; false while another `holder` has it. By the database's clock.
    pub async fn lease_task(&self, name: &str, holder: &str, lease: Duration) -> Result<bool, StoreError> {
        let now = self.dialect.now();
        let mut tx = self.write().await?;
        let taken = sqlx::query(&format!(
            "INSERT INTO task_leases (name, holder, held_until) VALUES ($1, $2, {now} + $3) \
             ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until \
             WHERE task_leases.held_until <= {now} OR task_leases.holder = excluded.holder"
        ))
        .bind(name)
        .bind(holder)
        .bind(milliseconds(lease))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(taken.rows_affected() == 1)
    }
}
