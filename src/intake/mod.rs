//! What comes in: a customer's message made ready for the stages, and resolved tickets and articles made ready for the
//! memory. Cleaning, language, personal data, import.

use crate::ticket::{Language, Request};

/// A constant regular expression, compiled once at first use.
macro_rules! pattern {
    ($text:expr) => {{
        static PATTERN: std::sync::LazyLock<regex::Regex> =
            std::sync::LazyLock::new(|| regex::Regex::new($text).expect("constant pattern"));
        &*PATTERN
    }};
}

pub mod clean;
pub mod files;
mod html;
pub mod import;
pub mod language;
pub mod scrub;
mod scrub_finders;
mod scrub_people;

use clean::{MAX_BYTES, clean};
use language::LanguageDetector;

/// Why a message is refused, and what its sender can do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntakeError {
    #[error("the message is empty; write in a sentence or two what happens")]
    Empty,
    #[error("the message holds only text quoted from an earlier one; write your own words above or below the quote")]
    OnlyQuote,
    #[error("the message is {bytes} bytes long, at most {max} are taken; shorten it and send long logs as a file")]
    TooLarge { bytes: usize, max: usize },
    #[error("the message is not text; send it as plain text or HTML in UTF-8, and files as attachments")]
    Binary,
}

/// Cleans subject and body and tells their language. Text without words (emoji) is a request in [`Language::UNKNOWN`]:
/// it is answered by a question, not refused.
///
/// # Errors
/// [`IntakeError`] when nothing of the customer's own is left, or it is no text, or more than [`MAX_BYTES`].
pub fn prepare(
    subject: &str,
    body: &str,
    product: Option<String>,
    queue: Option<String>,
    exclude: Vec<String>,
) -> Result<Request, IntakeError> {
    let title = clean(subject, MAX_BYTES)?;
    let message = clean(body, MAX_BYTES)?;
    if title.empty && message.empty {
        return Err(if message.only_quote { IntakeError::OnlyQuote } else { IntakeError::Empty });
    }
    // A reply's subject ("Re: ...") is inherited: it does not make a quote a request.
    let inherited = pattern!(r"(?i)^(?:re|rv|aw|antw|sv|fwd?|rif)\s?:").is_match(&title.text);
    if message.only_quote && (title.empty || inherited) {
        return Err(IntakeError::OnlyQuote);
    }
    let mut request = Request {
        subject: title.text.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" "),
        body: message.text,
        language: Language::UNKNOWN,
        product,
        queue,
        exclude,
    };
    // The body tells more than a subject that a form or a mail program may have written.
    let of_body = LanguageDetector.detect(&request.body).language;
    request.language =
        if of_body == Language::UNKNOWN { LanguageDetector.detect(&request.text()).language } else { of_body };
    Ok(request)
}

/// A text as databases can keep it: PostgreSQL takes no NUL, and none of them means anything.
pub fn without_nul(mut text: String) -> String {
    text.retain(|c| c != '\0');
    text
}

/// Text of bytes that somebody sends us (standard input, an upload).
///
/// # Errors
/// [`IntakeError::Binary`] when they are not UTF-8, [`IntakeError::TooLarge`] beyond [`MAX_BYTES`].
pub fn text_from_bytes(bytes: &[u8]) -> Result<&str, IntakeError> {
    if bytes.len() > MAX_BYTES {
        return Err(IntakeError::TooLarge { bytes: bytes.len(), max: MAX_BYTES });
    }
    std::str::from_utf8(bytes).map_err(|_| IntakeError::Binary)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(subject: &str, body: &str) -> Result<Request, IntakeError> {
        prepare(subject, body, None, None, Vec::new())
    }

    #[test]
    fn a_request_in_each_language() {
        let spanish = prepared("Ayuda", "<p>No puedo <b>entrar</b> en mi cuenta desde ayer</p>").expect("request");
        assert_eq!(
            (spanish.language, spanish.body.as_str()),
            (Language::ES, "No puedo entrar en mi cuenta desde ayer")
        );
        let english = prepared("", "I cannot get into my account since yesterday").expect("request");
        assert_eq!(english.language, Language::EN);
    }

    #[test]
    fn emoji_are_a_request_in_no_language() {
        assert_eq!(prepared("", "😡😡").expect("request").language, Language::UNKNOWN);
    }

    #[test]
    fn refusals_say_what_to_do() {
        assert_eq!(prepared("", " \n "), Err(IntakeError::Empty));
        assert_eq!(prepared("Re: your ticket", "> old words"), Err(IntakeError::OnlyQuote));
        assert!(matches!(prepared("", &"a".repeat(1 << 20)), Err(IntakeError::TooLarge { .. })));
        assert_eq!(prepared("", "\u{0}\u{1}\u{2}\u{3}PK"), Err(IntakeError::Binary));
        assert_eq!(text_from_bytes(&[0xff, 0xfe, 0x00]), Err(IntakeError::Binary));
        for error in [IntakeError::Empty, IntakeError::OnlyQuote, IntakeError::Binary] {
            assert!(error.to_string().contains(';'), "{error}");
        }
    }

    #[test]
    fn a_subject_is_one_line_and_stored_text_has_no_nul() {
        let request = prepared("Help\n\nme\r\nnow", "it does not start").expect("request");
        assert_eq!(request.subject, "Help me now");
        assert_eq!(without_nul("a\0b\0".to_owned()), "ab");
    }

    #[test]
    fn right_to_left_text_is_kept() {
        let request = prepared("", "שלום, אני לא מצליח להיכנס לחשבון שלי").expect("request");
        assert_eq!(request.language.code(), "he");
    }
}
