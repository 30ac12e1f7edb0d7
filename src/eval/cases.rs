//! Records of cases, kept from run to run: an interrupted run goes on where it stopped, and one that changes nothing costs
//! nothing.
//!
//! One file of JSON lines per scope; the scope's name is a digest of everything that all its cases share: code, models,
//! prompts, settings, memory and what the part does. Each line holds the digest of its case and the record. A line that a
//! crash cut short is not read.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::record::CaseRecord;

/// Records that nobody asked for so long are not asked for again.
const KEPT_FOR: Duration = Duration::from_secs(14 * 86_400);

/// The kept records of one scope.
pub struct KeptCases {
    path: PathBuf,
    file: File,
    /// Where the record of a case begins, by the digest of the case.
    places: HashMap<String, u64>,
    end: u64,
}

#[derive(Serialize, Deserialize)]
struct Line {
    case: String,
    record: CaseRecord,
}

/// The start of a line alone: which case it is, without the record.
#[derive(Deserialize)]
struct Head {
    case: String,
}

impl KeptCases {
    /// Opens the records of a scope, making the file where there is none.
    ///
    /// # Errors
    /// When the file cannot be made or read.
    pub fn open(folder: &Path, scope: &str) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let path = folder.join(format!("{scope}.jsonl"));
        let opened = File::options().create(true).append(true).read(true).open(&path);
        let file = opened.with_context(|| format!("cannot open {}", path.display()))?;
        let mut kept = Self { path, file, places: HashMap::new(), end: 0 };
        kept.read_places()?;
        Ok(kept)
    }

    fn read_places(&mut self) -> Result<()> {
        let mut reader = BufReader::new(self.file.try_clone()?);
        reader.seek(SeekFrom::Start(0))?;
        let (mut at, mut line) = (0, Vec::new());
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line)? as u64;
            if length == 0 {
                break;
            }
            if line.ends_with(b"\n") {
                if let Ok(head) = serde_json::from_slice::<Head>(&line) {
                    self.places.insert(head.case, at);
                }
            } else {
                // What follows a cut line must begin on a line of its own.
                self.file.write_all(b"\n")?;
                at += 1;
            }
            at += length;
        }
        self.end = at;
        Ok(())
    }

    /// The kept record of a case.
    pub fn get(&self, case: &str) -> Option<CaseRecord> {
        let at = *self.places.get(case)?;
        let mut reader = BufReader::new(File::open(&self.path).ok()?);
        reader.seek(SeekFrom::Start(at)).ok()?;
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line: Line = serde_json::from_str(&line).ok()?;
        (line.case == case).then_some(line.record)
    }

    /// Keeps the record of a case.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn put(&mut self, case: &str, record: &CaseRecord) -> Result<()> {
        let mut line = serde_json::to_vec(&Line { case: case.to_owned(), record: record.clone() })?;
        line.push(b'\n');
        self.file.write_all(&line).with_context(|| format!("cannot write {}", self.path.display()))?;
        self.places.insert(case.to_owned(), self.end);
        self.end += line.len() as u64;
        Ok(())
    }
}

/// Removes the records of scopes that no run has touched for two weeks: every change of the code makes a new scope. What
/// cannot be removed stays.
pub fn prune(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|changed| changed.elapsed());
        if age.is_ok_and(|age| age.is_ok_and(|age| age > KEPT_FOR)) {
            drop(fs::remove_file(entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_a_cut_line_is_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let record = |id: &str| CaseRecord { id: id.into(), message: "hola\n".into(), ..CaseRecord::default() };
        let mut kept = KeptCases::open(folder.path(), "scope").expect("opens");
        kept.put("one", &record("1")).expect("kept");
        kept.put("two", &record("2")).expect("kept");
        assert_eq!(kept.get("two"), Some(record("2")));
        drop(kept);

        let path = folder.path().join("scope.jsonl");
        let whole = fs::read(&path).expect("file");
        fs::write(&path, &whole[..whole.len() - 5]).expect("cut");
        let mut kept = KeptCases::open(folder.path(), "scope").expect("opens");
        assert_eq!((kept.get("one"), kept.get("two")), (Some(record("1")), None));
        kept.put("two", &record("2")).expect("kept again");
        kept.put("three", &record("3")).expect("kept");
        drop(kept);
        let kept = KeptCases::open(folder.path(), "scope").expect("opens");
        assert_eq!(kept.get("two"), Some(record("2")));
        assert_eq!(kept.get("three"), Some(record("3")));
        assert_eq!(KeptCases::open(folder.path(), "other").expect("opens").get("one"), None);
    }
}
