//! What is held about one customer: read out into a file, or erased.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use askama::Template;
use axum::Form;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::Deserialize;

use super::Frame;
use crate::http::AppState;
use crate::learn::index::LearnError;
use crate::personal::{self, Places, export};
use crate::store::{Erasure, Held, Removed, Rewrite, Role, StoreError};
use crate::web::page::{Page, PageError};
use crate::web::session::SignedIn;
use crate::web::texts::Texts;

/// Bytes of a file that leave at a time.
const CHUNK: usize = 256 << 10;

#[derive(Template)]
#[template(path = "desk/customers.html")]
struct CustomersPage {
    frame: Frame,
    t: &'static Texts,
    id: String,
    held: Option<Held>,
    problem: Option<String>,
    done: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CustomerQuery {
    id: String,
}

#[derive(Deserialize)]
pub struct EraseForm {
    csrf: String,
    id: String,
    /// The id once more, typed.
    typed: String,
    /// Anything: the counts stay.
    #[serde(default)]
    keep_figures: String,
}

/// A search by the customer's id, and what is held.
pub async fn page(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Query(query): Query<CustomerQuery>,
) -> Result<Response, PageError> {
    signed_in.at_least(Role::Admin)?;
    shown(&state, &signed_in, query.id, None, None).await
}

/// Everything that is held, as a ZIP file. The audit trail names the tickets and who asked.
pub async fn export(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Query(query): Query<CustomerQuery>,
) -> Result<Response, PageError> {
    signed_in.at_least(Role::Admin)?;
    let store = &state.pipeline.store;
    // Without a name: gone when it has left, or when this process ends.
    let mut file = tempfile::tempfile().map_err(|error| failed(&error))?;
    let held = export::export(store, &query.id, &mut file).await.map_err(|error| match error.downcast() {
        Ok(StoreError::NotFound(_)) => PageError::not_found(signed_in.t.customers_unknown),
        Ok(error) => error.into(),
        Err(error) => failed(&error),
    })?;
    store.note_export(&held.tickets, &signed_in.agent.name).await?;
    file.seek(SeekFrom::Start(0)).map_err(|error| failed(&error))?;
    let headers = [
        (header::CONTENT_TYPE, "application/zip"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"customer.zip\""),
    ];
    Ok((headers, Body::from_stream(stream::try_unfold(file, next_chunk))).into_response())
}

async fn next_chunk(mut file: File) -> std::io::Result<Option<(Vec<u8>, File)>> {
    let reading = tokio::task::spawn_blocking(move || {
        let mut chunk = Vec::with_capacity(CHUNK);
        let read = file.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)?;
        Ok((read > 0).then_some((chunk, file)))
    });
    reading.await.map_err(std::io::Error::other)?
}

fn failed(error: &dyn std::fmt::Display) -> PageError {
    PageError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// Erases a customer whose id was typed once more.
pub async fn erase(
    signed_in: SignedIn,
    State(state): State<AppState>,
    Form(form): Form<EraseForm>,
) -> Result<Response, PageError> {
    signed_in.check(&form.csrf)?;
    signed_in.at_least(Role::Admin)?;
    if form.typed.trim() != form.id.trim() {
        let problem = signed_in.t.customers_typed_wrong.to_owned();
        return shown(&state, &signed_in, form.id, Some(problem), None).await;
    }
    let places = Places {
        store: state.pipeline.store.clone(),
        vectors: state.vectors.clone(),
        live: Some((state.pipeline.events.clone(), state.worker.clone())),
    };
    let name = signed_in.agent.name.clone();
    let erasing = async move {
        let erasure = Erasure { by: &name, keep_figures: !form.keep_figures.is_empty(), until: None };
        personal::erase(&places, &form.id, erasure, Rewrite::IfSmall).await
    };
    // Done to its end also when the browser goes away.
    match tokio::spawn(erasing).await.map_err(|error| failed(&error))? {
        Ok((report, learned)) => {
            let done = said(signed_in.t, &report.removed, learned);
            shown(&state, &signed_in, String::new(), None, Some(done)).await
        }
        Err(LearnError::Store(StoreError::NotFound(_))) => {
            let problem = signed_in.t.customers_unknown.to_owned();
            shown(&state, &signed_in, String::new(), Some(problem), None).await
        }
        Err(LearnError::Store(error)) => Err(error.into()),
        Err(error) => Err(failed(&error)),
    }
}

fn said(t: &Texts, removed: &Removed, learned: u64) -> String {
    t.customers_erased
        .replace("{tickets}", &removed.tickets.to_string())
        .replace("{messages}", &removed.messages.to_string())
        .replace("{files}", &removed.files.to_string())
        .replace("{learned}", &learned.to_string())
        .replace("{unsent}", &removed.unsent.to_string())
}

async fn shown(
    state: &AppState,
    signed_in: &SignedIn,
    id: String,
    mut problem: Option<String>,
    done: Option<String>,
) -> Result<Response, PageError> {
    let held = match id.is_empty() {
        true => None,
        false => match personal::held(&state.pipeline.store, &id).await {
            Ok(held) => Some(held),
            Err(StoreError::NotFound(_)) => {
                problem.get_or_insert_with(|| signed_in.t.customers_unknown.to_owned());
                None
            }
            Err(error) => return Err(error.into()),
        },
    };
    let status = if problem.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let page = CustomersPage { frame: Frame::of(signed_in, "customers"), t: signed_in.t, id, held, problem, done };
    Ok((status, Page(page)).into_response())
}
