//! The desk's side of the store: who has what, what is hidden, found, corrected and taken back.

use jiff::Timestamp;

use super::*;
use crate::store::{Correction, DeskFilter, Feedback, NewAgent, Person, Role, Scope, Written, more_urgent};
use crate::ticket::{Author, Difficulty};

fn everything(scope: Scope) -> DeskFilter {
    DeskFilter { scope, ..DeskFilter::default() }
}

fn written(text: &str, asks: bool, seen: Option<Uuid>) -> Written {
    Written { text: text.to_owned(), asks, seen }
}

async fn agent(test: &TestStore, name: &str) -> Uuid {
    let new = NewAgent {
        login: name.to_lowercase(),
        name: name.to_owned(),
        role: Role::Agent,
        password_hash: "hash".to_owned(),
    };
    test.store.add_agent(new, "test", false).await.unwrap().id
}

#[tokio::test]
async fn logins_are_unique_whatever_their_case_and_sessions_end() {
    let test = TestStore::new().await;
    let id = agent(&test, "Ana").await;
    let again = NewAgent { login: "ANA".into(), name: "Other".into(), role: Role::Admin, password_hash: "x".into() };
    assert!(matches!(test.store.add_agent(again.clone(), "test", false).await, Err(StoreError::Conflict(_))));
    assert!(matches!(test.store.add_agent(again, "test", true).await, Err(StoreError::Conflict(_))));
    let far = Timestamp::now().as_millisecond() + 60_000;
    test.store.start_session(id, None, "token", "csrf", far).await.unwrap();
    test.store.start_session(id, None, "old token", "csrf", 1).await.unwrap();
    assert_eq!(test.store.session("token").await.unwrap().map(|session| session.agent.name), Some("Ana".to_owned()));
    assert!(test.store.session("old token").await.unwrap().is_none());
    assert!(test.store.session("TOKEN").await.unwrap().is_none());
    test.store.end_session("token").await.unwrap();
    assert!(test.store.session("token").await.unwrap().is_none());
}

/// Which of these sessions are good.
async fn good(test: &TestStore, tokens: &[&'static str]) -> Vec<&'static str> {
    let mut good = Vec::new();
    for &token in tokens {
        good.extend(test.store.session(token).await.unwrap().map(|_| token));
    }
    good
}

#[tokio::test]
async fn a_new_password_ends_all_sessions_of_its_person_but_the_one_that_is_kept() {
    let test = TestStore::new().await;
    let (ana, ben) = (agent(&test, "Ana").await, agent(&test, "Ben").await);
    let far = Timestamp::now().as_millisecond() + 60_000;
    let tokens = ["here", "at home", "on the phone", "ben's"];
    for token in tokens {
        let of = if token == "ben's" { ben } else { ana };
        test.store.start_session(of, Some("hash"), token, token, far).await.unwrap();
    }
    test.store.set_password(ana, "second", Some("here"), "Ana").await.unwrap();
    assert_eq!(good(&test, &tokens).await, ["here", "ben's"]);
    let hash = async |login: &str| test.store.agent_by_login(login).await.unwrap().map(|(_, hash)| hash);
    assert_eq!((hash("ana").await.as_deref(), hash("ben").await.as_deref()), (Some("second"), Some("hash")));

    // Who compared a password with the hash before does not get in behind the change.
    let late = test.store.start_session(ana, Some("hash"), "late", "csrf", far).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))), "{late:?}");
    test.store.start_session(ana, Some("second"), "at home", "csrf", far).await.unwrap();
    assert_eq!(good(&test, &["late", "at home"]).await, ["at home"]);

    test.store.set_password(ana, "third", None, "Carla").await.unwrap();
    assert_eq!(good(&test, &tokens).await, ["ben's"]);
    let query = "SELECT actor, subject, detail FROM audit WHERE action = 'password changed' ORDER BY id";
    let trail: Vec<(String, String, String)> = sqlx::query_as(query).fetch_all(&test.store.writer).await.unwrap();
    let line = |actor: &str, own: bool, ended: u32| {
        let detail = serde_json::json!({ "own": own, "sessions_ended": ended }).to_string();
        (actor.to_owned(), ana.to_string(), detail)
    };
    assert_eq!(trail, [line("Ana", true, 2), line("Carla", false, 2)], "one line each, without hashes");
    assert_eq!(test.store.verify_audit(None).await.unwrap().broken, None);
}

#[tokio::test]
async fn a_password_that_is_not_changed_leaves_everything_as_it_was() {
    let test = TestStore::new().await;
    let (ana, ben) = (agent(&test, "Ana").await, agent(&test, "Ben").await);
    let far = Timestamp::now().as_millisecond() + 60_000;
    test.store.start_session(ben, None, "ben's", "csrf", far).await.unwrap();
    test.store.start_session(ana, None, "good", "csrf", far).await.unwrap();
    test.store.start_session(ana, None, "over", "csrf", 1).await.unwrap();
    let before = test.content().await;
    // A session that was ended, one of somebody else, and one whose time is over.
    for kept in ["none", "ben's", "over", ""] {
        let changed = test.store.set_password(ana, "second", Some(kept), "Ana").await;
        assert!(matches!(changed, Err(StoreError::Conflict(_))), "{kept}: {changed:?}");
    }
    let nobody = test.store.set_password(Uuid::from_u128(1), "second", None, "Ana").await;
    assert!(matches!(nobody, Err(StoreError::NotFound(_))), "{nobody:?}");
    assert_eq!(test.content().await, before);
    let reader = test.shared().await.set_password(ana, "second", None, "Ana").await;
    assert!(reader.is_err(), "a store that is open for reading");
}

#[tokio::test]
async fn lines_come_in_order_page_by_page_and_are_found_by_words_without_accents() {
    let test = TestStore::new().await;
    let mut ids = Vec::new();
    for (number, urgency) in
        [Urgency::Low, Urgency::Critical, Urgency::Normal, Urgency::Critical].into_iter().enumerate()
    {
        let accepted = test.accept(&format!("la facturación falla {number}")).await;
        let done = FinishedWork { urgency: Some(urgency), ..work(&accepted, TicketState::Review) };
        test.store.finish(accepted.ticket.id, done).await.unwrap();
        ids.push(accepted.ticket.id);
    }
    let all = test.store.desk_rows(&everything(Scope::Team)).await.unwrap();
    let order: Vec<Uuid> = all.iter().map(|row| row.ticket.id).collect();
    assert_eq!(order, [ids[1], ids[3], ids[2], ids[0]], "by urgency, then by age");
    let mut paged = Vec::new();
    let mut filter = DeskFilter { limit: 1, ..everything(Scope::Team) };
    while let Some(row) = test.store.desk_rows(&filter).await.unwrap().pop() {
        paged.push(row.ticket.id);
        filter.cursor = Some(row.cursor);
    }
    assert_eq!(paged, order);
    for (search, count) in
        [("facturacion", 4), ("FACTUR", 4), ("falla 2", 1), ("factura\" OR 1", 0), ("nada", 0), ("\"*()", 4)]
    {
        let filter = DeskFilter { search: Some(search.to_owned()), ..everything(Scope::All) };
        assert_eq!(test.store.desk_rows(&filter).await.unwrap().len(), count, "{search}");
    }
    let ana = agent(&test, "Ana").await;
    assert_eq!(test.store.desk_counts(ana).await.unwrap().critical, 2);
    test.store
        .snooze(ids[1], Timestamp::now().checked_add(jiff::SignedDuration::from_hours(1)).ok(), "Ana")
        .await
        .unwrap();
    assert_eq!(test.store.desk_rows(&everything(Scope::Team)).await.unwrap().len(), 3);
    test.store.snooze(ids[1], None, "Ana").await.unwrap();
    assert_eq!(test.store.desk_rows(&everything(Scope::Team)).await.unwrap().len(), 4);
    test.store.take_over(ids[0], Person { id: ana, name: "Ana" }).await.unwrap();
    let mine = test.store.desk_rows(&everything(Scope::Mine(ana))).await.unwrap();
    assert_eq!(mine.iter().map(|row| row.ticket.id).collect::<Vec<_>>(), [ids[0]]);
}

#[tokio::test]
async fn a_message_without_a_draft_can_be_taken_back_until_it_goes_out() {
    let test = TestStore::new().await;
    let ana = Person { id: agent(&test, "Ana").await, name: "Ana" };
    let accepted = test.accept("hola").await;
    let id = accepted.ticket.id;
    test.store.finish(id, work(&accepted, TicketState::Review)).await.unwrap();
    let hold = std::time::Duration::from_secs(60);
    let (ticket, message) =
        test.store.write_as_agent(id, written("¿qué versión?", true, None), ana, hold).await.unwrap();
    assert_eq!(ticket.state, TicketState::Waiting);
    assert!(test.store.claim_outbox(9, 30).await.unwrap().is_empty(), "it is held");
    assert_eq!(test.store.held_replies(id).await.unwrap().len(), 1);
    let (ticket, text) = test.store.take_back(message.id, "Ana").await.unwrap();
    assert_eq!((ticket.state, text.as_str()), (TicketState::Escalated, "¿qué versión?"));
    assert!(matches!(test.store.take_back(message.id, "Ana").await, Err(StoreError::Conflict(_))));
    let (_, message) =
        test.store.write_as_agent(id, written("Hecho.", false, None), ana, std::time::Duration::ZERO).await.unwrap();
    let claimed = test.store.claim_outbox(9, 30).await.unwrap();
    let row = claimed.iter().find(|row| row.message_id == message.id).expect("claimed");
    assert_eq!((row.author, row.agent.as_deref()), (Author::Agent, Some("Ana")));
    assert!(matches!(test.store.take_back(message.id, "Ana").await, Err(StoreError::Conflict(_))));
}

#[tokio::test]
async fn what_customers_and_agents_set_right_is_kept() {
    let test = TestStore::new().await;
    let accepted = test.accept("hola").await;
    let id = accepted.ticket.id;
    test.store.finish(id, work(&accepted, TicketState::Answered)).await.unwrap();
    let ticket = test.store.correct(id, Correction::Difficulty(Difficulty::Engineering), "Ana").await.unwrap();
    assert_eq!((ticket.difficulty, ticket.urgency), (Some(Difficulty::Engineering), Some(Urgency::High)));
    assert_eq!(more_urgent(ticket.urgency), Urgency::Critical);
    assert_eq!(more_urgent(Some(Urgency::Critical)), Urgency::Critical);
    assert_eq!(more_urgent(None), Urgency::High);
    let ticket = test.store.take_feedback(id, Feedback::Urgent).await.unwrap();
    assert_eq!(ticket.state, TicketState::Answered, "urgency alone moves nothing");
    let ticket = test.store.take_feedback(id, Feedback::NotHelped).await.unwrap();
    assert_eq!(ticket.state, TicketState::Escalated);
    let kept: Vec<(String, i64, String)> = sqlx::query_as("SELECT judgement, became, corrector FROM corrections")
        .fetch_all(&test.store.writer)
        .await
        .unwrap();
    assert_eq!(kept, [("difficulty".to_owned(), 4, "Ana".to_owned())]);
}

#[tokio::test]
async fn the_second_who_writes_without_having_read_the_first_is_refused() {
    let test = TestStore::new().await;
    let (ana, ben) = (agent(&test, "Ana").await, agent(&test, "Ben").await);
    let (ana, ben) = (Person { id: ana, name: "Ana" }, Person { id: ben, name: "Ben" });
    let accepted = test.accept("hola").await;
    let (id, seen) = (accepted.ticket.id, Some(accepted.message.id));
    let hold = std::time::Duration::from_secs(60);
    let (_, first) = test.store.write_as_agent(id, written("Ya lo miro.", false, seen), ana, hold).await.unwrap();
    let late = test.store.write_as_agent(id, written("Yo también.", false, seen), ben, hold).await;
    assert!(matches!(&late, Err(StoreError::Conflict(why)) if why.contains("Ana")), "{late:?}");
    assert_eq!(test.store.held_replies(id).await.unwrap().len(), 1);
    let read = Some(first.id);
    test.store.write_as_agent(id, written("Añado algo.", false, read), ben, hold).await.unwrap();
    test.store.take_over(id, ana).await.unwrap();
    assert!(is_conflict(test.store.write_as_agent(id, written("Hola.", false, None), ben, hold).await));
}

#[tokio::test]
async fn tickets_are_found_by_what_they_mean() {
    let test = TestStore::new().await;
    let evidence = &[];
    let triage = crate::store::tests::review::triage();
    let mut ids = Vec::new();
    for (model, vector) in [("e5", [1.0, 0.0]), ("e5", [0.8, 0.6]), ("e5", [0.0, 1.0]), ("other", [1.0, 0.0])] {
        let id = test.accept("hola").await.ticket.id;
        let timings = crate::ticket::Timings::default();
        test.store.save_analysis(id, &triage, evidence, &timings, Some((model, &vector))).await.unwrap();
        ids.push(id);
    }
    let about = |vector: [f32; 2]| DeskFilter {
        about: Some(("e5".to_owned(), vector.to_vec())),
        limit: 2,
        ..everything(Scope::Team)
    };
    let found = |rows: Vec<crate::store::DeskRow>| rows.iter().map(|row| row.ticket.id).collect::<Vec<_>>();
    assert_eq!(found(test.store.desk_rows(&about([1.0, 0.0])).await.unwrap()), [ids[0], ids[1]]);
    assert_eq!(found(test.store.desk_rows(&about([0.0, 1.0])).await.unwrap()), [ids[2], ids[1]]);
    let english = DeskFilter { language: Some(crate::ticket::Language::EN), ..about([1.0, 0.0]) };
    assert!(test.store.desk_rows(&english).await.unwrap().is_empty(), "filters hold");
    // Worked on again, it is about something else.
    let timings = crate::ticket::Timings::default();
    test.store.save_analysis(ids[0], &triage, evidence, &timings, Some(("e5", &[-1.0, 0.0]))).await.unwrap();
    assert_eq!(found(test.store.desk_rows(&about([1.0, 0.0])).await.unwrap()), [ids[1], ids[2]]);
}
