//! The tickets whose judgement people at the desk have seen, as labelled requests: what the team's own triage heads learn from.

use jiff::Timestamp;

use crate::pipeline::request_of;
use crate::store::{SeenJudgement, Store, StoreError};
use crate::ticket::{Author, Message};
use crate::triage::data::Labelled;

/// Tickets read at a time.
const PAGE: u32 = 200;

/// A labelled request of the desk.
#[derive(Clone, Debug)]
pub struct JudgedRequest {
    pub row: Labelled,
    /// A person set a judgement right; otherwise somebody decided about the ticket and left it as it was.
    pub is_corrected: bool,
    pub at: Timestamp,
}

/// All of them, oldest first; each with what the customer had written until a person decided. Those whose words are gone are left out.
///
/// # Errors
/// When the store cannot be read.
pub async fn requests(store: &Store) -> Result<Vec<JudgedRequest>, StoreError> {
    let mut requests = Vec::new();
    let mut after = None;
    loop {
        let page = store.seen_judgements(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(requests) };
        after = Some(last.ticket);
        for seen in &page {
            requests.extend(request(store, seen).await?);
        }
    }
}

async fn request(store: &Store, seen: &SeenJudgement) -> Result<Option<JudgedRequest>, StoreError> {
    let ticket = store.ticket(seen.ticket).await?;
    let messages = store.messages(seen.ticket).await?;
    let is_read = |message: &&Message| message.author == Author::Customer && message.created_at <= seen.at;
    let own: Vec<&Message> = messages.iter().filter(is_read).collect();
    let Some(request) = request_of(&ticket, &own).ok().filter(|_| !own.is_empty()) else { return Ok(None) };
    let [urgency, difficulty] = seen.levels();
    let row = Labelled {
        id: seen.ticket.to_string(),
        lang: request.language.code().to_owned(),
        subject: request.subject,
        body: request.body,
        urgency,
        difficulty,
        // The desk corrects these two.
        next: String::new(),
        evidence: String::new(),
    };
    Ok(Some(JudgedRequest { row, is_corrected: seen.is_corrected, at: seen.at }))
}
