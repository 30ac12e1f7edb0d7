//! Rankings in the form of trec_eval, so that others can check the figures with their own tools.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::EvalError;
use super::files::write_whole;
use super::record::CaseRecord;

/// Last field of a run line: which system made it.
const TAG: &str = "respondo";

/// What was written, and what to know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    pub files: Vec<PathBuf>,
    pub notes: Vec<String>,
}

/// The two files of a part while they grow.
#[derive(Default)]
struct Lines {
    run: String,
    qrels: String,
    changed: BTreeSet<String>,
    tied: usize,
    doubled: usize,
    unanswered: usize,
    unjudged: usize,
}

/// Writes `PART.run` (`qid Q0 docid rank score tag`) and `PART.qrels` (`qid 0 docid grade`) for every part of a run
/// whose cases have relevant items. `folder` is the run's; the files appear whole or not at all.
///
/// # Errors
/// [`EvalError::Data`] when there are no cases, none has relevant items, a line is half written or a case is there
/// twice; [`EvalError::Run`] when a file cannot be written.
pub fn trec(folder: &Path, out: &Path) -> Result<Exported, EvalError> {
    let mut exported = Exported::default();
    for path in case_files(folder)? {
        let part = part_name(&path);
        let lines = lines(&path)?;
        if lines.qrels.is_empty() {
            continue;
        }
        for (ending, text) in [("run", &lines.run), ("qrels", &lines.qrels)] {
            let file = out.join(format!("{part}.{ending}"));
            write_whole(&file, text.as_bytes())?;
            exported.files.push(file);
        }
        exported.notes.extend(lines.notes().into_iter().map(|note| format!("part `{part}`: {note}")));
    }
    if exported.files.is_empty() {
        return Err(EvalError::data(folder, "has no case with relevant items; export a run with a retrieval part"));
    }
    Ok(exported)
}

/// The case files of a run, by name.
pub(super) fn case_files(folder: &Path) -> Result<Vec<PathBuf>, EvalError> {
    let cases = folder.join("cases");
    let entries = fs::read_dir(&cases).map_err(|error| match error.kind() {
        ErrorKind::NotFound => EvalError::data(folder, "is no folder of a run (it has no folder `cases`)"),
        _ => anyhow::Error::new(error).context(format!("cannot list {}", cases.display())).into(),
    })?;
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).collect();
    paths.sort();
    Ok(paths)
}

/// The part that a case file belongs to.
pub(super) fn part_name(path: &Path) -> String {
    path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Reads case after case without holding them all.
///
/// # Errors
/// [`EvalError::Data`] at the first line that is no case, with its number.
pub fn for_each_case(path: &Path, mut each: impl FnMut(CaseRecord)) -> Result<(), EvalError> {
    let mut seen = HashSet::new();
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    for (at, line) in BufReader::new(file).lines().enumerate() {
        let number = at + 1;
        let line = line.map_err(|error| EvalError::data(path, format!("line {number}: {error}")))?;
        let case: CaseRecord = serde_json::from_str(&line).map_err(|error| match error.is_eof() {
            true => EvalError::data(path, format!("line {number} is half written; let the run finish first")),
            false => EvalError::data(path, format!("line {number} is no case: {error}")),
        })?;
        if !seen.insert(case.id.clone()) {
            return Err(EvalError::data(path, format!("line {number}: the case `{}` is there twice", case.id)));
        }
        each(case);
    }
    Ok(())
}

fn lines(path: &Path) -> Result<Lines, EvalError> {
    let mut lines = Lines::default();
    for_each_case(path, |case| lines.add(&case))?;
    Ok(lines)
}

impl Lines {
    fn add(&mut self, case: &CaseRecord) {
        if case.relevant.is_empty() {
            self.unjudged += 1;
            return;
        }
        let query = self.field(&case.id);
        for (id, grade) in &case.relevant {
            let id = self.field(id);
            self.qrels.push_str(&format!("{query} 0 {id} {grade}\n"));
        }
        let mut seen = HashSet::new();
        let ranking: Vec<&(String, f64)> = case.ranking.iter().filter(|(id, _)| seen.insert(id.as_str())).collect();
        self.doubled += case.ranking.len() - ranking.len();
        self.unanswered += usize::from(ranking.is_empty());
        let scores = self.scores(&ranking);
        for (at, ((id, _), score)) in ranking.iter().zip(scores).enumerate() {
            let id = self.field(id);
            self.run.push_str(&format!("{query} Q0 {id} {} {score} {TAG}\n", at + 1));
        }
    }

    /// trec_eval ignores the rank: it sorts by score, as a 32-bit number, and equal ones by name. Where that would give
    /// another order than ours, the position takes the place of the score.
    fn scores(&mut self, ranking: &[&(String, f64)]) -> Vec<f64> {
        let scores: Vec<f64> = ranking.iter().map(|(_, score)| *score).collect();
        let falls = scores.windows(2).all(|pair| matches!(pair, [a, b] if *a as f32 > *b as f32));
        if falls && scores.iter().all(|score| (*score as f32).is_finite()) {
            return scores;
        }
        self.tied += 1;
        (1..=ranking.len()).rev().map(|score| score as f64).collect()
    }

    /// Fields are separated by white space, so it is written as `%20` and the like; `%` too, lest two ids become one.
    fn field(&mut self, id: &str) -> String {
        let mut field = String::with_capacity(id.len());
        for c in id.chars() {
            if c == '%' || c.is_whitespace() || c.is_control() {
                let mut bytes = [0; 4];
                c.encode_utf8(&mut bytes).bytes().for_each(|byte| field.push_str(&format!("%{byte:02X}")));
            } else {
                field.push(c);
            }
        }
        if field.is_empty() {
            // No other id is written like this.
            field.push('%');
        }
        if field != id {
            self.changed.insert(id.to_owned());
        }
        field
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(first) = self.changed.first() {
            notes.push(format!(
                "{} ids have white space or `%`, which is written as %20, %25 and so on (first: `{}`)",
                self.changed.len(),
                first.escape_debug()
            ));
        }
        let mut note = |count: usize, what: &str| {
            if count > 0 {
                notes.push(format!("{count} {what}"));
            }
        };
        note(self.tied, "queries have equal scores; positions stand for them, since trec_eval orders ties by name");
        note(self.doubled, "results were ranked twice for one query; the first of each is kept");
        note(self.unanswered, "queries found nothing; count them as 0 with `trec_eval -c`");
        note(self.unjudged, "cases have no relevant items and are left out");
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(id: &str, ranking: &[(&str, f64)], relevant: &[(&str, u32)]) -> CaseRecord {
        CaseRecord {
            id: id.to_owned(),
            ranking: ranking.iter().map(|(id, score)| ((*id).to_owned(), *score)).collect(),
            relevant: relevant.iter().map(|(id, grade)| ((*id).to_owned(), *grade)).collect(),
            ..CaseRecord::default()
        }
    }

    fn run_folder(parts: &[(&str, &[CaseRecord])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("cases")).expect("made");
        for (part, cases) in parts {
            let line = |case: &CaseRecord| serde_json::to_string(case).expect("JSON") + "\n";
            let text: String = cases.iter().map(line).collect();
            fs::write(folder.path().join("cases").join(format!("{part}.jsonl")), text).expect("written");
        }
        folder
    }

    fn exported(cases: &[CaseRecord]) -> (String, String, Vec<String>) {
        let folder = run_folder(&[("faq", cases)]);
        let out = folder.path().join("out");
        let exported = trec(folder.path(), &out).expect("exported");
        assert_eq!(exported.files, [out.join("faq.run"), out.join("faq.qrels")]);
        let read = |name: &str| fs::read_to_string(out.join(name)).expect("readable");
        (read("faq.run"), read("faq.qrels"), exported.notes)
    }

    #[test]
    fn a_ranking_is_written_as_trec_eval_reads_it() {
        let (run, qrels, notes) = exported(&[case("q1", &[("d2", 0.75), ("d1", 0.5)], &[("d1", 2), ("d9", 1)])]);
        assert_eq!(run, "q1 Q0 d2 1 0.75 respondo\nq1 Q0 d1 2 0.5 respondo\n");
        assert_eq!(qrels, "q1 0 d1 2\nq1 0 d9 1\n");
        assert!(notes.is_empty(), "{notes:?}");
    }

    #[test]
    fn ids_with_white_space_stay_one_field_and_distinct() {
        let ids = ["a b", "a%20b", "a\u{3000}b", "a\nb", ""];
        let ranking: Vec<(&str, f64)> = ids.iter().zip([5.0, 4.0, 3.0, 2.0, 1.0]).map(|(id, s)| (*id, s)).collect();
        let (run, qrels, notes) = exported(&[case("q 1", &ranking, &[("a b", 1)])]);
        let named: HashSet<&str> = run.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
        assert_eq!(named, HashSet::from(["a%20b", "a%2520b", "a%E3%80%80b", "a%0Ab", "%"]));
        assert!(run.lines().all(|line| line.split_whitespace().count() == 6), "{run}");
        assert_eq!(qrels, "q%201 0 a%20b 1\n");
        assert!(notes[0].contains("6 ids have white space"), "{notes:?}");
    }

    #[test]
    fn equal_scores_keep_our_order() {
        let ranking = [("b", 0.5), ("c", 0.5), ("a", 0.500_000_000_1)];
        let (run, _, notes) = exported(&[case("q", &ranking, &[("c", 1)])]);
        assert_eq!(run, "q Q0 b 1 3 respondo\nq Q0 c 2 2 respondo\nq Q0 a 3 1 respondo\n");
        assert!(notes[0].contains("1 queries have equal scores"), "{notes:?}");
        let (run, ..) = exported(&[case("q", &[("a", 1e300), ("b", 1e299)], &[("a", 1)])]);
        assert!(run.starts_with("q Q0 a 1 2 "), "{run}");
    }

    #[test]
    fn odd_cases_are_noted() {
        let cases = [
            case("twice", &[("a", 2.0), ("a", 1.0)], &[("a", 1)]),
            case("nothing", &[], &[("a", 1)]),
            case("unjudged", &[("a", 1.0)], &[]),
        ];
        let (run, qrels, notes) = exported(&cases);
        assert_eq!((run.lines().count(), qrels.lines().count()), (1, 2));
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert!(notes[1].contains("1 queries found nothing"), "{notes:?}");
    }

    #[test]
    fn what_is_no_run_or_half_written_is_refused() {
        let refused = |folder: &Path| {
            let out = folder.join("out");
            let error = trec(folder, &out).expect_err("refused");
            assert_eq!(error.exit_code(), 2);
            assert!(!out.exists(), "nothing is written");
            error.to_string()
        };
        let empty = tempfile::tempdir().expect("a folder");
        assert!(refused(empty.path()).contains("no folder of a run"));
        assert!(refused(run_folder(&[]).path()).contains("no case with relevant items"));
        assert!(refused(run_folder(&[("drafts", &[case("a", &[], &[])])]).path()).contains("retrieval part"));
        let twice = run_folder(&[("faq", &[case("a", &[], &[("x", 1)]), case("a", &[], &[("x", 1)])])]);
        assert!(refused(twice.path()).contains("line 2: the case `a` is there twice"));
        let half = run_folder(&[("faq", &[case("a", &[], &[("x", 1)])])]);
        let path = half.path().join("cases/faq.jsonl");
        let text = fs::read_to_string(&path).expect("readable");
        fs::write(&path, &text[..text.len() / 2]).expect("written");
        assert!(refused(half.path()).contains("line 1 is half written"));
    }
}
