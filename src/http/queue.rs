//! What waits for the team.

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::extract::Query;
use super::problem::Problem;
use super::tickets::check_field;
use crate::store::{QueueFilter, QueueRow};
use crate::ticket::TicketState;

/// Rows of one page at most.
const MAX_ROWS: u32 = 200;

/// Which tickets to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct QueueParameters {
    /// Only this state; by default all that wait for the team.
    state: Option<TicketState>,
    /// Only this language (ISO 639-1).
    #[param(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    language: Option<String>,
    #[param(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    queue: Option<String>,
    /// 1 to 200, 50 by default.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// `cursor` of the last row seen.
    #[param(
        pattern = r"^[1-4]\.([0-9]{1,18}|9223372036854775807)\.[0-9]{1,18}\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
    )]
    cursor: Option<String>,
}

/// A ticket in line.
#[derive(Serialize, ToSchema)]
pub struct QueueEntry {
    #[serde(flatten)]
    pub row: QueueRow,
    /// Minutes until the time that the customer was told; negative when it is over.
    pub minutes_left: Option<i64>,
}

/// The queue: by urgency, then by the time left, then by age. Difficulty has no say in it.
#[utoipa::path(get, path = "/v1/queue", tag = "desk", params(QueueParameters),
    responses((status = 200, body = Vec<QueueEntry>), (status = 400, body = Problem)))]
pub async fn list(
    State(state): State<AppState>,
    Query(parameters): Query<QueueParameters>,
) -> Result<Json<Vec<QueueEntry>>, Problem> {
    let limit = parameters.limit.unwrap_or(50);
    if !(1..=MAX_ROWS).contains(&limit) {
        return Err(Problem::bad_request(format!("limit must be between 1 and {MAX_ROWS}")));
    }
    for (name, value) in [("language", &parameters.language), ("queue", &parameters.queue)] {
        check_field(name, value.as_deref())?;
    }
    let filter = QueueFilter {
        state: parameters.state,
        language: parameters.language,
        queue: parameters.queue,
        limit,
        cursor: parameters.cursor,
    };
    let rows = state.pipeline.store.queue(&filter).await?;
    let now = Timestamp::now();
    let entry = |row: QueueRow| {
        let minutes_left = row.ticket.due_at.map(|due| due.duration_since(now).as_secs() / 60);
        QueueEntry { row, minutes_left }
    };
    Ok(Json(rows.into_iter().map(entry).collect()))
}
