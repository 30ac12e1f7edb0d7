//! Weight matrices in the order that the kernels read them: sixteen output rows side by side, a row per vector lane, and
//! along them in steps of 32 inputs ("blocks").
//!
//! Within a block, vector `z` holds in lane `row` the four bytes of the inputs `4 * z .. 4 * z + 4`. Nibbles share a vector:
//! `z` in the low halves, `z + 1` in the high ones. That order is our own; GGUF files are repacked once when they are
//! loaded. The 4-bit and 6-bit numbers stay as they are in the file, so nothing is lost.

use candle_core::quantized::GgmlDType;
use half::f16;

use super::isa::LANES;

/// Inputs that share a scale of the activations.
pub const BLOCK: usize = 32;
/// Inputs that share the outer scale of GGUF's K formats.
const SUPERBLOCK: usize = 256;
const BLOCKS: usize = SUPERBLOCK / BLOCK;

/// Bytes of one superblock in the file, as llama.cpp's `block_q4_K` and `block_q6_K`.
const Q4K_FILE_BYTES: usize = 2 + 2 + 12 + SUPERBLOCK / 2;
const Q6K_FILE_BYTES: usize = SUPERBLOCK / 2 + SUPERBLOCK / 4 + SUPERBLOCK / 16 + 2;

/// Packed sizes: sixteen scales d and sixteen dmin (f16), then per block sixteen scales, sixteen minimums and the nibbles.
pub(super) const Q4K_HEAD: usize = 2 * 2 * LANES;
pub(super) const Q4K_BLOCK: usize = 2 * LANES + BLOCK * LANES / 2;
pub(super) const Q4K_BYTES: usize = Q4K_HEAD + BLOCKS * Q4K_BLOCK;
/// Sixteen d (f16, filled up to a cache line), then per block twice sixteen scales, low nibbles and high bits.
pub(super) const Q6K_HEAD: usize = 64;
pub(super) const Q6K_BLOCK: usize = 2 * LANES + BLOCK * LANES / 2 + BLOCK * LANES / 4;
pub(super) const Q6K_BYTES: usize = Q6K_HEAD + BLOCKS * Q6K_BLOCK;
/// Eight vectors of bytes.
pub(super) const BYTES_BLOCK: usize = BLOCK * LANES;

/// How the numbers of a matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// GGUF's Q4_K: 4 bits, a 6-bit scale and minimum per 32 inputs, f16 scales of these per 256.
    Q4K,
    /// GGUF's Q6_K: 6 bits, an 8-bit scale per 16 inputs, an f16 scale of these per 256.
    Q6K,
    /// 8 bits and an f32 scale per 32 inputs: what every other format is turned into.
    Blocks8,
    /// 8 bits and one f32 scale per output row; the fastest where memory does not matter.
    Rows8,
}

/// A cache line: vectors are loaded from the start of one.
const LINE: usize = 64;

/// A weight matrix `[outputs, inputs]` ready for [`super::multiply`].
pub struct Packed {
    pub(super) format: Format,
    /// Output rows as asked for; the packed form is filled up to a multiple of sixteen with zeros.
    outputs: usize,
    inputs: usize,
    /// The packed bytes from `start` on, which lies at the start of a cache line. Plain zeroed bytes, for memory of that kind
    /// comes from the system as it is and is not written twice.
    memory: Vec<u8>,
    start: usize,
    /// [`Format::Blocks8`]: `[tiles, blocks, 16]`; [`Format::Rows8`]: `[tiles, 16]`; otherwise none.
    pub(super) scales: Vec<f32>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PackError {
    #[error("a weight matrix has rows of {inputs} numbers; the kernels want a multiple of {BLOCK}")]
    Width { inputs: usize },
    #[error("a weight matrix of {outputs} x {inputs} has {found} bytes, {wanted} are needed; the file is damaged")]
    Size { outputs: usize, inputs: usize, found: usize, wanted: usize },
}

impl Packed {
    /// Repacks a matrix as it lies in a GGUF file. Formats other than Q4_K and Q6_K give none: decode them and use
    /// [`Packed::from_f32`].
    ///
    /// # Errors
    /// When `bytes` is not as long as the sizes say.
    pub fn from_gguf(dtype: GgmlDType, bytes: &[u8], outputs: usize, inputs: usize) -> Result<Option<Self>, PackError> {
        let (format, file_bytes, tile_bytes) = match dtype {
            GgmlDType::Q4K => (Format::Q4K, Q4K_FILE_BYTES, Q4K_BYTES),
            GgmlDType::Q6K => (Format::Q6K, Q6K_FILE_BYTES, Q6K_BYTES),
            _ => return Ok(None),
        };
        if !inputs.is_multiple_of(SUPERBLOCK) {
            return Ok(None);
        }
        let row_bytes = inputs / SUPERBLOCK * file_bytes;
        if bytes.len() != outputs * row_bytes {
            return Err(PackError::Size { outputs, inputs, found: bytes.len(), wanted: outputs * row_bytes });
        }
        let tiles = outputs.div_ceil(LANES);
        let superblocks = inputs / SUPERBLOCK;
        let mut packed = Self::empty(format, outputs, inputs, tiles * superblocks * tile_bytes);
        let rows: Vec<&[u8]> = bytes.chunks_exact(row_bytes.max(1)).collect();
        let out = packed.bytes_mut();
        super::pool().chunks(out, superblocks * tile_bytes, |tile, out| {
            let rows = rows.get(tile * LANES..).unwrap_or_default();
            for (lane, row) in rows.iter().take(LANES).enumerate() {
                for (block, to) in row.chunks_exact(file_bytes).zip(out.chunks_exact_mut(tile_bytes)) {
                    match format {
                        Format::Q4K => pack_q4k(block, lane, to),
                        _ => pack_q6k(block, lane, to),
                    }
                }
            }
        });
        Ok(Some(packed))
    }

    /// Rounds `[outputs, inputs]` numbers to 8 bits with a scale per 32 of them, or with one per row.
    ///
    /// # Errors
    /// When the width is no multiple of 32 or `values` is not as long as the sizes say.
    pub fn from_f32(values: &[f32], outputs: usize, inputs: usize, scale_per_row: bool) -> Result<Self, PackError> {
        if !inputs.is_multiple_of(BLOCK) || inputs == 0 {
            return Err(PackError::Width { inputs });
        }
        if values.len() != outputs * inputs {
            return Err(PackError::Size { outputs, inputs, found: values.len() * 4, wanted: outputs * inputs * 4 });
        }
        let (format, group) = if scale_per_row { (Format::Rows8, inputs) } else { (Format::Blocks8, BLOCK) };
        let (tiles, blocks) = (outputs.div_ceil(LANES), inputs / BLOCK);
        let mut packed = Self::empty(format, outputs, inputs, tiles * blocks * BYTES_BLOCK);
        packed.scales = vec![0.0; tiles * LANES * (inputs / group)];
        let mut scales = std::mem::take(&mut packed.scales);
        // 128 stands for zero, also in the rows that fill the last tile up.
        packed.bytes_mut().fill(128);
        for (row, values) in values.chunks_exact(inputs).enumerate() {
            let (tile, lane) = (row / LANES, row % LANES);
            for (index, values) in values.chunks_exact(group).enumerate() {
                let (scale, inverse) = scale_of(values);
                scales[(tile * (inputs / group) + index) * LANES + lane] = scale;
                for (at, value) in values.iter().enumerate() {
                    let input = index * group + at;
                    let (block, at) = (tile * blocks + input / BLOCK, input % BLOCK);
                    let byte = ((value * inverse).round_ties_even() as i8 as u8).wrapping_add(128);
                    packed.bytes_mut()[block * BYTES_BLOCK + at / 4 * 64 + lane * 4 + at % 4] = byte;
                }
            }
        }
        packed.scales = scales;
        Ok(packed)
    }

    fn empty(format: Format, outputs: usize, inputs: usize, bytes: usize) -> Self {
        let memory = vec![0; bytes + LINE];
        let start = memory.as_ptr().align_offset(LINE).min(LINE);
        Self { format, outputs, inputs, memory, start, scales: Vec::new() }
    }

    /// Output rows.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Inputs of every row.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Decodes one output row into `row`, which is as long as the inputs. False where there is no such row.
    pub fn decode(&self, output: usize, row: &mut [f32]) -> bool {
        if output >= self.outputs || row.len() != self.inputs {
            return false;
        }
        let (tile, lane) = (output / LANES, output % LANES);
        let blocks = self.inputs / BLOCK;
        for (block, out) in row.chunks_exact_mut(BLOCK).enumerate() {
            match self.format {
                Format::Q4K => decode_q4k(self.superblock(tile, block, Q4K_BYTES), block % BLOCKS, lane, out),
                Format::Q6K => decode_q6k(self.superblock(tile, block, Q6K_BYTES), block % BLOCKS, lane, out),
                Format::Blocks8 | Format::Rows8 => {
                    let index = tile * blocks + block;
                    let scale = if self.format == Format::Rows8 { tile } else { index };
                    let scale = self.scales[scale * LANES + lane];
                    let bytes = &self.bytes()[index * BYTES_BLOCK..][..BYTES_BLOCK];
                    for (at, out) in out.iter_mut().enumerate() {
                        *out = (f32::from(bytes[at / 4 * 64 + lane * 4 + at % 4]) - 128.0) * scale;
                    }
                }
            }
        }
        true
    }

    /// The packed bytes that hold a block of a tile, `size` for every 256 inputs.
    fn superblock(&self, tile: usize, block: usize, size: usize) -> &[u8] {
        let superblocks = self.inputs / SUPERBLOCK;
        &self.bytes()[(tile * superblocks + block / BLOCKS) * size..][..size]
    }

    /// Memory held, in bytes.
    pub fn size(&self) -> usize {
        self.memory.len() + self.scales.len() * 4
    }

    /// Groups of sixteen output rows.
    pub(super) fn tiles(&self) -> usize {
        self.outputs.div_ceil(LANES)
    }

    /// All packed bytes; a tile's lie together.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let (start, end) = (self.start, self.memory.len() - (LINE - self.start));
        &mut self.memory[start..end]
    }
}

/// The scale that maps the largest magnitude to 127, and its inverse; both 0 where all is 0.
fn scale_of(values: &[f32]) -> (f32, f32) {
    let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    if largest > 0.0 && largest.is_finite() { (largest / 127.0, 127.0 / largest) } else { (0.0, 0.0) }
}

/// Four bytes as one number: nibbles are moved four at a time.
fn four(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Writes the 32 nibbles of one block and lane, which stand in the low or the high halves of 32 bytes.
fn put_nibbles(bytes: &[u8], high_halves: bool, lane: usize, to: &mut [u8]) {
    let shift = if high_halves { 4 } else { 0 };
    for (index, vector) in to.chunks_exact_mut(64).enumerate() {
        let (first, second) = (four(bytes, 8 * index) >> shift, four(bytes, 8 * index + 4) >> shift);
        let nibbles = (first & 0x0f0f_0f0f) | ((second & 0x0f0f_0f0f) << 4);
        vector[lane * 4..lane * 4 + 4].copy_from_slice(&nibbles.to_le_bytes());
    }
}

/// One superblock of `block_q4_K`: d, dmin, eight 6-bit scales and minimums in 12 bytes, 128 bytes of nibbles.
fn pack_q4k(from: &[u8], lane: usize, to: &mut [u8]) {
    to[2 * lane..2 * lane + 2].copy_from_slice(&from[..2]);
    to[2 * (LANES + lane)..2 * (LANES + lane) + 2].copy_from_slice(&from[2..4]);
    let (packed, nibbles) = from[4..].split_at(12);
    for block in 0..BLOCKS {
        let (scale, minimum) = if block < 4 {
            (packed[block] & 63, packed[block + 4] & 63)
        } else {
            let low = packed[block + 4];
            ((low & 15) | (packed[block - 4] >> 6 << 4), (low >> 4) | (packed[block] >> 6 << 4))
        };
        let out = &mut to[Q4K_HEAD + block * Q4K_BLOCK..][..Q4K_BLOCK];
        out[lane] = scale;
        out[LANES + lane] = minimum;
        let bytes = &nibbles[block / 2 * BLOCK..][..BLOCK];
        put_nibbles(bytes, block % 2 == 1, lane, &mut out[2 * LANES..]);
    }
}

/// One superblock of `block_q6_K`: 128 bytes of low nibbles, 64 of high bits, sixteen scales, d.
fn pack_q6k(from: &[u8], lane: usize, to: &mut [u8]) {
    let (low, rest) = from.split_at(SUPERBLOCK / 2);
    let (high, rest) = rest.split_at(SUPERBLOCK / 4);
    let (scales, d) = rest.split_at(SUPERBLOCK / 16);
    to[2 * lane..2 * lane + 2].copy_from_slice(d);
    for block in 0..BLOCKS {
        let (half, quarter) = (block / 4, block % 4);
        let out = &mut to[Q6K_HEAD + block * Q6K_BLOCK..][..Q6K_BLOCK];
        out[lane] = scales[2 * block];
        out[LANES + lane] = scales[2 * block + 1];
        let low = &low[half * 64 + quarter % 2 * 32..][..BLOCK];
        let (low_out, high_out) = out[2 * LANES..].split_at_mut(BLOCK * LANES / 2);
        put_nibbles(low, quarter >= 2, lane, low_out);
        let high = &high[half * 32..][..BLOCK];
        for (index, vector) in high_out.chunks_exact_mut(64).enumerate() {
            // Four vectors of four inputs share a byte, two bits each.
            let bits = |part: usize| ((four(high, 16 * index + 4 * part) >> (2 * quarter)) & 0x0303_0303) << (2 * part);
            let all = bits(0) | bits(1) | bits(2) | bits(3);
            vector[lane * 4..lane * 4 + 4].copy_from_slice(&all.to_le_bytes());
        }
    }
}

fn f16_at(bytes: &[u8], index: usize) -> f32 {
    f16::from_le_bytes([bytes[2 * index], bytes[2 * index + 1]]).to_f32()
}

/// The nibble of input `at` of a block.
fn nibble(data: &[u8], lane: usize, at: usize) -> u8 {
    (data[at / 8 * 64 + lane * 4 + at % 4] >> (at / 4 % 2 * 4)) & 15
}

fn decode_q4k(superblock: &[u8], block: usize, lane: usize, out: &mut [f32]) {
    let (parts, data) = superblock[Q4K_HEAD + block * Q4K_BLOCK..][..Q4K_BLOCK].split_at(2 * LANES);
    let scale = f16_at(superblock, lane) * f32::from(parts[lane]);
    let minimum = f16_at(superblock, LANES + lane) * f32::from(parts[LANES + lane]);
    for (at, out) in out.iter_mut().enumerate() {
        *out = scale * f32::from(nibble(data, lane, at)) - minimum;
    }
}

fn decode_q6k(superblock: &[u8], block: usize, lane: usize, out: &mut [f32]) {
    let (parts, data) = superblock[Q6K_HEAD + block * Q6K_BLOCK..][..Q6K_BLOCK].split_at(2 * LANES);
    let high = &data[BLOCK * LANES / 2..];
    for (at, out) in out.iter_mut().enumerate() {
        let bits = (high[at / 16 * 64 + lane * 4 + at % 4] >> (2 * (at / 4 % 4))) & 3;
        let scale = f16_at(superblock, lane) * f32::from(parts[at / 16 * LANES + lane] as i8);
        *out = scale * (f32::from(nibble(data, lane, at) | (bits << 4)) - 32.0);
    }
}
