//! Memory items as searchable points: which texts are embedded, and how long articles are cut.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::MemoryPoint;
use crate::ticket::{MemoryItem, MemoryKind};

/// A passage is closed once it has this many words ...
const TARGET_WORDS: usize = 140;
/// ... and never gets longer than this: with its title it still fits the 512 tokens that the embedder reads.
const MAX_WORDS: usize = 180;
/// A heading opens a new passage only when the one before has at least this many words; stubs find nothing.
const MIN_WORDS: usize = 60;
const MAX_HEADING_WORDS: usize = 10;
/// No article has more; what comes after is left out of the index rather than letting one file fill it.
const MAX_PASSAGES: usize = 400;

/// One point before its texts are embedded.
#[derive(Clone, Debug, PartialEq)]
pub struct PointPlan {
    /// Made from the memory id and the passage: the same item gives the same points.
    pub id: Uuid,
    /// Title and problem (the passages of one article share it: embed it once).
    pub problem_text: String,
    /// Solution of a ticket; title and passage of an article.
    pub solution_text: String,
    pub passage: usize,
}

impl PointPlan {
    /// The point, with the unit vectors of `problem_text` and `solution_text`.
    pub fn into_point(self, item: &MemoryItem, problem: Vec<f32>, solution: Vec<f32>) -> MemoryPoint {
        MemoryPoint {
            id: self.id,
            memory_id: item.id.clone(),
            kind: item.kind,
            product: item.product.clone(),
            language: item.language.code().to_owned(),
            problem,
            solution,
            problem_text: self.problem_text,
            solution_text: self.solution_text,
            passage: self.passage,
        }
    }
}

/// The points of an item: one for a ticket, one for each passage of an article. Both texts are stored texts, so both are
/// embedded as [`crate::embed::Role::Passage`] (stackfaq, titles alone: nDCG@10 0.924 that way, 0.914 as `Role::Query`).
pub fn plan_points(item: &MemoryItem) -> Vec<PointPlan> {
    let problem_text = joined(&item.title, &item.problem);
    let solutions = match item.kind {
        MemoryKind::Ticket => vec![item.solution.trim().to_owned()],
        MemoryKind::Article => {
            split_passages(&item.solution).iter().map(|passage| joined(&item.title, passage)).collect()
        }
    };
    solutions
        .into_iter()
        .enumerate()
        .map(|(passage, solution_text)| PointPlan {
            id: point_id(&item.id, passage),
            problem_text: problem_text.clone(),
            solution_text,
            passage,
        })
        .collect()
}

/// The part of the solution that a hit's `passage` number means: the whole solution of a ticket.
pub fn passage_text(item: &MemoryItem, passage: usize) -> String {
    match item.kind {
        MemoryKind::Ticket => item.solution.clone(),
        MemoryKind::Article => split_passages(&item.solution).into_iter().nth(passage).unwrap_or_default(),
    }
}

fn joined(title: &str, text: &str) -> String {
    match (title.trim(), text.trim()) {
        ("", text) => text.to_owned(),
        (title, "") => title.to_owned(),
        (title, text) if text.starts_with(title) => text.to_owned(),
        (title, text) => format!("{title}\n{text}"),
    }
}

fn point_id(memory_id: &str, passage: usize) -> Uuid {
    let digest = Sha256::new().chain_update(memory_id).chain_update([0]).chain_update(passage.to_le_bytes()).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// Cuts a text into passages of about 120 to 180 words, at headings and paragraphs where it can. Lines of a list stay
/// together as far as the length allows. Always at least one passage, which may be empty.
pub fn split_passages(text: &str) -> Vec<String> {
    let mut passages = Passages::default();
    for block in blocks(text) {
        let words: Vec<&str> = block.split_whitespace().collect();
        if is_heading(&words) && passages.words >= MIN_WORDS {
            passages.close();
        }
        if words.len() > MAX_WORDS {
            passages.close();
            for piece in words.chunks(TARGET_WORDS) {
                passages.push(&piece.join(" "), piece.len());
            }
            continue;
        }
        passages.push(&block, words.len());
    }
    passages.finish()
}

/// Paragraphs and list items. A line break within a paragraph is kept, so that steps still look like steps.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut open = false;
    for line in text.lines().map(str::trim) {
        if line.is_empty() {
            open = false;
            continue;
        }
        let starts_item = line.starts_with("- ") || line.starts_with("* ") || line.starts_with('#');
        match blocks.last_mut() {
            Some(block) if open && !starts_item => {
                block.push('\n');
                block.push_str(line);
            }
            _ => blocks.push(line.to_owned()),
        }
        open = true;
    }
    blocks
}

fn is_heading(words: &[&str]) -> bool {
    let (Some(first), Some(last)) = (words.first(), words.last()) else { return false };
    let ends_sentence = last.ends_with(['.', '!', '?', ':', ';', ',']);
    first.starts_with('#') || (words.len() <= MAX_HEADING_WORDS && !ends_sentence && *first != "-" && *first != "*")
}

#[derive(Default)]
struct Passages {
    closed: Vec<String>,
    open: String,
    words: usize,
}

impl Passages {
    fn push(&mut self, block: &str, words: usize) {
        if self.words + words > MAX_WORDS {
            self.close();
        }
        if !self.open.is_empty() {
            self.open.push('\n');
        }
        self.open.push_str(block);
        self.words += words;
        if self.words >= TARGET_WORDS {
            self.close();
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.closed.push(std::mem::take(&mut self.open));
        }
        self.words = 0;
    }

    fn finish(mut self) -> Vec<String> {
        self.close();
        self.closed.truncate(MAX_PASSAGES);
        if self.closed.is_empty() {
            self.closed.push(String::new());
        }
        self.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticket::Language;

    fn words(count: usize) -> String {
        vec!["word"; count].join(" ")
    }

    fn article(text: &str) -> MemoryItem {
        MemoryItem {
            id: "a-1".into(),
            kind: MemoryKind::Article,
            language: Language::EN,
            product: None,
            queue: None,
            title: "Set up a mailbox".into(),
            problem: String::new(),
            solution: text.into(),
            answer_kind: None,
            url: None,
            resolved_hours: None,
            created_at: None,
        }
    }

    #[test]
    fn headings_and_length_cut_and_nothing_is_lost() {
        let text = format!("{}\n\nSecond part\n\n{}\n\n{}", words(70), words(100), words(90));
        let passages = split_passages(&text);
        assert_eq!(passages.len(), 3, "{passages:?}");
        assert!(passages[1].starts_with("Second part"));
        assert!(passages.iter().all(|p| p.split_whitespace().count() <= MAX_WORDS));
        let total: usize = passages.iter().map(|p| p.split_whitespace().count()).sum();
        assert_eq!(total, text.split_whitespace().count());
    }

    #[test]
    fn one_endless_line_is_cut_and_an_empty_text_has_one_passage() {
        assert!(split_passages(&words(1000)).iter().all(|p| p.split_whitespace().count() <= MAX_WORDS));
        assert_eq!(split_passages(" \n\n \u{feff}").len(), 1);
        assert_eq!(split_passages(""), vec![String::new()]);
        assert!(split_passages(&words(200_000)).len() <= MAX_PASSAGES);
    }

    #[test]
    fn points_are_the_same_every_time_and_carry_the_title() {
        let item = article(&format!("{}\n\n{}", words(150), words(150)));
        let plans = plan_points(&item);
        assert_eq!(plans, plan_points(&item));
        assert_eq!(plans.len(), 2);
        assert_ne!(plans[0].id, plans[1].id);
        assert!(plans.iter().all(|plan| plan.solution_text.starts_with("Set up a mailbox\nword")));
        assert!(passage_text(&item, 1).starts_with("word"));
        assert_eq!(passage_text(&item, 9), "");
    }

    #[test]
    fn a_ticket_is_one_point_with_title_and_problem() {
        let mut ticket = article("Restart the router.");
        ticket.kind = MemoryKind::Ticket;
        ticket.problem = "No sale internet".into();
        let plans = plan_points(&ticket);
        assert_eq!(plans.len(), 1);
        assert_eq!(plans[0].problem_text, "Set up a mailbox\nNo sale internet");
        assert_eq!(plans[0].solution_text, "Restart the router.");
    }
}
