//! Drafting prompts as the service makes them: real requests, evidence found by its own retrieval, its own templates. Made
//! once and kept, so that runs of different code write replies to the same prompts.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::unbounded_channel;

use super::requests::{self, Row};
use super::shuffle_key;
use crate::draft::prompt::Prompts;
use crate::eval::desk::imported;
use crate::inference::Inference;
use crate::inference::generator::{
    GenerateError, GenerateRequest, Generation, Generator, Role, Step, StopReason, Turn,
};
use crate::intake;
use crate::learn::citations;
use crate::learn::index::Indexer;
use crate::models::default_cache_dir;
use crate::pipeline::Pipeline;
use crate::retrieve::VectorStore;
use crate::retrieve::memory::MemoryStore;
use crate::settings::{GenerationKind, Settings};
use crate::store::{Store, content_hash};
use crate::ticket::{MemoryItem, MemoryKind};

/// Prompts of each language in a set made from the support forum.
pub const PER_LANGUAGE: usize = 50;

/// Real requests, with the threads that the desk remembers.
pub(super) const FORUM: &str = "../shared/data/sumo-thunderbird/tickets.jsonl.gz";
const LANGUAGES: [&str; 2] = ["en", "es"];
/// Resolved threads that the desk remembers, of each language in [`LANGUAGES`].
const REMEMBERED: [usize; 2] = [400, 120];
/// Requests looked at per language: for some nothing is found, or they are in another language after all.
const LOOKED_AT: usize = 150;
/// Chooses the threads; another seed gives another memory.
const SEED: &str = "respondo-bench-memory";
/// To be raised when prompts are made in another way from the same data.
const VERSION: u32 = 1;
/// Seconds until a request must be answered: the speed of the machine must not decide what is asked.
const DEADLINE: f32 = 120.0;

/// One drafting prompt.
#[derive(Clone, Debug)]
pub struct DraftingPrompt {
    /// Of the request.
    pub id: String,
    /// Of the request and the reply, `en` or `es`.
    pub language: String,
    pub request: GenerateRequest,
}

/// Prompts and where they came from.
#[derive(Clone, Debug)]
pub struct PromptSet {
    /// English ones first, then Spanish ones.
    pub prompts: Vec<DraftingPrompt>,
    /// Source, memory and digest, in words.
    pub about: String,
}

impl PromptSet {
    /// The first `count` prompts, half of them of each language.
    pub fn take(mut self, count: usize) -> Self {
        let mut taken = Vec::new();
        for (position, language) in LANGUAGES.iter().enumerate() {
            let wanted = (count + 1 - position) / LANGUAGES.len();
            taken.extend(self.prompts.iter().filter(|prompt| prompt.language == *language).take(wanted).cloned());
        }
        self.prompts = taken;
        self
    }
}

/// A prompt as a line of the kept file.
#[derive(Serialize, Deserialize)]
struct Kept {
    id: String,
    language: String,
    shared_turns: usize,
    max_tokens: usize,
    /// Role and content.
    turns: Vec<(String, String)>,
}

/// Where requests and memory come from.
struct Source {
    requests: PathBuf,
    memory: Vec<(PathBuf, MemoryKind)>,
    about: &'static str,
    is_forum: bool,
}

impl Source {
    fn choose() -> Self {
        let forum = PathBuf::from(FORUM);
        if forum.is_file() {
            let memory = vec![(forum.clone(), MemoryKind::Ticket)];
            let about = "support.mozilla.org threads about Thunderbird, asked in English and in Spanish";
            return Self { requests: forum, memory, about, is_forum: true };
        }
        let sample = |name: &str| Path::new("samples").join(name);
        Self {
            requests: sample("requests.jsonl"),
            memory: vec![
                (sample("tickets.jsonl"), MemoryKind::Ticket),
                (sample("articles.jsonl"), MemoryKind::Article),
            ],
            about: "the few requests in samples/, since ../shared/data/sumo-thunderbird is not there",
            is_forum: false,
        }
    }

    /// Requests in the order in which they are tried.
    fn rows(&self) -> Result<Vec<Row>> {
        if self.is_forum {
            return requests::sample(&self.requests, LOOKED_AT);
        }
        let text = std::fs::read_to_string(&self.requests)
            .with_context(|| format!("cannot read {}; run this in the repository's folder", self.requests.display()))?;
        text.lines().map(|line| serde_json::from_str(line).context("a line of samples/requests.jsonl")).collect()
    }

    fn items(&self) -> Result<Vec<MemoryItem>> {
        let mut items = Vec::new();
        for (path, kind) in &self.memory {
            items.extend(imported(path, *kind)?);
        }
        if !self.is_forum {
            return Ok(items);
        }
        items.sort_by_key(|item| shuffle_key(SEED, &item.id));
        let of = |(language, count): (&&str, usize)| {
            items.iter().filter(|item| item.language.code() == *language).take(count).cloned().collect::<Vec<_>>()
        };
        Ok(LANGUAGES.iter().zip(REMEMBERED).flat_map(of).collect())
    }

    /// The same for the same data, templates and settings.
    fn key(&self, settings: &Settings) -> Result<String> {
        let mut hasher = Sha256::new();
        for path in std::iter::once(&self.requests).chain(self.memory.iter().map(|(path, _)| path)) {
            let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        }
        let templates = Prompts::load(settings.draft.prompts())?.digest().to_owned();
        let drafting = (settings.draft.evidence_tokens, settings.draft.retrieved, settings.generation.max_tokens);
        hasher.update(format!("{VERSION} {templates} {drafting:?} {:?} {:?}", settings.retrieval, settings.embedding));
        Ok(hex(&hasher.finalize()))
    }
}

/// The kept prompts for this data, templates and settings; they are made first where there are none (minutes, for the
/// memory is embedded). Removing the file makes them anew. `news` hears what is being done.
///
/// # Errors
/// When the data cannot be read, or the embedding model or the disk fails.
pub async fn load_or_make(settings: &Settings, news: &mut dyn FnMut(&str)) -> Result<PromptSet> {
    let source = Source::choose();
    let path = default_cache_dir().join("bench").join(format!("prompts-{}.jsonl", source.key(settings)?));
    if !path.is_file() {
        let made = make(settings, &source, news).await?;
        write(&path, &made)?;
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let prompts: Vec<DraftingPrompt> = text
        .lines()
        .map(|line| parse(line).with_context(|| format!("{} is damaged; remove it", path.display())))
        .collect::<Result<_>>()?;
    let about = format!("{}; digest of the prompts {}", source.about, hex(&Sha256::digest(&text)));
    Ok(PromptSet { prompts, about })
}

/// Keeps what the service would ask the language model, and writes nothing.
struct Recorder(Arc<Mutex<Vec<GenerateRequest>>>);

impl Generator for Recorder {
    fn name(&self) -> &str {
        "recorder"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn generate(
        &mut self,
        request: &GenerateRequest,
        _on_step: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> Result<Generation, GenerateError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        let text = String::new();
        Ok(Generation { text, stop: StopReason::End, prompt_tokens: 0, reused_tokens: 0, written_tokens: 0 })
    }
}

async fn make(settings: &Settings, source: &Source, news: &mut dyn FnMut(&str)) -> Result<Vec<DraftingPrompt>> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let mut settings = settings.clone();
    settings.data.folder = folder.path().to_owned();
    settings.draft.deadline_seconds = DEADLINE;
    settings.generation.kind = GenerationKind::Gguf;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let embedder = crate::app::load_embedder(&settings)?;
    let inference = Inference::start(embedder, Some(Box::new(Recorder(Arc::clone(&heard)))));
    let store = Store::open(folder.path()).await?;
    let items = source.items()?;
    let hashes: Vec<String> = items.iter().map(content_hash).collect::<Result<_, _>>()?;
    store.put_items(&items, &hashes).await?;
    let vectors: Arc<dyn VectorStore> = Arc::new(MemoryStore::new(inference.dimensions()));
    let indexer = Indexer::new(store.clone(), inference.clone(), Arc::clone(&vectors), Arc::default());
    let count = items.len();
    indexer
        .catch_up(|report| news(&format!("prompts: {} of {count} items of the memory embedded", report.items)))
        .await?;
    let pipeline = crate::app::pipeline(&Arc::new(settings), &store, &inference, &vectors).await?;
    citations::follow(pipeline.retriever.citations(), &store).await?;
    let prompts = ask(&pipeline, source.rows()?, &heard, news).await;
    tokio::task::spawn_blocking(move || inference.stop()).await?;
    store.close().await;
    prompts
}

/// Puts requests through the pipeline until enough of each language have made a prompt.
async fn ask(
    pipeline: &Pipeline,
    rows: Vec<Row>,
    heard: &Mutex<Vec<GenerateRequest>>,
    news: &mut dyn FnMut(&str),
) -> Result<Vec<DraftingPrompt>> {
    let mut prompts: Vec<DraftingPrompt> = Vec::new();
    for row in rows {
        let made = prompts.iter().filter(|prompt| prompt.language == row.lang).count();
        if made == PER_LANGUAGE {
            continue;
        }
        let exclude = vec![row.id.clone()];
        let Ok(request) = intake::prepare(&row.subject, &row.body, None, None, exclude) else { continue };
        if request.language.code() != row.lang {
            continue;
        }
        let (watch, _nobody) = unbounded_channel();
        let answer = pipeline.answer(&request, &watch).await;
        ensure!(answer.evidence.iter().all(|found| found.item.id != row.id), "{} retrieved itself", row.id);
        // None where nothing was found to rest a reply on.
        let asked = heard.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(request) = asked {
            news(&format!("prompts: {} in {}", made + 1, row.lang));
            prompts.push(DraftingPrompt { id: row.id, language: row.lang, request });
        }
    }
    ensure!(!prompts.is_empty(), "no request led to a drafting prompt; see whether `respondo eval run quick` works");
    Ok(prompts)
}

fn write(path: &Path, prompts: &[DraftingPrompt]) -> Result<()> {
    let mut text = String::new();
    for prompt in prompts {
        let turns = prompt.request.turns.iter().map(|turn| (turn.role.name().to_owned(), turn.content.clone()));
        let kept = Kept {
            id: prompt.id.clone(),
            language: prompt.language.clone(),
            shared_turns: prompt.request.shared_turns,
            max_tokens: prompt.request.max_tokens,
            turns: turns.collect(),
        };
        text.push_str(&serde_json::to_string(&kept)?);
        text.push('\n');
    }
    let folder = path.parent().context("the cache has no folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    // Beside its final place until it is whole.
    let mut partial = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut partial, text.as_bytes())?;
    partial.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

fn parse(line: &str) -> Result<DraftingPrompt> {
    let kept: Kept = serde_json::from_str(line)?;
    let turn = |(role, content): (String, String)| {
        let role = [Role::System, Role::User, Role::Assistant].into_iter().find(|known| known.name() == role);
        Ok(Turn { role: role.context("a turn of an unknown role")?, content })
    };
    let turns = kept.turns.into_iter().map(turn).collect::<Result<_>>()?;
    let request = GenerateRequest { turns, shared_turns: kept.shared_turns, max_tokens: kept.max_tokens };
    Ok(DraftingPrompt { id: kept.id, language: kept.language, request })
}

/// The first 16 hexadecimal digits of a digest.
fn hex(digest: &[u8]) -> String {
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(id: &str, language: &str) -> DraftingPrompt {
        let turn = |role, content: &str| Turn { role, content: content.to_owned() };
        let turns =
            vec![turn(Role::System, "Be brief."), turn(Role::User, "¿Cómo?\n\"así\""), turn(Role::Assistant, "")];
        let request = GenerateRequest { turns, shared_turns: 1, max_tokens: 100 };
        DraftingPrompt { id: id.to_owned(), language: language.to_owned(), request }
    }

    #[test]
    fn kept_prompts_come_back_as_they_were() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("bench").join("prompts.jsonl");
        write(&path, &[prompt("a", "en"), prompt("b", "es")]).expect("writable");
        let text = std::fs::read_to_string(&path).expect("written");
        let back: Vec<DraftingPrompt> = text.lines().map(|line| parse(line).expect("parses")).collect();
        assert_eq!(
            back.iter().map(|p| (p.id.as_str(), p.language.as_str())).collect::<Vec<_>>(),
            [("a", "en"), ("b", "es")]
        );
        assert_eq!(back[0].request.turns, prompt("a", "en").request.turns);
        assert_eq!((back[0].request.shared_turns, back[0].request.max_tokens), (1, 100));
        assert!(parse(&text.lines().next().expect("a line").replace("system", "narrator")).is_err());
    }

    #[test]
    fn fewer_prompts_are_still_shared_out_over_the_languages() {
        let prompts: Vec<DraftingPrompt> =
            (0..6).map(|at| prompt(&at.to_string(), if at < 3 { "en" } else { "es" })).collect();
        let set = PromptSet { prompts, about: String::new() };
        let ids = |count| set.clone().take(count).prompts.into_iter().map(|p| p.id).collect::<Vec<_>>().join("");
        assert_eq!([1, 2, 3, 100].map(ids), ["0", "03", "013", "012345"]);
    }
}
