//! One head, learnt over folds: each row is judged by what has not seen it, and that chooses the strengths, the mix and the calibration.

use super::data::Task;
use super::features::{Row, TEXT_DIMENSIONS, meaning_dimensions};
use super::fit::{self, Example, Known, Unseen};
use super::heads::{CLASSES, Calibration, Head, HeadSettings, Linear, Mix, Scores};
use super::measure::{Judged, log_loss};
use super::opinion::Opinions;
use super::prepare::{Prepared, Views};

/// The words that decided the urgency are examples of their own, with this weight beside whole requests.
const EVIDENCE_WEIGHT: f32 = 0.5;
/// Judgements that a reader takes part in. It learns the next step too, and agrees better with the labels of the products that it
/// knows (accuracy 0.74 for 0.71 on the development rows), but worse on requests about another product (0.56 for 0.65 of 72).
pub const READ: [Task; 2] = [Task::Urgency, Task::Difficulty];

/// A view by itself.
const ALONE: Mix = Mix { text: 1.0, meaning: 0.0, reading: 0.0, opinion: 0.0, offsets: [0.0; CLASSES] };

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    Text,
    Meaning,
    Opinion,
}

/// Strengths of regularisation, by view, that the folds choose from.
#[derive(Clone, Copy)]
pub struct Strengths {
    pub text: &'static [f32],
    pub meaning: &'static [f32],
    pub opinion: &'static [f32],
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
    /// States of the rows; None where no language model has read them.
    opinions: Option<&'a Opinions>,
    /// What the head goes out from; None for one from nothing.
    start: Option<&'a Head>,
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
        opinions: Option<&'a Opinions>,
        start: Option<&'a Head>,
    ) -> Self {
        let is_read = READ.contains(&task);
        let reading = |one: &Prepared| one.reading.filter(|_| is_read).map(|parts| parts[task as usize]);
        let dimensions = prepared.first().map_or(0, |one| one.embedding.len());
        let read = prepared.iter().map(reading).collect();
        let classes = prepared.iter().map(|one| task.class(&one.row)).collect();
        Self { task, classes, read, fold_of, views, dimensions, opinions, start }
    }

    /// The head of all rows (`all` are their views) with the strengths that the folds choose, and, by the views that are known, how the
    /// folds' own heads judge what they have not seen.
    pub fn head(&self, all: &Views, strengths: Strengths, progress: &mut dyn FnMut(&str)) -> (Head, [Vec<Judged>; 4]) {
        let (text_l2, text_unseen) = self.choose(strengths.text, View::Text, progress);
        let (meaning_l2, meaning_unseen) = self.choose(strengths.meaning, View::Meaning, progress);
        // A team's labels are too few for a map of thousands of numbers: there the mix alone moves.
        let (opinion_l2, opinion_unseen) = match (self.opinions, self.start) {
            (Some(opinions), Some(before)) => (before.settings.opinion_l2, opinions.scores(&before.opinion)),
            (Some(_), None) => self.choose(strengths.opinion, View::Opinion, progress),
            (None, _) => Default::default(),
        };
        let unseen = self.unseen(&text_unseen, &meaning_unseen, &self.read, &opinion_unseen);
        let cross = Known::ALL.map(|known| self.cross_mixed(&unseen, known, self.mix_before(known)));
        let calibrated = |known: Known| Calibration {
            mix: fit::mix(&self.of_known(&unseen, known), known, self.mix_before(known)),
            // Below it few are right however many there are; a team's own rows would be too few to say.
            abstain_below: match self.start.and_then(|head| head.settings.of(known)) {
                Some(before) => before.abstain_below,
                None => fit::abstain_below(&cross[known as usize]),
            },
        };
        let settings = HeadSettings {
            text_only: calibrated(Known::Text),
            with_meaning: calibrated(Known::Meaning),
            with_reading: self.is_read().then(|| calibrated(Known::Reading)),
            with_opinion: self.opinions.map(|_| calibrated(Known::Opinion)),
            text_l2,
            meaning_l2,
            opinion_l2,
        };
        let fitted = |view, l2| self.fit(all, &|_| true, view, l2);
        let (text, meaning) = (fitted(View::Text, text_l2), fitted(View::Meaning, meaning_l2));
        let opinion = match (self.opinions, self.start) {
            (_, Some(before)) => before.opinion.clone(),
            (Some(_), None) => fitted(View::Opinion, opinion_l2),
            (None, None) => Linear::none(),
        };
        (Head { text, meaning, opinion, settings }, cross)
    }

    fn is_read(&self) -> bool {
        self.read.iter().any(Option::is_some)
    }

    /// Those of which all views that take part have a score.
    fn of_known(&self, unseen: &[Placed], known: Known) -> Vec<Unseen> {
        unseen.iter().filter(|(_, one)| self.has(one, known)).map(|(_, one)| *one).collect()
    }

    fn has(&self, one: &Unseen, known: Known) -> bool {
        let by_reader = one.reading.is_some();
        match known {
            Known::Text | Known::Meaning => true,
            Known::Reading => by_reader,
            Known::Opinion => one.opinion.is_some() && by_reader == self.is_read(),
        }
    }

    /// Fits one view on the rows that `keep` names. Urgency learns from the words that decided it, too.
    fn fit(&self, views: &Views, keep: &dyn Fn(usize) -> bool, view: View, l2: f32) -> Linear {
        let (dimensions, start) = match view {
            View::Text => (TEXT_DIMENSIONS, self.start.map(|head| &head.text)),
            View::Meaning => (meaning_dimensions(self.dimensions), self.start.map(|head| &head.meaning)),
            View::Opinion => (self.states(), None),
        };
        let mut examples = Vec::new();
        for (at, class) in self.classes.iter().enumerate().filter(|(at, _)| keep(*at)) {
            let (Some(class), Some(row)) = (*class, self.row(views, view, at)) else { continue };
            examples.push(Example { row, class, weight: 1.0 });
            let evidence = views.evidence[at].as_ref().filter(|_| self.task == Task::Urgency && view == View::Text);
            examples.extend(evidence.map(|row| Example { row, class, weight: EVIDENCE_WEIGHT }));
        }
        let further = self.opinions.filter(|_| view == View::Opinion);
        let further = further.into_iter().flat_map(|opinions| opinions.further(self.task));
        examples.extend(further.map(|(row, class)| Example { row, class, weight: 1.0 }));
        fit::linear(&examples, dimensions, l2, start)
    }

    fn row<'b>(&'b self, views: &'b Views, view: View, at: usize) -> Option<&'b Row> {
        match view {
            View::Text => views.text.get(at),
            View::Meaning => views.meaning.get(at),
            View::Opinion => self.opinions?.rows.get(at)?.as_ref(),
        }
    }

    /// Numbers of a row of states.
    fn states(&self) -> usize {
        self.opinions.and_then(|opinions| opinions.rows.iter().flatten().next()).map_or(0, Vec::len)
    }

    fn mix_before(&self, known: Known) -> Option<&Mix> {
        self.start.and_then(|head| head.settings.of(known)).map(|calibration| &calibration.mix)
    }

    /// The strength with the lowest log loss on unseen rows (after one scale is fitted), and the scores it gave them.
    fn choose(&self, strengths: &[f32], view: View, progress: &mut dyn FnMut(&str)) -> (f32, Vec<Scores>) {
        let mut chosen: Option<(f32, f32, Vec<Scores>)> = None;
        for strength in strengths {
            let scores = self.scores(*strength, view);
            let unseen = self.unseen(&scores, &scores, &vec![None; scores.len()], &[]);
            let loss = log_loss(&self.cross_mixed(&unseen, Known::Text, self.start.map(|_| &ALONE)));
            progress(&format!("{}: {view:?} view, l2 {strength:.0e}: log loss {loss:.4}", self.task.name()));
            if chosen.as_ref().is_none_or(|(_, lowest, _)| loss < *lowest) {
                chosen = Some((*strength, loss, scores));
            }
        }
        chosen.map(|(strength, _, scores)| (strength, scores)).unwrap_or_default()
    }

    /// Scores of every row by the model of the other folds; the folds are learnt side by side.
    fn scores(&self, strength: f32, view: View) -> Vec<Scores> {
        let learn = |(fold, views): (usize, &'a Views)| self.fit(views, &|at| self.fold_of[at] != fold, view, strength);
        let folds: Vec<Linear> = std::thread::scope(|scope| {
            let folds = self.views.iter().copied().enumerate();
            let learning: Vec<_> = folds.map(|fold| scope.spawn(move || learn(fold))).collect();
            learning.into_iter().map(|fold| fold.join().unwrap_or_else(|_| Linear::none())).collect()
        });
        let of = |at: usize| {
            let fold = self.fold_of[at];
            self.row(self.views[fold], view, at).map(|row| folds[fold].scores(row)).unwrap_or_default()
        };
        (0..self.classes.len()).map(of).collect()
    }

    fn unseen(
        &self,
        text: &[Scores],
        meaning: &[Scores],
        reading: &[Option<Scores>],
        opinion: &[Scores],
    ) -> Vec<Placed> {
        let labelled = self.classes.iter().enumerate().filter_map(|(at, class)| class.map(|truth| (at, truth)));
        let considered = |at: usize| self.opinions.and_then(|opinions| opinions.rows.get(at)?.as_ref());
        let opinion = |at: usize| considered(at).and_then(|_| opinion.get(at).copied());
        let scores = |at: usize, truth| {
            let (text, meaning, reading, opinion) = (text[at], meaning[at], reading[at], opinion(at));
            Unseen { text, meaning, reading, opinion, truth }
        };
        labelled.map(|(at, truth)| (self.fold_of[at], scores(at, truth))).collect()
    }

    /// Judgements of unseen rows by a mix that has not seen them either; rows without one of the known views are left out.
    fn cross_mixed(&self, unseen: &[Placed], known: Known, start: Option<&Mix>) -> Vec<Judged> {
        let mixes: Vec<_> = (0..self.views.len())
            .map(|fold| {
                let others: Vec<Placed> = unseen.iter().filter(|(of, _)| *of != fold).copied().collect();
                fit::mix(&self.of_known(&others, known), known, start)
            })
            .collect();
        let judge = |(fold, one): &Placed| {
            let probabilities = mixes[*fold].probabilities(one.scores());
            self.has(one, known).then(|| Judged::new(self.task, one.truth, probabilities))
        };
        unseen.iter().filter_map(judge).collect()
    }
}
