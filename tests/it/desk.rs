//! The agents' side: the queue and what a person does with a draft.

use std::thread;

use serde_json::{Value, json};

use crate::support::{Client, Service, sent_messages, shared};

/// A request that the memory answers, from somebody who says who he is.
const REQUEST: &str = "Hi, made a DJ account for a friend, butt says invalid password and the log says SRC-03. He uses port \
    8000 and mount /live like me. Write to jonas.weber@mail.example or call +34 612 345 678.\nKind regards,\nJonas Weber";

/// A worked ticket: its id and that of its open draft.
fn open_draft(client: &Client, body: &str) -> (String, String) {
    let view = client.worked_ticket(body);
    let draft = view["drafts"].as_array().expect("drafts").iter().find(|draft| draft["status"] == "open");
    let draft = draft.unwrap_or_else(|| panic!("no open draft: {view}"));
    let id = |value: &Value| value["id"].as_str().expect("id").to_owned();
    (id(&view["ticket"]), id(draft))
}

#[test]
fn an_approved_answer_goes_out_once_and_becomes_memory_without_personal_data() {
    let Some(service) = shared() else { return };
    let client = service.client();
    let (ticket, draft) = open_draft(&client, REQUEST);
    let path = format!("/v1/drafts/{draft}/approve");
    let reply = client.post(&path, &json!({ "agent": "ana" }));
    assert_eq!(reply.status, 200, "{}", reply.body);
    let reviewed = reply.json();
    assert_eq!(reviewed["ticket"]["state"], "answered");
    let view = client.view(&ticket);
    assert_eq!(view["drafts"][0]["draft"]["kind"], "extractive");
    let fit = view["decisions"][0]["decision"]["fit"].as_f64();
    assert!(fit.is_some_and(|fit| (0.35..=1.0).contains(&fit)), "{view}");
    assert_eq!(reviewed["message"]["body"], view["drafts"][0]["draft"]["text"]);
    assert_eq!(view["outcomes"][0]["outcome"], "approved");
    assert_eq!(view["outcomes"][0]["agent"], "ana");
    client.post(&path, &json!({})).problem(409);
    let delivered =
        client.events(&ticket, None).find(|e| e.kind == "message" && e.data["body"] == reviewed["message"]["body"]);
    assert!(delivered.is_some(), "the reply was delivered");
    let sent = sent_messages(&client.view(&ticket));
    assert_eq!(sent.len(), 2, "the acknowledgement and the answer, once each: {sent:?}");

    let words = crate::support::encode("DJ account invalid password SRC-03 port 8000 mount /live");
    let found = client.get(&format!("/v1/memory/search?q={words}")).json();
    let remembered = found.as_array().expect("list").iter().find(|f| f["item"]["id"] == format!("ticket-{ticket}"));
    let remembered = remembered.unwrap_or_else(|| panic!("not found: {found}")).to_string();
    for personal in ["jonas.weber", "mail.example", "612 345 678", "Weber"] {
        assert!(!remembered.contains(personal), "{personal} is in the memory: {remembered}");
    }
    // The team still reads what the customer wrote.
    assert!(client.view(&ticket).to_string().contains("jonas.weber@mail.example"));
}

#[test]
fn an_edited_answer_goes_out_as_edited_and_the_difference_is_kept() {
    let Some(service) = shared() else { return };
    let client = service.client();
    let (ticket, draft) = open_draft(&client, REQUEST);
    let path = format!("/v1/drafts/{draft}/edit");
    client.post(&path, &json!({ "text": " \n" })).problem(422);
    client.post(&path, &json!({ "text": "x".repeat(65_537) })).problem(413);
    let text = "A DJ account has its own port and mount point; both stand in Panel > Stream > DJs.";
    let reply = client.post(&path, &json!({ "text": text, "agent": "ana", "note": "shorter" }));
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.json()["message"]["body"], text);
    let view = client.view(&ticket);
    assert_eq!(view["ticket"]["state"], "answered");
    assert_eq!(view["outcomes"][0]["final_text"], text);
    assert!(view["outcomes"][0]["difference"].as_str().is_some_and(|diff| diff.contains("+A DJ account")), "{view}");
    client.post(&path, &json!({ "text": text })).problem(409);
}

#[test]
fn a_rejected_draft_sends_nothing_and_leaves_the_ticket_with_a_person() {
    let Some(service) = shared() else { return };
    let client = service.client();
    let (ticket, draft) = open_draft(&client, REQUEST);
    let before = sent_messages(&client.view(&ticket));
    let reply = client.post(&format!("/v1/drafts/{draft}/reject"), &json!({ "reason": "wrong product" }));
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.json()["message"], Value::Null);
    let view = client.view(&ticket);
    assert_eq!(view["ticket"]["state"], "escalated");
    assert_eq!(view["outcomes"][0]["note"], "wrong product");
    assert_eq!(sent_messages(&view), before);
    client.post(&format!("/v1/drafts/{draft}/approve"), &json!({})).problem(409);
}

#[test]
fn an_escalated_draft_names_the_skill_it_needs() {
    let Some(service) = shared() else { return };
    let client = service.client();
    let (ticket, draft) = open_draft(&client, REQUEST);
    let path = format!("/v1/drafts/{draft}/escalate");
    assert!(client.post(&path, &json!({ "agent": "ana" })).problem(400).contains("skill"));
    let reply = client.post(&path, &json!({ "skill": "streaming" }));
    assert_eq!(reply.status, 200, "{}", reply.body);
    let view = client.view(&ticket);
    assert_eq!(view["ticket"]["state"], "escalated");
    assert_eq!(view["outcomes"][0]["skill"], "streaming");
}

#[test]
fn of_ten_agents_who_approve_at_once_one_succeeds() {
    let Some(service) = shared() else { return };
    let client = service.client();
    let (ticket, draft) = open_draft(&client, REQUEST);
    let approve = || client.post(&format!("/v1/drafts/{draft}/approve"), &json!({})).status;
    let mut statuses: Vec<u16> = thread::scope(|scope| {
        let agents: Vec<_> = (0..10).map(|_| scope.spawn(approve)).collect();
        agents.into_iter().map(|agent| agent.join().expect("answered")).collect()
    });
    statuses.sort_unstable();
    assert_eq!(statuses, [vec![200], vec![409; 9]].concat());
    assert_eq!(sent_messages(&client.view(&ticket)).len(), 2);
}

#[test]
fn a_draft_is_closed_when_the_customer_writes_again() {
    let Some(service) = shared() else { return };
    let client = service.client();
    let (ticket, draft) = open_draft(&client, REQUEST);
    let reply = client.post(&format!("/v1/tickets/{ticket}/messages"), &json!({ "body": "he typed it twice, too" }));
    assert_eq!(reply.status, 201, "{}", reply.body);
    client.post(&format!("/v1/drafts/{draft}/approve"), &json!({})).problem(409);
    client.post("/v1/drafts/00000000-0000-7000-8000-000000000000/approve", &json!({})).problem(404);
}

#[test]
fn the_queue_is_ordered_by_urgency_then_time_left() {
    let Some(service) = shared() else { return };
    let client = service.client();
    for body in [
        "just wondering whether there is a dark theme for the panel, no hurry at all",
        "EVERYTHING IS DOWN!!! our shop is offline for all customers since an hour, we lose money every minute, urgent",
        "how do I change the title that listeners see in the player?",
    ] {
        client.worked_ticket(body);
    }
    let list =
        |parameters: &str| client.get(&format!("/v1/queue?{parameters}")).json().as_array().expect("list").clone();
    let rows = list("state=review&limit=200");
    assert!(rows.len() >= 2, "{rows:?}");
    let level = |row: &Value| {
        let name = row["ticket"]["urgency"].as_str().expect("judged");
        ["critical", "high", "normal", "low"].iter().position(|level| *level == name).expect("known urgency")
    };
    assert!(rows.iter().map(level).collect::<Vec<_>>().is_sorted(), "{rows:?}");
    let keys: Vec<_> = rows.iter().map(|row| (level(row), row["ticket"]["due_at"].as_str().unwrap_or("~"))).collect();
    assert!(keys.is_sorted(), "{keys:?}");
    assert!(rows.iter().any(|row| row["minutes_left"].as_i64().is_some_and(|minutes| minutes > 0)));

    // Page by page the same rows come, each once. Other tests add rows meanwhile; those listed before stay in order.
    let mut paged = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = list(&format!("state=review&limit=2{cursor}"));
        let Some(last) = page.last() else { break };
        cursor = format!("&cursor={}", last["cursor"].as_str().expect("cursor"));
        paged.extend(page.iter().map(|row| row["ticket"]["id"].clone()));
    }
    let mut unique = paged.clone();
    unique.sort_by_key(Value::to_string);
    unique.dedup();
    assert_eq!(unique.len(), paged.len(), "a row came twice");
    assert!(list("language=en").iter().all(|row| row["ticket"]["language"] == "en"));
    for wrong in ["limit=0", "limit=201", "limit=x", "state=lost", "cursor=1.2.3", "colour=red"] {
        client.get(&format!("/v1/queue?{wrong}")).problem(400);
    }
}

#[test]
fn where_the_policy_allows_it_a_reply_goes_out_by_itself_and_critical_ones_never_do() {
    let env = [
        ("RESPONDO_POLICY__DEFAULT__MODE", "send"),
        ("RESPONDO_POLICY__DEFAULT__MIN_ANSWER_PROBABILITY", "0"),
        ("RESPONDO_POLICY__DEFAULT__MIN_SIMILARITY", "0"),
        ("RESPONDO_POLICY__DEFAULT__MIN_SUPPORT", "0"),
        ("RESPONDO_POLICY__DEFAULT__MIN_FIT", "0"),
    ];
    let Some(service) = Service::with_memory(&env) else { return };
    let client = service.client();
    let mut sent = 0;
    for request in crate::support::sample_requests() {
        let view = client.worked_ticket(request["body"].as_str().expect("body"));
        let decision = &view["decisions"][0]["decision"];
        let messages = sent_messages(&view);
        assert!(messages.len() <= 1, "{messages:?}");
        if decision["action"] == "send" {
            sent += 1;
            assert_eq!(view["ticket"]["state"], "answered");
            assert_eq!(messages, [view["drafts"][0]["draft"]["text"].as_str().expect("text")]);
            assert_ne!(view["ticket"]["urgency"], "critical");
        } else {
            assert_ne!(view["ticket"]["state"], "answered", "{decision}");
        }
    }
    assert!(sent > 0, "no reply went out by itself: the test proves nothing");
}
