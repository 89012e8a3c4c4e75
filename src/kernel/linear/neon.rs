//! NEON, on 64-bit ARM: four f32 per register, with and without the instructions that multiply bytes and bf16.
//!
//! Stable Rust cannot name those, so they are written in assembly.

use std::arch::aarch64::*;
use std::arch::asm;

use super::lanes::{Lanes, Next, ask_ahead};
use super::layout::{GROUP, PANEL, STEP_BYTES};

/// Whether this machine has what the kernel needs.
pub(super) fn is_detected() -> bool {
    std::arch::is_aarch64_feature_detected!("neon")
}

/// Whether it multiplies bytes four at a time.
pub(super) fn has_dot() -> bool {
    std::arch::is_aarch64_feature_detected!("dotprod")
}

/// Whether it multiplies matrices of bytes, and bf16, too.
pub(super) fn has_matrices() -> bool {
    has_dot() && std::arch::is_aarch64_feature_detected!("i8mm") && std::arch::is_aarch64_feature_detected!("bf16")
}

/// What every processor has.
pub(super) const PLAIN: u8 = 0;
/// The dot product of signed bytes.
pub(super) const DOT: u8 = 1;
/// And that of matrices of them (i8mm), and the product of bf16.
pub(super) const MATRICES: u8 = 2;

/// Four f32, and what multiplies bytes and bf16.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Neon<const LEVEL: u8>(float32x4_t);

// In each method: the instruction set is there, and the pointer is valid, because `Lanes` asks that of its callers.
impl<const LEVEL: u8> Lanes for Neon<LEVEL> {
    const LANES: usize = 4;
    const ROWS: usize = 6;
    /// The dot product is of signed bytes, and the codes of activations are unsigned.
    const CODE_OFFSET: i32 = if LEVEL >= DOT { 128 } else { 0 };
    const BYTE_MATRICES: bool = LEVEL >= MATRICES;
    const PAIR_PARTS: usize = if LEVEL >= MATRICES { 1 } else { 2 };
    type Int = int32x4_t;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { Self(vdupq_n_f32(value)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { Self(vreinterpretq_f32_u8(vld1q_u8(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { vst1q_u8(to.cast(), vreinterpretq_u8_f32(self.0)) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { Self(vaddq_f32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { Self(vsubq_f32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { Self(vmulq_f32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { Self(vdivq_f32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, x: Self, sum: Self) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { Self(vfmaq_f32(sum.0, self.0, x.0)) }
    }

    /// By a comparison: the instruction gives a NaN where one of them is.
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { Self(vbslq_f32(vcltq_f32(self.0, other.0), self.0, other.0)) }
    }

    /// By a comparison, as [`Lanes::min`].
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { Self(vbslq_f32(vcgtq_f32(self.0, other.0), self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn if_negative(self, yes: Self, no: Self) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { Self(vbslq_f32(vcltzq_f32(self.0), yes.0, no.0)) }
    }

    #[inline(always)]
    unsafe fn round(self) -> int32x4_t {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { vcvtnq_s32_f32(self.0) }
    }

    #[inline(always)]
    unsafe fn of_int(value: int32x4_t) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { Self(vcvtq_f32_s32(value)) }
    }

    #[inline(always)]
    unsafe fn power_of_two(exponent: int32x4_t) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { Self(vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(exponent, vdupq_n_s32(127))))) }
    }

    #[inline(always)]
    unsafe fn reduce(self, with: impl Fn(f32, f32) -> f32) -> f32 {
        let mut lanes = [0.0; 4];
        // SAFETY: the caller keeps the contract of `Lanes`; there is room for four.
        unsafe { self.store(lanes.as_mut_ptr()) };
        lanes[1..].iter().fold(lanes[0], |sum, &lane| with(sum, lane))
    }

    #[inline(always)]
    unsafe fn splat_int(value: i32) -> int32x4_t {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { vdupq_n_s32(value) }
    }

    #[inline(always)]
    unsafe fn load_int(from: *const u8) -> int32x4_t {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { vreinterpretq_s32_u8(vld1q_u8(from)) }
    }

    #[inline(always)]
    unsafe fn store_int(value: int32x4_t, to: *mut u8) {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { vst1q_u8(to, vreinterpretq_u8_s32(value)) }
    }

    #[inline(always)]
    unsafe fn add_int(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { vaddq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_int(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { vmulq_s32(a, b) }
    }

    #[inline(always)]
    unsafe fn store_bytes(value: int32x4_t, to: *mut u8) {
        // SAFETY: the caller keeps the contract of `Lanes`: four bytes.
        unsafe {
            let halves = vmovn_s32(value);
            let bytes = vmovn_s16(vcombine_s16(halves, halves));
            to.cast::<u32>().write_unaligned(vget_lane_u32::<0>(vreinterpret_u32_s8(bytes)));
        }
    }

    #[inline(always)]
    unsafe fn clamp_int(value: int32x4_t, least: i32, greatest: i32) -> int32x4_t {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { vminq_s32(vmaxq_s32(value, vdupq_n_s32(least)), vdupq_n_s32(greatest)) }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u8) {
        // SAFETY: the caller keeps the contract of `Lanes`: eight bytes.
        unsafe { vst1_u8(to, vreinterpret_u8_u16(vshrn_n_u32::<16>(self.rounded_to_bf16()))) }
    }

    /// Upper halves, swapped in pairs: the second of each pair is the first part.
    #[inline(always)]
    unsafe fn store_pairs(self, to: *mut u8) {
        // SAFETY: the caller keeps the contract of `Lanes`: sixteen bytes, or eight.
        unsafe {
            if Self::PAIR_PARTS == 1 {
                return self.store_bf16(to);
            }
            let upper = vandq_u32(self.rounded_to_bf16(), vdupq_n_u32(0xffff_0000));
            vst1q_u8(to, vreinterpretq_u8_u32(vrev64q_u32(upper)));
        }
    }

    #[inline(always)]
    unsafe fn dot_bytes(sum: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t {
        // SAFETY: the caller keeps the contract of `Lanes`. A product of two bytes fits into 16 bits, as no weight's
        // code is −128. The instruction reads and writes the registers that are named.
        unsafe {
            if LEVEL >= DOT {
                let mut sum = sum;
                asm!(
                    "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
                    sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
                    options(pure, nomem, nostack, preserves_flags),
                );
                return sum;
            }
            let (a, b) = (vreinterpretq_u8_s32(a), vreinterpretq_s8_s32(b));
            let low = vmulq_s16(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(a))), vmovl_s8(vget_low_s8(b)));
            let high = vmulq_s16(vreinterpretq_s16_u16(vmovl_high_u8(a)), vmovl_high_s8(b));
            vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)))
        }
    }

    /// A bf16 is the upper half of the f32 of the same value.
    #[inline(always)]
    unsafe fn part_of_pairs(b: int32x4_t, part: usize) -> int32x4_t {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe {
            match (Self::PAIR_PARTS, part) {
                (1, _) => b,
                (_, 0) => vandq_s32(b, vdupq_n_s32(-0x1_0000)),
                _ => vshlq_n_s32::<16>(b),
            }
        }
    }

    /// The instructions are fused multiplications of the upper and of the lower halves. Those that take both at once
    /// (`bfdot`, `bfmmla`) round otherwise.
    #[inline(always)]
    unsafe fn dot_pairs(sum: Self, a: int32x4_t, b: int32x4_t) -> Self {
        // SAFETY: the caller keeps the contract of `Lanes`. The instructions read and write the registers that are
        // named.
        unsafe {
            if LEVEL >= MATRICES {
                let mut sum = sum.0;
                asm!(
                    "bfmlalt {sum:v}.4s, {a:v}.8h, {b:v}.8h",
                    "bfmlalb {sum:v}.4s, {a:v}.8h, {b:v}.8h",
                    sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b,
                    options(pure, nomem, nostack, preserves_flags),
                );
                return Self(sum);
            }
            Self(vfmaq_f32(sum.0, vreinterpretq_f32_s32(a), vreinterpretq_f32_s32(b)))
        }
    }

    /// Two rows by two outputs at a time, over eight bytes of each: two steps of four outputs are, interleaved, two
    /// steps of two outputs each. That the assembly is not `pure` keeps its order: the compiler would read many outputs
    /// ahead, and run out of registers.
    #[inline(always)]
    unsafe fn product_of_bytes<const R: usize, const C: usize>(
        mut a: *const u8,
        mut b: *const u8,
        steps: usize,
        tile: *mut u8,
        mut next: Next,
    ) {
        // SAFETY: the caller keeps the contract of `Lanes`; a group of a tile has 64 bytes per row. The instruction
        // reads and writes the registers that are named.
        unsafe {
            let mut sums = [[[vdupq_n_s32(0); 2]; C]; MAX_PAIRS];
            let pairs = R.div_ceil(2);
            for _ in 0..steps / GROUP {
                next.ask::<Self>();
                for step in (0..GROUP).step_by(2) {
                    ask_ahead::<Self>(b);
                    let row = |r: usize| vld1_u8(a.add((r.min(R - 1) * GROUP + step) * 4));
                    let mut rows = [vdupq_n_u8(0); MAX_PAIRS];
                    for (pair, rows) in rows.iter_mut().enumerate().take(pairs) {
                        *rows = vcombine_u8(row(2 * pair), row(2 * pair + 1));
                    }
                    for c in 0..C {
                        let even = Self::load_int(b.add(c * 16));
                        let odd = Self::load_int(b.add(STEP_BYTES + c * 16));
                        let outputs = [vzip1q_s32(even, odd), vzip2q_s32(even, odd)];
                        for (rows, sums) in rows.iter().zip(&mut sums).take(pairs) {
                            for (outputs, sum) in outputs.iter().zip(&mut sums[c]) {
                                asm!(
                                    "smmla {sum:v}.4s, {rows:v}.16b, {outputs:v}.16b",
                                    sum = inout(vreg) *sum, rows = in(vreg) *rows, outputs = in(vreg) *outputs,
                                    options(nomem, nostack, preserves_flags),
                                );
                            }
                        }
                    }
                    b = b.add(2 * STEP_BYTES);
                }
                a = a.add(R * GROUP * 4);
            }
            for (pair, sums) in sums.iter().enumerate().take(pairs) {
                for (c, sums) in sums.iter().enumerate() {
                    let [low, high] = sums.map(|sum| vreinterpretq_s64_s32(sum));
                    let to = tile.add((2 * pair * PANEL + c * 4) * 4);
                    Self::store_int(vreinterpretq_s32_s64(vzip1q_s64(low, high)), to);
                    if 2 * pair + 1 < R {
                        Self::store_int(vreinterpretq_s32_s64(vzip2q_s64(low, high)), to.add(PANEL * 4));
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn prefetch(line: *const u8) {
        // SAFETY: prefetching never faults, and touches no register.
        unsafe { asm!("prfm pldl1keep, [{line}]", line = in(reg) line, options(nostack, preserves_flags, readonly)) }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const u8, stride: usize, to: *mut u8, _: bool) {
        for (rows, steps) in (0..8).flat_map(|rows| (0..4).map(move |steps| (rows, steps))) {
            // SAFETY: the caller keeps the contract of `Lanes`: four rows at a time, of 64 bytes each, four steps at a
            // time of as many.
            unsafe {
                let row = |r: usize| vreinterpretq_u32_u8(vld1q_u8(from.add((rows * 4 + r) * stride + steps * 16)));
                let [a, b, c, d] = [row(0), row(1), row(2), row(3)];
                let [ab, ab_odd] = [vtrn1q_u32(a, b), vtrn2q_u32(a, b)];
                let [cd, cd_odd] = [vtrn1q_u32(c, d), vtrn2q_u32(c, d)];
                let low = |x, y| vtrn1q_u64(vreinterpretq_u64_u32(x), vreinterpretq_u64_u32(y));
                let high = |x, y| vtrn2q_u64(vreinterpretq_u64_u32(x), vreinterpretq_u64_u32(y));
                let columns = [low(ab, cd), low(ab_odd, cd_odd), high(ab, cd), high(ab_odd, cd_odd)];
                for (step, column) in columns.into_iter().enumerate() {
                    vst1q_u8(to.add((steps * 4 + step) * STEP_BYTES + rows * 16), vreinterpretq_u8_u64(column));
                }
            }
        }
    }
}

/// Pairs of rows of the widest tile.
const MAX_PAIRS: usize = 3;

impl<const LEVEL: u8> Neon<LEVEL> {
    /// The bits of each lane, rounded to bf16 in the upper half; the lower half is left over. By integers, which every
    /// processor has.
    ///
    /// # Safety
    /// NEON must be there.
    #[inline(always)]
    unsafe fn rounded_to_bf16(self) -> uint32x4_t {
        // SAFETY: the caller's promise.
        unsafe {
            let bits = vreinterpretq_u32_f32(self.0);
            let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
            let is_number = vceqq_f32(self.0, self.0);
            vbslq_u32(is_number, rounded, vorrq_u32(bits, vdupq_n_u32(0x40_0000)))
        }
    }
}
