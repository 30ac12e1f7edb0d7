//! The question sets that retrieval is measured on: memory items, requests, and which items answer which request.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::bench::BenchError;
use crate::ticket::{Language, MemoryItem, MemoryKind};

/// Threads in the memory of [`similar_tickets`]; more take longer to embed than a figure should.
const SIMILAR_ITEMS: usize = 3_000;
/// A short request has this many words ...
const SHORT_WORDS: usize = 35;
/// ... and no fewer than this: below there is no request left.
const LEAST_WORDS: usize = 8;

/// A set of requests with the memory items that answer them.
pub struct QuestionSet {
    pub name: &'static str,
    pub items: Vec<MemoryItem>,
    pub requests: Vec<Asked>,
}

/// A request and the ids of the items that answer it.
pub struct Asked {
    pub id: String,
    pub language: String,
    pub text: String,
    pub relevant: BTreeSet<String>,
    /// Slices of the report that it counts in.
    pub slices: Vec<String>,
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

/// Paraphrased questions on solved threads: the title is the problem, the first answer the solution.
pub fn stackfaq(data: &Path) -> Result<QuestionSet, BenchError> {
    let folder = data.join("stackfaq");
    let items = rows::<Row>(&folder.join("corpus.jsonl.gz"))?
        .into_iter()
        .map(|row| item(MemoryKind::Ticket, &row.id, "en", [row.title, String::new(), row.text]))
        .collect();
    let requests = requests(&folder, |_| vec!["all".to_owned()])?;
    Ok(QuestionSet { name: "stackfaq", items, requests })
}

/// Which help article the helper cited: real requests, many not in the articles' language. Keeps up to `per_language`
/// requests of each language.
pub fn help_articles(data: &Path, per_language: usize) -> Result<QuestionSet, BenchError> {
    let folder = data.join("sumo-thunderbird-kb");
    let items = rows::<Row>(&folder.join("corpus.jsonl.gz"))?
        .into_iter()
        .map(|row| item(MemoryKind::Article, &row.id, "en", [row.title, row.summary, row.text]))
        .collect();
    let mut requests = requests(&folder, |language| {
        let language = if ["en", "es"].contains(&language) { language } else { "other" };
        vec!["all".to_owned(), language.to_owned()]
    })?;
    sample(&mut requests, per_language);
    Ok(QuestionSet { name: "sumo-thunderbird-kb", items, requests })
}

/// A solved thread of the forum.
#[derive(Deserialize)]
struct Thread {
    id: String,
    answer: Option<String>,
}

/// Which earlier thread the helper pointed to. The memory holds threads with a reply, and the requests are those whose
/// threads all have one; the reply of a thread comes from the set `sumo-thunderbird`.
pub fn similar_tickets(data: &Path) -> Result<QuestionSet, BenchError> {
    let folder = data.join("sumo-thunderbird-similar");
    let answers: HashMap<String, String> = rows::<Thread>(&data.join("sumo-thunderbird/tickets.jsonl.gz"))?
        .into_iter()
        .filter_map(|thread| Some((thread.id, thread.answer.filter(|answer| !answer.trim().is_empty())?)))
        .collect();
    let pairs = pairs(&folder)?;
    let mut asked = requests(&folder, |_| Vec::new())?;
    asked.retain(|asked| asked.relevant.iter().all(|id| answers.contains_key(id)));
    let titles: HashMap<String, String> =
        rows::<Row>(&folder.join("queries.jsonl.gz"))?.into_iter().map(|row| (row.id, row.title)).collect();
    let mut requests = Vec::new();
    for mut asked in asked {
        let pairs = pairs.get(&asked.id).map_or(&[][..], Vec::as_slice);
        asked.slices = vec!["all".to_owned()];
        if pairs.iter().any(|pair| pair.grade == 2) {
            asked.slices.push("grade 2".to_owned());
        }
        if pairs.iter().all(|pair| !pair.same_author) {
            asked.slices.push("other author".to_owned());
        }
        requests.extend(shortened(&asked, titles.get(&asked.id).map_or("", String::as_str)));
        requests.push(asked);
    }
    // The report lists slices as they come up: whole requests before shortened ones.
    requests.sort_by_key(|asked| asked.slices.first().is_some_and(|slice| slice != "all"));

    let linked: BTreeSet<String> = requests.iter().flat_map(|asked| asked.relevant.iter().cloned()).collect();
    let mut corpus = rows::<Row>(&folder.join("corpus.jsonl.gz"))?;
    corpus.sort_by_cached_key(|row| (!linked.contains(&row.id), Sha256::digest(&row.id).to_vec()));
    let items = corpus
        .into_iter()
        .filter_map(|row| {
            let answer = answers.get(&row.id)?.clone();
            let language = row.lang.as_deref().unwrap_or("en");
            Some(item(MemoryKind::Ticket, &row.id, language, [row.title, row.text, answer]))
        })
        .take(SIMILAR_ITEMS)
        .collect();
    Ok(QuestionSet { name: "sumo-thunderbird-similar", items, requests })
}

/// The request as somebody in a hurry would write it in a chat: no subject, few words, no capitals.
fn shortened(asked: &Asked, title: &str) -> Option<Asked> {
    let body = asked.text.strip_prefix(title).unwrap_or(&asked.text);
    let words: Vec<&str> = body.split_whitespace().take(SHORT_WORDS).collect();
    (words.len() >= LEAST_WORDS).then(|| Asked {
        id: asked.id.clone(),
        language: asked.language.clone(),
        text: words.join(" ").to_lowercase(),
        relevant: asked.relevant.clone(),
        slices: asked.slices.iter().map(|slice| format!("short, {slice}")).collect(),
    })
}

struct Pair {
    grade: u8,
    same_author: bool,
}

fn pairs(folder: &Path) -> Result<HashMap<String, Vec<Pair>>, BenchError> {
    let mut pairs: HashMap<String, Vec<Pair>> = HashMap::new();
    for line in text(&folder.join("pairs.tsv"))?.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [request, _, grade, same_author] = fields[..] else { continue };
        let pair = Pair { grade: grade.parse().unwrap_or(0), same_author: same_author == "1" };
        pairs.entry(request.to_owned()).or_default().push(pair);
    }
    Ok(pairs)
}

/// A row of our own samples.
#[derive(Deserialize)]
struct Sample {
    id: String,
    lang: String,
    #[serde(default, alias = "title")]
    subject: String,
    #[serde(default, alias = "summary")]
    body: String,
    #[serde(default, alias = "text")]
    answer: String,
    #[serde(default)]
    relevant: BTreeSet<String>,
}

/// The desk of the demonstration.
pub fn invented_desk() -> Result<QuestionSet, BenchError> {
    let tickets = samples("tickets.jsonl", include_str!("../../samples/tickets.jsonl"))?;
    let articles = samples("articles.jsonl", include_str!("../../samples/articles.jsonl"))?;
    let asked = samples("requests.jsonl", include_str!("../../samples/requests.jsonl"))?;
    let item = |kind| move |row: Sample| item(kind, &row.id, &row.lang, [row.subject, row.body, row.answer]);
    let items = tickets.into_iter().map(item(MemoryKind::Ticket));
    let items = items.chain(articles.into_iter().map(item(MemoryKind::Article))).collect();
    let requests = asked
        .into_iter()
        .filter(|row| !row.relevant.is_empty())
        .map(|row| Asked {
            text: format!("{}\n{}", row.subject, row.body).trim().to_owned(),
            id: row.id,
            relevant: row.relevant,
            slices: vec!["all".to_owned(), row.lang.clone()],
            language: row.lang,
        })
        .collect();
    Ok(QuestionSet { name: "samples", items, requests })
}

fn samples(name: &str, text: &str) -> Result<Vec<Sample>, BenchError> {
    let parsed: Result<Vec<Sample>, _> = text.lines().map(serde_json::from_str).collect();
    parsed.map_err(|error| BenchError::Data { path: format!("samples/{name}"), reason: error.to_string() })
}

/// An item with its title, problem and solution (summary and text of an article).
pub(crate) fn item(kind: MemoryKind, id: &str, language: &str, texts: [String; 3]) -> MemoryItem {
    let [title, problem, solution] = texts;
    MemoryItem {
        id: id.to_owned(),
        kind,
        language: Language::new(language),
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

fn rows<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, BenchError> {
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

fn text(path: &Path) -> Result<String, BenchError> {
    std::fs::read_to_string(path)
        .map_err(|error| BenchError::Data { path: path.display().to_string(), reason: error.to_string() })
}

/// Requests with at least one judged item; `slices` says by their language what they count in.
fn requests(folder: &Path, slices: impl Fn(&str) -> Vec<String>) -> Result<Vec<Asked>, BenchError> {
    let judgements = text(&folder.join("qrels.tsv"))?;
    let mut relevant: HashMap<&str, BTreeSet<String>> = HashMap::new();
    for line in judgements.lines().skip(1) {
        let mut fields = line.split('\t');
        if let (Some(request), Some(item)) = (fields.next(), fields.next()) {
            relevant.entry(request).or_default().insert(item.to_owned());
        }
    }
    let asked = rows::<Row>(&folder.join("queries.jsonl.gz"))?.into_iter().filter_map(|row| {
        let relevant = relevant.get(row.id.as_str())?.clone();
        let language = row.lang.unwrap_or_else(|| "en".to_owned());
        Some(Asked { id: row.id, slices: slices(&language), language, text: row.text, relevant })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(id: &str, text: &str) -> Asked {
        let slices = vec!["all".to_owned()];
        Asked { id: id.into(), language: "en".into(), text: text.into(), relevant: BTreeSet::new(), slices }
    }

    #[test]
    fn samples_are_the_same_every_time() {
        let many = || (0..50).map(|n| asked(&format!("q{n}"), "x")).collect::<Vec<_>>();
        let ids = |mut requests: Vec<Asked>| {
            sample(&mut requests, 7);
            requests.into_iter().map(|asked| asked.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(many()), ids(many().into_iter().rev().collect()));
        assert_eq!(ids(many()).len(), 7);
    }

    #[test]
    fn a_short_request_has_no_subject() {
        let long = asked("q", &format!("Ayuda\nNo Me llega el correo {}", "y nada ".repeat(90)));
        let short = shortened(&long, "Ayuda").expect("long enough");
        assert!(short.text.starts_with("no me llega el correo"));
        assert_eq!(short.text.split(' ').count(), SHORT_WORDS);
        assert_eq!(short.slices, ["short, all"]);
        assert!(shortened(&asked("q", "Ayuda\npor favor"), "Ayuda").is_none());
        assert!(shortened(&asked("q", ""), "").is_none());
    }

    #[test]
    fn the_invented_desk_answers_its_requests() {
        let desk = invented_desk().expect("our own samples");
        let known: BTreeSet<&str> = desk.items.iter().map(|item| item.id.as_str()).collect();
        assert!(desk.requests.iter().all(|asked| asked.relevant.iter().all(|id| known.contains(id.as_str()))));
        assert!(desk.requests.len() > 10 && desk.items.iter().all(|item| !item.solution.is_empty()));
    }
}
