//! A team's own heads: those of the program, moved as far as the team's own labels justify.
//!
//! The weights of each view are fitted anew near where they were (their squared distance is what the folds weigh), and so is the mix.
//! Whether that is better is asked over outer folds, whose rows took no part in anything: a head is taken over only where its Brier
//! score over them is lower with 95 % certainty, in pairs with the head that it would replace.

use super::data::{Labelled, Task, folds};
use super::fit::Known;
use super::folded::{Folded, Strengths};
use super::heads::{CLASSES, Head, Heads};
use super::measure::{BRIER, Change, Judged, KAPPA, changes};
use super::opinion::Opinions;
use super::prepare::{Prepared, Views};
use super::train::{FOLDS, judge_all};

/// Fewer labels say too little: below it the judgement is left as it is.
pub const LEAST_LABELS: usize = 40;
/// Labels younger than heads that are there already which it takes to compare with them.
const LEAST_NEW: usize = 20;
/// Strengths that hold the weights where they were; few labels want great ones.
const L2: &[f32] = &[3e-3, 1e-2, 1e-1, 1.0];

/// What a team's labels bring for one judgement.
#[derive(Clone, Debug)]
pub struct Gain {
    pub task: Task,
    /// The rows with a label, by the heads that the new ones go out from.
    pub before: Vec<Judged>,
    /// The same rows, each by heads that have not learnt from it.
    pub after: Vec<Judged>,
    pub kappa: Change,
    pub brier: Change,
    pub verdict: Verdict,
}

/// What became of a new head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    Taken,
    /// There are fewer than [`LEAST_LABELS`].
    TooFew,
    /// It may be no better.
    NotBetter,
    /// It is worse than the team's own one that is there, on labels that neither has learnt from.
    Worse(Change),
}

/// A team's heads that are there already, and which rows they have not learnt from.
pub struct Present<'a> {
    pub heads: &'a Heads,
    pub is_new: &'a [bool],
}

/// Moves `base` towards the labels of `rows`: the heads, and what each judgement gained.
pub fn adapt(
    base: &Heads,
    rows: &[Prepared],
    present: Option<&Present<'_>>,
    seed: u64,
    progress: &mut dyn FnMut(&str),
) -> (Heads, Vec<Gain>) {
    let mut heads = base.clone();
    let mut gains = Vec::new();
    for task in Task::ALL {
        let is_new = |at: usize| present.is_some_and(|present| present.is_new[at]);
        let labelled = rows.iter().enumerate().filter(|(_, one)| task.class(&one.row).is_some());
        let (new, of_task): (Vec<bool>, Vec<Prepared>) = labelled.map(|(at, one)| (is_new(at), one.clone())).unzip();
        if of_task.is_empty() {
            continue;
        }
        progress(&format!("{}: {} labels", task.name(), of_task.len()));
        let (mut gain, head) = gained(base, &of_task, task, seed, progress);
        let before = present.map(|present| present.heads);
        if let Some(worse) = before.and_then(|heads| worse_than(heads, &of_task, &new, &gain, seed)) {
            gain.verdict = Verdict::Worse(worse);
        }
        match gain.verdict {
            Verdict::Taken => heads.set(task, head),
            Verdict::Worse(_) => before.into_iter().for_each(|present| heads.set(task, present.of(task).clone())),
            Verdict::TooFew | Verdict::NotBetter => {}
        }
        gains.push(gain);
    }
    (heads, gains)
}

fn gained(base: &Heads, rows: &[Prepared], task: Task, seed: u64, progress: &mut dyn FnMut(&str)) -> (Gain, Head) {
    let before = judge_best(base, rows, task);
    let none = Change { by: 0.0, low: 0.0, high: 0.0 };
    let mut gain = Gain { task, after: before.clone(), before, kappa: none, brier: none, verdict: Verdict::TooFew };
    if rows.len() < LEAST_LABELS {
        return (gain, base.of(task).clone());
    }
    let outer = outer_folds(rows, seed);
    let mut after: Vec<(usize, Judged)> = Vec::with_capacity(rows.len());
    for fold in 0..FOLDS {
        let within = |is_within: bool| -> Vec<usize> {
            (0..rows.len()).filter(|at| (outer[*at] == fold) == is_within).collect()
        };
        let (learnt, kept) = (within(false), within(true));
        let pick = |at: &[usize]| at.iter().map(|at| rows[*at].clone()).collect::<Vec<_>>();
        let mut heads = base.clone();
        heads.set(task, moved(base, &pick(&learnt), task, seed, &mut |_| {}));
        after.extend(kept.iter().copied().zip(judge_best(&heads, &pick(&kept), task)));
    }
    after.sort_by_key(|(at, _)| *at);
    gain.after = after.into_iter().map(|(_, judged)| judged).collect();
    let changes = changes(&gain.before, &gain.after, task.ordered(), seed);
    (gain.kappa, gain.brier) = (changes[KAPPA], changes[BRIER]);
    gain.verdict = if gain.brier.high < 0.0 { Verdict::Taken } else { Verdict::NotBetter };
    (gain, moved(base, rows, task, seed, progress))
}

/// The head of `base`, moved towards all `rows`.
fn moved(base: &Heads, rows: &[Prepared], task: Task, seed: u64, progress: &mut dyn FnMut(&str)) -> Head {
    let labelled: Vec<Labelled> = rows.iter().map(|one| one.row.clone()).collect();
    let fold_of = folds(&labelled, FOLDS, seed);
    let all = Views::of(rows, base);
    let states = base.header.states.as_ref().filter(|_| rows.iter().all(|one| one.opinion.is_some()));
    let opinions = states.map(|states| Opinions { rows: states.rows(rows), more: Vec::new() });
    let folded = Folded::new(rows, task, &fold_of, vec![&all; FOLDS], opinions.as_ref(), Some(base.of(task)));
    let (mut head, _) = folded.head(&all, Strengths { text: L2, meaning: L2, opinion: &[] }, progress);
    if head.settings.with_reading.is_none() {
        head.settings.with_reading.clone_from(&base.of(task).settings.with_reading);
    }
    head
}

/// Other folds than those within, or a row's neighbours would be chosen by the same cuts.
fn outer_folds(rows: &[Prepared], seed: u64) -> Vec<usize> {
    let labelled: Vec<Labelled> = rows.iter().map(|one| one.row.clone()).collect();
    folds(&labelled, FOLDS, seed.wrapping_add(1))
}

/// Each row by the most that is known of it.
pub fn judge_best(heads: &Heads, rows: &[Prepared], task: Task) -> Vec<Judged> {
    judge_all(heads, rows, task, Known::Opinion)
}

/// How much worse the new head is than the one that is there, on labels that neither has learnt from; None where it may be as good.
fn worse_than(present: &Heads, rows: &[Prepared], is_new: &[bool], gain: &Gain, seed: u64) -> Option<Change> {
    let before = judge_best(present, rows, gain.task);
    let new = |judged: &[Judged]| -> Vec<Judged> {
        judged.iter().zip(is_new).filter(|(_, is_new)| **is_new).map(|(judged, _)| *judged).collect()
    };
    let (before, after) = (new(&before), new(&gain.after));
    if before.len() < LEAST_NEW {
        return None;
    }
    let brier = changes(&before, &after, gain.task.ordered(), seed)[BRIER];
    (brier.low > 0.0).then_some(brier)
}

impl Gain {
    /// Shares of the classes: as labelled, as judged before, as judged by the new heads.
    pub fn shares(&self) -> [[f32; CLASSES]; 3] {
        let count = self.before.len().max(1) as f32;
        let shares = |class: &dyn Fn(&Judged) -> usize, judged: &[Judged]| {
            let mut shares = [0.0; CLASSES];
            judged.iter().for_each(|one| shares[class(one)] += 1.0 / count);
            shares
        };
        let label = |one: &Judged| one.label;
        [shares(&|one| one.truth, &self.before), shares(&label, &self.before), shares(&label, &self.after)]
    }
}

#[cfg(test)]
mod tests {
    use super::super::data::tests::sample;
    use super::super::heads::tests::sample as sample_heads;
    use super::super::heads::{Linear, Mix};
    use super::*;

    /// Rows of one kind of request each, labelled by `class`.
    fn rows(count: usize, class: impl Fn(usize) -> usize) -> Vec<Prepared> {
        let mut rows = sample(1);
        rows.truncate(1);
        let words = ["invoice", "password", "migration", "outage"];
        // In words: texts that differ in digits only are one text to the folds.
        let digits = ["none", "once", "twice", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"];
        let row = |at: usize| {
            let mut row = rows[0].clone();
            (row.id, row.evidence) = (at.to_string(), String::new());
            row.subject = format!("{} {} {}", digits[at / 100], digits[at / 10 % 10], digits[at % 10]);
            row.body = format!("about the {}", words[at % 4]);
            row.urgency = u8::try_from(class(at % 4) + 1).expect("four classes");
            (row.difficulty, row.next) = (0, String::new());
            Prepared::new(row, vec![0.0; 4], None)
        };
        (0..count).map(row).collect()
    }

    /// Heads that know nothing yet, and those that have learnt from `rows`.
    fn blank() -> Heads {
        let mut heads = sample_heads(4);
        let zero = |linear: &Linear| Linear { weights: vec![0.0; linear.weights.len()], bias: [0.0; CLASSES] };
        let mut head = heads.urgency.clone();
        (head.text, head.meaning) = (zero(&head.text), zero(&head.meaning));
        let mix = Mix { text: 1.0, meaning: 0.5, reading: 0.0, opinion: 0.0, offsets: [0.0; CLASSES] };
        (head.settings.text_only.mix, head.settings.with_meaning.mix) = (mix.clone(), mix);
        Task::ALL.into_iter().for_each(|task| heads.set(task, head.clone()));
        heads
    }

    fn judged(heads: &Heads, rows: &[Prepared]) -> Vec<usize> {
        judge_best(heads, rows, Task::Urgency).iter().map(|one| one.label).collect()
    }

    #[test]
    fn what_the_team_says_is_learnt_and_what_it_says_nothing_about_stays() {
        let base = blank();
        let rows = rows(80, |kind| kind);
        let (heads, gains) = adapt(&base, &rows, None, 3, &mut |_| {});
        assert_eq!(gains.len(), 1, "{gains:?}");
        assert_eq!(gains[0].verdict, Verdict::Taken, "{:?}", gains[0].brier);
        assert_eq!(judged(&heads, &rows), rows.iter().map(|one| usize::from(one.row.urgency) - 1).collect::<Vec<_>>());
        assert_eq!((&heads.difficulty, &heads.next, &heads.idf), (&base.difficulty, &base.next, &base.idf));
        assert_eq!(heads, adapt(&base, &rows, None, 3, &mut |_| {}).0, "the same again");
        let [labels, _, after] = gains[0].shares();
        assert!(labels.iter().zip(after).all(|(one, other)| (one - other).abs() < 0.05), "{labels:?} {after:?}");
        // What is written is what is read.
        let bytes = heads.to_bytes().expect("can be written");
        assert_eq!(judged(&Heads::from_bytes(&bytes).expect("can be read"), &rows), judged(&heads, &rows));
    }

    #[test]
    fn labels_without_a_pattern_change_nothing() {
        let base = blank();
        let mut random = fastrand::Rng::with_seed(5);
        let labels: Vec<usize> = (0..120).map(|_| random.usize(..4)).collect();
        let mut rows = rows(120, |_| 0);
        rows.iter_mut().zip(labels).for_each(|(one, class)| one.row.urgency = u8::try_from(class + 1).expect("small"));
        let (heads, gains) = adapt(&base, &rows, None, 3, &mut |_| {});
        assert_eq!((gains[0].verdict, &heads), (Verdict::NotBetter, &base));
        let (heads, gains) = adapt(&base, &rows[..LEAST_LABELS - 1], None, 3, &mut |_| {});
        assert_eq!((gains[0].verdict, &heads), (Verdict::TooFew, &base));
    }

    #[test]
    fn heads_that_are_there_stay_where_the_new_ones_are_worse() {
        let base = blank();
        let old = rows(80, |kind| kind);
        let (present, _) = adapt(&base, &old, None, 3, &mut |_| {});
        // Of the rows on hand half are wrong; those that came since speak for what is there.
        let mut all = rows(120, |kind| kind);
        all[..80].iter_mut().for_each(|one| one.row.urgency = one.row.urgency % 4 + 1);
        let is_new: Vec<bool> = (0..all.len()).map(|at| at >= 80).collect();
        let (heads, gains) = adapt(&base, &all, Some(&Present { heads: &present, is_new: &is_new }), 3, &mut |_| {});
        assert!(matches!(gains[0].verdict, Verdict::Worse(change) if change.low > 0.0), "{:?}", gains[0].verdict);
        assert_eq!(heads.urgency, present.urgency);
    }
}
