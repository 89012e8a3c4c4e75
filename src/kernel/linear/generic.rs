//! The algorithm, once, over any vector type. Over `f32`, one lane at a time, it is the specification.
//!
//! Everything here is `#[inline(always)]`: it is compiled inside the entry points of each instruction set, and only
//! there may the compiler use that set's instructions.

use super::activation::Activation;
use super::lanes::{AHEAD, Lanes};
use super::layout::{GROUP, PANEL, STEP_BYTES};
use super::math::activate;
use super::row_scale::RowScale;

/// A type of packed weights: how a step of the product is computed.
pub(super) trait Step<V: Lanes>: Sized {
    /// The type of a register of sums.
    type Sum: Copy;
    /// The type of a register of weights or activations.
    type Value: Copy;
    /// The parts of a step, each computed for all rows and outputs before the next.
    const PARTS: usize = 1;
    unsafe fn zero() -> Self::Sum;
    unsafe fn load(from: *const u8, part: usize) -> Self::Value;
    unsafe fn broadcast(from: *const u8) -> Self::Value;
    unsafe fn step(sum: Self::Sum, a: Self::Value, b: Self::Value) -> Self::Sum;
    unsafe fn store(sum: Self::Sum, to: *mut u8);
    /// [`product`], or what does the same by other instructions.
    #[inline(always)]
    unsafe fn product<const R: usize, const C: usize>(a: *const u8, b: *const u8, steps: usize, tile: *mut u8) {
        // SAFETY: the caller's promise, passed on.
        unsafe { product::<V, Self, R, C>(a, b, steps, tile) }
    }
}

/// One f32 per step.
pub(super) struct F32Step;
/// Two bf16 per step.
pub(super) struct Bf16Step;
/// Four bytes per step.
pub(super) struct Int8Step;

// In each method: the caller keeps the contract of `Lanes`.
impl<V: Lanes> Step<V> for F32Step {
    type Sum = V;
    type Value = V;

    #[inline(always)]
    unsafe fn zero() -> V {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { V::splat(0.0) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8, _part: usize) -> V {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { V::load(from.cast()) }
    }

    #[inline(always)]
    unsafe fn broadcast(from: *const u8) -> V {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { V::splat(from.cast::<f32>().read()) }
    }

    #[inline(always)]
    unsafe fn step(sum: V, a: V, b: V) -> V {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { a.mul_add(b, sum) }
    }

    #[inline(always)]
    unsafe fn store(sum: V, to: *mut u8) {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { sum.store(to.cast()) }
    }
}

impl<V: Lanes> Step<V> for Bf16Step {
    type Sum = V;
    type Value = V::Int;
    const PARTS: usize = V::PAIR_PARTS;

    #[inline(always)]
    unsafe fn zero() -> V {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { V::splat(0.0) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8, part: usize) -> V::Int {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { V::part_of_pairs(load_for_part::<V>(from, V::PAIR_PARTS), part) }
    }

    #[inline(always)]
    unsafe fn broadcast(from: *const u8) -> V::Int {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { V::splat_int(from.cast::<i32>().read()) }
    }

    #[inline(always)]
    unsafe fn step(sum: V, a: V::Int, b: V::Int) -> V {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { V::dot_pairs(sum, a, b) }
    }

    #[inline(always)]
    unsafe fn store(sum: V, to: *mut u8) {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { sum.store(to.cast()) }
    }
}

impl<V: Lanes> Step<V> for Int8Step {
    type Sum = V::Int;
    type Value = V::Int;
    const PARTS: usize = V::BYTE_PARTS;

    #[inline(always)]
    unsafe fn zero() -> V::Int {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { V::splat_int(0) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8, part: usize) -> V::Int {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { V::part_of_bytes(load_for_part::<V>(from, V::BYTE_PARTS), part) }
    }

    #[inline(always)]
    unsafe fn broadcast(from: *const u8) -> V::Int {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { V::splat_int(from.cast::<i32>().read()) }
    }

    #[inline(always)]
    unsafe fn step(sum: V::Int, a: V::Int, b: V::Int) -> V::Int {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { V::dot_bytes(sum, a, b) }
    }

    #[inline(always)]
    unsafe fn store(sum: V::Int, to: *mut u8) {
        // SAFETY: the caller keeps the contract of `Lanes`.
        unsafe { V::store_int(sum, to) }
    }

    #[inline(always)]
    unsafe fn product<const R: usize, const C: usize>(a: *const u8, b: *const u8, steps: usize, tile: *mut u8) {
        // SAFETY: the caller's promise, passed on.
        unsafe {
            match V::BYTE_MATRICES {
                true => V::product_of_bytes::<R, C>(a, b, steps, tile),
                false => product::<V, Self, R, C>(a, b, steps, tile),
            }
        }
    }
}

/// A register of weights of a step with this many parts. Where there are several it is read for each: kept from one to
/// the next, it would take a register from the sums, which need nearly all.
///
/// # Safety
/// As [`Step::load`]; aligned to a register.
#[inline(always)]
unsafe fn load_for_part<V: Lanes>(from: *const u8, parts: usize) -> V::Int {
    // SAFETY: the caller's promise.
    unsafe { if parts == 1 { V::load_int(from) } else { from.cast::<V::Int>().read_volatile() } }
}

/// The products of `R` rows of activations with `C` registers of outputs: `steps` steps, in ascending order of k.
///
/// `a` is a tile of [`super::activations`] of `R` rows, `b` the part of a panel's first step that belongs to the
/// outputs. The sums go to `tile`, [`PANEL`] to the row.
///
/// # Safety
/// The instruction set must be there; tile and panel can be read for `steps` steps, a multiple of [`GROUP`], and
/// `tile` written for `R` rows. The panel is aligned to [`ALIGNMENT`](super::layout::ALIGNMENT).
#[inline(always)]
pub(super) unsafe fn product<V: Lanes, S: Step<V>, const R: usize, const C: usize>(
    mut a: *const u8,
    mut b: *const u8,
    steps: usize,
    tile: *mut u8,
) {
    // SAFETY: the caller's promise, passed on; a group of a tile has 64 bytes per row and part, a step of a panel
    // 128.
    unsafe {
        let mut sums = [[S::zero(); C]; R];
        for _ in 0..steps / GROUP {
            for step in 0..GROUP {
                V::prefetch(b.wrapping_add(AHEAD));
                V::prefetch(b.wrapping_add(AHEAD + 64));
                for part in 0..S::PARTS {
                    let mut weights = [S::load(b, part); C];
                    for (c, weights) in weights.iter_mut().enumerate().skip(1) {
                        *weights = S::load(b.add(c * V::LANES * 4), part);
                    }
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let value = S::broadcast(a.add(((r * GROUP + step) * S::PARTS + part) * 4));
                        for (sum, weights) in sums.iter_mut().zip(weights) {
                            *sum = S::step(*sum, value, weights);
                        }
                    }
                }
                b = b.add(STEP_BYTES);
            }
            a = a.add(R * GROUP * 4 * S::PARTS);
        }
        for (r, sums) in sums.iter().enumerate() {
            for (c, sum) in sums.iter().enumerate() {
                S::store(*sum, tile.add((r * PANEL + c * V::LANES) * 4));
            }
        }
    }
}

/// What becomes of a row of sums.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    /// For int8: the row's scale and zero; each output's scale and the sum of its weights, [`PANEL`] of each.
    pub(super) scales: Option<(RowScale, &'a [f32], &'a [i32])>,
    /// [`PANEL`] of them.
    pub(super) bias: &'a [f32],
    pub(super) activation: Activation,
    /// [`PANEL`] of them, added at last.
    pub(super) residual: Option<&'a [f32]>,
}

/// Finishes a row of [`PANEL`] sums.
///
/// # Safety
/// The instruction set must be there; sums and `out` have [`PANEL`] elements.
#[inline(always)]
pub(super) unsafe fn finish<V: Lanes>(sums: *const u8, finish: Finish<'_>, out: *mut f32) {
    let Finish { scales, bias, activation, residual } = finish;
    assert!(bias.len() == PANEL && residual.is_none_or(|residual| residual.len() == PANEL), "a panel's outputs");
    for at in (0..PANEL).step_by(V::LANES) {
        // SAFETY: the caller's promise, and the lengths that were just checked; `at` leaves room for a register.
        unsafe {
            let bias = V::load(bias.as_ptr().add(at));
            let value = match scales {
                None => V::load(sums.cast::<f32>().add(at)).add(bias),
                Some((row, scales, totals)) => {
                    let zero = V::splat_int(V::CODE_OFFSET - row.zero);
                    let sum = V::load_int(sums.add(at * 4));
                    let total = V::load_int(totals.as_ptr().add(at).cast());
                    let exact = V::add_int(sum, V::mul_int(zero, total));
                    let scale = V::load(scales.as_ptr().add(at)).mul(V::splat(row.scale));
                    V::of_int(exact).mul_add(scale, bias)
                }
            };
            let value = activate(activation, value);
            let value = match residual {
                None => value,
                Some(residual) => value.add(V::load(residual.as_ptr().add(at))),
            };
            value.store(out.add(at));
        }
    }
}
