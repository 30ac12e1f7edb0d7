//! Customers' side: open a ticket, add a message, read it.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::AppState;
use super::auth::Caller;
use super::extract::{Json, Path};
use super::problem::Problem;
use crate::intake::{self, without_nul};
use crate::store::{Accepted, Idempotency, NewTicket, Store, StoreError, TicketView, sha256_hex};
use crate::ticket::{Author, Language, Message, Ticket, TicketState};
use crate::timing::{timed, timed_now};
use crate::worker::Worker;

/// Longest idempotency key, customer name, product or queue, in characters.
pub(super) const MAX_FIELD: usize = 200;
/// Longest subject, in characters.
const MAX_SUBJECT: usize = 1_000;

/// A customer's request.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTicketBody {
    /// What the customer wrote; plain text or HTML, Spanish or English first of all.
    #[schema(example = "buenas, no puedo entrar a mi correo desde ayer")]
    pub body: String,
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub subject: String,
    /// What the channel calls the customer.
    #[schema(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub customer: Option<String>,
    /// Narrows the search to one product.
    #[schema(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub product: Option<String>,
    /// Chooses the policy.
    #[schema(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub queue: Option<String>,
}

impl NewTicketBody {
    /// Checks what surrounds the message; the message itself is intake's.
    ///
    /// # Errors
    /// 400, with the field and its limit.
    pub fn check(&self) -> Result<(), Problem> {
        for (name, value) in [("customer", &self.customer), ("product", &self.product), ("queue", &self.queue)] {
            check_field(name, value.as_deref())?;
        }
        let length = self.subject.chars().count();
        if length > MAX_SUBJECT {
            let detail = format!("subject has {length} characters; at most {MAX_SUBJECT} are taken");
            return Err(Problem::bad_request(detail));
        }
        Ok(())
    }
}

/// A further message of a customer.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMessageBody {
    #[schema(min_length = 1)]
    pub body: String,
}

/// A message that is on disk.
#[derive(Debug, Serialize, ToSchema)]
pub struct AcceptedBody {
    pub ticket_id: Uuid,
    pub message_id: Uuid,
    pub state: TicketState,
    pub language: Language,
    /// True when this is the answer to a repeated idempotency key.
    pub replayed: bool,
    /// Where the ticket can be read.
    pub ticket: String,
    /// Where its events can be followed (server-sent events).
    pub events: String,
}

/// Opens a ticket. It is on disk when this answers; a draft follows within seconds on the ticket's events.
#[utoipa::path(post, path = "/v1/tickets", tag = "tickets", request_body = NewTicketBody,
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 200, pattern = r"^[ -~]*[!-~][ -~]*$",
        description = "the same key and body give the same ticket")),
    responses((status = 201, body = AcceptedBody), (status = 200, body = AcceptedBody, description = "replayed"),
        (status = 400, body = Problem), (status = 409, body = Problem, description = "key seen with another body"),
        (status = 413, body = Problem), (status = 422, body = Problem, description = "no request in it"),
        (status = 429, body = Problem, description = "too much is waiting; see Retry-After")))]
pub async fn create(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    Json(mut body): Json<NewTicketBody>,
) -> Result<Response, Problem> {
    if let Some(own) = caller.customer() {
        act_for_customer(&state, own, &mut body)?;
    }
    body.check()?;
    admit(&state, None)?;
    check_size(&state, &body.body)?;
    let prepare = || intake::prepare(&body.subject, &body.body, body.product.clone(), body.queue.clone(), Vec::new());
    let request = timed_now("intake", prepare)?;
    let idempotency = idempotency(&headers, &body)?;
    let new = NewTicket {
        customer: body.customer,
        channel: "http".to_owned(),
        subject: without_nul(body.subject),
        body: without_nul(body.body),
        language: request.language,
        product: body.product,
        queue: body.queue,
        idempotency,
    };
    let accepted = timed("accept", state.pipeline.store.accept_ticket(new)).await?;
    started(&state, accepted).await
}

/// Adds a customer's message to a ticket and reopens it.
#[utoipa::path(post, path = "/v1/tickets/{id}/messages", tag = "tickets", request_body = NewMessageBody,
    params(("id" = Uuid, Path),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 200, pattern = r"^[ -~]*[!-~][ -~]*$")),
    responses((status = 201, body = AcceptedBody), (status = 200, body = AcceptedBody, description = "replayed"),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 413, body = Problem), (status = 422, body = Problem),
        (status = 429, body = Problem, description = "too much is waiting; see Retry-After")))]
pub async fn add_message(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    Json(body): Json<NewMessageBody>,
) -> Result<Response, Problem> {
    admit(&state, Some(id))?;
    if caller.customer().is_some() {
        caller.check_ticket(&state.pipeline.store.ticket(id).await?)?;
    }
    check_size(&state, &body.body)?;
    intake::prepare("", &body.body, None, None, Vec::new())?;
    let idempotency = idempotency(&headers, &body)?;
    let accepted = state.pipeline.store.add_message(id, Author::Customer, without_nul(body.body), idempotency).await?;
    started(&state, accepted).await
}

/// Everything about a ticket. A key of one customer sees what that customer may: the messages that were sent.
#[utoipa::path(get, path = "/v1/tickets/{id}", tag = "tickets", params(("id" = Uuid, Path)),
    responses((status = 200, body = TicketView), (status = 404, body = Problem)))]
pub async fn read(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<axum::Json<TicketView>, Problem> {
    let view = state.pipeline.store.ticket_view(id).await?;
    caller.check_ticket(&view.ticket)?;
    Ok(axum::Json(match caller.customer() {
        Some(_) => without_the_teams(&state.pipeline.store, view).await?,
        None => view,
    }))
}

/// Makes a request one of the customer whose key it came with.
fn act_for_customer(state: &AppState, own: &str, body: &mut NewTicketBody) -> Result<(), Problem> {
    if body.customer.as_deref().is_some_and(|named| named != own) {
        return Err(Problem::forbidden("this key opens tickets of its own customer only; leave `customer` out"));
    }
    // A queue decides how far replies may go.
    if body.queue.as_deref().is_some_and(|queue| state.pipeline.settings.chat_queue(queue).is_none()) {
        return Err(Problem::forbidden("a key of one customer may not choose this `queue`; leave it out"));
    }
    body.customer = Some(own.to_owned());
    Ok(())
}

/// What a customer may see of a ticket: no judgement, draft, decision or note, and no reply that can still be taken back.
async fn without_the_teams(store: &Store, view: TicketView) -> Result<TicketView, StoreError> {
    let held = store.held_replies(view.ticket.id).await?;
    let is_said = |message: &Message| message.author != Author::Note && !held.iter().any(|(id, _)| *id == message.id);
    Ok(TicketView {
        ticket: Ticket { urgency: None, difficulty: None, ..view.ticket },
        messages: view.messages.into_iter().filter(is_said).collect(),
        triage: None,
        evidence: Vec::new(),
        timings: None,
        drafts: Vec::new(),
        decisions: Vec::new(),
        outcomes: Vec::new(),
    })
}

/// Hands an accepted message to the worker and answers.
async fn started(state: &AppState, accepted: Accepted) -> Result<Response, Problem> {
    let id = accepted.ticket.id;
    let answer = AcceptedBody {
        ticket_id: id,
        message_id: accepted.message.id,
        state: accepted.ticket.state,
        language: accepted.ticket.language.clone(),
        replayed: accepted.replayed,
        ticket: format!("/v1/tickets/{id}"),
        events: format!("/v1/tickets/{id}/events"),
    };
    begin_work(state, &accepted, Worker::work_on).await;
    if accepted.replayed {
        return Ok((StatusCode::OK, axum::Json(answer)).into_response());
    }
    let mut response = (StatusCode::CREATED, axum::Json(&answer)).into_response();
    if let Ok(location) = HeaderValue::from_str(&answer.ticket) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Tells those who follow the ticket of an accepted message and puts the ticket in line with `queue`.
pub async fn begin_work(state: &AppState, accepted: &Accepted, queue: impl Fn(&Worker, Uuid)) {
    let id = accepted.ticket.id;
    // The first try may have been cut off between the disk and the worker; work that is done is not done again.
    if !accepted.replayed {
        metrics::counter!("respondo_messages_total").increment(1);
        state.pipeline.events.tell_kept(id, accepted.event.clone());
    }
    queue(&state.worker, id);
}

/// Refuses a message while too much is waiting; one of a ticket that waits already makes it no more.
fn admit(state: &AppState, ticket: Option<Uuid>) -> Result<(), Problem> {
    state.worker.admit(ticket).map_err(|wait| {
        let seconds = wait.as_secs();
        let detail = format!("more requests wait than are taken (server.most_waiting); send it again in {seconds} s");
        Problem::too_many(detail, seconds)
    })
}

/// A name of something: short, and without control characters.
///
/// # Errors
/// 400, with the field and what is wrong with it.
pub(super) fn check_field(name: &str, value: Option<&str>) -> Result<(), Problem> {
    match value {
        Some(value) if value.chars().count() > MAX_FIELD => Err(Problem::bad_request(format!(
            "{name} has {} characters; at most {MAX_FIELD} are taken",
            value.chars().count()
        ))),
        Some(value) if value.chars().any(char::is_control) => {
            Err(Problem::bad_request(format!("{name} contains control characters; remove them")))
        }
        _ => Ok(()),
    }
}

pub(super) fn check_size(state: &AppState, body: &str) -> Result<(), Problem> {
    let max = state.pipeline.settings.intake.max_message_bytes;
    if body.len() > max {
        let detail = format!("the message has {} bytes; at most {max} are taken, send the essential part", body.len());
        return Err(Problem::too_large(detail));
    }
    Ok(())
}

/// The key of the request and the hash of what it says; the hash is over the parsed body, so that white space in the JSON
/// does not make another request of it.
fn idempotency(headers: &HeaderMap, body: &impl Serialize) -> Result<Option<Idempotency>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().map_err(|_| Problem::bad_request("Idempotency-Key must be visible ASCII"))?.trim();
    if key.is_empty() || key.len() > MAX_FIELD || key.contains('\t') {
        let detail = format!("Idempotency-Key must have 1 to {MAX_FIELD} visible ASCII characters");
        return Err(Problem::bad_request(detail));
    }
    let bytes = serde_json::to_vec(body).map_err(|e| Problem::internal(e.to_string()))?;
    Ok(Some(Idempotency { key: key.to_owned(), body_sha256: sha256_hex(&bytes) }))
}
