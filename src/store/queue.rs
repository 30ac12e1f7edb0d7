//! What waits for the team, and the desk's figures.

use serde::Serialize;
use sqlx::Row;
use utoipa::ToSchema;
use uuid::Uuid;

use super::rows::{self, name_of};
use super::statement::Statement;
use super::{Dialect, MemoryStats, Store, StoreError};
use crate::ticket::{Action, Ticket, TicketState};

/// A ticket nobody has judged yet stands among the urgent ones: it may be.
pub(super) const UNJUDGED_URGENCY: i64 = 2;
/// Tickets without a time stand behind those with one.
pub(super) const NO_DUE_TIME: i64 = i64::MAX;

/// States that wait for the team.
pub(super) const WAITING_FOR_TEAM: [TicketState; 3] =
    [TicketState::Received, TicketState::Review, TicketState::Escalated];
/// Columns of a ticket `t`: its latest decision, and the draft that waits for an agent.
pub(super) const LATEST: &str = "(SELECT d.action FROM decisions d WHERE d.ticket_id = t.id ORDER BY d.position DESC LIMIT 1) AS action, \
     (SELECT f.id FROM drafts f WHERE f.ticket_id = t.id AND f.status = 'open' LIMIT 1) AS draft_id";

/// Which tickets to list.
#[derive(Clone, Debug)]
pub struct QueueFilter {
    /// None: all that wait for the team (received, in review, escalated).
    pub state: Option<TicketState>,
    /// ISO 639-1 code.
    pub language: Option<String>,
    pub queue: Option<String>,
    pub limit: u32,
    /// [`QueueRow::cursor`] of the last row already seen.
    pub cursor: Option<String>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct QueueRow {
    pub ticket: Ticket,
    /// The latest decision.
    pub action: Option<Action>,
    /// The draft that waits for an agent.
    pub draft_id: Option<Uuid>,
    /// Asks for the rows after this one.
    pub cursor: String,
}

/// Figures for `respondo stats`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StoreStats {
    pub customers: u64,
    pub tickets: u64,
    pub messages: u64,
    pub drafts: u64,
    /// Name and number, in alphabetical order of the names; so are the next two.
    pub tickets_by_state: Vec<(String, u64)>,
    pub decisions_by_action: Vec<(String, u64)>,
    pub outcomes: Vec<(String, u64)>,
    /// Messages that are not sent yet.
    pub outbox_pending: u64,
    pub cached_embeddings: u64,
    /// Size of the database file.
    pub bytes: u64,
    pub memory: MemoryStats,
}

impl Store {
    /// Tickets by urgency, then by the time left, then by age. Difficulty has no say in it.
    pub async fn queue(&self, filter: &QueueFilter) -> Result<Vec<QueueRow>, StoreError> {
        let mut query = Statement::new("SELECT * FROM (SELECT t.*, COALESCE(t.urgency, ");
        query.push_bind(UNJUDGED_URGENCY).push(") AS sort_urgency, COALESCE(t.due_at, ").push_bind(NO_DUE_TIME);
        query.push(") AS sort_due, ").push(LATEST).push(" FROM tickets t WHERE t.state IN (");
        let states = filter.state.as_ref().map_or(&WAITING_FOR_TEAM[..], std::slice::from_ref);
        query.push_list(states.iter().map(name_of).collect::<Result<Vec<_>, _>>()?).push(")");
        if let Some(language) = &filter.language {
            query.push(" AND t.language = ").push_bind(language);
        }
        if let Some(queue) = &filter.queue {
            query.push(" AND t.queue = ").push_bind(queue);
        }
        query.push(") AS listed");
        if let Some(cursor) = &filter.cursor {
            Cursor::parse(cursor)?.push_behind(&mut query, "sort_urgency, sort_due, created_at, id");
        }
        query.push(" ORDER BY sort_urgency, sort_due, created_at, id LIMIT ").push_bind(i64::from(filter.limit));
        let found = query.build().fetch_all(&self.reader).await?;
        found.iter().map(queue_row).collect()
    }

    /// Counts of everything, read at one moment.
    pub async fn stats(&self) -> Result<StoreStats, StoreError> {
        let memory = self.memory_stats().await?;
        let row = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM customers) AS customers, (SELECT COUNT(*) FROM tickets) AS tickets, \
                    (SELECT COUNT(*) FROM messages) AS messages, (SELECT COUNT(*) FROM drafts) AS drafts, \
                    (SELECT COUNT(*) FROM outbox WHERE status = 'pending') AS outbox_pending, \
                    (SELECT COUNT(*) FROM embeddings) AS cached_embeddings",
        )
        .fetch_one(&self.reader)
        .await?;
        Ok(StoreStats {
            customers: rows::count(&row, "customers")?,
            tickets: rows::count(&row, "tickets")?,
            messages: rows::count(&row, "messages")?,
            drafts: rows::count(&row, "drafts")?,
            tickets_by_state: self
                .counts("SELECT state AS name, COUNT(*) AS n FROM tickets GROUP BY 1 ORDER BY 1")
                .await?,
            decisions_by_action: self
                .counts("SELECT action AS name, COUNT(*) AS n FROM decisions GROUP BY 1 ORDER BY 1")
                .await?,
            outcomes: self.counts("SELECT outcome AS name, COUNT(*) AS n FROM outcomes GROUP BY 1 ORDER BY 1").await?,
            outbox_pending: rows::count(&row, "outbox_pending")?,
            cached_embeddings: rows::count(&row, "cached_embeddings")?,
            bytes: self.bytes().await?,
            memory,
        })
    }

    /// Size of the database.
    async fn bytes(&self) -> Result<u64, StoreError> {
        if self.dialect == Dialect::Sqlite {
            return Ok(std::fs::metadata(self.path()).map_or(0, |file| file.len()));
        }
        let row = sqlx::query("SELECT pg_database_size(current_database()) AS bytes").fetch_one(&self.reader).await?;
        rows::count(&row, "bytes")
    }

    /// Runs a query with the columns `name` and `n`.
    pub(super) async fn counts(&self, query: &'static str) -> Result<Vec<(String, u64)>, StoreError> {
        let found = sqlx::query(query).fetch_all(&self.reader).await?;
        found.iter().map(|row| Ok((rows::text(row, "name")?, rows::count(row, "n")?))).collect()
    }
}

fn queue_row(row: &sqlx::any::AnyRow) -> Result<QueueRow, StoreError> {
    let ticket = rows::ticket(row)?;
    let cursor = Cursor {
        urgency: rows::integer(row, "sort_urgency")?,
        due: rows::integer(row, "sort_due")?,
        created: rows::integer(row, "created_at")?,
        id: ticket.id,
    };
    let action: Option<String> = row.try_get("action")?;
    Ok(QueueRow {
        ticket,
        action: action.map(rows::from_name).transpose()?,
        draft_id: rows::optional_id(row, "draft_id")?,
        cursor: cursor.to_text(),
    })
}

/// Sort key of a row: what follows it is greater.
pub(super) struct Cursor {
    pub(super) urgency: i64,
    pub(super) due: i64,
    pub(super) created: i64,
    pub(super) id: Uuid,
}

impl Cursor {
    pub(super) fn to_text(&self) -> String {
        format!("{}.{}.{}.{}", self.urgency, self.due, self.created, self.id)
    }

    /// The condition that a row stands behind this one by these columns: urgency, due time, creation time, id.
    pub(super) fn push_behind(&self, query: &mut Statement<'_>, columns: &str) {
        query.push(" WHERE (").push(columns).push(") > (").push_bind(self.urgency);
        query.push(", ").push_bind(self.due).push(", ").push_bind(self.created);
        query.push(", ").push_bind(self.id.to_string()).push(")");
    }

    pub(super) fn parse(text: &str) -> Result<Self, StoreError> {
        let parse = || {
            let mut parts = text.split('.');
            let mut number = || parts.next()?.parse::<i64>().ok();
            let (urgency, due, created) = (number()?, number()?, number()?);
            let id = Uuid::parse_str(parts.next()?).ok()?;
            parts.next().is_none().then_some(Self { urgency, due, created, id })
        };
        parse().ok_or_else(|| {
            StoreError::Invalid("the cursor is not one that the queue gave out; leave it away to start anew".into())
        })
    }
}
