//! Rows of weights into a panel.

use super::Precision;
use super::entry::{self, Functions};
use super::generic::Lanes;
use super::layout::{ALIGNMENT, GROUP, PANEL, PackedLayout, STEP_BYTES};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::Kernel;
use crate::tensor::try_zeroed;

/// The greatest code of an int8 weight; the least is its negative.
const LEVELS: f32 = 127.0;
/// Rows of int8 weights that are all smaller count as zero: the reciprocal of their scale would overflow.
const LEAST: f32 = 1e-35;

/// Packs panels of matrices, with an instruction set and memory of its own.
#[derive(Default)]
pub(crate) struct PanelPacker {
    functions: Option<Functions>,
    lines: Vec<u8>,
}

impl PanelPacker {
    /// Packs with this kernel from then on.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when this machine lacks the instructions.
    pub(crate) fn use_kernel(&mut self, kernel: Kernel) -> Result<()> {
        if self.functions.is_none() {
            self.functions = Some(entry::of(kernel)?);
        }
        Ok(())
    }

    /// Packs the panels that `values` are, the matrix's elements from `start` on.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`].
    ///
    /// # Safety
    /// `out` has the layout's bytes, aligned to [`ALIGNMENT`], and no other thread uses these panels' meanwhile.
    pub(crate) unsafe fn pack(
        &mut self,
        layout: &PackedLayout,
        start: usize,
        values: &[f32],
        out: *mut u8,
    ) -> Result<()> {
        let unit = layout.panel_elements();
        let functions = self.functions.filter(|_| start.is_multiple_of(unit));
        let functions = functions.ok_or_else(|| Error::new(ErrorKind::Internal, "no whole panel"))?;
        let bytes = PANEL * layout.steps() * 4;
        if self.lines.len() < bytes {
            self.lines = try_zeroed(bytes)?;
        }
        for (panel, rows) in (start / unit..).zip(values.chunks(unit)) {
            assert!(panel < layout.panels(), "a panel outside the matrix");
            // SAFETY: the caller's promise: the panel, its scales and the sums of its weights lie inside `out`, aligned
            // as that is, and are this thread's; any bytes are an f32 or an i32. The instruction set is there, as
            // `entry::of` found.
            unsafe {
                let numbers = (layout.precision() == Precision::Int8).then(|| {
                    let scales = std::slice::from_raw_parts_mut(out.add(layout.scales(panel)).cast(), PANEL);
                    (scales, std::slice::from_raw_parts_mut(out.add(layout.totals(panel)).cast(), PANEL))
                });
                let place = out.add(panel * layout.panel_bytes());
                let steps = std::slice::from_raw_parts_mut(place, layout.panel_bytes());
                (functions.pack)(layout, rows, &mut self.lines[..bytes], PanelOut { steps, numbers });
            }
        }
        Ok(())
    }
}

/// Packs a matrix whose rows are `weights`.
///
/// # Errors
/// [`ErrorKind::Mismatch`] for another size than the layout's; [`ErrorKind::InvalidArgument`] for memory that is not
/// aligned; as [`PanelPacker::use_kernel`] and [`PanelPacker::pack`].
pub fn pack(kernel: Kernel, layout: PackedLayout, weights: &[f32], out: &mut [u8]) -> Result<()> {
    if weights.len() != layout.outputs() * layout.inputs() || out.len() != layout.nbytes() {
        return Err(Error::mismatch("weights of another size than their layout"));
    }
    if !out.as_ptr().addr().is_multiple_of(ALIGNMENT) {
        return Err(Error::invalid("packed weights are not aligned").expected(format_args!("{ALIGNMENT} bytes")));
    }
    let mut packer = PanelPacker::default();
    packer.use_kernel(kernel)?;
    // SAFETY: the size and the alignment were just checked, and `out` is borrowed for this alone.
    unsafe { packer.pack(&layout, 0, weights, out.as_mut_ptr()) }
}

/// The place of a panel.
pub(super) struct PanelOut<'a> {
    /// The layout's bytes of a panel.
    pub(super) steps: &'a mut [u8],
    /// For int8, the scales of its outputs and the sums of their weights, [`PANEL`] of each.
    pub(super) numbers: Option<(&'a mut [f32], &'a mut [i32])>,
}

/// Packs the rows of one panel: `rows` are up to [`PANEL`] of them, one after another. `lines` has room for
/// [`PANEL`] rows of a panel's bytes.
///
/// # Safety
/// The instruction set must be there.
#[inline(always)]
pub(super) unsafe fn pack_panel<V: Lanes>(layout: &PackedLayout, rows: &[f32], lines: &mut [u8], out: PanelOut<'_>) {
    let PanelOut { steps: panel, mut numbers } = out;
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
                Precision::F32 => each::<V>(row, |at, value| value.store(line.as_mut_ptr().add(at * 4).cast())),
                Precision::Bf16 => each::<V>(row, |at, value| value.store_bf16(line.as_mut_ptr().add(at * 2))),
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
        unsafe { V::transpose(lines.as_ptr().add(group * GROUP * 4), stride, steps.as_mut_ptr()) };
    }
    V::fence();
}

/// Quantises a row of weights, symmetrically about zero: `code = round(w / scale)`, ties to even, where the scale is the
/// greatest |w| by 127. The scale and the sum of the codes; a row that is not finite has a scale that is none.
#[inline(always)]
unsafe fn quantize<V: Lanes>(row: &[f32], line: &mut [u8]) -> (f32, i32) {
    // SAFETY: the caller's promise: the instruction set is there, and there is room for whole registers.
    unsafe {
        let zero = V::splat(0.0);
        let (mut greatest, mut odd) = (zero, zero);
        each::<V>(row, |_, value| {
            greatest = value.max(zero.sub(value)).max(greatest);
            // Zero times what is not finite is a NaN.
            odd = value.mul_add(zero, odd);
        });
        let greatest = greatest.reduce(f32::max);
        if odd.reduce(|a, b| a + b) != 0.0 {
            line.fill(0);
            return (f32::NAN, 0);
        }
        let (scale, inverse) = if greatest < LEAST { (0.0, 0.0) } else { (greatest / LEVELS, LEVELS / greatest) };
        let mut total = V::splat_int(0);
        each::<V>(row, |at, value| {
            let code = value.mul(V::splat(inverse)).round();
            total = V::add_int(total, code);
            V::store_bytes(code, line.as_mut_ptr().add(at));
        });
        let mut lanes = [0i32; PANEL];
        V::store_int(total, lanes.as_mut_ptr().cast());
        (scale, lanes.iter().sum())
    }
}

/// Calls `work` on every register of a row, with the place of its first value; missing values are zero.
#[inline(always)]
unsafe fn each<V: Lanes>(row: &[f32], mut work: impl FnMut(usize, V)) {
    let whole = row.len() / V::LANES * V::LANES;
    for at in (0..whole).step_by(V::LANES) {
        // SAFETY: the caller's promise: the instruction set is there; the row has a register's values here.
        work(at, unsafe { V::load(row.as_ptr().add(at)) });
    }
    if whole < row.len() {
        let mut padded = [0.0; PANEL];
        padded[..row.len() - whole].copy_from_slice(&row[whole..]);
        // SAFETY: as before; no register is longer than a panel is wide.
        work(whole, unsafe { V::load(padded.as_ptr()) });
    }
}
