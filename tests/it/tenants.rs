//! Two teams in one installation beside its own desk: whatever is brought from one to another opens nothing there.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Client, Desk, Env, PASSWORD, Reply, Service, copy_folder, encode, memory, run, setup_token, setup_token_of,
    ticket_of,
};

const ACME: &str = "acme.example";
const GLOBEX: &str = "globex.example";
/// No team has it: the installation's own desk answers.
const NOBODYS: &str = "unknown.example";
/// Two teams; every request may say which client it comes from, so that no limit hides an answer.
const SETTINGS: &str = r#"
[server]
api_key = "a-key-of-the-installation"
key_requests_per_minute = 0
trusted_proxies = ["127.0.0.1"]
[tenants.acme]
hosts = ["acme.example"]
api_key = "a-key-of-acme-alone"
[tenants.globex]
hosts = ["globex.example", "help.globex.example"]
api_key = "a-key-of-globex-alone"
"#;
/// A word in acme's texts that nothing else holds.
const CANARY: &str = "xyzzyqplugh";
/// A request that the sample memory answers, with the word in it.
const REQUEST: &str = "hi, gmail rejects all our mail with 550-5.7.26 SPF did not pass, there are two TXT records. which is \
                       right? (mail xyzzyqplugh)";
/// The same without the word, to search with.
const WORDS: &str = "gmail rejects all our mail with 550-5.7.26 SPF did not pass, two TXT records";
/// A customer of acme's.
const CUSTOMER: &str = "customer-4711";
const BOUNDARY: &str = "----a-boundary-of-the-test";
/// Seed of the choices, and how many are made.
const SEED: u64 = 20_260_214;
const CHOICES: u32 = 400;

/// The routes of the pages, as `src/web/mod.rs` and `src/web/chat/mod.rs` register them.
const PAGES: [(&str, &str); 52] = [
    ("GET", "/desk"),
    ("GET", "/desk/"),
    ("GET", "/desk/rows"),
    ("GET", "/desk/live"),
    ("POST", "/desk/views"),
    ("GET", "/desk/numbers"),
    ("GET", "/desk/people"),
    ("POST", "/desk/people"),
    ("POST", "/desk/people/{id}/active"),
    ("POST", "/desk/people/{id}/password"),
    ("GET", "/desk/password"),
    ("POST", "/desk/password"),
    ("GET", "/desk/keys"),
    ("POST", "/desk/keys"),
    ("GET", "/desk/keys/{id}/rotate"),
    ("POST", "/desk/keys/{id}/rotate"),
    ("POST", "/desk/keys/{id}/revoke"),
    ("GET", "/desk/customers"),
    ("GET", "/desk/customers/export"),
    ("POST", "/desk/customers/erase"),
    ("GET", "/desk/tickets/{id}"),
    ("GET", "/desk/tickets/{id}/panel"),
    ("GET", "/desk/tickets/{id}/events"),
    ("POST", "/desk/tickets/{id}/reply"),
    ("POST", "/desk/tickets/{id}/note"),
    ("POST", "/desk/tickets/{id}/take-over"),
    ("POST", "/desk/tickets/{id}/give-back"),
    ("POST", "/desk/tickets/{id}/snooze"),
    ("POST", "/desk/tickets/{id}/merge"),
    ("POST", "/desk/tickets/{id}/correct"),
    ("POST", "/desk/drafts/{id}/{action}"),
    ("POST", "/desk/messages/{id}/take-back"),
    ("GET", "/desk/files/{id}"),
    ("GET", "/desk/sign-in"),
    ("POST", "/desk/sign-in"),
    ("POST", "/desk/sign-out"),
    ("GET", "/desk/setup"),
    ("POST", "/desk/setup"),
    ("GET", "/chat"),
    ("POST", "/chat"),
    ("GET", "/chat/{token}"),
    ("GET", "/chat/{token}/messages"),
    ("POST", "/chat/{token}/messages"),
    ("GET", "/chat/{token}/files/{id}"),
    ("POST", "/chat/{token}/typing"),
    ("GET", "/chat/{token}/feedback"),
    ("POST", "/chat/{token}/feedback"),
    ("GET", "/chat/{token}/events"),
    ("GET", "/chat/{token}/transcript"),
    ("GET", "/language/{code}"),
    ("GET", "/assets/{file}"),
    ("GET", "/widget.js"),
];

/// What a desk has that opens something.
struct Site {
    host: &'static str,
    client: Client,
    /// A key from its store, and the one of the settings.
    keys: [String; 2],
    desk: Desk,
    /// Token of a conversation's link.
    chat: String,
}

/// What acme has that somebody could ask for.
struct Held {
    ticket: String,
    /// By what they are.
    ids: Vec<(&'static str, String)>,
}

/// What comes with a request.
struct Bringing<'a> {
    what: &'static str,
    key: Option<&'a str>,
    desk: Option<&'a Desk>,
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// What stands in a page after a mark, up to a quotation mark or a tag.
fn after<'a>(page: &'a str, mark: &str) -> &'a str {
    let (_, rest) = page.split_once(mark).unwrap_or_else(|| panic!("no {mark}: {page}"));
    rest.split(['"', '<', '/']).next().unwrap_or_default()
}

/// Sets a desk up: an administrator, a key of its store, a conversation with a file.
fn set_up(service: &Service, host: &'static str, token: &str, own_key: &str, name: &str, says: &str) -> Site {
    let client = service.client().with_host(host);
    let desk = Desk::set_up_with(client.clone(), token, name);
    let made = desk.form("/desk/keys", &[("name", &format!("{name} program")), ("all", "1")]);
    let key = after(&made.body, "<code id=\"made\">").to_owned();
    let file = format!("name=\"files\"; filename=\"log.txt\"\r\ncontent-type: text/plain\r\n\r\n{says} in a file");
    let parts = [format!("name=\"body\"\r\n\r\n{says}"), format!("name=\"name\"\r\n\r\n{name}"), file];
    let mut form: String =
        parts.iter().map(|part| format!("--{BOUNDARY}\r\ncontent-disposition: form-data; {part}\r\n")).collect();
    form.push_str(&format!("--{BOUNDARY}--\r\n"));
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let opened = client.send("POST", "/chat", &[("content-type", kind.as_str())], Some(form.as_bytes()));
    assert_eq!(opened.status, 303, "{}", opened.body);
    let chat = opened.header("location").trim_start_matches("/chat/").to_owned();
    Site { host, client, keys: [key, own_key.to_owned()], desk, chat }
}

/// Gives acme one of everything, and waits until all of it is done.
fn fill(acme: &Site, data: &Path, env: Env) -> Held {
    let client = acme.client.clone().with_key(&acme.keys[0]);
    let desk = &acme.desk;
    let chat = ticket_of(&format!("/chat/{}", acme.chat));
    client.worked(&chat);
    let ticket = client.open_ticket_with(&json!({ "body": REQUEST, "customer": CUSTOMER }));
    let view = client.worked(&ticket);
    let open_draft = |view: &Value| {
        let open = view["drafts"].as_array().expect("drafts").iter().find(|draft| draft["status"] == "open");
        open.and_then(|draft| draft["id"].as_str()).unwrap_or_else(|| panic!("no open draft: {view}")).to_owned()
    };
    // One answer becomes memory.
    let other = client.worked_ticket(REQUEST);
    let answer = json!({ "text": format!("Keep one of the two records, {CANARY}."), "agent": "Ana" });
    let edited = client.post(&format!("/v1/drafts/{}/edit", open_draft(&other)), &answer);
    assert_eq!(edited.status, 200, "{}", edited.body);
    assert_eq!(desk.form(&format!("/desk/tickets/{ticket}/note"), &[("text", CANARY)]).status, 303);
    assert_eq!(desk.form("/desk/views", &[("name", CANARY), ("query", "urgency=high")]).status, 303);
    let colleague = [("name", "Luis Xyzzyqplugh"), ("login", "luis"), ("password", PASSWORD), ("role", "agent")];
    assert_eq!(desk.form("/desk/people", &colleague).status, 303);
    let stats = || -> Value {
        serde_json::from_str(&run(data, env, &["--tenant", "acme", "stats", "--json"]).ok()).expect("JSON")
    };
    let sent = (0..600).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        let stats = stats();
        stats["outbox_pending"] == 0 && stats["memory"]["unindexed"] == 0
    });
    assert!(sent, "something is still to be sent or indexed: {}", stats());
    let message = view["messages"][0]["id"].as_str().expect("a message").to_owned();
    let file = after(&desk.get(&format!("/desk/tickets/{chat}")).body, "href=\"/desk/files/").to_owned();
    let key = after(&desk.get("/desk/keys").body, "action=\"/desk/keys/").to_owned();
    let people = desk.get("/desk/people").body;
    let (_, luis) = people.split_once("Luis Xyzzyqplugh").expect("the colleague");
    let person = after(luis, "action=\"/desk/people/").to_owned();
    let draft = open_draft(&view);
    let ids = vec![
        ("ticket", ticket.clone()),
        ("conversation", chat),
        ("draft", draft),
        ("message", message),
        ("file", file),
        ("key", key),
        ("person", person),
    ];
    for (what, id) in &ids {
        assert_eq!(id.len(), 36, "{what}: {id}");
    }
    Held { ticket, ids }
}

/// All that acme can be asked about itself, to be compared.
fn state_of(acme: &Site, held: &Held, data: &Path, env: Env) -> Value {
    let client = acme.client.clone().with_key(&acme.keys[0]);
    let mut stats: Value =
        serde_json::from_str(&run(data, env, &["--tenant", "acme", "stats", "--json"]).ok()).expect("JSON");
    stats["bytes"] = Value::Null;
    let trail = run(data, env, &["--tenant", "acme", "audit", "verify"]).ok();
    let chat = held.ids.iter().find(|(what, _)| *what == "conversation").expect("a conversation");
    let keys = run(data, env, &["--tenant", "acme", "key", "list"]).ok().lines().count();
    json!([client.view(&held.ticket), client.view(&chat.1), stats, trail, keys])
}

/// Method and path of every route of a desk: of its OpenAPI document, and of its pages.
fn routes(site: &Site) -> Vec<(String, String)> {
    let document: Value = site.client.get("/openapi.json").json();
    let paths = document["paths"].as_object().expect("paths").clone();
    let api = paths.into_iter().flat_map(|(path, item)| {
        let methods: Vec<String> = item.as_object().expect("methods").keys().map(|m| m.to_uppercase()).collect();
        methods.into_iter().filter(|method| method != "PARAMETERS").map(move |method| (method, path.clone()))
    });
    let pages = PAGES.iter().map(|(method, path)| ((*method).to_owned(), (*path).to_owned()));
    api.chain(pages).chain([("GET".to_owned(), "/".to_owned())]).collect()
}

/// A route's path with an id in it, and what the route reads from the address.
fn filled(pattern: &str, id: &str, token: &str) -> String {
    let path = pattern.replace("{id}", id).replace("{token}", token).replace("{action}", "reject");
    let path = path.replace("{code}", "en").replace("{file}", "htmx.min.js");
    match pattern {
        "/v1/memory/search" => format!("{path}?q={}", encode(WORDS)),
        "/desk" | "/desk/rows" => format!("{path}?q={}", encode(WORDS)),
        "/desk/customers" | "/desk/customers/export" => format!("{path}?id={CUSTOMER}"),
        _ => path,
    }
}

/// A body that the route takes.
fn body(pattern: &str, held: &Held, csrf: &str) -> (&'static str, String) {
    if pattern.starts_with("/v1/") {
        let body = match pattern.rsplit('/').next().unwrap_or_default() {
            "approve" => json!({}),
            "edit" => json!({ "text": "Another answer." }),
            "reject" => json!({ "reason": "wrong" }),
            "escalate" => json!({ "skill": "mail" }),
            _ => json!({ "body": "my page does not load since yesterday" }),
        };
        return ("application/json", body.to_string());
    }
    let kind = if pattern.ends_with("/feedback") { "person" } else { "answer" };
    let fields = [
        ("csrf", csrf),
        ("body", "my page does not load since yesterday"),
        ("text", "Another answer."),
        ("note", ""),
        ("skill", "mail"),
        ("person", ""),
        ("kind", kind),
        ("hours", "1"),
        ("into", held.ticket.as_str()),
        ("judgement", "urgency"),
        ("value", "low"),
        ("name", "Mallory"),
        ("login", "mallory"),
        ("password", PASSWORD),
        ("current", PASSWORD),
        // Refused with the right session: those that have it are needed with their passwords.
        ("new", PASSWORD),
        ("role", "admin"),
        ("active", "false"),
        ("id", CUSTOMER),
        ("typed", CUSTOMER),
        ("query", "urgency=low"),
        ("token", "none"),
        ("all", "1"),
    ];
    let pairs: Vec<String> = fields.iter().map(|(key, value)| format!("{key}={}", encode(value))).collect();
    ("application/x-www-form-urlencoded", pairs.join("&"))
}

/// A stream, which has no end.
fn is_stream(pattern: &str) -> bool {
    pattern.ends_with("/events") || pattern == "/desk/live"
}

/// A request as somebody makes it who has what is brought. A stream that opens is a status without a body.
fn ask(
    client: &Client,
    (method, pattern): (&str, &str),
    path: &str,
    bringing: &Bringing<'_>,
    held: &Held,
    from: u32,
) -> (u16, String) {
    let (csrf, cookie) = bringing.desk.map_or(("none", ""), |desk| (desk.csrf.as_str(), desk.cookie()));
    let (kind, body) = body(pattern, held, csrf);
    let from = std::net::Ipv4Addr::from_bits(0x0a00_0000 + from).to_string();
    let bearer = bringing.key.map(|key| format!("Bearer {key}"));
    let mut headers = vec![("x-forwarded-for", from.as_str()), ("cookie", cookie)];
    headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
    if method == "GET" && is_stream(pattern) {
        let status = client.status(path, &headers);
        if (200..300).contains(&status) {
            return (status, String::new());
        }
    }
    let has_body = ["POST", "PUT", "PATCH"].contains(&method);
    headers.extend(has_body.then_some(("content-type", kind)));
    let reply = client.send(method, path, &headers, has_body.then_some(body.as_bytes()));
    (reply.status, format!("{}\n{}", reply.header("location"), reply.body))
}

/// Checks an answer to a request with an id of acme's in its path, or without one.
fn check(what: &str, pattern: &str, (status, said): &(u16, String), has_foreign_id: bool) {
    assert!(!said.to_lowercase().contains(CANARY), "{what}: {status} with acme's texts: {said}");
    assert!(*status < 500, "{what}: {status}: {said}");
    if !has_foreign_id {
        return;
    }
    assert!(!(200..300).contains(status), "{what}: {status}: {said}");
    // Signed out, or the way back to the list; any other is what a form says that was taken.
    let is_led_away = said.starts_with("/desk/sign-in") || pattern == "/desk/keys/{id}/rotate";
    assert!(*status >= 400 || is_led_away, "{what}: {status}: {said}");
}

/// Brings everything of acme's to another desk, on every route.
fn bring_to(site: &Site, acme: &Site, held: &Held) -> u32 {
    let bringing = |what, key, desk| Bringing { what, key, desk };
    let brought = [
        bringing("nothing", None, None),
        bringing("its own key", Some(site.keys[0].as_str()), None),
        bringing("its own session", None, Some(&site.desk)),
        bringing("acme's key", Some(acme.keys[0].as_str()), None),
        bringing("acme's key of the settings", Some(acme.keys[1].as_str()), None),
        bringing("acme's session", None, Some(&acme.desk)),
        bringing("its own key and acme's session", Some(site.keys[0].as_str()), Some(&acme.desk)),
        bringing("acme's key and its own session", Some(acme.keys[0].as_str()), Some(&site.desk)),
    ];
    let routes = routes(site);
    let mut asked = 0;
    let mut try_one = |client: &Client, method: &str, pattern: &str, path: &str, by: &Bringing<'_>| {
        // It would end the session that the other cases need.
        if pattern == "/desk/sign-out" && by.desk.is_some_and(|desk| desk.csrf == site.desk.csrf) {
            return;
        }
        asked += 1;
        let answer = ask(client, (method, pattern), path, by, held, asked);
        let has_foreign_id = pattern.contains("{id}") || pattern.contains("{token}");
        check(&format!("{method} {path} on {} with {}", site.host, by.what), pattern, &answer, has_foreign_id);
    };
    for (method, pattern) in &routes {
        let ids = if pattern.contains("{id}") { &held.ids[..] } else { &held.ids[..1] };
        for (_, id) in ids {
            for by in &brought {
                try_one(&site.client, method, pattern, &filled(pattern, id, &acme.chat), by);
            }
        }
    }
    // A conversation of its own with a file of acme's.
    let file = format!("/chat/{}/files/{}", site.chat, held.ids[4].1);
    try_one(&site.client, "GET", "/chat/{token}/files/{id}", &file, &brought[0]);
    // The rest by chance: other methods, kinds of ids in places of others, spellings of the host.
    let mut chance = fastrand::Rng::with_seed(SEED);
    for _ in 0..CHOICES {
        let (method, pattern) = &routes[chance.usize(..routes.len())];
        let other = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"][chance.usize(..6)];
        let method = if chance.bool() { method } else { other };
        let id = &held.ids[chance.usize(..held.ids.len())].1;
        let id = if chance.bool() { id.replace('-', "") } else { id.to_uppercase() };
        let token = if chance.bool() { acme.chat.clone() } else { id.clone() };
        let spelling = [site.host.to_owned(), site.host.to_uppercase(), format!("{}.:8420", site.host)];
        let client = site.client.clone().with_host(&spelling[chance.usize(..3)]);
        try_one(&client, method, pattern, &filled(pattern, &id, &token), &brought[chance.usize(..brought.len())]);
    }
    asked
}

/// What was tried in vain elsewhere works where it belongs.
fn works_at_home(acme: &Site, held: &Held) {
    let client = acme.client.clone().with_key(&acme.keys[0]);
    let has_canary = |reply: &Reply| {
        assert_eq!(reply.status, 200, "{}", reply.body);
        assert!(reply.body.to_lowercase().contains(CANARY), "{}", reply.body);
    };
    let id = |what: &str| &held.ids.iter().find(|(kind, _)| *kind == what).expect("an id").1;
    has_canary(&client.get(&format!("/v1/tickets/{}", held.ticket)));
    has_canary(&acme.client.clone().with_key(&acme.keys[1]).get(&format!("/v1/tickets/{}", held.ticket)));
    has_canary(&client.get(&filled("/v1/memory/search", "", "")));
    for pattern in ["/desk", "/desk/people", "/desk/keys", "/desk/tickets/{id}", "/desk/tickets/{id}/panel"] {
        has_canary(&acme.desk.get(&pattern.replace("{id}", &held.ticket)));
    }
    has_canary(&acme.desk.get(&format!("/desk/files/{}", id("file"))));
    has_canary(&acme.client.get(&format!("/chat/{}", acme.chat)));
    has_canary(&acme.client.get(&format!("/chat/{}/files/{}", acme.chat, id("file"))));
    let by = Bringing { what: "its own", key: Some(acme.keys[0].as_str()), desk: Some(&acme.desk) };
    for (pattern, kind, wanted) in [
        ("/v1/tickets/{id}/messages", "ticket", 201),
        ("/desk/tickets/{id}/note", "ticket", 303),
        ("/desk/tickets/{id}/take-over", "ticket", 303),
        ("/chat/{token}/messages", "ticket", 303),
        ("/desk/people/{id}/password", "person", 303),
        ("/desk/people/{id}/active", "person", 303),
        ("/desk/keys/{id}/revoke", "key", 303),
    ] {
        let path = filled(pattern, id(kind), &acme.chat);
        let (status, said) = ask(&acme.client, ("POST", pattern), &path, &by, held, 1);
        assert_eq!(status, wanted, "{path}: {said}");
    }
}

#[test]
fn nothing_of_a_team_opens_anything_elsewhere() {
    let (Some(data), Some(samples)) = (memory(), memory()) else { return };
    let settings = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(settings.path(), SETTINGS).expect("written");
    // Acme knows what the samples know, so that its replies rest on something; globex begins with nothing.
    copy_folder(samples.path(), &data.path().join("tenants").join("acme"));
    // Time for all of them, so that none is told that its reply takes longer, and has its reply later.
    let env: Env = &[("RESPONDO_CONFIG", text(settings.path())), ("RESPONDO_DRAFT__DEADLINE_SECONDS", "600")];
    let service = Service::on(data.path(), env);
    let token = |team: &str| setup_token_of(&service, team);
    let site = |host, token: &str, key, name, says| set_up(&service, host, token, key, name, says);
    let acme = site(ACME, &token("acme"), "a-key-of-acme-alone", "Xyzzyqplugh", REQUEST);
    let globex = site(GLOBEX, &token("globex"), "a-key-of-globex-alone", "Bea", "our page is slow");
    let own = site(NOBODYS, &setup_token(&service), "a-key-of-the-installation", "Carla", "our page is slow");
    let held = fill(&acme, data.path(), env);

    let before = state_of(&acme, &held, data.path(), env);
    for site in [&globex, &own] {
        let asked = bring_to(site, &acme, &held);
        assert!(asked > 1_000, "{asked} requests");
        // What it has itself was good all the time.
        let key = site.client.clone().with_key(&site.keys[0]);
        assert_eq!((key.get("/v1/queue").status, site.desk.get("/desk").status), (200, 200), "{}", site.host);
        // Its own ticket cannot become a part of acme's.
        let ticket = ticket_of(&format!("/chat/{}", site.chat));
        let merged = site.desk.form(&format!("/desk/tickets/{ticket}/merge"), &[("into", held.ticket.as_str())]);
        assert!(merged.status >= 400, "{}: {}", merged.status, merged.header("location"));
    }
    assert_eq!(state_of(&acme, &held, data.path(), env), before, "acme has changed");

    // Nor does acme find what the others have.
    let client = acme.client.clone().with_key(&acme.keys[0]);
    for site in [&globex, &own] {
        let ticket = ticket_of(&format!("/chat/{}", site.chat));
        client.get(&format!("/v1/tickets/{ticket}")).problem(404);
    }
    works_at_home(&acme, &held);
    service.stop();
}

#[test]
fn a_host_leads_to_its_team_and_the_figures_are_the_installations() {
    let Some(data) = memory() else { return };
    let settings = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(settings.path(), SETTINGS).expect("written");
    let service = Service::on(data.path(), &[("RESPONDO_CONFIG", text(settings.path()))]);
    let at = |host: &str, key: &str| service.client().with_host(host).with_key(key);
    for (host, key) in [(ACME, "a-key-of-acme-alone"), ("help.globex.example:8420", "a-key-of-globex-alone")] {
        let client = at(host, key);
        assert_eq!(client.get("/v1/queue").status, 200, "{host}");
        client.get("/metrics").problem(404);
        assert!(client.get("/openapi.json").json()["paths"].get("/metrics").is_none(), "{host}");
        assert_eq!(client.search(WORDS), [""; 0], "{host} begins with nothing");
        at(host, "a-key-of-the-installation").get("/v1/queue").problem(401);
        at(NOBODYS, key).get("/metrics").problem(401);
    }
    for host in [NOBODYS, "acme.example.evil.example", &service.address().to_string()] {
        let client = at(host, "a-key-of-the-installation");
        assert!(client.get("/metrics").body.contains("respondo_http_seconds"), "{host}");
        assert!(!client.search(WORDS).is_empty(), "{host}: the installation's own memory");
    }
    service.stop();
}

#[test]
fn the_table_of_pages_is_what_is_registered() {
    let sources = [include_str!("../../src/web/mod.rs"), include_str!("../../src/web/chat/mod.rs")];
    let named = |name: &str| match name {
        "START" => "/chat".to_owned(),
        "MESSAGES" => "/chat/{token}/messages".to_owned(),
        path => path.trim_matches('"').to_owned(),
    };
    let lines = sources.iter().flat_map(|source| source.lines());
    let registered: BTreeSet<(&str, String)> = lines
        .filter_map(|line| line.trim().strip_prefix(".route(")?.split_once(", "))
        .flat_map(|(path, handlers)| {
            let methods = [("GET", "get("), ("POST", "post(")].into_iter();
            let taken =
                methods.filter(|(_, call)| handlers.starts_with(call) || handlers.contains(&format!(".{call}")));
            taken.map(|(method, _)| (method, named(path))).collect::<Vec<_>>()
        })
        .collect();
    let table = PAGES.iter().map(|(method, path)| (*method, (*path).to_owned())).collect();
    assert_eq!(registered, table);
}
