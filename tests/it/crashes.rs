//! The service killed again and again while customers write and an agent approves: `respondo bench crash` in its short form.

use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use crate::support::{Service, memory, project, run, stats};

#[test]
fn a_service_that_is_killed_again_and_again_loses_nothing_and_does_nothing_twice() {
    let Some(data) = memory() else { return };
    let samples = project().join("samples");
    let (folder, samples) = (data.path().to_str().expect("UTF-8"), samples.to_str().expect("UTF-8"));
    let arguments = ["bench", "crash", "--requests", "120", "--kills", "12", "--seed", "1", "--clients", "6"];
    let arguments = [&arguments[..], &["--folder", folder, "--samples", samples]].concat();
    let report = run(data.path(), &[], &arguments).ok();
    assert!(report.contains("- wrong: 0"), "{report}");
    assert!(report.contains("--requests 120 --kills 12 --seed 1"), "a run can be repeated: {report}");
    let figure = |name: &str| -> u64 {
        let line = report.lines().find_map(|line| line.strip_prefix(&format!("- {name}: ")));
        let line = line.unwrap_or_else(|| panic!("no {name:?} in {report}"));
        line.split(|c: char| !c.is_ascii_digit()).next().and_then(|number| number.parse().ok()).expect("a number")
    };
    // Something was at stake: every customer's message is one, and the agent approved answers.
    assert!(figure("messages of customers") >= 60 && figure("messages to customers") >= 60, "{report}");
    assert!(figure("approvals") > 0, "{report}");

    // What is there already cannot be told from what was lost.
    let again = run(data.path(), &[], &arguments).failed();
    assert!(again.contains("tickets already") && again.contains("seed 1"), "{again}");
}

#[test]
fn a_reply_that_was_told_before_the_kill_is_not_told_again() {
    let Some(data) = memory() else { return };
    let mut tickets = Vec::new();
    for number in 0..3 {
        let service = Service::on(data.path(), &[]);
        let client = service.client();
        let id =
            client.open_ticket(&format!("gmail rejects our mail with 550-5.7.26, SPF did not pass (mail {number})"));
        client.events_until(&id, None, "message");
        // Most likely before the reply is marked as sent.
        service.kill();
        tickets.push(id);
    }
    let service = Service::on(data.path(), &[]);
    let client = service.client();
    // Those that were not marked are sent again once the lease of the killed sender is over.
    let settled = (0..1_200).any(|_| {
        let settled = stats(data.path())["outbox_pending"] == 0;
        sleep(Duration::from_millis(if settled { 0 } else { 100 }));
        settled
    });
    assert!(settled, "{}", service.said());
    for id in &tickets {
        let further = client.post(&format!("/v1/tickets/{id}/messages"), &json!({ "body": "is anybody there?" }));
        assert_eq!(further.status, 201, "{}", further.body);
        let (mut received, mut told) = (0, Vec::new());
        for event in client.events(id, None) {
            received += usize::from(event.kind == "received");
            if received == 2 {
                break;
            }
            if event.kind == "message" {
                told.push(event.data["message_id"].to_string());
            }
        }
        assert_eq!(told.len(), 1, "ticket {id} is told of {told:?}");
    }
    service.stop();
}
