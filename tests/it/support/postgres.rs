//! A PostgreSQL server of a test's own, where PostgreSQL is installed.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Where Debian keeps the server's programs, outside of PATH, by version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// A running server; one that was started here is gone when dropped.
pub struct Postgres {
    url: String,
    own: Option<Own>,
}

/// A server that was started here.
struct Own {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
}

impl Postgres {
    /// The server of `RESPONDO_TEST_POSTGRES_URL`, else one of one's own; None, said aloud, where there is neither.
    pub fn find() -> Option<Self> {
        match std::env::var("RESPONDO_TEST_POSTGRES_URL").ok().filter(|url| !url.is_empty()) {
            Some(url) => Some(Self { url, own: None }),
            None => Self::start(),
        }
    }

    /// A server that may be stopped; None, said aloud, where PostgreSQL is not installed.
    pub fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            println!("skipped: PostgreSQL is not installed (Debian: apt-get install postgresql)");
            return None;
        };
        if is_root() && !Command::new("id").arg("postgres").stdout(Stdio::null()).status().is_ok_and(|s| s.success()) {
            println!("skipped: PostgreSQL does not run as root, and there is no user `postgres`");
            return None;
        }
        let folder = tempfile::tempdir().expect("temporary folder");
        if is_root() {
            let owned = Command::new("chown").arg("postgres").arg(folder.path()).status();
            assert!(owned.expect("chown runs").success(), "the folder is the server's");
        }
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let url = format!("postgres://respondo@127.0.0.1:{port}/postgres");
        let own = Own { folder, programs, port };
        let data = own.data();
        let made = ["-D", text(&data), "-U", "respondo", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"];
        own.run("initdb", &made);
        own.start();
        Some(Self { url, own: Some(own) })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Ends the server as a crash would: connections break off, and the next start recovers from the log.
    ///
    /// # Panics
    /// Where the server was not started here.
    pub fn crash(&self) {
        self.own.as_ref().expect("a server of one's own").stop();
    }

    /// Starts it again after [`Postgres::crash`].
    ///
    /// # Panics
    /// Where the server was not started here.
    pub fn start_again(&self) {
        self.own.as_ref().expect("a server of one's own").start();
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // It may be stopped already.
        drop(self.command("pg_ctl", &["-D", text(&self.data()), "-m", "immediate", "stop"]).status());
    }
}

impl Own {
    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn start(&self) {
        let log = self.folder.path().join("server.log");
        let (port, data) = (self.port, self.data());
        let options =
            format!("-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=200");
        self.run("pg_ctl", &["-D", text(&data), "-w", "-t", "120", "-l", text(&log), "-o", &options, "start"]);
    }

    fn stop(&self) {
        self.run("pg_ctl", &["-D", text(&self.data()), "-w", "-t", "120", "-m", "immediate", "stop"]);
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let status = self.command(program, arguments).status().expect("PostgreSQL's program runs");
        let log = std::fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default();
        assert!(status.success(), "{program} {arguments:?}: {status}\n{log}");
    }

    /// One of the server's programs; it refuses to run as root.
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let program = self.programs.join(program);
        let mut command = match is_root() {
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
                command
            }
            false => Command::new(program),
        };
        // The server keeps what it inherits: a pipe would stay open.
        command.args(arguments).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Folder of the server's programs: on PATH, else where Debian keeps them.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = std::fs::read_dir(DEBIAN).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    std::env::split_paths(&path).chain(versions).find(|folder| folder.join("initdb").is_file())
}
