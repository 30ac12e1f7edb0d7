//! The labelled requests that the heads learn from, and how they are split.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use flate2::read::GzDecoder;
use serde::{Deserialize, Serialize};

use super::heads::TriageError;
use super::text::tokens;
use crate::ticket::{Class, Language, NextStep, Request};

/// One labelled request, as in `train.jsonl.gz`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Labelled {
    pub id: String,
    pub lang: String,
    #[serde(default)]
    pub subject: String,
    #[serde(default)]
    pub body: String,
    /// 1 to 4; 0 where it is no request.
    pub urgency: u8,
    /// 1 to 4; 0 where it is no request.
    pub difficulty: u8,
    /// Empty where nothing is said about it.
    #[serde(default)]
    pub next: String,
    /// The words that decided the urgency, may be empty.
    #[serde(default)]
    pub evidence: String,
}

impl Labelled {
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

    fn next_class(&self) -> Option<usize> {
        NextStep::ALL.iter().position(|step| step.name() == self.next)
    }
}

/// Which of the three judgements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Urgency,
    Difficulty,
    Next,
}

impl Task {
    pub const ALL: [Self; 3] = [Self::Urgency, Self::Difficulty, Self::Next];

    pub fn name(self) -> &'static str {
        match self {
            Self::Urgency => "urgency",
            Self::Difficulty => "difficulty",
            Self::Next => "next",
        }
    }

    /// Urgency and difficulty are scales; next steps are not.
    pub fn ordered(self) -> bool {
        self != Self::Next
    }

    /// Index of the row's class; None where the row says nothing about it (what is no request has no urgency).
    pub fn class(self, row: &Labelled) -> Option<usize> {
        match self {
            Self::Urgency => usize::from(row.urgency).checked_sub(1),
            Self::Difficulty => usize::from(row.difficulty).checked_sub(1),
            Self::Next => row.next_class(),
        }
    }
}

/// Reads a gzip file of JSON lines.
pub fn read(path: &Path) -> Result<Vec<Labelled>, TriageError> {
    let failed = |reason: String| TriageError::Data { path: path.display().to_string(), reason };
    let file = File::open(path).map_err(|error| failed(format!("{error}; pass the folder of train.jsonl.gz")))?;
    let mut rows = Vec::new();
    for (number, line) in BufReader::new(GzDecoder::new(file)).lines().enumerate() {
        let line = line.map_err(|error| failed(format!("line {}: {error}", number + 1)))?;
        let row: Labelled =
            serde_json::from_str(&line).map_err(|error| failed(format!("line {}: {error}", number + 1)))?;
        if row.urgency > 4 || row.difficulty > 4 || (row.next_class().is_none() && !row.next.is_empty()) {
            return Err(failed(format!("line {}: a label that the rubric does not know", number + 1)));
        }
        rows.push(row);
    }
    if rows.is_empty() {
        return Err(failed("no rows".into()));
    }
    Ok(rows)
}

/// A fold for every row: stratified by urgency and next step, equal texts in one fold, the same for the same seed.
pub fn folds(rows: &[Labelled], count: usize, seed: u64) -> Vec<usize> {
    let mut groups: HashMap<String, usize> = HashMap::new();
    let mut strata: BTreeMap<(u8, &str), Vec<usize>> = BTreeMap::new();
    let mut group_of = Vec::with_capacity(rows.len());
    for (at, row) in rows.iter().enumerate() {
        let words: Vec<String> = tokens(&row.request().text()).into_iter().map(|token| token.folded).collect();
        let first = *groups.entry(words.join(" ")).or_insert(at);
        group_of.push(first);
        if first == at {
            strata.entry((row.urgency, row.next.as_str())).or_default().push(at);
        }
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let mut fold_of_group: HashMap<usize, usize> = HashMap::new();
    let mut dealt = 0;
    for members in strata.values_mut() {
        random.shuffle(members);
        for member in members {
            fold_of_group.insert(*member, dealt % count);
            dealt += 1;
        }
    }
    group_of.iter().map(|group| fold_of_group.get(group).copied().unwrap_or(0)).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Rows of our own writing, enough to train on in a test.
    pub fn sample(copies: usize) -> Vec<Labelled> {
        let kinds = [
            ("en", "All my bookmarks vanished, years of work are gone", 1, 2, "answer", "bookmarks vanished"),
            ("es", "He perdido todos los correos de la empresa", 1, 3, "human", "perdido todos los correos"),
            ("en", "I cannot send any mail since this morning", 2, 2, "ask", "cannot send any mail"),
            ("es", "No puedo entrar en mi panel", 2, 2, "ask", "No puedo entrar"),
            ("en", "The list is sorted the wrong way, how do I mend it", 3, 1, "answer", "wrong way"),
            ("es", "Las fotos tardan mucho en cargar", 3, 2, "answer", "tardan mucho"),
            ("en", "I would like a blue theme", 4, 1, "answer", "would like"),
            ("es", "Me gustaría otro tipo de letra", 4, 1, "answer", "Me gustaría"),
            ("en", "Cheap tickets, click here", 0, 0, "reject", ""),
        ];
        let row =
            |(at, (lang, body, urgency, difficulty, next, evidence)): (usize, &(&str, &str, u8, u8, &str, &str))| {
                Labelled {
                    id: format!("row-{at}"),
                    lang: (*lang).into(),
                    subject: String::new(),
                    body: format!("{body} {}", "abcdefghijklmnopqrstuvwyz".get(at % 20..at % 20 + 4).unwrap_or("end")),
                    urgency: *urgency,
                    difficulty: *difficulty,
                    next: (*next).into(),
                    evidence: (*evidence).into(),
                }
            };
        kinds.iter().cycle().take(kinds.len() * copies).enumerate().map(row).collect()
    }

    #[test]
    fn equal_texts_share_a_fold_and_folds_are_even() {
        let mut rows = sample(20);
        let mut again = rows[3].clone();
        again.body = again.body.to_uppercase();
        rows.push(again);
        let folds = folds(&rows, 5, 9);
        assert_eq!(folds[3], folds[rows.len() - 1]);
        for fold in 0..5 {
            let size = folds.iter().filter(|one| **one == fold).count();
            assert!((rows.len() / 5).abs_diff(size) < rows.len() / 10, "fold {fold} has {size} rows");
        }
        assert_eq!(folds, super::folds(&rows, 5, 9));
    }

    #[test]
    fn missing_data_is_told_in_words() {
        let error = read(Path::new("does-not-exist/train.jsonl.gz")).expect_err("there is no such file");
        assert!(error.to_string().contains("does-not-exist"));
    }
}
