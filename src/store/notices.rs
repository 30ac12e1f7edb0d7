//! What processes that share a store tell each other, as it happens.
//!
//! PostgreSQL passes notices on to whoever listens, in order and without keeping them. What must not be missed is in the
//! store; a listener that lost its connection reads it from there.

use sqlx::postgres::PgListener;

use super::{Store, StoreError};

/// Longest notice in bytes; PostgreSQL takes fewer than 8,000.
pub const LONGEST_NOTICE: usize = 7_900;

/// Notices of other processes and of this one.
pub struct Notices(PgListener);

impl Store {
    /// Listens from now on; None where nobody else can write to this store.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer.
    pub async fn listen(&self) -> Result<Option<Notices>, StoreError> {
        let Some(server) = &self.place.server else { return Ok(None) };
        let mut listener = PgListener::connect(&server.url).await?;
        listener.listen(&channel(&server.schema)).await?;
        Ok(Some(Notices(listener)))
    }

    /// Tells every process that listens, this one too, in this order. Nothing happens where nobody can listen.
    pub async fn tell(&self, notices: &[String]) -> Result<(), StoreError> {
        let Some(server) = &self.place.server else { return Ok(()) };
        let channel = channel(&server.schema);
        let mut tx = self.writer.begin().await?;
        for notice in notices {
            sqlx::query("SELECT pg_notify($1, $2)").bind(&channel).bind(notice).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

impl Notices {
    /// The next notice; None when the connection was lost and notices with it. It is made anew by the next call.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database does not answer; wait before the next call.
    pub async fn next(&mut self) -> Result<Option<String>, StoreError> {
        Ok(self.0.try_recv().await?.map(|notice| notice.payload().to_owned()))
    }
}

fn channel(schema: &str) -> String {
    format!("respondo_{schema}")
}
