//! Disks that are full or cannot be written, and files that are damaged or gone: what cannot be done is said, nothing is
//! half kept, and work goes on when it can.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use respondo::store::{NewTicket, Store};
use respondo::ticket::Language;
use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::{Value, json};

use crate::support::{
    Client, Service, chat_model, configure, embedding_model, found_ids, memory, run, sent_messages, stats,
    turn_to_write,
};
use crate::writing::PATIENT;

const REQUEST: &str = "hola, ¿cómo arreglo el SPF? gmail rechaza nuestro correo con 550-5.7.26 y hay dos registros TXT";
/// Looks, 100 ms apart, at what takes seconds; many more than needed on an idle machine.
const LOOKS: usize = 1_800;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Waits until something is so; false when it is not in time.
fn comes(is_so: impl Fn() -> bool) -> bool {
    (0..LOOKS).any(|_| {
        let so = is_so();
        sleep(Duration::from_millis(if so { 0 } else { 100 }));
        so
    })
}

/// A service on a small disk of its own: `prepare` is shell code that runs with the disk as `$1`, before the service and
/// with the memory on it. None, said aloud, where no disk can be mounted.
fn on_small_disk(data: &Path, mount: &Path, prepare: &str) -> Option<Command> {
    let possible = Command::new("unshare").args(["--map-root-user", "--mount", "true"]).status();
    if !possible.is_ok_and(|status| status.success()) {
        println!("skipped: this machine allows no mount of our own");
        return None;
    }
    let script = format!(
        "mount -t tmpfs -o size=400m none \"$1\" && cp -r --sparse=always \"$2/.\" \"$1\" && {prepare} && \
         exec \"$3\" serve --port 0"
    );
    // The mount is seen by this process alone and goes away with it.
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
    command.arg(mount).arg(data).arg(env!("CARGO_BIN_EXE_respondo"));
    configure(&mut command, mount, &[]);
    Some(command)
}

#[test]
fn a_full_or_unwritable_disk_is_named_at_the_start() {
    let Some(data) = memory() else { return };
    let mount = tempfile::tempdir().expect("temporary folder");
    for (prepare, said) in [
        ("{ cat /dev/zero > \"$1/filler\" 2>/dev/null || true; }", "free some space"),
        ("head -c 300000000 /dev/zero > \"$1/filler\"", "free some space"),
        ("mount -o remount,ro \"$1\"", "cannot be written"),
    ] {
        let Some(command) = on_small_disk(data.path(), mount.path(), prepare) else { return };
        let failed = Service::spawn(command, mount.path()).err().unwrap_or_else(|| panic!("{prepare}: it started"));
        assert_eq!(failed.status.code(), Some(1), "{prepare}: {}", failed.said);
        assert!(failed.said.contains("error: ") && failed.said.contains(said), "{prepare}: {}", failed.said);
        assert!(!failed.said.contains("panicked"), "{prepare}: {}", failed.said);
    }
}

#[test]
fn an_answer_that_finds_no_room_in_the_index_is_sent_and_indexed_when_there_is_room() {
    let Some(data) = memory() else { return };
    let mount = tempfile::tempdir().expect("temporary folder");
    let Some(command) = on_small_disk(data.path(), mount.path(), "true") else { return };
    let service = Service::spawn(command, mount.path()).unwrap_or_else(|failed| panic!("{}", failed.said));
    let client = service.client();
    let view = answered(&client);
    let process = service.process().as_raw_nonzero();
    let inside = PathBuf::from(format!("/proc/{process}/root")).join(mount.path().strip_prefix("/").expect("absolute"));
    // All but a few megabytes: enough for the store, too little for the index.
    let disk = rustix::fs::statvfs(&inside).expect("disk");
    let filler = inside.join("filler");
    let zeros = fs::File::open("/dev/zero").expect("zeros");
    let free = disk.f_bavail * disk.f_frsize;
    let mut zeros = std::io::Read::take(zeros, free - (8 << 20));
    std::io::copy(&mut zeros, &mut fs::File::create(&filler).expect("created")).expect("written");
    let draft = view["drafts"][0]["id"].as_str().expect("id");
    let approved = client.post(&format!("/v1/drafts/{draft}/approve"), &json!({}));
    assert_eq!(approved.status, 200, "{}", approved.body);
    assert!(comes(|| service.said().contains("MB left; free some space")), "{}", service.said());
    assert_eq!(client.get("/healthz").status, 200);
    assert!(!client.search(REQUEST).is_empty(), "searching goes on");

    fs::remove_file(&filler).expect("room made");
    let id = format!("ticket-{}", view["ticket"]["id"].as_str().expect("id"));
    assert!(comes(|| client.search(REQUEST).contains(&id)), "{}", service.said());
    service.stop();
}

/// A ticket whose open draft is an answer, not a question: its approval is learned.
fn answered(client: &Client) -> Value {
    let view = client.worked_ticket(REQUEST);
    assert_eq!(view["drafts"][0]["draft"]["kind"], "extractive", "{view}");
    view
}

/// Puts tickets into the store of a data folder that nobody else uses, as if a service had been killed then.
fn leave_unfinished(data: &Path, count: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let store = Store::open(data).await.expect("store");
        for number in 0..count {
            let new = NewTicket {
                customer: None,
                channel: "http".to_owned(),
                subject: String::new(),
                body: format!("{REQUEST} (mail {number})"),
                language: Language::EN,
                product: None,
                queue: None,
                idempotency: None,
            };
            store.accept_ticket(new).await.expect("accepted");
        }
        store.close().await;
    });
}

#[test]
fn tickets_that_could_not_be_worked_on_are_taken_up_without_a_restart() {
    let Some(data) = memory() else { return };
    leave_unfinished(data.path(), 80);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$1\" serve --port 0", "sh", env!("CARGO_BIN_EXE_respondo")]);
    configure(&mut command, data.path(), &[]);
    let service = Service::spawn(command, data.path()).unwrap_or_else(|failed| panic!("{}", failed.said));
    let limit = |bytes| {
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(service.process()), Resource::Fsize, limit).expect("limit set");
    };
    // Nothing can be written while the tickets are in line.
    limit(Some(4_096));
    let client = service.client();
    let waiting = || client.get("/v1/queue?state=received").json().as_array().expect("list").len();
    assert!(comes(|| service.said().contains("ticket stays received")), "{}", service.said());
    assert!(waiting() > 0);
    limit(None);
    assert!(comes(|| waiting() == 0), "{} tickets are left: {}", waiting(), service.said());
    service.stop();
}

/// Files below a folder, in the order of their names.
fn files_of(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).expect("readable").map(|entry| entry.expect("entry").path()).collect();
    entries.sort();
    entries.into_iter().flat_map(|path| if path.is_dir() { files_of(&path) } else { vec![path] }).collect()
}

/// Points that the index says it has.
fn points(client: &Client) -> String {
    let ready = client.get("/readyz").json();
    let parts = ready["parts"].as_array().expect("parts").iter();
    let index = parts.filter(|part| part["name"] == "index").map(|part| part["detail"].to_string());
    index.collect()
}

/// Starts the service, again where the engine has ended it, and checks that everything is found.
fn heals(data: &Path, whole: &str, damage: &str) {
    // Some damage ends the process that opens the index; the third one starts it anew.
    let started = (0..3).find_map(|_| Service::try_on(data, &[]).ok());
    let service = started.unwrap_or_else(|| panic!("{damage}: it never starts"));
    let client = service.client();
    let found = || {
        let reply = client.get("/v1/memory/search?q=gmail+SPF+did+not+pass+TXT");
        let found = if reply.status == 200 { found_ids(&reply.json()) } else { Vec::new() };
        points(&client) == whole && found.iter().filter(|id| *id == "nb-1048").count() == 1
    };
    assert!(comes(found), "{damage}: {} in place of {whole}: {}", points(&client), service.said());
    assert!(comes(|| stats(data)["memory"]["unindexed"] == 0), "{damage}");
    service.stop();
}

#[test]
fn an_index_with_any_file_damaged_is_used_or_built_again() {
    let Some(data) = memory() else { return };
    let service = Service::on(data.path(), &[]);
    let whole = points(&service.client());
    service.stop();
    for seed in 0..20 {
        let Some(copy) = memory() else { return };
        let mut random = fastrand::Rng::with_seed(seed);
        let files = files_of(&copy.path().join("index"));
        let mut damage = format!("seed {seed}:");
        for _ in 0..random.usize(1..=4) {
            let file = &files[random.usize(..files.len())];
            // The same file may be drawn twice, and be gone.
            let Ok(length) = fs::metadata(file).map(|file| file.len()) else { continue };
            let name = file.file_name().expect("name").to_string_lossy();
            let open = || fs::File::options().write(true).open(file).expect("opened");
            match random.u8(0..4) {
                0 => open().set_len(random.u64(0..=length)).expect("cut"),
                1 => open().set_len(0).expect("emptied"),
                2 => fs::remove_file(file).expect("removed"),
                // Not written over: the engine takes ids for lengths and fills memory and disk before it ends.
                3 if name.ends_with(".mappings") => open().set_len(length / 2).expect("cut"),
                _ => {
                    let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(64).collect();
                    open().write_all_at(&noise, random.u64(0..=length)).expect("written over");
                }
            }
            damage += &format!(" {name} of {length} bytes,");
        }
        heals(copy.path(), &whole, &damage);
    }
}

#[test]
fn an_index_whose_vectors_or_texts_were_cut_is_built_again() {
    let vectors = ["problem/vectors/chunk_0.mmap", "solution/vectors/chunk_0.mmap"];
    for name in [vectors[0], vectors[1], "payload_storage/page_0.dat", "payload_index/config.json", "version.info"] {
        let Some(data) = memory() else { return };
        let service = Service::on(data.path(), &[]);
        let whole = points(&service.client());
        service.stop();
        let files = files_of(&data.path().join("index"));
        let cut: Vec<&PathBuf> = files.iter().filter(|file| text(file).ends_with(name)).collect();
        assert!(!cut.is_empty(), "the engine keeps {name} elsewhere: {files:?}");
        for file in cut {
            let length = fs::metadata(file).expect("file").len();
            match length > 5_000 {
                true => fs::File::options().write(true).open(file).and_then(|file| file.set_len(5_000)).expect("cut"),
                false => fs::remove_file(file).expect("removed"),
            }
        }
        let service = Service::on(data.path(), &[]);
        assert!(service.said().contains("rebuilt"), "{name}: {}", service.said());
        service.stop();
        heals(data.path(), &whole, name);
    }
}

#[test]
fn an_index_of_another_version_or_folder_is_built_again() {
    let Some(data) = memory() else { return };
    let service = Service::on(data.path(), &[]);
    let whole = points(&service.client());
    service.stop();
    let stamp = data.path().join("index/stamp.json");
    let mut other: Value = serde_json::from_str(&fs::read_to_string(&stamp).expect("stamp")).expect("JSON");
    other["format"] = json!(1);
    fs::write(&stamp, other.to_string()).expect("written");
    let service = Service::on(data.path(), &[]);
    assert!(service.said().contains("rebuilt"), "{}", service.said());
    service.stop();
    heals(data.path(), &whole, "another version");

    // The database is another one: nothing of what the index holds may be counted or found.
    for file in ["respondo.db", "respondo.db-wal", "respondo.db-shm"] {
        drop(fs::remove_file(data.path().join(file)));
    }
    let service = Service::on(data.path(), &[]);
    assert!(service.client().search("gmail SPF did not pass TXT").is_empty());
    assert!(points(&service.client()).contains("\"0 points"), "{}", points(&service.client()));
    service.stop();
}

#[test]
fn an_index_that_is_removed_while_serving_harms_nobody_and_is_built_again_at_the_next_start() {
    let Some(data) = memory() else { return };
    let service = Service::on(data.path(), &[]);
    let client = service.client();
    let whole = points(&client);
    let view = answered(&client);
    fs::remove_dir_all(data.path().join("index")).expect("removed");
    assert!(client.search("gmail SPF did not pass TXT").contains(&"nb-1048".to_owned()));
    let draft = view["drafts"][0]["id"].as_str().expect("id");
    let approved = client.post(&format!("/v1/drafts/{draft}/approve"), &json!({}));
    assert_eq!(approved.status, 200, "the reply goes out: {}", approved.body);
    assert!(comes(|| service.said().contains("not in the index yet")), "{}", service.said());
    assert_eq!(sent_messages(&client.worked_ticket(REQUEST)).len(), 1);
    service.stop();

    let service = Service::on(data.path(), &[]);
    let client = service.client();
    let id = format!("ticket-{}", view["ticket"]["id"].as_str().expect("id"));
    assert!(comes(|| client.search(REQUEST).contains(&id)), "{}", service.said());
    assert!(comes(|| stats(data.path())["memory"]["unindexed"] == 0), "{}", service.said());
    assert_ne!(points(&client), whole, "the approved answer has a point of its own");
    service.stop();
}

#[test]
fn a_database_that_lost_its_content_is_not_taken_for_a_new_one() {
    let Some(data) = memory() else { return };
    for other in ["respondo.db-wal", "respondo.db-shm"] {
        drop(fs::remove_file(data.path().join(other)));
    }
    let database = data.path().join("respondo.db");
    fs::write(&database, "").expect("emptied");
    let failed = Service::try_on(data.path(), &[]).err().expect("does not start");
    assert_eq!(failed.status.code(), Some(1), "{}", failed.said);
    assert!(failed.said.contains("respondo restore") && failed.said.contains("respondo.db"), "{}", failed.said);
    assert_eq!(fs::metadata(&database).expect("still there").len(), 0);
}

#[test]
fn model_files_that_go_away_while_serving_are_not_missed() {
    let (Some(data), Some(model)) = (memory(), embedding_model()) else { return };
    let cache = tempfile::tempdir().expect("temporary folder");
    let folder = cache.path().join("models").join(model.file_name().expect("name"));
    fs::create_dir_all(&folder).expect("folder");
    for file in files_of(&model) {
        fs::copy(&file, folder.join(file.file_name().expect("name"))).expect("copied");
    }
    let env = [("RESPONDO_CACHE", text(cache.path()))];
    let service = Service::on(data.path(), &env);
    // Cut to nothing in place: under a file that is mapped, that would end the process.
    for file in files_of(&folder) {
        fs::File::options().write(true).open(&file).and_then(|file| file.set_len(0)).expect("cut");
    }
    fs::remove_dir_all(&folder).expect("removed");
    let client = service.client();
    let view = client.worked_ticket(REQUEST);
    let reasons = view["decisions"][0]["decision"]["reasons"].to_string();
    assert!(!reasons.contains("searched by words only"), "{reasons}");
    assert_eq!(sent_messages(&view).len(), 1);
    assert!(client.search(REQUEST).contains(&"nb-1048".to_owned()));
    // Who looks is told, and the next start says which command helps.
    run(data.path(), &env, &["doctor"]).failed();
    service.stop();
    let failed = Service::try_on(data.path(), &env).err().expect("does not start");
    assert!(failed.said.contains("respondo models pull"), "{}", failed.said);
}

/// So the same holds for the language model, whose file is too large to be copied for a test.
#[test]
fn no_model_file_is_mapped_or_held_open_while_serving() {
    let (Some(data), Some(chat), Some(embedding)) = (memory(), chat_model(), embedding_model()) else { return };
    let _turn = turn_to_write();
    let service = Service::on(data.path(), &PATIENT);
    assert!(!service.client().get("/readyz").body.contains("extractive replies only"), "{}", service.said());
    let process = PathBuf::from(format!("/proc/{}", service.process().as_raw_nonzero()));
    let maps = fs::read_to_string(process.join("maps")).expect("maps");
    assert!(maps.contains("respondo"), "the program itself is mapped");
    let open = fs::read_dir(process.join("fd")).expect("open files").flatten();
    // One may be closed meanwhile.
    let open: Vec<PathBuf> = open.filter_map(|file| fs::read_link(file.path()).ok()).collect();
    assert!(open.iter().any(|file| file.ends_with("respondo.db")), "{open:?}");
    for folder in [chat.parent().expect("folder"), embedding.as_path()] {
        assert!(!maps.contains(text(folder)), "a file of {} is mapped", folder.display());
        assert!(!open.iter().any(|file| file.starts_with(folder)), "a file of {} is open", folder.display());
    }
    service.stop();
}
