//! Files that customers sent with their messages.

use jiff::Timestamp;
use serde::Serialize;
use sqlx::AnyConnection;
use sqlx::Row;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::rows::{self, timestamp};
use super::{Store, StoreError, sha256_hex};
use crate::ticket::Message;

/// A file as it came in, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAttachment {
    /// For people to read; never a path.
    pub name: String,
    pub media_type: &'static str,
    pub content: Vec<u8>,
}

/// A kept file, without its content.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AttachmentRow {
    pub id: Uuid,
    /// The one that has the conversation.
    pub ticket_id: Uuid,
    pub message_id: Uuid,
    pub name: String,
    pub media_type: String,
    /// Bytes.
    pub size: u64,
    pub created_at: Timestamp,
}

impl Store {
    /// Files of a ticket's messages, in the order of the conversation.
    pub async fn attachments(&self, ticket_id: Uuid) -> Result<Vec<AttachmentRow>, StoreError> {
        let found = sqlx::query(
            "SELECT a.id, a.message_id, a.name, a.media_type, a.size, a.created_at, m.ticket_id \
             FROM attachments a JOIN messages m ON m.id = a.message_id \
             WHERE m.ticket_id = $1 ORDER BY m.position, a.id",
        )
        .bind(ticket_id.to_string())
        .fetch_all(&self.reader)
        .await?;
        found.iter().map(attachment).collect()
    }

    /// One file with its content, or [`StoreError::NotFound`].
    pub async fn attachment(&self, id: Uuid) -> Result<(AttachmentRow, Vec<u8>), StoreError> {
        let found = sqlx::query(
            "SELECT a.*, m.ticket_id FROM attachments a JOIN messages m ON m.id = a.message_id WHERE a.id = $1",
        )
        .bind(id.to_string())
        .fetch_optional(&self.reader)
        .await?;
        let row = found.ok_or_else(|| StoreError::NotFound(format!("file {id}")))?;
        Ok((attachment(&row)?, row.try_get("content")?))
    }
}

/// Keeps the files of a message, in the transaction that keeps the message.
pub(super) async fn insert(
    conn: &mut AnyConnection,
    message: &Message,
    files: Vec<NewAttachment>,
    now: i64,
) -> Result<Vec<AttachmentRow>, StoreError> {
    let mut kept = Vec::with_capacity(files.len());
    for file in files {
        let row = AttachmentRow {
            id: Uuid::now_v7(),
            ticket_id: message.ticket_id,
            message_id: message.id,
            name: file.name,
            media_type: file.media_type.to_owned(),
            size: file.content.len() as u64,
            created_at: timestamp(now)?,
        };
        sqlx::query(
            "INSERT INTO attachments (id, message_id, name, media_type, size, sha256, created_at, content) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(row.id.to_string())
        .bind(row.message_id.to_string())
        .bind(&row.name)
        .bind(&row.media_type)
        .bind(i64::try_from(row.size).unwrap_or(i64::MAX))
        .bind(sha256_hex(&file.content))
        .bind(now)
        .bind(file.content)
        .execute(&mut *conn)
        .await?;
        kept.push(row);
    }
    Ok(kept)
}

fn attachment(row: &AnyRow) -> Result<AttachmentRow, StoreError> {
    Ok(AttachmentRow {
        id: rows::id(row, "id")?,
        ticket_id: rows::id(row, "ticket_id")?,
        message_id: rows::id(row, "message_id")?,
        name: rows::text(row, "name")?,
        media_type: rows::text(row, "media_type")?,
        size: rows::count(row, "size")?,
        created_at: rows::time(row, "created_at")?,
    })
}
