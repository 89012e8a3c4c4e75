//! `open_clip_config.json`, and open_clip's own model configurations. A switch that is absent has the library's
//! default; an extent that is absent is the weights'.

use super::images::{ImageHints, interpolation};
use super::keys::Keys;
use super::stated::{Extent, Stated, TowerSays};
use super::timm;
use crate::error::{Error, Result};
use crate::preprocess::ResizeMode;
use crate::tower::arch::{Activation, ArchHints, Epsilon, Pooling};

/// Features of blocks that both towers may have.
const OF_BLOCKS: [(&str, &str); 4] = [
    ("qk_norm", "normalised queries and keys (qk_norm)"),
    ("scaled_cosine_attn", "scaled cosine attention"),
    ("scale_heads", "scaled attention heads (scale_heads)"),
    ("scale_attn", "a norm after attention (scale_attn)"),
];

/// The content of `config`, if it is open_clip's.
pub(super) fn read(config: Keys<'_>) -> Result<Option<Stated>> {
    let model = config.object("model_cfg")?.unwrap_or(config);
    let (vision, text) = (model.object("vision_cfg")?, model.object("text_cfg")?);
    if vision.is_none() && text.is_none() {
        return Ok(None);
    }
    let is_quick = model.flag("quick_gelu")?.unwrap_or(false);
    let image = match vision {
        Some(vision) => {
            let mut image = tower(vision, is_quick)?;
            image.extent(Extent::Embedding, model.number("embed_dim")?);
            read_image(vision, &mut image)?;
            Some(image)
        }
        None => None,
    };
    let text = text.map(|text| read_text(text, is_quick)).transpose()?;
    let images = Some(read_images(config.object("preprocess_cfg")?)?);
    Ok(Some(Stated { image, text, images, ..Stated::default() }))
}

/// The part that both towers' sections have.
fn tower(section: Keys<'_>, is_quick: bool) -> Result<TowerSays> {
    let mut says = TowerSays::default();
    let exact = if is_quick { Activation::QuickGelu } else { Activation::Gelu };
    let activation = match section.object("act_kwargs")? {
        Some(of) if of.is_set("approximate") => match (is_quick, of.text("approximate")?) {
            (_, Some("none")) => exact,
            (false, Some("tanh")) => Activation::GeluTanh,
            (_, other) => {
                return Err(Error::unsupported("an activation that is not built in")
                    .expected("`approximate` to be tanh or none, without quick_gelu")
                    .got(format_args!("{other:?}")));
            }
        },
        _ => exact,
    };
    let norm = section.object("norm_kwargs")?;
    let epsilon = norm.map(|norm| norm.float("eps")).transpose()?.flatten();
    says.hints = ArchHints {
        activation: Some(activation),
        norm_epsilon: Some(epsilon.map_or(Ok(Epsilon::USUAL), Epsilon::new)?),
        ..ArchHints::default()
    };
    for (key, feature) in OF_BLOCKS {
        if section.is_set(key) {
            says.refuse(feature);
        }
    }
    Ok(says)
}

fn read_image(vision: Keys<'_>, says: &mut TowerSays) -> Result<()> {
    if let Some(name) = vision.text("timm_model_name")?.filter(|name| !name.is_empty()) {
        return read_timm(vision, name, says);
    }
    if vision.get("layers").is_some_and(serde_json::Value::is_array) {
        says.refuse("a ResNet as image encoder");
        return Ok(());
    }
    if vision.is_set("attentional_pool") {
        says.refuse("attentional pooling (attentional_pool)");
    }
    let width = vision.number("width")?;
    let head_width = vision.number("head_width")?.unwrap_or(64);
    says.hints.heads = width.map(|width| (width / head_width).max(1));
    let is_normed_after = vision.flag("final_ln_after_pool")?.unwrap_or(false);
    says.hints.pooling = match vision.text("pool_type")?.unwrap_or("tok") {
        "tok" => Some(Pooling::ClassToken),
        "avg" if is_normed_after => Some(Pooling::MeanThenNorm),
        "avg" => Some(Pooling::NormThenMean),
        other => {
            says.refuse(format!("the pooling `{other}`"));
            None
        }
    };
    says.pre_norm = Some(!vision.flag("no_ln_pre")?.unwrap_or(false));
    says.extent(Extent::Width, width);
    says.extent(Extent::Layers, vision.number("layers")?);
    let ratio = vision.float("mlp_ratio")?.unwrap_or(4.0);
    says.extent(Extent::MlpWidth, width.map(|width| mlp_width(width, ratio)));
    says.extent(Extent::Patch, vision.side("patch_size")?);
    says.extent(Extent::ImageSize, vision.side("image_size")?);
    Ok(())
}

/// An image encoder of timm's, whose values the name of its architecture tells.
fn read_timm(vision: Keys<'_>, name: &str, says: &mut TowerSays) -> Result<()> {
    let embedding = std::mem::take(&mut says.extents);
    match timm::tower(name, "", vision.object("timm_model_kwargs")?, vision.text("timm_pool")?)? {
        Some(of_timm) => *says = of_timm,
        None => says.refuse(format!("a timm model as image encoder ({name})")),
    }
    if vision.text("timm_proj")?.is_some_and(|proj| !matches!(proj, "" | "none" | "linear")) {
        says.refuse("a projection of several layers (timm_proj)");
    }
    says.extents.extend(embedding);
    says.sized(vision.side("image_size")?, name);
    Ok(())
}

/// ⌊width·ratio⌋ in double precision, as Python computes it. The ratio is the double that its shortest f32 text gives.
fn mlp_width(width: usize, ratio: f32) -> usize {
    let ratio: f64 = ratio.to_string().parse().unwrap_or(f64::from(ratio));
    (width as f64 * ratio) as usize
}

fn read_text(text: Keys<'_>, is_quick: bool) -> Result<TowerSays> {
    let mut says = tower(text, is_quick)?;
    if text.is_set("hf_model_name") {
        let name = text.text("hf_model_name")?.unwrap_or("?");
        says.refuse(format!("a text encoder of another kind ({name})"));
        return Ok(says);
    }
    let tokenizer = text.text("hf_tokenizer_name")?.filter(|name| !name.is_empty());
    let clean = text.object("tokenizer_kwargs")?.map(|of| of.text("clean")).transpose()?.flatten();
    let pool = text.text("pool_type")?.unwrap_or("argmax");
    let is_siglip = text.is_set("no_causal_mask") && text.is_set("proj_bias") && pool == "last";
    says.siglip_text = Some(is_siglip);
    match tokenizer {
        // SigLIP's, which a file beside the weights defines.
        _ if is_siglip => {}
        Some(tokenizer) => says.refuse(format!("another tokenizer than CLIP's ({tokenizer})")),
        None => {}
    }
    let known = if is_siglip { "canonicalize" } else { "lower" };
    if let Some(clean) = clean.filter(|clean| *clean != known) {
        says.refuse(format!("another cleaning of texts than is built in (`{clean}`)"));
    }
    for (key, feature) in [
        ("embed_cls", "a class token of the text encoder (embed_cls)"),
        ("use_pad_mask", "a mask of the padding of texts (use_pad_mask)"),
        ("no_causal_mask", "attention without a mask"),
        ("proj_bias", "a text projection with a bias"),
    ] {
        if text.is_set(key) && !(is_siglip && matches!(key, "no_causal_mask" | "proj_bias")) {
            says.refuse(feature);
        }
    }
    if pool != "argmax" && !is_siglip {
        says.refuse(format!("the text pooling `{pool}`"));
    }
    let width = text.number("width")?;
    says.hints.heads = text.number("heads")?.or(Some(8));
    says.extent(Extent::Width, width);
    says.extent(Extent::Layers, text.number("layers")?);
    let ratio = text.float("mlp_ratio")?.unwrap_or(4.0);
    says.extent(Extent::MlpWidth, width.map(|width| mlp_width(width, ratio)));
    Ok(says)
}

/// `preprocess_cfg`. Its `size` is the tower's, whatever it says: so the library has it.
fn read_images(images: Option<Keys<'_>>) -> Result<ImageHints> {
    let Some(images) = images else { return Ok(ImageHints::clip()) };
    let resize = match images.text("resize_mode")?.unwrap_or("shortest") {
        "shortest" => ResizeMode::Shortest,
        "longest" => ResizeMode::Longest,
        "squash" => ResizeMode::Squash,
        other => {
            return Err(Error::unsupported("a `resize_mode` that is not built in")
                .expected("shortest, longest or squash")
                .got(format_args!("`{other}`")));
        }
    };
    // `random` varies in training alone.
    let filter = images.text("interpolation")?.filter(|name| *name != "random").unwrap_or("bicubic");
    let fill = match images.get("fill_color").map(serde_json::Value::as_u64) {
        None => 0,
        Some(fill) => fill
            .and_then(|fill| u8::try_from(fill).ok())
            .ok_or_else(|| Error::unsupported("a `fill_color` that is not one of 0 to 255"))?,
    };
    Ok(ImageHints {
        mean: images.channels("mean")?,
        std: images.channels("std")?,
        resize: Some(resize),
        interpolation: Some(interpolation(filter)?),
        fill: Some(fill),
        ..ImageHints::clip()
    }
    .or(ImageHints::clip()))
}
