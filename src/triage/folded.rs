//! One head, learnt over folds: each row is judged by what has not seen it, and that chooses the strengths, the mix and the calibration.

use super::data::Task;
use super::features::{TEXT_DIMENSIONS, meaning_dimensions};
use super::fit::{self, Example, Known, Unseen};
use super::heads::{CLASSES, Calibration, Head, HeadSettings, Linear, Mix, Scores};
use super::measure::{Judged, log_loss};
use super::prepare::{Prepared, Views};

/// The words that decided the urgency are examples of their own, with this weight beside whole requests.
const EVIDENCE_WEIGHT: f32 = 0.5;
/// Judgements that a reader takes part in. It learns the next step too, and agrees better with the labels of the products that it
/// knows (accuracy 0.74 for 0.71 on the development rows), but worse on requests about another product (0.56 for 0.65 of 72).
pub const READ: [Task; 2] = [Task::Urgency, Task::Difficulty];

/// A view by itself.
const ALONE: Mix = Mix { text: 1.0, meaning: 0.0, reading: 0.0, offsets: [0.0; CLASSES] };

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    Text,
    Meaning,
}

/// One judgement over the folds.
pub struct Folded<'a> {
    task: Task,
    classes: Vec<Option<usize>>,
    /// What a reader that has not learnt from a row says of it.
    read: Vec<Option<Scores>>,
    fold_of: &'a [usize],
    views: Vec<&'a Views>,
    dimensions: usize,
    /// What the head goes out from; None for one from nothing.
    start: Option<&'a Head>,
}

/// Those of which all known views have a score.
fn of_known(unseen: &[Placed], known: Known) -> Vec<Unseen> {
    unseen.iter().map(|(_, one)| *one).filter(|one| known < Known::Reading || one.reading.is_some()).collect()
}

/// Scores of a row, and its fold.
type Placed = (usize, Unseen);

impl<'a> Folded<'a> {
    /// `views` of each fold, made by what is in the others, of all `prepared`.
    pub fn new(
        prepared: &[Prepared],
        task: Task,
        fold_of: &'a [usize],
        views: Vec<&'a Views>,
        start: Option<&'a Head>,
    ) -> Self {
        let is_read = READ.contains(&task);
        let reading = |one: &Prepared| one.reading.filter(|_| is_read).map(|parts| parts[task as usize]);
        let dimensions = prepared.first().map_or(0, |one| one.embedding.len());
        let read = prepared.iter().map(reading).collect();
        let classes = prepared.iter().map(|one| task.class(&one.row)).collect();
        Self { task, classes, read, fold_of, views, dimensions, start }
    }

    /// The head of all rows (`all` are their views) with the strengths that the folds choose, and, by the views that are known, how the
    /// folds' own heads judge what they have not seen.
    pub fn head(
        &self,
        all: &Views,
        text_l2: &[f32],
        meaning_l2: &[f32],
        progress: &mut dyn FnMut(&str),
    ) -> (Head, [Vec<Judged>; 3]) {
        let (text_l2, text_unseen) = self.choose(text_l2, View::Text, progress);
        let (meaning_l2, meaning_unseen) = self.choose(meaning_l2, View::Meaning, progress);
        let unseen = self.unseen(&text_unseen, &meaning_unseen, &self.read);
        let cross = Known::ALL.map(|known| self.cross_mixed(&unseen, known, self.mix_before(known)));
        let calibrated = |known: Known| Calibration {
            mix: fit::mix(&of_known(&unseen, known), known, self.mix_before(known)),
            // Below it few are right however many there are; a team's own rows would be too few to say.
            abstain_below: match self.start.and_then(|head| head.settings.of(known)) {
                Some(before) => before.abstain_below,
                None => fit::abstain_below(&cross[known as usize]),
            },
        };
        let settings = HeadSettings {
            text_only: calibrated(Known::Text),
            with_meaning: calibrated(Known::Meaning),
            with_reading: self.read.iter().any(Option::is_some).then(|| calibrated(Known::Reading)),
            text_l2,
            meaning_l2,
        };
        let fitted = |view, l2| self.fit(all, &|_| true, view, l2);
        let (text, meaning) = (fitted(View::Text, text_l2), fitted(View::Meaning, meaning_l2));
        (Head { text, meaning, settings }, cross)
    }

    /// Fits one view on the rows that `keep` names. Urgency learns from the words that decided it, too.
    fn fit(&self, views: &Views, keep: &dyn Fn(usize) -> bool, view: View, l2: f32) -> Linear {
        let (whole, dimensions, start) = match view {
            View::Text => (&views.text, TEXT_DIMENSIONS, self.start.map(|head| &head.text)),
            View::Meaning => {
                (&views.meaning, meaning_dimensions(self.dimensions), self.start.map(|head| &head.meaning))
            }
        };
        let mut examples = Vec::new();
        for (at, class) in self.classes.iter().enumerate().filter(|(at, _)| keep(*at)) {
            let Some(class) = *class else { continue };
            examples.push(Example { row: &whole[at], class, weight: 1.0 });
            let evidence = views.evidence[at].as_ref().filter(|_| self.task == Task::Urgency && view == View::Text);
            examples.extend(evidence.map(|row| Example { row, class, weight: EVIDENCE_WEIGHT }));
        }
        fit::linear(&examples, dimensions, l2, start)
    }

    fn mix_before(&self, known: Known) -> Option<&Mix> {
        self.start.and_then(|head| head.settings.of(known)).map(|calibration| &calibration.mix)
    }

    /// The strength with the lowest log loss on unseen rows (after one scale is fitted), and the scores it gave them.
    fn choose(&self, strengths: &[f32], view: View, progress: &mut dyn FnMut(&str)) -> (f32, Vec<Scores>) {
        let mut chosen: Option<(f32, f32, Vec<Scores>)> = None;
        for strength in strengths {
            let scores = self.scores(*strength, view);
            let unseen = self.unseen(&scores, &scores, &vec![None; scores.len()]);
            let loss = log_loss(&self.cross_mixed(&unseen, Known::Text, self.start.map(|_| &ALONE)));
            progress(&format!("{}: {view:?} view, l2 {strength:.0e}: log loss {loss:.4}", self.task.name()));
            if chosen.as_ref().is_none_or(|(_, lowest, _)| loss < *lowest) {
                chosen = Some((*strength, loss, scores));
            }
        }
        chosen.map(|(strength, _, scores)| (strength, scores)).unwrap_or_default()
    }

    /// Scores of every row by the model of the other folds.
    fn scores(&self, strength: f32, view: View) -> Vec<Scores> {
        let mut scores = vec![Scores::default(); self.classes.len()];
        for (fold, views) in self.views.iter().copied().enumerate() {
            let keep = |at: usize| self.fold_of[at] != fold;
            let linear = self.fit(views, &keep, view, strength);
            let rows = if view == View::Text { &views.text } else { &views.meaning };
            for at in (0..rows.len()).filter(|at| self.fold_of[*at] == fold) {
                scores[at] = linear.scores(&rows[at]);
            }
        }
        scores
    }

    fn unseen(&self, text: &[Scores], meaning: &[Scores], reading: &[Option<Scores>]) -> Vec<Placed> {
        let labelled = self.classes.iter().enumerate().filter_map(|(at, class)| class.map(|truth| (at, truth)));
        let scores = |at: usize, truth| Unseen { text: text[at], meaning: meaning[at], reading: reading[at], truth };
        labelled.map(|(at, truth)| (self.fold_of[at], scores(at, truth))).collect()
    }

    /// Judgements of unseen rows by a mix that has not seen them either; rows without one of the known views are left out.
    fn cross_mixed(&self, unseen: &[Placed], known: Known, start: Option<&Mix>) -> Vec<Judged> {
        let mixes: Vec<_> = (0..self.views.len())
            .map(|fold| {
                let others: Vec<Placed> = unseen.iter().filter(|(of, _)| *of != fold).copied().collect();
                fit::mix(&of_known(&others, known), known, start)
            })
            .collect();
        let judge = |(fold, one): &Placed| {
            let none = Scores::default();
            let reading = one.reading.or((known < Known::Reading).then_some(none))?;
            let probabilities = mixes[*fold].probabilities(&one.text, &one.meaning, &reading);
            Some(Judged::new(self.task, one.truth, probabilities))
        };
        unseen.iter().filter_map(judge).collect()
    }
}
