//! The audit trail as a chain of hashes: who did what, and whether anyone has touched the record since.
//!
//! The hash of a line is the SHA-256, in lower-case hexadecimal, over this JSON array, written in UTF-8 without spaces
//! and with no other escapes than JSON demands:
//!
//! ```text
//! ["respondo-audit/1", PREVIOUS, id, created_at, actor, action, ticket_id, subject, detail]
//! ```
//!
//! PREVIOUS is the hash of the line with the next lower id, null for the first line of all. The other fields are the
//! columns as they are stored: numbers, strings or null. `detail` is a string, never parsed.
//!
//! Every line has such a hash. Lines from before the chain do not store theirs; the first line that stores one has it
//! over the hash of the line before it like any other, so it covers all of them. From then on every line must store its
//! own.
//!
//! So a line that was changed, deleted, inserted or moved is found. What the trail alone cannot show is that its end
//! was cut off, or that somebody computed all of it anew or took all hashes away. For that, its head (last id and hash)
//! is noted elsewhere.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;
use sqlx::AnyConnection;
use sqlx::Row;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::{Dialect, Store, StoreError, sha256_hex};

/// Names the encoding inside each hash, so that another one can never be taken for it.
const ENCODING: &str = "respondo-audit/1";
/// Lines read at a time.
const PAGE: usize = 1_000;

/// One line of the audit trail. `detail` says what happened without saying what was written.
pub(super) struct Audit<'a> {
    pub(super) actor: &'a str,
    pub(super) action: &'a str,
    pub(super) ticket_id: Option<Uuid>,
    pub(super) subject: Option<String>,
    pub(super) detail: Value,
}

/// A line of the trail and its hash; written `ID:HASH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditHead {
    /// Of the line.
    pub id: i64,
    /// SHA-256, lower-case hexadecimal.
    pub hash: String,
}

/// What a walk along the trail has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditCheck {
    /// Lines that are whole, up to the first broken one.
    pub lines: u64,
    /// How many of them are from before the chain and store no hash of their own.
    pub unchained: u64,
    /// The last of them; None when there is none.
    pub head: Option<AuditHead>,
    /// The first line that is not as it was written. Nothing is said about those behind it.
    pub broken: Option<BrokenLine>,
}

/// A line of the trail that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenLine {
    pub id: i64,
    /// What is wrong with it, in words.
    pub reason: String,
}

/// The columns that a hash is over.
struct Line<'a> {
    id: i64,
    created_at: i64,
    actor: &'a str,
    action: &'a str,
    ticket_id: Option<&'a str>,
    subject: Option<&'a str>,
    detail: &'a str,
}

impl Store {
    /// Walks along the whole audit trail and checks every line; also beside a running service. Where `noted` is given,
    /// that line must still be there with that hash.
    ///
    /// # Errors
    /// When the trail cannot be read, or is of a version without a chain. A broken line is no error, see
    /// [`AuditCheck::broken`].
    pub async fn verify_audit(&self, noted: Option<&AuditHead>) -> Result<AuditCheck, StoreError> {
        let mut conn = self.reader.acquire().await?;
        let column = sqlx::query("SELECT 1 FROM pragma_table_info('audit') WHERE name = 'hash'");
        if self.dialect == Dialect::Sqlite && column.fetch_optional(&mut *conn).await?.is_none() {
            return Err(StoreError::Invalid(format!(
                "{} was written by an older respondo, whose audit trail has no chain; start `respondo serve` once",
                self.path().display()
            )));
        }
        walk(&mut conn, noted).await
    }
}

/// Adds a line to the trail. The transaction that `conn` is in holds the write lock, so no other line can come between.
pub(super) async fn write_audit(conn: &mut AnyConnection, entry: Audit<'_>, now: i64) -> Result<(), StoreError> {
    let (last_id, previous) = last_line(conn).await?;
    let id = last_id.checked_add(1).ok_or_else(|| StoreError::Other("the audit trail has no ids left".into()))?;
    let ticket_id = entry.ticket_id.map(|id| id.to_string());
    let detail = entry.detail.to_string();
    let line = Line {
        id,
        created_at: now,
        actor: entry.actor,
        action: entry.action,
        ticket_id: ticket_id.as_deref(),
        subject: entry.subject.as_deref(),
        detail: &detail,
    };
    let hash = line.hash(previous.as_deref())?;
    sqlx::query(
        "INSERT INTO audit (id, created_at, actor, action, ticket_id, subject, detail, hash) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(line.id)
    .bind(line.created_at)
    .bind(line.actor)
    .bind(line.action)
    .bind(line.ticket_id)
    .bind(line.subject)
    .bind(line.detail)
    .bind(&hash)
    .execute(conn)
    .await?;
    Ok(())
}

/// Id and hash of the last line; 0 and None in an empty trail.
async fn last_line(conn: &mut AnyConnection) -> Result<(i64, Option<String>), StoreError> {
    let last = sqlx::query("SELECT id, hash FROM audit ORDER BY id DESC LIMIT 1").fetch_optional(&mut *conn).await?;
    let Some(last) = last else { return Ok((0, None)) };
    let stored: Option<String> = last.try_get("hash")?;
    let hash = match stored {
        Some(hash) => Some(hash),
        // Once, for the first line after the trail became a chain. A line that is broken there is found by the check;
        // it must not stop the desk.
        None => walk(conn, None).await?.head.map(|head| head.hash),
    };
    Ok((last.try_get("id")?, hash))
}

/// Follows the chain from its first line to its end or to what is broken, a page at a time. Lines are only ever added,
/// so no snapshot is needed.
async fn walk(conn: &mut AnyConnection, noted: Option<&AuditHead>) -> Result<AuditCheck, StoreError> {
    let mut check = AuditCheck::default();
    let mut missing = noted;
    // Not from 1: somebody may have put a line before it.
    let mut next = Some(i64::MIN);
    while let Some(from) = next {
        let rows = page(conn, from).await?;
        for row in &rows {
            let id = row.try_get("id")?;
            if let Err(reason) = check.follow(row, noted) {
                check.broken = Some(BrokenLine { id, reason });
                return Ok(check);
            }
            missing = missing.filter(|noted| noted.id != id);
        }
        let last = check.head.as_ref().filter(|_| rows.len() == PAGE);
        next = last.and_then(|last| last.id.checked_add(1));
    }
    if let Some(noted) = missing {
        check.broken = Some(BrokenLine { id: noted.id, reason: "it was noted as the head and is not there".into() });
    }
    Ok(check)
}

async fn page(conn: &mut AnyConnection, from: i64) -> Result<Vec<AnyRow>, StoreError> {
    let query = "SELECT id, created_at, actor, action, ticket_id, subject, detail, hash FROM audit \
         WHERE id >= $1 ORDER BY id LIMIT $2";
    Ok(sqlx::query(query).bind(from).bind(PAGE as i64).fetch_all(conn).await?)
}

impl AuditCheck {
    /// Takes in the next line, or says what is wrong with it.
    fn follow(&mut self, row: &AnyRow, noted: Option<&AuditHead>) -> Result<(), String> {
        let unreadable = |error: sqlx::Error| format!("it cannot be read: {error}");
        let line = Line::read(row).map_err(unreadable)?;
        let stored: Option<&str> = row.try_get("hash").map_err(unreadable)?;
        let previous = self.head.as_ref().map(|head| head.hash.as_str());
        let hash = line.hash(previous).map_err(|error| error.to_string())?;
        match stored {
            Some(stored) if stored == hash => {}
            Some(_) => return Err(self.mismatch(line.id)),
            None if self.lines > self.unchained => return Err("it has no hash, but the line before it has one".into()),
            None => self.unchained += 1,
        }
        if noted.is_some_and(|noted| noted.id == line.id && noted.hash != hash) {
            return Err(format!("its hash is {hash}, another one was noted: the trail was written anew"));
        }
        self.lines += 1;
        self.head = Some(AuditHead { id: line.id, hash });
        Ok(())
    }

    /// What may have happened when the hash of a line is wrong and all before it are right.
    fn mismatch(&self, id: i64) -> String {
        let last = self.head.as_ref().map_or(0, |head| head.id);
        // Nothing has vouched for lines without a hash until now.
        if self.unchained > 0 && self.lines == self.unchained {
            let before = self.unchained;
            return format!(
                "its hash is wrong: it, or one of the {before} lines without a hash before it, was changed"
            );
        }
        match id.checked_sub(last) {
            Some(2..) => format!("its hash is wrong: the lines after {last} and before it are missing"),
            _ => "its hash is wrong: it was changed, moved or inserted".to_owned(),
        }
    }
}

impl<'a> Line<'a> {
    fn read(row: &'a AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            created_at: row.try_get("created_at")?,
            actor: row.try_get("actor")?,
            action: row.try_get("action")?,
            ticket_id: row.try_get("ticket_id")?,
            subject: row.try_get("subject")?,
            detail: row.try_get("detail")?,
        })
    }

    /// The hash as the module's head describes it.
    fn hash(&self, previous: Option<&str>) -> Result<String, StoreError> {
        let Self { id, created_at, actor, action, ticket_id, subject, detail } = self;
        let fields = (ENCODING, previous, id, created_at, actor, action, ticket_id, subject, detail);
        Ok(sha256_hex(serde_json::to_vec(&fields)?))
    }
}

impl fmt::Display for AuditHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.id, self.hash)
    }
}

impl FromStr for AuditHead {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        let wrong = || StoreError::Invalid(format!("{text:?} is no head; give ID:HASH as `audit verify` prints it"));
        let (id, hash) = text.split_once(':').ok_or_else(wrong)?;
        let id = id.parse().map_err(|_| wrong())?;
        if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        Ok(Self { id, hash: hash.to_ascii_lowercase() })
    }
}
