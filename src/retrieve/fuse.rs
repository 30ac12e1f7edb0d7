//! Three ranked lists made one.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Hit, Legs};
use crate::ticket::MemoryKind;

/// How the legs become one list. [`Fusion::Weighted`] is what the service uses; the others are what it is measured
/// against (`docs/retrieval-report.md`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fusion {
    /// BM25 alone.
    Lexical,
    /// The weighted cosines alone.
    Dense,
    /// Reciprocal rank fusion of the three legs, k = 60 (Cormack, Clarke and Büttcher, 2009).
    Rrf,
    /// Weighted sum of both cosines and BM25.
    Weighted(Weights),
}

/// Weights of the sum; chosen on development folds, see `docs/retrieval-report.md`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// Share of the solution's cosine for tickets, the rest is the problem's.
    pub ticket_solution: f32,
    /// Share of the passage's cosine for articles, the rest is the title's.
    pub article_passage: f32,
    /// What a full lexical match adds when request and memory are in the same language.
    pub lexical: f32,
    /// The same when they are not: the words that match are then names, codes and loan words only.
    pub lexical_across: f32,
    /// BM25 score that counts as half a full match. Below it a match is chance words, above it rare words.
    pub lexical_half: f32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { ticket_solution: 0.2, article_passage: 0.9, lexical: 0.12, lexical_across: 0.04, lexical_half: 60.0 }
    }
}

const RRF_K: f32 = 60.0;

/// One point with the score that orders it and what the legs said.
#[derive(Clone, Debug, PartialEq)]
pub struct Fused {
    pub point: Uuid,
    pub memory_id: String,
    pub passage: usize,
    pub score: f32,
    /// Cosine to the problem (tickets) or the passage (articles); the leg's last score where it was not among the hits.
    pub similarity: f32,
    /// BM25 score, 0 when no word matched.
    pub lexical: f32,
}

/// What the legs say of one point; None where it is not among a leg's hits.
struct Scores<'a> {
    hit: &'a Hit,
    problem: Option<Place>,
    solution: Option<Place>,
    lexical: Option<Place>,
}

#[derive(Clone, Copy)]
struct Place {
    /// From 0.
    rank: usize,
    score: f32,
}

/// Fuses the legs into one list, best first, ties by memory id and passage. A point missing from a cosine leg is taken
/// to score as the last of that leg: it cannot score more.
pub fn fuse(legs: &Legs, language: &str, fusion: Fusion) -> Vec<Fused> {
    let mut points: BTreeMap<Uuid, Scores> = BTreeMap::new();
    collect(&mut points, &legs.problem, |scores| &mut scores.problem);
    collect(&mut points, &legs.solution, |scores| &mut scores.solution);
    collect(&mut points, &legs.lexical, |scores| &mut scores.lexical);
    let problem_floor = floor(&legs.problem);
    let solution_floor = floor(&legs.solution);

    let mut fused: Vec<Fused> = points
        .into_values()
        .filter(|scores| fusion != Fusion::Lexical || scores.lexical.is_some())
        .map(|scores| {
            let problem = scores.problem.map_or(problem_floor, |place| place.score);
            let solution = scores.solution.map_or(solution_floor, |place| place.score);
            let lexical = scores.lexical.map_or(0.0, |place| place.score);
            let ticket = scores.hit.kind == MemoryKind::Ticket;
            let score = match fusion {
                Fusion::Lexical => lexical,
                Fusion::Rrf => rrf(&scores),
                Fusion::Dense => Weights::default().dense(scores.hit.kind, problem, solution),
                Fusion::Weighted(weights) => {
                    let same_language = scores.hit.language == language;
                    weights.dense(scores.hit.kind, problem, solution) + weights.words(lexical, same_language)
                }
            };
            Fused {
                point: scores.hit.point,
                memory_id: scores.hit.memory_id.clone(),
                passage: scores.hit.passage,
                score,
                similarity: if ticket { problem } else { solution },
                lexical,
            }
        })
        .collect();
    fused.sort_by(|a, b| {
        b.score.total_cmp(&a.score).then_with(|| (&a.memory_id, a.passage).cmp(&(&b.memory_id, b.passage)))
    });
    fused
}

impl Weights {
    fn dense(&self, kind: MemoryKind, problem: f32, solution: f32) -> f32 {
        let share = match kind {
            MemoryKind::Ticket => self.ticket_solution,
            MemoryKind::Article => self.article_passage,
        };
        (1.0 - share) * problem + share * solution
    }

    /// 0 without a match, towards the full weight with rare words. Grows with the score without end, so it needs no
    /// knowledge of the other hits: the score of a point does not depend on what else was found.
    fn words(&self, lexical: f32, same_language: bool) -> f32 {
        let weight = if same_language { self.lexical } else { self.lexical_across };
        weight * lexical / (lexical + self.lexical_half)
    }
}

fn collect<'a>(
    points: &mut BTreeMap<Uuid, Scores<'a>>,
    leg: &'a [Hit],
    slot: impl for<'s> Fn(&'s mut Scores<'a>) -> &'s mut Option<Place>,
) {
    for (rank, hit) in leg.iter().enumerate() {
        let empty = Scores { hit, problem: None, solution: None, lexical: None };
        let scores = points.entry(hit.point).or_insert(empty);
        *slot(scores) = Some(Place { rank, score: hit.score });
    }
}

fn floor(leg: &[Hit]) -> f32 {
    leg.last().map_or(0.0, |hit| hit.score)
}

fn rrf(scores: &Scores) -> f32 {
    [scores.problem, scores.solution, scores.lexical]
        .into_iter()
        .flatten()
        .map(|place| 1.0 / (RRF_K + 1.0 + place.rank as f32))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(name: &str, language: &str, score: f32) -> Hit {
        let point = Uuid::from_u128(name.bytes().fold(0, |n, byte| n * 256 + u128::from(byte)));
        let (memory_id, language) = (name.to_owned(), language.to_owned());
        Hit { point, memory_id, passage: 0, kind: MemoryKind::Ticket, language, score }
    }

    fn order(legs: &Legs, language: &str, fusion: Fusion) -> Vec<String> {
        fuse(legs, language, fusion).into_iter().map(|fused| fused.memory_id).collect()
    }

    #[test]
    fn rrf_matches_a_value_computed_by_hand() {
        let legs = Legs {
            problem: vec![hit("a", "en", 0.9), hit("b", "en", 0.8)],
            solution: vec![],
            lexical: vec![hit("b", "en", 7.0)],
        };
        let fused = fuse(&legs, "en", Fusion::Rrf);
        assert_eq!(fused[0].memory_id, "b");
        assert!((fused[0].score - (1.0 / 62.0 + 1.0 / 61.0)).abs() < 1e-6);
        assert!((fused[1].score - 1.0 / 61.0).abs() < 1e-6);
    }

    #[test]
    fn rare_words_decide_between_near_equals_only() {
        let near = Legs {
            problem: vec![hit("a", "en", 0.85), hit("b", "en", 0.84)],
            solution: vec![],
            lexical: vec![hit("b", "en", 30.0)],
        };
        let weighted = Fusion::Weighted(Weights::default());
        assert_eq!(order(&near, "en", weighted), ["b", "a"]);
        let far = Legs { problem: vec![hit("a", "en", 0.98), hit("b", "en", 0.78)], ..near.clone() };
        assert_eq!(order(&far, "en", weighted), ["a", "b"]);
        assert_eq!(order(&near, "en", Fusion::Dense), ["a", "b"]);
        assert_eq!(order(&near, "en", Fusion::Lexical), ["b"]);
    }

    #[test]
    fn words_count_less_across_languages() {
        let legs = Legs { problem: vec![hit("a", "en", 0.8)], solution: vec![], lexical: vec![hit("a", "en", 20.0)] };
        let weighted = Fusion::Weighted(Weights::default());
        assert!(fuse(&legs, "es", weighted)[0].score < fuse(&legs, "en", weighted)[0].score);
    }

    #[test]
    fn ties_go_by_id_and_nothing_gives_nothing() {
        let legs = Legs { problem: vec![hit("b", "en", 0.5), hit("a", "en", 0.5)], ..Legs::default() };
        assert_eq!(order(&legs, "en", Fusion::Dense), ["a", "b"]);
        assert!(fuse(&Legs::default(), "en", Fusion::Rrf).is_empty());
    }
}
