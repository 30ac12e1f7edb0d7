//! One row of a file to one memory item.

use jiff::Timestamp;
use serde_json::Value;

use super::solution::{best_answer, tidy};
use super::{ImportOptions, Reason};
use crate::intake::clean::clean_stored;
use crate::intake::language::{LanguageDetector, is_language};
use crate::intake::scrub::scrub;
use crate::ticket::{AnswerKind, Language, MemoryItem, MemoryKind};

/// Field names that a mapping may name.
pub(super) const FIELDS: &[&str] = &[
    "id",
    "subject",
    "title",
    "body",
    "summary",
    "text",
    "answer",
    "answer_kind",
    "lang",
    "product",
    "queue",
    "created_at",
    "resolved_at",
    "updated_at",
    "is_solved",
    "url",
];

/// Shortest article text, in characters.
const MIN_ARTICLE: usize = 40;

/// A row's fields under our names.
pub(super) struct Row<'a> {
    value: &'a Value,
    mapping: &'a [(String, String)],
}

impl<'a> Row<'a> {
    pub fn new(value: &'a Value, mapping: &'a [(String, String)]) -> Self {
        Self { value, mapping }
    }

    pub fn get(&self, field: &str) -> Option<&'a Value> {
        let key = self.mapping.iter().find(|(ours, _)| ours == field).map_or(field, |(_, theirs)| theirs);
        self.value.get(key).filter(|value| !value.is_null())
    }

    /// A field as text; numbers as written. None when absent or blank.
    pub fn text(&self, field: &str) -> Option<String> {
        let text = match self.get(field)? {
            Value::String(text) => text.trim().to_owned(),
            Value::Number(number) => number.to_string(),
            _ => return None,
        };
        (!text.is_empty()).then_some(text)
    }

    /// A field that is a name and no text: without control characters, which no database or terminal takes well.
    fn label(&self, field: &str) -> Option<String> {
        let text = self.text(field)?;
        let visible: String = text.chars().filter(|c| !c.is_control()).collect();
        Some(visible.trim().to_owned()).filter(|label| !label.is_empty())
    }

    pub fn id(&self) -> Option<String> {
        self.label("id").or_else(|| self.label("_id"))
    }

    fn time(&self, field: &str) -> Option<Timestamp> {
        let text = self.text(field)?;
        let as_utc =
            || text.replace(' ', "T").parse::<jiff::civil::DateTime>().ok()?.in_tz("UTC").ok().map(|at| at.timestamp());
        text.parse().ok().or_else(as_utc)
    }

    /// Marked as solved: by a flag, a time of resolution or an accepted answer.
    fn is_solved(&self) -> bool {
        let flagged = match self.get("is_solved") {
            Some(Value::Bool(flag)) => *flag,
            Some(Value::String(flag)) => {
                ["true", "1", "yes", "sí", "si"].contains(&flag.trim().to_lowercase().as_str())
            }
            Some(Value::Number(flag)) => flag.as_i64() == Some(1),
            _ => false,
        };
        let accepted = matches!(self.text("answer_kind").as_deref(), Some("accepted" | "approved"));
        flagged || accepted || self.get("resolved_at").is_some()
    }
}

/// A resolved ticket: problem and the best answer of a kind that counts.
///
/// # Errors
/// The [`Reason`] why the row is not taken.
pub(super) fn ticket(row: &Row, options: &ImportOptions) -> Result<MemoryItem, Reason> {
    let id = row.id().ok_or(Reason::Missing("id"))?;
    let title = title_of(&row.text("subject").or_else(|| row.text("title")).unwrap_or_default());
    let body = personal_free(&row.text("body").or_else(|| row.text("text")).unwrap_or_default());
    if title.is_empty() && body.is_empty() {
        return Err(Reason::Missing("subject and no body"));
    }
    if options.solved_only && !row.is_solved() {
        return Err(Reason::NotSolved);
    }
    let (solution, answer_kind) = best_answer(row, &options.answers)?;
    let solution = scrub(&solution).text;
    let created_at = row.time("created_at");
    let resolved_hours = match (created_at, row.time("resolved_at")) {
        (Some(created), Some(resolved)) if resolved >= created => {
            Some((resolved.as_second() - created.as_second()) as f32 / 3600.0)
        }
        _ => None,
    };
    let problem = if body.is_empty() { title.clone() } else { body };
    Ok(MemoryItem {
        language: language_of(&solution, &problem, row, options),
        kind: MemoryKind::Ticket,
        product: row.label("product").or_else(|| options.product.clone()),
        queue: row.label("queue"),
        title,
        problem,
        solution,
        answer_kind: Some(answer_kind),
        url: address(row, &id, options),
        resolved_hours,
        created_at,
        id,
    })
}

/// A help article; rows of a BEIR corpus (`_id`, `title`, `text`) are articles too.
///
/// # Errors
/// The [`Reason`] why the row is not taken.
pub(super) fn article(row: &Row, options: &ImportOptions) -> Result<MemoryItem, Reason> {
    let id = row.id().ok_or(Reason::Missing("id"))?;
    let title = row.text("title").or_else(|| row.text("subject")).ok_or(Reason::Missing("title"))?;
    let text = row.text("text").or_else(|| row.text("body")).ok_or(Reason::Missing("text"))?;
    let solution = personal_free(&text);
    if solution.chars().count() < MIN_ARTICLE {
        return Err(Reason::ArticleTooShort);
    }
    let summary = personal_free(&row.text("summary").unwrap_or_default());
    Ok(MemoryItem {
        language: language_of(&solution, &summary, row, options),
        kind: MemoryKind::Article,
        product: row.label("product").or_else(|| options.product.clone()),
        queue: row.label("queue"),
        title: title_of(&title),
        problem: summary,
        solution,
        answer_kind: None,
        url: address(row, &id, options),
        resolved_hours: None,
        created_at: row.time("updated_at").or_else(|| row.time("created_at")),
        id,
    })
}

fn personal_free(raw: &str) -> String {
    scrub(&clean_stored(raw)).text
}

/// A title in one line; made so first, since a number that is broken over two lines is found in one only.
fn title_of(raw: &str) -> String {
    scrub(&single_line(&clean_stored(raw))).text
}

fn single_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The language of the solution, since that is what a reply is cut from; else of the problem, the row, the default.
fn language_of(solution: &str, problem: &str, row: &Row, options: &ImportOptions) -> Language {
    let stated = row.text("lang").map(|code| Language::new(&code));
    if let Some(stated) = stated.as_ref().filter(|stated| stated.is_supported()) {
        // Function words agree with the row: no need for the slower models.
        if is_language(solution, stated) == Some(true) {
            return stated.clone();
        }
    }
    let detected = LanguageDetector.detect(solution);
    if detected.language != Language::UNKNOWN && detected.confidence >= 0.6 {
        return detected.language;
    }
    let of_problem = LanguageDetector.detect(problem).language;
    if of_problem != Language::UNKNOWN {
        return of_problem;
    }
    stated.or_else(|| options.language.clone()).unwrap_or(Language::UNKNOWN)
}

/// The row's public address, or the template filled in; only web addresses.
fn address(row: &Row, id: &str, options: &ImportOptions) -> Option<String> {
    let stated = row.label("url").filter(|url| is_web_address(url));
    stated.or_else(|| {
        let template = options.url_template.as_deref()?;
        let digits: String = id.chars().filter(char::is_ascii_digit).collect();
        if template.contains("{digits}") && digits.is_empty() {
            return None;
        }
        Some(template.replace("{digits}", &digits).replace("{id}", id)).filter(|url| is_web_address(url))
    })
}

fn is_web_address(url: &str) -> bool {
    (url.starts_with("https://") || url.starts_with("http://"))
        && !url.contains(|c: char| c.is_whitespace() || c == '<')
}

/// Answers of a row by kind, in the order in which the file gives them.
pub(super) fn answers_of(row: &Row, kind: AnswerKind) -> Vec<String> {
    let mut found = Vec::new();
    let stated = match row.text("answer_kind").as_deref() {
        Some("approved") => Some(AnswerKind::Approved),
        Some("most_helpful") => Some(AnswerKind::MostHelpful),
        Some("first_helper" | "first") => Some(AnswerKind::FirstHelper),
        // A desk's export has one resolution per ticket and does not say how it was chosen.
        Some("accepted") | None => Some(AnswerKind::Accepted),
        Some(_) => None,
    };
    if stated == Some(kind) {
        found.extend(row.text("answer").map(|answer| tidy(&answer)));
    }
    let thread = row.get("thread").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut helpers: Vec<&Value> =
        thread.iter().filter(|reply| reply.get("role").and_then(Value::as_str) != Some("customer")).collect();
    let votes = |reply: &Value| reply.get("helpful").and_then(Value::as_i64).unwrap_or(0);
    match kind {
        AnswerKind::Approved => helpers.clear(),
        AnswerKind::Accepted => helpers.retain(|reply| reply.get("accepted").and_then(Value::as_bool) == Some(true)),
        AnswerKind::MostHelpful => {
            helpers.retain(|reply| votes(reply) > 0);
            helpers.sort_by_key(|reply| std::cmp::Reverse(votes(reply)));
        }
        AnswerKind::FirstHelper => helpers.truncate(1),
    }
    for body in helpers.iter().filter_map(|reply| reply.get("body").and_then(Value::as_str)) {
        let text = tidy(body);
        if !found.contains(&text) {
            found.push(text);
        }
    }
    found
}
