//! What is computed with a bundle that is written, and then put into it.

use super::gate::{Gate, GateProgress};
use crate::encoder::EncoderOptions;

/// What is told how far a measurement has come.
type Progress<'a> = Box<dyn Fn(GateProgress) + 'a>;

/// What is to be computed.
#[derive(Default)]
pub(super) struct Computed<'a> {
    /// The options of the encoder that computes the golden embedding, where one is wanted.
    pub(super) golden: Option<EncoderOptions>,
    /// How precisions are measured, where they are.
    pub(super) gate: Option<(Gate, Progress<'a>)>,
}
