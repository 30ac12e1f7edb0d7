//! What a judge's figures are worth: its agreement with people, said beside each of them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::super::label::agreement::kappa;
use super::super::label::{Label, What, counting};
use super::super::record::Beside;
use super::Judgement;

/// A reply whose worst criterion has this median could be sent as it is, or after an edit.
const AS_IS: f64 = 4.0;
const AFTER_EDIT: f64 = 3.0;

/// Judged scores beside labels of draft quality by people.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PeopleAgreement {
    /// Pairs of a judged reply and a person's label on it.
    pub pairs: usize,
    /// Spearman's rank correlation of mean score and label; None where either has one value only.
    pub spearman: Option<f64>,
    /// Quadratic-weighted kappa of the labels and what the worst criterion says: from 4 as it is, from 3 after an edit.
    pub kappa: Option<f64>,
}

/// Compares usable judgements with people's labels of the same message and reply.
pub fn agreement_with_people(judged: &[Judgement], labels: &[Label]) -> PeopleAgreement {
    let known: HashMap<(&str, &str), &Judgement> =
        judged.iter().map(|judgement| ((judgement.id.as_str(), judgement.digest.as_str()), judgement)).collect();
    let (mut means, mut quality) = (Vec::new(), Vec::new());
    let mut table = vec![vec![0; 3]; 3];
    for label in counting(labels).iter().filter(|label| label.what == What::Draft) {
        let judgement = known.get(&(label.id.as_str(), label.digest.as_str()));
        let class = label.label.as_deref().and_then(|name| What::Draft.class(name));
        let Some((judgement, class)) = judgement.zip(class) else { continue };
        let Some((mean, worst)) = judgement.mean().zip(judgement.worst()) else { continue };
        let judged_class = if worst >= AS_IS { 0 } else { usize::from(worst < AFTER_EDIT) + 1 };
        if let Some(cell) = table.get_mut(class).and_then(|row: &mut Vec<usize>| row.get_mut(judged_class)) {
            *cell += 1;
        }
        means.push(mean);
        // Class 0 is the best one.
        quality.push(-(class as f64));
    }
    PeopleAgreement { pairs: means.len(), spearman: spearman(&means, &quality), kappa: kappa(&table, true) }
}

impl fmt::Display for PeopleAgreement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pairs == 0 {
            return write!(out, "not validated by people");
        }
        let shown = |value: Option<f64>| value.map_or("undefined".to_owned(), |value| format!("{value:.2}"));
        let (spearman, kappa) = (shown(self.spearman), shown(self.kappa));
        write!(out, "agreement with people: Spearman {spearman}, kappa {kappa}, {} labels", self.pairs)
    }
}

/// Spearman's rank correlation: Pearson's of the ranks, equal values having the mean of theirs.
fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 + 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    let spread = (product(&a, &a) * product(&b, &b)).sqrt();
    (spread > 0.0).then(|| product(&a, &b) / spread)
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let rank = |value: &f64| {
        let below = values.iter().filter(|other| *other < value).count();
        let equal = values.iter().filter(|other| *other == value).count();
        below as f64 + (equal as f64 + 1.0) / 2.0
    };
    values.iter().map(rank).collect()
}

/// All judgements of a run. Every figure is said together with what people think of the judge.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Model and rubric.
    pub judge: String,
    pub replies: usize,
    /// Verdicts asked for, and those that were none.
    pub asked: usize,
    pub unusable: usize,
    /// Replies with two usable verdicts or more, and those of them on which the judge contradicts itself.
    pub repeated: usize,
    pub contradicted: usize,
    /// Mean of the medians by criterion, and over how many replies.
    pub means: BTreeMap<String, (f64, usize)>,
    pub people: PeopleAgreement,
}

impl Summary {
    pub fn of(judge: String, judged: &[Judgement], labels: &[Label]) -> Self {
        let mut scores: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (name, score) in judged.iter().flat_map(|judgement| &judgement.scores) {
            scores.entry(name.clone()).or_default().push(score.median);
        }
        let mean = |values: Vec<f64>| (values.iter().sum::<f64>() / values.len() as f64, values.len());
        let asked: usize = judged.iter().map(|judgement| judgement.asked).sum();
        Self {
            judge,
            replies: judged.len(),
            asked,
            unusable: asked - judged.iter().map(|judgement| judgement.usable).sum::<usize>().min(asked),
            repeated: judged.iter().filter(|judgement| judgement.usable > 1).count(),
            contradicted: judged.iter().filter(|judgement| judgement.contradicts_itself).count(),
            means: scores.into_iter().map(|(name, values)| (name, mean(values))).collect(),
            people: agreement_with_people(judged, labels),
        }
    }

    /// For the result of a part: shown beside its figures, never gated.
    pub fn beside(&self) -> Vec<Beside> {
        let about = |cases: usize| {
            let (judge, people) = (&self.judge, &self.people);
            format!("judged by {judge}, 1 to 5, mean over {cases} replies; {people}; {}", self.doubts())
        };
        let figure = |(name, (value, cases)): (&String, &(f64, usize))| Beside {
            name: format!("judged.{name}"),
            value: *value,
            about: about(*cases),
        };
        self.means.iter().map(figure).collect()
    }

    fn doubts(&self) -> String {
        format!(
            "{} of {} verdicts unusable, self-disagreement on {} of {} replies",
            self.unusable, self.asked, self.contradicted, self.repeated
        )
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "judged by {}: {} replies, {}", self.judge, self.replies, self.doubts())?;
        if self.means.is_empty() {
            return write!(out, "no usable verdict, so no figure");
        }
        let line = |(name, (mean, cases)): (&String, &(f64, usize))| {
            format!("{name:>10} {mean:.2} of 5 over {cases} replies ({})", self.people)
        };
        let lines: Vec<String> = self.means.iter().map(line).collect();
        write!(out, "{}", lines.join("\n"))
    }
}
