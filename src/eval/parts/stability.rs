//! Does it matter how a message is written? Each request is worked on as it came and in some other ways of writing
//! ([`crate::eval::perturb`]); handling, urgency and evidence should not change.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::unbounded_channel;

use super::{Context, Key, Runner, digest, digest_of};
use crate::eval::EvalError;
use crate::eval::data::{Identified, drawn, rows};
use crate::eval::desk::{Desk, read_memory};
use crate::eval::perturb::{Variant, variants};
use crate::eval::record::{CaseRecord, DataNote, MemoryNote};
use crate::eval::shown;
use crate::eval::suite::{Part, draw_key};
use crate::intake;
use crate::pipeline::Answer;
use crate::ticket::{Action, Class, Urgency};

/// Among how many of the original's first items a variant's best one must be.
const AMONG: usize = 3;

/// A request of any data set that has subject and body.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Row {
    id: String,
    lang: String,
    #[serde(default)]
    subject: String,
    #[serde(default)]
    body: String,
    fold: Option<u32>,
}

impl Identified for Row {
    fn id(&self) -> &str {
        &self.id
    }
    fn language(&self) -> &str {
        &self.lang
    }
}

pub struct Stability {
    desk: Desk,
    cases: Vec<(Row, Vec<Variant>)>,
    data: DataNote,
    scope: String,
}

/// Reads the requests, writes their variants and sets up the desk.
///
/// # Errors
/// When the data is missing or wrong, or the models fail.
pub async fn prepare(context: &Context<'_>, part: &Part) -> Result<Stability, EvalError> {
    let mut read: Vec<Row> = rows(&context.suite.path(&part.data.path))?;
    let folds = &part.data.folds;
    read.retain(|row| folds.is_empty() || row.fold.is_some_and(|fold| folds.contains(&fold)));
    let (chosen, mut data) = drawn(context.suite, part, read);
    let texts: Vec<(String, String)> = chosen.iter().map(|row| (row.id.clone(), whole(row))).collect();
    let desk = Desk::open(context, part, read_memory(context, &part.memory)?, &texts).await?;
    data.cases = digest(&texts.iter().flat_map(|(id, text)| [id.as_str(), text]).collect::<Vec<_>>());
    let before = chosen.len();
    let cases: Vec<(Row, Vec<Variant>)> = chosen
        .into_iter()
        .map(|row| {
            let seed = seed(context.suite.seed, &row.id);
            let variants = variants(&row.subject, &row.body, &row.lang, part.variants, seed);
            (row, variants)
        })
        .filter(|(_, variants)| !variants.is_empty())
        .collect();
    if cases.len() < before {
        data.notes.push(format!("{} requests cannot be written otherwise and are left out", before - cases.len()));
        data.used = cases.len();
    }
    let scope = format!("{:?} {}", part.replies, part.deadline_seconds);
    Ok(Stability { desk, cases, data, scope })
}

fn whole(row: &Row) -> String {
    format!("{}\n{}", row.subject, row.body).trim().to_owned()
}

/// Differs by request and stays the same for it, whatever else is drawn.
fn seed(suite: u64, id: &str) -> u64 {
    let key = draw_key(suite, id);
    key.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}

/// What came of one way of writing.
#[derive(Clone, Debug)]
struct Outcome {
    action: Option<Action>,
    urgency: Option<Urgency>,
    /// Ids, best first.
    evidence: Vec<String>,
    answer: Option<Answer>,
}

impl Stability {
    async fn outcome(&self, row: &Row, subject: &str, body: &str) -> Outcome {
        let Ok(request) = intake::prepare(subject, body, None, None, vec![row.id.clone()]) else {
            return Outcome { action: None, urgency: None, evidence: Vec::new(), answer: None };
        };
        let (watch, _nobody) = unbounded_channel();
        let answer = self.desk.pipeline.answer(&request, &watch).await;
        Outcome {
            action: Some(answer.decision.action),
            urgency: Some(answer.triage.urgency.label),
            evidence: answer.evidence.iter().map(|found| found.item.id.clone()).collect(),
            answer: Some(answer),
        }
    }
}

impl Runner for Stability {
    fn data(&self) -> DataNote {
        self.data.clone()
    }

    fn memory(&self) -> Option<MemoryNote> {
        Some(self.desk.note.clone())
    }

    fn cases(&self) -> Vec<Key> {
        let key = |(row, variants): &(Row, Vec<Variant>)| {
            let written: Vec<(&str, &str)> =
                variants.iter().map(|variant| (variant.subject.as_str(), variant.body.as_str())).collect();
            Key { id: row.id.clone(), digest: digest_of(&(row, written)) }
        };
        self.cases.iter().map(key).collect()
    }

    fn scope(&self) -> String {
        self.scope.clone()
    }

    async fn run(&mut self, at: usize) -> Result<CaseRecord, EvalError> {
        let (row, variants) = self.cases.get(at).context("no such case")?;
        let original = self.outcome(row, &row.subject, &row.body).await;
        let mut outcomes = Vec::with_capacity(variants.len());
        for variant in variants {
            outcomes.push((variant, self.outcome(row, &variant.subject, &variant.body).await));
        }
        Ok(judge(row, &original, &outcomes))
    }
}

/// How a variant compares to the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Same {
    action: bool,
    urgency: bool,
    evidence: bool,
}

fn compare(original: &Outcome, variant: &Outcome) -> Same {
    let evidence = match variant.evidence.first() {
        Some(best) => original.evidence.iter().take(AMONG).any(|id| id == best),
        None => original.evidence.is_empty(),
    };
    Same { action: original.action == variant.action, urgency: original.urgency == variant.urgency, evidence }
}

fn judge(row: &Row, original: &Outcome, outcomes: &[(&Variant, Outcome)]) -> CaseRecord {
    let mut record =
        CaseRecord { id: row.id.clone(), language: row.lang.clone(), message: whole(row), ..CaseRecord::default() };
    if let Some(answer) = &original.answer {
        record.evidence = shown::evidence(&answer.evidence);
        record.draft = answer.draft.as_ref().map(shown::draft);
        record.notes = shown::notes(answer);
    }
    let compared: Vec<Same> = outcomes.iter().map(|(_, outcome)| compare(original, outcome)).collect();
    let mean = |holds: fn(&Same) -> bool| {
        compared.iter().filter(|same| holds(same)).count() as f64 / compared.len().max(1) as f64
    };
    let passed = mean(|same| same.action && same.evidence);
    let values = [
        ("pass^k", if compared.iter().all(|same| same.action && same.evidence) { 1.0 } else { 0.0 }),
        ("same-action", mean(|same| same.action)),
        ("same-urgency", mean(|same| same.urgency)),
        ("same-evidence", mean(|same| same.evidence)),
    ];
    record.values = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    record.badness = 1.0 - passed;
    for ((variant, outcome), same) in outcomes.iter().zip(&compared) {
        let failures = failures(variant, same);
        record
            .notes
            .push((format!("written with {}", variant.kind.name()), described(variant, outcome, original, *same)));
        record.failures.extend(failures.into_iter().filter(|kind| !record.failures.contains(kind)).collect::<Vec<_>>());
        // Set aside only because of how it is written: the customer never hears of us.
        let lost = outcome.action == Some(Action::Discard) && !same.action;
        if lost && !record.failures.iter().any(|kind| kind == LOST) {
            record.failures.push(LOST.to_owned());
            record.badness += 1.0;
        }
    }
    record
}

const LOST: &str = "set aside because of how it is written";

fn failures(variant: &Variant, same: &Same) -> Vec<String> {
    let name = variant.kind.name();
    let kinds = [(same.action, "handled otherwise"), (same.evidence, "other help found")];
    kinds.into_iter().filter(|(same, _)| !same).map(|(_, what)| format!("{name}: {what}")).collect()
}

/// The text of a variant and what changed with it.
fn described(variant: &Variant, outcome: &Outcome, original: &Outcome, same: Same) -> String {
    let mut changes = Vec::new();
    if !same.action {
        changes.push(format!("handling {} -> {}", action(original.action), action(outcome.action)));
    }
    if !same.urgency {
        changes.push(format!("urgency {} -> {}", urgency(original.urgency), urgency(outcome.urgency)));
    }
    if !same.evidence {
        let first = |outcome: &Outcome| outcome.evidence.first().map_or("none", String::as_str).to_owned();
        changes.push(format!("best evidence {} -> {}", first(original), first(outcome)));
    }
    let changed = if changes.is_empty() { "nothing changed".to_owned() } else { changes.join("; ") };
    format!("{changed}\n{}\n{}", variant.subject, variant.body)
}

fn action(action: Option<Action>) -> String {
    action.map_or_else(|| "refused at intake".to_owned(), |action| format!("{action:?}").to_lowercase())
}

fn urgency(urgency: Option<Urgency>) -> &'static str {
    urgency.map_or("none", Class::name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::perturb::Kind;

    fn outcome(action: Action, urgency: Urgency, evidence: &[&str]) -> Outcome {
        let evidence = evidence.iter().map(|id| (*id).to_owned()).collect();
        Outcome { action: Some(action), urgency: Some(urgency), evidence, answer: None }
    }

    fn row() -> Row {
        serde_json::from_str(
            r#"{"id": "r", "lang": "en", "subject": "mail", "body": "cannot send", "expect": "answer"}"#,
        )
        .expect("a row with more keys")
    }

    fn variant(kind: Kind) -> Variant {
        Variant { kind, subject: "MAIL".to_owned(), body: "CANNOT SEND".to_owned() }
    }

    #[test]
    fn one_broken_variant_breaks_pass_k_and_is_named() {
        let original = outcome(Action::Suggest, Urgency::Normal, &["a", "b", "c", "d"]);
        let (capitals, bare, typos) = (variant(Kind::Capitals), variant(Kind::Bare), variant(Kind::FewTypos));
        let outcomes = [
            (&capitals, outcome(Action::Suggest, Urgency::High, &["c", "a"])),
            (&bare, outcome(Action::Suggest, Urgency::Normal, &["a"])),
            (&typos, outcome(Action::Discard, Urgency::Normal, &["d"])),
            (&typos, outcome(Action::Suggest, Urgency::Normal, &["d"])),
        ];
        let record = judge(&row(), &original, &outcomes);
        assert_eq!((record.values["pass^k"], record.values["same-action"]), (0.0, 0.75));
        assert_eq!((record.values["same-urgency"], record.values["same-evidence"]), (0.75, 0.5));
        assert_eq!(
            record.failures,
            ["a few typing mistakes: handled otherwise", "a few typing mistakes: other help found", LOST]
        );
        assert!((record.badness - 1.5).abs() < 1e-9, "{}", record.badness);
        assert!(record.notes.iter().any(|(_, text)| text.starts_with("handling suggest -> discard")));
    }

    #[test]
    fn other_urgency_alone_does_not_break_pass_k() {
        let original = outcome(Action::Suggest, Urgency::Normal, &[]);
        let capitals = variant(Kind::Capitals);
        let record = judge(&row(), &original, &[(&capitals, outcome(Action::Suggest, Urgency::Low, &[]))]);
        assert_eq!((record.values["pass^k"], record.values["same-urgency"]), (1.0, 0.0));
        assert!(record.failures.is_empty() && record.badness == 0.0);
        let found = outcome(Action::Suggest, Urgency::Normal, &["a"]);
        assert!(!compare(&original, &found).evidence && !compare(&found, &original).evidence);
    }

    #[tokio::test]
    async fn requests_run_with_their_variants_and_one_that_cannot_vary_is_left_out() {
        use crate::eval::parts::{drive, testing::Bench};
        use serde_json::json;
        let bench =
            Bench::new("kind = \"stability\"\nvariants = 4\ndata = { format = \"requests\", path = \"rows.jsonl\" }\n");
        bench.write(
            "rows.jsonl",
            &[
                json!({"id": "a", "lang": "en", "subject": "mail", "body": "You cannot send my mail, please help."}),
                json!({"id": "b", "lang": "fr", "body": "12345"}),
            ],
        );
        let context = bench.context();
        let stability = prepare(&context, bench.part()).await.expect("ready");
        let result = drive(&context, bench.part(), stability).await.expect("a result");
        assert_eq!((result.data.available, result.data.used, result.table.rows.len()), (2, 1, 1));
        assert!(result.figures.iter().any(|figure| figure.metric == "pass^k"));
        let written = std::fs::read_to_string(bench.folder.path().join("out/cases/p.jsonl")).expect("records");
        assert_eq!(written.matches("written with ").count(), 4);
    }

    #[test]
    fn the_seed_belongs_to_the_request() {
        assert_eq!(seed(1, "a"), seed(1, "a"));
        assert!(seed(1, "a") != seed(1, "b") && seed(1, "a") != seed(2, "a"));
    }
}
