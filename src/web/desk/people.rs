//! Who works at the desk.

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use uuid::Uuid;

use super::Frame;
use crate::http::AppState;
use crate::store::{AgentRecord, Role, StoreError};
use crate::web::page::{Page, PageError};
use crate::web::session::{SignedIn, SignedOut};
use crate::web::setup;
use crate::web::texts::Texts;

#[derive(Template)]
#[template(path = "desk/people.html")]
struct PeoplePage {
    frame: Frame,
    t: &'static Texts,
    people: Vec<AgentRecord>,
    problem: Option<String>,
    name: String,
    login: String,
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

/// The list, and a form for one more.
pub async fn page(signed_in: SignedIn, State(state): State<AppState>) -> Result<Response, PageError> {
    signed_in.at_least(Role::Admin)?;
    shown(&state, &signed_in, None, String::new(), String::new()).await
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
        Err(problem) => shown(&state, &signed_in, Some(problem), form.name, form.login).await,
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
                state.web.tell_signed_out(SignedOut::Agent(id));
            }
            Ok(Redirect::to("/desk/people").into_response())
        }
        Err(StoreError::Conflict(problem)) => {
            shown(&state, &signed_in, Some(problem), String::new(), String::new()).await
        }
        Err(error) => Err(error.into()),
    }
}

async fn shown(
    state: &AppState,
    signed_in: &SignedIn,
    problem: Option<String>,
    name: String,
    login: String,
) -> Result<Response, PageError> {
    let status = if problem.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let people = state.pipeline.store.agents().await?;
    let page = PeoplePage { frame: Frame::of(signed_in, "people"), t: signed_in.t, people, problem, name, login };
    Ok((status, Page(page)).into_response())
}
