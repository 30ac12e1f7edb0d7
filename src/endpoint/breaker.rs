//! A rest for a server that fails: after failures in a row nobody waits for it until it had time to recover, then one
//! request tries it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row after which a server rests: one may be bad luck.
const FAILURES: u32 = 2;
/// The first rest; every failed try after it doubles the next one, up to the longest.
const FIRST_REST: Duration = Duration::from_secs(5);
const LONGEST_REST: Duration = Duration::from_secs(60);

/// How a server fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Nothing speaks against asking it.
    Good,
    /// It is not asked for this long (zero: it is being tried), because of this.
    Rests { left: Duration, reason: String },
}

/// Remembers how a server fared. Shared by all that ask it.
#[derive(Debug)]
pub struct Breaker {
    record: Mutex<Record>,
    first_rest: Duration,
}

#[derive(Debug, Default)]
struct Record {
    /// In a row.
    failures: u32,
    /// The last rest that was given.
    rest: Duration,
    until: Option<Instant>,
    /// A request tries the server after its rest.
    trying: bool,
    reason: String,
}

impl Default for Breaker {
    fn default() -> Self {
        Self::with_first_rest(FIRST_REST)
    }
}

impl Breaker {
    /// A breaker whose first rest is not the usual one.
    pub fn with_first_rest(first_rest: Duration) -> Self {
        Self { record: Mutex::default(), first_rest }
    }

    /// Nothing panics while it is held, so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request may go to the server now. After a rest the first that asks may; it must then report how it went.
    pub fn admit(&self, now: Instant) -> bool {
        let mut record = self.lock();
        match record.until {
            None => true,
            Some(until) if now < until || record.trying => false,
            Some(_) => {
                record.trying = true;
                true
            }
        }
    }

    /// How the server fares, without asking to go there.
    pub fn health(&self, now: Instant) -> Health {
        let record = self.lock();
        match record.until {
            Some(until) if now < until || record.trying => {
                Health::Rests { left: until.saturating_duration_since(now), reason: record.reason.clone() }
            }
            _ => Health::Good,
        }
    }

    /// The server did what it should.
    pub fn succeeded(&self) {
        *self.lock() = Record::default();
    }

    /// The server did not answer, or answered nonsense.
    pub fn failed(&self, now: Instant, reason: &str) {
        let mut record = self.lock();
        record.trying = false;
        record.failures = record.failures.saturating_add(1);
        reason.clone_into(&mut record.reason);
        if record.failures >= FAILURES {
            record.rest = (record.rest * 2).clamp(self.first_rest, LONGEST_REST.max(self.first_rest));
            record.until = Some(now + record.rest);
        }
    }

    /// The request ended without telling anything of the server.
    pub fn released(&self) {
        self.lock().trying = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_fails_twice_rests_and_one_request_tries_it() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(breaker.admit(start));
        breaker.failed(start, "no answer");
        assert!(breaker.admit(start), "one failure may be bad luck");
        breaker.failed(start, "no answer");
        assert!(!breaker.admit(after(4)));
        let left = Duration::from_secs(1);
        assert_eq!(breaker.health(after(4)), Health::Rests { left, reason: "no answer".to_owned() });
        assert_eq!(breaker.health(after(5)), Health::Good);
        assert!(breaker.admit(after(5)));
        assert!(!breaker.admit(after(5)), "one tries, the others do not wait");
        assert!(matches!(breaker.health(after(5)), Health::Rests { left, .. } if left.is_zero()));
        breaker.succeeded();
        assert!(breaker.admit(after(5)));
        breaker.failed(after(6), "once");
        assert!(breaker.admit(after(6)), "the earlier failures are forgotten");
    }

    #[test]
    fn rests_grow_to_a_minute_and_a_try_without_outcome_leaves_room_for_the_next() {
        let (breaker, mut now) = (Breaker::default(), Instant::now());
        breaker.failed(now, "a");
        let mut rests = Vec::new();
        for _ in 0..6 {
            breaker.failed(now, "b");
            let Health::Rests { left, .. } = breaker.health(now) else { panic!("does not rest") };
            rests.push(left.as_secs());
            now += left;
            assert!(breaker.admit(now));
        }
        assert_eq!(rests, [5, 10, 20, 40, 60, 60]);
        breaker.released();
        assert!(breaker.admit(now));
    }
}
