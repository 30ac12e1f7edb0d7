//! What every source is given and how it says no.

use std::path::{Path, PathBuf};

use super::manifest::ModelFile;

/// How the sources reach the outside; the same for all models.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    /// Looked into by local sources, and for wheels by index sources.
    pub(super) local_folder: Option<PathBuf>,
    /// Base address of the hub, without a slash at the end.
    pub(super) hub: String,
    /// Ways to call pip, the first that works is taken.
    pub(super) pips: Vec<Vec<String>>,
}

/// One file to be had.
pub(super) struct Wanted<'a> {
    /// The model's name.
    pub(super) model: &'a str,
    pub(super) file: &'a ModelFile,
    /// Folder for what is incomplete; on the same file system as the final place, so that a rename is enough.
    pub(super) partial: &'a Path,
    pub(super) reach: &'a Reach,
}

impl Wanted<'_> {
    /// Where a source builds the file before it has been checked.
    pub(super) fn partial_file(&self, suffix: &str) -> PathBuf {
        self.partial.join(format!("{}.{suffix}", self.file.name))
    }
}

/// Why a source did not give the file.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    /// It is not set up; nothing was tried.
    NotSetUp(String),
    /// It could not be reached at all; trying it for other files is a waste of time.
    Unreachable(String),
    /// It was tried and failed.
    Failed(String),
}

impl Refusal {
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::NotSetUp(reason) | Self::Unreachable(reason) | Self::Failed(reason) => reason,
        }
    }
}
