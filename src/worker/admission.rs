//! What the last replies say about how long what waits will take. Pure arithmetic: the time comes from the caller.

use std::time::{Duration, Instant};

/// Share of the latest measurement in a running mean: the last ten or so count.
const WEIGHT: f64 = 0.2;
/// Share of the deadline that is given away to newcomers. The estimates move by that much within seconds; without it,
/// somebody who was let in would be told seconds later that it takes longer after all.
const FOR_NEWCOMERS: f64 = 0.7;
/// Replies that are not measured: the first ones pay for what is built at first use.
const FIRST_REPLIES: u32 = 4;
/// Shortest and longest time after which somebody who was refused is asked back, seconds.
const ASKED_BACK_S: (f64, f64) = (1.0, 600.0);
/// Seconds a ticket takes, where none is known yet, for who is refused.
const ASSUMED_S: f64 = 1.0;

/// Estimates when a reply would stand, and so who can still get one in time.
#[derive(Debug)]
pub struct Admission {
    /// Tickets whose replies are drafted at the same time.
    desks: usize,
    deadline: Duration,
    /// Seconds a reply holds its desk.
    drafting: Option<f64>,
    /// Seconds from one finished ticket to the next while more wait: also what is done before drafting counts here.
    interval: Option<f64>,
    /// When the last ticket was finished, if others waited then.
    last: Option<Instant>,
    /// Replies that are still not measured.
    unmeasured: u32,
}

impl Admission {
    pub fn new(desks: usize, deadline: Duration) -> Self {
        let desks = desks.max(1);
        Self { desks, deadline, drafting: None, interval: None, last: None, unmeasured: FIRST_REPLIES }
    }

    /// One that has its first replies behind it.
    #[cfg(test)]
    pub fn warm(desks: usize, deadline: Duration) -> Self {
        Self { unmeasured: 0, ..Self::new(desks, deadline) }
    }

    /// A reply stands, `drafting` after it was begun; `others_wait` while there is more to do.
    pub fn finished(&mut self, now: Instant, drafting: Duration, others_wait: bool) {
        if self.unmeasured > 0 {
            self.unmeasured -= 1;
            return;
        }
        smooth(&mut self.drafting, drafting.as_secs_f64());
        if let Some(last) = self.last {
            smooth(&mut self.interval, now.saturating_duration_since(last).as_secs_f64());
        }
        self.last = others_wait.then_some(now);
    }

    /// Seconds that each waiting ticket adds to the wait of those behind it; None before the first reply.
    pub fn seconds_each(&self) -> Option<f64> {
        let by_desks = self.drafting? / self.desks as f64;
        Some(self.interval.map_or(by_desks, |interval| interval.max(by_desks)))
    }

    /// How many tickets there may be, in line and in work, so that the last one's reply still stands by the deadline. Who
    /// finds a desk free is never too late. No limit before the first reply.
    pub fn room(&self) -> usize {
        self.room_within(self.deadline.as_secs_f64())
    }

    /// The same with some time to spare: how many there may be when somebody else has joined them.
    pub fn room_for_newcomers(&self) -> usize {
        self.room_within(self.deadline.as_secs_f64() * FOR_NEWCOMERS)
    }

    fn room_within(&self, seconds: f64) -> usize {
        let (Some(each), Some(drafting)) = (self.seconds_each(), self.drafting) else { return usize::MAX };
        let spare = (seconds - drafting).max(0.0);
        // A cast of more than fits gives the greatest number.
        let before = (spare / each.max(1e-6)).floor() as usize;
        before.saturating_add(1).max(self.desks)
    }

    /// When somebody who is refused may try again: when a tenth of what waits is done.
    pub fn asked_back_in(&self, waiting: usize) -> Duration {
        let seconds = self.seconds_each().unwrap_or(ASSUMED_S) * (waiting / 10).max(1) as f64;
        Duration::from_secs_f64(seconds.clamp(ASKED_BACK_S.0, ASKED_BACK_S.1).ceil())
    }
}

fn smooth(mean: &mut Option<f64>, latest: f64) {
    *mean = Some(mean.map_or(latest, |mean| mean + WEIGHT * (latest - mean)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: f64) -> Duration {
        Duration::from_secs_f64(count)
    }

    #[test]
    fn without_a_measurement_nobody_is_turned_away() {
        let admission = Admission::warm(2, seconds(10.0));
        assert_eq!((admission.room(), admission.seconds_each()), (usize::MAX, None));
        assert_eq!(admission.asked_back_in(5_000), seconds(500.0));
    }

    #[test]
    fn room_is_what_can_be_drafted_before_the_deadline() {
        let now = Instant::now();
        for (drafting, desks, room) in [
            // Two desks of 4 s each: one more every 2 s, and 6 s to spare.
            (4.0, 2, 4),
            (4.0, 1, 2),
            (1.0, 1, 10),
            // Whoever finds a desk free is drafted for, however long it takes.
            (9.5, 2, 2),
            (30.0, 2, 2),
        ] {
            let mut admission = Admission::warm(desks, seconds(10.0));
            admission.finished(now, seconds(drafting), false);
            assert_eq!(admission.room(), room, "{drafting} s at {desks} desks");
            assert!((desks..=room).contains(&admission.room_for_newcomers()), "{drafting} s at {desks} desks");
        }
    }

    #[test]
    fn what_happens_before_drafting_counts_where_it_takes_longer() {
        let mut admission = Admission::warm(2, seconds(10.0));
        let mut now = Instant::now();
        for _ in 0..50 {
            admission.finished(now, seconds(0.02), true);
            now += seconds(0.1);
        }
        assert!(admission.seconds_each().is_some_and(|each| (each - 0.1).abs() < 0.001), "{admission:?}");
        assert!((98..=101).contains(&admission.room()), "{}", admission.room());
        assert!((50..=51).contains(&admission.asked_back_in(5_000).as_secs()), "{admission:?}");
    }

    #[test]
    fn the_first_replies_are_not_measured() {
        let mut admission = Admission::new(1, seconds(10.0));
        let now = Instant::now();
        for _ in 0..FIRST_REPLIES {
            admission.finished(now, seconds(9.0), true);
        }
        assert_eq!(admission.room(), usize::MAX);
        admission.finished(now + seconds(60.0), seconds(1.0), true);
        assert_eq!((admission.seconds_each(), admission.room()), (Some(1.0), 10));
        assert_eq!(admission.room_for_newcomers(), 7);
    }

    #[test]
    fn a_pause_without_work_is_no_measurement() {
        let mut admission = Admission::warm(1, seconds(10.0));
        let now = Instant::now();
        admission.finished(now, seconds(2.0), false);
        admission.finished(now + seconds(3_600.0), seconds(2.0), false);
        assert_eq!(admission.seconds_each(), Some(2.0));
    }

    #[test]
    fn what_gets_faster_makes_room_again() {
        let mut admission = Admission::warm(1, seconds(10.0));
        let now = Instant::now();
        admission.finished(now, seconds(9.0), false);
        let before = admission.room();
        for _ in 0..20 {
            admission.finished(now, seconds(0.5), false);
        }
        assert!(before == 1 && admission.room() > 10, "{before} {}", admission.room());
    }

    #[test]
    fn times_to_come_back_stay_within_reason() {
        let mut admission = Admission::warm(4, seconds(10.0));
        admission.finished(Instant::now(), seconds(0.001), false);
        assert_eq!(admission.asked_back_in(1), seconds(1.0));
        admission.finished(Instant::now(), seconds(100_000.0), false);
        assert_eq!(admission.asked_back_in(5_000), seconds(600.0));
    }
}
