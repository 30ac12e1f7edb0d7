//! Files that customers send: which ones are taken, and under which name they are kept.
//!
//! The content decides what a file is; what the browser or the name says is a claim of the sender. Names are for people to
//! read: they are cleaned, and they end as files of their type do, so that no picture is saved as a program.

use super::clean::normalise;
use crate::store::NewAttachment;

/// Files in one message: a few screenshots and a log.
pub const MOST_FILES: usize = 5;
/// Bytes of one file: a screenshot or the interesting part of a log is smaller, and the database keeps them all.
pub const LARGEST_FILE: usize = 5 << 20;
/// Files in one conversation: the chat is open to everybody, and the database keeps them all.
pub const MOST_FILES_IN_ALL: usize = 50;
/// Characters of a name; file systems take 255 bytes.
const LONGEST_NAME: usize = 120;
/// Characters of the longest extension that is added or kept.
const LONGEST_EXTENSION: usize = 4;
/// For a file field's `accept`: what the browser offers to choose.
pub const ACCEPT: &str = ".png,.jpg,.jpeg,.gif,.webp,.pdf,.txt,.log,.csv";

/// Why a file is refused; holds the name that people see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileError {
    WrongType(String),
    TooLarge(String),
    Empty(String),
    /// More than [`MOST_FILES`].
    TooMany,
    /// More than [`MOST_FILES_IN_ALL`].
    TooManyInAll,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileType {
    Png,
    Jpeg,
    Gif,
    WebP,
    Pdf,
    Text,
}

impl FileType {
    /// The type of a content; None for what is not taken.
    fn of(content: &[u8]) -> Option<Self> {
        match content {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Self::Png),
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::WebP),
            [b'%', b'P', b'D', b'F', b'-', ..] => Some(Self::Pdf),
            text if is_text(text) => Some(Self::Text),
            _ => None,
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Gif => "image/gif",
            Self::WebP => "image/webp",
            Self::Pdf => "application/pdf",
            Self::Text => "text/plain; charset=utf-8",
        }
    }

    /// How names of such files end; the first is added where a name ends otherwise.
    fn extensions(self) -> &'static [&'static str] {
        match self {
            Self::Png => &["png"],
            Self::Jpeg => &["jpg", "jpeg"],
            Self::Gif => &["gif"],
            Self::WebP => &["webp"],
            Self::Pdf => &["pdf"],
            Self::Text => &["txt", "log", "csv"],
        }
    }
}

/// Adds a file to those of a message.
///
/// # Errors
/// [`FileError`] when it is not taken.
pub fn add(mut files: Vec<NewAttachment>, name: &str, content: &[u8]) -> Result<Vec<NewAttachment>, FileError> {
    if files.len() >= MOST_FILES {
        return Err(FileError::TooMany);
    }
    files.push(check(name, content)?);
    Ok(files)
}

fn check(name: &str, content: &[u8]) -> Result<NewAttachment, FileError> {
    let name = clean_name(name);
    if content.is_empty() {
        return Err(FileError::Empty(name));
    }
    if content.len() > LARGEST_FILE {
        return Err(FileError::TooLarge(name));
    }
    let Some(file_type) = FileType::of(content) else { return Err(FileError::WrongType(name)) };
    let has_its_ending = file_type.extensions().iter().any(|wanted| extension(&name).eq_ignore_ascii_case(wanted));
    let name = match file_type {
        _ if has_its_ending => name,
        // Everything that is written is text, programs and pages too: here the name has to say that it is no more.
        FileType::Text => return Err(FileError::WrongType(name)),
        other => format!("{name}.{}", other.extensions()[0]),
    };
    Ok(NewAttachment { name, media_type: file_type.media_type(), content: content.to_vec() })
}

/// UTF-8 without control characters, apart from those of lines and tables.
fn is_text(content: &[u8]) -> bool {
    let is_layout = |c: char| matches!(c, '\t' | '\r' | '\n');
    std::str::from_utf8(content).is_ok_and(|text| text.chars().all(|c| !c.is_control() || is_layout(c)))
}

/// A name without folders and without characters that are not seen or change what is seen; of a long one the beginning,
/// with its extension.
fn clean_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let visible: String = last.chars().filter(|c| !c.is_control()).collect();
    let visible = normalise(&visible).lines().collect::<Vec<_>>().join(" ");
    let visible = visible.trim_matches(['.', ' ']);
    if visible.is_empty() {
        return "file".to_owned();
    }
    let ending = match extension(visible) {
        ending if !ending.is_empty() && ending.chars().count() <= LONGEST_EXTENSION => format!(".{ending}"),
        _ => String::new(),
    };
    let stem = visible.strip_suffix(&ending).unwrap_or(visible);
    // Room for this extension and for one that is added.
    let room = LONGEST_NAME - 2 * (LONGEST_EXTENSION + 1);
    format!("{}{ending}", stem.chars().take(room).collect::<String>())
}

/// What follows the last full stop; empty where there is none.
fn extension(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and more";

    #[test]
    fn the_content_decides_what_a_file_is() {
        let cases: [(&[u8], &str, &str); 8] = [
            (PNG, "a.png", "image/png"),
            (b"\xff\xd8\xff\xe0", "a.JPEG", "image/jpeg"),
            (b"GIF89a", "a.gif", "image/gif"),
            (b"RIFF\0\0\0\0WEBP", "a.webp", "image/webp"),
            (b"%PDF-1.7", "a.pdf", "application/pdf"),
            ("sí;no\r\n1;2\n".as_bytes(), "a.csv", "text/plain; charset=utf-8"),
            (b"\tline\n", "a.log", "text/plain; charset=utf-8"),
            (b"<script>alert(1)</script>", "a.txt", "text/plain; charset=utf-8"),
        ];
        for (content, name, media_type) in cases {
            let file = check(name, content).expect(name);
            assert_eq!((file.name.as_str(), file.media_type, file.content.as_slice()), (name, media_type, content));
        }
    }

    #[test]
    fn what_is_not_on_the_list_is_refused() {
        let html: &[u8] = b"<!doctype html><script>alert(1)</script>";
        let cases: [(&[u8], &str); 8] = [
            (html, "a.png"),
            (html, "a.html"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a.svg"),
            (b"plain", "no extension"),
            (b"MZ\x90\x00", "a.txt"),
            (b"nul \0", "a.txt"),
            (b"\x1b[31mred", "a.log"),
            (b"\xff\xfea\0", "utf-16.txt"),
        ];
        for (content, name) in cases {
            assert_eq!(check(name, content), Err(FileError::WrongType(name.to_owned())), "{name}");
        }
        assert_eq!(check("a.txt", b""), Err(FileError::Empty("a.txt".to_owned())));
    }

    #[test]
    fn the_limits_are_taken_and_no_more() {
        let whole = [b"a".repeat(LARGEST_FILE), b"a".repeat(LARGEST_FILE + 1)];
        assert!(check("a.txt", &whole[0]).is_ok());
        assert_eq!(check("a.txt", &whole[1]), Err(FileError::TooLarge("a.txt".to_owned())));
        let files = (0..MOST_FILES).try_fold(Vec::new(), |files, _| add(files, "a.png", PNG)).expect("five");
        assert_eq!(add(files, "a.png", PNG), Err(FileError::TooMany));
    }

    #[test]
    fn names_are_for_people_and_end_as_their_type_does() {
        let cases = [
            ("../../etc/passwd.png", "passwd.png"),
            ("C:\\Users\\ana\\captura de pantalla.png", "captura de pantalla.png"),
            ("a\r\n\u{0}b\u{202e}gpj.png", "abgpj.png"),
            ("informe año.PNG", "informe año.PNG"),
            ("run.exe", "run.exe.png"),
            ("page.html", "page.html.png"),
            ("..", "file.png"),
            ("/", "file.png"),
            ("", "file.png"),
            (".png", "png.png"),
        ];
        for (given, kept) in cases {
            assert_eq!(check(given, PNG).expect(given).name, kept, "{given:?}");
        }
        let long = check(&format!("{}.png", "ñ".repeat(300)), PNG).expect("taken").name;
        assert!(long.chars().count() <= LONGEST_NAME && long.ends_with("ñ.png"), "{long}");
    }
}
