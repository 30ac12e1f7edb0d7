//! A circuit breaker: a server that fails again and again is left alone for a while, and its callers are told at once.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Whether calls go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// All calls go out.
    Closed,
    /// One call is out to see whether the server is back; the others fail at once.
    HalfOpen,
    /// No call goes out.
    Open,
}

impl BreakerState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half open",
            Self::Open => "open",
        }
    }

    /// The value of the metric: 0 closed, 1 half open, 2 open.
    pub fn level(self) -> f64 {
        match self {
            Self::Closed => 0.0,
            Self::HalfOpen => 1.0,
            Self::Open => 2.0,
        }
    }
}

/// Opens after `failures` failed calls in a row; lets one call try again after `pause`.
#[derive(Debug)]
pub(super) struct Breaker {
    failures: u32,
    pause: Duration,
    stage: Mutex<Stage>,
}

#[derive(Debug)]
struct Stage {
    /// Failed calls in a row.
    failed: u32,
    /// Since when the breaker is open, or since when a call tries; None while it is closed.
    since: Option<Instant>,
    trying: bool,
    /// What failed last, in words.
    reason: String,
}

impl Breaker {
    pub fn new(failures: u32, pause: Duration) -> Self {
        let stage = Stage { failed: 0, since: None, trying: false, reason: String::new() };
        Self { failures, pause, stage: Mutex::new(stage) }
    }

    /// Whether a call may go out at `now`.
    ///
    /// # Errors
    /// What failed last, and when the server is asked again.
    pub fn allow(&self, now: Instant) -> Result<(), String> {
        let mut stage = self.lock();
        let Some(since) = stage.since else { return Ok(()) };
        // A call that tries and never reports back must not keep the breaker half open for ever.
        let waited = now.saturating_duration_since(since);
        if waited < self.pause {
            let left = (self.pause - waited).as_secs_f32();
            return Err(format!("{} (failed {} times; asked again in {left:.1} s)", stage.reason, stage.failed));
        }
        stage.since = Some(now);
        stage.trying = true;
        Ok(())
    }

    /// The server answered.
    pub fn succeeded(&self) {
        let mut stage = self.lock();
        if stage.since.is_some() {
            tracing::info!("vector server answers again");
        }
        *stage = Stage { failed: 0, since: None, trying: false, reason: String::new() };
    }

    /// A call failed at `now` after all its tries.
    pub fn failed(&self, now: Instant, reason: &str) {
        let mut stage = self.lock();
        stage.failed = stage.failed.saturating_add(1);
        reason.clone_into(&mut stage.reason);
        if stage.failed >= self.failures {
            if stage.since.is_none() {
                tracing::warn!(reason, failures = stage.failed, "vector server is left alone for a while");
            }
            stage.since = Some(now);
            stage.trying = false;
        }
    }

    pub fn state(&self) -> BreakerState {
        let stage = self.lock();
        match (stage.since, stage.trying) {
            (None, _) => BreakerState::Closed,
            (Some(_), true) => BreakerState::HalfOpen,
            (Some(_), false) => BreakerState::Open,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(10);

    #[test]
    fn opens_after_failures_in_a_row_and_closes_when_a_try_succeeds() {
        let (breaker, start) = (Breaker::new(3, PAUSE), Instant::now());
        breaker.failed(start, "gone");
        breaker.failed(start, "gone");
        breaker.succeeded();
        breaker.failed(start, "gone");
        breaker.failed(start, "gone");
        assert_eq!((breaker.state(), breaker.allow(start).is_ok()), (BreakerState::Closed, true));
        breaker.failed(start, "gone");
        assert_eq!(breaker.state(), BreakerState::Open);
        let refused = breaker.allow(start + PAUSE / 2).expect_err("open");
        assert!(refused.contains("gone") && refused.contains("3 times") && refused.contains("5.0 s"), "{refused}");

        let later = start + PAUSE;
        assert!(breaker.allow(later).is_ok());
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert!(breaker.allow(later).is_err(), "one try at a time");
        breaker.failed(later, "still gone");
        assert_eq!((breaker.state(), breaker.allow(later + PAUSE / 2).is_err()), (BreakerState::Open, true));
        assert!(breaker.allow(later + PAUSE).is_ok());
        breaker.succeeded();
        assert_eq!((breaker.state(), breaker.allow(later + PAUSE).is_ok()), (BreakerState::Closed, true));
    }

    #[test]
    fn a_try_that_never_reports_back_is_followed_by_another() {
        let (breaker, start) = (Breaker::new(1, PAUSE), Instant::now());
        breaker.failed(start, "gone");
        assert!(breaker.allow(start + PAUSE).is_ok());
        assert!(breaker.allow(start + PAUSE * 3 / 2).is_err());
        assert!(breaker.allow(start + PAUSE * 2).is_ok());
    }
}
