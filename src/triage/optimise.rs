//! Minimises smooth functions: L-BFGS with a backtracking line search (Nocedal & Wright, Numerical Optimization,
//! algorithms 7.4 and 7.5, Armijo condition 3.4). Deterministic.

use std::collections::VecDeque;

/// Pairs of steps and gradient differences kept.
const MEMORY: usize = 8;
/// Armijo's constant: a step must bring this share of what the slope promises.
const SUFFICIENT: f64 = 1e-4;
const MAX_HALVINGS: usize = 30;

/// A step `s`, its gradient difference `y`, and 1 / (s . y).
struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    inverse: f64,
}

/// Walks from `start` to a minimum of `function`, which returns the value and writes the gradient. Stops after
/// `max_steps`, or when a step lowers the value by less than one part in a million.
pub fn minimise(start: Vec<f64>, max_steps: usize, mut function: impl FnMut(&[f64], &mut [f64]) -> f64) -> Vec<f64> {
    let mut point = start;
    let mut gradient = vec![0.0; point.len()];
    let mut value = function(&point, &mut gradient);
    let mut pairs: VecDeque<Pair> = VecDeque::new();
    for _ in 0..max_steps {
        let direction = direction(&gradient, &pairs);
        let slope = dot(&direction, &gradient);
        if slope >= 0.0 || !slope.is_finite() {
            break;
        }
        let mut length = if pairs.is_empty() { 1.0 / dot(&gradient, &gradient).sqrt().max(1.0) } else { 1.0 };
        let mut next_gradient = vec![0.0; point.len()];
        let mut accepted = None;
        for _ in 0..MAX_HALVINGS {
            let next: Vec<f64> = point.iter().zip(&direction).map(|(at, way)| at + length * way).collect();
            let next_value = function(&next, &mut next_gradient);
            if next_value <= value + SUFFICIENT * length * slope {
                accepted = Some((next, next_value));
                break;
            }
            length /= 2.0;
        }
        let Some((next, next_value)) = accepted else { break };
        remember(&mut pairs, &point, &next, &gradient, &next_gradient);
        let gained = value - next_value;
        (point, value, gradient) = (next, next_value, next_gradient);
        if gained < 1e-6 * value.abs().max(1e-12) {
            break;
        }
    }
    point
}

fn remember(pairs: &mut VecDeque<Pair>, from: &[f64], to: &[f64], gradient: &[f64], next_gradient: &[f64]) {
    let step: Vec<f64> = to.iter().zip(from).map(|(a, b)| a - b).collect();
    let change: Vec<f64> = next_gradient.iter().zip(gradient).map(|(a, b)| a - b).collect();
    let curvature = dot(&step, &change);
    if curvature <= 1e-12 {
        return;
    }
    if pairs.len() == MEMORY {
        pairs.pop_front();
    }
    pairs.push_back(Pair { step, change, inverse: 1.0 / curvature });
}

/// The two-loop recursion: minus the approximate inverse Hessian times the gradient.
fn direction(gradient: &[f64], pairs: &VecDeque<Pair>) -> Vec<f64> {
    let mut way: Vec<f64> = gradient.iter().map(|slope| -slope).collect();
    let mut shares = Vec::with_capacity(pairs.len());
    for pair in pairs.iter().rev() {
        let share = pair.inverse * dot(&pair.step, &way);
        add_scaled(&mut way, -share, &pair.change);
        shares.push(share);
    }
    if let Some(newest) = pairs.back() {
        let scale = 1.0 / (newest.inverse * dot(&newest.change, &newest.change));
        way.iter_mut().for_each(|value| *value *= scale);
    }
    for (pair, share) in pairs.iter().zip(shares.into_iter().rev()) {
        let correction = pair.inverse * dot(&pair.change, &way);
        add_scaled(&mut way, share - correction, &pair.step);
    }
    way
}

fn dot(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(a, b)| a * b).sum()
}

fn add_scaled(target: &mut [f64], scale: f64, other: &[f64]) {
    target.iter_mut().zip(other).for_each(|(to, from)| *to += scale * from);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_bottom_of_a_narrow_valley() {
        // Rosenbrock's function has its minimum 0 at (1, 1).
        let found = minimise(vec![-1.2, 1.0], 500, |point, gradient| {
            let (x, y) = (point[0], point[1]);
            gradient[0] = -2.0 * (1.0 - x) - 400.0 * x * (y - x * x);
            gradient[1] = 200.0 * (y - x * x);
            (1.0 - x).powi(2) + 100.0 * (y - x * x).powi(2)
        });
        assert!((found[0] - 1.0).abs() < 1e-2 && (found[1] - 1.0).abs() < 1e-2, "{found:?}");
    }

    #[test]
    fn stays_where_the_slope_is_no_number() {
        let found = minimise(vec![3.0], 10, |_, gradient| {
            gradient[0] = f64::NAN;
            f64::NAN
        });
        assert_eq!(found, [3.0]);
    }
}
