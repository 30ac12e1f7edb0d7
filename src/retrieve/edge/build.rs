//! Building search graphs while searches and updates go on.

use std::any::Any;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::engine::{self, GRAPH_FROM};
use super::layout::{changed_path, index_error};
use super::{Changes, EdgeStore, Inner};
use crate::retrieve::RetrieveError;

/// A build is asked for after this many points more; whether there is anything to build, the engine knows.
const POINTS_BETWEEN: usize = 5_000;
/// The engine's flush panics in the moments in which a build swaps parts; how often to try, and the pause.
const FLUSHES: u32 = 200;
const FLUSH_PAUSE: Duration = Duration::from_millis(10);

/// Where building stands.
#[derive(Default)]
pub(super) struct Build {
    running: bool,
    /// Points when it was last asked for.
    points: usize,
}

impl EdgeStore {
    /// Waits until no graph is being built.
    pub fn settle(&self) {
        drop(self.inner.build_when_idle());
    }

    /// Merges a large index into one part, drops what was deleted and builds what is missing: seconds to an hour.
    pub(super) fn merge(&self) -> Result<(), RetrieveError> {
        let inner = &self.inner;
        let writer = inner.writer_without_build();
        let points = inner.with_shard(|shard| Ok(shard.info().points_count))?;
        // A small index is scanned; there the engine only drops what was deleted.
        let scanned = if points < GRAPH_FROM { GRAPH_FROM } else { engine::SCANNED_AFTER_MERGE };
        *inner.building() = Build { running: true, points };
        drop(writer);
        let built = inner.build_parts(1, scanned);
        inner.finish_build().and(built).map(|_| ())
    }
}

impl Inner {
    fn building(&self) -> MutexGuard<'_, Build> {
        self.build.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn build_when_idle(&self) -> MutexGuard<'_, Build> {
        let build = self.building();
        self.built.wait_while(build, |build| build.running).unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer at a moment when no graph is being built; waits for a build that is under way. Builds are started by
    /// the writer, so none starts while it is held.
    pub(super) fn writer_without_build(&self) -> MutexGuard<'_, Changes> {
        loop {
            drop(self.build_when_idle());
            let writer = self.writer();
            if !self.is_building() {
                return writer;
            }
        }
    }

    pub(super) fn is_building(&self) -> bool {
        self.building().running
    }

    /// Starts a build in the background where many points were added since the last one.
    pub(super) fn build_where_due(self: &Arc<Self>, _writer: &MutexGuard<'_, Changes>) {
        let points = self.known().points;
        let mut build = self.building();
        if build.running || points < GRAPH_FROM || points.abs_diff(build.points) < POINTS_BETWEEN {
            return;
        }
        *build = Build { running: true, points };
        let inner = Arc::clone(self);
        let thread =
            std::thread::Builder::new().name("index-build".to_owned()).spawn(move || inner.build_in_background(points));
        if let Err(error) = thread {
            tracing::warn!(%error, "no thread to build the search graph in; searches stay exact and get slower");
            build.running = false;
        }
    }

    fn build_in_background(&self, points: usize) {
        // Threads inherit their priority, so the pool that others share has to be there before ours is lowered.
        let _ = rayon::current_num_threads();
        // On Linux this concerns this thread and those it starts, not the process.
        if let Err(error) = rustix::process::nice(19) {
            tracing::debug!(%error, "search graphs are built at full priority");
        }
        let started = Instant::now();
        let built = self.build_parts(engine::PARTS, engine::scanned(points));
        match self.finish_build().and(built) {
            Ok(true) => tracing::info!(seconds = started.elapsed().as_secs(), "search graph built"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "no search graph; searches stay exact and get slower"),
        }
    }

    /// Whether there was anything to do.
    fn build_parts(&self, parts: usize, scanned: usize) -> Result<bool, RetrieveError> {
        let optimizers = engine::into_parts(self.stamp.dimensions, parts, scanned);
        self.with_shard(|shard| {
            shard.set_optimizers_config(optimizers)?;
            shard.optimize()
        })
    }

    /// Makes what was built durable; from then on changes of stored points are durable too.
    fn finish_build(&self) -> Result<(), RetrieveError> {
        let _writer = self.writer();
        let flushed = self.flush().and_then(|()| match fs::remove_file(changed_path(&self.folder)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(index_error(&self.folder, error)),
            _ => Ok(()),
        });
        self.building().running = false;
        self.built.notify_all();
        flushed
    }

    /// Writes everything to disk; to be called by the writer.
    pub(super) fn flush(&self) -> Result<(), RetrieveError> {
        for _ in 0..FLUSHES {
            let flushed = self.with_shard(|shard| {
                // Waits for a swap that is under way.
                let _ = shard.info();
                Ok(catch_unwind(AssertUnwindSafe(|| shard.flush())))
            })?;
            match flushed {
                Ok(()) => return Ok(()),
                Err(panic) if is_lock(panic.as_ref()) => std::thread::sleep(FLUSH_PAUSE),
                Err(_) => break,
            }
        }
        Err(index_error(&self.folder, "the engine could not write it; is the disk full?"))
    }
}

/// Whether the engine gave up for a lock that a build holds, not for a failure.
fn is_lock(panic: &(dyn Any + Send)) -> bool {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.is_some_and(|text| text.contains("lock acquired"))
}
