//! The specification, written to be read. Every other kernel gives these bits.

use half::{bf16, f16};

use super::product::ProductTile;
use super::tile::Tile;
use crate::tensor::{BLOCK, VectorFormat};

/// Combines one tile, element by element, sixty-four at a time.
pub(super) fn combine(tile: Tile<'_>) {
    tile.check();
    let Tile { out, base, terms, .. } = tile;
    for (block, out) in out.chunks_mut(BLOCK).enumerate() {
        let mut sums = [0.0f32; BLOCK];
        for term in terms {
            let values = values(term.format, term.bytes, block, out.len());
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum = f32::mul_add(term.coefficient, value, *sum);
            }
        }
        match base {
            Some((format, bytes)) => {
                let base = values(format, bytes, block, out.len());
                for ((out, base), sum) in out.iter_mut().zip(base).zip(sums) {
                    *out = if terms.is_empty() { base } else { base + sum };
                }
            }
            None => out.copy_from_slice(&sums[..out.len()]),
        }
    }
}

/// Computes some elements of a matrix of low rank, one after the other.
pub(super) fn product(tile: ProductTile<'_>) {
    let ProductTile { out, factors, start } = tile;
    for (i, out) in out.iter_mut().enumerate() {
        let (row, column) = ((start + i) / factors.columns, (start + i) % factors.columns);
        let direction = |sum: f32, k: usize| {
            f32::mul_add(factors.left[k * factors.rows + row], factors.right[k * factors.columns + column], sum)
        };
        *out = (0..factors.rank).fold(0.0, direction);
    }
}

/// The elements from `64·block` on as f32, `count` of them; exact for every format.
fn values(format: VectorFormat, bytes: &[u8], block: usize, count: usize) -> [f32; BLOCK] {
    let bytes = &bytes[format.bytes(block * BLOCK)..][..format.bytes(count)];
    let mut values = [0.0; BLOCK];
    match format {
        VectorFormat::F32 => {
            let floats = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            values.iter_mut().zip(floats).for_each(|(value, float)| *value = float);
        }
        VectorFormat::F16 => {
            let halves = bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32());
            values.iter_mut().zip(halves).for_each(|(value, half)| *value = half);
        }
        VectorFormat::BF16 => {
            let halves = bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32());
            values.iter_mut().zip(halves).for_each(|(value, half)| *value = half);
        }
        VectorFormat::Blocks(format) => values = format.dequantize(bytes),
    }
    values
}
