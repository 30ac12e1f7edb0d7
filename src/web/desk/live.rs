//! What happens while a page is open, as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use futures::{Stream, StreamExt, stream};
use tokio_stream::wrappers::{BroadcastStream, WatchStream};
use uuid::Uuid;

use crate::http::{AppState, StreamQuery, as_sse, last_event_id, ticket_events};
use crate::web::page::PageError;
use crate::web::session::SignedIn;

/// Between two signs of life of an open stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Which tickets change: the queue reads its lines anew.
pub async fn desk(
    signed_in: SignedIn,
    State(state): State<AppState>,
) -> Sse<impl Stream<Item = Result<SseEvent, Infallible>>> {
    let changes = BroadcastStream::new(state.pipeline.events.changes());
    let told = changes.map(|change| {
        // A reader that lagged does not know which tickets it missed.
        let ticket = change.map_or_else(|_| "any".to_owned(), |change| change.ticket.to_string());
        Ok(SseEvent::default().event("change").data(ticket))
    });
    let mut closing = state.closing.clone();
    let signed_out = state.web.until_signed_out(&signed_in);
    let told = told.take_until(async move {
        tokio::select! {
            // An error means that the sender is gone: closing as well.
            _ = closing.wait_for(|closing| *closing) => {}
            () = signed_out => {}
        }
    });
    Sse::new(told).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

/// One ticket's events, and who else looks at it.
pub async fn ticket(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    Query(query): Query<StreamQuery>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>>>, PageError> {
    state.pipeline.store.ticket(id).await?;
    let after = last_event_id(&headers, query.after).map_err(|problem| PageError::unprocessable(problem.detail))?;
    let events = ticket_events(&state, id, after).await?.map(|event| Ok(as_sse(event)));
    let seat = state.web.presence.enter(id, signed_in.agent.id, &signed_in.agent.name);
    let here = WatchStream::new(seat.changes.clone()).map(move |_| {
        let names = serde_json::to_string(&seat.others()).unwrap_or_default();
        Ok(SseEvent::default().event("presence").data(names))
    });
    // The stream ends with the events: at shutdown, or when this reader lagged too far behind.
    let told = stream::select(events.map(Some).chain(stream::once(async { None })), here.map(Some));
    let told = told.take_while(|event| std::future::ready(event.is_some())).filter_map(std::future::ready);
    let told = told.take_until(Box::pin(state.web.until_signed_out(&signed_in)));
    Ok(Sse::new(told).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}
