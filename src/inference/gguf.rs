//! Chat models from GGUF files, computed by candle on this machine's cores.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

use candle_core::Device;
use candle_core::quantized::gguf_file;
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use tokenizers::Tokenizer;

use super::chat_model::{ChatModel, Template};
use super::generator::{GenerateError, GenerateRequest, Generation, Generator, Step, StopReason};
use super::qwen2::PrefixState;

/// Tokens read in one forward pass: small enough that an embedding or a cancellation waits at most about a second.
const READ_CHUNK: usize = 96;
/// Shared prefixes kept at the same time: two languages times two prompt versions.
const KEPT_PREFIXES: usize = 4;

struct Prefix {
    tokens: Vec<u32>,
    state: PrefixState,
}

/// A GGUF chat model with greedy decoding: the same prompt always gives the same reply.
pub struct GgufGenerator {
    name: String,
    model: ChatModel,
    template: Template,
    tokenizer: Tokenizer,
    stop_ids: Vec<u32>,
    context: usize,
    prefixes: Vec<Prefix>,
}

impl GgufGenerator {
    /// Loads weights and tokenizer from one file. `context` is the most tokens of prompt and reply together.
    ///
    /// # Errors
    /// When the file is missing, cut short, or of a family that does not run here.
    pub fn load(path: &Path, context: usize) -> Result<Self, GenerateError> {
        let failed = |reason: String| GenerateError::File { path: path.display().to_string(), reason };
        let mut file = File::open(path).map_err(|e| failed(format!("{e}; run `respondo models pull`")))?;
        let content = gguf_file::Content::read(&mut file)
            .map_err(|e| failed(format!("not a readable GGUF file ({e}); run `respondo models verify`")))?;
        let tokenizer = Tokenizer::from_gguf(&content).map_err(|e| failed(format!("tokenizer: {e}")))?;
        let (model, template) = ChatModel::load(path, content, &mut file, context)?;
        let stop_ids = template.stop_tokens().iter().filter_map(|token| tokenizer.token_to_id(token)).collect();
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Self { name, model, template, tokenizer, stop_ids, context, prefixes: Vec::new() })
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, GenerateError> {
        let encoding = self
            .tokenizer
            .encode(text, false)
            .map_err(|e| GenerateError::File { path: self.name.clone(), reason: format!("tokenizer: {e}") })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The prompt as (tokens of the shared turns, tokens of the rest).
    fn prompt_tokens(&self, request: &GenerateRequest) -> Result<(Vec<u32>, Vec<u32>), GenerateError> {
        let (shared, own) = request.turns.split_at(request.shared_turns.min(request.turns.len()));
        let shared_text = self.template.render(shared);
        // A beginning-of-text mark belongs to the first part only.
        let own_text = match shared.is_empty() {
            true => self.template.render(own),
            false => self.template.render(own).trim_start_matches("<|begin_of_text|>").to_owned(),
        };
        Ok((self.encode(&shared_text)?, self.encode(&(own_text + self.template.opening()))?))
    }

    /// Makes the cache hold the shared prefix; gives how many of its tokens were restored instead of read.
    fn read_shared(
        &mut self,
        shared: &[u32],
        on_step: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<(), usize>, GenerateError> {
        if shared.is_empty() {
            return Ok(ControlFlow::Continue(0));
        }
        if let Some(found) = self.prefixes.iter().position(|prefix| prefix.tokens == shared) {
            let prefix = self.prefixes.remove(found);
            let restored = self.model.restore_prefix(&prefix.state)?;
            self.prefixes.push(prefix);
            return Ok(ControlFlow::Continue(restored));
        }
        if self.read(shared, 0, on_step)?.is_none() {
            return Ok(ControlFlow::Break(()));
        }
        if let Some(state) = self.model.save_prefix(shared.len())? {
            if self.prefixes.len() >= KEPT_PREFIXES {
                self.prefixes.remove(0);
            }
            self.prefixes.push(Prefix { tokens: shared.to_vec(), state });
        }
        Ok(ControlFlow::Continue(0))
    }

    /// Reads tokens in chunks; the token to write after them, or None when broken off.
    fn read(
        &mut self,
        tokens: &[u32],
        position: usize,
        on_step: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> Result<Option<u32>, GenerateError> {
        let mut next = None;
        for (index, chunk) in tokens.chunks(READ_CHUNK).enumerate() {
            if on_step(Step::Reading).is_break() {
                return Ok(None);
            }
            next = Some(self.step(chunk, position + index * READ_CHUNK)?);
        }
        Ok(next)
    }

    /// One forward pass; the most probable next token.
    fn step(&mut self, tokens: &[u32], position: usize) -> Result<u32, GenerateError> {
        let model = &mut self.model;
        let next = Device::Cpu.with_context(move || model.forward(tokens, position)?.argmax(0)?.to_scalar::<u32>())?;
        Ok(next)
    }

    fn decode(&self, ids: &[u32]) -> Result<String, GenerateError> {
        self.tokenizer
            .decode(ids, true)
            .map_err(|e| GenerateError::File { path: self.name.clone(), reason: format!("tokenizer: {e}") })
    }
}

impl Generator for GgufGenerator {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_local(&self) -> bool {
        true
    }

    fn generate(
        &mut self,
        request: &GenerateRequest,
        on_step: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> Result<Generation, GenerateError> {
        let (shared, own) = self.prompt_tokens(request)?;
        let prompt_tokens = shared.len() + own.len();
        if prompt_tokens + request.max_tokens > self.context {
            return Err(GenerateError::TooLong { tokens: prompt_tokens, context: self.context });
        }
        let mut generation = Generation {
            text: String::new(),
            stop: StopReason::Cancelled,
            prompt_tokens,
            reused_tokens: 0,
            written_tokens: 0,
        };
        match self.read_shared(&shared, on_step)? {
            ControlFlow::Break(()) => return Ok(generation),
            ControlFlow::Continue(reused) => generation.reused_tokens = reused,
        }
        let Some(mut next) = self.read(&own, shared.len(), on_step)? else {
            return Ok(generation);
        };
        let mut written = Vec::with_capacity(request.max_tokens);
        loop {
            if self.stop_ids.contains(&next) {
                generation.stop = StopReason::End;
                break;
            }
            written.push(next);
            let text = self.decode(&written)?;
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
            if written.len() >= request.max_tokens {
                generation.stop = StopReason::Length;
                break;
            }
            next = self.step(&[next], prompt_tokens + written.len() - 1)?;
        }
        generation.written_tokens = written.len();
        Ok(generation)
    }

    fn warm_up(&mut self, request: &GenerateRequest) -> Result<(), GenerateError> {
        let (shared, own) = self.prompt_tokens(request)?;
        let mut go_on = |_: Step<'_>| ControlFlow::Continue(());
        if self.read_shared(&shared, &mut go_on)?.is_continue() && shared.is_empty() {
            // Weights are repacked at first use: read something even where no prefix can be kept.
            self.read(&own, 0, &mut go_on)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::generator::{Role, Turn};
    use super::*;
    use crate::models::{Manifest, ModelStore, default_cache_dir};

    /// The built-in chat model, or None (and a word about it) where it was not pulled.
    fn built_in_file() -> Option<std::path::PathBuf> {
        let manifest = Manifest::load(None).expect("embedded manifest");
        let model = manifest.get(crate::inference::CHAT_MODEL).expect("named in the manifest");
        let path = ModelStore::new(default_cache_dir()).path(model, &model.files[0].name);
        if path.is_file() {
            return Some(path);
        }
        println!("skipped: {} was not pulled", path.display());
        None
    }

    fn request(question: &str) -> GenerateRequest {
        let turn = |role, content: &str| Turn { role, content: content.to_owned() };
        GenerateRequest {
            turns: vec![
                turn(Role::System, "Answer in one short sentence."),
                turn(Role::User, "How do I restart the router?"),
                turn(Role::Assistant, "Hold the power button for ten seconds."),
                turn(Role::User, question),
            ],
            shared_turns: 3,
            max_tokens: 24,
        }
    }

    /// Logits behind the prompt by candle's own model, which reads everything at once.
    fn logits_by_candle(path: &Path, prompt: &[u32]) -> Vec<f32> {
        use candle_transformers::models::quantized_qwen2::ModelWeights;
        let mut file = File::open(path).expect("model file");
        let content = gguf_file::Content::read(&mut file).expect("GGUF");
        let mut model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu).expect("weights");
        let ids = candle_core::Tensor::new(prompt, &Device::Cpu).and_then(|t| t.unsqueeze(0)).expect("ids");
        model.forward(&ids, 0).and_then(|l| l.flatten_all()).and_then(|l| l.to_vec1()).expect("forward")
    }

    /// Cosine of two vectors after their means are taken off: what a common shift of all logits leaves unchanged.
    fn correlation(a: &[f32], b: &[f32]) -> f64 {
        let mean = |x: &[f32]| x.iter().map(|v| f64::from(*v)).sum::<f64>() / x.len() as f64;
        let (ma, mb) = (mean(a), mean(b));
        let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
            a.iter().zip(b).map(|(x, y)| f(f64::from(*x) - ma, f64::from(*y) - mb)).sum()
        };
        sum(&|x, y| x * y) / (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt()
    }

    #[test]
    fn replies_are_the_same_with_and_without_a_kept_prefix() {
        let Some(path) = built_in_file() else { return };
        let mut generator = GgufGenerator::load(&path, 1024).expect("loads");
        let request = request("¿Cómo cambio mi contraseña del correo?");
        let mut go_on = |_: Step<'_>| ControlFlow::Continue(());
        let started = std::time::Instant::now();
        let fresh = generator.generate(&request, &mut go_on).expect("writes");
        let first = started.elapsed();
        let kept = generator.generate(&request, &mut go_on).expect("writes");
        println!("fresh {first:?}, kept {:?}: {kept:?}", started.elapsed() - first);
        assert_eq!((fresh.reused_tokens, fresh.text.as_str()), (0, kept.text.as_str()));
        assert!(kept.reused_tokens > 20, "{kept:?}");
    }

    #[test]
    fn logits_agree_with_candles_own_qwen2() {
        let Some(path) = built_in_file() else { return };
        let mut generator = GgufGenerator::load(&path, 1024).expect("loads");
        let (shared, own) = generator.prompt_tokens(&request("My invoices print blank pages, why?")).expect("tokens");
        let prompt = [shared, own].concat();
        let reference = logits_by_candle(&path, &prompt);
        let model = &mut generator.model;
        let whole = model.forward(&prompt, 0).and_then(|l| l.to_vec1::<f32>()).expect("forward");
        // In pieces, over the cache: what serving does.
        let (head, tail) = prompt.split_at(prompt.len() / 2);
        model.forward(head, 0).expect("forward");
        let pieces = model.forward(tail, head.len()).and_then(|l| l.to_vec1::<f32>()).expect("forward");
        let (whole, pieces) = (correlation(&whole, &reference), correlation(&pieces, &reference));
        println!("correlation with candle's logits: read at once {whole:.6}, in pieces {pieces:.6}");
        // Not 1: both round activations to 8 bits on the way, and in another order.
        assert!(whole > 0.999 && pieces > 0.999, "{whole} {pieces}");
    }

    #[test]
    fn a_generation_can_be_broken_off_while_reading() {
        let Some(path) = built_in_file() else { return };
        let mut generator = GgufGenerator::load(&path, 1024).expect("loads");
        let broken = generator.generate(&request("hi"), &mut |_| ControlFlow::Break(())).expect("no failure");
        assert_eq!((broken.stop, broken.written_tokens), (StopReason::Cancelled, 0));
    }

    #[test]
    fn a_file_cut_short_is_named() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("short.gguf");
        std::fs::write(&path, b"GGUF\x03\0\0\0cut").expect("writable");
        let error = GgufGenerator::load(&path, 512).err().expect("not a model").to_string();
        assert!(error.contains("short.gguf") && error.contains("verify"), "{error}");
        let missing = GgufGenerator::load(&folder.path().join("none.gguf"), 512).err().expect("missing").to_string();
        assert!(missing.contains("models pull"), "{missing}");
    }
}
