//! For the people and machines that watch over the service.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use crate::endpoint::breaker::Health;
use crate::inference::Inference;

/// State of one part of the service.
#[derive(Serialize, ToSchema)]
pub struct Part {
    pub name: &'static str,
    pub ready: bool,
    /// What is wrong, or how much is there.
    pub detail: String,
}

/// State of all parts.
#[derive(Serialize, ToSchema)]
pub struct Readiness {
    /// True when requests are taken and answered from the memory; a missing language model alone does not make it false,
    /// since extractive replies go on.
    pub ready: bool,
    pub parts: Vec<Part>,
}

/// The process lives.
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200, body = String, content_type = "text/plain", description = "alive")))]
pub async fn healthz() -> &'static str {
    "ok"
}

/// The parts are there.
#[utoipa::path(get, path = "/readyz", tag = "operations", responses(
    (status = 200, body = Readiness), (status = 503, body = Readiness, description = "some part is missing")))]
pub async fn readyz(State(state): State<AppState>) -> Response {
    let pipeline = &state.pipeline;
    let store = pipeline.store.ping().await;
    let index = index(&state).await;
    let (urgent, writing, bulk) = pipeline.inference.waiting();
    let store = match store {
        Ok(()) => Part { name: "store", ready: true, detail: "answers".to_owned() },
        Err(error) => Part { name: "store", ready: false, detail: error.to_string() },
    };
    let inference = &pipeline.inference;
    let health = inference.embedding_health().unwrap_or(Health::Good);
    let embedding = server_state(health, inference.embedder_name(), "only words are searched");
    let generation = generation(inference);
    let parts = vec![
        store,
        index,
        Part {
            name: "embedding",
            ready: true,
            detail: format!("{embedding}; waiting: {urgent} requests, {bulk} batches"),
        },
        Part { name: "generation", ready: true, detail: format!("{generation}; waiting: {writing} replies") },
    ];
    let ready = parts.iter().all(|part| part.ready);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, parts })).into_response()
}

/// The search index and, where it is on a server, how things stand with that.
async fn index(state: &AppState) -> Part {
    let vectors = state.vectors.clone();
    let (ready, detail) = match tokio::task::spawn_blocking(move || vectors.count()).await {
        Ok(Ok(points)) => (true, format!("{points} points")),
        Ok(Err(error)) => (false, error.to_string()),
        Err(error) => (false, error.to_string()),
    };
    let detail = match state.vectors.link() {
        Some(link) => format!("{detail}; {} at {}; breaker {}", link.server, link.url, link.breaker.name()),
        None => detail,
    };
    Part { name: "index", ready, detail }
}

/// Who writes at present, in words.
fn generation(inference: &Inference) -> String {
    let (Some(health), Some(server)) = (inference.server_health(), inference.generator_name()) else {
        return inference.generator_name().unwrap_or("none: extractive replies only").to_owned();
    };
    let instead = match inference.local_generator_name() {
        Some(local) => format!("{local} writes"),
        None => "replies are extractive".to_owned(),
    };
    server_state(health, server, &instead)
}

/// A server's name, and where it rests, why and what happens instead.
fn server_state(health: Health, name: &str, instead: &str) -> String {
    match health {
        Health::Good => name.to_owned(),
        Health::Rests { left, reason } => {
            format!("{name} on a server that rests for {} s, meanwhile {instead}: {reason}", left.as_secs())
        }
    }
}

/// Prometheus metrics.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses(
    (status = 200, body = String, content_type = "text/plain", description = "text format 0.0.4")))]
pub async fn metrics(State(state): State<AppState>) -> String {
    let (urgent, writing, bulk) = state.pipeline.inference.waiting();
    metrics::gauge!("respondo_inference_waiting", "kind" => "request").set(urgent as f64);
    metrics::gauge!("respondo_inference_waiting", "kind" => "reply").set(writing as f64);
    metrics::gauge!("respondo_inference_waiting", "kind" => "bulk").set(bulk as f64);
    if let Some(link) = state.vectors.link() {
        metrics::gauge!("respondo_index_breaker").set(link.breaker.level());
    }
    let waiting = state.worker.waiting();
    for (what, count) in
        [("line", waiting.fresh), ("late", waiting.late), ("put aside", waiting.deferred), ("work", waiting.working)]
    {
        metrics::gauge!("respondo_tickets_waiting", "for" => what).set(count as f64);
    }
    if let Some(seconds) = state.worker.seconds_each() {
        metrics::gauge!("respondo_seconds_per_ticket").set(seconds);
    }
    state.metrics.render()
}
