//! The order in which a CLIP image encoder uses its parameters.

use super::uses::Relation;
use crate::weights::View;

/// The place in the encoder where a part of a parameter is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EncoderPlace {
    stage: usize,
    /// q, k and v run beside each other: one bit each.
    branches: u8,
    /// Whether it is of queries, keys and values, also where all of them are in one.
    is_projection: bool,
}

impl EncoderPlace {
    /// Whether it is where the tokens are put together.
    pub(super) fn is_token(self) -> bool {
        self.stage == TOKENS
    }

    /// Whether all of the encoder up to here is one line: no two uses of one parameter lie beside each other there.
    pub(super) fn is_in_line(self) -> bool {
        self.stage != TOKENS && self.branches == ALL && !self.is_projection
    }

    /// Whether it comes after the other one.
    pub(super) fn is_after(self, other: Self) -> bool {
        self.stage > other.stage
    }
}

const ALL: u8 = 0b111;
/// The class embedding and the positions: exporters put them together in more than one order.
const TOKENS: usize = 1;
/// Steps of a block.
const BLOCK: [&str; 12] = [
    "ln_1.weight",
    "ln_1.bias",
    "attn.in_proj_weight",
    "attn.in_proj_bias",
    "attn.out_proj.weight",
    "attn.out_proj.bias",
    "ln_2.weight",
    "ln_2.bias",
    "mlp.c_fc.weight",
    "mlp.c_fc.bias",
    "mlp.c_proj.weight",
    "mlp.c_proj.bias",
];

/// The slot of a view of a parameter of this shape; `None` for a parameter that is not in every CLIP encoder.
pub(super) fn slot(view: &View, shape: &[usize]) -> Option<EncoderPlace> {
    let name = view.parameter.strip_prefix("visual.")?;
    let at = |stage| Some(EncoderPlace { stage, branches: ALL, is_projection: false });
    match name {
        "conv1.weight" => return at(0),
        "class_embedding" | "positional_embedding" => return at(TOKENS),
        "ln_pre.weight" => return at(2),
        "ln_pre.bias" => return at(3),
        "ln_post.weight" => return at(usize::MAX - 2),
        "ln_post.bias" => return at(usize::MAX - 1),
        "proj" => return at(usize::MAX),
        _ => {}
    }
    let (block, rest) = name.strip_prefix("transformer.resblocks.")?.split_once('.')?;
    let step = BLOCK.iter().position(|step| *step == rest)?;
    let stage = 4 + block.parse::<u16>().ok().map(usize::from)? * BLOCK.len() + step;
    let branches = match (view.rows, shape.first()) {
        (Some([start, end]), Some(&rows)) if rest.contains("in_proj") && rows % 3 == 0 => {
            let third = rows / 3;
            (0..3).filter(|i| start < (i + 1) * third && i * third < end).fold(0, |bits, i| bits | 1 << i)
        }
        _ => ALL,
    };
    Some(EncoderPlace { stage, branches, is_projection: rest.contains("in_proj") })
}

/// Whether uses of the two slots may relate so, as far as anything is known of them.
pub(super) fn allows(a: EncoderPlace, b: EncoderPlace, found: Relation) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    if found == Relation::Apart {
        return true;
    }
    let in_order = match a.stage.cmp(&b.stage) {
        Equal if a.stage == TOKENS => return true,
        // Before attention brings them together, the three do not meet. Two uses of one slot would be one after
        // another.
        Equal => return found == Relation::Beside,
        Less => Relation::Before,
        Greater => Relation::After,
    };
    // Weight and bias of the projections of one block: apart where each has nodes of its own, in order where the three
    // are computed at once of constants in pieces. Two blocks apart, everything of one comes first.
    let are_apart = a.branches & b.branches == 0 && a.stage.abs_diff(b.stage) == 1;
    found == in_order || (are_apart && found == Relation::Beside)
}
