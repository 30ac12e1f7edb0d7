//! A ticket's events as they happen (server-sent events).

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use futures::{Stream, StreamExt, stream};
use tokio_stream::wrappers::BroadcastStream;
use uuid::Uuid;

use super::AppState;
use super::extract::Path;
use super::problem::Problem;
use crate::events::{Event, EventId};

/// Follows a ticket: `received`, `evidence`, `triage`, `extractive`, `token`, `draft`, `decision`, `message`, `review`.
/// After a lost connection send the last id as `Last-Event-ID` (browsers do) and nothing is missed.
#[utoipa::path(get, path = "/v1/tickets/{id}/events", tag = "tickets",
    params(("id" = Uuid, Path), ("Last-Event-ID" = Option<String>, Header)),
    responses((status = 200, content_type = "text/event-stream", description = "events"),
        (status = 400, body = Problem), (status = 404, body = Problem)))]
pub async fn follow(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>>>, Problem> {
    state.pipeline.store.ticket(id).await?;
    let after = last_event_id(&headers)?;
    let (past, receiver) = state.pipeline.events.follow(id, after).await?;
    let mut last = past.last().map_or(after, |event| event.id);
    let live = BroadcastStream::new(receiver)
        // A reader that lagged too far behind is cut off; it reconnects with its last id and reads on.
        .take_while(|event| std::future::ready(event.is_ok()))
        .filter_map(move |event| {
            let fresh = event.ok().filter(|event| event.id > last);
            if let Some(event) = &fresh {
                last = event.id;
            }
            std::future::ready(fresh)
        });
    let mut closing = state.closing.clone();
    let events = stream::iter(past).chain(live).map(|event| Ok(as_sse(event))).take_until(async move {
        // An error means that the sender is gone: closing as well.
        drop(closing.wait_for(|closing| *closing).await);
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

fn last_event_id(headers: &HeaderMap) -> Result<EventId, Problem> {
    let Some(value) = headers.get("last-event-id") else { return Ok(EventId::default()) };
    value
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Problem::bad_request("Last-Event-ID must be an id of this stream, such as `7` or `7.12`"))
}

fn as_sse(event: Event) -> SseEvent {
    SseEvent::default().id(event.id.to_string()).event(event.kind).data(event.data.to_string())
}
