//! What agents do with tickets beside deciding about drafts: take over, give back, snooze, correct, write, take back.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::merging::survivor;
use super::rows::{self, level_of, load_ticket, name_of, now_ms};
use super::tickets::{audit_message, insert_message, set_state, supersede_drafts};
use super::{Audit, Store, StoreError, outbox, write_audit};
use crate::ticket::{Author, Class, Difficulty, Message, Ticket, TicketState, Urgency};

/// Who has a ticket, and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Handling {
    pub assignee: Option<Uuid>,
    /// Name of the assignee.
    pub assignee_name: Option<String>,
    /// A person has the conversation: nothing is drafted or sent by itself.
    pub taken_over: bool,
    /// Not shown in the queue until then.
    pub snoozed_until: Option<Timestamp>,
    /// The skill it was escalated to.
    pub skill: Option<String>,
    /// The ticket that has the conversation of this duplicate.
    pub merged_into: Option<Uuid>,
}

/// Who corrects by a tap in the chat. It counts once: a second tap says nothing new.
pub const CUSTOMER: &str = "customer";

/// A judgement that a person sets right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    Urgency(Urgency),
    Difficulty(Difficulty),
}

/// What a customer says about the answer with one tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feedback {
    NotHelped,
    Person,
    Urgent,
}

/// What an agent writes to a customer without a draft.
#[derive(Clone, Debug)]
pub struct Written {
    pub text: String,
    /// A question, which the ticket waits for the customer with.
    pub asks: bool,
    /// The last message that the agent has read.
    pub seen: Option<Uuid>,
}

/// A person at the desk, as records name them.
#[derive(Clone, Copy, Debug)]
pub struct Person<'a> {
    pub id: Uuid,
    pub name: &'a str,
}

impl Store {
    /// Who has the ticket, and how.
    pub async fn handling(&self, ticket: Uuid) -> Result<Handling, StoreError> {
        let mut conn = self.reader.acquire().await?;
        load_handling(&mut conn, ticket).await
    }

    /// A person takes the conversation: nothing is drafted or sent by itself until it is given back. An open draft stays
    /// for them to use.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when somebody else has it.
    pub async fn take_over(&self, ticket: Uuid, person: Person<'_>) -> Result<Ticket, StoreError> {
        let mut tx = self.write().await?;
        let before = load_ticket(&mut tx, ticket).await?;
        check_nobody_else_has(&mut tx, ticket, person).await?;
        let now = now_ms();
        sqlx::query("UPDATE tickets SET assignee = $1, taken_over = 1, snoozed_until = NULL WHERE id = $2")
            .bind(person.id.to_string())
            .bind(ticket.to_string())
            .execute(&mut *tx)
            .await?;
        if before.state != TicketState::Answered {
            set_state(&mut tx, ticket, TicketState::Escalated, now).await?;
        }
        audit(&mut tx, person.name, "taken over", ticket, json!({ "from": before.state }), now).await?;
        let after = load_ticket(&mut tx, ticket).await?;
        tx.commit().await?;
        Ok(after)
    }

    /// Gives the conversation back: it is worked on anew when the customer's last message has no answer.
    pub async fn give_back(&self, ticket: Uuid, person: Person<'_>) -> Result<Ticket, StoreError> {
        let mut tx = self.write().await?;
        let before = load_ticket(&mut tx, ticket).await?;
        let now = now_ms();
        sqlx::query("UPDATE tickets SET assignee = NULL, taken_over = 0 WHERE id = $1")
            .bind(ticket.to_string())
            .execute(&mut *tx)
            .await?;
        if last_author(&mut tx, ticket).await? != Some(Author::Agent) {
            supersede_drafts(&mut tx, ticket).await?;
            set_state(&mut tx, ticket, TicketState::Received, now).await?;
        }
        audit(&mut tx, person.name, "given back", ticket, json!({ "from": before.state }), now).await?;
        let after = load_ticket(&mut tx, ticket).await?;
        tx.commit().await?;
        Ok(after)
    }

    /// Hides a ticket from the queue until a time, or shows it again.
    pub async fn snooze(&self, ticket: Uuid, until: Option<Timestamp>, by: &str) -> Result<Ticket, StoreError> {
        let mut tx = self.write().await?;
        let snoozed = load_ticket(&mut tx, ticket).await?;
        let now = now_ms();
        sqlx::query("UPDATE tickets SET snoozed_until = $1 WHERE id = $2")
            .bind(until.map(|until| until.as_millisecond()))
            .bind(ticket.to_string())
            .execute(&mut *tx)
            .await?;
        audit(&mut tx, by, "snoozed", ticket, json!({ "until": until }), now).await?;
        tx.commit().await?;
        Ok(snoozed)
    }

    /// Sets a judgement right; the correction is kept to learn from.
    pub async fn correct(&self, ticket: Uuid, correction: Correction, by: &str) -> Result<Ticket, StoreError> {
        let mut tx = self.write().await?;
        let before = load_ticket(&mut tx, ticket).await?;
        let (judgement, was, became, update) = match correction {
            Correction::Urgency(now) => (
                "urgency",
                before.urgency.map(level_of),
                level_of(now),
                "UPDATE tickets SET urgency = $1, updated_at = $2 WHERE id = $3",
            ),
            Correction::Difficulty(now) => (
                "difficulty",
                before.difficulty.map(level_of),
                level_of(now),
                "UPDATE tickets SET difficulty = $1, updated_at = $2 WHERE id = $3",
            ),
        };
        let now = now_ms();
        sqlx::query(update).bind(became).bind(now).bind(ticket.to_string()).execute(&mut *tx).await?;
        sqlx::query(
            "INSERT INTO corrections (ticket_id, judgement, was, became, corrector, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(ticket.to_string())
        .bind(judgement)
        .bind(was)
        .bind(became)
        .bind(by)
        .bind(now)
        .execute(&mut *tx)
        .await?;
        let detail = json!({ "judgement": judgement, "was": was, "became": became });
        audit(&mut tx, by, "corrected", ticket, detail, now).await?;
        let after = load_ticket(&mut tx, ticket).await?;
        tx.commit().await?;
        Ok(after)
    }

    /// Whether this person, or the `customer`, has set a judgement of the ticket right before.
    pub async fn was_corrected_by(&self, ticket: Uuid, corrector: &str) -> Result<bool, StoreError> {
        let found = sqlx::query("SELECT 1 FROM corrections WHERE ticket_id = $1 AND corrector = $2 LIMIT 1")
            .bind(ticket.to_string())
            .bind(corrector)
            .fetch_optional(&self.reader)
            .await?;
        Ok(found.is_some())
    }

    /// An agent writes to the customer without a draft: an answer, or with `asks` a question, whose ticket waits for the
    /// customer then. The message waits for `hold` before it goes out, so that it can be taken back; open drafts are
    /// superseded. `seen` is the last message that the agent has read.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when somebody else has taken the conversation over, has answered since `seen`, or the
    /// ticket was merged into another one.
    pub async fn write_as_agent(
        &self,
        ticket: Uuid,
        written: Written,
        person: Person<'_>,
        hold: Duration,
    ) -> Result<(Ticket, Message), StoreError> {
        let Written { text, asks, seen } = written;
        let mut tx = self.write().await?;
        if survivor(&mut tx, ticket).await? != ticket {
            return Err(StoreError::Conflict("the ticket was merged into another one".to_owned()));
        }
        check_nobody_else_has(&mut tx, ticket, person).await?;
        check_nobody_answered(&mut tx, ticket, seen).await?;
        let now = now_ms();
        let message = insert_message(&mut tx, ticket, Author::Agent, text, now).await?;
        sign(&mut tx, &message, person.name).await?;
        supersede_drafts(&mut tx, ticket).await?;
        outbox::insert(&mut tx, &message, &format!("message/{}", message.id), now, hold).await?;
        let state = if asks { TicketState::Waiting } else { TicketState::Answered };
        set_state(&mut tx, ticket, state, now).await?;
        let detail = json!({ "automatic": false, "bytes": message.body.len() });
        audit_message(&mut tx, person.name, "reply queued", &message, detail, now).await?;
        let after = load_ticket(&mut tx, ticket).await?;
        tx.commit().await?;
        Ok((after, message))
    }

    /// An internal note under a person's name; the customer never sees it.
    pub async fn add_note(&self, ticket: Uuid, text: String, by: &str) -> Result<Ticket, StoreError> {
        let mut tx = self.write().await?;
        let noted = load_ticket(&mut tx, ticket).await?;
        let now = now_ms();
        let message = insert_message(&mut tx, ticket, Author::Note, text, now).await?;
        sign(&mut tx, &message, by).await?;
        audit_message(&mut tx, by, "message added", &message, json!({ "bytes": message.body.len() }), now).await?;
        tx.commit().await?;
        Ok(noted)
    }

    /// Takes a reply back that has not gone out yet, with its outcome: the draft is open again. Gives the ticket and
    /// the text that was about to be sent.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when it has gone out.
    pub async fn take_back(&self, message: Uuid, by: &str) -> Result<(Ticket, String), StoreError> {
        let mut tx = self.write().await?;
        let row = sqlx::query(
            "SELECT o.id, o.ticket_id, o.idempotency_key, m.body FROM outbox o JOIN messages m ON m.id = o.message_id \
             WHERE o.message_id = $1 AND o.status = 'pending' AND o.attempts = 0 AND o.not_before > $2 AND m.author = $3",
        )
        .bind(message.to_string())
        .bind(now_ms())
        .bind(name_of(&Author::Agent)?)
        .fetch_optional(&mut *tx)
        .await?
        .ok_or_else(|| StoreError::Conflict("the reply is on its way; it cannot be taken back any more".to_owned()))?;
        let (ticket, body) = (rows::id(&row, "ticket_id")?, rows::text(&row, "body")?);
        sqlx::query("DELETE FROM outbox WHERE message_id = $1").bind(message.to_string()).execute(&mut *tx).await?;
        sqlx::query("DELETE FROM messages WHERE id = $1").bind(message.to_string()).execute(&mut *tx).await?;
        let now = now_ms();
        let key = rows::text(&row, "idempotency_key")?;
        let mut state = TicketState::Escalated;
        if let Some(draft) = key.strip_prefix("draft/") {
            sqlx::query("DELETE FROM outcomes WHERE draft_id = $1").bind(draft).execute(&mut *tx).await?;
            sqlx::query("UPDATE drafts SET status = 'open' WHERE id = $1 AND status = 'resolved'")
                .bind(draft)
                .execute(&mut *tx)
                .await?;
            state = TicketState::Review;
        }
        set_state(&mut tx, ticket, state, now).await?;
        audit(&mut tx, by, "reply taken back", ticket, json!({ "message": message }), now).await?;
        let after = load_ticket(&mut tx, ticket).await?;
        tx.commit().await?;
        Ok((after, body))
    }

    /// A customer taps on what is wrong: the ticket goes to a person, unless all that was wrong is its urgency.
    pub async fn take_feedback(&self, ticket: Uuid, feedback: Feedback) -> Result<Ticket, StoreError> {
        let mut tx = self.write().await?;
        let ticket = survivor(&mut tx, ticket).await?;
        let before = load_ticket(&mut tx, ticket).await?;
        let now = now_ms();
        let stays = feedback == Feedback::Urgent || before.state == TicketState::Review;
        if !stays {
            set_state(&mut tx, ticket, TicketState::Escalated, now).await?;
        }
        audit(&mut tx, "customer", "feedback", ticket, json!({ "feedback": feedback, "from": before.state }), now)
            .await?;
        let after = load_ticket(&mut tx, ticket).await?;
        tx.commit().await?;
        Ok(after)
    }

    /// Names of the agents who wrote a ticket's messages, by message.
    pub async fn signatures(&self, ticket: Uuid) -> Result<Vec<(Uuid, String)>, StoreError> {
        let found = sqlx::query("SELECT id, agent FROM messages WHERE ticket_id = $1 AND agent IS NOT NULL")
            .bind(ticket.to_string())
            .fetch_all(&self.reader)
            .await?;
        found.iter().map(|row| Ok((rows::id(row, "id")?, rows::text(row, "agent")?))).collect()
    }

    /// Replies of agents that have not gone out yet, with the time until which they can be taken back.
    pub async fn held_replies(&self, ticket: Uuid) -> Result<Vec<(Uuid, Timestamp)>, StoreError> {
        let found = sqlx::query(
            "SELECT message_id, not_before FROM outbox \
             WHERE ticket_id = $1 AND status = 'pending' AND attempts = 0 AND not_before > $2",
        )
        .bind(ticket.to_string())
        .bind(now_ms())
        .fetch_all(&self.reader)
        .await?;
        found.iter().map(|row| Ok((rows::id(row, "message_id")?, rows::time(row, "not_before")?))).collect()
    }
}

/// Puts a person's name under a message.
pub(super) async fn sign(conn: &mut AnyConnection, message: &Message, name: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE messages SET agent = $1 WHERE id = $2")
        .bind(name)
        .bind(message.id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Refuses where an agent has answered behind the message that was read last.
async fn check_nobody_answered(conn: &mut AnyConnection, ticket: Uuid, seen: Option<Uuid>) -> Result<(), StoreError> {
    let Some(seen) = seen else { return Ok(()) };
    let newer = sqlx::query(
        "SELECT agent FROM messages WHERE ticket_id = $1 AND author = $2 \
           AND position > (SELECT position FROM messages WHERE id = $3) ORDER BY position DESC LIMIT 1",
    )
    .bind(ticket.to_string())
    .bind(name_of(&Author::Agent)?)
    .bind(seen.to_string())
    .fetch_optional(conn)
    .await?;
    let Some(newer) = newer else { return Ok(()) };
    let name = rows::optional_text(&newer, "agent")?.unwrap_or_else(|| "somebody".to_owned());
    Err(StoreError::Conflict(format!("{name} has answered meanwhile")))
}

async fn load_handling(conn: &mut AnyConnection, ticket: Uuid) -> Result<Handling, StoreError> {
    let row = sqlx::query(
        "SELECT t.assignee, t.taken_over, t.snoozed_until, t.skill, t.merged_into, a.name AS assignee_name \
         FROM tickets t LEFT JOIN agents a ON a.id = t.assignee WHERE t.id = $1",
    )
    .bind(ticket.to_string())
    .fetch_optional(conn)
    .await?;
    handling(&row.ok_or_else(|| StoreError::NotFound(format!("ticket {ticket}")))?)
}

/// Refuses where another person has taken the conversation over.
async fn check_nobody_else_has(conn: &mut AnyConnection, ticket: Uuid, person: Person<'_>) -> Result<(), StoreError> {
    let has = load_handling(conn, ticket).await?;
    if has.taken_over && has.assignee != Some(person.id) {
        let name = has.assignee_name.unwrap_or_default();
        return Err(StoreError::Conflict(format!("{name} has taken this conversation over")));
    }
    Ok(())
}

pub(super) fn handling(row: &AnyRow) -> Result<Handling, StoreError> {
    Ok(Handling {
        assignee: rows::optional_id(row, "assignee")?,
        assignee_name: rows::optional_text(row, "assignee_name")?,
        taken_over: rows::integer(row, "taken_over")? != 0,
        snoozed_until: rows::optional_time(row, "snoozed_until")?,
        skill: rows::optional_text(row, "skill")?,
        merged_into: rows::optional_id(row, "merged_into")?,
    })
}

/// Who wrote last; notes do not count.
pub(super) async fn last_author(conn: &mut AnyConnection, ticket: Uuid) -> Result<Option<Author>, StoreError> {
    let last =
        sqlx::query("SELECT author FROM messages WHERE ticket_id = $1 AND author <> $2 ORDER BY position DESC LIMIT 1")
            .bind(ticket.to_string())
            .bind(name_of(&Author::Note)?)
            .fetch_optional(conn)
            .await?;
    last.map(|row| rows::named(&row, "author")).transpose()
}

/// Writes the audit line about what was done with a ticket.
pub(super) async fn audit(
    conn: &mut AnyConnection,
    actor: &str,
    action: &str,
    ticket: Uuid,
    detail: serde_json::Value,
    now: i64,
) -> Result<(), StoreError> {
    write_audit(conn, Audit { actor, action, ticket_id: Some(ticket), subject: None, detail }, now).await
}

/// The class one step more urgent; the most urgent stays.
pub fn more_urgent(urgency: Option<Urgency>) -> Urgency {
    let index = urgency.map_or(1, |urgency| urgency.index().saturating_sub(1));
    Urgency::ALL.get(index).copied().unwrap_or(Urgency::Critical)
}
