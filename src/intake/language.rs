//! Which language a text is written in, by its author's own words.
//!
//! Two voices: lingua's n-gram models over sixteen languages, and counts of Spanish and English function words. The
//! second is what tells a mixed text, and what settles short ones.

use std::collections::HashSet;
use std::sync::LazyLock;

use lingua::{IsoCode639_1, LanguageDetector as Lingua, LanguageDetectorBuilder};
use regex::Regex;

use crate::ticket::Language;

/// What a text was found to be written in.
#[derive(Clone, Debug, PartialEq)]
pub struct Detected {
    /// [`Language::UNKNOWN`] when the text does not tell.
    pub language: Language,
    /// 0 to 1; lingua's relative confidence, or the share of function words where these decided.
    pub confidence: f32,
    /// A good part of the text is in the other one of Spanish and English.
    pub mixed: bool,
}

impl Detected {
    fn unknown() -> Self {
        Self { language: Language::UNKNOWN, confidence: 0.0, mixed: false }
    }
}

/// Detects languages. Cheap to copy: the models are shared by the process and loaded at first use.
#[derive(Clone, Copy, Debug, Default)]
pub struct LanguageDetector;

/// Characters of own words that are looked at; more text does not change the answer, only the time it takes.
const SAMPLE_CHARS: usize = 400;
/// Below this confidence a text of at most [`SHORT_WORDS`] words is not told.
const SHORT_CONFIDENCE: f64 = 0.50;
/// Below this confidence a longer text is not told.
const LONG_CONFIDENCE: f64 = 0.25;
/// What the models answer for Spanish and English texts when they are wrong.
const NEAR: &[&str] = &["es", "en", "ca", "pt"];
/// Words up to which a text counts as short.
const SHORT_WORDS: usize = 3;

/// High accuracy mode: one- to five-grams on short texts, about 45 MB in all.
static MODELS: LazyLock<Lingua> = LazyLock::new(|| {
    use lingua::Language as L;
    LanguageDetectorBuilder::from_languages(&[
        L::Arabic,
        L::Catalan,
        L::Chinese,
        L::Czech,
        L::Dutch,
        L::English,
        L::French,
        L::German,
        L::Hebrew,
        L::Hungarian,
        L::Italian,
        L::Japanese,
        L::Portuguese,
        L::Russian,
        L::Spanish,
        L::Turkish,
    ])
    .build()
});

impl LanguageDetector {
    /// Loads the models, so that the first customer does not wait for them. Takes about a tenth of a second.
    pub fn warm_up(self) {
        let text =
            "Hola, no puedo entrar en mi cuenta. Hello, I cannot get into my account. Bonjour, guten Tag, buongiorno.";
        let _ = self.detect(text);
    }

    /// The language of most of the author's own words; addresses, code and quoted messages do not count.
    pub fn detect(self, text: &str) -> Detected {
        let own = own_words(text);
        let enough = own.chars().filter(|c| c.is_alphabetic()).count() >= 12;
        // A message that is nothing but a quoted error still has a language.
        let own = sample(&if enough { own } else { fallback_words(head(text)) });
        let words = own.split_whitespace().filter(|word| word.chars().any(char::is_alphabetic)).count();
        if words == 0 {
            return Detected::unknown();
        }
        let votes = Votes::count(&own);
        let ranked = MODELS.compute_language_confidence_values(own.as_str());
        let Some((first, confidence)) = ranked.first().map(|(language, value)| (from_lingua(*language), *value)) else {
            return Detected::unknown();
        };
        let short = words <= SHORT_WORDS;
        // Other languages share words with these two: their counts say something only where the models are near.
        let mixed = first.is_supported() && votes.is_mixed();
        let unsure = confidence < 0.6 && NEAR.contains(&first.code());
        if let Some((language, share)) = votes.winner() {
            let most = votes.spanish.max(votes.english);
            let trusted = first.is_supported() || (confidence < 0.5 && most * 4 >= words);
            let clear = trusted && share >= 0.8 && most >= 3;
            if mixed || short || clear || unsure {
                return Detected { language, confidence: share, mixed };
            }
        }
        let needed = if short { SHORT_CONFIDENCE } else { LONG_CONFIDENCE };
        if confidence < needed {
            return Detected { mixed, ..Detected::unknown() };
        }
        Detected { language: first, confidence: confidence as f32, mixed }
    }
}

/// Whether a sentence or a reply is written in `language`, for checks of our own drafts. None when it cannot be told, as
/// in a sentence of nothing but menu names.
pub fn is_language(text: &str, language: &Language) -> Option<bool> {
    let own = own_words(text);
    if !language.is_supported() {
        let detected = LanguageDetector.detect(text);
        let told = own.split_whitespace().count() > SHORT_WORDS && detected.language != Language::UNKNOWN;
        return told.then(|| detected.language == *language);
    }
    let votes = Votes::count(&own);
    let of_language = if *language == Language::ES { votes.spanish } else { votes.english };
    let of_other = votes.spanish + votes.english - of_language;
    if of_language >= 1 && of_language > 2 * of_other {
        return Some(true);
    }
    if of_other >= 2 && of_other > 2 * of_language {
        return Some(false);
    }
    let words = own.split_whitespace().filter(|word| word.chars().filter(|c| c.is_alphabetic()).count() > 1).count();
    if words < 4 {
        return None;
    }
    let detected = LanguageDetector.detect(&own);
    let sure = detected.confidence >= 0.6 && !detected.mixed && detected.language != Language::UNKNOWN;
    sure.then(|| detected.language == *language)
}

fn from_lingua(language: lingua::Language) -> Language {
    let code: IsoCode639_1 = language.iso_code_639_1();
    Language::new(&code.to_string())
}

/// First part of a text, at most [`SAMPLE_CHARS`] characters, cut at a space.
fn sample(text: &str) -> String {
    let Some((end, _)) = text.char_indices().nth(SAMPLE_CHARS) else { return text.to_owned() };
    let head = &text[..end];
    head.rsplit_once(char::is_whitespace).map_or(head, |(kept, _)| kept).to_owned()
}

/// Most bytes that are looked at before the sample is taken.
const MAX_LOOKED_AT: usize = 3 * 1024;

/// The text without what its author did not write in a language: addresses, code, paths, placeholders, quoted messages
/// of programs, menu paths, names of things in capitals or with digits.
fn own_words(text: &str) -> String {
    static NOISE: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r#"(?x)
              \w+://\S+ | \bwww\.\S+ | \S+@\S+ | `[^`\n]{1,400}` | \[[^\]\n]{1,40}\]
            | "[^"\n]{12,300}" | “[^”\n]{12,300}” | «[^»\n]{12,300}»
            | \b[A-Za-z]:\\\S+ | (?:^|\s)[~.]?/\S+/\S* | \S+\.(?:com|org|net|exe|dll|js|msf|php|html?|log|json|sqlite)\b
            | \S*[_={}<>\\|]\S* | \S*\d\S* | \b\w+\.\w+\.\w[\w.]*
            "#,
        )
        .expect("constant pattern")
    });
    static MENU: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"[\p{L}\p{N}&.]+(?: [\p{L}\p{N}&.]+){0,2}(?:\s*(?:>+|→|➜|⇒|->|=>|»|≫)\s*[\p{Lu}\p{N}+☰≡][\p{L}\p{N}&./-]*)+").expect("constant pattern")
    });
    let without_menus = MENU.replace_all(head(text), " ");
    NOISE.replace_all(&without_menus, " ").into_owned()
}

/// The first [`MAX_LOOKED_AT`] bytes of a text.
fn head(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_LOOKED_AT)]
}

/// For texts with next to no words of their own: only addresses and words with digits go.
fn fallback_words(text: &str) -> String {
    text.split_whitespace()
        .filter(|word| !word.contains(['@', '/', '\\', '_', '[', '>']) && !word.chars().any(|c| c.is_ascii_digit()))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Spanish and English function words, as sets.
static FUNCTION_WORDS: LazyLock<(HashSet<&str>, HashSet<&str>)> =
    LazyLock::new(|| (SPANISH.split(' ').collect(), ENGLISH.split(' ').collect()));

/// How many function words of each language a text has.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Votes {
    spanish: usize,
    english: usize,
}

impl Votes {
    fn count(text: &str) -> Self {
        let mut votes = Self::default();
        for word in text.split(|c: char| !c.is_alphabetic() && c != '\'' && c != '’') {
            let word = word.to_lowercase().replace('’', "'");
            if FUNCTION_WORDS.0.contains(word.as_str()) {
                votes.spanish += 1;
            } else if FUNCTION_WORDS.1.contains(word.as_str()) {
                votes.english += 1;
            }
        }
        votes.spanish += text.matches(['¿', '¡']).count();
        votes
    }

    /// Both languages with at least three words and a quarter of all.
    fn is_mixed(self) -> bool {
        let fewer = self.spanish.min(self.english);
        fewer >= 3 && fewer * 4 >= self.spanish + self.english
    }

    /// The language with more function words and its share; None when there are none or as many of each.
    fn winner(self) -> Option<(Language, f32)> {
        let total = (self.spanish + self.english) as f32;
        match self.spanish.cmp(&self.english) {
            std::cmp::Ordering::Greater => Some((Language::ES, self.spanish as f32 / total)),
            std::cmp::Ordering::Less => Some((Language::EN, self.english as f32 / total)),
            std::cmp::Ordering::Equal => None,
        }
    }
}

/// Frequent words of Spanish that are words of no other supported language, with the words of short requests.
const SPANISH: &str = "\
    el los las una unos unas del al y que qué en por para con sin pero como cómo cuando cuándo donde dónde \
    porque es está están estoy esta este esto estos estas son ser hay ha han he hemos muy más también ya mi \
    mis su sus se lo le les nos puedo puede pueden puedes tengo tiene tienes quiero quisiera necesito hacer \
    hola gracias ayuda ayúdenme funciona correo correos cuenta contraseña saludos buenos buenas días tardes \
    favor alguien desde hasta todos todo nada ahora después si sí usted ustedes abre abra haz haga pulsa \
    pulse vaya ve seleccione selecciona compruebe comprueba vuelva vuelve entre urgente problema mensaje \
    mensajes carpeta tras sigue aparece sale escriba escribe elija elige";

/// Frequent words of English, likewise.
const ENGLISH: &str = "\
    the and of to is are was were be been it this that these those for with without but not you your my i i'm \
    i've we our they their have has had do does did don't doesn't can can't cannot could would should will \
    won't what when where why how which who if then from at by an on or as so there hello hi thanks thank \
    please help working work works account password any all some after before again about into out up only \
    just now it's open click select check go choose need want issue problem message messages folder try right \
    under still keep turn cant wont isn't urgent";

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(text: &str) -> String {
        LanguageDetector.detect(text).language.code().to_owned()
    }

    #[test]
    fn ordinary_requests() {
        assert_eq!(code_of("Desde ayer no puedo enviar correos, me pide la contraseña una y otra vez."), "es");
        assert_eq!(code_of("Since yesterday I cannot send any mail, it keeps asking for the password."), "en");
        assert_eq!(code_of("Da ieri non riesco più a inviare la posta, mi chiede sempre la password."), "it");
        assert_eq!(code_of("Seit gestern kann ich keine E-Mails mehr senden, es fragt immer nach dem Passwort."), "de");
        assert_eq!(code_of("لا أستطيع تسجيل الدخول إلى حسابي منذ أمس"), "ar");
        assert_eq!(code_of("昨日からメールを送信できません。パスワードを何度も求められます。"), "ja");
    }

    #[test]
    fn short_phrases() {
        for text in ["No funciona", "Hola", "Ayuda por favor", "¿Alguien me ayuda?", "no puedo entrar", "Gracias"] {
            assert_eq!(code_of(text), "es", "{text}");
        }
        for text in ["Help", "It does not work", "can't log in", "Hello", "Thanks", "not working!!"] {
            assert_eq!(code_of(text), "en", "{text}");
        }
    }

    #[test]
    fn nothing_to_tell() {
        for text in ["", "😡😡", "12345 67", "https://example.org/es/kb/algo", "ok", "[email] [phone]", "0x80070005"]
        {
            assert_eq!(code_of(text), "und", "{text}");
        }
    }

    #[test]
    fn own_words_count_and_not_the_quoted_error() {
        let text = "Me sale este error: \"The connection to the server was refused because the port is blocked by another program\" y no sé qué hacer";
        assert_eq!(code_of(text), "es");
    }

    #[test]
    fn mixed_text_follows_most_words_and_says_so() {
        let text = "Hola, no puedo abrir la cuenta desde ayer y tengo que enviar un documento por favor. I tried it with the new version but it was not working.";
        let detected = LanguageDetector.detect(text);
        assert_eq!(detected.language, Language::ES);
        assert!(detected.mixed);
    }

    #[test]
    fn a_sentence_of_menu_names_tells_nothing() {
        assert_eq!(is_language("Tools > Account Settings > Server Settings", &Language::ES), None);
        assert_eq!(is_language("Abra Settings > General y pulse el botón.", &Language::ES), Some(true));
        assert_eq!(is_language("Open the settings and choose the account.", &Language::ES), Some(false));
        assert_eq!(is_language("Open the settings and choose the account.", &Language::EN), Some(true));
        assert_eq!(is_language("[1]", &Language::EN), None);
    }

    #[test]
    fn hostile_input_is_cut() {
        let started = std::time::Instant::now();
        for text in ["a".repeat(1 << 20), "é > ".repeat(300_000), "\" ".repeat(500_000), "\u{202e}".repeat(300_000)] {
            let _ = LanguageDetector.detect(&text);
            let _ = is_language(&text, &Language::ES);
        }
        assert!(started.elapsed().as_secs() < 20, "took {:?}", started.elapsed());
    }
}
