//! multilingual-e5-small with 4-bit weights, run by our own forward pass (`bert.rs`).

use std::path::Path;

use tokenizers::Tokenizer;

use super::bert::PackedBert;
use super::container::Container;
use super::reader::Reader;
use super::tuning::Tuning;
use super::{EmbedError, Embedder, Prefixes, Role, cut, normalise};
use crate::kernels::pool;

/// Tokens that are read of a text unless told otherwise: a request's first 200 words. Twice as many cost more than
/// twice the time and hardly change what is found.
pub const DEFAULT_MAX_TOKENS: usize = 256;

/// How [`E5Embedder`] reads.
#[derive(Clone, Debug)]
pub struct E5Options {
    /// Tokens that are read of each text, prefix included; held between 16 and the model's 512.
    pub max_tokens: usize,
    /// What fine-tuning changed; None for the model as it was published.
    pub tuning: Option<Tuning>,
    /// Reads requests for their urgency, difficulty and next step.
    pub reader: Option<Reader>,
}

impl Default for E5Options {
    fn default() -> Self {
        Self { max_tokens: DEFAULT_MAX_TOKENS, tuning: None, reader: None }
    }
}

/// Name of the model: 4-bit weights from the file, rounded once more to 8 bits with a scale per row; activations of 8 bits.
pub const NAME: &str = "multilingual-e5-small-q4-w8a8";
/// Texts that a thread tokenises at a time.
const TEXTS_PER_TASK: usize = 4;
/// Prefix, start and end token must fit.
const LEAST_MAX_TOKENS: usize = 16;
/// No piece of the vocabulary is longer, so what lies beyond cannot be read anyway: a text of a megabyte costs no more
/// than one that is just too long.
const BYTES_PER_TOKEN: usize = 48;

/// The built-in embedder: 384 dimensions, 94 languages, mean pooling, `query: ` and `passage: ` prefixes.
pub struct E5Embedder {
    tokenizer: Tokenizer,
    model: PackedBert,
    prefixes: Prefixes,
    max_tokens: usize,
    name: String,
    tokens_read: u64,
}

/// [`Embedder::name`] of the model with this difference.
pub fn name_with(tuning: Option<&Tuning>) -> String {
    tuning.map_or(NAME.to_owned(), |tuning| format!("{NAME}{}", tuning.suffix()))
}

impl E5Embedder {
    /// Loads the container and the tokenizer (about 200 MB of memory with its vocabulary).
    ///
    /// # Errors
    /// [`EmbedError::File`] when a file is missing, damaged or of another model.
    pub fn load(container: &Path, tokenizer: &Path, options: E5Options) -> Result<Self, EmbedError> {
        let E5Options { max_tokens, tuning, reader } = options;
        let name = name_with(tuning.as_ref());
        // Each takes half a second, and neither keeps two cores busy.
        let (tokenizer, model) = std::thread::scope(|scope| {
            let reading = scope.spawn(|| load_tokenizer(tokenizer));
            let opened = Container::open(container).and_then(|container| match tuning {
                Some(tuning) => container.tuned(tuning),
                None => Ok(container),
            });
            let model = opened.and_then(|container| PackedBert::load(container, reader));
            (reading.join(), model)
        });
        let model = model?;
        let tokenizer = tokenizer.map_err(|_| EmbedError::Tokenizer("reading it failed unexpectedly".to_owned()))??;
        let max_tokens = max_tokens.clamp(LEAST_MAX_TOKENS, model.shape().positions.max(LEAST_MAX_TOKENS));
        Ok(Self { tokenizer, model, prefixes: Prefixes::e5(), max_tokens, name, tokens_read: 0 })
    }

    /// Tokens that embedding this text reads: prefix, start and end included, and never more than the cap.
    pub fn token_count(&self, text: &str) -> usize {
        let prefixed = self.prefixed(text, Role::Passage);
        self.tokenizer.encode_fast(prefixed, true).map_or(0, |encoding| encoding.len().min(self.max_tokens))
    }

    fn prefixed(&self, text: &str, role: Role) -> String {
        let text = cut(text.trim_start(), self.max_tokens * BYTES_PER_TOKEN);
        format!("{}{text}", self.prefixes.of(role))
    }

    /// The token ids that embedding each text reads: prefix, start and end included, cut to the cap.
    ///
    /// # Errors
    /// [`EmbedError::Tokenizer`] when a text cannot be tokenised.
    pub fn tokenise(&self, texts: &[&str], role: Role) -> Result<Vec<Vec<u32>>, EmbedError> {
        let mut tokens: Vec<Result<Vec<u32>, EmbedError>> = texts.iter().map(|_| Ok(Vec::new())).collect();
        // Not the tokenizer's own threads, which would have to be woken and would fight with the kernels'.
        pool().chunks(&mut tokens, TEXTS_PER_TASK, |index, tokens| {
            for (tokens, text) in tokens.iter_mut().zip(&texts[index * TEXTS_PER_TASK..]) {
                let encoding = self.tokenizer.encode_fast(self.prefixed(text, role), true);
                *tokens = encoding
                    .map(|encoding| cut_ids(encoding.get_ids(), self.max_tokens))
                    .map_err(|error| EmbedError::Tokenizer(error.to_string()));
            }
        });
        tokens.into_iter().collect()
    }
}

impl Embedder for E5Embedder {
    fn name(&self) -> &str {
        &self.name
    }

    fn dimensions(&self) -> usize {
        self.model.shape().hidden
    }

    fn embed(&mut self, texts: &[&str], role: Role) -> Result<Vec<Vec<f32>>, EmbedError> {
        let tokens = self.tokenise(texts, role)?;
        self.tokens_read += tokens.iter().map(|ids| ids.len() as u64).sum::<u64>();
        let sequences: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
        let mut vectors = self.model.forward(&sequences)?;
        vectors.iter_mut().for_each(|vector| normalise(vector));
        Ok(vectors)
    }

    fn read(&mut self, requests: &[&str]) -> Result<Option<Vec<Vec<f32>>>, EmbedError> {
        if self.model.reader().is_none() {
            return Ok(None);
        }
        let tokens = self.tokenise(requests, Role::Query)?;
        self.tokens_read += tokens.iter().map(|ids| ids.len() as u64).sum::<u64>();
        self.model.read(&tokens.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    fn reader(&self) -> Option<&str> {
        self.model.reader().map(Reader::name)
    }

    fn tokens_read(&self) -> u64 {
        self.tokens_read
    }
}

/// Reads a `tokenizer.json`, without the cutting and padding that it may ask for. Marks like `</s>` in a customer's text
/// are read as the text they are.
pub(super) fn load_tokenizer(path: &Path) -> Result<Tokenizer, EmbedError> {
    let mut tokenizer = Tokenizer::from_file(path)
        .map_err(|error| EmbedError::file(path, format!("cannot be read: {error}; run `respondo models pull`")))?;
    tokenizer.with_truncation(None).map_err(|error| EmbedError::file(path, error.to_string()))?.with_padding(None);
    tokenizer.set_encode_special_tokens(true);
    Ok(tokenizer)
}

/// The first `max` ids, with the end token kept at the end.
pub(super) fn cut_ids(ids: &[u32], max: usize) -> Vec<u32> {
    let (Some(head), Some(last)) = (ids.get(..max.saturating_sub(1)), ids.last()) else {
        return ids.to_vec();
    };
    if ids.len() <= max {
        return ids.to_vec();
    }
    head.iter().chain([last]).copied().collect()
}

#[cfg(test)]
pub mod tests {
    use std::path::PathBuf;

    use super::super::peer::CandlePeer;
    use super::*;

    /// The pulled model files, or none where they have not been pulled.
    pub fn model_files() -> Option<(PathBuf, PathBuf)> {
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))?;
        let folder = cache.join("respondo/models/multilingual-e5-small");
        let files = (folder.join("e5-small-q4.bin"), folder.join("tokenizer.json"));
        if files.0.exists() && files.1.exists() {
            return Some(files);
        }
        eprintln!("skipped: no model in {}; `respondo models pull` fetches it", folder.display());
        None
    }

    fn similarity(one: &[f32], other: &[f32]) -> f32 {
        one.iter().zip(other).map(|(one, other)| one * other).sum()
    }

    /// Texts of all lengths: the bodies and answers of the samples.
    fn sample_texts() -> Vec<String> {
        let files = [
            include_str!("../../samples/tickets.jsonl"),
            include_str!("../../samples/articles.jsonl"),
            include_str!("../../samples/requests.jsonl"),
        ];
        let rows = files.iter().flat_map(|file| file.lines());
        let rows = rows.map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a sample"));
        let parts =
            rows.flat_map(|row| ["subject", "title", "body", "summary", "text", "answer"].map(|key| row[key].clone()));
        parts.filter_map(|part| part.as_str().map(str::to_owned)).filter(|part| !part.is_empty()).collect()
    }

    /// 8-bit weights and activations cost a little: at least 0.995 for every text, 0.999 on average.
    #[test]
    fn vectors_of_the_samples_are_close_to_those_of_f32() {
        let Some((container, tokenizer)) = model_files() else { return };
        let peer = CandlePeer::load(&container).expect("candle's model");
        let mut embedder = E5Embedder::load(&container, &tokenizer, E5Options::default()).expect("the embedder");
        let texts = sample_texts();
        let texts: Vec<&str> = texts.iter().step_by(3).map(String::as_str).collect();
        assert!(texts.len() > 100, "{} texts", texts.len());
        let vectors = embedder.embed(&texts, Role::Passage).expect("vectors");
        let references = peer.vectors(&embedder.tokenise(&texts, Role::Passage).expect("tokens")).expect("vectors");
        let mut total = 0.0;
        for ((text, vector), reference) in texts.iter().zip(&vectors).zip(&references) {
            let cosine = similarity(vector, reference);
            assert!(cosine >= 0.995, "{text:.60}: cosine with f32 {cosine}");
            total += cosine;
        }
        assert!(total / texts.len() as f32 >= 0.999, "mean cosine {}", total / texts.len() as f32);
    }

    #[test]
    fn a_vector_is_the_same_bit_by_bit_alone_and_in_any_batch() {
        let Some((container, tokenizer)) = model_files() else { return };
        let peer = CandlePeer::load(&container).expect("candle's model");
        let mut embedder =
            E5Embedder::load(&container, &tokenizer, E5Options { max_tokens: 128, ..E5Options::default() })
                .expect("the embedder");
        let long = "La transmisión se corta cada dos minutos y vuelve sola. ".repeat(60);
        let mut texts = vec![
            "",
            "My site is down since 9:00, please help",
            "no puedo entrar a mi cuenta 😡😡",
            &long,
            "\u{5e9}\u{5dd}",
        ];
        let tokens = embedder.tokenise(&texts, Role::Query).expect("tokens");
        assert_eq!(tokens[3].len(), 128);
        let together = embedder.embed(&texts, Role::Query).expect("vectors");
        for ((text, ids), vector) in texts.iter().zip(&tokens).zip(&together) {
            let cosine = similarity(vector, &peer.vector(ids).expect("a vector"));
            assert!(cosine >= 0.995, "{text:.40}: cosine with f32 {cosine}");
            let alone = embedder.embed(&[text], Role::Query).expect("a vector");
            assert_eq!(&alone[0], vector, "{text:.40}");
        }
        // Enough texts that every thread has passes of its own.
        let samples = sample_texts();
        texts.extend(samples.iter().take(60).map(String::as_str));
        let many = embedder.embed(&texts, Role::Query).expect("vectors");
        assert_eq!(&many[..together.len()], &together[..]);
    }

    #[test]
    fn a_request_is_read_the_same_alone_and_in_any_batch() {
        let Some((container, tokenizer)) = model_files() else { return };
        let reader = Reader::built_in().expect("models/reader.bin is whole");
        let options = E5Options { reader: Some(reader), ..E5Options::default() };
        let mut embedder = E5Embedder::load(&container, &tokenizer, options).expect("the embedder");
        let texts =
            ["", "All my mail is gone since the update!", "¿Puedo cambiar el color de la barra?", &"x ".repeat(4_000)];
        let together = embedder.read(&texts).expect("readings").expect("a reader");
        for (text, reading) in texts.iter().zip(&together) {
            assert!(reading.len() == 12 && reading.iter().all(|score| score.is_finite()), "{reading:?}");
            assert_eq!(&embedder.read(&[text]).expect("a reading").expect("a reader")[0], reading, "{text:.40}");
        }
        for (text, reading) in texts.iter().zip(&together) {
            embedder.embed(&[text], Role::Query).expect("a vector");
            assert_eq!(&embedder.read(&[text]).expect("a reading").expect("a reader")[0], reading, "{text:.40}");
        }
        // Critical rather than low, and the other way round.
        assert!(together[1][0] > together[1][3] && together[2][3] > together[2][0], "{together:?}");
    }

    #[test]
    fn a_spanish_request_is_closest_to_its_english_match() {
        let Some((container, tokenizer)) = model_files() else { return };
        let mut embedder = E5Embedder::load(&container, &tokenizer, E5Options::default()).expect("the embedder");
        assert_eq!((embedder.name(), embedder.dimensions()), (NAME, 384));
        let query = embedder.embed(&["¿Cómo cambio la contraseña de mi correo?"], Role::Query).expect("a vector");
        let passages =
            ["How to change the password of your mailbox", "How to add a subdomain", "Where are my invoices?"];
        let vectors = embedder.embed(&passages, Role::Passage).expect("vectors");
        let similarities: Vec<f32> = vectors.iter().map(|vector| similarity(vector, &query[0])).collect();
        assert!(similarities[0] > similarities[1] && similarities[0] > similarities[2], "{similarities:?}");
    }

    #[test]
    fn strange_texts_give_unit_vectors_in_bounded_time() {
        let Some((container, tokenizer)) = model_files() else { return };
        let mut embedder = E5Embedder::load(&container, &tokenizer, E5Options::default()).expect("the embedder");
        let one_word = "x".repeat(1 << 20);
        let spaces = " ".repeat(1 << 20);
        let binary: String = (0..2_000_u32).map(|value| char::from_u32(value % 32).unwrap_or(' ')).collect();
        let texts =
            [one_word.as_str(), &spaces, &binary, "\u{FFFD}\u{FFFD}\0", "</s></s><s><mask>", "🙂🙂", "\u{202e}abc"];
        let started = std::time::Instant::now();
        let vectors = embedder.embed(&texts, Role::Passage).expect("vectors");
        assert!(started.elapsed().as_secs() < 10, "took {:?}", started.elapsed());
        for (text, vector) in texts.iter().zip(&vectors) {
            assert_eq!(vector.len(), 384);
            assert!((similarity(vector, vector) - 1.0).abs() < 1e-4);
            let count = embedder.token_count(text);
            assert!((1..=DEFAULT_MAX_TOKENS).contains(&count), "{count} tokens");
        }
        assert!(embedder.embed(&[], Role::Query).expect("nothing").is_empty());
        assert!(embedder.token_count("one two three four five") > embedder.token_count("one two"));
    }

    #[test]
    fn missing_files_are_named() {
        let nowhere = Path::new("/nonexistent/model");
        let error = E5Embedder::load(nowhere, nowhere, E5Options::default()).err().expect("no file").to_string();
        assert!(error.contains("/nonexistent/model"), "{error}");
    }

    #[test]
    fn cut_ids_keep_the_end_token() {
        assert_eq!(cut_ids(&[0, 5, 6, 7, 2], 4), [0, 5, 6, 2]);
        assert_eq!(cut_ids(&[0, 5, 6, 7, 2], 5), [0, 5, 6, 7, 2]);
        assert_eq!(cut_ids(&[0, 2], 5), [0, 2]);
        assert!(cut_ids(&[], 5).is_empty());
    }
}
