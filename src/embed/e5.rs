//! multilingual-e5-small with 4-bit weights, run by our own forward pass (`bert.rs`).

use std::path::Path;

use tokenizers::Tokenizer;

use super::bert::PackedBert;
use super::container::Container;
use super::{EmbedError, Embedder, Prefixes, Role, cut, normalise};

/// Tokens that are read of a text unless told otherwise: a request's first 200 words. Twice as many cost more than
/// twice the time and hardly change what is found.
pub const DEFAULT_MAX_TOKENS: usize = 256;

const NAME: &str = "multilingual-e5-small-q4";
/// Prefix, start and end token must fit.
const LEAST_MAX_TOKENS: usize = 16;
/// Tokens in one forward pass: enough for large matrix products, and few enough that the activations stay in the cache
/// (3 MB per 2,048 tokens and hidden matrix).
const TOKENS_PER_PASS: usize = 2_048;
/// No piece of the vocabulary is longer, so what lies beyond cannot be read anyway: a text of a megabyte costs no more
/// than one that is just too long.
const BYTES_PER_TOKEN: usize = 48;

/// The built-in embedder: 384 dimensions, 94 languages, mean pooling, `query: ` and `passage: ` prefixes.
pub struct E5Embedder {
    tokenizer: Tokenizer,
    model: PackedBert,
    prefixes: Prefixes,
    max_tokens: usize,
    tokens_read: u64,
}

impl E5Embedder {
    /// Loads the container and the tokenizer (about 200 MB of memory with its vocabulary). `max_tokens` caps what is
    /// read of each text, prefix included; it is itself held between 16 and the model's 512.
    ///
    /// # Errors
    /// [`EmbedError::File`] when a file is missing, damaged or of another model.
    pub fn load(container: &Path, tokenizer: &Path, max_tokens: usize) -> Result<Self, EmbedError> {
        let model = PackedBert::load(Container::open(container)?)?;
        let tokenizer = load_tokenizer(tokenizer)?;
        let max_tokens = max_tokens.clamp(LEAST_MAX_TOKENS, model.shape().positions.max(LEAST_MAX_TOKENS));
        Ok(Self { tokenizer, model, prefixes: Prefixes::e5(), max_tokens, tokens_read: 0 })
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
        let prefixed = texts.iter().map(|text| self.prefixed(text, role)).collect();
        let encodings = self
            .tokenizer
            .encode_batch_fast(prefixed, true)
            .map_err(|error| EmbedError::Tokenizer(error.to_string()))?;
        Ok(encodings.iter().map(|encoding| cut_ids(encoding.get_ids(), self.max_tokens)).collect())
    }
}

impl Embedder for E5Embedder {
    fn name(&self) -> &str {
        NAME
    }

    fn dimensions(&self) -> usize {
        self.model.shape().hidden
    }

    fn embed(&mut self, texts: &[&str], role: Role) -> Result<Vec<Vec<f32>>, EmbedError> {
        let tokens = self.tokenise(texts, role)?;
        self.tokens_read += tokens.iter().map(|ids| ids.len() as u64).sum::<u64>();
        let mut vectors = vec![Vec::new(); texts.len()];
        for pass in passes(&tokens) {
            let sequences: Vec<&[u32]> = pass.iter().map(|&index| tokens[index].as_slice()).collect();
            let pooled = self.model.forward(&sequences)?;
            for (index, mut vector) in pass.into_iter().zip(pooled) {
                normalise(&mut vector);
                vectors[index] = vector;
            }
        }
        Ok(vectors)
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

/// Shares texts out over forward passes, by index: long ones first, so that a pass holds texts of about one length and
/// its attention is shared out evenly.
fn passes(tokens: &[Vec<u32>]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..tokens.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(tokens[index].len()));
    let mut passes: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for index in order {
        let length = tokens[index].len();
        match passes.last_mut() {
            Some(pass) if length <= room => {
                pass.push(index);
                room -= length;
            }
            _ => {
                passes.push(vec![index]);
                room = TOKENS_PER_PASS.saturating_sub(length);
            }
        }
    }
    passes
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::peer::CandlePeer;
    use super::*;

    /// The pulled model files, or none where they have not been pulled.
    fn model_files() -> Option<(PathBuf, PathBuf)> {
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

    #[test]
    fn vectors_are_those_of_candle_alone_and_in_a_batch() {
        let Some((container, tokenizer)) = model_files() else { return };
        let peer = CandlePeer::load(&container).expect("candle's model");
        let mut embedder = E5Embedder::load(&container, &tokenizer, 128).expect("the embedder");
        let long = "La transmisión se corta cada dos minutos y vuelve sola. ".repeat(60);
        let texts = [
            "",
            "My site is down since 9:00, please help",
            "no puedo entrar a mi cuenta 😡😡",
            &long,
            "\u{5e9}\u{5dc}\u{5d5}\u{5dd}",
        ];
        let tokens = embedder.tokenise(&texts, Role::Query).expect("tokens");
        assert_eq!(tokens[3].len(), 128);
        let together = embedder.embed(&texts, Role::Query).expect("vectors");
        for ((text, ids), vector) in texts.iter().zip(&tokens).zip(&together) {
            let with_candle = similarity(vector, &peer.vector(ids).expect("a vector"));
            assert!(with_candle >= 0.9999, "{text:.40}: cosine with candle {with_candle}");
            let alone = embedder.embed(&[text], Role::Query).expect("a vector");
            let with_alone = similarity(vector, &alone[0]);
            assert!(with_alone >= 0.999_99, "{text:.40}: cosine with itself alone {with_alone}");
        }
    }

    #[test]
    fn a_spanish_request_is_closest_to_its_english_match() {
        let Some((container, tokenizer)) = model_files() else { return };
        let mut embedder = E5Embedder::load(&container, &tokenizer, DEFAULT_MAX_TOKENS).expect("the embedder");
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
        let mut embedder = E5Embedder::load(&container, &tokenizer, DEFAULT_MAX_TOKENS).expect("the embedder");
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
        let error = E5Embedder::load(nowhere, nowhere, 256).err().expect("no file").to_string();
        assert!(error.contains("/nonexistent/model"), "{error}");
    }

    #[test]
    fn cut_ids_keep_the_end_token() {
        assert_eq!(cut_ids(&[0, 5, 6, 7, 2], 4), [0, 5, 6, 2]);
        assert_eq!(cut_ids(&[0, 5, 6, 7, 2], 5), [0, 5, 6, 7, 2]);
        assert_eq!(cut_ids(&[0, 2], 5), [0, 2]);
        assert!(cut_ids(&[], 5).is_empty());
    }

    #[test]
    fn passes_hold_every_text_once_and_are_bounded() {
        let tokens: Vec<Vec<u32>> = (0..500).map(|index| vec![1; 1 + (index * 37) % 256]).collect();
        let passes = passes(&tokens);
        let mut seen: Vec<usize> = passes.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..500).collect::<Vec<_>>());
        for pass in &passes {
            let total: usize = pass.iter().map(|&index| tokens[index].len()).sum();
            assert!(total <= TOKENS_PER_PASS, "{total} tokens in one pass");
        }
        assert!(super::passes(&[]).is_empty());
    }
}
