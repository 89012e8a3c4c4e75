//! The activations of MLPs, over any vector type: additions, multiplications and divisions in one order, so that every
//! instruction set gives the same bits.

use super::activation::Activation;
use super::lanes::Lanes;

/// Applies an activation.
///
/// # Safety
/// The instruction set must be there.
#[inline(always)]
pub(super) unsafe fn activate<V: Lanes>(activation: Activation, x: V) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        match activation {
            Activation::None => x,
            Activation::QuickGelu => times_sigmoid(x, x.mul(V::splat(1.702))),
            Activation::TanhGelu => {
                // ½·(1 + tanh y) is the sigmoid of 2y.
                let cube = x.mul(x).mul_add(V::splat(0.044_715), V::splat(1.0)).mul(x);
                times_sigmoid(x, cube.mul(V::splat(1.595_769)))
            }
            Activation::Gelu => gelu(x),
            Activation::Silu => times_sigmoid(x, x),
        }
    }
}

/// Gates a row: `silu(gate) · value`, the product rounded once.
///
/// # Safety
/// The instruction set must be there.
#[inline(always)]
pub(super) unsafe fn gate_row<V: Lanes>(gate: &[f32], value: &[f32], out: &mut [f32]) {
    let n = out.len();
    assert!(gate.len() == n && value.len() == n, "a gate and a value for each result");
    let whole = n / V::LANES * V::LANES;
    // SAFETY: the caller's promise: the instruction set is there, and what it has gives an f32 alone the same bits. A
    // register is read and written where all of the slices have one.
    unsafe {
        for at in (0..whole).step_by(V::LANES) {
            let gated = activate(Activation::Silu, V::load(gate.as_ptr().add(at)));
            gated.mul(V::load(value.as_ptr().add(at))).store(out.as_mut_ptr().add(at));
        }
        for i in whole..n {
            out[i] = activate(Activation::Silu, gate[i]) * value[i];
        }
    }
}

/// `x / (1 + exp(−y))`.
#[inline(always)]
unsafe fn times_sigmoid<V: Lanes>(x: V, y: V) -> V {
    // SAFETY: the caller's promise: the instruction set is there.
    unsafe { x.div(V::splat(1.0).add(exp(V::splat(0.0).sub(y)))) }
}

/// `exp(x)` for x held to −87 … 88: from 2e-38 to 1.7e38, 1e-7 of it wrong at most. A NaN gives any value.
///
/// x = n·ln 2 + r with |r| ≤ ½ ln 2, and exp(r) − 1 − r is a polynomial, fitted for the least greatest error.
#[inline(always)]
pub(super) unsafe fn exp<V: Lanes>(x: V) -> V {
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const COEFFICIENTS: [f32; 5] = [0.001_381_446_3, 0.008_368_781, 0.041_668_393, 0.166_665_2, 0.499_999_94];
    // SAFETY: the caller's promise: the instruction set is there. The clamped x gives an n from −126 to 127.
    unsafe {
        let x = x.max(V::splat(-87.0)).min(V::splat(88.0));
        let n = x.mul(V::splat(std::f32::consts::LOG2_E)).round();
        let multiple = V::of_int(n);
        let r = multiple.mul_add(V::splat(-LN_2_HIGH), x);
        let r = multiple.mul_add(V::splat(-LN_2_LOW), r);
        let series = polynomial(r, &COEFFICIENTS);
        let value = series.mul(r).mul_add(r, r).add(V::splat(1.0));
        value.mul(V::power_of_two(n))
    }
}

/// `½·x·(1 + erf(x/√2))`.
///
/// With z = |x|/√2 it is `½·x·erfc(z)` below zero and `x − ½·x·erfc(z)` above, and erfc(z) = exp(−z²)·P(t) with
/// t = 1 / (1 + 0.4·z), P fitted for the least greatest relative error, 6e-8.
#[inline(always)]
unsafe fn gelu<V: Lanes>(x: V) -> V {
    const COEFFICIENTS: [f32; 9] = [
        0.040_268_138,
        -0.135_474_18,
        0.073_848_434,
        0.099_722_49,
        0.071_513_124,
        0.196_961_02,
        0.200_959_09,
        0.226_575_64,
        0.225_626_3,
    ];
    // SAFETY: the caller's promise: the instruction set is there.
    unsafe {
        let z = x.max(V::splat(0.0).sub(x)).mul(V::splat(std::f32::consts::FRAC_1_SQRT_2));
        let t = V::splat(1.0).div(z.mul_add(V::splat(0.4), V::splat(1.0)));
        let erfc = polynomial(t, &COEFFICIENTS).mul(t).mul(exp(V::splat(0.0).sub(z.mul(z))));
        let below = x.mul(V::splat(0.5)).mul(erfc);
        x.if_negative(below, x.sub(below))
    }
}

/// The polynomial with these coefficients, that of the highest power first.
#[inline(always)]
unsafe fn polynomial<V: Lanes>(x: V, coefficients: &[f32]) -> V {
    // SAFETY: the caller's promise: the instruction set is there.
    unsafe {
        let mut sum = V::splat(coefficients[0]);
        for &coefficient in &coefficients[1..] {
            sum = sum.mul_add(x, V::splat(coefficient));
        }
        sum
    }
}
