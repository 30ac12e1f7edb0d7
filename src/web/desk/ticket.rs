//! One ticket: the conversation, the draft with its evidence, the judgement, and what can be done.

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use uuid::Uuid;

use super::Frame;
use super::marks::{Claim, Source, linked};
use super::queue::subject;
use crate::http::{AppState, shown_so_far};
use crate::store::{AuditRow, DeskFilter, DraftRecord, DraftStatus, Handling, TicketView};
use crate::ticket::{Author, Class, Difficulty, Judgement, MemoryKind, NextStep, Ticket, TicketState, Urgency};
use crate::web::files::{FileLink, links};
use crate::web::format::{age, hours, left, moment, percent};
use crate::web::page::{Page, PageError};
use crate::web::session::SignedIn;
use crate::web::texts::Texts;

/// Earlier tickets of the customer that are listed.
const EARLIER: u32 = 8;
/// Lines of the queue that are looked at for the next ticket.
const AHEAD: u32 = 3;

/// A message as it is shown.
pub struct Shown {
    pub id: Uuid,
    pub author: &'static str,
    pub name: String,
    pub body: String,
    pub when: String,
    pub age: String,
    /// Seconds for which it can be taken back.
    pub held: Option<i64>,
    pub files: Vec<FileLink>,
}

/// One of the three judgements.
pub struct Judged {
    pub title: &'static str,
    pub label: &'static str,
    pub class: &'static str,
    pub probability: String,
    pub abstained: bool,
    pub words: String,
    /// All classes with their probabilities in percent.
    pub all: Vec<(&'static str, u32)>,
}

/// A ticket in a list beside this one.
pub struct Related {
    pub id: Uuid,
    pub subject: String,
    pub state: &'static str,
    pub age: String,
}

/// A similar case from the memory.
pub struct Similar {
    pub title: String,
    pub is_article: bool,
    pub similarity: String,
    /// What can be put into a reply.
    pub text: String,
    pub url: Option<String>,
}

/// A line of the timeline.
pub struct Moment {
    pub when: String,
    pub actor: String,
    pub what: String,
}

/// The draft that waits, or the latest one.
pub struct DraftView {
    pub id: Uuid,
    pub is_open: bool,
    pub text: String,
    pub kind: &'static str,
    pub model: String,
    pub claims: Vec<Claim>,
    pub sources: Vec<Source>,
    /// What the guard objected to: rule, sentence, detail.
    pub findings: Vec<(&'static str, String, String)>,
}

/// What the parts of the page that change while it is open are made of.
pub struct PanelView {
    pub t: &'static Texts,
    pub csrf: String,
    pub id: Uuid,
    pub state: TicketState,
    pub state_text: &'static str,
    /// The stream begins behind this event.
    pub after: i64,
    pub is_working: bool,
    pub messages: Vec<Shown>,
    pub draft: Option<DraftView>,
    /// A text that was taken back, to go on with.
    pub returned: Option<String>,
    /// How probable it is that what was found answers the request.
    pub fit: Option<String>,
    pub reasons: Vec<String>,
    pub action: &'static str,
    pub judged: Vec<Judged>,
    pub urgency: &'static str,
    pub expected: Option<String>,
    pub left: String,
    pub overdue: bool,
    pub similar: Vec<Similar>,
    pub timeline: Vec<Moment>,
    pub assignee: String,
    pub is_mine: bool,
    pub taken_over: bool,
    pub snoozed_until: Option<String>,
    pub skill: String,
    /// The ticket that has the conversation of this duplicate.
    pub merged_into: Option<Uuid>,
    /// Who can be given the ticket.
    pub people: Vec<(Uuid, String)>,
    /// The customer's other tickets, newest first; this one can be merged into each.
    pub others: Vec<Related>,
    pub problem: Option<String>,
}

impl PanelView {
    /// What stands in the box for a message without a draft: a text that was taken back or refused, where there is no
    /// open draft to edit it in.
    fn reply_text(&self) -> Option<&str> {
        let has_draft = self.draft.as_ref().is_some_and(|draft| draft.is_open);
        self.returned.as_deref().filter(|_| !has_draft)
    }
}

#[derive(Template)]
#[template(path = "desk/ticket.html")]
struct TicketPage {
    frame: Frame,
    t: &'static Texts,
    panel: PanelView,
    subject: String,
    who: String,
    channel: String,
    language: String,
    opened: String,
    next: Option<Uuid>,
    notice: &'static str,
    /// The reply that was just sent from another ticket, while it can be taken back.
    undo: Option<Uuid>,
}

#[derive(Template)]
#[template(path = "desk/panel_body.html")]
struct Panel {
    panel: PanelView,
    t: &'static Texts,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct TicketQuery {
    /// What was just done, by its name in the texts.
    done: String,
    undo: Option<Uuid>,
}

/// The whole page.
pub async fn page(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    Query(query): Query<TicketQuery>,
) -> Result<Response, PageError> {
    Ok(Page(whole(&state, &signed_in, id, query, None).await?).into_response())
}

/// The parts that change: conversation, draft and judgement.
pub async fn panel(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
) -> Result<Response, PageError> {
    let after = shown_so_far(&state.pipeline.store, id).await?;
    let view = state.pipeline.store.ticket_view(id).await?;
    let panel = panel_view(&state, &signed_in, after, view).await?;
    Ok(Page(Panel { t: signed_in.t, panel }).into_response())
}

/// The page with what went wrong, so that nothing that was typed is lost.
pub async fn with_problem(
    state: &AppState,
    signed_in: &SignedIn,
    id: Uuid,
    problem: String,
    typed: Option<String>,
) -> Result<Response, PageError> {
    if let Some(typed) = typed {
        state.web.keep_taken_back(signed_in.agent.id, id, typed);
    }
    let page = whole(state, signed_in, id, TicketQuery::default(), Some(problem)).await?;
    Ok((axum::http::StatusCode::CONFLICT, Page(page)).into_response())
}

async fn whole(
    state: &AppState,
    signed_in: &SignedIn,
    id: Uuid,
    query: TicketQuery,
    problem: Option<String>,
) -> Result<TicketPage, PageError> {
    let (store, t) = (&state.pipeline.store, signed_in.t);
    let after = shown_so_far(store, id).await?;
    let view = store.ticket_view(id).await?;
    let ticket = view.ticket.clone();
    let says = view.messages.first().map(|message| message.body.clone()).unwrap_or_default();
    Ok(TicketPage {
        frame: Frame::of(signed_in, "queue"),
        t,
        panel: PanelView { problem, ..panel_view(state, signed_in, after, view).await? },
        subject: subject(&ticket.subject, &says, t),
        who: ticket.customer.clone().unwrap_or_else(|| t.queue_unnamed.to_owned()),
        channel: ticket.channel.clone(),
        language: ticket.language.code().to_owned(),
        opened: moment(ticket.created_at),
        next: next_in_line(state, signed_in, id).await?,
        notice: t.done(&query.done),
        undo: query.undo,
    })
}

/// The ticket that comes after this one is done.
pub async fn next_in_line(state: &AppState, signed_in: &SignedIn, done: Uuid) -> Result<Option<Uuid>, PageError> {
    let filter = DeskFilter { with_draft: true, limit: AHEAD, ..DeskFilter::default() };
    let rows = state.pipeline.store.desk_rows(&filter).await?;
    let free = |handling: &Handling| handling.assignee.is_none_or(|agent| agent == signed_in.agent.id);
    Ok(rows.iter().find(|row| row.ticket.id != done && free(&row.handling)).map(|row| row.ticket.id))
}

fn related((ticket, says): &(Ticket, String), t: &'static Texts) -> Related {
    Related {
        id: ticket.id,
        subject: subject(&ticket.subject, says, t),
        state: t.state(ticket.state),
        age: age(ticket.created_at, t),
    }
}

/// `after` is the last event that was there before the ticket was read.
async fn panel_view(
    state: &AppState,
    signed_in: &SignedIn,
    after: i64,
    view: TicketView,
) -> Result<PanelView, PageError> {
    let (store, t) = (&state.pipeline.store, signed_in.t);
    let id = view.ticket.id;
    let is_working = view.ticket.state == TicketState::Received;
    let handling = store.handling(id).await?;
    let others = store.tickets_of_customer(&view.ticket, EARLIER).await?;
    let (left, overdue) = view.ticket.due_at.map_or((String::new(), false), |due| left(due, t));
    let waits = !matches!(view.ticket.state, TicketState::Answered | TicketState::Discarded);
    let decision = view.decisions.last().map(|record| &record.decision);
    Ok(PanelView {
        t,
        csrf: signed_in.csrf.clone(),
        id,
        state: view.ticket.state,
        state_text: t.state(view.ticket.state),
        after,
        is_working,
        messages: messages(state, &view, t).await?,
        draft: current_draft(&view).map(|record| draft_view(record, t)),
        returned: state.web.taken_back(signed_in.agent.id, id),
        fit: decision.and_then(|decision| decision.fit).map(percent),
        reasons: decision.map(|decision| decision.reasons.clone()).unwrap_or_default(),
        action: decision.map_or("", |decision| t.action(decision.action)),
        judged: judged(&view, t),
        urgency: view.ticket.urgency.map_or("unknown", Class::name),
        expected: expected(&view, t),
        left: if waits { left } else { String::new() },
        overdue: overdue && waits,
        similar: similar(&view),
        timeline: store.audit_trail(id).await?.iter().map(|row| line(row, t)).collect(),
        is_mine: handling.assignee == Some(signed_in.agent.id),
        assignee: handling.assignee_name.unwrap_or_default(),
        taken_over: handling.taken_over,
        snoozed_until: handling.snoozed_until.filter(|until| *until > jiff::Timestamp::now()).map(moment),
        skill: handling.skill.unwrap_or_default(),
        merged_into: handling.merged_into,
        people: store.agents().await?.into_iter().filter(|one| one.active).map(|one| (one.id, one.name)).collect(),
        others: others.iter().map(|other| related(other, t)).collect(),
        problem: None,
    })
}

/// The open draft, else the latest one that is not out of date.
fn current_draft(view: &TicketView) -> Option<&DraftRecord> {
    let open = view.drafts.iter().rev().find(|record| record.status == DraftStatus::Open);
    open.or_else(|| view.drafts.iter().rev().find(|record| record.status != DraftStatus::Superseded))
}

fn draft_view(record: &DraftRecord, t: &'static Texts) -> DraftView {
    let (claims, sources) = linked(&record.draft);
    let findings = record.draft.findings.iter();
    DraftView {
        id: record.id,
        is_open: record.status == DraftStatus::Open,
        text: record.draft.text.clone(),
        kind: t.draft_kind(record.draft.kind),
        model: record.draft.model.clone().unwrap_or_default(),
        claims,
        sources,
        findings: findings.map(|found| (t.rule(found.rule), found.sentence.clone(), found.detail.clone())).collect(),
    }
}

async fn messages(state: &AppState, view: &TicketView, t: &'static Texts) -> Result<Vec<Shown>, PageError> {
    let signatures = state.pipeline.store.signatures(view.ticket.id).await?;
    let held = state.pipeline.store.held_replies(view.ticket.id).await?;
    let files = state.pipeline.store.attachments(view.ticket.id).await?;
    let shown = view.messages.iter().map(|message| {
        let signed = signatures.iter().find(|(id, _)| *id == message.id).map(|(_, name)| name.clone());
        let (author, name) = match message.author {
            Author::Customer => {
                ("customer", view.ticket.customer.clone().unwrap_or_else(|| t.author_customer.to_owned()))
            }
            Author::Agent => ("agent", signed.unwrap_or_else(|| t.author_agent.to_owned())),
            Author::Respondo => ("respondo", t.author_respondo.to_owned()),
            Author::Note => ("note", format!("{} · {}", t.author_note, signed.unwrap_or_default())),
        };
        let until = held.iter().find(|(id, _)| *id == message.id).map(|(_, until)| *until);
        Shown {
            id: message.id,
            author,
            name,
            body: message.body.clone(),
            when: moment(message.created_at),
            age: age(message.created_at, t),
            held: until.map(|until| until.duration_since(jiff::Timestamp::now()).as_secs().max(0)),
            files: links(&files, message.id, "/desk/files"),
        }
    });
    Ok(shown.collect())
}

fn judged(view: &TicketView, t: &'static Texts) -> Vec<Judged> {
    let Some(triage) = &view.triage else { return Vec::new() };
    vec![
        // What a person has corrected is what counts; the probabilities are those of the model.
        one(t.judgement_urgency, &triage.urgency, view.ticket.urgency, |class: Urgency| t.urgency(Some(class))),
        one(t.judgement_difficulty, &triage.difficulty, view.ticket.difficulty, |class: Difficulty| {
            t.difficulty(Some(class))
        }),
        one(t.judgement_next, &triage.next, None, |class: NextStep| t.next_step(class)),
    ]
}

fn one<T: Class>(
    title: &'static str,
    judgement: &Judgement<T>,
    now: Option<T>,
    text: impl Fn(T) -> &'static str,
) -> Judged {
    let label = now.unwrap_or(judgement.label);
    let shares = T::ALL.iter().zip(&judgement.distribution);
    Judged {
        title,
        label: text(label),
        class: label.name(),
        probability: percent(judgement.distribution.get(label.index()).copied().unwrap_or(judgement.probability)),
        abstained: judgement.abstained && label == judgement.label,
        words: judgement.words.join(" · "),
        all: shares.map(|(class, share)| (text(*class), (100.0 * share).round() as u32)).collect(),
    }
}

fn expected(view: &TicketView, t: &'static Texts) -> Option<String> {
    let time = view.triage.as_ref()?.expected_time?;
    // Without samples the times are those of the whole memory.
    let text = if time.samples == 0 { t.expected_of_all } else { t.expected_time };
    Some(
        text.replace("{median}", &hours(time.median_hours, t))
            .replace("{p90}", &hours(time.p90_hours, t))
            .replace("{n}", &time.samples.to_string()),
    )
}

fn similar(view: &TicketView) -> Vec<Similar> {
    let found = view.evidence.iter().map(|evidence| Similar {
        title: evidence.title.clone(),
        is_article: evidence.kind == MemoryKind::Article,
        similarity: format!("{:.2}", evidence.similarity),
        text: evidence.text.clone(),
        url: evidence.url.clone().filter(|url| url.starts_with("https://") || url.starts_with("http://")),
    });
    found.collect()
}

fn line(row: &AuditRow, t: &'static Texts) -> Moment {
    Moment { when: moment(row.created_at), actor: t.actor(&row.actor), what: t.audit_action(&row.action) }
}
