//! A copy of the whole store in one file, made beside a running service, and the way back.
//!
//! `VACUUM INTO` reads the database as it is at one moment, like any other reader, and leaves out free pages: what was
//! forgotten is not in the copy. Nor is the vector index: it is filled again from the store.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use sqlx::{AnyConnection, Connection};
use tempfile::NamedTempFile;

use super::database::open_file;
use super::error::primary_code;
use super::{
    Access, Audit, DATABASE_FILE, Dialect, SQLITE_MIGRATIONS, Store, StoreError, create_private_dir, lock_folder, rows,
    write_audit,
};

/// The first bytes of every SQLite file.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// How the name of a copy begins and ends until it is whole.
const PARTIAL: (&str, &str) = (".respondo-", ".partial");
/// A copy that nobody holds locked is left behind once it is older than this; a new one is locked at once.
const PARTIAL_AGE: Duration = Duration::from_secs(60);
/// Tables that a database of ours has, whatever its version.
const OUR_TABLES: &str = "'_sqlx_migrations', 'tickets', 'messages', 'memory_items'";
/// Files that SQLite keeps beside a database, by the end of their name.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];
/// Primary result codes of SQLite, <https://www.sqlite.org/rescode.html>.
const SQLITE_BUSY: u32 = 5;
const SQLITE_CORRUPT: u32 = 11;
const SQLITE_NOTADB: u32 = 26;

/// A finished backup.
#[derive(Clone, Debug)]
pub struct BackupReport {
    pub path: PathBuf,
    pub content: BackupContent,
}

/// A finished restore.
#[derive(Clone, Debug)]
pub struct RestoreReport {
    /// The database that the data folder has now.
    pub path: PathBuf,
    /// The one it had before.
    pub old: Option<PathBuf>,
    pub content: BackupContent,
    /// Erasures of customers that the database had known and the backup had not; they were taken over, so that they can be
    /// repeated ([`Store::erased_before`]).
    pub erasures: u64,
}

/// How much a copy holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupContent {
    pub bytes: u64,
    pub tickets: u64,
    pub messages: u64,
    /// Items of the memory.
    pub items: u64,
}

impl Store {
    /// Copies everything into one new file, without holding up who writes meanwhile. `target` is the file, or a folder,
    /// in which it is named after the time. The file has its name only when it is whole, checked and on disk.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when the file is there already, its folder is missing, full or cannot be written, or the
    /// copy is damaged, as the database then is.
    pub async fn backup(&self, target: &Path) -> Result<BackupReport, StoreError> {
        if self.dialect != Dialect::Sqlite {
            return Err(StoreError::Invalid(
                "the store is in PostgreSQL: use `pg_dump`, or copy it into a file with `respondo migrate store`"
                    .into(),
            ));
        }
        let path = backup_path(target)?;
        let folder = folder_of(&path);
        let mut reading = self.reader.acquire().await?;
        let copy = copy_into(&mut reading, self.path(), folder).await?;
        drop(reading);
        let mut conn = open_file(copy.path(), Access::Read).await?;
        check(&mut conn, self.path()).await?;
        let content = content(&mut conn, copy.path()).await?;
        conn.close().await?;
        copy.as_file().sync_all().map_err(|error| cannot("write", &path, &error))?;
        copy.persist_noclobber(&path).map_err(|failed| match failed.error.kind() {
            ErrorKind::AlreadyExists => exists(&path),
            _ => cannot("write", &path, &failed.error),
        })?;
        sync_folder(folder)?;
        Ok(BackupReport { path, content })
    }
}

/// Makes `file`, a backup, the database of the data folder, brought up to date. The one that was there is kept under
/// another name. `index` is the folder of the vector index: it holds other content, so it is removed, and the next start
/// fills a new one. Cut off at any moment, this leaves the old state or the new one.
///
/// # Errors
/// [`StoreError::Locked`] when a process writes to the data folder, [`StoreError::Invalid`] when `file` is no database of
/// ours or damaged, [`StoreError::Other`] when a newer program wrote it. The data folder is then as it was.
pub async fn restore(data_dir: &Path, file: &Path, index: &Path) -> Result<RestoreReport, StoreError> {
    let mut source = open_backup(file).await?;
    create_private_dir(data_dir)?;
    let _lock = lock_folder(data_dir)?;
    let data_dir = absolute(data_dir)?;
    let copy = copy_into(&mut source, file, &data_dir).await?;
    source.close().await?;
    let content = bring_up_to_date(copy.path(), file).await?;
    let erasures = take_erasures_over(&data_dir.join(DATABASE_FILE), copy.path()).await?;
    copy.as_file().sync_all().map_err(|error| cannot("write into", &data_dir, &error))?;

    let path = data_dir.join(DATABASE_FILE);
    let old = keep_old(&path).await?;
    // The index goes before: the old database without one is the old state still, the new one with another's is not.
    let old_index = put_index_aside(index)?;
    sync_folder(&data_dir)?;
    copy.persist(&path).map_err(|failed| cannot("replace", &path, &failed.error))?;
    sync_folder(&data_dir)?;
    if let Err(error) = remove_folder(&old_index) {
        tracing::warn!(%error, folder = %old_index.display(), "the old search index can be removed, but was not");
    }
    Ok(RestoreReport { path, old, content, erasures })
}

/// Adds the erasures that the database of the data folder knows to a copy that may be older than they are. One that cannot
/// be read, or is of a version without them, knows none.
async fn take_erasures_over(database: &Path, copy: &Path) -> Result<u64, StoreError> {
    if !database.is_file() || !is_sqlite(database)? {
        return Ok(0);
    }
    let known = async {
        let mut conn = open_file(database, Access::Read).await?;
        let known = sqlx::query("SELECT customer_hash, salt, erased_at FROM erasures").fetch_all(&mut conn).await?;
        conn.close().await?;
        Ok::<_, sqlx::Error>(known)
    };
    let known = known.await.unwrap_or_else(|error| {
        tracing::debug!(%error, "no erasures are known");
        Vec::new()
    });
    let mut conn = open_file(copy, Access::Write).await?;
    let mut taken = 0;
    for row in &known {
        let insert = "INSERT INTO erasures (customer_hash, salt, erased_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        let inserted = sqlx::query(insert)
            .bind(rows::text(row, "customer_hash")?)
            .bind(rows::text(row, "salt")?)
            .bind(rows::integer(row, "erased_at")?)
            .execute(&mut conn)
            .await?;
        taken += inserted.rows_affected();
    }
    conn.close().await?;
    Ok(taken)
}

/// Where a backup goes.
fn backup_path(target: &Path) -> Result<PathBuf, StoreError> {
    let path = absolute(target)?;
    let path = match path.is_dir() {
        true => path.join(format!("respondo-{}.db", time_in_name())),
        false => path,
    };
    let names_a_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let folder = if names_a_folder { &path } else { folder_of(&path) };
    if !folder.is_dir() {
        let folder = folder.display();
        return Err(StoreError::Invalid(format!("there is no folder {folder}; make it, or choose another place")));
    }
    if path.exists() { Err(exists(&path)) } else { Ok(path) }
}

/// Opens a file for reading that says it is a backup, once it has shown to be one.
async fn open_backup(file: &Path) -> Result<AnyConnection, StoreError> {
    if !is_sqlite(file)? {
        return Err(not_ours(file));
    }
    let opened = open_file(file, Access::Read).await;
    let mut conn = opened.map_err(|error| unreadable(file, &error))?;
    let tables: i64 = sqlx::query_scalar(&format!(
        "SELECT COUNT(*) FROM sqlite_schema WHERE type = 'table' AND name IN ({OUR_TABLES})"
    ))
    .fetch_one(&mut conn)
    .await
    .map_err(|error| unreadable(file, &error))?;
    if tables != 4 {
        return Err(not_ours(file));
    }
    check(&mut conn, file).await?;
    Ok(conn)
}

/// Whether a file begins like a database.
fn is_sqlite(file: &Path) -> Result<bool, StoreError> {
    let mut start = [0; MAGIC.len()];
    match File::open(file).and_then(|mut file| file.read_exact(&mut start)) {
        Ok(()) => Ok(start == *MAGIC),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(cannot("read", file, &error)),
    }
}

/// The database behind `conn`, which is `source`, as it is at this moment, in a file of `folder` without a final name; gone
/// when dropped.
async fn copy_into(conn: &mut AnyConnection, source: &Path, folder: &Path) -> Result<NamedTempFile, StoreError> {
    remove_partials(folder);
    // Readable by its owner only. SQLite takes an empty file for a new one.
    let (prefix, suffix) = PARTIAL;
    let made = tempfile::Builder::new().prefix(prefix).suffix(suffix).tempfile_in(folder);
    let file = made.map_err(|error| cannot("write into", folder, &error))?;
    // Says that it is being written, for as long as this process lives; SQLite's own locks are of another kind.
    file.as_file().try_lock().map_err(|error| cannot("lock a copy in", folder, &error.into()))?;
    let Some(path) = file.path().to_str() else {
        let folder = folder.display();
        return Err(StoreError::Invalid(format!("the name of the folder {folder} is not UTF-8; choose another")));
    };
    sqlx::query("VACUUM INTO $1").bind(path).execute(conn).await.map_err(|error| match StoreError::from(error) {
        StoreError::DiskFull => StoreError::Invalid(format!(
            "the disk of {} has no room for the copy and nothing was kept; free some space or choose another place",
            folder.display()
        )),
        error => StoreError::Invalid(format!("cannot copy {} into {}: {error}", source.display(), folder.display())),
    })?;
    Ok(file)
}

/// Removes copies that a process left half written when it was killed. One that cannot be removed is in nobody's way.
fn remove_partials(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.starts_with(PARTIAL.0) || !name.ends_with(PARTIAL.1) {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        let age = file.metadata().and_then(|file| file.modified()).ok().and_then(|then| then.elapsed().ok());
        if age.is_some_and(|age| age > PARTIAL_AGE)
            && file.try_lock().is_ok()
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::warn!(%error, file = %path.display(), "a copy that was cut off can be removed, but was not");
        }
    }
}

/// Gives a copy of `file` the tables of this program; its memory waits to be indexed.
async fn bring_up_to_date(copy: &Path, file: &Path) -> Result<BackupContent, StoreError> {
    let mut conn = open_file(copy, Access::Write).await?;
    SQLITE_MIGRATIONS.run(&mut conn).await.map_err(|error| StoreError::migration(file, error))?;
    sqlx::query("UPDATE memory_items SET indexed = 0, index_generation = NULL").execute(&mut conn).await?;
    let content = content(&mut conn, copy).await?;
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned());
    let detail = json!({ "tickets": content.tickets, "messages": content.messages, "items": content.items });
    let entry = Audit { actor: "system", action: "backup restored", ticket_id: None, subject: name, detail };
    write_audit(&mut conn, entry, rows::now_ms()).await?;
    check(&mut conn, file).await?;
    conn.close().await?;
    Ok(content)
}

/// Reads all pages, tables and indexes. `file` is what is to be blamed.
async fn check(conn: &mut AnyConnection, file: &Path) -> Result<(), StoreError> {
    let found: String = sqlx::query_scalar("PRAGMA integrity_check(1)")
        .fetch_one(conn)
        .await
        .map_err(|error| unreadable(file, &error))?;
    if found == "ok" { Ok(()) } else { Err(damaged(file, &found)) }
}

async fn content(conn: &mut AnyConnection, file: &Path) -> Result<BackupContent, StoreError> {
    let row = sqlx::query(
        "SELECT (SELECT COUNT(*) FROM tickets) AS tickets, (SELECT COUNT(*) FROM messages) AS messages, \
                (SELECT COUNT(*) FROM memory_items) AS items",
    )
    .fetch_one(conn)
    .await?;
    Ok(BackupContent {
        bytes: fs::metadata(file).map_err(|error| cannot("read", file, &error))?.len(),
        tickets: rows::count(&row, "tickets")?,
        messages: rows::count(&row, "messages")?,
        items: rows::count(&row, "items")?,
    })
}

/// Moves the index away. Renamed first and removed later: half an index could be taken for a whole one.
fn put_index_aside(index: &Path) -> Result<PathBuf, StoreError> {
    let old = with_end(index, ".old");
    remove_folder(&old).map_err(|error| cannot("remove", &old, &error))?;
    match fs::rename(index, &old) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(cannot("rename", index, &error)),
        _ => Ok(old),
    }
}

/// Gives the old database a second name; under the first one it stays until the new one takes its place.
async fn keep_old(path: &Path) -> Result<Option<PathBuf>, StoreError> {
    let old = with_end(path, &format!(".old-{}", time_in_name()));
    if old.exists() {
        return Err(StoreError::Conflict(format!("{} is there already; try again", old.display())));
    }
    let found = path.exists();
    if found {
        fold_log(path).await?;
        // Not every file system knows second names.
        let kept = fs::hard_link(path, &old).or_else(|_| fs::copy(path, &old).map(drop));
        kept.map_err(|error| cannot("write", &old, &error))?;
    }
    // Left where a database is too damaged to be folded. Beside the new one they would be taken for its own.
    for end in COMPANIONS {
        let (from, to) = (with_end(path, end), with_end(&old, end));
        match fs::rename(&from, to) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(cannot("rename", &from, &error)),
            _ => {}
        }
    }
    Ok(found.then_some(old))
}

/// Brings what the write-ahead log holds into the database file, which then is all there is. A damaged one stays as it is.
async fn fold_log(path: &Path) -> Result<(), StoreError> {
    // SQLite would clear away the log of what it cannot read.
    if !is_sqlite(path)? {
        return Ok(());
    }
    let folded = async {
        let mut conn = open_file(path, Access::Write).await?;
        sqlx::query("PRAGMA journal_mode = DELETE").execute(&mut conn).await?;
        conn.close().await
    };
    let Err(error) = folded.await else { return Ok(()) };
    match primary_code(&error) {
        Some(SQLITE_CORRUPT | SQLITE_NOTADB) => Ok(()),
        Some(SQLITE_BUSY) => Err(StoreError::Conflict(format!(
            "another program reads {}; wait for it, or stop it, and try again",
            path.display()
        ))),
        _ => Err(StoreError::Invalid(format!(
            "cannot put {} aside: {error}; mend that, or choose another folder with --data",
            path.display()
        ))),
    }
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A new name itself must survive a power cut.
fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| cannot("flush", folder, &error))
}

fn absolute(path: &Path) -> Result<PathBuf, StoreError> {
    std::path::absolute(path).map_err(|error| cannot("find", path, &error))
}

fn folder_of(file: &Path) -> &Path {
    file.parent().unwrap_or(file)
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn time_in_name() -> String {
    Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn exists(path: &Path) -> StoreError {
    StoreError::Invalid(format!("{} is there already and is left alone; choose another name", path.display()))
}

fn not_ours(file: &Path) -> StoreError {
    StoreError::Invalid(format!(
        "{} is no database of Respondo; name a file that `respondo backup` made",
        file.display()
    ))
}

fn damaged(file: &Path, found: &str) -> StoreError {
    // SQLite says first which database it speaks of.
    let found = found.lines().last().unwrap_or_default();
    StoreError::Invalid(format!("{} is damaged ({found}); use an earlier backup", file.display()))
}

fn unreadable(file: &Path, error: &sqlx::Error) -> StoreError {
    match primary_code(error) {
        Some(SQLITE_CORRUPT | SQLITE_NOTADB) => damaged(file, &error.to_string()),
        _ => StoreError::Invalid(format!(
            "cannot read {}: {error}; check its permissions, or copy it to a folder that can be written",
            file.display()
        )),
    }
}

fn cannot(doing: &str, path: &Path, error: &io::Error) -> StoreError {
    StoreError::Invalid(format!("cannot {doing} {}: {error}", path.display()))
}
