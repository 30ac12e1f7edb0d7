//! A ticket's events as they happen (server-sent events).

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;
use tokio_stream::wrappers::BroadcastStream;
use uuid::Uuid;

use super::AppState;
use super::auth::Caller;
use super::extract::Path;
use super::problem::Problem;
use crate::events::{Event, EventId};
use crate::store::{Store, StoreError};
use crate::ticket::TicketState;
use crate::web::chat::stream::Told;

/// Follows a ticket: `received`, `evidence`, `triage`, `extractive`, `token`, `draft`, `decision`, `message`, `review`.
/// A second `triage` takes the place of the first: the language model has read the request since.
/// After a lost connection send the last id as `Last-Event-ID` (browsers do) and nothing is missed. A key of one customer
/// follows what that customer may: `message`, `links`, `understood`, `token`, `cut`, `decided`, `taken`, `given_back`,
/// `feedback`, `merged`. The stream ends when its key is over.
#[utoipa::path(get, path = "/v1/tickets/{id}/events", tag = "tickets",
    params(("id" = Uuid, Path), ("Last-Event-ID" = Option<String>, Header, pattern = r"^[0-9]{1,18}(\.[0-9]{1,9})?$")),
    responses((status = 200, content_type = "text/event-stream", description = "events"),
        (status = 400, body = Problem), (status = 404, body = Problem)))]
pub async fn follow(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>>>, Problem> {
    let ticket = state.pipeline.store.ticket(id).await?;
    caller.check_ticket(&ticket)?;
    let after = last_event_id(&headers, 0)?;
    let told = caller.customer().map(|_| Told::of(&state, &ticket));
    let events = ticket_events(&state, id, after).await?.take_until(caller.until_over(&state.pipeline.store));
    let events = events.filter_map(move |event| {
        let event = match told {
            Some(told) => told.event(event),
            None => Some(as_sse(event)),
        };
        std::future::ready(event.map(Ok))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

/// A ticket's events behind `after`, those to come included, until the service closes.
///
/// # Errors
/// When the store cannot be read.
pub async fn ticket_events(
    state: &AppState,
    id: Uuid,
    after: EventId,
) -> Result<impl Stream<Item = Event> + use<>, StoreError> {
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
    Ok(stream::iter(past).chain(live).take_until(async move {
        // An error means that the sender is gone: closing as well.
        drop(closing.wait_for(|closing| *closing).await);
    }))
}

/// Where a page wants its stream to begin: behind what it already shows.
#[derive(Debug, Default, Deserialize)]
pub struct StreamQuery {
    #[serde(default)]
    pub after: i64,
}

/// The last event that a page shows, so that a stream that follows it tells nothing twice; of a ticket in work, the message
/// that is worked on, so that what was told of the work since is told again. To be asked before the page reads the ticket:
/// what happens between the two is then told twice, not missed.
///
/// # Errors
/// When the store cannot be read.
pub async fn shown_so_far(store: &Store, ticket: Uuid) -> Result<i64, StoreError> {
    let is_working = store.ticket(ticket).await?.state == TicketState::Received;
    store.last_event(ticket, is_working.then_some("received")).await
}

/// Where a reader that comes back stopped; one that is new begins behind `after`.
///
/// # Errors
/// When the header is no id of a stream.
pub fn last_event_id(headers: &HeaderMap, after: i64) -> Result<EventId, Problem> {
    let Some(value) = headers.get("last-event-id") else { return Ok(EventId { kept: after, token: 0 }) };
    value
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Problem::bad_request("Last-Event-ID must be an id of this stream, such as `7` or `7.12`"))
}

/// An event as it is sent.
pub fn as_sse(event: Event) -> SseEvent {
    SseEvent::default().id(event.id.to_string()).event(event.kind).data(event.data.to_string())
}
