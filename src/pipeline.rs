//! The way of one request:
//!
//! intake -> embed -> retrieve -> triage -> plan -> draft (two racers) -> guard -> decide -> (send | review)
//!
//! [`Pipeline::answer`] is that line and touches no ticket; [`Pipeline::work`] puts a stored ticket through it and records
//! what came out. The rule both keep: a failure or a missed deadline in a stage lowers autonomy, down to the honest
//! acknowledgement. It never loses a ticket and never leaves a customer without a word.

mod considering;
mod late;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{AcquireError, Notify, Semaphore, SemaphorePermit};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::decide::relevance::RelevanceModel;
use crate::decide::{self, PlanKind};
use crate::draft::Drafter;
use crate::draft::select::Found;
use crate::events::{Events, event_data};
use crate::inference::{Asked, Inference, InferenceError, News, Writing};
use crate::intake;
use crate::learn;
use crate::retrieve::rerank::{Reranker, Weights};
use crate::retrieve::retriever::{Ranked, Retriever, fold_duplicates};
use crate::retrieve::{Filter, SearchQuery};
use crate::settings::Settings;
use crate::store::{Analysis, FinishedWork, Store, StoreError};
use crate::ticket::{
    Action, Author, Decision, Draft, Evidence, ExpectedTime, Finding, Language, MemoryItem, Message, Request,
    Retrieved, Ticket, TicketState, Timings, Triage, Urgency,
};
use crate::timing::{timed, timed_now};
use crate::triage::{Meaning, TriageModel};

/// Longest wait for the embedding of a request; behind it, only words are searched.
const EMBED_LIMIT: Duration = Duration::from_secs(4);
/// Candidates taken from each search and language before they are fused and folded.
const CANDIDATES: usize = 100;
/// Items looked up and compared for each one that is shown.
const FOLDED_PER_SHOWN: usize = 3;
/// Stages told at once: two or three come up together, tokens one by one.
const STAGES_AT_ONCE: usize = 16;

/// News of a request in progress, in the order in which they can be shown.
#[derive(Clone, Debug)]
pub enum Stage {
    Evidence(Vec<Retrieved>),
    Triage(Box<Triage>),
    Extractive(Box<Draft>),
    Token(String),
    /// A sentence of the stream that the guard cut, with what it objected to.
    Cut(Vec<Finding>),
}

/// Everything that came out of one request.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Answer {
    pub triage: Triage,
    pub evidence: Vec<Retrieved>,
    /// The best reply that stands; an acknowledgement when none does. None for what is not a request.
    pub draft: Option<Draft>,
    pub decision: Decision,
    /// What the customer reads at once: the reply where it goes out by itself, else the acknowledgement.
    pub outgoing: Option<String>,
    pub timings: Timings,
    /// Stages that failed or ran out of time, in words.
    pub degraded: Vec<String>,
}

/// What is known of a request before anything is drafted.
pub struct Judged {
    /// Of the request; none where it could not be embedded.
    pub vector: Option<Vec<f32>>,
    /// What the reader says of it.
    pub reading: Option<Vec<f32>>,
    pub triage: Triage,
    pub evidence: Vec<Retrieved>,
    /// Probability that the evidence answers the request; see [`Pipeline::fit`].
    pub fit: Option<f32>,
    /// How far what was found serves a reply; None until it was read.
    pub weights: Option<Weights>,
    /// Stages that failed or ran out of time, in words.
    pub degraded: Vec<String>,
    pub timings: Timings,
    pub clock: Clock,
}

impl Judged {
    /// Tells what is known so far.
    fn tell(&self, watch: &UnboundedSender<Stage>) {
        tell(watch, Stage::Evidence(self.evidence.clone()));
        tell(watch, Stage::Triage(Box::new(self.triage.clone())));
    }
}

/// What the customer wrote so far, as the stages want it.
struct Read {
    request: Request,
    /// The customer's last message.
    last_message: Uuid,
    /// We have answered that message already, be it to say that the reply takes longer.
    is_acknowledged: bool,
}

/// True where there is something to read: not signs and numbers alone.
fn has_words(request: &Request) -> bool {
    request.text().chars().any(char::is_alphabetic)
}

/// How the work on a ticket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worked {
    /// Nothing was left to do, or it was broken off.
    Nothing,
    /// A reply and a decision are on record; it was drafted in this time.
    Done(Duration),
    /// No desk was free in time. The customer knows; it waits by this urgency until there is room.
    Late(Urgency),
}

/// How a request came out of the stages.
enum Ended {
    Answered(Box<Answer>, Read, Option<Vec<f32>>, Instant),
    Late(Box<Judged>, Read, String),
}

/// The stages, wired together; cheap to clone.
#[derive(Clone)]
pub struct Pipeline {
    pub store: Store,
    pub events: Events,
    pub inference: Inference,
    pub retriever: Arc<Retriever>,
    pub triage: Arc<TriageModel>,
    /// None where the running embedder is not the one of the training.
    pub relevance: Option<Arc<RelevanceModel>>,
    /// None where no model here gives the states that it was trained on, or nobody wants it.
    pub reranker: Option<Arc<Reranker>>,
    pub drafter: Arc<Drafter>,
    pub settings: Arc<Settings>,
    /// Quantiles of all known times in the memory, for requests without close neighbours.
    pub usual_time: Option<ExpectedTime>,
}

impl Pipeline {
    /// Answers a request without recording it. `watch` hears of each stage as it is done.
    pub async fn answer(&self, request: &Request, watch: &UnboundedSender<Stage>) -> Answer {
        let mut judged = self.judge(request).await;
        judged.tell(watch);
        self.consider(request, &mut judged, watch).await;
        self.reply(request, judged, watch).await
    }

    /// Drafts a reply to a judged request and decides what may happen to it.
    pub async fn reply(&self, request: &Request, judged: Judged, watch: &UnboundedSender<Stage>) -> Answer {
        let Judged { triage, evidence, fit, weights, mut degraded, timings, clock, .. } = judged;
        let policy = self.settings.policy.of(request.queue.as_deref());
        let plan = if has_words(request) {
            decide::plan(&triage, &evidence, fit, policy)
        } else {
            decide::plan_for_no_words()
        };
        let found = Found { items: &evidence, weights: weights.as_ref() };
        let drafting = timed("draft", self.drafter.race(request, found, &plan, &clock, watch)).await;
        degraded.extend(drafting.degraded.iter().cloned());
        let acknowledgement = self.drafter.acknowledge(request, &triage).filter(|_| plan.kind != PlanKind::Discard);
        let draft = drafting.draft.or_else(|| acknowledgement.clone());
        let mut decision = decide::decide(&plan, draft.as_ref(), drafting.passed, &triage, policy);
        decision.reasons.extend(degraded.iter().cloned());

        // What goes to the customer at once: the reply where policy and evidence allow it, else the honest word.
        let at_once = if decision.automatic { draft.as_ref() } else { acknowledgement.as_ref() };
        let outgoing =
            at_once.filter(|_| decision.automatic || policy.send_acknowledgements).map(|draft| draft.text.clone());
        let timings = Timings {
            extractive_ms: drafting.extractive_ms,
            first_token_ms: drafting.first_token_ms,
            generated_ms: drafting.generated_ms,
            total_ms: clock.elapsed_ms(),
            ..timings
        };
        Answer { triage, evidence, draft, decision, outgoing, timings, degraded }
    }

    /// Does once what the first request would otherwise wait for: reads the fixed parts of the prompts, and builds what is
    /// built at first use (language models, patterns).
    pub async fn warm_up(&self) {
        intake::language::LanguageDetector.warm_up();
        for (language, message) in [(Language::ES, "No puedo entrar a mi correo."), (Language::EN, "I cannot log in.")]
        {
            if let Ok(request) = intake::prepare("", message, None, None, Vec::new()) {
                let (watch, _nobody) = unbounded_channel();
                let mut judged = self.judge(&request).await;
                self.consider(&request, &mut judged, &watch).await;
            }
            let prompt = self.drafter.prompts().warm_up(&language);
            self.warm_up_with(self.inference.generate(prompt.clone())).await;
            // The model behind a server must not begin cold when it is needed.
            if self.inference.server_health().is_some() && self.inference.local_generator_name().is_some() {
                self.warm_up_with(self.inference.generate_locally(prompt)).await;
            }
        }
    }

    async fn warm_up_with(&self, writing: Result<Writing, InferenceError>) {
        let Ok(mut writing) = writing else { return };
        while let Some(news) = writing.next().await {
            if let News::Done(Err(error)) = news {
                tracing::warn!(%error, "language model could not be warmed up");
            }
        }
    }

    /// Judges a request without drafting a reply or recording anything.
    pub async fn judge(&self, request: &Request) -> Judged {
        let clock = Clock::start(self.settings.draft.deadline());
        let mut degraded = Vec::new();
        let mut asked = self.inference.ask(request.text());
        let vector = timed("embed", self.vector(&mut asked, &clock, &mut degraded)).await;
        let embed_ms = clock.elapsed_ms();
        // The index searches on threads of its own, while the model reads.
        let (evidence, reading) = tokio::join!(
            self.retrieve(request, vector.as_deref(), &mut degraded),
            timed("read for triage", self.reading(asked, &clock)),
        );
        let retrieve_ms = clock.elapsed_ms() - embed_ms;
        let meaning = Meaning { vector: vector.as_deref(), reading: reading.as_deref(), opinion: None };
        let judge = || self.triage.judge(request, meaning, &evidence, self.usual_time);
        let triage = timed_now("triage", judge);
        let fit = timed_now("fit of evidence", || self.fit(request, &evidence));
        let triage_ms = clock.elapsed_ms() - embed_ms - retrieve_ms;
        let timings = Timings { embed_ms, retrieve_ms, triage_ms, ..Timings::default() };
        Judged { vector, reading, triage, evidence, fit, weights: None, degraded, timings, clock }
    }

    /// Calibrated probability that `evidence` (best first) answers the request; None where it cannot be judged.
    pub fn fit(&self, request: &Request, evidence: &[Retrieved]) -> Option<f32> {
        self.relevance.as_ref().map(|model| model.probability(request, evidence))
    }

    /// Puts a stored ticket through [`Pipeline::answer`] and records the outcome. Safe to repeat after a crash: the
    /// outcome is written in one transaction, and the reply leaves through the outbox. None when nothing was left to do.
    ///
    /// Judgement and evidence are there, and told, before the ticket waits for one of the `desks` where replies are
    /// drafted: a judgement takes milliseconds, a reply seconds. The wait does not count against the reply's deadline; a
    /// customer who would wait longer than that is told so, and the ticket is put aside. What the customer or an agent
    /// writes meanwhile is seen when the wait is over. Once `desks` is closed, what still waits is left for the next start.
    /// `stop` breaks the drafting off: the reply would be too late for what was written since.
    ///
    /// # Errors
    /// When the store fails; the ticket then stays as it was and is picked up again.
    pub async fn work(&self, ticket: Uuid, desks: &Semaphore, stop: &Notify) -> Result<Worked, StoreError> {
        let Some(read) = self.read(ticket).await? else { return Ok(Worked::Nothing) };
        let (watch, stages) = unbounded_channel();
        // Owns `watch`: the publisher ends when it is dropped.
        let answering = async move {
            let mut read = read;
            let mut judged = self.judge(&read.request).await;
            judged.tell(&watch);
            let judging = judged.clock.started.elapsed();
            let word = self.word_for_waiting(&read, &judged.triage, &judged.evidence);
            let desk = timed("wait for a desk", self.desk(desks, word.is_some())).await;
            let Some(desk) = desk else {
                return Ok(word.map(|word| Ended::Late(Box::new(judged), read, word)));
            };
            let Ok(_desk) = desk else { return Ok(None) };
            let begun = Instant::now();
            judged.clock = judged.clock.resumed_after(judging);
            let Some(now) = self.read(ticket).await? else { return Ok(None) };
            if now.last_message != read.last_message {
                read = now;
                judged = self.judge(&read.request).await;
                judged.tell(&watch);
            }
            self.consider(&read.request, &mut judged, &watch).await;
            let vector = judged.vector.take();
            tokio::select! {
                answer = self.reply(&read.request, judged, &watch) => {
                    Ok::<_, StoreError>(Some(Ended::Answered(Box::new(answer), read, vector, begun)))
                }
                () = stop.notified() => Ok(None),
            }
        };
        let (ended, told) = tokio::join!(answering, self.publish(ticket, stages));
        told?;
        match ended? {
            None => Ok(Worked::Nothing),
            Some(Ended::Late(judged, read, word)) => {
                self.put_judged_aside(ticket, &read, &judged, word).await?;
                Ok(Worked::Late(judged.triage.urgency.label))
            }
            Some(Ended::Answered(answer, read, vector, begun)) => {
                timed("record", self.record(ticket, &read, *answer, vector.as_deref())).await?;
                Ok(Worked::Done(begun.elapsed()))
            }
        }
    }

    /// A desk; None where `has_limit` and none was free within the time for a reply.
    async fn desk<'a>(
        &self,
        desks: &'a Semaphore,
        has_limit: bool,
    ) -> Option<Result<SemaphorePermit<'a>, AcquireError>> {
        match has_limit {
            true => tokio::time::timeout(self.settings.draft.deadline(), desks.acquire()).await.ok(),
            false => Some(desks.acquire().await),
        }
    }

    /// What the customer wrote so far. None when a person or an earlier run was faster.
    async fn read(&self, ticket_id: Uuid) -> Result<Option<Read>, StoreError> {
        let ticket = self.store.ticket(ticket_id).await?;
        if ticket.state != TicketState::Received {
            return Ok(None);
        }
        let messages = self.store.messages(ticket_id).await?;
        let is_acknowledged =
            messages.iter().rev().take_while(|m| m.author != Author::Customer).any(|m| m.author == Author::Respondo);
        let own: Vec<&Message> = messages.iter().filter(|m| m.author == Author::Customer).collect();
        let Some(last) = own.last() else { return Ok(None) };
        let request = request_of(&ticket, &own).map_err(|error| StoreError::Invalid(error.to_string()))?;
        Ok(Some(Read { request, last_message: last.id, is_acknowledged }))
    }

    async fn vector(
        &self,
        asked: &mut Result<Asked, InferenceError>,
        clock: &Clock,
        degraded: &mut Vec<String>,
    ) -> Option<Vec<f32>> {
        let problem = match asked {
            Ok(asked) => match tokio::time::timeout(clock.left().min(EMBED_LIMIT), asked.vector()).await {
                Ok(Ok(vector)) => return Some(vector),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "embedding took too long".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        degraded.push(format!("searched by words only: {problem}"));
        metrics::counter!("respondo_degraded_total", "stage" => "embed").increment(1);
        None
    }

    /// None where there is no reader or it took too long: triage then goes by text and vector.
    async fn reading(&self, asked: Result<Asked, InferenceError>, clock: &Clock) -> Option<Vec<f32>> {
        // What could not even be asked was named with the vector.
        let asked = asked.ok()?;
        match tokio::time::timeout(clock.left().min(EMBED_LIMIT), asked.reading()).await {
            Ok(Ok(reading)) => return reading,
            Ok(Err(error)) => tracing::warn!(%error, "a request was not read for triage"),
            Err(_) => tracing::warn!("reading a request for triage took too long"),
        }
        metrics::counter!("respondo_degraded_total", "stage" => "read").increment(1);
        None
    }

    async fn retrieve(&self, request: &Request, vector: Option<&[f32]>, degraded: &mut Vec<String>) -> Vec<Retrieved> {
        match self.find(request, vector, self.settings.draft.retrieved).await {
            Ok(found) => found,
            Err(error) => {
                metrics::counter!("respondo_degraded_total", "stage" => "retrieve").increment(1);
                degraded.push(format!("memory could not be searched: {error}"));
                Vec::new()
            }
        }
    }

    /// Searches the memory: both kinds, any language, duplicates folded.
    ///
    /// # Errors
    /// When the index or the store fails.
    pub async fn find(
        &self,
        request: &Request,
        vector: Option<&[f32]>,
        limit: usize,
    ) -> anyhow::Result<Vec<Retrieved>> {
        let filter = Filter { product: request.product.clone(), exclude: request.exclude.clone(), ..Filter::default() };
        let query = SearchQuery {
            vector: vector.map(<[f32]>::to_vec).unwrap_or_default(),
            text: request.text(),
            language: request.language.code().to_owned(),
            filter,
            limit: CANDIDATES,
        };
        self.search(query, limit).await
    }

    /// Runs one search and looks up the texts.
    ///
    /// # Errors
    /// When the index or the store fails.
    pub async fn search(&self, query: SearchQuery, limit: usize) -> anyhow::Result<Vec<Retrieved>> {
        let retriever = Arc::clone(&self.retriever);
        let mut ranked = timed("search", tokio::task::spawn_blocking(move || retriever.rank(&query))).await??;
        // Folding compares every pair: a few more than are shown leave room for duplicates, hundreds would take seconds.
        ranked.truncate(limit * FOLDED_PER_SHOWN);
        let ids: Vec<String> = ranked.iter().map(|hit| hit.memory_id.clone()).collect();
        let items = timed("look up texts", self.store.items(&ids)).await?;
        let mut found = timed_now("fold duplicates", || fold_duplicates(with_texts(ranked, &items)));
        found.truncate(limit);
        Ok(found)
    }

    /// Tells those who follow the ticket of the stages; what has come up at the same time is kept at once.
    async fn publish(&self, ticket: Uuid, mut stages: UnboundedReceiver<Stage>) -> Result<(), StoreError> {
        let mut arrived = Vec::new();
        while stages.recv_many(&mut arrived, STAGES_AT_ONCE).await > 0 {
            let mut kept = Vec::new();
            for stage in arrived.drain(..) {
                match stage {
                    Stage::Evidence(evidence) => kept.push(("evidence", event_data(&evidence))),
                    Stage::Triage(triage) => kept.push(("triage", event_data(&triage))),
                    Stage::Extractive(draft) => kept.push(("extractive", event_data(&draft))),
                    Stage::Cut(findings) => kept.push(("cut", event_data(&findings))),
                    Stage::Token(text) => {
                        self.events.keep_all(ticket, std::mem::take(&mut kept)).await?;
                        self.events.token(ticket, &text);
                    }
                }
            }
            self.events.keep_all(ticket, kept).await?;
        }
        Ok(())
    }

    async fn record(
        &self,
        ticket: Uuid,
        read: &Read,
        mut answer: Answer,
        vector: Option<&[f32]>,
    ) -> Result<(), StoreError> {
        if read.is_acknowledged {
            answer.say_nothing_twice();
        }
        let work = FinishedWork {
            seen_message: read.last_message,
            draft_id: None,
            decision: answer.decision.clone(),
            state: state_after(&answer.decision),
            due_at: due_at(answer.triage.expected_time),
            urgency: Some(answer.triage.urgency.label),
            difficulty: Some(answer.triage.difficulty.label),
            outgoing: answer.outgoing.clone(),
        };
        let basis = self.basis(read.request.queue.as_deref(), read.last_message, &answer).await;
        let basis = basis.map_err(|error| StoreError::Other(error.to_string()))?;
        let evidence = as_evidence(&answer.evidence);
        let vector = vector.map(|vector| (self.inference.embedder_name(), vector));
        let analysis = Analysis { triage: &answer.triage, evidence: &evidence, timings: &answer.timings, vector };
        let finished = self.store.record(ticket, work, &analysis, answer.draft.as_ref(), Some(&basis)).await?;
        self.events.tell_kept(ticket, finished.events);
        count(&answer);
        Ok(())
    }
}

/// What a customer wrote, oldest message first, as the stages want it.
///
/// # Errors
/// When intake refuses it.
pub fn request_of(ticket: &Ticket, own: &[&Message]) -> Result<Request, intake::IntakeError> {
    let exclude = vec![learn::approved::memory_id(ticket.id)];
    let prepare = |body: &str| {
        intake::prepare(&ticket.subject, body, ticket.product.clone(), ticket.queue.clone(), exclude.clone())
    };
    let body = own.iter().map(|m| m.body.as_str()).collect::<Vec<_>>().join("\n\n");
    // Only what passed intake was accepted; messages that fail together are worked on by the last one alone.
    prepare(&body).or_else(|_| prepare(own.last().map_or("", |last| last.body.as_str())))
}

/// The deadline of one request.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    deadline: Duration,
}

impl Clock {
    pub fn start(deadline: Duration) -> Self {
        Self { started: Instant::now(), deadline }
    }

    /// The same clock after a pause, so that only the time `run` before it counts.
    fn resumed_after(self, run: Duration) -> Self {
        let now = Instant::now();
        Self { started: now.checked_sub(run).unwrap_or(now), ..self }
    }

    /// Milliseconds since the request came in.
    pub fn elapsed_ms(&self) -> f32 {
        self.started.elapsed().as_secs_f32() * 1_000.0
    }

    /// Time until a reply must stand; zero when it is over.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_sub(self.started.elapsed())
    }
}

/// What was ranked, with its texts.
fn with_texts(ranked: Vec<Ranked>, items: &[MemoryItem]) -> Vec<Retrieved> {
    let with_text = |hit: Ranked| {
        // The index may lag behind a `forget` for a moment: what the store no longer has is not shown.
        let item = items.iter().find(|item| item.id == hit.memory_id)?.clone();
        Some(Retrieved {
            passage: crate::retrieve::passages::passage_text(&item, hit.passage),
            item,
            score: hit.score,
            similarity: hit.similarity,
            lexical: hit.lexical,
        })
    };
    ranked.into_iter().filter_map(with_text).collect()
}

/// Nobody may be watching, which is no failure.
pub fn tell(watch: &UnboundedSender<Stage>, stage: Stage) {
    drop(watch.send(stage));
}

/// What was found, numbered, for the record.
fn as_evidence(found: &[Retrieved]) -> Vec<Evidence> {
    found
        .iter()
        .enumerate()
        .map(|(position, found)| Evidence {
            index: position + 1,
            memory_id: found.item.id.clone(),
            kind: found.item.kind,
            language: found.item.language.clone(),
            title: found.item.title.clone(),
            text: found.passage.clone(),
            url: found.item.url.clone(),
            score: found.score,
            similarity: found.similarity,
        })
        .collect()
}

fn state_after(decision: &Decision) -> TicketState {
    match (decision.action, decision.automatic) {
        (Action::Discard, _) => TicketState::Discarded,
        (Action::Send, true) => TicketState::Answered,
        (Action::Ask, true) => TicketState::Waiting,
        (Action::Escalate, _) => TicketState::Escalated,
        (Action::Send | Action::Ask | Action::Suggest | Action::Acknowledge, _) => TicketState::Review,
    }
}

/// By when nine of ten similar requests were solved, counted from now.
fn due_at(expected: Option<ExpectedTime>) -> Option<Timestamp> {
    let seconds = (f64::from(expected?.p90_hours) * 3_600.0).clamp(60.0, 90.0 * 86_400.0);
    Timestamp::now().checked_add(jiff::SignedDuration::from_secs(seconds as i64)).ok()
}

fn count(answer: &Answer) {
    let action = format!("{:?}", answer.decision.action).to_lowercase();
    metrics::counter!("respondo_decisions_total", "action" => action).increment(1);
    let seconds = |ms: f32| f64::from(ms) / 1_000.0;
    metrics::histogram!("respondo_request_seconds").record(seconds(answer.timings.total_ms));
    metrics::histogram!("respondo_extractive_seconds").record(seconds(answer.timings.extractive_ms));
    if let Some(ms) = answer.timings.first_token_ms {
        metrics::histogram!("respondo_first_token_seconds").record(seconds(ms));
    }
}
