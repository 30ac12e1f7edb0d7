use std::time::Instant;

use super::*;
use crate::store::{NewEmbedding, PutResult, content_hash};

async fn put(test: &TestStore, items: &[MemoryItem]) -> PutResult {
    let hashes: Vec<String> = items.iter().map(|item| content_hash(item).unwrap()).collect();
    test.store.put_items(items, &hashes).await.unwrap()
}

fn ids(items: &[MemoryItem]) -> Vec<&str> {
    items.iter().map(|item| item.id.as_str()).collect()
}

#[tokio::test]
async fn putting_twice_changes_nothing() {
    let test = TestStore::new().await;
    let items = [item("a", "one"), item("b", "two"), item("a", "one")];
    assert_eq!(put(&test, &items).await, PutResult { new: 2, changed: 0, same: 1 });
    let pending = test.store.unindexed(10).await.unwrap();
    let marks: Vec<_> = pending.into_iter().map(|pending| (pending.item.id, pending.content_hash)).collect();
    assert!(test.store.mark_indexed(&marks, "e5/384").await.unwrap().is_empty());
    assert!(test.store.unindexed(10).await.unwrap().is_empty());

    let changed = [item("a", "one"), item("b", "two, better"), item("c", "three")];
    assert_eq!(put(&test, &changed).await, PutResult { new: 1, changed: 1, same: 1 });
    let pending = test.store.unindexed(10).await.unwrap();
    assert_eq!(pending.iter().map(|pending| pending.item.id.as_str()).collect::<Vec<_>>(), ["b", "c"]);
    // A mark for what has changed meanwhile does not count, and takes back what another process has marked.
    let newer: Vec<_> = pending.into_iter().map(|pending| (pending.item.id, pending.content_hash)).collect();
    for later in [&marks, &newer, &marks] {
        assert!(test.store.mark_indexed(later, "e5/384").await.unwrap().is_empty());
    }
    let pending = test.store.unindexed(10).await.unwrap();
    assert_eq!(pending.iter().map(|pending| pending.item.id.as_str()).collect::<Vec<_>>(), ["b"]);
    // One that was forgotten while it was indexed is named.
    let unknown = [("forgotten".to_owned(), "hash".to_owned())];
    assert_eq!(test.store.mark_indexed(&unknown, "e5/384").await.unwrap(), ["forgotten"]);

    let wanted = ["c".to_owned(), "missing".to_owned(), "a".to_owned()];
    let found = test.store.items(&wanted).await.unwrap();
    assert_eq!(found, [item("c", "three"), item("a", "one")]);
    assert_eq!(test.store.mark_all_unindexed().await.unwrap(), 3);
    assert_eq!(test.store.unindexed(2).await.unwrap().len(), 2);
    assert!(matches!(test.store.put_items(&changed, &[]).await, Err(StoreError::Invalid(_))));
    assert!(test.store.items(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn pages_cover_the_memory_once() {
    let test = TestStore::new().await;
    let items: Vec<_> = (0..25).map(|n| item(&format!("i{n}"), "x")).collect();
    put(&test, &items).await;
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let page = test.store.items_after(after, 10).await.unwrap();
        let Some((last, _)) = page.last() else { break };
        after = *last;
        seen.extend(page.into_iter().map(|(_, item)| item));
    }
    assert_eq!(ids(&seen), ids(&items));
}

#[tokio::test]
async fn a_forgotten_item_is_gone_from_the_files() {
    let test = TestStore::new().await;
    put(&test, &[item("a", "xyzzy-secret-of-ana"), item("b", "two")]).await;
    let vector = [0.5, -0.25];
    let vectors = [("ka", Some("a")), ("kb", Some("b")), ("kq", None)].map(|(key, memory_id)| NewEmbedding {
        key,
        memory_id,
        vector: &vector,
    });
    test.store.store_embeddings(&vectors).await.unwrap();

    assert!(test.store.forget("a").await.unwrap());
    assert!(!test.store.forget("a").await.unwrap());
    assert_eq!(test.count("memory_items").await, 1);
    let keys = ["ka".to_owned(), "kb".to_owned(), "kq".to_owned(), "kb".to_owned()];
    let kept = test.store.cached_embeddings(&keys).await.unwrap();
    let whole = Some(vector.to_vec());
    assert_eq!(kept, [None, whole.clone(), whole.clone(), whole]);
    let trail: Vec<String> = sqlx::query_scalar("SELECT action || detail FROM audit WHERE subject = 'a'")
        .fetch_all(&test.store.reader)
        .await
        .unwrap();
    assert_eq!(trail, ["memory forgotten{\"embeddings\":1}"]);
    for file in std::fs::read_dir(test.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(12).any(|window| window == b"xyzzy-secret"));
    }
}

#[tokio::test]
async fn vectors_lose_little() {
    let test = TestStore::new().await;
    let mut vector: Vec<f32> = (0..384_u16).map(|n| (f32::from(n) * 0.37).sin()).collect();
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|value| *value /= norm);
    let new = NewEmbedding { key: "k", memory_id: None, vector: &vector };
    test.store.store_embeddings(&[new.clone(), new]).await.unwrap();
    let kept = test.store.cached_embeddings(&["k".to_owned()]).await.unwrap().remove(0).unwrap();
    let cosine: f32 = vector.iter().zip(&kept).map(|(a, b)| a * b).sum();
    assert!((cosine - 1.0).abs() < 1e-4, "{cosine}");
}

#[tokio::test]
async fn quantiles_are_real_times() {
    let test = TestStore::new().await;
    assert_eq!(test.store.memory_stats().await.unwrap().expected_time, None);
    let items: Vec<_> = (0..=10_u8)
        .map(|n| MemoryItem { resolved_hours: Some(f32::from(n)), ..item(&n.to_string(), "x") })
        .chain([MemoryItem { resolved_hours: None, product: None, ..item("untimed", "x") }])
        .collect();
    put(&test, &items).await;
    let stats = test.store.memory_stats().await.unwrap();
    let time = stats.expected_time.unwrap();
    assert_eq!((time.median_hours, time.p90_hours), (5.0, 9.0));
    assert_eq!((stats.items, stats.unindexed), (12, 12));
    assert_eq!(stats.by_product, [("mail".to_owned(), 11), ("none".to_owned(), 1)]);
}

/// Prints figures; fails only when they are off by far, since the machine may be busy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_sixty_of_sixteen_thousand_is_quick() {
    let test = TestStore::new().await;
    let solution = "Open the settings, choose the account and turn it off and on again. ".repeat(12);
    let items: Vec<_> = (0..16_000).map(|n| item(&format!("tb-{n}"), &solution)).collect();
    let start = Instant::now();
    for batch in items.chunks(500) {
        put(&test, batch).await;
    }
    let rows_per_s = 16_000.0 / start.elapsed().as_secs_f64();
    let mut times = Vec::new();
    for round in 0..50 {
        let wanted: Vec<String> = (0..60).map(|n| format!("tb-{}", (n * 263 + round * 7) % 16_000)).collect();
        let start = Instant::now();
        assert_eq!(test.store.items(&wanted).await.unwrap().len(), 60);
        times.push(start.elapsed());
    }
    times.sort();
    println!("put {rows_per_s:.0} items/s; 60 items p50 {:?}, p95 {:?}", times[25], times[47]);
    assert!(times[25].as_millis() < 30);
}
