//! A made-up run for the tests of the reports: every kind of chart and note, and texts that want to break out.

use std::collections::BTreeMap;

use crate::eval::compare::{Change, Comparison, GateOutcome, Verdict};
use crate::eval::figures::{Better, Figure};
use crate::eval::record::{Beside, Bin, CaseRecord, Chart, DataNote, Made, MemoryNote, PartResult, RunResult};
use crate::eval::record::{ShownDraft, ShownEvidence, ShownSentence};
use crate::eval::suite::PartKind;
use crate::eval::table::Table;

pub const HOSTILE: &str = "<script>alert(1)</script> </script><!-- \"double\" 'single' \u{2028}\u{2029} & \u{0}\u{1b}[31m \
    \u{202E}gpj.exe مرحبا بالعالم 😀 <img src=x onerror=alert(2)> ]]> {{ 7 * 7 }}";
const NOTHING_FOUND: &str = "nothing relevant among the first five";
const INVENTED: &str = "the reply names something found nowhere";

pub fn empty() -> RunResult {
    RunResult {
        format: 1,
        suite: "made-up".into(),
        suite_version: 3,
        about: "A run of nothing real.".into(),
        made: Made {
            at: "2025-03-04T05:06:07Z".into(),
            command: "respondo eval run made-up".into(),
            machine: "Some processor, 2 cores, 8 GB".into(),
            code: "0.1.0 (a1b2c3d4e5f6)".into(),
            embedder: "multilingual-e5-small".into(),
            generator: Some("Qwen2.5-1.5B-Instruct Q4_K_M".into()),
            prompts: "77aa88bb".into(),
            settings: "99cc00dd".into(),
        },
        parts: Vec::new(),
    }
}

pub fn result() -> RunResult {
    RunResult { parts: vec![search(), labels(), drafts(), broken()], ..empty() }
}

pub fn all_skipped() -> RunResult {
    let mut all = result();
    for part in &mut all.parts {
        part.skipped = Some(format!("no data {HOSTILE}"));
    }
    all
}

fn part(name: &str, kind: PartKind) -> PartResult {
    PartResult {
        name: name.into(),
        kind,
        about: "Is what answers the request found?".into(),
        data: DataNote {
            path: format!("data/{name}"),
            cases: "c0ffee".into(),
            corpus: Some("beef".into()),
            available: 1200,
            used: 240,
            notes: vec!["12 requests without any relevant item were left out".into()],
        },
        memory: Some(MemoryNote {
            items: 3140,
            digest: "d1d2".into(),
            separation: "no case is in the memory: 0 of 240 ids and 0 of 240 texts found".into(),
        }),
        skipped: None,
        figures: Vec::new(),
        charts: Vec::new(),
        beside: Vec::new(),
        failures: Vec::new(),
        cached: 200,
        seconds: 83.2,
        table: Table::default(),
    }
}

fn figures(metric: &str, better: Better, slices: &[(&str, f64, f64, f64, usize)]) -> Vec<Figure> {
    let figure = |(slice, value, low, high, cases): &(&str, f64, f64, f64, usize)| Figure {
        metric: metric.into(),
        slice: (*slice).into(),
        value: *value,
        low: *low,
        high: *high,
        cases: *cases,
        better,
    };
    slices.iter().map(figure).collect()
}

fn search() -> PartResult {
    let mut part = part("search", PartKind::Retrieval);
    part.figures = figures(
        "ndcg@10",
        Better::Higher,
        &[
            ("all", 0.612, 0.571, 0.653, 240),
            ("language=en", 0.655, 0.6, 0.71, 130),
            ("language=es", 0.57, 0.51, 0.62, 110),
            ("queue=billing", 0.41, 0.33, 0.5, 40),
            ("queue=shipping & <b>returns</b>", 0.7, 0.6, 0.79, 60),
        ],
    );
    part.figures.extend(figures(
        "mrr",
        Better::Higher,
        &[
            ("all", 0.66, 0.61, 0.7, 240),
            ("language=en", 0.7, 0.65, 0.75, 130),
            ("language=es", 0.6, 0.55, 0.66, 110),
            ("queue=billing", 0.45, 0.36, 0.55, 40),
        ],
    ));
    part.failures = vec![(NOTHING_FOUND.into(), 61), (HOSTILE.into(), 2)];
    part.charts = vec![
        Chart::Bars {
            title: "Rank of the first relevant item".into(),
            unit: "cases".into(),
            bars: vec![("1".into(), 120.0), ("2 to 5".into(), 59.0), ("not found".into(), 61.0)],
        },
        Chart::Curve {
            title: "Recall".into(),
            x: "items shown".into(),
            y: "recall".into(),
            points: vec![(1.0, 0.4), (5.0, 0.6), (10.0, 0.71), (20.0, 0.8)],
        },
    ];
    part
}

fn labels() -> PartResult {
    PartResult {
        skipped: Some("data/labels.jsonl is not there".into()),
        memory: None,
        ..part("labels", PartKind::Triage)
    }
}

fn drafts() -> PartResult {
    let mut part = part("drafts", PartKind::Drafts);
    part.about = "Replies, judged by what they rest on.".into();
    let add = [
        ("answered", Better::Neither, 0.81, 0.02),
        ("right", Better::Higher, 0.702, 0.04),
        ("invented", Better::Lower, 0.08, 0.03),
        ("chrf", Better::Higher, 38.42, 1.9),
        ("urgency.kappa", Better::Higher, -0.05, 0.1),
    ];
    for (metric, better, value, half) in add {
        let spread = |value: f64, half: f64, cases| (value, value - half, value + half, cases);
        let slices = [("all", 1.0, 1.0, 240), ("language=en", 1.1, 1.4, 130), ("language=es", 0.85, 1.5, 110)];
        for (slice, times, wider, cases) in slices {
            let (value, low, high, cases) = spread(value * times, half * wider, cases);
            part.figures.extend(figures(metric, better, &[(slice, value, low, high, cases)]));
        }
    }
    part.figures.extend(figures("total-ms-p50", Better::Neither, &[("all", 1843.2, 1712.0, 1990.4, 240)]));
    part.failures =
        vec![(INVENTED.into(), 19), (NOTHING_FOUND.into(), 15), ("in another language than the request".into(), 4)];
    part.beside = vec![Beside {
        name: "agreement of two people".into(),
        value: 0.83,
        about: "kappa over 100 doubly labelled requests".into(),
    }];
    let bin = |said, was, count| Bin { said, was, count };
    part.charts = vec![
        Chart::Reliability {
            title: "Confidence of replies".into(),
            bins: vec![bin(0.35, 0.2, 10), bin(0.55, 0.52, 60), bin(0.75, 0.66, 110), bin(0.93, 0.88, 60)],
        },
        Chart::Curve {
            title: "Risk against coverage".into(),
            x: "share of replies sent".into(),
            y: "share of them wrong".into(),
            points: (1..=240).map(|at| (f64::from(at) / 240.0, 0.3 * (f64::from(at) / 240.0).powi(2))).collect(),
        },
        Chart::Matrix {
            title: "Next step".into(),
            labels: ["answer", "ask", "hand over", "set aside"].map(String::from).to_vec(),
            counts: vec![vec![120, 10, 5, 0], vec![8, 40, 2, 0], vec![12, 3, 25, 1], vec![1, 0, 0, 13]],
        },
    ];
    part
}

/// Everything in it is odd: no figures, no cases, texts that break out.
fn broken() -> PartResult {
    let mut part = part("hostile", PartKind::Safety);
    part.about = HOSTILE.into();
    part.data.notes = vec![HOSTILE.into()];
    part.figures = figures("followed", Better::Lower, &[("all", f64::NAN, f64::NAN, f64::NAN, 0)]);
    part
}

pub fn cases() -> Vec<(String, Vec<CaseRecord>)> {
    let search = (0..60).map(|at| case(at, NOTHING_FOUND)).collect();
    let mut drafts: Vec<CaseRecord> = (60..70).map(|at| case(at, INVENTED)).collect();
    drafts.push(hostile());
    vec![("search".into(), search), ("drafts".into(), drafts), ("hostile".into(), Vec::new())]
}

fn case(at: u32, failure: &str) -> CaseRecord {
    let spanish = at.is_multiple_of(3);
    let message = if spanish {
        "Hola, me han cobrado dos veces la factura 4711 de marzo. ¿Me pueden devolver uno de los pagos?"
    } else {
        "Hello, I was charged twice for invoice 4711 in March. Can you refund one of the payments, please?"
    };
    let evidence = |id: &str, similarity, relevant| ShownEvidence {
        id: id.into(),
        title: "Refund of a double payment".into(),
        text: "If a payment was taken twice, the second one is returned within five working days.".into(),
        similarity,
        relevant,
    };
    let sentence = |text: &str, evidence, support| ShownSentence { text: text.into(), evidence, support };
    CaseRecord {
        id: format!("case-{at:03}"),
        language: if spanish { "es" } else { "en" }.into(),
        queue: Some(if at.is_multiple_of(2) { "billing" } else { "shipping" }.into()),
        slices: vec!["hard".into()],
        message: message.into(),
        values: BTreeMap::from([("ndcg@10".into(), 0.12), ("right".into(), 0.0), ("total-ms".into(), 1843.0)]),
        failures: vec![failure.into()],
        badness: 3.0 - f64::from(at) / 40.0,
        evidence: vec![evidence("kb-17", 0.871, Some(true)), evidence("kb-99", 0.702, Some(false))],
        draft: Some(ShownDraft {
            kind: "generated".into(),
            text: "Thank you for writing. The second payment is returned within five working days. Call 555-0199."
                .into(),
            sentences: vec![
                sentence("Thank you for writing.", vec![], 1.0),
                sentence("The second payment is returned within five working days.", vec![1], 0.82),
                sentence("It may take up to a week.", vec![1, 2], 0.41),
                sentence("Call 555-0199.", vec![], 0.06),
            ],
            findings: vec!["cut a sentence: promises a refund that nobody has decided".into()],
            invented: vec!["555-0199".into()],
        }),
        reference: Some("The second payment of invoice 4711 goes back to you within five working days.".into()),
        notes: vec![("decision".into(), "review".into()), ("confidence".into(), "0.61".into())],
        ..CaseRecord::default()
    }
}

/// The worst of all, so that it stands first.
pub fn hostile() -> CaseRecord {
    let mut case = case(0, HOSTILE);
    case.id = HOSTILE.into();
    case.queue = Some(HOSTILE.into());
    case.message = format!("{HOSTILE}\n\n{}", "long text without end ".repeat(500));
    case.reference = Some(HOSTILE.into());
    case.badness = 9.0;
    case.values.insert("odd".into(), f64::INFINITY);
    if let Some(draft) = &mut case.draft {
        draft.text = HOSTILE.into();
        draft.sentences = vec![ShownSentence { text: HOSTILE.repeat(3), evidence: vec![1, 7], support: f64::NAN }];
        draft.findings = vec![HOSTILE.into()];
        draft.invented = vec![HOSTILE.into()];
    }
    for evidence in &mut case.evidence {
        evidence.title = HOSTILE.into();
        evidence.text = "x".repeat(10_000);
        evidence.relevant = None;
    }
    case
}

pub fn comparison() -> Comparison {
    let change = |part: &str, metric: &str, slice: &str, old, new, half: f64, better, verdict| Change {
        part: part.into(),
        metric: metric.into(),
        slice: slice.into(),
        old,
        new,
        low: new - old - half,
        high: new - old + half,
        cases: 240,
        better,
        verdict,
    };
    let mut old = empty().made;
    old.at = "2025-02-01T00:00:00Z".into();
    Comparison {
        suite: "made-up".into(),
        old,
        new: empty().made,
        changes: vec![
            change("search", "ndcg@10", "all", 0.58, 0.612, 0.02, Better::Higher, Verdict::Better),
            change("search", "mrr", "language=es", 0.61, 0.6, 0.03, Better::Higher, Verdict::Same),
            change("drafts", "right", "all", 0.76, 0.702, 0.03, Better::Higher, Verdict::Worse),
            change("drafts", "answered", "all", 0.7, 0.81, 0.04, Better::Neither, Verdict::Different),
        ],
        notes: vec!["3 cases are in one of the runs only and were left out".into(), HOSTILE.into()],
    }
}

/// The same with nothing sure.
pub fn unchanged() -> Comparison {
    let mut both = comparison();
    both.changes.iter_mut().for_each(|change| change.verdict = Verdict::Same);
    both.notes.clear();
    both
}

pub fn gates() -> Vec<GateOutcome> {
    let gate = |part: &str, metric: &str, passed, reason: &str| GateOutcome {
        part: part.into(),
        metric: metric.into(),
        slice: "all".into(),
        passed,
        reason: reason.into(),
    };
    vec![
        gate("search", "ndcg@10", true, "0.612, was 0.580; surely not worse"),
        gate("drafts", "right", false, "0.702, was 0.760: worse by 0.058 [0.028, 0.088], tolerance 0.010"),
        gate("drafts", "invented", true, "0.080, was 0.083"),
        gate("gone", "ndcg@10", false, "no part of this name in the run"),
    ]
}
