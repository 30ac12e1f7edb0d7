//! What the values of the domain are called on the pages, in the words of [`super::texts`].

use jiff::civil::Weekday;

use super::format::size;
use super::texts::Texts;
use crate::intake::files::{FileError, LARGEST_FILE, MOST_FILES, MOST_FILES_IN_ALL};
use crate::store::{KeyProblem, Role};
use crate::ticket::{Action, Difficulty, DraftKind, NextStep, Rule, TicketState, Urgency};

impl Texts {
    pub fn urgency(&self, urgency: Option<Urgency>) -> &'static str {
        match urgency {
            Some(Urgency::Critical) => self.urgency_critical,
            Some(Urgency::High) => self.urgency_high,
            Some(Urgency::Normal) => self.urgency_normal,
            Some(Urgency::Low) => self.urgency_low,
            None => self.class_unknown,
        }
    }

    pub fn difficulty(&self, difficulty: Option<Difficulty>) -> &'static str {
        match difficulty {
            Some(Difficulty::Known) => self.difficulty_known,
            Some(Difficulty::Guided) => self.difficulty_guided,
            Some(Difficulty::Specialist) => self.difficulty_specialist,
            Some(Difficulty::Engineering) => self.difficulty_engineering,
            None => self.class_unknown,
        }
    }

    pub fn next_step(&self, next: NextStep) -> &'static str {
        match next {
            NextStep::Answer => self.next_answer,
            NextStep::Ask => self.next_ask,
            NextStep::Human => self.next_human,
            NextStep::Reject => self.next_reject,
        }
    }

    pub fn action(&self, action: Action) -> &'static str {
        match action {
            Action::Send => self.action_send,
            Action::Suggest => self.action_suggest,
            Action::Ask => self.action_ask,
            Action::Escalate => self.action_escalate,
            Action::Acknowledge => self.action_acknowledge,
            Action::Discard => self.action_discard,
        }
    }

    pub fn state(&self, state: TicketState) -> &'static str {
        match state {
            TicketState::Received => self.state_received,
            TicketState::Review => self.state_review,
            TicketState::Waiting => self.state_waiting,
            TicketState::Escalated => self.state_escalated,
            TicketState::Answered => self.state_answered,
            TicketState::Discarded => self.state_discarded,
        }
    }

    pub fn draft_kind(&self, kind: DraftKind) -> &'static str {
        match kind {
            DraftKind::Extractive => self.draft_extractive,
            DraftKind::Generated => self.draft_generated,
            DraftKind::Acknowledgement => self.draft_acknowledgement,
            DraftKind::Question => self.draft_question,
        }
    }

    pub fn role(&self, role: &Role) -> &'static str {
        match role {
            Role::Agent => self.role_agent,
            Role::Lead => self.role_lead,
            Role::Admin => self.role_admin,
        }
    }

    pub fn key_problem(&self, problem: KeyProblem) -> &'static str {
        match problem {
            KeyProblem::Name => self.api_key_bad_name,
            KeyProblem::NoScope => self.api_key_no_scope,
            KeyProblem::Customer => self.api_key_bad_customer,
            KeyProblem::CustomerScopes => self.api_key_customer_scopes,
            KeyProblem::Expiry => self.api_key_bad_end,
        }
    }

    pub fn rule(&self, rule: Rule) -> &'static str {
        match rule {
            Rule::UnsupportedNumber => self.rule_number,
            Rule::UnsupportedPath => self.rule_path,
            Rule::UnsupportedLink => self.rule_link,
            Rule::UnsupportedName => self.rule_name,
            Rule::UnsupportedClaim => self.rule_claim,
            Rule::WrongLanguage => self.rule_language,
            Rule::PersonalData => self.rule_personal,
            Rule::FollowedInstruction => self.rule_instruction,
            Rule::Promise => self.rule_promise,
            Rule::FirstPersonAnecdote => self.rule_anecdote,
            Rule::ClaimedDeed => self.rule_deed,
            Rule::Blame => self.rule_blame,
            Rule::SecondQuestion => self.rule_question,
            Rule::Incomplete => self.rule_incomplete,
            Rule::Repetition => self.rule_repetition,
            Rule::Echo => self.rule_echo,
            Rule::TooLong => self.rule_too_long,
            Rule::Empty => self.rule_empty,
        }
    }

    /// What was just done, by its name in addresses; nothing for other names.
    pub fn done(&self, name: &str) -> &'static str {
        match name {
            "sent" => self.done_sent,
            "rejected" => self.done_rejected,
            "escalated" => self.done_escalated,
            "noted" => self.done_noted,
            "taken" => self.done_taken,
            "given_back" => self.done_given_back,
            "snoozed" => self.done_snoozed,
            "awake" => self.done_awake,
            "corrected" => self.done_corrected,
            "taken_back" => self.done_taken_back,
            "merged" => self.done_merged,
            _ => "",
        }
    }

    /// Who stands in the audit trail: one of the program's names, or a person's own.
    pub fn actor(&self, actor: &str) -> String {
        match actor {
            "customer" => self.actor_customer.to_owned(),
            "system" => self.actor_system.to_owned(),
            "respondo" => self.author_respondo.to_owned(),
            person => person.to_owned(),
        }
    }

    /// What stands in the audit trail; unknown actions as they are.
    pub fn audit_action(&self, action: &str) -> String {
        let text = match action {
            "ticket accepted" => self.audit_accepted,
            "message added" => self.audit_message,
            "decided" => self.audit_decided,
            "reply queued" => self.audit_queued,
            "draft resolved" => self.audit_resolved,
            "taken over" => self.audit_taken,
            "given back" => self.audit_given,
            "snoozed" => self.audit_snoozed,
            "corrected" => self.audit_corrected,
            "reply taken back" => self.audit_taken_back,
            "feedback" => self.audit_feedback,
            "merged" => self.audit_merged,
            other => return other.to_owned(),
        };
        text.to_owned()
    }

    /// How many files a message takes, and how large.
    pub fn files_limits(&self) -> String {
        self.files_at_most.replace("{most}", &MOST_FILES.to_string()).replace("{largest}", &size(LARGEST_FILE as u64))
    }

    /// Why a file was refused.
    pub fn file_error(&self, error: &FileError) -> String {
        match error {
            FileError::WrongType(name) => self.file_wrong_type.replace("{name}", name),
            FileError::TooLarge(name) => {
                self.file_too_large.replace("{largest}", &size(LARGEST_FILE as u64)).replace("{name}", name)
            }
            FileError::Empty(name) => self.file_empty.replace("{name}", name),
            FileError::TooMany => self.files_limits(),
            FileError::TooManyInAll => self.files_enough.replace("{most}", &MOST_FILES_IN_ALL.to_string()),
        }
    }

    pub fn weekday(&self, day: Weekday) -> &'static str {
        match day {
            Weekday::Monday => self.day_monday,
            Weekday::Tuesday => self.day_tuesday,
            Weekday::Wednesday => self.day_wednesday,
            Weekday::Thursday => self.day_thursday,
            Weekday::Friday => self.day_friday,
            Weekday::Saturday => self.day_saturday,
            Weekday::Sunday => self.day_sunday,
        }
    }
}
