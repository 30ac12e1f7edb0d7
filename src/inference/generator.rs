//! The seam to a language model: a chat prompt in, streamed text out.

use std::ops::ControlFlow;

use super::opinion::{Check, Matter, States, Study};

/// Who says a turn of the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    /// Name as used by chat templates and by OpenAI-compatible servers.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn of a chat prompt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Turn {
    pub role: Role,
    pub content: String,
}

/// What to write, and how much of it.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    pub turns: Vec<Turn>,
    /// The first so many turns are the same for every request of this prompt version and language (system prompt and
    /// worked examples); a model that can keeps their state instead of reading them again.
    pub shared_turns: usize,
    /// Upper bound on written tokens.
    pub max_tokens: usize,
}

/// A piece of news from a generation in progress.
#[derive(Clone, Debug, PartialEq)]
pub enum Step<'a> {
    /// Still reading the prompt; nothing new to show.
    Reading,
    /// This text was added to the reply.
    Text(&'a str),
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The model said it was done.
    End,
    /// [`GenerateRequest::max_tokens`] was reached.
    Length,
    /// The caller broke off.
    Cancelled,
}

/// A finished generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    pub text: String,
    pub stop: StopReason,
    /// Tokens of the prompt, and how many of them were taken from a kept state instead of being read.
    pub prompt_tokens: usize,
    pub reused_tokens: usize,
    pub written_tokens: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    #[error("language model: {0}")]
    Model(#[from] candle_core::Error),
    #[error("{path}: {reason}")]
    File { path: String, reason: String },
    #[error(
        "model family `{family}` is not one that runs in process (qwen2, qwen3, llama, gemma3, phi3); use another GGUF file or a model server"
    )]
    Family { family: String },
    #[error("prompt of {tokens} tokens leaves no room in a context of {context}; shorten the message or the evidence")]
    TooLong { tokens: usize, context: usize },
    #[error("model server {url}: {reason}")]
    Endpoint { url: String, reason: String },
    #[error("model server {url} does not take this prompt: {reason}")]
    Refused { url: String, reason: String },
}

/// Where replies to write come from and where their text goes.
pub trait Replies {
    /// The next reply to write beside `in_progress` others, and a number to call it by; none when none waits.
    fn next(&mut self, in_progress: usize) -> Option<(u64, GenerateRequest)>;
    /// News of a reply; when it answers `Break`, the reply ends with [`StopReason::Cancelled`]. Called at least after every layer
    /// of a model that runs in process.
    fn step(&mut self, id: u64, step: Step<'_>) -> ControlFlow<()>;
    /// A reply has ended.
    fn done(&mut self, id: u64, result: Result<Generation, GenerateError>);
    /// Called between two passes: has `study` ([`Generator::study`]) read what waits for an opinion.
    fn opinions(&mut self, _study: &mut Study<'_>) {}
}

/// One reply and who listens to it, as [`Replies`].
pub(super) struct OneReply<'a, 'b> {
    pub request: Option<&'a GenerateRequest>,
    pub on_step: &'a mut (dyn FnMut(Step<'_>) -> ControlFlow<()> + 'b),
    pub result: Option<Result<Generation, GenerateError>>,
}

impl Replies for OneReply<'_, '_> {
    fn next(&mut self, _in_progress: usize) -> Option<(u64, GenerateRequest)> {
        self.request.take().map(|request| (0, request.clone()))
    }

    fn step(&mut self, _id: u64, step: Step<'_>) -> ControlFlow<()> {
        (self.on_step)(step)
    }

    fn done(&mut self, _id: u64, result: Result<Generation, GenerateError>) {
        self.result = Some(result);
    }
}

/// Prompt to streamed text. Synchronous and cancellable; owned by the inference thread.
pub trait Generator: Send {
    /// Name of the model, recorded with every draft.
    fn name(&self) -> &str;
    /// True when it computes on this machine's cores and must take turns with the embedder.
    fn is_local(&self) -> bool;
    /// Writes a reply. `on_step` is called at least every few hundred milliseconds; when it answers `Break` the
    /// generation ends with [`StopReason::Cancelled`].
    ///
    /// # Errors
    /// When the prompt does not fit the context, or the model or its server fails.
    fn generate(
        &mut self,
        request: &GenerateRequest,
        on_step: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> Result<Generation, GenerateError>;
    /// Writes replies until none is in progress and none waits, several side by side where the model can.
    fn write_all(&mut self, replies: &mut dyn Replies) {
        while let Some((id, request)) = replies.next(0) {
            let result = self.generate(&request, &mut |step| replies.step(id, step));
            replies.done(id, result);
        }
    }
    /// Name of what [`Generator::study`] gives of a request; None where it gives nothing.
    fn considers(&self) -> Option<&str> {
        None
    }
    /// The same of what was found for a request.
    fn weighs(&self) -> Option<&str> {
        None
    }
    /// Reads and gives the model's states (see [`super::opinion`]): a row of a request alone, and a row for each piece of what was found. None
    /// where the model cannot, or `check` broke it off.
    ///
    /// # Errors
    /// When the model fails.
    fn study(&mut self, _matter: &Matter, _check: &mut Check<'_>) -> Result<Option<States>, GenerateError> {
        Ok(None)
    }
    /// The states of a request alone.
    ///
    /// # Errors
    /// As [`Generator::study`].
    fn consider(&mut self, text: &str, check: &mut Check<'_>) -> Result<Option<Vec<f32>>, GenerateError> {
        let made = self.study(&Matter::request(text), check)?;
        Ok(made.and_then(|rows| rows.into_iter().next()))
    }
    /// Reads the shared turns ahead of the first request, where the model can keep their state.
    ///
    /// # Errors
    /// As [`Generator::generate`].
    fn warm_up(&mut self, _request: &GenerateRequest) -> Result<(), GenerateError> {
        Ok(())
    }
}
