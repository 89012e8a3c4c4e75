//! The differences between towers of one shape, which no shape tells.

use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

use super::form::is_usual;
pub use super::form::{BlockForm, Positions, Projection, Rotary, Tokens};
use crate::error::{Error, Result};

/// The function between the two linear layers of an MLP. The wrong one gives plausible, wrong embeddings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x·σ(1.702·x): OpenAI's models, and models fine-tuned from them.
    #[default]
    QuickGelu,
    /// x·Φ(x), exact: most models trained with open_clip (LAION, DataComp).
    Gelu,
    /// x·½·(1 + tanh(√(2/π)·(x + 0.044715·x³))), GELU's approximation: towers that come from JAX.
    GeluTanh,
    /// x·σ(x), of the gate of gated MLPs alone (SwiGLU): EVA-02, the largest DINOv2.
    Silu,
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QuickGelu => "QuickGELU",
            Self::Gelu => "GELU",
            Self::GeluTanh => "GELU (tanh)",
            Self::Silu => "SiLU",
        })
    }
}

/// The way from the last block's tokens to the one vector that is projected, or is the embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The class token, normalised (`ln_post`): nearly all published towers; open_clip's `tok`.
    #[default]
    ClassToken,
    /// The mean of the patches' tokens, then `ln_post`: open_clip's `avg` with `final_ln_after_pool`, as in CLIPA.
    MeanThenNorm,
    /// `ln_post` of each patch's token, then their mean: open_clip's `avg`.
    NormThenMean,
    /// The mean of the patches' tokens as they are, which is the embedding: no `ln_post`, no projection. What the
    /// classifier of the transformers library's `CLIPForImageClassification` takes.
    PatchMean,
    /// `ln_post` of all tokens, attention from a learned probe to them, and an MLP: SigLIP, the Perception Encoder.
    Attention,
    /// `ln_post` of all tokens, then the class token and the mean of the patches side by side, `[2·width]`: what the
    /// classifiers of DINOv2 take.
    ClassAndMean,
    /// `ln_post` of the class token and of the distillation token side by side, `[2·width]`: what the two classifiers
    /// of a distilled DeiT take.
    ClassAndDistillation,
}

impl Pooling {
    /// Whether what is pooled goes through `ln_post`, and the projection where there is one.
    pub fn is_projected(self) -> bool {
        self != Self::PatchMean
    }

    /// Whether it puts two vectors of the tower's width side by side.
    pub fn is_double(self) -> bool {
        matches!(self, Self::ClassAndMean | Self::ClassAndDistillation)
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClassToken => "class token",
            Self::MeanThenNorm => "mean of the patches, then normalised",
            Self::NormThenMean => "normalised patches, then their mean",
            Self::PatchMean => "mean of the patches, neither normalised nor projected",
            Self::Attention => "attention from a probe",
            Self::ClassAndMean => "class token beside the mean of the patches",
            Self::ClassAndDistillation => "class token beside the distillation token",
        })
    }
}

/// The number that a `LayerNorm` adds to the variance: finite and above 0.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "f32", into = "f32")]
pub struct Epsilon(f32);

impl Epsilon {
    /// PyTorch's default, and that of nearly all published towers.
    pub const USUAL: Self = Self(1e-5);
    /// That of SigLIP, DINOv2, and most of timm's vision transformers.
    pub const SMALL: Self = Self(1e-6);
    /// That of the transformers library's ViT and DeiT.
    pub const SMALLEST: Self = Self(1e-12);

    /// The epsilon of this value.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a number that is not above 0, or is above
    /// 0.1, where a normalisation does not normalise any more.
    pub fn new(value: f32) -> Result<Self> {
        if value > 0.0 && value <= 0.1 {
            return Ok(Self(value));
        }
        Err(Error::invalid("the epsilon of layer normalisation is out of range")
            .expected("a number above 0, at most 0.1; 1e-5 and 1e-6 are usual")
            .got(value))
    }

    /// Its value.
    pub const fn get(self) -> f32 {
        self.0
    }
}

impl Default for Epsilon {
    fn default() -> Self {
        Self::USUAL
    }
}

impl PartialEq for Epsilon {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Epsilon {}

impl Hash for Epsilon {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

impl TryFrom<f32> for Epsilon {
    type Error = Error;

    fn try_from(value: f32) -> Result<Self> {
        Self::new(value)
    }
}

impl From<Epsilon> for f32 {
    fn from(epsilon: Epsilon) -> Self {
        epsilon.0
    }
}

impl fmt::Debug for Epsilon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Epsilon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:e}", self.0)
    }
}

/// The departures of a vision transformer from OpenAI's; the default is OpenAI's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Whether the tokens are normalised before the first block (`ln_pre`).
    pub pre_norm: bool,
    /// The number that every `LayerNorm` adds to the variance.
    pub norm_epsilon: Epsilon,
    /// The pooling of the last block's tokens.
    pub pooling: Pooling,
    /// The tokens before the patches.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub tokens: Tokens,
    /// The tokens that the table of positions has rows for.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub positions: Positions,
    /// Rotary positions, in every block.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub rotary: Option<Rotary>,
    /// Whether the patch embedding has a bias.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub patch_bias: bool,
    /// The form of the blocks.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub blocks: BlockForm,
    /// The heads of [`Pooling::Attention`]; 0 for as many as a block has.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub pool_heads: usize,
    /// The layer behind pooling and norm.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub projection: Projection,
}

impl Default for Variant {
    fn default() -> Self {
        Self {
            pre_norm: true,
            norm_epsilon: Epsilon::USUAL,
            pooling: Pooling::ClassToken,
            tokens: Tokens::default(),
            positions: Positions::default(),
            rotary: None,
            patch_bias: false,
            blocks: BlockForm::default(),
            pool_heads: 0,
            projection: Projection::default(),
        }
    }
}

impl Variant {
    pub(crate) fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// Whether there is a projection, and what is pooled goes through it.
    pub fn is_projected(&self) -> bool {
        self.pooling.is_projected() && self.projection != Projection::None
    }
}

/// The values of an architecture that shapes do not tell; `None` is not known here either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArchHints {
    /// The number of attention heads.
    pub heads: Option<usize>,
    /// The activation of the MLPs.
    pub activation: Option<Activation>,
    /// The number that every `LayerNorm` adds to the variance.
    pub norm_epsilon: Option<Epsilon>,
    /// What is made of the last block's tokens. Text towers have no choice here.
    pub pooling: Option<Pooling>,
    /// Patches along a side of the image, which only towers without a table of positions leave open.
    pub grid: Option<usize>,
}

impl ArchHints {
    /// These hints, and `other`'s where these leave something open.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            heads: self.heads.or(other.heads),
            activation: self.activation.or(other.activation),
            norm_epsilon: self.norm_epsilon.or(other.norm_epsilon),
            pooling: self.pooling.or(other.pooling),
            grid: self.grid.or(other.grid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epsilon_is_a_small_number() {
        assert_eq!(Epsilon::new(1e-6).unwrap().to_string(), "1e-6");
        for value in [0.0, -1e-6, 0.2, f32::NAN, f32::INFINITY] {
            assert!(Epsilon::new(value).unwrap_err().to_string().contains("above 0"), "{value}");
        }
        assert!(serde_json::from_str::<Epsilon>("0").is_err());
        assert_eq!(serde_json::to_string(&Epsilon::USUAL).unwrap(), "0.00001");
    }

    #[test]
    fn what_is_known_first_stays() {
        let first = ArchHints { heads: Some(3), ..ArchHints::default() };
        let second = ArchHints { heads: Some(4), pooling: Some(Pooling::MeanThenNorm), ..ArchHints::default() };
        assert_eq!(first.or(second), ArchHints { heads: Some(3), ..second });
    }
}
