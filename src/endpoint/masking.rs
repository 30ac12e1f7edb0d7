//! Personal data does not leave this machine: placeholders go to the model server, and what they stand for is put back
//! into its reply.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde::Deserialize;

use super::address;
use crate::intake::scrub::{PiiKind, find_all};

/// Rounds after which masking stops; a replacement can uncover another find, two rounds do in practice.
const MAX_ROUNDS: usize = 8;
/// Shorter values are not looked for beside the places where a finder saw them.
const SHORTEST_REPEATED: usize = 4;
/// A placeholder is not longer than this; what is longer is shown without waiting for its end.
const LONGEST_PLACEHOLDER_BYTES: usize = 20;

/// The shape of a placeholder. `TEXT` stands for words that looked like one before anything was masked.
static SHAPE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i-u)\[(email|phone|card|iban|token|id|ip|address|name|text)_[0-9]{1,6}\]").expect("constant pattern")
});

/// Which model servers read placeholders in place of personal data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MaskFor {
    /// Those that are not on this machine.
    Outside,
    Always,
    Never,
}

impl MaskFor {
    /// Whether what goes to `url` is masked.
    pub fn applies(self, url: &str) -> bool {
        match self {
            Self::Outside => address::is_outside(url),
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// What the placeholders of one request stand for. The same value has the same placeholder in all its texts.
#[derive(Clone, Debug, Default)]
pub struct Mask {
    values: HashMap<String, Value>,
    placeholders: HashMap<String, String>,
    counts: BTreeMap<&'static str, usize>,
}

#[derive(Clone, Debug)]
struct Value {
    text: String,
    /// Looked like a placeholder from the start: what is in it stands for nothing.
    literal: bool,
}

impl Mask {
    /// `text` with placeholders in place of the personal data that is found in it.
    pub fn mask(&mut self, text: &str) -> String {
        let literal: Vec<(Range<usize>, &str)> = SHAPE.find_iter(text).map(|found| (found.range(), "TEXT")).collect();
        let mut current = self.replace(text, literal);
        for _ in 0..MAX_ROUNDS {
            let found = found_beside_placeholders(&current);
            let replaced = self.replace(&current, found);
            let next = self.replace_repeated(replaced);
            if next == current {
                break;
            }
            current = next;
        }
        current
    }

    /// `text` with what its placeholders stand for. One that stands for nothing becomes the general placeholder of its kind
    /// (`[email]`), which the guard lets through in no sentence.
    pub fn unmask(&self, text: &str) -> String {
        let restored = |found: &Captures<'_>| match self.values.get(&found[0].to_uppercase()) {
            Some(value) if value.literal => value.text.clone(),
            // Only placeholders that were given earlier stand in a value.
            Some(value) => self.unmask(&value.text),
            None if found[1].eq_ignore_ascii_case("text") => "[token]".to_owned(),
            None => format!("[{}]", found[1].to_lowercase()),
        };
        SHAPE.replace_all(text, restored).into_owned()
    }

    /// True when nothing personal was found.
    pub fn is_empty(&self) -> bool {
        self.values.values().all(|value| value.literal)
    }

    fn replace(&mut self, text: &str, found: Vec<(Range<usize>, &'static str)>) -> String {
        let mut masked = String::with_capacity(text.len());
        let mut from = 0;
        for (range, kind) in found {
            // Widened to whole placeholders, two finds may have come to overlap.
            if range.start < from {
                continue;
            }
            masked.push_str(text.get(from..range.start).unwrap_or_default());
            masked.push_str(&self.placeholder(text.get(range.clone()).unwrap_or_default(), kind));
            from = range.end;
        }
        masked.push_str(text.get(from..).unwrap_or_default());
        masked
    }

    fn placeholder(&mut self, value: &str, kind: &'static str) -> String {
        if let Some(known) = self.placeholders.get(value) {
            return known.clone();
        }
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        let placeholder = format!("[{kind}_{count}]");
        self.placeholders.insert(value.to_owned(), placeholder.clone());
        self.values.insert(placeholder.clone(), Value { text: value.to_owned(), literal: kind == "TEXT" });
        placeholder
    }

    /// A name is found in "Hola Ana" and not in "as Ana said": what was found once is masked everywhere.
    fn replace_repeated(&self, mut text: String) -> String {
        let mut values: Vec<(&String, &String)> = self.placeholders.iter().collect();
        values.retain(|(value, _)| value.chars().count() >= SHORTEST_REPEATED && !value.contains(['[', ']']));
        values.sort_by_key(|(value, _)| (std::cmp::Reverse(value.len()), *value));
        for (value, placeholder) in values {
            text = replace_bounded(&text, value, placeholder);
        }
        text
    }
}

/// What the finders see in a text outside of its placeholders, each with the name of its placeholder.
fn found_beside_placeholders(text: &str) -> Vec<(Range<usize>, &'static str)> {
    let ours: Vec<Range<usize>> = SHAPE.find_iter(text).map(|found| found.range()).collect();
    let inside = |range: &Range<usize>| ours.iter().any(|own| own.start <= range.start && range.end <= own.end);
    let whole = |range: Range<usize>| {
        let cut = ours.iter().filter(|own| own.start < range.end && range.start < own.end);
        cut.fold(range.clone(), |range, own| range.start.min(own.start)..range.end.max(own.end))
    };
    let found = find_all(text).into_iter().filter(|found| !inside(&found.range));
    found.map(|found| (whole(found.range), name(found.kind))).collect()
}

fn name(kind: Option<PiiKind>) -> &'static str {
    match kind {
        Some(PiiKind::Email) => "EMAIL",
        Some(PiiKind::Phone) => "PHONE",
        Some(PiiKind::Card) => "CARD",
        Some(PiiKind::Iban) => "IBAN",
        // User data inside an address has no kind of its own.
        Some(PiiKind::Token) | None => "TOKEN",
        Some(PiiKind::Id) => "ID",
        Some(PiiKind::Ip) => "IP",
        Some(PiiKind::Address) => "ADDRESS",
        Some(PiiKind::Name) => "NAME",
    }
}

/// Replaces `value` where it is no part of a longer word or of a placeholder.
fn replace_bounded(text: &str, value: &str, placeholder: &str) -> String {
    let is_edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '[' | ']' | '_'));
    let mut replaced = String::with_capacity(text.len());
    let mut from = 0;
    for (at, found) in text.match_indices(value) {
        let end = at + found.len();
        let before = text.get(..at).and_then(|before| before.chars().next_back());
        let after = text.get(end..).and_then(|after| after.chars().next());
        if is_edge(before) && is_edge(after) {
            replaced.push_str(text.get(from..at).unwrap_or_default());
            replaced.push_str(placeholder);
            from = end;
        }
    }
    replaced.push_str(text.get(from..).unwrap_or_default());
    replaced
}

/// Puts values back into a reply that comes in pieces; a placeholder may be cut over several of them.
pub struct Unmasker<'a> {
    mask: &'a Mask,
    /// May be the beginning of a placeholder.
    held: String,
}

impl<'a> Unmasker<'a> {
    pub fn new(mask: &'a Mask) -> Self {
        Self { mask, held: String::new() }
    }

    /// What can be shown now that `piece` has come; may be empty.
    pub fn push(&mut self, piece: &str) -> String {
        self.held.push_str(piece);
        let whole = begun_placeholder(&self.held).unwrap_or(self.held.len());
        let rest = self.held.split_off(whole);
        let shown = self.mask.unmask(&self.held);
        self.held = rest;
        shown
    }

    /// What was still held when the reply ended.
    pub fn finish(&mut self) -> String {
        self.mask.unmask(&std::mem::take(&mut self.held))
    }
}

/// Where a placeholder begins whose end has not come yet.
fn begun_placeholder(text: &str) -> Option<usize> {
    let at = text.rfind('[')?;
    let begun = text.get(at + 1..)?;
    (begun.len() < LONGEST_PLACEHOLDER_BYTES && begun.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
        .then_some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::intake::scrub::scrub;

    #[test]
    fn the_same_value_has_the_same_placeholder_in_all_texts() {
        let mut mask = Mask::default();
        let first = mask.mask("Hola Ana, escribe a ana@correo.example o llama al +34 612 345 678.");
        let second = mask.mask("From ana@correo.example and eva@correo.example");
        assert!(!first.contains("correo.example") && !first.contains("612"), "{first}");
        assert_eq!(second, "From [EMAIL_1] and [EMAIL_2]");
        assert!(first.contains("[EMAIL_1]") && first.contains("[PHONE_1]"), "{first}");
        assert_eq!(mask.unmask(&second), "From ana@correo.example and eva@correo.example");
        assert!(!mask.is_empty());
    }

    #[test]
    fn a_name_that_was_found_once_is_masked_everywhere() {
        let mut mask = Mask::default();
        let text = "No abre, como dijo Marisol ayer.\nGracias, Marisol";
        let masked = mask.mask(text);
        assert!(!masked.contains("Marisol"), "{masked}");
        assert_eq!(mask.unmask(&masked), text);
    }

    #[test]
    fn what_looks_like_a_placeholder_comes_back_as_it_was() {
        let mut mask = Mask::default();
        let text = "the form says [EMAIL_1] and [email_2], mine is ana@correo.example";
        let masked = mask.mask(text);
        assert_eq!(masked, "the form says [TEXT_1] and [TEXT_2], mine is [EMAIL_1]");
        assert_eq!(mask.unmask(&masked), text);
    }

    #[test]
    fn a_placeholder_that_stands_for_nothing_is_not_shown() {
        let mut mask = Mask::default();
        mask.mask("ana@correo.example");
        assert_eq!(mask.unmask("Write to [EMAIL_7] or [email_1]."), "Write to [email] or ana@correo.example.");
        assert_eq!(mask.unmask("See [TEXT_3]."), "See [token].");
    }

    #[test]
    fn a_placeholder_cut_over_pieces_is_put_back() {
        let mut mask = Mask::default();
        mask.mask("ana@correo.example");
        let reply = "Use [EMAIL_1] in [1] and [EMAIL_1";
        for size in 1..reply.len() {
            let mut unmasker = Unmasker::new(&mask);
            let pieces: Vec<&str> =
                reply.as_bytes().chunks(size).map(|piece| std::str::from_utf8(piece).expect("ASCII")).collect();
            let mut shown = String::new();
            for piece in pieces {
                let new = unmasker.push(piece);
                assert!(!new.contains("EMAIL"), "{new}");
                shown.push_str(&new);
            }
            shown.push_str(&unmasker.finish());
            assert_eq!(shown, "Use ana@correo.example in [1] and [EMAIL_1");
        }
    }

    #[test]
    fn masks_apply_to_servers_outside_unless_the_setting_says_otherwise() {
        let (inside, outside) = ("http://127.0.0.1:8000/v1", "https://models.example/v1");
        let applies = |mask: MaskFor| [mask.applies(inside), mask.applies(outside)];
        assert_eq!(applies(MaskFor::Outside), [false, true]);
        assert_eq!(applies(MaskFor::Always), [true, true]);
        assert_eq!(applies(MaskFor::Never), [false, false]);
    }

    /// Texts near personal data and near placeholders.
    fn hostile() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("Hola Ana, ".to_owned()),
            Just("612 345 678".to_owned()),
            Just("a@b.co".to_owned()),
            Just("ana.lopez@correo.example".to_owned()),
            Just("password is ".to_owned()),
            Just("x9Z! ".to_owned()),
            Just("\nGracias, Juan Pérez".to_owned()),
            Just("[EMAIL_1]".to_owned()),
            Just("[[NAME_2]".to_owned()),
            Just("[text_1".to_owned()),
            Just("]".to_owned()),
            Just("https://u:p@h.org/?token=abc".to_owned()),
            Just("4111111111111111".to_owned()),
            Just("ES91 2100 0418 4502 0005 1332".to_owned()),
            Just("83.45.12.7 ".to_owned()),
            Just(", ".to_owned()),
            "\\PC{0,12}",
        ];
        prop::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn what_was_masked_comes_back(first in hostile(), second in hostile()) {
            let mut mask = Mask::default();
            let (one, two) = (mask.mask(&first), mask.mask(&second));
            prop_assert_eq!(mask.unmask(&one), first);
            prop_assert_eq!(mask.unmask(&two), second);
        }

        #[test]
        fn no_address_of_mail_and_no_telephone_number_is_left(text in hostile()) {
            let masked = Mask::default().mask(&text);
            let left = scrub(&SHAPE.replace_all(&masked, "|")).found;
            prop_assert!(!left.iter().any(|(kind, _)| *kind == PiiKind::Email), "{masked}: {left:?}");
            for (range, kind) in found_beside_placeholders(&masked) {
                prop_assert!(!matches!(kind, "EMAIL" | "PHONE"), "{masked}: {range:?}");
            }
        }

        #[test]
        fn a_reply_in_pieces_reads_like_the_whole(text in hostile(), reply in hostile(), size in 1_usize..9) {
            let mut mask = Mask::default();
            let sent = format!("{}{reply}", mask.mask(&text));
            let mut unmasker = Unmasker::new(&mask);
            let characters: Vec<char> = sent.chars().collect();
            let mut shown: String =
                characters.chunks(size).map(|piece| unmasker.push(&piece.iter().collect::<String>())).collect();
            shown.push_str(&unmasker.finish());
            prop_assert_eq!(shown, mask.unmask(&sent));
        }
    }
}
