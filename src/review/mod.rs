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
    mut action: ReviewAction,
) -> Result<ReviewResult, StoreError> {
    let outcome = action.outcome;
    let (ticket, reviewed) = pipeline.store.draft(draft).await?;
    if matches!(outcome, Outcome::Approved | Outcome::Edited)
        && matches!(reviewed.draft.kind, DraftKind::Extractive | DraftKind::Generated)
    {
        let reply = action.final_text.as_deref().unwrap_or(&reviewed.draft.text);
        action.remember = Some(approved::item(&pipeline.store, ticket, reply).await?);
    }
    let learned = action.remember.is_some();
    let result = pipeline.store.resolve_draft(draft, action).await?;
    let event = json!({ "draft_id": draft, "outcome": outcome, "state": result.ticket.state });
    pipeline.events.keep(ticket, "review", &event).await?;
    let name = format!("{outcome:?}").to_lowercase();
    metrics::counter!("respondo_reviews_total", "outcome" => name).increment(1);
    // The reply is already on its way; that it is not yet found must not fail the review.
    if learned && let Err(error) = indexer.catch_up(|_| {}).await {
        tracing::warn!(%ticket, %error, "approved answer is not in the index yet; it is taken up at the next start");
    }
    Ok(result)
}
