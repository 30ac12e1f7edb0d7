//! One HTML file that needs nothing else: style, script, charts and cases are in it, and its content security policy lets
//! nothing be loaded. Texts of cases are hostile: they reach the page as JSON and become text nodes only.

use std::borrow::Cow;
use std::collections::BTreeMap;

use minijinja::{AutoEscape, Environment, UndefinedBehavior, context};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{by_badness, is_xml, turns_direction, view};
use crate::eval::EvalError;
use crate::eval::compare::{Comparison, GateOutcome};
use crate::eval::record::{CaseRecord, RunResult};

const TEMPLATE: &str = include_str!("page.html.j2");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Characters that are kept of a message, a reply or a reference, and of an item of evidence.
const LONG: usize = 8_000;
const EVIDENCE: usize = 2_000;
/// Items of evidence kept per case.
const ITEMS: usize = 10;

/// The page of a run. `cases` are the single cases to be browsed, by part; all of them are written into the page.
///
/// # Errors
/// When the page cannot be put together, which is a fault of the template.
pub fn render(
    result: &RunResult,
    cases: &[(String, Vec<CaseRecord>)],
    comparison: Option<&Comparison>,
    gates: &[GateOutcome],
) -> Result<String, EvalError> {
    fill(result, cases, comparison, gates)
        .map_err(|error| EvalError::Run(error.context("cannot write the HTML report")))
}

fn fill(
    result: &RunResult,
    cases: &[(String, Vec<CaseRecord>)],
    comparison: Option<&Comparison>,
    gates: &[GateOutcome],
) -> anyhow::Result<String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_template("page.html", TEMPLATE)?;
    // Browsers hash what they read, and they read every line end as one character.
    let (style, script) = (STYLE.replace("\r\n", "\n"), SCRIPT.replace("\r\n", "\n"));
    let policy = format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; base-uri 'none'; form-action 'none'",
        hash(&style),
        hash(&script)
    );
    let page = view::page(result, cases, comparison, gates);
    let data = embed(cases)?;
    let text = environment.get_template("page.html")?.render(context! { page, policy, style, script, data })?;
    Ok(visible(&text))
}

/// Control characters, which HTML forbids, and those that turn the direction of writing become visible.
fn visible(page: &str) -> String {
    let mut out = String::with_capacity(page.len());
    for c in page.chars() {
        match c {
            c if turns_direction(c) => out.push_str(&format!("[U+{:04X}]", u32::from(c))),
            c if is_xml(c) => out.push(c),
            _ => out.push('\u{FFFD}'),
        }
    }
    out
}

/// A source expression of a content security policy.
fn hash(text: &str) -> String {
    format!("sha256-{}", base64(&Sha256::digest(text)))
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, at| bits << 8 | u32::from(group.get(at).copied().unwrap_or(0)));
        for digit in 0..4_usize {
            let value = bits >> (18 - 6 * digit) & 63;
            out.push(if digit > group.len() { '=' } else { char::from(DIGITS[value as usize]) });
        }
    }
    out
}

/// A case as the page needs it.
#[derive(Serialize)]
struct Shown<'a> {
    part: &'a str,
    id: &'a str,
    language: &'a str,
    queue: Option<&'a str>,
    slices: &'a [String],
    message: Cow<'a, str>,
    failures: &'a [String],
    badness: f64,
    values: &'a BTreeMap<String, f64>,
    evidence: Vec<Item<'a>>,
    draft: Option<Draft<'a>>,
    reference: Option<Cow<'a, str>>,
    notes: Vec<(&'a str, Cow<'a, str>)>,
}

#[derive(Serialize)]
struct Item<'a> {
    id: &'a str,
    title: &'a str,
    text: Cow<'a, str>,
    similarity: f64,
    relevant: Option<bool>,
}

#[derive(Serialize)]
struct Draft<'a> {
    kind: &'a str,
    text: Cow<'a, str>,
    sentences: Vec<(Cow<'a, str>, &'a [usize], f64)>,
    findings: &'a [String],
    invented: &'a [String],
}

/// All cases as JSON, the worst first, that no text in it can end: `<`, `>`, `&` and the line ends of Unicode are escaped.
fn embed(cases: &[(String, Vec<CaseRecord>)]) -> serde_json::Result<String> {
    let mut all: Vec<(&str, &CaseRecord)> =
        cases.iter().flat_map(|(part, cases)| cases.iter().map(move |case| (part.as_str(), case))).collect();
    all.sort_by(|one, other| by_badness(one.1, other.1).then_with(|| one.0.cmp(other.0)));
    let shown: Vec<Shown<'_>> = all.into_iter().map(|(part, case)| shown(part, case)).collect();
    let json = serde_json::to_string(&shown)?;
    let mut out = String::with_capacity(json.len() + json.len() / 16);
    for c in json.chars() {
        match c {
            // Outside of its strings JSON has none of these, and in strings every character may be written so.
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c if turns_direction(c) || !is_xml(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    Ok(out)
}

fn shown<'a>(part: &'a str, case: &'a CaseRecord) -> Shown<'a> {
    let items = case.evidence.iter().take(ITEMS).map(|item| Item {
        id: &item.id,
        title: &item.title,
        text: cut(&item.text, EVIDENCE),
        similarity: item.similarity,
        relevant: item.relevant,
    });
    let draft = case.draft.as_ref().map(|draft| Draft {
        kind: &draft.kind,
        text: cut(&draft.text, LONG),
        sentences: draft
            .sentences
            .iter()
            .map(|one| (cut(&one.text, EVIDENCE), one.evidence.as_slice(), one.support))
            .collect(),
        findings: &draft.findings,
        invented: &draft.invented,
    });
    Shown {
        part,
        id: &case.id,
        language: &case.language,
        queue: case.queue.as_deref(),
        slices: &case.slices,
        message: cut(&case.message, LONG),
        failures: &case.failures,
        badness: case.badness,
        values: &case.values,
        evidence: items.collect(),
        draft,
        reference: case.reference.as_deref().map(|text| cut(text, LONG)),
        notes: case.notes.iter().map(|(name, text)| (name.as_str(), cut(text, EVIDENCE))).collect(),
    }
}

/// At most so many characters, and how many were left out.
fn cut(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        None => Cow::Borrowed(text),
        Some((end, _)) => {
            let (kept, rest) = text.split_at(end);
            Cow::Owned(format!("{kept} … ({} more characters)", rest.chars().count()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::report::made_up;

    fn page() -> String {
        let (comparison, gates) = (made_up::comparison(), made_up::gates());
        render(&made_up::result(), &made_up::cases(), Some(&comparison), &gates).expect("page")
    }

    /// The text of the data block.
    fn data(page: &str) -> &str {
        let (_, rest) = page.split_once("<script type=\"application/json\" id=\"data\">").expect("data");
        rest.split_once("</script>").expect("its end").0
    }

    #[test]
    fn base64_is_that_of_the_standard() {
        let pairs = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (text, encoded) in pairs {
            assert_eq!(base64(text.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
    }

    #[test]
    fn the_page_loads_nothing() {
        let page = page();
        for word in ["http://", "https://", " src=\"", "@import", "url(", "style=\"", "onclick", "innerHTML"] {
            assert!(!page.contains(word), "{word}");
        }
        assert!(page.contains("default-src &#x27;none&#x27;") && !page.contains("unsafe-inline"), "{}", &page[..600]);
        let inside =
            |from: &str, to: &str| page.split_once(from).and_then(|(_, rest)| rest.split_once(to)).expect("there").0;
        let encoded = |text: &str| hash(text).replace('/', "&#x2f;");
        assert!(page.contains(&encoded(inside("<style>", "</style>"))), "the style has its hash");
        assert!(page.contains(&encoded(inside("<script>", "</script>"))), "the script has its hash");
    }

    #[test]
    fn hostile_texts_stay_texts() {
        let page = page();
        assert_eq!(page.matches("<script").count(), 2, "the data and the script of the page");
        assert_eq!(page.matches("</script").count(), 2);
        assert!(!page.contains("<img") && !page.contains("<!-- "));
        assert!(!page.contains("49}"), "texts are no templates");
        assert!(page.chars().all(|c| is_xml(c) && !turns_direction(c)) && page.contains("[U+202E]gpj.exe"));
        let data = data(&page);
        assert!(!data.contains(['<', '>', '&', '\u{2028}', '\u{2029}']));
        let cases: Vec<serde_json::Value> = serde_json::from_str(data).expect("JSON");
        assert_eq!(cases.len(), 71);
        assert_eq!(cases[0]["id"], made_up::HOSTILE, "the worst first, and whole");
        assert!(cases[0]["values"]["odd"].is_null(), "what is no number is none");
        let evidence = cases[0]["evidence"][0]["text"].as_str().expect("text");
        assert!(evidence.ends_with("… (8000 more characters)"), "{}", evidence.len());
    }

    #[test]
    fn empty_and_skipped_runs_are_pages_too() {
        let page = render(&made_up::empty(), &[], None, &[]).expect("page");
        assert!(page.contains("Nothing was run") && data(&page) == "[]");
        let skipped = render(&made_up::all_skipped(), &[], None, &[]).expect("page");
        assert_eq!(skipped.matches("Skipped:").count(), 4);
        let same = made_up::unchanged();
        let page = render(&made_up::result(), &[], Some(&same), &[]).expect("page");
        assert!(page.contains("No significant change") && !page.contains(">worse<"));
    }

    /// `REPORT_SAMPLE=folder` writes the made-up report there, to be looked at.
    #[test]
    fn a_sample_is_written_where_asked_for() {
        let Some(folder) = std::env::var_os("REPORT_SAMPLE") else { return };
        let (comparison, gates) = (made_up::comparison(), made_up::gates());
        let folder = std::path::Path::new(&folder);
        crate::eval::report::write_all(folder, &made_up::result(), &made_up::cases(), Some(&comparison), &gates)
            .expect("written");
    }
}
