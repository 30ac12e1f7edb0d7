//! Folders in the layout of BEIR (Thakur et al., 2021): corpus, queries, and which of them belong together.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::BufRead;
use std::path::Path;

use serde::Deserialize;

use super::{Identified, either, reader, rows};
use crate::eval::EvalError;
use crate::eval::parts::digest;
use crate::eval::suite::CorpusAs;
use crate::retrieve::question_sets::item;
use crate::ticket::{MemoryItem, MemoryKind};

/// A request with graded relevant items.
#[derive(Clone, Debug)]
pub struct Query {
    pub id: String,
    pub language: String,
    pub text: String,
    pub relevant: BTreeMap<String, u32>,
    /// Slices of the data set's own.
    pub slices: Vec<String>,
}

impl Identified for Query {
    fn id(&self) -> &str {
        &self.id
    }
    fn language(&self) -> &str {
        &self.language
    }
}

/// What is searched and what is asked.
pub struct Set {
    pub items: Vec<MemoryItem>,
    pub queries: Vec<Query>,
    /// Digest over the ids of the corpus.
    pub corpus: String,
    /// What is odd about the data.
    pub notes: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Row {
    #[serde(rename = "_id")]
    id: String,
    #[serde(default)]
    title: String,
    text: String,
    #[serde(default)]
    summary: String,
    lang: Option<String>,
}

impl Identified for Row {
    fn id(&self) -> &str {
        &self.id
    }
    fn language(&self) -> &str {
        self.lang.as_deref().unwrap_or("en")
    }
}

/// The corpus of a folder as memory items.
///
/// # Errors
/// When the file is missing, half written, or an id occurs twice.
pub fn corpus(folder: &Path, corpus: CorpusAs) -> Result<Vec<MemoryItem>, EvalError> {
    let rows: Vec<Row> = rows(&either(folder, "corpus.jsonl"))?;
    let texts = |row: Row| {
        let language = row.language().to_owned();
        let (kind, texts) = match corpus {
            CorpusAs::Articles => (MemoryKind::Article, [row.title, row.summary, row.text]),
            CorpusAs::Answers => (MemoryKind::Ticket, [row.title, String::new(), row.text]),
            CorpusAs::Questions => (MemoryKind::Ticket, [row.title, row.text, String::new()]),
        };
        item(kind, &row.id, &language, texts)
    };
    Ok(rows.into_iter().map(texts).collect())
}

/// Reads a whole folder. Where requests have several grades, or `pairs.tsv` has further columns, they become slices.
///
/// # Errors
/// As [`corpus`]; also when a judgement names an unknown request or item, or a grade is no number.
pub fn read(folder: &Path, kind: CorpusAs) -> Result<Set, EvalError> {
    let items = corpus(folder, kind)?;
    let ids: Vec<&str> = items.iter().map(|item| item.id.as_str()).collect();
    let corpus = digest(&ids);
    let known: HashSet<&str> = ids.into_iter().collect();
    let asked: Vec<Row> = rows(&either(folder, "queries.jsonl"))?;
    let mut judged = judgements(&either(folder, "qrels.tsv"), &known, &asked)?;
    let graded = judged.values().flat_map(BTreeMap::values).any(|grade| *grade > 1);
    let mut further = further_slices(folder)?;
    let mut notes = Vec::new();
    let before = asked.len();
    let queries: Vec<Query> = asked
        .into_iter()
        .filter_map(|row| {
            let relevant = judged.remove(&row.id)?;
            let text = joined(&row.title, &row.text);
            let language = row.language().to_owned();
            let mut slices = further.remove(&row.id).unwrap_or_default();
            slices.extend(relevant.values().max().filter(|_| graded).map(|best| format!("grade={best}")));
            Some(Query { id: row.id, language, text, relevant, slices })
        })
        .collect();
    if queries.len() < before {
        notes.push(format!("{} of {before} requests have no judgement and were left out", before - queries.len()));
    }
    Ok(Set { items, queries, corpus, notes })
}

/// Subject and body as one text, as the service reads them.
fn joined(title: &str, text: &str) -> String {
    if text.starts_with(title) { text.to_owned() } else { format!("{title}\n{text}").trim().to_owned() }
}

/// Slices by request from the columns of `pairs.tsv` behind the third: `column=1` where one pair of the request has a 1
/// there, else `column=0`. None where there is no such file.
fn further_slices(folder: &Path) -> Result<HashMap<String, Vec<String>>, EvalError> {
    let path = folder.join("pairs.tsv");
    let mut slices = HashMap::new();
    if !path.exists() {
        return Ok(slices);
    }
    let lines: Result<Vec<String>, _> = reader(&path)?.lines().collect();
    let lines = lines.map_err(|error| EvalError::data(&path, error))?;
    let Some((head, pairs)) = lines.split_first() else { return Ok(slices) };
    let names: Vec<&str> = head.split('\t').skip(3).collect();
    let mut set: HashMap<&str, Vec<bool>> = HashMap::new();
    for fields in pairs.iter().map(|line| line.split('\t').collect::<Vec<_>>()) {
        let Some((request, columns)) = fields.first().zip(fields.get(3..)) else { continue };
        let seen = set.entry(request).or_insert_with(|| vec![false; names.len()]);
        seen.iter_mut().zip(columns).for_each(|(seen, column)| *seen |= *column == "1");
    }
    for (request, seen) in set {
        let named = names.iter().zip(seen).map(|(name, seen)| format!("{name}={}", u8::from(seen)));
        slices.insert(request.to_owned(), named.collect());
    }
    Ok(slices)
}

/// Positive grades by request. With or without a heading line; three columns (request, item, grade) or trec's four.
fn judgements(
    path: &Path,
    items: &HashSet<&str>,
    asked: &[Row],
) -> Result<HashMap<String, BTreeMap<String, u32>>, EvalError> {
    let requests: HashSet<&str> = asked.iter().map(|row| row.id.as_str()).collect();
    let mut grades: HashMap<String, BTreeMap<String, u32>> = HashMap::new();
    for (number, line) in reader(path)?.lines().enumerate() {
        let at = |reason: String| EvalError::data(path, format!("line {}: {reason}", number + 1));
        let line = line.map_err(|error| at(error.to_string()))?;
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (request, item, grade) = match fields[..] {
            [] => continue,
            [request, item, grade] | [request, _, item, grade] => (request, item, grade),
            _ => return Err(at("is no judgement; expected request, item, grade".to_owned())),
        };
        let Ok(grade) = grade.parse::<i64>() else {
            if number == 0 {
                continue;
            }
            return Err(at(format!("the grade `{grade}` is no whole number")));
        };
        if !requests.contains(request) {
            return Err(at(format!("names the request `{request}`, which is not among the requests")));
        }
        if !items.contains(item) {
            return Err(at(format!("names the item `{item}`, which is not in the corpus; was the corpus cut anew?")));
        }
        if let Some(grade) = u32::try_from(grade).ok().filter(|grade| *grade > 0) {
            grades.entry(request.to_owned()).or_default().insert(item.to_owned(), grade);
        }
    }
    if grades.is_empty() {
        return Err(EvalError::data(path, "holds no positive judgement"));
    }
    Ok(grades)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(qrels: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
        write(
            "corpus.jsonl",
            "{\"_id\": \"d1\", \"title\": \"one\", \"text\": \"first\"}\n{\"_id\": \"d2\", \"text\": \"second\", \"lang\": \"es\"}\n",
        );
        write("queries.jsonl", "{\"_id\": \"q1\", \"text\": \"who\"}\n{\"_id\": \"q2\", \"text\": \"what\"}\n");
        write("qrels.tsv", qrels);
        write("pairs.tsv", "query-id\tcorpus-id\tscore\tsame_author\nq1\td2\t2\t0\nq1\td1\t0\t1\n");
        folder
    }

    fn refused(qrels: &str) -> String {
        read(folder(qrels).path(), CorpusAs::Articles).err().expect("refused").to_string()
    }

    #[test]
    fn a_folder_is_read_with_grades() {
        let set = read(folder("query-id\tcorpus-id\tscore\nq1\td2\t2\nq1\td1\t0\n").path(), CorpusAs::Articles);
        let set = set.expect("valid");
        assert_eq!(set.queries.len(), 1);
        assert_eq!(set.queries[0].relevant, [("d2".to_owned(), 2)].into());
        assert_eq!(set.queries[0].slices, ["same_author=1", "grade=2"]);
        assert!(set.notes[0].contains("1 of 2"));
        assert_eq!(set.items[1].language.code(), "es");
    }

    #[test]
    fn judgements_of_what_is_not_there_are_errors() {
        assert!(refused("q1\td9\t1\n").contains("`d9`"));
        assert!(refused("q9\td1\t1\n").contains("`q9`"));
        assert!(refused("q1\td1\t1\nq1\td2\tgood\n").contains("line 2"));
        assert!(refused("q1 d1\nq1 d2\n").contains("line 1"));
        assert!(refused("").contains("no positive judgement"));
    }
}
