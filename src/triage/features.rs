//! What the heads see of a request: hashed word n-grams, concepts and their pairs, a few plain facts, the embedding.
//!
//! All of it is linear in the heads, so that [`super::words`] can say which words decided.

use std::collections::{BTreeMap, HashSet};

use super::lexicon::{self, CONCEPTS};
use super::text::{Token, tokens};
use crate::ticket::{Language, Request};

/// Changes with every change of this file, of `text.rs` or of the lexicon; weights of another version do not load.
pub const FEATURE_VERSION: u32 = 1;
/// Buckets for hashed n-grams; a power of two.
pub const BUCKETS: usize = 1 << 15;
/// Letters of the n-grams within words; they carry over between the forms of one word (`borró`, `borrado`).
const CHAR_GRAM: usize = 5;
/// Weights of the blocks against each other under one regularisation. Set by hand: n-gram rows have length 1, and a concept is
/// worth several n-grams.
const CONCEPT_SCALE: f32 = 0.3;
const PAIR_SCALE: f32 = 0.3;
const FACT_SCALE: f32 = 0.5;
const EMBEDDING_SCALE: f32 = 1.0;

/// The plain facts, in order.
const FACTS: usize = 18;
const CONCEPT_COUNT: usize = CONCEPTS.len();
const PAIR_COUNT: usize = CONCEPT_COUNT * (CONCEPT_COUNT - 1) / 2;

/// Positions of the blocks in a row: n-grams, concepts, concepts in the subject, pairs of concepts, facts.
const CONCEPT_START: usize = BUCKETS;
const SUBJECT_START: usize = CONCEPT_START + CONCEPT_COUNT;
const PAIR_START: usize = SUBJECT_START + CONCEPT_COUNT;
const FACT_START: usize = PAIR_START + PAIR_COUNT;
/// Length of a text row.
pub const TEXT_DIMENSIONS: usize = FACT_START + FACTS;
/// Concepts, pairs and facts: what a meaning row has before the embedding.
const COMMON_DIMENSIONS: usize = TEXT_DIMENSIONS - BUCKETS;

/// Sparse row: position and value, each position once.
pub type Row = Vec<(u32, f32)>;

/// A place where a feature stood: words `first..=last`.
#[derive(Clone, Copy, Debug)]
pub struct Occurrence {
    pub feature: u32,
    pub first: usize,
    pub last: usize,
}

/// A request as features, before weighting by document frequency.
#[derive(Clone, Debug)]
pub struct Features {
    pub words: Vec<Token>,
    /// Counts of hashed n-grams.
    grams: BTreeMap<u32, f32>,
    /// Concepts, pairs and facts, as they are used.
    common: Row,
    pub occurrences: Vec<Occurrence>,
}

impl Features {
    pub fn of(request: &Request) -> Self {
        let text = request.text();
        Self::of_text(&text, subject_end(request, &text), &request.language)
    }

    /// `subject_end`: bytes of `text` that are the subject.
    pub fn of_text(text: &str, subject_end: usize, language: &Language) -> Self {
        let words = tokens(text);
        let mut occurrences = Vec::new();
        add_grams(&words, &mut occurrences);
        let mut grams = BTreeMap::new();
        for occurrence in &occurrences {
            *grams.entry(occurrence.feature).or_insert(0.0) += 1.0;
        }
        let mut common = concept_row(&words, subject_end, &mut occurrences);
        let facts = facts(text, &words, subject_end, language);
        let facts = facts.into_iter().enumerate().filter(|(_, value)| *value != 0.0);
        common.extend(facts.map(|(fact, value)| ((FACT_START + fact) as u32, value * FACT_SCALE)));
        Self { words, grams, common, occurrences }
    }

    /// Positions of the n-grams, for counting document frequencies.
    pub fn grams(&self) -> impl Iterator<Item = usize> {
        self.grams.keys().map(|gram| *gram as usize)
    }

    /// Every place of a concept: its position in the lexicon, first and last word.
    pub fn concepts(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let concepts = CONCEPT_START..SUBJECT_START;
        let found = self.occurrences.iter().filter(move |here| concepts.contains(&(here.feature as usize)));
        found.map(|here| (here.feature as usize - CONCEPT_START, here.first, here.last))
    }

    /// The row of the text heads. n-grams weigh (1 + ln count) x idf, and their vector has length 1.
    pub fn text_row(&self, idf: &[f32]) -> Row {
        let weigh = |(gram, count): (&u32, &f32)| {
            let rarity = idf.get(*gram as usize).copied().unwrap_or(0.0);
            (*gram, (1.0 + count.ln()) * rarity)
        };
        let mut row: Row = self.grams.iter().map(weigh).filter(|(_, value)| *value > 0.0).collect();
        let norm = row.iter().map(|(_, value)| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        row.iter_mut().for_each(|(_, value)| *value /= norm);
        row.extend(&self.common);
        row
    }

    /// The row of the meaning heads: concepts, pairs and facts, then the embedding, centred and scaled.
    pub fn meaning_row(&self, embedding: &[f32], centre: &Centre) -> Row {
        let mut row: Row = self.common.iter().map(|(at, value)| (*at - BUCKETS as u32, *value)).collect();
        let centred = embedding.iter().zip(&centre.mean).enumerate();
        row.extend(
            centred.map(|(dimension, (value, mean))| {
                ((COMMON_DIMENSIONS + dimension) as u32, (value - mean) * centre.scale)
            }),
        );
        row
    }
}

/// Length of a meaning row for embeddings of this length.
pub fn meaning_dimensions(embedding: usize) -> usize {
    COMMON_DIMENSIONS + embedding
}

/// Where the embeddings of the training data lie; e5 vectors share a large common part that says nothing.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Centre {
    pub mean: Vec<f32>,
    /// Makes the mean squared length of the centred vectors 1.
    pub scale: f32,
}

impl Centre {
    pub fn of<'a>(embeddings: impl Iterator<Item = &'a [f32]> + Clone) -> Self {
        let mut mean = Vec::new();
        let mut count = 0.0f32;
        for embedding in embeddings.clone() {
            mean.resize(embedding.len(), 0.0f32);
            mean.iter_mut().zip(embedding).for_each(|(sum, value)| *sum += value);
            count += 1.0;
        }
        mean.iter_mut().for_each(|sum| *sum /= count.max(1.0));
        let squares = |embedding: &[f32]| embedding.iter().zip(&mean).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        let spread = embeddings.map(squares).sum::<f32>() / count.max(1.0);
        let scale = EMBEDDING_SCALE / spread.sqrt().max(1e-6);
        Self { mean, scale }
    }
}

fn subject_end(request: &Request, text: &str) -> usize {
    let subject = request.subject.trim();
    if text.starts_with(subject) { subject.len() } else { 0 }
}

/// Word unigrams and bigrams (within a clause) and letter n-grams (within a word).
fn add_grams(words: &[Token], occurrences: &mut Vec<Occurrence>) {
    for (at, word) in words.iter().enumerate() {
        occurrences.push(Occurrence { feature: bucket(&["w", &word.folded]), first: at, last: at });
        if let Some(next) = words.get(at + 1).filter(|next| next.clause == word.clause) {
            let feature = bucket(&["b", &word.folded, &next.folded]);
            occurrences.push(Occurrence { feature, first: at, last: at + 1 });
        }
        let framed: Vec<char> = std::iter::once('<').chain(word.folded.chars()).chain(std::iter::once('>')).collect();
        for gram in framed.windows(CHAR_GRAM) {
            let gram: String = gram.iter().collect();
            occurrences.push(Occurrence { feature: bucket(&["c", &gram]), first: at, last: at });
        }
    }
}

fn bucket(parts: &[&str]) -> u32 {
    (hash(parts) as usize & (BUCKETS - 1)) as u32
}

/// FNV-1a, 64 bits, over the parts with a separator; the upper half folded into the lower.
pub fn hash(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for part in parts {
        for byte in part.bytes().chain(std::iter::once(0)) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash ^ (hash >> 32)
}

fn concept_row(words: &[Token], subject_end: usize, occurrences: &mut Vec<Occurrence>) -> Row {
    let found = lexicon::find(words);
    let mut present: BTreeMap<u32, f32> = BTreeMap::new();
    let mut clause_start = 0;
    for (position, here) in found.iter().enumerate() {
        let feature = (CONCEPT_START + here.concept) as u32;
        occurrences.push(Occurrence { feature, first: here.first, last: here.last });
        *present.entry(feature).or_insert(0.0) += 1.0;
        if words[here.first].start < subject_end {
            let feature = (SUBJECT_START + here.concept) as u32;
            occurrences.push(Occurrence { feature, first: here.first, last: here.last });
            *present.entry(feature).or_insert(0.0) += 1.0;
        }
        while words[found[clause_start].first].clause != words[here.first].clause {
            clause_start += 1;
        }
        // Pairs reach back eight concepts at most: enough for a clause, and bounded for any text.
        for before in &found[clause_start.max(position.saturating_sub(8))..position] {
            let Some(pair) = pair_position(before.concept, here.concept) else { continue };
            let feature = (PAIR_START + pair) as u32;
            let last = here.last.max(before.last);
            occurrences.push(Occurrence { feature, first: before.first, last });
            *present.entry(feature).or_insert(0.0) += 1.0;
        }
    }
    let scale = |feature: u32| if feature < PAIR_START as u32 { CONCEPT_SCALE } else { PAIR_SCALE };
    present.into_iter().map(|(feature, count)| (feature, scale(feature) * (1.0 + count.ln()))).collect()
}

/// Position of an unordered pair of different concepts.
fn pair_position(one: usize, other: usize) -> Option<usize> {
    let (low, high) = (one.min(other), one.max(other));
    (low != high).then(|| high * (high - 1) / 2 + low)
}

/// Facts about the text, each about 0 to 1.
fn facts(text: &str, words: &[Token], subject_end: usize, language: &Language) -> [f32; FACTS] {
    let read = &text[..text.floor_char_boundary(9_000)];
    let count = |wanted: fn(char) -> bool| read.chars().filter(|letter| wanted(*letter)).count() as f32;
    let some = |present: bool| f32::from(u8::from(present));
    let total = words.len() as f32;
    let length = (1.0 + total).ln() / 6.0;
    let shouted = words.iter().filter(|word| word.shouted).count() as f32;
    let distinct = words.iter().map(|word| word.folded.as_str()).collect::<HashSet<_>>().len() as f32;
    let letters = count(char::is_alphabetic).max(1.0);
    let latin = count(|letter| letter.is_alphabetic() && letter < '\u{250}');
    let pieces = || read.split_whitespace().take(2_000);
    [
        length,
        length * length,
        some(total < 8.0),
        some(subject_end > 0),
        (count(|letter| letter == '?') / 3.0).min(1.0),
        some(read.trim_end().ends_with('?')),
        (count(|letter| letter == '!') / 3.0).min(1.0),
        (shouted / total.max(1.0)).min(1.0),
        some(shouted > 3.0),
        some(pieces().any(is_error_code)),
        some(pieces().any(is_version)),
        some(read.contains("http") || read.contains("www.")),
        some(read.contains(['$', '€', '£'])),
        some(read.contains('#')) + some(read.starts_with(['@', '.']) && read.contains('@')),
        1.0 - latin / letters,
        1.0 - distinct / total.max(1.0),
        some(*language == Language::ES),
        (read.lines().count() as f32 / 20.0).min(1.0),
    ]
}

/// `0x80070005`, `NS_ERROR_NET_RESET`, `SSL_ERROR_...`: how programs name their failures.
fn is_error_code(piece: &str) -> bool {
    let hexadecimal = piece.starts_with("0x") && piece.len() > 4;
    let constant = piece.len() > 8
        && piece.contains('_')
        && piece.chars().all(|letter| letter == '_' || !letter.is_lowercase())
        && piece.chars().any(char::is_alphabetic);
    hexadecimal || constant
}

/// `115.3`, `v2.1`, `(128.10.0esr`: digits, a full stop, digits.
fn is_version(piece: &str) -> bool {
    let piece = piece.trim_start_matches(|letter: char| !letter.is_ascii_digit());
    let mut parts = piece.split('.');
    let major = parts.next().unwrap_or_default();
    let minor = parts.next().unwrap_or_default();
    !major.is_empty()
        && major.len() <= 4
        && major.bytes().all(|byte| byte.is_ascii_digit())
        && minor.starts_with(|letter: char| letter.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Features {
        Features::of_text(text, 0, &Language::EN)
    }

    #[test]
    fn rows_have_length_one_and_stay_inside() {
        let idf = vec![1.0; BUCKETS];
        let row = of("I lost all my mail, I cannot send since 115.3!").text_row(&idf);
        let norm: f32 = row.iter().filter(|(at, _)| (*at as usize) < BUCKETS).map(|(_, value)| value * value).sum();
        assert!((norm - 1.0).abs() < 1e-4);
        assert!(row.iter().all(|(at, _)| (*at as usize) < TEXT_DIMENSIONS));
        let unique: HashSet<u32> = row.iter().map(|(at, _)| *at).collect();
        assert_eq!(unique.len(), row.len());
    }

    #[test]
    fn meaning_rows_carry_the_centred_embedding() {
        let vectors = [vec![1.0f32, 0.0], vec![0.0, 1.0]];
        let centre = Centre::of(vectors.iter().map(Vec::as_slice));
        assert_eq!(centre.mean, [0.5, 0.5]);
        let row = of("help").meaning_row(&vectors[0], &centre);
        let last = row.last().copied().unwrap_or_default();
        assert_eq!(last.0 as usize, meaning_dimensions(2) - 1);
        assert!(last.1 < 0.0);
    }

    #[test]
    fn codes_and_versions_are_told_from_words() {
        assert!(is_error_code("0x80070005") && is_error_code("NS_ERROR_NET_RESET") && !is_error_code("HELLO"));
        assert!(is_version("v115.3") && is_version("(128.10.0esr") && !is_version("3.") && !is_version("Hi.you"));
    }

    #[test]
    fn pairs_have_their_own_positions() {
        let mut seen = HashSet::new();
        for high in 0..CONCEPT_COUNT {
            for low in 0..high {
                assert!(seen.insert(pair_position(low, high)));
            }
        }
        assert_eq!(seen.len(), PAIR_COUNT);
        assert_eq!(pair_position(3, 3), None);
    }

    #[test]
    fn hostile_texts_give_finite_rows() {
        let idf = vec![1.0; BUCKETS];
        let huge = "lost mail ".repeat(120_000);
        for text in ["", " ", "🙂🙂", "\u{0}\u{1}\u{fffd}", "שלום עולם", "??????", &huge] {
            let row = of(text).text_row(&idf);
            assert!(row.iter().all(|(_, value)| value.is_finite()), "{:?}", text.get(..10));
        }
    }
}
