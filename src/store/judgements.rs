//! What people made of the judgements of tickets: what they set right, and what they left as it was.

use jiff::Timestamp;
use uuid::Uuid;

use super::handling::CUSTOMER;
use super::history::cursor;
use super::rows;
use super::{Store, StoreError};
use crate::ticket::{Class, Difficulty, Triage, Urgency};

/// A ticket whose judgement a person at the desk has seen.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenJudgement {
    pub ticket: Uuid,
    /// What it was corrected to, else as it was when the person decided; None where there was none.
    pub urgency: Option<Urgency>,
    pub difficulty: Option<Difficulty>,
    /// A person set one of the two right.
    pub is_corrected: bool,
    /// When the person decided last: what the customer wrote after that played no part.
    pub at: Timestamp,
}

impl Store {
    /// A page of the tickets about whose draft a person has decided, or whose judgement a person at the desk has set right, by id: up
    /// to `limit` after the ticket `after` (None at first). What customers say of the urgency of their own does not count.
    pub async fn seen_judgements(&self, after: Option<Uuid>, limit: u32) -> Result<Vec<SeenJudgement>, StoreError> {
        let found = sqlx::query(
            "SELECT t.id, (SELECT MAX(o.created_at) FROM outcomes o WHERE o.ticket_id = t.id) AS decided_at \
             FROM tickets t WHERE t.id > $1 AND (EXISTS (SELECT 1 FROM outcomes o WHERE o.ticket_id = t.id) \
                OR EXISTS (SELECT 1 FROM corrections c WHERE c.ticket_id = t.id AND c.corrector <> $2)) \
             ORDER BY t.id LIMIT $3",
        )
        .bind(cursor(after))
        .bind(CUSTOMER)
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await?;
        let mut seen = Vec::with_capacity(found.len());
        for row in &found {
            let (ticket, decided) = (rows::id(row, "id")?, rows::optional_time(row, "decided_at")?);
            seen.extend(self.seen_judgement(ticket, decided).await?);
        }
        Ok(seen)
    }

    async fn seen_judgement(
        &self,
        ticket: Uuid,
        decided: Option<Timestamp>,
    ) -> Result<Option<SeenJudgement>, StoreError> {
        let corrections = sqlx::query(
            "SELECT judgement, became, created_at FROM corrections WHERE ticket_id = $1 AND corrector <> $2 ORDER BY id",
        )
        .bind(ticket.to_string())
        .bind(CUSTOMER)
        .fetch_all(&self.reader)
        .await?;
        let mut at = decided;
        let (mut urgency, mut difficulty) = (None, None);
        for row in &corrections {
            match rows::text(row, "judgement")?.as_str() {
                "urgency" => urgency = rows::level::<Urgency>(row, "became")?,
                _ => difficulty = rows::level::<Difficulty>(row, "became")?,
            }
            at = at.max(Some(rows::time(row, "created_at")?));
        }
        let Some(at) = at else { return Ok(None) };
        let judged = sqlx::query(
            "SELECT triage FROM triages WHERE ticket_id = $1 AND created_at <= $2 ORDER BY position DESC LIMIT 1",
        )
        .bind(ticket.to_string())
        .bind(at.as_millisecond())
        .fetch_optional(&self.reader)
        .await?;
        let judged: Option<Triage> = judged.map(|row| rows::json(&row, "triage")).transpose()?;
        Ok(Some(SeenJudgement {
            ticket,
            urgency: urgency.or(judged.as_ref().map(|triage| triage.urgency.label)),
            difficulty: difficulty.or(judged.as_ref().map(|triage| triage.difficulty.label)),
            is_corrected: !corrections.is_empty(),
            at,
        }))
    }
}

impl SeenJudgement {
    /// 1 to 4 as people count the classes of urgency and difficulty, most urgent and easiest first; 0 where there is none.
    pub fn levels(&self) -> [u8; 2] {
        let level = |index: Option<usize>| index.and_then(|index| u8::try_from(index + 1).ok()).unwrap_or(0);
        [level(self.urgency.map(Class::index)), level(self.difficulty.map(Class::index))]
    }
}
