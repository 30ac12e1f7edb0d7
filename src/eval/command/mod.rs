//! `respondo eval ...`.

mod people;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::compare::{Comparison, GateOutcome, Verdict, compare};
use super::record::RunResult;
use super::run::{self, Options};
use super::suite::{ALL, Suite};
use super::{EvalError, baseline, export, gate, report};
use crate::settings::Settings;

/// The suite for `--from-store`: needs no file, for it runs wherever the service does.
const FROM_STORE: &str = include_str!("../../../eval/suites/store.toml");
/// Where runs are written.
const OUT: &str = "respondo-eval";

#[derive(Debug, Subcommand)]
pub enum EvalCommand {
    /// Run suites and write result, records and reports
    Run(RunArgs),
    /// Run a suite and hold it against its baseline: exit code 0 fine, 1 worse, 2 bad suite or data, 3 could not run
    Gate(GateArgs),
    /// Say what changed between two runs
    Compare(CompareArgs),
    /// Write rankings and judgements for trec_eval
    Export(ExportArgs),
    /// Label cases of a run in the terminal, without seeing what was judged; two people can
    Label(people::LabelArgs),
    /// Say how far two people's labels agree
    Agreement(people::AgreementArgs),
    /// Let a model server judge the replies of a run; never part of a gate
    Judge(people::JudgeArgs),
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Names of suites in eval/suites, or files
    #[arg(required_unless_present = "from_store")]
    suites: Vec<String>,
    /// Judge the team's own store: learn from what was resolved first, judge on what came after
    #[arg(long)]
    from_store: bool,
    /// Folder of the run; a folder per suite in `respondo-eval` when left out
    #[arg(long)]
    out: Option<PathBuf>,
    /// Only this part; can be repeated
    #[arg(long = "part")]
    parts: Vec<String>,
    /// Take no case from an earlier run
    #[arg(long)]
    fresh: bool,
    /// Write eval/baselines/SUITE.json
    #[arg(long)]
    save_baseline: bool,
}

#[derive(Debug, Args)]
pub struct GateArgs {
    suite: String,
    /// Hold this run against the baseline in place of a new one
    #[arg(long)]
    result: Option<PathBuf>,
    /// A baseline or the folder of a run; eval/baselines/SUITE.json when left out
    #[arg(long)]
    baseline: Option<PathBuf>,
    #[arg(long)]
    out: Option<PathBuf>,
    #[arg(long)]
    fresh: bool,
}

#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Folder of a run, or a baseline
    old: PathBuf,
    new: PathBuf,
    /// Name or file of the suite; the one of the newer run when left out
    #[arg(long)]
    suite: Option<String>,
    /// Print Markdown for a pull request
    #[arg(long)]
    markdown: bool,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Folder of a run
    run: PathBuf,
    /// Files `PART.run` and `PART.qrels`
    #[arg(long, required = true)]
    trec: bool,
    /// Where they go
    #[arg(long, default_value = ".")]
    out: PathBuf,
}

/// Runs the command and says what failed; the exit codes are those of `respondo eval gate`.
pub async fn main(settings: Settings, command: EvalCommand) -> ExitCode {
    let done = match command {
        EvalCommand::Run(args) => run_suites(&settings, args).await,
        EvalCommand::Gate(args) => gate(&settings, args).await,
        EvalCommand::Compare(args) => compared(&args),
        EvalCommand::Export(args) => exported(&args),
        EvalCommand::Label(args) => people::label(args),
        EvalCommand::Agreement(args) => people::agree(&args),
        EvalCommand::Judge(args) => people::judge(args).await,
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(error.exit_code())
    })
}

async fn run_suites(settings: &Settings, args: RunArgs) -> Result<ExitCode, EvalError> {
    let mut suites: Vec<Suite> = args.suites.iter().map(|name| Suite::load(name)).collect::<Result<_, _>>()?;
    if args.from_store {
        suites.push(Suite::parse(FROM_STORE, Path::new(""))?);
    }
    if let Some(suite) = suites.first().filter(|_| args.save_baseline && !args.parts.is_empty()) {
        let reason = "a baseline of some parts only would let the others pass; leave out --part".to_owned();
        return Err(EvalError::Suite { suite: suite.name.clone(), reason });
    }
    let several = suites.len() > 1;
    for suite in &suites {
        let out = match &args.out {
            Some(out) if several => out.join(&suite.name),
            Some(out) => out.clone(),
            None => Path::new(OUT).join(&suite.name),
        };
        let options = Options { out, parts: args.parts.clone(), fresh: args.fresh, command: command_line() };
        let result = run::run(settings, suite, &options).await?;
        run::write_reports(&options.out, &result, None, &[])?;
        say(&report::terminal::render(&result, colour()))?;
        say(&format!("\n{}\n", written(&options.out)))?;
        if args.save_baseline {
            let path = baseline::path(&suite.name);
            baseline::save(&path, suite, &result)?;
            say(&format!("baseline: {}\n", path.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn gate(settings: &Settings, args: GateArgs) -> Result<ExitCode, EvalError> {
    let suite = Suite::load(&args.suite)?;
    gate::check_gates(&suite)?;
    let path = args.baseline.unwrap_or_else(|| baseline::path(&suite.name));
    let old = if path.is_dir() { Some(run::read_result(&path)?) } else { baseline::load(&path)? };
    let (out, new) = match args.result {
        Some(folder) => (folder.clone(), run::read_result(&folder)?),
        None => {
            let out = args.out.unwrap_or_else(|| Path::new(OUT).join(&suite.name));
            let options = Options { out, parts: Vec::new(), fresh: args.fresh, command: command_line() };
            let result = run::run(settings, &suite, &options).await?;
            (options.out, result)
        }
    };
    let (comparison, outcomes) = gate::check(&suite, old.as_ref(), &new)?;
    if out.is_dir() {
        run::write_reports(&out, &new, comparison.as_ref(), &outcomes)?;
    }
    say(&report::terminal::render(&new, colour()))?;
    say(&told(comparison.as_ref(), &outcomes))?;
    say(&format!("\n{}\n", written(&out)))?;
    Ok(if outcomes.iter().all(|gate| gate.passed) { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn told(comparison: Option<&Comparison>, outcomes: &[GateOutcome]) -> String {
    match comparison {
        Some(comparison) => report::terminal::comparison(comparison, outcomes, colour()),
        None => report::terminal::gates(outcomes, colour()),
    }
}

/// 0 when no figure over all cases got worse, 1 when one did.
fn compared(args: &CompareArgs) -> Result<ExitCode, EvalError> {
    let (old, new): (RunResult, RunResult) = (run::read_result(&args.old)?, run::read_result(&args.new)?);
    let suite = Suite::load(args.suite.as_deref().unwrap_or(&new.suite))?;
    let comparison = compare(&suite, &old, &new)?;
    if args.markdown {
        say(&report::markdown::comparison(&comparison, &[]))?;
    } else {
        say(&told(Some(&comparison), &[]))?;
    }
    // Slices are many and small: one of them is worse by chance before long.
    let worse = comparison.changes.iter().any(|change| change.verdict == Verdict::Worse && change.slice == ALL);
    Ok(ExitCode::from(u8::from(worse)))
}

fn exported(args: &ExportArgs) -> Result<ExitCode, EvalError> {
    let exported = export::trec(&args.run, &args.out)?;
    exported.notes.iter().for_each(|note| eprintln!("note: {note}"));
    for file in &exported.files {
        say(&format!("{}\n", file.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints; whoever closed the pipe has read enough.
fn say(text: &str) -> Result<(), EvalError> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(EvalError::Run(error.into())),
        _ => Ok(()),
    }
}

fn written(out: &Path) -> String {
    format!("report: {}", out.join("report.html").display())
}

fn colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// The command as it was typed, without the program's folder.
fn command_line() -> String {
    let mut words = std::env::args();
    let program = words.next().unwrap_or_default();
    let name = Path::new(&program).file_name().map(|name| name.to_string_lossy().into_owned());
    std::iter::once(name.unwrap_or(program)).chain(words).collect::<Vec<_>>().join(" ")
}
