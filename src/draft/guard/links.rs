//! Where a link leads, and whether a reply may lead there.
//!
//! Addresses are read as a browser reads them, and what a person could take for another host than a browser does (user
//! data before the host, escapes in it) leads nowhere that is allowed.

use std::sync::LazyLock;

use regex::Regex;
use serde::Deserialize;

use crate::draft::text;

/// Ports that need not be named.
const USUAL_PORTS: [u16; 2] = [80, 443];

/// A host that replies may link to: `help.example.com`, `*.example.com`, `example.com:8443`. Hosts with letters outside of
/// ASCII are compared as written: `xn--` forms and the letters they stand for are two entries.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct LinkHost {
    host: String,
    port: Option<u16>,
    /// Any host under it, and not itself.
    under: bool,
}

impl TryFrom<String> for LinkHost {
    type Error = String;

    fn try_from(written: String) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{written}` in link_hosts is no host; write \"help.example.com\", \"*.example.com\" or \"example.com:8443\""
            )
        };
        let (name, under) = written.strip_prefix("*.").map_or((written.as_str(), false), |name| (name, true));
        let target = target(name).ok_or_else(wrong)?;
        if !target.host.contains('.') || name.contains(['/', '\\', '?', '#']) || name.contains(char::is_whitespace) {
            return Err(wrong());
        }
        Ok(Self { host: target.host, port: target.port, under })
    }
}

impl LinkHost {
    fn covers(&self, target: &Target) -> bool {
        let is_port = match (self.port, target.port) {
            (Some(own), Some(port)) => own == port,
            (Some(_), None) => false,
            (None, port) => port.is_none_or(|port| USUAL_PORTS.contains(&port)),
        };
        let is_host = match self.under {
            true => target.host.strip_suffix(&self.host).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            false => target.host == self.host,
        };
        is_port && is_host
    }
}

/// Host and port of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    /// Lower case, without the dot at the end.
    host: String,
    port: Option<u16>,
}

/// Where a link leads; None for what is no plain web address.
fn target(link: &str) -> Option<Target> {
    // Browsers take one for the other.
    let link = link.trim().to_lowercase().replace('\\', "/");
    let rest = match link.split_once("://") {
        Some(("http" | "https", rest)) => rest,
        Some((before, _)) if before.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '.' | '-')) => {
            return None;
        }
        _ => link.strip_prefix("https:").or_else(|| link.strip_prefix("http:")).unwrap_or(&link),
    };
    let authority = rest.trim_start_matches('/').split(['/', '?', '#']).next()?;
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port.parse::<u16>().ok()?)),
        None => (authority, None),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_host =
        host.split('.').all(|label| !label.is_empty() && label.chars().all(|c| c.is_alphanumeric() || c == '-'));
    is_host.then(|| Target { host: host.to_owned(), port })
}

/// True when a reply may link there whatever it rests on.
pub fn is_allowed(link: &str, hosts: &[LinkHost]) -> bool {
    target(link).is_some_and(|target| hosts.iter().any(|host| host.covers(&target)))
}

/// True for a host name alone, which may be a setting (`imap.example.com`) and no link.
pub fn is_bare_host(link: &str) -> bool {
    !link.contains(['/', '\\', '?', '#', '@', ':']) && !link.to_lowercase().starts_with("www.")
}

/// What stands right before a place that its reader is sent to.
static INVITES: LazyLock<Regex> = LazyLock::new(|| {
    const VERB: &str = r"visit\w*|go to|head (over )?to|browse|navigate|open|click|see|links?|site|website|page|url|(log|sign) ?in|download\w*|vaya|vete|ve a|entr[ae]n?|acced\w*|abr[ae]\w*|vea|consulte|enlaces?|pagina|sitio|web|clic|pulse|descarg\w*|sesion";
    const BETWEEN: &str = r"to|on|at|from|via|in|over|the|our|this|is|it|page|site|website|here|web|a|en|de|desde|por|la|el|nuestra|nuestro|esta|este|es";
    text::folded_pattern(&format!(r"\b({VERB})\s*:?\s*(({BETWEEN})\s*:?\s*){{0,4}}\W*$"))
});

/// True when the words before a host name send the reader there.
pub fn invites(before: &str) -> bool {
    INVITES.is_match(&text::fold(before))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(written: &[&str]) -> Vec<LinkHost> {
        written.iter().map(|host| LinkHost::try_from((*host).to_owned()).expect("a host")).collect()
    }

    #[test]
    fn links_to_listed_hosts_are_allowed_however_they_are_written() {
        let hosts = hosts(&["Help.Example.com", "*.example.org", "odd.example:8443", "münchen.example"]);
        for link in [
            "https://help.example.com/kb/1?x=1#y",
            "http://HELP.EXAMPLE.COM",
            "help.example.com.",
            "//help.example.com/x",
            "https://help.example.com:443/x",
            "https:/help.example.com/x",
            "https://a.b.example.org/x",
            "https://odd.example:8443/",
            "https://MÜNCHEN.example/",
        ] {
            assert!(is_allowed(link, &hosts), "{link}");
        }
    }

    #[test]
    fn no_trick_leads_to_another_host() {
        let hosts = hosts(&["good.example", "*.good.example", "bücher.example"]);
        for link in [
            "https://good.example@evil.example/x",
            "https://good.example:pw@evil.example",
            "https://good.example:443@evil.example/",
            "https://evil.example/good.example",
            "https://evil.example?good.example",
            "https://evil.example#.good.example",
            "https://evil.example\\.good.example",
            "https://good.example.evil.example",
            "https://notgood.example",
            "https://good.example:8443/",
            "https://good.example:99999/",
            "//evil.example/good.example",
            "https:\\\\evil.example",
            "https:evil.example",
            "https://good%2eexample/",
            "https://gооd.example/",
            "https://xn--god-fla.example/",
            "https://xn--bcher-kva.example/",
            "https://bucher.example/",
            "ftp://good.example/x",
            "javascript://good.example/%0aalert(1)",
            "good.example](https://evil.example",
            "https://.good.example",
            "https://good..example",
            "https://[::1]/",
            "https://",
            "",
        ] {
            assert!(!is_allowed(link, &hosts), "{link}");
        }
        assert!(!is_allowed("https://good.example", &[]));
    }

    #[test]
    fn a_host_name_alone_is_told_from_an_address() {
        for bare in ["imap.example.com", "EVIL.example"] {
            assert!(is_bare_host(bare), "{bare}");
        }
        for link in [
            "www.example.com",
            "WWW.example.com",
            "//a.example",
            "a.example/x",
            "a.example?x",
            "a@b.example",
            "http:a.b",
        ] {
            assert!(!is_bare_host(link), "{link}");
        }
        for before in [
            "Visit ",
            "Then go to ",
            "entre en ",
            "Click on the link: ",
            "Vaya a la página ",
            "Log in at \"",
            "our site is (",
        ] {
            assert!(invites(before), "{before}");
        }
        for before in
            ["", "Set the server to ", "Ponga el servidor de correo entrante: ", "Click Edit and set the name to "]
        {
            assert!(!invites(before), "{before}");
        }
    }
}
