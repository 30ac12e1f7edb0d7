//! Works through accepted tickets and sends what is in the outbox, outside of any request.
//!
//! A ticket is on disk before it comes here. What a crash, a shutdown or a failure interrupts stays in state `received` and is
//! taken up at the next start, or by the look for abandoned tickets, of this process or of another one that shares the
//! store.
//!
//! Who comes while so much waits that the reply would miss its deadline is told at once ([`admission`]), and worked on
//! when there is room ([`mod@line`]), the urgent ones first. In memory are only ids of what waits.

pub mod admission;
mod busy;
pub mod line;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use self::admission::Admission;
pub use self::busy::Waiting;
use self::busy::{Busy, Task};
use crate::events::Change;
use crate::leases::{Leases, RENEWAL};
use crate::pipeline::{Pipeline, Worked};
use crate::store::StoreError;
use crate::ticket::Urgency;

/// Tries before a ticket makes room for others; the pauses between them double.
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
    /// Tickets in work at most: judged, or waiting to be answered.
    slots: usize,
    /// Tickets whose replies are drafted at the same time.
    concurrency: usize,
    desks: Semaphore,
    busy: Mutex<Busy>,
    leases: Leases,
    outbox: Notify,
    closing: watch::Receiver<bool>,
    /// Turns true when the time to stop in is over: what is still in work is dropped and stays on disk.
    parked: watch::Sender<bool>,
}

/// A slot in use; free again however the work ends.
struct Running<'a>(&'a Worker);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
    }
}

/// A task that tells customers; out of the way however it ends.
struct Telling<'a>(&'a Worker);

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.0.lock().tellers -= 1;
    }
}

impl Worker {
    pub fn new(pipeline: Pipeline, closing: watch::Receiver<bool>) -> Self {
        let concurrency = pipeline.settings.server.concurrency.min(Semaphore::MAX_PERMITS / AHEAD);
        let busy = Mutex::new(Busy::new(Admission::new(concurrency, pipeline.settings.draft.deadline())));
        let leases = Leases::new(pipeline.store.clone());
        let inner = Inner {
            pipeline,
            slots: concurrency * AHEAD,
            concurrency,
            desks: Semaphore::new(concurrency),
            busy,
            leases,
            outbox: Notify::new(),
            closing,
            parked: watch::Sender::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Takes up what an earlier process left unfinished, and soon after what it put aside; gives how many tickets were
    /// unfinished. Where others share the store, what is unfinished may be theirs: the look for abandoned tickets tells.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn resume(&self) -> Result<usize, StoreError> {
        let store = &self.inner.pipeline.store;
        let unfinished = if store.is_shared() { Vec::new() } else { store.unfinished().await? };
        unfinished.iter().for_each(|ticket| self.lock().line.push(*ticket));
        self.dispatch();
        let worker = self.clone();
        tokio::spawn(async move {
            match worker.inner.pipeline.put_aside_before().await {
                Ok(put_aside) => worker.resume_put_aside(&put_aside),
                Err(error) => tracing::warn!(%error, "tickets that were put aside stay with the team"),
            }
        });
        Ok(unfinished.len())
    }

    fn resume_put_aside(&self, tickets: &[(Uuid, Urgency)]) {
        {
            let mut busy = self.lock();
            for (ticket, urgency) in tickets {
                if !busy.knows(*ticket) {
                    busy.line.defer(*ticket, *urgency);
                }
            }
        }
        self.dispatch();
    }

    /// Puts a ticket in line. Where one is already in work, its reply is broken off, for it would not know the latest
    /// message, and it is worked on once more.
    pub fn work_on(&self, ticket: Uuid) {
        {
            let mut busy = self.lock();
            if let Some(working) = busy.working.get(&ticket) {
                working.notify_one();
                busy.again.insert(ticket);
                return;
            }
            busy.join(ticket);
        }
        self.dispatch();
    }

    /// Whether one more message is taken: of a ticket that waits already, or while less than `server.most_waiting` does.
    ///
    /// # Errors
    /// The time after which to try again.
    pub fn admit(&self, ticket: Option<Uuid>) -> Result<(), Duration> {
        let busy = self.lock();
        let waiting = busy.waiting().all() + busy.quiet.len();
        let is_known = ticket.is_some_and(|ticket| busy.knows(ticket) || busy.quiet.contains_key(&ticket));
        if is_known || waiting < self.inner.pipeline.settings.server.most_waiting {
            return Ok(());
        }
        metrics::counter!("respondo_messages_refused_total").increment(1);
        Err(busy.admission.asked_back_in(waiting))
    }

    /// Starts what can be started now.
    fn dispatch(&self) {
        // What is not begun stays on disk.
        while !*self.inner.closing.borrow()
            && let Some(task) = self.next_task()
        {
            let worker = self.clone();
            let mut parked = self.inner.parked.subscribe();
            tokio::spawn(async move {
                tokio::select! {
                    () = worker.clone().carry_out(task) => worker.dispatch(),
                    _ = parked.wait_for(|parked| *parked) => {}
                }
            });
        }
    }

    fn next_task(&self) -> Option<Task> {
        self.lock().next_task(self.inner.slots, self.inner.concurrency)
    }

    async fn carry_out(self, task: Task) {
        match task {
            Task::Work { ticket, stop, was_deferred } => {
                let _running = Running(&self);
                if was_deferred && let Err(error) = self.inner.pipeline.take_up(ticket).await {
                    tracing::warn!(%ticket, %error, "ticket stays with the team; it is taken up at the next start");
                }
                self.work_until_done(ticket, stop).await;
            }
            Task::Tell { tickets } => {
                let _telling = Telling(&self);
                match tickets[..] {
                    [ticket] => self.tell(ticket).await,
                    _ => self.tell_together(tickets).await,
                }
                self.outbox_changed();
            }
        }
    }

    /// Tells one customer, with all that is known, that the reply takes longer.
    async fn tell(&self, ticket: Uuid) {
        let told = self.inner.pipeline.acknowledge_late(ticket).await;
        let urgency = told.unwrap_or_else(|error| {
            tracing::warn!(%ticket, %error, "a customer could not be told that the reply takes longer");
            Some(Urgency::High)
        });
        self.lock().told(ticket, urgency);
    }

    async fn tell_together(&self, tickets: Vec<Uuid>) {
        match self.inner.pipeline.acknowledge_all_late(&tickets).await {
            Ok(urgencies) => {
                let mut busy = self.lock();
                tickets.into_iter().zip(urgencies).for_each(|(ticket, urgency)| busy.told(ticket, urgency));
            }
            Err(error) => {
                tracing::warn!(%error, "{} customers are told one by one that the reply takes longer", tickets.len());
                for ticket in tickets {
                    self.tell(ticket).await;
                }
            }
        }
    }

    /// What waits, by what for.
    pub fn waiting(&self) -> Waiting {
        self.lock().waiting()
    }

    /// Seconds that each waiting ticket adds to the wait of those behind it; None before the first reply.
    pub fn seconds_each(&self) -> Option<f64> {
        self.lock().admission.seconds_each()
    }

    /// Puts a ticket in line once its customer has written nothing for a moment: several messages in a row get one reply.
    pub fn work_on_when_quiet(&self, ticket: Uuid) {
        let is_waited_for = {
            let busy = self.lock();
            busy.quiet.contains_key(&ticket) && !busy.knows(ticket)
        };
        self.wait_for_quiet(ticket, true);
        if self.lock().knows(ticket) {
            return self.work_on(ticket);
        }
        if !is_waited_for {
            let worker = self.clone();
            tokio::spawn(async move {
                worker.until_quiet(ticket).await;
                worker.work_on(ticket);
            });
        }
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
            let worked = self.work_with_retries(ticket, &stop).await;
            let mut busy = self.lock();
            if let Worked::Done(drafting) = worked {
                let others_wait = busy.running > 1 || busy.line.fresh() + busy.line.deferred() > 0;
                busy.admission.finished(Instant::now(), drafting, others_wait);
            }
            if !busy.again.remove(&ticket) {
                busy.working.remove(&ticket);
                if let Worked::Late(urgency) = worked {
                    busy.line.defer(ticket, urgency);
                }
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

    /// True for a ticket that waits here or is in work.
    fn knows(&self, ticket: Uuid) -> bool {
        let busy = self.lock();
        busy.knows(ticket) || busy.quiet.contains_key(&ticket)
    }

    fn lock(&self) -> MutexGuard<'_, Busy> {
        self.inner.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tickets in work.
    fn in_flight(&self) -> usize {
        let busy = self.lock();
        busy.running + busy.telling
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
        let waiting = self.waiting();
        if waiting.all() > 0 {
            tracing::warn!(parked = waiting.all(), "tickets are parked on disk and taken up at the next start");
        }
        if self.in_flight() > 0 {
            self.inner.parked.send_replace(true);
        }
        if let Err(error) = self.send_outbox().await {
            tracing::warn!(%error, "outbox is sent at the next start");
        }
    }

    async fn work_with_retries(&self, ticket: Uuid, stop: &Notify) -> Worked {
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=TRIES {
            if *self.inner.closing.borrow() {
                break;
            }
            match self.work_alone(ticket, stop).await {
                Ok(worked) => {
                    self.outbox_changed();
                    return worked;
                }
                Err(StoreError::NotFound(gone)) => {
                    tracing::info!(%ticket, gone, "the ticket was erased");
                    break;
                }
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
        Worked::Nothing
    }

    /// Works on a ticket unless another process does.
    async fn work_alone(&self, ticket: Uuid, stop: &Notify) -> Result<Worked, StoreError> {
        let leases = &self.inner.leases;
        if !leases.take(ticket).await? {
            return Ok(Worked::Nothing);
        }
        let worked = self.inner.pipeline.work(ticket, &self.inner.desks, stop).await;
        leases.release(ticket).await;
        worked
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
            if !self.knows(ticket) {
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
            "received" if self.knows(change.ticket) => self.work_on(change.ticket),
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
        let Pipeline { store, events, .. } = &self.inner.pipeline;
        loop {
            let rows = store.claim_outbox(OUTBOX_BATCH, OUTBOX_LEASE_S).await?;
            if rows.is_empty() {
                return Ok(());
            }
            let told = match store.deliver(&rows).await {
                Ok(told) => told,
                Err(error) => {
                    for row in rows {
                        store.release(row.id, &error.to_string()).await?;
                    }
                    return Err(error);
                }
            };
            for (row, event) in rows.into_iter().zip(told).filter_map(|(row, event)| Some((row, event?))) {
                events.tell_kept(row.ticket_id, [event]);
                metrics::counter!("respondo_sent_total", "channel" => row.channel).increment(1);
            }
        }
    }
}
