//! The few vector operations that the kernels are written in, sixteen lanes wide, and their plain form.
//!
//! Every implementation gives the same bits: whole numbers are exact, and floating point operations are named one by one
//! (a fused multiply-add is one operation everywhere), so a reply does not depend on the processor it was written on.

/// Lanes of every operation: one output row of a matrix each.
pub const LANES: usize = 16;

/// One instruction set. All functions are unsafe for one reason: the caller has checked that the processor has it, and
/// pointers reach as many values as the function's description says.
pub trait Isa: Copy {
    /// Sixteen i32, or sixty-four bytes.
    type Ints: Copy;
    /// Sixteen f32.
    type Floats: Copy;

    /// `value` in every lane.
    unsafe fn splat_int(value: i32) -> Self::Ints;
    /// Sixty-four bytes; no alignment needed.
    unsafe fn load_bytes(from: *const u8) -> Self::Ints;
    /// The low four bits of every byte.
    unsafe fn low_nibbles(bytes: Self::Ints) -> Self::Ints;
    /// The high four bits of every byte.
    unsafe fn high_nibbles(bytes: Self::Ints) -> Self::Ints;
    /// Bits `2 * AT` and `2 * AT + 1` of every byte, moved to bits 4 and 5.
    unsafe fn two_bits_high<const AT: i32>(bytes: Self::Ints) -> Self::Ints;
    /// Bitwise or.
    unsafe fn or(one: Self::Ints, other: Self::Ints) -> Self::Ints;
    /// `sum + a.0 * b.0 + .. + a.3 * b.3` in every lane: four bytes of `unsigned` (0 to 63 at most) and four of `signed`, the
    /// same for all lanes.
    unsafe fn dot_small(sum: Self::Ints, unsigned: Self::Ints, signed: i32) -> Self::Ints;
    /// What a sum of [`Isa::dot_offset`] starts with; `offset` is -128 times the sum of all signed bytes that will be passed.
    unsafe fn start_offset(offset: i32) -> Self::Ints;
    /// As [`Isa::dot_small`] for weights from -127 to 127 that are stored with 128 added.
    unsafe fn dot_offset(sum: Self::Ints, weights: Self::Ints, signed: i32) -> Self::Ints;
    /// Lane by lane to f32, rounded to nearest.
    unsafe fn to_floats(ints: Self::Ints) -> Self::Floats;
    /// `value` in every lane.
    unsafe fn splat(value: f32) -> Self::Floats;
    /// Sixteen f32; no alignment needed.
    unsafe fn load(from: *const f32) -> Self::Floats;
    /// Writes sixteen f32; no alignment needed.
    unsafe fn store(to: *mut f32, values: Self::Floats);
    /// Sixteen f16 as f32.
    unsafe fn load_f16(from: *const u16) -> Self::Floats;
    /// Sixteen u8 as f32.
    unsafe fn load_u8(from: *const u8) -> Self::Floats;
    /// Sixteen i8 as f32.
    unsafe fn load_i8(from: *const i8) -> Self::Floats;
    /// `one * other`.
    unsafe fn mul(one: Self::Floats, other: Self::Floats) -> Self::Floats;
    /// `one * other + sum`, rounded once.
    unsafe fn mul_add(one: Self::Floats, other: Self::Floats, sum: Self::Floats) -> Self::Floats;
    /// `sum - one * other`, rounded once.
    unsafe fn mul_sub(one: Self::Floats, other: Self::Floats, sum: Self::Floats) -> Self::Floats;
    /// The bits of every magnitude: they compare as whole numbers as the magnitudes do, and what is no number is largest.
    unsafe fn magnitudes(values: Self::Floats) -> Self::Ints;
    /// The larger one in every lane.
    unsafe fn max_ints(one: Self::Ints, other: Self::Ints) -> Self::Ints;
    /// The largest of all lanes.
    unsafe fn largest(ints: Self::Ints) -> i32;
    /// The sum of all lanes.
    unsafe fn total(ints: Self::Ints) -> i32;
    /// To the nearest whole number, halves to even; for magnitudes below 2^31.
    unsafe fn round(values: Self::Floats) -> Self::Ints;
    /// Writes every lane, which fits one, as a byte.
    unsafe fn store_i8(to: *mut i8, ints: Self::Ints);
}

/// No special instructions: the reference that the others are tested against, and what runs where there are none.
#[derive(Clone, Copy)]
pub struct Plain;

#[derive(Clone, Copy)]
pub struct PlainInts([u8; 64]);

impl PlainInts {
    #[inline(always)]
    fn lanes(self) -> [i32; LANES] {
        std::array::from_fn(|lane| {
            i32::from_le_bytes([self.0[4 * lane], self.0[4 * lane + 1], self.0[4 * lane + 2], self.0[4 * lane + 3]])
        })
    }

    #[inline(always)]
    fn from_lanes(lanes: [i32; LANES]) -> Self {
        let mut bytes = [0; 64];
        for (four, lane) in bytes.chunks_exact_mut(4).zip(lanes) {
            four.copy_from_slice(&lane.to_le_bytes());
        }
        Self(bytes)
    }

    #[inline(always)]
    fn map(self, change: impl Fn(u8) -> u8) -> Self {
        Self(self.0.map(change))
    }

    #[inline(always)]
    fn dot(self, bytes: Self, signed: i32, value: impl Fn(u8) -> i32) -> Self {
        let signed = signed.to_le_bytes();
        let sums = self.lanes();
        Self::from_lanes(std::array::from_fn(|lane| {
            (0..4).fold(sums[lane], |sum, at| sum + value(bytes.0[4 * lane + at]) * i32::from(signed[at] as i8))
        }))
    }
}

// SAFETY (all blocks below): the pointers reach as far as the trait's descriptions ask of the caller.
impl Isa for Plain {
    type Ints = PlainInts;
    type Floats = [f32; LANES];

    #[inline(always)]
    unsafe fn splat_int(value: i32) -> PlainInts {
        PlainInts::from_lanes([value; LANES])
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> PlainInts {
        PlainInts(unsafe { from.cast::<[u8; 64]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn low_nibbles(bytes: PlainInts) -> PlainInts {
        bytes.map(|byte| byte & 15)
    }
    #[inline(always)]
    unsafe fn high_nibbles(bytes: PlainInts) -> PlainInts {
        bytes.map(|byte| byte >> 4)
    }
    #[inline(always)]
    unsafe fn two_bits_high<const AT: i32>(bytes: PlainInts) -> PlainInts {
        bytes.map(|byte| ((byte >> (2 * AT)) & 3) << 4)
    }
    #[inline(always)]
    unsafe fn or(one: PlainInts, other: PlainInts) -> PlainInts {
        PlainInts(std::array::from_fn(|at| one.0[at] | other.0[at]))
    }
    #[inline(always)]
    unsafe fn dot_small(sum: PlainInts, unsigned: PlainInts, signed: i32) -> PlainInts {
        sum.dot(unsigned, signed, i32::from)
    }
    #[inline(always)]
    unsafe fn start_offset(_offset: i32) -> PlainInts {
        PlainInts([0; 64])
    }
    #[inline(always)]
    unsafe fn dot_offset(sum: PlainInts, weights: PlainInts, signed: i32) -> PlainInts {
        sum.dot(weights, signed, |byte| i32::from(byte) - 128)
    }
    #[inline(always)]
    unsafe fn to_floats(ints: PlainInts) -> Self::Floats {
        ints.lanes().map(|lane| lane as f32)
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::Floats {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::Floats {
        unsafe { from.cast::<[f32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, values: Self::Floats) {
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(values) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self::Floats {
        unsafe { from.cast::<[u16; LANES]>().read_unaligned() }.map(|bits| half::f16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Self::Floats {
        unsafe { from.cast::<[u8; LANES]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self::Floats {
        unsafe { from.cast::<[i8; LANES]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn mul(one: Self::Floats, other: Self::Floats) -> Self::Floats {
        std::array::from_fn(|lane| one[lane] * other[lane])
    }
    #[inline(always)]
    unsafe fn mul_add(one: Self::Floats, other: Self::Floats, sum: Self::Floats) -> Self::Floats {
        std::array::from_fn(|lane| one[lane].mul_add(other[lane], sum[lane]))
    }
    #[inline(always)]
    unsafe fn mul_sub(one: Self::Floats, other: Self::Floats, sum: Self::Floats) -> Self::Floats {
        std::array::from_fn(|lane| (-one[lane]).mul_add(other[lane], sum[lane]))
    }
    #[inline(always)]
    unsafe fn magnitudes(values: Self::Floats) -> PlainInts {
        PlainInts::from_lanes(values.map(|value| value.abs().to_bits() as i32))
    }
    #[inline(always)]
    unsafe fn max_ints(one: PlainInts, other: PlainInts) -> PlainInts {
        let (one, other) = (one.lanes(), other.lanes());
        PlainInts::from_lanes(std::array::from_fn(|lane| one[lane].max(other[lane])))
    }
    #[inline(always)]
    unsafe fn largest(ints: PlainInts) -> i32 {
        ints.lanes().into_iter().fold(i32::MIN, i32::max)
    }
    #[inline(always)]
    unsafe fn total(ints: PlainInts) -> i32 {
        ints.lanes().into_iter().sum()
    }
    #[inline(always)]
    unsafe fn round(values: Self::Floats) -> PlainInts {
        PlainInts::from_lanes(values.map(|value| value.round_ties_even() as i32))
    }
    #[inline(always)]
    unsafe fn store_i8(to: *mut i8, ints: PlainInts) {
        unsafe { to.cast::<[i8; LANES]>().write_unaligned(ints.lanes().map(|lane| lane as i8)) }
    }
}
