//! Opening a conversation, reading it and saying more.

use askama::Template;
use axum::Form;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use uuid::Uuid;

use crate::http::{AppState, begin_work, shown_so_far};
use crate::intake;
use crate::store::{Accepted, NewTicket, TicketView};
use crate::ticket::{Author, TicketState};
use crate::web::format::moment;
use crate::web::language::{by_code, texts_for};
use crate::web::page::{Page, PageError};
use crate::web::random_hex;
use crate::web::texts::Texts;
use crate::worker::Worker;

/// Channel of tickets that were opened here.
pub const CHANNEL: &str = "chat";
/// Longest name, queue or product, in characters.
const LONGEST_NAME: usize = 60;

/// How the page was asked for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ChatQuery {
    /// Anything: inside another site's page, without a frame of its own.
    pub embed: String,
    pub lang: String,
    pub queue: String,
    pub product: String,
    /// What was refused, by its name in the texts.
    pub refused: String,
}

impl ChatQuery {
    fn texts(&self, headers: &HeaderMap) -> &'static Texts {
        by_code(&self.lang).unwrap_or_else(|| texts_for(headers))
    }
}

#[derive(Template)]
#[template(path = "chat/start.html")]
struct StartPage {
    t: &'static Texts,
    embed: bool,
    queue: String,
    product: String,
    problem: Option<String>,
    body: String,
    name: String,
    opening: Option<String>,
}

/// A message as the customer sees it.
pub struct Said {
    pub id: Uuid,
    /// `customer`, `agent` or `respondo`.
    pub author: &'static str,
    pub name: String,
    pub body: String,
    pub when: String,
}

#[derive(Template)]
#[template(path = "chat/conversation.html")]
struct ConversationPage {
    t: &'static Texts,
    embed: bool,
    token: String,
    said: Vec<Said>,
    /// Who has taken the conversation over.
    person: Option<String>,
    is_working: bool,
    /// The stream begins behind this event.
    after: i64,
    problem: Option<String>,
}

/// The empty chat.
pub async fn start_page(State(state): State<AppState>, headers: HeaderMap, Query(query): Query<ChatQuery>) -> Response {
    let t = query.texts(&headers);
    Page(StartPage {
        t,
        embed: !query.embed.is_empty(),
        queue: query.queue,
        product: query.product,
        problem: None,
        body: String::new(),
        name: String::new(),
        opening: super::hours::opening(&state.pipeline.settings.support, t),
    })
    .into_response()
}

#[derive(Deserialize)]
pub struct StartForm {
    body: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    embed: String,
    #[serde(default)]
    queue: String,
    #[serde(default)]
    product: String,
}

/// The first message: opens a ticket and leads to the conversation.
pub async fn start(
    State(state): State<AppState>,
    headers: HeaderMap,
    Form(form): Form<StartForm>,
) -> Result<Response, PageError> {
    let t = texts_for(&headers);
    let embed = !form.embed.is_empty();
    let some = |text: &str| Some(plain(text)).filter(|text| !text.is_empty());
    let (queue, product) = (some(&form.queue), some(&form.product));
    let prepared = checked(&state, &form.body, t).and_then(|()| {
        intake::prepare("", &form.body, product.clone(), queue.clone(), Vec::new())
            .map_err(|_| t.chat_no_words.to_owned())
    });
    let request = match prepared {
        Ok(request) => request,
        Err(problem) => {
            let opening = super::hours::opening(&state.pipeline.settings.support, t);
            let page = StartPage {
                t,
                embed,
                queue: form.queue,
                product: form.product,
                problem: Some(problem),
                body: form.body,
                name: form.name,
                opening,
            };
            return Ok((StatusCode::UNPROCESSABLE_ENTITY, Page(page)).into_response());
        }
    };
    let new = NewTicket {
        customer: customer(&form.name)?,
        channel: CHANNEL.to_owned(),
        subject: String::new(),
        body: form.body,
        language: request.language,
        product,
        queue,
        idempotency: None,
    };
    let accepted = state.pipeline.store.accept_ticket(new).await?;
    begin_work(&state, &accepted, Worker::work_on_when_quiet).await;
    Ok(Redirect::to(&address(&state, &accepted, embed)).into_response())
}

fn address(state: &AppState, accepted: &Accepted, embed: bool) -> String {
    let token = state.web.links.token(accepted.ticket.id);
    format!("/chat/{token}{}", if embed { "?embed=1" } else { "" })
}

/// What the desk calls the customer. People share names, so a few random digits keep them apart.
fn customer(name: &str) -> Result<Option<String>, PageError> {
    match plain(name) {
        name if name.is_empty() => Ok(None),
        name => Ok(Some(format!("{name} · {}", random_hex::<2>()?))),
    }
}

fn plain(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect()
}

fn checked(state: &AppState, body: &str, t: &Texts) -> Result<(), String> {
    let max = state.pipeline.settings.intake.max_message_bytes;
    match body.len() > max {
        true => Err(t.error_too_long.replace("{max}", &max.to_string())),
        false => Ok(()),
    }
}

/// The conversation.
pub async fn page(
    State(state): State<AppState>,
    Path(token): Path<String>,
    headers: HeaderMap,
    Query(query): Query<ChatQuery>,
) -> Result<Response, PageError> {
    let t = query.texts(&headers);
    let ticket = ticket_of(&state, &token, t)?;
    let view = state.pipeline.store.ticket_view(ticket).await?;
    let handling = state.pipeline.store.handling(ticket).await?;
    let is_working = view.ticket.state == TicketState::Received;
    let page = ConversationPage {
        t,
        embed: !query.embed.is_empty(),
        said: said(&state, &view, t).await?,
        person: handling.assignee_name.filter(|_| handling.taken_over),
        after: shown_so_far(&state.pipeline.store, ticket, is_working).await?,
        is_working,
        problem: (!query.refused.is_empty()).then(|| t.chat_no_words.to_owned()),
        token,
    };
    Ok(Page(page).into_response())
}

/// What was said so far; replies that can still be taken back are not said yet, and notes never are.
async fn said(state: &AppState, view: &TicketView, t: &'static Texts) -> Result<Vec<Said>, PageError> {
    let signatures = state.pipeline.store.signatures(view.ticket.id).await?;
    let held = state.pipeline.store.held_replies(view.ticket.id).await?;
    let visible = view
        .messages
        .iter()
        .filter(|message| message.author != Author::Note && !held.iter().any(|(id, _)| *id == message.id));
    let shown = visible.map(|message| {
        let signed = signatures.iter().find(|(id, _)| *id == message.id).map(|(_, name)| name.clone());
        let (author, name) = match message.author {
            Author::Customer => ("customer", t.chat_you.to_owned()),
            Author::Agent => ("agent", signed.unwrap_or_else(|| t.author_agent.to_owned())),
            Author::Respondo | Author::Note => ("respondo", t.chat_assistant.to_owned()),
        };
        Said { id: message.id, author, name, body: message.body.clone(), when: moment(message.created_at) }
    });
    Ok(shown.collect())
}

/// The conversation behind a link.
///
/// # Errors
/// 404 for a link that this installation did not sign.
pub fn ticket_of(state: &AppState, token: &str, t: &Texts) -> Result<Uuid, PageError> {
    state.web.links.ticket(token).ok_or_else(|| PageError::not_found(t.chat_unknown_link))
}

#[derive(Deserialize)]
pub struct SayForm {
    body: String,
    #[serde(default)]
    embed: String,
}

/// A further message. Scripts get a status, forms the conversation.
pub async fn say(
    State(state): State<AppState>,
    Path(token): Path<String>,
    headers: HeaderMap,
    Form(form): Form<SayForm>,
) -> Result<Response, PageError> {
    let t = texts_for(&headers);
    let ticket = ticket_of(&state, &token, t)?;
    let by_script = headers.contains_key("x-respondo");
    let embed = if form.embed.is_empty() { "" } else { "&embed=1" };
    let refused = match checked(&state, &form.body, t) {
        Err(problem) => Some(problem),
        Ok(()) => intake::prepare("", &form.body, None, None, Vec::new()).err().map(|_| t.chat_no_words.to_owned()),
    };
    if let Some(problem) = refused {
        return Ok(match by_script {
            true => (StatusCode::UNPROCESSABLE_ENTITY, problem).into_response(),
            false => Redirect::to(&format!("/chat/{token}?refused=1{embed}")).into_response(),
        });
    }
    let accepted = state.pipeline.store.add_message(ticket, Author::Customer, form.body, None).await?;
    begin_work(&state, &accepted, Worker::work_on_when_quiet).await;
    Ok(match by_script {
        true => StatusCode::NO_CONTENT.into_response(),
        false => Redirect::to(&format!("/chat/{token}?{embed}")).into_response(),
    })
}

/// The customer is typing: the reply to what was already said can wait a moment.
pub async fn typing(
    State(state): State<AppState>,
    Path(token): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, PageError> {
    state.worker.is_typing(ticket_of(&state, &token, texts_for(&headers))?);
    Ok(StatusCode::NO_CONTENT)
}

/// The conversation as a text file.
pub async fn transcript(
    State(state): State<AppState>,
    Path(token): Path<String>,
    headers: HeaderMap,
) -> Result<Response, PageError> {
    let t = texts_for(&headers);
    let ticket = ticket_of(&state, &token, t)?;
    let view = state.pipeline.store.ticket_view(ticket).await?;
    let lines = said(&state, &view, t).await?.into_iter();
    let text: String = lines.map(|said| format!("{} · {}\n{}\n\n", said.when, said.name, said.body)).collect();
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"conversation.txt\""),
    ];
    Ok((headers, text).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_of_one_name_are_kept_apart() {
        let names: Vec<_> = (0..8).filter_map(|_| customer(" María\n ").ok().flatten()).collect();
        assert_eq!(names.len(), 8);
        assert!(names.iter().all(|name| name.starts_with("María · ")), "{names:?}");
        assert!(names.windows(2).any(|pair| pair[0] != pair[1]), "{names:?}");
        assert_eq!(customer("  ").ok(), Some(None));
    }
}
