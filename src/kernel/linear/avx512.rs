//! AVX-512: sixteen f32 per register, with and without the dot products of bytes (VNNI) and of bf16.

use std::arch::x86_64::*;

use super::lanes::Lanes;
use super::layout::STEP_BYTES;
use super::x86::shared_methods;

/// Whether this machine has what the kernel needs.
pub(super) fn is_detected() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && super::avx2::is_detected()
}

/// Whether it multiplies bytes four at a time.
pub(super) fn has_vnni() -> bool {
    is_detected() && is_x86_feature_detected!("avx512vnni")
}

/// Whether it multiplies bytes four at a time, and bf16 two at a time.
pub(super) fn has_bf16() -> bool {
    has_vnni() && is_x86_feature_detected!("avx512bf16")
}

/// Sixteen f32. With `VNNI`, the processor has the dot product of bytes, with `BF16` that of bf16.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Avx512<const VNNI: bool, const BF16: bool>(__m512);

// In each method: the instruction set is there, and the pointer is valid, because `Lanes` asks that of its callers.
impl<const VNNI: bool, const BF16: bool> Lanes for Avx512<VNNI, BF16> {
    const LANES: usize = 16;
    const ROWS: usize = 8;
    const BYTE_PARTS: usize = if VNNI { 1 } else { 2 };
    const PAIR_PARTS: usize = if BF16 { 1 } else { 2 };
    type Int = __m512i;

    shared_methods! {
        int: __m512i,
        splat: _mm512_set1_ps,
        load: _mm512_loadu_ps,
        store: _mm512_storeu_ps,
        add: _mm512_add_ps,
        sub: _mm512_sub_ps,
        mul: _mm512_mul_ps,
        div: _mm512_div_ps,
        mul_add: _mm512_fmadd_ps,
        min: _mm512_min_ps,
        max: _mm512_max_ps,
        round: _mm512_cvtps_epi32,
        of_int: _mm512_cvtepi32_ps,
        splat_int: _mm512_set1_epi32,
        add_int: _mm512_add_epi32,
        mul_int: _mm512_mullo_epi32,
        min_int: _mm512_min_epi32,
        max_int: _mm512_max_epi32,
        and_int: _mm512_and_si512,
        shift_left: _mm512_slli_epi32,
        shift_left_words: _mm512_slli_epi16,
        shift_right_words: _mm512_srai_epi16,
        shuffle: _mm512_shuffle_epi32,
    }

    #[inline(always)]
    unsafe fn if_negative(self, yes: Self, no: Self) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe {
            let is_negative = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, _mm512_setzero_ps());
            Self(_mm512_mask_blend_ps(is_negative, no.0, yes.0))
        }
    }

    #[inline(always)]
    unsafe fn power_of_two(exponent: __m512i) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe {
            let bits = _mm512_slli_epi32::<23>(_mm512_add_epi32(exponent, _mm512_set1_epi32(127)));
            Self(_mm512_castsi512_ps(bits))
        }
    }

    #[inline(always)]
    unsafe fn reduce(self, with: impl Fn(f32, f32) -> f32) -> f32 {
        let mut lanes = [0.0; 16];
        // SAFETY: the caller keeps the contract of `Lanes`; there is room for sixteen.
        unsafe { self.store(lanes.as_mut_ptr()) };
        lanes[1..].iter().fold(lanes[0], |sum, &lane| with(sum, lane))
    }

    #[inline(always)]
    unsafe fn load_int(from: *const u8) -> __m512i {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store_int(value: __m512i, to: *mut u8) {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { _mm512_storeu_si512(to.cast(), value) }
    }

    #[inline(always)]
    unsafe fn store_bytes(value: __m512i, to: *mut u8) {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(value)) }
    }

    /// Packed pairwise, which puts 128-bit parts out of order and holds to the range by itself.
    #[inline(always)]
    unsafe fn store_codes([a, b, c, d]: [__m512i; 4], of_activations: bool, to: *mut u8) {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe {
            if of_activations && !VNNI {
                for (i, codes) in [a, b, c, d].into_iter().enumerate() {
                    Self::store_words(Self::clamp_int(codes, 0, 255), to.add(i * 32));
                }
                return;
            }
            let (ab, cd) = (_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
            let mixed = if of_activations { _mm512_packus_epi16(ab, cd) } else { _mm512_packs_epi16(ab, cd) };
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            Self::store_int(_mm512_permutexvar_epi32(order, mixed), to);
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u8) {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe {
            let upper = _mm512_srli_epi32::<16>(self.rounded_to_bf16());
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(upper));
        }
    }

    #[inline(always)]
    unsafe fn store_words(codes: __m512i, to: *mut u8) {
        // SAFETY: the caller keeps the contract of `Lanes`: thirty-two bytes.
        unsafe {
            let parts = _mm512_shuffle_epi32::<0b11_01_10_00>(codes);
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(parts));
        }
    }

    #[inline(always)]
    unsafe fn dot_bytes(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe {
            match VNNI {
                true => _mm512_dpbusd_epi32(sum, a, b),
                false => _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)),
            }
        }
    }

    /// The instruction adds the product of the upper halves first.
    #[inline(always)]
    unsafe fn dot_pairs(sum: Self, a: __m512i, b: __m512i) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`; the types have the same bits.
        unsafe {
            if BF16 {
                let pairs = |register| std::mem::transmute::<__m512i, __m512bh>(register);
                return Self(_mm512_dpbf16_ps(sum.0, pairs(a), pairs(b)));
            }
            Self(_mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum.0))
        }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const u8, stride: usize, to: *mut u8, streams: bool) {
        for half in 0..2 {
            // SAFETY: the caller keeps the contract of `Lanes`: sixteen rows per half, of 64 bytes each, and as many
            // steps; half a step is 64 bytes, so that it is aligned where `to` is.
            unsafe {
                let rows = std::array::from_fn(|r| Self::load_int(from.add((half * 16 + r) * stride)));
                for (step, column) in transposed(rows).into_iter().enumerate() {
                    let to = to.add(step * STEP_BYTES + half * 64);
                    if streams && to.addr().is_multiple_of(64) {
                        _mm512_stream_si512(to.cast(), column);
                    } else {
                        Self::store_int(column, to);
                    }
                }
            }
        }
    }
}

impl<const VNNI: bool, const BF16: bool> Avx512<VNNI, BF16> {
    /// The bits of each lane, rounded to bf16 in the upper half; the lower half is left over. By integers: the
    /// instruction that converts takes subnormal numbers for zero.
    ///
    /// # Safety
    /// AVX-512F must be there.
    #[inline(always)]
    unsafe fn rounded_to_bf16(self) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
            _mm512_mask_blend_epi32(is_nan, rounded, quiet)
        }
    }
}

/// Transposes sixteen rows of sixteen 4-byte values.
///
/// # Safety
/// AVX-512F must be there.
#[inline(always)]
unsafe fn transposed(rows: [__m512i; 16]) -> [__m512i; 16] {
    // SAFETY: the caller's promise. Values are interleaved in pairs, pairs in fours; then the 128-bit parts, which hold
    // four values of one column each, are put in order.
    unsafe {
        let mut pairs = rows;
        for i in 0..8 {
            pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        // fours[4·i + c] holds column c of each 128-bit part, of the rows 4·i to 4·i + 3.
        let mut fours = pairs;
        for i in 0..4 {
            fours[4 * i] = _mm512_unpacklo_epi64(pairs[4 * i], pairs[4 * i + 2]);
            fours[4 * i + 1] = _mm512_unpackhi_epi64(pairs[4 * i], pairs[4 * i + 2]);
            fours[4 * i + 2] = _mm512_unpacklo_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
            fours[4 * i + 3] = _mm512_unpackhi_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
        }
        let mut columns = fours;
        for c in 0..4 {
            let [a, b, d, e] = [fours[c], fours[4 + c], fours[8 + c], fours[12 + c]];
            let (low_ab, high_ab) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xee>(a, b));
            let (low_de, high_de) = (_mm512_shuffle_i32x4::<0x44>(d, e), _mm512_shuffle_i32x4::<0xee>(d, e));
            columns[c] = _mm512_shuffle_i32x4::<0x88>(low_ab, low_de);
            columns[4 + c] = _mm512_shuffle_i32x4::<0xdd>(low_ab, low_de);
            columns[8 + c] = _mm512_shuffle_i32x4::<0x88>(high_ab, high_de);
            columns[12 + c] = _mm512_shuffle_i32x4::<0xdd>(high_ab, high_de);
        }
        columns
    }
}
