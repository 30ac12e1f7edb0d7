//! The end of the work on a ticket: the decision, and everything that follows from it, in one transaction.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use sqlx::AnyConnection;
use uuid::Uuid;

use super::drafts::{Analysis, DraftStatus, draft_record, insert_analysis, insert_draft, set_draft_status, set_skill};
use super::events::append;
use super::rows::{self, level_of, load_ticket, name_of, now_ms};
use super::tickets::{audit_message, insert_message, supersede_drafts};
use super::{Audit, EventRow, Store, StoreError, outbox, write_audit};
use crate::decide::basis::Basis;
use crate::ticket::{Author, Decision, Difficulty, Draft, Message, Ticket, TicketState, Urgency};

/// What the work on a ticket came to.
#[derive(Clone, Debug)]
pub struct FinishedWork {
    /// The customer's last message that the work has read. When a newer one has come, nothing is recorded.
    pub seen_message: Uuid,
    /// The draft that the decision is about; any other draft of the ticket is superseded.
    pub draft_id: Option<Uuid>,
    pub decision: Decision,
    /// Where the ticket stands from now on; not `Received`.
    pub state: TicketState,
    /// By when the customer is told to expect an answer.
    pub due_at: Option<Timestamp>,
    pub urgency: Option<Urgency>,
    pub difficulty: Option<Difficulty>,
    /// What goes to the customer now: the draft when the decision is automatic, else an acknowledgement, else nothing.
    pub outgoing: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Finished {
    pub ticket: Ticket,
    /// The message that goes out.
    pub message: Option<Message>,
    /// `draft`, where there is one, and `decision`: kept, and to be told to those who follow the ticket.
    pub events: Vec<EventRow>,
}

impl Store {
    /// Ends the work on a `Received` ticket: decision, state, the events that tell of it and, where something goes to the
    /// customer, the message and its place in the outbox, all or nothing.
    ///
    /// [`StoreError::Conflict`] when the ticket is not `Received` (somebody was faster) or when the customer has written
    /// again since `seen_message` (work on it again): so no reply goes out twice, and no message stays unread.
    pub async fn finish(&self, ticket_id: Uuid, work: FinishedWork) -> Result<Finished, StoreError> {
        check_work(&work)?;
        let mut tx = self.write().await?;
        check_current(&mut tx, ticket_id, work.seen_message).await?;
        let finished = finish_in(&mut tx, ticket_id, work, None, now_ms()).await?;
        tx.commit().await?;
        Ok(finished)
    }

    /// [`Store::finish`] with what it came from: the judgement, the draft that the decision is about (in place of
    /// `draft_id`), and what the decision rests on. All of it in the same transaction.
    pub async fn record(
        &self,
        ticket_id: Uuid,
        mut work: FinishedWork,
        analysis: &Analysis<'_>,
        draft: Option<&Draft>,
        basis: Option<&Basis>,
    ) -> Result<Finished, StoreError> {
        check_work(&work)?;
        let mut tx = self.write().await?;
        check_current(&mut tx, ticket_id, work.seen_message).await?;
        let now = now_ms();
        insert_analysis(&mut tx, ticket_id, analysis, now).await?;
        if let Some(draft) = draft {
            work.draft_id = Some(insert_draft(&mut tx, ticket_id, draft, now).await?);
        }
        let finished = finish_in(&mut tx, ticket_id, work, basis, now).await?;
        tx.commit().await?;
        Ok(finished)
    }

    /// [`Store::finish`] for many tickets in one transaction: each is finished, or left alone for the reason that is given
    /// in its place. When the call itself fails, none is.
    pub async fn finish_all(
        &self,
        works: Vec<(Uuid, FinishedWork)>,
    ) -> Result<Vec<Result<Finished, StoreError>>, StoreError> {
        works.iter().try_for_each(|(_, work)| check_work(work))?;
        let mut all = Vec::with_capacity(works.len());
        let mut tx = self.write().await?;
        let now = now_ms();
        for (ticket_id, work) in works {
            all.push(match check_current(&mut tx, ticket_id, work.seen_message).await {
                Ok(()) => Ok(finish_in(&mut tx, ticket_id, work, None, now).await?),
                Err(error @ (StoreError::Conflict(_) | StoreError::NotFound(_))) => Err(error),
                Err(error) => return Err(error),
            });
        }
        tx.commit().await?;
        Ok(all)
    }
}

async fn finish_in(
    conn: &mut AnyConnection,
    ticket_id: Uuid,
    work: FinishedWork,
    basis: Option<&Basis>,
    now: i64,
) -> Result<Finished, StoreError> {
    supersede_drafts(&mut *conn, ticket_id).await?;
    if let Some(draft_id) = work.draft_id {
        let status = if work.decision.automatic { DraftStatus::Sent } else { DraftStatus::Open };
        set_draft_status(&mut *conn, ticket_id, draft_id, status).await?;
    }
    insert_decision(&mut *conn, ticket_id, &work, basis, now).await?;
    if let Some(skill) = &work.decision.skill {
        set_skill(&mut *conn, ticket_id, skill).await?;
    }
    let mut message = None;
    if let Some(text) = work.outgoing {
        let sent = insert_message(&mut *conn, ticket_id, Author::Respondo, text, now).await?;
        let occasion = match work.draft_id {
            Some(draft_id) if work.decision.automatic => format!("draft/{draft_id}"),
            _ => format!("acknowledge/{}", work.seen_message),
        };
        outbox::insert(&mut *conn, &sent, &occasion, now, Duration::ZERO).await?;
        let detail = json!({ "automatic": work.decision.automatic, "bytes": sent.body.len() });
        audit_message(&mut *conn, "respondo", "reply queued", &sent, detail, now).await?;
        message = Some(sent);
    }
    sqlx::query(
        "UPDATE tickets SET state = $1, urgency = $2, difficulty = $3, due_at = $4, updated_at = $5, worker = NULL, \
                worked_until = NULL WHERE id = $6",
    )
    .bind(name_of(&work.state)?)
    .bind(work.urgency.map(level_of))
    .bind(work.difficulty.map(level_of))
    .bind(work.due_at.map(|due| due.as_millisecond()))
    .bind(now)
    .bind(ticket_id.to_string())
    .execute(&mut *conn)
    .await?;
    let events = tell(&mut *conn, ticket_id, work.draft_id, &work.decision, now).await?;
    let ticket = load_ticket(&mut *conn, ticket_id).await?;
    Ok(Finished { ticket, message, events })
}

/// That the ticket still waits for work, and that the work has read the customer's last message.
async fn check_current(conn: &mut AnyConnection, ticket_id: Uuid, seen: Uuid) -> Result<(), StoreError> {
    let before = load_ticket(conn, ticket_id).await?;
    if before.state != TicketState::Received {
        let state = name_of(&before.state)?;
        return Err(StoreError::Conflict(format!("ticket {ticket_id} is {state} already; its work was finished")));
    }
    check_nothing_newer(conn, ticket_id, seen).await
}

fn check_work(work: &FinishedWork) -> Result<(), StoreError> {
    if work.state == TicketState::Received {
        return Err(StoreError::Invalid("finished work cannot leave its ticket received; name its new state".into()));
    }
    if work.decision.automatic && work.outgoing.is_none() {
        return Err(StoreError::Invalid("an automatic decision needs the text that goes out".into()));
    }
    if work.outgoing.as_ref().is_some_and(|text| text.trim().is_empty()) {
        return Err(StoreError::Invalid("an empty reply cannot go out; send an acknowledgement".into()));
    }
    Ok(())
}

async fn check_nothing_newer(conn: &mut AnyConnection, ticket_id: Uuid, seen: Uuid) -> Result<(), StoreError> {
    let last =
        sqlx::query("SELECT id FROM messages WHERE ticket_id = $1 AND author = $2 ORDER BY position DESC LIMIT 1")
            .bind(ticket_id.to_string())
            .bind(name_of(&Author::Customer)?)
            .fetch_optional(conn)
            .await?;
    let last = last.map(|row| rows::id(&row, "id")).transpose()?;
    if last == Some(seen) {
        return Ok(());
    }
    Err(StoreError::Conflict(format!("the last message of ticket {ticket_id} is not {seen}; work on it again")))
}

async fn insert_decision(
    conn: &mut AnyConnection,
    ticket_id: Uuid,
    work: &FinishedWork,
    basis: Option<&Basis>,
    now: i64,
) -> Result<(), StoreError> {
    let id = Uuid::now_v7();
    sqlx::query(
        "INSERT INTO decisions (id, ticket_id, position, draft_id, action, decision, created_at, basis) \
         SELECT $1, $2, COALESCE(MAX(position), 0) + 1, $3, $4, $5, $6, $8 FROM decisions WHERE ticket_id = $7",
    )
    .bind(id.to_string())
    .bind(ticket_id.to_string())
    .bind(work.draft_id.map(|id| id.to_string()))
    .bind(name_of(&work.decision.action)?)
    .bind(serde_json::to_string(&work.decision)?)
    .bind(now)
    .bind(ticket_id.to_string())
    .bind(basis.map(serde_json::to_string).transpose()?)
    .execute(&mut *conn)
    .await?;
    let detail = json!({
        "action": work.decision.action, "automatic": work.decision.automatic, "skill": work.decision.skill,
        "draft": work.draft_id, "to": work.state, "urgency": work.urgency, "difficulty": work.difficulty,
    });
    let subject = Some(id.to_string());
    let entry = Audit { actor: "respondo", action: "decided", ticket_id: Some(ticket_id), subject, detail };
    write_audit(conn, entry, now).await
}

/// Keeps what those who follow the ticket are told of the decision: else a crash behind the transaction would leave them
/// waiting for ever.
async fn tell(
    conn: &mut AnyConnection,
    ticket_id: Uuid,
    draft_id: Option<Uuid>,
    decision: &Decision,
    now: i64,
) -> Result<Vec<EventRow>, StoreError> {
    let mut events = Vec::with_capacity(2);
    if let Some(draft_id) = draft_id {
        let row = sqlx::query("SELECT * FROM drafts WHERE id = $1").bind(draft_id.to_string()).fetch_one(&mut *conn);
        let draft = serde_json::to_value(draft_record(&row.await?)?.draft)?;
        events.push(append(conn, ticket_id, "draft", draft, now).await?);
    }
    events.push(append(conn, ticket_id, "decision", serde_json::to_value(decision)?, now).await?);
    Ok(events)
}
