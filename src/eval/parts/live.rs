//! What people did with the drafts, and what it did for customers, from the team's own store.
//!
//! Two kinds of cases: every draft that a person resolved, and every ticket that got a useful reply. Subjects, drafts and
//! replies are scrubbed of personal data before they go into a record.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use similar::TextDiff;
use uuid::Uuid;

use super::{Context, Key, Runner, digest};
use crate::eval::EvalError;
use crate::eval::data::{Identified, drawn, store};
use crate::eval::record::{CaseRecord, Chart, DataNote, MemoryNote, ShownDraft};
use crate::eval::suite::Part;
use crate::eval::table::Table;
use crate::intake::scrub::scrub;
use crate::store::{DATABASE_FILE, ResolvedDraft, Store, TicketCourse};
use crate::ticket::{DraftKind, Outcome};

/// Rows read at once; texts of one page are in memory at a time.
const PAGE: u32 = 200;
/// Longest comparison of a draft with what was sent; what is not compared by then counts as changed.
const COMPARED_WITHIN: Duration = Duration::from_millis(200);
/// An edit that changed more than this share left little of the draft.
const REWRITTEN: f64 = 0.5;
/// Start of the slices by ISO week.
const WEEK: &str = "week=";

pub struct Live {
    store: Store,
    cases: Vec<Case>,
    data: DataNote,
}

/// A case without its texts.
enum Case {
    Draft { id: Uuid, key: String, language: String, outcome: Outcome, at: Timestamp },
    Ticket { key: String, course: TicketCourse, useful_at: Timestamp },
}

impl Identified for Case {
    fn id(&self) -> &str {
        match self {
            Self::Draft { key, .. } | Self::Ticket { key, .. } => key,
        }
    }

    fn language(&self) -> &str {
        match self {
            Self::Draft { language, .. } => language,
            Self::Ticket { course, .. } => course.language.code(),
        }
    }
}

/// Reads what became of drafts and tickets.
///
/// # Errors
/// [`EvalError::Data`] when there is no store, or nothing in it has been resolved yet.
pub async fn prepare(context: &Context<'_>, part: &Part) -> Result<Live, EvalError> {
    let store = store::open(context).await?;
    let mut cases = resolved(&store).await.context("the team's store")?;
    let drafts = cases.len();
    let (tickets, waiting) = replied(&store).await.context("the team's store")?;
    cases.extend(tickets);
    if cases.is_empty() {
        let path = context.settings.data.folder.join(DATABASE_FILE);
        let reason = format!(
            "no draft was resolved yet and no reply has gone out ({waiting} tickets wait); approve, edit or reject some \
             drafts first"
        );
        return Err(EvalError::data(path, reason));
    }
    let tickets = cases.len() - drafts;
    let (cases, mut data) = drawn(context.suite, part, cases);
    data.path = "the team's store".to_owned();
    data.cases = digest(&cases.iter().map(Identified::id).collect::<Vec<_>>());
    data.notes = vec![
        format!("{drafts} resolved drafts; {tickets} tickets with a useful reply"),
        format!(
            "{waiting} tickets without a useful reply so far are left out of the times, so that these look shorter"
        ),
        "any message of the customer's after an answer counts as reopening, thanks too".to_owned(),
    ];
    Ok(Live { store, cases, data })
}

async fn resolved(store: &Store) -> anyhow::Result<Vec<Case>> {
    let (mut cases, mut after) = (Vec::new(), None);
    loop {
        let page = store.resolved_drafts(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(cases) };
        after = Some(last.draft_id);
        cases.extend(page.into_iter().map(|draft| Case::Draft {
            id: draft.draft_id,
            key: format!("draft-{}", draft.draft_id),
            language: draft.language.code().to_owned(),
            outcome: draft.outcome,
            at: draft.resolved_at,
        }));
    }
}

/// Tickets with a useful reply, and the number of those without.
async fn replied(store: &Store) -> anyhow::Result<(Vec<Case>, usize)> {
    let (mut cases, mut waiting, mut after) = (Vec::new(), 0, None);
    loop {
        let page = store.ticket_courses(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok((cases, waiting)) };
        after = Some(last.id);
        for course in page {
            match course.useful_at {
                Some(useful_at) => {
                    cases.push(Case::Ticket { key: format!("ticket-{}", course.id), course, useful_at });
                }
                None => waiting += 1,
            }
        }
    }
}

impl Runner for Live {
    fn data(&self) -> DataNote {
        self.data.clone()
    }

    fn memory(&self) -> Option<MemoryNote> {
        None
    }

    fn cases(&self) -> Vec<Key> {
        let key = |case: &Case| {
            let what = match case {
                // A resolved draft never changes; the same draft of another store has another id.
                Case::Draft { outcome, at, .. } => format!("{outcome:?} {at}"),
                Case::Ticket { course, .. } => format!("{course:?}"),
            };
            Key { id: case.id().to_owned(), digest: digest(&[case.id(), &what]) }
        };
        self.cases.iter().map(key).collect()
    }

    fn scope(&self) -> String {
        String::new()
    }

    async fn run(&mut self, at: usize) -> Result<CaseRecord, EvalError> {
        match self.cases.get(at).context("no such case")? {
            Case::Draft { id, key, .. } => {
                let draft = self.store.resolved_draft(*id).await.context("the team's store")?;
                Ok(of_draft(key, &draft))
            }
            Case::Ticket { key, course, useful_at } => Ok(of_ticket(key, course, *useful_at)),
        }
    }

    fn charts(&self, table: &Table) -> Vec<Chart> {
        vec![approved_by_week(table)]
    }
}

fn of_draft(key: &str, draft: &ResolvedDraft) -> CaseRecord {
    let outcome = draft.outcome;
    let column = |name: &str, of: Outcome| (name.to_owned(), f64::from(u8::from(outcome == of)));
    let mut values = BTreeMap::from([
        column("approved-unchanged", Outcome::Approved),
        column("edited", Outcome::Edited),
        column("rejected", Outcome::Rejected),
        column("escalated", Outcome::Escalated),
    ]);
    let edit = draft.final_text.as_ref().filter(|_| outcome == Outcome::Edited);
    let share = edit.map(|text| changed(&draft.text, text));
    values.extend(share.map(|share| ("edit-share".to_owned(), share)));
    let (failure, badness) = match (outcome, share) {
        (Outcome::Rejected, _) => (Some("draft rejected"), 1.0),
        (Outcome::Edited, Some(share)) if share > REWRITTEN => (Some("more than half of the draft rewritten"), share),
        (Outcome::Edited, share) => (None, share.unwrap_or(0.0)),
        (Outcome::Escalated, _) => (None, 0.25),
        (Outcome::Approved, _) => (None, 0.0),
    };
    let note = draft.note.iter().map(|note| ("note of the person".to_owned(), scrub(note).text));
    let what = ("outcome".to_owned(), format!("{outcome:?}").to_lowercase());
    CaseRecord {
        id: key.to_owned(),
        language: draft.language.code().to_owned(),
        queue: draft.queue.clone(),
        slices: vec![week(draft.resolved_at)],
        message: scrub(&draft.subject).text,
        values,
        failures: failure.map(str::to_owned).into_iter().collect(),
        badness,
        draft: Some(ShownDraft {
            kind: kind_name(draft.kind).to_owned(),
            text: scrub(&draft.text).text,
            ..ShownDraft::default()
        }),
        reference: draft.final_text.as_ref().map(|text| scrub(text).text),
        notes: std::iter::once(what).chain(note).collect(),
        ..CaseRecord::default()
    }
}

fn of_ticket(key: &str, course: &TicketCourse, useful_at: Timestamp) -> CaseRecord {
    let hours = (useful_at.duration_since(course.asked_at).as_secs_f64() / 3_600.0).max(0.0);
    let mut values = BTreeMap::from([("useful-reply-hours".to_owned(), hours)]);
    if course.answered_at.is_some() {
        values.insert("reopened".to_owned(), f64::from(u8::from(course.reopened)));
    }
    let failure = course.reopened.then(|| "the customer wrote again after the answer".to_owned());
    CaseRecord {
        id: key.to_owned(),
        language: course.language.code().to_owned(),
        queue: course.queue.clone(),
        slices: vec![week(useful_at)],
        message: scrub(&course.subject).text,
        values,
        badness: if failure.is_some() { 0.5 } else { 0.0 },
        failures: failure.into_iter().collect(),
        notes: vec![("first useful reply".to_owned(), format!("after {hours:.1} hours"))],
        ..CaseRecord::default()
    }
}

fn kind_name(kind: DraftKind) -> &'static str {
    match kind {
        DraftKind::Generated => "generated",
        DraftKind::Extractive => "extractive",
        DraftKind::Question => "question",
        DraftKind::Acknowledgement => "acknowledgement",
    }
}

/// Share of the characters of draft and reply together that the other does not have: 0 for equal texts, 1 for nothing in
/// common.
fn changed(draft: &str, sent: &str) -> f64 {
    1.0 - f64::from(TextDiff::configure().timeout(COMPARED_WITHIN).diff_chars(draft, sent).ratio())
}

/// Slice of the ISO 8601 week in UTC, `week=2026-W47`.
fn week(at: Timestamp) -> String {
    let week = at.to_zoned(TimeZone::UTC).date().iso_week_date();
    format!("{WEEK}{}-W{:02}", week.year(), week.week())
}

/// Share approved unchanged per week, in order of time.
fn approved_by_week(table: &Table) -> Chart {
    let approved = table.column("approved-unchanged").unwrap_or(&[]);
    let mut weeks: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
    for (row, approved) in table.rows.iter().zip(approved) {
        let week = row.slices.iter().find_map(|slice| slice.strip_prefix(WEEK));
        if let Some((week, approved)) = week.zip(*approved) {
            let (sum, count) = weeks.entry(week).or_default();
            *sum += approved;
            *count += 1;
        }
    }
    let bar = |(week, (sum, count)): (&str, (f64, usize))| (format!("{week} ({count})"), sum / count as f64);
    Chart::Bars {
        title: "Drafts approved unchanged, by week".to_owned(),
        unit: "share".to_owned(),
        bars: weeks.into_iter().map(bar).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::parts::testing::Bench;
    use crate::store::{FinishedWork, NewTicket, ReviewAction};
    use crate::ticket::{Action, Author, Decision, Draft, Language, TicketState};

    const PART: &str = "kind = \"live\"\ndata = { format = \"store\" }";
    const TEXT: &str = "Please empty the cache of your browser and try again.";

    /// A ticket whose draft was resolved in this way.
    async fn resolve(store: &Store, outcome: Outcome, final_text: Option<&str>) -> Uuid {
        let new = NewTicket {
            customer: None,
            channel: "api".into(),
            subject: "Write to ana@example.org".into(),
            body: "My site does not load".into(),
            language: Language::EN,
            product: None,
            queue: Some("web".into()),
            idempotency: None,
        };
        let accepted = store.accept_ticket(new).await.expect("accepted");
        let draft = Draft {
            kind: DraftKind::Generated,
            language: Language::EN,
            text: TEXT.into(),
            sentences: Vec::new(),
            evidence: Vec::new(),
            findings: Vec::new(),
            model: None,
        };
        let ticket = accepted.ticket.id;
        let draft_id = store.save_draft(ticket, &draft).await.expect("a draft");
        let decision = Decision::new(Action::Suggest, Vec::new());
        let work = FinishedWork {
            seen_message: accepted.message.id,
            draft_id: Some(draft_id),
            decision,
            state: TicketState::Review,
            due_at: None,
            urgency: None,
            difficulty: None,
            outgoing: None,
        };
        store.finish(ticket, work).await.expect("finished");
        let final_text = final_text.map(str::to_owned);
        let note = Some("call +34 600 123 456".into());
        let action = ReviewAction {
            outcome,
            final_text,
            note,
            agent: None,
            skill: None,
            assignee: None,
            remember: None,
            hold: std::time::Duration::ZERO,
        };
        store.resolve_draft(draft_id, action).await.expect("resolved");
        ticket
    }

    #[tokio::test]
    async fn outcomes_become_shares_and_times() {
        let bench = Bench::new(PART);
        let store = Store::open(&bench.settings.data.folder).await.expect("store");
        let reopened = resolve(&store, Outcome::Approved, None).await;
        store.add_message(reopened, Author::Customer, "Still broken".into(), None).await.expect("added");
        let edited = TEXT.replace("browser", "program");
        resolve(&store, Outcome::Edited, Some(&edited)).await;
        resolve(&store, Outcome::Rejected, None).await;
        resolve(&store, Outcome::Escalated, None).await;

        // The service still runs: `store` holds the lock.
        let result = super::super::run(&bench.context(), bench.part()).await.expect("measured");
        assert_eq!((result.data.used, result.table.rows.len()), (6, 6), "four drafts, two tickets with a reply");
        let sum = |name: &str| {
            let values: Vec<f64> = result.table.column(name).unwrap_or(&[]).iter().copied().flatten().collect();
            (values.iter().sum::<f64>(), values.len())
        };
        for outcome in ["approved-unchanged", "edited", "rejected", "escalated"] {
            assert_eq!(sum(outcome), (1.0, 4), "{outcome}");
        }
        let (share, edits) = sum("edit-share");
        assert!(edits == 1 && share > 0.0 && share < 0.3, "{share}");
        assert_eq!(sum("reopened"), (1.0, 2));
        assert_eq!(sum("useful-reply-hours").1, 2);
        assert!(result.data.notes.iter().any(|note| note.starts_with("2 tickets without a useful reply")));
        assert!(result.failures.contains(&("draft rejected".to_owned(), 1)));
        let Chart::Bars { bars, .. } = &result.charts[0] else { panic!("bars") };
        assert!(bars[0].0.ends_with("(4)") && (bars[0].1 - 0.25).abs() < 1e-9, "{bars:?}");
        assert!(result.table.slices().iter().any(|slice| slice == "queue=web"));
        let written = std::fs::read_to_string(bench.folder.path().join("out/cases/p.jsonl")).expect("records");
        assert!(!written.contains("ana@example.org") && !written.contains("600 123 456"), "personal data: {written}");
    }

    #[tokio::test]
    async fn a_store_without_outcomes_is_no_data() {
        let bench = Bench::new(PART);
        let missing = prepare(&bench.context(), bench.part()).await.err().expect("no store");
        assert_eq!(missing.exit_code(), 2);
        let _store = Store::open(&bench.settings.data.folder).await.expect("store");
        let empty = prepare(&bench.context(), bench.part()).await.err().expect("empty");
        assert!(empty.exit_code() == 2 && empty.to_string().contains("no draft was resolved yet"), "{empty}");
    }

    #[tokio::test]
    async fn a_store_that_may_be_missing_is_skipped() {
        let bench = Bench::new(&format!("{PART}\nwhen_missing = \"skip\""));
        let result = super::super::run(&bench.context(), bench.part()).await.expect("skipped");
        assert!(result.skipped.is_some_and(|reason| reason.contains(DATABASE_FILE)));
    }

    #[test]
    fn weeks_are_those_of_iso_8601() {
        let of = |time: &str| week(time.parse().expect("a time"));
        assert_eq!(of("2026-11-22T23:59:59Z"), "week=2026-W47");
        assert_eq!(of("2027-01-01T00:00:00Z"), "week=2026-W53");
        assert_eq!(of("2024-12-30T00:00:00Z"), "week=2025-W01");
    }

    #[test]
    fn the_share_of_an_edit_is_between_nothing_and_all() {
        assert_eq!(changed("same", "same"), 0.0);
        assert_eq!(changed("aaaa", "bbbb"), 1.0);
        assert!((changed("abcd", "abcx") - 0.25).abs() < 1e-6);
        assert_eq!(changed("ñandú", ""), 1.0);
    }
}
