//! What the desk knows grows: imported tickets and articles, every answer that a person approved, and what people make of judgements.

pub mod approved;
pub mod citations;
pub mod index;
pub mod ingest;
pub mod judged;
