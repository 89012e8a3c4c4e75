//! AVX-512: sixteen f32 per vector.

use std::arch::x86_64::*;

use super::generic::{self, Vector, affine, place};
use super::product::ProductTile;
use super::tile::Tile;

/// Whether this machine has what [`combine`] needs.
pub(super) fn is_detected() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

/// Combines one tile.
///
/// # Safety
/// [`is_detected`] must have said so.
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
pub(super) unsafe fn combine(tile: Tile<'_>) {
    // SAFETY: the caller's promise is all that is asked.
    unsafe { generic::combine::<__m512, 4>(tile) }
}

/// Computes some elements of a matrix of low rank.
///
/// # Safety
/// [`is_detected`] must have said so.
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
pub(super) unsafe fn product(tile: ProductTile<'_>) {
    // SAFETY: the caller's promise is all that is asked.
    unsafe { generic::product::<__m512, 4>(tile) }
}

// In each method: the instruction set is there, and the pointer is valid for sixteen elements, because `Vector` asks
// that of its callers. `loadu` and `storeu` take any alignment.
impl Vector for __m512 {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const u8) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { _mm512_loadu_ps(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`. A bf16 is the upper half of the f32 of the same value.
        unsafe {
            let halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
        }
    }

    /// Up to sixteen levels fit into a register, as a table of values: no code then needs to become a number.
    #[inline(always)]
    unsafe fn decoder<const P: usize, const Q: usize>(scale: f32, offset: f32) -> [Self; 2] {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe {
            let [scale, zero] = affine::<Self>(scale, offset);
            if P + Q > 4 {
                return [scale, zero];
            }
            let codes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            // Fewer levels are there again and again: whatever stands above a code then does not matter.
            let codes = _mm512_and_si512(codes, _mm512_set1_epi32((1 << (P + Q)) - 1));
            let table = scale.mul_add(_mm512_cvtepi32_ps(codes), zero);
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
                // Bits below P from the one, all others from the other.
                let high = plane_above::<Q, P>(codes.add(8 * P), at);
                _mm512_ternarylogic_epi32::<0xca>(_mm512_set1_epi32((1 << P) - 1), low, high)
            };
            if P + Q <= 4 {
                return _mm512_permutexvar_ps(codes, scale);
            }
            let codes = if P + Q == 8 { codes } else { _mm512_and_si512(codes, _mm512_set1_epi32((1 << (P + Q)) - 1)) };
            scale.mul_add(_mm512_cvtepi32_ps(codes), zero)
        }
    }

    #[inline(always)]
    unsafe fn mul_add(self, x: Self, sum: Self) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { _mm512_fmadd_ps(self, x, sum) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { _mm512_add_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { _mm512_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        // SAFETY: the caller keeps the contract of `Vector`: `to` is valid for the lanes, and is aligned to 64 bytes.
        unsafe { _mm512_stream_ps(to, self) }
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

/// The bytes of a plane of `P` bits that hold sixteen codes, shifted down to them: other codes stand above.
///
/// # Safety
/// The instruction set is there, and the plane can be read to its end.
#[inline(always)]
unsafe fn plane<const P: usize>(from: *const u8, at: usize) -> __m512i {
    // SAFETY: the caller's promise, passed on.
    unsafe { plane_above::<P, 0>(from, at) }
}

/// Reads the codes of a plane with `B` bits below each. What stands there is no part of them.
///
/// # Safety
/// The instruction set is there, and the plane can be read to its end.
#[inline(always)]
unsafe fn plane_above<const P: usize, const B: usize>(from: *const u8, at: usize) -> __m512i {
    let (byte, shift) = place(P, at);
    // SAFETY: the caller's promise; with two bits or more, the plane is a multiple of sixteen bytes long, and so is
    // `byte`. With one bit it is eight long, and `byte` is 0.
    unsafe {
        let shifts = _mm512_set1_epi32(shift as i32);
        let (bytes, shifts) = if P == 1 {
            // The upper eight codes are one bit further up in the same bytes.
            let bytes = _mm_loadl_epi64(from.cast());
            let further = _mm512_inserti64x4::<1>(_mm512_setzero_si512(), _mm256_set1_epi32(1));
            (_mm_unpacklo_epi64(bytes, bytes), _mm512_add_epi32(shifts, further))
        } else {
            (_mm_loadu_si128(from.add(byte).cast()), shifts)
        };
        let bytes = _mm512_sllv_epi32(_mm512_cvtepu8_epi32(bytes), _mm512_set1_epi32(B as i32));
        _mm512_srlv_epi32(bytes, shifts)
    }
}
