//! Layer normalisation of a row.

use super::lanes::Lanes;

/// Layer normalisation: `(a − mean) · (1 / √(variance + epsilon)) · weight + bias`.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// One per input.
    pub weight: &'a [f32],
    /// One per input.
    pub bias: &'a [f32],
    /// What is added to the variance.
    pub epsilon: f32,
}

/// The number of partial sums: value i goes to the sum i modulo this number.
pub(super) const STRIPES: usize = 16;

/// Normalises `row` into `out`, which is as long.
///
/// # Safety
/// The instruction set must be there.
#[inline(always)]
pub(super) unsafe fn normalize<V: Lanes>(row: &[f32], norm: &LayerNorm<'_>, out: &mut [f32]) {
    let n = row.len();
    assert!(norm.weight.len() == n && norm.bias.len() == n && out.len() == n, "as many values as the row has");
    // SAFETY: the caller's promise: the instruction set is there. A register is read and written where all of the
    // slices have one.
    unsafe {
        let mean = striped_sum::<V>(row, |sum, value| sum.add(value), |sum, value| sum + value) / n as f32;
        let center = V::splat(mean);
        let squares = striped_sum::<V>(
            row,
            |sum, value| {
                let distance = value.sub(center);
                distance.mul_add(distance, sum)
            },
            |sum, value| (value - mean).mul_add(value - mean, sum),
        );
        let inverse = 1.0 / (squares / n as f32 + norm.epsilon).sqrt();
        let factor = V::splat(inverse);
        let whole = n / V::LANES * V::LANES;
        for at in (0..whole).step_by(V::LANES) {
            let scaled = V::load(row.as_ptr().add(at)).sub(center).mul(factor);
            let (weight, bias) = (V::load(norm.weight.as_ptr().add(at)), V::load(norm.bias.as_ptr().add(at)));
            scaled.mul_add(weight, bias).store(out.as_mut_ptr().add(at));
        }
        for i in whole..n {
            out[i] = ((row[i] - mean) * inverse).mul_add(norm.weight[i], norm.bias[i]);
        }
    }
}

/// The sum of [`STRIPES`] partial sums.
#[inline(always)]
unsafe fn striped_sum<V: Lanes>(row: &[f32], add: impl Fn(V, V) -> V, add_one: impl Fn(f32, f32) -> f32) -> f32 {
    let whole = row.len() / STRIPES * STRIPES;
    // SAFETY: the caller's promise: the instruction set is there. A register is no longer than all stripes, and the row
    // has whole rounds of them up to `whole`.
    unsafe {
        let mut sums = [V::splat(0.0); STRIPES];
        for at in (0..whole).step_by(STRIPES) {
            for (i, sum) in sums[..STRIPES / V::LANES].iter_mut().enumerate() {
                *sum = add(*sum, V::load(row.as_ptr().add(at + i * V::LANES)));
            }
        }
        let tail = &row[whole..];
        if tail.is_empty() {
            return fold_stripes(&sums, |a, b| a + b);
        }
        let mut stripes = [0.0; STRIPES];
        for (i, sum) in sums[..STRIPES / V::LANES].iter().enumerate() {
            sum.store(stripes.as_mut_ptr().add(i * V::LANES));
        }
        for (stripe, &value) in stripes.iter_mut().zip(tail) {
            *stripe = add_one(*stripe, value);
        }
        halve(stripes, |a, b| a + b)
    }
}

/// What becomes of the first registers' [`STRIPES`] lanes, the upper half joined to the lower one until one is left.
#[inline(always)]
pub(super) unsafe fn fold_stripes<V: Lanes>(registers: &[V; STRIPES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut stripes = [0.0; STRIPES];
    for (i, register) in registers[..STRIPES / V::LANES].iter().enumerate() {
        // SAFETY: the caller's promise: the instruction set is there. No register is longer than all stripes.
        unsafe { register.store(stripes.as_mut_ptr().add(i * V::LANES)) };
    }
    halve(stripes, join)
}

#[inline(always)]
fn halve(mut stripes: [f32; STRIPES], join: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            stripes[i] = join(stripes[i], stripes[i + half]);
        }
    }
    stripes[0]
}
