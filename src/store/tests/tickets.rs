use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::*;
use crate::store::QueueFilter;
use crate::ticket::{Author, Difficulty};

#[tokio::test]
async fn a_repeated_key_gives_the_first_ticket_again() {
    let test = TestStore::new().await;
    let request = NewTicket { idempotency: key("k", "aa"), ..new_ticket("hola") };
    let first = test.store.accept_ticket(request.clone()).await.unwrap();
    let again = test.store.accept_ticket(request.clone()).await.unwrap();
    assert!(!first.replayed && again.replayed);
    assert_eq!((&first.ticket, &first.message), (&again.ticket, &again.message));
    assert_eq!(test.count("audit").await, 1);

    let other_body = NewTicket { idempotency: key("k", "bb"), ..request.clone() };
    let refused = test.store.accept_ticket(other_body).await;
    assert!(matches!(refused, Err(StoreError::IdempotencyConflict(key)) if key == "k"));
    assert_eq!(test.count("tickets").await, 1);

    let other_customer = NewTicket { customer: Some("luis".into()), ..request.clone() };
    assert!(!test.store.accept_ticket(other_customer).await.unwrap().replayed);
    let nobody = NewTicket { customer: None, ..request };
    assert!(!test.store.accept_ticket(nobody).await.unwrap().replayed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_requests_at_once_with_one_key_make_one_ticket() {
    let test = TestStore::new().await;
    let requests = (0..20).map(|_| {
        let store = test.store.clone();
        let request = NewTicket { idempotency: key("same", "aa"), ..new_ticket("hola") };
        tokio::spawn(async move { store.accept_ticket(request).await.unwrap() })
    });
    let mut accepted = Vec::new();
    for request in requests.collect::<Vec<_>>() {
        accepted.push(request.await.unwrap());
    }
    assert_eq!(accepted.iter().filter(|accepted| !accepted.replayed).count(), 1);
    assert!(accepted.iter().all(|other| other.message.id == accepted[0].message.id));
    assert_eq!((test.count("tickets").await, test.count("messages").await), (1, 1));
}

#[tokio::test]
async fn any_text_comes_back_as_it_was() {
    let test = TestStore::new().await;
    for body in ["", "😀😀", "\u{1} bell", "שלום \u{202e} עולם", "'; DROP TABLE tickets; --", &"ñ".repeat(512 * 1024)]
    {
        let accepted = test.store.accept_ticket(NewTicket { subject: body.into(), ..new_ticket(body) }).await.unwrap();
        let ticket = test.store.ticket(accepted.ticket.id).await.unwrap();
        let messages = test.store.messages(ticket.id).await.unwrap();
        assert_eq!(ticket, accepted.ticket);
        assert_eq!((ticket.subject.as_str(), messages[0].body.as_str()), (body, body));
    }
    // PostgreSQL has no NUL in texts; intake has taken it out of what customers write.
    let nul = test.store.accept_ticket(new_ticket("nul \0")).await;
    assert_eq!(matches!(nul, Err(StoreError::Invalid(_))), test.store.is_shared(), "{nul:?}");
}

#[tokio::test]
async fn what_was_accepted_is_there_after_reopening() {
    let test = TestStore::new().await;
    let accepted = test.accept("hola").await;
    let TestStore { store, dir: _dir } = test.reopened().await;
    assert_eq!(store.unfinished().await.unwrap(), [accepted.ticket.id]);
    assert_eq!(store.messages(accepted.ticket.id).await.unwrap(), [accepted.message]);
}

#[tokio::test]
async fn a_customers_message_reopens_and_supersedes_the_draft() {
    let test = TestStore::new().await;
    let (accepted, draft_id) = test.in_review(DraftKind::Generated).await;
    let id = accepted.ticket.id;
    assert!(test.store.unfinished().await.unwrap().is_empty());

    let note = test.store.add_message(id, Author::Note, "vip".into(), None).await.unwrap();
    assert_eq!(note.ticket.state, TicketState::Review);
    let added = test.store.add_message(id, Author::Customer, "y ahora tampoco".into(), key("m", "1")).await.unwrap();
    assert_eq!(added.ticket.state, TicketState::Received);
    let again = test.store.add_message(id, Author::Customer, "y ahora tampoco".into(), key("m", "1")).await.unwrap();
    assert!(again.replayed);
    assert_eq!(test.store.messages(id).await.unwrap().len(), 3);
    assert_eq!(test.store.unfinished().await.unwrap(), [id]);
    assert!(is_conflict(test.store.resolve_draft(draft_id, review(Outcome::Approved, None)).await));
    let other = test.store.add_message(id, Author::Customer, "otra".into(), key("m", "2")).await;
    assert!(matches!(other, Err(StoreError::IdempotencyConflict(_))));
}

#[tokio::test]
async fn an_agents_message_goes_out_and_ends_the_work() {
    let test = TestStore::new().await;
    let accepted = test.accept("hola").await;
    let id = accepted.ticket.id;
    let added = test.store.add_message(id, Author::Agent, "Hola, soy Marta".into(), None).await.unwrap();
    assert_eq!(added.ticket.state, TicketState::Answered);
    let outbox = test.store.claim_outbox(10, 60).await.unwrap();
    assert_eq!((outbox.len(), outbox[0].message_id), (1, added.message.id));
    // The pipeline, still at work on the same ticket, is too late.
    assert!(is_conflict(test.store.finish(id, work(&accepted, TicketState::Review)).await));
    let own = test.store.add_message(id, Author::Respondo, "x".into(), None).await;
    assert!(matches!(own, Err(StoreError::Invalid(_))));
}

#[tokio::test]
async fn unknown_ids_are_not_found() {
    let test = TestStore::new().await;
    let id = Uuid::now_v7();
    let missing =
        |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::NotFound(_))), "{result:?}");
    missing(test.store.ticket(id).await.map(drop));
    missing(test.store.ticket_view(id).await.map(drop));
    missing(test.store.add_message(id, Author::Customer, "x".into(), None).await.map(drop));
    missing(test.store.save_draft(id, &draft(DraftKind::Generated)).await.map(drop));
    missing(test.store.resolve_draft(id, review(Outcome::Approved, None)).await.map(drop));
    missing(test.store.append_event(id, "stage", &json!({})).await.map(drop));
    missing(test.store.mark_sent(id).await);
    missing(test.store.release(id, "x").await);
}

#[tokio::test]
async fn events_are_numbered_per_ticket() {
    let test = TestStore::new().await;
    let (one, two) = (test.accept("1").await.ticket.id, test.accept("2").await.ticket.id);
    // The first tells that the message was received.
    for number in 2..=4 {
        assert_eq!(test.store.append_event(one, "token", &json!({ "n": number })).await.unwrap(), number);
    }
    assert_eq!(test.store.append_event(two, "stage", &json!(null)).await.unwrap(), 2);
    let after = test.store.events_after(one, 2).await.unwrap();
    assert_eq!(after.iter().map(|event| event.seq).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(after[0].data, json!({ "n": 3 }));
    assert!(test.store.events_after(one, i64::MAX).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_queue_goes_by_urgency_then_time_left_then_age() {
    let test = TestStore::new().await;
    let now = Timestamp::now();
    let hours = |hours: i64| Some(now + SignedDuration::from_hours(hours));
    let rows = [
        ("low", Some(Urgency::Low), hours(1), Difficulty::Known),
        ("normal without time", Some(Urgency::Normal), None, Difficulty::Known),
        ("normal later", Some(Urgency::Normal), hours(8), Difficulty::Known),
        ("normal soon", Some(Urgency::Normal), hours(2), Difficulty::Engineering),
        ("normal soon, younger", Some(Urgency::Normal), hours(2), Difficulty::Known),
        ("critical", Some(Urgency::Critical), None, Difficulty::Engineering),
    ];
    for (subject, urgency, due_at, difficulty) in rows {
        let new = NewTicket { subject: subject.into(), ..new_ticket("x") };
        let accepted = test.store.accept_ticket(new).await.unwrap();
        let work =
            FinishedWork { urgency, due_at, difficulty: Some(difficulty), ..work(&accepted, TicketState::Review) };
        test.store.finish(accepted.ticket.id, work).await.unwrap();
        // Age is kept in milliseconds.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let unjudged = NewTicket { subject: "unjudged".into(), language: Language::EN, ..new_ticket("x") };
    test.store.accept_ticket(unjudged).await.unwrap();
    let expected =
        ["critical", "unjudged", "normal soon", "normal soon, younger", "normal later", "normal without time", "low"];

    let mut filter = QueueFilter { state: None, language: None, queue: None, limit: 2, cursor: None };
    let mut subjects = Vec::new();
    loop {
        let page = test.store.queue(&filter).await.unwrap();
        let Some(last) = page.last() else { break };
        filter.cursor = Some(last.cursor.clone());
        subjects.extend(page.into_iter().map(|row| row.ticket.subject));
    }
    assert_eq!(subjects, expected);

    filter.cursor = None;
    filter.language = Some("en".into());
    let english = test.store.queue(&filter).await.unwrap();
    assert_eq!((english.len(), english[0].action), (1, None));
    filter.state = Some(TicketState::Review);
    assert!(test.store.queue(&filter).await.unwrap().is_empty());
    for bad in ["", "x", "1.2.3", "1.2.3.4", "1.2.3.4.5"] {
        filter.cursor = Some(bad.into());
        assert!(matches!(test.store.queue(&filter).await, Err(StoreError::Invalid(_))));
    }
}

#[tokio::test]
async fn figures_count_what_is_there() {
    let test = TestStore::new().await;
    test.in_review(DraftKind::Generated).await;
    test.accept("x").await;
    let stats = test.store.stats().await.unwrap();
    assert_eq!((stats.customers, stats.tickets, stats.messages, stats.drafts), (1, 2, 2, 1));
    assert_eq!(stats.tickets_by_state, [("received".to_owned(), 1), ("review".to_owned(), 1)]);
    assert_eq!(stats.decisions_by_action, [("suggest".to_owned(), 1)]);
    assert!(stats.bytes > 0);
}

#[tokio::test]
async fn who_follows_a_ticket_is_told_in_the_transaction_that_makes_it_so() {
    let test = TestStore::new().await;
    let accepted = test.accept("hola").await;
    let id = accepted.ticket.id;
    let draft_id = test.store.save_draft(id, &draft(DraftKind::Extractive)).await.unwrap();
    let work = FinishedWork { draft_id: Some(draft_id), ..work(&accepted, TicketState::Review) };
    let finished = test.store.finish(id, work).await.unwrap();
    test.store.add_message(id, Author::Note, "nota".into(), None).await.unwrap();
    let again = test.store.add_message(id, Author::Customer, "más".into(), key("m", "1")).await.unwrap();
    assert!(test.store.add_message(id, Author::Customer, "más".into(), key("m", "1")).await.unwrap().event.is_none());
    let kept = test.store.events_after(id, 0).await.unwrap();
    assert_eq!(
        kept.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>(),
        ["received", "draft", "decision", "received"]
    );
    let told: Vec<_> = accepted.event.into_iter().chain(finished.events).chain(again.event).collect();
    assert_eq!(told, kept);
    assert_eq!((&kept[0].data["body"], &kept[1].data["kind"]), (&"hola".into(), &"extractive".into()));
}
