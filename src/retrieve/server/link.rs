//! Calls to the server: each under a deadline, tried again where that may help, and refused at once where the breaker is
//! open. All calls that are made through it may be made twice.

use std::future::Future;
use std::time::{Duration, Instant};

use qdrant_client::{Qdrant, QdrantError};
use tonic::{Code, Status};

use super::breaker::{Breaker, BreakerState};
use super::settings::IndexSettings;
use crate::retrieve::RetrieveError;

/// Tries of one call, all within its deadline.
const TRIES: u32 = 3;
/// Pause before the second try; doubled for each further one, and spread from half of it to all of it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The major version that is spoken, and the least minor one: collections have metadata since 1.16.
const MAJOR: u32 = 1;
const LEAST_MINOR: u32 = 16;

/// Why a call failed.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub url: String,
    pub reason: String,
    /// The collection that the call names is not there.
    pub missing: bool,
}

impl From<Failure> for RetrieveError {
    fn from(failure: Failure) -> Self {
        Self::Server { url: failure.url, reason: failure.reason }
    }
}

pub(super) struct Link {
    client: Qdrant,
    pub url: String,
    breaker: Breaker,
}

impl Link {
    /// Nothing is sent yet.
    pub fn new(settings: &IndexSettings) -> Result<Self, RetrieveError> {
        let longest = settings.search_deadline().max(settings.write_deadline());
        let client = Qdrant::from_url(&settings.url)
            .api_key(Some(settings.api_key.clone()).filter(|key| !key.is_empty()))
            .timeout(longest)
            .connect_timeout(settings.search_deadline())
            // It would print to the terminal; ours is an error that says what to do.
            .skip_compatibility_check()
            .build();
        let refused =
            |error: QdrantError| RetrieveError::Server { url: settings.url.clone(), reason: error.to_string() };
        Ok(Self {
            client: client.map_err(refused)?,
            url: settings.url.clone(),
            breaker: Breaker::new(settings.breaker_failures, settings.breaker_pause()),
        })
    }

    pub fn breaker(&self) -> BreakerState {
        self.breaker.state()
    }

    /// A failure of this server that no call told of.
    pub fn failure(&self, reason: impl ToString) -> Failure {
        Failure { url: self.url.clone(), reason: reason.to_string(), missing: false }
    }

    /// Makes a call; a failure that may pass is tried again as long as the deadline allows.
    pub async fn call<T, F>(&self, deadline: Duration, request: impl Fn(Qdrant) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, QdrantError>>,
    {
        let started = Instant::now();
        self.breaker.allow(started).map_err(|reason| self.failure(reason))?;
        let mut pause = FIRST_PAUSE;
        let mut last = String::new();
        for attempt in 1..=TRIES {
            let left = deadline.saturating_sub(started.elapsed());
            let answer = tokio::time::timeout(left, request(self.client.clone())).await;
            let error = match answer {
                Ok(Ok(answer)) => {
                    self.breaker.succeeded();
                    return Ok(answer);
                }
                Ok(Err(error)) => error,
                Err(_) if last.is_empty() => {
                    last = format!("no answer within {:.1} s", deadline.as_secs_f32());
                    break;
                }
                Err(_) => break,
            };
            let refusal = status(&error).filter(|status| !may_pass(status.code()));
            if let Some(status) = refusal {
                // It answered, if not what was hoped for.
                self.breaker.succeeded();
                let missing = status.code() == Code::NotFound;
                return Err(Failure { missing, ..self.failure(words(&error)) });
            }
            last = words(&error);
            let wait = asked_pause(&error).unwrap_or_else(|| pause.mul_f32(0.5 + 0.5 * fastrand::f32()));
            if attempt == TRIES || started.elapsed() + wait >= deadline {
                break;
            }
            metrics::counter!("respondo_index_retries_total").increment(1);
            tokio::time::sleep(wait).await;
            pause *= 2;
        }
        metrics::counter!("respondo_index_failures_total").increment(1);
        self.breaker.failed(Instant::now(), &last);
        Err(self.failure(last))
    }

    /// The server's version, where it is one that we speak to.
    pub async fn version(&self, deadline: Duration) -> Result<String, Failure> {
        let reply = self.call(deadline, |client| async move { client.health_check().await }).await?;
        let mut numbers = reply.version.split(['.', '-']).map(str::parse::<u32>);
        let spoken = match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => major == MAJOR && minor >= LEAST_MINOR,
            _ => false,
        };
        if spoken {
            return Ok(reply.version);
        }
        Err(self.failure(format!(
            "it is {} of version {:?}; needed is a Qdrant server of version {MAJOR}.{LEAST_MINOR} or a later {MAJOR}.x",
            reply.title, reply.version
        )))
    }
}

fn status(error: &QdrantError) -> Option<&Status> {
    match error {
        QdrantError::ResponseError { status } | QdrantError::ResourceExhaustedError { status, .. } => Some(status),
        _ => None,
    }
}

/// Whether the same call may succeed a moment later. The client tells of a connection that cannot be made as `Internal`
/// and of one that broke as `Unknown` or `Cancelled`.
fn may_pass(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Internal
            | Code::Unknown
            | Code::Cancelled
            | Code::Aborted
    )
}

/// The pause that the server asks for.
fn asked_pause(error: &QdrantError) -> Option<Duration> {
    match error {
        QdrantError::ResourceExhaustedError { retry_after_seconds, .. } => {
            Some(Duration::from_secs(*retry_after_seconds))
        }
        _ => None,
    }
}

/// An error for people, without the headers of the answer.
fn words(error: &QdrantError) -> String {
    let Some(status) = status(error) else { return error.to_string() };
    let message = status.message();
    let advice = match status.code() {
        Code::Internal if message.starts_with("Failed to connect") => "; is the server running, and index.url right?",
        Code::Unauthenticated | Code::PermissionDenied => "; check index.api_key",
        _ => "",
    };
    format!("{}: {message}{advice}", status.code())
}
