//! Addresses of model servers, as logs, errors and people may see them.

use std::net::IpAddr;

/// Characters of a server's own words that are shown.
const SHOWN_CHARACTERS: usize = 300;
/// Bytes of a password in an address that is looked for on its own.
const SHORTEST_PASSWORD: usize = 4;

/// What stands between the scheme and the path: `user:word@host:port`.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#', '\\']).next().unwrap_or_default()
}

/// The user's name and password of an address, where it has them.
fn userinfo(url: &str) -> Option<&str> {
    authority(url).rsplit_once('@').map(|(user, _)| user).filter(|user| !user.is_empty())
}

/// Host of an address, without user and port.
fn host(url: &str) -> &str {
    let authority = authority(url);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

/// True when what is sent there leaves this machine. Names other than `localhost` count as outside, whatever they resolve to.
pub fn is_outside(url: &str) -> bool {
    let host = host(url);
    match host.parse::<IpAddr>() {
        Ok(address) => !address.is_loopback(),
        Err(_) => !host.eq_ignore_ascii_case("localhost"),
    }
}

/// The address without user, password, query and fragment.
pub fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match userinfo(url) {
        Some(user) => url.replacen(&format!("{user}@"), "", 1),
        None => url.to_owned(),
    }
}

/// A server's words or an error about it, without the key and without the user of the address, cut to a length that fits a
/// log line. Servers like to repeat the key that they refuse.
pub fn without_secrets(text: &str, url: &str, key: Option<&str>) -> String {
    let mut text = text.to_owned();
    if let Some(key) = key.filter(|key| !key.is_empty()) {
        text = text.replace(key, "(key)");
    }
    if let Some(user) = userinfo(url) {
        text = text.replace(&format!("{user}@"), "");
        // A short one is a part of too many words, and no secret.
        if let Some((_, password)) = user.split_once(':').filter(|(_, password)| password.len() >= SHORTEST_PASSWORD) {
            text = text.replace(password, "(password)");
        }
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_inside_and_everything_else_is_outside() {
        for inside in [
            "http://127.0.0.1:8080/v1",
            "http://127.9.9.9",
            "http://localhost:11434/v1/",
            "http://LOCALHOST",
            "http://[::1]:8000/v1",
            "http://me:word@127.0.0.1/v1",
        ] {
            assert!(!is_outside(inside), "{inside}");
        }
        for outside in [
            "https://models.example/v1",
            "http://10.0.0.3:8000",
            "http://localhost.models.example",
            "http://127.0.0.1@models.example/v1",
            "http://127.0.0.1.models.example",
            "https://models.example/127.0.0.1",
            "",
        ] {
            assert!(is_outside(outside), "{outside}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(shown("https://me:s3cret@models.example/v1?key=abc#x"), "https://models.example/v1");
        assert_eq!(shown("http://127.0.0.1:8080/v1"), "http://127.0.0.1:8080/v1");
        let said = "bad key sk-12345 for https://me:s3cret@models.example/v1\nand more";
        let safe = without_secrets(said, "https://me:s3cret@models.example/v1", Some("sk-12345"));
        assert_eq!(safe, "bad key (key) for https://models.example/v1 and more");
        let said = without_secrets("word s3cret is wrong", "https://me:s3cret@models.example/v1", None);
        assert_eq!(said, "word (password) is wrong");
        // A key that stands where the text is cut does not leave its half.
        let long = format!("{}sk-12345", "x".repeat(SHOWN_CHARACTERS - 4));
        assert!(!without_secrets(&long, "http://a", Some("sk-12345")).contains("sk-"));
    }
}
