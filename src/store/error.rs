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
    /// The database server does not answer, or is too busy to.
    #[error("the database does not answer and nothing was kept; try again in a moment ({0})")]
    Unavailable(String),
    #[error("ticket store: {0}")]
    Other(String),
}

/// Primary result codes of SQLite, <https://www.sqlite.org/rescode.html>; the low byte of an extended code.
const SQLITE_READONLY: u32 = 8;
const SQLITE_CORRUPT: u32 = 11;
const SQLITE_FULL: u32 = 13;
const SQLITE_NOTADB: u32 = 26;
/// Extended: the shared memory of the write-ahead log finds no room.
const SQLITE_IOERR_SHMSIZE: &str = "4874";

/// Characters of a SQLSTATE, <https://www.postgresql.org/docs/current/errcodes-appendix.html>; SQLite's codes are shorter.
const SQLSTATE: usize = 5;

/// SQLite's primary result code, where the error comes from SQLite.
pub(super) fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code().filter(|code| code.len() < SQLSTATE)?.parse::<u32>().ok()?;
    Some(code & 0xff)
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if error.as_database_error().and_then(|error| error.code()).as_deref() == Some(SQLITE_IOERR_SHMSIZE) {
            return Self::DiskFull;
        }
        match primary_code(&error) {
            Some(SQLITE_CORRUPT | SQLITE_NOTADB) => {
                return Self::Other(format!(
                    "the database is damaged ({error}); stop the service and put a backup in its place with \
                     `respondo restore FILE`"
                ));
            }
            Some(SQLITE_FULL) => return Self::DiskFull,
            Some(SQLITE_READONLY) => return Self::ReadOnly,
            _ => {}
        }
        let state = error.as_database_error().and_then(|error| error.code()).filter(|code| code.len() == SQLSTATE);
        match state.as_deref() {
            Some("53100") => Self::DiskFull,
            Some("25006") => Self::ReadOnly,
            Some("22021") => Self::Invalid("the text holds a character that the database cannot keep (NUL)".to_owned()),
            // No lock in time; connection, resource and operator trouble.
            Some("55P03") => Self::Unavailable(error.to_string()),
            Some(state) if ["08", "53", "57"].contains(&&state[..2]) => Self::Unavailable(error.to_string()),
            Some(_) => Self::Other(error.to_string()),
            None => match error {
                sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => {
                    Self::Unavailable(error.to_string())
                }
                error => Self::Other(error.to_string()),
            },
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
