//! `[index]` of the settings: where the vector index lives, and how a server is spoken to.

use std::net::IpAddr;
use std::time::Duration;

use axum::http::Uri;
use serde::Deserialize;

/// Where the vector index lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexKind {
    /// In the data folder, in this process.
    Embedded,
    /// On a Qdrant server or cluster.
    Server,
}

/// How vectors are kept for the search; the exact ones are kept as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantisation {
    None,
    /// 8 bits a value, in memory.
    Scalar,
}

/// `[index]`; `config.default.toml` says what each key means.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexSettings {
    pub kind: IndexKind,
    pub url: String,
    pub api_key: String,
    pub collection: String,
    pub search_seconds: f32,
    pub write_seconds: f32,
    pub breaker_failures: u32,
    pub breaker_seconds: f32,
    pub shards: u32,
    pub replicas: u32,
    pub write_consistency: u32,
    pub quantisation: Quantisation,
    pub on_disk: bool,
}

impl IndexSettings {
    /// The key that is out of range, and why; None where all is well. Keys of a server count only where one is used.
    pub fn problem(&self) -> Option<(&'static str, &'static str)> {
        if self.kind == IndexKind::Embedded { None } else { self.server_problem() }
    }

    /// As [`IndexSettings::problem`], of the keys of a server whether one is used or not.
    pub fn server_problem(&self) -> Option<(&'static str, &'static str)> {
        let seconds = [
            ("index.search_seconds", self.search_seconds),
            ("index.write_seconds", self.write_seconds),
            ("index.breaker_seconds", self.breaker_seconds),
        ];
        if let Some((key, _)) = seconds.into_iter().find(|(_, value)| !(0.05..=600.0).contains(value)) {
            return Some((key, "must be between 0.05 and 600"));
        }
        let counts = [
            ("index.breaker_failures", self.breaker_failures),
            ("index.shards", self.shards),
            ("index.replicas", self.replicas),
            ("index.write_consistency", self.write_consistency),
        ];
        if let Some((key, _)) = counts.into_iter().find(|(_, value)| *value == 0) {
            return Some((key, "must be at least 1"));
        }
        if self.write_consistency > self.replicas {
            return Some(("index.write_consistency", "must be at most index.replicas"));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if self.collection.is_empty() || !self.collection.chars().all(plain) {
            return Some(("index.collection", "must be a name of ASCII letters, digits, `-` and `_`"));
        }
        self.url_problem()
    }

    fn url_problem(&self) -> Option<(&'static str, &'static str)> {
        let uri = self.url.parse::<Uri>().ok();
        let parts = uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.host()?)));
        match parts {
            Some(("https", _)) => None,
            Some(("http", host)) if self.api_key.is_empty() || is_loopback(host) => None,
            Some(("http", _)) => {
                Some(("index.url", "an API key is not sent in the clear to another machine; use https://"))
            }
            _ => Some(("index.url", "must be the gRPC address of a server, such as \"http://127.0.0.1:6334\"")),
        }
    }

    /// Longest time for one search, with its retries.
    pub fn search_deadline(&self) -> Duration {
        Duration::from_secs_f32(self.search_seconds)
    }

    /// Longest time for one write, with its retries.
    pub fn write_deadline(&self) -> Duration {
        Duration::from_secs_f32(self.write_seconds)
    }

    /// How long a server that failed is left alone.
    pub fn breaker_pause(&self) -> Duration {
        Duration::from_secs_f32(self.breaker_seconds)
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
pub(in crate::retrieve) mod tests {
    use super::*;

    /// Settings of a server at `url` with short times; what a test needs otherwise it sets.
    pub(in crate::retrieve) fn server_at(url: &str, collection: &str) -> IndexSettings {
        IndexSettings {
            kind: IndexKind::Server,
            url: url.to_owned(),
            api_key: String::new(),
            collection: collection.to_owned(),
            search_seconds: 30.0,
            write_seconds: 60.0,
            breaker_failures: 3,
            breaker_seconds: 0.2,
            shards: 1,
            replicas: 1,
            write_consistency: 1,
            quantisation: Quantisation::None,
            on_disk: false,
        }
    }

    #[test]
    fn a_key_goes_in_the_clear_to_this_machine_only() {
        let with_key = |url: &str| IndexSettings { api_key: "secret".into(), ..server_at(url, "desk") }.problem();
        for url in
            ["http://127.0.0.1:6334", "http://localhost:6334", "http://[::1]:6334", "https://qdrant.example:6334"]
        {
            assert_eq!(with_key(url), None, "{url}");
        }
        for url in ["http://qdrant.example:6334", "http://10.0.0.7:6334", "http://127.0.0.1.example:6334"] {
            assert!(with_key(url).is_some_and(|(key, why)| key == "index.url" && why.contains("https")), "{url}");
            assert_eq!(server_at(url, "desk").problem(), None, "{url} without a key");
        }
        for url in ["", "qdrant", "ftp://127.0.0.1", "127.0.0.1:6334"] {
            assert!(with_key(url).is_some(), "{url}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_named_where_a_server_is_used() {
        let good = server_at("http://127.0.0.1:6334", "desk");
        let bad = [
            ("index.search_seconds", IndexSettings { search_seconds: 0.0, ..good.clone() }),
            ("index.write_seconds", IndexSettings { write_seconds: f32::NAN, ..good.clone() }),
            ("index.shards", IndexSettings { shards: 0, ..good.clone() }),
            ("index.write_consistency", IndexSettings { write_consistency: 2, ..good.clone() }),
            ("index.collection", IndexSettings { collection: "my desk".into(), ..good.clone() }),
        ];
        for (key, settings) in bad {
            assert_eq!(settings.problem().map(|(key, _)| key), Some(key));
            assert_eq!(IndexSettings { kind: IndexKind::Embedded, ..settings }.problem(), None);
        }
        assert_eq!(good.problem(), None);
    }
}
