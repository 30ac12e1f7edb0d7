//! Guesses at the next tokens of a reply, without a second model.
//!
//! A grounded reply copies much from its evidence: names of menus, steps, links. Where the last tokens of the reply stand somewhere
//! in the prompt or earlier in the reply, what followed there is a good guess at what follows here (prompt lookup decoding, as
//! in Saxena 2023 and llama.cpp's lookup). The model checks several guessed tokens in one pass and keeps exactly those that it
//! would have written itself, so guesses change how long a reply takes and never what it says.

/// Tokens of a match that are compared at most; longer matches are no better guides.
const LONGEST_MATCH: usize = 6;
/// Most tokens guessed at a time. Further ones in a pass cost more than they are worth: beyond eight the pass is bound by
/// arithmetic and no longer by memory.
pub const MOST_GUESSES: usize = 7;
/// Weight of the latest pass in the running share of guesses that were right.
const LATEST: f32 = 0.25;

/// The text that is guessed from, and how well it went so far.
pub struct Guesser {
    /// Prompt and reply so far.
    tokens: Vec<u32>,
    /// Where the reply begins.
    reply: usize,
    /// Running share of guessed tokens that were right.
    right: f32,
}

impl Guesser {
    /// Guesses for a reply to this prompt.
    pub fn new(prompt: &[u32]) -> Self {
        Self { tokens: prompt.to_vec(), reply: prompt.len(), right: 0.5 }
    }

    /// Takes note of a written token.
    pub fn push(&mut self, token: u32) {
        self.tokens.push(token);
    }

    /// Takes note of how many of some guesses were right.
    pub fn learn(&mut self, guessed: usize, right: usize) {
        if guessed > 0 {
            self.right += LATEST * (right as f32 / guessed as f32 - self.right);
        }
    }

    /// At most `most` tokens that may follow; none where nothing matches.
    pub fn guess(&self, most: usize) -> &[u32] {
        let Some((length, follows)) = self.best_match() else {
            return &[];
        };
        let worth = worth(length, self.right).min(most);
        let end = (follows + worth).min(self.tokens.len());
        self.tokens.get(follows..end).unwrap_or_default()
    }

    /// The longest earlier match of the end of the reply, the latest of equals: its length and where it goes on.
    fn best_match(&self) -> Option<(usize, usize)> {
        let end = self.tokens.len();
        // Only words of the reply are matched, not the marks that open it.
        let longest = (end - self.reply).min(LONGEST_MATCH);
        let mut best = None;
        for follows in (1..end).rev() {
            let same = |back: &usize| *back < follows && self.tokens[follows - 1 - back] == self.tokens[end - 1 - back];
            let length = (0..longest).take_while(same).count();
            if length > best.map_or(0, |(length, _)| length) {
                best = Some((length, follows));
                if length == longest {
                    break;
                }
            }
        }
        best
    }
}

/// How many tokens are worth guessing after a match of `length` tokens when a share `right` of guesses was right.
fn worth(length: usize, right: f32) -> usize {
    // A pass of eight tokens takes a quarter longer than one of a single token: a guess pays even if it is right once in
    // twenty times.
    let sure = match length {
        0 => 0,
        1 => 3,
        2 => 5,
        _ => MOST_GUESSES,
    };
    if right < 0.15 { sure / 2 } else { sure }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guesser(prompt: &[u32], reply: &[u32]) -> Guesser {
        let mut guesser = Guesser::new(prompt);
        reply.iter().for_each(|token| guesser.push(*token));
        guesser
    }

    #[test]
    fn the_longest_match_goes_on() {
        let prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 20, 21];
        assert_eq!(guesser(&prompt, &[1, 2, 3]).guess(7), [4, 5, 6, 7, 8, 9, 2]);
        assert_eq!(guesser(&prompt, &[9, 2, 3]).guess(2), [20, 21]);
        assert_eq!(guesser(&prompt, &[40, 2, 3]).guess(7), [20, 21, 40, 2, 3], "the latest of equals");
        assert!(guesser(&prompt, &[40]).guess(7).is_empty());
        assert!(guesser(&prompt, &[]).guess(7).is_empty(), "nothing is written yet");
        assert!(guesser(&prompt, &[1, 2, 3]).guess(0).is_empty());
        assert!(guesser(&[], &[1]).guess(7).is_empty());
    }

    #[test]
    fn a_reply_may_repeat_itself() {
        assert_eq!(guesser(&[], &[5, 6, 7, 5, 6]).guess(7), [7, 5, 6]);
    }

    #[test]
    fn guesses_that_go_wrong_become_few() {
        let mut guesser = guesser(&[1, 2, 3, 4, 5, 6, 7], &[1, 2]);
        assert_eq!(guesser.guess(7).len(), 5);
        for _ in 0..20 {
            guesser.learn(3, 0);
        }
        assert_eq!(guesser.guess(7).len(), 2);
        for _ in 0..20 {
            guesser.learn(3, 3);
        }
        assert_eq!(guesser.guess(7).len(), 5);
    }
}
