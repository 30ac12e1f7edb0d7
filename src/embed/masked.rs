//! An embedder that reads texts without their personal data.

use std::sync::Arc;

use super::{EmbedError, Embedder, Role};
use crate::endpoint::breaker::Breaker;
use crate::intake::scrub::scrub;

/// Scrubs what goes to a model server outside. The memory was scrubbed the same way on import, so both sides of a search
/// still look alike.
pub struct MaskedEmbedder {
    inner: Box<dyn Embedder>,
}

impl MaskedEmbedder {
    pub fn new(inner: Box<dyn Embedder>) -> Self {
        Self { inner }
    }
}

impl Embedder for MaskedEmbedder {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn dimensions(&self) -> usize {
        self.inner.dimensions()
    }

    fn embed(&mut self, texts: &[&str], role: Role) -> Result<Vec<Vec<f32>>, EmbedError> {
        let scrubbed: Vec<String> = texts.iter().map(|text| scrub(text).text).collect();
        let texts: Vec<&str> = scrubbed.iter().map(String::as_str).collect();
        self.inner.embed(&texts, role)
    }

    fn tokens_read(&self) -> u64 {
        self.inner.tokens_read()
    }

    fn breaker(&self) -> Option<Arc<Breaker>> {
        self.inner.breaker()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Listening(Arc<Mutex<Vec<String>>>);

    impl Embedder for Listening {
        fn name(&self) -> &str {
            "listening"
        }
        fn dimensions(&self) -> usize {
            1
        }
        fn embed(&mut self, texts: &[&str], _role: Role) -> Result<Vec<Vec<f32>>, EmbedError> {
            self.0.lock().expect("unpoisoned").extend(texts.iter().map(|text| (*text).to_owned()));
            Ok(vec![vec![1.0]; texts.len()])
        }
    }

    #[test]
    fn the_server_reads_no_personal_data() {
        let heard = Arc::default();
        let mut embedder = MaskedEmbedder::new(Box::new(Listening(Arc::clone(&heard))));
        let vectors = embedder.embed(&["no llega a ana@correo.example", "port 993"], Role::Query).expect("vectors");
        assert_eq!(vectors.len(), 2);
        assert_eq!(*heard.lock().expect("unpoisoned"), ["no llega a [email]", "port 993"]);
    }
}
