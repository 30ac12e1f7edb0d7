//! Learns what serves a reply: logistic regressions on the states of what was found.
//!
//! What an agent's reply rests on says which items serve; which of their sentences, the words that both share. Requests are split in
//! folds by their words, and every figure is of folds that the weights have not seen.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::fit::{Fit, NUMBERS, features};
use super::{RerankError, Reranker, Score, Sources, item_means};
use crate::decide::relevance::RelevanceModel;
use crate::decide::relevance::train::auc;
use crate::draft::text::content_stems;
use crate::inference::opinion::States;
use crate::ticket::{Language, Request, Retrieved};
use crate::triage::optimise::minimise;

const FOLDS: usize = 5;
const STEPS: usize = 120;
/// Penalties on the squared weights that are tried, beside the mean loss over standardised states.
const RIDGES: [f64; 3] = [0.03, 0.1, 0.3];
/// The same of the few numbers of the fit.
const FIT_RIDGE: f64 = 1e-3;
/// Share of the stems of the shorter of two sentences that both must have for one to rest on the other.
const SHARED: f64 = 0.4;
/// Sentences of fewer stems are used or not by accident.
const LEAST_STEMS: usize = 2;

/// A request, what was found for it, and what is known of how it serves.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Row {
    /// Name of the memory that was searched.
    pub memory: String,
    #[serde(default)]
    pub subject: String,
    pub body: String,
    /// ISO 639-1.
    pub language: String,
    /// Best first.
    pub evidence: Vec<Retrieved>,
    /// Whether what was found answers the request.
    #[serde(default)]
    pub fits: Option<bool>,
    /// Ids of the items that an agent would use, where it is known of every one.
    #[serde(default)]
    pub serves: Option<Vec<String>>,
    /// The agent's reply, where it names its evidence.
    #[serde(default)]
    pub reply: Vec<Quoting>,
}

/// A sentence of a reply and the ids of the items that it rests on.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Quoting {
    pub text: String,
    #[serde(default)]
    pub evidence: Vec<String>,
}

/// A row as it is learnt from.
pub struct Example {
    memory: String,
    fold: usize,
    /// Probability by the facts of the search.
    facts: f32,
    fits: Option<bool>,
    /// Mean states of the items that were read, and whether each serves.
    items: Vec<(Vec<f32>, Option<bool>)>,
    /// Item and state of the sentences of which it is known whether they are used.
    sentences: Vec<(usize, Vec<f32>, bool)>,
}

impl Row {
    pub fn request(&self) -> Request {
        Request {
            subject: self.subject.clone(),
            body: self.body.clone(),
            language: Language::new(&self.language),
            product: None,
            queue: None,
            exclude: Vec::new(),
        }
    }

    /// Whether the item is one that the agent used.
    fn serves(&self, item: usize) -> Option<bool> {
        let id = &self.evidence.get(item)?.item.id;
        Some(self.serves.as_ref()?.contains(id))
    }

    /// Whether a sentence of the item stands in the reply; None where its words do not tell.
    fn is_used(&self, item: usize, sentence: &str) -> Option<bool> {
        if !self.serves(item)? {
            return Some(false);
        }
        let found = &self.evidence.get(item)?.item;
        let own = stems(sentence);
        // Words do not tell across languages.
        if own.len() < LEAST_STEMS || found.language.code() != self.language || self.reply.is_empty() {
            return None;
        }
        let shared = |quoting: &Quoting| {
            let other = stems(&quoting.text);
            let both = own.iter().filter(|stem| other.contains(stem)).count();
            both as f64 / own.len().min(other.len()).max(1) as f64
        };
        let resting = self.reply.iter().filter(|quoting| quoting.evidence.contains(&found.id));
        Some(resting.map(shared).fold(0.0, f64::max) >= SHARED)
    }
}

fn stems(text: &str) -> Vec<String> {
    let mut stems = content_stems(text);
    stems.sort();
    stems.dedup();
    stems
}

impl Example {
    /// Of a row whose `sources` have these states.
    pub fn of(row: &Row, sources: &Sources, states: &States, relevance: &RelevanceModel) -> Self {
        let request = row.request();
        let means = item_means(sources, states);
        let items = means.into_iter().enumerate().map(|(item, mean)| (mean, row.serves(item))).collect();
        let mut sentences = Vec::new();
        for ((at, state), text) in sources.at.iter().zip(states).zip(sources.matter.sources.iter().flatten()) {
            if let (item, Some(_)) = *at
                && !state.is_empty()
                && let Some(used) = row.is_used(item, text)
            {
                sentences.push((item, state.clone(), used));
            }
        }
        let digest = crate::store::sha256_hex(request.text().as_bytes());
        let fold = digest.bytes().take(8).fold(0, |sum, byte| sum * 31 + usize::from(byte)) % FOLDS;
        let facts = relevance.probability(&request, &row.evidence);
        Self { memory: row.memory.clone(), fold, facts, fits: row.fits, items, sentences }
    }
}

/// How weights from other folds judge the rows of one memory, or of all.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    pub name: String,
    /// Items, sentences and requests with a label, and the area under the ROC curve of each; NaN where there is one kind alone.
    pub items: (usize, f64),
    pub sentences: (usize, f64),
    pub fits: (usize, f64),
    /// The same of the requests by the facts of the search alone.
    pub by_facts: f64,
}

/// Learns from all examples, and judges them by folds.
///
/// # Errors
/// When there is nothing to learn from.
pub fn train(
    examples: &[Example],
    states: &str,
    progress: &mut dyn FnMut(&str),
) -> Result<(Reranker, Vec<Figures>), RerankError> {
    let items = Table::items(examples)?;
    let sentences = Table::sentences(examples)?;
    let (item_ridge, item_folds) = items.by_folds("items", progress);
    let (sentence_ridge, sentence_folds) = sentences.by_folds("sentences", progress);
    let unseen: Vec<Vec<f32>> = examples
        .iter()
        .map(|example| example.items.iter().map(|(mean, _)| item_folds[example.fold].of(&[mean])).collect())
        .collect();
    let fit_rows: Vec<FitRow> =
        examples.iter().zip(&unseen).filter_map(|(example, items)| FitRow::of(example, items)).collect();
    let figures = figures(examples, &unseen, &sentence_folds, &fit_rows);
    let reranker = Reranker {
        states: states.to_owned(),
        item: items.learn(item_ridge, None),
        sentence: sentences.learn(sentence_ridge, None),
        fit: learn_fit(&fit_rows.iter().collect::<Vec<_>>()),
    };
    Ok((reranker, figures))
}

/// Examples of the memories of which both kinds are known: from one alone nothing but the memory would be learnt.
fn telling(examples: &[Example], truths: impl Fn(&Example) -> Vec<bool>) -> impl Iterator<Item = &Example> {
    let has = |memory: &str, wanted: bool| {
        examples.iter().any(|example| example.memory == memory && truths(example).contains(&wanted))
    };
    let kept: HashSet<&str> = examples.iter().map(|example| example.memory.as_str()).collect();
    let kept: HashSet<&str> = kept.into_iter().filter(|memory| has(memory, true) && has(memory, false)).collect();
    examples.iter().filter(move |example| kept.contains(example.memory.as_str()))
}

/// Rows of numbers in one block, each with its fold and its truth.
struct Table {
    width: usize,
    values: Vec<f32>,
    truths: Vec<bool>,
    folds: Vec<usize>,
    mean: Vec<f32>,
    scale: Vec<f32>,
}

impl Table {
    fn items(examples: &[Example]) -> Result<Self, RerankError> {
        let truths = |example: &Example| example.items.iter().filter_map(|(_, serves)| *serves).collect();
        let rows = telling(examples, truths).flat_map(|example| {
            example.items.iter().filter_map(|(mean, serves)| Some((vec![mean.as_slice()], (*serves)?, example.fold)))
        });
        Self::of(rows)
    }

    fn sentences(examples: &[Example]) -> Result<Self, RerankError> {
        let truths = |example: &Example| example.sentences.iter().map(|(.., used)| *used).collect();
        let rows = telling(examples, truths).flat_map(|example| {
            example.sentences.iter().filter_map(|(item, state, used)| {
                Some((vec![state.as_slice(), example.items.get(*item)?.0.as_slice()], *used, example.fold))
            })
        });
        Self::of(rows)
    }

    fn of<'a>(rows: impl Iterator<Item = (Vec<&'a [f32]>, bool, usize)>) -> Result<Self, RerankError> {
        let mut table = Self {
            width: 0,
            values: Vec::new(),
            truths: Vec::new(),
            folds: Vec::new(),
            mean: Vec::new(),
            scale: Vec::new(),
        };
        for (parts, truth, fold) in rows {
            table.width = parts.iter().map(|part| part.len()).sum();
            parts.iter().for_each(|part| table.values.extend_from_slice(part));
            table.truths.push(truth);
            table.folds.push(fold);
        }
        if table.truths.iter().all(|truth| *truth) || !table.truths.contains(&true) {
            return Err(RerankError::Rows(
                "there must be items and sentences that are used and others that are not".to_owned(),
            ));
        }
        table.standardise();
        Ok(table)
    }

    /// To mean 0 and deviation 1: a few numbers of a language model are a thousand times the others.
    fn standardise(&mut self) {
        let count = self.truths.len() as f64;
        let (mut mean, mut squares) = (vec![0.0f64; self.width], vec![0.0f64; self.width]);
        for row in self.values.chunks_exact(self.width) {
            for (at, value) in row.iter().enumerate() {
                mean[at] += f64::from(*value) / count;
                squares[at] += f64::from(*value).powi(2) / count;
            }
        }
        let deviation = |(mean, square): (&f64, &f64)| (square - mean * mean).max(1e-12).sqrt();
        self.scale = mean.iter().zip(&squares).map(|both| (1.0 / deviation(both)) as f32).collect();
        self.mean = mean.into_iter().map(|value| value as f32).collect();
        for row in self.values.chunks_exact_mut(self.width) {
            row.iter_mut()
                .zip(&self.mean)
                .zip(&self.scale)
                .for_each(|((value, mean), scale)| *value = (*value - mean) * scale);
        }
    }

    /// For each fold, weights from the others, by the penalty under which those judge best.
    fn by_folds(&self, what: &str, progress: &mut dyn FnMut(&str)) -> (f64, Vec<Score>) {
        let mut best: Option<(f64, f64, Vec<Score>)> = None;
        for ridge in RIDGES {
            let scores: Vec<Score> = (0..FOLDS).map(|fold| self.learn(ridge, Some(fold))).collect();
            let loss = self.loss(&scores);
            progress(&format!(
                "{what}: {} rows, penalty {ridge}: log loss of unseen folds {loss:.4}",
                self.truths.len()
            ));
            if best.as_ref().is_none_or(|(lowest, ..)| loss < *lowest) {
                best = Some((loss, ridge, scores));
            }
        }
        best.map(|(_, ridge, scores)| (ridge, scores)).unwrap_or_default()
    }

    fn loss(&self, scores: &[Score]) -> f64 {
        let raw = |row: &[f32]| -> Vec<f32> {
            row.iter().zip(&self.mean).zip(&self.scale).map(|((value, mean), scale)| value / scale + mean).collect()
        };
        let rows = self.values.chunks_exact(self.width).zip(&self.truths).zip(&self.folds);
        let losses =
            rows.map(|((row, truth), fold)| softplus(-sign(*truth) * f64::from(scores[*fold].of(&[&raw(row)]))));
        losses.sum::<f64>() / self.truths.len() as f64
    }

    /// Logistic regression on all rows but those of `without`; the weights are for states as they come from the model.
    fn learn(&self, ridge: f64, without: Option<usize>) -> Score {
        let width = self.width;
        let kept: Vec<usize> = (0..self.truths.len()).filter(|at| Some(self.folds[*at]) != without).collect();
        let share = 1.0 / kept.len().max(1) as f64;
        let point = minimise(vec![0.0; width + 1], STEPS, |point, gradient| {
            let weights: Vec<f32> = point.iter().map(|value| *value as f32).collect();
            let mut slopes = vec![0.0f32; width];
            let (mut value, mut bias_slope) = (0.0, 0.0);
            for at in &kept {
                let row = &self.values[at * width..(at + 1) * width];
                let score = point[width] + f64::from(row.iter().zip(&weights).map(|(a, b)| a * b).sum::<f32>());
                let sign = sign(self.truths[*at]);
                value += share * softplus(-sign * score);
                let pull = -share * sign / (1.0 + (sign * score).exp());
                slopes.iter_mut().zip(row).for_each(|(slope, value)| *slope += pull as f32 * value);
                bias_slope += pull;
            }
            for ((slope, from), at) in gradient.iter_mut().zip(&slopes).zip(point) {
                value += ridge / 2.0 * at * at;
                *slope = f64::from(*from) + ridge * at;
            }
            gradient[width] = bias_slope;
            value
        });
        let weights: Vec<f32> = point.iter().zip(&self.scale).map(|(weight, scale)| *weight as f32 * scale).collect();
        let moved: f64 = weights.iter().zip(&self.mean).map(|(weight, mean)| f64::from(weight * mean)).sum();
        Score { weights, bias: (point[width] - moved) as f32 }
    }
}

/// A request of which it is known whether what was found answers it.
struct FitRow {
    memory: String,
    fold: usize,
    facts: f32,
    features: [f32; NUMBERS - 1],
    fits: bool,
}

impl FitRow {
    fn of(example: &Example, items: &[f32]) -> Option<Self> {
        let features = features(example.facts, items);
        let Example { memory, fold, facts, .. } = example;
        Some(Self {
            memory: memory.clone(),
            fold: *fold,
            facts: *facts,
            features,
            fits: example.fits.filter(|_| !items.is_empty())?,
        })
    }
}

/// Every memory counts the same, and so do its answered and its unanswered requests: their shares are an accident of how rows were collected.
fn learn_fit(rows: &[&FitRow]) -> Fit {
    let count = |of: &FitRow| rows.iter().filter(|row| row.memory == of.memory && row.fits == of.fits).count();
    let weights: Vec<f64> = rows.iter().map(|row| 1.0 / count(row) as f64).collect();
    let total: f64 = weights.iter().sum();
    let point = minimise(vec![0.0; NUMBERS], STEPS, |point, gradient| {
        gradient.fill(0.0);
        let mut value = 0.0;
        for (row, weight) in rows.iter().zip(&weights) {
            let score = point[0] + point[1..].iter().zip(row.features).map(|(a, b)| a * f64::from(b)).sum::<f64>();
            let sign = sign(row.fits);
            value += weight / total * softplus(-sign * score);
            let pull = -weight / total * sign / (1.0 + (sign * score).exp());
            gradient[0] += pull;
            gradient[1..].iter_mut().zip(row.features).for_each(|(slope, feature)| *slope += pull * f64::from(feature));
        }
        for (slope, at) in gradient.iter_mut().zip(point).skip(1) {
            value += FIT_RIDGE / 2.0 * at * at;
            *slope += FIT_RIDGE * at;
        }
        value
    });
    Fit::from_numbers(std::array::from_fn(|at| point[at] as f32))
}

fn figures(examples: &[Example], unseen: &[Vec<f32>], sentence_folds: &[Score], fit_rows: &[FitRow]) -> Vec<Figures> {
    let fits: Vec<Fit> =
        (0..FOLDS).map(|fold| learn_fit(&fit_rows.iter().filter(|row| row.fold != fold).collect::<Vec<_>>())).collect();
    let mut memories: Vec<&str> = examples.iter().map(|example| example.memory.as_str()).collect();
    memories.sort_unstable();
    memories.dedup();
    let of = |memory: &str| {
        let own = examples.iter().zip(unseen).filter(|(example, _)| example.memory == memory);
        let mut items = Vec::new();
        let mut sentences = Vec::new();
        for (example, odds) in own {
            items.extend(
                example.items.iter().zip(odds).filter_map(|((_, serves), odds)| Some((f64::from(*odds), (*serves)?))),
            );
            sentences.extend(example.sentences.iter().filter_map(|(item, state, used)| {
                let odds = sentence_folds[example.fold].of(&[state, example.items.get(*item)?.0.as_slice()]);
                Some((f64::from(odds), *used))
            }));
        }
        let rows = || fit_rows.iter().filter(|row| row.memory == memory);
        let read = rows().map(|row| {
            let [facts, best, all] = row.features;
            let fit = &fits[row.fold];
            (f64::from(fit.bias + fit.facts * facts + fit.best * best + fit.all * all), row.fits)
        });
        let read: Vec<(f64, bool)> = read.collect();
        let by_facts: Vec<(f64, bool)> = rows().map(|row| (f64::from(row.facts), row.fits)).collect();
        Figures {
            name: memory.to_owned(),
            items: (items.len(), auc(&items)),
            sentences: (sentences.len(), auc(&sentences)),
            fits: (read.len(), auc(&read)),
            by_facts: auc(&by_facts),
        }
    };
    memories.into_iter().map(of).collect()
}

fn sign(truth: bool) -> f64 {
    if truth { 1.0 } else { -1.0 }
}

/// ln(1 + e^x) without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}
