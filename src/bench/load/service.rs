//! The real service in a process of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::client::Client;

/// What `respondo serve` writes before its address.
const LISTENS: &str = "respondo listens on ";
/// Longest wait for the service to listen, to be ready, or to stop.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two looks at `/readyz` and at a process that ends.
const PAUSE: Duration = Duration::from_millis(2);

/// How the service is started.
#[derive(Clone, Debug)]
pub struct Start {
    pub folder: PathBuf,
    /// The settings file of `--config`.
    pub config: Option<PathBuf>,
    /// Set in the environment of the process, beside what it inherits.
    pub environment: Vec<(&'static str, String)>,
}

/// A process of the service, ready or not; killed with this value.
pub struct Process {
    child: Child,
    /// Its address once it listens, or what it said last when it ends before.
    told: mpsc::Receiver<Result<String, String>>,
}

/// A running service; ends with this value.
pub struct Running {
    process: Process,
    pub client: Client,
    /// From the start of the process until `/readyz` said 200.
    pub ready_after: Duration,
    pub started: Instant,
}

impl Start {
    /// A command of this program on the folder, with the environment of the service.
    ///
    /// # Errors
    /// When the path of this program cannot be told.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let program = std::env::current_exe().context("cannot tell the path of this program")?;
        let mut command = Command::new(program);
        command.arg("--data").arg(&self.folder);
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Ok(command)
    }

    /// Starts `respondo serve` on a free port and waits for nothing.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self) -> Result<Process> {
        let mut child = self.command(&["serve", "--port", "0"])?.spawn().context("cannot start the service")?;
        let told = child.stderr.take().context("the service has no standard error")?;
        Ok(Process { child, told: listen(told) })
    }

    /// Starts `respondo serve` on a free port and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be started, ends by itself, or is not ready in time.
    pub fn run(&self) -> Result<Running> {
        let started = Instant::now();
        let process = self.spawn()?;
        let url = process.address()?;
        let client = Client::new(url, std::env::var("RESPONDO_SERVER__API_KEY").ok());
        while !client.is_ready() {
            ensure!(started.elapsed() < PATIENCE, "the service was not ready within {} s", PATIENCE.as_secs());
            std::thread::sleep(PAUSE);
        }
        Ok(Running { process, client, ready_after: started.elapsed(), started })
    }
}

impl Process {
    /// Waits until the service listens; gives its address, `http://...`. To be asked once.
    ///
    /// # Errors
    /// When it ends before, or takes too long.
    pub fn address(&self) -> Result<String> {
        let address = self.address_within(PATIENCE)?;
        address.with_context(|| format!("the service did not listen within {} s", PATIENCE.as_secs()))
    }

    /// The same, for at most `limit`; None when it is over.
    ///
    /// # Errors
    /// When the service ends before.
    pub fn address_within(&self, limit: Duration) -> Result<Option<String>> {
        match self.told.recv_timeout(limit) {
            Ok(Ok(url)) => Ok(Some(url)),
            Ok(Err(last)) => bail!("the service ended before it listened:\n{last}"),
            Err(_) => Ok(None),
        }
    }

    /// How it ended, if it has: with what it said last.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        let last = self.told.recv_timeout(PAUSE).ok().and_then(Result::err).unwrap_or_default();
        Some(format!("the service ended by itself with {status}:\n{last}"))
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(self) {
        // Dropping it does that.
    }

    /// Asks the service to end and waits for it.
    ///
    /// # Errors
    /// When it does not end in time, or ends with a failure.
    pub fn stop(mut self) -> Result<()> {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::TERM);
        }
        let asked = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for the service")? {
                ensure!(status.success(), "the service ended with {status}");
                return Ok(());
            }
            if asked.elapsed() > PATIENCE {
                bail!("the service did not stop within {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl Running {
    /// Highest resident memory so far in MiB, where the system tells.
    pub fn peak_memory_mib(&self) -> Option<f64> {
        crate::bench::requests::peak_memory_of(&format!("/proc/{}/status", self.process.child.id()))
    }

    /// Seconds of processor time used so far, in user and system mode, where the system tells.
    pub fn processor_seconds(&self) -> Option<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.child.id())).ok()?;
        // The name in brackets may hold spaces: fields are counted behind it. utime and stime are fields 14 and 15.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
        // Linux counts in hundredths of a second for every program (USER_HZ).
        Some(ticks / 100.0)
    }

    /// Asks the service to end and waits for it.
    ///
    /// # Errors
    /// When it does not end in time, or ends with a failure.
    pub fn stop(self) -> Result<()> {
        self.process.stop()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing is left to do when it has ended.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Passes on the address that the service writes to its standard error, and the last lines of what it says when it ends;
/// reads all of it, so that it never waits for us.
fn listen(told: impl std::io::Read + Send + 'static) -> mpsc::Receiver<Result<String, String>> {
    let (found, address) = mpsc::channel();
    std::thread::spawn(move || {
        let mut last = Vec::new();
        for line in BufReader::new(told).lines().map_while(Result::ok) {
            let url = line.strip_prefix(LISTENS).and_then(|rest| rest.split_whitespace().next());
            if let Some(url) = url {
                // Nobody listens any more once the process is dropped; so below.
                let _ = found.send(Ok(url.to_owned()));
            }
            last.push(line);
            if last.len() > 5 {
                last.remove(0);
            }
        }
        let _ = found.send(Err(last.join("\n")));
    });
    address
}

/// A data folder of a benchmark for a memory of so many items, kept from run to run, since embedding them takes minutes.
pub fn kept_folder(cache: &Path, benchmark: &str, items: usize) -> PathBuf {
    cache.join("bench").join(format!("{benchmark}-{items}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_what_the_service_says() {
        let said = "note: something\nrespondo listens on http://127.0.0.1:4242 (API page: /docs)\nmore\n";
        let told = listen(said.as_bytes());
        assert_eq!(told.recv().expect("told"), Ok("http://127.0.0.1:4242".to_owned()));
        assert!(told.recv().expect("told").expect_err("ended").ends_with("more"));
        let told = listen("error: the disk is full\n".as_bytes());
        assert!(told.recv().expect("told").expect_err("no address").contains("the disk is full"));
    }
}
