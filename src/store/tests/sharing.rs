//! Several processes on one store, and moving from one database to the other. Without PostgreSQL only what holds for a store
//! of one's own is tried.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use super::*;
use crate::events::{EventId, Events};
use crate::store::{KeyScope, NewKey, content_hash, sha256_hex};
use crate::ticket::Author;

const LEASE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_ticket_is_leased_to_one_worker_at_a_time() {
    let test = TestStore::new().await;
    let (store, id) = (&test.store, test.accept("hola").await.ticket.id);
    assert!(store.lease_ticket(id, "a", LEASE).await.unwrap());
    assert!(store.lease_ticket(id, "a", LEASE).await.unwrap(), "its own lease may be taken again");
    // Who has a store alone needs no leases.
    let alone = !store.is_shared();
    assert_eq!(store.lease_ticket(id, "b", LEASE).await.unwrap(), alone);
    assert_eq!(store.abandoned(Duration::ZERO, 10).await.unwrap().is_empty(), !alone);
    store.release_ticket(id, "b").await.unwrap();
    assert_eq!(store.lease_ticket(id, "b", LEASE).await.unwrap(), alone, "nobody ends another's lease");
    store.release_ticket(id, "a").await.unwrap();
    assert!(store.lease_ticket(id, "b", Duration::ZERO).await.unwrap());
    assert_eq!(store.abandoned(Duration::ZERO, 10).await.unwrap(), [id], "a lease that ran out is nobody's");
    assert!(store.abandoned(LEASE, 10).await.unwrap().is_empty(), "it was touched a moment ago");
    store.renew_leases(&[id], "b", LEASE).await.unwrap();
    assert_eq!(store.lease_ticket(id, "a", LEASE).await.unwrap(), alone);
}

#[tokio::test]
async fn finished_work_is_nobodys() {
    let test = TestStore::new().await;
    let accepted = test.accept("hola").await;
    test.store.lease_ticket(accepted.ticket.id, "a", LEASE).await.unwrap();
    test.store.finish(accepted.ticket.id, work(&accepted, TicketState::Escalated)).await.unwrap();
    test.store.add_message(accepted.ticket.id, Author::Customer, "más".into(), None).await.unwrap();
    assert_eq!(test.store.abandoned(Duration::ZERO, 10).await.unwrap(), [accepted.ticket.id]);
    assert!(test.store.lease_ticket(accepted.ticket.id, "b", LEASE).await.unwrap());
}

/// Many at once, as several processes would: positions stay without gaps, keys are taken once, the trail stays a chain.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_do_not_come_between_each_other() {
    let test = TestStore::new().await;
    let id = test.accept("primero").await.ticket.id;
    let other = match &test.store.place.server {
        Some(server) => Store::open_server(&server.url, &server.schema).await.unwrap(),
        None => test.store.clone(),
    };
    let writes = (0..60).map(|number| {
        let store = if number % 2 == 0 { test.store.clone() } else { other.clone() };
        // Every request twice, from both sides.
        let key = key(&format!("k{}", number / 2), "1");
        tokio::spawn(async move { store.add_message(id, Author::Customer, format!("{}", number / 2), key).await })
    });
    let mut new = 0;
    for write in writes.collect::<Vec<_>>() {
        new += usize::from(!write.await.unwrap().unwrap().replayed);
    }
    assert_eq!(new, 30);
    assert_eq!(test.store.messages(id).await.unwrap().len(), 31);
    let check = test.store.verify_audit(None).await.unwrap();
    assert_eq!((check.lines, check.broken), (31, None));
}

#[tokio::test]
async fn an_outbox_row_goes_to_one_sender() {
    let test = TestStore::new().await;
    for _ in 0..5 {
        let accepted = test.accept("hola").await;
        let decision = decision(Action::Acknowledge, false);
        let work = FinishedWork { decision, outgoing: Some("x".into()), ..work(&accepted, TicketState::Escalated) };
        test.store.finish(accepted.ticket.id, work).await.unwrap();
    }
    let claims = (0..4).map(|_| {
        let store = test.store.clone();
        tokio::spawn(async move { store.claim_outbox(3, 60).await.unwrap() })
    });
    let mut claimed = Vec::new();
    for claim in claims.collect::<Vec<_>>() {
        claimed.extend(claim.await.unwrap().into_iter().map(|row| row.id));
    }
    let all = claimed.len();
    claimed.sort();
    claimed.dedup();
    assert_eq!((all, claimed.len()), (5, 5));
}

#[tokio::test]
async fn what_one_process_tells_the_others_hear_in_order() {
    let test = TestStore::new().await;
    let Some(mut notices) = test.store.listen().await.unwrap() else {
        assert!(!test.store.is_shared());
        return test.store.tell(&["nobody hears it".to_owned()]).await.unwrap();
    };
    let told: Vec<String> = (0..20).map(|number| format!("{number} ñ")).collect();
    test.store.tell(&told).await.unwrap();
    for expected in &told {
        assert_eq!(notices.next().await.unwrap().as_ref(), Some(expected));
    }
}

#[tokio::test]
async fn an_event_whose_notice_died_with_its_process_is_told_to_everybody_once() {
    let test = TestStore::new().await;
    if !test.store.is_shared() {
        return;
    }
    let ticket = test.accept("hola").await.ticket.id;
    let events = Events::new(test.store.clone());
    // Streams end when the listening begins; who follows comes back.
    let (mut live, quiet) = loop {
        let (past, mut live) = events.follow(ticket, EventId::default()).await.unwrap();
        if timeout(Duration::from_secs(2), live.recv()).await.is_err() {
            break (live, past);
        }
    };
    let mut changes = events.changes();
    let lost = test.store.append_events(ticket, vec![("message", json!({ "body": "hola" }))]).await.unwrap();
    // Who comes now reads it; that hides it from nobody.
    let (past, _second) = events.follow(ticket, EventId::default()).await.unwrap();
    assert_eq!(past.len(), quiet.len() + 1);
    let told = timeout(Duration::from_secs(60), live.recv()).await.expect("told in time").unwrap();
    assert_eq!((told.id, told.kind), (EventId { kept: lost[0].seq, token: 0 }, "message"));
    let change = changes.recv().await.unwrap();
    assert_eq!((change.ticket, change.kind, change.elsewhere), (ticket, "message", true));
    // Two looks later nothing was told again.
    assert!(timeout(Duration::from_secs(11), live.recv()).await.is_err());
    assert!(changes.try_recv().is_err());
}

#[tokio::test]
async fn a_store_is_moved_with_everything_in_it() {
    let from = TestStore::new().await;
    let (first, draft_id) = from.in_review(DraftKind::Generated).await;
    from.store.resolve_draft(draft_id, review(Outcome::Edited, Some("Otra cosa."))).await.unwrap();
    let second = from.accept("¿Y esto?\u{1}😀").await;
    from.store.merge(second.ticket.id, first.ticket.id, "Ana").await.unwrap();
    from.store.correct(first.ticket.id, crate::store::Correction::Urgency(Urgency::Low), "Ana").await.unwrap();
    let items = [item("a", "Add it"), item("b", "Remove it")];
    let hashes = items.each_ref().map(|item| content_hash(item).unwrap());
    from.store.put_items(&items, &hashes).await.unwrap();
    from.store.secret("links", "00ff").await.unwrap();
    let (name, scopes) = ("crm".to_owned(), vec![KeyScope::All]);
    let new = NewKey { name, scopes, customer: None, requests_per_minute: Some(0), expires_at: None };
    let key = from.store.add_key(new, "Ana").await.unwrap();
    // The one that was replaced points at one that comes later.
    from.store.rotate_key("crm", LEASE, "Ana").await.unwrap();

    // Into a file, from there into the database that this run is about, and everything is as it was.
    let file = TestStore::in_file().await;
    let mut told = 0;
    from.store.copy_into(&file.store, |_, rows| told += rows).await.unwrap();
    assert!(told > 15, "{told}");
    let back = TestStore::new().await;
    file.store.copy_into(&back.store, |_, _| {}).await.unwrap();
    let known = |content: Vec<(String, Vec<String>)>| {
        // Words are made anew, in another order; the rest of their tables is the engine's.
        content
            .into_iter()
            .filter(|(table, _)| !table.starts_with("ticket_words") && table != "_sqlx_migrations")
            .collect::<Vec<_>>()
    };
    assert_eq!(known(back.content().await), known(from.content().await));
    assert_eq!(back.store.verify_audit(None).await.unwrap().broken, None);
    let moved = back.store.key_by_sha256(&sha256_hex(&key.key)).await.unwrap();
    assert!(moved.is_some_and(|key| key.replaced_by.is_some()));
    assert_eq!(back.count("ticket_words").await, from.count("ticket_words").await);
    back.accept("work goes on").await;
    let other = [item("c", "New")];
    back.store.put_items(&other, &[content_hash(&other[0]).unwrap()]).await.unwrap();
    let again = from.store.copy_into(&back.store, |_, _| {}).await;
    assert!(matches!(again, Err(StoreError::Conflict(_))), "{again:?}");
}
