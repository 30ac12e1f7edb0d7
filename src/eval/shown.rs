//! What a case shows of an answer: a person reads these, so texts are cut and figures are named in words.

use super::record::{ShownDraft, ShownEvidence, ShownSentence};
use crate::pipeline::Answer;
use crate::ticket::{Class, Decision, Draft, DraftKind, Finding, Judgement, Retrieved};

/// Found items shown with a case.
const ITEMS: usize = 5;
/// Characters shown of an item.
const CHARACTERS: usize = 600;

/// A draft as a person reads it. `invented` stays empty: it is the answer to another question, see
/// [`super::invented::invented`].
pub fn draft(draft: &Draft) -> ShownDraft {
    let sentence = |sentence: &crate::ticket::Sentence| ShownSentence {
        text: sentence.text.clone(),
        evidence: sentence.evidence.clone(),
        support: f64::from(sentence.support),
    };
    ShownDraft {
        kind: kind(draft.kind).to_owned(),
        text: draft.text.clone(),
        sentences: draft.sentences.iter().map(sentence).collect(),
        findings: draft.findings.iter().map(finding).collect(),
        invented: Vec::new(),
    }
}

/// The first found items, best first.
pub fn evidence(found: &[Retrieved]) -> Vec<ShownEvidence> {
    let shown = |found: &Retrieved| {
        let text = if found.passage.is_empty() { &found.item.problem } else { &found.passage };
        ShownEvidence {
            id: found.item.id.clone(),
            title: found.item.title.clone(),
            text: text.chars().take(CHARACTERS).collect(),
            similarity: f64::from(found.similarity),
            relevant: None,
        }
    };
    found.iter().take(ITEMS).map(shown).collect()
}

/// Decision, triage and what went wrong on the way, each under its name.
pub fn notes(answer: &Answer) -> Vec<(String, String)> {
    let triage = &answer.triage;
    let mut notes = vec![
        ("decision".to_owned(), decision(&answer.decision)),
        ("urgency".to_owned(), judgement(&triage.urgency)),
        ("difficulty".to_owned(), judgement(&triage.difficulty)),
        ("next step".to_owned(), judgement(&triage.next)),
    ];
    if let Some(fit) = answer.decision.fit {
        notes.push(("evidence fits".to_owned(), format!("{:.0} %", fit * 100.0)));
    }
    if let Some(text) = &answer.outgoing {
        notes.push(("sent at once".to_owned(), text.clone()));
    }
    if !answer.degraded.is_empty() {
        notes.push(("degraded".to_owned(), answer.degraded.join("; ")));
    }
    notes
}

/// Lower-case name of a draft's kind, as in the API.
pub fn kind(kind: DraftKind) -> &'static str {
    match kind {
        DraftKind::Extractive => "extractive",
        DraftKind::Generated => "generated",
        DraftKind::Acknowledgement => "acknowledgement",
        DraftKind::Question => "question",
    }
}

fn decision(decision: &Decision) -> String {
    let alone = if decision.automatic { ", without a person" } else { "" };
    let action = format!("{:?}", decision.action).to_lowercase();
    format!("{action}{alone}: {}", decision.reasons.join("; "))
}

fn judgement<T: Class>(judgement: &Judgement<T>) -> String {
    let unsure = if judgement.abstained { ", not sure enough to act on" } else { "" };
    let words =
        if judgement.words.is_empty() { String::new() } else { format!(" (\"{}\")", judgement.words.join("\", \"")) };
    format!("{} {:.0} %{unsure}{words}", judgement.label.name(), judgement.probability * 100.0)
}

fn finding(finding: &Finding) -> String {
    let rule = format!("{:?}", finding.rule);
    let mut named = String::with_capacity(rule.len() + 4);
    for letter in rule.chars() {
        if letter.is_ascii_uppercase() && !named.is_empty() {
            named.push(' ');
        }
        named.push(letter.to_ascii_lowercase());
    }
    format!("{named}: {} in \"{}\"", finding.detail, finding.sentence)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ticket::{Language, Rule, Sentence};

    /// A reply without evidence, for tests of what reads drafts.
    pub(crate) fn reply(kind: DraftKind, text: &str) -> Draft {
        Draft {
            kind,
            language: Language::EN,
            text: text.to_owned(),
            sentences: vec![Sentence { text: text.to_owned(), evidence: vec![1], support: 0.5 }],
            evidence: Vec::new(),
            findings: Vec::new(),
            model: None,
        }
    }

    #[test]
    fn findings_and_judgements_are_in_words() {
        let mut generated = reply(DraftKind::Generated, "Use port 999.");
        generated.findings.push(Finding {
            rule: Rule::UnsupportedNumber,
            sentence: "Use port 999.".to_owned(),
            detail: "999".to_owned(),
        });
        let shown = draft(&generated);
        assert_eq!(shown.findings, ["unsupported number: 999 in \"Use port 999.\""]);
        assert_eq!((shown.kind.as_str(), shown.sentences[0].evidence.as_slice()), ("generated", &[1][..]));
        let unsure = Judgement {
            label: crate::ticket::Urgency::High,
            probability: 0.414,
            distribution: vec![0.1, 0.414, 0.4, 0.086],
            abstained: true,
            words: vec!["down".to_owned()],
            neighbours: Vec::new(),
        };
        assert_eq!(judgement(&unsure), "high 41 %, not sure enough to act on (\"down\")");
    }
}
