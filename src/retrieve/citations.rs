//! Which memory items the desk's own replies link to: where several solved tickets like the request were answered with a
//! link to an article or to another ticket, that is most likely what answers the request too.
//!
//! An article says how to do a thing, a customer says what goes wrong; the tickets between them have both. Nothing of this
//! is in the index: replies are read for links as they are learnt, and the tickets that a search found vote at query time. A
//! ticket that is forgotten is not found any more, so it does not vote.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::ticket::MemoryKind;

/// Links read of one reply; more are a list of addresses, not an answer.
const MAX_LINKS: usize = 10;
/// Longer addresses carry data, not a page.
const MAX_ADDRESS_BYTES: usize = 512;
/// An article's id stands for its address where it is at least this long: shorter ones (`index`, `faq`) end many addresses.
const MIN_NAME_BYTES: usize = 8;

/// What the replies of the memory link to. Cheap to ask; many searches or one writer.
#[derive(Debug, Default)]
pub struct Citations {
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Addresses that each ticket's reply links to, as [`address`] gives them. Resolved when asked: a ticket may be learnt
    /// before the article that it links to.
    links: HashMap<String, Vec<String>>,
    /// Memory id by address.
    addresses: HashMap<String, String>,
    /// Memory id of articles by their id in lower case, which is often the last part of their address.
    names: HashMap<String, String>,
    /// Position in the ticket store up to which everything is learnt.
    position: i64,
}

impl Citations {
    /// Takes in an item, or what it has become. `url` is its own address, `solution` its reply or text.
    pub fn learn(&self, id: &str, kind: MemoryKind, url: Option<&str>, solution: &str) {
        let mut known = self.write();
        if let Some(address) = url.and_then(address) {
            known.addresses.insert(address, id.to_owned());
        }
        match kind {
            MemoryKind::Article if id.len() >= MIN_NAME_BYTES => {
                known.names.insert(id.to_lowercase(), id.to_owned());
            }
            MemoryKind::Article => {}
            // What an article links to is further reading, no answer.
            MemoryKind::Ticket => match links(solution) {
                links if links.is_empty() => drop(known.links.remove(id)),
                links => drop(known.links.insert(id.to_owned(), links)),
            },
        }
    }

    /// Whether no reply links to anything.
    pub fn is_empty(&self) -> bool {
        self.read().links.is_empty()
    }

    /// Position in the ticket store up to which everything is learnt; 0 at first.
    pub fn position(&self) -> i64 {
        self.read().position
    }

    /// Everything up to this position is learnt.
    pub fn reached(&self, position: i64) {
        self.write().position = position;
    }

    /// What the neighbours' replies link to: memory ids with the share of the neighbours' weight that stands behind each, 0
    /// to 1. `neighbours` are memory ids of tickets with their scores; a weight falls by e with every `width` below the best
    /// score. A ticket that links to itself says nothing.
    pub fn shares(&self, neighbours: &[(&str, f32)], width: f32) -> HashMap<String, f32> {
        let best = neighbours.iter().map(|(_, score)| *score).fold(f32::MIN, f32::max);
        let weight = |score: f32| ((score - best) / width).exp();
        let total: f32 = neighbours.iter().map(|(_, score)| weight(*score)).sum();
        let known = self.read();
        let mut shares: HashMap<String, f32> = HashMap::new();
        for (id, score) in neighbours {
            for cited in known.cited_by(id) {
                *shares.entry(cited.to_owned()).or_default() += weight(*score) / total;
            }
        }
        shares
    }

    // A panic under the lock leaves at worst one item half learnt; searching on beats refusing all searches.
    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Distinct memory ids that a ticket's reply links to.
    fn cited_by(&self, id: &str) -> Vec<&str> {
        let links = self.links.get(id).map(Vec::as_slice).unwrap_or_default();
        let mut cited: Vec<&str> =
            links.iter().filter_map(|address| self.resolve(address)).filter(|cited| *cited != id).collect();
        cited.sort_unstable();
        cited.dedup();
        cited
    }

    fn resolve(&self, address: &str) -> Option<&str> {
        let by_name = || self.names.get(address.rsplit('/').next()?);
        self.addresses.get(address).or_else(by_name).map(String::as_str)
    }
}

/// Addresses that a text links to, each as [`address`] gives it.
fn links(text: &str) -> Vec<String> {
    let ends = |c: char| c.is_whitespace() || matches!(c, '<' | '>' | '"' | ')' | ']' | '|');
    let starts = text.match_indices("http").map(|(at, _)| &text[at..]);
    let mut links: Vec<String> = starts.filter_map(|rest| address(rest.split(ends).next()?)).take(MAX_LINKS).collect();
    links.sort_unstable();
    links.dedup();
    links
}

/// A web address as links to one page are compared by: lower case, without scheme, `www.`, language (`/es/`, `/en-US/`),
/// query, fragment and what a sentence puts behind it. None for what is no web address, and for the start page of a site,
/// which answers nothing.
fn address(url: &str) -> Option<String> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let page = rest.split(['?', '#']).next()?.trim_end_matches(|c: char| !c.is_alphanumeric());
    if page.len() > MAX_ADDRESS_BYTES {
        return None;
    }
    let lower = page.to_lowercase();
    let (host, path) = lower.strip_prefix("www.").unwrap_or(&lower).split_once('/')?;
    let path = match path.split_once('/') {
        Some((first, rest)) if is_language(first) => rest,
        _ => path,
    };
    (!host.is_empty() && !path.is_empty()).then(|| format!("{host}/{path}"))
}

/// `es`, `en-us`, `zh-hans`.
fn is_language(part: &str) -> bool {
    let (primary, region) = part.split_once('-').unwrap_or((part, "us"));
    let is_region = (2..=4).contains(&region.len()) && region.bytes().all(|byte| byte.is_ascii_alphanumeric());
    LANGUAGES.contains(&primary) && is_region
}

/// Languages that addresses name (ISO 639-1). Not any two letters: `kb` and `qa` are parts of a path.
#[rustfmt::skip]
const LANGUAGES: &[&str] = &[
    "ar", "bg", "ca", "cs", "da", "de", "el", "en", "es", "et", "eu", "fa", "fi", "fr", "gl", "he", "hi", "hr", "hu",
    "id", "it", "ja", "ko", "lt", "lv", "ms", "nb", "nl", "no", "pl", "pt", "ro", "ru", "sk", "sl", "sr", "sv", "th",
    "tr", "uk", "vi", "zh",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn desk() -> Citations {
        let citations = Citations::default();
        let ticket = |id: &str, reply: &str| citations.learn(id, MemoryKind::Ticket, None, reply);
        ticket("t1", "Mire https://www.example.com/es/ayuda/cuota-del-buzon?utm=1 y (https://example.com/Ayuda/spf/).");
        ticket("t2", "See https://help.example.org/en-US/kb/mailbox-quota#w_how.");
        ticket("t3", "Restart it.");
        citations.learn("a-1", MemoryKind::Article, Some("https://example.com/ayuda/cuota-del-buzon/"), "");
        citations.learn("Mailbox-Quota", MemoryKind::Article, None, "");
        citations
    }

    fn shares(citations: &Citations, neighbours: &[(&str, f32)]) -> Vec<(String, f32)> {
        let mut shares: Vec<_> = citations.shares(neighbours, 0.1).into_iter().collect();
        shares.sort_by(|a, b| b.1.total_cmp(&a.1));
        shares
    }

    #[test]
    fn links_to_one_page_are_one_address_however_they_are_written() {
        let page = address("https://example.com/help/quota").expect("a page");
        for same in [
            "http://www.example.com/help/quota/",
            "https://EXAMPLE.com/es/help/quota?from=mail",
            "https://example.com/en-US/help/quota#top",
            "https://example.com/pt-br/Help/quota.",
        ] {
            assert_eq!(address(same).as_deref(), Some(page.as_str()), "{same}");
        }
        for none in ["https://example.com/", "https://example.com", "mailto:a@example.com", "https:///x", "http"] {
            assert_eq!(address(none), None, "{none}");
        }
        assert_eq!(address("https://example.com/kb/quota"), address("https://example.com/es/kb/quota"));
        assert_ne!(address("https://example.com/faq/quota"), address("https://example.com/quota"));
    }

    #[test]
    fn links_are_found_within_prose_and_markup() {
        let text = "vea [esto](https://a.example/x), «https://b.example/y» o <http://c.example/z>.";
        assert_eq!(links(text), ["a.example/x", "b.example/y", "c.example/z"]);
        assert_eq!(links("https://a.example/x https://a.example/x/"), ["a.example/x"]);
        assert!(links("http https:// httpd 🦊http").is_empty());
        let many: String = (0..50).map(|n| format!("https://a.example/{n} ")).collect();
        assert_eq!(links(&many).len(), MAX_LINKS);
        assert!(links(&format!("https://a.example/{}", "x".repeat(10_000))).is_empty());
    }

    #[test]
    fn what_the_closest_tickets_link_to_has_the_largest_share() {
        let citations = desk();
        let found = shares(&citations, &[("t1", 0.9), ("t2", 0.8), ("t3", 0.9)]);
        let total = 2.0 + (-1.0_f32).exp();
        assert_eq!(found.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["a-1", "Mailbox-Quota"]);
        assert!((found[0].1 - 1.0 / total).abs() < 1e-5 && (found[1].1 - (-1.0_f32).exp() / total).abs() < 1e-5);
        assert!(shares(&citations, &[]).is_empty());
        assert!(shares(&citations, &[("t3", 0.9), ("unknown", 0.9)]).is_empty());
    }

    #[test]
    fn a_reply_that_changed_no_longer_counts() {
        let citations = desk();
        assert!(!citations.is_empty());
        citations.learn("t1", MemoryKind::Ticket, None, "Empty the bin.");
        citations.learn("t2", MemoryKind::Ticket, None, "https://example.com/ayuda/cuota-del-buzon");
        assert_eq!(shares(&citations, &[("t1", 0.5), ("t2", 0.5)]), [("a-1".to_owned(), 0.5)]);
        assert!(Citations::default().is_empty());
    }

    #[test]
    fn a_ticket_does_not_vote_for_itself_and_short_ids_are_no_addresses() {
        let citations = Citations::default();
        citations.learn("t1", MemoryKind::Ticket, Some("https://a.example/t/1"), "as in https://a.example/t/1");
        citations.learn("faq", MemoryKind::Article, None, "");
        citations.learn("t2", MemoryKind::Ticket, None, "https://b.example/faq");
        assert!(shares(&citations, &[("t1", 0.5), ("t2", 0.5)]).is_empty());
    }
}
