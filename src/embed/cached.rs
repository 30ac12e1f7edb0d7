//! Texts that come again are not embedded again: a bounded memory in front of an embedder.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{EmbedError, Embedder, Role};
use crate::endpoint::breaker::Breaker;

/// Vectors that are kept unless told otherwise: 6 MB at 384 dimensions.
pub const DEFAULT_KEPT: usize = 4_096;

/// SHA-256 of role and text. The text itself is not kept.
type Key = [u8; 32];

/// An [`Embedder`] that remembers the vectors it gave last.
pub struct CachedEmbedder {
    inner: Box<dyn Embedder>,
    most: usize,
    /// Vectors, each with the time of its last use.
    kept: HashMap<Key, (u64, Vec<f32>)>,
    /// Keys by that time, the oldest first.
    used: BTreeMap<u64, Key>,
    /// Counts uses.
    now: u64,
}

impl CachedEmbedder {
    /// Keeps the `most` vectors that were asked for last.
    pub fn new(inner: Box<dyn Embedder>, most: usize) -> Self {
        Self { inner, most, kept: HashMap::new(), used: BTreeMap::new(), now: 0 }
    }

    /// Vectors that are kept at present.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    fn get(&mut self, key: &Key) -> Option<Vec<f32>> {
        self.now += 1;
        let (used, vector) = self.kept.get_mut(key)?;
        self.used.remove(used);
        self.used.insert(self.now, *key);
        *used = self.now;
        Some(vector.clone())
    }

    fn put(&mut self, key: Key, vector: Vec<f32>) {
        self.now += 1;
        if let Some((before, _)) = self.kept.insert(key, (self.now, vector)) {
            self.used.remove(&before);
        }
        self.used.insert(self.now, key);
        while self.kept.len() > self.most
            && let Some((_, oldest)) = self.used.pop_first()
        {
            self.kept.remove(&oldest);
        }
    }
}

impl Embedder for CachedEmbedder {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn dimensions(&self) -> usize {
        self.inner.dimensions()
    }

    fn embed(&mut self, texts: &[&str], role: Role) -> Result<Vec<Vec<f32>>, EmbedError> {
        let keys: Vec<Key> = texts.iter().map(|text| key(role, text)).collect();
        let mut vectors: Vec<Option<Vec<f32>>> = keys.iter().map(|key| self.get(key)).collect();
        let mut missing: HashMap<Key, usize> = HashMap::new();
        let mut wanted = Vec::new();
        for ((key, text), vector) in keys.iter().zip(texts).zip(&vectors) {
            if vector.is_none() {
                missing.entry(*key).or_insert_with(|| {
                    wanted.push(*text);
                    wanted.len() - 1
                });
            }
        }
        if wanted.is_empty() {
            return Ok(vectors.into_iter().flatten().collect());
        }
        let made = self.inner.embed(&wanted, role)?;
        for (key, vector) in keys.iter().zip(&mut vectors) {
            if vector.is_none() {
                *vector = missing.get(key).and_then(|index| made.get(*index)).cloned();
            }
        }
        for (key, index) in missing {
            if let Some(vector) = made.get(index) {
                self.put(key, vector.clone());
            }
        }
        Ok(vectors.into_iter().flatten().collect())
    }

    fn read(&mut self, requests: &[&str]) -> Result<Option<Vec<Vec<f32>>>, EmbedError> {
        self.inner.read(requests)
    }

    fn reader(&self) -> Option<&str> {
        self.inner.reader()
    }

    fn tokens_read(&self) -> u64 {
        self.inner.tokens_read()
    }

    fn breaker(&self) -> Option<Arc<Breaker>> {
        self.inner.breaker()
    }
}

fn key(role: Role, text: &str) -> Key {
    let role = match role {
        Role::Query => b'q',
        Role::Passage => b'p',
    };
    Sha256::new().chain_update([role]).chain_update(text).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::super::e5::tests::model_files;
    use super::super::{E5Embedder, E5Options};
    use super::*;

    #[test]
    fn a_text_is_embedded_once_per_role_while_it_is_kept() {
        let Some((container, tokenizer)) = model_files() else { return };
        let model = E5Embedder::load(&container, &tokenizer, E5Options::default()).expect("the embedder");
        let mut cached = CachedEmbedder::new(Box::new(model), 2);
        assert_eq!(cached.dimensions(), 384);
        let first = cached.embed(&["one", "two", "one"], Role::Query).expect("vectors");
        assert_eq!((first.len(), cached.kept()), (3, 2));
        assert_eq!(first[0], first[2]);
        assert_ne!(first[0], first[1]);
        let read = cached.tokens_read();
        assert_eq!(cached.embed(&["two", "one"], Role::Query).expect("vectors"), [first[1].clone(), first[0].clone()]);
        assert_eq!(cached.tokens_read(), read, "kept vectors were embedded again");

        let passage = cached.embed(&["one"], Role::Passage).expect("vectors");
        assert_ne!(passage[0], first[0], "the role was ignored");
        assert!(cached.tokens_read() > read && cached.kept() == 2);
        // "two" was used longest ago and had to go; "one" is still there.
        let read = cached.tokens_read();
        assert_eq!(cached.embed(&["one"], Role::Query).expect("vectors")[0], first[0]);
        assert_eq!(cached.tokens_read(), read);
        assert_eq!(cached.embed(&["two"], Role::Query).expect("vectors")[0], first[1]);
        assert!(cached.tokens_read() > read);
        assert!(cached.embed(&[], Role::Query).expect("nothing").is_empty());
    }
}
