//! SIGTERM and SIGKILL in the middle of the work: what was accepted is answered once, by this process or the next.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Client, Service, chat_model, encode, memory, sent_messages, stats, turn_to_write};
use crate::writing::PATIENT;

const REQUEST: &str = "hola, ¿cómo arreglo el SPF? gmail rechaza nuestro correo con 550-5.7.26 y hay dos registros TXT";

/// Checks that a ticket was worked on exactly once.
fn answered_once(client: &Client, id: &str) -> Value {
    let view = client.worked(id);
    assert_eq!(view["messages"][0]["author"], "customer");
    assert_eq!(sent_messages(&view).len(), 1, "one message to the customer: {view}");
    assert_eq!(view["decisions"].as_array().map(Vec::len), Some(1), "{view}");
    let open = view["drafts"].as_array().expect("drafts").iter().filter(|draft| draft["status"] == "open").count();
    assert_eq!(open, 1, "{view}");
    view
}

/// Checks that everything in the store is found, once.
fn index_is_whole(client: &Client, data: &Path) {
    for (words, id) in [("gmail SPF did not pass TXT", "nb-1048"), ("VPS emergency mode fstab", "nb-1003")] {
        let found = client.search(words);
        assert_eq!(found.iter().filter(|found| *found == id).count(), 1, "{id} in {found:?}");
    }
    assert_eq!(stats(data)["memory"]["unindexed"], 0);
}

/// Waits, with the client and the ticket's id, until the process is to be killed.
type Moment<'a> = &'a dyn Fn(&Client, &str);

#[test]
fn tickets_survive_a_kill_at_any_moment_and_are_answered_once() {
    let Some(data) = memory() else { return };
    let mut tickets = Vec::new();
    let moments: [Moment<'_>; 7] = [
        &|_, _| {},
        &|_, _| sleep(Duration::from_millis(10)),
        &|_, _| sleep(Duration::from_millis(30)),
        &|client, id| drop(client.events_until(id, None, "evidence")),
        &|client, id| drop(client.events_until(id, None, "draft")),
        &|client, id| drop(client.events_until(id, None, "decision")),
        &|client, id| drop(client.events_until(id, None, "message")),
    ];
    for moment in moments {
        let service = Service::on(data.path(), &[]);
        let client = service.client();
        let id = client.open_ticket(REQUEST);
        moment(&client, &id);
        service.kill();
        tickets.push(id);
    }
    let service = Service::on(data.path(), &[]);
    let client = service.client();
    for id in &tickets {
        answered_once(&client, id);
    }
    index_is_whole(&client, data.path());
    assert_eq!(stats(data.path())["tickets"], tickets.len());
    service.stop();
}

#[test]
fn many_tickets_in_line_survive_a_kill() {
    let Some(data) = memory() else { return };
    // Time for all of them, so that none is told that its reply takes longer.
    let time = [("RESPONDO_DRAFT__DEADLINE_SECONDS", "600")];
    let service = Service::on(data.path(), &time);
    let client = service.client();
    let tickets: Vec<String> =
        (0..40).map(|number| client.open_ticket(&format!("{REQUEST} (mail {number})"))).collect();
    service.kill();
    let service = Service::on(data.path(), &time);
    for id in &tickets {
        answered_once(&service.client(), id);
    }
    // The same with an orderly stop: what waits is parked, not hurried.
    let more: Vec<String> =
        (0..40).map(|number| service.client().open_ticket(&format!("{REQUEST} (again {number})"))).collect();
    service.stop();
    let service = Service::on(data.path(), &time);
    for id in &more {
        answered_once(&service.client(), id);
    }
}

#[test]
fn an_approved_answer_survives_a_kill_and_is_found_once() {
    let Some(data) = memory() else { return };
    let service = Service::on(data.path(), &[]);
    let client = service.client();
    let view = client.worked_ticket(REQUEST);
    let draft = view["drafts"][0]["id"].as_str().expect("id").to_owned();
    let ticket = view["ticket"]["id"].as_str().expect("id").to_owned();
    let approving = {
        let client = client.clone();
        std::thread::spawn(move || client.post(&format!("/v1/drafts/{draft}/approve"), &json!({})).status)
    };
    // Somewhere between the decision and the index: the answer is on its way, whoever asked may not have heard of it.
    while client.view(&ticket)["ticket"]["state"] != "answered" {
        sleep(Duration::from_millis(2));
    }
    service.kill();
    drop(approving.join());
    let service = Service::on(data.path(), &[]);
    let client = service.client();
    assert_eq!(client.view(&ticket)["ticket"]["state"], "answered");
    assert_eq!(sent_messages(&client.view(&ticket)).len(), 2);
    let path = format!("/v1/memory/search?q={}", encode(REQUEST));
    let id = format!("ticket-{ticket}");
    let found = || client.get(&path).body.matches(&format!("\"{id}\"")).count();
    let learned = (0..100).any(|_| {
        let learned = found() == 1;
        sleep(Duration::from_millis(if learned { 0 } else { 50 }));
        learned
    });
    assert!(learned, "the approved answer is in the memory {} times", found());
}

#[test]
fn a_stop_while_a_draft_is_written_parks_or_finishes_it_and_a_kill_loses_nothing() {
    let _turn = turn_to_write();
    let (Some(data), Some(_)) = (memory(), chat_model()) else { return };
    let hasty: Vec<_> = PATIENT.into_iter().chain([("RESPONDO_SERVER__SHUTDOWN_SECONDS", "1")]).collect();
    let calm: Vec<_> = PATIENT.into_iter().chain([("RESPONDO_SERVER__SHUTDOWN_SECONDS", "200")]).collect();

    // Little time to stop in: the ticket is parked.
    let service = Service::on(data.path(), &hasty);
    let id = service.client().open_ticket(REQUEST);
    service.client().events_until(&id, None, "token");
    service.ask_to_stop();
    let (status, took, said) = service.ended();
    assert!(status.success(), "{status}: {said}");
    assert!(took < Duration::from_secs(30), "took {took:?} to stop");
    assert!(said.contains("parked"), "{said}");

    // The next process takes it up by itself, and is killed in the middle of a word.
    let service = Service::on(data.path(), &calm);
    service.client().events_until(&id, None, "token");
    service.kill();

    // The third has time to finish it.
    let service = Service::on(data.path(), &calm);
    service.client().events_until(&id, None, "token");
    service.ask_to_stop();
    let (status, _, said) = service.ended();
    assert!(status.success(), "{status}: {said}");
    assert!(!said.contains("parked"), "{said}");

    let service = Service::on(data.path(), &[]);
    assert_ne!(service.client().view(&id)["ticket"]["state"], "received", "it was finished before");
    let view = answered_once(&service.client(), &id);
    assert!(view["timings"]["first_token_ms"].is_number(), "the model wrote: {}", view["timings"]);
    index_is_whole(&service.client(), data.path());
}

#[test]
fn open_connections_do_not_hold_up_a_stop() {
    let Some(data) = memory() else { return };
    let service = Service::on(data.path(), &[("RESPONDO_SERVER__SHUTDOWN_SECONDS", "2")]);
    let client = service.client();
    let id = client.open_ticket(REQUEST);
    client.worked(&id);
    let following = {
        let (client, id) = (client.clone(), id.clone());
        std::thread::spawn(move || client.events(&id, None).count())
    };
    let mut idle = TcpStream::connect(service.address()).expect("connected");
    let mut half = TcpStream::connect(service.address()).expect("connected");
    half.write_all(
        b"POST /v1/tickets HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 90\r\n\r\n{\"bo",
    )
    .expect("written");
    let mut head = TcpStream::connect(service.address()).expect("connected");
    head.write_all(b"GET /v1/queue HTTP/1.1\r\nho").expect("written");
    sleep(Duration::from_millis(200));
    service.ask_to_stop();
    let (status, took, said) = service.ended();
    assert!(status.success(), "{status}: {said}");
    assert!(took < Duration::from_secs(10), "took {took:?} to stop");
    assert_eq!(following.join().expect("stream ended"), 7);
    // They were open all the time.
    drop((idle.write_all(b"x"), half, head));
}
