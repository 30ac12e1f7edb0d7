//! What a run leaves behind: one record per case, and a result with every figure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::figures::Figure;
use super::suite::PartKind;
use super::table::{Row, Table};

/// One case: what came in, what came out, and what is to be said of it. Written as a line of `cases/PART.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CaseRecord {
    /// Unique in its part.
    pub id: String,
    /// Of the request, ISO 639-1.
    pub language: String,
    pub queue: Option<String>,
    /// Slices of the data set's own, beside language and queue.
    pub slices: Vec<String>,
    /// What the customer wrote (or the attack, the text with personal data).
    pub message: String,
    /// The numbers of this case by column; see [`super::figures`] for the names.
    pub values: BTreeMap<String, f64>,
    /// Kinds of failure, as short sentences that are the same for every case that fails in this way.
    pub failures: Vec<String>,
    /// How bad it is, 0 (nothing to mend) and up; the worst are shown first.
    pub badness: f64,
    /// What was found, best first.
    pub evidence: Vec<ShownEvidence>,
    pub draft: Option<ShownDraft>,
    /// What a good answer says: the reference reply, the ids that should have been found, the label.
    pub reference: Option<String>,
    /// More to be shown, by name: decision, probabilities, what was perturbed.
    pub notes: Vec<(String, String)>,
    /// For `eval export --trec`: ids and scores, best first.
    pub ranking: Vec<(String, f64)>,
    /// For `eval export --trec`: relevant ids and their grades.
    pub relevant: Vec<(String, u32)>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShownEvidence {
    pub id: String,
    pub title: String,
    pub text: String,
    pub similarity: f64,
    /// None where the data set does not say.
    pub relevant: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShownDraft {
    /// `generated`, `extractive`, `question`, `acknowledgement`.
    pub kind: String,
    pub text: String,
    pub sentences: Vec<ShownSentence>,
    /// What the guard cut, and why.
    pub findings: Vec<String>,
    /// Numbers, paths, links and names found in no evidence, by a check that shares no code with the guard.
    pub invented: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShownSentence {
    pub text: String,
    /// Numbers of the draft's evidence, from 1.
    pub evidence: Vec<usize>,
    /// 0 to 1.
    pub support: f64,
}

impl CaseRecord {
    /// Its row in the table.
    pub fn row(&self) -> Row {
        let mut slices = vec![format!("language={}", self.language)];
        slices.extend(self.queue.as_ref().map(|queue| format!("queue={queue}")));
        slices.extend(self.slices.iter().cloned());
        Row { id: self.id.clone(), slices }
    }
}

/// The result of a run, `result.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// Version of this format.
    pub format: u32,
    pub suite: String,
    pub suite_version: u32,
    pub about: String,
    pub made: Made,
    pub parts: Vec<PartResult>,
}

/// [`RunResult::format`] as this program writes it.
pub const FORMAT: u32 = 1;

/// Where a result comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Made {
    /// RFC 3339.
    pub at: String,
    pub command: String,
    /// Processor, cores, memory.
    pub machine: String,
    /// Version and digest of the code that answers.
    pub code: String,
    pub embedder: String,
    pub generator: Option<String>,
    /// Digest of prompts and examples.
    pub prompts: String,
    /// Digest of the settings that bear on answers.
    pub settings: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartResult {
    pub name: String,
    pub kind: PartKind,
    pub about: String,
    pub data: DataNote,
    pub memory: Option<MemoryNote>,
    /// Why there is nothing to show.
    pub skipped: Option<String>,
    pub figures: Vec<Figure>,
    pub charts: Vec<Chart>,
    /// Figures that stand beside for comparison (agreement of two people, the plain baseline) and are never gated.
    pub beside: Vec<Beside>,
    /// How often each kind of failure occurred, most frequent first.
    pub failures: Vec<(String, usize)>,
    /// Cases taken from an earlier run with the same code, models, prompts, settings and memory.
    pub cached: usize,
    pub seconds: f64,
    pub table: Table,
}

/// What was run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DataNote {
    pub path: String,
    /// SHA-256 over ids and texts of the cases in order.
    pub cases: String,
    /// SHA-256 over the ids of the corpus; figures on another corpus are not compared.
    pub corpus: Option<String>,
    /// Rows of the data set, and how many of them were run.
    pub available: usize,
    pub used: usize,
    /// What was left out and why, what is odd about the data.
    pub notes: Vec<String>,
}

/// What the service remembered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryNote {
    pub items: usize,
    /// SHA-256 over ids and contents.
    pub digest: String,
    /// How it was checked that no case is in the memory that it is judged against, and what came of it.
    pub separation: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Beside {
    pub name: String,
    pub value: f64,
    pub about: String,
}

/// Something to draw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Chart {
    /// Said probability against share that was right; the diagonal is perfect.
    Reliability { title: String, bins: Vec<Bin> },
    /// A line through points.
    Curve { title: String, x: String, y: String, points: Vec<(f64, f64)> },
    /// Counts of truth (rows) and judgement (columns).
    Matrix { title: String, labels: Vec<String>, counts: Vec<Vec<usize>> },
    /// One bar per name.
    Bars { title: String, unit: String, bars: Vec<(String, f64)> },
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Mean probability said.
    pub said: f64,
    /// Share that was right.
    pub was: f64,
    pub count: usize,
}
