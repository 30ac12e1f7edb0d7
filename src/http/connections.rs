//! Connections: so many and no more, encrypted where a certificate is set, closed when their client is too slow.
//!
//! Every connection has a task of its own, its TLS handshake included, so that a slow one keeps nobody waiting.

use std::collections::HashMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::Service;

use super::client::{Client, Encrypted, Network};
use super::tls::Tls;
use crate::settings::Server;

/// Pause after the system had no room for another connection.
const PAUSE: Duration = Duration::from_millis(100);
/// What a connection over a limit gets, where it is not encrypted.
const REFUSAL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    InAll,
    Client,
}

/// The connections that are open.
struct Places {
    most: usize,
    most_per_client: usize,
    /// Whose connections are those of many clients.
    proxies: Vec<Network>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    all: usize,
    by_client: HashMap<Client, usize>,
}

/// A connection's place; free again when it is dropped.
struct Place {
    places: Arc<Places>,
    client: Option<Client>,
}

impl Places {
    fn new(settings: &Server) -> Self {
        Self {
            most: settings.max_connections,
            most_per_client: settings.max_connections_per_client,
            proxies: settings.trusted_proxies.clone(),
            open: Mutex::default(),
        }
    }

    fn take(self: &Arc<Self>, peer: IpAddr) -> Result<Place, Full> {
        let is_proxy = self.proxies.iter().any(|network| network.contains(peer));
        let client = (!is_proxy).then(|| Client::from(peer));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.all >= self.most {
            return Err(Full::InAll);
        }
        if let Some(client) = client {
            let own = open.by_client.entry(client).or_default();
            if *own >= self.most_per_client {
                return Err(Full::Client);
            }
            *own += 1;
        }
        open.all += 1;
        metrics::gauge!("respondo_connections").set(open.all as f64);
        Ok(Place { places: Arc::clone(self), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all -= 1;
        metrics::gauge!("respondo_connections").set(open.all as f64);
        let Some(client) = self.client else { return };
        if let Some(own) = open.by_client.get_mut(&client) {
            *own -= 1;
            // Who has none is not remembered.
            if *own == 0 {
                open.by_client.remove(&client);
            }
        }
    }
}

/// What every connection needs.
#[derive(Clone)]
struct Serving {
    routes: Router,
    http: http1::Builder,
    tls: Option<Arc<Tls>>,
    handshake: Duration,
    closing: watch::Receiver<bool>,
}

/// Serves `routes` until `stop` is done and every connection has ended; those that are idle then end at once. Dropped, it
/// cuts them off.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    settings: &Server,
    tls: Option<Arc<Tls>>,
    stop: impl Future<Output = ()>,
) {
    let header_time = Duration::from_secs(settings.header_seconds);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(header_time).max_headers(settings.max_header_fields);
    // The first limits a header that is whole, the second one that does not end.
    http.max_header_size(settings.max_header_bytes).max_buf_size(settings.max_header_bytes);
    let (closing, closed) = watch::channel(false);
    let serving = Serving { routes, http, tls, handshake: header_time, closing: closed };
    let places = Arc::new(Places::new(settings));
    let mut open = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(_) = open.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => match places.take(peer.ip()) {
                    Ok(place) => drop(open.spawn(attend(serving.clone(), stream, peer, place))),
                    Err(full) => refuse(stream, full, serving.tls.is_some()),
                },
                // A client that is gone again is nothing; no descriptors left is, and passes.
                Err(error) if is_of_client(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "no connection can be taken at the moment");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    closing.send_replace(true);
    while open.join_next().await.is_some() {}
}

fn is_of_client(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn refuse(stream: TcpStream, full: Full, is_encrypted: bool) {
    let limit = if full == Full::InAll { "all" } else { "client" };
    metrics::counter!("respondo_connections_refused_total", "limit" => limit).increment(1);
    tracing::debug!(limit, "a connection over the limit is refused");
    // Fits into the empty send buffer of a new connection; who is gone already misses nothing.
    if !is_encrypted && let Ok(mut stream) = stream.into_std() {
        let _ = stream.write_all(REFUSAL);
    }
}

async fn attend(serving: Serving, stream: TcpStream, peer: SocketAddr, _place: Place) {
    // Events are small and wait for no answer.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection is slower than it could be");
    }
    let Some(tls) = &serving.tls else { return speak(&serving, stream, peer, false).await };
    match tokio::time::timeout(serving.handshake, tls.acceptor().accept(stream)).await {
        Ok(Ok(stream)) => speak(&serving, stream, peer, true).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

async fn speak<S>(serving: &Serving, stream: S, peer: SocketAddr, is_encrypted: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let routes = serving.routes.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        if is_encrypted {
            request.extensions_mut().insert(Encrypted);
        }
        routes.clone().call(request)
    });
    let connection = serving.http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut closing = serving.closing.clone();
    // An error means that the sender is gone: closing as well.
    let closed = async move { drop(closing.wait_for(|closing| *closing).await) };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closed => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        if error.is_timeout() {
            metrics::counter!("respondo_connections_too_slow_total").increment(1);
        }
        tracing::debug!(%error, "a connection ended");
    }
}

/// Lets the process have as many files open as it may: every connection is one.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(most: usize, most_per_client: usize) -> Arc<Places> {
        let proxies = vec![Network::try_from("10.0.0.0/8".to_owned()).expect("a network")];
        Arc::new(Places { most, most_per_client, proxies, open: Mutex::default() })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn places_are_counted_by_client_and_in_all_and_given_back() {
        let places = places(4, 2);
        let one = places.take(ip("203.0.113.1")).expect("free");
        let two = places.take(ip("203.0.113.1")).expect("free");
        assert_eq!(places.take(ip("203.0.113.1")).err(), Some(Full::Client));
        let _other = places.take(ip("2001:db8::1")).expect("another client");
        let _same_network = places.take(ip("2001:db8::2")).expect("the same network");
        assert_eq!(places.take(ip("203.0.113.2")).err(), Some(Full::InAll));
        drop((one, two));
        assert_eq!(places.take(ip("2001:db8::3")).err(), Some(Full::Client));
        let _again = places.take(ip("203.0.113.1")).expect("free again");
    }

    #[test]
    fn a_trusted_proxy_is_many_clients() {
        let places = places(3, 1);
        let taken: Vec<Place> = (0..3).map(|_| places.take(ip("10.1.2.3")).expect("a proxy")).collect();
        assert_eq!(places.take(ip("10.1.2.3")).err(), Some(Full::InAll));
        drop(taken);
        let open = places.open.lock().expect("no panic");
        assert_eq!((open.all, open.by_client.len()), (0, 0));
    }
}
