//! Suites: which data is run through which stages, and what must not get worse.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::EvalError;
use super::figures;

/// Where suites are looked for by name.
pub const FOLDER: &str = "eval/suites";

/// A suite, as in `eval/suites/*.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    pub name: String,
    /// To be raised whenever figures of the old and the new suite must not be compared.
    pub version: u32,
    #[serde(default)]
    pub about: String,
    /// Decides which cases are drawn.
    pub seed: u64,
    /// Suites beside this one whose parts and gates are run as well; a part's name gets the suite's before it.
    #[serde(default)]
    include: Vec<String>,
    #[serde(rename = "part", default)]
    pub parts: Vec<Part>,
    #[serde(rename = "gate", default)]
    pub gates: Vec<Gate>,
    /// The file's folder; paths in the suite start there.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// What a part judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartKind {
    /// Is what answers the request found?
    Retrieval,
    /// Urgency, difficulty, next step against labels.
    Triage,
    /// The expected time against the time it took.
    Time,
    /// Replies against reference replies, or against what they rest on alone.
    Drafts,
    /// Injections, personal data, spam.
    Safety,
    /// The same request, written otherwise.
    Stability,
    /// What people did with the drafts, from the store.
    Live,
}

impl PartKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Retrieval => "retrieval",
            Self::Triage => "triage",
            Self::Time => "time",
            Self::Drafts => "drafts",
            Self::Safety => "safety",
            Self::Stability => "stability",
            Self::Live => "live",
        }
    }
}

/// One data set through one kind of judgement.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Unique in the suite; letters, digits and dashes.
    pub name: String,
    pub kind: PartKind,
    #[serde(default)]
    pub about: String,
    pub data: Data,
    /// What the service remembers while it answers. Retrieval on a BEIR folder brings its own; what is
    /// named here stands beside it, is not ranked, and counts by what its replies link to.
    #[serde(default)]
    pub memory: Vec<Memory>,
    /// Draws so many cases; all when left out.
    pub sample: Option<Sample>,
    /// What happens where the data is not there.
    #[serde(default)]
    pub when_missing: WhenMissing,
    /// Who writes the replies.
    #[serde(default)]
    pub replies: Replies,
    /// Stability: variants of each request.
    #[serde(default = "default_variants")]
    pub variants: usize,
    /// Drafts: share of wrong replies that the team accepts among those sent without a person.
    #[serde(default = "default_budget")]
    pub budget: f64,
    /// Seconds within which a reply must stand. Generous, so that the speed of the machine does not decide the text.
    #[serde(default = "default_deadline")]
    pub deadline_seconds: f32,
}

fn default_variants() -> usize {
    3
}

fn default_budget() -> f64 {
    0.02
}

fn default_deadline() -> f32 {
    120.0
}

/// Where cases come from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    pub format: Format,
    /// File or folder, relative to the suite's folder. Not needed for the store.
    #[serde(default)]
    pub path: PathBuf,
    /// BEIR: what the corpus consists of.
    #[serde(default)]
    pub corpus: CorpusAs,
    /// Rows of these languages only; empty for all.
    #[serde(default)]
    pub languages: Vec<String>,
    /// Rows with one of these folds only; empty for all.
    #[serde(default)]
    pub folds: Vec<u32>,
    /// Rows that nothing was learnt from only; all when left out.
    pub held_out: Option<HeldOut>,
}

/// The share of a set that training left alone, by a hash of the id: both sides find it without a list.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOut {
    /// What stands before the id in what is hashed.
    pub salt: String,
    /// One row in so many is held out.
    pub one_in: u32,
}

impl HeldOut {
    /// Whether training leaves the row with this id alone: the first four bytes of SHA-256 over `salt:id`, as a number, are a
    /// multiple of `one_in`.
    pub fn takes(&self, id: &str) -> bool {
        let digest = Sha256::digest(format!("{}:{id}", self.salt));
        let number = digest.iter().take(4).fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
        number.is_multiple_of(self.one_in)
    }
}

/// The form of a data set; `docs/EVALUATION.md` describes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A folder with corpus, queries and qrels.
    Beir,
    /// Requests with `expect` and `relevant` (our samples).
    Requests,
    /// Resolved tickets, as `respondo ingest` reads them.
    Tickets,
    /// Requests with labels for urgency, difficulty and next step.
    Triage,
    /// Requests with evidence and a reference reply.
    Gold,
    /// Attack strings, with what must not appear in a reply.
    Attacks,
    /// Texts with marked personal data.
    Personal,
    /// Messages that are no requests.
    Spam,
    /// The team's own store.
    Store,
}

/// What `title` and `text` of a BEIR corpus are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CorpusAs {
    /// Title and text of a help article.
    #[default]
    Articles,
    /// A question and its answer.
    Answers,
    /// Subject and text of an earlier request, without its answer.
    Questions,
}

/// Texts for the memory.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    #[serde(rename = "as")]
    pub kind: MemoryAs,
    #[serde(default)]
    pub path: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryAs {
    /// Resolved tickets, as `respondo ingest` reads them.
    Tickets,
    /// Help articles, as `respondo ingest` reads them.
    Articles,
    /// `corpus.jsonl(.gz)` of a BEIR folder, as articles.
    Beir,
}

/// How many cases are drawn, by hash of seed and id: the same ones every time, and more of them keep the first ones.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    pub per_language: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenMissing {
    #[default]
    Fail,
    Skip,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Replies {
    /// Cut from the evidence; no language model.
    #[default]
    Extractive,
    /// As the service does it, with the language model.
    Generated,
}

/// What must not get worse.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    pub part: String,
    pub metric: String,
    #[serde(default = "default_slice")]
    pub slice: String,
    /// Worse by no more than this is let pass, even where it is no accident.
    #[serde(default)]
    pub tolerance: f64,
    /// The figure must be at least this good, whatever the baseline says (at most this, where less is better).
    pub floor: Option<f64>,
}

fn default_slice() -> String {
    ALL.to_owned()
}

/// Name of the slice with every case.
pub const ALL: &str = "all";

impl Suite {
    /// Reads a suite by path, or by name from `eval/suites`.
    ///
    /// # Errors
    /// When there is no such file, it is no valid TOML, names an unknown key, or contradicts itself.
    pub fn load(name: &str) -> Result<Self, EvalError> {
        let path = Path::new(name);
        let path = if path.extension().is_some_and(|extension| extension == "toml") {
            path.to_owned()
        } else {
            Path::new(FOLDER).join(format!("{name}.toml"))
        };
        let text = std::fs::read_to_string(&path).map_err(|error| EvalError::Suite {
            suite: name.to_owned(),
            reason: format!("cannot read {}: {error}; suites are files in {FOLDER}", path.display()),
        })?;
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        Self::parse(&text, &folder).map_err(|error| match error {
            EvalError::Suite { suite, reason } if suite.is_empty() => {
                EvalError::Suite { suite: path.display().to_string(), reason }
            }
            error => error,
        })
    }

    /// Reads a suite from its text; `folder` is where its paths start.
    ///
    /// # Errors
    /// As [`Suite::load`].
    pub fn parse(text: &str, folder: &Path) -> Result<Self, EvalError> {
        let mut suite: Self = toml::from_str(text)
            .map_err(|error| EvalError::Suite { suite: String::new(), reason: error.to_string() })?;
        suite.folder = folder.to_owned();
        suite.add_included()?;
        match suite.problem() {
            Some(reason) => Err(EvalError::Suite { suite: suite.name, reason }),
            None => Ok(suite),
        }
    }

    /// Takes in the parts of other suites. Those include none themselves, so that nothing goes round in circles.
    fn add_included(&mut self) -> Result<(), EvalError> {
        for name in std::mem::take(&mut self.include) {
            let refuse = |reason: String| EvalError::Suite { suite: self.name.clone(), reason };
            let path = self.folder.join(format!("{name}.toml"));
            let text = std::fs::read_to_string(&path).map_err(|error| {
                refuse(format!("includes `{name}`, and {} cannot be read: {error}", path.display()))
            })?;
            let other: Self =
                toml::from_str(&text).map_err(|error| refuse(format!("includes `{name}`, which is wrong: {error}")))?;
            if !other.include.is_empty() {
                return Err(refuse(format!("includes `{name}`, which includes others itself; name those here")));
            }
            let named = |part: String| format!("{name}-{part}");
            self.parts.extend(other.parts.into_iter().map(|part| Part { name: named(part.name), ..part }));
            self.gates.extend(other.gates.into_iter().map(|gate| Gate { part: named(gate.part), ..gate }));
        }
        Ok(())
    }

    /// A path of the suite, from where the program runs.
    pub fn path(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    fn problem(&self) -> Option<String> {
        if self.name.is_empty() || !is_plain(&self.name) {
            return Some("`name` must consist of letters, digits and dashes".to_owned());
        }
        if self.parts.is_empty() {
            return Some("has no [[part]]; a suite without parts measures nothing".to_owned());
        }
        let mut names = BTreeSet::new();
        for part in &self.parts {
            if let Some(reason) = part.problem() {
                return Some(format!("part `{}`: {reason}", part.name));
            }
            if !names.insert(part.name.as_str()) {
                return Some(format!("two parts are called `{}`", part.name));
            }
        }
        self.gates.iter().find_map(|gate| self.gate_problem(gate))
    }

    fn gate_problem(&self, gate: &Gate) -> Option<String> {
        let Some(part) = self.parts.iter().find(|part| part.name == gate.part) else {
            return Some(format!("a gate names the part `{}`, which is not in the suite", gate.part));
        };
        let known = figures::of(part);
        if !known.iter().any(|metric| metric.name == gate.metric) {
            let names: Vec<&str> = known.iter().map(|metric| metric.name.as_str()).collect();
            let (metric, kind) = (&gate.metric, part.kind.name());
            return Some(format!("a gate names the metric `{metric}`; a part of kind {kind} has {}", names.join(", ")));
        }
        (gate.tolerance < 0.0).then(|| format!("the gate on {} has a negative tolerance", gate.metric))
    }
}

impl Part {
    fn problem(&self) -> Option<String> {
        use Format as F;
        let fits: &[Format] = match self.kind {
            PartKind::Retrieval => &[F::Beir, F::Requests],
            PartKind::Triage => &[F::Triage],
            PartKind::Time => &[F::Tickets, F::Store],
            PartKind::Drafts => &[F::Gold, F::Requests, F::Tickets, F::Store],
            PartKind::Safety => &[F::Attacks, F::Personal, F::Spam],
            PartKind::Stability => &[F::Requests, F::Gold, F::Triage],
            PartKind::Live => &[F::Store],
        };
        if self.name.is_empty() || !is_plain(&self.name) {
            return Some("`name` must consist of letters, digits and dashes".to_owned());
        }
        if !fits.contains(&self.data.format) {
            return Some(format!("kind {} does not work on data of format {:?}", self.kind.name(), self.data.format));
        }
        if self.data.format != F::Store && self.data.path.as_os_str().is_empty() {
            return Some("data needs a `path`".to_owned());
        }
        if self.data.held_out.as_ref().is_some_and(|held_out| held_out.one_in == 0) {
            return Some("data.held_out.one_in must be at least 1".to_owned());
        }
        if self.sample.is_some_and(|sample| sample.per_language == 0) {
            return Some("sample.per_language must be at least 1".to_owned());
        }
        if !(0.0..1.0).contains(&self.budget) {
            return Some("budget is a share: 0 or more and less than 1".to_owned());
        }
        if !(1..=20).contains(&self.variants) {
            return Some("variants must be between 1 and 20".to_owned());
        }
        if !(0.1..=600.0).contains(&self.deadline_seconds) {
            return Some("deadline_seconds must be between 0.1 and 600".to_owned());
        }
        None
    }
}

fn is_plain(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// The ids in the order in which a sample takes them: by hash, so without preference and the same everywhere.
pub fn draw_key(seed: u64, id: &str) -> [u8; 32] {
    Sha256::digest(format!("{seed} {id}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        name = "small"
        version = 1
        seed = 7
        [[part]]
        name = "search"
        kind = "retrieval"
        data = { format = "beir", path = "faq" }
        [[gate]]
        part = "search"
        metric = "ndcg@10"
    "#;

    fn refused(text: &str) -> String {
        let error = Suite::parse(text, Path::new("here")).expect_err("refused");
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    }

    #[test]
    fn a_suite_is_read_with_paths_from_its_folder() {
        let suite = Suite::parse(SMALL, Path::new("here")).expect("valid");
        assert_eq!(suite.path(&suite.parts[0].data.path), Path::new("here/faq"));
        assert_eq!(suite.gates[0].slice, ALL);
    }

    #[test]
    fn parts_of_included_suites_carry_their_name() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("small.toml"), SMALL).expect("written");
        let whole = "name = \"whole\"\nversion = 1\nseed = 7\ninclude = [\"small\"]\n";
        let suite = Suite::parse(whole, folder.path()).expect("valid");
        assert_eq!((suite.parts[0].name.as_str(), suite.gates[0].part.as_str()), ("small-search", "small-search"));
        let missing = Suite::parse(&whole.replace("[\"small\"]", "[\"gone\"]"), folder.path());
        assert!(missing.expect_err("refused").to_string().contains("gone"));
        std::fs::write(folder.path().join("whole.toml"), whole).expect("written");
        let round = Suite::parse(&whole.replace("[\"small\"]", "[\"whole\"]"), folder.path());
        assert!(round.expect_err("refused").to_string().contains("includes others"));
    }

    #[test]
    fn every_shipped_suite_is_valid() {
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER)).expect("suites").flatten() {
            let path = entry.path().display().to_string();
            let suite = Suite::load(&path).expect("valid");
            assert!(entry.path().file_stem().is_some_and(|stem| stem.to_str() == Some(suite.name.as_str())), "{path}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_suite_is_named() {
        assert!(refused("name = ").contains("expected"));
        assert!(refused("name = \"x\"\nversion = 1\nseed = 1").contains("[[part]]"));
        assert!(refused(&SMALL.replace("seed = 7", "sed = 7")).contains("sed"));
        assert!(refused(&SMALL.replace("ndcg@10", "ndgc")).contains("ndcg@10"), "the known ones are listed");
        assert!(refused(&SMALL.replace("part = \"search\"", "part = \"serach\"")).contains("serach"));
        assert!(refused(&SMALL.replace("\"beir\"", "\"spam\"")).contains("kind retrieval"));
        let error = Suite::load("no-such-suite").expect_err("missing").to_string();
        assert!(error.contains("no-such-suite") && error.contains(FOLDER));
    }
}
