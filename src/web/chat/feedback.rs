//! One tap: "this did not help", "I need a person", "this is more urgent than you think", and what happens next.

use axum::Form;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use serde_json::json;

use super::conversation::{address, by_script, refused, spend, ticket_of};
use super::hours;
use super::limits::Budget;
use crate::http::AppState;
use crate::http::client::Client;
use crate::store::{CUSTOMER, Correction, Feedback, TicketCourse, more_urgent};
use crate::web::format::span;
use crate::web::language::texts_for;
use crate::web::page::PageError;
use crate::web::texts::Texts;

/// Latest tickets whose waits say how long a person takes, and how many of them it needs to say anything.
const LATEST: u32 = 500;
const ENOUGH: usize = 5;

#[derive(Deserialize)]
pub struct FeedbackForm {
    kind: Feedback,
    #[serde(default)]
    embed: String,
}

/// Records what the customer says and answers what happens next and by when, as far as that is known.
pub async fn give(
    State(state): State<AppState>,
    Path(token): Path<String>,
    client: Client,
    headers: HeaderMap,
    Form(form): Form<FeedbackForm>,
) -> Result<Response, PageError> {
    let t = texts_for(&headers);
    let store = &state.pipeline.store;
    let id = store.survivor(ticket_of(&state, &token, t)?).await?;
    let embed = !form.embed.is_empty();
    if let Err(refusal) = spend(&state, client, &[(Budget::Messages, 1)], t) {
        return match by_script(&headers) {
            true => Ok(refusal.answer(refusal.text.clone())),
            false => refused(&state, id, embed, refusal, String::new(), t).await,
        };
    }
    let before = store.ticket(id).await?;
    if form.kind == Feedback::Urgent && !store.was_corrected_by(id, CUSTOMER).await? {
        store.correct(id, Correction::Urgency(more_urgent(before.urgency)), CUSTOMER).await?;
    }
    let ticket = store.take_feedback(id, form.kind).await?;
    if form.kind != Feedback::Urgent {
        // A person reads it now: a reply that is being drafted would only get in the way.
        state.worker.stop(id);
    }
    let event = json!({ "kind": form.kind, "state": ticket.state });
    state.pipeline.events.keep(id, "feedback", &event).await?;
    let next = match form.kind {
        Feedback::NotHelped => t.chat_after_not_helped,
        Feedback::Person => t.chat_after_person,
        Feedback::Urgent => t.chat_after_urgent,
    };
    let text = format!("{next} {}", when(&state, t).await?);
    Ok(match by_script(&headers) {
        true => text.into_response(),
        false => Redirect::to(&address(&state, id, embed)).into_response(),
    })
}

/// When a person answers: the hours of the team where they are known, and how long it took lately where that is known.
async fn when(state: &AppState, t: &'static Texts) -> Result<String, PageError> {
    let courses = state.pipeline.store.latest_courses(LATEST).await?;
    let wait = |course: &TicketCourse| Some(course.useful_at?.duration_since(course.asked_at).as_secs());
    let mut waits: Vec<i64> = courses.iter().filter_map(wait).collect();
    waits.sort_unstable();
    let usual = match waits.len() >= ENOUGH {
        true => t.chat_usual_wait.replace("{time}", &span(waits[waits.len() / 2], t)),
        false => t.chat_unknown_wait.to_owned(),
    };
    let opening = hours::opening(&state.pipeline.settings.support, t);
    Ok(match opening {
        Some(opening) => format!("{opening} {usual}"),
        None => usual,
    })
}
