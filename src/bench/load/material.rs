//! What the service under load remembers and what it is asked: real tickets, and real messages that are not among them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::bench::requests::Row;
use crate::bench::shuffle_key;
use crate::eval::data::{beir, lines};
use crate::eval::suite::CorpusAs;
use crate::intake;
use crate::intake::import::{self, ImportOptions};
use crate::store::{Store, content_hash};
use crate::ticket::{AnswerKind, MemoryItem, MemoryKind};

/// Chosen once; another seed asks in another order.
const SEED: &str = "respondo-load";
/// Shorter texts are greetings and slips.
const SHORTEST_BODY: usize = 60;
/// Items written in one transaction, and read at once.
const BATCH: usize = 400;

/// How the texts of a file are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Requests with the replies that they got.
    Tickets,
    /// Help articles in our own format.
    Articles,
    /// A folder with `corpus.jsonl.gz`, whose texts are help articles.
    Corpus,
    /// As [`Kind::Corpus`], but each text is the answer to its title.
    Answers,
    /// Requests without replies: asked, never remembered.
    Requests,
}

/// Real support data, nearest to the requests first.
const REAL: [(&str, Kind); 5] = [
    ("sumo-thunderbird/tickets.jsonl.gz", Kind::Tickets),
    ("sumo-firefox/tickets_with_answers.jsonl.gz", Kind::Tickets),
    ("sumo-thunderbird-kb", Kind::Corpus),
    ("stackfaq", Kind::Answers),
    ("askubuntu-webapps-intents/tickets.jsonl.gz", Kind::Tickets),
];
/// What comes with the program.
const SAMPLES: [(&str, Kind); 3] =
    [("tickets.jsonl", Kind::Tickets), ("articles.jsonl", Kind::Articles), ("requests.jsonl", Kind::Requests)];
const SAMPLES_FOLDER: &str = "samples";

/// Files of memory items and requests.
#[derive(Clone, Debug)]
pub struct Material {
    files: Vec<(PathBuf, Kind)>,
    /// Where the texts are from, for the report.
    pub source: String,
}

impl Material {
    /// The data sets in `folder`, and our own samples behind them; the samples alone where there is no such folder.
    ///
    /// # Errors
    /// When neither is there.
    pub fn find(folder: &Path) -> Result<Self> {
        let samples = Path::new(SAMPLES_FOLDER);
        let real = folder.is_dir();
        ensure!(
            real || samples.is_dir(),
            "neither {} nor {SAMPLES_FOLDER} is a folder; name the data with --data or start in the repository",
            folder.display()
        );
        let in_folder = |base: &Path, list: &[(&str, Kind)]| -> Vec<(PathBuf, Kind)> {
            list.iter().map(|(path, kind)| (base.join(path), *kind)).filter(|(path, _)| path.exists()).collect()
        };
        let mut files = if real { in_folder(folder, &REAL) } else { Vec::new() };
        files.extend(in_folder(samples, &SAMPLES));
        let source = match real {
            true => {
                "support.mozilla.org contributors, CC BY-SA 3.0; askubuntu.com, CC BY-SA; our own samples".to_owned()
            }
            false => format!("our own samples only, since {} is absent", folder.display()),
        };
        Ok(Self { files, source })
    }

    /// Puts items into the store until it holds `wanted`, in the order of the files; gives how many it holds then, which
    /// is less where the data has no more.
    ///
    /// # Errors
    /// When a file cannot be read, the store fails, or it already holds more than `wanted`.
    pub async fn fill(&self, store: &Store, wanted: usize) -> Result<usize> {
        let mut held = usize::try_from(store.memory_stats().await?.items)?;
        ensure!(
            held <= wanted,
            "the data folder holds {held} items and {wanted} were asked for; choose another folder with --folder"
        );
        for (path, kind) in &self.files {
            if held == wanted {
                break;
            }
            for batch in items(path, *kind)?.chunks(BATCH) {
                // A repeated run finds its items again, so the room is counted in items that are new.
                let known: HashSet<String> = store.items(&ids(batch)).await?.into_iter().map(|item| item.id).collect();
                let fresh: Vec<MemoryItem> =
                    batch.iter().filter(|item| !known.contains(&item.id)).take(wanted - held).cloned().collect();
                let hashes = fresh.iter().map(content_hash).collect::<Result<Vec<_>, _>>()?;
                store.put_items(&fresh, &hashes).await?;
                held += fresh.len();
            }
        }
        Ok(held)
    }

    /// Messages of customers that the store does not remember, each once, in an order that is the same every time.
    ///
    /// # Errors
    /// When a file cannot be read, the store fails, or nothing is left to ask.
    pub async fn requests(&self, store: &Store) -> Result<Vec<Row>> {
        let (known_ids, mut seen_texts) = remembered(store).await?;
        let mut rows = Vec::new();
        for (path, kind) in &self.files {
            if !matches!(kind, Kind::Tickets | Kind::Requests) {
                continue;
            }
            let asked: Vec<Row> = lines(path)?;
            let new = asked.into_iter().filter(|row| row.body.len() >= SHORTEST_BODY && !known_ids.contains(&row.id));
            for row in new {
                let Ok(request) = intake::prepare(&row.subject, &row.body, None, None, Vec::new()) else { continue };
                if seen_texts.insert(key(&request.body)) {
                    rows.push(row);
                }
            }
        }
        ensure!(
            !rows.is_empty(),
            "every message of the data is in the memory; lower --items so that some are left to ask"
        );
        rows.sort_by_key(|row| shuffle_key(SEED, &row.id));
        Ok(rows)
    }
}

fn ids(items: &[MemoryItem]) -> Vec<String> {
    items.iter().map(|item| item.id.clone()).collect()
}

/// Words alone: the same message with other white space or punctuation is the same message.
fn key(text: &str) -> String {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
        .to_lowercase()
}

/// Ids and problems of all items of a store.
async fn remembered(store: &Store) -> Result<(HashSet<String>, HashSet<String>)> {
    let (mut ids, mut texts) = (HashSet::new(), HashSet::new());
    let mut after = 0;
    loop {
        let page = store.items_after(after, BATCH as u32).await?;
        let Some((last, _)) = page.last() else { return Ok((ids, texts)) };
        after = *last;
        for (_, item) in page {
            texts.insert(key(&item.problem));
            ids.insert(item.id);
        }
    }
}

fn items(path: &Path, kind: Kind) -> Result<Vec<MemoryItem>> {
    let of_kind = match kind {
        Kind::Requests => return Ok(Vec::new()),
        Kind::Corpus => return Ok(beir::corpus(path, CorpusAs::Articles)?),
        Kind::Answers => return Ok(beir::corpus(path, CorpusAs::Answers)?),
        Kind::Tickets => MemoryKind::Ticket,
        Kind::Articles => MemoryKind::Article,
    };
    // The first helper's reply too: a large memory matters more here than the best answers.
    let answers = vec![AnswerKind::Approved, AnswerKind::Accepted, AnswerKind::MostHelpful, AnswerKind::FirstHelper];
    let rows = import::open(path, of_kind, ImportOptions { answers, ..ImportOptions::default() })
        .with_context(|| format!("cannot import {}", path.display()))?;
    // What is not taken has no answer worth remembering.
    Ok(rows.filter_map(Result::ok).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_asked_that_is_remembered() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = Store::open(folder.path()).await.expect("new store");
        let material = Material::find(Path::new("no such folder")).expect("samples");
        assert!(material.source.contains("samples only"));
        assert_eq!(material.fill(&store, 40).await.expect("samples"), 40);
        assert_eq!(material.fill(&store, 40).await.expect("nothing to do"), 40);
        assert_eq!(material.fill(&store, 100).await.expect("samples go on"), 100);
        let error = material.fill(&store, 50).await.expect_err("holds more");
        assert!(error.to_string().contains("holds 100 items and 50"), "{error}");

        let rows = material.requests(&store).await.expect("requests");
        let (known, _) = remembered(&store).await.expect("store");
        assert!(rows.len() > 20 && rows.iter().all(|row| !known.contains(&row.id)), "{}", rows.len());
        let again = material.requests(&store).await.expect("requests");
        assert!(rows.iter().zip(&again).all(|(one, other)| one.id == other.id));
        let most = material.fill(&store, 10_000).await.expect("all samples");
        assert!((100..10_000).contains(&most));
    }
}
