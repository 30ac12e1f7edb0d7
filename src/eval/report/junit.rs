//! JUnit XML, as continuous integration reads it: a suite per part, a case per gate.

use super::escape;
use crate::eval::compare::GateOutcome;
use crate::eval::record::{PartResult, RunResult};
use crate::eval::suite::ALL;

/// The result as JUnit XML: one `testsuite` per part with one `testcase` for the part (skipped with its reason where it was
/// not run) and one per gate on it. Gates on parts that the result does not have stand in a suite of their own.
pub fn xml(result: &RunResult, gates: &[GateOutcome]) -> String {
    let mut suites = String::new();
    for part in &result.parts {
        let gates: Vec<&GateOutcome> = gates.iter().filter(|gate| gate.part == part.name).collect();
        suites += &suite(result, &part.name, Some(part), &gates);
    }
    let known = |gate: &&GateOutcome| result.parts.iter().any(|part| part.name == gate.part);
    let mut lost: Vec<&GateOutcome> = gates.iter().filter(|gate| !known(gate)).collect();
    lost.sort_by(|one, other| one.part.cmp(&other.part));
    for group in lost.chunk_by(|one, other| one.part == other.part) {
        if let Some(first) = group.first() {
            suites += &suite(result, &first.part, None, group);
        }
    }
    let skipped = result.parts.iter().filter(|part| part.skipped.is_some()).count();
    let seconds: f64 = result.parts.iter().map(|part| part.seconds).sum();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\" \
         skipped=\"{skipped}\" time=\"{seconds:.3}\">\n{suites}</testsuites>\n",
        escape(&result.suite),
        result.parts.len() + gates.len(),
        gates.iter().filter(|gate| !gate.passed).count(),
    )
}

fn suite(result: &RunResult, name: &str, part: Option<&PartResult>, gates: &[&GateOutcome]) -> String {
    let class = format!("{}.{name}", result.suite);
    let seconds = part.map_or(0.0, |part| part.seconds);
    let skipped = part.and_then(|part| part.skipped.as_deref());
    let mut cases = String::new();
    if part.is_some() {
        let inside = skipped.map(|reason| format!("<skipped message=\"{}\"/>", escape(reason)));
        cases += &case(&class, "part ran", seconds, inside);
    }
    for gate in gates {
        let inside = (!gate.passed).then(|| {
            let reason = escape(&gate.reason);
            format!("<failure type=\"gate\" message=\"{reason}\">{reason}</failure>")
        });
        let slice = if gate.slice == ALL { String::new() } else { format!(" ({})", gate.slice) };
        cases += &case(&class, &format!("gate {}{slice}", gate.metric), 0.0, inside);
    }
    format!(
        "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{}\" time=\"{seconds:.3}\" \
         timestamp=\"{}\">\n{cases}  </testsuite>\n",
        escape(&class),
        gates.len() + usize::from(part.is_some()),
        gates.iter().filter(|gate| !gate.passed).count(),
        usize::from(skipped.is_some()),
        escape(&result.made.at),
    )
}

fn case(class: &str, name: &str, seconds: f64, inside: Option<String>) -> String {
    let opening =
        format!("    <testcase classname=\"{}\" name=\"{}\" time=\"{seconds:.3}\"", escape(class), escape(name));
    match inside {
        Some(inside) => format!("{opening}>{inside}</testcase>\n"),
        None => format!("{opening}/>\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::report::made_up;

    #[test]
    fn gates_fail_and_parts_are_skipped_with_their_reasons() {
        let text = xml(&made_up::result(), &made_up::gates());
        assert_eq!(text.matches("<testsuite ").count(), 5, "four parts and one that only a gate names");
        assert_eq!(text.matches("<failure ").count(), 2);
        assert_eq!(text.matches("<skipped ").count(), 1);
        assert!(text.contains("tests=\"8\" failures=\"2\" errors=\"0\" skipped=\"1\""), "{text}");
    }

    #[test]
    fn hostile_text_stays_text() {
        let mut gates = made_up::gates();
        gates[0].passed = false;
        gates[0].reason = "]]> </failure> & \"quotes\" '\u{0}\u{8}\u{1b}[31m\u{FFFE}\u{FFFF}\n\u{2028}\u{1F600}".into();
        let text = xml(&made_up::result(), &gates);
        assert!(text.contains(
            "]]&gt; &lt;/failure&gt; &amp; &quot;quotes&quot; &#39;\u{FFFD}\u{FFFD}\u{FFFD}[31m\u{FFFD}\u{FFFD}&#10;\u{2028}\u{1F600}"
        ));
        assert!(text.chars().all(crate::eval::report::is_xml));
        assert_eq!(text.matches("</failure>").count(), 3);
    }

    #[test]
    fn an_empty_run_is_still_a_document() {
        let text = xml(&made_up::empty(), &[]);
        assert!(text.starts_with("<?xml") && text.contains("tests=\"0\"") && text.ends_with("</testsuites>\n"));
    }
}
