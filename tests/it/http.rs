//! The customers' side of the HTTP API.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Client, Event, Service, command, memory, sent_messages, shared};

const REQUEST: &str =
    "hola, al importar el .sql en phpmyadmin me da #1273 Cotejamiento desconocido: 'utf8mb4_0900_ai_ci'";

fn kinds(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.kind.as_str()).collect()
}

/// Sequence number and token number of an event's id.
fn order(event: &Event) -> (i64, u32) {
    let (kept, token) = event.id.split_once('.').unwrap_or((&event.id, "0"));
    (kept.parse().expect("number"), token.parse().expect("number"))
}

/// One call, and the status it got.
type Asked<'a> = &'a dyn Fn(&Client) -> u16;

#[test]
fn a_new_ticket_is_created_with_its_place() {
    let Some(service) = shared() else { return };
    let body =
        json!({ "body": REQUEST, "subject": "importar", "customer": "c-1", "product": "hosting", "queue": "web" });
    let reply = service.client().post("/v1/tickets", &body);
    assert_eq!(reply.status, 201, "{}", reply.body);
    let accepted = reply.json();
    let id = accepted["ticket_id"].as_str().expect("id");
    assert_eq!(reply.header("location"), format!("/v1/tickets/{id}"));
    assert_eq!(accepted["ticket"], reply.header("location"));
    assert_eq!(accepted["events"], format!("/v1/tickets/{id}/events"));
    assert_eq!(
        (&accepted["state"], &accepted["language"], &accepted["replayed"]),
        (&json!("received"), &json!("es"), &json!(false))
    );
    let ticket = &service.client().worked(id)["ticket"];
    assert_eq!(
        (&ticket["customer"], &ticket["product"], &ticket["queue"]),
        (&json!("c-1"), &json!("hosting"), &json!("web"))
    );
}

#[test]
fn events_of_a_ticket_come_in_the_order_of_the_work() {
    let Some(service) = shared() else { return };
    let client = service.client();
    let id = client.open_ticket(REQUEST);
    let events = client.events_until(&id, None, "message");
    assert_eq!(kinds(&events), ["received", "evidence", "triage", "extractive", "draft", "decision", "message"]);
    assert!(events.windows(2).all(|pair| order(&pair[0]) < order(&pair[1])), "ids do not ascend");
    assert_eq!(events[0].data["body"], REQUEST);
    assert!(!events[1].data.as_array().expect("evidence").is_empty());
    assert!(events[6].data["body"].as_str().is_some_and(|body| !body.is_empty()));
}

#[test]
fn a_reader_that_comes_back_gets_only_what_it_missed() {
    let Some(service) = shared() else { return };
    let client = service.client();
    let id = client.open_ticket(REQUEST);
    let all = client.events_until(&id, None, "message");
    for seen in 0..all.len() - 1 {
        let rest = client.events_until(&id, Some(&all[seen].id), "message");
        assert_eq!(rest, all[seen + 1..], "after {}", all[seen].kind);
    }
}

#[test]
fn a_ticket_shows_everything_about_it() {
    let Some(service) = shared() else { return };
    let view = service.client().worked_ticket(REQUEST);
    assert_eq!(view["ticket"]["state"], "review");
    for judgement in ["urgency", "difficulty", "next"] {
        let probability = view["triage"][judgement]["probability"].as_f64().expect("probability");
        assert!((0.0..=1.0).contains(&probability), "{judgement}: {probability}");
    }
    let evidence = view["evidence"].as_array().expect("evidence");
    assert!(
        evidence.iter().any(|item| item["memory_id"] == "nb-1153" || item["memory_id"] == "databases"),
        "{evidence:?}"
    );
    assert_eq!(view["drafts"].as_array().map(Vec::len), Some(1));
    assert_eq!(view["drafts"][0]["status"], "open");
    assert_eq!(view["drafts"][0]["draft"]["kind"], "extractive");
    assert_eq!(view["decisions"].as_array().map(Vec::len), Some(1));
    assert!(!view["decisions"][0]["decision"]["reasons"].as_array().expect("reasons").is_empty());
    assert!(view["timings"]["total_ms"].as_f64().is_some_and(|ms| ms > 0.0));
    assert_eq!(sent_messages(&view).len(), 1, "one acknowledgement: {view}");
}

#[test]
fn a_further_message_reopens_the_ticket() {
    let Some(service) = shared() else { return };
    let client = service.client();
    let first = client.worked_ticket(REQUEST);
    let id = first["ticket"]["id"].as_str().expect("id");
    let reply =
        client.post(&format!("/v1/tickets/{id}/messages"), &json!({ "body": "la base es MySQL 8, por si ayuda" }));
    assert_eq!(reply.status, 201, "{}", reply.body);
    assert_eq!(reply.json()["state"], "received");
    let view = client.worked(id);
    let authors: Vec<&Value> = view["messages"].as_array().expect("messages").iter().map(|m| &m["author"]).collect();
    assert_eq!(authors, ["customer", "respondo", "customer", "respondo"]);
    assert_eq!(view["decisions"].as_array().map(Vec::len), Some(2));
    let statuses: Vec<&Value> = view["drafts"].as_array().expect("drafts").iter().map(|d| &d["status"]).collect();
    assert_eq!(statuses, ["superseded", "open"]);
}

#[test]
fn a_message_that_comes_while_another_is_worked_on_is_not_lost() {
    let Some(service) = shared() else { return };
    let client = service.client();
    let id = client.open_ticket(REQUEST);
    for number in 1..=5 {
        let path = format!("/v1/tickets/{id}/messages");
        let reply = client.post(&path, &json!({ "body": format!("y otra cosa que pasa, la número {number}") }));
        assert_eq!(reply.status, 201, "{}", reply.body);
    }
    let view = client.worked(&id);
    let own = view["messages"].as_array().expect("messages").iter().filter(|m| m["author"] == "customer");
    assert_eq!(own.count(), 6);
    let open = view["drafts"].as_array().expect("drafts").iter().filter(|draft| draft["status"] == "open");
    assert_eq!(open.count(), 1, "{view}");
}

#[test]
fn a_text_can_be_judged_without_a_ticket() {
    let Some(service) = shared() else { return };
    let client = service.client();
    let body = json!({ "body": "gmail bounces our mail, 550-5.7.26 SPF did not pass, which TXT record is right?", "subject": "mail" });
    let reply = client.post("/v1/triage", &body);
    assert_eq!(reply.status, 200, "{}", reply.body);
    let judged = reply.json();
    assert_eq!(judged["language"], "en");
    assert_eq!(judged["degraded"], json!([]));
    assert!(crate::support::found_ids(&judged["evidence"]).contains(&"nb-1048".to_owned()), "{judged}");
    let fit = |judged: &Value| judged["fit"].as_f64().expect("a probability");
    for small_talk in ["Who won the world cup in 2010?", "¿Qué tiempo hará mañana en Sevilla?"] {
        let beside = client.post("/v1/triage", &json!({ "body": small_talk })).json();
        assert!(fit(&beside) < 0.35 && fit(&judged) > 0.5, "{beside} {judged}");
    }
}

#[test]
fn a_search_can_be_narrowed() {
    let Some(service) = shared() else { return };
    let client = service.client();
    let search = |parameters: &str| {
        let reply = client.get(&format!("/v1/memory/search?q=correo%20lleno&limit=5&{parameters}"));
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json().as_array().expect("list").clone()
    };
    for (parameters, field, value) in [
        ("kind=article", "kind", "article"),
        ("language=en", "language", "en"),
        ("product=streaming", "product", "streaming"),
    ] {
        let found = search(parameters);
        assert!(!found.is_empty() && found.len() <= 5, "{parameters}");
        assert!(found.iter().all(|found| found["item"][field] == value), "{parameters}: {found:?}");
    }
}

#[test]
fn the_service_tells_how_it_is() {
    let Some(service) = shared() else { return };
    let client = service.client();
    let alive = client.get("/healthz");
    assert_eq!((alive.status, alive.body.as_str()), (200, "ok"));
    let ready = client.get("/readyz");
    assert_eq!(ready.status, 200, "{}", ready.body);
    let parts: Vec<Value> =
        ready.json()["parts"].as_array().expect("parts").iter().map(|p| p["name"].clone()).collect();
    assert_eq!(parts, ["store", "index", "embedding", "generation"]);
    client.worked_ticket(REQUEST);
    let wanted = [
        "respondo_messages_total",
        "respondo_decisions_total",
        "respondo_request_seconds",
        "respondo_inference_waiting",
    ];
    // A ticket is worked on a moment before it is counted.
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let metrics = client.get("/metrics");
        assert_eq!(metrics.status, 200);
        assert!(metrics.header("content-type").starts_with("text/plain"), "{:?}", metrics.headers);
        let missing: Vec<_> =
            wanted.iter().filter(|name| !metrics.body.lines().any(|line| line.starts_with(**name))).collect();
        if missing.is_empty() {
            break;
        }
        assert!(Instant::now() < until, "{missing:?} are missing: {}", metrics.body);
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_api_describes_itself() {
    let Some(service) = shared() else { return };
    let client = service.client();
    let document = client.get("/openapi.json").json();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1.")), "{}", document["openapi"]);
    let described: BTreeSet<String> = document["paths"]
        .as_object()
        .expect("paths")
        .iter()
        .flat_map(|(path, item)| item.as_object().expect("item").keys().map(move |method| format!("{method} {path}")))
        .collect();
    let expected = [
        "get /healthz",
        "get /metrics",
        "get /readyz",
        "get /v1/memory/search",
        "get /v1/queue",
        "get /v1/tickets/{id}",
        "get /v1/tickets/{id}/events",
        "post /v1/drafts/{id}/approve",
        "post /v1/drafts/{id}/edit",
        "post /v1/drafts/{id}/escalate",
        "post /v1/drafts/{id}/reject",
        "post /v1/tickets",
        "post /v1/tickets/{id}/messages",
        "post /v1/triage",
    ];
    assert_eq!(described.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    references(&document, &document);
    let page = client.get("/docs/");
    assert_eq!(page.status, 200);
    assert!(page.body.contains("<html"), "{}", page.body);
    let root = client.get("/");
    assert_eq!((root.status, root.header("location")), (307, "/desk"));
}

/// Every `$ref` of an OpenAPI document leads somewhere.
fn references(value: &Value, document: &Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(target)) = fields.get("$ref") {
                let pointer = target.strip_prefix('#').expect("local reference");
                assert!(document.pointer(pointer).is_some(), "{target} leads nowhere");
            }
            fields.values().for_each(|field| references(field, document));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, document)),
        _ => {}
    }
}

#[test]
fn with_an_api_key_only_its_holders_are_served() {
    let key = "a-key-for-this-test-only";
    let Some(service) = Service::with_memory(&[("RESPONDO_SERVER__API_KEY", key)]) else { return };
    let anonymous = service.client();
    let wrong = service.client().with_key("a-key-for-this-test-onlY");
    let holder = service.client().with_key(key);
    let asked: [(&str, Asked<'_>); 4] = [
        ("ticket", &|client| client.post("/v1/tickets", &json!({ "body": REQUEST })).status),
        ("queue", &|client| client.get("/v1/queue").status),
        ("search", &|client| client.get("/v1/memory/search?q=correo").status),
        ("metrics", &|client| client.get("/metrics").status),
    ];
    for (name, ask) in asked {
        assert_eq!((ask(&anonymous), ask(&wrong)), (401, 401), "{name}");
        assert!(ask(&holder) < 300, "{name}");
    }
    let refused = anonymous.get("/v1/queue");
    assert_eq!(refused.header("www-authenticate"), "Bearer");
    refused.problem(401);
    // Health has to be told to machines that know no key.
    assert_eq!((anonymous.get("/healthz").status, anonymous.get("/readyz").status), (200, 200));
    assert!(!service.said().contains(key), "the key is in the log");
}

#[test]
fn an_open_address_without_a_key_is_refused_at_start() {
    let Some(folder) = memory() else { return };
    let mut serve = command(folder.path(), &[("RESPONDO_SERVER__ADDRESS", "0.0.0.0")]);
    serve.args(["serve", "--port", "0"]);
    let failed = Service::spawn(serve, folder.path()).err().expect("refused");
    assert_eq!(failed.status.code(), Some(1));
    assert!(failed.said.contains("server.api_key"), "{}", failed.said);
}
