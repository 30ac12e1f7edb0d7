//! Results in a terminal, at most 100 columns wide.

use super::{arrow, by_accident, extent, figure, interval, metrics, number, one_line, signed, signed_interval};
use super::{slice_name, slices, split, verdict};
use crate::eval::compare::{Change, Comparison, GateOutcome, Verdict};
use crate::eval::record::{PartResult, RunResult};
use crate::eval::suite::ALL;

const WIDTH: usize = 100;
/// Languages that have room beside the interval of all.
const LANGUAGES: usize = 4;
/// Other slices told below the table, and figures of each.
const SLICES: usize = 8;
const SLICE_FIGURES: usize = 4;
/// Kinds of failure told per part.
const FAILURES: usize = 5;

/// The figures of every part with their intervals, what was skipped and why, and what failed most.
pub fn render(result: &RunResult, colour: bool) -> String {
    let paint = Paint { colour };
    let made = &result.made;
    let mut out = paint.bold(&format!("Suite {}, version {}", one_line(&result.suite), result.suite_version)) + "\n";
    let generator = made.generator.as_deref().unwrap_or("none");
    wrapped(&mut out, 2, &format!("{}, code {}, {}", made.at, made.code, made.machine));
    wrapped(&mut out, 2, &format!("embedding model {}, language model {generator}", made.embedder));
    if result.parts.is_empty() {
        out += "\nNothing was run: the result has no parts.\n";
    }
    for part in &result.parts {
        out.push('\n');
        self::part(&mut out, part, paint);
    }
    out
}

/// What changed between two runs. Only what the paired bootstrap calls sure is called better or worse.
pub fn comparison(comparison: &Comparison, gates: &[GateOutcome], colour: bool) -> String {
    let paint = Paint { colour };
    let mut out = paint.bold(&format!("Comparison of two runs of {}", one_line(&comparison.suite))) + "\n";
    wrapped(&mut out, 2, &format!("before: {}, code {}", comparison.old.at, comparison.old.code));
    wrapped(&mut out, 2, &format!("after:  {}, code {}", comparison.new.at, comparison.new.code));
    if !gates.is_empty() {
        out += &format!("\n{}", self::gates(gates, colour));
    }
    let (told, others) = split(comparison);
    out.push('\n');
    if told.is_empty() && others.is_empty() {
        out += "No figure could be compared.\n";
    } else if told.is_empty() {
        out += &format!("No significant change in {} figures.\n", others.len());
    } else {
        out += &paint.bold(&format!("{} of {} figures changed", told.len(), comparison.changes.len()));
        out.push('\n');
        told.iter().for_each(|change| self::change(&mut out, change, paint));
        if !others.is_empty() {
            out += &format!("  no significant change in the other {}\n", others.len());
        }
    }
    if let Some(caution) = by_accident(told.len(), comparison.changes.len()) {
        wrapped(&mut out, 2, &caution);
    }
    for note in &comparison.notes {
        wrapped(&mut out, 2, &format!("note: {note}"));
    }
    out
}

/// What came of the gates, the broken ones first.
pub fn gates(gates: &[GateOutcome], colour: bool) -> String {
    let paint = Paint { colour };
    let passed = gates.iter().filter(|gate| gate.passed).count();
    let mut out = paint.bold(&format!("{passed} of {} gates passed", gates.len())) + "\n";
    let (fine, broken): (Vec<_>, Vec<_>) = gates.iter().partition(|gate| gate.passed);
    for gate in broken.into_iter().chain(fine) {
        let word = if gate.passed { paint.good("pass") } else { paint.bad("FAIL") };
        let slice = if gate.slice == ALL { String::new() } else { format!(" ({})", slice_name(&gate.slice)) };
        let text = format!("{} {}{slice}: {}", gate.part, gate.metric, gate.reason);
        let mut lines = String::new();
        wrapped(&mut lines, 7, &text);
        out += &format!("  {word} {}", lines.trim_start());
    }
    out
}

fn change(out: &mut String, change: &Change, paint: Paint) {
    let word = format!("{:<10}", verdict(change.verdict));
    let word = match change.verdict {
        Verdict::Better => paint.good(&word),
        Verdict::Worse => paint.bad(&word),
        Verdict::Same | Verdict::Different => word,
    };
    let metric = &change.metric;
    let slice = if change.slice == ALL { "all" } else { slice_name(&change.slice) };
    let name = cut(&format!("{} {metric} ({slice})", change.part), 39);
    let difference = signed(metric, change.new - change.old);
    let range = signed_interval(metric, change.low, change.high);
    let (old, new) = (number(metric, change.old), number(metric, change.new));
    *out += &format!("  {word}{name:<39} {old:>6} -> {new:<6} {difference} {range}\n");
}

fn part(out: &mut String, part: &PartResult, paint: Paint) {
    *out += &format!("{} ({})", paint.bold(&one_line(&part.name)), part.kind.name());
    if let Some(reason) = &part.skipped {
        out.push('\n');
        let mut lines = String::new();
        wrapped(&mut lines, 2, &format!("skipped: {reason}"));
        *out += &paint.doubtful(&lines);
        return;
    }
    *out += &format!("  {}\n", extent(part));
    notes(out, part);
    if part.figures.is_empty() {
        *out += "  No figures: no case has a value.\n";
    } else {
        table(out, part, paint);
        other_slices(out, part);
    }
    for beside in &part.beside {
        let value = number(&beside.name, beside.value);
        wrapped(out, 2, &format!("beside it: {} {value} ({})", beside.name, beside.about));
    }
    failures(out, part);
}

fn notes(out: &mut String, part: &PartResult) {
    let mut data = format!("data: {}", part.data.path);
    if !part.data.notes.is_empty() {
        data += &format!("; {}", part.data.notes.join("; "));
    }
    wrapped(out, 2, &data);
    if let Some(memory) = &part.memory {
        wrapped(out, 2, &format!("memory: {} items; {}", memory.items, memory.separation));
    }
}

fn table(out: &mut String, part: &PartResult, paint: Paint) {
    let (languages, _) = slices(part);
    let shown = languages.get(..LANGUAGES).unwrap_or(&languages);
    let mut heading = format!("  {:<24} {:<28}", "↑ or ↓ is better", "all, 95 % interval");
    for language in shown {
        heading += &format!("{:>8}", cut(slice_name(language), 7));
    }
    *out += &paint.faint(&format!("{heading}{:>7}\n", "n"));
    for metric in metrics(part) {
        let Some(all) = figure(part, metric, ALL) else { continue };
        let value = format!("{:>6} {}", number(metric, all.value), interval(metric, all.low, all.high));
        let mut line = format!("  {} {:<22} {value:<28}", arrow(all.better), cut(metric, 22));
        for language in shown {
            let value = figure(part, metric, language).map_or_else(String::new, |figure| number(metric, figure.value));
            line += &format!("{value:>8}");
        }
        *out += &format!("{line}{:>7}\n", all.cases);
    }
    if languages.len() > shown.len() {
        *out += &format!("  {} more languages in the HTML report\n", languages.len() - shown.len());
    }
}

fn other_slices(out: &mut String, part: &PartResult) {
    let (_, others) = slices(part);
    if others.len() > SLICES {
        *out += &format!("  {} queues and other slices in the HTML report\n", others.len());
        return;
    }
    for slice in &others {
        let figures = part.figures.iter().filter(|figure| &figure.slice == slice).take(SLICE_FIGURES);
        let mut line = format!("{}:", slice_name(slice));
        for figure in figures {
            line += &format!(" {} {},", figure.metric, number(&figure.metric, figure.value));
        }
        let cases = part.figures.iter().filter(|figure| &figure.slice == slice).map(|figure| figure.cases).max();
        wrapped(out, 2, &format!("{line} n {}", cases.unwrap_or(0)));
    }
}

fn failures(out: &mut String, part: &PartResult) {
    if part.failures.is_empty() {
        return;
    }
    *out += "  fails most:\n";
    for (failure, count) in part.failures.iter().take(FAILURES) {
        *out += &format!("  {count:>6}  {}\n", cut(failure, WIDTH - 10));
    }
    if part.failures.len() > FAILURES {
        *out += &format!("          and {} more kinds\n", part.failures.len() - FAILURES);
    }
}

/// Words broken into lines; those after the first are indented by as much.
fn wrapped(out: &mut String, indent: usize, text: &str) {
    let mut line = String::new();
    for word in one_line(text).split(' ') {
        let length = line.chars().count() + 1 + word.chars().count();
        if !line.is_empty() && indent + length > WIDTH {
            *out += &format!("{:indent$}{line}\n", "");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    *out += &format!("{:indent$}{line}\n", "");
}

/// One line of at most so many characters.
fn cut(text: &str, most: usize) -> String {
    let line = one_line(text);
    if line.chars().count() <= most {
        return line;
    }
    line.chars().take(most.saturating_sub(1)).chain(std::iter::once('…')).collect()
}

/// Colours where they are wanted. None carries a meaning that no word says.
#[derive(Clone, Copy)]
struct Paint {
    colour: bool,
}

impl Paint {
    fn code(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.code("1", text)
    }

    fn faint(self, text: &str) -> String {
        self.code("2", text)
    }

    fn good(self, text: &str) -> String {
        self.code("32", text)
    }

    fn bad(self, text: &str) -> String {
        self.code("1;31", text)
    }

    fn doubtful(self, text: &str) -> String {
        self.code("33", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::report::made_up;

    #[test]
    fn every_figure_stands_in_a_line_of_a_hundred_columns() {
        let text = render(&made_up::result(), false);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(!text.contains('\x1b'), "no colour, no hostile control characters");
        let line = text.lines().find(|line| line.contains("ndcg@10")).expect("figure");
        assert!(line.contains("0.612 [0.571, 0.653]") && line.contains("0.655") && line.ends_with("240"), "{line}");
        assert!(text.contains("1843 [1712, 1990]"), "milliseconds without decimals: {text}");
        assert!(text.contains("skipped: data/labels.jsonl is not there"));
        assert!(text.contains("    61  nothing relevant among the first five"));
        assert!(render(&made_up::result(), true).contains("\x1b[1m"));
    }

    #[test]
    fn an_empty_run_and_skipped_parts_say_so() {
        assert!(render(&made_up::empty(), false).contains("Nothing was run"));
        let skipped = render(&made_up::all_skipped(), false);
        assert_eq!(skipped.matches("skipped: ").count(), 4, "{skipped}");
        assert!(!skipped.contains("0.612"));
    }

    #[test]
    fn only_sure_changes_are_called_so() {
        let both = made_up::comparison();
        let text = comparison(&both, &made_up::gates(), false);
        assert!(text.contains("2 of 4 gates passed"), "{text}");
        assert!(text.find("FAIL").expect("fails") < text.find("pass search").expect("passes"));
        assert!(text.contains("worse     drafts right (all)"), "{text}");
        assert!(!text.contains("mrr"), "no significant change is told by count only: {text}");
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        let same = comparison(&made_up::unchanged(), &[], false);
        assert!(same.contains("No significant change in 4 figures."), "{same}");
        assert!(!same.contains("better") && !same.contains("worse") && !same.contains("gates"), "{same}");
        assert!(gates(&made_up::gates(), false).starts_with("2 of 4 gates passed"));
    }
}
