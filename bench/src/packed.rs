//! Reconstruction into packed weights, in turns with the same weights as plain arrays.

use serde::Serialize;
use taskbasis::{EncoderOptions, Result, Runtime};

use super::Setup;
use super::family::InTurn;
use super::samples::{Ratio, Samples, Variant, digits, take_turns};
use crate::output;

/// One format of vectors, one precision.
#[derive(Serialize)]
pub struct Packed {
    /// The format of the vectors.
    pub format: String,
    /// The precision that weights are packed for.
    pub precision: String,
    /// Bytes of a task's weights.
    pub weights_bytes: usize,
    /// All vectors, all threads.
    pub ms: Samples,
    pub plain_ms: Samples,
    /// `ms` over `plain_ms`.
    pub over_plain: Ratio,
}

/// Every format in every precision; nothing where there is no ONNX Runtime, whose graph says what is packed.
pub fn measure(setup: &Setup<'_>, rounds: usize) -> Result<Vec<Packed>> {
    let EncoderOptions { runtime, .. } = &setup.encoder;
    if Runtime::load(runtime.as_deref()).is_err() {
        return Ok(Vec::new());
    }
    let encoders = setup.precisions.iter().map(|&precision| setup.encoder_in(precision)).collect::<Result<Vec<_>>>()?;
    let bytes = encoders.iter().map(|encoder| setup.family.weights_bytes_in(Some(encoder.layout())));
    let bytes = bytes.collect::<Result<Vec<_>>>()?;
    let mut all = Vec::new();
    for (format, path) in setup.family.bases() {
        // Each has a model of its own, with room for one task in its form.
        let open = |bytes| setup.family.open_format(path, setup.threads, bytes);
        let mut plain = InTurn::new(&open(setup.about.weights_bytes)?, setup.about.vectors, None)?;
        let mut variants: Vec<Variant<'_>> = vec![Box::new(move || plain.reconstruct())];
        for (encoder, bytes) in encoders.iter().zip(&bytes) {
            let mut packed = InTurn::new(&open(*bytes)?, setup.about.vectors, Some(encoder.layout()))?;
            variants.push(Box::new(move || packed.reconstruct()));
        }
        let mut samples = take_turns(rounds, &mut variants)?.into_iter();
        let Some(plain_ms) = samples.next() else { continue };
        for ((precision, ms), &weights_bytes) in setup.precisions.iter().zip(samples).zip(&bytes) {
            let (precision, over_plain) = (precision.to_string(), Ratio::of(&ms, &plain_ms));
            let (format, plain_ms) = (format.clone(), plain_ms.clone());
            all.push(Packed { format, precision, weights_bytes, ms, plain_ms, over_plain });
        }
    }
    Ok(all)
}

/// A table of all of them; of nothing there is none.
pub fn rows(all: &[Packed]) -> Vec<Vec<String>> {
    if all.is_empty() {
        return Vec::new();
    }
    let header = ["reconstruct packed", "weights", "ms", "plain, ms", "over plain", "half of the rounds"];
    let row = |packed: &Packed| {
        vec![
            format!("{} to {}", packed.format, packed.precision),
            output::bytes(packed.weights_bytes as u64),
            digits(packed.ms.median),
            digits(packed.plain_ms.median),
            digits(packed.over_plain.median),
            format!("{}–{}", digits(packed.over_plain.p25), digits(packed.over_plain.p75)),
        ]
    };
    std::iter::once(header.map(String::from).to_vec()).chain(all.iter().map(row)).collect()
}
