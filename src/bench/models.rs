//! Speed of our own forward passes beside candle's own models over the same weights, in one process and taking turns, so
//! that what else the machine does falls on both.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use candle_core::quantized::gguf_file;
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_qwen2::ModelWeights;
use clap::ValueEnum;
use serde::Deserialize;
use tokenizers::Tokenizer;

use super::side_by_side::{Report, Row, median};
use crate::app::{EMBEDDING_CONTAINER, EMBEDDING_MODEL, EMBEDDING_TOKENIZER, existing, model_store};
use crate::draft::prompt::Prompts;
use crate::embed::{CandlePeer, E5Embedder, E5Options, Embedder, Role};
use crate::inference::CHAT_MODEL;
use crate::inference::chat_model::Template;
use crate::inference::generator::{self, GenerateRequest, Generator, Step, StopReason, Turn};
use crate::inference::gguf::GgufGenerator;
use crate::settings::Settings;
use crate::ticket::{Evidence, Language, MemoryKind, Request};

/// Lengths of the two queries that are timed, in tokens; the nearest sample text is taken.
const QUERY_TOKENS: [usize; 2] = [30, 150];
/// Calls behind one repeat's figure of a query, which takes milliseconds; their median counts.
const QUERY_CALLS: usize = 9;
/// Until the threads of the side before have stopped waiting for more work.
const PAUSE: Duration = Duration::from_millis(100);
/// Characters of help text in the prompt that is read: about 450 tokens with what stands around them.
const READING_CHARACTERS: usize = 1_600;
/// Tokens written after it.
const WRITTEN_TOKENS: usize = 40;
/// Characters of each piece of evidence: about what the service shows the model.
const EVIDENCE_CHARACTERS: usize = 500;
/// The sample request of the first-token figure, in English with its answer in the memory.
const ASKED: &str = "req-13";

/// The built-in models' files on this machine.
pub struct ModelFiles {
    pub(super) container: PathBuf,
    pub(super) tokenizer: PathBuf,
    pub(super) chat: PathBuf,
    /// Most tokens of prompt and reply together.
    pub(super) context: usize,
}

impl ModelFiles {
    /// Finds the files where the settings keep models.
    ///
    /// # Errors
    /// When one of them has not been pulled.
    pub fn find(settings: &Settings) -> Result<Self> {
        let (manifest, store) = model_store(settings)?;
        let embedding = manifest.get(EMBEDDING_MODEL)?;
        let chat = manifest.get(CHAT_MODEL)?;
        let chat_file = chat.files.first().map(|file| file.name.clone()).unwrap_or_default();
        Ok(Self {
            container: existing(store.path(embedding, EMBEDDING_CONTAINER))?,
            tokenizer: existing(store.path(embedding, EMBEDDING_TOKENIZER))?,
            chat: existing(store.path(chat, &chat_file))?,
            context: settings.generation.context,
        })
    }
}

/// A row of the samples, as far as its text is needed.
#[derive(Deserialize)]
struct Sample {
    id: String,
    lang: String,
    #[serde(alias = "title")]
    subject: String,
    #[serde(alias = "summary")]
    body: String,
    #[serde(default, alias = "text")]
    answer: String,
    #[serde(default)]
    relevant: Vec<String>,
}

/// Which model is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    Embedding,
    Chat,
}

/// Measures everything, or one part, `repeats` times; `news` hears what is being done.
///
/// # Errors
/// When a model file is missing or damaged, or candle fails.
pub fn measure(files: &ModelFiles, repeats: usize, only: Option<Part>, news: &mut dyn FnMut(&str)) -> Result<Report> {
    ensure!(repeats > 0, "nothing to measure; use at least 1 repeat");
    let samples = samples()?;
    let mut report = Report::default();
    if only != Some(Part::Chat) {
        measure_embedding(files, &samples, repeats, &mut report, news).context("embedding model")?;
    }
    if only != Some(Part::Embedding) {
        measure_chat(files, &samples, repeats, &mut report, news).context("chat model")?;
    }
    Ok(report)
}

fn samples() -> Result<Vec<Sample>> {
    let files = [
        include_str!("../../samples/tickets.jsonl"),
        include_str!("../../samples/articles.jsonl"),
        include_str!("../../samples/requests.jsonl"),
    ];
    let lines = files.iter().flat_map(|file| file.lines());
    lines.map(|line| serde_json::from_str(line).context("a line of samples/ does not parse")).collect()
}

fn measure_embedding(
    files: &ModelFiles,
    samples: &[Sample],
    repeats: usize,
    report: &mut Report,
    news: &mut dyn FnMut(&str),
) -> Result<()> {
    news("loading the embedding model, ours and candle's");
    let mut ours = E5Embedder::load(&files.container, &files.tokenizer, E5Options::default())?;
    let peer = CandlePeer::load(&files.container)?;
    let texts: Vec<String> =
        samples.iter().map(|row| format!("{}\n{}\n{}", row.subject, row.body, row.answer)).collect();
    let texts: Vec<&str> = texts.iter().map(|text| text.trim_end()).collect();
    let tokens: usize = ours.tokenise(&texts, Role::Passage)?.iter().map(Vec::len).sum();
    let warming: Vec<&str> = texts.iter().copied().take(16).collect();
    ours.embed(&warming, Role::Passage)?;
    peer.vectors(&ours.tokenise(&warming, Role::Passage)?)?;

    let mut bulk = Row::new(format!("bulk embedding, {tokens} tokens in {} texts", texts.len()), "tokens/s");
    let (mut least_similar, mut similarities) = (f32::INFINITY, 0.0);
    for repeat in 1..=repeats {
        news(&format!("bulk embedding, {repeat} of {repeats}"));
        let (vectors, our_time) = timed(|| Ok(ours.embed(&texts, Role::Passage)?))?;
        let (candles, candle_time) = timed(|| Ok(peer.vectors(&ours.tokenise(&texts, Role::Passage)?)?))?;
        bulk.push(rate(tokens, our_time), rate(tokens, candle_time));
        for (one, other) in vectors.iter().zip(&candles) {
            let similarity: f32 = one.iter().zip(other).map(|(a, b)| a * b).sum();
            least_similar = least_similar.min(similarity);
            similarities += similarity;
        }
    }
    report.rows.push(bulk);
    let mean = similarities / (repeats * texts.len()) as f32;
    report.agreement.push(format!("cosine of the two vectors of a text: lowest {least_similar:.5}, mean {mean:.5}"));

    for wanted in QUERY_TOKENS {
        let text = nearest_in_length(&ours, samples, wanted)?;
        let length = ours.tokenise(&[&text], Role::Query)?.first().map_or(0, Vec::len);
        let mut row = Row::new(format!("one query of {length} tokens"), "ms");
        for repeat in 1..=repeats {
            news(&format!("query of {length} tokens, {repeat} of {repeats}"));
            let (mut our_calls, mut candle_calls) = (Vec::new(), Vec::new());
            std::thread::sleep(PAUSE);
            for _ in 0..QUERY_CALLS {
                our_calls.push(milliseconds(timed(|| Ok(ours.embed(&[&text], Role::Query)?))?.1));
            }
            std::thread::sleep(PAUSE);
            for _ in 0..QUERY_CALLS {
                let peers_call = || Ok(peer.vectors(&ours.tokenise(&[&text], Role::Query)?)?);
                candle_calls.push(milliseconds(timed(peers_call)?.1));
            }
            row.push(median(&our_calls), median(&candle_calls));
        }
        report.rows.push(row);
    }
    Ok(())
}

/// The sample request or ticket whose text has about so many tokens.
fn nearest_in_length(embedder: &E5Embedder, samples: &[Sample], tokens: usize) -> Result<String> {
    let texts = samples.iter().map(|row| format!("{}\n{}", row.subject, row.body));
    texts.min_by_key(|text| embedder.token_count(text).abs_diff(tokens)).ok_or_else(|| anyhow!("samples/ is empty"))
}

/// What the chat models are asked.
struct ChatPrompts {
    /// Read in full, then [`WRITTEN_TOKENS`] are written.
    reading: GenerateRequest,
    /// As the service asks for a reply: shared turns, then a request with evidence.
    reply: GenerateRequest,
}

impl ChatPrompts {
    fn new(samples: &[Sample]) -> Result<Self> {
        let english = samples.iter().filter(|row| row.lang == "en" && !row.answer.is_empty());
        let help = english.map(|row| row.answer.as_str()).collect::<Vec<_>>().join("\n\n");
        let help: String = help.chars().take(READING_CHARACTERS).collect();
        let content = format!("{help}\n\nRetell all of this for a beginner, step by step, in full sentences.");
        let turns = vec![Turn { role: generator::Role::User, content }];
        let reading = GenerateRequest { turns, shared_turns: 0, max_tokens: WRITTEN_TOKENS };

        let asked = samples.iter().find(|row| row.id == ASKED);
        let asked = asked.with_context(|| format!("samples/ has no request {ASKED}; restore the file"))?;
        let request = Request {
            subject: asked.subject.clone(),
            body: asked.body.clone(),
            language: Language::EN,
            product: None,
            queue: None,
            exclude: Vec::new(),
        };
        let found = samples.iter().filter(|row| asked.relevant.contains(&row.id));
        let evidence: Vec<Evidence> = found.enumerate().map(|(index, row)| evidence(index + 1, row)).collect();
        let reply = Prompts::load(None)?.reply(&request, &evidence, &Language::EN, 1)?;
        Ok(Self { reading, reply })
    }
}

fn evidence(index: usize, row: &Sample) -> Evidence {
    Evidence {
        index,
        memory_id: row.id.clone(),
        kind: MemoryKind::Ticket,
        language: Language::new(&row.lang),
        title: row.subject.clone(),
        text: row.answer.chars().take(EVIDENCE_CHARACTERS).collect(),
        url: None,
        score: 0.0,
        similarity: 0.0,
    }
}

/// One reply, timed.
struct Reply {
    prompt_tokens: usize,
    /// From the request to the first token.
    first_token: Duration,
    /// Written after the first token, and how long that took.
    later_tokens: usize,
    later: Duration,
    text: String,
}

/// One side's replies to both prompts.
struct Replies {
    reading: Reply,
    reply: Reply,
}

/// Ours and candle's take turns, and only one of them is in memory at a time.
fn measure_chat(
    files: &ModelFiles,
    samples: &[Sample],
    repeats: usize,
    report: &mut Report,
    news: &mut dyn FnMut(&str),
) -> Result<()> {
    let prompts = ChatPrompts::new(samples)?;
    let mut turns = Vec::with_capacity(repeats);
    for repeat in 1..=repeats {
        news(&format!("chat model, {repeat} of {repeats}: ours"));
        let ours = our_replies(files, &prompts)?;
        news(&format!("chat model, {repeat} of {repeats}: candle's"));
        turns.push((ours, candle_replies(files, &prompts)?));
    }
    let Some((ours, candles)) = turns.first() else { return Ok(()) };
    let read = ours.reading.prompt_tokens;
    let mut prefill = Row::new(format!("reading a prompt of {read} tokens"), "tokens/s");
    let mut decode = Row::new(format!("writing {WRITTEN_TOKENS} tokens after it"), "tokens/s");
    let whole = ours.reply.prompt_tokens;
    let what = format!("first token of a reply, prompt of {whole} tokens (ours keeps the shared turns' state)");
    let mut first_token = Row::new(what, "s");
    let same = ours.reading.text.chars().zip(candles.reading.text.chars()).take_while(|(a, b)| a == b).count();
    report.agreement.push(format!(
        "the two texts written after the prompt of {read} tokens are the same for their first {same} of {} characters \
         (both round activations to 8 bits, in another order)",
        ours.reading.text.chars().count()
    ));
    for (ours, candles) in &turns {
        prefill.push(ours.reading.prefill(), candles.reading.prefill());
        decode.push(ours.reading.decode(), candles.reading.decode());
        first_token.push(ours.reply.first_token.as_secs_f32(), candles.reply.first_token.as_secs_f32());
    }
    report.rows.extend([prefill, decode, first_token]);
    Ok(())
}

/// Weights are repacked at first use, for reading and for writing: both are done once before anything is timed.
fn warming() -> GenerateRequest {
    let content = "Say hello to a customer who has just written to us about the invoices of last year.".repeat(4);
    GenerateRequest { turns: vec![Turn { role: generator::Role::User, content }], shared_turns: 0, max_tokens: 3 }
}

fn our_replies(files: &ModelFiles, prompts: &ChatPrompts) -> Result<Replies> {
    let mut model = GgufGenerator::load(&files.chat, files.context)?;
    our_reply(&mut model, &warming())?;
    model.warm_up(&prompts.reply)?;
    Ok(Replies { reading: our_reply(&mut model, &prompts.reading)?, reply: our_reply(&mut model, &prompts.reply)? })
}

fn our_reply(model: &mut GgufGenerator, request: &GenerateRequest) -> Result<Reply> {
    let started = Instant::now();
    let mut first_text = None;
    let generation = model.generate(request, &mut |step| {
        if let Step::Text(_) = step {
            first_text.get_or_insert_with(Instant::now);
        }
        ControlFlow::Continue(())
    })?;
    let ended = Instant::now();
    let first_text = first_text.context("the chat model wrote nothing; run `respondo models verify`")?;
    // The token that says "done" is computed too, but not written.
    let done = usize::from(generation.stop == StopReason::End);
    Ok(Reply {
        prompt_tokens: generation.prompt_tokens,
        first_token: first_text - started,
        later_tokens: (generation.written_tokens + done).saturating_sub(1),
        later: ended - first_text,
        text: generation.text,
    })
}

/// candle's `quantized_qwen2` over the same file.
struct CandleChat {
    model: ModelWeights,
    tokenizer: Tokenizer,
}

fn candle_replies(files: &ModelFiles, prompts: &ChatPrompts) -> Result<Replies> {
    let mut model = CandleChat::load(&files.chat)?;
    model.reply(&warming())?;
    Ok(Replies { reading: model.reply(&prompts.reading)?, reply: model.reply(&prompts.reply)? })
}

impl CandleChat {
    fn load(path: &Path) -> Result<Self> {
        let failed = || format!("cannot load {}; run `respondo models pull`", path.display());
        let mut file = File::open(path).with_context(failed)?;
        let content = gguf_file::Content::read(&mut file).with_context(failed)?;
        let tokenizer = Tokenizer::from_gguf(&content).with_context(failed)?;
        let model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu).with_context(failed)?;
        Ok(Self { model, tokenizer })
    }

    /// Reads the whole prompt at once, as candle's own example does, then writes token by token.
    fn reply(&mut self, request: &GenerateRequest) -> Result<Reply> {
        let started = Instant::now();
        let prompt = Template::ChatMl.render(&request.turns) + Template::ChatMl.opening();
        let encoding = self.tokenizer.encode(prompt, false).map_err(|error| anyhow!("tokenizer: {error}"))?;
        let mut written = vec![self.step(encoding.get_ids(), 0)?];
        let first = Instant::now();
        while let Some(&last) = written.last()
            && written.len() < request.max_tokens
        {
            written.push(self.step(&[last], encoding.len() + written.len() - 1)?);
        }
        let later = first.elapsed();
        let text = self.tokenizer.decode(&written, true).map_err(|error| anyhow!("tokenizer: {error}"))?;
        Ok(Reply {
            prompt_tokens: encoding.len(),
            first_token: first - started,
            later_tokens: written.len() - 1,
            later,
            text,
        })
    }

    fn step(&mut self, tokens: &[u32], position: usize) -> Result<u32> {
        let model = &mut self.model;
        let next = Device::Cpu.with_context(move || {
            let ids = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
            model.forward(&ids, position)?.flatten_all()?.argmax(0)?.to_scalar::<u32>()
        })?;
        Ok(next)
    }
}

impl Reply {
    /// Prompt tokens a second.
    fn prefill(&self) -> f32 {
        rate(self.prompt_tokens, self.first_token)
    }

    /// Tokens a second after the first.
    fn decode(&self) -> f32 {
        rate(self.later_tokens, self.later)
    }
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let started = Instant::now();
    let made = work()?;
    Ok((made, started.elapsed()))
}

fn rate(tokens: usize, time: Duration) -> f32 {
    tokens as f32 / time.as_secs_f32()
}

fn milliseconds(time: Duration) -> f32 {
    time.as_secs_f32() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_come_from_the_samples() {
        let samples = samples().expect("our own samples");
        assert!(samples.len() > 100);
        let prompts = ChatPrompts::new(&samples).expect("prompts");
        let reading = &prompts.reading.turns[0].content;
        assert!((READING_CHARACTERS..READING_CHARACTERS + 200).contains(&reading.chars().count()), "{reading}");
        let asked = &prompts.reply.turns.last().expect("a turn").content;
        assert!(asked.contains("[1]"), "no evidence: {asked}");
        assert!(prompts.reply.shared_turns > 0);
    }

    #[test]
    fn a_model_that_was_not_pulled_is_named_with_the_way_to_get_it() {
        let mut settings = Settings::load(None).expect("the settings");
        settings.models.cache = PathBuf::from("/nonexistent/cache");
        let error = ModelFiles::find(&settings).err().expect("no models").to_string();
        assert!(error.contains(EMBEDDING_CONTAINER) && error.contains("respondo models pull"), "{error}");
    }
}
