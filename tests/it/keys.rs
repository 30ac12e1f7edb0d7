//! API keys from outside: what each opens, how they end, and that they stand nowhere but where they were shown.

use std::time::{Duration, Instant};

use respondo::http::auth::SCOPES;
use respondo::store::KeyScope;
use serde_json::{Value, json};

use crate::support::{Client, Desk, Env, Reply, Service, memory, run, shared};

const REQUEST: &str = "mi web no carga desde ayer";
/// An id that nothing has.
const NOTHING: &str = "01890000-0000-7000-8000-000000000000";
/// Has the form of a key and is none.
const UNKNOWN: &str = "rsp_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// An open stream asks every ten seconds whether its key still opens it; much more for a busy machine.
const STREAM_LIMIT: Duration = Duration::from_secs(120);

/// Makes a key on a data folder that no service uses.
fn add(data: &std::path::Path, arguments: &[&str]) -> String {
    let arguments: Vec<&str> = ["key", "add"].iter().chain(arguments).copied().collect();
    let key = run(data, &[], &arguments).ok().trim().to_owned();
    assert!(key.starts_with("rsp_") && key.len() == 47, "{key}");
    key
}

/// A call of a route with a body that no handler takes.
fn call(client: &Client, method: &str, path: &str) -> Reply {
    let path = path.replace("{id}", NOTHING);
    match method {
        "post" => client.post(&path, &json!({})),
        _ => client.get(&path),
    }
}

/// The key that a page of the desk shows.
fn made(page: &Reply) -> String {
    assert_eq!(page.status, 200, "{}", page.body);
    let (_, rest) = page.body.split_once("<code id=\"made\">").unwrap_or_else(|| panic!("no key: {}", page.body));
    rest.split('<').next().unwrap_or_default().to_owned()
}

/// Ids of the keys that can be ended, as the desk lists them.
fn listed(desk: &Desk) -> Vec<String> {
    let page = desk.get("/desk/keys").body;
    let ends = page.split("/desk/keys/").skip(1).filter_map(|rest| rest.split_once("/revoke\""));
    ends.map(|(id, _)| id.to_owned()).filter(|id| id.len() == 36).collect()
}

/// Whether a text stands in any file of a data folder.
fn stands_in(data: &std::path::Path, text: &str) -> bool {
    let files = std::fs::read_dir(data).expect("data folder").map(|entry| entry.expect("entry").path());
    files.filter(|path| path.is_file()).any(|path| {
        let content = std::fs::read(&path).expect("readable");
        content.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[test]
fn each_key_opens_its_own_scope_and_no_other() {
    let Some(folder) = memory() else { return };
    let keys: Vec<(KeyScope, String)> = KeyScope::EVERY
        .into_iter()
        .map(|scope| (scope, add(folder.path(), &[scope.name(), "--scope", scope.name()])))
        .collect();
    let expired = add(folder.path(), &["old", "--scope", "all"]);
    let renewed = run(folder.path(), &[], &["key", "rotate", "old", "--overlap", "0m"]).ok().trim().to_owned();
    let revoked = add(folder.path(), &["lost", "--scope", "all"]);
    run(folder.path(), &[], &["key", "revoke", "lost"]).ok();
    let service = Service::in_folder(folder, &[]);
    for (method, path, wanted) in SCOPES {
        for (scope, key) in &keys {
            let reply = call(&service.client().with_key(key), method, path);
            if scope == wanted || *scope == KeyScope::All {
                assert!(![401, 403, 429].contains(&reply.status), "{scope} on {path}: {}", reply.body);
                assert!(reply.status < 500, "{scope} on {path}: {}", reply.body);
            } else {
                let detail = reply.problem(403);
                assert!(detail.contains(&format!("`{wanted}`")), "{scope} on {path}: {detail}");
            }
        }
    }
    for (method, path, _) in SCOPES {
        assert_eq!(call(&service.client(), method, path).status, 401, "{path} without a key");
    }

    // What is wrong with a key is not told; the one in its place opens what it opened.
    let said: Vec<String> = [UNKNOWN, expired.as_str(), revoked.as_str(), "x"]
        .iter()
        .map(|key| service.client().with_key(key).get("/v1/queue").problem(401))
        .collect();
    assert!(said.iter().all(|detail| *detail == said[0]), "{said:?}");
    assert_eq!(service.client().with_key(&renewed).get("/v1/queue").status, 200);
    assert_eq!((service.client().get("/healthz").status, service.client().get("/readyz").status), (200, 200));
    let figures = service.client().with_key(&keys[3].1).get("/metrics").body;
    for reason in ["missing", "unknown", "expired", "revoked", "scope"] {
        let line = format!("respondo_auth_failures_total{{reason=\"{reason}\"}}");
        assert!(figures.contains(&line), "{line}: {figures}");
    }

    // Beside the service keys are listed, not made.
    let refused = run(service.data(), &[], &["key", "add", "more", "--scope", "all"]).failed();
    assert!(refused.contains("/desk/keys"), "{refused}");
    let list = run(service.data(), &[], &["key", "list"]).ok();
    for wanted in ["metrics", "expired", "revoked", "active"] {
        assert!(list.contains(wanted), "{wanted}: {list}");
    }
    let (data, said) = (service.data().to_owned(), service.said());
    for key in keys.iter().map(|(_, key)| key).chain([&expired, &renewed, &revoked]) {
        assert!(!list.contains(key.as_str()) && !said.contains(key.as_str()), "a key is shown");
        assert!(!stands_in(&data, &key["rsp_".len()..]), "a key is stored");
    }
    service.stop();
}

#[test]
fn an_administrator_makes_replaces_and_ends_keys_on_a_page() {
    let Some(service) = Service::with_memory(&[]) else { return };
    let anonymous = service.client();
    let asked = |key: &str| service.client().with_key(key).get("/v1/queue").status;
    let desk = Desk::set_up(&service, "Ana");
    assert_eq!(anonymous.get("/v1/queue").status, 200, "without keys this machine is served");
    for (fields, said) in [
        (&[("name", "crm")][..], "Choose what the key opens."),
        (&[("name", " "), ("desk", "1")], "what the key is for"),
        (&[("name", "crm"), ("desk", "1"), ("customer", "c-1")], "A key of one customer"),
        (&[("name", "crm"), ("desk", "1"), ("limit", "many")], "whole number"),
    ] {
        let refused = desk.form("/desk/keys", fields);
        assert_eq!(refused.status, 422, "{}", refused.body);
        assert!(refused.body.contains(said), "{said}: {}", refused.body);
    }
    assert_eq!(anonymous.get("/v1/queue").status, 200, "nothing was made");

    let first = made(&desk.form("/desk/keys", &[("name", "crm"), ("desk", "1"), ("expires", "90"), ("limit", "")]));
    assert_eq!((anonymous.get("/v1/queue").status, asked(&first)), (401, 200));
    assert_eq!(service.client().with_key(&first).get("/metrics").status, 403);
    let taken = desk.form("/desk/keys", &[("name", "crm"), ("all", "1")]);
    assert_eq!(taken.status, 422, "{}", taken.body);
    let page = desk.get("/desk/keys");
    assert!(page.body.contains(">crm<") && !page.body.contains(&first), "{}", page.body);
    assert_eq!(page.header("cache-control"), "no-store");

    let old = listed(&desk).pop().expect("a key");
    let rotate = format!("/desk/keys/{old}/rotate");
    let second = made(&desk.form(&rotate, &[("hours", "24")]));
    assert_ne!(first, second);
    assert_eq!((asked(&first), asked(&second)), (200, 200), "both for a while");
    assert_eq!(desk.form(&rotate, &[("hours", "24")]).status, 422, "once");
    assert_eq!(desk.get(&rotate).header("location"), "/desk/keys", "loading it again leads to the list");
    let revoke = |id: &str| desk.form(&format!("/desk/keys/{id}/revoke"), &[]);
    assert_eq!(revoke(&old).header("location"), "/desk/keys");
    assert_eq!((asked(&first), asked(&second)), (401, 200));
    assert_eq!(revoke(&old).status, 422, "it is over");
    assert_eq!(revoke(NOTHING).status, 404);
    let current = listed(&desk).pop().expect("a key");
    assert_eq!(revoke(&current).status, 303);
    assert_eq!((asked(&second), anonymous.get("/v1/queue").status), (401, 401), "it is not open to all again");

    let (data, said) = (service.data().to_owned(), service.said());
    run(&data, &[], &["audit", "verify"]).ok();
    for key in [&first, &second] {
        assert!(!said.contains(key.as_str()) && !stands_in(&data, &key["rsp_".len()..]), "a key is kept");
    }
    service.stop();
}

#[test]
fn keys_and_those_who_try_keys_have_limits() {
    let Some(folder) = memory() else { return };
    let own = "a-key-of-the-settings";
    let slow = add(folder.path(), &["slow", "--scope", "desk", "--per-minute", "2"]);
    let free = add(folder.path(), &["free", "--scope", "all", "--per-minute", "0"]);
    let usual = add(folder.path(), &["usual", "--scope", "desk"]);
    let env: Env = &[("RESPONDO_SERVER__API_KEY", own), ("RESPONDO_SERVER__KEY_REQUESTS_PER_MINUTE", "1")];
    let service = Service::in_folder(folder, env);
    let ask = |key: &str| service.client().with_key(key).get("/v1/queue");
    assert_eq!([ask(&slow).status, ask(&slow).status, ask(&usual).status], [200; 3]);
    for (key, step) in [(&slow, 30), (&usual, 60)] {
        let refused = ask(key);
        refused.problem(429);
        let wait: u64 = refused.header("retry-after").parse().expect("seconds");
        assert!((1..=step).contains(&wait), "{wait}");
    }
    for _ in 0..30 {
        assert_eq!((ask(&free).status, ask(own).status), (200, 200));
    }
    // Twenty at once and one more every three seconds: on a machine that is not that slow, one of these is too many.
    let wrong: Vec<u16> = (0..200).map(|_| ask("a-wrong-key-of-somebody").status).take_while(|s| *s != 429).collect();
    assert!(wrong.len() >= 20 && wrong.len() < 200, "{}", wrong.len());
    assert!(wrong.iter().all(|status| *status == 401), "{wrong:?}");
    assert_eq!(ask(&free).status, 200, "who has a key that nobody can guess is not shut out");
    service.stop();
}

#[test]
fn a_key_of_one_customer_sees_what_is_the_customers() {
    let Some(folder) = memory() else { return };
    let shop = add(folder.path(), &["shop", "--scope", "tickets", "--customer", "c-1"]);
    let all = add(folder.path(), &["team", "--scope", "all"]);
    let service = Service::in_folder(folder, &[]);
    let (shop, team) = (service.client().with_key(&shop), service.client().with_key(&all));
    let desk = Desk::set_up(&service, "Ana");
    let other = team.open_ticket_with(&json!({ "body": REQUEST, "customer": "c-2" }));
    let nobodys = team.open_ticket(REQUEST);
    for id in [other.as_str(), &nobodys, NOTHING] {
        let path = format!("/v1/tickets/{id}");
        let refused = [
            shop.get(&path),
            shop.get(&format!("{path}/events")),
            shop.post(&format!("{path}/messages"), &json!({ "body": REQUEST })),
        ];
        for reply in refused {
            assert_eq!(reply.problem(404), format!("there is no ticket {id}"));
        }
    }
    let forged = json!({ "body": REQUEST, "customer": "c-2" });
    shop.post("/v1/tickets", &forged).problem(403);
    shop.post("/v1/tickets", &json!({ "body": REQUEST, "queue": "no-such-queue" })).problem(403);

    let ticket = shop.open_ticket(REQUEST);
    let full = team.worked(&ticket);
    assert_eq!(full["ticket"]["customer"], "c-1");
    assert_eq!(desk.form(&format!("/desk/tickets/{ticket}/note"), &[("text", "nota secreta")]).status, 303);
    assert!(team.view(&ticket).to_string().contains("nota secreta"), "the team has it");
    let own = shop.view(&ticket);
    assert!(!own.to_string().contains("nota secreta"), "{own}");
    for field in ["evidence", "drafts", "decisions", "outcomes"] {
        assert_eq!(own[field], json!([]), "{field}");
    }
    for hidden in [&own["triage"], &own["timings"], &own["ticket"]["urgency"], &own["ticket"]["difficulty"]] {
        assert_eq!(hidden, &Value::Null, "{own}");
    }
    assert_eq!(own["messages"][0]["body"], REQUEST);
    let kinds: Vec<String> = shop.events_until(&ticket, None, "decided").into_iter().map(|event| event.kind).collect();
    for kind in ["evidence", "triage", "extractive", "draft", "decision", "received"] {
        assert!(!kinds.iter().any(|seen| seen == kind), "{kinds:?}");
    }
    let further = shop.post(&format!("/v1/tickets/{ticket}/messages"), &json!({ "body": "¿hay novedades?" }));
    assert_eq!(further.status, 201, "{}", further.body);

    // An open stream ends with its key.
    let open = shop.events(&ticket, None);
    let ids = listed(&desk);
    assert_eq!(ids.len(), 2, "{ids:?}");
    assert_eq!(desk.form(&format!("/desk/keys/{}/revoke", ids[0]), &[]).status, 303);
    let started = Instant::now();
    open.for_each(drop);
    assert!(started.elapsed() < STREAM_LIMIT, "the stream goes on");
    assert_eq!((shop.get("/v1/queue").status, team.get("/v1/queue").status), (401, 200), "by name: shop, team");
    service.stop();
}

#[test]
fn keys_are_made_without_a_service_and_an_open_address_needs_one_in_use() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path();
    let key = |arguments: &[&str]| run(data, &[], &[&["key"][..], arguments].concat());
    let first = add(data, &["crm", "--scope", "tickets", "--scope", "desk", "--expires", "90d"]);
    for (arguments, said) in [
        (&["add", "crm", "--scope", "all"][..], "rotate"),
        (&["add", "shop", "--scope", "all", "--customer", "c-1"], "`tickets` alone"),
        (&["revoke", "nothing"], "key list"),
        (&["rotate", "nothing"], "key list"),
    ] {
        let error = key(arguments).failed();
        assert!(error.contains(said), "{said}: {error}");
    }
    for (arguments, said) in [
        (&["add", "x"][..], "--scope"),
        (&["add", "x", "--scope", "everything"], "there are tickets, desk, search, metrics, all"),
        (&["add", "x", "--scope", "all", "--expires", "soon"], "90d"),
    ] {
        let refused = key(arguments);
        assert!(!refused.status.success() && refused.stderr.contains(said), "{said}: {}", refused.stderr);
    }
    let rotated = key(&["rotate", "crm"]);
    assert!(rotated.stderr.contains("tickets desk"), "{}", rotated.stderr);
    let second = rotated.ok().trim().to_owned();
    assert_ne!(first, second);
    let list = key(&["list"]).ok();
    assert!(list.contains("replaced, ends ") && list.contains("never used"), "{list}");
    assert_eq!(list.lines().count(), 2, "{list}");

    let check = |address: &str| {
        let env = [("RESPONDO_SERVER__ADDRESS", address)];
        let said = run(data, &env, &["doctor", "--json"]).stdout;
        let checks: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
        let all = checks.as_array().unwrap_or_else(|| panic!("{checks}")).clone();
        all.into_iter().find(|check| check["name"] == "server").expect("server")
    };
    assert_eq!(check("0.0.0.0")["ok"], true);
    assert_eq!(key(&["revoke", "crm"]).ok().lines().count(), 2, "both of that name");
    assert_eq!((check("0.0.0.0")["ok"].clone(), check("127.0.0.1")["ok"].clone()), (json!(false), json!(true)));
}

#[test]
fn others_are_served_only_once_there_is_a_key() {
    let Some(folder) = memory() else { return };
    // An address of documentation (RFC 5737): no machine has it, so that nothing is opened here.
    let env: Env = &[("RESPONDO_SERVER__ADDRESS", "192.0.2.1")];
    let refused = || Service::try_on(folder.path(), env).err().expect("refused").said;
    assert!(refused().contains("respondo key add"), "{}", refused());
    add(folder.path(), &["crm", "--scope", "tickets"]);
    let said = refused();
    assert!(said.contains("cannot listen on 192.0.2.1") && !said.contains("respondo key add"), "{said}");
    run(folder.path(), &[], &["key", "revoke", "crm"]).ok();
    assert!(refused().contains("respondo key add"), "a key that is over is none");
}

#[test]
fn the_document_says_what_each_route_asks_of_a_key() {
    let Some(service) = shared() else { return };
    let document = service.client().get("/openapi.json").json();
    let scheme = &document["components"]["securitySchemes"]["key"];
    assert_eq!((&scheme["type"], &scheme["scheme"]), (&json!("http"), &json!("bearer")));
    for (method, path, scope) in SCOPES {
        let operation = &document["paths"][path][method];
        assert_eq!(operation["security"], json!([{ "key": [scope.name()] }]), "{method} {path}");
        for status in ["401", "403", "429"] {
            let response = &operation["responses"][status];
            assert!(response["content"]["application/problem+json"].is_object(), "{method} {path}: {response}");
        }
    }
    for path in ["/healthz", "/readyz"] {
        assert!(document["paths"][path]["get"].get("security").is_none(), "{path}");
    }
}
