//! The weights of a product, packed or not.

use super::entry::Functions;
use super::layout::{ALIGNMENT, PANEL, PackedLayout, STEP_BYTES};
use super::pack::PanelOut;
use super::precision::Precision;
use super::share::{Pool, Room, Shared, pieces};
use crate::error::{Error, Result};

/// The weights W of a product.
#[derive(Clone, Copy, Debug)]
pub enum Matrix<'a> {
    /// In the packed form of the layout, aligned to [`ALIGNMENT`].
    Packed(&'a [u8]),
    /// One output after another, `[outputs, inputs]`, which every product packs anew.
    Rows(&'a [f32]),
    /// One input after another, `[inputs, outputs]`; only in f32.
    Columns(&'a [f32]),
}

impl<'a> Matrix<'a> {
    /// Refuses what is not of this layout.
    pub(super) fn check(&self, layout: &PackedLayout) -> Result<()> {
        let elements = layout.outputs() * layout.inputs();
        let (what, got, expected) = match self {
            Self::Packed(bytes) => ("packed weights", bytes.len(), layout.nbytes()),
            Self::Rows(values) | Self::Columns(values) => ("weights", values.len(), elements),
        };
        if got != expected {
            return Err(Error::mismatch(format!("{what} of another size")).expected(expected).got(got));
        }
        match self {
            Self::Packed(bytes) if !bytes.as_ptr().addr().is_multiple_of(ALIGNMENT) => {
                Err(Error::invalid("packed weights are not aligned").expected(format_args!("{ALIGNMENT} bytes")))
            }
            Self::Columns(_) if layout.precision() != Precision::F32 => {
                Err(Error::unsupported("weights by columns in another type than f32").got(layout.precision()))
            }
            _ => Ok(()),
        }
    }

    /// Its packed form: as it is, or made in `packed`. `lines` is memory for the pieces of the work.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub(super) fn packed<'r>(
        self,
        functions: &Functions,
        layout: &PackedLayout,
        pool: &dyn Pool,
        lines: &mut Room,
        packed: &'r mut Room,
    ) -> Result<&'r [u8]>
    where
        'a: 'r,
    {
        let (values, is_columns) = match self {
            Self::Packed(bytes) => return Ok(bytes),
            Self::Rows(values) => (values, false),
            Self::Columns(values) => (values, true),
        };
        let panels = layout.panels();
        let batches = pieces(pool, panels);
        let lines_bytes = PANEL * layout.steps() * 4;
        let lines = lines.reserve(batches * lines_bytes)?;
        let out = packed.reserve(layout.nbytes())?;
        pool.run(batches, &|batch| {
            // SAFETY: every batch has lines of its own, and room was made for them.
            let lines = unsafe { std::slice::from_raw_parts_mut(lines.at(batch * lines_bytes), lines_bytes) };
            for panel in panels * batch / batches..panels * (batch + 1) / batches {
                // SAFETY: there is room for the layout, and every panel belongs to one batch. The instruction set is
                // there, as `entry::of` found.
                unsafe {
                    if is_columns {
                        copy_columns(layout, values, panel, out);
                    } else {
                        let unit = layout.panel_elements();
                        let rows = &values[panel * unit..values.len().min((panel + 1) * unit)];
                        (functions.pack)(layout, rows, lines, PanelOut::of(layout, panel, out.at(0), false));
                    }
                }
            }
        });
        // SAFETY: every panel was just written, with the scales and sums that belong to it.
        Ok(unsafe { std::slice::from_raw_parts(out.at(0), layout.nbytes()) })
    }
}

/// Copies a panel's outputs of every input: f32 as they are.
///
/// # Safety
/// `out` has the layout's bytes, and this panel's are the caller's alone.
unsafe fn copy_columns(layout: &PackedLayout, values: &[f32], panel: usize, out: Shared<u8>) {
    let first = panel * PANEL;
    let width = PANEL.min(layout.outputs() - first);
    let place = out.at(panel * layout.panel_bytes());
    // SAFETY: the caller's promise; a step of f32 is `PANEL` of them, and a panel has as many steps.
    unsafe {
        place.write_bytes(0, layout.panel_bytes());
        for (k, row) in values.chunks_exact(layout.outputs()).enumerate() {
            let step = place.add(k * STEP_BYTES).cast::<f32>();
            step.copy_from_nonoverlapping(row[first..].as_ptr(), width);
        }
    }
}
