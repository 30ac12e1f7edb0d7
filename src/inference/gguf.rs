//! Chat models from GGUF files, computed on this machine's cores.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

use candle_core::quantized::tokenizer::TokenizerFromGguf;
use tokenizers::Tokenizer;

use crate::embed::calm;

use super::chat_model::{CandleModel, Template, defuse};
use super::generator::{GenerateError, GenerateRequest, Generation, Generator, OneReply, Replies, Step, StopReason};
use super::gguf_header::read_header;
use super::opinion::{Check, Matter, Question, States, shortened};
use super::qwen::Qwen;
use super::writer::{MOST_REPLIES, Prompt, Writer};

/// Tokens that candle's models read in one pass: small enough that an embedding or a cancellation waits a second at most.
const READ_CHUNK: usize = 96;

/// A GGUF chat model with greedy decoding: the same prompt always gives the same reply.
pub struct GgufGenerator {
    engine: Engine,
    words: Words,
    context: usize,
    /// None for models on candle's forward pass, which shows no states.
    question: Option<Question>,
}

enum Engine {
    /// Our own forward pass.
    Own(Box<Writer>),
    Candle(CandleModel),
}

/// The model's text side.
struct Words {
    name: String,
    template: Template,
    tokenizer: Tokenizer,
    stop_ids: Vec<u32>,
}

impl Words {
    fn encode(&self, text: &str) -> Result<Vec<u32>, GenerateError> {
        let encoding = self.tokenizer.encode(text, false).map_err(|error| self.failed(&error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn decode(&self, ids: &[u32]) -> Result<String, GenerateError> {
        self.tokenizer.decode(ids, true).map_err(|error| self.failed(&error.to_string()))
    }

    fn failed(&self, reason: &str) -> GenerateError {
        GenerateError::File { path: self.name.clone(), reason: format!("tokenizer: {reason}") }
    }

    fn prompt(&self, request: &GenerateRequest) -> Result<Prompt, GenerateError> {
        let (shared, own) = request.turns.split_at(request.shared_turns.min(request.turns.len()));
        let shared_text = self.template.render(shared);
        // A beginning-of-text mark belongs to the first part only.
        let own_text = match shared.is_empty() {
            true => self.template.render(own),
            false => self.template.render(own).trim_start_matches("<|begin_of_text|>").to_owned(),
        };
        Ok(Prompt {
            shared: self.encode(&shared_text)?,
            own: self.encode(&(own_text + self.template.opening()))?,
            max_tokens: request.max_tokens,
        })
    }
}

impl GgufGenerator {
    /// Loads weights and tokenizer from one file. `context` is the most tokens of prompt and reply together.
    ///
    /// # Errors
    /// When the file is missing, cut short, or of a family that does not run here.
    pub fn load(path: &Path, context: usize) -> Result<Self, GenerateError> {
        let failed = |reason: String| GenerateError::File { path: path.display().to_string(), reason };
        let mut file = File::open(path).map_err(|e| failed(format!("{e}; run `respondo models pull`")))?;
        let content = read_header(&mut file)
            .map_err(|reason| failed(format!("not a readable GGUF file ({reason}); run `respondo models verify`")))?;
        let tokenizer = Tokenizer::from_gguf(&content).map_err(|e| failed(format!("tokenizer: {e}")))?;
        let family = match content.metadata.get("general.architecture").map(|value| value.to_string()) {
            Some(Ok(family)) => family.clone(),
            _ => return Err(failed("the GGUF metadata does not name an architecture".to_owned())),
        };
        let template = Template::of_family(&family).ok_or_else(|| GenerateError::Family { family: family.clone() })?;
        let stop_ids: Vec<u32> =
            template.stop_tokens().iter().filter_map(|token| tokenizer.token_to_id(token)).collect();
        let (engine, context) = if Qwen::FAMILIES.contains(&family.as_str()) {
            let model = Qwen::load(&family, &content, &mut file, context)
                .map_err(|e| failed(format!("{e}; run `respondo models verify`")))?;
            let context = model.context();
            (Engine::Own(Box::new(Writer::new(model, stop_ids.clone()))), context)
        } else {
            (Engine::Candle(CandleModel::load(&family, content, &mut file)?), context)
        };
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let words = Words { name, template, tokenizer, stop_ids };
        let question = match engine {
            Engine::Own(_) => Some(Question::new(&words.name, template, |text| words.encode(text))?),
            Engine::Candle(_) => None,
        };
        Ok(Self { engine, words, context, question })
    }

    /// Switches the guessing of tokens off and on, for comparisons: replies stay the same.
    pub fn set_speculation(&mut self, on: bool) {
        if let Engine::Own(writer) = &mut self.engine {
            writer.set_speculation(on);
        }
    }
}

impl Generator for GgufGenerator {
    fn name(&self) -> &str {
        &self.words.name
    }

    fn is_local(&self) -> bool {
        true
    }

    fn generate(
        &mut self,
        request: &GenerateRequest,
        on_step: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> Result<Generation, GenerateError> {
        match &mut self.engine {
            Engine::Own(_) => {
                let mut one = OneReply { request: Some(request), on_step, result: None };
                self.write_all(&mut one);
                one.result.unwrap_or_else(|| Err(self.words.failed("the reply has no result")))
            }
            Engine::Candle(model) => write_with_candle(model, &self.words, self.context, request, on_step),
        }
    }

    fn write_all(&mut self, replies: &mut dyn Replies) {
        let Self { engine, words, context, question } = self;
        match engine {
            Engine::Own(writer) => loop {
                if let Some(question) = question {
                    replies.opinions(&mut |matter, check| study(writer, question, words, matter, check));
                }
                while writer.in_progress() < MOST_REPLIES
                    && let Some((id, request)) = replies.next(writer.in_progress())
                {
                    let begun = words.prompt(&request).and_then(|prompt| writer.begin(id, prompt));
                    if let Err(error) = begun {
                        replies.done(id, Err(error));
                    }
                }
                if writer.in_progress() == 0 {
                    return;
                }
                writer.advance(replies, &|ids| words.decode(ids));
            },
            Engine::Candle(model) => {
                while let Some((id, request)) = replies.next(0) {
                    let mut on_step = |step: Step<'_>| replies.step(id, step);
                    let result = write_with_candle(model, words, *context, &request, &mut on_step);
                    replies.done(id, result);
                }
            }
        }
    }

    fn considers(&self) -> Option<&str> {
        self.question.as_ref().map(Question::name)
    }

    fn weighs(&self) -> Option<&str> {
        self.question.as_ref().map(Question::sources_name)
    }

    fn study(&mut self, matter: &Matter, check: &mut Check<'_>) -> Result<Option<States>, GenerateError> {
        match (&mut self.engine, &mut self.question) {
            (Engine::Own(writer), Some(question)) => study(writer, question, &self.words, matter, check),
            _ => Ok(None),
        }
    }

    fn warm_up(&mut self, request: &GenerateRequest) -> Result<(), GenerateError> {
        let prompt = self.words.prompt(request)?;
        match &mut self.engine {
            Engine::Own(writer) => writer.warm_up(&prompt.shared),
            // Weights are repacked at first use: read something, though nothing of it is kept.
            Engine::Candle(model) => model.predict(&prompt.own, 0).map(drop).map_err(GenerateError::from),
        }
    }
}

fn study(
    writer: &mut Writer,
    question: &mut Question,
    words: &Words,
    matter: &Matter,
    check: &mut Check<'_>,
) -> Result<Option<States>, GenerateError> {
    let encode = |text: &str| words.encode(&defuse(&calm(text)));
    let request = encode(&shortened(&matter.request))?;
    if matter.sources.is_empty() {
        return Ok(question.states(writer.model(), &request, check)?.map(|states| vec![states]));
    }
    let pieces = matter.sources.iter().flatten().map(|piece| encode(piece)).collect::<Result<Vec<_>, _>>()?;
    question.weigh(writer.model(), &request, &pieces, check)
}

/// One reply by candle's own model.
fn write_with_candle(
    model: &mut CandleModel,
    words: &Words,
    context: usize,
    request: &GenerateRequest,
    on_step: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
) -> Result<Generation, GenerateError> {
    let Prompt { shared, own, max_tokens } = words.prompt(request)?;
    let prompt = [shared, own].concat();
    if prompt.len() + max_tokens > context {
        return Err(GenerateError::TooLong { tokens: prompt.len(), context });
    }
    let mut generation = Generation {
        text: String::new(),
        stop: StopReason::Cancelled,
        prompt_tokens: prompt.len(),
        reused_tokens: 0,
        written_tokens: 0,
    };
    let mut next = 0;
    for (index, chunk) in prompt.chunks(READ_CHUNK).enumerate() {
        if on_step(Step::Reading).is_break() {
            return Ok(generation);
        }
        next = model.predict(chunk, index * READ_CHUNK)?;
    }
    let mut written = Vec::with_capacity(max_tokens);
    loop {
        if words.stop_ids.contains(&next) {
            generation.stop = StopReason::End;
            break;
        }
        written.push(next);
        let text = words.decode(&written)?;
        // A character may be spread over several tokens: show only what is whole.
        if !text.ends_with(char::REPLACEMENT_CHARACTER)
            && let Some(added) = text.get(generation.text.len()..)
            && !added.is_empty()
        {
            let flow = on_step(Step::Text(added));
            generation.text = text;
            if flow.is_break() {
                break;
            }
        }
        if written.len() >= max_tokens {
            generation.stop = StopReason::Length;
            break;
        }
        next = model.predict(&[next], prompt.len() + written.len() - 1)?;
    }
    generation.written_tokens = written.len();
    Ok(generation)
}

#[cfg(test)]
mod tests;
