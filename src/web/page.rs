//! A template as an answer, and failures as pages.

use askama::Template;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};

use super::password::NotHashed;
use super::texts::{EN, Texts};
use crate::store::StoreError;

/// A rendered template.
pub struct Page<T>(pub T);

impl<T: Template> IntoResponse for Page<T> {
    fn into_response(self) -> Response {
        match self.0.render() {
            Ok(html) => Html(html).into_response(),
            Err(error) => {
                tracing::error!(%error, "a page could not be rendered");
                (StatusCode::INTERNAL_SERVER_ERROR, "this page could not be shown; the log says why").into_response()
            }
        }
    }
}

/// Why a page is not shown, in words for the person in front of it.
#[derive(Debug)]
pub struct PageError {
    status: StatusCode,
    detail: String,
}

impl PageError {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }

    /// There is no such thing.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// What was sent cannot be taken.
    pub fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }
}

impl From<StoreError> for PageError {
    fn from(error: StoreError) -> Self {
        let status = match &error {
            StoreError::NotFound(_) => StatusCode::NOT_FOUND,
            StoreError::Conflict(_) | StoreError::IdempotencyConflict(_) => StatusCode::CONFLICT,
            StoreError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            StoreError::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
            StoreError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            StoreError::Locked(_) | StoreError::ReadOnly | StoreError::Other(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, detail: error.to_string() }
    }
}

impl From<NotHashed> for PageError {
    fn from(error: NotHashed) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    t: &'static Texts,
    status: u16,
    detail: &'a str,
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::error!(status = self.status.as_u16(), detail = self.detail, "page failed");
        }
        let page = ErrorPage { t: &EN, status: self.status.as_u16(), detail: &self.detail };
        (self.status, Page(page)).into_response()
    }
}
