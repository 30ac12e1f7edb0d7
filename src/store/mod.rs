//! The source of truth: tickets, messages, drafts, outcomes, memory and the audit trail, in one SQLite file, or in a schema
//! of a PostgreSQL database that several processes share.
//!
//! What a call has returned is on disk; what a call has failed at left nothing behind, since every call that writes is
//! one transaction. The vector index is a projection of this store and can be rebuilt from it.
//!
//! One file per concern, all of them `impl Store`: [`tickets`] (requests and messages), [`attachments`] (their files),
//! [`drafts`] and [`finish`] (work on a ticket, its end and its review), [`outbox`] (replies on their way), [`events`] (what a waiting client is
//! shown), [`queue`] (what waits for the team, figures), [`desk`], [`handling`] and [`merging`] (the same for the desk's
//! page, and what agents do there), [`agents`] (who they are), [`keys`] (programs that use the API), [`history`] (what became of it all), [`judgements`] (what people made of them), [`audit`] (who did
//! what, as a chain of hashes), [`memory`] (what the desk knows), [`embeddings`] (a cache) and [`backup`] (all of it in one
//! file). [`personal`] is all that is held about one customer, [`retention`] what is old enough to go, [`removal`] how it
//! goes. `database` is what the two databases do differently; [`work`] and [`notices`] are for
//! processes that share one.

pub mod agents;
pub mod attachments;
pub mod audit;
pub mod backup;
pub mod blanking;
mod database;
pub mod desk;
pub mod drafts;
pub mod embeddings;
mod error;
pub mod events;
pub mod finish;
pub mod handling;
pub mod history;
pub mod judgements;
pub mod keys;
pub mod memory;
pub mod merging;
mod moving;
pub mod notices;
pub mod numbers;
pub mod outbox;
pub mod personal;
pub mod queue;
pub mod removal;
pub mod retention;
mod rows;
mod statement;
#[cfg(test)]
mod tests;
pub mod tickets;
pub mod work;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use sqlx::{Any, AnyConnection, AnyPool, Row, Transaction};

pub use agents::{AgentRecord, NewAgent, Role, SessionRecord};
pub use attachments::{AttachmentRow, NewAttachment};
use audit::{Audit, write_audit};
pub use audit::{AuditCheck, AuditHead, BrokenLine};
pub use backup::{BackupContent, BackupReport, RestoreReport, restore};
use database::{Access, Dialect, Server};
pub use desk::{DeskCounts, DeskFilter, DeskRow, Scope};
pub use drafts::{
    Analysis, DecisionRecord, DraftRecord, DraftStatus, OutcomeRecord, RecordedDecision, ReviewAction, ReviewResult,
};
pub use embeddings::NewEmbedding;
pub use error::StoreError;
pub use events::EventRow;
pub use finish::{Finished, FinishedWork};
pub use handling::{CUSTOMER, Correction, Feedback, Handling, Person, Written, more_urgent};
pub use history::{ResolvedDraft, TicketCourse};
pub use judgements::SeenJudgement;
pub use keys::{ApiKey, IssuedKey, KeyProblem, KeyScope, KeyState, NewKey, has_key_form};
pub use memory::{LinkSource, MemoryStats, PendingItem, PutResult, content_hash};
pub use notices::{LONGEST_NOTICE, Notices};
pub use numbers::{DayFigures, QueueFigures, Unanswered};
pub use outbox::OutboxRow;
pub use personal::{Erasure, ErasureReport, Held};
pub use queue::{QueueFilter, QueueRow, StoreStats};
pub use removal::{Removed, Rewrite};
pub use retention::{Expiring, Queues};
pub use tickets::{Accepted, AuditRow, Idempotency, NewTicket, TicketView};

/// SHA-256, lower-case hexadecimal.
pub fn sha256_hex(bytes: impl AsRef<[u8]>) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The database, inside the data folder.
pub const DATABASE_FILE: &str = "respondo.db";
/// Held locked for as long as a process writes to the data folder.
pub const LOCK_FILE: &str = "respondo.lock";

static SQLITE_MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("src/store/migrations/sqlite");
static POSTGRES_MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("src/store/migrations/postgres");

/// A write transaction. Dropped without a commit it leaves nothing.
type Write = Transaction<'static, Any>;

/// The ticket store. Cheap to clone; all clones share the connections and the lock.
#[derive(Clone)]
pub struct Store {
    writer: AnyPool,
    /// Readers never wait for the writer and cannot write.
    reader: AnyPool,
    dialect: Dialect,
    writable: bool,
    place: Arc<Place>,
}

/// Where a store is.
struct Place {
    /// Connections whose locks on the database last as long as they do.
    claims: tokio::sync::Mutex<Vec<AnyConnection>>,
    /// The database file; for a server what people call the database, without its password.
    path: PathBuf,
    server: Option<Server>,
    /// Keeps every other writing process out of the folder; let go by the operating system even when this one is killed.
    _lock: Option<File>,
}

impl Store {
    /// Opens the data folder for writing, creating it and its tables where they are missing.
    ///
    /// Fails with [`StoreError::Locked`] when another process has it open for writing.
    pub async fn open(data_dir: &Path) -> Result<Self, StoreError> {
        create_private_dir(data_dir)?;
        let lock = lock_folder(data_dir)?;
        let path = data_dir.join(DATABASE_FILE);
        let writer = database::file_pool(&path, Access::Create).await?;
        SQLITE_MIGRATIONS.run(&writer).await.map_err(|error| StoreError::migration(&path, error))?;
        let reader = database::file_pool(&path, Access::Read).await?;
        let place = Arc::new(Place { claims: tokio::sync::Mutex::default(), path, server: None, _lock: Some(lock) });
        Ok(Self { writer, reader, dialect: Dialect::Sqlite, writable: true, place })
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
        let reader = database::file_pool(&path, Access::Read).await?;
        let place = Arc::new(Place { claims: tokio::sync::Mutex::default(), path, server: None, _lock: None });
        Ok(Self { writer: reader.clone(), reader, dialect: Dialect::Sqlite, writable: false, place })
    }

    /// Opens a schema of a PostgreSQL database for writing, creating it and its tables where they are missing. Several
    /// processes may have it open.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer, [`StoreError::Invalid`] for a schema whose name is
    /// not made of lower-case letters, digits and underscores.
    pub async fn open_server(url: &str, schema: &str) -> Result<Self, StoreError> {
        let server = server(url, schema)?;
        database::make_schema(&server).await?;
        let store = Self::on_server(server, false).await?;
        let migrated = POSTGRES_MIGRATIONS.run(&store.writer).await;
        migrated.map_err(|error| StoreError::migration(&store.place.path, error))?;
        Ok(store)
    }

    /// Opens a schema of a PostgreSQL database for reading; writing fails with [`StoreError::ReadOnly`].
    pub async fn open_server_shared(url: &str, schema: &str) -> Result<Self, StoreError> {
        let store = Self::on_server(server(url, schema)?, true).await?;
        if store.ping().await.is_err_and(|error| !matches!(error, StoreError::Unavailable(_))) {
            return Err(StoreError::NotFound(format!(
                "schema {schema} of Respondo in that database (run `respondo serve` or `respondo migrate store` first)"
            )));
        }
        Ok(store)
    }

    async fn on_server(server: Server, read_only: bool) -> Result<Self, StoreError> {
        let (writer, reader) = database::server_pools(&server, read_only).await?;
        let path = PathBuf::from(format!("PostgreSQL schema {}", server.schema));
        let place = Arc::new(Place { claims: tokio::sync::Mutex::default(), path, server: Some(server), _lock: None });
        Ok(Self { writer, reader, dialect: Dialect::Postgres, writable: !read_only, place })
    }

    /// True when this process may write.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// True when other processes may write too.
    pub fn is_shared(&self) -> bool {
        self.dialect == Dialect::Postgres
    }

    /// Makes something this process's alone, until it ends or the last clone of the store goes. False when another process
    /// that shares the store has it.
    pub async fn claim(&self, what: &str) -> Result<bool, StoreError> {
        let Some(server) = &self.place.server else { return Ok(true) };
        let mut conn = database::connect(server).await?;
        let row = sqlx::query("SELECT pg_try_advisory_lock(hashtext($1), hashtext($2)) AS got")
            .bind(&server.schema)
            .bind(what)
            .fetch_one(&mut conn)
            .await?;
        let got: bool = row.try_get("got")?;
        if got {
            self.place.claims.lock().await.push(conn);
        }
        Ok(got)
    }

    /// The database file, or in words where the database is.
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// Answers when the database can be read.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT id FROM tickets LIMIT 1").fetch_optional(&self.reader).await?;
        Ok(())
    }

    /// Waits for running statements and closes the connections; call it last at shutdown. The lock goes with the last
    /// clone.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    /// Starts a write transaction that holds the write lock from its first moment.
    async fn write(&self) -> Result<Write, StoreError> {
        if !self.writable {
            return Err(StoreError::ReadOnly);
        }
        let mut tx = self.writer.begin_with(self.dialect.begin_write()).await?;
        if self.dialect == Dialect::Postgres {
            sqlx::query("LOCK TABLE write_lock IN EXCLUSIVE MODE").execute(&mut *tx).await?;
        }
        Ok(tx)
    }

    /// Starts a transaction that reads everything as it is at one moment.
    async fn read(&self) -> Result<Transaction<'static, Any>, StoreError> {
        Ok(self.reader.begin_with(self.dialect.begin_read()).await?)
    }
}

fn server(url: &str, schema: &str) -> Result<Server, StoreError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !schema.starts_with(|c: char| c.is_ascii_lowercase()) || !schema.chars().all(plain) || schema.len() > 60 {
        return Err(StoreError::Invalid(format!(
            "{schema:?} cannot name a schema; take lower-case letters, digits and underscores, a letter first"
        )));
    }
    Ok(Server { url: url.to_owned(), schema: schema.to_owned() })
}

/// The folder holds what customers wrote: others on the machine have no business in it.
pub(crate) fn create_private_dir(data_dir: &Path) -> Result<(), StoreError> {
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
