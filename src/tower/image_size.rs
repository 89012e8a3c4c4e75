//! Base and basis for images of another size than the table of positions has patches for: the table is resized, once,
//! in the base and in every vector alike, as the library of the base's names does it.

use std::path::Path;

use super::arch::{
    CLASS_EMBEDDING, DISTILLATION_TOKEN, PATCH_BIAS, PATCH_EMBEDDING, POSITIONAL_EMBEDDING, REGISTER_TOKENS,
    square_grid,
};
use super::config::{self, TowerConfig};
use super::positions::{PositionResampling, PositionResize};
use super::variant::Positions;
use crate::basis::Basis;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::tensor::{Source, Tensor};

/// A table of positions, and what it becomes.
struct ResizedTable {
    resize: PositionResize,
    /// The rows of tokens that are no patches, and the channels.
    prefix: usize,
    width: usize,
    /// The rows of the new table.
    rows: usize,
}

/// `base` for images of `size`×`size` pixels. `None` asks the configuration beside the base of a DINOv2, whose images
/// are smaller than those that its table was trained for; the table of any other stays.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a size that is not a number of patches;
/// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) for a base whose positions are not those of a square grid; as
/// [`TowerConfig::read`](super::TowerConfig::read).
pub fn base_for_images(base: Checkpoint, size: Option<usize>) -> Result<Checkpoint> {
    match ResizedTable::of(&base, size)? {
        Some(table) => table.base(base),
        None => Ok(base),
    }
}

/// `base`, and `basis` over it, for images of `size`×`size` pixels, as [`base_for_images`] has it.
///
/// # Errors
/// As [`base_for_images`].
pub fn for_images(base: Checkpoint, basis: Basis, size: Option<usize>) -> Result<(Checkpoint, Basis)> {
    let Some(table) = ResizedTable::of(&base, size)? else { return Ok((base, basis)) };
    let resized = table.basis(basis)?;
    Ok((table.base(base)?, resized))
}

impl ResizedTable {
    /// The resizing that images of this size want; `None` where the table fits them.
    fn of(base: &Checkpoint, size: Option<usize>) -> Result<Option<Self>> {
        let size = match size {
            None if is_dinov2(base) => config::stated_side(base)?,
            asked => asked,
        };
        size.map(|size| Self::for_size(base, size)).transpose().map(Option::flatten)
    }

    fn for_size(base: &Checkpoint, size: usize) -> Result<Option<Self>> {
        if TowerConfig::needs_graph(base) {
            return Err(Error::unsupported("an image size is for a tower with a table of positions, which is resized")
                .at(base.path())
                .hint("A user's graph takes images of the size that it was exported for"));
        }
        let patch = base.require(PATCH_EMBEDDING)?.shape().last().copied().unwrap_or(0);
        if patch == 0 || size == 0 || !size.is_multiple_of(patch) {
            return Err(Error::invalid("an image size that is no number of patches")
                .at(base.path())
                .expected(format_args!("a multiple of {patch}"))
                .got(size));
        }
        let Some(table) = base.get(POSITIONAL_EMBEDDING) else { return Ok(None) };
        let before = [CLASS_EMBEDDING, DISTILLATION_TOKEN].iter().filter(|name| base.get(name).is_some()).count();
        let found = match *table.shape() {
            [rows, width] => square_grid(rows, before, true).map(|(positions, from)| (positions, from, width)),
            _ => None,
        };
        let (positions, from, width) = found.ok_or_else(|| {
            Error::mismatch("not the positions of a square grid of patches")
                .at(base.path())
                .tensor(POSITIONAL_EMBEDDING)
                .got(format_args!("shape {:?}", table.shape()))
        })?;
        let (prefix, to) = (if positions == Positions::All { before } else { 0 }, size / patch);
        if from == to {
            return Ok(None);
        }
        let resize = PositionResize::new(from, to, resampling(base))?;
        Ok(Some(Self { resize, prefix, width, rows: prefix + to * to }))
    }

    fn base(&self, base: Checkpoint) -> Result<Checkpoint> {
        let table = base.require(POSITIONAL_EMBEDDING)?.clone();
        let table = self.resized(&Source::Dense(table), base.path())?;
        Ok(base.with_positions(POSITIONAL_EMBEDDING, table))
    }

    fn basis(&self, basis: Basis) -> Result<Basis> {
        let Some(parameter) = basis.parameter(POSITIONAL_EMBEDDING) else { return Ok(basis) };
        if parameter.sources().is_empty() {
            return Ok(basis.without_changes(POSITIONAL_EMBEDDING, &[self.rows, self.width]));
        }
        let sources = parameter.sources().iter().map(|source| self.resized(source, basis.path()).map(Source::Dense));
        let sources = sources.collect::<Result<Vec<_>>>()?;
        Ok(basis.with_parameter(POSITIONAL_EMBEDDING, sources))
    }

    /// The table in `source`, of the file at `path`, resized.
    fn resized(&self, source: &Source, path: &Path) -> Result<Tensor> {
        let resized = source.to_f32().and_then(|table| self.resize.apply(&table, self.prefix, self.width));
        let values = resized.map_err(|e| e.at(path).tensor(POSITIONAL_EMBEDDING))?;
        Tensor::from_f32(&values, &[self.rows, self.width], &path.to_string_lossy())
    }
}

/// Whether it is DINOv2's tower, which runs on images of any size.
fn is_dinov2(base: &Checkpoint) -> bool {
    let has = |name: &str| base.get(name).is_some();
    has(PATCH_BIAS) && has(CLASS_EMBEDDING) && has("visual.transformer.resblocks.0.ls_1.gamma")
}

/// The way in which the library of the base's names resizes.
fn resampling(base: &Checkpoint) -> PositionResampling {
    let has_registers = base.get(REGISTER_TOKENS).is_some();
    // DINOv2's own files have names like timm's, and the token that stood for hidden patches in training.
    let is_dinov2s_own = base.iter().any(|(name, _)| name == "mask_token");
    match (base.naming().is_of_transformers(), is_dinov2s_own) {
        (true, _) if !has_registers => PositionResampling::Plain,
        (false, true) if !has_registers => PositionResampling::DinoV2,
        _ => PositionResampling::Antialiased,
    }
}
