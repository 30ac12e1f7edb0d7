//! Keys of programs that use the API.

use std::time::Duration;

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use jiff::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

use super::Frame;
use crate::http::AppState;
use crate::store::{ApiKey, IssuedKey, KeyScope, KeyState, NewKey, Role, StoreError};
use crate::web::format::{age, moment};
use crate::web::page::{Page, PageError};
use crate::web::session::SignedIn;
use crate::web::texts::Texts;

const HOUR: Duration = Duration::from_secs(3_600);
/// Longest life of a key that the form offers, and longest time that a key and the one in its place both work; in days and
/// hours.
const LONGEST_LIFE_DAYS: u32 = 365;
const LONGEST_OVERLAP_HOURS: u32 = 7 * 24;
/// Where a form says nothing: a program goes on working until somebody gives it the new key.
const USUAL_OVERLAP_HOURS: u32 = 24;

#[derive(Template)]
#[template(path = "desk/keys.html")]
struct KeysPage {
    frame: Frame,
    t: &'static Texts,
    lines: Vec<Line>,
    problem: Option<String>,
    /// Name of a key that was just made, and the key itself.
    made: Option<(String, String)>,
    /// What was typed.
    name: String,
    customer: String,
    /// Requests a minute of keys that have no limit of their own.
    usual_limit: u32,
}

/// A key in the list.
struct Line {
    id: Uuid,
    name: String,
    scopes: String,
    customer: Option<String>,
    limit: Option<u32>,
    made: String,
    used: String,
    state: String,
    is_active: bool,
    /// Nothing came in its place yet.
    can_rotate: bool,
}

#[derive(Deserialize)]
pub struct AddForm {
    csrf: String,
    name: String,
    #[serde(default)]
    customer: String,
    /// Days; empty for no end.
    #[serde(default)]
    expires: String,
    /// Requests a minute; empty for the usual limit.
    #[serde(default)]
    limit: String,
    // Boxes that are ticked.
    tickets: Option<String>,
    desk: Option<String>,
    search: Option<String>,
    metrics: Option<String>,
    all: Option<String>,
}

#[derive(Deserialize)]
pub struct RotateForm {
    csrf: String,
    /// How long both keys work.
    #[serde(default = "usual_overlap")]
    hours: u32,
}

fn usual_overlap() -> u32 {
    USUAL_OVERLAP_HOURS
}

#[derive(Deserialize)]
pub struct RevokeForm {
    csrf: String,
}

/// The list, and a form for one more.
pub async fn page(signed_in: SignedIn, State(state): State<AppState>) -> Result<Response, PageError> {
    signed_in.at_least(Role::Admin)?;
    shown(&state, &signed_in, Outcome::default()).await
}

/// Makes a key and shows it, once.
pub async fn add(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Form(form): Form<AddForm>,
) -> Result<Response, PageError> {
    signed_in.check(&form.csrf)?;
    signed_in.at_least(Role::Admin)?;
    let t = signed_in.t;
    let added = match form.key(t) {
        Ok(new) => tell(state.pipeline.store.add_key(new, &signed_in.agent.name).await, t)?,
        Err(problem) => Err(problem),
    };
    let outcome = match added {
        Ok(issued) => Outcome::made(issued),
        Err(problem) => {
            Outcome { problem: Some(problem), name: form.name, customer: form.customer, ..Outcome::default() }
        }
    };
    shown(&state, &signed_in, outcome).await
}

/// A key is shown at the address of its form; who loads that again gets the list.
pub async fn back() -> Redirect {
    Redirect::to("/desk/keys")
}

/// Makes a key in the place of another one and shows it, once.
pub async fn rotate(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    Form(form): Form<RotateForm>,
) -> Result<Response, PageError> {
    signed_in.check(&form.csrf)?;
    signed_in.at_least(Role::Admin)?;
    let overlap = HOUR * form.hours.min(LONGEST_OVERLAP_HOURS);
    let rotated = state.pipeline.store.rotate_key(&id.to_string(), overlap, &signed_in.agent.name).await;
    let outcome = match tell(rotated, signed_in.t)? {
        Ok(issued) => Outcome::made(issued),
        Err(problem) => Outcome { problem: Some(problem), ..Outcome::default() },
    };
    shown(&state, &signed_in, outcome).await
}

/// Ends a key at once.
pub async fn revoke(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    Form(form): Form<RevokeForm>,
) -> Result<Response, PageError> {
    signed_in.check(&form.csrf)?;
    signed_in.at_least(Role::Admin)?;
    let revoked = state.pipeline.store.revoke_keys(&id.to_string(), &signed_in.agent.name).await;
    match tell(revoked, signed_in.t)? {
        Ok(_) => Ok(Redirect::to("/desk/keys").into_response()),
        Err(problem) => shown(&state, &signed_in, Outcome { problem: Some(problem), ..Outcome::default() }).await,
    }
}

/// What a form has done.
#[derive(Default)]
struct Outcome {
    problem: Option<String>,
    made: Option<IssuedKey>,
    name: String,
    customer: String,
}

impl Outcome {
    fn made(issued: IssuedKey) -> Self {
        Self { made: Some(issued), ..Self::default() }
    }
}

/// What the person in front of the page can set right, in words, as the inner error.
///
/// # Errors
/// When the store fails, or there is no such key.
fn tell<T>(done: Result<T, StoreError>, t: &'static Texts) -> Result<Result<T, String>, PageError> {
    match done {
        Ok(done) => Ok(Ok(done)),
        Err(StoreError::Conflict(_)) => Ok(Err(t.api_key_conflict.to_owned())),
        Err(StoreError::Invalid(problem)) => Ok(Err(problem)),
        Err(error) => Err(error.into()),
    }
}

impl AddForm {
    /// The key that is asked for.
    ///
    /// # Errors
    /// In words for the administrator.
    fn key(&self, t: &'static Texts) -> Result<NewKey, String> {
        let ticked = [&self.tickets, &self.desk, &self.search, &self.metrics, &self.all];
        let scopes = KeyScope::EVERY.into_iter().zip(ticked).filter(|(_, ticked)| ticked.is_some());
        let days = number(&self.expires, t)?.map(|days| HOUR * 24 * days.clamp(1, LONGEST_LIFE_DAYS));
        let customer = self.customer.trim();
        let new = NewKey {
            name: self.name.clone(),
            scopes: scopes.map(|(scope, _)| scope).collect(),
            customer: (!customer.is_empty()).then(|| customer.to_owned()),
            requests_per_minute: number(&self.limit, t)?,
            expires_at: days.and_then(|life| Timestamp::now().checked_add(life).ok()),
        };
        new.checked().map_err(|problem| t.key_problem(problem).to_owned())
    }
}

/// A field with a number or nothing.
fn number(field: &str, t: &'static Texts) -> Result<Option<u32>, String> {
    match field.trim() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| t.api_key_bad_number.to_owned()),
    }
}

async fn shown(state: &AppState, signed_in: &SignedIn, outcome: Outcome) -> Result<Response, PageError> {
    let t = signed_in.t;
    let status = if outcome.problem.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let now = Timestamp::now();
    let keys = state.pipeline.store.keys().await?;
    let page = KeysPage {
        frame: Frame::of(signed_in, "api-keys"),
        t,
        lines: keys.into_iter().map(|key| line(key, now, t)).collect(),
        problem: outcome.problem,
        made: outcome.made.map(|issued| (issued.record.name, issued.key)),
        name: outcome.name,
        customer: outcome.customer,
        usual_limit: state.pipeline.settings.server.key_requests_per_minute,
    };
    Ok((status, Page(page)).into_response())
}

fn line(key: ApiKey, now: Timestamp, t: &'static Texts) -> Line {
    let is_active = key.state(now) == KeyState::Active;
    let state = match (key.state(now), key.expires_at) {
        (KeyState::Revoked, _) => t.api_key_revoked.to_owned(),
        (KeyState::Expired, _) => t.api_key_expired.to_owned(),
        (KeyState::Active, Some(at)) => t.api_key_ends.replace("{time}", &moment(at)),
        (KeyState::Active, None) => t.api_key_active.to_owned(),
    };
    Line {
        id: key.id,
        scopes: key.scope_names(),
        made: format!("{} · {}", moment(key.created_at), key.created_by),
        used: key.last_used_at.map_or(t.api_key_never.to_owned(), |at| age(at, t)),
        state,
        is_active,
        can_rotate: is_active && key.replaced_by.is_none(),
        name: key.name,
        customer: key.customer,
        limit: key.requests_per_minute,
    }
}
