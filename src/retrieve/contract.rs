//! What every vector store has to do; run over each of them.

use uuid::Uuid;

use super::memory::MemoryStore;
use super::server::tests::each_server;
use super::{Filter, Legs, MemoryPoint, RetrieveError, SearchQuery, VectorStore};
use crate::ticket::MemoryKind;

pub(super) const DIMENSIONS: usize = 8;

/// A unit vector that points in a direction of its own for each seed.
fn vector(seed: u64) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    let raw: Vec<f32> = (0..DIMENSIONS).map(|_| random.f32() - 0.5).collect();
    let norm = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
    raw.iter().map(|x| x / norm).collect()
}

pub(super) fn point(number: u64, language: &str, problem: &str, solution: &str) -> MemoryPoint {
    MemoryPoint {
        id: Uuid::from_u128(u128::from(number)),
        memory_id: format!("t-{number}"),
        kind: MemoryKind::Ticket,
        product: Some(if number.is_multiple_of(2) { "mail" } else { "hosting" }.to_owned()),
        language: language.to_owned(),
        problem: vector(number),
        solution: vector(number + 1000),
        problem_text: problem.to_owned(),
        solution_text: solution.to_owned(),
        passage: 0,
    }
}

pub(super) fn samples() -> Vec<MemoryPoint> {
    let mut points = vec![
        point(1, "es", "No puedo entrar, olvidé mi contraseña", "Cambie la contraseña en el panel"),
        point(2, "es", "Los correos no llegan al buzón", "El buzón estaba lleno: vacíe la papelera"),
        point(3, "en", "Bounce 550 5.7.1 when sending", "Add the server to the SPF record"),
        point(4, "en", "I forgot my password", "Reset the password in the panel"),
        point(5, "en", "Error 0x80004005 after the update", "Install the update again"),
        point(6, "en", "", "😀"),
    ];
    let mut passage = point(7, "en", "Mailbox guide", "Quota, folders and passwords of a mailbox");
    passage.kind = MemoryKind::Article;
    passage.product = None;
    passage.passage = 3;
    points.push(passage);
    points
}

pub(super) fn query(text: &str, language: &str) -> SearchQuery {
    let (text, language) = (text.to_owned(), language.to_owned());
    SearchQuery { vector: vector(4), text, language, filter: Filter::default(), limit: 10 }
}

pub(super) fn ids(hits: &[super::Hit]) -> Vec<&str> {
    hits.iter().map(|hit| hit.memory_id.as_str()).collect()
}

/// The same hits with the same scores.
pub(super) fn same(a: &Legs, b: &Legs) {
    for (one, other) in [(&a.problem, &b.problem), (&a.solution, &b.solution), (&a.lexical, &b.lexical)] {
        assert_eq!(ids(one), ids(other));
        for (x, y) in one.iter().zip(other.iter()) {
            assert!((x.score - y.score).abs() < 1e-3, "{x:?} {y:?}");
            assert_eq!((x.point, x.passage, x.kind, &x.language), (y.point, y.passage, y.kind, &y.language));
        }
    }
}

fn each_store(check: impl Fn(&dyn VectorStore)) {
    check(&MemoryStore::new(DIMENSIONS));
    #[cfg(feature = "edge")]
    {
        let folder = tempfile::tempdir().expect("temporary folder");
        check(&super::edge::EdgeStore::open(folder.path(), "test", DIMENSIONS).expect("new index"));
    }
    each_server(|_, store| check(store));
}

#[test]
fn finds_by_meaning_and_by_word_in_both_languages() {
    each_store(|store| {
        store.upsert(&samples()).expect("upsert");
        assert_eq!(store.count().expect("count"), 7);
        let legs = store.search(&query("contrasena olvidada", "es")).expect("search");
        assert_eq!(legs.problem[0].memory_id, "t-4");
        assert!((legs.problem[0].score - 1.0).abs() < 1e-3);
        assert_eq!((legs.problem.len(), legs.solution.len()), (7, 7));
        assert_eq!(ids(&legs.lexical), ["t-1"]);
        let code = store.search(&query("what is 0x80004005?", "en")).expect("search");
        assert_eq!(ids(&code.lexical), ["t-5"]);
        let bounce = store.search(&query("me rebota con 5.7.1", "es")).expect("search");
        assert_eq!(ids(&bounce.lexical), ["t-3"]);
        let article = store.search(&query("quota", "en")).expect("search");
        assert_eq!((article.lexical[0].kind, article.lexical[0].passage), (MemoryKind::Article, 3));
    });
}

#[test]
fn filters_reach_every_leg() {
    each_store(|store| {
        store.upsert(&samples()).expect("upsert");
        let found = |filter: Filter| {
            let mut wanted = query("password contraseña mailbox buzón", "und");
            wanted.filter = filter;
            store.search(&wanted).expect("search")
        };
        let mail = found(Filter { product: Some("mail".into()), ..Filter::default() });
        assert_eq!(mail.problem.len(), 3);
        assert!(ids(&mail.lexical).iter().all(|id| ["t-2", "t-4"].contains(id)));
        let spanish = found(Filter { languages: vec!["es".into(), "pt".into()], ..Filter::default() });
        assert_eq!(spanish.solution.len(), 2);
        let articles = found(Filter { kind: Some(MemoryKind::Article), ..Filter::default() });
        assert_eq!((ids(&articles.problem), ids(&articles.lexical)), (vec!["t-7"], vec!["t-7"]));
        let without = found(Filter { exclude: vec!["t-4".into(), "t-1".into()], ..Filter::default() });
        assert_eq!(without.problem.len(), 5);
        assert!(!ids(&without.lexical).contains(&"t-4"));
        let mut named = found(Filter { only: vec!["t-4".into(), "t-7".into(), "unknown".into()], ..Filter::default() });
        named.problem.sort_by(|a, b| a.memory_id.cmp(&b.memory_id));
        assert_eq!(ids(&named.problem), ["t-4", "t-7"]);
        assert!(!named.lexical.is_empty() && ids(&named.lexical).iter().all(|id| ["t-4", "t-7"].contains(id)));
        let unknown = found(Filter { only: vec!["unknown".into()], ..Filter::default() });
        assert!(unknown.problem.is_empty() && unknown.solution.is_empty() && unknown.lexical.is_empty());
        let nothing = found(Filter { product: Some("no such".into()), ..Filter::default() });
        assert!(nothing.problem.is_empty() && nothing.lexical.is_empty());
    });
}

#[test]
fn each_language_gets_its_share_and_what_one_leg_finds_all_score() {
    each_store(|store| {
        store.upsert(&samples()).expect("upsert");
        store.checkpoint().expect("checkpoint");
        let mut wanted = query("contraseña password", "es");
        wanted.limit = 1;
        let legs = store.search(&wanted).expect("search");
        let languages = |hits: &[super::Hit]| hits.iter().filter(|hit| hit.language == "es").count();
        assert!(languages(&legs.problem) >= 1 && languages(&legs.problem) < legs.problem.len());
        assert!((2..=6).contains(&legs.problem.len()), "{}", legs.problem.len());
        let sorted = |hits: &[super::Hit]| hits.iter().map(|hit| hit.point).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(sorted(&legs.problem), sorted(&legs.solution));
        assert!(sorted(&legs.lexical).is_subset(&sorted(&legs.problem)));
        for leg in [&legs.problem, &legs.solution, &legs.lexical] {
            assert!(leg.windows(2).all(|pair| pair[0].score >= pair[1].score));
        }
        let tickets = legs.background.iter().find(|b| b.kind == MemoryKind::Ticket && b.language == "es");
        let tickets = tickets.expect("two Spanish tickets");
        let all = store.search(&query("contraseña", "es")).expect("search");
        let spanish: Vec<f32> = all.problem.iter().filter(|hit| hit.language == "es").map(|hit| hit.score).collect();
        assert_eq!((tickets.points, spanish.len()), (2, 2));
        assert!((tickets.problem - spanish.iter().sum::<f32>() / 2.0).abs() < 1e-3);
        store.clear().expect("clear");
        assert!(store.search(&wanted).expect("search").background.is_empty());
    });
}

#[test]
fn replaces_deletes_and_clears() {
    each_store(|store| {
        store.upsert(&samples()).expect("upsert");
        store.upsert(&[point(4, "en", "The printer is on fire", "Call the brigade")]).expect("replace");
        assert_eq!(store.count().expect("count"), 7);
        assert_eq!(ids(&store.search(&query("printer", "en")).expect("search").lexical), ["t-4"]);
        assert!(!ids(&store.search(&query("forgot", "en")).expect("search").lexical).contains(&"t-4"));
        store
            .prune(&["t-4".into(), "t-3".into()], &[point(4, "en", "", "").id, point(3, "en", "", "").id])
            .expect("kept");
        store.prune(&[], &[point(4, "en", "", "").id]).expect("nothing named");
        assert_eq!(store.count().expect("count"), 7);
        store.prune(&["t-4".into(), "unknown".into()], &[point(3, "en", "", "").id]).expect("delete");
        store.delete(&[]).expect("delete nothing");
        assert_eq!(store.count().expect("count"), 6);
        assert!(store.search(&query("printer", "en")).expect("search").lexical.is_empty());
        store.clear().expect("clear");
        assert_eq!(store.count().expect("count"), 0);
        assert!(store.search(&query("quota", "en")).expect("search").problem.is_empty());
        store.upsert(&samples()).expect("upsert after clear");
        assert_eq!(store.count().expect("count"), 7);
    });
}

#[test]
fn hostile_requests_get_an_answer() {
    each_store(|store| {
        store.upsert(&samples()).expect("upsert");
        let huge = "contraseña ".repeat(100_000);
        for text in ["", " \u{0}\n", "😀😀🎉", "the and of", "y de la que", "שלום", &"a".repeat(1 << 20)] {
            let legs = store.search(&query(text, "und")).expect("search");
            assert_eq!(legs.problem.len(), 7, "{}", text.len());
        }
        assert_eq!(ids(&store.search(&query(&huge, "es")).expect("search").lexical), ["t-1"]);
        let mut blind = query("quota", "en");
        blind.vector = vec![];
        let legs = store.search(&blind).expect("search without a vector");
        assert!(legs.problem.is_empty() && ids(&legs.lexical) == ["t-7"]);
        blind.limit = 0;
        assert!(store.search(&blind).expect("search for nothing").lexical.is_empty());
        blind.limit = 5;
        blind.vector = vec![1.0; DIMENSIONS + 1];
        assert!(matches!(store.search(&blind), Err(RetrieveError::Dimensions { .. })));
        let mut broken = point(9, "en", "x", "y");
        broken.problem[0] = f32::NAN;
        assert!(matches!(store.upsert(&[broken.clone()]), Err(RetrieveError::NotFinite)));
        broken.problem = vec![];
        assert!(matches!(store.upsert(&[broken]), Err(RetrieveError::Dimensions { .. })));
        assert_eq!(store.count().expect("count"), 7);
    });
}

#[cfg(feature = "edge")]
mod edge {
    use std::path::Path;

    use super::*;
    use crate::retrieve::edge::EdgeStore;

    fn open(folder: &Path) -> Result<EdgeStore, RetrieveError> {
        EdgeStore::open(folder, "test", DIMENSIONS)
    }

    #[test]
    fn scores_as_the_exact_store_does() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let edge = open(folder.path()).expect("new index");
        let exact = MemoryStore::new(DIMENSIONS);
        let agree = |edge: &EdgeStore| {
            for (text, language) in
                [("password, my mailbox", "en"), ("contraseña", "es"), ("update 550 folders", "und")]
            {
                let mut wanted = query(text, language);
                for limit in [10, 2] {
                    wanted.limit = limit;
                    same(&edge.search(&wanted).expect("search"), &exact.search(&wanted).expect("search"));
                }
            }
        };
        for store in [&edge as &dyn VectorStore, &exact] {
            store.upsert(&samples()).expect("upsert");
        }
        agree(&edge);
        for store in [&edge as &dyn VectorStore, &exact] {
            store.upsert(&[point(4, "en", "Password lost, mailbox shut", "Reset it")]).expect("replace");
            store.delete(&["t-2".into()]).expect("delete");
        }
        // The engine counts deleted points in the document frequencies until it loads the index anew.
        edge.checkpoint().expect("checkpoint");
        drop(edge);
        let edge = open(folder.path()).expect("reopened");
        agree(&edge);
        edge.compact().expect("compacted");
        agree(&edge);
    }

    #[test]
    fn survives_reopening_and_lets_one_in_at_a_time() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = open(folder.path()).expect("new index");
        store.upsert(&samples()).expect("upsert");
        store.checkpoint().expect("checkpoint");
        assert!(matches!(open(folder.path()), Err(RetrieveError::Locked { .. })));
        drop(store);
        let again = open(folder.path()).expect("reopened");
        assert_eq!(again.count().expect("count"), 7);
        assert_eq!(ids(&again.search(&query("quota", "en")).expect("search").lexical), ["t-7"]);
    }

    #[test]
    fn another_model_or_a_damaged_folder_asks_for_a_rebuild() {
        let damages: [fn(&Path); 6] = [
            |folder| std::fs::remove_file(folder.join("stamp.json")).expect("remove"),
            |folder| std::fs::write(folder.join("stamp.json"), "{\"form").expect("write"),
            |folder| std::fs::remove_dir_all(folder.join("points")).expect("remove"),
            |folder| std::fs::remove_dir_all(folder.join("points/segments")).expect("remove"),
            truncate_segments,
            |folder| std::fs::write(folder.join("changed"), "").expect("write"),
        ];
        for (number, damage) in damages.iter().enumerate() {
            let folder = tempfile::tempdir().expect("temporary folder");
            let store = open(folder.path()).expect("new index");
            store.upsert(&samples()).expect("upsert");
            drop(store);
            let other = EdgeStore::open(folder.path(), "other model", DIMENSIONS);
            assert!(matches!(other, Err(RetrieveError::Rebuild { .. })));
            damage(folder.path());
            let opened = open(folder.path());
            assert!(matches!(opened, Err(RetrieveError::Rebuild { .. })), "damage {number}: {:?}", opened.err());
            let fresh = EdgeStore::reset(folder.path(), "test", DIMENSIONS).expect("reset");
            assert_eq!(fresh.count().expect("count"), 0);
            fresh.upsert(&samples()).expect("upsert");
            drop(fresh);
            assert_eq!(open(folder.path()).expect("reopened").count().expect("count"), 7);
        }
    }

    /// Every file of every segment cut to half, as after a crash of the machine.
    fn truncate_segments(folder: &Path) {
        let mut open = vec![folder.join("points/segments")];
        while let Some(path) = open.pop() {
            for entry in std::fs::read_dir(path).expect("folder").flatten() {
                let file = entry.path();
                if file.is_dir() {
                    open.push(file);
                    continue;
                }
                let bytes = std::fs::read(&file).expect("read");
                let half = bytes.get(..bytes.len().min(4096) / 2).unwrap_or_default();
                std::fs::write(&file, half).expect("write");
            }
        }
    }

    #[test]
    fn readers_and_a_writer_do_not_disturb_each_other() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = open(folder.path()).expect("new index");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..10 {
                    store.upsert(&[point(number, "en", "quota", "quota")]).expect("upsert");
                    store.checkpoint().expect("checkpoint");
                }
            });
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        store.search(&query("quota", "en")).expect("search");
                        store.checkpoint().expect("checkpoint");
                    }
                });
            }
        });
        assert_eq!(store.count().expect("count"), 10);
    }

    /// Enough points for a search graph, in two languages of unequal size.
    fn many(numbers: std::ops::Range<u64>) -> Vec<MemoryPoint> {
        let language = |number: u64| if number.is_multiple_of(10) { "es" } else { "en" };
        numbers.map(|n| point(n, language(n), &format!("quota mail p{n}"), &format!("folder m{}", n % 50))).collect()
    }

    type Leg = fn(&Legs) -> &Vec<crate::retrieve::Hit>;

    /// Mean share of the other's first ten that score no worse than the exact store's tenth.
    fn recall(edge: &EdgeStore, exact: &MemoryStore, leg: Leg) -> f64 {
        let first = |store: &dyn VectorStore, seed: u64| -> Vec<f32> {
            let wanted = SearchQuery { vector: vector(1_000_000 + seed), ..query("quota p77 m3", "en") };
            leg(&store.search(&wanted).expect("search")).iter().take(10).map(|hit| hit.score).collect()
        };
        let shares = (0..30).map(|seed| {
            let (found, right) = (first(edge, seed), first(exact, seed));
            let least = right.last().expect("ten hits") - 1e-3;
            found.iter().filter(|score| **score >= least).count() as f64 / right.len() as f64
        });
        shares.sum::<f64>() / 30.0
    }

    #[test]
    fn a_large_index_finds_what_the_exact_store_finds_while_and_after_it_is_built() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = open(folder.path()).expect("new index");
        let exact = MemoryStore::new(DIMENSIONS);
        let each = |act: &dyn Fn(&dyn VectorStore)| [&store as &dyn VectorStore, &exact].into_iter().for_each(act);
        each(&|store| store.upsert(&many(0..24_000)).expect("upsert"));
        each(&|store| store.checkpoint().expect("checkpoint"));
        // Probably still building; right either way.
        each(&|store| store.upsert(&[point(24_001, "it", "stampante", "carta")]).expect("upsert"));
        each(&|store| store.upsert(&[point(8, "en", "printer", "paper")]).expect("replace"));
        each(&|store| store.delete(&["t-9".into(), "t-10".into()]).expect("delete"));
        each(&|store| store.checkpoint().expect("checkpoint"));
        let check = |store: &EdgeStore, when: &str| {
            assert_eq!(store.count().expect("count"), 23_999, "{when}");
            assert_eq!(ids(&store.search(&query("stampante", "it")).expect("search").lexical), ["t-24001"]);
            assert_eq!(ids(&store.search(&query("printer", "en")).expect("search").lexical), ["t-8"]);
            assert!(store.search(&query("p9", "en")).expect("search").lexical.is_empty());
            let legs: [Leg; 3] = [|legs| &legs.problem, |legs| &legs.solution, |legs| &legs.lexical];
            for (number, leg) in legs.into_iter().enumerate() {
                let share = recall(store, &exact, leg);
                assert!(share >= 0.98, "leg {number} {when}: {share}");
            }
        };
        check(&store, "while it is built");
        store.settle();
        check(&store, "built");
        store.compact().expect("compacted");
        check(&store, "compacted");
        drop(store);
        check(&open(folder.path()).expect("reopened"), "reopened");
    }
}
