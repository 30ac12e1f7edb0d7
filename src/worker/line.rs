//! Tickets that wait to be worked on, by their ids only.

use std::collections::{BTreeMap, HashMap, VecDeque};

use uuid::Uuid;

use crate::ticket::{Class, Urgency};

/// Urgency, then arrival.
type Rank = (usize, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Fresh,
    Deferred(Rank),
}

/// The line: those who can still get their reply in time, in the order in which they came, and those who were told that
/// theirs takes longer, by urgency.
#[derive(Debug, Default)]
pub struct Line {
    fresh: VecDeque<Uuid>,
    deferred: BTreeMap<Rank, Uuid>,
    places: HashMap<Uuid, Place>,
    arrivals: u64,
}

impl Line {
    /// Puts a ticket at the end; one that was deferred has something new to say and joins the others.
    pub fn push(&mut self, ticket: Uuid) {
        match self.places.insert(ticket, Place::Fresh) {
            Some(Place::Fresh) => return,
            Some(Place::Deferred(rank)) => drop(self.deferred.remove(&rank)),
            None => {}
        }
        self.fresh.push_back(ticket);
    }

    /// Puts a ticket aside until there is room, the urgent ones first; one that is in line already stays where it is.
    pub fn defer(&mut self, ticket: Uuid, urgency: Urgency) {
        if self.contains(ticket) {
            return;
        }
        self.arrivals += 1;
        let rank = (urgency.index(), self.arrivals);
        self.deferred.insert(rank, ticket);
        self.places.insert(ticket, Place::Deferred(rank));
    }

    /// The next one, and whether it was deferred: critical ones come before all others, the rest of the deferred only
    /// where there is `room`.
    pub fn next(&mut self, room: bool) -> Option<(Uuid, bool)> {
        let is_critical =
            self.deferred.first_key_value().is_some_and(|((urgency, _), _)| *urgency == Urgency::Critical.index());
        let fresh = if is_critical { None } else { self.fresh.pop_front() };
        let next = match fresh {
            Some(ticket) => (ticket, false),
            None if is_critical || room => (self.deferred.pop_first()?.1, true),
            None => return None,
        };
        self.places.remove(&next.0);
        Some(next)
    }

    /// Takes the last of those who are not deferred.
    pub fn pop_last(&mut self) -> Option<Uuid> {
        let ticket = self.fresh.pop_back()?;
        self.places.remove(&ticket);
        Some(ticket)
    }

    pub fn contains(&self, ticket: Uuid) -> bool {
        self.places.contains_key(&ticket)
    }

    pub fn fresh(&self) -> usize {
        self.fresh.len()
    }

    pub fn deferred(&self) -> usize {
        self.deferred.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(count: u128) -> Vec<Uuid> {
        (1..=count).map(Uuid::from_u128).collect()
    }

    #[test]
    fn the_order_is_critical_then_arrival_then_urgency() {
        let id = ids(6);
        let mut line = Line::default();
        line.push(id[0]);
        line.defer(id[1], Urgency::Low);
        line.defer(id[2], Urgency::High);
        line.defer(id[3], Urgency::High);
        line.push(id[4]);
        line.defer(id[5], Urgency::Critical);
        assert_eq!(line.next(false), Some((id[5], true)));
        assert_eq!(line.next(false), Some((id[0], false)));
        assert_eq!(line.next(true), Some((id[4], false)));
        assert_eq!(line.next(false), None, "no room for those who were deferred");
        let rest: Vec<Uuid> = std::iter::from_fn(|| line.next(true)).map(|(ticket, _)| ticket).collect();
        assert_eq!(rest, [id[2], id[3], id[1]]);
        assert_eq!((line.fresh(), line.deferred(), line.places.len()), (0, 0, 0));
    }

    #[test]
    fn nobody_stands_in_line_twice() {
        let id = ids(2);
        let mut line = Line::default();
        line.push(id[0]);
        line.push(id[0]);
        line.defer(id[0], Urgency::Critical);
        assert_eq!((line.fresh(), line.deferred()), (1, 0));
        line.defer(id[1], Urgency::Low);
        line.push(id[1]);
        assert_eq!((line.fresh(), line.deferred()), (2, 0));
        assert_eq!(line.pop_last(), Some(id[1]));
        assert!(!line.contains(id[1]) && line.contains(id[0]));
    }
}
