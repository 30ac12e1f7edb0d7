//! The desk's and the chat's pages without a browser: who gets in, what a form does, what a customer may see.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Client, Desk, PASSWORD, Service, post_form, setup_token, ticket_of};

/// A request that the memory answers.
const REQUEST: &str =
    "hola, al importar el .sql en phpmyadmin me da #1273 Cotejamiento desconocido: 'utf8mb4_0900_ai_ci'";
/// Longest wait for something that takes milliseconds, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

fn open_draft(client: &Client, body: &str) -> (String, String) {
    let view = client.worked_ticket(body);
    let drafts = view["drafts"].as_array().expect("drafts").iter();
    let draft = drafts.clone().find(|draft| draft["status"] == "open").unwrap_or_else(|| panic!("no draft: {view}"));
    let id = |value: &Value| value["id"].as_str().expect("id").to_owned();
    (id(&view["ticket"]), id(draft))
}

fn until(what: &str, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < LIMIT, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_desk_is_set_up_once_by_who_reads_the_programs_output() {
    let Some(service) = Service::with_memory(&[]) else { return };
    let client = service.client();
    assert_eq!(client.get("/desk").header("location"), "/desk/sign-in");
    assert_eq!(client.get("/desk/setup?token=wrong").status, 403);
    let token = setup_token(&service);
    let form = |password: &str| {
        post_form(
            &client,
            "/desk/setup",
            "",
            &[("token", &token), ("name", "Ana"), ("login", "ana"), ("password", password)],
        )
    };
    let short = form("short");
    assert_eq!(short.status, 422);
    assert!(short.body.contains("at least 10 characters"), "{}", short.body);
    let made = form(PASSWORD);
    assert_eq!(made.header("location"), "/desk");
    let cookie = made.header("set-cookie");
    for wanted in ["HttpOnly", "SameSite=Lax", "Path=/desk"] {
        assert!(cookie.contains(wanted), "{cookie}");
    }
    assert_eq!(form(PASSWORD).status, 422, "a second first account");
    assert_eq!(client.get(&format!("/desk/setup?token={token}")).header("location"), "/desk/sign-in");

    // Wrong passwords and unknown names look the same; after a few the name has to wait.
    let sign_in = |login: &str, password: &str| {
        post_form(&client, "/desk/sign-in", "", &[("login", login), ("password", password)])
    };
    let (wrong, unknown) = (sign_in("ana", "wrong password"), sign_in("nobody", "wrong password"));
    assert_eq!((wrong.status, unknown.status), (401, 401));
    assert_eq!(wrong.body.replace("ana", ""), unknown.body.replace("nobody", ""));
    for _ in 0..4 {
        sign_in("ana", "wrong password");
    }
    assert_eq!(sign_in("ana", PASSWORD).status, 429);
    // One that is signed in stays so.
    let cookie = cookie.split(';').next().unwrap_or_default();
    assert_eq!(client.send("GET", "/desk", &[("cookie", cookie)], None).status, 200);
    let outside = client.send("GET", "/desk", &[("cookie", "respondo_session=00")], None);
    assert_eq!(outside.status, 303);
    service.stop();
}

#[test]
fn no_form_works_without_its_token_or_from_another_site_or_without_the_role() {
    let Some(service) = Service::with_memory(&[]) else { return };
    let client = service.client();
    let desk = Desk::set_up(&service, "Ana");
    let ben = desk.colleague(&service, "Ben", "agent");
    let (ticket, draft) = open_draft(&client, REQUEST);
    let paths = [
        format!("/desk/tickets/{ticket}/reply"),
        format!("/desk/tickets/{ticket}/note"),
        format!("/desk/tickets/{ticket}/take-over"),
        format!("/desk/tickets/{ticket}/give-back"),
        format!("/desk/tickets/{ticket}/snooze"),
        format!("/desk/tickets/{ticket}/correct"),
        format!("/desk/tickets/{ticket}/merge"),
        format!("/desk/drafts/{draft}/approve"),
        format!("/desk/messages/{ticket}/take-back"),
        "/desk/views".to_owned(),
        "/desk/people".to_owned(),
        format!("/desk/people/{ticket}/active"),
        format!("/desk/people/{ticket}/password"),
        "/desk/password".to_owned(),
        "/desk/keys".to_owned(),
        format!("/desk/keys/{ticket}/rotate"),
        format!("/desk/keys/{ticket}/revoke"),
        "/desk/sign-out".to_owned(),
    ];
    let fields = [
        ("text", "x"),
        ("hours", "1"),
        ("judgement", "urgency"),
        ("value", "low"),
        ("name", "x"),
        ("login", "x"),
        ("password", PASSWORD),
        ("current", PASSWORD),
        ("new", "another long password"),
        ("role", "admin"),
        ("active", "false"),
        ("into", "x"),
        ("csrf", "wrong"),
    ];
    for path in &paths {
        assert_eq!(ben.form_without_token(path, &fields).status, 403, "{path} with a wrong token");
        assert_eq!(
            post_form(&client, path, "", &fields).header("location"),
            "/desk/sign-in",
            "{path} without a session"
        );
        let headers = [
            ("cookie", ben.cookie()),
            ("sec-fetch-site", "cross-site"),
            ("content-type", "application/x-www-form-urlencoded"),
        ];
        let body = format!("csrf={}", ben.csrf);
        assert_eq!(client.send("POST", path, &headers, Some(body.as_bytes())).status, 403, "{path} from another site");
    }
    for path in ["/desk/people", "/desk/keys", "/desk/numbers"] {
        assert_eq!(ben.get(path).status, 403, "{path}");
        assert_eq!(desk.get(path).status, 200, "{path}");
    }
    let view = client.view(&ticket);
    assert_eq!(
        (&view["ticket"]["state"], view["messages"].as_array().map(Vec::len)),
        (&json!("review"), Some(2)),
        "{view}"
    );
    // Access that was taken away is gone at once, and the last administrator cannot lock the door behind them.
    let people = desk.get("/desk/people").body;
    let ids: Vec<&str> = people
        .split("/desk/people/")
        .skip(1)
        .filter_map(|rest| rest.split_once("/active\""))
        .map(|(id, _)| id)
        .filter(|id| id.len() == 36)
        .collect();
    assert_eq!(ids.len(), 2, "{people}");
    let locked: Vec<u16> =
        ids.iter().map(|id| desk.form(&format!("/desk/people/{id}/active"), &[("active", "false")]).status).collect();
    assert_eq!(locked.iter().filter(|status| **status == 422).count(), 1, "{locked:?}");
    assert_eq!(ben.get("/desk").status, 303);
    assert_eq!(desk.form("/desk/sign-out", &[]).header("location"), "/desk/sign-in");
    assert_eq!(desk.get("/desk").status, 303);
    service.stop();
}

#[test]
fn a_reply_can_be_taken_back_for_ten_seconds_and_goes_out_once() {
    let Some(service) = Service::with_memory(&[]) else { return };
    let client = service.client();
    let desk = Desk::set_up(&service, "Ana");
    let (ticket, draft) = open_draft(&client, REQUEST);
    let page = desk.get(&format!("/desk/tickets/{ticket}"));
    assert!(page.body.contains("id=\"draft-text\"") && page.body.contains("<mark data-used="), "{}", page.body);

    let edited = desk.form(&format!("/desk/drafts/{draft}/edit"), &[("text", "Mi propia respuesta.")]);
    assert_eq!(edited.status, 303, "{}", edited.body);
    let place = edited.header("location").to_owned();
    let (_, message) = place.split_once("undo=").unwrap_or_else(|| panic!("no way back: {place}"));
    let remembered = format!("ticket-{ticket}");
    until("learning", || client.search("Mi propia respuesta").contains(&remembered));
    let back = desk.form(&format!("/desk/messages/{message}/take-back"), &[]);
    assert_eq!(back.status, 303, "{}", back.body);
    assert!(!client.search("Mi propia respuesta").contains(&remembered), "what was not said is not learned");
    let view = client.view(&ticket);
    assert_eq!((&view["ticket"]["state"], &view["outcomes"]), (&json!("review"), &json!([])));
    let page = desk.get(back.header("location"));
    assert!(page.body.contains("Mi propia respuesta."), "the text is there to go on with: {}", page.body);

    let approved = desk.form(&format!("/desk/drafts/{draft}/approve"), &[]);
    let place = approved.header("location").to_owned();
    let (_, message) = place.split_once("undo=").unwrap_or_else(|| panic!("no way back: {place}"));
    // Somebody else with the same draft is told who was faster, and keeps what was typed.
    let ben = desk.colleague(&service, "Ben", "agent");
    let late = ben.form(&format!("/desk/drafts/{draft}/edit"), &[("text", "Otra respuesta.")]);
    assert_eq!(late.status, 409);
    assert!(late.body.contains("Ana was faster") && late.body.contains("Otra respuesta."), "{}", late.body);
    let sent =
        |view: &Value| view["messages"].as_array().into_iter().flatten().filter(|m| m["author"] == "agent").count();
    until("sending", || {
        client.events(&ticket, None).take(12).any(|event| event.kind == "message" && event.data["agent"] == "Ana")
    });
    assert_eq!(sent(&client.view(&ticket)), 1);
    assert_eq!(desk.form(&format!("/desk/messages/{message}/take-back"), &[]).status, 409, "too late");
    service.stop();
}

#[test]
fn one_who_takes_over_silences_respondo_until_it_is_given_back() {
    let Some(service) = Service::with_memory(&[]) else { return };
    let client = service.client();
    let desk = Desk::set_up(&service, "Ana");
    let (ticket, draft) = open_draft(&client, REQUEST);
    let act = |path: &str, fields: &[(&str, &str)]| desk.form(&format!("/desk/tickets/{ticket}/{path}"), fields).status;
    assert_eq!(act("take-over", &[]), 303);
    let ben = desk.colleague(&service, "Ben", "agent");
    assert_eq!(ben.form(&format!("/desk/tickets/{ticket}/take-over"), &[]).status, 409);
    let say = |body: &str| client.post(&format!("/v1/tickets/{ticket}/messages"), &json!({ "body": body }));
    assert_eq!(say("¿sigue alguien ahí? no me funciona la importación").status, 201);
    let drafts = client.view(&ticket)["drafts"].as_array().map(Vec::len);
    std::thread::sleep(Duration::from_secs(2));
    let view = client.view(&ticket);
    assert_eq!((&view["ticket"]["state"], view["drafts"].as_array().map(Vec::len)), (&json!("escalated"), drafts));
    assert_eq!(act("reply", &[("text", "Hola, soy Ana.")]), 303);
    assert_eq!(act("note", &[("text", "cliente impaciente")]), 303);
    assert_eq!(act("correct", &[("judgement", "urgency"), ("value", "critical")]), 303);
    assert_eq!(act("correct", &[("judgement", "difficulty"), ("value", "nonsense")]), 422);
    assert_eq!(client.view(&ticket)["ticket"]["urgency"], "critical");
    let page = desk.get(&format!("/desk/tickets/{ticket}")).body;
    assert!(page.contains("Note · Ana") && page.contains("cliente impaciente"), "{page}");
    assert_eq!(say("vale, gracias, pero sigue igual").status, 201);
    assert_eq!(act("give-back", &[]), 303);
    until("a new draft", || client.view(&ticket)["ticket"]["state"] == "review");
    assert_eq!(desk.form(&format!("/desk/drafts/{draft}/approve"), &[]).status, 409, "the old draft is out of date");
    // Hidden from the team's queue, found in all, back when the customer writes.
    assert_eq!(act("snooze", &[("hours", "24")]), 303);
    let row = format!("t-{ticket}");
    assert!(!desk.get("/desk").body.contains(&row));
    assert!(
        desk.get("/desk?scope=all&q=importaci%C3%B3n+phpmyadmin").body.contains(&row),
        "found by words, accents or not"
    );
    assert!(desk.get("/desk?scope=all&q=importacion").body.contains(&row));
    assert!(!desk.get("/desk?scope=all&q=unrelatedword").body.contains(&row));
    assert_eq!(say("sigue sin funcionar la base de datos").status, 201);
    until("being seen again", || desk.get("/desk").body.contains(&row));
    service.stop();
}

#[test]
fn a_customer_sees_the_conversation_and_nothing_of_the_teams() {
    let Some(service) = Service::with_memory(&[]) else { return };
    let client = service.client();
    let desk = Desk::set_up(&service, "Ana");
    let opened = post_form(&client, "/chat", "", &[("body", REQUEST), ("name", "María")]);
    assert_eq!(opened.status, 303, "{}", opened.body);
    let link = opened.header("location").to_owned();
    // Several messages in a row get one reply.
    for more in ["es una tienda", "con WordPress, la base de datos viene de otro servidor"] {
        let said = client.send(
            "POST",
            &format!("{link}/messages"),
            &[("x-respondo", "1"), ("content-type", "application/x-www-form-urlencoded")],
            Some(format!("body={}", crate::support::encode(more)).as_bytes()),
        );
        assert_eq!(said.status, 204, "{}", said.body);
    }
    let ticket = ticket_of(&link);
    until("an answer", || client.view(&ticket)["ticket"]["state"] == "review");
    let view = client.view(&ticket);
    let replies = view["messages"].as_array().into_iter().flatten().filter(|m| m["author"] == "respondo").count();
    assert_eq!((replies, view["drafts"].as_array().map(Vec::len)), (1, Some(1)), "{view}");
    desk.form(&format!("/desk/tickets/{ticket}/note"), &[("text", "nota secreta")]);
    let told = stream(&service, &format!("{link}/events"), "decided");
    let page = client.get(&link).body;
    let draft = view["drafts"][0]["draft"]["text"].as_str().expect("text");
    let first = draft.split(['.', ',']).next().expect("a sentence");
    for secret in ["nota secreta", first, "probability", "urgency"] {
        assert!(!told.contains(secret), "{secret} is in the stream: {told}");
        assert!(!page.contains(secret), "{secret} is on the page");
    }
    assert!(told.contains("event: message") && told.contains("event: understood"), "{told}");
    assert!(page.contains("phpmyadmin"), "{page}");

    // One tap brings a person; the links of others do not open.
    let tapped = client.send(
        "POST",
        &format!("{link}/feedback"),
        &[("x-respondo", "1"), ("content-type", "application/x-www-form-urlencoded")],
        Some(b"kind=person"),
    );
    assert!(tapped.status == 200 && !tapped.body.is_empty(), "{} {}", tapped.status, tapped.body);
    let urgency = client.view(&ticket)["ticket"]["urgency"].clone();
    client.send(
        "POST",
        &format!("{link}/feedback"),
        &[("content-type", "application/x-www-form-urlencoded")],
        Some(b"kind=urgent"),
    );
    let raised = client.view(&ticket)["ticket"]["urgency"].clone();
    assert_ne!(raised, urgency);
    // A second tap says nothing new.
    client.send(
        "POST",
        &format!("{link}/feedback"),
        &[("content-type", "application/x-www-form-urlencoded")],
        Some(b"kind=urgent"),
    );
    assert_eq!(client.view(&ticket)["ticket"]["urgency"], raised);
    let mut forged = link.clone();
    let last = forged.pop();
    forged.push(if last == Some('0') { '1' } else { '0' });
    for path in [forged.as_str(), "/chat/x", &format!("{forged}/events"), &format!("{forged}/transcript")] {
        assert_eq!(client.get(path).status, 404, "{path}");
    }
    let transcript = client.get(&format!("{link}/transcript"));
    assert!(transcript.body.contains("phpmyadmin") && transcript.header("content-type").starts_with("text/plain"));
    assert_eq!(post_form(&client, "/chat", "", &[("body", "  ")]).status, 422);
    let long = "x".repeat(70_000);
    assert_eq!(post_form(&client, "/chat", "", &[("body", &long)]).status, 422);
    service.stop();
}

#[test]
fn a_ticket_can_be_escalated_to_a_person_who_works_here() {
    let Some(service) = Service::with_memory(&[]) else { return };
    let client = service.client();
    let desk = Desk::set_up(&service, "Ana");
    let ben = desk.colleague(&service, "Ben", "agent");
    let (ticket, draft) = open_draft(&client, REQUEST);
    let page = desk.get(&format!("/desk/tickets/{ticket}")).body;
    let (before, _) = page.split_once("\">Ben</option>").unwrap_or_else(|| panic!("Ben cannot be chosen: {page}"));
    let (_, id) = before.rsplit_once("value=\"").expect("an id");
    let escalate = |person: &str| desk.form(&format!("/desk/drafts/{draft}/escalate"), &[("person", person)]);
    assert_eq!(escalate("").status, 409, "neither skill nor person");
    assert_eq!(escalate(&ticket).status, 422, "nobody who works here");
    assert_eq!(client.view(&ticket)["ticket"]["state"], "review");
    assert_eq!(escalate(id).status, 303);
    assert_eq!(client.view(&ticket)["ticket"]["state"], "escalated");
    let row = format!("t-{ticket}");
    assert!(ben.get("/desk?scope=mine").body.contains(&row) && !desk.get("/desk?scope=mine").body.contains(&row));
    service.stop();
}

#[test]
fn a_duplicate_is_merged_and_its_customer_goes_on_in_the_other_conversation() {
    let Some(service) = Service::with_memory(&[]) else { return };
    let client = service.client();
    let desk = Desk::set_up(&service, "Ana");
    let open = |body: &str| post_form(&client, "/chat", "", &[("body", body)]).header("location").to_owned();
    let (kept, duplicate) = (open(REQUEST), open("la importación del .sql en phpmyadmin sigue fallando"));
    let (to, from) = (ticket_of(&kept), ticket_of(&duplicate));
    until("both answered", || [&to, &from].iter().all(|id| client.view(id)["ticket"]["state"] != "received"));
    let merge = |id: &str, into: &str| desk.form(&format!("/desk/tickets/{id}/merge"), &[("into", into)]);
    assert_eq!(merge(&from, "ticket 12").status, 409);
    assert_eq!(merge(&from, &from).status, 409);
    let merged = merge(&from, &format!("{}/desk/tickets/{to}", "http://desk.example"));
    assert_eq!(merged.header("location"), format!("/desk/tickets/{to}?done=merged"), "{}", merged.body);
    assert!(desk.get(&format!("/desk/tickets/{from}")).body.contains(&format!("href=\"/desk/tickets/{to}\"")));
    // The customer's page leads to the conversation that goes on, and what they write arrives there.
    assert_eq!(client.get(&duplicate).header("location"), kept);
    let said =
        post_form(&client, &format!("{duplicate}/messages"), "", &[("body", "¿alguna novedad sobre la importación?")]);
    assert_eq!(said.status, 303, "{}", said.body);
    until("an answer", || client.view(&to)["ticket"]["state"] == "review");
    let bodies: Vec<String> = client.view(&to)["messages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|message| message["author"] == "customer")
        .filter_map(|message| message["body"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(bodies.len(), 3, "{bodies:?}");
    let page = client.get(&kept).body;
    assert!(page.contains("sigue fallando") && page.contains("alguna novedad"), "{page}");
    service.stop();
}

#[test]
fn tickets_are_found_by_what_they_mean_in_either_language() {
    let Some(service) = Service::with_memory(&[]) else { return };
    let client = service.client();
    let desk = Desk::set_up(&service, "Ana");
    let open = |body: &str| {
        let view = client.worked_ticket(body);
        view["ticket"]["id"].as_str().expect("id").to_owned()
    };
    let invoice = open("I was charged twice on my last invoice and want one payment back");
    let mail = open("my e-mail program cannot connect to the IMAP server since this morning");
    let first = |search: &str| {
        let page = desk.get(&format!("/desk?scope=all&meaning=1&q={}", crate::support::encode(search))).body;
        let at = |id: &str| page.find(&format!("t-{id}")).unwrap_or_else(|| panic!("{id} is not listed: {page}"));
        if at(&invoice) < at(&mail) { invoice.clone() } else { mail.clone() }
    };
    assert_eq!(first("facturación duplicada"), invoice);
    assert_eq!(first("no puedo leer mi correo"), mail);
    assert_eq!(first("double billing"), invoice);
    service.stop();
}

#[test]
fn an_open_page_hears_nothing_more_once_its_session_has_ended() {
    let Some(service) = Service::with_memory(&[]) else { return };
    let desk = Desk::set_up(&service, "Ana");
    let ben = desk.colleague(&service, "Ben", "agent");
    let ticket = service.client().open_ticket(REQUEST);
    let paths = ["/desk/live".to_owned(), format!("/desk/tickets/{ticket}/events")];
    let lines = paths.map(|path| follow(&service, &path, ben.cookie()));
    assert_eq!(ben.form("/desk/sign-out", &[]).status, 303);
    for line in lines {
        // The end of the stream, before the limit of the connection.
        assert!(line.lines().all(|line| line.is_ok()), "the stream goes on");
    }
    service.stop();
}

/// An open stream of the desk, its head read.
pub fn follow(service: &Service, path: &str, cookie: &str) -> BufReader<TcpStream> {
    use std::io::Write;
    let mut connection = TcpStream::connect(service.address()).expect("connected");
    connection.set_read_timeout(Some(LIMIT)).expect("limit");
    write!(
        connection,
        "GET {path} HTTP/1.1\r\nhost: {}\r\ncookie: {cookie}\r\nconnection: close\r\n\r\n",
        service.address()
    )
    .expect("asked");
    let mut reader = BufReader::new(connection);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).expect("a head") > 0, "{head}");
    }
    assert!(head.contains(" 200 "), "{head}");
    reader
}

/// A stream's text up to the first event of a kind.
fn stream(service: &Service, path: &str, kind: &str) -> String {
    use std::io::Write;
    let mut connection = TcpStream::connect(service.address()).expect("connected");
    connection.set_read_timeout(Some(LIMIT)).expect("limit");
    write!(connection, "GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", service.address()).expect("asked");
    let mut told = String::new();
    for line in BufReader::new(connection).lines() {
        let line = line.expect("the stream goes on");
        told.push_str(&line);
        told.push('\n');
        if line.contains(&format!("event: {kind}")) {
            return told;
        }
    }
    panic!("no {kind}: {told}");
}
