//! The customer's own words that decided a judgement: one stretch of 2 to 8 words within a clause, exactly as written.
//!
//! Two things make a stretch good. Its words speak for the class: the heads are linear, so every n-gram and concept has
//! its share in the score, and the share is spread over the words it was found in. And, for urgency, it is the kind
//! of stretch that a support lead would mark: a small tagger learnt that from the words marked in the training rows. A stretch
//! that does not speak for the class is never shown.

use super::features::{Features, Row, TEXT_DIMENSIONS, hash};
use super::fit::{self, Example};
use super::heads::{CLASSES, Linear};

const FEWEST_WORDS: usize = 2;
const MOST_WORDS: usize = 8;
/// Buckets for the tagger's hashed features; a power of two.
pub const TAG_BUCKETS: usize = 1 << 14;
/// Value of each tagger feature, and its regularisation.
const TAG_VALUE: f32 = 0.5;
const TAG_L2: f32 = 3e-5;
/// A word belongs to the stretch from this probability of being marked on; chosen on 500 training rows held out.
const TAG_THRESHOLD: f32 = 0.1;
/// What a word's share in the score counts beside the tagger's probability.
const SHARE_WEIGHT: f32 = 0.1;

/// Says how likely each word is one that a support lead would mark.
#[derive(Clone, Debug, PartialEq)]
pub struct Tagger {
    pub weights: Vec<f32>,
    pub bias: f32,
}

impl Tagger {
    /// Learns from texts and the byte range marked in each.
    pub fn fit(marked: &[(&Features, std::ops::Range<usize>)]) -> Self {
        let mut rows = Vec::new();
        for (features, range) in marked {
            for (word, row) in features.words.iter().zip(tag_rows(features)) {
                rows.push((row, usize::from(word.start < range.end && range.start < word.end)));
            }
        }
        let examples: Vec<Example> =
            rows.iter().map(|(row, class)| Example { row, class: *class, weight: 1.0 }).collect();
        let linear = fit::linear(&examples, TAG_BUCKETS, TAG_L2, None);
        let weights = linear.weights.chunks_exact(CLASSES).map(|classes| classes[1] - classes[0]).collect();
        Self { weights, bias: linear.bias[1] - linear.bias[0] }
    }

    fn probabilities(&self, features: &Features) -> Vec<f32> {
        let score = |row: Row| {
            let parts =
                row.iter().map(|(position, value)| self.weights.get(*position as usize).unwrap_or(&0.0) * value);
            1.0 / (1.0 + (-self.bias - parts.sum::<f32>()).exp())
        };
        tag_rows(features).into_iter().map(score).collect()
    }
}

/// One row per word: the word, its neighbours, its concepts and those of its clause, its place.
fn tag_rows(features: &Features) -> Vec<Row> {
    let words = &features.words;
    let mut own: Vec<Vec<usize>> = vec![Vec::new(); words.len()];
    features.concepts().for_each(|(concept, first, last)| own[first..=last].iter_mut().for_each(|of| of.push(concept)));
    let near = |at: Option<usize>, clause: u32| {
        let word = at.and_then(|at| words.get(at)).filter(|word| word.clause == clause);
        word.map_or("", |word| word.folded.as_str())
    };
    let mut rows = Vec::with_capacity(words.len());
    let mut clause: (Option<u32>, Vec<String>) = (None, Vec::new());
    for (at, word) in words.iter().enumerate() {
        if clause.0 != Some(word.clause) {
            let size = words[at..].iter().take(40).take_while(|next| next.clause == word.clause).count();
            let mut concepts: Vec<usize> = own[at..at + size].iter().flatten().copied().collect();
            concepts.sort_unstable();
            concepts.dedup();
            let mut keys: Vec<String> = concepts.iter().take(12).map(|concept| format!("s{concept}")).collect();
            keys.push(format!("z{}", size.min(12)));
            clause = (Some(word.clause), keys);
        }
        let before = near(at.checked_sub(1), word.clause);
        let after = near(Some(at + 1), word.clause);
        let mut row: Row = Vec::new();
        let mut add = |parts: &[&str]| row.push(((hash(parts) as usize & (TAG_BUCKETS - 1)) as u32, TAG_VALUE));
        add(&["w", &word.folded]);
        add(&["p", before]);
        add(&["n", after]);
        add(&["pw", before, &word.folded]);
        add(&["wn", &word.folded, after]);
        add(&["at", &(at / 8).min(12).to_string()]);
        own[at].iter().for_each(|concept| add(&["k", &concept.to_string()]));
        let neighbours = at.saturating_sub(2)..(at + 3).min(words.len());
        own[neighbours].iter().flatten().for_each(|concept| add(&["m", &concept.to_string()]));
        clause.1.iter().for_each(|key| add(&["c", key]));
        row.sort_unstable_by_key(|(position, _)| *position);
        row.dedup_by_key(|(position, _)| *position);
        rows.push(row);
    }
    rows
}

/// The deciding words, an exact substring of `text`; empty where nothing in the text speaks for `class`.
/// `row` is the text row of `features`, `text` what they were made of.
pub fn deciding(
    text: &str,
    features: &Features,
    row: &Row,
    linear: &Linear,
    class: usize,
    tagger: Option<&Tagger>,
) -> Vec<String> {
    let shares = word_shares(features, row, linear, class);
    let scores = match tagger {
        Some(tagger) => {
            let marked = tagger.probabilities(features);
            marked.iter().zip(&shares).map(|(marked, share)| marked - TAG_THRESHOLD + SHARE_WEIGHT * share).collect()
        }
        None => shares.clone(),
    };
    let Some((first, last)) = best_stretch(features, &scores, &shares) else { return Vec::new() };
    let (start, end) = (features.words[first].start, features.words[last].end);
    text.get(start..end).map(str::to_owned).into_iter().collect()
}

/// What each word adds to the score of `class` over the mean of the other classes.
fn word_shares(features: &Features, row: &Row, linear: &Linear, class: usize) -> Vec<f32> {
    let mut values = vec![0.0f32; TEXT_DIMENSIONS];
    row.iter().for_each(|(position, value)| values[*position as usize] = *value);
    let mut counts = vec![0u32; TEXT_DIMENSIONS];
    features.occurrences.iter().for_each(|here| counts[here.feature as usize] += 1);
    let mut shares = vec![0.0; features.words.len()];
    for here in &features.occurrences {
        let position = here.feature as usize;
        let Some(weights) = linear.weights.get(position * CLASSES..(position + 1) * CLASSES) else { continue };
        let others = (weights.iter().sum::<f32>() - weights[class]) / (CLASSES - 1) as f32;
        let share = (weights[class] - others) * values[position] / counts[position] as f32;
        let reach = here.last - here.first + 1;
        if reach <= 3 {
            (here.first..=here.last).for_each(|word| shares[word] += share / reach as f32);
        } else {
            // The concepts of a pair may stand far apart: the share belongs to its two ends.
            shares[here.first] += share / 2.0;
            shares[here.last] += share / 2.0;
        }
    }
    shares
}

/// First and last word of the stretch with the highest sum of `scores` whose `shares` are above 0 together.
fn best_stretch(features: &Features, scores: &[f32], shares: &[f32]) -> Option<(usize, usize)> {
    let words = &features.words;
    let mut best = None;
    let mut highest = f32::NEG_INFINITY;
    for first in 0..words.len() {
        let (mut score, mut share) = (0.0, 0.0);
        for last in first..words.len().min(first + MOST_WORDS) {
            if words[last].clause != words[first].clause {
                break;
            }
            score += scores[last];
            share += shares[last];
            if last + 1 - first >= FEWEST_WORDS && share > 0.0 && score > highest {
                highest = score;
                best = Some((first, last));
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::super::features::BUCKETS;
    use super::super::lexicon;
    use super::*;
    use crate::ticket::Language;

    /// A head for which only the concepts given speak, for class 0.
    fn head(concepts: &[&str]) -> Linear {
        let mut linear = Linear { weights: vec![0.0; TEXT_DIMENSIONS * CLASSES], bias: [0.0; CLASSES] };
        for name in concepts {
            let concept = lexicon::concept(name).expect("a concept of the lexicon");
            linear.weights[(BUCKETS + concept) * CLASSES] = 1.0;
        }
        linear
    }

    fn of(text: &str) -> Features {
        Features::of_text(text, 0, &Language::EN)
    }

    fn shown(text: &str, concepts: &[&str]) -> Vec<String> {
        let features = of(text);
        let row = features.text_row(&vec![1.0; BUCKETS]);
        deciding(text, &features, &row, &head(concepts), 0, None)
    }

    #[test]
    fn shows_the_clause_that_speaks_exactly_as_written() {
        let text = "Buenos días, tengo un problema. ¡Han DESAPARECIDO mis contraseñas! Gracias.";
        let words = shown(text, &["lost", "keepsakes"]);
        assert!(words[0].ends_with("DESAPARECIDO mis contraseñas"), "{words:?}");
        assert!(text.contains(&words[0]));
    }

    #[test]
    fn shows_nothing_where_nothing_speaks() {
        assert!(shown("hello there, my friend", &["lost"]).is_empty());
        assert!(shown("", &["lost"]).is_empty());
        assert!(shown("🙂 שלום", &["lost"]).is_empty());
    }

    #[test]
    fn long_texts_stay_exact() {
        let text = format!("{} ¡perdí mis correos! {}", "ñandú ".repeat(500), "é".repeat(40_000));
        let words = shown(&text, &["lost", "mail"]);
        assert!(words.iter().all(|words| text.contains(words.as_str())) && !words.is_empty());
    }

    #[test]
    fn the_tagger_learns_which_words_are_marked() {
        let texts: Vec<String> = ["monday", "today", "lately", "again"]
            .iter()
            .map(|day| format!("hello friends {day} all photos vanished"))
            .collect();
        let features: Vec<Features> = texts.iter().map(|text| of(text)).collect();
        let marked: Vec<_> =
            features.iter().zip(&texts).map(|(one, text)| (one, text.len() - 15..text.len())).collect();
        let tagger = Tagger::fit(&marked);
        let probabilities = tagger.probabilities(&of("hello friends finally all photos vanished"));
        assert!(probabilities[5] > 0.5 && probabilities[0] < 0.5, "{probabilities:?}");
    }
}
