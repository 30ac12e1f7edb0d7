//! Who looks at which ticket, so that two agents on one ticket see each other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use uuid::Uuid;

/// The agents at one ticket, by id, with their names and how many pages each has open.
type Here = HashMap<Uuid, (String, usize)>;

/// All tickets that somebody looks at.
#[derive(Clone, Default)]
pub struct Presence {
    tickets: Arc<Mutex<HashMap<Uuid, watch::Sender<Here>>>>,
}

/// An agent's open page; ends when it is dropped.
pub struct Seat {
    presence: Presence,
    ticket: Uuid,
    agent: Uuid,
    /// Changes when somebody comes or goes.
    pub changes: watch::Receiver<Here>,
}

impl Presence {
    /// An agent opens a ticket.
    pub fn enter(&self, ticket: Uuid, agent: Uuid, name: &str) -> Seat {
        let mut tickets = self.lock();
        let here = tickets.entry(ticket).or_insert_with(|| watch::channel(Here::new()).0);
        here.send_modify(|here| here.entry(agent).or_insert_with(|| (name.to_owned(), 0)).1 += 1);
        Seat { presence: self.clone(), ticket, agent, changes: here.subscribe() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, watch::Sender<Here>>> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Names of the others at the ticket, sorted.
    pub fn others(&self) -> Vec<String> {
        let here = self.changes.borrow();
        let others = here.iter().filter(|(agent, _)| **agent != self.agent);
        let mut names: Vec<String> = others.map(|(_, (name, _))| name.clone()).collect();
        names.sort();
        names
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut tickets = self.presence.lock();
        let Some(here) = tickets.get(&self.ticket) else { return };
        here.send_modify(|here| {
            if let Some((_, pages)) = here.get_mut(&self.agent) {
                *pages -= 1;
                if *pages == 0 {
                    here.remove(&self.agent);
                }
            }
        });
        if here.borrow().is_empty() {
            tickets.remove(&self.ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_see_each_other_until_their_last_page_is_closed() {
        let presence = Presence::default();
        let (ticket, ana, ben) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
        let seat = presence.enter(ticket, ana, "Ana");
        assert!(seat.others().is_empty());
        let (one, two) = (presence.enter(ticket, ben, "Ben"), presence.enter(ticket, ben, "Ben"));
        assert_eq!(seat.others(), ["Ben"]);
        assert_eq!(one.others(), ["Ana"]);
        drop(one);
        assert_eq!(seat.others(), ["Ben"]);
        drop(two);
        assert!(seat.others().is_empty());
        drop(seat);
        assert!(presence.lock().is_empty(), "nothing is kept of tickets that nobody looks at");
    }
}
