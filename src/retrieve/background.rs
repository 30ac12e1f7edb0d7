//! What texts score that have nothing to do with a request: the level from which its real matches have to stand out.
//!
//! Cosines of embedding models are compressed and shifted: a Spanish request is closer to any Spanish ticket than to most
//! English ones, and closer to tickets, which sound like requests, than to articles. The shift is the mean cosine to the
//! memory of that kind in that language, and the mean of cosines is the cosine to the mean vector, so one mean vector for
//! each group is all that has to be kept.

use std::collections::BTreeMap;

use crate::ticket::MemoryKind;

/// Points that the means are taken of: the first by id. Ids are hashes, so these are a fair sample of a large memory, and
/// the same one each time.
pub const SAMPLE: usize = 2_000;

/// Mean cosines of a request to the memory of one kind in one language.
#[derive(Clone, Debug, PartialEq)]
pub struct Background {
    pub kind: MemoryKind,
    pub language: String,
    /// Points that the means are taken of.
    pub points: usize,
    pub problem: f32,
    pub solution: f32,
}

/// Mean vectors of each kind in each language.
#[derive(Clone, Debug, Default)]
pub struct Centroids {
    groups: BTreeMap<(&'static str, String), Group>,
}

#[derive(Clone, Debug)]
struct Group {
    kind: MemoryKind,
    points: usize,
    /// Sums, not means.
    problem: Vec<f64>,
    solution: Vec<f64>,
}

impl Centroids {
    /// Takes in a point's unit vectors.
    pub fn add(&mut self, kind: MemoryKind, language: &str, problem: &[f32], solution: &[f32]) {
        let key = (kind.name(), language.to_owned());
        let group = self.groups.entry(key).or_insert_with(|| Group {
            kind,
            points: 0,
            problem: vec![0.0; problem.len()],
            solution: vec![0.0; solution.len()],
        });
        group.points += 1;
        group.problem.iter_mut().zip(problem).for_each(|(sum, value)| *sum += f64::from(*value));
        group.solution.iter_mut().zip(solution).for_each(|(sum, value)| *sum += f64::from(*value));
    }

    /// Mean cosines of a request's unit vector to each group.
    pub fn background(&self, request: &[f32]) -> Vec<Background> {
        self.groups
            .iter()
            .map(|((_, language), group)| Background {
                kind: group.kind,
                language: language.clone(),
                points: group.points,
                problem: group.mean(&group.problem, request),
                solution: group.mean(&group.solution, request),
            })
            .collect()
    }
}

impl Group {
    fn mean(&self, sums: &[f64], request: &[f32]) -> f32 {
        let sum: f64 = sums.iter().zip(request).map(|(sum, value)| sum * f64::from(*value)).sum();
        (sum / self.points as f64) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_cosines_is_the_cosine_to_the_mean() {
        let mut centroids = Centroids::default();
        centroids.add(MemoryKind::Ticket, "es", &[1.0, 0.0], &[0.0, 1.0]);
        centroids.add(MemoryKind::Ticket, "es", &[0.6, 0.8], &[0.0, 1.0]);
        centroids.add(MemoryKind::Article, "en", &[0.0, 1.0], &[0.0, -1.0]);
        let background = centroids.background(&[0.6, 0.8]);
        assert_eq!(background.len(), 2);
        assert_eq!((background[0].kind, background[0].language.as_str()), (MemoryKind::Article, "en"));
        assert!((background[0].solution + 0.8).abs() < 1e-6);
        assert_eq!((background[1].points, background[1].language.as_str()), (2, "es"));
        assert!((background[1].problem - (0.6 + 1.0) / 2.0).abs() < 1e-6);
        assert!((background[1].solution - 0.8).abs() < 1e-6);
    }

    #[test]
    fn nothing_gives_nothing_and_odd_lengths_do_not_panic() {
        assert!(Centroids::default().background(&[1.0]).is_empty());
        let mut centroids = Centroids::default();
        centroids.add(MemoryKind::Ticket, "", &[], &[1.0]);
        centroids.add(MemoryKind::Ticket, "", &[1.0], &[]);
        assert!(centroids.background(&[]).iter().all(|group| group.problem == 0.0));
    }
}
