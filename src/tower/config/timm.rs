//! timm's `config.json`.

use super::images::{ImageHints, interpolation};
use super::keys::Keys;
use super::stated::{Stated, TowerSays, activation};
use crate::error::{Error, Result};
use crate::preprocess::ResizeMode;
use crate::tower::arch::{Activation, ArchHints, Epsilon, Pooling};

/// Tags of weights that want QuickGELU, though timm's plain architectures of their names have GELU: timm's own notes,
/// and open_clip's list of published weights, say so.
const QUICK: [&str; 6] = ["openai", "dfn2b", "dfn5b", "metaclip_400m", "metaclip_2pt5b", "metaclip2_worldwide"];
/// Tags that do so with this architecture alone.
const QUICK_B32: [&str; 2] = ["laion400m_e31", "laion400m_e32"];
const B32: &str = "vit_base_patch32_clip_224";

/// What timm's architectures of a family have that shapes do not tell.
struct Family {
    /// The beginnings of their names, and what occurs behind.
    names: (&'static [&'static str], &'static str),
    epsilon: Epsilon,
    activation: Activation,
}

/// The families that are read, of which the first counts that an architecture's name is of.
const FAMILIES: [Family; 8] = [
    Family { names: (&["vit_pe_core_"], ""), epsilon: Epsilon::USUAL, activation: Activation::Gelu },
    Family { names: (&["eva02_"], "_clip_"), epsilon: Epsilon::SMALL, activation: Activation::Silu },
    Family { names: (&["vit_"], "_clip_"), epsilon: Epsilon::USUAL, activation: Activation::Gelu },
    Family { names: (&["vit_"], "_siglip_"), epsilon: Epsilon::SMALL, activation: Activation::Gelu },
    Family { names: (&["vit_giant_"], "_dinov2"), epsilon: Epsilon::SMALL, activation: Activation::Silu },
    Family { names: (&["vit_"], "_dinov2"), epsilon: Epsilon::SMALL, activation: Activation::Gelu },
    Family { names: (&["vit_"], "_dinov3"), epsilon: Epsilon::USUAL, activation: Activation::Gelu },
    Family { names: (&["deit_", "deit3_", "vit_"], ""), epsilon: Epsilon::SMALL, activation: Activation::Gelu },
];

/// Words in names of architectures with a part that the plain ones lack, and that no parameter's name tells.
const OTHERS: [&str; 12] = [
    "_rope_", "_rpn", "_srelpos", "_relpos", "_xp_", "_pd_", "_mci_", "_worb_", "_cls_gap", "_qknorm", "_naflex",
    "_spatial",
];

/// The family of an architecture of this name.
fn family(name: &str) -> Option<&'static Family> {
    let is_other =
        OTHERS.iter().any(|word| name.contains(word)) || name.starts_with("vit_relpos") || name.contains("r26_s32");
    let is_of = |family: &&Family| {
        let (starts, within) = family.names;
        starts.iter().any(|start| name.starts_with(start)) && name.contains(within)
    };
    FAMILIES.iter().find(is_of).filter(|_| !is_other)
}

/// The content of `config`, if it is timm's.
pub(super) fn read(config: Keys<'_>) -> Result<Option<Stated>> {
    let Some(name) = config.text("architecture")? else { return Ok(None) };
    let Some(pretrained) = config.object("pretrained_cfg")? else { return Ok(None) };
    let arguments = config.object("model_args")?;
    let tag = pretrained.text("tag")?.unwrap_or_default();
    let says = tower(name, tag, arguments, config.text("global_pool")?)?;
    let size = match pretrained.get("input_size").and_then(|size| size.as_array()?.last()?.as_u64()) {
        Some(size) => usize::try_from(size).ok(),
        None => None,
    };
    let size = arguments.map(|of| of.side("img_size")).transpose()?.flatten().or(size);
    let Some(mut says) = says else {
        // A user's graph may be of it. What is odd about its images is no matter of those who pass over it.
        let (other, images) = (Some(format!("timm's `{name}`")), read_images(pretrained, size).ok());
        return Ok(Some(Stated { other, images, side: size, ..Stated::default() }));
    };
    says.sized(size, name);
    let images = Some(read_images(pretrained, size)?);
    Ok(Some(Stated { image: Some(says), images, ..Stated::default() }))
}

/// What an architecture of timm's says of its tower; `None` for one that is not read.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for an activation that is not built in.
pub(super) fn tower(
    name: &str,
    tag: &str,
    arguments: Option<Keys<'_>>,
    global_pool: Option<&str>,
) -> Result<Option<TowerSays>> {
    let Some(family) = family(name) else { return Ok(None) };
    let asked = arguments.map(|of| of.text("act_layer")).transpose()?.flatten();
    let exact = if is_quick(name, tag) { Activation::QuickGelu } else { family.activation };
    // Only CLIP's and the Perception Encoder's have a norm before the blocks, which their names tell.
    let pre_norm = name.contains("_clip_") && !name.starts_with("eva02_") || name.starts_with("vit_pe_core_");
    let mut says = TowerSays { pre_norm: Some(pre_norm), ..TowerSays::default() };
    let asked_pool = arguments.map(|of| of.text("global_pool")).transpose()?.flatten();
    let has_fc_norm = arguments.map(|of| of.flag("fc_norm")).transpose()?.flatten();
    says.hints = ArchHints {
        heads: arguments.map(|of| of.number("num_heads")).transpose()?.flatten(),
        activation: Some(asked.map_or(Ok(exact), activation)?),
        norm_epsilon: Some(family.epsilon),
        pooling: match asked_pool.or(global_pool) {
            None | Some("") => None,
            Some("token") => Some(Pooling::ClassToken),
            // The norm is behind the mean unless the architecture says otherwise, as DINOv3's do.
            Some("avg") if name.contains("_dinov3") || has_fc_norm == Some(false) => Some(Pooling::NormThenMean),
            Some("avg") => Some(Pooling::MeanThenNorm),
            Some("map") => Some(Pooling::Attention),
            Some(other) => {
                says.refuse(format!("the pooling `{other}`"));
                None
            }
        },
        grid: None,
    };
    Ok(Some(says))
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
