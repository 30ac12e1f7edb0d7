//! How much one visitor of the chat may do, and how visitors are told apart.

use crate::support::{Client, Env, Reply, Service, encode, ticket_of};

const FORWARDED: &str = "x-forwarded-for";
/// Refused for what it is, so that nothing is worked on; it counts all the same.
const BLANK: &str = "  ";
const REQUEST: &str = "mi web no carga desde ayer";
/// Few enough that a busy machine has said all before another one is allowed.
const TWO_A_MINUTE: (&str, &str) = ("RESPONDO_CHAT__MESSAGES_PER_MINUTE", "2");
/// Longest wait for the next message then.
const STEP_SECONDS: u64 = 30;

/// Sends a form of the chat with more headers.
fn send(client: &Client, path: &str, headers: &[(&str, &str)], fields: &[(&str, &str)]) -> Reply {
    let pairs: Vec<String> = fields.iter().map(|(key, value)| format!("{key}={}", encode(value))).collect();
    let kind = [("content-type", "application/x-www-form-urlencoded")];
    let headers: Vec<_> = headers.iter().copied().chain(kind).collect();
    client.send("POST", path, &headers, Some(pairs.join("&").as_bytes()))
}

fn start(client: &Client, headers: &[(&str, &str)], body: &str) -> Reply {
    send(client, "/chat", headers, &[("body", body)])
}

/// Checks that this asks to wait.
fn assert_is_refused(reply: &Reply) {
    assert_eq!(reply.status, 429, "{}", reply.body);
    let wait: u64 = reply.header("retry-after").parse().expect("seconds");
    assert!((1..=STEP_SECONDS).contains(&wait), "{wait}");
}

#[test]
fn a_message_over_the_limit_has_to_wait_and_its_text_is_kept() {
    let Some(service) = Service::with_memory(&[TWO_A_MINUTE]) else { return };
    let client = service.client();
    let opened = start(&client, &[], REQUEST);
    assert_eq!(opened.status, 303, "{}", opened.body);
    let link = opened.header("location").to_owned();
    let messages = format!("{link}/messages");
    assert_eq!(send(&client, &messages, &[], &[("body", BLANK)]).status, 422);

    let text = "¿hay alguna novedad?";
    let further = send(&client, &messages, &[("accept-language", "es")], &[("body", text)]);
    assert_is_refused(&further);
    assert!(further.body.contains("Son muchos mensajes en poco tiempo."), "{}", further.body);
    assert!(further.body.contains(&format!(">{text}</textarea>")), "{}", further.body);
    let first = send(&client, "/chat", &[], &[("body", text), ("name", "María")]);
    assert_is_refused(&first);
    assert!(first.body.contains("These are many messages in a short time."), "{}", first.body);
    assert!(first.body.contains(&format!(">{text}</textarea>")) && first.body.contains("María"), "{}", first.body);
    let feedback = format!("{link}/feedback");
    assert_is_refused(&send(&client, &feedback, &[], &[("kind", "person")]));
    assert_eq!(client.get(&feedback).header("location"), link, "loading a refusal again leads back");
    for (path, field) in [(&messages, ("body", text)), (&feedback, ("kind", "person"))] {
        let by_script = send(&client, path, &[("x-respondo", "1")], &[field]);
        assert_is_refused(&by_script);
        assert!(by_script.body.starts_with("These are many messages"), "{}", by_script.body);
    }
    let page = client.get(&link).body;
    assert!(page.contains(REQUEST) && !page.contains(text), "{page}");
    // The API, which can have a key, has no such limit.
    client.open_ticket(REQUEST);
    service.stop();
}

#[test]
fn only_trusted_proxies_say_who_asks() {
    let proxy = ("RESPONDO_SERVER__TRUSTED_PROXIES", r#"["127.0.0.1", "10.0.0.0/8"]"#);
    for (env, is_trusted) in [(&[TWO_A_MINUTE][..], false), (&[TWO_A_MINUTE, proxy][..], true)] {
        let env: Env = env;
        let Some(service) = Service::with_memory(env) else { return };
        let client = service.client();
        for _ in 0..2 {
            assert_eq!(start(&client, &[(FORWARDED, "203.0.113.9, 10.0.0.7")], BLANK).status, 422);
        }
        assert_is_refused(&start(&client, &[(FORWARDED, "203.0.113.9")], BLANK));
        // What the visitor claims stands left of what the proxy adds.
        assert_is_refused(&start(&client, &[(FORWARDED, "198.51.100.1, 203.0.113.9")], BLANK));
        let other = start(&client, &[(FORWARDED, "203.0.113.10")], BLANK);
        assert_eq!(other.status, if is_trusted { 422 } else { 429 }, "{}", other.body);
        service.stop();
    }
}

#[test]
fn conversations_have_a_limit_of_their_own_and_zero_is_none() {
    let env = [("RESPONDO_CHAT__MESSAGES_PER_MINUTE", "0"), ("RESPONDO_CHAT__CONVERSATIONS_PER_HOUR", "1")];
    let Some(service) = Service::with_memory(&env) else { return };
    let client = service.client();
    let opened = start(&client, &[], REQUEST);
    assert_eq!(opened.status, 303, "{}", opened.body);
    let again = start(&client, &[], REQUEST);
    assert_eq!(again.status, 429, "{}", again.body);
    assert!(again.body.contains("Many conversations were opened from your network."), "{}", again.body);
    let wait: u64 = again.header("retry-after").parse().expect("seconds");
    assert!((3_000..=3_600).contains(&wait), "{wait}");
    let messages = format!("{}/messages", opened.header("location"));
    for _ in 0..30 {
        assert_eq!(send(&client, &messages, &[], &[("body", BLANK)]).status, 422);
    }
    assert_eq!(send(&client, &messages, &[], &[("body", REQUEST)]).status, 303);
    service.stop();
}

#[test]
fn the_chat_may_only_name_queues_that_the_settings_know() {
    let Some(service) = Service::with_memory(&[("RESPONDO_CHAT__QUEUES", r#"["billing"]"#)]) else { return };
    let client = service.client();
    for (asked, kept) in [("billing", Some("billing")), ("no-such-queue", None), ("", None)] {
        let opened = send(&client, "/chat", &[], &[("body", REQUEST), ("queue", asked)]);
        assert_eq!(opened.status, 303, "{}", opened.body);
        let ticket = ticket_of(opened.header("location"));
        assert_eq!(client.view(&ticket)["ticket"]["queue"].as_str(), kept, "{asked}");
    }
    service.stop();
}
