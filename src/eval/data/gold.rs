//! Requests with what a reply must be like: given evidence and a reference reply, or an expectation alone.

use serde::Deserialize;

use super::Identified;
use crate::intake::language::LanguageDetector;
use crate::ticket::{Language, MemoryItem, MemoryKind, Request, Retrieved};

/// How a request should be treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// The evidence answers it.
    Answer,
    /// The evidence helps, and one fact of the customer's decides.
    Partly,
    /// Nothing can be said before one thing is asked.
    Ask,
    /// The evidence does not fit.
    Unknown,
    /// Somebody with authority or access has to act.
    Human,
    /// It is no request.
    Reject,
}

impl Expect {
    pub fn name(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Partly => "partly",
            Self::Ask => "ask",
            Self::Unknown => "unknown",
            Self::Human => "human",
            Self::Reject => "reject",
        }
    }
}

/// A row of a gold set or of our samples.
#[derive(Clone, Debug, Deserialize)]
pub struct Row {
    pub id: String,
    pub lang: String,
    #[serde(default)]
    pub subject: String,
    #[serde(default)]
    pub body: String,
    pub product: Option<String>,
    pub queue: Option<String>,
    #[serde(alias = "verdict")]
    pub expect: Option<Expect>,
    /// What a reply may rest on; searched for in the memory where there is none.
    #[serde(default)]
    pub evidence: Vec<Given>,
    /// A good reply.
    #[serde(default)]
    pub reply: String,
    /// Short facts that a good reply holds.
    #[serde(default)]
    pub must_include: Vec<String>,
    /// Text that no reply may hold.
    #[serde(default)]
    pub must_not_include: Vec<String>,
    /// The question that a good reply asks; empty for none.
    #[serde(default)]
    pub question: String,
    pub fold: Option<u32>,
}

/// A piece of given evidence.
#[derive(Clone, Debug, Deserialize)]
pub struct Given {
    pub kind: String,
    pub id: String,
    #[serde(default)]
    pub title: String,
    #[serde(default)]
    pub problem: String,
    #[serde(default)]
    pub solution: String,
    #[serde(default)]
    pub text: String,
}

impl Identified for Row {
    fn id(&self) -> &str {
        &self.id
    }
    fn language(&self) -> &str {
        &self.lang
    }
}

impl Row {
    /// The request, in the words of the data set.
    pub fn text(&self) -> String {
        format!("{}\n{}", self.subject, self.body).trim().to_owned()
    }
}

impl Given {
    /// The evidence as if it had been found; `similarity` is the cosine of the request to it.
    pub fn retrieved(&self, similarity: f32) -> Retrieved {
        let is_article = self.kind == "article";
        let item = MemoryItem {
            id: self.id.clone(),
            kind: if is_article { MemoryKind::Article } else { MemoryKind::Ticket },
            language: LanguageDetector.detect(self.passage()).language,
            product: None,
            queue: None,
            title: self.title.clone(),
            problem: self.problem.clone(),
            solution: self.passage().to_owned(),
            answer_kind: None,
            url: None,
            resolved_hours: None,
            created_at: None,
        };
        Retrieved { passage: self.passage().to_owned(), item, score: similarity, similarity, lexical: 0.0 }
    }

    /// What a reply can rest on.
    pub fn passage(&self) -> &str {
        if self.text.is_empty() { &self.solution } else { &self.text }
    }

    /// What a request is compared with: the problem of a ticket, the passage of an article.
    pub fn compared(&self) -> String {
        if self.problem.is_empty() { format!("{}\n{}", self.title, self.text) } else { self.problem.clone() }
    }
}

/// The request of a ticket whose solution is known. Its language is that of its words where they tell, since a ticket's own
/// mark is often only the page that it was written on.
pub fn from_item(item: &MemoryItem) -> Row {
    let told = LanguageDetector.detect(&item.problem).language;
    let language = if told == Language::UNKNOWN { &item.language } else { &told };
    Row {
        id: item.id.clone(),
        lang: language.code().to_owned(),
        subject: item.title.clone(),
        body: item.problem.clone(),
        product: item.product.clone(),
        queue: item.queue.clone(),
        expect: None,
        evidence: Vec::new(),
        reply: item.solution.clone(),
        must_include: Vec::new(),
        must_not_include: Vec::new(),
        question: String::new(),
        fold: None,
    }
}

/// The request as the stages see it.
///
/// # Errors
/// When intake refuses the text.
pub fn request(row: &Row) -> Result<Request, crate::intake::IntakeError> {
    let exclude = vec![row.id.clone()];
    let mut request = crate::intake::prepare(&row.subject, &row.body, row.product.clone(), row.queue.clone(), exclude)?;
    if request.language == Language::UNKNOWN {
        request.language = Language::new(&row.lang);
    }
    Ok(request)
}
