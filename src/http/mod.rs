//! The HTTP API: a thin skin over the pipeline and the store.

pub mod auth;
pub mod body;
pub mod client;
mod document;
mod drafts;
mod extract;
mod health;
pub mod problem;
mod queue;
mod stream;
mod tickets;
mod triage;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{DefaultBodyLimit, MatchedPath, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Router, middleware};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::trace::TraceLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use crate::learn::index::Indexer;
use crate::pipeline::Pipeline;
use crate::retrieve::VectorStore;
use crate::timing::HTTP_SECONDS;
use crate::web::{self, Web};
use crate::worker::Worker;
use problem::Problem;
pub use stream::{StreamQuery, as_sse, last_event_id, shown_so_far, ticket_events};
pub use tickets::{NewTicketBody, begin_work};

/// What the handlers work on.
#[derive(Clone)]
pub struct AppState {
    pub pipeline: Pipeline,
    pub vectors: Arc<dyn VectorStore>,
    pub indexer: Indexer,
    pub worker: Worker,
    pub metrics: PrometheusHandle,
    /// What the pages keep in memory.
    pub web: Arc<Web>,
    /// Turns true when the service shuts down: open streams end then.
    pub closing: watch::Receiver<bool>,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Respondo", description = "Support triage and auto-response: tickets in, grounded drafts out."),
    tags(
        (name = "tickets", description = "the customers' side"),
        (name = "desk", description = "the agents' side"),
        (name = "memory", description = "what the desk knows"),
        (name = "operations", description = "health and figures"),
    )
)]
struct Api;

/// Records how long an answer took, without the time its body takes to leave.
async fn measure(request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let started = Instant::now();
    let response = next.run(request).await;
    metrics::histogram!(HTTP_SECONDS, "path" => path).record(started.elapsed().as_secs_f64());
    response
}

/// All routes, with the OpenAPI document made from them at `/openapi.json` and a page for it at `/docs`.
pub fn router(state: AppState) -> Router {
    let max_body = state.pipeline.settings.server.max_body_bytes;
    let mut guarded = OpenApiRouter::new()
        .routes(routes!(tickets::create))
        .routes(routes!(tickets::read))
        .routes(routes!(tickets::add_message))
        .routes(routes!(stream::follow))
        .routes(routes!(queue::list))
        .routes(routes!(drafts::approve))
        .routes(routes!(drafts::edit))
        .routes(routes!(drafts::reject))
        .routes(routes!(drafts::escalate))
        .routes(routes!(triage::judge))
        .routes(routes!(triage::search))
        .routes(routes!(health::metrics))
        .layer(middleware::from_fn_with_state(state.clone(), auth::require_key));
    document::add_key(guarded.get_openapi_mut());
    let open = OpenApiRouter::new().routes(routes!(health::healthz)).routes(routes!(health::readyz));
    let (router, mut document) =
        OpenApiRouter::with_openapi(Api::openapi()).merge(guarded).merge(open).split_for_parts();
    document::complete(&mut document);
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    router
        .merge(SwaggerUi::new("/docs").url("/openapi.json", document))
        .merge(web::router(&state))
        .route("/", get(|| async { Redirect::temporary("/desk") }))
        .fallback(|| async { Problem::not_found("no such address; /docs lists them").into_response() })
        .method_not_allowed_fallback(|| async {
            Problem::method_not_allowed("this address does not take this method; /docs lists them").into_response()
        })
        .layer(DefaultBodyLimit::max(max_body))
        .layer(middleware::from_fn_with_state(max_body, body::read_whole))
        .layer(CatchPanicLayer::custom(|_| {
            Problem::internal("unexpected failure; the log has details").into_response()
        }))
        .layer(TraceLayer::new_for_http())
        .layer(middleware::from_fn(measure))
        .with_state(state)
}
