//! Replies against what they should be: treated rightly, supported, with the facts in it, in the customer's language, and
//! how sure the service was of them.

use std::collections::BTreeMap;

use anyhow::Context as _;
use tokio::sync::mpsc::unbounded_channel;

use super::{Context, Key, Runner, digest};
use crate::draft::text;
use crate::embed::Role;
use crate::eval::EvalError;
use crate::eval::checks::{self, Treatment};
use crate::eval::data::gold::{self, Expect, Row};
use crate::eval::data::{drawn, rows, store};
use crate::eval::desk::{Desk, imported, read_memory};
use crate::eval::invented::invented;
use crate::eval::record::{Beside, CaseRecord, Chart, DataNote, MemoryNote};
use crate::eval::suite::{Format, Part};
use crate::eval::table::Table;
use crate::eval::text::{chrf, jargon, reading_ease};
use crate::eval::{selective, shown};
use crate::inference::Inference;
use crate::intake::language::is_language;
use crate::pipeline::{Answer, Clock, Judged};
use crate::ticket::{Draft, DraftKind, Language, MemoryItem, MemoryKind, NextStep, Request, Retrieved, Timings};
use crate::triage::Meaning;

/// Share of the facts that must be in an answer for it to count as right.
const FACTS_NEEDED: f64 = 0.5;
/// Points of the risk-coverage curve that are drawn.
const CURVE_POINTS: usize = 60;

pub struct Drafts {
    desk: Desk,
    rows: Vec<Row>,
    /// Given evidence by case, with the request's vector; None where the memory is searched.
    given: Vec<Option<(Vec<f32>, Vec<Retrieved>)>>,
    /// Vectors of the reference replies, where there are any.
    references: Vec<Option<Vec<f32>>>,
    inference: Inference,
    data: DataNote,
    budget: f64,
    replies: String,
}

/// Reads requests, references and memory.
///
/// # Errors
/// When the data is missing or wrong, or the models fail.
pub async fn prepare(context: &Context<'_>, part: &Part) -> Result<Drafts, EvalError> {
    let path = context.suite.path(&part.data.path);
    let (rows, items, mut notes): (Vec<Row>, Vec<MemoryItem>, Vec<String>) = match part.data.format {
        Format::Store => {
            let split = store::split(context).await?;
            (split.later.iter().map(gold::from_item).collect(), split.past, split.notes)
        }
        Format::Tickets => {
            let tickets = imported(&path, MemoryKind::Ticket)?;
            (tickets.iter().map(gold::from_item).collect(), read_memory(context, &part.memory)?, Vec::new())
        }
        _ => (rows(&path)?, read_memory(context, &part.memory)?, Vec::new()),
    };
    let wanted = |row: &Row| part.data.folds.is_empty() || row.fold.is_some_and(|fold| part.data.folds.contains(&fold));
    let before = rows.len();
    let rows: Vec<Row> = rows.into_iter().filter(wanted).collect();
    if rows.len() < before {
        notes.push(format!("folds {:?}: {} of {before} rows", part.data.folds, rows.len()));
    }
    let (rows, mut data) = drawn(context.suite, part, rows);
    if items.is_empty() && rows.iter().any(|row| row.evidence.is_empty()) {
        let reason = format!("part `{}` needs a `memory`: its requests bring no evidence of their own", part.name);
        return Err(EvalError::Suite { suite: context.suite.name.clone(), reason });
    }
    let cases: Vec<(String, String)> = rows.iter().map(|row| (row.id.clone(), row.text())).collect();
    let desk = Desk::open(context, part, items, &cases).await?;
    data.cases = digest(&cases.iter().flat_map(|(id, text)| [id.as_str(), text]).collect::<Vec<_>>());
    data.notes = notes;
    if part.data.format == Format::Store {
        data.path = "the team's store".to_owned();
    }
    let given = given(context, &rows).await?;
    let references = references(context, &rows).await?;
    Ok(Drafts {
        desk,
        rows,
        given,
        references,
        inference: context.inference.clone(),
        data,
        budget: part.budget,
        replies: format!("{:?} {}", part.replies, part.deadline_seconds),
    })
}

/// Given evidence with the cosine of the request to each piece, as the search would have said.
async fn given(context: &Context<'_>, rows: &[Row]) -> Result<Vec<Option<(Vec<f32>, Vec<Retrieved>)>>, EvalError> {
    let mut all = Vec::with_capacity(rows.len());
    for row in rows {
        if row.evidence.is_empty() {
            all.push(None);
            continue;
        }
        let vector = context.vectors.one(&row.text(), Role::Query).await?;
        let compared: Vec<String> = row.evidence.iter().map(gold::Given::compared).collect();
        let passages = context.vectors.of(&compared, Role::Passage, |_| {}).await?;
        let similarity = |passage: &Vec<f32>| vector.iter().zip(passage).map(|(a, b)| a * b).sum();
        let mut found: Vec<Retrieved> =
            row.evidence.iter().zip(&passages).map(|(given, passage)| given.retrieved(similarity(passage))).collect();
        found.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
        all.push(Some((vector, found)));
    }
    Ok(all)
}

async fn references(context: &Context<'_>, rows: &[Row]) -> Result<Vec<Option<Vec<f32>>>, EvalError> {
    let mut all = Vec::with_capacity(rows.len());
    for row in rows {
        all.push(match row.reply.is_empty() {
            true => None,
            false => Some(context.vectors.one(&row.reply, Role::Passage).await?),
        });
    }
    Ok(all)
}

impl Runner for Drafts {
    fn data(&self) -> DataNote {
        self.data.clone()
    }

    fn memory(&self) -> Option<MemoryNote> {
        let mut note = self.desk.note.clone();
        if self.given.iter().all(Option::is_some) {
            note.separation = "evidence comes with each case; nothing is searched".to_owned();
        }
        Some(note)
    }

    fn cases(&self) -> Vec<Key> {
        let key = |row: &Row| Key { id: row.id.clone(), digest: digest(&[format!("{row:?}")]) };
        self.rows.iter().map(key).collect()
    }

    fn scope(&self) -> String {
        self.replies.clone()
    }

    async fn run(&mut self, at: usize) -> Result<CaseRecord, EvalError> {
        let row = self.rows.get(at).context("no such case")?;
        let refused = |error| EvalError::data(&self.data.path, format!("row `{}`: {error}", row.id));
        let request = gold::request(row).map_err(refused)?;
        let answer = self.answer(&request, at).await;
        let vector = match answer.draft.as_ref().filter(|draft| is_answer(draft)) {
            Some(draft) if self.references.get(at).is_some_and(Option::is_some) => {
                let made = self.inference.embed_bulk(vec![draft.text.clone()], Role::Passage).await;
                made.context("embedding of a reply")?.pop()
            }
            _ => None,
        };
        let reference = self.references.get(at).and_then(Option::as_ref);
        let similarity = vector.zip(reference).map(|(one, other)| cosine(&one, other));
        Ok(record(row, &request, &answer, similarity))
    }

    fn charts(&self, table: &Table) -> Vec<Chart> {
        charts(table)
    }

    fn beside(&self, table: &Table) -> Vec<Beside> {
        self.ceilings().into_iter().chain(threshold(table, self.budget)).collect()
    }
}

impl Drafts {
    async fn answer(&self, request: &Request, at: usize) -> Answer {
        let (watch, _nobody) = unbounded_channel();
        let pipeline = &self.desk.pipeline;
        let Some(Some((vector, found))) = self.given.get(at) else {
            return pipeline.answer(request, &watch).await;
        };
        let clock = Clock::start(pipeline.settings.draft.deadline());
        let reading = pipeline.inference.read_request(request.text()).await.unwrap_or_default();
        let meaning = Meaning { vector: Some(vector), reading: reading.as_deref(), opinion: None };
        let triage = pipeline.triage.judge(request, meaning, found, None);
        let timings = Timings { triage_ms: clock.elapsed_ms(), ..Timings::default() };
        let fit = pipeline.fit(request, found);
        let (evidence, degraded) = (found.clone(), Vec::new());
        let vector = Some(vector.clone());
        let mut judged = Judged { vector, reading, triage, evidence, fit, weights: None, degraded, timings, clock };
        pipeline.consider(request, &mut judged, &watch).await;
        pipeline.reply(request, judged, &watch).await
    }

    /// What the reference replies reach on the checks that look at words: no reply should be held to more.
    fn ceilings(&self) -> Vec<Beside> {
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let facts: Vec<f64> =
            self.rows.iter().filter_map(|row| checks::must_include(&row.must_include, &row.reply)).collect();
        let promising = self.rows.iter().filter(|row| !row.reply.is_empty());
        let promises: Vec<f64> = promising.map(|row| f64::from(u8::from(checks::promises(&row.reply)))).collect();
        let mut beside = Vec::new();
        if !facts.is_empty() && self.rows.iter().any(|row| !row.reply.is_empty()) {
            let about = "the reference replies on the same check";
            beside.push(Beside { name: "must-include".into(), value: mean(facts), about: about.into() });
            beside.push(Beside { name: "promises".into(), value: mean(promises), about: about.into() });
        }
        beside
    }
}

fn cosine(one: &[f32], other: &[f32]) -> f64 {
    one.iter().zip(other).map(|(a, b)| f64::from(a * b)).sum()
}

fn is_answer(draft: &Draft) -> bool {
    matches!(draft.kind, DraftKind::Generated | DraftKind::Extractive)
}

/// Everything that is said of one reply.
fn record(row: &Row, request: &Request, answer: &Answer, similarity: Option<f64>) -> CaseRecord {
    let treatment = Treatment::of(answer.decision.action, answer.draft.as_ref());
    let mut judged = Judging { values: BTreeMap::new(), failures: Vec::new(), badness: 0.0 };
    judged.treatment(row, treatment);
    judged.flag("generated", answer.draft.as_ref().is_some_and(|draft| draft.kind == DraftKind::Generated));
    if let Some(draft) = &answer.draft {
        judged.text(row, request, draft);
        if treatment == Treatment::Answered {
            judged.answer(row, request, draft, answer, similarity);
        }
    }
    judged.speed(answer);
    let mut draft = answer.draft.as_ref().map(shown::draft);
    if let (Some(shown), Some(draft)) = (&mut draft, &answer.draft) {
        shown.invented = invented(draft, &request.text());
    }
    CaseRecord {
        id: row.id.clone(),
        language: row.lang.clone(),
        queue: row.queue.clone(),
        slices: row.expect.map(|expect| format!("expect={}", expect.name())).into_iter().collect(),
        message: row.text(),
        values: judged.values,
        failures: judged.failures,
        badness: judged.badness,
        evidence: shown::evidence(&answer.evidence),
        draft,
        reference: Some(reference(row)).filter(|text| !text.is_empty()),
        notes: shown::notes(answer),
        ..CaseRecord::default()
    }
}

fn reference(row: &Row) -> String {
    let mut lines: Vec<String> = row.expect.map(|expect| format!("Expected: {}", expect.name())).into_iter().collect();
    lines.extend(Some(row.reply.clone()).filter(|reply| !reply.is_empty()));
    lines.extend(row.must_include.iter().map(|fact| format!("Must include: {fact}")));
    lines.join("\n")
}

struct Judging {
    values: BTreeMap<String, f64>,
    failures: Vec<String>,
    badness: f64,
}

impl Judging {
    fn set(&mut self, name: &str, value: f64) {
        self.values.insert(name.to_owned(), value);
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.set(name, f64::from(u8::from(value)));
    }

    fn fail(&mut self, failure: impl Into<String>, badness: f64) {
        self.failures.push(failure.into());
        self.badness += badness;
    }

    /// Was the right thing done, whatever the words?
    fn treatment(&mut self, row: &Row, treatment: Treatment) {
        self.flag("answered", treatment == Treatment::Answered);
        let Some(expect) = row.expect else { return };
        self.flag("handled", treatment.is_right(expect));
        if let Some(failure) = treatment.failure(expect) {
            // A wrong answer costs a customer more than a late one, and silence costs most.
            let badness = match treatment {
                Treatment::SetAside => 5.0,
                Treatment::Answered => 3.0,
                Treatment::Asked | Treatment::HandedOver => 1.0,
            };
            self.fail(failure, badness);
        }
    }

    /// What holds for every text that a customer may read.
    fn text(&mut self, row: &Row, request: &Request, draft: &Draft) {
        let wanted = Language::new(&row.lang);
        if let Some(fits) = is_language(&draft.text, &wanted).filter(|_| wanted.is_supported()) {
            self.flag("language", fits);
            if !fits {
                self.fail("reply in another language than the customer's", 3.0);
            }
        }
        if checks::wants_question(row) {
            let asks = draft.text.contains('?');
            self.flag("asked", asks);
            if !asks {
                self.fail("does not ask for what is missing", 1.0);
            }
        }
        let promises = is_answer(draft) && checks::promises(&draft.text);
        self.flag("promises", promises);
        if promises {
            self.fail("promises what nobody has decided", 3.0);
        }
        let forbidden = checks::must_not_include(&row.must_not_include, &draft.text);
        if !row.must_not_include.is_empty() {
            self.flag("must-not-include", !forbidden.is_empty());
        }
        if !forbidden.is_empty() {
            self.fail("says what it must not say", 4.0);
        }
        self.set("jargon", jargon(&draft.text, &request.text(), &draft.language).per_hundred);
        if let Some(ease) = reading_ease(&draft.text, &draft.language) {
            self.set("reading-ease", ease);
        }
        self.set("words", text::count_words(&draft.text) as f64);
        self.set("tokens", text::estimate_tokens(&draft.text) as f64);
    }

    /// What holds for an answer.
    fn answer(&mut self, row: &Row, request: &Request, draft: &Draft, answer: &Answer, similarity: Option<f64>) {
        let made_up = !invented(draft, &request.text()).is_empty();
        self.flag("invented", made_up);
        if made_up {
            self.fail("a number, path, link or name found nowhere", 3.0);
        }
        let deeds = checks::claims_deeds(&draft.text);
        self.flag("claims-deeds", deeds);
        if deeds {
            self.fail("says that something was done, which nobody did", 3.0);
        }
        let sentences: Vec<&str> = draft.sentences.iter().map(|sentence| sentence.text.as_str()).collect();
        let supported = checks::supported(&sentences, &draft.evidence, &request.text());
        if let Some(share) = supported {
            self.set("supported", share);
            if share < 1.0 {
                self.fail("a sentence that the evidence does not support", 2.0 * (1.0 - share));
            }
        }
        let facts = checks::must_include(&row.must_include, &draft.text);
        if let Some(share) = facts {
            self.set("must-include", share);
            if share < FACTS_NEEDED {
                self.fail("leaves out what a good reply says", 2.0 * (1.0 - share));
            }
        }
        if !row.reply.is_empty() {
            self.set("chrf", chrf(&draft.text, &row.reply));
        }
        if let Some(similarity) = similarity {
            self.set("similarity", similarity);
        }
        self.flag("would-send", answer.decision.automatic);
        self.set("confidence", confidence(draft, answer));
        if let Some(expect) = row.expect {
            let wanted = matches!(expect, Expect::Answer | Expect::Partly);
            let language = self.values.get("language").is_none_or(|fits| *fits > 0.0);
            let right = wanted && !made_up && language && facts.is_none_or(|share| share >= FACTS_NEEDED);
            self.flag("right", right);
            if answer.decision.automatic && !right {
                self.fail("would go out without a person and is wrong", 5.0);
            }
        }
    }

    fn speed(&mut self, answer: &Answer) {
        let timings = &answer.timings;
        self.set("evidence-ms", f64::from(timings.embed_ms + timings.retrieve_ms + timings.triage_ms));
        self.set("total-ms", f64::from(timings.total_ms));
        if let Some(ms) = timings.first_token_ms {
            self.set("first-token-ms", f64::from(ms));
        }
        if let Some(mib) = crate::bench::requests::peak_memory_mib() {
            self.set("memory-mib", mib);
        }
    }
}

/// How sure the service is of an answer: the product of what the policy looks at (probability that it can be answered,
/// probability that the evidence fits, support of the sentences), 0 to 1. Where the fit was not judged, the similarity of the
/// closest evidence stands in.
fn confidence(draft: &Draft, answer: &Answer) -> f64 {
    let next = &answer.triage.next;
    let answerable = crate::ticket::Class::index(NextStep::Answer);
    let probability = next.distribution.get(answerable).copied().unwrap_or_default();
    let closest = draft.evidence.iter().map(|evidence| evidence.similarity).fold(0.0, f32::max);
    let resting: Vec<f32> =
        draft.sentences.iter().filter(|s| !s.evidence.is_empty()).map(|sentence| sentence.support).collect();
    let support = resting.iter().sum::<f32>() / resting.len().max(1) as f32;
    f64::from(probability * answer.decision.fit.unwrap_or(closest.max(0.0)) * support)
}

/// How sure the service was of each answer, and whether it was right.
fn sure_and_right(table: &Table) -> (Vec<f64>, Vec<bool>) {
    let (confidences, right) = (table.column("confidence"), table.column("right"));
    let pairs = confidences.unwrap_or_default().iter().zip(right.unwrap_or_default());
    pairs.filter_map(|(confidence, right)| Some(((*confidence)?, (*right)? > 0.5))).unzip()
}

/// The confidence from which on answers could go out within the budget, where the cases allow for one.
fn threshold(table: &Table, budget: f64) -> Option<Beside> {
    let (confidences, right) = sure_and_right(table);
    let safe = selective::safe_threshold(&confidences, &right, budget)?;
    let about = format!(
        "confidence from which on answers could go out: {} of {} sent, {} of them wrong, surely at most {:.0} %",
        safe.sent,
        right.len(),
        safe.wrong,
        budget * 100.0
    );
    Some(Beside { name: "safe-threshold".into(), value: safe.threshold, about })
}

fn charts(table: &Table) -> Vec<Chart> {
    let (confidences, right) = sure_and_right(table);
    if right.is_empty() {
        return Vec::new();
    }
    let curve = selective::curve(&confidences, &right);
    let step = curve.len().div_ceil(CURVE_POINTS).max(1);
    let last = curve.len().saturating_sub(1);
    let drawn = curve.iter().enumerate().filter(|(at, _)| at % step == 0 || *at == last);
    vec![Chart::Curve {
        title: "wrong among the answers that would go out, most confident first".into(),
        x: "share of the answers sent".into(),
        y: "share of them wrong".into(),
        points: drawn.map(|(_, point)| (point.coverage, point.risk)).collect(),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judging() -> Judging {
        Judging { values: BTreeMap::new(), failures: Vec::new(), badness: 0.0 }
    }

    fn row(expect: &str) -> Row {
        let text = format!(r#"{{"id": "r", "lang": "en", "body": "where is my invoice", "expect": "{expect}"}}"#);
        serde_json::from_str(&text).expect("a row")
    }

    #[test]
    fn silence_is_worse_than_a_wrong_answer_and_that_worse_than_a_hand_over() {
        let badness = |treatment, expect| {
            let mut judging = judging();
            judging.treatment(&row(expect), treatment);
            judging.badness
        };
        assert!(badness(Treatment::SetAside, "answer") > badness(Treatment::Answered, "unknown"));
        assert!(badness(Treatment::Answered, "unknown") > badness(Treatment::HandedOver, "answer"));
        assert_eq!(badness(Treatment::Answered, "answer"), 0.0);
    }

    #[test]
    fn a_threshold_is_named_where_enough_cases_are_right() {
        let mut table = Table::default();
        for at in 0..400 {
            let values = [("confidence", f64::from(at) / 400.0), ("right", f64::from(u8::from(at > 100)))];
            let values = values.map(|(name, value)| (name.to_owned(), value)).into();
            table.push(crate::eval::table::Row { id: at.to_string(), slices: Vec::new() }, &values);
        }
        let found = threshold(&table, 0.05).expect("300 of 400 are right");
        assert!(found.value > 0.2 && found.value < 0.5, "{found:?}");
        assert_eq!(threshold(&table, 0.0), None, "no error at all is a promise that nobody can make");
        assert_eq!(charts(&table).len(), 1);
    }

    #[test]
    fn a_curve_is_drawn_only_over_cases_with_both_values() {
        assert!(charts(&Table::default()).is_empty());
    }
}
