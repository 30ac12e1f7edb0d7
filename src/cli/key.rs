//! `respondo key`: keys for programs that use the API.

use std::io::Write;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use jiff::Timestamp;

use crate::app::{open_store, open_store_shared};
use crate::settings::Settings;
use crate::store::{ApiKey, IssuedKey, KeyScope, KeyState, NewKey, Store, StoreError};

/// Who stands in the audit trail.
const BY: &str = "command line";

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key. It is printed on standard output, once; what it opens on standard error.
    Add(AddArgs),
    /// List all keys, without the keys themselves; also while the service runs.
    List,
    /// End a key at once: the one with this id, or all with this name.
    Revoke {
        #[arg(value_name = "NAME_OR_ID")]
        key: String,
    },
    /// Make a key with the rights of another one, which ends after a while.
    Rotate {
        #[arg(value_name = "NAME_OR_ID")]
        key: String,
        /// How long both work.
        #[arg(long, default_value = "24h", value_name = "TIME")]
        overlap: Span,
    },
}

#[derive(Debug, Args)]
pub struct AddArgs {
    /// What the key is for.
    name: String,
    /// What it opens: tickets, desk, search, metrics or all; several are possible.
    #[arg(long, required = true)]
    scope: Vec<KeyScope>,
    /// How long it lives, such as 90d; without an end by default.
    #[arg(long, value_name = "TIME")]
    expires: Option<Span>,
    /// The only customer whose tickets it opens and reads.
    #[arg(long, value_name = "ID")]
    customer: Option<String>,
    /// Requests a minute, 0 for no limit; server.key_requests_per_minute by default.
    #[arg(long, value_name = "N")]
    per_minute: Option<u32>,
}

/// A length of time as people write it: `30m`, `24h`, `90d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || format!("{text:?} is no length of time; write minutes, hours or days as 30m, 24h or 90d");
        let unit = text.chars().last().ok_or_else(problem)?;
        let seconds: u64 = match unit {
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(problem()),
        };
        // At most a hundred years: what comes later is no end.
        let number: u32 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| problem())?;
        let span = u64::from(number) * seconds;
        if span > 100 * 365 * 86_400 {
            return Err(format!("{text:?} is longer than a hundred years; leave it out for no end"));
        }
        Ok(Self(Duration::from_secs(span)))
    }
}

/// Makes, lists, ends and replaces keys.
///
/// # Errors
/// When a running service has the store to itself, or there is no such key.
pub async fn run(settings: Settings, command: KeyCommand) -> Result<()> {
    match command {
        KeyCommand::List => list(&open_store_shared(&settings).await?).await,
        KeyCommand::Add(args) => {
            let new = NewKey {
                name: args.name,
                scopes: args.scope,
                customer: args.customer,
                requests_per_minute: args.per_minute,
                expires_at: args.expires.map(|Span(span)| Timestamp::now().checked_add(span)).transpose()?,
            };
            let store = open(&settings).await?;
            let issued = store.add_key(new, BY).await;
            store.close().await;
            show(&issued?)
        }
        KeyCommand::Rotate { key, overlap: Span(overlap) } => {
            let store = open(&settings).await?;
            let issued = store.rotate_key(&key, overlap, BY).await;
            store.close().await;
            show(&issued?)
        }
        KeyCommand::Revoke { key } => {
            let store = open(&settings).await?;
            let revoked = store.revoke_keys(&key, BY).await;
            store.close().await;
            let mut out = std::io::stdout().lock();
            for key in revoked? {
                writeln!(out, "revoked {} ({})", key.name, key.id)?;
            }
            Ok(())
        }
    }
}

/// Opens the store for writing; where a running service has it to itself, says where keys are made then.
async fn open(settings: &Settings) -> Result<Store> {
    let server = &settings.server;
    match open_store(settings).await {
        Err(error @ StoreError::Locked(_)) => Err(error).with_context(|| {
            let (address, port) = (server.address, server.port);
            format!(
                "a running service keeps the keys; use its page http://{address}:{port}/desk/keys, or stop it first"
            )
        }),
        opened => Ok(opened?),
    }
}

/// The key alone goes to standard output, for `KEY=$(respondo key add ...)`.
fn show(issued: &IssuedKey) -> Result<()> {
    let key = &issued.record;
    let mut err = std::io::stderr().lock();
    writeln!(err, "name      {}", key.name)?;
    writeln!(err, "id        {}", key.id)?;
    writeln!(err, "scopes    {}", key.scope_names())?;
    if let Some(customer) = &key.customer {
        writeln!(err, "customer  {customer}")?;
    }
    if let Some(at) = key.expires_at {
        writeln!(err, "expires   {at}")?;
    }
    writeln!(err, "This is the key. It is not shown again; keep it where only its program reads it.")?;
    writeln!(std::io::stdout().lock(), "{}", issued.key)?;
    Ok(())
}

async fn list(store: &Store) -> Result<()> {
    let (keys, now) = (store.keys().await?, Timestamp::now());
    let mut out = std::io::stdout().lock();
    if keys.is_empty() {
        writeln!(out, "There are no keys; `respondo key add NAME --scope tickets` makes one.")?;
    }
    for key in keys {
        let last = key.last_used_at.map_or("never used".to_owned(), |at| format!("last used {at:.0}"));
        let bound = key.customer.as_ref().map(|customer| format!(", customer {customer}")).unwrap_or_default();
        writeln!(out, "{}  {}  {}{bound}  {}, {last}", key.id, key.name, key.scope_names(), state(&key, now))?;
    }
    Ok(())
}

/// Whether a key opens anything, in words.
fn state(key: &ApiKey, now: Timestamp) -> String {
    match (key.state(now), key.expires_at) {
        (KeyState::Revoked, _) => "revoked".to_owned(),
        (KeyState::Expired, _) => "expired".to_owned(),
        (KeyState::Active, Some(at)) if key.replaced_by.is_some() => format!("replaced, ends {at:.0}"),
        (KeyState::Active, Some(at)) => format!("ends {at:.0}"),
        (KeyState::Active, None) => "active".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_a_unit() {
        for (text, seconds) in [("0m", 0), ("30m", 1_800), ("24h", 86_400), ("90d", 7_776_000)] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_secs(seconds))), "{text}");
        }
        for bad in ["", "d", "90", "-1d", "1.5h", "90 d", "1w", "99999999999d", "4000000000d", "5ñ"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }
}
