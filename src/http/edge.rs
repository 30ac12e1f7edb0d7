//! What holds for every answer: headers that keep browsers safe, and a time in which it has to be there.

use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use super::AppState;
use super::client::Secure;
use super::problem::Problem;
use crate::settings::Server;
use crate::web::chat;

/// A year, as RFC 6797 and the preload lists want it at least.
const TRANSPORT_SECURITY: HeaderValue = HeaderValue::from_static("max-age=31536000");
/// What is no page of ours shows, loads and runs nothing.
const NOTHING: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
/// The page for the API comes with styles in its markup.
const API_PAGE: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);
const API_PAGE_PATH: &str = "/docs";
/// Seconds after which a request that took too long may be tried again.
const TRY_AGAIN_S: u64 = 30;

/// The route of a request, never its address: that may hold a customer's link.
pub fn route(request: &Request) -> &str {
    request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str)
}

/// Puts the headers on an answer that it does not have yet.
pub async fn headers(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let trusted = &state.pipeline.settings.server.trusted_proxies;
    let Secure(is_secure) = Secure::of(request.extensions(), request.headers(), trusted);
    let is_api_page = request.uri().path().starts_with(API_PAGE_PATH);
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let has_policy = headers.contains_key(header::CONTENT_SECURITY_POLICY);
    let mut preset = |name: HeaderName, value: HeaderValue| {
        headers.entry(name).or_insert(value);
    };
    preset(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    preset(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    preset(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !has_policy {
        // Whose policy lets other sites frame them, as the chat's, must not have the older header, which cannot name sites.
        preset(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        preset(header::CONTENT_SECURITY_POLICY, if is_api_page { API_PAGE } else { NOTHING });
    }
    if is_secure {
        preset(header::STRICT_TRANSPORT_SECURITY, TRANSPORT_SECURITY);
    }
    response
}

/// How long an answer may take.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimits {
    /// Once the body is there.
    pub answer: Duration,
    pub body: Duration,
    /// Of a body with files.
    pub upload: Duration,
}

impl TimeLimits {
    /// As the settings say.
    pub fn new(server: &Server) -> Self {
        let answer = Duration::from_secs(server.request_seconds);
        Self { answer, body: server.body_time(false), upload: server.body_time(true) }
    }
}

/// Answers 503 when an answer takes too long. What changes something is finished all the same, also when the client is
/// gone: a ticket that is on disk gets its work.
pub async fn within(State(limits): State<TimeLimits>, request: Request, next: Next) -> Response {
    let body = if chat::takes_files(route(&request)) { limits.upload } else { limits.body };
    let limit = limits.answer + body;
    let answered = if request.method().is_safe() {
        tokio::time::timeout(limit, next.run(request)).await.ok()
    } else {
        let finished = tokio::spawn(next.run(request).in_current_span());
        tokio::time::timeout(limit, finished).await.ok().map(|ended| {
            ended.unwrap_or_else(|_| Problem::internal("unexpected failure; the log has details").into_response())
        })
    };
    answered.unwrap_or_else(|| {
        let detail = "the answer took longer than server.request_seconds; what was sent may have been done, so ask before \
                      you send it again, or send it with the same Idempotency-Key";
        Problem::unavailable(detail, TRY_AGAIN_S).into_response()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::body::Body;
    use axum::http::{Method, StatusCode};
    use axum::routing::get;
    use axum::{Router, middleware};
    use tokio::sync::Notify;
    use tower::ServiceExt;

    use super::*;

    async fn answer(method: Method, answer: Duration, begins: Arc<Notify>, done: Arc<Notify>) -> Response {
        let work = move || async move {
            begins.notified().await;
            done.notify_one();
            "done"
        };
        let limits = TimeLimits { answer, body: Duration::ZERO, upload: Duration::ZERO };
        let routes = Router::new()
            .route("/", get(work.clone()).post(work))
            .layer(middleware::from_fn_with_state(limits, within));
        let request = Request::builder().method(method).uri("/").body(Body::empty()).expect("a request");
        routes.oneshot(request).await.expect("infallible")
    }

    #[tokio::test]
    async fn a_change_that_takes_too_long_is_told_and_finished() {
        let (begins, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let soon = Duration::from_millis(20);
        let late = answer(Method::POST, soon, Arc::clone(&begins), Arc::clone(&done)).await;
        assert_eq!(late.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(late.headers().contains_key(header::RETRY_AFTER));
        begins.notify_one();
        tokio::time::timeout(Duration::from_secs(60), done.notified()).await.expect("finished all the same");
    }

    #[tokio::test]
    async fn an_answer_in_time_comes_as_it_is() {
        for method in [Method::GET, Method::POST] {
            let (begins, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            begins.notify_one();
            let in_time = answer(method, Duration::from_secs(60), begins, done).await;
            assert_eq!(in_time.status(), StatusCode::OK);
        }
    }
}
