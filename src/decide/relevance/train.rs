//! Learns the weights: logistic regression with a ridge penalty on standardised facts.
//!
//! Memories of one kind have many rows and of another few, and the share of requests that can be answered is an accident of
//! how the rows were collected. So every memory counts the same, and so do its answered and its unanswered rows.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{FACTS, Facts, RelevanceError, RelevanceModel};
use crate::ticket::{Language, Request, Retrieved};
use crate::triage::optimise::minimise;

/// Penalty on the squared weights beside the mean loss. Strong: closeness has other levels in every memory, and what holds
/// in all of them is little. Chosen on the memories that were not judged.
const RIDGE: f64 = 0.028;
const MAX_STEPS: usize = 500;
/// Probability bins of the calibration error.
const BINS: usize = 10;

/// A request, what was found for it (as `POST /v1/triage` says), and whether that answers it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Row {
    /// Name of the memory that was searched; a memory is judged by weights from the others.
    pub memory: String,
    #[serde(default)]
    pub subject: String,
    pub body: String,
    /// ISO 639-1.
    pub language: String,
    /// Best first.
    pub evidence: Vec<Retrieved>,
    pub fits: bool,
}

/// A row as it is learnt from.
#[derive(Clone, Debug)]
pub struct Example {
    pub memory: String,
    /// Requests of the same words are never learnt from and judged at once.
    pub text: String,
    pub facts: Facts,
    pub fits: bool,
}

impl Example {
    /// None where nothing was found: that needs no weights.
    pub fn of(row: &Row) -> Option<Self> {
        let request = Request {
            subject: row.subject.clone(),
            body: row.body.clone(),
            language: Language::new(&row.language),
            product: None,
            queue: None,
            exclude: Vec::new(),
        };
        let facts = Facts::of(&request, &row.evidence);
        let known = !row.evidence.is_empty();
        known.then(|| Self { memory: row.memory.clone(), text: request.text(), facts, fits: row.fits })
    }
}

/// How weights from the other memories judge one memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    pub memory: String,
    pub rows: usize,
    /// Of these, answered by what was found.
    pub fitting: usize,
    /// Area under the ROC curve.
    pub auc: f64,
    /// Mean squared error and calibration error (ten bins), with answered and unanswered rows in equal parts.
    pub brier: f64,
    pub ece: f64,
}

/// Learns from all examples.
///
/// # Errors
/// When a memory has no answered or no unanswered request.
pub fn fit(examples: &[&Example], embedder: &str) -> Result<RelevanceModel, RelevanceError> {
    let weights = balanced(examples)?;
    let (centre, scale) = standard(examples);
    let standardised: Vec<[f64; FACTS]> = examples
        .iter()
        .map(|example| {
            let values = example.facts.values();
            std::array::from_fn(|at| (values[at] - centre[at]) / scale[at])
        })
        .collect();
    let loss = |point: &[f64], gradient: &mut [f64]| {
        gradient.fill(0.0);
        let mut value = 0.0;
        for ((row, example), weight) in standardised.iter().zip(examples).zip(&weights) {
            let score = point[FACTS] + row.iter().zip(point).map(|(fact, slope)| fact * slope).sum::<f64>();
            let sign = if example.fits { 1.0 } else { -1.0 };
            value += weight * softplus(-sign * score);
            let pull = -weight * sign / (1.0 + (sign * score).exp());
            gradient.iter_mut().zip(row).for_each(|(slope, fact)| *slope += pull * fact);
            gradient[FACTS] += pull;
        }
        // The bias bears no penalty.
        for (slope, at) in gradient.iter_mut().zip(point).take(FACTS) {
            value += RIDGE / 2.0 * at * at;
            *slope += RIDGE * at;
        }
        value
    };
    let point = minimise(vec![0.0; FACTS + 1], MAX_STEPS, loss);
    let slopes: [f64; FACTS] = std::array::from_fn(|at| point[at] / scale[at]);
    let bias = point[FACTS] - slopes.iter().zip(&centre).map(|(slope, mean)| slope * mean).sum::<f64>();
    let memories: BTreeSet<&str> = examples.iter().map(|example| example.memory.as_str()).collect();
    let model = RelevanceModel::new(embedder, bias, Facts::from_values(slopes))?;
    Ok(RelevanceModel { memories: memories.into_iter().map(str::to_owned).collect(), ..model })
}

/// Judges every memory by weights from the others, without the requests that it has itself.
///
/// # Errors
/// As [`fit`]; with fewer than two memories there is nothing to judge.
pub fn judge_each(examples: &[Example], embedder: &str) -> Result<Vec<Judged>, RelevanceError> {
    let memories: BTreeSet<&str> = examples.iter().map(|example| example.memory.as_str()).collect();
    if memories.len() < 2 {
        return Ok(Vec::new());
    }
    let judge = |memory: &str| {
        let (own, others): (Vec<&Example>, Vec<&Example>) =
            examples.iter().partition(|example| example.memory == memory);
        let asked: BTreeSet<&str> = own.iter().map(|example| example.text.as_str()).collect();
        let unseen: Vec<&Example> =
            others.into_iter().filter(|example| !asked.contains(example.text.as_str())).collect();
        let model = fit(&unseen, embedder)?;
        let said: Vec<(f64, bool)> = own.iter().map(|one| (model.of_facts(&one.facts), one.fits)).collect();
        judged(memory, &said, &balanced(&own)?)
    };
    memories.into_iter().map(judge).collect()
}

/// Weights that sum to 1.
pub(super) fn balanced(examples: &[&Example]) -> Result<Vec<f64>, RelevanceError> {
    let mut counts: BTreeMap<&str, [f64; 2]> = BTreeMap::new();
    for example in examples {
        counts.entry(&example.memory).or_default()[usize::from(example.fits)] += 1.0;
    }
    if counts.is_empty() {
        return Err(RelevanceError::Rows("there are none".to_owned()));
    }
    if let Some((memory, _)) = counts.iter().find(|(_, [none, fitting])| *none == 0.0 || *fitting == 0.0) {
        return Err(RelevanceError::Rows(format!(
            "memory `{memory}` needs both requests that fit and ones that do not"
        )));
    }
    let parts = 2.0 * counts.len() as f64;
    let count = |example: &&&Example| {
        counts.get(example.memory.as_str()).map_or(1.0, |counts| counts[usize::from(example.fits)])
    };
    Ok(examples.iter().map(|example| 1.0 / (parts * count(&example))).collect())
}

/// Mean and standard deviation of each fact; 1 for one that is always the same.
fn standard(examples: &[&Example]) -> ([f64; FACTS], [f64; FACTS]) {
    let n = examples.len().max(1) as f64;
    let values: Vec<[f64; FACTS]> = examples.iter().map(|example| example.facts.values()).collect();
    let centre: [f64; FACTS] = std::array::from_fn(|at| values.iter().map(|row| row[at]).sum::<f64>() / n);
    let scale = std::array::from_fn(|at| {
        let variance = values.iter().map(|row| (row[at] - centre[at]).powi(2)).sum::<f64>() / n;
        if variance > 1e-12 { variance.sqrt() } else { 1.0 }
    });
    (centre, scale)
}

/// ln(1 + e^x) without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn judged(memory: &str, said: &[(f64, bool)], weights: &[f64]) -> Result<Judged, RelevanceError> {
    let mut bins = [[0.0; 3]; BINS];
    let mut brier = 0.0;
    for ((probability, fits), weight) in said.iter().zip(weights) {
        let truth = f64::from(u8::from(*fits));
        brier += weight * (probability - truth).powi(2);
        let bin = &mut bins[((probability * BINS as f64) as usize).min(BINS - 1)];
        bin[0] += weight;
        bin[1] += weight * probability;
        bin[2] += weight * truth;
    }
    Ok(Judged {
        memory: memory.to_owned(),
        rows: said.len(),
        fitting: said.iter().filter(|(_, fits)| *fits).count(),
        auc: auc(said),
        brier,
        ece: bins.iter().map(|[_, said, was]| (said - was).abs()).sum(),
    })
}

/// Share of pairs of a fitting and a not fitting row that stand in the right order; ties count half (Mann and Whitney, 1947). NaN where
/// there is one kind alone.
pub(crate) fn auc(said: &[(f64, bool)]) -> f64 {
    let mut sorted = said.to_vec();
    sorted.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (mut below, mut right) = (0.0, 0.0);
    for tied in sorted.chunk_by(|one, other| one.0 == other.0) {
        let fitting = tied.iter().filter(|(_, fits)| *fits).count() as f64;
        let rest = tied.len() as f64 - fitting;
        right += fitting * (below + rest / 2.0);
        below += rest;
    }
    let fitting = said.iter().filter(|(_, fits)| *fits).count() as f64;
    right / (fitting * below)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Closeness decides, shifted by `level` in each memory; the other facts are noise or constant.
    pub fn examples(memory: &str, level: f64) -> Vec<Example> {
        let example = |at: usize| {
            let fits = at.is_multiple_of(3);
            let mut values = [0.5; FACTS];
            values[0] = level + if fits { 0.06 } else { 0.0 } + (at % 7) as f64 * 0.005;
            values[5] = (at % 5) as f64;
            Example {
                memory: memory.to_owned(),
                text: format!("{memory} {at}"),
                facts: Facts::from_values(values),
                fits,
            }
        };
        (0..60).map(example).collect()
    }

    #[test]
    fn what_decides_is_learnt_and_holds_in_another_memory() {
        let mut all = examples("one", 0.80);
        all.extend(examples("two", 0.81));
        let model = fit(&all.iter().collect::<Vec<_>>(), "e").expect("weights");
        let mean = |fits: bool| {
            let said: Vec<f64> =
                all.iter().filter(|one| one.fits == fits).map(|one| model.of_facts(&one.facts)).collect();
            said.iter().sum::<f64>() / said.len() as f64
        };
        assert!(mean(true) > 0.7 && mean(false) < 0.3, "{} {}", mean(true), mean(false));
        let judged = judge_each(&all, "e").expect("judged");
        assert_eq!(judged.iter().map(|one| (one.rows, one.fitting)).collect::<Vec<_>>(), [(60, 20), (60, 20)]);
        assert!(judged.iter().all(|one| one.auc > 0.95), "{judged:?}");
    }

    #[test]
    fn a_memory_without_both_kinds_is_refused_by_name() {
        let mut all = examples("both", 0.8);
        all.extend(examples("lopsided", 0.8).into_iter().filter(|one| one.fits));
        let error = fit(&all.iter().collect::<Vec<_>>(), "e").expect_err("no unanswered rows");
        assert!(error.to_string().contains("lopsided"), "{error}");
        assert!(fit(&[], "e").is_err());
        assert!(judge_each(&examples("alone", 0.8), "e").expect("nothing to judge").is_empty());
    }

    #[test]
    fn ties_count_half_and_order_counts() {
        assert_eq!(auc(&[(0.1, false), (0.9, true)]), 1.0);
        assert_eq!(auc(&[(0.9, false), (0.1, true)]), 0.0);
        assert_eq!(auc(&[(0.5, false), (0.5, true)]), 0.5);
    }

    #[test]
    fn the_calibration_error_is_that_of_the_bins() {
        let said = [(0.95, true), (0.95, false), (0.05, false), (0.05, false)];
        let judged = judged("m", &said, &[0.25; 4]).expect("figures");
        assert!((judged.ece - (0.5 * 0.45 + 0.5 * 0.05)).abs() < 1e-9, "{judged:?}");
    }
}
