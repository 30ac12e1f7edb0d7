//! What became of drafts and tickets, page by page: for measurements over everything that the desk has done.

use jiff::Timestamp;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::drafts::state_after;
use super::rows;
use super::{Store, StoreError};
use crate::ticket::{Author, DraftKind, Language, Outcome, TicketState};

/// A draft that a person has decided about.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedDraft {
    pub draft_id: Uuid,
    pub ticket_id: Uuid,
    pub kind: DraftKind,
    pub outcome: Outcome,
    pub text: String,
    /// What the customer was sent.
    pub final_text: Option<String>,
    /// What the person wrote about the draft.
    pub note: Option<String>,
    pub resolved_at: Timestamp,
    pub subject: String,
    pub language: Language,
    pub queue: Option<String>,
}

/// What a ticket went through, without its texts.
#[derive(Clone, Debug, PartialEq)]
pub struct TicketCourse {
    pub id: Uuid,
    pub subject: String,
    pub language: Language,
    pub queue: Option<String>,
    /// First message.
    pub asked_at: Timestamp,
    /// First reply that helps: an answer or a question, by a person or automatic. An acknowledgement as it was drafted
    /// does not.
    pub useful_at: Option<Timestamp>,
    /// First reply that answers.
    pub answered_at: Option<Timestamp>,
    /// The customer has written after that.
    pub reopened: bool,
}

/// One message of a ticket; for a reply made of a draft, its kind and what a person did with it (None: automatic).
#[derive(Clone, Copy, Debug)]
struct Step {
    author: Author,
    at: Timestamp,
    draft: Option<(DraftKind, Option<Outcome>)>,
}

const RESOLVED: &str = "SELECT o.draft_id, o.ticket_id, o.outcome, o.final_text, o.note, o.created_at, d.kind, d.text, \
                               t.subject, t.language, t.queue \
                        FROM outcomes o JOIN drafts d ON d.id = o.draft_id JOIN tickets t ON t.id = o.ticket_id";

impl Store {
    /// A page of the drafts that people have resolved, by id (drafts are numbered as they are made): up to `limit` after
    /// the draft `after` (None at first).
    pub async fn resolved_drafts(&self, after: Option<Uuid>, limit: u32) -> Result<Vec<ResolvedDraft>, StoreError> {
        let query = format!("{RESOLVED} WHERE o.draft_id > $1 ORDER BY o.draft_id LIMIT $2");
        let found = sqlx::query(&query).bind(cursor(after)).bind(i64::from(limit)).fetch_all(&self.reader).await?;
        found.iter().map(resolved_draft).collect()
    }

    /// One draft that a person has resolved, or [`StoreError::NotFound`].
    pub async fn resolved_draft(&self, draft_id: Uuid) -> Result<ResolvedDraft, StoreError> {
        let query = format!("{RESOLVED} WHERE o.draft_id = $1");
        let row = sqlx::query(&query).bind(draft_id.to_string()).fetch_optional(&self.reader).await?;
        resolved_draft(&row.ok_or_else(|| StoreError::NotFound(format!("outcome of draft {draft_id}")))?)
    }

    /// Name of the agent who decided about a draft, if one has.
    pub async fn resolved_by(&self, draft_id: Uuid) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("SELECT agent FROM outcomes WHERE draft_id = $1")
            .bind(draft_id.to_string())
            .fetch_optional(&self.reader)
            .await?;
        row.map(|row| rows::optional_text(&row, "agent")).transpose().map(Option::flatten)
    }

    /// A page of all tickets, by id (tickets are numbered as they come in): up to `limit` after the ticket `after` (None
    /// at first).
    pub async fn ticket_courses(&self, after: Option<Uuid>, limit: u32) -> Result<Vec<TicketCourse>, StoreError> {
        let query = courses_of("SELECT * FROM tickets WHERE id > $1 ORDER BY id LIMIT $2");
        let found = sqlx::query(&query).bind(cursor(after)).bind(i64::from(limit)).fetch_all(&self.reader).await?;
        courses(&found)
    }

    /// The latest tickets, oldest of them first.
    pub async fn latest_courses(&self, limit: u32) -> Result<Vec<TicketCourse>, StoreError> {
        let query = courses_of("SELECT * FROM tickets ORDER BY id DESC LIMIT $1");
        let found = sqlx::query(&query).bind(i64::from(limit)).fetch_all(&self.reader).await?;
        courses(&found)
    }
}

/// The messages of some tickets with what they were made of, in order.
fn courses_of(tickets: &str) -> String {
    format!(
        "SELECT t.id, t.subject, t.language, t.queue, m.author, m.created_at, d.kind, o.outcome \
         FROM ({tickets}) AS t \
         JOIN messages m ON m.ticket_id = t.id \
         LEFT JOIN outbox x ON x.message_id = m.id AND x.idempotency_key LIKE 'draft/%' \
         LEFT JOIN drafts d ON d.id = substr(x.idempotency_key, length('draft/') + 1) \
         LEFT JOIN outcomes o ON o.draft_id = d.id \
         ORDER BY t.id, m.position"
    )
}

fn courses(found: &[AnyRow]) -> Result<Vec<TicketCourse>, StoreError> {
    let mut courses: Vec<TicketCourse> = Vec::new();
    for row in found {
        let (id, step) = (rows::id(row, "id")?, step(row)?);
        match courses.last_mut().filter(|course| course.id == id) {
            Some(course) => course.take(step),
            None => courses.push(started(row, id, step)?),
        }
    }
    Ok(courses)
}

impl TicketCourse {
    /// Goes on with the next message.
    fn take(&mut self, step: Step) {
        if step.author == Author::Customer {
            self.reopened |= self.answered_at.is_some();
            return;
        }
        let state = match (step.author, step.draft) {
            (_, Some((kind, outcome))) => Some(state_after(kind, outcome.unwrap_or(Outcome::Approved))),
            (Author::Agent, None) => Some(TicketState::Answered),
            _ => None,
        };
        if matches!(state, Some(TicketState::Answered | TicketState::Waiting)) {
            self.useful_at.get_or_insert(step.at);
        }
        if state == Some(TicketState::Answered) {
            self.answered_at.get_or_insert(step.at);
        }
    }
}

/// Sorts before every id when there is none.
pub(super) fn cursor(after: Option<Uuid>) -> String {
    after.map(|id| id.to_string()).unwrap_or_default()
}

fn started(row: &AnyRow, id: Uuid, first: Step) -> Result<TicketCourse, StoreError> {
    let mut course = TicketCourse {
        id,
        subject: rows::text(row, "subject")?,
        language: Language::new(&rows::text(row, "language")?),
        queue: rows::optional_text(row, "queue")?,
        asked_at: first.at,
        useful_at: None,
        answered_at: None,
        reopened: false,
    };
    course.take(first);
    Ok(course)
}

fn step(row: &AnyRow) -> Result<Step, StoreError> {
    let kind = rows::optional_text(row, "kind")?.map(rows::from_name).transpose()?;
    let outcome = rows::optional_text(row, "outcome")?.map(rows::from_name).transpose()?;
    let draft = kind.map(|kind| (kind, outcome));
    Ok(Step { author: rows::named(row, "author")?, at: rows::time(row, "created_at")?, draft })
}

fn resolved_draft(row: &AnyRow) -> Result<ResolvedDraft, StoreError> {
    Ok(ResolvedDraft {
        draft_id: rows::id(row, "draft_id")?,
        ticket_id: rows::id(row, "ticket_id")?,
        kind: rows::named(row, "kind")?,
        outcome: rows::named(row, "outcome")?,
        text: rows::text(row, "text")?,
        final_text: rows::optional_text(row, "final_text")?,
        note: rows::optional_text(row, "note")?,
        resolved_at: rows::time(row, "created_at")?,
        subject: rows::text(row, "subject")?,
        language: Language::new(&rows::text(row, "language")?),
        queue: rows::optional_text(row, "queue")?,
    })
}
