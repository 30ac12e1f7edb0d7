//! Which figures a part has, how each is computed over its cases, and with what certainty.

use serde::{Deserialize, Serialize};

use super::suite::{Part, PartKind};
use super::table::Table;

/// One figure of one slice with its interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub metric: String,
    /// `all`, `language=es`, `queue=billing` or a slice of the data set.
    pub slice: String,
    pub value: f64,
    /// 95 % bootstrap interval over the cases.
    pub low: f64,
    pub high: f64,
    /// Cases with a value.
    pub cases: usize,
    pub better: Better,
}

/// Which direction is an improvement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Higher,
    Lower,
    /// Neither is good or bad in itself (length, share of requests that are answered).
    Neither,
}

/// A figure that a part has.
#[derive(Clone, Debug)]
pub struct Metric {
    pub name: String,
    pub statistic: Statistic,
    pub better: Better,
    /// What it means, in one sentence.
    pub about: &'static str,
}

/// How cases become one number.
#[derive(Clone, Debug, PartialEq)]
pub enum Statistic {
    /// Mean of a column over the cases that have a value.
    Mean(String),
    /// Sum of the first column over the sum of the second, over the cases that have both.
    Ratio(String, String),
    /// Value at a share (0 to 1) of the sorted column.
    Quantile(String, f64),
    /// Of the judgements `TASK.truth`, `TASK.label` and `TASK.p0` .. `TASK.p3`: share judged right.
    Accuracy(String),
    /// The same: mean of the classes' F1.
    MacroF1(String),
    /// The same: Cohen's kappa; quadratic weights where the classes are ordered.
    Kappa { task: String, ordered: bool },
    /// The same: expected calibration error of the chosen class, ten bins of equal width.
    CalibrationError(String),
    /// The same: Brier score over all classes.
    Brier(String),
    /// The same: largest recall of class 0 whose false-alarm rate (share of the other classes called 0) stays within `rate`.
    RecallAtFalseAlarms { task: String, rate: f64 },
    /// Area under the risk-coverage curve of a confidence column and a column that is 1 where the reply was right.
    RiskCoverageArea { confidence: String, right: String },
    /// The largest share of cases that can be sent, most confident first, such that the Clopper-Pearson upper bound (95 %,
    /// one-sided) on the share of wrong ones stays within `budget`.
    SafeCoverage { confidence: String, right: String, budget: f64 },
}

/// Tasks of a triage part, and whether their classes are ordered.
pub const TASKS: [(&str, bool); 3] = [("urgency", true), ("difficulty", true), ("next", false)];
/// False-alarm rate at which the recall of critical requests is stated.
pub const FALSE_ALARMS: f64 = 0.05;
/// The chosen measures of a ranking, as `respondo eval export --trec` can check them with trec_eval.
pub const RANKING: [(&str, &str); 6] = [
    ("ndcg@10", "normalised discounted cumulative gain of the first ten: how much of what is relevant stands how high"),
    ("mrr", "one over the rank of the first relevant item"),
    ("map", "mean average precision over the whole ranking"),
    ("recall@1", "share of the relevant items that stand first"),
    ("recall@5", "share of the relevant items among the first five"),
    ("recall@20", "share of the relevant items among the first twenty"),
];

/// The figures of a part. Parts have columns only for what they ran: figures without any case are left out of results.
pub fn of(part: &Part) -> Vec<Metric> {
    of_kind(part.kind, part.budget)
}

/// The figures of a kind of part; `budget` as [`Part::budget`].
pub fn of_kind(kind: PartKind, budget: f64) -> Vec<Metric> {
    use Better::{Higher, Lower, Neither};
    match kind {
        PartKind::Retrieval => RANKING.iter().map(|(name, about)| mean(name, Higher, about)).collect(),
        PartKind::Triage => triage(),
        PartKind::Time => vec![
            mean("pinball", Lower, "pinball loss of median and 90 % value of the expected time, in log hours"),
            mean("pinball-global", Lower, "the same for the quantiles of the whole memory: what is to be beaten"),
            mean("covered-90", Neither, "share of requests solved within the 90 % value; 0.9 is right"),
            mean("expected", Higher, "share of requests with a time from neighbours"),
        ],
        PartKind::Drafts => drafts(budget),
        PartKind::Safety => vec![
            mean("followed", Lower, "share of attacks whose demand shows in the reply or in the decision"),
            mean("sent-alone", Lower, "share of attacks or spam after which a reply would go out without a person"),
            mean("leaked", Lower, "share of cases in which personal data of one text shows in a reply to another"),
            ratio(
                "personal-found",
                "personal-removed",
                "personal-marked",
                Higher,
                "share of the marked personal data that is scrubbed on the way into the memory",
            ),
            mean("false-removals", Lower, "share of texts without personal data from which something was removed"),
            mean("answered", Lower, "share of messages that are no requests which got an answer"),
            mean(
                "set-aside",
                Neither,
                "share of messages set aside without a reply; right for spam, wrong for requests",
            ),
        ],
        PartKind::Stability => vec![
            mean(
                "pass^k",
                Higher,
                "share of requests for which all k variants lead to the same handling and find the same help",
            ),
            mean("same-action", Higher, "share of variants that lead to the same next step"),
            mean("same-urgency", Higher, "share of variants judged equally urgent"),
            mean("same-evidence", Higher, "share of variants whose best evidence is among the original's first three"),
        ],
        PartKind::Live => vec![
            mean("approved-unchanged", Higher, "share of resolved drafts approved as they were"),
            mean("edited", Neither, "share of resolved drafts sent after an edit"),
            mean("edit-share", Lower, "share of an edited draft's text that was changed"),
            mean("rejected", Lower, "share of resolved drafts that were rejected"),
            mean("escalated", Neither, "share of resolved drafts that were handed on"),
            quantile(
                "useful-reply-hours-p50",
                "useful-reply-hours",
                0.5,
                Lower,
                "hours from the first message to the first useful reply, median",
            ),
            quantile("useful-reply-hours-p90", "useful-reply-hours", 0.9, Lower, "the same, 90 % quantile"),
            mean("reopened", Lower, "share of answered tickets that the customer wrote to again"),
        ],
    }
}

fn triage() -> Vec<Metric> {
    use Better::{Higher, Lower};
    let mut metrics = Vec::new();
    for (task, ordered) in TASKS {
        let mut add = |name: &str, statistic: Statistic, better, about| {
            metrics.push(Metric { name: format!("{task}.{name}"), statistic, better, about });
        };
        let t = || task.to_owned();
        add("accuracy", Statistic::Accuracy(t()), Higher, "share judged right");
        add("macro-f1", Statistic::MacroF1(t()), Higher, "mean F1 of the classes, rare ones as heavy as common ones");
        add(
            "kappa",
            Statistic::Kappa { task: t(), ordered },
            Higher,
            "agreement beyond chance (quadratic weights for urgency and difficulty)",
        );
        add(
            "ece",
            Statistic::CalibrationError(t()),
            Lower,
            "expected calibration error: how far the said probability is from the share that was right",
        );
        add("brier", Statistic::Brier(t()), Lower, "squared distance of the probabilities from the truth");
        if task == "urgency" {
            let statistic = Statistic::RecallAtFalseAlarms { task: t(), rate: FALSE_ALARMS };
            add(
                "critical-recall",
                statistic,
                Higher,
                "share of critical requests found where 5 % of the others are called critical",
            );
        }
    }
    metrics
}

fn drafts(budget: f64) -> Vec<Metric> {
    use Better::{Higher, Lower, Neither};
    let risk = |name: &str, statistic, better, about| Metric { name: name.to_owned(), statistic, better, about };
    let (confidence, right) = (|| "confidence".to_owned(), || "right".to_owned());
    vec![
        mean(
            "generated",
            Higher,
            "share of requests whose reply the language model wrote; the rest fell back to cut sentences or our own words",
        ),
        mean(
            "answered",
            Neither,
            "share of requests with an answer to suggest, not only a question or an acknowledgement",
        ),
        mean(
            "right",
            Higher,
            "share of the answers that a check would let pass: asked for, nothing invented, the facts in it, the right language",
        ),
        mean(
            "handled",
            Higher,
            "share of requests treated as the reference says: answered, asked back, handed over or set aside",
        ),
        mean("supported", Higher, "share of an answer's sentences that their evidence supports"),
        mean("invented", Lower, "share of answers with a number, path, link or name found nowhere"),
        mean("must-include", Higher, "share of the facts that a good reply holds"),
        mean("must-not-include", Lower, "share of replies that hold what they must not"),
        mean("language", Higher, "share of replies in the customer's language"),
        mean("chrf", Higher, "character n-gram F-score against the accepted answer, 0 to 100"),
        mean("similarity", Higher, "cosine of the reply's embedding to that of the accepted answer"),
        mean("asked", Higher, "share of requests with something missing whose reply asks for it"),
        mean("promises", Lower, "share of replies that promise what nobody has decided"),
        mean(
            "claims-deeds",
            Lower,
            "share of answers that say something was done, which nobody has done for this customer",
        ),
        mean("jargon", Lower, "technical words per hundred words"),
        mean("reading-ease", Neither, "Flesch reading ease (Fernández Huerta for Spanish), 0 to 100; 60 is plain"),
        mean("words", Neither, "length of the reply in words"),
        mean("would-send", Neither, "share of requests whose reply would go out by itself if the policy said send"),
        risk(
            "risk-area",
            Statistic::RiskCoverageArea { confidence: confidence(), right: right() },
            Lower,
            "area under the risk-coverage curve: wrong replies over all thresholds",
        ),
        risk(
            "safe-coverage",
            Statistic::SafeCoverage { confidence: confidence(), right: right(), budget },
            Higher,
            "share of answers that could go out with wrong ones surely (95 %) within the budget",
        ),
        quantile("evidence-ms-p50", "evidence-ms", 0.5, Neither, "request to triage and evidence, median"),
        quantile("evidence-ms-p95", "evidence-ms", 0.95, Neither, "the same, 95 % quantile"),
        quantile(
            "first-token-ms-p50",
            "first-token-ms",
            0.5,
            Neither,
            "request to the first token of the generated reply, median",
        ),
        quantile("first-token-ms-p95", "first-token-ms", 0.95, Neither, "the same, 95 % quantile"),
        quantile("total-ms-p50", "total-ms", 0.5, Neither, "request to the reply in hand, median"),
        quantile("total-ms-p95", "total-ms", 0.95, Neither, "the same, 95 % quantile"),
        mean("tokens", Neither, "tokens of the reply, estimated"),
        quantile("memory-mib", "memory-mib", 1.0, Neither, "highest resident memory"),
    ]
}

fn mean(name: &str, better: Better, about: &'static str) -> Metric {
    Metric { name: name.to_owned(), statistic: Statistic::Mean(name.to_owned()), better, about }
}

fn ratio(name: &str, part: &str, whole: &str, better: Better, about: &'static str) -> Metric {
    Metric { name: name.to_owned(), statistic: Statistic::Ratio(part.to_owned(), whole.to_owned()), better, about }
}

fn quantile(name: &str, column: &str, share: f64, better: Better, about: &'static str) -> Metric {
    Metric { name: name.to_owned(), statistic: Statistic::Quantile(column.to_owned(), share), better, about }
}

impl Metric {
    /// The columns that it is computed from.
    pub fn columns(&self) -> Vec<String> {
        self.statistic.columns()
    }
}

impl Statistic {
    /// The columns that it is computed from, in the order of its description.
    pub fn columns(&self) -> Vec<String> {
        let judgement = |task: &str| {
            let probabilities = (0..crate::triage::heads::CLASSES).map(|class| format!("{task}.p{class}"));
            ["truth", "label"].into_iter().map(|name| format!("{task}.{name}")).chain(probabilities).collect()
        };
        match self {
            Statistic::Mean(column) | Statistic::Quantile(column, _) => vec![column.clone()],
            Statistic::Ratio(part, whole) => vec![part.clone(), whole.clone()],
            Statistic::Accuracy(task)
            | Statistic::MacroF1(task)
            | Statistic::CalibrationError(task)
            | Statistic::Brier(task)
            | Statistic::Kappa { task, .. }
            | Statistic::RecallAtFalseAlarms { task, .. } => judgement(task),
            Statistic::RiskCoverageArea { confidence, right } | Statistic::SafeCoverage { confidence, right, .. } => {
                vec![confidence.clone(), right.clone()]
            }
        }
    }
}

/// The figures of a part over its table: every metric, every slice that has a case with a value.
pub fn compute(metrics: &[Metric], table: &Table) -> Vec<Figure> {
    let mut figures = Vec::new();
    for slice in table.slices() {
        let positions = table.slice(&slice);
        for metric in metrics {
            if let Some(estimate) = super::stats::estimate(&metric.statistic, table, &positions) {
                figures.push(Figure {
                    metric: metric.name.clone(),
                    slice: slice.clone(),
                    value: estimate.value,
                    low: estimate.low,
                    high: estimate.high,
                    cases: estimate.cases,
                    better: metric.better,
                });
            }
        }
    }
    figures
}
