//! A running `respondo serve`.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Client, Env, command, memory};

/// Longest wait for a service to listen; loading a model on a busy machine takes seconds.
const START_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_secs(240);

/// A service process; killed when dropped.
pub struct Service {
    child: Child,
    address: SocketAddr,
    said: Arc<Mutex<String>>,
    /// Held for as long as the service runs.
    data: PathBuf,
    _folder: Option<tempfile::TempDir>,
}

/// How a service ended that should have started.
#[derive(Debug)]
pub struct Failed {
    pub status: ExitStatus,
    pub said: String,
}

/// The service that tests share which do not stop it: sample memory, no language model. It lives as long as a test holds
/// it, so that no process is left behind when the last test ends. None without the embedding model.
pub fn shared() -> Option<Arc<Service>> {
    static RUNNING: Mutex<Weak<Service>> = Mutex::new(Weak::new());
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(service) = running.upgrade() {
        return Some(service);
    }
    let service = Arc::new(Service::with_memory(&[])?);
    *running = Arc::downgrade(&service);
    Some(service)
}

impl Service {
    /// A service with the sample memory in a folder of its own.
    pub fn with_memory(env: Env) -> Option<Self> {
        Some(Self::in_folder(memory()?, env))
    }

    /// A service that keeps its data folder for as long as it runs.
    pub fn in_folder(folder: tempfile::TempDir, env: Env) -> Self {
        let mut service = Self::on(folder.path(), env);
        service._folder = Some(folder);
        service
    }

    /// A service on a data folder.
    ///
    /// # Panics
    /// When it does not start.
    pub fn on(data: &Path, env: Env) -> Self {
        Self::try_on(data, env).unwrap_or_else(|failed| panic!("service ended with {}: {}", failed.status, failed.said))
    }

    /// A service on a data folder, or how it ended.
    pub fn try_on(data: &Path, env: Env) -> Result<Self, Failed> {
        let mut serve = command(data, env);
        serve.args(["serve", "--port", "0"]);
        Self::spawn(serve, data)
    }

    /// Any command that ends up as a service on `data`.
    pub fn spawn(mut command: Command, data: &Path) -> Result<Self, Failed> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let said = Arc::new(Mutex::new(String::new()));
        let lines = listen(&mut child, Arc::clone(&said));
        let until = Instant::now() + START_LIMIT;
        loop {
            match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(address) = address_in(&line) {
                        let data = data.to_owned();
                        return Ok(Self { child, address, said, data, _folder: None });
                    }
                }
                Err(_) => {
                    // Ended without listening, or hangs: then it is ended here, and its status says so.
                    if Instant::now() >= until {
                        drop(child.kill());
                    }
                    let status = child.wait().expect("ended");
                    return Err(Failed { status, said: text(&said) });
                }
            }
        }
    }

    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn process(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its standard error so far.
    pub fn said(&self) -> String {
        text(&self.said)
    }

    /// SIGKILL: no chance to do anything more.
    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }

    /// SIGTERM.
    pub fn ask_to_stop(&self) {
        kill_process(self.process(), Signal::TERM).expect("signalled");
    }

    /// Waits until it has ended; gives its status and how long that took.
    pub fn ended(mut self) -> (ExitStatus, Duration, String) {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("waiting") {
                return (status, started.elapsed(), self.said());
            }
            assert!(started.elapsed() < STOP_LIMIT, "the service does not end: {}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGTERM, and a clean end.
    pub fn stop(self) {
        self.ask_to_stop();
        let (status, _, said) = self.ended();
        assert!(status.success(), "{status}: {said}");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Passes on what the child says, line by line, and keeps it.
fn listen(child: &mut Child, said: Arc<Mutex<String>>) -> Receiver<String> {
    let (sender, receiver) = channel();
    let stderr = BufReader::new(child.stderr.take().expect("piped"));
    std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            {
                let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                said.push_str(&line);
                said.push('\n');
            }
            // After the start nobody listens; the text is kept all the same.
            drop(sender.send(line));
        }
    });
    receiver
}

fn text(said: &Mutex<String>) -> String {
    said.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The address in `respondo listens on http://ADDRESS (...)`, or with `https`.
fn address_in(line: &str) -> Option<SocketAddr> {
    let url = line.strip_prefix("respondo listens on ")?.split(' ').next()?;
    url.split_once("://")?.1.parse().ok()
}
