//! Everything from one store into another, empty one: from SQLite to PostgreSQL and back.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Column, Executor, Row, TypeInfo, ValueRef};

use super::statement::Statement;
use super::{Dialect, Store, StoreError};

/// Rows read and written at a time.
const PAGE: i64 = 500;

/// A table with a column, or several, that its rows can be walked along by.
struct Table {
    name: &'static str,
    key: &'static [&'static str],
}

/// In an order in which no row points at one that is not there yet. Words for the search are made by the receiving store.
const TABLES: [Table; 22] = [
    Table { name: "customers", key: &["id"] },
    Table { name: "agents", key: &["id"] },
    Table { name: "sessions", key: &["token_sha256"] },
    Table { name: "secrets", key: &["name"] },
    Table { name: "saved_views", key: &["agent_id", "name"] },
    Table { name: "api_keys", key: &["id"] },
    Table { name: "tickets", key: &["id"] },
    Table { name: "messages", key: &["id"] },
    Table { name: "attachments", key: &["id"] },
    Table { name: "triages", key: &["ticket_id", "position"] },
    Table { name: "drafts", key: &["id"] },
    Table { name: "decisions", key: &["id"] },
    Table { name: "outcomes", key: &["draft_id"] },
    Table { name: "outbox", key: &["id"] },
    Table { name: "events", key: &["ticket_id", "seq"] },
    Table { name: "idempotency_keys", key: &["scope", "key"] },
    Table { name: "audit", key: &["id"] },
    Table { name: "memory_items", key: &["seq"] },
    Table { name: "embeddings", key: &["content_key"] },
    Table { name: "ticket_vectors", key: &["ticket_id"] },
    Table { name: "past_figures", key: &["day", "queue", "what"] },
    Table { name: "erasures", key: &["customer_hash"] },
];
const CORRECTIONS: Table = Table { name: "corrections", key: &["id"] };

/// A value of a row, with its type where it is missing.
enum Value {
    Integer(Option<i64>),
    Number(Option<f64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

impl Store {
    /// Copies everything into `target`, which must be empty, in one transaction, and tells the rows of each table as it goes
    /// on. Ids, times, the audit trail with its hashes and the keys of links stay what they are. The memory waits to be
    /// indexed, since the index is another one. Nobody may write to this store meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the target is not empty.
    pub async fn copy_into(&self, target: &Self, mut tell: impl FnMut(&str, u64)) -> Result<(), StoreError> {
        let mut reading = self.read().await?;
        let mut writing = target.write().await?;
        // A merged ticket may point at one that comes later.
        let later = match target.dialect {
            Dialect::Sqlite => "PRAGMA defer_foreign_keys = ON",
            Dialect::Postgres => "SET CONSTRAINTS ALL DEFERRED",
        };
        writing.execute(later).await?;
        for table in TABLES.iter().chain([&CORRECTIONS]) {
            let query = format!("SELECT 1 FROM {} LIMIT 1", table.name);
            if sqlx::query(&query).fetch_optional(&mut *writing).await?.is_some() {
                let place = target.path().display();
                return Err(StoreError::Conflict(format!("{place} has {} already; choose an empty one", table.name)));
            }
        }
        for table in TABLES.iter().chain([&CORRECTIONS]) {
            let rows = copy_table(&mut reading, self.dialect, &mut writing, table).await?;
            tell(table.name, rows);
        }
        sqlx::query("UPDATE memory_items SET indexed = 0, index_generation = NULL").execute(&mut *writing).await?;
        sqlx::query("UPDATE tickets SET worker = NULL, worked_until = NULL").execute(&mut *writing).await?;
        if target.dialect == Dialect::Postgres {
            for (table, column) in [("memory_items", "seq"), ("corrections", "id")] {
                let next = format!(
                    "SELECT setval(pg_get_serial_sequence('{table}', '{column}'), \
                            GREATEST((SELECT COALESCE(MAX({column}), 0) FROM {table}), 1))"
                );
                sqlx::query(&next).execute(&mut *writing).await?;
            }
        }
        writing.commit().await?;
        Ok(())
    }
}

async fn copy_table(
    from: &mut AnyConnection,
    dialect: Dialect,
    to: &mut AnyConnection,
    table: &Table,
) -> Result<u64, StoreError> {
    let columns = columns(from, dialect, table).await?;
    let (list, order) = (columns.join(", "), table.key.join(", "));
    let mut copied = 0;
    let mut last: Option<AnyRow> = None;
    loop {
        let mut query = Statement::new(&format!("SELECT {list} FROM {}", table.name));
        if let Some(row) = &last {
            query.push(" WHERE (").push(&order).push(") > (");
            for (index, key) in table.key.iter().enumerate() {
                query.push(if index > 0 { ", " } else { "" });
                bind(&mut query, value(row, key)?);
            }
            query.push(")");
        }
        query.push(" ORDER BY ").push(&order).push(" LIMIT ").push_bind(PAGE);
        let mut rows = query.build().fetch_all(&mut *from).await?;
        for row in &rows {
            insert(to, table.name, &list, row).await?;
        }
        copied += rows.len() as u64;
        match rows.pop() {
            Some(row) => last = Some(row),
            None => return Ok(copied),
        }
    }
}

/// Names of a table's columns.
async fn columns(conn: &mut AnyConnection, dialect: Dialect, table: &Table) -> Result<Vec<String>, StoreError> {
    let query = match dialect {
        Dialect::Sqlite => "SELECT name FROM pragma_table_info($1) ORDER BY cid",
        Dialect::Postgres => {
            "SELECT column_name::text AS name FROM information_schema.columns \
             WHERE table_schema = current_schema() AND table_name = $1 ORDER BY ordinal_position"
        }
    };
    let rows = sqlx::query(query).bind(table.name).fetch_all(conn).await?;
    rows.iter().map(|row| Ok(row.try_get("name")?)).collect()
}

async fn insert(conn: &mut AnyConnection, table: &str, columns: &str, row: &AnyRow) -> Result<(), StoreError> {
    let mut query = Statement::new(&format!("INSERT INTO {table} ({columns}) VALUES ("));
    for (index, column) in row.columns().iter().enumerate() {
        query.push(if index > 0 { ", " } else { "" });
        bind(&mut query, value(row, column.name())?);
    }
    query.push(")");
    query.build().execute(conn).await?;
    Ok(())
}

/// A value by its own type, or where it is missing by its column's: PostgreSQL wants to know what is missing.
fn value(row: &AnyRow, column: &str) -> Result<Value, StoreError> {
    let raw = row.try_get_raw(column)?;
    let own = (!raw.is_null()).then(|| raw.type_info().into_owned());
    let kind = own.unwrap_or_else(|| row.column(column).type_info().clone());
    Ok(match kind.name() {
        "SMALLINT" | "INTEGER" | "BIGINT" => Value::Integer(row.try_get(column)?),
        "REAL" | "DOUBLE" => Value::Number(row.try_get(column)?),
        "BLOB" => Value::Bytes(row.try_get(column)?),
        _ => Value::Text(row.try_get(column)?),
    })
}

fn bind(query: &mut Statement<'_>, value: Value) {
    match value {
        Value::Integer(value) => query.push_bind(value),
        Value::Number(value) => query.push_bind(value),
        Value::Text(value) => query.push_bind(value),
        Value::Bytes(value) => query.push_bind(value),
    };
}
