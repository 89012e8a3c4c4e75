//! Reading a tower: from what is asked for, the configurations beside its weights, or a bundle.

use super::files::{self, ConfigSource};
use super::images::ImageHints;
use super::resolve::{Resolver, ValueSource};
use super::stated;
use super::values::{Origin, TowerConfig, TowerOptions};
use crate::checkpoint::{Checkpoint, is_image_tower, lacking};
use crate::error::Result;
use crate::preprocess::Preprocess;
use crate::tower::arch::{Arch, ArchHints, PROJECTION, Pooling, square_grid};
use crate::tower::classifier;

impl Arch {
    /// The architecture of the image tower in `checkpoint`. What `hints` leave open is read beside it, as
    /// [`TowerConfig::read`] does, which also tells where each value came from; the notes of
    /// that go to the log.
    ///
    /// # Errors
    /// As [`TowerConfig::read`].
    pub fn of(checkpoint: &Checkpoint, hints: ArchHints) -> Result<Self> {
        let tower = TowerConfig::read(checkpoint, &hints.into())?;
        tower.log();
        Ok(tower.arch)
    }
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
        let stated = configs.iter().find_map(|stated| stated.image.as_ref()?.hints.pooling);
        let grid = configs.iter().find_map(|stated| stated.image.as_ref()?.hints.grid);
        let shape = shape_of(checkpoint, options.arch.pooling.or(of_weights).or(stated), options.arch.grid.or(grid))?;
        let mut resolver = Resolver::new(options);
        let as_stored = as_stored(checkpoint, &shape);
        if as_stored.grid != shape.grid {
            let [from, to] = [as_stored.grid, shape.grid];
            resolver.note(format!("the table of positions was resized from {from} × {from} to {to} × {to} patches"));
        }
        if let Some(pooling) = of_weights {
            // Before what a configuration says: without a projection there is no other pooling.
            let arch = ArchHints { pooling: of_weights, ..ArchHints::default() };
            resolver.add(ValueSource { origin: Origin::Classifier, arch, images: ImageHints::default() });
            if options.arch.pooling.or(stated) != of_weights {
                resolver.note(classifier::taken(checkpoint, pooling));
            }
        }
        let mut has_images = false;
        for stated in configs {
            let path = stated.path;
            if let Some(other) = stated.other {
                resolver.note(format!("{} is of {other}, and passed over", path.display()));
                continue;
            }
            if let Some(says) = &stated.image {
                says.check_image(&path, &as_stored).map_err(|e| e.at(checkpoint.path()))?;
            }
            if let Some(side) = stated.side.filter(|side| *side != shape.image_size()) {
                return Err(stated::contradiction(&path, "another size of images than the weights have")
                    .at(checkpoint.path())
                    .expected(format_args!("{side} × {side} pixels"))
                    .got(shape.image_size())
                    .hint("--image-size resizes the table of positions"));
            }
            // All of the preparation is the first file's that says something of it: halves of two would be neither's.
            let images = stated.images.filter(|_| !has_images);
            has_images |= images.is_some();
            let arch = stated.image.map(|says| says.hints).unwrap_or_default();
            resolver.add(ValueSource { origin: Origin::Config(path), arch, images: images.unwrap_or_default() });
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
        let shape = shape_of(checkpoint, options.arch.pooling.or(Some(arch.variant.pooling)), Some(arch.grid))?;
        let mut resolver = Resolver::new(options);
        if let ConfigSource::File(path) = &options.config {
            resolver.note(format!("{} is not read: a bundle says all that a configuration could", path.display()));
        }
        let mut images = ImageHints::of(preprocess);
        if preprocess.size() != shape.image_size() {
            // A base of another size, which only shares its vectors' shapes.
            images.edge = None;
        }
        resolver.add(ValueSource { origin: Origin::Bundle, arch: arch.hints(), images });
        resolver.finish(shape).map_err(|e| e.at(checkpoint.path()))
    }
}

/// The architecture of the file, whose table of positions may have been resized since.
fn as_stored(checkpoint: &Checkpoint, shape: &Arch) -> Arch {
    let rows = checkpoint.stored_positions().and_then(|shape| shape.first().copied());
    let found = rows.and_then(|rows| square_grid(rows, shape.variant.tokens.without_registers(), true));
    let grid = found.map(|(_, grid)| grid);
    Arch { grid: grid.unwrap_or(shape.grid), ..shape.clone() }
}

/// The side of the images that the configurations beside `checkpoint` prepare, in pixels, where they say it.
///
/// # Errors
/// As [`TowerConfig::read`].
pub(in crate::tower) fn stated_side(checkpoint: &Checkpoint) -> Result<Option<usize>> {
    let configs = files::read(checkpoint.path(), &ConfigSource::Beside)?;
    Ok(configs.iter().filter(|stated| stated.other.is_none()).find_map(|stated| stated.side))
}

fn check_tower(checkpoint: &Checkpoint) -> Result<()> {
    checkpoint.check_read(is_image_tower)?;
    if checkpoint.image_tower().next().is_none() {
        return Err(lacking::no_tower(checkpoint));
    }
    Ok(())
}

/// The architecture that the shapes tell where this is the pooling, or whichever they suggest. Heads, activation and
/// epsilon of it mean nothing.
fn shape_of(checkpoint: &Checkpoint, pooling: Option<Pooling>, grid: Option<usize>) -> Result<Arch> {
    let any = ArchHints { heads: Some(1), pooling, grid, ..ArchHints::default() };
    let shapes = checkpoint.image_tower().map(|(name, tensor)| (name, tensor.shape()));
    let inferred = Arch::infer_with(shapes, any, true).map_err(|e| e.at(checkpoint.path()));
    inferred.map_err(|e| match checkpoint.naming().remark() {
        Some(remark) if checkpoint.get(PROJECTION).is_none() => e.hint(format!("In this file, {remark}")),
        _ => e,
    })
}
