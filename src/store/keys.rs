//! Keys of programs that use the API: what each may do, for whom and until when. No key can be read here; see [`IssuedKey`].

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::json;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};
use uuid::Uuid;

use super::rows::{self, now_ms, timestamp};
use super::{Audit, Store, StoreError, sha256_hex, write_audit};

/// What every key begins with, so that people and scanners of leaked secrets know one when they see it.
const PREFIX: &str = "rsp_";
/// Random bytes of a key, and the characters of base64url without padding (RFC 4648, section 5) that they are written in.
const RANDOM_BYTES: usize = 32;
const RANDOM_CHARS: usize = 43;
/// Longest name and customer, in bytes.
const LONGEST_NAME: usize = 80;
const LONGEST_CUSTOMER: usize = 200;
/// The last use is written at most so often, in milliseconds: it is for people, and a write costs a synced commit.
const USE_STEP_MS: i64 = 60_000;

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyScope {
    /// Open a ticket, add messages, read and follow it.
    Tickets,
    /// The queue, and what agents do with drafts.
    Desk,
    /// Triage and search without a ticket.
    Search,
    /// The service's figures.
    Metrics,
    /// Everything.
    All,
}

impl KeyScope {
    pub const EVERY: [Self; 5] = [Self::Tickets, Self::Desk, Self::Search, Self::Metrics, Self::All];

    pub fn name(self) -> &'static str {
        match self {
            Self::Tickets => "tickets",
            Self::Desk => "desk",
            Self::Search => "search",
            Self::Metrics => "metrics",
            Self::All => "all",
        }
    }
}

impl fmt::Display for KeyScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KeyScope {
    type Err = StoreError;

    fn from_str(name: &str) -> Result<Self, StoreError> {
        let found = Self::EVERY.into_iter().find(|scope| scope.name() == name);
        let known = Self::EVERY.map(Self::name).join(", ");
        found.ok_or_else(|| StoreError::Invalid(format!("{name:?} is no scope; there are {known}")))
    }
}

/// Whether a key opens anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    Active,
    Expired,
    Revoked,
}

/// A key without the key itself.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKey {
    pub id: Uuid,
    /// What it is for.
    pub name: String,
    pub scopes: Vec<KeyScope>,
    /// The only customer whose tickets it opens and reads.
    pub customer: Option<String>,
    /// 0 for no limit; None for the limit in the settings.
    pub requests_per_minute: Option<u32>,
    pub created_at: Timestamp,
    pub created_by: String,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    /// To the minute.
    pub last_used_at: Option<Timestamp>,
    /// The key that was made in its place.
    pub replaced_by: Option<Uuid>,
}

impl ApiKey {
    pub fn state(&self, now: Timestamp) -> KeyState {
        match (self.revoked_at, self.expires_at) {
            (Some(_), _) => KeyState::Revoked,
            (None, Some(at)) if at <= now => KeyState::Expired,
            (None, _) => KeyState::Active,
        }
    }

    /// True when it may do what this scope covers.
    pub fn allows(&self, scope: KeyScope) -> bool {
        self.scopes.iter().any(|own| *own == scope || *own == KeyScope::All)
    }

    /// Names of its scopes, with spaces between them.
    pub fn scope_names(&self) -> String {
        names(&self.scopes)
    }
}

/// A key that was just made.
pub struct IssuedKey {
    pub record: ApiKey,
    /// The key itself, to be shown once: the store keeps its SHA-256. A fast hash is right for 32 random bytes, which nobody
    /// can try out; a slow one is for passwords that people choose.
    pub key: String,
}

/// Without the key.
impl fmt::Debug for IssuedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedKey").field("record", &self.record).finish_non_exhaustive()
    }
}

/// A key to be made.
#[derive(Clone, Debug)]
pub struct NewKey {
    pub name: String,
    pub scopes: Vec<KeyScope>,
    pub customer: Option<String>,
    pub requests_per_minute: Option<u32>,
    pub expires_at: Option<Timestamp>,
}

/// Why a key cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyProblem {
    #[error("a key needs a name of at most 80 bytes that says what it is for (and that is not the id of a key)")]
    Name,
    #[error("a key needs at least one scope: tickets, desk, search, metrics or all")]
    NoScope,
    #[error("the customer of a key has 1 to 200 bytes and no control characters")]
    Customer,
    #[error("a key of one customer has the scope `tickets` alone: the others show what is not the customer's")]
    CustomerScopes,
    #[error("the key would be over before it was used; let it expire later")]
    Expiry,
}

impl From<KeyProblem> for StoreError {
    fn from(problem: KeyProblem) -> Self {
        Self::Invalid(problem.to_string())
    }
}

impl NewKey {
    /// Scopes in order and once each, blanks around the name off.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn checked(mut self) -> Result<Self, KeyProblem> {
        self.name = self.name.trim().to_owned();
        self.scopes.sort_unstable();
        self.scopes.dedup();
        let fits = |text: &str, longest| !text.is_empty() && text.len() <= longest && !text.contains(char::is_control);
        if !fits(&self.name, LONGEST_NAME) || Uuid::parse_str(&self.name).is_ok() {
            return Err(KeyProblem::Name);
        }
        if self.scopes.is_empty() {
            return Err(KeyProblem::NoScope);
        }
        if let Some(customer) = &self.customer {
            if !fits(customer, LONGEST_CUSTOMER) {
                return Err(KeyProblem::Customer);
            }
            if self.scopes != [KeyScope::Tickets] {
                return Err(KeyProblem::CustomerScopes);
            }
        }
        if self.expires_at.is_some_and(|at| at <= Timestamp::now()) {
            return Err(KeyProblem::Expiry);
        }
        Ok(self)
    }
}

/// True for what may be a key of ours by its form; nobody can guess one.
pub fn has_key_form(text: &str) -> bool {
    let random = text.strip_prefix(PREFIX).map(str::as_bytes).unwrap_or_default();
    random.len() == RANDOM_CHARS && random.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
}

impl Store {
    /// Makes a key; `by` is who does it.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for a [`KeyProblem`], [`StoreError::Conflict`] when another key in use has the name.
    pub async fn add_key(&self, new: NewKey, by: &str) -> Result<IssuedKey, StoreError> {
        let new = new.checked()?;
        let mut tx = self.write().await?;
        let now = now_ms();
        let taken = sqlx::query(
            "SELECT 1 FROM api_keys WHERE name = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2) LIMIT 1",
        );
        if taken.bind(&new.name).bind(now).fetch_optional(&mut *tx).await?.is_some() {
            let name = &new.name;
            return Err(StoreError::Conflict(format!(
                "there is a key {name:?}; take another name, or rotate that key"
            )));
        }
        let issued = insert(&mut tx, new, by, now).await?;
        write_audit(&mut tx, entry(by, "key added", &issued.record), now).await?;
        tx.commit().await?;
        Ok(issued)
    }

    /// Makes a key with the rights of another, named by name or id, and a life as long as the other's. The other one ends
    /// after `overlap`, if not before.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or [`StoreError::Conflict`] when it is over or was rotated already.
    pub async fn rotate_key(&self, which: &str, overlap: Duration, by: &str) -> Result<IssuedKey, StoreError> {
        let mut tx = self.write().await?;
        let now = now_ms();
        let found = sqlx::query(
            "SELECT * FROM api_keys WHERE id = $1 OR name = $1 \
             ORDER BY CASE WHEN replaced_by IS NULL AND revoked_at IS NULL THEN 0 ELSE 1 END, id DESC LIMIT 1",
        );
        let found = found.bind(which).fetch_optional(&mut *tx).await?;
        let old = found.as_ref().map(key).transpose()?.ok_or_else(|| missing(which))?;
        if old.state(timestamp(now)?) != KeyState::Active || old.replaced_by.is_some() {
            let why = if old.replaced_by.is_some() { "was rotated already" } else { "is over" };
            return Err(StoreError::Conflict(format!("the key {:?} {why}; add a new one", old.name)));
        }
        let end = |from: i64, life: i64| timestamp(from.saturating_add(life));
        let life = old.expires_at.map(|at| at.as_millisecond() - old.created_at.as_millisecond());
        let new = NewKey {
            name: old.name.clone(),
            scopes: old.scopes.clone(),
            customer: old.customer.clone(),
            requests_per_minute: old.requests_per_minute,
            expires_at: life.map(|life| end(now, life)).transpose()?,
        };
        let issued = insert(&mut tx, new, by, now).await?;
        let overlap = i64::try_from(overlap.as_millis()).unwrap_or(i64::MAX);
        let over = end(now, overlap)?;
        let over = old.expires_at.map_or(over, |at| at.min(over));
        sqlx::query("UPDATE api_keys SET expires_at = $1, replaced_by = $2 WHERE id = $3")
            .bind(over.as_millisecond())
            .bind(issued.record.id.to_string())
            .bind(old.id.to_string())
            .execute(&mut *tx)
            .await?;
        let detail = json!({ "name": old.name, "replaced_by": issued.record.id, "ends_at": over });
        write_audit(&mut tx, Audit { detail, ..entry(by, "key rotated", &old) }, now).await?;
        tx.commit().await?;
        Ok(issued)
    }

    /// Ends the key of this id, or every key of this name, at once; gives those that it has ended.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or [`StoreError::Conflict`] when all of them were revoked before.
    pub async fn revoke_keys(&self, which: &str, by: &str) -> Result<Vec<ApiKey>, StoreError> {
        let mut tx = self.write().await?;
        let now = now_ms();
        let found = sqlx::query("SELECT * FROM api_keys WHERE id = $1 OR name = $1 ORDER BY id").bind(which);
        let found: Vec<ApiKey> = found.fetch_all(&mut *tx).await?.iter().map(key).collect::<Result<_, StoreError>>()?;
        if found.is_empty() {
            return Err(missing(which));
        }
        let open: Vec<ApiKey> = found.into_iter().filter(|key| key.revoked_at.is_none()).collect();
        if open.is_empty() {
            return Err(StoreError::Conflict(format!("the key {which:?} is revoked already")));
        }
        for key in &open {
            sqlx::query("UPDATE api_keys SET revoked_at = $1 WHERE id = $2")
                .bind(now)
                .bind(key.id.to_string())
                .execute(&mut *tx)
                .await?;
            write_audit(&mut tx, entry(by, "key revoked", key), now).await?;
        }
        tx.commit().await?;
        Ok(open)
    }

    /// All keys that there ever were, by name, the newest of a name first.
    pub async fn keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        let found = sqlx::query("SELECT * FROM api_keys ORDER BY name, id DESC").fetch_all(&self.reader).await?;
        found.iter().map(key).collect()
    }

    /// The key whose SHA-256 this is, whatever its state.
    pub async fn key_by_sha256(&self, sha256: &str) -> Result<Option<ApiKey>, StoreError> {
        let found = sqlx::query("SELECT * FROM api_keys WHERE key_sha256 = $1").bind(sha256);
        found.fetch_optional(&self.reader).await?.as_ref().map(key).transpose()
    }

    /// The key of this id, whatever its state.
    pub async fn key_by_id(&self, id: Uuid) -> Result<Option<ApiKey>, StoreError> {
        let found = sqlx::query("SELECT * FROM api_keys WHERE id = $1").bind(id.to_string());
        found.fetch_optional(&self.reader).await?.as_ref().map(key).transpose()
    }

    /// True once a key was made, also when it is over: an API that had a key is not open to everybody again because the key
    /// ran out.
    pub async fn has_keys(&self) -> Result<bool, StoreError> {
        let found = sqlx::query("SELECT 1 FROM api_keys LIMIT 1").fetch_optional(&self.reader).await?;
        Ok(found.is_some())
    }

    /// True while a key opens something.
    pub async fn has_active_key(&self) -> Result<bool, StoreError> {
        let query =
            "SELECT 1 FROM api_keys WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $1) LIMIT 1";
        Ok(sqlx::query(query).bind(now_ms()).fetch_optional(&self.reader).await?.is_some())
    }

    /// Notes that a key is in use, at most once a minute.
    pub async fn note_key_use(&self, id: Uuid) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let now = now_ms();
        sqlx::query(
            "UPDATE api_keys SET last_used_at = $1 WHERE id = $2 AND (last_used_at IS NULL OR last_used_at <= $3)",
        )
        .bind(now)
        .bind(id.to_string())
        .bind(now - USE_STEP_MS)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }
}

async fn insert(conn: &mut AnyConnection, new: NewKey, by: &str, now: i64) -> Result<IssuedKey, StoreError> {
    let mut random = [0; RANDOM_BYTES];
    getrandom::fill(&mut random).map_err(|error| StoreError::Other(format!("no random numbers: {error}")))?;
    let key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
    let record = ApiKey {
        id: Uuid::now_v7(),
        name: new.name,
        scopes: new.scopes,
        customer: new.customer,
        requests_per_minute: new.requests_per_minute,
        created_at: timestamp(now)?,
        created_by: by.to_owned(),
        // As it is read again.
        expires_at: new.expires_at.map(|at| timestamp(at.as_millisecond())).transpose()?,
        revoked_at: None,
        last_used_at: None,
        replaced_by: None,
    };
    sqlx::query(
        "INSERT INTO api_keys \
             (id, name, key_sha256, scopes, customer, requests_per_minute, created_at, created_by, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(record.id.to_string())
    .bind(&record.name)
    .bind(sha256_hex(&key))
    .bind(record.scope_names())
    .bind(&record.customer)
    .bind(record.requests_per_minute.map(i64::from))
    .bind(now)
    .bind(by)
    .bind(record.expires_at.map(Timestamp::as_millisecond))
    .execute(conn)
    .await?;
    Ok(IssuedKey { record, key })
}

/// A line of the audit trail. The customer's name stays out of it: the trail cannot forget.
fn entry<'a>(by: &'a str, action: &'a str, key: &ApiKey) -> Audit<'a> {
    let detail = json!({
        "name": key.name, "scopes": key.scope_names(), "one_customer": key.customer.is_some(), "expires_at": key.expires_at,
    });
    Audit { actor: by, action, ticket_id: None, subject: Some(key.id.to_string()), detail }
}

fn missing(which: &str) -> StoreError {
    StoreError::NotFound(format!("key {which:?}; `respondo key list` and /desk/keys show all"))
}

fn names(scopes: &[KeyScope]) -> String {
    scopes.iter().map(|scope| scope.name()).collect::<Vec<_>>().join(" ")
}

fn key(row: &AnyRow) -> Result<ApiKey, StoreError> {
    let limit: Option<i64> = row.try_get("requests_per_minute")?;
    Ok(ApiKey {
        id: rows::id(row, "id")?,
        name: rows::text(row, "name")?,
        scopes: rows::text(row, "scopes")?.split_whitespace().map(str::parse).collect::<Result<_, StoreError>>()?,
        customer: rows::optional_text(row, "customer")?,
        requests_per_minute: limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)),
        created_at: rows::time(row, "created_at")?,
        created_by: rows::text(row, "created_by")?,
        expires_at: rows::optional_time(row, "expires_at")?,
        revoked_at: rows::optional_time(row, "revoked_at")?,
        last_used_at: rows::optional_time(row, "last_used_at")?,
        replaced_by: rows::optional_id(row, "replaced_by")?,
    })
}
