use super::*;
use crate::store::ResolvedDraft;
use crate::ticket::Author;

const FINAL: &str = "Hola, Ana.\nVacíe la caché del navegador.";

async fn all_resolved(store: &Store, page: u32) -> Vec<ResolvedDraft> {
    let mut all: Vec<ResolvedDraft> = Vec::new();
    loop {
        let next = store.resolved_drafts(all.last().map(|draft| draft.draft_id), page).await.unwrap();
        if next.is_empty() {
            return all;
        }
        assert!(next.len() <= page as usize);
        all.extend(next);
    }
}

#[tokio::test]
async fn pages_hold_every_resolved_draft_once() {
    let test = TestStore::new().await;
    assert!(all_resolved(&test.store, 2).await.is_empty());
    let mut ids = Vec::new();
    let outcomes = [Outcome::Approved, Outcome::Edited, Outcome::Rejected, Outcome::Escalated, Outcome::Approved];
    for outcome in outcomes {
        let (_, draft_id) = test.in_review(DraftKind::Generated).await;
        let text = (outcome == Outcome::Edited).then_some(FINAL);
        test.store.resolve_draft(draft_id, review(outcome, text)).await.unwrap();
        ids.push(draft_id);
    }
    test.in_review(DraftKind::Generated).await;
    let found = all_resolved(&test.store, 2).await;
    assert_eq!(found.iter().map(|draft| draft.draft_id).collect::<Vec<_>>(), ids);
    assert_eq!(found.iter().map(|draft| draft.outcome).collect::<Vec<_>>(), outcomes);
    assert_eq!(found[1].final_text.as_deref(), Some(FINAL));
    assert_eq!((found[1].text.clone(), found[1].subject.as_str()), (draft(DraftKind::Generated).text, "Ayuda"));
    assert_eq!(test.store.resolved_draft(ids[2]).await.unwrap(), found[2]);
    assert!(matches!(test.store.resolved_draft(Uuid::now_v7()).await, Err(StoreError::NotFound(_))));
}

/// A ticket per draft kind and outcome; the time to a useful reply and to an answer.
#[tokio::test]
async fn what_helps_and_what_answers_are_told_apart() {
    let test = TestStore::new().await;
    let cases = [
        (DraftKind::Generated, Outcome::Approved, None, (true, true)),
        (DraftKind::Question, Outcome::Approved, None, (true, false)),
        (DraftKind::Question, Outcome::Edited, Some(FINAL), (true, false)),
        (DraftKind::Acknowledgement, Outcome::Approved, None, (false, false)),
        (DraftKind::Acknowledgement, Outcome::Edited, Some(FINAL), (true, true)),
        (DraftKind::Generated, Outcome::Rejected, None, (false, false)),
    ];
    for (kind, outcome, text, _) in &cases {
        let (_, draft_id) = test.in_review(*kind).await;
        test.store.resolve_draft(draft_id, review(*outcome, *text)).await.unwrap();
    }
    let first = test.store.ticket_courses(None, 4).await.unwrap();
    let rest = test.store.ticket_courses(first.last().map(|course| course.id), 4).await.unwrap();
    assert_eq!((first.len(), rest.len()), (4, 2));
    for (course, (kind, outcome, _, expected)) in first.iter().chain(&rest).zip(&cases) {
        let seen = (course.useful_at.is_some(), course.answered_at.is_some());
        assert_eq!(seen, *expected, "{kind:?} {outcome:?}");
        assert!(!course.reopened);
    }
}

#[tokio::test]
async fn a_ticket_is_reopened_by_what_comes_after_an_answer_only() {
    let test = TestStore::new().await;
    let accepted = test.accept("hola").await;
    let id = accepted.ticket.id;
    // Before any answer: the first acknowledgement, another message of the customer's, a note.
    let acknowledged = FinishedWork {
        decision: decision(Action::Acknowledge, false),
        outgoing: Some("Hemos recibido su mensaje.".into()),
        ..work(&accepted, TicketState::Escalated)
    };
    test.store.finish(id, acknowledged).await.unwrap();
    test.store.add_message(id, Author::Note, "llamar".into(), None).await.unwrap();
    let newer = test.store.add_message(id, Author::Customer, "¿sigue ahí?".into(), None).await.unwrap();
    let course = || async { test.store.ticket_courses(None, 10).await.unwrap().remove(0) };
    let waiting = course().await;
    assert_eq!((waiting.useful_at, waiting.answered_at, waiting.reopened), (None, None, false));

    let draft_id = test.store.save_draft(id, &draft(DraftKind::Extractive)).await.unwrap();
    let automatic = FinishedWork {
        draft_id: Some(draft_id),
        decision: decision(Action::Send, true),
        outgoing: Some("Vacíe la caché.".into()),
        ..work(&newer, TicketState::Answered)
    };
    let sent = test.store.finish(id, automatic).await.unwrap().message.unwrap();
    let answered = course().await;
    assert_eq!((answered.useful_at, answered.answered_at), (Some(sent.created_at), Some(sent.created_at)));
    assert_eq!((answered.asked_at, answered.reopened), (accepted.message.created_at, false));

    test.store.add_message(id, Author::Customer, "no funciona".into(), None).await.unwrap();
    test.store.add_message(id, Author::Agent, "Lo miro yo.".into(), None).await.unwrap();
    let reopened = course().await;
    assert!(reopened.reopened);
    assert_eq!(reopened.useful_at, answered.useful_at, "the first one counts");
}

#[tokio::test]
async fn an_agents_own_reply_counts_as_an_answer() {
    let test = TestStore::new().await;
    let id = test.accept("hola").await.ticket.id;
    test.store.add_message(id, Author::Agent, "Ya está.".into(), None).await.unwrap();
    let course = test.store.ticket_courses(None, 10).await.unwrap().remove(0);
    assert!(course.useful_at.is_some() && course.useful_at == course.answered_at);
}

#[tokio::test]
async fn history_is_read_beside_a_running_service() {
    let test = TestStore::new().await;
    let (_, draft_id) = test.in_review(DraftKind::Generated).await;
    let beside = test.shared().await;
    assert!(beside.resolved_drafts(None, 10).await.unwrap().is_empty());
    test.store.resolve_draft(draft_id, review(Outcome::Approved, None)).await.unwrap();
    assert_eq!(beside.resolved_drafts(None, 10).await.unwrap().len(), 1);
    assert_eq!(beside.ticket_courses(None, 10).await.unwrap().len(), 1);
}
