//! The constants of precisions.

use super::handle::Constants;
use crate::kernel::linear::Precision;

/// Weights and products in 32-bit floats. The default.
pub const TB_PRECISION_F32: u32 = 0;
/// Weights and activations of 8 bits of precision (bf16), sums in 32-bit floats: half the memory per task, and about
/// half the time where the processor has such products.
pub const TB_PRECISION_BF16: u32 = 1;
/// Weights and activations of 8-bit integers, with a scale per output and per row: a quarter of the memory, and the
/// fastest. Outliers in activations cost accuracy; measure it.
pub const TB_PRECISION_INT8: u32 = 2;

pub(super) const PRECISIONS: Constants<Precision, 3> = Constants {
    what: "precision",
    names: "TB_PRECISION_…",
    values: [
        (TB_PRECISION_F32, Precision::F32),
        (TB_PRECISION_BF16, Precision::Bf16),
        (TB_PRECISION_INT8, Precision::Int8),
    ],
};
