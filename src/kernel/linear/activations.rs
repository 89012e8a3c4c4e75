//! Activations as the product reads them: tiles of a few rows, converted to the type of the weights.
//!
//! A tile of R rows is its groups of 16 steps, and a group has 64 bytes of each row, or 128 where steps have two parts:
//! what a step broadcasts lies at a constant distance from the next row's, and a conversion writes whole cache lines.

use super::lanes::Lanes;
use super::layout::{GROUP, PackedLayout};
use super::norm::{self, LayerNorm};
use super::precision::Precision;
use super::row_scale::RowScale;

/// Bytes of a row in a group, per part of a step.
const LINE: usize = GROUP * 4;

/// The parts of a step.
pub(super) const fn parts<V: Lanes>(precision: Precision) -> usize {
    match precision {
        Precision::F32 => 1,
        Precision::Bf16 => V::PAIR_PARTS,
        Precision::Int8 => V::BYTE_PARTS,
    }
}

/// Converts rows, one after another in `from`, to a tile at `to`; `scales` receives those of int8, one per row. With a
/// norm, what is converted is the normalised row, for which there is room beside it.
///
/// # Safety
/// The instruction set must be there; `from` has `scales.len()` rows of the layout's inputs, and `to` room for as many
/// of its steps, four bytes per part.
#[inline(always)]
pub(super) unsafe fn convert<V: Lanes>(
    layout: &PackedLayout,
    from: &[f32],
    mut norm: Option<(LayerNorm<'_>, &mut [f32])>,
    to: *mut u8,
    scales: &mut [RowScale],
) {
    let (inputs, rows) = (layout.inputs(), scales.len());
    assert!(from.len() == rows * inputs, "as many rows as scales");
    let groups = layout.steps() / GROUP;
    for (r, (row, scale)) in from.chunks_exact(inputs).zip(scales).enumerate() {
        // SAFETY: the caller's promise: the row's lines lie inside the tile.
        unsafe {
            let row = match &mut norm {
                None => row,
                Some((norm, normed)) => {
                    norm::normalize::<V>(row, norm, normed);
                    &**normed
                }
            };
            *scale = match layout.precision() {
                Precision::Int8 => row_scale::<V>(row),
                _ => RowScale::default(),
            };
            let per_line = GROUP * layout.precision().per_step();
            for group in 0..groups {
                let line = to.add((group * rows + r) * LINE * parts::<V>(layout.precision()));
                let start = (group * per_line).min(inputs);
                let values = &row[start..(start + per_line).min(inputs)];
                convert_line::<V>(layout.precision(), values, *scale, line);
            }
        }
    }
}

/// Converts a line's values; what is missing becomes zero.
#[inline(always)]
unsafe fn convert_line<V: Lanes>(precision: Precision, values: &[f32], scale: RowScale, line: *mut u8) {
    let mut padded = [0.0; LINE];
    let count = GROUP * precision.per_step();
    let values = if values.len() == count {
        values.as_ptr()
    } else {
        padded[..values.len()].copy_from_slice(values);
        padded.as_ptr()
    };
    if precision == Precision::Int8 {
        for at in (0..count).step_by(4 * V::LANES) {
            // SAFETY: the caller's promise: there is room for a line, and `count` values can be read, a multiple of
            // four registers'.
            unsafe {
                let mut codes = [V::splat_int(scale.zero); 4];
                for (i, code) in codes.iter_mut().enumerate() {
                    let value = V::load(values.add(at + i * V::LANES));
                    *code = V::add_int(value.mul(V::splat(scale.inverse)).round(), *code);
                }
                V::store_codes(codes, true, line.add(at * V::BYTE_PARTS));
            }
        }
        return;
    }
    for at in (0..count).step_by(V::LANES) {
        // SAFETY: as before.
        unsafe {
            let value = V::load(values.add(at));
            match precision {
                Precision::Bf16 => value.store_pairs(line.add(at * 2 * V::PAIR_PARTS)),
                _ => value.store(line.add(at * 4).cast()),
            }
        }
    }
}

/// The scale of a row: its range, zero in it, in 255 steps. A row that is not finite has a scale that is none.
#[inline(always)]
unsafe fn row_scale<V: Lanes>(row: &[f32]) -> RowScale {
    // SAFETY: the caller's promise: the instruction set is there. A register is read where the row has one.
    unsafe {
        let zero = V::splat(0.0);
        let (mut least, mut greatest, mut odd) = (zero, zero, zero);
        let whole = row.len() / V::LANES * V::LANES;
        for at in (0..whole).step_by(V::LANES) {
            let value = V::load(row.as_ptr().add(at));
            (least, greatest) = (value.min(least), value.max(greatest));
            // Zero times what is not finite is a NaN.
            odd = value.mul_add(zero, odd);
        }
        let mut least = least.reduce(f32::min);
        let mut greatest = greatest.reduce(f32::max);
        let mut odd = odd.reduce(|a, b| a + b);
        for &value in &row[whole..] {
            (least, greatest) = (value.min(least), value.max(greatest));
            odd += 0.0 * value;
        }
        RowScale::of_range(least, greatest, odd == 0.0)
    }
}
