//! Reader of the 4-bit e5 container (`e5-small-q4.bin`): one file with the shape, a tokenizer and the weights of a
//! small BERT, the large ones as GGML Q4_0.
//!
//! Layout, little endian: magic `E5S1`, u32 version; i32 hidden, layers, heads, ffn, vocab, positions, types; f32 layer
//! norm epsilon; i32 block length. Tokenizer (skipped here, `tokenizer.json` is used instead): i32 pieces and four i32
//! ids; u64 blob length; pieces + 1 u32 offsets; pieces f32 scores; blob; i32 normaliser entries, u32 length, bytes.
//! Then i32 tensors, each: u16 name length, name, u8 type (0 f32, 1 Q4_0), u32 values, u64 offset from the start of the
//! file, u64 bytes.

use std::collections::HashMap;
use std::path::Path;

use half::f16;

use super::EmbedError;
use super::tuning::Tuning;

/// Values in a Q4_0 block.
pub const Q4_BLOCK_VALUES: usize = 32;
/// Bytes of a Q4_0 block: an f16 scale and 16 bytes of two values each.
pub const Q4_BLOCK_BYTES: usize = 18;

const MAGIC: &[u8; 4] = b"E5S1";
const VERSION: u32 = 1;
/// No dimension of a BERT reaches this; a larger one means a damaged file.
const LARGEST_DIMENSION: usize = 1 << 22;

/// Sizes of a BERT encoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BertShape {
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    /// Width of the feed-forward part.
    pub ffn: usize,
    pub vocab: usize,
    /// Longest sequence, in tokens.
    pub positions: usize,
    pub types: usize,
    /// Added to the variance in layer norm.
    pub norm_eps: f32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Encoding {
    F32,
    Q4,
}

#[derive(Clone, Debug)]
struct Entry {
    encoding: Encoding,
    values: usize,
    offset: usize,
    bytes: usize,
}

/// An opened container: the shape, and the weights as they lie in the file.
pub struct Container {
    path: String,
    shape: BertShape,
    file: Vec<u8>,
    entries: HashMap<String, Entry>,
    /// Added to what is decoded.
    tuning: Option<Tuning>,
}

impl Container {
    /// Reads the whole file (70 MB for multilingual-e5-small) and checks that every tensor lies inside it.
    ///
    /// # Errors
    /// [`EmbedError::File`] when the file cannot be read, is no container of this version, or is cut short.
    pub fn open(path: &Path) -> Result<Self, EmbedError> {
        let file = std::fs::read(path)
            .map_err(|error| EmbedError::file(path, format!("cannot be read: {error}; run `respondo models pull`")))?;
        Self::parse(path.display().to_string(), file)
    }

    pub(crate) fn parse(path: String, file: Vec<u8>) -> Result<Self, EmbedError> {
        let damaged = |reason: String| EmbedError::File {
            path: path.clone(),
            reason: format!("{reason}; run `respondo models pull` to fetch it again"),
        };
        let mut reader = Reader { bytes: &file, at: 0 };
        let shape = read_shape(&mut reader).map_err(damaged)?;
        skip_tokenizer(&mut reader).map_err(damaged)?;
        let entries = read_entries(&mut reader).map_err(damaged)?;
        Ok(Self { path, shape, file, entries, tuning: None })
    }

    /// The same weights, with a difference added to them in place of one that was added before.
    ///
    /// # Errors
    /// [`EmbedError::File`] when it was made for a model of another shape.
    pub fn tuned(self, tuning: Tuning) -> Result<Self, EmbedError> {
        match tuning.fits(self.shape) {
            true => Ok(Self { tuning: Some(tuning), ..self }),
            false => Err(self.wrong("the difference to be added was made for a model of another shape".to_owned())),
        }
    }

    /// Whether no difference is added to the layers below this one.
    pub(super) fn published_below(&self, layer: usize) -> bool {
        self.tuning.as_ref().is_none_or(|tuning| tuning.changed_layers().start >= layer)
    }

    /// The sizes the file states.
    pub fn shape(&self) -> BertShape {
        self.shape
    }

    /// A tensor of `values` numbers, decoded to f32.
    ///
    /// # Errors
    /// [`EmbedError::File`] when the container has no such tensor or one of another size.
    pub fn tensor(&self, name: &str, values: usize) -> Result<Vec<f32>, EmbedError> {
        let entry = self.entry(name, values)?;
        let bytes = self.bytes_of(name, entry)?;
        let mut decoded = vec![0.0; values];
        match entry.encoding {
            Encoding::F32 => decode_f32(bytes, &mut decoded),
            Encoding::Q4 => decode_q4(bytes, &mut decoded),
        }
        if let Some(tuning) = &self.tuning {
            tuning.add_to(name, &mut decoded);
        }
        Ok(decoded)
    }

    /// Takes a Q4_0 matrix out of the container without decoding it, and drops the rest of the file. Decoded, the word
    /// embeddings of multilingual-e5-small would take 384 MB; as they are, 54 MB.
    ///
    /// # Errors
    /// [`EmbedError::File`] when there is no such tensor, it has another size, or it is not Q4_0.
    pub fn into_rows(mut self, name: &str, rows: usize, columns: usize) -> Result<QuantisedRows, EmbedError> {
        let entry = self.entry(name, rows * columns)?.clone();
        if entry.encoding != Encoding::Q4 || !columns.is_multiple_of(Q4_BLOCK_VALUES) {
            return Err(self.wrong(format!("tensor {name} is not a Q4_0 matrix of whole blocks")));
        }
        self.bytes_of(name, &entry)?;
        self.file.truncate(entry.offset + entry.bytes);
        self.file.drain(..entry.offset);
        self.file.shrink_to_fit();
        Ok(QuantisedRows { bytes: self.file, columns })
    }

    fn entry(&self, name: &str, values: usize) -> Result<&Entry, EmbedError> {
        let Some(entry) = self.entries.get(name) else {
            return Err(self.wrong(format!("there is no tensor {name}")));
        };
        if entry.values != values {
            return Err(self.wrong(format!("tensor {name} has {} values where {values} are wanted", entry.values)));
        }
        Ok(entry)
    }

    fn bytes_of(&self, name: &str, entry: &Entry) -> Result<&[u8], EmbedError> {
        let end = entry.offset.saturating_add(entry.bytes);
        let Some(bytes) = self.file.get(entry.offset..end) else {
            return Err(self.wrong(format!("tensor {name} lies beyond the end of the file")));
        };
        Ok(bytes)
    }

    /// The error that names this file.
    pub(super) fn wrong(&self, reason: String) -> EmbedError {
        EmbedError::File { path: self.path.clone(), reason }
    }
}

/// A Q4_0 matrix of which single rows are decoded on demand.
pub struct QuantisedRows {
    bytes: Vec<u8>,
    columns: usize,
}

impl QuantisedRows {
    /// Decodes row `row` into `target` (as long as the matrix is wide). False when there is no such row.
    pub fn decode(&self, row: usize, target: &mut [f32]) -> bool {
        let row_bytes = self.columns / Q4_BLOCK_VALUES * Q4_BLOCK_BYTES;
        let start = row.saturating_mul(row_bytes);
        let Some(bytes) = self.bytes.get(start..start.saturating_add(row_bytes)) else {
            return false;
        };
        decode_q4(bytes, target);
        true
    }
}

/// Decodes GGML Q4_0: per block an f16 scale, then 16 bytes whose low nibbles are values 0 to 15 and whose high nibbles
/// are values 16 to 31; a value is (nibble - 8) * scale.
pub fn decode_q4(bytes: &[u8], target: &mut [f32]) {
    let blocks = bytes.as_chunks::<Q4_BLOCK_BYTES>().0;
    let targets = target.as_chunks_mut::<Q4_BLOCK_VALUES>().0;
    for (block, values) in blocks.iter().zip(targets) {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        for (index, packed) in block[2..].iter().enumerate() {
            values[index] = (f32::from(packed & 0x0F) - 8.0) * scale;
            values[index + Q4_BLOCK_VALUES / 2] = (f32::from(packed >> 4) - 8.0) * scale;
        }
    }
}

fn decode_f32(bytes: &[u8], target: &mut [f32]) {
    for (value, chunk) in target.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*chunk);
    }
}

fn read_shape(reader: &mut Reader) -> Result<BertShape, String> {
    if reader.take(4)? != MAGIC {
        return Err("is no e5 container (it does not begin with E5S1)".to_string());
    }
    let version = reader.u32()?;
    if version != VERSION {
        return Err(format!("is an e5 container of version {version}, not {VERSION}"));
    }
    let shape = BertShape {
        hidden: reader.dimension("hidden size")?,
        layers: reader.dimension("layer count")?,
        heads: reader.dimension("head count")?,
        ffn: reader.dimension("feed-forward size")?,
        vocab: reader.dimension("vocabulary size")?,
        positions: reader.dimension("position count")?,
        types: reader.dimension("type count")?,
        norm_eps: f32::from_bits(reader.u32()?),
    };
    let block = reader.dimension("block length")?;
    if block != Q4_BLOCK_VALUES {
        return Err(format!("has blocks of {block} values, not {Q4_BLOCK_VALUES}"));
    }
    if !shape.hidden.is_multiple_of(shape.heads) {
        return Err(format!("hidden size {} is not a multiple of {} heads", shape.hidden, shape.heads));
    }
    Ok(shape)
}

fn skip_tokenizer(reader: &mut Reader) -> Result<(), String> {
    let pieces = reader.dimension("piece count")?;
    reader.take(4 * 4)?;
    let blob = usize::try_from(reader.u64()?).map_err(|_| "tokenizer blob is too long".to_string())?;
    reader.take((pieces + 1) * 4)?;
    reader.take(pieces * 4)?;
    reader.take(blob)?;
    reader.take(4)?;
    let normaliser = reader.u32()? as usize;
    reader.take(normaliser)?;
    Ok(())
}

fn read_entries(reader: &mut Reader) -> Result<HashMap<String, Entry>, String> {
    let count = reader.dimension("tensor count")?;
    let mut entries = HashMap::new();
    for _ in 0..count {
        let name_length = usize::from(u16::from_le_bytes(reader.array()?));
        let name = String::from_utf8_lossy(reader.take(name_length)?).into_owned();
        let [kind] = reader.array()?;
        let values = reader.u32()? as usize;
        let offset = usize::try_from(reader.u64()?).map_err(|_| format!("tensor {name} lies too far"))?;
        let bytes = usize::try_from(reader.u64()?).map_err(|_| format!("tensor {name} is too long"))?;
        let (encoding, wanted_bytes) = match kind {
            0 => (Encoding::F32, values * 4),
            1 => (Encoding::Q4, values.div_ceil(Q4_BLOCK_VALUES) * Q4_BLOCK_BYTES),
            other => return Err(format!("tensor {name} has the unknown type {other}")),
        };
        if bytes != wanted_bytes {
            return Err(format!("tensor {name} has {bytes} bytes where {wanted_bytes} are wanted"));
        }
        if offset.checked_add(bytes).is_none_or(|end| end > reader.bytes.len()) {
            return Err(format!("is cut short: tensor {name} lies beyond its end"));
        }
        entries.insert(name, Entry { encoding, values, offset, bytes });
    }
    Ok(entries)
}

/// Walks over a byte slice and says where it ended too early.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count);
        let Some(part) = end.and_then(|end| self.bytes.get(self.at..end)) else {
            return Err(format!("is cut short: it ends at byte {}", self.bytes.len()));
        };
        self.at += count;
        Ok(part)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count: an i32 above zero and below what any real file has.
    fn dimension(&mut self, what: &str) -> Result<usize, String> {
        let value = i32::from_le_bytes(self.array()?);
        match usize::try_from(value) {
            Ok(value) if value > 0 && value <= LARGEST_DIMENSION => Ok(value),
            _ => Err(format!("states a {what} of {value}, which cannot be")),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A container of a tiny BERT with made-up weights: 1 layer, 32 wide, 2 heads, 8 words.
    pub fn tiny_container() -> Vec<u8> {
        let shape = [32_i32, 1, 2, 64, 8, 16, 2];
        let mut head = Vec::new();
        head.extend(MAGIC);
        head.extend(VERSION.to_le_bytes());
        shape.iter().for_each(|value| head.extend(value.to_le_bytes()));
        head.extend(1e-12_f32.to_le_bytes());
        head.extend(32_i32.to_le_bytes());
        head.extend(1_i32.to_le_bytes());
        head.extend([0; 16]);
        head.extend(1_u64.to_le_bytes());
        head.extend([0; 8]);
        head.extend([0; 4]);
        head.extend(b"a");
        head.extend(0_i32.to_le_bytes());
        head.extend(0_u32.to_le_bytes());

        let mut random = fastrand::Rng::with_seed(7);
        let tensors = tiny_tensors();
        let table_bytes: usize = 4 + tensors.iter().map(|(name, _, _)| 2 + name.len() + 1 + 4 + 8 + 8).sum::<usize>();
        let mut offset = head.len() + table_bytes;
        let mut data = Vec::new();
        head.extend(i32::try_from(tensors.len()).expect("few tensors").to_le_bytes());
        for (name, values, quantised) in tensors {
            let before = data.len();
            if quantised {
                for _ in 0..values / Q4_BLOCK_VALUES {
                    data.extend(f16::from_f32(0.02).to_le_bytes());
                    data.extend((0..16).map(|_| random.u8(..)));
                }
            } else {
                (0..values).for_each(|_| data.extend((random.f32() - 0.3).to_le_bytes()));
            }
            let bytes = data.len() - before;
            head.extend(u16::try_from(name.len()).expect("short name").to_le_bytes());
            head.extend(name.as_bytes());
            head.push(u8::from(quantised));
            head.extend(u32::try_from(values).expect("small").to_le_bytes());
            head.extend((offset as u64).to_le_bytes());
            head.extend((bytes as u64).to_le_bytes());
            offset += bytes;
        }
        head.extend(data);
        head
    }

    fn tiny_tensors() -> Vec<(String, usize, bool)> {
        let mut tensors = vec![
            ("emb.word".to_string(), 8 * 32, true),
            ("emb.pos".to_string(), 16 * 32, false),
            ("emb.type".to_string(), 2 * 32, false),
            ("emb.ln.w".to_string(), 32, false),
            ("emb.ln.b".to_string(), 32, false),
        ];
        for (part, inputs, outputs) in
            [("q", 32, 32), ("k", 32, 32), ("v", 32, 32), ("ao", 32, 32), ("fi", 32, 64), ("fo", 64, 32)]
        {
            tensors.push((format!("l0.{part}.w"), inputs * outputs, true));
            tensors.push((format!("l0.{part}.b"), outputs, false));
        }
        for part in ["aln", "oln"] {
            tensors.push((format!("l0.{part}.w"), 32, false));
            tensors.push((format!("l0.{part}.b"), 32, false));
        }
        tensors
    }

    fn parse(bytes: Vec<u8>) -> Result<Container, EmbedError> {
        Container::parse("tiny.bin".to_string(), bytes)
    }

    #[test]
    fn a_block_is_scale_then_low_then_high_nibbles() {
        let mut block = f16::from_f32(0.5).to_le_bytes().to_vec();
        block.extend([0x0F, 0x80]);
        block.extend([0x88; 14]);
        let mut values = [9.0; 32];
        decode_q4(&block, &mut values);
        assert_eq!(values[0], 3.5);
        assert_eq!(values[16], -4.0);
        assert_eq!(values[1], -4.0);
        assert_eq!(values[17], 0.0);
    }

    #[test]
    fn a_row_is_the_same_part_of_the_whole_matrix() {
        let container = parse(tiny_container()).expect("tiny container");
        let whole = container.tensor("emb.word", 8 * 32).expect("word embeddings");
        let rows = container.into_rows("emb.word", 8, 32).expect("rows");
        let mut row = vec![0.0; 32];
        assert!(rows.decode(5, &mut row));
        assert_eq!(row, whole[5 * 32..6 * 32]);
        assert!(!rows.decode(8, &mut row));
        assert!(!rows.decode(usize::MAX, &mut row));
    }

    #[test]
    fn every_cut_of_the_file_is_an_error_and_no_panic() {
        let bytes = tiny_container();
        for length in 0..bytes.len() {
            assert!(parse(bytes[..length].to_vec()).is_err(), "cut at {length} was accepted");
        }
    }

    #[test]
    fn damaged_bytes_never_panic() {
        let good = tiny_container();
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..2_000 {
            let mut bytes = good.clone();
            for _ in 0..4 {
                let at = random.usize(..400);
                bytes[at] = random.u8(..);
            }
            if let Ok(container) = parse(bytes) {
                let _ = container.tensor("emb.word", 8 * 32);
            }
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let error = parse(b"GGUF....".to_vec()).err().expect("wrong magic").to_string();
        assert!(error.contains("no e5 container"), "{error}");
        let container = parse(tiny_container()).expect("tiny container");
        let error = container.tensor("l9.q.w", 4).expect_err("no such tensor").to_string();
        assert!(error.contains("l9.q.w"), "{error}");
        let error = Container::open(Path::new("/nonexistent/e5.bin")).err().expect("no file").to_string();
        assert!(error.contains("respondo models pull"), "{error}");
    }
}
