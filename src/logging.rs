//! The log: what happened, without what customers wrote or what opens doors.
//!
//! No line of this program is meant to hold a message, an address of a person or a key. What slips in all the same, in the
//! text of an error, say, is taken out here, field by field, as it is from the memory.

use std::fmt;
use std::sync::{LazyLock, OnceLock};

use regex::Regex;
use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::fmt::{FormatFields, MakeWriter};

use crate::intake::scrub::scrub;

const HIDDEN: &str = "[token]";
/// Shorter keys are words.
const SHORTEST_SECRET: usize = 6;

/// Keys of the settings.
static SECRETS: OnceLock<Vec<String>> = OnceLock::new();

/// Keeps these texts out of the log from now on. The first call counts.
pub fn hide(secrets: Vec<String>) {
    // Settings are read once in a process.
    let _ = SECRETS.set(secrets.into_iter().filter(|secret| secret.len() >= SHORTEST_SECRET).collect());
}

/// Writes what passes the filter to standard error, panics included.
pub fn start(filter: EnvFilter) {
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    tracing::subscriber::set_global_default(subscriber(filter, std::io::stderr, colour)).ok();
    std::panic::set_hook(Box::new(|panic| {
        if is_unread(panic.payload()) {
            std::process::exit(0);
        }
        // The text of a panic may quote what was being read.
        eprintln!("{}", without_secrets(&panic.to_string()));
        let trace = std::backtrace::Backtrace::capture();
        if trace.status() == std::backtrace::BacktraceStatus::Captured {
            eprintln!("{trace}");
        }
    }));
}

/// `respondo train triage | head`: who has read enough closes the pipe, and `println!` panics. That is no failure.
fn is_unread(payload: &dyn std::any::Any) -> bool {
    let text = payload.downcast_ref::<String>();
    text.is_some_and(|text| text.starts_with("failed printing to stdout") && text.contains("Broken pipe"))
}

fn subscriber<W>(filter: EnvFilter, writer: W, colour: bool) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(colour)
        .fmt_fields(fields())
        .finish()
}

/// Writes the fields of an event or a span as usual, scrubbed.
fn fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    let write = |writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug| {
        let text = without_secrets(&format!("{value:?}"));
        match field.name() {
            "message" => write!(writer, "{text}"),
            name => write!(writer, "{name}={text}"),
        }
    };
    debug_fn(write).delimited(" ")
}

/// A text without keys, links that open a conversation, and personal data.
fn without_secrets(text: &str) -> String {
    // Links, sessions and tokens of forms are hexadecimal; ids have hyphens.
    static HEXADECIMAL: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?i)\b[0-9a-f]{32,}\b").expect("constant pattern"));
    let mut text = text.to_owned();
    for secret in SECRETS.get().into_iter().flatten() {
        text = text.replace(secret.as_str(), HIDDEN);
    }
    scrub(&HEXADECIMAL.replace_all(&text, HIDDEN)).text
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Where the lines of a test go.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(EnvFilter::new("trace"), move || writer.clone(), false);
        tracing::subscriber::with_default(subscriber, log);
        let bytes = lines.0.lock().expect("no panic").clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn what_slips_into_an_event_or_a_span_is_taken_out() {
        let link = format!("/chat/{}", "5f".repeat(32));
        let text = logged(|| {
            let span = tracing::info_span!("request", path = %link, customer = "ana.lopez@private-mail.net");
            let _entered = span.enter();
            tracing::warn!(error = %"ben.kraus@private-mail.net has no mailbox", count = 7, "a message was refused");
            tracing::info!("call me at +34 612 345 678, Authorization: Bearer abcdef1234567890XYZ");
        });
        for canary in ["private-mail", "612 345 678", "5f5f5f", "1234567890XYZ"] {
            assert!(!text.contains(canary), "{canary}: {text}");
        }
        for kept in ["request", "path=/chat/[token]", "a message was refused", "count=7", "has no mailbox", "[email]"] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
    }

    #[test]
    fn what_a_log_is_read_for_stays() {
        for text in [
            "search index caught up",
            "ticket=018f3c4e-7b2a-7c3d-9e4f-1a2b3c4d5e6f",
            "route=/v1/tickets/{id}",
            "127.0.0.1:8420",
            "seconds=12.25",
            "the disk of /srv/respondo-data has 120 MB left and the search index needs 260 MB",
        ] {
            assert_eq!(without_secrets(text), text);
        }
    }
}
