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
mod clock;
mod crash;
mod crashes;
mod damage;
mod database;
mod desk;
mod disk;
mod edge;
mod eval;
mod fuzz;
mod http;
mod injection;
mod keys;
mod learning;
mod limits;
mod logs;
mod model_server;
mod moving;
mod overload;
mod pages;
mod people;
mod personal;
mod processes;
mod quality;
mod server_index;
mod support;
mod tenants;
mod tls;
mod writing;
