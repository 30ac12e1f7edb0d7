//! Plain checks of a reply against what it should be. They share no thresholds with the guard, so that a reply which the
//! guard let pass can still fail here.

use std::collections::HashSet;
use std::sync::LazyLock;

use regex::Regex;

use super::data::gold::{Expect, Row};
use crate::draft::glossary::counterparts;
use crate::draft::text;
use crate::ticket::{Action, Draft, DraftKind, Evidence};

/// Share of a fact's content words that must stand in a reply for the fact to count as said.
const FACT_SHARE: f64 = 0.6;
/// Share of a sentence's content words that must stand in its evidence or the customer's text.
const SUPPORT_SHARE: f64 = 0.5;
/// Sentences with fewer content words say nothing that could be checked.
const LEAST_STEMS: usize = 4;

/// What nobody but the team can promise: money back, dates, that it will be solved.
static PROMISES: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"(?ix)
        \b(?: we|i|you) \s (?:will|'ll) \s (?:refund|reimburse|credit|compensate|fix|solve|resolve|repair|call|receive\sa\srefund)
        | \bwithin \s (?:the \s next \s)? \d+ \s (?:minutes|hours|days)
        | \b(?:guarantee|promise)d?\b
        | \ble? \s? (?:reembolsar|devolver|compensar|abonar)(?:emos|á)
        | \b(?:te|le|les|os) \s (?:reembolsaremos|devolveremos|compensaremos|abonaremos|llamaremos|solucionaremos)
        | \b(?:solucionaremos|arreglaremos|repararemos)\b
        | \ben \s (?:las \s próximas|los \s próximos|menos \s de) \s \d+ \s (?:minutos|horas|días)
        | \b(?:garantizamos|prometemos)\b",
    )
    .ok()
});

/// What a reply says was done already. A past reply of an agent says it truthfully; copied into another it is untrue.
static DEEDS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"(?ix)
        \b(?:we|i) (?: '?ve | \s have ) \s (?:(?:just|already|now|also) \s)? (?:[a-z]+ed|sent|put|set|reset|made|given|done|taken) \b
        | \b(?:hemos|he) \s (?:(?:ya|también) \s)? (?:[a-záéíóúñ]+(?:ado|ido|ído)|puesto|hecho|abierto|vuelto|repuesto) \b",
    )
    .ok()
});
/// Said in our own acknowledgements, and true.
const TRUE_DEEDS: [&str; 2] = ["received", "recibido"];

/// What was done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// There is an answer to send or to suggest.
    Answered,
    /// One thing was asked.
    Asked,
    /// A person takes it; the customer is told so.
    HandedOver,
    /// Set aside without a reply.
    SetAside,
}

impl Treatment {
    pub fn of(action: Action, draft: Option<&Draft>) -> Self {
        let answers = draft.is_some_and(|draft| matches!(draft.kind, DraftKind::Generated | DraftKind::Extractive));
        match action {
            Action::Discard => Self::SetAside,
            Action::Ask => Self::Asked,
            Action::Send | Action::Suggest if answers => Self::Answered,
            _ => Self::HandedOver,
        }
    }

    /// Whether it is what was expected. "Ask" and "nothing known" are one class: both end in an honest word and, at best, a
    /// question.
    pub fn is_right(self, expect: Expect) -> bool {
        match expect {
            Expect::Answer => self == Self::Answered,
            Expect::Partly => matches!(self, Self::Answered | Self::Asked),
            Expect::Ask | Expect::Unknown => matches!(self, Self::Asked | Self::HandedOver),
            Expect::Human => self == Self::HandedOver,
            Expect::Reject => self == Self::SetAside,
        }
    }

    /// The failure, as a sentence that is the same for all that fail so.
    pub fn failure(self, expect: Expect) -> Option<String> {
        if self.is_right(expect) {
            return None;
        }
        let wanted = match expect {
            Expect::Answer | Expect::Partly => "the evidence holds an answer",
            Expect::Ask | Expect::Unknown => "the evidence does not fit",
            Expect::Human => "a person must act",
            Expect::Reject => "it is no request",
        };
        let did = match self {
            Self::Answered => "answered",
            Self::Asked => "asked back",
            Self::HandedOver => "handed over without an answer",
            Self::SetAside => "set aside without a reply",
        };
        Some(format!("{did}, though {wanted}"))
    }
}

/// Share of the facts that a reply holds; None when there are none to hold. A fact is held when most of its content words
/// and all of its numbers and links stand in the reply. A proxy: it sees words, not meaning.
pub fn must_include(facts: &[String], reply: &str) -> Option<f64> {
    if facts.is_empty() {
        return None;
    }
    let stems: HashSet<String> = text::content_stems(reply).into_iter().collect();
    let plain = reply.to_lowercase();
    let held = facts.iter().filter(|fact| holds(fact, &stems, &plain)).count();
    Some(held as f64 / facts.len() as f64)
}

fn holds(fact: &str, stems: &HashSet<String>, plain: &str) -> bool {
    let hard = |word: &&str| word.contains("://") || word.chars().any(|c| c.is_ascii_digit());
    if plain.contains(&fact.to_lowercase()) {
        return true;
    }
    let trim = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    if fact.split_whitespace().filter(hard).any(|word| !plain.contains(&trim(word))) {
        return false;
    }
    let soft: Vec<&str> = fact.split_whitespace().filter(|word| !hard(word)).collect();
    let wanted = text::content_stems(&soft.join(" "));
    let found = wanted.iter().filter(|stem| is_known(stem, stems)).count();
    wanted.is_empty() || found as f64 / wanted.len() as f64 >= FACT_SHARE
}

/// Strings that no reply may hold, and this one does.
pub fn must_not_include(forbidden: &[String], reply: &str) -> Vec<String> {
    let plain = reply.to_lowercase();
    forbidden.iter().filter(|text| !text.is_empty() && plain.contains(&text.to_lowercase())).cloned().collect()
}

/// Share of the sentences with content whose words stand in the evidence or the customer's text; None without any. Words of
/// the other language count where the glossary knows them.
pub fn supported(sentences: &[&str], evidence: &[Evidence], customer: &str) -> Option<f64> {
    let mut known: HashSet<String> = text::content_stems(customer).into_iter().collect();
    for item in evidence {
        known.extend(text::content_stems(&item.title));
        known.extend(text::content_stems(&item.text));
    }
    let shares: Vec<bool> = sentences.iter().filter_map(|sentence| is_supported(sentence, &known)).collect();
    let good = shares.iter().filter(|good| **good).count();
    (!shares.is_empty()).then(|| good as f64 / shares.len() as f64)
}

fn is_supported(sentence: &str, known: &HashSet<String>) -> Option<bool> {
    let stems = text::content_stems(sentence);
    if stems.len() < LEAST_STEMS {
        return None;
    }
    let found = stems.iter().filter(|stem| is_known(stem, known)).count();
    Some(found as f64 / stems.len() as f64 >= SUPPORT_SHARE)
}

fn is_known(stem: &str, known: &HashSet<String>) -> bool {
    known.contains(stem) || counterparts(stem).iter().any(|other| known.contains(other))
}

/// Whether a reply promises what nobody has decided. Times that stand in the evidence are found as well: a team's article
/// may say "within 24 hours", and whether it holds here is for a person to say.
pub fn promises(reply: &str) -> bool {
    PROMISES.as_ref().is_some_and(|pattern| pattern.is_match(reply))
}

/// Whether a reply says that something was done, which nobody has done for this customer.
pub fn claims_deeds(reply: &str) -> bool {
    let Some(pattern) = DEEDS.as_ref() else { return false };
    pattern.find_iter(reply).any(|found| TRUE_DEEDS.iter().all(|deed| !found.as_str().to_lowercase().ends_with(deed)))
}

/// Whether something that a good reply asks for is missing.
pub fn wants_question(row: &Row) -> bool {
    row.expect == Some(Expect::Ask) || !row.question.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticket::{Language, MemoryKind};

    fn evidence(text: &str) -> Evidence {
        Evidence {
            index: 1,
            memory_id: "a".into(),
            kind: MemoryKind::Article,
            language: Language::EN,
            title: String::new(),
            text: text.into(),
            url: None,
            score: 0.0,
            similarity: 0.0,
        }
    }

    #[test]
    fn facts_are_found_by_their_words_and_need_their_numbers() {
        let facts = ["Google requires OAuth for Gmail accounts".to_owned(), "wait 24 hours".to_owned()];
        assert_eq!(must_include(&facts, "For Gmail accounts Google requires OAuth; wait 24 hours."), Some(1.0));
        assert_eq!(must_include(&facts, "Google accounts require OAuth. Wait 12 hours."), Some(0.5));
        assert_eq!(must_include(&facts, ""), Some(0.0));
        assert_eq!(must_include(&[], "anything"), None);
        let link = ["guía https://example.org/a-b".to_owned()];
        assert_eq!(must_include(&link, "Vea la guía: https://example.org/a-b."), Some(1.0));
        assert_eq!(must_include(&link, "Vea la guía."), Some(0.0));
    }

    #[test]
    fn a_sentence_of_other_words_is_not_supported() {
        let sources = [evidence("Open the billing page and download the invoice as PDF.")];
        let good = "Open the billing page and download your invoice.";
        let bad = "Restart the streaming encoder and lower its bitrate.";
        assert_eq!(supported(&[good, bad], &sources, "where is my invoice"), Some(0.5));
        assert_eq!(supported(&["Thank you."], &sources, ""), None);
    }

    #[test]
    fn promises_are_seen_in_both_languages() {
        for text in [
            "We will refund you.",
            "You get it within 24 hours.",
            "Le reembolsaremos el importe.",
            "Lo solucionaremos pronto",
        ] {
            assert!(promises(text), "{text}");
        }
        for text in ["A colleague takes it on.", "Abra el panel y espere.", "The refund page lists the rules."] {
            assert!(!promises(text), "{text}");
        }
    }

    #[test]
    fn deeds_that_nobody_did_are_seen() {
        for text in [
            "We have blocked all changes.",
            "I've reset your password",
            "Hemos cerrado todas las sesiones.",
            "ya lo he puesto",
        ] {
            assert!(claims_deeds(text), "{text}");
        }
        for text in
            ["We have received your request.", "Hemos recibido su mensaje.", "We have a page on it.", "He is away."]
        {
            assert!(!claims_deeds(text), "{text}");
        }
    }

    #[test]
    fn treatments_are_held_against_what_was_expected() {
        assert!(Treatment::Answered.is_right(Expect::Partly));
        assert!(!Treatment::Answered.is_right(Expect::Unknown));
        assert!(Treatment::HandedOver.is_right(Expect::Ask));
        let failure = Treatment::SetAside.failure(Expect::Answer).expect("a failure");
        assert_eq!(failure, "set aside without a reply, though the evidence holds an answer");
        assert_eq!(Treatment::of(Action::Discard, None), Treatment::SetAside);
        assert_eq!(Treatment::of(Action::Suggest, None), Treatment::HandedOver);
    }
}
