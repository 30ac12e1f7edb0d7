//! Judgements and searches that leave no trace.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::unbounded_channel;
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::extract::{Json, Query};
use super::problem::Problem;
use crate::intake;
use crate::retrieve::{Filter, SearchQuery};
use crate::ticket::{Language, MemoryKind, Retrieved, Triage};
use crate::timing::timed_now;

/// Memory items that a search returns at most.
const MAX_FOUND: usize = 50;

/// A text to judge.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TriageBody {
    #[schema(example = "I lost all my mails after the update!!")]
    pub body: String,
    #[serde(default)]
    pub subject: String,
    pub product: Option<String>,
    /// Has the language model read it too, where one runs in process: a better judgement, some tenths of a second later. Tickets are
    /// judged so before they are answered.
    #[serde(default)]
    pub second_opinion: bool,
}

/// The judgement with what it rests on.
#[derive(Debug, Serialize, ToSchema)]
pub struct TriageAnswer {
    pub language: Language,
    pub triage: Triage,
    pub evidence: Vec<Retrieved>,
    /// Calibrated probability, 0 to 1, that the evidence answers the request; absent where it cannot be judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fit: Option<f32>,
    /// Stages that failed, in words.
    pub degraded: Vec<String>,
}

/// Judges urgency, difficulty and next step without making a ticket.
#[utoipa::path(post, path = "/v1/triage", tag = "memory", request_body = TriageBody,
    responses((status = 200, body = TriageAnswer), (status = 400, body = Problem), (status = 413, body = Problem),
        (status = 422, body = Problem)))]
pub async fn judge(
    State(state): State<AppState>,
    Json(body): Json<TriageBody>,
) -> Result<axum::Json<TriageAnswer>, Problem> {
    super::tickets::check_size(&state, &body.body)?;
    let prepare = || intake::prepare(&body.subject, &body.body, body.product, None, Vec::new());
    let request = timed_now("intake", prepare)?;
    let mut judged = state.pipeline.judge(&request).await;
    if body.second_opinion {
        let (watch, _nobody) = unbounded_channel();
        state.pipeline.consider(&request, &mut judged, &watch).await;
    }
    Ok(axum::Json(TriageAnswer {
        language: request.language,
        triage: judged.triage,
        evidence: judged.evidence,
        fit: judged.fit,
        degraded: judged.degraded,
    }))
}

/// What to look for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct SearchParameters {
    /// Words or a whole request, in any language.
    #[param(min_length = 1)]
    q: String,
    product: Option<String>,
    /// Only items in this language (ISO 639-1).
    language: Option<String>,
    /// `ticket` or `article`.
    kind: Option<MemoryKind>,
    /// 1 to 50, 10 by default.
    #[param(minimum = 1, maximum = 50)]
    limit: Option<usize>,
}

/// Searches the memory by meaning and by words.
#[utoipa::path(get, path = "/v1/memory/search", tag = "memory", params(SearchParameters),
    responses((status = 200, body = Vec<Retrieved>), (status = 400, body = Problem), (status = 413, body = Problem),
        (status = 422, body = Problem, description = "no words in it"), (status = 503, body = Problem)))]
pub async fn search(
    State(state): State<AppState>,
    Query(parameters): Query<SearchParameters>,
) -> Result<axum::Json<Vec<Retrieved>>, Problem> {
    let limit = parameters.limit.unwrap_or(10);
    if !(1..=MAX_FOUND).contains(&limit) {
        return Err(Problem::bad_request(format!("limit must be between 1 and {MAX_FOUND}")));
    }
    super::tickets::check_size(&state, &parameters.q)?;
    let request = intake::prepare("", &parameters.q, None, None, Vec::new())?;
    let vector = state.pipeline.inference.embed_query(request.text()).await?;
    let query = SearchQuery {
        vector,
        text: request.text(),
        language: request.language.code().to_owned(),
        filter: Filter {
            product: parameters.product,
            languages: parameters.language.map(|l| vec![Language::new(&l).code().to_owned()]).unwrap_or_default(),
            kind: parameters.kind,
            ..Filter::default()
        },
        limit: limit * 4,
    };
    let found = state.pipeline.search(query, limit).await;
    Ok(axum::Json(found.map_err(|e| Problem::unavailable(e.to_string(), 5))?))
}
