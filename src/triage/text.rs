//! Words of a message with their places in it: lower case, accents folded, cut into clauses.

/// Bytes read from the start of a long text; together with [`TAIL_BYTES`] it bounds the work for any input.
const HEAD_BYTES: usize = 6_000;
/// Bytes read from the end of a long text, where the newest message stands.
const TAIL_BYTES: usize = 3_000;
/// Longer runs (base64, keys) are cut: they are no words.
const MAX_WORD_CHARS: usize = 30;

/// One word of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Lower case, without accents and apostrophes; a number is `#`.
    pub folded: String,
    /// Byte range in the text.
    pub start: usize,
    pub end: usize,
    /// Words of one clause (between punctuation or line ends) share this number.
    pub clause: u32,
    /// Two letters or more, all upper case.
    pub shouted: bool,
}

/// Cuts `text` into words. Long texts are read at both ends only (`HEAD_BYTES`, `TAIL_BYTES`).
pub fn tokens(text: &str) -> Vec<Token> {
    let mut words = Vec::new();
    if text.len() <= HEAD_BYTES + TAIL_BYTES {
        read(text, 0, 0, &mut words);
        return words;
    }
    let head_end = text.floor_char_boundary(HEAD_BYTES);
    let tail_start = text.ceil_char_boundary(text.len() - TAIL_BYTES);
    read(&text[..head_end], 0, 0, &mut words);
    let next_clause = words.last().map_or(0, |word| word.clause + 1);
    read(&text[tail_start..], tail_start, next_clause, &mut words);
    words
}

fn read(text: &str, base: usize, first_clause: u32, words: &mut Vec<Token>) {
    let mut clause = first_clause;
    let mut chars = text.char_indices().peekable();
    while let Some((start, first)) = chars.next() {
        if !is_word(first) {
            clause += u32::from(ends_clause(first, chars.peek().map(|(_, next)| *next)));
            continue;
        }
        let mut end = start + first.len_utf8();
        while let Some((at, next)) = chars.peek().copied() {
            let inside = is_word(next) || is_apostrophe(next) && follows_letter(text, at + next.len_utf8());
            if !inside {
                break;
            }
            end = at + next.len_utf8();
            chars.next();
        }
        let word = &text[start..end];
        let folded = fold_word(word);
        if !folded.is_empty() {
            let shouted = word.chars().count() > 1 && word.chars().all(|letter| letter.is_uppercase());
            words.push(Token { folded, start: base + start, end: base + end, clause, shouted });
        }
    }
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || is_combining(letter)
}

fn is_combining(letter: char) -> bool {
    ('\u{300}'..='\u{36f}').contains(&letter)
}

fn is_apostrophe(letter: char) -> bool {
    matches!(letter, '\'' | '\u{2019}' | '`' | '\u{b4}')
}

fn follows_letter(text: &str, at: usize) -> bool {
    text.get(at..).and_then(|rest| rest.chars().next()).is_some_and(char::is_alphabetic)
}

/// A full stop inside `115.3` or `about.config` ends no clause; one before a blank does.
fn ends_clause(mark: char, next: Option<char>) -> bool {
    match mark {
        '\n' | ';' | '!' | '?' | '¿' | '¡' | '(' | ')' | '"' | '…' => true,
        '.' | ',' | ':' => next.is_none_or(|next| !next.is_alphanumeric()),
        _ => false,
    }
}

/// Lower case, accents and apostrophes dropped; runs of digits become `#`; redaction marks (`xxxx`) become nothing.
fn fold_word(word: &str) -> String {
    let mut folded = String::with_capacity(word.len());
    for letter in word.chars().take(MAX_WORD_CHARS) {
        if is_combining(letter) || is_apostrophe(letter) {
            continue;
        }
        if letter.is_numeric() {
            if !folded.ends_with('#') {
                folded.push('#');
            }
            continue;
        }
        folded.extend(letter.to_lowercase().filter(|lower| !is_combining(*lower)).map(plain));
    }
    let redacted = folded.len() > 1 && folded.bytes().all(|byte| byte == b'x');
    if redacted { String::new() } else { folded }
}

/// The letter without its accent, for the Latin letters of western and central European languages.
fn plain(letter: char) -> char {
    match letter {
        'à'..='å' | 'ā' | 'ă' | 'ą' => 'a',
        'ç' | 'ć' | 'č' => 'c',
        'ď' => 'd',
        'è'..='ë' | 'ē' | 'ę' | 'ě' => 'e',
        'ì'..='ï' | 'ī' => 'i',
        'ł' => 'l',
        'ñ' | 'ń' | 'ň' => 'n',
        'ò'..='ö' | 'ø' | 'ō' | 'ő' => 'o',
        'ř' => 'r',
        'ś' | 'š' | 'ş' => 's',
        'ť' => 't',
        'ù'..='ü' | 'ū' | 'ů' | 'ű' => 'u',
        'ý' | 'ÿ' => 'y',
        'ź' | 'ż' | 'ž' => 'z',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(text: &str) -> Vec<String> {
        tokens(text).into_iter().map(|token| token.folded).collect()
    }

    #[test]
    fn folds_accents_case_apostrophes_and_numbers() {
        assert_eq!(folded("¡NO Envía! I can\u{2019}t, v115.3 año"), ["no", "envia", "i", "cant", "v#", "#", "ano"]);
        assert_eq!(folded("perdi\u{301} XXXX x"), ["perdi", "x"]);
    }

    #[test]
    fn places_are_exact_and_clauses_differ() {
        let text = "Perdí todo. Ayuda, ¿por favor?";
        let words = tokens(text);
        assert_eq!(&text[words[0].start..words[0].end], "Perdí");
        assert_eq!(words[0].clause, words[1].clause);
        assert_ne!(words[1].clause, words[2].clause);
    }

    #[test]
    fn hostile_texts_are_bounded() {
        assert!(tokens("").is_empty());
        assert!(tokens("🙂🙃\u{0}\u{202e}").is_empty());
        let huge = "ñandú ".repeat(200_000);
        let words = tokens(&huge);
        assert!(words.len() < 2_000);
        assert!(words.iter().all(|word| &huge[word.start..word.end] == "ñandú" || word.folded.len() < 5));
        assert!(tokens(&"a".repeat(1 << 20)).iter().all(|word| word.folded.len() <= MAX_WORD_CHARS));
        assert!(!tokens("שלום עולם مرحبا").is_empty());
    }
}
