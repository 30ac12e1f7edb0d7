//! A desk to be judged: the service's stages over a memory of its own, made for one part of a run.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use anyhow::Context as _;

use super::EvalError;
use super::parts::{Context, digest};
use super::record::MemoryNote;
use super::suite::{CorpusAs, Memory, MemoryAs, Part, PartKind, Replies};
use crate::decide::{Mode, Policy};
use crate::embed::Role;
use crate::intake::import::{self, ImportOptions, Reason};
use crate::learn::citations;
use crate::pipeline::Pipeline;
use crate::retrieve::memory::MemoryStore;
use crate::retrieve::passages::plan_points;
use crate::retrieve::{MemoryPoint, VectorStore};
use crate::settings::GenerationKind;
use crate::store::{Store, content_hash};
use crate::ticket::{MemoryItem, MemoryKind};

/// Items put into the store in one transaction.
const BATCH: usize = 400;

/// The stages and what they remember.
pub struct Desk {
    pub pipeline: Pipeline,
    pub note: MemoryNote,
    /// Everything the desk remembers.
    pub items: Arc<Vec<MemoryItem>>,
    _folder: tempfile::TempDir,
}

/// Reads the memory that a part names.
///
/// # Errors
/// When a file is missing or of no known format, or two items have one id.
pub fn read_memory(context: &Context<'_>, memory: &[Memory]) -> Result<Vec<MemoryItem>, EvalError> {
    let mut items: Vec<MemoryItem> = Vec::new();
    for source in memory {
        let path = context.suite.path(&source.path);
        match source.kind {
            MemoryAs::Tickets => items.extend(imported(&path, MemoryKind::Ticket)?),
            MemoryAs::Articles => items.extend(imported(&path, MemoryKind::Article)?),
            MemoryAs::Beir => items.extend(super::data::beir::corpus(&path, CorpusAs::Articles)?),
        }
    }
    check_distinct(context, &items)?;
    Ok(items)
}

/// No two items of a memory may have one id.
///
/// # Errors
/// When two have.
pub fn check_distinct(context: &Context<'_>, items: &[MemoryItem]) -> Result<(), EvalError> {
    let mut seen = HashSet::new();
    match items.iter().find(|item| !seen.insert(item.id.as_str())) {
        Some(twice) => Err(EvalError::Suite {
            suite: context.suite.name.clone(),
            reason: format!("the memory holds the id `{}` twice", twice.id),
        }),
        None => Ok(()),
    }
}

/// What `respondo ingest` takes from a file.
///
/// # Errors
/// When the file is missing, half written, or holds nothing that could be remembered.
pub fn imported(path: &std::path::Path, kind: MemoryKind) -> Result<Vec<MemoryItem>, EvalError> {
    let rows = import::open(path, kind, ImportOptions::default()).map_err(|error| EvalError::data(path, error))?;
    let mut items = Vec::new();
    for row in rows {
        match row {
            Ok(item) => items.push(item),
            Err(reject) if matches!(reject.reason, Reason::Unreadable(_) | Reason::NotJson(_)) => {
                return Err(EvalError::data(path, format!("{reject}; the file may be half written")));
            }
            // Not solved, too short, a question back: what `respondo ingest` does not remember either.
            Err(_) => {}
        }
    }
    if items.is_empty() {
        return Err(EvalError::data(path, "holds nothing that could be remembered"));
    }
    Ok(items)
}

impl Desk {
    /// Sets up the stages over `items`. `cases` are the ids and texts of what will be asked: no item may be one of them.
    ///
    /// # Errors
    /// When the models or the disk fail.
    pub async fn open(
        context: &Context<'_>,
        part: &Part,
        items: Vec<MemoryItem>,
        cases: &[(String, String)],
    ) -> Result<Self, EvalError> {
        let (items, separation) = separated(items, cases);
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let store = Store::open(folder.path()).await.context("temporary store")?;
        for batch in items.chunks(BATCH) {
            let hashes: Vec<String> =
                batch.iter().map(content_hash).collect::<Result<_, _>>().context("memory item")?;
            store.put_items(batch, &hashes).await.context("temporary store")?;
        }
        let vectors: Arc<dyn VectorStore> = Arc::new(indexed(context, part, &items).await?);
        let mut settings = context.settings.clone();
        settings.data.folder = folder.path().to_owned();
        settings.draft.deadline_seconds = part.deadline_seconds;
        if matches!(part.kind, PartKind::Drafts | PartKind::Safety) {
            // What would go out without a person if the team allowed it everywhere.
            settings.policy = all_send(settings.policy);
        }
        if part.replies != Replies::Generated {
            settings.generation.kind = GenerationKind::None;
        }
        let pipeline = crate::app::pipeline(&Arc::new(settings), &store, &context.inference, &vectors).await?;
        citations::follow(pipeline.retriever.citations(), &store).await.context("links of the memory")?;
        let contents: Vec<String> = items.iter().map(content_hash).collect::<Result<_, _>>().context("memory item")?;
        let note = MemoryNote { items: items.len(), digest: digest(&contents), separation };
        Ok(Self { pipeline, note, items: Arc::new(items), _folder: folder })
    }
}

fn all_send(mut policy: Policy) -> Policy {
    for queue in policy.queues.values_mut().chain([&mut policy.default]) {
        queue.mode = Mode::Send;
    }
    policy
}

/// Items without those that are a case themselves, by id or by text; and what was found, in words.
fn separated(items: Vec<MemoryItem>, cases: &[(String, String)]) -> (Vec<MemoryItem>, String) {
    let ids: HashSet<&str> = cases.iter().map(|(id, _)| id.as_str()).collect();
    let texts: HashSet<String> = cases.iter().map(|(_, text)| plain(text)).filter(|text| !text.is_empty()).collect();
    let (mut same_id, mut same_text) = (0, 0);
    let before = items.len();
    let kept: Vec<MemoryItem> = items
        .into_iter()
        .filter(|item| {
            let by_id = ids.contains(item.id.as_str());
            let whole = plain(&format!("{} {}", item.title, item.problem));
            let by_text = texts.contains(&whole) || texts.contains(&plain(&item.problem));
            same_id += usize::from(by_id);
            same_text += usize::from(by_text && !by_id);
            !by_id && !by_text
        })
        .collect();
    let separation = format!(
        "{} cases against {before} items: {same_id} left out as the case itself (same id), {same_text} for the same text",
        cases.len()
    );
    (kept, separation)
}

/// Lower case, words only.
fn plain(text: &str) -> String {
    crate::draft::text::words(text).join(" ")
}

async fn indexed(context: &Context<'_>, part: &Part, items: &[MemoryItem]) -> Result<MemoryStore, EvalError> {
    let plans: Vec<_> = items.iter().map(|item| (item, plan_points(item))).collect();
    let mut texts: BTreeMap<String, usize> = BTreeMap::new();
    for point in plans.iter().flat_map(|(_, plan)| plan) {
        for text in [&point.problem_text, &point.solution_text] {
            let next = texts.len();
            texts.entry(text.clone()).or_insert(next);
        }
    }
    let list: Vec<String> = texts.keys().cloned().collect();
    let label = format!("{}: memory", part.name);
    let vectors = context.vectors.of(&list, Role::Passage, |done| (context.progress)(&label, done, list.len())).await?;
    let vector =
        |text: &String| list.binary_search(text).ok().and_then(|at| vectors.get(at)).cloned().unwrap_or_default();
    let points: Vec<MemoryPoint> = plans
        .into_iter()
        .flat_map(|(item, plan)| {
            let vector = &vector;
            plan.into_iter().map(move |point| {
                let (problem, solution) = (vector(&point.problem_text), vector(&point.solution_text));
                point.into_point(item, problem, solution)
            })
        })
        .collect();
    let store = MemoryStore::new(context.inference.dimensions());
    store.upsert(&points).context("search index in memory")?;
    Ok(store)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::QueuePolicy;
    use crate::retrieve::question_sets::item;

    #[test]
    fn every_queue_may_send_in_the_worst_case() {
        let mut policy = Policy::default();
        policy.queues.insert("billing".to_owned(), QueuePolicy { mode: Mode::Off, ..QueuePolicy::default() });
        let worst = all_send(policy);
        assert!([worst.of(None), worst.of(Some("billing"))].iter().all(|queue| queue.mode == Mode::Send));
    }

    #[test]
    fn a_case_is_not_in_the_memory_that_it_is_judged_against() {
        let ticket = |id: &str, title: &str, problem: &str| {
            item(MemoryKind::Ticket, id, "en", [title.to_owned(), problem.to_owned(), "Restart it.".to_owned()])
        };
        let items = vec![
            ticket("same-id", "other words", "altogether"),
            ticket("copy", "The stream", "drops, every minute!"),
            ticket("kept", "The invoice", "is missing"),
        ];
        let cases = [
            ("same-id".to_owned(), "not the same".to_owned()),
            ("asked".to_owned(), "the STREAM\ndrops every minute".to_owned()),
        ];
        let (kept, said) = separated(items, &cases);
        assert_eq!(kept.iter().map(|item| item.id.as_str()).collect::<Vec<_>>(), ["kept"]);
        assert!(said.contains("1 left out as the case itself") && said.contains("1 for the same text"), "{said}");
    }
}
