//! The audit trail's chain: whole after every kind of write, and broken where somebody laid hands on it.

use serde_json::json;

use super::*;
use crate::store::{Audit, AuditCheck, AuditHead, write_audit};
use crate::ticket::Author;

/// A trail of several kinds of lines, with texts that an encoding could stumble over.
async fn trail() -> TestStore {
    let test = TestStore::new().await;
    let (first, draft_id) = test.in_review(DraftKind::Extractive).await;
    let second = test.accept("dos").await;
    test.store.add_message(first.ticket.id, Author::Note, "nota".into(), None).await.unwrap();
    test.store.resolve_draft(draft_id, review(Outcome::Approved, None)).await.unwrap();
    test.store.merge(second.ticket.id, first.ticket.id, "Ana \"la\" Ñ\n\u{1}").await.unwrap();
    test
}

async fn check(test: &TestStore) -> AuditCheck {
    test.store.verify_audit(None).await.unwrap()
}

/// What somebody does who has the database and knows SQL.
async fn tamper(test: &TestStore, statements: &[&str]) {
    let unlock: &[&str] = match test.store.dialect {
        Dialect::Sqlite => &["DROP TRIGGER IF EXISTS audit_no_update", "DROP TRIGGER IF EXISTS audit_no_delete"],
        Dialect::Postgres => &["DROP TRIGGER IF EXISTS audit_no_change ON audit"],
    };
    for statement in unlock {
        sqlx::query(statement).execute(&test.store.writer).await.unwrap();
    }
    for statement in statements {
        let done = sqlx::query(statement).execute(&test.store.writer).await.unwrap();
        assert!(done.rows_affected() > 0, "{statement}");
    }
}

/// The first broken line after a tampering, and what is said of it.
async fn broken_by(statements: &[&str]) -> (i64, String) {
    let test = trail().await;
    tamper(&test, statements).await;
    let broken = check(&test).await.broken.unwrap_or_else(|| panic!("not found: {statements:?}"));
    // It is also found when the service has gone on.
    test.accept("tres").await;
    assert_eq!(check(&test).await.broken.map(|later| later.id), Some(broken.id), "{statements:?}");
    (broken.id, broken.reason)
}

#[tokio::test]
async fn every_kind_of_write_goes_on_with_the_chain() {
    let test = TestStore::new().await;
    assert_eq!(check(&test).await, AuditCheck::default());
    let test = trail().await;
    let found = check(&test).await;
    let lines = u64::try_from(test.count("audit").await).unwrap();
    assert!(lines >= 6, "{lines}");
    assert_eq!((found.lines, found.unchained, found.broken), (lines, 0, None));
    // Beside the writer, and with every head that was ever noted.
    let beside = test.shared().await;
    for (id, hash) in sqlx::query_as("SELECT id, hash FROM audit").fetch_all(&test.store.reader).await.unwrap() {
        let noted = AuditHead { id, hash };
        assert_eq!(noted.to_string().parse::<AuditHead>().unwrap(), noted);
        assert_eq!(beside.verify_audit(Some(&noted)).await.unwrap().broken, None);
    }
}

/// Values from another program (Python's `json` and `hashlib`): trails that exist must stay readable.
#[tokio::test]
async fn the_encoding_stays_as_it_is() {
    let test = TestStore::new().await;
    let mut tx = test.store.write().await.unwrap();
    let subject = Some("a\nb\u{1}".to_owned());
    let first = Audit { actor: "Ana \"la\" Ñ", action: "merged", ticket_id: None, subject, detail: json!({ "b": 1 }) };
    write_audit(&mut tx, first, 1_700_000_000_000).await.unwrap();
    let ticket_id = Some("01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap());
    let second = Audit { actor: "respondo", action: "decided", ticket_id, subject: None, detail: json!({}) };
    write_audit(&mut tx, second, 1_700_000_000_001).await.unwrap();
    tx.commit().await.unwrap();
    let hashes: Vec<String> =
        sqlx::query_scalar("SELECT hash FROM audit ORDER BY id").fetch_all(&test.store.reader).await.unwrap();
    assert_eq!(
        hashes,
        [
            "d30e31e26cccc4df0d87424aab30bc683079c849131e14d3933611139b9bbc71",
            "20b399cd321d58d64eda12ca0bfd25081d668db13fe922cb20a27b0ea7b1d8f7"
        ]
    );
    assert_eq!(check(&test).await.broken, None);
}

#[tokio::test]
async fn a_change_of_any_column_is_found() {
    for change in [
        "created_at = created_at + 1",
        "actor = 'nobody'",
        "actor = 'respondo '",
        "action = action || ' '",
        "ticket_id = NULL",
        "ticket_id = subject, subject = ticket_id",
        "subject = ''",
        "detail = '{}'",
        "hash = '0000000000000000000000000000000000000000000000000000000000000000'",
        "hash = NULL",
    ] {
        let (id, reason) = broken_by(&[&format!("UPDATE audit SET {change} WHERE id = 3")]).await;
        assert_eq!(id, 3, "{change}: {reason}");
    }
}

#[tokio::test]
async fn lines_that_were_deleted_moved_or_inserted_are_found() {
    let (id, reason) = broken_by(&["DELETE FROM audit WHERE id IN (2, 3)"]).await;
    assert_eq!(id, 4);
    assert!(reason.contains("after 1 ") && reason.contains("missing"), "{reason}");
    assert_eq!(broken_by(&["DELETE FROM audit WHERE id = 1"]).await.0, 2);
    let swap = ["UPDATE audit SET id = -id WHERE id IN (2, 3)", "UPDATE audit SET id = 5 + id WHERE id < 0"];
    assert_eq!(broken_by(&swap).await.0, 2);
    let columns = "created_at, actor, action, ticket_id, subject, detail, hash";
    let copy = |id: i64| format!("INSERT INTO audit (id, {columns}) SELECT {id}, {columns} FROM audit WHERE id = 1");
    assert_eq!(broken_by(&[&copy(0)]).await.0, 0);
    assert_eq!(broken_by(&[&copy(-7)]).await.0, -7);
    let (id, _) = broken_by(&["UPDATE audit SET id = 2000 + id WHERE id > 2", &copy(3)]).await;
    assert_eq!(id, 3);
    let test = trail().await;
    let last = test.count("audit").await;
    let bare = format!(
        "INSERT INTO audit (id, created_at, actor, action, detail) VALUES ({}, 1, 'nobody', 'x', '{{}}')",
        last + 1
    );
    assert_eq!(broken_by(&[&bare]).await.0, last + 1);
}

#[tokio::test]
async fn lines_from_before_the_chain_are_counted_and_covered_by_its_first() {
    let old = "INSERT INTO audit (id, created_at, actor, action, detail) \
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500) \
         SELECT i, i, 'customer', 'ticket accepted', '{}' FROM n";
    let test = TestStore::new().await;
    sqlx::query(old).execute(&test.store.writer).await.unwrap();
    let before = check(&test).await;
    assert_eq!((before.lines, before.unchained, &before.broken), (1_500, 1_500, &None));
    for body in ["uno", "dos"] {
        test.accept(body).await;
    }
    let after = test.store.verify_audit(before.head.as_ref()).await.unwrap();
    assert_eq!((after.lines, after.unchained, &after.broken), (1_502, 1_500, &None));

    tamper(&test, &["UPDATE audit SET actor = 'nobody' WHERE id = 700"]).await;
    let broken = check(&test).await.broken.unwrap();
    assert_eq!(broken.id, 1_501);
    assert!(broken.reason.contains("1500 lines without a hash"), "{}", broken.reason);
}

#[tokio::test]
async fn an_end_that_was_cut_off_is_found_by_a_noted_head() {
    let test = trail().await;
    let noted = check(&test).await.head.unwrap();
    tamper(&test, &[&format!("DELETE FROM audit WHERE id = {}", noted.id)]).await;
    assert_eq!(check(&test).await.broken, None, "the chain alone cannot show it");
    let verify = || async { test.store.verify_audit(Some(&noted)).await.unwrap().broken.unwrap() };
    let broken = verify().await;
    assert_eq!(broken.id, noted.id);
    assert!(broken.reason.contains("not there"), "{}", broken.reason);
    // Another line in its place does not hide it.
    test.accept("tres").await;
    assert_eq!(check(&test).await.broken, None);
    let broken = verify().await;
    assert_eq!(broken.id, noted.id);
    assert!(broken.reason.contains("written anew"), "{}", broken.reason);
}

#[test]
fn what_is_no_head_is_refused() {
    let hash = "0123456789abcdef".repeat(4);
    assert_eq!(format!("7:{}", hash.to_uppercase()).parse::<AuditHead>().unwrap(), AuditHead { id: 7, hash });
    for text in ["", "7", "7:", ":", "7:abc", &format!("x:{}", "a".repeat(64)), &format!("7:{}", "g".repeat(64))] {
        assert!(text.parse::<AuditHead>().unwrap_err().to_string().contains("ID:HASH"), "{text}");
    }
}
