//! Keeps what replies link to in step with the ticket store.

use crate::retrieve::Citations;
use crate::store::{Store, StoreError};

/// Items read at a time: a few megabytes.
const PAGE: u32 = 2_000;

/// Learns what the store has got since the last time; everything at the first one. Items that were changed under their old
/// id are learnt where they are indexed.
///
/// # Errors
/// When the store fails; what was learnt until then stays learnt.
pub async fn follow(citations: &Citations, store: &Store) -> Result<(), StoreError> {
    loop {
        let page = store.link_sources_after(citations.position(), PAGE).await?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        for (_, source) in &page {
            citations.learn(&source.id, source.kind, source.url.as_deref(), &source.solution);
        }
        citations.reached(*last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retrieve::question_sets::item;
    use crate::store::content_hash;
    use crate::ticket::{MemoryItem, MemoryKind};

    async fn put(store: &Store, items: &[MemoryItem]) {
        let hashes: Vec<String> = items.iter().map(|item| content_hash(item).expect("hash")).collect();
        store.put_items(items, &hashes).await.expect("stored");
    }

    #[tokio::test]
    async fn what_comes_later_is_learnt_later() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path()).await.expect("store");
        let texts = |title: &str, solution: &str| [title.to_owned(), String::new(), solution.to_owned()];
        let ticket = |id: &str, solution: &str| item(MemoryKind::Ticket, id, "en", texts("quota", solution));
        let citations = Citations::default();
        follow(&citations, &store).await.expect("an empty store");
        put(&store, &[ticket("t-1", "See https://a.example/help/quota"), ticket("t-2", "Restart it.")]).await;
        follow(&citations, &store).await.expect("learnt");
        assert!(!citations.is_empty() && citations.shares(&[("t-1", 1.0)], 0.1).is_empty(), "no such item yet");

        let mut article = item(MemoryKind::Article, "a-1", "en", texts("Quota", "The quota is a limit."));
        article.url = Some("https://a.example/en/help/quota".to_owned());
        put(&store, &[article]).await;
        follow(&citations, &store).await.expect("learnt");
        let shares = citations.shares(&[("t-1", 1.0), ("t-2", 1.0)], 0.1);
        assert_eq!(shares.into_iter().collect::<Vec<_>>(), [("a-1".to_owned(), 0.5)]);
        assert_eq!(citations.position(), store.newest_item().await.expect("position"));
    }
}
