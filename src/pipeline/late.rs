//! Tickets whose reply would come too late for what waits before them: the customer is told at once, and the ticket is
//! worked on when there is room.
//!
//! Until then it stands in the team's queue, so that a person can be faster. A ticket in review whose last decision was to
//! acknowledge, without any draft, is one that waits; that is how a new process finds them.

use jiff::Timestamp;
use uuid::Uuid;

use super::{Answer, Judged, Pipeline, Read, as_evidence, due_at};
use crate::decide::{self, PlanKind};
use crate::events::event_data;
use crate::store::{Analysis, DecisionRecord, Finished, FinishedWork, Person, QueueFilter, StoreError};
use crate::ticket::{Action, Decision, DraftKind, Retrieved, TicketState, Triage, Urgency};
use crate::triage::Meaning;

/// Rows read at once.
const PAGE: u32 = 500;
/// Who gives such a ticket back to be worked on, in the audit trail.
const US: Person<'static> = Person { id: Uuid::nil(), name: "respondo" };

impl Pipeline {
    /// Tells the customer of a ticket that the reply takes longer, with the time that such requests take; gives the urgency
    /// by which it waits, and None where nothing is left to do. It is judged with the memory, and the team sees evidence.
    /// Where the queue's policy wants no acknowledgements, or one went out, nothing is said.
    ///
    /// # Errors
    /// When the store fails, or the customer wrote more meanwhile; the ticket then stays as it was.
    pub async fn acknowledge_late(&self, ticket: Uuid) -> Result<Option<Urgency>, StoreError> {
        let Some(read) = self.read(ticket).await? else { return Ok(None) };
        let judged = self.judge(&read.request).await;
        if let Some(word) = self.word_for_waiting(&read, &judged.triage, &judged.evidence) {
            let stages = vec![("evidence", event_data(&judged.evidence)), ("triage", event_data(&judged.triage))];
            self.events.keep_all(ticket, stages).await?;
            self.put_judged_aside(ticket, &read, &judged, word).await?;
        }
        Ok(Some(judged.triage.urgency.label))
    }

    /// The same for many tickets at once, each judged by its words alone, in a fraction of the time. What fails for one
    /// leaves that one as it was; gives the urgencies in the order of the tickets.
    ///
    /// # Errors
    /// When the store fails; then all tickets stay as they were.
    pub async fn acknowledge_all_late(&self, tickets: &[Uuid]) -> Result<Vec<Option<Urgency>>, StoreError> {
        let mut urgencies = Vec::with_capacity(tickets.len());
        let mut works = Vec::new();
        for ticket in tickets {
            let read = match self.read(*ticket).await {
                Err(StoreError::NotFound(_)) => None,
                read => read?,
            };
            let Some(read) = read else {
                urgencies.push(None);
                continue;
            };
            let triage = self.triage.judge(&read.request, Meaning::default(), &[], self.usual_time);
            urgencies.push(Some(triage.urgency.label));
            if let Some(word) = self.word_for_waiting(&read, &triage, &[]) {
                works.push((*ticket, waiting_work(&read, &triage, word)));
            }
        }
        let ids: Vec<Uuid> = works.iter().map(|(ticket, _)| *ticket).collect();
        for (ticket, finished) in ids.into_iter().zip(self.store.finish_all(works).await?) {
            match finished {
                Ok(finished) => self.is_put_aside_now(ticket, finished),
                Err(error) => tracing::info!(%ticket, %error, "a ticket is not put aside"),
            }
        }
        Ok(urgencies)
    }

    /// What is said to a customer whose reply takes longer; None where nothing is to be said, or was already.
    pub(super) fn word_for_waiting(&self, read: &Read, triage: &Triage, evidence: &[Retrieved]) -> Option<String> {
        let policy = self.settings.policy.of(read.request.queue.as_deref());
        if read.is_acknowledged || !policy.send_acknowledgements {
            return None;
        }
        let has_words = read.request.text().chars().any(char::is_alphabetic);
        let plan = if has_words { decide::plan(triage, evidence, None, policy) } else { decide::plan_for_no_words() };
        if plan.kind == PlanKind::Discard {
            return None;
        }
        self.drafter.acknowledge(&read.request, triage).map(|draft| draft.text)
    }

    /// Sends the word and hands the ticket to the team's queue, where it waits, with the judgement for the record.
    pub(super) async fn put_judged_aside(
        &self,
        ticket: Uuid,
        read: &Read,
        judged: &Judged,
        word: String,
    ) -> Result<(), StoreError> {
        let evidence = as_evidence(&judged.evidence);
        let vector = judged.vector.as_deref().map(|vector| (self.inference.embedder_name(), vector));
        let analysis = Analysis { triage: &judged.triage, evidence: &evidence, timings: &judged.timings, vector };
        let work = waiting_work(read, &judged.triage, word);
        let finished = self.store.record(ticket, work, &analysis, None, None).await?;
        self.is_put_aside_now(ticket, finished);
        Ok(())
    }

    fn is_put_aside_now(&self, ticket: Uuid, finished: Finished) {
        self.events.tell_kept(ticket, finished.events);
        metrics::counter!("respondo_acknowledged_late_total").increment(1);
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

/// The end of the work for now: the word goes out, and the ticket waits in the team's queue.
fn waiting_work(read: &Read, triage: &Triage, word: String) -> FinishedWork {
    let reason = "so much waits before it that the reply would be late; it is drafted when there is room";
    FinishedWork {
        seen_message: read.last_message,
        draft_id: None,
        decision: Decision {
            skill: triage.skill.clone(),
            ..Decision::new(Action::Acknowledge, vec![reason.to_owned()])
        },
        state: TicketState::Review,
        due_at: due_at(triage.expected_time),
        urgency: Some(triage.urgency.label),
        difficulty: Some(triage.difficulty.label),
        outgoing: Some(word),
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
