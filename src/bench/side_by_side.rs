//! Figures of ours beside those of a peer, as a Markdown table.

use super::quantile;

/// What is better: more a second, or less time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    More,
    Less,
}

/// One line of the table: a figure per repeat, ours and candle's of the same turn at the same index.
#[derive(Debug)]
pub(super) struct Row {
    what: String,
    unit: &'static str,
    better: Better,
    ours: Vec<f32>,
    candles: Vec<f32>,
}

/// All figures of a run.
#[derive(Debug, Default)]
pub struct Report {
    pub(super) rows: Vec<Row>,
    /// What was the same on both sides, in words.
    pub(super) agreement: Vec<String>,
}

/// The middle figure, by the nearest-rank method.
pub(super) fn median(figures: &[f32]) -> f32 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f32::total_cmp);
    quantile(&sorted, 0.5)
}

impl Row {
    /// A line without figures; rates are better when they are more, times when they are less.
    pub(super) fn new(what: String, unit: &'static str) -> Self {
        let better = if unit.ends_with("/s") { Better::More } else { Better::Less };
        Self { what, unit, better, ours: Vec::new(), candles: Vec::new() }
    }

    /// Adds the figures of one turn.
    pub(super) fn push(&mut self, ours: f32, candles: f32) {
        self.ours.push(ours);
        self.candles.push(candles);
    }

    /// How many times as fast ours was, turn by turn.
    fn ratios(&self) -> Vec<f32> {
        let pairs = self.ours.iter().zip(&self.candles);
        match self.better {
            Better::More => pairs.map(|(ours, candles)| ours / candles).collect(),
            Better::Less => pairs.map(|(ours, candles)| candles / ours).collect(),
        }
    }

    fn to_markdown(&self) -> String {
        let (unit, ours, candles, ratio) =
            (self.unit, spread(&self.ours), spread(&self.candles), spread(&self.ratios()));
        format!("| {} | {unit} | {ours} | {candles} | {ratio} |\n", self.what)
    }
}

/// Median, and the least and the most in brackets.
fn spread(figures: &[f32]) -> String {
    let least = figures.iter().copied().fold(f32::INFINITY, f32::min);
    let most = figures.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let digits = match median(figures).abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{:.digits$} ({least:.digits$}-{most:.digits$})", median(figures))
}

impl Report {
    /// The report; `about` says how the figures came about.
    pub fn to_markdown(&self, about: &[(&str, String)]) -> String {
        let mut out = String::from("# Our forward passes beside candle's own\n\n");
        about.iter().for_each(|(name, value)| out.push_str(&format!("- {name}: {value}\n")));
        out.push_str(
            "\nBoth sides run the same weights in the same process and take turns. Median over the repeats, least and \
             most in brackets; the ratio says how many times as fast ours is, turn by turn. Other work on a shared \
             machine moves all figures: ratios less, but those of the chat models more than those of the embedding models, \
             since only one chat model is in memory at a time and a turn takes as long as all of its figures.\n\n\
             | what | unit | ours | candle's | ratio |\n|---|---|---|---|---|\n",
        );
        self.rows.iter().for_each(|row| out.push_str(&row.to_markdown()));
        out.push_str(
            "\n- Embedding: tokenising is counted on both sides. Ours packs sequences without padding; candle's `BertModel` \
             (f32) gets batches of 32, sorted by length and padded to the longest. A query is the median of 9 calls in \
             turns.\n\
             - Chat: candle's `quantized_qwen2` reads the prompt at once, ours in pieces so that it can be broken off. The \
             first token is measured as in the service: the shared turns were read at start and their state is put back, \
             while candle's model reads all of the prompt.\n",
        );
        self.agreement.iter().for_each(|line| out.push_str(&format!("- Agreement: {line}.\n")));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_above_one_means_that_ours_is_faster() {
        let mut rate = Row::new("bulk".to_owned(), "tokens/s");
        [(300.0, 100.0), (100.0, 100.0), (250.0, 125.0)].iter().for_each(|&(ours, candles)| rate.push(ours, candles));
        assert_eq!(rate.ratios(), [3.0, 1.0, 2.0]);
        let mut time = Row::new("query".to_owned(), "ms");
        time.push(10.0, 40.0);
        assert_eq!(time.ratios(), [4.0]);
        assert_eq!(rate.to_markdown(), "| bulk | tokens/s | 250 (100-300) | 100 (100-125) | 2.00 (1.00-3.00) |\n");
    }

    #[test]
    fn the_report_names_command_figures_and_what_moves_them() {
        let mut row = Row::new("one query of 30 tokens".to_owned(), "ms");
        row.push(12.34, 56.78);
        let report = Report { rows: vec![row], agreement: vec!["all the same".to_owned()] };
        let text = report.to_markdown(&[("command", "respondo bench models".to_owned())]);
        for part in
            ["- command: respondo bench models\n", "12.3 (12.3-12.3)", "56.8", "4.60", "shared", "all the same."]
        {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
    }
}
