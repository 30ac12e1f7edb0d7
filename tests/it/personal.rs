//! One customer's data: read out whole, erased without a trace; and decisions made again from their record.

use std::fs;
use std::io::{Cursor, Read};
use std::path::Path;

use serde_json::{Value, json};
use zip::ZipArchive;

use crate::support::{Client, Desk, Service, encode, memory, run, stats, ticket_of};

/// A word of the customer's that nothing else holds.
const CANARY: &str = "xyzzyqplugh";
/// A request that the memory answers.
const REQUEST: &str = "Hi, made a DJ account for a friend, butt says invalid password and the log says SRC-03. He uses port \
    8000 and mount /live like me, station xyzzyqplugh. Write to jonas.weber@mail.example or call +34 612 345 678.\n\
    Kind regards,\nJonas Weber";
const BOUNDARY: &str = "----a-boundary-of-the-test";

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Opens a conversation in the chat under a name, with a file; gives its link.
fn open_chat(client: &Client) -> String {
    let file = format!("name=\"files\"; filename=\"log.txt\"\r\ncontent-type: text/plain\r\n\r\n{CANARY} in a file");
    let parts = [format!("name=\"body\"\r\n\r\n{REQUEST}"), "name=\"name\"\r\n\r\nCanary".to_owned(), file];
    let mut form: String =
        parts.iter().map(|part| format!("--{BOUNDARY}\r\ncontent-disposition: form-data; {part}\r\n")).collect();
    form.push_str(&format!("--{BOUNDARY}--\r\n"));
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let opened = client.send("POST", "/chat", &[("content-type", kind.as_str())], Some(form.as_bytes()));
    assert_eq!(opened.status, 303, "{}", opened.body);
    opened.header("location").to_owned()
}

/// Files below a folder that hold the word.
fn holding(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("readable").map(|entry| entry.expect("entry")) {
        let path = entry.path();
        if entry.file_type().expect("type").is_dir() {
            found.extend(holding(&path));
        } else if fs::read(&path).expect("file").windows(CANARY.len()).any(|window| window == CANARY.as_bytes()) {
            found.push(text(&path).to_owned());
        }
    }
    found
}

/// Content of a file in an archive, as text.
fn unpacked(archive: &[u8], name: &str) -> String {
    let mut archive = ZipArchive::new(Cursor::new(archive)).expect("an archive");
    let mut content = String::new();
    let mut file = archive.by_name(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    file.read_to_string(&mut content).expect("text");
    content
}

fn check_export(archive: &[u8], customer: &str, ticket: &str) {
    let readme = unpacked(archive, "README.txt");
    assert!(readme.contains("Este archivo contiene") && readme.contains("This archive holds"), "{readme}");
    let listed: Value = serde_json::from_str(&unpacked(archive, "customer.json")).expect("JSON");
    assert_eq!(listed, json!({ "customer": customer, "tickets": [ticket] }));
    let record: Value = serde_json::from_str(&unpacked(archive, &format!("tickets/{ticket}.json"))).expect("JSON");
    assert!(record["messages"][0]["body"].as_str().is_some_and(|body| body.contains(CANARY)), "{record}");
    assert_eq!(record["outcomes"][0]["outcome"], "approved");
    assert!(record["learned"]["problem"].as_str().is_some_and(|problem| problem.contains(CANARY)), "{record}");
    for part in ["drafts", "decisions", "audit"] {
        assert!(record[part].as_array().is_some_and(|rows| !rows.is_empty()), "{part}: {record}");
    }
    for part in ["judgements", "events", "deliveries"] {
        assert!(record["rest"][part].as_array().is_some_and(|rows| !rows.is_empty()), "{part}: {record}");
    }
    assert_eq!(record["evidence"][0]["text"], "", "the team's knowledge is not the customer's");
    let file = record["files"][0]["path"].as_str().expect("a file");
    assert!(file.ends_with("-log.txt"), "{file}");
    assert_eq!(unpacked(archive, file), format!("{CANARY} in a file"));
}

#[test]
fn a_customer_is_read_out_and_erased_without_a_trace() {
    let Some(data) = memory() else { return };
    let outside = tempfile::tempdir().expect("temporary folder");
    let (copy, zip) = (outside.path().join("copy.db"), outside.path().join("customer.zip"));
    let service = Service::on(data.path(), &[]);
    let client = service.client();
    let desk = Desk::set_up(&service, "Ana");
    let link = open_chat(&client);
    let ticket = ticket_of(&link);
    let view = client.worked(&ticket);
    let customer = view["ticket"]["customer"].as_str().expect("a customer").to_owned();
    let open = view["drafts"].as_array().expect("drafts").iter().find(|draft| draft["status"] == "open");
    let draft = open.and_then(|draft| draft["id"].as_str()).unwrap_or_else(|| panic!("no open draft: {view}"));
    let approved = client.post(&format!("/v1/drafts/{draft}/approve"), &json!({ "agent": "ana" }));
    assert_eq!(approved.status, 200, "{}", approved.body);
    let learned = format!("ticket-{ticket}");
    let words = "DJ account invalid password SRC-03 port 8000 mount /live";
    assert!(client.search(words).contains(&learned));
    let second = client.open_ticket_with(&json!({ "body": format!("my web is down, {CANARY}"), "customer": "second" }));
    client.worked(&second);
    run(data.path(), &[], &["backup", text(&copy)]).ok();
    assert!(!holding(data.path()).is_empty(), "the scan finds it");

    // Read out, by the page and by the command beside the service.
    let page = desk.get(&format!("/desk/customers?id={}", encode(&customer)));
    assert!(page.status == 200 && page.body.contains(&ticket), "{}", page.body);
    let cookie = [("cookie", desk.cookie())];
    let archive = client.download(&format!("/desk/customers/export?id={}", encode(&customer)), &cookie);
    check_export(&archive, &customer, &ticket);
    run(data.path(), &[], &["customer", "export", &customer, "--to", text(&zip)]).ok();
    check_export(&fs::read(&zip).expect("written"), &customer, &ticket);
    let error = run(data.path(), &[], &["customer", "export", &customer, "--to", text(&zip)]).failed();
    assert!(error.contains(text(&zip)), "{error}");

    // Erased by the page only, while the service runs; and only by an administrator who typed the id.
    let error = run(data.path(), &[], &["customer", "erase", &customer]).failed();
    assert!(error.contains("/desk/customers"), "{error}");
    let erase =
        |desk: &Desk, typed: &str| desk.form("/desk/customers/erase", &[("id", customer.as_str()), ("typed", typed)]);
    assert_eq!(erase(&desk.colleague(&service, "Luis", "lead"), &customer).status, 403);
    assert_eq!(erase(&desk, "somebody else").status, 422);
    assert!(!client.view(&ticket)["messages"].as_array().expect("messages").is_empty(), "it is still there");
    let erased = erase(&desk, &customer);
    assert!(erased.status == 200 && erased.body.contains("Erased: 1 tickets"), "{}", erased.body);
    client.get(&format!("/v1/tickets/{ticket}")).problem(404);
    assert!(!client.search(words).contains(&learned));
    let gone = client.get(&link);
    assert!(gone.status == 410 && gone.body.contains("This conversation was deleted"), "{}", gone.body);
    assert_eq!(client.get(&format!("{link}/transcript")).status, 410);
    assert_eq!(desk.get(&format!("/desk/customers?id={}", encode(&customer))).status, 422);
    assert_eq!(client.get("/chat").status, 200);
    service.stop();

    let said = run(data.path(), &[], &["customer", "erase", "second", "--keep-figures"]).ok();
    assert!(said.contains("1 tickets, "), "{said}");
    let error = run(data.path(), &[], &["customer", "erase", "second"]).failed();
    assert!(error.contains("there is no customer \"second\""), "{error}");
    assert_eq!(holding(data.path()), [""; 0]);
    run(data.path(), &[], &["audit", "verify"]).ok();

    // The backup brings them back, and they are erased again.
    let said = run(data.path(), &[], &["restore", text(&copy)]).ok();
    assert!(said.contains("2 erasures") && said.contains("customer erase --again"), "{said}");
    assert!(!holding(data.path()).is_empty(), "the backup held it");
    run(data.path(), &[], &["customer", "erase", "--again"]).ok();
    assert_eq!(stats(data.path())["tickets"], 0);
    assert_eq!(holding(data.path()), [""; 0]);
    let said = run(data.path(), &[], &["customer", "erase", "--again"]).ok();
    assert!(said.contains("nobody"), "{said}");
}

#[test]
fn retention_says_what_would_go_before_it_goes() {
    let Some(service) = Service::with_memory(&[]) else { return };
    service.client().worked_ticket("no puedo entrar a mi correo");
    let said = run(service.data(), &[("RESPONDO_RETENTION__TICKETS_DAYS", "30")], &["retention", "--dry-run"]).ok();
    assert!(said.contains("all queues: 0 conversations") && said.contains("Nothing was removed"), "{said}");
    let error = run(service.data(), &[], &["retention"]).failed();
    assert!(error.contains("another respondo uses the data folder"), "{error}");
    service.stop();
}

#[test]
fn a_decision_comes_out_the_same_again_or_it_is_said_why_not() {
    let Some(data) = memory() else { return };
    let service = Service::on(data.path(), &[]);
    let client = service.client();
    let view = client.worked_ticket(REQUEST);
    let ticket = view["ticket"]["id"].as_str().expect("id").to_owned();
    let decision = view["decisions"][0]["id"].as_str().expect("id").to_owned();
    let basis = &view["decisions"][0]["basis"];
    assert_eq!(basis["message"], view["messages"][0]["id"]);
    assert_eq!(basis["evidence"][0]["id"], view["evidence"][0]["memory_id"]);
    let evidence = view["evidence"][0]["memory_id"].as_str().expect("id").to_owned();
    // What was written later does not bear on it.
    let later = json!({ "body": "and now the whole shop is down, please hurry" });
    assert_eq!(client.post(&format!("/v1/tickets/{ticket}/messages"), &later).status, 201);
    client.worked(&ticket);
    service.stop();
    let before = stats(data.path());

    let said = run(data.path(), &[], &["audit", "replay", &decision]).ok();
    for line in ["judgement the same", "decision  the same", "draft     the same", "inputs    the same"] {
        assert!(said.contains(line), "{line} is missing: {said}");
    }
    run(data.path(), &[], &["audit", "replay", &ticket]).ok();

    let off = run(data.path(), &[("RESPONDO_POLICY__DEFAULT__MODE", "off")], &["audit", "replay", &decision]);
    assert_eq!(off.status.code(), Some(1), "{}", off.stderr);
    for line in ["judgement the same", "decision  different", "policy: then "] {
        assert!(off.stdout.contains(line), "{line} is missing: {}", off.stdout);
    }
    run(data.path(), &[], &["forget", &evidence]).ok();
    let forgotten = run(data.path(), &[], &["audit", "replay", &decision]);
    let line = format!("evidence {evidence}: found then, not now");
    assert!(forgotten.stdout.contains(&line), "{}{}", forgotten.stdout, forgotten.stderr);
    let after = stats(data.path());
    for figure in ["tickets", "messages", "drafts", "decisions_by_action"] {
        assert_eq!(after[figure], before[figure], "a replay records nothing");
    }
    let error = run(data.path(), &[], &["audit", "replay", "00000000-0000-7000-8000-000000000000"]).failed();
    assert!(error.contains("there is no decision"), "{error}");
}
