//! After any error nothing of the call is left, and the store goes on.

use sqlx::Connection;

use super::*;
use crate::store::content_hash;
use crate::ticket::Author;

#[tokio::test]
async fn a_second_opener_is_told_which_folder_and_what_to_do() {
    let test = TestStore::in_file().await;
    let Err(error) = Store::open(test.path()).await else { panic!("the folder was not locked") };
    assert!(matches!(&error, StoreError::Locked(path) if path == test.path()));
    let text = error.to_string();
    assert!(text.contains(&test.path().display().to_string()) && text.contains("--data"), "{text}");

    let accepted = test.accept("hola").await;
    let reader = Store::open_shared(test.path()).await.unwrap();
    assert_eq!(reader.stats().await.unwrap().tickets, 1);
    let refused = reader.add_message(accepted.ticket.id, Author::Note, "x".into(), None).await;
    assert!(matches!(refused, Err(StoreError::ReadOnly)));
    reader.close().await;
    let TestStore { store, dir } = test;
    store.close().await;
    drop(store);
    // After an orderly end there is no log left; reading works all the same.
    assert_eq!(Store::open_shared(dir.path()).await.unwrap().stats().await.unwrap().tickets, 1);
    Store::open(dir.path()).await.unwrap();
}

#[tokio::test]
async fn an_empty_folder_has_nothing_to_read() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Store::open_shared(dir.path()).await, Err(StoreError::NotFound(_))));
    assert!(matches!(Store::open_shared(&dir.path().join("missing")).await, Err(StoreError::NotFound(_))));
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(matches!(Store::open(&file).await, Err(StoreError::Other(_))));
    std::fs::write(dir.path().join(crate::store::DATABASE_FILE), "this is no database, ".repeat(100)).unwrap();
    assert!(matches!(Store::open(dir.path()).await, Err(StoreError::Other(_))));
}

#[tokio::test]
async fn the_audit_trail_cannot_be_changed() {
    let test = TestStore::new().await;
    test.accept("hola").await;
    let before = test.content().await;
    for query in ["UPDATE audit SET actor = 'nobody'", "DELETE FROM audit"] {
        let error = sqlx::query(query).execute(&test.store.writer).await.unwrap_err();
        assert!(error.to_string().contains("audit trail"), "{error}");
    }
    assert_eq!(test.content().await, before);
}

/// Every writing call, refused at every table it writes to.
#[tokio::test]
async fn a_call_that_fails_half_way_leaves_nothing() {
    let test = TestStore::in_file().await;
    let received = test.accept("hola").await;
    test.store.save_draft(received.ticket.id, &draft(DraftKind::Extractive)).await.unwrap();
    let (_, open_draft) = test.in_review(DraftKind::Generated).await;
    let tables =
        ["customers", "tickets", "messages", "drafts", "decisions", "outcomes", "outbox", "idempotency_keys", "audit"];
    let before = test.content().await;
    let mut refusals = 0;
    for table in tables {
        for event in ["INSERT", "UPDATE"] {
            let trigger =
                format!("CREATE TRIGGER fault BEFORE {event} ON {table} BEGIN SELECT RAISE(ABORT, 'fault'); END");
            sqlx::query(&trigger).execute(&test.store.writer).await.unwrap();
            refusals += attempt_everything(&test, &received, open_draft, &before).await;
            sqlx::query("DROP TRIGGER fault").execute(&test.store.writer).await.unwrap();
        }
    }
    // Writes to distinct tables: accepting 5, adding a message 6, finishing 6, resolving 7 (a message is
    // signed), saving a draft 2.
    assert_eq!(refusals, 26, "another number of writes can fail: was one added or lost?");
}

/// Tries every call that writes several tables, each on a copy of its own, since a call that misses the fault succeeds. One
/// that fails must leave the content as it was. Returns the number of failures.
async fn attempt_everything(
    test: &TestStore,
    received: &Accepted,
    open_draft: Uuid,
    before: &[(String, Vec<String>)],
) -> usize {
    let mut refusals = 0;
    for call in 0..5 {
        let copy = copy_of(test).await;
        let store = &copy.store;
        let id = received.ticket.id;
        let failed = match call {
            0 => {
                let customer = Some("someone new".to_owned());
                let new = NewTicket { customer, idempotency: key("k", "1"), ..new_ticket("x") };
                store.accept_ticket(new).await.is_err()
            }
            1 => store.add_message(id, Author::Agent, "x".into(), key("k", "1")).await.is_err(),
            2 => {
                let decision = decision(Action::Acknowledge, false);
                let work =
                    FinishedWork { decision, outgoing: Some("x".into()), ..work(received, TicketState::Escalated) };
                store.finish(id, work).await.is_err()
            }
            3 => store.resolve_draft(open_draft, review(Outcome::Edited, Some("x"))).await.is_err(),
            _ => store.save_draft(id, &draft(DraftKind::Generated)).await.is_err(),
        };
        if failed {
            refusals += 1;
            assert_eq!(copy.content().await, before, "call {call}");
        }
    }
    refusals
}

async fn copy_of(test: &TestStore) -> TestStore {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(crate::store::DATABASE_FILE).display().to_string();
    sqlx::query("VACUUM INTO $1").bind(path).execute(&test.store.writer).await.unwrap();
    TestStore { store: Store::open(dir.path()).await.unwrap(), dir }
}

#[tokio::test]
async fn a_full_disk_is_named_and_leaves_nothing() {
    let test = TestStore::in_file().await;
    let accepted = test.accept("hola").await;
    let pages: i64 = sqlx::query_scalar("PRAGMA page_count").fetch_one(&test.store.writer).await.unwrap();
    // With so few pages left the disk is full at a different statement each time.
    for spare in 0..6 {
        let before = test.content().await;
        let limit = format!("PRAGMA max_page_count = {}", pages + spare);
        sqlx::query(&limit).execute(&test.store.writer).await.unwrap();
        let body = "¡no cabe! ".repeat(5_000);
        let refused = test.store.accept_ticket(NewTicket { idempotency: key("k", "1"), ..new_ticket(&body) }).await;
        assert!(matches!(refused, Err(StoreError::DiskFull)), "{spare} pages: {refused:?}");
        assert_eq!(test.content().await, before);
        let items = [item("a", &body), item("b", &body)];
        let hashes = items.each_ref().map(|item| content_hash(item).unwrap());
        assert!(matches!(test.store.put_items(&items, &hashes).await, Err(StoreError::DiskFull)));
        assert_eq!(test.content().await, before);
        assert_eq!(test.store.ticket(accepted.ticket.id).await.unwrap(), accepted.ticket);
    }
    // Space again: the connection that failed may have been replaced, and with it the limit.
    sqlx::query("PRAGMA max_page_count = 4294967294").execute(&test.store.writer).await.unwrap();
    let retried = NewTicket { idempotency: key("k", "1"), ..new_ticket("cabe") };
    assert!(!test.store.accept_ticket(retried).await.unwrap().replayed);
}

#[tokio::test]
async fn a_connection_that_sqlite_rolled_back_is_replaced() {
    let test = TestStore::in_file().await;
    let mut tx = test.store.write().await.unwrap();
    // What SQLite does by itself on a full disk or an I/O error.
    sqlx::query("ROLLBACK").execute(&mut *tx).await.unwrap();
    assert!(tx.is_in_transaction(), "sqlx does not notice");
    drop(tx);
    test.accept("hola").await;
    assert_eq!(test.count("tickets").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_leaves_all_or_nothing() {
    let test = TestStore::new().await;
    for micros in (0..4_000).step_by(100) {
        let store = test.store.clone();
        let caller = tokio::spawn(async move { store.accept_ticket(new_ticket("x")).await });
        tokio::time::sleep(std::time::Duration::from_micros(micros)).await;
        caller.abort();
        let _ = caller.await;
    }
    test.accept("the last").await;
    let tickets = test.count("tickets").await;
    assert_eq!((test.count("messages").await, test.count("audit").await), (tickets, tickets));
}
