//! Figures of the desk by day, and requests that got no good answer.

use jiff::Timestamp;
use uuid::Uuid;

use super::rows::{self, now_ms};
use super::{Store, StoreError};
use crate::ticket::Language;

const DAY_MS: i64 = 86_400_000;

/// One day (UTC) of one desk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DayFigures {
    /// Days since 1970.
    pub day: i64,
    pub asked: u64,
    /// Went out without a person.
    pub automatic: u64,
    pub approved: u64,
    pub edited: u64,
    pub rejected: u64,
    pub escalated: u64,
}

/// A queue's part in the figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueFigures {
    /// None for tickets without a queue.
    pub queue: Option<String>,
    pub asked: u64,
    pub waiting: u64,
    /// Waiting longer than the customer was told.
    pub late: u64,
}

/// A request without a good answer: acknowledged only, escalated, or its draft rejected.
#[derive(Clone, Debug, PartialEq)]
pub struct Unanswered {
    pub ticket: Uuid,
    pub subject: String,
    pub body: String,
    pub language: Language,
    pub asked_at: Timestamp,
}

impl Store {
    /// The last `days` days, oldest first, today included; with those conversations that were removed and counted.
    pub async fn figures_by_day(&self, days: u32) -> Result<Vec<DayFigures>, StoreError> {
        let today = now_ms() / DAY_MS;
        let first = today - i64::from(days.max(1)) + 1;
        let mut figures: Vec<DayFigures> =
            (first..=today).map(|day| DayFigures { day, ..DayFigures::default() }).collect();
        let automatic = self.dialect.json_is_true("decision", &["automatic"]);
        let query = format!(
            "SELECT created_at / 86400000 AS day, 'asked' AS what, COUNT(*) AS n FROM tickets WHERE created_at >= $1 \
             GROUP BY 1 UNION ALL \
             SELECT created_at / 86400000, outcome, COUNT(*) FROM outcomes WHERE created_at >= $2 GROUP BY 1, 2 UNION ALL \
             SELECT created_at / 86400000, 'automatic', COUNT(*) FROM decisions \
             WHERE created_at >= $3 AND {automatic} GROUP BY 1 UNION ALL \
             SELECT day, what, CAST(SUM(n) AS BIGINT) FROM past_figures WHERE day >= $4 GROUP BY 1, 2"
        );
        let found = sqlx::query(&query)
            .bind(first * DAY_MS)
            .bind(first * DAY_MS)
            .bind(first * DAY_MS)
            .bind(first)
            .fetch_all(&self.reader)
            .await?;
        for row in &found {
            let day = rows::integer(row, "day")?;
            let count = rows::count(row, "n")?;
            let Some(figures) = figures.iter_mut().find(|figures| figures.day == day) else { continue };
            match rows::text(row, "what")?.as_str() {
                "asked" => figures.asked += count,
                "automatic" => figures.automatic += count,
                "approved" => figures.approved += count,
                "edited" => figures.edited += count,
                "rejected" => figures.rejected += count,
                "escalated" => figures.escalated += count,
                _ => {}
            }
        }
        Ok(figures)
    }

    /// Every queue, by name; `asked` counts removed conversations too.
    pub async fn figures_by_queue(&self) -> Result<Vec<QueueFigures>, StoreError> {
        let found = sqlx::query(
            "SELECT queue, CAST(SUM(asked) AS BIGINT) AS asked, CAST(SUM(waiting) AS BIGINT) AS waiting, \
                    CAST(SUM(late) AS BIGINT) AS late \
             FROM (SELECT queue, COUNT(*) AS asked, \
                          COUNT(*) FILTER (WHERE state IN ('received', 'review', 'escalated')) AS waiting, \
                          COUNT(*) FILTER (WHERE state IN ('received', 'review', 'escalated') AND due_at < $1) AS late \
                   FROM tickets GROUP BY queue UNION ALL \
                   SELECT NULLIF(queue, ''), n, 0, 0 FROM past_figures WHERE what = 'asked') AS figures \
             GROUP BY queue ORDER BY queue NULLS FIRST",
        )
        .bind(now_ms())
        .fetch_all(&self.reader)
        .await?;
        let figures = |row| {
            Ok(QueueFigures {
                queue: rows::optional_text(row, "queue")?,
                asked: rows::count(row, "asked")?,
                waiting: rows::count(row, "waiting")?,
                late: rows::count(row, "late")?,
            })
        };
        found.iter().map(figures).collect()
    }

    /// The latest requests without a good answer, newest first.
    pub async fn unanswered(&self, limit: u32) -> Result<Vec<Unanswered>, StoreError> {
        let found = sqlx::query(
            "SELECT t.id, t.subject, t.language, t.created_at, \
                    (SELECT m.body FROM messages m WHERE m.ticket_id = t.id ORDER BY m.position LIMIT 1) AS body \
             FROM tickets t WHERE t.id IN ( \
                 SELECT d.ticket_id FROM decisions d WHERE d.action IN ('acknowledge', 'escalate') UNION \
                 SELECT o.ticket_id FROM outcomes o WHERE o.outcome IN ('rejected', 'escalated')) \
             ORDER BY t.created_at DESC, t.id DESC LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await?;
        let unanswered = |row| {
            Ok(Unanswered {
                ticket: rows::id(row, "id")?,
                subject: rows::text(row, "subject")?,
                body: rows::optional_text(row, "body")?.unwrap_or_default(),
                language: Language::new(&rows::text(row, "language")?),
                asked_at: rows::time(row, "created_at")?,
            })
        };
        found.iter().map(unanswered).collect()
    }
}
