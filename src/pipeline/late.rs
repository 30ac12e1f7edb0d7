//! Tickets whose reply would come too late for what waits before them: the customer is told at once, and the ticket is
//! worked on when there is room.
//!
//! Until then it stands in the team's queue, so that a person can be faster. A ticket in review whose last decision was to
//! acknowledge, without any draft, is one that waits; that is how a new process finds them.

use jiff::Timestamp;
use uuid::Uuid;

use super::{Answer, Judged, Pipeline, Read, as_evidence, due_at};
use crate::decide::{self, PlanKind};
use crate::store::{DecisionRecord, FinishedWork, Person, QueueFilter, StoreError};
use crate::ticket::{Action, Decision, DraftKind, Retrieved, TicketState, Triage, Urgency};

/// Rows read at once.
const PAGE: u32 = 500;
/// Who gives such a ticket back to be worked on, in the audit trail.
const US: Person<'static> = Person { id: Uuid::nil(), name: "respondo" };

impl Pipeline {
    /// Tells the customer of a ticket that the reply takes longer; gives the urgency by which it waits, and None where
    /// nothing is left to do. `in_full` judges it with the memory, so that the customer hears how long such requests take
    /// and the team sees evidence; otherwise by its words alone, within milliseconds. Where the queue's policy wants no
    /// acknowledgements, or one went out, nothing is said.
    ///
    /// # Errors
    /// When the store fails, or the customer wrote more meanwhile; the ticket then stays as it was.
    pub async fn acknowledge_late(&self, ticket: Uuid, in_full: bool) -> Result<Option<Urgency>, StoreError> {
        let Some(read) = self.read(ticket).await? else { return Ok(None) };
        if !in_full {
            let triage = self.triage.judge(&read.request, None, &[], self.usual_time);
            if let Some(word) = self.word_for_waiting(&read, &triage, &[]) {
                self.put_aside(ticket, &read, &triage, word).await?;
            }
            return Ok(Some(triage.urgency.label));
        }
        let judged = self.judge(&read.request).await;
        if let Some(word) = self.word_for_waiting(&read, &judged.triage, &judged.evidence) {
            self.events.keep(ticket, "evidence", &judged.evidence).await?;
            self.events.keep(ticket, "triage", &judged.triage).await?;
            self.put_judged_aside(ticket, &read, &judged, word).await?;
        }
        Ok(Some(judged.triage.urgency.label))
    }

    /// What is said to a customer whose reply takes longer; None where nothing is to be said, or was already.
    pub(super) fn word_for_waiting(&self, read: &Read, triage: &Triage, evidence: &[Retrieved]) -> Option<String> {
        let policy = self.settings.policy.of(read.request.queue.as_deref());
        if read.is_acknowledged || !policy.send_acknowledgements {
            return None;
        }
        let has_words = read.request.text().chars().any(char::is_alphabetic);
        let plan = if has_words { decide::plan(triage, evidence, policy) } else { decide::plan_for_no_words() };
        if plan.kind == PlanKind::Discard {
            return None;
        }
        self.drafter.acknowledge(&read.request, triage).map(|draft| draft.text)
    }

    /// [`Pipeline::put_aside`], with the judgement for the record.
    pub(super) async fn put_judged_aside(
        &self,
        ticket: Uuid,
        read: &Read,
        judged: &Judged,
        word: String,
    ) -> Result<(), StoreError> {
        let evidence = as_evidence(&judged.evidence);
        let vector = judged.vector.as_deref().map(|vector| (self.inference.embedder_name(), vector));
        self.store.save_analysis(ticket, &judged.triage, &evidence, &judged.timings, vector).await?;
        self.put_aside(ticket, read, &judged.triage, word).await
    }

    /// Sends the word and hands the ticket to the team's queue, where it waits.
    async fn put_aside(&self, ticket: Uuid, read: &Read, triage: &Triage, word: String) -> Result<(), StoreError> {
        let decision = Decision {
            action: Action::Acknowledge,
            reasons: vec![
                "so much waits before it that the reply would be late; it is drafted when there is room".into(),
            ],
            skill: triage.skill.clone(),
            automatic: false,
        };
        let work = FinishedWork {
            seen_message: read.last_message,
            draft_id: None,
            decision,
            state: TicketState::Review,
            due_at: due_at(triage.expected_time),
            urgency: Some(triage.urgency.label),
            difficulty: Some(triage.difficulty.label),
            outgoing: Some(word),
        };
        let finished = self.store.finish(ticket, work).await?;
        self.events.tell_kept(ticket, finished.events);
        metrics::counter!("respondo_acknowledged_late_total").increment(1);
        Ok(())
    }

    /// Makes a ticket that was put aside one to be worked on, unless a person or the customer was faster.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn take_up(&self, ticket: Uuid) -> Result<(), StoreError> {
        let handling = self.store.handling(ticket).await?;
        let is_snoozed = handling.snoozed_until.is_some_and(|until| until > Timestamp::now());
        let is_free =
            handling.assignee.is_none() && !handling.taken_over && handling.merged_into.is_none() && !is_snoozed;
        if is_free && self.is_put_aside(ticket).await? {
            self.store.give_back(ticket, US).await?;
        }
        Ok(())
    }

    async fn is_put_aside(&self, ticket: Uuid) -> Result<bool, StoreError> {
        let view = self.store.ticket_view(ticket).await?;
        let waits = |last: &DecisionRecord| last.decision.action == Action::Acknowledge && last.draft_id.is_none();
        Ok(view.ticket.state == TicketState::Review && view.decisions.last().is_some_and(waits))
    }

    /// Tickets that an earlier process put aside, with their urgency, the urgent ones first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn put_aside_before(&self) -> Result<Vec<(Uuid, Urgency)>, StoreError> {
        let mut found = Vec::new();
        let state = Some(TicketState::Review);
        let mut filter = QueueFilter { state, language: None, queue: None, limit: PAGE, cursor: None };
        loop {
            let rows = self.store.queue(&filter).await?;
            let Some(last) = rows.last() else { return Ok(found) };
            filter.cursor = Some(last.cursor.clone());
            for row in rows {
                // Few of those in review look like it; a row does not tell whether there was a draft.
                let may_wait = row.action == Some(Action::Acknowledge) && row.draft_id.is_none();
                if may_wait && self.is_put_aside(row.ticket.id).await? {
                    found.push((row.ticket.id, row.ticket.urgency.unwrap_or(Urgency::High)));
                }
            }
        }
    }
}

impl Answer {
    /// For a customer who has had the acknowledgement: only a reply goes out by itself.
    pub(super) fn say_nothing_twice(&mut self) {
        let is_reply = self.draft.as_ref().is_some_and(|draft| draft.kind != DraftKind::Acknowledgement);
        if !(self.decision.automatic && is_reply) {
            self.decision.automatic = false;
            self.outgoing = None;
        }
    }
}
