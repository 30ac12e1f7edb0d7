//! The threads that ask the model server, and what happens to a reply that it does not write.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::generator::{GenerateError, Generator, Step, StopReason};
use super::{GENERATE_LIMIT, GenerateJob, InferenceError, News, Shared, next_job, panic_text, send};
use crate::endpoint::breaker::Health;

/// Writes one reply after the other with one connection, until the queues are closed.
pub(super) fn serve(shared: &Shared, mut server: Box<dyn Generator>) {
    let name: Arc<str> = server.name().into();
    while let Some(job) = next_job(shared, |queues| queues.remote.pop_front()) {
        if is_unwanted(&job) {
            continue;
        }
        // Others may have found out that the server is dead while this reply waited.
        match shared.server.admit(Instant::now()) {
            true => write(shared, server.as_mut(), &name, job),
            false => hand_over(shared, job, resting(shared)),
        }
    }
}

fn is_unwanted(job: &GenerateJob) -> bool {
    job.cancelled.load(Ordering::Relaxed) || job.news.is_closed()
}

/// Writes a reply on the server. One that it did not begin is handed over; one that broke off is not begun anew, since its
/// first words have been shown.
fn write(shared: &Shared, server: &mut dyn Generator, name: &Arc<str>, job: GenerateJob) {
    let mut told = false;
    let mut on_step = |step: Step<'_>| {
        if let Step::Text(text) = step {
            job.model.get_or_init(|| Arc::clone(name));
            told = true;
            send(&job.news, News::Text(text.to_owned()));
        }
        match is_unwanted(&job) || shared.lock().closed {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let written = catch_unwind(AssertUnwindSafe(|| server.generate(&job.request, &mut on_step)));
    let error = match written {
        Ok(Ok(generation)) => {
            // A caller that has had enough says nothing of a server that was still silent.
            match generation.stop == StopReason::Cancelled && !told {
                true => shared.server.released(),
                false => shared.server.succeeded(),
            }
            job.model.get_or_init(|| Arc::clone(name));
            return send(&job.news, News::Done(Ok(generation)));
        }
        Ok(Err(error)) => InferenceError::from(error),
        Err(panic) => InferenceError::Panicked(panic_text(panic.as_ref())),
    };
    match &error {
        InferenceError::Generate(GenerateError::Refused { .. }) => shared.server.succeeded(),
        error => {
            metrics::counter!("respondo_model_server_failures_total", "task" => "generate").increment(1);
            tracing::warn!(%error, "the model server wrote no reply");
            shared.server.failed(Instant::now(), &error.to_string());
        }
    }
    match told {
        true => send(&job.news, News::Done(Err(error))),
        false => hand_over(shared, job, error),
    }
}

/// Gives a reply to the local model; where there is none, or its queue is full, `error` is the answer.
fn hand_over(shared: &Shared, job: GenerateJob, error: InferenceError) {
    let mut queues = shared.lock();
    if shared.local.is_none() || queues.closed || queues.generate.len() >= GENERATE_LIMIT {
        drop(queues);
        return send(&job.news, News::Done(Err(error)));
    }
    queues.generate.push_back(job);
    drop(queues);
    shared.arrived.notify_all();
}

fn resting(shared: &Shared) -> InferenceError {
    match shared.server.health(Instant::now()) {
        Health::Rests { left, reason } => InferenceError::Resting { seconds: left.as_secs(), reason },
        Health::Good => InferenceError::Resting { seconds: 0, reason: "its rest has just ended".to_owned() },
    }
}
