//! What the language model in process makes of a request, and of what was found for it, before a reply is drafted.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::{Judged, Pipeline, Stage, has_words, tell};
use crate::inference::InferenceError;
use crate::retrieve::rerank::Sources;
use crate::ticket::Request;
use crate::timing::timed;
use crate::triage::Meaning;

/// Longest wait for a second opinion; a judgement stands already. A request takes a quarter of a second on two cores, and those that are read
/// before it as long.
const OPINION_LIMIT: Duration = Duration::from_secs(2);
/// Longest wait until what was found has been read, two to three seconds on two cores; half of the usual deadline is left for the reply.
const WEIGH_LIMIT: Duration = Duration::from_secs(4);

impl Pipeline {
    /// Has the language model that runs in process read the request and what was found for it, and judges both anew: better, and some seconds
    /// later. Where no model is here, or it has no time, the judgements stay.
    pub async fn consider(&self, request: &Request, judged: &mut Judged, watch: &UnboundedSender<Stage>) {
        if has_words(request) {
            self.consider_request(request, judged, watch).await;
            self.weigh(request, judged).await;
        }
    }

    async fn consider_request(&self, request: &Request, judged: &mut Judged, watch: &UnboundedSender<Stage>) {
        if !self.triage.wants_opinion() || judged.vector.is_none() {
            return;
        }
        let begun = Instant::now();
        let asked = self.inference.consider(request.text());
        let asked = timed("second opinion", tokio::time::timeout(OPINION_LIMIT, asked)).await;
        let Some(opinion) = in_time(asked, "second opinion") else { return };
        let meaning =
            Meaning { vector: judged.vector.as_deref(), reading: judged.reading.as_deref(), opinion: Some(&opinion) };
        judged.triage = self.triage.judge(request, meaning, &judged.evidence, self.usual_time);
        judged.timings.opinion_ms = begun.elapsed().as_secs_f32() * 1_000.0;
        tell(watch, Stage::Triage(Box::new(judged.triage.clone())));
    }

    /// What is too far off to be drafted from is not read.
    async fn weigh(&self, request: &Request, judged: &mut Judged) {
        let policy = self.settings.policy.of(request.queue.as_deref());
        let is_close = judged.evidence.iter().any(|found| found.similarity >= policy.min_similarity_to_draft);
        let Some(reranker) = self.reranker.as_ref().filter(|_| is_close) else { return };
        let begun = Instant::now();
        let sources = Sources::of(request, &judged.evidence);
        let asked = self.inference.weigh(sources.matter.clone());
        let asked = timed("weigh evidence", tokio::time::timeout(WEIGH_LIMIT, asked)).await;
        let Some(states) = in_time(asked, "weigh") else { return };
        let Some(weights) = reranker.weigh(&sources, &states) else { return };
        judged.fit = judged.fit.map(|facts| reranker.fit.probability(facts, &weights));
        judged.weights = Some(weights);
        judged.timings.weigh_ms = begun.elapsed().as_secs_f32() * 1_000.0;
    }
}

/// What came; None where it was left out, which is counted.
fn in_time<T>(
    asked: Result<Result<Option<T>, InferenceError>, tokio::time::error::Elapsed>,
    stage: &'static str,
) -> Option<T> {
    let reason = match asked {
        Ok(Ok(Some(made))) => return Some(made),
        Ok(Ok(None)) => "no model here can".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(elapsed) => elapsed.to_string(),
    };
    tracing::debug!(stage, reason, "judged without the language model");
    metrics::counter!("respondo_degraded_total", "stage" => stage).increment(1);
    None
}
