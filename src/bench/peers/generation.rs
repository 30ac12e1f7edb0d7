//! Replies to real drafting prompts: ours beside llama.cpp over the same file, prompt by prompt, in turns.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::json;

use super::driver::{Driver, Installed};
use super::figures::{Line, Report, Wait, median};
use super::threads;
use crate::bench::models::ModelFiles;
use crate::bench::prompts::{DraftingPrompt, PromptSet};
use crate::draft::text::words;
use crate::inference::chat_model::Template;
use crate::inference::generator::{GenerateRequest, Generator, Role, Step, StopReason, Turn};
use crate::inference::gguf::GgufGenerator;

const LLAMA: &str = "llama.cpp";
/// Words that stand in a row in prompt and reply where a reply copies.
const COPIED_WORDS: usize = 4;
/// Tokens written before anything is timed, so that weights are in place.
const WARMING_TOKENS: usize = 8;
/// Until threads of the side before have stopped waiting for more work.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Deserialize)]
struct Loaded {
    about: String,
}

/// A reply, and how long what took. Times are in seconds.
#[derive(Clone, Debug, Deserialize)]
struct Reply {
    text: String,
    /// Tokens of the prompt that were read, and those whose state was kept.
    read: usize,
    kept: usize,
    /// The end mark counts.
    written: usize,
    /// From the request to the first text.
    first: f64,
    whole: f64,
    /// For the tokens that were read.
    reading: f64,
    /// False where it was cut at the most tokens allowed.
    ended: bool,
}

impl Reply {
    /// Tokens of the prompt a second.
    fn prefill(&self) -> f64 {
        self.read as f64 / self.reading
    }

    /// Tokens a second after the first one; no number where there is none.
    fn decode(&self) -> f64 {
        self.written.saturating_sub(1) as f64 / (self.whole - self.first)
    }

    fn per_token(&self) -> f64 {
        1_000.0 * self.whole / self.written as f64
    }
}

/// Both replies to a prompt.
struct Pair {
    ours: Reply,
    llamas: Reply,
    /// Share of our reply that stands in the request turn of the prompt.
    copied: f64,
}

/// Asks both sides every prompt once and adds the figures to the report; `news` hears what is being done.
///
/// # Errors
/// When the model file or the peer is missing, or one of them fails.
pub fn measure(
    files: &ModelFiles,
    installed: &Installed,
    set: &PromptSet,
    report: &mut Report,
    news: &mut dyn FnMut(&str),
) -> Result<()> {
    news("loading the chat model, ours and llama.cpp's");
    let mut ours = GgufGenerator::load(&files.chat, files.context)?;
    let mut llama = Driver::start(installed, "llama")?;
    let arguments = json!({"model": files.chat, "context": files.context, "threads": threads()});
    report.peers.push(llama.ask::<Loaded>("load", arguments)?.about);
    let mut pairs = Vec::with_capacity(set.prompts.len());
    let mut warmed = "";
    for (position, prompt) in set.prompts.iter().enumerate() {
        if prompt.language != warmed {
            let request = warming(&prompt.request);
            our_reply(&mut ours, &request)?;
            llamas_reply(&mut llama, &request)?;
            warmed = &prompt.language;
        }
        news(&format!("reply {} of {}", position + 1, set.prompts.len()));
        pairs.push(ask(&mut ours, &mut llama, prompt, position)?);
    }
    summarise(&pairs, set, report);
    Ok(())
}

/// Both sides in turns; the other one begins each time.
fn ask(ours: &mut GgufGenerator, llama: &mut Driver, prompt: &DraftingPrompt, position: usize) -> Result<Pair> {
    let request = &prompt.request;
    let (own, theirs) = if position.is_multiple_of(2) {
        let own = our_reply(ours, request)?;
        (own, llamas_reply(llama, request)?)
    } else {
        let theirs = llamas_reply(llama, request)?;
        (our_reply(ours, request)?, theirs)
    };
    let asked = request.turns.last().map_or("", |turn| turn.content.as_str());
    Ok(Pair { copied: copied(&own.text, asked), ours: own, llamas: theirs })
}

/// The shared turns and a greeting: both sides keep the state behind the former.
fn warming(request: &GenerateRequest) -> GenerateRequest {
    let mut turns = request.turns.clone();
    turns.truncate(request.shared_turns);
    turns.push(Turn { role: Role::User, content: "Hello".to_owned() });
    GenerateRequest { turns, shared_turns: request.shared_turns, max_tokens: WARMING_TOKENS }
}

fn our_reply(model: &mut GgufGenerator, request: &GenerateRequest) -> Result<Reply> {
    std::thread::sleep(PAUSE);
    let started = Instant::now();
    let mut first = None;
    let generation = model.generate(request, &mut |step| {
        if let Step::Text(_) = step {
            first.get_or_insert_with(|| started.elapsed().as_secs_f64());
        }
        ControlFlow::Continue(())
    })?;
    let whole = started.elapsed().as_secs_f64();
    let first = first.unwrap_or(whole);
    let ended = generation.stop == StopReason::End;
    Ok(Reply {
        text: generation.text,
        read: generation.prompt_tokens.saturating_sub(generation.reused_tokens),
        kept: generation.reused_tokens,
        // The end mark is computed too.
        written: generation.written_tokens + usize::from(ended),
        first,
        whole,
        reading: first,
        ended,
    })
}

fn llamas_reply(llama: &mut Driver, request: &GenerateRequest) -> Result<Reply> {
    std::thread::sleep(PAUSE);
    let prompt = Template::ChatMl.render(&request.turns) + Template::ChatMl.opening();
    llama.ask("generate", json!({"prompt": prompt, "max_tokens": request.max_tokens})).context("one reply")
}

/// Share of the runs of four words of a reply that stand in a text as well; 0 for a shorter reply.
fn copied(reply: &str, text: &str) -> f64 {
    let (reply, text) = (words(reply), words(text));
    let there: HashSet<&[String]> = text.windows(COPIED_WORDS).collect();
    let found = reply.windows(COPIED_WORDS).filter(|run| there.contains(run)).count();
    found as f64 / reply.windows(COPIED_WORDS).count().max(1) as f64
}

fn summarise(pairs: &[Pair], set: &PromptSet, report: &mut Report) {
    let middle = median(&pairs.iter().map(|pair| pair.copied).collect::<Vec<_>>());
    let copies = |pair: &Pair| pair.copied > middle;
    let mut line = |what: &str, unit: &'static str, counts: &dyn Fn(&Pair) -> bool, of: fn(&Reply) -> f64| {
        let mut line = Line::new(what, LLAMA, unit);
        pairs.iter().filter(|pair| counts(pair)).for_each(|pair| line.push(of(&pair.ours), of(&pair.llamas)));
        report.lines.push(line);
    };
    let all = |_: &Pair| true;
    line("whole reply", "s", &all, |reply| reply.whole);
    line("whole reply, by the token written", "ms", &all, Reply::per_token);
    line("time to first token", "s", &all, |reply| reply.first);
    line("prefill, tokens of the prompt that were read", "tokens/s", &all, Reply::prefill);
    line("decode", "tokens/s", &all, Reply::decode);
    line("decode where the reply copies much", "tokens/s", &copies, Reply::decode);
    line("decode elsewhere", "tokens/s", &|pair| !copies(pair), Reply::decode);
    let times = |of: fn(&Reply) -> f64| -> (Vec<f64>, Vec<f64>) {
        pairs.iter().map(|pair| (of(&pair.ours), of(&pair.llamas))).unzip()
    };
    for (what, of) in
        [("time to first token", (|reply| reply.first) as fn(&Reply) -> f64), ("whole reply", |reply| reply.whole)]
    {
        let (ours, peers) = times(of);
        report.waits.push(Wait { what, peer: LLAMA, ours, peers });
    }
    report.notes.extend(notes(pairs, set, middle));
}

fn notes(pairs: &[Pair], set: &PromptSet, middle: f64) -> Vec<String> {
    let count = |is: &dyn Fn(&Pair) -> bool| pairs.iter().filter(|pair| is(pair)).count();
    let middle_of = |of: &dyn Fn(&Pair) -> usize| median(&pairs.iter().map(|p| of(p) as f64).collect::<Vec<_>>());
    let languages = ["en", "es"].map(|code| set.prompts.iter().filter(|prompt| prompt.language == code).count());
    let [english, spanish] = languages;
    let sum = |of: &dyn Fn(&Pair) -> f64| pairs.iter().map(of).sum::<f64>();
    vec![
        format!("Replies: {} prompts, {english} in English and {spanish} in Spanish, from {}.", pairs.len(), set.about),
        format!(
            "Of a prompt ours read {:.0} tokens and kept {:.0}, llama.cpp read {:.0} and kept {:.0} (medians): the turns \
             that all prompts of a language share were read beforehand on both sides, and llama.cpp also keeps what a \
             prompt shares with the one before. Prompts of unequal length in tokens: {}.",
            middle_of(&|pair| pair.ours.read),
            middle_of(&|pair| pair.ours.kept),
            middle_of(&|pair| pair.llamas.read),
            middle_of(&|pair| pair.llamas.kept),
            count(&|pair| pair.ours.read + pair.ours.kept != pair.llamas.read + pair.llamas.kept),
        ),
        format!(
            "Both write greedily, at most as many tokens as the settings allow; ours wrote {:.0} tokens in all and \
             llama.cpp {:.0}, {} of {} replies are the same to the letter, {} of ours and {} of llama.cpp's were cut at the \
             limit.",
            sum(&|pair| pair.ours.written as f64),
            sum(&|pair| pair.llamas.written as f64),
            count(&|pair| pair.ours.text.trim() == pair.llamas.text.trim()),
            pairs.len(),
            count(&|pair| !pair.ours.ended),
            count(&|pair| !pair.llamas.ended),
        ),
        format!(
            "A reply copies much where the share of its runs of {COPIED_WORDS} words that stand in the request turn \
             (message and evidence) is above the median, {:.0} %.",
            100.0 * middle
        ),
        "Prefill: for llama.cpp its own time for the prompt, for ours the whole time to the first text. llama.cpp: one slot, \
         f16 cache, prompt cache on, everything else as it comes; the wheel is built for AVX2 and repacks weights, and does \
         not use AVX-512."
            .to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(read: usize, written: usize, first: f64, whole: f64) -> Reply {
        let text = "Open Settings.".to_owned();
        Reply { text, read, kept: 100, written, first, whole, reading: first, ended: true }
    }

    #[test]
    fn rates_are_those_of_the_phase_they_name() {
        let reply = reply(50, 21, 0.5, 2.5);
        assert_eq!((reply.prefill(), reply.decode(), reply.per_token()), (100.0, 10.0, 2_500.0 / 21.0));
        assert!(self::reply(1, 1, 0.5, 0.5).decode().is_nan());
    }

    #[test]
    fn copying_is_told_by_runs_of_four_words() {
        let evidence = "Please open the Settings of your account, then restart it.";
        assert_eq!(copied("Open the settings of your account!", evidence), 1.0);
        assert_eq!(copied("Nothing of that.", evidence), 0.0);
        assert_eq!(copied("You can open the settings of it", evidence), 0.25);
    }

    #[test]
    fn the_warming_prompt_ends_with_a_turn_of_its_own() {
        let turn = |role, content: &str| Turn { role, content: content.to_owned() };
        let turns = vec![turn(Role::System, "s"), turn(Role::User, "asked")];
        let warming = warming(&GenerateRequest { turns, shared_turns: 1, max_tokens: 100 });
        assert_eq!((warming.turns.len(), warming.shared_turns), (2, 1));
        assert_eq!((warming.turns[1].content.as_str(), warming.max_tokens), ("Hello", WARMING_TOKENS));
    }

    #[test]
    fn prompts_are_split_by_how_much_is_copied() {
        let pair = |copied, ours| Pair { ours: reply(50, 11, 1.0, ours), llamas: reply(50, 11, 2.0, 4.0), copied };
        let pairs = [pair(0.9, 1.5), pair(0.2, 3.0), pair(0.5, 2.0)];
        let set = PromptSet { prompts: Vec::new(), about: "a test".to_owned() };
        let mut report = Report::default();
        summarise(&pairs, &set, &mut report);
        let ratios: Vec<usize> = report.lines.iter().map(|line| line.ratios().len()).collect();
        assert_eq!(ratios, [3, 3, 3, 3, 3, 1, 2]);
        // 20 tokens a second against 5.
        assert_eq!(report.lines[5].ratios(), [4.0]);
        assert_eq!(report.waits.len(), 2);
        assert!(report.notes.iter().any(|note| note.contains("50 %")), "{:?}", report.notes);
    }
}
