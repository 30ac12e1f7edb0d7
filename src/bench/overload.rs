//! The service under more than it can do: who is told, who is asked back, and whether anything is lost.
//!
//! First the capacity: as many tickets open at once as replies are drafted at once, each followed to its decision. Then a
//! multiple of that, on a schedule fixed beforehand, with idempotency keys. Whoever was accepted must have a word from us in
//! the end; how soon is read from the conversations themselves.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use jiff::Timestamp;
use serde_json::Value;
use tempfile::TempDir;

use super::load::client::{Answered, Client, Offered};
use super::load::service::Start;
use super::load::traffic::{Arrivals, keep_writing, open_loop};
use super::quantile;
use super::requests::Row;

/// How long the capacity is measured, and how many tickets are sent before it, which pay for first uses.
const CAPACITY_TIME: Duration = Duration::from_secs(30);
const WARM_TICKETS: usize = 6;
/// Longest wait for the queue to get back to normal, and pause between two looks.
const PATIENCE: Duration = Duration::from_secs(1_800);
const PAUSE: Duration = Duration::from_millis(500);
/// Tries of one message; its key makes them one ticket.
const TRIES: usize = 3;
/// By when a customer who has to wait should know.
const GOAL_MS: f32 = 1_000.0;
/// What the reasons of a decision say of a ticket that was put aside.
const LATE: &str = "the reply would be late";

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// A data folder with a memory; a copy of it is used.
    pub folder: PathBuf,
    pub config: Option<PathBuf>,
    /// Replies drafted at the same time.
    pub concurrency: usize,
    pub length: Duration,
    /// Load as a multiple of the capacity.
    pub factor: f64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct OverloadReport {
    /// Tickets a second that the service decides on.
    pub capacity: f64,
    pub sent: usize,
    pub accepted: usize,
    /// Answered with 429.
    pub refused: usize,
    /// Neither, after all tries.
    pub failed: usize,
    pub failures: Vec<String>,
    /// Accepted, and without a word from us in the end.
    pub lost: usize,
    /// Milliseconds, sorted, like the next three: until the message was accepted.
    pub accept_ms: Vec<f32>,
    pub refuse_ms: Vec<f32>,
    /// From the message on disk to the word that the reply takes longer.
    pub told_ms: Vec<f32>,
    /// From the message on disk to the first word of those who got their reply, or their acknowledgement, in turn.
    pub answered_ms: Vec<f32>,
    pub peak_memory_mib: Option<f64>,
    /// From the end of the load until nobody waited in line.
    pub back_to_normal_s: f64,
    /// Tickets put aside at that time, and the seconds that each takes.
    pub put_aside: usize,
    pub seconds_each: Option<f64>,
}

/// What is collected while messages are sent.
#[derive(Default)]
struct Sent {
    ids: Vec<String>,
    accept_ms: Vec<f32>,
    refuse_ms: Vec<f32>,
}

/// Runs the plan with messages from `rows`.
///
/// # Errors
/// When the service does not start, or decides on nothing.
pub fn run(plan: &Plan, rows: &[Row]) -> Result<OverloadReport> {
    let copy = copy_of(&plan.folder)?;
    let start = Start { folder: copy.path().to_owned(), config: plan.config.clone(), environment: Vec::new() };
    let running = start.run()?;
    let client = &running.client;
    for row in rows.iter().rev().take(WARM_TICKETS) {
        client.ticket(row, "decision")?;
    }
    let mut report =
        OverloadReport { capacity: capacity(client, rows, plan.concurrency)?, ..OverloadReport::default() };
    let times = Arrivals::Poisson.times(report.capacity * plan.factor, plan.length);
    let sent = Mutex::new(Sent::default());
    let bar = ProgressBar::new(times.len() as u64);
    // Another run on the same folder is another set of tickets.
    let run = uuid::Uuid::now_v7();
    let offer = |number: usize| {
        let began = Instant::now();
        let offered = offer(client, &rows[number % rows.len()], &format!("{run}-{number}"))?;
        let took = began.elapsed().as_secs_f32() * 1_000.0;
        let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
        match offered {
            Offered::Accepted(id) => {
                sent.ids.push(id);
                sent.accept_ms.push(took);
            }
            Offered::Refused => sent.refuse_ms.push(took),
        }
        Ok(Answered { evidence: 1, degraded: false })
    };
    let seen = open_loop(&times, offer, |sent| bar.set_position(sent as u64));
    bar.finish_and_clear();
    let ended = Instant::now();
    let Sent { mut ids, accept_ms, refuse_ms } = sent.into_inner().unwrap_or_else(PoisonError::into_inner);
    (report.sent, report.failed, report.failures) = (times.len(), seen.failed, seen.failures);
    (report.accepted, report.refused) = (ids.len(), refuse_ms.len());
    (report.accept_ms, report.refuse_ms) = (sorted(accept_ms), sorted(refuse_ms));
    wait_for_normal(client, ended, &mut report)?;
    settle(client, &mut ids, &mut report)?;
    report.peak_memory_mib = running.peak_memory_mib();
    running.stop()?;
    Ok(report)
}

/// Tickets a second, with as many open as replies are drafted at the same time, each followed to its decision.
fn capacity(client: &Client, rows: &[Row], at_once: usize) -> Result<f64> {
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let written = std::thread::scope(|scope| {
        let writing = scope.spawn(|| keep_writing(client, rows, at_once, "decision", &stop));
        std::thread::sleep(CAPACITY_TIME);
        stop.store(true, Ordering::Relaxed);
        writing.join().unwrap_or_default()
    });
    ensure!(written.replies > 0, "no ticket was decided on within {} s", CAPACITY_TIME.as_secs());
    Ok(written.replies as f64 / began.elapsed().as_secs_f64())
}

/// A copy of a prepared data folder, so that nothing of an earlier run stands in line; removed with the value.
fn copy_of(prepared: &Path) -> Result<TempDir> {
    let beside = prepared.parent().unwrap_or(prepared);
    let made = tempfile::Builder::new().prefix("overload-").tempdir_in(beside).and_then(|copy| {
        copy_into(prepared, copy.path())?;
        Ok(copy)
    });
    made.with_context(|| format!("cannot copy {} to a folder beside it", prepared.display()))
}

fn copy_into(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            std::fs::create_dir(&target)?;
            copy_into(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Sends a message until it is accepted or refused.
fn offer(client: &Client, row: &Row, key: &str) -> Result<Offered> {
    let mut last = client.offer(row, key);
    for _ in 1..TRIES {
        if last.is_ok() {
            break;
        }
        std::thread::sleep(PAUSE);
        last = client.offer(row, key);
    }
    last
}

/// Waits until nobody stands in line or is still to be told.
fn wait_for_normal(client: &Client, ended: Instant, report: &mut OverloadReport) -> Result<()> {
    loop {
        let metrics = client.metrics()?;
        let waiting =
            |what: &str| metric(&metrics, &format!("respondo_tickets_waiting{{for=\"{what}\"}}")).unwrap_or(0.0);
        if waiting("line") + waiting("late") == 0.0 {
            report.back_to_normal_s = ended.elapsed().as_secs_f64();
            report.put_aside = waiting("put aside") as usize;
            report.seconds_each = metric(&metrics, "respondo_seconds_per_ticket");
            return Ok(());
        }
        ensure!(ended.elapsed() < PATIENCE, "tickets still stood in line {} s after the load", PATIENCE.as_secs());
        std::thread::sleep(PAUSE);
    }
}

/// The value of a metric without labels, or with these ones.
fn metric(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Looks at every accepted ticket until each has a word from us, or that takes too long.
fn settle(client: &Client, ids: &mut Vec<String>, report: &mut OverloadReport) -> Result<()> {
    let bar = ProgressBar::new(ids.len() as u64);
    let until = Instant::now() + PATIENCE;
    loop {
        ids.retain(|id| match client.view(id).map(|view| word(&view)) {
            Ok(Word::None) | Err(_) => true,
            Ok(Word::Silence) => false,
            Ok(Word::Said { ms, is_late }) => {
                if is_late { &mut report.told_ms } else { &mut report.answered_ms }.push(ms);
                bar.inc(1);
                false
            }
        });
        if ids.is_empty() || Instant::now() > until {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    bar.finish_and_clear();
    report.lost = ids.len();
    report.told_ms.sort_by(f32::total_cmp);
    report.answered_ms.sort_by(f32::total_cmp);
    client.health().context("the service does not answer any more")
}

/// What a customer has heard from us.
#[derive(Debug, PartialEq)]
enum Word {
    None,
    /// The message was set aside as no request.
    Silence,
    Said {
        /// Milliseconds from the message to the first word.
        ms: f32,
        is_late: bool,
    },
}

fn word(view: &Value) -> Word {
    let messages = view["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let first = |of_customer: bool| {
        let message = messages.iter().find(|message| (message["author"] == "customer") == of_customer)?;
        message["created_at"].as_str()?.parse::<Timestamp>().ok()
    };
    match (first(true), first(false)) {
        (Some(asked), Some(said)) => {
            let ms = said.duration_since(asked).as_secs_f32() * 1_000.0;
            Word::Said { ms, is_late: view["decisions"][0]["decision"]["reasons"].to_string().contains(LATE) }
        }
        _ if view["ticket"]["state"] == "discarded" => Word::Silence,
        _ => Word::None,
    }
}

fn sorted(mut times: Vec<f32>) -> Vec<f32> {
    times.sort_by(f32::total_cmp);
    times
}

impl OverloadReport {
    /// The report as Markdown; `about` says how the figures came about.
    pub fn to_markdown(&self, about: &[(&str, String)]) -> String {
        let mut out = String::from("# The service under more than it can do\n\n");
        about.iter().for_each(|(name, value)| out.push_str(&format!("- {name}: {value}\n")));
        let goal = |is_met: bool| if is_met { "met" } else { "missed" };
        let told = quantile(&self.told_ms, 0.99);
        let told_goal = if self.told_ms.is_empty() { "nobody had to be told" } else { goal(told <= GOAL_MS) };
        out.push_str("\n| what | figure | goal |\n|---|---|---|\n");
        let mut row = |what: &str, figure: String, goal: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "| {what} | {figure} | {goal} |");
        };
        row("capacity", format!("{:.2} tickets a second", self.capacity), "-".to_owned());
        row("sent", self.sent.to_string(), "-".to_owned());
        row("accepted", self.accepted.to_string(), "-".to_owned());
        row("refused (429)", self.refused.to_string(), "-".to_owned());
        row("failed", self.failed.to_string(), format!("0: {}", goal(self.failed == 0)));
        row("lost", self.lost.to_string(), format!("0: {}", goal(self.lost == 0)));
        let memory = self.peak_memory_mib.map_or_else(|| "unknown".to_owned(), |mib| format!("{mib:.0} MiB"));
        row("highest resident memory", memory, "-".to_owned());
        row("load ended until nobody waited in line", format!("{:.1} s", self.back_to_normal_s), "-".to_owned());
        let rest = self.seconds_each.map(|each| format!(", about {:.0} s of work", each * self.put_aside as f64));
        let rest = format!("{} tickets{}", self.put_aside, rest.unwrap_or_default());
        row("put aside at that time", rest, "-".to_owned());
        out.push_str("\n| time until | p50 | p99 | most | n | goal |\n|---|---|---|---|---|---|\n");
        for (what, times, goal) in [
            ("the message is accepted", &self.accept_ms, "-".to_owned()),
            ("it is refused", &self.refuse_ms, "-".to_owned()),
            ("who has to wait is told so", &self.told_ms, format!("p99 <= {GOAL_MS:.0} ms: {told_goal}")),
            ("the first word of all others", &self.answered_ms, "-".to_owned()),
        ] {
            if times.is_empty() {
                continue;
            }
            let at = |share| quantile(times, share);
            let (p50, p99, most, count) = (at(0.5), at(0.99), at(1.0), times.len());
            let _ = writeln!(out, "| {what} | {p50:.1} ms | {p99:.1} ms | {most:.1} ms | {count} | {goal} |");
        }
        self.failures.iter().for_each(|failure| out.push_str(&format!("\n- failed: {failure}")));
        out
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_word_counts_and_says_whether_the_reply_was_late() {
        let customer = json!({ "author": "customer", "created_at": "2026-04-01T10:00:00Z" });
        let ours = json!({ "author": "respondo", "created_at": "2026-04-01T10:00:00.250Z" });
        let later = json!({ "author": "agent", "created_at": "2026-04-01T10:05:00Z" });
        let reasons = json!([{ "decision": { "reasons": [format!("so much waits before it that {LATE}")] } }]);
        let mut view = json!({
            "ticket": { "state": "review" }, "messages": [customer, ours, later], "decisions": reasons,
        });
        assert_eq!(word(&view), Word::Said { ms: 250.0, is_late: true });
        view["decisions"] = json!([]);
        assert_eq!(word(&view), Word::Said { ms: 250.0, is_late: false });
        view["messages"] = json!([view["messages"][0]]);
        assert_eq!(word(&view), Word::None);
        view["ticket"]["state"] = json!("discarded");
        assert_eq!(word(&view), Word::Silence);
    }

    #[test]
    fn metrics_are_found_by_name_and_label() {
        let text = "# TYPE respondo_tickets_waiting gauge\nrespondo_tickets_waiting{for=\"late\"} 3\n\
                    respondo_tickets_waiting{for=\"line\"} 12\nrespondo_seconds_per_ticket 0.5\n";
        assert_eq!(metric(text, "respondo_tickets_waiting{for=\"line\"}"), Some(12.0));
        assert_eq!(metric(text, "respondo_seconds_per_ticket"), Some(0.5));
        assert_eq!(metric(text, "respondo_seconds"), None);
    }

    #[test]
    fn goals_are_told_as_met_or_missed() {
        let report = OverloadReport {
            capacity: 2.5,
            sent: 100,
            accepted: 60,
            refused: 40,
            lost: 1,
            told_ms: vec![100.0, 200.0],
            answered_ms: vec![4_000.0],
            put_aside: 20,
            seconds_each: Some(2.0),
            ..OverloadReport::default()
        };
        let text = report.to_markdown(&[("machine", "two cores".to_owned())]);
        for line in [
            "- machine: two cores",
            "| capacity | 2.50 tickets a second | - |",
            "| failed | 0 | 0: met |",
            "| lost | 1 | 0: missed |",
            "| put aside at that time | 20 tickets, about 40 s of work | - |",
            "| who has to wait is told so | 100.0 ms | 200.0 ms | 200.0 ms | 2 | p99 <= 1000 ms: met |",
            "| the first word of all others | 4000.0 ms | 4000.0 ms | 4000.0 ms | 1 | - |",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains("it is refused |"), "{text}");
    }
}
