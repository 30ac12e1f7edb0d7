//! Two answers race under one deadline.
//!
//! The extractive reply is cut from the best resolved reply and stands within milliseconds. The generated one is streamed
//! from the language model; it wins only if it arrives in time and passes the guard. Behind both stand our own fixed
//! texts: the question for the one missing thing, and the honest acknowledgement.

pub mod acknowledge;
pub mod extractive;
pub mod glossary;
pub mod guard;
pub mod prompt;
pub mod select;
pub mod text;

use tokio::sync::mpsc::UnboundedSender;

use crate::decide::{Plan, PlanKind};
use crate::inference::{Inference, InferenceError, News, Writing};
use crate::pipeline::{Clock, Stage, tell};
use crate::settings::{GenerationKind, Settings};
use crate::ticket::{Draft, DraftKind, Finding, Language, Request, Rule, Triage};
use guard::links::LinkHost;
use guard::{Guard, GuardContext, Verdict};
use prompt::Prompts;
use select::{Budget, Found, Selection};

/// Memory items that a reply may rest on: more confuse a small model and cost reading time.
const EVIDENCE_ITEMS: usize = 3;

/// What the race gave.
#[derive(Clone, Debug, Default)]
pub struct Drafting {
    /// The winner; None for what is not a request, or when nothing passed.
    pub draft: Option<Draft>,
    /// The guard's verdict on it; our own fixed texts always pass.
    pub passed: bool,
    pub extractive_ms: f32,
    pub first_token_ms: Option<f32>,
    /// When the generated reply was whole; None when it was not in time.
    pub generated_ms: Option<f32>,
    /// What failed or ran out of time, in words.
    pub degraded: Vec<String>,
}

/// Writes replies: owns the prompts and knows the models.
pub struct Drafter {
    prompts: Prompts,
    inference: Inference,
    max_tokens: usize,
    evidence_tokens: usize,
    link_hosts: Vec<LinkHost>,
    /// False where the settings want extractive replies only.
    generates: bool,
}

impl Drafter {
    pub fn new(prompts: Prompts, inference: Inference, settings: &Settings) -> Self {
        let (max_tokens, evidence_tokens) = (settings.generation.max_tokens, settings.draft.evidence_tokens);
        let generates = settings.generation.kind != GenerationKind::None;
        let link_hosts = settings.draft.link_hosts.clone();
        Self { prompts, inference, max_tokens, evidence_tokens, link_hosts, generates }
    }

    pub fn prompts(&self) -> &Prompts {
        &self.prompts
    }

    /// Lets both racers run and gives the best reply that passed the guard before the deadline.
    pub async fn race(
        &self,
        request: &Request,
        found: Found<'_>,
        plan: &Plan,
        clock: &Clock,
        watch: &UnboundedSender<Stage>,
    ) -> Drafting {
        let mut drafting = Drafting::default();
        if plan.kind == PlanKind::Discard {
            return drafting;
        }
        let budget = Budget { tokens: self.evidence_tokens, items: EVIDENCE_ITEMS };
        let selection = if plan.draft { select::select(found, request, budget) } else { Selection::default() };
        drafting.draft = match plan.kind {
            PlanKind::Ask => self.question(request, &mut drafting.degraded),
            _ => self.extract(&selection, request),
        };
        drafting.extractive_ms = clock.elapsed_ms();
        if let Some(draft) = &drafting.draft {
            drafting.passed = true;
            tell(watch, Stage::Extractive(Box::new(draft.clone())));
        }
        if self.generates && !selection.evidence.is_empty() {
            self.generate(request, &selection, clock, watch, &mut drafting).await;
        }
        drafting
    }

    /// The honest acknowledgement: what was understood, what happens next, by when. None only if its template is broken.
    pub fn acknowledge(&self, request: &Request, triage: &Triage) -> Option<Draft> {
        acknowledge::acknowledgement(request, triage).inspect_err(|error| tracing::error!(%error)).ok()
    }

    fn question(&self, request: &Request, degraded: &mut Vec<String>) -> Option<Draft> {
        acknowledge::question(request).inspect_err(|error| degraded.push(error.to_string())).ok()
    }

    /// The second racer. Replaces the draft when it passes in time, and leaves it as it is otherwise.
    async fn generate(
        &self,
        request: &Request,
        selection: &Selection,
        clock: &Clock,
        watch: &UnboundedSender<Stage>,
        drafting: &mut Drafting,
    ) {
        let language = reply_language(&request.language);
        let (written, model) = match self.write(request, selection, &language, clock, watch, drafting).await {
            Ok(Some(written)) => written,
            Ok(None) => return,
            Err(InferenceError::NoGenerator) => return,
            Err(error) => {
                metrics::counter!("respondo_degraded_total", "stage" => "generate").increment(1);
                return drafting.degraded.push(format!("no generated reply: {error}"));
            }
        };
        let verdict = self.check(&written, selection, request, &language);
        for finding in &verdict.findings {
            let rule = format!("{:?}", finding.rule);
            metrics::counter!("respondo_guard_findings_total", "rule" => rule).increment(1);
        }
        if !verdict.passed {
            drafting.degraded.push("the generated reply did not pass the guard".to_owned());
            keep_findings(drafting, verdict.findings);
            return;
        }
        drafting.passed = true;
        drafting.draft = Some(Draft {
            kind: DraftKind::Generated,
            language,
            text: verdict.text,
            sentences: verdict.sentences,
            evidence: selection.evidence.clone(),
            findings: verdict.findings,
            model,
        });
    }

    /// Streams the model's text until it is whole or the deadline is over; then only whole sentences count. Gives the text
    /// and the model's name; None when nothing usable came in time.
    async fn write(
        &self,
        request: &Request,
        selection: &Selection,
        language: &Language,
        clock: &Clock,
        watch: &UnboundedSender<Stage>,
        drafting: &mut Drafting,
    ) -> Result<Option<(String, Option<String>)>, InferenceError> {
        let prompt = match self.prompts.reply(request, &selection.evidence, language, self.max_tokens) {
            Ok(prompt) => prompt,
            Err(error) => {
                drafting.degraded.push(error.to_string());
                return Ok(None);
            }
        };
        let mut writing = self.inference.generate(prompt)?;
        let customer_text = request.text();
        let ours = ours(language);
        let mut judge = StreamJudge::new(&GuardContext {
            evidence: &selection.evidence,
            customer_text: &customer_text,
            language,
            ours: &ours,
            link_hosts: &self.link_hosts,
        });
        let mut text = String::new();
        let signed =
            |text: Option<String>, writing: &Writing| text.map(|text| (text, writing.model().map(str::to_owned)));
        loop {
            match tokio::time::timeout(clock.left(), writing.next()).await {
                Err(_) => {
                    drafting.degraded.push("the generated reply was not whole at the deadline".to_owned());
                    return Ok(signed(whole_sentences(&text), &writing));
                }
                Ok(None) => return Err(InferenceError::Stopped),
                Ok(Some(News::Text(added))) => {
                    drafting.first_token_ms.get_or_insert_with(|| clock.elapsed_ms());
                    text.push_str(&added);
                    tell(watch, Stage::Token(added));
                    for findings in judge.judge(&text) {
                        tell(watch, Stage::Cut(findings));
                    }
                    if let Some(end) = judge.ends_at() {
                        // Dropping the writing ends it: what follows a sentence that obeyed somebody else is not worth its time.
                        return Ok(signed(whole_sentences(text.get(..end).unwrap_or_default()), &writing));
                    }
                }
                Ok(Some(News::Done(generation))) => {
                    let generation = generation?;
                    drafting.generated_ms = Some(clock.elapsed_ms());
                    let ended = generation.stop == crate::inference::generator::StopReason::End;
                    let text = if ended { Some(generation.text) } else { whole_sentences(&generation.text) };
                    return Ok(signed(text, &writing));
                }
            }
        }
    }

    /// The first racer, through the same guard.
    fn extract(&self, selection: &Selection, request: &Request) -> Option<Draft> {
        let draft = extractive::draft(selection, request)?;
        let verdict = self.check(&draft.text, selection, request, &draft.language);
        verdict.passed.then_some(Draft {
            text: verdict.text,
            sentences: verdict.sentences,
            findings: verdict.findings,
            ..draft
        })
    }

    fn check(&self, text: &str, selection: &Selection, request: &Request, language: &Language) -> Verdict {
        let ours = ours(language);
        let context = GuardContext {
            evidence: &selection.evidence,
            customer_text: &request.text(),
            language,
            ours: &ours,
            link_hosts: &self.link_hosts,
        };
        guard::check(text, &context)
    }
}

/// Sentences that the service may always say.
fn ours(language: &Language) -> Vec<String> {
    extractive::fixed_phrases(language).iter().map(|phrase| (*phrase).to_owned()).collect()
}

/// The guard's eye on a reply while it is written: every sentence is judged as soon as it is whole.
struct StreamJudge<'a> {
    guard: Guard<'a>,
    /// Bytes of the text that have been judged.
    judged: usize,
    /// Where a sentence begins after which nothing can be trusted.
    ends_at: Option<usize>,
}

impl<'a> StreamJudge<'a> {
    fn new(context: &GuardContext<'a>) -> Self {
        Self { guard: Guard::new(context), judged: 0, ends_at: None }
    }

    /// What the guard objects to in the sentences that became whole since the last call, sentence by sentence.
    fn judge(&mut self, text: &str) -> Vec<Vec<Finding>> {
        let spans = text::sentence_spans(text);
        let whole = spans.split_last().map_or(&[][..], |(_, whole)| whole);
        let mut cut = Vec::new();
        for span in whole.iter().filter(|span| span.start >= self.judged).cloned().collect::<Vec<_>>() {
            self.judged = span.end;
            let findings = self.guard.check_sentence(text.get(span.clone()).unwrap_or_default()).findings;
            if findings.iter().any(|finding| matches!(finding.rule, Rule::FollowedInstruction | Rule::PersonalData)) {
                self.ends_at.get_or_insert(span.start);
            }
            if !findings.is_empty() {
                cut.push(findings);
            }
        }
        cut
    }

    fn ends_at(&self) -> Option<usize> {
        self.ends_at
    }
}

/// An agent who sees the other racer's reply still learns what was wrong with this one.
fn keep_findings(drafting: &mut Drafting, findings: Vec<Finding>) {
    if let Some(draft) = drafting.draft.as_mut().filter(|draft| draft.kind != DraftKind::Question) {
        draft.findings.extend(findings);
    }
}

/// The customer's language; English when it could not be told.
fn reply_language(language: &Language) -> Language {
    if *language == Language::UNKNOWN { Language::EN } else { language.clone() }
}

/// What stands before the last sentence end; None when there is none.
fn whole_sentences(text: &str) -> Option<String> {
    let spans = text::sentence_spans(text);
    let last = spans.last()?;
    let ends = text.get(last.clone()).is_some_and(|s| s.trim_end().ends_with(['.', '!', '?', ']', ':']));
    let end = if ends { last.end } else { spans.iter().rev().nth(1)?.end };
    text.get(..end).map(str::to_owned).filter(|kept| !kept.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_judged_when_it_is_whole_and_one_that_gives_data_away_ends_the_reply() {
        let ours = ours(&Language::EN);
        let mut judge = StreamJudge::new(&GuardContext {
            evidence: &[],
            customer_text: "My site is down",
            language: &Language::EN,
            ours: &ours,
            link_hosts: &[],
        });
        assert!(judge.judge("Open Settings. Write to ana.lopez@exam").is_empty() || judge.ends_at().is_none());
        assert_eq!(judge.ends_at(), None);
        let text = "Open Settings. Write to ana.lopez@private-mail.net about it. Then wait.";
        let cut = judge.judge(text);
        assert!(cut.iter().flatten().any(|finding| finding.rule == Rule::PersonalData), "{cut:?}");
        assert_eq!(judge.ends_at(), Some("Open Settings. ".len()));
        assert!(judge.judge(text).is_empty(), "a sentence is judged once");
    }

    #[test]
    fn a_reply_cut_off_keeps_its_whole_sentences() {
        assert_eq!(whole_sentences("Open Settings. Then click on"), Some("Open Settings.".to_owned()));
        assert_eq!(
            whole_sentences("Open Settings. Restart it. [1]").as_deref(),
            Some("Open Settings. Restart it. [1]")
        );
        assert_eq!(whole_sentences("Open"), None);
        assert_eq!(whole_sentences(""), None);
    }
}
