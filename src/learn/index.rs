//! Keeps the vector index in step with the ticket store.
//!
//! The store says which memory items the index lacks; they are embedded (from the cache of vectors where the text was seen
//! before), put into the index, made durable there and only then marked. A crash in between repeats work, it loses none.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::citations;
use crate::embed::{Role, content_key};
use crate::inference::{Inference, InferenceError};
use crate::retrieve::passages::{PointPlan, plan_points};
use crate::retrieve::{Citations, MemoryPoint, Prepared, RetrieveError, VectorStore};
use crate::store::{NewEmbedding, PendingItem, Store, StoreError};
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
}

impl Indexer {
    /// Indexes everything the store has and the index lacks. `progress` hears the items done so far.
    ///
    /// # Errors
    /// When the store, the index or the embedding model fails; what was done until then stays done.
    pub async fn catch_up(&self, mut progress: impl FnMut(&IndexReport)) -> Result<IndexReport, LearnError> {
        let started = Instant::now();
        let tokens_before = self.inference.tokens_read();
        let mut report = IndexReport::default();
        loop {
            let pending = self.store.unindexed(BATCH).await?;
            if pending.is_empty() {
                break;
            }
            self.index_batch(pending, &mut report).await?;
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
        // What another process has stored and indexed, too.
        citations::follow(&self.citations, &self.store).await?;
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
        let store = Arc::clone(&self.vectors);
        tokio::task::spawn_blocking(move || {
            // An article that shrank must not keep its old passages.
            store.delete(&ids)?;
            store.upsert(&points)?;
            // Durable in the index first, marked in the store second.
            store.checkpoint()
        })
        .await??;
        self.store.mark_indexed(&marks, self.inference.embedder_name()).await?;
        Ok(())
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

/// Makes the index ready and compares it with what the store believes of it. Where it was made with another model, or lost
/// what it held, everything is marked to be indexed again; true then. `emptied` says that it was started anew already.
///
/// # Errors
/// When the index cannot be made ready, or the store fails.
pub async fn compare(
    vectors: &Arc<dyn VectorStore>,
    store: &Store,
    model: &str,
    emptied: bool,
) -> Result<bool, LearnError> {
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
    let anew = emptied || cleared || other_model || (points == 0 && stats.items > stats.unindexed);
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
