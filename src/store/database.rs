//! The two databases that a store can be in, and what they call differently.
//!
//! All statements are written once, for both: bound values as `$1, $2 ...`, `ON CONFLICT`, `RETURNING`, `COUNT(*) FILTER`.
//! The few that cannot be are chosen by [`Dialect`].
//!
//! SQLite has one writer at a time. PostgreSQL gets the same from a lock that every write transaction takes first, so what
//! holds for one database holds for the other: positions and sequence numbers have no gaps, the audit trail is one chain,
//! and nothing that a transaction has read changes before it writes. A commit takes a millisecond or two; that bounds the
//! writes of one installation at several hundred a second.

use std::path::Path;
use std::str::FromStr;
use std::sync::Once;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{AnyConnection, AnyPool, Connection, Executor};

use super::StoreError;

/// How long a statement waits for a lock (of another process, such as `respondo stats` beside the service) before it fails.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call waits for a connection before the database counts as gone.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Reading connections. Reads take well under a millisecond, and the machine has few cores.
const READERS: u32 = 4;
/// Writing connections to PostgreSQL. One writes at a time; the others have begun or wait.
const SERVER_WRITERS: u32 = 4;
const SERVER_READERS: u32 = 8;

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

/// How a SQLite file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    /// Made where it is missing.
    Create,
}

/// A schema of a PostgreSQL database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) url: String,
    /// Lower-case letters, digits and underscores: it stands in statements as it is.
    pub(super) schema: String,
}

impl Dialect {
    /// Begins a transaction that holds the write lock from its first moment: one that reads first and writes later could
    /// find that another process has written in between.
    pub(super) fn begin_write(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            // The transaction manager takes one statement; the lock is the first one inside, see `Store::write`.
            Self::Postgres => "BEGIN",
        }
    }

    /// Begins a transaction that sees one moment.
    pub(super) fn begin_read(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN",
            Self::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        }
    }

    /// The database's clock, in milliseconds since 1970.
    pub(super) fn now(self) -> &'static str {
        match self {
            Self::Sqlite => "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
            Self::Postgres => "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
        }
    }

    /// The value of a column of JSON text at a path of keys, as text.
    pub(super) fn json_at(self, column: &str, keys: &[&str]) -> String {
        match self {
            Self::Sqlite => format!("json_extract({column}, '$.{}')", keys.join(".")),
            Self::Postgres => format!("({column}::jsonb #>> '{{{}}}')", keys.join(",")),
        }
    }

    /// Whether a column of JSON text holds `true` at a path of keys.
    pub(super) fn json_is_true(self, column: &str, keys: &[&str]) -> String {
        match self {
            Self::Sqlite => self.json_at(column, keys),
            Self::Postgres => format!("{} = 'true'", self.json_at(column, keys)),
        }
    }

    /// The condition that a ticket `id` has a word that begins with what is pushed after it; `)` closes it.
    pub(super) fn has_word(self) -> &'static str {
        match self {
            Self::Sqlite => " AND id IN (SELECT ticket_id FROM ticket_words WHERE ticket_words MATCH ",
            Self::Postgres => " AND id IN (SELECT ticket_id FROM ticket_words WHERE words @@ beginning_of_word(",
        }
    }
}

/// The drivers behind `AnyPool`, once for the process.
fn install_drivers() {
    static DRIVERS: Once = Once::new();
    DRIVERS.call_once(sqlx::any::install_default_drivers);
}

/// The address of a file for the driver. Everything that has a meaning in addresses is written as `%XX`.
fn sqlite_url(path: &Path, access: Access) -> Result<String, StoreError> {
    let Some(path) = path.to_str() else {
        return Err(StoreError::Other(format!("the path {} is not UTF-8; choose another folder", path.display())));
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let escaped: String = path
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    let mode = match access {
        Access::Read => "ro",
        Access::Write => "rw",
        Access::Create => "rwc",
    };
    Ok(format!("sqlite://{escaped}?mode={mode}"))
}

/// What every connection to a file is told. FULL: in write-ahead mode the log is synced at every commit, so that what was
/// acknowledged survives a power cut.
fn sqlite_setup(access: Access) -> String {
    let wait = LOCK_TIMEOUT.as_millis();
    let mut setup = format!("PRAGMA busy_timeout = {wait}; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;");
    if access == Access::Create {
        setup.push_str(" PRAGMA journal_mode = WAL; PRAGMA secure_delete = ON;");
    }
    setup
}

/// What every connection to a server is told. A process that hangs in the middle of a transaction loses it, and the write
/// lock with it.
fn server_setup(schema: &str, read_only: bool) -> String {
    let wait = LOCK_TIMEOUT.as_millis();
    format!(
        "SET search_path TO {schema}; SET synchronous_commit TO on; SET lock_timeout TO {wait}; \
         SET statement_timeout TO 60000; SET idle_in_transaction_session_timeout TO 30000; \
         SET default_transaction_read_only TO {read_only};"
    )
}

/// One connection to a SQLite file, outside of a store.
pub(super) async fn open_file(path: &Path, access: Access) -> Result<AnyConnection, sqlx::Error> {
    install_drivers();
    let url = sqlite_url(path, access).map_err(|error| sqlx::Error::Configuration(error.to_string().into()))?;
    let mut conn = AnyConnection::connect(&url).await?;
    // Without the write-ahead log: who asks for one file gets one file.
    let access = if access == Access::Create { Access::Write } else { access };
    conn.execute(sqlite_setup(access).as_str()).await?;
    Ok(conn)
}

/// Connections to a SQLite file. A single one may write: waiting in the pool's fair queue is better than colliding and
/// sleeping in SQLite's busy handler.
pub(super) async fn file_pool(path: &Path, access: Access) -> Result<AnyPool, StoreError> {
    let size = if access == Access::Create { 1 } else { READERS };
    pool(size, false, &sqlite_url(path, access)?, sqlite_setup(access)).await
}

/// Connections that write to a server, and those that read.
pub(super) async fn server_pools(server: &Server, read_only: bool) -> Result<(AnyPool, AnyPool), StoreError> {
    let writer = pool(SERVER_WRITERS, true, &server.url, server_setup(&server.schema, read_only)).await?;
    let reader = pool(SERVER_READERS, true, &server.url, server_setup(&server.schema, true)).await?;
    Ok((writer, reader))
}

/// One connection to a server, outside of the pools.
pub(super) async fn connect(server: &Server) -> Result<AnyConnection, StoreError> {
    install_drivers();
    Ok(AnyConnection::connect(&server.url).await?)
}

/// Makes the schema where it is missing.
pub(super) async fn make_schema(server: &Server) -> Result<(), StoreError> {
    let mut conn = connect(server).await?;
    // Two processes that start at once collide in the catalogue although each says IF NOT EXISTS.
    conn.execute("SELECT pg_advisory_lock(hashtext('respondo schema'))").await?;
    conn.execute(format!("CREATE SCHEMA IF NOT EXISTS {}", server.schema).as_str()).await?;
    conn.close().await?;
    Ok(())
}

/// `may_go_away`: the other side can end a connection, so each is tried before it is given out.
async fn pool(size: u32, may_go_away: bool, url: &str, setup: String) -> Result<AnyPool, StoreError> {
    install_drivers();
    // A pool tries again and then says that it took too long; what is really wrong comes out here.
    let mut first = AnyConnection::connect(url).await?;
    first.execute(setup.as_str()).await?;
    first.close().await?;
    let options = AnyConnectOptions::from_str(url)?;
    let pool = AnyPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(may_go_away)
        .after_connect(move |conn, _| {
            let setup = setup.clone();
            Box::pin(async move { conn.execute(setup.as_str()).await.map(drop) })
        })
        // On a full disk SQLite rolls the transaction back by itself; sqlx then fails to roll it back a second time and
        // believes for ever that one is open. And a caller that goes away while a transaction begins leaves it open.
        // Such a connection is thrown away, which rolls back what is open, and replaced.
        .before_acquire(|conn, _| Box::pin(async move { Ok(!conn.is_in_transaction()) }))
        .connect_with(options)
        .await?;
    Ok(pool)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_an_address_with_nothing_left_to_interpret() {
        let url = sqlite_url(Path::new("/da ta/50%?#&ñ/a.db"), Access::Read).unwrap();
        assert_eq!(url, "sqlite:///da%20ta/50%25%3F%23%26%C3%B1/a.db?mode=ro");
    }

    #[test]
    fn json_is_read_by_path() {
        assert_eq!(Dialect::Sqlite.json_at("t.x", &["a", "b"]), "json_extract(t.x, '$.a.b')");
        assert_eq!(Dialect::Postgres.json_at("t.x", &["a", "b"]), "(t.x::jsonb #>> '{a,b}')");
    }
}
