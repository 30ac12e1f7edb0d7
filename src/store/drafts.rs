//! Work on a ticket: judgement, drafts, the decision, and what a person made of it.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use similar::TextDiff;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use utoipa::ToSchema;
use uuid::Uuid;

use super::handling::sign;
use super::rows::{self, load_ticket, name_of, now_ms};
use super::tickets::{audit_message, insert_message, set_state, supersede_drafts};
use super::{Audit, Store, StoreError, content_hash, embeddings, memory, outbox, write_audit};
use crate::decide::basis::Basis;
use crate::ticket::{
    Author, Decision, Draft, DraftKind, Evidence, Language, MemoryItem, Message, Outcome, Ticket, TicketState, Timings,
    Triage,
};

/// Most time spent on a difference; what is not compared by then is shown as replaced.
const DIFF_TIMEOUT: Duration = Duration::from_millis(200);

/// What a person decided about a draft.
#[derive(Clone, Debug)]
pub struct ReviewAction {
    pub outcome: Outcome,
    /// For `Edited`: the whole reply as it goes out.
    pub final_text: Option<String>,
    pub note: Option<String>,
    pub agent: Option<String>,
    /// For `Escalated`: the skill it needs.
    pub skill: Option<String>,
    /// For `Escalated`: the person who shall have it.
    pub assignee: Option<Uuid>,
    /// What the desk learns from it, kept with the outcome or not at all; it still has to be indexed.
    pub remember: Option<MemoryItem>,
    /// How long the reply waits before it goes out, so that it can be taken back.
    pub hold: Duration,
}

#[derive(Clone, Debug)]
pub struct ReviewResult {
    pub ticket: Ticket,
    /// The message that goes out, for `Approved` and `Edited`.
    pub message: Option<Message>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DraftStatus {
    /// May be approved, edited, rejected or escalated.
    Open,
    /// Went out by itself.
    Sent,
    /// A person has decided; see the outcome.
    Resolved,
    /// A newer draft, message or decision took its place.
    Superseded,
}

impl DraftStatus {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Sent => "sent",
            Self::Resolved => "resolved",
            Self::Superseded => "superseded",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct DraftRecord {
    pub id: Uuid,
    pub status: DraftStatus,
    pub draft: Draft,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct DecisionRecord {
    pub id: Uuid,
    pub draft_id: Option<Uuid>,
    pub decision: Decision,
    /// What it rests on; none for older ones and for what people brought about.
    pub basis: Option<Basis>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// A decision with what was judged and drafted for it.
#[derive(Clone, Debug)]
pub struct RecordedDecision {
    pub ticket: Uuid,
    pub record: DecisionRecord,
    pub triage: Option<Triage>,
    pub draft: Option<DraftRecord>,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct OutcomeRecord {
    pub draft_id: Uuid,
    pub outcome: Outcome,
    /// What the customer was sent.
    pub final_text: Option<String>,
    /// Unified difference from the draft to `final_text`; empty when they are equal.
    pub difference: Option<String>,
    pub note: Option<String>,
    pub agent: Option<String>,
    pub skill: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// The judgement of one piece of work.
#[derive(Clone, Copy, Debug)]
pub struct Analysis<'a> {
    pub triage: &'a Triage,
    pub evidence: &'a [Evidence],
    pub timings: &'a Timings,
    /// Of what was asked, if there is one, with the name of its model; the latest only is kept.
    pub vector: Option<(&'a str, &'a [f32])>,
}

impl Store {
    /// Keeps a draft with its evidence. It is the ticket's open draft until another is saved or [`Store::finish`] names
    /// one.
    pub async fn save_draft(&self, ticket_id: Uuid, draft: &Draft) -> Result<Uuid, StoreError> {
        let mut tx = self.write().await?;
        load_ticket(&mut tx, ticket_id).await?;
        supersede_drafts(&mut tx, ticket_id).await?;
        let id = insert_draft(&mut tx, ticket_id, draft, now_ms()).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// A person decides about an open draft; once only.
    ///
    /// `Approved` and `Edited` send the reply (state `Answered`; `Waiting` when the draft asks the customer something;
    /// `Escalated` when an acknowledgement was approved as it is, since its customer still waits for an answer). `Rejected`
    /// and `Escalated` send nothing and leave the ticket with a person.
    ///
    /// [`StoreError::Conflict`] when the draft is not open any more; [`StoreError::Invalid`] when the text does not fit
    /// the outcome.
    pub async fn resolve_draft(&self, draft_id: Uuid, action: ReviewAction) -> Result<ReviewResult, StoreError> {
        let mut tx = self.write().await?;
        let row = sqlx::query("SELECT * FROM drafts WHERE id = $1")
            .bind(draft_id.to_string())
            .fetch_optional(&mut *tx)
            .await?
            .ok_or_else(|| StoreError::NotFound(format!("draft {draft_id}")))?;
        let ticket_id = rows::id(&row, "ticket_id")?;
        let record = draft_record(&row)?;
        if record.status != DraftStatus::Open {
            let status = record.status.name();
            return Err(StoreError::Conflict(format!("draft {draft_id} is {status}; read the ticket again")));
        }
        let before = load_ticket(&mut tx, ticket_id).await?;
        let final_text = final_text(&record.draft, &action)?;
        let now = now_ms();
        set_draft_status(&mut tx, ticket_id, draft_id, DraftStatus::Resolved).await?;
        insert_outcome(&mut tx, ticket_id, &record, &action, final_text.as_deref(), now).await?;
        let state = state_after(record.draft.kind, action.outcome);
        let actor = action.agent.as_deref().unwrap_or("agent");
        let detail = json!({ "outcome": action.outcome, "skill": action.skill, "assignee": action.assignee, "from": before.state, "to": state });
        let subject = Some(draft_id.to_string());
        let entry = Audit { actor, action: "draft resolved", ticket_id: Some(ticket_id), subject, detail };
        write_audit(&mut tx, entry, now).await?;
        let mut message = None;
        if let Some(text) = final_text {
            let sent = insert_message(&mut tx, ticket_id, Author::Agent, text, now).await?;
            if let Some(agent) = &action.agent {
                sign(&mut tx, &sent, agent).await?;
            }
            outbox::insert(&mut tx, &sent, &format!("draft/{draft_id}"), now, action.hold).await?;
            let detail = json!({ "automatic": false, "bytes": sent.body.len() });
            audit_message(&mut tx, actor, "reply queued", &sent, detail, now).await?;
            message = Some(sent);
        }
        if let Some(item) = &action.remember {
            memory::upsert(&mut tx, item, &content_hash(item)?, now).await?;
        }
        if let Some(skill) = &action.skill {
            set_skill(&mut tx, ticket_id, skill).await?;
        }
        if let Some(assignee) = action.assignee {
            assign(&mut tx, ticket_id, assignee).await?;
        }
        set_state(&mut tx, ticket_id, state, now).await?;
        let ticket = load_ticket(&mut tx, ticket_id).await?;
        tx.commit().await?;
        Ok(ReviewResult { ticket, message })
    }

    /// A decision by its id, or a ticket's last one by the ticket's.
    pub async fn recorded_decision(&self, id: Uuid) -> Result<RecordedDecision, StoreError> {
        let mut tx = self.read().await?;
        let row = sqlx::query("SELECT * FROM decisions WHERE id = $1 OR ticket_id = $1 ORDER BY position DESC LIMIT 1")
            .bind(id.to_string())
            .fetch_optional(&mut *tx)
            .await?
            .ok_or_else(|| StoreError::NotFound(format!("decision {id}, nor a ticket {id} that was decided about")))?;
        let (ticket, record) = (rows::id(&row, "ticket_id")?, decision_record(&row)?);
        let judged = sqlx::query(
            "SELECT triage FROM triages WHERE ticket_id = $1 AND created_at <= $2 ORDER BY position DESC LIMIT 1",
        )
        .bind(ticket.to_string())
        .bind(record.created_at.as_millisecond())
        .fetch_optional(&mut *tx)
        .await?;
        let triage = judged.map(|row| rows::json(&row, "triage")).transpose()?;
        let drafts = load_drafts(&mut tx, ticket).await?;
        let draft = drafts.into_iter().find(|draft| Some(draft.id) == record.draft_id);
        Ok(RecordedDecision { ticket, record, triage, draft })
    }

    /// One draft with the ticket it belongs to.
    pub async fn draft(&self, draft_id: Uuid) -> Result<(Uuid, DraftRecord), StoreError> {
        let row = sqlx::query("SELECT * FROM drafts WHERE id = $1")
            .bind(draft_id.to_string())
            .fetch_optional(&self.reader)
            .await?
            .ok_or_else(|| StoreError::NotFound(format!("draft {draft_id}")))?;
        Ok((rows::id(&row, "ticket_id")?, draft_record(&row)?))
    }
}

/// Keeps the judgement beside earlier ones.
pub(super) async fn insert_analysis(
    conn: &mut AnyConnection,
    ticket_id: Uuid,
    analysis: &Analysis<'_>,
    now: i64,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO triages (ticket_id, position, triage, evidence, timings, created_at) \
         SELECT $1, COALESCE(MAX(position), 0) + 1, $2, $3, $4, $5 FROM triages WHERE ticket_id = $6",
    )
    .bind(ticket_id.to_string())
    .bind(serde_json::to_string(analysis.triage)?)
    .bind(serde_json::to_string(analysis.evidence)?)
    .bind(serde_json::to_string(analysis.timings)?)
    .bind(now)
    .bind(ticket_id.to_string())
    .execute(&mut *conn)
    .await?;
    match analysis.vector {
        Some((model, vector)) => embeddings::keep_ticket_vector(conn, ticket_id, model, vector).await,
        None => Ok(()),
    }
}

pub(super) async fn insert_draft(
    conn: &mut AnyConnection,
    ticket_id: Uuid,
    draft: &Draft,
    now: i64,
) -> Result<Uuid, StoreError> {
    let id = Uuid::now_v7();
    sqlx::query(
        "INSERT INTO drafts (id, ticket_id, position, status, kind, language, text, sentences, evidence, findings, \
                             model, created_at) \
         SELECT $1, $2, COALESCE(MAX(position), 0) + 1, 'open', $3, $4, $5, $6, $7, $8, $9, $10 FROM drafts WHERE ticket_id = $11",
    )
    .bind(id.to_string())
    .bind(ticket_id.to_string())
    .bind(name_of(&draft.kind)?)
    .bind(draft.language.code())
    .bind(&draft.text)
    .bind(serde_json::to_string(&draft.sentences)?)
    .bind(serde_json::to_string(&draft.evidence)?)
    .bind(serde_json::to_string(&draft.findings)?)
    .bind(&draft.model)
    .bind(now)
    .bind(ticket_id.to_string())
    .execute(conn)
    .await?;
    Ok(id)
}

/// The reply that goes out, if one does.
fn final_text(draft: &Draft, action: &ReviewAction) -> Result<Option<String>, StoreError> {
    let text = match (action.outcome, &action.final_text) {
        (Outcome::Rejected | Outcome::Escalated, _) => return Ok(None),
        (Outcome::Edited, None) => return Err(StoreError::Invalid("an edited reply needs its final text".into())),
        (Outcome::Edited, Some(text)) => text,
        (Outcome::Approved, Some(text)) if *text != draft.text => {
            return Err(StoreError::Invalid("the text differs from the approved draft; send it as edited".into()));
        }
        (Outcome::Approved, _) => &draft.text,
    };
    if text.trim().is_empty() {
        return Err(StoreError::Invalid("an empty reply cannot go out; write one, or escalate".into()));
    }
    Ok(Some(text.clone()))
}

pub(super) fn state_after(kind: DraftKind, outcome: Outcome) -> TicketState {
    match (outcome, kind) {
        (Outcome::Rejected | Outcome::Escalated, _) => TicketState::Escalated,
        (_, DraftKind::Question) => TicketState::Waiting,
        (Outcome::Approved, DraftKind::Acknowledgement) => TicketState::Escalated,
        (Outcome::Approved | Outcome::Edited, _) => TicketState::Answered,
    }
}

pub(super) async fn set_draft_status(
    conn: &mut AnyConnection,
    ticket_id: Uuid,
    draft_id: Uuid,
    status: DraftStatus,
) -> Result<(), StoreError> {
    let changed = sqlx::query("UPDATE drafts SET status = $1 WHERE id = $2 AND ticket_id = $3")
        .bind(status.name())
        .bind(draft_id.to_string())
        .bind(ticket_id.to_string())
        .execute(conn)
        .await?;
    match changed.rows_affected() {
        0 => Err(StoreError::NotFound(format!("draft {draft_id} in ticket {ticket_id}"))),
        _ => Ok(()),
    }
}

/// Gives the ticket to a person who works here.
async fn assign(conn: &mut AnyConnection, ticket_id: Uuid, assignee: Uuid) -> Result<(), StoreError> {
    let assigned = sqlx::query(
        "UPDATE tickets SET assignee = (SELECT id FROM agents WHERE id = $1 AND active = 1) \
         WHERE id = $2 AND EXISTS (SELECT 1 FROM agents WHERE id = $1 AND active = 1)",
    )
    .bind(assignee.to_string())
    .bind(ticket_id.to_string())
    .execute(conn)
    .await?;
    match assigned.rows_affected() {
        0 => Err(StoreError::Invalid("this person does not work here (any more); choose somebody else".to_owned())),
        _ => Ok(()),
    }
}

/// The skill that the ticket needs, as the queue shows it.
pub(super) async fn set_skill(conn: &mut AnyConnection, ticket_id: Uuid, skill: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE tickets SET skill = $1 WHERE id = $2")
        .bind(skill)
        .bind(ticket_id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

async fn insert_outcome(
    conn: &mut AnyConnection,
    ticket_id: Uuid,
    record: &DraftRecord,
    action: &ReviewAction,
    final_text: Option<&str>,
    now: i64,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO outcomes (draft_id, ticket_id, outcome, final_text, difference, note, agent, skill, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(record.id.to_string())
    .bind(ticket_id.to_string())
    .bind(name_of(&action.outcome)?)
    .bind(final_text)
    .bind(final_text.map(|text| difference(&record.draft.text, text)))
    .bind(&action.note)
    .bind(&action.agent)
    .bind(&action.skill)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// Unified difference, empty when the texts are equal.
fn difference(draft: &str, final_text: &str) -> String {
    let lines = TextDiff::configure().timeout(DIFF_TIMEOUT).diff_lines(draft, final_text);
    lines.unified_diff().header("draft", "sent").missing_newline_hint(false).to_string()
}

pub(super) fn draft_record(row: &AnyRow) -> Result<DraftRecord, StoreError> {
    let draft = Draft {
        kind: rows::named(row, "kind")?,
        language: Language::new(&rows::text(row, "language")?),
        text: rows::text(row, "text")?,
        sentences: rows::json(row, "sentences")?,
        evidence: rows::json(row, "evidence")?,
        findings: rows::json(row, "findings")?,
        model: rows::optional_text(row, "model")?,
    };
    let created_at = rows::time(row, "created_at")?;
    Ok(DraftRecord { id: rows::id(row, "id")?, status: rows::named(row, "status")?, draft, created_at })
}

pub(super) async fn load_drafts(conn: &mut AnyConnection, ticket_id: Uuid) -> Result<Vec<DraftRecord>, StoreError> {
    let found = sqlx::query("SELECT * FROM drafts WHERE ticket_id = $1 ORDER BY position")
        .bind(ticket_id.to_string())
        .fetch_all(conn)
        .await?;
    found.iter().map(draft_record).collect()
}

pub(super) async fn load_decisions(
    conn: &mut AnyConnection,
    ticket_id: Uuid,
) -> Result<Vec<DecisionRecord>, StoreError> {
    let found = sqlx::query("SELECT * FROM decisions WHERE ticket_id = $1 ORDER BY position")
        .bind(ticket_id.to_string())
        .fetch_all(conn)
        .await?;
    found.iter().map(decision_record).collect()
}

fn decision_record(row: &AnyRow) -> Result<DecisionRecord, StoreError> {
    let basis = rows::optional_text(row, "basis")?;
    Ok(DecisionRecord {
        id: rows::id(row, "id")?,
        draft_id: rows::optional_id(row, "draft_id")?,
        decision: rows::json(row, "decision")?,
        basis: basis.map(|basis| serde_json::from_str(&basis)).transpose()?,
        created_at: rows::time(row, "created_at")?,
    })
}

pub(super) async fn load_outcomes(conn: &mut AnyConnection, ticket_id: Uuid) -> Result<Vec<OutcomeRecord>, StoreError> {
    let found = sqlx::query("SELECT * FROM outcomes WHERE ticket_id = $1 ORDER BY created_at, draft_id")
        .bind(ticket_id.to_string())
        .fetch_all(conn)
        .await?;
    let outcome_record = |row| {
        Ok(OutcomeRecord {
            draft_id: rows::id(row, "draft_id")?,
            outcome: rows::named(row, "outcome")?,
            final_text: rows::optional_text(row, "final_text")?,
            difference: rows::optional_text(row, "difference")?,
            note: rows::optional_text(row, "note")?,
            agent: rows::optional_text(row, "agent")?,
            skill: rows::optional_text(row, "skill")?,
            created_at: rows::time(row, "created_at")?,
        })
    };
    found.iter().map(outcome_record).collect()
}
