//! Words of a text as weighted terms for BM25, the same for every vector store.
//!
//! The weights are split so that a dot product gives the BM25 score: a document's term carries the saturated and
//! length-normalised frequency, the store multiplies the query's term by its inverse document frequency. Terms are
//! hashed to `u32`, so no dictionary has to be kept or migrated.

use std::collections::{BTreeMap, BTreeSet};

/// Version of the analysis; an index made with another one has to be rebuilt.
pub const ANALYSIS_VERSION: u32 = 1;
/// Saturation and length normalisation of Robertson and Zaragoza, "The Probabilistic Relevance Framework" (2009).
const K1: f32 = 1.2;
const B: f32 = 0.75;
/// Assumed mean length of a document in terms. Fixed, so that a document's weights do not depend on the others.
const AVERAGE_TERMS: f32 = 80.0;
/// Longer documents and queries are read up to here; a customer's essay does not get slower without end.
const MAX_DOCUMENT_TERMS: usize = 4096;
const MAX_QUERY_TERMS: usize = 256;
/// A longer first line is a body without a subject; what comes later in it does not count more.
const MAX_SUBJECT_TERMS: usize = 24;
/// A customer's subject is the request in a few words, a body tells its history; see `docs/retrieval-report.md`.
const SUBJECT_WEIGHT: f32 = 2.0;
/// Longer runs of letters are no words (base64, minified code).
const MAX_TERM_CHARS: usize = 48;

/// A sparse vector: strictly increasing indices, one positive value for each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SparseTerms {
    pub indices: Vec<u32>,
    pub values: Vec<f32>,
}

impl SparseTerms {
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }
}

/// Terms of a stored text with `tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / average))`.
pub fn document_terms(text: &str, language: &str) -> SparseTerms {
    let terms = analyze(text, language, MAX_DOCUMENT_TERMS);
    let mut frequencies: BTreeMap<u32, f32> = BTreeMap::new();
    for term in &terms {
        *frequencies.entry(hash(term)).or_default() += 1.0;
    }
    let length_factor = K1 * (1.0 - B + B * terms.len() as f32 / AVERAGE_TERMS);
    let (indices, values) =
        frequencies.into_iter().map(|(index, tf)| (index, tf * (K1 + 1.0) / (tf + length_factor))).unzip();
    SparseTerms { indices, values }
}

/// Distinct terms of a request with their weights: `SUBJECT_WEIGHT` for those of its subject, which is the first line where
/// another one follows, and 1 for all others; the store multiplies by [`idf`].
pub fn query_terms(text: &str, language: &str) -> SparseTerms {
    let distinct: BTreeSet<u32> = analyze(text, language, MAX_QUERY_TERMS).iter().map(|term| hash(term)).collect();
    let subject = match text.split_once('\n') {
        Some((subject, body)) if !body.trim().is_empty() => analyze(subject, language, MAX_SUBJECT_TERMS),
        _ => Vec::new(),
    };
    let subject: BTreeSet<u32> = subject.iter().map(|term| hash(term)).collect();
    let weight = |term: &u32| if subject.contains(term) { SUBJECT_WEIGHT } else { 1.0 };
    let values = distinct.iter().map(weight).collect();
    SparseTerms { indices: distinct.into_iter().collect(), values }
}

/// Inverse document frequency of a term that `containing` of `total` documents hold; never negative. The formula is
/// the one of Qdrant's sparse-vector modifier `idf`, so that all stores score alike.
pub fn idf(total: usize, containing: usize) -> f32 {
    let (total, containing) = (total as f32, containing as f32);
    ((total - containing + 0.5) / (containing + 0.5) + 1.0).ln()
}

/// Terms of `text` in order: lower case, accents folded, stop words of both languages dropped, light stems. Error
/// codes, versions and dotted or underscored keys stay whole (and give their parts besides). A text in an unknown
/// language gives the Spanish and the English stem of each word; other languages are stemmed as English, which is
/// what the technical words in them are.
pub fn analyze(text: &str, language: &str, limit: usize) -> Vec<String> {
    let mut terms = Vec::new();
    for chunk in text.split(char::is_whitespace) {
        if terms.len() >= limit {
            break;
        }
        push_chunk(chunk, language, &mut terms);
    }
    terms.truncate(limit);
    terms
}

fn push_chunk(chunk: &str, language: &str, terms: &mut Vec<String>) {
    // A word without spaces that long is data; its head is enough.
    let head: String = chunk.chars().take(256).collect();
    let folded = fold(&head);
    let trimmed = folded.trim_matches(|c: char| !c.is_alphanumeric());
    if trimmed.is_empty() {
        return;
    }
    if is_code(trimmed) {
        terms.push(trimmed.to_owned());
    }
    for word in trimmed.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '’') {
        if word != trimmed || !is_code(trimmed) {
            push_word(word, language, terms);
        }
    }
}

fn push_word(word: &str, language: &str, terms: &mut Vec<String>) {
    let word = word.trim_matches(['\'', '’']);
    let word = word.strip_suffix("'s").or_else(|| word.strip_suffix("’s")).unwrap_or(word);
    let word: String = word.chars().filter(|c| c.is_alphanumeric()).collect();
    if word.chars().any(is_ideograph) {
        // Chinese and Japanese write no spaces: every character is a term.
        terms.extend(word.chars().map(String::from));
        return;
    }
    let length = word.chars().count();
    let lone_digit = length == 1 && word.chars().all(|c| c.is_ascii_digit());
    if (length < 2 && !lone_digit) || length > MAX_TERM_CHARS || is_stop_word(&word) {
        return;
    }
    match language {
        "es" => terms.push(stem_es(&word)),
        "und" => {
            let (spanish, english) = (stem_es(&word), stem_en(&word));
            if spanish != english {
                terms.push(spanish);
            }
            terms.push(english);
        }
        _ => terms.push(stem_en(&word)),
    }
}

fn is_ideograph(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}')
}

/// Error codes (`0x80004005`), status codes with dots (`5.7.1`), versions (`115.3.1esr`), keys (`mail.server.default`,
/// `NS_ERROR_FAILURE`): one joined piece in which a digit or two joints show that it is no plain word.
fn is_code(chunk: &str) -> bool {
    if chunk.len() > MAX_TERM_CHARS || !chunk.is_ascii() || chunk.contains("://") || chunk.contains('@') {
        return false;
    }
    let joints = chunk.chars().filter(|c| matches!(c, '.' | '_' | ':')).count();
    let has_digit = chunk.chars().any(|c| c.is_ascii_digit());
    let has_letter = chunk.chars().any(|c| c.is_ascii_alphabetic());
    let plain = chunk.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-'));
    plain && ((has_digit && (joints > 0 || has_letter)) || (joints >= 2 && has_letter))
}

/// Lower case without accents: `Contraseña` and `contrasena` are the same word to people in a hurry.
pub fn fold(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for c in text.chars().flat_map(char::to_lowercase) {
        match c {
            '\u{300}'..='\u{36f}' | '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{feff}' => {}
            'á' | 'à' | 'â' | 'ä' | 'ã' | 'å' | 'ā' | 'ă' | 'ą' => folded.push('a'),
            'é' | 'è' | 'ê' | 'ë' | 'ē' | 'ė' | 'ę' | 'ě' => folded.push('e'),
            'í' | 'ì' | 'î' | 'ï' | 'ī' | 'į' | 'ı' => folded.push('i'),
            'ó' | 'ò' | 'ô' | 'ö' | 'õ' | 'ø' | 'ō' | 'ő' => folded.push('o'),
            'ú' | 'ù' | 'û' | 'ü' | 'ū' | 'ů' | 'ű' => folded.push('u'),
            'ñ' | 'ń' | 'ň' => folded.push('n'),
            'ç' | 'ć' | 'č' => folded.push('c'),
            'ý' | 'ÿ' => folded.push('y'),
            'š' | 'ś' | 'ş' => folded.push('s'),
            'ž' | 'ź' | 'ż' => folded.push('z'),
            'ß' => folded.push_str("ss"),
            'æ' => folded.push_str("ae"),
            'œ' => folded.push_str("oe"),
            other => folded.push(other),
        }
    }
    folded
}

/// Light English stem: plural, `-ing`, `-ed`, final `-e` and `-y`. Expects folded lower case.
fn stem_en(word: &str) -> String {
    if word.len() < 4 || !word.bytes().all(|b| b.is_ascii_lowercase()) {
        return word.to_owned();
    }
    let singular = match word {
        w if w.ends_with("sses") => &w[..w.len() - 2],
        w if w.ends_with("ies") && w.len() > 4 => return format!("{}i", &w[..w.len() - 3]),
        w if w.ends_with("ss") || w.ends_with("us") || w.ends_with("is") => w,
        w => w.strip_suffix('s').unwrap_or(w),
    };
    let root = ["ing", "ed"]
        .iter()
        .find_map(|ending| singular.strip_suffix(ending))
        .filter(|root| root.len() >= 3 && root.bytes().any(is_vowel))
        .unwrap_or(singular);
    let root = if root.len() < singular.len() { undouble(root) } else { root };
    let root = root.strip_suffix('e').filter(|r| r.len() >= 3).unwrap_or(root);
    match root.strip_suffix('y') {
        Some(stem) if stem.len() >= 3 => format!("{stem}i"),
        _ => root.to_owned(),
    }
}

fn is_vowel(letter: u8) -> bool {
    matches!(letter, b'a' | b'e' | b'i' | b'o' | b'u' | b'y')
}

/// `stopp` (from `stopped`) is `stop`; `install`, `pass` and `buzz` keep their double letter.
fn undouble(root: &str) -> &str {
    match root.as_bytes() {
        [.., a, b] if a == b && !is_vowel(*a) && !matches!(a, b'l' | b's' | b'z') => &root[..root.len() - 1],
        _ => root,
    }
}

/// Light Spanish stem: plural, gender, the commonest verb endings and pronouns hung on infinitives. Expects folded
/// lower case. Endings are of our own choosing after Savoy's light stemmer ("Light stemming approaches for the French,
/// Portuguese, German and Hungarian languages" and its Spanish companion, 2006).
fn stem_es(word: &str) -> String {
    if word.len() < 4 || !word.bytes().all(|b| b.is_ascii_lowercase()) {
        return word.to_owned();
    }
    let word = without_pronoun(word);
    let singular = match word {
        w if w.ends_with("ces") && w.len() > 5 => return format!("{}z", &w[..w.len() - 3]),
        w if w.ends_with("ss") || w.ends_with("us") || w.ends_with("is") => w,
        w if ["ores", "ones", "ales", "ades", "eles", "enes"].iter().any(|e| w.ends_with(e)) && w.len() > 6 => {
            &w[..w.len() - 2]
        }
        w => w.strip_suffix('s').unwrap_or(w),
    };
    const ENDINGS: [&str; 14] = [
        "amiento", "imiento", "aciones", "acion", "mente", "iendo", "ando", "ado", "ada", "ido", "ida", "ar", "er",
        "ir",
    ];
    for ending in ENDINGS {
        if let Some(root) = singular.strip_suffix(ending).filter(|root| root.len() >= 4) {
            return root.trim_end_matches(['a', 'e', 'o']).to_owned();
        }
    }
    let root = singular.strip_suffix(['a', 'e', 'o']).filter(|root| root.len() >= 3).unwrap_or(singular);
    root.to_owned()
}

/// `enviarme`, `abrirlo`, `enviandolos`: the verb without the pronoun.
fn without_pronoun(word: &str) -> &str {
    const PRONOUNS: [&str; 11] = ["nos", "los", "las", "les", "me", "te", "se", "lo", "la", "le", "os"];
    for pronoun in PRONOUNS {
        if let Some(verb) = word.strip_suffix(pronoun)
            && verb.len() >= 5
            && ["ar", "er", "ir", "ando", "iendo"].iter().any(|ending| verb.ends_with(ending))
        {
            return verb;
        }
    }
    word
}

/// Words of both languages that say nothing about a problem, accents folded, sorted. Courtesies are among them: every
/// request has some.
fn is_stop_word(word: &str) -> bool {
    STOP_WORDS.binary_search(&word).is_ok()
}

#[rustfmt::skip]
const STOP_WORDS: &[&str] = &[
    "a", "about", "above", "after", "again", "against", "al", "algo", "algun", "alguna", "algunas", "alguno",
    "algunos", "all", "also", "am", "an", "and", "ante", "antes", "any", "anyone", "aqui", "are", "arent", "as",
    "asi", "at", "aun", "ayuda", "bajo", "be", "because", "been", "before", "being", "below", "between", "bien",
    "both", "buenas", "buenos", "but", "by", "cada", "can", "cant", "casi", "cheers", "como", "con", "contra",
    "cordial", "could", "couldn", "cual", "cuales", "cuando", "de", "dear", "del", "desde", "dias", "did", "didn",
    "didnt", "do", "does", "doesn", "doesnt", "doing", "don", "donde", "dont", "dos", "down", "during", "e", "each",
    "el", "ella", "ellas", "ello", "ellos", "en", "entre", "era", "eran", "es", "esa", "esas", "ese", "eso", "esos",
    "esta", "estaba", "estaban", "estan", "estar", "estas", "este", "esto", "estos", "estoy", "favor", "few", "for",
    "from", "fue", "fueron", "further", "gracias", "ha", "habia", "had", "hadn", "han", "has", "hasn", "hasta",
    "have", "haven", "having", "hay", "he", "hello", "help", "hemos", "her", "here", "hers", "hey", "hi", "him",
    "his", "hola", "how", "i", "if", "im", "in", "into", "is", "isn", "isnt", "it", "its", "itself", "ive", "just",
    "la", "las", "le", "les", "ll", "lo", "los", "mas", "me", "mi", "mis", "more", "most", "mucho", "muchos", "muy",
    "my", "myself", "nada", "ni", "no", "noches", "nor", "nos", "nosotros", "not", "o", "of", "off", "on", "once",
    "only", "or", "os", "other", "otra", "otras", "otro", "otros", "our", "out", "over", "own", "para", "pero",
    "please", "poco", "podria", "por", "porque", "puedo", "pues", "que", "quien", "quisiera", "re", "regards",
    "saludos", "same", "se", "sea", "ser", "she", "should", "shouldn", "si", "sido", "sin", "so", "sobre", "solo",
    "some", "son", "soy", "su", "such", "sus", "tal", "tambien", "tan", "tanto", "tardes", "te", "tengo", "than",
    "thank", "thanks", "that", "the", "their", "them", "then", "there", "these", "they", "this", "those", "through",
    "ti", "tiene", "tienen", "to", "toda", "todas", "todo", "todos", "too", "tras", "tu", "tus", "un", "una", "unas",
    "under", "uno", "unos", "until", "up", "usted", "ustedes", "va", "ve", "very", "vez", "voy", "was", "wasn", "we",
    "were", "weren", "what", "when", "where", "which", "while", "who", "whom", "why", "will", "with", "won", "wont",
    "would", "wouldn", "y", "ya", "yo", "you", "your", "yours",
];

/// FNV-1a (Fowler, Noll, Vo), 32 bits: stable over versions and machines.
fn hash(term: &str) -> u32 {
    term.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(text: &str, language: &str) -> Vec<String> {
        analyze(text, language, 1000)
    }

    #[test]
    fn spanish_words_meet_whatever_their_accents_and_endings() {
        assert_eq!(terms("contraseña", "es"), terms("CONTRASENAS", "es"));
        assert_eq!(terms("correo", "es"), terms("correos", "es"));
        assert_eq!(terms("enviar enviando enviado enviados enviarme", "es"), vec!["envi"; 5]);
        assert_eq!(terms("conexión", "es"), terms("conexiones", "es"));
        assert_eq!(terms("buzón", "es"), terms("buzones", "es"));
        assert_ne!(terms("correo", "es"), terms("cuenta", "es"));
    }

    #[test]
    fn english_words_meet_whatever_their_endings() {
        assert_eq!(terms("delete deleted deleting deletes", "en"), vec!["delet"; 4]);
        assert_eq!(terms("stopped stopping stops", "en"), vec!["stop"; 3]);
        assert_eq!(terms("installed installs", "en"), vec!["install"; 2]);
        assert_eq!(terms("copies copy", "en"), vec!["copi"; 2]);
        assert_eq!(terms("pass passes", "en")[0], "pass");
    }

    #[test]
    fn codes_versions_and_keys_stay_whole() {
        assert!(terms("error 0x80004005.", "en").contains(&"0x80004005".to_owned()));
        let bounce = terms("550 5.7.1 rejected", "en");
        assert!(bounce.contains(&"550".to_owned()) && bounce.contains(&"5.7.1".to_owned()));
        assert!(
            terms("set mail.server.default.timeout to 60", "en").contains(&"mail.server.default.timeout".to_owned())
        );
        assert!(terms("(NS_ERROR_FAILURE)", "es").contains(&"ns_error_failure".to_owned()));
        assert!(terms("versión 115.3.1", "es").contains(&"115.3.1".to_owned()));
    }

    #[test]
    fn an_unknown_language_meets_both() {
        let unknown = terms("contraseñas", "und");
        assert!(unknown.contains(&terms("contraseña", "es")[0]));
        assert!(terms("deleted", "und").contains(&terms("delete", "en")[0]));
    }

    #[test]
    fn stop_words_are_sorted_and_leave_nothing() {
        assert!(STOP_WORDS.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(STOP_WORDS.iter().all(|word| fold(word) == *word));
        assert!(query_terms("the and of it is", "en").is_empty());
        assert!(query_terms("y de la que no", "es").is_empty());
    }

    #[test]
    fn the_subject_counts_more_than_the_body() {
        let weights = |text: &str| {
            let terms = query_terms(text, "es");
            terms.indices.into_iter().zip(terms.values).collect::<BTreeMap<u32, f32>>()
        };
        let of = |word: &str| hash(&terms(word, "es")[0]);
        let request = weights("Buzón lleno\nEl buzón no recibe correo");
        assert_eq!((request[&of("buzón")], request[&of("lleno")], request[&of("correo")]), (2.0, 2.0, 1.0));
        assert!(
            weights("Buzón lleno").values().chain(weights("Buzón lleno\n \n").values()).all(|weight| *weight == 1.0)
        );
    }

    #[test]
    fn hostile_text_is_short_work() {
        assert!(query_terms("", "en").is_empty());
        assert!(query_terms("😀😀 🎉 \u{0} \u{202e}", "en").is_empty());
        assert!(query_terms(&"a".repeat(1 << 20), "en").is_empty());
        assert!(query_terms(&"word ".repeat(1 << 18), "es").indices.len() == 1);
        let noise: String = (0..200_000).map(|i| format!("w{i} ")).collect();
        assert!(query_terms(&noise, "en").indices.len() <= MAX_QUERY_TERMS);
        assert!(document_terms(&noise, "en").indices.len() <= MAX_DOCUMENT_TERMS);
        assert_eq!(terms("שלום עולם", "he").len(), 2);
        assert_eq!(terms("密码", "zh").len(), 2);
        assert!(!terms("don’t won't ñ’s", "en").iter().any(String::is_empty));
    }

    #[test]
    fn weights_follow_the_formula() {
        let one = document_terms("kettle", "en");
        let expected = 2.2 / (1.0 + 1.2 * (0.25 + 0.75 / AVERAGE_TERMS));
        assert!((one.values[0] - expected).abs() < 1e-6);
        let twice = document_terms("kettle kettle", "en");
        assert!(twice.values[0] > one.values[0] && twice.values[0] < 2.2);
        assert!((idf(10, 1) - (9.5f32 / 1.5 + 1.0).ln()).abs() < 1e-6);
        assert!(idf(10, 10) > 0.0);
    }
}
