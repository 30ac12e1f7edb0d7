//! Works through accepted tickets and sends what is in the outbox, outside of any request.
//!
//! A ticket is on disk before it comes here. What a crash, a shutdown or a failure interrupts stays in state `received` and is
//! taken up at the next start, or by the look for abandoned tickets, of this process or of another one that shares the
//! store.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::events::Change;
use crate::leases::{Leases, RENEWAL};
use crate::pipeline::Pipeline;
use crate::store::StoreError;

/// Tries before a ticket is left for the look for abandoned ones or the next message; the pauses between them double.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Rows of the outbox taken at once, and for how long they are ours.
const OUTBOX_BATCH: u32 = 32;
const OUTBOX_LEASE_S: u32 = 30;
/// Tickets in work for each one whose reply is being drafted: the others are judged and wait with their evidence in
/// memory, tens of kilobytes each.
const AHEAD: usize = 32;
/// After a message in the chat nothing is drafted for this long, nor while the customer is seen typing, up to the second
/// figure: people send one thought in three messages.
const QUIET: Duration = Duration::from_millis(1_200);
const LONGEST_QUIET: Duration = Duration::from_secs(8);
/// Tickets that wait to be worked on and that nobody has touched for this long are taken up: longer than a customer may be
/// waited for, and than the pauses between tries.
const ABANDONED: Duration = Duration::from_secs(20);
/// How many of them at a time.
const ABANDONED_BATCH: u32 = 500;
/// The outbox is looked at when a ticket is done, and this often in any case.
const OUTBOX_INTERVAL: Duration = Duration::from_secs(5);

/// Handle to the background work; cheap to clone.
#[derive(Clone)]
pub struct Worker {
    inner: Arc<Inner>,
}

struct Inner {
    pipeline: Pipeline,
    /// Tickets judged or waiting to be answered; the others wait here and on disk.
    slots: Semaphore,
    /// Tickets whose replies are drafted at the same time.
    desks: Semaphore,
    /// Tickets waiting or in work: a second message for one in work marks it to be worked on again.
    busy: Mutex<Busy>,
    leases: Leases,
    outbox: Notify,
    closing: watch::Receiver<bool>,
    /// Turns true when the time to stop in is over: what is still in work is dropped and stays on disk.
    parked: watch::Sender<bool>,
}

#[derive(Default)]
struct Busy {
    /// Tickets in work, with what breaks the drafting of a reply off.
    working: HashMap<Uuid, Arc<Notify>>,
    again: HashSet<Uuid>,
    /// Tickets whose customer may still be writing: since when and until when they are left alone.
    quiet: HashMap<Uuid, (Instant, Instant)>,
}

impl Worker {
    pub fn new(pipeline: Pipeline, closing: watch::Receiver<bool>) -> Self {
        let concurrency = pipeline.settings.server.concurrency.min(Semaphore::MAX_PERMITS / AHEAD);
        let (slots, desks) = (Semaphore::new(concurrency * AHEAD), Semaphore::new(concurrency));
        let parked = watch::Sender::new(false);
        let (busy, leases) = (Mutex::default(), Leases::new(pipeline.store.clone()));
        let inner = Inner { pipeline, slots, desks, busy, leases, outbox: Notify::new(), closing, parked };
        Self { inner: Arc::new(inner) }
    }

    /// Takes up what an earlier process left unfinished; gives how many tickets that were. Where others share the store,
    /// what is unfinished may be theirs: the look for abandoned tickets tells.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn resume(&self) -> Result<usize, StoreError> {
        if self.inner.pipeline.store.is_shared() {
            return Ok(0);
        }
        let unfinished = self.inner.pipeline.store.unfinished().await?;
        for ticket in &unfinished {
            self.work_on(*ticket);
        }
        Ok(unfinished.len())
    }

    /// Puts a ticket in line. Where one is already in work, its reply is broken off, for it would not know the latest
    /// message, and it is worked on once more.
    pub fn work_on(&self, ticket: Uuid) {
        let stop = Arc::new(Notify::new());
        {
            let mut busy = self.lock();
            if let Some(working) = busy.working.get(&ticket) {
                working.notify_one();
                busy.again.insert(ticket);
                return;
            }
            busy.working.insert(ticket, Arc::clone(&stop));
        }
        let worker = self.clone();
        let mut parked = self.inner.parked.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                () = worker.work_until_done(ticket, stop) => {}
                _ = parked.wait_for(|parked| *parked) => {}
            }
        });
    }

    /// Puts a ticket in line once its customer has written nothing for a moment: several messages in a row get one reply.
    pub fn work_on_when_quiet(&self, ticket: Uuid) {
        self.wait_for_quiet(ticket, true);
        self.work_on(ticket);
    }

    /// The customer is typing: a ticket that waits for quiet waits on, for a while.
    pub fn is_typing(&self, ticket: Uuid) {
        self.wait_for_quiet(ticket, false);
    }

    fn wait_for_quiet(&self, ticket: Uuid, new_message: bool) {
        let mut busy = self.lock();
        let now = Instant::now();
        let since = busy.quiet.get(&ticket).map(|(since, _)| *since);
        if let Some(since) = since.or(new_message.then_some(now)) {
            busy.quiet.insert(ticket, (since, (now + QUIET).min(since + LONGEST_QUIET)));
        }
    }

    /// Breaks the drafting of a reply off: a person has taken the conversation over.
    pub fn stop(&self, ticket: Uuid) {
        if let Some(working) = self.lock().working.get(&ticket) {
            working.notify_one();
        }
    }

    async fn work_until_done(&self, ticket: Uuid, mut stop: Arc<Notify>) {
        loop {
            self.until_quiet(ticket).await;
            self.work_with_retries(ticket, &stop).await;
            let mut busy = self.lock();
            if !busy.again.remove(&ticket) {
                busy.working.remove(&ticket);
                return;
            }
            // What broke off, or came too late to break off, the work that is over must not break off the next.
            stop = Arc::new(Notify::new());
            busy.working.insert(ticket, Arc::clone(&stop));
        }
    }

    async fn until_quiet(&self, ticket: Uuid) {
        loop {
            let until = {
                let mut busy = self.lock();
                match busy.quiet.get(&ticket) {
                    Some((_, until)) if *until > Instant::now() => *until,
                    _ => {
                        busy.quiet.remove(&ticket);
                        return;
                    }
                }
            };
            tokio::time::sleep_until(until.into()).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Busy> {
        self.inner.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tickets waiting or in work.
    pub fn in_flight(&self) -> usize {
        self.lock().working.len()
    }

    /// Says that something will be due in the outbox after `hold`.
    pub fn outbox_due_in(&self, hold: Duration) {
        let worker = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(hold).await;
            worker.outbox_changed();
        });
    }

    /// Says that something may be in the outbox.
    pub fn outbox_changed(&self) {
        self.inner.outbox.notify_one();
    }

    /// Waits until nothing is in work, at most `limit`; what is left stays on disk.
    pub async fn finish(&self, limit: Duration) {
        // What only waits to be answered is on disk; what is being answered is waited for.
        self.inner.desks.close();
        let until = tokio::time::Instant::now() + limit;
        while self.in_flight() > 0 && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let parked = self.in_flight();
        if parked > 0 {
            tracing::warn!(parked, "tickets are parked on disk and taken up at the next start");
            self.inner.parked.send_replace(true);
        }
        if let Err(error) = self.send_outbox().await {
            tracing::warn!(%error, "outbox is sent at the next start");
        }
    }

    async fn work_with_retries(&self, ticket: Uuid, stop: &Notify) {
        let Ok(_slot) = self.inner.slots.acquire().await else { return };
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=TRIES {
            if *self.inner.closing.borrow() {
                return;
            }
            match self.work_alone(ticket, stop).await {
                Ok(()) => return self.outbox_changed(),
                Err(StoreError::NotFound(gone)) => return tracing::info!(%ticket, gone, "the ticket was erased"),
                Err(error) if attempt == TRIES => {
                    tracing::error!(%ticket, %error, "ticket stays received; it is taken up again later");
                }
                Err(error) => {
                    tracing::warn!(%ticket, %error, attempt, "ticket is tried again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
            }
        }
    }

    /// Works on a ticket unless another process does.
    async fn work_alone(&self, ticket: Uuid, stop: &Notify) -> Result<(), StoreError> {
        let leases = &self.inner.leases;
        if !leases.take(ticket).await? {
            return Ok(());
        }
        let worked = self.inner.pipeline.work(ticket, &self.inner.desks, stop).await;
        leases.release(ticket).await;
        worked.map(drop)
    }

    /// Looks after what this process holds and what nobody does, until the service closes.
    pub fn spawn_care(&self) -> JoinHandle<()> {
        let worker = self.clone();
        let mut closing = worker.inner.closing.clone();
        let mut changes = worker.inner.pipeline.events.changes();
        tokio::spawn(async move {
            let mut renewal = tokio::time::interval(RENEWAL);
            renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let change = tokio::select! {
                    _ = renewal.tick() => None,
                    // Lagging loses a hint, no work: what a hint would have broken off is refused at its end.
                    change = changes.recv() => Some(change),
                    _ = closing.wait_for(|closing| *closing) => return,
                };
                match change {
                    Some(change) => change.into_iter().for_each(|change| worker.heed(change)),
                    None => {
                        if let Err(error) = worker.take_care().await {
                            tracing::warn!(%error, "leases and abandoned tickets are looked after again");
                        }
                    }
                }
            }
        })
    }

    async fn take_care(&self) -> Result<(), StoreError> {
        self.inner.leases.renew().await?;
        let abandoned = self.inner.pipeline.store.abandoned(ABANDONED, ABANDONED_BATCH).await?;
        for ticket in abandoned {
            if !self.lock().working.contains_key(&ticket) {
                tracing::info!(%ticket, "an abandoned ticket is taken up");
                self.work_on(ticket);
            }
        }
        Ok(())
    }

    /// Breaks the drafting of a reply off where another process has heard from the customer or a person meanwhile.
    fn heed(&self, change: Change) {
        if !change.elsewhere {
            return;
        }
        match change.kind {
            "received" if self.lock().working.contains_key(&change.ticket) => self.work_on(change.ticket),
            "taken" | "review" | "merged" => self.stop(change.ticket),
            _ => {}
        }
    }

    /// Sends the outbox until the service closes.
    pub fn spawn_outbox(&self) -> JoinHandle<()> {
        let worker = self.clone();
        let mut closing = worker.inner.closing.clone();
        tokio::spawn(async move {
            loop {
                if let Err(error) = worker.send_outbox().await {
                    tracing::warn!(%error, "outbox is tried again");
                }
                tokio::select! {
                    () = worker.inner.outbox.notified() => {}
                    () = tokio::time::sleep(OUTBOX_INTERVAL) => {}
                    _ = closing.wait_for(|closing| *closing) => return,
                }
            }
        })
    }

    /// Delivers what waits. On the HTTP channel a message is delivered by being on the ticket and its event stream.
    async fn send_outbox(&self) -> Result<(), StoreError> {
        let pipeline = &self.inner.pipeline;
        loop {
            let rows = pipeline.store.claim_outbox(OUTBOX_BATCH, OUTBOX_LEASE_S).await?;
            if rows.is_empty() {
                return Ok(());
            }
            for row in rows {
                let message = serde_json::json!({
                    "message_id": row.message_id, "author": row.author, "agent": row.agent, "body": row.body,
                });
                let delivered = match pipeline.events.keep(row.ticket_id, "message", &message).await {
                    Ok(()) => pipeline.store.mark_sent(row.id).await,
                    Err(StoreError::NotFound(gone)) => Err(StoreError::NotFound(gone)),
                    Err(error) => pipeline.store.release(row.id, &error.to_string()).await,
                };
                match delivered {
                    Ok(()) => {}
                    // The ticket was erased after its row was claimed.
                    Err(StoreError::NotFound(_)) => continue,
                    Err(error) => return Err(error),
                }
                metrics::counter!("respondo_sent_total", "channel" => row.channel).increment(1);
            }
        }
    }
}
