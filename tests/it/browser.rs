//! Journeys in a real browser, from the customer's first word to the answer. Without a browser they say so and pass.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use respondo::models::default_cache_dir;
use serde_json::{Value, json};

use crate::support::{
    Client, DARK, Desk, Driver, ENGLISH, Event, Look, Network, PHONE, SPANISH, Service, Window, chat_model, memory,
    setup_token, turn_to_write,
};
use crate::writing::PATIENT;

const REQUEST: &str =
    "hola, al importar el .sql en phpmyadmin me da #1273 Cotejamiento desconocido: 'utf8mb4_0900_ai_ci'";
const ENTER: char = '\u{e007}';
const ESCAPE: char = '\u{e00c}';

/// A service of its own with a browser; none without model or browser.
fn with_browser() -> Option<(Service, Driver)> {
    let driver = Driver::start()?;
    Some((Service::with_memory(&[])?, driver))
}

fn draft_of(client: &Client, body: &str) -> String {
    let view = client.worked_ticket(body);
    assert_eq!(view["ticket"]["state"], "review", "{view}");
    view["ticket"]["id"].as_str().expect("id").to_owned()
}

/// Nothing went wrong behind the page: no script error, no violation of the policy.
fn quiet(window: &Window<'_>) {
    let complaints = window.complaints();
    let real: Vec<_> = complaints.iter().filter(|line| !line.contains("401") && !line.contains("409")).collect();
    assert!(real.is_empty(), "{real:?}");
}

#[test]
fn a_customer_asks_in_spanish_and_an_agent_edits_the_draft_and_sends_it() {
    let _turn = turn_to_write();
    let (Some(driver), Some(folder), Some(_)) = (Driver::start(), memory(), chat_model()) else { return };
    let service = Service::in_folder(folder, &[("RESPONDO_GENERATION__KIND", "gguf")]);
    // The first minute: the printed link makes the first account.
    let desk = driver.window(&service, ENGLISH);
    desk.open(&format!("/desk/setup?token={}", setup_token(&service)));
    desk.fill("[name=name]", "Ana");
    desk.fill("[name=login]", "ana");
    desk.fill("[name=password]", "a long password");
    desk.click("button.main");
    desk.until_says("main", "Nothing waits here.");

    let chat = driver.window(&service, SPANISH);
    chat.open("/chat");
    assert!(chat.text("h1").contains("¿En qué podemos ayudarte?"), "{}", chat.text("body"));
    chat.fill("textarea", REQUEST);
    chat.fill("[name=name]", "María");
    chat.click("button.main");
    chat.until_says("#said", "phpmyadmin");
    // The queue shows it without being loaded again.
    desk.until_says("#rows", "phpmyadmin");
    desk.click("#lines .row a");
    // While it is written, or once it stands, the draft is there; then it can be approved.
    desk.until_says("#panel", "utf8mb4");
    desk.until("a draft", "return !!document.querySelector('#act')");
    chat.until_says("#said .respondo", "Gracias por escribirnos");
    desk.until("a sentence with evidence", "return !!document.querySelector('.claim[tabindex]')");
    desk.press("]");
    desk.until("a marked passage", "return !!document.querySelector('mark.lit')");
    desk.press("e");
    desk.fill("#edit-box textarea", "Hola, María: usa otro cotejamiento al exportar.");
    desk.click("#edit-box button");
    desk.until_says(".notice", "Sent in ten seconds");
    // Nothing is told before it can no longer be taken back; then a person's name stands over it.
    assert!(!chat.text("#said").contains("otro cotejamiento"));
    chat.until_says("#said .agent", "usa otro cotejamiento al exportar");
    chat.until_says("#said .agent", "Ana");
    // It is all there after loading the page again.
    chat.open(&chat.path());
    chat.until_says("#said .agent", "usa otro cotejamiento al exportar");
    assert_eq!(chat.script("return document.querySelectorAll('#said .message').length"), 3);
    quiet(&chat);
    quiet(&desk);
    drop((desk, chat));
    service.stop();
}

#[test]
fn five_tickets_are_cleared_with_the_keyboard_alone() {
    let Some((service, driver)) = with_browser() else { return };
    let client = service.client();
    let ana = Desk::set_up(&service, "Ana");
    let bodies = ["uno", "dos", "tres", "cuatro", "cinco"].map(|which| format!("{REQUEST} ({which})"));
    let ids: Vec<String> = bodies.iter().map(|body| draft_of(&client, body)).collect();
    let window = driver.window(&service, ENGLISH);
    window.sign_in_as(&ana);
    window.open("/desk");
    window.press(&format!("j{ENTER}"));
    for _ in 0..ids.len() {
        window.until(
            "a draft to approve",
            "return location.pathname.startsWith('/desk/tickets/') && !!document.querySelector('#act')",
        );
        let before = window.path();
        window.press("a");
        window.until("the next page", &format!("return location.pathname + location.search !== {}", json!(before)));
    }
    for id in &ids {
        assert_eq!(client.view(id)["outcomes"][0]["outcome"], "approved", "{id}");
    }
    // The last one is taken back with a key; the others go out.
    window.press("z");
    window.until_says(".notice", "Taken back");
    let open = ids.iter().filter(|id| client.view(id)["ticket"]["state"] == "review").count();
    assert_eq!(open, 1);
    window.press("?");
    window.until("the list of keys", "return document.querySelector('#keys').open");
    window.press(&ESCAPE.to_string());
    // Urgency is corrected with one key, and a note is written, without the mouse.
    window.press("1");
    window.until_says(".notice", "Corrected");
    window.until_says(".judged", "critical");
    window.press("i");
    window.press("call back");
    window.script("document.activeElement.form.requestSubmit()");
    window.until_says(".message.note", "call back");
    quiet(&window);
    drop(window);
    service.stop();
}

#[test]
fn two_agents_on_one_ticket_see_each_other_and_the_second_is_refused() {
    let Some((service, driver)) = with_browser() else { return };
    let client = service.client();
    let ana = Desk::set_up(&service, "Ana");
    let ben = ana.colleague(&service, "Ben", "agent");
    let ticket = draft_of(&client, REQUEST);
    let (one, two) = (driver.window(&service, ENGLISH), driver.window(&service, SPANISH));
    one.sign_in_as(&ana);
    two.sign_in_as(&ben);
    for window in [&one, &two] {
        window.open(&format!("/desk/tickets/{ticket}"));
    }
    one.until_says("#presence", "Ben");
    two.until_says("#presence", "Ana");
    two.press("e");
    two.fill("#edit-box textarea", "La respuesta de Ben.");
    one.press("a");
    one.until("Ana's page moves on", "return location.search.includes('done=sent')");
    two.click("#edit-box button");
    two.until_says(".problem", "Ana se adelantó");
    let kept =
        two.script("return [...document.querySelectorAll('textarea')].some((t) => t.value === 'La respuesta de Ben.')");
    assert_eq!(kept, true, "what Ben typed is still there");
    let agents =
        |view: &Value| view["messages"].as_array().into_iter().flatten().filter(|m| m["author"] == "agent").count();
    assert_eq!(agents(&client.view(&ticket)), 1);
    // Escalation, by hand, with the skill it needs.
    let other = draft_of(&client, &format!("{REQUEST} otra vez"));
    one.open(&format!("/desk/tickets/{other}"));
    one.press("x");
    one.fill("#escalate-box [name=skill]", "databases");
    one.click("#escalate-box button");
    one.until("the escalation", "return location.search.includes('done=escalated')");
    assert_eq!(client.view(&other)["ticket"]["state"], "escalated");
    quiet(&one);
    quiet(&two);
    drop((one, two));
    service.stop();
}

#[test]
fn the_widget_works_on_a_foreign_page_with_a_strict_policy() {
    let Some((service, driver)) = with_browser() else { return };
    let origin = format!("http://{}", service.address());
    let policy = format!("default-src 'none'; script-src {origin}; frame-src {origin}; style-src 'none'");
    let page = format!(
        "<!doctype html><html lang=es><title>Tienda</title><h1>Tienda</h1>\
         <script src=\"{origin}/widget.js\" data-label=\"Pregunta\" data-colour=\"#734\" defer></script>"
    );
    let foreign = serve_page(&policy, &page);
    let window = driver.window(&service, SPANISH);
    window.open(&foreign);
    let inside = |script: &str| format!("const root = document.querySelector('respondo-chat')?.shadowRoot; {script}");
    window.until("the button", &inside("return root?.querySelector('button')?.textContent === 'Pregunta'"));
    assert_eq!(
        window.script(&inside("return !root.querySelector('iframe')")),
        true,
        "nothing is loaded before it is opened"
    );
    let loaded = "return performance.getEntriesByType('resource').map((entry) => entry.name)";
    assert_eq!(window.script(loaded), json!([format!("{origin}/widget.js")]));
    window.script(&inside("root.querySelector('button').click()"));
    window.until("the frame", &inside("return !!root.querySelector('iframe')"));
    window.enter_frame(&inside("return root.querySelector('iframe')"));
    window.fill("textarea", REQUEST);
    window.click("button.main");
    window.until_says("#said", "phpmyadmin");
    window.until_says("#said .respondo", "Gracias por escribirnos");
    // The page is loaded anew: the conversation goes on where it was.
    window.open(&foreign);
    window.until("the button", &inside("return !!root?.querySelector('button')"));
    window.script(&inside("root.querySelector('button').click()"));
    window.enter_frame(&inside("return root.querySelector('iframe')"));
    window.until_says("#said .customer", "phpmyadmin");
    drop(window);
    service.stop();
}

/// A page of another origin, for as long as the test runs.
fn serve_page(policy: &str, page: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}/", listener.local_addr().expect("address"));
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\ncontent-security-policy: {policy}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{page}",
        page.len()
    );
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { return };
            drop(connection.read(&mut [0; 4_096]));
            drop(connection.write_all(answer.as_bytes()));
        }
    });
    address
}

/// What a page hears when its tab is left and looked at again.
const AWAY_AND_BACK: &str = "for (const hidden of [true, false]) { \
     Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden }); \
     document.dispatchEvent(new Event('visibilitychange')); }";

/// Notes every text that stands in the stream of the draft from now on.
const WATCH: &str = "window.seen = []; \
    const note = () => { \
        const text = document.querySelector('#stream-text')?.textContent; \
        if (text && text !== window.seen.at(-1)) window.seen.push(text); \
    }; \
    new MutationObserver(note).observe(document.querySelector('#panel'), { childList: true, subtree: true }); \
    note()";
/// The texts of all messages of the team that stand in the chat.
const FROM_THE_TEAM: &str = "return [...document.querySelectorAll('#said .agent .text')].map((e) => e.textContent)";

/// Opens the ticket at the head of the queue once it is there, and gives its id.
fn first_in_line(desk: &Window<'_>, says: &str) -> String {
    desk.open("/desk");
    desk.until_says("#rows", says);
    let path = desk.script("return document.querySelector('#lines .row a').getAttribute('href')");
    let path = path.as_str().expect("a link");
    desk.open(path);
    path.strip_prefix("/desk/tickets/").expect("a ticket").to_owned()
}

/// What stands at the desk after each piece of a reply, until all of it is told.
fn as_it_grows(events: &[Event]) -> Vec<String> {
    let mut written = String::new();
    let mut states = Vec::new();
    for event in events {
        match event.kind.as_str() {
            "token" => written.push_str(event.data.as_str().expect("text")),
            "cut" => {
                for finding in event.data.as_array().expect("findings") {
                    written = written.replacen(finding["sentence"].as_str().expect("text"), "", 1);
                }
            }
            _ => continue,
        }
        states.push(written.clone());
    }
    states
}

#[test]
fn pages_that_are_loaded_again_while_a_reply_is_written_go_on_with_it() {
    let _turn = turn_to_write();
    let (Some(driver), Some(folder), Some(_)) = (Driver::start(), memory(), chat_model()) else { return };
    let service = Service::in_folder(folder, &PATIENT);
    let client = service.client();
    let ana = Desk::set_up(&service, "Ana");
    let (desk, chat) = (driver.window(&service, ENGLISH), driver.window(&service, SPANISH));
    desk.sign_in_as(&ana);
    chat.open("/chat");
    chat.fill("textarea", REQUEST);
    chat.click("button.main");
    chat.until_says("#said", "phpmyadmin");
    let ticket = first_in_line(&desk, "phpmyadmin");
    // Until the model writes, the reply cut from the best solved case stands there: that is not what is waited for.
    let begun = client.events_until(&ticket, None, "token");
    let extractive = begun.iter().find(|event| event.kind == "extractive").map(|event| event.data["text"].clone());
    let first_words = format!(
        "const text = document.querySelector('#stream-text')?.textContent ?? ''; window.before = text; \
         return text.trim().includes(' ') && text !== {}",
        json!(extractive)
    );
    desk.until("the first words of the reply", &first_words);
    let before = desk.script("return window.before");
    desk.open(&desk.path());
    desk.script(WATCH);
    // A look at another tab, and what a colleague does meanwhile, leave it whole.
    desk.script(AWAY_AND_BACK);
    let correction = [("judgement", "urgency"), ("value", "low")];
    assert_eq!(ana.form(&format!("/desk/tickets/{ticket}/correct"), &correction).status, 303);
    chat.open(&chat.path());
    chat.script("window.loaded = 'once'");

    // What was written is there again, and it goes on behind it.
    let goes_on = format!("return window.seen.some((text) => text.startsWith({before}) && text !== {before})");
    desk.until("more of the reply", &format!("{goes_on} || !!document.querySelector('#act')"));
    assert_eq!(desk.script(&goes_on), true, "it was done before the page was there again");
    desk.until("a draft", "return !!document.querySelector('#act')");
    let states = as_it_grows(&client.events_until(&ticket, None, "decision"));
    let seen = desk.script("return window.seen");
    let seen: Vec<&str> = seen.as_array().expect("texts").iter().filter_map(Value::as_str).collect();
    let is_told = |text: &&&str| states.iter().any(|state| state == **text) || extractive == Some(json!(text));
    assert_eq!(seen.iter().find(|text| !is_told(text)), None, "twice or not at all: {states:?}");
    assert_eq!(seen.last().copied(), states.last().map(String::as_str), "the end is missing");

    // The draft on the page is the one in the store, sentence by sentence.
    let view = client.view(&ticket);
    let drafts: Vec<&Value> = view["drafts"].as_array().expect("drafts").iter().map(|d| &d["draft"]).collect();
    assert_eq!(drafts.len(), 1, "{view}");
    let (text, sentences) = (&drafts[0]["text"], drafts[0]["sentences"].as_array().expect("sentences"));
    assert_eq!(desk.script("return document.querySelector('#edit-box textarea').value"), *text);
    let claims = "return [...document.querySelectorAll('#draft-text .claim')].map((e) => e.firstChild.textContent)";
    assert_eq!(desk.script(claims), sentences.iter().map(|sentence| sentence["text"].clone()).collect::<Value>());

    // The customer reads everything once, and the reply without loading the page again.
    chat.until_says("#said .respondo", "Gracias por escribirnos");
    let own = "return [...document.querySelectorAll('#said .customer .text')].map((e) => e.textContent)";
    assert_eq!(chat.script(own), json!([REQUEST]));
    desk.click("#act button.main");
    desk.until_says(".notice", "Sent in ten seconds");
    chat.until("the reply", "return !!document.querySelector('#said .agent')");
    let all = "return document.querySelectorAll('#said .message').length";
    assert_eq!((chat.script(FROM_THE_TEAM), chat.script(all)), (json!([text]), json!(3)));
    assert_eq!(chat.script("return window.loaded"), "once");
    chat.open(&chat.path());
    assert_eq!((chat.script(FROM_THE_TEAM), chat.script(all)), (json!([text]), json!(3)));
    quiet(&chat);
    quiet(&desk);
    drop((desk, chat));
    service.stop();
}

#[test]
fn what_is_said_while_a_customer_has_no_network_is_there_once_when_it_is_back() {
    let Some((service, driver)) = with_browser() else { return };
    let client = service.client();
    let ana = Desk::set_up(&service, "Ana");
    let network = Network::to(service.address());
    let (desk, chat) = (driver.window(&service, ENGLISH), driver.window(&service, SPANISH));
    desk.sign_in_as(&ana);
    chat.open(&format!("http://{}/chat", network.address));
    chat.fill("textarea", REQUEST);
    chat.click("button.main");
    chat.until_says("#said .respondo", "Gracias por escribirnos");
    let ticket = first_in_line(&desk, "phpmyadmin");
    quiet(&chat);

    network.lose();
    chat.until_says("#status", "Sin conexión");
    let written = "Prueba con otro cotejamiento al exportar.";
    desk.press("w");
    desk.fill("#write-box textarea", written);
    desk.click("#write-box button.main");
    desk.until_says(".notice", "Sent in ten seconds");
    // What the customer types meanwhile is not sent, and stays in its field.
    let typed = "¿Siguen ahí?";
    chat.fill("#say textarea", typed);
    chat.press(&ENTER.to_string());
    let unsent = format!(
        "return !document.querySelector('#said .pending') && document.querySelector('#say textarea').value === {}",
        json!(typed)
    );
    chat.until("the text in its field", &unsent);
    // The reply has gone out, and the customer has not got it.
    let gone_out = |event: &Event| event.kind == "message" && event.data["body"] == written;
    assert!(client.events(&ticket, None).any(|event| gone_out(&event)));
    assert_eq!(chat.script(FROM_THE_TEAM), json!([]));

    network.is_back();
    chat.until_says("#said .agent", written);
    chat.until("the connection", "return !document.querySelector('#status').textContent.includes('Sin conexión')");
    chat.until("the text in its field", &unsent);
    chat.press(&ENTER.to_string());
    chat.until_says("#said .customer:not(.pending)", typed);
    // The stream is past everything from before: nothing of it came a second time.
    let own = "return [...document.querySelectorAll('#said .customer:not(.pending) .text')].map((e) => e.textContent)";
    assert_eq!((chat.script(FROM_THE_TEAM), chat.script(own)), (json!([written]), json!([REQUEST, typed])));
    chat.open(&chat.path());
    assert_eq!((chat.script(FROM_THE_TEAM), chat.script(own)), (json!([written]), json!([REQUEST, typed])));
    // A lost connection is all that the page complained of.
    let others: Vec<_> = chat.complaints().into_iter().filter(|line| !line.contains("net::ERR_")).collect();
    assert!(others.is_empty(), "{others:?}");
    quiet(&desk);
    drop((desk, chat));
    service.stop();
}

/// Texts that would run a script where they are not escaped.
const ATTACKS: [&str; 8] = [
    "<script>window.pwned = 1</script> mi correo no funciona",
    "<img src=x onerror=\"window.pwned = 1\"> no puedo entrar",
    "\"><svg onload=window.pwned=1> error al subir la web",
    "'\"--></style></textarea><script>window.pwned = 1</script> fallo",
    "<iframe srcdoc=\"<script>parent.pwned = 1</script>\"></iframe> ayuda",
    "<a href=\"javascript:window.pwned=1\">pulsa</a> mi web",
    "{{constructor.constructor('window.pwned=1')()}} mi dominio",
    "</title><base href=//evil.example><script src=//evil.example/x.js></script> hola, necesito ayuda",
];

#[test]
fn no_text_of_a_customer_or_agent_runs_as_a_script() {
    let Some((service, driver)) = with_browser() else { return };
    let client = service.client();
    let ana = Desk::set_up(&service, "Ana");
    let window = driver.window(&service, ENGLISH);
    window.sign_in_as(&ana);
    let unharmed = |place: &str| {
        let harm = window.script("return window.pwned === 1 || !!document.querySelector('base') || !!document.querySelector('main iframe, main svg:not(.plot), main img')");
        assert_eq!(harm, false, "{place}");
    };
    for attack in ATTACKS {
        let chat = crate::support::post_form(&client, "/chat", "", &[("body", attack), ("name", attack)]);
        assert_eq!(chat.status, 303, "{}", chat.body);
        let link = chat.header("location").to_owned();
        let body = json!({ "body": attack, "subject": attack, "customer": attack, "queue": "web", "product": "x" });
        let opened = client.post("/v1/tickets", &body);
        if opened.status != 201 {
            continue;
        }
        let ticket = opened.json()["ticket_id"].as_str().expect("id").to_owned();
        client.worked(&ticket);
        ana.form(&format!("/desk/tickets/{ticket}/note"), &[("text", attack)]);
        ana.form(&format!("/desk/tickets/{ticket}/reply"), &[("text", attack)]);
        ana.form("/desk/views", &[("name", attack), ("query", "scope=all")]);
        for path in [format!("/desk/tickets/{ticket}"), format!("/desk?q={}", crate::support::encode(attack)), link] {
            window.open(&path);
            std::thread::sleep(Duration::from_millis(120));
            unharmed(&path);
        }
    }
    for path in ["/desk?scope=all", "/desk/numbers", "/desk/people", "/desk/password", "/desk/keys"] {
        window.open(path);
        unharmed(path);
    }
    quiet(&window);
    drop(window);
    service.stop();
}

#[test]
fn pages_have_no_serious_finding_of_axe() {
    let Ok(axe) = std::fs::read_to_string(default_cache_dir().join("browser/axe.min.js")) else {
        println!("skipped: NO AXE: accessibility is not checked; scripts/browser gets axe-core");
        return;
    };
    let Some((service, driver)) = with_browser() else { return };
    let client = service.client();
    let ana = Desk::set_up(&service, "Ana");
    let ticket = draft_of(&client, REQUEST);
    let chat = crate::support::post_form(&client, "/chat", "", &[("body", REQUEST)]);
    let link = chat.header("location").to_owned();
    let pages = [
        "/desk/sign-in",
        "/desk",
        "/desk?scope=all&q=x",
        "/desk/numbers",
        "/desk/people",
        "/desk/password",
        "/desk/keys",
        "/chat",
        &link,
        &format!("/desk/tickets/{ticket}"),
    ];
    for look in [ENGLISH, DARK, PHONE] {
        let window = driver.window(&service, look);
        window.sign_in_as(&ana);
        for path in pages {
            window.open(path);
            window.script(&format!("{axe}; return null"));
            window.script("document.querySelectorAll('details').forEach((d) => { d.open = true })");
            let found = window.script_until_done(
                "const done = arguments[arguments.length - 1]; \
                 axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'] }).then((r) => \
                 done(r.violations.filter((v) => v.impact === 'serious' || v.impact === 'critical')\
                 .map((v) => v.id + ': ' + v.nodes.map((n) => n.html).slice(0, 3).join(' | '))))",
            );
            assert_eq!(found, json!([]), "{path}");
        }
    }
    service.stop();
}

/// With `RESPONDO_SCREENSHOTS=docs/screenshots` the main pages are photographed; otherwise there is nothing to do.
#[test]
fn screenshots_are_taken_when_asked_for() {
    let Some(folder) = std::env::var_os("RESPONDO_SCREENSHOTS").map(std::path::PathBuf::from) else { return };
    let _turn = turn_to_write();
    let (Some(driver), Some(data), Some(_)) = (Driver::start(), memory(), chat_model()) else { return };
    let service = Service::in_folder(data, &[("RESPONDO_GENERATION__KIND", "gguf")]);
    let client = service.client();
    let ana = Desk::set_up(&service, "Ana");
    let requests: Vec<Value> =
        crate::support::REQUESTS.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let mut tickets = Vec::new();
    for (request, name) in
        requests.iter().zip(["María Soler", "Tom Reed", "Lucía Paz", "Ken Ito", "Eva Gil", "Ian Moss"])
    {
        let id = client
            .open_ticket_with(&json!({ "body": request["body"], "subject": request["subject"], "customer": name }));
        client.worked(&id);
        tickets.push(id);
    }
    let draft = |id: &str| {
        client.view(id)["drafts"].as_array().and_then(|drafts| drafts.last().cloned()).expect("a draft")["id"]
            .as_str()
            .expect("id")
            .to_owned()
    };
    for (id, action, text) in [
        (&tickets[1], "approve", ""),
        (&tickets[3], "edit", "Hola, prueba esto."),
        (&tickets[5], "reject", "no es eso"),
    ] {
        ana.form(&format!("/desk/drafts/{}/{action}", draft(id)), &[("text", text)]);
    }
    let chat = crate::support::post_form(&client, "/chat", "", &[("body", REQUEST), ("name", "María")]);
    let link = chat.header("location").to_owned();
    std::thread::sleep(Duration::from_secs(20));
    std::fs::create_dir_all(&folder).expect("folder");
    let looks: [(&str, Look); 4] = [("en", ENGLISH), ("es", SPANISH), ("dark", DARK), ("phone", PHONE)];
    for (name, look) in looks {
        let window = driver.window(&service, look);
        window.sign_in_as(&ana);
        let ticket = format!("/desk/tickets/{}", tickets[0]);
        for (page, path) in
            [("queue", "/desk"), ("ticket", ticket.as_str()), ("numbers", "/desk/numbers"), ("chat", link.as_str())]
        {
            window.open(path);
            std::thread::sleep(Duration::from_millis(500));
            let picture = BASE64_STANDARD.decode(window.picture()).expect("base64");
            std::fs::write(folder.join(format!("{page}-{name}.png")), picture).expect("written");
        }
    }
    service.stop();
}
