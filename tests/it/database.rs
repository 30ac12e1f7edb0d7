//! A PostgreSQL database that goes away: what is said meanwhile, and what was accepted before.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Client, Postgres, Reply, Service, embedding_model, sent_messages};

const REQUEST: &str = "my page does not load since yesterday";
/// A connection is waited for five seconds.
const SAID_WITHIN: Duration = Duration::from_secs(10);
/// A database that is back is found within seconds; the rest is for a busy machine.
const BACK_WITHIN: Duration = Duration::from_secs(60);

fn is_unavailable(reply: &Reply) {
    let detail = reply.problem(503);
    assert!(detail.contains("database"), "{detail}");
    let wait: u64 = reply.header("retry-after").parse().expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
}

/// What `/readyz` says of the store.
fn store_part(client: &Client) -> (u16, bool) {
    let reply = client.get("/readyz");
    let ready: Value = reply.json();
    let parts = ready["parts"].as_array().expect("parts").clone();
    let store = parts.into_iter().find(|part| part["name"] == "store").expect("the store");
    (reply.status, store["ready"] == true)
}

/// What is asked while the database is gone.
fn while_it_is_gone(client: &Client, ticket: &str) {
    let started = Instant::now();
    is_unavailable(&client.post("/v1/tickets", &json!({ "body": REQUEST })));
    let first = started.elapsed();
    let started = Instant::now();
    is_unavailable(&client.get(&format!("/v1/tickets/{ticket}")));
    is_unavailable(&client.get("/v1/queue"));
    // The quicker of them: one may stand in line on a machine that stands still.
    let soon = first.min(started.elapsed() / 2);
    assert!(soon < SAID_WITHIN, "{soon:?}");
    assert_eq!(store_part(client), (503, false));
    assert_eq!(client.get("/healthz").status, 200);
}

#[test]
fn a_database_that_goes_away_is_said_and_work_goes_on_when_it_is_back() {
    let (Some(_), Some(postgres)) = (embedding_model(), Postgres::start()) else { return };
    let data = tempfile::tempdir().expect("temporary folder");
    let env = [("RESPONDO_DATABASE__URL", postgres.url()), ("RESPONDO_DRAFT__DEADLINE_SECONDS", "600")];
    let service = Service::on(data.path(), &env);
    let client = service.client();
    let before = client.worked_ticket(REQUEST);
    assert_eq!(store_part(&client), (200, true));

    let late = client.open_ticket(&format!("{REQUEST}, and nobody answers"));
    postgres.crash();
    while_it_is_gone(&client, &late);
    assert!(!service.said().contains("panicked"), "{}", service.said());

    postgres.start_again();
    let started = Instant::now();
    let taken = loop {
        let reply = client.post("/v1/tickets", &json!({ "body": REQUEST }));
        if reply.status == 201 {
            break reply.json();
        }
        is_unavailable(&reply);
        assert!(started.elapsed() < BACK_WITHIN, "{}", service.said());
        std::thread::sleep(Duration::from_millis(200));
    };
    assert_eq!(store_part(&client), (200, true));
    // What was accepted before the crash was on the database's disk, and is worked on once.
    for id in [&json!(late), &taken["ticket_id"], &before["ticket"]["id"]] {
        let view = client.worked(id.as_str().expect("an id"));
        assert_eq!(sent_messages(&view).len(), 1, "one message to the customer: {view}");
    }
    service.stop();
}
