//! What the desk knows: resolved tickets and help articles, and which of them the vector index holds.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::json;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use utoipa::ToSchema;

use super::rows::{self, name_of, now_ms};
use super::statement::Statement;
use super::{Audit, Dialect, Store, StoreError, sha256_hex, write_audit};
use crate::ticket::{ExpectedTime, Language, MemoryItem, MemoryKind};

/// Below SQLite's limit of 32,766 bound values.
const IDS_PER_QUERY: usize = 1000;

/// What a batch of items did to the memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct PutResult {
    pub new: u64,
    /// Known id, other content.
    pub changed: u64,
    /// Known id, same content; nothing was written.
    pub same: u64,
}

/// An item that the vector index does not hold, or holds with older content.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingItem {
    pub item: MemoryItem,
    /// To be given back to [`Store::mark_indexed`].
    pub content_hash: String,
}

/// What of an item says where it is and what it links to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSource {
    pub id: String,
    pub kind: MemoryKind,
    pub url: Option<String>,
    pub solution: String,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MemoryStats {
    pub items: u64,
    /// Items that wait to be indexed.
    pub unindexed: u64,
    /// Name and number, most frequent first; `none` for items without one.
    pub by_kind: Vec<(String, u64)>,
    pub by_language: Vec<(String, u64)>,
    pub by_product: Vec<(String, u64)>,
    /// Indexes that hold items; more than one means that a rebuild was interrupted or is due.
    pub generations: Vec<(String, u64)>,
    /// Quantiles of the resolution time over the whole memory (`samples` is 0, as there are no neighbours in it).
    pub expected_time: Option<ExpectedTime>,
}

/// SHA-256 (hexadecimal) over everything in an item; changes whenever the item does.
pub fn content_hash(item: &MemoryItem) -> Result<String, StoreError> {
    Ok(sha256_hex(serde_json::to_vec(item)?))
}

impl Store {
    /// Adds items, or replaces those whose content hash has changed; both then wait to be indexed. One transaction: give
    /// it hundreds at a time. `content_hashes` has one hash per item, see [`content_hash`].
    pub async fn put_items(&self, items: &[MemoryItem], content_hashes: &[String]) -> Result<PutResult, StoreError> {
        if items.len() != content_hashes.len() {
            let (items, hashes) = (items.len(), content_hashes.len());
            return Err(StoreError::Invalid(format!("{items} items with {hashes} content hashes; give one for each")));
        }
        let mut tx = self.write().await?;
        let mut known = known_hashes(&mut tx, items).await?;
        let mut result = PutResult::default();
        let now = now_ms();
        for (item, hash) in items.iter().zip(content_hashes) {
            match known.insert(item.id.clone(), hash.clone()) {
                Some(before) if before == *hash => {
                    result.same += 1;
                    continue;
                }
                Some(_) => result.changed += 1,
                None => result.new += 1,
            }
            upsert(&mut tx, item, hash, now).await?;
        }
        tx.commit().await?;
        Ok(result)
    }

    /// The items with these ids, in the order of the ids; unknown ids are left out.
    pub async fn items(&self, ids: &[String]) -> Result<Vec<MemoryItem>, StoreError> {
        let mut found: HashMap<String, MemoryItem> = HashMap::with_capacity(ids.len());
        for chunk in ids.chunks(IDS_PER_QUERY) {
            let mut query = Statement::new("SELECT * FROM memory_items WHERE id IN (");
            query.push_list(chunk).push(")");
            for row in query.build().fetch_all(&self.reader).await? {
                let item = memory_item(&row)?;
                found.insert(item.id.clone(), item);
            }
        }
        Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
    }

    /// Up to `limit` items that wait to be indexed, in the order in which they were first stored.
    pub async fn unindexed(&self, limit: u32) -> Result<Vec<PendingItem>, StoreError> {
        let found = sqlx::query("SELECT * FROM memory_items WHERE indexed = 0 ORDER BY seq LIMIT $1")
            .bind(i64::from(limit))
            .fetch_all(&self.reader)
            .await?;
        let pending = |row| Ok(PendingItem { item: memory_item(row)?, content_hash: rows::text(row, "content_hash")? });
        found.iter().map(pending).collect()
    }

    /// The vector index `generation` holds these items (id and content hash) and will still hold them after a crash. An
    /// item that has changed since, hence the hash, waits to be indexed again, even where another process has done that
    /// already: which of the two wrote last is not known. Returns the ids of those that were forgotten since; the index
    /// must not hold them, and their vectors are forgotten once more.
    pub async fn mark_indexed(&self, items: &[(String, String)], generation: &str) -> Result<Vec<String>, StoreError> {
        const MARK: &str = "UPDATE memory_items SET indexed = CASE WHEN content_hash = $1 THEN 1 ELSE 0 END, index_generation = $2 \
             WHERE id = $3";
        let mut tx = self.write().await?;
        let mut gone = Vec::new();
        for (id, hash) in items {
            let marked = sqlx::query(MARK).bind(hash).bind(generation).bind(id).execute(&mut *tx).await?;
            if marked.rows_affected() == 0 {
                // What was computed of its texts meanwhile.
                sqlx::query("DELETE FROM embeddings WHERE memory_id = $1").bind(id).execute(&mut *tx).await?;
                gone.push(id.clone());
            }
        }
        tx.commit().await?;
        Ok(gone)
    }

    /// Everything waits to be indexed again (before a rebuild of the index). Returns the number of items.
    pub async fn mark_all_unindexed(&self) -> Result<u64, StoreError> {
        let mut tx = self.write().await?;
        let changed =
            sqlx::query("UPDATE memory_items SET indexed = 0, index_generation = NULL").execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(changed.rows_affected())
    }

    /// Deletes an item and its cached embeddings, also from the free space of the file; false when there is no such item.
    /// The vector index has to be told as well. The audit trail keeps the id, not the text.
    pub async fn forget(&self, id: &str) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let deleted = sqlx::query("DELETE FROM memory_items WHERE id = $1").bind(id).execute(&mut *tx).await?;
        let vectors = sqlx::query("DELETE FROM embeddings WHERE memory_id = $1").bind(id).execute(&mut *tx).await?;
        if deleted.rows_affected() == 0 && vectors.rows_affected() == 0 {
            return Ok(false);
        }
        let detail = json!({ "embeddings": vectors.rows_affected() });
        let subject = Some(id.to_owned());
        let entry = Audit { actor: "system", action: "memory forgotten", ticket_id: None, subject, detail };
        write_audit(&mut tx, entry, now_ms()).await?;
        tx.commit().await?;
        // The log still holds the text until it is folded into the database file. A reader in the middle of something
        // may prevent that for now; the next checkpoint will do it.
        if self.dialect == Dialect::Sqlite
            && let Err(error) = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&self.writer).await
        {
            tracing::warn!(%error, "the forgotten text stays in the write-ahead log until the next checkpoint");
        }
        Ok(deleted.rows_affected() > 0)
    }

    /// A page of the whole memory: up to `limit` items after position `after` (0 at first), each with its position.
    pub async fn items_after(&self, after: i64, limit: u32) -> Result<Vec<(i64, MemoryItem)>, StoreError> {
        let found = sqlx::query("SELECT * FROM memory_items WHERE seq > $1 ORDER BY seq LIMIT $2")
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(&self.reader)
            .await?;
        found.iter().map(|row| Ok((rows::integer(row, "seq")?, memory_item(row)?))).collect()
    }

    /// A page of what links are read from: up to `limit` items after position `after` (0 at first), each with its position.
    /// The text of an article, and a reply without any address, is left empty.
    pub async fn link_sources_after(&self, after: i64, limit: u32) -> Result<Vec<(i64, LinkSource)>, StoreError> {
        let found = sqlx::query(
            "SELECT seq, id, kind, url, \
                    CASE WHEN kind = 'ticket' AND solution LIKE '%://%' THEN solution ELSE '' END AS solution \
             FROM memory_items WHERE seq > $1 ORDER BY seq LIMIT $2",
        )
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await?;
        found.iter().map(|row| Ok((rows::integer(row, "seq")?, link_source(row)?))).collect()
    }

    /// Position of the newest item, 0 in an empty memory.
    pub async fn newest_item(&self) -> Result<i64, StoreError> {
        let row =
            sqlx::query("SELECT COALESCE(MAX(seq), 0) AS newest FROM memory_items").fetch_one(&self.reader).await?;
        rows::integer(&row, "newest")
    }

    pub async fn memory_stats(&self) -> Result<MemoryStats, StoreError> {
        let row = sqlx::query(
            "SELECT COUNT(*) AS items, COUNT(*) FILTER (WHERE indexed = 0) AS unindexed, COUNT(resolved_hours) AS timed \
             FROM memory_items",
        )
        .fetch_one(&self.reader)
        .await?;
        Ok(MemoryStats {
            items: rows::count(&row, "items")?,
            unindexed: rows::count(&row, "unindexed")?,
            by_kind: self
                .counts("SELECT kind AS name, COUNT(*) AS n FROM memory_items GROUP BY 1 ORDER BY 2 DESC, 1")
                .await?,
            by_language: self
                .counts("SELECT language AS name, COUNT(*) AS n FROM memory_items GROUP BY 1 ORDER BY 2 DESC, 1")
                .await?,
            by_product: self
                .counts(
                    "SELECT COALESCE(product, 'none') AS name, COUNT(*) AS n FROM memory_items \
                     GROUP BY 1 ORDER BY 2 DESC, 1",
                )
                .await?,
            generations: self
                .counts(
                    "SELECT index_generation AS name, COUNT(*) AS n FROM memory_items WHERE indexed = 1 \
                     GROUP BY 1 ORDER BY 2 DESC, 1",
                )
                .await?,
            expected_time: self.overall_time(rows::integer(&row, "timed")?).await?,
        })
    }

    async fn overall_time(&self, timed: i64) -> Result<Option<ExpectedTime>, StoreError> {
        let median = self.hours_at((timed - 1) / 2).await?;
        let p90 = self.hours_at((timed - 1) * 9 / 10).await?;
        Ok(median.zip(p90).map(|(median_hours, p90_hours)| ExpectedTime { median_hours, p90_hours, samples: 0 }))
    }

    /// The resolution time with this rank, from the shortest (0) on.
    async fn hours_at(&self, rank: i64) -> Result<Option<f32>, StoreError> {
        let row = sqlx::query(
            "SELECT resolved_hours FROM memory_items WHERE resolved_hours IS NOT NULL ORDER BY resolved_hours \
             LIMIT 1 OFFSET $1",
        )
        .bind(rank.max(0))
        .fetch_optional(&self.reader)
        .await?;
        Ok(row.map(|row| rows::optional_number(&row, "resolved_hours")).transpose()?.flatten())
    }
}

async fn known_hashes(conn: &mut AnyConnection, items: &[MemoryItem]) -> Result<HashMap<String, String>, StoreError> {
    let mut known = HashMap::with_capacity(items.len());
    for chunk in items.chunks(IDS_PER_QUERY) {
        let mut query = Statement::new("SELECT id, content_hash FROM memory_items WHERE id IN (");
        query.push_list(chunk.iter().map(|item| item.id.as_str())).push(")");
        for row in query.build().fetch_all(&mut *conn).await? {
            known.insert(rows::text(&row, "id")?, rows::text(&row, "content_hash")?);
        }
    }
    Ok(known)
}

pub(super) async fn upsert(
    conn: &mut AnyConnection,
    item: &MemoryItem,
    hash: &str,
    now: i64,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO memory_items (id, kind, language, product, queue, title, problem, solution, answer_kind, url, \
                                   resolved_hours, created_at, content_hash, stored_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) \
         ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, language = excluded.language, \
             product = excluded.product, queue = excluded.queue, title = excluded.title, problem = excluded.problem, \
             solution = excluded.solution, answer_kind = excluded.answer_kind, url = excluded.url, \
             resolved_hours = excluded.resolved_hours, created_at = excluded.created_at, \
             content_hash = excluded.content_hash, stored_at = excluded.stored_at, indexed = 0, index_generation = NULL",
    )
    .bind(&item.id)
    .bind(name_of(&item.kind)?)
    .bind(item.language.code())
    .bind(&item.product)
    .bind(&item.queue)
    .bind(&item.title)
    .bind(&item.problem)
    .bind(&item.solution)
    .bind(item.answer_kind.as_ref().map(name_of).transpose()?)
    .bind(&item.url)
    .bind(item.resolved_hours.map(f64::from))
    .bind(item.created_at.map(|time| time.as_millisecond()))
    .bind(hash)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

fn link_source(row: &AnyRow) -> Result<LinkSource, StoreError> {
    Ok(LinkSource {
        id: rows::text(row, "id")?,
        kind: rows::named(row, "kind")?,
        url: rows::optional_text(row, "url")?,
        solution: rows::text(row, "solution")?,
    })
}

fn memory_item(row: &AnyRow) -> Result<MemoryItem, StoreError> {
    Ok(MemoryItem {
        id: rows::text(row, "id")?,
        kind: rows::named(row, "kind")?,
        language: Language::new(&rows::text(row, "language")?),
        product: rows::optional_text(row, "product")?,
        queue: rows::optional_text(row, "queue")?,
        title: rows::text(row, "title")?,
        problem: rows::text(row, "problem")?,
        solution: rows::text(row, "solution")?,
        answer_kind: rows::optional_text(row, "answer_kind")?.map(rows::from_name).transpose()?,
        url: rows::optional_text(row, "url")?,
        resolved_hours: rows::optional_number(row, "resolved_hours")?,
        created_at: rows::optional_time(row, "created_at")?,
    })
}
