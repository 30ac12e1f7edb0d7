//! Files beside messages: kept with them or not at all, and given back byte by byte.

use super::*;
use crate::store::NewAttachment;
use crate::ticket::Author;

fn file(name: &str, content: &[u8]) -> NewAttachment {
    NewAttachment { name: name.into(), media_type: "image/png", content: content.to_vec() }
}

#[tokio::test]
async fn files_come_with_their_message_and_are_given_back_whole() {
    let test = TestStore::new().await;
    let all_bytes: Vec<u8> = (0..=255).collect();
    let first = vec![file("a.png", &all_bytes), file("b.png", b"b")];
    let accepted = test.store.accept_ticket_with(new_ticket("mira"), first).await.unwrap();
    let id = accepted.ticket.id;
    let more = test
        .store
        .add_message_with(id, Author::Customer, "otra".into(), None, vec![file("c.png", b"c")])
        .await
        .unwrap();
    let kept = test.store.attachments(id).await.unwrap();
    let seen: Vec<_> = kept.iter().map(|row| (row.name.as_str(), row.size, row.message_id)).collect();
    let (one, two) = (accepted.message.id, more.message.id);
    assert_eq!(seen, [("a.png", 256, one), ("b.png", 1, one), ("c.png", 1, two)]);
    assert_eq!((&kept[..2], &kept[2..]), (&accepted.files[..], &more.files[..]));
    let (row, content) = test.store.attachment(kept[0].id).await.unwrap();
    assert_eq!((row.media_type.as_str(), content), ("image/png", all_bytes));
    assert!(matches!(test.store.attachment(Uuid::now_v7()).await, Err(StoreError::NotFound(_))));
    let other = test.accept("sin nada").await;
    assert_eq!(test.store.attachments(other.ticket.id).await.unwrap(), []);
}

#[tokio::test]
async fn a_message_that_is_not_kept_leaves_no_file() {
    let test = TestStore::new().await;
    let nowhere = Uuid::now_v7();
    let lost =
        test.store.add_message_with(nowhere, Author::Customer, "x".into(), None, vec![file("a.png", b"a")]).await;
    assert!(matches!(lost, Err(StoreError::NotFound(_))));
    assert_eq!(test.count("attachments").await, 0);
}

#[tokio::test]
async fn a_repeated_request_keeps_its_files_once() {
    let test = TestStore::new().await;
    let request = NewTicket { idempotency: key("k", "aa"), ..new_ticket("hola") };
    for _ in 0..2 {
        test.store.accept_ticket_with(request.clone(), vec![file("a.png", b"a")]).await.unwrap();
    }
    assert_eq!(test.count("attachments").await, 1);
}

#[tokio::test]
async fn files_go_with_their_message_where_tickets_are_merged() {
    let test = TestStore::new().await;
    let kept = test.accept("mi web no carga").await.ticket.id;
    let accepted = test.store.accept_ticket_with(new_ticket("mira"), vec![file("a.png", b"a")]).await.unwrap();
    test.store.merge(accepted.ticket.id, kept, "Ana").await.unwrap();
    let moved = test.store.attachments(kept).await.unwrap();
    assert_eq!(
        moved.iter().map(|row| (row.ticket_id, row.message_id)).collect::<Vec<_>>(),
        [(kept, accepted.message.id)]
    );
    assert_eq!(test.store.attachments(accepted.ticket.id).await.unwrap(), []);
}
