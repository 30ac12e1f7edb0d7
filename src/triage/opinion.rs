//! The fourth view of a request: the states of the language model that reads it ([`crate::inference::opinion`]).

use serde::{Deserialize, Serialize};

use super::data::{Labelled, Task};
use super::features::Row;
use super::heads::{Linear, Scores, TriageError};
use super::prepare::Prepared;

/// Reads one request: [`crate::inference::generator::Generator::consider`].
pub type ConsiderOne<'a> = dyn FnMut(&str) -> Result<Option<Vec<f32>>, TriageError> + 'a;

/// Which states the heads were trained to read, and what brings each of their numbers to mean 0 and deviation 1: a few of a language model's
/// are a thousand times the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct States {
    /// [`crate::inference::Inference::opinion_name`].
    pub name: String,
    pub mean: Vec<f32>,
    pub scale: Vec<f32>,
}

/// Rows of the states of labelled requests.
#[derive(Clone, Debug, Default)]
pub struct Opinions {
    /// Of the rows that the heads learn from, in their order; None where the model said nothing.
    pub rows: Vec<Option<Row>>,
    /// Further requests that this view alone learns from.
    pub more: Vec<(Row, Labelled)>,
}

impl States {
    /// As these `states` vary; all of one length.
    pub fn of<'a>(name: &str, states: impl Iterator<Item = &'a [f32]> + Clone) -> Self {
        let width = states.clone().next().map_or(0, <[f32]>::len);
        let count = states.clone().count().max(1) as f64;
        let (mut mean, mut squares) = (vec![0.0f64; width], vec![0.0f64; width]);
        for (at, value) in states.flat_map(|states| states.iter().enumerate()) {
            mean[at] += f64::from(*value) / count;
            squares[at] += f64::from(*value).powi(2) / count;
        }
        let deviation = |(mean, square): (&f64, &f64)| (square - mean * mean).max(1e-12).sqrt();
        let scale = mean.iter().zip(&squares).map(|both| (1.0 / deviation(both)) as f32).collect();
        Self { name: name.to_owned(), mean: mean.into_iter().map(|value| value as f32).collect(), scale }
    }

    /// None where these are not the states that the heads were trained on.
    pub fn row(&self, states: &[f32]) -> Option<Row> {
        let usable = states.len() == self.mean.len() && states.iter().all(|value| value.is_finite());
        let number = |((value, mean), scale): ((&f32, &f32), &f32)| (value - mean) * scale;
        let numbers = states.iter().zip(&self.mean).zip(&self.scale).map(number);
        usable.then(|| (0..).zip(numbers).collect())
    }

    /// The rows of requests with states.
    pub fn rows(&self, prepared: &[Prepared]) -> Vec<Option<Row>> {
        prepared.iter().map(|one| self.row(one.opinion.as_deref()?)).collect()
    }
}

impl Opinions {
    /// Of every row; 0 where the model said nothing.
    pub fn scores(&self, linear: &Linear) -> Vec<Scores> {
        let of = |row: &Option<Row>| row.as_ref().map(|row| linear.scores(row)).unwrap_or_default();
        self.rows.iter().map(of).collect()
    }

    /// Examples beside the rows: each further request with a label for `task`.
    pub fn further(&self, task: Task) -> impl Iterator<Item = (&Row, usize)> {
        self.more.iter().filter_map(move |(row, labelled)| Some((row, task.class(labelled)?)))
    }
}

/// What the language model makes of each request, in order; `progress` gets a line now and then, with `name` for what they are.
///
/// # Errors
/// When the model fails.
pub fn consider_all<'a>(
    requests: impl ExactSizeIterator<Item = &'a Labelled>,
    name: &str,
    consider: &mut ConsiderOne<'_>,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<Option<Vec<f32>>>, TriageError> {
    let total = requests.len();
    let mut opinions = Vec::with_capacity(total);
    for row in requests {
        opinions.push(consider(&row.request().text())?);
        if opinions.len() % 100 == 0 || opinions.len() == total {
            progress(&format!("{name}: {} of {total} requests considered", opinions.len()));
        }
    }
    Ok(opinions)
}

/// Puts to each row what the language model makes of it.
///
/// # Errors
/// As [`consider_all`].
pub fn consider_prepared(
    prepared: &mut [Prepared],
    name: &str,
    consider: &mut ConsiderOne<'_>,
    progress: &mut dyn FnMut(&str),
) -> Result<(), TriageError> {
    let opinions = consider_all(prepared.iter().map(|one| &one.row), name, consider, progress)?;
    prepared.iter_mut().zip(opinions).for_each(|(one, opinion)| one.opinion = opinion);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_size_count_alike() {
        let states = [[1000.0f32, 0.1], [3000.0, 0.3]];
        let of = States::of("model", states.iter().map(<[f32; 2]>::as_slice));
        let row = of.row(&states[0]).expect("of this length");
        assert!(row.iter().all(|(_, value)| (value + 1.0).abs() < 1e-3), "{row:?}");
        assert_eq!(of.row(&[1.0]), None);
        assert_eq!(of.row(&[f32::NAN, 0.0]), None);
        // A number that never varies says nothing, and breaks nothing.
        let same = States::of("model", [[5.0f32].as_slice(); 3].into_iter());
        assert!(same.row(&[5.0]).expect("of this length").iter().all(|(_, value)| value.abs() < 1e-3));
    }
}
