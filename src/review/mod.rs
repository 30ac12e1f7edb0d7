//! What a person does with a draft: approve, edit, reject, escalate, and take back what has not gone out yet.

use std::sync::Arc;

use serde_json::json;
use uuid::Uuid;

use crate::learn::approved;
use crate::learn::index::Indexer;
use crate::pipeline::Pipeline;
use crate::store::{ReviewAction, ReviewResult, StoreError};
use crate::ticket::{DraftKind, Outcome, Ticket};

/// Records what was done with a draft; what was approved or edited leaves through the outbox and becomes memory.
///
/// # Errors
/// [`StoreError::Conflict`] when the draft is no longer open: a colleague was faster, or the customer wrote again.
pub async fn resolve(
    pipeline: &Pipeline,
    indexer: &Indexer,
    draft: Uuid,
    mut action: ReviewAction,
) -> Result<ReviewResult, StoreError> {
    let (outcome, agent) = (action.outcome, action.agent.clone());
    let (ticket, reviewed) = pipeline.store.draft(draft).await?;
    if matches!(outcome, Outcome::Approved | Outcome::Edited)
        && matches!(reviewed.draft.kind, DraftKind::Extractive | DraftKind::Generated)
    {
        let reply = action.final_text.as_deref().unwrap_or(&reviewed.draft.text);
        action.remember = Some(approved::item(&pipeline.store, ticket, reply).await?);
    }
    let learned = action.remember.is_some();
    let result = pipeline.store.resolve_draft(draft, action).await?;
    let event = json!({ "draft_id": draft, "outcome": outcome, "agent": agent, "state": result.ticket.state });
    pipeline.events.keep(ticket, "review", &event).await?;
    let name = format!("{outcome:?}").to_lowercase();
    metrics::counter!("respondo_reviews_total", "outcome" => name).increment(1);
    // The reply is already on its way; that it is not yet found must not fail the review.
    if learned && let Err(error) = indexer.catch_up(|_| {}).await {
        tracing::warn!(%ticket, %error, "approved answer is not in the index yet; it is tried again");
    }
    Ok(result)
}

/// Takes a reply back that has not gone out yet; what the desk learned from it is forgotten. Gives the ticket and the text
/// that was about to be sent.
///
/// # Errors
/// [`StoreError::Conflict`] when it has gone out.
pub async fn take_back(
    pipeline: &Pipeline,
    indexer: &Indexer,
    message: Uuid,
    by: &str,
) -> Result<(Ticket, String), StoreError> {
    let (ticket, text) = pipeline.store.take_back(message, by).await?;
    let learned = approved::memory_id(ticket.id);
    if pipeline.store.forget(&learned).await? {
        let vectors = Arc::clone(&indexer.vectors);
        let deleted = tokio::task::spawn_blocking(move || vectors.delete(&[learned])).await;
        if !matches!(deleted, Ok(Ok(_))) {
            tracing::warn!(ticket = %ticket.id, "a reply that was taken back stays in the index, unseen, until it is built anew");
        }
    }
    let event = json!({ "message_id": message, "agent": by, "state": ticket.state });
    pipeline.events.keep(ticket.id, "taken_back", &event).await?;
    Ok((ticket, text))
}
