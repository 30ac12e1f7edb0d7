use super::*;
use crate::store::{Analysis, DraftStatus};
use crate::ticket::{Author, Class, Difficulty, ExpectedTime, Judgement, NextStep, Timings, Triage};

fn judgement<T: Class>(label: T) -> Judgement<T> {
    let distribution = vec![0.25; T::ALL.len()];
    let (words, neighbours) = (vec!["no carga".to_owned()], vec!["tb-1".to_owned()]);
    Judgement { label, probability: 0.25, distribution, abstained: false, words, neighbours }
}

pub(super) fn triage() -> Triage {
    Triage {
        urgency: judgement(Urgency::High),
        difficulty: judgement(Difficulty::Guided),
        next: judgement(NextStep::Answer),
        expected_time: Some(ExpectedTime { median_hours: 2.0, p90_hours: 9.5, samples: 7 }),
        skill: None,
        second_opinion: false,
    }
}

#[tokio::test]
async fn the_record_of_a_ticket_is_whole() {
    let test = TestStore::new().await;
    let accepted = test.accept("Mi web no carga").await;
    let id = accepted.ticket.id;
    let triage = triage();
    let timings = Timings { embed_ms: 1.5, ..Timings::default() };
    test.store.save_analysis(id, &triage, &[], &timings, None).await.unwrap();
    let extractive = test.store.save_draft(id, &draft(DraftKind::Extractive)).await.unwrap();
    let generated = test.store.save_draft(id, &draft(DraftKind::Generated)).await.unwrap();
    // The first draft won although a later one was saved.
    let finished = test
        .store
        .finish(id, FinishedWork { draft_id: Some(extractive), ..work(&accepted, TicketState::Review) })
        .await
        .unwrap();
    assert_eq!((finished.ticket.state, finished.message), (TicketState::Review, None));
    assert!(is_conflict(test.store.resolve_draft(generated, review(Outcome::Approved, None)).await));
    let edited = "Hola, Ana.\nVacíe la caché del navegador.";
    test.store.resolve_draft(extractive, review(Outcome::Edited, Some(edited))).await.unwrap();

    let view = test.store.ticket_view(id).await.unwrap();
    assert_eq!((view.triage, view.timings), (Some(triage), Some(timings)));
    assert_eq!(view.ticket.state, TicketState::Answered);
    assert_eq!(view.ticket.urgency, Some(Urgency::High));
    assert_eq!(view.drafts[0].draft, draft(DraftKind::Extractive));
    let statuses: Vec<_> = view.drafts.iter().map(|record| record.status).collect();
    assert_eq!(statuses, [DraftStatus::Resolved, DraftStatus::Superseded]);
    assert_eq!(view.decisions[0].decision, decision(Action::Suggest, false));
    assert_eq!(view.messages[1].body, edited);
    assert_eq!(view.messages[1].author, Author::Agent);
    let outcome = &view.outcomes[0];
    assert_eq!(outcome.final_text.as_deref(), Some(edited));
    let difference = outcome.difference.as_deref().unwrap();
    assert!(difference.contains("-Vacíe la caché y pruebe otra vez.\n+Vacíe la caché del navegador."), "{difference}");
    let actions: Vec<_> = test.store.audit_trail(id).await.unwrap().into_iter().map(|row| row.action).collect();
    assert_eq!(actions, ["ticket accepted", "decided", "draft resolved", "reply queued"]);
}

#[tokio::test]
async fn a_draft_is_resolved_once() {
    let test = TestStore::new().await;
    let (_, draft_id) = test.in_review(DraftKind::Generated).await;
    let first = test.store.resolve_draft(draft_id, review(Outcome::Approved, None)).await.unwrap();
    assert_eq!(first.message.unwrap().body, draft(DraftKind::Generated).text);
    for outcome in [Outcome::Approved, Outcome::Rejected, Outcome::Escalated] {
        assert!(is_conflict(test.store.resolve_draft(draft_id, review(outcome, None)).await));
    }
    assert_eq!((test.count("outcomes").await, test.count("outbox").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_ten_agents_who_approve_at_once_one_does() {
    let test = TestStore::new().await;
    let (_, draft_id) = test.in_review(DraftKind::Generated).await;
    let agents: Vec<_> = (0..10)
        .map(|_| {
            let store = test.store.clone();
            tokio::spawn(async move { store.resolve_draft(draft_id, review(Outcome::Approved, None)).await.is_ok() })
        })
        .collect();
    let mut successes = 0;
    for agent in agents {
        successes += usize::from(agent.await.unwrap());
    }
    assert_eq!((successes, test.count("outbox").await), (1, 1));
}

#[tokio::test]
async fn the_state_after_a_review_says_who_is_next() {
    let test = TestStore::new().await;
    let cases = [
        (DraftKind::Generated, Outcome::Approved, TicketState::Answered, true),
        (DraftKind::Question, Outcome::Approved, TicketState::Waiting, true),
        (DraftKind::Acknowledgement, Outcome::Approved, TicketState::Escalated, true),
        (DraftKind::Generated, Outcome::Rejected, TicketState::Escalated, false),
        (DraftKind::Generated, Outcome::Escalated, TicketState::Escalated, false),
    ];
    for (kind, outcome, state, sends) in cases {
        let (_, draft_id) = test.in_review(kind).await;
        let result = test.store.resolve_draft(draft_id, review(outcome, None)).await.unwrap();
        assert_eq!((result.ticket.state, result.message.is_some()), (state, sends), "{kind:?} {outcome:?}");
    }
}

#[tokio::test]
async fn a_text_that_does_not_fit_the_outcome_is_refused() {
    let test = TestStore::new().await;
    let (_, draft_id) = test.in_review(DraftKind::Generated).await;
    let bad = [(Outcome::Edited, None), (Outcome::Edited, Some(" \n")), (Outcome::Approved, Some("other"))];
    for (outcome, text) in bad {
        let refused = test.store.resolve_draft(draft_id, review(outcome, text)).await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))));
    }
    assert_eq!(test.count("outbox").await, 0);
    test.store.resolve_draft(draft_id, review(Outcome::Approved, None)).await.unwrap();
}

#[tokio::test]
async fn work_that_missed_a_message_is_not_recorded() {
    let test = TestStore::new().await;
    let accepted = test.accept("hola").await;
    let id = accepted.ticket.id;
    let newer = test.store.add_message(id, Author::Customer, "ah, y otra cosa".into(), None).await.unwrap();
    assert!(is_conflict(test.store.finish(id, work(&accepted, TicketState::Review)).await));
    assert_eq!(test.count("decisions").await, 0);
    test.store.finish(id, work(&newer, TicketState::Review)).await.unwrap();
}

#[tokio::test]
async fn work_is_finished_once_and_sent_once() {
    let test = TestStore::new().await;
    let accepted = test.accept("hola").await;
    let id = accepted.ticket.id;
    let draft_id = test.store.save_draft(id, &draft(DraftKind::Extractive)).await.unwrap();
    let finished_work = FinishedWork {
        draft_id: Some(draft_id),
        decision: decision(Action::Send, true),
        outgoing: Some("Vacíe la caché.".into()),
        ..work(&accepted, TicketState::Answered)
    };
    let finished = test.store.finish(id, finished_work.clone()).await.unwrap();
    assert!(is_conflict(test.store.finish(id, finished_work.clone()).await));
    assert!(is_conflict(test.store.resolve_draft(draft_id, review(Outcome::Approved, None)).await));

    let claimed = test.store.claim_outbox(10, 60).await.unwrap();
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].message_id, finished.message.unwrap().id);
    assert_eq!((claimed[0].attempts, claimed[0].channel.as_str()), (1, "api"));
    assert!(test.store.claim_outbox(10, 60).await.unwrap().is_empty(), "it is leased");
    test.store.mark_sent(claimed[0].id).await.unwrap();
    test.store.mark_sent(claimed[0].id).await.unwrap();
    test.store.release(claimed[0].id, "late").await.unwrap();
    assert!(test.store.claim_outbox(10, 0).await.unwrap().is_empty(), "it was sent");

    // The same draft cannot be sent again, even by a caller that puts the ticket back.
    let newer = test.store.add_message(id, Author::Customer, "sigue igual".into(), None).await.unwrap();
    let again = FinishedWork { seen_message: newer.message.id, ..finished_work };
    assert!(is_conflict(test.store.finish(id, again).await));
    assert_eq!(test.count("outbox").await, 1);
}

#[tokio::test]
async fn an_expired_lease_and_a_failure_are_tried_again() {
    let test = TestStore::new().await;
    let accepted = test.accept("hola").await;
    let acknowledged = FinishedWork {
        decision: decision(Action::Acknowledge, false),
        outgoing: Some("Hemos recibido su mensaje.".into()),
        ..work(&accepted, TicketState::Escalated)
    };
    test.store.finish(accepted.ticket.id, acknowledged).await.unwrap();
    let first = test.store.claim_outbox(1, 0).await.unwrap();
    let second = test.store.claim_outbox(1, 60).await.unwrap();
    assert_eq!((first[0].id, second[0].attempts), (second[0].id, 2));
    assert_eq!(first[0].idempotency_key, second[0].idempotency_key);
    test.store.release(second[0].id, "connection refused").await.unwrap();
    assert!(test.store.claim_outbox(1, 60).await.unwrap().is_empty(), "it pauses");
    sqlx::query("UPDATE outbox SET not_before = 0").execute(&test.store.writer).await.unwrap();
    let third = test.store.claim_outbox(1, 60).await.unwrap();
    assert_eq!(third[0].last_error.as_deref(), Some("connection refused"));
}

#[tokio::test]
async fn nonsense_is_refused() {
    let test = TestStore::new().await;
    let accepted = test.accept("hola").await;
    let id = accepted.ticket.id;
    let good = work(&accepted, TicketState::Review);
    let automatic = FinishedWork { decision: decision(Action::Send, true), ..good.clone() };
    for bad in [
        FinishedWork { state: TicketState::Received, ..good.clone() },
        FinishedWork { outgoing: Some("  ".into()), ..good.clone() },
        automatic,
    ] {
        assert!(matches!(test.store.finish(id, bad).await, Err(StoreError::Invalid(_))));
    }
    let foreign = test.in_review(DraftKind::Generated).await.1;
    let stolen = FinishedWork { draft_id: Some(foreign), ..good };
    assert!(matches!(test.store.finish(id, stolen).await, Err(StoreError::NotFound(_))));
}

#[tokio::test]
async fn a_reply_does_not_wait_for_a_clock_that_was_set_back() {
    let test = TestStore::new().await;
    let (_, draft_id) = test.in_review(DraftKind::Generated).await;
    test.store.resolve_draft(draft_id, review(Outcome::Approved, None)).await.unwrap();
    assert_eq!(test.store.claim_outbox(10, 60).await.unwrap().len(), 1);
    assert!(test.store.claim_outbox(10, 60).await.unwrap().is_empty(), "it is leased");
    let later = crate::store::rows::now_ms() + 3_600_000;
    sqlx::query("UPDATE outbox SET not_before = $1").bind(later).execute(&test.store.writer).await.unwrap();
    assert!(!test.store.claim_outbox(10, 60).await.unwrap().is_empty(), "the clock was an hour ahead");
}

#[tokio::test]
async fn what_our_own_channel_delivers_is_told_once_and_marked_in_the_same_breath() {
    let test = TestStore::new().await;
    let (kept, erased) = (test.accept("hola").await, test.accept("adiós").await);
    for accepted in [&kept, &erased] {
        let outgoing = Some("Hemos recibido su mensaje.".to_owned());
        let work = FinishedWork { outgoing, ..work(accepted, TicketState::Review) };
        test.store.finish(accepted.ticket.id, work).await.unwrap();
    }
    let claimed = test.store.claim_outbox(10, 60).await.unwrap();
    let of_erased = sqlx::query("DELETE FROM outbox WHERE ticket_id = $1").bind(erased.ticket.id.to_string());
    of_erased.execute(&test.store.writer).await.unwrap();
    let told = test.store.deliver(&claimed).await.unwrap();
    let told: Vec<_> = claimed.iter().zip(told).map(|(row, event)| (row.ticket_id, event.map(|e| e.kind))).collect();
    assert_eq!(told, [(kept.ticket.id, Some("message".to_owned())), (erased.ticket.id, None)]);
    assert_eq!(test.store.deliver(&claimed).await.unwrap(), [None, None], "a second sender finds nothing to do");
    let events = test.store.events_after(kept.ticket.id, 0).await.unwrap();
    assert_eq!(events.iter().filter(|event| event.kind == "message").count(), 1);
    assert!(test.store.claim_outbox(10, 0).await.unwrap().is_empty());
}

#[tokio::test]
async fn many_tickets_are_finished_together_but_those_that_are_not_as_they_were() {
    let test = TestStore::new().await;
    let (done, newer, fine) = (test.accept("uno").await, test.accept("dos").await, test.accept("tres").await);
    test.store.finish(done.ticket.id, work(&done, TicketState::Review)).await.unwrap();
    test.store.add_message(newer.ticket.id, Author::Customer, "otra cosa".into(), None).await.unwrap();
    let works: Vec<_> =
        [&done, &newer, &fine].map(|accepted| (accepted.ticket.id, work(accepted, TicketState::Review))).to_vec();
    let finished = test.store.finish_all(works.clone()).await.unwrap();
    let outcomes: Vec<bool> = finished.iter().map(Result::is_ok).collect();
    assert_eq!(outcomes, [false, false, true]);
    assert_eq!(test.count("decisions").await, 2);
    assert_eq!(test.store.ticket(newer.ticket.id).await.unwrap().state, TicketState::Received);

    // What cannot be written leaves all as they were.
    let more = test.accept("cuatro").await;
    let empty = FinishedWork { outgoing: Some(" ".into()), ..work(&more, TicketState::Review) };
    let works = vec![(more.ticket.id, work(&more, TicketState::Review)), (fine.ticket.id, empty)];
    assert!(test.store.finish_all(works).await.is_err());
    assert_eq!(test.store.ticket(more.ticket.id).await.unwrap().state, TicketState::Received);
}

#[tokio::test]
async fn a_judgement_a_draft_and_the_decision_are_recorded_together_or_not_at_all() {
    let test = TestStore::new().await;
    let accepted = test.accept("hola").await;
    let id = accepted.ticket.id;
    let (triage, timings) = (triage(), Timings::default());
    let analysis = Analysis { triage: &triage, evidence: &[], timings: &timings, vector: None };
    let reply = draft(DraftKind::Extractive);
    let earlier = FinishedWork { seen_message: Uuid::now_v7(), ..work(&accepted, TicketState::Review) };
    assert!(is_conflict(test.store.record(id, earlier, &analysis, Some(&reply), None).await));
    assert_eq!((test.count("triages").await, test.count("drafts").await), (0, 0));

    let finished =
        test.store.record(id, work(&accepted, TicketState::Review), &analysis, Some(&reply), None).await.unwrap();
    let kinds: Vec<&str> = finished.events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["draft", "decision"]);
    let view = test.store.ticket_view(id).await.unwrap();
    assert_eq!((view.triage, view.drafts[0].status), (Some(triage), DraftStatus::Open));
    assert_eq!(view.decisions[0].draft_id, Some(view.drafts[0].id));
}
