//! Respondo: self-hosted support triage and auto-response.
//!
//! channel -> intake -> embed -> retrieve -> triage -> decide -> draft -> guard -> (send | review) -> learn
//!
//! [`pipeline`] is that line as code; each stage has a folder of its name. `docs/ARCHITECTURE.md` is the map.

pub mod app;
pub mod bench;
pub mod cli;
pub mod decide;
pub mod draft;
pub mod embed;
pub mod endpoint;
pub mod eval;
pub mod events;
pub mod fuzzing;
pub mod http;
pub mod inference;
pub mod intake;
pub mod kernels;
pub mod learn;
pub mod leases;
pub mod logging;
pub mod models;
pub mod personal;
pub mod pipeline;
pub mod replay;
pub mod retrieve;
pub mod review;
pub mod settings;
pub mod store;
pub mod ticket;
pub mod timing;
pub mod triage;
pub mod web;
pub mod worker;
