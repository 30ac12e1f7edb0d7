//! Where the time of a request goes: one histogram a stage, on `/metrics` as `respondo_stage_seconds`.

use std::future::Future;
use std::time::Instant;

/// Name of the histogram; its label `stage` names the stage.
pub const STAGE_SECONDS: &str = "respondo_stage_seconds";
/// Name of the histogram of whole requests in the server; its label `path` is the route.
pub const HTTP_SECONDS: &str = "respondo_http_seconds";

/// Runs a stage and records the seconds it took, waiting included.
pub async fn timed<T>(stage: &'static str, work: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let done = work.await;
    record(stage, started);
    done
}

/// As [`timed`], for a stage that waits for nothing.
pub fn timed_now<T>(stage: &'static str, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let done = work();
    record(stage, started);
    done
}

fn record(stage: &'static str, started: Instant) {
    metrics::histogram!(STAGE_SECONDS, "stage" => stage).record(started.elapsed().as_secs_f64());
}
