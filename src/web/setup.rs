//! The first minute: the person who can read the program's output makes the first account.

use askama::Template;
use axum::Form;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::language::texts_for;
use super::page::{Page, PageError};
use super::password::{hash_password, is_long_enough};
use super::session;
use super::texts::Texts;
use crate::http::AppState;
use crate::http::auth::same;
use crate::http::client::Secure;
use crate::store::{NewAgent, Role, StoreError};

/// Longest name or login, in bytes.
const LONGEST_NAME: usize = 80;

#[derive(Template)]
#[template(path = "desk/setup.html")]
struct SetupPage {
    t: &'static Texts,
    token: String,
    name: String,
    login: String,
    problem: Option<String>,
}

#[derive(Deserialize)]
pub struct SetupQuery {
    #[serde(default)]
    token: String,
}

#[derive(Deserialize)]
pub struct SetupForm {
    token: String,
    name: String,
    login: String,
    password: String,
}

/// The form for the first account.
pub async fn page(
    State(state): State<AppState>,
    headers: HeaderMap,
    Query(query): Query<SetupQuery>,
) -> Result<Response, PageError> {
    let t = texts_for(&headers);
    if state.pipeline.store.has_agents().await? {
        return Ok(Redirect::to("/desk/sign-in").into_response());
    }
    check_token(&state, &query.token, t)?;
    let page = SetupPage { t, token: query.token, name: String::new(), login: String::new(), problem: None };
    Ok(Page(page).into_response())
}

/// Makes the first account, an administrator, and signs it in.
pub async fn create(
    State(state): State<AppState>,
    secure: Secure,
    headers: HeaderMap,
    Form(form): Form<SetupForm>,
) -> Result<Response, PageError> {
    let t = texts_for(&headers);
    check_token(&state, &form.token, t)?;
    let added = add(&state, t, (&form.name, &form.login, form.password), Role::Admin, "set-up", true).await?;
    let agent = match added {
        Ok(agent) => agent,
        Err(problem) => {
            let page = SetupPage { t, token: form.token, name: form.name, login: form.login, problem: Some(problem) };
            return Ok((StatusCode::UNPROCESSABLE_ENTITY, Page(page)).into_response());
        }
    };
    let mut response = Redirect::to("/desk").into_response();
    session::start(&state, &agent, None, secure, &mut response).await?;
    Ok(response)
}

/// Adds a person with a first password; what is wrong with what was typed, in words, as the inner error.
///
/// # Errors
/// When the store fails.
pub async fn add(
    state: &AppState,
    t: &'static Texts,
    (name, login, password): (&str, &str, String),
    role: Role,
    by: &str,
    first: bool,
) -> Result<Result<crate::store::AgentRecord, String>, PageError> {
    let (name, login) = (name.trim(), login.trim().to_lowercase());
    if name.is_empty() || name.len() > LONGEST_NAME || name.contains(char::is_control) {
        return Ok(Err(t.people_bad_name.to_owned()));
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@' | '+');
    if login.is_empty() || login.len() > LONGEST_NAME || !login.chars().all(fits) {
        return Ok(Err(t.people_bad_login.to_owned()));
    }
    if !is_long_enough(&password) {
        return Ok(Err(t.people_short_password.to_owned()));
    }
    let password_hash = hash_password(password).await?;
    let new = NewAgent { login, name: name.to_owned(), role, password_hash };
    match state.pipeline.store.add_agent(new, by, first).await {
        Ok(agent) => Ok(Ok(agent)),
        Err(StoreError::Conflict(problem)) => Ok(Err(problem)),
        Err(error) => Err(error.into()),
    }
}

fn check_token(state: &AppState, token: &str, t: &'static Texts) -> Result<(), PageError> {
    match same(token.as_bytes(), state.web.setup.as_bytes()) {
        true => Ok(()),
        false => Err(PageError::new(StatusCode::FORBIDDEN, t.setup_wrong_link)),
    }
}
