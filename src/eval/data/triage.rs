//! Requests with labels for urgency, difficulty and next step, and a look whether the heads have learnt from them.

use std::collections::HashSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Identified, either, lines, rows};
use crate::draft::text::words;
use crate::eval::EvalError;
use crate::ticket::{Class, Language, NextStep, Request};
use crate::triage::data::Task;
use crate::triage::heads::CLASSES;

/// File of the rows that the heads were trained on, in the folder of the cases.
const TRAINING: &str = "train.jsonl";

/// One reading of a request. Difference to [`crate::triage::data::Labelled`]: a label may be missing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Labels {
    /// 1 to 4; 0 where it is no request or nothing was said.
    #[serde(default)]
    pub urgency: u8,
    /// 1 to 4; 0 where it is no request or nothing was said.
    #[serde(default)]
    pub difficulty: u8,
    /// Empty where nothing was said.
    #[serde(default)]
    pub next: String,
}

/// A labelled request.
#[derive(Clone, Debug, Deserialize)]
pub struct Row {
    pub id: String,
    pub lang: String,
    pub product: Option<String>,
    #[serde(default)]
    pub subject: String,
    #[serde(default)]
    pub body: String,
    /// What counts.
    #[serde(flatten)]
    pub labels: Labels,
    /// Two readings made apart from each other, where the set has them.
    pub a: Option<Labels>,
    pub b: Option<Labels>,
}

impl Identified for Row {
    fn id(&self) -> &str {
        &self.id
    }
    fn language(&self) -> &str {
        &self.lang
    }
}

impl Labels {
    /// Index of the class; None where the reading says nothing about it.
    pub fn class(&self, task: Task) -> Option<usize> {
        match task {
            Task::Urgency => usize::from(self.urgency).checked_sub(1),
            Task::Difficulty => usize::from(self.difficulty).checked_sub(1),
            Task::Next => NextStep::ALL.iter().position(|step| step.name() == self.next),
        }
    }

    fn problem(&self) -> Option<String> {
        let level = [("urgency", self.urgency), ("difficulty", self.difficulty)];
        if let Some((name, value)) = level.into_iter().find(|(_, value)| usize::from(*value) > CLASSES) {
            return Some(format!("{name} {value} is not 0 to {CLASSES}"));
        }
        let unknown = !self.next.is_empty() && self.class(Task::Next).is_none();
        unknown.then(|| format!("next step `{}` is not answer, ask, human or reject", self.next))
    }
}

impl Row {
    /// The request as the heads were trained on such: without product and queue.
    pub fn request(&self) -> Request {
        Request {
            subject: self.subject.clone(),
            body: self.body.clone(),
            language: Language::new(&self.lang),
            product: None,
            queue: None,
            exclude: Vec::new(),
        }
    }
}

/// Reads labelled requests, plain or gzip.
///
/// # Errors
/// When the file is missing or half written, an id occurs twice, or a label is none that there is.
pub fn read(path: &Path) -> Result<Vec<Row>, EvalError> {
    let all: Vec<Row> = rows(path)?;
    for (number, row) in all.iter().enumerate() {
        let readings = std::iter::once(&row.labels).chain(&row.a).chain(&row.b);
        if let Some(problem) = readings.into_iter().find_map(Labels::problem) {
            return Err(EvalError::data(path, format!("row {} (`{}`): {problem}", number + 1, row.id)));
        }
    }
    Ok(all)
}

/// The rows that the heads have not learnt from, as far as that can be told, and what was found in words.
///
/// # Errors
/// When the training rows beside cannot be read, or nothing is left.
pub fn unseen(path: &Path, rows: Vec<Row>) -> Result<(Vec<Row>, String), EvalError> {
    let training = either(path.parent().unwrap_or(Path::new("")), TRAINING);
    if !training.exists() {
        return Ok((
            rows,
            format!(
                "whether the heads were trained on these requests is not checkable: weights hold no training texts, and \
                 no {TRAINING} lies beside the data"
            ),
        ));
    }
    let learnt: Vec<Row> = lines(&training)?;
    let ids: HashSet<&str> = learnt.iter().map(|row| row.id.as_str()).collect();
    let texts: HashSet<String> = learnt.iter().map(plain).filter(|text| !text.is_empty()).collect();
    let (mut same_id, mut same_text) = (0, 0);
    let unseen: Vec<Row> = rows
        .into_iter()
        .filter(|row| {
            let by_id = ids.contains(row.id.as_str());
            let by_text = !by_id && texts.contains(&plain(row));
            same_id += usize::from(by_id);
            same_text += usize::from(by_text);
            !by_id && !by_text
        })
        .collect();
    let name = training.file_name().unwrap_or_default().display();
    if unseen.is_empty() {
        return Err(EvalError::data(path, format!("every request is in {name} too, which heads are trained on")));
    }
    let note = format!(
        "checked against the {} rows of {name} beside: {same_id} left out for the same id, {same_text} for the same \
         text; the weights themselves hold no training texts",
        learnt.len()
    );
    Ok((unseen, note))
}

/// Lower case, words only.
fn plain(row: &Row) -> String {
    words(&row.request().text()).join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::parts::testing::Bench;
    use serde_json::json;

    fn bench() -> Bench {
        Bench::new("kind = \"triage\"\ndata = { format = \"triage\", path = \"dev.jsonl\" }")
    }

    #[test]
    fn labels_may_be_missing_and_may_not_be_nonsense() {
        let bench = bench();
        let path = bench.folder.path().join("dev.jsonl");
        bench.write("dev.jsonl", &[json!({"id": "1", "lang": "en", "body": "x", "urgency": 1, "next": "reject"})]);
        let labels = &read(&path).expect("one row")[0].labels;
        let classes = Task::ALL.map(|task| labels.class(task));
        assert_eq!(classes, [Some(0), None, Some(3)]);
        for bad in [
            json!({"id": "1", "lang": "en", "urgency": 5}),
            json!({"id": "1", "lang": "en", "next": "wait"}),
            json!({"id": "1", "lang": "en", "a": {"difficulty": 9}}),
        ] {
            bench.write("dev.jsonl", &[bad]);
            let error = read(&path).expect_err("refused");
            assert!(error.exit_code() == 2 && error.to_string().contains("row 1 (`1`)"), "{error}");
        }
    }

    #[test]
    fn what_the_heads_have_learnt_from_is_left_out() {
        let bench = bench();
        let path = bench.folder.path().join("dev.jsonl");
        let row = |id: &str, body: &str| json!({"id": id, "lang": "en", "body": body, "urgency": 2});
        bench.write("dev.jsonl", &[row("1", "Same id"), row("2", "The same TEXT!"), row("3", "new"), row("4", "")]);
        let all = read(&path).expect("rows");
        let (rows, note) = unseen(&path, all.clone()).expect("no training rows");
        assert!(rows.len() == 4 && note.contains("not checkable: weights hold no training texts"), "{note}");

        bench.write("train.jsonl", &[row("1", "another text"), row("9", "the same text"), row("8", "")]);
        let (rows, note) = unseen(&path, all).expect("checked");
        assert_eq!(rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["3", "4"]);
        assert!(note.contains("1 left out for the same id, 1 for the same text"), "{note}");
        let same = read(&path).expect("rows").into_iter().take(2).collect();
        assert!(unseen(&path, same).expect_err("nothing left").to_string().contains("every request is in train.jsonl"));
    }
}
