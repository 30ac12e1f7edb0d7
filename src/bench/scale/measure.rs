//! Opens a built index as a start of the service does, and measures memory, time and what is found.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};

use super::build::MODEL;
use super::{Asked, Built, CUTOFF, LEG_LIMIT};
use crate::bench::quantile;
use crate::retrieve::edge::{EdgeStore, Effort};
use crate::retrieve::fuse::{Fusion, Weights, fuse};
use crate::retrieve::{Filter, Hit, Retriever, SearchQuery, VectorStore};

/// Searches whose fused list is compared with that of an exhaustive search, which takes long.
const COMPARED: usize = 100;

/// Everything measured of one size.
pub(super) struct Figures {
    pub built: Built,
    /// Of the engine's files; of them its write-ahead log.
    pub disk_bytes: u64,
    pub log_bytes: u64,
    pub open_seconds: f64,
    /// Resident bytes that came with the index, once open and after all searches.
    pub opened: Memory,
    pub used: Memory,
    /// Both dense legs, without words; and everything that the service does: legs, words, fusion.
    pub dense: Latency,
    pub whole: Latency,
    /// Mean over both legs and all searches, and of each leg.
    pub recall_problem: f64,
    pub recall_solution: f64,
    /// Mean share of the fused list's first hits that an exhaustive search has there too.
    pub agreement: f64,
}

/// Resident memory: what is the process's own, and what is a view of files, which the system can drop and read again.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Memory {
    pub own: f64,
    pub mapped: f64,
}

/// Milliseconds: p50, p95 and p99 of each repeat.
pub(super) struct Latency(pub Vec<[f32; 3]>);

pub(super) fn measure(folder: &Path, built: Built, repeats: usize) -> Result<Figures> {
    let dimensions = built.requests.first().map_or(0, |request| request.vector.len());
    let before = memory()?;
    let started = Instant::now();
    let store = Arc::new(EdgeStore::open(folder, MODEL, dimensions)?);
    let open_seconds = started.elapsed().as_secs_f64();
    store.settle();
    let opened = memory()?.since(before);
    let requests: Vec<SearchQuery> = built.requests.iter().map(query).collect();
    let dense_only: Vec<SearchQuery> =
        requests.iter().map(|request| SearchQuery { text: String::new(), ..request.clone() }).collect();
    let retriever = Retriever::new(Arc::clone(&store) as Arc<dyn VectorStore>);
    let (mut dense, mut whole) = (Vec::new(), Vec::new());
    // The first pass warms up and is not counted.
    for pass in 0..=repeats {
        let in_legs = timed(&dense_only, |query| store.search(query).map(drop))?;
        let in_all = timed(&requests, |query| retriever.rank(query).map(drop))?;
        if pass > 0 {
            dense.push(in_legs);
            whole.push(in_all);
        }
    }
    let used = memory()?.since(before);
    let (recall_problem, recall_solution) = recall(&store, &dense_only, &built)?;
    let agreement = agreement(&store, &requests)?;
    let (disk_bytes, log_bytes) = (size(&folder.join("points"))?, size(&folder.join("points/wal"))?);
    Ok(Figures {
        built,
        disk_bytes,
        log_bytes,
        open_seconds,
        opened,
        used,
        dense: Latency(dense),
        whole: Latency(whole),
        recall_problem,
        recall_solution,
        agreement,
    })
}

fn query(asked: &Asked) -> SearchQuery {
    SearchQuery {
        vector: asked.vector.clone(),
        text: asked.text.clone(),
        language: asked.language.clone(),
        filter: Filter::default(),
        limit: LEG_LIMIT,
    }
}

fn timed<E>(queries: &[SearchQuery], mut search: impl FnMut(&SearchQuery) -> Result<(), E>) -> Result<[f32; 3], E> {
    let mut times = Vec::with_capacity(queries.len());
    for query in queries {
        let started = Instant::now();
        search(query)?;
        times.push(started.elapsed().as_secs_f32() * 1000.0);
    }
    times.sort_by(f32::total_cmp);
    Ok([0.5, 0.95, 0.99].map(|share| quantile(&times, share)))
}

/// Mean share of the right answers among the first hits of each dense leg.
fn recall(store: &EdgeStore, queries: &[SearchQuery], built: &Built) -> Result<(f64, f64)> {
    let (mut problem, mut solution) = (0.0, 0.0);
    for ((query, by_problem), by_solution) in queries.iter().zip(&built.problem).zip(&built.solution) {
        let legs = store.search(query)?;
        problem += found(&legs.problem, by_problem);
        solution += found(&legs.solution, by_solution);
    }
    let count = queries.len().max(1) as f64;
    Ok((problem / count, solution / count))
}

fn found(hits: &[Hit], right: &[String]) -> f64 {
    let first: HashSet<&str> = hits.iter().take(CUTOFF).map(|hit| hit.memory_id.as_str()).collect();
    right.iter().filter(|id| first.contains(id.as_str())).count() as f64 / right.len().max(1) as f64
}

fn agreement(store: &EdgeStore, requests: &[SearchQuery]) -> Result<f64> {
    let fusion = Fusion::Weighted(Weights::default());
    let first = |query: &SearchQuery, effort| -> Result<Vec<String>> {
        let fused = fuse(&store.search_with(query, effort)?, fusion);
        Ok(fused.into_iter().take(CUTOFF).map(|hit| hit.memory_id).collect())
    };
    let compared = requests.get(..COMPARED).unwrap_or(requests);
    let mut sum = 0.0;
    for query in compared {
        let (served, exact) = (first(query, Effort::Served)?, first(query, Effort::Exact)?);
        sum += exact.iter().filter(|id| served.contains(id)).count() as f64 / exact.len().max(1) as f64;
    }
    Ok(sum / compared.len().max(1) as f64)
}

impl Memory {
    fn since(self, before: Self) -> Self {
        Self { own: self.own - before.own, mapped: self.mapped - before.mapped }
    }
}

/// Of this process, in bytes.
fn memory() -> Result<Memory> {
    let status = std::fs::read_to_string("/proc/self/status").context("no /proc/self/status; memory needs Linux")?;
    let bytes = |name: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let line = line.with_context(|| format!("no {name} in /proc/self/status; memory needs Linux 4.5"))?;
        let kilobytes: f64 = line.trim_end_matches("kB").trim().parse().context("a figure in /proc/self/status")?;
        Ok(1024.0 * kilobytes)
    };
    Ok(Memory { own: bytes("RssAnon:")?, mapped: bytes("RssFile:")? + bytes("RssShmem:")? })
}

/// Bytes on disk of all files below; files with holes count what is written.
fn size(folder: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut total = 0;
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let about = entry.metadata()?;
        total += if about.is_dir() { size(&entry.path())? } else { about.blocks() * 512 };
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_index_is_built_once_and_finds_everything() {
        let synthetic = super::super::synthetic::tests::small(30, 5, 32);
        let folder = tempfile::tempdir().expect("temporary folder");
        let folder = folder.path().join("1500");
        for _ in 0..2 {
            super::super::build::build(&folder, 1_500, &synthetic).expect("build");
        }
        let built = super::super::read_built(&folder).expect("built");
        let figures = measure(&folder, built, 2).expect("figures");
        assert_eq!((figures.recall_problem, figures.recall_solution, figures.agreement), (1.0, 1.0, 1.0));
        assert_eq!((figures.dense.0.len(), figures.whole.0.len()), (2, 2));
        assert!(figures.disk_bytes > figures.log_bytes && figures.used.own + figures.used.mapped > 0.0);
        let text = super::super::report::to_markdown(&[figures], "a machine");
        assert!(text.contains("| 1500 |") && text.contains("1.000"), "{text}");
        let other = super::super::synthetic::tests::small(31, 5, 32);
        let refused = super::super::build::build(&folder, 1_500, &other).expect_err("other items");
        assert!(refused.to_string().contains("remove"), "{refused}");
    }
}
