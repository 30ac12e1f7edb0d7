//! What has been kept for long enough goes: hourly while the service runs, by the `[retention]` settings.

use std::time::Duration;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::forget_evaluations;
use crate::events::Events;
use crate::settings::Retention;
use crate::store::{Expiring, Queues, Rewrite, Store, StoreError};

const INTERVAL: Duration = Duration::from_secs(3_600);
/// Conversations, or files, removed in one transaction: a moment in which others wait to write.
const TICKETS: u32 = 50;
/// The same for events and idempotency keys.
const ROWS: u32 = 500;
/// A pause after each batch, for whoever waits.
const PAUSE: Duration = Duration::from_millis(20);
/// One process at a time does this for all that share a store; one that dies holds it up for so long.
const LEASE: Duration = Duration::from_secs(300);
const TASK: &str = "retention";

/// What one rule says: whose conversations, and since when nothing may have happened in them.
struct Rule<'a> {
    /// For people.
    name: String,
    queues: Queues<'a>,
    /// None: for ever.
    tickets: Option<Timestamp>,
    files: Option<Timestamp>,
}

/// The last moment that is `days` ago or longer; None for 0, which means for ever.
fn cutoff(now: Timestamp, days: u32) -> Option<Timestamp> {
    let age = SignedDuration::from_hours(i64::from(days) * 24);
    (days > 0).then(|| now.checked_sub(age).unwrap_or(Timestamp::MIN))
}

fn rules<'a>(settings: &'a Retention, named: &'a [String], now: Timestamp) -> Vec<Rule<'a>> {
    let own = settings.queues.iter().map(|(name, queue)| Rule {
        name: format!("queue {name}"),
        queues: Queues::Named(name),
        tickets: cutoff(now, queue.tickets_days.unwrap_or(settings.tickets_days)),
        files: cutoff(now, queue.attachments_days.unwrap_or(settings.attachments_days)),
    });
    let others = Rule {
        name: if named.is_empty() { "all queues".to_owned() } else { "other queues".to_owned() },
        queues: Queues::Others(named),
        tickets: cutoff(now, settings.tickets_days),
        files: cutoff(now, settings.attachments_days),
    };
    own.chain([others]).collect()
}

fn named(settings: &Retention) -> Vec<String> {
    settings.queues.keys().cloned().collect()
}

/// What would go now: conversations and files by rule, then events and keys (in the last line).
///
/// # Errors
/// When the store cannot be read.
pub async fn plan(store: &Store, settings: &Retention, now: Timestamp) -> Result<Vec<(String, Expiring)>, StoreError> {
    let named = named(settings);
    let mut plan = Vec::new();
    for rule in rules(settings, &named, now) {
        let mut expiring = Expiring::default();
        if let Some(before) = rule.tickets {
            (expiring.tickets, expiring.messages) = store.expired(rule.queues, before, now).await?;
        }
        if let Some(before) = rule.files {
            expiring.files = store.expired_files(rule.queues, before, now).await?;
        }
        plan.push((rule.name, expiring));
    }
    let (events, keys) = (cutoff(now, settings.events_days), cutoff(now, settings.idempotency_days));
    let (events, idempotency_keys) = store.expired_rows(events, keys).await?;
    plan.push(("everywhere".to_owned(), Expiring { events, idempotency_keys, ..Expiring::default() }));
    Ok(plan)
}

/// Removes what has been kept for long enough, in small batches; `gone` hears of the tickets that went. Does nothing while
/// another `holder` does it. What evaluations keep is another matter, see [`forget_evaluations`].
///
/// # Errors
/// When the store fails; what was removed until then stays removed.
pub async fn run(
    store: &Store,
    settings: &Retention,
    now: Timestamp,
    holder: &str,
    mut gone: impl FnMut(&[Uuid]),
) -> Result<Expiring, StoreError> {
    let mut total = Expiring::default();
    let named = named(settings);
    for rule in rules(settings, &named, now) {
        if let Some(before) = rule.tickets {
            while store.lease_task(TASK, holder, LEASE).await? {
                let (tickets, removed) = store.remove_expired(rule.queues, before, now, TICKETS).await?;
                if tickets.is_empty() {
                    break;
                }
                gone(&tickets);
                total.tickets += removed.tickets;
                total.messages += removed.messages;
                tokio::time::sleep(PAUSE).await;
            }
        }
        if let Some(before) = rule.files {
            while store.lease_task(TASK, holder, LEASE).await? {
                let files = store.remove_expired_files(rule.queues, before, now, TICKETS).await?;
                total.files += files;
                if files == 0 {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    if let Some(before) = cutoff(now, settings.events_days) {
        while store.lease_task(TASK, holder, LEASE).await? {
            let events = store.remove_expired_events(before, ROWS).await?;
            total.events += events;
            if events == 0 {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    if let Some(before) = cutoff(now, settings.idempotency_days) {
        while store.lease_task(TASK, holder, LEASE).await? {
            let keys = store.remove_expired_keys(before, ROWS).await?;
            total.idempotency_keys += keys;
            if keys == 0 {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    if total != Expiring::default() {
        store.fold(Rewrite::No).await;
    }
    Ok(total)
}

/// Does it at the start and then hourly, until the service closes.
pub fn spawn(store: Store, settings: Retention, events: Events, mut closing: watch::Receiver<bool>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let holder = format!("{}/{}", std::process::id(), Uuid::now_v7());
        let mut hours = tokio::time::interval(INTERVAL);
        hours.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = hours.tick() => {}
                _ = closing.wait_for(|closing| *closing) => return,
            }
            let done = tokio::select! {
                done = run(&store, &settings, Timestamp::now(), &holder, |tickets| events.forget(tickets)) => done,
                _ = closing.wait_for(|closing| *closing) => return,
            };
            match done {
                Ok(total) if total == Expiring::default() => {}
                Ok(total) => {
                    tracing::info!(
                        tickets = total.tickets,
                        files = total.files,
                        events = total.events,
                        keys = total.idempotency_keys,
                        "what was kept for long enough is gone"
                    );
                    if total.tickets > 0 {
                        forget_evaluations();
                    }
                }
                Err(error) => tracing::warn!(%error, "retention is tried again in an hour"),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_days_are_for_ever() {
        let now: Timestamp = "2026-03-31T12:00:00Z".parse().expect("a time");
        assert_eq!(cutoff(now, 0), None);
        assert_eq!(cutoff(now, 30), Some("2026-03-01T12:00:00Z".parse().expect("a time")));
        assert_eq!(cutoff(now, u32::MAX), Some(Timestamp::MIN));
    }
}
