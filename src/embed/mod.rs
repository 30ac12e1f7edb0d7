//! Texts to unit vectors.

mod below;
mod bert;
pub mod cached;
mod calm;
pub mod candle_bert;
pub(crate) mod container;
pub mod e5;
pub mod masked;
pub mod openai;
pub mod peer;
pub mod reader;
pub mod tuning;

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::endpoint::breaker::Breaker;

pub use cached::{CachedEmbedder, DEFAULT_KEPT};
pub use calm::calm;
pub use candle_bert::{CandleBertEmbedder, CandleBertOptions};
pub use e5::{DEFAULT_MAX_TOKENS, E5Embedder, E5Options};
pub use masked::MaskedEmbedder;
pub use openai::{OpenAiEmbedder, OpenAiOptions};
pub use peer::CandlePeer;
pub use reader::Reader;
pub use tuning::Tuning;

/// Which side of a search a text is on; e5-like models want to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// What is looked for: a customer's request.
    Query,
    /// What is found: a stored problem, solution or passage.
    Passage,
}

/// Texts to unit vectors. Synchronous: it is owned by the inference thread ([`crate::inference`]).
pub trait Embedder: Send {
    /// Name that changes whenever the vectors would (model and revision); vectors of two names are never mixed.
    fn name(&self) -> &str;
    /// Length of every vector.
    fn dimensions(&self) -> usize;
    /// One unit vector (L2 norm 1) per text, in order. Texts longer than the model reads are cut, never refused; an
    /// empty text gives the vector of an empty text.
    fn embed(&mut self, texts: &[&str], role: Role) -> Result<Vec<Vec<f32>>, EmbedError>;
    /// What each request says of its urgency, difficulty and next step: [`Reader::scores`]. None where no reader is at hand.
    fn read(&mut self, _requests: &[&str]) -> Result<Option<Vec<Vec<f32>>>, EmbedError> {
        Ok(None)
    }
    /// [`Reader::name`] of the reader, where there is one.
    fn reader(&self) -> Option<&str> {
        None
    }
    /// Tokens read since the model was loaded, where it is known; for reports of speed.
    fn tokens_read(&self) -> u64 {
        0
    }
    /// How the server behind it fares, where there is one.
    fn breaker(&self) -> Option<Arc<Breaker>> {
        None
    }
}

#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    #[error("embedding model: {0}")]
    Model(#[from] candle_core::Error),
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    #[error("embedding endpoint {url}: {reason}")]
    Endpoint { url: String, reason: String },
    #[error("{path}: {reason}")]
    File { path: String, reason: String },
}

impl EmbedError {
    fn file(path: &Path, reason: impl Into<String>) -> Self {
        Self::File { path: path.display().to_string(), reason: reason.into() }
    }
}

/// What is put before a text so that the model knows its [`Role`]; e5 models want `query: ` and `passage: `, most
/// others nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes {
    pub query: String,
    pub passage: String,
}

impl Prefixes {
    /// The prefixes that the e5 family was trained with.
    pub fn e5() -> Self {
        Self { query: "query: ".to_string(), passage: "passage: ".to_string() }
    }

    /// The prefix of one role.
    pub fn of(&self, role: Role) -> &str {
        match role {
            Role::Query => &self.query,
            Role::Passage => &self.passage,
        }
    }
}

/// Scales a vector to L2 norm 1. A vector of zeros, or one with a value that is no number, becomes the first unit
/// vector: the contract is a unit vector, and it must not poison an index.
pub fn normalise(vector: &mut [f32]) {
    let norm = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    if norm.is_finite() && norm > 0.0 {
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
        return;
    }
    vector.fill(0.0);
    if let Some(first) = vector.first_mut() {
        *first = 1.0;
    }
}

/// Key under which the vector of a text may be kept: the same for the same model name, role and text, and different
/// otherwise. 64 hexadecimal digits.
pub fn content_key(model: &str, role: Role, text: &str) -> String {
    let role = match role {
        Role::Query => "query",
        Role::Passage => "passage",
    };
    let mut hasher = Sha256::new();
    for part in [model, role, text] {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs a padded forward pass over sequences of about one length at a time; the vectors come in the order of `sequences`.
fn in_batches(
    sequences: &[Vec<u32>],
    size: usize,
    mut forward: impl FnMut(&[&[u32]]) -> Result<Vec<Vec<f32>>, EmbedError>,
) -> Result<Vec<Vec<f32>>, EmbedError> {
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|&index| sequences[index].len());
    let mut vectors = vec![Vec::new(); sequences.len()];
    for batch in order.chunks(size) {
        let together: Vec<&[u32]> = batch.iter().map(|&index| sequences[index].as_slice()).collect();
        for (&index, vector) in batch.iter().zip(forward(&together)?) {
            vectors[index] = vector;
        }
    }
    Ok(vectors)
}

/// The start of a text, at most `bytes` long, cut between two characters.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalised_vectors_are_unit_vectors_whatever_comes_in() {
        for mut vector in [
            vec![3.0, 4.0],
            vec![0.0, 0.0],
            vec![f32::NAN, 1.0],
            vec![f32::INFINITY, 1.0],
            vec![1e-30, 0.0],
            vec![1e30, 1e30],
        ] {
            normalise(&mut vector);
            let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
            assert!((norm - 1.0).abs() < 1e-6, "{vector:?}");
        }
        normalise(&mut []);
    }

    #[test]
    fn content_keys_tell_model_role_and_text_apart() {
        let key = content_key("m", Role::Query, "hola");
        assert_eq!(key.len(), 64);
        assert_eq!(key, content_key("m", Role::Query, "hola"));
        assert_ne!(key, content_key("m", Role::Passage, "hola"));
        assert_ne!(key, content_key("n", Role::Query, "hola"));
        assert_ne!(content_key("ab", Role::Query, "c"), content_key("a", Role::Query, "bc"));
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        assert_eq!(cut("año", 2), "a");
        assert_eq!(cut("año", 3), "añ");
        assert_eq!(cut("", 5), "");
    }
}
