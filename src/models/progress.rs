//! Telling a person how a download goes.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use indicatif::{DecimalBytes, HumanDuration, ProgressBar, ProgressStyle};

/// Takes the news of a long copy or download. One thing at a time: `started`, any number of `advanced`, `finished`.
pub trait Progress {
    /// Something of `total` bytes begins.
    fn started(&mut self, what: &str, total: u64);
    /// `done` bytes of it are there, those of an earlier run included.
    fn advanced(&mut self, done: u64);
    /// It ended, well or not.
    fn finished(&mut self);
    /// A sentence for the person waiting.
    fn message(&mut self, text: &str);
}

/// Says nothing.
pub struct Silent;

impl Progress for Silent {
    fn started(&mut self, _what: &str, _total: u64) {}
    fn advanced(&mut self, _done: u64) {}
    fn finished(&mut self) {}
    fn message(&mut self, _text: &str) {}
}

/// Progress on standard error: a bar with bytes, speed and time left on a terminal, now and then a plain line
/// elsewhere.
pub fn for_terminal() -> Box<dyn Progress> {
    if stderr().is_terminal() { Box::new(Bar { bar: None }) } else { Box::new(Lines::new(stderr())) }
}

struct Bar {
    bar: Option<ProgressBar>,
}

impl Progress for Bar {
    fn started(&mut self, what: &str, total: u64) {
        let template = "{msg}\n  [{bar:32}] {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_message(what.to_owned());
        self.bar = Some(bar);
    }

    fn advanced(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }

    fn finished(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.abandon();
        }
    }

    fn message(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }
}

/// How long a plain log stays without news, at least.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

struct Lines<W> {
    out: W,
    what: String,
    total: u64,
    /// Bytes that were there when the first news came; they do not count for the speed.
    first: Option<u64>,
    done: u64,
    started: Instant,
    last_line: Instant,
}

impl<W: Write> Lines<W> {
    fn new(out: W) -> Self {
        let now = Instant::now();
        Self { out, what: String::new(), total: 0, first: None, done: 0, started: now, last_line: now }
    }

    fn line(&mut self, text: &str) {
        // Nobody reads a closed standard error; that must not stop the download.
        writeln!(self.out, "{text}").ok();
        self.last_line = Instant::now();
    }

    /// Bytes per second since the start.
    fn speed(&self) -> f64 {
        let fresh = self.done.saturating_sub(self.first.unwrap_or(0));
        fresh as f64 / self.started.elapsed().as_secs_f64().max(0.001)
    }
}

impl<W: Write> Progress for Lines<W> {
    fn started(&mut self, what: &str, total: u64) {
        self.what = what.to_owned();
        self.total = total;
        self.first = None;
        self.done = 0;
        self.started = Instant::now();
        self.line(&format!("{what}: {}", DecimalBytes(total)));
    }

    fn advanced(&mut self, done: u64) {
        self.first.get_or_insert(done);
        self.done = done;
        if self.last_line.elapsed() < BETWEEN_LINES {
            return;
        }
        let speed = self.speed();
        let left = Duration::try_from_secs_f64(self.total.saturating_sub(done) as f64 / speed.max(1.0))
            .unwrap_or(Duration::MAX);
        let line = format!(
            "{}: {} of {}, {}/s, {} left",
            self.what,
            DecimalBytes(done),
            DecimalBytes(self.total),
            DecimalBytes(speed as u64),
            HumanDuration(left)
        );
        self.line(&line);
    }

    fn finished(&mut self) {
        let seconds = self.started.elapsed().as_secs_f64();
        let line = format!("{}: {} after {seconds:.1} s", self.what, DecimalBytes(self.done));
        self.line(&line);
    }

    fn message(&mut self, text: &str) {
        self.line(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_name_what_and_how_much() {
        let mut lines = Lines::new(Vec::new());
        lines.started("copying model", 2_000_000);
        for done in 0..1000 {
            lines.advanced(done * 2000);
        }
        lines.advanced(2_000_000);
        lines.finished();
        let text = String::from_utf8(lines.out).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.starts_with("copying model: 2.00 MB\ncopying model: 2.00 MB after"), "{text}");
    }

    #[test]
    fn slow_progress_is_told_with_time_left() {
        let mut lines = Lines::new(Vec::new());
        lines.started("copying", 1000);
        lines.last_line = Instant::now().checked_sub(BETWEEN_LINES).unwrap();
        lines.advanced(10);
        let text = String::from_utf8(lines.out).unwrap();
        assert!(text.contains("10 B of 1.00 kB") && text.contains("left"), "{text}");
    }
}
