//! Merging a duplicate into another ticket.

use super::*;
use crate::store::{AuditRow, DeskFilter, DraftStatus, Scope};
use crate::ticket::{Author, Message};

#[tokio::test]
async fn a_duplicates_messages_and_its_customer_go_on_in_the_other_ticket() {
    let test = TestStore::new().await;
    let first = test.accept("uno").await;
    let second = test.accept("dos").await;
    let (to, from) = (first.ticket.id, second.ticket.id);
    test.store.finish(to, work(&first, TicketState::Answered)).await.unwrap();
    test.store.add_message(to, Author::Customer, "tres".into(), None).await.unwrap();
    test.store.add_message(to, Author::Agent, "cuatro".into(), key("k", "sha")).await.unwrap();
    test.store.add_message(from, Author::Customer, "seis".into(), key("before", "sha")).await.unwrap();
    test.store.save_draft(from, &draft(DraftKind::Generated)).await.unwrap();

    let merged = test.store.merge(from, to, "Ana").await.unwrap();
    assert_eq!((merged.id, merged.state), (to, TicketState::Received), "the last word is the customer's");
    let bodies = |messages: Vec<Message>| messages.into_iter().map(|m| m.body).collect::<Vec<_>>();
    assert_eq!(
        bodies(test.store.messages(to).await.unwrap()),
        ["uno", "dos", "tres", "cuatro", "seis"],
        "by their time"
    );
    assert!(test.store.messages(from).await.unwrap().is_empty());
    let view = test.store.ticket_view(from).await.unwrap();
    assert_eq!(view.ticket.state, TicketState::Discarded);
    assert_eq!(view.drafts[0].status, DraftStatus::Superseded);
    assert_eq!(test.store.handling(from).await.unwrap().merged_into, Some(to));
    assert_eq!((test.store.survivor(from).await.unwrap(), test.store.survivor(to).await.unwrap()), (to, to));
    let told = |rows: Vec<AuditRow>| rows.iter().filter(|row| row.action == "merged").count();
    assert_eq!(told(test.store.audit_trail(from).await.unwrap()), 1);
    assert_eq!(told(test.store.audit_trail(to).await.unwrap()), 1);

    // The customer still has the duplicate's link, and may repeat what was said before.
    let again = test.store.add_message(from, Author::Customer, "seis".into(), key("before", "sha")).await.unwrap();
    assert!(again.replayed, "{again:?}");
    let more = test.store.add_message(from, Author::Customer, "cinco".into(), None).await.unwrap();
    assert_eq!((more.ticket.id, more.ticket.state), (to, TicketState::Received));
    assert_eq!(test.store.messages(to).await.unwrap().len(), 6);
    let words = DeskFilter { scope: Scope::All, search: Some("dos".into()), ..DeskFilter::default() };
    let found = test.store.desk_rows(&words).await.unwrap();
    assert_eq!(found.iter().map(|row| row.ticket.id).collect::<Vec<_>>(), [to]);
}

#[tokio::test]
async fn an_open_question_is_worked_on_and_a_chain_of_duplicates_ends_in_one_ticket() {
    let test = TestStore::new().await;
    let tickets = [test.accept("uno").await, test.accept("dos").await, test.accept("tres").await];
    let [a, b, c] = tickets.each_ref().map(|accepted| accepted.ticket.id);
    test.store.finish(a, work(&tickets[0], TicketState::Review)).await.unwrap();
    assert_eq!(test.store.merge(b, a, "Ana").await.unwrap().state, TicketState::Received);
    // Into a duplicate means into the ticket that has its conversation.
    assert_eq!(test.store.merge(c, b, "Ana").await.unwrap().id, a);
    assert_eq!(test.store.messages(a).await.unwrap().len(), 3);
    assert!(is_conflict(test.store.merge(b, c, "Ana").await), "merged before");
    assert!(matches!(test.store.merge(a, b, "Ana").await, Err(StoreError::Invalid(_))), "into itself by a detour");
    assert!(matches!(test.store.merge(a, Uuid::now_v7(), "Ana").await, Err(StoreError::NotFound(_))));
}

#[tokio::test]
async fn customers_never_read_each_others_words() {
    let test = TestStore::new().await;
    let ana = test.accept("uno").await.ticket.id;
    let other = NewTicket { customer: Some("ben@example.org".into()), ..new_ticket("dos") };
    let ben = test.store.accept_ticket(other).await.unwrap().ticket.id;
    let before = test.content().await;
    assert!(is_conflict(test.store.merge(ben, ana, "Ana").await));
    assert_eq!(test.content().await, before);
    let nameless = NewTicket { customer: None, ..new_ticket("tres") };
    let nameless = test.store.accept_ticket(nameless).await.unwrap().ticket.id;
    assert_eq!(test.store.merge(nameless, ana, "Ana").await.unwrap().id, ana);
}
