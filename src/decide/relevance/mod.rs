//! How probable it is that what was found answers the request at all.
//!
//! A cosine does not tell: unrelated texts of one language are nearly as close as related ones. What tells is closeness,
//! shared words and steps to follow taken together, so a logistic regression weighs eight such facts. None of them knows a
//! word of any product, so the weights carry over to a memory that they were not trained on; `docs/EVALUATION.md` says how far.

pub mod command;
pub mod compare;
pub mod train;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::draft::select::{is_idle, is_step};
use crate::draft::text::folded_pattern;
use crate::retrieve::bm25::analyze;
use crate::ticket::{Request, Retrieved};

/// Version of the facts below; weights of another one are refused.
pub const VERSION: u32 = 1;
/// Found items that are looked at, best first.
const ITEMS: usize = 5;
/// Of these, items whose steps are counted: what a reply rests on.
const STEP_ITEMS: usize = 3;
/// Characters read of each text: what it is about stands at its beginning, and long texts share words with anything.
const CHARACTERS: usize = 600;
/// Characters of a ticket's text that stand in for a missing title.
const TITLE_CHARACTERS: usize = 80;
/// Terms read of each text.
const TERMS: usize = 256;
/// Shorter sentences tell nobody what to do.
const MIN_STEP_WORDS: usize = 3;
/// Number of facts.
pub const FACTS: usize = 8;

static WEIGHTS: &str = include_str!("../../../models/relevance.toml");

#[derive(Debug, thiserror::Error)]
pub enum RelevanceError {
    #[error("{path}: {reason}")]
    File { path: String, reason: String },
    #[error("weights of evidence relevance: {0}; make them again with `respondo train relevance`")]
    Weights(String),
    #[error("training rows: {0}")]
    Rows(String),
}

/// What is weighed, by name, as in the weights' file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// Greatest similarity of an item (cosine, -1 to 1).
    pub closest: f64,
    /// Similarity of the item that is ranked first.
    pub first: f64,
    /// Mean similarity of the items.
    pub mean: f64,
    /// Share of the request's distinct terms that the first item holds, 0 to 1.
    pub first_coverage: f64,
    /// The same of the item that holds most of them.
    pub best_coverage: f64,
    /// ln(1 + number of the request's terms in the item that holds most of them).
    pub shared_terms: f64,
    /// Share of the terms in the first item's title that the request holds, 0 to 1.
    pub title: f64,
    /// ln(1 + number of sentences in the first three items that say what to do).
    pub steps: f64,
}

impl Facts {
    /// What `found` (best first) looks like beside `request`.
    pub fn of(request: &Request, found: &[Retrieved]) -> Self {
        let found = &found[..found.len().min(ITEMS)];
        let similarities: Vec<f64> = found.iter().map(|item| cosine(item.similarity)).collect();
        let asked = terms(&request.text(), request.language.code());
        let count = |item: &Retrieved| {
            let words = words_of(item);
            asked.iter().filter(|term| words.contains(*term)).count()
        };
        let shared: Vec<usize> = found.iter().map(count).collect();
        let most = shared.iter().copied().max().unwrap_or(0);
        let share = |count: usize| count as f64 / asked.len().max(1) as f64;
        let steps: usize = found.iter().take(STEP_ITEMS).map(|item| steps(head(&item.passage, CHARACTERS))).sum();
        Self {
            closest: similarities.iter().copied().fold(0.0, f64::max),
            first: similarities.first().copied().unwrap_or(0.0),
            mean: similarities.iter().sum::<f64>() / similarities.len().max(1) as f64,
            first_coverage: share(shared.first().copied().unwrap_or(0)),
            best_coverage: share(most),
            shared_terms: (most as f64).ln_1p(),
            title: found.first().map_or(0.0, |item| title_share(item, &asked)),
            steps: (steps as f64).ln_1p(),
        }
    }

    /// In the order of the fields.
    pub fn values(&self) -> [f64; FACTS] {
        [
            self.closest,
            self.first,
            self.mean,
            self.first_coverage,
            self.best_coverage,
            self.shared_terms,
            self.title,
            self.steps,
        ]
    }

    /// The reverse of [`Facts::values`].
    pub fn from_values(values: [f64; FACTS]) -> Self {
        let [closest, first, mean, first_coverage, best_coverage, shared_terms, title, steps] = values;
        Self { closest, first, mean, first_coverage, best_coverage, shared_terms, title, steps }
    }
}

/// Weights of the facts, as the file holds them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelevanceModel {
    /// [`VERSION`] of the facts.
    version: u32,
    /// Name of the embedder whose cosines were seen in training.
    embedder: String,
    bias: f64,
    /// Names of the memories that they were learnt from.
    #[serde(default)]
    memories: Vec<String>,
    weights: Facts,
}

impl RelevanceModel {
    /// # Errors
    /// When a weight is no number.
    pub fn new(embedder: &str, bias: f64, weights: Facts) -> Result<Self, RelevanceError> {
        Self { version: VERSION, embedder: embedder.to_owned(), bias, memories: Vec::new(), weights }.checked()
    }

    /// The weights that come with the program.
    ///
    /// # Errors
    /// When the program was built with weights of other facts.
    pub fn embedded() -> Result<Self, RelevanceError> {
        Self::parse(WEIGHTS)
    }

    /// Loads weights that `respondo train relevance` wrote.
    ///
    /// # Errors
    /// When the file cannot be read or was made for other facts.
    pub fn load(path: &Path) -> Result<Self, RelevanceError> {
        let failed = |reason: String| RelevanceError::File { path: path.display().to_string(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        Self::parse(&text).map_err(|error| failed(error.to_string()))
    }

    fn parse(text: &str) -> Result<Self, RelevanceError> {
        toml::from_str::<Self>(text).map_err(|error| RelevanceError::Weights(error.to_string()))?.checked()
    }

    fn checked(self) -> Result<Self, RelevanceError> {
        if self.version != VERSION {
            let reason = format!("version {}, this program reads {VERSION}", self.version);
            return Err(RelevanceError::Weights(reason));
        }
        if !self.bias.is_finite() || self.weights.values().iter().any(|weight| !weight.is_finite()) {
            return Err(RelevanceError::Weights("a weight is not a finite number".to_owned()));
        }
        Ok(self)
    }

    /// As it is written to a file.
    ///
    /// # Errors
    /// When it cannot be written as TOML.
    pub fn to_toml(&self) -> Result<String, RelevanceError> {
        toml::to_string(self).map_err(|error| RelevanceError::Weights(error.to_string()))
    }

    /// SHA-256 (hexadecimal) of the weights.
    pub fn digest(&self) -> String {
        crate::store::sha256_hex(format!("{self:?}").as_bytes())
    }

    /// None where the running embedder is another one: its cosines mean something else, and nothing is said.
    pub fn for_embedder(self, name: &str) -> Option<Self> {
        if self.embedder != name {
            let trained = &self.embedder;
            tracing::warn!(trained, running = name, "fit of evidence is not judged: trained with another embedder");
            return None;
        }
        Some(self)
    }

    /// Calibrated probability, 0 to 1, that `found` (best first) answers `request`, at least in part. 0 where nothing was
    /// found. Half of the requests seen in training were answered; where far fewer are, it says too much.
    pub fn probability(&self, request: &Request, found: &[Retrieved]) -> f32 {
        if found.is_empty() {
            return 0.0;
        }
        self.of_facts(&Facts::of(request, found)) as f32
    }

    /// The same, of facts already taken.
    pub fn of_facts(&self, facts: &Facts) -> f64 {
        let weighed = self.weights.values().into_iter().zip(facts.values()).map(|(weight, fact)| weight * fact);
        1.0 / (1.0 + (-(self.bias + weighed.sum::<f64>())).exp())
    }
}

/// A similarity as a fact; one that is no number speaks for nothing.
fn cosine(similarity: f32) -> f64 {
    if similarity.is_finite() { f64::from(similarity.clamp(-1.0, 1.0)) } else { 0.0 }
}

fn head(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).map_or(text, |(end, _)| text.get(..end).unwrap_or(text))
}

fn terms(text: &str, language: &str) -> BTreeSet<String> {
    analyze(text, language, TERMS).into_iter().collect()
}

/// Distinct terms of an item's title, problem and passage. Each text is read in its own language: across languages, names,
/// codes and loan words are what can be shared.
fn words_of(found: &Retrieved) -> BTreeSet<String> {
    let (item, language) = (&found.item, found.item.language.code());
    let mut words = terms(&item.title, language);
    words.extend(terms(head(&item.problem, CHARACTERS), language));
    words.extend(terms(head(&found.passage, CHARACTERS), language));
    words
}

fn title_share(found: &Retrieved, asked: &BTreeSet<String>) -> f64 {
    let language = found.item.language.code();
    let mut title = terms(&found.item.title, language);
    if title.is_empty() {
        title = terms(head(&found.item.problem, TITLE_CHARACTERS), language);
    }
    title.intersection(asked).count() as f64 / title.len().max(1) as f64
}

/// Sentences that say what to do; a colon ends one too, since lists of steps follow it.
fn steps(text: &str) -> usize {
    static ENDS: LazyLock<Regex> = LazyLock::new(|| folded_pattern(r"[.!?:]\s+|\n+"));
    let mut start = 0;
    let mut sentences = Vec::new();
    for end in ENDS.find_iter(text) {
        // The mark belongs to its sentence: a question is told by it.
        let mark = usize::from(!end.as_str().starts_with('\n'));
        sentences.push(text.get(start..end.start() + mark).unwrap_or_default());
        start = end.end();
    }
    sentences.push(text.get(start..).unwrap_or_default());
    let says_what_to_do = |sentence: &&&str| {
        sentence.split_whitespace().count() >= MIN_STEP_WORDS && !is_idle(sentence) && is_step(sentence)
    };
    sentences.iter().filter(says_what_to_do).count()
}

#[cfg(test)]
mod tests;
