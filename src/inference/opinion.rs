//! A second opinion on a request: what the language model makes of it before it writes anything.
//!
//! The model reads the request behind a fixed explanation of how support leads judge, two thirds of its layers up and no further. The
//! states of its tokens there tell more of a request than a small encoder's vector; linear heads ([`crate::triage::heads`]) were trained
//! to read them. The explanation is read once and kept, so a request costs its own tokens alone.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::oneshot;

use super::chat_model::Template;
use super::generator::{GenerateError, Role, Turn};
use super::panics::panic_text;
use super::qwen::{Part, Qwen, Sequence};
use super::{Inference, InferenceError, Shared};

/// Layers of the model that read; trained heads belong to this number.
const LAYERS: usize = 20;
/// Tokens of a request that are read: the beginning says what is wanted, the end often how soon.
const FIRST_TOKENS: usize = 192;
const LAST_TOKENS: usize = 64;
/// More characters than those tokens have in any language.
const FIRST_CHARACTERS: usize = 4_000;
const LAST_CHARACTERS: usize = 2_000;
/// Tokens in one pass.
const READ_AT_ONCE: usize = 160;
/// Requests that may wait for an opinion; each takes some tenths of a second, and there are heads that go without.
const LIMIT: usize = 4;

const EXPLANATION: &str = include_str!("../../prompts/opinion/system.txt");
const LEAD: &str = "Request:\n";
/// What the model would go on from, had it to judge in words.
const ANSWER: &str = "Urgency, difficulty and next step:";
/// Where the request stands in the prompt.
const PLACE: &str = "{request}";

/// Asked between two layers; breaks a reading off.
pub type Check<'a> = dyn FnMut() -> ControlFlow<()> + 'a;
/// [`super::generator::Generator::consider`].
pub type Consider<'a> = dyn FnMut(&str, &mut Check<'_>) -> Result<Option<Vec<f32>>, GenerateError> + 'a;

/// The prompt that a request is read in, of one model, and what was read of its fixed part.
pub struct Question {
    name: String,
    before: Vec<u32>,
    behind: Vec<u32>,
    /// Holds `before` once it was read.
    sequence: Option<Sequence>,
}

impl Question {
    /// `encode` turns text to the tokens of the model called `model`.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn new(
        model: &str,
        template: Template,
        encode: impl Fn(&str) -> Result<Vec<u32>, GenerateError>,
    ) -> Result<Self, GenerateError> {
        let turn = |role, content: String| Turn { role, content };
        let turns = [turn(Role::System, EXPLANATION.to_owned()), turn(Role::User, format!("{LEAD}{PLACE}"))];
        let prompt = template.render(&turns) + template.opening() + ANSWER;
        let (before, behind) = prompt.split_once(PLACE).unwrap_or((&prompt, ""));
        // Heads know by the name whether they were trained on this very prompt and layer.
        let digest = crate::store::sha256_hex(format!("{LAYERS} {FIRST_TOKENS} {LAST_TOKENS} {prompt}").as_bytes());
        let name = format!("{model}-states-{}", digest.get(..8).unwrap_or_default());
        Ok(Self { name, before: encode(before)?, behind: encode(behind)?, sequence: None })
    }

    /// What the states are of: model, layer and prompt.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// State of the last token of the prompt and mean state of the request's, one behind the other: twice the model's width. None where
    /// `check` broke it off.
    ///
    /// # Errors
    /// When the model fails, or its context is too short for a request.
    pub fn states(
        &mut self,
        model: &mut Qwen,
        text: &[u32],
        check: &mut Check<'_>,
    ) -> Result<Option<Vec<f32>>, GenerateError> {
        let text = match text.len() > FIRST_TOKENS + LAST_TOKENS {
            true => [&text[..FIRST_TOKENS], &text[text.len() - LAST_TOKENS..]].concat(),
            false => text.to_vec(),
        };
        let tokens = [text.as_slice(), &self.behind].concat();
        // A request of no words has a state all the same: that of what follows it.
        let counted = text.len().max(1);
        let Some(sequence) = self.begun(model, check)? else { return Ok(None) };
        let (mut last, mut mean) = (Vec::new(), Vec::new());
        let mut read = 0;
        for tokens in tokens.chunks(READ_AT_ONCE) {
            let part = Part { sequence, tokens, predictions: 0 };
            let Some(hidden) = model.hidden(&mut [part], LAYERS, check)? else { return Ok(None) };
            let width = hidden.len() / tokens.len();
            mean.resize(width, 0.0);
            for row in hidden.chunks_exact(width).take(counted.saturating_sub(read)) {
                mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += value / counted as f32);
            }
            read += tokens.len();
            last = hidden[hidden.len() - width..].to_vec();
        }
        last.extend(mean);
        Ok(Some(last))
    }

    /// The sequence with nothing but the fixed part read.
    fn begun(&mut self, model: &mut Qwen, check: &mut Check<'_>) -> Result<Option<&mut Sequence>, GenerateError> {
        let sequence = self.sequence.get_or_insert_with(|| model.sequence());
        sequence.truncate(self.before.len());
        while let Some(tokens) = self.before.get(sequence.len()..).filter(|tokens| !tokens.is_empty()) {
            let tokens = &tokens[..tokens.len().min(READ_AT_ONCE)];
            let part = Part { sequence: &mut *sequence, tokens, predictions: 0 };
            if model.hidden(&mut [part], LAYERS, check)?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(sequence))
    }
}

/// Of a text that no person reads in full, the beginning and the end: tokenizing all of it would take longer than reading it.
pub fn shortened(text: &str) -> Cow<'_, str> {
    let cut = |count: usize, chars: &mut dyn Iterator<Item = (usize, char)>| chars.nth(count).map(|(at, _)| at);
    let Some(end) = cut(FIRST_CHARACTERS, &mut text.char_indices()) else { return Cow::Borrowed(text) };
    match cut(LAST_CHARACTERS - 1, &mut text.char_indices().rev()) {
        Some(begin) if begin > end => Cow::Owned(format!("{}\n{}", &text[..end], &text[begin..])),
        _ => Cow::Borrowed(text),
    }
}

/// A request that waits for an opinion.
pub(super) struct OpinionJob {
    text: String,
    answer: oneshot::Sender<Result<Option<Vec<f32>>, InferenceError>>,
}

impl OpinionJob {
    /// Does it, unless nobody waits any more. `between_layers` serves what is more urgent.
    pub fn run(self, consider: &mut Consider<'_>, between_layers: &mut dyn FnMut()) {
        let Self { text, answer } = self;
        let mut check = || {
            between_layers();
            if answer.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        if check().is_break() {
            return;
        }
        let made = catch_unwind(AssertUnwindSafe(|| consider(&text, &mut check)));
        drop(answer.send(match made {
            Ok(made) => made.map_err(InferenceError::from),
            Err(panic) => Err(InferenceError::Panicked(panic_text(panic.as_ref()))),
        }));
    }
}

impl Shared {
    pub(super) fn pop_opinion(&self) -> Option<OpinionJob> {
        self.lock().opinions.pop_front()
    }
}

impl Inference {
    /// Name of what [`Inference::consider`] gives; None where no model here can.
    pub fn opinion_name(&self) -> Option<&str> {
        self.opinion_name.as_deref()
    }

    /// What the language model in process makes of a request ([`super::generator::Generator::consider`]), before replies that wait and between two passes
    /// of those that are written; None where no model here can.
    ///
    /// # Errors
    /// [`InferenceError::Overloaded`] when too many wait; otherwise what the model says.
    pub async fn consider(&self, text: String) -> Result<Option<Vec<f32>>, InferenceError> {
        if self.opinion_name.is_none() {
            return Ok(None);
        }
        let (answer, receiver) = oneshot::channel();
        let job = OpinionJob { text, answer };
        self.push(|queues| (queues.opinions.len() < LIMIT).then(|| queues.opinions.push_back(job)))?;
        receiver.await.map_err(|_| InferenceError::Stopped)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_text_the_beginning_and_the_end_are_read() {
        let text = "añ".repeat(2_500) + "end";
        assert_eq!(shortened(&text), text.as_str());
        let text = "añ".repeat(50_000) + "end";
        let cut = shortened(&text);
        assert_eq!(cut.chars().count(), FIRST_CHARACTERS + LAST_CHARACTERS + 1);
        assert!(cut.ends_with("end") && cut.starts_with("aña"));
        assert_eq!(shortened(""), "");
    }
}
