//! `respondo serve`: the HTTP service.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use clap::Args;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::app::{App, Need};
use crate::http::{self, AppState};
use crate::personal::retention;
use crate::pipeline::Pipeline;
use crate::settings::Settings;
use crate::web::Web;
use crate::worker::Worker;

/// Longest wait, at a stop, for connections that somebody holds open; answers take milliseconds.
const CONNECTION_GRACE: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Port, in place of the one in the settings; 0 takes a free one.
    #[arg(long)]
    port: Option<u16>,
}

pub async fn run(mut settings: Settings, args: ServeArgs) -> Result<()> {
    if let Some(port) = args.port {
        settings.server.port = port;
    }
    let app = App::open(settings, Need::Replies).await?;
    for problem in &app.degraded {
        eprintln!("note: {problem}");
    }
    let pipeline = app.pipeline.clone();
    let service = Service::start(app).await?;
    tokio::spawn(async move { pipeline.warm_up().await });
    service.until_stopped().await
}

/// The running service.
pub struct Service {
    app: App,
    worker: Worker,
    listener: TcpListener,
    address: SocketAddr,
    closing: watch::Sender<bool>,
    state: AppState,
}

impl Service {
    /// Binds the address, takes up what was left unfinished and starts the background work.
    ///
    /// # Errors
    /// When the address is taken or the store cannot be read.
    pub async fn start(app: App) -> Result<Self> {
        let wanted = SocketAddr::new(app.settings.server.address, app.settings.server.port);
        let listener = TcpListener::bind(wanted)
            .await
            .with_context(|| format!("cannot listen on {wanted}; stop what uses it or set server.port"))?;
        let address = listener.local_addr()?;
        let metrics = PrometheusBuilder::new().install_recorder().context("metrics")?;
        let (closing, closed) = watch::channel(false);
        let worker = Worker::new(app.pipeline.clone(), closed.clone());
        let resumed = worker.resume().await?;
        if resumed > 0 {
            tracing::info!(resumed, "unfinished tickets are taken up");
        }
        worker.spawn_outbox();
        worker.spawn_care();
        let kept = app.settings.retention.clone();
        retention::spawn(app.store.clone(), kept, app.pipeline.events.clone(), closed.clone());
        let indexer = app.indexer.clone();
        tokio::spawn(async move {
            match indexer.catch_up(|_| {}).await {
                Ok(report) if report.items > 0 => tracing::info!(items = report.items, "search index caught up"),
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "search index could not be brought up to date"),
            }
        });
        let web = Arc::new(Web::open(&app.store, &app.settings.chat).await?);
        let state = AppState {
            web,
            pipeline: app.pipeline.clone(),
            vectors: app.vectors.clone(),
            indexer: app.indexer.clone(),
            worker: worker.clone(),
            metrics,
            closing: closed,
        };
        Ok(Self { app, worker, listener, address, closing, state })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The addresses for people, a line each; while nobody works at the desk, the one that sets it up.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn pages(&self) -> Result<[String; 2]> {
        let desk = match self.app.store.has_agents().await? {
            true => "/desk".to_owned(),
            false => self.state.web.setup_path(),
        };
        let address = self.address;
        Ok([format!("customers write at http://{address}/chat"), format!("the team works at http://{address}{desk}")])
    }

    pub fn pipeline(&self) -> &Pipeline {
        &self.app.pipeline
    }

    /// Stops without having served.
    ///
    /// # Errors
    /// None at present; the same kind of ending as [`Service::until_stopped`].
    pub async fn close(self) -> Result<()> {
        self.closing.send_replace(true);
        self.app.close().await;
        Ok(())
    }

    /// Serves until the task is aborted, for measurements.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve_forever(self) -> Result<()> {
        Ok(axum::serve(self.listener, routes(self.state)).await?)
    }

    /// Serves until Ctrl-C or SIGTERM, then finishes or parks what is in flight.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn until_stopped(self) -> Result<()> {
        eprintln!("respondo listens on http://{} (API page: /docs)", self.address);
        for line in self.pages().await? {
            eprintln!("  {line}");
        }
        let grace = Duration::from_secs(self.app.settings.server.shutdown_seconds);
        let closing = self.closing;
        let mut closed = closing.subscribe();
        let stopped = async move {
            stop_signal().await;
            eprintln!("stopping; a second signal stops at once");
            closing.send_replace(true);
        };
        let overdue = async move {
            // An error means that the sender is gone: closing as well.
            drop(closed.wait_for(|closing| *closing).await);
            tokio::select! {
                () = tokio::time::sleep(grace.min(CONNECTION_GRACE)) => {}
                () = stop_signal() => {}
            }
        };
        tokio::select! {
            served = axum::serve(self.listener, routes(self.state)).with_graceful_shutdown(stopped) => served?,
            () = overdue => tracing::warn!("connections that did not end by themselves are cut off"),
        }
        tokio::select! {
            () = self.worker.finish(grace) => {}
            () = stop_signal() => eprintln!("stopped; what was in flight is taken up at the next start"),
        }
        self.app.close().await;
        Ok(())
    }
}

/// All routes, told where a connection comes from.
fn routes(state: AppState) -> IntoMakeServiceWithConnectInfo<Router, SocketAddr> {
    http::router(state).into_make_service_with_connect_info()
}

async fn stop_signal() {
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! {
        () = interrupt => {}
        () = terminate => {}
    }
}
