//! What the vectors and payload fields of a point are called, in the embedded engine and on a server alike: points move
//! between the two as they are.

pub(super) const PROBLEM: &str = "problem";
pub(super) const SOLUTION: &str = "solution";
pub(super) const BM25: &str = "bm25";
pub(super) const MEMORY_ID: &str = "memory_id";
pub(super) const KIND: &str = "kind";
pub(super) const PRODUCT: &str = "product";
pub(super) const LANGUAGE: &str = "language";
pub(super) const PASSAGE: &str = "passage";
