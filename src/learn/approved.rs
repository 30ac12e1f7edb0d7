//! An answer that a person approved becomes memory.

use uuid::Uuid;

use super::index::{Indexer, LearnError};
use crate::intake::scrub::scrub;
use crate::store::content_hash;
use crate::ticket::{AnswerKind, Author, MemoryItem, MemoryKind, Ticket};

/// Id under which the memory keeps a ticket of this desk.
pub fn memory_id(ticket: Uuid) -> String {
    format!("ticket-{ticket}")
}

/// Puts the ticket with its approved reply into the memory and the index, scrubbed of personal data.
///
/// # Errors
/// When the store, the index or the embedding model fails; what reached the store is indexed at the next start.
pub async fn remember(indexer: &Indexer, ticket: &Ticket, reply: &str) -> Result<(), LearnError> {
    let messages = indexer.store.messages(ticket.id).await?;
    let asked: Vec<&str> = messages.iter().filter(|m| m.author == Author::Customer).map(|m| m.body.as_str()).collect();
    let answered_at = messages.last().map_or(ticket.updated_at, |message| message.created_at);
    let hours = answered_at.duration_since(ticket.created_at).as_secs_f64() / 3_600.0;
    let item = MemoryItem {
        id: memory_id(ticket.id),
        kind: MemoryKind::Ticket,
        language: ticket.language.clone(),
        product: ticket.product.clone(),
        queue: ticket.queue.clone(),
        title: scrub(&ticket.subject).text,
        problem: scrub(&asked.join("\n\n")).text,
        solution: scrub(reply).text,
        answer_kind: Some(AnswerKind::Approved),
        url: None,
        resolved_hours: Some(hours.max(0.0) as f32),
        created_at: Some(ticket.created_at),
    };
    let hash = content_hash(&item)?;
    indexer.store.put_items(&[item], &[hash]).await?;
    indexer.catch_up(|_| {}).await?;
    Ok(())
}
