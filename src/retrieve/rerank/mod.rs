//! Which of what was found, and which of its sentences, an agent would build the reply on.
//!
//! The search says what is near. Whether it answers takes reading: the language model in process reads the request and then what was
//! found ([`crate::inference::opinion`]), and linear maps of its states, learnt from replies whose sentences name their evidence, give
//! each item and each sentence a probability to be used. It costs two to three
//! seconds on two cores, which the shorter replies save again, so it happens once a ticket is answered.

pub mod command;
pub mod fit;
pub mod train;

use std::collections::HashMap;
use std::path::Path;

use crate::draft::select::usable;
use crate::draft::text;
use crate::inference::opinion::{Matter, States};
use crate::ticket::{MemoryKind, Request, Retrieved};

/// Found items that are read, best first.
pub const ITEMS: usize = 6;
/// Estimated tokens of an item's sentences that are read: two to three seconds for all items on two cores.
const ITEM_TOKENS: usize = 130;
/// Characters of what a ticket was about, and of an article's title, that stand before its sentences.
const HEAD_CHARACTERS: usize = 160;
/// First bytes of a file of weights.
const MAGIC: &[u8; 4] = b"RRNK";
/// Version of the file and of what is read.
const FORMAT_VERSION: u32 = 1;
/// Longer headers are damage.
const MAX_NAME_BYTES: usize = 1_000;

static WEIGHTS: &[u8] = include_bytes!("../../../models/rerank.bin");

#[derive(Debug, thiserror::Error)]
pub enum RerankError {
    #[error("{path}: {reason}")]
    File { path: String, reason: String },
    #[error("weights for what serves a reply: {0}; make them again with `respondo train rerank`")]
    Damaged(String),
    #[error("training rows: {0}")]
    Rows(String),
}

/// Item, and place of the sentence among the item's; None for its title.
type At = (usize, Option<usize>);

/// What is read of what was found, and where each piece stands.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Where each piece stands, in order.
    at: Vec<At>,
    pub matter: Matter,
}

impl Sources {
    /// The first [`ITEMS`] of `found` in pieces, each as far as there is room.
    pub fn of(request: &Request, found: &[Retrieved]) -> Self {
        let mut sources = Self { at: Vec::new(), matter: Matter::request(request.text()) };
        for (item, found) in found.iter().enumerate().take(ITEMS) {
            let mut pieces = vec![format!("[{}] {}\n", item + 1, head(found))];
            sources.at.push((item, None));
            let mut left = ITEM_TOKENS;
            for (order, sentence) in usable(found, &mut Vec::new()) {
                let cost = text::estimate_tokens(sentence);
                if cost > left && left < ITEM_TOKENS {
                    break;
                }
                left = left.saturating_sub(cost);
                pieces.push(format!("{sentence}\n"));
                sources.at.push((item, Some(order)));
            }
            sources.matter.sources.push(pieces);
        }
        sources
    }
}

/// What an item is about.
fn head(found: &Retrieved) -> String {
    let item = &found.item;
    let about = match item.kind {
        MemoryKind::Article => item.title.clone(),
        MemoryKind::Ticket if item.title.is_empty() => item.problem.clone(),
        MemoryKind::Ticket => format!("{}. {}", item.title, item.problem),
    };
    about.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(HEAD_CHARACTERS).collect()
}

/// A linear map to one score.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    pub weights: Vec<f32>,
    pub bias: f32,
}

impl Score {
    /// Of the parts, one behind the other.
    fn of(&self, parts: &[&[f32]]) -> f32 {
        let values = parts.iter().flat_map(|part| part.iter());
        self.bias + self.weights.iter().zip(values).map(|(weight, value)| weight * value).sum::<f32>()
    }
}

/// How far what was found serves a reply.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    /// Log odds that an agent would use the item, in the order found; fewer than the items where not all were read.
    pub items: Vec<f32>,
    /// Probability to be used, by item and place of the sentence in it.
    pub sentences: HashMap<(usize, usize), f32>,
}

/// What reads the states.
#[derive(Clone, Debug, PartialEq)]
pub struct Reranker {
    /// [`crate::inference::Inference::sources_name`] of the states that it was made for.
    pub states: String,
    /// Of an item's mean state.
    item: Score,
    /// Of a sentence's state and its item's.
    sentence: Score,
    /// Whether all of it answers the request.
    pub fit: fit::Fit,
}

impl Reranker {
    /// The one that comes with the program.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn embedded() -> Result<Self, RerankError> {
        Self::from_bytes(WEIGHTS)
    }

    /// Loads what `respondo train rerank` wrote.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn load(path: &Path) -> Result<Self, RerankError> {
        let failed = |reason: String| RerankError::File { path: path.display().to_string(), reason };
        let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
        Self::from_bytes(&bytes).map_err(|error| failed(error.to_string()))
    }

    /// None where no model here gives the states that it was made for.
    pub fn for_states(self, name: Option<&str>) -> Option<Self> {
        if name.is_some_and(|name| name != self.states) {
            let trained = &self.states;
            tracing::warn!(trained, running = name, "what was found is not read: trained with another language model");
        }
        (name == Some(&self.states)).then_some(self)
    }

    /// SHA-256 (hexadecimal) of the weights.
    pub fn digest(&self) -> String {
        crate::store::sha256_hex(self.to_bytes())
    }

    /// What the states of `sources` say of them; None where they are of another length.
    pub fn weigh(&self, sources: &Sources, states: &States) -> Option<Weights> {
        let width = self.item.weights.len();
        let read = || sources.at.iter().zip(states).filter(|(_, state)| !state.is_empty());
        if states.len() != sources.at.len() || read().any(|(_, state)| state.len() != width) {
            return None;
        }
        let means = item_means(sources, states);
        let mut weights =
            Weights { items: means.iter().map(|mean| self.item.of(&[mean])).collect(), ..Weights::default() };
        for ((item, order), state) in read() {
            if let (Some(order), Some(mean)) = (order, means.get(*item)) {
                let probability = sigmoid(self.sentence.of(&[state, mean]));
                weights.sentences.insert((*item, *order), probability);
            }
        }
        weights.items.iter().all(|odds| odds.is_finite()).then_some(weights)
    }

    /// Layout, little endian: `RRNK`, u32 format version, u32 length of the name of the states, the name, u32 width; f32: weights and bias of
    /// items, of sentences, of the fit.
    fn from_bytes(bytes: &[u8]) -> Result<Self, RerankError> {
        let cut = || RerankError::Damaged("the file is cut short".to_owned());
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| RerankError::Damaged("this is no such file".to_owned()))?;
        let word = |rest: &[u8]| rest.first_chunk::<4>().map(|word| u32::from_le_bytes(*word)).ok_or_else(cut);
        let format = word(rest)?;
        if format != FORMAT_VERSION {
            return Err(RerankError::Damaged(format!("format {format} is not {FORMAT_VERSION}")));
        }
        let length = word(rest.get(4..).unwrap_or_default())? as usize;
        let name = rest.get(8..).and_then(|rest| rest.get(..length.min(MAX_NAME_BYTES))).ok_or_else(cut)?;
        let states = std::str::from_utf8(name).map_err(|error| RerankError::Damaged(error.to_string()))?.to_owned();
        let rest = rest.get(8 + length..).ok_or_else(cut)?;
        let width = word(rest)? as usize;
        let numbers = rest.get(4..).unwrap_or_default();
        let expected = width.saturating_mul(3).saturating_add(2 + fit::NUMBERS).saturating_mul(4);
        if numbers.len() != expected {
            return Err(RerankError::Damaged(format!("{} bytes of weights instead of {expected}", numbers.len())));
        }
        let mut numbers =
            numbers.chunks_exact(4).filter_map(|four| four.first_chunk::<4>()).map(|n| f32::from_le_bytes(*n));
        let mut score = |count: usize| {
            let weights = numbers.by_ref().take(count).collect();
            Score { weights, bias: numbers.next().unwrap_or_default() }
        };
        let (item, sentence) = (score(width), score(2 * width));
        let fit = fit::Fit::from_numbers(std::array::from_fn(|_| numbers.next().unwrap_or_default()));
        let reranker = Self { states, item, sentence, fit };
        let is_whole = reranker.numbers().all(f32::is_finite);
        is_whole.then_some(reranker).ok_or_else(|| RerankError::Damaged("a weight is no number".to_owned()))
    }

    fn numbers(&self) -> impl Iterator<Item = f32> {
        let scores = [&self.item, &self.sentence].into_iter();
        scores.flat_map(|score| score.weights.iter().copied().chain([score.bias])).chain(self.fit.numbers())
    }

    /// As [`Reranker::load`] reads it.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend((self.states.len() as u32).to_le_bytes());
        bytes.extend(self.states.as_bytes());
        bytes.extend((self.item.weights.len() as u32).to_le_bytes());
        bytes.extend(self.numbers().flat_map(f32::to_le_bytes));
        bytes
    }
}

/// Mean state of the pieces of each item that was read.
fn item_means(sources: &Sources, states: &States) -> Vec<Vec<f32>> {
    let mut means: Vec<(Vec<f32>, f32)> = Vec::new();
    for ((item, _), state) in sources.at.iter().zip(states).filter(|(_, state)| !state.is_empty()) {
        if means.len() <= *item {
            means.resize_with(*item + 1, || (vec![0.0; state.len()], 0.0));
        }
        if let Some((sum, count)) = means.get_mut(*item) {
            sum.iter_mut().zip(state).for_each(|(sum, value)| *sum += value);
            *count += 1.0;
        }
    }
    let mean = |(sum, count): (Vec<f32>, f32)| sum.into_iter().map(|value| value / count.max(1.0)).collect();
    means.into_iter().map(mean).collect()
}

fn sigmoid(score: f32) -> f32 {
    1.0 / (1.0 + (-score).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::select::tests::{found, request};
    use crate::ticket::Language;

    fn sample() -> Reranker {
        let item = Score { weights: vec![1.0, -1.0], bias: 0.5 };
        let sentence = Score { weights: vec![2.0, 0.0, 0.0, 1.0], bias: -1.0 };
        Reranker {
            states: "model-sources-1".to_owned(),
            item,
            sentence,
            fit: fit::Fit::from_numbers([0.1, 1.0, 0.5, 0.2]),
        }
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_damage_is_refused() {
        let bytes = sample().to_bytes();
        assert_eq!(Reranker::from_bytes(&bytes).expect("whole"), sample());
        for end in 0..bytes.len() {
            assert!(Reranker::from_bytes(&bytes[..end]).is_err(), "{end} bytes");
        }
        let mut wrong = bytes.clone();
        let last = wrong.len() - 4;
        wrong[last..].copy_from_slice(&f32::NAN.to_le_bytes());
        assert!(Reranker::from_bytes(&wrong).expect_err("no number").to_string().contains("no number"));
        assert!(Reranker::from_bytes(b"GGUF").expect_err("another file").to_string().contains("no such file"));
        assert_eq!(sample().for_states(Some("another")), None);
        assert_eq!(sample().for_states(Some("model-sources-1")), Some(sample()));
    }

    #[test]
    fn items_and_sentences_are_weighed_where_they_stand() {
        let items = [
            found("a", Language::EN, "Hello! Open Menu > Settings. Then click on Repair.", 1.0),
            found("b", Language::EN, "Restart the router and wait for a minute.", 0.9),
        ];
        let sources = Sources::of(&request("Mail", "No mail arrives", Language::EN), &items);
        assert_eq!(sources.at, [(0, None), (0, Some(1)), (0, Some(2)), (1, None), (1, Some(0))]);
        assert_eq!(sources.matter.sources[0][1], "Open Menu > Settings.\n");
        let states = vec![vec![0.0, 0.0], vec![3.0, 0.0], vec![0.0, 3.0], vec![0.0, 2.0], vec![0.0, 0.0]];
        let weights = sample().weigh(&sources, &states).expect("of this length");
        assert_eq!(weights.items, [0.5, -0.5]);
        assert!((weights.sentences[&(0, 1)] - sigmoid(6.0)).abs() < 1e-6);
        assert!((weights.sentences[&(0, 2)] - sigmoid(0.0)).abs() < 1e-6);
        // What there was no room for has no states and no weight.
        let fewer = vec![vec![0.0, 0.0], vec![3.0, 0.0], vec![0.0, 3.0], Vec::new(), Vec::new()];
        let weights = sample().weigh(&sources, &fewer).expect("of this length");
        assert_eq!((weights.items.len(), weights.sentences.len()), (1, 2));
        assert_eq!(sample().weigh(&sources, &vec![vec![0.0]; 5]), None);
        assert_eq!(sample().weigh(&sources, &Vec::new()), None);
    }

    #[test]
    fn what_comes_with_the_program_can_be_read() {
        let reranker = Reranker::embedded().expect("models/rerank.bin is whole");
        assert!(reranker.states.contains("sources"), "{}", reranker.states);
    }
}
