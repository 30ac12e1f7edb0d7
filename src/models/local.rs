//! Source: a folder on this machine, for machines without a network.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::checked::{CheckedFile, copy};
use super::progress::Progress;
use super::source::{Refusal, Wanted};

/// Copies `FOLDER/MODEL/FILE` or `FOLDER/FILE`, whichever is there.
pub(super) fn fetch(wanted: &Wanted, folder: Option<&Path>, progress: &mut dyn Progress) -> Result<PathBuf, Refusal> {
    let Some(folder) = folder.or(wanted.reach.local_folder.as_deref()) else {
        return Err(Refusal::NotSetUp("RESPONDO_MODELS_SOURCE is not set".to_owned()));
    };
    let name = &wanted.file.name;
    let candidates = [folder.join(wanted.model).join(name), folder.join(name)];
    let Some(from) = candidates.into_iter().find(|path| path.is_file()) else {
        return Err(Refusal::NotSetUp(format!("{} does not hold {name}", folder.display())));
    };
    copy_checked(wanted, &from, progress).map_err(|reason| Refusal::Failed(format!("{}: {reason}", from.display())))
}

fn copy_checked(wanted: &Wanted, from: &Path, progress: &mut dyn Progress) -> Result<PathBuf, String> {
    let mut source = File::open(from).map_err(|error| format!("cannot be opened: {error}"))?;
    let found = source.metadata().map_err(|error| format!("cannot be read: {error}"))?.len();
    if found != wanted.file.size {
        return Err(format!("it has {found} bytes instead of {}", wanted.file.size));
    }
    let target = wanted.partial_file("local");
    let mut checked = CheckedFile::create(&target, wanted.file.size)
        .map_err(|error| format!("cannot write {}: {error}", target.display()))?;
    progress.started(&format!("copying {}", wanted.file.name), wanted.file.size);
    let copied = copy(&mut source, &mut checked, progress);
    progress.finished();
    copied.map_err(|error| error.to_string())?;
    checked.finish(&wanted.file.sha256)
}
