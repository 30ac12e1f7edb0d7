//! The customers' side: one conversation behind a signed link, alone in a tab or inside another site's page.

pub mod conversation;
pub mod feedback;
mod gone;
pub mod hours;
pub mod limits;
pub mod stream;
mod upload;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};

use super::{POLICY, common_headers, files};
use crate::http::AppState;

const START: &str = "/chat";
const MESSAGES: &str = "/chat/{token}/messages";

/// The chat's routes.
pub fn router(state: &AppState) -> Router<AppState> {
    Router::new()
        .route(START, get(conversation::start_page).post(conversation::start))
        .route("/chat/{token}", get(conversation::page))
        .route(MESSAGES, get(conversation::back).post(conversation::say))
        .route("/chat/{token}/files/{id}", get(files::of_conversation))
        .route("/chat/{token}/typing", post(conversation::typing))
        .route("/chat/{token}/feedback", get(conversation::back).post(feedback::give))
        .route("/chat/{token}/events", get(stream::follow))
        .route("/chat/{token}/transcript", get(conversation::transcript))
        .route_layer(middleware::from_fn_with_state(state.clone(), gone::or_gone))
        // Bodies are limited where they are read.
        .layer(DefaultBodyLimit::disable())
}

/// True for the addresses whose forms may carry files; their handlers read the body, with a limit of their own.
pub fn takes_files(route: &str) -> bool {
    [START, MESSAGES].contains(&route)
}

/// Headers of the chat's pages: only the sites that the settings name may frame them.
pub async fn headers(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let sites = state.pipeline.settings.chat.sites.join(" ");
    let sites = if sites.is_empty() { "'none'".to_owned() } else { format!("'self' {sites}") };
    if let Ok(policy) = HeaderValue::try_from(format!("{POLICY}; frame-ancestors {sites}")) {
        // Files have a stricter one.
        response.headers_mut().entry(header::CONTENT_SECURITY_POLICY).or_insert(policy);
    }
    common_headers(&mut response);
    response
}
