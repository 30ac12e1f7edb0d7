//! The tables.

use std::fmt::Write as _;

use super::measure::{Figures, Latency};
use super::{CUTOFF, LEG_LIMIT};

/// Markdown; ratios are to the first size.
pub(super) fn to_markdown(figures: &[Figures], machine: &str) -> String {
    let mut text = format!(
        "Synthetic items: noisy neighbours of {}; searches are real requests. {machine}. Milliseconds: median of {} \
         repeats [lowest, highest]. Memory: resident bytes an item after all searches, the process's own and views of \
         files. Recall: share of the {CUTOFF} nearest by brute force. Agreement: share of the fused list's first {CUTOFF} \
         that an exhaustive search has there too. Every leg gives {LEG_LIMIT} hits in the request's language and in the \
         others.\n\n",
        figures.first().map_or("nothing", |figures| figures.built.source.as_str()),
        figures.first().map_or(0, |figures| figures.whole.0.len()),
    );
    text.push_str("| items | search | p50 | ratio | p95 | p99 |\n|---|---|---|---|---|---|\n");
    type Of = fn(&Figures) -> &Latency;
    for (name, latency) in [("dense legs", (|f| &f.dense) as Of), ("whole retrieval", |f| &f.whole)] {
        let base = figures.first().map_or(f32::NAN, |first| latency(first).middle(0).0);
        for of_size in figures {
            let columns = [0, 1, 2].map(|at| latency(of_size).middle(at));
            let [p50, p95, p99] = columns.map(|(middle, low, high)| format!("{middle:.2} [{low:.2}, {high:.2}]"));
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| {} | {name} | {p50} | {:.2} | {p95} | {p99} |",
                of_size.built.items,
                columns[0].0 / base
            );
        }
    }
    text.push_str(
        "\n| items | recall problem | recall solution | agreement | own B/item | mapped B/item | own when open | disk B/item | log MB | \
         insert s | finish s | open s |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for f in figures {
        let items = f.built.items as f64;
        let _ = writeln!(
            text,
            "| {} | {:.3} | {:.3} | {:.3} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} |",
            f.built.items,
            f.recall_problem,
            f.recall_solution,
            f.agreement,
            f.used.own / items,
            f.used.mapped / items,
            f.opened.own / items,
            (f.disk_bytes - f.log_bytes) as f64 / items,
            f.log_bytes as f64 / 1e6,
            f.built.insert_seconds,
            f.built.finish_seconds,
            f.open_seconds,
        );
    }
    text
}

impl Latency {
    /// Median over the repeats of one of the quantiles, the lowest and the highest.
    fn middle(&self, quantile: usize) -> (f32, f32, f32) {
        let mut values: Vec<f32> = self.0.iter().filter_map(|repeat| repeat.get(quantile).copied()).collect();
        values.sort_by(f32::total_cmp);
        let at = |share| crate::bench::quantile(&values, share);
        (at(0.5), at(0.0), at(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_a_repeat_that_occurred() {
        let latency = Latency(vec![[3.0, 9.0, 9.0], [1.0, 8.0, 9.0], [2.0, 7.0, 9.0]]);
        assert_eq!(latency.middle(0), (2.0, 1.0, 3.0));
        assert_eq!(latency.middle(1), (8.0, 7.0, 9.0));
    }
}
