//! Which searches of the engine one request becomes.
//!
//! The points in the request's language and those in all others are searched apart: in a memory of two languages one search
//! would hardly reach the other one, since texts of a language are close to each other whatever they say. The others are
//! named: the engine looks those up, while it would go through all points for "any but this".
//!
//! In a vast memory a condition on the language is more than a third of a search: it is looked up for every point that a
//! graph or a list of words leads to. Where the request's language is a common one, a search of everything finds its points
//! without that condition; and by words everything is searched once, since a language's words are found in its points.

use qdrant_edge::{Filter as EngineFilter, SearchParams};

use super::engine::{self, LANGUAGE};
use super::known::Known;
use super::points::any_of;
use super::search::Effort;
use crate::retrieve::SearchQuery;

/// Share of the points from which on a language is found without asking for it.
const COMMON: f32 = 0.25;

/// One search of the engine.
pub(super) struct Part {
    pub filter: Option<EngineFilter>,
    pub limit: usize,
    pub params: SearchParams,
}

/// Searches by each of the vectors, and by words.
pub(super) struct Plan {
    pub dense: Vec<Part>,
    pub words: Vec<Part>,
    /// Whether the legs are worth a thread each: starting them takes some 50 microseconds.
    pub side_by_side: bool,
}

impl Plan {
    /// `filter` is the request's without its languages.
    pub fn of(known: &Known, query: &SearchQuery, filter: EngineFilter, effort: Effort) -> Self {
        let (own, others) = known.split(query);
        let restricted = |languages: &[String]| {
            let mut part = filter.clone();
            if languages.len() < known.languages.len() {
                part.must.get_or_insert_default().push(any_of(LANGUAGE, languages.to_vec()));
            }
            Some(part).filter(|part| part.must.is_some() || part.must_not.is_some())
        };
        let served = effort == Effort::Served;
        let vast = served && known.is_vast();
        let part = |filter, limit, candidates| Part {
            filter,
            limit,
            params: if served { engine::served(limit, candidates) } else { engine::exact() },
        };
        let (for_own, for_others) = engine::candidates(vast);
        let all: Vec<String> = own.iter().chain(&others).cloned().collect();
        let (mut dense, mut words) = (Vec::new(), Vec::new());
        if !own.is_empty() {
            let common = vast && known.share(&own) >= COMMON;
            dense.push(part(restricted(if common { &all } else { &own }), query.limit, for_own));
        }
        if !others.is_empty() {
            dense.push(part(restricted(&others), query.limit, for_others));
        }
        if vast && !all.is_empty() {
            words.push(part(restricted(&all), 2 * query.limit, for_own));
        } else {
            let each = [&own, &others].into_iter().filter(|languages| !languages.is_empty());
            words.extend(each.map(|languages| part(restricted(languages), query.limit, for_own)));
        }
        Self { dense, words, side_by_side: vast }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::retrieve::Filter;

    fn plan(languages: &[(&str, usize)], asked: &str, filter: Filter) -> Plan {
        let languages: BTreeMap<String, usize> = languages.iter().map(|(name, of)| ((*name).to_owned(), *of)).collect();
        let known = Known { points: languages.values().sum(), languages, ..Known::default() };
        let query = SearchQuery { vector: vec![], text: String::new(), language: asked.into(), filter, limit: 100 };
        Plan::of(&known, &query, EngineFilter::new(), Effort::Served)
    }

    /// The languages that each search asks for, and how many candidates it looks at.
    fn shape(parts: &[Part]) -> Vec<(String, Option<usize>)> {
        let conditions = |part: &Part| match &part.filter {
            Some(filter) => {
                ["en", "es", "und"].into_iter().filter(|l| format!("{filter:?}").contains(&format!("{l:?}"))).collect()
            }
            None => vec!["all"],
        };
        parts.iter().map(|part| (conditions(part).join(" "), part.params.hnsw_ef)).collect()
    }

    #[test]
    fn languages_are_searched_apart_and_in_a_vast_memory_a_common_one_is_not_asked_for() {
        let own_and_others = [("es".to_owned(), Some(256)), ("en und".to_owned(), Some(256))];
        let small = plan(&[("en", 9_000), ("es", 9_000), ("und", 10)], "es", Filter::default());
        assert_eq!((shape(&small.dense), shape(&small.words)), (own_and_others.to_vec(), own_and_others.to_vec()));
        let vast = plan(&[("en", 600_000), ("es", 400_000)], "es", Filter::default());
        assert_eq!(shape(&vast.dense), [("all".to_owned(), Some(1024)), ("en".to_owned(), Some(100))]);
        assert_eq!((vast.words.len(), vast.words[0].limit), (1, 200));
        let rare = plan(&[("en", 990_000), ("es", 10_000)], "es", Filter::default());
        assert_eq!(shape(&rare.dense), [("es".to_owned(), Some(1024)), ("en".to_owned(), Some(100))]);
    }

    #[test]
    fn only_wanted_languages_are_searched() {
        let filter = Filter { languages: vec!["es".into(), "und".into()], ..Filter::default() };
        let vast = plan(&[("en", 600_000), ("es", 400_000), ("und", 5)], "es", filter.clone());
        assert_eq!(shape(&vast.dense), [("es und".to_owned(), Some(1024)), ("und".to_owned(), Some(100))]);
        assert_eq!(shape(&vast.words)[0].0, "es und");
        let none = plan(&[("en", 600_000)], "es", filter);
        assert!(none.dense.is_empty() && none.words.is_empty());
    }
}
