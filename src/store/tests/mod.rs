//! The store against real files.

mod attachments;
mod audit;
mod backup;
mod desk;
mod faults;
mod history;
mod leases;
mod memory;
mod merging;
mod review;
mod tickets;

use std::path::Path;

use tempfile::TempDir;
use uuid::Uuid;

use super::{Accepted, FinishedWork, Idempotency, NewTicket, ReviewAction, Store, StoreError};
use crate::ticket::{
    Action, AnswerKind, Decision, Draft, DraftKind, Language, MemoryItem, MemoryKind, Outcome, Sentence, TicketState,
    Urgency,
};

struct TestStore {
    store: Store,
    dir: TempDir,
}

impl TestStore {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { store: Store::open(dir.path()).await.unwrap(), dir }
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
        let tables: Vec<String> = sqlx::query_scalar(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY 1",
        )
        .fetch_all(&self.store.reader)
        .await
        .unwrap();
        let mut content = Vec::new();
        for table in tables {
            let columns: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info(?)")
                .bind(&table)
                .fetch_all(&self.store.reader)
                .await
                .unwrap();
            let row: Vec<String> = columns.iter().map(|column| format!("quote({column})")).collect();
            let query = format!("SELECT {} FROM {table} ORDER BY 1", row.join(" || '|' || "));
            let rows = sqlx::query_scalar(&query).fetch_all(&self.store.reader).await.unwrap();
            content.push((table, rows));
        }
        content
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
    Decision { action, reasons: vec!["because".into()], skill: None, automatic }
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
