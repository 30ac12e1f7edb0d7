//! The vector operations on x86-64: AVX2 with FMA, and AVX-512 with its dot products of bytes (VNNI).

use std::arch::x86_64::*;

use super::isa::Isa;

/// AVX-512 F, BW and VNNI.
#[derive(Clone, Copy)]
pub struct Avx512;

/// AVX2, FMA and F16C: every operation in two halves.
#[derive(Clone, Copy)]
pub struct Avx2;

// SAFETY (all blocks below): the caller has checked for the instruction set, and its pointers reach as far as the trait's
// descriptions ask.
impl Isa for Avx512 {
    type Ints = __m512i;
    type Floats = __m512;

    #[inline(always)]
    unsafe fn splat_int(value: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(value) }
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn low_nibbles(bytes: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(bytes, _mm512_set1_epi8(15)) }
    }
    #[inline(always)]
    unsafe fn high_nibbles(bytes: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), _mm512_set1_epi8(15)) }
    }
    #[inline(always)]
    unsafe fn two_bits_high<const AT: i32>(bytes: __m512i) -> __m512i {
        unsafe {
            let moved = match AT {
                0 => _mm512_slli_epi16::<4>(bytes),
                1 => _mm512_slli_epi16::<2>(bytes),
                2 => bytes,
                _ => _mm512_srli_epi16::<2>(bytes),
            };
            _mm512_and_si512(moved, _mm512_set1_epi8(0x30))
        }
    }
    #[inline(always)]
    unsafe fn or(one: __m512i, other: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(one, other) }
    }
    #[inline(always)]
    unsafe fn dot_small(sum: __m512i, unsigned: __m512i, signed: i32) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sum, unsigned, _mm512_set1_epi32(signed)) }
    }
    #[inline(always)]
    unsafe fn start_offset(offset: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(offset) }
    }
    #[inline(always)]
    unsafe fn dot_offset(sum: __m512i, weights: __m512i, signed: i32) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(signed)) }
    }
    #[inline(always)]
    unsafe fn to_floats(ints: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(ints) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, values: __m512) {
        unsafe { _mm512_storeu_ps(to, values) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn mul(one: __m512, other: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(one, other) }
    }
    #[inline(always)]
    unsafe fn mul_add(one: __m512, other: __m512, sum: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(one, other, sum) }
    }
    #[inline(always)]
    unsafe fn mul_sub(one: __m512, other: __m512, sum: __m512) -> __m512 {
        unsafe { _mm512_fnmadd_ps(one, other, sum) }
    }
    #[inline(always)]
    unsafe fn magnitudes(values: __m512) -> __m512i {
        unsafe { _mm512_and_si512(_mm512_castps_si512(values), _mm512_set1_epi32(i32::MAX)) }
    }
    #[inline(always)]
    unsafe fn max_ints(one: __m512i, other: __m512i) -> __m512i {
        unsafe { _mm512_max_epi32(one, other) }
    }
    #[inline(always)]
    unsafe fn largest(ints: __m512i) -> i32 {
        unsafe { _mm512_reduce_max_epi32(ints) }
    }
    #[inline(always)]
    unsafe fn total(ints: __m512i) -> i32 {
        unsafe { _mm512_reduce_add_epi32(ints) }
    }
    #[inline(always)]
    unsafe fn round(values: __m512) -> __m512i {
        unsafe { _mm512_cvtps_epi32(values) }
    }
    #[inline(always)]
    unsafe fn store_i8(to: *mut i8, ints: __m512i) {
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(ints)) }
    }
}

type TwoInts = [__m256i; 2];
type TwoFloats = [__m256; 2];

/// The same for both halves. No closure: one would have to be inlined before its instructions may be used.
macro_rules! both {
    ($halves:expr, $half:ident => $change:expr) => {{
        let [low, high] = $halves;
        let $half = low;
        let low = $change;
        let $half = high;
        [low, $change]
    }};
}

impl Isa for Avx2 {
    type Ints = TwoInts;
    type Floats = TwoFloats;

    #[inline(always)]
    unsafe fn splat_int(value: i32) -> TwoInts {
        unsafe { [_mm256_set1_epi32(value); 2] }
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> TwoInts {
        unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())] }
    }
    #[inline(always)]
    unsafe fn low_nibbles(bytes: TwoInts) -> TwoInts {
        unsafe { both!(bytes, half => _mm256_and_si256(half, _mm256_set1_epi8(15))) }
    }
    #[inline(always)]
    unsafe fn high_nibbles(bytes: TwoInts) -> TwoInts {
        unsafe { both!(bytes, half => _mm256_and_si256(_mm256_srli_epi16::<4>(half), _mm256_set1_epi8(15))) }
    }
    #[inline(always)]
    unsafe fn two_bits_high<const AT: i32>(bytes: TwoInts) -> TwoInts {
        unsafe {
            both!(bytes, half => {
                let moved = match AT {
                    0 => _mm256_slli_epi16::<4>(half),
                    1 => _mm256_slli_epi16::<2>(half),
                    2 => half,
                    _ => _mm256_srli_epi16::<2>(half),
                };
                _mm256_and_si256(moved, _mm256_set1_epi8(0x30))
            })
        }
    }
    #[inline(always)]
    unsafe fn or(one: TwoInts, other: TwoInts) -> TwoInts {
        unsafe { [_mm256_or_si256(one[0], other[0]), _mm256_or_si256(one[1], other[1])] }
    }
    /// Pairs of products are added in 16 bits first: 2 * 63 * 127 fits.
    #[inline(always)]
    unsafe fn dot_small(sum: TwoInts, unsigned: TwoInts, signed: i32) -> TwoInts {
        unsafe {
            let (signed, ones) = (_mm256_set1_epi32(signed), _mm256_set1_epi16(1));
            let four = both!(unsigned, half => _mm256_madd_epi16(_mm256_maddubs_epi16(half, signed), ones));
            [_mm256_add_epi32(sum[0], four[0]), _mm256_add_epi32(sum[1], four[1])]
        }
    }
    #[inline(always)]
    unsafe fn start_offset(_offset: i32) -> TwoInts {
        unsafe { [_mm256_setzero_si256(); 2] }
    }
    /// The weight's sign goes over to the other factor: 2 * 127 * 127 fits 16 bits, 2 * 255 * 127 would not.
    #[inline(always)]
    unsafe fn dot_offset(sum: TwoInts, weights: TwoInts, signed: i32) -> TwoInts {
        unsafe {
            let (signed, ones) = (_mm256_set1_epi32(signed), _mm256_set1_epi16(1));
            let four = both!(weights, half => {
                let weight = _mm256_xor_si256(half, _mm256_set1_epi8(-128));
                let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weight), _mm256_sign_epi8(signed, weight));
                _mm256_madd_epi16(pairs, ones)
            });
            [_mm256_add_epi32(sum[0], four[0]), _mm256_add_epi32(sum[1], four[1])]
        }
    }
    #[inline(always)]
    unsafe fn to_floats(ints: TwoInts) -> TwoFloats {
        unsafe { [_mm256_cvtepi32_ps(ints[0]), _mm256_cvtepi32_ps(ints[1])] }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> TwoFloats {
        unsafe { [_mm256_set1_ps(value); 2] }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> TwoFloats {
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, values: TwoFloats) {
        unsafe {
            _mm256_storeu_ps(to, values[0]);
            _mm256_storeu_ps(to.add(8), values[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> TwoFloats {
        unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(from.cast())), _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast()))] }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> TwoFloats {
        unsafe {
            both!([_mm_loadl_epi64(from.cast()), _mm_loadl_epi64(from.add(8).cast())], half => _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(half)))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> TwoFloats {
        unsafe {
            both!([_mm_loadl_epi64(from.cast()), _mm_loadl_epi64(from.add(8).cast())], half => _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(half)))
        }
    }
    #[inline(always)]
    unsafe fn mul(one: TwoFloats, other: TwoFloats) -> TwoFloats {
        unsafe { [_mm256_mul_ps(one[0], other[0]), _mm256_mul_ps(one[1], other[1])] }
    }
    #[inline(always)]
    unsafe fn mul_add(one: TwoFloats, other: TwoFloats, sum: TwoFloats) -> TwoFloats {
        unsafe { [_mm256_fmadd_ps(one[0], other[0], sum[0]), _mm256_fmadd_ps(one[1], other[1], sum[1])] }
    }
    #[inline(always)]
    unsafe fn mul_sub(one: TwoFloats, other: TwoFloats, sum: TwoFloats) -> TwoFloats {
        unsafe { [_mm256_fnmadd_ps(one[0], other[0], sum[0]), _mm256_fnmadd_ps(one[1], other[1], sum[1])] }
    }
    #[inline(always)]
    unsafe fn magnitudes(values: TwoFloats) -> TwoInts {
        unsafe { both!(values, half => _mm256_and_si256(_mm256_castps_si256(half), _mm256_set1_epi32(i32::MAX))) }
    }
    #[inline(always)]
    unsafe fn max_ints(one: TwoInts, other: TwoInts) -> TwoInts {
        unsafe { [_mm256_max_epi32(one[0], other[0]), _mm256_max_epi32(one[1], other[1])] }
    }
    #[inline(always)]
    unsafe fn largest(ints: TwoInts) -> i32 {
        unsafe {
            let eight = _mm256_max_epi32(ints[0], ints[1]);
            let four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
            let two = _mm_max_epi32(four, _mm_shuffle_epi32::<0b00_00_11_10>(four));
            _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32::<0b00_00_00_01>(two)))
        }
    }
    #[inline(always)]
    unsafe fn total(ints: TwoInts) -> i32 {
        unsafe {
            let eight = _mm256_add_epi32(ints[0], ints[1]);
            let four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
            let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b00_00_11_10>(four));
            _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b00_00_00_01>(two)))
        }
    }
    #[inline(always)]
    unsafe fn round(values: TwoFloats) -> TwoInts {
        unsafe { both!(values, half => _mm256_cvtps_epi32(half)) }
    }
    #[inline(always)]
    unsafe fn store_i8(to: *mut i8, ints: TwoInts) {
        unsafe {
            let pairs = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(ints[0], ints[1]));
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
            _mm_storeu_si128(to.cast(), bytes);
        }
    }
}
