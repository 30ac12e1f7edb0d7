//! Markdown for a pull request.

use super::{arrow, by_accident, extent, figure, interval, mend_first, metrics, number, one_line, signed};
use super::{signed_interval, slice_name, slices, split, verdict};
use crate::eval::compare::{Change, Comparison, GateOutcome, Verdict};
use crate::eval::record::{Made, PartResult, RunResult};
use crate::eval::suite::ALL;

/// Unchanged figures that are listed: a comment on a pull request holds 65,536 characters.
const UNCHANGED: usize = 150;
/// Kinds of failure told.
const FAILURES: usize = 5;
/// Languages that are columns.
const LANGUAGES: usize = 4;

/// The figures of every part, and what to mend first.
pub fn summary(result: &RunResult) -> String {
    let mut out = format!("## Evaluation `{}`, version {}\n\n", code(&result.suite), result.suite_version);
    out += &format!("{}\n\n", made(&result.made));
    if result.parts.is_empty() {
        out += "Nothing was run: the result has no parts.\n";
    }
    let mends = mend_first(result);
    if !mends.is_empty() {
        out += "**To mend first**\n\n";
        for mend in mends.iter().take(FAILURES) {
            let parts: Vec<String> =
                mend.parts.iter().map(|(part, count, of)| format!("{count} of {of} in `{}`", code(part))).collect();
            out += &format!("1. {}: {}\n", plain(&mend.failure), parts.join(", "));
        }
        out.push('\n');
    }
    for part in &result.parts {
        self::part(&mut out, part);
    }
    out
}

/// Before, after and difference of what changed; what did not is folded away.
pub fn comparison(comparison: &Comparison, gates: &[GateOutcome]) -> String {
    let (told, others) = split(comparison);
    let count = |wanted| told.iter().filter(|change| change.verdict == wanted).count();
    let mut out = format!("## Evaluation `{}`: before and after\n\n", code(&comparison.suite));
    out += &match (told.is_empty(), others.is_empty()) {
        (true, true) => "**No figure could be compared.**\n\n".to_owned(),
        (true, false) => format!("**No significant change** in {} figures.\n\n", others.len()),
        (false, _) => format!(
            "**{} worse, {} better**, {} different without being good or bad, {} without significant change.\n\n",
            count(Verdict::Worse),
            count(Verdict::Better),
            count(Verdict::Different),
            others.len()
        ),
    };
    out += &self::gates(gates);
    if !told.is_empty() {
        changes(&mut out, &told);
    }
    if let Some(caution) = by_accident(told.len(), comparison.changes.len()) {
        out += &format!("{caution}\n\n");
    }
    for note in &comparison.notes {
        out += &format!("> {}\n\n", plain(note));
    }
    if !others.is_empty() {
        out += &format!("<details><summary>No significant change: {} figures</summary>\n\n", others.len());
        changes(&mut out, others.get(..UNCHANGED).unwrap_or(&others));
        if others.len() > UNCHANGED {
            out += &format!("{} more are in the JSON of the comparison.\n\n", others.len() - UNCHANGED);
        }
        out += "</details>\n\n";
    }
    out + &format!("Before: {}  \nAfter: {}\n", made(&comparison.old), made(&comparison.new))
}

/// What came of the gates; nothing where there are none.
pub fn gates(gates: &[GateOutcome]) -> String {
    if gates.is_empty() {
        return String::new();
    }
    let passed = gates.iter().filter(|gate| gate.passed).count();
    let mut out = format!("{passed} of {} gates passed.\n\n| gate | | why |\n|---|---|---|\n", gates.len());
    for gate in gates {
        let word = if gate.passed { "pass" } else { "**FAIL**" };
        let name = name(&gate.part, &gate.metric, &gate.slice);
        out += &format!("| {name} | {word} | {} |\n", plain(&gate.reason));
    }
    out + "\n"
}

fn changes(out: &mut String, changes: &[&Change]) {
    *out += "| figure | before | after | difference, 95 % interval | cases | |\n|---|---:|---:|---:|---:|---|\n";
    for change in changes {
        let metric = &change.metric;
        let word = match change.verdict {
            Verdict::Worse => "**worse**",
            other => verdict(other),
        };
        *out += &format!(
            "| {} | {} | {} | {} {} | {} | {word} |\n",
            name(&change.part, metric, &change.slice),
            number(metric, change.old),
            number(metric, change.new),
            signed(metric, change.new - change.old),
            signed_interval(metric, change.low, change.high),
            change.cases,
        );
    }
    out.push('\n');
}

fn part(out: &mut String, part: &PartResult) {
    *out += &format!("### `{}` ({})\n\n", code(&part.name), part.kind.name());
    if let Some(reason) = &part.skipped {
        *out += &format!("Skipped: {}\n\n", plain(reason));
        return;
    }
    *out += &format!("{}. Data: `{}`.", extent(part), code(&part.data.path));
    if let Some(memory) = &part.memory {
        *out += &format!(" Memory: {} items; {}.", memory.items, plain(memory.separation.trim_end_matches('.')));
    }
    *out += "\n\n";
    for note in &part.data.notes {
        *out += &format!("> {}\n\n", plain(note));
    }
    if part.figures.is_empty() {
        *out += "No figures: no case has a value.\n\n";
        return;
    }
    table(out, part);
    for beside in &part.beside {
        let value = number(&beside.name, beside.value);
        *out += &format!("Beside it: `{}` {value} ({})\n\n", code(&beside.name), plain(&beside.about));
    }
    other_slices(out, part);
}

fn table(out: &mut String, part: &PartResult) {
    let (languages, _) = slices(part);
    let shown = languages.get(..LANGUAGES).unwrap_or(&languages);
    *out += "| figure | all, 95 % interval |";
    shown.iter().for_each(|language| *out += &format!(" {} |", plain(slice_name(language))));
    *out += &format!(" cases |\n|---|---:|{}---:|\n", "---:|".repeat(shown.len()));
    for metric in metrics(part) {
        let Some(all) = figure(part, metric, ALL) else { continue };
        let range = interval(metric, all.low, all.high);
        *out += &format!("| `{}` {} | {} {range} |", code(metric), arrow(all.better), number(metric, all.value));
        for language in shown {
            let value = figure(part, metric, language).map_or_else(String::new, |found| number(metric, found.value));
            *out += &format!(" {value} |");
        }
        *out += &format!(" {} |\n", all.cases);
    }
    *out += "\n↑ more is better, ↓ less is better.\n\n";
}

fn other_slices(out: &mut String, part: &PartResult) {
    let (_, others) = slices(part);
    let shown = metrics(part).into_iter().take(LANGUAGES).collect::<Vec<_>>();
    if others.is_empty() || shown.is_empty() {
        return;
    }
    *out += "<details><summary>Queues and other slices</summary>\n\n| slice |";
    shown.iter().for_each(|metric| *out += &format!(" `{}` |", code(metric)));
    *out += &format!("\n|---|{}\n", "---:|".repeat(shown.len()));
    for slice in others.iter().take(UNCHANGED) {
        *out += &format!("| {} |", plain(slice));
        for metric in &shown {
            let value = figure(part, metric, slice).map_or_else(String::new, |found| {
                format!("{} {}", number(metric, found.value), interval(metric, found.low, found.high))
            });
            *out += &format!(" {value} |");
        }
        out.push('\n');
    }
    *out += "\n</details>\n\n";
}

fn name(part: &str, metric: &str, slice: &str) -> String {
    let slice = if slice == ALL { String::new() } else { format!(" ({})", plain(slice_name(slice))) };
    format!("`{}` `{}`{slice}", code(part), code(metric))
}

fn made(made: &Made) -> String {
    let generator = made.generator.as_deref().map(|name| format!(", language model {name}")).unwrap_or_default();
    let text =
        format!("{}, code {}, embedding model {}{generator}, on {}", made.at, made.code, made.embedder, made.machine);
    plain(&text)
}

/// Text that stays text in Markdown and in its tables.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for c in one_line(text).chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            // Nobody is to be called because a text says so.
            '@' => out.push_str("&#64;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '!' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

/// Text between two backticks, also in a table.
fn code(text: &str) -> String {
    one_line(text).replace('`', "'").replace('|', "¦")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::report::made_up;

    #[test]
    fn a_summary_has_every_part_and_what_to_mend() {
        let text = summary(&made_up::result());
        assert!(text.contains("1. nothing relevant among the first five: 61 of 240 in `search`"), "{text}");
        assert!(text.contains("| `ndcg@10` ↑ | 0.612 [0.571, 0.653] | 0.655 | 0.570 | 240 |"), "{text}");
        assert!(text.contains("Skipped: data/labels.jsonl is not there"), "{text}");
        assert!(text.contains("queue=billing"));
        assert!(summary(&made_up::empty()).contains("Nothing was run"));
    }

    #[test]
    fn only_sure_changes_stand_outside_the_fold() {
        let text = comparison(&made_up::comparison(), &made_up::gates());
        let (open, folded) = text.split_once("<details>").expect("a fold");
        assert!(open.contains("**worse**") && open.contains("| better |") && open.contains("| different |"), "{text}");
        assert!(!open.contains("`mrr`") && folded.contains("`mrr`"), "{text}");
        assert!(open.contains("2 of 4 gates passed") && open.contains("**FAIL**"));
        let same = comparison(&made_up::unchanged(), &[]);
        assert!(same.contains("**No significant change** in 4 figures.") && !same.contains("worse"), "{same}");
        assert!(gates(&made_up::gates()).contains("2 of 4 gates passed"));
    }

    #[test]
    fn a_long_comparison_still_fits_a_comment() {
        let mut both = made_up::unchanged();
        both.changes = both.changes.iter().cycle().take(5000).cloned().collect();
        let text = comparison(&both, &[]);
        assert!(text.len() < 65_536 && text.contains("4850 more"), "{}", text.len());
    }

    #[test]
    fn hostile_text_stays_text() {
        let shown = plain("a|b <script> `x` [l](u) @all\n# head \u{202E}");
        assert_eq!(shown, "a\\|b &lt;script&gt; \\`x\\` \\[l\\](u) &#64;all \\# head");
        assert!(!summary(&made_up::result()).contains("<script"));
    }
}
