//! Passwords of the people at the desk: who may change them, where from, and whom that signs out.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;

use crate::pages::follow;
use crate::support::{
    Desk, Env, PASSWORD, Postgres, Reply, Service, embedding_model, memory, run, run_with_input, setup_token_of,
};

const SECOND: &str = "a second long contraseña";
const THIRD: &str = "a third long password";
/// An id that nobody has.
const NOBODY: &str = "01890000-0000-7000-8000-000000000000";
/// Wrong passwords before a name has to wait.
const FREE_TRIES: usize = 5;

/// Asks for another password as the page does.
fn change(desk: &Desk, current: &str, new: &str) -> Reply {
    desk.form("/desk/password", &[("current", current), ("new", new)])
}

/// The status of a sign-in.
fn signing_in(service: &Service, name: &str, password: &str) -> u16 {
    Desk::sign_in_with(service, name, password).map_or_else(|refused| refused.status, |_| 303)
}

/// The id of a person, as an administrator's list has it.
fn id_of(admin: &Desk, name: &str) -> String {
    let people = admin.get("/desk/people").body;
    let (_, row) = people.split_once(&format!("<td>{name}</td>")).unwrap_or_else(|| panic!("no {name}: {people}"));
    let (_, rest) = row.split_once("action=\"/desk/people/").expect("a form");
    rest.split('/').next().unwrap_or_default().to_owned()
}

/// The end of the stream comes before the limit of the connection.
fn has_ended(stream: BufReader<TcpStream>) -> bool {
    stream.lines().all(|line| line.is_ok())
}

/// The stream tells something before the limit of the connection.
fn goes_on(stream: BufReader<TcpStream>) -> bool {
    stream.lines().map_while(Result::ok).any(|line| line.contains("event: change"))
}

#[test]
fn whoever_changes_their_password_stays_signed_in_here_alone() {
    let Some(service) = Service::with_memory(&[]) else { return };
    let ana = Desk::set_up(&service, "Ana");
    let ben = ana.colleague(&service, "Ben", "agent");
    let elsewhere = Desk::sign_in(&service, "Ben");
    let streams = [&ben, &elsewhere, &ana].map(|desk| follow(&service, "/desk/live", desk.cookie()));

    assert!(ben.get("/desk").body.contains("href=\"/desk/password\""), "the way there is on every page");
    let headers = [("cookie", ben.cookie()), ("accept-language", "es")];
    let page = service.client().send("GET", "/desk/password", &headers, None);
    assert!(page.body.contains("Contraseña actual") && page.body.contains("Contraseña nueva"), "{}", page.body);
    for (current, new, reason) in [
        ("a wrong password", SECOND, "current password is wrong"),
        (PASSWORD, "too-short", "at least 10 characters"),
        (PASSWORD, PASSWORD, "is the current one"),
    ] {
        let refused = change(&ben, current, new);
        assert_eq!(refused.status, 422, "{reason}");
        assert!(refused.body.contains(reason) && !refused.body.contains(new), "{reason}: {}", refused.body);
    }
    assert_eq!((elsewhere.get("/desk").status, signing_in(&service, "Ben", PASSWORD)), (200, 303), "nothing changed");

    let changed = change(&ben, PASSWORD, SECOND);
    assert_eq!(changed.status, 303, "{}", changed.body);
    let done = ben.get(changed.header("location"));
    assert!(done.status == 200 && done.body.contains("Your password was changed"), "{}", done.body);
    assert_eq!((ben.get("/desk").status, elsewhere.get("/desk").status, ana.get("/desk").status), (200, 303, 200));
    assert_eq!((signing_in(&service, "Ben", PASSWORD), signing_in(&service, "Ben", SECOND)), (401, 303));
    assert_eq!(signing_in(&service, "Ana", PASSWORD), 303, "nobody else's");

    let [here, there, others] = streams;
    assert!(has_ended(there), "the stream of a session that has ended goes on");
    service.client().open_ticket("mi web no carga desde ayer");
    assert!(goes_on(here) && goes_on(others), "a stream has ended with somebody else's session");
    assert_eq!(change(&ben, SECOND, THIRD).status, 303, "the session's forms work on");
    assert!(!service.said().contains(SECOND) && !service.said().contains(THIRD), "a password is in the log");
    service.stop();
}

#[test]
fn wrong_current_passwords_count_with_those_of_the_sign_in() {
    let Some(service) = Service::with_memory(&[]) else { return };
    let ana = Desk::set_up(&service, "Ana");
    let ben = ana.colleague(&service, "Ben", "agent");
    assert_eq!(signing_in(&service, "Ben", "a wrong password"), 401);
    for _ in 1..FREE_TRIES {
        assert_eq!(change(&ben, "a wrong password", SECOND).status, 422);
    }
    let waits = change(&ben, PASSWORD, SECOND);
    assert!(waits.status == 429 && waits.body.contains("Wait a minute"), "{} {}", waits.status, waits.body);
    assert_eq!(signing_in(&service, "Ben", PASSWORD), 429, "the same count");
    assert_eq!(change(&ana, PASSWORD, SECOND).status, 303, "each name has its own");
    service.stop();
}

#[test]
fn an_administrator_gives_another_person_a_new_password() {
    let Some(service) = Service::with_memory(&[]) else { return };
    let ana = Desk::set_up(&service, "Ana");
    let ben = ana.colleague(&service, "Ben", "agent");
    let lea = ana.colleague(&service, "Lea", "lead");
    let path = |id: &str| format!("/desk/people/{id}/password");
    let (own, bens) = (id_of(&ana, "Ana"), id_of(&ana, "Ben"));
    let stream = follow(&service, "/desk/live", ben.cookie());

    for (desk, id) in [(&ben, &own), (&lea, &bens), (&ben, &bens)] {
        assert_eq!(desk.form(&path(id), &[("password", SECOND)]).status, 403);
    }
    let refused = ana.form(&path(&bens), &[("password", "short")]);
    assert!(refused.status == 422 && refused.body.contains("at least 10 characters"), "{}", refused.body);
    // The current one is asked for on one's own page, and nowhere else.
    let refused = ana.form(&path(&own), &[("password", SECOND)]);
    assert!(refused.status == 422 && refused.body.contains("is changed on its page"), "{}", refused.body);
    assert_eq!(ana.form(&path(NOBODY), &[("password", SECOND)]).status, 404);
    assert_eq!((ben.get("/desk").status, signing_in(&service, "Ben", PASSWORD)), (200, 303), "nothing changed");

    let given = ana.form(&path(&bens), &[("password", SECOND)]);
    assert_eq!(given.status, 303, "{}", given.body);
    let page = ana.get(given.header("location")).body;
    assert!(page.contains("Ben has a new password") && !page.contains(SECOND), "{page}");
    assert!(has_ended(stream), "the stream goes on");
    assert_eq!((ben.get("/desk").status, ana.get("/desk").status, lea.get("/desk").status), (303, 200, 200));
    assert_eq!((signing_in(&service, "Ben", PASSWORD), signing_in(&service, "Ben", SECOND)), (401, 303));
    service.stop();
}

/// Gives a person a new password from the shell.
fn set(data: &Path, env: Env, login: &str, input: &str) -> crate::support::Finished {
    run_with_input(data, env, &["person", "password", login], input.as_bytes())
}

#[test]
fn an_operator_changes_a_password_while_the_service_is_stopped() {
    let Some(data) = memory() else { return };
    let data = data.path();
    let service = Service::on(data, &[]);
    let ana = Desk::set_up(&service, "Ana");
    let ben = ana.colleague(&service, "Ben", "agent");
    // Beside the service people are listed, and the way to a new password is told.
    let list = run(data, &[], &["person", "list"]).ok();
    assert!(list.contains("ana  Ana  admin  may sign in") && list.contains("ben  Ben  agent"), "{list}");
    let locked = set(data, &[], "ben", SECOND).failed();
    assert!(locked.contains("/desk/people") && locked.contains("/desk/password"), "{locked}");
    service.stop();

    for (login, input, reason) in [
        ("ben", "short\n", "at least 10 characters"),
        ("ben", "", "at least 10 characters"),
        ("ben", "a first long line\na second long line\n", "one line"),
        ("nobody", SECOND, "person list"),
    ] {
        let refused = set(data, &[], login, input).failed();
        assert!(refused.contains(reason), "{reason}: {refused}");
    }
    let said = set(data, &[], "BEN", &format!("{SECOND}\n"));
    assert!(!said.stderr.contains(SECOND), "{}", said.stderr);
    let said = said.ok();
    assert!(said.contains("ben (Ben)") && !said.contains(SECOND), "{said}");
    run(data, &[], &["audit", "verify"]).ok();

    let service = Service::on(data, &[]);
    assert_eq!((signing_in(&service, "Ben", PASSWORD), signing_in(&service, "Ben", SECOND)), (401, 303));
    assert_eq!(signing_in(&service, "Ana", PASSWORD), 303);
    // Sessions outlive a restart; Ben's has ended with his password.
    let opened = |desk: &Desk| service.client().send("GET", "/desk", &[("cookie", desk.cookie())], None).status;
    assert_eq!((opened(&ana), opened(&ben)), (200, 303));
    service.stop();
}

#[test]
fn beside_a_service_on_postgres_a_password_is_changed_from_the_shell() {
    let (Some(_), Some(postgres)) = (embedding_model(), Postgres::find()) else { return };
    let schema = format!("people_{}", uuid::Uuid::now_v7().simple());
    let env = [("RESPONDO_DATABASE__URL", postgres.url()), ("RESPONDO_DATABASE__SCHEMA", schema.as_str())];
    let folder = tempfile::tempdir().expect("temporary folder");
    let service = Service::on(folder.path(), &env);
    let ana = Desk::set_up(&service, "Ana");
    let ben = ana.colleague(&service, "Ben", "agent");
    set(folder.path(), &env, "ben", SECOND).ok();
    assert_eq!((ana.get("/desk").status, ben.get("/desk").status), (200, 303));
    assert_eq!((signing_in(&service, "Ben", PASSWORD), signing_in(&service, "Ben", SECOND)), (401, 303));
    service.stop();
}

#[test]
fn the_people_of_a_team_are_its_own_on_the_shell_too() {
    let Some(data) = memory() else { return };
    let settings = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(settings.path(), "[tenants.acme]\nhosts = [\"acme.example\"]\n").expect("written");
    let env = [("RESPONDO_CONFIG", settings.path().to_str().expect("UTF-8"))];
    let service = Service::on(data.path(), &env);
    let ana = Desk::set_up(&service, "Ana");
    let client = || service.client().with_host("acme.example");
    Desk::set_up_with(client(), &setup_token_of(&service, "acme"), "Luis");
    let luis = |password: &str| {
        let form = [("login", "luis"), ("password", password)];
        crate::support::post_form(&client(), "/desk/sign-in", "", &form).status
    };
    assert_eq!((luis(PASSWORD), ana.get("/desk").status), (303, 200));
    service.stop();
    let refused = set(data.path(), &env, "luis", SECOND).failed();
    assert!(refused.contains("\"luis\""), "{refused}");
    let of_acme = ["--tenant", "acme", "person"];
    let list = run(data.path(), &env, &[&of_acme[..], &["list"]].concat()).ok();
    assert!(list.contains("Luis") && !list.contains("Ana"), "{list}");
    run_with_input(data.path(), &env, &[&of_acme[..], &["password", "luis"]].concat(), SECOND.as_bytes()).ok();
    let service = Service::on(data.path(), &env);
    let form = [("login", "luis"), ("password", SECOND)];
    let client = service.client().with_host("acme.example");
    assert_eq!(crate::support::post_form(&client, "/desk/sign-in", "", &form).status, 303);
    assert_eq!(signing_in(&service, "Ana", PASSWORD), 303);
    service.stop();
}

#[test]
fn the_help_says_where_the_password_comes_from_and_when_it_works() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let help = run(folder.path(), &[], &["person", "password", "--help"]).ok();
    for wanted in ["standard input", "terminal", "PostgreSQL", "/desk/people", "--tenant"] {
        assert!(help.contains(wanted), "{wanted}: {help}");
    }
    assert!(run(folder.path(), &[], &["person", "--help"]).ok().contains("list"));
    let missing = run(folder.path(), &[], &["person", "list"]).failed();
    assert!(missing.contains("error: "), "{missing}");
}
