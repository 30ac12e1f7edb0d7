//! A client that takes any status as an answer, and knows when there was none.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use ureq::http::Request;
use uuid::Uuid;

/// Longest wait for one answer.
const LIMIT: Duration = Duration::from_secs(60);

/// Clones share their connections.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    bearer: Option<String>,
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    /// JSON; null where it is none.
    pub body: Value,
}

/// One server-sent event.
#[derive(Clone, Debug)]
pub struct Told {
    pub id: String,
    pub kind: String,
    pub data: Value,
}

impl Client {
    pub fn new(key: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(LIMIT))
            .max_redirects(0)
            .proxy(None)
            .build();
        Self { agent: config.into(), bearer: (!key.is_empty()).then(|| format!("Bearer {key}")) }
    }

    /// Asks for `path` of the service at `url`.
    ///
    /// # Errors
    /// When the connection is refused or cut off: whether the request was taken is then unknown.
    pub fn get(&self, url: &str, path: &str) -> Result<Reply> {
        reply(self.agent.run(self.request("GET", url, path).body(())?)?)
    }

    /// Sends JSON, with an idempotency key where there is one.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post(&self, url: &str, path: &str, key: Option<&str>, body: &Value) -> Result<Reply> {
        let mut request = self.request("POST", url, path).header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        reply(self.agent.run(request.body(body.to_string())?)?)
    }

    /// A ticket's events from its first on, up to one of which `last` is true, with it; at most for `limit`.
    ///
    /// # Errors
    /// When the stream cannot be opened, or ends before.
    pub fn events(&self, url: &str, ticket: Uuid, limit: Duration, last: impl Fn(&Told) -> bool) -> Result<Vec<Told>> {
        let request = self.request("GET", url, &format!("/v1/tickets/{ticket}/events")).body(())?;
        let request = self.agent.configure_request(request).timeout_global(Some(limit)).build();
        let mut response = self.agent.run(request)?;
        let mut told = Vec::new();
        let (mut id, mut kind, mut data) = (String::new(), String::new(), Value::Null);
        for line in BufReader::new(response.body_mut().as_reader()).lines() {
            let line = line?;
            if let Some((field, value)) = line.split_once(": ") {
                match field {
                    "id" => value.clone_into(&mut id),
                    "event" => value.clone_into(&mut kind),
                    "data" => data = serde_json::from_str(value).context("an event's data")?,
                    _ => {}
                }
            }
            // An empty line ends an event; comments have no kind.
            if line.is_empty() && !kind.is_empty() {
                let event = Told { id: id.clone(), kind: std::mem::take(&mut kind), data: data.take() };
                let is_last = last(&event);
                told.push(event);
                if is_last {
                    return Ok(told);
                }
            }
        }
        anyhow::bail!("the stream of ticket {ticket} ended early")
    }

    fn request(&self, method: &str, url: &str, path: &str) -> ureq::http::request::Builder {
        let request = Request::builder().method(method).uri(format!("{url}{path}"));
        match &self.bearer {
            Some(bearer) => request.header("authorization", bearer),
            None => request,
        }
    }
}

fn reply(mut response: ureq::http::Response<ureq::Body>) -> Result<Reply> {
    let status = response.status().as_u16();
    // Read whole before it counts: an answer that was cut off is none.
    let text = response.body_mut().with_config().limit(64 << 20).read_to_string()?;
    Ok(Reply { status, body: serde_json::from_str(&text).unwrap_or_default() })
}
