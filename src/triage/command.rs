//! `respondo train triage`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::heads::TriageError;
use super::train::{TrainingEmbedder, train};
use crate::embed::{DEFAULT_MAX_TOKENS, E5Embedder, Embedder, Role, Tuning, content_key};
use crate::models::default_cache_dir;

/// Folder of the built-in embedder in the models folder, and its files.
const MODEL: &str = "multilingual-e5-small";
const CONTAINER: &str = "e5-small-q4.bin";
const TOKENIZER: &str = "tokenizer.json";

/// Train the triage heads and write their weights and the report
#[derive(Debug, Args)]
pub struct TrainTriageArgs {
    /// Folder with train.jsonl.gz and dev.jsonl.gz
    #[arg(default_value = "../shared/data/triage-labels")]
    pub data: PathBuf,
    /// Where the weights go; the program takes in models/triage.bin when it is built
    #[arg(long, default_value = "models/triage.bin")]
    pub out: PathBuf,
    /// Where the report goes
    #[arg(long, default_value = "docs/triage-report.md")]
    pub report: PathBuf,
    /// What fine-tuning changed of the embedding model: "built-in", "none", or a file
    #[arg(long, default_value = "built-in")]
    pub tuning: String,
    /// Decides the folds and the resamples
    #[arg(long, default_value_t = 20_261_122)]
    pub seed: u64,
}

/// Trains, writes the weights and the report, prints the report.
///
/// # Errors
/// When the data or the embedding model is missing or damaged, or a file cannot be written.
pub fn run(args: TrainTriageArgs) -> anyhow::Result<()> {
    let cache = default_cache_dir();
    let folder = cache.join("models").join(MODEL);
    let mut embedder = E5Embedder::load(
        &folder.join(CONTAINER),
        &folder.join(TOKENIZER),
        DEFAULT_MAX_TOKENS,
        Tuning::named(&args.tuning)?,
    )
    .context("fetch the embedding model first with `respondo models pull`")?;
    let name = embedder.name().to_owned();
    let kept = cache.join("vectors");
    let mut embed = |texts: &[&str]| embed_kept(&mut embedder, &kept, texts);
    let training = TrainingEmbedder { name: &name, embed: &mut embed };
    let report = train(&args.data, training, args.seed, &args.out, &mut |line| eprintln!("{line}"))?;
    let markdown = report.markdown("respondo train triage");
    if let Some(folder) = args.report.parent() {
        fs::create_dir_all(folder).with_context(|| format!("{}: cannot make the folder", folder.display()))?;
    }
    fs::write(&args.report, &markdown).with_context(|| format!("{}: cannot write", args.report.display()))?;
    println!("{markdown}");
    Ok(())
}

/// Embeds what is not kept in `folder` yet: one file of little-endian f32 per text, named by [`content_key`].
fn embed_kept(embedder: &mut dyn Embedder, folder: &Path, texts: &[&str]) -> Result<Vec<Vec<f32>>, TriageError> {
    let failed = |reason: String| TriageError::Embedding(reason);
    fs::create_dir_all(folder).map_err(|error| failed(format!("{}: {error}", folder.display())))?;
    // The cap on the length read is part of what makes a vector.
    let model = format!("{} {DEFAULT_MAX_TOKENS}", embedder.name());
    let paths: Vec<PathBuf> = texts.iter().map(|text| folder.join(content_key(&model, Role::Query, text))).collect();
    let mut vectors: Vec<Option<Vec<f32>>> = paths.iter().map(|path| kept(path, embedder.dimensions())).collect();
    let missing: Vec<usize> = (0..texts.len()).filter(|at| vectors[*at].is_none()).collect();
    if !missing.is_empty() {
        let wanted: Vec<&str> = missing.iter().map(|at| texts[*at]).collect();
        let made = embedder.embed(&wanted, Role::Query).map_err(|error| failed(error.to_string()))?;
        for (at, vector) in missing.into_iter().zip(made) {
            let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
            fs::write(&paths[at], bytes).map_err(|error| failed(format!("{}: {error}", paths[at].display())))?;
            vectors[at] = Some(vector);
        }
    }
    Ok(vectors.into_iter().flatten().collect())
}

/// A vector kept by an earlier run; None when there is none or it has another length.
fn kept(path: &Path, dimensions: usize) -> Option<Vec<f32>> {
    let bytes = fs::read(path).ok().filter(|bytes| bytes.len() == dimensions * 4)?;
    Some(bytes.chunks_exact(4).map(|part| f32::from_le_bytes([part[0], part[1], part[2], part[3]])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embed::EmbedError;

    struct Counting(usize);

    impl Embedder for Counting {
        fn name(&self) -> &str {
            "counting"
        }
        fn dimensions(&self) -> usize {
            2
        }
        fn embed(&mut self, texts: &[&str], _role: Role) -> Result<Vec<Vec<f32>>, EmbedError> {
            self.0 += texts.len();
            Ok(texts.iter().map(|text| vec![text.len() as f32, 1.0]).collect())
        }
    }

    #[test]
    fn what_is_kept_is_not_embedded_again() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut embedder = Counting(0);
        let mut embed = |texts: &[&str]| embed_kept(&mut embedder, folder.path(), texts).expect("nothing can fail");
        let first = embed(&["one", "three", "two"]);
        assert_eq!(embed(&["three", "four!!"])[0], first[1]);
        fs::write(folder.path().join(content_key("counting 256", Role::Query, "two")), b"cut").expect("writable");
        assert_eq!(embed(&["two"]), [first[2].clone()]);
        assert_eq!(embedder.0, 5);
    }
}
