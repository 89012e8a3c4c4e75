//! Whether a provider that computes in half floats gives the CPU's embeddings.

use crate::error::{Error, ErrorKind, Result};

/// Compares embeddings `[n, e]` with the CPU's.
///
/// # Errors
/// [`ErrorKind::Runtime`] where the cosine between an embedding and the CPU's is less than `least`.
pub(in crate::encoder) fn check(embeds: &[f32], cpu: &[f32], embed_dim: usize, least: f32) -> Result<()> {
    let pairs = embeds.chunks_exact(embed_dim).zip(cpu.chunks_exact(embed_dim));
    let mut lowest = f64::INFINITY;
    for (a, b) in pairs {
        let cosine = cosine(a, b);
        // A NaN is less than anything.
        lowest = if cosine.is_nan() { f64::NEG_INFINITY } else { lowest.min(cosine) };
        if lowest == f64::NEG_INFINITY {
            break;
        }
    }
    tracing::debug!(cosine = lowest, "half floats against the CPU");
    if lowest >= f64::from(least) {
        return Ok(());
    }
    let got = if lowest.is_finite() { format!("{lowest:.6}") } else { "embeddings that are no numbers".to_owned() };
    Err(Error::new(ErrorKind::Runtime, "in half floats these weights give other embeddings than on the CPU")
        .expected(format_args!("a cosine of at least {least}"))
        .got(got)
        .hint("Run this model without fp16, or allow a lower cosine where that is good enough"))
}

/// Compares the embedding that an image has got in a run of `images` with the one that it gets alone.
///
/// # Errors
/// [`ErrorKind::Runtime`] where they are not one and the same up to rounding. Embeddings that are no numbers are not
/// compared.
pub(in crate::encoder) fn check_alone(together: &[f32], alone: &[f32], images: usize) -> Result<()> {
    /// Half floats stay an order of magnitude below.
    const MAX_DIFFERENCE: f64 = 3e-2;

    let square = |value: f64| value * value;
    let length = |values: &[f32]| values.iter().map(|value| square(f64::from(*value))).sum::<f64>();
    let apart: f64 = together.iter().zip(alone).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    // Of a graph that subtracts the mean of a run, an image alone gets zeros: the longer one is the measure.
    let difference = (apart / length(alone).max(length(together))).sqrt();
    if !difference.is_finite() || difference <= MAX_DIFFERENCE {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Runtime, "the graph mixes the images of a run, though it says that it takes any number")
        .expected("the embedding that an image gets alone")
        .got(format_args!("a relative difference of {difference:.1e} to it in a run of {images}"))
        .hint("Give it one image in each run (--batch 1), or export it with a dynamic batch"))
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_gets_the_same_embedding_alone() {
        check_alone(&[1.0, 2.0], &[1.0, 2.001], 2).unwrap();
        check_alone(&[f32::NAN, 2.0], &[f32::NAN, 2.0], 2).unwrap();
        let error = check_alone(&[1.0, 2.0], &[2.0, 1.0], 3).unwrap_err();
        assert!(error.to_string().contains("run of 3. Give it one image in each run (--batch 1)"), "{error}");
        // Less the mean of its run.
        check_alone(&[0.5, -0.5], &[0.0, 0.0], 2).unwrap_err();
        check_alone(&[0.0, 0.0], &[0.0, 0.0], 2).unwrap();
    }

    #[test]
    fn the_worst_embedding_decides() {
        let cpu = [1.0, 0.0, 0.0, 1.0];
        check(&cpu, &cpu, 2, 1.0).unwrap();
        // The length is not compared.
        check(&[2.0, 0.0, 0.0, 3.0], &cpu, 2, 1.0).unwrap();
        let off = [1.0, 0.0, 0.6, 0.8];
        check(&off, &cpu, 2, 0.79).unwrap();
        let error = check(&off, &cpu, 2, 0.81).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Runtime);
        assert!(error.to_string().contains("at least 0.81, got 0.8000"), "{error}");
        for broken in [f32::NAN, f32::INFINITY] {
            let error = check(&[1.0, 0.0, broken, 0.0], &cpu, 2, -1.0).unwrap_err();
            assert!(error.to_string().contains("no numbers"), "{error}");
            assert!(check(&[broken, 0.0, 0.0, 1.0], &cpu, 2, -1.0).is_err());
        }
        check(&[], &[], 2, 0.999).unwrap();
    }
}
