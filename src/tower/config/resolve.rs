//! The choice among several sources of one value.

use std::fmt::{self, Display};

use super::images::ImageHints;
use super::values::{Origin, Property, TowerConfig, TowerOptions, TowerValue};
use crate::error::{Error, Result};
use crate::preprocess::{CLIP_MEAN, CLIP_STD, Interpolation, ResizeMode};
use crate::tower::arch::{Activation, Arch, ArchHints, Epsilon, Pooling, Variant};
use crate::tower::published;

/// A source of values, such as a configuration.
pub(super) struct ValueSource {
    pub(super) origin: Origin,
    pub(super) arch: ArchHints,
    pub(super) images: ImageHints,
}

/// Sources, the most believed one first, and what has been found out.
pub(super) struct Resolver {
    sources: Vec<ValueSource>,
    values: Vec<TowerValue>,
    notes: Vec<String>,
    has_graph: bool,
}

impl Resolver {
    pub(super) fn new(options: &TowerOptions) -> Self {
        let asked = ValueSource { origin: Origin::Asked, arch: options.arch, images: options.images };
        Self { sources: vec![asked], values: Vec::new(), notes: Vec::new(), has_graph: options.has_graph }
    }

    pub(super) fn add(&mut self, source: ValueSource) {
        self.sources.push(source);
    }

    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// The tower of this shape.
    pub(super) fn finish(mut self, shape: Arch) -> Result<TowerConfig> {
        let form = shape.form();
        let published_heads = published::heads_of(&form);
        let is_published = published_heads.is_some();
        let usual = published::usual(&form);
        let heads = self.pick(Property::Heads, |source| source.arch.heads, published_heads, usual.heads);
        let gate = usual.activation.filter(|activation| *activation == Activation::Silu);
        let activation = self.pick(Property::Activation, |source| source.arch.activation, gate, usual.activation);
        let is_of_clip = is_published && usual.norm_epsilon == Some(Epsilon::USUAL);
        let norm_epsilon = self.pick(
            Property::NormEpsilon,
            |source| source.arch.norm_epsilon,
            usual.norm_epsilon.filter(|_| is_of_clip),
            usual.norm_epsilon,
        );
        let published = published::published_pooling(&form);
        let usual_of_published = Some(Pooling::ClassToken).filter(|_| is_published && form.pre_norm);
        let pooling =
            self.pick(Property::Pooling, |source| source.arch.pooling, published.or(usual_of_published), usual.pooling);
        let (heads, pooling) = match self.has_graph {
            true => (heads.or(Some(1)), pooling.or(Some(shape.variant.pooling))),
            false => (heads, pooling),
        };
        let arch = Arch {
            heads: heads.ok_or_else(|| published::unknown_heads(form.width))?,
            activation: activation.unwrap_or_default(),
            variant: Variant {
                norm_epsilon: norm_epsilon.unwrap_or_default(),
                pooling: pooling.ok_or_else(published::unknown_pooling)?,
                ..shape.variant
            },
            ..shape
        };
        arch.check()?;
        if self.has_graph {
            self.values.clear();
        }
        let images = self.images();
        let preprocess = images.preprocess(arch.image_size()).map_err(|e| self.of_config(e, &images))?;
        Ok(TowerConfig { arch, preprocess, values: self.values, notes: self.notes })
    }

    fn images(&mut self) -> ImageHints {
        let channels = |values: Option<[f32; 3]>| values.map(Channels);
        let mean = Some(Channels(CLIP_MEAN));
        let std = Some(Channels(CLIP_STD));
        let mean = self.pick(Property::Mean, |source| channels(source.images.mean), None, mean);
        let std = self.pick(Property::Std, |source| channels(source.images.std), None, std);
        let resize = Some(ResizeMode::default());
        let filter = Some(Interpolation::default());
        let resize = self.pick(Property::Resize, |source| source.images.resize, None, resize);
        let interpolation = self.pick(Property::Interpolation, |source| source.images.interpolation, None, filter);
        // Asked for another mode, what a configuration says of the edge is of its own mode.
        let told = self.sources.iter().skip(1).find(|source| source.images.resize == resize);
        let asked = self.sources.first().and_then(|source| source.images.edge);
        let edge = asked.or(told.and_then(|source| source.images.edge));
        let fill = self.sources.iter().find_map(|source| source.images.fill);
        ImageHints { mean: mean.map(|of| of.0), std: std.map(|of| of.0), resize, edge, interpolation, fill }
    }

    /// The error for `images` with the configuration that says the mean or the deviation at fault.
    fn of_config(&self, error: Error, images: &ImageHints) -> Error {
        let is_bad = |values: Option<[f32; 3]>, least: f32| {
            values.is_some_and(|values| !values.iter().all(|value| value.is_finite() && *value > least))
        };
        let property = match (is_bad(images.std, 0.0), is_bad(images.mean, f32::NEG_INFINITY)) {
            (true, _) => Property::Std,
            (_, true) => Property::Mean,
            _ => return error,
        };
        let origin = self.values.iter().find(|value| value.property == property).map(|value| &value.origin);
        match origin {
            Some(Origin::Config(path)) => {
                error.at(path).hint(format!("{} says another, --config none goes without", property.option()))
            }
            _ => error,
        }
    }

    /// The first source's value; what others say instead is noted. Without a source it is that of `published` towers,
    /// or the `usual` one.
    fn pick<T: Copy + PartialEq + Display>(
        &mut self,
        property: Property,
        of: impl Fn(&ValueSource) -> Option<T>,
        published: Option<T>,
        usual: Option<T>,
    ) -> Option<T> {
        let mut told = self.sources.iter().filter_map(|source| Some((of(source)?, &source.origin)));
        let first = told.next().map(|(value, origin)| (value, origin.clone()));
        let (value, origin) = first
            .or(published.map(|value| (value, Origin::Published)))
            .or(usual.map(|value| (value, Origin::Assumed)))?;
        let others: Vec<String> = told
            .filter(|(other, _)| *other != value)
            .map(|(other, by)| {
                let by = match by {
                    Origin::Config(path) => path.display().to_string(),
                    _ => format!("the {by}"),
                };
                format!("{by} says {} {other}; {value} is used: {}", property.name(), reason(&origin))
            })
            .collect();
        self.notes.extend(others);
        self.values.push(TowerValue { property, value: value.to_string(), origin });
        Some(value)
    }
}

fn reason(origin: &Origin) -> String {
    match origin {
        Origin::Config(path) => format!("{} says so", path.display()),
        Origin::Classifier => "the weights hold a classifier and no projection".into(),
        _ => "it was asked for".into(),
    }
}

/// Numbers of the channels.
#[derive(Clone, Copy, PartialEq)]
struct Channels([f32; 3]);

impl Display for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [red, green, blue] = self.0;
        if red == green && green == blue { write!(f, "{red}") } else { write!(f, "{red}, {green}, {blue}") }
    }
}
