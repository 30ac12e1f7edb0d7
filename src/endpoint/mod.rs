//! What model servers have in common, whether they embed or write: how their addresses are shown, when they are left
//! alone, and what of a customer's text they may read.

pub mod address;
pub mod breaker;
pub mod masking;
#[cfg(test)]
pub(crate) mod testing;
