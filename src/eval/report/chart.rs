//! Charts as SVG and as tables, drawn here so that the page needs no library. Colours come from the page's style sheet by
//! class, so that they follow light and dark.

use super::{escape, number};
use crate::eval::record::{Bin, Chart};

/// Points of a curve that are drawn; more cannot be told apart.
const POINTS: usize = 300;
/// Rows of a bar chart that are drawn.
const BARS: usize = 40;

/// A chart with its title, as HTML.
pub fn draw(chart: &Chart) -> String {
    match chart {
        Chart::Reliability { title, bins } => figure(title, &reliability(title, bins)),
        Chart::Curve { title, x, y, points } => figure(title, &curve(title, x, y, points)),
        Chart::Matrix { title, labels, counts } => figure(title, &matrix(labels, counts)),
        Chart::Bars { title, unit, bars } => figure(title, &self::bars(unit, bars)),
    }
}

fn figure(title: &str, inside: &str) -> String {
    format!("<figure><figcaption>{}</figcaption>{inside}</figure>", escape(title))
}

const NOTHING: &str = "<p class=\"faint\">No case has a value.</p>";

/// A value with its interval on a line from `least` to `most`. The numbers stand beside it, so it is not read aloud.
pub fn interval(value: f64, low: f64, high: f64, (least, most): (f64, f64), about: &str) -> String {
    const LENGTH: f64 = 120.0;
    if ![value, low, high].into_iter().all(f64::is_finite) {
        return String::new();
    }
    let at = |value: f64| {
        let share = (value - least) / (most - least);
        4.0 + if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 } * LENGTH
    };
    let (left, right) = (at(low), at(high));
    let zero = if least < 0.0 && most > 0.0 {
        format!("<path class=\"zero\" d=\"M{0:.1} 1V15\"/>", at(0.0))
    } else {
        String::new()
    };
    format!(
        "<svg class=\"interval\" viewBox=\"0 0 128 16\" width=\"128\" height=\"16\" aria-hidden=\"true\"><title>{}</title>\
         <path class=\"track\" d=\"M4 8H124\"/>{zero}\
         <path class=\"range\" d=\"M{left:.1} 8H{right:.1}M{left:.1} 4V12M{right:.1} 4V12\"/>\
         <circle class=\"dot\" cx=\"{:.1}\" cy=\"8\" r=\"3.5\"/></svg>",
        escape(about),
        at(value),
    )
}

/// Where the axis of a row of intervals starts and ends: 0 to 1 where all fits, else round numbers around what there is.
pub fn span(ends: impl Iterator<Item = f64>) -> (f64, f64) {
    let (least, most) = ends
        .filter(|end| end.is_finite())
        .fold((0.0_f64, 0.0_f64), |(least, most), end| (least.min(end), most.max(end)));
    let out = |end: f64| {
        let step = step(end.abs());
        (end.abs() / step).ceil() * step * end.signum()
    };
    let least = if least < 0.0 { out(least) } else { 0.0 };
    match most {
        _ if most > 1.0 => (least, out(most)),
        _ if most == 0.0 && least < 0.0 => (least, 0.0),
        _ => (least, 1.0),
    }
}

/// The same around 0, for differences.
pub fn span_of_differences(ends: impl Iterator<Item = f64>) -> (f64, f64) {
    let most = ends.filter(|end| end.is_finite()).fold(0.0_f64, |most, end| most.max(end.abs()));
    if most == 0.0 { (-1.0, 1.0) } else { (-most, most) }
}

/// A round step (1, 2 or 5 times a power of ten) that divides a length into about five.
fn step(length: f64) -> f64 {
    if length <= 0.0 || !length.is_finite() {
        return 1.0;
    }
    let raw = length / 5.0;
    let power = 10_f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * power).find(|step| *step >= raw * 0.999).unwrap_or(raw)
}

/// The plane of a chart with axes.
struct Plane {
    width: f64,
    height: f64,
    x: (f64, f64),
    y: (f64, f64),
}

const LEFT: f64 = 46.0;
const TOP: f64 = 10.0;
const RIGHT: f64 = 14.0;
const BOTTOM: f64 = 40.0;

impl Plane {
    fn x(&self, value: f64) -> f64 {
        LEFT + (value - self.x.0) / (self.x.1 - self.x.0) * (self.width - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        self.height - BOTTOM - (value - self.y.0) / (self.y.1 - self.y.0) * (self.height - TOP - BOTTOM)
    }

    fn axes(&self, x: &str, y: &str) -> String {
        let mut out = String::new();
        let (bottom, right) = (self.y(self.y.0), self.x(self.x.1));
        for at in ticks(self.x) {
            let left = self.x(at);
            out += &format!("<path class=\"grid\" d=\"M{left:.1} {TOP}V{bottom:.1}\"/>");
            out += &format!("<text x=\"{left:.1}\" y=\"{:.1}\" class=\"mid\">{}</text>", bottom + 15.0, tick(at));
        }
        for at in ticks(self.y) {
            let top = self.y(at);
            out += &format!("<path class=\"grid\" d=\"M{LEFT} {top:.1}H{right:.1}\"/>");
            out += &format!("<text x=\"{:.1}\" y=\"{:.1}\" class=\"end\">{}</text>", LEFT - 5.0, top + 4.0, tick(at));
        }
        let (centre, middle) = ((LEFT + right) / 2.0, (TOP + bottom) / 2.0);
        out += &format!("<text x=\"{centre:.1}\" y=\"{:.1}\" class=\"mid axis\">{}</text>", bottom + 32.0, escape(x));
        out + &format!(
            "<text x=\"11\" y=\"{middle:.1}\" transform=\"rotate(-90 11 {middle:.1})\" class=\"mid axis\">{}</text>",
            escape(y)
        )
    }

    fn svg(&self, title: &str, about: &str, inside: &str) -> String {
        let (width, height) = (self.width, self.height);
        format!(
            "<svg class=\"chart\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\">\
             <title>{}</title><desc>{}</desc>{inside}</svg>",
            escape(title),
            escape(about)
        )
    }
}

fn ticks((from, to): (f64, f64)) -> Vec<f64> {
    let step = step(to - from);
    let first = (from / step).ceil();
    (0..12).map(|at| (first + f64::from(at)) * step).take_while(|at| *at <= to + step * 1e-6).collect()
}

fn tick(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// Said probability against share that was right; the area of a dot goes with its cases.
fn reliability(title: &str, bins: &[Bin]) -> String {
    let bins: Vec<&Bin> =
        bins.iter().filter(|bin| bin.count > 0 && bin.said.is_finite() && bin.was.is_finite()).collect();
    let Some(largest) = bins.iter().map(|bin| bin.count).max() else { return NOTHING.to_owned() };
    let plane = Plane { width: 320.0, height: 310.0, x: (0.0, 1.0), y: (0.0, 1.0) };
    let mut inside = plane.axes("probability said", "share that was right");
    let corner = (plane.x(0.0), plane.y(0.0), plane.x(1.0), plane.y(1.0));
    inside +=
        &format!("<path class=\"ideal\" d=\"M{:.1} {:.1}L{:.1} {:.1}\"/>", corner.0, corner.1, corner.2, corner.3);
    let places = bins.iter().map(|bin| (plane.x(bin.said), plane.y(bin.was)));
    inside += &format!("<path class=\"line\" d=\"{}\"/>", path(places));
    let mut about = String::from("On the dashed line what is said is what happens.");
    for bin in bins {
        let radius = 3.0 + 7.0 * (bin.count as f64 / largest as f64).sqrt();
        let text = format!("said {:.2}, was {:.2}, {} cases", bin.said, bin.was, bin.count);
        about += &format!(" {text}.");
        inside += &format!(
            "<circle class=\"point\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius:.1}\"><title>{text}</title></circle>",
            plane.x(bin.said),
            plane.y(bin.was),
        );
    }
    plane.svg(title, &about, &inside)
}

fn curve(title: &str, x: &str, y: &str, points: &[(f64, f64)]) -> String {
    let mut points: Vec<(f64, f64)> = points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let (Some(first), Some(last)) = (points.first().copied(), points.last().copied()) else {
        return NOTHING.to_owned();
    };
    if points.len() > POINTS {
        let each = points.len().div_ceil(POINTS);
        points = points.into_iter().step_by(each).chain(std::iter::once(last)).collect();
    }
    let axis = |value: fn(&(f64, f64)) -> f64| {
        let (least, most) = span(points.iter().map(value));
        // A rate that stays small is drawn large: an axis to 1 would show a flat line.
        let top = points.iter().map(value).fold(0.0_f64, f64::max);
        let step = step(top);
        if least == 0.0 && top > 0.0 && top < 0.8 { (0.0, (top / step).ceil() * step) } else { (least, most) }
    };
    let plane = Plane { width: 420.0, height: 280.0, x: axis(|point| point.0), y: axis(|point| point.1) };
    let places: Vec<(f64, f64)> = points.iter().map(|(x, y)| (plane.x(*x), plane.y(*y))).collect();
    let mut inside = plane.axes(x, y);
    inside += &format!("<path class=\"line\" d=\"{}\"/>", path(places.iter().copied()));
    if places.len() <= 20 {
        for ((left, top), (x, y)) in places.iter().zip(&points) {
            let text = format!("{}, {}", tick(*x), tick(*y));
            inside += &format!(
                "<circle class=\"dot\" cx=\"{left:.1}\" cy=\"{top:.1}\" r=\"3\"><title>{text}</title></circle>"
            );
        }
    }
    let ends = [first, last].map(|(x, y)| format!("{} at {}", tick(y), tick(x)));
    plane.svg(title, &format!("{y} over {x}: from {} to {}.", ends[0], ends[1]), &inside)
}

fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let steps = points.enumerate().map(|(at, (x, y))| format!("{}{x:.1} {y:.1}", if at == 0 { 'M' } else { 'L' }));
    steps.collect()
}

/// Counts of truth and judgement; the colour is the share of the row, from 0 (nothing) to 9 (all).
fn matrix(labels: &[String], counts: &[Vec<usize>]) -> String {
    if labels.is_empty() || counts.iter().flatten().all(|count| *count == 0) {
        return NOTHING.to_owned();
    }
    let mut out = String::from(
        "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"Confusion matrix\"><table class=\"matrix\">\
         <thead><tr><td class=\"faint\">truth \\ judged</td>",
    );
    labels.iter().for_each(|label| out += &format!("<th scope=\"col\">{}</th>", escape(label)));
    out += "</tr></thead><tbody>";
    for (row, (label, counts)) in labels.iter().zip(counts).enumerate() {
        let all: usize = counts.iter().sum();
        out += &format!("<tr><th scope=\"row\">{}</th>", escape(label));
        for (column, count) in counts.iter().enumerate() {
            let share = if all == 0 { 0.0 } else { *count as f64 / all as f64 };
            let right = if row == column { " right" } else { "" };
            let heat = (share * 9.0).round();
            out += &format!("<td class=\"heat-{heat:.0}{right}\">{count}<small>{:.0} %</small></td>", share * 100.0);
        }
        out += "</tr>";
    }
    out + "</tbody></table></div>"
}

fn bars(unit: &str, bars: &[(String, f64)]) -> String {
    let finite: Vec<&(String, f64)> = bars.iter().filter(|(_, value)| value.is_finite()).collect();
    let most = finite.iter().map(|(_, value)| value.abs()).fold(0.0_f64, f64::max);
    if finite.is_empty() {
        return NOTHING.to_owned();
    }
    let mut out = format!(
        "<table class=\"bars\"><tbody><tr class=\"hidden\"><th>name</th><th></th><th>{}</th></tr>",
        escape(unit)
    );
    for (name, value) in finite.iter().take(BARS) {
        let length = if most > 0.0 { value.abs() / most * 200.0 } else { 0.0 };
        let shown = if value.fract() == 0.0 { format!("{value:.0}") } else { number("", *value) };
        out += &format!(
            "<tr><th scope=\"row\">{}</th><td><svg class=\"bar\" viewBox=\"0 0 200 12\" width=\"200\" height=\"12\" \
             preserveAspectRatio=\"none\" aria-hidden=\"true\"><rect class=\"fill\" width=\"{length:.1}\" height=\"12\"/>\
             </svg></td><td class=\"number\">{shown} {}</td></tr>",
            escape(name),
            escape(unit)
        );
    }
    out += "</tbody></table>";
    if finite.len() > BARS {
        out += &format!("<p class=\"faint\">and {} more</p>", finite.len() - BARS);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_round_and_hold_everything() {
        assert_eq!(span([0.2, 0.9].into_iter()), (0.0, 1.0));
        let (least, most) = span([-0.13, 0.9].into_iter());
        assert!((-0.2..=-0.13).contains(&least) && most == 1.0, "{least}");
        assert_eq!(span([12.0, 1843.0].into_iter()), (0.0, 2000.0));
        assert_eq!(span([f64::NAN].into_iter()), (0.0, 1.0));
        assert_eq!(ticks((0.0, 1.0)).len(), 6);
        assert_eq!(span_of_differences([-0.02, 0.01].into_iter()), (-0.02, 0.02));
    }

    #[test]
    fn what_cannot_be_drawn_says_so() {
        let empty = [
            Chart::Reliability { title: "t".into(), bins: vec![Bin { said: 0.5, was: 0.5, count: 0 }] },
            Chart::Curve { title: "t".into(), x: "x".into(), y: "y".into(), points: vec![(f64::NAN, 1.0)] },
            Chart::Matrix { title: "t".into(), labels: vec!["a".into()], counts: vec![vec![0]] },
            Chart::Bars { title: "t".into(), unit: "n".into(), bars: vec![] },
        ];
        for chart in empty {
            assert!(draw(&chart).contains("No case has a value"), "{chart:?}");
        }
    }

    #[test]
    fn one_point_and_flat_lines_are_drawn_without_nan() {
        for points in [vec![(0.0, 0.0)], vec![(0.5, 0.01), (1.0, 0.01)], vec![(3.0, -2.0), (4.0, -1.0)]] {
            let text = draw(&Chart::Curve { title: "t".into(), x: "x".into(), y: "y".into(), points });
            assert!(text.contains("class=\"line\"") && !text.contains("NaN") && !text.contains("inf"), "{text}");
        }
        assert!(interval(f64::NAN, 0.0, 0.0, (0.0, 1.0), "").is_empty());
        assert!(!interval(0.0, 0.0, 0.0, (0.0, 0.0), "").contains("NaN"));
    }

    #[test]
    fn hostile_labels_stay_text_and_long_curves_short() {
        let hostile = "<script>alert(1)</script>\"'";
        let points: Vec<(f64, f64)> = (0..10_000).map(|at| (f64::from(at), 1.0 / f64::from(at + 1))).collect();
        let curve = draw(&Chart::Curve { title: hostile.into(), x: hostile.into(), y: hostile.into(), points });
        assert!(!curve.contains("<script") && curve.len() < 12_000, "{}", curve.len());
        let matrix = Chart::Matrix { title: hostile.into(), labels: vec![hostile.into()], counts: vec![vec![3]] };
        assert!(!draw(&matrix).contains("<script"));
        let bars = Chart::Bars { title: hostile.into(), unit: hostile.into(), bars: vec![(hostile.into(), 3.0)] };
        assert!(!draw(&bars).contains("<script"));
    }
}
