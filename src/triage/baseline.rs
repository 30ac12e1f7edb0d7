//! What the heads have to beat: always the most frequent class, and a few rules over the lexicon.

use std::collections::HashSet;

use super::data::{Labelled, Task};
use super::heads::CLASSES;
use super::lexicon;
use super::measure::{Judged, best};
use super::text::tokens;

/// Added to every count, so that no class has probability 0.
const SMOOTHING: f32 = 0.5;

/// Learns from the first rows, judges the second.
pub type Baseline = fn(&[&Labelled], &[&Labelled], Task) -> Vec<Judged>;

/// Says the frequencies of the training rows to everyone.
pub fn majority(train: &[&Labelled], test: &[&Labelled], task: Task) -> Vec<Judged> {
    let probabilities = frequencies(train.iter().filter_map(|row| task.class(row)));
    let judge =
        |row: &&Labelled| task.class(row).map(|truth| Judged { truth, label: best(&probabilities), probabilities });
    test.iter().filter_map(judge).collect()
}

/// Says how often each class followed the rule's class in the training rows, with the rule's class made the highest.
pub fn keyword(train: &[&Labelled], test: &[&Labelled], task: Task) -> Vec<Judged> {
    let followed: Vec<[f32; CLASSES]> = (0..CLASSES)
        .map(|class| {
            let said = train.iter().filter(|row| rule(row, task) == class);
            let mut shares = frequencies(said.filter_map(|row| task.class(row)));
            let highest = shares.iter().copied().fold(0.0, f32::max);
            if shares[class] < highest {
                // The rule's own word counts; probabilities still sum to 1.
                let place = shares.iter().position(|share| *share == highest).unwrap_or(class);
                shares.swap(class, place);
            }
            shares
        })
        .collect();
    let judge = |row: &&Labelled| {
        let label = rule(row, task);
        task.class(row).map(|truth| Judged { truth, label, probabilities: followed[label] })
    };
    test.iter().filter_map(judge).collect()
}

/// A baseline cross-validated on the folds of the heads.
pub fn over_folds(baseline: Baseline, rows: &[Labelled], fold_of: &[usize], count: usize, task: Task) -> Vec<Judged> {
    let part = |fold: usize, inside: bool| -> Vec<&Labelled> {
        rows.iter().zip(fold_of).filter(|(_, of)| (**of == fold) == inside).map(|(row, _)| row).collect()
    };
    (0..count).flat_map(|fold| baseline(&part(fold, false), &part(fold, true), task)).collect()
}

fn frequencies(classes: impl Iterator<Item = usize>) -> [f32; CLASSES] {
    let mut counts = [SMOOTHING; CLASSES];
    classes.for_each(|class| counts[class] += 1.0);
    let total: f32 = counts.iter().sum();
    counts.map(|count| count / total)
}

/// The class that the words name.
fn rule(row: &Labelled, task: Task) -> usize {
    let words = tokens(&row.request().text());
    let found: HashSet<&str> =
        lexicon::find(&words).into_iter().map(|found| lexicon::CONCEPTS[found.concept].0).collect();
    let any = |names: &[&str]| names.iter().any(|name| found.contains(name));
    match task {
        Task::Urgency if any(&["attack"]) => 0,
        Task::Urgency if any(&["lost"]) && any(&["mail", "keepsakes"]) && any(&["everything", "recover"]) => 0,
        Task::Urgency if any(&["locked", "cannot"]) && any(&["send", "receive", "login", "start"]) => 1,
        Task::Urgency if any(&["wish", "looks", "annoyed", "praise"]) && !any(&["broken", "cannot", "error"]) => 3,
        Task::Urgency => 2,
        Task::Difficulty if any(&["howto", "wish", "looks"]) && !any(&["error", "crash", "broken"]) => 0,
        Task::Difficulty if any(&["diagnosis", "crash", "dispute"]) && words.len() > 80 => 2,
        Task::Difficulty => 1,
        Task::Next if any(&["spam"]) && !any(&["cannot", "broken", "howto", "lost"]) => 3,
        Task::Next if any(&["money", "dispute", "order", "close"]) => 2,
        Task::Next if words.len() < 25 && any(&["cannot", "broken", "error", "crash"]) => 1,
        Task::Next => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::data::tests::sample;
    use super::*;

    #[test]
    fn rules_read_both_languages() {
        for row in sample(1).iter().filter(|row| row.body.starts_with("He perdido") || row.body.starts_with("All my")) {
            assert_eq!(rule(row, Task::Urgency), 0, "{}", row.body);
        }
    }

    #[test]
    fn probabilities_sum_to_one_and_follow_the_rule() {
        let rows = sample(3);
        let rows: Vec<&Labelled> = rows.iter().collect();
        for baseline in [majority as Baseline, keyword] {
            for task in Task::ALL {
                for judged in baseline(&rows, &rows, task) {
                    assert!((judged.probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                }
            }
        }
    }
}
