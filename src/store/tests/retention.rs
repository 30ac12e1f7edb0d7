//! What is old enough goes, and nothing else; the present is moved, not waited for.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::*;
use crate::personal::retention::{plan, run};
use crate::settings::{QueueRetention, Retention};
use crate::store::NewAttachment;
use crate::ticket::Author;

fn days_from_now(days: i64) -> Timestamp {
    Timestamp::now() + SignedDuration::from_hours(24 * days)
}

/// A closed ticket of a queue, with a file, an event and a key.
async fn closed(test: &TestStore, queue: Option<&str>, number: u32) -> Uuid {
    let new = NewTicket {
        queue: queue.map(str::to_owned),
        idempotency: key(&number.to_string(), "1"),
        ..new_ticket("Mi web no carga")
    };
    let file = NewAttachment { name: "a.txt".into(), media_type: "text/plain", content: b"a".to_vec() };
    let accepted = test.store.accept_ticket_with(new, vec![file]).await.unwrap();
    let id = accepted.ticket.id;
    test.store.finish(id, work(&accepted, TicketState::Answered)).await.unwrap();
    for number in 1..=3 {
        test.store.append_event(id, "decision", &json!({ "number": number })).await.unwrap();
    }
    id
}

async fn removed(test: &TestStore, settings: &Retention, now: Timestamp) -> crate::store::Expiring {
    run(&test.store, settings, now, "a", |_| {}).await.unwrap()
}

#[tokio::test]
async fn conversations_go_by_their_queue_and_age_and_open_ones_stay() {
    let test = TestStore::new().await;
    let (web, billing, none) =
        (closed(&test, Some("web"), 1).await, closed(&test, Some("billing"), 2).await, closed(&test, None, 3).await);
    let open = test.accept("nobody has answered this").await.ticket.id;
    let days = |tickets| QueueRetention { tickets_days: Some(tickets), attachments_days: None };
    let queues = [("billing".to_owned(), days(0)), ("web".to_owned(), days(90))].into();
    let settings = Retention { tickets_days: 30, queues, ..Retention::default() };
    let figures = test.store.figures_by_day(1).await.unwrap();

    assert_eq!(removed(&test, &settings, days_from_now(29)).await, crate::store::Expiring::default());
    let planned = plan(&test.store, &settings, days_from_now(31)).await.unwrap();
    let tickets: Vec<(&str, u64)> = planned.iter().map(|(name, gone)| (name.as_str(), gone.tickets)).collect();
    assert_eq!(tickets, [("queue billing", 0), ("queue web", 0), ("other queues", 1), ("everywhere", 0)]);
    let mut gone = Vec::new();
    run(&test.store, &settings, days_from_now(31), "a", |tickets| gone.extend_from_slice(tickets)).await.unwrap();
    assert_eq!(gone, [none]);
    assert_eq!(removed(&test, &settings, days_from_now(91)).await.tickets, 1);
    assert_eq!(removed(&test, &settings, days_from_now(30_000)).await.tickets, 0);
    assert!(test.store.ticket(web).await.is_err());
    for kept in [billing, open] {
        assert!(test.store.ticket(kept).await.is_ok());
    }
    assert_eq!(test.store.figures_by_day(1).await.unwrap(), figures, "the counts stay");
    assert_eq!(test.store.verify_audit(None).await.unwrap().broken, None);
}

#[tokio::test]
async fn a_new_message_keeps_a_conversation_and_a_merged_duplicate_goes_with_it() {
    let test = TestStore::new().await;
    let (into, duplicate) = (closed(&test, None, 1).await, closed(&test, None, 2).await);
    test.store.merge(duplicate, into, "Ana").await.unwrap();
    let mut tx = test.store.write().await.unwrap();
    let state = "UPDATE tickets SET state = 'answered' WHERE merged_into IS NULL";
    sqlx::query(state).execute(&mut *tx).await.unwrap();
    // One message, of both, is from much later.
    let late = days_from_now(20).as_millisecond();
    sqlx::query("UPDATE messages SET created_at = $1 WHERE position = 2").bind(late).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let settings = Retention { tickets_days: 30, ..Retention::default() };
    assert_eq!(removed(&test, &settings, days_from_now(40)).await.tickets, 0);
    assert_eq!(removed(&test, &settings, days_from_now(51)).await.tickets, 2);
    assert_eq!(test.count("tickets").await, 0);
    assert_eq!(test.count("customers").await, 0, "nobody is left of whom there is a ticket");
}

#[tokio::test]
async fn what_waits_to_be_sent_or_is_hidden_for_later_stays() {
    let test = TestStore::new().await;
    let (unsent, hidden) = (closed(&test, None, 1).await, closed(&test, None, 2).await);
    test.store.add_message(unsent, Author::Agent, "Ya está".into(), None).await.unwrap();
    test.store.snooze(hidden, Some(days_from_now(60)), "Ana").await.unwrap();
    let settings = Retention { tickets_days: 30, ..Retention::default() };
    assert_eq!(removed(&test, &settings, days_from_now(40)).await.tickets, 0);
    for row in test.store.claim_outbox(10, 1).await.unwrap() {
        test.store.mark_sent(row.id).await.unwrap();
    }
    assert_eq!(removed(&test, &settings, days_from_now(61)).await.tickets, 2);
}

#[tokio::test]
async fn files_events_and_keys_have_times_of_their_own() {
    let test = TestStore::new().await;
    let id = closed(&test, None, 1).await;
    let settings = Retention { attachments_days: 10, events_days: 20, idempotency_days: 5, ..Retention::default() };
    let planned = plan(&test.store, &settings, days_from_now(21)).await.unwrap();
    assert_eq!((planned[0].1.files, planned[1].1.events, planned[1].1.idempotency_keys), (1, 5, 1));
    let total = removed(&test, &settings, days_from_now(11)).await;
    assert_eq!((total.tickets, total.files, total.events, total.idempotency_keys), (0, 1, 0, 1));
    assert_eq!(removed(&test, &settings, days_from_now(21)).await.events, 5);
    assert_eq!(removed(&test, &settings, days_from_now(22)).await, crate::store::Expiring::default());
    assert_eq!(test.store.messages(id).await.unwrap().len(), 1, "the conversation stays");
    let left = test.store.events_after(id, 0).await.unwrap();
    assert_eq!(left.iter().map(|row| (row.seq, row.data.clone())).collect::<Vec<_>>(), [(5, json!({}))]);
    assert_eq!(test.store.append_event(id, "message", &json!({})).await.unwrap(), 6, "no number is given twice");
}

#[tokio::test]
async fn one_process_at_a_time_does_it() {
    let test = TestStore::new().await;
    closed(&test, None, 1).await;
    let settings = Retention { tickets_days: 30, ..Retention::default() };
    let hour = Duration::from_secs(3_600);
    assert!(test.store.lease_task("retention", "b", hour).await.unwrap());
    assert!(test.store.lease_task("retention", "b", hour).await.unwrap(), "its own lease may be taken again");
    assert_eq!(removed(&test, &settings, days_from_now(40)).await.tickets, 0);
    assert!(test.store.lease_task("retention", "b", Duration::ZERO).await.unwrap());
    assert_eq!(removed(&test, &settings, days_from_now(40)).await.tickets, 1);
}
