//! Selective answering: what goes wrong when only the answers of which the service is surest are sent.
//!
//! Cases are ranked by confidence. Sending all above a threshold buys coverage (share of the cases sent) at a risk (share of
//! those sent that are wrong): El-Yaniv and Wiener, "On the foundations of noise-free selective classification" (2010).
//! Cases of equal confidence are always sent together, so that their order does not matter.

/// What is sent at one threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Cases of this confidence and above are sent.
    pub threshold: f64,
    pub sent: usize,
    /// Of those sent.
    pub wrong: usize,
    /// Share of all cases that is sent.
    pub coverage: f64,
    /// Share of those sent that is wrong.
    pub risk: f64,
}

/// A threshold that keeps the budget, and what it buys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Safe {
    /// Send from this confidence on.
    pub threshold: f64,
    /// Share of all cases that is sent.
    pub coverage: f64,
    /// Of those sent.
    pub wrong: usize,
    pub sent: usize,
}

/// Confidence of the bounds, one-sided.
pub const CONFIDENCE: f64 = 0.95;
/// Most searches for a safe threshold, which share what may go wrong.
const SEARCHES: usize = 4;
/// Halvings of the interval in which a bound lies: to the last digit of a double.
const BISECTIONS: usize = 60;

/// Cases ranked once, for many resamples.
pub(crate) struct Ranked {
    /// Confidence, number of the case, whether it is right; most confident first.
    cases: Vec<(f64, usize, bool)>,
}

impl Ranked {
    /// `right` at 0.5 or above is right. What only one of the two lists has is left out.
    pub(crate) fn new(confidences: &[f64], right: &[f64]) -> Self {
        let numbered = confidences.iter().zip(right).enumerate();
        let mut cases: Vec<_> =
            numbered.map(|(number, (confidence, right))| (*confidence, number, *right >= 0.5)).collect();
        cases.sort_by(|one, other| other.0.total_cmp(&one.0));
        Self { cases }
    }

    /// The risk-coverage curve where case `i` occurs `counts[i]` times: one point per confidence, most confident first.
    pub(crate) fn curve(&self, counts: &[u32]) -> Vec<Point> {
        let count = |number: usize| counts.get(number).map_or(0, |count| *count as usize);
        let total: usize = self.cases.iter().map(|case| count(case.1)).sum();
        let (mut sent, mut wrong) = (0, 0);
        let mut points: Vec<Point> = Vec::new();
        for (confidence, number, right) in &self.cases {
            let here = count(*number);
            if here == 0 {
                continue;
            }
            sent += here;
            wrong += if *right { 0 } else { here };
            let coverage = sent as f64 / total as f64;
            let point = Point { threshold: *confidence, sent, wrong, coverage, risk: wrong as f64 / sent as f64 };
            match points.last_mut() {
                Some(last) if last.threshold == *confidence => *last = point,
                _ => points.push(point),
            }
        }
        points
    }
}

/// The risk-coverage curve: one point per confidence, most confident first. What only one of the two lists has is left out.
pub fn curve(confidences: &[f64], right: &[bool]) -> Vec<Point> {
    let right: Vec<f64> = right.iter().map(|right| f64::from(u8::from(*right))).collect();
    Ranked::new(confidences, &right).curve(&vec![1; right.len()])
}

/// Area under the risk-coverage curve (AURC; Geifman, Uziel and El-Yaniv, 2019): the mean risk over sending the first one,
/// the first two, ... all cases; where several have the same confidence, its expectation over their orders. 0 (nothing is
/// wrong) to 1; a confidence that says nothing has the share of wrong answers. None without points.
pub fn area(points: &[Point]) -> Option<f64> {
    let total = points.last()?.sent;
    let (mut sent, mut wrong, mut sum) = (0, 0, 0.0);
    for point in points {
        let rate = (point.wrong - wrong) as f64 / (point.sent - sent) as f64;
        sum +=
            (1..=point.sent - sent).map(|more| (wrong as f64 + more as f64 * rate) / (sent + more) as f64).sum::<f64>();
        (sent, wrong) = (point.sent, point.wrong);
    }
    Some(sum / total as f64)
}

/// Upper bound on the share of wrong ones after `wrong` of `n` (Clopper and Pearson, 1934; one-sided, exact): the share at
/// which so few would be seen with a probability of `1 - confidence`. 1 where nothing was tried.
pub fn clopper_pearson_upper(wrong: usize, n: usize, confidence: f64) -> f64 {
    if wrong >= n {
        return 1.0;
    }
    let (mut low, mut high) = (wrong as f64 / n as f64, 1.0);
    for _ in 0..BISECTIONS {
        let middle = f64::midpoint(low, high);
        if at_most(wrong, n, middle) > 1.0 - confidence { low = middle } else { high = middle }
    }
    high
}

/// Probability of at most `wrong` in `n` draws where each is wrong with the probability `share`; `wrong < n`.
fn at_most(wrong: usize, n: usize, share: f64) -> f64 {
    if share <= 0.0 || share >= 1.0 {
        return f64::from(u8::from(share <= 0.0));
    }
    // In logarithms: the first terms are far below what a double can hold.
    let odds = share.ln() - (-share).ln_1p();
    let mut term = n as f64 * (-share).ln_1p();
    let mut sum = term.exp();
    for seen in 1..=wrong {
        term += ((n - seen + 1) as f64 / seen as f64).ln() + odds;
        sum += term.exp();
    }
    sum.min(1.0)
}

/// `allowances(..)[n]`: how many wrong ones of `n` are too many, that is, the fewest with which the upper bound lies above
/// `budget` (0: even none is too many, the cases are too few). For `n` up to `most`.
///
/// Equal to comparing [`clopper_pearson_upper`] with the budget for each `n`, but in one walk: the binomial distribution for
/// `n + 1` follows from that for `n`.
pub(crate) fn allowances(most: usize, budget: f64, confidence: f64) -> Vec<usize> {
    let alpha = 1.0 - confidence;
    let mut allowances = vec![0; most + 1];
    if budget <= 0.0 {
        return allowances;
    }
    if budget >= 1.0 {
        return (1..=most + 1).collect();
    }
    // `term` is the probability of exactly `fewest` wrong ones, `below` that of fewer.
    let (mut fewest, mut term, mut below) = (0usize, 1.0, 0.0);
    for (n, allowance) in allowances.iter_mut().enumerate() {
        if n > 0 {
            let before = if fewest == 0 { 0.0 } else { term_before(term, fewest, n - 1, budget) };
            below -= budget * before;
            term = term * (1.0 - budget) + budget * before;
        }
        while fewest < n && below + term <= alpha {
            below += term;
            term *= (n - fewest) as f64 / (fewest + 1) as f64 * budget / (1.0 - budget);
            fewest += 1;
        }
        *allowance = fewest;
    }
    allowances
}

/// From the probability of `k` of `n` that of `k - 1`.
fn term_before(term: f64, k: usize, n: usize, share: f64) -> f64 {
    term * k as f64 / (n + 1 - k) as f64 * (1.0 - share) / share
}

/// The lowest threshold found for which it is 95 % sure that the share of wrong ones among those sent is within `budget` (0 to
/// 1); None where there is no such threshold.
///
/// Why not simply the longest prefix with a Clopper-Pearson bound within the budget: that bound is for a threshold fixed in
/// advance. Whoever tries every threshold on these cases and reports the luckiest promises too much. Instead thresholds are
/// tried from the most confident down, and the first that fails ends the search: fixed sequence testing, after which the
/// promise holds for the threshold chosen (Angelopoulos et al., "Learn then Test", 2021, section 4). The same paper's remedy
/// for an early mistake that ends a search with many cases left: several searches, from starts spread over the cases, which
/// share the 5 %.
///
/// What is tried must not depend on what was right. So the first start is where a threshold could pass with none wrong (with a
/// budget of 5 % and one search: 59 cases), there are as many searches as such stretches in all cases, up to four, and
/// a search tries where one more wrong case becomes affordable (93 cases and one, 124 and two) and all cases. The price of the
/// promise: a few dozen cases can rarely buy any coverage.
///
/// It holds for requests like these, and says nothing of other requests, models or prompts.
pub fn safe_threshold(confidences: &[f64], right: &[bool], budget: f64) -> Option<Safe> {
    let points = curve(confidences, right);
    Budget::new(points.last()?.sent, budget).safe(&points)
}

/// What [`safe_threshold`] tries, for a number of cases.
pub(crate) struct Budget {
    /// [`allowances`] of each search.
    limits: Vec<usize>,
    /// Cases sent at the first threshold that each search tries.
    starts: Vec<usize>,
}

impl Budget {
    pub(crate) fn new(cases: usize, budget: f64) -> Self {
        let fewest = |limits: &[usize]| limits.iter().position(|limit| *limit > 0).map(|cases| cases.max(1));
        let searches = fewest(&allowances(cases, budget, CONFIDENCE)).map_or(1, |few| (cases / few).clamp(1, SEARCHES));
        let limits = allowances(cases, budget, 1.0 - (1.0 - CONFIDENCE) / searches as f64);
        let first = fewest(&limits).unwrap_or(cases);
        let starts = (0..searches).map(|number| first + cases.saturating_sub(first) * number / searches).collect();
        Self { limits, starts }
    }

    /// The lowest threshold that one of the searches ends at. `points` are of as many cases as the budget.
    pub(crate) fn safe(&self, points: &[Point]) -> Option<Safe> {
        self.starts.iter().filter_map(|start| self.search(points, *start)).max_by_key(|safe| safe.sent)
    }

    fn search(&self, points: &[Point], start: usize) -> Option<Safe> {
        let all = points.last()?.sent;
        let (mut passed, mut affordable) = (None, 0);
        for point in points.iter().filter(|point| point.sent >= start) {
            let limit = self.limits.get(point.sent).copied().unwrap_or_default();
            if limit == affordable && point.sent < all {
                continue;
            }
            affordable = limit;
            if point.wrong >= limit {
                break;
            }
            let Point { threshold, coverage, wrong, sent, .. } = *point;
            passed = Some(Safe { threshold, coverage, wrong, sent });
        }
        passed
    }
}

/// The curve of a detector, whose "right" cases are those looked for: the largest recall at which at most `rate` of the others
/// are taken for one. None where nothing was to be found, or nothing else was there.
pub(crate) fn recall_at_false_alarms(points: &[Point], rate: f64) -> Option<f64> {
    let all = points.last()?;
    let (others, wanted) = (all.wrong, all.sent - all.wrong);
    if wanted == 0 || others == 0 {
        return None;
    }
    let within = points.iter().take_while(|point| point.wrong as f64 <= rate * others as f64);
    let found = within.last().map_or(0, |point| point.sent - point.wrong);
    Some(found as f64 / wanted as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_the_published_ones() {
        // R: binom.test(wrong, n, alternative = "less")$conf.int; the rule of three gives 3 / 100 for the second.
        let cases =
            [(0, 10, 0.258_866), (0, 100, 0.029_513), (5, 100, 0.102_253), (1, 20, 0.216_106), (250, 5000, 0.055_368)];
        for (wrong, n, bound) in cases {
            let ours = clopper_pearson_upper(wrong, n, 0.95);
            assert!((ours - bound).abs() < 1e-6, "{wrong} of {n}: {ours}");
        }
        assert_eq!(clopper_pearson_upper(10, 10, 0.95), 1.0);
        assert_eq!(clopper_pearson_upper(0, 0, 0.95), 1.0);
        assert!((clopper_pearson_upper(0, 1, 0.95) - 0.95).abs() < 1e-12);
    }

    #[test]
    fn allowances_agree_with_the_bound() {
        for budget in [0.01, 0.05, 0.2, 0.5, 0.97] {
            let limits = allowances(400, budget, CONFIDENCE);
            for (n, limit) in limits.iter().enumerate() {
                assert!(
                    *limit == 0 || clopper_pearson_upper(limit - 1, n, CONFIDENCE) <= budget,
                    "{budget} {n} {limit}"
                );
                assert!(clopper_pearson_upper(*limit, n, CONFIDENCE) > budget, "{budget} {n} {limit}");
            }
        }
        let five = allowances(130, 0.05, CONFIDENCE);
        assert_eq!([58, 59, 92, 93, 123, 124].map(|n| five[n]), [0, 1, 1, 2, 2, 3]);
        assert_eq!(allowances(3, 0.0, CONFIDENCE), [0; 4]);
        assert_eq!(allowances(2, 1.0, CONFIDENCE), [1, 2, 3]);
    }

    #[test]
    fn the_curve_goes_through_whole_ties_in_any_order() {
        let points = curve(&[0.9, 0.5, 0.9, 0.1], &[true, false, false, true]);
        let seen: Vec<_> = points.iter().map(|point| (point.threshold, point.sent, point.wrong)).collect();
        assert_eq!(seen, [(0.9, 2, 1), (0.5, 3, 2), (0.1, 4, 2)]);
        assert_eq!((points[0].coverage, points[0].risk), (0.5, 0.5));
        assert_eq!(curve(&[0.5, 0.9, 0.1, 0.9], &[false, false, true, true]), points);
        assert!(curve(&[], &[]).is_empty());
        assert_eq!(curve(&[0.3, 0.2], &[true]).len(), 1, "no truth, no case");
    }

    #[test]
    fn area_is_the_mean_risk_over_all_prefixes() {
        // Risks 0, 1/2, 1/3, 2/4.
        let area_of = |confidences: &[f64], right: &[bool]| area(&curve(confidences, right));
        let area = area_of(&[0.9, 0.8, 0.7, 0.6], &[true, false, true, false]).expect("cases");
        assert!((area - (0.5 + 1.0 / 3.0 + 0.5) / 4.0).abs() < 1e-12, "{area}");
        let tied = area_of(&[0.5; 4], &[true, false, true, false]).expect("cases");
        assert!((tied - 0.5).abs() < 1e-12, "a confidence that says nothing has the share of wrong ones: {tied}");
        // Risk 0, then the mean of both orders of the other two: (0 + 1/2) / 2 and 1/3.
        let some = area_of(&[0.9, 0.5, 0.5], &[true, true, false]).expect("cases");
        assert!((some - (0.25 + 1.0 / 3.0) / 3.0).abs() < 1e-12, "{some}");
        assert_eq!(area_of(&[], &[]), None);
        assert_eq!(area_of(&[0.5], &[true]), Some(0.0));
    }

    /// Confidences falling from 1, with wrong ones at these ranks from 0.
    fn ranked(n: usize, wrong: &[usize]) -> (Vec<f64>, Vec<bool>) {
        ((0..n).map(|at| 1.0 - at as f64 / n as f64).collect(), (0..n).map(|at| !wrong.contains(&at)).collect())
    }

    #[test]
    fn as_much_is_sent_as_is_surely_within_the_budget() {
        let sent = |n, wrong: &[usize]| {
            let (confidences, right) = ranked(n, wrong);
            safe_threshold(&confidences, &right, 0.05).map(|safe| (safe.sent, safe.wrong))
        };
        assert_eq!(sent(58, &[]), None, "too few to be sure of anything");
        assert_eq!(sent(59, &[]), Some((59, 0)));
        assert_eq!(sent(110, &[80]), Some((110, 1)), "all cases are tried too");
        assert_eq!(sent(110, &[5]), None, "an early mistake ends the only search");
        assert_eq!(sent(110, &[60, 80]), Some((59, 0)));
        assert_eq!(sent(1000, &[5]), Some((1000, 1)), "other searches start behind it");
        let behind: Vec<usize> = (300..1000).collect();
        assert!(sent(1000, &behind).is_some_and(|(sent, wrong)| (260..310).contains(&sent) && wrong < 10));
        assert_eq!(sent(0, &[]), None);
        let (confidences, right) = ranked(100, &[99]);
        let safe = safe_threshold(&confidences, &right, 0.05).expect("safe");
        assert_eq!((safe.threshold, safe.coverage), (confidences[99], 1.0));
        assert!(clopper_pearson_upper(safe.wrong, safe.sent, CONFIDENCE) <= 0.05);
    }

    #[test]
    fn equal_confidences_are_sent_together_or_not_at_all() {
        // A tie of 50 behind 60 right ones, with 20 wrong among them.
        let confidences: Vec<f64> = (0..110).map(|at| if at < 60 { 0.9 } else { 0.5 }).collect();
        let right: Vec<bool> = (0..110).map(|at| at < 90).collect();
        assert_eq!(safe_threshold(&confidences, &right, 0.05).map(|safe| safe.sent), Some(60));
        let turned: Vec<bool> = (0..110).map(|at| !(60..80).contains(&at)).collect();
        assert_eq!(safe_threshold(&confidences, &turned, 0.05), safe_threshold(&confidences, &right, 0.05));
        assert_eq!(safe_threshold(&[0.5; 100], &[true; 100], 0.05).map(|safe| safe.sent), Some(100));
    }

    /// Of 1,000 desks whose cases are wrong with this share, those for which some threshold passes a budget of 5 %.
    fn passing(n: usize, share: f64) -> usize {
        let mut random = fastrand::Rng::with_seed(3);
        let (confidences, _) = ranked(n, &[]);
        let mut passes = |_: &i32| {
            let right: Vec<bool> = confidences.iter().map(|_| random.f64() >= share).collect();
            safe_threshold(&confidences, &right, 0.05).is_some()
        };
        (0..1_000).filter(|desk| passes(desk)).count()
    }

    #[test]
    fn the_promise_is_kept_and_can_be_earned() {
        // Just above the budget every threshold that passes breaks the promise: 50 of 1,000 may, and some for the luck of the draw.
        for n in [100, 400, 1_000] {
            let broken = passing(n, 0.0501);
            assert!(broken <= 65, "{broken} of 1,000 with {n} cases");
        }
        let kept = [passing(100, 0.01), passing(400, 0.01), passing(1_000, 0.02)];
        assert!(kept[0] > 400 && kept[1] > 900 && kept[2] > 900, "{kept:?}");
    }

    #[test]
    fn false_alarms_bound_the_recall() {
        let points = curve(&[0.9, 0.8, 0.7, 0.6, 0.5], &[true, false, true, false, true]);
        assert_eq!(recall_at_false_alarms(&points, 0.0), Some(1.0 / 3.0));
        assert_eq!(recall_at_false_alarms(&points, 0.5), Some(2.0 / 3.0));
        assert_eq!(recall_at_false_alarms(&points, 1.0), Some(1.0));
        assert_eq!(recall_at_false_alarms(&curve(&[0.5; 2], &[true, false]), 0.05), Some(0.0));
        assert_eq!(recall_at_false_alarms(&curve(&[0.9], &[true]), 0.05), None);
        assert_eq!(recall_at_false_alarms(&curve(&[0.9], &[false]), 0.05), None);
    }
}
