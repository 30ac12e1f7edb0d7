//! For the people and machines that watch over the service.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;

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
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200, description = "alive")))]
pub async fn healthz() -> &'static str {
    "ok"
}

/// The parts are there.
#[utoipa::path(get, path = "/readyz", tag = "operations", responses(
    (status = 200, body = Readiness), (status = 503, body = Readiness, description = "some part is missing")))]
pub async fn readyz(State(state): State<AppState>) -> Response {
    let pipeline = &state.pipeline;
    let store = pipeline.store.ping().await;
    let vectors = state.vectors.clone();
    let index = tokio::task::spawn_blocking(move || vectors.count()).await;
    let index = match index {
        Ok(Ok(points)) => Part { name: "index", ready: true, detail: format!("{points} points") },
        Ok(Err(error)) => Part { name: "index", ready: false, detail: error.to_string() },
        Err(error) => Part { name: "index", ready: false, detail: error.to_string() },
    };
    let (urgent, writing, bulk) = pipeline.inference.waiting();
    let store = match store {
        Ok(()) => Part { name: "store", ready: true, detail: "answers".to_owned() },
        Err(error) => Part { name: "store", ready: false, detail: error.to_string() },
    };
    let model = pipeline.inference.generator_name().unwrap_or("none: extractive replies only");
    let parts = vec![
        store,
        index,
        Part {
            name: "embedding",
            ready: true,
            detail: format!("{}; waiting: {urgent} requests, {bulk} batches", pipeline.inference.embedder_name()),
        },
        Part { name: "generation", ready: true, detail: format!("{model}; waiting: {writing} replies") },
    ];
    let ready = parts.iter().all(|part| part.ready);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, parts })).into_response()
}

/// Prometheus metrics.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, description = "text format 0.0.4")))]
pub async fn metrics(State(state): State<AppState>) -> String {
    let (urgent, writing, bulk) = state.pipeline.inference.waiting();
    metrics::gauge!("respondo_inference_waiting", "kind" => "request").set(urgent as f64);
    metrics::gauge!("respondo_inference_waiting", "kind" => "reply").set(writing as f64);
    metrics::gauge!("respondo_inference_waiting", "kind" => "bulk").set(bulk as f64);
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
