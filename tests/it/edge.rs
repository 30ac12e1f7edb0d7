//! The edge: slow and greedy connections, and headers that every answer has.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Reply, Service};

/// Longest wait for what has to happen; far more than the limits that are set.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between the bytes of a slow client.
const SLOW: Duration = Duration::from_millis(200);

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    stream
}

/// Reads to the end of the connection, or of what comes within the time limit.
fn read_all(mut stream: &TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&part[..count]),
            // What came before is what counts.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error}: {}", String::from_utf8_lossy(&bytes)),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Sends `beginning`, then `more` again and again, slowly, until the service closes; gives what it said.
fn trickle(address: SocketAddr, beginning: &str, more: &[u8]) -> String {
    let mut stream = connect(address);
    stream.write_all(beginning.as_bytes()).expect("sent");
    stream.set_read_timeout(Some(SLOW)).expect("a time limit");
    let (mut said, mut part) = (Vec::new(), [0; 4096]);
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        match stream.read(&mut part) {
            Ok(0) => return String::from_utf8_lossy(&said).into_owned(),
            Ok(count) => said.extend_from_slice(&part[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                // The service may have closed meanwhile; the next read tells.
                drop(stream.write_all(more));
            }
            Err(_) => return String::from_utf8_lossy(&said).into_owned(),
        }
    }
    panic!("the connection is still open: {}", String::from_utf8_lossy(&said));
}

#[test]
fn slow_clients_are_closed_and_keep_nobody_waiting() {
    let limits = [("RESPONDO_SERVER__HEADER_SECONDS", "2"), ("RESPONDO_SERVER__BODY_SECONDS", "2")];
    let Some(service) = Service::with_memory(&limits) else { return };
    let address = service.address();
    let started = Instant::now();
    let slow = std::thread::spawn(move || trickle(address, "GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ", b"a"));
    assert_eq!(service.client().get("/healthz").status, 200);
    let said = slow.join().expect("closed");
    assert!(!said.contains("200 OK"), "{said}");
    assert!(started.elapsed() >= Duration::from_secs(1), "closed before its time");

    let form =
        "POST /v1/tickets HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n{";
    let said = trickle(address, form, b" ");
    assert!(said.starts_with("HTTP/1.1 408"), "{said}");
    assert!(said.contains("urn:respondo:problem:too-slow"), "{said}");

    // An idle connection is closed too, after its answer.
    let idle = connect(address);
    (&idle).write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
    let said = read_all(&idle);
    assert_eq!(said.matches("HTTP/1.1").count(), 1, "{said}");
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    service.stop();
}

#[test]
fn headers_that_are_too_large_are_refused() {
    let Some(service) = Service::with_memory(&[]) else { return };
    let long = format!("x-long: {}\r\n", "a".repeat(64 << 10));
    let many: String = (0..200).map(|number| format!("x-{number}: a\r\n")).collect();
    for fields in [long, many] {
        let stream = connect(service.address());
        let head = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{fields}\r\n");
        // The service may close before all of it is sent.
        drop((&stream).write_all(head.as_bytes()));
        let said = read_all(&stream);
        assert!(said.starts_with("HTTP/1.1 431"), "{said}");
    }
    let stream = connect(service.address());
    let fields: String = (0..50).map(|number| format!("x-{number}: {}\r\n", "a".repeat(100))).collect();
    let head = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{fields}\r\n");
    (&stream).write_all(head.as_bytes()).expect("sent");
    assert!(read_all(&stream).starts_with("HTTP/1.1 200"));
    service.stop();
}

/// Asks for something over a connection that stays open; true when it was answered.
fn is_served(stream: &TcpStream) -> bool {
    let mut stream = stream;
    let mut answer = [0; 12];
    // A connection over the limit is closed before or after it is written to.
    let asked = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
    asked.is_ok() && stream.read_exact(&mut answer).is_ok() && answer.ends_with(b"200")
}

#[test]
fn connections_have_a_limit_and_give_their_place_back() {
    let limits = [
        ("RESPONDO_SERVER__MAX_CONNECTIONS_PER_CLIENT", "4"),
        // None of them is closed for being idle meanwhile.
        ("RESPONDO_SERVER__HEADER_SECONDS", "600"),
    ];
    let Some(service) = Service::with_memory(&limits) else { return };
    let mut open: Vec<TcpStream> = (0..4).map(|_| connect(service.address())).collect();
    assert!(open.iter().all(is_served));
    let over = connect(service.address());
    let said = read_all(&over);
    assert!(said.starts_with("HTTP/1.1 503") && said.contains("retry-after: 5"), "{said}");
    open.pop();
    let until = Instant::now() + PATIENCE;
    while !is_served(&connect(service.address())) {
        assert!(Instant::now() < until, "the place is not free again");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(open);
    service.stop();
}

/// Checks the headers of an answer; `is_chat` for pages that other sites may frame, `is_kept` for files that browsers keep.
fn check_headers(what: &str, reply: &Reply, is_chat: bool, is_kept: bool) {
    assert_eq!(reply.header("x-content-type-options"), "nosniff", "{what}");
    assert!(["no-referrer", "same-origin"].contains(&reply.header("referrer-policy")), "{what}");
    let policy = reply.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors"), "{what}: {policy}");
    let frame_options = if is_chat { "" } else { "DENY" };
    assert_eq!(reply.header("x-frame-options"), frame_options, "{what}");
    assert_eq!(reply.header("cache-control").contains("no-store"), !is_kept, "{what}");
    for banner in ["server", "x-powered-by", "strict-transport-security"] {
        assert_eq!(reply.header(banner), "", "{what}: {banner}");
    }
}

#[test]
fn every_answer_has_the_headers_that_keep_browsers_safe() {
    let Some(service) = crate::support::shared() else { return };
    let client = service.client();
    let document = client.get("/openapi.json").json();
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() >= 12, "{paths:?}");
    let mut asked = 0;
    for (path, methods) in paths {
        let path = path.replace("{id}", "018f3c4e-7b2a-7c3d-9e4f-1a2b3c4d5e6f");
        for method in methods.as_object().expect("methods").keys() {
            let method = method.to_uppercase();
            let what = format!("{method} {path}");
            let reply = match method.as_str() {
                "GET" => client.get(&path),
                _ => client.send(&method, &path, &[("content-type", "application/json")], Some(b"{}")),
            };
            check_headers(&what, &reply, false, false);
            asked += 1;
        }
    }
    assert!(asked >= 12, "{asked}");
    let ticket = client.open_ticket("my website has been down since yesterday");
    check_headers("a ticket", &client.get(&format!("/v1/tickets/{ticket}")), false, false);
    for (path, is_chat, is_kept) in [
        ("/", false, false),
        ("/nowhere", false, false),
        ("/openapi.json", false, false),
        ("/docs/", false, false),
        ("/desk", false, false),
        ("/desk/sign-in", false, false),
        ("/language/es", false, false),
        ("/widget.js", false, true),
        ("/chat", true, false),
        ("/chat/0000", true, false),
    ] {
        check_headers(path, &client.get(path), is_chat, is_kept);
    }
    check_headers("a wrong method", &client.send("DELETE", "/v1/queue", &[], None), false, false);
    check_headers("a bad body", &client.post("/v1/tickets", &json!({ "nothing": 1 })), false, false);
}
