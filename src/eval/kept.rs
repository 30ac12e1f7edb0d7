//! Vectors kept from run to run, so that a second run with other fusion settings embeds nothing.
//!
//! A folder of segments, each written by one process: records of one length, a key of 32 bytes and a vector of
//! little-endian f32. A record that was cut short by a crash is at the end of its segment and is not read. Vectors stay on
//! disk; memory holds a key and a place for each.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::embed::{Role, content_key};
use crate::inference::Inference;

const KEY_BYTES: usize = 32;
/// Texts embedded together: enough to fill the cores, few enough that an interruption repeats little.
const BATCH: usize = 64;

type Key = [u8; KEY_BYTES];

/// An embedder with a memory on disk.
pub struct KeptVectors {
    inference: Inference,
    state: Mutex<Segments>,
}

struct Segments {
    dimensions: usize,
    files: Vec<File>,
    /// Segment and record.
    places: HashMap<Key, (usize, usize)>,
    own: PathBuf,
    writer: Option<BufWriter<File>>,
    /// The own segment's position in `files` and its records so far.
    written: (usize, usize),
}

impl KeptVectors {
    /// Opens the folder for the running embedder, making it where it is missing.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(folder: &Path, inference: Inference) -> Result<Self> {
        let folder = folder.join(hex(&Sha256::digest(inference.embedder_name()), 8));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let own = folder.join(format!("{}.bin", uuid::Uuid::now_v7()));
        let mut segments = Segments {
            dimensions: inference.dimensions(),
            files: Vec::new(),
            places: HashMap::new(),
            own,
            writer: None,
            written: (0, 0),
        };
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot read the folder {}", folder.display()))?;
        for entry in entries.flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "bin")) {
            segments.read(&entry.path()).with_context(|| format!("cannot read {}", entry.path().display()))?;
        }
        Ok(Self { inference, state: Mutex::new(segments) })
    }

    /// Vectors of texts in order: kept ones, and new ones from the model. `progress` hears how many are done.
    ///
    /// # Errors
    /// When the model fails or the disk is full.
    pub async fn of(&self, texts: &[String], role: Role, progress: impl Fn(usize)) -> Result<Vec<Vec<f32>>> {
        let keys: Vec<Key> = texts.iter().map(|text| key(self.inference.embedder_name(), role, text)).collect();
        let missing: Vec<usize> = {
            let state = self.lock();
            (0..keys.len()).filter(|at| !state.places.contains_key(&keys[*at])).collect()
        };
        let known = texts.len() - missing.len();
        for (batch, positions) in missing.chunks(BATCH).enumerate() {
            let wanted = positions.iter().map(|at| texts[*at].clone()).collect();
            let made = self.inference.embed_bulk(wanted, role).await?;
            let mut state = self.lock();
            for (at, vector) in positions.iter().zip(made) {
                state.add(keys[*at], &vector)?;
            }
            state.flush()?;
            progress(known + batch * BATCH + positions.len());
        }
        let state = self.lock();
        keys.iter().map(|key| state.get(key)).collect()
    }

    /// The vector of one text.
    ///
    /// # Errors
    /// As [`KeptVectors::of`].
    pub async fn one(&self, text: &str, role: Role) -> Result<Vec<f32>> {
        let vectors = self.of(&[text.to_owned()], role, |_| {}).await?;
        vectors.into_iter().next().context("the embedding model gave no vector")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Segments> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Segments {
    fn record(&self) -> usize {
        KEY_BYTES + self.dimensions * size_of::<f32>()
    }

    fn read(&mut self, path: &Path) -> Result<()> {
        let file = File::open(path)?;
        let records = file.metadata()?.len() as usize / self.record();
        let at = self.files.len();
        for number in 0..records {
            let mut key = [0; KEY_BYTES];
            file.read_exact_at(&mut key, (number * self.record()) as u64)?;
            self.places.insert(key, (at, number));
        }
        self.files.push(file);
        Ok(())
    }

    fn add(&mut self, key: Key, vector: &[f32]) -> Result<()> {
        anyhow::ensure!(vector.len() == self.dimensions, "the embedding model gave {} dimensions", vector.len());
        if self.writer.is_none() {
            let made = File::options().create_new(true).append(true).read(true).open(&self.own);
            let file = made.with_context(|| format!("cannot write {}", self.own.display()))?;
            self.written = (self.files.len(), 0);
            self.files.push(file.try_clone()?);
            self.writer = Some(BufWriter::new(file));
        }
        let (segment, number) = self.written;
        if let Some(writer) = &mut self.writer {
            writer.write_all(&key)?;
            for value in vector {
                writer.write_all(&value.to_le_bytes())?;
            }
        }
        self.places.insert(key, (segment, number));
        self.written.1 += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        match &mut self.writer {
            Some(writer) => writer.flush().with_context(|| format!("cannot write {}", self.own.display())),
            None => Ok(()),
        }
    }

    fn get(&self, key: &Key) -> Result<Vec<f32>> {
        let (segment, number) = self.places.get(key).copied().context("a vector was not kept")?;
        let file = self.files.get(segment).context("a segment of kept vectors is gone")?;
        let mut bytes = vec![0; self.dimensions * size_of::<f32>()];
        file.read_exact_at(&mut bytes, (number * self.record() + KEY_BYTES) as u64)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect())
    }
}

/// [`content_key`] as bytes.
fn key(model: &str, role: Role, text: &str) -> Key {
    Sha256::digest(content_key(model, role, text)).into()
}

/// The first bytes of a digest in hexadecimal.
pub fn hex(digest: &[u8], bytes: usize) -> String {
    digest.iter().take(bytes).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embed::{EmbedError, Embedder};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Counting(Arc<AtomicUsize>);

    impl Embedder for Counting {
        fn name(&self) -> &str {
            "counting"
        }
        fn dimensions(&self) -> usize {
            2
        }
        fn embed(&mut self, texts: &[&str], _role: Role) -> Result<Vec<Vec<f32>>, EmbedError> {
            self.0.fetch_add(texts.len(), Ordering::SeqCst);
            Ok(texts.iter().map(|text| vec![text.len() as f32, 1.0]).collect())
        }
    }

    fn texts(all: &[&str]) -> Vec<String> {
        all.iter().map(|text| (*text).to_owned()).collect()
    }

    #[tokio::test]
    async fn what_is_kept_is_not_embedded_again_and_a_cut_record_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let count = Arc::new(AtomicUsize::new(0));
        let open = || {
            let inference = Inference::start(Box::new(Counting(Arc::clone(&count))), None);
            KeptVectors::open(folder.path(), inference).expect("opens")
        };
        let first = open();
        let made = first.of(&texts(&["one", "three"]), Role::Query, |_| {}).await.expect("vectors");
        assert_eq!(made, [[3.0, 1.0], [5.0, 1.0]]);
        assert_eq!(first.one("three", Role::Query).await.expect("vector"), [5.0, 1.0]);
        assert_eq!(count.load(Ordering::SeqCst), 2);

        let second = open();
        let again = second.of(&texts(&["three", "seventeen"]), Role::Query, |_| {}).await.expect("vectors");
        assert_eq!(again, [[5.0, 1.0], [9.0, 1.0]]);
        assert_eq!(count.load(Ordering::SeqCst), 3, "only the new one");
        second.one("three", Role::Passage).await.expect("vector");
        assert_eq!(count.load(Ordering::SeqCst), 4, "another role is another vector");

        let segment = second.lock().own.clone();
        let file = File::options().write(true).open(segment).expect("segment");
        file.set_len(file.metadata().expect("length").len() - 3).expect("cut");
        let third = open();
        third.of(&texts(&["one", "three", "seventeen"]), Role::Query, |_| {}).await.expect("vectors");
        assert_eq!(count.load(Ordering::SeqCst), 4, "whole records before a cut one are still there");
        third.one("three", Role::Passage).await.expect("vector");
        assert_eq!(count.load(Ordering::SeqCst), 5, "the cut one is made again");
    }
}
