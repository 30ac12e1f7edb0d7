//! Opening a conversation, reading it and saying more.

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use uuid::Uuid;

use super::limits::{Budget, Refusal};
use super::upload::Upload;
use crate::http::client::Client;
use crate::http::{AppState, begin_work, shown_so_far};
use crate::intake::files::{FileError, MOST_FILES_IN_ALL};
use crate::intake::{self, without_nul};
use crate::store::{NewAttachment, NewTicket, TicketView};
use crate::ticket::{Author, Language, TicketState};
use crate::web::files::{FileLink, links};
use crate::web::format::moment;
use crate::web::language::{by_code, texts_for};
use crate::web::page::{Page, PageError};
use crate::web::random_hex;
use crate::web::texts::Texts;
use crate::worker::Worker;

/// Channel of tickets that were opened here.
pub const CHANNEL: &str = "chat";
/// Longest name or product, in characters.
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
    pub files: Vec<FileLink>,
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
    /// What was typed and refused.
    body: String,
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
    client: Client,
    headers: HeaderMap,
    Upload { form, files }: Upload<StartForm>,
) -> Result<Response, PageError> {
    let t = texts_for(&headers);
    let embed = !form.embed.is_empty();
    let queue = state.pipeline.settings.chat_queue(&form.queue);
    let product = Some(plain(&form.product)).filter(|product| !product.is_empty());
    let taken = match admit(&state, client, &form.body, files, 1, None, t) {
        Ok(taken) => taken,
        Err(refusal) if by_script(&headers) => return Ok(refusal.answer(refusal.text.clone())),
        Err(refusal) => {
            let opening = super::hours::opening(&state.pipeline.settings.support, t);
            let page = StartPage {
                t,
                embed,
                queue: form.queue,
                product: form.product,
                problem: Some(refusal.text.clone()),
                body: form.body,
                name: form.name,
                opening,
            };
            return Ok(refusal.answer(Page(page)));
        }
    };
    let new = NewTicket {
        customer: customer(&form.name)?,
        channel: CHANNEL.to_owned(),
        subject: String::new(),
        body: taken.body,
        language: taken.language,
        product,
        queue,
        idempotency: None,
    };
    let accepted = state.pipeline.store.accept_ticket_with(new, taken.files).await?;
    begin_work(&state, &accepted, Worker::work_on_when_quiet).await;
    Ok(Redirect::to(&address(&state, accepted.ticket.id, embed)).into_response())
}

/// Where a conversation is; with `embed` for another site's page.
pub fn address(state: &AppState, ticket: Uuid, embed: bool) -> String {
    let token = state.web.links.token(ticket);
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

/// A message that can be accepted.
struct Taken {
    body: String,
    language: Language,
    files: Vec<NewAttachment>,
}

/// Takes a message of `ticket`, or one that opens `conversations` new ones, within what the client may do and what can
/// wait. Every try counts as a message:
/// a refused one costs work too.
///
/// # Errors
/// In words for the customer.
fn admit(
    state: &AppState,
    client: Client,
    body: &str,
    files: Result<Vec<NewAttachment>, FileError>,
    conversations: u64,
    ticket: Option<Uuid>,
    t: &Texts,
) -> Result<Taken, Refusal> {
    spend(state, client, &[(Budget::Messages, 1)], t)?;
    state.worker.admit(ticket).map_err(|wait| Refusal::busy(wait, t))?;
    let taken = take(state, body, files, t).map_err(Refusal::unfit)?;
    let bytes = taken.files.iter().map(|file| file.content.len() as u64).sum();
    spend(state, client, &[(Budget::Conversations, conversations), (Budget::Files, bytes)], t)?;
    Ok(taken)
}

/// Counts what a client does.
///
/// # Errors
/// When it has to wait, in words for the customer.
pub fn spend(state: &AppState, client: Client, costs: &[(Budget, u64)], t: &Texts) -> Result<(), Refusal> {
    state.web.limits.spend(client, costs).map_err(|exceeded| Refusal::exceeded(exceeded, t))
}

/// Scripts get a line of text where people get a page.
pub fn by_script(headers: &HeaderMap) -> bool {
    headers.contains_key("x-respondo")
}

/// Checks a message; one of files only says which they are.
///
/// # Errors
/// In words for the customer.
fn take(
    state: &AppState,
    body: &str,
    files: Result<Vec<NewAttachment>, FileError>,
    t: &Texts,
) -> Result<Taken, String> {
    let files = files.map_err(|error| t.file_error(&error))?;
    let body = match body.trim().is_empty() && !files.is_empty() {
        true => {
            let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
            t.chat_files_only.replace("{names}", &names.join(", "))
        }
        false => without_nul(body.to_owned()),
    };
    let max = state.pipeline.settings.intake.max_message_bytes;
    if body.len() > max {
        return Err(t.error_too_long.replace("{max}", &max.to_string()));
    }
    let request = intake::prepare("", &body, None, None, Vec::new()).map_err(|_| t.chat_no_words.to_owned())?;
    Ok(Taken { body, language: request.language, files })
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
    let survivor = state.pipeline.store.survivor(ticket).await?;
    if survivor != ticket {
        return Ok(Redirect::to(&address(&state, survivor, !query.embed.is_empty())).into_response());
    }
    Ok(Page(shown(&state, ticket, !query.embed.is_empty(), t).await?).into_response())
}

async fn shown(state: &AppState, ticket: Uuid, embed: bool, t: &'static Texts) -> Result<ConversationPage, PageError> {
    let after = shown_so_far(&state.pipeline.store, ticket).await?;
    let view = state.pipeline.store.ticket_view(ticket).await?;
    let handling = state.pipeline.store.handling(ticket).await?;
    let is_working = view.ticket.state == TicketState::Received;
    Ok(ConversationPage {
        t,
        embed,
        said: said(state, &view, t).await?,
        person: handling.assignee_name.filter(|_| handling.taken_over),
        after,
        is_working,
        problem: None,
        body: String::new(),
        token: state.web.links.token(ticket),
    })
}

/// What was said so far; replies that can still be taken back are not said yet, and notes never are.
async fn said(state: &AppState, view: &TicketView, t: &'static Texts) -> Result<Vec<Said>, PageError> {
    let signatures = state.pipeline.store.signatures(view.ticket.id).await?;
    let held = state.pipeline.store.held_replies(view.ticket.id).await?;
    let files = state.pipeline.store.attachments(view.ticket.id).await?;
    let folder = format!("/chat/{}/files", state.web.links.token(view.ticket.id));
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
        Said {
            id: message.id,
            author,
            name,
            body: message.body.clone(),
            when: moment(message.created_at),
            files: links(&files, message.id, &folder),
        }
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
    client: Client,
    headers: HeaderMap,
    Upload { form, files }: Upload<SayForm>,
) -> Result<Response, PageError> {
    let t = texts_for(&headers);
    let ticket = ticket_of(&state, &token, t)?;
    let by_script = by_script(&headers);
    let embed = !form.embed.is_empty();
    let files = room_for(&state, ticket, files).await?;
    let taken = match admit(&state, client, &form.body, files, 0, Some(ticket), t) {
        Ok(taken) => taken,
        Err(refusal) if by_script => return Ok(refusal.answer(refusal.text.clone())),
        Err(refusal) => return refused(&state, ticket, embed, refusal, form.body, t).await,
    };
    let store = &state.pipeline.store;
    let accepted = store.add_message_with(ticket, Author::Customer, taken.body, None, taken.files).await?;
    begin_work(&state, &accepted, Worker::work_on_when_quiet).await;
    Ok(match by_script {
        true => StatusCode::NO_CONTENT.into_response(),
        false => Redirect::to(&address(&state, accepted.ticket.id, embed)).into_response(),
    })
}

/// The conversation with the reason of a refusal, and what was typed.
///
/// # Errors
/// When the conversation cannot be read.
pub async fn refused(
    state: &AppState,
    ticket: Uuid,
    embed: bool,
    refusal: Refusal,
    body: String,
    t: &'static Texts,
) -> Result<Response, PageError> {
    let shown = shown(state, state.pipeline.store.survivor(ticket).await?, embed, t).await?;
    let page = ConversationPage { problem: Some(refusal.text.clone()), body, ..shown };
    Ok(refusal.answer(Page(page)))
}

/// The files of a further message, refused where the conversation has enough of them.
async fn room_for(
    state: &AppState,
    ticket: Uuid,
    files: Result<Vec<NewAttachment>, FileError>,
) -> Result<Result<Vec<NewAttachment>, FileError>, PageError> {
    let Ok(files) = files else { return Ok(files) };
    if files.is_empty() {
        return Ok(Ok(files));
    }
    let store = &state.pipeline.store;
    let has = store.attachments(store.survivor(ticket).await?).await?.len();
    Ok(if has + files.len() > MOST_FILES_IN_ALL { Err(FileError::TooManyInAll) } else { Ok(files) })
}

/// A refused message is answered at the address of the form; who loads that again gets the conversation.
pub async fn back(
    State(state): State<AppState>,
    Path(token): Path<String>,
    headers: HeaderMap,
) -> Result<Redirect, PageError> {
    let ticket = ticket_of(&state, &token, texts_for(&headers))?;
    Ok(Redirect::to(&address(&state, ticket, false)))
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
    let line = |said: Said| {
        let files: String = said.files.iter().map(|file| format!("+ {} ({})\n", file.name, file.size)).collect();
        format!("{} · {}\n{}\n{files}\n", said.when, said.name, said.body)
    };
    let text: String = lines.map(line).collect();
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
