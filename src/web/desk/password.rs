//! Changing one's own password.

use askama::Template;
use axum::Form;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::Frame;
use crate::http::AppState;
use crate::store::StoreError;
use crate::web::page::{Page, PageError};
use crate::web::password::{hash_password, is_long_enough, is_right};
use crate::web::session::{SignedIn, SignedOut};
use crate::web::texts::Texts;

#[derive(Template)]
#[template(path = "desk/password.html")]
struct PasswordPage {
    frame: Frame,
    t: &'static Texts,
    /// For the browser's list of passwords.
    login: String,
    problem: Option<&'static str>,
    is_done: bool,
}

#[derive(Deserialize)]
pub struct PasswordQuery {
    /// Says that it was changed, in place of the form.
    #[serde(default)]
    done: bool,
}

#[derive(Deserialize)]
pub struct PasswordForm {
    csrf: String,
    current: String,
    new: String,
}

/// The form, or that it is done.
pub async fn page(signed_in: SignedIn, Query(query): Query<PasswordQuery>) -> Response {
    shown(&signed_in, None, query.done).into_response()
}

/// Gives the person who is signed in another password. Their other sessions end, with what is open of them; this one stays.
pub async fn change(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Form(form): Form<PasswordForm>,
) -> Result<Response, PageError> {
    signed_in.check(&form.csrf)?;
    let t = signed_in.t;
    let refused = |status: StatusCode, problem| Ok((status, shown(&signed_in, Some(problem), false)).into_response());
    // Under the same name as at the sign-in: a session that somebody left open gives no further tries.
    let login = signed_in.agent.login.to_lowercase();
    if !state.web.sign_ins.may_try(&login) {
        return refused(StatusCode::TOO_MANY_REQUESTS, t.sign_in_wait);
    }
    let known = state.pipeline.store.agent_by_login(&login).await?.map(|(_, hash)| hash);
    if !is_right(form.current.clone(), known).await {
        return refused(StatusCode::UNPROCESSABLE_ENTITY, t.password_wrong);
    }
    state.web.sign_ins.succeeded(&login);
    if !is_long_enough(&form.new) {
        return refused(StatusCode::UNPROCESSABLE_ENTITY, t.people_short_password);
    }
    if form.new == form.current {
        return refused(StatusCode::UNPROCESSABLE_ENTITY, t.password_same);
    }
    let (agent, hash) = (&signed_in.agent, hash_password(form.new).await?);
    match state.pipeline.store.set_password(agent.id, &hash, Some(&signed_in.token_sha256), &agent.name).await {
        // An administrator gave them one meanwhile, or took their access away.
        Err(StoreError::Conflict(_)) => return Ok(Redirect::to("/desk/sign-in").into_response()),
        set => set?,
    }
    state.web.tell_signed_out(SignedOut::Agent { id: agent.id, but: Some(signed_in.csrf.clone()) });
    // A page of its own: loading it again sends no password.
    Ok(Redirect::to("/desk/password?done=true").into_response())
}

fn shown(signed_in: &SignedIn, problem: Option<&'static str>, is_done: bool) -> Page<PasswordPage> {
    let login = signed_in.agent.login.clone();
    Page(PasswordPage { frame: Frame::of(signed_in, "password"), t: signed_in.t, login, problem, is_done })
}
