//! The finders of [`super::scrub`] that look for people: telephone numbers, postal addresses and names.
//!
//! None of these has a check digit, so the shape and the words around it decide. Without a dictionary of names only
//! names in greetings, closings and introductions are found.

use super::scrub::{Found, PiiKind};
use super::scrub_finders::{after, before, digits_of, push};

/// International, Spanish, North American and other national formats; anything of 7 digits and more after a word that
/// announces a telephone number.
pub(super) fn phones(text: &str, finds: &mut Vec<Found>) {
    let shape =
        pattern!(r"(?:\+|\(|\b)\d(?:[ \t().\-/\u{2010}-\u{2014}]{0,2}\d){6,16}(?:\s?(?:x|ext\.?)\s?\d{1,5})?\b");
    for found in shape.find_iter(text) {
        let mut range = found.range();
        let unbalanced = found.as_str().starts_with('(') && !found.as_str().contains(')');
        if unbalanced {
            range.start += 1;
        }
        let joined = text[..range.start]
            .ends_with(|c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '/' | '_' | '#' | '=' | ':'))
            || pattern!(r"\d,$").is_match(&text[..range.start])
            || after(text, range.end, 1)
                .starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '/' | '%' | '€' | '$'));
        if !joined && is_phone(&text[range.clone()], &before(text, range.start, 28), &after(text, range.end, 12)) {
            push(finds, range, PiiKind::Phone);
        }
    }
}

fn is_phone(shown: &str, context: &str, following: &str) -> bool {
    let announced = pattern!(
        r"(?:tel[eé]?f?(?:ono)?s?|phone|call|cell|mobile|m[oó]vil|celular|whats\s?app|fax|ll[aá]m\w*|contact\w*|ring|sms|text|reach|number (?:is|at)|tlf|tfno|answering at)\b\D{0,14}$"
    )
    .is_match(context);
    let other_number = pattern!(r"(?:bug|error|c[oó]digo|code|id|ticket|pedido|order|caso|case|n[uú]m(?:ero)?\.? de (?:pedido|serie|caso)|serial|build|version|versi[oó]n|port|puerto|size|tama[nñ]o|thread|question|issue|answer|factura|invoice|account|cuenta|reference|referencia)\W{0,3}$")
        .is_match(context);
    let counted = pattern!(r"^\s?(?:bytes?|[kmgt]i?b\b|mails?|e-?mails?|messages?|mensajes?|correos?|files?|archivos?|ms\b|px\b|rows|euros?|eur\b|usd\b|dollars?)")
        .is_match(following);
    let base = shown.split(['x', 'e']).next().unwrap_or(shown);
    let digits = digits_of(base).len();
    if counted || !(7..=15).contains(&digits) || is_date_or_range(base) {
        return false;
    }
    if base.starts_with('+') || (base.starts_with("00") && digits >= 10) {
        return digits >= 8;
    }
    if announced {
        return !is_dotted_version(base);
    }
    if other_number {
        return false;
    }
    is_national(base, digits)
}

/// Formats that are telephone numbers even where no word says so.
fn is_national(shown: &str, digits: usize) -> bool {
    let spanish = pattern!(
        r"^\(?[6789]\d{2}\)?(?:[ .\-]\d{3}[ .\-]\d{3}|[ .\-]\d{2}[ .\-]\d{2}[ .\-]\d{2}|\d{6})$|^\(?[89]\d\)?[ .\-]\d{3}[ .\-]?\d{2}[ .\-]?\d{2}$"
    );
    let american = pattern!(r"^(?:1[ .\-])?(?:\(\d{3}\)\s?|\d{3}[ .\-])\d{3}[ .\-]\d{4}\s*$");
    let european = pattern!(r"^\(?0[1-9]\d{0,4}\)?(?:[ .\-/]{1,2}\d{2,8}){1,5}$");
    let trimmed = shown.trim();
    if spanish.is_match(trimmed) {
        // Nine digits in a row are a Spanish number only when they start as mobile and land lines do.
        return !trimmed.bytes().all(|b| b.is_ascii_digit())
            || trimmed.starts_with(['6', '7', '9']) && !is_sequence(trimmed);
    }
    american.is_match(trimmed) || ((9..=12).contains(&digits) && european.is_match(trimmed))
}

/// "987654321" is somebody's example, not a number.
fn is_sequence(digits: &str) -> bool {
    let bytes = digits.as_bytes();
    bytes.windows(2).all(|pair| pair[0].abs_diff(pair[1]) == 1) || bytes.windows(2).all(|pair| pair[0] == pair[1])
}

fn is_date_or_range(shown: &str) -> bool {
    pattern!(r"\b(?:19|20)\d{2}[-/. ](?:0?[1-9]|1[0-2])[-/. ](?:0?[1-9]|[12]\d|3[01])\b|\b(?:0?[1-9]|[12]\d|3[01])[-/. ](?:0?[1-9]|[12]\d|3[01])[-/. ](?:19|20)?\d{2}\b|^(?:19|20)\d{2}\s?[-/]\s?(?:19|20)\d{2}$")
        .find(shown)
        .is_some_and(|date| date.start() == 0)
}

fn is_dotted_version(shown: &str) -> bool {
    pattern!(r"^\d{1,4}(?:\.\d{1,5}){1,5}$").is_match(shown)
        && !pattern!(r"^\d{2,3}(?:\.\d{2,4}){2,4}$").is_match(shown)
}

/// Street and number, post box: best effort, in Spanish and English order and a few neighbours'.
pub(super) fn postal_addresses(text: &str, finds: &mut Vec<Found>) {
    let spanish = pattern!(
        r"(?x)
        (?: \b(?i:calle|avda\.?|avenida|plaza|pza\.?|plza\.?|paseo|carrer|ctra\.?|carretera|ronda|traves[ií]a|urbanizaci[oó]n|camino|rue|piazza|viale|corso)
          | \b(?i:c/) | \bAv\. | \bUrb\. )
        \s* (?: (?:de|del|la|las|los|el|du|des|de\ la)\s+ ){0,3}
        (?: \p{Lu}[\p{L}.'’]* (?:\s+(?:(?:de|del|la|las|los|y|i)\s+){0,2}\p{Lu}[\p{L}.'’]*){0,4} )
        ,?\s* (?i:n[ºo°úu]m?\.?\s*|n\.?º\s*)? \d{1,4}\b
        (?: ,?\s*(?i:piso\ |planta\ |puerta\ |esc(?:alera)?\.?\ |port(?:al)?\.?\ |bajo\b)?\d{0,2}\s?[ºª°]\s?(?:[A-Z]\b|(?i:izq|dcha|derecha|izquierda)\w*\.?)? ){0,3}
        (?: ,?\s*(?:CP\s*)?\d{5}\b (?: ,?\s*\p{Lu}\p{L}+(?:\s\p{Lu}\p{L}+)? )? )?"
    );
    let english = pattern!(
        r"(?x)
        \b\d{1,5}[A-Za-z]?\s+ (?: (?:\p{Lu}[\p{L}'’.-]*|\d{1,3}(?:st|nd|rd|th))\s+ ){1,4}
        (?: Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Way|Place|Square|Sq|Terrace|Highway|Hwy|Parkway|Pkwy|Circle|Crescent|Close )\b\.?
        (?: ,?\s*(?:Apt|Apartment|Suite|Ste|Unit|Flat|\#)\.?\s*[A-Za-z]?\d{1,5}[A-Za-z]? )?
        (?: ,?\s+\p{Lu}[\p{L}.]+(?:\s\p{Lu}[\p{L}.]+){0,2},?\s+(?:[A-Z]{2}\s+)?\d{5}(?:-\d{4})?\b )?"
    );
    let german = pattern!(r"\b\p{Lu}\p{Ll}+(?:straße|strasse|gasse|weg|platz|allee|straat|laan)\s+\d{1,4}[a-z]?\b");
    let boxes = pattern!(
        r"(?i)\b(?:p\.?\s?o\.?\s?box|apartado(?: de correos)?|apdo\.?)\s+\d{1,6}\b|\bPSC \d+, Box \d+|\b(?:Apt\.|Suite) \d{2,5}\b"
    );
    for found in spanish.find_iter(text) {
        // The word for the street stays: a readable sentence, and nothing personal.
        let after_word = found.as_str().split_once(|c: char| c.is_whitespace() || c == '/').map(|(_, rest)| rest);
        let rest = after_word.unwrap_or(found.as_str()).trim_start();
        push(finds, found.end() - rest.len()..found.end(), PiiKind::Address);
    }
    for found in english.find_iter(text).filter(|found| !names_a_drive(found.as_str())) {
        push(finds, found.range(), PiiKind::Address);
    }
    for found in german.find_iter(text).chain(boxes.find_iter(text)) {
        push(finds, found.range(), PiiKind::Address);
    }
}

/// "2 Google Drive folders" is no street.
fn names_a_drive(shown: &str) -> bool {
    pattern!(r"\b(?:Google|Hard|Proton|Network|External|USB|Flash|Disk|Cloud|Easy|Quick|Simple|Different|Microsoft|Thumb|One|Shared|Only|Right|Wrong|Best|Long)\s+(?:Drive|Way|Place|Dr|Close)\b")
        .is_match(shown)
}

/// Words in capitals that follow a greeting or a closing and are nobody's name.
const NO_NAME: &str = "\
    all there everyone everybody team support mozilla thunderbird firefox sir madam folks guys friends \
    community forum equipo todos todas soporte señor señores señora sres comunidad amigos amigo buenas buenos \
    buen tengo tras desde cuando me mi my no yes i in on it the this that a an and or if for to you your we \
    is are please thanks thank hello hi help hola gracias muchas saludos un una el la los las por para en con \
    de si sí se lo ya hay he his her again experts expert outlook gmail google microsoft windows linux mac \
    apple yahoo kind best regards many so much advance cheers edit ps customer helper name web dear hey good \
    morning afternoon evening día días tardes noches anyway but also after when since how what why where can \
    does do have using solved as at by not any just from with moderator moderators admin devs developers \
    people world";

/// Names in greetings, closings and introductions.
pub(super) fn names(text: &str, finds: &mut Vec<Found>) {
    let greeting = pattern!(
        r"(?m)(?:^|[.!?\n]\s?)(?i:hola|hi|hello|hey|dear|estimad[oa]|querid[oa]|apreciad[oa]|buenos d[ií]as|buenas tardes|buenas noches|buenas|good (?:morning|afternoon|evening)|ciao|bonjour|hallo|ol[aá]|buongiorno|salve)[ ,]{1,2}(\p{Lu}[\p{Ll}'’-]+(?: \p{Lu}[\p{Ll}'’-]+){0,2})\s*(?:[,!.:;)-]|\n|$)"
    );
    let introduced = pattern!(
        r"(?:\b(?i:my name is|my name's|me llamo|mi nombre es|mi chiamo|je m'appelle|mein name ist)\s+|\b(?:Mr|Mrs|Ms|Miss|Sr|Sra|Srta|Don|Doña)\.?\s+)(\p{Lu}[\p{L}'’-]+(?:\s(?:(?:de|del|la|van|von|der|di|da)\s){0,2}\p{Lu}[\p{L}'’-]+){0,3})"
    );
    let closing = pattern!(
        r"(?m)(?i:\b(?:saludos(?: cordiales)?|(?:un )?(?:cordial )?saludo|atentamente|cordialmente|(?:many |muchas |mil )?(?:thanks|gracias)(?: (?:in advance|de antemano|again|por todo|so much|y saludos|por adelantado))?|thank you(?: (?:in advance|so much|very much))?|thx|(?:best |kind |warm |with )?(?:regards|wishes)|cheers|best|sincerely(?: yours)?|yours(?: truly)?|greetings|grazie|cordiali saluti|saluti|merci|cordialement|groeten|groet|mvg)|^--)[ \t]*[,.!:;]*\s*[-–—~]{0,2}[ \t]*\n{0,2}[ \t]*(\p{Lu}[\p{L}'’.-]+(?:[ \t]+\p{Lu}[\p{L}'’.-]*){0,3})[ \t]*[.!,]?[ \t]*$"
    );
    let lower_closing = pattern!(
        r"(?i:\b(?:saludos|saludo|thanks|gracias|thank you|regards|cheers|atentamente)(?: in advance| de antemano)?)[,.! ]*\n{1,2}\s*[-–—]?\s*(\p{L}[\p{Ll}'’]{2,14})\s*$"
    );
    for captures in
        [greeting, introduced, closing, lower_closing].into_iter().flat_map(|pattern| pattern.captures_iter(text))
    {
        if let Some(name) = captures.get(1).filter(|name| is_name(name.as_str())) {
            let shown = name.as_str().trim_end_matches(['.', '-', '\'']);
            push(finds, name.start()..name.start() + shown.len(), PiiKind::Name);
        }
    }
}

fn is_name(shown: &str) -> bool {
    let words: Vec<String> =
        shown.split_whitespace().map(|word| word.trim_matches(['.', '-', '\'', '’']).to_lowercase()).collect();
    let shouted = shown.chars().filter(|c| c.is_alphabetic()).count() > 3
        && !shown.chars().any(char::is_lowercase)
        && words.len() > 3;
    words.iter().any(|word| !word.is_empty())
        && !shouted
        && !words.iter().any(|word| NO_NAME.split(' ').any(|other| other == word))
}
