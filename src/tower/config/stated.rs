//! The content of a configuration.

use std::path::{Path, PathBuf};

use super::images::ImageHints;
use crate::error::{Error, Result};
use crate::tower::arch::{Activation, Arch, ArchHints};

/// The content of one configuration.
#[derive(Clone, Debug, Default)]
pub(super) struct Stated {
    pub(super) path: PathBuf,
    /// `None` where it says nothing of an image tower.
    pub(super) image: Option<TowerSays>,
    /// `None` where it says nothing of a text tower.
    #[cfg_attr(not(feature = "text"), allow(dead_code))] // Read, and checked, whatever is built in.
    pub(super) text: Option<TowerSays>,
    /// The preparation of images, all of it; `None` where it says nothing.
    pub(super) images: Option<ImageHints>,
    /// The side of the images that it prepares, in pixels; `None` where it says nothing.
    pub(super) side: Option<usize>,
    /// The model that it is of, where that is none that is read here: the rest is then for a user's graph alone.
    pub(super) other: Option<String>,
}

/// The content of a configuration about one tower.
#[derive(Clone, Debug, Default)]
pub(super) struct TowerSays {
    /// The values that shapes do not tell.
    pub(super) hints: ArchHints,
    /// The values that shapes tell too.
    pub(super) extents: Vec<(Extent, usize)>,
    /// Whether there is a norm before the blocks, where it says so.
    pub(super) pre_norm: Option<bool>,
    /// Whether it is a text tower of SigLIP's form, where it says so.
    #[cfg_attr(not(feature = "text"), allow(dead_code))] // Read, whatever is built in.
    pub(super) siglip_text: Option<bool>,
    /// A feature of it that is not built in.
    pub(super) refused: Option<String>,
}

/// An extent that both weights and configurations tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Width,
    Layers,
    MlpWidth,
    Patch,
    ImageSize,
    Embedding,
}

impl Extent {
    fn name(self) -> &'static str {
        match self {
            Self::Width => "width",
            Self::Layers => "number of layers",
            Self::MlpWidth => "MLP width",
            Self::Patch => "patch size",
            Self::ImageSize => "image size",
            Self::Embedding => "embedding length",
        }
    }

    fn of(self, arch: &Arch) -> usize {
        match self {
            Self::Width => arch.width,
            Self::Layers => arch.layers,
            Self::MlpWidth => arch.mlp_width,
            Self::Patch => arch.patch,
            Self::ImageSize => arch.image_size(),
            Self::Embedding => arch.embed_dim,
        }
    }
}

impl TowerSays {
    /// Adds an extent, where it is told.
    pub(super) fn extent(&mut self, extent: Extent, value: Option<usize>) {
        self.extents.extend(value.map(|value| (extent, value)));
    }

    /// Adds the side of the images, and the grid where the name of an architecture tells the patches' side, as in
    /// `vit_small_patch16_dinov3`.
    pub(super) fn sized(&mut self, size: Option<usize>, name: &str) {
        let behind = name.split_once("patch").map_or("", |(_, behind)| behind);
        let digits = behind.find(|c: char| !c.is_ascii_digit()).unwrap_or(behind.len());
        let patch = behind[..digits].parse::<usize>().ok().filter(|patch| *patch > 0);
        self.hints.grid = size.zip(patch).map(|(size, patch)| size / patch);
        self.extent(Extent::ImageSize, size);
        // Its coordinates are those of the grid that its name tells.
        let named = name.rsplit('_').next().and_then(|last| last.parse::<usize>().ok());
        if name.starts_with("vit_pe_core_") && size.zip(named).is_some_and(|(size, named)| size != named) {
            self.refuse("rotary positions that are scaled from another image size");
        }
    }

    /// Notes a feature that is not built in; the first one stays.
    pub(super) fn refuse(&mut self, feature: impl Into<String>) {
        self.refused.get_or_insert_with(|| feature.into());
    }

    /// Whether the configuration at `config` is of the image tower that `arch` was read off.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), with what both say.
    pub(super) fn check_image(&self, config: &Path, arch: &Arch) -> Result<()> {
        // Without a projection its length is of no account.
        let is_told = |extent| extent != Extent::Embedding || arch.variant.is_projected();
        self.check(config, |extent| is_told(extent).then(|| extent.of(arch)), arch.width)?;
        match self.pre_norm {
            Some(says) if says != arch.variant.pre_norm => {
                let form = |has: bool| if has { "a norm before the blocks" } else { "no norm before the blocks" };
                Err(contradiction(config, "a tower that the weights are not")
                    .expected(form(says))
                    .got(form(arch.variant.pre_norm)))
            }
            _ => Ok(()),
        }
    }

    /// Whether the configuration at `config` is of a tower with these extents.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), with what both say;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a feature that is not built in.
    pub(super) fn check(
        &self,
        config: &Path,
        of_weights: impl Fn(Extent) -> Option<usize>,
        width: usize,
    ) -> Result<()> {
        if let Some(feature) = &self.refused {
            return Err(Error::unsupported(format!("the model has {feature}, which is not built in")).at(config));
        }
        for &(extent, says) in &self.extents {
            if let Some(has) = of_weights(extent).filter(|has| *has != says) {
                return Err(contradiction(config, &format!("another {} than the weights have", extent.name()))
                    .expected(says)
                    .got(has));
            }
        }
        match self.hints.heads {
            Some(heads) if !width.is_multiple_of(heads) => {
                Err(contradiction(config, "a number of heads that the weights cannot have")
                    .expected(format_args!("{heads} heads to share the width evenly"))
                    .got(format_args!("width {width}")))
            }
            _ => Ok(()),
        }
    }
}

/// The error for weights that are not what the configuration at `config` says.
pub(super) fn contradiction(config: &Path, says: &str) -> Error {
    Error::mismatch(format!("{} says {says}", config.display()))
        .hint("Is the configuration another model's? --config names the right one, --config none goes without")
}

/// A name of an activation in the transformers library.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for any other.
pub(super) fn activation(name: &str) -> Result<Activation> {
    match name {
        "quick_gelu" => Ok(Activation::QuickGelu),
        "gelu" | "gelu_python" => Ok(Activation::Gelu),
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_tanh" | "gelu_accurate" => Ok(Activation::GeluTanh),
        _ => Err(Error::unsupported("an activation that is not built in")
            .expected("quick_gelu, gelu or gelu_pytorch_tanh")
            .got(format_args!("`{name}`"))),
    }
}
