//! A context to run parts in, with an embedder that needs no model.

use std::path::PathBuf;

use super::Context;
use crate::embed::{EmbedError, Embedder, Role};
use crate::eval::kept::KeptVectors;
use crate::eval::record::Made;
use crate::eval::suite::{Part, Suite};
use crate::inference::Inference;
use crate::settings::Settings;

/// Settings, a suite of one part and a folder, all gone at the end of the test.
pub struct Bench {
    pub settings: Settings,
    pub suite: Suite,
    pub folder: tempfile::TempDir,
    made: Made,
    out: PathBuf,
}

/// One dimension per first letter of a word: texts with the same words are alike.
struct Letters;

const DIMENSIONS: usize = 26;

impl Embedder for Letters {
    fn name(&self) -> &str {
        "letters"
    }

    fn dimensions(&self) -> usize {
        DIMENSIONS
    }

    fn embed(&mut self, texts: &[&str], _role: Role) -> Result<Vec<Vec<f32>>, EmbedError> {
        Ok(texts.iter().map(|text| letters(text)).collect())
    }
}

fn letters(text: &str) -> Vec<f32> {
    let mut vector = [0.0; DIMENSIONS];
    for first in text.split_whitespace().filter_map(|word| word.bytes().next()) {
        let at = usize::from(first.to_ascii_lowercase().wrapping_sub(b'a'));
        vector.get_mut(at).into_iter().for_each(|value| *value += 1.0);
    }
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt().max(1.0);
    vector.iter().map(|value| value / length).collect()
}

impl Bench {
    /// `part`: keys of the part beside its name, as in a suite; paths in it start in [`Bench::folder`].
    pub fn new(part: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let text = format!("name = \"s\"\nversion = 1\nseed = 1\n[[part]]\nname = \"p\"\n{part}\n");
        let suite = Suite::parse(&text, folder.path()).expect("a valid suite");
        let mut settings = Settings::load(None).expect("settings");
        settings.data.folder = folder.path().join("data");
        Self { settings, suite, out: folder.path().join("out"), folder, made: Made::default() }
    }

    pub fn part(&self) -> &Part {
        &self.suite.parts[0]
    }

    pub fn context(&self) -> Context<'_> {
        let inference = Inference::start(Box::new(Letters), None);
        let vectors = KeptVectors::open(&self.folder.path().join("vectors"), inference.clone()).expect("vectors");
        Context {
            settings: &self.settings,
            suite: &self.suite,
            made: &self.made,
            inference,
            vectors,
            kept: None,
            out: &self.out,
            progress: &|_, _, _| {},
        }
    }

    /// Writes a file of JSON lines into the folder.
    pub fn write(&self, name: &str, rows: &[serde_json::Value]) {
        let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
        std::fs::write(self.folder.path().join(name), lines.join("\n")).expect("written");
    }
}
