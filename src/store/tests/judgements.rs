use super::*;
use crate::store::{Correction, SeenJudgement};
use crate::ticket::{Difficulty, Judgement, NextStep};

fn triage(urgency: Urgency, difficulty: Difficulty) -> Triage {
    fn sure<T>(label: T) -> Judgement<T> {
        Judgement {
            label,
            probability: 0.9,
            distribution: vec![0.9, 0.1, 0.0, 0.0],
            abstained: false,
            words: Vec::new(),
            neighbours: Vec::new(),
        }
    }
    Triage {
        urgency: sure(urgency),
        difficulty: sure(difficulty),
        next: sure(NextStep::Answer),
        expected_time: None,
        skill: None,
        second_opinion: false,
    }
}

/// A ticket judged High and Guided, about whose draft a person decides.
async fn decided(test: &TestStore) -> Uuid {
    let (accepted, draft_id) = test.in_review(DraftKind::Generated).await;
    let id = accepted.ticket.id;
    let judged = triage(Urgency::High, Difficulty::Guided);
    test.store.save_analysis(id, &judged, &[], &Timings::default(), None).await.unwrap();
    test.store.resolve_draft(draft_id, review(Outcome::Approved, None)).await.unwrap();
    id
}

#[tokio::test]
async fn what_a_person_left_or_set_right_counts_and_nothing_else() {
    let test = TestStore::new().await;
    assert!(test.store.seen_judgements(None, 9).await.unwrap().is_empty());
    let left = decided(&test).await;
    let corrected = decided(&test).await;
    test.store.correct(corrected, Correction::Urgency(Urgency::Critical), "Ana").await.unwrap();
    test.store.correct(corrected, Correction::Urgency(Urgency::Low), "Ben").await.unwrap();
    let raised = decided(&test).await;
    test.store.correct(raised, Correction::Urgency(Urgency::Critical), crate::store::CUSTOMER).await.unwrap();
    let unseen = test.accept("nobody has looked at it").await.ticket.id;
    test.store.correct(unseen, Correction::Urgency(Urgency::High), crate::store::CUSTOMER).await.unwrap();
    let alone = test.accept("no draft, but a judgement set right").await.ticket.id;
    test.store.correct(alone, Correction::Difficulty(Difficulty::Engineering), "Ana").await.unwrap();

    let first = test.store.seen_judgements(None, 3).await.unwrap();
    let rest = test.store.seen_judgements(first.last().map(|seen| seen.ticket), 3).await.unwrap();
    let all: Vec<SeenJudgement> = first.into_iter().chain(rest).collect();
    let said: Vec<_> = all.iter().map(|seen| (seen.ticket, seen.levels(), seen.is_corrected)).collect();
    assert_eq!(
        said,
        [(left, [2, 2], false), (corrected, [4, 2], true), (raised, [2, 2], false), (alone, [0, 4], true)]
    );
}

#[tokio::test]
async fn a_judgement_after_the_decision_is_not_the_one_that_was_seen() {
    let test = TestStore::new().await;
    let id = decided(&test).await;
    let at = test.store.seen_judgements(None, 1).await.unwrap()[0].at;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let later = triage(Urgency::Low, Difficulty::Known);
    test.store.save_analysis(id, &later, &[], &Timings::default(), None).await.unwrap();
    let seen = test.store.seen_judgements(None, 1).await.unwrap().remove(0);
    assert_eq!((seen.levels(), seen.at), ([2, 2], at));
}
