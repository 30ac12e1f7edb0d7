//! Replies side by side and replies broken off: what several at once cost and bring, and how soon one ends that nobody wants.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use jiff::Timestamp;

use super::models::ModelFiles;
use super::prompts::{self, DraftingPrompt};
use super::quantile;
use crate::inference::generator::{GenerateError, GenerateRequest, Generation, Generator, Replies, Step};
use crate::inference::gguf::GgufGenerator;
use crate::settings::Settings;

/// How many replies are written side by side.
const SIDE_BY_SIDE: [usize; 3] = [1, 2, 4];
/// Between the moments at which replies are broken off: from the first pass of reading to the middle of writing.
const BREAK_STEP: Duration = Duration::from_millis(90);

#[derive(Clone, Debug, clap::Args)]
pub struct WritingArgs {
    /// Drafting prompts, half of them English and half Spanish.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u16).range(4..=100))]
    prompts: u16,
    /// Where the report goes.
    #[arg(long, default_value = "docs/writing-report.md")]
    out: PathBuf,
}

/// Measures and writes the report.
///
/// # Errors
/// When the chat model is missing or fails.
pub async fn run(settings: Settings, machine: String, args: WritingArgs) -> Result<()> {
    let files = ModelFiles::find(&settings)?;
    let bar = ProgressBar::new_spinner();
    let mut news = move |news: &str| {
        bar.set_message(news.to_owned());
        bar.tick();
    };
    let set = prompts::load_or_make(&settings, &mut news).await?.take(usize::from(args.prompts));
    let out = args.out.clone();
    let report = tokio::task::spawn_blocking(move || measured(&files, &set.prompts)).await??;
    let text = format!(
        "# Replies side by side, and broken off\n\n- command: respondo bench writing --prompts {}\n- date: {}\n- machine: {machine}\n\n{report}",
        args.prompts,
        Timestamp::now().strftime("%Y-%m-%d"),
    );
    std::fs::write(&out, &text).with_context(|| format!("cannot write {}", out.display()))?;
    println!("{text}\nwritten to {}", out.display());
    Ok(())
}

fn measured(files: &ModelFiles, prompts: &[DraftingPrompt]) -> Result<String> {
    let mut model = GgufGenerator::load(&files.chat, files.context)?;
    // What is shared is read once, before anything is timed.
    let requests: Vec<&GenerateRequest> = prompts.iter().map(|prompt| &prompt.request).collect();
    for language in ["en", "es"] {
        if let Some(prompt) = prompts.iter().find(|prompt| prompt.language == language) {
            let request = GenerateRequest { max_tokens: 1, ..prompt.request.clone() };
            model.generate(&request, &mut |_| ControlFlow::Continue(()))?;
        }
    }
    let mut text = String::from(
        "All replies wait from the beginning; so many at most are in work at the same time. The first text counts from the moment at \
         which a reply is taken up.\n\n| side by side | tokens/s, all replies together | times as many as one by one | first text p50 | first text p95 | \
         one reply p50 |\n|---|---|---|---|---|---|\n",
    );
    let mut alone = None;
    for most in SIDE_BY_SIDE {
        let mut told = Told { waiting: requests.clone(), most, ..Told::default() };
        let started = Instant::now();
        model.write_all(&mut told);
        let rate = told.written as f64 / started.elapsed().as_secs_f64();
        ensure!(told.failed.is_none(), "a reply failed: {}", told.failed.unwrap_or_default());
        let alone = *alone.get_or_insert(rate);
        let (first, whole) = (sorted(&told.first), sorted(&told.whole));
        text.push_str(&format!(
            "| {most} | {rate:.1} | {:.2} | {:.2} s | {:.2} s | {:.2} s |\n",
            rate / alone,
            quantile(&first, 0.5),
            quantile(&first, 0.95),
            quantile(&whole, 0.5),
        ));
    }
    let mut waits = Vec::new();
    for (number, request) in requests.iter().enumerate() {
        let moment = BREAK_STEP * number as u32;
        let started = Instant::now();
        let mut asked = None;
        model.generate(request, &mut |_| {
            // The wish comes at its moment, whatever the model does; it is seen when the model looks next.
            if started.elapsed() >= moment {
                asked = Some(started + moment);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        if let Some(asked) = asked {
            waits.push(asked.elapsed().as_secs_f32() * 1_000.0);
        }
    }
    waits.sort_by(f32::total_cmp);
    text.push_str(&format!(
        "\nBroken off at moments from the first pass to {:.1} s, {} of {} before they were done. From the wish to the end: p50 {:.1} ms, p95 {:.1} ms, \
         most {:.1} ms (goal 50 ms).\n",
        (BREAK_STEP * requests.len() as u32).as_secs_f32(),
        waits.len(),
        requests.len(),
        quantile(&waits, 0.5),
        quantile(&waits, 0.95),
        quantile(&waits, 1.0),
    ));
    Ok(text)
}

/// What replies in work tell.
#[derive(Default)]
struct Told<'a> {
    waiting: Vec<&'a GenerateRequest>,
    most: usize,
    count: u64,
    /// When each reply in work was taken up, and whether its first text has come.
    begun: BTreeMap<u64, (Instant, bool)>,
    /// Seconds.
    first: Vec<f32>,
    whole: Vec<f32>,
    written: usize,
    failed: Option<String>,
}

impl Replies for Told<'_> {
    fn next(&mut self, in_progress: usize) -> Option<(u64, GenerateRequest)> {
        if in_progress >= self.most {
            return None;
        }
        let request = self.waiting.pop()?;
        self.count += 1;
        self.begun.insert(self.count, (Instant::now(), false));
        Some((self.count, request.clone()))
    }

    fn step(&mut self, id: u64, step: Step<'_>) -> ControlFlow<()> {
        if let Step::Text(_) = step
            && let Some((begun, has_text)) = self.begun.get_mut(&id)
            && !*has_text
        {
            *has_text = true;
            self.first.push(begun.elapsed().as_secs_f32());
        }
        ControlFlow::Continue(())
    }

    fn done(&mut self, id: u64, result: Result<Generation, GenerateError>) {
        if let Some((begun, _)) = self.begun.remove(&id) {
            self.whole.push(begun.elapsed().as_secs_f32());
        }
        match result {
            Ok(generation) => self.written += generation.written_tokens,
            Err(error) => self.failed = Some(error.to_string()),
        }
    }
}

fn sorted(seconds: &[f32]) -> Vec<f32> {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f32::total_cmp);
    sorted
}
