//! Replies written side by side by our own forward pass.
//!
//! Every pass reads a piece of the prompts that are still to be read and writes on at all other replies; guessed tokens are
//! checked in the same pass. A reply that begins keeps what it read of the turns that all requests share.

use std::ops::ControlFlow;

use super::generator::{GenerateError, Generation, Replies, Step, StopReason};
use super::qwen::{Part, Prefix, Qwen, Sequence};
use super::speculate::{Guesser, MOST_GUESSES};

/// Replies that are written side by side at most.
pub const MOST_REPLIES: usize = 4;
/// Tokens of a prompt that are read in one pass: enough for the weights to be used at full speed; a pass can be broken off
/// after each of its layers.
const READ_AT_ONCE: usize = 192;
/// Shared prefixes that are kept at the same time: two languages times two prompt versions.
const KEPT_PREFIXES: usize = 4;

/// Turns tokens to text: written tokens to the text of all of them.
pub type Decode<'a> = dyn Fn(&[u32]) -> Result<String, GenerateError> + 'a;

/// A prompt in tokens.
pub struct Prompt {
    /// Of the turns that many requests share.
    pub shared: Vec<u32>,
    /// Of this request's own turns, up to the opening of the reply.
    pub own: Vec<u32>,
    pub max_tokens: usize,
}

struct Kept {
    tokens: Vec<u32>,
    prefix: Prefix,
}

/// Writes replies with one model.
pub struct Writer {
    model: Qwen,
    stop_ids: Vec<u32>,
    prefixes: Vec<Kept>,
    /// Sequences of finished replies, to be used again: their memory is there already.
    spare: Vec<Sequence>,
    drafts: Vec<Draft>,
    speculates: bool,
}

/// A reply in progress.
struct Draft {
    id: u64,
    sequence: Sequence,
    /// Shared and own tokens of the prompt.
    prompt: Vec<u32>,
    shared: usize,
    max_tokens: usize,
    written: Vec<u32>,
    guesser: Guesser,
    /// Tokens of the next pass: a piece of the prompt, or the last written token and guesses at what follows it.
    pass: Vec<u32>,
    /// Predictions that the next pass is to give.
    wanted: usize,
    generation: Generation,
    /// Why it ends, once it does.
    end: Option<Result<StopReason, GenerateError>>,
}

impl Writer {
    /// `stop_ids` end a reply.
    pub fn new(model: Qwen, stop_ids: Vec<u32>) -> Self {
        Self { model, stop_ids, prefixes: Vec::new(), spare: Vec::new(), drafts: Vec::new(), speculates: true }
    }

    /// The model.
    pub fn model(&mut self) -> &mut Qwen {
        &mut self.model
    }

    /// Switches guessing off and on, for comparisons: what is written stays the same.
    pub fn set_speculation(&mut self, on: bool) {
        self.speculates = on;
    }

    /// Replies in progress.
    pub fn in_progress(&self) -> usize {
        self.drafts.len()
    }

    /// Takes a reply up.
    ///
    /// # Errors
    /// [`GenerateError::TooLong`] when prompt and reply do not fit the context.
    pub fn begin(&mut self, id: u64, prompt: Prompt) -> Result<(), GenerateError> {
        let Prompt { shared, own, max_tokens } = prompt;
        let tokens = shared.len() + own.len();
        if own.is_empty() && shared.is_empty() || tokens + max_tokens > self.model.context() {
            return Err(GenerateError::TooLong { tokens, context: self.model.context() });
        }
        let mut sequence = self.spare.pop().unwrap_or_else(|| self.model.sequence());
        sequence.truncate(0);
        let starts = |kept: &&Kept| shared.starts_with(&kept.tokens) && kept.tokens.len() < tokens;
        let longest = self.prefixes.iter().filter(starts).map(|kept| kept.tokens.len()).max();
        if let Some(at) = self.prefixes.iter().position(|kept| starts(&kept) && Some(kept.tokens.len()) == longest) {
            // The one used last goes last: the first is the one to give up.
            let kept = self.prefixes.remove(at);
            sequence.restore(&kept.prefix);
            self.prefixes.push(kept);
        }
        let generation = Generation {
            text: String::new(),
            stop: StopReason::Cancelled,
            prompt_tokens: tokens,
            reused_tokens: sequence.len(),
            written_tokens: 0,
        };
        let prompt = [shared.as_slice(), &own].concat();
        self.drafts.push(Draft {
            id,
            sequence,
            guesser: Guesser::new(&prompt),
            prompt,
            shared: shared.len(),
            max_tokens,
            written: Vec::new(),
            pass: Vec::new(),
            wanted: 0,
            generation,
            end: None,
        });
        Ok(())
    }

    /// One pass over all replies in progress; those that ended are reported and forgotten.
    pub fn advance(&mut self, replies: &mut dyn Replies, decode: &Decode<'_>) {
        let ids: Vec<u64> = self.drafts.iter().map(|draft| draft.id).collect();
        let mut broken_off = Vec::new();
        let mut check = || {
            broken_off.extend(ids.iter().filter(|id| replies.step(**id, Step::Reading).is_break()));
            if broken_off.is_empty() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        match self.pass(&mut check) {
            Ok(Some(predicted)) => {
                let mut predicted = predicted.as_slice();
                for draft in &mut self.drafts {
                    let (own, rest) = predicted.split_at(draft.wanted.min(predicted.len()));
                    predicted = rest;
                    draft.take(own, &self.stop_ids, replies, decode);
                }
            }
            Ok(None) => {
                let some = self.drafts.iter_mut().filter(|draft| broken_off.contains(&draft.id));
                some.for_each(|draft| draft.end = Some(Ok(StopReason::Cancelled)));
            }
            Err(error) => {
                let reason = error.to_string();
                for draft in &mut self.drafts {
                    draft.end = Some(Err(GenerateError::Model(candle_core::Error::Msg(reason.clone()))));
                }
            }
        }
        self.keep_prefixes();
        self.report(replies);
    }

    /// The predictions for all replies, one after the other; none when broken off.
    fn pass(&mut self, check: &mut dyn FnMut() -> ControlFlow<()>) -> candle_core::Result<Option<Vec<u32>>> {
        let guesses = if self.speculates { MOST_GUESSES / self.drafts.len().max(1) } else { 0 };
        // One prompt at a time: the reply that came first begins first.
        let mut may_read = true;
        for draft in &mut self.drafts {
            draft.prepare(may_read, guesses);
            may_read &= !draft.is_reading();
        }
        let parts = self.drafts.iter_mut().filter(|draft| !draft.pass.is_empty());
        let mut parts: Vec<Part<'_>> = parts
            .map(|Draft { sequence, pass, wanted, .. }| Part { sequence, tokens: pass, predictions: *wanted })
            .collect();
        self.model.predict(&mut parts, check)
    }

    /// Reads the shared turns ahead of the first request.
    ///
    /// # Errors
    /// When the model fails.
    pub fn warm_up(&mut self, shared: &[u32]) -> Result<(), GenerateError> {
        let mut sequence = self.model.sequence();
        for tokens in shared.chunks(READ_AT_ONCE) {
            let part = Part { sequence: &mut sequence, tokens, predictions: 0 };
            self.model.predict(&mut [part], &mut || ControlFlow::Continue(()))?;
        }
        self.keep(shared.to_vec(), sequence.keep());
        self.spare.push(sequence);
        Ok(())
    }

    fn keep(&mut self, tokens: Vec<u32>, prefix: Prefix) {
        if self.prefixes.len() >= KEPT_PREFIXES {
            self.prefixes.remove(0);
        }
        self.prefixes.push(Kept { tokens, prefix });
    }

    /// Keeps what was read of shared turns that are new.
    fn keep_prefixes(&mut self) {
        for at in 0..self.drafts.len() {
            let draft = &self.drafts[at];
            let shared = &draft.prompt[..draft.shared];
            let just_read = draft.shared > 0 && draft.sequence.len() == draft.shared;
            if just_read && !self.prefixes.iter().any(|kept| kept.tokens == shared) {
                let (tokens, prefix) = (shared.to_vec(), draft.sequence.keep());
                self.keep(tokens, prefix);
            }
        }
    }

    fn report(&mut self, replies: &mut dyn Replies) {
        for draft in self.drafts.extract_if(.., |draft| draft.end.is_some()) {
            let Draft { id, sequence, mut generation, written, end, .. } = draft;
            self.spare.push(sequence);
            generation.written_tokens = written.len();
            let result = end.unwrap_or(Ok(StopReason::Cancelled)).map(|stop| Generation { stop, ..generation });
            replies.done(id, result);
        }
        self.spare.truncate(MOST_REPLIES);
    }
}

impl Draft {
    fn is_reading(&self) -> bool {
        self.sequence.len() < self.prompt.len()
    }

    /// Sets what the next pass takes.
    fn prepare(&mut self, may_read: bool, guesses: usize) {
        self.pass.clear();
        self.wanted = 0;
        let read = self.sequence.len();
        if self.is_reading() {
            if may_read {
                // Not across the end of the shared turns: their state is kept.
                let end = if read < self.shared { self.shared } else { self.prompt.len() };
                self.pass.extend_from_slice(&self.prompt[read..end.min(read + READ_AT_ONCE)]);
                self.wanted = usize::from(read + self.pass.len() == self.prompt.len());
            }
        } else if let Some(last) = self.written.last() {
            // Not beyond the last token that may be written.
            let room = self.max_tokens.saturating_sub(self.written.len() + 1);
            self.pass.push(*last);
            self.pass.extend_from_slice(self.guesser.guess(guesses.min(room)));
            self.wanted = self.pass.len();
        }
    }

    /// Takes the predictions behind the tokens of the pass as far as the guesses were right.
    fn take(&mut self, predicted: &[u32], stop_ids: &[u32], replies: &mut dyn Replies, decode: &Decode<'_>) {
        if predicted.is_empty() {
            return;
        }
        let guesses = if self.written.is_empty() { Vec::new() } else { self.pass.split_off(1) };
        let before = self.sequence.len() - guesses.len();
        let mut right = 0;
        for (at, token) in predicted.iter().enumerate() {
            self.accept(*token, stop_ids, replies, decode);
            if self.end.is_some() || guesses.get(at) != Some(token) {
                break;
            }
            right += 1;
        }
        self.guesser.learn(guesses.len(), right);
        self.sequence.truncate(before + right);
    }

    /// Adds a token to the reply, or ends it.
    fn accept(&mut self, token: u32, stop_ids: &[u32], replies: &mut dyn Replies, decode: &Decode<'_>) {
        if stop_ids.contains(&token) {
            self.end = Some(Ok(StopReason::End));
            return;
        }
        self.written.push(token);
        self.guesser.push(token);
        let text = match decode(&self.written) {
            Ok(text) => text,
            Err(error) => {
                self.end = Some(Err(error));
                return;
            }
        };
        // A character may be spread over several tokens: show only what is whole.
        if !text.ends_with(char::REPLACEMENT_CHARACTER)
            && let Some(added) = text.get(self.generation.text.len()..)
            && !added.is_empty()
        {
            let flow = replies.step(self.id, Step::Text(added));
            self.generation.text = text;
            if flow.is_break() {
                self.end = Some(Ok(StopReason::Cancelled));
                return;
            }
        }
        if self.written.len() >= self.max_tokens {
            self.end = Some(Ok(StopReason::Length));
        }
    }
}
