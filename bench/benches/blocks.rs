//! The cost of the block formats: bytes, errors, and the time of quantising.
//!
//! `cargo bench --bench blocks -- BASIS…` takes the vectors of basis folders; without one, normally distributed values
//! stand in for them. The error is ‖s − ŝ‖ / ‖s‖ over all tensors of 4,096 elements or more.
#![allow(clippy::print_stdout, missing_docs)]

use std::time::Instant;

use taskbasis::{Basis, BlockFormat, Result, Rounding};

fn main() -> Result<()> {
    let measure = std::env::args().any(|argument| argument == "--bench");
    let folders: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if folders.is_empty() {
        show("normally distributed values", &[normal(if measure { 4 << 20 } else { 4096 })])?;
    }
    for folder in &folders {
        let mut tensors = Vec::new();
        for (_, parameter) in Basis::open(folder)?.parameters() {
            for source in parameter.sources().iter().filter(|source| source.numel() >= 4096 && !source.is_zero()) {
                tensors.push(source.to_f32()?.into_owned());
            }
        }
        show(folder, &tensors)?;
    }
    Ok(())
}

fn show(what: &str, tensors: &[Vec<f32>]) -> Result<()> {
    let numel: usize = tensors.iter().map(Vec::len).sum();
    let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v) * f64::from(v)).sum::<f64>();
    let norm: f64 = tensors.iter().map(|values| squares(&mut values.iter().copied())).sum();
    println!("{what}: {numel} values, {:.2e} in the square mean", (norm / numel as f64).sqrt());
    println!("  {:<8}{:>10}{:>14}{:>14}{:>12}{:>12}", "", "bits", "nearest", "least error", "ns/value", "ns/value");
    for format in BlockFormat::ALL {
        let mut results = Vec::new();
        for rounding in [Rounding::Nearest, Rounding::LeastError] {
            let (mut error, mut seconds) = (0.0, 0.0);
            for values in tensors {
                let began = Instant::now();
                let bytes = format.quantize(values, rounding)?;
                seconds += began.elapsed().as_secs_f64();
                let got = bytes.chunks_exact(format.block_bytes()).flat_map(|block| format.dequantize(block));
                error += squares(&mut got.zip(values).map(|(got, want)| got - want));
            }
            results.push(((error / norm).sqrt(), seconds * 1e9 / numel as f64));
        }
        let bits = format.block_bytes() as f64 * 8.0 / taskbasis::tensor::BLOCK as f64;
        println!(
            "  {format:<8}{bits:>10.2}{:>14.5}{:>14.5}{:>12.1}{:>12.1}",
            results[0].0, results[1].0, results[0].1, results[1].1
        );
    }
    Ok(())
}

/// Sums of uniform numbers of the size of task vectors.
fn normal(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0 - 0.5
    };
    (0..count).map(|_| (0..12).map(|_| next()).sum::<f32>() * 1e-3).collect()
}
