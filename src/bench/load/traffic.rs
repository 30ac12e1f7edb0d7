//! Messages at their own times, whether or not earlier ones are answered.
//!
//! A client that waits for an answer before it sends the next message asks less while the service is slow, and so hides
//! how long others would have waited ("coordinated omission", G. Tene, 2013). Here arrivals are fixed beforehand, and a
//! message's time counts from its arrival on the schedule, not from when the client got round to sending it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::client::{Answered, Client};
use crate::bench::requests::Row;

/// Health checks a second.
pub const HEALTH_RATE: f64 = 10.0;
/// Chosen once; another seed draws other arrivals.
const SEED: u64 = 20_260_401;
/// Failures told in words; the rest are counted.
const TOLD: usize = 5;

/// When messages arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrivals {
    /// At equal distances.
    Fixed,
    /// Independently of each other (exponential distances), as customers do.
    Poisson,
}

impl Arrivals {
    /// Times of all arrivals within `length` at `rate` a second, ascending.
    pub fn times(self, rate: f64, length: Duration) -> Vec<Duration> {
        let mut draw = fastrand::Rng::with_seed(SEED);
        let mut at = 0.0;
        // Counted rather than summed where the distance is fixed: a sum of rounded distances drifts.
        let next = (0u32..).map(|number| match self {
            Self::Fixed => f64::from(number) / rate,
            Self::Poisson if number == 0 => 0.0,
            Self::Poisson => {
                at -= (1.0 - draw.f64()).ln() / rate;
                at
            }
        });
        next.take_while(|at| *at < length.as_secs_f64()).map(Duration::from_secs_f64).collect()
    }
}

/// What a client got.
#[derive(Debug, Default)]
pub struct Seen {
    /// Milliseconds from the arrival on the schedule to the whole answer, sorted.
    pub times_ms: Vec<f32>,
    /// Answers without any evidence.
    pub bare: usize,
    /// Answers that say a stage failed.
    pub degraded: usize,
    pub failed: usize,
    /// The first failures in words.
    pub failures: Vec<String>,
}

impl Seen {
    fn add(&mut self, result: Result<Answered>, waited: Duration) {
        match result {
            Ok(answered) => {
                self.times_ms.push(waited.as_secs_f32() * 1_000.0);
                self.bare += usize::from(answered.evidence == 0);
                self.degraded += usize::from(answered.degraded);
            }
            Err(error) => {
                self.failed += 1;
                if self.failures.len() < TOLD {
                    self.failures.push(format!("{error:#}"));
                }
            }
        }
    }
}

/// Does `work` at each of the times, each in a thread of its own so that none waits for another. `progress` hears how
/// many have been sent.
pub fn open_loop(
    times: &[Duration],
    work: impl Fn(usize) -> Result<Answered> + Sync,
    progress: impl Fn(usize),
) -> Seen {
    let seen = Mutex::new(Seen::default());
    let began = Instant::now();
    std::thread::scope(|scope| {
        for (number, at) in times.iter().enumerate() {
            let due = began + *at;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let (seen, work) = (&seen, &work);
            scope.spawn(move || {
                let result = work(number);
                let waited = due.elapsed();
                seen.lock().unwrap_or_else(PoisonError::into_inner).add(result, waited);
            });
            progress(number + 1);
        }
    });
    let mut seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    seen.times_ms.sort_by(f32::total_cmp);
    seen
}

/// Replies that were written while something else was measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    pub replies: usize,
    /// Those that came to the event they were followed to; up to `token`: those the language model wrote text for.
    pub generated: usize,
}

/// Keeps the language model at work until `stop`: so many tickets are always open, each followed to its event `until`, or
/// to its decision where that comes first.
pub fn keep_writing(client: &Client, rows: &[Row], at_once: usize, until: &str, stop: &AtomicBool) -> Written {
    let (next, replies, generated) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let row = &rows[next.fetch_add(1, Ordering::Relaxed) % rows.len()];
                    match client.ticket(row, until) {
                        Ok((_, reached)) => {
                            generated.fetch_add(usize::from(reached.is_some()), Ordering::Relaxed);
                            replies.fetch_add(1, Ordering::Relaxed);
                        }
                        // Not what is measured here; a pause keeps a refusing service from being flooded.
                        Err(_) => std::thread::sleep(Duration::from_millis(200)),
                    }
                }
            });
        }
    });
    Written { replies: replies.into_inner(), generated: generated.into_inner() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_keep_their_rate() {
        let length = Duration::from_secs(600);
        let fixed = Arrivals::Fixed.times(5.0, length);
        assert_eq!(fixed.len(), 3_000);
        assert_eq!(fixed[1], Duration::from_millis(200));
        let poisson = Arrivals::Poisson.times(5.0, length);
        // Three standard deviations of a Poisson count of 3,000.
        assert!((2_836..=3_164).contains(&poisson.len()), "{}", poisson.len());
        assert!(poisson.windows(2).all(|pair| pair[0] <= pair[1]));
        let gaps: Vec<f64> = poisson.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        let longer = gaps.iter().filter(|gap| **gap > 0.2).count() as f64 / gaps.len() as f64;
        assert!((longer - (-1.0f64).exp()).abs() < 0.05, "{longer}");
    }

    #[test]
    fn waiting_counts_from_the_schedule() {
        // One at a time, 50 ms each, asked for every 10 ms: a client that waited would see 50 ms everywhere.
        let desk = Mutex::new(());
        let work = |_| {
            let _turn = desk.lock().expect("no panic");
            std::thread::sleep(Duration::from_millis(50));
            Ok(Answered { evidence: 1, degraded: false })
        };
        let times = Arrivals::Fixed.times(100.0, Duration::from_millis(100));
        let seen = open_loop(&times, work, |_| {});
        assert_eq!((seen.times_ms.len(), seen.failed), (10, 0));
        assert!(seen.times_ms[0] >= 50.0 && seen.times_ms[9] >= 10.0 * 50.0 - 90.0, "{:?}", seen.times_ms);
    }

    #[test]
    fn failures_are_counted_and_told() {
        let work = |number| match number {
            0 => Ok(Answered { evidence: 0, degraded: true }),
            _ => anyhow::bail!("refused"),
        };
        let seen = open_loop(&[Duration::ZERO; 8], work, |_| {});
        assert_eq!((seen.times_ms.len(), seen.bare, seen.degraded, seen.failed), (1, 1, 1, 7));
        assert_eq!(seen.failures.len(), TOLD);
    }
}
