//! `respondo ask`: one request, answered in the terminal, recorded nowhere.

use std::io::{IsTerminal, Read, Write};

use anyhow::{Context, Result};
use clap::Args;
use tokio::sync::mpsc::unbounded_channel;

use super::render::{self, Style};
use crate::app::{App, Need};
use crate::intake;
use crate::pipeline::{Answer, Pipeline, Stage};
use crate::settings::Settings;
use crate::ticket::{Request, Triage};

#[derive(Debug, Args)]
pub struct AskArgs {
    /// The customer's message; read from standard input when left out or `-`.
    message: Option<String>,
    /// Print the whole answer as JSON.
    #[arg(long)]
    json: bool,
    /// Search only this product.
    #[arg(long)]
    product: Option<String>,
    /// Use the policy of this queue.
    #[arg(long)]
    queue: Option<String>,
    /// Only the extractive reply; the language model is not loaded.
    #[arg(long)]
    fast: bool,
}

pub async fn run(settings: Settings, args: AskArgs) -> Result<()> {
    let message = message(args.message.as_deref())?;
    let request = intake::prepare("", &message, args.product, args.queue, Vec::new())?;
    let app = App::open(settings, if args.fast { Need::Memory } else { Need::Replies }).await?;
    app.indexer.catch_up(|_| {}).await?;
    if args.json {
        let (watch, _nobody) = unbounded_channel();
        let answer = app.pipeline.answer(&request, &watch).await;
        let mut out = std::io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, &answer)?;
        writeln!(out)?;
    } else {
        for problem in &app.degraded {
            eprintln!("note: {problem}");
        }
        answer_in_terminal(&app.pipeline, &request).await?;
    }
    app.close().await;
    Ok(())
}

fn message(given: Option<&str>) -> Result<String> {
    match given {
        Some(text) if text != "-" => Ok(text.to_owned()),
        _ => {
            if std::io::stdin().is_terminal() {
                eprintln!("write the customer's message, then Ctrl-D");
            }
            let mut bytes = Vec::new();
            // One byte more than is taken, so that a longer message is refused and not cut.
            let limit = intake::clean::MAX_BYTES as u64 + 1;
            std::io::stdin().lock().take(limit).read_to_end(&mut bytes).context("cannot read standard input")?;
            Ok(intake::text_from_bytes(&bytes)?.to_owned())
        }
    }
}

/// Shows each stage as it is done.
pub async fn answer_in_terminal(pipeline: &Pipeline, request: &Request) -> Result<Answer> {
    let style = Style::for_stdout();
    let (watch, mut stages) = unbounded_channel();
    let answering = async {
        let answer = pipeline.answer(request, &watch).await;
        drop(watch);
        answer
    };
    let showing = async {
        let mut streaming = false;
        let mut out = std::io::stdout();
        // The last one counts: a second opinion may follow the first.
        let mut judged: Option<Box<Triage>> = None;
        while let Some(stage) = stages.recv().await {
            if !matches!(stage, Stage::Triage(_))
                && let Some(triage) = judged.take()
            {
                write!(out, "{}", render::triage(&triage, style))?;
            }
            match stage {
                Stage::Evidence(found) => write!(out, "{}", render::evidence(&found, style))?,
                Stage::Triage(triage) => judged = Some(triage),
                Stage::Extractive(_) | Stage::Cut(_) => {}
                Stage::Token(text) => {
                    if !streaming {
                        writeln!(out, "{}", style.heading("Writing"))?;
                        write!(out, "  ")?;
                        streaming = true;
                    }
                    write!(out, "{}", text.replace('\n', "\n  "))?;
                    out.flush()?;
                }
            }
        }
        if let Some(triage) = judged {
            write!(out, "{}", render::triage(&triage, style))?;
        }
        if streaming {
            writeln!(out)?;
        }
        std::io::Result::Ok(())
    };
    let (answer, shown) = tokio::join!(answering, showing);
    shown?;
    let mut out = std::io::stdout().lock();
    if let Some(draft) = &answer.draft {
        write!(out, "{}", render::draft(draft, style))?;
    }
    write!(out, "{}", render::decision(&answer, style))?;
    out.flush()?;
    Ok(answer)
}
