//! Figures of a text: how close to a reference, how hard to read, how technical.
//!
//! They describe wording, not truth: a wrong reply can read easily and share most of its letters with the right one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::LazyLock;

use serde::Deserialize;

use crate::draft::text::{fold, sentences, words};
use crate::ticket::Language;

/// Longest character n-gram of chrF.
const ORDERS: usize = 6;
/// How much heavier recall weighs than precision in chrF, squared: chrF2.
const BETA_SQUARED: f64 = 4.0;
/// Fewer words have no reading ease.
const FEWEST_WORDS: usize = 5;
/// Technical words by language, each with what can be said instead.
const JARGON: &str = include_str!("../../prompts/jargon.toml");

/// Character n-gram F-score of `text` against `reference`, 0 to 100 (Popović, "chrF: character n-gram F-score for automatic MT
/// evaluation", 2015): n-grams of 1 to 6 characters without white space, recall twice as heavy as precision. The same as
/// `sentence_chrf` of sacrebleu with its defaults (chrF2). Texts shorter than an n-gram leave that order out.
pub fn chrf(text: &str, reference: &str) -> f64 {
    let (text, reference) = (visible(text), visible(reference));
    let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0);
    for order in 1..=ORDERS.min(text.len()).min(reference.len()) {
        let (ours, theirs) = (ngrams(&text, order), ngrams(&reference, order));
        let shared = shared(&ours, &theirs) as f64;
        precision += shared / ours.len() as f64;
        recall += shared / theirs.len() as f64;
        orders += 1;
    }
    if precision + recall == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (precision / f64::from(orders), recall / f64::from(orders));
    100.0 * (1.0 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
}

fn visible(text: &str) -> Vec<char> {
    text.chars().filter(|character| !character.is_whitespace()).collect()
}

/// The n-grams of this order, sorted. A character has 21 bits, so six fit into one number.
fn ngrams(characters: &[char], order: usize) -> Vec<u128> {
    let code = |ngram: &[char]| ngram.iter().fold(0, |code, character| code << 21 | u128::from(u32::from(*character)));
    let mut ngrams: Vec<u128> = characters.windows(order).map(code).collect();
    ngrams.sort_unstable();
    ngrams
}

/// How many elements two sorted lists have in common, each as often as in the list that has it more seldom.
fn shared(one: &[u128], other: &[u128]) -> usize {
    let mut others = other.iter().peekable();
    let in_other = |ngram: &&u128| {
        while others.next_if(|other| other < ngram).is_some() {}
        others.next_if_eq(ngram).is_some()
    };
    one.iter().filter(in_other).count()
}

/// How easily a text reads, 0 (very hard) to 100 (very easy), about 60 for plain language: Flesch, "A new readability
/// yardstick" (1948) for English, Fernández Huerta, "Medidas sencillas de lecturabilidad" (1959) for Spanish. Syllables are
/// counted by rule, so single words may be off by one. None for other languages and texts of fewer than five words.
///
/// Both formulas know the length of words and sentences and nothing else; values of short texts vary widely.
pub fn reading_ease(text: &str, language: &Language) -> Option<f64> {
    let syllables_of = match language.code() {
        "en" => english_syllables,
        "es" => spanish_syllables,
        _ => return None,
    };
    let spoken: Vec<&str> = text.split_whitespace().filter(|word| is_spoken(word)).collect();
    if spoken.len() < FEWEST_WORDS {
        return None;
    }
    let syllables: usize = spoken.iter().map(|word| syllables_of(&word.to_lowercase())).sum();
    let in_sentences =
        sentences(text).into_iter().filter(|sentence| sentence.split_whitespace().any(is_spoken)).count();
    let per_word = syllables as f64 / spoken.len() as f64;
    let per_sentence = spoken.len() as f64 / in_sentences.max(1) as f64;
    let ease = if *language == Language::ES {
        206.84 - 60.0 * per_word - 1.02 * per_sentence
    } else {
        206.835 - 84.6 * per_word - 1.015 * per_sentence
    };
    Some(ease.clamp(0.0, 100.0))
}

/// Has a letter and is no address.
fn is_spoken(word: &str) -> bool {
    word.contains(char::is_alphabetic) && !is_address(word)
}

fn is_address(word: &str) -> bool {
    word.contains("://") || word.contains('@') || word.starts_with("www.")
}

/// Runs of vowels, less a silent `e`; at least one. `word` is in lower case.
fn english_syllables(word: &str) -> usize {
    let folded = fold(word);
    let parts =
        folded.split(|c: char| !c.is_alphabetic() && c != '\'').filter(|part| part.contains(char::is_alphabetic));
    parts.map(english_part).sum::<usize>().max(1)
}

fn english_part(part: &str) -> usize {
    let part = part.strip_suffix("'s").unwrap_or(part).trim_matches('\'');
    let is_vowel = |character: char| matches!(character, 'a' | 'e' | 'i' | 'o' | 'u' | 'y');
    let runs = part.split(|character| !is_vowel(character)).filter(|run| !run.is_empty()).count();
    let ends_in_consonant = |stem: &str| !stem.ends_with(is_vowel);
    // As in "table", "tables": the ending is spoken.
    let keeps_ending = |stem: &str| stem.strip_suffix('l').is_some_and(ends_in_consonant);
    let is_silent = if let Some(stem) = part.strip_suffix("es") {
        ends_in_consonant(stem) && !stem.ends_with(['s', 'x', 'z', 'c', 'g', 'h']) && !keeps_ending(stem)
    } else if let Some(stem) = part.strip_suffix("ed") {
        ends_in_consonant(stem) && !stem.ends_with(['t', 'd'])
    } else if let Some(stem) = part.strip_suffix('e') {
        ends_in_consonant(stem) && !keeps_ending(stem)
    } else {
        false
    };
    runs.saturating_sub(usize::from(is_silent)).max(1)
}

/// Strong vowels (a, e, o and any with an accent) each have a syllable; weak ones (i, u) lean on a strong one beside them, or
/// make one together. At least one. `word` is in lower case.
fn spanish_syllables(word: &str) -> usize {
    let mut characters = word.chars().peekable();
    let (mut syllables, mut in_run, mut has_strong) = (0, false, false);
    while let Some(character) = characters.next() {
        // An accent may follow as a character of its own.
        let is_accented = characters.next_if_eq(&'\u{301}').is_some();
        let next_is_vowel = characters.peek().is_some_and(|next| "aeiouáéíóú".contains(*next));
        let is_strong = "aeoáéíóú".contains(character) || is_accented;
        let is_weak = "iuü".contains(character) || (character == 'y' && !next_is_vowel);
        if is_strong {
            // The first strong vowel takes the syllable that weak ones before it have opened.
            syllables += usize::from(!in_run || has_strong);
            has_strong = true;
        } else if is_weak {
            syllables += usize::from(!in_run);
        } else {
            has_strong = false;
        }
        in_run = is_strong || is_weak;
    }
    syllables.max(1)
}

/// The technical words of a reply.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Jargon {
    /// Each once, as `prompts/jargon.toml` writes it, in the order of the reply.
    pub words: Vec<String>,
    /// Occurrences per hundred words of the reply.
    pub per_hundred: f64,
}

/// Counts the technical words of `prompts/jargon.toml` in a reply. What the customer wrote too does not count: they know it.
/// Addresses do not count. For languages without a list all lists are used, since such words are often borrowed.
pub fn jargon(reply: &str, customer: &str, language: &Language) -> Jargon {
    let known: HashSet<&str> = terms_in(&spoken_words(customer), &Language::UNKNOWN).into_iter().collect();
    let reply = spoken_words(reply);
    let mut found = Jargon::default();
    let mut count = 0;
    for term in terms_in(&reply, language).into_iter().filter(|term| !known.contains(term)) {
        count += 1;
        if !found.words.iter().any(|word| word == term) {
            found.words.push(term.to_owned());
        }
    }
    if count > 0 {
        found.per_hundred = 100.0 * f64::from(count) / reply.len() as f64;
    }
    found
}

fn spoken_words(text: &str) -> Vec<String> {
    text.split_whitespace().filter(|word| !is_address(word)).flat_map(words).collect()
}

#[derive(Debug, Deserialize)]
struct Lists(BTreeMap<String, BTreeMap<String, String>>);

/// A technical word or phrase.
struct Term {
    language: String,
    written: String,
    words: Vec<String>,
}

/// Terms by their first word, long phrases first.
static TERMS: LazyLock<HashMap<String, Vec<Term>>> = LazyLock::new(|| index(JARGON).unwrap_or_default());

fn index(source: &str) -> Result<HashMap<String, Vec<Term>>, toml::de::Error> {
    let Lists(lists) = toml::from_str(source)?;
    let mut terms: HashMap<String, Vec<Term>> = HashMap::new();
    for (language, list) in lists {
        for written in list.into_keys() {
            let words = words(&written);
            if let Some(first) = words.first() {
                terms.entry(first.clone()).or_default().push(Term { language: language.clone(), written, words });
            }
        }
    }
    terms.values_mut().for_each(|terms| terms.sort_by_key(|term| std::cmp::Reverse(term.words.len())));
    Ok(terms)
}

/// The terms that occur, as the list writes them, one for each occurrence; a phrase counts as one term.
fn terms_in(words: &[String], language: &Language) -> Vec<&'static str> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(rest) = words.get(at..).filter(|rest| !rest.is_empty()) {
        match term_at(rest, language) {
            Some(term) => {
                found.push(term.written.as_str());
                at += term.words.len();
            }
            None => at += 1,
        }
    }
    found
}

fn term_at(words: &[String], language: &Language) -> Option<&'static Term> {
    let first = words.first()?;
    let singulars = [Some(first.as_str()), first.strip_suffix('s'), first.strip_suffix("es")];
    let candidates = singulars.into_iter().flatten().filter_map(|word| TERMS.get(word)).flatten();
    let fits = |term: &&Term| {
        (term.language == language.code() || !language.is_supported())
            && term.words.len() <= words.len()
            && term.words.iter().zip(words).all(|(term, word)| is_form_of(word, term))
    };
    candidates.filter(fits).max_by_key(|term| term.words.len())
}

fn is_form_of(word: &str, term: &str) -> bool {
    word.strip_prefix(term).is_some_and(|ending| matches!(ending, "" | "s" | "es"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chrf_is_that_of_sacrebleu() {
        // sacrebleu 2.6.0: CHRF().sentence_score(text, [reference]).score.
        let cases = [
            ("The invoice is on the billing page.", "You find the invoice on the billing page.", 68.945_098_956_764_85),
            (
                "Abra Ajustes y elija la cuenta que usa.",
                "Abra los ajustes y seleccione su cuenta de correo.",
                30.270_476_891_896_138,
            ),
            ("Hola 😀 ¿qué tal?", "¡Hola! 😀 ¿Qué tal?", 43.295_231_578_808_35),
            ("aaaaaa aaaa", "aaaa", 66.209_406_494_960_8),
            ("abc", "abcd  efgh\n ijkl", 21.218_715_995_647_443),
            ("ok", "ok", 100.0),
            ("ok", "yes", 0.0),
            ("", "text", 0.0),
            ("text", "", 0.0),
            ("", "", 0.0),
        ];
        for (text, reference, score) in cases {
            let ours = chrf(text, reference);
            assert!((ours - score).abs() < 1e-9, "{text} / {reference}: {ours}, sacrebleu has {score}");
        }
    }

    #[test]
    fn syllables_are_counted_by_rule() {
        for (word, count) in [
            ("the", 1),
            ("table", 2),
            ("tables", 2),
            ("make", 1),
            ("pages", 2),
            ("files", 1),
            ("opened", 2),
            ("wanted", 2),
            ("you", 1),
            ("settings", 2),
            ("customer's", 3),
            ("don't", 1),
            ("e-mail", 2),
            ("billing", 2),
            ("dns", 1),
        ] {
            assert_eq!(english_syllables(word), count, "{word}");
        }
        for (word, count) in [
            ("día", 2),
            ("di\u{301}a", 2),
            ("cuenta", 2),
            ("ciudad", 2),
            ("leer", 2),
            ("aéreo", 4),
            ("después", 2),
            ("qué", 1),
            ("guía", 2),
            ("ahora", 3),
            ("ayuda", 3),
            ("muy", 1),
            ("y", 1),
            ("contraseña", 4),
            ("configuración", 5),
            ("también", 2),
            ("dns", 1),
        ] {
            assert_eq!(spanish_syllables(word), count, "{word}");
        }
    }

    #[test]
    fn reading_ease_follows_the_formulas() {
        // 6 words, 1 sentence, 6 syllables: 206.835 - 84.6 - 6.09 is above 100.
        assert_eq!(reading_ease("The cat sat on the mat.", &Language::EN), Some(100.0));
        // 10 words, 2 sentences, 20 syllables.
        let english = "Open the billing settings. Select another payment method and continue.";
        let ease = reading_ease(english, &Language::EN).expect("ten words");
        assert!((ease - (206.835 - 84.6 * 2.0 - 1.015 * 5.0)).abs() < 1e-9, "{ease}");
        // 8 words, 2 sentences, 19 syllables.
        let spanish = "Abra la configuración. Después elija otra cuenta nueva.";
        let ease = reading_ease(spanish, &Language::ES).expect("eight words");
        assert!((ease - (206.84 - 60.0 * 19.0 / 8.0 - 1.02 * 4.0)).abs() < 1e-9, "{ease}");
        let hard = "Authoritative nameserver misconfiguration necessitates immediate administrative intervention.";
        assert_eq!(reading_ease(hard, &Language::EN), Some(0.0));
        assert_eq!(reading_ease(english, &Language::new("fr")), None);
        assert_eq!(reading_ease("Open it now please", &Language::EN), None);
    }

    #[test]
    fn technical_words_count_unless_the_customer_used_them() {
        let reply = "The DNS change needs propagation. Clear the caches, then wait for the name servers.";
        let found = jargon(reply, "My site is gone", &Language::EN);
        assert_eq!(found.words, ["DNS", "propagation", "cache", "name server"]);
        assert!((found.per_hundred - 100.0 * 4.0 / 14.0).abs() < 1e-9, "{found:?}");
        assert_eq!(jargon(reply, "I changed my dns and name server", &Language::EN).words, ["propagation", "cache"]);
        let spanish =
            jargon("Vacíe la CACHE y revise los servidores de nombres y el Ancho de Banda.", "hola", &Language::ES);
        assert_eq!(spanish.words, ["caché", "servidor de nombres", "ancho de banda"]);
        assert_eq!(jargon("La caché y la cache", "", &Language::ES).words, ["caché"]);
        assert_eq!(jargon("Usa DNS e latência", "", &Language::new("pt")).words, ["DNS", "latencia"]);
    }

    #[test]
    fn plain_words_and_addresses_are_no_jargon() {
        let plain =
            "Open https://help.example/dns/cache or write to dns@host.example; the record is a hashtag, not nullified.";
        assert_eq!(jargon(plain, "", &Language::EN), Jargon::default());
        assert_eq!(jargon("Con un registro a su nombre y una excepción.", "", &Language::ES), Jargon::default());
    }

    #[test]
    fn every_term_has_a_plain_alternative() {
        let Lists(lists) = toml::from_str(JARGON).expect("prompts/jargon.toml parses");
        assert_eq!(lists.keys().collect::<Vec<_>>(), ["en", "es"]);
        for (language, list) in lists {
            assert!(list.len() >= 70, "{language} has {}", list.len());
            let language = Language::new(&language);
            for (term, plain) in list {
                assert!(jargon(&term, "", &language).words.contains(&term), "{term} is not found");
                assert!(!plain.trim().is_empty(), "{term} has no alternative");
                assert_eq!(
                    jargon(&plain, "", &language).words,
                    [""; 0],
                    "what is said instead of {term} is jargon too"
                );
            }
        }
    }

    #[test]
    fn odd_texts_do_no_harm() {
        let long = "La propagación tarda. 😀 ".repeat(20_000);
        let noise: String = (0..50_000_u32).map(|code| char::from_u32(code * 17).unwrap_or(' ')).collect();
        for text in ["", "😀😀😀 😀 😀 😀 😀", "مرحبا بك في هذا المكان هنا", "1 2 3 4 5 6 7", "...", &long, &noise]
        {
            for language in [Language::EN, Language::ES, Language::UNKNOWN] {
                let found = jargon(text, text, &language);
                assert!(found.words.is_empty() && found.per_hundred == 0.0);
                assert!(jargon(text, "", &language).per_hundred <= 100.0);
                assert!(reading_ease(text, &language).is_none_or(|ease| (0.0..=100.0).contains(&ease)));
            }
            assert!((0.0..=100.0 + 1e-9).contains(&chrf(text, &long)));
        }
        assert!((chrf(&long, &long) - 100.0).abs() < 1e-9);
        assert_eq!(reading_ease("1 2 3 4 5 6 7", &Language::EN), None);
    }
}
