//! HTTP as a customer's program speaks it, on loopback only.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ureq::http::request::Builder;
use ureq::http::{HeaderMap, Request, Response};
use ureq::{Agent, Body};

/// Longest wait for one answer, and for one event stream.
const LIMIT: Duration = Duration::from_secs(300);

/// Talks to one service on this machine.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    address: SocketAddr,
    key: Option<String>,
    /// Named in place of the address.
    host: Option<String>,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

/// One server-sent event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub id: String,
    pub kind: String,
    pub data: Value,
}

impl Client {
    /// # Panics
    /// When `address` is not loopback: tests talk to nobody else.
    pub fn new(address: SocketAddr) -> Self {
        assert!(address.ip().is_loopback(), "{address} is not loopback");
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(LIMIT))
            .max_redirects(0)
            .proxy(None)
            .build();
        Self { agent: config.into(), address, key: None, host: None }
    }

    pub fn with_key(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    /// Names a host, as a browser does that found this machine by it.
    pub fn with_host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], None)
    }

    /// Sends JSON.
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_with(path, &[], body)
    }

    /// Sends JSON with more headers.
    pub fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
        let headers: Vec<_> = headers.iter().copied().chain([("content-type", "application/json")]).collect();
        self.send("POST", path, &headers, Some(body.to_string().as_bytes()))
    }

    /// Sends whatever is given.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Reply {
        let mut response = self.answer(method, path, headers, body);
        Reply {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.body_mut().read_to_string().unwrap_or_else(|error| panic!("{method} {path}: {error}")),
        }
    }

    /// Gets something that may be no text.
    pub fn download(&self, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut response = self.answer("GET", path, headers, None);
        assert_eq!(response.status().as_u16(), 200, "{path}");
        response.body_mut().read_to_vec().unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn answer(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Response<Body> {
        self.try_answer(method, path, headers, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Sends JSON to a service that may go away meanwhile; None where no whole answer came.
    pub fn try_post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Option<Reply> {
        let headers: Vec<_> = headers.iter().copied().chain([("content-type", "application/json")]).collect();
        let mut response = self.try_answer("POST", path, &headers, Some(body.to_string().as_bytes())).ok()?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Some(Reply { status, headers, body: response.body_mut().read_to_string().ok()? })
    }

    /// Status of an answer whose body may have no end.
    pub fn status(&self, path: &str, headers: &[(&str, &str)]) -> u16 {
        self.answer("GET", path, headers, None).status().as_u16()
    }

    fn try_answer(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Response<Body>, ureq::Error> {
        let mut request = self.request(method, path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        match body {
            Some(body) => self.agent.run(request.body(body).expect("request")),
            None => self.agent.run(request.body(()).expect("request")),
        }
    }

    /// A request with what every request of this client says.
    fn request(&self, method: &str, path: &str) -> Builder {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        if let Some(host) = &self.host {
            request = request.header("host", host);
        }
        request
    }

    /// Opens a ticket and gives its id.
    pub fn open_ticket(&self, body: &str) -> String {
        self.open_ticket_with(&json!({ "body": body }))
    }

    pub fn open_ticket_with(&self, ticket: &Value) -> String {
        let reply = self.post("/v1/tickets", ticket);
        assert_eq!(reply.status, 201, "{}", reply.body);
        reply.json()["ticket_id"].as_str().expect("id").to_owned()
    }

    /// Opens a ticket and waits until it is worked on; gives the ticket's view.
    pub fn worked_ticket(&self, body: &str) -> Value {
        let id = self.open_ticket(body);
        self.worked(&id)
    }

    /// The ticket's view once it is no longer `received`.
    pub fn worked(&self, id: &str) -> Value {
        let until = Instant::now() + LIMIT;
        loop {
            let view = self.view(id);
            if view["ticket"]["state"] != "received" {
                return view;
            }
            assert!(Instant::now() < until, "ticket {id} was not worked on in time: {view}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn view(&self, id: &str) -> Value {
        let reply = self.get(&format!("/v1/tickets/{id}"));
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()
    }

    /// Ids of the memory items that a search finds.
    pub fn search(&self, words: &str) -> Vec<String> {
        let reply = self.get(&format!("/v1/memory/search?q={}", encode(words)));
        assert_eq!(reply.status, 200, "{}", reply.body);
        ids(&reply.json())
    }

    /// A ticket's events as they come.
    pub fn events(&self, id: &str, after: Option<&str>) -> impl Iterator<Item = Event> + use<> {
        let mut request = self.request("GET", &format!("/v1/tickets/{id}/events"));
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let response = self.agent.run(request.body(()).expect("request")).expect("events");
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let lines = BufReader::new(response.into_body().into_reader()).lines();
        let mut event = Event { id: String::new(), kind: String::new(), data: Value::Null };
        lines.map_while(Result::ok).filter_map(move |line| {
            if let Some((field, value)) = line.split_once(": ") {
                match field {
                    "id" => event.id = value.to_owned(),
                    "event" => event.kind = value.to_owned(),
                    "data" => event.data = serde_json::from_str(value).expect("JSON data"),
                    _ => {}
                }
            }
            // An empty line ends an event; comments (keep-alive) have no kind.
            (line.is_empty() && !event.kind.is_empty()).then(|| {
                std::mem::replace(&mut event, Event { id: String::new(), kind: String::new(), data: Value::Null })
            })
        })
    }

    /// A ticket's events up to the first of this kind, with it.
    pub fn events_until(&self, id: &str, after: Option<&str>, kind: &str) -> Vec<Event> {
        let mut seen = Vec::new();
        for event in self.events(id, after) {
            let last = event.kind == kind;
            seen.push(event);
            if last {
                return seen;
            }
        }
        panic!("the stream ended before `{kind}`: {:?}", seen.iter().map(|e| &e.kind).collect::<Vec<_>>());
    }
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Checks that this is an error in the form of RFC 9457 with `status`, and gives its detail.
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.body);
        let problem = self.json();
        assert_eq!(problem["status"], status, "{problem}");
        assert!(problem["type"].as_str().is_some_and(|kind| kind.starts_with("urn:respondo:problem:")), "{problem}");
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{problem}");
        let detail = problem["detail"].as_str().expect("detail").to_owned();
        assert!(!detail.is_empty(), "{problem}");
        detail
    }
}

/// Ids of found items.
pub fn ids(found: &Value) -> Vec<String> {
    let found = found.as_array().expect("list").iter();
    found.map(|found| found["item"]["id"].as_str().expect("id").to_owned()).collect()
}

/// Percent-encodes all but letters and digits.
pub fn encode(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}
