//! The log holds no secrets and nothing of what customers wrote.

use serde_json::json;

use crate::support::{PASSWORD, Service, encode, post_form, setup_token};

const KEY: &str = "canary-key-0123456789";
const EMAIL: &str = "canary.lopez@private-mail.net";
const PHONE: &str = "+34 612 345 678";
const WORDS: &str = "mi colección de sellos canarios no carga";

#[test]
fn the_log_has_routes_and_no_canaries() {
    let filter = "info,qdrant_edge=error,respondo=debug,tower_http=debug,axum=debug,hyper=debug,rustls=debug";
    let env = [("RESPONDO_LOG", filter), ("RESPONDO_SERVER__API_KEY", KEY)];
    let Some(service) = Service::with_memory(&env) else { return };
    let client = service.client().with_key(KEY);
    let body = format!("{WORDS}, escríbanme a {EMAIL} o llámenme al {PHONE}");
    let ticket = json!({ "body": body, "customer": EMAIL, "subject": WORDS });
    let id = client.open_ticket_with(&ticket);
    client.worked(&id);
    client.search(&body);
    for path in [format!("/nowhere/{EMAIL}"), format!("/v1/queue?cursor={}", encode(EMAIL))] {
        assert!(client.get(&path).status >= 400, "{path}");
    }
    let wrong = "canary-wrong-key-0123456789";
    assert_eq!(service.client().with_key(wrong).get("/v1/queue").status, 401);
    let opened = post_form(&client, "/chat", "", &[("body", &body), ("name", "Canaria")]);
    assert_eq!(opened.status, 303, "{}", opened.body);
    let link = opened.header("location").to_owned();
    assert_eq!(client.get(&link).status, 200);
    let setup = setup_token(&service);
    let fields = [("token", setup.as_str()), ("name", "Canaria"), ("login", "canaria"), ("password", PASSWORD)];
    let made = post_form(&client, "/desk/setup", "", &fields);
    assert_eq!(made.status, 303, "{}", made.body);
    let session = made.header("set-cookie").split(['=', ';']).nth(1).unwrap_or_default().to_owned();
    assert_eq!(session.len(), 64);
    service.ask_to_stop();
    let (status, _, said) = service.ended();
    assert!(status.success(), "{status}: {said}");
    let token = link.trim_start_matches("/chat/");
    for canary in [KEY, wrong, EMAIL, "private-mail", PHONE, WORDS, "Canaria", PASSWORD, token, &token[32..], &session]
    {
        assert!(!said.contains(canary), "{canary}: {said}");
    }
    for route in ["/chat/{token}", "/v1/tickets/{id}", "/desk/setup"] {
        assert!(said.contains(&format!("route=\"{route}\"")), "{route}: {said}");
    }
}
