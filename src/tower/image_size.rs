//! Base and basis for images of another size than the table of positions has patches for: the table is resized, once,
//! in the base and in every vector alike, as the library of the base's names does it.

use super::arch::{
    CLASS_EMBEDDING, DISTILLATION_TOKEN, PATCH_BIAS, PATCH_EMBEDDING, POSITIONAL_EMBEDDING, REGISTER_TOKENS, side_of,
};
use super::config;
use super::positions::{PositionResampling, PositionResize};
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

/// `base`, and `basis` over it, for images of `size`×`size` pixels. `None` asks the configuration beside the base of a
/// DINOv2, whose images are smaller than those that its table was trained for; the table of any other stays.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a size that is not a number of patches;
/// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) for a base whose positions are not those of a square grid; as
/// [`TowerConfig::read`](super::TowerConfig::read).
pub fn for_images(base: Checkpoint, basis: Option<Basis>, size: Option<usize>) -> Result<(Checkpoint, Option<Basis>)> {
    let size = match size {
        Some(size) => Some(size),
        None if is_dinov2(&base) => config::stated_side(&base)?,
        None => None,
    };
    let Some(table) = size.map(|size| plan(&base, size)).transpose()?.flatten() else { return Ok((base, basis)) };
    let resized = |source: &Source| -> Result<Tensor> {
        let values = table.resize.apply(&source.to_f32()?, table.prefix, table.width)?;
        Tensor::from_f32(&values, &[table.rows, table.width], &base.path().to_string_lossy())
    };
    let of_base = resized(&Source::Dense(base.require(POSITIONAL_EMBEDDING)?.clone()))?;
    let basis = match basis {
        None => None,
        Some(basis) => match basis.parameter(POSITIONAL_EMBEDDING) {
            Some(parameter) if !parameter.sources().is_empty() => {
                let sources = parameter.sources().iter().map(|source| resized(source).map(Source::Dense));
                let sources = sources.collect::<Result<Vec<_>>>().map_err(|e| e.at(basis.path()))?;
                Some(basis.with_parameter(POSITIONAL_EMBEDDING, sources))
            }
            Some(_) => Some(basis.without_changes(POSITIONAL_EMBEDDING, &[table.rows, table.width])),
            None => Some(basis),
        },
    };
    Ok((base.with_positions(POSITIONAL_EMBEDDING, of_base), basis))
}

/// Whether it is DINOv2's tower, which runs on images of any size.
fn is_dinov2(base: &Checkpoint) -> bool {
    let has = |name: &str| base.get(name).is_some();
    has(PATCH_BIAS) && has(CLASS_EMBEDDING) && has("visual.transformer.resblocks.0.ls_1.gamma")
}

/// The resizing that images of `size` pixels want; `None` where the table fits them.
fn plan(base: &Checkpoint, size: usize) -> Result<Option<ResizedTable>> {
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
        [rows, width] => {
            [before, 0].into_iter().find_map(|prefix| Some((prefix, side_of(rows.checked_sub(prefix)?)?, width)))
        }
        _ => None,
    };
    let (prefix, from, width) = found.ok_or_else(|| {
        Error::mismatch("not the positions of a square grid of patches")
            .at(base.path())
            .tensor(POSITIONAL_EMBEDDING)
            .got(format_args!("shape {:?}", table.shape()))
    })?;
    let to = size / patch;
    if from == to {
        return Ok(None);
    }
    let resize = PositionResize::new(from, to, resampling(base))?;
    Ok(Some(ResizedTable { resize, prefix, width, rows: prefix + to * to }))
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
