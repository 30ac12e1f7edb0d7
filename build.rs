//! Names the code that answers: a digest over everything that bears on an answer. The evaluation keeps results by it, so
//! that a result of other code is never taken for one of this code.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Sources that show, serve or measure answers and do not make them.
const BESIDE: [&str; 8] = [
    "src/bench",
    "src/cli",
    "src/fuzzing.rs",
    "src/http",
    "src/models",
    "src/eval/report",
    "src/main.rs",
    "prompts/judge",
];
const ROOTS: [&str; 5] = ["src", "prompts", "models/relevance.toml", "models/triage.bin", "Cargo.lock"];

fn main() {
    let mut files = Vec::new();
    for root in ROOTS {
        println!("cargo:rerun-if-changed={root}");
        collect(Path::new(root), &mut files);
    }
    files.sort();
    let mut hasher = Sha256::new();
    for file in files {
        let text = fs::read(&file).unwrap_or_default();
        hasher.update(format!("{} {}\n", file.display(), text.len()));
        hasher.update(&text);
    }
    let digest: String = hasher.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    println!("cargo:rustc-env=RESPONDO_CODE={digest}");
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if BESIDE.iter().any(|beside| path.starts_with(beside)) {
        return;
    }
    match fs::read_dir(path) {
        Ok(entries) => entries.flatten().for_each(|entry| collect(&entry.path(), files)),
        Err(_) => files.push(path.to_owned()),
    }
}
