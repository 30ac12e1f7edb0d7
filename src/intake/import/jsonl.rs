//! JSON Lines, one row a line.

use std::io::{BufRead, Read};

use serde_json::Value;

use super::{MAX_LINE, NumberedRow, Reason, Reject};

/// Rows of a JSON Lines stream. Blank lines are no rows.
pub(super) fn rows(reader: Box<dyn BufRead + Send>) -> impl Iterator<Item = Result<NumberedRow, Reject>> + Send {
    Lines { reader, line: 0, buffer: Vec::new(), ended: false }
}

struct Lines {
    reader: Box<dyn BufRead + Send>,
    line: u64,
    buffer: Vec<u8>,
    ended: bool,
}

impl Lines {
    /// Reads the next line without its end into `buffer`; false at the end of the file.
    fn read_line(&mut self) -> Result<bool, Reason> {
        self.buffer.clear();
        let limit = MAX_LINE as u64 + 1;
        let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut self.buffer);
        if let Err(error) = read {
            self.ended = true;
            return Err(Reason::Unreadable(error.to_string()));
        }
        if self.buffer.len() > MAX_LINE && self.buffer.last() != Some(&b'\n') {
            self.skip_line()?;
            return Err(Reason::TooLong);
        }
        Ok(!self.buffer.is_empty())
    }

    /// Skips the rest of a line without holding it.
    fn skip_line(&mut self) -> Result<(), Reason> {
        loop {
            let available = match self.reader.fill_buf() {
                Ok(available) => available,
                Err(error) => {
                    self.ended = true;
                    return Err(Reason::Unreadable(error.to_string()));
                }
            };
            let end = available.iter().position(|byte| *byte == b'\n');
            let used = end.map_or(available.len(), |at| at + 1);
            let at_end = available.is_empty();
            self.reader.consume(used);
            if end.is_some() || at_end {
                return Ok(());
            }
        }
    }
}

impl Iterator for Lines {
    type Item = Result<NumberedRow, Reject>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            self.line += 1;
            let line = self.line;
            let reject = |reason| Some(Err(Reject { line, id: None, reason }));
            match self.read_line() {
                Err(reason) => return reject(reason),
                Ok(false) => self.ended = true,
                Ok(true) => {
                    let Ok(text) = std::str::from_utf8(&self.buffer) else { return reject(Reason::NotUtf8) };
                    let text = text.trim_start_matches('\u{FEFF}').trim();
                    if text.is_empty() {
                        continue;
                    }
                    return match serde_json::from_str::<Value>(text) {
                        Ok(value) if value.is_object() => Some(Ok(NumberedRow { line, value })),
                        Ok(_) => reject(Reason::NotObject),
                        Err(error) => reject(Reason::NotJson(error.to_string())),
                    };
                }
            }
        }
        None
    }
}
