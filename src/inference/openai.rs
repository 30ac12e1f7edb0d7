//! Any OpenAI-compatible chat endpoint (vLLM, Ollama, llama.cpp server, a hosted model) as a generator.

use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::generator::{GenerateError, GenerateRequest, Generation, Generator, Step, StopReason};

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
        for line in self.open(request)?.lines() {
            let line = line.map_err(|e| self.failed(format!("stream broke off: {e}")))?;
            let Some(data) = line.strip_prefix("data:").map(str::trim) else { continue };
            if data == "[DONE]" {
                generation.stop = StopReason::End;
                return Ok(generation);
            }
            let chunk: Chunk =
                serde_json::from_str(data).map_err(|e| self.failed(format!("stream is not JSON: {e}")))?;
            for choice in chunk.choices {
                if let Some(text) = choice.delta.content.filter(|text| !text.is_empty()) {
                    generation.text.push_str(&text);
                    generation.written_tokens += 1;
                    if on_step(Step::Text(&text)).is_break() {
                        return Ok(generation);
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
            StopReason::Cancelled => Err(self.failed("stream ended without a finish reason")),
            _ => Ok(generation),
        }
    }
}
