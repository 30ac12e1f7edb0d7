//! All that is held about one customer: found, read out, and erased.
//!
//! Erasing takes the conversations away with everything that hangs on them; of the memory, the answers learned from them.
//! The audit trail, whose lines name tickets and never a customer, stays and says that somebody was erased: by a salted
//! hash, which only who has the id can tell again.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Value, json};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::removal::{remove_tickets, run};
use super::rows;
use super::statement::Statement;
use super::{Audit, Removed, Store, StoreError, sha256_hex, write_audit};

/// Random bytes in front of an id that is hashed.
const SALT_BYTES: usize = 16;

/// Rows of a ticket that an export holds as they are.
struct Part {
    name: &'static str,
    columns: &'static [&'static str],
    /// Columns of JSON.
    json: &'static [&'static str],
    table: &'static str,
}

const REST: [Part; 5] = [
    Part {
        name: "judgements",
        columns: &["position", "created_at"],
        json: &["triage", "evidence", "timings"],
        table: "triages",
    },
    Part { name: "events", columns: &["seq", "kind", "created_at"], json: &["data"], table: "events" },
    Part {
        name: "corrections",
        columns: &["judgement", "was", "became", "corrector", "created_at"],
        json: &[],
        table: "corrections",
    },
    Part {
        name: "deliveries",
        columns: &["message_id", "status", "attempts", "last_error", "created_at", "sent_at"],
        json: &[],
        table: "outbox",
    },
    Part {
        name: "idempotency_keys",
        columns: &["scope", "key", "message_id", "created_at"],
        json: &[],
        table: "idempotency_keys",
    },
];

/// What is held about a customer, counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// As asked for.
    pub customer: String,
    /// Oldest first; duplicates that were merged are among them.
    pub tickets: Vec<Uuid>,
    pub messages: u64,
    pub files: u64,
    /// Answers that the memory learned from these tickets.
    pub learned: u64,
}

/// How a customer is erased.
#[derive(Clone, Copy, Debug)]
pub struct Erasure<'a> {
    /// Who does it, for the audit trail.
    pub by: &'a str,
    /// Keep the desk's counts by day and queue, which name nobody.
    pub keep_figures: bool,
    /// Only tickets that were opened by then; None for all.
    pub until: Option<Timestamp>,
}

/// A finished erasure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErasureReport {
    /// What the audit trail calls the customer from now on.
    pub customer_hash: String,
    pub tickets: Vec<Uuid>,
    pub removed: Removed,
}

impl Store {
    /// What is held about a customer. `customer` is what the channel calls them, or the id of a ticket that names nobody.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such customer.
    pub async fn held(&self, customer: &str, memory_id: fn(Uuid) -> String) -> Result<Held, StoreError> {
        let mut tx = self.read().await?;
        let tickets = tickets_of(&mut tx, customer, None).await?;
        if tickets.is_empty() && !is_customer(&mut tx, customer).await? {
            return Err(nobody(customer));
        }
        let ids: Vec<String> = tickets.iter().map(Uuid::to_string).collect();
        let learned: Vec<String> = tickets.iter().copied().map(memory_id).collect();
        Ok(Held {
            customer: customer.to_owned(),
            messages: count(&mut tx, "SELECT COUNT(*) AS n FROM messages WHERE ticket_id IN ({ids})", &ids).await?,
            files: count(
                &mut tx,
                "SELECT COUNT(*) AS n FROM attachments a JOIN messages m ON m.id = a.message_id \
                 WHERE m.ticket_id IN ({ids})",
                &ids,
            )
            .await?,
            learned: count(&mut tx, "SELECT COUNT(*) AS n FROM memory_items WHERE id IN ({ids})", &learned).await?,
            tickets,
        })
    }

    /// The tickets of a customer, duplicates that were merged included, oldest first.
    pub async fn tickets_of(&self, customer: &str, until: Option<Timestamp>) -> Result<Vec<Uuid>, StoreError> {
        tickets_of(&mut *self.reader.acquire().await?, customer, until).await
    }

    /// Deletes items of the memory and their cached vectors, those that are there; gives how many items.
    pub async fn forget_learned(&self, memory_ids: &[String]) -> Result<u64, StoreError> {
        let mut tx = self.write().await?;
        let mut forgotten = 0;
        for ids in memory_ids.chunks(1_000) {
            forgotten += run(&mut tx, "DELETE FROM memory_items WHERE id IN ({ids})", ids).await?;
            run(&mut tx, "DELETE FROM embeddings WHERE memory_id IN ({ids})", ids).await?;
        }
        tx.commit().await?;
        Ok(forgotten)
    }

    /// Deletes a customer's tickets and all that refers to them, and the customer where no ticket is left. The memory is
    /// not touched, see [`Store::forget_learned`]; nor is the file's free space, see [`Store::fold`].
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such customer.
    pub async fn erase_customer(&self, customer: &str, erasure: Erasure<'_>) -> Result<ErasureReport, StoreError> {
        let mut tx = self.write().await?;
        let tickets = tickets_of(&mut tx, customer, erasure.until).await?;
        if tickets.is_empty() && !is_customer(&mut tx, customer).await? {
            return Err(nobody(customer));
        }
        let removed = remove_tickets(&mut tx, self.dialect, &tickets, erasure.keep_figures).await?;
        sqlx::query("DELETE FROM idempotency_keys WHERE scope = $1")
            .bind(format!("customer/{customer}"))
            .execute(&mut *tx)
            .await?;
        sqlx::query("DELETE FROM customers WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM tickets WHERE customer = $1)")
            .bind(customer)
            .execute(&mut *tx)
            .await?;
        let now = rows::now_ms();
        let salt = salt()?;
        let customer_hash = hash(&salt, customer);
        sqlx::query("INSERT INTO erasures (customer_hash, salt, erased_at) VALUES ($1, $2, $3)")
            .bind(&customer_hash)
            .bind(&salt)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        let detail = json!({ "removed": removed, "tickets": tickets, "figures_kept": erasure.keep_figures });
        let subject = Some(customer_hash.clone());
        let entry = Audit { actor: erasure.by, action: "customer erased", ticket_id: None, subject, detail };
        write_audit(&mut tx, entry, now).await?;
        tx.commit().await?;
        Ok(ErasureReport { customer_hash, tickets, removed })
    }

    /// Customers who were erased and of whom there are tickets from before that, as after a restore; with the time of their
    /// last erasure.
    pub async fn erased_before(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        let mut tx = self.read().await?;
        let erasures = sqlx::query("SELECT customer_hash, salt, erased_at FROM erasures ORDER BY erased_at DESC")
            .fetch_all(&mut *tx)
            .await?;
        if erasures.is_empty() {
            return Ok(Vec::new());
        }
        // Tickets that name nobody are erased by their own id.
        let known =
            sqlx::query("SELECT COALESCE(customer, id) AS id, MIN(created_at) AS since FROM tickets GROUP BY 1")
                .fetch_all(&mut *tx)
                .await?;
        let mut found = Vec::new();
        for row in &known {
            let (customer, since) = (rows::text(row, "id")?, rows::time(row, "since")?);
            for erasure in &erasures {
                let erased_at = rows::time(erasure, "erased_at")?;
                if hash(&rows::text(erasure, "salt")?, &customer) == rows::text(erasure, "customer_hash")? {
                    if since <= erased_at {
                        found.push((customer, erased_at));
                    }
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Says in the audit trail that a customer's tickets were read out.
    pub async fn note_export(&self, tickets: &[Uuid], by: &str) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let detail = json!({ "tickets": tickets });
        let entry = Audit { actor: by, action: "customer exported", ticket_id: None, subject: None, detail };
        write_audit(&mut tx, entry, rows::now_ms()).await?;
        tx.commit().await?;
        Ok(())
    }

    /// What [`Store::ticket_view`] leaves out of a ticket: earlier judgements, events, corrections, deliveries, keys.
    pub async fn rest_of_ticket(&self, ticket: Uuid) -> Result<Value, StoreError> {
        let mut tx = self.read().await?;
        let id = ticket.to_string();
        let mut rest = serde_json::Map::new();
        for Part { name, columns, json, table } in &REST {
            let all: Vec<&str> = columns.iter().chain(*json).copied().collect();
            let query = format!("SELECT {} FROM {table} WHERE ticket_id = $1 ORDER BY created_at", all.join(", "));
            let found = sqlx::query(&query).bind(&id).fetch_all(&mut *tx).await?;
            let rows: Result<Vec<Value>, StoreError> = found.iter().map(|row| as_json(row, columns, json)).collect();
            rest.insert((*name).to_owned(), Value::from(rows?));
        }
        Ok(Value::Object(rest))
    }
}

/// A row as JSON; times as they are stored.
fn as_json(row: &AnyRow, columns: &[&str], json: &[&str]) -> Result<Value, StoreError> {
    let mut fields = serde_json::Map::new();
    for column in columns {
        let text = rows::optional_text(row, column).map(Value::from);
        let value = text.or_else(|_| rows::optional_integer(row, column).map(Value::from))?;
        fields.insert((*column).to_owned(), value);
    }
    for column in json {
        fields.insert((*column).to_owned(), rows::json(row, column)?);
    }
    Ok(Value::Object(fields))
}

fn nobody(customer: &str) -> StoreError {
    StoreError::NotFound(format!(
        "customer {customer:?}; give the id as the channel does, or that of an anonymous ticket"
    ))
}

async fn is_customer(conn: &mut AnyConnection, customer: &str) -> Result<bool, StoreError> {
    let found = sqlx::query("SELECT 1 FROM customers WHERE id = $1").bind(customer).fetch_optional(conn).await?;
    Ok(found.is_some())
}

async fn count(conn: &mut AnyConnection, sql: &str, ids: &[String]) -> Result<u64, StoreError> {
    let mut counted = 0;
    for ids in ids.chunks(1_000) {
        let mut query = Statement::new("");
        let (before, after) = sql.split_once("{ids}").unwrap_or((sql, ""));
        query.push(before).push_list(ids.iter().map(String::as_str)).push(after);
        counted += rows::count(&query.build().fetch_one(&mut *conn).await?, "n")?;
    }
    Ok(counted)
}

/// The customer's tickets, and those that share a conversation with one of them by merging, unless they name somebody else.
async fn tickets_of(
    conn: &mut AnyConnection,
    customer: &str,
    until: Option<Timestamp>,
) -> Result<Vec<Uuid>, StoreError> {
    let until = until.map_or(i64::MAX, |until| until.as_millisecond());
    let own = "SELECT id FROM tickets WHERE created_at <= $2 AND (customer = $1 OR (customer IS NULL AND id = $1))";
    let found = sqlx::query(own).bind(customer).bind(until).fetch_all(&mut *conn).await?;
    let mut tickets: HashSet<Uuid> = HashSet::new();
    let mut new: Vec<Uuid> = found.iter().map(|row| rows::id(row, "id")).collect::<Result<_, _>>()?;
    while !new.is_empty() {
        tickets.extend(new.iter().copied());
        let mut next = Vec::new();
        for ids in new.chunks(1_000) {
            let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
            let mut query = Statement::new("SELECT id FROM tickets WHERE (customer IS NULL OR customer = ");
            query.push_bind(customer).push(") AND (merged_into IN (");
            query.push_list(ids.iter().map(String::as_str));
            query.push(") OR id IN (SELECT merged_into FROM tickets WHERE id IN (");
            query.push_list(ids.iter().map(String::as_str)).push(")))");
            for row in query.build().fetch_all(&mut *conn).await? {
                next.push(rows::id(&row, "id")?);
            }
        }
        next.retain(|id| !tickets.contains(id));
        new = next;
    }
    let mut tickets: Vec<Uuid> = tickets.into_iter().collect();
    // Numbered as they came in.
    tickets.sort_unstable();
    Ok(tickets)
}

fn hash(salt: &str, customer: &str) -> String {
    sha256_hex(format!("{salt}{customer}"))
}

fn salt() -> Result<String, StoreError> {
    let mut bytes = [0; SALT_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| StoreError::Other(format!("no random numbers: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
