//! How good a ranking is, by the measures of trec_eval: nDCG, reciprocal rank, average precision, recall.
//!
//! A ranking is a list of ids, best first; the qrels say which ids are relevant to the request and how much (grade 0: judged
//! irrelevant). What nobody judged counts as irrelevant. All measures go from 0 to 1 and are 0 where nothing is relevant, as
//! in trec_eval. A test holds them to the figures of pytrec_eval on the example in `eval/data/ranking`.

use std::collections::{BTreeMap, BTreeSet};

/// Grades by id; relevant is what has a grade above 0.
pub type Qrels = BTreeMap<String, u32>;

/// The ids of a scored run in the order in which trec_eval reads it: by score, highest first; of equal scores the id that
/// comes last in the order of bytes. Scores are compared in single precision, as trec_eval keeps them.
pub fn trec_order(scored: &[(String, f64)]) -> Vec<String> {
    let mut order: Vec<(&String, f32)> = scored.iter().map(|(id, score)| (id, *score as f32)).collect();
    order.sort_by(|(id, score), (other, others)| others.total_cmp(score).then_with(|| other.cmp(id)));
    order.into_iter().map(|(id, _)| id.clone()).collect()
}

/// Normalised discounted cumulative gain of the first `cutoff` (`ndcg_cut` of trec_eval): Järvelin and Kekäläinen,
/// "Cumulated gain-based evaluation of IR techniques" (2002), with the grade itself as gain and `1 / log2(rank + 1)` as
/// discount. The ideal ranks all relevant items, found or not, by their grades.
pub fn ndcg(ranking: &[String], qrels: &Qrels, cutoff: usize) -> f64 {
    let discounted = |position: usize, grade: u32| f64::from(grade) / ((position + 2) as f64).log2();
    let mut ideal: Vec<u32> = relevant(qrels).collect();
    ideal.sort_unstable_by(|one, other| other.cmp(one));
    let best = sum(ideal.into_iter().take(cutoff).enumerate().map(|(at, grade)| discounted(at, grade)));
    let gain = sum(hits(ranking, qrels)
        .take_while(|(position, _)| *position < cutoff)
        .map(|(position, grade)| discounted(position, grade)));
    share(gain, best)
}

/// One over the rank of the first relevant item (`recip_rank`).
pub fn reciprocal_rank(ranking: &[String], qrels: &Qrels) -> f64 {
    hits(ranking, qrels).next().map_or(0.0, |(position, _)| 1.0 / (position + 1) as f64)
}

/// Average precision (`map` of one request): the precision at each relevant item that was found, summed and divided by the
/// number of relevant items.
pub fn average_precision(ranking: &[String], qrels: &Qrels) -> f64 {
    let precisions = hits(ranking, qrels).enumerate().map(|(before, (at, _))| (before + 1) as f64 / (at + 1) as f64);
    share(sum(precisions), relevant(qrels).count() as f64)
}

/// Share of the relevant items that are among the first `cutoff`.
pub fn recall(ranking: &[String], qrels: &Qrels, cutoff: usize) -> f64 {
    let found = hits(ranking, qrels).take_while(|(position, _)| *position < cutoff).count();
    share(found as f64, relevant(qrels).count() as f64)
}

/// The measures of [`super::figures::RANKING`], in that order.
pub fn measures(ranking: &[String], qrels: &Qrels) -> [f64; 6] {
    [
        ndcg(ranking, qrels, 10),
        reciprocal_rank(ranking, qrels),
        average_precision(ranking, qrels),
        recall(ranking, qrels, 1),
        recall(ranking, qrels, 5),
        recall(ranking, qrels, 20),
    ]
}

/// Positions (from 0) and grades of the relevant items, each where it stands first: an id that a faulty run names twice earns
/// nothing more.
fn hits<'a>(ranking: &'a [String], qrels: &'a Qrels) -> impl Iterator<Item = (usize, u32)> + 'a {
    let mut seen = BTreeSet::new();
    ranking.iter().enumerate().filter_map(move |(position, id)| {
        let grade = qrels.get(id).copied().filter(|grade| *grade > 0)?;
        seen.insert(id).then_some((position, grade))
    })
}

fn relevant(qrels: &Qrels) -> impl Iterator<Item = u32> + '_ {
    qrels.values().copied().filter(|grade| *grade > 0)
}

/// Not `Iterator::sum`: that of nothing is -0.0, and would be printed so.
fn sum(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |total, value| total + value)
}

fn share(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::super::figures::RANKING;
    use super::*;

    const QRELS: &str = include_str!("../../eval/data/ranking/qrels.tsv");
    const RUN: &str = include_str!("../../eval/data/ranking/run.trec");
    const EXPECTED: &str = include_str!("../../eval/data/ranking/expected.json");

    #[derive(Deserialize)]
    struct Expected {
        queries: BTreeMap<String, BTreeMap<String, f64>>,
        mean: BTreeMap<String, f64>,
    }

    fn qrels() -> BTreeMap<String, Qrels> {
        let mut all: BTreeMap<String, Qrels> = BTreeMap::new();
        for line in QRELS.lines().skip(1) {
            let [query, id, grade] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("three columns: {line}") };
            all.entry(query.into()).or_default().insert(id.into(), grade.parse().expect("a grade"));
        }
        all
    }

    fn run() -> BTreeMap<String, Vec<(String, f64)>> {
        let mut all: BTreeMap<String, Vec<(String, f64)>> = BTreeMap::new();
        for line in RUN.lines() {
            let [query, _, id, _, score, _] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("six columns: {line}")
            };
            all.entry(query.into()).or_default().push((id.into(), score.parse().expect("a score")));
        }
        all
    }

    #[test]
    fn figures_are_those_of_pytrec_eval() {
        let expected: Expected = serde_json::from_str(EXPECTED).expect("expected.json");
        let (qrels, run) = (qrels(), run());
        let judged: Vec<_> =
            run.iter().filter_map(|(query, scored)| Some((query, scored, qrels.get(query)?))).collect();
        assert_eq!(judged.len(), expected.queries.len());
        let mut sums = [0.0; RANKING.len()];
        for (query, scored, qrels) in judged {
            let measured = measures(&trec_order(scored), qrels);
            for (((name, _), value), sum) in RANKING.iter().zip(measured).zip(&mut sums) {
                let theirs = expected.queries[query][*name];
                assert!((value - theirs).abs() < 1e-6, "{query} {name}: {value}, pytrec_eval has {theirs}");
                *sum += value;
            }
        }
        for ((name, _), sum) in RANKING.iter().zip(sums) {
            let mean = sum / expected.queries.len() as f64;
            assert!((mean - expected.mean[*name]).abs() < 1e-6, "mean of {name}: {mean}");
        }
    }

    #[test]
    fn the_example_covers_what_is_easily_got_wrong() {
        let (qrels, run) = (qrels(), run());
        let pairs: Vec<_> = qrels.iter().filter_map(|(query, grades)| Some((grades, run.get(query)?))).collect();
        let order_matters = |grades: &Qrels, scored: &[(String, f64)]| {
            let given: Vec<String> = scored.iter().map(|(id, _)| id.clone()).collect();
            measures(&given, grades) != measures(&trec_order(scored), grades)
        };
        assert!(pairs.iter().any(|(grades, _)| relevant(grades).any(|grade| grade > 1)), "graded");
        assert!(pairs.iter().any(|(grades, _)| relevant(grades).count() > 10), "more relevant ones than nDCG looks at");
        assert!(pairs.iter().any(|(grades, _)| relevant(grades).count() == 0), "nothing relevant");
        assert!(pairs.iter().any(|(_, scored)| scored.len() > 20), "longer than the longest cutoff");
        assert!(pairs.iter().any(|(grades, scored)| order_matters(grades, scored)), "ties");
    }

    fn ids(names: &str) -> Vec<String> {
        names.split_whitespace().map(String::from).collect()
    }

    fn grades(names: &str) -> Qrels {
        ids(names).into_iter().map(|id| (id, 1)).collect()
    }

    #[test]
    fn figures_match_values_computed_by_hand() {
        let ranking = ids("a b c d e");
        // Relevant at ranks 2 and 4: (1/log2(3) + 1/log2(5)) / (1/log2(2) + 1/log2(3)) = (0.63093+0.43068)/1.63093.
        assert!((ndcg(&ranking, &grades("b d"), 10) - 0.650_921).abs() < 1e-5);
        assert!((ndcg(&ranking, &grades("b d"), 3) - 0.386_853).abs() < 1e-5);
        assert_eq!(ndcg(&ranking, &grades("a"), 10), 1.0);
        assert_eq!(reciprocal_rank(&ranking, &grades("c e")), 1.0 / 3.0);
        assert_eq!(average_precision(&ranking, &grades("b d")), 0.5);
        assert_eq!(recall(&ranking, &grades("b d z"), 10), 2.0 / 3.0);
        assert_eq!(recall(&ranking, &grades("b d"), 2), 0.5);
    }

    #[test]
    fn nothing_relevant_or_nothing_found_is_zero() {
        for figure in measures(&ids("a b"), &grades("")).into_iter().chain(measures(&[], &grades("a"))) {
            assert!(figure == 0.0 && figure.is_sign_positive());
        }
        assert_eq!(ndcg(&ids("a"), &grades("a"), 0), 0.0);
    }

    #[test]
    fn an_id_named_twice_counts_once() {
        let twice = measures(&ids("a a a b"), &grades("a b"));
        assert!(twice.iter().all(|figure| *figure <= 1.0), "{twice:?}");
        assert_eq!(recall(&ids("a a"), &grades("a b"), 5), 0.5);
    }

    #[test]
    fn ties_and_scores_that_are_no_numbers_have_a_fixed_order() {
        let scored = |pairs: &[(&str, f64)]| pairs.iter().map(|(id, s)| ((*id).to_owned(), *s)).collect::<Vec<_>>();
        assert_eq!(trec_order(&scored(&[("a", 1.0), ("b", 1.0), ("c", 2.0)])), ["c", "b", "a"]);
        let odd = scored(&[("a", f64::NAN), ("b", 0.0), ("c", f64::INFINITY)]);
        let turned: Vec<_> = odd.iter().rev().cloned().collect();
        assert_eq!(trec_order(&odd), trec_order(&turned));
    }
}
