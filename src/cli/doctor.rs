//! `respondo doctor`: what is missing and how to mend it.

use std::io::Write;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use serde::Serialize;

use crate::app::{EMBEDDING_MODEL, model_store, open_store_shared};
use crate::endpoint::address::shown;
use crate::inference::CHAT_MODEL;
use crate::models::Status;
use crate::retrieve::server::ServerStore;
use crate::retrieve::server::settings::IndexKind;
use crate::settings::{EmbeddingKind, GenerationKind, Settings};
use crate::store::{KeyState, StoreError};

#[derive(Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    /// What was found, or what is wrong.
    found: String,
    /// What to do about it.
    mend: Option<String>,
}

impl Check {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, ok: true, found: found.into(), mend: None }
    }

    fn bad(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name, ok: false, found: found.into(), mend: Some(mend.into()) }
    }
}

pub async fn run(settings: Settings, json: bool) -> Result<()> {
    let mut checks = vec![embedding(&settings)?, generation(&settings)?];
    checks.extend(data(&settings).await);
    checks.extend(index_server(&settings).await?);
    checks.push(exposure(&settings).await);
    let bad = checks.iter().filter(|check| !check.ok).count();
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &checks)?;
        writeln!(out)?;
    } else {
        for check in &checks {
            writeln!(out, "{} {:<12} {}", if check.ok { "ok " } else { "BAD" }, check.name, check.found)?;
            if let Some(mend) = &check.mend {
                writeln!(out, "    -> {mend}")?;
            }
        }
    }
    ensure!(bad == 0, "{bad} of {} checks failed", checks.len());
    Ok(())
}

fn embedding(settings: &Settings) -> Result<Check> {
    match settings.embedding.kind {
        EmbeddingKind::E5 => built_in(settings, "embedding", EMBEDDING_MODEL),
        EmbeddingKind::Bert => Ok(folder_check("embedding", &settings.embedding.folder)),
        EmbeddingKind::OpenAi => Ok(Check::good("embedding", format!("endpoint {}", shown(&settings.embedding.url)))),
    }
}

fn generation(settings: &Settings) -> Result<Check> {
    let chosen = &settings.generation;
    match chosen.kind {
        GenerationKind::None => Ok(Check::good("generation", "off: extractive replies only")),
        GenerationKind::OpenAi => Ok(Check::good("generation", format!("endpoint {}", shown(&chosen.url)))),
        GenerationKind::Gguf if chosen.file.as_os_str().is_empty() => built_in(settings, "generation", CHAT_MODEL),
        GenerationKind::Gguf => Ok(folder_check("generation", &chosen.file)),
    }
}

fn built_in(settings: &Settings, name: &'static str, model: &str) -> Result<Check> {
    let (manifest, store) = model_store(settings)?;
    let status = store.status(manifest.get(model)?);
    let found = format!("{model}: {}", status.word());
    Ok(match status {
        Status::Present => Check::good(name, found),
        _ => Check::bad(name, found, format!("respondo models pull {model}")),
    })
}

fn folder_check(name: &'static str, path: &std::path::Path) -> Check {
    let found = path.display().to_string();
    match path.exists() {
        true => Check::good(name, found),
        false => Check::bad(name, format!("{found} does not exist"), "correct the path in respondo.toml"),
    }
}

async fn data(settings: &Settings) -> Vec<Check> {
    let folder = &settings.data.folder;
    let store = match open_store_shared(settings).await {
        Ok(store) => store,
        Err(StoreError::NotFound(_)) => {
            let found = format!("{} is not there yet", folder.display());
            return vec![Check::bad("data", found, "respondo ingest FILE --as tickets, or respondo demo")];
        }
        Err(error) => {
            return vec![Check::bad(
                "data",
                error.to_string(),
                "see the message; if the file is damaged, respondo restore FILE puts a backup in its place",
            )];
        }
    };
    let mut checks = vec![Check::good("data", folder.display().to_string())];
    match store.memory_stats().await {
        Ok(stats) if stats.items == 0 => {
            checks.push(Check::bad("memory", "empty", "respondo ingest FILE --as tickets|articles"));
        }
        Ok(stats) if stats.unindexed > 0 => {
            let found = format!("{} items, {} not in the search index", stats.items, stats.unindexed);
            checks.push(Check::bad("memory", found, "start respondo serve, or run respondo reindex"));
        }
        Ok(stats) => checks.push(Check::good("memory", format!("{} items, all in the search index", stats.items))),
        Err(error) => checks.push(Check::bad("memory", error.to_string(), "respondo stats")),
    }
    checks
}

/// The server of the vector index, where there is one.
async fn index_server(settings: &Settings) -> Result<Option<Check>> {
    if settings.index.kind == IndexKind::Embedded {
        return Ok(None);
    }
    let index = settings.index.clone();
    // It is only asked for its version, which does not depend on a model.
    let asked = tokio::task::spawn_blocking(move || ServerStore::new(&index, "", 0)?.version()).await?;
    Ok(Some(match asked {
        Ok(version) => Check::good("index", format!("Qdrant {version} at {}", settings.index.url)),
        Err(error) => Check::bad("index", error.to_string(), "start the server, or correct [index] in respondo.toml"),
    }))
}

/// Whom the API is open to. What is wrong with the store is said elsewhere.
async fn exposure(settings: &Settings) -> Check {
    let server = &settings.server;
    let keys = match open_store_shared(settings).await {
        Ok(store) => store.keys().await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    let now = Timestamp::now();
    let active = keys.iter().filter(|key| key.state(now) == KeyState::Active).count();
    let found = |key: &str| format!("{}:{}, {key}", server.address, server.port);
    match (server.api_key.is_empty(), active) {
        (true, 0) if !server.address.is_loopback() => {
            let mend = "respondo key add NAME --scope all, or set server.api_key";
            Check::bad("server", found("which others can reach, and no API key"), mend)
        }
        (true, 0) => Check::good("server", found("no API key, loopback only")),
        (false, 0) => Check::good("server", found("API key set")),
        (_, active) => Check::good("server", found(&format!("{active} API keys in use"))),
    }
}
