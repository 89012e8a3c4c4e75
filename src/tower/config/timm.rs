//! timm's `config.json`.

use super::images::{ImageHints, interpolation};
use super::keys::Keys;
use super::stated::{Extent, Stated, TowerSays, activation};
use crate::error::{Error, Result};
use crate::preprocess::ResizeMode;
use crate::tower::arch::{Activation, ArchHints, Epsilon, Pooling};

/// Tags of weights that want QuickGELU, though timm's plain architectures of their names have GELU: timm's own notes,
/// and open_clip's list of published weights, say so.
const QUICK: [&str; 6] = ["openai", "dfn2b", "dfn5b", "metaclip_400m", "metaclip_2pt5b", "metaclip2_worldwide"];
/// Tags that do so with this architecture alone.
const QUICK_B32: [&str; 2] = ["laion400m_e31", "laion400m_e32"];
const B32: &str = "vit_base_patch32_clip_224";

/// The content of `config`, if it is timm's.
pub(super) fn read(config: Keys<'_>) -> Result<Option<Stated>> {
    let Some(name) = config.text("architecture")? else { return Ok(None) };
    let Some(pretrained) = config.object("pretrained_cfg")? else { return Ok(None) };
    if !(name.starts_with("vit_") && name.contains("_clip_")) {
        return Ok(Some(Stated { other: Some(format!("timm's `{name}`")), ..Stated::default() }));
    }
    let tag = pretrained.text("tag")?.unwrap_or_default();
    let arguments = config.object("model_args")?;
    let asked = arguments.map(|of| of.text("act_layer")).transpose()?.flatten();
    let exact = if is_quick(name, tag) { Activation::QuickGelu } else { Activation::Gelu };
    let mut says = TowerSays { pre_norm: Some(true), ..TowerSays::default() };
    says.hints = ArchHints {
        heads: arguments.map(|of| of.number("num_heads")).transpose()?.flatten(),
        activation: Some(asked.map_or(Ok(exact), activation)?),
        norm_epsilon: Some(Epsilon::USUAL),
        pooling: match config.text("global_pool")?.unwrap_or("token") {
            "token" => Some(Pooling::ClassToken),
            "avg" => Some(Pooling::MeanThenNorm),
            other => {
                says.refuse(format!("the pooling `{other}`"));
                None
            }
        },
    };
    let size = match pretrained.get("input_size").and_then(|size| size.as_array()?.last()?.as_u64()) {
        Some(size) => usize::try_from(size).ok(),
        None => None,
    };
    says.extent(Extent::ImageSize, size);
    let images = Some(read_images(pretrained, size)?);
    Ok(Some(Stated { image: Some(says), images, ..Stated::default() }))
}

/// Whether weights of this tag want QuickGELU.
fn is_quick(architecture: &str, tag: &str) -> bool {
    architecture.contains("_quickgelu_") || QUICK.contains(&tag) || (architecture == B32 && QUICK_B32.contains(&tag))
}

fn read_images(pretrained: Keys<'_>, size: Option<usize>) -> Result<ImageHints> {
    let resize = match pretrained.text("crop_mode")?.unwrap_or("center") {
        "center" => ResizeMode::Shortest,
        "squash" => ResizeMode::Squash,
        other => return Err(Error::unsupported("a `crop_mode` that is not built in").got(format_args!("`{other}`"))),
    };
    let crop = pretrained.float("crop_pct")?.unwrap_or(0.875);
    if !(0.05..=1.0).contains(&crop) {
        return Err(Error::format("`crop_pct` is out of range").expected("0.05 to 1").got(crop));
    }
    let crop: f64 = crop.to_string().parse().unwrap_or(f64::from(crop));
    Ok(ImageHints {
        mean: pretrained.channels("mean")?,
        std: pretrained.channels("std")?,
        resize: Some(resize),
        edge: size.map(|size| (size as f64 / crop) as usize),
        interpolation: pretrained.text("interpolation")?.map(interpolation).transpose()?,
        fill: None,
    }
    .or(ImageHints::clip()))
}
