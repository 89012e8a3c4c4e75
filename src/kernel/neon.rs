//! NEON, on 64-bit ARM: eight f32 in two registers.
//!
//! Pairs, since what is loaded for eight values fills a register of bytes or halves where that for four fills half of
//! one, and since pairs are what is stored past the caches.

use std::arch::aarch64::*;
use std::arch::asm;

use super::generic::{self, Vector, affine, place};
use super::product::ProductTile;
use super::tile::Tile;
use crate::tensor::{BLOCK, BlockFormat, SCALE_BYTES};

/// Whether this machine has what [`combine`] needs.
pub(super) fn is_detected() -> bool {
    std::arch::is_aarch64_feature_detected!("neon")
}

/// Combines one tile.
///
/// # Safety
/// [`is_detected`] must have said so.
#[inline(never)] // So that it has a name of its own, which scripts/kernel-cost looks for.
#[target_feature(enable = "neon")]
pub(super) unsafe fn combine(tile: Tile<'_>) {
    // SAFETY: the caller's promise is all that is asked.
    unsafe { generic::combine::<float32x4x2_t, 8>(tile) }
}

/// Computes some elements of a matrix of low rank.
///
/// # Safety
/// [`is_detected`] must have said so.
#[target_feature(enable = "neon")]
pub(super) unsafe fn product(tile: ProductTile<'_>) {
    // SAFETY: the caller's promise is all that is asked.
    unsafe { generic::product::<float32x4x2_t, 2>(tile) }
}

// In each method: the instruction set is there, and the pointer is valid for eight elements, because `Vector` asks
// that of its callers. The loads are of bytes, so that they take any alignment.
impl Vector for float32x4x2_t {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { float32x4x2_t(vdupq_n_f32(value), vdupq_n_f32(value)) }
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const u8) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { float32x4x2_t(vreinterpretq_f32_u8(vld1q_u8(from)), vreinterpretq_f32_u8(vld1q_u8(from.add(16)))) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe {
            let halves = vreinterpretq_f16_u8(vld1q_u8(from));
            float32x4x2_t(vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { from_bf16(vreinterpretq_u16_u8(vld1q_u8(from))) }
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
            let sixteen = codes_of::<P, Q>(codes, at / 16 * 16);
            let codes = if at.is_multiple_of(16) { vget_low_u8(sixteen) } else { vget_high_u8(sixteen) };
            let codes = vmovl_u8(codes);
            let codes =
                float32x4x2_t(vcvtq_f32_u32(vmovl_u16(vget_low_u16(codes))), vcvtq_f32_u32(vmovl_high_u16(codes)));
            scale.mul_add(codes, zero)
        }
    }

    /// Converting integers takes longer than putting their floats together: the upper halves of up to sixteen levels
    /// are looked up in two tables, and 2^23 + code is code below one exponent. Then d·(code − offset) is one product,
    /// and exact: both factors have at most eight bits. It is made of |d|, so that what is zero is +0.0, as the
    /// specification has it; the sign is in the other factor.
    #[inline(always)]
    unsafe fn add_whole<const P: usize, const Q: usize, const N: usize>(
        a: Self,
        format: BlockFormat,
        block: *const u8,
        sums: &mut [Self; N],
    ) -> bool {
        // As integers, the sizes of bf16 are in order, and infinity and NaN beyond them.
        const LARGEST: u16 = (120 + 127) << 7;
        // SAFETY: the caller keeps the contract of `Vector`; a block has four times sixteen codes, for two sums each.
        unsafe {
            let scale = block.cast::<u16>().read_unaligned();
            let size = scale & 0x7fff;
            // Beyond, d·offset itself may be infinite, and every value with it.
            if size >= LARGEST {
                let values = dequantized(format, block);
                for (sum, values) in sums.iter_mut().zip(values.chunks_exact(Self::LANES)) {
                    *sum = a.mul_add(Self::load_f32(values.as_ptr().cast()), *sum);
                }
                return true;
            }
            let tables = const { &[Tables::of(P + Q, 1.0), Tables::of(P + Q, -1.0), Tables::ZERO] };
            let tables = tables[if size == 0 { 2 } else { usize::from(scale >> 15) }].unseen();
            let size = f32::from_bits(u32::from(size) << 16);
            let codes = block.add(SCALE_BYTES);
            for (part, sums) in sums.chunks_exact_mut(2).enumerate() {
                let levels = tables.levels::<P, Q>(codes_of::<P, Q>(codes, 16 * part));
                for (sum, pair) in sums.iter_mut().zip(levels) {
                    let values = float32x4x2_t(vmulq_n_f32(pair.0, size), vmulq_n_f32(pair.1, size));
                    *sum = a.mul_add(values, *sum);
                }
            }
        }
        true
    }

    #[inline(always)]
    unsafe fn mul_add(self, x: Self, sum: Self) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { float32x4x2_t(vfmaq_f32(sum.0, self.0, x.0), vfmaq_f32(sum.1, self.1, x.1)) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { float32x4x2_t(vaddq_f32(self.0, other.0), vaddq_f32(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe {
            vst1q_f32(to, self.0);
            vst1q_f32(to.add(4), self.1);
        }
    }

    /// A pair at a time; there is no intrinsic.
    #[inline(always)]
    unsafe fn stream(self, to: *mut f32) {
        // SAFETY: the caller keeps the contract of `Vector`. Nothing else than the eight elements is written.
        unsafe {
            asm!("stnp {0:q}, {1:q}, [{2}]", in(vreg) self.0, in(vreg) self.1, in(reg) to,
                options(nostack, preserves_flags));
        }
    }

    /// What is written by pairs past the caches is in order with what follows as any store is.
    #[inline(always)]
    unsafe fn fence() {}

    #[inline(always)]
    fn prefetch(line: *const u8) {
        // SAFETY: prefetching never faults, and changes nothing.
        unsafe { asm!("prfm pldl2keep, [{0}]", in(reg) line, options(nomem, nostack, preserves_flags)) }
    }
}

/// Eight bf16, each the upper half of the f32 of the same value.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn from_bf16(halves: uint16x8_t) -> float32x4x2_t {
    // SAFETY: the caller's promise.
    let (low, high) = unsafe { (vshll_n_u16::<16>(vget_low_u16(halves)), vshll_high_n_u16::<16>(halves)) };
    // SAFETY: as above.
    unsafe { float32x4x2_t(vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high)) }
}

/// Sixteen codes of a plane of `P` bits and one of `Q` bits above them behind it (0: there is none), from a multiple of
/// sixteen on.
///
/// # Safety
/// The instruction set is there, and both planes can be read to their ends.
#[inline(always)]
unsafe fn codes_of<const P: usize, const Q: usize>(from: *const u8, at: usize) -> uint8x16_t {
    // SAFETY: the caller's promise; the second plane begins where the first one ends.
    unsafe {
        let low = plane::<P>(from, at);
        if Q == 0 {
            return low;
        }
        vorrq_u8(low, vshlq_u8(plane::<Q>(from.add(8 * P), at), vdupq_n_s8(P as i8)))
    }
}

/// Sixteen codes of a plane of `P` bits, from a multiple of sixteen on.
///
/// # Safety
/// The instruction set is there, and the plane can be read to its end.
#[inline(always)]
unsafe fn plane<const P: usize>(from: *const u8, at: usize) -> uint8x16_t {
    let (byte, shift) = place(P, at);
    // SAFETY: the caller's promise; the plane is eight bytes long, or a multiple of sixteen as `byte` is then.
    unsafe {
        if P == 1 {
            // One bit of all bytes, then the next bit of them.
            let bits = vcombine_u8(vdup_n_u8(1 << shift), vdup_n_u8(2 << shift));
            let bytes = vld1_u8(from);
            return vandq_u8(vtstq_u8(vcombine_u8(bytes, bytes), bits), vdupq_n_u8(1));
        }
        let bytes = vld1q_u8(from.add(byte));
        if P == 8 {
            return bytes;
        }
        // A negative shift to the left is one to the right.
        vandq_u8(vshlq_u8(bytes, vdupq_n_s8(-(shift as i8))), vdupq_n_u8((1u8 << (P % 8)) - 1))
    }
}

/// The values of a block by the specification.
///
/// # Safety
/// `block` is a whole block of `format`.
#[cold]
#[inline(never)]
unsafe fn dequantized(format: BlockFormat, block: *const u8) -> [f32; BLOCK] {
    // SAFETY: the caller's promise.
    format.dequantize(unsafe { std::slice::from_raw_parts(block, format.block_bytes()) })
}

/// What turns codes into code − offset, or for scales below zero into offset − code.
#[repr(align(16))]
struct Tables {
    /// The upper two bytes of the f32 of each code, of at most four bits; the lower two are zero.
    upper: [[u8; 16]; 2],
    /// The upper half of ±2^23.
    exponent: u16,
    /// ±(2^23 + offset).
    less: f32,
}

impl Tables {
    /// Turns any code into +0.0, or into what is so once it is multiplied by a scale of zero.
    const ZERO: Self = Self { upper: [[0; 16]; 2], exponent: 0, less: 0.0 };

    /// For codes of so many bits, and a sign.
    const fn of(bits: usize, sign: f32) -> Self {
        let offset = match bits {
            2 => BlockFormat::Q2.offset(),
            3 => BlockFormat::Q3.offset(),
            4 => BlockFormat::Q4.offset(),
            6 => BlockFormat::Q6.offset(),
            _ => BlockFormat::Q8.offset(),
        };
        let mut upper = [[0; 16]; 2];
        let mut code = 0;
        while code < 16 {
            // A difference, which is +0.0 where both are equal; a product would have the sign.
            let level = sign * code as f32 - sign * offset;
            let [_, _, low, high] = level.to_le_bytes();
            (upper[0][code], upper[1][code]) = (low, high);
            code += 1;
        }
        let large = (1 << 23) as f32;
        Self { upper, exponent: ((sign * large).to_bits() >> 16) as u16, less: sign * (large + offset) }
    }

    /// The same, as memory that the compiler knows nothing of: it would keep all formats' in registers over the whole
    /// loop, and the sums on the stack for that.
    #[inline(always)]
    fn unseen(&self) -> &Self {
        let mut address: *const Self = self;
        // SAFETY: no instruction; the address stays that of `self`.
        unsafe {
            asm!("/* {0} */", inout(reg) address, options(nomem, nostack, preserves_flags));
            &*address
        }
    }

    /// ±(code − offset) of sixteen codes of `P + Q` bits, which these tables are for.
    ///
    /// # Safety
    /// The instruction set is there.
    #[inline(always)]
    unsafe fn levels<const P: usize, const Q: usize>(&self, codes: uint8x16_t) -> [float32x4x2_t; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            if P + Q <= 4 {
                let low = vqtbl1q_u8(vld1q_u8(self.upper[0].as_ptr()), codes);
                let high = vqtbl1q_u8(vld1q_u8(self.upper[1].as_ptr()), codes);
                let (first, second) = (vzip1q_u8(low, high), vzip2q_u8(low, high));
                return [from_bf16(vreinterpretq_u16_u8(first)), from_bf16(vreinterpretq_u16_u8(second))];
            }
            let (exponent, less) = (vdupq_n_u16(self.exponent), vdupq_n_f32(self.less));
            let (first, second) = (vmovl_u8(vget_low_u8(codes)), vmovl_high_u8(codes));
            [from_codes(first, exponent, less), from_codes(second, exponent, less)]
        }
    }
}

/// ±(2^23 + code) of eight codes, by the upper half that all have, less what is given.
///
/// # Safety
/// The instruction set is there.
#[inline(always)]
unsafe fn from_codes(codes: uint16x8_t, exponent: uint16x8_t, less: float32x4_t) -> float32x4x2_t {
    // SAFETY: the caller's promise.
    unsafe {
        let (low, high) = (vzip1q_u16(codes, exponent), vzip2q_u16(codes, exponent));
        let (low, high) = (vreinterpretq_f32_u16(low), vreinterpretq_f32_u16(high));
        float32x4x2_t(vsubq_f32(low, less), vsubq_f32(high, less))
    }
}
