//! The API key, where one is set.

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::AppState;
use super::problem::Problem;

/// Lets a request through when no key is set or the right one came with it.
pub async fn require_key(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let wanted = state.pipeline.settings.server.api_key.as_bytes();
    if wanted.is_empty() {
        return next.run(request).await;
    }
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().split_at_checked(b"bearer ".len()))
        // The scheme's name is case-insensitive (RFC 9110).
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
        .map(|(_, key)| key)
        .unwrap_or_default();
    match same(given, wanted) {
        true => next.run(request).await,
        false => Problem::unauthorized().into_response(),
    }
}

/// Compares without telling by its duration how much was right.
pub fn same(given: &[u8], wanted: &[u8]) -> bool {
    given.len() == wanted.len() && given.iter().zip(wanted).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn only_the_whole_key_opens() {
        assert!(same(b"secret", b"secret"));
        for wrong in [&b"secre"[..], b"secretx", b"Secret", b""] {
            assert!(!same(wrong, b"secret"));
        }
    }
}
