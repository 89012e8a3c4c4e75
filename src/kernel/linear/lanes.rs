//! Vector types: registers and the instructions on them.

use super::layout::{GROUP, PANEL, STEP_BYTES};

/// The distance at which weights are asked for ahead, in bytes.
const AHEAD: usize = 1024;

/// Memory that is read next, of which each product asks for a part while it computes.
#[derive(Clone, Copy)]
pub(super) struct Next {
    pub(super) from: *const u8,
    /// Cache lines per group of steps.
    pub(super) lines: usize,
}

impl Next {
    /// Asks for what belongs to the next group of steps.
    #[inline(always)]
    pub(super) fn ask<V: Lanes>(&mut self) {
        for _ in 0..self.lines {
            V::prefetch_far(self.from);
            self.from = self.from.wrapping_add(64);
        }
    }
}

/// Asks for the weights of a step that comes soon after this one.
#[inline(always)]
pub(super) fn ask_ahead<V: Lanes>(step: *const u8) {
    V::prefetch(step.wrapping_add(AHEAD));
    V::prefetch(step.wrapping_add(AHEAD + 64));
}

/// A register full of f32 with the integers of the same width, and the instructions of one instruction set on them.
///
/// # Safety of every method
/// The instruction set must be there, and pointers must be valid for what the method says. No alignment is needed.
pub(super) trait Lanes: Copy + Sized {
    /// The number of f32 in a register.
    const LANES: usize;
    /// The rows of the widest tile whose sums fit into the registers.
    const ROWS: usize;
    /// What the codes of int8 activations are less than 0 … 255, where the instruction set multiplies signed bytes.
    const CODE_OFFSET: i32 = 0;
    /// The parts of a step of int8: 1, or 2 where the instruction set multiplies only what is widened. The weights are
    /// widened a part at a time, so that registers suffice; the activations when they are converted.
    const BYTE_PARTS: usize = 1;
    /// Whether the instruction set multiplies matrices of bytes: [`Lanes::product_of_bytes`].
    const BYTE_MATRICES: bool = false;
    /// The parts of a step of bf16, as [`Lanes::BYTE_PARTS`].
    const PAIR_PARTS: usize = 1;
    /// A register full of i32, or of four bytes or two bf16 in the place of each.
    type Int: Copy;

    /// One value in every lane.
    unsafe fn splat(value: f32) -> Self;
    /// The next [`Lanes::LANES`] f32.
    unsafe fn load(from: *const f32) -> Self;
    /// Writes every lane.
    unsafe fn store(self, to: *mut f32);
    /// `self + other`, and so on, each rounded once.
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self · x + sum`, rounded once.
    unsafe fn mul_add(self, x: Self, sum: Self) -> Self;
    /// The lesser of two numbers; where one is a NaN, `other`.
    unsafe fn min(self, other: Self) -> Self;
    /// The greater of two numbers; where one is a NaN, `other`.
    unsafe fn max(self, other: Self) -> Self;
    /// `yes` in the lanes where `self` is less than zero, else `no`.
    unsafe fn if_negative(self, yes: Self, no: Self) -> Self;
    /// The nearest integer, of two the even one. The value must fit.
    unsafe fn round(self) -> Self::Int;
    /// The nearest f32, of two the even one.
    unsafe fn of_int(value: Self::Int) -> Self;
    /// 2 to the power of an integer from −126 to 127.
    unsafe fn power_of_two(exponent: Self::Int) -> Self;
    /// The sum, the least and the greatest of all lanes, for values whose order of summation does not matter.
    unsafe fn reduce(self, with: impl Fn(f32, f32) -> f32) -> f32;

    /// One integer in every lane.
    unsafe fn splat_int(value: i32) -> Self::Int;
    /// The next [`Lanes::LANES`] times four bytes.
    unsafe fn load_int(from: *const u8) -> Self::Int;
    /// Writes every lane.
    unsafe fn store_int(value: Self::Int, to: *mut u8);
    /// `a + b`, wrapping.
    unsafe fn add_int(a: Self::Int, b: Self::Int) -> Self::Int;
    /// `a · b`, the lower half.
    unsafe fn mul_int(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Writes the lanes, held to 0..=255 or −128..=127 before, as one byte each.
    unsafe fn store_bytes(value: Self::Int, to: *mut u8);
    /// Writes the lanes of four registers: those of activations, held to 0..=255 less [`Lanes::CODE_OFFSET`], as
    /// [`Lanes::dot_bytes`] takes them; those of weights, from −128 to 127, as one byte each.
    #[inline(always)]
    unsafe fn store_codes(values: [Self::Int; 4], of_activations: bool, to: *mut u8) {
        for (i, value) in values.into_iter().enumerate() {
            // SAFETY: the caller keeps the contract: there is room for four registers' lanes.
            unsafe {
                if !of_activations {
                    Self::store_bytes(value, to.add(i * Self::LANES));
                    continue;
                }
                let code = Self::add_int(Self::clamp_int(value, 0, 255), Self::splat_int(-Self::CODE_OFFSET));
                let to = to.add(i * Self::LANES * Self::BYTE_PARTS);
                match Self::BYTE_PARTS {
                    1 => Self::store_bytes(code, to),
                    _ => Self::store_words(code, to),
                }
            }
        }
    }
    /// Holds the lanes to a range.
    unsafe fn clamp_int(value: Self::Int, least: i32, greatest: i32) -> Self::Int;
    /// Writes the lanes as bf16, rounded to nearest, ties to even; a NaN stays one.
    unsafe fn store_bf16(self, to: *mut u8);
    /// Writes codes of activations where there are two [`Lanes::BYTE_PARTS`]: two bytes each, those of a step with an
    /// even number first.
    #[inline(always)]
    unsafe fn store_words(_codes: Self::Int, _to: *mut u8) {
        unreachable!("there is one part");
    }
    /// Writes activations, rounded to bf16, as [`Lanes::dot_pairs`] takes them: twice [`Lanes::PAIR_PARTS`] bytes each,
    /// and the parts of a step one after another.
    #[inline(always)]
    unsafe fn store_pairs(self, to: *mut u8) {
        // SAFETY: the caller keeps the contract.
        unsafe { self.store_bf16(to) }
    }

    /// A part of a step's four bytes of weights in each lane, as [`Lanes::dot_bytes`] takes it.
    #[inline(always)]
    unsafe fn part_of_bytes(b: Self::Int, _part: usize) -> Self::Int {
        b
    }
    /// `sum + Σ a_i·b_i` over the codes of a part in each lane, those of `a` unsigned unless [`Lanes::CODE_OFFSET`]
    /// says otherwise, those of `b` from −127 to 127. Exact.
    unsafe fn dot_bytes(sum: Self::Int, a: Self::Int, b: Self::Int) -> Self::Int;
    /// A part of a step's two bf16 of weights in each lane, as [`Lanes::dot_pairs`] takes it: the second is first.
    #[inline(always)]
    unsafe fn part_of_pairs(b: Self::Int, _part: usize) -> Self::Int {
        b
    }
    /// `fma(a₀, b₀, fma(a₁, b₁, sum))` over the two bf16 of each lane; or, a part at a time, `fma(a₁, b₁, sum)` and
    /// then that with a₀ and b₀. Subnormal numbers may count as zero.
    unsafe fn dot_pairs(sum: Self, a: Self::Int, b: Self::Int) -> Self;
    /// What [`super::generic::product`] does to bytes, where there is [`Lanes::BYTE_MATRICES`].
    #[inline(always)]
    unsafe fn product_of_bytes<const R: usize, const C: usize>(
        _a: *const u8,
        _b: *const u8,
        _steps: usize,
        _tile: *mut u8,
        _next: Next,
    ) {
        unreachable!("there are no matrices of bytes");
    }
    /// Asks for a cache line that will be read soon.
    fn prefetch(line: *const u8);
    /// Asks for a cache line that will be read later, which the second-level cache will do for.
    fn prefetch_far(line: *const u8) {
        let _ = line;
    }
    /// Asks for a cache line that will be written soon.
    fn prefetch_out(line: *const u8) {
        let _ = line;
    }

    /// Writes [`GROUP`] steps of a panel: from the bytes of [`PANEL`] rows of weights, `stride` bytes apart, to the
    /// steps, one after another; past the caches if `streams`, the instruction set can and `to` is aligned to 64 bytes.
    unsafe fn transpose(from: *const u8, stride: usize, to: *mut u8, streams: bool) {
        let _ = streams;
        for step in 0..GROUP {
            for row in 0..PANEL {
                // SAFETY: the caller keeps the contract: 64 bytes per row, and `GROUP` steps.
                unsafe {
                    let value = from.add(row * stride + step * 4).cast::<u32>().read_unaligned();
                    to.add(step * STEP_BYTES + row * 4).cast::<u32>().write_unaligned(value);
                }
            }
        }
    }
    /// Orders what [`Lanes::transpose`] wrote before all that follows.
    fn fence() {}
}
