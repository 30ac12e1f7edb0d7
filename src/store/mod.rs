//! The source of truth: tickets, messages, drafts, outcomes, memory and the audit trail, in one SQLite file.
//!
//! What a call has returned is on disk; what a call has failed at left nothing behind, since every call that writes is
//! one transaction. The vector index is a projection of this store and can be rebuilt from it.
//!
//! One file per concern, all of them `impl Store`: [`tickets`] (requests and messages), [`attachments`] (their files),
//! [`drafts`] (work on a ticket and its review), [`outbox`] (replies on their way), [`events`] (what a waiting client is
//! shown), [`queue`] (what waits for the team, figures), [`desk`], [`handling`] and [`merging`] (the same for the desk's
//! page, and what agents do there), [`agents`] (who they are), [`history`] (what became of it all), [`audit`] (who did
//! what, as a chain of hashes), [`memory`] (what the desk knows), [`embeddings`] (a cache) and [`backup`] (all of it in one
//! file).

pub mod agents;
pub mod attachments;
pub mod audit;
pub mod backup;
pub mod desk;
pub mod drafts;
pub mod embeddings;
mod error;
pub mod events;
pub mod handling;
pub mod history;
pub mod memory;
pub mod merging;
pub mod numbers;
pub mod outbox;
pub mod queue;
mod rows;
#[cfg(test)]
mod tests;
pub mod tickets;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, Sqlite, Transaction};

pub use agents::{AgentRecord, NewAgent, Role, SessionRecord};
pub use attachments::{AttachmentRow, NewAttachment};
use audit::{Audit, write_audit};
pub use audit::{AuditCheck, AuditHead, BrokenLine};
pub use backup::{BackupContent, BackupReport, RestoreReport, restore};
pub use desk::{DeskCounts, DeskFilter, DeskRow, Scope};
pub use drafts::{
    DecisionRecord, DraftRecord, DraftStatus, Finished, FinishedWork, OutcomeRecord, ReviewAction, ReviewResult,
};
pub use embeddings::NewEmbedding;
pub use error::StoreError;
pub use events::EventRow;
pub use handling::{Correction, Feedback, Handling, Person, Written, more_urgent};
pub use history::{ResolvedDraft, TicketCourse};
pub use memory::{MemoryStats, PendingItem, PutResult, content_hash};
pub use numbers::{DayFigures, QueueFigures, Unanswered};
pub use outbox::OutboxRow;
pub use queue::{QueueFilter, QueueRow, StoreStats};
pub use tickets::{Accepted, AuditRow, Idempotency, NewTicket, TicketView};

/// SHA-256, lower-case hexadecimal.
pub fn sha256_hex(bytes: impl AsRef<[u8]>) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The database, inside the data folder.
pub const DATABASE_FILE: &str = "respondo.db";
/// Held locked for as long as a process writes to the data folder.
pub const LOCK_FILE: &str = "respondo.lock";

/// How long a statement waits for another process (`respondo stats` beside the service) before it fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Reading connections. Reads take well under a millisecond, and the machine has few cores.
const READERS: u32 = 4;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("src/store/migrations");

/// A write transaction. Dropped without a commit it leaves nothing.
type Write = Transaction<'static, Sqlite>;

/// The ticket store. Cheap to clone; all clones share the connections and the lock.
#[derive(Clone)]
pub struct Store {
    /// One connection only: SQLite has one writer at a time, and waiting in the pool's fair queue is better than
    /// colliding and sleeping in SQLite's busy handler.
    writer: SqlitePool,
    /// Readers never wait for the writer (write-ahead log) and cannot write.
    reader: SqlitePool,
    /// Keeps every other writing process out; let go by the operating system even when this one is killed. None when the
    /// store was opened for reading.
    lock: Option<Arc<File>>,
    path: PathBuf,
}

impl Store {
    /// Opens the data folder for writing, creating it and its tables where they are missing.
    ///
    /// Fails with [`StoreError::Locked`] when another process has it open for writing.
    pub async fn open(data_dir: &Path) -> Result<Self, StoreError> {
        create_private_dir(data_dir)?;
        let lock = lock_folder(data_dir)?;
        let path = data_dir.join(DATABASE_FILE);
        let write_options = connect_options(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .pragma("secure_delete", "ON");
        let writer = pool(1, write_options).await?;
        MIGRATIONS.run(&writer).await.map_err(|error| StoreError::migration(&path, error))?;
        let reader = pool(READERS, connect_options(&path).read_only(true)).await?;
        Ok(Self { writer, reader, lock: Some(Arc::new(lock)), path })
    }

    /// Opens an existing data folder for reading, also beside a running service; writing fails with
    /// [`StoreError::ReadOnly`]. Fails with [`StoreError::NotFound`] when there is no database.
    pub async fn open_shared(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join(DATABASE_FILE);
        if !path.is_file() {
            return Err(StoreError::NotFound(format!(
                "{} (run `respondo ingest` or `respondo serve` first, or choose the folder with --data)",
                path.display()
            )));
        }
        let options = connect_options(&path).read_only(true);
        let writer = pool(1, options.clone()).await?;
        let reader = pool(READERS, options).await?;
        Ok(Self { writer, reader, lock: None, path })
    }

    /// True when this process may write.
    pub fn is_writable(&self) -> bool {
        self.lock.is_some()
    }

    /// Path of the database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Answers when the database can be read.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT id FROM tickets LIMIT 1").fetch_optional(&self.reader).await?;
        Ok(())
    }

    /// Waits for running statements and closes the file; call it last at shutdown. The lock goes with the last clone.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    /// Starts a write transaction that holds the write lock from its first moment: a transaction that reads first and
    /// writes later could find that another process has written in between, and would fail.
    async fn write(&self) -> Result<Write, StoreError> {
        if self.lock.is_none() {
            return Err(StoreError::ReadOnly);
        }
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }
}

/// The folder holds what customers wrote: others on the machine have no business in it.
fn create_private_dir(data_dir: &Path) -> Result<(), StoreError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(data_dir).map_err(|error| StoreError::io("create the data folder", data_dir, &error))
}

fn lock_folder(data_dir: &Path) -> Result<File, StoreError> {
    let path = data_dir.join(LOCK_FILE);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| StoreError::io("open the lock file", &path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked(data_dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock", &path, &error)),
    }
}

fn connect_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        // FULL: in write-ahead mode the log is synced at every commit, so that what was acknowledged survives a power cut.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
}

async fn pool(size: u32, options: SqliteConnectOptions) -> Result<SqlitePool, StoreError> {
    let pool = SqlitePoolOptions::new()
        .max_connections(size)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        // On a full disk SQLite rolls the transaction back by itself; sqlx then fails to roll it back a second time and
        // believes for ever that one is open. And a caller that goes away while a transaction begins leaves it open.
        // Such a connection is thrown away, which rolls back what is open, and replaced.
        .before_acquire(|conn, _| Box::pin(async move { Ok(!conn.is_in_transaction()) }))
        .connect_with(options)
        .await?;
    Ok(pool)
}
