//! What an agent does with a ticket. Every action is a form; nothing that was typed is lost when it is refused.

use std::time::Duration;

use axum::Form;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::queue::class_named;
use super::ticket::{next_in_line, with_problem};
use crate::http::AppState;
use crate::intake::without_nul;
use crate::review;
use crate::store::{Correction, ReviewAction, StoreError, Written};
use crate::ticket::{Outcome, Ticket, TicketState};
use crate::web::page::PageError;
use crate::web::session::SignedIn;

/// A reply can be taken back for this long after it was sent.
pub const HOLD: Duration = Duration::from_secs(10);
/// Longest reply, note or reason, in bytes.
const LONGEST: usize = 65_536;
/// Longest snooze.
const LONGEST_SNOOZE_HOURS: i64 = 24 * 30;

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct ReviewForm {
    csrf: String,
    /// The reply as it was edited, the question that is asked, or the reason of a rejection.
    text: String,
    note: String,
    skill: String,
    /// Id of the person who shall have it; empty for nobody in particular.
    person: String,
}

/// Approves, edits, rejects or escalates a draft and goes on to the next ticket.
pub async fn review(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Path((draft, action)): Path<(Uuid, String)>,
    Form(form): Form<ReviewForm>,
) -> Result<Response, PageError> {
    signed_in.check(&form.csrf)?;
    let (ticket, record) = state.pipeline.store.draft(draft).await?;
    let text = without_nul(form.text.replace("\r\n", "\n"));
    let unchanged = text.trim() == record.draft.text.trim();
    let (outcome, done) = match action.as_str() {
        "approve" => (Outcome::Approved, "sent"),
        // Nothing was changed: it is approved as it is.
        "edit" if unchanged => (Outcome::Approved, "sent"),
        "edit" => (Outcome::Edited, "sent"),
        "reject" => (Outcome::Rejected, "rejected"),
        "escalate" => (Outcome::Escalated, "escalated"),
        _ => return Err(PageError::not_found(signed_in.t.error_no_action)),
    };
    if let Some(problem) = too_long(&signed_in, &[&text, &form.note, &form.skill]) {
        return with_problem(&state, &signed_in, ticket, problem, None).await;
    }
    if outcome == Outcome::Edited && text.trim().is_empty() {
        let problem = signed_in.t.error_empty_reply.to_owned();
        return with_problem(&state, &signed_in, ticket, problem, None).await;
    }
    let assignee = Uuid::try_parse(&form.person).ok().filter(|_| outcome == Outcome::Escalated);
    if outcome == Outcome::Escalated && form.skill.trim().is_empty() && assignee.is_none() {
        return with_problem(&state, &signed_in, ticket, signed_in.t.error_no_skill.to_owned(), None).await;
    }
    let some = |text: &str| Some(without_nul(text.trim().to_owned())).filter(|text| !text.is_empty());
    let note = if outcome == Outcome::Rejected { some(&text) } else { some(&form.note) };
    let edited = (outcome == Outcome::Edited).then(|| text.clone());
    let sends = matches!(outcome, Outcome::Approved | Outcome::Edited);
    let action = ReviewAction {
        outcome,
        final_text: edited.clone(),
        note,
        agent: Some(signed_in.agent.name.clone()),
        skill: some(&form.skill).filter(|_| outcome == Outcome::Escalated),
        assignee,
        remember: None,
        hold: if sends { HOLD } else { Duration::ZERO },
    };
    match review::resolve(&state.pipeline, &state.indexer, draft, action).await {
        Ok(result) => {
            if sends {
                state.worker.outbox_due_in(HOLD);
            }
            to_next(&state, &signed_in, ticket, done, result.message.map(|message| message.id)).await
        }
        Err(error @ StoreError::Conflict(_)) => {
            let problem = somebody_was_faster(&state, &signed_in, draft, &error).await;
            with_problem(&state, &signed_in, ticket, problem, edited).await
        }
        Err(error) => Err(error.into()),
    }
}

/// Who was faster, in words.
async fn somebody_was_faster(state: &AppState, signed_in: &SignedIn, draft: Uuid, error: &StoreError) -> String {
    let resolved = state.pipeline.store.resolved_by(draft).await;
    match resolved {
        Ok(Some(name)) => signed_in.t.error_faster.replace("{name}", &name),
        _ => format!("{} ({error})", signed_in.t.error_moved_on),
    }
}

#[derive(Deserialize)]
pub struct TextForm {
    csrf: String,
    text: String,
    /// `ask` for a question that the customer has to answer.
    #[serde(default)]
    kind: String,
    /// The last message on the page that it was written on.
    #[serde(default)]
    seen: Option<Uuid>,
}

/// Writes to the customer without a draft: an answer, or the one question.
pub async fn reply(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    Form(form): Form<TextForm>,
) -> Result<Response, PageError> {
    signed_in.check(&form.csrf)?;
    let text = without_nul(form.text.replace("\r\n", "\n"));
    if text.trim().is_empty() || text.len() > LONGEST {
        let problem = too_long(&signed_in, &[&text]).unwrap_or_else(|| signed_in.t.error_empty_reply.to_owned());
        return with_problem(&state, &signed_in, id, problem, Some(text)).await;
    }
    let written = Written { text: text.clone(), asks: form.kind == "ask", seen: form.seen };
    let (ticket, message) = match state.pipeline.store.write_as_agent(id, written, signed_in.person(), HOLD).await {
        Ok(sent) => sent,
        Err(StoreError::Conflict(problem)) => {
            let problem = format!("{} ({problem})", signed_in.t.error_moved_on);
            return with_problem(&state, &signed_in, id, problem, Some(text)).await;
        }
        Err(error) => return Err(error.into()),
    };
    state.worker.stop(id);
    state.worker.outbox_due_in(HOLD);
    tell(&state, &ticket, "changed", &signed_in, "reply").await?;
    Ok(Redirect::to(&format!("/desk/tickets/{id}?done=sent&undo={}", message.id)).into_response())
}

/// Writes an internal note.
pub async fn note(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    Form(form): Form<TextForm>,
) -> Result<Response, PageError> {
    signed_in.check(&form.csrf)?;
    if form.text.trim().is_empty() || form.text.len() > LONGEST {
        let problem = too_long(&signed_in, &[&form.text]).unwrap_or_else(|| signed_in.t.error_empty_note.to_owned());
        return with_problem(&state, &signed_in, id, problem, None).await;
    }
    let ticket =
        state.pipeline.store.add_note(id, without_nul(form.text.replace("\r\n", "\n")), &signed_in.agent.name).await?;
    tell(&state, &ticket, "changed", &signed_in, "note").await?;
    Ok(back_to(id, "noted"))
}

#[derive(Deserialize)]
pub struct PlainForm {
    csrf: String,
}

/// Takes the conversation over: Respondo falls silent.
pub async fn take_over(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    Form(form): Form<PlainForm>,
) -> Result<Response, PageError> {
    signed_in.check(&form.csrf)?;
    match state.pipeline.store.take_over(id, signed_in.person()).await {
        Ok(ticket) => {
            state.worker.stop(id);
            tell(&state, &ticket, "taken", &signed_in, "take over").await?;
            Ok(back_to(id, "taken"))
        }
        Err(StoreError::Conflict(problem)) => with_problem(&state, &signed_in, id, problem, None).await,
        Err(error) => Err(error.into()),
    }
}

/// Gives the conversation back.
pub async fn give_back(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    Form(form): Form<PlainForm>,
) -> Result<Response, PageError> {
    signed_in.check(&form.csrf)?;
    let ticket = state.pipeline.store.give_back(id, signed_in.person()).await?;
    tell(&state, &ticket, "given_back", &signed_in, "give back").await?;
    if ticket.state == TicketState::Received {
        state.worker.work_on(id);
    }
    Ok(back_to(id, "given_back"))
}

#[derive(Deserialize)]
pub struct SnoozeForm {
    csrf: String,
    /// 0 ends a snooze.
    hours: i64,
}

/// Hides a ticket from the queue for some hours.
pub async fn snooze(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    Form(form): Form<SnoozeForm>,
) -> Result<Response, PageError> {
    signed_in.check(&form.csrf)?;
    let hours = form.hours.clamp(0, LONGEST_SNOOZE_HOURS);
    let until = (hours > 0).then(|| Timestamp::now().checked_add(SignedDuration::from_hours(hours)).ok()).flatten();
    let ticket = state.pipeline.store.snooze(id, until, &signed_in.agent.name).await?;
    tell(&state, &ticket, "changed", &signed_in, "snooze").await?;
    match until {
        Some(_) => to_next(&state, &signed_in, id, "snoozed", None).await,
        None => Ok(back_to(id, "awake")),
    }
}

#[derive(Deserialize)]
pub struct MergeForm {
    csrf: String,
    /// Id or address of the other ticket.
    into: String,
}

/// Merges a duplicate into another ticket and goes on there.
pub async fn merge(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    Form(form): Form<MergeForm>,
) -> Result<Response, PageError> {
    signed_in.check(&form.csrf)?;
    let Some(into) = ticket_in(&form.into) else {
        return with_problem(&state, &signed_in, id, signed_in.t.error_no_ticket.to_owned(), None).await;
    };
    let ticket = match state.pipeline.store.merge(id, into, &signed_in.agent.name).await {
        Ok(ticket) => ticket,
        Err(StoreError::Conflict(problem) | StoreError::Invalid(problem) | StoreError::NotFound(problem)) => {
            return with_problem(&state, &signed_in, id, problem, None).await;
        }
        Err(error) => return Err(error.into()),
    };
    state.worker.stop(id);
    let event = json!({ "agent": signed_in.agent.name, "into": ticket.id });
    state.pipeline.events.keep(id, "merged", &event).await?;
    tell(&state, &ticket, "changed", &signed_in, "merge").await?;
    if ticket.state == TicketState::Received {
        state.worker.stop(ticket.id);
        state.worker.work_on(ticket.id);
    }
    Ok(back_to(ticket.id, "merged"))
}

/// The ticket that is meant by an id, or by an address that ends with one.
fn ticket_in(text: &str) -> Option<Uuid> {
    let path = text.trim().split(['?', '#']).next().unwrap_or_default();
    Uuid::try_parse(path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()).ok()
}

#[derive(Deserialize)]
pub struct CorrectForm {
    csrf: String,
    judgement: String,
    value: String,
}

/// Sets urgency or difficulty right.
pub async fn correct(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    Form(form): Form<CorrectForm>,
) -> Result<Response, PageError> {
    signed_in.check(&form.csrf)?;
    let correction = match form.judgement.as_str() {
        "urgency" => class_named(&form.value).map(Correction::Urgency),
        "difficulty" => class_named(&form.value).map(Correction::Difficulty),
        _ => None,
    };
    let correction = correction.ok_or_else(|| PageError::unprocessable(signed_in.t.error_no_class))?;
    let ticket = state.pipeline.store.correct(id, correction, &signed_in.agent.name).await?;
    tell(&state, &ticket, "changed", &signed_in, "correction").await?;
    Ok(back_to(id, "corrected"))
}

/// Takes a reply back that is still held.
pub async fn take_back(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Path(message): Path<Uuid>,
    Form(form): Form<PlainForm>,
) -> Result<Response, PageError> {
    signed_in.check(&form.csrf)?;
    match review::take_back(&state.pipeline, &state.indexer, message, &signed_in.agent.name).await {
        Ok((ticket, text)) => {
            state.web.keep_taken_back(signed_in.agent.id, ticket.id, text);
            Ok(back_to(ticket.id, "taken_back"))
        }
        Err(StoreError::Conflict(_)) => Err(PageError::new(StatusCode::CONFLICT, signed_in.t.error_too_late)),
        Err(error) => Err(error.into()),
    }
}

/// The ticket again, saying what was done.
fn back_to(id: Uuid, done: &str) -> Response {
    Redirect::to(&format!("/desk/tickets/{id}?done={done}")).into_response()
}

/// The next ticket with a draft, or the queue where there is none.
async fn to_next(
    state: &AppState,
    signed_in: &SignedIn,
    ticket: Uuid,
    done: &str,
    sent: Option<Uuid>,
) -> Result<Response, PageError> {
    let undo = sent.map_or(String::new(), |message| format!("&undo={message}"));
    let to = match next_in_line(state, signed_in, ticket).await? {
        Some(next) => format!("/desk/tickets/{next}?done={done}{undo}"),
        None => format!("/desk/tickets/{ticket}?done={done}{undo}"),
    };
    Ok(Redirect::to(&to).into_response())
}

async fn tell(
    state: &AppState,
    ticket: &Ticket,
    kind: &'static str,
    signed_in: &SignedIn,
    what: &str,
) -> Result<(), PageError> {
    let event = json!({ "agent": signed_in.agent.name, "what": what, "state": ticket.state });
    Ok(state.pipeline.events.keep(ticket.id, kind, &event).await?)
}

fn too_long(signed_in: &SignedIn, texts: &[&str]) -> Option<String> {
    let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
    (longest > LONGEST).then(|| signed_in.t.error_too_long.replace("{max}", &LONGEST.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_named_by_its_id_or_its_address() {
        let id = Uuid::now_v7();
        for text in [
            format!(" {id} "),
            format!("/desk/tickets/{id}?done=sent"),
            format!("https://desk.example/desk/tickets/{id}/#m"),
        ] {
            assert_eq!(ticket_in(&text), Some(id), "{text}");
        }
        for text in ["", "ticket 12", "https://desk.example/desk/tickets/"] {
            assert_eq!(ticket_in(text), None, "{text}");
        }
    }
}
