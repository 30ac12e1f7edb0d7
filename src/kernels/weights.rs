//! Weight matrices in the order that the kernels read them: sixteen output rows side by side, a row per vector lane, and
//! along them in steps of 32 inputs ("blocks").
//!
//! Within a block, vector `z` holds in lane `row` the four bytes of the inputs `4 * z .. 4 * z + 4`. Nibbles share a vector:
//! `z` in the low halves, `z + 1` in the high ones. That order is our own; GGUF files are repacked once when they are
//! loaded. The 4-bit and 6-bit numbers stay as they are in the file, so nothing is lost.

use candle_core::quantized::GgmlDType;

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

/// A cache line: vectors are loaded from its start.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

/// A weight matrix `[outputs, inputs]` ready for [`super::Matmul`].
pub struct Packed {
    pub(super) format: Format,
    /// Output rows as asked for; the packed form is filled up to a multiple of sixteen with zeros.
    outputs: usize,
    inputs: usize,
    lines: Vec<Line>,
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
        debug_assert!(bytes.is_multiple_of(64));
        let lines = vec![Line([0; 64]); bytes / 64];
        Self { format, outputs, inputs, lines, scales: Vec::new() }
    }

    /// Output rows.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Inputs of every row.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Memory held, in bytes.
    pub fn size(&self) -> usize {
        self.lines.len() * 64 + self.scales.len() * 4
    }

    /// Groups of sixteen output rows.
    pub(super) fn tiles(&self) -> usize {
        self.outputs.div_ceil(LANES)
    }

    /// All packed bytes; a tile's lie together.
    pub(super) fn bytes(&self) -> &[u8] {
        self.lines.as_flattened_bytes()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let count = self.lines.len() * 64;
        // SAFETY: a line is 64 bytes without padding, and any byte is valid in it.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), count) }
    }
}

trait AsFlattenedBytes {
    fn as_flattened_bytes(&self) -> &[u8];
}

impl AsFlattenedBytes for Vec<Line> {
    fn as_flattened_bytes(&self) -> &[u8] {
        // SAFETY: a line is 64 bytes without padding.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.len() * 64) }
    }
}

/// The scale that maps the largest magnitude to 127, and its inverse; both 0 where all is 0.
fn scale_of(values: &[f32]) -> (f32, f32) {
    let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    if largest > 0.0 && largest.is_finite() { (largest / 127.0, 127.0 / largest) } else { (0.0, 0.0) }
}

/// Writes the 32 nibbles of one block and lane.
fn put_nibbles(values: &[u8; BLOCK], lane: usize, to: &mut [u8]) {
    for (vector, eight) in to.chunks_exact_mut(64).zip(values.chunks_exact(8)) {
        for at in 0..4 {
            vector[lane * 4 + at] = eight[at] | (eight[4 + at] << 4);
        }
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
        let values = std::array::from_fn(|at| if block % 2 == 0 { bytes[at] & 15 } else { bytes[at] >> 4 });
        put_nibbles(&values, lane, &mut out[2 * LANES..]);
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
        let nibbles = std::array::from_fn(|at| if quarter < 2 { low[at] & 15 } else { low[at] >> 4 });
        let (low_out, high_out) = out[2 * LANES..].split_at_mut(BLOCK * LANES / 2);
        put_nibbles(&nibbles, lane, low_out);
        let high = &high[half * 32..][..BLOCK];
        for (at, byte) in high.iter().enumerate() {
            let bits = (byte >> (2 * quarter)) & 3;
            // Four vectors of four inputs share a byte, two bits each.
            high_out[at / 16 * 64 + lane * 4 + at % 4] |= bits << (2 * (at % 16 / 4));
        }
    }
}

/// The matrix back as f32, `[outputs, inputs]`: what the kernels must agree with.
#[cfg(test)]
pub(super) fn unpacked(packed: &Packed) -> Vec<f32> {
    let (inputs, tiles) = (packed.inputs, packed.tiles());
    let mut values = vec![0.0; tiles * LANES * inputs];
    let f16_at = |bytes: &[u8], at: usize| half::f16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]).to_f32();
    for tile in 0..tiles {
        for lane in 0..LANES {
            for input in 0..inputs {
                let (block, at) = (input / BLOCK, input % BLOCK);
                let (vector, byte) = (at / 4, lane * 4 + at % 4);
                let nibble = |bytes: &[u8]| (bytes[vector / 2 * 64 + byte] >> (vector % 2 * 4)) & 15;
                let value = match packed.format {
                    Format::Q4K | Format::Q6K => {
                        let (size, head, step) = match packed.format {
                            Format::Q4K => (Q4K_BYTES, Q4K_HEAD, Q4K_BLOCK),
                            _ => (Q6K_BYTES, Q6K_HEAD, Q6K_BLOCK),
                        };
                        let bytes = &packed.bytes()[(tile * (inputs / SUPERBLOCK) + block / BLOCKS) * size..][..size];
                        let part = &bytes[head + block % BLOCKS * step..][..step];
                        let (scales, data) = part.split_at(2 * LANES);
                        let d = f16_at(bytes, lane);
                        if packed.format == Format::Q4K {
                            d * f32::from(scales[lane]) * f32::from(nibble(data))
                                - f16_at(bytes, LANES + lane) * f32::from(scales[LANES + lane])
                        } else {
                            let high = &data[BLOCK * LANES / 2..];
                            let bits = (high[vector / 4 * 64 + byte] >> (2 * (vector % 4))) & 3;
                            let scale = scales[vector / 4 * LANES + lane] as i8;
                            d * f32::from(scale) * (f32::from(nibble(data) | (bits << 4)) - 32.0)
                        }
                    }
                    Format::Blocks8 | Format::Rows8 => {
                        let index = tile * (inputs / BLOCK) + block;
                        let scale = if packed.format == Format::Rows8 { tile } else { index };
                        let byte = packed.bytes()[index * BYTES_BLOCK + vector * 64 + byte];
                        (f32::from(byte) - 128.0) * packed.scales[scale * LANES + lane]
                    }
                };
                values[(tile * LANES + lane) * inputs + input] = value;
            }
        }
    }
    values.truncate(packed.outputs * inputs);
    values
}
