//! A second opinion on a request, and on what was found for it: what the language model makes of them before it writes anything.
//!
//! The model reads the request behind a fixed explanation of how support leads judge, two thirds of its layers up and no further. The
//! states of its tokens there tell more of a request than a small encoder's vector; linear heads ([`crate::triage::heads`]) were trained
//! to read them. The explanation is read once and kept, so a request costs its own tokens alone. What was found is read behind the
//! request, less than half of the layers up; what the states of a sentence say of it is for [`crate::retrieve::rerank`] to tell.

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
/// Layers that read what was found: with more of them the sentences of good replies were found no better.
const SOURCE_LAYERS: usize = 12;
/// Tokens of all that was found that are read, and of one piece of it.
const SOURCE_TOKENS: usize = 1_024;
const PIECE_TOKENS: usize = 96;
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
/// What stands between the request and what was found for it.
const SOURCES: &str = "\n\nSources that may or may not answer it:\n";
/// Where the request stands in the prompt.
const PLACE: &str = "{request}";

/// Asked between two layers; breaks a reading off.
pub type Check<'a> = dyn FnMut() -> ControlFlow<()> + 'a;
/// States of a language model: a row for each of what was read.
pub type States = Vec<Vec<f32>>;
/// [`super::generator::Generator::study`].
pub type Study<'a> = dyn FnMut(&Matter, &mut Check<'_>) -> Result<Option<States>, GenerateError> + 'a;

/// What the language model is asked to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matter {
    pub request: String,
    /// What was found for it, each in pieces: its title, its sentences. Without any, the opinion is on the request itself.
    pub sources: Vec<Vec<String>>,
}

impl Matter {
    /// A request alone.
    pub fn request(text: impl Into<String>) -> Self {
        Self { request: text.into(), sources: Vec::new() }
    }
}

/// The prompt that a request is read in, of one model, and what was read of it last.
pub struct Question {
    name: String,
    sources_name: String,
    before: Vec<u32>,
    behind: Vec<u32>,
    between: Vec<u32>,
    /// Holds `before` once it was read, and `request` behind it.
    sequence: Option<Sequence>,
    /// The request that was read last; all of it at least as far as what was found is.
    request: Vec<u32>,
}

/// Tokens whose mean state is wanted.
type Span = std::ops::Range<usize>;

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
        // What was trained knows by the name whether it was on this very prompt and layer.
        let named = |what: &str, facts: String| {
            let digest = crate::store::sha256_hex(facts.as_bytes());
            format!("{model}-{what}-{}", digest.get(..8).unwrap_or_default())
        };
        let name = named("states", format!("{LAYERS} {FIRST_TOKENS} {LAST_TOKENS} {prompt}"));
        let sources_name = named("sources", format!("{name} {SOURCE_LAYERS} {PIECE_TOKENS} {before} {SOURCES}"));
        let (before, behind, between) = (encode(before)?, encode(behind)?, encode(SOURCES)?);
        Ok(Self { name, sources_name, before, behind, between, sequence: None, request: Vec::new() })
    }

    /// What the states of a request are of: model, layer and prompt.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the states of what was found are of.
    pub fn sources_name(&self) -> &str {
        &self.sources_name
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
        let text = both_ends(text);
        let tokens = [text.as_slice(), &self.behind].concat();
        let last = tokens.len().saturating_sub(1)..tokens.len();
        // A request of no words has a state all the same: that of what follows it.
        let spans = [last, 0..text.len().max(1)];
        self.request.clear();
        let sequence = self.sequence.get_or_insert_with(|| model.sequence());
        if read_on(model, sequence, &self.before, LAYERS, check)?.is_break() {
            return Ok(None);
        }
        let Some(means) = means(model, sequence, &tokens, &spans, LAYERS, check)? else { return Ok(None) };
        self.request = text;
        Ok(Some(means.concat()))
    }

    /// Mean state of each piece of what was found for a request, source by source, from the first layers alone; an empty row for what there is no
    /// room for. Reads the request again only where it was not the last. None where `check` broke it off.
    ///
    /// # Errors
    /// As [`Question::states`].
    pub fn weigh(
        &mut self,
        model: &mut Qwen,
        text: &[u32],
        pieces: &[Vec<u32>],
        check: &mut Check<'_>,
    ) -> Result<Option<States>, GenerateError> {
        let text = both_ends(text);
        let start = [self.before.as_slice(), &text].concat();
        let sequence = self.sequence.get_or_insert_with(|| model.sequence());
        if self.request != text {
            self.request.clear();
            sequence.truncate(self.before.len());
        }
        // The explanation is for requests too, which are read further up.
        let is_begun = sequence.len() >= self.before.len();
        if !is_begun && read_on(model, sequence, &self.before, LAYERS, check)?.is_break()
            || read_on(model, sequence, &start, SOURCE_LAYERS, check)?.is_break()
        {
            return Ok(None);
        }
        let mut tokens = self.between.clone();
        let most = SOURCE_TOKENS.min(model.context().saturating_sub(start.len()));
        let mut spans = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let kept = &piece[..piece.len().min(PIECE_TOKENS)];
            let room = tokens.len() + kept.len() <= most;
            spans.push(if room { tokens.len()..tokens.len() + kept.len() } else { 0..0 });
            tokens.extend(kept.iter().filter(|_| room));
        }
        let means = means(model, sequence, &tokens, &spans, SOURCE_LAYERS, check)?;
        if means.is_some() {
            self.request = text;
        }
        Ok(means)
    }
}

/// Of a long request, the tokens of its beginning and its end.
fn both_ends(text: &[u32]) -> Vec<u32> {
    match text.len() > FIRST_TOKENS + LAST_TOKENS {
        true => [&text[..FIRST_TOKENS], &text[text.len() - LAST_TOKENS..]].concat(),
        false => text.to_vec(),
    }
}

/// Sees to it that `sequence`, which holds the first of `tokens` or more than all of them, holds them and nothing else.
fn read_on(
    model: &mut Qwen,
    sequence: &mut Sequence,
    tokens: &[u32],
    layers: usize,
    check: &mut Check<'_>,
) -> Result<ControlFlow<()>, GenerateError> {
    sequence.truncate(tokens.len());
    while let Some(tokens) = tokens.get(sequence.len()..).filter(|tokens| !tokens.is_empty()) {
        let tokens = &tokens[..tokens.len().min(READ_AT_ONCE)];
        let part = Part { sequence: &mut *sequence, tokens, predictions: 0 };
        if model.hidden(&mut [part], layers, check)?.is_none() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Reads `tokens` behind `sequence` and gives the mean state of the tokens of each of `spans`; of an empty one an empty row.
fn means(
    model: &mut Qwen,
    sequence: &mut Sequence,
    tokens: &[u32],
    spans: &[Span],
    layers: usize,
    check: &mut Check<'_>,
) -> Result<Option<States>, GenerateError> {
    let mut means: States = vec![Vec::new(); spans.len()];
    let mut read = 0;
    for tokens in tokens.chunks(READ_AT_ONCE) {
        let part = Part { sequence: &mut *sequence, tokens, predictions: 0 };
        let Some(hidden) = model.hidden(&mut [part], layers, check)? else { return Ok(None) };
        let width = hidden.len() / tokens.len();
        for (span, mean) in spans.iter().zip(&mut means) {
            let here = span.start.max(read)..span.end.min(read + tokens.len());
            let rows = hidden.chunks_exact(width).skip(here.start.saturating_sub(read)).take(here.len());
            for row in rows {
                mean.resize(width, 0.0);
                mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += value / span.len() as f32);
            }
        }
        read += tokens.len();
    }
    Ok(Some(means))
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

/// What waits for an opinion.
pub(super) struct OpinionJob {
    matter: Matter,
    answer: oneshot::Sender<Result<Option<States>, InferenceError>>,
}

impl OpinionJob {
    /// Does it, unless nobody waits any more. `between_layers` serves what is more urgent.
    pub fn run(self, study: &mut Study<'_>, between_layers: &mut dyn FnMut()) {
        let Self { matter, answer } = self;
        let mut check = || {
            between_layers();
            if answer.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        if check().is_break() {
            return;
        }
        let made = catch_unwind(AssertUnwindSafe(|| study(&matter, &mut check)));
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

    /// Name of what [`Inference::weigh`] gives; None where no model here can.
    pub fn sources_name(&self) -> Option<&str> {
        self.sources_name.as_deref()
    }

    /// What the language model in process makes of a request ([`super::generator::Generator::study`]), before replies that wait and between two passes
    /// of those that are written; None where no model here can.
    ///
    /// # Errors
    /// [`InferenceError::Overloaded`] when too many wait; otherwise what the model says.
    pub async fn consider(&self, text: String) -> Result<Option<Vec<f32>>, InferenceError> {
        let made = self.study(Matter::request(text)).await?;
        Ok(made.and_then(|rows| rows.into_iter().next()))
    }

    /// The same of what was found for a request: a row for each piece, source by source.
    ///
    /// # Errors
    /// As [`Inference::consider`].
    pub async fn weigh(&self, matter: Matter) -> Result<Option<States>, InferenceError> {
        if matter.sources.is_empty() {
            return Ok(None);
        }
        self.study(matter).await
    }

    async fn study(&self, matter: Matter) -> Result<Option<States>, InferenceError> {
        if self.opinion_name.is_none() {
            return Ok(None);
        }
        let (answer, receiver) = oneshot::channel();
        let job = OpinionJob { matter, answer };
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
