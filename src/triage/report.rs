//! The training report as Markdown: what was learnt, on what, how good it is, and what it is not.

use std::fmt::Write;

use super::data::Task;
use super::heads::{CLASSES, HeadSettings, Header};
use super::measure::{Judged, MEASURES, confusion, figures, intervals};
use crate::ticket::{Class, Difficulty, NextStep, Urgency};

/// Judgements of one head on unseen rows.
#[derive(Clone, Debug)]
pub struct TaskReport {
    pub task: Task,
    /// Unseen folds of the training rows, by the views that are known; with the reader, only rows that were kept from it.
    pub folds: [Vec<Judged>; 4],
    pub majority: Vec<Judged>,
    pub keyword: Vec<Judged>,
    /// The development rows, by the views that are known.
    pub dev: [Vec<Judged>; 4],
    pub dev_majority: Vec<Judged>,
    pub dev_keyword: Vec<Judged>,
}

impl TaskReport {
    /// The development rows, judged by all that takes part.
    pub fn best_dev(&self) -> &[Judged] {
        self.dev.iter().rev().find(|judged| !judged.is_empty()).map_or(&[], Vec::as_slice)
    }

    pub fn empty(task: Task) -> Self {
        let none = Vec::new;
        Self {
            task,
            folds: Default::default(),
            majority: none(),
            keyword: none(),
            dev: Default::default(),
            dev_majority: none(),
            dev_keyword: none(),
        }
    }
}

/// How the words shown for the urgency compare with those that a labeller marked.
#[derive(Clone, Copy, Debug, Default)]
pub struct WordsReport {
    pub requests: usize,
    /// Some words were shown.
    pub shown: usize,
    /// They share a word or more with the marked ones.
    pub touching: usize,
    /// Sum over requests of the F1 between the words shown and the words marked.
    pub overlap: f32,
}

#[derive(Clone, Debug)]
pub struct Report {
    pub header: Header,
    pub file_bytes: usize,
    pub tasks: Vec<TaskReport>,
    pub words: WordsReport,
}

impl Report {
    /// `command` is what makes this report again.
    pub fn markdown(&self, command: &str) -> String {
        let header = &self.header;
        let count = |part: &str| header.rows.get(part).copied().unwrap_or(0);
        let mut text = format!(
            "# Triage heads: training report\n\nMade on {} by `{command}` (seed {}), {} training and {} development \
             rows, embedder `{}`, reader `{}`, language model `{}`, features {}, weights of {} KB.\n\n{INTRODUCTION}\n",
            header.trained_on,
            header.seed,
            count("train"),
            count("dev"),
            header.embedder,
            header.reader.as_deref().unwrap_or("none"),
            header.states.as_ref().map_or("none", |states| &states.name),
            header.feature_version,
            self.file_bytes / 1024,
        );
        for (task, settings) in self.tasks.iter().zip([&header.urgency, &header.difficulty, &header.next]) {
            add_task(&mut text, task, settings, header.seed);
        }
        let words = self.words;
        let share = |part: usize| 100.0 * part as f32 / words.requests.max(1) as f32;
        let _ = writeln!(
            text,
            "## The customer's words\n\nOf {} development requests with marked words, the head showed some for {:.0} %; \
             {:.0} % share a word or more with those that the labeller marked (mean F1 of the words {:.2}). Shown for the true \
             urgency; there is one stretch of 2 to 8 words per request on both sides.",
            words.requests,
            share(words.shown),
            share(words.touching),
            words.overlap / words.requests.max(1) as f32,
        );
        text
    }
}

const INTRODUCTION: &str = "\
Labels were made by language models in the role of support leads, following a written rubric, not by people: read \
agreement with them as optimistic. Critical requests are more frequent in these rows than in a real stream.

Settings were chosen on five folds of the training rows alone (stratified, equal texts in one fold); the figures of \
the folds come from models, frequencies and calibration that had not seen the row. The development rows took part in no \
choice for the heads; the search for the customer's words was changed once after a look at its figure on them. Brackets: 95 % bootstrap interval, 1,000 resamples. Kappa is quadratic for urgency and difficulty, \
plain for the next step. ECE: ten bins over the probability of the chosen class. \"Text only\" is what happens \
when there is no embedding or one of another model, \"text and embedding\" when no reader is running. The keyword baseline is a handful of rules over the lexicon, with probabilities \
from how often each rule was right in training.
";

fn add_task(text: &mut String, report: &TaskReport, settings: &HeadSettings, seed: u64) {
    let names = class_names(report.task);
    let _ = writeln!(text, "## {}\n", title(report.task));
    let _ = writeln!(text, "| rows | model | accuracy | macro-F1 | kappa | ECE | Brier |");
    let _ = writeln!(text, "|---|---|---|---|---|---|---|");
    let opinion_rows = if report.folds[2].is_empty() { "folds" } else { "folds, kept from the reader" };
    let lines = [
        ("folds", "majority", &report.majority, false),
        ("folds", "keywords", &report.keyword, false),
        ("folds", "text only", &report.folds[0], false),
        ("folds", "text and embedding", &report.folds[1], true),
        ("folds, kept from the reader", "with the reader", &report.folds[2], true),
        (opinion_rows, "**with the language model**", &report.folds[3], true),
        ("dev", "majority", &report.dev_majority, false),
        ("dev", "keywords", &report.dev_keyword, false),
        ("dev", "text only", &report.dev[0], true),
        ("dev", "text and embedding", &report.dev[1], true),
        ("dev", "with the reader", &report.dev[2], true),
        ("dev", "**with the language model**", &report.dev[3], true),
    ];
    for (rows, model, judged, with_interval) in lines.into_iter().filter(|(.., judged, _)| !judged.is_empty()) {
        let measured = figures(judged, report.task.ordered());
        let bounds = with_interval.then(|| intervals(judged, report.task.ordered(), seed));
        let cells = (0..MEASURES.len()).map(|at| match &bounds {
            Some(bounds) => format!("{:.3} [{:.3}, {:.3}]", measured[at], bounds[at].0, bounds[at].1),
            None => format!("{:.3}", measured[at]),
        });
        let _ = writeln!(text, "| {rows} | {model} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    let dev = report.best_dev();
    let best = settings.with_opinion.as_ref().or(settings.with_reading.as_ref());
    let calibration = best.unwrap_or(&settings.with_meaning);
    let acted: Vec<&Judged> = dev.iter().filter(|one| one.probability() >= calibration.abstain_below).collect();
    let right = acted.iter().filter(|one| one.label == one.truth).count();
    let _ = writeln!(
        text,
        "\nAbstains below {:.2} ({:.2} without an embedding): on dev it acts on {} of {} and is right in {:.1} % of these. \
         L2 {:.0e} for the text, {:.0e} for the meaning, {:.0e} for the opinion.\n",
        calibration.abstain_below,
        settings.text_only.abstain_below,
        acted.len(),
        dev.len(),
        100.0 * right as f32 / acted.len().max(1) as f32,
        settings.text_l2,
        settings.meaning_l2,
        settings.opinion_l2,
    );
    let _ = writeln!(text, "| dev: truth \\ judged | {} | recall | precision |", names.join(" | "));
    let _ = writeln!(text, "|---|{}---|---|", "---|".repeat(CLASSES));
    let table = confusion(dev);
    for class in 0..CLASSES {
        let cells = table[class].map(|count| count.to_string()).join(" | ");
        let judged: usize = table.iter().map(|row| row[class]).sum();
        let recall = share(table[class][class], table[class].iter().sum());
        let precision = share(table[class][class], judged);
        let _ = writeln!(text, "| {} | {cells} | {recall} | {precision} |", names[class]);
    }
    let _ = writeln!(text);
}

fn share(part: usize, whole: usize) -> String {
    if whole == 0 { "-".into() } else { format!("{:.2}", part as f32 / whole as f32) }
}

fn title(task: Task) -> &'static str {
    match task {
        Task::Urgency => "Urgency",
        Task::Difficulty => "Difficulty",
        Task::Next => "Next step",
    }
}

fn class_names(task: Task) -> Vec<&'static str> {
    match task {
        Task::Urgency => Urgency::ALL.iter().map(|class| class.name()).collect(),
        Task::Difficulty => Difficulty::ALL.iter().map(|class| class.name()).collect(),
        Task::Next => NextStep::ALL.iter().map(|class| class.name()).collect(),
    }
}
