//! Is anything in a reply that stands nowhere? A check that shares no code with the guard, so that it can find what the
//! guard lets through.

use crate::ticket::{Draft, DraftKind};

/// Numbers, links, paths and addresses of a reply that stand neither in its evidence nor in the customer's text.
/// Acknowledgements and questions are ours and never hold any: their times come from data.
pub fn invented(draft: &Draft, customer: &str) -> Vec<String> {
    if !matches!(draft.kind, DraftKind::Generated | DraftKind::Extractive) {
        return Vec::new();
    }
    let mut known = plain(customer);
    for evidence in &draft.evidence {
        let url = evidence.url.as_deref().unwrap_or("");
        known.push_str(&plain(&format!(" {} {} {url}", evidence.title, evidence.text)));
    }
    hard_tokens(&draft.text).into_iter().filter(|token| !known.contains(&plain(token))).collect()
}

/// Words that hold a digit, a slash, a backslash, an at sign or an inner dot, and the steps of menu paths.
fn hard_tokens(text: &str) -> Vec<String> {
    let trim: &[char] =
        &['.', ',', ';', ':', '!', '?', '(', ')', '[', ']', '"', '«', '»', '“', '”', '¿', '¡', '*', '\''];
    let mut tokens: Vec<String> = text
        .lines()
        .flat_map(|line| without_marker(line).split_whitespace())
        .map(|word| word.trim_matches(trim))
        .filter(|word| {
            let inner_dot = word.trim_end_matches('.').contains('.') && word.len() > 4;
            word.chars().any(|c| c.is_ascii_digit()) || word.contains(['/', '\\', '@']) || inner_dot
        })
        .map(str::to_owned)
        .collect();
    for sentence in text.split(['\n', '.', '?', '!']) {
        let steps: Vec<&str> = sentence.split(['>', '→', '≫']).collect();
        // Inner steps are whole; the first and the last run into the sentence and are checked by one word.
        tokens.extend(steps.iter().skip(1).rev().skip(1).map(|step| step.trim_matches(trim).trim().to_owned()));
        if steps.len() > 1 {
            tokens.extend(steps[0].split_whitespace().next_back().map(|word| word.trim_matches(trim).to_owned()));
        }
    }
    tokens.retain(|token| !token.is_empty());
    tokens
}

/// A line without the number that a list gives it: `1.`, `2)`.
fn without_marker(line: &str) -> &str {
    let line = line.trim_start();
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    let rest = &line[digits..];
    if (1..=2).contains(&digits) && (rest.starts_with(". ") || rest.starts_with(") ")) { &rest[2..] } else { line }
}

/// Lower case, single spaces.
fn plain(text: &str) -> String {
    text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::shown::tests::reply;
    use crate::ticket::{Evidence, Language, MemoryKind};

    #[test]
    fn numbers_of_a_list_state_nothing() {
        assert_eq!(hard_tokens("Do this:\n1. Open it.\n 2) Wait 24 hours.\n3.5 is the version."), ["24", "3.5"]);
        assert_eq!(hard_tokens("1993. Then"), ["1993"]);
        assert!(hard_tokens("").is_empty());
    }

    #[test]
    fn hard_tokens_are_numbers_links_and_steps() {
        let tokens =
            hard_tokens("Open Tools > Account Settings > Server, use port 993. See https://a.example/b (v115.3).");
        for token in ["993", "https://a.example/b", "v115.3", "Account Settings", "Tools"] {
            assert!(tokens.iter().any(|t| t == token), "{token} in {tokens:?}");
        }
        assert!(hard_tokens("Please restart the program.").is_empty());
    }

    #[test]
    fn what_evidence_or_customer_said_is_not_invented() {
        let mut draft = reply(DraftKind::Generated, "Use port 993, not 143. Write to help@other.example.");
        draft.evidence.push(Evidence {
            index: 1,
            memory_id: "a".to_owned(),
            kind: MemoryKind::Article,
            language: Language::EN,
            title: "Mail".to_owned(),
            text: "IMAP:  PORT 993".to_owned(),
            url: None,
            score: 1.0,
            similarity: 0.9,
        });
        assert_eq!(invented(&draft, "It says 143 here"), ["help@other.example"]);
        assert_eq!(invented(&draft, ""), ["143", "help@other.example"]);
        draft.kind = DraftKind::Acknowledgement;
        assert!(invented(&draft, "").is_empty(), "fixed texts are ours");
    }
}
