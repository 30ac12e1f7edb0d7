//! Spanish or English: as chosen, else as the browser asks.

use axum::extract::Path;
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Redirect, Response};

use super::session::cookie;
use super::texts::{EN, ES, Texts};

const COOKIE: &str = "respondo_language";
/// A choice is kept for a year.
const KEPT_SECONDS: u32 = 31_536_000;

/// The texts for whoever asks.
pub fn texts_for(headers: &HeaderMap) -> &'static Texts {
    let chosen = cookie(headers, COOKIE).and_then(by_code);
    chosen.unwrap_or_else(|| {
        let accepted = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        preferred(accepted)
    })
}

/// The texts of a language.
pub fn by_code(code: &str) -> Option<&'static Texts> {
    match code {
        "es" => Some(&ES),
        "en" => Some(&EN),
        _ => None,
    }
}

/// The best of our languages for an `Accept-Language` header (RFC 9110, section 12.5.4); English where none is asked for.
fn preferred(accepted: &str) -> &'static Texts {
    let weighted = accepted.split(',').filter_map(|part| {
        let mut parts = part.trim().split(';');
        let code = parts.next()?.trim().split('-').next()?.to_ascii_lowercase();
        let weight =
            parts.find_map(|part| part.trim().strip_prefix("q=")).map_or(Some(1.0), |q| q.parse::<f32>().ok())?;
        Some((by_code(&code)?, weight))
    });
    // The first of equals.
    let best = weighted.fold(None, |best: Option<(&'static Texts, f32)>, (texts, weight)| match best {
        Some((_, most)) if most >= weight => best,
        _ => Some((texts, weight)),
    });
    best.filter(|(_, weight)| *weight > 0.0).map_or(&EN, |(texts, _)| texts)
}

/// Remembers the choice of a language and goes back to where it was made.
pub async fn choose(Path(code): Path<String>, headers: HeaderMap) -> Response {
    let mut response = Redirect::to(&back(&headers)).into_response();
    if let Some(texts) = by_code(&code)
        && let Ok(cookie) =
            HeaderValue::try_from(format!("{COOKIE}={}; Path=/; SameSite=Lax; Max-Age={KEPT_SECONDS}", texts.code))
    {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// Path of the page that led here, where it is one of ours.
fn back(headers: &HeaderMap) -> String {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let (Some(from), Some(host)) = (text(header::REFERER), text(header::HOST)) else { return "/desk".to_owned() };
    let path = from.split_once("://").and_then(|(_, rest)| rest.strip_prefix(host)).unwrap_or("/desk");
    if super::session::is_local(path) { path.to_owned() } else { "/desk".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_that_is_liked_best_is_taken() {
        for (accepted, code) in [
            ("es-MX,es;q=0.9,en;q=0.8", "es"),
            ("en-US,en;q=0.9,es;q=0.8", "en"),
            ("de,es;q=0.5,en;q=0.4", "es"),
            ("fr", "en"),
            ("", "en"),
            ("es;q=0,en;q=0.1", "en"),
            ("*;q=x,,;;", "en"),
        ] {
            assert_eq!(preferred(accepted).code, code, "{accepted}");
        }
    }

    #[test]
    fn a_choice_comes_before_the_browser() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_LANGUAGE, HeaderValue::from_static("en"));
        headers.insert(header::COOKIE, HeaderValue::from_static("respondo_language=es"));
        assert_eq!(texts_for(&headers).code, "es");
    }

    #[test]
    fn one_goes_back_to_pages_of_this_site_only() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("desk.example"));
        assert_eq!(back(&headers), "/desk");
        headers.insert(header::REFERER, HeaderValue::from_static("https://desk.example/chat/abc?x=1"));
        assert_eq!(back(&headers), "/chat/abc?x=1");
        headers.insert(header::REFERER, HeaderValue::from_static("https://evil.example/chat"));
        assert_eq!(back(&headers), "/desk");
    }
}
