//! The service under load: a process of its own, a memory of real tickets, messages at their own times.
//!
//! Three questions: how long triage with evidence takes as a client sees it, how long `/healthz` takes meanwhile (also
//! while replies are written all the time), and how long the service takes from its start until it is ready and until the
//! first word of a generated reply.

pub(super) mod client;
mod material;
mod report;
pub(super) mod service;
mod stages;
pub(super) mod traffic;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;

pub use material::Material;
pub use report::{Goals, LoadReport};
pub use service::kept_folder;
pub use traffic::Arrivals;

use self::client::{Answered, Client};
use self::report::{Phase, StartTime};
use self::service::{Running, Start};
use self::stages::Snapshot;
use self::traffic::{HEALTH_RATE, Written, keep_writing, open_loop};
use super::requests::Row;
use crate::timing::{HTTP_SECONDS, STAGE_SECONDS};

/// Tries to get a generated word before the language model counts as missing; while it still reads its prompts, replies
/// run into their deadline.
const WARM_TRIES: usize = 6;
/// Messages sent before the measurement, which pay for what is built at first use.
const WARM_MESSAGES: usize = 20;

/// Which way a message takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Flow {
    /// `POST /v1/triage`: one answer with judgement and evidence, no ticket.
    Triage,
    /// `POST /v1/tickets` and the ticket's event stream, until its `triage` event, which follows the evidence. Replies are
    /// written to all of them.
    Ticket,
}

/// Whether replies are written meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum GenerationLoad {
    /// The language model is loaded and idle.
    Off,
    /// The language model always has a reply to write.
    On,
    /// One after the other.
    Both,
}

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    pub folder: PathBuf,
    pub config: Option<PathBuf>,
    /// A service that runs already; then nothing is started.
    pub url: Option<String>,
    pub key: Option<String>,
    /// Starts that are timed.
    pub starts: usize,
    /// Messages a second.
    pub rate: f64,
    pub length: Duration,
    pub arrivals: Arrivals,
    pub flow: Flow,
    pub generation: GenerationLoad,
    /// Replies in work at the same time under [`GenerationLoad::On`].
    pub writers: usize,
}

/// Runs the plan with messages from `rows`.
///
/// # Errors
/// When the service does not start, or does not answer.
pub fn run(plan: &Plan, rows: &[Row]) -> Result<LoadReport> {
    let wanted = plan.arrivals.times(plan.rate, plan.length).len();
    let phases = match (plan.flow, plan.generation) {
        // Tickets get replies in any case, and keep the language model at work by themselves.
        (Flow::Ticket, _) | (_, GenerationLoad::On) => vec![true],
        (Flow::Triage, GenerationLoad::Off) => vec![false],
        (Flow::Triage, GenerationLoad::Both) => vec![false, true],
    };
    let mut report = LoadReport { distinct: rows.len(), ..LoadReport::default() };
    if let Some(url) = &plan.url {
        let client = Client::new(url.clone(), plan.key.clone());
        ensure!(client.is_ready(), "{url} is not ready; start the service there, or leave --url out");
        for generates in phases {
            report.phases.push(phase(plan, &client, rows, generates, wanted)?);
        }
        return Ok(report);
    }
    let start = Start { folder: plan.folder.clone(), config: plan.config.clone(), environment: Vec::new() };
    report.starts = time_starts(&start, plan.starts, rows)?;
    let running = start.run()?;
    report.language_model = warm_up(&running.client, rows)?;
    for generates in phases {
        ensure!(!generates || report.language_model, "there is no language model; run `respondo models pull`");
        let before = running.processor_seconds();
        let began = Instant::now();
        let mut phase = phase(plan, &running.client, rows, generates, wanted)?;
        let used = running.processor_seconds().zip(before).map(|(after, before)| after - before);
        phase.cores_used = used.map(|seconds| seconds / began.elapsed().as_secs_f64());
        report.phases.push(phase);
    }
    report.peak_memory_mib = running.peak_memory_mib();
    running.stop()?;
    Ok(report)
}

/// Starts the service again and again. The first start reads the files from the disk and is told apart.
fn time_starts(start: &Start, count: usize, rows: &[Row]) -> Result<Vec<StartTime>> {
    let bar = ProgressBar::new(count as u64);
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        let running = start.run()?;
        let row = &rows[number % rows.len()];
        times.push(StartTime { ready_s: running.ready_after.as_secs_f64(), first_word_s: first_word(&running, row)? });
        running.stop()?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(times)
}

/// Seconds from the start until the first word of the reply to a customer who writes when the service is ready and, when
/// that reply ran into its deadline, writes again; None without a language model.
fn first_word(running: &Running, row: &Row) -> Result<Option<f64>> {
    for _ in 0..WARM_TRIES {
        if let (_, Some(at)) = running.client.ticket(row, "token")? {
            let seconds = at.duration_since(running.started).as_secs_f64();
            // Stopped in the middle of a reply, the service would take it up at its next start.
            running.client.ticket(row, "decision")?;
            return Ok(Some(seconds));
        }
    }
    Ok(None)
}

/// Sends what pays for first uses; true when a reply was generated.
fn warm_up(client: &Client, rows: &[Row]) -> Result<bool> {
    for row in rows.iter().rev().take(WARM_MESSAGES) {
        client.triage(row)?;
    }
    for row in rows.iter().rev().take(WARM_TRIES) {
        if client.ticket(row, "token")?.1.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn phase(plan: &Plan, client: &Client, rows: &[Row], generates: bool, wanted: usize) -> Result<Phase> {
    let ask = |number: usize| -> Result<Answered> {
        let row = &rows[number % rows.len()];
        match plan.flow {
            Flow::Triage => client.triage(row),
            Flow::Ticket => {
                let (answered, triage) = client.ticket(row, "triage")?;
                triage.context("the ticket was decided without a judgement")?;
                Ok(answered)
            }
        }
    };
    let look = |_| client.health().map(|()| Answered { evidence: 1, degraded: false });
    let times = plan.arrivals.times(plan.rate, plan.length);
    let checks = Arrivals::Fixed.times(HEALTH_RATE, plan.length);
    // The end of the rows, so that messages and replies are not the same texts at the same time.
    let written_about: Vec<Row> = rows.iter().rev().cloned().collect();
    let stop = AtomicBool::new(false);
    let bar = ProgressBar::new(wanted as u64);
    let before = client.metrics()?;
    let (seen, health, written) = std::thread::scope(|scope| {
        let writes = generates && plan.flow == Flow::Triage;
        let writing =
            writes.then(|| scope.spawn(|| keep_writing(client, &written_about, plan.writers, "token", &stop)));
        let health = scope.spawn(|| open_loop(&checks, look, |_| {}));
        let seen = open_loop(&times, ask, |sent| bar.set_position(sent as u64));
        stop.store(true, Ordering::Relaxed);
        let written = writing.map(|thread| thread.join().unwrap_or_default());
        (seen, health.join().unwrap_or_default(), written)
    });
    bar.finish_and_clear();
    let after = client.metrics()?;
    let times_of = |name: &str| Snapshot::read(&after, name).since(&Snapshot::read(&before, name));
    Ok(Phase {
        generates,
        written: written.map(|Written { replies, generated }| (replies, generated)),
        stages: times_of(STAGE_SECONDS),
        routes: times_of(HTTP_SECONDS),
        seen,
        health,
        cores_used: None,
    })
}
