//! Links of conversations that were deleted: said so, in place of a page that knows nothing of them.

use askama::Template;
use axum::extract::{RawPathParams, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::conversation::by_script;
use crate::http::AppState;
use crate::store::StoreError;
use crate::web::language::texts_for;
use crate::web::page::{Page, PageError};
use crate::web::texts::Texts;

#[derive(Template)]
#[template(path = "chat/gone.html")]
struct GonePage {
    t: &'static Texts,
}

/// Answers 410 where a link is one that this installation signed and its ticket is not there any more.
pub async fn or_gone(
    State(state): State<AppState>,
    params: RawPathParams,
    headers: HeaderMap,
    request: Request,
    next: Next,
) -> Response {
    let token = params.iter().find(|(name, _)| *name == "token").map(|(_, token)| token);
    if let Some(ticket) = token.and_then(|token| state.web.links.ticket(token)) {
        match state.pipeline.store.ticket(ticket).await {
            Ok(_) => {}
            Err(StoreError::NotFound(_)) => {
                let t = texts_for(&headers);
                return match by_script(&headers) {
                    true => (StatusCode::GONE, t.chat_gone).into_response(),
                    false => (StatusCode::GONE, Page(GonePage { t })).into_response(),
                };
            }
            Err(error) => return PageError::from(error).into_response(),
        }
    }
    next.run(request).await
}
