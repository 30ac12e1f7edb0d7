//! Who works at the desk.

use askama::Template;
use axum::Form;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use uuid::Uuid;

use super::Frame;
use crate::http::AppState;
use crate::store::{AgentRecord, Role, StoreError};
use crate::web::page::{Page, PageError};
use crate::web::password::{hash_password, is_long_enough};
use crate::web::session::{SignedIn, SignedOut};
use crate::web::setup;
use crate::web::texts::Texts;

#[derive(Template)]
#[template(path = "desk/people.html")]
struct PeoplePage {
    frame: Frame,
    t: &'static Texts,
    people: Vec<AgentRecord>,
    /// Who looks at it.
    own: Uuid,
    outcome: Outcome,
}

/// What a form has done.
#[derive(Default)]
struct Outcome {
    problem: Option<String>,
    /// Who has a new password.
    given: Option<Uuid>,
    /// What was typed for one more.
    name: String,
    login: String,
}

#[derive(Deserialize)]
pub struct PeopleQuery {
    /// Who was given a new password.
    given: Option<Uuid>,
}

#[derive(Deserialize)]
pub struct AddForm {
    csrf: String,
    name: String,
    login: String,
    password: String,
    role: Role,
}

#[derive(Deserialize)]
pub struct ActiveForm {
    csrf: String,
    active: bool,
}

#[derive(Deserialize)]
pub struct PasswordForm {
    csrf: String,
    password: String,
}

/// The list, and a form for one more.
pub async fn page(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Query(query): Query<PeopleQuery>,
) -> Result<Response, PageError> {
    signed_in.at_least(Role::Admin)?;
    shown(&state, &signed_in, Outcome { given: query.given, ..Outcome::default() }).await
}

/// Adds a person.
pub async fn add(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Form(form): Form<AddForm>,
) -> Result<Response, PageError> {
    signed_in.check(&form.csrf)?;
    signed_in.at_least(Role::Admin)?;
    let typed = (form.name.as_str(), form.login.as_str(), form.password);
    match setup::add(&state, signed_in.t, typed, form.role, &signed_in.agent.name, false).await? {
        Ok(_) => Ok(Redirect::to("/desk/people").into_response()),
        Err(problem) => {
            let (name, login) = (form.name, form.login);
            shown(&state, &signed_in, Outcome { name, login, ..Outcome::failed(problem) }).await
        }
    }
}

/// Lets a person in or keeps them out.
pub async fn set_active(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    Form(form): Form<ActiveForm>,
) -> Result<Response, PageError> {
    signed_in.check(&form.csrf)?;
    signed_in.at_least(Role::Admin)?;
    match state.pipeline.store.set_agent_active(id, form.active, &signed_in.agent.name).await {
        Ok(()) => {
            if !form.active {
                state.web.tell_signed_out(SignedOut::Agent { id, but: None });
            }
            Ok(Redirect::to("/desk/people").into_response())
        }
        Err(StoreError::Conflict(problem)) => shown(&state, &signed_in, Outcome::failed(problem)).await,
        Err(error) => Err(error.into()),
    }
}

/// Gives another person a new password; their sessions end, with what is open of them.
pub async fn set_password(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    Form(form): Form<PasswordForm>,
) -> Result<Response, PageError> {
    signed_in.check(&form.csrf)?;
    signed_in.at_least(Role::Admin)?;
    let t = signed_in.t;
    if id == signed_in.agent.id {
        // Else a browser that an administrator left open would be enough to take the account.
        return shown(&state, &signed_in, Outcome::failed(t.people_own_password)).await;
    }
    if !is_long_enough(&form.password) {
        return shown(&state, &signed_in, Outcome::failed(t.people_short_password)).await;
    }
    let hash = hash_password(form.password).await?;
    state.pipeline.store.set_password(id, &hash, None, &signed_in.agent.name).await?;
    state.web.tell_signed_out(SignedOut::Agent { id, but: None });
    Ok(Redirect::to(&format!("/desk/people?given={id}")).into_response())
}

impl Outcome {
    fn failed(problem: impl Into<String>) -> Self {
        Self { problem: Some(problem.into()), ..Self::default() }
    }
}

impl PeoplePage {
    /// Who has a new password, in words.
    fn given(&self) -> Option<String> {
        let person = self.people.iter().find(|person| Some(person.id) == self.outcome.given)?;
        Some(self.t.people_password_given.replace("{name}", &person.name))
    }
}

async fn shown(state: &AppState, signed_in: &SignedIn, outcome: Outcome) -> Result<Response, PageError> {
    let status = if outcome.problem.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let people = state.pipeline.store.agents().await?;
    let (frame, own) = (Frame::of(signed_in, "people"), signed_in.agent.id);
    Ok((status, Page(PeoplePage { frame, t: signed_in.t, people, own, outcome })).into_response())
}
