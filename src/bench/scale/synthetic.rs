//! Synthetic memory items as noisy neighbours of real ones, and real requests to search with.
//!
//! An item lies between two real items of one language, nearer to the first, with noise added: `b + w (c - b) + noise`
//! with w below a third, normalised. Its words are the first item's with some of the second's. So a million items crowd
//! around a few thousand places, which is harder to search than a million real ones would be, and a rare word is as rare as
//! in the real sample: it occurs in hundreds of items where a larger real memory would bring new words.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Asked;
use crate::app::load_embedder;
use crate::embed::Role;
use crate::eval::kept::{KeptVectors, hex};
use crate::inference::Inference;
use crate::models::default_cache_dir;
use crate::retrieve::question_sets::{self, invented_desk, similar_tickets};
use crate::retrieve::{MemoryPoint, plan_points};

/// Largest share of the second item.
const MIXED: f32 = 0.3;
/// Length of the noise, where vectors have length 1.
const NOISE: f32 = 0.25;
/// Share of words taken from the second item.
const WORDS_MIXED: f32 = 0.2;

/// Real items and requests with their vectors.
pub struct Real {
    /// In words, with a digest.
    source: String,
    points: Vec<MemoryPoint>,
    requests: Vec<Asked>,
}

impl Real {
    /// Tickets of `data` and requests that are none of them; the project's samples where that folder is absent.
    ///
    /// # Errors
    /// When the embedding model is missing or the data unreadable.
    pub async fn read(settings: &crate::settings::Settings, data: &Path, requests: usize) -> Result<Self> {
        let (name, set) = match data.is_dir() {
            true => ("Thunderbird support threads", similar_tickets(data)?),
            false => {
                eprintln!("{} is absent: items are made of the project's few samples", data.display());
                ("the project's samples", invented_desk()?)
            }
        };
        let asked = held_out(set.requests, requests);
        let ids: BTreeSet<&str> = asked.iter().map(|asked| asked.id.as_str()).collect();
        let items: Vec<_> = set.items.into_iter().filter(|item| !ids.contains(item.id.as_str())).collect();
        ensure!(!items.is_empty() && !asked.is_empty(), "nothing to make items of in {}", data.display());

        let inference = Inference::start(load_embedder(settings)?, None);
        let vectors = KeptVectors::open(&default_cache_dir().join("eval/vectors"), inference.clone())?;
        let plans: Vec<_> =
            items.iter().flat_map(|item| plan_points(item).into_iter().map(move |p| (item, p))).collect();
        let texts = |text: fn(&crate::retrieve::PointPlan) -> &String| -> Vec<String> {
            plans.iter().map(|(_, plan)| text(plan).clone()).collect()
        };
        let progress = |done| eprint!("\rembedding real texts: {done} ");
        let problems = vectors.of(&texts(|plan| &plan.problem_text), Role::Passage, progress).await?;
        let solutions = vectors.of(&texts(|plan| &plan.solution_text), Role::Passage, progress).await?;
        let asked_texts: Vec<String> = asked.iter().map(|asked| asked.text.clone()).collect();
        let asked_vectors = vectors.of(&asked_texts, Role::Query, progress).await?;
        eprintln!();
        let points: Vec<MemoryPoint> = plans
            .into_iter()
            .zip(problems.into_iter().zip(solutions))
            .map(|((item, plan), (problem, solution))| plan.into_point(item, problem, solution))
            .collect();
        let requests: Vec<Asked> = asked
            .into_iter()
            .zip(asked_vectors)
            .map(|(asked, vector)| Asked { vector, text: asked.text, language: asked.language })
            .collect();
        tokio::task::spawn_blocking(move || inference.stop()).await?;
        Ok(Self { source: described(name, &points, &requests), points, requests })
    }
}

/// Up to `count` whole requests, the same ones every time.
fn held_out(requests: Vec<question_sets::Asked>, count: usize) -> Vec<question_sets::Asked> {
    let mut whole: Vec<question_sets::Asked> =
        requests.into_iter().filter(|asked| asked.slices.first().is_some_and(|slice| slice == "all")).collect();
    whole.sort_by_cached_key(|asked| super::super::shuffle_key("scale", &asked.id));
    whole.truncate(count);
    whole
}

fn described(name: &str, points: &[MemoryPoint], requests: &[Asked]) -> String {
    let mut digest = Sha256::new();
    for vector in points.iter().flat_map(|p| [&p.problem, &p.solution]).chain(requests.iter().map(|r| &r.vector)) {
        vector.iter().for_each(|value| digest.update(value.to_le_bytes()));
    }
    format!("{} points of {name}, {} requests ({})", points.len(), requests.len(), hex(&digest.finalize(), 4))
}

/// Makes items; the same number gives the same item every time.
pub struct Synthetic {
    real: Real,
    /// Real points of each language.
    of_language: HashMap<String, Vec<usize>>,
}

impl Synthetic {
    pub fn new(real: Real) -> Self {
        let mut of_language: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, point) in real.points.iter().enumerate() {
            of_language.entry(point.language.clone()).or_default().push(at);
        }
        Self { real, of_language }
    }

    pub fn source(&self) -> &str {
        &self.real.source
    }

    /// See [`super::Built::requests`].
    pub fn requests(&self) -> &[Asked] {
        &self.real.requests
    }

    pub fn dimensions(&self) -> usize {
        self.real.points.first().map_or(0, |point| point.problem.len())
    }

    /// Item `number`, a ticket.
    ///
    /// # Errors
    /// Never with real points of at least one language, which [`Real::read`] makes sure of.
    pub fn item(&self, number: usize) -> Result<MemoryPoint> {
        let mut random = fastrand::Rng::with_seed(number as u64);
        let real = &self.real.points;
        let first = real.get(random.usize(..real.len())).context("no real point")?;
        let alike = self.of_language.get(&first.language).context("no real point of this language")?;
        let second = alike.get(random.usize(..alike.len())).and_then(|at| real.get(*at)).context("no real point")?;
        let share = random.f32() * MIXED;
        let mut near = |one: &[f32], other: &[f32]| neighbour(one, other, share, &mut random);
        let (problem, solution) = (near(&first.problem, &second.problem), near(&first.solution, &second.solution));
        Ok(MemoryPoint {
            id: id(number),
            memory_id: format!("synthetic-{number}"),
            problem,
            solution,
            problem_text: mixed(&first.problem_text, &second.problem_text, &mut random),
            solution_text: mixed(&first.solution_text, &second.solution_text, &mut random),
            passage: 0,
            ..first.clone()
        })
    }
}

/// A hash, as the ids of real points are: the engine's order must not be the order in which items were made.
fn id(number: usize) -> Uuid {
    let digest = Sha256::digest(number.to_le_bytes());
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(digest).for_each(|(byte, value)| *byte = value);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

fn neighbour(one: &[f32], other: &[f32], share: f32, random: &mut fastrand::Rng) -> Vec<f32> {
    // Uniform noise on (-a, a) has the variance a² / 3.
    let width = NOISE * (3.0 / one.len().max(1) as f32).sqrt();
    let mut vector: Vec<f32> =
        one.iter().zip(other).map(|(a, b)| a + share * (b - a) + width * (2.0 * random.f32() - 1.0)).collect();
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    vector.iter_mut().for_each(|value| *value /= length);
    vector
}

fn mixed(one: &str, other: &str, random: &mut fastrand::Rng) -> String {
    let other: Vec<&str> = other.split_whitespace().collect();
    let mut text = String::with_capacity(one.len() * 5 / 4);
    for word in one.split_whitespace() {
        let swapped = random.f32() < WORDS_MIXED && !other.is_empty();
        text.push_str(if swapped { other[random.usize(..other.len())] } else { word });
        text.push(' ');
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ticket::MemoryKind;

    /// Made-up points in place of real ones.
    pub fn small(points: usize, requests: usize, dimensions: usize) -> Synthetic {
        let vector = |seed: usize| {
            let mut random = fastrand::Rng::with_seed(seed as u64);
            neighbour(&vec![0.0; dimensions], &vec![0.0; dimensions], 0.0, &mut random)
        };
        let point = |n: usize| MemoryPoint {
            id: Uuid::from_u128(n as u128),
            memory_id: format!("real-{n}"),
            kind: MemoryKind::Ticket,
            product: None,
            language: ["en", "es"][usize::from(n.is_multiple_of(4))].to_owned(),
            problem: vector(n),
            solution: vector(n + points),
            problem_text: format!("problem number p{n} with mail"),
            solution_text: format!("solution number s{n} for mail"),
            passage: 0,
        };
        let asked = |n: usize| Asked { vector: vector(10_000 + n), text: format!("mail p{n}"), language: "en".into() };
        let (points, requests) =
            ((0..points).map(point).collect::<Vec<_>>(), (0..requests).map(asked).collect::<Vec<_>>());
        Synthetic::new(Real { source: described("made-up points", &points, &requests), points, requests })
    }

    #[test]
    fn items_are_the_same_every_time_and_near_a_real_one_of_their_language() {
        let synthetic = small(50, 3, 64);
        for number in 0..40 {
            let (item, again) = (synthetic.item(number).expect("item"), synthetic.item(number).expect("item"));
            assert_eq!((item.id, &item.problem, &item.problem_text), (again.id, &again.problem, &again.problem_text));
            let cosine = |real: &MemoryPoint| item.problem.iter().zip(&real.problem).map(|(a, b)| a * b).sum::<f32>();
            let nearest = synthetic.real.points.iter().max_by(|a, b| cosine(a).total_cmp(&cosine(b))).expect("real");
            assert_eq!(nearest.language, item.language);
            let close = cosine(nearest);
            assert!((0.8..0.999).contains(&close), "{close}");
            assert!((item.problem.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-4);
            assert_eq!(item.problem_text.split_whitespace().count(), 5);
        }
        assert_ne!(synthetic.item(1).expect("item").id, synthetic.item(2).expect("item").id);
    }
}
