//! Embeddings from a server that speaks OpenAI's `/v1/embeddings`: vLLM, llama.cpp, Ollama, text-embeddings-inference
//! or a hosted service.

use std::fmt;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use ureq::Agent;

use super::{EmbedError, Embedder, Prefixes, Role, cut, normalise};

/// Stands for a text without a visible character, which most servers refuse.
const BLANK_TEXT: &str = "-";
const WAIT_BEFORE_RETRY: Duration = Duration::from_millis(250);
/// Characters of a server's own error message that are shown.
const SHOWN_ERROR_BYTES: usize = 300;
/// 2,048 vectors of 4,096 numbers in decimal stay below this.
const LARGEST_ANSWER_BYTES: u64 = 256 << 20;

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
    /// For one request from connecting to the last byte.
    pub timeout: Duration,
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
            batch: 64,
            max_text_bytes: 1_500,
        }
    }
}

/// As derived, without the key.
impl fmt::Debug for OpenAiOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OpenAiOptions")
            .field("base_url", &self.base_url)
            .field("model", &self.model)
            .field("api_key", &self.api_key.as_ref().map(|_| "set"))
            .field("dimensions", &self.dimensions)
            .field("prefixes", &self.prefixes)
            .field("timeout", &self.timeout)
            .field("batch", &self.batch)
            .field("max_text_bytes", &self.max_text_bytes)
            .finish()
    }
}

/// An [`Embedder`] behind HTTP. Every call blocks for at most two timeouts per batch.
pub struct OpenAiEmbedder {
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
        let mut embedder = Self {
            agent: Agent::config_builder()
                .timeout_global(Some(options.timeout))
                .http_status_as_error(false)
                .build()
                .new_agent(),
            url: format!("{base}/embeddings"),
            name: format!("openai:{}:{:?}", options.model, options.prefixes),
            dimensions: options.dimensions.unwrap_or(0),
            options,
        };
        if embedder.options.base_url.is_empty() || embedder.options.model.is_empty() {
            return Err(embedder.failure("set both the address (base_url) and the model's name (model)"));
        }
        if embedder.dimensions == 0 {
            let probe = embedder.request(&[BLANK_TEXT.to_string()])?;
            embedder.dimensions = probe.first().map_or(0, Vec::len);
        }
        Ok(embedder)
    }

    /// One batch, tried a second time where that may help.
    fn request(&self, inputs: &[String]) -> Result<Vec<Vec<f32>>, EmbedError> {
        match self.try_request(inputs) {
            Ok(vectors) => Ok(vectors),
            Err(failure) if failure.may_pass => {
                thread::sleep(WAIT_BEFORE_RETRY);
                self.try_request(inputs).map_err(|failure| self.failure(failure.reason))
            }
            Err(failure) => Err(self.failure(failure.reason)),
        }
    }

    fn try_request(&self, inputs: &[String]) -> Result<Vec<Vec<f32>>, Failure> {
        let mut request = self.agent.post(&self.url);
        if let Some(key) = &self.options.api_key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let body = Request { model: &self.options.model, input: inputs, encoding_format: "float" };
        let mut response = request
            .send_json(&body)
            .map_err(|error| Failure { may_pass: may_pass(&error), reason: format!("no answer: {error}") })?;
        let status = response.status();
        let answer = response.body_mut().with_config().limit(LARGEST_ANSWER_BYTES).read_to_vec();
        let answer = answer
            .map_err(|error| Failure { may_pass: may_pass(&error), reason: format!("answer broke off: {error}") })?;
        if !status.is_success() {
            let may_pass = status.as_u16() == 429 || status.is_server_error();
            let shown = String::from_utf8_lossy(&answer);
            let reason = format!("status {status}{}: {}", advice(status.as_u16()), cut(&shown, SHOWN_ERROR_BYTES));
            return Err(Failure { may_pass, reason });
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
        EmbedError::Endpoint { url: self.url.clone(), reason: reason.into() }
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
            vectors.extend(self.request(&inputs)?);
        }
        Ok(vectors)
    }
}

struct Failure {
    /// Whether the same request may succeed a moment later.
    may_pass: bool,
    reason: String,
}

impl Failure {
    fn lasting(reason: String) -> Self {
        Self { may_pass: false, reason }
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

/// A connection that was refused or lost may come back; a request that ran out of time has had its time.
fn may_pass(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::Io(_) | ureq::Error::ConnectionFailed)
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
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;

    /// Answers one connection per given answer, in order, and returns the requests' heads and bodies.
    fn server(answers: Vec<(u16, &'static str)>) -> (String, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/v1/", listener.local_addr().expect("bound"));
        let handle = thread::spawn(move || {
            answers.into_iter().map(|(status, body)| answer_once(&listener, status, body)).collect()
        });
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
}
