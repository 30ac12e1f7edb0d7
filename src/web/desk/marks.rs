//! Which passage of its evidence a sentence rests on.

use std::collections::HashSet;

use crate::draft::text::{sentences, words};
use crate::ticket::{Draft, Evidence};

/// A piece of evidence with its sentences.
pub struct Source {
    pub index: usize,
    pub title: String,
    pub url: Option<String>,
    pub memory_id: String,
    pub is_article: bool,
    pub pieces: Vec<Piece>,
}

/// A sentence of a piece of evidence.
pub struct Piece {
    pub text: String,
    /// Numbers of the draft's sentences that rest on it, separated by spaces; empty where none does.
    pub used_by: String,
}

/// A sentence of the draft.
pub struct Claim {
    pub number: usize,
    pub text: String,
    /// Numbers of its evidence as they are shown: "1", "1, 3".
    pub evidence: String,
    /// Share of its words that stand there.
    pub support: String,
    /// No evidence, though it says more than a greeting.
    pub is_own: bool,
}

/// The draft's sentences and their evidence with the passages marked.
pub fn linked(draft: &Draft) -> (Vec<Claim>, Vec<Source>) {
    let claims = draft.sentences.iter().enumerate().map(|(number, sentence)| Claim {
        number,
        text: sentence.text.clone(),
        evidence: sentence.evidence.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        support: crate::web::format::percent(sentence.support),
        is_own: sentence.evidence.is_empty(),
    });
    let sources = draft.evidence.iter().map(|evidence| source(draft, evidence));
    (claims.collect(), sources.collect())
}

fn source(draft: &Draft, evidence: &Evidence) -> Source {
    let texts = sentences(&evidence.text);
    let mut used_by: Vec<Vec<String>> = vec![Vec::new(); texts.len()];
    for (number, sentence) in draft.sentences.iter().enumerate() {
        if !sentence.evidence.contains(&evidence.index) {
            continue;
        }
        if let Some(closest) = closest(&sentence.text, &texts) {
            used_by[closest].push(number.to_string());
        }
    }
    let pieces = texts.into_iter().zip(used_by);
    Source {
        index: evidence.index,
        title: evidence.title.clone(),
        url: evidence.url.clone().filter(|url| url.starts_with("https://") || url.starts_with("http://")),
        memory_id: evidence.memory_id.clone(),
        is_article: evidence.kind == crate::ticket::MemoryKind::Article,
        pieces: pieces.map(|(text, used_by)| Piece { text: text.to_owned(), used_by: used_by.join(" ") }).collect(),
    }
}

/// The text that shares most words with a sentence.
fn closest(sentence: &str, texts: &[&str]) -> Option<usize> {
    let wanted: HashSet<String> = words(sentence).into_iter().collect();
    let shared = |text: &str| words(text).into_iter().collect::<HashSet<_>>().intersection(&wanted).count();
    let best = texts.iter().enumerate().map(|(index, text)| (shared(text), index));
    best.filter(|(count, _)| *count > 0)
        .max_by_key(|(count, index)| (*count, usize::MAX - index))
        .map(|(_, index)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_passage_with_most_common_words_is_marked() {
        let texts = ["Hello there.", "Open Settings and choose Privacy.", "Restart the program."];
        assert_eq!(closest("Choose Privacy in the settings.", &texts), Some(1));
        assert_eq!(closest("Then restart the program.", &texts), Some(2));
        assert_eq!(closest("Unrelated words only", &texts), None);
        assert_eq!(closest("", &texts), None);
    }
}
