//! Vector types: registers and the instructions on them.

use super::layout::{GROUP, PANEL, STEP_BYTES};

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
    /// Holds the lanes to a range.
    unsafe fn clamp_int(value: Self::Int, least: i32, greatest: i32) -> Self::Int;
    /// Writes the lanes as bf16, rounded to nearest, ties to even; a NaN stays one.
    unsafe fn store_bf16(self, to: *mut u8);

    /// `sum + Σ a_i·b_i` over the four bytes of each lane, those of `a` unsigned unless [`Lanes::CODE_OFFSET`] says
    /// otherwise, those of `b` from −127 to 127. Exact.
    unsafe fn dot_bytes(sum: Self::Int, a: Self::Int, b: Self::Int) -> Self::Int;
    /// `fma(a₀, b₀, fma(a₁, b₁, sum))` over the two bf16 of each lane. Subnormal numbers may count as zero.
    unsafe fn dot_pairs(sum: Self, a: Self::Int, b: Self::Int) -> Self;
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
