//! The pages people meet in a browser: the agents' desk and the customers' chat.
//!
//! Rendered on the server (askama), brought to life by htmx, server-sent events and a little JavaScript of our own. All
//! of it is inside the program; a page loads nothing from anywhere else, and its content security policy says so.

pub mod assets;
pub mod chat;
pub mod desk;
pub mod files;
pub mod format;
pub mod language;
pub mod links;
mod names;
pub mod page;
pub mod password;
pub mod presence;
pub mod session;
pub mod setup;
pub mod texts;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, response::Redirect};
use tokio::sync::broadcast;
use uuid::Uuid;

use crate::http::AppState;
use crate::settings::Chat;
use crate::store::{Store, StoreError};
use chat::limits::Limits;
use links::Links;
use presence::Presence;
use session::{SignInLimit, SignedIn, SignedOut};

/// Endings of sessions that an open page may lag behind; one that does ends its stream, and its browser asks anew.
const SIGN_OUTS: usize = 64;

/// What the pages keep in memory.
pub struct Web {
    /// Who looks at which ticket.
    pub presence: Presence,
    /// Signs and reads the customers' links.
    pub links: Links,
    /// Slows guessing of passwords down.
    pub sign_ins: SignInLimit,
    /// What each client may still do in the chat.
    pub limits: Limits,
    /// Opens the set-up page while nobody works here.
    setup: String,
    /// Says whose open pages hear nothing more.
    signed_out: broadcast::Sender<SignedOut>,
    /// Texts of replies that were taken back or refused, by agent: until they see the ticket again, the last one each.
    taken_back: Mutex<HashMap<Uuid, (Uuid, String)>>,
}

impl Web {
    /// Reads or makes the installation's keys.
    ///
    /// # Errors
    /// When the store cannot be written or the system has no random numbers.
    pub async fn open(store: &Store, chat: &Chat) -> Result<Self, StoreError> {
        let key = store.secret("customer links", &random_hex::<32>()?).await?;
        Ok(Self {
            presence: Presence::default(),
            links: Links::new(&key),
            sign_ins: SignInLimit::default(),
            limits: Limits::new(chat),
            setup: random_hex::<16>()?,
            signed_out: broadcast::channel(SIGN_OUTS).0,
            taken_back: Mutex::default(),
        })
    }

    /// Address of the set-up page; only who can read the program's output knows it.
    pub fn setup_path(&self) -> String {
        format!("/desk/setup?token={}", self.setup)
    }

    /// Ends what is open of a session or a person.
    pub fn tell_signed_out(&self, who: SignedOut) {
        // No receiver is not a failure: nothing is open.
        drop(self.signed_out.send(who));
    }

    /// Done when this session has ended.
    pub fn until_signed_out(&self, signed_in: &SignedIn) -> impl Future<Output = ()> + use<> {
        session::until_signed_out(self.signed_out.subscribe(), signed_in.agent.id, signed_in.csrf.clone())
    }

    fn keep_taken_back(&self, agent: Uuid, ticket: Uuid, text: String) {
        self.taken_back.lock().unwrap_or_else(PoisonError::into_inner).insert(agent, (ticket, text));
    }

    fn taken_back(&self, agent: Uuid, ticket: Uuid) -> Option<String> {
        let mut kept = self.taken_back.lock().unwrap_or_else(PoisonError::into_inner);
        kept.remove_entry(&agent).and_then(|(agent, (of, text))| {
            if of == ticket {
                return Some(text);
            }
            kept.insert(agent, (of, text));
            None
        })
    }
}

/// `N` random bytes in hexadecimal.
///
/// # Errors
/// When the system has no random numbers.
pub fn random_hex<const N: usize>() -> Result<String, StoreError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| StoreError::Other(format!("no random numbers: {error}")))?;
    Ok(hex(&bytes))
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The routes of all pages.
pub fn router(state: &AppState) -> Router<AppState> {
    let desk = Router::new()
        .route("/desk", get(desk::queue::page))
        .route("/desk/rows", get(desk::queue::rows))
        .route("/desk/live", get(desk::live::desk))
        .route("/desk/views", post(desk::queue::save_view))
        .route("/desk/numbers", get(desk::numbers::page))
        .route("/desk/people", get(desk::people::page).post(desk::people::add))
        .route("/desk/people/{id}/active", post(desk::people::set_active))
        .route("/desk/people/{id}/password", post(desk::people::set_password))
        .route("/desk/password", get(desk::password::page).post(desk::password::change))
        .route("/desk/keys", get(desk::keys::page).post(desk::keys::add))
        .route("/desk/keys/{id}/rotate", get(desk::keys::back).post(desk::keys::rotate))
        .route("/desk/keys/{id}/revoke", post(desk::keys::revoke))
        .route("/desk/customers", get(desk::customers::page))
        .route("/desk/customers/export", get(desk::customers::export))
        .route("/desk/customers/erase", post(desk::customers::erase))
        .route("/desk/tickets/{id}", get(desk::ticket::page))
        .route("/desk/tickets/{id}/panel", get(desk::ticket::panel))
        .route("/desk/tickets/{id}/events", get(desk::live::ticket))
        .route("/desk/tickets/{id}/reply", post(desk::actions::reply))
        .route("/desk/tickets/{id}/note", post(desk::actions::note))
        .route("/desk/tickets/{id}/take-over", post(desk::actions::take_over))
        .route("/desk/tickets/{id}/give-back", post(desk::actions::give_back))
        .route("/desk/tickets/{id}/snooze", post(desk::actions::snooze))
        .route("/desk/tickets/{id}/merge", post(desk::actions::merge))
        .route("/desk/tickets/{id}/correct", post(desk::actions::correct))
        .route("/desk/drafts/{id}/{action}", post(desk::actions::review))
        .route("/desk/messages/{id}/take-back", post(desk::actions::take_back))
        .route("/desk/files/{id}", get(files::of_desk))
        .route("/desk/sign-in", get(session::sign_in_page).post(session::sign_in))
        .route("/desk/sign-out", post(session::sign_out))
        .route("/desk/setup", get(setup::page).post(setup::create))
        .route("/desk/", get(|| async { Redirect::permanent("/desk") }))
        .layer(middleware::from_fn(same_origin))
        .layer(middleware::from_fn(desk_headers));
    let chat = chat::router(state).layer(middleware::from_fn_with_state(state.clone(), chat::headers));
    Router::new()
        .merge(desk)
        .merge(chat)
        .route("/language/{code}", get(language::choose))
        .route("/assets/{file}", get(assets::serve))
        .route("/widget.js", get(assets::widget))
}

/// What may run and load on our own pages: nothing but our own files.
pub const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                          form-action 'self'; base-uri 'none'";

/// Headers of the desk's pages: nobody may frame them, and no cache may keep them.
async fn desk_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let policy = HeaderValue::try_from(format!("{POLICY}; frame-ancestors 'none'"));
    if let Ok(policy) = policy {
        // Files have a stricter one.
        headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(policy);
    }
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    common_headers(&mut response);
    response
}

/// Headers that all pages have.
pub fn common_headers(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

/// Refuses forms that another site sent in the agent's name; the token in every form is the second lock.
async fn same_origin(request: Request, next: Next) -> Response {
    if request.method() != Method::GET && request.method() != Method::HEAD && is_cross_site(&request) {
        return (StatusCode::FORBIDDEN, "this form came from another site").into_response();
    }
    next.run(request).await
}

/// As the browser says (Fetch Metadata), else by the origin.
fn is_cross_site(request: &Request) -> bool {
    let text = |name: header::HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text(header::HeaderName::from_static("sec-fetch-site")) {
        return !matches!(site, "same-origin" | "none");
    }
    match (text(header::ORIGIN), text(header::HOST)) {
        (Some(origin), Some(host)) => origin.split_once("://").is_none_or(|(_, from)| from != host),
        _ => false,
    }
}
