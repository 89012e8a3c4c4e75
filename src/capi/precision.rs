//! The constants of precisions.

use super::handle::Constants;
use crate::encoder::PrecisionChoice;
use crate::kernel::linear::Precision;
use crate::tower::LayerPrecisions;

/// Weights and products in 32-bit floats. The default.
pub const TB_PRECISION_F32: u32 = 0;
/// Weights and activations of 8 bits of precision (bf16), sums in 32-bit floats: half the memory per task, and about
/// half the time where the processor has such products.
pub const TB_PRECISION_BF16: u32 = 1;
/// Weights and activations of 8-bit integers, with a scale per output and per row: a quarter of the memory, and the
/// fastest. Outliers in activations cost accuracy; measure it.
pub const TB_PRECISION_INT8: u32 = 2;

/// The fastest that passed the gate when the bundle was packed (`taskbasis pack --precision auto`), which may be
/// another one per kind of layer; TB_PRECISION_F32 where nothing was measured. tb_encoder_info() tells what and why.
pub const TB_PRECISION_AUTO: u32 = 3;

const fn of(precision: Precision) -> PrecisionChoice {
    PrecisionChoice::Layers(LayerPrecisions::of(precision))
}

pub(super) const PRECISIONS: Constants<PrecisionChoice, 4> = Constants {
    what: "precision",
    names: "TB_PRECISION_…",
    values: [
        (TB_PRECISION_F32, of(Precision::F32)),
        (TB_PRECISION_BF16, of(Precision::Bf16)),
        (TB_PRECISION_INT8, of(Precision::Int8)),
        (TB_PRECISION_AUTO, PrecisionChoice::Auto),
    ],
};
