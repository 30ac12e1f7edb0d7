//! Trains the heads from labelled requests: hyperparameters by five folds of the training rows alone, then one look at
//! the development rows.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

use super::baseline;
use super::data::{Labelled, Task, folds, read};
use super::features::{BUCKETS, Centre, FEATURE_VERSION, Features, Row, TEXT_DIMENSIONS, meaning_dimensions};
use super::fit::{self, Example, Known, Unseen};
use super::heads::{Calibration, Head, HeadSettings, Header, Heads, Linear, Scores, TriageError};
use super::measure::{Judged, MEASURES, figures, log_loss};
use super::report::{Report, TaskReport, WordsReport};
use super::words;

const FOLDS: usize = 5;
/// Strengths of regularisation that the folds choose from.
const TEXT_L2: [f32; 4] = [1e-4, 3e-4, 1e-3, 3e-3];
const MEANING_L2: [f32; 4] = [3e-4, 1e-3, 3e-3, 1e-2];
/// The words that decided the urgency are examples of their own, with this weight beside whole requests.
const EVIDENCE_WEIGHT: f32 = 0.5;
/// Judgements that a reader takes part in. It learns the next step too, and agrees better with the labels of the products that it
/// knows (accuracy 0.74 for 0.71 on the development rows), but worse on requests about another product (0.56 for 0.65 of 72).
const READ: [Task; 2] = [Task::Urgency, Task::Difficulty];
/// Texts embedded at once between two reports of progress.
const EMBED_BATCH: usize = 32;

/// Texts to vectors (role: query), one per text.
pub type EmbedTexts<'a> = dyn FnMut(&[&str]) -> Result<Vec<Vec<f32>>, TriageError> + 'a;

/// What each request says to a reader (see [`crate::embed::Embedder::read`]), one list of scores per text.
pub type ReadTexts<'a> = dyn FnMut(&[&str]) -> Result<Vec<Vec<f32>>, TriageError> + 'a;

/// The models that read the texts.
pub struct TrainingModels<'a> {
    /// Name of the embedder.
    pub name: &'a str,
    pub embed: &'a mut EmbedTexts<'a>,
    pub reader: Option<TrainingReader<'a>>,
}

/// A reader, and what it says of training rows that it has not learnt from.
pub struct TrainingReader<'a> {
    pub read: &'a mut ReadTexts<'a>,
    pub readings: Readings,
}

/// What a reader says of rows that were kept from it, by their ids.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    pub reader: String,
    pub of: HashMap<String, [Scores; 3]>,
}

/// A labelled row with its features.
struct Prepared {
    row: Labelled,
    features: Features,
    embedding: Vec<f32>,
    /// By a reader that has not learnt from it.
    reading: Option<[Scores; 3]>,
    /// Features of the evidence alone, where there is some.
    evidence: Option<Features>,
}

/// Trains on `train.jsonl.gz` of `data_dir`, measures on `dev.jsonl.gz`, writes the weights to `out`.
/// `progress` gets a line per stage.
pub fn train(
    data_dir: &Path,
    mut models: TrainingModels<'_>,
    seed: u64,
    out: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<Report, TriageError> {
    let mut training = prepare(read(&data_dir.join("train.jsonl.gz"))?, "train", &mut models, progress)?;
    let mut dev = prepare(read(&data_dir.join("dev.jsonl.gz"))?, "dev", &mut models, progress)?;
    let mut reader = None;
    if let Some(TrainingReader { read, readings }) = &mut models.reader {
        for one in &mut training {
            one.reading = readings.of.get(&one.row.id).copied();
        }
        let texts: Vec<String> = dev.iter().map(|one| one.row.request().text()).collect();
        let read = (read)(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
        for (one, reading) in dev.iter_mut().zip(read) {
            one.reading = super::parts(&reading);
        }
        reader = Some(readings.reader.clone());
    }
    let (mut heads, mut tasks) = fit_heads(&training, models.name, seed, progress)?;
    heads.header.reader = reader;
    for task in &mut tasks {
        let is_read = heads.header.reader.is_some() && READ.contains(&task.task);
        let is_known = |known| known < Known::Reading || is_read;
        task.dev = Known::ALL.map(|known| match is_known(known) {
            true => judge_all(&heads, &dev, task.task, known),
            false => Vec::new(),
        });
        task.dev_majority = baseline::majority(&rows(&training), &rows(&dev), task.task);
        task.dev_keyword = baseline::keyword(&rows(&training), &rows(&dev), task.task);
    }
    heads.header.rows = BTreeMap::from([("train".into(), training.len()), ("dev".into(), dev.len())]);
    heads.header.figures = tasks.iter().map(|task| (task.task.name().to_owned(), named_figures(task))).collect();
    let bytes = heads.to_bytes()?;
    write(out, &bytes)?;
    let words = measure_words(&heads, &dev);
    Ok(Report { header: heads.header.clone(), file_bytes: bytes.len(), tasks, words })
}

fn write(out: &Path, bytes: &[u8]) -> Result<(), TriageError> {
    let failed = |source: std::io::Error| TriageError::Read { path: out.display().to_string(), source };
    let partial = out.with_extension("partial");
    std::fs::write(&partial, bytes).map_err(failed)?;
    std::fs::rename(&partial, out).map_err(failed)
}

fn prepare(
    rows: Vec<Labelled>,
    name: &str,
    models: &mut TrainingModels<'_>,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<Prepared>, TriageError> {
    let total = rows.len();
    let mut prepared = Vec::with_capacity(total);
    for batch in rows.chunks(EMBED_BATCH) {
        let texts: Vec<String> = batch.iter().map(|row| row.request().text()).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let embeddings = (models.embed)(&texts)?;
        if embeddings.len() != batch.len() {
            return Err(TriageError::Embedding(format!("{} vectors for {} texts", embeddings.len(), batch.len())));
        }
        for (row, embedding) in batch.iter().zip(embeddings) {
            let request = row.request();
            let evidence = (!row.evidence.is_empty()).then(|| Features::of_text(&row.evidence, 0, &request.language));
            let features = Features::of(&request);
            prepared.push(Prepared { row: row.clone(), features, embedding, reading: None, evidence });
        }
        progress(&format!("{name}: {} of {total} requests read", prepared.len()));
    }
    Ok(prepared)
}

fn rows(prepared: &[Prepared]) -> Vec<&Labelled> {
    prepared.iter().map(|one| &one.row).collect()
}

/// What is counted over the training rows of a fold, and the rows made with it.
struct Views {
    idf: Vec<f32>,
    centre: Centre,
    text: Vec<Row>,
    meaning: Vec<Row>,
    evidence: Vec<Option<Row>>,
}

/// Rows of all `prepared`; frequencies and centre come from those with `learn` true.
fn views(prepared: &[Prepared], learn: &[bool]) -> Views {
    let learnt = || prepared.iter().zip(learn).filter(|(_, learn)| **learn).map(|(one, _)| one);
    let mut seen = vec![0u32; BUCKETS];
    learnt().flat_map(|one| one.features.grams()).for_each(|gram| seen[gram] += 1);
    let total = learnt().count() as f32;
    // A gram of one text only says nothing about others.
    let rarity = |seen: &u32| if *seen < 2 { 0.0 } else { ((1.0 + total) / (1.0 + *seen as f32)).ln() + 1.0 };
    let idf: Vec<f32> = seen.iter().map(rarity).collect();
    let learnt: Vec<&[f32]> = learnt().map(|one| one.embedding.as_slice()).collect();
    let centre = Centre::of(learnt.iter().copied());
    Views {
        text: prepared.iter().map(|one| one.features.text_row(&idf)).collect(),
        meaning: prepared.iter().map(|one| one.features.meaning_row(&one.embedding, &centre)).collect(),
        evidence: prepared.iter().map(|one| one.evidence.as_ref().map(|it| it.text_row(&idf))).collect(),
        idf,
        centre,
    }
}

fn fit_heads(
    prepared: &[Prepared],
    embedder: &str,
    seed: u64,
    progress: &mut dyn FnMut(&str),
) -> Result<(Heads, Vec<TaskReport>), TriageError> {
    let dimensions = prepared.first().map_or(0, |one| one.embedding.len());
    let labelled: Vec<Labelled> = prepared.iter().map(|one| one.row.clone()).collect();
    let fold_of = folds(&labelled, FOLDS, seed);
    let fold_views: Vec<Views> =
        (0..FOLDS).map(|fold| views(prepared, &fold_of.iter().map(|one| *one != fold).collect::<Vec<_>>())).collect();
    let all = views(prepared, &vec![true; prepared.len()]);
    let mut heads = Vec::new();
    let mut reports = Vec::new();
    for task in Task::ALL {
        let classes: Vec<Option<usize>> = labelled.iter().map(|row| task.class(row)).collect();
        let folded = Folded { task, classes: &classes, fold_of: &fold_of, views: &fold_views, dimensions };
        let (text_l2, text_unseen) = folded.choose(&TEXT_L2, View::Text, progress);
        let (meaning_l2, meaning_unseen) = folded.choose(&MEANING_L2, View::Meaning, progress);
        let reading_of =
            |one: &Prepared| one.reading.filter(|_| READ.contains(&task)).map(|parts| parts[task as usize]);
        let read: Vec<Option<Scores>> = prepared.iter().map(reading_of).collect();
        let unseen = folded.unseen(&text_unseen, &meaning_unseen, &read);
        let cross = Known::ALL.map(|known| folded.cross_mixed(&unseen, known));
        let calibrated = |known: Known| Calibration {
            mix: fit::mix(&of_known(&unseen, known), known),
            abstain_below: fit::abstain_below(&cross[known as usize]),
        };
        let settings = HeadSettings {
            text_only: calibrated(Known::Text),
            with_meaning: calibrated(Known::Meaning),
            with_reading: read.iter().any(Option::is_some).then(|| calibrated(Known::Reading)),
            text_l2,
            meaning_l2,
        };
        let keep = |_: usize| true;
        let text = fit_view(&all, task, &classes, &keep, View::Text, text_l2, dimensions);
        let meaning = fit_view(&all, task, &classes, &keep, View::Meaning, meaning_l2, dimensions);
        heads.push(Head { text, meaning, settings });
        reports.push(TaskReport {
            majority: baseline::over_folds(baseline::majority, &labelled, &fold_of, FOLDS, task),
            keyword: baseline::over_folds(baseline::keyword, &labelled, &fold_of, FOLDS, task),
            folds: cross,
            ..TaskReport::empty(task)
        });
    }
    let [urgency, difficulty, next]: [Head; 3] =
        heads.try_into().map_err(|_| TriageError::Damaged("three judgements need three heads".into()))?;
    let header = Header {
        feature_version: FEATURE_VERSION,
        embedder: embedder.to_owned(),
        reader: None,
        dimensions,
        trained_on: jiff::Zoned::now().date().to_string(),
        seed,
        rows: BTreeMap::new(),
        figures: BTreeMap::new(),
        urgency: urgency.settings.clone(),
        difficulty: difficulty.settings.clone(),
        next: next.settings.clone(),
        centre: all.centre.clone(),
    };
    let tagger = words::Tagger::fit(&marked(prepared));
    Ok((Heads { header, idf: all.idf, urgency, difficulty, next, tagger }, reports))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum View {
    Text,
    Meaning,
}

/// Fits one view on the rows that `keep` names. Urgency learns from the words that decided it, too.
fn fit_view(
    views: &Views,
    task: Task,
    classes: &[Option<usize>],
    keep: &dyn Fn(usize) -> bool,
    view: View,
    l2: f32,
    embedding: usize,
) -> Linear {
    let (whole, dimensions) = match view {
        View::Text => (&views.text, TEXT_DIMENSIONS),
        View::Meaning => (&views.meaning, meaning_dimensions(embedding)),
    };
    let mut examples = Vec::new();
    for (at, class) in classes.iter().enumerate().filter(|(at, _)| keep(*at)) {
        let Some(class) = *class else { continue };
        examples.push(Example { row: &whole[at], class, weight: 1.0 });
        let evidence = views.evidence[at].as_ref().filter(|_| task == Task::Urgency && view == View::Text);
        examples.extend(evidence.map(|row| Example { row, class, weight: EVIDENCE_WEIGHT }));
    }
    fit::linear(&examples, dimensions, l2)
}

/// One judgement over the folds.
struct Folded<'a> {
    task: Task,
    classes: &'a [Option<usize>],
    fold_of: &'a [usize],
    views: &'a [Views],
    dimensions: usize,
}

/// Those of which all known views have a score.
fn of_known(unseen: &[Placed], known: Known) -> Vec<Unseen> {
    unseen.iter().map(|(_, one)| *one).filter(|one| known < Known::Reading || one.reading.is_some()).collect()
}

/// Scores of a row, and its fold.
type Placed = (usize, Unseen);

impl Folded<'_> {
    /// The strength with the lowest log loss on unseen rows (after one scale is fitted), and the scores it gave them.
    fn choose(&self, strengths: &[f32], view: View, progress: &mut dyn FnMut(&str)) -> (f32, Vec<Scores>) {
        let mut chosen: Option<(f32, f32, Vec<Scores>)> = None;
        for strength in strengths {
            let scores = self.scores(*strength, view);
            let unseen = self.unseen(&scores, &scores, &vec![None; scores.len()]);
            let loss = log_loss(&self.cross_mixed(&unseen, Known::Text));
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
        for (fold, views) in self.views.iter().enumerate() {
            let keep = |at: usize| self.fold_of[at] != fold;
            let linear = fit_view(views, self.task, self.classes, &keep, view, strength, self.dimensions);
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
    fn cross_mixed(&self, unseen: &[Placed], known: Known) -> Vec<Judged> {
        let mixes: Vec<_> = (0..FOLDS)
            .map(|fold| {
                let others: Vec<Placed> = unseen.iter().filter(|(of, _)| *of != fold).copied().collect();
                fit::mix(&of_known(&others, known), known)
            })
            .collect();
        let judge = |(fold, one): &Placed| {
            let none = Scores::default();
            let reading = one.reading.or((known < Known::Reading).then_some(none))?;
            let probabilities = mixes[*fold].probabilities(&one.text, &one.meaning, &reading);
            Some(Judged { truth: one.truth, probabilities })
        };
        unseen.iter().filter_map(judge).collect()
    }
}

fn judge_all(heads: &Heads, prepared: &[Prepared], task: Task, known: Known) -> Vec<Judged> {
    let head = match task {
        Task::Urgency => &heads.urgency,
        Task::Difficulty => &heads.difficulty,
        Task::Next => &heads.next,
    };
    let judge = |one: &Prepared| {
        let truth = task.class(&one.row)?;
        let text = one.features.text_row(&heads.idf);
        let meaning = (known >= Known::Meaning).then(|| one.features.meaning_row(&one.embedding, &heads.header.centre));
        let reading = one.reading.filter(|_| known == Known::Reading).map(|reading| reading[task as usize]);
        let (probabilities, _) = head.judge(&text, meaning.as_ref(), reading.as_ref());
        Some(Judged { truth, probabilities })
    };
    prepared.iter().filter_map(judge).collect()
}

fn named_figures(task: &TaskReport) -> BTreeMap<String, f32> {
    let mut named = BTreeMap::new();
    let parts = [("folds", &task.folds[1]), ("folds_reading", &task.folds[2]), ("dev_text_only", &task.dev[0])];
    let parts = parts.map(|(part, judged)| (part, judged.as_slice()));
    let dev = [("dev_without_reading", task.dev[1].as_slice()), ("dev", task.best_dev())];
    for (part, judged) in parts.into_iter().chain(dev).filter(|(_, judged)| !judged.is_empty()) {
        let measured = figures(judged, task.task.ordered());
        named.extend(MEASURES.iter().zip(measured).map(|(name, value)| (format!("{part}_{name}"), value)));
    }
    named
}

/// The texts in which a labeller marked the deciding words, and where.
fn marked(prepared: &[Prepared]) -> Vec<(&Features, Range<usize>)> {
    prepared.iter().filter_map(|one| Some((&one.features, marked_range(&one.row)?))).collect()
}

fn marked_range(row: &Labelled) -> Option<Range<usize>> {
    let start = row.request().text().find(&row.evidence).filter(|_| !row.evidence.is_empty())?;
    Some(start..start + row.evidence.len())
}

/// How well the words shown for the urgency agree with those that the labeller marked.
fn measure_words(heads: &Heads, dev: &[Prepared]) -> WordsReport {
    let mut report = WordsReport::default();
    for one in dev.iter().filter(|one| one.row.urgency > 0) {
        let Some(marked) = marked_range(&one.row) else { continue };
        let text = one.row.request().text();
        let row = one.features.text_row(&heads.idf);
        let class = usize::from(one.row.urgency) - 1;
        let shown = words::deciding(&text, &one.features, &row, &heads.urgency.text, class, Some(&heads.tagger));
        report.requests += 1;
        report.shown += usize::from(!shown.is_empty());
        let shown =
            shown.first().and_then(|words| Some(text.find(words.as_str())?..text.find(words.as_str())? + words.len()));
        let Some(shown) = shown else { continue };
        let inside = |range: &Range<usize>, start: usize, end: usize| start < range.end && range.start < end;
        let count = |wanted: &dyn Fn(usize, usize) -> bool| {
            one.features.words.iter().filter(|word| wanted(word.start, word.end)).count() as f32
        };
        let both = count(&|start, end| inside(&shown, start, end) && inside(&marked, start, end));
        let sizes = count(&|start, end| inside(&shown, start, end)) + count(&|start, end| inside(&marked, start, end));
        report.touching += usize::from(both > 0.0);
        report.overlap += 2.0 * both / sizes.max(1.0);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::super::data::tests::sample;
    use super::*;

    #[test]
    fn learns_a_small_set_and_is_deterministic() {
        let mut embed = |texts: &[&str]| -> Result<Vec<Vec<f32>>, TriageError> {
            Ok(texts.iter().map(|text| vec![text.len() as f32 / 100.0, 1.0]).collect())
        };
        let mut run = || {
            let mut models = TrainingModels { name: "test", embed: &mut embed, reader: None };
            let mut prepared =
                prepare(sample(12), "train", &mut models, &mut |_| {}).expect("the embedder is a constant");
            // A reader that is right, and was kept from every second row.
            for one in prepared.iter_mut().step_by(2) {
                one.reading = Some(Task::ALL.map(|task| {
                    let mut scores = Scores::default();
                    scores[task.class(&one.row).unwrap_or_default()] = 6.0;
                    scores
                }));
            }
            fit_heads(&prepared, "test", 5, &mut |_| {}).expect("three heads")
        };
        let (heads, reports) = run();
        assert_eq!(heads, run().0);
        for report in &reports {
            for judged in report.folds.iter().filter(|judged| !judged.is_empty()) {
                let [accuracy, ..] = figures(judged, report.task.ordered());
                assert!(accuracy > 0.9, "{:?}: {accuracy}", report.task);
            }
            let read = if READ.contains(&report.task) { report.folds[1].len().div_ceil(2) } else { 0 };
            assert_eq!(report.folds[2].len(), read);
        }
    }

    #[test]
    fn an_embedder_that_drops_texts_is_an_error() {
        let mut embed = |_: &[&str]| Ok(Vec::new());
        let mut models = TrainingModels { name: "test", embed: &mut embed, reader: None };
        assert!(prepare(sample(1), "train", &mut models, &mut |_| {}).is_err());
    }
}
