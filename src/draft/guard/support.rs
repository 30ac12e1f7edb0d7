//! What may be said: the evidence and the customer's own words, indexed for look-up.

use std::collections::HashSet;

use super::injection;
use super::tokens::{self, HardToken, TokenKind};
use crate::draft::{glossary, text};
use crate::ticket::{Evidence, MemoryKind};

/// The words, numbers and links of one text.
pub struct Source {
    folded: String,
    /// Folded, every run of other characters one blank, a blank at both ends: for phrases.
    spaced: String,
    words: HashSet<String>,
    stems: HashSet<String>,
    numbers: HashSet<String>,
    amounts: HashSet<String>,
    months: HashSet<String>,
    links: HashSet<String>,
}

impl Source {
    /// Indexes `content`; `links` are further addresses that belong to it.
    pub fn new(content: &str, links: &[&str]) -> Self {
        let folded = text::fold(content);
        let words: HashSet<String> = text::words(content).into_iter().collect();
        let mut numbers: HashSet<String> = tokens::numbers_of(&folded).flat_map(tokens::number_forms).collect();
        // Part numbers too: "115.3.1" may be called version 115, "smtp2:587" holds 587.
        numbers.extend(words.iter().filter_map(|word| tokens::number_word(word)).map(str::to_owned));
        Self {
            spaced: format!(" {} ", tokens::normal_segment(content)),
            stems: text::content_stems(content).into_iter().collect(),
            months: words.iter().filter_map(|word| tokens::month_number_loose(word)).collect(),
            amounts: tokens::amounts_of(content).into_iter().collect(),
            links: tokens::links_of(content)
                .into_iter()
                .chain(links.iter().map(|link| tokens::normal_link(link)))
                .collect(),
            numbers,
            words,
            folded,
        }
    }

    /// True when `token` stands here.
    pub fn holds(&self, token: &HardToken) -> bool {
        match token.kind {
            TokenKind::Number => self.holds_number(&token.normal),
            TokenKind::Amount => self.amounts.contains(&token.normal),
            TokenKind::Month => self.months.contains(&token.normal),
            TokenKind::Link => self.holds_link(&token.normal),
            TokenKind::Email => self.holds_bounded(&token.normal),
            TokenKind::FilePath => {
                self.holds_bounded(&token.normal) || self.folded.replace('\\', "/").contains(&token.normal)
            }
            TokenKind::MenuSegment => self.holds_phrase(&token.normal),
            TokenKind::Command => self.holds_bounded(&token.normal) || self.holds_chord(&token.normal),
            TokenKind::Name => self.holds_name(&token.normal),
        }
    }

    fn holds_number(&self, number: &str) -> bool {
        if tokens::number_forms(number).iter().any(|form| self.numbers.contains(form)) {
            return true;
        }
        let is_plain = number.chars().all(|c| c.is_ascii_digit() || c == '.');
        if is_plain {
            // "115" and "115.3" name the line that "115.3.1" belongs to; "5" is no part of "587".
            let line = format!("{number}.");
            let is_version_line = |have: &String| {
                have.starts_with(&line)
                    && have.matches('.').count() >= 2
                    && have.chars().all(|c| c.is_alphanumeric() || c == '.')
            };
            return (number.len() > 1 && self.numbers.iter().any(is_version_line)) || self.holds_phrase(number);
        }
        // "OAuth2" and "OAuth 2.0", "Office365" and "Office 365".
        let split = number.find(|c: char| c.is_ascii_digit()).unwrap_or(0);
        let (letters, digits) = number.split_at(split);
        !letters.is_empty()
            && self.words.contains(letters)
            && (self.holds_number(digits) || self.numbers.contains(&format!("{digits}.0")))
    }

    fn holds_link(&self, link: &str) -> bool {
        if self.links.contains(link) {
            return true;
        }
        let is_host = !link.contains('/');
        if is_host {
            let is_host_of = |have: &String| have.split(['/', '?', '#']).next() == Some(link);
            return self.links.iter().any(is_host_of) || self.holds_bounded(link);
        }
        self.links.iter().any(|have| have.split('#').next() == Some(link)) || self.holds_bounded(link)
    }

    /// `needle` stands in the folded text and is not part of a longer word.
    fn holds_bounded(&self, needle: &str) -> bool {
        let is_edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
        self.folded.match_indices(needle).any(|(at, _)| {
            let before = self.folded.get(..at).and_then(|before| before.chars().next_back());
            let after = self.folded.get(at + needle.len()..).and_then(|after| after.chars().next());
            let opens_with_mark = !needle.starts_with(char::is_alphanumeric);
            (is_edge(before) || opens_with_mark) && is_edge(after)
        })
    }

    fn holds_chord(&self, chord: &str) -> bool {
        chord.contains('+') && tokens::normal_chord(&self.folded).contains(chord)
    }

    fn holds_phrase(&self, phrase: &str) -> bool {
        self.spaced.contains(&format!(" {phrase} "))
    }

    fn holds_name(&self, name: &str) -> bool {
        if self.words.contains(name) || self.holds_bounded(name) {
            return true;
        }
        let parts: Vec<&str> = name.split(['\'', '-']).filter(|part| !part.is_empty()).collect();
        if parts.len() > 1 {
            return parts.iter().all(|part| self.words.contains(*part));
        }
        // Plural and singular: "IMAPs", "Add-ons", "Filters".
        let singular = name.strip_suffix('s').unwrap_or(name);
        singular.len() > 2 && (self.words.contains(singular) || self.words.contains(&format!("{singular}s")))
    }

    /// Which of `stems` stand here, themselves or as their counterpart in the other language.
    pub fn holds_stem(&self, stem: &str) -> bool {
        self.stems.contains(stem) || glossary::counterparts(stem).iter().any(|other| self.stems.contains(other))
    }

    /// Share of `stems` that stand here, 0 when there are none.
    pub fn share(&self, stems: &[String]) -> f32 {
        if stems.is_empty() {
            return 0.0;
        }
        stems.iter().filter(|stem| self.holds_stem(stem)).count() as f32 / stems.len() as f32
    }
}

/// Everything a reply may draw on, without what tries to instruct the model.
pub struct Support {
    /// With [`Evidence::index`].
    pub evidence: Vec<(usize, Source)>,
    /// Indices of the articles among it.
    articles: Vec<usize>,
    pub customer: Source,
    /// Suspicious sentences of the message and of the evidence.
    pub refused: Vec<String>,
}

impl Support {
    pub fn new(evidence: &[Evidence], customer_text: &str) -> Self {
        let (customer, mut refused) = injection::split_suspicious(customer_text);
        let mut sources = Vec::with_capacity(evidence.len());
        for item in evidence {
            let (trusted, dropped) = injection::split_suspicious(&format!("{}\n\n{}", item.title, item.text));
            refused.extend(dropped);
            let links: Vec<&str> = item.url.as_deref().into_iter().collect();
            sources.push((item.index, Source::new(&trusted, &links)));
        }
        let articles = evidence.iter().filter(|item| item.kind == MemoryKind::Article).map(|item| item.index).collect();
        Self { evidence: sources, articles, customer: Source::new(&customer, &[]), refused }
    }

    /// True when `token` stands in an article or is its address.
    pub fn articles_hold(&self, token: &HardToken) -> bool {
        self.evidence.iter().any(|(index, source)| self.articles.contains(index) && source.holds(token))
    }

    /// True when `token` stands in any evidence or in the customer's text.
    pub fn holds(&self, token: &HardToken) -> bool {
        self.customer.holds(token) || self.evidence.iter().any(|(_, source)| source.holds(token))
    }

    /// Share of `stems` found in the cited evidence or the customer's text; in all evidence when none is cited.
    pub fn share(&self, stems: &[String], cited: &[usize]) -> f32 {
        if stems.is_empty() {
            return 1.0;
        }
        let counts = |index: &usize| cited.is_empty() || cited.contains(index);
        let found = stems.iter().filter(|stem| {
            self.customer.holds_stem(stem)
                || self.evidence.iter().any(|(index, source)| counts(index) && source.holds_stem(stem))
        });
        found.count() as f32 / stems.len() as f32
    }

    /// How many of `stems` the customer has not said, and the share of those that stand in any evidence (1 where there are none).
    pub fn added(&self, stems: &[String]) -> (usize, f32) {
        let added: Vec<&String> = stems.iter().filter(|stem| !self.customer.holds_stem(stem)).collect();
        if added.is_empty() {
            return (0, 1.0);
        }
        let is_found = |stem: &&&String| self.evidence.iter().any(|(_, source)| source.holds_stem(stem));
        (added.len(), added.iter().filter(is_found).count() as f32 / added.len() as f32)
    }

    /// The evidence a sentence most likely rests on: the best by shared words and hard tokens, and close seconds. Empty when
    /// nothing shares enough, or when the customer's own words explain the sentence as well.
    pub fn assign(&self, stems: &[String], tokens: &[HardToken]) -> Vec<usize> {
        const ENOUGH: f32 = 0.3;
        const CLOSE: f32 = 0.9;
        let score = |source: &Source| {
            let share = source.share(stems);
            let held = tokens.iter().filter(|token| source.holds(token)).count() as f32;
            let hard = if tokens.is_empty() { 0.0 } else { held / tokens.len() as f32 };
            share + 0.5 * hard
        };
        let scores: Vec<(usize, f32)> = self.evidence.iter().map(|(index, source)| (*index, score(source))).collect();
        let best = scores.iter().map(|(_, score)| *score).fold(0.0, f32::max);
        if best < ENOUGH || best < score(&self.customer) {
            return Vec::new();
        }
        scores.into_iter().filter(|(_, score)| *score >= best * CLOSE).map(|(index, _)| index).collect()
    }
}
