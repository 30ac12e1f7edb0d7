//! Columns to domain types and back.

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::AnyConnection;
use sqlx::Row;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::StoreError;
use crate::ticket::{Class, Difficulty, Language, Message, Ticket, Urgency};

/// Milliseconds since 1970, UTC.
pub(super) fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

pub(super) fn timestamp(ms: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_millisecond(ms)
        .map_err(|error| StoreError::Other(format!("the stored time {ms} is no time: {error}")))
}

/// Name of an enum's value as in the API (`"received"`).
pub(super) fn name_of<T: Serialize>(value: &T) -> Result<String, StoreError> {
    match serde_json::to_value(value)? {
        Value::String(name) => Ok(name),
        other => Err(StoreError::Other(format!("{other} is not the name of a value"))),
    }
}

pub(super) fn from_name<T: DeserializeOwned>(name: String) -> Result<T, StoreError> {
    Ok(serde_json::from_value(Value::String(name))?)
}

pub(super) fn text(row: &AnyRow, column: &str) -> Result<String, StoreError> {
    Ok(row.try_get(column)?)
}

pub(super) fn optional_text(row: &AnyRow, column: &str) -> Result<Option<String>, StoreError> {
    Ok(row.try_get(column)?)
}

pub(super) fn integer(row: &AnyRow, column: &str) -> Result<i64, StoreError> {
    Ok(row.try_get(column)?)
}

pub(super) fn optional_integer(row: &AnyRow, column: &str) -> Result<Option<i64>, StoreError> {
    Ok(row.try_get(column)?)
}

/// A number of single precision, kept in double.
pub(super) fn optional_number(row: &AnyRow, column: &str) -> Result<Option<f32>, StoreError> {
    let number: Option<f64> = row.try_get(column)?;
    Ok(number.map(|number| number as f32))
}

/// A count, which cannot be negative.
pub(super) fn count(row: &AnyRow, column: &str) -> Result<u64, StoreError> {
    Ok(u64::try_from(integer(row, column)?).unwrap_or(0))
}

pub(super) fn time(row: &AnyRow, column: &str) -> Result<Timestamp, StoreError> {
    timestamp(integer(row, column)?)
}

pub(super) fn optional_time(row: &AnyRow, column: &str) -> Result<Option<Timestamp>, StoreError> {
    let ms: Option<i64> = row.try_get(column)?;
    ms.map(timestamp).transpose()
}

pub(super) fn parse_id(id: &str) -> Result<Uuid, StoreError> {
    Uuid::parse_str(id).map_err(|error| StoreError::Other(format!("the stored id {id:?} is no UUID: {error}")))
}

pub(super) fn id(row: &AnyRow, column: &str) -> Result<Uuid, StoreError> {
    parse_id(&text(row, column)?)
}

pub(super) fn optional_id(row: &AnyRow, column: &str) -> Result<Option<Uuid>, StoreError> {
    optional_text(row, column)?.as_deref().map(parse_id).transpose()
}

pub(super) fn named<T: DeserializeOwned>(row: &AnyRow, column: &str) -> Result<T, StoreError> {
    from_name(text(row, column)?)
}

pub(super) fn json<T: DeserializeOwned>(row: &AnyRow, column: &str) -> Result<T, StoreError> {
    Ok(serde_json::from_str(&text(row, column)?)?)
}

/// Urgency and difficulty are kept as 1 to 4, in the order of [`Class::ALL`], so that they can be sorted by.
pub(super) fn level<T: Class>(row: &AnyRow, column: &str) -> Result<Option<T>, StoreError> {
    let level: Option<i64> = row.try_get(column)?;
    let Some(level) = level else { return Ok(None) };
    let class = usize::try_from(level - 1).ok().and_then(|index| T::ALL.get(index).copied());
    class.map(Some).ok_or_else(|| StoreError::Other(format!("the stored {column} {level} is not 1 to 4")))
}

pub(super) fn level_of<T: Class>(class: T) -> i64 {
    i64::try_from(class.index()).unwrap_or(0) + 1
}

pub(super) fn ticket(row: &AnyRow) -> Result<Ticket, StoreError> {
    Ok(Ticket {
        id: id(row, "id")?,
        customer: optional_text(row, "customer")?,
        channel: text(row, "channel")?,
        subject: text(row, "subject")?,
        language: Language::new(&text(row, "language")?),
        product: optional_text(row, "product")?,
        queue: optional_text(row, "queue")?,
        state: named(row, "state")?,
        urgency: level::<Urgency>(row, "urgency")?,
        difficulty: level::<Difficulty>(row, "difficulty")?,
        created_at: time(row, "created_at")?,
        updated_at: time(row, "updated_at")?,
        due_at: optional_time(row, "due_at")?,
    })
}

pub(super) fn message(row: &AnyRow) -> Result<Message, StoreError> {
    Ok(Message {
        id: id(row, "id")?,
        ticket_id: id(row, "ticket_id")?,
        author: named(row, "author")?,
        body: text(row, "body")?,
        created_at: time(row, "created_at")?,
    })
}

/// The ticket, or [`StoreError::NotFound`].
pub(super) async fn load_ticket(conn: &mut AnyConnection, id: Uuid) -> Result<Ticket, StoreError> {
    let row = sqlx::query("SELECT * FROM tickets WHERE id = $1").bind(id.to_string()).fetch_optional(conn).await?;
    ticket(&row.ok_or_else(|| StoreError::NotFound(format!("ticket {id}")))?)
}
