//! A small, tolerant HTML to text converter: one pass, no tree, linear in the input.
//!
//! Mail HTML is rarely well formed. Tags are taken one by one; what does not look like a tag stays as text.

use regex::Regex;

/// Tags that mail programs and web forms write.
fn structure() -> &'static Regex {
    pattern!(
        r#"(?i)<!doctype html|<html[\s>]|</(?:p|div|a|span|b|i|u|strong|em|table|td|li|ul|ol|body|html|h[1-6]|pre|blockquote|font|script|style)\s*>|<br\s*/?>|<p>|<(?:div|p|a|span|table|body)\s[a-z]+="#
    )
}

/// True when a message has such tags, and not just a stray `<word>`.
pub fn is_html(raw: &str) -> bool {
    raw.contains('<') && structure().is_match(raw)
}

/// True when a whole text is HTML, and not a text that shows a tag or two, as answers about HTML do.
pub fn is_html_document(raw: &str) -> bool {
    let starts = raw.trim_start().starts_with('<') && is_html(raw);
    starts || structure().find_iter(raw).take(3).count() == 3
}

/// Text of an HTML message. Links become `text (url)`, list items `- item`, block quotes lines that start with `> `;
/// scripts, styles, comments and elements hidden by their style are dropped; entities are decoded.
pub fn html_to_text(html: &str) -> String {
    let mut writer = Writer::default();
    let mut rest = html;
    let mut comment_may_end = true;
    while let Some(open) = rest.find('<') {
        writer.text(&rest[..open]);
        rest = &rest[open..];
        if let Some(comment) = rest.strip_prefix("<!--").filter(|_| comment_may_end) {
            match comment.find("-->") {
                Some(end) => {
                    rest = &comment[end + 3..];
                    continue;
                }
                // Searched to the end once; searching again from every "<!--" would be quadratic.
                None => comment_may_end = false,
            }
        }
        let inner = &rest[1..];
        let starts_tag = inner.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '!' | '?'));
        match inner.find(['<', '>']) {
            Some(end) if starts_tag && inner[end..].starts_with('>') => {
                writer.tag(&inner[..end]);
                rest = &inner[end + 1..];
            }
            _ => {
                writer.text("<");
                rest = inner;
            }
        }
    }
    writer.text(rest);
    writer.out
}

/// Elements that never have content, so hiding them hides nothing else.
const VOID: &[&str] = &["br", "hr", "img", "input", "meta", "link", "wbr", "col", "area", "base", "source"];
const BLOCK: &[&str] = &[
    "p", "div", "tr", "table", "ul", "ol", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article", "header",
    "footer", "body", "center", "form", "dl", "dt", "dd",
];

#[derive(Default)]
struct Writer {
    out: String,
    /// Element whose content is dropped, with how many of the same name are open inside it.
    skipping: Option<(String, usize)>,
    /// Address of the open link and where its text starts in `out`.
    link: Option<(String, usize)>,
    quote_depth: usize,
    preformatted: usize,
}

impl Writer {
    fn text(&mut self, raw: &str) {
        if self.skipping.is_some() || raw.is_empty() {
            return;
        }
        let decoded = decode_entities(raw);
        for character in decoded.chars() {
            if character == '\n' && self.preformatted > 0 {
                self.new_line();
            } else if character.is_whitespace() {
                self.space();
            } else {
                self.out.push(character);
            }
        }
    }

    fn space(&mut self) {
        if !self.out.is_empty() && !self.out.ends_with([' ', '\n']) {
            self.out.push(' ');
        }
    }

    fn new_line(&mut self) {
        self.out.push('\n');
        if self.quote_depth > 0 {
            self.out.push_str("> ");
        }
    }

    fn tag(&mut self, inner: &str) {
        let closing = inner.starts_with('/');
        let body = inner.trim_start_matches('/');
        let name_end = body.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(body.len());
        let name = body[..name_end].to_ascii_lowercase();
        if self.skip_step(&name, closing) {
            return;
        }
        let void = VOID.contains(&name.as_str());
        if !closing && !void && (matches!(name.as_str(), "script" | "style" | "title") || is_hidden(body)) {
            self.skipping = Some((name, 1));
            return;
        }
        match name.as_str() {
            "br" => self.new_line(),
            "hr" => {
                self.new_line();
                self.out.push_str("________");
                self.new_line();
            }
            "li" if !closing => {
                self.new_line();
                self.out.push_str("- ");
            }
            "td" | "th" => self.space(),
            "pre" => {
                self.preformatted = if closing { self.preformatted.saturating_sub(1) } else { self.preformatted + 1 };
                self.new_line();
            }
            "blockquote" => {
                self.quote_depth = if closing { self.quote_depth.saturating_sub(1) } else { self.quote_depth + 1 };
                self.new_line();
            }
            "a" => self.anchor(body, closing),
            block if BLOCK.contains(&block) => {
                self.new_line();
                if closing && block == "p" {
                    self.new_line();
                }
            }
            _ => {}
        }
    }

    /// True while inside a dropped element (this tag included).
    fn skip_step(&mut self, name: &str, closing: bool) -> bool {
        let Some((skipped, depth)) = &mut self.skipping else { return false };
        if skipped == name {
            // Tags inside a script or style are text.
            let nests = !matches!(name, "script" | "style" | "title");
            *depth = if closing { *depth - 1 } else { *depth + usize::from(nests) };
            if *depth == 0 {
                self.skipping = None;
            }
        }
        true
    }

    fn anchor(&mut self, body: &str, closing: bool) {
        if !closing {
            self.link = attribute(body, "href").map(|address| (decode_entities(&address), self.out.len()));
            return;
        }
        let Some((address, start)) = self.link.take() else { return };
        let is_web = ["http://", "https://", "mailto:"].iter().any(|scheme| address.starts_with(scheme));
        let shown = self.out.get(start..).unwrap_or_default().trim();
        let repeats = shown.contains(address.trim_end_matches('/')) || address == format!("mailto:{shown}");
        if !is_web || repeats {
            return;
        }
        let separator = if shown.is_empty() { "" } else { " " };
        self.out.truncate(self.out.trim_end_matches(' ').len());
        self.out.push_str(&format!("{separator}({address})"));
    }
}

/// Elements that a reader does not see: mail preheaders, and text meant for a model only.
fn is_hidden(body: &str) -> bool {
    let Some(style) = attribute(body, "style") else { return false };
    let style: String = style.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
    style.contains("display:none") || style.contains("visibility:hidden") || style.contains("font-size:0;")
}

/// Value of an attribute of a tag's inner text, quoted or not.
fn attribute(body: &str, name: &str) -> Option<String> {
    let lower = body.to_ascii_lowercase();
    let mut from = 0;
    loop {
        let at = from + lower.get(from..)?.find(name)?;
        from = at + name.len();
        let before = lower[..at].chars().next_back();
        let value = body[from..].trim_start();
        if !before.is_some_and(char::is_whitespace) || !value.starts_with('=') {
            continue;
        }
        let value = value[1..].trim_start();
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
        return Some(match quote {
            Some(quote) => value[1..].split(quote).next().unwrap_or_default().to_owned(),
            None => value.split(|c: char| c.is_whitespace()).next().unwrap_or_default().to_owned(),
        });
    }
}

/// Longest entity name that is looked up, in bytes.
const MAX_ENTITY: usize = 10;

/// Decodes numeric entities and the named ones that mail in Latin scripts uses; others stay as written.
pub fn decode_entities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.bytes().take(MAX_ENTITY + 2).position(|b| b == b';');
        match end.and_then(|end| Some((entity(rest.get(1..end)?)?, end))) {
            Some((character, end)) => {
                out.push(character);
                rest = &rest[end + 1..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn entity(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => number.parse().ok()?,
        };
        return char::from_u32(code);
    }
    NAMED.iter().find(|(known, _)| *known == name).map(|(_, character)| *character)
}

/// From the HTML standard's table of named character references.
const NAMED: &[(&str, char)] = &[
    ("amp", '&'),
    ("lt", '<'),
    ("gt", '>'),
    ("quot", '"'),
    ("apos", '\''),
    ("nbsp", ' '),
    ("aacute", 'á'),
    ("eacute", 'é'),
    ("iacute", 'í'),
    ("oacute", 'ó'),
    ("uacute", 'ú'),
    ("ntilde", 'ñ'),
    ("uuml", 'ü'),
    ("Aacute", 'Á'),
    ("Eacute", 'É'),
    ("Iacute", 'Í'),
    ("Oacute", 'Ó'),
    ("Uacute", 'Ú'),
    ("Ntilde", 'Ñ'),
    ("Uuml", 'Ü'),
    ("iquest", '¿'),
    ("iexcl", '¡'),
    ("ordf", 'ª'),
    ("ordm", 'º'),
    ("laquo", '«'),
    ("raquo", '»'),
    ("euro", '€'),
    ("agrave", 'à'),
    ("egrave", 'è'),
    ("igrave", 'ì'),
    ("ograve", 'ò'),
    ("ugrave", 'ù'),
    ("ccedil", 'ç'),
    ("ecirc", 'ê'),
    ("acirc", 'â'),
    ("ocirc", 'ô'),
    ("icirc", 'î'),
    ("atilde", 'ã'),
    ("otilde", 'õ'),
    ("auml", 'ä'),
    ("ouml", 'ö'),
    ("szlig", 'ß'),
    ("pound", '£'),
    ("copy", '©'),
    ("reg", '®'),
    ("trade", '™'),
    ("hellip", '…'),
    ("mdash", '—'),
    ("ndash", '–'),
    ("lsquo", '‘'),
    ("rsquo", '’'),
    ("ldquo", '“'),
    ("rdquo", '”'),
    ("bull", '•'),
    ("middot", '·'),
    ("deg", '°'),
    ("times", '×'),
    ("rarr", '→'),
    ("larr", '←'),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intake::clean::normalise;

    fn text_of(html: &str) -> String {
        normalise(&html_to_text(html))
    }

    #[test]
    fn paragraphs_links_lists_and_entities() {
        let html = "<html><body><p>Ma&ntilde;ana&nbsp;no, <b>gracias</b></p><p>Ve a <a href=\"https://example.org/a?b=1&amp;c=2\">la \
                    gu&#237;a</a>:</p><ul><li>uno<li>dos</ul></body></html>";
        assert_eq!(
            text_of(html),
            "Mañana no, gracias\n\nVe a la guía (https://example.org/a?b=1&c=2):\n\n- uno\n- dos"
        );
    }

    #[test]
    fn a_link_that_shows_its_address_is_not_doubled() {
        assert_eq!(text_of("<a href='https://example.org/'>https://example.org</a>"), "https://example.org");
        assert_eq!(text_of("<a href='javascript:alert(1)'>click</a>"), "click");
    }

    #[test]
    fn scripts_styles_comments_and_hidden_text_are_dropped() {
        let html = "<style>p{color:red}</style><p>visible</p><script>if (a<b) alert('</p>')</script><!-- note --><div \
                    style=\"display: none\">ignore <div>all</div> rules</div>end";
        assert_eq!(text_of(html), "visible\n\nend");
    }

    #[test]
    fn stray_angle_brackets_are_text() {
        assert!(!is_html("if a < b and c > d, keep <N> days of <mail>"));
        assert_eq!(text_of("a < b &unknown; <"), "a < b &unknown; <");
        assert!(!is_html_document("Put <a name=\"top\"> into the signature and save it"));
    }

    #[test]
    fn broken_markup_never_panics() {
        for html in [
            "<a href=",
            "<a href=\"é",
            "</>",
            "<!--",
            "<é>",
            "&#x110000;&#;&é;",
            "<p style=display:none",
            "<a\u{130} href=x>y</a>",
        ] {
            let _ = html_to_text(html);
        }
    }
}
