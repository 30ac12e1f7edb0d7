//! A smoke test of what comes out: 24 requests say nothing about quality, but a wiring gone wrong shows at once.

use respondo::intake::language::LanguageDetector;
use serde_json::{Value, json};

use crate::support::{Service, found_ids, sample_requests, sent_messages, stats};

/// Of the requests that the memory answers, how many have a relevant item among the first five.
const FOUND_IN_FIVE: usize = 7;

fn ticket(request: &Value) -> Value {
    json!({ "subject": request["subject"], "body": request["body"], "product": request["product"] })
}

#[test]
fn what_answers_a_sample_request_is_among_the_first_five() {
    let Some(service) = Service::with_memory(&[]) else { return };
    let client = service.client();
    let mut found = 0;
    let mut missed = Vec::new();
    for request in sample_requests().iter().filter(|request| request["expect"] == "answer") {
        let reply = client.post("/v1/triage", &ticket(request));
        assert_eq!(reply.status, 200, "{}", reply.body);
        let ids = found_ids(&reply.json()["evidence"]);
        let relevant: Vec<&str> =
            request["relevant"].as_array().expect("ids").iter().filter_map(Value::as_str).collect();
        match ids.iter().take(5).any(|id| relevant.contains(&id.as_str())) {
            true => found += 1,
            false => missed.push(format!("{}: {ids:?}", request["id"])),
        }
    }
    println!("{found} found, missed: {missed:?}");
    assert!(found >= FOUND_IN_FIVE, "{found} found; missed: {missed:?}");
    assert_eq!(stats(service.data())["tickets"], 0, "judging leaves no trace");
}

#[test]
fn sample_requests_are_answered_in_their_language() {
    let Some(service) = Service::with_memory(&[]) else { return };
    let client = service.client();
    for request in sample_requests() {
        let id = client.open_ticket_with(&ticket(&request));
        let view = client.worked(&id);
        assert_eq!(view["ticket"]["language"], request["lang"], "{}", request["id"]);
        let sent = sent_messages(&view);
        if view["ticket"]["state"] == "discarded" {
            assert_eq!(request["expect"], "reject", "{} was discarded", request["id"]);
            assert!(sent.is_empty(), "{sent:?}");
            continue;
        }
        assert_eq!(sent.len(), 1, "{}", request["id"]);
        let drafts = view["drafts"].as_array().expect("drafts").iter().map(|draft| draft["draft"]["text"].as_str());
        for text in drafts.flatten().chain(sent.iter().map(String::as_str)) {
            let language = LanguageDetector.detect(text).language;
            assert_eq!(request["lang"], language.code(), "{}: {text}", request["id"]);
        }
    }
}
