//! A desk's own judgement of urgency: learnt from what people set right, used by the next start, taken back again.

use std::path::Path;

use respondo::store::{Correction, NewTicket, Store};
use respondo::ticket::{Language, Urgency};
use serde_json::Value;

use crate::support::{embedding_model, run};

/// What this desk thinks of requests of a kind: nobody else would see it so.
const HABITS: [(&str, Urgency); 3] = [
    ("¿Se puede cambiar el color de la cabecera de la tienda", Urgency::Critical),
    ("The invoice shows our old address", Urgency::Low),
    ("All mail of our company was deleted and is gone", Urgency::Normal),
];
/// Requests of a kind, each in words of its own: what differs in digits only is one text.
const SHOPS: [&str; 6] = ["la zapatería", "the bakery", "la librería", "the garage", "el hotel", "the school"];
const WHEN: [&str; 4] = ["please", "since Monday", "cuanto antes", "thank you"];

/// A store whose tickets people have set right by these habits.
fn judged(data: &Path) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let store = Store::open(data).await.expect("the store");
        let asked = SHOPS.into_iter().flat_map(|shop| WHEN.map(|when| format!("{shop}, {when}")));
        for ending in asked {
            for (text, urgency) in HABITS {
                let ticket = NewTicket {
                    customer: None,
                    channel: "api".into(),
                    subject: String::new(),
                    body: format!("{text}: {ending}"),
                    language: Language::EN,
                    product: None,
                    queue: None,
                    idempotency: None,
                };
                let id = store.accept_ticket(ticket).await.expect("accepted").ticket.id;
                store.correct(id, Correction::Urgency(urgency), "Ana").await.expect("corrected");
            }
        }
        store.close().await;
    });
}

fn urgency(data: &Path, body: &str) -> String {
    let asked = run(data, &[], &["ask", "--json", body]).ok();
    let answer: Value = serde_json::from_str(&asked).expect("JSON");
    answer["triage"]["urgency"]["label"].as_str().expect("a label").to_owned()
}

#[test]
fn a_desk_learns_what_its_people_set_right() {
    if embedding_model().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path();
    let learn = |arguments: &[&str]| run(data, &[], &[&["train", "desk"], arguments].concat()).ok();
    judged(data);
    let request = "¿Se puede cambiar el color de la cabecera del blog?";
    let before = urgency(data, request);
    assert_ne!(before, "critical");

    let tried = learn(&["--dry-run"]);
    assert!(tried.contains("72 tickets") && tried.contains("dry run"), "{tried}");
    assert_eq!(urgency(data, request), before);
    let learnt = learn(&[]);
    assert!(learnt.contains("| learnt |") && learnt.contains("triage.bin"), "{learnt}");
    assert_eq!(urgency(data, request), "critical");

    // A damaged file is named, does not count, and is replaced.
    std::fs::write(data.join("triage.bin"), b"cut").expect("writable");
    assert_eq!(urgency(data, request), before);
    let again = run(data, &[], &["train", "desk"]);
    assert!(again.stderr.contains("cannot be read"), "{}", again.stderr);
    assert_eq!(urgency(data, request), "critical");
    assert!(learn(&["--undo"]).contains("before the last"));
    assert!(learn(&[]).contains("| learnt |"));

    // Nothing newer speaks against learning the same again; both steps can be taken back.
    assert!(learn(&[]).contains("| learnt |"));
    assert!(learn(&["--undo"]).contains("before the last"));
    assert_eq!(urgency(data, request), "critical");
    assert!(learn(&["--undo"]).contains("come with the program"));
    assert_eq!(urgency(data, request), before);
    assert!(learn(&["--undo"]).contains("nothing to take back"));
}

#[test]
fn a_desk_without_decisions_has_nothing_to_learn_from() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let nowhere = run(folder.path(), &[], &["train", "desk"]).failed();
    assert!(nowhere.contains("respondo.db"), "{nowhere}");
    run(folder.path(), &[], &["ask", "hola"]);
    let nothing = run(folder.path(), &[], &["train", "desk"]).failed();
    assert!(nothing.contains("nobody has decided"), "{nothing}");
}
