//! The finders of [`super::scrub`]: one function per kind of personal data, each a pattern and a check of the match.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::scrub::{Found, PiiKind};

pub(super) fn push(finds: &mut Vec<Found>, range: Range<usize>, kind: PiiKind) {
    finds.push(Found { range, kind: Some(kind) });
}

/// The last `chars` characters before `at`, in lower case.
pub(super) fn before(text: &str, at: usize, chars: usize) -> String {
    let head = &text[..at];
    let start = head.char_indices().rev().nth(chars.saturating_sub(1)).map_or(0, |(index, _)| index);
    head[start..].to_lowercase()
}

/// The first `chars` characters from `at`, in lower case.
pub(super) fn after(text: &str, at: usize, chars: usize) -> String {
    text[at..].chars().take(chars).collect::<String>().to_lowercase()
}

pub(super) fn digits_of(text: &str) -> Vec<u8> {
    text.bytes().filter(u8::is_ascii_digit).map(|byte| byte - b'0').collect()
}

/// Ranges of web and other addresses with a scheme.
pub(super) fn links(text: &str) -> Vec<Range<usize>> {
    pattern!(r#"(?i)\b[a-z][a-z0-9+.\-]{1,20}://[^\s<>"'`“”«»]+"#).find_iter(text).map(|found| found.range()).collect()
}

/// User names, tokens in query parameters and random path segments of links. The host and the rest stay.
pub(super) fn secrets_in_links(text: &str, links: &[Range<usize>], finds: &mut Vec<Found>) {
    let parameter = pattern!(r"([?&#;])([A-Za-z0-9_.\-\[\]]{1,40})=([^&#;\s]+)");
    let named = pattern!(
        r"(?i)token|key|sig|auth|access|session|^sid$|code|passw|pwd|secret|jwt|mail|user|phone|login|^otp$|ticket$|state"
    );
    for link in links {
        let address = &text[link.clone()];
        let authority_start = address.find("://").map_or(0, |at| at + 3);
        let authority_end =
            address[authority_start..].find(['/', '?', '#']).map_or(address.len(), |at| authority_start + at);
        if let Some(at) = address[authority_start..authority_end].rfind('@') {
            let range = link.start + authority_start..link.start + authority_start + at + 1;
            finds.push(Found { range, kind: None });
        }
        for captures in parameter.captures_iter(&address[authority_end..]) {
            let (Some(name), Some(value)) = (captures.get(2), captures.get(3)) else { continue };
            let shown = value.as_str().trim_end_matches([')', ']', '.', ',']);
            let is_placeholder = value.as_str().starts_with('[');
            if !is_placeholder && !shown.is_empty() && (named.is_match(name.as_str()) || is_random(shown)) {
                let start = link.start + authority_end + value.start();
                push(finds, start..start + shown.len(), PiiKind::Token);
            }
        }
        let path_end = address.find(['?', '#']).unwrap_or(address.len()).max(authority_end);
        let mut start = authority_end;
        for segment in address[authority_end..path_end].split('/') {
            let shown = segment.trim_end_matches([')', ']', '.', ',']);
            if shown.len() >= 24 && is_random(shown) {
                push(finds, link.start + start..link.start + start + shown.len(), PiiKind::Token);
            }
            start += segment.len() + 1;
        }
    }
}

pub(super) fn emails(text: &str, finds: &mut Vec<Found>) {
    let plain = pattern!(r"[\p{L}\p{N}._%+\-]+@[\p{L}\p{N}\-]+(?:\.[\p{L}\p{N}\-]+)+");
    let spelled = pattern!(
        r"(?i)[\p{L}\p{N}._%+\-]+ ?[(\[{](?:at|arroba|@)[)\]}] ?[\p{L}\p{N}\-]+(?:(?:\.| ?[(\[{](?:dot|punto)[)\]}] ?)[\p{L}\p{N}\-]{2,})+"
    );
    for found in plain.find_iter(text).chain(spelled.find_iter(text)) {
        let has_name = found.as_str().starts_with(|c: char| c != '@');
        let top = found.as_str().rsplit('.').next().unwrap_or_default();
        if has_name && top.chars().filter(|c| c.is_alphabetic()).count() >= 2 {
            push(finds, found.range(), PiiKind::Email);
        }
    }
}

/// Keys and tokens of known makers, private keys, bearer headers.
pub(super) fn known_tokens(text: &str, finds: &mut Vec<Found>) {
    let shapes = pattern!(
        r"(?x)
          \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?
        | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b | \bgh[pousr]_[A-Za-z0-9]{20,} | \bgithub_pat_\w{20,} | \bglpat-[\w-]{16,}
        | \bsk-[A-Za-z0-9_-]{16,} | \b[spr]k_(?:live|test)_[A-Za-z0-9]{10,} | \bxox[abeprs]-[A-Za-z0-9-]{10,} | \bAIza[A-Za-z0-9_-]{30,}
        | -----BEGIN\ [A-Z\ ]{0,30}PRIVATE\ KEY-----[A-Za-z0-9+/=\s]{0,8000}(?:-----END\ [A-Z\ ]{0,30}PRIVATE\ KEY-----)?"
    );
    for found in shapes.find_iter(text) {
        push(finds, found.range(), PiiKind::Token);
    }
    for captures in pattern!(r"(?i)\bbearer\s+([A-Za-z0-9._~+/=-]{12,})").captures_iter(text) {
        if let Some(value) = captures.get(1).filter(|value| value.as_str().bytes().any(|b| b.is_ascii_digit())) {
            push(finds, value.range(), PiiKind::Token);
        }
    }
}

/// Values named as a password, a PIN, a key or a code.
pub(super) fn passwords(text: &str, finds: &mut Vec<Found>) {
    let named = pattern!(
        r#"(?ix)\b(?: pass(?:word|wd|phrase|code)? | pwd | contraseña | contrasena | clave | password | secret | api[\ _-]?key | token | senha
            | (?:c[oó]digo\ de\ (?:verificaci[oó]n|seguridad|acceso)) | (?:verification|security|access|login)\ code | pin )
            (?:\ (?:actual|nueva|new|current|temporal|temporary))? (\s?[:=]\s?|\ (?:is|es|era|was|are)\s?:?\s) ["'“«]? ([^\s"'”»,;]{3,})"#
    );
    for captures in named.captures_iter(text) {
        let (Some(link), Some(value)) = (captures.get(1), captures.get(2)) else { continue };
        let shown = value.as_str().trim_end_matches(['.', '!', '?', ')', ':', '>', '<', '*']);
        let shown =
            if shown.is_empty() || has_secret_shape(shown) { shown } else { shown.trim_start_matches(['(', '<', '*']) };
        let start = value.end() - value.as_str().len() + value.as_str().find(shown).unwrap_or(0);
        let stands_alone =
            link.as_str().contains([':', '=']) && ends_a_phrase(&text[value.end()..]) && is_possible_word(shown);
        if shown.len() >= 3 && !shown.starts_with('[') && (has_secret_shape(shown) || stands_alone) {
            let all_marks = value.as_str().len() - shown.len() <= 1 && value.as_str().ends_with('!');
            let end = if all_marks { value.end() } else { start + shown.len() };
            push(finds, start..end, PiiKind::Token);
        }
    }
}

/// Letters and digits or inner symbols together, or digits alone: what a word of a sentence is not.
fn has_secret_shape(value: &str) -> bool {
    let digits = value.bytes().filter(u8::is_ascii_digit).count();
    let letters = value.chars().filter(|c| c.is_alphabetic()).count();
    let symbols = value
        .chars()
        .filter(|c| matches!(c, '!' | '@' | '#' | '$' | '%' | '^' | '&' | '*' | '+' | '=' | '?' | '_'))
        .count();
    let is_path = value.contains("://") || value.starts_with(['/', '\\', '<', '%']);
    let short_number = letters == 0 && symbols == 0 && digits < 4;
    let is_protocol = value.to_ascii_lowercase().starts_with("oauth");
    !is_path && !short_number && !is_protocol && ((digits > 0) || (symbols > 0 && letters > 3 && !value.contains('/')))
}

/// What follows ends the line or the clause.
fn ends_a_phrase(rest: &str) -> bool {
    let rest = rest.trim_start_matches([' ', '"', '\'', '”', '»', '.']);
    rest.is_empty() || rest.starts_with(['\n', ',', ';', ')'])
}

/// A single word after "password:" that names no method or state.
fn is_possible_word(value: &str) -> bool {
    const ABOUT: &str = "\
    normal none oauth2 oauth encrypted cifrada encriptada required requerida wrong incorrect incorrecta \
    correct correcta ok yes no sí si ninguna ninguno plain plaintext kerberos ntlm cleartext saved guardada \
    unknown empty vacía contraseña password same error failed sent normale normaal text tls ssl ssl/tls \
    starttls [customer] [helper] xxx xxxx xxxxx invalid inválida rejected rechazada denied here aquí below \
    abajo";
    let lower = value.to_lowercase();
    let plain = value.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'));
    plain
        && lower.len() >= 6
        && !ABOUT.split(' ').any(|word| word == lower)
        && !lower.chars().all(|c| matches!(c, 'x' | '*' | '-' | '_'))
}

/// Long strings that nobody writes: mixed letters and digits of high entropy, or 32 and more hexadecimal digits.
pub(super) fn random_tokens(text: &str, finds: &mut Vec<Found>) {
    for found in pattern!(r"[A-Za-z0-9+/_-]{20,}={0,2}").find_iter(text) {
        if is_random(found.as_str()) {
            push(finds, found.range(), PiiKind::Token);
        }
    }
}

fn is_random(value: &str) -> bool {
    if value.len() < 20 || is_uuid(value) {
        return false;
    }
    let hexadecimal = value.bytes().all(|b| b.is_ascii_hexdigit());
    let digits = value.bytes().filter(u8::is_ascii_digit).count();
    let upper = value.bytes().filter(u8::is_ascii_uppercase).count();
    let lower = value.bytes().filter(u8::is_ascii_lowercase).count();
    if hexadecimal {
        return value.len() >= 32 && digits < value.len() && digits > 0;
    }
    let separators = value.bytes().filter(|b| matches!(b, b'/' | b'-' | b'_')).count();
    digits >= 3
        && upper >= 3
        && lower >= 3
        && separators * 6 <= value.len()
        && entropy(value) >= 3.5
        && changes(value) * 4 >= value.len()
}

/// Extensions, crash reports and profiles are named by UUIDs that an answer may need.
fn is_uuid(value: &str) -> bool {
    pattern!(r"(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").is_match(value)
}

/// How often the class of character (upper, lower, digit) changes; low in words joined together.
fn changes(value: &str) -> usize {
    let class = |b: u8| (b.is_ascii_uppercase(), b.is_ascii_digit());
    value.as_bytes().windows(2).filter(|pair| class(pair[0]) != class(pair[1])).count()
}

/// Shannon entropy in bits per byte.
fn entropy(value: &str) -> f32 {
    let mut counts = [0u32; 256];
    for byte in value.bytes() {
        counts[usize::from(byte)] += 1;
    }
    let total = value.len() as f32;
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| *count as f32 / total)
        .map(|share| -share * share.log2())
        .sum()
}

/// Payment cards: 12 to 19 digits with a valid Luhn check digit (ISO/IEC 7812-1), of a known issuer or announced as a card.
pub(super) fn cards(text: &str, finds: &mut Vec<Found>) {
    for found in pattern!(r"\b\d(?:[ -]?\d){11,18}\b").find_iter(text) {
        let digits = digits_of(found.as_str());
        let announced = pattern!(r"(?:card|tarjeta|visa|mastercard|amex|maestro|\bcc|karte|carta|kaart)\D{0,20}$");
        let known = is_issuer(&digits) || announced.is_match(&before(text, found.start(), 32));
        if known && passes_luhn(&digits) {
            push(finds, found.range(), PiiKind::Card);
        }
    }
}

fn is_issuer(digits: &[u8]) -> bool {
    let head = digits.iter().take(4).fold(0u32, |number, digit| number * 10 + u32::from(*digit));
    let lengths = match head {
        4000..=4999 => &[13, 16, 19][..],
        2221..=2720 | 5100..=5599 => &[16],
        3400..=3499 | 3700..=3799 => &[15],
        3000..=3059 | 3600..=3699 | 3800..=3999 => &[14, 16],
        3528..=3589 | 6011 | 6440..=6599 | 6200..=6299 => &[16, 17, 18, 19],
        2131 | 1800 => &[15],
        5000..=5099 | 5600..=5899 | 6300..=6399 | 6700..=6799 => &[13, 14, 15, 16, 17, 18, 19],
        _ => return false,
    };
    lengths.contains(&digits.len())
}

fn passes_luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let value = u32::from(*digit) * if place % 2 == 1 { 2 } else { 1 };
            if value > 9 { value - 9 } else { value }
        })
        .sum();
    sum.is_multiple_of(10)
}

/// IBANs by the length of their country and ISO 7064 mod 97-10.
pub(super) fn ibans(text: &str, finds: &mut Vec<Found>) {
    for found in pattern!(r"(?i)\b[a-z]{2}\d{2}[ -]?[a-z0-9]{4}").find_iter(text) {
        let country = found.as_str().get(..2).unwrap_or_default().to_ascii_uppercase();
        let Some((_, length)) = IBAN_LENGTHS.iter().find(|(code, _)| *code == country) else { continue };
        let Some((end, iban)) = take_iban(text, found.start(), *length) else { continue };
        if passes_mod97(&iban) {
            push(finds, found.start()..end, PiiKind::Iban);
        }
    }
}

/// `length` letters and digits from `start`, single spaces and hyphens between them skipped; None when a word goes on.
fn take_iban(text: &str, start: usize, length: usize) -> Option<(usize, String)> {
    let mut iban = String::with_capacity(length);
    let mut separated = false;
    for (offset, character) in text[start..].char_indices().take(2 * length) {
        match character {
            c if c.is_ascii_alphanumeric() => {
                iban.push(c.to_ascii_uppercase());
                separated = false;
            }
            ' ' | '-' if !separated => separated = true,
            _ => return None,
        }
        if iban.len() == length {
            let end = start + offset + 1;
            let goes_on = text[end..].starts_with(|c: char| c.is_alphanumeric());
            return (!goes_on).then_some((end, iban));
        }
    }
    None
}

fn passes_mod97(iban: &str) -> bool {
    let (head, tail) = iban.split_at(4);
    let mut remainder = 0u32;
    for character in tail.chars().chain(head.chars()) {
        let Some(value) = character.to_digit(36) else { return false };
        remainder = (remainder * if value > 9 { 100 } else { 10 } + value) % 97;
    }
    remainder == 1
}

/// From the SWIFT IBAN registry.
const IBAN_LENGTHS: &[(&str, usize)] = &[
    ("AD", 24),
    ("AE", 23),
    ("AT", 20),
    ("BE", 16),
    ("BG", 22),
    ("BR", 29),
    ("CH", 21),
    ("CR", 22),
    ("CY", 28),
    ("CZ", 24),
    ("DE", 22),
    ("DK", 18),
    ("DO", 28),
    ("EE", 20),
    ("ES", 24),
    ("FI", 18),
    ("FR", 27),
    ("GB", 22),
    ("GI", 23),
    ("GR", 27),
    ("GT", 28),
    ("HR", 21),
    ("HU", 28),
    ("IE", 22),
    ("IL", 23),
    ("IS", 26),
    ("IT", 27),
    ("LI", 21),
    ("LT", 20),
    ("LU", 20),
    ("LV", 21),
    ("MC", 27),
    ("MT", 31),
    ("NL", 18),
    ("NO", 15),
    ("PL", 28),
    ("PT", 25),
    ("RO", 24),
    ("SA", 24),
    ("SE", 24),
    ("SI", 19),
    ("SK", 24),
    ("SM", 27),
    ("SV", 28),
    ("TR", 26),
    ("UA", 29),
];

/// Spanish DNI and NIE with their check letter, US social security numbers, and numbers named as a passport or identity card.
pub(super) fn identity_numbers(text: &str, finds: &mut Vec<Found>) {
    for found in pattern!(r"\b(?:[XYZxyz][ -]?\d{7}|\d{8}|\d{1,2}\.\d{3}\.\d{3})[ -]?[A-Za-z]\b").find_iter(text) {
        if passes_dni(found.as_str()) {
            push(finds, found.range(), PiiKind::Id);
        }
    }
    for found in pattern!(r"\b\d{3}-\d{2}-\d{4}\b").find_iter(text) {
        push(finds, found.range(), PiiKind::Id);
    }
    let named = pattern!(
        r"(?i)\b(?:passport|pasaporte|driver'?s? licen[cs]e|ssn|social security|dni|nie|nif)(?: (?:number|no\.?|num\.?|n[úu]mero|n[ºo°]\.?))?(?:\s?[:#]\s?| (?:is|es) | )([A-Z]{0,3}-?\d[A-Z0-9-]{4,14})\b"
    );
    for captures in named.captures_iter(text) {
        if let Some(value) = captures.get(1) {
            push(finds, value.range(), PiiKind::Id);
        }
    }
}

/// Check letter: the number modulo 23 in a fixed alphabet (Spanish Ministry of the Interior).
fn passes_dni(value: &str) -> bool {
    const LETTERS: &[u8; 23] = b"TRWAGMYFPDXBNJZSQVHLCKE";
    let first = match value.chars().next().map(|c| c.to_ascii_uppercase()) {
        Some('Y') => 1,
        Some('Z') => 2,
        _ => 0,
    };
    let number = digits_of(value).iter().fold(first, |number: u32, digit| number * 10 + u32::from(*digit));
    let letter = value.bytes().next_back().map(|b| b.to_ascii_uppercase());
    letter == LETTERS.get((number % 23) as usize).copied()
}

/// Public addresses of networks. Private ones and well-known name servers help an answer and identify nobody.
pub(super) fn ip_addresses(text: &str, finds: &mut Vec<Found>) {
    const KNOWN: &[&str] = &["8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9", "208.67.222.222", "208.67.220.220"];
    for found in pattern!(r"\b\d{1,3}(?:\.\d{1,3}){3}\b").find_iter(text) {
        let Ok(address) = found.as_str().parse::<Ipv4Addr>() else { continue };
        let goes_on = after(text, found.end(), 2)
            .strip_prefix('.')
            .is_some_and(|next| next.starts_with(|c: char| c.is_ascii_digit()));
        let longer = goes_on || text[..found.start()].ends_with(['.', '-']);
        let first = address.octets()[0];
        let local =
            address.is_private() || address.is_loopback() || address.is_link_local() || address.is_documentation();
        let special = first == 0 || first >= 224;
        let context = before(text, found.start(), 14);
        let version = ["version ", "versión ", "versione ", "ver. ", "v. ", "v", "build ", "release "]
            .iter()
            .any(|word| context.ends_with(word));
        if !local && !special && !version && !longer && !KNOWN.contains(&found.as_str()) {
            push(finds, found.range(), PiiKind::Ip);
        }
    }
    for found in pattern!(r"(?i)\b[23][0-9a-f]{3}(?::[0-9a-f]{0,4}){2,7}\b").find_iter(text) {
        if found.as_str().parse::<Ipv6Addr>().is_ok() {
            push(finds, found.range(), PiiKind::Ip);
        }
    }
}
