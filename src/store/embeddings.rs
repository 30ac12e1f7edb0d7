//! Vectors: a cache for the memory's items, so that a rebuild of the index does not compute them again, and one of each
//! ticket, for the desk's search by meaning.

use std::collections::HashMap;

use half::f16;
use sqlx::AnyConnection;
use sqlx::Row;
use uuid::Uuid;

use super::rows::{self, now_ms};
use super::statement::Statement;
use super::{Store, StoreError};

/// Below SQLite's limit of 32,766 bound values.
const KEYS_PER_QUERY: usize = 1000;

/// A vector to be kept.
#[derive(Clone, Debug)]
pub struct NewEmbedding<'a> {
    /// SHA-256 (hexadecimal) of the model's name, the role and the text.
    pub key: &'a str,
    /// The memory item whose text it is, so that [`Store::forget`] deletes it too.
    pub memory_id: Option<&'a str>,
    /// Kept as 16-bit floats: a unit vector comes back within 0.0005 of each component.
    pub vector: &'a [f32],
}

impl Store {
    /// The kept vectors, in the order of `keys`; None where there is none.
    pub async fn cached_embeddings(&self, keys: &[String]) -> Result<Vec<Option<Vec<f32>>>, StoreError> {
        let mut found: HashMap<String, Vec<f32>> = HashMap::with_capacity(keys.len());
        for chunk in keys.chunks(KEYS_PER_QUERY) {
            let mut query = Statement::new("SELECT content_key, vector FROM embeddings WHERE content_key IN (");
            query.push_list(chunk).push(")");
            for row in query.build().fetch_all(&self.reader).await? {
                let vector: Vec<u8> = row.try_get("vector")?;
                found.insert(rows::text(&row, "content_key")?, decode(&vector));
            }
        }
        // Cloned rather than taken out: the same text, and so the same key, may be asked for twice.
        Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
    }

    /// Keeps vectors; a key that is there already keeps its vector.
    pub async fn store_embeddings(&self, embeddings: &[NewEmbedding<'_>]) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        for embedding in embeddings {
            sqlx::query(
                "INSERT INTO embeddings (content_key, memory_id, dimensions, vector) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (content_key) DO NOTHING",
            )
            .bind(embedding.key)
            .bind(embedding.memory_id)
            .bind(i64::try_from(embedding.vector.len()).unwrap_or(i64::MAX))
            .bind(encode(embedding.vector))
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

/// Keeps the vector of what a ticket asks, in place of an earlier one.
pub(super) async fn keep_ticket_vector(
    conn: &mut AnyConnection,
    ticket: Uuid,
    model: &str,
    vector: &[f32],
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO ticket_vectors (ticket_id, model, vector, updated_at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (ticket_id) DO UPDATE SET model = excluded.model, vector = excluded.vector, \
                                              updated_at = excluded.updated_at",
    )
    .bind(ticket.to_string())
    .bind(model)
    .bind(encode(vector))
    .bind(now_ms())
    .execute(conn)
    .await?;
    Ok(())
}

fn encode(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()
}

pub(super) fn decode(bytes: &[u8]) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<2>();
    values.iter().map(|value| f16::from_le_bytes(*value).to_f32()).collect()
}
