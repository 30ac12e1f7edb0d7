//! Requests and their messages: accepted once, kept until they are erased or old enough to go.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::AnyConnection;
use sqlx::Row;
use utoipa::ToSchema;
use uuid::Uuid;

use super::events::append;
use super::merging::survivor;
use super::rows::{self, load_ticket, name_of, now_ms, timestamp};
use super::{
    AttachmentRow, Audit, DecisionRecord, DraftRecord, EventRow, NewAttachment, OutcomeRecord, Store, StoreError,
    attachments, outbox, write_audit,
};
use crate::ticket::{Author, Evidence, Language, Message, Ticket, TicketState, Timings, Triage};

/// What lets a client send the same request again without making it twice.
#[derive(Clone, Debug)]
pub struct Idempotency {
    pub key: String,
    /// SHA-256 of the request body; tells a repetition from another request under the same key.
    pub body_sha256: String,
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct NewTicket {
    pub customer: Option<String>,
    pub channel: String,
    pub subject: String,
    pub body: String,
    pub language: Language,
    pub product: Option<String>,
    pub queue: Option<String>,
    /// Keys of different customers do not collide.
    pub idempotency: Option<Idempotency>,
}

/// An accepted message; it is on disk.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// As it stands now.
    pub ticket: Ticket,
    pub message: Message,
    /// The files that came with it; none when it is replayed.
    pub files: Vec<AttachmentRow>,
    /// True when the same request was accepted before and this call changed nothing.
    pub replayed: bool,
    /// `received`, of a customer's message that was not there before: kept, and to be told to those who follow the ticket.
    pub event: Option<EventRow>,
}

/// Everything about one ticket, oldest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TicketView {
    pub ticket: Ticket,
    pub messages: Vec<Message>,
    /// The latest judgement with what it rests on and how long it took.
    pub triage: Option<Triage>,
    pub evidence: Vec<Evidence>,
    pub timings: Option<Timings>,
    pub drafts: Vec<DraftRecord>,
    pub decisions: Vec<DecisionRecord>,
    pub outcomes: Vec<OutcomeRecord>,
}

/// One line of the audit trail.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AuditRow {
    pub id: i64,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// `customer`, `respondo`, `system` or the agent's name.
    pub actor: String,
    pub action: String,
    /// Id of the message, draft or memory item.
    pub subject: Option<String>,
    #[schema(value_type = Object)]
    pub detail: Value,
}

impl Store {
    /// Keeps a new request with its first message. When it returns, both are on disk.
    ///
    /// A repeated idempotency key with the same body gives the first ticket again; with another body
    /// [`StoreError::IdempotencyConflict`].
    pub async fn accept_ticket(&self, new: NewTicket) -> Result<Accepted, StoreError> {
        self.accept_ticket_with(new, Vec::new()).await
    }

    /// [`Store::accept_ticket`] with the files of the first message, kept in the same transaction.
    pub async fn accept_ticket_with(&self, new: NewTicket, files: Vec<NewAttachment>) -> Result<Accepted, StoreError> {
        let mut tx = self.write().await?;
        let scope = match &new.customer {
            Some(customer) => format!("customer/{customer}"),
            None => "anonymous".to_owned(),
        };
        if let Some(accepted) = replay(&mut tx, &scope, new.idempotency.as_ref()).await? {
            return Ok(accepted);
        }
        let now = now_ms();
        let ticket = new_ticket(&new, now)?;
        if let Some(customer) = &new.customer {
            sqlx::query("INSERT INTO customers (id, created_at) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING")
                .bind(customer)
                .bind(now)
                .execute(&mut *tx)
                .await?;
        }
        insert_ticket(&mut tx, &ticket, now).await?;
        let message = insert_message(&mut tx, ticket.id, Author::Customer, new.body, now).await?;
        let files = attachments::insert(&mut tx, &message, files, now).await?;
        keep_key(&mut tx, &scope, new.idempotency.as_ref(), &message, now).await?;
        let detail = json!({
            "channel": ticket.channel, "language": ticket.language, "bytes": message.body.len(), "files": files.len(),
        });
        audit_message(&mut tx, "customer", "ticket accepted", &message, detail, now).await?;
        let event = Some(tell_received(&mut tx, &message, &files, now).await?);
        tx.commit().await?;
        Ok(Accepted { ticket, message, files, replayed: false, event })
    }

    /// Adds a message to a ticket. It is on disk when this returns.
    ///
    /// - A customer's message reopens the ticket (state `Received`; `Escalated` while a person has taken the conversation
    ///   over), ends its snooze and makes its open drafts superseded.
    /// - An agent's message goes to the customer (outbox), answers the ticket and supersedes its open drafts.
    /// - A note changes nothing else.
    /// - What is written to a ticket that was merged is added to the one that has its conversation.
    ///
    /// Replies of Respondo are recorded by [`Store::finish`] only. Idempotency keys are per ticket.
    pub async fn add_message(
        &self,
        ticket_id: Uuid,
        author: Author,
        body: String,
        idempotency: Option<Idempotency>,
    ) -> Result<Accepted, StoreError> {
        self.add_message_with(ticket_id, author, body, idempotency, Vec::new()).await
    }

    /// [`Store::add_message`] with the files of the message, kept in the same transaction.
    pub async fn add_message_with(
        &self,
        ticket_id: Uuid,
        author: Author,
        body: String,
        idempotency: Option<Idempotency>,
        files: Vec<NewAttachment>,
    ) -> Result<Accepted, StoreError> {
        if author == Author::Respondo {
            return Err(StoreError::Invalid(
                "a reply of respondo is recorded by finishing the work on its ticket".into(),
            ));
        }
        let mut tx = self.write().await?;
        // Of the ticket that was named: who repeats a request names it again, merged or not.
        let scope = format!("ticket/{ticket_id}");
        let ticket_id = survivor(&mut tx, ticket_id).await?;
        let before = load_ticket(&mut tx, ticket_id).await?;
        if let Some(accepted) = replay(&mut tx, &scope, idempotency.as_ref()).await? {
            return Ok(accepted);
        }
        let now = now_ms();
        let message = insert_message(&mut tx, ticket_id, author, body, now).await?;
        let files = attachments::insert(&mut tx, &message, files, now).await?;
        keep_key(&mut tx, &scope, idempotency.as_ref(), &message, now).await?;
        let state = match author {
            Author::Customer if taken_over(&mut tx, ticket_id).await? => TicketState::Escalated,
            Author::Customer => TicketState::Received,
            Author::Agent => TicketState::Answered,
            Author::Respondo | Author::Note => before.state,
        };
        if author != Author::Note {
            supersede_drafts(&mut tx, ticket_id).await?;
        }
        if author == Author::Customer {
            sqlx::query("UPDATE tickets SET snoozed_until = NULL WHERE id = $1")
                .bind(ticket_id.to_string())
                .execute(&mut *tx)
                .await?;
        }
        if author == Author::Agent {
            outbox::insert(&mut tx, &message, &format!("message/{}", message.id), now, Duration::ZERO).await?;
        }
        set_state(&mut tx, ticket_id, state, now).await?;
        let detail = json!({ "from": before.state, "to": state, "bytes": message.body.len(), "files": files.len() });
        audit_message(&mut tx, &name_of(&author)?, "message added", &message, detail, now).await?;
        let event = match author {
            Author::Customer => Some(tell_received(&mut tx, &message, &files, now).await?),
            _ => None,
        };
        let ticket = load_ticket(&mut tx, ticket_id).await?;
        tx.commit().await?;
        Ok(Accepted { ticket, message, files, replayed: false, event })
    }

    pub async fn ticket(&self, id: Uuid) -> Result<Ticket, StoreError> {
        load_ticket(&mut *self.reader.acquire().await?, id).await
    }

    /// The conversation, oldest message first; empty when there is no such ticket.
    pub async fn messages(&self, ticket_id: Uuid) -> Result<Vec<Message>, StoreError> {
        load_messages(&mut *self.reader.acquire().await?, ticket_id).await
    }

    /// Everything about one ticket, read at one moment.
    pub async fn ticket_view(&self, id: Uuid) -> Result<TicketView, StoreError> {
        let mut tx = self.read().await?;
        let ticket = load_ticket(&mut tx, id).await?;
        let messages = load_messages(&mut tx, id).await?;
        let analysis = sqlx::query(
            "SELECT triage, evidence, timings FROM triages WHERE ticket_id = $1 ORDER BY position DESC LIMIT 1",
        )
        .bind(id.to_string())
        .fetch_optional(&mut *tx)
        .await?;
        let (triage, evidence, timings) = match analysis {
            Some(row) => {
                (Some(rows::json(&row, "triage")?), rows::json(&row, "evidence")?, Some(rows::json(&row, "timings")?))
            }
            None => (None, Vec::new(), None),
        };
        let drafts = super::drafts::load_drafts(&mut tx, id).await?;
        let decisions = super::drafts::load_decisions(&mut tx, id).await?;
        let outcomes = super::drafts::load_outcomes(&mut tx, id).await?;
        Ok(TicketView { ticket, messages, triage, evidence, timings, drafts, decisions, outcomes })
    }

    /// Tickets that were accepted and not worked on to the end, oldest first; picked up at start.
    pub async fn unfinished(&self) -> Result<Vec<Uuid>, StoreError> {
        let found = sqlx::query("SELECT id FROM tickets WHERE state = $1 ORDER BY updated_at, id")
            .bind(name_of(&TicketState::Received)?)
            .fetch_all(&self.reader)
            .await?;
        found.iter().map(|row| rows::id(row, "id")).collect()
    }

    /// The audit trail of one ticket, oldest line first.
    pub async fn audit_trail(&self, ticket_id: Uuid) -> Result<Vec<AuditRow>, StoreError> {
        let found = sqlx::query("SELECT * FROM audit WHERE ticket_id = $1 ORDER BY id")
            .bind(ticket_id.to_string())
            .fetch_all(&self.reader)
            .await?;
        let audit_row = |row| {
            Ok(AuditRow {
                id: rows::integer(row, "id")?,
                created_at: rows::time(row, "created_at")?,
                actor: rows::text(row, "actor")?,
                action: rows::text(row, "action")?,
                subject: rows::optional_text(row, "subject")?,
                detail: rows::json(row, "detail")?,
            })
        };
        found.iter().map(audit_row).collect()
    }
}

/// The event of an accepted message.
#[derive(Serialize)]
struct Received<'a> {
    #[serde(flatten)]
    message: &'a Message,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    files: &'a [AttachmentRow],
}

async fn tell_received(
    conn: &mut AnyConnection,
    message: &Message,
    files: &[AttachmentRow],
    now: i64,
) -> Result<EventRow, StoreError> {
    let data = serde_json::to_value(Received { message, files })?;
    append(conn, message.ticket_id, "received", data, now).await
}

fn new_ticket(new: &NewTicket, now: i64) -> Result<Ticket, StoreError> {
    let now = timestamp(now)?;
    Ok(Ticket {
        id: Uuid::now_v7(),
        customer: new.customer.clone(),
        channel: new.channel.clone(),
        subject: new.subject.clone(),
        language: new.language.clone(),
        product: new.product.clone(),
        queue: new.queue.clone(),
        state: TicketState::Received,
        urgency: None,
        difficulty: None,
        created_at: now,
        updated_at: now,
        due_at: None,
    })
}

async fn insert_ticket(conn: &mut AnyConnection, ticket: &Ticket, now: i64) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO tickets (id, customer, channel, subject, language, product, queue, state, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(ticket.id.to_string())
    .bind(&ticket.customer)
    .bind(&ticket.channel)
    .bind(&ticket.subject)
    .bind(ticket.language.code())
    .bind(&ticket.product)
    .bind(&ticket.queue)
    .bind(name_of(&ticket.state)?)
    .bind(now)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

pub(super) async fn insert_message(
    conn: &mut AnyConnection,
    ticket_id: Uuid,
    author: Author,
    body: String,
    now: i64,
) -> Result<Message, StoreError> {
    let message = Message { id: Uuid::now_v7(), ticket_id, author, body, created_at: timestamp(now)? };
    sqlx::query(
        "INSERT INTO messages (id, ticket_id, position, author, body, created_at) \
         SELECT $1, $2, COALESCE(MAX(position), 0) + 1, $3, $4, $5 FROM messages WHERE ticket_id = $6",
    )
    .bind(message.id.to_string())
    .bind(ticket_id.to_string())
    .bind(name_of(&author)?)
    .bind(&message.body)
    .bind(now)
    .bind(ticket_id.to_string())
    .execute(conn)
    .await?;
    Ok(message)
}

/// True while a person has the conversation.
pub(super) async fn taken_over(conn: &mut AnyConnection, ticket_id: Uuid) -> Result<bool, StoreError> {
    let row =
        sqlx::query("SELECT taken_over FROM tickets WHERE id = $1").bind(ticket_id.to_string()).fetch_one(conn).await?;
    Ok(rows::integer(&row, "taken_over")? != 0)
}

pub(super) async fn set_state(
    conn: &mut AnyConnection,
    ticket_id: Uuid,
    state: TicketState,
    now: i64,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE tickets SET state = $1, updated_at = $2 WHERE id = $3")
        .bind(name_of(&state)?)
        .bind(now)
        .bind(ticket_id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Takes every open draft of the ticket off the agents' table: the conversation has moved on.
pub(super) async fn supersede_drafts(conn: &mut AnyConnection, ticket_id: Uuid) -> Result<(), StoreError> {
    sqlx::query("UPDATE drafts SET status = 'superseded' WHERE ticket_id = $1 AND status = 'open'")
        .bind(ticket_id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Writes the audit line about one message.
pub(super) async fn audit_message(
    conn: &mut AnyConnection,
    actor: &str,
    action: &str,
    message: &Message,
    detail: Value,
    now: i64,
) -> Result<(), StoreError> {
    let subject = Some(message.id.to_string());
    write_audit(conn, Audit { actor, action, ticket_id: Some(message.ticket_id), subject, detail }, now).await
}

async fn load_messages(conn: &mut AnyConnection, ticket_id: Uuid) -> Result<Vec<Message>, StoreError> {
    let found = sqlx::query("SELECT * FROM messages WHERE ticket_id = $1 ORDER BY position")
        .bind(ticket_id.to_string())
        .fetch_all(conn)
        .await?;
    found.iter().map(rows::message).collect()
}

/// What an earlier request with this key was given, if there was one.
async fn replay(
    conn: &mut AnyConnection,
    scope: &str,
    idempotency: Option<&Idempotency>,
) -> Result<Option<Accepted>, StoreError> {
    let Some(idempotency) = idempotency else { return Ok(None) };
    let seen = sqlx::query("SELECT body_sha256, message_id FROM idempotency_keys WHERE scope = $1 AND key = $2")
        .bind(scope)
        .bind(&idempotency.key)
        .fetch_optional(&mut *conn)
        .await?;
    let Some(seen) = seen else { return Ok(None) };
    if rows::text(&seen, "body_sha256")? != idempotency.body_sha256 {
        return Err(StoreError::IdempotencyConflict(idempotency.key.clone()));
    }
    let row = sqlx::query("SELECT * FROM messages WHERE id = $1")
        .bind(seen.try_get::<String, _>("message_id")?)
        .fetch_one(&mut *conn)
        .await?;
    let message = rows::message(&row)?;
    let ticket = load_ticket(conn, message.ticket_id).await?;
    Ok(Some(Accepted { ticket, message, files: Vec::new(), replayed: true, event: None }))
}

async fn keep_key(
    conn: &mut AnyConnection,
    scope: &str,
    idempotency: Option<&Idempotency>,
    message: &Message,
    now: i64,
) -> Result<(), StoreError> {
    let Some(idempotency) = idempotency else { return Ok(()) };
    sqlx::query(
        "INSERT INTO idempotency_keys (scope, key, body_sha256, ticket_id, message_id, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(scope)
    .bind(&idempotency.key)
    .bind(&idempotency.body_sha256)
    .bind(message.ticket_id.to_string())
    .bind(message.id.to_string())
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}
