//! A peer in a process of its own, asked line by line: see `bench/peers/answering.py`.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::models::default_cache_dir;

/// Folder of the programs that run the peers, in the repository.
const PROGRAMS: &str = "bench/peers";

/// Where `scripts/peers` put the peers.
#[derive(Clone, Debug)]
pub struct Installed {
    folder: PathBuf,
}

impl Installed {
    /// Looks for the peers in the cache folder.
    ///
    /// # Errors
    /// When they are not, or not wholly, installed, or the working folder is not the repository.
    pub fn find() -> Result<Self> {
        Self::find_in(&default_cache_dir().join("peers"), Path::new(PROGRAMS))
    }

    fn find_in(folder: &Path, programs: &Path) -> Result<Self> {
        ensure!(programs.is_dir(), "{} is not here; run this in the repository's folder", programs.display());
        let installed = folder.join("installed");
        let is_whole = installed.is_file() && folder.join("bin/python").exists();
        ensure!(is_whole, "the peers are not installed in {}; run scripts/peers", folder.display());
        let same = std::fs::read(&installed).ok() == std::fs::read(programs.join("requirements.txt")).ok();
        ensure!(same, "the peers in {} are of other versions than wanted; run scripts/peers", folder.display());
        Ok(Self { folder: folder.to_owned() })
    }
}

/// A running peer; it ends when this is dropped.
pub struct Driver {
    name: &'static str,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Driver {
    /// Starts `bench/peers/NAME_driver.py`; what it says beside its answers goes to `NAME.log` in the peers' folder.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start(installed: &Installed, name: &'static str) -> Result<Self> {
        let program = Path::new(PROGRAMS).join(format!("{name}_driver.py"));
        let log = installed.folder.join(format!("{name}.log"));
        let errors = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut child = Command::new(installed.folder.join("bin/python"))
            .arg("-B")
            .arg(&program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start {}; run scripts/peers", program.display()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the peer {name} has no pipes");
        };
        Ok(Self { name, child, input, output: BufReader::new(output), log })
    }

    /// Has the peer do one thing; `arguments` is an object.
    ///
    /// # Errors
    /// When the peer failed, ended, or answered in another form.
    pub fn ask<T: DeserializeOwned>(&mut self, what: &str, arguments: Value) -> Result<T> {
        let ended = || format!("the peer {} ended; {} says why", self.name, self.log.display());
        writeln!(self.input, "{}", request(what, arguments)).and_then(|()| self.input.flush()).with_context(ended)?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(!line.is_empty(), ended());
        answer(&line).with_context(|| format!("peer {}", self.name))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // It may have ended already, and nothing is lost with it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A request on one line: the arguments and what is to be done.
fn request(what: &str, mut arguments: Value) -> Value {
    if let Some(object) = arguments.as_object_mut() {
        object.insert("do".to_owned(), json!(what));
    }
    arguments
}

fn answer<T: DeserializeOwned>(line: &str) -> Result<T> {
    let mut value: Value = serde_json::from_str(line).context("the answer is not JSON")?;
    if let Some(error) = value.get_mut("error") {
        bail!("{}", error.take().as_str().unwrap_or("failed without a word"));
    }
    serde_json::from_value(value).context("the answer has another form")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Loaded {
        about: String,
    }

    #[test]
    fn requests_are_one_line_and_answers_are_read_or_refused() {
        let line = request("bulk", json!({"texts": ["one\ntwo"]})).to_string();
        assert!(!line.contains('\n') && line.contains("\"do\":\"bulk\""), "{line}");
        assert_eq!(answer::<Loaded>(r#"{"about": "x 1"}"#).expect("reads"), Loaded { about: "x 1".to_owned() });
        let failed = answer::<Loaded>(r#"{"error": "ValueError: no such file"}"#).expect_err("says what failed");
        assert!(failed.to_string().contains("no such file"));
        assert!(answer::<Loaded>(r#"{"other": 1}"#).is_err() && answer::<Loaded>("Traceback").is_err());
    }

    #[test]
    fn peers_that_are_missing_or_of_other_versions_are_told_apart() {
        let (cache, programs) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
        let find = || Installed::find_in(cache.path(), programs.path()).map_err(|error| error.to_string());
        let missing = find().expect_err("nothing there");
        assert!(missing.contains("not installed") && missing.contains("scripts/peers"), "{missing}");
        let put = |folder: &Path, name: &str, text: &str| {
            std::fs::create_dir_all(folder.join(name).parent().expect("a folder")).expect("folder");
            std::fs::write(folder.join(name), text).expect("writable");
        };
        put(cache.path(), "bin/python", "");
        put(cache.path(), "installed", "a==1\n");
        put(programs.path(), "requirements.txt", "a==2\n");
        assert!(find().expect_err("too old").contains("other versions"));
        put(cache.path(), "installed", "a==2\n");
        assert!(find().is_ok());
        let elsewhere = Installed::find_in(cache.path(), Path::new("no/such")).expect_err("not the repository");
        assert!(elsewhere.to_string().contains("repository"));
    }
}
