//! Embeddings from a server that speaks OpenAI's `/v1/embeddings`: vLLM, llama.cpp, Ollama, text-embeddings-inference
//! or a hosted service.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use ureq::Agent;

use super::{EmbedError, Embedder, Prefixes, Role, cut, normalise};
use crate::endpoint::address;
use crate::endpoint::breaker::{Breaker, Health};

/// Stands for a text without a visible character, which most servers refuse.
const BLANK_TEXT: &str = "-";
const WAIT_BEFORE_RETRY: Duration = Duration::from_millis(250);
/// What is read of an answer: this and, for each text, a vector of 8,192 numbers of 32 bytes in decimal.
const ANSWER_BYTES: u64 = 1 << 20;
const VECTOR_BYTES: u64 = 8_192 * 32;

/// Where the embeddings come from.
#[derive(Clone)]
pub struct OpenAiOptions {
    /// Address up to and including `/v1`, as in `http://127.0.0.1:8080/v1`.
    pub base_url: String,
    /// The model's name on that server.
    pub model: String,
    /// Sent as a bearer token where set.
    pub api_key: Option<String>,
    /// Length of the vectors; asked of the server where not set.
    pub dimensions: Option<usize>,
    pub prefixes: Prefixes,
    /// For one request with passages from connecting to the last byte.
    pub timeout: Duration,
    /// The same for a customer's request, which is answered by words alone where vectors take too long.
    pub query_timeout: Duration,
    /// Texts in one request, at least 1.
    pub batch: usize,
    /// Longer texts are cut to this many bytes, since many servers refuse what their model cannot read.
    pub max_text_bytes: usize,
}

impl Default for OpenAiOptions {
    fn default() -> Self {
        Self {
            base_url: String::new(),
            model: String::new(),
            api_key: None,
            dimensions: None,
            prefixes: Prefixes::default(),
            timeout: Duration::from_secs(30),
            query_timeout: Duration::from_secs(3),
            batch: 64,
            max_text_bytes: 1_500,
        }
    }
}

/// As derived, without the key and the address's user.
impl fmt::Debug for OpenAiOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OpenAiOptions")
            .field("base_url", &address::shown(&self.base_url))
            .field("model", &self.model)
            .field("api_key", &self.api_key.as_ref().map(|_| "set"))
            .field("dimensions", &self.dimensions)
            .field("prefixes", &self.prefixes)
            .field("timeout", &self.timeout)
            .field("query_timeout", &self.query_timeout)
            .field("batch", &self.batch)
            .field("max_text_bytes", &self.max_text_bytes)
            .finish()
    }
}

/// An [`Embedder`] behind HTTP. Every call blocks for at most two timeouts per batch; after failures in a row the server
/// rests, and calls fail at once.
pub struct OpenAiEmbedder {
    breaker: Arc<Breaker>,
    agent: Agent,
    url: String,
    name: String,
    dimensions: usize,
    options: OpenAiOptions,
}

impl OpenAiEmbedder {
    /// Prepares the connection. Asks the server once when the number of dimensions is not set.
    ///
    /// # Errors
    /// [`EmbedError::Endpoint`] when address or model are empty, or the server does not answer as it should.
    pub fn new(options: OpenAiOptions) -> Result<Self, EmbedError> {
        let base = options.base_url.trim_end_matches('/');
        let mut config = Agent::config_builder()
            .timeout_connect(Some(options.timeout.min(Duration::from_secs(3))))
            .http_status_as_error(false)
            // Texts go to the server that was named and to no other.
            .max_redirects(0);
        if !address::is_outside(&options.base_url) {
            config = config.proxy(None);
        }
        let mut embedder = Self {
            breaker: Arc::default(),
            agent: config.build().new_agent(),
            url: format!("{base}/embeddings"),
            name: format!("openai:{}:{:?}", options.model, options.prefixes),
            dimensions: options.dimensions.unwrap_or(0),
            options,
        };
        if embedder.options.base_url.is_empty() || embedder.options.model.is_empty() {
            return Err(embedder.failure("set both the address (base_url) and the model's name (model)"));
        }
        if embedder.dimensions == 0 {
            let probe = embedder.request(&[BLANK_TEXT.to_string()], Role::Passage)?;
            embedder.dimensions = probe.first().map_or(0, Vec::len);
        }
        Ok(embedder)
    }

    /// One batch, tried a second time where that may help.
    fn request(&self, inputs: &[String], role: Role) -> Result<Vec<Vec<f32>>, EmbedError> {
        if !self.breaker.admit(Instant::now()) {
            let Health::Rests { left, reason } = self.breaker.health(Instant::now()) else {
                return Err(self.failure("rests; its rest has just ended"));
            };
            return Err(self.failure(format!("rests for {} s after failures: {reason}", left.as_secs())));
        }
        let tried = match self.try_request(inputs, role) {
            Err(failure) if failure.may_pass => {
                thread::sleep(WAIT_BEFORE_RETRY);
                self.try_request(inputs, role)
            }
            outcome => outcome,
        };
        match tried {
            Ok(vectors) => {
                self.breaker.succeeded();
                Ok(vectors)
            }
            Err(Failure { refused: true, reason, .. }) => {
                self.breaker.succeeded();
                Err(self.failure(reason))
            }
            Err(failure) => {
                metrics::counter!("respondo_model_server_failures_total", "task" => "embed").increment(1);
                self.breaker.failed(Instant::now(), &self.safe(&failure.reason));
                Err(self.failure(failure.reason))
            }
        }
    }

    fn try_request(&self, inputs: &[String], role: Role) -> Result<Vec<Vec<f32>>, Failure> {
        let limit = match role {
            Role::Query => self.options.query_timeout.min(self.options.timeout),
            Role::Passage => self.options.timeout,
        };
        let mut request = self.agent.post(&self.url).config().timeout_global(Some(limit)).build();
        if let Some(key) = &self.options.api_key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let body = Request { model: &self.options.model, input: inputs, encoding_format: "float" };
        let mut response = request.send_json(&body).map_err(|error| Failure::of_connection("no answer", &error))?;
        let status = response.status();
        let most = ANSWER_BYTES + VECTOR_BYTES * inputs.len() as u64;
        let answer = response.body_mut().with_config().limit(most).read_to_vec();
        let answer = answer.map_err(|error| Failure::of_connection("answer broke off", &error))?;
        if !status.is_success() {
            let may_pass = status.as_u16() == 429 || status.is_server_error();
            let shown = String::from_utf8_lossy(&answer);
            let reason = format!("status {status}{}: {shown}", advice(status.as_u16()));
            return Err(Failure { may_pass, refused: matches!(status.as_u16(), 400 | 413 | 422), reason });
        }
        let answer: Answer = serde_json::from_slice(&answer)
            .map_err(|error| Failure::lasting(format!("answer is no list of embeddings: {error}")))?;
        self.ordered(answer, inputs.len()).map_err(Failure::lasting)
    }

    /// The vectors in the order of the texts, after checking that none is missing or of another length.
    fn ordered(&self, answer: Answer, wanted: usize) -> Result<Vec<Vec<f32>>, String> {
        let mut vectors = vec![Vec::new(); wanted];
        for item in answer.data {
            let Some(slot) = vectors.get_mut(item.index) else {
                return Err(format!("answer has an embedding number {} for {wanted} texts", item.index));
            };
            *slot = item.embedding;
        }
        for vector in &mut vectors {
            if vector.is_empty() || (self.dimensions > 0 && vector.len() != self.dimensions) {
                return Err(format!(
                    "answer has a vector of {} numbers where {} are wanted; is `dimensions` right for this model?",
                    vector.len(),
                    self.dimensions
                ));
            }
            // Such a vector would be found by everything or by nothing.
            if vector.iter().any(|value| !value.is_finite()) || vector.iter().all(|value| *value == 0.0) {
                return Err("answer has a vector that has no direction (zeros, or numbers out of range)".to_owned());
            }
            normalise(vector);
        }
        Ok(vectors)
    }

    fn input(&self, text: &str, role: Role) -> String {
        let text = cut(text.trim(), self.options.max_text_bytes);
        let text = if text.is_empty() { BLANK_TEXT } else { text };
        format!("{}{text}", self.options.prefixes.of(role))
    }

    fn failure(&self, reason: impl Into<String>) -> EmbedError {
        EmbedError::Endpoint { url: address::shown(&self.url), reason: self.safe(&reason.into()) }
    }

    /// Fit for logs and people.
    fn safe(&self, reason: &str) -> String {
        address::without_secrets(reason, &self.options.base_url, self.options.api_key.as_deref())
    }
}

impl Embedder for OpenAiEmbedder {
    fn name(&self) -> &str {
        &self.name
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn embed(&mut self, texts: &[&str], role: Role) -> Result<Vec<Vec<f32>>, EmbedError> {
        let mut vectors = Vec::with_capacity(texts.len());
        for batch in texts.chunks(self.options.batch.max(1)) {
            let inputs: Vec<String> = batch.iter().map(|text| self.input(text, role)).collect();
            vectors.extend(self.request(&inputs, role)?);
        }
        Ok(vectors)
    }

    fn breaker(&self) -> Option<Arc<Breaker>> {
        Some(Arc::clone(&self.breaker))
    }
}

struct Failure {
    /// Whether the same request may succeed a moment later.
    may_pass: bool,
    /// The server lives and does not want these texts.
    refused: bool,
    reason: String,
}

impl Failure {
    fn lasting(reason: String) -> Self {
        Self { may_pass: false, refused: false, reason }
    }

    /// A connection that was refused or lost may come back; a request that ran out of time has had its time.
    fn of_connection(what: &str, error: &ureq::Error) -> Self {
        let may_pass = matches!(error, ureq::Error::Io(_) | ureq::Error::ConnectionFailed);
        Self { may_pass, refused: false, reason: format!("{what}: {error}") }
    }
}

#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    input: &'a [String],
    encoding_format: &'a str,
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    index: usize,
    embedding: Vec<f32>,
}

fn advice(status: u16) -> &'static str {
    match status {
        401 | 403 => " (check the API key)",
        404 => " (check that the address ends in /v1 and the model's name)",
        429 => " (the server is overloaded or a quota is used up)",
        _ => "",
    }
}

#[cfg(test)]
#[path = "openai_tests.rs"]
mod tests;
