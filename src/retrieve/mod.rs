//! Find what the desk already knows: dense and lexical search over the memory, fused and folded.

pub mod background;
pub mod bench;
pub mod bm25;
pub mod citations;
#[cfg(feature = "edge")]
pub mod edge;
pub mod fuse;
pub mod memory;
mod names;
pub mod passages;
pub mod question_sets;
pub mod rerank;
pub mod retriever;
pub mod server;
pub mod transfer;

#[cfg(test)]
mod contract;

use crate::ticket::MemoryKind;
use uuid::Uuid;

pub use background::Background;
pub use citations::Citations;
pub use passages::{PointPlan, passage_text, plan_points, split_passages};
pub use retriever::{Ranked, Retriever, fold_duplicates};
pub use server::LinkState;

/// One searchable point: a whole resolved ticket, or one passage of an article.
#[derive(Clone, Debug)]
pub struct MemoryPoint {
    pub id: Uuid,
    /// [`crate::ticket::MemoryItem::id`]; an article has several points with the same one.
    pub memory_id: String,
    pub kind: MemoryKind,
    pub product: Option<String>,
    pub language: String,
    /// Unit vector of the problem (ticket) or of the title (article).
    pub problem: Vec<f32>,
    /// Unit vector of the solution (ticket) or of the passage (article).
    pub solution: Vec<f32>,
    /// Title and problem, for BM25.
    pub problem_text: String,
    /// Solution or passage, for BM25.
    pub solution_text: String,
    /// Position of the passage in the article's passages, 0 for tickets.
    pub passage: usize,
}

#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub product: Option<String>,
    /// Any of these; empty means any language.
    pub languages: Vec<String>,
    pub kind: Option<MemoryKind>,
    /// Memory ids never to return.
    pub exclude: Vec<String>,
    /// The only memory ids to return; empty means any.
    pub only: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct SearchQuery {
    /// Unit vector of `text`; empty (no embedder) leaves only the lexical leg.
    pub vector: Vec<f32>,
    pub text: String,
    /// Language of `text`, for stemming and stop words.
    pub language: String,
    pub filter: Filter,
    /// Points wanted from each leg in the language of `text`, and again as many in all other languages.
    pub limit: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    pub point: Uuid,
    pub memory_id: String,
    pub passage: usize,
    pub kind: MemoryKind,
    /// Language of the stored text.
    pub language: String,
    pub score: f32,
}

/// The ranked lists of the three searches, best first, not yet fused. A point that one leg found is scored by all of them:
/// it is missing from a leg only where the leg has nothing to say (no vector in the request, no word in common).
#[derive(Clone, Debug, Default)]
pub struct Legs {
    /// Cosine to [`MemoryPoint::problem`].
    pub problem: Vec<Hit>,
    /// Cosine to [`MemoryPoint::solution`].
    pub solution: Vec<Hit>,
    /// BM25 over both texts.
    pub lexical: Vec<Hit>,
    /// What unrelated texts score, for each kind and language in the memory; empty without a vector in the request.
    pub background: Vec<Background>,
}

/// Where the points live. A projection of the ticket store: it can be deleted and rebuilt at any time.
pub trait VectorStore: Send + Sync {
    /// Adds or replaces by point id.
    fn upsert(&self, points: &[MemoryPoint]) -> Result<(), RetrieveError>;
    /// Deletes all points of these memory items.
    fn delete(&self, memory_ids: &[String]) -> Result<(), RetrieveError> {
        self.prune(memory_ids, &[])
    }
    /// Deletes the points of these memory items, but for those with an id in `kept`.
    fn prune(&self, memory_ids: &[String], kept: &[Uuid]) -> Result<(), RetrieveError>;
    fn search(&self, query: &SearchQuery) -> Result<Legs, RetrieveError>;
    /// Number of points.
    fn count(&self) -> Result<u64, RetrieveError>;
    /// Makes everything upserted so far survive a crash; only then may the store mark it as indexed.
    fn checkpoint(&self) -> Result<(), RetrieveError>;
    /// For after a bulk load: takes the time to make later searches fast. Searches and updates go on meanwhile.
    fn compact(&self) -> Result<(), RetrieveError>;
    /// Deletes every point (before a rebuild).
    fn clear(&self) -> Result<(), RetrieveError>;
    /// Before all points are written anew. A store that can goes on answering with the old ones until
    /// [`VectorStore::finish_rebuild`].
    fn begin_rebuild(&self) -> Result<(), RetrieveError> {
        self.clear()
    }
    /// All points of a rebuild are written: from now on these are searched.
    fn finish_rebuild(&self) -> Result<(), RetrieveError> {
        Ok(())
    }
    /// Makes ready what lies beyond this process, where anything does. Called before first use and every few seconds.
    ///
    /// # Errors
    /// `Server` while it cannot be used, and `Rebuild` when it holds what was made with another model.
    fn prepare(&self) -> Result<Prepared, RetrieveError> {
        Ok(Prepared::Before)
    }
    /// How things stand with the server; None where there is none.
    fn link(&self) -> Option<LinkState> {
        None
    }
}

/// What [`VectorStore::prepare`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// The store was ready.
    Before,
    /// It has become ready now: it may hold less than the ticket store believes.
    Now,
}

#[derive(Debug, thiserror::Error)]
pub enum RetrieveError {
    #[error("vector index at {path}: {reason}")]
    Index { path: String, reason: String },
    /// The folder is unreadable, half written or made by another version: reset it and index the ticket store again.
    #[error("vector index at {path} has to be rebuilt: {reason}; run `respondo reindex`")]
    Rebuild { path: String, reason: String },
    #[error("vector has {got} dimensions, the index holds {want}; run `respondo reindex`")]
    Dimensions { got: usize, want: usize },
    #[error("vector holds a value that is no finite number; check the embedding model with `respondo doctor`")]
    NotFinite,
    #[error("vector server at {url}: {reason}")]
    Server { url: String, reason: String },
    #[error("another process uses the data folder {path}; stop it or choose another with --data")]
    Locked { path: String },
}

/// Refuses what no engine can rank: a vector of another length, or with a value that is no number.
fn check_vector(vector: &[f32], dimensions: usize) -> Result<(), RetrieveError> {
    if vector.len() != dimensions {
        return Err(RetrieveError::Dimensions { got: vector.len(), want: dimensions });
    }
    if vector.iter().all(|value| value.is_finite()) { Ok(()) } else { Err(RetrieveError::NotFinite) }
}
