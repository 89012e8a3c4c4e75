//! The specification, written to be read. Every other kernel gives these bits.

use half::{bf16, f16};

use super::strip::{Format, Strip};

/// Combines one strip, element by element.
pub(super) fn combine(strip: Strip<'_>) {
    strip.check();
    let Strip { out, base, format, terms, .. } = strip;
    for (i, out) in out.iter_mut().enumerate() {
        let mut sum = 0.0;
        for &(coefficient, bytes) in terms {
            sum = f32::mul_add(coefficient, element(format, bytes, i), sum);
        }
        *out = match base {
            Some((format, bytes)) if terms.is_empty() => element(format, bytes, i),
            Some((format, bytes)) => element(format, bytes, i) + sum,
            None => sum,
        };
    }
}

/// Element `i` as f32; exact for every format.
fn element(format: Format, bytes: &[u8], i: usize) -> f32 {
    match format {
        Format::F32 => f32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]),
        Format::F16 => f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f32(),
        Format::BF16 => bf16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f32(),
    }
}
