//! What the lower layers made of the texts that were embedded last: a reader of requests, which has upper layers of its own
//! ([`super::reader`]), goes on from there instead of beginning anew.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Texts between being embedded and being read: requests come one by one, and each is read at once. 400 KB each at most.
const MOST: usize = 4;

/// Hidden states between the shared layers and those above, by token ids.
#[derive(Default)]
pub struct Below(Mutex<VecDeque<(Vec<u32>, Vec<f32>)>>);

impl Below {
    /// Keeps the hidden states, `[tokens, hidden]`, of a sequence; the oldest goes where there are too many.
    pub fn keep(&self, sequence: &[u32], hidden: &[f32]) {
        let mut kept = self.lock();
        kept.retain(|(ids, _)| ids != sequence);
        if kept.len() == MOST {
            kept.pop_front();
        }
        kept.push_back((sequence.to_vec(), hidden.to_vec()));
    }

    /// What is kept of a sequence, once.
    pub fn take(&self, sequence: &[u32]) -> Option<Vec<f32>> {
        let mut kept = self.lock();
        let at = kept.iter().position(|(ids, _)| ids == sequence)?;
        kept.remove(at).map(|(_, hidden)| hidden)
    }

    /// Nothing is half-changed when a thread panics with it.
    fn lock(&self) -> MutexGuard<'_, VecDeque<(Vec<u32>, Vec<f32>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept_and_given_once() {
        let below = Below::default();
        for id in 0..=MOST as u32 {
            below.keep(&[0, id], &[id as f32]);
        }
        below.keep(&[0, 1], &[7.0]);
        assert_eq!(below.take(&[0, 0]), None, "the oldest made room");
        assert_eq!(below.take(&[0, 1]), Some(vec![7.0]));
        assert_eq!(below.take(&[0, 1]), None);
        assert_eq!(below.take(&[0, 2]), Some(vec![2.0]));
        assert_eq!(below.lock().len(), MOST - 2);
    }
}
