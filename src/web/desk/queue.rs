//! The queue: what waits for the team, most urgent first.

use askama::Template;
use axum::Form;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Frame;
use crate::http::AppState;
use crate::store::{DeskCounts, DeskFilter, DeskRow, Scope};
use crate::ticket::{Action, Class, Difficulty, Language, TicketState, Urgency};
use crate::web::format::{age, left};
use crate::web::page::{Page, PageError};
use crate::web::session::SignedIn;
use crate::web::texts::Texts;

/// Lines shown at once; more follow when the last one is reached.
const PAGE_ROWS: u32 = 50;
/// Longest search and longest name of a view, in characters.
const LONGEST_SEARCH: usize = 200;
const LONGEST_VIEW: usize = 40;
/// Characters of a message that stand for a missing subject.
const SUBJECT: usize = 90;

/// The queue's address: which tickets are shown.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct QueueQuery {
    /// `team` (as when empty), `mine` or `all`.
    #[serde(skip_serializing_if = "String::is_empty")]
    scope: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    urgency: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    difficulty: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    action: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    language: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    channel: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    draft: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    q: String,
    /// Anything: `q` is searched by what it means, not by its words.
    #[serde(skip_serializing_if = "String::is_empty")]
    meaning: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    cursor: String,
}

impl QueueQuery {
    /// What is searched for, and whether by what it means.
    fn search(&self) -> Option<(String, bool)> {
        let search: String = self.q.trim().chars().take(LONGEST_SEARCH).collect();
        Some((search, !self.meaning.is_empty())).filter(|(search, _)| !search.is_empty())
    }

    fn filter(&self, agent: Uuid) -> DeskFilter {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        DeskFilter {
            scope: match self.scope.as_str() {
                "mine" => Scope::Mine(agent),
                "all" => Scope::All,
                _ => Scope::Team,
            },
            urgency: class_named(&self.urgency),
            difficulty: class_named(&self.difficulty),
            action: serde_json::from_value::<Action>(self.action.clone().into()).ok(),
            language: some(&self.language).map(|code| Language::new(&code)),
            channel: some(&self.channel),
            search: self.search().filter(|(_, by_meaning)| !by_meaning).map(|(search, _)| search),
            with_draft: !self.draft.is_empty(),
            limit: PAGE_ROWS,
            cursor: some(&self.cursor),
            ..DeskFilter::default()
        }
    }

    /// The address without the place in the list.
    fn address(&self) -> String {
        let query = Self { cursor: String::new(), ..self.clone() };
        serde_urlencoded::to_string(query).unwrap_or_default()
    }
}

/// A class by its name in the API.
pub fn class_named<T: Class>(name: &str) -> Option<T> {
    T::ALL.iter().copied().find(|class| class.name() == name)
}

/// A line as it is shown.
pub struct Line {
    pub id: Uuid,
    pub who: String,
    pub subject: String,
    pub age: String,
    pub urgency: &'static str,
    pub urgency_text: &'static str,
    /// The customer's words that decided.
    pub words: String,
    pub difficulty_text: &'static str,
    pub skill: String,
    pub decision_text: &'static str,
    pub state_text: &'static str,
    pub has_draft: bool,
    pub language: String,
    pub channel: String,
    pub left: String,
    pub overdue: bool,
    pub assignee: String,
    pub taken_over: bool,
}

impl Line {
    pub fn of(row: &DeskRow, t: &'static Texts) -> Self {
        let ticket = &row.ticket;
        let (left, overdue) = ticket.due_at.map_or((String::new(), false), |due| left(due, t));
        let waits = !matches!(ticket.state, TicketState::Answered | TicketState::Waiting | TicketState::Discarded);
        Self {
            id: ticket.id,
            who: ticket.customer.clone().unwrap_or_else(|| t.queue_unnamed.to_owned()),
            subject: subject(&ticket.subject, &row.says, t),
            age: age(ticket.created_at, t),
            urgency: ticket.urgency.map_or("unknown", Class::name),
            urgency_text: t.urgency(ticket.urgency),
            words: row.words.join(" · "),
            difficulty_text: t.difficulty(ticket.difficulty),
            skill: row.handling.skill.clone().unwrap_or_default(),
            decision_text: row.action.map_or("", |action| t.action(action)),
            state_text: t.state(ticket.state),
            has_draft: row.draft_id.is_some(),
            language: ticket.language.code().to_owned(),
            channel: ticket.channel.clone(),
            left: if waits { left } else { String::new() },
            overdue: overdue && waits,
            assignee: row.handling.assignee_name.clone().unwrap_or_default(),
            taken_over: row.handling.taken_over,
        }
    }
}

/// The subject, else the beginning of what the customer says.
pub fn subject(subject: &str, says: &str, t: &Texts) -> String {
    let text = if subject.trim().is_empty() { says } else { subject };
    let mut short: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = short.char_indices().nth(SUBJECT) {
        short.truncate(end);
        short.push('…');
    }
    if short.is_empty() { t.queue_no_subject.to_owned() } else { short }
}

#[derive(Template)]
#[template(path = "desk/queue.html")]
struct QueuePage {
    frame: Frame,
    t: &'static Texts,
    query: QueueQuery,
    address: String,
    counts: DeskCounts,
    views: Vec<(String, String)>,
    lines: Vec<Line>,
    next: Option<String>,
    urgencies: Vec<(&'static str, &'static str)>,
    difficulties: Vec<(&'static str, &'static str)>,
}

#[derive(Template)]
#[template(path = "desk/rows.html")]
struct Rows {
    t: &'static Texts,
    address: String,
    lines: Vec<Line>,
    next: Option<String>,
    counts: DeskCounts,
    /// Counters travel with a fresh list, not with its continuation.
    fresh: bool,
}

/// The whole page.
pub async fn page(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Query(query): Query<QueueQuery>,
) -> Result<Response, PageError> {
    let store = &state.pipeline.store;
    let t = signed_in.t;
    let (lines, next) = lines(&state, &query, &signed_in).await?;
    let page = QueuePage {
        frame: Frame::of(&signed_in, "queue"),
        t,
        address: query.address(),
        counts: store.desk_counts(signed_in.agent.id).await?,
        views: store.saved_views(signed_in.agent.id).await?,
        lines,
        next,
        urgencies: Urgency::ALL.iter().map(|class| (class.name(), t.urgency(Some(*class)))).collect(),
        difficulties: Difficulty::ALL.iter().map(|class| (class.name(), t.difficulty(Some(*class)))).collect(),
        query,
    };
    Ok(Page(page).into_response())
}

/// The lines alone: anew after a change, or those that follow a cursor.
pub async fn rows(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Query(query): Query<QueueQuery>,
) -> Result<Response, PageError> {
    let (lines, next) = lines(&state, &query, &signed_in).await?;
    let fresh = query.cursor.is_empty();
    let counts = match fresh {
        true => state.pipeline.store.desk_counts(signed_in.agent.id).await?,
        false => DeskCounts::default(),
    };
    Ok(Page(Rows { t: signed_in.t, address: query.address(), lines, next, counts, fresh }).into_response())
}

async fn lines(
    state: &AppState,
    query: &QueueQuery,
    signed_in: &SignedIn,
) -> Result<(Vec<Line>, Option<String>), PageError> {
    let mut filter = query.filter(signed_in.agent.id);
    if let Some((search, true)) = query.search() {
        match state.pipeline.inference.embed_query(search.clone()).await {
            Ok(vector) => filter.about = Some((state.pipeline.inference.embedder_name().to_owned(), vector)),
            Err(error) => {
                tracing::warn!(%error, "a search by meaning is made by words");
                filter.search = Some(search);
            }
        }
    }
    let found = state.pipeline.store.desk_rows(&filter).await?;
    let more = found.len() == PAGE_ROWS as usize && filter.about.is_none();
    let next = found.last().filter(|_| more).map(|row| row.cursor.clone());
    Ok((found.iter().map(|row| Line::of(row, signed_in.t)).collect(), next))
}

#[derive(Deserialize)]
pub struct ViewForm {
    csrf: String,
    name: String,
    #[serde(default)]
    query: String,
    #[serde(default)]
    remove: String,
}

/// Keeps the present filters under a name, or forgets a name.
pub async fn save_view(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Form(form): Form<ViewForm>,
) -> Result<Response, PageError> {
    signed_in.check(&form.csrf)?;
    let name: String = form.name.trim().chars().filter(|c| !c.is_control()).take(LONGEST_VIEW).collect();
    // Only what a queue's address can be is kept.
    let query: QueueQuery = serde_urlencoded::from_str(&form.query).unwrap_or_default();
    let address = query.address();
    if !name.is_empty() {
        let kept = form.remove.is_empty().then_some(address.as_str());
        state.pipeline.store.save_view(signed_in.agent.id, &name, kept).await?;
    }
    Ok(Redirect::to(&format!("/desk?{address}")).into_response())
}
