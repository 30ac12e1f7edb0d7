//! A team's own heads in its data folder: what a start takes, what training puts there, and the way back.

use std::fs;
use std::path::{Path, PathBuf};

use super::TriageModel;
use super::heads::{Heads, TriageError};
use super::train::{previous, replace};

/// The team's own heads.
const FILE: &str = "triage.bin";

/// Where the team's own heads are, when there are some.
pub fn path(data: &Path) -> PathBuf {
    data.join(FILE)
}

/// The team's own heads; None where there are none, or they were made from others than those of this program.
///
/// # Errors
/// When there are some and they cannot be read.
pub fn present(data: &Path) -> Result<Option<Heads>, TriageError> {
    let path = path(data);
    if !path.exists() {
        return Ok(None);
    }
    let heads = Heads::load(&path)?;
    let is_ours = heads.header.own.as_ref().is_some_and(|own| own.base == TriageModel::embedded_digest());
    Ok(Some(heads).filter(|_| is_ours))
}

/// The model that a service with this data folder judges by: the team's own heads, else those of the program. Own heads that cannot be
/// used are named in the log and left alone.
///
/// # Errors
/// When the program was built with weights of other features.
pub fn model(data: &Path) -> Result<TriageModel, TriageError> {
    let path = path(data);
    let again = "learn anew with `respondo train desk`, or remove the file";
    match present(data) {
        Ok(Some(_)) => return TriageModel::load(&path),
        Ok(None) if path.exists() => {
            tracing::warn!("{}: made from the weights of another version, not used; {again}", path.display());
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "{}: not used; {again}", path.display()),
    }
    TriageModel::embedded()
}

/// Puts heads into the data folder; those that were there are kept for [`undo`].
///
/// # Errors
/// When the folder cannot be written to.
pub fn save(data: &Path, heads: &Heads) -> Result<PathBuf, TriageError> {
    let path = path(data);
    replace(&path, &heads.to_bytes()?)?;
    Ok(path)
}

/// What [`undo`] brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undone {
    /// The heads before the last ones are back.
    Previous,
    /// There were none before: the program's own count again.
    BuiltIn,
    /// There were no own heads.
    Nothing,
}

/// Takes back the last [`save`].
///
/// # Errors
/// When the folder cannot be written to.
pub fn undo(data: &Path) -> Result<Undone, TriageError> {
    let path = path(data);
    let previous = previous(&path);
    let failed = |source| TriageError::Write { path: path.display().to_string(), source };
    if previous.exists() {
        fs::rename(&previous, &path).map_err(failed)?;
        return Ok(Undone::Previous);
    }
    if path.exists() {
        fs::remove_file(&path).map_err(failed)?;
        return Ok(Undone::BuiltIn);
    }
    Ok(Undone::Nothing)
}

#[cfg(test)]
mod tests {
    use super::super::heads::Own;
    use super::super::heads::tests::sample;
    use super::*;

    fn own(base: &str, seed: u64) -> Heads {
        let mut heads = sample(4);
        heads.header.seed = seed;
        heads.header.own = Some(Own { base: base.to_owned(), until: jiff::Timestamp::UNIX_EPOCH });
        heads
    }

    #[test]
    fn the_own_heads_count_until_they_are_taken_back() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let data = data.path();
        let name = || model(data).expect("a model").embedder().to_owned();
        let built_in = name();
        assert_eq!(undo(data).expect("nothing to do"), Undone::Nothing);
        let base = TriageModel::embedded_digest();
        for seed in [1, 2] {
            save(data, &own(base, seed)).expect("the folder can be written to");
        }
        assert_eq!(name(), "sample");
        assert_ne!(model(data).expect("a model").digest(), base);
        assert_eq!(undo(data).expect("one before"), Undone::Previous);
        assert_eq!(present(data).expect("readable").expect("own heads").header.seed, 1);
        assert_eq!(undo(data).expect("the first"), Undone::BuiltIn);
        assert_eq!((name(), present(data).expect("readable")), (built_in, None));
    }

    #[test]
    fn heads_that_do_not_fit_are_left_alone() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let data = data.path();
        let built_in = TriageModel::embedded().expect("built-in weights");
        save(data, &own("another version", 1)).expect("the folder can be written to");
        assert_eq!(model(data).expect("a model").digest(), built_in.digest());
        fs::write(path(data), b"RTRI, cut").expect("writable");
        assert!(present(data).is_err());
        assert_eq!(model(data).expect("a model").digest(), built_in.digest());
        assert!(path(data).exists());
    }
}
