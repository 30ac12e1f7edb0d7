//! One question, one answer: `POST {url}/chat/completions` without streaming.

use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::JudgeOptions;

/// A verdict with reasons takes some 200 tokens; models that think aloud take more.
const ANSWER_TOKENS: usize = 2_000;
const LARGEST_ANSWER_BYTES: u64 = 1 << 20;
const SHOWN_ERROR_CHARACTERS: usize = 300;

pub(super) struct Client {
    options: JudgeOptions,
    agent: ureq::Agent,
    url: String,
}

/// Why there is no answer.
pub(super) struct Failure {
    /// No further question would be answered either.
    pub lasting: bool,
    pub reason: String,
}

/// A failure of one attempt.
struct Attempt {
    failure: Failure,
    may_pass: bool,
}

#[derive(Deserialize)]
struct Answer {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
}

impl Client {
    pub fn new(options: JudgeOptions) -> Self {
        let base = options.endpoint.url.trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base);
        let agent = ureq::Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(3)))
            .timeout_global(Some(options.endpoint.timeout))
            .http_status_as_error(false)
            .build()
            .into();
        Self { url: format!("{base}/v1/chat/completions"), agent, options }
    }

    pub fn model(&self) -> &str {
        &self.options.endpoint.model
    }

    /// The text of the model's answer, after as many attempts as the options allow.
    pub fn ask(&self, system: &str, user: &str, temperature: f64) -> Result<String, Failure> {
        let mut wait = self.options.wait;
        let mut left = self.options.attempts.max(1);
        loop {
            left -= 1;
            match self.attempt(system, user, temperature) {
                Err(attempt) if attempt.may_pass && left > 0 => {
                    thread::sleep(wait);
                    wait *= 2;
                }
                outcome => return outcome.map_err(|attempt| attempt.failure),
            }
        }
    }

    fn attempt(&self, system: &str, user: &str, temperature: f64) -> Result<String, Attempt> {
        let body = json!({
            "model": self.options.endpoint.model,
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
            "temperature": temperature,
            "max_tokens": ANSWER_TOKENS,
            "stream": false,
        });
        let mut call = self.agent.post(&self.url);
        if let Some(key) = &self.options.endpoint.api_key {
            call = call.header("authorization", format!("Bearer {key}"));
        }
        let mut response = call.send_json(&body).map_err(|error| self.broken("no answer", &error))?;
        let status = response.status();
        let text = response.body_mut().with_config().limit(LARGEST_ANSWER_BYTES).read_to_vec();
        let text = text.map_err(|error| self.broken("the answer broke off", &error))?;
        let text = String::from_utf8_lossy(&text);
        if !status.is_success() {
            let status = status.as_u16();
            return Err(Attempt {
                may_pass: matches!(status, 408 | 429 | 500..),
                failure: Failure {
                    lasting: matches!(status, 401 | 403 | 404 | 405),
                    reason: self.shown(&format!("HTTP {status}{}: {text}", advice(status))),
                },
            });
        }
        let answer: Option<Answer> = serde_json::from_str(&text).ok();
        let content = answer.and_then(|answer| answer.choices.into_iter().next()).map(|choice| choice.message.content);
        content.map(Option::unwrap_or_default).ok_or_else(|| {
            let reason = self.shown(&format!("the server's answer is no chat completion: {text}"));
            Attempt { may_pass: false, failure: Failure { lasting: false, reason } }
        })
    }

    /// A request that ran out of time has had its time; a lost connection may come back.
    fn broken(&self, what: &str, error: &ureq::Error) -> Attempt {
        let may_pass = matches!(error, ureq::Error::Io(_) | ureq::Error::ConnectionFailed);
        Attempt { may_pass, failure: Failure { lasting: false, reason: self.shown(&format!("{what}: {error}")) } }
    }

    /// With the address, without the key (which servers like to repeat), cut.
    fn shown(&self, reason: &str) -> String {
        let reason = match self.options.endpoint.api_key.as_deref().filter(|key| !key.is_empty()) {
            Some(key) => reason.replace(key, "(key)"),
            None => reason.to_owned(),
        };
        let reason: String = reason.chars().take(SHOWN_ERROR_CHARACTERS).collect();
        format!("{}: {reason}", self.url)
    }
}

fn advice(status: u16) -> &'static str {
    match status {
        401 | 403 => " (check the API key)",
        404 => " (check the address and the model's name)",
        429 => " (the server is overloaded or a quota is used up)",
        _ => "",
    }
}
