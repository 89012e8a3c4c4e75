//! What no shape tells of a model: read where it is written down, and never guessed in silence.
//!
//! Heads, activation, epsilon, pooling and the preparation of images come, in this order, from what the caller asks
//! for, the bundle, the configurations beside the weights ([`CONFIGS`]), and the published towers of that shape. What
//! is still open then is assumed to be OpenAI's, and said ([`TowerConfig::assumed`]). Each value has an [`Origin`].

mod files;
mod images;
mod keys;
mod open_clip;
mod preprocessor;
mod resolve;
mod stated;
#[cfg(feature = "text")]
mod text;
mod timm;
mod transformers;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

pub(crate) use self::files::object;
pub use self::files::{CONFIGS, ConfigSource};
pub use self::images::ImageHints;
use self::resolve::{Resolver, Source};
#[cfg(feature = "text")]
pub(super) use self::text::text_hints;
use super::arch::{Arch, ArchHints, PROJECTION, Pooling, Variant};
use super::classifier;
use super::table;
use crate::checkpoint::{Checkpoint, frozen, is_image_tower};
use crate::error::Result;
use crate::preprocess::Preprocess;

/// What a caller asks for, and where else to look.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TowerOptions {
    /// Of the architecture.
    pub arch: ArchHints,
    /// Of the preparation of images.
    pub images: ImageHints,
    /// The configurations to read.
    pub config: ConfigSource,
    /// Whether a user's graph is run, which has heads, activation, epsilon and pooling in it: what nothing tells of
    /// them is then neither missed nor noted.
    pub has_graph: bool,
}

impl From<ArchHints> for TowerOptions {
    fn from(arch: ArchHints) -> Self {
        Self { arch, ..Self::default() }
    }
}

/// Something that shapes do not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Property {
    /// The number of attention heads.
    Heads,
    /// The activation of the MLPs.
    Activation,
    /// What every `LayerNorm` adds to the variance.
    NormEpsilon,
    /// What is made of the last block's tokens.
    Pooling,
    /// The mean of images.
    Mean,
    /// The standard deviation of images.
    Std,
    /// Which sides of images are resized.
    Resize,
    /// The filter that resizes.
    Interpolation,
}

impl Property {
    /// Its name, as in `heads`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Heads => "heads",
            Self::Activation => "activation",
            Self::NormEpsilon => "norm epsilon",
            Self::Pooling => "pooling",
            Self::Mean => "image mean",
            Self::Std => "image deviation",
            Self::Resize => "resize mode",
            Self::Interpolation => "interpolation",
        }
    }

    /// The program's option that settles it.
    pub fn option(self) -> &'static str {
        match self {
            Self::Heads => "--heads-count",
            Self::Activation => "--activation",
            Self::NormEpsilon => "--norm-eps",
            Self::Pooling => "--pooling",
            Self::Mean => "--mean",
            Self::Std => "--std",
            Self::Resize => "--resize",
            Self::Interpolation => "--interpolation",
        }
    }

    fn is_of_images(self) -> bool {
        matches!(self, Self::Mean | Self::Std | Self::Resize | Self::Interpolation)
    }
}

/// What told a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// The caller.
    Asked,
    /// The bundle.
    Bundle,
    /// The weights: they hold a classifier over the patches' mean, and no projection.
    Classifier,
    /// This configuration.
    Config(PathBuf),
    /// All published towers of this width have it.
    Published,
    /// Nothing: it is what OpenAI's towers have.
    Assumed,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("asked for"),
            Self::Bundle => f.write_str("bundle"),
            Self::Classifier => f.write_str("classifier in the weights"),
            Self::Config(path) => match path.file_name() {
                Some(name) => f.write_str(&name.to_string_lossy()),
                None => write!(f, "{}", path.display()),
            },
            Self::Published => f.write_str("as published towers"),
            Self::Assumed => f.write_str("assumed"),
        }
    }
}

/// A value, and what told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TowerValue {
    /// What it is of.
    pub property: Property,
    /// Its text.
    pub value: String,
    /// What told it.
    pub origin: Origin,
}

/// An image tower with everything that its shapes do not tell.
#[derive(Clone, Debug)]
pub struct TowerConfig {
    /// The architecture.
    pub arch: Arch,
    /// What images must go through.
    pub preprocess: Preprocess,
    /// Where each value that shapes do not tell came from.
    pub values: Vec<TowerValue>,
    /// What was told twice, and differently, or passed over: sentences without a full stop.
    /// [`TowerConfig::assumed`] and [`TowerConfig::assumed_images`] say what was told by nothing.
    pub notes: Vec<String>,
}

impl TowerConfig {
    /// The image tower of `checkpoint`: what `options` ask for, else what the configurations beside it say, else what
    /// published towers of its shape have, else what OpenAI's have.
    ///
    /// # Errors
    /// As [`Arch::infer`], naming the file; [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming both files, for
    /// a configuration of other weights; [`ErrorKind::Format`](crate::ErrorKind::Format) for one that is damaged;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), by its name, for a feature that is not built in.
    pub fn read(checkpoint: &Checkpoint, options: &TowerOptions) -> Result<Self> {
        check_tower(checkpoint)?;
        let configs = files::read(checkpoint.path(), &options.config)?;
        let of_weights = classifier::pooling_of(checkpoint);
        let stated = configs.iter().find_map(|(stated, _)| stated.image.as_ref()?.hints.pooling);
        let shape = shape_of(checkpoint, options.arch.pooling.or(of_weights).or(stated))?;
        let mut resolver = Resolver::new(options);
        if of_weights.is_some() {
            // Before what a configuration says: without a projection there is no other pooling.
            let arch = ArchHints { pooling: of_weights, ..ArchHints::default() };
            resolver.add(Source { origin: Origin::Classifier, arch, images: ImageHints::default() });
            if options.arch.pooling.or(stated) != of_weights {
                resolver.note(classifier::taken(checkpoint));
            }
        }
        let mut has_images = false;
        for (stated, side) in configs {
            let path = stated.path;
            if let Some(other) = stated.other {
                resolver.note(format!("{} is of {other}, and passed over", path.display()));
            }
            if let Some(says) = &stated.image {
                says.check_image(&path, &shape).map_err(|e| e.at(checkpoint.path()))?;
            }
            if let Some(side) = side.filter(|side| *side != shape.image_size()) {
                return Err(stated::contradiction(&path, "another size of images than the weights have")
                    .at(checkpoint.path())
                    .expected(format_args!("{side} × {side} pixels"))
                    .got(shape.image_size()));
            }
            // All of the preparation is the first file's that says something of it: halves of two would be neither's.
            let images = stated.images.filter(|_| !has_images);
            has_images |= images.is_some();
            let arch = stated.image.map(|says| says.hints).unwrap_or_default();
            resolver.add(Source { origin: Origin::Config(path), arch, images: images.unwrap_or_default() });
        }
        resolver.finish(shape).map_err(|e| e.at(checkpoint.path()))
    }

    /// The image tower of `checkpoint`, of which a bundle says that it is `arch`, and that images go through
    /// `preprocess`; `options` come first here too. No configuration is read, and one that they name is noted.
    ///
    /// # Errors
    /// As [`Arch::infer`], naming the file.
    pub fn stored(
        checkpoint: &Checkpoint,
        arch: &Arch,
        preprocess: &Preprocess,
        options: &TowerOptions,
    ) -> Result<Self> {
        check_tower(checkpoint)?;
        let shape = shape_of(checkpoint, options.arch.pooling.or(Some(arch.variant.pooling)))?;
        let mut resolver = Resolver::new(options);
        if let ConfigSource::File(path) = &options.config {
            resolver.note(format!("{} is not read: a bundle says all that a configuration could", path.display()));
        }
        let mut images = ImageHints::of(preprocess);
        if preprocess.size() != shape.image_size() {
            // A base of another size, which only shares its vectors' shapes.
            images.edge = None;
        }
        resolver.add(Source { origin: Origin::Bundle, arch: arch.hints(), images });
        resolver.finish(shape).map_err(|e| e.at(checkpoint.path()))
    }

    /// What told a property.
    pub fn origin(&self, property: Property) -> Option<&Origin> {
        self.values.iter().find(|value| value.property == property).map(|value| &value.origin)
    }

    /// What was assumed of the architecture, as a sentence without a full stop that says which options settle it;
    /// `None` where nothing was.
    pub fn assumed(&self) -> Option<String> {
        let open: Vec<String> = self
            .open()
            .filter(|value| !value.property.is_of_images())
            .map(|value| format!("{} {} ({})", value.property.name(), value.value, value.property.option()))
            .collect();
        (!open.is_empty()).then(|| {
            let open = open.join(", ");
            format!("no configuration beside the weights says what their shapes do not; assumed: {open}")
        })
    }

    /// What was assumed of the preparation of images, as [`TowerConfig::assumed`] says it.
    pub fn assumed_images(&self) -> Option<String> {
        let open: Vec<&str> =
            self.open().filter(|value| value.property.is_of_images()).map(|value| value.property.option()).collect();
        (!open.is_empty()).then(|| {
            let options = open.join(", ");
            format!(
                "no configuration beside the weights says how images are prepared; assumed: as OpenAI's ({options})"
            )
        })
    }

    fn open(&self) -> impl Iterator<Item = &TowerValue> {
        self.values.iter().filter(|value| value.origin == Origin::Assumed)
    }

    /// Hands everything that the user should know to the log.
    pub fn log(&self) {
        for note in self.notes.iter().chain(&self.assumed()).chain(&self.assumed_images()) {
            tracing::warn!("{note}");
        }
    }
}

fn check_tower(checkpoint: &Checkpoint) -> Result<()> {
    checkpoint.check_read(is_image_tower)?;
    if checkpoint.image_tower().next().is_none() {
        return Err(frozen::no_tower(checkpoint));
    }
    Ok(())
}

/// What the shapes tell where this is the pooling, or OpenAI's. Heads, activation and epsilon of it mean nothing.
fn shape_of(checkpoint: &Checkpoint, pooling: Option<Pooling>) -> Result<Arch> {
    let pooling = pooling.or(Some(Pooling::default()));
    let any = ArchHints { heads: Some(1), pooling, ..ArchHints::default() };
    let shapes = checkpoint.image_tower().map(|(name, tensor)| (name, tensor.shape()));
    let inferred = Arch::infer(shapes, any).map_err(|e| e.at(checkpoint.path()));
    inferred.map_err(|e| match checkpoint.naming().remark() {
        Some(remark) if checkpoint.get(PROJECTION).is_none() => e.hint(format!("In this file, {remark}")),
        _ => e,
    })
}
