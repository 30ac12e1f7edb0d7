//! A model server for tests that does what it is told, wrong things above all. Uses nothing of the crate: the tests of the
//! whole program include this file as well.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What the server says to every request.
#[derive(Clone)]
pub struct Answer {
    /// Everything from the status line on.
    pub bytes: Vec<u8>,
    pub then: Then,
}

/// What it does afterwards.
#[derive(Clone)]
pub enum Then {
    Close,
    /// Keeps the connection open and is silent.
    Hang,
    /// Says this until nobody listens.
    Repeat(Vec<u8>),
}

impl Answer {
    /// A status and a body of JSON or whatever it is.
    pub fn status(status: u16, body: &str) -> Self {
        let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\n");
        let bytes = format!("{head}location: /elsewhere\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        Self { bytes: bytes.into_bytes(), then: Then::Close }
    }

    /// The start of an event stream with these bytes in it.
    pub fn stream(body: &[u8], then: Then) -> Self {
        let mut bytes = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n".to_vec();
        bytes.extend_from_slice(body);
        Self { bytes, then }
    }

    /// A whole reply, a word at a time.
    pub fn reply(text: &str) -> Self {
        let words: String = text.split_inclusive(' ').map(piece).collect();
        let end = r#"data: {"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
        Self::stream(format!("{words}{end}\n\ndata: [DONE]\n\n").as_bytes(), Then::Close)
    }
}

/// The event that adds `text` to a reply.
pub fn piece(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
}

/// A running server; gone when dropped.
pub struct FakeServer {
    address: SocketAddr,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

struct State {
    answer: Mutex<Answer>,
    /// Heads and bodies.
    requests: Mutex<Vec<String>>,
    closed: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeServer {
    /// On a free port of this machine.
    pub fn start(answer: Answer) -> Self {
        Self::start_at("127.0.0.1:0", answer)
    }

    /// Where an earlier one was, for a server that comes back.
    pub fn start_at(address: impl ToSocketAddrs, answer: Answer) -> Self {
        let listener = TcpListener::bind(address).expect("the address is free");
        listener.set_nonblocking(true).expect("set");
        let address = listener.local_addr().expect("bound");
        let state =
            Arc::new(State { answer: Mutex::new(answer), requests: Mutex::default(), closed: AtomicBool::new(false) });
        let shared = Arc::clone(&state);
        let accepting = std::thread::spawn(move || {
            while !shared.closed.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let state = Arc::clone(&shared);
                        std::thread::spawn(move || talk(&state, stream));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Self { address, state, accepting: Some(accepting) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a client is told to use.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Answers otherwise from now on.
    pub fn set(&self, answer: Answer) {
        *lock(&self.state.answer) = answer;
    }

    /// Heads and bodies of the requests so far.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.state.requests).clone()
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.state.closed.store(true, Ordering::Relaxed);
        if let Some(accepting) = self.accepting.take() {
            // It closes the listener.
            drop(accepting.join());
        }
    }
}

/// One request and its answer; a client that leaves early is no failure.
fn talk(state: &State, stream: TcpStream) {
    let Some(request) = read_request(&stream) else { return };
    lock(&state.requests).push(request);
    let Answer { bytes, then } = lock(&state.answer).clone();
    let mut stream = stream;
    if stream.write_all(&bytes).is_err() {
        return;
    }
    while !state.closed.load(Ordering::Relaxed) {
        match &then {
            Then::Close => return,
            Then::Hang => std::thread::sleep(Duration::from_millis(5)),
            Then::Repeat(more) => {
                if stream.write_all(more).is_err() {
                    return;
                }
            }
        }
    }
}

fn read_request(stream: &TcpStream) -> Option<String> {
    stream.set_nonblocking(false).ok()?;
    // Nobody sends a request that slowly.
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let (mut request, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        request.push_str(&line);
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    request.push_str(&String::from_utf8_lossy(&body));
    Some(request)
}
