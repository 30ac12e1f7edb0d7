//! How an answer looks in a terminal and in a pipe.

use crate::pipeline::Answer;
use crate::ticket::{Class, Draft, DraftKind, Judgement, Retrieved, Timings, Triage};

/// Characters of a text shown on one line.
const LINE: usize = 96;
/// Evidence items shown.
const EVIDENCE_SHOWN: usize = 5;

/// Bold headings where a person reads along, plain text in a pipe.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    colour: bool,
}

impl Style {
    pub fn for_stdout() -> Self {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
        Self { colour: terminal && std::env::var_os("NO_COLOR").is_none() }
    }

    pub fn heading(self, text: &str) -> String {
        if self.colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub fn faint(self, text: &str) -> String {
        if self.colour { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
    }
}

pub fn triage(triage: &Triage, style: Style) -> String {
    let mut out = style.heading("Triage") + "\n";
    judgement(&mut out, "urgency", &triage.urgency);
    judgement(&mut out, "difficulty", &triage.difficulty);
    judgement(&mut out, "next step", &triage.next);
    if let Some(time) = triage.expected_time {
        let basis = match time.samples {
            0 => "all solved tickets".to_owned(),
            samples => format!("{samples} similar tickets"),
        };
        let (median, most) = (hours(time.median_hours), hours(time.p90_hours));
        push(&mut out, format_args!("  solved in   half within {median}, nine of ten within {most} ({basis})\n"));
    }
    if let Some(skill) = &triage.skill {
        push(&mut out, format_args!("  skill       {skill}\n"));
    }
    out
}

fn judgement<T: Class>(out: &mut String, name: &str, judgement: &Judgement<T>) {
    let unsure = if judgement.abstained { ", unsure" } else { "" };
    let percent = judgement.probability * 100.0;
    push(out, format_args!("  {name:<11} {} ({percent:.0} %{unsure})", judgement.label.name()));
    if !judgement.words.is_empty() {
        push(out, format_args!("  «{}»", line(&judgement.words.join("», «"))));
    }
    out.push('\n');
}

pub fn evidence(found: &[Retrieved], style: Style) -> String {
    if found.is_empty() {
        return format!("{}\n  nothing similar in the memory\n", style.heading("Evidence"));
    }
    let mut out = style.heading("Evidence") + "\n";
    for (position, item) in found.iter().take(EVIDENCE_SHOWN).enumerate() {
        let (kind, language) = (item.item.kind.name(), &item.item.language);
        let head = format!(
            "  {}. {:.2} {kind} {} ({language}) {}\n",
            position + 1,
            item.similarity,
            item.item.id,
            line(&item.item.title)
        );
        out.push_str(&head);
        push(&mut out, format_args!("     {}\n", style.faint(&line(&item.passage))));
    }
    out
}

pub fn draft(draft: &Draft, style: Style) -> String {
    let kind = match draft.kind {
        DraftKind::Extractive => "reply, from a resolved ticket or article",
        DraftKind::Generated => "reply, written by the model",
        DraftKind::Acknowledgement => "acknowledgement",
        DraftKind::Question => "question",
    };
    let mut out = format!("{} ({kind}, {})\n", style.heading("Draft"), draft.language);
    for sentence in &draft.sentences {
        let marks: String = sentence.evidence.iter().map(|index| format!(" [{index}]")).collect();
        push(&mut out, format_args!("  {}{}\n", sentence.text.trim(), style.faint(&marks)));
    }
    if draft.sentences.is_empty() {
        draft.text.lines().for_each(|line| push(&mut out, format_args!("  {line}\n")));
    }
    for finding in &draft.findings {
        let rule = format!("{:?}", finding.rule);
        let cut = line(&finding.sentence);
        push(&mut out, format_args!("  {}\n", style.faint(&format!("guard cut ({rule}: {}): {cut}", finding.detail))));
    }
    out
}

pub fn decision(answer: &Answer, style: Style) -> String {
    let decision = &answer.decision;
    let action = format!("{:?}", decision.action).to_lowercase();
    let automatic = if decision.automatic { ", goes out by itself" } else { "" };
    let mut out = format!("{} {action}{automatic}\n", style.heading("Decision"));
    decision.reasons.iter().for_each(|reason| push(&mut out, format_args!("  - {reason}\n")));
    if let Some(fit) = decision.fit {
        push(&mut out, format_args!("  evidence fits: {:.0} %\n", fit * 100.0));
    }
    if let Some(skill) = &decision.skill {
        push(&mut out, format_args!("  needs: {skill}\n"));
    }
    if let Some(text) = &answer.outgoing
        && answer.draft.as_ref().is_none_or(|draft| draft.text != *text)
    {
        push(&mut out, format_args!("{}\n", style.heading("The customer reads now")));
        text.lines().for_each(|line| push(&mut out, format_args!("  {line}\n")));
    }
    out + &timings(&answer.timings, style)
}

pub fn timings(timings: &Timings, style: Style) -> String {
    let mut out = format!(
        "{} embed {:.0} ms, search {:.0} ms, triage {:.1} ms, extractive reply {:.0} ms",
        style.heading("Timings"),
        timings.embed_ms,
        timings.retrieve_ms,
        timings.triage_ms,
        timings.extractive_ms
    );
    if timings.opinion_ms > 0.0 {
        push(&mut out, format_args!(", second opinion {:.0} ms", timings.opinion_ms));
    }
    if timings.weigh_ms > 0.0 {
        push(&mut out, format_args!(", evidence read {:.0} ms", timings.weigh_ms));
    }
    if let Some(ms) = timings.first_token_ms {
        push(&mut out, format_args!(", first token {:.1} s", ms / 1_000.0));
    }
    if let Some(ms) = timings.generated_ms {
        push(&mut out, format_args!(", whole reply {:.1} s", ms / 1_000.0));
    }
    push(&mut out, format_args!(", total {:.1} s\n", timings.total_ms / 1_000.0));
    out
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.push_str(&text.to_string());
}

/// First [`LINE`] characters, on one line.
pub fn line(text: &str) -> String {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match flat.char_indices().nth(LINE) {
        Some((end, _)) => format!("{}…", &flat[..end]),
        None => flat,
    }
}

fn hours(hours: f32) -> String {
    match hours {
        h if h < 1.0 => format!("{:.0} min", (h * 60.0).max(1.0)),
        h if h < 48.0 => format!("{h:.0} h"),
        h => format!("{:.0} days", h / 24.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_between_characters() {
        assert_eq!(line("a\n b"), "a b");
        let long = "ñ".repeat(200);
        assert_eq!(line(&long).chars().count(), LINE + 1);
    }

    #[test]
    fn hours_are_said_in_plain_units() {
        assert_eq!(hours(0.01), "1 min");
        assert_eq!(hours(8.7), "9 h");
        assert_eq!(hours(121.0), "5 days");
    }
}
