//! Decides what may happen: before drafting, what to draft at all; after it, how far the draft may go by itself.
//!
//! Decisions rest on calibrated probabilities and on the guard, never on what a model says of itself. They are pure
//! functions of their arguments: the same input gives the same decision. Whatever fails lowers autonomy, nothing raises
//! it.

pub mod basis;
pub mod relevance;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ticket::{Action, Class, Decision, Draft, DraftKind, NextStep, Retrieved, Triage, Urgency};

/// How far replies of a queue may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// No draft is shown; people answer.
    Off,
    /// An agent approves every reply.
    #[default]
    Suggest,
    /// Replies that meet every threshold go out by themselves.
    Send,
}

/// What a queue allows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueuePolicy {
    pub mode: Mode,
    /// Least calibrated probability of the next step "answer" for a reply to go out by itself, 0 to 1.
    pub min_answer_probability: f32,
    /// Least similarity of the closest evidence for a reply to go out by itself, -1 to 1.
    pub min_similarity: f32,
    /// Least mean share of content words found, over the sentences that rest on evidence, 0 to 1.
    pub min_support: f32,
    /// Least probability that the evidence answers the request for a reply to go out by itself, 0 to 1. Without that
    /// judgement nothing does.
    pub min_fit: f32,
    /// The same for anything to be drafted from the evidence at all.
    pub min_fit_to_draft: f32,
    /// Least similarity for anything to be drafted from the evidence at all.
    pub min_similarity_to_draft: f32,
    /// Least calibrated probability of "not a request" for a message to be set aside without a reply. Of ten such messages
    /// the triage finds two, and it errs: be strict.
    pub min_reject_probability: f32,
    /// Requests of critical urgency are never answered without a person.
    pub hold_critical: bool,
    /// Questions back may go out by themselves.
    pub send_questions: bool,
    /// Acknowledgements may go out by themselves.
    pub send_acknowledgements: bool,
}

impl Default for QueuePolicy {
    fn default() -> Self {
        Self {
            mode: Mode::Suggest,
            min_answer_probability: 0.8,
            min_similarity: 0.78,
            min_support: 0.6,
            min_fit: 0.9,
            min_fit_to_draft: 0.35,
            min_similarity_to_draft: 0.66,
            min_reject_probability: 0.7,
            hold_critical: true,
            send_questions: false,
            send_acknowledgements: true,
        }
    }
}

/// The desk's policy: a default and what differs per queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    pub default: QueuePolicy,
    /// By queue name; a queue without an entry follows `default`.
    pub queues: BTreeMap<String, QueuePolicy>,
}

impl Policy {
    /// What holds for `queue`.
    pub fn of(&self, queue: Option<&str>) -> &QueuePolicy {
        queue.and_then(|name| self.queues.get(name)).unwrap_or(&self.default)
    }
}

/// What kind of words the request calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlanKind {
    Answer,
    Ask,
    Escalate,
    Discard,
}

/// What to do before anything is drafted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Whether the racers should start.
    pub draft: bool,
    pub kind: PlanKind,
    /// Calibrated probability that the evidence answers the request; None where it was not judged.
    pub fit: Option<f32>,
    /// In plain words, most important first.
    pub reasons: Vec<String>,
}

/// Decides what to draft. A request that a person must take may still get a draft for that person to look at, as long as the
/// evidence is close and fits. `fit` is the probability that it answers the request (see [`relevance`]).
pub fn plan(triage: &Triage, retrieved: &[Retrieved], fit: Option<f32>, policy: &QueuePolicy) -> Plan {
    let closest = retrieved.iter().map(|found| found.similarity).fold(-1.0, f32::max);
    let is_close = closest >= policy.min_similarity_to_draft;
    let has_evidence = is_close && fit.is_none_or(|fit| reaches(fit, policy.min_fit_to_draft));
    let next = &triage.next;
    let sure = percent(next.probability);
    let mut reasons = Vec::new();
    if next.abstained {
        reasons.push("it is not clear who must act next".to_owned());
    }
    let kind = match next.label {
        // Dropping a customer's message takes more than a guess.
        NextStep::Reject if !next.abstained && reaches(next.probability, policy.min_reject_probability) => {
            reasons.push(format!("it does not look like a support request ({sure} sure)"));
            return Plan { draft: false, kind: PlanKind::Discard, fit, reasons };
        }
        NextStep::Human if !next.abstained => {
            reasons.push(format!("a person with access or authority has to act ({sure} sure)"));
            PlanKind::Escalate
        }
        NextStep::Ask if !next.abstained => {
            reasons.push(format!("one thing is missing and has to be asked for ({sure} sure)"));
            PlanKind::Ask
        }
        _ if has_evidence => {
            reasons.push(format!("{} close to the request (similarity up to {closest:.2})", items(retrieved, policy)));
            PlanKind::Answer
        }
        _ => {
            reasons.push(match fit.filter(|_| is_close) {
                Some(fit) => format!("what was found probably does not answer the request (fits: {})", percent(fit)),
                None => "nothing in the memory is close enough to answer from".to_owned(),
            });
            PlanKind::Escalate
        }
    };
    if policy.mode == Mode::Off {
        reasons.push("drafting is switched off for this queue".to_owned());
    }
    Plan { draft: has_evidence && policy.mode != Mode::Off, kind, fit, reasons }
}

/// The plan for a message without a single word (emoji, numbers): there is nothing to judge, so it is asked about.
pub fn plan_for_no_words() -> Plan {
    let reasons = vec!["the message has no words to go by".to_owned()];
    Plan { draft: false, kind: PlanKind::Ask, fit: None, reasons }
}

/// Decides what may happen to `draft`. `guard_passed` is the guard's verdict on it; without a draft it does not matter.
pub fn decide(
    plan: &Plan,
    draft: Option<&Draft>,
    guard_passed: bool,
    triage: &Triage,
    policy: &QueuePolicy,
) -> Decision {
    Decision { fit: plan.fit, ..decided(plan, draft, guard_passed, triage, policy) }
}

fn decided(plan: &Plan, draft: Option<&Draft>, guard_passed: bool, triage: &Triage, policy: &QueuePolicy) -> Decision {
    let mut reasons = plan.reasons.clone();
    match plan.kind {
        PlanKind::Discard => return Decision::new(Action::Discard, reasons),
        PlanKind::Escalate => return escalate(reasons, draft, triage, policy),
        PlanKind::Ask | PlanKind::Answer => {}
    }
    let Some(draft) = draft else {
        reasons.insert(0, "no reply could be drafted".to_owned());
        return hand_over(reasons, triage, policy, None);
    };
    match draft.kind {
        DraftKind::Acknowledgement => hand_over(reasons, triage, policy, Some(draft)),
        DraftKind::Question => ask(reasons, draft, triage, policy),
        DraftKind::Extractive | DraftKind::Generated if !guard_passed => {
            reasons.insert(0, "the draft did not pass the guard".to_owned());
            hand_over(reasons, triage, policy, None)
        }
        DraftKind::Extractive | DraftKind::Generated => answer(reasons, plan, draft, triage, policy),
    }
}

fn answer(mut reasons: Vec<String>, plan: &Plan, draft: &Draft, triage: &Triage, policy: &QueuePolicy) -> Decision {
    let doubts = doubts(plan, draft, triage, policy);
    if doubts.is_empty() {
        reasons.push("every threshold of this queue is met".to_owned());
        return Decision { automatic: true, ..Decision::new(Action::Send, reasons) };
    }
    reasons.splice(0..0, doubts);
    Decision::new(Action::Suggest, reasons)
}

/// Everything that speaks against sending the reply without a person, in words.
fn doubts(plan: &Plan, draft: &Draft, triage: &Triage, policy: &QueuePolicy) -> Vec<String> {
    let mut doubts = Vec::new();
    if policy.mode != Mode::Send {
        doubts.push("this queue's replies are approved by an agent".to_owned());
    }
    if plan.kind != PlanKind::Answer {
        doubts.push("the request may need a question first".to_owned());
    }
    if is_held(triage, policy) {
        doubts.push("a critical request is never answered without a person".to_owned());
    }
    if triage.next.abstained || triage.urgency.abstained {
        doubts.push("the triage is not sure enough".to_owned());
    }
    let probability = triage.next.distribution.get(NextStep::Answer.index()).copied().unwrap_or(0.0);
    if !reaches(probability, policy.min_answer_probability) {
        doubts.push(format!(
            "it can be answered with a probability of {}, {} is needed",
            percent(probability),
            percent(policy.min_answer_probability)
        ));
    }
    match plan.fit {
        Some(fit) if reaches(fit, policy.min_fit) => {}
        Some(fit) => doubts.push(format!(
            "the evidence fits with a probability of {}, {} is needed",
            percent(fit),
            percent(policy.min_fit)
        )),
        None => doubts.push("whether the evidence fits could not be judged".to_owned()),
    }
    let similarity = cited_similarity(draft);
    if !reaches(similarity, policy.min_similarity) {
        doubts.push(format!(
            "the evidence is not close enough ({similarity:.2}, {:.2} is needed)",
            policy.min_similarity
        ));
    }
    let support = mean_support(draft);
    if !reaches(support, policy.min_support) {
        doubts.push(format!(
            "{} of the reply's words stand in the evidence, {} is needed",
            percent(support),
            percent(policy.min_support)
        ));
    }
    if !draft.findings.is_empty() {
        doubts.push(format!("the guard cut {} of the draft", plural(draft.findings.len(), "piece")));
    }
    doubts
}

fn is_held(triage: &Triage, policy: &QueuePolicy) -> bool {
    policy.hold_critical && triage.urgency.label == Urgency::Critical
}

fn ask(mut reasons: Vec<String>, draft: &Draft, triage: &Triage, policy: &QueuePolicy) -> Decision {
    let automatic = policy.send_questions
        && policy.mode != Mode::Off
        && !is_held(triage, policy)
        && !triage.next.abstained
        && draft.findings.is_empty();
    reasons.push(
        if automatic { "questions go out by themselves" } else { "an agent looks at the question first" }.to_owned(),
    );
    Decision { skill: triage.skill.clone(), automatic, ..Decision::new(Action::Ask, reasons) }
}

fn escalate(mut reasons: Vec<String>, draft: Option<&Draft>, triage: &Triage, policy: &QueuePolicy) -> Decision {
    reasons.push(match &triage.skill {
        Some(skill) => format!("similar requests were solved by {skill}"),
        None => "no skill stands out among similar requests".to_owned(),
    });
    Decision {
        skill: triage.skill.clone(),
        automatic: may_acknowledge(draft, policy),
        ..Decision::new(Action::Escalate, reasons)
    }
}

/// No answer to stand behind: the acknowledgement and the queue.
fn hand_over(mut reasons: Vec<String>, triage: &Triage, policy: &QueuePolicy, draft: Option<&Draft>) -> Decision {
    reasons.push("a person takes it on".to_owned());
    Decision {
        skill: triage.skill.clone(),
        automatic: may_acknowledge(draft, policy),
        ..Decision::new(Action::Acknowledge, reasons)
    }
}

/// Only a fixed text may go out with a hand-over, never a draft that answers.
fn may_acknowledge(draft: Option<&Draft>, policy: &QueuePolicy) -> bool {
    policy.send_acknowledgements && draft.is_some_and(|draft| draft.kind == DraftKind::Acknowledgement)
}

/// Similarity of the closest evidence that the draft really cites.
fn cited_similarity(draft: &Draft) -> f32 {
    let is_cited = |index: usize| draft.sentences.iter().any(|sentence| sentence.evidence.contains(&index));
    draft.evidence.iter().filter(|item| is_cited(item.index)).map(|item| item.similarity).fold(-1.0, f32::max)
}

/// Mean support of the sentences that rest on evidence; 0 when none does.
fn mean_support(draft: &Draft) -> f32 {
    let resting: Vec<f32> = draft
        .sentences
        .iter()
        .filter(|sentence| !sentence.evidence.is_empty())
        .map(|sentence| sentence.support)
        .collect();
    if resting.is_empty() {
        return 0.0;
    }
    resting.iter().sum::<f32>() / resting.len() as f32
}

/// False for a figure that is no number, too.
fn reaches(value: f32, least: f32) -> bool {
    value.is_finite() && value >= least
}

fn items(retrieved: &[Retrieved], policy: &QueuePolicy) -> String {
    match retrieved.iter().filter(|found| found.similarity >= policy.min_similarity_to_draft).count() {
        1 => "one solved request or article is".to_owned(),
        count => format!("{count} solved requests or articles are"),
    }
}

fn percent(share: f32) -> String {
    format!("{:.0} %", share * 100.0)
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("one {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
pub(crate) mod tests;
