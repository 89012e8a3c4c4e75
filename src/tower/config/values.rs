//! The values that no shape tells, and where they came from.

use std::fmt;
use std::path::PathBuf;

use super::files::ConfigSource;
use super::images::ImageHints;
use crate::preprocess::Preprocess;
use crate::tower::arch::{Arch, ArchHints};

/// The values that a caller asks for, and where else to look.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TowerOptions {
    /// Values of the architecture.
    pub arch: ArchHints,
    /// Values of the preparation of images.
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

/// A property that shapes do not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Property {
    /// The number of attention heads.
    Heads,
    /// The activation of the MLPs.
    Activation,
    /// The number that every `LayerNorm` adds to the variance.
    NormEpsilon,
    /// The pooling of the last block's tokens.
    Pooling,
    /// The mean of images.
    Mean,
    /// The standard deviation of images.
    Std,
    /// The sides of images that are resized.
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

    pub(super) fn is_of_images(self) -> bool {
        matches!(self, Self::Mean | Self::Std | Self::Resize | Self::Interpolation)
    }
}

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// The caller.
    Asked,
    /// The bundle.
    Bundle,
    /// The weights: they hold a classifier over the patches' mean, and no projection.
    Classifier,
    /// A configuration.
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

/// A property's value, and its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TowerValue {
    /// The property.
    pub property: Property,
    /// The value's text.
    pub value: String,
    /// The source of the value.
    pub origin: Origin,
}

/// An image tower with everything that its shapes do not tell.
#[derive(Clone, Debug)]
pub struct TowerConfig {
    /// The architecture.
    pub arch: Arch,
    /// The preparation of images.
    pub preprocess: Preprocess,
    /// The values that shapes do not tell, each with its source.
    pub values: Vec<TowerValue>,
    /// Notes on what was told twice, and differently, or passed over: sentences without a full stop.
    /// [`TowerConfig::assumed`] and [`TowerConfig::assumed_images`] say what was told by nothing.
    pub notes: Vec<String>,
}

impl TowerConfig {
    /// The source of a property's value.
    pub fn origin(&self, property: Property) -> Option<&Origin> {
        self.values.iter().find(|value| value.property == property).map(|value| &value.origin)
    }

    /// The assumptions on the architecture, as a sentence without a full stop that says which options settle it; `None`
    /// where nothing was.
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

    /// The assumptions on the preparation of images, as a sentence like that of [`TowerConfig::assumed`].
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

    pub(super) fn open(&self) -> impl Iterator<Item = &TowerValue> {
        self.values.iter().filter(|value| value.origin == Origin::Assumed)
    }

    /// Hands everything that the user should know to the log.
    pub fn log(&self) {
        for note in self.notes.iter().chain(&self.assumed()).chain(&self.assumed_images()) {
            tracing::warn!("{note}");
        }
    }
}
