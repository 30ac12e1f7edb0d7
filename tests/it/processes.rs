//! Several processes on one PostgreSQL database and one vector server; and what may not share a database.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use respondo::store::Store;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use crate::server_index::fake::Fake;
use crate::support::{Client, Event, Postgres, Service, embedding_model, run};

/// Requests of each of three processes.
const EACH: usize = 20;
/// Seed of when who is killed.
const SEED: u64 = 20_260_214;
/// A ticket whose process died is free after 15 s, and taken up once it was left alone for 20 s; the rest is for the work and
/// for a busy machine.
const TAKEN_UP_WITHIN: Duration = Duration::from_secs(120);

/// A schema that no other test uses.
fn schema() -> String {
    format!("processes_{}", Uuid::now_v7().simple())
}

/// Environment of processes that share a database and a vector server.
fn settings<'a>(url: &'a str, schema: &'a str, index: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("RESPONDO_DATABASE__URL", url),
        ("RESPONDO_DATABASE__SCHEMA", schema),
        ("RESPONDO_INDEX__KIND", "server"),
        ("RESPONDO_INDEX__URL", index),
        ("RESPONDO_INDEX__COLLECTION", schema),
        ("RESPONDO_INDEX__SEARCH_SECONDS", "30"),
        ("RESPONDO_INDEX__WRITE_SECONDS", "60"),
        // Time for all of them, so that none is told that its reply takes longer.
        ("RESPONDO_DRAFT__DEADLINE_SECONDS", "600"),
    ]
}

/// The body of a request; the same again for the same number.
fn request(number: usize) -> Value {
    json!({ "body": format!("my page number {number} does not load since yesterday") })
}

/// Sends a request under its own key; gives the ticket and whether it was there before. None where the process is gone.
fn send(client: &Client, number: usize) -> Option<(String, bool)> {
    let key = format!("request-{number}");
    let reply = client.try_post("/v1/tickets", &[("idempotency-key", key.as_str())], &request(number))?;
    assert!([200, 201].contains(&reply.status), "{}: {}", reply.status, reply.body);
    Some((reply.json()["ticket_id"].as_str().expect("an id").to_owned(), reply.status == 200))
}

/// Sends the requests of one process one after the other, counting them, until the process is gone; gives the ticket of
/// each that was answered.
fn sending(client: Client, numbers: Vec<usize>, sent: Arc<AtomicUsize>) -> JoinHandle<Vec<(usize, Option<String>)>> {
    spawn(move || {
        let mut is_gone = false;
        let mut ticket = |number| {
            // Its port may be another process's soon.
            let ticket = if is_gone { None } else { send(&client, number).map(|(ticket, _)| ticket) };
            is_gone = ticket.is_none();
            sent.fetch_add(1, Ordering::SeqCst);
            ticket
        };
        numbers.into_iter().map(|number| (number, ticket(number))).collect()
    })
}

/// Waits until so many requests were sent.
fn until_sent(sent: &AtomicUsize, wanted: usize) {
    let started = Instant::now();
    while sent.load(Ordering::SeqCst) < wanted {
        assert!(started.elapsed() < Duration::from_secs(240), "requests are not answered");
        sleep(Duration::from_millis(2));
    }
}

/// Kept events of a ticket, by number and kind, up to the first message to the customer; after a stream that ends, which
/// those of others may, the client comes back with the last event that it has seen.
fn followed(client: &Client, ticket: &str) -> Vec<(String, String)> {
    let mut seen: Vec<(String, String)> = Vec::new();
    let started = Instant::now();
    while started.elapsed() < 2 * TAKEN_UP_WITHIN {
        let last = seen.last().map(|(id, _)| id.clone());
        for Event { id, kind, .. } in client.events(ticket, last.as_deref()) {
            if !id.contains('.') {
                seen.push((id, kind));
            }
            if seen.last().is_some_and(|(_, kind)| kind == "message") {
                return seen;
            }
        }
    }
    panic!("{ticket}: no message in {seen:?}");
}

/// Every message to the customer stands on its ticket's events once, and nothing else does; gives the kept events.
async fn told_once(store: &Store, ticket: Uuid) -> Vec<(String, String)> {
    let sent = store.messages(ticket).await.expect("messages");
    let sent: BTreeSet<String> = sent
        .iter()
        .filter(|message| message.author != respondo::ticket::Author::Customer)
        .map(|message| message.id.to_string())
        .collect();
    let events = store.events_after(ticket, 0).await.expect("events");
    let told: Vec<String> = events
        .iter()
        .filter(|event| event.kind == "message")
        .map(|event| event.data["message_id"].as_str().expect("an id").to_owned())
        .collect();
    assert!(!sent.is_empty(), "{ticket}: the customer was told nothing");
    assert_eq!(told.len(), sent.len(), "{ticket}: {events:?}");
    assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), sent, "{ticket}");
    events.iter().map(|event| (event.seq.to_string(), event.kind.clone())).collect()
}

#[test]
fn two_of_three_processes_are_killed_and_every_request_is_answered_once() {
    let (Some(_), Some(postgres)) = (embedding_model(), Postgres::find()) else { return };
    let (fake, schema) = (Fake::start(), schema());
    let index = fake.url();
    let env = settings(postgres.url(), &schema, &index);
    let folders: Vec<TempDir> = (0..3).map(|_| tempfile::tempdir().expect("temporary folder")).collect();
    let mut services: Vec<Service> = folders.iter().map(|folder| Service::on(folder.path(), &env)).collect();
    let last = services.pop().expect("three");
    let survivor = last.client();

    // What one process took is followed from another, as it happens.
    let first = services[0].client().open_ticket("our mail does not arrive");
    let (follower, ticket) = (survivor.clone(), first.clone());
    let following = spawn(move || followed(&follower, &ticket));

    let all: Vec<_> = services.iter().chain([&last]).map(Service::client).enumerate().collect();
    let counts: Vec<Arc<AtomicUsize>> = (0..3).map(|_| Arc::default()).collect();
    let senders: Vec<_> = all
        .into_iter()
        .map(|(place, client)| {
            let numbers = (place * EACH..(place + 1) * EACH).collect();
            sending(client, numbers, Arc::clone(&counts[place]))
        })
        .collect();
    let mut chance = fastrand::Rng::with_seed(SEED);
    for (service, count) in services.into_iter().zip(&counts) {
        until_sent(count, chance.usize(3..EACH / 2));
        sleep(Duration::from_millis(chance.u64(..10)));
        service.kill();
    }
    let killed = Instant::now();
    let answers: BTreeMap<usize, Option<String>> =
        senders.into_iter().flat_map(|sender| sender.join().expect("sent")).collect();
    assert_eq!(answers.len(), 3 * EACH);
    assert!(answers.values().any(Option::is_none), "both were killed after their last request");

    // Who heard nothing asks again; a request that had arrived all the same is known by its key.
    let tickets: BTreeMap<usize, String> = answers
        .into_iter()
        .map(|(number, ticket)| (number, ticket.unwrap_or_else(|| send(&survivor, number).expect("the third lives").0)))
        .collect();
    let distinct: BTreeSet<&String> = tickets.values().collect();
    assert_eq!(distinct.len(), 3 * EACH, "two requests became one ticket");
    while tickets.values().any(|id| survivor.view(id)["ticket"]["state"] == "received") {
        assert!(killed.elapsed() < TAKEN_UP_WITHIN, "tickets stay received: {}", last.said());
        sleep(Duration::from_millis(250));
    }
    let stream = following.join().expect("the stream tells the reply");
    for (number, id) in &tickets {
        assert_eq!(send(&survivor, *number), Some((id.clone(), true)), "the key of {number} leads to its ticket");
    }
    let data = folders[2].path();
    let figures = || -> Value { serde_json::from_str(&run(data, &env, &["stats", "--json"]).ok()).expect("JSON") };
    // A reply that a process died with is another's after 30 s.
    while figures()["outbox_pending"] != 0 {
        assert!(killed.elapsed() < 2 * TAKEN_UP_WITHIN, "{}", figures());
        sleep(Duration::from_millis(250));
    }
    assert_eq!(figures()["tickets"], 3 * EACH + 1, "{}", figures());
    everything_once(&survivor, (postgres.url(), &schema), &tickets, (&first, stream));
    run(data, &env, &["audit", "verify"]).ok();
    last.stop();
}

/// Checks streams and replies of all tickets, and of the one that was followed all the time.
fn everything_once(
    survivor: &Client,
    (url, schema): (&str, &str),
    tickets: &BTreeMap<usize, String>,
    (first, stream): (&str, Vec<(String, String)>),
) {
    // The survivor's streams tell what is stored, also where another process had begun.
    let mut streams: BTreeMap<Uuid, Vec<(String, String)>> =
        tickets.values().map(|id| (id.parse().expect("an id"), followed(survivor, id))).collect();
    streams.insert(first.parse().expect("an id"), stream);
    let check = async {
        let store = Store::open_server_shared(url, schema).await.expect("the database");
        for (ticket, stream) in &streams {
            let stored = told_once(&store, *ticket).await;
            assert!(stored.starts_with(stream), "{ticket}: {stream:?} of {stored:?}");
            assert_eq!(stream.first().map(|(id, _)| id.as_str()), Some("1"), "{ticket}");
        }
        store.close().await;
    };
    tokio::runtime::Runtime::new().expect("runtime").block_on(check);
}

#[test]
fn a_second_process_with_an_index_of_its_own_is_refused() {
    let (Some(_), Some(postgres)) = (embedding_model(), Postgres::find()) else { return };
    let schema = schema();
    let embedded = [("RESPONDO_DATABASE__URL", postgres.url()), ("RESPONDO_DATABASE__SCHEMA", schema.as_str())];
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("temporary folder"));
    let first = Service::on(folders[0].path(), &embedded);
    let Err(refused) = Service::try_on(folders[1].path(), &embedded) else { panic!("two indexes beside one store") };
    assert_eq!(refused.status.code(), Some(1), "{}", refused.said);
    assert!(refused.said.contains("index.kind = \"server\""), "{}", refused.said);
    assert_eq!(first.client().get("/v1/queue").status, 200);
    first.stop();
    // Who held the place is gone.
    Service::on(folders[1].path(), &embedded).stop();
}
