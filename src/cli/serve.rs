//! `respondo serve`: the HTTP service.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use clap::Args;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::app::{App, Need};
use crate::http::connections::{raise_file_limit, serve};
use crate::http::sites::Sites;
use crate::http::tls::Tls;
use crate::http::{self, AppState, Site};
use crate::personal::retention;
use crate::pipeline::Pipeline;
use crate::settings::{Settings, Tenant};
use crate::store::Store;
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

/// A team at work: the installation's own, or another.
struct Desk {
    app: App,
    worker: Worker,
    state: AppState,
}

impl Desk {
    /// Takes up what was left unfinished and starts the background work.
    async fn open(app: App, metrics: &PrometheusHandle, closed: &watch::Receiver<bool>) -> Result<Self> {
        check_exposure(&app.settings, &app.store).await?;
        let worker = Worker::new(app.pipeline.clone(), closed.clone());
        let resumed = worker.resume().await?;
        if resumed > 0 {
            tracing::info!(resumed, "unfinished tickets are taken up");
        }
        worker.spawn_outbox();
        worker.spawn_care();
        tokio::spawn(app.indexer.clone().keep_in_step(closed.clone()));
        let kept = app.settings.retention.clone();
        retention::spawn(app.store.clone(), kept, app.pipeline.events.clone(), closed.clone());
        let web = Arc::new(Web::open(&app.store, &app.settings.chat).await?);
        let state = AppState {
            web,
            access: Arc::default(),
            pipeline: app.pipeline.clone(),
            vectors: app.vectors.clone(),
            indexer: app.indexer.clone(),
            worker: worker.clone(),
            metrics: metrics.clone(),
            closing: closed.clone(),
        };
        Ok(Self { app, worker, state })
    }

    /// Path of the desk; while nobody works at it, of the page that sets it up.
    async fn path(&self) -> Result<String> {
        Ok(match self.app.store.has_agents().await? {
            true => "/desk".to_owned(),
            false => self.state.web.setup_path(),
        })
    }
}

/// The running service.
pub struct Service {
    own: Desk,
    /// The other teams of the installation.
    tenants: Vec<(Tenant, Desk)>,
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    closing: watch::Sender<bool>,
}

impl Service {
    /// Binds the address, opens what the teams have of their own and starts the background work.
    ///
    /// # Errors
    /// When the certificate cannot be used, the address is taken or a store cannot be read.
    pub async fn start(app: App) -> Result<Self> {
        check_exposure(&app.settings, &app.store).await?;
        let pair = app.settings.server.tls();
        let tls = pair.map(|(certificate, key)| Tls::load(certificate, key)).transpose()?.map(Arc::new);
        let wanted = SocketAddr::new(app.settings.server.address, app.settings.server.port);
        let listener = TcpListener::bind(wanted)
            .await
            .with_context(|| format!("cannot listen on {wanted}; stop what uses it or set server.port"))?;
        let address = listener.local_addr()?;
        let metrics = PrometheusBuilder::new().install_recorder().context("metrics")?;
        let (closing, closed) = watch::channel(false);
        let mut tenants = Vec::new();
        for (tenant, settings) in app.settings.tenants() {
            let opened = async { Desk::open(app.beside(settings).await?, &metrics, &closed).await };
            let desk = opened.await.with_context(|| format!("team {}", tenant.name))?;
            tenants.push((tenant.clone(), desk));
        }
        let own = Desk::open(app, &metrics, &closed).await?;
        if let Some(tls) = &tls {
            tokio::spawn(Arc::clone(tls).keep_fresh());
        }
        raise_file_limit();
        Ok(Self { own, tenants, listener, address, tls, closing })
    }

    /// All routes of all teams.
    fn router(&self) -> Router {
        let mut sites = Sites::new(http::router(self.own.state.clone(), Site::Installation));
        for (tenant, desk) in &self.tenants {
            sites.add(&tenant.hosts, &http::router(desk.state.clone(), Site::Team));
        }
        sites.into_router()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The addresses for people, a line each; while nobody works at the desk, the one that sets it up.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn pages(&self) -> Result<Vec<String>> {
        let (url, desk) = (self.url(), self.own.path().await?);
        let mut lines = vec![format!("customers write at {url}/chat"), format!("the team works at {url}{desk}")];
        for (tenant, desk) in &self.tenants {
            let path = desk.path().await?;
            lines.push(format!("{} works at {path} of {}", tenant.name, tenant.hosts.join(", ")));
        }
        Ok(lines)
    }

    fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    pub fn pipeline(&self) -> &Pipeline {
        &self.own.app.pipeline
    }

    /// Stops without having served.
    ///
    /// # Errors
    /// None at present; the same kind of ending as [`Service::until_stopped`].
    pub async fn close(self) -> Result<()> {
        self.closing.send_replace(true);
        for (_, desk) in self.tenants {
            desk.app.store.close().await;
        }
        self.own.app.close().await;
        Ok(())
    }

    /// Serves until the task is aborted, for measurements.
    pub async fn serve_forever(self) {
        let (router, settings) = (self.router(), &self.own.app.settings.server);
        serve(self.listener, router, settings, self.tls, std::future::pending()).await;
    }

    /// Serves until Ctrl-C or SIGTERM, then finishes or parks what is in flight.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn until_stopped(self) -> Result<()> {
        let signals = stop_signals()?;
        let (first, second) = (signals.clone(), signals.clone());
        eprintln!("respondo listens on {} (API page: /docs)", self.url());
        for line in self.pages().await? {
            eprintln!("  {line}");
        }
        let grace = Duration::from_secs(self.own.app.settings.server.shutdown_seconds);
        let router = self.router();
        let closing = self.closing;
        let mut closed = closing.subscribe();
        let stopped = async move {
            told_to_stop(first, 1).await;
            eprintln!("stopping; a second signal stops at once");
            closing.send_replace(true);
        };
        let overdue = async move {
            // An error means that the sender is gone: closing as well.
            drop(closed.wait_for(|closing| *closing).await);
            tokio::select! {
                () = tokio::time::sleep(grace.min(CONNECTION_GRACE)) => {}
                () = told_to_stop(second, 2) => {}
            }
        };
        let settings = &self.own.app.settings.server;
        tokio::select! {
            () = serve(self.listener, router, settings, self.tls, stopped) => {}
            () = overdue => tracing::warn!("connections that did not end by themselves are cut off"),
        }
        let workers = std::iter::once(&self.own).chain(self.tenants.iter().map(|(_, desk)| desk));
        let finished = futures::future::join_all(workers.map(|desk| desk.worker.finish(grace)));
        tokio::select! {
            _ = finished => {}
            () = told_to_stop(signals, 2) => eprintln!("stopped; what was in flight is taken up at the next start"),
        }
        for (_, desk) in self.tenants {
            desk.app.store.close().await;
        }
        self.own.app.close().await;
        Ok(())
    }
}

/// Refuses an address that other machines reach while the API asks for no key, or for keys that nobody has.
async fn check_exposure(settings: &Settings, store: &Store) -> Result<()> {
    let server = &settings.server;
    ensure!(
        server.address.is_loopback() || !server.api_key.is_empty() || store.has_active_key().await?,
        "other machines can reach {} (server.address), and there is no API key in use; make one with \
         `respondo key add NAME --scope all`, set server.api_key, or use 127.0.0.1",
        server.address
    );
    Ok(())
}

/// How often this process was told to stop. Listening begins at once: what comes before anybody waits for it counts too.
fn stop_signals() -> Result<watch::Receiver<u32>> {
    use tokio::signal::unix::{SignalKind, signal};
    let cannot = "cannot listen for signals";
    let mut interrupt = signal(SignalKind::interrupt()).context(cannot)?;
    let mut terminate = signal(SignalKind::terminate()).context(cannot)?;
    let (told, signals) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            told.send_modify(|count| *count += 1);
        }
    });
    Ok(signals)
}

/// Done once the process was told to stop so many times.
async fn told_to_stop(mut signals: watch::Receiver<u32>, times: u32) {
    // The sender lives as long as the runtime.
    drop(signals.wait_for(|count| *count >= times).await);
}
