//! Labels by people, and the judge that is held against them.

use std::collections::HashMap;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::{EvalError, say};
use crate::eval::export::{case_files, for_each_case};
use crate::eval::judge::{Judge, JudgeOptions, Preferred, Summary};
use crate::eval::label::{self, Label, Task, What};
use crate::eval::record::CaseRecord;
use crate::inference::openai::Endpoint;

/// Longest wait for one verdict of the judge.
const JUDGE_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum WhatArg {
    Urgency,
    Next,
    /// Could the reply be sent as it is?
    Draft,
}

impl From<WhatArg> for What {
    fn from(what: WhatArg) -> Self {
        match what {
            WhatArg::Urgency => Self::Urgency,
            WhatArg::Next => Self::Next,
            WhatArg::Draft => Self::Draft,
        }
    }
}

#[derive(Debug, Args)]
pub struct LabelArgs {
    /// Folder of a run
    run: PathBuf,
    #[arg(long, value_enum)]
    what: WhatArg,
    /// Who labels; part of the file's name
    #[arg(long)]
    by: String,
    /// Cases of this part only
    #[arg(long)]
    part: Option<String>,
    /// How many cases are drawn; two people with one seed get the same ones
    #[arg(long, default_value_t = 50)]
    count: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the labels go
    #[arg(long, default_value = "respondo-eval/labels")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub struct AgreementArgs {
    /// Label files of two people
    one: PathBuf,
    other: PathBuf,
}

#[derive(Debug, Args)]
pub struct JudgeArgs {
    /// Folder of a run
    run: PathBuf,
    /// Address of an OpenAI-compatible server
    #[arg(long)]
    url: String,
    #[arg(long)]
    model: String,
    #[arg(long, env = "RESPONDO_JUDGE_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Replies of this part only
    #[arg(long)]
    part: Option<String>,
    /// Replies judged at most
    #[arg(long, default_value_t = 100)]
    count: usize,
    /// Verdicts on each reply
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Another run of the suite: which of the two replies is better, asked in both orders
    #[arg(long, conflicts_with = "labels")]
    against: Option<PathBuf>,
    /// A person's labels of the same replies (`eval label --what draft`), to hold the judge against
    #[arg(long)]
    labels: Option<PathBuf>,
}

pub(super) fn label(args: LabelArgs) -> Result<ExitCode, EvalError> {
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make the folder {}", args.out.display()))?;
    let task = Task {
        what: args.what.into(),
        folder: args.run,
        labels: args.out,
        part: args.part,
        by: args.by,
        seed: args.seed,
        count: args.count,
    };
    let done = label::label(&task, std::io::stdin().lock(), std::io::stdout().lock())?;
    say(&format!("{} of {} labelled: {}\n", done.labelled, done.drawn, done.file.display()))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn agree(args: &AgreementArgs) -> Result<ExitCode, EvalError> {
    let (one, other) = (label::read_labels(&args.one)?, label::read_labels(&args.other)?);
    let Some(what) = one.first().map(|label| label.what) else {
        return Err(EvalError::data(&args.one, "holds no label"));
    };
    say(&format!("{}\n", label::agreement(what, &one, &other)))?;
    Ok(ExitCode::SUCCESS)
}

/// Judges reply after reply.
pub(super) async fn judge(args: JudgeArgs) -> Result<ExitCode, EvalError> {
    let labels = match &args.labels {
        Some(path) => label::read_labels(path)?,
        None => Vec::new(),
    };
    // The judge waits for a server and holds nothing else up.
    let judging = tokio::task::spawn_blocking(move || match &args.against {
        Some(other) => Ok::<_, EvalError>(format!("{}\n", judge_pairs(&args, other)?)),
        None => judge_all(&args, &labels),
    });
    say(&judging.await.context("the judge stopped")??)?;
    Ok(ExitCode::SUCCESS)
}

fn judge_all(args: &JudgeArgs, labels: &[Label]) -> Result<String, EvalError> {
    let judge = judge_of(args)?;
    let cases = replies(&args.run, args)?;
    let mut judged = Vec::with_capacity(cases.len());
    for case in &cases {
        judged.push(judge.absolute(case)?);
        count(judged.len(), cases.len());
    }
    Ok(format!("{}\n", Summary::of(judge.name(), &judged, labels)))
}

/// What came of a comparison of two runs.
#[derive(Default)]
struct Pairs {
    judge: String,
    older: usize,
    newer: usize,
    ties: usize,
    /// Ties in which the place was preferred and not the reply.
    biased: usize,
    unusable: usize,
}

fn judge_pairs(args: &JudgeArgs, other: &Path) -> Result<Pairs, EvalError> {
    let judge = judge_of(args)?;
    let older: HashMap<String, CaseRecord> =
        replies(other, args)?.into_iter().map(|case| (case.id.clone(), case)).collect();
    let mut pairs = Pairs { judge: judge.name(), ..Pairs::default() };
    let cases = replies(&args.run, args)?;
    for (at, case) in cases.iter().enumerate() {
        let text = |case: &CaseRecord| case.draft.as_ref().map(|draft| draft.text.clone()).unwrap_or_default();
        let Some(before) = older.get(&case.id) else { continue };
        let preference = judge.pairwise(case, &text(before), &text(case))?;
        pairs.biased += usize::from(preference.position_bias);
        match preference.preferred {
            Preferred::A => pairs.older += 1,
            Preferred::B => pairs.newer += 1,
            Preferred::Tie => pairs.ties += 1,
            Preferred::Unknown => pairs.unusable += 1,
        }
        count(at + 1, cases.len());
    }
    Ok(pairs)
}

impl fmt::Display for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.older + self.newer + self.ties;
        writeln!(f, "{all} pairs judged by {}; not validated by people", self.judge)?;
        writeln!(
            f,
            "  {} times the reply of the run, {} times that of the other, {} ties",
            self.newer, self.older, self.ties
        )?;
        write!(
            f,
            "  {} ties because the place was preferred, {} pairs with an unusable verdict",
            self.biased, self.unusable
        )
    }
}

fn judge_of(args: &JudgeArgs) -> Result<Judge, EvalError> {
    let endpoint = Endpoint {
        url: args.url.clone(),
        model: args.model.clone(),
        api_key: args.api_key.clone(),
        timeout: JUDGE_TIMEOUT,
        silence: JUDGE_TIMEOUT,
    };
    Judge::new(JudgeOptions { repeats: args.repeats.max(1), ..JudgeOptions::new(endpoint) })
}

/// The cases of a run that have a reply, as many as are asked for.
fn replies(run: &Path, args: &JudgeArgs) -> Result<Vec<CaseRecord>, EvalError> {
    let mut cases = Vec::new();
    for path in case_files(run)? {
        let named = path.file_stem().map(|name| name.to_string_lossy().into_owned());
        if args.part.is_none() || args.part == named {
            for_each_case(&path, |case| {
                if cases.len() < args.count && case.draft.is_some() {
                    cases.push(case);
                }
            })?;
        }
    }
    if cases.is_empty() {
        return Err(EvalError::data(run, "holds no reply to judge; give a run with a part of kind drafts"));
    }
    Ok(cases)
}

fn count(done: usize, of: usize) {
    let end = if done == of { "\n" } else { "" };
    // A count that cannot be shown is no failure.
    let _ = write!(std::io::stderr(), "\r{done} of {of} replies judged{end}");
}
