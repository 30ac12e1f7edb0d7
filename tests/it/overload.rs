//! More than can be answered in time: customers are told at once, nothing is lost, and past a bound nothing more is taken.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Client, Reply, Service, encode, memory, sent_messages};

const PATIENCE: Duration = Duration::from_secs(300);

/// A request that something is found for, so that a reply is to be generated.
fn request(number: usize) -> String {
    format!("hola, al importar el .sql {number} en phpmyadmin me da #1273 Cotejamiento desconocido, no se q hacer")
}

/// A model server that takes requests and never answers, and its address.
fn silent() -> (TcpListener, String) {
    let silent = TcpListener::bind("127.0.0.1:0").expect("free port");
    let url = format!("http://{}/v1", silent.local_addr().expect("address"));
    (silent, url)
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "still waiting for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The sum of a metric over its labels.
fn metric(client: &Client, name: &str) -> f64 {
    let text = client.get("/metrics").body;
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn reasons(view: &Value) -> String {
    view["decisions"].to_string()
}

#[test]
fn who_would_wait_too_long_is_told_once_and_worked_on_later() {
    let Some(folder) = memory() else { return };
    let (silent, url) = silent();
    let slow = [
        ("RESPONDO_GENERATION__KIND", "openai"),
        ("RESPONDO_GENERATION__URL", url.as_str()),
        ("RESPONDO_GENERATION__MODEL", "silent"),
        ("RESPONDO_DRAFT__DEADLINE_SECONDS", "3"),
        ("RESPONDO_SERVER__CONCURRENCY", "1"),
        ("RESPONDO_SERVER__SHUTDOWN_SECONDS", "1"),
    ];
    let service = Service::on(folder.path(), &slow);
    let client = service.client();
    // Each of them holds the only desk for the whole time.
    let ids: Vec<String> = (0..6).map(|number| client.open_ticket(&request(number))).collect();
    for id in &ids {
        let view = client.worked(id);
        assert_eq!(sent_messages(&view).len(), 1, "nobody is left without a word: {view}");
    }
    assert!(metric(&client, "respondo_acknowledged_late_total") >= 1.0, "the test proves nothing otherwise");
    for id in &ids {
        until("a draft", || client.view(id)["drafts"].as_array().is_some_and(|drafts| !drafts.is_empty()));
        let view = client.worked(id);
        assert_eq!(sent_messages(&view).len(), 1, "told once: {view}");
        let was_late = reasons(&view).contains("the reply would be late");
        assert_eq!(view["decisions"].as_array().map(Vec::len), Some(if was_late { 2 } else { 1 }), "{view}");
    }
    until("an empty queue", || metric(&client, "respondo_tickets_waiting") == 0.0);
    drop(silent);
    service.ask_to_stop();
    service.ended();
}

#[test]
fn what_was_put_aside_is_taken_up_by_the_next_process() {
    let Some(folder) = memory() else { return };
    let (silent, url) = silent();
    let slow = [
        ("RESPONDO_GENERATION__KIND", "openai"),
        ("RESPONDO_GENERATION__URL", url.as_str()),
        ("RESPONDO_GENERATION__MODEL", "silent"),
        ("RESPONDO_DRAFT__DEADLINE_SECONDS", "3"),
        ("RESPONDO_SERVER__CONCURRENCY", "1"),
    ];
    let service = Service::on(folder.path(), &slow);
    let client = service.client();
    let ids: Vec<String> = (0..5).map(|number| client.open_ticket(&request(number))).collect();
    until("somebody to be told", || metric(&client, "respondo_acknowledged_late_total") >= 1.0);
    service.kill();
    drop(silent);
    let service = Service::on(folder.path(), &[]);
    let client = service.client();
    for id in &ids {
        until("a draft", || client.view(id)["drafts"].as_array().is_some_and(|drafts| !drafts.is_empty()));
        let view = client.worked(id);
        assert_eq!(sent_messages(&view).len(), 1, "told once: {view}");
    }
    let decisions = |client: &Client| -> Vec<usize> {
        ids.iter().map(|id| client.worked(id)["decisions"].as_array().map_or(0, Vec::len)).collect()
    };
    let before = decisions(&client);
    service.stop();
    // What was only acknowledged, as usual, is not worked on again at every start.
    let service = Service::on(folder.path(), &[]);
    let client = service.client();
    client.worked_ticket("my printer has been on fire since yesterday");
    assert_eq!(decisions(&client), before);
    service.stop();
}

/// Sends a form of the chat.
fn say(client: &Client, path: &str, language: &str, text: &str) -> Reply {
    let headers = [("content-type", "application/x-www-form-urlencoded"), ("accept-language", language)];
    client.send("POST", path, &headers, Some(format!("body={}", encode(text)).as_bytes()))
}

#[test]
fn past_the_bound_new_requests_are_asked_back_and_none_is_lost() {
    let Some(folder) = memory() else { return };
    let (silent, url) = silent();
    let slow = [
        ("RESPONDO_GENERATION__KIND", "openai"),
        ("RESPONDO_GENERATION__URL", url.as_str()),
        ("RESPONDO_GENERATION__MODEL", "silent"),
        ("RESPONDO_DRAFT__DEADLINE_SECONDS", "600"),
        ("RESPONDO_SERVER__CONCURRENCY", "1"),
        ("RESPONDO_SERVER__SHUTDOWN_SECONDS", "1"),
        ("RESPONDO_SERVER__MOST_WAITING", "2"),
    ];
    let service = Service::on(folder.path(), &slow);
    let client = service.client();
    let ids: Vec<String> = (0..2).map(|number| client.open_ticket(&request(number))).collect();
    let refused = client.post("/v1/tickets", &json!({ "body": request(3) }));
    let detail = refused.problem(429);
    assert!(detail.contains("server.most_waiting"), "{detail}");
    let wait: u64 = refused.header("retry-after").parse().expect("seconds");
    assert!((1..=600).contains(&wait), "{wait}");
    // One more message of a ticket that waits makes it no more.
    let more = client.post(&format!("/v1/tickets/{}/messages", ids[1]), &json!({ "body": "es la versión 10.4" }));
    assert_eq!(more.status, 201, "{}", more.body);
    for (language, text) in [("en", "Very many people are writing to us"), ("es", "nos escribe muchísima gente")] {
        let reply = say(&client, "/chat", language, "mi web no carga desde ayer");
        assert_eq!(reply.status, 429, "{}", reply.body);
        assert!(reply.header("retry-after").parse::<u64>().is_ok_and(|wait| wait >= 1));
        assert!(
            reply.body.contains(text) && reply.body.contains(">mi web no carga desde ayer</textarea>"),
            "{}",
            reply.body
        );
    }
    assert!(metric(&client, "respondo_messages_refused_total") >= 3.0);
    service.ask_to_stop();
    std::thread::sleep(Duration::from_secs(2));
    drop(silent);
    service.ended();
    let service = Service::on(folder.path(), &[]);
    let client = service.client();
    for id in &ids {
        assert_eq!(sent_messages(&client.worked(id)).len(), 1);
    }
    let opened = say(&client, "/chat", "es", "mi web no carga desde ayer");
    assert_eq!(opened.status, 303, "{}", opened.body);
    service.stop();
}
