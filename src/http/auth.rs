//! Who may use the API: keys, what each opens, and how often.
//!
//! Without any key everything is open; that is for loopback, see `respondo serve`. From the first key on, one is asked for,
//! also when that key is over. A key is found by its SHA-256, so how long that takes says nothing of the key.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use uuid::Uuid;

use super::AppState;
use super::client::Client;
use super::limits::{Buckets, Exceeded, Rate, whole_seconds};
use super::problem::Problem;
use crate::store::{ApiKey, KeyScope, KeyState, Store, StoreError, has_key_form, sha256_hex};
use crate::ticket::Ticket;

/// What each route asks of a key. A route that is not here asks for [`KeyScope::All`].
pub const SCOPES: &[(&str, &str, KeyScope)] = &[
    ("post", "/v1/tickets", KeyScope::Tickets),
    ("get", "/v1/tickets/{id}", KeyScope::Tickets),
    ("post", "/v1/tickets/{id}/messages", KeyScope::Tickets),
    ("get", "/v1/tickets/{id}/events", KeyScope::Tickets),
    ("get", "/v1/queue", KeyScope::Desk),
    ("post", "/v1/drafts/{id}/approve", KeyScope::Desk),
    ("post", "/v1/drafts/{id}/edit", KeyScope::Desk),
    ("post", "/v1/drafts/{id}/reject", KeyScope::Desk),
    ("post", "/v1/drafts/{id}/escalate", KeyScope::Desk),
    ("post", "/v1/triage", KeyScope::Search),
    ("get", "/v1/memory/search", KeyScope::Search),
    ("get", "/metrics", KeyScope::Metrics),
];

/// Failures of one client address in a minute; more get 429.
const FAILURES_PER_MINUTE: u64 = 20;
/// Addresses and keys remembered at most.
const MOST_CLIENTS: usize = 20_000;
const MOST_KEYS: usize = 20_000;
/// How often the last use of a key is noted, and how often an open stream asks whether its key still opens it.
const USE_STEP: Duration = Duration::from_secs(60);
const RECHECK: Duration = Duration::from_secs(10);

/// Buckets of a client address.
const FAILURES: usize = 0;
/// Only what could be guessed: a key of the settings, which a person chose.
const GUESSES: usize = 1;

/// What is kept in memory about keys and those who use them.
pub struct Access {
    by_client: Buckets<Client, 2>,
    by_key: Buckets<Uuid, 1>,
    /// When the use of a key was noted last.
    noted: Mutex<HashMap<Uuid, Instant>>,
    /// True once the store is known to have keys; they never go.
    has_keys: AtomicBool,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            by_client: Buckets::new(MOST_CLIENTS),
            by_key: Buckets::new(MOST_KEYS),
            noted: Mutex::default(),
            has_keys: AtomicBool::new(false),
        }
    }
}

impl Access {
    async fn has_keys(&self, store: &Store) -> Result<bool, StoreError> {
        if !self.has_keys.load(Ordering::Relaxed) && store.has_keys().await? {
            self.has_keys.store(true, Ordering::Relaxed);
        }
        Ok(self.has_keys.load(Ordering::Relaxed))
    }

    /// Counts a failure and says what the client is answered.
    fn failed(&self, client: Client, reason: &'static str, could_be_guess: bool) -> Problem {
        count_failure(reason);
        let rate = Rate::per_minute(FAILURES_PER_MINUTE);
        if could_be_guess {
            // What is over the limit is refused before it is looked at.
            let _ = self.by_client.spend(client, &[(GUESSES, rate, 1)]);
        }
        match self.by_client.spend(client, &[(FAILURES, rate, 1)]) {
            Ok(()) => Problem::unauthorized(),
            Err(exceeded) => too_many_failures(exceeded),
        }
    }

    /// Notes in the background that a key is in use; nobody waits for it.
    fn note_use(&self, store: &Store, key: Uuid) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.get(&key).is_some_and(|at| at.elapsed() < USE_STEP) {
            return;
        }
        noted.insert(key, Instant::now());
        let store = store.clone();
        tokio::spawn(async move {
            if let Err(error) = store.note_key_use(key).await {
                tracing::warn!(%key, %error, "the last use of an API key could not be noted");
            }
        });
    }
}

fn count_failure(reason: &'static str) {
    metrics::counter!("respondo_auth_failures_total", "reason" => reason).increment(1);
}

fn too_many_failures(exceeded: Exceeded) -> Problem {
    let detail = "many requests with a missing or wrong key came from your network; correct the key and wait";
    Problem::too_many(detail, whole_seconds(exceeded.wait))
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    /// None for the key of the settings, and where no key is needed: both may do everything.
    key: Option<Arc<ApiKey>>,
}

impl Caller {
    /// The only customer that the caller may act for.
    pub fn customer(&self) -> Option<&str> {
        self.key.as_deref().and_then(|key| key.customer.as_deref())
    }

    /// Refuses tickets of other customers as if there were none.
    ///
    /// # Errors
    /// 404.
    pub fn check_ticket(&self, ticket: &Ticket) -> Result<(), Problem> {
        match self.customer() {
            Some(own) if ticket.customer.as_deref() != Some(own) => {
                Err(StoreError::NotFound(format!("ticket {}", ticket.id)).into())
            }
            _ => Ok(()),
        }
    }

    /// Done when the caller's key is over: what is open must not tell anything more then.
    pub fn until_over(&self, store: &Store) -> impl Future<Output = ()> + use<> {
        let (key, store) = (self.key.as_ref().map(|key| key.id), store.clone());
        async move {
            let Some(key) = key else { return std::future::pending().await };
            loop {
                tokio::time::sleep(RECHECK).await;
                match store.key_by_id(key).await {
                    Ok(Some(key)) if key.state(Timestamp::now()) == KeyState::Active => {}
                    Ok(_) => return,
                    Err(error) => tracing::warn!(%key, %error, "an API key could not be checked again"),
                }
            }
        }
    }

    fn check_scope(&self, scope: KeyScope) -> Result<(), Problem> {
        match &self.key {
            Some(key) if !key.allows(scope) => {
                count_failure("scope");
                let has = key.scope_names();
                Err(Problem::forbidden(format!("this needs a key with the scope `{scope}`; this key has: {has}")))
            }
            _ => Ok(()),
        }
    }
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| Problem::internal("this route does not ask who calls; it has to be behind the keys"))
    }
}

/// Lets a request through whose key opens this route, or any where there are no keys.
pub async fn require_key(State(state): State<AppState>, client: Client, mut request: Request, next: Next) -> Response {
    let scope = scope_of(request.method(), request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str));
    match admit(&state, client, request.headers(), scope).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

fn scope_of(method: &Method, path: &str) -> KeyScope {
    // GET routes answer HEAD too.
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let found = SCOPES.iter().find(|(m, p, _)| method.as_str().eq_ignore_ascii_case(m) && *p == path);
    found.map_or(KeyScope::All, |(_, _, scope)| *scope)
}

async fn admit(state: &AppState, client: Client, headers: &HeaderMap, scope: KeyScope) -> Result<Caller, Problem> {
    let caller = identify(state, client, headers).await?;
    if let Some(key) = &caller.key {
        let limit = key.requests_per_minute.unwrap_or(state.pipeline.settings.server.key_requests_per_minute);
        if let Err(exceeded) = state.access.by_key.spend(key.id, &[(0, Rate::per_minute(limit.into()), 1)]) {
            metrics::counter!("respondo_key_limited_total").increment(1);
            let detail = format!("this key may send {limit} requests a minute; send this one again later");
            return Err(Problem::too_many(detail, whole_seconds(exceeded.wait)));
        }
        state.access.note_use(&state.pipeline.store, key.id);
    }
    caller.check_scope(scope)?;
    Ok(caller)
}

/// Whose key came with the request. What is wrong with a key is told to nobody but the metrics.
async fn identify(state: &AppState, client: Client, headers: &HeaderMap) -> Result<Caller, Problem> {
    let (access, store) = (&state.access, &state.pipeline.store);
    let own = &state.pipeline.settings.server.api_key;
    if own.is_empty() && !access.has_keys(store).await? {
        return Ok(Caller { key: None });
    }
    let Some(given) = bearer(headers) else { return Err(access.failed(client, "missing", false)) };
    if has_key_form(given) {
        // Nobody guesses these, so those who have one are not shut out by neighbours who try keys.
        if let Some(key) = store.key_by_sha256(&sha256_hex(given)).await? {
            return match key.state(Timestamp::now()) {
                KeyState::Active => Ok(Caller { key: Some(Arc::new(key)) }),
                KeyState::Expired => Err(access.failed(client, "expired", false)),
                KeyState::Revoked => Err(access.failed(client, "revoked", false)),
            };
        }
    }
    if let Err(exceeded) = access.by_client.check(client, &[(GUESSES, Rate::per_minute(FAILURES_PER_MINUTE), 1)]) {
        count_failure("limited");
        return Err(too_many_failures(exceeded));
    }
    match !own.is_empty() && same(given.as_bytes(), own.as_bytes()) {
        true => Ok(Caller { key: None }),
        false => Err(access.failed(client, "unknown", true)),
    }
}

/// The key of `Authorization: Bearer KEY`; the scheme's name is case-insensitive (RFC 9110).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
}

/// Compares without telling by its duration how much was right.
pub fn same(given: &[u8], wanted: &[u8]) -> bool {
    given.len() == wanted.len() && given.iter().zip(wanted).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_the_whole_key_opens() {
        assert!(same(b"secret", b"secret"));
        for wrong in [&b"secre"[..], b"secretx", b"Secret", b""] {
            assert!(!same(wrong, b"secret"));
        }
    }

    #[test]
    fn a_route_that_is_not_named_needs_everything() {
        assert_eq!(scope_of(&Method::GET, "/v1/queue"), KeyScope::Desk);
        assert_eq!(scope_of(&Method::HEAD, "/v1/queue"), KeyScope::Desk);
        for (method, path) in [(Method::DELETE, "/v1/queue"), (Method::GET, "/v1/new"), (Method::GET, "")] {
            assert_eq!(scope_of(&method, path), KeyScope::All, "{method} {path}");
        }
    }

    #[test]
    fn the_key_is_read_from_its_header() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(read("Bearer abc"), Some("abc".to_owned()));
        assert_eq!(read("bEARER abc"), Some("abc".to_owned()));
        for other in ["Basic abc", "abc", "Bearerabc"] {
            assert_eq!(read(other), None, "{other}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }

    #[test]
    fn failures_of_one_address_do_not_shut_others_out() {
        let client = |last: u8| Client::from(std::net::IpAddr::from([203, 0, 113, last]));
        let access = Access::default();
        for number in 0..FAILURES_PER_MINUTE {
            assert_eq!(access.failed(client(1), "unknown", true).status, 401, "{number}");
        }
        // One more every three seconds is allowed: on a machine that stands still, this may not be the next.
        assert!((0..FAILURES_PER_MINUTE).any(|_| access.failed(client(1), "unknown", true).status == 429));
        assert_eq!(access.failed(client(2), "unknown", true).status, 401);
    }

    #[test]
    fn failures_without_a_guess_leave_the_guesses_counted_apart() {
        let client = Client::from(std::net::IpAddr::from([203, 0, 113, 1]));
        let access = Access::default();
        let guess = [(GUESSES, Rate::per_minute(FAILURES_PER_MINUTE), 1)];
        for _ in 0..2 * FAILURES_PER_MINUTE {
            access.failed(client, "missing", false);
        }
        assert!(access.by_client.check(client, &guess).is_ok(), "nothing was guessed yet");
        for _ in 0..2 * FAILURES_PER_MINUTE {
            access.failed(client, "unknown", true);
        }
        assert!(access.by_client.check(client, &guess).is_err(), "guesses count although failures are over the limit");
    }
}
