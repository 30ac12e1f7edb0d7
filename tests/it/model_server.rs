//! Model servers that fail: the customer gets a word in any case, and a server that is back is used again.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::model_server::{Answer, FakeServer, Then, piece};
use crate::support::{Client, Service, memory, run, sent_messages};

/// A resolved ticket, the request that it answers, and what a model could make of the two.
const SOLVED: &str = concat!(
    r#"{"id": "calendar-1", "lang": "en", "product": "hosting", "subject": "calendar sync error VRTX-77", "#,
    r#""body": "since yesterday the shared calendar does not sync any more, error VRTX-77", "is_solved": true, "#,
    r#""answer": "Open Panel > Calendar > Sync and press Reset. Then wait two minutes and open the calendar again.", "#,
    r#""answer_kind": "accepted"}"#
);
const REQUEST: &str = "our shared calendar stopped syncing, it shows error VRTX-77. what can we do?";
const REPLY: &str = "Open Panel > Calendar > Sync and press Reset. Then wait two minutes and open the calendar again.";
/// Longest wait for something to turn: a rest of the server lasts a minute at most.
const LIMIT: Duration = Duration::from_secs(240);

/// A service that asks a server, with the ticket in its memory and no local model. None without the embedding model.
fn asking(server: &FakeServer, more: &[(&str, &str)]) -> Option<Service> {
    let folder = memory()?;
    let file = folder.path().join("solved.jsonl");
    std::fs::write(&file, SOLVED).expect("written");
    run(folder.path(), &[], &["ingest", file.to_str().expect("UTF-8"), "--as", "tickets"]).ok();
    let url = server.url();
    let mut env = vec![
        ("RESPONDO_GENERATION__KIND", "openai"),
        ("RESPONDO_GENERATION__URL", url.as_str()),
        ("RESPONDO_GENERATION__MODEL", "served-model"),
        ("RESPONDO_GENERATION__API_KEY", "key-of-the-model-server"),
        ("RESPONDO_GENERATION__FALLBACK", "none"),
        ("RESPONDO_GENERATION__SILENCE_SECONDS", "2"),
        ("RESPONDO_DRAFT__DEADLINE_SECONDS", "60"),
    ];
    env.extend_from_slice(more);
    Some(Service::in_folder(folder, &env))
}

fn draft(view: &Value) -> &Value {
    &view["drafts"][0]["draft"]
}

/// Asks until a ticket's view, or what the service says of itself, is as wanted; every customer has got one message.
fn until(client: &Client, what: &str, wanted: impl Fn(&Value, &str) -> bool) {
    let started = Instant::now();
    loop {
        let view = client.worked_ticket(REQUEST);
        assert_eq!(sent_messages(&view).len(), 1, "{view}");
        let ready = client.get("/readyz").body;
        if wanted(&view, &ready) {
            return;
        }
        assert!(started.elapsed() < LIMIT, "{what} does not happen: {ready}\n{view}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn replies_go_on_while_the_model_server_fails_dies_and_comes_back() {
    let server = FakeServer::start(Answer::reply(REPLY));
    let Some(service) = asking(&server, &[]) else { return };
    let client = service.client();
    let view = client.worked_ticket(REQUEST);
    assert_eq!(draft(&view)["kind"], "generated", "{view}");
    assert_eq!(draft(&view)["model"], "served-model");
    assert_eq!(sent_messages(&view).len(), 1);
    assert!(!client.get("/readyz").body.contains("rests"));

    // Nonsense, silence and a connection cut in the middle: each time another reply stands.
    for wrong in [
        Answer::status(500, "out of memory, key-of-the-model-server"),
        Answer { bytes: Vec::new(), then: Then::Hang },
        Answer::stream(piece("Open Panel").as_bytes(), Then::Close),
        Answer::stream(b"data: <html>", Then::Repeat(vec![b'x'; 1 << 16])),
    ] {
        server.set(wrong);
        let view = client.worked_ticket(REQUEST);
        assert_ne!(draft(&view)["kind"], "generated", "{view}");
        assert_eq!(sent_messages(&view).len(), 1, "{view}");
    }
    until(&client, "a rest", |_, ready| ready.contains("rests for") && ready.contains("replies are extractive"));

    let address = server.address();
    drop(server);
    let view = client.worked_ticket(REQUEST);
    assert_ne!(draft(&view)["kind"], "generated", "{view}");
    assert_eq!(sent_messages(&view).len(), 1, "{view}");
    assert_eq!(client.get("/readyz").status, 200, "requests are still answered");

    let _back = FakeServer::start_at(address, Answer::reply(REPLY));
    until(&client, "a generated reply", |view, _| draft(view)["kind"] == "generated");
    let said = service.said();
    assert!(!said.contains("key-of-the-model-server") && !said.contains("panicked"), "{said}");
    service.stop();
}

#[test]
fn a_server_outside_reads_no_personal_data_and_the_reply_has_it() {
    let server = FakeServer::start(Answer::reply(REPLY));
    // The server is on this machine, so it is masked only where the setting says so.
    let Some(service) = asking(&server, &[("RESPONDO_GENERATION__MASK", "always")]) else { return };
    let body = format!("{REQUEST} write to marisol.ferrer@correo.example or call +34 612 345 678, please");
    let view = service.client().worked_ticket(&body);
    assert_eq!(draft(&view)["kind"], "generated", "{view}");
    let asked = server.requests().concat();
    assert!(asked.contains("[EMAIL_1]") && asked.contains("[PHONE_1]"), "{asked}");
    assert!(!asked.contains("marisol.ferrer") && !asked.contains("612 345 678"), "{asked}");
    service.stop();
}

#[test]
fn without_its_embedding_server_the_service_starts_and_customers_are_acknowledged() {
    let Some(folder) = memory() else { return };
    let server = FakeServer::start(Answer::status(500, "no such model"));
    let url = server.url();
    let env = [
        ("RESPONDO_EMBEDDING__KIND", "openai"),
        ("RESPONDO_EMBEDDING__URL", url.as_str()),
        ("RESPONDO_EMBEDDING__MODEL", "another-model"),
        ("RESPONDO_EMBEDDING__DIMENSIONS", "8"),
    ];
    let service = Service::on(folder.path(), &env);
    let client = service.client();
    for _ in 0..3 {
        assert_eq!(sent_messages(&client.worked_ticket(REQUEST)).len(), 1);
    }
    assert_eq!(client.get("/readyz").status, 200);
    // Another length than the index has is refused, whatever the server says of itself.
    server.set(Answer::status(200, &json!({"data": [{"index": 0, "embedding": [1.0, 2.0]}]}).to_string()));
    assert_eq!(sent_messages(&client.worked_ticket(REQUEST)).len(), 1);
    assert!(!service.said().contains("panicked"), "{}", service.said());
    service.stop();
    // With the model that it was filled with, the memory is found again.
    let service = Service::on(folder.path(), &[]);
    let started = Instant::now();
    while !service.client().search("gmail rejects mail 550-5.7.26 SPF did not pass").contains(&"nb-1048".to_owned()) {
        assert!(started.elapsed() < LIMIT, "{}", service.said());
        std::thread::sleep(Duration::from_millis(100));
    }
    service.stop();
}
