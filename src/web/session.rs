//! Signing in and out, and knowing who asks.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use askama::Template;
use axum::Form;
use axum::extract::{FromRequestParts, State};
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::broadcast;
use uuid::Uuid;

use super::language::texts_for;
use super::page::{Page, PageError};
use super::password::is_right;
use super::random_hex;
use super::texts::Texts;
use crate::http::AppState;
use crate::http::auth::same;
use crate::http::client::Secure;
use crate::store::{AgentRecord, Person, Role, StoreError, sha256_hex};

const COOKIE: &str = "respondo_session";
/// A working day; after that one signs in again.
const SESSION: Duration = Duration::from_secs(12 * 3_600);
/// Wrong passwords for one name before it has to wait, and how long.
const FREE_TRIES: u32 = 5;
const WAIT: Duration = Duration::from_secs(60);
/// Names remembered at most; when there are more, all are forgotten.
const MOST_NAMES: usize = 10_000;

/// The agent who asks, and the texts in their language.
pub struct SignedIn {
    pub agent: AgentRecord,
    /// Has to stand in every form.
    pub csrf: String,
    /// SHA-256 of the token in the session's cookie, as the store names the session.
    pub token_sha256: String,
    pub t: &'static Texts,
}

impl SignedIn {
    /// As records name them.
    pub fn person(&self) -> Person<'_> {
        Person { id: self.agent.id, name: &self.agent.name }
    }

    /// Refuses a form without this session's token.
    ///
    /// # Errors
    /// 403.
    pub fn check(&self, token: &str) -> Result<(), PageError> {
        match same(token.as_bytes(), self.csrf.as_bytes()) {
            true => Ok(()),
            false => Err(PageError::new(StatusCode::FORBIDDEN, self.t.error_stale_form)),
        }
    }

    /// Refuses who may not.
    ///
    /// # Errors
    /// 403.
    pub fn at_least(&self, role: Role) -> Result<(), PageError> {
        match self.agent.role >= role {
            true => Ok(()),
            false => Err(PageError::new(StatusCode::FORBIDDEN, self.t.error_role)),
        }
    }
}

/// The end of sessions, which are known here by their token for forms.
#[derive(Clone, Debug)]
pub enum SignedOut {
    Session(String),
    /// All of a person's, or all but one.
    Agent {
        id: Uuid,
        but: Option<String>,
    },
}

/// Done when the session has ended: what is open must not tell anything more then.
pub async fn until_signed_out(mut ended: broadcast::Receiver<SignedOut>, agent: Uuid, csrf: String) {
    loop {
        match ended.recv().await {
            Ok(SignedOut::Session(session)) if session == csrf => return,
            Ok(SignedOut::Agent { id, but }) if id == agent && but.as_ref() != Some(&csrf) => return,
            Ok(_) => {}
            // Who missed some does not know whether it was theirs.
            Err(_) => return,
        }
    }
}

impl FromRequestParts<AppState> for SignedIn {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Response> {
        let t = texts_for(&parts.headers);
        let Some(token_sha256) = cookie(&parts.headers, COOKIE).map(sha256_hex) else {
            return Err(ask_to_sign_in(parts));
        };
        match state.pipeline.store.session(&token_sha256).await {
            Ok(Some(session)) => Ok(Self { agent: session.agent, csrf: session.csrf, token_sha256, t }),
            Ok(None) => Err(ask_to_sign_in(parts)),
            Err(error) => Err(PageError::from(error).into_response()),
        }
    }
}

/// Pages lead to the sign-in page and back; parts of pages tell htmx to go there.
fn ask_to_sign_in(parts: &Parts) -> Response {
    if parts.headers.contains_key("hx-request") {
        return (StatusCode::UNAUTHORIZED, [("hx-redirect", "/desk/sign-in")]).into_response();
    }
    if parts.method != Method::GET || parts.uri.path() == "/desk" {
        return Redirect::to("/desk/sign-in").into_response();
    }
    let back = parts.uri.path_and_query().map_or("/desk", |path| path.as_str());
    let encoded: String = back
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect();
    Redirect::to(&format!("/desk/sign-in?next={encoded}")).into_response()
}

#[derive(Template)]
#[template(path = "desk/sign_in.html")]
struct SignInPage {
    t: &'static Texts,
    next: String,
    login: String,
    problem: Option<&'static str>,
}

#[derive(Deserialize)]
pub struct SignInQuery {
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
pub struct SignInForm {
    login: String,
    password: String,
    #[serde(default)]
    next: String,
}

/// The form to sign in with; before anybody works here, it says how to set the desk up.
pub async fn sign_in_page(
    State(state): State<AppState>,
    headers: HeaderMap,
    axum::extract::Query(query): axum::extract::Query<SignInQuery>,
) -> Result<Response, PageError> {
    let t = texts_for(&headers);
    let problem = (!state.pipeline.store.has_agents().await?).then_some(t.sign_in_nobody_yet);
    Ok(Page(SignInPage { t, next: query.next, login: String::new(), problem }).into_response())
}

/// Checks name and password and starts a session.
pub async fn sign_in(
    State(state): State<AppState>,
    secure: Secure,
    headers: HeaderMap,
    Form(form): Form<SignInForm>,
) -> Result<Response, PageError> {
    let t = texts_for(&headers);
    let login = form.login.trim().to_lowercase();
    let again = |status: StatusCode, problem: &'static str| {
        let page = SignInPage { t, next: form.next.clone(), login: form.login.clone(), problem: Some(problem) };
        Ok((status, Page(page)).into_response())
    };
    if !state.web.sign_ins.may_try(&login) {
        return again(StatusCode::TOO_MANY_REQUESTS, t.sign_in_wait);
    }
    let found = state.pipeline.store.agent_by_login(&login).await?;
    let right = is_right(form.password.clone(), found.as_ref().map(|(_, hash)| hash.clone())).await;
    let Some((agent, hash)) = found.filter(|_| right) else {
        return again(StatusCode::UNAUTHORIZED, t.sign_in_wrong);
    };
    let next = if is_local(&form.next) { form.next.as_str() } else { "/desk" };
    let mut response = Redirect::to(next).into_response();
    match start(&state, &agent, Some(&hash), secure, &mut response).await {
        // The password was changed while it was compared.
        Err(StoreError::Conflict(_)) => return again(StatusCode::UNAUTHORIZED, t.sign_in_wrong),
        started => started?,
    }
    state.web.sign_ins.succeeded(&login);
    Ok(response)
}

/// Starts a session and puts its cookie on the answer. `checked` is the hash that a password was compared with.
///
/// # Errors
/// [`StoreError::Conflict`] when that hash is out of date, others when the store cannot be written.
pub async fn start(
    state: &AppState,
    agent: &AgentRecord,
    checked: Option<&str>,
    secure: Secure,
    response: &mut Response,
) -> Result<(), StoreError> {
    let (token, csrf) = (random_hex::<32>()?, random_hex::<16>()?);
    let expires = Timestamp::now().as_millisecond() + SESSION.as_millis() as i64;
    state.pipeline.store.start_session(agent.id, checked, &sha256_hex(&token), &csrf, expires).await?;
    set_cookie(response, &token, SESSION.as_secs(), secure);
    Ok(())
}

#[derive(Deserialize)]
pub struct SignOutForm {
    csrf: String,
}

/// Ends the session.
pub async fn sign_out(
    signed_in: SignedIn,
    State(state): State<AppState>,
    secure: Secure,
    headers: HeaderMap,
    Form(form): Form<SignOutForm>,
) -> Result<Response, PageError> {
    signed_in.check(&form.csrf)?;
    if let Some(token) = cookie(&headers, COOKIE) {
        state.pipeline.store.end_session(&sha256_hex(token)).await?;
    }
    state.web.tell_signed_out(SignedOut::Session(form.csrf));
    let mut response = Redirect::to("/desk/sign-in").into_response();
    set_cookie(&mut response, "", 0, secure);
    Ok(response)
}

fn set_cookie(response: &mut Response, value: &str, seconds: u64, Secure(is_secure): Secure) {
    // What came over TLS must not travel without it.
    let secure = if is_secure { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={value}; Path=/desk; HttpOnly; SameSite=Lax; Max-Age={seconds}{secure}");
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

/// The value of a cookie.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(';')).find_map(|pair| {
        let (found, value) = pair.trim().split_once('=')?;
        (found == name).then_some(value)
    })
}

/// True for an address of this site.
pub fn is_local(address: &str) -> bool {
    address.starts_with('/')
        && !address.starts_with("//")
        && !address.contains('\\')
        && !address.contains(char::is_control)
}

/// Counts wrong passwords per name, wherever one is asked for.
#[derive(Default)]
pub struct SignInLimit {
    wrong: Mutex<HashMap<String, (u32, Instant)>>,
}

impl SignInLimit {
    /// Whether a password for this name (in lower case) may be compared. It counts as wrong until it was right: those that
    /// come while others are still compared, which takes its time, are no free tries.
    pub fn may_try(&self, login: &str) -> bool {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if wrong.len() >= MOST_NAMES && !wrong.contains_key(login) {
            wrong.clear();
        }
        let (count, last) = wrong.entry(login.to_owned()).or_insert((0, Instant::now()));
        if *count >= FREE_TRIES && last.elapsed() <= WAIT {
            return false;
        }
        (*count, *last) = (count.saturating_add(1), Instant::now());
        true
    }

    /// Forgets what was counted, after a right one.
    pub fn succeeded(&self, login: &str) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).remove(login);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_addresses_of_this_site_are_followed() {
        for good in ["/desk", "/desk/tickets/1?x=y"] {
            assert!(is_local(good), "{good}");
        }
        for bad in ["", "https://evil.example", "//evil.example", "/\\evil.example", "desk", "/a\r\nx: y"] {
            assert!(!is_local(bad), "{bad}");
        }
    }

    #[test]
    fn cookies_are_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1; respondo_session=abc; b=2"));
        assert_eq!(cookie(&headers, COOKIE), Some("abc"));
        assert_eq!(cookie(&headers, "session"), None);
    }

    #[test]
    fn wrong_passwords_make_a_name_wait() {
        let limit = SignInLimit::default();
        // All of them at once: none is known to be wrong yet.
        let tries: Vec<bool> = (0..2 * FREE_TRIES).map(|_| limit.may_try("ana")).collect();
        assert_eq!(tries.iter().filter(|may| **may).count(), FREE_TRIES as usize, "{tries:?}");
        assert!(!limit.may_try("ana"));
        assert!(limit.may_try("ben"));
        limit.succeeded("ana");
        assert!(limit.may_try("ana"));
    }

    #[tokio::test]
    async fn what_is_open_ends_with_its_session_or_with_its_person() {
        let (ana, ben) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let all_of = |id, but: Option<&str>| SignedOut::Agent { id, but: but.map(str::to_owned) };
        for (told, ends) in [
            (SignedOut::Session("here".to_owned()), true),
            (SignedOut::Session("there".to_owned()), false),
            (all_of(ana, None), true),
            (all_of(ana, Some("there")), true),
            (all_of(ana, Some("here")), false),
            (all_of(ben, None), false),
        ] {
            // A channel that holds more is not lagged behind, and one that stays open ends nothing by itself.
            let (sender, receiver) = broadcast::channel(4);
            sender.send(told.clone()).expect("a receiver");
            let waiting = until_signed_out(receiver, ana, "here".to_owned());
            let ended = tokio::time::timeout(Duration::from_millis(50), waiting).await.is_ok();
            assert_eq!(ended, ends, "{told:?}");
        }
    }

    proptest! {
        #[test]
        fn a_cookie_is_found_wherever_it_stands(
            value in "[!-:<-~]{0,40}",
            before in proptest::collection::vec("[a-z]{1,8}=[a-z0-9]{0,8}", 0..4),
            after in proptest::collection::vec("[a-z]{1,8}(=[a-z0-9]{0,8})?", 0..4),
            lines: bool,
        ) {
            let own = vec![format!("{COOKIE}={value}")];
            let mut headers = HeaderMap::new();
            let parts = if lines { vec![before, own, after] } else { vec![[before, own, after].concat()] };
            for part in parts {
                headers.append(header::COOKIE, HeaderValue::try_from(part.join("; ")).expect("visible ASCII"));
            }
            prop_assert_eq!(cookie(&headers, COOKIE), Some(value.as_str()));
            prop_assert_eq!(cookie(&headers, "RESPONDO_SESSION"), None);
        }

        #[test]
        fn no_cookie_header_does_harm(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut headers = HeaderMap::new();
            if let Ok(line) = HeaderValue::from_bytes(&line) {
                headers.append(header::COOKIE, line);
            }
            let found = cookie(&headers, COOKIE);
            prop_assert!(found.is_none_or(|value| !value.contains(';')));
        }

        /// A browser that resolves what is taken for local stays on this site.
        #[test]
        fn local_addresses_have_no_host(address in "[/\\\\a-z.:@ \t\r\n]{0,12}|\\PC{0,20}") {
            if is_local(&address) {
                // Browsers read a backslash as a slash and drop tabs and line ends (WHATWG URL).
                let read: String =
                    address.chars().filter(|c| !matches!(c, '\t' | '\r' | '\n')).map(|c| if c == '\\' { '/' } else { c }).collect();
                prop_assert!(read.starts_with('/') && !read.starts_with("//"));
                prop_assert!(HeaderValue::try_from(address).is_ok(), "it can stand in a Location header");
            }
        }

        #[test]
        fn only_the_whole_token_passes(given in "[0-9a-f]{0,40}", wanted in "[0-9a-f]{32}") {
            prop_assert_eq!(same(given.as_bytes(), wanted.as_bytes()), given == wanted);
            prop_assert!(same(wanted.as_bytes(), wanted.as_bytes()));
        }
    }
}
