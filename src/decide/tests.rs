//! Decisions on chosen and on random inputs.

use proptest::prelude::*;

use super::*;
use crate::draft::select::tests::found;
use crate::ticket::{Difficulty, Evidence, Finding, Judgement, Language, MemoryKind, Rule, Sentence};

fn judgement<T: Class>(label: T, probability: f32) -> Judgement<T> {
    let rest = (1.0 - probability) / (T::ALL.len() - 1) as f32;
    let distribution = T::ALL.iter().map(|class| if *class == label { probability } else { rest }).collect();
    Judgement { label, probability, distribution, abstained: false, words: Vec::new(), neighbours: Vec::new() }
}

/// A triage of normal urgency with this next step.
pub(crate) fn triage(next: NextStep, probability: f32) -> Triage {
    Triage {
        urgency: judgement(Urgency::Normal, 0.8),
        difficulty: judgement(Difficulty::Known, 0.8),
        next: judgement(next, probability),
        expected_time: None,
        skill: None,
        second_opinion: false,
    }
}

fn draft(kind: DraftKind, similarity: f32, support: f32) -> Draft {
    let evidence = Evidence {
        index: 1,
        memory_id: "m1".to_owned(),
        kind: MemoryKind::Article,
        language: Language::EN,
        title: String::new(),
        text: "Click Repair.".to_owned(),
        url: None,
        score: 1.0,
        similarity,
    };
    Draft {
        kind,
        language: Language::EN,
        text: "Click Repair.".to_owned(),
        sentences: vec![Sentence { text: "Click Repair.".to_owned(), evidence: vec![1], support }],
        evidence: vec![evidence],
        findings: Vec::new(),
        model: None,
    }
}

fn sending() -> QueuePolicy {
    QueuePolicy { mode: Mode::Send, ..QueuePolicy::default() }
}

fn close(similarity: f32) -> Vec<Retrieved> {
    let mut item = found("a", Language::EN, "Click Repair.", 1.0);
    item.similarity = similarity;
    vec![item]
}

#[test]
fn a_sure_grounded_reply_is_sent_only_where_the_queue_says_so() {
    let triage = triage(NextStep::Answer, 0.95);
    let draft = draft(DraftKind::Generated, 0.92, 0.9);
    let plan = plan(&triage, &close(0.92), Some(0.95), &sending());
    assert!(plan.draft && plan.kind == PlanKind::Answer);
    assert_eq!(decide(&plan, Some(&draft), true, &triage, &sending()).action, Action::Send);
    assert_eq!(decide(&plan, Some(&draft), true, &triage, &QueuePolicy::default()).action, Action::Suggest);
    assert_eq!(decide(&plan, Some(&draft), false, &triage, &sending()).action, Action::Acknowledge);
}

#[test]
fn each_doubt_lowers_to_suggest() {
    let sure = triage(NextStep::Answer, 0.95);
    let good = draft(DraftKind::Generated, 0.92, 0.9);
    let mut critical = sure.clone();
    critical.urgency = judgement(Urgency::Critical, 0.9);
    let mut unsure = sure.clone();
    unsure.next.abstained = true;
    let mut cut = good.clone();
    cut.findings.push(Finding { rule: Rule::Promise, sentence: String::new(), detail: String::new() });
    let cases = [
        (critical, good.clone()),
        (unsure, good.clone()),
        (triage(NextStep::Answer, 0.5), good.clone()),
        (sure.clone(), draft(DraftKind::Generated, 0.7, 0.9)),
        (sure.clone(), draft(DraftKind::Generated, 0.92, 0.3)),
        (sure.clone(), draft(DraftKind::Generated, f32::NAN, f32::NAN)),
        (sure, cut),
    ];
    for (triage, draft) in cases {
        let plan = plan(&triage, &close(0.92), Some(0.95), &sending());
        let decision = decide(&plan, Some(&draft), true, &triage, &sending());
        assert_eq!(decision.action, Action::Suggest, "{decision:?}");
        assert!(!decision.automatic);
    }
}

#[test]
fn evidence_that_does_not_fit_is_no_answer_however_close_it_is() {
    let sure = triage(NextStep::Answer, 0.95);
    let beside = plan(&sure, &close(0.95), Some(0.1), &sending());
    assert!(!beside.draft && beside.kind == PlanKind::Escalate);
    assert!(beside.reasons.iter().any(|reason| reason.contains("10 %")), "{beside:?}");
    let decision = decide(&beside, Some(&draft(DraftKind::Acknowledgement, 0.0, 0.0)), true, &sure, &sending());
    assert_eq!((decision.action, decision.fit), (Action::Escalate, Some(0.1)));
    let question = plan(&triage(NextStep::Ask, 0.9), &close(0.95), Some(0.1), &sending());
    assert!(!question.draft && question.kind == PlanKind::Ask);
    let off = QueuePolicy { min_fit_to_draft: 0.0, ..sending() };
    assert!(plan(&sure, &close(0.95), Some(0.1), &off).draft);
    assert!(!plan(&sure, &close(0.95), Some(f32::NAN), &off).draft);
}

#[test]
fn between_the_thresholds_an_agent_looks_first() {
    let sure = triage(NextStep::Answer, 0.95);
    let good = draft(DraftKind::Generated, 0.92, 0.9);
    for (fit, action) in [(Some(0.95), Action::Send), (Some(0.6), Action::Suggest), (None, Action::Suggest)] {
        let plan = plan(&sure, &close(0.92), fit, &sending());
        let decision = decide(&plan, Some(&good), true, &sure, &sending());
        assert_eq!((decision.action, decision.fit), (action, fit), "{decision:?}");
    }
}

#[test]
fn a_person_is_named_by_skill() {
    let mut triage = triage(NextStep::Human, 0.9);
    triage.skill = Some("billing".to_owned());
    let plan = plan(&triage, &[], None, &sending());
    let decision = decide(&plan, Some(&draft(DraftKind::Acknowledgement, 0.0, 0.0)), true, &triage, &sending());
    assert_eq!(
        (decision.action, decision.skill.as_deref(), decision.automatic),
        (Action::Escalate, Some("billing"), true)
    );
    assert!(decision.reasons.iter().any(|reason| reason.contains("billing")));
}

#[test]
fn a_guess_never_discards() {
    let mut triage = triage(NextStep::Reject, 0.4);
    triage.next.abstained = true;
    assert_ne!(plan(&triage, &[], None, &sending()).kind, PlanKind::Discard);
    triage.next.abstained = false;
    assert_ne!(plan(&triage, &[], None, &sending()).kind, PlanKind::Discard, "less probable than the policy demands");
    triage.next.probability = 0.9;
    assert_eq!(plan(&triage, &[], None, &sending()).kind, PlanKind::Discard);
}

#[test]
fn queues_follow_the_default_unless_named() {
    let policy = Policy { queues: BTreeMap::from([("billing".to_owned(), sending())]), ..Policy::default() };
    assert_eq!(policy.of(Some("billing")).mode, Mode::Send);
    assert_eq!(policy.of(Some("other")).mode, Mode::Suggest);
    assert_eq!(policy.of(None).mode, Mode::Suggest);
}

/// 0 is nothing to the customer without a person, 2 an answer without a person.
fn autonomy(decision: &Decision) -> u8 {
    match (decision.action, decision.automatic) {
        (Action::Send, _) => 3,
        (Action::Ask, true) => 2,
        (Action::Suggest | Action::Ask, _) => 1,
        _ => 0,
    }
}

proptest! {
    #[test]
    fn the_guard_can_only_lower_autonomy(
        next in 0_usize..4, probability in 0.0_f32..1.0, urgency in 0_usize..4, abstained: bool, similarity in -1.0_f32..1.0, support in 0.0_f32..1.0,
        kind in 0_usize..4, mode in 0_usize..3, fit in proptest::option::of(0.0_f32..1.0), send_questions: bool, hold_critical: bool, has_draft: bool, cut: bool,
    ) {
        let mut triage = triage(NextStep::ALL[next], probability);
        triage.urgency = judgement(Urgency::ALL[urgency], 0.7);
        triage.next.abstained = abstained;
        let kinds = [DraftKind::Extractive, DraftKind::Generated, DraftKind::Acknowledgement, DraftKind::Question];
        let mut draft = draft(kinds[kind], similarity, support);
        let modes = [Mode::Off, Mode::Suggest, Mode::Send];
        let policy = QueuePolicy { mode: modes[mode], send_questions, hold_critical, ..QueuePolicy::default() };
        let plan = plan(&triage, &close(similarity), fit, &policy);
        let passed = decide(&plan, has_draft.then_some(&draft), true, &triage, &policy);
        let failed = decide(&plan, has_draft.then_some(&draft), false, &triage, &policy);
        prop_assert!(autonomy(&failed) <= autonomy(&passed));
        prop_assert!(failed.action != Action::Send);
        prop_assert!(!passed.reasons.is_empty());
        prop_assert_eq!(&passed, &decide(&plan, has_draft.then_some(&draft), true, &triage, &policy));
        if passed.action == Action::Send {
            prop_assert!(policy.mode == Mode::Send && passed.automatic);
            prop_assert!(fit.is_some_and(|fit| fit >= policy.min_fit));
            prop_assert!(!(hold_critical && triage.urgency.label == Urgency::Critical));
        }
        if cut {
            draft.findings.push(Finding { rule: Rule::Promise, sentence: String::new(), detail: String::new() });
            let cut = decide(&plan, has_draft.then_some(&draft), true, &triage, &policy);
            prop_assert!(autonomy(&cut) <= autonomy(&passed));
        }
    }
}
