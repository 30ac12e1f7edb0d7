//! The domain: what a request, a judgement, a piece of evidence, a draft and a decision are.
//!
//! Plain data, no I/O. Every stage of [`crate::pipeline`] takes and returns these types, the store keeps them and the
//! HTTP API shows them, so a field means the same thing everywhere.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// ISO 639-1 code of a language in lower case (`"en"`, `"es"`), or `"und"` when it could not be told.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, example = "es")]
pub struct Language(Cow<'static, str>);

impl Language {
    pub const EN: Self = Self(Cow::Borrowed("en"));
    pub const ES: Self = Self(Cow::Borrowed("es"));
    /// The text did not tell: empty, numbers only, emoji, two languages in equal parts.
    pub const UNKNOWN: Self = Self(Cow::Borrowed("und"));

    /// Takes a code such as `es`, `ES` or `es-MX` and keeps its primary part in lower case.
    pub fn new(code: &str) -> Self {
        let primary = code.split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase();
        match primary.as_str() {
            "" => Self::UNKNOWN,
            "en" => Self::EN,
            "es" => Self::ES,
            _ => Self(Cow::Owned(primary)),
        }
    }

    pub fn code(&self) -> &str {
        &self.0
    }

    /// Spanish and English have their own templates, prompts and fixed texts.
    pub fn is_supported(&self) -> bool {
        *self == Self::EN || *self == Self::ES
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is at stake for the customer, and how soon. Never how hard it is for the team.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Urgency {
    Critical = 1,
    High = 2,
    Normal = 3,
    Low = 4,
}

/// What the team needs to solve it. Routes the work; never lowers urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Difficulty {
    Known = 1,
    Guided = 2,
    Specialist = 3,
    Engineering = 4,
}

/// Who must act next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NextStep {
    /// It can be answered from the text and the memory.
    Answer,
    /// One thing is missing and has to be asked for first.
    Ask,
    /// A person with authority or access has to act.
    Human,
    /// Not a support request.
    Reject,
}

/// A class of one of the three judgements, with its fixed order in distributions and weight files.
pub trait Class: Copy + Eq + fmt::Debug + Serialize + 'static {
    /// All classes, in the order in which [`Judgement::distribution`] lists their probabilities.
    const ALL: &'static [Self];
    /// Lower-case English name, as in the API.
    fn name(self) -> &'static str;
    fn index(self) -> usize {
        Self::ALL.iter().position(|class| *class == self).unwrap_or(0)
    }
}

impl Class for Urgency {
    const ALL: &'static [Self] = &[Self::Critical, Self::High, Self::Normal, Self::Low];
    fn name(self) -> &'static str {
        ["critical", "high", "normal", "low"][self as usize - 1]
    }
}

impl Class for Difficulty {
    const ALL: &'static [Self] = &[Self::Known, Self::Guided, Self::Specialist, Self::Engineering];
    fn name(self) -> &'static str {
        ["known", "guided", "specialist", "engineering"][self as usize - 1]
    }
}

impl Class for NextStep {
    const ALL: &'static [Self] = &[Self::Answer, Self::Ask, Self::Human, Self::Reject];
    fn name(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Ask => "ask",
            Self::Human => "human",
            Self::Reject => "reject",
        }
    }
}

/// One judgement with what it rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Judgement<T> {
    /// The class to act on: on a scale the median of `distribution`, and critical already from a third on, as missing one costs
    /// most; else the most probable.
    pub label: T,
    /// Calibrated probability of `label`, 0 to 1.
    pub probability: f32,
    /// Calibrated probabilities of all classes in the order of [`Class::ALL`]; they sum to 1.
    pub distribution: Vec<f32>,
    /// True when no class is probable enough to act on; `label` is then a best guess for display only.
    pub abstained: bool,
    /// The customer's own words that decided, exact substrings of the message.
    pub words: Vec<String>,
    /// Ids of memory items close to the request that speak for this label.
    pub neighbours: Vec<String>,
}

/// How long similar requests really took to be solved.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExpectedTime {
    /// Hours from the first message to the accepted solution, median.
    pub median_hours: f32,
    /// The same, 90 % quantile.
    pub p90_hours: f32,
    /// How many neighbours with a known time stand behind the figures; 0 when they are the memory's overall quantiles.
    pub samples: usize,
}

/// Urgency and difficulty are two outputs, on purpose: see `docs/ARCHITECTURE.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Triage {
    pub urgency: Judgement<Urgency>,
    pub difficulty: Judgement<Difficulty>,
    pub next: Judgement<NextStep>,
    /// None when the memory has no time to learn from.
    pub expected_time: Option<ExpectedTime>,
    /// The skill or queue that similar requests needed (for example `billing`), where neighbours agree.
    pub skill: Option<String>,
    /// The language model in process has read the request for this, too.
    #[serde(default)]
    pub second_opinion: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MemoryKind {
    Ticket,
    Article,
}

impl MemoryKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ticket => "ticket",
            Self::Article => "article",
        }
    }
}

/// How an answer came to count as the solution, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnswerKind {
    /// Approved by an agent of this desk.
    Approved,
    Accepted,
    MostHelpful,
    FirstHelper,
}

/// One thing the desk remembers: a resolved ticket or a help article. Scrubbed of personal data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemoryItem {
    /// Stable id of the source row (`tb-1401089`, an article slug); unique in the memory.
    pub id: String,
    pub kind: MemoryKind,
    pub language: Language,
    pub product: Option<String>,
    pub queue: Option<String>,
    /// Subject of the ticket or title of the article.
    pub title: String,
    /// Tickets: what the customer wrote. Articles: the summary, may be empty.
    pub problem: String,
    /// Tickets: the reply that solved it. Articles: the whole text.
    pub solution: String,
    pub answer_kind: Option<AnswerKind>,
    /// Public address that a reply may link to.
    pub url: Option<String>,
    /// Hours from the request to its solution.
    pub resolved_hours: Option<f32>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub created_at: Option<Timestamp>,
}

/// A memory item as found for one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Retrieved {
    pub item: MemoryItem,
    /// The part of `item.solution` that matched best: whole for tickets, the passage for articles.
    pub passage: String,
    /// Fused score; orders the list, comparable within one request only.
    pub score: f32,
    /// Cosine similarity of the request to the problem (tickets) or to the passage (articles), -1 to 1.
    pub similarity: f32,
    /// BM25 score, 0 when no word matched.
    pub lexical: f32,
}

/// One numbered piece of evidence as shown to the model, the agent and the guard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Evidence {
    /// 1-based; replies cite it as `[1]`.
    pub index: usize,
    pub memory_id: String,
    pub kind: MemoryKind,
    pub language: Language,
    pub title: String,
    /// The sentences that may be used, already cut to the budget.
    pub text: String,
    pub url: Option<String>,
    pub score: f32,
    pub similarity: f32,
}

/// Who wrote a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DraftKind {
    /// Cut from the best resolved reply.
    Extractive,
    /// Written by the language model.
    Generated,
    /// Neither passed: says what was understood, what happens next and by when.
    Acknowledgement,
    /// Asks the customer for the one missing thing.
    Question,
}

/// One sentence of a reply and what it rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sentence {
    pub text: String,
    /// [`Evidence::index`] values; empty for our own words (greeting, question, closing).
    pub evidence: Vec<usize>,
    /// Share of the sentence's content words found in its evidence or the customer's text, 0 to 1.
    pub support: f32,
}

/// A proposed reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Draft {
    pub kind: DraftKind,
    pub language: Language,
    /// What the customer would read; citations are not part of it.
    pub text: String,
    pub sentences: Vec<Sentence>,
    pub evidence: Vec<Evidence>,
    /// What the guard cut or refused, for the agent.
    pub findings: Vec<Finding>,
    /// Name of the model, for `Generated`.
    pub model: Option<String>,
}

/// One thing the guard objected to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    pub rule: Rule,
    /// The sentence it stood in.
    pub sentence: String,
    /// The offending piece, for example the number that stands in no evidence.
    pub detail: String,
}

/// The guard's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    UnsupportedNumber,
    UnsupportedPath,
    UnsupportedLink,
    UnsupportedName,
    UnsupportedClaim,
    WrongLanguage,
    PersonalData,
    FollowedInstruction,
    Promise,
    FirstPersonAnecdote,
    /// Says that the desk has done something: true where it was written, untrue where it is copied.
    ClaimedDeed,
    /// Puts the fault on the customer.
    Blame,
    SecondQuestion,
    /// Breaks off: what it points to is not said.
    Incomplete,
    /// Says what an earlier sentence already said.
    Repetition,
    Echo,
    TooLong,
    Empty,
}

/// What may happen to the draft, from most to least autonomous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The reply goes out by itself.
    Send,
    /// An agent approves, edits or escalates.
    Suggest,
    /// The one missing thing is asked for (sent or suggested as the policy says).
    Ask,
    /// A person with the named skill takes it; the customer gets the acknowledgement.
    Escalate,
    /// No answer we can stand behind: the honest acknowledgement, and the queue.
    Acknowledge,
    /// Not a request; nothing is sent.
    Discard,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Decision {
    pub action: Action,
    /// Readable sentences in English, most important first.
    pub reasons: Vec<String>,
    /// For `Escalate`: the skill it needs.
    pub skill: Option<String>,
    /// True when the text of the draft goes to the customer without a person.
    pub automatic: bool,
    /// Calibrated probability, 0 to 1, that what was found answers the request. None where it was not judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<f32>,
}

impl Decision {
    /// One that leaves everything to a person.
    pub fn new(action: Action, reasons: Vec<String>) -> Self {
        Self { action, reasons, skill: None, automatic: false, fit: None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Author {
    Customer,
    Agent,
    Respondo,
    /// Internal note, never shown to the customer.
    Note,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Message {
    pub id: Uuid,
    pub ticket_id: Uuid,
    pub author: Author,
    pub body: String,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Where a ticket stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TicketState {
    /// On disk, not yet worked on; picked up again at start.
    Received,
    /// A draft waits for an agent.
    Review,
    /// We asked; the customer has to answer.
    Waiting,
    /// A person has it.
    Escalated,
    /// Answered; may be reopened by a new message.
    Answered,
    /// Not a request.
    Discarded,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Ticket {
    pub id: Uuid,
    pub customer: Option<String>,
    pub channel: String,
    pub subject: String,
    pub language: Language,
    pub product: Option<String>,
    pub queue: Option<String>,
    pub state: TicketState,
    pub urgency: Option<Urgency>,
    pub difficulty: Option<Difficulty>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// By when the customer was told to expect an answer.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub due_at: Option<Timestamp>,
}

/// What a person did with a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Approved,
    Edited,
    Rejected,
    Escalated,
}

/// A request as the stages see it: cleaned text of the ticket so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub subject: String,
    /// The customer's words, HTML and quotes removed, newest message last.
    pub body: String,
    pub language: Language,
    pub product: Option<String>,
    pub queue: Option<String>,
    /// Memory ids that must not be retrieved (the ticket itself when it is already in the memory).
    pub exclude: Vec<String>,
}

impl Request {
    /// Subject and body as one text; what is embedded, searched and judged.
    pub fn text(&self) -> String {
        match (self.subject.trim(), self.body.trim()) {
            ("", body) => body.to_owned(),
            (subject, "") => subject.to_owned(),
            (subject, body) if body.starts_with(subject) => body.to_owned(),
            (subject, body) => format!("{subject}\n{body}"),
        }
    }
}

/// Milliseconds spent in each stage of one request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Timings {
    pub embed_ms: f32,
    pub retrieve_ms: f32,
    pub triage_ms: f32,
    /// The language model's second opinion for triage; 0 where there was none.
    #[serde(default)]
    pub opinion_ms: f32,
    /// Reading what was found for how far it serves a reply; 0 where it was not read.
    #[serde(default)]
    pub weigh_ms: f32,
    /// Request to the extractive reply.
    pub extractive_ms: f32,
    /// Request to the first token of the generated reply.
    pub first_token_ms: Option<f32>,
    /// Request to the whole generated reply.
    pub generated_ms: Option<f32>,
    /// Request to a reply in the customer's or agent's hands.
    pub total_ms: f32,
}
