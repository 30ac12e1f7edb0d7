//! What a person does with a draft: approve, edit, reject, escalate, and take back what has not gone out yet.

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use crate::learn::approved;
use crate::learn::index::{self, Indexer};
use crate::pipeline::Pipeline;
use crate::store::{ReviewAction, ReviewResult, StoreError};
use crate::ticket::{DraftKind, Outcome, Ticket};

/// How long a review waits until what was approved is found.
const INDEX_WAIT: Duration = Duration::from_secs(1);

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
    if learned {
        find_soon(indexer, ticket).await;
    }
    Ok(result)
}

/// Has what was learned found from the next request on, where that takes no time worth waiting for. The reply is already on
/// its way: nothing here may fail the review, nor hold it up while a whole memory is indexed.
async fn find_soon(indexer: &Indexer, ticket: Uuid) {
    let indexer = indexer.clone();
    let learning = tokio::spawn(async move {
        if let Err(error) = indexer.catch_up(|_| {}).await {
            tracing::warn!(%ticket, %error, "approved answer is not in the index yet; that is tried again");
        }
    });
    let _ = tokio::time::timeout(INDEX_WAIT, learning).await;
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
    if pipeline.store.forget(&learned).await?
        && let Err(error) = index::remove(&indexer.vectors, vec![learned]).await
    {
        tracing::warn!(ticket = %ticket.id, %error, "a reply that was taken back is still in the index, though never shown; `respondo reindex` mends that");
    }
    let event = json!({ "message_id": message, "agent": by, "state": ticket.state });
    pipeline.events.keep(ticket.id, "taken_back", &event).await?;
    Ok((ticket, text))
}
