//! Keeps the vector index in step with the ticket store.
//!
//! The store says which memory items the index lacks; they are embedded (from the cache of vectors where the text was seen
//! before), put into the index, made durable there and only then marked. A crash in between repeats work, it loses none.
//!
//! Whoever indexes the same items at the same time (an approval beside the catching up, another process) writes the same
//! points: what an item no longer makes is taken out after its new points are in, so that no moment is without them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};

use super::citations;
use crate::embed::{Role, content_key};
use crate::inference::{Inference, InferenceError};
use crate::retrieve::passages::{PointPlan, plan_points};
use crate::retrieve::{Citations, MemoryPoint, Prepared, RetrieveError, VectorStore};
use crate::store::{MemoryStats, NewEmbedding, PendingItem, Store, StoreError};
use crate::ticket::MemoryItem;

/// Items embedded and indexed together: enough to fill the cores, few enough that a crash repeats only seconds.
const BATCH: u32 = 128;
/// From this many points in one go, the index is compacted afterwards.
const BULK: u64 = 20_000;
/// How often a service looks for what waits to be indexed, and whether the index is there.
const INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Index(#[from] RetrieveError),
    #[error(transparent)]
    Inference(#[from] InferenceError),
    #[error("background task ended early: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// What a catch-up did.
#[derive(Clone, Copy, Debug, Default)]
pub struct IndexReport {
    pub items: u64,
    pub points: u64,
    /// Texts computed by the model; the rest came from the cache of vectors.
    pub embedded: u64,
    /// Tokens read by the model.
    pub tokens: u64,
    pub seconds: f64,
}

/// The parts that indexing works on.
#[derive(Clone)]
pub struct Indexer {
    pub store: Store,
    pub inference: Inference,
    pub vectors: Arc<dyn VectorStore>,
    /// What the retriever knows of the links in replies.
    pub citations: Arc<Citations>,
    /// Held for a batch: an older text of an item must not come after a newer one.
    turn: Arc<Mutex<()>>,
}

impl Indexer {
    pub fn new(store: Store, inference: Inference, vectors: Arc<dyn VectorStore>, citations: Arc<Citations>) -> Self {
        Self { store, inference, vectors, citations, turn: Arc::default() }
    }

    /// Indexes everything the store has and the index lacks. `progress` hears the items done so far.
    ///
    /// # Errors
    /// When the store, the index or the embedding model fails; what was done until then stays done.
    pub async fn catch_up(&self, mut progress: impl FnMut(&IndexReport)) -> Result<IndexReport, LearnError> {
        let started = Instant::now();
        let tokens_before = self.inference.tokens_read();
        let mut report = IndexReport::default();
        // What another process has stored and indexed, too.
        citations::follow(&self.citations, &self.store).await?;
        loop {
            let turn = self.turn.lock().await;
            let pending = self.store.unindexed(BATCH).await?;
            if pending.is_empty() {
                break;
            }
            self.index_batch(pending, &mut report).await?;
            drop(turn);
            report.tokens = self.inference.tokens_read() - tokens_before;
            report.seconds = started.elapsed().as_secs_f64();
            progress(&report);
        }
        if report.points >= BULK {
            let vectors = Arc::clone(&self.vectors);
            tokio::task::spawn_blocking(move || vectors.compact()).await??;
        }
        report.seconds = started.elapsed().as_secs_f64();
        Ok(report)
    }

    /// Keeps the index in step until the service closes: mends the way to a server, and indexes what waits.
    pub async fn keep_in_step(self, mut closing: watch::Receiver<bool>) {
        let mut compared = false;
        let mut complaint = String::new();
        loop {
            match self.step(&mut compared).await {
                Ok(report) => {
                    complaint.clear();
                    if report.items > 0 {
                        tracing::info!(items = report.items, "search index caught up");
                    }
                }
                Err(error) => {
                    // Said once, not every few seconds.
                    let said = error.to_string();
                    if complaint.is_empty() {
                        tracing::error!(error = said, "search index is not up to date; it is tried again");
                    }
                    complaint = said;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                _ = closing.wait_for(|closing| *closing) => return,
            }
        }
    }

    async fn step(&self, compared: &mut bool) -> Result<IndexReport, LearnError> {
        if *compared {
            let vectors = Arc::clone(&self.vectors);
            let prepared = tokio::task::spawn_blocking(move || vectors.prepare()).await?;
            *compared = matches!(prepared, Ok(Prepared::Before));
        }
        if !*compared {
            compare(&self.vectors, &self.store, self.inference.embedder_name(), false).await?;
            *compared = true;
        }
        self.catch_up(|_| {}).await
    }

    async fn index_batch(&self, pending: Vec<PendingItem>, report: &mut IndexReport) -> Result<(), LearnError> {
        for PendingItem { item, .. } in &pending {
            self.citations.learn(&item.id, item.kind, item.url.as_deref(), &item.solution);
        }
        let marks: Vec<(String, String)> =
            pending.iter().map(|p| (p.item.id.clone(), p.content_hash.clone())).collect();
        let plans: Vec<(MemoryItem, Vec<PointPlan>)> =
            pending.into_iter().map(|p| (plan_points(&p.item), p.item)).map(|(plan, item)| (item, plan)).collect();
        let vectors = self.vectors_for(&plans, report).await?;
        let vector = |text: &str| vectors.get(text).cloned().unwrap_or_default();
        let ids: Vec<String> = plans.iter().map(|(item, _)| item.id.clone()).collect();
        let points: Vec<MemoryPoint> = plans
            .into_iter()
            .flat_map(|(item, plan)| {
                let vector = &vector;
                plan.into_iter().map(move |point| {
                    let (problem, solution) = (vector(&point.problem_text), vector(&point.solution_text));
                    point.into_point(&item, problem, solution)
                })
            })
            .collect();
        report.items += ids.len() as u64;
        report.points += points.len() as u64;
        let vectors = Arc::clone(&self.vectors);
        tokio::task::spawn_blocking(move || {
            vectors.upsert(&points)?;
            // An article that shrank must not keep its old passages.
            vectors.prune(&ids, &points.iter().map(|point| point.id).collect::<Vec<_>>())?;
            // Durable in the index first, marked in the store second.
            vectors.checkpoint()
        })
        .await??;
        let forgotten = self.store.mark_indexed(&marks, self.inference.embedder_name()).await?;
        if forgotten.is_empty() {
            return Ok(());
        }
        // Erased while they were indexed: maybe before their points were in.
        remove(&self.vectors, forgotten).await
    }

    /// Vectors of all texts of a batch by text, from the cache or the model.
    async fn vectors_for(
        &self,
        plans: &[(MemoryItem, Vec<PointPlan>)],
        report: &mut IndexReport,
    ) -> Result<HashMap<String, Vec<f32>>, LearnError> {
        let mut texts: Vec<String> = plans
            .iter()
            .flat_map(|(_, plan)| plan.iter().flat_map(|p| [p.problem_text.clone(), p.solution_text.clone()]))
            .collect();
        texts.sort_unstable();
        texts.dedup();
        let model = self.inference.embedder_name();
        let keys: Vec<String> = texts.iter().map(|text| content_key(model, Role::Passage, text)).collect();
        let cached = self.store.cached_embeddings(&keys).await?;
        let mut vectors = HashMap::with_capacity(texts.len());
        let mut missing = Vec::new();
        for ((text, key), found) in texts.into_iter().zip(keys).zip(cached) {
            match found {
                Some(vector) => drop(vectors.insert(text, vector)),
                None => missing.push((key, text)),
            }
        }
        let wanted = missing.iter().map(|(_, text)| text.clone()).collect();
        let computed = self.inference.embed_bulk(wanted, Role::Passage).await?;
        report.embedded += computed.len() as u64;
        let owners = owners(plans);
        let rows: Vec<NewEmbedding<'_>> = missing
            .iter()
            .zip(&computed)
            .map(|((key, text), vector)| NewEmbedding { key, memory_id: owners.get(text.as_str()).copied(), vector })
            .collect();
        self.store.store_embeddings(&rows).await?;
        vectors.extend(missing.into_iter().map(|(_, text)| text).zip(computed));
        Ok(vectors)
    }
}

/// Takes what these memory items made out of the index, for good.
///
/// # Errors
/// When the index fails.
pub async fn remove(vectors: &Arc<dyn VectorStore>, memory_ids: Vec<String>) -> Result<(), LearnError> {
    if memory_ids.is_empty() {
        return Ok(());
    }
    let vectors = Arc::clone(vectors);
    let removal = move || {
        vectors.delete(&memory_ids)?;
        // Else they would be back after a crash, and nobody would look for them.
        vectors.checkpoint()
    };
    Ok(tokio::task::spawn_blocking(removal).await??)
}

/// Makes the index ready and compares it with what the store believes of it. Where it was made with another model, or lost
/// any of what it held, everything is marked to be indexed again; true then. `emptied` says that it was started anew
/// already.
///
/// # Errors
/// When the index cannot be made ready, or the store fails.
pub async fn compare(
    vectors: &Arc<dyn VectorStore>,
    store: &Store,
    model: &str,
    emptied: bool,
) -> Result<bool, LearnError> {
    let before = store.memory_stats().await?;
    let index = Arc::clone(vectors);
    let prepared = tokio::task::spawn_blocking(move || -> Result<(bool, u64), RetrieveError> {
        let cleared = match index.prepare() {
            Err(error @ RetrieveError::Rebuild { .. }) => {
                tracing::warn!(%error, "search index is started anew");
                index.clear()?;
                true
            }
            prepared => prepared.map(|_| false)?,
        };
        Ok((cleared, index.count()?))
    });
    let (cleared, points) = prepared.await??;
    let stats = store.memory_stats().await?;
    if stats.items == 0 && points > 0 {
        // What another database held: nothing of it can be shown.
        let index = Arc::clone(vectors);
        tokio::task::spawn_blocking(move || index.clear()).await??;
    }
    let other_model = stats.generations.iter().any(|(generation, _)| generation != model);
    // Every item makes one point at least. The lower of the two figures, since another process may index or forget meanwhile.
    let indexed = |stats: &MemoryStats| stats.items.saturating_sub(stats.unindexed);
    let lost = indexed(&before).min(indexed(&stats)).saturating_sub(points);
    if lost > 0 && !emptied && !cleared {
        tracing::warn!(lost, points, "the search index lacks what it held; all is indexed again");
    }
    let anew = emptied || cleared || other_model || lost > 0;
    if anew {
        store.mark_all_unindexed().await?;
    }
    Ok(anew)
}

/// Whose text it is, so that its vector can be forgotten with the item.
fn owners(plans: &[(MemoryItem, Vec<PointPlan>)]) -> HashMap<&str, &str> {
    plans
        .iter()
        .flat_map(|(item, plan)| {
            plan.iter().flat_map(|p| [p.problem_text.as_str(), p.solution_text.as_str()]).map(|t| (t, item.id.as_str()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::embed::{EmbedError, Embedder};
    use crate::retrieve::memory::MemoryStore;
    use crate::retrieve::question_sets::item;
    use crate::retrieve::{Legs, SearchQuery};
    use crate::store::content_hash;
    use crate::ticket::MemoryKind;

    struct Same;

    impl Embedder for Same {
        fn name(&self) -> &str {
            "same"
        }

        fn dimensions(&self) -> usize {
            2
        }

        fn embed(&mut self, texts: &[&str], _role: Role) -> Result<Vec<Vec<f32>>, EmbedError> {
            Ok(texts.iter().map(|_| vec![1.0, 0.0]).collect())
        }
    }

    /// An index that never may have fewer points than `least`.
    struct Watched {
        index: Arc<dyn VectorStore>,
        least: u64,
    }

    impl Watched {
        fn look<T>(&self, done: Result<T, RetrieveError>) -> Result<T, RetrieveError> {
            assert!(self.index.count()? >= self.least, "points of what is marked are gone");
            done
        }
    }

    impl VectorStore for Watched {
        fn upsert(&self, points: &[MemoryPoint]) -> Result<(), RetrieveError> {
            self.look(self.index.upsert(points))
        }

        fn prune(&self, memory_ids: &[String], kept: &[Uuid]) -> Result<(), RetrieveError> {
            self.look(self.index.prune(memory_ids, kept))
        }

        fn search(&self, query: &SearchQuery) -> Result<Legs, RetrieveError> {
            self.index.search(query)
        }

        fn count(&self) -> Result<u64, RetrieveError> {
            self.index.count()
        }

        fn checkpoint(&self) -> Result<(), RetrieveError> {
            self.look(self.index.checkpoint())
        }

        fn compact(&self) -> Result<(), RetrieveError> {
            self.index.compact()
        }

        fn clear(&self) -> Result<(), RetrieveError> {
            self.index.clear()
        }
    }

    /// Items with so many passages each, in a store of their own; the index holds them all.
    async fn filled(folder: &std::path::Path) -> (Indexer, Vec<MemoryItem>) {
        let store = Store::open(folder).await.expect("store");
        let paragraph = format!("## Step\n\n{}\n\n", "word ".repeat(150));
        let items: Vec<MemoryItem> = (0..6)
            .map(|n| {
                let texts = [format!("title {n}"), String::new(), paragraph.repeat(3)];
                item(MemoryKind::Article, &format!("a-{n}"), "en", texts)
            })
            .collect();
        put(&store, &items).await;
        let inference = Inference::start(Box::new(Same), None);
        let indexer = Indexer::new(store, inference, Arc::new(MemoryStore::new(2)), Arc::default());
        indexer.catch_up(|_| {}).await.expect("indexed");
        (indexer, items)
    }

    async fn put(store: &Store, items: &[MemoryItem]) {
        let hashes: Vec<String> = items.iter().map(|item| content_hash(item).expect("hash")).collect();
        store.put_items(items, &hashes).await.expect("stored");
    }

    fn points(items: &[MemoryItem]) -> u64 {
        items.iter().map(|item| plan_points(item).len() as u64).sum()
    }

    #[tokio::test]
    async fn what_is_marked_is_there_while_it_is_indexed_once_more() {
        let folder = tempfile::tempdir().expect("folder");
        let (indexer, items) = filled(folder.path()).await;
        let count = indexer.vectors.count().expect("count");
        assert!(count == points(&items) && count > 2 * items.len() as u64, "several passages each: {count}");
        // Another process read what waits before the first has marked it.
        indexer.store.mark_all_unindexed().await.expect("marked");
        let waiting = indexer.store.unindexed(100).await.expect("pending");
        indexer.catch_up(|_| {}).await.expect("indexed");
        let watched = Watched { index: Arc::clone(&indexer.vectors), least: count };
        let other = Indexer { vectors: Arc::new(watched), ..indexer.clone() };
        other.index_batch(waiting, &mut IndexReport::default()).await.expect("indexed again");
        assert_eq!(indexer.vectors.count().expect("count"), count);

        // One that has shrunk keeps no passage of its older text.
        let mut shorter = items[0].clone();
        shorter.solution = "Only this.".to_owned();
        put(&indexer.store, std::slice::from_ref(&shorter)).await;
        indexer.catch_up(|_| {}).await.expect("indexed");
        let wanted = count - points(&items[..1]) + points(&[shorter]);
        assert_eq!(indexer.vectors.count().expect("count"), wanted);
    }

    #[tokio::test]
    async fn what_is_erased_while_it_is_indexed_is_not_in_the_index() {
        let folder = tempfile::tempdir().expect("folder");
        let (indexer, items) = filled(folder.path()).await;
        indexer.store.mark_all_unindexed().await.expect("marked");
        let waiting = indexer.store.unindexed(100).await.expect("pending");
        assert!(indexer.store.forget("a-2").await.expect("forgotten"));
        remove(&indexer.vectors, vec!["a-2".to_owned()]).await.expect("removed");
        indexer.index_batch(waiting, &mut IndexReport::default()).await.expect("indexed");
        assert_eq!(indexer.vectors.count().expect("count"), points(&items) - points(&items[2..3]));
        assert_eq!(indexer.store.memory_stats().await.expect("stats").unindexed, 0);
    }

    #[tokio::test]
    async fn an_index_that_lost_some_of_what_it_held_is_filled_again() {
        let folder = tempfile::tempdir().expect("folder");
        let (indexer, items) = filled(folder.path()).await;
        let looked = || compare(&indexer.vectors, &indexer.store, "same", false);
        assert!(!looked().await.expect("compared"), "nothing is lost");
        let lost: Vec<String> = items[..5].iter().map(|item| item.id.clone()).collect();
        indexer.vectors.delete(&lost).expect("deleted behind the store's back");
        assert!(looked().await.expect("compared"), "most of it is lost");
        indexer.catch_up(|_| {}).await.expect("indexed");
        assert_eq!(indexer.vectors.count().expect("count"), points(&items));
        assert!(!looked().await.expect("compared"), "all is there again");
    }
}
