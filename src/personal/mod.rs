//! What is held about one customer: read out into one file, and erased from everywhere that we reach.
//!
//! Out of our reach are backups, copies of exports and finished reports of evaluations; the README says so.

pub mod export;
pub mod retention;

use std::sync::Arc;

use crate::eval;
use crate::events::Events;
use crate::learn::approved::memory_id;
use crate::learn::index::{self, LearnError};
use crate::retrieve::VectorStore;
use crate::store::{Erasure, ErasureReport, Held, Rewrite, Store, StoreError};
use crate::worker::Worker;

/// What a customer is erased from beside the store.
pub struct Places {
    pub store: Store,
    pub vectors: Arc<dyn VectorStore>,
    /// Of a running service.
    pub live: Option<(Events, Worker)>,
}

/// What is held about a customer, counted.
///
/// # Errors
/// [`StoreError::NotFound`] when there is no such customer.
pub async fn held(store: &Store, customer: &str) -> Result<Held, StoreError> {
    store.held(customer, memory_id).await
}

/// Erases a customer: tickets with all that hangs on them, what the memory learned from them with its vectors, quotes of that
/// in other tickets, kept cases of evaluations; then sees to it that none of it is left in the files. Gives the number of
/// forgotten memory items too. Cut off at any moment, it can be repeated.
///
/// # Errors
/// [`StoreError::NotFound`] when there is no such customer; otherwise when the store or the index fails.
pub async fn erase(
    places: &Places,
    customer: &str,
    erasure: Erasure<'_>,
    rewrite: Rewrite,
) -> Result<(ErasureReport, u64), LearnError> {
    let store = &places.store;
    let tickets = store.tickets_of(customer, erasure.until).await?;
    if let Some((_, worker)) = &places.live {
        tickets.iter().for_each(|ticket| worker.stop(*ticket));
    }
    let learned: Vec<String> = tickets.iter().copied().map(memory_id).collect();
    // First what the tickets name, so that who repeats this still finds it.
    let forgotten = store.forget_learned(&learned).await?;
    index::remove(&places.vectors, learned.clone()).await?;
    store.blank_evidence_of(&learned).await?;
    let report = store.erase_customer(customer, erasure).await?;
    if let Some((events, _)) = &places.live {
        events.forget(&report.tickets);
    }
    store.fold(rewrite).await;
    forget_evaluations();
    Ok((report, forgotten))
}

/// Removes what evaluations over the team's own store keep from run to run; the next one makes it anew.
pub fn forget_evaluations() {
    if let Err(error) = eval::forget_own_store() {
        tracing::warn!(%error, "kept cases of evaluations could not be removed");
    }
}
