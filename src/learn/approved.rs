//! An answer that a person approved becomes memory.

use jiff::Timestamp;
use uuid::Uuid;

use crate::intake::clean::clean;
use crate::intake::scrub::scrub;
use crate::store::{Store, StoreError};
use crate::ticket::{AnswerKind, Author, MemoryItem, MemoryKind};

/// Id under which the memory keeps a ticket of this desk.
pub fn memory_id(ticket: Uuid) -> String {
    format!("ticket-{ticket}")
}

/// The ticket with the reply that is approved now, as the memory keeps it: scrubbed of personal data.
///
/// # Errors
/// When the store fails or has no such ticket.
pub async fn item(store: &Store, ticket: Uuid, reply: &str) -> Result<MemoryItem, StoreError> {
    let messages = store.messages(ticket).await?;
    let ticket = store.ticket(ticket).await?;
    let asked: Vec<String> =
        messages.iter().filter(|m| m.author == Author::Customer).map(|m| own_words(&m.body)).collect();
    let hours = Timestamp::now().duration_since(ticket.created_at).as_secs_f64() / 3_600.0;
    Ok(MemoryItem {
        id: memory_id(ticket.id),
        kind: MemoryKind::Ticket,
        language: ticket.language,
        product: ticket.product,
        queue: ticket.queue,
        title: scrub(&ticket.subject).text,
        problem: scrub(&asked.join("\n\n")).text,
        solution: scrub(reply).text,
        answer_kind: Some(AnswerKind::Approved),
        url: None,
        resolved_hours: Some(hours.max(0.0) as f32),
        created_at: Some(ticket.created_at),
    })
}

/// A message without markup, quotes and signature.
fn own_words(body: &str) -> String {
    clean(body, usize::MAX).map_or_else(|_| body.to_owned(), |cleaned| cleaned.text)
}
