//! What happens to a ticket, as it happens: a log that a client can follow and pick up again after a lost connection.
//!
//! Events worth keeping (stages, drafts, decisions, messages) are written to the store and get its sequence number.
//! Tokens of a draft in progress are not: they live in memory behind the last kept event and are numbered after it, so
//! `7.12` is the twelfth token after event 7. A client that comes back with `Last-Event-ID: 7.12` misses nothing as long
//! as the process lives, and only the half-written draft when it does not.
//!
//! Where several processes share the store, each tells the others (`shared`): a ticket can be followed from any of them.

mod shared;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::Value;
use tokio::sync::broadcast;
use uuid::Uuid;

use crate::store::{EventRow, Store, StoreError};
use shared::Outlet;

/// Live tickets whose tokens are remembered; the oldest are forgotten first.
const TOPIC_LIMIT: usize = 2_000;
/// Events that a slow reader may lag behind before it has to reconnect.
const LAG_LIMIT: usize = 1_024;

/// Place of an event in its ticket's log: kept sequence number, then number among the tokens behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    pub kept: i64,
    pub token: u32,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.token {
            0 => write!(f, "{}", self.kept),
            token => write!(f, "{}.{token}", self.kept),
        }
    }
}

impl FromStr for EventId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kept, token) = text.trim().split_once('.').unwrap_or((text.trim(), "0"));
        Ok(Self { kept: kept.parse()?, token: token.parse()? })
    }
}

/// One entry of a ticket's log.
#[derive(Clone, Debug)]
pub struct Event {
    pub id: EventId,
    /// `received`, `evidence`, `triage`, `extractive`, `token`, `cut`, `draft`, `decision`, `message`, `review`; from the
    /// desk `taken`, `given_back`, `taken_back`, `changed`, `merged`; from the chat `feedback`.
    pub kind: &'static str,
    pub data: Value,
}

struct Topic {
    log: Vec<Event>,
    sender: broadcast::Sender<Event>,
    born: u64,
    /// The last kept event that every follower was told of or has read itself; None while nobody has.
    told: Option<i64>,
}

#[derive(Default)]
struct Topics {
    by_ticket: HashMap<Uuid, Topic>,
    births: u64,
}

/// A kept event of some ticket, without its data: what a list of tickets wants to know.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub ticket: Uuid,
    pub kind: &'static str,
    /// It happened in another process that shares the store.
    pub elsewhere: bool,
}

/// All logs being followed or written.
#[derive(Clone)]
pub struct Events {
    store: Store,
    topics: Arc<Mutex<Topics>>,
    changes: broadcast::Sender<Change>,
    /// None where no other process shares the store.
    outlet: Option<Outlet>,
}

impl Events {
    /// Call it inside the runtime: for a store that others share, tasks are begun that talk with them.
    pub fn new(store: Store) -> Self {
        let (topics, changes) = (Arc::default(), broadcast::channel(LAG_LIMIT).0);
        let outlet = store.is_shared().then(|| Outlet::open(&store, &topics, &changes));
        Self { store, topics, changes, outlet }
    }

    /// What happens to any ticket from now on. A reader that lags is told so and reads its list anew.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Writes an event to the store and tells everybody who follows the ticket.
    ///
    /// # Errors
    /// When the store cannot write.
    pub async fn keep(&self, ticket: Uuid, kind: &'static str, data: &impl Serialize) -> Result<(), StoreError> {
        self.keep_all(ticket, vec![(kind, event_data(data))]).await
    }

    /// The same for several events, in their order and in one transaction.
    ///
    /// # Errors
    /// When the store cannot write.
    pub async fn keep_all(&self, ticket: Uuid, events: Vec<(&'static str, Value)>) -> Result<(), StoreError> {
        if !events.is_empty() {
            let kept = self.store.append_events(ticket, events).await?;
            self.tell_kept(ticket, kept);
        }
        Ok(())
    }

    /// Tells everybody who follows the ticket of events that the store has kept with what they tell of.
    pub fn tell_kept(&self, ticket: Uuid, events: impl IntoIterator<Item = EventRow>) {
        for row in events {
            let (id, kind) = (EventId { kept: row.seq, token: 0 }, known_kind(&row.kind));
            self.publish(ticket, Event { id, kind, data: row.data });
            // No receiver is not a failure: no list is open.
            drop(self.changes.send(Change { ticket, kind, elsewhere: false }));
        }
    }

    /// Tells those who follow the ticket about a piece of a draft in progress; not written to the store.
    pub fn token(&self, ticket: Uuid, text: &str) {
        let last = {
            let mut topics = self.lock();
            topics.topic(ticket).log.last().map_or(EventId::default(), |event| event.id)
        };
        let id = EventId { kept: last.kept, token: last.token + 1 };
        self.publish(ticket, Event { id, kind: "token", data: Value::String(text.to_owned()) });
    }

    /// Everything after `after`, and what comes next.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn follow(
        &self,
        ticket: Uuid,
        after: EventId,
    ) -> Result<(Vec<Event>, broadcast::Receiver<Event>), StoreError> {
        // Subscribe first, read second: an event between the two is then seen twice and dropped once, never missed.
        let (live, receiver) = {
            let mut topics = self.lock();
            let topic = topics.topic(ticket);
            if topic.sender.receiver_count() == 0 {
                topic.told = None;
            }
            (topic.log.clone(), topic.sender.subscribe())
        };
        let kept = self.store.events_after(ticket, after.kept.saturating_sub(1)).await?;
        let read = kept.last().map_or(after.kept, |row| row.seq);
        // Not raised for those who came before: they have not read it.
        self.lock().topic(ticket).told.get_or_insert(read);
        let mut events: Vec<Event> = kept
            .into_iter()
            .map(|row| Event { id: EventId { kept: row.seq, token: 0 }, kind: known_kind(&row.kind), data: row.data })
            .chain(live)
            .filter(|event| event.id > after)
            .collect();
        events.sort_by_key(|event| event.id);
        events.dedup_by_key(|event| event.id);
        Ok((events, receiver))
    }

    /// Drops what is in memory of tickets that are gone; who follows one hears its end.
    pub fn forget(&self, tickets: &[Uuid]) {
        let mut topics = self.lock();
        for ticket in tickets {
            topics.by_ticket.remove(ticket);
        }
    }

    fn publish(&self, ticket: Uuid, event: Event) {
        let mut topics = self.lock();
        // Under the lock, so that others hear it in the same order.
        if let Some(outlet) = &self.outlet {
            outlet.tell(ticket, &event);
        }
        topics.publish(ticket, event);
    }

    fn lock(&self) -> MutexGuard<'_, Topics> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Topics {
    /// Tells those who follow the ticket; false for a kept event that they were told of before.
    fn publish(&mut self, ticket: Uuid, event: Event) -> bool {
        let topic = self.topic(ticket);
        if event.id.token == 0 {
            if topic.log.iter().any(|known| known.id == event.id) {
                return false;
            }
            topic.told = topic.told.map(|told| told.max(event.id.kept));
        }
        topic.log.push(event.clone());
        // No receiver is not a failure: nobody follows this ticket at the moment.
        drop(topic.sender.send(event));
        true
    }

    /// Tickets that somebody follows, with the last kept event that every follower knows.
    fn followed(&self) -> Vec<(Uuid, i64)> {
        let followed = self.by_ticket.iter().filter(|(_, topic)| topic.sender.receiver_count() > 0);
        followed.filter_map(|(ticket, topic)| Some((*ticket, topic.told?))).collect()
    }

    fn topic(&mut self, ticket: Uuid) -> &mut Topic {
        if self.by_ticket.len() >= TOPIC_LIMIT && !self.by_ticket.contains_key(&ticket) {
            let idle = self.by_ticket.iter().filter(|(_, topic)| topic.sender.receiver_count() == 0);
            if let Some(oldest) = idle.min_by_key(|(_, topic)| topic.born).map(|(id, _)| *id) {
                self.by_ticket.remove(&oldest);
            }
        }
        self.births += 1;
        let born = self.births;
        self.by_ticket.entry(ticket).or_insert_with(|| Topic {
            log: Vec::new(),
            sender: broadcast::channel(LAG_LIMIT).0,
            born,
            told: None,
        })
    }
}

/// The data of an event as it is kept.
pub fn event_data(data: &impl Serialize) -> Value {
    // What does not fit JSON would be a map with keys that are no text; none of ours has one.
    serde_json::to_value(data).unwrap_or(Value::Null)
}

/// Kinds come from this program's own constants; a row of a newer version is passed on under a neutral name.
fn known_kind(kind: &str) -> &'static str {
    const KINDS: [&str; 15] = [
        "received",
        "evidence",
        "triage",
        "extractive",
        "cut",
        "draft",
        "decision",
        "message",
        "review",
        "taken",
        "given_back",
        "taken_back",
        "changed",
        "feedback",
        "merged",
    ];
    KINDS.into_iter().find(|known| *known == kind).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_ordered_and_survive_text() {
        let ids = ["0", "3", "3.1", "3.10", "4"];
        let parsed: Vec<EventId> = ids.iter().map(|id| id.parse().expect("well formed")).collect();
        assert!(parsed.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(parsed.iter().map(ToString::to_string).collect::<Vec<_>>(), ids);
        assert!("x".parse::<EventId>().is_err());
    }
}
