//! How much somebody may do in a time: token buckets, in memory. A restart forgets them.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A bucket's size, and the time in which an empty one fills.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// 0: no limit.
    amount: u64,
    period: Duration,
}

impl Rate {
    /// 0 for no limit.
    pub fn per_minute(amount: u64) -> Self {
        Self { amount, period: Duration::from_secs(60) }
    }

    /// 0 for no limit.
    pub fn per_hour(amount: u64) -> Self {
        Self { amount, period: Duration::from_secs(3_600) }
    }

    /// The time in which the bucket wins back `cost`. What is more than it holds takes all of it.
    fn time_for(self, cost: u64) -> Duration {
        if self.amount == 0 {
            return Duration::ZERO;
        }
        // Rounded down, so that the whole amount is never more than the period.
        let nanos = self.period.as_nanos() * u128::from(cost.min(self.amount)) / u128::from(self.amount);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// What is taken out of a bucket: its number, its rate, and how much.
pub type Cost = (usize, Rate, u64);

/// More than there is at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// The first of the costs, counted from 0, that its bucket does not hold.
    pub cost: usize,
    /// Until then it is refused again.
    pub wait: Duration,
}

/// `N` buckets for each of those who are told apart by `K`.
pub struct Buckets<K, const N: usize> {
    /// A bucket is kept as the time at which it is full again.
    full_at: Mutex<HashMap<K, [Instant; N]>>,
    most: usize,
}

impl<K: Copy + Eq + Hash, const N: usize> Buckets<K, N> {
    /// Full ones. At most so many are remembered; when there are more, those are forgotten that have used least.
    pub fn new(most: usize) -> Self {
        Self { full_at: Mutex::default(), most }
    }

    /// Takes all costs out of the buckets, or none.
    ///
    /// # Errors
    /// The first cost that its bucket does not hold.
    pub fn spend(&self, who: K, costs: &[Cost]) -> Result<(), Exceeded> {
        self.spend_at(Instant::now(), who, costs)
    }

    /// [`Buckets::spend`] at a moment.
    ///
    /// # Errors
    /// The same.
    pub fn spend_at(&self, now: Instant, who: K, costs: &[Cost]) -> Result<(), Exceeded> {
        let mut all = self.lock();
        let full_at = after(all.get(&who), now, costs)?;
        if full_at.iter().all(|at| *at <= now) {
            return Ok(());
        }
        if all.len() >= self.most && !all.contains_key(&who) {
            self.forget(&mut all, now);
        }
        all.insert(who, full_at);
        Ok(())
    }

    /// What [`Buckets::spend`] would say now; nothing is taken.
    ///
    /// # Errors
    /// The same.
    pub fn check(&self, who: K, costs: &[Cost]) -> Result<(), Exceeded> {
        after(self.lock().get(&who), Instant::now(), costs)?;
        Ok(())
    }

    /// Makes room: full buckets need not be kept, and where that is not enough, the fuller half goes too.
    fn forget(&self, all: &mut HashMap<K, [Instant; N]>, now: Instant) {
        let last = |full_at: &[Instant; N]| full_at.iter().max().copied().unwrap_or(now);
        all.retain(|_, full_at| last(full_at) > now);
        if all.len() < self.most {
            return;
        }
        let mut times: Vec<Instant> = all.values().map(last).collect();
        let middle = times.len() / 2;
        let (_, median, _) = times.select_nth_unstable(middle);
        let median = *median;
        all.retain(|_, full_at| last(full_at) > median);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, [Instant; N]>> {
        self.full_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of how many something is remembered.
    #[cfg(test)]
    pub fn kept(&self) -> usize {
        self.lock().len()
    }
}

/// The buckets after the costs were taken out.
fn after<const N: usize>(
    before: Option<&[Instant; N]>,
    now: Instant,
    costs: &[Cost],
) -> Result<[Instant; N], Exceeded> {
    let mut full_at = before.copied().unwrap_or([now; N]);
    for (cost, (bucket, rate, amount)) in costs.iter().enumerate() {
        let time = rate.time_for(*amount);
        if time.is_zero() {
            continue;
        }
        let bucket = &mut full_at[*bucket];
        *bucket = now.max(*bucket) + time;
        let wait = bucket.saturating_duration_since(now + rate.period);
        if !wait.is_zero() {
            return Err(Exceeded { cost, wait });
        }
    }
    Ok(full_at)
}

/// Seconds of a wait as Retry-After has them: rounded up.
pub fn whole_seconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos().div_ceil(1_000_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_takes_nothing_and_says_what_spending_would() {
        let buckets = Buckets::<u8, 1>::new(10);
        let cost = [(0, Rate::per_hour(1), 1)];
        for _ in 0..3 {
            assert_eq!(buckets.check(1, &cost), Ok(()));
        }
        assert_eq!(buckets.spend(1, &cost), Ok(()));
        assert!(buckets.check(1, &cost).is_err_and(|exceeded| exceeded.cost == 0));
        assert_eq!(buckets.check(2, &cost), Ok(()));
    }

    #[test]
    fn waits_are_rounded_up_to_seconds() {
        let waits = [0, 1, 1_000, 1_001].map(|ms| whole_seconds(Duration::from_millis(ms)));
        assert_eq!(waits, [0, 1, 1, 2]);
    }
}
