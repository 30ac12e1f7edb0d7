//! CSV with a header line; comma, semicolon or tab is told from the header.

use std::io::{BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use csv::{ByteRecord, Reader, ReaderBuilder};
use serde_json::{Map, Value};

use super::{ImportError, MAX_LINE, NumberedRow, Reason, Reject};

/// Rows of a CSV stream.
///
/// # Errors
/// [`ImportError::Header`] without a readable header line, [`ImportError::Column`] when a mapped column is not in it.
pub(super) fn rows(
    mut reader: Box<dyn BufRead + Send>,
    path: &str,
    mapping: &[(String, String)],
) -> Result<impl Iterator<Item = Result<NumberedRow, Reject>> + Send + use<>, ImportError> {
    let header_error = |reason: String| ImportError::Header { path: path.to_owned(), reason };
    let delimiter = match reader.fill_buf() {
        Ok(start) => delimiter_of(start),
        Err(error) => return Err(header_error(error.to_string())),
    };
    let since_record = Arc::new(AtomicU64::new(0));
    let limited = Limited { inner: reader, since_record: since_record.clone() };
    let mut reader = ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(limited);
    let headers = reader.headers().map_err(|error| header_error(error.to_string()))?;
    let columns: Vec<String> =
        headers.iter().map(|name| name.trim_start_matches('\u{FEFF}').trim().to_owned()).collect();
    if columns.iter().all(String::is_empty) {
        return Err(header_error("the first line is empty; it must name the columns".to_owned()));
    }
    if let Some((_, column)) = mapping.iter().find(|(_, column)| !columns.contains(column)) {
        return Err(ImportError::Column { path: path.to_owned(), column: column.clone(), columns: columns.join(", ") });
    }
    Ok(Records { reader, columns, since_record, record: ByteRecord::new(), ended: false })
}

/// The most frequent of the usual delimiters in the first line.
fn delimiter_of(start: &[u8]) -> u8 {
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let count = |delimiter: u8| line.iter().filter(|byte| **byte == delimiter).count();
    [b',', b';', b'\t'].into_iter().rev().max_by_key(|delimiter| count(*delimiter)).unwrap_or(b',')
}

struct Records {
    reader: Reader<Limited>,
    columns: Vec<String>,
    since_record: Arc<AtomicU64>,
    record: ByteRecord,
    ended: bool,
}

impl Iterator for Records {
    type Item = Result<NumberedRow, Reject>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        self.since_record.store(0, Ordering::Relaxed);
        let start = self.reader.position().line();
        let read = self.reader.read_byte_record(&mut self.record);
        let line = self.record.position().map_or(start, csv::Position::line);
        let reject = |reason| Some(Err(Reject { line, id: None, reason }));
        match read {
            Ok(true) => {}
            Ok(false) => {
                self.ended = true;
                return None;
            }
            Err(error) => {
                self.ended = true;
                let too_long = self.since_record.load(Ordering::Relaxed) > LIMIT;
                return reject(if too_long { Reason::TooLong } else { Reason::Unreadable(error.to_string()) });
            }
        }
        if self.record.len() != self.columns.len() {
            let detail = format!("{} fields where the header names {}", self.record.len(), self.columns.len());
            return reject(Reason::NotRecord(detail));
        }
        let mut object = Map::new();
        for (column, bytes) in self.columns.iter().zip(self.record.iter()) {
            let Ok(text) = std::str::from_utf8(bytes) else { return reject(Reason::NotUtf8) };
            if !text.trim().is_empty() {
                object.insert(column.clone(), Value::String(text.to_owned()));
            }
        }
        Some(Ok(NumberedRow { line, value: Value::Object(object) }))
    }
}

/// Bytes that may be read for one record: the longest record and what the CSV reader buffers ahead.
const LIMIT: u64 = MAX_LINE as u64 + (1 << 16);

/// Stops a record that never ends (an open quotation mark) before it fills the memory.
struct Limited {
    inner: Box<dyn BufRead + Send>,
    since_record: Arc<AtomicU64>,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.since_record.load(Ordering::Relaxed) > LIMIT {
            return Err(std::io::Error::other("a record is too long"));
        }
        let read = self.inner.read(buffer)?;
        self.since_record.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
