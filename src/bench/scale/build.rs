//! Fills an index as the service does, and works out the right answers.

use std::cmp::Ordering;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};

use super::synthetic::Synthetic;
use super::{Built, CUTOFF, built_path, read_built};
use crate::retrieve::edge::EdgeStore;
use crate::retrieve::{MemoryPoint, VectorStore};

/// Items made and inserted together.
const BATCH: usize = 2_048;
/// Items between two checkpoints: a bulk load's; the service, which also embeds, makes one every 128 items.
const CHECKPOINT: usize = 8_192;
/// Name of the model in the index: its vectors are compared with none of a real model.
pub(super) const MODEL: &str = "synthetic";

/// Builds the index of `items` in `folder` unless it is there.
pub(super) fn build(folder: &Path, items: usize, synthetic: &Synthetic) -> Result<()> {
    if built_path(folder).exists() {
        let source = read_built(folder)?.source;
        ensure!(
            source == synthetic.source(),
            "the index in {} was made of {source}, wanted is {}; remove the folder",
            folder.display(),
            synthetic.source()
        );
        eprintln!("{items} items: already built");
        return Ok(());
    }
    let started = Instant::now();
    let store = EdgeStore::reset(folder, MODEL, synthetic.dimensions())?;
    for first in (0..items).step_by(BATCH) {
        store.upsert(&batch(synthetic, first, items)?)?;
        if first % CHECKPOINT == 0 {
            store.checkpoint()?;
            eprint!("\r{items} items: {first} inserted, {:.0} s ", started.elapsed().as_secs_f64());
        }
    }
    store.checkpoint()?;
    let insert_seconds = started.elapsed().as_secs_f64();
    eprintln!("\r{items} items: inserted in {insert_seconds:.0} s, building");
    let started = Instant::now();
    store.compact()?;
    let finish_seconds = started.elapsed().as_secs_f64();
    drop(store);
    eprintln!("{items} items: built in another {finish_seconds:.0} s; working out the right answers");
    let (problem, solution) = right_answers(synthetic, items)?;
    let (source, requests) = (synthetic.source().to_owned(), synthetic.requests().to_vec());
    let built = Built { items, source, requests, insert_seconds, finish_seconds, problem, solution };
    let path = built_path(folder);
    std::fs::write(&path, serde_json::to_vec(&built)?).with_context(|| format!("cannot write {}", path.display()))
}

fn batch(synthetic: &Synthetic, first: usize, items: usize) -> Result<Vec<MemoryPoint>> {
    (first..(first + BATCH).min(items)).map(|number| synthetic.item(number)).collect()
}

/// Ids of the nearest items of each request.
type Answers = Vec<Vec<String>>;

/// By brute force over all items, by problem and by solution.
fn right_answers(synthetic: &Synthetic, items: usize) -> Result<(Answers, Answers)> {
    let dimensions = synthetic.dimensions();
    let requests = synthetic.requests();
    let wanted: Vec<f32> = requests.iter().flat_map(|request| request.vector.iter().copied()).collect();
    let wanted = Tensor::from_vec(wanted, (requests.len(), dimensions), &Device::Cpu)?;
    let mut best = [vec![Vec::new(); requests.len()], vec![Vec::new(); requests.len()]];
    for first in (0..items).step_by(BATCH) {
        let points = batch(synthetic, first, items)?;
        for (best, vector) in best.iter_mut().zip([problem as fn(&MemoryPoint) -> &[f32], solution]) {
            let block: Vec<f32> = points.iter().flat_map(|point| vector(point).iter().copied()).collect();
            let block = Tensor::from_vec(block, (points.len(), dimensions), &Device::Cpu)?;
            let cosines = wanted.matmul(&block.t()?)?.to_vec2::<f32>()?;
            for (best, cosines) in best.iter_mut().zip(cosines) {
                keep_best(best, cosines.into_iter().zip(first..));
            }
        }
    }
    let ids = |best: Vec<Vec<(f32, usize)>>| {
        best.into_iter()
            .map(|best| best.into_iter().map(|(_, number)| format!("synthetic-{number}")).collect())
            .collect()
    };
    let [by_problem, by_solution] = best;
    Ok((ids(by_problem), ids(by_solution)))
}

fn problem(point: &MemoryPoint) -> &[f32] {
    &point.problem
}

fn solution(point: &MemoryPoint) -> &[f32] {
    &point.solution
}

/// Merges scored items into the best so far, best first.
fn keep_best(best: &mut Vec<(f32, usize)>, scored: impl Iterator<Item = (f32, usize)>) {
    let least =
        if best.len() < CUTOFF { f32::NEG_INFINITY } else { best.last().map_or(f32::NEG_INFINITY, |last| last.0) };
    best.extend(scored.filter(|(score, _)| *score > least));
    let better = |a: &(f32, usize), b: &(f32, usize)| -> Ordering { b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)) };
    best.sort_by(better);
    best.truncate(CUTOFF);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_answers_are_those_of_a_plain_loop() {
        let synthetic = super::super::synthetic::tests::small(20, 4, 32);
        let (by_problem, by_solution) = right_answers(&synthetic, 3_000).expect("answers");
        let items: Vec<MemoryPoint> = (0..3_000).map(|n| synthetic.item(n).expect("item")).collect();
        for (request, (problem, solution)) in synthetic.requests().iter().zip(by_problem.iter().zip(&by_solution)) {
            let cosine = |vector: &[f32]| vector.iter().zip(&request.vector).map(|(a, b)| a * b).sum::<f32>();
            for (found, vector) in [(problem, problem_of as fn(&MemoryPoint) -> &[f32]), (solution, solution_of)] {
                let mut ranked: Vec<&MemoryPoint> = items.iter().collect();
                ranked.sort_by(|a, b| cosine(vector(b)).total_cmp(&cosine(vector(a))));
                let plain: Vec<&str> = ranked.iter().take(CUTOFF).map(|item| item.memory_id.as_str()).collect();
                assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), plain);
            }
        }
    }

    fn problem_of(point: &MemoryPoint) -> &[f32] {
        &point.problem
    }

    fn solution_of(point: &MemoryPoint) -> &[f32] {
        &point.solution
    }
}
