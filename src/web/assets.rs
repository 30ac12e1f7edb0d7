//! Files that pages load, inside the program. Their addresses change with their content, so browsers keep them for good.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

struct Asset {
    /// Name in the address, with the beginning of the content's hash in it.
    name: String,
    kind: &'static str,
    content: &'static str,
}

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";

static WIDGET: &str = include_str!("static/widget.js");

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    [
        ("app.css", CSS, include_str!("static/app.css")),
        ("desk.js", JAVASCRIPT, include_str!("static/desk.js")),
        ("chat.js", JAVASCRIPT, include_str!("static/chat.js")),
        ("htmx.js", JAVASCRIPT, include_str!("static/htmx.min.js")),
    ]
    .into_iter()
    .map(|(name, kind, content)| {
        let hash = super::hex(&Sha256::digest(content.as_bytes()));
        Asset { name: format!("{}.{name}", hash.get(..12).unwrap_or_default()), kind, content }
    })
    .collect()
});

/// The address of a file, for templates.
pub fn url(name: &str) -> String {
    let found = ASSETS.iter().find(|asset| asset.name.split_once('.').is_some_and(|(_, rest)| rest == name));
    format!("/assets/{}", found.map_or(name, |asset| asset.name.as_str()))
}

/// Bytes of all files that a desk page loads.
pub fn desk_bytes() -> usize {
    let wanted = ["app.css", "desk.js", "htmx.js"].map(url);
    let loaded = ASSETS.iter().filter(|asset| wanted.iter().any(|url| url.ends_with(&asset.name)));
    loaded.map(|asset| asset.content.len()).sum()
}

/// A file by its address.
pub async fn serve(Path(file): Path<String>) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == file) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, asset.content).into_response()
}

/// The script for other sites: one address for good, looked at anew every hour.
pub async fn widget() -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(JAVASCRIPT)),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("cross-origin")),
    ];
    (headers, WIDGET).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_stays_light() {
        let desk = desk_bytes();
        assert!((60_000..130_000).contains(&desk), "{desk} bytes beside the page itself");
        assert!(WIDGET.len() < 30_000, "the widget has {} bytes", WIDGET.len());
    }

    #[test]
    fn addresses_change_with_the_content() {
        let address = url("app.css");
        assert!(address.starts_with("/assets/") && address.ends_with(".app.css"), "{address}");
        assert_eq!(address.len(), "/assets/".len() + 12 + ".app.css".len());
    }
}
