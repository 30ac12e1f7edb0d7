//! Any OpenAI-compatible chat endpoint (vLLM, Ollama, llama.cpp server, a hosted model) as a generator.

use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::generator::{GenerateError, GenerateRequest, Generation, Generator, Step, StopReason};

/// Longest line of a stream, in bytes. A line holds a token or a few; a server that sends more is no chat endpoint, and what
/// is read of a line is kept in memory until it ends.
const LONGEST_LINE: u64 = 1 << 20;
/// Longest reply, in bytes: far above any `max_tokens`, which a server may disregard.
const LONGEST_REPLY: usize = 1 << 20;

/// How to reach a model server.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Base address, with or without the trailing `/v1`.
    pub url: String,
    pub model: String,
    pub api_key: Option<String>,
    pub timeout: Duration,
}

/// Streams from `POST {url}/chat/completions`.
pub struct OpenAiGenerator {
    endpoint: Endpoint,
    agent: ureq::Agent,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
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

impl OpenAiGenerator {
    pub fn new(endpoint: Endpoint) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(3)))
            .timeout_global(Some(endpoint.timeout))
            .http_status_as_error(false)
            .build()
            .into();
        Self { endpoint, agent }
    }

    fn failed(&self, reason: impl ToString) -> GenerateError {
        GenerateError::Endpoint { url: self.endpoint.url.clone(), reason: reason.to_string() }
    }

    fn open(&self, request: &GenerateRequest) -> Result<impl BufRead + use<>, GenerateError> {
        let base = self.endpoint.url.trim_end_matches('/');
        let base = if base.ends_with("/v1") { base.to_owned() } else { format!("{base}/v1") };
        let messages: Vec<_> =
            request.turns.iter().map(|turn| json!({"role": turn.role.name(), "content": turn.content})).collect();
        let body = json!({
            "model": self.endpoint.model,
            "messages": messages,
            "max_tokens": request.max_tokens,
            "temperature": 0,
            "stream": true,
        });
        let mut call = self.agent.post(format!("{base}/chat/completions"));
        if let Some(key) = &self.endpoint.api_key {
            call = call.header("authorization", format!("Bearer {key}"));
        }
        let mut response = call.send_json(&body).map_err(|e| self.failed(e))?;
        if !response.status().is_success() {
            let detail = response.body_mut().read_to_string().unwrap_or_default();
            let detail: String = detail.chars().take(300).collect();
            return Err(self.failed(format!("HTTP {} {detail}", response.status().as_u16())));
        }
        Ok(BufReader::new(response.into_body().into_reader()))
    }
}

impl Generator for OpenAiGenerator {
    fn name(&self) -> &str {
        &self.endpoint.model
    }

    fn is_local(&self) -> bool {
        false
    }

    fn generate(
        &mut self,
        request: &GenerateRequest,
        on_step: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> Result<Generation, GenerateError> {
        let mut generation = Generation {
            text: String::new(),
            stop: StopReason::Cancelled,
            prompt_tokens: 0,
            reused_tokens: 0,
            written_tokens: 0,
        };
        if on_step(Step::Reading).is_break() {
            return Ok(generation);
        }
        read_stream(self.open(request)?, &mut generation, on_step).map_err(|reason| self.failed(reason))?;
        Ok(generation)
    }
}

/// Reads a reply as server-sent events into `generation`, which is cancelled at first and stays so where a step breaks off.
///
/// # Errors
/// Says in words what is wrong with the stream.
pub(crate) fn read_stream(
    mut stream: impl BufRead,
    generation: &mut Generation,
    on_step: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
) -> Result<(), String> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = stream.by_ref().take(LONGEST_LINE + 1).read_until(b'\n', &mut line);
        if read.map_err(|error| format!("stream broke off: {error}"))? == 0 {
            break;
        }
        if line.len() as u64 > LONGEST_LINE {
            return Err(format!("stream has a line of more than {LONGEST_LINE} bytes"));
        }
        let text = std::str::from_utf8(&line).map_err(|_| "stream is not UTF-8".to_owned())?;
        let Some(data) = text.strip_prefix("data:").map(str::trim) else { continue };
        if data == "[DONE]" {
            generation.stop = StopReason::End;
            return Ok(());
        }
        let chunk: Chunk = serde_json::from_str(data).map_err(|error| format!("stream is not JSON: {error}"))?;
        for choice in chunk.choices {
            if let Some(text) = choice.delta.content.filter(|text| !text.is_empty()) {
                if generation.text.len() + text.len() > LONGEST_REPLY {
                    return Err(format!("reply is longer than {LONGEST_REPLY} bytes"));
                }
                generation.text.push_str(&text);
                generation.written_tokens += 1;
                if on_step(Step::Text(&text)).is_break() {
                    generation.stop = StopReason::Cancelled;
                    return Ok(());
                }
            }
            match choice.finish_reason.as_deref() {
                Some("length") => generation.stop = StopReason::Length,
                Some(_) => generation.stop = StopReason::End,
                None => {}
            }
        }
    }
    match generation.stop {
        StopReason::Cancelled => Err("stream ended without a finish reason".to_owned()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(stream: &[u8]) -> (Generation, Result<(), String>) {
        let mut generation = Generation {
            text: String::new(),
            stop: StopReason::Cancelled,
            prompt_tokens: 0,
            reused_tokens: 0,
            written_tokens: 0,
        };
        let result = read_stream(stream, &mut generation, &mut |_| ControlFlow::Continue(()));
        (generation, result)
    }

    #[test]
    fn pieces_are_put_together_up_to_the_end() {
        let stream = concat!(
            ": comment\r\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"Hola\"}}]}\r\n\r\n",
            "data:{\"choices\":[{\"delta\":{\"content\":\", Ana\"},\"finish_reason\":\"length\"}]}\n\n",
            "data: [DONE]\n\ndata: behind the end\n",
        );
        let (generation, result) = read(stream.as_bytes());
        assert_eq!((result, generation.text.as_str(), generation.written_tokens), (Ok(()), "Hola, Ana", 2));
    }

    #[test]
    fn a_stream_that_is_none_is_refused_in_words() {
        let refused = |stream: &[u8]| read(stream).1.expect_err("refused");
        assert!(refused(b"").contains("finish reason"));
        assert!(refused(b"data: {\n").contains("not JSON"));
        assert!(refused(b"data: \xff\n").contains("UTF-8"));
        let nested = format!("data: {}\n", "[".repeat(100_000));
        assert!(refused(nested.as_bytes()).contains("not JSON"));
    }

    #[test]
    fn a_line_or_a_reply_without_end_is_not_read_for_ever() {
        // A server that sends one line and never ends it.
        let endless = std::io::BufReader::new(std::io::repeat(b'x'));
        let mut generation = read(b"").0;
        let refused = read_stream(endless, &mut generation, &mut |_| ControlFlow::Continue(())).expect_err("refused");
        assert!(refused.contains("line"), "{refused}");
        let piece = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}\n", "x".repeat(100_000));
        let (generation, refused) = read(piece.repeat(20).as_bytes());
        assert!(refused.is_err_and(|reason| reason.contains("longer")));
        assert!(generation.text.len() <= LONGEST_REPLY);
    }
}
