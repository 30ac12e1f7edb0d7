//! Measures retrieval on public question sets: `respondo bench retrieval`.
//!
//! Requests of each set are split by a hash of their id into two halves. Weights are chosen on the tuning half; the
//! report half checks them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Instant;

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::fuse::{Fusion, Weights, fuse};
use super::memory::MemoryStore;
use super::metrics::{Estimate, bootstrap_mean, ndcg, recall, reciprocal_rank};
use super::retriever::best_passages;
use super::{Filter, MemoryPoint, RetrieveError, SearchQuery, VectorStore, plan_points};
use crate::embed::{EmbedError, Embedder, Role};
use crate::ticket::{Language, MemoryItem, MemoryKind};

const CUTOFF: usize = 10;
/// Points that each leg gives; what the service uses too.
const LEG_LIMIT: usize = 100;
const EMBED_BATCH: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("cannot read {path}: {reason}; name the folder of the question sets with --data")]
    Data { path: String, reason: String },
    #[error(transparent)]
    Embed(#[from] EmbedError),
    #[error(transparent)]
    Retrieve(#[from] RetrieveError),
}

/// A set of requests with the memory items that answer them.
struct QuestionSet {
    name: &'static str,
    items: Vec<MemoryItem>,
    requests: Vec<Asked>,
}

struct Asked {
    id: String,
    language: String,
    text: String,
    relevant: BTreeSet<String>,
}

/// A row of a corpus or of its requests.
#[derive(Deserialize)]
struct Row {
    #[serde(rename = "_id")]
    id: String,
    #[serde(default)]
    title: String,
    text: String,
    #[serde(default)]
    summary: String,
    lang: Option<String>,
}

/// Figures of one slice of one set.
#[derive(Clone, Debug)]
pub struct Line {
    pub set: &'static str,
    /// `all`, `en`, `es` or `other`, with the half: `en, report half`.
    pub slice: String,
    pub requests: usize,
    /// nDCG@10, reciprocal rank and recall, each at 10, per method in the order of [`METHODS`].
    pub figures: Vec<[Estimate; 3]>,
}

/// Names of the columns.
pub const METHODS: [&str; 4] = ["BM25", "dense", "RRF", "chosen"];
const MEASURES: [&str; 3] = ["nDCG@10", "MRR@10", "recall@10"];

fn fusions() -> [Fusion; 4] {
    [Fusion::Lexical, Fusion::Dense, Fusion::Rrf, Fusion::Weighted(Weights::default())]
}

#[derive(Clone, Debug, Default)]
pub struct Report {
    pub model: String,
    pub lines: Vec<Line>,
    pub speed: Option<Speed>,
}

/// Time of a search on a memory of `points` points, milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    pub points: usize,
    pub load_seconds: f64,
    pub p50_ms: f64,
    pub p95_ms: f64,
}

/// Measures all sets under `data`. `per_language` caps the requests of each language on the help articles, whose texts
/// are long and take minutes; the same ones are taken every time. `progress` is told what happens.
pub fn evaluate(
    data: &Path,
    embedder: &mut dyn Embedder,
    per_language: Option<usize>,
    progress: &mut dyn FnMut(&str),
) -> Result<Report, BenchError> {
    let mut report = Report { model: embedder.name().to_owned(), ..Report::default() };
    let mut articles = help_articles(data)?;
    sample(&mut articles.requests, per_language.unwrap_or(usize::MAX));
    for set in [stackfaq(data)?, articles] {
        progress(&format!("{}: {} items, {} requests", set.name, set.items.len(), set.requests.len()));
        let store = indexed(&set.items, embedder)?;
        let scores = scored(&set, &store, embedder, progress)?;
        report.lines.extend(lines(&set, &scores));
    }
    Ok(report)
}

/// Paraphrased questions on solved threads: the title is the problem, the first answer the solution.
fn stackfaq(data: &Path) -> Result<QuestionSet, BenchError> {
    let folder = data.join("stackfaq");
    let items = rows(&folder.join("corpus.jsonl.gz"))?
        .into_iter()
        .map(|row| item(MemoryKind::Ticket, row.id, row.title, String::new(), row.text))
        .collect();
    Ok(QuestionSet { name: "stackfaq", items, requests: requests(&folder)? })
}

/// Which help article the helper cited: real requests, many not in the articles' language.
fn help_articles(data: &Path) -> Result<QuestionSet, BenchError> {
    let folder = data.join("sumo-thunderbird-kb");
    let items = rows(&folder.join("corpus.jsonl.gz"))?
        .into_iter()
        .map(|row| item(MemoryKind::Article, row.id, row.title, row.summary, row.text))
        .collect();
    Ok(QuestionSet { name: "sumo-thunderbird-kb", items, requests: requests(&folder)? })
}

fn item(kind: MemoryKind, id: String, title: String, problem: String, solution: String) -> MemoryItem {
    MemoryItem {
        id,
        kind,
        language: Language::EN,
        product: None,
        queue: None,
        title,
        problem,
        solution,
        answer_kind: None,
        url: None,
        resolved_hours: None,
        created_at: None,
    }
}

fn rows(path: &Path) -> Result<Vec<Row>, BenchError> {
    let failed = |reason: String| BenchError::Data { path: path.display().to_string(), reason };
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    BufReader::new(MultiGzDecoder::new(file))
        .lines()
        .map(|line| {
            let line = line.map_err(|error| failed(error.to_string()))?;
            serde_json::from_str(&line).map_err(|error| failed(error.to_string()))
        })
        .collect()
}

fn requests(folder: &Path) -> Result<Vec<Asked>, BenchError> {
    let path: PathBuf = folder.join("qrels.tsv");
    let judgements = std::fs::read_to_string(&path)
        .map_err(|error| BenchError::Data { path: path.display().to_string(), reason: error.to_string() })?;
    let mut relevant: HashMap<&str, BTreeSet<String>> = HashMap::new();
    for line in judgements.lines().skip(1) {
        let mut fields = line.split('\t');
        if let (Some(request), Some(item)) = (fields.next(), fields.next()) {
            relevant.entry(request).or_default().insert(item.to_owned());
        }
    }
    let asked = rows(&folder.join("queries.jsonl.gz"))?.into_iter().filter_map(|row| {
        let relevant = relevant.get(row.id.as_str())?.clone();
        let language = row.lang.unwrap_or_else(|| "en".to_owned());
        Some(Asked { id: row.id, language, text: row.text, relevant })
    });
    Ok(asked.collect())
}

/// Keeps up to `per_language` requests of each language: those with the smallest hash.
fn sample(requests: &mut Vec<Asked>, per_language: usize) {
    requests.sort_by_cached_key(|asked| Sha256::digest(&asked.id).to_vec());
    let mut taken: HashMap<String, usize> = HashMap::new();
    requests.retain(|asked| {
        let count = taken.entry(asked.language.clone()).or_default();
        *count += 1;
        *count <= per_language
    });
}

fn is_tuning(id: &str) -> bool {
    Sha256::digest(id).first().is_some_and(|byte| byte % 2 == 0)
}

fn indexed(items: &[MemoryItem], embedder: &mut dyn Embedder) -> Result<MemoryStore, BenchError> {
    let store = MemoryStore::new(embedder.dimensions());
    for item in items {
        let plans = plan_points(item);
        let Some(first) = plans.first() else { continue };
        let problem = embedder.embed(&[&first.problem_text], Role::Passage)?.remove(0);
        let texts: Vec<&str> = plans.iter().map(|plan| plan.solution_text.as_str()).collect();
        let solutions = embedder.embed(&texts, Role::Passage)?;
        let points: Vec<MemoryPoint> = plans
            .into_iter()
            .zip(solutions)
            .map(|(plan, solution)| plan.into_point(item, problem.clone(), solution))
            .collect();
        store.upsert(&points)?;
    }
    Ok(store)
}

/// Per request and method: nDCG, reciprocal rank, recall.
type Scores = Vec<Vec<[f64; 3]>>;

fn scored(
    set: &QuestionSet,
    store: &MemoryStore,
    embedder: &mut dyn Embedder,
    progress: &mut dyn FnMut(&str),
) -> Result<Scores, BenchError> {
    let mut scores = Vec::with_capacity(set.requests.len());
    for batch in set.requests.chunks(EMBED_BATCH) {
        let texts: Vec<&str> = batch.iter().map(|asked| asked.text.as_str()).collect();
        let vectors = embedder.embed(&texts, Role::Query)?;
        for (asked, vector) in batch.iter().zip(vectors) {
            scores.push(score(asked, vector, store)?);
        }
        progress(&format!("{}: {} of {}", set.name, scores.len(), set.requests.len()));
    }
    Ok(scores)
}

fn score(asked: &Asked, vector: Vec<f32>, store: &MemoryStore) -> Result<Vec<[f64; 3]>, BenchError> {
    let (text, language) = (asked.text.clone(), asked.language.clone());
    let legs = store.search(&SearchQuery { vector, text, language, filter: Filter::default(), limit: LEG_LIMIT })?;
    let figures = fusions().into_iter().map(|fusion| {
        let ranked = best_passages(fuse(&legs, &asked.language, fusion));
        let ids: Vec<String> = ranked.into_iter().map(|ranked| ranked.memory_id).collect();
        [
            ndcg(&ids, &asked.relevant, CUTOFF),
            reciprocal_rank(&ids, &asked.relevant, CUTOFF),
            recall(&ids, &asked.relevant, CUTOFF),
        ]
    });
    Ok(figures.collect())
}

fn lines(set: &QuestionSet, scores: &Scores) -> Vec<Line> {
    let mut slices: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (number, asked) in set.requests.iter().enumerate() {
        let half = if is_tuning(&asked.id) { "tuning half" } else { "report half" };
        let language = if ["en", "es"].contains(&asked.language.as_str()) { &asked.language } else { "other" };
        for (slice, part) in [("all", None), (language, None), ("all", Some(half)), (language, Some(half))] {
            let name = part.map_or_else(|| slice.to_owned(), |part| format!("{slice}, {part}"));
            slices.entry(name).or_default().push(number);
        }
    }
    let only_english = set.requests.iter().all(|asked| asked.language == "en");
    slices
        .into_iter()
        .filter(|(slice, _)| !only_english || slice.starts_with("all"))
        .map(|(slice, members)| Line {
            set: set.name,
            slice,
            requests: members.len(),
            figures: figures(&members, scores),
        })
        .collect()
}

fn figures(members: &[usize], scores: &Scores) -> Vec<[Estimate; 3]> {
    let values = |method: usize, measure: usize| -> Vec<f64> {
        members.iter().filter_map(|member| scores.get(*member)?.get(method)?.get(measure).copied()).collect()
    };
    (0..METHODS.len()).map(|method| std::array::from_fn(|measure| bootstrap_mean(&values(method, measure)))).collect()
}

/// Fills `store` with `points` made-up points and times `searches` searches (100 points a leg, a 12-word request). Vectors
/// are random; the words follow Zipf's law, as real ones do.
pub fn measure_speed(
    store: &dyn VectorStore,
    dimensions: usize,
    points: usize,
    searches: usize,
) -> Result<Speed, RetrieveError> {
    let mut random = fastrand::Rng::with_seed(11);
    let started = Instant::now();
    for first in (0..points).step_by(512) {
        let numbers = first..(first + 512).min(points);
        let batch: Vec<MemoryPoint> = numbers.map(|number| made_up(number, dimensions, &mut random)).collect();
        store.upsert(&batch)?;
    }
    store.checkpoint()?;
    let load_seconds = started.elapsed().as_secs_f64();

    let mut times = Vec::with_capacity(searches);
    for _ in 0..searches {
        let query = SearchQuery {
            vector: unit_vector(dimensions, &mut random),
            text: words(12, &mut random),
            language: "en".to_owned(),
            filter: Filter::default(),
            limit: LEG_LIMIT,
        };
        let started = Instant::now();
        let legs = store.search(&query)?;
        let _ranked = best_passages(fuse(&legs, "en", Fusion::Weighted(Weights::default())));
        times.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    let quantile = |share: f64| times.get((share * times.len() as f64) as usize).copied().unwrap_or_default();
    Ok(Speed { points, load_seconds, p50_ms: quantile(0.5), p95_ms: quantile(0.95) })
}

fn made_up(number: usize, dimensions: usize, random: &mut fastrand::Rng) -> MemoryPoint {
    MemoryPoint {
        id: Uuid::from_u128(number as u128),
        memory_id: format!("made-up-{number}"),
        kind: MemoryKind::Ticket,
        product: Some(["mail", "web", "domains"][number % 3].to_owned()),
        language: ["en", "es"][number % 2].to_owned(),
        problem: unit_vector(dimensions, random),
        solution: unit_vector(dimensions, random),
        problem_text: words(60, random),
        solution_text: words(80, random),
        passage: 0,
    }
}

fn unit_vector(dimensions: usize, random: &mut fastrand::Rng) -> Vec<f32> {
    let raw: Vec<f32> = (0..dimensions).map(|_| random.f32() - 0.5).collect();
    let norm = raw.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    raw.iter().map(|x| x / norm).collect()
}

fn words(count: usize, random: &mut fastrand::Rng) -> String {
    // The logarithm of a Zipfian rank is uniform.
    let word = |random: &mut fastrand::Rng| format!("w{}", (random.f64() * 30_000f64.ln()).exp() as u32);
    (0..count).map(|_| word(random)).collect::<Vec<_>>().join(" ")
}

impl Report {
    /// Tables in Markdown with 95 % intervals; `command` is what the reader runs to get them again.
    pub fn to_markdown(&self, command: &str) -> String {
        let weights = Weights::default();
        let mut text = format!(
            "# Retrieval, measured\n\nMade by `{command}` with `{}`. Mean [95 % bootstrap interval, 1,000 resamples].\n\n\
             BM25, dense (weighted cosines), reciprocal rank fusion of the three legs (k = 60), and what the service \
             uses: `cosines + w * bm25 / (bm25 + {})`, w = {} in the memory's language and {} across languages; cosines \
             are problem and solution {:.1} : {:.1} for tickets, title and passage {:.1} : {:.1} for articles, an \
             article counts by its best passage. Weights were picked by the tuning halves (split by a hash of the \
             request's id) after a look at all of these development requests: the report halves are a check, not a \
             blind test.\n",
            self.model,
            weights.lexical_half,
            weights.lexical,
            weights.lexical_across,
            1.0 - weights.ticket_solution,
            weights.ticket_solution,
            1.0 - weights.article_passage,
            weights.article_passage,
        );
        for (measure, name) in MEASURES.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n## {name}\n\n| set | slice | requests | {} |\n|---|---|---|", METHODS.join(" | "));
            text.push_str(&"---|".repeat(METHODS.len()));
            text.push('\n');
            for line in &self.lines {
                let _ = write!(text, "| {} | {} | {} |", line.set, line.slice, line.requests);
                for estimate in line.figures.iter().filter_map(|figures| figures.get(measure)) {
                    let _ = write!(text, " {:.3} [{:.3}, {:.3}] |", estimate.mean, estimate.low, estimate.high);
                }
                text.push('\n');
            }
        }
        if let Some(speed) = self.speed {
            let _ = write!(
                text,
                "\n## Speed\n\n{} made-up points, 100 hits a leg, fused: p50 {:.1} ms, p95 {:.1} ms; loading {:.1} s.\n",
                speed.points, speed.p50_ms, speed.p95_ms, speed.load_seconds
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns a text into a direction by its words, so that equal words mean equal texts.
    struct WordEmbedder;

    impl Embedder for WordEmbedder {
        fn name(&self) -> &str {
            "words"
        }
        fn dimensions(&self) -> usize {
            64
        }
        fn embed(&mut self, texts: &[&str], _role: Role) -> Result<Vec<Vec<f32>>, EmbedError> {
            let embedded = texts.iter().map(|text| {
                let mut vector = vec![0.01; 64];
                for word in text.split_whitespace() {
                    let slot = word.bytes().fold(7usize, |hash, byte| hash * 31 % 1009 + usize::from(byte)) % 64;
                    vector[slot] += 1.0;
                }
                vector
            });
            Ok(embedded.collect())
        }
    }

    fn asked(id: &str, language: &str, text: &str, relevant: &str) -> Asked {
        let relevant = [relevant.to_owned()].into();
        Asked { id: id.into(), language: language.into(), text: text.into(), relevant }
    }

    #[test]
    fn a_small_set_is_scored_and_printed() {
        let solved = |id: &str, title: &str, answer: &str| {
            item(MemoryKind::Ticket, id.into(), title.into(), String::new(), answer.into())
        };
        let set = QuestionSet {
            name: "own",
            items: vec![
                solved("a", "invoice missing", "open the billing page"),
                solved("b", "stream stutters", "lower the bitrate"),
            ],
            requests: vec![
                asked("q1", "en", "my invoice is missing", "a"),
                asked("q2", "es", "the stream stutters", "b"),
                asked("q3", "it", "nothing known here", "zzz"),
            ],
        };
        let store = indexed(&set.items, &mut WordEmbedder).expect("indexed");
        let scores = scored(&set, &store, &mut WordEmbedder, &mut |_| {}).expect("scored");
        assert!(scores[0].iter().all(|method| method[0] == 1.0), "{scores:?}");
        assert!(scores[2].iter().all(|method| method[0] == 0.0));
        let report = Report { model: "words".into(), lines: lines(&set, &scores), speed: None };
        assert!(report.lines.iter().any(|line| line.slice == "es" && line.requests == 1));
        let text = report.to_markdown("respondo bench retrieval");
        assert!(text.contains("| own | en | 1 | 1.000 [1.000, 1.000] |"), "{text}");
    }

    #[test]
    fn samples_are_the_same_every_time() {
        let many = || (0..50).map(|n| asked(&format!("q{n}"), "en", "x", "a")).collect::<Vec<_>>();
        let ids = |mut requests: Vec<Asked>| {
            sample(&mut requests, 7);
            requests.into_iter().map(|asked| asked.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(many()), ids(many().into_iter().rev().collect()));
        assert_eq!(ids(many()).len(), 7);
    }

    #[test]
    fn speed_is_measured_and_missing_data_is_named() {
        let store = MemoryStore::new(16);
        let speed = measure_speed(&store, 16, 700, 5).expect("speed");
        assert_eq!(store.count().expect("count"), 700);
        assert!(speed.p95_ms >= speed.p50_ms);
        let missing = evaluate(Path::new("/no/such/folder"), &mut WordEmbedder, None, &mut |_| {});
        assert!(missing.expect_err("no data").to_string().contains("/no/such/folder"));
    }
}
