//! What a person does with a draft: approve, edit, reject, escalate.

use serde_json::json;
use uuid::Uuid;

use crate::learn::approved;
use crate::learn::index::Indexer;
use crate::pipeline::Pipeline;
use crate::store::{ReviewAction, ReviewResult, StoreError};
use crate::ticket::{DraftKind, Outcome};

/// Records what was done with a draft; what was approved or edited leaves through the outbox and becomes memory.
///
/// # Errors
/// [`StoreError::Conflict`] when the draft is no longer open: a colleague was faster, or the customer wrote again.
pub async fn resolve(
    pipeline: &Pipeline,
    indexer: &Indexer,
    draft: Uuid,
    action: ReviewAction,
) -> Result<ReviewResult, StoreError> {
    let outcome = action.outcome;
    let (_, reviewed) = pipeline.store.draft(draft).await?;
    let result = pipeline.store.resolve_draft(draft, action).await?;
    let ticket = result.ticket.id;
    let event = json!({ "draft_id": draft, "outcome": outcome, "state": result.ticket.state });
    pipeline.events.keep(ticket, "review", &event).await?;
    let name = format!("{outcome:?}").to_lowercase();
    metrics::counter!("respondo_reviews_total", "outcome" => name).increment(1);
    if matches!(outcome, Outcome::Approved | Outcome::Edited)
        && matches!(reviewed.draft.kind, DraftKind::Extractive | DraftKind::Generated)
        && let Some(message) = &result.message
    {
        // The reply is already on its way; that it is not yet remembered must not fail the review.
        if let Err(error) = approved::remember(indexer, &result.ticket, &message.body).await {
            tracing::warn!(%ticket, %error, "approved answer is not in the memory yet; it is taken up at the next start");
        }
    }
    Ok(result)
}
