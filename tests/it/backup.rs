//! A backup beside a running service, and the way back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{Client, Service, memory, run, stats};

const WORDS: &str = "gmail rejects mail 550-5.7.26 SPF did not pass";

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Opens tickets, one after the other, for as long as the backup takes; gives their ids.
fn open_tickets_until(client: &Client, done: &AtomicBool) -> Vec<String> {
    let mut opened = Vec::new();
    while !done.load(Ordering::Relaxed) {
        opened.push(client.open_ticket(&format!("{WORDS} (mail {})", opened.len())));
    }
    opened
}

/// The index is filled beside the running service, from vectors that the store has kept.
fn wait_for_index(data: &Path) {
    let complete = (0..400).any(|_| {
        let complete = stats(data)["memory"]["unindexed"] == 0;
        std::thread::sleep(Duration::from_millis(if complete { 0 } else { 50 }));
        complete
    });
    assert!(complete, "the index is not filled");
}

#[test]
fn a_backup_beside_a_working_service_brings_everything_back_elsewhere() {
    let Some(service) = Service::with_memory(&[]) else { return };
    let folder = tempfile::tempdir().expect("temporary folder");
    let (copy, data) = (folder.path().join("copy.db"), folder.path().join("data"));
    let client = service.client();
    let before = client.worked_ticket(WORDS);
    let found = client.search(WORDS);

    let done = AtomicBool::new(false);
    let (said, meanwhile) = std::thread::scope(|scope| {
        let opening = scope.spawn(|| open_tickets_until(&client, &done));
        let said = run(service.data(), &[], &["backup", text(&copy)]);
        done.store(true, Ordering::Relaxed);
        (said.ok(), opening.join().expect("tickets accepted"))
    });
    assert!(said.contains(text(&copy)) && said.contains("175 items"), "{said}");
    // Nothing of the service was disturbed, and nobody else may read the copy.
    for id in &meanwhile {
        client.worked(id);
    }
    assert_eq!(fs::metadata(&copy).expect("copy").permissions().mode() & 0o077, 0);
    service.stop();

    let said = run(&data, &[], &["restore", text(&copy)]).ok();
    assert!(said.contains("respondo serve") && said.contains("175 items"), "{said}");
    let service = Service::on(&data, &[]);
    let client = service.client();
    let id = before["ticket"]["id"].as_str().expect("id");
    assert_eq!(client.view(id)["messages"], before["messages"]);
    // A ticket of that time is there whole or not at all, and is worked on.
    for id in meanwhile {
        if client.get(&format!("/v1/tickets/{id}")).status == 200 {
            assert!(!client.worked(&id)["messages"].as_array().expect("messages").is_empty());
        }
    }
    wait_for_index(&data);
    assert_eq!(client.search(WORDS), found);
    service.stop();
}

#[test]
fn a_restore_replaces_what_was_there_and_its_index() {
    let Some(full) = memory() else { return };
    let folder = tempfile::tempdir().expect("temporary folder");
    let (empty, copy) = (folder.path().join("empty"), folder.path().join("copy.db"));
    let service = Service::on(&empty, &[]);
    service.client().worked_ticket("hola, ¿cómo cambio mi contraseña?");
    run(&empty, &[], &["backup", text(&copy)]).ok();
    service.stop();

    let said = run(full.path(), &[], &["restore", text(&copy)]).ok();
    assert!(said.contains("respondo.db.old-"), "{said}");
    assert_eq!(stats(full.path())["tickets"], 1);
    let service = Service::on(full.path(), &[]);
    assert!(service.client().search(WORDS).is_empty(), "the index of the old memory is still used");
    service.stop();
    // And back again.
    let mut files = fs::read_dir(full.path()).expect("folder").map(|entry| entry.expect("entry").path());
    let old = files.find(|path| text(path).contains(".db.old-")).expect("the old database");
    run(full.path(), &[], &["restore", text(&old)]).ok();
    let service = Service::on(full.path(), &[]);
    wait_for_index(full.path());
    assert!(service.client().search(WORDS).contains(&"nb-1048".to_owned()));
    service.stop();
}

#[test]
fn what_would_destroy_something_is_refused() {
    let Some(service) = Service::with_memory(&[]) else { return };
    let folder = tempfile::tempdir().expect("temporary folder");
    let (copy, damaged, words) =
        (folder.path().join("copy.db"), folder.path().join("damaged.db"), folder.path().join("words.txt"));
    run(service.data(), &[], &["backup", text(&copy)]).ok();
    let whole = fs::read(&copy).expect("copy");
    assert!(run(service.data(), &[], &["backup", text(&copy)]).failed().contains("is there already"));
    assert!(fs::read(&copy).expect("copy") == whole, "the first backup was changed");
    let error = run(service.data(), &[], &["restore", text(&copy)]).failed();
    assert!(error.contains("another respondo uses the data folder"), "{error}");

    fs::write(&damaged, &whole[..whole.len() / 2]).expect("written");
    fs::write(&words, "these are only words, ".repeat(100)).expect("written");
    let data = folder.path().join("data");
    for (file, reason) in [
        (&damaged, "is damaged"),
        (&words, "is no database of Respondo"),
        (&folder.path().join("missing.db"), "cannot read"),
    ] {
        let error = run(&data, &[], &["restore", text(file)]).failed();
        assert!(error.contains(reason) && error.contains(text(file)), "{error}");
    }
    assert!(!data.join("respondo.db").exists());
    // The service is none the worse.
    assert!(service.client().search(WORDS).contains(&"nb-1048".to_owned()));
    let nothing = folder.path().join("nothing");
    assert!(run(&nothing, &[], &["backup", text(&copy)]).failed().contains("there is no"));
}
