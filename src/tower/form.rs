//! The parts in which vision transformers differ from OpenAI's, each with its usual form as the default.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::kernel::linear::Pairing;

/// The tokens of a sequence that are no patches, which stand before them in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// Whether there is a class token, the first one.
    pub class: bool,
    /// Whether there is a distillation token (DeiT).
    #[serde(default)]
    pub distillation: bool,
    /// The number of register tokens (DINOv2 with registers, DINOv3).
    #[serde(default)]
    pub registers: usize,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { class: true, distillation: false, registers: 0 }
    }
}

impl Tokens {
    /// The number of all of them.
    pub fn count(self) -> usize {
        self.without_registers() + self.registers
    }

    pub(super) fn without_registers(self) -> usize {
        usize::from(self.class) + usize::from(self.distillation)
    }
}

/// The tokens that the table of learned positions has rows for. Register tokens have none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// The class token, the distillation token, and the patches.
    #[default]
    All,
    /// The patches alone.
    Patches,
    /// There is no such table.
    None,
}

/// Rotary positions: queries and keys of patches are turned, in each pair of channels, by an angle that depends on the
/// row and the column of the patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotary {
    /// EVA-02's: of a head of `d` channels, pair `i` of the first `d/4` turns by `16·y/g·10000^(−4i/d)`, pair `i` of
    /// the others by `16·x/g·10000^(−4i/d)`; a pair are neighbours.
    Eva,
    /// The Perception Encoder's: as EVA-02's, but by `x + 1` first and `y + 1` then, at the size that it was trained
    /// at.
    PerceptionEncoder,
    /// DINOv3's: by `2π·(2(y + ½)/g − 1)·100^(−4i/d)` and likewise `x`; a pair are channels `i` and `i + d/2`.
    #[serde(rename = "dinov3")]
    DinoV3,
}

impl Rotary {
    /// The channels that are a pair.
    pub(super) fn pairing(self) -> Pairing {
        if self == Self::DinoV3 { Pairing::Halves } else { Pairing::Neighbours }
    }

    /// The angle of every pair of channels of a head, `[grid², head_width/2]`, patch by patch in rows.
    pub fn angles(self, grid: usize, head_width: usize) -> Vec<f32> {
        let quarter = head_width / 4;
        let g = grid as f32;
        let frequency = |i: usize, base: f32| base.powf(-(i as f32) / quarter as f32);
        let mut angles = Vec::with_capacity(grid * grid * 2 * quarter);
        for (y, x) in (0..grid).flat_map(|y| (0..grid).map(move |x| (y as f32, x as f32))) {
            let axes = match self {
                Self::Eva => [y / g * 16.0, x / g * 16.0],
                Self::PerceptionEncoder => [x + 1.0, y + 1.0],
                Self::DinoV3 => [y, x].map(|t| std::f32::consts::TAU * (2.0 * ((t + 0.5) / g) - 1.0)),
            };
            let base = if self == Self::DinoV3 { 100.0 } else { 10_000.0 };
            angles.extend(axes.iter().flat_map(|t| (0..quarter).map(move |i| t * frequency(i, base))));
        }
        angles
    }
}

impl fmt::Display for Rotary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eva => "EVA-02's",
            Self::PerceptionEncoder => "the Perception Encoder's",
            Self::DinoV3 => "DINOv3's",
        })
    }
}

/// The layer behind pooling and norm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Projection {
    /// A matrix `[width, embedding]`.
    #[default]
    Matrix,
    /// A matrix and a bias `[embedding]`.
    WithBias,
    /// None: what is pooled is the embedding.
    None,
}

/// The form of the residual blocks; by default `x + attn(ln_1(x))`, then that `+ mlp(ln_2(that))`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BlockForm {
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether what attention and MLP give is multiplied by a factor per channel (LayerScale).
    pub layer_scale: bool,
    /// Whether what attention gives is normalised before its projection.
    pub attn_norm: bool,
    /// Whether the MLP's first layer gives twice the hidden width, the first half as gate of the second (SwiGLU).
    pub gated: bool,
    /// Whether the hidden layer is normalised before the MLP's second one.
    pub mlp_norm: bool,
}

impl Default for BlockForm {
    fn default() -> Self {
        Self { qkv_bias: true, layer_scale: false, attn_norm: false, gated: false, mlp_norm: false }
    }
}

/// The parts of a tower that names and shapes tell.
pub(super) struct TowerForm {
    pub(super) width: usize,
    pub(super) pre_norm: bool,
    pub(super) patch_bias: bool,
    pub(super) tokens: Tokens,
    pub(super) positions: Positions,
    pub(super) blocks: BlockForm,
    /// Whether there is a probe that pools by attention.
    pub(super) has_probe: bool,
    pub(super) has_projection: bool,
}

pub(super) fn is_usual<T: Default + PartialEq>(part: &T) -> bool {
    *part == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of timm's tables for a grid of 2 and heads of 8 channels.
    #[test]
    fn angles_are_those_of_the_formulas() {
        let eva = Rotary::Eva.angles(2, 8);
        assert_eq!(eva.len(), 4 * 4);
        assert_eq!(eva[4..8], [0.0, 0.0, 8.0, 0.08], "row 0, column 1");
        assert_eq!(Rotary::PerceptionEncoder.angles(2, 8)[4..8], [2.0, 0.02, 1.0, 0.01]);
        let third = Rotary::DinoV3.angles(2, 8);
        let half = std::f32::consts::PI;
        assert_eq!(third[4..8], [-half, -half * 0.1, half, half * 0.1]);
    }
}
