//! Text as support people write it: sentences, folded words, light stems and a cheap language guess, in English and
//! Spanish.
//!
//! Everything here is linear in its input, never fails, and knows no dictionary: it serves overlap and position, not
//! grammar.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

/// Characters that one model token stands for, on average over English and Spanish support text (Qwen2.5 vocabulary).
const CHARS_PER_TOKEN: f32 = 3.6;

/// Abbreviations after which a full stop does not end a sentence; folded, without the stop.
const ABBREVIATIONS: &[&str] = &[
    "e.g", "i.e", "eg", "ie", "vs", "approx", "mr", "mrs", "ms", "dr", "prof", "st", "fig", "no", "nr", "vol", "ver",
    "cf", "p", "pp", "p.ej", "ej", "sr", "sra", "srta", "dra", "ud", "uds", "vd", "vds", "aprox", "num", "pag", "pags",
    "tel", "telf", "tfno", "ext", "art", "av", "avda", "ee", "incl", "min", "max", "inc", "ltd", "ca",
];

const STOP_WORDS: &str = "a about above after again all also am an and any are as at be because been before being but by can could did do does \
doing done down each even every few for from further get gets got had has have having he her here him his how i if in into is it its \
just let like may me might more most much must my no nor not now of off on once one only onto or other our out over own please same \
shall she should so some such than that the their them then there these they this those through to too under until up upon us very \
via was we well were what when where whether which while who whom why will with within without would you your yours \
hello hi hey dear regards thanks thank \
al algo algun alguna algunas alguno algunos ante antes aqui asi aun aunque bien cada como con cual cuales cualquier cuando cuanto de del \
desde donde dos e el ella ellas ello ellos en entre era eran eres es esa esas ese eso esos esta estaba estado estamos estan estar estas \
este esto estos estoy fue fueron ha haber habia hace hacia han has hasta hay he hemos la las le les lo los luego mas me mi mientras \
mis misma mismo mismos mucho muchos muy nada ni no nos nosotros nuestra nuestro o os otra otras otro otros para pero poco por porque \
pues que quien quienes se sea sean segun ser si sido sin sino sobre solo son soy su sus suya suyo tal tambien tampoco tan tanto te ti \
tiene tienen toda todas todavia todo todos tras tu tus u un una unas uno unos usted ustedes va vamos ya yo \
hola saludos gracias favor buenos buenas dias tardes";

/// Function words that tell one language from the others here; ambiguous ones (`no`, `a`, `me`) are left out.
const LANGUAGE_WORDS: &[(&str, &str)] = &[
    (
        "en",
        "the and is are you your of to in it that this with for not have be on from can if will we do does or when please an was but \
         there what which then them by should has been would could their our i",
    ),
    (
        "es",
        "el los las del y en por con para una su sus muy pero como mas este esta esto le lo hay si cuando donde tambien puede haga al \
         ya sin sobre entre desde usted que se es un la ha tu te tiene esa ese unos unas o de ver aqui",
    ),
    (
        "pt",
        "nao uma voce os do da em com seu sua mais isso tambem para que o um esta ao na no dos pelo pela obrigado de se",
    ),
    (
        "fr",
        "le les des est vous votre dans pour sur avec une et je ne pas que du au ce cette il sont plus ou la de un en",
    ),
    ("it", "il gli della che per con sono questo nel di non un una del alla dei piu si anche come lo la e ho"),
    ("de", "der die das und ist nicht sie ein eine mit zu auf den dem ich im von fur es auch wenn oder haben werden"),
];

static STOPS: LazyLock<HashSet<&'static str>> = LazyLock::new(|| STOP_WORDS.split_whitespace().collect());

/// True for words without content of their own; `word` is folded.
pub fn is_stop_word(word: &str) -> bool {
    STOPS.contains(word)
}

/// About how many model tokens `text` takes: one per 3.6 characters, rounded up.
pub fn estimate_tokens(text: &str) -> usize {
    (text.chars().count() as f32 / CHARS_PER_TOKEN).ceil() as usize
}

/// Number of words between white space.
pub fn count_words(text: &str) -> usize {
    text.split_whitespace().count()
}

/// Lower case without accents; typographic quotes, dashes and spaces become the plain ones; arrows of menu paths become
/// `>`; invisible characters go.
pub fn fold(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\u{300}'..='\u{36f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}'
            | '\u{feff}'
            | '\u{ad}' => {}
            '‘' | '’' | '‚' | '′' | '´' | '`' => folded.push('\''),
            '“' | '”' | '„' | '«' => folded.push('"'),
            '‐'..='―' | '−' => folded.push('-'),
            '→' | '⇒' | '›' | '»' | '➔' | '➜' | '▸' | '►' => folded.push('>'),
            '\u{a0}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{3000}' => folded.push(' '),
            '\u{ff01}'..='\u{ff5e}' => {
                let ascii = char::from_u32(character as u32 - 0xfee0).unwrap_or(character);
                folded.push(ascii.to_ascii_lowercase());
            }
            _ if character.is_ascii() => folded.push(character.to_ascii_lowercase()),
            _ => folded
                .extend(character.to_lowercase().map(without_accent).filter(|c| !('\u{300}'..='\u{36f}').contains(c))),
        }
    }
    folded
}

fn without_accent(character: char) -> char {
    match character {
        'á' | 'à' | 'â' | 'ä' | 'ã' | 'å' | 'ā' => 'a',
        'é' | 'è' | 'ê' | 'ë' | 'ē' => 'e',
        'í' | 'ì' | 'î' | 'ï' | 'ī' => 'i',
        'ó' | 'ò' | 'ô' | 'ö' | 'õ' | 'ō' => 'o',
        'ú' | 'ù' | 'û' | 'ü' | 'ū' => 'u',
        'ñ' => 'n',
        'ç' => 'c',
        other => other,
    }
}

/// Folded runs of letters and digits, in order.
pub fn words(text: &str) -> Vec<String> {
    fold(text).split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Stems of the words that carry content: no stop words, no single characters, no bare numbers.
pub fn content_stems(text: &str) -> Vec<String> {
    words(text)
        .iter()
        .filter(|word| word.chars().count() > 1 && !is_stop_word(word) && word.chars().any(char::is_alphabetic))
        .map(|word| stem(word))
        .collect()
}

/// Cuts the common inflections of English and Spanish from a folded word, so that `mensajes`/`mensaje`, `updated`/`update`
/// and `configuración`/`configurar` meet. It may also merge unrelated words: use it for overlap only.
pub fn stem(word: &str) -> String {
    const SUFFIXES: &[&str] = &[
        "amiento", "imiento", "acione", "acion", "mente", "iendo", "ando", "iese", "aron", "ieron", "aria", "eria",
        "ada", "ado", "ida", "ido", "arse", "erse", "irse", "arlo", "arla", "erlo", "erla", "irlo", "ing", "ed", "er",
        "ar", "ir", "an", "en", "ly", "a", "e", "o", "y",
    ];
    const SHORTEST_STEM: usize = 4;
    if !word.is_ascii() {
        return word.to_owned();
    }
    let singular = match word.strip_suffix('s') {
        Some(rest) if rest.len() >= SHORTEST_STEM - 1 && !rest.ends_with('s') => rest,
        _ => word,
    };
    let singular = match singular.strip_suffix('e') {
        Some(rest) if rest.ends_with("ion") => rest,
        _ => singular,
    };
    for suffix in SUFFIXES {
        if let Some(rest) = singular.strip_suffix(suffix)
            && rest.len() >= SHORTEST_STEM
        {
            return rest.to_owned();
        }
    }
    singular.to_owned()
}

/// Compiles a constant pattern for folded text with ASCII word boundaries: several times faster than Unicode ones, and folded
/// English and Spanish is ASCII.
///
/// # Panics
/// When `source` is no valid pattern; call it on constants only.
pub(crate) fn folded_pattern(source: &str) -> Regex {
    Regex::new(&source.replace(r"\b", r"(?-u:\b)").replace(r"\w", "[a-z0-9_]")).expect("constant pattern")
}

/// The language whose function words clearly prevail, if any; sees English, Spanish, Portuguese, French, Italian and
/// German only. Meant for single sentences, where a model is not worth its time.
pub fn guess_language(text: &str) -> Option<&'static str> {
    let scores = language_scores(text);
    let (best, hits) = scores.iter().max_by_key(|(_, hits)| *hits)?;
    let second = scores.iter().filter(|(code, _)| code != best).map(|(_, hits)| *hits).max().unwrap_or(0);
    (*hits >= 2 && *hits > second).then_some(*best)
}

/// Function words of each language that stand in `text`, by ISO code.
pub fn language_scores(text: &str) -> Vec<(&'static str, usize)> {
    static TABLES: LazyLock<Vec<(&'static str, HashSet<&'static str>)>> = LazyLock::new(|| {
        LANGUAGE_WORDS.iter().map(|(code, list)| (*code, list.split_whitespace().collect())).collect()
    });
    let words = words(text);
    TABLES
        .iter()
        .map(|(code, table)| (*code, words.iter().filter(|word| table.contains(word.as_str())).count()))
        .collect()
}

/// Sentences and list items of `text`, trimmed, in order.
pub fn sentences(text: &str) -> Vec<&str> {
    sentence_spans(text).into_iter().filter_map(|span| text.get(span)).collect()
}

/// Byte ranges of the sentences of `text`. What lies between two ranges is white space only.
///
/// A line break ends a sentence unless the next line goes on in lower case (a wrapped line). Full stops inside versions,
/// addresses and abbreviations, and the number of a list item, do not.
pub fn sentence_spans(text: &str) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    let mut start = 0;
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let end = at + character.len_utf8();
        let ends_here = match character {
            '\n' => ends_at_line_break(text, start, at, end),
            '.' | '!' | '?' | '…' | '。' | '؟' => ends_at_mark(text, start, at, end, character),
            ':' => opens_inline_list(text.get(end..).unwrap_or_default()),
            _ => false,
        };
        if ends_here {
            let end = end + closers_after(text, end);
            push_trimmed(text, start..end, &mut spans);
            start = end;
            while characters.peek().is_some_and(|(next, _)| *next < end) {
                characters.next();
            }
        }
    }
    push_trimmed(text, start..text.len(), &mut spans);
    spans
}

fn push_trimmed(text: &str, span: Range<usize>, spans: &mut Vec<Range<usize>>) {
    let Some(slice) = text.get(span.clone()) else { return };
    let trimmed = slice.trim_start();
    let start = span.end - trimmed.len();
    let trimmed = trimmed.trim_end();
    if trimmed.chars().any(char::is_alphanumeric) || !trimmed.is_ascii() {
        spans.push(start..start + trimmed.len());
    }
}

/// Bytes of closing quotes, brackets and further marks right after a sentence's end.
fn closers_after(text: &str, end: usize) -> usize {
    let rest = text.get(end..).unwrap_or_default();
    let closers = rest
        .chars()
        .take_while(|c| matches!(c, '.' | '!' | '?' | '…' | '"' | '”' | '»' | '’' | '\'' | ')' | ']'))
        .map(char::len_utf8);
    let bytes: usize = closers.sum();
    let bracket = rest.get(bytes..).unwrap_or_default();
    // A citation belongs to the sentence before it, also when it follows the full stop: `Do this. [1]`
    let citation = bracket.trim_start_matches([' ', '\u{a0}']);
    let blanks = bracket.len() - citation.len();
    match citation.split_once(']') {
        Some((inner, _)) if inner.len() > 1 && is_citation(inner) => bytes + blanks + inner.len() + 1,
        _ => bytes,
    }
}

fn is_citation(inner: &str) -> bool {
    inner.strip_prefix('[').is_some_and(|list| {
        !list.is_empty() && list.len() < 12 && list.chars().all(|c| c.is_ascii_digit() || matches!(c, ',' | ' ' | 'E'))
    })
}

/// `Do this: 1. Open it.`: the colon ends the introduction.
fn opens_inline_list(after: &str) -> bool {
    let item = after.trim_start();
    let digits = item.chars().take_while(char::is_ascii_digit).count();
    let marker = item.get(digits..).unwrap_or_default();
    item.len() < after.len() && (1..=2).contains(&digits) && (marker.starts_with(". ") || marker.starts_with(") "))
}

fn ends_at_line_break(text: &str, start: usize, at: usize, end: usize) -> bool {
    let before = text.get(start..at).unwrap_or_default().trim_end();
    let after = text.get(end..).unwrap_or_default();
    let next_line = after.lines().next().unwrap_or_default();
    let is_wrapped =
        next_line.starts_with(char::is_lowercase) && before.ends_with(|c: char| c.is_alphanumeric() || c == ',');
    !is_wrapped
}

fn ends_at_mark(text: &str, start: usize, at: usize, end: usize, mark: char) -> bool {
    let rest = text.get(end..).unwrap_or_default();
    let after = rest.get(closers_after(text, end)..).unwrap_or_default();
    let Some(next) = after.chars().next() else { return true };
    if !next.is_whitespace() {
        return false;
    }
    let upcoming = after.trim_start().chars().next().unwrap_or('A');
    if mark != '.' {
        return !(upcoming.is_lowercase() && mark == '…');
    }
    let before = text.get(start..at).unwrap_or_default();
    let last_word =
        before.rsplit(|c: char| c.is_whitespace() || matches!(c, '(' | '"' | '«')).next().unwrap_or_default();
    let is_list_number = before.trim().len() <= 2 && before.trim().chars().all(|c| c.is_ascii_digit());
    if is_list_number && !before.trim().is_empty() {
        return false;
    }
    let is_initial = last_word.chars().count() == 1 && last_word.chars().all(char::is_uppercase);
    let last_word = fold(last_word);
    let number_follows = upcoming.is_ascii_digit();
    // "no." is "number" before a digit, else the word.
    let is_abbreviation = ABBREVIATIONS.contains(&last_word.as_str()) && (last_word != "no" || number_follows);
    if is_abbreviation || is_initial {
        return false;
    }
    !upcoming.is_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_at_sentence_ends_only() {
        let text = "Abra Ajustes > General. Use la versión 115.3.1, p. ej. en Windows. ¿Funciona? Sí.";
        assert_eq!(
            sentences(text),
            ["Abra Ajustes > General.", "Use la versión 115.3.1, p. ej. en Windows.", "¿Funciona?", "Sí."]
        );
        let text = "See https://a.example/x.html. It helps, e.g. with Outlook. Mr. Bean agrees.";
        assert_eq!(
            sentences(text),
            ["See https://a.example/x.html.", "It helps, e.g. with Outlook.", "Mr. Bean agrees."]
        );
    }

    #[test]
    fn list_items_are_sentences_and_wrapped_lines_are_not() {
        let text = "Steps:\n1. Open it.\n2. Close it\n- again\nThis line is\nwrapped here.";
        assert_eq!(sentences(text), ["Steps:", "1. Open it.", "2. Close it", "- again", "This line is\nwrapped here."]);
        assert_eq!(sentences("First do: 1. Open it. 2. Close it."), ["First do:", "1. Open it.", "2. Close it."]);
    }

    #[test]
    fn citations_stay_with_their_sentence() {
        assert_eq!(sentences("Do this. [1] Then that [2]. End."), ["Do this. [1]", "Then that [2].", "End."]);
    }

    #[test]
    fn hostile_text_does_not_break_the_splitter() {
        assert!(sentences("").is_empty());
        assert!(sentences("...\n\n???").is_empty());
        assert_eq!(sentences("😀😀 مرحبا بك. שלום").len(), 2);
        let noise: String = (0..50_000_u32).map(|i| char::from_u32(i % 700).unwrap_or(' ')).collect();
        let spans = sentence_spans(&noise);
        assert!(spans.iter().all(|span| noise.get(span.clone()).is_some()));
    }

    #[test]
    fn folding_and_stems_meet_across_inflection() {
        assert_eq!(fold("Configuración → ＡＢＣ “x”\u{200b}"), "configuracion > abc \"x\"");
        for (one, other) in [
            ("mensajes", "mensaje"),
            ("updated", "updates"),
            ("configuracion", "configurar"),
            ("folders", "folder"),
            ("opciones", "opcion"),
        ] {
            assert_eq!(stem(one), stem(other), "{one} {other}");
        }
    }

    #[test]
    fn function_words_tell_the_language() {
        assert_eq!(guess_language("Abra los ajustes y elija la cuenta que usa para el correo"), Some("es"));
        assert_eq!(guess_language("Open the settings and choose the account you use for your mail"), Some("en"));
        assert_eq!(guess_language("Abra as configurações e escolha uma conta do seu e-mail, não a outra"), Some("pt"));
        assert_eq!(guess_language("OAuth2 IMAP 993"), None);
    }
}
