//! A decision made again from what was recorded, to see whether it comes out the same, and if not, why.

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc::unbounded_channel;
use uuid::Uuid;

use crate::decide::basis::{Basis, BasisItem};
use crate::pipeline::{Answer, Pipeline, request_of};
use crate::store::{RecordedDecision, content_hash, sha256_hex};
use crate::ticket::{Author, Message};

/// What came of a replay.
#[derive(Clone, Debug)]
pub struct Replay {
    pub decision: Uuid,
    pub ticket: Uuid,
    /// The customer's messages that were read.
    pub messages: usize,
    /// None where the record has none.
    pub same_judgement: Option<bool>,
    pub same_decision: bool,
    pub same_draft: bool,
    /// What has changed of the inputs, a sentence each; None for a decision from before they were recorded.
    pub differences: Option<Vec<String>>,
    /// What came out differently, a sentence each.
    pub outcome: Vec<String>,
}

impl Replay {
    pub fn is_same(&self) -> bool {
        self.same_judgement != Some(false) && self.same_decision && self.same_draft
    }
}

impl Pipeline {
    /// What an answer rests on, to be recorded with its decision.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn basis(&self, queue: Option<&str>, message: Uuid, answer: &Answer) -> Result<Basis> {
        let settings = &self.settings;
        let generation = &settings.generation;
        // Everything of the settings that bears on an answer, and no key.
        let bearing = format!(
            "{:?} {:?} {:?} {} {} {}",
            settings.retrieval,
            (settings.draft.deadline_seconds, settings.draft.evidence_tokens, settings.draft.retrieved),
            generation.kind,
            generation.context,
            generation.max_tokens,
            settings.embedding.max_tokens
        );
        let item = |found: &crate::ticket::Retrieved| {
            Ok(BasisItem { id: found.item.id.clone(), content_hash: content_hash(&found.item)? })
        };
        Ok(Basis {
            message,
            version: format!("{} {}", env!("CARGO_PKG_VERSION"), env!("RESPONDO_CODE")),
            policy: short(serde_json::to_vec(settings.policy.of(queue))?),
            settings: short(bearing),
            triage: self.triage.digest().to_owned(),
            relevance: self.relevance.as_ref().map(|model| model.digest()).unwrap_or_default(),
            reranker: self.reranker.as_ref().map(|model| model.digest()).unwrap_or_default(),
            embedder: self.inference.embedder_name().to_owned(),
            generator: self.inference.generator_name().map(str::to_owned),
            prompts: self.drafter.prompts().digest().to_owned(),
            usual_time: self.usual_time,
            memory: self.store.newest_item().await?,
            evidence: answer.evidence.iter().map(item).collect::<Result<_>>()?,
        })
    }

    /// Makes a decision again: with the customer's messages up to the one that it had read, and today's models, settings
    /// and memory. `id` is the decision's, or a ticket's for its last one. Nothing is sent or recorded.
    ///
    /// # Errors
    /// When there is no such decision, or its messages are gone or in another ticket by now.
    pub async fn replay(&self, id: Uuid) -> Result<Replay> {
        let recorded = self.store.recorded_decision(id).await?;
        let ticket = self.store.ticket(recorded.ticket).await?;
        let messages = self.store.messages(recorded.ticket).await?;
        let read = messages_read(&recorded, &messages);
        let Some(last) = read.last() else {
            let into = self.store.survivor(recorded.ticket).await?;
            bail!("ticket {} has no message from before the decision; its conversation is in {into}", recorded.ticket);
        };
        let request = request_of(&ticket, &read).context("the messages cannot be read again")?;
        let (watch, _nobody) = unbounded_channel();
        let answer = self.answer(&request, &watch).await;
        let now = self.basis(request.queue.as_deref(), last.id, &answer).await?;
        Ok(compared(recorded, read.len(), &answer, &now))
    }
}

/// The customer's messages up to the one that the decision had read; for older records, up to when it was made.
fn messages_read<'a>(recorded: &RecordedDecision, messages: &'a [Message]) -> Vec<&'a Message> {
    let own: Vec<&Message> = messages.iter().filter(|message| message.author == Author::Customer).collect();
    let last = match &recorded.record.basis {
        Some(basis) => own.iter().position(|message| message.id == basis.message),
        None => own.iter().rposition(|message| message.created_at <= recorded.record.created_at),
    };
    last.map_or_else(Vec::new, |last| own.into_iter().take(last + 1).collect())
}

fn compared(recorded: RecordedDecision, messages: usize, answer: &Answer, now: &Basis) -> Replay {
    let RecordedDecision { ticket, record, triage, draft } = recorded;
    let mut outcome = Vec::new();
    let same_judgement = triage.map(|then| {
        let label = |what: &str, then: &str, now: &str| format!("{what}: then {then}, now {now}");
        let now = &answer.triage;
        if then != *now {
            outcome.push(label("urgency", &judged(&then.urgency), &judged(&now.urgency)));
            outcome.push(label("difficulty", &judged(&then.difficulty), &judged(&now.difficulty)));
            outcome.push(label("next step", &judged(&then.next), &judged(&now.next)));
        }
        then == *now
    });
    let (then, decision) = (&record.decision, &answer.decision);
    if then != decision {
        let said = |decision: &crate::ticket::Decision| {
            format!("{:?} (automatic: {}; {})", decision.action, decision.automatic, decision.reasons.join("; "))
        };
        outcome.push(format!("decision: then {}, now {}", said(then), said(decision)));
    }
    let (before, after) = (draft.map(|draft| draft.draft), answer.draft.as_ref());
    let said = |draft: Option<&crate::ticket::Draft>| draft.map(|draft| (draft.kind, draft.text.clone()));
    let same_draft = said(before.as_ref()) == said(after);
    if !same_draft {
        outcome.push(format!("draft: then {:?}, now {:?}", said(before.as_ref()), said(after)));
    }
    Replay {
        decision: record.id,
        ticket,
        messages,
        same_judgement,
        same_decision: then == decision,
        same_draft,
        differences: record.basis.map(|then| then.differences(now)),
        outcome,
    }
}

/// A judgement in words.
fn judged<T: std::fmt::Debug>(judgement: &crate::ticket::Judgement<T>) -> String {
    format!("{:?} {:.4}", judgement.label, judgement.probability).to_lowercase()
}

/// A digest that is long enough to tell two settings apart.
fn short(bytes: impl AsRef<[u8]>) -> String {
    sha256_hex(bytes).chars().take(24).collect()
}
