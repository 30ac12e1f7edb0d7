//! The report of a run under load, for people and for programs.

use serde::Serialize;
use serde_json::{Value, json};

use super::stages::StageTime;
use super::traffic::Seen;
use crate::bench::quantile;

/// What the figures are held against.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Goals {
    pub triage_p50_ms: f32,
    pub triage_p99_ms: f32,
    pub health_p99_ms: f32,
    pub ready_s: f64,
}

impl Default for Goals {
    /// For a memory of 16,000 items on two cores, at 5 messages a second.
    fn default() -> Self {
        Self { triage_p50_ms: 40.0, triage_p99_ms: 120.0, health_p99_ms: 20.0, ready_s: 3.0 }
    }
}

/// One start of the service, in seconds from the start of its process.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StartTime {
    pub ready_s: f64,
    pub first_word_s: Option<f64>,
}

/// One stretch of load.
#[derive(Debug)]
pub struct Phase {
    /// Replies were written all the time.
    pub generates: bool,
    /// Replies that were written beside the messages, and those with words of the language model; None without such.
    pub written: Option<(usize, usize)>,
    pub seen: Seen,
    pub health: Seen,
    pub stages: Vec<StageTime>,
    pub routes: Vec<StageTime>,
    /// Cores that the service kept busy on average.
    pub cores_used: Option<f64>,
}

/// Everything that a run measured.
#[derive(Debug, Default)]
pub struct LoadReport {
    pub starts: Vec<StartTime>,
    pub phases: Vec<Phase>,
    /// Different messages at hand.
    pub distinct: usize,
    pub language_model: bool,
    pub peak_memory_mib: Option<f64>,
}

impl Phase {
    fn name(&self) -> &'static str {
        if self.generates { "replies written all the time" } else { "no replies written" }
    }
}

impl LoadReport {
    /// The report as Markdown; `about` says how the figures came about.
    pub fn to_markdown(&self, about: &[(&str, String)], goals: Goals) -> String {
        let mut out = String::from("# The service under load\n\n");
        about.iter().for_each(|(name, value)| out.push_str(&format!("- {name}: {value}\n")));
        out.push_str(
            "\nMessages arrive on a schedule fixed beforehand and their time counts from it to the last byte of the answer; \
             the client runs on the same cores.\n",
        );
        for phase in &self.phases {
            out.push_str(&phase_table(phase, goals));
        }
        out.push_str(&self.start_table(goals));
        if let Some(mib) = self.peak_memory_mib {
            out.push_str(&format!("\nHighest resident memory of the service: {mib:.0} MiB.\n"));
        }
        self.phases.iter().for_each(|phase| out.push_str(&stage_table(phase)));
        out
    }

    /// The same figures for programs.
    pub fn to_json(&self, about: &[(&str, String)], goals: Goals) -> Value {
        let about: serde_json::Map<String, Value> =
            about.iter().map(|(name, value)| ((*name).to_owned(), Value::from(value.as_str()))).collect();
        let phases: Vec<Value> = self.phases.iter().map(phase_json).collect();
        json!({
            "about": about, "goals": goals, "phases": phases, "starts": self.starts, "distinct_messages": self.distinct,
            "peak_memory_mib": self.peak_memory_mib,
        })
    }

    fn start_table(&self, goals: Goals) -> String {
        if self.starts.is_empty() {
            return String::new();
        }
        let mut out = String::from(
            "\n## From the start of the process\n\n| what | median | least | most | n | goal |\n|---|---|---|---|---|---|\n",
        );
        // The first start reads from the disk what later ones find in memory.
        let warm = if self.starts.len() > 1 { &self.starts[1..] } else { &self.starts };
        let ready: Vec<f64> = warm.iter().map(|start| start.ready_s).collect();
        out.push_str(&start_row("ready (`/readyz` says 200, language model loaded)", ready, Some(goals.ready_s)));
        let word: Vec<f64> = warm.iter().filter_map(|start| start.first_word_s).collect();
        out.push_str(&start_row("first word of a generated reply (its shared prompt read)", word, None));
        if self.starts.len() > 1 {
            out.push_str(&format!("\nThe first start of the run, left out above: {:.2} s.\n", self.starts[0].ready_s));
        }
        out
    }
}

fn start_row(what: &str, mut seconds: Vec<f64>, goal: Option<f64>) -> String {
    seconds.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (seconds.first(), seconds.last()) else { return String::new() };
    let median = seconds[(seconds.len() - 1) / 2];
    let goal = goal.map_or_else(|| "-".to_owned(), |goal| held(median, goal, "s"));
    format!("| {what} | {median:.2} s | {least:.2} s | {most:.2} s | {} | {goal} |\n", seconds.len())
}

fn held(figure: f64, goal: f64, unit: &str) -> String {
    format!("<= {goal} {unit}: {}", if figure <= goal { "met" } else { "missed" })
}

fn phase_table(phase: &Phase, goals: Goals) -> String {
    let mut out = format!("\n## Load, {}\n\n", phase.name());
    out.push_str("| what | p50 | p95 | p99 | most | n | failed | goal |\n|---|---|---|---|---|---|---|---|\n");
    let row = |name: &str, seen: &Seen, goal: String| {
        let at = |share| quantile(&seen.times_ms, share);
        let (p50, p95, p99, most) = (at(0.5), at(0.95), at(0.99), at(1.0));
        let count = seen.times_ms.len();
        format!(
            "| {name} | {p50:.1} ms | {p95:.1} ms | {p99:.1} ms | {most:.1} ms | {count} | {} | {goal} |\n",
            seen.failed
        )
    };
    let at = |seen: &Seen, share| f64::from(quantile(&seen.times_ms, share));
    let triage = format!(
        "p50 {}, p99 {}",
        held(at(&phase.seen, 0.5), goals.triage_p50_ms.into(), "ms"),
        held(at(&phase.seen, 0.99), goals.triage_p99_ms.into(), "ms")
    );
    let health = format!("p99 {}", held(at(&phase.health, 0.99), goals.health_p99_ms.into(), "ms"));
    out.push_str(&row("triage with evidence", &phase.seen, triage));
    out.push_str(&row("`/healthz`", &phase.health, health));
    let seen = &phase.seen;
    out.push_str(&format!("\nAnswers without evidence: {}; with a degraded stage: {}.", seen.bare, seen.degraded));
    if let Some((replies, generated)) = phase.written {
        out.push_str(&format!(" Replies finished meanwhile: {replies}, {generated} of them with generated text."));
    }
    if let Some(cores) = phase.cores_used {
        out.push_str(&format!(" The service kept {cores:.2} cores busy."));
    }
    out.push('\n');
    for failure in seen.failures.iter().chain(&phase.health.failures) {
        out.push_str(&format!("\n- failed: {failure}"));
    }
    out
}

fn stage_table(phase: &Phase) -> String {
    let mut out = format!(
        "\n## Where the time goes, {}\n\n\
         From the service's own metrics. Means are over the whole run, p50 and p99 over its last minute. A route's time \
         ends when the answer's head is ready; stages that run after it (of tickets) are not in it.\n\n\
         | stage | mean | p50 | p99 | n |\n|---|---|---|---|---|\n",
        phase.name()
    );
    for time in phase.routes.iter().chain(&phase.stages) {
        let StageTime { stage, count, mean_ms, p50_ms, p99_ms } = time;
        out.push_str(&format!("| {stage} | {mean_ms:.2} ms | {p50_ms:.2} ms | {p99_ms:.2} ms | {count} |\n"));
    }
    out
}

fn phase_json(phase: &Phase) -> Value {
    let seen = |seen: &Seen| {
        let at = |share| quantile(&seen.times_ms, share);
        json!({
            "n": seen.times_ms.len(), "failed": seen.failed, "without_evidence": seen.bare, "degraded": seen.degraded,
            "p50_ms": at(0.5), "p95_ms": at(0.95), "p99_ms": at(0.99), "most_ms": at(1.0),
        })
    };
    json!({
        "name": phase.name(), "triage": seen(&phase.seen), "healthz": seen(&phase.health), "stages": phase.stages,
        "routes": phase.routes, "replies": phase.written, "cores_used": phase.cores_used,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> LoadReport {
        let seen = |times: &[f32]| Seen { times_ms: times.to_vec(), ..Seen::default() };
        let stage = StageTime { stage: "embed".to_owned(), count: 3, mean_ms: 20.0, p50_ms: 19.0, p99_ms: 30.0 };
        let phase = Phase {
            generates: true,
            written: Some((7, 5)),
            seen: seen(&[30.0, 39.0, 130.0]),
            health: seen(&[1.0, 2.0, 3.0]),
            stages: vec![stage],
            routes: Vec::new(),
            cores_used: Some(1.5),
        };
        let start = |ready_s| StartTime { ready_s, first_word_s: Some(9.0) };
        let starts = vec![start(9.0), start(2.0), start(3.5), start(2.5)];
        LoadReport { starts, phases: vec![phase], distinct: 3, language_model: true, peak_memory_mib: None }
    }

    #[test]
    fn goals_are_told_as_met_or_missed() {
        let text = report().to_markdown(&[("command", "respondo bench load".to_owned())], Goals::default());
        for line in [
            "| triage with evidence | 39.0 ms | 130.0 ms | 130.0 ms | 130.0 ms | 3 | 0 | p50 <= 40 ms: met, p99 <= 120 ms: missed |",
            "| `/healthz` | 2.0 ms | 3.0 ms | 3.0 ms | 3.0 ms | 3 | 0 | p99 <= 20 ms: met |",
            "| ready (`/readyz` says 200, language model loaded) | 2.50 s | 2.00 s | 3.50 s | 3 | <= 3 s: met |",
            "| embed | 20.00 ms | 19.00 ms | 30.00 ms | 3 |",
            "Replies finished meanwhile: 7, 5 of them",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn programs_read_the_same_figures() {
        let value = report().to_json(&[("machine", "two cores".to_owned())], Goals::default());
        assert_eq!(value["phases"][0]["triage"]["p50_ms"], 39.0);
        assert_eq!(value["about"]["machine"], "two cores");
        assert_eq!(value["starts"][1]["ready_s"], 2.0);
    }
}
