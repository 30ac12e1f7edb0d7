//! Copies of memory items inside stored JSON (evidence of judgements, drafts and events), and how their texts are taken out.

use std::collections::HashSet;

use serde_json::Value;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::rows;
use super::statement::Statement;
use super::{Store, StoreError};

/// Rows read at once; each is some tens of kilobytes at most.
const PAGE: i64 = 200;
/// What a memory item is written in.
const TEXTS: [&str; 6] = ["title", "text", "url", "problem", "solution", "passage"];

/// A column of JSON that may hold evidence, and the columns that name its row.
struct Place {
    table: &'static str,
    column: &'static str,
    key: [&'static str; 2],
}

const PLACES: [Place; 3] = [
    Place { table: "triages", column: "evidence", key: ["ticket_id", "position"] },
    Place { table: "drafts", column: "evidence", key: ["ticket_id", "position"] },
    Place { table: "events", column: "data", key: ["ticket_id", "seq"] },
];

/// Empties the texts of evidence whose memory id `of` says so; true when there was one. What it was and how close it was
/// stays.
pub fn blank_evidence(value: &mut Value, of: &impl Fn(&str) -> bool) -> bool {
    match value {
        Value::Array(values) => values.iter_mut().fold(false, |any, value| blank_evidence(value, of) | any),
        Value::Object(fields) => {
            // As the store keeps evidence, or as the search gives it.
            let named = fields.get("memory_id").and_then(Value::as_str).is_some_and(of);
            let item = fields.get("item").and_then(|item| item.get("id")).and_then(Value::as_str).is_some_and(of);
            let own = named || item;
            let mut any = own;
            for (name, field) in fields.iter_mut() {
                if own && TEXTS.contains(&name.as_str()) && field.is_string() {
                    *field = Value::from("");
                } else if item && name == "item" {
                    empty_texts(field);
                } else {
                    any |= blank_evidence(field, of);
                }
            }
            any
        }
        _ => false,
    }
}

fn empty_texts(item: &mut Value) {
    for name in TEXTS {
        if let Some(text) = item.get_mut(name).filter(|text| text.is_string()) {
            *text = Value::from("");
        }
    }
}

impl Store {
    /// Takes the texts of these memory items out of what they were evidence for in any ticket; gives the number of rows.
    /// Page by page, so that others can write meanwhile; repeating it does no harm.
    pub async fn blank_evidence_of(&self, memory_ids: &[String]) -> Result<u64, StoreError> {
        let wanted: HashSet<&str> = memory_ids.iter().map(String::as_str).collect();
        let Some(shared) = shared_start(memory_ids) else { return Ok(0) };
        let mut blanked = 0;
        for place in &PLACES {
            let mut after = (String::new(), 0);
            loop {
                let rows = self.page(place, &shared, &after).await?;
                let Some(last) = rows.last() else { break };
                after = key_of(place, last)?;
                blanked += self.blank_rows(place, &rows, &wanted).await?;
            }
        }
        Ok(blanked)
    }

    /// Rows behind `after` that name an id beginning with `shared`.
    async fn page(&self, place: &Place, shared: &str, after: &(String, i64)) -> Result<Vec<AnyRow>, StoreError> {
        let Place { table, column, key: [ticket, number] } = place;
        let mut query =
            Statement::new(&format!("SELECT {ticket}, {number}, {column} FROM {table} WHERE {column} LIKE "));
        query.push_bind(format!("%{shared}%")).push(format_args!(" AND ({ticket}, {number}) > ("));
        query.push_bind(after.0.as_str()).push(", ").push_bind(after.1);
        query.push(format_args!(") ORDER BY {ticket}, {number} LIMIT ")).push_bind(PAGE);
        Ok(query.build().fetch_all(&self.reader).await?)
    }

    async fn blank_rows(&self, place: &Place, rows: &[AnyRow], wanted: &HashSet<&str>) -> Result<u64, StoreError> {
        let mut changed = Vec::new();
        for row in rows {
            let mut value: Value = rows::json(row, place.column)?;
            if blank_evidence(&mut value, &|id| wanted.contains(id)) {
                changed.push((key_of(place, row)?, value.to_string()));
            }
        }
        if changed.is_empty() {
            return Ok(0);
        }
        let mut tx = self.write().await?;
        for (key, value) in &changed {
            write_back(&mut tx, place, key, value).await?;
        }
        tx.commit().await?;
        Ok(changed.len() as u64)
    }
}

fn key_of(place: &Place, row: &AnyRow) -> Result<(String, i64), StoreError> {
    let [ticket, number] = place.key;
    Ok((rows::text(row, ticket)?, rows::integer(row, number)?))
}

async fn write_back(
    conn: &mut AnyConnection,
    place: &Place,
    key: &(String, i64),
    value: &str,
) -> Result<(), StoreError> {
    let Place { table, column, key: [ticket, number] } = place;
    sqlx::query(&format!("UPDATE {table} SET {column} = $1 WHERE {ticket} = $2 AND {number} = $3"))
        .bind(value)
        .bind(&key.0)
        .bind(key.1)
        .execute(conn)
        .await?;
    Ok(())
}

/// What all the ids begin with, free of what `LIKE` would take for a pattern; none without an id.
fn shared_start(ids: &[String]) -> Option<String> {
    let first = ids.first()?;
    let length = ids.iter().fold(first.len(), |length, id| {
        first.bytes().zip(id.bytes()).take(length).take_while(|(one, other)| one == other).count()
    });
    let plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
    Some(first.chars().take(length).take_while(plain).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_of_named_items_are_emptied_wherever_they_stand() {
        let mut value = json!({
            "draft": { "evidence": [
                { "index": 1, "memory_id": "a", "title": "T", "text": "X", "url": null, "score": 0.5 },
                { "index": 2, "memory_id": "b", "title": "T", "text": "X" },
            ], "text": "the reply" },
            "found": [{ "item": { "id": "a", "title": "T", "problem": "P", "solution": "S" }, "passage": "S" }],
        });
        assert!(blank_evidence(&mut value, &|id| id == "a"));
        let emptied = json!({
            "draft": { "evidence": [
                { "index": 1, "memory_id": "a", "title": "", "text": "", "url": null, "score": 0.5 },
                { "index": 2, "memory_id": "b", "title": "T", "text": "X" },
            ], "text": "the reply" },
            "found": [{ "item": { "id": "a", "title": "", "problem": "", "solution": "" }, "passage": "" }],
        });
        assert_eq!(value, emptied);
        assert!(!blank_evidence(&mut value, &|id| id == "c"));
        assert_eq!(value, emptied);
    }

    #[test]
    fn rows_are_looked_for_by_what_the_ids_share() {
        let ids = |ids: &[&str]| shared_start(&ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>());
        assert_eq!(ids(&["ticket-12", "ticket-19"]).as_deref(), Some("ticket-1"));
        assert_eq!(ids(&["tick_et"]).as_deref(), Some("tick"));
        assert_eq!(ids(&["ñ", "ña"]).as_deref(), Some(""));
        assert_eq!(ids(&[]), None);
    }
}
