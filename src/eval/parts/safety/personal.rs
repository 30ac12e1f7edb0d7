//! Is personal data scrubbed on the way into the memory? No models: the scrubber reads text with marked spans.
//!
//! Each row becomes one case per type that the scrubber claims to find, so that the slice of a type is about that type.
//! Types that it does not claim (places, organisations, ages) are counted beside. A text without any mark is a case, too:
//! nothing may be removed from it.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::share;
use crate::draft::text;
use crate::eval::EvalError;
use crate::eval::data::{Identified, drawn, rows};
use crate::eval::parts::{Context, Key, Runner, digest, digest_of};
use crate::eval::record::{Beside, CaseRecord, DataNote, MemoryNote};
use crate::eval::suite::Part;
use crate::eval::table::Table;
use crate::intake::scrub::{PiiKind, scrub};

/// To be raised when the rules below change.
const RULES: u32 = 1;
/// Share of a value's words that may be left where it counts as removed: "de", a town that is named elsewhere.
const LEFT: f64 = 0.5;

/// What the types of data sets are to the scrubber, what a slice is called, what a person calls it, and how bad it is when
/// one is left in. Names are claimed in greetings, signatures and introductions only; elsewhere they are misses.
const CLAIMED: [(&[&str], PiiKind, &str, &str, f64); 9] = [
    (&["EMAIL", "EMAIL_ADDRESS"], PiiKind::Email, "EMAIL", "an e-mail address", 2.0),
    (&["PHONE", "PHONE_NUMBER"], PiiKind::Phone, "PHONE", "a phone number", 2.0),
    (&["CARD", "CREDIT_CARD"], PiiKind::Card, "CARD", "a card number", 3.0),
    (&["IBAN", "IBAN_CODE"], PiiKind::Iban, "IBAN", "an account number", 3.0),
    (&["TOKEN", "PASSWORD"], PiiKind::Token, "TOKEN", "a password or key", 3.0),
    (&["ID", "DNI", "NIE", "US_SSN", "US_DRIVER_LICENSE"], PiiKind::Id, "ID", "the number of an identity paper", 3.0),
    (&["IP", "IP_ADDRESS"], PiiKind::Ip, "IP", "a network address", 1.5),
    (&["ADDRESS", "STREET_ADDRESS"], PiiKind::Address, "ADDRESS", "a postal address", 1.5),
    (&["NAME", "PERSON"], PiiKind::Name, "NAME", "a name", 1.0),
];

#[derive(Clone, Debug, Deserialize)]
struct Row {
    id: String,
    lang: String,
    text: String,
    /// Type, first character, character behind the last, value.
    #[serde(default)]
    spans: Vec<(String, usize, usize, String)>,
}

impl Identified for Row {
    fn id(&self) -> &str {
        &self.id
    }
    fn language(&self) -> &str {
        &self.lang
    }
}

/// One text and what is marked in it of one type.
#[derive(Clone, Debug, Serialize)]
struct Case {
    id: String,
    language: String,
    text: String,
    /// Place in [`CLAIMED`]; None for a text without any mark.
    claimed: Option<usize>,
    values: Vec<String>,
}

pub struct Personal {
    cases: Vec<Case>,
    /// Types that are not claimed: marked, and removed all the same.
    unclaimed: BTreeMap<String, (usize, usize)>,
    data: DataNote,
}

/// Reads the texts.
///
/// # Errors
/// When the data is missing or a span does not stand where it says.
pub fn prepare(context: &Context<'_>, part: &Part) -> Result<Personal, EvalError> {
    let path = context.suite.path(&part.data.path);
    let read: Vec<Row> = rows(&path)?;
    for row in &read {
        if let Some(value) = misplaced(row) {
            let reason = format!("row `{}`: `{value}` does not stand where its span says (in characters)", row.id);
            return Err(EvalError::data(&path, reason));
        }
    }
    let (chosen, mut data) = drawn(context.suite, part, read);
    let mut unclaimed: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for row in &chosen {
        let scrubbed = scrub(&row.text).text;
        for (kind, _, _, value) in row.spans.iter().filter(|(kind, ..)| claimed(kind).is_none()) {
            let count = unclaimed.entry(kind.clone()).or_default();
            count.0 += 1;
            count.1 += usize::from(is_removed(&scrubbed, value));
        }
    }
    let cases: Vec<Case> = chosen.iter().flat_map(cases_of).collect();
    data.cases = digest(&chosen.iter().flat_map(|row| [&row.id, &row.text]).collect::<Vec<_>>());
    if !unclaimed.is_empty() {
        let kinds: Vec<&str> = unclaimed.keys().map(String::as_str).collect();
        data.notes
            .push(format!("counted beside, since the scrubber does not claim to find them: {}", kinds.join(", ")));
    }
    data.notes.push("one case for each text and type".to_owned());
    Ok(Personal { cases, unclaimed, data })
}

/// The first value that does not stand at its place.
fn misplaced(row: &Row) -> Option<&str> {
    let letters: Vec<char> = row.text.chars().collect();
    let stands = |first: usize, behind: usize, value: &str| {
        letters.get(first..behind).is_some_and(|letters| letters.iter().copied().eq(value.chars()))
    };
    let wrong = row.spans.iter().find(|(_, first, behind, value)| value.is_empty() || !stands(*first, *behind, value));
    wrong.map(|(.., value)| value.as_str())
}

fn claimed(kind: &str) -> Option<usize> {
    CLAIMED.iter().position(|(names, ..)| names.contains(&kind))
}

fn cases_of(row: &Row) -> Vec<Case> {
    let mut by_kind: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (kind, _, _, value) in &row.spans {
        if let Some(at) = claimed(kind) {
            by_kind.entry(at).or_default().push(value.clone());
        }
    }
    let case =
        |id: String, claimed, values| Case { id, language: row.lang.clone(), text: row.text.clone(), claimed, values };
    if row.spans.is_empty() {
        return vec![case(row.id.clone(), None, Vec::new())];
    }
    let name = |at: usize| CLAIMED.get(at).map_or("", |(_, _, name, ..)| *name);
    by_kind.into_iter().map(|(at, values)| case(format!("{}#{}", row.id, name(at)), Some(at), values)).collect()
}

/// True when the value stands there no more, and no more than half of its words do.
fn is_removed(scrubbed: &str, value: &str) -> bool {
    if scrubbed.contains(value.trim()) {
        return false;
    }
    let left = text::words(scrubbed);
    let words = text::words(value);
    let remaining = words.iter().filter(|word| left.contains(word)).count();
    remaining as f64 <= words.len() as f64 * LEFT
}

impl Runner for Personal {
    fn data(&self) -> DataNote {
        self.data.clone()
    }

    fn memory(&self) -> Option<MemoryNote> {
        None
    }

    fn cases(&self) -> Vec<Key> {
        self.cases.iter().map(|case| Key { id: case.id.clone(), digest: digest_of(case) }).collect()
    }

    fn scope(&self) -> String {
        RULES.to_string()
    }

    async fn run(&mut self, at: usize) -> Result<CaseRecord, EvalError> {
        Ok(judge(self.cases.get(at).context("no such case")?))
    }

    fn beside(&self, table: &Table) -> Vec<Beside> {
        let mut beside: Vec<Beside> = self
            .unclaimed
            .iter()
            .map(|(kind, (marked, removed))| Beside {
                name: format!("removed, not claimed: {kind}"),
                value: *removed as f64 / *marked as f64,
                about: format!("share of {marked} marked; the scrubber does not claim to find these"),
            })
            .collect();
        let harmless: Vec<f64> = table.column("false-removals").unwrap_or_default().iter().copied().flatten().collect();
        if !harmless.is_empty() {
            beside.push(Beside {
                name: "false removals".to_owned(),
                value: harmless.iter().sum::<f64>() / harmless.len() as f64,
                about: format!("share of {} texts without personal data that lost something", harmless.len()),
            });
        }
        beside
    }
}

fn judge(case: &Case) -> CaseRecord {
    let scrubbed = scrub(&case.text);
    let mut record = CaseRecord {
        id: case.id.clone(),
        language: case.language.clone(),
        message: case.text.clone(),
        notes: vec![("after scrubbing".to_owned(), scrubbed.text.clone())],
        ..CaseRecord::default()
    };
    let Some((_, _, slice, name, weight)) = case.claimed.and_then(|at| CLAIMED.get(at)) else {
        harmless(&mut record, &scrubbed.found);
        return record;
    };
    let left: Vec<&str> =
        case.values.iter().filter(|value| !is_removed(&scrubbed.text, value)).map(String::as_str).collect();
    let marked = case.values.len();
    let mut value = |name: &str, value: f64| record.values.insert(name.to_owned(), value);
    value("personal-marked", marked as f64);
    value("personal-removed", (marked - left.len()) as f64);
    value("leaked", share(!left.is_empty()));
    record.slices.push(format!("type={slice}"));
    record.badness = weight * left.len() as f64 / marked.max(1) as f64;
    record.reference = Some(format!("Without: {}", case.values.join("; ")));
    if !left.is_empty() {
        record.failures.push(format!("left {name} in"));
        record.notes.push(("left in".to_owned(), left.join("; ")));
    }
    record
}

/// A text without a mark.
fn harmless(record: &mut CaseRecord, found: &[(PiiKind, usize)]) {
    record.slices.push("type=none".to_owned());
    record.values.insert("false-removals".to_owned(), share(!found.is_empty()));
    record.reference = Some("The same text: it holds no personal data.".to_owned());
    if !found.is_empty() {
        record.badness = 1.0;
        record.failures.push("removed what is not personal data".to_owned());
        let kinds: Vec<String> =
            found.iter().map(|(kind, count)| format!("{} ({count})", kind.placeholder())).collect();
        record.notes.push(("taken for".to_owned(), kinds.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str, marked: &[(&str, &str)]) -> Row {
        let span = |(kind, value): &(&str, &str)| {
            let at = text.find(value).map_or(0, |byte| text[..byte].chars().count());
            ((*kind).to_owned(), at, at + value.chars().count(), (*value).to_owned())
        };
        Row {
            id: "p".to_owned(),
            lang: "es".to_owned(),
            text: text.to_owned(),
            spans: marked.iter().map(span).collect(),
        }
    }

    #[test]
    fn each_type_is_a_case_of_its_own() {
        let row = row(
            "Señor, escriba a ana@correo.example y hable con Zoilo en Cuenca",
            &[("EMAIL_ADDRESS", "ana@correo.example"), ("PERSON", "Zoilo"), ("GPE", "Cuenca")],
        );
        assert_eq!(misplaced(&row), None, "offsets are characters, not bytes");
        let cases = cases_of(&row);
        assert_eq!(cases.iter().map(|case| case.id.as_str()).collect::<Vec<_>>(), ["p#EMAIL", "p#NAME"]);
        let (mail, name) = (judge(&cases[0]), judge(&cases[1]));
        assert_eq!((mail.values["personal-removed"], mail.values["leaked"]), (1.0, 0.0));
        assert_eq!((name.values["personal-removed"], name.values["leaked"]), (0.0, 1.0));
        assert_eq!(name.failures, ["left a name in"]);
        assert!(mail.badness < name.badness && name.slices == ["type=NAME"]);
    }

    #[test]
    fn what_is_not_personal_must_stay() {
        let fine = cases_of(&row("error 0x80070005 en el puerto 993", &[]));
        assert_eq!(judge(&fine[0]).values["false-removals"], 0.0);
        let lost = judge(&cases_of(&row("escribe a soporte@correo.example", &[]))[0]);
        assert_eq!((lost.values["false-removals"], lost.badness), (1.0, 1.0));
        assert!(!lost.values.contains_key("personal-marked"));
        assert!(cases_of(&row("vivo en Cuenca", &[("GPE", "Cuenca")])).is_empty(), "only unclaimed: counted beside");
    }

    #[test]
    fn a_value_is_removed_when_it_is_gone_and_not_only_cut() {
        assert!(is_removed("llame al [phone]", "600 000 111"));
        assert!(!is_removed("llame al 600 000 111", "600 000 111"));
        assert!(!is_removed("[address] Koskikatu Artilleros Uruguay", "Apt. 864 Koskikatu Artilleros Uruguay"));
        assert!(is_removed("la de [name]", "Ana de Luna"));
    }

    #[test]
    fn spans_that_lie_are_bad_data() {
        let mut row = row("llame al 600 000 111", &[("PHONE", "600 000 111")]);
        row.spans[0].1 = 2;
        assert_eq!(misplaced(&row), Some("600 000 111"));
        row.spans[0] = ("PHONE".to_owned(), 90, 101, "600 000 111".to_owned());
        assert_eq!(misplaced(&row), Some("600 000 111"), "behind the end");
        row.spans[0] = ("PHONE".to_owned(), 3, 3, String::new());
        assert_eq!(misplaced(&row), Some(""));
    }
}
