//! The clock of the machine is set ahead and back while the service runs: nobody waits longer for that, and nothing is lost.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Service, memory, run, sent_messages};

/// Longer than libfaketime keeps what it read of the time, which it counts in whole seconds.
const NOTICED: Duration = Duration::from_millis(2_500);

/// What makes a program see another time; None, said aloud, where it is not installed.
fn faketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let found = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|library| library.is_file());
    if found.is_none() {
        println!("skipped: libfaketime is not installed");
    }
    found
}

/// When the first message of a ticket was written, and by how many messages of ours it was followed.
fn written(view: &Value) -> (String, usize) {
    let at = view["messages"][0]["created_at"].as_str().expect("a time").to_owned();
    (at, sent_messages(view).len())
}

#[test]
fn a_clock_that_is_set_ahead_and_back_delays_nothing() {
    let (Some(data), Some(library)) = (memory(), faketime()) else { return };
    let offset = tempfile::NamedTempFile::new().expect("temporary file");
    fs::write(offset.path(), "+0").expect("written");
    let path = offset.path().to_str().expect("UTF-8");
    let env = [
        ("LD_PRELOAD", library.to_str().expect("UTF-8")),
        ("FAKETIME_TIMESTAMP_FILE", path),
        ("FAKETIME_CACHE_DURATION", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("RESPONDO_GENERATION__KIND", "none"),
    ];
    let service = Service::on(data.path(), &env);
    let client = service.client();
    let mut years = Vec::new();
    for (number, shift) in ["+0", "-2h", "+400d", "-400d", "+0"].into_iter().enumerate() {
        fs::write(offset.path(), shift).expect("written");
        sleep(NOTICED);
        let view = client.worked_ticket(&format!("Request {number}: gmail rejects our mail, SPF did not pass. Why?"));
        let (at, replies) = written(&view);
        years.push(at[..4].to_owned());
        assert_eq!(replies, 1, "{shift}: {view}");
        // It has left the outbox.
        client.events_until(view["ticket"]["id"].as_str().expect("id"), None, "message");
    }
    assert!(years[2] > years[0] && years[3] < years[0], "the service saw the clock move: {years:?}");
    service.stop();
    run(data.path(), &[], &["audit", "verify"]).ok();
}
