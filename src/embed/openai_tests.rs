//! Embeddings from a server that does as it is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;

use super::*;
use crate::endpoint::testing::{Answer, FakeServer, Then};

/// Answers one connection per given answer, in order, and returns the requests' heads and bodies.
fn server(answers: Vec<(u16, &'static str)>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/v1/", listener.local_addr().expect("bound"));
    let handle =
        thread::spawn(move || answers.into_iter().map(|(status, body)| answer_once(&listener, status, body)).collect());
    (url, handle)
}

fn answer_once(listener: &TcpListener, status: u16, body: &str) -> String {
    let (mut stream, _) = listener.accept().expect("a connection");
    let mut reader = BufReader::new(stream.try_clone().expect("clone"));
    let mut seen = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line");
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a number");
        }
        seen.push_str(&line);
        if line == "\r\n" || line.is_empty() {
            break;
        }
    }
    let mut request = vec![0; length];
    reader.read_exact(&mut request).expect("the body");
    seen.push_str(&String::from_utf8_lossy(&request));
    let answer = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).expect("sent");
    seen
}

fn options(base_url: String) -> OpenAiOptions {
    OpenAiOptions {
        base_url,
        model: "m".to_string(),
        api_key: Some("secret-key".to_string()),
        dimensions: Some(2),
        prefixes: Prefixes::e5(),
        timeout: Duration::from_secs(5),
        ..OpenAiOptions::default()
    }
}

const TWO: &str = r#"{"data":[{"index":1,"embedding":[0,2]},{"index":0,"embedding":[3,4]}]}"#;

#[test]
fn vectors_come_back_in_order_and_as_unit_vectors() {
    let (url, handle) = server(vec![(200, TWO)]);
    let mut embedder = OpenAiEmbedder::new(options(url)).expect("an embedder");
    let vectors = embedder.embed(&["no puedo entrar", "   "], Role::Query).expect("vectors");
    assert_eq!(vectors, [[0.6, 0.8], [0.0, 1.0]]);
    let seen = handle.join().expect("server").remove(0);
    assert!(seen.starts_with("POST /v1/embeddings "), "{seen}");
    assert!(seen.contains("Bearer secret-key"), "{seen}");
    let body = seen.split_once("\r\n\r\n").expect("a body").1;
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(body["input"], serde_json::json!(["query: no puedo entrar", "query: -"]));
}

#[test]
fn dimensions_are_asked_for_when_not_set_and_batches_are_kept() {
    let one = r#"{"data":[{"index":0,"embedding":[1,0]}]}"#;
    let (url, handle) = server(vec![(200, one), (200, one), (200, one)]);
    let mut embedder =
        OpenAiEmbedder::new(OpenAiOptions { dimensions: None, batch: 1, ..options(url) }).expect("an embedder");
    assert_eq!(embedder.dimensions(), 2);
    assert_eq!(embedder.embed(&["a", "b"], Role::Passage).expect("vectors").len(), 2);
    assert_eq!(handle.join().expect("server").len(), 3);
}

#[test]
fn an_overloaded_server_is_asked_once_more() {
    let (url, handle) = server(vec![(503, "busy"), (200, TWO)]);
    let mut embedder = OpenAiEmbedder::new(options(url)).expect("an embedder");
    assert_eq!(embedder.embed(&["a", "b"], Role::Query).expect("vectors").len(), 2);
    assert_eq!(handle.join().expect("server").len(), 2);
}

#[test]
fn errors_name_what_is_wrong_and_never_the_key() {
    for (status, body, wanted) in [
        (401, r#"{"error":"bad key"}"#, "check the API key"),
        (404, "no such route", "ends in /v1"),
        (200, "<html>", "no list of embeddings"),
        (200, r#"{"data":[{"index":7,"embedding":[1,2]}]}"#, "number 7"),
        (200, r#"{"data":[{"index":0,"embedding":[1,2,3]}]}"#, "3 numbers where 2"),
        (200, r#"{"data":[]}"#, "0 numbers where 2"),
    ] {
        let (url, handle) = server(vec![(status, body)]);
        let mut embedder = OpenAiEmbedder::new(options(url)).expect("an embedder");
        let error = embedder.embed(&["a"], Role::Query).expect_err("an error").to_string();
        assert!(error.contains(wanted), "{error} does not contain {wanted}");
        assert!(!error.contains("secret-key"), "{error}");
        handle.join().expect("server");
    }
    assert!(!format!("{:?}", options(String::new())).contains("secret-key"));
}

#[test]
fn nobody_there_and_no_address_are_clear_errors() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/v1", free.local_addr().expect("bound"));
    drop(free);
    let mut embedder = OpenAiEmbedder::new(options(url)).expect("an embedder");
    let error = embedder.embed(&["a"], Role::Query).expect_err("nobody there").to_string();
    assert!(error.contains("no answer"), "{error}");
    let error = OpenAiEmbedder::new(options(String::new())).err().expect("no address").to_string();
    assert!(error.contains("base_url"), "{error}");
}

/// An embedder of two dimensions whose requests may take `limit`.
fn embedder(server: &FakeServer, limit: Duration) -> OpenAiEmbedder {
    OpenAiEmbedder::new(OpenAiOptions { timeout: limit, query_timeout: limit, ..options(server.url()) })
        .expect("an embedder")
}

const ONE: &str = r#"{"data":[{"index":0,"embedding":[3,4]}]}"#;

#[test]
fn no_vector_comes_out_of_a_wrong_answer() {
    let body = |body: &str| Answer::status(200, body);
    let endless = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n[".to_vec();
    for (answer, wanted) in [
        (Answer::status(500, "out of memory"), "out of memory"),
        (Answer::status(429, "slow down"), "quota"),
        (Answer::status(401, "bad key secret-key"), "bad key (key)"),
        (Answer::status(302, ""), "302"),
        (Answer { bytes: Vec::new(), then: Then::Close }, "no answer"),
        (body("<html>Welcome</html>"), "no list of embeddings"),
        (body(r#"{"data":[{"index":0,"embedding":[3,"#), "no list of embeddings"),
        (body(r#"{"data":[{"index":0,"embedding":[NaN,4]}]}"#), "no list of embeddings"),
        (body(r#"{"data":[{"index":0,"embedding":[null,4]}]}"#), "no list of embeddings"),
        (body(r#"{"data":[{"index":0,"embedding":[1e39,4]}]}"#), "no direction"),
        (body(r#"{"data":[{"index":0,"embedding":[0,0]}]}"#), "no direction"),
        (body(r#"{"data":[]}"#), "0 numbers where 2"),
        (body(r#"{"data":[{"index":0,"embedding":[1,2,3]}]}"#), "3 numbers where 2"),
        (body(r#"{"data":[{"index":0,"embedding":[1,2]},{"index":1,"embedding":[1,2]}]}"#), "number 1 for 1 texts"),
        (Answer { bytes: endless, then: Then::Repeat(vec![b' '; 64 << 10]) }, "answer broke off"),
    ] {
        let server = FakeServer::start(answer);
        let mut embedder = embedder(&server, Duration::from_secs(30));
        let error = embedder.embed(&["a"], Role::Query).expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{error} does not contain {wanted}");
        assert!(!error.contains("secret-key") && error.len() < 600, "{error}");
        server.set(Answer::status(200, ONE));
        assert_eq!(embedder.embed(&["a"], Role::Query).expect("healed"), [[0.6, 0.8]]);
    }
}

#[test]
fn a_customer_waits_less_for_a_vector_than_an_import_does() {
    let server = FakeServer::start(Answer { bytes: Vec::new(), then: Then::Hang });
    let limit = Duration::from_secs(60);
    let options = OpenAiOptions { timeout: limit, query_timeout: Duration::from_millis(100), ..options(server.url()) };
    let mut embedder = OpenAiEmbedder::new(options).expect("an embedder");
    let started = Instant::now();
    let error = embedder.embed(&["a"], Role::Query).expect_err("hangs").to_string();
    assert!(error.contains("timeout"), "{error}");
    assert!(started.elapsed() < limit / 2, "took {:?}", started.elapsed());
}

#[test]
fn a_server_that_fails_again_and_again_rests_and_comes_back() {
    let server = FakeServer::start(Answer::status(500, "down"));
    let mut embedder = embedder(&server, Duration::from_secs(30));
    for _ in 0..2 {
        embedder.embed(&["a"], Role::Query).expect_err("down");
    }
    let asked = server.requests().len();
    let error = embedder.embed(&["a"], Role::Query).expect_err("rests").to_string();
    assert!(error.contains("rests for") && error.contains("down"), "{error}");
    assert_eq!(server.requests().len(), asked, "a resting server was asked");
    assert!(matches!(embedder.breaker().expect("one").health(Instant::now()), Health::Rests { .. }));
    server.set(Answer::status(200, ONE));
    let until = Instant::now() + Duration::from_secs(60);
    while let Err(error) = embedder.embed(&["a"], Role::Query) {
        assert!(Instant::now() < until, "not healed: {error}");
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(embedder.breaker().expect("one").health(Instant::now()), Health::Good);
}
