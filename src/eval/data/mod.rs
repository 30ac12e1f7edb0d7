//! Data sets: rows of JSON lines, checked as they are read, and samples of them.

pub mod beir;
pub mod gold;
pub mod store;
pub mod triage;

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::de::DeserializeOwned;

use super::EvalError;
use super::record::DataNote;
use super::suite::{Part, Suite, draw_key};

/// A row that can be told from others.
pub trait Identified {
    fn id(&self) -> &str;
    /// ISO 639-1.
    fn language(&self) -> &str;
}

/// Rows of a file of JSON lines, plain or gzip; ids are unique.
///
/// # Errors
/// When the file is missing, cut short or empty, a line is not such a row, or an id occurs twice: each with its line.
pub fn rows<T: DeserializeOwned + Identified>(path: &Path) -> Result<Vec<T>, EvalError> {
    let rows: Vec<T> = lines(path)?;
    let mut seen = HashSet::new();
    for (number, row) in rows.iter().enumerate() {
        if !seen.insert(row.id()) {
            return Err(EvalError::data(path, format!("row {}: the id `{}` occurs twice", number + 1, row.id())));
        }
    }
    Ok(rows)
}

/// As [`rows`], without a look at ids.
///
/// # Errors
/// As [`rows`].
pub fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, EvalError> {
    let mut parsed = Vec::new();
    for (number, line) in reader(path)?.lines().enumerate() {
        let at = |reason: String| EvalError::data(path, format!("line {}: {reason}", number + 1));
        let line = line.map_err(|error| at(format!("{error}; the file may be half written")))?;
        if !line.trim().is_empty() {
            parsed.push(serde_json::from_str(&line).map_err(|error| at(error.to_string()))?);
        }
    }
    if parsed.is_empty() {
        return Err(EvalError::data(path, "holds no row"));
    }
    Ok(parsed)
}

/// The text of a file, plain or gzip.
///
/// # Errors
/// When it cannot be opened.
pub fn reader(path: &Path) -> Result<Box<dyn BufRead>, EvalError> {
    let file = File::open(path).map_err(|error| EvalError::data(path, error))?;
    if path.is_dir() {
        return Err(EvalError::data(path, "is a folder; name a file, or format = \"beir\" for a folder"));
    }
    Ok(match path.extension().is_some_and(|end| end == "gz") {
        true => Box::new(BufReader::new(MultiGzDecoder::new(file))),
        false => Box::new(BufReader::new(file)),
    })
}

/// `folder/name` or `folder/name.gz`, whichever is there.
pub fn either(folder: &Path, name: &str) -> PathBuf {
    let plain = folder.join(name);
    if plain.exists() { plain } else { folder.join(format!("{name}.gz")) }
}

/// The rows that a part wants, in the order in which they are run: of its languages, drawn by hash where it asks for a
/// sample. The note says how many there were.
pub fn drawn<T: Identified>(suite: &Suite, part: &Part, rows: Vec<T>) -> (Vec<T>, DataNote) {
    let available = rows.len();
    let wanted = |row: &T| part.data.languages.is_empty() || part.data.languages.iter().any(|l| l == row.language());
    let held_out = |row: &T| part.data.held_out.as_ref().is_none_or(|held_out| held_out.takes(row.id()));
    let mut rows: Vec<T> = rows.into_iter().filter(wanted).filter(held_out).collect();
    rows.sort_by_cached_key(|row| draw_key(suite.seed, row.id()));
    if let Some(sample) = part.sample {
        let mut taken: BTreeMap<String, usize> = BTreeMap::new();
        rows.retain(|row| {
            let taken = taken.entry(row.language().to_owned()).or_default();
            *taken += 1;
            *taken <= sample.per_language
        });
    }
    let note =
        DataNote { path: part.data.path.display().to_string(), available, used: rows.len(), ..DataNote::default() };
    (rows, note)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    struct Row {
        id: String,
        lang: String,
    }

    impl Identified for Row {
        fn id(&self) -> &str {
            &self.id
        }
        fn language(&self) -> &str {
            &self.lang
        }
    }

    fn read(text: &str) -> Result<Vec<Row>, EvalError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, text).expect("written");
        rows(&path)
    }

    #[test]
    fn bad_rows_are_named_with_their_line() {
        let good = r#"{"id": "a", "lang": "en"}"#;
        assert_eq!(read(&format!("{good}\n\n")).expect("one row").len(), 1);
        for (text, said) in [
            (format!("{good}\n{good}\n"), "`a` occurs twice"),
            (format!("{good}\n{{\"id\": \"b\", \"la"), "line 2"),
            (String::new(), "no row"),
        ] {
            let error = read(&text).expect_err("refused");
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(said), "{error}");
        }
        assert!(rows::<Row>(Path::new("no/such.jsonl")).expect_err("missing").to_string().contains("no/such.jsonl"));
    }

    #[test]
    fn a_gzip_file_that_ends_early_is_no_data() {
        use std::io::Write;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rows.jsonl.gz");
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        for number in 0..500 {
            writeln!(encoder, "{{\"id\": \"{number}\", \"lang\": \"en\"}}").expect("written");
        }
        let whole = encoder.finish().expect("finished");
        std::fs::write(&path, &whole[..whole.len() / 2]).expect("cut");
        assert!(rows::<Row>(&path).expect_err("cut").to_string().contains("half written"));
    }

    #[test]
    fn what_is_held_out_is_what_training_leaves_alone() {
        let text = "name = \"s\"\nversion = 1\nseed = 3\n[[part]]\nname = \"p\"\nkind = \"triage\"\n\
                    data = { format = \"triage\", path = \"x\", held_out = { salt = \"encoder\", one_in = 5 } }\n";
        let suite = Suite::parse(text, Path::new("")).expect("suite");
        let rows = ["row-0", "row-1", "row-2", "row-6", "row-3", "row-7"];
        let rows = rows.map(|id| Row { id: id.into(), lang: "en".into() }).into();
        let (rows, _) = drawn::<Row>(&suite, &suite.parts[0], rows);
        let mut ids: Vec<_> = rows.into_iter().map(|row| row.id).collect();
        ids.sort();
        // By `held` of scripts/encoder/pairs.py.
        assert_eq!(ids, ["row-1", "row-6", "row-7"]);
        let none = text.replace("one_in = 5", "one_in = 0");
        assert!(Suite::parse(&none, Path::new("")).expect_err("refused").to_string().contains("one_in"));
    }

    #[test]
    fn a_larger_sample_keeps_the_smaller_one() {
        let text = |per_language: usize| {
            format!(
                "name = \"s\"\nversion = 1\nseed = 3\n[[part]]\nname = \"p\"\nkind = \"triage\"\n\
                 data = {{ format = \"triage\", path = \"x\" }}\nsample = {{ per_language = {per_language} }}\n"
            )
        };
        let rows = || (0..40).map(|n| Row { id: n.to_string(), lang: ["en", "es"][n % 2].into() }).collect();
        let draw = |count| {
            let suite = Suite::parse(&text(count), Path::new("")).expect("suite");
            let (rows, note) = drawn::<Row>(&suite, &suite.parts[0], rows());
            assert_eq!((note.available, note.used), (40, 2 * count));
            rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
        };
        let (few, many) = (draw(3), draw(8));
        assert!(few.iter().all(|id| many.contains(id)));
        assert_eq!(few, draw(3));
    }
}
