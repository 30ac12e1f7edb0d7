//! The store against real databases: SQLite files, and where `RESPONDO_TEST_POSTGRES_URL` is set (`scripts/with-postgres`
//! sets it) PostgreSQL for every test that is not about files.

mod attachments;
mod audit;
mod backup;
mod desk;
mod faults;
mod history;
mod judgements;
mod keys;
mod leases;
mod memory;
mod merging;
mod personal;
mod retention;
mod review;
mod sharing;
mod tickets;

use std::path::Path;

use tempfile::TempDir;
use uuid::Uuid;

use super::drafts::insert_analysis;
use super::{Accepted, Analysis, Dialect, FinishedWork, Idempotency, NewTicket, ReviewAction, Store, StoreError};
use crate::ticket::{
    Action, AnswerKind, Decision, Draft, DraftKind, Evidence, Language, MemoryItem, MemoryKind, Outcome, Sentence,
    TicketState, Timings, Triage, Urgency,
};

struct TestStore {
    store: Store,
    dir: TempDir,
}

/// Where PostgreSQL is, for this run of the tests.
fn postgres() -> Option<String> {
    std::env::var("RESPONDO_TEST_POSTGRES_URL").ok().filter(|url| !url.is_empty())
}

impl Store {
    /// A judgement alone, without the end of the work that it belongs to.
    async fn save_analysis(
        &self,
        ticket: Uuid,
        triage: &Triage,
        evidence: &[Evidence],
        timings: &Timings,
        vector: Option<(&str, &[f32])>,
    ) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let analysis = Analysis { triage, evidence, timings, vector };
        insert_analysis(&mut tx, ticket, &analysis, super::rows::now_ms()).await?;
        tx.commit().await?;
        Ok(())
    }
}

impl TestStore {
    /// An empty store in the database that this run of the tests is about.
    async fn new() -> Self {
        let Some(url) = postgres() else { return Self::in_file().await };
        let dir = tempfile::tempdir().unwrap();
        let schema = format!("t_{}", Uuid::now_v7().simple());
        Self { store: Store::open_server(&url, &schema).await.unwrap(), dir }
    }

    /// An empty store in a SQLite file, for what PostgreSQL has not: files, and what is done to them.
    async fn in_file() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { store: Store::open(dir.path()).await.unwrap(), dir }
    }

    /// The same store, opened a second time for reading.
    async fn shared(&self) -> Store {
        match &self.store.place.server {
            Some(server) => Store::open_server_shared(&server.url, &server.schema).await.unwrap(),
            None => Store::open_shared(self.path()).await.unwrap(),
        }
    }

    /// The same store, closed and opened again.
    async fn reopened(self) -> Self {
        let Self { store, dir } = self;
        let server = store.place.server.clone();
        store.close().await;
        drop(store);
        let store = match &server {
            Some(server) => Store::open_server(&server.url, &server.schema).await.unwrap(),
            None => Store::open(dir.path()).await.unwrap(),
        };
        Self { store, dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    async fn accept(&self, body: &str) -> Accepted {
        self.store.accept_ticket(new_ticket(body)).await.unwrap()
    }

    /// A ticket whose draft waits for an agent, and that draft.
    async fn in_review(&self, kind: DraftKind) -> (Accepted, Uuid) {
        let accepted = self.accept("Mi web no carga").await;
        let draft_id = self.store.save_draft(accepted.ticket.id, &draft(kind)).await.unwrap();
        let work = FinishedWork { draft_id: Some(draft_id), ..work(&accepted, TicketState::Review) };
        self.store.finish(accepted.ticket.id, work).await.unwrap();
        (accepted, draft_id)
    }

    async fn count(&self, table: &str) -> i64 {
        sqlx::query_scalar(&format!("SELECT COUNT(*) FROM {table}")).fetch_one(&self.store.reader).await.unwrap()
    }

    /// Everything that is in the database, to be compared before and after a failure.
    async fn content(&self) -> Vec<(String, Vec<String>)> {
        let tables: Vec<String> = sqlx::query_scalar(match self.store.dialect {
            Dialect::Sqlite => "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY 1",
            Dialect::Postgres => {
                "SELECT table_name::text FROM information_schema.tables WHERE table_schema = current_schema() ORDER BY 1"
            }
        })
        .fetch_all(&self.store.reader)
        .await
        .unwrap();
        let mut content = Vec::new();
        for table in tables {
            let query = match self.store.dialect {
                Dialect::Postgres => format!("SELECT t::text FROM {table} t ORDER BY 1"),
                Dialect::Sqlite => self.quoted_rows(&table).await,
            };
            let rows = sqlx::query_scalar(&query).fetch_all(&self.store.reader).await.unwrap();
            content.push((table, rows));
        }
        content
    }

    async fn quoted_rows(&self, table: &str) -> String {
        let columns: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info($1)")
            .bind(table)
            .fetch_all(&self.store.reader)
            .await
            .unwrap();
        let row: Vec<String> = columns.iter().map(|column| format!("quote({column})")).collect();
        format!("SELECT {} FROM {table} ORDER BY 1", row.join(" || '|' || "))
    }
}

fn new_ticket(body: &str) -> NewTicket {
    NewTicket {
        customer: Some("ana@example.org".into()),
        channel: "api".into(),
        subject: "Ayuda".into(),
        body: body.into(),
        language: Language::ES,
        product: Some("hosting".into()),
        queue: None,
        idempotency: None,
    }
}

fn key(key: &str, sha: &str) -> Option<Idempotency> {
    Some(Idempotency { key: key.into(), body_sha256: sha.into() })
}

fn draft(kind: DraftKind) -> Draft {
    let text = "Hola, Ana.\nVacíe la caché y pruebe otra vez.".to_owned();
    let sentences = vec![Sentence { text: text.clone(), evidence: vec![1], support: 0.75 }];
    let model = Some("qwen".into());
    Draft { kind, language: Language::ES, text, sentences, evidence: Vec::new(), findings: Vec::new(), model }
}

fn decision(action: Action, automatic: bool) -> Decision {
    Decision { automatic, ..Decision::new(action, vec!["because".into()]) }
}

fn work(accepted: &Accepted, state: TicketState) -> FinishedWork {
    FinishedWork {
        seen_message: accepted.message.id,
        draft_id: None,
        decision: decision(Action::Suggest, false),
        state,
        due_at: None,
        urgency: Some(Urgency::High),
        difficulty: None,
        outgoing: None,
    }
}

fn review(outcome: Outcome, final_text: Option<&str>) -> ReviewAction {
    let final_text = final_text.map(str::to_owned);
    ReviewAction {
        outcome,
        final_text,
        note: None,
        agent: Some("marta".into()),
        skill: None,
        assignee: None,
        remember: None,
        hold: std::time::Duration::ZERO,
    }
}

fn item(id: &str, solution: &str) -> MemoryItem {
    MemoryItem {
        id: id.into(),
        kind: MemoryKind::Ticket,
        language: Language::EN,
        product: Some("mail".into()),
        queue: None,
        title: "Cannot send".into(),
        problem: "It says 550".into(),
        solution: solution.into(),
        answer_kind: Some(AnswerKind::MostHelpful),
        url: None,
        resolved_hours: Some(2.5),
        created_at: Some("2024-05-01T10:00:00Z".parse().unwrap()),
    }
}

fn is_conflict<T>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Conflict(_)))
}
