//! What has been read of a sequence, and its start kept to begin others with.

use crate::kernels::KeyValues;

/// The kept keys and values of one sequence: what has been read of it.
#[derive(Clone)]
pub struct Sequence {
    /// `[layers * key heads]`.
    pub(super) kept: Vec<KeyValues>,
    pub(super) len: usize,
}

/// The start of a sequence, kept to begin others with.
pub struct Prefix {
    kept: Vec<KeyValues>,
    len: usize,
}

impl Sequence {
    /// Tokens read so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when nothing has been read.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// A copy of all that has been read.
    pub fn keep(&self) -> Prefix {
        Prefix { kept: self.kept.iter().map(|kept| kept.first(self.len)).collect(), len: self.len }
    }

    /// Starts over with what was kept.
    pub fn restore(&mut self, prefix: &Prefix) {
        for (kept, first) in self.kept.iter_mut().zip(&prefix.kept) {
            kept.restore(first);
        }
        self.len = prefix.len;
    }
}

impl Prefix {
    /// Memory held, in bytes.
    pub fn size(&self) -> usize {
        self.kept.iter().map(KeyValues::size).sum()
    }
}
