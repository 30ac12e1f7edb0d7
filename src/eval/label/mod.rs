//! People label cases of a run: how urgent, what next, whether the draft could be sent.
//!
//! Who labels sees the message (for drafts also the evidence's titles and the reply) and nothing of what the system
//! judged. Cases are drawn by hash of seed and id, so that two people with one seed label the same ones. Each label is
//! a line that is on disk before the next case is shown; the last line of a case counts, and one without a label takes
//! it back.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::EvalError;
use super::export::{case_files, for_each_case, part_name};
use super::kept::hex;
use super::record::CaseRecord;
use super::suite::draw_key;

pub(super) mod agreement;

pub use agreement::{Agreement, agreement};

/// What is labelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    Urgency,
    Next,
    /// Whether the draft could be sent.
    Draft,
}

/// Key, name and meaning of a label. The names of urgency and next step are those of the triage data.
type Choice = (char, &'static str, &'static str);

const URGENCY: [Choice; 4] = [
    ('c', "critical", "work stands still, money or data are being lost, or someone is in danger; now"),
    ('h', "high", "something important does not work and there is no way around it; today"),
    ('n', "normal", "a nuisance, or there is a way around it; within days"),
    ('l', "low", "a question or a wish; nothing is at stake"),
];
const NEXT: [Choice; 4] = [
    ('a', "answer", "it can be answered from what was solved before"),
    ('k', "ask", "one fact has to be asked for first"),
    ('h', "human", "a person with authority or access has to act"),
    ('r', "reject", "no support request"),
];
const DRAFT: [Choice; 3] = [
    ('a', "as-is", "could be sent as it is"),
    ('e', "after-edit", "could be sent after an edit of a minute or two"),
    ('n', "not-sendable", "wrong, beside the point or harmful; writing anew is faster"),
];

impl What {
    /// Every kind, for the command line.
    pub const ALL: [Self; 3] = [Self::Urgency, Self::Next, Self::Draft];

    pub fn name(self) -> &'static str {
        match self {
            Self::Urgency => "urgency",
            Self::Next => "next",
            Self::Draft => "draft",
        }
    }

    fn choices(self) -> &'static [Choice] {
        match self {
            Self::Urgency => &URGENCY,
            Self::Next => &NEXT,
            Self::Draft => &DRAFT,
        }
    }

    /// Whether a miss by two steps is worse than a miss by one.
    fn is_ordered(self) -> bool {
        self != Self::Next
    }

    /// Position of a label among the choices.
    pub(super) fn class(self, label: &str) -> Option<usize> {
        self.choices().iter().position(|(_, name, _)| *name == label)
    }

    /// The label of a key: a letter, or the number of the choice.
    fn label(self, key: &str) -> Option<&'static str> {
        let numbered = |at: usize| key == (at + 1).to_string();
        let is_key = |letter: char| key.chars().eq([letter]);
        let mut choices = self.choices().iter().enumerate();
        choices.find(|(at, (letter, ..))| numbered(*at) || is_key(*letter)).map(|(_, (_, name, _))| *name)
    }
}

/// A line of a label file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Label {
    pub what: What,
    pub part: String,
    /// Of the case.
    pub id: String,
    /// Of what was shown; a label of another text says nothing.
    pub digest: String,
    /// None takes an earlier label back.
    pub label: Option<String>,
    pub by: String,
    /// RFC 3339.
    pub at: String,
}

/// Who labels what.
#[derive(Clone, Debug)]
pub struct Task {
    pub what: What,
    /// Of the run.
    pub folder: PathBuf,
    /// Where the labels go; not into the run's folder, which the next run replaces.
    pub labels: PathBuf,
    /// Cases of this part only.
    pub part: Option<String>,
    /// Letters, digits and dashes; part of the file's name.
    pub by: String,
    pub seed: u64,
    /// How many cases are drawn.
    pub count: usize,
}

/// What came of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    pub file: PathBuf,
    /// Cases with a label, of those that were drawn.
    pub labelled: usize,
    pub drawn: usize,
}

/// A case as it is shown.
struct Shown {
    part: String,
    id: String,
    digest: String,
    text: String,
}

enum Answer {
    Label(&'static str),
    Skip,
    Undo,
    Quit,
}

/// Asks for one label after the other until all cases are labelled, `q` is entered or the input ends. Goes on where the
/// person stopped the last time; cases that were skipped come again the next time.
///
/// # Errors
/// [`EvalError::Data`] for a bad name, a folder that is no run, a run without such cases or a damaged label file;
/// [`EvalError::Run`] when a label cannot be written.
pub fn label(task: &Task, mut input: impl BufRead, mut output: impl Write) -> Result<Done, EvalError> {
    let file = labels_path(&task.labels, task.what, &task.by)?;
    let cases = draw(task)?;
    let mut labels = current(&read_labels(&file)?);
    let mut writer = open(&file)?;
    let is_labelled = |labels: &BTreeMap<Key, Label>, case: &Shown| labels.contains_key(&case.key());
    let mut queue: Vec<usize> = (0..cases.len()).rev().filter(|at| !is_labelled(&labels, &cases[*at])).collect();
    let mut history = Vec::new();
    while let Some(at) = queue.pop() {
        let Some(case) = cases.get(at) else { continue };
        let done = cases.iter().filter(|case| is_labelled(&labels, case)).count();
        show(&mut output, task.what, case, done, cases.len()).context("cannot write to the terminal")?;
        match ask(task.what, &mut input, &mut output).context("cannot talk to the terminal")? {
            Answer::Label(name) => {
                let label = task.label(case, Some(name));
                append(&mut writer, &label).with_context(|| format!("cannot write {}", file.display()))?;
                labels.insert(case.key(), label);
                history.push(at);
            }
            Answer::Skip => history.push(at),
            Answer::Undo => {
                queue.push(at);
                let Some(last) = history.pop() else {
                    writeln!(output, "nothing to take back").context("cannot write to the terminal")?;
                    continue;
                };
                queue.push(last);
                let Some(case) = cases.get(last).filter(|case| is_labelled(&labels, case)) else { continue };
                append(&mut writer, &task.label(case, None))
                    .with_context(|| format!("cannot write {}", file.display()))?;
                labels.remove(&case.key());
            }
            Answer::Quit => break,
        }
    }
    let labelled = cases.iter().filter(|case| is_labelled(&labels, case)).count();
    Ok(Done { file, labelled, drawn: cases.len() })
}

impl Task {
    fn label(&self, case: &Shown, label: Option<&str>) -> Label {
        Label {
            what: self.what,
            part: case.part.clone(),
            id: case.id.clone(),
            digest: case.digest.clone(),
            label: label.map(str::to_owned),
            by: self.by.clone(),
            at: jiff::Timestamp::now().to_string(),
        }
    }
}

/// What a label is about: part, case and the digest of what was shown.
type Key = (String, String, String);

impl Shown {
    fn key(&self) -> Key {
        (self.part.clone(), self.id.clone(), self.digest.clone())
    }
}

/// The file of a person's labels.
///
/// # Errors
/// [`EvalError::Data`] when the name could not be part of a file name.
pub fn labels_path(folder: &Path, what: What, by: &str) -> Result<PathBuf, EvalError> {
    if by.is_empty() || !by.chars().all(|c| c.is_alphanumeric() || c == '-') {
        return Err(EvalError::data(folder, format!("the name `{by}` must consist of letters, digits and dashes")));
    }
    Ok(folder.join(format!("labels-{}-{by}.jsonl", what.name())))
}

/// The labels of a file, every line of it; none where there is no file. A last line that was cut short is left out.
///
/// # Errors
/// [`EvalError::Data`] for any other line that is no label.
pub fn read_labels(path: &Path) -> Result<Vec<Label>, EvalError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(anyhow::Error::new(error).context(format!("cannot read {}", path.display())).into()),
    };
    let mut labels = Vec::new();
    for (at, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
        match serde_json::from_slice(line) {
            Ok(label) => labels.push(label),
            Err(_) if !line.ends_with(b"\n") => {}
            Err(error) => return Err(EvalError::data(path, format!("line {} is no label: {error}", at + 1))),
        }
    }
    Ok(labels)
}

/// The labels that count: the last of each case, unless it was taken back.
fn current(labels: &[Label]) -> BTreeMap<Key, Label> {
    let mut current = BTreeMap::new();
    for label in labels {
        let key = (label.part.clone(), label.id.clone(), label.digest.clone());
        match label.label {
            Some(_) => current.insert(key, label.clone()),
            None => current.remove(&key),
        };
    }
    current
}

/// The labels that count, for whoever compares them.
pub(super) fn counting(labels: &[Label]) -> Vec<Label> {
    current(labels).into_values().collect()
}

/// Opens for appending, behind the last whole line.
fn open(path: &Path) -> anyhow::Result<File> {
    let context = || format!("cannot write {}", path.display());
    let file = OpenOptions::new().create(true).append(true).open(path).with_context(context)?;
    let text = fs::read(path).with_context(context)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if whole < text.len() {
        file.set_len(whole as u64).with_context(context)?;
    }
    Ok(file)
}

fn append(file: &mut File, label: &Label) -> anyhow::Result<()> {
    let line = serde_json::to_string(label)? + "\n";
    file.write_all(line.as_bytes())?;
    Ok(file.sync_data()?)
}

/// Digest of what a person is shown of a case; None where there is nothing to label.
pub fn digest(what: What, case: &CaseRecord) -> Option<String> {
    let draft = case.draft.as_ref().map(|draft| draft.text.trim()).filter(|text| !text.is_empty());
    let shown = match what {
        _ if case.message.trim().is_empty() => return None,
        What::Urgency | What::Next => case.message.clone(),
        What::Draft => format!("{}\u{0}{}", case.message, draft?),
    };
    Some(hex(&Sha256::digest(shown), 8))
}

/// Holds no more than `count` cases at a time.
fn draw(task: &Task) -> Result<Vec<Shown>, EvalError> {
    let mut drawn = BTreeMap::new();
    for path in case_files(&task.folder)? {
        let part = part_name(&path);
        if task.part.as_ref().is_some_and(|wanted| *wanted != part) {
            continue;
        }
        for_each_case(&path, |case| {
            let Some(digest) = digest(task.what, &case) else { return };
            let text = text(task.what, &case);
            let key = draw_key(task.seed, &format!("{part} {}", case.id));
            drawn.insert(key, Shown { part: part.clone(), id: case.id, digest, text });
            if drawn.len() > task.count {
                drawn.pop_last();
            }
        })?;
    }
    if drawn.is_empty() {
        let part = task.part.as_ref().map(|part| format!(" in part `{part}`")).unwrap_or_default();
        return Err(EvalError::data(&task.folder, format!("has no case to label for {}{part}", task.what.name())));
    }
    Ok(drawn.into_values().collect())
}

fn text(what: What, case: &CaseRecord) -> String {
    let mut text = printable(&case.message);
    if let (What::Draft, Some(draft)) = (what, &case.draft) {
        text.push_str("\n\n--- found ---\n");
        case.evidence.iter().for_each(|item| text.push_str(&format!("- {}\n", printable(&item.title))));
        text.push_str(&format!("\n--- reply ---\n{}", printable(&draft.text)));
    }
    text
}

/// A customer's text cannot steer the terminal.
fn printable(text: &str) -> String {
    text.trim().chars().filter(|c| *c == '\n' || *c == '\t' || !c.is_control()).collect()
}

fn show(output: &mut impl Write, what: What, case: &Shown, done: usize, all: usize) -> io::Result<()> {
    writeln!(output, "\n===== {done} of {all} labelled =====\n{}\n", case.text)?;
    let choices: Vec<String> = what.choices().iter().map(|(key, name, _)| format!("{key} {name}")).collect();
    writeln!(output, "{}: {} | ? help, s skip, u undo, q quit", what.name(), choices.join(", "))
}

fn ask(what: What, input: &mut impl BufRead, output: &mut impl Write) -> io::Result<Answer> {
    loop {
        write!(output, "> ")?;
        output.flush()?;
        let mut line = Vec::new();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Ok(Answer::Quit);
        }
        let line = String::from_utf8_lossy(&line).trim().to_lowercase();
        match line.as_str() {
            "q" => return Ok(Answer::Quit),
            "s" => return Ok(Answer::Skip),
            "u" => return Ok(Answer::Undo),
            "" => {}
            "?" => {
                for (at, (key, name, about)) in what.choices().iter().enumerate() {
                    writeln!(output, "  {key} or {}: {name}: {about}", at + 1)?;
                }
                writeln!(output, "  s: skip for now; u: take the last one back; q: quit, everything is kept")?;
            }
            key => match what.label(key) {
                Some(label) => return Ok(Answer::Label(label)),
                None => writeln!(output, "`{}` is no key; ? lists them", printable(key))?,
            },
        }
    }
}

#[cfg(test)]
mod tests;
