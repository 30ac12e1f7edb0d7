//! The service killed again and again while customers write and an agent approves: `respondo bench crash` in its short form.

use crate::support::{memory, project, run};

#[test]
fn a_service_that_is_killed_again_and_again_loses_nothing_and_does_nothing_twice() {
    let Some(data) = memory() else { return };
    let samples = project().join("samples");
    let (folder, samples) = (data.path().to_str().expect("UTF-8"), samples.to_str().expect("UTF-8"));
    let arguments = ["bench", "crash", "--requests", "120", "--kills", "12", "--seed", "1", "--clients", "6"];
    let arguments = [&arguments[..], &["--folder", folder, "--samples", samples]].concat();
    let report = run(data.path(), &[], &arguments).ok();
    assert!(report.contains("- wrong: 0"), "{report}");
    assert!(report.contains("--requests 120 --kills 12 --seed 1"), "a run can be repeated: {report}");
    let figure = |name: &str| -> u64 {
        let line = report.lines().find_map(|line| line.strip_prefix(&format!("- {name}: ")));
        let line = line.unwrap_or_else(|| panic!("no {name:?} in {report}"));
        line.split(|c: char| !c.is_ascii_digit()).next().and_then(|number| number.parse().ok()).expect("a number")
    };
    // Something was at stake: every customer's message is one, and the agent approved answers.
    assert!(figure("messages of customers") >= 60 && figure("messages to customers") >= 60, "{report}");
    assert!(figure("approvals") > 0, "{report}");

    // What is there already cannot be told from what was lost.
    let again = run(data.path(), &[], &arguments).failed();
    assert!(again.contains("tickets already") && again.contains("seed 1"), "{again}");
}
