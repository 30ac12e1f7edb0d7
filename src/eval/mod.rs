//! The evaluation harness: how good the answers are, with what certainty, and whether the last change made them better.
//!
//! A suite ([`suite`]) names parts; each part runs cases of some data through the stages that it judges ([`parts`]) and
//! writes one record per case ([`record`]). The numbers of the records stand in a table ([`table`]), over which figures
//! with bootstrap intervals are computed ([`figures`], [`stats`]); two tables of the same cases are compared in pairs
//! ([`compare`]). What is measured is the service as it is configured: its settings, prompts, models and code.

pub mod baseline;
pub mod cases;
pub mod checks;
pub mod command;
pub mod compare;
pub mod data;
pub mod desk;
pub mod export;
pub mod figures;
mod files;
pub mod gate;
pub mod invented;
pub mod judge;
pub mod kept;
pub mod label;
pub mod parts;
pub mod perturb;
pub mod ranking;
pub mod record;
pub mod report;
pub mod run;
pub mod selective;
pub mod shown;
pub mod stats;
pub mod suite;
pub mod table;
pub mod text;

use std::path::Path;
use std::{fs, io};

/// Folder, among kept cases and among kept vectors, of what comes from the team's own store.
pub const OWN_STORE: &str = "own-store";

/// Removes what runs over the team's own store keep in the user's cache folder from run to run: texts of customers and
/// their vectors. Finished reports lie where they were asked for and stay.
///
/// # Errors
/// When a folder is there and cannot be removed.
pub fn forget_own_store() -> io::Result<()> {
    forget_in(&run::cache())
}

fn forget_in(cache: &Path) -> io::Result<()> {
    for kind in [run::CASES, run::VECTORS] {
        match fs::remove_dir_all(cache.join(kind).join(OWN_STORE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Why an evaluation ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The suite itself is wrong.
    #[error("suite {suite}: {reason}")]
    Suite { suite: String, reason: String },
    /// A data set, a baseline or a label file is missing, half written or contradicts itself.
    #[error("{path}: {reason}")]
    Data { path: String, reason: String },
    /// Neither is to blame: a model is missing, the disk is full, a server does not answer.
    #[error("{0:#}")]
    Run(#[from] anyhow::Error),
}

impl EvalError {
    /// For anything that has a path and a reason.
    pub fn data(path: impl AsRef<std::path::Path>, reason: impl std::fmt::Display) -> Self {
        Self::Data { path: path.as_ref().display().to_string(), reason: reason.to_string() }
    }

    /// Exit code of the command: 2 for a bad suite or bad data, 3 when it could not be run. 1 means "worse" and is no error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Suite { .. } | Self::Data { .. } => 2,
            Self::Run(_) => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_from_the_own_store_is_forgotten_and_nothing_else() {
        let cache = tempfile::tempdir().expect("a folder");
        let kept = |path: &str| cache.path().join(path);
        for folder in ["cases/own-store", "vectors/own-store/ab"] {
            fs::create_dir_all(kept(folder)).expect("made");
        }
        for file in ["cases/a.jsonl", "cases/own-store/b.jsonl", "vectors/own-store/ab/c.bin"] {
            fs::write(kept(file), "text").expect("written");
        }
        forget_in(cache.path()).expect("forgotten");
        forget_in(cache.path()).expect("nothing to do");
        assert!(kept("cases/a.jsonl").exists());
        assert!(!kept("cases/own-store").exists() && !kept("vectors/own-store").exists());
    }
}
