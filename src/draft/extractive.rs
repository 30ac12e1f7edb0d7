//! The first racer: the best resolved reply, cut to what fits, in milliseconds.
//!
//! It copies; it never rewrites. What cannot be copied in the customer's language is left out, and an article in another
//! language is named with its address instead.

use super::select::{self, Selection};
use super::text;
use crate::ticket::{Draft, DraftKind, Evidence, Language, MemoryKind, Request, Sentence};

/// Longest extractive reply in words, our own opening included.
const LONGEST_WORDS: usize = 90;
/// Least cosine similarity of an item in the customer's language to be copied from: of 98 % of what fits the closest item has
/// 0.70 or more, of half of what does not less than 0.68.
const LEAST_SIMILARITY: f32 = 0.68;
/// How far below the closest item of any language an item in the customer's language may lie and still be preferred.
const CLOSE_ENOUGH: f32 = 0.12;

/// Opening lines and link sentences of this racer, by language; the guard is told that they are ours.
pub fn fixed_phrases(language: &Language) -> &'static [&'static str] {
    if *language == Language::ES {
        &[
            "En un caso parecido, esto ayudó:",
            "Este artículo de ayuda trata de lo que nos cuenta (está en otro idioma):",
        ]
    } else {
        &["In a similar case, this helped:", "This help article covers what you describe (it is in another language):"]
    }
}

/// Builds the reply from the chosen evidence, or None when nothing in it can be said in the customer's language.
pub fn draft(selection: &Selection, request: &Request) -> Option<Draft> {
    if !request.language.is_supported() {
        return None;
    }
    let closest = selection.evidence.iter().map(|item| item.similarity).fold(f32::MIN, f32::max);
    let is_near = |item: &&Evidence| {
        selection.is_weighed || item.similarity >= LEAST_SIMILARITY && item.similarity >= closest - CLOSE_ENOUGH
    };
    let mut own = selection.evidence.iter().filter(|item| item.language == request.language).filter(is_near);
    let source = if selection.is_weighed { own.next() } else { own.max_by(|a, b| rank(a).total_cmp(&rank(b))) };
    let named_one = || selection.evidence.iter().filter(is_near).find(|item| may_be_named(item));
    let sentences =
        source.and_then(|item| copied(item, request)).or_else(|| named_one().map(|item| named(item, request)))?;
    let text = sentences.iter().map(|sentence| sentence.text.as_str()).collect::<Vec<_>>().join("\n");
    Some(Draft {
        kind: DraftKind::Extractive,
        language: request.language.clone(),
        text,
        sentences,
        evidence: selection.evidence.clone(),
        findings: Vec::new(),
        model: None,
    })
}

/// Closeness first; steps and articles break ties.
fn rank(item: &Evidence) -> f32 {
    let steps = item.text.lines().filter(|line| select::is_step(line)).count().min(4) as f32;
    item.similarity + 0.01 * steps
}

fn copied(item: &Evidence, request: &Request) -> Option<Vec<Sentence>> {
    let opening = fixed_phrases(&request.language).first()?;
    let mut sentences = vec![Sentence { text: (*opening).to_owned(), evidence: Vec::new(), support: 1.0 }];
    let mut words = text::count_words(opening);
    for line in item.text.lines().map(str::trim).filter(|line| is_fit(line, request)) {
        words += text::count_words(line);
        if words > LONGEST_WORDS {
            break;
        }
        sentences.push(Sentence { text: line.to_owned(), evidence: vec![item.index], support: 1.0 });
    }
    let tells_what_to_do = sentences.iter().skip(1).any(|sentence| select::is_step(&sentence.text));
    (sentences.len() > 1 && tells_what_to_do).then_some(sentences)
}

/// A line that can stand in a reply as it is: whole, in the right language, no address to a person.
fn is_fit(line: &str, request: &Request) -> bool {
    let is_cut = line.ends_with([',', '…'])
        || line.ends_with("...")
        || line.ends_with(char::is_alphanumeric) && text::count_words(line) > 25;
    let is_foreign = text::guess_language(line).is_some_and(|code| code != request.language.code());
    let has_placeholder = line.contains('[') && line.contains(']');
    !line.is_empty() && !is_cut && !is_foreign && !has_placeholder
}

fn may_be_named(item: &Evidence) -> bool {
    item.kind == MemoryKind::Article && item.url.is_some() && !item.title.is_empty()
}

/// Names an article that cannot be copied: title and address.
fn named(item: &Evidence, request: &Request) -> Vec<Sentence> {
    let url = item.url.as_deref().unwrap_or_default();
    let opening = fixed_phrases(&request.language).get(1).copied().unwrap_or_default();
    let opening = if item.language == request.language {
        opening.split(" (").next().unwrap_or(opening)
    } else {
        opening.trim_end_matches(':')
    };
    let text = format!("{opening}: «{}», {url}", item.title);
    vec![Sentence { text, evidence: vec![item.index], support: 1.0 }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::select::tests::{found, request};
    use crate::draft::select::{Budget, Found};

    #[test]
    fn copies_the_steps_in_the_customers_language() {
        let items = [
            found("en", Language::EN, "Open Menu > Settings. Then click Repair.", 1.0),
            found("es", Language::ES, "Hola. Abra Menú > Ajustes. Después pulse Reparar. Saludos", 0.9),
        ];
        let request = request("Correo", "No llega el correo", Language::ES);
        let draft =
            draft(&select::select(Found::unread(&items), &request, Budget::default()), &request).expect("a draft");
        assert_eq!(draft.text, "En un caso parecido, esto ayudó:\nAbra Menú > Ajustes.\nDespués pulse Reparar.");
        assert_eq!(draft.kind, DraftKind::Extractive);
        assert!(draft.sentences.iter().skip(1).all(|sentence| sentence.evidence.len() == 1));
    }

    #[test]
    fn names_a_foreign_article_and_else_gives_up() {
        let request = request("Correo", "No llega el correo", Language::ES);
        let mut article = found("en", Language::EN, "Open Menu > Settings. Then click Repair.", 1.0);
        let none = select::select(Found::unread(std::slice::from_ref(&article)), &request, Budget::default());
        assert_eq!(draft(&none, &request), None);
        article.item.kind = MemoryKind::Article;
        article.item.url = Some("https://help.example.com/mail".to_owned());
        let named =
            draft(&select::select(Found::unread(&[article]), &request, Budget::default()), &request).expect("a draft");
        assert!(named.text.ends_with("«Mail does not arrive», https://help.example.com/mail"), "{}", named.text);
    }

    #[test]
    fn is_short_and_quick() {
        let long: String =
            (0..400).map(|step| format!("Open the folder {step} and click the button called B{step}. ")).collect();
        let items: Vec<_> = (0..8).map(|at| found(&format!("m{at}"), Language::EN, &long, 1.0)).collect();
        let request = request("folder", "button", Language::EN);
        let draft =
            draft(&select::select(Found::unread(&items), &request, Budget::default()), &request).expect("a draft");
        assert!(text::count_words(&draft.text) <= LONGEST_WORDS);
    }

    #[test]
    fn an_unsupported_language_gets_none() {
        let request = request("Post", "Die Post kommt nicht", Language::new("de"));
        assert_eq!(draft(&Selection::default(), &request), None);
    }
}
