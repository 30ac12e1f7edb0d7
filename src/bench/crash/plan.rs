//! What a run does, decided by the seed before it begins: who writes what, and when the service is killed.

use std::time::Duration;

use crate::bench::requests::Row;

/// One in so many acknowledged requests is sent again under its key: nothing may come of it.
const REPEATED: usize = 8;
/// A process that starts is killed within this time, ready or not; a start takes about a second.
const STARTING: Duration = Duration::from_millis(1_500);
/// A process that fills its index anew is killed within this time after it listens.
const INDEXING: Duration = Duration::from_millis(400);
/// A process at work is killed within this time after the progress that the kill waits for.
const WORKING: Duration = Duration::from_millis(80);
/// The same after an event was seen: about as long as the next few writes take.
const AFTER_EVENT: Duration = Duration::from_millis(6);

/// What a customer, or an agent, does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// `POST /v1/tickets`.
    Open,
    /// `POST /v1/tickets/{id}/messages`.
    Write,
    /// Waits for the open draft and approves it.
    Approve,
}

/// One request of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub act: Act,
    /// Idempotency key of a message; the agent's name of an approval.
    pub key: String,
    /// What the customer writes; empty for an approval.
    pub text: String,
    /// Sent once more after it was acknowledged.
    pub again: bool,
}

/// What becomes of one ticket, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    pub customer: Option<String>,
    pub subject: String,
    pub steps: Vec<Step>,
}

/// When a process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Moment {
    /// Counted from the start of the process.
    Starting,
    /// Counted from when it listens, with an index that is filled anew.
    Indexing,
    /// Counted from the progress alone.
    Working,
    /// Counted from the event `decision` of a ticket: its reply goes into the outbox and out.
    Deciding,
    /// Counted from the event `message`: the reply has been told and is not yet marked as sent.
    Sending,
}

/// One SIGKILL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kill {
    pub moment: Moment,
    /// Acknowledged requests that are waited for, while the service is at work.
    pub after: usize,
    /// From the moment to the kill.
    pub delay: Duration,
}

/// Everything that the seed decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub conversations: Vec<Conversation>,
    pub kills: Vec<Kill>,
}

impl Moment {
    pub const ALL: [Self; 5] = [Self::Starting, Self::Indexing, Self::Working, Self::Deciding, Self::Sending];

    /// For the report.
    pub fn words(self) -> &'static str {
        match self {
            Self::Starting => "while it started",
            Self::Indexing => "while it filled its index",
            Self::Working => "at any time of the work",
            Self::Deciding => "after a decision",
            Self::Sending => "after a reply was told",
        }
    }

    fn longest_delay(self) -> Duration {
        match self {
            Self::Starting => STARTING,
            Self::Indexing => INDEXING,
            Self::Working => WORKING,
            Self::Deciding | Self::Sending => AFTER_EVENT,
        }
    }
}

impl Plan {
    /// `requests` requests about `texts` and `kills` kills; the same for the same seed.
    pub fn new(seed: u64, requests: usize, kills: usize, texts: &[Row]) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut conversations = Vec::new();
        let mut left = requests;
        while left > 0 {
            let conversation = conversation(&mut random, conversations.len(), left, texts);
            left -= conversation.steps.len();
            conversations.push(conversation);
        }
        let kills = (0..kills).map(|number| kill(&mut random, number, kills, requests)).collect();
        Self { conversations, kills }
    }
}

fn conversation(random: &mut fastrand::Rng, number: usize, most: usize, texts: &[Row]) -> Conversation {
    use Act::{Approve, Open, Write};
    let acts: &[Act] = match random.u8(0..8) {
        0 | 1 => &[Open],
        2 => &[Open, Write],
        3 | 4 => &[Open, Approve],
        5 => &[Open, Write, Approve],
        6 => &[Open, Approve, Write],
        _ => &[Open, Approve, Write, Approve],
    };
    let row = texts.get(random.usize(..texts.len().max(1)));
    let steps = acts.iter().take(most).enumerate().map(|(position, act)| {
        let text = match act {
            Open => format!("{} ({number})", row.map_or("", |row| row.body.as_str())),
            Write => format!("I have tried that again, it is the same as before ({number}.{position})"),
            Approve => String::new(),
        };
        let again = *act != Approve && random.usize(..REPEATED) == 0;
        Step { act: *act, key: format!("crash-{number}-{position}"), text, again }
    });
    let steps = steps.collect();
    let customer = random.bool().then(|| format!("customer {}", number / 3));
    Conversation { customer, subject: row.map(|row| row.subject.clone()).unwrap_or_default(), steps }
}

/// The kills that wait for progress are spread over the requests, each with some play.
fn kill(random: &mut fastrand::Rng, number: usize, kills: usize, requests: usize) -> Kill {
    let moment = match random.u8(0..10) {
        0 | 1 => Moment::Starting,
        2 => Moment::Indexing,
        3 | 4 => Moment::Deciding,
        5..=7 => Moment::Sending,
        _ => Moment::Working,
    };
    // The last requests are left for the process that is not killed.
    let share = (number as f64 + random.f64()) / (kills as f64 + 1.0);
    let longest = moment.longest_delay().as_micros();
    let delay = Duration::from_micros(random.u64(0..=u64::try_from(longest).unwrap_or(u64::MAX)));
    Kill { moment, after: (share * requests as f64) as usize, delay }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts() -> Vec<Row> {
        let row = |id: &str| Row {
            id: id.to_owned(),
            lang: "en".to_owned(),
            lang_guess: None,
            subject: format!("about {id}"),
            body: format!("it does not work, says {id}"),
            is_solved: None,
        };
        vec![row("a"), row("b"), row("c")]
    }

    #[test]
    fn a_plan_is_its_seed() {
        let plan = Plan::new(7, 500, 60, &texts());
        assert_eq!(plan, Plan::new(7, 500, 60, &texts()));
        assert_ne!(plan, Plan::new(8, 500, 60, &texts()));
    }

    #[test]
    fn a_plan_has_as_many_requests_and_kills_as_asked_for() {
        for (requests, kills) in [(1, 0), (2, 1), (120, 12), (2_000, 200)] {
            let plan = Plan::new(3, requests, kills, &texts());
            assert_eq!(plan.conversations.iter().map(|one| one.steps.len()).sum::<usize>(), requests);
            assert_eq!(plan.kills.len(), kills);
            assert!(plan.kills.windows(2).all(|pair| pair[0].after <= pair[1].after));
            assert!(plan.kills.iter().all(|kill| kill.after < requests), "a kill would wait for ever");
            assert!(plan.conversations.iter().all(|one| one.steps[0].act == Act::Open));
        }
    }

    #[test]
    fn every_moment_and_every_act_is_in_a_long_plan_and_keys_are_used_once() {
        let plan = Plan::new(1, 2_000, 200, &texts());
        for moment in Moment::ALL {
            assert!(plan.kills.iter().any(|kill| kill.moment == moment), "{moment:?}");
        }
        let steps: Vec<&Step> = plan.conversations.iter().flat_map(|one| &one.steps).collect();
        for act in [Act::Open, Act::Write, Act::Approve] {
            assert!(steps.iter().any(|step| step.act == act), "{act:?}");
        }
        let keys: std::collections::HashSet<&str> = steps.iter().map(|step| step.key.as_str()).collect();
        assert_eq!(keys.len(), steps.len());
    }
}
