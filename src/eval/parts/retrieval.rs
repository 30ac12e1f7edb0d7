//! Is what answers the request found? Ranked as the service ranks: all legs, its fusion, duplicates folded.

use std::collections::HashSet;
use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;

use super::{Context, Key, Runner, digest};
use crate::embed::Role;
use crate::eval::EvalError;
use crate::eval::data::beir::Query;
use crate::eval::data::{Identified, beir, drawn, rows};
use crate::eval::desk::{Desk, check_distinct, read_memory};
use crate::eval::record::{CaseRecord, DataNote, MemoryNote, ShownEvidence};
use crate::eval::suite::{Format, Part};
use crate::eval::{figures, ranking, shown};
use crate::retrieve::{Filter, SearchQuery};
use crate::ticket::{MemoryItem, MemoryKind, Retrieved};

/// Items ranked: what recall@20 looks at, and room for MAP.
const DEPTH: usize = 50;
/// Candidates of each leg, as in the service.
const CANDIDATES: usize = 100;

pub struct Retrieval {
    desk: Desk,
    queries: Vec<Query>,
    /// Of the queries, in order.
    vectors: Vec<Vec<f32>>,
    /// What is ranked, where the memory holds more than the judged corpus.
    kind: Option<MemoryKind>,
    data: DataNote,
}

/// A request of our samples.
#[derive(Debug, Deserialize)]
struct Sample {
    id: String,
    lang: String,
    #[serde(default)]
    subject: String,
    #[serde(default)]
    body: String,
    #[serde(default)]
    relevant: Vec<String>,
}

impl Identified for Sample {
    fn id(&self) -> &str {
        &self.id
    }
    fn language(&self) -> &str {
        &self.lang
    }
}

/// Reads requests and memory, and embeds them.
///
/// # Errors
/// When the data is missing or wrong, or the models fail.
pub async fn prepare(context: &Context<'_>, part: &Part) -> Result<Retrieval, EvalError> {
    let path = context.suite.path(&part.data.path);
    let mut kind = None;
    let (mut items, queries, corpus, mut notes) = if part.data.format == Format::Requests {
        let items = read_memory(context, &part.memory)?;
        let corpus = digest(&items.iter().map(|item| item.id.as_str()).collect::<Vec<_>>());
        let queries = requests(&path)?;
        check_known(&path, &queries, &items)?;
        (items, queries, corpus, Vec::new())
    } else {
        let set = beir::read(&path, part.data.corpus)?;
        (set.items, set.queries, set.corpus, set.notes)
    };
    if part.data.format == Format::Beir && !part.memory.is_empty() {
        // Nobody judged these: they are not ranked, but what their replies link to counts.
        kind = items.first().map(|item| item.kind);
        items.extend(read_memory(context, &part.memory)?);
        check_distinct(context, &items)?;
    }
    let (queries, mut data) = drawn(context.suite, part, queries);
    let cases: Vec<(String, String)> = queries.iter().map(|q| (q.id.clone(), q.text.clone())).collect();
    let known: Vec<&str> = items.iter().map(|item| item.id.as_str()).collect();
    let twins = queries.iter().filter(|query| known.contains(&query.id.as_str())).count();
    if twins > 0 {
        notes.push(format!("{twins} requests are in the corpus themselves; each is left out of its own ranking"));
    }
    // The corpus stays whole then, since every request is judged on the same one; see the filter in `query`.
    let outside: Vec<(String, String)> = if twins > 0 { Vec::new() } else { cases.clone() };
    let mut desk = Desk::open(context, part, items, &outside).await?;
    if twins > 0 {
        desk.note.separation =
            format!("each request is excluded by id from its own ranking ({twins} are in the corpus)");
    }
    let texts: Vec<String> = queries.iter().map(|query| query.text.clone()).collect();
    let label = format!("{}: requests", part.name);
    let vectors = context.vectors.of(&texts, Role::Query, |done| (context.progress)(&label, done, texts.len())).await?;
    data.cases = digest(&cases.iter().flat_map(|(id, text)| [id.as_str(), text]).collect::<Vec<_>>());
    data.corpus = Some(corpus);
    data.notes = notes;
    Ok(Retrieval { desk, queries, vectors, kind, data })
}

/// Requests with the ids of what answers them; one without any is no case here.
fn requests(path: &Path) -> Result<Vec<Query>, EvalError> {
    let samples: Vec<Sample> = rows(path)?;
    let asked = samples.into_iter().filter(|sample| !sample.relevant.is_empty());
    Ok(asked
        .map(|sample| Query {
            text: format!("{}\n{}", sample.subject, sample.body).trim().to_owned(),
            relevant: sample.relevant.into_iter().map(|id| (id, 1)).collect(),
            id: sample.id,
            language: sample.lang,
            slices: Vec::new(),
        })
        .collect())
}

/// What is relevant must be there to be found.
fn check_known(path: &Path, queries: &[Query], items: &[MemoryItem]) -> Result<(), EvalError> {
    let known: HashSet<&str> = items.iter().map(|item| item.id.as_str()).collect();
    for query in queries {
        if let Some(unknown) = query.relevant.keys().find(|id| !known.contains(id.as_str())) {
            let reason = format!("request `{}` names `{unknown}`, which is not in the part's memory", query.id);
            return Err(EvalError::data(path, reason));
        }
    }
    Ok(())
}

impl Retrieval {
    async fn search(&self, query: &Query, vector: Vec<f32>) -> anyhow::Result<Vec<Retrieved>> {
        let search = SearchQuery {
            vector,
            text: query.text.clone(),
            language: query.language.clone(),
            // Some requests are in the corpus themselves; finding those is no feat.
            filter: Filter { exclude: vec![query.id.clone()], kind: self.kind, ..Filter::default() },
            limit: CANDIDATES,
        };
        self.desk.pipeline.search(search, DEPTH).await
    }
}

impl Runner for Retrieval {
    fn data(&self) -> DataNote {
        self.data.clone()
    }

    fn memory(&self) -> Option<MemoryNote> {
        Some(self.desk.note.clone())
    }

    fn cases(&self) -> Vec<Key> {
        let key = |query: &Query| {
            let relevant: Vec<String> = query.relevant.iter().map(|(id, grade)| format!("{id} {grade}")).collect();
            let digest = digest(&[&query.id, &query.text, &query.language, &relevant.join("\n")]);
            Key { id: query.id.clone(), digest }
        };
        self.queries.iter().map(key).collect()
    }

    fn scope(&self) -> String {
        DEPTH.to_string()
    }

    async fn run(&mut self, at: usize) -> Result<CaseRecord, EvalError> {
        let query = self.queries.get(at).context("no such case")?;
        let vector = self.vectors.get(at).cloned().context("no such case")?;
        let found = self.search(query, vector).await?;
        Ok(record(query, &found))
    }
}

fn record(query: &Query, found: &[Retrieved]) -> CaseRecord {
    let ids: Vec<String> = found.iter().map(|found| found.item.id.clone()).collect();
    let measures = ranking::measures(&ids, &query.relevant);
    let values = figures::RANKING.iter().zip(measures).map(|((name, _), value)| ((*name).to_owned(), value)).collect();
    let titles = |id: &String| {
        let place = ids.iter().position(|other| other == id);
        place.map_or(format!("{id}: not among the first {DEPTH}"), |place| format!("{id}: place {}", place + 1))
    };
    let marked = |item: ShownEvidence| {
        let relevant = Some(query.relevant.contains_key(&item.id));
        ShownEvidence { relevant, ..item }
    };
    CaseRecord {
        id: query.id.clone(),
        language: query.language.clone(),
        slices: query.slices.clone(),
        message: query.text.clone(),
        values,
        failures: failure(&ids, query).map(str::to_owned).into_iter().collect(),
        badness: 1.0 - measures[0],
        evidence: shown::evidence(found).into_iter().map(marked).collect(),
        reference: Some(query.relevant.keys().map(titles).collect::<Vec<_>>().join("\n")),
        ranking: found.iter().map(|found| (found.item.id.clone(), f64::from(found.score))).collect(),
        relevant: query.relevant.iter().map(|(id, grade)| (id.clone(), *grade)).collect(),
        ..CaseRecord::default()
    }
}

/// How the ranking fails the request, in the order of what it costs.
fn failure(ids: &[String], query: &Query) -> Option<&'static str> {
    let first = ids.iter().position(|id| query.relevant.contains_key(id));
    match first {
        None => Some("nothing relevant found"),
        Some(place) if place >= 10 => Some("relevant only behind the first ten"),
        Some(place) if place >= 3 => Some("relevant only behind the first three"),
        Some(_) => None,
    }
}
