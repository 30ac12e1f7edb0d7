//! The agents' side: what a person does with a draft.

use std::time::Duration;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::AppState;
use super::extract::{Json, Path};
use super::problem::Problem;
use crate::intake::without_nul;
use crate::review;
use crate::store::ReviewAction;
use crate::ticket::{Message, Outcome, Ticket};

/// Longest note, name or reply of an agent, in bytes.
const MAX_TEXT: usize = 65_536;

/// Sends the draft as it is.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApproveBody {
    pub agent: Option<String>,
    pub note: Option<String>,
}

/// Sends another text in place of the draft; the difference is kept.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EditBody {
    /// The whole reply as it goes out.
    #[schema(min_length = 1)]
    pub text: String,
    pub agent: Option<String>,
    pub note: Option<String>,
}

/// Throws the draft away.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RejectBody {
    /// Why; training data.
    pub reason: String,
    pub agent: Option<String>,
}

/// Hands the ticket to a person with a skill.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EscalateBody {
    pub skill: String,
    pub agent: Option<String>,
    pub note: Option<String>,
}

/// The ticket after a review.
#[derive(Serialize, ToSchema)]
pub struct Reviewed {
    pub ticket: Ticket,
    /// The message that goes out, for approved and edited drafts.
    pub message: Option<Message>,
}

/// Approves a draft: it goes to the customer and becomes memory.
#[utoipa::path(post, path = "/v1/drafts/{id}/approve", tag = "desk", params(("id" = Uuid, Path)),
    request_body = ApproveBody, responses((status = 200, body = Reviewed), (status = 404, body = Problem),
        (status = 409, body = Problem, description = "no longer open")))]
pub async fn approve(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    Json(body): Json<ApproveBody>,
) -> Result<axum::Json<Reviewed>, Problem> {
    resolve(&state, id, action(Outcome::Approved, None, body.note, body.agent, None)?).await
}

/// Sends an edited reply; it becomes memory.
#[utoipa::path(post, path = "/v1/drafts/{id}/edit", tag = "desk", params(("id" = Uuid, Path)),
    request_body = EditBody, responses((status = 200, body = Reviewed), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 422, body = Problem, description = "no text in it")))]
pub async fn edit(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    Json(body): Json<EditBody>,
) -> Result<axum::Json<Reviewed>, Problem> {
    if body.text.trim().is_empty() {
        return Err(Problem::unprocessable("text is empty; write the reply or reject the draft"));
    }
    resolve(&state, id, action(Outcome::Edited, Some(body.text), body.note, body.agent, None)?).await
}

/// Rejects a draft; the ticket stays with the team.
#[utoipa::path(post, path = "/v1/drafts/{id}/reject", tag = "desk", params(("id" = Uuid, Path)),
    request_body = RejectBody, responses((status = 200, body = Reviewed), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub async fn reject(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    Json(body): Json<RejectBody>,
) -> Result<axum::Json<Reviewed>, Problem> {
    resolve(&state, id, action(Outcome::Rejected, None, Some(body.reason), body.agent, None)?).await
}

/// Escalates the ticket to a person with a skill.
#[utoipa::path(post, path = "/v1/drafts/{id}/escalate", tag = "desk", params(("id" = Uuid, Path)),
    request_body = EscalateBody, responses((status = 200, body = Reviewed), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub async fn escalate(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    Json(body): Json<EscalateBody>,
) -> Result<axum::Json<Reviewed>, Problem> {
    resolve(&state, id, action(Outcome::Escalated, None, body.note, body.agent, Some(body.skill))?).await
}

fn action(
    outcome: Outcome,
    final_text: Option<String>,
    note: Option<String>,
    agent: Option<String>,
    skill: Option<String>,
) -> Result<ReviewAction, Problem> {
    for text in [&final_text, &note, &agent, &skill].into_iter().flatten() {
        if text.len() > MAX_TEXT {
            return Err(Problem::too_large(format!("a text has {} bytes; at most {MAX_TEXT} are taken", text.len())));
        }
    }
    let [final_text, note, agent, skill] = [final_text, note, agent, skill].map(|text| text.map(without_nul));
    Ok(ReviewAction { outcome, final_text, note, agent, skill, assignee: None, remember: None, hold: Duration::ZERO })
}

async fn resolve(state: &AppState, draft: Uuid, action: ReviewAction) -> Result<axum::Json<Reviewed>, Problem> {
    let result = review::resolve(&state.pipeline, &state.indexer, draft, action).await?;
    state.worker.outbox_changed();
    Ok(axum::Json(Reviewed { ticket: result.ticket, message: result.message }))
}
