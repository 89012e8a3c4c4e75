//! Matrices packed panel by panel, as they are computed or at once.

use super::entry::{self, Functions};
use super::layout::{ALIGNMENT, PANEL, PackedLayout};
use super::pack::PanelOut;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::dispatch::Kernel;
use crate::tensor::try_zeroed;

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
            // SAFETY: the caller's promise; the instruction set is there, as `entry::of` found.
            unsafe {
                let out = PanelOut::of(layout, panel, out, true);
                (functions.pack)(layout, rows, &mut self.lines[..bytes], out);
            }
        }
        Ok(())
    }
}

/// Packs a matrix whose rows are `weights`.
///
/// # Errors
/// [`ErrorKind::Mismatch`] for another size than the layout's; [`ErrorKind::InvalidArgument`] for memory that is not
/// aligned; [`ErrorKind::Unsupported`] when this machine cannot run `kernel`; [`ErrorKind::OutOfMemory`].
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
