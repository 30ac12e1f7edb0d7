//! The dated report of a run, as Markdown.

use super::requests::{Case, Health, peak_memory_mib};
use super::{quantile, shuffle_key, wilson};
use crate::ticket::{Action, Class, Draft, DraftKind};

/// Pairs shown in full.
const PAIRS: usize = 20;

pub(super) fn markdown(cases: &[Case], health: &Health, about: &[(&str, String)]) -> String {
    let mut out = String::from("# Real requests through the whole pipeline\n\n");
    about.iter().for_each(|(name, value)| out.push_str(&format!("- {name}: {value}\n")));
    out.push_str("\n## Figures\n\n| what | p50 | p95 | n |\n|---|---|---|---|\n");
    speed(&mut out, cases);
    out.push_str("\n| what | figure |\n|---|---|\n");
    quality(&mut out, cases, health);
    out.push_str("\n## What came out\n\n");
    counts(&mut out, cases);
    out.push_str("\n## Found in no evidence\n\nBy a plain search for words with digits, links, paths and menu steps, which shares no code with the guard and takes rephrased ones for invented.\n\n");
    for case in cases.iter().filter(|case| !case.unsupported.is_empty()) {
        out.push_str(&format!("- {}: `{}`\n", case.row.id, case.unsupported.join("`, `")));
    }
    out.push_str("\n## Requests and replies, unedited\n\nChosen by hash, half of them from those that got the weakest treatment: no reply of our own, something cut by the guard, or evidence least similar.\n");
    shown(cases).into_iter().for_each(|case| pair(&mut out, case));
    out
}

fn speed(out: &mut String, cases: &[Case]) {
    let mut row = |name: &str, figures: Vec<f32>, scale: f32, unit: &str| {
        let mut figures = figures;
        figures.sort_by(f32::total_cmp);
        if figures.is_empty() {
            return;
        }
        let at = |share| quantile(&figures, share) / scale;
        out.push_str(&format!("| {name} | {:.1} {unit} | {:.1} {unit} | {} |\n", at(0.5), at(0.95), figures.len()));
    };
    let all = |get: &dyn Fn(&Case) -> f32| cases.iter().map(get).collect::<Vec<_>>();
    let some = |get: &dyn Fn(&Case) -> Option<f32>| cases.iter().filter_map(get).collect::<Vec<_>>();
    row("embedding", all(&|c| c.answer.timings.embed_ms), 1.0, "ms");
    row("search", all(&|c| c.answer.timings.retrieve_ms), 1.0, "ms");
    row(
        "request to triage and evidence",
        all(&|c| c.answer.timings.embed_ms + c.answer.timings.retrieve_ms + c.answer.timings.triage_ms),
        1.0,
        "ms",
    );
    row("request to extractive stage done", all(&|c| c.answer.timings.extractive_ms), 1.0, "ms");
    row("first token of the generated reply", some(&|c| c.answer.timings.first_token_ms), 1_000.0, "s");
    row("whole generated reply (where it was in time)", some(&|c| c.answer.timings.generated_ms), 1_000.0, "s");
    row("reply in hand", all(&|c| c.answer.timings.total_ms), 1_000.0, "s");
}

fn quality(out: &mut String, cases: &[Case], health: &Health) {
    for language in ["en", "es"] {
        let own: Vec<_> = cases.iter().filter(|case| case.row.lang == language && reply(case).is_some()).collect();
        let told: Vec<_> = own.iter().filter_map(|case| case.reply_language_fits).collect();
        let fits = told.iter().filter(|fits| **fits).count();
        let (low, high) = wilson(fits, told.len());
        out.push_str(&format!(
            "| replies in the customer's language, {language} | {fits} of {} (95 % {low:.0}-{high:.0} %) |\n",
            told.len()
        ));
    }
    let invented = cases.iter().filter(|case| !case.unsupported.is_empty()).count();
    out.push_str(&format!(
        "| replies with a number, path or link found in no evidence (independent check) | {invented} of {} |\n",
        cases.len()
    ));
    let useful = cases.iter().filter(|case| has_answer(case)).count();
    let (low, high) = wilson(useful, cases.len());
    out.push_str(&format!(
        "| requests with an answer to suggest (not only an acknowledgement or a question) | {useful} of {} (95 % {low:.0}-{high:.0} %) |\n",
        cases.len()
    ));
    if !health.times_ms.is_empty() {
        let at = |share| quantile(&health.times_ms, share);
        out.push_str(&format!(
            "| `/healthz` while requests are worked on: p50 / p99 / worst | {:.1} / {:.1} / {:.1} ms (n = {}, {} failed) |\n",
            at(0.5),
            at(0.99),
            at(1.0),
            health.times_ms.len(),
            health.failures
        ));
    }
    if let Some(mib) = peak_memory_mib() {
        out.push_str(&format!("| highest resident memory, both models loaded | {mib:.0} MiB |\n"));
    }
}

fn counts(out: &mut String, cases: &[Case]) {
    out.push_str(
        "| language | generated | extractive | question | acknowledgement | none |\n|---|---|---|---|---|---|\n",
    );
    for language in ["en", "es"] {
        let own: Vec<_> = cases.iter().filter(|case| case.row.lang == language).collect();
        let of = |kind| own.iter().filter(|case| draft(case).is_some_and(|d| d.kind == kind)).count();
        let none = own.iter().filter(|case| draft(case).is_none()).count();
        out.push_str(&format!(
            "| {language} | {} | {} | {} | {} | {none} |\n",
            of(DraftKind::Generated),
            of(DraftKind::Extractive),
            of(DraftKind::Question),
            of(DraftKind::Acknowledgement)
        ));
    }
    out.push_str("\n| decision | count |\n|---|---|\n");
    for action in [Action::Send, Action::Suggest, Action::Ask, Action::Escalate, Action::Acknowledge, Action::Discard] {
        let count = cases.iter().filter(|case| case.answer.decision.action == action).count();
        out.push_str(&format!("| {} | {count} |\n", format!("{action:?}").to_lowercase()));
    }
    let mut rules: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
    for finding in cases.iter().filter_map(reply).flat_map(|draft| &draft.findings) {
        *rules.entry(format!("{:?}", finding.rule)).or_default() += 1;
    }
    out.push_str("\n| the guard cut | times |\n|---|---|\n");
    rules.iter().for_each(|(rule, count)| out.push_str(&format!("| {rule} | {count} |\n")));
}

fn draft<'a>(case: &&'a Case) -> Option<&'a Draft> {
    case.answer.draft.as_ref()
}

fn reply(case: &Case) -> Option<&Draft> {
    case.answer.draft.as_ref()
}

fn has_answer(case: &Case) -> bool {
    reply(case).is_some_and(|draft| matches!(draft.kind, DraftKind::Generated | DraftKind::Extractive))
}

/// Half by hash, half the weakest.
fn shown(cases: &[Case]) -> Vec<&Case> {
    let mut by_hash: Vec<&Case> = cases.iter().collect();
    by_hash.sort_by_key(|case| shuffle_key("report", &case.row.id));
    let mut weakest = by_hash.clone();
    let best = |case: &Case| case.answer.evidence.iter().map(|found| found.similarity).fold(0.0, f32::max);
    weakest.sort_by(|a, b| {
        let rank = |case: &Case| {
            (case.unsupported.is_empty(), has_answer(case), reply(case).is_none_or(|draft| draft.findings.is_empty()))
        };
        rank(a).cmp(&rank(b)).then(best(a).total_cmp(&best(b)))
    });
    let mut chosen: Vec<&Case> = by_hash.into_iter().take(PAIRS / 2).collect();
    for case in weakest {
        if chosen.len() < PAIRS.min(cases.len()) && chosen.iter().all(|other| other.row.id != case.row.id) {
            chosen.push(case);
        }
    }
    chosen
}

fn pair(out: &mut String, case: &Case) {
    let answer = &case.answer;
    let quote = |text: &str| text.lines().map(|line| format!("> {line}\n")).collect::<String>();
    out.push_str(&format!("\n### {} ({})\n\n{}\n", case.row.id, case.row.lang, quote(&case.request.text())));
    let triage = &answer.triage;
    out.push_str(&format!(
        "Urgency {} ({:.0} %), difficulty {} ({:.0} %), next {} ({:.0} %). Decision: {:?}. ",
        triage.urgency.label.name(),
        triage.urgency.probability * 100.0,
        triage.difficulty.label.name(),
        triage.difficulty.probability * 100.0,
        triage.next.label.name(),
        triage.next.probability * 100.0,
        answer.decision.action
    ));
    match &answer.draft {
        None => out.push_str("No draft.\n"),
        Some(draft) => {
            let sources: Vec<String> =
                draft.evidence.iter().map(|e| format!("[{}] {} {:.2}", e.index, e.memory_id, e.similarity)).collect();
            out.push_str(&format!("{:?} draft; sources: {}\n\n{}", draft.kind, sources.join(", "), quote(&draft.text)));
            for finding in &draft.findings {
                out.push_str(&format!("\nGuard cut ({:?}: {}): {}\n", finding.rule, finding.detail, finding.sentence));
            }
        }
    }
    if !case.unsupported.is_empty() {
        out.push_str(&format!("\nFound in no evidence: {}\n", case.unsupported.join(", ")));
    }
}
