//! The fuzzing targets over their corpus, over hostile texts of some length, and over small mutations of the corpus: what a
//! fuzzer would try first, with every run of the tests. `fuzz/README.md` says how to run a real one.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fastrand::Rng;
use respondo::fuzzing::{TARGETS, run};

use crate::support::project;

/// Longest time for one input. They take milliseconds; what takes quadratic time takes minutes.
const LONGEST: Duration = Duration::from_secs(60);
/// Most memory, in KiB, that an input of kilobytes may add to the process's peak; other tests run beside it.
const MOST_MEMORY: u64 = 2 << 20;
/// Longest mutated input, in bytes.
const LONGEST_MUTANT: usize = 8 << 10;
/// Mutated inputs in all, and the time after which no more are made.
const MUTANTS: usize = 6_000;
const MUTATION_TIME: Duration = Duration::from_secs(20);

/// The inputs of a target with their names, in the order of the names.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = project().join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.display().to_string(), fs::read(&path).expect("readable"))).collect()
}

/// Runs a target; a broken promise is told with the input that breaks it.
fn check(target: &str, name: &str, data: &[u8]) {
    let started = Instant::now();
    let known = catch_unwind(AssertUnwindSafe(|| run(target, data)));
    let shown = || {
        let start = data.get(..2_000).unwrap_or(data);
        format!("target {target}, input {name} ({} bytes): {}", data.len(), start.escape_ascii())
    };
    assert!(known.is_ok(), "broken promise, see above; {}", shown());
    assert!(known.is_ok_and(|known| known), "no such target: {target}");
    assert!(started.elapsed() < LONGEST, "took {:?}; {}", started.elapsed(), shown());
}

/// The process's peak of memory in KiB; none where the system does not tell.
fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[test]
fn every_target_has_a_corpus_and_a_program_for_the_fuzzer() {
    let names = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(project().join("fuzz").join(folder)).expect("a folder");
        entries.map(|entry| entry.expect("readable").path()).map(|path| stem(&path)).collect()
    };
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("corpus"), targets);
    assert_eq!(names("fuzz_targets"), targets);
    let manifest = fs::read_to_string(project().join("fuzz/Cargo.toml")).expect("a manifest");
    for target in &targets {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target} is not in the manifest");
        assert!(corpus(target).len() >= 3, "{target} has next to no corpus");
    }
    assert!(!run("no such target", b""));
}

fn stem(path: &std::path::Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

#[test]
fn the_corpus_breaks_no_promise() {
    let before = peak_memory();
    for (target, _) in TARGETS {
        for (name, data) in corpus(target) {
            check(target, &name, &data);
        }
    }
    // What the model of languages takes is in it.
    match before.zip(peak_memory()) {
        Some((before, after)) => assert!(after - before < MOST_MEMORY, "{} KiB more", after - before),
        None => println!("skipped: this system does not tell how much memory a process took"),
    }
}

#[test]
fn hostile_texts_break_no_promise_anywhere() {
    let pieces = [
        "[",
        "{\"a\":",
        "<div>",
        "<a href=\"",
        "<!--",
        "&",
        "> ",
        "\0",
        "\u{feff}",
        "\u{202e}",
        "é",
        "\"",
        ")",
        "a@",
        "9 ",
        "http://",
        "--\n",
        "<<<",
        "data: {\"choices\":[",
        "😀\u{200d}",
        "A > ",
        "\r",
        "```",
        "[email] ",
    ];
    for (target, _) in TARGETS {
        check(target, "nothing", b"");
        check(target, "no UTF-8", &[0xff; 512]);
        for piece in pieces {
            check(target, piece, piece.repeat(24_000 / piece.len()).as_bytes());
        }
    }
}

#[test]
fn mutations_of_the_corpus_break_no_promise() {
    // A fixed seed: a run that fails fails again.
    let mut rng = Rng::with_seed(20_260_101);
    let corpora: Vec<(&str, Vec<Vec<u8>>)> = TARGETS
        .iter()
        .map(|(target, _)| (*target, corpus(target).into_iter().map(|(_, data)| data).collect()))
        .collect();
    let started = Instant::now();
    let mut made = 0;
    // Every target has its turn before time counts.
    while made < TARGETS.len() || (made < MUTANTS && started.elapsed() < MUTATION_TIME) {
        let (target, inputs) = &corpora[made % corpora.len()];
        let mut data = inputs[rng.usize(..inputs.len())].clone();
        for _ in 0..rng.usize(1..=4) {
            mutate(&mut data, inputs, &mut rng);
        }
        data.truncate(LONGEST_MUTANT);
        check(target, &format!("mutant {made}"), &data);
        made += 1;
    }
    println!("{made} mutants in {:?}", started.elapsed());
}

/// One change of the kinds that fuzzers make.
fn mutate(data: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut Rng) {
    const WORDS: [&[u8]; 16] = [
        b"\0",
        b"\xff",
        b"\"",
        b"\\",
        b"\n",
        b"\r\n",
        b"<",
        b">",
        b"{",
        b"[",
        b"\xe2\x80\xae",
        b"\xef\xbb\xbf",
        b"&#0;",
        b"9",
        b"@",
        b"://",
    ];
    let at = rng.usize(..=data.len());
    let end = (at + rng.usize(1..=32)).min(data.len());
    match rng.u8(..7) {
        0 if at < data.len() => data[at] ^= 1 << rng.u8(..8),
        1 if at < data.len() => data[at] = rng.u8(..),
        2 => drop(data.drain(at..end)),
        3 => {
            let copy = data[at..end].repeat(rng.usize(1..=8));
            drop(data.splice(at..at, copy));
        }
        4 => data.truncate(at),
        5 => {
            let other = &others[rng.usize(..others.len())];
            data.truncate(at);
            data.extend_from_slice(&other[rng.usize(..=other.len())..]);
        }
        _ => drop(data.splice(at..at, WORDS[rng.usize(..WORDS.len())].iter().copied())),
    }
}
