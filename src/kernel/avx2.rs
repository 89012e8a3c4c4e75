//! AVX2 with FMA and F16C: eight f32 per vector.

use std::arch::x86_64::*;

use super::generic::{self, Vector, affine, place};
use super::product::ProductTile;
use super::tile::Tile;

/// Whether this machine has what [`combine`] needs.
pub(super) fn is_detected() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// Combines one tile.
///
/// # Safety
/// [`is_detected`] must have said so.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn combine(tile: Tile<'_>) {
    // SAFETY: the caller's promise is all that is asked.
    unsafe { generic::combine::<__m256, 8>(tile) }
}

/// Computes some elements of a matrix of low rank.
///
/// # Safety
/// [`is_detected`] must have said so.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn product(tile: ProductTile<'_>) {
    // SAFETY: the caller's promise is all that is asked.
    unsafe { generic::product::<__m256, 2>(tile) }
}

// In each method: the instruction set is there, and the pointer is valid for eight elements, because `Vector` asks
// that of its callers. `loadu` and `storeu` take any alignment.
impl Vector for __m256 {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const u8) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { _mm256_loadu_ps(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`. A bf16 is the upper half of the f32 of the same value.
        unsafe {
            let halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
        }
    }

    /// Up to eight levels fit into a register, as a table of values: no code then needs to become a number.
    #[inline(always)]
    unsafe fn decoder<const P: usize, const Q: usize>(scale: f32, offset: f32) -> [Self; 2] {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe {
            let [scale, zero] = affine::<Self>(scale, offset);
            if P + Q > 3 {
                return [scale, zero];
            }
            let codes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            // Fewer levels are there again and again: whatever stands above a code then does not matter.
            let codes = _mm256_and_si256(codes, _mm256_set1_epi32((1 << (P + Q)) - 1));
            let table = scale.mul_add(_mm256_cvtepi32_ps(codes), zero);
            [table, table]
        }
    }

    #[inline(always)]
    unsafe fn decode<const P: usize, const Q: usize>([scale, zero]: [Self; 2], codes: *const u8, at: usize) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`; the second plane begins where the first one ends.
        unsafe {
            let low = plane::<P>(codes, at);
            let codes = if Q == 0 {
                low
            } else {
                let low = _mm256_and_si256(low, _mm256_set1_epi32((1 << P) - 1));
                let high = plane_above::<Q, P>(codes.add(8 * P), at);
                _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi32(((1 << Q) - 1) << P)))
            };
            if P + Q <= 3 {
                return _mm256_permutevar8x32_ps(scale, codes);
            }
            let codes = if P == 8 || Q > 0 { codes } else { _mm256_and_si256(codes, _mm256_set1_epi32((1 << P) - 1)) };
            scale.mul_add(_mm256_cvtepi32_ps(codes), zero)
        }
    }

    #[inline(always)]
    unsafe fn mul_add(self, x: Self, sum: Self) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { _mm256_fmadd_ps(self, x, sum) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { _mm256_add_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { _mm256_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        // SAFETY: the caller keeps the contract of `Vector`: `to` is valid for the lanes, and is aligned to 32 bytes.
        unsafe { _mm256_stream_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn fence() {
        // SAFETY: SSE is part of x86-64.
        unsafe { _mm_sfence() }
    }

    #[inline(always)]
    fn prefetch(line: *const u8) {
        // SAFETY: SSE is part of x86-64, and prefetching never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
    }
}

/// The bytes of a plane of `P` bits that hold eight codes, shifted down to them: other codes stand above.
///
/// # Safety
/// The instruction set is there, and the plane can be read to its end.
#[inline(always)]
unsafe fn plane<const P: usize>(from: *const u8, at: usize) -> __m256i {
    // SAFETY: the caller's promise, passed on.
    unsafe { plane_above::<P, 0>(from, at) }
}

/// Reads the codes of a plane with `B` bits below each. What stands there is no part of them.
///
/// # Safety
/// The instruction set is there, and the plane can be read to its end.
#[inline(always)]
unsafe fn plane_above<const P: usize, const B: usize>(from: *const u8, at: usize) -> __m256i {
    let (byte, shift) = place(P, at);
    // SAFETY: the caller's promise; the plane is a multiple of eight bytes long, and so is `byte`.
    unsafe {
        let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.add(byte).cast()));
        let bytes = _mm256_sllv_epi32(bytes, _mm256_set1_epi32(B as i32));
        _mm256_srlv_epi32(bytes, _mm256_set1_epi32(shift as i32))
    }
}
