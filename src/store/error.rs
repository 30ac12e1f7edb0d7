use std::io;
use std::path::{Path, PathBuf};

use sqlx::migrate::MigrateError;

/// Why the store did not do what it was asked. Whatever the variant, nothing of the call was kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Names what is missing.
    #[error("there is no {0}")]
    NotFound(String),
    /// Holds the key.
    #[error("the idempotency key {0:?} came before with another body; take a new key for a new request")]
    IdempotencyConflict(String),
    /// The ticket or draft is not in a state that allows it; says which state, and what to do.
    #[error("{0}")]
    Conflict(String),
    /// The caller asked for something that makes no sense; says what and how to mend it.
    #[error("{0}")]
    Invalid(String),
    /// Holds the data folder.
    #[error("another respondo uses the data folder {}; stop it, or choose another folder with --data", .0.display())]
    Locked(PathBuf),
    #[error("the disk with the data folder is full and nothing was kept; free some space and try again")]
    DiskFull,
    #[error("the data folder cannot be written; check its permissions, and that it was not opened for reading only")]
    ReadOnly,
    #[error("ticket store: {0}")]
    Other(String),
}

/// Primary result codes of SQLite, <https://www.sqlite.org/rescode.html>; the low byte of an extended code.
const SQLITE_READONLY: u32 = 8;
const SQLITE_FULL: u32 = 13;

/// SQLite's primary result code, where the error comes from SQLite.
pub(super) fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code()?.parse::<u32>().ok()?;
    Some(code & 0xff)
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match primary_code(&error) {
            Some(SQLITE_FULL) => Self::DiskFull,
            Some(SQLITE_READONLY) => Self::ReadOnly,
            _ => Self::Other(error.to_string()),
        }
    }
}

impl From<serde_json::Error> for StoreError {
    fn from(error: serde_json::Error) -> Self {
        Self::Other(format!("a stored value cannot be read or written as JSON: {error}"))
    }
}

impl StoreError {
    pub(super) fn io(doing: &str, path: &Path, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            _ => Self::Other(format!("cannot {doing} {}: {error}", path.display())),
        }
    }

    pub(super) fn migration(path: &Path, error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) => error.into(),
            MigrateError::VersionMissing(version) => Self::Other(format!(
                "{} was written by a newer respondo (its tables are of version {version}); use that one",
                path.display()
            )),
            error => Self::Other(format!("cannot bring {} up to date: {error}", path.display())),
        }
    }
}
