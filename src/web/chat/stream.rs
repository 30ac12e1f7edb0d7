//! A conversation as it goes on, told so that a customer may read it.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use futures::{Stream, StreamExt};
use serde_json::{Value, json};

use super::conversation::ticket_of;
use crate::decide::Mode;
use crate::events::{Event, EventId};
use crate::http::{AppState, StreamQuery, last_event_id, ticket_events};
use crate::ticket::Ticket;
use crate::web::format::size;
use crate::web::language::texts_for;
use crate::web::page::PageError;

/// Links to articles that are shown at once.
const MOST_LINKS: usize = 3;

/// Follows the conversation: `message`, `links`, `understood`, `token`, `cut`, `decided`, `taken`, `given_back`, `feedback`,
/// `merged`.
/// Drafts, judgements and notes are the team's alone. A reply is shown while it is written only where the policy lets
/// replies go out by themselves.
pub async fn follow(
    State(state): State<AppState>,
    Path(token): Path<String>,
    Query(query): Query<StreamQuery>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>>>, PageError> {
    let id = ticket_of(&state, &token, texts_for(&headers))?;
    let ticket = state.pipeline.store.ticket(id).await?;
    let after = last_event_id(&headers, query.after).map_err(|problem| PageError::unprocessable(problem.detail))?;
    let told = Told::of(&state, &ticket);
    let events = ticket_events(&state, id, after).await?;
    let events = events.filter_map(move |event| std::future::ready(told.event(event).map(Ok)));
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

/// What a customer may be told.
#[derive(Clone, Copy)]
pub struct Told {
    /// Replies are shown while they are written.
    streams: bool,
    /// Public addresses of articles are shown.
    links: bool,
}

impl Told {
    /// What the settings and the policy of the ticket's queue say.
    pub fn of(state: &AppState, ticket: &Ticket) -> Self {
        let settings = &state.pipeline.settings;
        let mode = settings.policy.of(ticket.queue.as_deref()).mode;
        Self { streams: mode == Mode::Send, links: settings.chat.links }
    }

    /// An event as the customer gets it; None where it is the team's alone.
    pub fn event(self, event: Event) -> Option<SseEvent> {
        let Event { id, kind, data } = event;
        let (kind, data) = self.content(kind, &data)?;
        Some(as_sse(id, kind, &data))
    }

    /// Kind and data for the customer.
    fn content(self, kind: &str, data: &Value) -> Option<(&'static str, Value)> {
        Some(match kind {
            "received" => (
                "message",
                json!({
                    "id": data["id"], "author": "customer", "body": data["body"], "at": data["created_at"],
                    "files": files(&data["files"]),
                }),
            ),
            "message" => (
                "message",
                json!({ "id": data["message_id"], "author": data["author"], "name": data["agent"], "body": data["body"] }),
            ),
            "evidence" if self.links => ("links", links(data)),
            "triage" => ("understood", json!({})),
            "token" if self.streams => ("token", data.clone()),
            "cut" if self.streams => {
                let sentences = data.as_array()?.iter().map(|finding| finding["sentence"].clone());
                ("cut", sentences.collect::<Vec<_>>().into())
            }
            "decision" => ("decided", json!({ "automatic": data["automatic"], "action": data["action"] })),
            "taken" => ("taken", json!({ "name": data["agent"] })),
            "given_back" => ("given_back", json!({})),
            "feedback" => ("feedback", json!({ "kind": data["kind"] })),
            // The page asks for itself again and is led to the other conversation.
            "merged" => ("merged", json!({})),
            _ => return None,
        })
    }
}

/// Titles and addresses of the articles found.
fn links(evidence: &Value) -> Value {
    let found = evidence.as_array().into_iter().flatten().map(|found| &found["item"]);
    let public = found.filter(|item| {
        item["kind"] == "article" && item["url"].as_str().is_some_and(|url| url.starts_with("https://"))
    });
    public.take(MOST_LINKS).map(|item| json!({ "title": item["title"], "url": item["url"] })).collect()
}

/// The files of a message, by what a link to them needs.
fn files(files: &Value) -> Value {
    let size_of = |file: &Value| file["size"].as_u64().map(size);
    let link = |file: &Value| json!({ "id": file["id"], "name": file["name"], "size": size_of(file) });
    files.as_array().into_iter().flatten().map(link).collect()
}

fn as_sse(id: EventId, kind: &'static str, data: &Value) -> SseEvent {
    SseEvent::default().id(id.to_string()).event(kind).data(data.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_teams_stays_with_the_team() {
        let told = Told { streams: false, links: true };
        for kind in ["draft", "extractive", "review", "changed", "taken_back", "token", "cut", "other"] {
            assert_eq!(told.content(kind, &json!([{ "sentence": "x" }])), None, "{kind}");
        }
        let decision = json!({ "automatic": false, "action": "suggest", "reasons": ["secret"], "skill": "billing" });
        assert_eq!(
            told.content("decision", &decision),
            Some(("decided", json!({ "automatic": false, "action": "suggest" })))
        );
        let triage = json!({ "urgency": { "label": "low" } });
        assert_eq!(told.content("triage", &triage), Some(("understood", json!({}))));
    }

    #[test]
    fn replies_are_shown_as_they_are_written_where_they_go_out_by_themselves() {
        let told = Told { streams: true, links: false };
        assert_eq!(told.content("token", &json!("Hola")), Some(("token", json!("Hola"))));
        let cut = json!([{ "rule": "promise", "sentence": "We refund you.", "detail": "refund" }]);
        assert_eq!(told.content("cut", &cut), Some(("cut", json!(["We refund you."]))));
        assert_eq!(told.content("evidence", &json!([])), None);
    }

    #[test]
    fn files_come_with_the_message_without_what_is_ours() {
        let told = Told { streams: false, links: false };
        let file = json!({ "id": "1", "ticket_id": "2", "name": "a.png", "media_type": "image/png", "size": 2_048 });
        let received = json!({ "id": "3", "body": "hola", "created_at": "now", "files": [file] });
        let link = json!({ "id": "1", "name": "a.png", "size": "2 KiB" });
        let (kind, data) = told.content("received", &received).expect("told");
        assert_eq!((kind, &data["files"]), ("message", &json!([link])));
        let (_, data) = told.content("received", &json!({ "id": "3", "body": "hola" })).expect("told");
        assert_eq!(data["files"], json!([]));
    }

    #[test]
    fn only_public_articles_are_linked() {
        let item =
            |kind: &str, url: &str| json!({ "item": { "kind": kind, "url": url, "title": "T", "solution": "secret" } });
        let evidence = json!([
            item("ticket", "https://example.org/t"),
            item("article", "javascript:alert(1)"),
            item("article", "https://example.org/a"),
        ]);
        assert_eq!(links(&evidence), json!([{ "title": "T", "url": "https://example.org/a" }]));
    }
}
