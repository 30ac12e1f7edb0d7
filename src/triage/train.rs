//! Trains the heads from labelled requests: hyperparameters by five folds of the training rows alone, then one look at
//! the development rows.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::baseline;
use super::data::{Labelled, Task, folds, read};
use super::features::{BUCKETS, Centre, FEATURE_VERSION, Features, Row, TEXT_DIMENSIONS, meaning_dimensions};
use super::fit::{self, Example, Unseen};
use super::heads::{Head, HeadSettings, Header, Heads, Linear, TriageError};
use super::measure::{Judged, MEASURES, figures, log_loss};
use super::report::{Report, TaskReport, WordsReport};
use super::words;

const FOLDS: usize = 5;
/// Strengths of regularisation that the folds choose from.
const TEXT_L2: [f32; 4] = [1e-4, 3e-4, 1e-3, 3e-3];
const MEANING_L2: [f32; 4] = [3e-4, 1e-3, 3e-3, 1e-2];
/// The words that decided the urgency are examples of their own, with this weight beside whole requests.
const EVIDENCE_WEIGHT: f32 = 0.5;
/// Texts embedded at once between two reports of progress.
const EMBED_BATCH: usize = 32;

/// Texts to vectors (role: query), one per text.
pub type EmbedTexts<'a> = dyn FnMut(&[&str]) -> Result<Vec<Vec<f32>>, TriageError> + 'a;

/// The name of an embedder and its function from texts to vectors.
pub struct TrainingEmbedder<'a> {
    pub name: &'a str,
    pub embed: &'a mut EmbedTexts<'a>,
}

/// A labelled row with its features.
struct Prepared {
    row: Labelled,
    features: Features,
    embedding: Vec<f32>,
    /// Features of the evidence alone, where there is some.
    evidence: Option<Features>,
}

/// Trains on `train.jsonl.gz` of `data_dir`, measures on `dev.jsonl.gz`, writes the weights to `out`.
/// `progress` gets a line per stage.
pub fn train(
    data_dir: &Path,
    mut embedder: TrainingEmbedder<'_>,
    seed: u64,
    out: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<Report, TriageError> {
    let training = prepare(read(&data_dir.join("train.jsonl.gz"))?, "train", &mut embedder, progress)?;
    let dev = prepare(read(&data_dir.join("dev.jsonl.gz"))?, "dev", &mut embedder, progress)?;
    let (mut heads, mut tasks) = fit_heads(&training, embedder.name, seed, progress)?;
    for task in &mut tasks {
        task.dev = judge_all(&heads, &dev, task.task, true);
        task.dev_text_only = judge_all(&heads, &dev, task.task, false);
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
    embedder: &mut TrainingEmbedder<'_>,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<Prepared>, TriageError> {
    let total = rows.len();
    let mut prepared = Vec::with_capacity(total);
    for batch in rows.chunks(EMBED_BATCH) {
        let texts: Vec<String> = batch.iter().map(|row| row.request().text()).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let embeddings = (embedder.embed)(&texts)?;
        if embeddings.len() != batch.len() {
            return Err(TriageError::Embedding(format!("{} vectors for {} texts", embeddings.len(), batch.len())));
        }
        for (row, embedding) in batch.iter().zip(embeddings) {
            let request = row.request();
            let evidence = (!row.evidence.is_empty()).then(|| Features::of_text(&row.evidence, 0, &request.language));
            prepared.push(Prepared { features: Features::of(&request), row: row.clone(), embedding, evidence });
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
        let unseen = folded.unseen(&text_unseen, &meaning_unseen);
        let cross = folded.cross_mixed(&unseen, true);
        let cross_text = folded.cross_mixed(&unseen, false);
        let settings = HeadSettings {
            with_meaning: fit::mix(&unseen, true),
            text_only: fit::mix(&unseen, false),
            abstain_below: fit::abstain_below(&cross),
            abstain_below_text_only: fit::abstain_below(&cross_text),
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
            folds_text_only: cross_text,
            ..TaskReport::empty(task)
        });
    }
    let [urgency, difficulty, next]: [Head; 3] =
        heads.try_into().map_err(|_| TriageError::Damaged("three judgements need three heads".into()))?;
    let header = Header {
        feature_version: FEATURE_VERSION,
        embedder: embedder.to_owned(),
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

type Scores = [f32; super::heads::CLASSES];

impl Folded<'_> {
    /// The strength with the lowest log loss on unseen rows (after one scale is fitted), and the scores it gave them.
    fn choose(&self, strengths: &[f32], view: View, progress: &mut dyn FnMut(&str)) -> (f32, Vec<Scores>) {
        let mut chosen: Option<(f32, f32, Vec<Scores>)> = None;
        for strength in strengths {
            let scores = self.scores(*strength, view);
            let unseen = self.unseen(&scores, &scores);
            let loss = log_loss(&self.cross_mixed(&unseen, false));
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

    fn unseen(&self, text: &[Scores], meaning: &[Scores]) -> Vec<Unseen> {
        let labelled = self.classes.iter().enumerate().filter_map(|(at, class)| class.map(|truth| (at, truth)));
        labelled.map(|(at, truth)| Unseen { text: text[at], meaning: meaning[at], truth }).collect()
    }

    /// Judgements of unseen rows by a mix that has not seen them either.
    fn cross_mixed(&self, unseen: &[Unseen], with_meaning: bool) -> Vec<Judged> {
        let folds = self.classes.iter().zip(self.fold_of).filter(|(class, _)| class.is_some()).map(|(_, fold)| *fold);
        let folds: Vec<usize> = folds.collect();
        let mixes: Vec<_> = (0..FOLDS)
            .map(|fold| {
                let others = unseen.iter().zip(&folds).filter(|(_, of)| **of != fold).map(|(one, _)| *one);
                fit::mix(&others.collect::<Vec<_>>(), with_meaning)
            })
            .collect();
        let judge = |(one, fold): (&Unseen, &usize)| {
            let meaning = with_meaning.then_some(&one.meaning);
            Judged { truth: one.truth, probabilities: mixes[*fold].probabilities(&one.text, meaning) }
        };
        unseen.iter().zip(&folds).map(judge).collect()
    }
}

fn judge_all(heads: &Heads, prepared: &[Prepared], task: Task, with_meaning: bool) -> Vec<Judged> {
    let head = match task {
        Task::Urgency => &heads.urgency,
        Task::Difficulty => &heads.difficulty,
        Task::Next => &heads.next,
    };
    let judge = |one: &Prepared| {
        let truth = task.class(&one.row)?;
        let text = one.features.text_row(&heads.idf);
        let meaning = with_meaning.then(|| one.features.meaning_row(&one.embedding, &heads.header.centre));
        let (probabilities, _) = head.judge(&text, meaning.as_ref());
        Some(Judged { truth, probabilities })
    };
    prepared.iter().filter_map(judge).collect()
}

fn named_figures(task: &TaskReport) -> BTreeMap<String, f32> {
    let mut named = BTreeMap::new();
    for (part, judged) in [("folds", &task.folds), ("dev", &task.dev), ("dev_text_only", &task.dev_text_only)] {
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
            let mut embedder = TrainingEmbedder { name: "test", embed: &mut embed };
            let prepared =
                prepare(sample(12), "train", &mut embedder, &mut |_| {}).expect("the embedder is a constant");
            fit_heads(&prepared, "test", 5, &mut |_| {}).expect("three heads")
        };
        let (heads, reports) = run();
        assert_eq!(heads, run().0);
        for report in &reports {
            let [accuracy, ..] = figures(&report.folds, report.task.ordered());
            assert!(accuracy > 0.9, "{:?}: {accuracy}", report.task);
        }
    }

    #[test]
    fn an_embedder_that_drops_texts_is_an_error() {
        let mut embed = |_: &[&str]| Ok(Vec::new());
        let mut embedder = TrainingEmbedder { name: "test", embed: &mut embed };
        assert!(prepare(sample(1), "train", &mut embedder, &mut |_| {}).is_err());
    }
}
