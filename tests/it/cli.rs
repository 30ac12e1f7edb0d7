//! The commands as a person or a script uses them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{
    Env, Service, chat_model, command, copy_folder, embedding_model, memory, project, run, run_with_input, stats,
    turn_to_write,
};

const REQUEST: &str = "hi, gmail rejects all our mail with 550-5.7.26 SPF did not pass";

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Ids of the evidence that `ask` finds.
fn found_by_asking(data: &Path, request: &str) -> Vec<String> {
    let answer: Value =
        serde_json::from_str(&run(data, &[], &["ask", "--fast", "--json", request]).ok()).expect("JSON");
    crate::support::found_ids(&answer["evidence"])
}

#[test]
fn ask_answers_in_readable_text() {
    let Some(data) = memory() else { return };
    let said = run(data.path(), &[], &["ask", "--fast", REQUEST]).ok();
    for heading in ["Evidence", "Triage", "Draft", "Decision", "Timings"] {
        assert!(said.lines().any(|line| line.starts_with(heading)), "{heading} is missing: {said}");
    }
    assert!(!said.contains('\u{1b}'), "colours in a pipe: {said}");
    assert_eq!(stats(data.path())["tickets"], 0, "asking leaves no trace");
}

#[test]
fn who_reads_no_further_ends_a_command_without_a_word() {
    let data = tempfile::tempdir().expect("temporary folder");
    let mut command = command(data.path(), &[]);
    command.args(["train", "desk", "--undo"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    drop(child.stdout.take());
    let ended = child.wait_with_output().expect("the command ends");
    assert!(ended.status.success(), "{}", ended.status);
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
}

#[test]
fn ask_gives_json_and_reads_standard_input() {
    let Some(data) = memory() else { return };
    for arguments in [&["ask", "--fast", "--json"][..], &["ask", "--fast", "--json", "-"]] {
        let said = run_with_input(data.path(), &[], arguments, "¿por qué gmail rechaza el correo? SPF".as_bytes()).ok();
        let answer: Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(answer["draft"]["language"], "es", "{said}");
        assert!(!answer["evidence"].as_array().expect("evidence").is_empty());
        assert_eq!(answer["degraded"], serde_json::json!([]));
    }
}

#[test]
fn ask_with_the_language_model_shows_when_the_reply_came() {
    let _turn = turn_to_write();
    let (Some(data), Some(_)) = (memory(), chat_model()) else { return };
    let said = run(data.path(), &crate::writing::PATIENT, &["ask", REQUEST]).ok();
    assert!(said.contains("Writing") && said.contains("first token"), "{said}");
}

#[test]
fn ask_refuses_what_is_no_message_before_it_loads_anything() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let refused: [(&[u8], &str); 5] = [
        (b"", "empty"),
        (b"   \n", "empty"),
        (b"> only quoted\n", "quote"),
        (&[0xff, 0xfe, 0, 1], "not text"),
        (&[b'a'; 70_000], "65536"),
    ];
    for (input, reason) in refused {
        let error = run_with_input(folder.path(), &[], &["ask", "--fast"], input).failed();
        assert!(error.contains(reason), "{reason}: {error}");
    }
    assert!(!folder.path().join("respondo.db").exists());
}

#[test]
fn output_into_a_pipe_that_closes_early_is_no_failure() {
    let Some(data) = memory() else { return };
    for arguments in
        [&["ask", "--fast", REQUEST][..], &["ask", "--fast", "--json", REQUEST], &["stats"], &["models", "list"]]
    {
        let mut child = command(data.path(), &[])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut first = String::new();
        // `head -1`: one line, then the reader goes.
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut first).expect("a line");
        let output = child.wait_with_output().expect("ended");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("panicked"), "{arguments:?}: {}: {said}", output.status);
    }
}

#[test]
fn samples_that_are_read_twice_are_known_the_second_time() {
    let Some(data) = memory() else { return };
    for (kind, expected) in
        [("tickets", "0 new, 0 changed, 147 known, 8 rejected"), ("articles", "0 new, 0 changed, 28 known, 0 rejected")]
    {
        let file = project().join("samples").join(format!("{kind}.jsonl"));
        let said = run(data.path(), &[], &["ingest", text(&file), "--as", kind]).ok();
        assert!(said.contains(expected), "{said}");
        assert!(!said.contains("indexed"), "nothing is embedded again: {said}");
    }
}

#[test]
fn rejected_rows_are_listed_with_line_and_reason() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (data, rows, list) =
        (folder.path().join("data"), folder.path().join("rows.jsonl"), folder.path().join("rejects.tsv"));
    let good = r#"{"id": "a-1", "subject": "no sound", "body": "the stream is silent since noon", "answer": "Start the auto DJ in the panel under Stream, it was stopped at noon.", "answer_kind": "accepted"}"#;
    let mut bytes =
        format!("{good}\nnot json\n\n[1, 2]\n{{\"id\": \"a-2\", \"body\": \"no subject, no answer\"}}\n").into_bytes();
    bytes.extend_from_slice(b"{\"id\": \"a-3\", \"body\": \"\xff\xfe\"}\n");
    bytes.extend_from_slice(good.replace("a-1", "a-4").as_bytes());
    fs::write(&rows, bytes).expect("written");
    let finished = run(&data, &[], &["ingest", text(&rows), "--as", "tickets", "--no-index", "--rejects", text(&list)]);
    let said = finished.ok();
    assert!(said.contains("2 new") && said.contains("4 rejected"), "{said}");
    let rejects = fs::read_to_string(&list).expect("list");
    let lines: Vec<&str> = rejects.lines().filter_map(|line| line.split('\t').nth(1)).collect();
    assert_eq!(lines, ["2", "4", "5", "6"], "{rejects}");
    assert!(rejects.contains("JSON") && rejects.contains("UTF-8"), "{rejects}");
    for (arguments, reason) in [
        (vec!["ingest", "/no/such/file.jsonl", "--as", "tickets"], "is not a file"),
        (vec!["ingest", env!("CARGO_BIN_EXE_respondo"), "--as", "tickets", "--no-index"], "unknown kind of file"),
    ] {
        let error = run(&data, &[], &arguments).failed();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn a_table_is_read_with_a_mapping_and_scrubbed_and_can_be_forgotten() {
    let Some(data) = memory() else { return };
    let table = data.path().join("table.csv");
    fs::write(
        &table,
        "ticket_no,betreff,description,reply,kind\n\
         7001,\"zorblax gateway\",\"The zorblax gateway says code ZX-4471, I am at pia.koch@mail.example\",\
         \"Restart the zorblax gateway under Panel > Gateway and enter the code ZX-4471 again. Greetings, Tom\",accepted\n",
    )
    .expect("written");
    let map = "id=ticket_no,subject=betreff,body=description,answer=reply,answer_kind=kind";
    let arguments = ["ingest", text(&table), "--as", "tickets", "--map", map, "--language", "en"];
    let said = run(data.path(), &[], &arguments).ok();
    assert!(said.contains("1 new"), "{said}");
    let request = "what is zorblax gateway code ZX-4471";
    assert_eq!(found_by_asking(data.path(), request).first().map(String::as_str), Some("7001"));
    let answer = run(data.path(), &[], &["ask", "--fast", "--json", request]).ok();
    assert!(!answer.contains("pia.koch"), "{answer}");

    assert!(run(data.path(), &[], &["forget", "7001"]).ok().contains("7001"));
    assert!(!found_by_asking(data.path(), request).contains(&"7001".to_owned()));
    assert!(run(data.path(), &[], &["forget", "7001"]).failed().contains("7001"));
    let error = run(data.path(), &[], &["ingest", text(&table), "--as", "tickets", "--map", "id=nummer"]).failed();
    assert!(error.contains("nummer"), "{error}");
    let error = run(data.path(), &[], &["ingest", text(&table), "--as", "tickets", "--map", "colour=kind"]).failed();
    assert!(error.contains("colour"), "{error}");
}

#[test]
fn reindex_builds_the_same_index_again() {
    let Some(data) = memory() else { return };
    let before = found_by_asking(data.path(), REQUEST);
    let said = run(data.path(), &[], &["reindex"]).ok();
    assert!(said.contains("indexed 175 items"), "{said}");
    assert_eq!(found_by_asking(data.path(), REQUEST), before);
}

#[test]
fn stats_count_what_is_stored() {
    let Some(data) = memory() else { return };
    let stats = stats(data.path());
    assert_eq!((&stats["memory"]["items"], &stats["memory"]["unindexed"]), (&175.into(), &0.into()));
    let said = run(data.path(), &[], &["stats"]).ok();
    assert!(said.contains("175 items"), "{said}");
    let nowhere = tempfile::tempdir().expect("temporary folder");
    assert!(run(nowhere.path(), &[], &["stats"]).failed().contains("respondo ingest"));
}

#[test]
fn doctor_says_by_its_exit_code_whether_all_is_well() {
    let Some(data) = memory() else { return };
    let said = run(data.path(), &[], &["doctor"]).ok();
    assert!(!said.contains("BAD"), "{said}");
    let nowhere = tempfile::tempdir().expect("temporary folder");
    let finished = run(nowhere.path(), &[], &["doctor", "--json"]);
    let checks: Value = serde_json::from_str(&finished.stdout).expect("JSON");
    let bad: Vec<&Value> = checks.as_array().expect("list").iter().filter(|check| check["ok"] == false).collect();
    assert!(!bad.is_empty() && bad.iter().all(|check| check["mend"].is_string()), "{checks}");
    finished.failed();
    let service = Service::on(data.path(), &[]);
    run(data.path(), &[], &["doctor"]).ok();
    service.stop();
}

#[test]
fn models_are_listed_with_their_state() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let list = |env: Env| {
        serde_json::from_str::<Value>(&run(folder.path(), env, &["models", "list", "--json"]).ok()).expect("JSON")
    };
    let empty = folder.path().join("cache");
    let nothing = list(&[("RESPONDO_CACHE", text(&empty))]);
    assert!(nothing.as_array().expect("list").iter().all(|model| model["status"] == "missing"), "{nothing}");
    if let Some(here) = embedding_model() {
        assert_eq!(list(&[])[0]["status"], "present");
        let path = run(folder.path(), &[], &["models", "path", "multilingual-e5-small"]).ok();
        assert_eq!(Path::new(path.trim()), here);
        // One wrong byte is noticed although the size is right.
        let copy = empty.join("models/multilingual-e5-small");
        copy_folder(&here, &copy);
        let file = copy.join("tokenizer.json");
        let mut bytes = fs::read(&file).expect("read");
        bytes[1_000] ^= 1;
        fs::write(&file, bytes).expect("written");
        let verified = run(folder.path(), &[("RESPONDO_CACHE", text(&empty))], &["models", "verify"]);
        assert!(verified.stdout.contains("tokenizer.json: corrupt"), "{}", verified.stdout);
        verified.failed();
    }
}

#[test]
fn wrong_settings_are_named() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("own.toml");
    fs::write(&file, "[server]\nprot = 1\n").expect("written");
    assert!(run(folder.path(), &[], &["--config", text(&file), "stats"]).failed().contains("prot"));
    assert!(run(folder.path(), &[], &["--config", "no-such.toml", "stats"]).failed().contains("no-such.toml"));
    for (name, value, key) in [
        ("RESPONDO_SERVER__PORT", "many", "port"),
        ("RESPONDO_DRAFT__DEADLINE_SECONDS", "0", "deadline_seconds"),
        ("RESPONDO_SERVER__API_KEY", "short", "api_key"),
    ] {
        assert!(run(folder.path(), &[(name, value)], &["doctor"]).failed().to_lowercase().contains(key), "{name}");
    }
}
