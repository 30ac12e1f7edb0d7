//! Real requests through the whole pipeline: how fast, in which language, resting on what.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tokio::sync::mpsc::unbounded_channel;

use super::shuffle_key;
use crate::eval::invented::invented;
use crate::intake;
use crate::pipeline::{Answer, Pipeline};
use crate::ticket::{Language, Request};

/// Chosen once; another seed gives another sample.
const SEED: &str = "respondo-bench";
/// Shorter texts are greetings and slips.
const SHORTEST_BODY: usize = 60;

/// A request of the data set.
#[derive(Clone, Debug, Deserialize)]
pub struct Row {
    pub id: String,
    pub lang: String,
    /// Present where the forum's language and the text disagree.
    pub lang_guess: Option<String>,
    #[serde(default)]
    pub subject: String,
    #[serde(default)]
    pub body: String,
    pub is_solved: Option<bool>,
}

/// One request and what came of it.
pub struct Case {
    pub row: Row,
    pub request: Request,
    pub answer: Answer,
    /// Language of the reply, as the detector sees it; None when it cannot tell.
    pub reply_language_fits: Option<bool>,
    /// Numbers, links and paths of the reply that stand in no evidence and not in the customer's text, by a check that
    /// shares no code with the guard.
    pub unsupported: Vec<String>,
}

/// Response times of `/healthz` while the requests were worked on.
#[derive(Default)]
pub struct Health {
    /// Milliseconds, sorted.
    pub times_ms: Vec<f32>,
    pub failures: usize,
}

/// `per_language` requests each in English and Spanish, solved or not, chosen by hash.
///
/// # Errors
/// When the file cannot be read or has too few such requests.
pub fn sample(path: &Path, per_language: usize) -> Result<Vec<Row>> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let reader = std::io::BufReader::new(flate2::read::GzDecoder::new(file));
    let mut rows: Vec<Row> = Vec::new();
    for line in std::io::BufRead::lines(reader) {
        let row: Row = serde_json::from_str(&line?).with_context(|| format!("row of {}", path.display()))?;
        if row.lang_guess.is_none() && row.body.len() >= SHORTEST_BODY {
            rows.push(row);
        }
    }
    rows.sort_by_key(|row| shuffle_key(SEED, &row.id));
    let mut chosen = Vec::new();
    for language in ["en", "es"] {
        let own = rows.iter().filter(|row| row.lang == language).take(per_language);
        chosen.extend(own.cloned());
    }
    ensure!(chosen.len() == 2 * per_language, "{} has fewer than {per_language} requests a language", path.display());
    Ok(chosen)
}

/// Puts each request through the pipeline, one after the other, as on a quiet day.
///
/// # Errors
/// When a row cannot be taken in.
pub async fn run(pipeline: &Pipeline, rows: Vec<Row>, mut progress: impl FnMut(usize)) -> Result<Vec<Case>> {
    let mut cases = Vec::with_capacity(rows.len());
    for (position, row) in rows.into_iter().enumerate() {
        let exclude = vec![row.id.clone()];
        let request = intake::prepare(&row.subject, &row.body, None, None, exclude)
            .with_context(|| format!("request {}", row.id))?;
        let (watch, _nobody) = unbounded_channel();
        let answer = pipeline.answer(&request, &watch).await;
        ensure!(answer.evidence.iter().all(|found| found.item.id != row.id), "{} retrieved itself", row.id);
        let text = answer.draft.as_ref().map(|draft| draft.text.clone()).unwrap_or_default();
        let wanted = if row.lang == "es" { Language::ES } else { Language::EN };
        cases.push(Case {
            reply_language_fits: intake::language::is_language(&text, &wanted),
            unsupported: answer.draft.as_ref().map(|draft| invented(draft, &request.text())).unwrap_or_default(),
            row,
            request,
            answer,
        });
        progress(position + 1);
    }
    Ok(cases)
}

/// Asks `/healthz` again and again from a thread of its own until told to stop.
pub struct HealthProbe {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Health>,
}

impl HealthProbe {
    pub fn start(url: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let agent: ureq::Agent =
                ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).build().into();
            let mut health = Health::default();
            while !seen.load(Ordering::Relaxed) {
                let started = Instant::now();
                match agent.get(&url).call() {
                    Ok(_) => health.times_ms.push(started.elapsed().as_secs_f32() * 1_000.0),
                    Err(_) => health.failures += 1,
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            health.times_ms.sort_by(f32::total_cmp);
            health
        });
        Self { stop, thread }
    }

    pub fn finish(self) -> Health {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// Highest resident memory of this process so far, in MiB, where the system tells.
pub fn peak_memory_mib() -> Option<f64> {
    peak_memory_of("/proc/self/status")
}

/// As [`peak_memory_mib`], of the process whose status file this is.
pub(super) fn peak_memory_of(status: &str) -> Option<f64> {
    let status = std::fs::read_to_string(status).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1_024.0)
}

/// Writes the report.
///
/// # Errors
/// When the file cannot be written.
pub fn write_report(path: &PathBuf, cases: &[Case], health: &Health, about: &[(&str, String)]) -> Result<()> {
    let text = super::report::markdown(cases, health, about);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
