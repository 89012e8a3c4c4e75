//! Our own operators, as the nodes of a graph say them.
//!
//! * [`LINEAR`]: `[…, in]`, the packed weights as bytes, and what may be left out: a bias `[out]`, a residual
//!   `[…, out]`, weight and bias of a layer norm in front, `[in]` each, and a gain `[out]`, by which the results are
//!   multiplied before the residual is added. Output `[…, out]`.
//! * [`UNPACKED_LINEAR`]: the same with weights of f32 as they are, `[out, in]` or, where the attribute `columns` is 1,
//!   `[in, out]`. With the attributes `patch` and `grid` the input of either is images, `[n, channels, side, side]`,
//!   whose patches are the rows: output `[n·grid·grid, out]`.
//! * [`ATTENTION`]: queries, keys and values side by side, `[sequences, tokens, 3·width]`. Output
//!   `[sequences·queries, width]`, where the attribute `queries` is 0 for all tokens. The first tokens, as many as the
//!   attribute `skipped_keys` says, are no keys and values. With the attribute `rotation`, the code of a
//!   [`Pairing`](crate::kernel::linear::Pairing), queries and keys are rotated by a second input, cosines and sines,
//!   `[2, tokens, width / num_heads]`.
//! * [`SWIGLU`]: gates and values side by side, `[…, 2·width]`; where the attribute `gate_last` is 1, the gates are the
//!   second half. Output `[…, width]`, `silu(gate)·value`.

use super::emit::{Attribute, int};
use crate::kernel::linear::{Activation, PackedLayout};

/// The domain of all of them.
pub(crate) const DOMAIN: &str = "taskbasis";
pub(crate) const LINEAR: &str = "Linear";
pub(crate) const UNPACKED_LINEAR: &str = "UnpackedLinear";
pub(crate) const ATTENTION: &str = "Attention";
pub(crate) const SWIGLU: &str = "SwiGlu";

/// The attributes that every linear layer has: `epsilon` is that of the norm in front.
pub(crate) fn linear_attributes(layout: PackedLayout, activation: Activation, epsilon: f32) -> Vec<Attribute> {
    vec![
        Attribute::Int("outputs", int(layout.outputs())),
        Attribute::Int("inputs", int(layout.inputs())),
        Attribute::Int("precision", layout.precision().code()),
        Attribute::Int("activation", activation.code()),
        Attribute::Float("epsilon", epsilon),
    ]
}
