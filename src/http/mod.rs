//! The HTTP API: a thin skin over the pipeline and the store.

pub mod auth;
pub mod body;
pub mod client;
pub mod connections;
mod document;
mod drafts;
mod edge;
mod extract;
mod health;
pub mod limits;
mod openapi;
pub mod problem;
mod queue;
pub mod sites;
mod stream;
mod tickets;
pub mod tls;
mod triage;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{DefaultBodyLimit, Request};
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
use auth::Access;
use body::BodyLimits;
use edge::TimeLimits;
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
    /// What is kept in memory about API keys.
    pub access: Arc<Access>,
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
    let path = edge::route(&request).to_owned();
    let started = Instant::now();
    let response = next.run(request).await;
    metrics::histogram!(HTTP_SECONDS, "path" => path).record(started.elapsed().as_secs_f64());
    response
}

/// Says in the log which request something belongs to, by its route: addresses hold customers' links.
fn span(request: &Request) -> tracing::Span {
    tracing::info_span!("request", method = %request.method(), route = edge::route(request))
}

/// Whose router it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// The one who runs the installation; sees the figures of the whole process.
    Installation,
    /// A team among others.
    Team,
}

/// The routes that keys open.
fn guarded(site: Site) -> OpenApiRouter<AppState> {
    let routes = OpenApiRouter::new()
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
        .routes(routes!(triage::search));
    match site {
        Site::Installation => routes.routes(routes!(health::metrics)),
        Site::Team => routes,
    }
}

/// All routes, with the OpenAPI document made from them at `/openapi.json` and a page for it at `/docs`.
pub fn router(state: AppState, site: Site) -> Router {
    let server = &state.pipeline.settings.server;
    let body_limits = BodyLimits { bytes: server.max_body_bytes, time: server.body_time(false) };
    let mut guarded = guarded(site).layer(middleware::from_fn_with_state(state.clone(), auth::require_key));
    document::refuse_what_is_wrong(guarded.get_openapi_mut());
    let open = OpenApiRouter::new().routes(routes!(health::healthz)).routes(routes!(health::readyz));
    let (router, mut document) =
        OpenApiRouter::with_openapi(Api::openapi()).merge(guarded).merge(open).split_for_parts();
    document::complete(&mut document);
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    openapi::describe_keys(&mut document);
    router
        .merge(SwaggerUi::new("/docs").url("/openapi.json", document))
        .merge(web::router(&state))
        .route("/", get(|| async { Redirect::temporary("/desk") }))
        .fallback(|| async { Problem::not_found("no such address; /docs lists them").into_response() })
        .method_not_allowed_fallback(|| async {
            Problem::method_not_allowed("this address does not take this method; /docs lists them").into_response()
        })
        .layer(DefaultBodyLimit::max(body_limits.bytes))
        .layer(middleware::from_fn_with_state(body_limits, body::read_whole))
        .layer(CatchPanicLayer::custom(|_| {
            Problem::internal("unexpected failure; the log has details").into_response()
        }))
        .layer(middleware::from_fn_with_state(TimeLimits::new(server), edge::within))
        .layer(middleware::from_fn_with_state(state.clone(), edge::headers))
        .layer(TraceLayer::new_for_http().make_span_with(span))
        .layer(middleware::from_fn(measure))
        .with_state(state)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_guarded_route_names_its_scope() {
        let document = serde_json::to_value(guarded(Site::Installation).get_openapi()).expect("JSON");
        let paths = document["paths"].as_object().expect("paths");
        let routes: BTreeSet<(&str, &str)> = paths
            .iter()
            .flat_map(|(path, item)| {
                item.as_object().expect("item").keys().map(move |method| (method.as_str(), path.as_str()))
            })
            .collect();
        let scoped: BTreeSet<(&str, &str)> = auth::SCOPES.iter().map(|(method, path, _)| (*method, *path)).collect();
        assert_eq!(scoped.len(), auth::SCOPES.len(), "a route is named twice");
        assert_eq!(routes, scoped);
    }
}
