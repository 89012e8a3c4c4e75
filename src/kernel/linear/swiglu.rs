//! Gated linear units with the sigmoid linear unit: `out = silu(gate) · value`, the product rounded once.
//!
//! It is no part of the product in front of it: beside that it takes a hundredth of the time, and gate and value of an
//! output are of panels far apart.

use super::entry;
use super::share::{Pool, Shared, pieces};
use crate::error::{Error, Result};
use crate::kernel::dispatch::Kernel;

/// Gated rows to compute.
#[derive(Debug)]
pub struct SwiGluJob<'a> {
    /// Gates and values side by side, `[rows, 2·width]`.
    pub input: &'a [f32],
    /// Values of a row of the output.
    pub width: usize,
    /// Whether the gates are the second half of a row.
    pub is_gate_last: bool,
    /// `[rows, width]`.
    pub out: &'a mut [f32],
}

/// Computes `silu(gate) · value`, with the activation of the bit contract of [this module](super), on the threads of
/// `pool`.
///
/// # Errors
/// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where sizes do not fit each other;
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when this machine cannot run `kernel`.
pub fn swiglu(kernel: Kernel, job: SwiGluJob<'_>, pool: &dyn Pool) -> Result<()> {
    let functions = entry::of(kernel)?;
    let SwiGluJob { input, width, is_gate_last, out } = job;
    if width == 0 || !out.len().is_multiple_of(width) || input.len() != 2 * out.len() {
        return Err(Error::mismatch("gates and values of another size")
            .expected(format_args!("rows of {width} for each"))
            .got(format_args!("{} values for {}", input.len(), out.len())));
    }
    let rows = out.len() / width;
    let batches = pieces(pool, rows);
    let out = Shared(out.as_mut_ptr());
    pool.run(batches, &|batch| {
        for row in rows * batch / batches..rows * (batch + 1) / batches {
            let (first, second) = input[2 * row * width..][..2 * width].split_at(width);
            let (gate, value) = if is_gate_last { (second, first) } else { (first, second) };
            // SAFETY: the instruction set is there, as `entry::of` found; the output has all rows, and each belongs to
            // one batch.
            unsafe {
                let out = std::slice::from_raw_parts_mut(out.at(row * width), width);
                (functions.gate)(gate, value, out);
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{TestPool, bits, of_every_variant, values};
    use super::*;

    fn run(kernel: Kernel, threads: usize, input: &[f32], width: usize, is_gate_last: bool) -> Result<Vec<f32>> {
        let mut out = vec![f32::NAN; input.len() / 2];
        let job = SwiGluJob { input, width, is_gate_last, out: &mut out };
        swiglu(kernel, job, &TestPool(threads)).map(|()| out)
    }

    #[test]
    fn every_kernel_gives_the_bits_of_the_specification() {
        for (rows, width) in [(1, 1), (5, 33), (13, 64), (3, 2730)] {
            // Far into both arms, and beyond where `exp` is held.
            let mut input = values(5, rows * 2 * width, 4.0);
            input[0] = -200.0;
            for is_gate_last in [false, true] {
                let expected = run(Kernel::Scalar, 1, &input, width, is_gate_last).unwrap();
                let every = of_every_variant(|| run(Kernel::best(), 2, &input, width, is_gate_last).unwrap());
                for (variant, got) in every {
                    assert!(bits(&got) == bits(&expected), "{variant} {rows} {width}");
                }
                for (i, got) in expected.iter().enumerate() {
                    let pair = [0, width].map(|half| f64::from(input[i / width * 2 * width + half + i % width]));
                    let [gate, value] = if is_gate_last { [pair[1], pair[0]] } else { pair };
                    let exact = gate / (1.0 + (-gate).exp()) * value;
                    assert!((f64::from(*got) - exact).abs() <= 1e-6 * exact.abs() + 1e-30, "{got} {exact}");
                }
            }
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        assert!(run(Kernel::best(), 1, &[0.0; 16], 4, true).is_ok());
        assert!(run(Kernel::best(), 1, &[0.0; 16], 3, true).is_err());
        assert!(run(Kernel::best(), 1, &[0.0; 15], 7, true).is_err());
        assert!(run(Kernel::best(), 1, &[0.0; 16], 0, true).is_err());
    }
}
