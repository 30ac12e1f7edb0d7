//! The header of a GGUF file.

use std::io::{BufReader, Read, Seek};

use candle_core::quantized::gguf_file;

/// Bytes in which the alignment is looked for: above the headers of today's models, which hold their vocabulary.
const LONGEST_HEADER: u64 = 16 << 20;

/// Reads what a GGUF file says of itself; the weights come later.
///
/// # Errors
/// Says in words what is wrong with the file.
pub(crate) fn read_header(file: &mut (impl Read + Seek)) -> Result<gguf_file::Content, String> {
    let mut start = Vec::new();
    file.by_ref().take(LONGEST_HEADER).read_to_end(&mut start).map_err(|error| error.to_string())?;
    if has_no_alignment(&start) {
        return Err("it states an alignment of 0".to_owned());
    }
    file.rewind().map_err(|error| error.to_string())?;
    // The header is read field by field.
    gguf_file::Content::read(&mut BufReader::new(file)).map_err(|error| error.to_string())
}

/// True for a stated alignment of 0, by which candle's reader divides: type and value stand behind the key.
fn has_no_alignment(start: &[u8]) -> bool {
    const KEY: &[u8] = b"general.alignment";
    start.windows(KEY.len()).enumerate().filter(|(_, bytes)| *bytes == KEY).any(|(at, _)| {
        let rest = start.get(at + KEY.len()..).unwrap_or_default();
        // Integers of 8, 16 and 32 bits, unsigned and signed (GGUF specification).
        let width = match rest.first() {
            Some(0 | 1) => 1,
            Some(2 | 3) => 2,
            Some(4 | 5) => 4,
            _ => return false,
        };
        rest.get(4..4 + width).is_some_and(|value| value.iter().all(|byte| *byte == 0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A GGUF file of version 3 without tensors and with one number of metadata.
    fn file_with(key: &str, value: u32) -> std::io::Cursor<Vec<u8>> {
        let mut file = b"GGUF".to_vec();
        file.extend(3_u32.to_le_bytes());
        file.extend([0_u64.to_le_bytes(), 1_u64.to_le_bytes(), (key.len() as u64).to_le_bytes()].concat());
        file.extend(key.as_bytes());
        file.extend([4_u32.to_le_bytes(), value.to_le_bytes()].concat());
        std::io::Cursor::new(file)
    }

    #[test]
    fn headers_that_cannot_be_are_refused_in_words() {
        assert!(read_header(&mut file_with("general.alignment", 64)).is_ok());
        assert!(read_header(&mut file_with("general.quantum", 0)).is_ok());
        let refused = read_header(&mut file_with("general.alignment", 0)).err().unwrap_or_default();
        assert!(refused.contains("alignment of 0"), "{refused}");
        let mut cut = file_with("general.alignment", 64).into_inner();
        cut.truncate(40);
        assert!(read_header(&mut std::io::Cursor::new(cut)).is_err());
    }
}
