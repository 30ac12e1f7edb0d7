//! What the desk knows grows: imported tickets and articles, and every answer that a person approved.

pub mod approved;
pub mod citations;
pub mod index;
pub mod ingest;
