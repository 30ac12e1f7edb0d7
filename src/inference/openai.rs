//! Any OpenAI-compatible chat endpoint (vLLM, Ollama, llama.cpp server, a hosted model) as a generator.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use super::generator::{GenerateError, GenerateRequest, Generation, Generator, Step, StopReason};
use crate::endpoint::address;

/// Pieces read ahead of whom they are told to; behind that the server waits.
const AHEAD: usize = 64;
/// How often a caller that has had enough is asked while the server is silent.
const LOOK: Duration = Duration::from_millis(50);
/// Longest line of a stream, and most bytes of all of them: a reply has some 100 lines of 300 bytes.
const LONGEST_LINE_BYTES: u64 = 256 << 10;
const LARGEST_STREAM_BYTES: u64 = 8 << 20;
/// What is read of a refusal.
const REFUSAL_BYTES: u64 = 4 << 10;
/// Bytes that a token may have on average before a server that ignores the limit is stopped.
const BYTES_PER_TOKEN: usize = 32;

/// How to reach a model server.
#[derive(Clone)]
pub struct Endpoint {
    /// Base address, with or without the trailing `/v1`.
    pub url: String,
    pub model: String,
    pub api_key: Option<String>,
    /// For one reply, from connecting to the last word.
    pub timeout: Duration,
    /// Longest wait for the first word and between two words.
    pub silence: Duration,
}

/// As derived, without the key and the address's user.
impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Endpoint")
            .field("url", &address::shown(&self.url))
            .field("model", &self.model)
            .field("api_key", &self.api_key.as_ref().map(|_| "set"))
            .field("timeout", &self.timeout)
            .field("silence", &self.silence)
            .finish()
    }
}

/// Streams from `POST {url}/chat/completions`. A clone is a further connection to the same server.
#[derive(Clone)]
pub struct OpenAiGenerator {
    connection: Arc<Connection>,
}

struct Connection {
    endpoint: Endpoint,
    url: String,
    agent: ureq::Agent,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct Delta {
    content: Option<String>,
}

/// News of a stream.
enum Piece {
    Text(String),
    Done(StopReason),
}

/// Why there is no reply.
struct Failure {
    /// The server lives and does not want this prompt.
    refused: bool,
    reason: String,
}

impl Failure {
    fn new(reason: impl Into<String>) -> Self {
        Self { refused: false, reason: reason.into() }
    }
}

impl OpenAiGenerator {
    pub fn new(endpoint: Endpoint) -> Self {
        let mut config = ureq::Agent::config_builder()
            .timeout_connect(Some(endpoint.timeout.min(Duration::from_secs(3))))
            .timeout_global(Some(endpoint.timeout))
            .http_status_as_error(false)
            // A customer's text goes to the server that was named and to no other.
            .max_redirects(0);
        if !address::is_outside(&endpoint.url) {
            config = config.proxy(None);
        }
        let base = endpoint.url.trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base);
        let url = format!("{base}/v1/chat/completions");
        Self { connection: Arc::new(Connection { url, agent: config.build().into(), endpoint }) }
    }

    /// Tells the caller what the reader hears, until one of them has enough.
    fn follow(
        &self,
        pieces: &Receiver<Result<Piece, Failure>>,
        max_tokens: usize,
        on_step: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> Result<Generation, Failure> {
        let endpoint = &self.connection.endpoint;
        let (started, mut heard) = (Instant::now(), Instant::now());
        let mut written = Generation {
            text: String::new(),
            stop: StopReason::Cancelled,
            prompt_tokens: 0,
            reused_tokens: 0,
            written_tokens: 0,
        };
        loop {
            let step = match pieces.recv_timeout(LOOK) {
                Ok(Ok(Piece::Text(text))) => {
                    heard = Instant::now();
                    written.text.push_str(&text);
                    written.written_tokens += 1;
                    on_step(Step::Text(&text))
                }
                Ok(Ok(Piece::Done(StopReason::End))) if written.text.trim().is_empty() => {
                    return Err(Failure::new("the server wrote nothing"));
                }
                Ok(Ok(Piece::Done(stop))) => return Ok(Generation { stop, ..written }),
                Ok(Err(failure)) => return Err(failure),
                Err(RecvTimeoutError::Timeout) => on_step(Step::Reading),
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::new("stream broke off")),
            };
            if step.is_break() {
                return Ok(written);
            }
            if written.text.len() > max_tokens.saturating_mul(BYTES_PER_TOKEN) {
                return Ok(Generation { stop: StopReason::Length, ..written });
            }
            if started.elapsed() > endpoint.timeout {
                return Err(Failure::new(format!("not done after {:.1} s", endpoint.timeout.as_secs_f32())));
            }
            if heard.elapsed() > endpoint.silence {
                return Err(Failure::new(format!("timeout: silent for {:.1} s", endpoint.silence.as_secs_f32())));
            }
        }
    }

    fn error(&self, failure: &Failure) -> GenerateError {
        let endpoint = &self.connection.endpoint;
        let url = address::shown(&endpoint.url);
        let reason = address::without_secrets(&failure.reason, &endpoint.url, endpoint.api_key.as_deref());
        if failure.refused { GenerateError::Refused { url, reason } } else { GenerateError::Endpoint { url, reason } }
    }
}

impl Connection {
    fn body(&self, request: &GenerateRequest) -> Value {
        let messages: Vec<_> =
            request.turns.iter().map(|turn| json!({"role": turn.role.name(), "content": turn.content})).collect();
        json!({
            "model": self.endpoint.model,
            "messages": messages,
            "max_tokens": request.max_tokens,
            "temperature": 0,
            "stream": true,
        })
    }

    /// Asks the server and passes its words on until they end or nobody listens.
    fn read(&self, body: &Value, pieces: &SyncSender<Result<Piece, Failure>>) -> Result<(), Failure> {
        let mut stream = self.open(body)?.take(LARGEST_STREAM_BYTES);
        let ended = pass_on(&mut stream, pieces);
        // Whatever the cut made of its last line.
        if stream.limit() == 0 {
            return Err(Failure::new(format!("stream has more than {LARGEST_STREAM_BYTES} bytes")));
        }
        // Nobody may be listening any more.
        drop(pieces.send(Ok(Piece::Done(ended?))));
        Ok(())
    }

    fn open(&self, body: &Value) -> Result<impl BufRead + use<>, Failure> {
        let mut call = self.agent.post(&self.url);
        if let Some(key) = &self.endpoint.api_key {
            call = call.header("authorization", format!("Bearer {key}"));
        }
        let mut response = call.send_json(body).map_err(|error| Failure::new(format!("no answer: {error}")))?;
        let status = response.status().as_u16();
        if !response.status().is_success() {
            let mut said = Vec::new();
            // What can be read of it is enough.
            drop(response.body_mut().as_reader().take(REFUSAL_BYTES).read_to_end(&mut said));
            let said = String::from_utf8_lossy(&said);
            let reason = format!("HTTP {status}{} {}", advice(status), said.trim());
            return Err(Failure { refused: matches!(status, 400 | 413 | 422), reason });
        }
        Ok(BufReader::new(response.into_body().into_reader()))
    }
}

impl Generator for OpenAiGenerator {
    fn name(&self) -> &str {
        &self.connection.endpoint.model
    }

    fn is_local(&self) -> bool {
        false
    }

    /// A thread of its own reads the stream, so that a server that hangs, in whatever state, keeps nobody waiting: what is
    /// left of it ends with the endpoint's timeout.
    fn generate(
        &mut self,
        request: &GenerateRequest,
        on_step: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> Result<Generation, GenerateError> {
        let (connection, body) = (Arc::clone(&self.connection), self.connection.body(request));
        let (sender, pieces) = sync_channel(AHEAD);
        let reading = move || {
            if let Err(failure) = connection.read(&body, &sender) {
                // Nobody may be listening any more.
                drop(sender.send(Err(failure)));
            }
        };
        let spawned = std::thread::Builder::new().name("model-server".to_owned()).spawn(reading);
        let followed = spawned
            .map_err(|error| Failure::new(format!("cannot start a thread: {error}")))
            .and_then(|_| self.follow(&pieces, request.max_tokens, on_step));
        followed.map_err(|failure| self.error(&failure))
    }
}

/// Passes the words of a stream on; gives why it ended.
fn pass_on(stream: &mut impl BufRead, pieces: &SyncSender<Result<Piece, Failure>>) -> Result<StopReason, Failure> {
    let mut stop = None;
    while let Some(line) = next_line(stream)? {
        let Some(data) = line.strip_prefix("data:").map(str::trim) else { continue };
        if data == "[DONE]" {
            return Ok(stop.unwrap_or(StopReason::End));
        }
        let chunk: Chunk =
            serde_json::from_str(data).map_err(|error| Failure::new(format!("stream is not JSON: {error}")))?;
        if let Some(error) = chunk.error {
            return Err(Failure::new(format!("the server broke off: {error}")));
        }
        // We ask for one reply; further ones would be mixed into it.
        let Some(choice) = chunk.choices.into_iter().next() else { continue };
        if let Some(text) = choice.delta.content.filter(|text| !text.is_empty())
            && pieces.send(Ok(Piece::Text(text))).is_err()
        {
            return Ok(StopReason::Cancelled);
        }
        match choice.finish_reason.as_deref() {
            Some("length") => stop = Some(StopReason::Length),
            Some(_) => stop = Some(StopReason::End),
            None => {}
        }
    }
    stop.ok_or_else(|| Failure::new("stream ended without a finish reason"))
}

/// The words of a whole stream, or in words what is wrong with it.
pub(crate) fn words_of(mut stream: &[u8]) -> Result<String, String> {
    // No piece takes fewer bytes than the names of its fields.
    let (sender, pieces) = sync_channel(stream.len() / 16 + 1);
    let ended = pass_on(&mut stream, &sender);
    drop(sender);
    let words = pieces.iter().filter_map(|piece| match piece {
        Ok(Piece::Text(text)) => Some(text),
        _ => None,
    });
    let words = words.collect();
    ended.map(|_| words).map_err(|failure| failure.reason)
}

/// The next line without its end; None when the stream is over.
fn next_line(stream: &mut impl BufRead) -> Result<Option<String>, Failure> {
    let mut line = Vec::new();
    let read = stream.take(LONGEST_LINE_BYTES).read_until(b'\n', &mut line);
    let read = read.map_err(|error| Failure::new(format!("stream broke off: {error}")))?;
    if read as u64 == LONGEST_LINE_BYTES && !line.ends_with(b"\n") {
        return Err(Failure::new(format!("stream has a line of more than {LONGEST_LINE_BYTES} bytes")));
    }
    let line = String::from_utf8(line).map_err(|_| Failure::new("stream is not UTF-8"))?;
    Ok((read > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned()))
}

fn advice(status: u16) -> &'static str {
    match status {
        300..=399 => " (redirects are not followed; give the address it leads to)",
        401 | 403 => " (check the API key)",
        404 => " (check the address and the model's name)",
        429 => " (the server is overloaded or a quota is used up)",
        _ => "",
    }
}

#[cfg(test)]
#[path = "openai_tests.rs"]
mod tests;
