//! `respondo train triage`.

use std::collections::HashMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde::Deserialize;

use super::heads::TriageError;
use super::train::{Readings, TrainingModels, TrainingOpinions, TrainingReader, train};
use crate::embed::{DEFAULT_MAX_TOKENS, E5Embedder, E5Options, Embedder, Reader, Role, Tuning, content_key};
use crate::inference::CHAT_MODEL;
use crate::inference::generator::Generator as _;
use crate::inference::gguf::GgufGenerator;
use crate::models::{Manifest, ModelStore, default_cache_dir};

/// Folder of the built-in embedder in the models folder, and its files.
const MODEL: &str = "multilingual-e5-small";
const CONTAINER: &str = "e5-small-q4.bin";
const TOKENIZER: &str = "tokenizer.json";

/// Tokens of the language model's context: the explanation and a request.
const CONTEXT: usize = 2048;

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
    /// What a reader says of training rows that were kept from it, as scripts/encoder/reader.py writes it beside the reader;
    /// without, the heads go by text and embedding alone
    #[arg(long, requires = "reader")]
    pub readings: Option<PathBuf>,
    /// The reader that wrote them
    #[arg(long, requires = "readings")]
    pub reader: Option<PathBuf>,
    /// The language model whose states the heads read as well: "built-in", or a GGUF file; without, they go by the others
    #[arg(long)]
    pub language_model: Option<String>,
    /// Further labelled requests, in the format of train.jsonl.gz, that only what reads those states learns from
    #[arg(long, requires = "language_model")]
    pub more: Option<PathBuf>,
    /// Write the weights even where those that are there judge the development rows surely better
    #[arg(long)]
    pub anyway: bool,
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
    let files = (folder.join(CONTAINER), folder.join(TOKENIZER));
    let load = |options| {
        E5Embedder::load(&files.0, &files.1, options)
            .context("fetch the embedding model first with `respondo models pull`")
    };
    let mut embedder = load(E5Options { tuning: Tuning::named(&args.tuning)?, ..E5Options::default() })?;
    let name = embedder.name().to_owned();
    let kept = cache.join("vectors");
    let mut embed = |texts: &[&str]| embed_kept(&mut embedder, &kept, texts);
    let mut reader = match &args.reader {
        Some(path) => Some(load(E5Options { reader: Some(Reader::load(path)?), ..E5Options::default() })?),
        None => None,
    };
    let mut models = TrainingModels { name: &name, embed: &mut embed, reader: None, language_model: None };
    let mut read;
    if let (Some(reader), Some(path)) = (&mut reader, &args.readings) {
        let readings = read_readings(path, reader.reader().unwrap_or_default())?;
        read = |texts: &[&str]| {
            let made = reader.read(texts).map_err(|error| TriageError::Embedding(error.to_string()))?;
            Ok(made.unwrap_or_default())
        };
        models.reader = Some(TrainingReader { read: &mut read, readings });
    }
    let mut generator = args.language_model.as_deref().map(|named| language_model(&cache, named)).transpose()?;
    let states = generator.as_ref().and_then(|model| model.considers()).map(str::to_owned);
    let mut consider;
    if let (Some(generator), Some(states)) = (&mut generator, &states) {
        consider = |text: &str| consider_kept(generator, &kept, text);
        let more = args.more.as_deref().map(super::data::read).transpose()?.unwrap_or_default();
        models.language_model = Some(TrainingOpinions { name: states, consider: &mut consider, more });
    }
    let mut progress = |line: &str| eprintln!("{line}");
    let report = train(&args.data, models, args.seed, &args.out, args.anyway, &mut progress)?;
    let mut command = "respondo train triage".to_owned();
    if args.reader.is_some() {
        command.push_str(" --reader models/reader.bin --readings readings.jsonl");
    }
    if let Some(named) = &args.language_model {
        command.push_str(&format!(" --language-model {named}"));
    }
    if args.more.is_some() {
        command.push_str(" --more labelled.jsonl.gz");
    }
    let markdown = report.markdown(&command);
    if let Some(folder) = args.report.parent() {
        fs::create_dir_all(folder).with_context(|| format!("{}: cannot make the folder", folder.display()))?;
    }
    fs::write(&args.report, &markdown).with_context(|| format!("{}: cannot write", args.report.display()))?;
    println!("{markdown}");
    Ok(())
}

/// The model in process that is so named: `built-in` for the one of the manifest, or its file.
pub(crate) fn language_model(cache: &Path, named: &str) -> anyhow::Result<GgufGenerator> {
    let path = match named {
        "built-in" => {
            let manifest = Manifest::load(None)?;
            let model = manifest.get(CHAT_MODEL).context("the manifest has no chat model")?;
            let file = model.files.first().context("the chat model has no file")?;
            ModelStore::new(cache.to_path_buf()).path(model, &file.name)
        }
        path => PathBuf::from(path),
    };
    let model = GgufGenerator::load(&path, CONTEXT)?;
    anyhow::ensure!(model.considers().is_some(), "{}: a model of this family shows no states", path.display());
    Ok(model)
}

/// What the model makes of a text; kept in `folder` as vectors are.
fn consider_kept(generator: &mut GgufGenerator, folder: &Path, text: &str) -> Result<Option<Vec<f32>>, TriageError> {
    let failed = |reason: String| TriageError::Embedding(reason);
    let path = folder.join(content_key(generator.considers().unwrap_or_default(), Role::Query, text));
    if let Some(states) = kept(&path).filter(|states| !states.is_empty()) {
        return Ok(Some(states));
    }
    let made =
        generator.consider(text, &mut || ControlFlow::Continue(())).map_err(|error| failed(error.to_string()))?;
    if let Some(states) = &made {
        fs::create_dir_all(folder).map_err(|error| failed(format!("{}: {error}", folder.display())))?;
        keep(&path, states)?;
    }
    Ok(made)
}

/// A line of a file of readings; the first names the reader, the others a row and its scores.
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    reader: String,
    #[serde(default)]
    id: String,
    #[serde(default)]
    scores: Vec<f32>,
}

/// Reads what the reader of this name says of rows.
fn read_readings(path: &Path, name: &str) -> anyhow::Result<Readings> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut lines = text.lines().map(serde_json::from_str::<Line>);
    let reader = lines.next().transpose()?.map(|line| line.reader).unwrap_or_default();
    anyhow::ensure!(reader == name, "{}: was written by the reader {reader:?}, not by {name:?}", path.display());
    let mut of = HashMap::new();
    for (number, line) in lines.enumerate() {
        let line = line.with_context(|| format!("{}: line {}", path.display(), number + 2))?;
        let scores = super::parts(&line.scores)
            .with_context(|| format!("{}: line {}: no scores of three judgements", path.display(), number + 2))?;
        of.insert(line.id, scores);
    }
    Ok(Readings { reader, of })
}

/// Embeds what is not kept in `folder` yet: one file of little-endian f32 per text, named by [`content_key`].
fn embed_kept(embedder: &mut dyn Embedder, folder: &Path, texts: &[&str]) -> Result<Vec<Vec<f32>>, TriageError> {
    let failed = |reason: String| TriageError::Embedding(reason);
    fs::create_dir_all(folder).map_err(|error| failed(format!("{}: {error}", folder.display())))?;
    // The cap on the length read is part of what makes a vector.
    let model = format!("{} {DEFAULT_MAX_TOKENS}", embedder.name());
    let paths: Vec<PathBuf> = texts.iter().map(|text| folder.join(content_key(&model, Role::Query, text))).collect();
    let dimensions = embedder.dimensions();
    let whole = |path: &PathBuf| kept(path).filter(|vector| vector.len() == dimensions);
    let mut vectors: Vec<Option<Vec<f32>>> = paths.iter().map(whole).collect();
    let missing: Vec<usize> = (0..texts.len()).filter(|at| vectors[*at].is_none()).collect();
    if !missing.is_empty() {
        let wanted: Vec<&str> = missing.iter().map(|at| texts[*at]).collect();
        let made = embedder.embed(&wanted, Role::Query).map_err(|error| failed(error.to_string()))?;
        for (at, vector) in missing.into_iter().zip(made) {
            keep(&paths[at], &vector)?;
            vectors[at] = Some(vector);
        }
    }
    Ok(vectors.into_iter().flatten().collect())
}

/// Numbers kept by an earlier run; None when there are none or the file was cut within one.
fn kept(path: &Path) -> Option<Vec<f32>> {
    let bytes = fs::read(path).ok()?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| numbers.iter().map(|number| f32::from_le_bytes(*number)).collect())
}

/// Keeps numbers for [`kept`].
fn keep(path: &Path, numbers: &[f32]) -> Result<(), TriageError> {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    fs::write(path, bytes).map_err(|error| TriageError::Embedding(format!("{}: {error}", path.display())))
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
    fn readings_of_another_reader_are_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("readings.jsonl");
        let scores: Vec<u8> = (0..12).collect();
        fs::write(&path, format!("{{\"reader\":\"one\"}}\n{{\"id\":\"a\",\"scores\":{scores:?}}}\n"))
            .expect("writable");
        let readings = read_readings(&path, "one").expect("readings");
        assert_eq!(readings.of["a"], [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0], [8.0, 9.0, 10.0, 11.0]]);
        assert!(read_readings(&path, "two").expect_err("another").to_string().contains("\"two\""));
        fs::write(&path, "{\"reader\":\"one\"}\n{\"id\":\"a\",\"scores\":[1]}\n").expect("writable");
        assert!(read_readings(&path, "one").expect_err("too few").to_string().contains("line 2"));
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
