//! From a request to the memory items worth reading: search, fuse, one entry per item, no duplicates.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use super::bm25::fold;
use super::fuse::{Fused, Fusion, Weights, fuse};
use super::{RetrieveError, SearchQuery, VectorStore};
use crate::ticket::Retrieved;

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
}

impl Retriever {
    pub fn new(store: Arc<dyn VectorStore>) -> Self {
        Self::with_fusion(store, Fusion::Weighted(Weights::default()))
    }

    /// With another fusion, to measure it.
    pub fn with_fusion(store: Arc<dyn VectorStore>, fusion: Fusion) -> Self {
        Self { store, fusion }
    }

    /// Memory items, best first, each once with its best passage. `query.limit` is what each leg looks at in each
    /// language; ask for several times what you show (100 for 10), and cut the list after [`fold_duplicates`].
    pub fn rank(&self, query: &SearchQuery) -> Result<Vec<Ranked>, RetrieveError> {
        let legs = self.store.search(query)?;
        Ok(best_passages(fuse(&legs, self.fusion)))
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
}
