//! Damaged models, a full disk, a folder in use: what cannot work says so, the rest goes on.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::json;

use crate::support::{Service, chat_model, configure, embedding_model, memory, run, sent_messages, stats};

const REQUEST: &str = "hola, ¿cómo arreglo el SPF? gmail rechaza nuestro correo con 550-5.7.26 y hay dos registros TXT";

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The first `bytes` of a file, under the same name in `folder`.
fn cut_short(file: &Path, bytes: usize, folder: &Path) -> PathBuf {
    use std::io::Read;
    let mut start = vec![0; bytes];
    fs::File::open(file).and_then(|mut file| file.read_exact(&mut start)).expect("read");
    let cut = folder.join(file.file_name().expect("a file"));
    fs::write(&cut, start).expect("written");
    cut
}

#[test]
fn with_a_chat_model_cut_short_replies_are_extractive_and_it_says_so() {
    let (Some(data), Some(model)) = (memory(), chat_model()) else { return };
    let folder = tempfile::tempdir().expect("temporary folder");
    for bytes in [0, 1_000, 20_000_000] {
        let cut = cut_short(&model, bytes, folder.path());
        let env = [("RESPONDO_GENERATION__KIND", "gguf"), ("RESPONDO_GENERATION__FILE", text(&cut))];
        let service = Service::on(data.path(), &env);
        assert!(service.said().contains("replies are extractive only"), "{}", service.said());
        assert!(service.said().contains(text(&cut)), "the file is not named: {}", service.said());
        let client = service.client();
        assert!(client.get("/readyz").body.contains("extractive replies only"));
        let view = client.worked_ticket(REQUEST);
        assert_eq!(view["drafts"][0]["draft"]["kind"], "extractive", "{view}");
        assert_eq!(sent_messages(&view).len(), 1);
        service.stop();
    }
}

#[test]
fn with_an_embedding_model_cut_short_nothing_starts_and_it_says_why() {
    let (Some(data), Some(model)) = (memory(), embedding_model()) else { return };
    let cache = tempfile::tempdir().expect("temporary folder");
    let folder = cache.path().join("models").join(model.file_name().expect("name"));
    fs::create_dir_all(&folder).expect("folder");
    symlink(model.join("tokenizer.json"), folder.join("tokenizer.json")).expect("linked");
    for bytes in [0, 100, 30_000_000] {
        let cut = cut_short(&model.join("e5-small-q4.bin"), bytes, &folder);
        let env = [("RESPONDO_CACHE", text(cache.path()))];
        let failed = Service::try_on(data.path(), &env).err().expect("does not start");
        assert_eq!(failed.status.code(), Some(1), "{}", failed.said);
        assert!(failed.said.contains(text(&cut)), "the file is not named: {}", failed.said);
        assert!(!failed.said.contains("panicked"), "{}", failed.said);
        let verified = run(data.path(), &env, &["models", "verify", "multilingual-e5-small"]);
        assert!(verified.stdout.contains("corrupt"), "{}", verified.stdout);
        assert!(verified.failed().contains("models pull"));
        assert!(run(data.path(), &env, &["doctor"]).failed().contains("failed"));
    }
}

#[test]
fn without_models_everything_says_which_command_helps() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (data, cache) = (folder.path().join("data"), folder.path().join("cache"));
    let env = [("RESPONDO_CACHE", text(&cache))];
    assert!(run(&data, &env, &["ask", "--fast", "hola"]).failed().contains("respondo models pull"));
    let failed = Service::try_on(&data, &env).err().expect("does not start");
    assert!(failed.said.contains("respondo models pull"), "{}", failed.said);
}

#[test]
fn a_second_process_on_the_same_folder_is_turned_away() {
    let Some(service) = Service::with_memory(&[]) else { return };
    let failed = Service::try_on(service.data(), &[]).err().expect("turned away");
    assert_eq!(failed.status.code(), Some(1));
    assert!(failed.said.contains("another respondo uses the data folder"), "{}", failed.said);
    let tickets = crate::support::project().join("samples/tickets.jsonl");
    for arguments in
        [&["reindex"][..], &["forget", "nb-1001"], &["ingest", text(&tickets), "--as", "tickets", "--no-index"]]
    {
        assert!(run(service.data(), &[], arguments).failed().contains("another respondo"), "{arguments:?}");
    }
    // Reading is allowed, and the service is none the worse.
    assert_eq!(stats(service.data())["memory"]["items"], 175);
    assert_eq!(sent_messages(&service.client().worked_ticket(REQUEST)).len(), 1);
}

#[test]
fn an_index_that_is_gone_or_damaged_is_built_again() {
    let Some(data) = memory() else { return };
    let index = data.path().join("index");
    let finds = |service: &Service| {
        let search = || service.client().search("gmail rejects mail 550-5.7.26 SPF did not pass");
        // The index is filled beside the running service, from vectors that the store has kept.
        (0..200).any(|_| {
            let found = search().contains(&"nb-1048".to_owned());
            std::thread::sleep(std::time::Duration::from_millis(if found { 0 } else { 50 }));
            found
        })
    };
    fs::remove_dir_all(&index).expect("index removed");
    let service = Service::on(data.path(), &[]);
    assert!(service.said().contains("rebuilt"), "{}", service.said());
    assert!(finds(&service));
    service.stop();
    damage_files(&index);
    let service = Service::on(data.path(), &[]);
    assert!(finds(&service), "{}", service.said());
    let complete = (0..200).any(|_| {
        let complete = stats(data.path())["memory"]["unindexed"] == 0;
        std::thread::sleep(std::time::Duration::from_millis(if complete { 0 } else { 50 }));
        complete
    });
    assert!(complete, "{}", service.said());
    service.stop();
}

/// Cuts every file of a folder to a few bytes of nonsense.
fn damage_files(folder: &Path) {
    for entry in fs::read_dir(folder).expect("readable").map(|entry| entry.expect("entry")) {
        match entry.file_type().expect("type").is_dir() {
            true => damage_files(&entry.path()),
            false => fs::write(entry.path(), "nonsense").expect("written"),
        }
    }
}

#[test]
fn a_database_that_is_none_is_named_and_left_alone() {
    let Some(data) = memory() else { return };
    let file = data.path().join("respondo.db");
    for other in ["respondo.db-wal", "respondo.db-shm"] {
        drop(fs::remove_file(data.path().join(other)));
    }
    fs::write(&file, "this is no database at all".repeat(100)).expect("written");
    let failed = Service::try_on(data.path(), &[]).err().expect("does not start");
    assert_eq!(failed.status.code(), Some(1), "{}", failed.said);
    assert!(!failed.said.contains("panicked"), "{}", failed.said);
    assert!(failed.said.contains("respondo restore"), "{}", failed.said);
    assert!(fs::read_to_string(&file).expect("still there").starts_with("this is no database"));
}

#[test]
fn a_database_that_was_cut_short_is_not_opened_and_the_way_back_is_named() {
    for share in [3, 10, 50] {
        let Some(data) = memory() else { return };
        let database = data.path().join("respondo.db");
        for other in ["respondo.db-wal", "respondo.db-shm"] {
            drop(fs::remove_file(data.path().join(other)));
        }
        let length = fs::metadata(&database).expect("database").len();
        let cut = fs::File::options().write(true).open(&database);
        cut.and_then(|file| file.set_len(length * share / 100)).expect("cut");
        let failed = Service::try_on(data.path(), &[]).err().expect("does not start");
        assert_eq!(failed.status.code(), Some(1), "{share} %: {}", failed.said);
        assert!(failed.said.contains("respondo restore"), "{share} %: {}", failed.said);
        assert!(!failed.said.contains("panicked"), "{share} %: {}", failed.said);
    }
}

/// A small disk, seen by the service alone: it goes away with the process and needs no rights of our own.
#[test]
fn on_a_full_disk_nothing_is_half_accepted_and_work_goes_on_when_there_is_room() {
    let Some(data) = memory() else { return };
    let possible = Command::new("unshare").args(["--map-root-user", "--mount", "true"]).status();
    if !possible.is_ok_and(|status| status.success()) {
        println!("skipped: this machine allows no mount of our own; the limit on file sizes is tested instead");
        return;
    }
    let mount = tempfile::tempdir().expect("temporary folder");
    let script = "mount -t tmpfs -o size=400m none \"$1\" && cp -r --sparse=always \"$2/.\" \"$1\" && exec \"$3\" serve --port 0";
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    command.arg(mount.path()).arg(data.path()).arg(env!("CARGO_BIN_EXE_respondo"));
    configure(&mut command, mount.path(), &[]);
    let service = Service::spawn(command, mount.path()).unwrap_or_else(|failed| panic!("{}", failed.said));
    let client = service.client();
    let before = client.worked_ticket(REQUEST);

    // The folder as that process sees it.
    let process = service.process().as_raw_nonzero();
    let inside = PathBuf::from(format!("/proc/{process}/root")).join(mount.path().strip_prefix("/").expect("absolute"));
    let filler = inside.join("filler");
    // What is left of a page or an already allocated part of the log may still take a few tickets.
    let zeros = fs::File::open("/dev/zero").expect("zeros");
    let full = std::io::copy(&mut { zeros }, &mut fs::File::create(&filler).expect("created"));
    assert!(full.is_err(), "the disk has an end");
    let body = json!({ "body": format!("{REQUEST} {}", "and again. ".repeat(2_000)) });
    let refused = (0..400).find_map(|_| {
        let reply = client.post("/v1/tickets", &body);
        (reply.status != 201).then_some(reply)
    });
    let detail = refused.expect("a full disk is noticed").problem(507);
    assert!(detail.contains("full"), "{detail}");
    assert_eq!(client.get("/healthz").status, 200);
    let id = before["ticket"]["id"].as_str().expect("id");
    assert_eq!(client.view(id)["messages"], before["messages"], "reading goes on");

    fs::remove_file(&filler).expect("room made");
    let after = client.worked_ticket(REQUEST);
    assert_eq!(sent_messages(&after).len(), 1);
    // What was accepted while there was little room is worked on as well.
    let waiting = || client.get("/v1/queue?state=received").json().as_array().expect("list").len();
    let settled = (0..300).any(|_| {
        let left = waiting();
        std::thread::sleep(std::time::Duration::from_millis(if left == 0 { 0 } else { 100 }));
        left == 0
    });
    assert!(settled, "{} tickets are left: {}", waiting(), service.said());
    service.stop();
}

/// The same where no disk can be mounted: files may not grow, which SQLite sees as a failing write.
#[test]
fn when_files_cannot_grow_nothing_is_half_accepted() {
    let Some(data) = memory() else { return };
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$1\" serve --port 0", "sh", env!("CARGO_BIN_EXE_respondo")]);
    configure(&mut command, data.path(), &[]);
    let service = Service::spawn(command, data.path()).unwrap_or_else(|failed| panic!("{}", failed.said));
    let client = service.client();
    let before = client.worked_ticket(REQUEST);
    let tickets = stats(data.path())["tickets"].clone();
    let limit = |bytes| {
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(service.process()), Resource::Fsize, limit).expect("limit set");
    };
    limit(Some(4_096));
    let reply = client.post("/v1/tickets", &json!({ "body": REQUEST }));
    assert!(reply.status >= 500, "{}", reply.body);
    reply.problem(reply.status);
    limit(None);
    assert_eq!(stats(data.path())["tickets"], tickets, "nothing of the refused ticket was kept");
    assert_eq!(sent_messages(&client.worked_ticket(REQUEST)).len(), 1);
    let id = before["ticket"]["id"].as_str().expect("id");
    assert_eq!(client.view(id)["messages"], before["messages"]);
    service.stop();
}
