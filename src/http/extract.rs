//! Extractors that answer with [`Problem`] details when the request does not fit.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// A JSON object as a body. An array of the fields' values, which serde takes for an object too, is none.
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let (head, body) = request.into_parts();
        let bytes = Bytes::from_request(Request::from_parts(head.clone(), body), state)
            .await
            .map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
        let is_array = bytes.trim_ascii_start().starts_with(b"[");
        let axum::Json(body) = axum::Json::from_request(Request::from_parts(head, Body::from(bytes)), state).await?;
        match is_array {
            true => Err(Problem::bad_request("the body must be a JSON object with the fields' names; it is an array")),
            false => Ok(Self(body)),
        }
    }
}

/// Parameters of the path.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub struct Path<T>(pub T);

/// Parameters behind the question mark.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub struct Query<T>(pub T);
