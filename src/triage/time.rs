//! How long it will take: quantiles of how long similar requests really took.

use crate::ticket::{ExpectedTime, MemoryKind, Retrieved};

/// Cosine below which a ticket says nothing about this one. Measured between 2,500 labelled requests: two of them at random have
/// 0.58 (median; 95 % have less than 0.70), each and its closest 0.80.
pub const SIMILARITY_BOUND: f32 = 0.72;
/// Fewer similar tickets than this say nothing.
const FEWEST: usize = 5;
/// The overall quantiles count as much as this many tickets of full similarity.
const SHRINKAGE: f32 = 5.0;
/// Similarity lost by which a ticket counts a third (1/e) of the closest one.
const FALLOFF: f32 = 0.1;

/// Median and 90 % quantile of the hours of similar tickets, weighted by similarity and, in the logarithm, shrunk
/// towards the memory's overall quantiles; those alone where similar tickets are too few; None without any data.
pub fn expected_time(neighbours: &[Retrieved], overall: Option<ExpectedTime>) -> Option<ExpectedTime> {
    let overall = overall.map(|overall| ExpectedTime { samples: 0, ..overall });
    let mut similar: Vec<(f32, f32)> = neighbours
        .iter()
        .filter(|one| one.item.kind == MemoryKind::Ticket && one.similarity >= SIMILARITY_BOUND)
        .filter_map(|one| known_hours(one).map(|hours| (hours, one.similarity)))
        .collect();
    if similar.len() < FEWEST {
        return overall;
    }
    let closest = similar.iter().map(|(_, similarity)| *similarity).fold(f32::MIN, f32::max);
    similar.iter_mut().for_each(|(_, weight)| *weight = ((*weight - closest) / FALLOFF).exp());
    similar.sort_by(|one, other| one.0.total_cmp(&other.0));
    let total: f32 = similar.iter().map(|(_, weight)| weight).sum();
    let median = shrunk(quantile(&similar, 0.5), total, overall.map(|overall| overall.median_hours));
    let p90 = shrunk(quantile(&similar, 0.9), total, overall.map(|overall| overall.p90_hours));
    Some(ExpectedTime { median_hours: median, p90_hours: p90.max(median), samples: similar.len() })
}

/// The hours of a solved ticket, where they are known and make sense.
pub fn known_hours(neighbour: &Retrieved) -> Option<f32> {
    neighbour.item.resolved_hours.filter(|hours| hours.is_finite() && *hours >= 0.0)
}

/// The value at which `share` of the weight is reached. `values` are sorted by value and not empty.
fn quantile(values: &[(f32, f32)], share: f32) -> f32 {
    let wanted = share * values.iter().map(|(_, weight)| weight).sum::<f32>();
    let mut reached = 0.0;
    for (value, weight) in values {
        reached += weight;
        if reached >= wanted {
            return *value;
        }
    }
    values.last().map_or(0.0, |(value, _)| *value)
}

fn shrunk(hours: f32, weight: f32, overall: Option<f32>) -> f32 {
    let Some(overall) = overall.filter(|overall| overall.is_finite() && *overall >= 0.0) else { return hours };
    // ln(1 + hours) keeps solutions within minutes apart from each other and has no pole at 0.
    ((weight * hours.ln_1p() + SHRINKAGE * overall.ln_1p()) / (weight + SHRINKAGE)).exp_m1()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::ticket::{AnswerKind, Language, MemoryItem};

    pub fn neighbour(id: &str, similarity: f32, hours: Option<f32>, queue: Option<&str>) -> Retrieved {
        let item = MemoryItem {
            id: id.into(),
            kind: MemoryKind::Ticket,
            language: Language::EN,
            product: None,
            queue: queue.map(str::to_owned),
            title: "title".into(),
            problem: "problem".into(),
            solution: "solution".into(),
            answer_kind: Some(AnswerKind::Accepted),
            url: None,
            resolved_hours: hours,
            created_at: None,
        };
        Retrieved { item, passage: "solution".into(), score: similarity, similarity, lexical: 0.0 }
    }

    const OVERALL: ExpectedTime = ExpectedTime { median_hours: 10.0, p90_hours: 100.0, samples: 9_000 };

    #[test]
    fn few_neighbours_give_the_overall_quantiles() {
        assert_eq!(expected_time(&[], None), None);
        let few = [neighbour("a", 0.95, Some(1.0), None)];
        assert_eq!(expected_time(&few, Some(OVERALL)), Some(ExpectedTime { samples: 0, ..OVERALL }));
        let far: Vec<Retrieved> = (0..9).map(|_| neighbour("a", 0.7, Some(1.0), None)).collect();
        assert_eq!(expected_time(&far, None), None);
    }

    #[test]
    fn many_quick_neighbours_shorten_the_time() {
        let quick: Vec<Retrieved> = (0..20).map(|_| neighbour("a", 0.95, Some(1.0), None)).collect();
        let time = expected_time(&quick, Some(OVERALL)).expect("twenty neighbours");
        assert_eq!(time.samples, 20);
        assert!(time.median_hours > 1.0 && time.median_hours < 3.0, "{time:?}");
        assert!(time.p90_hours >= time.median_hours && time.p90_hours < 100.0);
    }

    #[test]
    fn close_neighbours_count_more() {
        let mut mixed: Vec<Retrieved> = (0..5).map(|_| neighbour("near", 0.96, Some(2.0), None)).collect();
        mixed.extend((0..8).map(|_| neighbour("far", 0.8, Some(200.0), None)));
        let time = expected_time(&mixed, None).expect("thirteen neighbours");
        assert_eq!(time.median_hours, 2.0);
    }

    #[test]
    fn senseless_hours_are_left_out() {
        let odd: Vec<Retrieved> =
            [f32::NAN, -3.0, f32::INFINITY, 1.0, 1.0, 1.0].map(|hours| neighbour("a", 0.9, Some(hours), None)).into();
        assert_eq!(expected_time(&odd, None), None);
    }
}
