//! The algorithm, once, over any vector type. Over `f32`, one lane at a time, it is the specification.
//!
//! Everything here is `#[inline(always)]`: it is compiled inside the entry points of each instruction set, and only
//! there may the compiler use that set's instructions.

use super::activation::Activation;
use super::lanes::{Lanes, Next, ask_ahead};
use super::layout::{GROUP, PANEL, STEP_BYTES};
use super::math::activate;
use super::precision::Precision;
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
    unsafe fn product<const R: usize, const C: usize>(
        a: *const u8,
        b: *const u8,
        steps: usize,
        tile: *mut u8,
        next: Next,
    ) {
        // SAFETY: the caller's promise, passed on.
        unsafe { product::<V, Self, R, C>(a, b, steps, tile, next) }
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
        unsafe { V::splat(from.cast::<f32>().read_unaligned()) }
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
        unsafe { V::splat_int(from.cast::<i32>().read_unaligned()) }
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
        unsafe { V::splat_int(from.cast::<i32>().read_unaligned()) }
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
    unsafe fn product<const R: usize, const C: usize>(
        a: *const u8,
        b: *const u8,
        steps: usize,
        tile: *mut u8,
        next: Next,
    ) {
        // SAFETY: the caller's promise, passed on.
        unsafe {
            match V::BYTE_MATRICES {
                true => V::product_of_bytes::<R, C>(a, b, steps, tile, next),
                false => product::<V, Self, R, C>(a, b, steps, tile, next),
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

/// A tile of activations by a panel of weights.
pub(super) struct Product {
    pub(super) precision: Precision,
    /// Rows of the tile: at least 1 and at most [`Lanes::ROWS`].
    pub(super) rows: usize,
    pub(super) a: *const u8,
    pub(super) panel: *const u8,
    pub(super) steps: usize,
    /// The place of the sums, [`PANEL`] to the row.
    pub(super) sums: *mut u8,
    pub(super) next: Next,
    /// The place that results are written to next, [`PANEL`] of each row, so many values apart.
    pub(super) out: *const f32,
    pub(super) out_stride: usize,
}

/// The entry point for products of an instruction set.
pub(super) type Multiply = unsafe fn(&Product);

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
    mut next: Next,
) {
    // SAFETY: the caller's promise, passed on; a group of a tile has 64 bytes per row and part, a step of a panel
    // 128.
    unsafe {
        let mut sums = [[S::zero(); C]; R];
        for _ in 0..steps / GROUP {
            next.ask::<V>();
            for step in 0..GROUP {
                ask_ahead::<V>(b);
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

/// What becomes of the sums of a tile with a panel.
pub(super) struct Finish<'a> {
    /// [`PANEL`] sums of each row.
    pub(super) sums: *const u8,
    pub(super) rows: usize,
    /// For int8: each row's scale and zero; each output's scale and the sum of its weights, [`PANEL`] of each.
    pub(super) scales: Option<(&'a [RowScale], &'a [f32], &'a [i32])>,
    /// [`PANEL`] of them.
    pub(super) bias: &'a [f32],
    pub(super) activation: Activation,
    /// [`PANEL`] of them, if there is one.
    pub(super) gain: Option<&'a [f32]>,
    /// What is added at last, [`PANEL`] values of each row, `stride` values apart; null for nothing.
    pub(super) residual: *const f32,
    pub(super) stride: usize,
    /// The place of the results, as for the residual.
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
}

/// Finishes the sums of a tile.
///
/// # Safety
/// The instruction set must be there; sums, residual and `out` are what [`Finish`] says.
#[inline(always)]
pub(super) unsafe fn finish<V: Lanes>(finish: &Finish<'_>) {
    let &Finish { sums, rows, scales, bias, activation, gain, residual, stride, out, out_stride } = finish;
    assert!(bias.len() == PANEL && gain.is_none_or(|gain| gain.len() == PANEL), "a panel's outputs");
    assert!(scales.is_none_or(|(rows_too, s, t)| rows_too.len() == rows && s.len() == PANEL && t.len() == PANEL));
    for at in (0..PANEL).step_by(V::LANES) {
        // SAFETY: the caller's promise, and the lengths that were just checked; `at` leaves room for a register.
        unsafe {
            let bias = V::load(bias.as_ptr().add(at));
            let gain = gain.map(|gain| V::load(gain.as_ptr().add(at)));
            let of_outputs = scales.map(|(of_rows, scales, totals)| {
                (of_rows, V::load(scales.as_ptr().add(at)), V::load_int(totals.as_ptr().add(at).cast()))
            });
            for r in 0..rows {
                let sum = sums.add((r * PANEL + at) * 4);
                let value = match of_outputs {
                    None => V::load(sum.cast()).add(bias),
                    Some((of_rows, scale, total)) => {
                        let row = of_rows.get_unchecked(r);
                        let zero = V::splat_int(V::CODE_OFFSET - row.zero);
                        let exact = V::add_int(V::load_int(sum), V::mul_int(zero, total));
                        V::of_int(exact).mul_add(scale.mul(V::splat(row.scale)), bias)
                    }
                };
                let value = activate(activation, value);
                let value = match (gain, residual.is_null()) {
                    (None, true) => value,
                    (None, false) => value.add(V::load(residual.add(r * stride + at))),
                    (Some(gain), true) => value.mul(gain),
                    (Some(gain), false) => value.mul_add(gain, V::load(residual.add(r * stride + at))),
                };
                value.store(out.add(r * out_stride + at));
            }
        }
    }
}
