//! A language model as judge of replies: optional, never part of a gate, shown only beside its agreement with people.
//!
//! It asks any OpenAI-compatible chat endpoint with a versioned rubric (`prompts/judge`). A reply is judged several
//! times, so that a judge that contradicts itself is seen; two replies are compared in both orders, so that one that
//! prefers a place is. An answer that is no verdict is counted as unusable and never turned into a score.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use minijinja::{Environment, UndefinedBehavior, context};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::EvalError;
use super::kept::hex;
use super::label::{self, What};
use super::record::CaseRecord;
use crate::inference::openai::Endpoint;

mod client;
mod people;
pub(crate) mod reading;

use client::{Client, Failure};
pub use people::{PeopleAgreement, Summary, agreement_with_people};
use reading::Place;

const RUBRIC: &str = include_str!("../../../prompts/judge/rubric.v1.toml");
const SYSTEM: &str = include_str!("../../../prompts/judge/system.v1.j2");
const ABSOLUTE: &str = include_str!("../../../prompts/judge/absolute.v1.j2");
const PAIRWISE: &str = include_str!("../../../prompts/judge/pairwise.v1.j2");

/// Best score; 1 is the worst.
pub const BEST: u8 = 5;
/// Scores of one criterion that lie so far apart contradict each other.
const CONTRADICTION: u8 = 2;
/// After so many requests without an answer in a row, the server is given up.
const PATIENCE: usize = 5;
/// At temperature 0 most servers repeat themselves, and repeating would show nothing.
const TEMPERATURE_OF_REPEATS: f64 = 0.7;
/// What is shown of a message or a reply, and of one piece of evidence.
const SHOWN_CHARACTERS: usize = 6_000;
const SHOWN_EVIDENCE: (usize, usize) = (8, 1_200);

/// Whom to ask and how often.
#[derive(Clone)]
pub struct JudgeOptions {
    pub endpoint: Endpoint,
    /// Verdicts on each reply, at least 1.
    pub repeats: usize,
    /// Requests for one verdict, where the server is overloaded or the connection is lost; at least 1.
    pub attempts: usize,
    /// Before the second attempt; twice as long before each further one.
    pub wait: Duration,
}

impl JudgeOptions {
    /// Three verdicts per reply, three attempts.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, repeats: 3, attempts: 3, wait: Duration::from_millis(500) }
    }
}

/// What is judged, and what the scores mean.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rubric {
    version: u32,
    criterion: Vec<Criterion>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Criterion {
    name: String,
    question: String,
    /// What 1, 2, .. 5 mean.
    anchors: [String; BEST as usize],
}

/// Asks a model what it thinks of replies. Calls block.
pub struct Judge {
    client: Client,
    rubric: Rubric,
    prompts: Environment<'static>,
    repeats: usize,
    unanswered: AtomicUsize,
}

/// What came of the verdicts on one reply.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Of the case.
    pub id: String,
    /// Of message and reply, as labels of people have it.
    pub digest: String,
    /// By criterion; empty where no verdict was usable.
    pub scores: BTreeMap<String, Score>,
    pub asked: usize,
    pub usable: usize,
    /// Why the others were not.
    pub unusable: Vec<String>,
    /// Whether two verdicts on the same reply lie two points apart or more.
    pub contradicts_itself: bool,
}

/// One criterion over the repeats, 1 to 5.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub median: f64,
    pub least: u8,
    pub most: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preferred {
    A,
    B,
    /// Neither, or whichever stood at the same place both times.
    Tie,
    /// An answer was unusable.
    Unknown,
}

/// Which of two replies is better, asked in both orders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preference {
    pub preferred: Preferred,
    /// The place was preferred, not the reply.
    pub position_bias: bool,
    pub unusable: Vec<String>,
}

impl Judgement {
    /// Mean of the criteria's medians; None without a usable verdict.
    pub fn mean(&self) -> Option<f64> {
        let sum: f64 = self.scores.values().map(|score| score.median).sum();
        (!self.scores.is_empty()).then(|| sum / self.scores.len() as f64)
    }

    /// The worst criterion's median.
    pub fn worst(&self) -> Option<f64> {
        self.scores.values().map(|score| score.median).min_by(f64::total_cmp)
    }
}

impl Judge {
    /// Prepares rubric and connection; asks nothing yet.
    ///
    /// # Errors
    /// [`EvalError::Run`] when address or model are empty.
    pub fn new(options: JudgeOptions) -> Result<Self, EvalError> {
        if options.endpoint.url.is_empty() || options.endpoint.model.is_empty() {
            return Err(anyhow!("the judge needs the address of a model server and the model's name").into());
        }
        let rubric: Rubric = toml::from_str(RUBRIC).context("the judge's rubric is no valid TOML")?;
        let mut prompts = Environment::new();
        prompts.set_undefined_behavior(UndefinedBehavior::Strict);
        for (name, text) in [("absolute", ABSOLUTE), ("pairwise", PAIRWISE)] {
            prompts.add_template(name, text).context("a prompt of the judge is no valid template")?;
        }
        let repeats = options.repeats.max(1);
        Ok(Self { client: Client::new(options), rubric, prompts, repeats, unanswered: AtomicUsize::new(0) })
    }

    /// Model and rubric, as `model, rubric v1 (1a2b3c4d)`; scores are comparable where this is the same.
    pub fn name(&self) -> String {
        let mut digest = Sha256::new();
        [RUBRIC, SYSTEM, ABSOLUTE, PAIRWISE].iter().for_each(|text| digest.update(text));
        let digest = hex(&digest.finalize(), 4);
        format!("{}, rubric v{} ({digest})", self.client.model(), self.rubric.version)
    }

    /// Judges the draft of a case, as often as the options say.
    ///
    /// # Errors
    /// [`EvalError::Run`] when the server refuses for good (key, address) or has not answered for several requests.
    pub fn absolute(&self, case: &CaseRecord) -> Result<Judgement, EvalError> {
        let mut judgement = Judgement { id: case.id.clone(), ..Judgement::default() };
        let Some((draft, digest)) = case.draft.as_ref().zip(label::digest(What::Draft, case)) else {
            judgement.unusable.push("there is no reply to judge".to_owned());
            return Ok(judgement);
        };
        judgement.digest = digest;
        let (evidence, reply) = (shown_evidence(case), fence(&draft.text, SHOWN_CHARACTERS));
        let message = fence(&case.message, SHOWN_CHARACTERS);
        let prompt =
            self.render("absolute", context! { message, evidence, reply, criteria => self.rubric.criterion })?;
        let temperature = if self.repeats > 1 { TEMPERATURE_OF_REPEATS } else { 0.0 };
        let mut verdicts = Vec::new();
        for _ in 0..self.repeats {
            judgement.asked += 1;
            let read = |answer: String| reading::scores(&answer, &self.rubric.criterion);
            match self.ask(&prompt, temperature)?.and_then(read) {
                Ok(scores) => verdicts.push(scores),
                Err(reason) => judgement.unusable.push(reason),
            }
        }
        judgement.usable = verdicts.len();
        for (at, criterion) in self.rubric.criterion.iter().enumerate() {
            let scores = verdicts.iter().filter_map(|verdict| verdict.get(at).copied()).collect();
            if let Some(score) = Score::of(scores) {
                judgement.contradicts_itself |= score.most - score.least >= CONTRADICTION;
                judgement.scores.insert(criterion.name.clone(), score);
            }
        }
        Ok(judgement)
    }

    /// Asks which of two replies is better, in both orders; a preference counts only where both agree.
    ///
    /// # Errors
    /// As [`Judge::absolute`].
    pub fn pairwise(&self, case: &CaseRecord, reply_a: &str, reply_b: &str) -> Result<Preference, EvalError> {
        let mut preference = Preference { preferred: Preferred::Tie, position_bias: false, unusable: Vec::new() };
        if reply_a.trim() == reply_b.trim() {
            return Ok(preference);
        }
        let mut places = Vec::new();
        for (first, second) in [(reply_a, reply_b), (reply_b, reply_a)] {
            let (first, second) = (fence(first, SHOWN_CHARACTERS), fence(second, SHOWN_CHARACTERS));
            let message = fence(&case.message, SHOWN_CHARACTERS);
            let (evidence, criteria) = (shown_evidence(case), &self.rubric.criterion);
            let prompt = self.render("pairwise", context! { message, evidence, first, second, criteria })?;
            match self.ask(&prompt, 0.0)?.and_then(|answer| reading::place(&answer)) {
                Ok(place) => places.push(place),
                Err(reason) => preference.unusable.push(reason),
            }
        }
        preference.preferred = match places[..] {
            [Place::First, Place::Second] => Preferred::A,
            [Place::Second, Place::First] => Preferred::B,
            [_, _] => Preferred::Tie,
            _ => Preferred::Unknown,
        };
        preference.position_bias = matches!(places[..], [Place::First, Place::First] | [Place::Second, Place::Second]);
        Ok(preference)
    }

    fn render(&self, name: &str, values: minijinja::Value) -> anyhow::Result<String> {
        let template = self.prompts.get_template(name).context("a prompt of the judge is missing")?;
        template.render(values).context("a prompt of the judge cannot be filled in")
    }

    /// The answer, or why there is none this time.
    fn ask(&self, prompt: &str, temperature: f64) -> Result<Result<String, String>, EvalError> {
        match self.client.ask(SYSTEM, prompt, temperature) {
            Ok(answer) => {
                self.unanswered.store(0, Ordering::Relaxed);
                Ok(Ok(answer))
            }
            Err(Failure { lasting: true, reason }) => Err(anyhow!("the judge refuses: {reason}").into()),
            Err(Failure { lasting: false, reason }) => {
                let unanswered = self.unanswered.fetch_add(1, Ordering::Relaxed) + 1;
                if unanswered < PATIENCE {
                    return Ok(Err(reason));
                }
                Err(anyhow!("the judge has not answered {unanswered} requests in a row; the last: {reason}").into())
            }
        }
    }
}

impl Score {
    fn of(mut scores: Vec<u8>) -> Option<Self> {
        scores.sort_unstable();
        let (least, most) = (*scores.first()?, *scores.last()?);
        let (below, above) = (scores.get((scores.len() - 1) / 2)?, scores.get(scores.len() / 2)?);
        Some(Self { median: f64::from(below + above) / 2.0, least, most })
    }
}

fn shown_evidence(case: &CaseRecord) -> Vec<minijinja::Value> {
    let (items, characters) = SHOWN_EVIDENCE;
    let shown = |text: &str| fence(text, characters);
    let items = case.evidence.iter().take(items);
    items.map(|item| context! { title => shown(&item.title), text => shown(&item.text) }).collect()
}

/// Data cannot close the fence it stands in.
fn fence(text: &str, characters: usize) -> String {
    let mut text: String = text.trim().chars().take(characters).collect();
    for mark in ["<<<", ">>>"] {
        // Replacing may make a new one out of longer runs.
        while text.contains(mark) {
            text = text.replace(mark, &mark[..1]);
        }
    }
    text
}

#[cfg(test)]
mod tests;
