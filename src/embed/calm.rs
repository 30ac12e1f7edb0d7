//! Customers who write in capitals.

use std::borrow::Cow;

/// Capitals and words that make a line shouted: fewer are a name, an acronym or an error code.
const LEAST_CAPITALS: usize = 10;
const LEAST_WORDS: usize = 3;
/// Small letters that a shouted line may hold for every capital: "I CANNOT LOG IN today" is one.
const SMALL_FOR_EACH: f32 = 0.5;

/// `text` with its shouted lines in small letters. Models cut words in capitals into pieces that they have hardly seen, so that
/// the same request lies elsewhere and finds other help.
pub fn calm(text: &str) -> Cow<'_, str> {
    if !text.lines().any(is_shouted) {
        return Cow::Borrowed(text);
    }
    let quiet = |line: &str| if is_shouted(line) { line.to_lowercase() } else { line.to_owned() };
    Cow::Owned(text.split_inclusive('\n').map(quiet).collect())
}

fn is_shouted(line: &str) -> bool {
    let capitals = line.chars().filter(|c| c.is_uppercase()).count();
    let small = line.chars().filter(|c| c.is_lowercase()).count();
    let words = line.split_whitespace().count();
    words >= LEAST_WORDS && capitals >= LEAST_CAPITALS && small as f32 <= SMALL_FOR_EACH * capitals as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_shouted_is_changed() {
        for (text, expected) in [
            ("HELP!! MY MAIL IS GONE", "help!! my mail is gone"),
            ("AYUDA\nNO PUEDO ENTRAR EN LA CUENTA\nGracias", "AYUDA\nno puedo entrar en la cuenta\nGracias"),
            ("NO LLEGA NINGÚN CORREO desde ayer", "no llega ningún correo desde ayer"),
            ("error 0x800CCC0F in OUTLOOK", "error 0x800CCC0F in OUTLOOK"),
            ("SSL_ERROR_RX_RECORD_TOO_LONG", "SSL_ERROR_RX_RECORD_TOO_LONG"),
            ("IMAP SMTP", "IMAP SMTP"),
            ("", ""),
            ("\n\r\n", "\n\r\n"),
        ] {
            assert_eq!(calm(text), expected);
        }
        let plain = "My mail is gone. PLEASE HELP";
        assert!(matches!(calm(plain), Cow::Borrowed(text) if text == plain));
    }
}
