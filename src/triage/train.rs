//! Trains the heads from labelled requests: hyperparameters by five folds of the training rows alone, then one look at
//! the development rows.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::baseline;
use super::data::{Labelled, Task, folds, read};
use super::features::FEATURE_VERSION;
use super::features::Features;
use super::fit::Known;
use super::folded::{Folded, READ, Strengths};
use super::heads::{Head, Header, Heads, Scores, TriageError};
use super::measure::{BRIER, Judged, MEASURES, changes, figures};
use super::opinion::{ConsiderOne, Opinions, States, consider_all, consider_prepared};
use super::prepare::{Prepared, Views, prepare, rows};
use super::report::{Report, TaskReport, WordsReport};
use super::words;

pub(super) const FOLDS: usize = 5;
/// Strengths of regularisation that the folds choose from.
const STRENGTHS: Strengths =
    Strengths { text: &[1e-4, 3e-4, 1e-3, 3e-3], meaning: &[3e-4, 1e-3, 3e-3, 1e-2], opinion: &[0.15, 0.4] };

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
    pub language_model: Option<TrainingOpinions<'a>>,
}

/// A language model, and further labelled requests that its view alone learns from.
pub struct TrainingOpinions<'a> {
    /// [`crate::inference::generator::Generator::considers`].
    pub name: &'a str,
    pub consider: &'a mut ConsiderOne<'a>,
    pub more: Vec<Labelled>,
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

/// Trains on `train.jsonl.gz` of `data_dir`, measures on `dev.jsonl.gz`, writes the weights to `out`. What is there already is kept
/// beside, and stays where it is where it judges the development rows surely better (unless `anyway`).
/// `progress` gets a line per stage.
///
/// # Errors
/// [`TriageError::Worse`] in that case; otherwise when data or models are missing or damaged.
pub fn train(
    data_dir: &Path,
    mut models: TrainingModels<'_>,
    seed: u64,
    out: &Path,
    anyway: bool,
    progress: &mut dyn FnMut(&str),
) -> Result<Report, TriageError> {
    let mut training = prepare(read(&data_dir.join("train.jsonl.gz"))?, "train", models.embed, progress)?;
    let mut dev = prepare(read(&data_dir.join("dev.jsonl.gz"))?, "dev", models.embed, progress)?;
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
    let mut considered = None;
    if let Some(model) = &mut models.language_model {
        consider_prepared(&mut training, "train", model.consider, progress)?;
        consider_prepared(&mut dev, "dev", model.consider, progress)?;
        let more = std::mem::take(&mut model.more);
        considered = Some(opinions(&training, more, model, progress)?);
    }
    let (mut heads, mut tasks) = fit_heads(&training, models.name, considered, seed, progress)?;
    heads.header.reader = reader;
    for task in &mut tasks {
        let is_read = heads.header.reader.is_some() && READ.contains(&task.task);
        let is_known = |known| match known {
            Known::Text | Known::Meaning => true,
            Known::Reading => is_read,
            Known::Opinion => heads.header.states.is_some(),
        };
        task.dev = Known::ALL.map(|known| match is_known(known) {
            true => judge_all(&heads, &dev, task.task, known),
            false => Vec::new(),
        });
        task.dev_majority = baseline::majority(&rows(&training), &rows(&dev), task.task);
        task.dev_keyword = baseline::keyword(&rows(&training), &rows(&dev), task.task);
    }
    heads.header.rows = BTreeMap::from([("train".into(), training.len()), ("dev".into(), dev.len())]);
    heads.header.figures = tasks.iter().map(|task| (task.task.name().to_owned(), named_figures(task))).collect();
    if !anyway && out.exists() {
        refuse_worse(&Heads::load(out)?, &heads, &dev, seed, progress)?;
    }
    let bytes = heads.to_bytes()?;
    replace(out, &bytes)?;
    let words = measure_words(&heads, &dev);
    Ok(Report { header: heads.header.clone(), file_bytes: bytes.len(), tasks, words })
}

/// Fails where the heads that are there judge `dev` surely better, in pairs by the Brier score.
fn refuse_worse(
    present: &Heads,
    heads: &Heads,
    dev: &[Prepared],
    seed: u64,
    progress: &mut dyn FnMut(&str),
) -> Result<(), TriageError> {
    let states = |heads: &Heads| heads.header.states.as_ref().map(|states| states.name.clone());
    let made_for = |heads: &Heads| (heads.header.embedder.clone(), heads.header.reader.clone(), states(heads));
    if made_for(present) != made_for(heads) {
        progress("the weights that are there were made for other models: not compared");
        return Ok(());
    }
    for task in Task::ALL {
        let [before, after] = [present, heads].map(|heads| judge_all(heads, dev, task, Known::Opinion));
        let brier = changes(&before, &after, task.ordered(), seed)[BRIER];
        if brier.low > 0.0 {
            return Err(TriageError::Worse { task: task.name(), by: brier.by, low: brier.low, high: brier.high });
        }
    }
    Ok(())
}

/// Where what was at `path` is kept by [`replace`].
pub(super) fn previous(path: &Path) -> PathBuf {
    let kind = path.extension().and_then(|kind| kind.to_str()).unwrap_or("bin");
    path.with_extension(format!("previous.{kind}"))
}

/// Writes beside and renames; what was there is kept at [`previous`].
pub(crate) fn replace(out: &Path, bytes: &[u8]) -> Result<(), TriageError> {
    let failed = |source: std::io::Error| TriageError::Write { path: out.display().to_string(), source };
    if out.exists() {
        std::fs::copy(out, previous(out)).map_err(failed)?;
    }
    let partial = out.with_extension("partial");
    std::fs::write(&partial, bytes).map_err(failed)?;
    std::fs::rename(&partial, out).map_err(failed)
}

/// The states of the rows as the heads read them, and those of the further requests.
fn opinions(
    training: &[Prepared],
    more: Vec<Labelled>,
    model: &mut TrainingOpinions<'_>,
    progress: &mut dyn FnMut(&str),
) -> Result<(States, Opinions), TriageError> {
    let states = States::of(model.name, training.iter().filter_map(|one| one.opinion.as_deref()));
    let read = consider_all(more.iter(), "further", model.consider, progress)?;
    let further = read.into_iter().zip(more).filter_map(|(read, row)| Some((states.row(&read?)?, row))).collect();
    let rows = states.rows(training);
    Ok((states, Opinions { rows, more: further }))
}

fn fit_heads(
    prepared: &[Prepared],
    embedder: &str,
    considered: Option<(States, Opinions)>,
    seed: u64,
    progress: &mut dyn FnMut(&str),
) -> Result<(Heads, Vec<TaskReport>), TriageError> {
    let dimensions = prepared.first().map_or(0, |one| one.embedding.len());
    let labelled: Vec<Labelled> = prepared.iter().map(|one| one.row.clone()).collect();
    let fold_of = folds(&labelled, FOLDS, seed);
    let learnt_by = |fold: usize| fold_of.iter().map(|of| *of != fold).collect::<Vec<_>>();
    let fold_views: Vec<Views> = (0..FOLDS).map(|fold| Views::counted(prepared, &learnt_by(fold))).collect();
    let all = Views::counted(prepared, &vec![true; prepared.len()]);
    let (states, opinions) = considered.unzip();
    let mut heads = Vec::new();
    let mut reports = Vec::new();
    for task in Task::ALL {
        let views = fold_views.iter().collect();
        let folded = Folded::new(prepared, task, &fold_of, views, opinions.as_ref(), None);
        let (head, cross) = folded.head(&all, STRENGTHS, progress);
        heads.push(head);
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
        states,
        own: None,
    };
    let tagger = words::Tagger::fit(&marked(prepared));
    Ok((Heads { header, idf: all.idf, urgency, difficulty, next, tagger }, reports))
}

/// The rows that say something about `task`, in order, judged by what is known of them up to `known`.
pub(super) fn judge_all(heads: &Heads, prepared: &[Prepared], task: Task, known: Known) -> Vec<Judged> {
    let head = heads.of(task);
    let judge = |one: &Prepared| {
        let truth = task.class(&one.row)?;
        let text = one.features.text_row(&heads.idf);
        let meaning = (known >= Known::Meaning).then(|| one.features.meaning_row(&one.embedding, &heads.header.centre));
        let reading = one.reading.filter(|_| known >= Known::Reading).map(|reading| reading[task as usize]);
        let states = heads.header.states.as_ref().filter(|_| known == Known::Opinion);
        let opinion = states.zip(one.opinion.as_deref()).and_then(|(states, opinion)| states.row(opinion));
        let (probabilities, _) = head.judge(&text, meaning.as_ref(), reading.as_ref(), opinion.as_ref());
        Some(Judged::new(task, truth, probabilities))
    };
    prepared.iter().filter_map(judge).collect()
}

fn named_figures(task: &TaskReport) -> BTreeMap<String, f32> {
    let mut named = BTreeMap::new();
    let folds = ["", "folds", "folds_reading", "folds_opinion"].into_iter().zip(&task.folds).skip(1);
    let dev = ["dev_text_only", "dev_without_reading", "dev_without_opinion", "dev_opinion"].into_iter().zip(&task.dev);
    let parts = folds.chain(dev).map(|(part, judged)| (part, judged.as_slice()));
    for (part, judged) in parts.chain([("dev", task.best_dev())]).filter(|(_, judged)| !judged.is_empty()) {
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
    use std::io::Write as _;

    use super::super::data::tests::sample;
    use super::*;

    #[test]
    fn learns_a_small_set_and_is_deterministic() {
        let mut embed = |texts: &[&str]| -> Result<Vec<Vec<f32>>, TriageError> {
            Ok(texts.iter().map(|text| vec![text.len() as f32 / 100.0, 1.0]).collect())
        };
        let mut run = || {
            let mut prepared =
                prepare(sample(12), "train", &mut embed, &mut |_| {}).expect("the embedder is a constant");
            // A reader that is right, and was kept from every second row.
            for one in prepared.iter_mut().step_by(2) {
                one.reading = Some(Task::ALL.map(|task| {
                    let mut scores = Scores::default();
                    scores[task.class(&one.row).unwrap_or_default()] = 6.0;
                    scores
                }));
            }
            // And a language model that has read all.
            for one in &mut prepared {
                one.opinion = Some(vec![1e4, Task::Urgency.class(&one.row).unwrap_or_default() as f32]);
            }
            let states = States::of("states", prepared.iter().filter_map(|one| one.opinion.as_deref()));
            let opinions = Opinions { rows: states.rows(&prepared), more: Vec::new() };
            fit_heads(&prepared, "test", Some((states, opinions)), 5, &mut |_| {}).expect("three heads")
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
            assert_eq!(report.folds[3].len(), if read > 0 { read } else { report.folds[1].len() });
        }
    }

    #[test]
    fn an_embedder_that_drops_texts_is_an_error() {
        let mut embed = |_: &[&str]| Ok(Vec::new());
        assert!(prepare(sample(1), "train", &mut embed, &mut |_| {}).is_err());
    }

    #[test]
    fn better_weights_are_not_replaced_by_worse_ones() {
        let mut embed = |texts: &[&str]| -> Result<Vec<Vec<f32>>, TriageError> {
            Ok(texts.iter().map(|text| vec![text.len() as f32 / 100.0, 1.0]).collect())
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let out = folder.path().join("triage.bin");
        let write = |name: &str, rows: &[Labelled]| {
            let file = std::fs::File::create(folder.path().join(name)).expect("writable");
            let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
            for row in rows {
                serde_json::to_writer(&mut packed, row).expect("a row");
                packed.write_all(b"\n").expect("writable");
            }
            packed.finish().expect("writable");
        };
        let mut run = |anyway: bool| {
            let models = TrainingModels { name: "test", embed: &mut embed, reader: None, language_model: None };
            train(folder.path(), models, 5, &out, anyway, &mut |_| {})
        };
        write("dev.jsonl.gz", &sample(8));
        write("train.jsonl.gz", &sample(12));
        run(false).expect("nothing is there yet");
        let good = std::fs::read(&out).expect("weights");
        // Labels that have nothing to do with the texts.
        let mut wrong = sample(12);
        wrong.iter_mut().enumerate().for_each(|(at, row)| row.urgency = u8::try_from(at / 9 % 4 + 1).expect("small"));
        write("train.jsonl.gz", &wrong);
        let refused = run(false).expect_err("worse").to_string();
        assert!(refused.contains("urgency") && refused.contains("--anyway"), "{refused}");
        assert_eq!(std::fs::read(&out).expect("weights"), good);
        run(true).expect("asked for");
        assert_ne!(std::fs::read(&out).expect("weights"), good);
        assert_eq!(std::fs::read(previous(&out)).expect("kept"), good);
    }
}
