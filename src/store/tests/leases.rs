//! Leases of the outbox under any order of claims, failures, deaths and passing time, and the cursors of the queue.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::events::EventId;
use crate::store::OutboxRow;
use crate::store::queue::Cursor;
use crate::ticket::Author;

/// Lease of every claim in the interleavings, in seconds: as long as that nothing runs out by itself while a test runs.
const LEASE_S: u32 = 100_000;

/// One thing that a sender, the network or the clock does.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A sender claims up to so many messages.
    Claim(u32),
    /// The sender that holds the n-th claimed message has sent it and says so.
    Sent(usize),
    /// It failed and gives it back.
    Failed(usize),
    /// It dies without a word.
    Dies(usize),
    /// A sender whose claim is over says that it has sent after all.
    SaysLate(usize),
    /// So much time passes that leases and pauses are over.
    TimePasses,
    /// A further message is put in.
    Accept,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..4_u32).prop_map(Event::Claim),
        2 => (0..8_usize).prop_map(Event::Sent),
        2 => (0..8_usize).prop_map(Event::Failed),
        1 => (0..8_usize).prop_map(Event::Dies),
        1 => (0..8_usize).prop_map(Event::SaysLate),
        2 => Just(Event::TimePasses),
        1 => Just(Event::Accept),
    ]
}

/// What the senders know, beside what the store keeps.
#[derive(Default)]
struct Senders {
    /// Messages that a living sender holds.
    held: Vec<Uuid>,
    /// Messages that somebody claimed once.
    claimed: Vec<Uuid>,
    /// Messages that are said to be sent.
    sent: Vec<Uuid>,
    /// Attempts and key of every message so far.
    attempts: HashMap<Uuid, (i64, String)>,
}

impl Senders {
    /// Takes what a claim gave: nothing that another holds or that was sent, and one attempt more of each.
    fn take(&mut self, rows: Vec<OutboxRow>) {
        for row in rows {
            assert!(!self.held.contains(&row.id), "{} is sent by two at the same time", row.id);
            assert!(!self.sent.contains(&row.id), "{} goes out again", row.id);
            let (attempts, key) = self.attempts.entry(row.id).or_insert((0, row.idempotency_key.clone()));
            assert_eq!((*attempts + 1, key.as_str()), (row.attempts, row.idempotency_key.as_str()));
            *attempts += 1;
            self.held.push(row.id);
            self.claimed.push(row.id);
        }
    }

    fn let_go(&mut self, number: usize) -> Option<Uuid> {
        (!self.held.is_empty()).then(|| self.held.remove(number % self.held.len()))
    }
}

impl TestStore {
    /// Moves leases and pauses into the past, as if their time had passed.
    async fn let_time_pass(&self) {
        sqlx::query("UPDATE outbox SET not_before = 0").execute(&self.store.writer).await.unwrap();
    }

    /// A message that waits to be sent.
    async fn outgoing(&self) {
        let (_, draft) = self.in_review(DraftKind::Generated).await;
        self.store.resolve_draft(draft, review(Outcome::Approved, None)).await.unwrap();
    }
}

async fn play(events: &[Event]) {
    let test = TestStore::new().await;
    let mut senders = Senders::default();
    let mut accepted = 2;
    for _ in 0..accepted {
        test.outgoing().await;
    }
    for event in events {
        match *event {
            Event::Claim(limit) => {
                let rows = test.store.claim_outbox(limit, LEASE_S).await.unwrap();
                assert!(rows.len() <= limit as usize);
                senders.take(rows);
            }
            Event::Sent(number) => {
                if let Some(id) = senders.let_go(number) {
                    test.store.mark_sent(id).await.unwrap();
                    senders.sent.push(id);
                }
            }
            Event::Failed(number) => {
                if let Some(id) = senders.let_go(number) {
                    test.store.release(id, "the line is dead").await.unwrap();
                }
            }
            Event::Dies(number) => drop(senders.let_go(number)),
            Event::SaysLate(number) => {
                let over: Vec<Uuid> = senders.claimed.iter().copied().filter(|id| !senders.held.contains(id)).collect();
                if let Some(id) = over.get(number % over.len().max(1)) {
                    test.store.mark_sent(*id).await.unwrap();
                    senders.sent.push(*id);
                }
            }
            Event::TimePasses => {
                test.let_time_pass().await;
                // A lease that is over is nobody's.
                senders.held.clear();
            }
            Event::Accept => {
                test.outgoing().await;
                accepted += 1;
            }
        }
    }
    // Whatever happened: with time everything goes out, and each once.
    loop {
        test.let_time_pass().await;
        senders.held.clear();
        let rows = test.store.claim_outbox(100, LEASE_S).await.unwrap();
        if rows.is_empty() {
            break;
        }
        senders.take(rows);
        while let Some(id) = senders.let_go(0) {
            test.store.mark_sent(id).await.unwrap();
            senders.sent.push(id);
        }
    }
    senders.sent.sort_unstable();
    senders.sent.dedup();
    assert_eq!(senders.sent.len(), accepted, "a message was lost");
}

proptest! {
    // A store on disk for every case: few cases of many events.
    #![proptest_config(ProptestConfig { max_shrink_iters: 64, failure_persistence: None, ..ProptestConfig::with_cases(12) })]

    #[test]
    fn whatever_senders_do_nothing_is_lost_and_nobody_sends_what_another_sends(
        events in proptest::collection::vec(event(), 4..40),
    ) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(play(&events));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_cursor_is_read_as_it_was_written(urgency: i64, due: i64, created: i64, id: u128) {
        let cursor = Cursor { urgency, due, created, id: Uuid::from_u128(id) };
        let read = Cursor::parse(&cursor.to_text()).unwrap();
        prop_assert_eq!((read.urgency, read.due, read.created, read.id), (urgency, due, created, cursor.id));
    }

    #[test]
    fn what_is_no_cursor_is_refused_or_names_a_place(text in "\\PC{0,60}|(-?[0-9]{1,20}\\.){3}[0-9a-fA-F{}-]{30,40}") {
        match Cursor::parse(&text) {
            Ok(cursor) => prop_assert!(Cursor::parse(&cursor.to_text()).is_ok()),
            Err(error) => prop_assert!(matches!(error, StoreError::Invalid(_))),
        }
    }

    #[test]
    fn ids_of_events_are_ordered_as_they_happened(kept in 0..i64::MAX, token: u32, more in 1..100_u32) {
        let id = EventId { kept, token };
        let read = id.to_string().parse::<EventId>();
        prop_assert_eq!(read, Ok(id));
        prop_assert!(id < EventId { kept: kept.saturating_add(1), token: 0 }, "the next kept event comes later");
        let later = token.checked_add(more).map(|token| EventId { kept, token });
        prop_assert!(later.is_none_or(|later| id < later));
    }
}

/// Real time, short leases and four senders at once: what is claimed is held by one at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn senders_at_once_share_the_messages() {
    let test = TestStore::new().await;
    for _ in 0..6 {
        test.outgoing().await;
    }
    let senders: Vec<_> = (0..4)
        .map(|_| {
            let store = test.store.clone();
            tokio::spawn(async move {
                let mut claimed = Vec::new();
                for _ in 0..6 {
                    claimed.extend(store.claim_outbox(2, LEASE_S).await.unwrap().into_iter().map(|row| row.id));
                }
                claimed
            })
        })
        .collect();
    let mut claimed = Vec::new();
    for sender in senders {
        claimed.extend(sender.await.unwrap());
    }
    claimed.sort_unstable();
    let all = claimed.len();
    claimed.dedup();
    assert_eq!((all, claimed.len()), (6, 6), "each message is claimed by one sender");
}

/// A lease is over when its time is, not before: by the clock, with room for a busy machine.
#[tokio::test]
async fn a_lease_runs_out() {
    let test = TestStore::new().await;
    test.outgoing().await;
    let before = Timestamp::now();
    let first = test.store.claim_outbox(1, 1).await.unwrap();
    assert_eq!(first.len(), 1);
    let again = loop {
        let rows = test.store.claim_outbox(1, LEASE_S).await.unwrap();
        if let Some(row) = rows.into_iter().next() {
            break row;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(Timestamp::now().duration_since(before).as_millis() >= 990, "the lease was of one second");
    assert_eq!((again.id, again.attempts, again.author), (first[0].id, 2, Author::Agent));
    assert_eq!(again.idempotency_key, first[0].idempotency_key);
}
