//! What a client of the service sees, over its own connections.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::bench::requests::Row;

/// Longest wait for an answer; what takes longer has failed.
const LIMIT: Duration = Duration::from_secs(60);

/// A client of one service; clones share their connections.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    url: String,
    bearer: Option<String>,
}

/// What came back for one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Memory items in the answer.
    pub evidence: usize,
    /// A stage failed or ran out of time.
    pub degraded: bool,
}

/// What became of a message that was offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is on disk, as the ticket of this id.
    Accepted(String),
    /// Too much is waiting (429).
    Refused,
}

impl Client {
    pub fn new(url: String, key: Option<String>) -> Self {
        let agent = ureq::Agent::config_builder().timeout_global(Some(LIMIT)).max_idle_connections_per_host(64).build();
        let bearer = key.filter(|key| !key.is_empty()).map(|key| format!("Bearer {key}"));
        Self { agent: agent.into(), url, bearer }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// True when `/readyz` says 200.
    pub fn is_ready(&self) -> bool {
        self.get("/readyz").is_ok()
    }

    /// `GET /healthz`.
    ///
    /// # Errors
    /// When it is not answered with 200.
    pub fn health(&self) -> Result<()> {
        self.get("/healthz").map(drop)
    }

    /// `GET /metrics`, the Prometheus text.
    ///
    /// # Errors
    /// When it is not answered with 200.
    pub fn metrics(&self) -> Result<String> {
        self.get("/metrics")
    }

    /// `POST /v1/triage`: one answer with the judgement and the evidence, no ticket.
    ///
    /// # Errors
    /// When it is refused or takes too long.
    pub fn triage(&self, row: &Row) -> Result<Answered> {
        let answer = self.post("/v1/triage", row)?;
        let length = |key: &str| answer.get(key).and_then(Value::as_array).map_or(0, Vec::len);
        Ok(Answered { evidence: length("evidence"), degraded: length("degraded") > 0 })
    }

    /// `POST /v1/tickets`, then the ticket's event stream until an event of the kind `until` (or the decision, which is
    /// the last); gives what its evidence event held, and when `until` came, if it did.
    ///
    /// # Errors
    /// When the ticket is refused, the stream ends early, or it takes too long.
    pub fn ticket(&self, row: &Row, until: &str) -> Result<(Answered, Option<Instant>)> {
        let accepted = self.post("/v1/tickets", row)?;
        let events = accepted.get("events").and_then(Value::as_str).context("the answer names no events")?;
        let mut response = self.authorised(self.agent.get(format!("{}{events}", self.url))).call()?;
        let mut lines = BufReader::new(response.body_mut().as_reader()).lines();
        let (mut kind, mut evidence) = (String::new(), 0);
        while let Some(line) = lines.next().transpose()? {
            if let Some(name) = line.strip_prefix("event:") {
                name.trim().clone_into(&mut kind);
            }
            let Some(data) = line.strip_prefix("data:") else { continue };
            if kind == "evidence" {
                evidence = serde_json::from_str::<Vec<Value>>(data).map_or(0, |items| items.len());
            }
            let answered = Answered { evidence, degraded: false };
            if kind == until {
                return Ok((answered, Some(Instant::now())));
            }
            if kind == "decision" {
                return Ok((answered, None));
            }
        }
        bail!("the event stream ended before `{until}`")
    }

    /// `POST /v1/tickets` under an idempotency key, without waiting for more.
    ///
    /// # Errors
    /// When it is neither accepted nor refused for what is waiting.
    pub fn offer(&self, row: &Row, key: &str) -> Result<Offered> {
        let body = json!({ "subject": row.subject, "body": row.body });
        let request = self.authorised(self.agent.post(format!("{}/v1/tickets", self.url)));
        match request.header("idempotency-key", key).send_json(body) {
            Ok(mut response) => {
                let accepted: Value = response.body_mut().read_json()?;
                let id = accepted.get("ticket_id").and_then(Value::as_str).context("the answer names no ticket")?;
                Ok(Offered::Accepted(id.to_owned()))
            }
            Err(ureq::Error::StatusCode(429)) => Ok(Offered::Refused),
            Err(error) => Err(error.into()),
        }
    }

    /// `GET /v1/tickets/{id}`.
    ///
    /// # Errors
    /// When it is not answered with 200.
    pub fn view(&self, id: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.get(&format!("/v1/tickets/{id}"))?)?)
    }

    fn get(&self, path: &str) -> Result<String> {
        Ok(self.authorised(self.agent.get(format!("{}{path}", self.url))).call()?.body_mut().read_to_string()?)
    }

    fn post(&self, path: &str, row: &Row) -> Result<Value> {
        let body = json!({ "subject": row.subject, "body": row.body });
        let response = self.authorised(self.agent.post(format!("{}{path}", self.url))).send_json(body);
        Ok(response?.body_mut().read_json()?)
    }

    fn authorised<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.bearer {
            Some(bearer) => request.header("authorization", bearer),
            None => request,
        }
    }
}
