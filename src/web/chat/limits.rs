//! How much of the chat one client may use: the chat is open to everybody, and the disk and the machine are shared.

use std::time::{Duration, Instant};

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::http::client::Client;
use crate::http::limits::{Buckets, Rate, whole_seconds};
use crate::settings::Chat;
use crate::web::texts::Texts;

const MEGABYTE: u64 = 1 << 20;
/// Clients remembered at most; when there are more, those are forgotten that have used least.
const MOST_CLIENTS: usize = 20_000;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    Messages,
    Conversations,
    /// Bytes of files.
    Files,
}

const BUDGETS: usize = 3;

/// More than a client may use at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    pub budget: Budget,
    /// Until then it is refused again.
    pub wait: Duration,
}

/// A bucket per client and budget.
pub struct Limits {
    rates: [Rate; BUDGETS],
    buckets: Buckets<Client, BUDGETS>,
}

impl Limits {
    /// Full buckets of the sizes in the settings.
    pub fn new(settings: &Chat) -> Self {
        let rates = [
            Rate::per_minute(settings.messages_per_minute.into()),
            Rate::per_hour(settings.conversations_per_hour.into()),
            Rate::per_hour(u64::from(settings.files_megabytes_per_hour) * MEGABYTE),
        ];
        Self { rates, buckets: Buckets::new(MOST_CLIENTS) }
    }

    /// Takes all costs out of the client's buckets, or none.
    ///
    /// # Errors
    /// The first bucket that does not hold its cost.
    pub fn spend(&self, client: Client, costs: &[(Budget, u64)]) -> Result<(), Exceeded> {
        self.spend_at(Instant::now(), client, costs)
    }

    fn spend_at(&self, now: Instant, client: Client, costs: &[(Budget, u64)]) -> Result<(), Exceeded> {
        let priced: Vec<_> = costs.iter().map(|(b, cost)| (*b as usize, self.rates[*b as usize], *cost)).collect();
        let spent = self.buckets.spend_at(now, client, &priced);
        spent.map_err(|exceeded| Exceeded { budget: costs[exceeded.cost].0, wait: exceeded.wait })
    }
}

/// Why a message is not taken, in words for the customer.
pub struct Refusal {
    pub text: String,
    /// Seconds after which it may be sent again; None where it will not do as it is.
    wait: Option<u64>,
}

impl Refusal {
    /// The message itself will not do.
    pub fn unfit(text: impl Into<String>) -> Self {
        Self { text: text.into(), wait: None }
    }

    /// The client has to wait.
    pub fn exceeded(exceeded: Exceeded, t: &Texts) -> Self {
        let text = match exceeded.budget {
            Budget::Messages => t.chat_many_messages,
            Budget::Conversations => t.chat_many_conversations,
            Budget::Files => t.chat_many_files,
        };
        Self::wait(text, exceeded.wait, t)
    }

    /// Too much waits already, whoever it is from.
    pub fn busy(wait: Duration, t: &Texts) -> Self {
        Self::wait(t.chat_busy, wait, t)
    }

    /// `text` with the time to wait in place of `{time}`.
    fn wait(text: &str, wait: Duration, t: &Texts) -> Self {
        let seconds = whole_seconds(wait);
        let time = match seconds {
            ..60 => format!("{seconds} s"),
            _ => format!("{} {}", seconds.div_ceil(60), t.span_minutes),
        };
        Self { text: text.replace("{time}", &time), wait: Some(seconds) }
    }

    /// The answer, with `shown` as its body.
    pub fn answer(&self, shown: impl IntoResponse) -> Response {
        match self.wait {
            None => (StatusCode::UNPROCESSABLE_ENTITY, shown).into_response(),
            Some(seconds) => {
                (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, seconds.to_string())], shown).into_response()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::web::texts::{EN, ES};

    fn limits(messages: u32, conversations: u32, megabytes: u32) -> Limits {
        Limits::new(&Chat {
            sites: Vec::new(),
            links: false,
            queues: Vec::new(),
            messages_per_minute: messages,
            conversations_per_hour: conversations,
            files_megabytes_per_hour: megabytes,
        })
    }

    fn client(number: u32) -> Client {
        IpAddr::V4(Ipv4Addr::from(number)).into()
    }

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3_600);
    const MESSAGE: &[(Budget, u64)] = &[(Budget::Messages, 1)];

    #[test]
    fn a_full_bucket_is_a_burst_and_fills_evenly() {
        let now = Instant::now();
        // Eleven does not divide a minute.
        for size in [10, 11] {
            let limits = limits(size, 0, 0);
            for number in 0..size {
                assert_eq!(limits.spend_at(now, client(1), MESSAGE), Ok(()), "{number} of {size}");
            }
            let exceeded = limits.spend_at(now, client(1), MESSAGE).expect_err("empty");
            assert_eq!(exceeded.budget, Budget::Messages);
            let step = Duration::from_secs(60) / size;
            assert!(exceeded.wait.abs_diff(step) < Duration::from_micros(1), "{:?}", exceeded.wait);
            assert_eq!(limits.spend_at(now, client(2), MESSAGE), Ok(()));
            // A refusal costs nothing.
            assert_eq!(limits.spend_at(now + exceeded.wait, client(1), MESSAGE), Ok(()));
            assert!(limits.spend_at(now + exceeded.wait, client(1), MESSAGE).is_err());
        }
    }

    #[test]
    fn costs_are_taken_together_or_not_at_all() {
        let now = Instant::now();
        let limits = limits(0, 1, 10);
        let costs = [(Budget::Conversations, 1), (Budget::Files, 4 * MEGABYTE)];
        assert_eq!(limits.spend_at(now, client(1), &costs), Ok(()));
        let exceeded = limits.spend_at(now, client(1), &[costs[1], costs[0]]).expect_err("one conversation an hour");
        assert_eq!(exceeded, Exceeded { budget: Budget::Conversations, wait: HOUR });
        assert_eq!(limits.spend_at(now, client(1), &[(Budget::Files, 6 * MEGABYTE)]), Ok(()));
        assert!(limits.spend_at(now, client(1), &[(Budget::Files, MEGABYTE)]).is_err());
    }

    #[test]
    fn what_is_larger_than_the_bucket_takes_all_of_it() {
        let now = Instant::now();
        let limits = limits(0, 0, 1);
        assert_eq!(limits.spend_at(now, client(1), &[(Budget::Files, 5 * MEGABYTE)]), Ok(()));
        assert!(limits.spend_at(now, client(1), &[(Budget::Files, 1 << 10)]).is_err());
        assert_eq!(limits.spend_at(now + HOUR, client(1), &[(Budget::Files, 5 * MEGABYTE)]), Ok(()));
    }

    #[test]
    fn zero_is_no_limit_and_nothing_is_remembered() {
        let now = Instant::now();
        let limits = limits(0, 0, 0);
        let costs = [(Budget::Messages, 1), (Budget::Conversations, 1), (Budget::Files, u64::MAX)];
        for _ in 0..1_000 {
            assert_eq!(limits.spend_at(now, client(1), &costs), Ok(()));
        }
        assert_eq!(limits.buckets.kept(), 0);
    }

    #[test]
    fn those_who_used_least_are_forgotten_first() {
        let now = Instant::now();
        let limits = Limits { buckets: Buckets::new(8), ..limits(2, 0, 0) };
        for _ in 0..2 {
            assert_eq!(limits.spend_at(now, client(0), MESSAGE), Ok(()));
        }
        for number in 1..1_000 {
            assert_eq!(limits.spend_at(now, client(number), MESSAGE), Ok(()));
            assert!(limits.buckets.kept() <= 8);
        }
        assert!(limits.spend_at(now, client(0), MESSAGE).is_err(), "who used most is still known");
    }

    #[test]
    fn a_refusal_says_when_to_come_back() {
        let refusal = |budget, wait, t| Refusal::exceeded(Exceeded { budget, wait }, t);
        let soon = refusal(Budget::Messages, Duration::from_millis(5_100), &EN);
        assert_eq!((soon.wait, soon.text.contains("6 s")), (Some(6), true), "{}", soon.text);
        let later = refusal(Budget::Files, Duration::from_secs(61), &ES);
        assert_eq!((later.wait, later.text.contains("2 min")), (Some(61), true), "{}", later.text);
        assert_eq!(later.answer("x").status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(Refusal::unfit("x").answer("x").status(), StatusCode::UNPROCESSABLE_ENTITY);
    }

    proptest! {
        /// Over any stretch of time nobody gets more than a full bucket and what flows in meanwhile, a refusal costs nothing, and
        /// who waits as long as told is let in.
        #[test]
        fn no_client_gets_more_than_its_rate(
            size in 1..40_u32,
            steps in proptest::collection::vec((0..20_000_u64, 1..5_u64), 1..120),
        ) {
            let limits = limits(size, 0, 0);
            let start = Instant::now();
            let (mut now, mut spent) = (start, 0_u64);
            for (milliseconds, cost) in steps {
                now += Duration::from_millis(milliseconds);
                let costs = [(Budget::Messages, cost)];
                match limits.spend_at(now, client(1), &costs) {
                    Ok(()) => spent += cost.min(size.into()),
                    Err(exceeded) => {
                        prop_assert!(!exceeded.wait.is_zero() && exceeded.wait <= MINUTE);
                        now += exceeded.wait;
                        prop_assert_eq!(limits.spend_at(now, client(1), &costs), Ok(()));
                        spent += cost.min(size.into());
                    }
                }
                let flowed_in = now.duration_since(start).as_secs_f64() / MINUTE.as_secs_f64() * f64::from(size);
                prop_assert!(spent as f64 <= f64::from(size) + flowed_in + 0.01, "{} spent", spent);
            }
        }
    }
}
