//! Resolved tickets and help articles from files into memory items: cleaned, scrubbed, with the best answer chosen.
//!
//! One row at a time, so a file of any length takes the same memory. What is not taken is told with its line number and
//! the reason, never skipped.

mod csv;
mod jsonl;
mod row;
mod solution;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use serde_json::Value;

use crate::ticket::{AnswerKind, Language, MemoryItem, MemoryKind};

/// Longest line or record taken, in bytes.
pub const MAX_LINE: usize = 4 * 1024 * 1024;

/// How rows are read and which are taken.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Our field name and the column or key of the file that holds it; see [`parse_mapping`].
    pub mapping: Vec<(String, String)>,
    /// For rows whose language neither their text nor their `lang` tells.
    pub language: Option<Language>,
    /// For rows without a product.
    pub product: Option<String>,
    /// Public address of a row; `{id}` and `{digits}` (the digits of the id) are filled in.
    pub url_template: Option<String>,
    /// Which kinds of answer count as a solution.
    pub answers: Vec<AnswerKind>,
    /// Take only tickets that are marked as solved.
    pub solved_only: bool,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            mapping: Vec::new(),
            language: None,
            product: None,
            url_template: None,
            answers: vec![AnswerKind::Approved, AnswerKind::Accepted, AnswerKind::MostHelpful],
            solved_only: false,
        }
    }
}

/// A row that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct Reject {
    /// Line of the file on which the row starts, from 1.
    pub line: u64,
    /// The row's id, where it could be read.
    pub id: Option<String>,
    pub reason: Reason,
}

/// Why a row was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("is not valid UTF-8; save the file as UTF-8")]
    NotUtf8,
    #[error("is not valid JSON: {0}")]
    NotJson(String),
    #[error("is not a JSON object")]
    NotObject,
    #[error("is not a valid record: {0}")]
    NotRecord(String),
    #[error("is longer than {MAX_LINE} bytes; a quotation mark may be left open")]
    TooLong,
    #[error("could not be read: {0}; the rest of the file was not read")]
    Unreadable(String),
    #[error("has no {0}")]
    Missing(&'static str),
    #[error("is not marked as solved")]
    NotSolved,
    #[error("has no answer of the kinds that count")]
    NoAnswer,
    #[error("answer too short (less than 40 characters)")]
    AnswerTooShort,
    #[error("answer only asks back")]
    AnswerIsQuestion,
    #[error("answer is only a courtesy")]
    AnswerIsCourtesy,
    #[error("answer only points to another page")]
    AnswerIsPointer,
    #[error("article text too short (less than 40 characters)")]
    ArticleTooShort,
}

impl Reason {
    /// The reason without the details of the row, for counting.
    pub fn label(&self) -> String {
        let full = self.to_string();
        full.split([':', ';']).next().unwrap_or(&full).to_owned()
    }
}

/// Why a file cannot be imported at all.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("cannot open {path}: {source}; check the path")]
    Open { path: String, source: std::io::Error },
    #[error("{path}: unknown kind of file; name it .jsonl, .jsonl.gz, .csv or .csv.gz")]
    Format { path: String },
    #[error("mapping `{part}` is not `field=column`; fields are {fields}", fields = row::FIELDS.join(", "))]
    Mapping { part: String },
    #[error("{path} has no column `{column}`; it has {columns}")]
    Column { path: String, column: String, columns: String },
    #[error("{path}: no usable header line: {reason}")]
    Header { path: String, reason: String },
}

/// Reads a mapping such as `id=ticket_id,body=description,answer=resolution`.
///
/// # Errors
/// [`ImportError::Mapping`] for a part without `=` or with an unknown field.
pub fn parse_mapping(text: &str) -> Result<Vec<(String, String)>, ImportError> {
    let mut mapping = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let pair = part.split_once('=').map(|(field, column)| (field.trim(), column.trim()));
        let Some((field, column)) = pair.filter(|(field, column)| row::FIELDS.contains(field) && !column.is_empty())
        else {
            return Err(ImportError::Mapping { part: part.to_owned() });
        };
        mapping.push((field.to_owned(), column.to_owned()));
    }
    Ok(mapping)
}

/// Opens a file of tickets or articles: JSON Lines or CSV, plain or gzip.
///
/// # Errors
/// [`ImportError`] when the file cannot be opened, is of an unknown kind or lacks a mapped column. Bad rows are items.
pub fn open(path: &Path, kind: MemoryKind, options: ImportOptions) -> Result<Import, ImportError> {
    let shown = path.display().to_string();
    let failed = |source| ImportError::Open { path: shown.clone(), source };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(failed(std::io::Error::from(std::io::ErrorKind::IsADirectory)));
    }
    let consumed = Arc::new(AtomicU64::new(0));
    let counted = BufReader::with_capacity(1 << 16, Counted { inner: file, consumed: consumed.clone() });
    let name = shown.to_ascii_lowercase();
    let (plain_name, reader): (&str, Box<dyn BufRead + Send>) = match name.strip_suffix(".gz") {
        Some(inner) => (inner, Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(counted)))),
        None => (name.as_str(), Box::new(counted)),
    };
    let format = match plain_name.rsplit('.').next() {
        Some("jsonl" | "ndjson") => FileFormat::JsonLines,
        Some("csv" | "tsv") => FileFormat::Csv,
        _ => return Err(ImportError::Format { path: shown }),
    };
    Ok(Import { consumed, total: metadata.len(), ..read(reader, &shown, format, kind, options)? })
}

/// How rows stand in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    JsonLines,
    Csv,
}

/// Reads rows from anything; `name` stands in errors. Its progress is not counted.
///
/// # Errors
/// [`ImportError`] when the header line of a CSV file is missing or lacks a mapped column.
pub fn read(
    reader: Box<dyn BufRead + Send>,
    name: &str,
    format: FileFormat,
    kind: MemoryKind,
    options: ImportOptions,
) -> Result<Import, ImportError> {
    let rows: Box<dyn Iterator<Item = Result<NumberedRow, Reject>> + Send> = match format {
        FileFormat::JsonLines => Box::new(jsonl::rows(reader)),
        FileFormat::Csv => Box::new(csv::rows(reader, name, &options.mapping)?),
    };
    Ok(Import { rows, kind, options, consumed: Arc::default(), total: 0 })
}

/// A row as read, with the line on which it starts.
struct NumberedRow {
    line: u64,
    value: Value,
}

/// The rows of an open file as memory items.
pub struct Import {
    rows: Box<dyn Iterator<Item = Result<NumberedRow, Reject>> + Send>,
    kind: MemoryKind,
    options: ImportOptions,
    /// Shared with the reader at the bottom of the stack, which sees the bytes as they lie in the file.
    consumed: Arc<AtomicU64>,
    total: u64,
}

impl Import {
    /// Bytes read so far and in all, as in the file (compressed, where it is).
    pub fn progress(&self) -> (u64, u64) {
        (self.consumed.load(Ordering::Relaxed).min(self.total), self.total)
    }
}

impl Iterator for Import {
    type Item = Result<MemoryItem, Reject>;

    fn next(&mut self) -> Option<Self::Item> {
        let numbered = match self.rows.next()? {
            Ok(numbered) => numbered,
            Err(reject) => return Some(Err(reject)),
        };
        let row = row::Row::new(&numbered.value, &self.options.mapping);
        let item = match self.kind {
            MemoryKind::Ticket => row::ticket(&row, &self.options),
            MemoryKind::Article => row::article(&row, &self.options),
        };
        Some(item.map_err(|reason| Reject { line: numbered.line, id: row.id(), reason }))
    }
}

/// Counts bytes as they leave the file.
struct Counted {
    inner: File,
    consumed: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.consumed.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
