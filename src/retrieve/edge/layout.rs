//! The folder of an index: who has it open, what it was made with, and opening or moving away the engine's files.
//!
//! ```text
//! folder/lock         held (flock) as long as the store is open
//! folder/stamp.json   what the index was made with; written last, so a folder without it is half made
//! folder/changed      there while a build runs in which stored points were changed; see `EdgeStore`
//! folder/opening      there while it is opened: how many processes in a row have begun that
//! folder/points/      the engine's shard
//! ```

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use qdrant_edge::{EdgeShard, OperationResult};
use serde::{Deserialize, Serialize};

use super::engine;
use crate::models::free_space;
use crate::retrieve::RetrieveError;

/// Free disk space, in bytes, below which nothing is added: several times what a batch of points takes.
const LEAST_ROOM: u64 = 16 << 20;

/// What an index was made with. Another model's vectors or another analysis of words cannot be compared with ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub format: u32,
    pub analysis: u32,
    pub model: String,
    pub dimensions: usize,
}

/// Takes the folder, making it where it is missing.
pub(super) fn lock(folder: &Path) -> Result<File, RetrieveError> {
    fs::create_dir_all(folder).map_err(|error| index_error(folder, error))?;
    let file = File::options().create(true).truncate(false).write(true).open(folder.join("lock"));
    let file = file.map_err(|error| index_error(folder, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(RetrieveError::Locked { path: folder.display().to_string() }),
        Err(TryLockError::Error(error)) => Err(index_error(folder, error)),
    }
}

/// Opens that may be begun in a row without an end. A process that is killed while it opens an index is no sign of
/// damage; two are.
const OPENINGS: u32 = 2;

/// Notes that the index is being opened, until [`opened`]. Some damage makes the engine end the process (it asks for more
/// memory than there is), which nothing can catch: such an index would end every process that is started on it.
///
/// # Errors
/// `Rebuild` when the processes before this one have all ended while they opened it.
pub(super) fn opening(folder: &Path) -> Result<(), RetrieveError> {
    let path = opening_path(folder);
    let begun = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u32>().ok()).unwrap_or(0);
    if begun >= OPENINGS {
        return Err(rebuild(folder, "the last processes ended while they opened it"));
    }
    fs::write(&path, (begun + 1).to_string()).map_err(|error| index_error(folder, error))
}

/// Notes that the index was opened, or that it cannot be and that was said.
pub(super) fn opened(folder: &Path) -> Result<(), RetrieveError> {
    fs::remove_file(opening_path(folder)).map_err(|error| index_error(folder, error))
}

/// The engine maps its files: a page that finds no room on the disk ends the process without a word.
pub(super) fn check_room(folder: &Path) -> Result<(), RetrieveError> {
    let free = free_space(folder).map_err(|error| index_error(folder, error))?;
    match free < LEAST_ROOM {
        true => Err(index_error(folder, format!("its disk has {} MB left; free some space", free / 1_000_000))),
        false => Ok(()),
    }
}

/// The shard in `folder`, or a new one where nothing is there yet.
pub(super) fn open(folder: &Path, stamp: &Stamp) -> Result<EdgeShard, RetrieveError> {
    match (read_stamp(folder)?, points_path(folder).exists()) {
        (None, false) => create(folder, stamp),
        (None, true) => Err(rebuild(folder, "it was left half made")),
        (Some(_), false) => Err(rebuild(folder, "its points are gone")),
        (Some(found), true) if found != *stamp => {
            let reason = format!(
                "it was made with {} ({} dimensions, format {}.{}), wanted is {} ({} dimensions, format {}.{})",
                found.model,
                found.dimensions,
                found.format,
                found.analysis,
                stamp.model,
                stamp.dimensions,
                stamp.format,
                stamp.analysis
            );
            Err(rebuild(folder, &reason))
        }
        (Some(_), true) if changed_path(folder).exists() => {
            Err(rebuild(folder, "the process ended while points were changed that a search graph was being built of"))
        }
        (Some(_), true) => load(folder, stamp.dimensions),
    }
}

/// A new shard in `folder`, with its stamp.
pub(super) fn create(folder: &Path, stamp: &Stamp) -> Result<EdgeShard, RetrieveError> {
    let points = points_path(folder);
    fs::create_dir_all(&points).map_err(|error| index_error(folder, error))?;
    let made = catch_unwind(|| -> OperationResult<EdgeShard> {
        let shard = EdgeShard::new(&points, engine::config(stamp.dimensions))?;
        for operation in engine::payload_indexes() {
            shard.update(operation)?;
        }
        shard.flush();
        Ok(shard)
    });
    let shard = match made {
        Ok(Ok(shard)) => shard,
        Ok(Err(error)) => return Err(index_error(folder, error)),
        Err(_) => return Err(index_error(folder, "the engine could not make its files; is the disk full?")),
    };
    write_stamp(folder, stamp).map_err(|error| index_error(folder, error))?;
    Ok(shard)
}

fn load(folder: &Path, dimensions: usize) -> Result<EdgeShard, RetrieveError> {
    let points = points_path(folder);
    // Without this check the engine makes an empty shard in place of lost segments, and nothing would be found.
    let segments = match fs::read_dir(points.join("segments")) {
        Ok(entries) => entries.flatten().count(),
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        Err(error) => return Err(index_error(folder, error)),
    };
    if segments == 0 {
        return Err(rebuild(folder, "its segments are gone"));
    }
    tidy(&points).map_err(|error| match error.kind() {
        ErrorKind::NotFound => rebuild(folder, "its log is gone"),
        _ => index_error(folder, error),
    })?;
    let loaded = catch_unwind(|| {
        let shard = EdgeShard::load(&points, Some(engine::config(dimensions)))?;
        let indexes = shard.info().payload_schema.len();
        OperationResult::Ok((shard, indexes))
    });
    match loaded {
        // The engine leaves a damaged segment out, and makes a bare one where no other is left.
        Ok(Ok((shard, indexes))) if indexes < engine::payload_indexes().len() => {
            super::close(Some(shard));
            Err(rebuild(folder, "its segments are incomplete"))
        }
        Ok(Ok((shard, _))) => Ok(shard),
        Ok(Err(error)) => Err(rebuild(folder, &error.to_string())),
        Err(_) => Err(rebuild(folder, "the engine cannot read it")),
    }
}

/// Removes what the engine leaves behind: builds that were cut off, and closed parts of its write-ahead log, which it
/// never reads again. The last closed part stays, since operations are numbered on from it.
fn tidy(points: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(points.join("temp_segments")) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut closed: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(points.join("wal"))?.flatten() {
        let name = entry.file_name();
        let first = name.to_str().and_then(|name| name.strip_prefix("closed-")).and_then(|number| number.parse().ok());
        closed.extend(first.map(|first| (first, entry.path())));
    }
    closed.sort();
    closed.pop();
    closed.iter().try_for_each(|(_, path)| fs::remove_file(path))
}

fn read_stamp(folder: &Path) -> Result<Option<Stamp>, RetrieveError> {
    match fs::read(stamp_path(folder)) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(stamp) => Ok(Some(stamp)),
            Err(_) => Err(rebuild(folder, "its stamp is unreadable")),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(index_error(folder, error)),
    }
}

/// Writes beside and renames, so that a stamp is whole or absent.
fn write_stamp(folder: &Path, stamp: &Stamp) -> std::io::Result<()> {
    let temporary = folder.join("stamp.json.new");
    fs::write(&temporary, serde_json::to_vec(stamp)?)?;
    File::open(&temporary)?.sync_all()?;
    fs::rename(temporary, stamp_path(folder))
}

/// Moves what is there to `points.old`, replacing an older one.
pub(super) fn move_away(folder: &Path) -> std::io::Result<()> {
    for file in [stamp_path(folder), changed_path(folder), opening_path(folder)] {
        match fs::remove_file(file) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let points = points_path(folder);
    if !points.exists() {
        return Ok(());
    }
    let old = old_path(folder);
    if old.exists() {
        fs::remove_dir_all(&old)?;
    }
    fs::rename(points, old)
}

pub(super) fn points_path(folder: &Path) -> PathBuf {
    folder.join("points")
}

pub(super) fn old_path(folder: &Path) -> PathBuf {
    folder.join("points.old")
}

pub(super) fn changed_path(folder: &Path) -> PathBuf {
    folder.join("changed")
}

fn opening_path(folder: &Path) -> PathBuf {
    folder.join("opening")
}

fn stamp_path(folder: &Path) -> PathBuf {
    folder.join("stamp.json")
}

pub(super) fn index_error(folder: &Path, reason: impl ToString) -> RetrieveError {
    RetrieveError::Index { path: folder.display().to_string(), reason: reason.to_string() }
}

pub(super) fn rebuild(folder: &Path, reason: &str) -> RetrieveError {
    RetrieveError::Rebuild { path: folder.display().to_string(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_ends_the_processes_which_open_it_is_to_be_rebuilt() {
        let folder = tempfile::tempdir().expect("temporary folder");
        for _ in 0..10 {
            opening(folder.path()).expect("not the second in a row");
            opened(folder.path()).expect("noted");
        }
        for _ in 0..OPENINGS {
            opening(folder.path()).expect("an end by chance");
        }
        assert!(matches!(opening(folder.path()), Err(RetrieveError::Rebuild { .. })));
        move_away(folder.path()).expect("moved");
        opening(folder.path()).expect("a new index");
    }

    #[test]
    fn what_the_engine_leaves_behind_is_removed_and_the_end_of_its_log_stays() {
        let folder = tempfile::tempdir().expect("temporary folder");
        fs::create_dir_all(folder.path().join("temp_segments/half")).expect("folder");
        fs::create_dir_all(folder.path().join("wal")).expect("folder");
        for name in ["closed-0", "closed-9", "closed-10", "open-4", "first-index"] {
            fs::write(folder.path().join("wal").join(name), "").expect("file");
        }
        tidy(folder.path()).expect("tidied");
        tidy(folder.path()).expect("nothing left to do");
        let left = fs::read_dir(folder.path().join("wal")).expect("folder").flatten();
        let mut left: Vec<_> = left.map(|entry| entry.file_name().into_string().expect("name")).collect();
        left.sort();
        assert_eq!(left, ["closed-10", "first-index", "open-4"]);
        assert!(!folder.path().join("temp_segments").exists());
    }
}
