//! AVX2 with FMA: eight f32 per register.

use std::arch::x86_64::*;

use super::lanes::Lanes;
use super::layout::STEP_BYTES;
use super::x86::shared_methods;

/// Whether this machine has what the kernel needs.
pub(super) fn is_detected() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

// In each method: the instruction set is there, and the pointer is valid, because `Lanes` asks that of its callers.
impl Lanes for __m256 {
    const LANES: usize = 8;
    const ROWS: usize = 6;
    type Int = __m256i;

    shared_methods! {
        int: __m256i,
        splat: _mm256_set1_ps,
        load: _mm256_loadu_ps,
        store: _mm256_storeu_ps,
        add: _mm256_add_ps,
        sub: _mm256_sub_ps,
        mul: _mm256_mul_ps,
        div: _mm256_div_ps,
        mul_add: _mm256_fmadd_ps,
        min: _mm256_min_ps,
        max: _mm256_max_ps,
        round: _mm256_cvtps_epi32,
        of_int: _mm256_cvtepi32_ps,
        splat_int: _mm256_set1_epi32,
        add_int: _mm256_add_epi32,
        mul_int: _mm256_mullo_epi32,
        min_int: _mm256_min_epi32,
        max_int: _mm256_max_epi32,
    }

    #[inline(always)]
    unsafe fn if_negative(self, yes: Self, no: Self) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(self, _mm256_setzero_ps())) }
    }

    #[inline(always)]
    unsafe fn power_of_two(exponent: __m256i) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(exponent, _mm256_set1_epi32(127)))) }
    }

    #[inline(always)]
    unsafe fn reduce(self, with: impl Fn(f32, f32) -> f32) -> f32 {
        let mut lanes = [0.0; 8];
        // SAFETY: the caller keeps the contract of `Lanes`; there is room for eight.
        unsafe { self.store(lanes.as_mut_ptr()) };
        lanes[1..].iter().fold(lanes[0], |sum, &lane| with(sum, lane))
    }

    #[inline(always)]
    unsafe fn load_int(from: *const u8) -> __m256i {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store_int(value: __m256i, to: *mut u8) {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { _mm256_storeu_si256(to.cast(), value) }
    }

    #[inline(always)]
    unsafe fn store_bytes(value: __m256i, to: *mut u8) {
        // SAFETY: the caller keeps the contract of `Lanes`. The lowest byte of each lane, gathered in each half.
        unsafe {
            let pick = _mm256_set1_epi64x(0x0c08_0400);
            let halves = _mm256_shuffle_epi8(value, pick);
            let (low, high) = (_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
            _mm_storel_epi64(to.cast(), _mm_unpacklo_epi32(low, high));
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u8) {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe {
            let bits = _mm256_castps_si256(self);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(self, self));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
            let upper = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, is_nan));
            let packed = _mm256_packus_epi32(upper, upper);
            let (low, high) = (_mm256_castsi256_si128(packed), _mm256_extracti128_si256::<1>(packed));
            _mm_storeu_si128(to.cast(), _mm_unpacklo_epi64(low, high));
        }
    }

    /// The instruction that multiplies bytes saturates, so they are widened first: the even ones and the odd ones of
    /// each pair.
    #[inline(always)]
    unsafe fn dot_bytes(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe {
            let (even, odd) = (_mm256_and_si256(a, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(a));
            let even = _mm256_madd_epi16(even, _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b)));
            let odd = _mm256_madd_epi16(odd, _mm256_srai_epi16::<8>(b));
            _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
        }
    }

    /// A bf16 is the upper half of the f32 of the same value.
    #[inline(always)]
    unsafe fn dot_pairs(sum: Self, a: __m256i, b: __m256i) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe {
            let upper = |pair| _mm256_castsi256_ps(_mm256_and_si256(pair, _mm256_set1_epi32(-0x1_0000)));
            let lower = |pair| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pair));
            _mm256_fmadd_ps(lower(a), lower(b), _mm256_fmadd_ps(upper(a), upper(b), sum))
        }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const u8, stride: usize, to: *mut u8, _: bool) {
        for (quarter, half) in [0, 1, 2, 3].into_iter().flat_map(|quarter| [(quarter, 0), (quarter, 1)]) {
            // SAFETY: the caller keeps the contract of `Lanes`: eight rows per quarter, of twice 32 bytes each, and as
            // many steps; a quarter of a step is 32 bytes, so that it is aligned where `to` is.
            unsafe {
                let rows = std::array::from_fn(|r| Self::load_int(from.add((quarter * 8 + r) * stride + half * 32)));
                for (step, column) in transposed(rows).into_iter().enumerate() {
                    let to = to.add((half * 8 + step) * STEP_BYTES + quarter * 32);
                    if to.addr().is_multiple_of(32) {
                        _mm256_stream_si256(to.cast(), column);
                    } else {
                        Self::store_int(column, to);
                    }
                }
            }
        }
    }
}

/// Transposes eight rows of eight 4-byte values.
///
/// # Safety
/// AVX2 must be there.
#[inline(always)]
unsafe fn transposed(rows: [__m256i; 8]) -> [__m256i; 8] {
    // SAFETY: the caller's promise. Values are interleaved in pairs, pairs in fours; then the halves are put in order.
    unsafe {
        let mut pairs = rows;
        for i in 0..4 {
            pairs[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        let mut fours = pairs;
        for i in 0..2 {
            fours[4 * i] = _mm256_unpacklo_epi64(pairs[4 * i], pairs[4 * i + 2]);
            fours[4 * i + 1] = _mm256_unpackhi_epi64(pairs[4 * i], pairs[4 * i + 2]);
            fours[4 * i + 2] = _mm256_unpacklo_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
            fours[4 * i + 3] = _mm256_unpackhi_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
        }
        let mut columns = fours;
        for c in 0..4 {
            columns[c] = _mm256_permute2x128_si256::<0x20>(fours[c], fours[4 + c]);
            columns[4 + c] = _mm256_permute2x128_si256::<0x31>(fours[c], fours[4 + c]);
        }
        columns
    }
}
