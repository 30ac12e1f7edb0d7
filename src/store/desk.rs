//! The queue as the desk's page shows it.

use futures::TryStreamExt;
use serde_json::Value;
use sqlx::Row;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::embeddings::decode;
use super::handling::{Handling, handling};
use super::queue::{Cursor, LATEST, NO_DUE_TIME, UNJUDGED_URGENCY, WAITING_FOR_TEAM};
use super::rows::{self, level_of, name_of, now_ms};
use super::statement::Statement;
use super::{Dialect, Store, StoreError};
use crate::ticket::{Action, Difficulty, Language, Ticket, TicketState, Urgency};

/// Tickets compared in a search by meaning, those last worked on: some 40 MB to read.
const MOST_COMPARED: u32 = 50_000;
/// Words of a search that are looked at.
const SEARCH_WORDS: usize = 12;

/// Whose tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What this person has.
    Mine(Uuid),
    /// What waits for the team and nobody has hidden.
    Team,
    /// Everything, answered tickets too, newest change first.
    All,
}

/// Which tickets the page shows; all of the team's where nothing is said.
#[derive(Clone, Debug)]
pub struct DeskFilter {
    pub scope: Scope,
    pub urgency: Option<Urgency>,
    pub difficulty: Option<Difficulty>,
    pub action: Option<Action>,
    /// ISO 639-1 code.
    pub language: Option<Language>,
    pub channel: Option<String>,
    /// Words in subject or messages, all of them; the beginning of a word is enough.
    pub search: Option<String>,
    /// What a ticket should be about, as the unit vector of a request, with the name of its model. The nearest come
    /// first then, whatever their urgency, and there is no further page.
    pub about: Option<(String, Vec<f32>)>,
    /// Only tickets with a draft that waits for an agent.
    pub with_draft: bool,
    pub limit: u32,
    /// [`DeskRow::cursor`] of the last row already seen.
    pub cursor: Option<String>,
}

/// Tickets listed where no number is given.
const LISTED: u32 = 50;

impl Default for DeskFilter {
    fn default() -> Self {
        Self {
            scope: Scope::Team,
            urgency: None,
            difficulty: None,
            action: None,
            language: None,
            channel: None,
            search: None,
            about: None,
            with_draft: false,
            limit: LISTED,
            cursor: None,
        }
    }
}

/// A line of the queue.
#[derive(Clone, Debug)]
pub struct DeskRow {
    pub ticket: Ticket,
    pub handling: Handling,
    /// The latest decision.
    pub action: Option<Action>,
    pub draft_id: Option<Uuid>,
    /// The customer's words that decided about the urgency.
    pub words: Vec<String>,
    /// The beginning of the last message of the customer, for tickets without a subject.
    pub says: String,
    pub cursor: String,
}

/// Counters above the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeskCounts {
    pub mine: u64,
    pub team: u64,
    pub critical: u64,
    pub overdue: u64,
    pub with_draft: u64,
}

impl Store {
    /// Lines of the queue: by urgency, then by the time left, then by age; difficulty has no say in it. For
    /// [`Scope::All`] the latest change comes first.
    pub async fn desk_rows(&self, filter: &DeskFilter) -> Result<Vec<DeskRow>, StoreError> {
        let Some((model, vector)) = &filter.about else { return self.rows_in_order(filter, None).await };
        let nearest = self.nearest_tickets(filter, model, vector).await?;
        let mut rows = self.rows_in_order(filter, Some(&nearest)).await?;
        rows.sort_by_key(|row| nearest.iter().position(|id| *id == row.ticket.id));
        Ok(rows)
    }

    /// The tickets nearest to a vector, best first.
    async fn nearest_tickets(&self, filter: &DeskFilter, model: &str, vector: &[f32]) -> Result<Vec<Uuid>, StoreError> {
        let mut query = Statement::new("SELECT ticket_id, vector FROM ticket_vectors WHERE model = ");
        query.push_bind(model).push(" AND ticket_id IN (SELECT id FROM tickets WHERE 1 = 1");
        push_conditions(&mut query, filter, self.dialect)?;
        query.push(") ORDER BY updated_at DESC LIMIT ").push_bind(i64::from(MOST_COMPARED));
        let built = query.build();
        let mut found = built.fetch(&self.reader);
        let mut nearest: Vec<(f32, Uuid)> = Vec::new();
        while let Some(row) = found.try_next().await? {
            let kept = decode(row.try_get("vector")?);
            if kept.len() == vector.len() {
                let cosine = kept.iter().zip(vector).map(|(a, b)| a * b).sum();
                nearest.push((cosine, rows::id(&row, "ticket_id")?));
            }
        }
        nearest.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        Ok(nearest.into_iter().map(|(_, id)| id).take(filter.limit as usize).collect())
    }

    async fn rows_in_order(&self, filter: &DeskFilter, only: Option<&[Uuid]>) -> Result<Vec<DeskRow>, StoreError> {
        // The ids in order first, cheaply; texts and judgements of those alone.
        let mut query = Statement::new("WITH keys AS (SELECT id, ");
        match filter.scope {
            Scope::All => query.push("0 AS sort_urgency, -updated_at AS sort_due, 0 AS sort_created"),
            _ => {
                query
                    .push("COALESCE(urgency, ")
                    .push_bind(UNJUDGED_URGENCY)
                    .push(") AS sort_urgency, COALESCE(due_at, ");
                query.push_bind(NO_DUE_TIME).push(") AS sort_due, created_at AS sort_created")
            }
        };
        query.push(" FROM tickets WHERE 1 = 1");
        push_conditions(&mut query, filter, self.dialect)?;
        if let Some(ids) = only {
            query.push(" AND id IN (");
            query.push_list(ids.iter().map(Uuid::to_string)).push(")");
        }
        query.push("), listed AS (SELECT * FROM keys");
        if let Some(cursor) = &filter.cursor {
            Cursor::parse(cursor)?.push_behind(&mut query, "sort_urgency, sort_due, sort_created, id");
        }
        query.push(" ORDER BY sort_urgency, sort_due, sort_created, id LIMIT ").push_bind(i64::from(filter.limit));
        query.push(") SELECT t.*, l.sort_urgency, l.sort_due, l.sort_created, a.name AS assignee_name, ");
        query.push(LATEST).push(", (SELECT ").push(self.dialect.json_at("r.triage", &["urgency", "words"])).push(
            " FROM triages r WHERE r.ticket_id = t.id ORDER BY r.position DESC LIMIT 1) AS words, \
             (SELECT substr(m.body, 1, 300) FROM messages m WHERE m.ticket_id = t.id AND m.author = 'customer' \
              ORDER BY m.position DESC LIMIT 1) AS says \
             FROM listed l JOIN tickets t ON t.id = l.id LEFT JOIN agents a ON a.id = t.assignee \
             ORDER BY l.sort_urgency, l.sort_due, l.sort_created, l.id",
        );
        let found = query.build().fetch_all(&self.reader).await?;
        found.iter().map(desk_row).collect()
    }

    /// The counters above the queue, for this person.
    pub async fn desk_counts(&self, agent: Uuid) -> Result<DeskCounts, StoreError> {
        let states = WAITING_FOR_TEAM.iter().map(name_of).collect::<Result<Vec<_>, _>>()?;
        let [received, review, escalated] = [&states[0], &states[1], &states[2]];
        let now = now_ms();
        let row = sqlx::query(
            "SELECT COUNT(*) AS team, COUNT(*) FILTER (WHERE urgency = 1) AS critical, COUNT(*) FILTER (WHERE due_at < $1) AS overdue, \
                    COUNT(*) FILTER (WHERE assignee = $2) AS mine, COUNT(*) FILTER (WHERE state = $3) AS with_draft \
             FROM tickets WHERE state IN ($4, $5, $6) AND (snoozed_until IS NULL OR snoozed_until <= $7)",
        )
        .bind(now)
        .bind(agent.to_string())
        .bind(review)
        .bind(received)
        .bind(review)
        .bind(escalated)
        .bind(now)
        .fetch_one(&self.reader)
        .await?;
        Ok(DeskCounts {
            mine: rows::count(&row, "mine")?,
            team: rows::count(&row, "team")?,
            critical: rows::count(&row, "critical")?,
            overdue: rows::count(&row, "overdue")?,
            with_draft: rows::count(&row, "with_draft")?,
        })
    }

    /// Other tickets of the same customer, newest first, each with the beginning of its first message.
    pub async fn tickets_of_customer(&self, ticket: &Ticket, limit: u32) -> Result<Vec<(Ticket, String)>, StoreError> {
        let Some(customer) = &ticket.customer else { return Ok(Vec::new()) };
        let found = sqlx::query(
            "SELECT t.*, (SELECT substr(m.body, 1, 300) FROM messages m WHERE m.ticket_id = t.id \
                 ORDER BY m.position LIMIT 1) AS says \
                 FROM tickets t WHERE t.customer = $1 AND t.id <> $2 ORDER BY t.created_at DESC LIMIT $3",
        )
        .bind(customer)
        .bind(ticket.id.to_string())
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await?;
        found
            .iter()
            .map(|row| Ok((rows::ticket(row)?, rows::optional_text(row, "says")?.unwrap_or_default())))
            .collect()
    }
}

fn push_conditions(query: &mut Statement<'_>, filter: &DeskFilter, dialect: Dialect) -> Result<(), StoreError> {
    if filter.scope != Scope::All {
        query.push(" AND state IN (");
        query.push_list(WAITING_FOR_TEAM.iter().map(name_of).collect::<Result<Vec<_>, _>>()?);
        query.push(") AND (snoozed_until IS NULL OR snoozed_until <= ").push_bind(now_ms()).push(")");
    }
    if let Scope::Mine(agent) = filter.scope {
        query.push(" AND assignee = ").push_bind(agent.to_string());
    }
    if let Some(urgency) = filter.urgency {
        query.push(" AND urgency = ").push_bind(level_of(urgency));
    }
    if let Some(difficulty) = filter.difficulty {
        query.push(" AND difficulty = ").push_bind(level_of(difficulty));
    }
    if let Some(action) = &filter.action {
        query.push(
            " AND (SELECT d.action FROM decisions d WHERE d.ticket_id = tickets.id ORDER BY d.position DESC LIMIT 1) = ",
        );
        query.push_bind(name_of(action)?);
    }
    if let Some(language) = &filter.language {
        query.push(" AND language = ").push_bind(language.code().to_owned());
    }
    if let Some(channel) = &filter.channel {
        query.push(" AND channel = ").push_bind(channel.clone());
    }
    if filter.with_draft {
        query.push(" AND state = ").push_bind(name_of(&TicketState::Review)?);
    }
    for word in search_words(filter.search.as_deref().unwrap_or_default()) {
        query.push(dialect.has_word());
        // Both engines leave accents and case to the words as they were kept.
        match dialect {
            Dialect::Sqlite => query.push_bind(format!("\"{word}\"*")).push(")"),
            Dialect::Postgres => query.push_bind(word.to_owned()).push("))"),
        };
    }
    Ok(())
}

/// The words of a search, without anything that an engine would interpret.
fn search_words(search: &str) -> impl Iterator<Item = &str> {
    search.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).take(SEARCH_WORDS)
}

fn desk_row(row: &AnyRow) -> Result<DeskRow, StoreError> {
    let ticket = rows::ticket(row)?;
    let cursor = Cursor {
        urgency: rows::integer(row, "sort_urgency")?,
        due: rows::integer(row, "sort_due")?,
        created: rows::integer(row, "sort_created")?,
        id: ticket.id,
    };
    let action: Option<String> = row.try_get("action")?;
    let words = rows::optional_text(row, "words")?.and_then(|words| serde_json::from_str::<Value>(&words).ok());
    let words = words.as_ref().and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    Ok(DeskRow {
        handling: handling(row)?,
        action: action.map(rows::from_name).transpose()?,
        draft_id: rows::optional_id(row, "draft_id")?,
        words: words.map(str::to_owned).collect(),
        says: rows::optional_text(row, "says")?.unwrap_or_default(),
        cursor: cursor.to_text(),
        ticket,
    })
}
