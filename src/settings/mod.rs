//! Settings: the embedded `config.default.toml`, then the user's file, then the environment; checked before use.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format, Toml};
use figment::value::Dict;
use serde::Deserialize;

use crate::decide::Policy;
use crate::draft::guard::links::LinkHost;
use crate::endpoint::masking::MaskFor;
use crate::http::client::Network;
use crate::retrieve::fuse::{Fusion, Weights};
use crate::retrieve::server::settings::IndexSettings;

mod tenants;

pub use tenants::Tenant;

const DEFAULTS: &str = include_str!("../../config.default.toml");
/// A hundred years: more is a slip of the hand.
const LONGEST_RETENTION_DAYS: u32 = 36_500;
/// Read from the working folder when `--config` names no file.
const USER_FILE: &str = "respondo.toml";

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("settings: {0}")]
    Unreadable(Box<figment::Error>),
    #[error("settings file {0} does not exist; create it or leave out --config")]
    Missing(PathBuf),
    #[error("settings: {key}: {reason}")]
    Invalid { key: &'static str, reason: String },
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub data: Data,
    pub database: Database,
    pub server: Server,
    pub models: Models,
    pub embedding: Embedding,
    pub generation: Generation,
    pub index: IndexSettings,
    pub retrieval: Retrieval,
    pub draft: Draft,
    pub intake: Intake,
    pub support: Support,
    pub chat: Chat,
    pub retention: Retention,
    pub policy: Policy,
    /// As written; [`Settings::tenants`] has them ready for use.
    #[serde(default, rename = "tenants")]
    written_tenants: BTreeMap<String, Dict>,
    #[serde(skip)]
    tenants: Vec<Tenant>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    pub folder: PathBuf,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// `postgres://...`; empty for the SQLite file in the data folder.
    pub url: String,
    pub schema: String,
}

/// Without the address: it holds a password.
impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("schema", &self.schema).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    pub address: IpAddr,
    pub port: u16,
    /// A key with every scope, beside those in the store; empty: none.
    pub api_key: String,
    /// For keys without a limit of their own; 0 for no limit.
    pub key_requests_per_minute: u32,
    pub max_body_bytes: usize,
    pub concurrency: usize,
    pub shutdown_seconds: u64,
    /// Whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
    pub trusted_proxies: Vec<Network>,
    /// PEM; empty for plain HTTP. So is the next one.
    pub tls_certificate: PathBuf,
    pub tls_key: PathBuf,
    pub max_header_bytes: usize,
    pub max_header_fields: usize,
    /// Also the longest idle time of a connection.
    pub header_seconds: u64,
    pub body_seconds: u64,
    pub upload_seconds: u64,
    pub request_seconds: u64,
    pub max_connections: usize,
    pub max_connections_per_client: usize,
    /// Tickets that wait for work or are in it.
    pub most_waiting: usize,
}

/// Least room for headers that the HTTP implementation works with (hyper's smallest buffer).
const LEAST_HEADER_BYTES: usize = 8_192;

impl Server {
    /// Certificate and key, where both are named.
    pub fn tls(&self) -> Option<(&Path, &Path)> {
        let is_set = !self.tls_certificate.as_os_str().is_empty() && !self.tls_key.as_os_str().is_empty();
        is_set.then_some((self.tls_certificate.as_path(), self.tls_key.as_path()))
    }

    /// Longest time for a body; one with files may take longer.
    pub fn body_time(&self, has_files: bool) -> Duration {
        Duration::from_secs(if has_files { self.upload_seconds } else { self.body_seconds })
    }

    fn validate(&self) -> Result<(), SettingsError> {
        let invalid = |key, reason: &str| Err(SettingsError::Invalid { key, reason: reason.to_owned() });
        if !self.api_key.is_empty() && self.api_key.len() < 16 {
            return invalid("server.api_key", "is shorter than 16 characters; choose a longer random one");
        }
        if self.concurrency == 0 {
            return invalid("server.concurrency", "must be at least 1");
        }
        if self.tls_certificate.as_os_str().is_empty() != self.tls_key.as_os_str().is_empty() {
            return invalid("server.tls_certificate", "belongs to server.tls_key; set both, or neither");
        }
        if self.max_header_bytes < LEAST_HEADER_BYTES || self.max_header_fields == 0 {
            return invalid("server.max_header_bytes", "must be at least 8192, and max_header_fields at least 1");
        }
        let times = [
            ("server.header_seconds", self.header_seconds),
            ("server.body_seconds", self.body_seconds),
            ("server.upload_seconds", self.upload_seconds),
            ("server.request_seconds", self.request_seconds),
        ];
        if let Some((key, _)) = times.into_iter().find(|(_, seconds)| !(1..=86_400).contains(seconds)) {
            return invalid(key, "must be between 1 and 86400");
        }
        if self.max_connections == 0 || self.max_connections_per_client == 0 {
            return invalid("server.max_connections", "must be at least 1, and so must max_connections_per_client");
        }
        if self.most_waiting == 0 {
            return invalid("server.most_waiting", "must be at least 1");
        }
        Ok(())
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Models {
    pub cache: PathBuf,
    pub source: PathBuf,
    pub manifest: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmbeddingKind {
    E5,
    Bert,
    OpenAi,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embedding {
    pub kind: EmbeddingKind,
    pub max_tokens: usize,
    /// What fine-tuning changed of the built-in model: "built-in", "none", or a file.
    pub tuning: String,
    pub folder: PathBuf,
    pub query_prefix: String,
    pub passage_prefix: String,
    pub url: String,
    pub model: String,
    pub api_key: String,
    /// Length of the server's vectors; 0 where it is asked at the start.
    pub dimensions: usize,
    pub timeout_seconds: f32,
    pub mask: MaskFor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GenerationKind {
    Gguf,
    OpenAi,
    None,
}

/// Who writes while the model server does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GenerationFallback {
    Gguf,
    None,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    pub kind: GenerationKind,
    pub file: PathBuf,
    pub context: usize,
    pub max_tokens: usize,
    /// The local model also reads requests for triage.
    pub second_opinion: bool,
    /// And what was found for them.
    pub weigh_evidence: bool,
    pub url: String,
    pub model: String,
    pub api_key: String,
    pub fallback: GenerationFallback,
    /// Longest silence of the server before the first word and between two words.
    pub silence_seconds: f32,
    /// Longest time for a whole reply of the server.
    pub timeout_seconds: f32,
    pub mask: MaskFor,
}

impl Generation {
    /// True where a language model in process, if there is one, reads requests for triage.
    pub fn wants_opinion(&self) -> bool {
        self.second_opinion && self.kind != GenerationKind::None
    }

    /// The same for what was found for a request.
    pub fn weighs_evidence(&self) -> bool {
        self.weigh_evidence && self.kind != GenerationKind::None
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retrieval {
    pub fusion: FusionKind,
    pub ticket_solution: f32,
    pub article_passage: f32,
    pub ticket_words: f32,
    pub article_words: f32,
    pub lexical_half: f32,
    pub article_bonus: f32,
    pub further_passages: f32,
    pub citations: f32,
}

/// [`Fusion`] without its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FusionKind {
    Weighted,
    Rrf,
    Dense,
    Lexical,
}

impl Retrieval {
    /// How the searches become one list.
    pub fn fusion(&self) -> Fusion {
        match self.fusion {
            FusionKind::Lexical => Fusion::Lexical,
            FusionKind::Dense => Fusion::Dense,
            FusionKind::Rrf => Fusion::Rrf,
            FusionKind::Weighted => Fusion::Weighted(Weights {
                ticket_solution: self.ticket_solution,
                article_passage: self.article_passage,
                ticket_words: self.ticket_words,
                article_words: self.article_words,
                lexical_half: self.lexical_half,
                article_bonus: self.article_bonus,
                further_passages: self.further_passages,
                citations: self.citations,
            }),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    pub prompts: PathBuf,
    pub deadline_seconds: f32,
    pub evidence_tokens: usize,
    pub retrieved: usize,
    /// Weights of our own that judge whether evidence fits; empty for the built-in ones.
    pub relevance: PathBuf,
    /// Weights of our own that tell what serves a reply; empty for the built-in ones.
    pub rerank: PathBuf,
    /// Hosts that a reply may link to beside those of the articles it rests on.
    pub link_hosts: Vec<LinkHost>,
}

impl Draft {
    /// Folder of the team's own prompts; None for the built-in ones.
    pub fn prompts(&self) -> Option<&Path> {
        Some(self.prompts.as_path()).filter(|path| !path.as_os_str().is_empty())
    }

    /// The team's own weights of evidence relevance; None for the built-in ones.
    pub fn relevance(&self) -> Option<&Path> {
        Some(self.relevance.as_path()).filter(|path| !path.as_os_str().is_empty())
    }

    /// The team's own weights of what serves a reply; None for the built-in ones.
    pub fn rerank(&self) -> Option<&Path> {
        Some(self.rerank.as_path()).filter(|path| !path.as_os_str().is_empty())
    }

    pub fn deadline(&self) -> Duration {
        Duration::from_secs_f32(self.deadline_seconds)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intake {
    pub max_message_bytes: usize,
}

/// When people are there to answer.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Support {
    /// IANA name; empty for the machine's.
    pub timezone: String,
    /// `mon` to `sun`.
    pub days: Vec<String>,
    /// `09:00-18:00`; empty where nothing is said about hours.
    pub hours: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chat {
    /// Origins that may show the chat in their pages; `*` for any.
    pub sites: Vec<String>,
    /// Whether public addresses of the articles found are shown to the customer.
    pub links: bool,
    /// Queues that the address of the chat may name; none: those that the policy names.
    pub queues: Vec<String>,
    /// Per client, like the next two; 0 for no limit.
    pub messages_per_minute: u32,
    pub conversations_per_hour: u32,
    pub files_megabytes_per_hour: u32,
}

/// How long things are kept, in days; 0: for ever.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Closed conversations, from their last message on.
    pub tickets_days: u32,
    /// Files of closed conversations.
    pub attachments_days: u32,
    /// What followers of a ticket are shown again when they come back.
    pub events_days: u32,
    pub idempotency_days: u32,
    #[serde(default)]
    pub queues: BTreeMap<String, QueueRetention>,
}

/// What a queue has of its own in place of the general figures.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueRetention {
    pub tickets_days: Option<u32>,
    pub attachments_days: Option<u32>,
}

impl Settings {
    /// Reads defaults, then `file` (or `respondo.toml` in the working folder), then `RESPONDO_SECTION__KEY` variables.
    ///
    /// # Errors
    /// Names the key that is unknown, of the wrong type or out of range, and where it was set.
    pub fn load(file: Option<&Path>) -> Result<Self, SettingsError> {
        if let Some(file) = file
            && !file.is_file()
        {
            return Err(SettingsError::Missing(file.to_owned()));
        }
        let user_file = file.unwrap_or(Path::new(USER_FILE));
        let environment = Env::prefixed("RESPONDO_").filter(|key| key.as_str().contains("__")).split("__");
        let mut sources = Figment::new().merge(Toml::string(DEFAULTS));
        if user_file.is_file() {
            sources = sources.merge(Toml::file_exact(user_file));
        }
        Self::extract(&sources.merge(environment))
    }

    /// The defaults with the keys of a settings file's text over them, checked; no environment.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        Self::extract(&Figment::new().merge(Toml::string(DEFAULTS)).merge(Toml::string(text)))
    }

    fn extract(sources: &Figment) -> Result<Self, SettingsError> {
        let mut settings = Self::read(sources)?;
        settings.tenants = tenants::read(sources, &settings)?;
        Ok(settings)
    }

    fn read(sources: &Figment) -> Result<Self, SettingsError> {
        let settings: Self = sources.extract().map_err(|error| SettingsError::Unreadable(Box::new(error)))?;
        settings.validate()?;
        Ok(settings)
    }

    /// The queue that a visitor of the chat asks for, where it is one that visitors may choose: a queue decides how far
    /// replies may go.
    pub fn chat_queue(&self, asked: &str) -> Option<String> {
        let asked = asked.trim();
        let is_open = match self.chat.queues.is_empty() {
            true => self.policy.queues.contains_key(asked),
            false => self.chat.queues.iter().any(|queue| queue == asked),
        };
        (is_open && !asked.is_empty()).then(|| asked.to_owned())
    }

    /// Keys that must be seen nowhere.
    pub fn secrets(&self) -> Vec<String> {
        let keys = [&self.server.api_key, &self.embedding.api_key, &self.generation.api_key, &self.database.url];
        keys.into_iter().filter(|key| !key.is_empty()).cloned().collect()
    }

    fn validate(&self) -> Result<(), SettingsError> {
        let invalid = |key, reason: &str| Err(SettingsError::Invalid { key, reason: reason.to_owned() });
        self.server.validate()?;
        if !self.database.url.is_empty()
            && !["postgres://", "postgresql://"].iter().any(|s| self.database.url.starts_with(s))
        {
            return invalid("database.url", "must begin with postgres://, or be empty for SQLite in the data folder");
        }
        if self.data.folder.as_os_str().is_empty() {
            return invalid("data.folder", "is empty; name a folder");
        }
        if !(16..=512).contains(&self.embedding.max_tokens) {
            return invalid("embedding.max_tokens", "must be between 16 and 512");
        }
        if !(0.1..=600.0).contains(&self.draft.deadline_seconds) {
            return invalid("draft.deadline_seconds", "must be between 0.1 and 600");
        }
        if !(1..=50).contains(&self.draft.retrieved) {
            return invalid("draft.retrieved", "must be between 1 and 50");
        }
        if !self.support.hours.is_empty() && crate::web::chat::hours::minutes(&self.support.hours).is_none() {
            return invalid("support.hours", "must look like \"09:00-18:00\", or be empty");
        }
        if !self.support.timezone.is_empty() && jiff::tz::TimeZone::get(&self.support.timezone).is_err() {
            return invalid(
                "support.timezone",
                "is no time zone; give an IANA name such as \"Europe/Madrid\", or leave it empty",
            );
        }
        if self.chat.sites.iter().any(|site| site.contains([' ', ';', ',', '\''])) {
            return invalid("chat.sites", "must be origins such as \"https://www.example.com\", or \"*\" for any site");
        }
        if let Some((key, reason)) = self.index.problem() {
            return invalid(key, reason);
        }
        let kept = &self.retention;
        let general = [kept.tickets_days, kept.attachments_days, kept.events_days, kept.idempotency_days];
        let own = kept.queues.values().flat_map(|queue| [queue.tickets_days, queue.attachments_days]).flatten();
        if general.into_iter().chain(own).any(|days| days > LONGEST_RETENTION_DAYS) {
            return invalid("retention", "a time is longer than 36500 days; for ever is 0");
        }
        let weights = &self.retrieval;
        let shares = [weights.ticket_solution, weights.article_passage];
        if shares.iter().any(|share| !(0.0..=1.0).contains(share)) {
            return invalid("retrieval", "ticket_solution and article_passage are shares between 0 and 1");
        }
        let scales = [weights.ticket_words, weights.article_words, weights.article_bonus];
        if !scales.iter().all(|scale| scale.is_finite()) {
            return invalid("retrieval", "ticket_words, article_words and article_bonus must be finite numbers");
        }
        for (key, weight) in
            [("retrieval.further_passages", weights.further_passages), ("retrieval.citations", weights.citations)]
        {
            if !(weight >= 0.0 && weight.is_finite()) {
                return invalid(key, "must be 0 or greater");
            }
        }
        if !(weights.lexical_half > 0.0 && weights.lexical_half.is_finite()) {
            return invalid("retrieval.lexical_half", "must be greater than 0");
        }
        if self.generation.max_tokens == 0 || self.generation.max_tokens * 2 > self.generation.context {
            return invalid("generation.max_tokens", "must be at least 1 and at most half of generation.context");
        }
        if self.embedding.kind == EmbeddingKind::Bert && self.embedding.folder.as_os_str().is_empty() {
            return invalid("embedding.folder", "kind \"bert\" needs the model's folder");
        }
        self.validate_servers()
    }

    /// What concerns model servers alone.
    fn validate_servers(&self) -> Result<(), SettingsError> {
        let invalid = |key, reason: &str| Err(SettingsError::Invalid { key, reason: reason.to_owned() });
        let has_scheme = |url: &str| url.starts_with("http://") || url.starts_with("https://");
        let seconds = 0.05..=600.0;
        if self.embedding.kind == EmbeddingKind::OpenAi {
            if !has_scheme(&self.embedding.url) {
                return invalid(
                    "embedding.url",
                    "kind \"openai\" needs the address of the endpoint, such as \"http://127.0.0.1:8080/v1\"",
                );
            }
            if !seconds.contains(&self.embedding.timeout_seconds) {
                return invalid("embedding.timeout_seconds", "must be between 0.05 and 600");
            }
        }
        if self.generation.kind == GenerationKind::OpenAi {
            if !has_scheme(&self.generation.url) {
                return invalid(
                    "generation.url",
                    "kind \"openai\" needs the address of the endpoint, such as \"http://127.0.0.1:8000/v1\"",
                );
            }
            if !seconds.contains(&self.generation.silence_seconds) {
                return invalid("generation.silence_seconds", "must be between 0.05 and 600");
            }
            if !(self.generation.silence_seconds..=600.0).contains(&self.generation.timeout_seconds) {
                return invalid("generation.timeout_seconds", "must be between generation.silence_seconds and 600");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
