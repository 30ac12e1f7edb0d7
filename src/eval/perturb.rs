//! The same message, written otherwise: typing mistakes, missing accents, capitals, no punctuation, chat shorthand,
//! courtesies around it. Deterministic: the same text and seed give the same variants.

use fastrand::Rng;

/// A message in other words' clothes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    pub kind: Kind,
    pub subject: String,
    pub body: String,
}

/// What is done to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    FewTypos,
    ManyTypos,
    NoAccents,
    Capitals,
    Bare,
    Shorthand,
    Courtesies,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::FewTypos,
        Self::ManyTypos,
        Self::NoAccents,
        Self::Capitals,
        Self::Bare,
        Self::Shorthand,
        Self::Courtesies,
    ];

    /// What a person reads.
    pub fn name(self) -> &'static str {
        match self {
            Self::FewTypos => "a few typing mistakes",
            Self::ManyTypos => "many typing mistakes",
            Self::NoAccents => "missing accents",
            Self::Capitals => "all capitals",
            Self::Bare => "lower case without punctuation",
            Self::Shorthand => "chat shorthand",
            Self::Courtesies => "courtesies around it",
        }
    }

    /// Mistakes by letter; None for what does not make any.
    fn typo_rate(self) -> Option<f64> {
        match self {
            Self::FewTypos => Some(0.02),
            Self::ManyTypos => Some(0.06),
            _ => None,
        }
    }
}

/// `count` variants of a message. Each way of writing comes once, in an order that the seed decides, if it changes the
/// message at all (no accents, nothing to leave out); what is missing then are more typing mistakes. Fewer only where
/// nothing can be changed, as in a message of numbers.
pub fn variants(subject: &str, body: &str, language: &str, count: usize, seed: u64) -> Vec<Variant> {
    let mut rng = Rng::with_seed(seed);
    let mut kinds = Kind::ALL.to_vec();
    rng.shuffle(&mut kinds);
    // More rounds than variants: a round of typing mistakes may by chance write what another wrote.
    let more = [Kind::FewTypos, Kind::ManyTypos].into_iter().cycle().take(4 * count);
    let mut found: Vec<Variant> = Vec::new();
    for kind in kinds.into_iter().chain(more) {
        if found.len() == count {
            break;
        }
        let variant = Variant {
            kind,
            subject: rewrite(subject, kind, language, &mut rng),
            body: match kind {
                Kind::Courtesies => with_courtesies(body, language, &mut rng),
                _ => rewrite(body, kind, language, &mut rng),
            },
        };
        let changed = variant.subject != subject || variant.body != body;
        let twice = found.iter().any(|other| (&other.subject, &other.body) == (&variant.subject, &variant.body));
        if changed && !twice {
            found.push(variant);
        }
    }
    found
}

fn rewrite(text: &str, kind: Kind, language: &str, rng: &mut Rng) -> String {
    match kind {
        Kind::FewTypos | Kind::ManyTypos => {
            let rate = kind.typo_rate().unwrap_or_default();
            each_word(text, |word| typos(word, rate, rng))
        }
        Kind::NoAccents => each_word(text, without_accents),
        Kind::Capitals => each_word(text, str::to_uppercase),
        Kind::Bare => each_word(text, bare).split_whitespace().collect::<Vec<_>>().join(" "),
        Kind::Shorthand => shorthand(text, language),
        Kind::Courtesies => text.to_owned(),
    }
}

/// Rewrites the words and keeps the white space. What must not be mistyped stays as it is: addresses, links, paths,
/// versions, codes and numbers.
fn each_word(text: &str, mut rewrite: impl FnMut(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    for piece in text.split_inclusive(char::is_whitespace) {
        let word = piece.trim_end();
        out.push_str(&if is_fixed(word) { word.to_owned() } else { rewrite(word) });
        out.push_str(&piece[word.len()..]);
    }
    out
}

fn is_fixed(word: &str) -> bool {
    let core = word.trim_matches(|c: char| !c.is_alphanumeric());
    word.contains(['@', '/', '\\', '_', '=', '<', '>', '[', '{', '#', '$', '`'])
        || word.chars().any(char::is_numeric)
        || core.contains(['.', ':', '+'])
}

/// One mistake per `1 / rate` letters on average: a neighbouring key, a letter left out, doubled or swapped with the next.
fn typos(word: &str, rate: f64, rng: &mut Rng) -> String {
    let letters: Vec<char> = word.chars().collect();
    let mut out = String::with_capacity(word.len() + 4);
    let mut at = 0;
    while let Some(&letter) = letters.get(at) {
        at += 1;
        if !letter.is_alphabetic() || rng.f64() >= rate {
            out.push(letter);
            continue;
        }
        let next = letters.get(at).copied().filter(|next| next.is_alphabetic());
        match (rng.u8(0..4), next) {
            (0, _) => out.push(neighbour(letter, rng)),
            // A word of one letter would vanish.
            (1, _) if letters.len() > 1 => {}
            (2, Some(next)) => {
                out.extend([next, letter]);
                at += 1;
            }
            _ => out.extend([letter, letter]),
        }
    }
    out
}

/// Rows of a keyboard; the key below stands at the same place or one before.
const KEYS: [&str; 3] = ["qwertyuiop", "asdfghjklñ", "zxcvbnm"];

fn neighbour(letter: char, rng: &mut Rng) -> char {
    let lower = letter.to_lowercase().next().unwrap_or(letter);
    let place = KEYS.iter().enumerate().find_map(|(row, keys)| Some((row, keys.chars().position(|key| key == lower)?)));
    let Some((row, column)) = place else { return letter };
    let key = |row: usize, column: Option<usize>| KEYS.get(row).and_then(|keys| keys.chars().nth(column?));
    let near = [
        key(row, column.checked_sub(1)),
        key(row, Some(column + 1)),
        key(row + 1, column.checked_sub(1)),
        row.checked_sub(1).and_then(|above| key(above, Some(column + 1))),
    ];
    let near: Vec<char> = near.into_iter().flatten().collect();
    let chosen = rng.choice(near).unwrap_or(lower);
    if letter.is_uppercase() { chosen.to_uppercase().next().unwrap_or(chosen) } else { chosen }
}

fn without_accents(word: &str) -> String {
    const PLAIN: [(&str, char); 7] =
        [("áàâä", 'a'), ("éèêë", 'e'), ("íìîï", 'i'), ("óòôö", 'o'), ("úùûü", 'u'), ("ñ", 'n'), ("ç", 'c')];
    let plain = |letter: char| {
        let lower = letter.to_lowercase().next().unwrap_or(letter);
        let base = PLAIN.iter().find(|(accented, _)| accented.contains(lower)).map(|(_, base)| *base);
        match base {
            Some(base) if letter.is_uppercase() => base.to_ascii_uppercase(),
            Some(base) => base,
            None => letter,
        }
    };
    // People who leave out accents leave out the opening marks, too.
    word.chars().filter(|c| !matches!(c, '¿' | '¡')).map(plain).collect()
}

/// Marks go, signs that say something (an emoji, a currency) stay.
fn bare(word: &str) -> String {
    word.trim_matches(|c: char| c.is_ascii_punctuation() || "¿¡«»“”‘’…–—".contains(c)).to_lowercase()
}

/// What people write in chats; words without marks around them.
const SHORT: &[(&str, &str, &str)] = &[
    ("es", "que", "q"),
    ("es", "qué", "q"),
    ("es", "porque", "xq"),
    ("es", "por", "x"),
    ("es", "para", "pa"),
    ("es", "también", "tb"),
    ("es", "tambien", "tb"),
    ("es", "estoy", "toy"),
    ("es", "bien", "bn"),
    ("es", "mensaje", "msj"),
    ("es", "mensajes", "msjs"),
    ("es", "cuando", "cdo"),
    ("es", "gracias", "grax"),
    ("es", "favor", "fa"),
    ("es", "de", "d"),
    ("es", "nada", "na"),
    ("es", "contraseña", "contra"),
    ("en", "you", "u"),
    ("en", "your", "ur"),
    ("en", "are", "r"),
    ("en", "please", "pls"),
    ("en", "thanks", "thx"),
    ("en", "because", "cuz"),
    ("en", "with", "w/"),
    ("en", "without", "w/o"),
    ("en", "before", "b4"),
    ("en", "message", "msg"),
    ("en", "messages", "msgs"),
    ("en", "people", "ppl"),
    ("en", "password", "pw"),
    ("en", "and", "n"),
    ("en", "something", "smth"),
    ("en", "to", "2"),
    ("en", "for", "4"),
    ("en", "though", "tho"),
    ("en", "don't", "dont"),
    ("en", "can't", "cant"),
    ("en", "cannot", "cant"),
];

fn shorthand(text: &str, language: &str) -> String {
    each_word(text, |word| {
        let core = word.trim_matches(|c: char| !c.is_alphanumeric());
        let lower = core.to_lowercase();
        match SHORT.iter().find(|(of, long, _)| *of == language && *long == lower) {
            Some((_, _, short)) => word.replacen(core, short, 1),
            None => word.to_owned(),
        }
    })
}

/// Openings and closings that say nothing about the problem.
const COURTESIES: &[(&str, &str, &str)] = &[
    (
        "es",
        "Hola, muy buenas, espero que estéis todos bien. Perdonad que os moleste otra vez.",
        "Quedo a la espera de vuestra respuesta. Muchísimas gracias por vuestro tiempo y un saludo muy cordial.",
    ),
    (
        "es",
        "Buenas tardes, os escribo desde el móvil y con prisa, disculpad las faltas.",
        "Bueno, pues eso. Ya me decís algo cuando podáis, que paséis un buen fin de semana.",
    ),
    (
        "en",
        "Hi there, hope you are all doing well and had a nice weekend. Sorry to bother you again.",
        "Looking forward to hearing from you. Thank you so much for your time and have a wonderful day.",
    ),
    (
        "en",
        "Good evening, I'm writing this from my phone on the train, so please excuse my writing.",
        "Anyway, that's about it. Let me know when you get a chance, cheers and all the best to the team.",
    ),
];

fn with_courtesies(body: &str, language: &str, rng: &mut Rng) -> String {
    let own: Vec<_> = COURTESIES.iter().filter(|(of, ..)| *of == language).collect();
    match rng.choice(own) {
        Some((_, opening, closing)) => format!("{opening}\n\n{body}\n\n{closing}"),
        None => body.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "¿Por qué no puedo enviar, señores? Da el error 0x800CCC0F desde ana@tienda.example con la \
                        versión 115.3.1, mirad https://tienda.example/correo o Panel > Correo > Buzones (SRC-09).";

    fn write(kind: Kind, text: &str, language: &str) -> String {
        rewrite(text, kind, language, &mut Rng::with_seed(7))
    }

    #[test]
    fn every_kind_writes_what_it_says() {
        assert_eq!(write(Kind::NoAccents, "¿Años, Ñu y ÁRBOL?", "es"), "Anos, Nu y ARBOL?");
        assert_eq!(write(Kind::Capitals, "años: ver v2.1\n y a@b.example", "es"), "AÑOS: VER v2.1\n Y a@b.example");
        assert_eq!(write(Kind::Bare, "Hola, ¿qué  tal? Error SRC-09.\n\n¡Ya!", "es"), "hola qué tal error SRC-09. ya");
        assert_eq!(write(Kind::Shorthand, "¿Por qué? Porque sí, gracias.", "es"), "¿x q? xq sí, grax.");
        assert_eq!(write(Kind::Shorthand, "Please tell you, for sure", "en"), "pls tell u, 4 sure");
        assert_eq!(write(Kind::Shorthand, "you and de", "fr"), "you and de");
    }

    #[test]
    fn addresses_links_versions_and_codes_survive_every_kind() {
        for seed in 0..50 {
            for variant in variants("error SRC-09", BODY, "es", 7, seed) {
                for fixed in ["0x800CCC0F", "ana@tienda.example", "115.3.1", "https://tienda.example/correo", "SRC-09"]
                {
                    assert!(variant.body.contains(fixed), "{fixed} lost in {variant:?}");
                }
                assert!(variant.subject.contains("SRC-09"), "{variant:?}");
            }
        }
    }

    #[test]
    fn variants_are_the_same_every_time_and_differ_from_each_other() {
        let first = variants("no envia", BODY, "es", 9, 1);
        assert_eq!(first.len(), 9, "more than there are kinds");
        assert_eq!(first, variants("no envia", BODY, "es", 9, 1));
        assert_ne!(first, variants("no envia", BODY, "es", 9, 2));
        assert_eq!(first[..3], variants("no envia", BODY, "es", 3, 1), "fewer are the first ones");
        for (at, variant) in first.iter().enumerate() {
            assert!(variant.body != BODY || variant.subject != "no envia");
            assert!(!first[..at].iter().any(|other| other.body == variant.body && other.subject == variant.subject));
        }
    }

    #[test]
    fn mistakes_come_at_the_stated_rate() {
        let text = "the quick brown fox jumps over the lazy dog ".repeat(400);
        let letters = text.chars().filter(|c| c.is_alphabetic()).count() as f64;
        let wrong = write(Kind::ManyTypos, &text, "en");
        let changed = text.split(' ').zip(wrong.split(' ')).filter(|(a, b)| a != b).count() as f64;
        assert!((0.04..0.07).contains(&(changed / letters)), "{}", changed / letters);
    }

    #[test]
    fn nothing_to_change_gives_fewer_and_no_endless_search() {
        assert!(variants("", "12345 😀 1.2.3", "fr", 5, 3).is_empty());
        assert!(variants("", "", "xx", 3, 3).is_empty());
        assert_eq!(variants("", "12345", "es", 5, 3).len(), 1, "courtesies fit around anything");
    }
}
