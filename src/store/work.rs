//! Who works on a ticket, where several processes share the store.
//!
//! A process takes a ticket for some seconds at a time and renews that while it works. One that dies leaves a lease that runs
//! out, and another process goes on. A lease only saves work: that no reply goes out twice is what [`Store::finish`] and the
//! outbox see to. Leases are told by the database's clock, since those of two machines differ.

use std::time::Duration;

use uuid::Uuid;

use super::rows::{self, name_of};
use super::statement::Statement;
use super::{Store, StoreError};
use crate::ticket::TicketState;

impl Store {
    /// Takes a ticket to work on for `lease`, from nobody or from this `worker` itself. False when another one has it. A store
    /// that is not shared has one worker, and nothing is written.
    pub async fn lease_ticket(&self, ticket: Uuid, worker: &str, lease: Duration) -> Result<bool, StoreError> {
        if !self.is_shared() {
            return Ok(true);
        }
        let now = self.dialect.now();
        let mut tx = self.write().await?;
        let taken = sqlx::query(&format!(
            "UPDATE tickets SET worker = $1, worked_until = {now} + $2 \
             WHERE id = $3 AND (worked_until IS NULL OR worked_until <= {now} OR worker = $1)"
        ))
        .bind(worker)
        .bind(milliseconds(lease))
        .bind(ticket.to_string())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(taken.rows_affected() == 1)
    }

    /// Keeps the leases of a worker for another `lease` from now on.
    pub async fn renew_leases(&self, tickets: &[Uuid], worker: &str, lease: Duration) -> Result<(), StoreError> {
        if tickets.is_empty() || !self.is_shared() {
            return Ok(());
        }
        let mut query = Statement::new("UPDATE tickets SET worked_until = ");
        query.push(self.dialect.now()).push(" + ").push_bind(milliseconds(lease));
        query.push(" WHERE worker = ").push_bind(worker).push(" AND id IN (");
        query.push_list(tickets.iter().map(Uuid::to_string)).push(")");
        let mut tx = self.write().await?;
        query.build().execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Lets go of a ticket that this worker has.
    pub async fn release_ticket(&self, ticket: Uuid, worker: &str) -> Result<(), StoreError> {
        if !self.is_shared() {
            return Ok(());
        }
        let mut tx = self.write().await?;
        sqlx::query("UPDATE tickets SET worker = NULL, worked_until = NULL WHERE id = $1 AND worker = $2")
            .bind(ticket.to_string())
            .bind(worker)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Up to `limit` tickets that wait to be worked on, have been left alone for `idle` and are nobody's, oldest first.
    pub async fn abandoned(&self, idle: Duration, limit: u32) -> Result<Vec<Uuid>, StoreError> {
        let now = self.dialect.now();
        let found = sqlx::query(&format!(
            "SELECT id FROM tickets WHERE state = $1 AND updated_at <= {now} - $2 \
             AND (worked_until IS NULL OR worked_until <= {now}) ORDER BY updated_at, id LIMIT $3"
        ))
        .bind(name_of(&TicketState::Received)?)
        .bind(milliseconds(idle))
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await?;
        found.iter().map(|row| rows::id(row, "id")).collect()
    }
}

pub(super) fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 2)
}
