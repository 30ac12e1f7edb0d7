//! What waits and what is in work, and what is to be done next.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;
use uuid::Uuid;

use super::admission::Admission;
use super::line::Line;
use crate::ticket::Urgency;

/// Tasks that tell customers at the same time that their reply takes longer. While that many and more wait to be told, they
/// are told together, by the words of their messages alone.
const TELLERS: usize = 4;
/// Customers who are told together: their transaction keeps others waiting for a tenth of a second.
const TOLD_TOGETHER: usize = 64;

/// All tickets that wait or are in work.
pub(super) struct Busy {
    pub line: Line,
    pub admission: Admission,
    /// Tickets whose customers are to be told that the reply takes longer.
    pub late: VecDeque<Uuid>,
    /// Tasks that tell them.
    pub tellers: usize,
    /// Those who are being told.
    pub telling: usize,
    /// Tasks that work on tickets.
    pub running: usize,
    /// Tickets in work or late, with what breaks the drafting of a reply off. A second message for one marks it to be
    /// worked on again.
    pub working: HashMap<Uuid, Arc<Notify>>,
    pub again: HashSet<Uuid>,
    /// Tickets whose customer may still be writing: since when and until when they are left alone.
    pub quiet: HashMap<Uuid, (Instant, Instant)>,
}

/// Tickets by what they wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// In line for their reply.
    pub fresh: usize,
    /// Their customers are about to be told that it takes longer.
    pub late: usize,
    /// Put aside until there is room.
    pub deferred: usize,
    /// In work.
    pub working: usize,
}

impl Waiting {
    /// Whatever they wait for.
    pub fn all(&self) -> usize {
        self.fresh + self.late + self.deferred + self.working
    }
}

/// What is to be done next.
#[derive(Debug)]
pub(super) enum Task {
    Work { ticket: Uuid, stop: Arc<Notify>, was_deferred: bool },
    Tell { tickets: Vec<Uuid> },
}

impl Busy {
    pub fn new(admission: Admission) -> Self {
        Self {
            line: Line::default(),
            admission,
            late: VecDeque::new(),
            tellers: 0,
            telling: 0,
            running: 0,
            working: HashMap::new(),
            again: HashSet::new(),
            quiet: HashMap::new(),
        }
    }

    /// True for a ticket in line or in work.
    pub fn knows(&self, ticket: Uuid) -> bool {
        self.working.contains_key(&ticket) || self.line.contains(ticket)
    }

    /// Puts a ticket in line; one that would stand too far back is late at once.
    pub fn join(&mut self, ticket: Uuid) {
        let is_new = !self.line.contains(ticket);
        self.line.push(ticket);
        if is_new && self.running.saturating_add(self.line.fresh()) > self.admission.room_for_newcomers() {
            self.last_is_late();
        }
    }

    fn last_is_late(&mut self) -> bool {
        let Some(ticket) = self.line.pop_last() else { return false };
        self.working.insert(ticket, Arc::default());
        self.late.push_back(ticket);
        true
    }

    pub fn waiting(&self) -> Waiting {
        Waiting {
            fresh: self.line.fresh(),
            late: self.late.len() + self.telling,
            deferred: self.line.deferred(),
            working: self.running,
        }
    }

    /// The next thing to do. Those who stand too far back to get their reply in time leave the line first.
    pub fn next_task(&mut self, slots: usize, concurrency: usize) -> Option<Task> {
        let room = self.admission.room();
        let told_before = self.late.len();
        while self.running.saturating_add(self.line.fresh()) > room && self.last_is_late() {}
        // The line is cut from its end: who came first is told first.
        self.late.make_contiguous()[told_before..].reverse();
        if let Some(task) = self.next_to_tell() {
            return Some(task);
        }
        if self.running >= slots {
            return None;
        }
        let (ticket, was_deferred) = self.line.next(self.running < concurrency)?;
        let stop = Arc::new(Notify::new());
        self.working.insert(ticket, Arc::clone(&stop));
        self.running += 1;
        Some(Task::Work { ticket, stop, was_deferred })
    }

    fn next_to_tell(&mut self) -> Option<Task> {
        if self.tellers >= TELLERS || self.late.is_empty() {
            return None;
        }
        let together = if self.late.len() > TELLERS { self.late.len().min(TOLD_TOGETHER) } else { 1 };
        let tickets: Vec<Uuid> = self.late.drain(..together).collect();
        self.tellers += 1;
        self.telling += tickets.len();
        Some(Task::Tell { tickets })
    }

    /// The customer was told, or there was nothing to tell: by `urgency` the ticket waits until there is room.
    pub fn told(&mut self, ticket: Uuid, urgency: Option<Urgency>) {
        self.telling -= 1;
        self.working.remove(&ticket);
        match (self.again.remove(&ticket), urgency) {
            (true, _) => self.line.push(ticket),
            (false, Some(urgency)) => self.line.defer(ticket, urgency),
            (false, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn busy(drafting_s: u64) -> Busy {
        let mut admission = Admission::warm(2, Duration::from_secs(10));
        admission.finished(Instant::now(), Duration::from_secs(drafting_s), false);
        Busy::new(admission)
    }

    fn tasks(busy: &mut Busy) -> (Vec<Uuid>, Vec<Vec<Uuid>>) {
        let (mut worked, mut told) = (Vec::new(), Vec::new());
        while let Some(task) = busy.next_task(64, 2) {
            match task {
                Task::Work { ticket, .. } => worked.push(ticket),
                Task::Tell { tickets } => told.push(tickets),
            }
        }
        (worked, told)
    }

    #[test]
    fn who_stands_too_far_back_is_told_and_worked_on_when_there_is_room() {
        let id: Vec<Uuid> = (1..=20).map(Uuid::from_u128).collect();
        // Two desks of 4 s: four replies stand within 10 s.
        let mut busy = busy(4);
        id.iter().for_each(|ticket| busy.line.push(*ticket));
        let (worked, told) = tasks(&mut busy);
        assert_eq!(worked, id[..4]);
        assert_eq!(told, [&id[4..]], "together, in the order in which they came");
        assert_eq!(busy.waiting(), Waiting { fresh: 0, late: 16, deferred: 0, working: 4 });
        assert!(busy.knows(id[0]) && busy.knows(id[10]));

        // Told: the second is the most urgent; the third has written again; nothing is left to do for the fourth.
        busy.again.insert(id[6]);
        busy.told(id[4], Some(Urgency::Low));
        busy.told(id[5], Some(Urgency::Critical));
        busy.told(id[6], Some(Urgency::Low));
        busy.told(id[7], None);
        assert_eq!(busy.waiting().all(), 4 + 12 + 2 + 1);
        let (worked, told) = tasks(&mut busy);
        assert_eq!(worked, [id[5]], "critical ones do not wait for room");
        assert_eq!(told, [[id[6]]], "who has written again is told again");
        assert!(!busy.knows(id[7]));
    }

    #[test]
    fn who_joins_a_long_line_is_told_at_once_and_who_stands_in_it_may_stay() {
        let id: Vec<Uuid> = (1..=6).map(Uuid::from_u128).collect();
        // Two desks of 4 s: four replies stand within 10 s, and two within seven.
        let mut busy = busy(4);
        id.iter().for_each(|ticket| busy.join(*ticket));
        let (worked, told) = tasks(&mut busy);
        assert_eq!(worked, id[..2]);
        assert_eq!(told.concat(), id[2..]);
        // Four more were in line before the replies got slow: two of them can stay.
        let id: Vec<Uuid> = (7..=10).map(Uuid::from_u128).collect();
        id.iter().for_each(|ticket| busy.line.push(*ticket));
        busy.tellers = 0;
        let (_, told) = tasks(&mut busy);
        assert_eq!((busy.line.fresh() + busy.running, told.concat()), (4, id[2..].to_vec()));
    }

    #[test]
    fn those_put_aside_wait_until_a_desk_is_free() {
        let id: Vec<Uuid> = (1..=3).map(Uuid::from_u128).collect();
        let mut busy = busy(4);
        id.iter().for_each(|ticket| busy.line.defer(*ticket, Urgency::Normal));
        assert_eq!(tasks(&mut busy).0, id[..2]);
        busy.running -= 1;
        assert_eq!(tasks(&mut busy).0, id[2..]);
    }

    #[test]
    fn a_few_are_told_one_by_one_and_many_together() {
        let mut busy = busy(9);
        let id: Vec<Uuid> = (1..=400).map(Uuid::from_u128).collect();
        id[..5].iter().for_each(|ticket| busy.line.push(*ticket));
        let (worked, told) = tasks(&mut busy);
        assert_eq!((worked.len(), told), (2, vec![vec![id[2]], vec![id[3]], vec![id[4]]]));

        id[5..].iter().for_each(|ticket| busy.line.push(*ticket));
        let (_, told) = tasks(&mut busy);
        assert_eq!(told, [&id[5..5 + TOLD_TOGETHER]], "one more task tells, and others wait for it");
        busy.tellers -= 1;
        let (_, told) = tasks(&mut busy);
        assert_eq!(told, [&id[5 + TOLD_TOGETHER..5 + 2 * TOLD_TOGETHER]]);
    }
}
