//! Rows of weights into a panel.

use super::lanes::Lanes;
use super::layout::{GROUP, PANEL, PackedLayout, STEP_BYTES};
use super::precision::Precision;

/// The greatest code of an int8 weight; the least is its negative.
const LEVELS: f32 = 127.0;
/// Rows of int8 weights that are all smaller count as zero: the reciprocal of their scale would overflow.
const LEAST: f32 = 1e-35;

/// The place of a panel.
pub(super) struct PanelOut<'a> {
    /// The layout's bytes of a panel.
    pub(super) steps: &'a mut [u8],
    /// For int8, the scales of its outputs and the sums of their weights, [`PANEL`] of each.
    pub(super) numbers: Option<(&'a mut [f32], &'a mut [i32])>,
    /// Whether it is not read soon, so that it need not be in the caches.
    pub(super) streams: bool,
}

impl PanelOut<'_> {
    /// The place of a panel in the packed weights at `out`.
    ///
    /// # Safety
    /// `out` has the layout's bytes, aligned to `ALIGNMENT`, and this panel's are the caller's alone for as long.
    pub(super) unsafe fn of(layout: &PackedLayout, panel: usize, out: *mut u8, streams: bool) -> Self {
        assert!(panel < layout.panels(), "a panel outside the matrix");
        // SAFETY: the caller's promise: the panel, its scales and the sums of its weights lie inside, aligned as `out`
        // is; any bytes are an f32 or an i32.
        unsafe {
            let numbers = (layout.precision() == Precision::Int8).then(|| {
                let scales = std::slice::from_raw_parts_mut(out.add(layout.scales(panel)).cast(), PANEL);
                (scales, std::slice::from_raw_parts_mut(out.add(layout.totals(panel)).cast(), PANEL))
            });
            let place = out.add(panel * layout.panel_bytes());
            Self { steps: std::slice::from_raw_parts_mut(place, layout.panel_bytes()), numbers, streams }
        }
    }
}

/// Packs the rows of one panel: `rows` are up to [`PANEL`] of them, one after another. `lines` has room for
/// [`PANEL`] rows of a panel's bytes.
///
/// # Safety
/// The instruction set must be there.
#[inline(always)]
pub(super) unsafe fn pack_panel<V: Lanes>(layout: &PackedLayout, rows: &[f32], lines: &mut [u8], out: PanelOut<'_>) {
    let PanelOut { steps: panel, mut numbers, streams } = out;
    let stride = layout.steps() * 4;
    assert!(lines.len() == PANEL * stride && panel.len() == layout.panel_bytes(), "room for a panel");
    if let Some((scales, totals)) = &mut numbers {
        scales.fill(0.0);
        totals.fill(0);
    }
    let mut lines_left = lines.chunks_exact_mut(stride);
    for (r, (row, line)) in rows.chunks_exact(layout.inputs()).zip(&mut lines_left).enumerate() {
        let values = row.len() * 4 / layout.precision().per_step();
        line[values..].fill(0);
        // SAFETY: the caller's promise: the instruction set is there. A line has room for whole registers of the row.
        unsafe {
            match layout.precision() {
                Precision::F32 => {
                    for at in (0..row.len()).step_by(V::LANES) {
                        load::<V>(row, at).store(line.as_mut_ptr().add(at * 4).cast());
                    }
                }
                Precision::Bf16 => {
                    for at in (0..row.len()).step_by(V::LANES) {
                        load::<V>(row, at).store_bf16(line.as_mut_ptr().add(at * 2));
                    }
                }
                Precision::Int8 => {
                    let (scale, total) = quantize::<V>(row, line);
                    if let Some((scales, totals)) = &mut numbers {
                        (scales[r], totals[r]) = (scale, total);
                    }
                }
            }
        }
    }
    lines_left.for_each(|line| line.fill(0));
    for (group, steps) in panel.chunks_exact_mut(GROUP * STEP_BYTES).enumerate() {
        // SAFETY: the caller's promise; every row has 64 bytes of each group, and a group of the panel its steps.
        unsafe { V::transpose(lines.as_ptr().add(group * GROUP * 4), stride, steps.as_mut_ptr(), streams) };
    }
    V::fence();
}

/// Quantises a row of weights, symmetrically about zero: `code = round(w / scale)`, ties to even, where the scale is
/// the greatest |w| by 127. The scale and the sum of the codes; a row that is not finite has a scale that is none.
#[inline(always)]
unsafe fn quantize<V: Lanes>(row: &[f32], line: &mut [u8]) -> (f32, i32) {
    // SAFETY: the caller's promise: the instruction set is there, and there is room for whole registers.
    unsafe {
        let zero = V::splat(0.0);
        let (mut greatest, mut odd) = (zero, zero);
        for at in (0..row.len()).step_by(V::LANES) {
            let value = load::<V>(row, at);
            greatest = value.max(zero.sub(value)).max(greatest);
            // Zero times what is not finite is a NaN.
            odd = value.mul_add(zero, odd);
        }
        let greatest = greatest.reduce(f32::max);
        if odd.reduce(|a, b| a + b) != 0.0 {
            line.fill(0);
            return (f32::NAN, 0);
        }
        let (scale, inverse) = if greatest < LEAST { (0.0, 0.0) } else { (greatest / LEVELS, LEVELS / greatest) };
        let mut total = V::splat_int(0);
        let block = 4 * V::LANES;
        let (blocks, rest) = row.split_at(row.len() / block * block);
        for (values, codes) in blocks.chunks_exact(block).zip(line.chunks_exact_mut(block)) {
            let mut four = [V::splat_int(0); 4];
            for (i, code) in four.iter_mut().enumerate() {
                *code = V::load(values.as_ptr().add(i * V::LANES)).mul(V::splat(inverse)).round();
                total = V::add_int(total, *code);
            }
            V::store_codes(four, false, codes.as_mut_ptr());
        }
        for at in (0..rest.len()).step_by(V::LANES) {
            let code = load::<V>(rest, at).mul(V::splat(inverse)).round();
            total = V::add_int(total, code);
            V::store_bytes(code, line.as_mut_ptr().add(blocks.len() + at));
        }
        let mut lanes = [0i32; PANEL];
        V::store_int(total, lanes.as_mut_ptr().cast());
        (scale, lanes.iter().sum())
    }
}

/// The register of a row at `at`; values beyond its end are zero. No closure takes it: the compiler may leave one
/// outside the function that has the instruction set, and each instruction in it becomes a call.
#[inline(always)]
unsafe fn load<V: Lanes>(row: &[f32], at: usize) -> V {
    // SAFETY: the caller's promise: the instruction set is there. The row has a register's values here, or the copy
    // has, as no register is longer than a panel is wide.
    unsafe {
        if at + V::LANES <= row.len() {
            return V::load(row.as_ptr().add(at));
        }
        let mut padded = [0.0; PANEL];
        padded[..row.len() - at].copy_from_slice(&row[at..]);
        V::load(padded.as_ptr())
    }
}
