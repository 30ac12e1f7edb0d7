use std::io::Cursor;

use super::super::record::{ShownDraft, ShownEvidence};
use super::*;

fn case(at: usize) -> CaseRecord {
    CaseRecord {
        id: format!("c{at}"),
        message: format!("message {at}: I cannot log in\u{1b}[2J"),
        values: BTreeMap::from([("urgency.p0".to_owned(), 0.987)]),
        failures: vec!["judged critical".to_owned()],
        evidence: vec![ShownEvidence { title: format!("title {at}"), ..ShownEvidence::default() }],
        draft: at.is_multiple_of(2).then(|| ShownDraft { text: format!("reply {at}"), ..ShownDraft::default() }),
        reference: Some("the truth".to_owned()),
        ..CaseRecord::default()
    }
}

fn run_folder(count: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("cases")).expect("made");
    let lines: String = (0..count).map(|at| serde_json::to_string(&case(at)).expect("JSON") + "\n").collect();
    fs::write(folder.path().join("cases/mixed.jsonl"), lines).expect("written");
    folder
}

fn task(folder: &tempfile::TempDir, what: What, by: &str) -> Task {
    let labels = folder.path().to_owned();
    Task { what, folder: folder.path().to_owned(), labels, part: None, by: by.to_owned(), seed: 7, count: 4 }
}

/// What is left after these keys: the session's end, the lines of the file, what was shown.
fn after(task: &Task, keys: &str) -> (Done, Vec<Label>, String) {
    let mut shown = Vec::new();
    let done = label(task, Cursor::new(keys), &mut shown).expect("a session");
    let labels = read_labels(&done.file).expect("readable");
    (done, labels, String::from_utf8(shown).expect("text"))
}

fn names(labels: &[Label]) -> Vec<Option<&str>> {
    labels.iter().map(|label| label.label.as_deref()).collect()
}

#[test]
fn labels_are_given_by_letter_or_number_and_the_session_ends_by_itself() {
    let folder = run_folder(9);
    let task = task(&folder, What::Urgency, "ana");
    let (done, labels, _) = after(&task, "c\n2\n?\nx\n\nN\nl\nc\n");
    assert_eq!((done.labelled, done.drawn), (4, 4));
    assert_eq!(names(&labels), [Some("critical"), Some("high"), Some("normal"), Some("low")]);
    assert_eq!(done.file, folder.path().join("labels-urgency-ana.jsonl"));
    assert!(labels.iter().all(|label| label.by == "ana" && label.part == "mixed" && label.digest.len() == 16));
}

#[test]
fn people_are_shown_the_text_and_nothing_of_what_was_judged() {
    let folder = run_folder(9);
    let (_, _, shown) = after(&task(&folder, What::Urgency, "ana"), "?\nx\n");
    assert!(shown.contains("I cannot log in") && shown.contains("work stands still"), "{shown}");
    assert!(shown.contains("`x` is no key"), "{shown}");
    for hidden in ["0.987", "judged critical", "the truth", "reply", "title", "\u{1b}"] {
        assert!(!shown.contains(hidden), "{hidden:?} is shown: {shown}");
    }
    let (done, _, shown) = after(&task(&folder, What::Draft, "ana"), "a\ne\nn\n1\n");
    assert!(shown.contains("reply ") && shown.contains("- title "), "{shown}");
    assert!(!shown.contains("0.987") && !shown.contains("the truth"));
    assert_eq!(done.drawn, 4, "only cases with a draft");
}

#[test]
fn a_session_goes_on_where_it_stopped() {
    let folder = run_folder(9);
    let task = task(&folder, What::Next, "ana");
    assert_eq!(after(&task, "a\nq\n").0.labelled, 1);
    assert_eq!(after(&task, "s\nk\n").0.labelled, 2, "the end of input ends it; skipped ones are left");
    let (done, labels, _) = after(&task, "h\nr\na\n");
    assert_eq!((done.labelled, labels.len()), (4, 4));
    assert_eq!(counting(&labels).len(), 4, "four cases");
    assert_eq!(after(&task, "a\n").1.len(), 4, "nothing is left to ask");
}

#[test]
fn undo_takes_the_last_label_back_and_asks_again() {
    let folder = run_folder(9);
    let task = task(&folder, What::Urgency, "ana");
    let (done, labels, shown) = after(&task, "u\nc\nu\nl\ns\nu\nh\nq\n");
    assert_eq!(names(&labels), [Some("critical"), None, Some("low"), Some("high")]);
    assert_eq!(labels[0].id, labels[2].id);
    assert_eq!(done.labelled, 2);
    assert!(shown.contains("nothing to take back"), "{shown}");
    let counting: Vec<Label> = counting(&labels);
    assert!(counting.iter().any(|label| label.id == labels[0].id && label.label.as_deref() == Some("low")));
}

#[test]
fn two_people_are_asked_the_same_and_more_keeps_the_first() {
    let folder = run_folder(9);
    let ids = |task: &Task| -> Vec<String> { draw(task).expect("drawn").into_iter().map(|case| case.id).collect() };
    let ana = task(&folder, What::Urgency, "ana");
    assert_eq!(ids(&ana), ids(&task(&folder, What::Urgency, "ben")));
    assert_eq!(ids(&Task { count: 6, ..ana.clone() })[..4], ids(&ana));
    assert_ne!(ids(&Task { seed: 8, ..ana.clone() }), ids(&ana));
}

#[test]
fn a_line_cut_short_is_dropped_and_a_damaged_file_is_refused() {
    let folder = run_folder(9);
    let task = task(&folder, What::Urgency, "ana");
    let (done, ..) = after(&task, "c\nc\nq\n");
    let text = fs::read(&done.file).expect("readable");
    fs::write(&done.file, &text[..text.len() - 9]).expect("written");
    let (done, labels, _) = after(&task, "l\nq\n");
    assert_eq!(names(&labels), [Some("critical"), Some("low")]);
    fs::write(&done.file, "nonsense\n").expect("written");
    let error = label(&task, Cursor::new(""), Vec::new()).expect_err("refused");
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("line 1 is no label"), "{error}");
}

#[test]
fn bad_names_and_runs_without_such_cases_are_refused() {
    let folder = run_folder(9);
    let refused = |task: Task| {
        let error = label(&task, Cursor::new(""), Vec::new()).expect_err("refused");
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    };
    assert!(refused(task(&folder, What::Next, "../ana")).contains("`../ana`"));
    assert!(refused(task(&folder, What::Next, "")).contains("letters"));
    let part = Task { part: Some("other".to_owned()), ..task(&folder, What::Next, "ana") };
    assert!(refused(part).contains("part `other`"));
    assert!(refused(task(&run_folder(0), What::Next, "ana")).contains("no case to label"));
}

fn labels(what: What, given: &[(&str, &str)]) -> Vec<Label> {
    let label = |(id, label): &(&str, &str)| Label {
        what,
        part: "p".to_owned(),
        id: (*id).to_owned(),
        digest: "d".to_owned(),
        label: Some((*label).to_owned()),
        by: "x".to_owned(),
        at: String::new(),
    };
    given.iter().map(label).collect()
}

#[test]
fn agreement_counts_shared_cases_and_the_last_label_of_each() {
    let a = labels(What::Next, &[("1", "ask"), ("1", "answer"), ("2", "ask"), ("3", "human"), ("4", "human")]);
    let b = labels(What::Next, &[("1", "answer"), ("2", "human"), ("3", "human"), ("9", "ask")]);
    let agreement = agreement(What::Next, &a, &b);
    assert_eq!((agreement.both, agreement.table[1][2]), (3, 1));
    // Seen disagreement 1/3; by chance 1 - (1*1 + 1*0 + 1*2)/9 = 2/3.
    assert!((agreement.kappa.expect("defined") - 0.5).abs() < 1e-12);
    assert!((agreement.raw.expect("some") - 2.0 / 3.0).abs() < 1e-12);
    let printed = agreement.to_string();
    assert!(printed.contains("3 cases") && printed.contains("66.7 %") && printed.contains("0.500"), "{printed}");
}

#[test]
fn a_near_miss_costs_less_where_labels_are_ordered() {
    let given = [("1", "critical"), ("2", "high"), ("3", "normal"), ("4", "low")];
    let near = [("1", "critical"), ("2", "high"), ("3", "low"), ("4", "low")];
    let far = [("1", "low"), ("2", "high"), ("3", "normal"), ("4", "low")];
    let kappa = |other: &[(&str, &str)]| {
        agreement(What::Urgency, &labels(What::Urgency, &given), &labels(What::Urgency, other)).kappa.expect("defined")
    };
    assert_eq!(kappa(&given), 1.0);
    assert!(kappa(&near) > 0.9 && kappa(&far) < 0.5, "{} {}", kappa(&near), kappa(&far));
}

#[test]
fn agreement_without_shared_cases_or_variety_is_undefined() {
    let one = labels(What::Draft, &[("1", "as-is"), ("2", "as-is")]);
    let same = agreement(What::Draft, &one, &one);
    assert_eq!((same.raw, same.kappa), (Some(1.0), None));
    assert!(same.to_string().contains("undefined"));
    let none = agreement(What::Draft, &one, &[]);
    assert_eq!((none.both, none.raw, none.kappa), (0, None, None));
    assert!(none.to_string().contains("no case was labelled by both"));
    let other_text: Vec<Label> = one.iter().map(|label| Label { digest: "e".to_owned(), ..label.clone() }).collect();
    assert_eq!(agreement(What::Draft, &one, &other_text).both, 0, "another reply is another case");
}
