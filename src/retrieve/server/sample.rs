//! Mean vectors, of the first points by id: ids are hashes, so these are a fair sample of a large memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Inner;
use super::link::Failure;
use crate::retrieve::RetrieveError;
use crate::retrieve::background::{Centroids, SAMPLE};

/// Points read at once for the mean vectors.
const PAGE: usize = 500;
/// Mean vectors of a large memory hardly move: how long they serve while points are written, and in any case, since other
/// processes may write too.
const SERVE_WHILE_WRITTEN: Duration = Duration::from_secs(60);
const SERVE: Duration = Duration::from_secs(600);

/// What is known from the first points by id.
pub(super) struct Sample {
    pub centroids: Centroids,
    /// There were as many points as a sample has.
    full: bool,
    read: Instant,
}

impl Sample {
    fn is_due(&self, changed: bool) -> bool {
        let age = self.read.elapsed();
        age >= SERVE || (changed && (!self.full || age >= SERVE_WHILE_WRITTEN))
    }
}

impl Inner {
    /// The sample, read where there is none yet.
    pub(super) async fn sample(&self, until: Instant) -> Result<Arc<Sample>, Failure> {
        let kept = self.lock().sample.clone();
        match kept {
            Some(sample) => Ok(sample),
            None => self.read_sample(until).await,
        }
    }

    /// Reads the sample again where it is out of date.
    pub(super) async fn refresh_sample(&self) -> Result<(), RetrieveError> {
        let due = {
            let state = self.lock();
            state.ready.is_ok() && state.sample.as_ref().is_none_or(|sample| sample.is_due(state.changed))
        };
        if due {
            self.read_sample(Instant::now() + self.settings.write_deadline()).await?;
        }
        Ok(())
    }

    async fn read_sample(&self, until: Instant) -> Result<Arc<Sample>, Failure> {
        self.lock().changed = false;
        let (mut centroids, mut points, mut next) = (Centroids::default(), 0, None);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let (page, after) = self.page(next, PAGE.min(SAMPLE - points), left).await?;
            for point in &page {
                centroids.add(point.kind, &point.language, &point.problem, &point.solution);
            }
            points += page.len();
            next = after;
            if next.is_none() || page.is_empty() || points >= SAMPLE {
                break;
            }
        }
        let sample = Arc::new(Sample { centroids, full: points >= SAMPLE, read: Instant::now() });
        self.lock().sample = Some(Arc::clone(&sample));
        Ok(sample)
    }
}
