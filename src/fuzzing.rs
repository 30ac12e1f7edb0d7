//! What a fuzzer calls: the parsers of everything that comes from outside, each as a function of bytes that checks what the
//! parser promises.
//!
//! `fuzz/` runs them under libFuzzer; `tests/it/fuzz.rs` replays the corpus and mutates it a little with every test run. A
//! target that finds a broken promise panics, since that is what fuzzers look for; nothing else calls this module.

use std::io::Cursor;
use std::net::IpAddr;
use std::sync::LazyLock;

use crate::draft::guard::{injection, tokens};
use crate::draft::prompt::Prompts;
use crate::embed::container::Container;
use crate::eval::judge::reading;
use crate::events::EventId;
use crate::http::NewTicketBody;
use crate::http::client::Network;
use crate::inference::gguf_header::read_header;
use crate::inference::openai::words_of;
use crate::intake::clean::{MAX_BYTES, clean, clean_stored, normalise};
use crate::intake::files;
use crate::intake::import::{self, FileFormat, ImportOptions};
use crate::intake::language::{LanguageDetector, is_language};
use crate::intake::scrub::scrub;
use crate::intake::{prepare, text_from_bytes, without_nul};
use crate::settings::Settings;
use crate::ticket::{Evidence, Language, MemoryKind, Request};
use crate::triage::heads::Heads;
use crate::web::chat::hours;
use crate::web::links::Links;
use crate::web::session::{cookie, is_local};

/// The key of the links in the corpus.
const LINK_KEY: &str = "fuzzing";

/// Takes any bytes; panics where something does not keep what it promises.
pub type Target = fn(&[u8]);

/// Every target by name, as in `fuzz/corpus` and `fuzz/fuzz_targets`.
pub const TARGETS: [(&str, Target); 18] = [
    ("ticket", ticket),
    ("clean", cleaning),
    ("import_jsonl", import_jsonl),
    ("import_csv", import_csv),
    ("language", language),
    ("file", file),
    ("scrub", scrubbing),
    ("guard", guard),
    ("event_id", event_id),
    ("cookie", cookies),
    ("link", link),
    ("settings", settings),
    ("network", network),
    ("gguf", gguf),
    ("e5", e5),
    ("heads", heads),
    ("verdict", verdict),
    ("stream", stream),
];

/// Feeds `data` to the target of that name. False when there is none.
///
/// # Panics
/// When the target finds a broken promise.
pub fn run(target: &str, data: &[u8]) -> bool {
    let Some((_, target)) = TARGETS.iter().find(|(name, _)| *name == target) else { return false };
    target(data);
    true
}

/// Bytes as text, whatever they are.
fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

/// Cleaned text has no control characters but line ends, nothing that turns its direction, and no margins.
fn assert_plain(text: &str) {
    let odd =
        text.chars().find(|c| (c.is_control() && *c != '\n') || matches!(c, '\u{202A}'..='\u{202E}' | '\u{FEFF}'));
    assert_eq!(odd, None, "a character that nobody sees");
    assert_eq!(text.trim(), text, "margins");
    assert!(!text.contains("\n\n\n") && !text.contains("  "), "gaps");
}

/// A ticket as the API takes it, up to what the stages get; then the same bytes as standard input.
fn ticket(data: &[u8]) {
    if let Ok(body) = serde_json::from_slice::<NewTicketBody>(data)
        && body.check().is_ok()
    {
        assert!(body.queue.iter().chain(&body.product).all(|name| name.chars().all(|c| !c.is_control())));
        assert!(!without_nul(body.body.clone()).contains('\0'));
        if let Ok(request) = prepare(&body.subject, &body.body, body.product, body.queue, Vec::new()) {
            assert_request(&request);
        }
    }
    if let Ok(message) = text_from_bytes(data)
        && let Ok(request) = prepare("", message, None, None, Vec::new())
    {
        assert!(request.subject.is_empty());
        assert_request(&request);
        fence(&request);
    }
}

fn assert_request(request: &Request) {
    assert!(!request.text().is_empty(), "a request without words");
    assert!(!request.subject.contains('\n'), "a subject of several lines");
    assert_plain(&request.subject);
    assert_plain(&request.body);
    assert!(!request.language.code().is_empty());
}

/// The customer's words and the evidence stay inside their fences: as many fences as the template sets.
fn fence(request: &Request) {
    static PROMPTS: LazyLock<Option<Prompts>> = LazyLock::new(|| Prompts::load(None).ok());
    let Some(prompts) = PROMPTS.as_ref() else { return };
    let evidence = Evidence {
        index: 1,
        memory_id: "kb-1".to_owned(),
        kind: MemoryKind::Article,
        language: Language::EN,
        title: request.body.chars().take(80).collect(),
        text: request.body.chars().rev().take(400).collect(),
        url: None,
        score: 1.0,
        similarity: 1.0,
    };
    for language in [Language::EN, Language::ES] {
        let rendered = prompts.reply(request, std::slice::from_ref(&evidence), &language, 64);
        let content = rendered.ok().and_then(|mut prompt| prompt.turns.pop()).map(|turn| turn.content);
        let fences = content.map(|content| (content.matches("<<<").count(), content.matches(">>>").count()));
        assert_eq!(fences, Some((2, 2)), "a text left its fence");
    }
}

/// HTML, quotes, signatures and invisible characters.
fn cleaning(data: &[u8]) {
    let raw = text(data);
    let normal = normalise(&raw);
    assert_plain(&normal);
    assert_eq!(normalise(&normal), normal, "not done after one pass");
    assert!(normal.len() <= raw.len());
    // The longest growth: a rule between quoted lines is 4 bytes and becomes 14.
    let bound = 4 * raw.len() + 64;
    let stored = clean_stored(&raw);
    assert_plain(&stored);
    assert!(stored.len() <= bound);
    if let Ok(cleaned) = clean(&raw, MAX_BYTES) {
        assert_plain(&cleaned.text);
        assert!(cleaned.text.len() <= bound);
        assert_eq!(cleaned.empty, cleaned.text.is_empty());
        assert!(cleaned.empty || !cleaned.only_quote);
        assert!(!cleaned.empty || !cleaned.only_symbols);
    }
}

fn import_jsonl(data: &[u8]) {
    import_rows(data, FileFormat::JsonLines);
}

fn import_csv(data: &[u8]) {
    import_rows(data, FileFormat::Csv);
}

/// Every row is an item or a reject with its line, and the items are clean.
fn import_rows(data: &[u8], format: FileFormat) {
    for kind in [MemoryKind::Ticket, MemoryKind::Article] {
        let reader = Box::new(Cursor::new(data.to_vec()));
        let Ok(rows) = import::read(reader, "corpus", format, kind, ImportOptions::default()) else { continue };
        let mut count = 0;
        for row in rows {
            count += 1;
            match row {
                Ok(item) => {
                    for label in [Some(&item.id), item.product.as_ref(), item.queue.as_ref(), item.url.as_ref()] {
                        let label = label.map_or("-", String::as_str);
                        assert!(!label.is_empty() && !label.chars().any(char::is_control), "label {label:?}");
                    }
                    let texts = [&item.title, &item.problem, &item.solution];
                    assert!(texts.iter().all(|text| text.chars().all(|c| !c.is_control() || c == '\n')));
                    assert!(!item.solution.is_empty() && !item.title.contains('\n'));
                    assert!(item.resolved_hours.is_none_or(|hours| hours >= 0.0));
                }
                Err(reject) => assert!(reject.line >= 1 && !reject.to_string().is_empty()),
            }
        }
        // A row takes a byte at least; the last line needs no end.
        assert!(count <= data.len() + 1);
    }
}

fn language(data: &[u8]) {
    let text = text(data);
    let detected = LanguageDetector.detect(&text);
    assert!((0.0..=1.001).contains(&detected.confidence), "confidence {}", detected.confidence);
    assert!(!detected.language.code().is_empty());
    let _ = is_language(&text, &Language::ES);
}

/// An attachment: its name up to the first line end, then its content.
fn file(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (name, content) = data.split_at(end);
    let Ok(taken) = files::add(Vec::new(), &text(name), content.get(1..).unwrap_or_default()) else { return };
    for file in taken {
        assert!(!file.name.chars().any(|c| c.is_control() || matches!(c, '/' | '\\' | '\u{202E}')), "{:?}", file.name);
        assert!((1..=120).contains(&file.name.chars().count()), "{:?}", file.name);
        let endings: &[&str] = match file.media_type {
            "image/png" => &["png"],
            "image/jpeg" => &["jpg", "jpeg"],
            "image/gif" => &["gif"],
            "image/webp" => &["webp"],
            "application/pdf" => &["pdf"],
            _ => &["txt", "log", "csv"],
        };
        let ending = file.name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
        assert!(endings.contains(&ending.as_str()), "{:?} as {}", file.name, file.media_type);
    }
}

/// Nothing grows but by placeholders, and what was found is counted.
fn scrubbing(data: &[u8]) {
    let text = text(data);
    let scrubbed = scrub(&text);
    let longest = "[address]".len();
    let found: usize = scrubbed.found.iter().map(|(_, count)| count).sum();
    assert!(scrubbed.text.len() <= text.len() + longest * found);
    assert!(found > 0 || scrubbed.text.len() <= text.len());
    assert!(scrubbed.found.iter().all(|(_, count)| *count > 0));
}

fn guard(data: &[u8]) {
    let sentence = text(data);
    let found = tokens::extract(&sentence);
    assert!(found.len() <= 4 * sentence.len());
    assert!(found.iter().all(|token| token.text.len() <= sentence.len() && !token.text.is_empty()));
    let _ = (injection::suspicious(&sentence), tokens::links_of(&sentence), tokens::amounts_of(&sentence));
    let (trusted, refused) = injection::split_suspicious(&sentence);
    // Sentences are taken out of the text, each with a line end of its own.
    let kept = trusted.len() + refused.iter().map(String::len).sum::<usize>();
    assert!(kept <= 2 * sentence.len() + 2);
}

fn event_id(data: &[u8]) {
    if let Ok(id) = text(data).parse::<EventId>() {
        assert_eq!(id.to_string().parse::<EventId>(), Ok(id));
    }
}

fn cookies(data: &[u8]) {
    let text = text(data);
    if let Ok(value) = axum::http::HeaderValue::from_bytes(data) {
        let headers = axum::http::HeaderMap::from_iter([(axum::http::header::COOKIE, value)]);
        if let Some(found) = cookie(&headers, "respondo_session") {
            assert!(!found.contains(';') && text.contains(found));
        }
    }
    if is_local(&text) {
        assert!(text.starts_with('/') && !text.starts_with("//") && !text.contains(['\\', '\r', '\n', '\t']));
    }
}

/// A link opens a conversation by its one spelling only; letter case apart.
fn link(data: &[u8]) {
    let links = Links::new(LINK_KEY);
    let token = text(data);
    if let Some(ticket) = links.ticket(&token) {
        assert_eq!(links.token(ticket), token.to_ascii_lowercase());
    }
}

fn settings(data: &[u8]) {
    let text = text(data);
    match Settings::parse(&text) {
        Ok(settings) => {
            assert!(settings.draft.deadline().as_secs() <= 600 && settings.server.concurrency > 0);
            assert!(settings.server.api_key.is_empty() || settings.server.api_key.len() >= 16);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Some((from, to)) = hours::minutes(&text) {
        assert!(0 <= from && from < to && to <= 24 * 60);
    }
}

/// A network as in `server.trusted_proxies`: it holds its own address.
fn network(data: &[u8]) {
    let text = text(data);
    let address: Option<IpAddr> = text.split('/').next().and_then(|address| address.trim().parse().ok());
    // IPv4-mapped addresses count as the IPv4 addresses that they are.
    let address = address.filter(|address| address.to_canonical() == *address);
    if let (Ok(network), Some(address)) = (Network::try_from(text.clone()), address) {
        assert!(network.contains(address), "{text}");
    }
}

/// The header of a chat model's file.
fn gguf(data: &[u8]) {
    if let Err(reason) = read_header(&mut Cursor::new(data)) {
        assert!(!reason.is_empty());
    }
}

fn e5(data: &[u8]) {
    if let Err(error) = Container::parse("corpus".to_owned(), data.to_vec()) {
        assert!(error.to_string().contains("corpus"));
    }
}

fn heads(data: &[u8]) {
    if let Err(error) = Heads::from_bytes(data) {
        assert!(error.to_string().contains("respondo train triage"));
    }
}

/// What a judging model answered.
fn verdict(data: &[u8]) {
    if let Err(reason) = reading::place(&text(data)) {
        assert!(!reason.is_empty());
    }
}

/// A stream of a model server.
fn stream(data: &[u8]) {
    if let Ok(words) = words_of(data) {
        assert!(words.len() <= data.len(), "more words than were sent");
    }
}
