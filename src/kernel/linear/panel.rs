//! A panel of weights against tiles of rows.

use super::activation::Activation;
use super::entry::Functions;
use super::generic::{Finish, Product};
use super::lanes::Next;
use super::layout::{GROUP, PANEL, PackedLayout};
use super::precision::Precision;
use super::row_scale::RowScale;
use super::share::{MAX_ROWS, Shared, Tile};

/// What becomes of the sums of a product.
pub(super) struct After<'a> {
    pub(super) activation: Activation,
    /// Rows of the layout's outputs.
    pub(super) residual: Option<&'a [f32]>,
    /// The results, of which every thread has places of its own.
    pub(super) out: Shared<f32>,
}

/// A panel of weights, and what belongs to its outputs.
pub(super) struct Panel<'a> {
    layout: &'a PackedLayout,
    steps: &'a [u8],
    scales: Option<(&'a [f32], &'a [i32])>,
    bias: [f32; PANEL],
    gain: Option<[f32; PANEL]>,
    /// The first of its outputs, and how many there are.
    first: usize,
    width: usize,
}

impl<'a> Panel<'a> {
    /// The panel with this number; bias and gain are those of all outputs.
    pub(super) fn new(
        layout: &'a PackedLayout,
        weights: &'a [u8],
        [bias, gain]: [Option<&[f32]>; 2],
        panel: usize,
    ) -> Self {
        let first = panel * PANEL;
        let width = PANEL.min(layout.outputs() - first);
        let padded = |all: &[f32]| {
            let mut padded = [0.0; PANEL];
            padded[..width].copy_from_slice(&all[first..first + width]);
            padded
        };
        let numbers = |at: usize| weights[at..].as_ptr();
        let scales = (layout.precision() == Precision::Int8).then(|| {
            // SAFETY: a panel's scales, and the sums of its weights, lie inside the packed weights (their length was
            // checked), aligned as those are; any four bytes are an f32 or an i32.
            unsafe {
                let scales = std::slice::from_raw_parts(numbers(layout.scales(panel)).cast(), PANEL);
                (scales, std::slice::from_raw_parts(numbers(layout.totals(panel)).cast(), PANEL))
            }
        });
        let steps = &weights[panel * layout.panel_bytes()..][..layout.panel_bytes()];
        let bias = bias.map_or([0.0; PANEL], padded);
        Self { layout, steps, scales, bias, gain: gain.map(padded), first, width }
    }

    /// The share of the next panel that the product with one of so many tiles asks for. Its first tile would wait for
    /// the memory otherwise.
    pub(super) fn next(&self, tile: usize, tiles: usize) -> Next {
        let groups = self.layout.steps() / GROUP;
        let lines = (self.steps.len() / 64).div_ceil(groups * tiles);
        Next { from: self.steps.as_ptr_range().end.wrapping_add(tile * groups * lines * 64), lines }
    }

    /// Computes the results of a tile of rows from `from` on.
    ///
    /// # Safety
    /// The functions' instruction set is there; `a` is the tile, and the results have its rows, of which no other
    /// thread uses this panel's.
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn compute(
        &self,
        functions: &Functions,
        a: *const u8,
        scales: &[RowScale],
        from: usize,
        next: Next,
        after: &After<'_>,
        tile: &mut Tile,
    ) {
        let (rows, outputs, width) = (scales.len(), self.layout.outputs(), self.width);
        let at = from * outputs + self.first;
        let (activation, place) = (after.activation, after.out.at(at));
        let residual = after.residual.map(|residual| &residual[at..at + (rows - 1) * outputs + width]);
        let (precision, steps, sums) = (self.layout.precision(), self.layout.steps(), tile.as_mut_ptr());
        let panel = self.steps.as_ptr();
        let product = Product { precision, rows, a, panel, steps, sums, next, out: place, out_stride: outputs };
        let scales = self.scales.map(|(of_outputs, totals)| (scales, of_outputs, totals));
        let finish = Finish {
            sums,
            rows,
            scales,
            bias: &self.bias,
            activation,
            gain: self.gain.as_ref().map(<[f32; PANEL]>::as_slice),
            residual: residual.map_or(std::ptr::null(), <[f32]>::as_ptr),
            stride: outputs,
            out: place,
            out_stride: outputs,
        };
        // SAFETY: the caller's promise; the panel has the layout's steps, the tile room for the most rows of any
        // instruction set, and the results room for a panel where it is whole. Else they go by way of a row of panels.
        unsafe {
            (functions.multiply)(&product);
            if width == PANEL {
                return (functions.finish)(&finish);
            }
            let (mut padded, mut row) = ([0.0; MAX_ROWS * PANEL], [0.0f32; MAX_ROWS * PANEL]);
            let mut finish = Finish { out: row.as_mut_ptr(), out_stride: PANEL, ..finish };
            if let Some(residual) = residual {
                for (from, to) in residual.chunks(outputs).zip(padded.chunks_mut(PANEL)) {
                    to[..width].copy_from_slice(&from[..width]);
                }
                (finish.residual, finish.stride) = (padded.as_ptr(), PANEL);
            }
            (functions.finish)(&finish);
            for (r, row) in row.chunks(PANEL).take(rows).enumerate() {
                place.add(r * outputs).copy_from_nonoverlapping(row.as_ptr(), width);
            }
        }
    }
}
