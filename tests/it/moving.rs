//! `respondo migrate store`: all that is stored, from the data folder to PostgreSQL and back.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Desk, Env, PASSWORD, Postgres, Service, memory, post_form, run};

const REQUEST: &str = "hola, ¿cómo arreglo el SPF? gmail rechaza nuestro correo con 550-5.7.26 y hay dos registros TXT";
/// The index is filled in the background, from vectors that came along; far more than that takes.
const PATIENCE: Duration = Duration::from_secs(240);

/// Figures of a store but for what belongs to its place: its size, and which items its index has.
fn figures(data: &Path, env: Env) -> Value {
    let mut stats: Value = serde_json::from_str(&run(data, env, &["stats", "--json"]).ok()).expect("JSON");
    stats["bytes"] = Value::Null;
    stats["memory"]["unindexed"] = Value::Null;
    stats["memory"]["generations"] = Value::Null;
    stats
}

/// Head of the audit trail, which is whole.
fn trail(data: &Path, env: Env) -> String {
    run(data, env, &["audit", "verify"]).ok()
}

/// What a ticket holds of messages, drafts and decisions.
fn content(view: &Value) -> Value {
    json!([view["ticket"]["state"], view["messages"], view["drafts"], view["decisions"]])
}

/// A service on a moved store: it has the ticket, finds the memory, lets the agent in, and takes a new ticket.
fn serves(data: &Path, env: Env, ticket: &str, wanted: &Value) {
    let service = Service::on(data, env);
    let client = service.client();
    assert_eq!(content(&client.view(ticket)), *wanted);
    let started = Instant::now();
    while !client.search(REQUEST).iter().any(|id| id == "nb-1048") {
        assert!(started.elapsed() < PATIENCE, "the memory is not found: {}", service.said());
        std::thread::sleep(Duration::from_millis(200));
    }
    let form = [("login", "ana"), ("password", PASSWORD)];
    assert_eq!(post_form(&client, "/desk/sign-in", "", &form).status, 303);
    client.worked_ticket(REQUEST);
    service.stop();
}

#[test]
fn a_store_moves_to_postgresql_and_back() {
    let (Some(data), Some(postgres)) = (memory(), Postgres::find()) else { return };
    let schema = format!("moved_{}", Uuid::now_v7().simple());
    let in_server = [("RESPONDO_DATABASE__URL", postgres.url()), ("RESPONDO_DATABASE__SCHEMA", schema.as_str())];
    let service = Service::on(data.path(), &[]);
    let client = service.client();
    Desk::set_up(&service, "Ana");
    let ticket = client.open_ticket(REQUEST);
    client.worked(&ticket);
    let started = Instant::now();
    while figures(data.path(), &[])["outbox_pending"] != 0 {
        assert!(started.elapsed() < PATIENCE, "the reply is not sent: {}", service.said());
        std::thread::sleep(Duration::from_millis(200));
    }
    let wanted = content(&client.view(&ticket));
    service.stop();

    let schema_only: Env = &in_server[1..];
    let said = run(data.path(), schema_only, &["migrate", "store", "--to", postgres.url()]).ok();
    assert!(said.contains("RESPONDO_DATABASE__URL"), "{said}");
    let beside = tempfile::tempdir().expect("temporary folder");
    assert_eq!(figures(beside.path(), &in_server), figures(data.path(), &[]));
    assert_eq!(trail(beside.path(), &in_server), trail(data.path(), &[]));
    // A second copy would mix two stores.
    let error = run(data.path(), schema_only, &["migrate", "store", "--to", postgres.url()]).failed();
    assert!(error.contains("choose an empty one"), "{error}");
    serves(beside.path(), &in_server, &ticket, &wanted);

    let back = tempfile::tempdir().expect("temporary folder");
    let said = run(back.path(), &in_server, &["migrate", "store", "--to", "sqlite"]).ok();
    assert!(said.contains("Empty database.url"), "{said}");
    assert_eq!(figures(back.path(), &[]), figures(beside.path(), &in_server));
    assert_eq!(trail(back.path(), &[]), trail(beside.path(), &in_server));
    serves(back.path(), &[], &ticket, &wanted);
}
