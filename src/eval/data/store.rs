//! The team's own store as a data set, and the split by time: learn from the past, judge on what came after.
//!
//! The store is opened for reading, also beside the running service, and nothing is written to it.

use std::collections::HashSet;
use std::path::Path;

use anyhow::Context as _;
use jiff::Timestamp;

use crate::app::open_store_shared;
use crate::eval::EvalError;
use crate::eval::parts::Context;
use crate::store::{DATABASE_FILE, Store, StoreError};
use crate::ticket::{MemoryItem, MemoryKind};

/// Dated tickets needed for a split by time; fewer leave a dozen cases, of which no figure says anything.
pub const FEWEST: usize = 40;
/// Share of the tickets that lies before the cut.
const PAST_SHARE: f64 = 0.7;
/// Items read at once.
const PAGE: u32 = 500;

/// Memory and cases, apart in time.
#[derive(Clone, Debug)]
pub struct Split {
    /// What was known at the cut: tickets solved before it, and all help articles.
    pub past: Vec<MemoryItem>,
    /// Tickets that came in at the cut or later, oldest first.
    pub later: Vec<MemoryItem>,
    pub cut: Timestamp,
    /// What was left out, and what the split does not show.
    pub notes: Vec<String>,
}

/// The team's store, for reading.
///
/// # Errors
/// [`EvalError::Data`] when there is none; another when it cannot be read.
pub async fn open(context: &Context<'_>) -> Result<Store, EvalError> {
    let folder = &context.settings.data.folder;
    match open_store_shared(context.settings).await {
        Ok(store) => Ok(store),
        Err(StoreError::NotFound(_)) => Err(EvalError::data(
            folder.join(DATABASE_FILE),
            "is not there; run `respondo ingest` or `respondo serve` first, or choose the folder with --data",
        )),
        Err(error) => Err(anyhow::Error::new(error).context("the team's store").into()),
    }
}

/// The resolved tickets and articles of the team's store, split by time.
///
/// # Errors
/// When there is no store, or it has fewer than [`FEWEST`] dated tickets.
pub async fn split(context: &Context<'_>) -> Result<Split, EvalError> {
    let store = open(context).await?;
    let (mut items, mut after) = (Vec::new(), 0);
    loop {
        let page = store.items_after(after, PAGE).await.context("the team's store")?;
        let Some((last, _)) = page.last() else { break };
        after = *last;
        items.extend(page.into_iter().map(|(_, item)| item));
    }
    store.close().await;
    by_time(items, &context.settings.data.folder.join(DATABASE_FILE))
}

/// Splits items by when they came in: 70 % of the dated tickets lie before the cut. Of these the memory gets those that
/// were solved before the cut too, since nobody could know the others' answers then. `path` is where they come from.
///
/// # Errors
/// [`EvalError::Data`] when fewer than [`FEWEST`] tickets have a date, all have the same one, or an id occurs twice.
pub fn by_time(items: Vec<MemoryItem>, path: &Path) -> Result<Split, EvalError> {
    let mut seen = HashSet::new();
    if let Some(twice) = items.iter().find(|item| !seen.insert(item.id.as_str())) {
        return Err(EvalError::data(path, format!("the id `{}` occurs twice", twice.id)));
    }
    let (tickets, articles): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| item.kind == MemoryKind::Ticket);
    let all = tickets.len();
    let mut dated: Vec<(Timestamp, MemoryItem)> =
        tickets.into_iter().filter_map(|item| Some((item.created_at?, item))).collect();
    if dated.len() < FEWEST {
        let found = dated.len();
        return Err(EvalError::data(
            path,
            format!(
                "has {found} resolved tickets with a date; a split by time needs {FEWEST}: import more with \
                 `respondo ingest`, or let the desk collect approved answers"
            ),
        ));
    }
    dated.sort_by(|one, other| one.0.cmp(&other.0).then_with(|| one.1.id.cmp(&other.1.id)));
    let undated = all - dated.len();
    let Some(cut) = dated.get((dated.len() as f64 * PAST_SHARE) as usize).map(|(time, _)| *time) else {
        return Err(EvalError::data(path, "has no ticket at the cut"));
    };
    let (before, later): (Vec<_>, Vec<_>) = dated.into_iter().partition(|(time, _)| *time < cut);
    if before.is_empty() {
        return Err(EvalError::data(
            path,
            format!("most tickets have the same date, {cut}; they cannot be split by time"),
        ));
    }
    let open = before.len();
    let mut past: Vec<MemoryItem> =
        before.into_iter().filter(|(time, item)| was_solved(*time, item, cut)).map(|(_, item)| item).collect();
    let notes = notes(cut, (past.len(), open - past.len(), undated), articles.len());
    past.extend(articles);
    Ok(Split { past, later: later.into_iter().map(|(_, item)| item).collect(), cut, notes })
}

/// A ticket whose time of solution is unknown counts as solved when it came in.
fn was_solved(created: Timestamp, item: &MemoryItem, cut: Timestamp) -> bool {
    let hours = item.resolved_hours.filter(|hours| hours.is_finite()).map_or(0.0, |hours| f64::from(hours.max(0.0)));
    created.as_millisecond() as f64 + hours * 3_600_000.0 < cut.as_millisecond() as f64
}

fn notes(cut: Timestamp, (known, open, undated): (usize, usize, usize), articles: usize) -> Vec<String> {
    let mut notes = vec![format!(
        "split by time at {cut}: {known} tickets solved before are the memory, cases came in later; {open} older ones \
         solved only after the cut are in neither"
    )];
    notes.push(
        "only solved tickets are judged: what was never solved, or is still open, is missing, so that long times are \
         rarer here than in life"
            .to_owned(),
    );
    if undated > 0 {
        notes.push(format!("{undated} tickets without a date are left out"));
    }
    if articles > 0 {
        notes.push(format!("all {articles} help articles are in the memory, whatever their date"));
    }
    notes
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::eval::parts::testing::Bench;
    use crate::store::content_hash;
    use crate::ticket::{AnswerKind, Language};
    use jiff::ToSpan;

    /// The ticket of day `day`, solved after `hours`.
    pub fn ticket(day: i64, hours: f32) -> MemoryItem {
        let start: Timestamp = "2025-01-01T00:00:00Z".parse().expect("a time");
        MemoryItem {
            id: format!("t-{day:03}"),
            kind: MemoryKind::Ticket,
            language: if day % 2 == 0 { Language::EN } else { Language::ES },
            product: None,
            queue: Some("mail".into()),
            title: format!("Problem {day}"),
            problem: format!("It went wrong on day {day}"),
            solution: format!("Turn it off and on again, as on day {day}."),
            answer_kind: Some(AnswerKind::Approved),
            url: None,
            resolved_hours: Some(hours),
            created_at: Some(start + (24 * day).hours()),
        }
    }

    pub fn article(id: &str) -> MemoryItem {
        MemoryItem {
            id: id.into(),
            kind: MemoryKind::Article,
            created_at: None,
            resolved_hours: None,
            ..ticket(0, 0.0)
        }
    }

    fn solved_at(item: &MemoryItem) -> f64 {
        item.created_at.map_or(0.0, |time| time.as_second() as f64)
            + f64::from(item.resolved_hours.unwrap_or(0.0)) * 3_600.0
    }

    #[test]
    fn nothing_in_the_memory_is_newer_than_a_case() {
        // Every fifth ticket takes 30 days.
        let mut items: Vec<MemoryItem> =
            (0..100).rev().map(|day| ticket(day, if day % 5 == 0 { 720.0 } else { 2.0 })).collect();
        items.push(article("how-to"));
        let split = by_time(items, Path::new("x")).expect("split");
        assert_eq!((split.later.len(), split.cut), (30, ticket(70, 0.0).created_at.expect("a date")));
        // Days 40 .. 69 that are multiples of 5 were solved after the cut.
        assert_eq!(split.past.len(), 70 - 6 + 1);
        let cut = split.cut.as_second() as f64;
        assert!(split.past.iter().all(|item| solved_at(item) < cut));
        assert!(split.later.iter().all(|item| item.created_at.is_some_and(|time| time >= split.cut)));
        assert!(split.notes[0].contains("6 older ones"), "{:?}", split.notes);
    }

    #[test]
    fn tickets_of_one_moment_are_on_one_side_or_refused() {
        let same = |day| MemoryItem { created_at: ticket(0, 0.0).created_at, ..ticket(day, 0.0) };
        let error = by_time((0..50).map(same).collect(), Path::new("x")).expect_err("no split");
        assert!(error.to_string().contains("same date"), "{error}");
        // Day 30 has twenty tickets: the cut falls among them, and all come after it.
        let many = |n: i64| MemoryItem { id: format!("n-{n}"), ..ticket(30, 0.0) };
        let split = by_time((0..30).map(|day| ticket(day, 0.0)).chain((0..20).map(many)).collect(), Path::new("x"));
        assert_eq!(split.map(|split| (split.past.len(), split.later.len())).expect("split"), (30, 20));
    }

    #[test]
    fn too_few_dated_tickets_and_double_ids_are_named() {
        let undated = MemoryItem { created_at: None, ..ticket(99, 0.0) };
        let items: Vec<MemoryItem> = (0..39).map(|day| ticket(day, 0.0)).chain([undated.clone()]).collect();
        let error = by_time(items.clone(), Path::new("x.jsonl")).expect_err("too few");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("has 39") && error.to_string().contains("needs 40"), "{error}");
        let enough: Vec<MemoryItem> = items.into_iter().chain([ticket(39, 0.0)]).collect();
        let split = by_time(enough.clone(), Path::new("x")).expect("split");
        assert!(split.notes.iter().any(|note| note.starts_with("1 tickets without a date")), "{:?}", split.notes);
        let error = by_time([enough, vec![undated]].concat(), Path::new("x")).expect_err("twice");
        assert!(error.to_string().contains("`t-099` occurs twice"), "{error}");
    }

    #[tokio::test]
    async fn the_own_store_is_split_beside_the_running_service() {
        let bench = Bench::new("kind = \"time\"\ndata = { format = \"store\" }");
        let missing = split(&bench.context()).await.expect_err("no store");
        assert_eq!(missing.exit_code(), 2);
        // The service: it holds the lock for as long as `store` lives.
        let store = Store::open(&bench.settings.data.folder).await.expect("store");
        let few = split(&bench.context()).await.expect_err("empty");
        assert!(few.to_string().contains("has 0") && few.exit_code() == 2, "{few}");
        let items: Vec<MemoryItem> = (0..60).map(|day| ticket(day, 1.0)).chain([article("how-to")]).collect();
        let hashes: Vec<String> = items.iter().map(|item| content_hash(item).expect("hash")).collect();
        store.put_items(&items, &hashes).await.expect("stored");
        let split = split(&bench.context()).await.expect("split");
        assert_eq!((split.past.len(), split.later.len()), (43, 18));
        assert!(split.past.iter().any(|item| item.id == "how-to"));
        store.ping().await.expect("still served");
    }
}
