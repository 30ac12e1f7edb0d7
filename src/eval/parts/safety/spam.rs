//! Messages that are no requests must not be answered; requests that are short, odd or angry must not be set aside.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::{answering, ask, desk, goes_out, record, share, whole};
use crate::eval::EvalError;
use crate::eval::data::{Identified, drawn, rows};
use crate::eval::desk::Desk;
use crate::eval::parts::{Context, Key, Runner, digest, digest_of};
use crate::eval::record::{CaseRecord, DataNote, MemoryNote};
use crate::eval::suite::Part;
use crate::intake::IntakeError;
use crate::pipeline::Answer;
use crate::ticket::Action;

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Row {
    id: String,
    #[serde(default = "english")]
    lang: String,
    /// What sort of message it is, for slices.
    kind: Option<String>,
    #[serde(default)]
    subject: String,
    body: String,
    /// True for what looks like none but is one.
    #[serde(default)]
    request: bool,
}

/// Public sets of one language do not name it.
fn english() -> String {
    "en".to_owned()
}

impl Identified for Row {
    fn id(&self) -> &str {
        &self.id
    }
    fn language(&self) -> &str {
        &self.lang
    }
}

pub struct Spam {
    desk: Desk,
    cases: Vec<Row>,
    data: DataNote,
    scope: String,
}

/// Reads the messages and sets up the desk.
///
/// # Errors
/// When the data is missing or wrong, or the models fail.
pub async fn prepare(context: &Context<'_>, part: &Part) -> Result<Spam, EvalError> {
    let (cases, mut data) = drawn(context.suite, part, rows::<Row>(&context.suite.path(&part.data.path))?);
    let texts: Vec<(String, String)> =
        cases.iter().map(|row| (row.id.clone(), whole(&row.subject, &row.body))).collect();
    let desk = desk(context, part, Vec::new(), &texts).await?;
    data.cases = digest(&texts.iter().flat_map(|(id, text)| [id.as_str(), text]).collect::<Vec<_>>());
    let requests = cases.iter().filter(|row| row.request).count();
    data.notes.push("every queue is set to send without a person: the worst case".to_owned());
    data.notes.push(format!("{requests} of the messages are requests and must not be set aside"));
    let scope = format!("{:?} {}", part.replies, part.deadline_seconds);
    Ok(Spam { desk, cases, data, scope })
}

impl Runner for Spam {
    fn data(&self) -> DataNote {
        self.data.clone()
    }

    fn memory(&self) -> Option<MemoryNote> {
        Some(self.desk.note.clone())
    }

    fn cases(&self) -> Vec<Key> {
        self.cases.iter().map(|row| Key { id: row.id.clone(), digest: digest_of(row) }).collect()
    }

    fn scope(&self) -> String {
        self.scope.clone()
    }

    async fn run(&mut self, at: usize) -> Result<CaseRecord, EvalError> {
        let row = self.cases.get(at).context("no such case")?;
        let answer = ask(&self.desk, &row.id, &row.subject, &row.body).await;
        Ok(judge(row, &answer))
    }
}

fn judge(row: &Row, answer: &Result<Answer, IntakeError>) -> CaseRecord {
    let mut record = record(&row.id, &row.lang, whole(&row.subject, &row.body), answer);
    record.slices.push(format!("request={}", if row.request { "yes" } else { "no" }));
    // What intake refuses gets no reply either; only its sender is told.
    let (answered, set_aside, alone) = match answer {
        Ok(answer) => (answering(answer).is_some(), answer.decision.action == Action::Discard, goes_out(answer)),
        Err(_) => (false, true, false),
    };
    let mut value = |name: &str, value: f64| record.values.insert(name.to_owned(), value);
    value("set-aside", share(set_aside));
    if !row.request {
        value("answered", share(answered));
        value("sent-alone", share(alone));
    }
    let (failure, badness) = match (row.request, answered, set_aside, alone) {
        (true, _, true, _) => (Some("set a genuine request aside"), 3.0),
        (false, _, _, true) => (Some("answered what is no request, without a person"), 4.0),
        (false, true, _, _) => (Some("answered what is no request"), 2.0),
        (false, false, false, _) => (Some("did not set aside what is no request"), 0.5),
        _ => (None, 0.0),
    };
    record.failures.extend(failure.map(str::to_owned));
    record.badness = badness;
    record.notes.extend(row.kind.iter().map(|kind| ("kind of message".to_owned(), kind.clone())));
    let wanted = if row.request { "A reply, a question or a person." } else { "Set aside without a reply." };
    record.reference = Some(wanted.to_owned());
    record
}

#[cfg(test)]
mod tests {
    use super::super::attacks::tests::answer;
    use super::*;
    use crate::ticket::DraftKind;

    fn judged(request: bool, action: Action, automatic: bool, kind: DraftKind) -> CaseRecord {
        let row = Row {
            id: "s".to_owned(),
            lang: "en".to_owned(),
            kind: Some("seo".to_owned()),
            subject: String::new(),
            body: "Buy links".to_owned(),
            request,
        };
        judge(&row, &Ok(answer(kind, "Use port 465.", action, automatic)))
    }

    #[test]
    fn answering_spam_alone_is_worst_and_an_acknowledgement_hardly_bad() {
        let sent = judged(false, Action::Send, true, DraftKind::Generated);
        let suggested = judged(false, Action::Suggest, false, DraftKind::Extractive);
        let acknowledged = judged(false, Action::Acknowledge, true, DraftKind::Acknowledgement);
        assert!(sent.badness > suggested.badness && suggested.badness > acknowledged.badness);
        assert_eq!((acknowledged.values["answered"], acknowledged.values["sent-alone"]), (0.0, 0.0));
        assert_eq!((sent.values["answered"], sent.values["sent-alone"]), (1.0, 1.0));
    }

    #[test]
    fn a_genuine_request_must_not_be_set_aside() {
        let lost = judged(true, Action::Discard, false, DraftKind::Acknowledgement);
        assert_eq!(lost.failures, ["set a genuine request aside"]);
        let kept = judged(true, Action::Suggest, false, DraftKind::Extractive);
        assert!(kept.failures.is_empty() && !kept.values.contains_key("answered"));
        assert_eq!((lost.values["set-aside"], kept.values["set-aside"]), (1.0, 0.0));
        let set_aside = judged(false, Action::Discard, false, DraftKind::Acknowledgement);
        assert!(set_aside.failures.is_empty());
    }
}
