//! What must be so when all is quiet, whatever was killed before: read from the store beside the running service, and as a
//! client of the service sees it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use uuid::Uuid;

use super::client::Client;
use super::drive::{Driven, Spoken};
use crate::learn::approved;
use crate::retrieve::passages::plan_points;
use crate::store::{DraftStatus, EventRow, Store, TicketView};
use crate::ticket::{Author, DraftKind, TicketState};

/// Longest wait for the rest of the work: a reply whose sender was killed waits for its lease of 30 s.
const PATIENCE: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for the events of one ticket, which are there.
const STREAM_LIMIT: Duration = Duration::from_secs(30);
/// Items read at a time.
const PAGE: u32 = 500;

/// What there is in the end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub tickets: usize,
    /// Of customers.
    pub messages: usize,
    /// Messages to customers.
    pub replies: usize,
    pub approved: usize,
    /// Approved answers in the memory.
    pub learned: usize,
    pub points: u64,
    pub audit_lines: u64,
    /// Seconds from the last request until all was quiet.
    pub quiet_after_s: f64,
}

/// Everything that is checked needs these.
pub struct Checker<'a> {
    pub store: &'a Store,
    pub client: &'a Client,
    pub url: &'a str,
}

impl Checker<'_> {
    /// Waits until nothing is left to do, then compares what was acknowledged with what is there. Puts what is wrong into
    /// `driven.wrong`.
    ///
    /// # Errors
    /// When the store or the service cannot be asked, or it does not become quiet.
    pub async fn check(&self, driven: &mut Driven) -> Result<Figures> {
        let mut figures = Figures { quiet_after_s: self.until_quiet().await?, ..Figures::default() };
        let mut known = HashSet::new();
        for spoken in &driven.spoken {
            let Some(ticket) = spoken.ticket else { continue };
            if !known.insert(ticket) {
                driven.wrong.push(format!("ticket {ticket} was given to two customers"));
            }
            let view = self.store.ticket_view(ticket).await?;
            let events = self.store.events_after(ticket, 0).await?;
            let told = self.told(ticket, &events)?;
            driven.wrong.extend(wrong_in(spoken, &view, &events, &told));
            if lacks_event(spoken, &view, &events) {
                driven.wrong.push(format!("the stream of ticket {ticket} lacks a `received` or `decision` event"));
            }
            figures.add(spoken, &view);
        }
        driven.wrong.extend(self.unknown_tickets(&known).await?);
        driven.wrong.extend(self.wrong_memory(&driven.spoken, &mut figures).await?);
        let audit = self.store.verify_audit(None).await?;
        figures.audit_lines = audit.lines;
        driven.wrong.extend(audit.broken.map(|line| format!("audit line {}: {}", line.id, line.reason)));
        Ok(figures)
    }

    /// Seconds until no ticket, reply or item waits.
    async fn until_quiet(&self) -> Result<f64> {
        let began = Instant::now();
        loop {
            let stats = self.store.stats().await?;
            let received = stats.tickets_by_state.iter().find(|(state, _)| state == "received").map_or(0, |(_, n)| *n);
            let (outbox, items) = (stats.outbox_pending, stats.memory.unindexed);
            if received + outbox + items == 0 {
                return Ok(began.elapsed().as_secs_f64());
            }
            ensure!(
                began.elapsed() < PATIENCE,
                "after {} s {received} tickets are not worked on, {outbox} replies not sent, {items} items not indexed: {}",
                PATIENCE.as_secs(),
                stuck(self.store).await?
            );
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Ids of the messages that a client is told of which reads the ticket's events from the first to the last.
    fn told(&self, ticket: Uuid, events: &[EventRow]) -> Result<Vec<String>> {
        let Some(last) = events.last().map(|event| event.seq.to_string()) else { return Ok(Vec::new()) };
        let told = self.client.events(self.url, ticket, STREAM_LIMIT, |told| told.id == last)?;
        let messages = told.iter().filter(|told| told.kind == "message");
        Ok(messages.map(|told| told.data["message_id"].as_str().unwrap_or_default().to_owned()).collect())
    }

    /// Tickets that nobody was told of.
    async fn unknown_tickets(&self, known: &HashSet<Uuid>) -> Result<Vec<String>> {
        let (mut wrong, mut after) = (Vec::new(), None);
        loop {
            let page = self.store.ticket_courses(after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(wrong) };
            after = Some(last.id);
            let unknown = page.iter().filter(|course| !known.contains(&course.id));
            wrong.extend(unknown.map(|course| format!("ticket {} is there and nobody was told of it", course.id)));
        }
    }

    /// Approved answers must be in the memory, and the index must hold the memory and nothing else.
    async fn wrong_memory(&self, spoken: &[Spoken], figures: &mut Figures) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        let (mut points, mut after, mut ids) = (0, 0, HashMap::new());
        loop {
            let page = self.store.items_after(after, PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = *last;
            for (_, item) in page {
                points += plan_points(&item).len() as u64;
                *ids.entry(item.id).or_insert(0) += 1;
            }
        }
        for spoken in spoken {
            let Some(ticket) = spoken.ticket else { continue };
            let view = self.store.ticket_view(ticket).await?;
            let wanted = usize::from(learns(spoken, &view));
            let found = ids.get(&approved::memory_id(ticket)).copied().unwrap_or(0);
            figures.learned += found;
            if found != wanted {
                wrong.push(format!("the answer of ticket {ticket} is in the memory {found} times, not {wanted}"));
            }
        }
        let ready = self.client.get(self.url, "/readyz")?;
        let parts = ready.body["parts"].as_array().into_iter().flatten();
        let detail = parts.filter(|part| part["name"] == "index").find_map(|part| part["detail"].as_str());
        let indexed = detail.and_then(|detail| detail.split(' ').next()?.parse::<u64>().ok());
        figures.points = indexed.with_context(|| format!("/readyz names no points: {}", ready.body))?;
        if figures.points != points {
            wrong.push(format!("the index has {} points; the memory makes {points}", figures.points));
        }
        Ok(wrong)
    }
}

impl Figures {
    fn add(&mut self, spoken: &Spoken, view: &TicketView) {
        self.tickets += 1;
        self.messages += spoken.messages.len();
        self.replies += view.messages.len() - spoken.messages.len().min(view.messages.len());
        self.approved += spoken.approved.len();
    }
}

/// Whoever waits for one of these events must hear it.
fn lacks_event(spoken: &Spoken, view: &TicketView, events: &[EventRow]) -> bool {
    let count = |kind: &str| events.iter().filter(|event| event.kind == kind).count();
    count("received") < spoken.messages.len() || count("decision") < view.decisions.len()
}

/// Names of the first tickets that are not worked on.
async fn stuck(store: &Store) -> Result<String> {
    let ids: Vec<String> = store.unfinished().await?.iter().take(5).map(Uuid::to_string).collect();
    Ok(ids.join(", "))
}

/// Whether an answer was approved, not just a question or an acknowledgement.
fn learns(spoken: &Spoken, view: &TicketView) -> bool {
    let mut approved = view.drafts.iter().filter(|draft| spoken.approved.contains(&draft.id));
    approved.any(|draft| matches!(draft.draft.kind, DraftKind::Extractive | DraftKind::Generated))
}

/// What is wrong with one conversation. `told` are the ids of the messages on its stream.
fn wrong_in(spoken: &Spoken, view: &TicketView, events: &[EventRow], told: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    let by = |author: Author| view.messages.iter().filter(move |message| message.author == author);
    let written: Vec<(Uuid, String)> = by(Author::Customer).map(|message| (message.id, message.body.clone())).collect();
    if written != spoken.messages {
        let ids = |messages: &[(Uuid, String)]| messages.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>();
        wrong.push(format!("the customer wrote {:?}; kept are {:?}", ids(&spoken.messages), ids(&written)));
    }
    if view.ticket.state == TicketState::Received {
        wrong.push("it is not worked on".to_owned());
    }
    let (decisions, replies) = (view.decisions.len(), by(Author::Respondo).count());
    if decisions == 0 || decisions > spoken.messages.len() {
        wrong.push(format!("{decisions} decisions about {} messages", spoken.messages.len()));
    }
    if replies > decisions {
        wrong.push(format!("{replies} replies of {decisions} decisions"));
    }
    if by(Author::Agent).count() != spoken.approved.len() || view.outcomes.len() != spoken.approved.len() {
        let (sent, outcomes) = (by(Author::Agent).count(), view.outcomes.len());
        wrong.push(format!("{} approvals made {sent} replies and {outcomes} outcomes", spoken.approved.len()));
    }
    let open = view.drafts.iter().filter(|draft| draft.status == DraftStatus::Open).count();
    if open > 1 {
        wrong.push(format!("{open} open drafts"));
    }
    let replies: Vec<String> =
        view.messages.iter().filter(|m| m.author != Author::Customer).map(|m| m.id.to_string()).collect();
    let kept = events.iter().filter(|event| event.kind == "message");
    let kept: Vec<String> =
        kept.map(|event| event.data["message_id"].as_str().unwrap_or_default().to_owned()).collect();
    for (ids, place) in [(&kept[..], "kept"), (told, "told")] {
        wrong.extend(not_once(&replies, ids).map(|(id, times)| format!("reply {id} is {place} {times} times")));
    }
    let ticket = view.ticket.id;
    wrong.into_iter().map(|wrong| format!("ticket {ticket}: {wrong}")).collect()
}

/// Ids that are not in `found` exactly once, or are there and not wanted, with how often they are.
fn not_once<'a>(wanted: &'a [String], found: &'a [String]) -> impl Iterator<Item = (&'a String, usize)> {
    let all: HashSet<&String> = wanted.iter().chain(found).collect();
    all.into_iter().filter_map(|id| {
        let times = found.iter().filter(|found| *found == id).count();
        (times != 1 || !wanted.contains(id)).then_some((id, times))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::{Finished, FinishedWork, NewTicket};
    use crate::ticket::{Action, Decision, Language};

    /// A ticket with one message that was acknowledged, and what its customer knows.
    async fn worked(store: &Store) -> (Spoken, Finished) {
        let new = NewTicket {
            customer: None,
            channel: "http".to_owned(),
            subject: String::new(),
            body: "it does not work".to_owned(),
            language: Language::EN,
            product: None,
            queue: None,
            idempotency: None,
        };
        let accepted = store.accept_ticket(new).await.expect("accepted");
        let work = FinishedWork {
            seen_message: accepted.message.id,
            draft_id: None,
            decision: Decision::new(Action::Acknowledge, Vec::new()),
            state: TicketState::Review,
            due_at: None,
            urgency: None,
            difficulty: None,
            outgoing: Some("we are looking into it".to_owned()),
        };
        let finished = store.finish(accepted.ticket.id, work).await.expect("finished");
        let messages = vec![(accepted.message.id, accepted.message.body)];
        (Spoken { ticket: Some(accepted.ticket.id), messages, approved: Vec::new() }, finished)
    }

    #[tokio::test]
    async fn what_is_whole_is_not_complained_of_and_what_is_twice_or_missing_is() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = Store::open(folder.path()).await.expect("new store");
        let (spoken, finished) = worked(&store).await;
        let (id, reply) = (finished.ticket.id, finished.message.expect("a reply").id.to_string());
        let told = [reply.clone()];
        store.append_event(id, "message", &json!({ "message_id": reply })).await.expect("kept");
        let view = store.ticket_view(id).await.expect("view");
        let events = store.events_after(id, 0).await.expect("events");
        assert_eq!(wrong_in(&spoken, &view, &events, &told), Vec::<String>::new());

        let untold = wrong_in(&spoken, &view, &events, &[]);
        assert!(untold.len() == 1 && untold[0].contains("told 0 times"), "{untold:?}");
        let lost = Spoken { messages: Vec::new(), ..spoken.clone() };
        assert!(!wrong_in(&lost, &view, &events, &told).is_empty());
        let more = Spoken { approved: vec![Uuid::now_v7()], ..spoken.clone() };
        assert!(wrong_in(&more, &view, &events, &told).iter().any(|wrong| wrong.contains("1 approvals made 0")));
        store.append_event(id, "message", &json!({ "message_id": reply })).await.expect("kept twice");
        let events = store.events_after(id, 0).await.expect("events");
        let twice = wrong_in(&spoken, &view, &events, &told);
        assert!(twice.len() == 1 && twice[0].contains("kept 2 times"), "{twice:?}");
    }
}
