//! AVX2 with FMA: eight f32 per register, with and without the dot product of bytes.

use std::arch::asm;
use std::arch::x86_64::*;

use super::lanes::Lanes;
use super::layout::STEP_BYTES;
use super::x86::shared_methods;

/// Whether this machine has what the kernel needs.
pub(super) fn is_detected() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// Whether it multiplies bytes four at a time.
pub(super) fn has_vnni() -> bool {
    is_detected() && is_x86_feature_detected!("avxvnni")
}

/// Bytes are multiplied as words.
pub(super) const WIDENED: u8 = 0;
/// By AVX-VNNI.
pub(super) const VNNI: u8 = 1;
/// By the same instruction in AVX-512's encoding, so that the rest can be tested where AVX-VNNI is missing.
#[cfg(test)]
pub(super) const VNNI_512: u8 = 2;

/// Eight f32, and the way in which bytes are multiplied.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Avx2<const BYTES: u8>(__m256);

// In each method: the instruction set is there, and the pointer is valid, because `Lanes` asks that of its callers.
impl<const BYTES: u8> Lanes for Avx2<BYTES> {
    const LANES: usize = 8;
    const ROWS: usize = 6;
    /// The instruction of AVX2 that multiplies bytes saturates, so they are widened.
    const BYTE_PARTS: usize = if BYTES == WIDENED { 2 } else { 1 };
    const PAIR_PARTS: usize = 2;
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
        and_int: _mm256_and_si256,
        shift_left: _mm256_slli_epi32,
        shift_left_words: _mm256_slli_epi16,
        shift_right_words: _mm256_srai_epi16,
        shuffle: _mm256_shuffle_epi32,
    }

    #[inline(always)]
    unsafe fn if_negative(self, yes: Self, no: Self) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { Self(_mm256_blendv_ps(no.0, yes.0, _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, _mm256_setzero_ps()))) }
    }

    #[inline(always)]
    unsafe fn power_of_two(exponent: __m256i) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe {
            let bits = _mm256_slli_epi32::<23>(_mm256_add_epi32(exponent, _mm256_set1_epi32(127)));
            Self(_mm256_castsi256_ps(bits))
        }
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
            let upper = _mm256_srli_epi32::<16>(self.rounded_to_bf16());
            let packed = _mm256_packus_epi32(upper, upper);
            let (low, high) = (_mm256_castsi256_si128(packed), _mm256_extracti128_si256::<1>(packed));
            _mm_storeu_si128(to.cast(), _mm_unpacklo_epi64(low, high));
        }
    }

    #[inline(always)]
    unsafe fn store_words(codes: __m256i, to: *mut u8) {
        // SAFETY: the caller keeps the contract of `Lanes`: sixteen bytes.
        unsafe {
            let parts = _mm256_shuffle_epi32::<0b11_01_10_00>(codes);
            let words = _mm256_packus_epi32(parts, parts);
            let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.cast(), _mm_unpacklo_epi64(low, high));
        }
    }

    #[inline(always)]
    unsafe fn dot_bytes(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe {
            match BYTES {
                VNNI => _mm256_dpbusd_avx_epi32(sum, a, b),
                #[cfg(test)]
                VNNI_512 => _mm256_dpbusd_epi32(sum, a, b),
                _ => add_now(sum, _mm256_madd_epi16(a, b)),
            }
        }
    }

    #[inline(always)]
    unsafe fn dot_pairs(sum: Self, a: __m256i, b: __m256i) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { Self(_mm256_fmadd_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), sum.0)) }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const u8, stride: usize, to: *mut u8, streams: bool) {
        // Both halves of a cache line soon after another, as they leave past the caches together.
        for (half, quarter) in [0, 1].into_iter().flat_map(|half| [0, 1, 2, 3].map(|quarter| (half, quarter))) {
            // SAFETY: the caller keeps the contract of `Lanes`: eight rows per quarter, of twice 32 bytes each, and as
            // many steps; a quarter of a step is 32 bytes, so that it is aligned where `to` is.
            unsafe {
                let rows = std::array::from_fn(|r| Self::load_int(from.add((quarter * 8 + r) * stride + half * 32)));
                for (step, column) in transposed(rows).into_iter().enumerate() {
                    let to = to.add((half * 8 + step) * STEP_BYTES + quarter * 32);
                    if streams && to.addr().is_multiple_of(32) {
                        _mm256_stream_si256(to.cast(), column);
                    } else {
                        Self::store_int(column, to);
                    }
                }
            }
        }
    }
}

impl<const BYTES: u8> Avx2<BYTES> {
    /// The bits of each lane, rounded to bf16 in the upper half; the lower half is left over.
    ///
    /// # Safety
    /// AVX2 must be there.
    #[inline(always)]
    unsafe fn rounded_to_bf16(self) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe {
            let bits = _mm256_castps_si256(self.0);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
            _mm256_blendv_epi8(rounded, quiet, is_nan)
        }
    }
}

/// `a + b`, in this order: the compiler would add up the products of both parts of a step first, which are too many for
/// the registers.
#[inline]
#[target_feature(enable = "avx2")]
fn add_now(mut a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: the instruction reads and writes the registers that are named.
    unsafe {
        asm!(
            "vpaddd {a}, {a}, {b}",
            a = inout(ymm_reg) a, b = in(ymm_reg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    a
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
