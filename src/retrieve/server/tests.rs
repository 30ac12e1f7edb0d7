//! The store against a server of our own with faults on demand and, where `RESPONDO_TEST_QDRANT_URL` names one, a real one.

use std::time::{Duration, Instant};

use qdrant_client::qdrant::quantization_config::Quantization;
use tonic::Code;
use uuid::Uuid;

use super::fake::Fake;
use super::settings::tests::server_at;
use super::settings::{IndexSettings, Quantisation};
use super::{BreakerState, ServerStore};
use crate::retrieve::contract::{DIMENSIONS, ids, point, query, same, samples};
use crate::retrieve::memory::MemoryStore;
use crate::retrieve::transfer::{Transfer, compare, copy};
use crate::retrieve::{MemoryPoint, Prepared, RetrieveError, SearchQuery, VectorStore};

/// Far beyond anything that these tests wait for, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a check on a store of the server for tests and, where one is named, on a store of a real server.
pub(in crate::retrieve) fn each_server(check: impl Fn(&IndexSettings, &ServerStore)) {
    let fake = Fake::start();
    let settings = server_at(&fake.url(), "desk");
    check(&settings, &prepared(&settings));
    let Some(url) = std::env::var_os("RESPONDO_TEST_QDRANT_URL") else { return };
    let name = format!("respondo-test-{}", Uuid::now_v7().simple());
    let settings = server_at(url.to_str().expect("an address"), &name);
    let removed = Removed(settings.clone());
    check(&settings, &prepared(&settings));
    drop(removed);
}

/// Removes what a test made at a real server, also where the test fails.
struct Removed(IndexSettings);

impl Drop for Removed {
    fn drop(&mut self) {
        let Ok(store) = ServerStore::new(&self.0, "test", DIMENSIONS) else { return };
        let removed = store.wait(|inner| async move {
            let collections = inner.collections();
            let found = collections.find().await?;
            for name in found.live.into_iter().chain(found.beside) {
                collections.drop_collection(&name).await?;
            }
            Ok(())
        });
        if let Err(error) = removed {
            println!("collections of {} are left: {error}", self.0.collection);
        }
    }
}

fn prepared(settings: &IndexSettings) -> ServerStore {
    let store = ServerStore::new(settings, "test", DIMENSIONS).expect("a store");
    assert_eq!(store.prepare().expect("a server"), Prepared::Now);
    assert_eq!(store.prepare().expect("a server"), Prepared::Before);
    store
}

/// A server for tests with the sample points on it.
fn filled() -> (Fake, ServerStore) {
    let fake = Fake::start();
    let store = prepared(&server_at(&fake.url(), "desk"));
    store.upsert(&samples()).expect("upsert");
    store.checkpoint().expect("checkpoint");
    (fake, store)
}

fn breaker(store: &ServerStore) -> BreakerState {
    store.link().expect("a server").breaker
}

fn reason<T: std::fmt::Debug>(result: Result<T, RetrieveError>) -> String {
    match result.expect_err("a failure") {
        RetrieveError::Server { reason, .. } => reason,
        other => panic!("{other}"),
    }
}

/// Prepares until it succeeds, as the service does.
fn healed(store: &ServerStore) -> Prepared {
    let started = Instant::now();
    loop {
        match store.prepare() {
            Ok(prepared) => return prepared,
            Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn scores_as_the_exact_store_does() {
    each_server(|_, store| {
        let exact = MemoryStore::new(DIMENSIONS);
        store.upsert(&samples()).expect("upsert");
        store.checkpoint().expect("checkpoint");
        exact.upsert(&samples()).expect("upsert");
        for (text, language) in [("password, my mailbox", "en"), ("contraseña", "es"), ("update 550 folders", "und")] {
            let mut wanted = query(text, language);
            for limit in [10, 2] {
                wanted.limit = limit;
                let (here, there) = (store.search(&wanted).expect("search"), exact.search(&wanted).expect("search"));
                same(&here, &there);
                assert_eq!(here.background.len(), there.background.len());
                for (a, b) in here.background.iter().zip(&there.background) {
                    assert_eq!((a.kind, &a.language, a.points), (b.kind, &b.language, b.points));
                    assert!(
                        (a.problem - b.problem).abs() < 1e-4 && (a.solution - b.solution).abs() < 1e-4,
                        "{a:?} {b:?}"
                    );
                }
            }
        }
    });
}

#[test]
fn what_is_stored_is_there_for_another_process_and_not_for_another_model() {
    each_server(|settings, store| {
        store.upsert(&samples()).expect("upsert");
        store.checkpoint().expect("checkpoint");
        let again = prepared(settings);
        assert_eq!(again.count().expect("count"), 7);
        assert_eq!(ids(&again.search(&query("quota", "en")).expect("search").lexical), ["t-7"]);
        let other = ServerStore::new(settings, "other model", DIMENSIONS).expect("a store");
        let refused = other.prepare().expect_err("another model");
        assert!(
            matches!(&refused, RetrieveError::Rebuild { reason, .. } if reason.contains("other model")),
            "{refused}"
        );
        assert!(other.search(&query("quota", "en")).is_err() && other.upsert(&samples()).is_err());
        other.clear().expect("started anew");
        assert_eq!((other.count().expect("count"), other.prepare().expect("ready")), (0, Prepared::Before));
    });
}

#[test]
fn a_rebuild_is_searched_when_it_is_complete_and_loses_nothing_that_others_write() {
    each_server(|settings, store| {
        store.upsert(&samples()).expect("upsert");
        let other = prepared(settings);
        store.begin_rebuild().expect("begun");
        store.upsert(&samples()[..3]).expect("half of it");
        assert_eq!(store.count().expect("count"), 7, "the old one answers");
        other.upsert(&[point(50, "en", "Printer on fire", "Call the brigade")]).expect("written meanwhile");
        other.delete(&["t-1".into()]).expect("deleted meanwhile");
        assert_eq!(ids(&other.search(&query("printer", "en")).expect("search").lexical), ["t-50"]);
        store.compact().expect("compacted");
        store.finish_rebuild().expect("finished");
        assert_eq!(store.count().expect("count"), 3, "three of the rebuild, one more, one less");
        for each in [store, &other] {
            assert_eq!(ids(&each.search(&query("printer", "en")).expect("search").lexical), ["t-50"]);
        }
        store.finish_rebuild().expect("nothing to finish");
        // A rebuild that ends half way leaves the live one as it was, and the next one clears it away.
        other.begin_rebuild().expect("begun");
        store.clear().expect("cleared");
        assert_eq!(store.count().expect("count"), 0);
    });
}

#[test]
fn collections_are_made_as_the_settings_say_and_old_ones_are_dropped() {
    let fake = Fake::start();
    let settings = IndexSettings {
        shards: 3,
        replicas: 2,
        write_consistency: 2,
        quantisation: Quantisation::Scalar,
        ..server_at(&fake.url(), "desk")
    };
    let store = prepared(&settings);
    let first = fake.behind("desk").expect("an alias");
    let asked = fake.asked(&first).expect("a collection");
    assert_eq!(
        (asked.shard_number, asked.replication_factor, asked.write_consistency_factor),
        (Some(3), Some(2), Some(2))
    );
    let quantisation = asked.quantization_config.and_then(|config| config.quantization);
    assert!(matches!(quantisation, Some(Quantization::Scalar(_))), "{quantisation:?}");
    store.upsert(&samples()).expect("upsert");
    store.begin_rebuild().expect("begun");
    assert_eq!((fake.collections().len(), fake.behind("desk")), (2, Some(first.clone())));
    store.upsert(&samples()[..2]).expect("upsert");
    let points = || fake.collections().iter().map(|name| fake.points(name)).collect::<Vec<_>>();
    assert_eq!(points().iter().flatten().sum::<usize>(), 7 + 2);
    store.finish_rebuild().expect("finished");
    assert_eq!(points(), [Some(2)]);
    let second = fake.behind("desk").expect("an alias");
    assert!(second != first && second.starts_with("desk_"), "{second}");
    assert_eq!(fake.collections(), [second]);
}

#[test]
fn a_failure_that_passes_is_not_noticed() {
    let (mut fake, store) = filled();
    for code in [Code::Unavailable, Code::ResourceExhausted, Code::Internal] {
        fake.fail(code, 2);
        assert_eq!(store.search(&query("quota", "en")).expect("search").problem.len(), 7, "{code}");
        fake.fail(code, 2);
        store.upsert(&samples()).expect("upsert");
    }
    fake.drop_connections();
    assert_eq!(store.count().expect("count after a broken connection"), 7);
    assert_eq!(breaker(&store), BreakerState::Closed);
}

#[test]
fn a_server_that_is_gone_fails_soon_and_then_at_once_and_heals() {
    let (fake, store) = filled();
    fake.gone(true);
    let started = Instant::now();
    for _ in 0..3 {
        reason(store.search(&query("quota", "en")));
    }
    // Far below the deadline of 30 s each: a server that refuses is not waited for.
    assert!(started.elapsed() < PATIENCE / 2, "{:?}", started.elapsed());
    fake.gone(false);
    assert_eq!(healed(&store), Prepared::Before);
    assert_eq!(breaker(&store), BreakerState::Closed);
    assert_eq!(store.search(&query("quota", "en")).expect("search").problem.len(), 7);
}

#[test]
fn an_open_breaker_asks_nothing() {
    let fake = Fake::start();
    // Long enough that the breaker stays open for as long as this takes.
    let store = prepared(&IndexSettings { breaker_seconds: 600.0, ..server_at(&fake.url(), "desk") });
    fake.gone(true);
    for _ in 0..3 {
        reason(store.count());
    }
    assert_eq!(breaker(&store), BreakerState::Open);
    let calls = fake.calls();
    let said = reason(store.search(&query("quota", "en")));
    assert!(said.contains("failed 3 times") && said.contains("asked again in"), "{said}");
    reason(store.upsert(&samples()));
    assert_eq!(fake.calls(), calls);
}

#[test]
fn a_slow_or_exhausted_server_is_waited_for_no_longer_than_the_deadline() {
    let fake = Fake::start();
    let settings = server_at(&fake.url(), "desk");
    prepared(&settings).upsert(&samples()).expect("upsert");
    // The delay is far longer than the deadline, and the deadline is long enough for what is not delayed.
    let hasty = prepared(&IndexSettings { search_seconds: 8.0, breaker_failures: 100, ..settings });
    fake.delay(PATIENCE * 2);
    let started = Instant::now();
    let said = reason(hasty.count());
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    assert!(said.contains("no answer within 8.0 s"), "{said}");
    fake.delay(Duration::ZERO);
    fake.fail(Code::ResourceExhausted, u32::MAX);
    let started = Instant::now();
    let said = reason(hasty.search(&query("quota", "en")));
    assert!(started.elapsed() < PATIENCE && said.contains("asked to fail"), "{said}");
    fake.fail(Code::Ok, 0);
    assert_eq!(hasty.search(&query("quota", "en")).expect("search").problem.len(), 7);
}

#[test]
fn what_the_server_refuses_is_not_tried_again() {
    let (fake, store) = filled();
    let calls = fake.calls();
    fake.fail(Code::Unauthenticated, 1);
    let said = reason(store.count());
    assert!(said.contains("index.api_key"), "{said}");
    assert_eq!((fake.calls(), breaker(&store)), (calls + 1, BreakerState::Closed));
}

#[test]
fn a_server_of_another_version_is_named_and_used_once_it_is_updated() {
    let fake = Fake::start();
    let store = ServerStore::new(&server_at(&fake.url(), "desk"), "test", DIMENSIONS).expect("a store");
    for version in ["1.9.4", "1.15.99", "2.0.0", "0.11.0", "soon"] {
        fake.version(version);
        let said = reason(store.prepare());
        assert!(said.contains(version) && said.contains("1.16"), "{said}");
        assert_eq!(store.link().expect("a server").server, said);
        assert_eq!(reason(store.search(&query("quota", "en"))), said);
    }
    assert!(fake.collections().is_empty());
    fake.version("1.17.0-dev");
    assert_eq!(store.prepare().expect("a version that we know"), Prepared::Now);
    assert_eq!(store.link().expect("a server").server, "Qdrant 1.17.0-dev");
    assert_eq!(store.count().expect("count"), 0);
}

#[test]
fn a_server_that_is_not_there_at_first_is_found_later_and_one_that_lost_all_is_filled_again() {
    let fake = Fake::start();
    fake.gone(true);
    let store = ServerStore::new(&server_at(&fake.url(), "desk"), "test", DIMENSIONS).expect("a store");
    let said = reason(store.prepare());
    assert!(!said.is_empty() && store.search(&query("quota", "en")).is_err() && store.count().is_err());
    fake.gone(false);
    assert_eq!(healed(&store), Prepared::Now);
    store.upsert(&samples()).expect("upsert");
    fake.wipe();
    assert!(reason(store.search(&query("quota", "en"))).contains("doesn't exist"));
    assert_eq!(healed(&store), Prepared::Now, "so that it is compared with the store");
    assert_eq!(store.count().expect("count"), 0);
}

#[test]
fn a_collection_of_our_name_that_is_no_alias_is_left_alone() {
    let fake = Fake::start();
    drop(prepared(&server_at(&fake.url(), "desk")));
    let collection = fake.behind("desk").expect("an alias");
    let store = ServerStore::new(&server_at(&fake.url(), &collection), "test", DIMENSIONS).expect("a store");
    let said = reason(store.prepare());
    assert!(said.contains("index.collection"), "{said}");
    assert_eq!(fake.collections(), [collection]);
}

#[test]
fn the_store_may_be_dropped_and_used_where_other_work_is_waited_for() {
    let fake = Fake::start();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let store = prepared(&server_at(&fake.url(), "desk"));
        store.upsert(&samples()).expect("upsert");
        drop(store);
    });
}

/// More points than one page holds.
fn many() -> Vec<MemoryPoint> {
    let language = |number: u64| if number.is_multiple_of(3) { "es" } else { "en" };
    (100..1_400).map(|n| point(n, language(n), &format!("quota mail p{n}"), &format!("folder m{}", n % 50))).collect()
}

#[test]
fn points_are_read_and_written_as_they_are() {
    let fake = Fake::start();
    let (one, other) = (prepared(&server_at(&fake.url(), "one")), prepared(&server_at(&fake.url(), "other")));
    one.upsert(&many()).expect("upsert");
    one.upsert(&samples()).expect("upsert");
    one.checkpoint().expect("checkpoint");
    let mut heard = Vec::new();
    assert_eq!(copy(&one, &other, &mut |done| heard.push(done)).expect("copied"), 1_307);
    assert_eq!((other.count().expect("count"), heard.last()), (1_307, Some(&1_307)));
    let all = |store: &ServerStore| store.page(None, 10_000).expect("a page");
    assert_eq!(all(&one), all(&other));
    let searches: Vec<_> = (0..20).map(|n| query(&format!("p{} m{n} quota", 200 + n), "en")).collect();
    let comparison = compare(&one, &other, &searches, &mut |_| {}).expect("compared");
    assert_eq!((comparison.searches, comparison.same), (20, 20), "{:?}", comparison.differences);
    other.delete(&(100..1_200).map(|n| format!("t-{n}")).collect::<Vec<_>>()).expect("deleted");
    let comparison = compare(&one, &other, &searches, &mut |_| {}).expect("compared");
    assert!(comparison.same < 20 && comparison.differences.len() == 20 - comparison.same, "a difference is seen");
}

#[cfg(feature = "edge")]
#[test]
fn an_index_moves_to_a_server_and_back() {
    use crate::retrieve::edge::EdgeStore;

    each_server(|_, server| {
        let folder = tempfile::tempdir().expect("temporary folder");
        let embedded = EdgeStore::open(&folder.path().join("one"), "test", DIMENSIONS).expect("new index");
        for batch in [many(), samples()] {
            embedded.upsert(&batch).expect("upsert");
        }
        embedded.checkpoint().expect("checkpoint");
        assert_eq!(copy(&embedded, server, &mut |_| {}).expect("copied"), 1_307);
        let back = EdgeStore::open(&folder.path().join("two"), "test", DIMENSIONS).expect("new index");
        assert_eq!(copy(server, &back, &mut |_| {}).expect("copied back"), 1_307);
        // Of the points that score alike by words, either side may take others; so many are not among the candidates.
        let wanted = |n| SearchQuery { limit: 100, ..query(&format!("p{} m{n} contraseña", 200 + n), "es") };
        let searches: Vec<_> = (0..20).map(wanted).collect();
        for other in [server as &dyn VectorStore, &back] {
            let comparison = compare(&embedded, other, &searches, &mut |_| {}).expect("compared");
            assert_eq!(comparison.same, 20, "{:?}", comparison.differences);
        }
        let (before, after) = (embedded.page(None, 10_000).expect("page").0, back.page(None, 10_000).expect("page").0);
        for (a, b) in before.iter().zip(&after) {
            assert_eq!((a.id, &a.memory_id, &a.product, &a.words), (b.id, &b.memory_id, &b.product, &b.words));
            assert!(a.problem.iter().zip(&b.problem).all(|(x, y)| (x - y).abs() < 1e-5));
        }
    });
}
