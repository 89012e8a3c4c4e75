//! NEON, on 64-bit ARM: four f32 per vector.

use std::arch::aarch64::*;

use super::generic::{self, Vector, affine, place};
use super::tile::Tile;

/// Whether this machine has what [`combine`] needs.
pub(super) fn is_detected() -> bool {
    std::arch::is_aarch64_feature_detected!("neon")
}

/// Combines one tile.
///
/// # Safety
/// [`is_detected`] must have said so.
#[target_feature(enable = "neon")]
pub(super) unsafe fn combine(tile: Tile<'_>) {
    // SAFETY: the caller's promise is all that is asked.
    unsafe { generic::combine::<float32x4_t, 16>(tile) }
}

// In each method: the instruction set is there, and the pointer is valid for four elements, because `Vector` asks
// that of its callers. The loads are of bytes, so that they take any alignment.
impl Vector for float32x4_t {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const u8) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { vreinterpretq_f32_u8(vld1q_u8(from)) }
    }

    /// Stable Rust names the instruction that converts f16 only from 1.94 on, so this is done with integers: the f16's
    /// exponent and mantissa in the places of an f32's are the value times 2⁻¹¹², subnormals among them; the
    /// multiplication is exact. An f16's infinities and NaNs would become finite and get their exponent back.
    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe {
            let halves = vmovl_u16(vreinterpret_u16_u8(vld1_u8(from)));
            let sign = vshlq_n_u32::<16>(vandq_u32(halves, vdupq_n_u32(0x8000)));
            let rest = vandq_u32(halves, vdupq_n_u32(0x7fff));
            let scale = vdupq_n_f32(f32::from_bits((127 + 112) << 23));
            let value = vmulq_f32(vreinterpretq_f32_u32(vshlq_n_u32::<13>(rest)), scale);
            let special = vandq_u32(vcgeq_u32(rest, vdupq_n_u32(0x7c00)), vdupq_n_u32(0x7f80_0000));
            vreinterpretq_f32_u32(vorrq_u32(vorrq_u32(vreinterpretq_u32_f32(value), special), sign))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`. A bf16 is the upper half of the f32 of the same value.
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(vld1_u8(from)))) }
    }

    #[inline(always)]
    unsafe fn decoder<const P: usize, const Q: usize>(scale: f32, offset: f32) -> [Self; 2] {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { affine(scale, offset) }
    }

    #[inline(always)]
    unsafe fn decode<const P: usize, const Q: usize>([scale, zero]: [Self; 2], codes: *const u8, at: usize) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`; the second plane begins where the first one ends.
        unsafe {
            let low = plane::<P>(codes, at);
            let codes = if Q == 0 {
                low
            } else {
                let high = plane::<Q>(codes.add(8 * P), at);
                vorrq_u32(low, vshlq_u32(high, vdupq_n_s32(P as i32)))
            };
            scale.mul_add(vcvtq_f32_u32(codes), zero)
        }
    }

    #[inline(always)]
    unsafe fn mul_add(self, x: Self, sum: Self) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { vfmaq_f32(sum, self, x) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { vaddq_f32(self, other) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { vst1q_f32(to, self) }
    }

    /// ARM's non-temporal stores have no intrinsic.
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { self.store(to) }
    }

    #[inline(always)]
    unsafe fn fence() {}

    /// Left to the hardware: there is no intrinsic, and no machine at hand to measure on.
    #[inline(always)]
    fn prefetch(_: *const u8) {}
}

/// Four codes of a plane of `P` bits.
///
/// # Safety
/// The instruction set is there, and the plane can be read to its end.
#[inline(always)]
unsafe fn plane<const P: usize>(from: *const u8, at: usize) -> uint32x4_t {
    let (byte, shift) = place(P, at);
    // SAFETY: the caller's promise; the plane is a multiple of eight bytes long, and `byte` one of four.
    unsafe {
        let bytes = vcreate_u8(from.add(byte).cast::<u32>().read_unaligned().into());
        let codes = vmovl_u16(vget_low_u16(vmovl_u8(bytes)));
        if P == 8 {
            return codes;
        }
        // A negative shift to the left is one to the right.
        vandq_u32(vshlq_u32(codes, vdupq_n_s32(-(shift as i32))), vdupq_n_u32((1 << P) - 1))
    }
}
