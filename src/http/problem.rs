//! Errors as problem details (RFC 9457): one type for every way a request can fail.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::inference::InferenceError;
use crate::intake::IntakeError;
use crate::store::StoreError;

/// When to try again where the database does not answer: a restart of one takes seconds.
const DATABASE_PAUSE_S: u64 = 5;

/// A failed request, as `application/problem+json`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Stable name of the kind of problem, for programs.
    #[serde(rename = "type")]
    #[schema(example = "urn:respondo:problem:not-found")]
    pub kind: String,
    /// The kind in words.
    pub title: &'static str,
    /// HTTP status.
    pub status: u16,
    /// What was wrong with this request and what to do.
    pub detail: String,
    #[serde(skip)]
    retry_after: Option<u64>,
}

impl Problem {
    fn new(status: StatusCode, kind: &str, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:respondo:problem:{kind}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            retry_after: None,
        }
    }

    /// The request itself cannot be understood or is refused for what it says.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", "the request is not valid", detail)
    }

    /// Well formed, but the message in it cannot be a request.
    pub fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unprocessable", "the message cannot be taken", detail)
    }

    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "the request is too large", detail)
    }

    /// The client took too long to send it.
    pub fn timed_out(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "the request was not whole in time", detail)
    }

    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "there is no such thing", detail)
    }

    /// It contradicts what is already stored.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "the request contradicts what is stored", detail)
    }

    pub fn unauthorized() -> Self {
        let detail = "send the header `Authorization: Bearer KEY` with a key that is in use; administrators make keys on \
                      /desk/keys or with `respondo key add`";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "an API key is needed", detail)
    }

    /// The caller is known and may not.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "the API key does not open this", detail)
    }

    /// More than the caller may do in a time, or more than is taken at all; `seconds` go into Retry-After.
    pub fn too_many(detail: impl Into<String>, seconds: u64) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many", "too many requests", detail);
        Self { retry_after: Some(seconds), ..problem }
    }

    pub fn method_not_allowed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "wrong method", detail)
    }

    /// Try again later; `seconds` go into Retry-After.
    pub fn unavailable(detail: impl Into<String>, seconds: u64) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "not possible at the moment", detail);
        Self { retry_after: Some(seconds), ..problem }
    }

    /// Something of ours failed; the log has the details.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the service failed", detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::error!(kind = self.kind, detail = self.detail, "request failed");
        }
        let retry_after = self.retry_after;
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let detail = error.to_string();
        match error {
            StoreError::NotFound(_) => Self::not_found(detail),
            StoreError::IdempotencyConflict(_) | StoreError::Conflict(_) => Self::conflict(detail),
            StoreError::Invalid(_) => Self::bad_request(detail),
            StoreError::DiskFull => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk-full", "nothing was stored", detail)
            }
            StoreError::Unavailable(_) => Self::unavailable(detail, DATABASE_PAUSE_S),
            StoreError::Locked(_) | StoreError::ReadOnly | StoreError::Other(_) => Self::internal(detail),
        }
    }
}

impl From<IntakeError> for Problem {
    fn from(error: IntakeError) -> Self {
        let detail = error.to_string();
        match error {
            IntakeError::TooLarge { .. } => Self::too_large(detail),
            _ => Self::unprocessable(detail),
        }
    }
}

impl From<InferenceError> for Problem {
    fn from(error: InferenceError) -> Self {
        Self::unavailable(error.to_string(), 5)
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Self::too_large(rejection.body_text()),
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "media-type",
                "the body must be JSON",
                "send the header `Content-Type: application/json`",
            ),
            _ => Self::bad_request(rejection.body_text()),
        }
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}
