//! One customer's data: found whole, and gone without a byte left.

use serde_json::json;

use super::review::triage;
use super::*;
use crate::store::{Correction, Erasure, Feedback, NewAttachment, NewEmbedding, Rewrite, content_hash};
use crate::ticket::{Author, Evidence, Timings};

/// One word, so that the search's index holds it whole.
const CANARY: &str = "xyzzyqplugh";
const CUSTOMER: &str = "xyzzyqplugh@example.org";

fn memory_id(ticket: Uuid) -> String {
    format!("ticket-{ticket}")
}

fn erasure(keep_figures: bool) -> Erasure<'static> {
    Erasure { by: "Ana", keep_figures, until: None }
}

fn evidence(memory_id: &str) -> Vec<Evidence> {
    vec![Evidence {
        index: 1,
        memory_id: memory_id.into(),
        kind: MemoryKind::Ticket,
        language: Language::ES,
        title: format!("about {CANARY}"),
        text: format!("{CANARY} again"),
        url: None,
        score: 1.0,
        similarity: 0.9,
    }]
}

fn canary_ticket() -> NewTicket {
    NewTicket {
        customer: Some(CUSTOMER.into()),
        subject: format!("Ayuda con {CANARY}"),
        queue: Some("web".into()),
        idempotency: key(&format!("key-{CANARY}"), "1"),
        ..new_ticket(&format!("Mi web {CANARY} no carga"))
    }
}

/// A customer with everything that can hang on a ticket, and another one whose ticket quotes what was learned from theirs.
/// Gives the first one's ticket and the other one's.
async fn filled(test: &TestStore) -> (Uuid, Uuid) {
    let store = &test.store;
    let content = format!("file of {CANARY}").into_bytes();
    let file = NewAttachment { name: format!("{CANARY}.txt"), media_type: "text/plain", content };
    let accepted = store.accept_ticket_with(canary_ticket(), vec![file]).await.unwrap();
    let id = accepted.ticket.id;
    store.save_analysis(id, &triage(), &evidence("nb-1"), &Timings::default(), Some(("m", &[0.5, 0.5]))).await.unwrap();
    let written = crate::ticket::Draft { text: format!("Hola, {CANARY}."), ..draft(DraftKind::Extractive) };
    let draft_id = store.save_draft(id, &written).await.unwrap();
    let done = FinishedWork {
        draft_id: Some(draft_id),
        outgoing: Some(format!("Lo miramos, {CANARY}.")),
        ..work(&accepted, TicketState::Review)
    };
    store.finish(id, done).await.unwrap();
    let learned = item(&memory_id(id), &format!("restart {CANARY}"));
    let edited = format!("Hola, {CANARY}: pruebe otra vez.");
    let review =
        ReviewAction { note: Some(CANARY.into()), remember: Some(learned), ..review(Outcome::Edited, Some(&edited)) };
    store.resolve_draft(draft_id, review).await.unwrap();
    let own = memory_id(id);
    let vector = NewEmbedding { key: "k", memory_id: Some(&own), vector: &[0.5] };
    store.store_embeddings(&[vector]).await.unwrap();
    store.append_event(id, "message", &json!({ "body": CANARY })).await.unwrap();
    store.correct(id, Correction::Urgency(Urgency::Low), "Ana").await.unwrap();
    store.take_feedback(id, Feedback::NotHelped).await.unwrap();
    store.add_note(id, format!("note on {CANARY}"), "Ana").await.unwrap();
    let again = key("again", "2");
    store.add_message(id, Author::Customer, format!("y {CANARY}?"), again).await.unwrap();

    let other = test.accept("Otra consulta").await;
    let quoted = evidence(&own);
    store.save_analysis(other.ticket.id, &triage(), &quoted, &Timings::default(), None).await.unwrap();
    let citing = crate::ticket::Draft { evidence: quoted.clone(), ..draft(DraftKind::Extractive) };
    store.save_draft(other.ticket.id, &citing).await.unwrap();
    store.append_event(other.ticket.id, "draft", &serde_json::to_value(&citing).unwrap()).await.unwrap();
    (id, other.ticket.id)
}

/// As the program does it, see `personal::erase`.
async fn erase(
    test: &TestStore,
    customer: &str,
    erasure: Erasure<'_>,
) -> Result<crate::store::ErasureReport, StoreError> {
    let tickets = test.store.tickets_of(customer, erasure.until).await?;
    let learned: Vec<String> = tickets.into_iter().map(memory_id).collect();
    test.store.forget_learned(&learned).await?;
    test.store.blank_evidence_of(&learned).await?;
    let report = test.store.erase_customer(customer, erasure).await?;
    test.store.fold(Rewrite::Yes).await;
    Ok(report)
}

/// Tables that hold the canary, as text or as bytes.
async fn tables_with_canary(test: &TestStore) -> Vec<String> {
    let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
    let holds = |row: &String| row.contains(CANARY) || row.to_lowercase().contains(&hex);
    let content = test.content().await;
    content.into_iter().filter(|(_, rows)| rows.iter().any(holds)).map(|(table, _)| table).collect()
}

fn files_with_canary(test: &TestStore) -> Vec<String> {
    let files = std::fs::read_dir(test.path()).unwrap().map(|file| file.unwrap().path());
    let holds = |path: &std::path::PathBuf| {
        std::fs::read(path).unwrap().windows(CANARY.len()).any(|window| window == CANARY.as_bytes())
    };
    files.filter(holds).map(|path| path.display().to_string()).collect()
}

#[tokio::test]
async fn an_erased_customer_leaves_no_byte() {
    let test = TestStore::new().await;
    let (id, other) = filled(&test).await;
    let held = test.store.held(CUSTOMER, memory_id).await.unwrap();
    assert_eq!((held.tickets, held.messages, held.files, held.learned), (vec![id], 5, 1, 1));
    let before = tables_with_canary(&test).await;
    for table in ["tickets", "messages", "attachments", "drafts", "outcomes", "events", "memory_items", "customers"] {
        assert!(before.iter().any(|name| name == table), "{table} is not in {before:?}");
    }
    let in_files = !test.store.is_shared();
    assert_eq!(files_with_canary(&test).is_empty(), !in_files, "the scan of the files finds it");

    let report = erase(&test, CUSTOMER, erasure(false)).await.unwrap();
    assert_eq!(report.tickets, [id]);
    let removed = report.removed;
    assert_eq!((removed.tickets, removed.messages, removed.files, removed.drafts), (1, 5, 1, 1));
    assert_eq!((removed.decisions, removed.events, removed.unsent), (1, 5, 2));
    assert_eq!(tables_with_canary(&test).await, [""; 0]);
    assert_eq!(files_with_canary(&test), [""; 0]);

    assert!(matches!(test.store.ticket(id).await, Err(StoreError::NotFound(_))));
    assert!(test.store.claim_outbox(10, 1).await.unwrap().is_empty(), "nothing of theirs is sent");
    assert!(matches!(erase(&test, CUSTOMER, erasure(false)).await, Err(StoreError::NotFound(_))));
    let late = test.store.add_message(id, Author::Customer, "hola".into(), None).await;
    assert!(matches!(late, Err(StoreError::NotFound(_))), "{late:?}");
    let late = test.store.append_event(id, "draft", &json!({ "text": CANARY })).await;
    assert!(matches!(late, Err(StoreError::NotFound(_))), "{late:?}");

    let late = test.store.save_draft(id, &draft(DraftKind::Extractive)).await;
    assert!(matches!(late, Err(StoreError::NotFound(_))), "{late:?}");

    // The other one's ticket is whole but for the quotes.
    let view = test.store.ticket_view(other).await.unwrap();
    assert_eq!((view.messages.len(), view.drafts.len()), (1, 1));
    assert_eq!((view.evidence[0].text.as_str(), view.evidence[0].memory_id.as_str()), ("", memory_id(id).as_str()));
    assert_eq!(test.store.verify_audit(None).await.unwrap().broken, None);
    let trail: Vec<String> = sqlx::query_scalar("SELECT detail FROM audit WHERE action = 'customer erased'")
        .fetch_all(&test.store.reader)
        .await
        .unwrap();
    assert!(trail.len() == 1 && trail[0].contains(&id.to_string()) && !trail[0].contains(CUSTOMER), "{trail:?}");
}

#[tokio::test]
async fn no_line_of_the_audit_trail_names_a_customer() {
    let test = TestStore::new().await;
    let (id, _) = filled(&test).await;
    let second = test.store.accept_ticket(NewTicket { idempotency: None, ..canary_ticket() }).await.unwrap();
    test.store.merge(second.ticket.id, id, "Ana").await.unwrap();
    let content = test.content().await;
    let (_, lines) = content.iter().find(|(table, _)| table == "audit").unwrap();
    assert!(lines.len() > 8);
    assert!(lines.iter().all(|line| !line.contains(CANARY)), "{lines:?}");
}

#[tokio::test]
async fn figures_stay_where_they_are_wanted() {
    for keep in [true, false] {
        let test = TestStore::new().await;
        filled(&test).await;
        let days = test.store.figures_by_day(3).await.unwrap();
        let queues = test.store.figures_by_queue().await.unwrap();
        let edited: u64 = days.iter().map(|day| day.edited).sum();
        assert_eq!(edited, 1);
        erase(&test, CUSTOMER, erasure(keep)).await.unwrap();
        assert_eq!(test.store.figures_by_day(3).await.unwrap() == days, keep);
        let after = test.store.figures_by_queue().await.unwrap();
        let asked = |queues: &[crate::store::QueueFigures]| queues.iter().map(|queue| queue.asked).sum::<u64>();
        assert_eq!(asked(&queues) - asked(&after), u64::from(!keep));
        assert_eq!(after.iter().map(|queue| queue.waiting).sum::<u64>(), 1, "the other one's");
    }
}

#[tokio::test]
async fn merged_duplicates_go_together_and_an_anonymous_ticket_by_its_id() {
    let test = TestStore::new().await;
    let anonymous = NewTicket { customer: None, ..new_ticket("sin nombre") };
    let first = test.store.accept_ticket(canary_ticket()).await.unwrap().ticket.id;
    let nameless = test.store.accept_ticket(anonymous.clone()).await.unwrap().ticket.id;
    test.store.merge(first, nameless, "Ana").await.unwrap();
    let alone = test.store.accept_ticket(anonymous).await.unwrap().ticket.id;
    let other = test.accept("de otra persona").await.ticket.id;
    assert_eq!(erase(&test, CUSTOMER, erasure(false)).await.unwrap().tickets, [first, nameless]);
    assert_eq!(erase(&test, &alone.to_string(), erasure(false)).await.unwrap().tickets, [alone]);
    let named = erase(&test, &other.to_string(), erasure(false)).await;
    assert!(matches!(named, Err(StoreError::NotFound(_))), "a ticket that names its customer is not anonymous");
    assert_eq!(test.count("tickets").await, 1);
}

#[tokio::test]
async fn who_was_erased_is_known_again_only_by_older_tickets() {
    let test = TestStore::new().await;
    test.store.accept_ticket(canary_ticket()).await.unwrap();
    let erased = erase(&test, CUSTOMER, erasure(false)).await.unwrap();
    assert_ne!(erased.customer_hash, crate::store::sha256_hex(CUSTOMER), "salted");
    assert_eq!(test.store.erased_before().await.unwrap(), []);
    // Told apart by milliseconds.
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let back = test.store.accept_ticket(canary_ticket()).await.unwrap().ticket.id;
    assert_eq!(test.store.erased_before().await.unwrap(), [], "they came back by themselves");
    // As in a backup from before.
    let mut tx = test.store.write().await.unwrap();
    sqlx::query("UPDATE tickets SET created_at = 1").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let found = test.store.erased_before().await.unwrap();
    assert_eq!(found.len(), 1);
    let (customer, until) = (found[0].0.as_str(), Some(found[0].1));
    assert_eq!(customer, CUSTOMER);
    let newer = test.store.accept_ticket(NewTicket { idempotency: None, ..canary_ticket() }).await.unwrap().ticket.id;
    let again = erase(&test, customer, Erasure { until, ..erasure(false) }).await.unwrap();
    assert_eq!(again.tickets, [back]);
    assert!(test.store.ticket(newer).await.is_ok(), "what came after stays");
}

#[tokio::test]
async fn what_was_learned_is_forgotten_by_id_and_the_rest_stays() {
    let test = TestStore::new().await;
    let items = [item("ticket-a", "one"), item("ticket-b", "two")];
    let hashes = items.each_ref().map(|item| content_hash(item).unwrap());
    test.store.put_items(&items, &hashes).await.unwrap();
    assert_eq!(test.store.newest_item().await.unwrap(), 2);
    let gone = ["ticket-a".to_owned(), "ticket-c".to_owned()];
    assert_eq!(test.store.forget_learned(&gone).await.unwrap(), 1);
    assert_eq!(test.count("memory_items").await, 1);
    assert_eq!(test.store.blank_evidence_of(&gone).await.unwrap(), 0);
}
