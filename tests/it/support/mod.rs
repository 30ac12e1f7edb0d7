//! What the tests share: a memory filled once, commands, services, and a client that stays on this machine.

mod browser;
mod client;
mod desk;
#[path = "../../../src/endpoint/testing.rs"]
pub mod model_server;
mod network;
mod postgres;
mod service;

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use respondo::app::EMBEDDING_MODEL;
use respondo::inference::CHAT_MODEL;
use respondo::models::{Manifest, ModelStore, Status, default_cache_dir};
use serde_json::Value;

pub use browser::{DARK, Driver, ENGLISH, Look, PHONE, SPANISH, Window};
pub use client::{Client, Event, Reply, encode, ids as found_ids};
pub use desk::{Desk, PASSWORD, post_form, setup_token, setup_token_of, ticket_of};
pub use network::Network;
pub use postgres::Postgres;
pub use service::{Service, shared};

/// The sample requests that are not in the memory.
pub const REQUESTS: &str = include_str!("../../../samples/requests.jsonl");
/// Part of an environment: variable and value.
pub type Env<'a> = &'a [(&'a str, &'a str)];

/// What a finished command left.
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Standard output of a command that succeeded.
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{}\n{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Standard error of a command that failed in an orderly way: with a message, not by a signal or a panic.
    pub fn failed(self) -> String {
        assert_eq!(self.status.code(), Some(1), "{}\n{}", self.stdout, self.stderr);
        assert!(self.stderr.contains("error: "), "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self.stderr
    }
}

/// Folder of samples and other files of the project.
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The command with nothing of the caller's settings in its environment; the language model is off unless `env` says
/// otherwise.
pub fn command(data: &Path, env: Env) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_respondo"));
    configure(&mut command, data, env);
    command
}

/// Gives `command` the environment of [`command`].
pub fn configure(command: &mut Command, data: &Path, env: Env) {
    let wanted = ["RESPONDO_CACHE", "RESPONDO_MODELS_SOURCE"];
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("RESPONDO_") && !wanted.contains(&name)) {
            command.env_remove(&name);
        }
    }
    command.env_remove("RUST_BACKTRACE");
    // No `respondo.toml` lies there.
    command.current_dir(env!("CARGO_TARGET_TMPDIR"));
    command.env("RESPONDO_DATA", data).env("RESPONDO_LOG", "error,respondo=info");
    command.env("RESPONDO_GENERATION__KIND", "none");
    command.envs(env.iter().copied());
}

/// Runs a command to its end.
pub fn run(data: &Path, env: Env, arguments: &[&str]) -> Finished {
    run_with_input(data, env, arguments, b"")
}

/// Runs a command to its end with `input` on its standard input.
pub fn run_with_input(data: &Path, env: Env, arguments: &[&str], input: &[u8]) -> Finished {
    let mut command = command(data, env);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    // A command that fails early does not read its input: that is its affair.
    let writing = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("the command ends");
    writing.join().expect("input written");
    Finished {
        status: output.status,
        stdout: String::from_utf8(output.stdout).expect("output is UTF-8"),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Folder of a model's files; None, and a word about it, when it is not there.
fn model_folder(name: &str) -> Option<PathBuf> {
    let manifest = Manifest::load(None).expect("built-in manifest");
    let model = manifest.get(name).expect("known model");
    let store = ModelStore::new(default_cache_dir());
    if store.status(model) != Status::Present {
        println!("skipped: the model {name} is not there; `respondo models pull` fetches it");
        return None;
    }
    Some(store.folder(model))
}

/// Folder of the embedding model.
pub fn embedding_model() -> Option<PathBuf> {
    model_folder(EMBEDDING_MODEL)
}

/// File of the chat model.
pub fn chat_model() -> Option<PathBuf> {
    let folder = model_folder(CHAT_MODEL)?;
    let files = std::fs::read_dir(folder).expect("model folder");
    files.map(|file| file.expect("entry").path()).find(|path| path.extension().is_some_and(|e| e == "gguf"))
}

/// One test at a time lets the language model work: it needs all cores and more than a gigabyte.
pub fn turn_to_write() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A data folder of one's own with the sample tickets and articles in it, indexed; None without the embedding model.
pub fn memory() -> Option<tempfile::TempDir> {
    static FILLED: OnceLock<Option<PathBuf>> = OnceLock::new();
    let filled = FILLED.get_or_init(fill).as_ref()?;
    let own = tempfile::tempdir().expect("temporary folder");
    copy_folder(filled, own.path());
    Some(own)
}

/// Fills a folder that lives as long as this process; those of processes that are gone are cleared away.
fn fill() -> Option<PathBuf> {
    embedding_model()?;
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for entry in std::fs::read_dir(place).expect("cargo's folder").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let gone = |process: &str| !Path::new("/proc").join(process).exists();
        if name.strip_prefix("memory-").is_some_and(gone) {
            std::fs::remove_dir_all(entry.path()).expect("old memory removed");
        }
    }
    let folder = place.join(format!("memory-{}", std::process::id()));
    for kind in ["tickets", "articles"] {
        let file = project().join("samples").join(format!("{kind}.jsonl"));
        run(&folder, &[], &["ingest", file.to_str().expect("UTF-8"), "--as", kind]).ok();
    }
    Some(folder)
}

pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("folder made");
    for entry in std::fs::read_dir(from).expect("readable").map(|entry| entry.expect("entry")) {
        let target = to.join(entry.file_name());
        match entry.file_type().expect("type").is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => copy_file(&entry.path(), &target).expect("copied"),
        }
    }
}

/// Leaves holes where there are only zeros: an index is 3 MB of data in files of 235 MB.
fn copy_file(from: &Path, to: &Path) -> std::io::Result<()> {
    let bytes = std::fs::read(from)?;
    let mut file = File::create(to)?;
    file.set_len(bytes.len() as u64)?;
    for (number, block) in bytes.chunks(4_096).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.seek(SeekFrom::Start(number as u64 * 4_096))?;
            file.write_all(block)?;
        }
    }
    Ok(())
}

/// Figures of a data folder, also while a service uses it.
pub fn stats(data: &Path) -> Value {
    serde_json::from_str(&run(data, &[], &["stats", "--json"]).ok()).expect("JSON")
}

/// Texts of the messages that went to the customer.
pub fn sent_messages(view: &Value) -> Vec<String> {
    let messages = view["messages"].as_array().expect("messages").iter();
    messages
        .filter(|message| message["author"] != "customer")
        .map(|message| message["body"].as_str().expect("text").to_owned())
        .collect()
}

/// True when an answer or a question, not just an acknowledgement, went to the customer without a person.
pub fn replied_by_itself(view: &Value) -> bool {
    let drafts = view["drafts"].as_array().expect("drafts").iter();
    let mut sent = drafts.filter(|draft| draft["status"] == "sent");
    sent.any(|draft| draft["draft"]["kind"] != "acknowledgement")
}

/// The sample requests, one JSON object each.
pub fn sample_requests() -> Vec<Value> {
    REQUESTS.lines().map(|line| serde_json::from_str(line).expect("sample")).collect()
}
