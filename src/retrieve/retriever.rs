//! From a request to the memory items worth reading: search, fuse, one entry per item, no duplicates.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use super::bm25::fold;
use super::fuse::{self, Fused, Fusion, Weights, fuse};
use super::{Citations, Filter, Legs, RetrieveError, SearchQuery, VectorStore};
use crate::ticket::{MemoryKind, Retrieved};

/// A memory item as ranked for one request; its texts are in the ticket store.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    pub memory_id: String,
    /// The passage that matched best, 0 for tickets; see [`super::passage_text`].
    pub passage: usize,
    /// Orders the list, comparable within one request only.
    pub score: f32,
    /// Cosine to the problem (tickets) or the passage (articles).
    pub similarity: f32,
    /// BM25 score, 0 when no word matched.
    pub lexical: f32,
}

/// Searches a store and makes one list of its answers. Cheap to clone and share.
#[derive(Clone)]
pub struct Retriever {
    store: Arc<dyn VectorStore>,
    fusion: Fusion,
    citations: Arc<Citations>,
}

/// A neighbour's vote falls by e with every such step that its score is below the best one's; about the standard deviation
/// of the scores of one request's hits.
const VOTE_WIDTH: f32 = 0.03;
/// Items looked up that similar tickets link to and that the search itself did not find ...
const MOST_LOOKED_UP: usize = 8;
/// ... where their share is at least this: with less they would not get far up, and a search is not free.
const LEAST_LOOKED_UP: f32 = 0.01;

impl Retriever {
    pub fn new(store: Arc<dyn VectorStore>) -> Self {
        Self::with_fusion(store, Fusion::Weighted(Weights::default()))
    }

    /// With another fusion, to measure it.
    pub fn with_fusion(store: Arc<dyn VectorStore>, fusion: Fusion) -> Self {
        Self { store, fusion, citations: Arc::default() }
    }

    /// With what the memory's replies link to. It may be learnt while searches run.
    #[must_use]
    pub fn with_citations(self, citations: Arc<Citations>) -> Self {
        Self { citations, ..self }
    }

    /// What the memory's replies link to, as far as it is learnt.
    pub fn citations(&self) -> &Arc<Citations> {
        &self.citations
    }

    /// Memory items, best first, each once with its best passage. `query.limit` is what each leg looks at in each
    /// language; ask for several times what you show (100 for 10), and cut the list after [`fold_duplicates`].
    ///
    /// Where articles alone are asked for, those rise that the replies to similar tickets link to. In a list with the
    /// tickets themselves the same links push better tickets down (`docs/EVALUATION.md`), so they do not count there.
    pub fn rank(&self, query: &SearchQuery) -> Result<Vec<Ranked>, RetrieveError> {
        let mut legs = self.store.search(query)?;
        let mut fused = fuse(&legs, self.fusion);
        if let Fusion::Weighted(weights) = self.fusion
            && weights.citations > 0.0
            && query.filter.kind == Some(MemoryKind::Article)
            && !self.citations.is_empty()
        {
            let shares = self.shares(query)?;
            if self.look_up(query, &fused, &shares, &mut legs)? {
                fused = fuse(&legs, self.fusion);
            }
            for point in &mut fused {
                point.score += weights.cited(shares.get(&point.memory_id).copied().unwrap_or(0.0));
            }
            fuse::sort(&mut fused);
        }
        Ok(best_passages(fused))
    }

    /// What the replies to similar tickets link to; the tickets are searched for it.
    fn shares(&self, query: &SearchQuery) -> Result<HashMap<String, f32>, RetrieveError> {
        // Tickets of any language may link to an article in the wanted one.
        let filter =
            Filter { kind: Some(MemoryKind::Ticket), languages: Vec::new(), only: Vec::new(), ..query.filter.clone() };
        let tickets = fuse(&self.store.search(&SearchQuery { filter, ..query.clone() })?, self.fusion);
        let neighbours: Vec<(&str, f32)> =
            tickets.iter().map(|point| (point.memory_id.as_str(), point.score)).collect();
        Ok(self.citations.shares(&neighbours, VOTE_WIDTH))
    }

    /// Adds to the legs the items with the largest shares that are not among the found ones; whether there are any.
    fn look_up(
        &self,
        query: &SearchQuery,
        found: &[Fused],
        shares: &HashMap<String, f32>,
        legs: &mut Legs,
    ) -> Result<bool, RetrieveError> {
        let Filter { only, exclude, .. } = &query.filter;
        let known: HashSet<&str> = found.iter().map(|point| point.memory_id.as_str()).collect();
        let names = |list: &[String], id: &str| list.iter().any(|other| other == id);
        let is_wanted = |id: &str| (only.is_empty() || names(only, id)) && !names(exclude, id) && !known.contains(id);
        let mut missing: Vec<(&String, f32)> =
            shares.iter().map(|(id, share)| (id, *share)).filter(|(_, share)| *share >= LEAST_LOOKED_UP).collect();
        missing.retain(|(id, _)| is_wanted(id));
        if missing.is_empty() {
            return Ok(false);
        }
        missing.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        let only = missing.into_iter().take(MOST_LOOKED_UP).map(|(id, _)| id.clone()).collect();
        let named = SearchQuery { filter: Filter { only, ..query.filter.clone() }, ..query.clone() };
        let more = self.store.search(&named)?;
        // Only the weighted sum is ever asked for here: it reads scores, not places.
        legs.problem.extend(more.problem);
        legs.solution.extend(more.solution);
        legs.lexical.extend(more.lexical);
        Ok(true)
    }
}

/// Keeps the first, that is best, passage of each memory item.
pub(super) fn best_passages(fused: Vec<Fused>) -> Vec<Ranked> {
    let mut seen = HashSet::new();
    fused
        .into_iter()
        .filter(|point| seen.insert(point.memory_id.clone()))
        .map(|point| Ranked {
            memory_id: point.memory_id,
            passage: point.passage,
            score: point.score,
            similarity: point.similarity,
            lexical: point.lexical,
        })
        .collect()
}

/// Two items whose words overlap that much (Jaccard index) say the same.
const NEAR_IDENTICAL: f32 = 0.9;
/// Shorter texts overlap by chance; only whole equality folds them.
const MIN_WORDS_TO_COMPARE: usize = 8;
/// Enough words to tell two texts apart; keeps huge articles cheap.
const WORDS_COMPARED: usize = 600;

/// Drops items that say what a better one already said: the same solution word for word, or nearly the same problem
/// and solution. Expects the list best first and keeps its order.
pub fn fold_duplicates(items: Vec<Retrieved>) -> Vec<Retrieved> {
    let mut kept: Vec<Retrieved> = Vec::new();
    let mut prints: Vec<Print> = Vec::new();
    for found in items {
        let print = Print::of(&found);
        if prints.iter().any(|better| better.says_the_same(&print)) {
            continue;
        }
        prints.push(print);
        kept.push(found);
    }
    kept
}

/// What two items are compared by.
struct Print {
    /// Hashes of the words of the solution in order; empty when there is none.
    solution: Vec<u64>,
    /// Hashes of the distinct words of title, problem and solution, ascending.
    words: Vec<u64>,
}

impl Print {
    fn of(found: &Retrieved) -> Self {
        let item = &found.item;
        let solution = words(&item.solution);
        let mut distinct = words(&item.title);
        distinct.extend(words(&item.problem));
        distinct.extend(&solution);
        distinct.sort_unstable();
        distinct.dedup();
        Self { solution, words: distinct }
    }

    fn says_the_same(&self, other: &Self) -> bool {
        if !self.solution.is_empty() && self.solution == other.solution {
            return true;
        }
        let (fewer, more) = (self.words.len().min(other.words.len()), self.words.len().max(other.words.len()));
        // Sets of such unequal sizes cannot share enough: spares counting for nearly every pair.
        if fewer < MIN_WORDS_TO_COMPARE || (fewer as f32) < NEAR_IDENTICAL * more as f32 {
            return false;
        }
        let shared = shared(&self.words, &other.words);
        shared as f32 / (fewer + more - shared) as f32 >= NEAR_IDENTICAL
    }
}

/// How many values two ascending lists have in common.
fn shared(one: &[u64], other: &[u64]) -> usize {
    let (mut here, mut there, mut count) = (0, 0, 0);
    while let (Some(a), Some(b)) = (one.get(here), other.get(there)) {
        match a.cmp(b) {
            Ordering::Less => here += 1,
            Ordering::Greater => there += 1,
            Ordering::Equal => {
                count += 1;
                here += 1;
                there += 1;
            }
        }
    }
    count
}

fn words(text: &str) -> Vec<u64> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).take(WORDS_COMPARED);
    words.map(|word| BuildHasherDefault::<DefaultHasher>::default().hash_one(fold(word))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retrieve::memory::MemoryStore;
    use crate::retrieve::{Filter, MemoryPoint, plan_points};
    use crate::ticket::{Language, MemoryItem, MemoryKind};

    fn item(id: &str, kind: MemoryKind, problem: &str, solution: &str) -> MemoryItem {
        MemoryItem {
            id: id.into(),
            kind,
            language: Language::ES,
            product: None,
            queue: None,
            title: String::new(),
            problem: problem.into(),
            solution: solution.into(),
            answer_kind: None,
            url: None,
            resolved_hours: None,
            created_at: None,
        }
    }

    fn found(id: &str, problem: &str, solution: &str) -> Retrieved {
        let item = item(id, MemoryKind::Ticket, problem, solution);
        Retrieved { item, passage: solution.into(), score: 0.0, similarity: 0.0, lexical: 0.0 }
    }

    fn ids(items: &[Retrieved]) -> Vec<&str> {
        items.iter().map(|found| found.item.id.as_str()).collect()
    }

    #[test]
    fn repeated_solutions_are_folded_and_the_best_stays() {
        let long = "El buzón está lleno y por eso no entra ningún correo nuevo desde ayer por la mañana en mi cuenta";
        let list = vec![
            found("t1", "no me llega nada", "Borre los mensajes viejos."),
            found("t2", "nada llega", "borre los mensajes VIEJOS"),
            found("t3", long, "Amplíe la cuota en el panel"),
            found("t4", &format!("{long} hola"), "Amplíe la cuota en el panel."),
            found("t5", "otra cosa", "Reinicie."),
            found("t6", "", ""),
            found("t7", "", ""),
        ];
        assert_eq!(ids(&fold_duplicates(list)), ["t1", "t3", "t5", "t6", "t7"]);
        assert!(fold_duplicates(vec![]).is_empty());
    }

    #[test]
    fn an_article_is_listed_once_with_its_best_passage() {
        let paragraph = |word: &str| vec![word; 150].join(" ");
        let text = format!("{}\n\n{}\n\n{}", paragraph("correo"), paragraph("dominio"), paragraph("factura"));
        let article = item("guia", MemoryKind::Article, "", &text);
        let points: Vec<MemoryPoint> = plan_points(&article)
            .into_iter()
            .map(|plan| plan.into_point(&article, vec![1.0, 0.0], vec![1.0, 0.0]))
            .collect();
        let store = MemoryStore::new(2);
        store.upsert(&points).expect("valid points");

        let retriever = Retriever::new(Arc::new(store));
        let query = SearchQuery {
            vector: vec![1.0, 0.0],
            text: "dominios".into(),
            language: "es".into(),
            filter: Filter::default(),
            limit: 10,
        };
        let ranked = retriever.rank(&query).expect("search");
        assert_eq!(ranked.len(), 1);
        assert_eq!((ranked[0].memory_id.as_str(), ranked[0].passage), ("guia", 1));
        assert!(ranked[0].lexical > 0.0 && ranked[0].similarity > 0.99);
        assert_eq!(ranked, retriever.rank(&query).expect("search"));
    }

    /// A ticket or an article at this angle from the request.
    fn at(id: &str, kind: MemoryKind, degrees: f32) -> MemoryPoint {
        let vector = vec![degrees.to_radians().cos(), degrees.to_radians().sin()];
        let item = item(id, kind, "", id);
        plan_points(&item).remove(0).into_point(&item, vector.clone(), vector)
    }

    /// Tickets close to the request that were answered with a link to the distant article `linked`.
    fn linking() -> (Arc<MemoryStore>, Arc<Citations>) {
        let store = MemoryStore::new(2);
        let mut points: Vec<MemoryPoint> =
            (0..4).map(|n| at(&format!("t{n}"), MemoryKind::Ticket, 5.0 + n as f32)).collect();
        points.extend([at("near", MemoryKind::Article, 25.0), at("linked", MemoryKind::Article, 28.0)]);
        store.upsert(&points).expect("valid points");
        let citations = Citations::default();
        citations.learn("linked", MemoryKind::Article, Some("https://a.example/help/linked"), "");
        for ticket in ["t0", "t1", "t2"] {
            citations.learn(ticket, MemoryKind::Ticket, None, "Mire https://a.example/es/help/linked");
        }
        (Arc::new(store), Arc::new(citations))
    }

    fn asking(filter: Filter, limit: usize) -> SearchQuery {
        SearchQuery { vector: vec![1.0, 0.0], text: String::new(), language: "es".into(), filter, limit }
    }

    fn ranked(retriever: &Retriever, query: &SearchQuery) -> Vec<String> {
        retriever.rank(query).expect("search").into_iter().map(|item| item.memory_id).collect()
    }

    #[test]
    fn what_similar_tickets_link_to_rises() {
        let (store, citations) = linking();
        let articles = Filter { kind: Some(MemoryKind::Article), ..Filter::default() };
        let plain = Retriever::new(Arc::clone(&store) as Arc<dyn VectorStore>);
        let voting = plain.clone().with_citations(Arc::clone(&citations));
        assert_eq!(ranked(&plain, &asking(articles.clone(), 10)), ["near", "linked"]);
        assert_eq!(ranked(&voting, &asking(articles.clone(), 10)), ["linked", "near"]);
        let mixed = asking(Filter::default(), 10);
        assert_eq!(ranked(&voting, &mixed), ranked(&plain, &mixed), "beside the tickets, links do not count");
        let only_tickets = Filter { kind: Some(MemoryKind::Ticket), ..Filter::default() };
        assert_eq!(ranked(&voting, &asking(only_tickets, 10)).len(), 4);

        let off = Fusion::Weighted(Weights { citations: 0.0, ..Weights::default() });
        let off = Retriever::with_fusion(store, off).with_citations(citations);
        assert_eq!(ranked(&off, &asking(articles, 10)), ["near", "linked"]);
    }

    #[test]
    fn what_similar_tickets_link_to_is_looked_up_where_the_search_stopped_before_it() {
        let (store, citations) = linking();
        let plain = Retriever::new(Arc::clone(&store) as Arc<dyn VectorStore>);
        let voting = plain.clone().with_citations(Arc::clone(&citations));
        let articles = Filter { kind: Some(MemoryKind::Article), ..Filter::default() };
        assert_eq!(ranked(&plain, &asking(articles.clone(), 1)), ["near"]);
        let found = voting.rank(&asking(articles.clone(), 1)).expect("search");
        let linked = found.iter().find(|item| item.memory_id == "linked").expect("looked up");
        assert!((linked.similarity - 28_f32.to_radians().cos()).abs() < 1e-5, "{linked:?}");

        let without = Filter { exclude: vec!["linked".into()], ..articles.clone() };
        assert_eq!(ranked(&voting, &asking(without, 1)), ["near"]);
        store.delete(&["linked".to_owned()]).expect("deleted");
        assert_eq!(ranked(&voting, &asking(articles, 1)), ["near"]);
    }
}
