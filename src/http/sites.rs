//! Which team a request is for: each has hosts of its own, and whatever no team has is the installation's own desk.
//!
//! A team's router works on that team's store, index and keys alone. There is no query with a team in it that could be
//! forgotten: another team's ids, keys, cookies and links are simply unknown.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tower::ServiceExt;

/// The routers of an installation.
pub struct Sites {
    own: Router,
    by_host: HashMap<String, Router>,
}

impl Sites {
    /// Only the installation's own desk.
    pub fn new(own: Router) -> Self {
        Self { own, by_host: HashMap::new() }
    }

    /// Adds a team with its hosts, lower-case and without a port.
    pub fn add(&mut self, hosts: &[String], router: &Router) {
        self.by_host.extend(hosts.iter().map(|host| (host.clone(), router.clone())));
    }

    /// One router for all of them.
    pub fn into_router(self) -> Router {
        if self.by_host.is_empty() {
            return self.own;
        }
        Router::new().fallback(choose).with_state(Arc::new(self))
    }

    fn of(&self, request: &Request) -> &Router {
        host(request).and_then(|host| self.by_host.get(&host)).unwrap_or(&self.own)
    }
}

async fn choose(State(sites): State<Arc<Sites>>, request: Request) -> Response {
    let router = sites.of(&request).clone();
    match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => never.into_response(),
    }
}

/// The host that a request names, lower-case, without a port and a dot at its end. HTTP/2 names it in the address.
fn host(request: &Request) -> Option<String> {
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = request.uri().authority().map(axum::http::uri::Authority::as_str).or(named)?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.rsplit_once(':') {
        // Not within the brackets of an IPv6 address.
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => host,
    };
    Some(host.trim_end_matches('.').to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::routing::get;

    use super::*;

    fn named(name: &'static str) -> Router {
        Router::new().route("/", get(move || async move { name }))
    }

    async fn answer(router: &Router, host: &str) -> String {
        let request = Request::builder().uri("/").header(header::HOST, host).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        String::from_utf8(to_bytes(response.into_body(), 100).await.unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_host_leads_to_its_team_however_it_is_written() {
        let mut sites = Sites::new(named("own"));
        sites.add(&["acme.example".to_owned(), "help.acme.example".to_owned()], &named("acme"));
        sites.add(&["globex.example".to_owned()], &named("globex"));
        let router = sites.into_router();
        for (host, team) in [
            ("acme.example", "acme"),
            ("ACME.example:8420", "acme"),
            ("help.acme.example.", "acme"),
            ("someone@globex.example:1", "globex"),
            ("acme.example.evil.example", "own"),
            ("evil.example", "own"),
            ("", "own"),
            ("[::1]:8420", "own"),
            ("127.0.0.1", "own"),
        ] {
            assert_eq!(answer(&router, host).await, team, "{host}");
        }
    }
}
