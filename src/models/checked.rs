//! Writing a file whose size and sha256 are known beforehand.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::progress::Progress;

const CHUNK: usize = 256 * 1024;

/// A file being written that hashes what it is given and takes no byte more than expected.
pub(super) struct CheckedFile {
    file: File,
    path: PathBuf,
    hasher: Sha256,
    written: u64,
    expected: u64,
}

impl CheckedFile {
    /// Begins anew at `path`; whatever is there is lost. `expected` is the final size in bytes.
    pub(super) fn create(path: &Path, expected: u64) -> io::Result<Self> {
        let mut checked = Self::open(path, expected)?;
        checked.restart()?;
        Ok(checked)
    }

    /// Goes on behind the bytes that are already at `path`, or begins anew when they are more than expected.
    pub(super) fn resume(path: &Path, expected: u64) -> io::Result<Self> {
        let mut checked = Self::open(path, expected)?;
        if checked.file.metadata()?.len() > expected {
            checked.restart()?;
            return Ok(checked);
        }
        checked.written = hash_rest(&mut checked.file, &mut checked.hasher)?;
        Ok(checked)
    }

    fn open(path: &Path, expected: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self { file, path: path.to_path_buf(), hasher: Sha256::new(), written: 0, expected })
    }

    /// Bytes so far, those found by [`Self::resume`] included.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Drops everything written so far.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.hasher = Sha256::new();
        self.written = 0;
        Ok(())
    }

    /// Flushes to disk and gives the path when size and sha256 are right; otherwise removes the file and says what is
    /// wrong.
    pub(super) fn finish(self, sha256: &str) -> Result<PathBuf, String> {
        let found = hex(self.hasher);
        let problem = if self.written != self.expected {
            format!("it gave {} bytes instead of {}", self.written, self.expected)
        } else if found != sha256 {
            format!("what it gave has the sha256 {found} instead of {sha256}")
        } else {
            return match self.file.sync_all() {
                Ok(()) => Ok(self.path),
                Err(error) => Err(format!("cannot flush {} to disk: {error}", self.path.display())),
            };
        };
        // Removing is a courtesy: a leftover would only cost a failed attempt next time.
        std::fs::remove_file(&self.path).ok();
        Err(problem)
    }
}

impl Write for CheckedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.written.saturating_add(bytes.len() as u64) > self.expected {
            let problem = format!("more than the expected {} bytes", self.expected);
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        let count = self.file.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or(bytes));
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Which side of a copy failed; only the reading side speaks against the source.
#[derive(Debug)]
pub(super) enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

impl std::fmt::Display for CopyError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Read(error) => write!(out, "reading stopped: {error}"),
            Self::Write(error) => write!(out, "writing stopped: {error}"),
        }
    }
}

/// Copies until the reader ends, telling `progress` how many bytes the file has.
pub(super) fn copy(from: &mut dyn Read, to: &mut CheckedFile, progress: &mut dyn Progress) -> Result<(), CopyError> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Read(error)),
        };
        to.write_all(buffer.get(..count).unwrap_or(&buffer)).map_err(|error| match error.kind() {
            // The file took no more since the source gives too much: the source's fault, not the disk's.
            io::ErrorKind::InvalidData => CopyError::Read(error),
            _ => CopyError::Write(error),
        })?;
        progress.advanced(to.written());
    }
}

/// The sha256 of the file at `path`, in lower-case hexadecimal.
pub(super) fn sha256_of(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    hash_rest(&mut File::open(path)?, &mut hasher)?;
    Ok(hex(hasher))
}

fn hash_rest(file: &mut File, hasher: &mut Sha256) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(total);
        }
        hasher.update(buffer.get(..count).unwrap_or(&buffer));
        total += count as u64;
    }
}

fn hex(hasher: Sha256) -> String {
    format!("{:x}", hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::super::progress::Silent;
    use super::*;

    const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    #[test]
    fn right_bytes_pass_and_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hello");
        let mut checked = CheckedFile::create(&path, 5).unwrap();
        copy(&mut &b"hello"[..], &mut checked, &mut Silent).unwrap();
        assert_eq!(checked.finish(HELLO), Ok(path.clone()));
        assert_eq!(sha256_of(&path).unwrap(), HELLO);
    }

    #[test]
    fn resuming_counts_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hello");
        std::fs::write(&path, "hel").unwrap();
        let mut checked = CheckedFile::resume(&path, 5).unwrap();
        assert_eq!(checked.written(), 3);
        checked.write_all(b"lo").unwrap();
        assert_eq!(checked.finish(HELLO), Ok(path.clone()));

        std::fs::write(&path, "hello, too long").unwrap();
        assert_eq!(CheckedFile::resume(&path, 5).unwrap().written(), 0);
    }

    #[test]
    fn wrong_bytes_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hello");
        for (text, expected) in [("hellO", "sha256"), ("hell", "4 bytes instead of 5"), ("", "0 bytes")] {
            let mut checked = CheckedFile::create(&path, 5).unwrap();
            checked.write_all(text.as_bytes()).unwrap();
            let problem = checked.finish(HELLO).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
            assert!(!path.exists());
        }
    }

    #[test]
    fn an_endless_source_is_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bomb");
        let mut checked = CheckedFile::create(&path, 1000).unwrap();
        let outcome = copy(&mut io::repeat(7), &mut checked, &mut Silent);
        assert!(matches!(outcome, Err(CopyError::Read(_))));
        assert!(path.metadata().unwrap().len() <= 1000);
    }
}
