//! Files that customers send in the chat: what is taken, who gets them back, and how.

use crate::support::{Client, Desk, Driver, ENGLISH, Reply, Service, post_form, ticket_of};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\x00\xff and more";
const LOG: &[u8] = "línea 1\nlínea 2\n".as_bytes();
const HTML: &[u8] = b"<!doctype html><script>alert(1)</script>";
const MIB: usize = 1 << 20;
const BOUNDARY: &str = "----a-boundary-of-the-test";

type Files<'a> = &'a [(&'a str, &'a [u8])];

/// Sends a form with files as a browser does; by a script where `script` says so.
fn upload(client: &Client, path: &str, script: bool, body: &str, files: Files) -> Reply {
    let mut form = Vec::new();
    let mut part = |heading: &str, content: &[u8]| {
        form.extend(format!("--{BOUNDARY}\r\ncontent-disposition: form-data; {heading}\r\n\r\n").bytes());
        form.extend(content);
        form.extend(b"\r\n");
    };
    part("name=\"body\"", body.as_bytes());
    for (name, content) in files {
        part(&format!("name=\"files\"; filename=\"{name}\"\r\ncontent-type: image/png"), content);
    }
    form.extend(format!("--{BOUNDARY}--\r\n").bytes());
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let headers = [("content-type", kind.as_str()), ("x-respondo", "1")];
    client.send("POST", path, if script { &headers } else { &headers[..1] }, Some(&form))
}

/// Opens a conversation; gives its link.
fn open(client: &Client, body: &str, files: Files) -> String {
    let opened = upload(client, "/chat", false, body, files);
    assert_eq!(opened.status, 303, "{}", opened.body);
    opened.header("location").to_owned()
}

/// Ids of the files that a page links to.
fn linked(page: &str, folder: &str) -> Vec<String> {
    let mark = format!("href=\"{folder}/");
    page.split(&mark).skip(1).filter_map(|rest| rest.split('"').next().map(str::to_owned)).collect()
}

#[test]
fn files_are_listed_and_given_back_to_customer_and_team_only() {
    let Some(service) = Service::with_memory(&[]) else { return };
    let client = service.client();
    let desk = Desk::set_up(&service, "Ana");
    let link = open(&client, "mi web no carga, mira", &[("captura año.png", PNG), ("error.log", LOG)]);
    let folder = format!("{link}/files");
    let page = client.get(&link).body;
    let ids = linked(&page, &folder);
    assert_eq!(ids.len(), 2, "{page}");
    assert!(
        page.contains("mi web no carga") && page.contains("captura año.png") && page.contains("error.log"),
        "{page}"
    );

    let ticket = ticket_of(&link);
    let on_desk = desk.get(&format!("/desk/tickets/{ticket}")).body;
    assert_eq!(linked(&on_desk, "/desk/files"), ids, "{on_desk}");
    let cookie = [("cookie", desk.cookie())];
    for (id, content) in ids.iter().zip([PNG, LOG]) {
        assert_eq!(client.download(&format!("{folder}/{id}"), &[]), content);
        assert_eq!(client.download(&format!("/desk/files/{id}"), &cookie), content);
    }
    for reply in [client.get(&format!("{folder}/{}", ids[1])), desk.get(&format!("/desk/files/{}", ids[1]))] {
        assert_eq!(reply.header("content-type"), "text/plain; charset=utf-8");
        assert_eq!(reply.header("content-disposition"), "attachment; filename*=UTF-8''error.log");
        assert_eq!(reply.header("x-content-type-options"), "nosniff");
        assert_eq!(reply.header("content-security-policy"), "sandbox; default-src 'none'");
        assert_eq!(reply.headers.get_all("content-security-policy").iter().count(), 1);
    }

    // Nobody else: not with the link of another conversation, not without signing in.
    let other = open(&client, "otra consulta: mi correo no funciona", &[]);
    for path in [format!("{other}/files/{}", ids[0]), format!("{folder}/{ticket}"), format!("/chat/x/files/{}", ids[0])]
    {
        assert_eq!(client.get(&path).status, 404, "{path}");
    }
    let outside = client.get(&format!("/desk/files/{}", ids[0]));
    assert!(outside.status == 303 && outside.header("location").starts_with("/desk/sign-in"), "{}", outside.status);
    service.stop();
}

#[test]
fn a_message_of_files_only_says_which_and_is_worked_on() {
    let Some(service) = Service::with_memory(&[]) else { return };
    let client = service.client();
    let link = open(&client, " ", &[("captura.png", PNG)]);
    assert!(client.get(&link).body.contains("(files: captura.png)"));
    let more = upload(&client, &format!("{link}/messages"), true, "", &[("a.log", LOG), ("b.txt", LOG)]);
    assert_eq!(more.status, 204, "{}", more.body);
    let page = client.get(&link).body;
    assert!(page.contains("(files: a.log, b.txt)"), "{page}");
    assert_eq!(linked(&page, &format!("{link}/files")).len(), 3, "{page}");
    let ticket = ticket_of(&link);
    client.worked(&ticket);
    let received = client.events(&ticket, None).filter(|event| event.kind == "received").take(2);
    let names: Vec<_> = received.map(|event| event.data["files"][0]["name"].clone()).collect();
    assert_eq!(names, ["captura.png", "a.log"]);
    assert!(client.get(&format!("{link}/transcript")).body.contains("+ captura.png"));

    // No file chosen is no file, with this form and with the one without parts.
    assert_eq!(upload(&client, &format!("{link}/messages"), true, "¿hola?", &[("", b"")]).status, 204);
    assert_eq!(post_form(&client, &format!("{link}/messages"), "", &[("body", "¿sigue ahí?")]).status, 303);
    assert_eq!(upload(&client, &format!("{link}/messages"), true, " ", &[("", b"")]).status, 422);
    service.stop();
}

#[test]
fn what_is_refused_says_why_and_loses_no_text() {
    let Some(service) = Service::with_memory(&[("RESPONDO_CHAT__MESSAGES_PER_MINUTE", "0")]) else { return };
    let client = service.client();
    let link = open(&client, "mi web no carga", &[]);
    let messages = format!("{link}/messages");
    let large = b"a".repeat(5 * MIB + 1);
    let limits = "At most 5 files of 5 MiB each.";
    let cases: [(Files, &str); 5] = [
        (&[("foto.png", HTML)], "foto.png cannot be taken. Images (PNG, JPEG, GIF, WebP), PDF and plain text"),
        (&[("a.log", LOG), ("datos.zip", b"PK\x03\x04")], "datos.zip cannot be taken."),
        (&[("grande.txt", &large)], "grande.txt is too large; a file has at most 5 MiB."),
        (&[("vacio.txt", b"")], "vacio.txt is empty."),
        (&[("1.log", LOG), ("2.log", LOG), ("3.log", LOG), ("4.log", LOG), ("5.log", LOG), ("6.log", LOG)], limits),
    ];
    for (files, why) in cases {
        let by_script = upload(&client, &messages, true, "mi texto largo", files);
        assert!(by_script.status == 422 && by_script.body.starts_with(why), "{} {}", by_script.status, by_script.body);
        for path in [messages.as_str(), "/chat"] {
            let page = upload(&client, path, false, "mi texto largo", files);
            assert_eq!(page.status, 422, "{path} {why}");
            assert!(page.body.contains(why) && page.body.contains(">mi texto largo</textarea>"), "{}", page.body);
        }
    }
    // More than any message may have: read to its end, and refused all the same.
    let endless = b"a".repeat(27 * MIB);
    let refused = upload(&client, &messages, true, "x", &[("a.txt", &endless)]);
    assert_eq!((refused.status, refused.body.as_str()), (413, limits));
    let page = client.get(&link).body;
    assert!(!page.contains("mi texto largo") && linked(&page, &format!("{link}/files")).is_empty(), "{page}");
    assert_eq!(client.get(&messages).header("location"), link, "loading a refusal again leads back");
    service.stop();
}

#[test]
fn names_are_cleaned_before_anybody_sees_them() {
    let Some(service) = Service::with_memory(&[]) else { return };
    let client = service.client();
    let files: Files = &[("../../etc/pass\u{202e}wd.png", PNG), ("C:\\fakepath\\x\ty.exe", PNG)];
    let link = open(&client, "mira las capturas", files);
    let page = client.get(&link).body;
    assert!(page.contains(">passwd.png<") && page.contains(">xy.exe.png<"), "{page}");
    for unwanted in ["etc/", "fakepath", "\u{202e}"] {
        assert!(!page.contains(unwanted), "{unwanted:?} is on the page");
    }
    service.stop();
}

#[test]
fn a_customer_attaches_files_in_a_browser_and_both_sides_see_them_at_once() {
    let (Some(driver), Some(service)) = (Driver::start(), Service::with_memory(&[])) else { return };
    let ana = Desk::set_up(&service, "Ana");
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("a file");
        path.to_str().expect("a path").to_owned()
    };
    let (picture, page) = (file("captura.png", PNG), file("pagina.png", HTML));
    let chat = driver.window(&service, ENGLISH);
    chat.open("/chat");
    chat.fill("textarea", "my site is down, see the picture");
    chat.fill("input[type=file]", &picture);
    chat.until_says("#chosen", "captura.png");
    chat.click("button.main");
    chat.until_says("#said .files", "captura.png");
    let desk = driver.window(&service, ENGLISH);
    desk.sign_in_as(&ana);
    desk.open(&format!("/desk/tickets/{}", ticket_of(&chat.path())));
    desk.until_says("#panel .files", "captura.png");
    // What is refused stays in the form, the text and the file.
    chat.fill("#say textarea", "and this one");
    chat.fill("input[type=file]", &page);
    chat.click("#say button.main");
    chat.until_says("#status", "pagina.png cannot be taken");
    chat.until("the text", "return document.querySelector('#say textarea').value === 'and this one'");
    chat.until_says("#chosen", "pagina.png");
    // A message of files alone; it is shown without loading the page again, and so on the desk.
    chat.fill("#say textarea", " ");
    chat.fill("input[type=file]", &file("error.log", LOG));
    chat.click("#say button.main");
    chat.until_says("#said", "error.log");
    desk.until_says("#panel", "error.log");
    let linked = "return document.querySelectorAll('#said .files a').length === 2";
    chat.until("two links", linked);
    drop((chat, desk));
    service.stop();
}
