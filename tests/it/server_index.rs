//! The program with its vector index on a server, which here is the one for tests.

// Tests in the library use what is left over here; other modules here use this one.
#[path = "../../src/retrieve/server/fake/mod.rs"]
#[allow(dead_code)]
pub mod fake;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Client, Env, Service, found_ids, memory, run, sent_messages};
use fake::Fake;

const REQUEST: &str = "hola, ¿cómo arreglo el SPF? gmail rechaza nuestro correo con 550-5.7.26 y hay dos registros TXT";
/// Far beyond anything that these tests wait for, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

fn settings(url: &str) -> Vec<(&str, &str)> {
    // Short pauses after failures, and deadlines that a busy machine does not miss.
    vec![
        ("RESPONDO_INDEX__KIND", "server"),
        ("RESPONDO_INDEX__URL", url),
        ("RESPONDO_INDEX__COLLECTION", "desk"),
        ("RESPONDO_INDEX__SEARCH_SECONDS", "30"),
        ("RESPONDO_INDEX__WRITE_SECONDS", "60"),
        ("RESPONDO_INDEX__BREAKER_SECONDS", "0.5"),
    ]
}

/// Memory ids of the evidence that `respondo ask` names.
fn found_by_asking(data: &Path, env: Env) -> Vec<String> {
    let said = run(data, env, &["ask", "--fast", "--json", REQUEST]).ok();
    let answer: Value = serde_json::from_str(&said).expect("JSON");
    // Which passages of an article are candidates hangs on the order of equal scores, and what they add moves the last places.
    let mut found = found_ids(&answer["evidence"]);
    found.truncate(5);
    found
}

/// What `/readyz` says of the index.
fn index_part(client: &Client) -> (bool, String) {
    let ready: Value = client.get("/readyz").json();
    let parts = ready["parts"].as_array().expect("parts").clone();
    let index = parts.into_iter().find(|part| part["name"] == "index").expect("the index");
    (index["ready"] == true, index["detail"].as_str().expect("text").to_owned())
}

/// Waits until `/readyz` says of the index what is wanted.
fn until(client: &Client, wanted: impl Fn(bool, &str) -> bool) -> String {
    let started = Instant::now();
    loop {
        let (ready, detail) = index_part(client);
        if wanted(ready, &detail) {
            return detail;
        }
        assert!(started.elapsed() < PATIENCE, "{ready} {detail}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn an_index_moves_to_a_server_and_answers_the_same() {
    let Some(data) = memory() else { return };
    let fake = Fake::start();
    let url = fake.url();
    let env = settings(&url);
    let before = found_by_asking(data.path(), &[]);
    assert!(!before.is_empty());
    let said = run(data.path(), &env, &["migrate", "vectors", "--to", "server", "--check", "40"]).ok();
    assert!(said.contains("kind = \"server\"") && said.contains("40 of 40 searches"), "{said}");
    let collection = fake.behind("desk").expect("an alias");
    assert!(fake.points(&collection).is_some_and(|points| points >= 175), "{:?}", fake.points(&collection));
    assert_eq!(found_by_asking(data.path(), &env), before);
    // The index in the data folder is not needed any more.
    std::fs::remove_dir_all(data.path().join("index")).expect("removed");
    assert_eq!(found_by_asking(data.path(), &env), before);
    let said = run(data.path(), &env, &["reindex"]).ok();
    assert!(said.contains("indexed 175 items"), "{said}");
    assert_ne!(fake.behind("desk"), Some(collection));
    assert_eq!((fake.collections().len(), found_by_asking(data.path(), &env)), (1, before.clone()));
    run(data.path(), &env, &["migrate", "vectors", "--to", "embedded"]).ok();
    assert_eq!(found_by_asking(data.path(), &[]), before);
}

#[test]
fn a_service_without_its_server_acknowledges_and_heals_when_it_comes() {
    let Some(data) = memory() else { return };
    let fake = Fake::start();
    fake.gone(true);
    let url = fake.url();
    let service = Service::on(data.path(), &settings(&url));
    let client = service.client();
    assert!(service.said().contains("nothing can be searched for now"), "{}", service.said());
    let (ready, detail) = index_part(&client);
    assert!(!ready && detail.contains(&url) && detail.contains("breaker"), "{detail}");
    assert!(client.get("/metrics").body.contains("respondo_index_breaker"));
    let view = client.worked_ticket(REQUEST);
    assert_ne!(view["drafts"][0]["draft"]["kind"], "extractive", "{view}");
    assert_eq!(sent_messages(&view).len(), 1, "the acknowledgement: {view}");

    fake.gone(false);
    // The collection is made and filled from the store, though the store believed that all was indexed.
    until(&client, |ready, detail| ready && !detail.starts_with("0 points") && detail.contains("breaker closed"));
    let started = Instant::now();
    while fake.behind("desk").and_then(|name| fake.points(&name)).is_none_or(|points| points < 175) {
        assert!(started.elapsed() < PATIENCE, "{}", service.said());
        std::thread::sleep(Duration::from_millis(200));
    }
    let view = client.worked_ticket(REQUEST);
    assert_eq!(view["drafts"][0]["draft"]["kind"], "extractive", "{view}");
    service.stop();
}

#[test]
fn a_server_of_another_version_is_named_in_the_readiness() {
    let Some(data) = memory() else { return };
    let fake = Fake::start();
    fake.version("1.9.4");
    let url = fake.url();
    let service = Service::on(data.path(), &settings(&url));
    let client = service.client();
    assert!(run(data.path(), &settings(&url), &["doctor"]).failed().contains("checks failed"));
    let (ready, detail) = index_part(&client);
    assert!(!ready && detail.contains("1.9.4") && detail.contains("1.16"), "{detail}");
    fake.version("1.18.3");
    until(&client, |ready, detail| ready && detail.contains("Qdrant 1.18.3"));
    let said = run(data.path(), &settings(&url), &["doctor"]);
    assert!(said.stdout.contains("ok  index") && said.stdout.contains("Qdrant 1.18.3"), "{}", said.stdout);
    service.stop();
}

#[test]
fn a_key_is_sent_over_tls_to_a_server_that_the_system_trusts() {
    let data = tempfile::tempdir().expect("temporary folder");
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let trusted = data.path().join("trusted.pem");
    std::fs::write(&trusted, made.cert.pem()).expect("written");
    let fake = Fake::start_with_tls(&made.cert.pem(), &made.signing_key.serialize_pem());
    fake.key("a long secret");
    let url = fake.url();
    assert!(url.starts_with("https://"), "{url}");
    let asked = |key, trusted: &Path| {
        let trusted = trusted.to_str().expect("UTF-8");
        let mut env = settings(&url);
        env.extend([("RESPONDO_INDEX__API_KEY", key), ("SSL_CERT_FILE", trusted)]);
        let said = run(data.path(), &env, &["doctor"]).stdout;
        said.lines().find(|line| line.contains(" index ")).unwrap_or_else(|| panic!("{said}")).to_owned()
    };
    let good = asked("a long secret", &trusted);
    assert!(good.starts_with("ok ") && good.contains("Qdrant 1.18.3 at https://"), "{good}");
    let refused = asked("another secret", &trusted);
    assert!(refused.starts_with("BAD") && refused.contains("index.api_key"), "{refused}");
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let stranger = data.path().join("stranger.pem");
    std::fs::write(&stranger, other.cert.pem()).expect("written");
    let distrusted = asked("a long secret", &stranger);
    assert!(distrusted.starts_with("BAD") && distrusted.contains("Failed to connect"), "{distrusted}");
    let in_the_clear = [("RESPONDO_INDEX__KIND", "server"), ("RESPONDO_INDEX__API_KEY", "k")];
    let far = [in_the_clear[0], in_the_clear[1], ("RESPONDO_INDEX__URL", "http://qdrant.example:6334")];
    assert!(run(data.path(), &far, &["doctor"]).failed().contains("index.url"));
}
