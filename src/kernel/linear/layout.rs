//! The packed form of a matrix of weights, in memory alone: it belongs to this build and to no file.

use super::precision::Precision;
use crate::error::{Error, Result};

/// The outputs of a panel.
pub(super) const PANEL: usize = 32;
/// Bytes of a panel's step: four per output.
pub(super) const STEP_BYTES: usize = PANEL * 4;
/// Steps are padded to a multiple of this number, which is a cache line of activations.
pub(super) const GROUP: usize = 16;
/// Alignment that packed weights should have, and that every part of them keeps.
pub const ALIGNMENT: usize = 64;
/// The greatest number of inputs: 65,536 products of int8 weights and unsigned bytes fit into 31 bits.
const MAX_INPUTS: usize = 1 << 16;

/// The layout of a packed matrix of `outputs` rows and `inputs` columns, W of `A·Wᵀ`.
///
/// Panels of 32 outputs, one after another. A panel is its steps, in ascending order of k; a step is four bytes of each
/// of its outputs: one f32, two bf16 or four int8 with neighbouring k. Missing outputs, and inputs up to the next
/// multiple of 16 steps, are zero. Behind the panels of int8 come the outputs' scales as f32, and behind those the sums
/// of their weights as i32, both padded to whole panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedLayout {
    outputs: usize,
    inputs: usize,
    precision: Precision,
}

impl PackedLayout {
    /// The layout of such a matrix.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for no outputs or inputs, more than 65,536 inputs, or
    /// a size beyond the address space.
    pub fn new(outputs: usize, inputs: usize, precision: Precision) -> Result<Self> {
        let too_large = outputs.checked_mul(MAX_INPUTS * 8).is_none();
        if outputs == 0 || inputs == 0 || inputs > MAX_INPUTS || too_large {
            return Err(Error::unsupported("cannot pack such a matrix")
                .expected(format_args!("outputs, and 1 to {MAX_INPUTS} inputs"))
                .got(format_args!("[{outputs}, {inputs}]")));
        }
        Ok(Self { outputs, inputs, precision })
    }

    /// Rows of W.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of W.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The type of the packed weights.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Bytes of all of it.
    pub fn nbytes(&self) -> usize {
        self.panels() * (self.panel_bytes() + if self.precision == Precision::Int8 { 2 * STEP_BYTES } else { 0 })
    }

    /// The number of panels.
    pub(super) fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// Steps of a panel, and of a row of converted activations.
    pub(super) fn steps(&self) -> usize {
        self.inputs.div_ceil(self.precision.per_step()).next_multiple_of(GROUP)
    }

    /// Bytes of a panel.
    pub(super) fn panel_bytes(&self) -> usize {
        self.steps() * STEP_BYTES
    }

    /// Elements of the matrix that are a panel.
    pub(crate) fn panel_elements(&self) -> usize {
        PANEL * self.inputs
    }

    /// The place of the scales of a panel's outputs.
    pub(super) fn scales(&self, panel: usize) -> usize {
        self.panels() * self.panel_bytes() + panel * STEP_BYTES
    }

    /// The place of the sums of a panel's weights.
    pub(super) fn totals(&self, panel: usize) -> usize {
        self.scales(self.panels()) + panel * STEP_BYTES
    }
}
