//! A small Spanish-English glossary of support vocabulary: lets words of one language count as found in the other.
//!
//! It exists because the evidence is often in the other language, where comparing words says nothing. It carries no
//! meaning beyond "these may stand for each other" and never supports a number, path, link, name or command.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use serde::Deserialize;

use super::text;

/// `prompts/glossary.toml`: Spanish word = its English counterparts.
const SOURCE: &str = include_str!("../../prompts/glossary.toml");

#[derive(Deserialize)]
struct Glossary {
    words: BTreeMap<String, Vec<String>>,
}

static COUNTERPARTS: LazyLock<HashMap<String, Vec<String>>> = LazyLock::new(|| index(SOURCE).unwrap_or_default());

fn index(source: &str) -> Result<HashMap<String, Vec<String>>, toml::de::Error> {
    let glossary: Glossary = toml::from_str(source)?;
    let mut counterparts: HashMap<String, Vec<String>> = HashMap::new();
    for (spanish, english) in &glossary.words {
        let spanish = text::stem(&text::fold(spanish));
        for word in english {
            let english = text::stem(&text::fold(word));
            counterparts.entry(spanish.clone()).or_default().push(english.clone());
            counterparts.entry(english).or_default().push(spanish.clone());
        }
    }
    Ok(counterparts)
}

/// Stems that may stand for `stem` in the other language; empty when the glossary does not know it.
pub fn counterparts(stem: &str) -> &'static [String] {
    COUNTERPARTS.get(stem).map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_glossary_is_valid_and_works_both_ways() {
        let entries = index(SOURCE).expect("prompts/glossary.toml parses");
        assert!(entries.len() > 500, "{}", entries.len());
        let spanish = text::stem("contrasena");
        assert!(counterparts(&spanish).contains(&text::stem("password")));
        assert!(counterparts(&text::stem("password")).contains(&spanish));
        assert!(counterparts("xyzzy").is_empty());
    }
}
