//! Events of other processes that share the store, and ours for them.
//!
//! Every event goes out as a notice in the order in which it happened. Kept events are in the store, so a notice about one
//! may be short; tokens are not, so theirs is the event itself. Who loses the connection has missed tokens: its streams end,
//! and their clients come back and are told what is kept. A notice is no part of the transaction that keeps its event (in
//! PostgreSQL those with notices wait for each other), so a process can die between the two: events of tickets that somebody
//! follows are looked for in the store too.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{broadcast, mpsc};
use uuid::Uuid;

use super::{Change, Event, EventId, Topics, known_kind};
use crate::store::{LONGEST_NOTICE, Store, StoreError};

/// Notices that may wait to be passed on; what comes on top is dropped, as if the connection had been lost.
const WAITING: usize = 4_096;
/// Notices passed on at once.
const BATCH: usize = 128;
/// Pause before a lost connection is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two looks for kept events of which no notice came.
const LOOK: Duration = Duration::from_secs(5);

/// An event on its way to other processes.
#[derive(Serialize, Deserialize)]
struct Notice {
    /// The process it happened in.
    process: Uuid,
    ticket: Uuid,
    id: String,
    kind: String,
    /// None where it is too long for a notice: it is in the store then.
    data: Option<Value>,
}

/// The way to the other processes.
#[derive(Clone)]
pub(super) struct Outlet {
    process: Uuid,
    sender: mpsc::Sender<String>,
}

impl Outlet {
    /// Begins to pass events on, and to take those of others into `topics` and `changes`.
    pub(super) fn open(store: &Store, topics: &Arc<Mutex<Topics>>, changes: &broadcast::Sender<Change>) -> Self {
        let process = Uuid::now_v7();
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::spawn(pass_on(store.clone(), receiver));
        let inlet = Inlet { process, store: store.clone(), topics: Arc::downgrade(topics), changes: changes.clone() };
        tokio::spawn(inlet.run());
        Self { process, sender }
    }

    /// Puts an event in line to be passed on.
    pub(super) fn tell(&self, ticket: Uuid, event: &Event) {
        let notice = |data| {
            let (id, kind) = (event.id.to_string(), event.kind.to_owned());
            serde_json::to_string(&Notice { process: self.process, ticket, id, kind, data }).unwrap_or_default()
        };
        let mut text = notice(Some(event.data.clone()));
        if text.len() > LONGEST_NOTICE {
            text = notice(None);
        }
        if self.sender.try_send(text).is_err() {
            tracing::debug!(%ticket, "an event is not passed on; it is read from the store where it is kept");
        }
    }
}

async fn pass_on(store: Store, mut waiting: mpsc::Receiver<String>) {
    let mut batch = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        if let Err(error) = store.tell(&batch).await {
            tracing::warn!(%error, "other processes are not told of {} events", batch.len());
        }
        batch.clear();
    }
}

/// What comes from the other processes.
struct Inlet {
    process: Uuid,
    store: Store,
    topics: Weak<Mutex<Topics>>,
    changes: broadcast::Sender<Change>,
}

impl Inlet {
    /// Listens, and looks, for as long as somebody could hear it.
    async fn run(self) {
        tokio::join!(self.listen_on(), self.look_on());
    }

    async fn look_on(&self) {
        while self.topics.strong_count() > 0 {
            tokio::time::sleep(LOOK).await;
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "events without a notice are looked for again");
            }
        }
    }

    /// Tells of events that the store has and nobody was told of.
    async fn look(&self) -> Result<(), StoreError> {
        let followed = match self.topics.upgrade() {
            Some(topics) => topics.lock().unwrap_or_else(PoisonError::into_inner).followed(),
            None => return Ok(()),
        };
        for (ticket, told) in followed {
            for row in self.store.events_after(ticket, told).await? {
                let id = EventId { kept: row.seq, token: 0 };
                self.publish(ticket, Event { id, kind: known_kind(&row.kind), data: row.data });
            }
        }
        Ok(())
    }

    async fn listen_on(&self) {
        while self.topics.strong_count() > 0 {
            if let Err(error) = self.listen().await {
                tracing::warn!(%error, "events of other processes are missed until the database answers");
            }
            self.forget_streams();
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn listen(&self) -> Result<(), StoreError> {
        let Some(mut notices) = self.store.listen().await? else { return Ok(()) };
        // What happened while nobody listened may have been missed.
        self.forget_streams();
        while let Some(notice) = notices.next().await? {
            if self.topics.strong_count() == 0 {
                break;
            }
            match serde_json::from_str::<Notice>(&notice) {
                Ok(notice) if notice.process == self.process => {}
                Ok(notice) => self.take(notice).await?,
                Err(error) => tracing::debug!(%error, "a notice of another version is left alone"),
            }
        }
        Ok(())
    }

    async fn take(&self, notice: Notice) -> Result<(), StoreError> {
        let Ok(id) = notice.id.parse::<EventId>() else { return Ok(()) };
        let data = match notice.data {
            Some(data) => data,
            None => {
                let kept = self.store.events_after(notice.ticket, id.kept - 1).await?;
                kept.into_iter().find(|row| row.seq == id.kept).map_or(Value::Null, |row| row.data)
            }
        };
        let kind = if notice.kind == "token" { "token" } else { known_kind(&notice.kind) };
        self.publish(notice.ticket, Event { id, kind, data });
        Ok(())
    }

    fn publish(&self, ticket: Uuid, event: Event) {
        let Some(topics) = self.topics.upgrade() else { return };
        let (id, kind) = (event.id, event.kind);
        let is_news = topics.lock().unwrap_or_else(PoisonError::into_inner).publish(ticket, event);
        if is_news && id.token == 0 {
            // No receiver is not a failure: no list is open.
            drop(self.changes.send(Change { ticket, kind, elsewhere: true }));
        }
    }

    /// Ends every stream that is being followed; its client comes back with the last event that it has seen.
    fn forget_streams(&self) {
        if let Some(topics) = self.topics.upgrade() {
            topics.lock().unwrap_or_else(PoisonError::into_inner).by_ticket.clear();
        }
    }
}
