//! API keys: what is kept of them, how they end, and what the trail says of them.

use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::store::{ApiKey, KeyProblem, KeyScope, KeyState, NewKey, has_key_form, sha256_hex};

const HOUR: Duration = Duration::from_secs(3_600);

fn new_key(name: &str, scopes: &[KeyScope]) -> NewKey {
    NewKey {
        name: name.to_owned(),
        scopes: scopes.to_vec(),
        customer: None,
        requests_per_minute: None,
        expires_at: None,
    }
}

async fn found(test: &TestStore, key: &str) -> ApiKey {
    test.store.key_by_sha256(&sha256_hex(key)).await.unwrap().expect("a key")
}

fn state(key: &ApiKey) -> KeyState {
    key.state(Timestamp::now())
}

#[tokio::test]
async fn a_key_is_found_by_its_hash_and_stands_nowhere() {
    let test = TestStore::new().await;
    assert!(!test.store.has_keys().await.unwrap());
    let day = Timestamp::now().checked_add(24 * HOUR).unwrap();
    let new = NewKey {
        customer: Some("c-1".into()),
        requests_per_minute: Some(30),
        expires_at: Some(day),
        ..new_key("  shop ", &[KeyScope::Tickets, KeyScope::Tickets])
    };
    let issued = test.store.add_key(new, "Ana").await.unwrap();
    assert!(has_key_form(&issued.key) && issued.key.len() == 47, "{}", issued.key);
    assert_eq!(found(&test, &issued.key).await, issued.record);
    assert_eq!(test.store.keys().await.unwrap(), std::slice::from_ref(&issued.record));
    assert_eq!(test.store.key_by_id(issued.record.id).await.unwrap(), Some(issued.record.clone()));
    let record = &issued.record;
    assert_eq!((record.name.as_str(), record.scopes.as_slice()), ("shop", &[KeyScope::Tickets][..]));
    assert_eq!((record.customer.as_deref(), record.requests_per_minute), (Some("c-1"), Some(30)));
    assert_eq!((record.created_by.as_str(), state(record)), ("Ana", KeyState::Active));
    assert_eq!(test.store.key_by_sha256(&sha256_hex("rsp_other")).await.unwrap(), None);
    assert!(test.store.has_keys().await.unwrap() && test.store.has_active_key().await.unwrap());
    let random = issued.key.trim_start_matches("rsp_");
    let content = format!("{:?}", test.content().await);
    assert!(!content.contains(random) && content.contains(&sha256_hex(&issued.key)));
    assert!(!format!("{issued:?}").contains(random));
    let other = test.store.add_key(new_key("other", &[KeyScope::All]), "Ana").await.unwrap();
    assert_ne!(other.key, issued.key);
}

#[tokio::test]
async fn what_cannot_be_a_key_is_refused_and_leaves_nothing() {
    let test = TestStore::new().await;
    let past = Timestamp::now().checked_sub(HOUR).ok();
    let bound =
        |customer: &str, scopes: &[KeyScope]| NewKey { customer: Some(customer.into()), ..new_key("x", scopes) };
    for (new, problem) in [
        (new_key(" ", &[KeyScope::All]), KeyProblem::Name),
        (new_key(&"x".repeat(81), &[KeyScope::All]), KeyProblem::Name),
        (new_key("a\nb", &[KeyScope::All]), KeyProblem::Name),
        (new_key("01890000-0000-7000-8000-000000000000", &[KeyScope::All]), KeyProblem::Name),
        (new_key("x", &[]), KeyProblem::NoScope),
        (bound("", &[KeyScope::Tickets]), KeyProblem::Customer),
        (bound("c", &[KeyScope::All]), KeyProblem::CustomerScopes),
        (bound("c", &[KeyScope::Tickets, KeyScope::Search]), KeyProblem::CustomerScopes),
        (NewKey { expires_at: past, ..new_key("x", &[KeyScope::All]) }, KeyProblem::Expiry),
    ] {
        assert_eq!(new.clone().checked().expect_err("refused"), problem);
        let refused = test.store.add_key(new, "Ana").await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{problem:?}: {refused:?}");
    }
    assert_eq!((test.count("api_keys").await, test.count("audit").await), (0, 0));
}

#[tokio::test]
async fn a_rotated_key_ends_after_the_overlap_and_keeps_its_rights() {
    let test = TestStore::new().await;
    let in_two_hours = Timestamp::now().checked_add(2 * HOUR).unwrap();
    let new = NewKey {
        requests_per_minute: Some(7),
        expires_at: Some(in_two_hours),
        ..new_key("crm", &[KeyScope::Desk, KeyScope::Tickets])
    };
    let first = test.store.add_key(new, "Ana").await.unwrap();
    assert!(is_conflict(test.store.add_key(new_key("crm", &[KeyScope::All]), "Ana").await), "the name is in use");

    let second = test.store.rotate_key("crm", HOUR, "Ben").await.unwrap();
    let old = found(&test, &first.key).await;
    assert_eq!((state(&old), old.replaced_by), (KeyState::Active, Some(second.record.id)));
    let ends = old.expires_at.expect("an end").duration_since(Timestamp::now());
    assert!(ends.as_secs() > 0 && ends.as_secs() <= 3_600, "{ends:?}");
    let new = found(&test, &second.key).await;
    assert_eq!(
        (&new.name, &new.scopes, new.requests_per_minute),
        (&old.name, &vec![KeyScope::Tickets, KeyScope::Desk], Some(7))
    );
    let life = |key: &ApiKey, end: Timestamp| end.as_millisecond() - key.created_at.as_millisecond();
    assert_eq!(life(&new, new.expires_at.unwrap()), life(&first.record, first.record.expires_at.unwrap()));

    // By its name the current one is meant; the one that was replaced is not rotated again.
    assert!(is_conflict(test.store.rotate_key(&first.record.id.to_string(), HOUR, "Ben").await));
    let third = test.store.rotate_key("crm", Duration::ZERO, "Ben").await.unwrap();
    assert_eq!(state(&found(&test, &second.key).await), KeyState::Expired, "no overlap");
    assert_eq!(state(&found(&test, &first.key).await), KeyState::Active);
    assert_eq!(found(&test, &third.key).await.replaced_by, None);
    assert!(matches!(test.store.rotate_key("nothing", HOUR, "Ben").await, Err(StoreError::NotFound(_))));
}

#[tokio::test]
async fn revoking_a_name_ends_every_key_of_it_and_frees_the_name() {
    let test = TestStore::new().await;
    let first = test.store.add_key(new_key("crm", &[KeyScope::All]), "Ana").await.unwrap();
    let second = test.store.rotate_key("crm", HOUR, "Ana").await.unwrap();
    let apart = test.store.add_key(new_key("shop", &[KeyScope::All]), "Ana").await.unwrap();
    let ended = test.store.revoke_keys("crm", "Ben").await.unwrap();
    assert_eq!(ended.iter().map(|key| key.id).collect::<Vec<_>>(), [first.record.id, second.record.id]);
    for key in [&first, &second] {
        assert_eq!(state(&found(&test, &key.key).await), KeyState::Revoked);
    }
    assert_eq!(state(&found(&test, &apart.key).await), KeyState::Active);
    assert!(is_conflict(test.store.revoke_keys("crm", "Ben").await), "once is enough");
    assert!(is_conflict(test.store.rotate_key("crm", HOUR, "Ben").await), "what is over is not rotated");
    assert!(matches!(test.store.revoke_keys("nothing", "Ben").await, Err(StoreError::NotFound(_))));
    test.store.add_key(new_key("crm", &[KeyScope::All]), "Ana").await.unwrap();
    assert_eq!(test.store.revoke_keys(&apart.record.id.to_string(), "Ben").await.unwrap().len(), 1);

    // The trail says who did what, in a chain.
    let actions: Vec<(String, String)> =
        sqlx::query_as("SELECT actor, action FROM audit ORDER BY id").fetch_all(&test.store.writer).await.unwrap();
    let said = |number: usize| (actions[number].0.as_str(), actions[number].1.as_str());
    assert_eq!(actions.len(), 7);
    assert_eq!([said(0), said(1), said(2)], [("Ana", "key added"), ("Ana", "key rotated"), ("Ana", "key added")]);
    assert_eq!([said(3), said(4), said(6)], [("Ben", "key revoked"); 3]);
    assert_eq!(test.store.verify_audit(None).await.unwrap().broken, None);
}

#[tokio::test]
async fn keys_that_are_over_leave_the_api_closed() {
    let test = TestStore::new().await;
    assert!(!test.store.has_active_key().await.unwrap());
    test.store.add_key(new_key("crm", &[KeyScope::All]), "Ana").await.unwrap();
    test.store.revoke_keys("crm", "Ana").await.unwrap();
    assert!(!test.store.has_active_key().await.unwrap() && test.store.has_keys().await.unwrap());
}

#[tokio::test]
async fn the_last_use_is_written_once_a_minute() {
    let test = TestStore::new().await;
    let key = test.store.add_key(new_key("crm", &[KeyScope::All]), "Ana").await.unwrap();
    let id = key.record.id;
    assert_eq!(key.record.last_used_at, None);
    test.store.note_key_use(id).await.unwrap();
    let used = found(&test, &key.key).await.last_used_at.expect("used");
    test.store.note_key_use(id).await.unwrap();
    let again = found(&test, &key.key).await.last_used_at.expect("used");
    let elapsed = again.duration_since(used).as_secs();
    assert!(elapsed == 0 || elapsed >= 60, "{elapsed}");
    let long_ago = used.as_millisecond() - 61_000;
    let aged = "UPDATE api_keys SET last_used_at = $1 WHERE id = $2";
    sqlx::query(aged).bind(long_ago).bind(id.to_string()).execute(&test.store.writer).await.unwrap();
    test.store.note_key_use(id).await.unwrap();
    assert!(found(&test, &key.key).await.last_used_at.expect("used") >= used);
}

#[test]
fn keys_are_known_by_their_form() {
    assert!(has_key_form(&format!("rsp_{}", "aZ0-_".repeat(9).split_at(43).0)));
    for other in ["", "rsp_", "a-key-of-the-settings", &"a".repeat(47), &format!("rsp_{}", "é".repeat(22))] {
        assert!(!has_key_form(other), "{other}");
    }
}
