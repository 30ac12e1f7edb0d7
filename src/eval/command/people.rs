//! Labels by people, and the judge that is held against them.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::{EvalError, say};
use crate::eval::export::{case_files, for_each_case};
use crate::eval::judge::{Judge, JudgeOptions, Judgement, Summary};
use crate::eval::label::{self, Task, What};
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

/// Judges reply after reply; what was judged is printed as it comes, so that a long run shows something.
pub(super) async fn judge(args: JudgeArgs) -> Result<ExitCode, EvalError> {
    let labels = match &args.labels {
        Some(path) => label::read_labels(path)?,
        None => Vec::new(),
    };
    // The judge waits for a server and holds nothing else up.
    let judged = tokio::task::spawn_blocking(move || judge_all(&args)).await.context("the judge stopped")??;
    say(&format!("{}\n", Summary::of(judged.0, &judged.1, &labels)))?;
    Ok(ExitCode::SUCCESS)
}

fn judge_all(args: &JudgeArgs) -> Result<(String, Vec<Judgement>), EvalError> {
    let endpoint = Endpoint {
        url: args.url.clone(),
        model: args.model.clone(),
        api_key: args.api_key.clone(),
        timeout: JUDGE_TIMEOUT,
    };
    let judge = Judge::new(JudgeOptions { repeats: args.repeats.max(1), ..JudgeOptions::new(endpoint) })?;
    let mut cases = Vec::new();
    for path in case_files(&args.run)? {
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
        return Err(EvalError::data(&args.run, "holds no reply to judge; give a run with a part of kind drafts"));
    }
    let mut judged = Vec::with_capacity(cases.len());
    for case in &cases {
        judged.push(judge.absolute(case)?);
        let _ = write!(std::io::stderr(), "\r{} of {} replies judged", judged.len(), cases.len());
    }
    let _ = writeln!(std::io::stderr());
    Ok((judge.name(), judged))
}
