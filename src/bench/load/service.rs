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
}

/// A running service; ends with this value.
pub struct Running {
    child: Child,
    pub client: Client,
    /// From the start of the process until `/readyz` said 200.
    pub ready_after: Duration,
    pub started: Instant,
}

impl Start {
    /// Starts `respondo serve` on a free port and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be started, ends by itself, or is not ready in time.
    pub fn run(&self) -> Result<Running> {
        let program = std::env::current_exe().context("cannot tell the path of this program")?;
        let mut command = Command::new(program);
        command.arg("--data").arg(&self.folder);
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        command.args(["serve", "--port", "0"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = command.spawn().context("cannot start the service")?;
        let told = child.stderr.take().context("the service has no standard error")?;
        let address = address(told);
        let mut running = match address {
            Ok(url) => Running { child, client: Client::new(url, None), ready_after: Duration::ZERO, started },
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        running.client = Client::new(running.client.url().to_owned(), std::env::var("RESPONDO_SERVER__API_KEY").ok());
        while !running.client.is_ready() {
            ensure!(started.elapsed() < PATIENCE, "the service was not ready within {} s", PATIENCE.as_secs());
            std::thread::sleep(PAUSE);
        }
        running.ready_after = started.elapsed();
        Ok(running)
    }
}

impl Running {
    /// Highest resident memory so far in MiB, where the system tells.
    pub fn peak_memory_mib(&self) -> Option<f64> {
        crate::bench::requests::peak_memory_of(&format!("/proc/{}/status", self.child.id()))
    }

    /// Seconds of processor time used so far, in user and system mode, where the system tells.
    pub fn processor_seconds(&self) -> Option<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        // The name in brackets may hold spaces: fields are counted behind it. utime and stime are fields 14 and 15.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
        // Linux counts in hundredths of a second for every program (USER_HZ).
        Some(ticks / 100.0)
    }

    /// Asks the service to end and waits for it.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(mut self) -> Result<()> {
        self.ask_to_end();
        let asked = Instant::now();
        while self.child.try_wait().context("cannot wait for the service")?.is_none() {
            if asked.elapsed() > PATIENCE {
                bail!("the service did not stop within {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn ask_to_end(&self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing is left to do when it has ended.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The address that the service writes to its standard error, which is read to its end so that it never waits for us.
fn address(told: impl std::io::Read + Send + 'static) -> Result<String> {
    let (found, address) = mpsc::channel();
    std::thread::spawn(move || {
        let mut last = Vec::new();
        for line in BufReader::new(told).lines().map_while(Result::ok) {
            let url = line.strip_prefix(LISTENS).and_then(|rest| rest.split_whitespace().next());
            if let Some(url) = url {
                // Nobody listens any more once the address is known.
                let _ = found.send(Ok(url.to_owned()));
            }
            last.push(line);
            if last.len() > 5 {
                last.remove(0);
            }
        }
        let _ = found.send(Err(last.join("\n")));
    });
    match address.recv_timeout(PATIENCE) {
        Ok(Ok(url)) => Ok(url),
        Ok(Err(last)) => bail!("the service ended before it listened:\n{last}"),
        Err(_) => bail!("the service did not listen within {} s", PATIENCE.as_secs()),
    }
}

/// A data folder for a memory of so many items, kept from run to run, since embedding them takes minutes.
pub fn kept_folder(cache: &Path, items: usize) -> PathBuf {
    cache.join("bench").join(format!("load-{items}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_what_the_service_says() {
        let told = "note: something\nrespondo listens on http://127.0.0.1:4242 (API page: /docs)\nmore\n";
        assert_eq!(address(told.as_bytes()).expect("address"), "http://127.0.0.1:4242");
        let error = address("error: the disk is full\n".as_bytes()).expect_err("no address");
        assert!(error.to_string().contains("the disk is full"));
    }
}
