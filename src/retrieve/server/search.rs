//! One request as one call: a query for each leg, in one batch.
//!
//! The points in the request's language and those in all others are searched apart by each leg, as the embedded engine does
//! it. These searches are prefetches; what they find together is scored by the query's leg, on the server and by the
//! vectors as they came. So every point that one leg found is scored by all of them, and vectors do not travel. The price
//! is that the server looks for the candidates once for each leg.
//!
//! The legs are not fused on the server: the weighted fusion needs the scores of each, and reciprocal ranks (k = 60) are a
//! few additions once the legs are there (`retrieve/fuse.rs`).

use std::collections::BTreeMap;
use std::time::Duration;

use qdrant_client::qdrant::{
    BatchResult, Filter as ServerFilter, PrefetchQuery, Query, QueryBatchPoints, QueryPoints, VectorInput,
};
use uuid::Uuid;

use super::points::{any_of, hit, server_filter, uuid};
use super::schema::{self, BM25, LANGUAGE, PROBLEM, SOLUTION};
use crate::retrieve::bm25::SparseTerms;
use crate::retrieve::{Hit, SearchQuery};

/// A leg: the name of the vector, and what is looked for in it.
type Leg = (&'static str, VectorInput);

/// The legs that have something to say, the one that brings the payloads first: a dense one finds every candidate.
fn legs(query: &SearchQuery, terms: &SparseTerms) -> Vec<Leg> {
    let mut legs = Vec::new();
    if !query.vector.is_empty() {
        legs.extend([PROBLEM, SOLUTION].map(|name| (name, VectorInput::new_dense(query.vector.clone()))));
    }
    if !terms.is_empty() {
        legs.push((BM25, VectorInput::new_sparse(terms.indices.clone(), terms.values.clone())));
    }
    legs
}

/// The call; None where nothing is to be searched for. `shards` is how many parts the collection has on the server: each
/// gives candidates of its own.
pub(super) fn batch(
    collection: &str,
    query: &SearchQuery,
    terms: &SparseTerms,
    shards: u32,
    deadline: Duration,
) -> Option<QueryBatchPoints> {
    let (legs, filters) = (legs(query, terms), filters(query));
    if legs.is_empty() || filters.is_empty() {
        return None;
    }
    let prefetch: Vec<PrefetchQuery> = legs
        .iter()
        .flat_map(|leg| filters.iter().map(move |filter| (leg, filter)))
        .map(|((name, vector), filter)| PrefetchQuery {
            query: Some(Query::from(vector.clone())),
            using: Some((*name).to_owned()),
            filter: Some(filter.clone()),
            params: Some(schema::served()),
            limit: Some(query.limit as u64),
            ..PrefetchQuery::default()
        })
        .collect();
    let all = prefetch.len() as u64 * query.limit as u64 * u64::from(shards.max(1));
    let queries = legs.into_iter().enumerate().map(|(number, (name, vector))| QueryPoints {
        collection_name: collection.to_owned(),
        prefetch: prefetch.clone(),
        query: Some(Query::from(vector)),
        using: Some(name.to_owned()),
        params: Some(schema::exact()),
        limit: Some(all),
        with_payload: Some((number == 0).into()),
        with_vectors: Some(false.into()),
        ..QueryPoints::default()
    });
    Some(QueryBatchPoints {
        collection_name: collection.to_owned(),
        query_points: queries.collect(),
        // Whole seconds; the call itself ends at the deadline.
        timeout: Some((deadline.as_secs_f32().ceil() as u64).max(1)),
        ..QueryBatchPoints::default()
    })
}

/// Filters of the points in the request's language and of those in the others it wants.
fn filters(query: &SearchQuery) -> Vec<ServerFilter> {
    let base = server_filter(&query.filter);
    let own = any_of(LANGUAGE, [query.language.clone()]);
    let with = |mut filter: ServerFilter, condition| {
        filter.must.push(condition);
        filter
    };
    let wanted = &query.filter.languages;
    if wanted.is_empty() {
        let mut others = base.clone();
        others.must_not.push(own.clone());
        return vec![with(base, own), others];
    }
    let others: Vec<String> = wanted.iter().filter(|language| **language != query.language).cloned().collect();
    let mut filters = Vec::new();
    if others.len() < wanted.len() {
        filters.push(with(base.clone(), own));
    }
    if !others.is_empty() {
        filters.push(with(base, any_of(LANGUAGE, others)));
    }
    filters
}

/// Problem, solution and lexical leg, best first, ties by id.
pub(super) fn ranked(query: &SearchQuery, results: Vec<BatchResult>) -> [Vec<Hit>; 3] {
    let known: BTreeMap<Uuid, Hit> = results.first().map_or_else(BTreeMap::new, |first| {
        let known = first.result.iter().filter_map(|point| {
            let id = uuid(point.id.as_ref()?)?;
            Some((id, hit(id, &point.payload)?))
        });
        known.collect()
    });
    let leg = |result: BatchResult| {
        let scored = result.result.into_iter().filter_map(|point| {
            let hit = known.get(&uuid(point.id.as_ref()?)?)?;
            Some(Hit { score: point.score, ..hit.clone() })
        });
        let mut hits: Vec<Hit> = scored.collect();
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.point.cmp(&b.point)));
        hits
    };
    let mut legs = results.into_iter().map(leg);
    let mut next = || legs.next().unwrap_or_default();
    let (problem, solution) = if query.vector.is_empty() { (Vec::new(), Vec::new()) } else { (next(), next()) };
    let mut lexical = next();
    lexical.retain(|hit| hit.score > 0.0);
    [problem, solution, lexical]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retrieve::{Filter, bm25};

    fn query(languages: &[&str], vector: Vec<f32>) -> SearchQuery {
        let languages = languages.iter().map(|language| (*language).to_owned()).collect();
        let filter = Filter { languages, exclude: vec!["t-1".into()], ..Filter::default() };
        SearchQuery { vector, text: "buzón lleno".into(), language: "es".into(), filter, limit: 100 }
    }

    fn asked(query: &SearchQuery) -> Option<QueryBatchPoints> {
        let terms = bm25::query_terms(&query.text, &query.language);
        batch("desk", query, &terms, 2, Duration::from_millis(1_500))
    }

    #[test]
    fn each_leg_scores_what_any_leg_finds_in_either_part() {
        let batch = asked(&query(&[], vec![1.0, 0.0])).expect("a batch");
        let legs: Vec<_> = batch.query_points.iter().map(|query| query.using.as_deref().unwrap_or_default()).collect();
        assert_eq!((legs, batch.timeout), (vec![PROBLEM, SOLUTION, BM25], Some(2)));
        for query in &batch.query_points {
            assert_eq!((query.prefetch.len(), query.limit), (6, Some(6 * 100 * 2)));
            assert!(query.prefetch.iter().all(|part| part.filter.as_ref().is_some_and(|f| !f.must_not.is_empty())));
        }
        let words = asked(&query(&[], vec![])).expect("a batch");
        assert_eq!((words.query_points.len(), words.query_points[0].prefetch.len()), (1, 2));
    }

    #[test]
    fn only_wanted_languages_are_searched() {
        let parts =
            |languages: &[&str]| asked(&query(languages, vec![1.0])).expect("a batch").query_points[0].prefetch.len();
        assert_eq!([parts(&["es", "en"]), parts(&["es"]), parts(&["en", "pt"])], [6, 3, 3]);
        let mut nothing = query(&[], vec![]);
        nothing.text = String::new();
        assert!(asked(&nothing).is_none());
    }
}
