//! Which type each kind of layer is multiplied in.

use std::fmt;
use std::str::FromStr;

use super::arch::{BLOCKS, PATCH_EMBEDDING, POOL, PREFIX};
use crate::did_you_mean;
use crate::error::{Error, Result};
use crate::kernel::linear::Precision;

/// A kind of layer that multiplies with a matrix, the same one in every block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerKind {
    /// The patch embedding, `visual.conv1`.
    Patches,
    /// Queries, keys and values, `attn.in_proj`.
    Qkv,
    /// The projection of what attention gives, `attn.out_proj`.
    Out,
    /// The first layer of the MLP, `mlp.c_fc`.
    Fc,
    /// The second layer of the MLP, `mlp.c_proj`.
    Proj,
}

impl LayerKind {
    /// Every one, in the order in which a run comes to them.
    pub const ALL: [Self; 5] = [Self::Patches, Self::Qkv, Self::Out, Self::Fc, Self::Proj];

    /// `patches`, `qkv`, `out`, `fc`, `proj`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Patches => "patches",
            Self::Qkv => "qkv",
            Self::Out => "out",
            Self::Fc => "fc",
            Self::Proj => "proj",
        }
    }

    /// The kind whose matrix is called so in a state dict; `None` for any other parameter.
    pub(crate) fn of_matrix(name: &str) -> Option<Self> {
        if name == PATCH_EMBEDDING {
            return Some(Self::Patches);
        }
        // Pooling by attention is one more block, without a number.
        let of_pool = name.starts_with(POOL).then(|| name.strip_prefix(PREFIX)).flatten();
        Self::of_block_matrix(name.strip_prefix(BLOCKS).or(of_pool)?)
    }

    /// The kind of a matrix of a block, called so behind the prefix of blocks: `0.mlp.c_fc.weight`.
    pub(crate) fn of_block_matrix(name: &str) -> Option<Self> {
        let (_, part) = name.split_once('.')?;
        match part {
            "attn.in_proj_weight" => Some(Self::Qkv),
            "attn.out_proj.weight" => Some(Self::Out),
            "mlp.c_fc.weight" => Some(Self::Fc),
            "mlp.c_proj.weight" => Some(Self::Proj),
            _ => None,
        }
    }
}

impl fmt::Display for LayerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A [`Precision`] per [`LayerKind`]. As text it is `int8` where it is [`LayerPrecisions::of`] that precision, else
/// `patches=bf16,qkv=int8,out=int8,fc=int8,proj=bf16`; a kind that such a text leaves out is f32.
///
/// ```
/// use taskbasis::{LayerKind, LayerPrecisions, Precision};
///
/// let mixture: LayerPrecisions = "qkv=int8,proj=bf16".parse()?;
/// assert_eq!(mixture.get(LayerKind::Out), Precision::F32);
/// assert_eq!(LayerPrecisions::of(Precision::Int8).get(LayerKind::Patches), Precision::Bf16);
/// # Ok::<(), taskbasis::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LayerPrecisions([Precision; LayerKind::ALL.len()]);

impl LayerPrecisions {
    /// That precision in every kind, but bf16 for the patches where it is int8: pixels have outliers in every row.
    pub const fn of(precision: Precision) -> Self {
        let patches = match precision {
            Precision::Int8 => Precision::Bf16,
            other => other,
        };
        Self([patches, precision, precision, precision, precision])
    }

    /// The precision of a kind.
    pub const fn get(self, kind: LayerKind) -> Precision {
        self.0[kind as usize]
    }

    /// These, with another precision for `kind`.
    #[must_use]
    pub const fn with(mut self, kind: LayerKind, precision: Precision) -> Self {
        self.0[kind as usize] = precision;
        self
    }

    /// Whether every kind is f32.
    pub fn is_f32(self) -> bool {
        self == Self::default()
    }

    /// The precision that these are [`of`](Self::of); `None` for a mixture.
    pub fn uniform(self) -> Option<Precision> {
        Precision::ALL.into_iter().find(|precision| Self::of(*precision) == self)
    }

    /// The narrowest type that any kind has: of int8, bf16 and f32 the first that occurs.
    pub fn narrowest(self) -> Precision {
        let occurs = |precision: &Precision| self.0.contains(precision);
        [Precision::Int8, Precision::Bf16].into_iter().find(occurs).unwrap_or(Precision::F32)
    }
}

impl From<Precision> for LayerPrecisions {
    fn from(precision: Precision) -> Self {
        Self::of(precision)
    }
}

impl fmt::Display for LayerPrecisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(precision) = self.uniform() {
            return f.pad(precision.name());
        }
        let parts: Vec<String> = LayerKind::ALL.iter().map(|kind| format!("{kind}={}", self.get(*kind))).collect();
        f.pad(&parts.join(","))
    }
}

impl FromStr for LayerPrecisions {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if !text.contains('=') {
            return text.parse().map(Self::of);
        }
        let broken = |part: &str, what: &str| {
            Error::invalid(what)
                .expected("f32, bf16 or int8, or those of kinds: patches=bf16,qkv=int8,out=int8,fc=int8,proj=int8")
                .got(did_you_mean::clipped(part))
        };
        let mut precisions = [None; LayerKind::ALL.len()];
        for part in text.split(',') {
            let (name, precision) = part.split_once('=').ok_or_else(|| broken(part, "a kind without a precision"))?;
            let kind = LayerKind::ALL.into_iter().find(|kind| kind.name() == name);
            let kind = kind.ok_or_else(|| broken(name, "no such kind of layer"))?;
            if precisions[kind as usize].replace(precision.parse()?).is_some() {
                return Err(broken(part, "a kind that is given twice"));
            }
        }
        Ok(Self(precisions.map(Option::unwrap_or_default)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_there_and_back() {
        let mixed = LayerPrecisions::of(Precision::Int8).with(LayerKind::Proj, Precision::F32);
        assert_eq!(mixed.to_string(), "patches=bf16,qkv=int8,out=int8,fc=int8,proj=f32");
        for precisions in Precision::ALL.map(LayerPrecisions::of).into_iter().chain([mixed]) {
            assert_eq!(precisions.to_string().parse::<LayerPrecisions>().unwrap(), precisions);
        }
        assert_eq!((mixed.uniform(), mixed.narrowest()), (None, Precision::Int8));
        for (text, says) in [
            ("int4", "int8"),
            ("qkv=int4", "int8"),
            ("qvk=int8", "qvk"),
            ("qkv=int8,out", "without a precision"),
            ("qkv=int8,qkv=int8", "twice"),
            ("qkv=int8,", "without a precision"),
        ] {
            let error = text.parse::<LayerPrecisions>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn matrices_have_kinds() {
        let kinds = [
            ("visual.conv1.weight", Some(LayerKind::Patches)),
            ("visual.transformer.resblocks.11.attn.in_proj_weight", Some(LayerKind::Qkv)),
            ("visual.transformer.resblocks.0.mlp.c_proj.weight", Some(LayerKind::Proj)),
            ("visual.transformer.resblocks.0.mlp.c_proj.bias", None),
            ("visual.transformer.resblocks.0.ln_1.weight", None),
            ("visual.proj", None),
        ];
        for (name, kind) in kinds {
            assert_eq!(LayerKind::of_matrix(name), kind, "{name}");
        }
    }
}
