//! Urgency, difficulty and next step against labels, judged by the heads as the service runs them.

use std::collections::BTreeMap;

use anyhow::Context as _;

use super::{Context, Key, Runner, digest, digest_of};
use crate::embed::Role;
use crate::eval::EvalError;
use crate::eval::data::drawn;
use crate::eval::data::triage::{Labels, Row, read, unseen};
use crate::eval::record::{Beside, Bin, CaseRecord, Chart, DataNote, MemoryNote};
use crate::eval::suite::{Part, Replies};
use crate::eval::table::Table;
use crate::inference::Inference;
use crate::ticket::{Class, Difficulty, Judgement, NextStep, Urgency};
use crate::triage::data::Task;
use crate::triage::heads::CLASSES;
use crate::triage::measure::{Judged, accuracy, confusion, kappa, macro_f1};
use crate::triage::{Meaning, TriageModel};

/// Bins of the reliability diagram, of equal width.
const BINS: usize = 10;
/// Classes of distance from which an ordered judgement is far off.
const FAR: usize = 2;

/// Cost of a missed critical request. More than all other failures of a case together.
const MISSED_CRITICAL: f64 = 6.0;

pub struct TriageLabels {
    model: TriageModel,
    inference: Inference,
    rows: Vec<Row>,
    /// Of the requests, in order.
    vectors: Vec<Vec<f32>>,
    /// What the reader says of them, where there is one.
    readings: Vec<Option<Vec<f32>>>,
    data: DataNote,
}

/// What the heads say of one request, by [`Task::ALL`].
struct Said {
    labels: [usize; 3],
    probabilities: [[f32; CLASSES]; 3],
    abstained: [bool; 3],
    words: [Vec<String>; 3],
}

/// Reads labelled requests, leaves out those that the heads have learnt from, and embeds the rest.
///
/// # Errors
/// When the data is missing or wrong, or the models fail.
pub async fn prepare(context: &Context<'_>, part: &Part) -> Result<TriageLabels, EvalError> {
    let path = context.suite.path(&part.data.path);
    let all = read(&path)?;
    if all.iter().all(|row| row.labels == Labels::default()) {
        return Err(EvalError::data(&path, "carries no label; rows need `urgency`, `difficulty` or `next`"));
    }
    let available = all.len();
    let (rows, separation) = unseen(&path, all)?;
    let (rows, mut data) = drawn(context.suite, part, rows);
    data.available = available;
    data.notes.push(separation);
    let model = TriageModel::embedded().context("built-in triage model")?;
    let (trained, running) = (model.embedder().to_owned(), context.inference.embedder_name());
    if trained != running {
        data.notes
            .push(format!("judged by the text alone: the heads were trained with {trained}, {running} is running"));
    }
    let wanted = context.settings.generation.second_opinion && part.replies == Replies::Generated;
    let inference = &context.inference;
    let opinion = inference.opinion_name().filter(|_| wanted);
    let model = model.for_models(running, inference.reader_name(), opinion);
    let texts: Vec<String> = rows.iter().map(|row| row.request().text()).collect();
    data.cases = digest(&rows.iter().zip(&texts).flat_map(|(row, text)| [row.id.as_str(), text]).collect::<Vec<_>>());
    let label = format!("{}: requests", part.name);
    let vectors = context.vectors.of(&texts, Role::Query, |done| (context.progress)(&label, done, texts.len())).await?;
    let mut readings = Vec::with_capacity(texts.len());
    for text in texts {
        readings.push(context.inference.read_request(text).await.context("reading a request for triage")?);
    }
    data.notes.push(match model.wants_opinion() {
        true => "judged with the language model's opinion, as tickets are".to_owned(),
        false => "judged without the language model, at once".to_owned(),
    });
    let inference = context.inference.clone();
    Ok(TriageLabels { model, inference, rows, vectors, readings, data })
}

impl Runner for TriageLabels {
    fn data(&self) -> DataNote {
        self.data.clone()
    }

    fn memory(&self) -> Option<MemoryNote> {
        None
    }

    fn cases(&self) -> Vec<Key> {
        let key = |row: &Row| {
            let product = row.product.as_deref().unwrap_or_default();
            let parts = [&row.id, &row.lang, product, &row.subject, &row.body, &digest_of(&row.labels)];
            Key { id: row.id.clone(), digest: digest(&parts) }
        };
        self.rows.iter().map(key).collect()
    }

    fn scope(&self) -> String {
        let opinion = self.model.opinion().filter(|_| self.model.wants_opinion());
        opinion.unwrap_or_default().to_owned()
    }

    async fn run(&mut self, at: usize) -> Result<CaseRecord, EvalError> {
        let row = self.rows.get(at).context("no such case")?;
        let vector = self.vectors.get(at).context("no such case")?;
        let request = row.request();
        let opinion = match self.model.wants_opinion() {
            true => self.inference.consider(request.text()).await.context("an opinion for triage")?,
            false => None,
        };
        let reading = self.readings.get(at).and_then(Option::as_deref);
        let meaning = Meaning { vector: Some(vector), reading, opinion: opinion.as_deref() };
        let triage = self.model.judge(&request, meaning, &[], None);
        let said = Said {
            labels: [triage.urgency.label.index(), triage.difficulty.label.index(), triage.next.label.index()],
            probabilities: [
                distribution(&triage.urgency),
                distribution(&triage.difficulty),
                distribution(&triage.next),
            ],
            abstained: [triage.urgency.abstained, triage.difficulty.abstained, triage.next.abstained],
            words: [triage.urgency.words, triage.difficulty.words, triage.next.words],
        };
        Ok(record(row, &said))
    }

    fn charts(&self, table: &Table) -> Vec<Chart> {
        let charts = |task| {
            let judged = judged(table, task);
            [reliability(task, &judged), matrix(task, &judged)]
        };
        Task::ALL.into_iter().flat_map(charts).collect()
    }

    fn beside(&self, _table: &Table) -> Vec<Beside> {
        Task::ALL.into_iter().flat_map(|task| compared(task, &self.rows)).collect()
    }
}

fn distribution<T>(judgement: &Judgement<T>) -> [f32; CLASSES] {
    let mut probabilities = [0.0; CLASSES];
    probabilities.iter_mut().zip(&judgement.distribution).for_each(|(slot, said)| *slot = *said);
    probabilities
}

fn record(row: &Row, said: &Said) -> CaseRecord {
    let mut values = BTreeMap::new();
    let mut notes = Vec::new();
    for (at, task) in Task::ALL.into_iter().enumerate() {
        let (name, probabilities) = (task.name(), &said.probabilities[at]);
        if let Some(truth) = row.labels.class(task) {
            values.insert(format!("{name}.truth"), truth as f64);
        }
        values.insert(format!("{name}.label"), said.labels[at] as f64);
        let columns = probabilities.iter().enumerate();
        values.extend(columns.map(|(class, said)| (format!("{name}.p{class}"), f64::from(*said))));
        notes.push((name.to_owned(), in_words(task, said, at)));
        if !said.words[at].is_empty() {
            notes.push((format!("words that decided: {name}"), said.words[at].join(" · ")));
        }
    }
    let failures = failures(Task::ALL.map(|task| row.labels.class(task)), said.labels);
    let product = row.product.iter().filter(|product| !product.is_empty());
    CaseRecord {
        id: row.id.clone(),
        language: row.lang.clone(),
        slices: product.map(|product| format!("product={product}")).collect(),
        message: row.request().text(),
        values,
        badness: failures.iter().map(|(_, cost)| cost).sum(),
        failures: failures.into_iter().map(|(failure, _)| failure).collect(),
        reference: Some(reference(&row.labels)),
        notes,
        ..CaseRecord::default()
    }
}

/// How the judgement fails the customer, with what it costs: not being seen in need most, being served too early least.
fn failures(truth: [Option<usize>; 3], said: [usize; 3]) -> Vec<(String, f64)> {
    let mut failures = Vec::new();
    let mut add = |failure: &str, cost: f64| failures.push((failure.to_owned(), cost));
    if let Some(truth) = truth[0] {
        let (late, distance) = (said[0] > truth, said[0].abs_diff(truth));
        let missed = truth == Urgency::Critical.index() && late;
        if missed {
            add("critical request not seen as critical", MISSED_CRITICAL + distance as f64 / CLASSES as f64);
        }
        if distance >= FAR {
            let cost = if missed { 0.0 } else { f64::from(u8::from(late)) + 1.0 };
            add("urgency wrong by two or more", cost);
        }
    }
    if truth[1].is_some_and(|truth| said[1].abs_diff(truth) >= FAR) {
        add("difficulty wrong by two or more", 0.5);
    }
    if let Some(truth) = truth[2]
        && truth != said[2]
    {
        let (truth, said) = (NextStep::ALL[truth], NextStep::ALL[said[2]]);
        add(&format!("wrong next step: {} instead of {}", done(said), done(truth)), wrong_step(truth, said));
    }
    failures
}

fn done(step: NextStep) -> &'static str {
    match step {
        NextStep::Answer => "answered",
        NextStep::Ask => "asked back",
        NextStep::Human => "handed over",
        NextStep::Reject => "set aside",
    }
}

/// What it costs the customer when `said` is done where `truth` is right.
fn wrong_step(truth: NextStep, said: NextStep) -> f64 {
    match (truth, said) {
        // Nobody answers at all.
        (_, NextStep::Reject) => 3.0,
        // Spam is dealt with: costs the team.
        (NextStep::Reject, _) => 0.25,
        // An answer where somebody had to act, or without the fact that decides.
        (_, NextStep::Answer) => 1.5,
        // A needless question costs a round.
        (_, NextStep::Ask) => 1.0,
        // A person looks: costs time only.
        (_, NextStep::Human) => 0.5,
    }
}

fn class_names(task: Task) -> Vec<&'static str> {
    match task {
        Task::Urgency => Urgency::ALL.iter().map(|class| class.name()).collect(),
        Task::Difficulty => Difficulty::ALL.iter().map(|class| class.name()).collect(),
        Task::Next => NextStep::ALL.iter().map(|class| class.name()).collect(),
    }
}

fn class_name(task: Task, class: usize) -> &'static str {
    class_names(task).get(class).copied().unwrap_or("nothing")
}

/// The label and all probabilities.
fn in_words(task: Task, said: &Said, at: usize) -> String {
    let all = class_names(task).into_iter().zip(said.probabilities[at]).map(|(name, said)| format!("{name} {said:.2}"));
    let all = all.collect::<Vec<_>>().join(", ");
    let unsure = if said.abstained[at] { ", not sure enough to act" } else { "" };
    format!("{}{unsure} ({all})", class_name(task, said.labels[at]))
}

fn reference(labels: &Labels) -> String {
    let label = |task: Task| labels.class(task).map(|class| format!("{} {}", task.name(), class_name(task, class)));
    let said: Vec<String> = Task::ALL.into_iter().filter_map(label).collect();
    if said.is_empty() { "no label".to_owned() } else { said.join(", ") }
}

/// The judgements in a table that have a truth beside them.
fn judged(table: &Table, task: Task) -> Vec<Judged> {
    let name = task.name();
    let value = |column: &str, row: usize| table.column(column)?.get(row).copied().flatten();
    let judged = |row: usize| {
        let truth =
            value(&format!("{name}.truth"), row).map(|truth| truth as usize).filter(|truth| *truth < CLASSES)?;
        let label = value(&format!("{name}.label"), row).map(|label| label as usize)?;
        let mut probabilities = [0.0; CLASSES];
        for (class, slot) in probabilities.iter_mut().enumerate() {
            *slot = value(&format!("{name}.p{class}"), row)? as f32;
        }
        Some(Judged { truth, label, probabilities })
    };
    (0..table.rows.len()).filter_map(judged).filter(|one| one.label < CLASSES).collect()
}

/// Of the class that was named: how probable it was said to be, and how often it was right. Empty bins are left out.
fn reliability(task: Task, judged: &[Judged]) -> Chart {
    let mut bins = [(0.0, 0.0, 0_usize); BINS];
    for one in judged {
        let said = one.probability();
        let bin = bins.get_mut(((said * BINS as f32) as usize).min(BINS - 1));
        bin.into_iter().for_each(|(sum, right, count)| {
            *sum += f64::from(said);
            *right += f64::from(u8::from(one.label == one.truth));
            *count += 1;
        });
    }
    let filled = bins.into_iter().filter(|(_, _, count)| *count > 0);
    let bin =
        |(sum, right, count): (f64, f64, usize)| Bin { said: sum / count as f64, was: right / count as f64, count };
    Chart::Reliability { title: format!("{}: said and true", task.name()), bins: filled.map(bin).collect() }
}

fn matrix(task: Task, judged: &[Judged]) -> Chart {
    Chart::Matrix {
        title: format!("{}: label (rows) and judgement (columns)", task.name()),
        labels: class_names(task).into_iter().map(str::to_owned).collect(),
        counts: confusion(judged).into_iter().map(|row| row.to_vec()).collect(),
    }
}

/// What the figures stand between: two readings of the same requests above, the most frequent class below.
fn compared(task: Task, rows: &[Row]) -> Vec<Beside> {
    let mut beside = Vec::new();
    let mut add = |name: &str, value: f64, about: String| {
        beside.push(Beside { name: format!("{}.{name}", task.name()), value, about });
    };
    let mut readings = [[0; CLASSES]; CLASSES];
    let class = |labels: &Option<Labels>| labels.as_ref().and_then(|labels| labels.class(task));
    let pairs: Vec<(usize, usize)> = rows.iter().filter_map(|row| class(&row.a).zip(class(&row.b))).collect();
    pairs.iter().for_each(|(a, b)| readings[*a][*b] += 1);
    if !pairs.is_empty() {
        let about =
            |what: &str| format!("ceiling: {what} of the second reading against the first, {} requests", pairs.len());
        add("readings-accuracy", f64::from(accuracy(&readings)), about("accuracy"));
        add("readings-macro-f1", f64::from(macro_f1(&readings)), about("macro-F1"));
        add("readings-kappa", f64::from(kappa(&readings, task.ordered())), about("kappa"));
    }
    let mut counts = [0_usize; CLASSES];
    rows.iter().filter_map(|row| row.labels.class(task)).for_each(|class| counts[class] += 1);
    let labelled: usize = counts.iter().sum();
    let most = counts.iter().enumerate().max_by_key(|(_, count)| **count).filter(|(_, count)| **count > 0);
    if let Some((class, count)) = most {
        let about = format!("floor: accuracy of always saying `{}`, {labelled} requests", class_name(task, class));
        add("majority-accuracy", *count as f64 / labelled as f64, about);
    }
    beside
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::parts::testing::Bench;
    use serde_json::json;

    fn labels(urgency: u8, difficulty: u8, next: &str) -> Labels {
        Labels { urgency, difficulty, next: next.into() }
    }

    fn row(id: &str, labels: Labels) -> Row {
        let (lang, subject, body) = ("es".into(), "Ayuda".into(), "No va".into());
        Row { id: id.into(), lang, product: None, subject, body, labels, a: None, b: None }
    }

    /// Three quarters for the named class of each task.
    fn said(classes: [usize; 3]) -> Said {
        let sure = |class: usize| {
            let mut probabilities = [0.25 / 3.0; CLASSES];
            probabilities[class] = 0.75;
            probabilities
        };
        Said {
            labels: classes,
            probabilities: classes.map(sure),
            abstained: [false, true, false],
            words: Default::default(),
        }
    }

    #[test]
    fn columns_hold_truth_and_probabilities_and_no_truth_where_none_was_said() {
        let of = |labels| record(&row("1", labels), &said([1, 2, 0]));
        let request = of(labels(1, 3, "answer"));
        assert_eq!((request.values["urgency.truth"], request.values["urgency.p1"]), (0.0, 0.75));
        assert_eq!((request.values["difficulty.truth"], request.values["next.truth"]), (2.0, 0.0));
        assert_eq!(request.reference.as_deref(), Some("urgency critical, difficulty specialist, next answer"));
        let spam = of(labels(0, 0, "reject"));
        assert!(!spam.values.contains_key("urgency.truth") && spam.values.contains_key("urgency.p0"));
        assert_eq!(spam.values["next.truth"], 3.0);
        assert!(spam.notes.iter().any(|(name, text)| name == "difficulty" && text.contains("not sure enough")));
        let names = crate::eval::figures::Statistic::Accuracy("urgency".into()).columns();
        assert!(names.iter().all(|name| request.values.contains_key(name)), "{names:?}");
    }

    #[test]
    fn failures_are_named_and_a_missed_critical_one_is_worst() {
        let kinds = |truth, said| failures(truth, said).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>();
        let cost = |truth, said| failures(truth, said).iter().map(|(_, cost)| cost).sum::<f64>();
        assert!(failures([Some(1), Some(1), Some(0)], [1, 2, 0]).is_empty());
        assert!(failures([None, None, None], [3, 3, 3]).is_empty());
        assert_eq!(kinds([Some(0), None, None], [1, 0, 0]), ["critical request not seen as critical"]);
        assert_eq!(kinds([Some(3), Some(3), None], [1, 0, 0]).len(), 2);
        assert_eq!(kinds([None, None, Some(1)], [0, 0, 0]), ["wrong next step: answered instead of asked back"]);
        // Everything else wrong at once costs less than a missed critical request.
        let all_else = cost([Some(1), Some(0), Some(0)], [3, 3, 3]);
        assert!(cost([Some(0), None, None], [1, 0, 0]) > all_else);
        assert!(cost([Some(1), None, None], [3, 0, 0]) > cost([Some(3), None, None], [1, 0, 0]), "too late is worse");
    }

    #[test]
    fn charts_are_counted_from_the_table() {
        let mut table = Table::default();
        for (id, truth) in [("1", labels(2, 0, "ask")), ("2", labels(1, 0, "ask")), ("3", labels(0, 0, "reject"))] {
            let record = record(&row(id, truth), &said([1, 0, 1]));
            table.push(record.row(), &record.values);
        }
        let urgency = judged(&table, Task::Urgency);
        let Chart::Reliability { bins, .. } = reliability(Task::Urgency, &urgency) else { panic!("reliability") };
        assert_eq!(bins, [Bin { said: 0.75, was: 0.5, count: 2 }]);
        let Chart::Matrix { counts, labels, .. } = matrix(Task::Next, &judged(&table, Task::Next)) else {
            panic!("matrix")
        };
        assert_eq!((counts[1][1], counts[3][1], labels[3].as_str()), (2, 1, "reject"));
        assert!(judged(&table, Task::Difficulty).is_empty());
        assert!(judged(&Table::default(), Task::Next).is_empty());
    }

    #[test]
    fn two_readings_stand_beside_and_so_does_the_commonest_class() {
        let read = |a: u8, b: u8| {
            let (a, b) = (Some(labels(a, 1, "ask")), Some(labels(b, 1, "ask")));
            Row { a, b, ..row("1", labels(2, 0, "ask")) }
        };
        let rows = [read(1, 1), read(2, 2), read(3, 3), read(4, 3), read(0, 2), row("2", labels(1, 0, ""))];
        let beside = compared(Task::Urgency, &rows);
        let value = |name: &str| beside.iter().find(|one| one.name == name).map(|one| one.value);
        assert_eq!(value("urgency.readings-accuracy"), Some(0.75));
        assert!(value("urgency.readings-kappa").is_some_and(|kappa| kappa > 0.8 && kappa < 1.0));
        assert_eq!(value("urgency.majority-accuracy").map(|share| (share * 6.0).round()), Some(5.0));
        assert_eq!(compared(Task::Difficulty, &rows[5..]), []);
    }

    #[tokio::test]
    async fn labelled_requests_are_judged_by_the_heads_of_the_program() {
        let bench = Bench::new("kind = \"triage\"\ndata = { format = \"triage\", path = \"dev.jsonl\" }");
        let body = "All my emails were deleted, years of mail are gone! How do I recover them?";
        let lost = json!({"id": "1", "lang": "en", "body": body, "urgency": 1, "difficulty": 2, "next": "answer"});
        bench.write("dev.jsonl", &[lost, json!({"id": "2", "lang": "es", "subject": "", "body": ""})]);
        let mut part = prepare(&bench.context(), bench.part()).await.expect("prepared");
        assert_eq!(part.cases().len(), 2);
        assert!(part.data().notes.iter().any(|note| note.contains("not checkable")));
        assert!(part.data().notes.iter().any(|note| note.contains("judged by the text alone")));
        let at = part.rows.iter().position(|row| row.id == "1").expect("there");
        let seen = part.run(at).await.expect("judged");
        assert!(seen.values["urgency.p0"] > 0.4, "{:?}", seen.values);
        let empty = part.run(1 - at).await.expect("judged too");
        assert!(empty.failures.is_empty() && empty.reference.as_deref() == Some("no label"));
    }
}
