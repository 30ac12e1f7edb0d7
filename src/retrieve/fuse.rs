//! Three ranked lists made one.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::{Background, Hit, Legs};
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
    /// How far both cosines stand out from what unrelated texts of that kind and language score, and BM25.
    Weighted(Weights),
}

/// Weights of the sum; chosen on development sets, see `docs/retrieval-report.md`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// Share of the solution's cosine for tickets, the rest is the problem's.
    pub ticket_solution: f32,
    /// Share of the passage's cosine for articles, the rest is the title's.
    pub article_passage: f32,
    /// What a full lexical match adds to a ticket. Words count the same across languages: few match there, and those are
    /// the names, codes and loan words that tell most.
    pub ticket_words: f32,
    /// The same for an article.
    pub article_words: f32,
    /// BM25 score that counts as half a full match. Below it a match is chance words, above it rare words.
    pub lexical_half: f32,
    /// What an article is worth more than a ticket: it is the desk's own text, and one passage of it has to carry the match.
    pub article_bonus: f32,
    /// What the second and the third best passage of an article add to the best one: this share of what each scores above
    /// the worst passage that was found. Several passages on the matter are no accident.
    pub further_passages: f32,
    /// What an item gains for each e-fold of its share among the links of similar tickets, see `Weights::cited`; 0 leaves
    /// the links out.
    pub citations: f32,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            ticket_solution: 0.2,
            article_passage: 0.9,
            ticket_words: 0.2,
            article_words: 0.14,
            lexical_half: 90.0,
            article_bonus: 0.02,
            further_passages: 0.15,
            citations: 0.025,
        }
    }
}

/// A mean over fewer points than this says more about these points than about their kind and language.
const ENOUGH_POINTS: f32 = 10.0;
const RRF_K: f32 = 60.0;
/// Passages of an article that count besides its best one.
const FURTHER_PASSAGES: usize = 2;
/// Share among the links of similar tickets from which on it counts: below, a single distant ticket links to it.
const LEAST_SHARE: f32 = 0.005;

/// One point with the score that orders it and what the legs said.
#[derive(Clone, Debug, PartialEq)]
pub struct Fused {
    pub point: Uuid,
    pub memory_id: String,
    pub kind: MemoryKind,
    pub passage: usize,
    pub score: f32,
    /// Cosine to the problem (tickets) or the passage (articles), 0 without a vector in the request.
    pub similarity: f32,
    /// BM25 score, 0 when no word matched.
    pub lexical: f32,
}

/// What the legs say of one point; None where a leg has nothing to say of it.
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

/// Fuses the legs into one list, best first, ties by memory id and passage.
pub fn fuse(legs: &Legs, fusion: Fusion) -> Vec<Fused> {
    let mut points: BTreeMap<Uuid, Scores> = BTreeMap::new();
    collect(&mut points, &legs.problem, |scores| &mut scores.problem);
    collect(&mut points, &legs.solution, |scores| &mut scores.solution);
    collect(&mut points, &legs.lexical, |scores| &mut scores.lexical);
    let levels = match fusion {
        Fusion::Weighted(weights) => Levels::new(&legs.background, &weights),
        _ => Levels::default(),
    };

    let mut fused: Vec<Fused> = points
        .into_values()
        .filter(|scores| fusion != Fusion::Lexical || scores.lexical.is_some())
        .map(|scores| {
            let score = |place: Option<Place>| place.map_or(0.0, |place| place.score);
            let (problem, solution, lexical) = (score(scores.problem), score(scores.solution), score(scores.lexical));
            let hit = scores.hit;
            let score = match fusion {
                Fusion::Lexical => lexical,
                Fusion::Rrf => rrf(&scores),
                Fusion::Dense => Weights::default().dense(hit.kind, problem, solution),
                Fusion::Weighted(weights) => {
                    let bonus = if hit.kind == MemoryKind::Article { weights.article_bonus } else { 0.0 };
                    let outstanding =
                        weights.dense(hit.kind, problem, solution) - levels.shift(hit.kind, &hit.language);
                    outstanding + weights.words(hit.kind, lexical) + bonus
                }
            };
            Fused {
                point: hit.point,
                memory_id: hit.memory_id.clone(),
                kind: hit.kind,
                passage: hit.passage,
                score,
                similarity: if hit.kind == MemoryKind::Ticket { problem } else { solution },
                lexical,
            }
        })
        .collect();
    sort(&mut fused);
    if let Fusion::Weighted(weights) = fusion {
        add_further_passages(&mut fused, weights.further_passages);
        sort(&mut fused);
    }
    fused
}

/// Raises the best point of each article by what its next ones score; expects the points best first. An article whose other
/// passages were not found gains nothing, one passage long or not.
fn add_further_passages(fused: &mut [Fused], weight: f32) {
    let is_article = |point: &&Fused| point.kind == MemoryKind::Article;
    // Best first: the last article point is the worst.
    let Some(least) = fused.iter().rfind(is_article).map(|point| point.score) else { return };
    // Place of the best point, how many further ones counted, what they score above the least.
    let mut articles: HashMap<&str, (usize, usize, f32)> = HashMap::new();
    for (at, point) in fused.iter().enumerate().filter(|(_, point)| is_article(point)) {
        match articles.entry(&point.memory_id) {
            Entry::Vacant(entry) => drop(entry.insert((at, 0, 0.0))),
            Entry::Occupied(mut entry) => {
                let (_, further, above) = entry.get_mut();
                if *further < FURTHER_PASSAGES {
                    *further += 1;
                    *above += point.score - least;
                }
            }
        }
    }
    let gains: Vec<(usize, f32)> = articles.into_values().map(|(at, _, above)| (at, weight * above)).collect();
    for (at, gain) in gains {
        if let Some(best) = fused.get_mut(at) {
            best.score += gain;
        }
    }
}

/// Best first, ties by memory id and passage.
pub(super) fn sort(fused: &mut [Fused]) {
    fused.sort_by(|a, b| {
        b.score.total_cmp(&a.score).then_with(|| (&a.memory_id, a.passage).cmp(&(&b.memory_id, b.passage)))
    });
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
    fn words(&self, kind: MemoryKind, lexical: f32) -> f32 {
        let weight = match kind {
            MemoryKind::Ticket => self.ticket_words,
            MemoryKind::Article => self.article_words,
        };
        weight * lexical / (lexical + self.lexical_half)
    }

    /// What an item gains that has this share (0 to 1) among the links of similar tickets: nothing for 0, and the more the
    /// less for every further ticket. The weight is about that of a prior: the log of how often an item answers such
    /// requests, smoothed.
    pub(super) fn cited(&self, share: f32) -> f32 {
        self.citations * (share / LEAST_SHARE).ln_1p()
    }
}

/// What unrelated texts of each kind and language score, weighted as their hits are.
#[derive(Default)]
struct Levels<'a> {
    /// By kind and language.
    groups: HashMap<(MemoryKind, &'a str), f32>,
    kinds: HashMap<MemoryKind, f32>,
    overall: f32,
}

impl<'a> Levels<'a> {
    /// A mean over few points leans on the next wider one: the language on its kind, the kind on the whole memory.
    fn new(background: &'a [Background], weights: &Weights) -> Self {
        let level = |group: &Background| weights.dense(group.kind, group.problem, group.solution);
        let mut of_kind: HashMap<MemoryKind, (f32, f32)> = HashMap::new();
        let (mut total, mut count) = (0.0, 0.0);
        for group in background {
            let points = group.points as f32;
            let kind = of_kind.entry(group.kind).or_default();
            *kind = (kind.0 + points * level(group), kind.1 + points);
            total += points * level(group);
            count += points;
        }
        let overall = if count > 0.0 { total / count } else { 0.0 };
        let leaning = |sum: f32, points: f32, wider: f32| (sum + ENOUGH_POINTS * wider) / (points + ENOUGH_POINTS);
        let kinds: HashMap<MemoryKind, f32> =
            of_kind.into_iter().map(|(kind, (sum, points))| (kind, leaning(sum, points, overall))).collect();
        let of_group = |group: &'a Background| {
            let wider = kinds.get(&group.kind).copied().unwrap_or(overall);
            let points = group.points as f32;
            ((group.kind, group.language.as_str()), leaning(points * level(group), points, wider))
        };
        Self { groups: background.iter().map(of_group).collect(), kinds, overall }
    }

    /// How much higher than the whole memory texts of a kind and language score without being related.
    fn shift(&self, kind: MemoryKind, language: &str) -> f32 {
        let of_kind = self.kinds.get(&kind).copied().unwrap_or(self.overall);
        self.groups.get(&(kind, language)).copied().unwrap_or(of_kind) - self.overall
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

    fn order(legs: &Legs, fusion: Fusion) -> Vec<String> {
        fuse(legs, fusion).into_iter().map(|fused| fused.memory_id).collect()
    }

    fn weighted() -> Fusion {
        Fusion::Weighted(Weights::default())
    }

    fn background(kind: MemoryKind, language: &str, points: usize, cosine: f32) -> Background {
        Background { kind, language: language.to_owned(), points, problem: cosine, solution: cosine }
    }

    #[test]
    fn rrf_matches_a_value_computed_by_hand() {
        let legs = Legs {
            problem: vec![hit("a", "en", 0.9), hit("b", "en", 0.8)],
            lexical: vec![hit("b", "en", 7.0)],
            ..Legs::default()
        };
        let fused = fuse(&legs, Fusion::Rrf);
        assert_eq!(fused[0].memory_id, "b");
        assert!((fused[0].score - (1.0 / 62.0 + 1.0 / 61.0)).abs() < 1e-6);
        assert!((fused[1].score - 1.0 / 61.0).abs() < 1e-6);
    }

    #[test]
    fn rare_words_decide_between_near_equals_only() {
        let near = Legs {
            problem: vec![hit("a", "en", 0.85), hit("b", "en", 0.84)],
            lexical: vec![hit("b", "en", 30.0)],
            ..Legs::default()
        };
        assert_eq!(order(&near, weighted()), ["b", "a"]);
        let far = Legs { problem: vec![hit("a", "en", 0.98), hit("b", "en", 0.78)], ..near.clone() };
        assert_eq!(order(&far, weighted()), ["a", "b"]);
        assert_eq!(order(&near, Fusion::Dense), ["a", "b"]);
        assert_eq!(order(&near, Fusion::Lexical), ["b"]);
    }

    #[test]
    fn a_match_stands_out_from_its_own_language() {
        // To a Spanish request every Spanish ticket is close; the English one is the unusual one.
        let problem = vec![hit("ruido", "es", 0.87), hit("match", "en", 0.85), hit("noise", "en", 0.81)];
        let tickets = |language: &str, cosine: f32| background(MemoryKind::Ticket, language, 500, cosine);
        let background = vec![tickets("en", 0.81), tickets("es", 0.86)];
        let legs = Legs { problem: problem.clone(), solution: problem, background, ..Legs::default() };
        assert_eq!(order(&legs, weighted()), ["match", "ruido", "noise"]);
        assert_eq!(order(&legs, Fusion::Dense), ["ruido", "match", "noise"]);
        // What the thresholds of the desk's policy read is the cosine itself.
        assert_eq!(fuse(&legs, weighted())[0].similarity, 0.85);
    }

    #[test]
    fn the_only_text_of_its_kind_is_not_its_own_background() {
        let mut article = hit("guide", "es", 0.9);
        article.kind = MemoryKind::Article;
        let background =
            vec![background(MemoryKind::Article, "es", 1, 0.9), background(MemoryKind::Ticket, "es", 50, 0.8)];
        let solution = vec![article, hit("ticket", "es", 0.8)];
        let legs = Legs { problem: solution.clone(), solution, background, ..Legs::default() };
        assert_eq!(order(&legs, weighted()), ["guide", "ticket"]);
        assert!(fuse(&legs, weighted())[0].score > 0.88);
    }

    #[test]
    fn several_good_passages_beat_a_slightly_better_lone_one() {
        let passage = |name: &str, number: u128, score: f32| {
            let mut passage = hit(name, "en", score);
            (passage.kind, passage.passage) = (MemoryKind::Article, number as usize);
            passage.point = Uuid::from_u128(passage.point.as_u128() * 100 + number);
            passage
        };
        let mut solution = vec![passage("lone", 0, 0.86)];
        solution.extend([0.85, 0.84, 0.84].iter().enumerate().map(|(n, score)| passage("whole", n as u128, *score)));
        solution.extend([passage("lone", 1, 0.70), hit("ticket", "en", 0.9)]);
        let legs = Legs { problem: solution.clone(), solution, ..Legs::default() };
        assert_eq!(order(&legs, Fusion::Dense)[..3], ["ticket", "lone", "whole"]);
        let fused = fuse(&legs, weighted());
        assert_eq!((fused[0].memory_id.as_str(), fused[0].passage), ("whole", 0));
        let score = |name: &str| fused.iter().find(|point| point.memory_id == name).map_or(0.0, |point| point.score);
        // 0.02 is the article's bonus; only the second and the third best passage count.
        assert!((score("whole") - (0.85 + 0.02 + 0.15 * (0.14 + 0.14))).abs() < 1e-5);
        assert!((score("lone") - 0.88).abs() < 1e-5 && (score("ticket") - 0.9).abs() < 1e-5);
    }

    #[test]
    fn words_alone_rank_when_the_request_has_no_vector() {
        let legs = Legs { lexical: vec![hit("a", "en", 8.0), hit("b", "es", 20.0)], ..Legs::default() };
        assert_eq!(order(&legs, weighted()), ["b", "a"]);
        assert_eq!(fuse(&legs, weighted())[0].similarity, 0.0);
    }

    #[test]
    fn ties_go_by_id_and_nothing_gives_nothing() {
        let legs = Legs { problem: vec![hit("b", "en", 0.5), hit("a", "en", 0.5)], ..Legs::default() };
        assert_eq!(order(&legs, Fusion::Dense), ["a", "b"]);
        assert!(fuse(&Legs::default(), Fusion::Rrf).is_empty());
    }
}
