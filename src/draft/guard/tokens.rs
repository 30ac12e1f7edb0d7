//! The hard tokens of a sentence: what must be copied, never made up. Numbers, versions, prices and dates; menu paths,
//! file paths, commands and configuration keys; links and addresses; names.

use std::sync::LazyLock;

use regex::Regex;

use crate::draft::text;
use crate::ticket::Rule;

/// One thing that has to stand in the evidence or in the customer's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HardToken {
    pub kind: TokenKind,
    /// As written in the sentence.
    pub text: String,
    /// What is looked up; how depends on the kind.
    pub normal: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// Digits, with or without separators; words holding digits (`OAuth2`, `v115`).
    Number,
    /// A number with `%` or a currency.
    Amount,
    /// A month by name; `normal` is its number.
    Month,
    /// A web address or host name.
    Link,
    Email,
    /// A file path, registry key or folder variable.
    FilePath,
    /// One segment of `A > B > C`.
    MenuSegment,
    /// A dotted or underscored identifier, a flag, a key chord, code in backticks.
    Command,
    /// A capitalised word inside a sentence.
    Name,
}

impl TokenKind {
    /// The rule that an unsupported token of this kind breaks.
    pub fn rule(self) -> Rule {
        match self {
            Self::Number | Self::Amount | Self::Month => Rule::UnsupportedNumber,
            Self::Link | Self::Email => Rule::UnsupportedLink,
            Self::FilePath | Self::MenuSegment | Self::Command => Rule::UnsupportedPath,
            Self::Name => Rule::UnsupportedName,
        }
    }
}

fn pattern(source: &str) -> Regex {
    Regex::new(source).expect("constant pattern")
}

static LINK: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r#"(?i)(?:\b(?:[a-z][a-z0-9+]{1,9}://|https?:[/\\]*|www\.|mailto:)|//[\p{L}\p{N}-]+\.)[^\s<>"«»“”]+"#)
});
static EMAIL: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)[\p{L}0-9._%+-]+@[\p{L}0-9-]+(?:\.[\p{L}0-9-]+)+"));
static FILE_PATH: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r#"(?i)\b[a-z]:[\\/][^\s"»”,;]*|\\\\[\w.$-]+(?:\\[^\s"»”,;]*)?|%\w+%(?:[\\/][^\s"»”,;]*)?|\bHKEY_\w+(?:\\[^\s"»”,;]*)?|\bHK(?:LM|CU)\\[^\s"»”,;]*|(?:^|[\s("'«“])(?:~|\.{1,2})?/[\w.@~-]+(?:/[\w.@*~-]*)*"#,
    )
});
static CODE: LazyLock<Regex> = LazyLock::new(|| pattern(r"`([^`\n]{1,120})`"));
static FLAG: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?:^|\s)(--?[A-Za-z][\w-]*)"));
static CHORD: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:ctrl|control|strg|alt|option|shift|cmd|command|mayús|mayus|win|⌘)\s?(?:\+|-)\s?[\w⌘]+(?:\s?\+\s?\w+)*|\bF(?:1[0-2]|[1-9])\b",
    )
});
static DOTTED: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"[\p{L}\p{N}_-]+(?:\.[\p{L}\p{N}_-]+)+|\.[A-Za-z][A-Za-z0-9]{1,5}\b"));
static UNDERSCORED: LazyLock<Regex> = LazyLock::new(|| pattern(r"\b\w+_\w+\b"));
static AMOUNT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)(?:[$€£¥]|\b(?:usd|eur|gbp|mxn|us\$))\s?\d[\d.,]*\d|(?:[$€£¥]|\b(?:usd|eur|gbp|mxn))\s?\d|\d(?:[\d.,]*\d)?\s?(?:%|[$€£¥]|(?:euros?|dollars?|dólares|dolares|usd|eur|pesos|per ?cent|por ciento)\b)",
    )
});
static NUMBER: LazyLock<Regex> = LazyLock::new(|| pattern(r"[\p{L}\p{N}]*\p{N}[\p{L}\p{N}]*(?:[.,:]\p{N}+[\p{L}]*)*"));
static LIST_NUMBER: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^\s*(?:[-*•]\s*)?\(?\d{1,2}[.)]\s|^\s*(?:step|paso)\s\d{1,2}\b"));
static WORD_AMOUNT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(one|two|three|four|five|six|seven|eight|nine|ten|twelve|fifteen|twenty|thirty|sixty|ninety|un|una|dos|tres|cuatro|cinco|seis|siete|ocho|nueve|diez|doce|quince|veinte|treinta|sesenta|noventa)\s(?:\p{L}+\s)?(minutes?|hours?|days?|weeks?|months?|years?|euros?|dollars?|gb|mb|minutos?|horas?|días?|dias?|semanas?|mes|meses|años?|dólares|gigas?|megas?)\b",
    )
});
static NAME: LazyLock<Regex> = LazyLock::new(|| pattern(r"\p{Lu}[\p{L}\p{M}'’-]*"));

const MONTHS: &[(&str, &str, &str)] = &[
    ("january", "enero", "jan"),
    ("february", "febrero", "feb"),
    ("march", "marzo", "mar"),
    ("april", "abril", "apr"),
    ("may", "mayo", "may"),
    ("june", "junio", "jun"),
    ("july", "julio", "jul"),
    ("august", "agosto", "aug"),
    ("september", "septiembre", "sep"),
    ("october", "octubre", "oct"),
    ("november", "noviembre", "nov"),
    ("december", "diciembre", "dec"),
];

const NUMBER_WORDS: &[(&str, &str)] = &[
    ("one", "1"),
    ("un", "1"),
    ("una", "1"),
    ("two", "2"),
    ("dos", "2"),
    ("three", "3"),
    ("tres", "3"),
    ("four", "4"),
    ("cuatro", "4"),
    ("five", "5"),
    ("cinco", "5"),
    ("six", "6"),
    ("seis", "6"),
    ("seven", "7"),
    ("siete", "7"),
    ("eight", "8"),
    ("ocho", "8"),
    ("nine", "9"),
    ("nueve", "9"),
    ("ten", "10"),
    ("diez", "10"),
    ("twelve", "12"),
    ("doce", "12"),
    ("fifteen", "15"),
    ("quince", "15"),
    ("twenty", "20"),
    ("veinte", "20"),
    ("thirty", "30"),
    ("treinta", "30"),
    ("sixty", "60"),
    ("sesenta", "60"),
    ("ninety", "90"),
    ("noventa", "90"),
];

/// Two-letter-plus endings that make a dotted word a host name rather than a file or a key.
const TOP_LEVEL: &[&str] = &[
    "com", "org", "net", "edu", "gov", "info", "biz", "io", "dev", "app", "es", "mx", "ar", "cl", "co", "pe", "ve",
    "uk", "us", "ca", "de", "fr", "it", "nl", "eu", "xyz", "example", "test", "invalid", "ru", "cn", "jp", "br", "pt",
    "tv", "me", "online", "site", "shop", "link", "click", "top", "cat", "gal", "cloud", "email", "support", "help",
];

/// Number of the month (`"01"` to `"12"`) that a folded word names in full.
pub fn month_number(word: &str) -> Option<String> {
    let at = MONTHS.iter().position(|(english, spanish, _)| *english == word || *spanish == word)?;
    Some(format!("{:02}", at + 1))
}

/// The same with English abbreviations, for reading evidence.
pub fn month_number_loose(word: &str) -> Option<String> {
    let at =
        MONTHS.iter().position(|(english, spanish, short)| *english == word || *spanish == word || *short == word)?;
    Some(format!("{:02}", at + 1))
}

/// Digits of a number word, when it is one.
pub fn number_word(word: &str) -> Option<&'static str> {
    NUMBER_WORDS.iter().find(|(name, _)| *name == word).map(|(_, digits)| *digits)
}

/// A link in comparable form: no scheme, no `www.`, no trailing slash or punctuation, lower case.
pub fn normal_link(link: &str) -> String {
    let link = trim_link(link).to_lowercase();
    let link = link.strip_prefix("mailto:").unwrap_or(&link);
    let bare = || link.strip_prefix("https:").or_else(|| link.strip_prefix("http:")).unwrap_or(link);
    let link = link.split_once("://").map_or_else(bare, |(_, rest)| rest).trim_start_matches(['/', '\\']);
    link.strip_prefix("www.").unwrap_or(link).trim_end_matches('/').to_owned()
}

/// Cuts the punctuation that follows a link in running text; a closing bracket stays when it was opened inside.
fn trim_link(link: &str) -> &str {
    let mut link = link;
    // Counted once: a link may end in thousands of brackets.
    let (opened, mut closed) = (link.matches('(').count(), link.matches(')').count());
    loop {
        let shorter =
            link.trim_end_matches(['.', ',', ';', ':', '!', '?', '\'', '’', '»', '”', ']', '}', '*', '_', '…']);
        let shorter = match shorter.strip_suffix(')') {
            Some(rest) if opened < closed => {
                closed -= 1;
                rest
            }
            _ => shorter,
        };
        if shorter.len() == link.len() {
            return link;
        }
        link = shorter;
    }
}

/// Every link and host name of `text`, comparable.
pub fn links_of(text: &str) -> Vec<String> {
    LINK.find_iter(text).map(|found| normal_link(found.as_str())).collect()
}

/// The comparable forms of a number: as written, without thousands separators, with a decimal point.
pub fn number_forms(number: &str) -> Vec<String> {
    let number = text::fold(number);
    let number = number.trim_end_matches(['.', ',', ':']);
    let mut forms = vec![number.to_owned()];
    let groups: Vec<&str> = number.split(['.', ',']).collect();
    let is_grouped = groups.len() > 1
        && groups.iter().all(|group| group.chars().all(|c| c.is_ascii_digit()))
        && groups.first().is_some_and(|first| (1..=3).contains(&first.len()))
        && groups.iter().skip(1).all(|group| group.len() == 3);
    if is_grouped {
        forms.push(groups.concat());
    }
    if number.matches(',').count() == 1 {
        forms.push(number.replace(',', "."));
    }
    if let Some(bare) = number.strip_prefix('v')
        && bare.starts_with(|c: char| c.is_ascii_digit())
    {
        forms.push(bare.to_owned());
    }
    forms
}

/// Every run with a digit in `text`, as written.
pub fn numbers_of(text: &str) -> impl Iterator<Item = &str> {
    NUMBER.find_iter(text).map(|found| found.as_str())
}

/// Amounts with a unit in comparable form: `5,00 €` and `€5.00` are both `5.00€`.
pub fn normal_amount(amount: &str) -> Option<String> {
    let digits = amount.trim_matches(|c: char| !c.is_ascii_digit());
    let folded = text::fold(amount);
    let unit = match folded.as_str() {
        f if f.contains('%') || f.contains("cent") || f.contains("ciento") => "%",
        f if f.contains('€') || f.contains("eur") => "€",
        f if f.contains('£') || f.contains("gbp") => "£",
        f if f.contains('¥') => "¥",
        f if f.contains("pesos") || f.contains("mxn") => "peso",
        _ => "$",
    };
    let form = number_forms(digits).pop()?;
    Some(format!("{form}{unit}"))
}

/// Amounts with a unit in `text`, comparable.
pub fn amounts_of(text: &str) -> Vec<String> {
    AMOUNT.find_iter(text).filter_map(|found| normal_amount(found.as_str())).collect()
}

/// All hard tokens of one sentence.
pub fn extract(sentence: &str) -> Vec<HardToken> {
    let mut rest = sentence.to_owned();
    let mut tokens = Vec::new();
    // Links first: what stands before the @ of an address is no mailbox.
    take(&mut rest, &LINK, TokenKind::Link, &mut tokens, |found| {
        let is_mail = found.to_lowercase().starts_with("mailto:");
        Some(normal_link(found)).filter(|link| !is_mail && !link.is_empty())
    });
    take(&mut rest, &EMAIL, TokenKind::Email, &mut tokens, |found| Some(found.trim_end_matches('.').to_lowercase()));
    take(&mut rest, &FILE_PATH, TokenKind::FilePath, &mut tokens, normal_file_path);
    take(&mut rest, &CODE, TokenKind::Command, &mut tokens, |found| Some(text::fold(found.trim_matches('`'))));
    take(&mut rest, &CHORD, TokenKind::Command, &mut tokens, |found| Some(normal_chord(found)));
    take(&mut rest, &FLAG, TokenKind::Command, &mut tokens, |found| {
        let flag = text::fold(found.trim());
        // A dash glued to a word opens an aside ("-por ejemplo") more often than it is a flag.
        (flag.starts_with("--") || flag.len() == 2).then_some(flag)
    });
    take_dotted(&mut rest, &mut tokens);
    take(&mut rest, &UNDERSCORED, TokenKind::Command, &mut tokens, |found| Some(text::fold(found)));
    take_menu_path(&mut rest, &mut tokens);
    if let Some(item) = LIST_NUMBER.find(&rest) {
        let blank = " ".repeat(item.len());
        rest.replace_range(item.range(), &blank);
    }
    take(&mut rest, &AMOUNT, TokenKind::Amount, &mut tokens, normal_amount);
    for found in WORD_AMOUNT.captures_iter(&rest) {
        let word = found.get(1).map(|word| text::fold(word.as_str())).unwrap_or_default();
        // "a day", "un día": an article, not a count.
        if let Some(digits) = number_word(&word).filter(|digits| *digits != "1") {
            tokens.push(HardToken { kind: TokenKind::Number, text: found[0].to_owned(), normal: digits.to_owned() });
        }
    }
    take(&mut rest, &NUMBER, TokenKind::Number, &mut tokens, |found| Some(text::fold(found)));
    take_names(&rest, &mut tokens);
    tokens
}

/// Moves every match out of `rest` (blanks stay in its place) into `tokens`; `normal` may decline a match.
fn take(
    rest: &mut String,
    pattern: &Regex,
    kind: TokenKind,
    tokens: &mut Vec<HardToken>,
    normal: impl Fn(&str) -> Option<String>,
) {
    let found: Vec<_> = pattern.find_iter(rest).map(|found| found.range()).collect();
    for range in found {
        let Some(written) = rest.get(range.clone()).map(str::to_owned) else { continue };
        let Some(normal) = normal(&written) else { continue };
        tokens.push(HardToken { kind, text: written.trim().to_owned(), normal });
        rest.replace_range(range.clone(), &" ".repeat(range.len()));
    }
}

fn normal_file_path(found: &str) -> Option<String> {
    let path = text::fold(found).replace('\\', "/");
    let path = path.trim_matches([' ', '(', '"', '\'', '.', ',', ':', ')']).trim_end_matches('/').to_owned();
    (path.chars().filter(|c| c.is_alphanumeric()).count() > 1).then_some(path)
}

/// `Ctrl + Mayús + K` reads `ctrl+shift+k`.
pub fn normal_chord(found: &str) -> String {
    text::fold(found)
        .replace([' ', '\u{a0}'], "")
        .replace("control", "ctrl")
        .replace("mayusculas", "shift")
        .replace("mayus", "shift")
        .replace("command", "cmd")
        .replace("ctrl-", "ctrl+")
        .replace("alt-", "alt+")
}

fn take_dotted(rest: &mut String, tokens: &mut Vec<HardToken>) {
    let found: Vec<_> = DOTTED.find_iter(rest).map(|found| found.range()).collect();
    for range in found {
        let Some(written) = rest.get(range.clone()).map(str::to_owned) else { continue };
        let last = written.rsplit('.').next().unwrap_or_default();
        let is_number = written.split(['.', '-']).all(|part| part.chars().all(|c| c.is_numeric()));
        let is_abbreviation = written.split('.').all(|part| part.chars().count() <= 2)
            && written.chars().all(|c| c == '.' || c.is_alphabetic());
        // "Fin.Saludos": a missing blank, two words.
        let is_glued = !written.starts_with('.')
            && last.starts_with(char::is_uppercase)
            && last.chars().skip(1).all(char::is_lowercase);
        let has_letters = written.chars().any(char::is_alphabetic);
        let is_version = written.trim_start_matches(['v', 'V']).starts_with(|c: char| c.is_numeric())
            && last.starts_with(char::is_numeric);
        if is_number || is_glued || !has_letters || is_version || (is_abbreviation && !TOP_LEVEL.contains(&last)) {
            continue;
        }
        let is_host = TOP_LEVEL.contains(&text::fold(last).as_str()) && !written.starts_with('.');
        let (kind, normal) =
            if is_host { (TokenKind::Link, normal_link(&written)) } else { (TokenKind::Command, text::fold(&written)) };
        let path = if is_host { path_after(rest, range.end) } else { "" };
        let (written, normal) = match path.is_empty() {
            true => (written, normal),
            false => (format!("{written}{path}"), normal_link(&format!("{written}{path}"))),
        };
        let range = range.start..range.end + path.len();
        tokens.push(HardToken { kind, text: written, normal });
        rest.replace_range(range.clone(), &" ".repeat(range.len()));
    }
}

/// The path that is written behind a host, with its query.
fn path_after(text: &str, at: usize) -> &str {
    let rest = text.get(at..).unwrap_or_default();
    let end = rest.find(|c: char| c.is_whitespace() || matches!(c, '<' | '>' | '"' | '«' | '»' | '“' | '”'));
    let path = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
    if path.starts_with(['/', '?', '#']) { trim_link(path) } else { "" }
}

/// Byte positions of the arrows of a menu path with their lengths.
fn arrows(text: &str) -> Vec<(usize, usize)> {
    static ARROW: LazyLock<Regex> = LazyLock::new(|| pattern(r"\s*(?:[-–=]+>|[>→⇒›➔➜▸►]|\s»\s)+\s*"));
    ARROW.find_iter(text).filter(|found| found.start() > 0).map(|found| (found.start(), found.len())).collect()
}

fn take_menu_path(rest: &mut String, tokens: &mut Vec<HardToken>) {
    let arrows = arrows(rest);
    if arrows.is_empty() {
        return;
    }
    let mut cuts = vec![(0, 0)];
    cuts.extend(arrows);
    cuts.push((rest.len(), 0));
    let pieces: Vec<(usize, usize)> = cuts.windows(2).map(|pair| (pair[0].0 + pair[0].1, pair[1].0)).collect();
    let last = pieces.len() - 1;
    let mut blanks = Vec::new();
    for (at, (start, end)) in pieces.into_iter().enumerate() {
        let Some(piece) = rest.get(start..end) else { continue };
        let segment = match at {
            0 => trailing_label(piece),
            _ if at == last => leading_label(piece),
            _ => inner_label(piece),
        };
        let normal = normal_segment(segment);
        if normal.is_empty() {
            continue;
        }
        let offset = start + (segment.as_ptr() as usize - piece.as_ptr() as usize);
        blanks.push(offset..offset + segment.len());
        tokens.push(HardToken { kind: TokenKind::MenuSegment, text: segment.to_owned(), normal });
    }
    for range in blanks {
        rest.replace_range(range.clone(), &" ".repeat(range.len()));
    }
}

/// Words and symbols of a menu label, folded, single blanks.
pub fn normal_segment(segment: &str) -> String {
    let folded = text::fold(segment);
    let words: Vec<&str> = folded.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

const BREAKS: [char; 13] = ['.', ',', ';', ':', '(', ')', '"', '«', '»', '“', '”', '?', '¿'];

/// The label that ends a piece: `In Thunderbird, go to Account Settings` gives `Account Settings`.
fn trailing_label(piece: &str) -> &str {
    let piece = piece.trim_end_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '”' | '»' | ')'));
    let piece = piece.rsplit(BREAKS).next().unwrap_or(piece);
    let mut start = piece.len();
    for (at, word) in word_starts(piece).into_iter().rev() {
        let is_label = word.chars().next().is_some_and(|c| c.is_uppercase() || !c.is_alphanumeric());
        if start < piece.len() && !is_label {
            break;
        }
        start = at;
        if !is_label {
            break;
        }
    }
    piece.get(start..).unwrap_or_default().trim()
}

/// The label that opens a piece: `Server Settings and choose` gives `Server Settings`.
fn leading_label(piece: &str) -> &str {
    let piece = piece.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '“' | '«' | '('));
    let piece = piece.split(BREAKS).next().unwrap_or(piece);
    let mut end = 0;
    for (at, word) in word_starts(piece) {
        let is_label = word.chars().next().is_some_and(|c| c.is_uppercase() || !c.is_alphanumeric());
        if end > 0 && !is_label {
            break;
        }
        end = at + word.len();
    }
    piece.get(..end).unwrap_or_default().trim()
}

/// A label between two arrows; an explanation in brackets after it is not part of it.
fn inner_label(piece: &str) -> &str {
    let piece = piece.trim_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '“' | '”' | '«' | '»'));
    piece.split(['(', ',', ';']).next().unwrap_or(piece).trim()
}

fn word_starts(piece: &str) -> Vec<(usize, &str)> {
    piece.split_whitespace().map(|word| (word.as_ptr() as usize - piece.as_ptr() as usize, word)).collect()
}

fn take_names(rest: &str, tokens: &mut Vec<HardToken>) {
    let first_letter = rest.find(char::is_alphabetic).unwrap_or(rest.len());
    for found in NAME.find_iter(rest) {
        let name = found.as_str();
        let before = rest.get(..found.start()).unwrap_or_default();
        if before.ends_with(|c: char| c.is_alphanumeric()) {
            continue;
        }
        let folded = text::fold(name);
        let folded = folded.trim_end_matches("'s").trim_matches(['\'', '-']);
        if let Some(month) = month_number(folded).filter(|_| folded != "may" && folded != "march") {
            tokens.push(HardToken { kind: TokenKind::Month, text: name.to_owned(), normal: month });
            continue;
        }
        let is_shouted = name.chars().count() > 1 && name.chars().skip(1).any(char::is_uppercase);
        if (found.start() <= first_letter || opens_a_clause(before)) && !is_shouted {
            continue;
        }
        if folded.chars().count() < 2 || is_common_capital(folded) {
            continue;
        }
        tokens.push(HardToken { kind: TokenKind::Name, text: name.to_owned(), normal: folded.to_owned() });
    }
    for word in rest.split(|c: char| !c.is_alphabetic()).filter(|word| word.starts_with(char::is_lowercase)) {
        if let Some(month) = month_number(&text::fold(word)).filter(|_| !matches!(word, "may" | "march")) {
            tokens.push(HardToken { kind: TokenKind::Month, text: word.to_owned(), normal: month });
        }
    }
}

/// True where any word may be capitalised: after a list mark, a colon, an opening quote or bracket.
fn opens_a_clause(before: &str) -> bool {
    before.trim_end().ends_with([
        ':', '.', '!', '?', '…', '¿', '¡', '"', '“', '«', '(', '[', '\n', '/', '-', '–', '—', '\'', '‘', ';', '*',
    ])
}

fn is_common_capital(folded: &str) -> bool {
    const COMMON: &[&str] = &[
        "i",
        "i'm",
        "i'll",
        "i've",
        "i'd",
        "ok",
        "monday",
        "tuesday",
        "wednesday",
        "thursday",
        "friday",
        "saturday",
        "sunday",
        "english",
        "spanish",
        "ingles",
        "espanol",
        "usted",
        "ud",
        "uds",
        "internet",
        "id",
        "pc",
        "faq",
        "re",
        "ps",
        "tv",
        "hello",
        "hi",
        "dear",
        "hola",
    ];
    COMMON.contains(&folded)
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
