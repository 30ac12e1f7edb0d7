//! The whole program from outside: the built `respondo` binary with the real models and the shipped samples.
//!
//! One binary with a module per concern, since linking is what costs. Tests that need a model which is not in the cache
//! folder say so and pass; `respondo models pull` fetches it. Nothing here reaches beyond 127.0.0.1.

mod attachments;
mod audit;
mod backup;
mod bad_input;
mod browser;
mod cli;
mod crash;
mod damage;
mod desk;
mod eval;
mod http;
mod limits;
mod pages;
mod personal;
mod quality;
mod support;
mod writing;
