//! `config.json` of the transformers library. A switch that is absent has the library's default; an extent that is
//! absent is the weights'.

use super::keys::Keys;
use super::stated::{Extent, Stated, TowerSays, activation};
use crate::error::Result;
use crate::tower::arch::{Activation, ArchHints, Epsilon, Pooling};

/// Model types whose image tower is CLIP's, with a projection.
const MODELS: [&str; 5] = ["clip", "metaclip_2", "chinese_clip", "altclip", "clipseg"];
/// The model types whose text tower is CLIP's too.
const WITH_TEXT: [&str; 2] = ["clip", "clipseg"];
/// The architectures with a classifier in the place of the projection.
const CLASSIFIERS: [&str; 2] = ["CLIPForImageClassification", "MetaClip2ForImageClassification"];
/// The model types of SigLIP, whose image tower pools by attention.
const SIGLIP: [&str; 2] = ["siglip", "siglip_vision_model"];
/// The vision transformers that are no part of a CLIP, with the epsilon that the library gives them.
const VITS: [(&str, Epsilon); 5] = [
    ("vit", Epsilon::SMALLEST),
    ("deit", Epsilon::SMALLEST),
    ("dinov2", Epsilon::SMALL),
    ("dinov2_with_registers", Epsilon::SMALL),
    ("dinov3_vit", Epsilon::USUAL),
];
/// The ends of the types of an image tower's and of a text tower's section.
const IMAGE: &str = "_vision_model";
const TEXT: &str = "_text_model";

/// The content of `config`, if it is of that library.
pub(super) fn read(config: Keys<'_>) -> Result<Option<Stated>> {
    let Some(kind) = config.text("model_type")? else { return Ok(None) };
    if kind.starts_with("siglip2") {
        let mut says = TowerSays::default();
        says.refuse("positions for images of any shape (NaFlex)");
        let text = Some(read_siglip_text(config.object("text_config")?)?);
        return Ok(Some(Stated { image: Some(says), text, ..Stated::default() }));
    }
    if SIGLIP.contains(&kind) {
        let vision = config.object("vision_config")?.or((kind != "siglip").then_some(config));
        let text = if kind == "siglip" { Some(read_siglip_text(config.object("text_config")?)?) } else { None };
        return Ok(Some(Stated { image: Some(read_siglip(config, vision)?), text, ..Stated::default() }));
    }
    if kind == "siglip_text_model" {
        return Ok(Some(Stated { text: Some(read_siglip_text(Some(config))?), ..Stated::default() }));
    }
    if let Some((_, epsilon)) = VITS.iter().find(|(known, _)| *known == kind) {
        return Ok(Some(Stated { image: Some(read_vit(config, kind, *epsilon)?), ..Stated::default() }));
    }
    let of = |suffix: &str| kind.strip_suffix(suffix).filter(|of| MODELS.contains(of));
    if of(IMAGE).is_some() || kind == "clip_vision_model_with_projection" {
        let image = Some(read_image(config, config.number("projection_dim")?)?);
        return Ok(Some(Stated { image, ..Stated::default() }));
    }
    if of(TEXT).is_some_and(|of| WITH_TEXT.contains(&of)) {
        return Ok(Some(Stated { text: Some(read_text(config)?), ..Stated::default() }));
    }
    let vision = match config.object("vision_config")? {
        Some(vision) => Some(vision),
        None => config.object("vision_config_dict")?,
    };
    // A larger model may have CLIP's tower in it; its projection is then another one.
    let is_clip = MODELS.contains(&kind);
    let has_tower = |section: Keys<'_>| -> Result<bool> {
        Ok(is_clip || section.text("model_type")?.is_some_and(|kind| kind == "clip_vision_model"))
    };
    let image = match vision {
        Some(vision) if has_tower(vision)? => {
            let projection = if is_clip { config.number("projection_dim")? } else { None };
            Some(read_image(vision, projection)?)
        }
        // All of a section may be the library's defaults.
        None if is_clip => Some(TowerSays { hints: image_hints(), ..TowerSays::default() }),
        _ => None,
    };
    let is_classifier = is_clip && config.texts("architectures")?.iter().any(|name| CLASSIFIERS.contains(name));
    let image = image.map(|mut says| {
        if is_classifier {
            says.hints.pooling = Some(Pooling::PatchMean);
        }
        says
    });
    let text = match config.object("text_config")? {
        Some(text) if WITH_TEXT.contains(&kind) => Some(read_text(text)?),
        _ => None,
    };
    let other = (image.is_none()).then(|| format!("model type `{kind}`"));
    Ok(Some(Stated { image, text, other, ..Stated::default() }))
}

fn image_hints() -> ArchHints {
    ArchHints {
        heads: Some(12),
        activation: Some(Activation::QuickGelu),
        norm_epsilon: Some(Epsilon::USUAL),
        pooling: Some(Pooling::ClassToken),
        grid: None,
    }
}

fn read_image(vision: Keys<'_>, projection: Option<usize>) -> Result<TowerSays> {
    let mut says = TowerSays { pre_norm: Some(true), ..TowerSays::default() };
    says.hints = hints(vision)?.or(image_hints());
    extents(vision, &mut says)?;
    says.extent(Extent::Embedding, projection);
    Ok(says)
}

/// The image tower of SigLIP; its classifiers take the mean of the normalised patches.
fn read_siglip(config: Keys<'_>, vision: Option<Keys<'_>>) -> Result<TowerSays> {
    let is_classifier = config.texts("architectures")?.contains(&"SiglipForImageClassification");
    let usual = ArchHints {
        heads: Some(12),
        activation: Some(Activation::GeluTanh),
        norm_epsilon: Some(Epsilon::SMALL),
        pooling: Some(if is_classifier { Pooling::NormThenMean } else { Pooling::Attention }),
        grid: None,
    };
    let mut says = TowerSays { pre_norm: Some(false), ..TowerSays::default() };
    let Some(vision) = vision else { return Ok(TowerSays { hints: usual, ..says }) };
    says.hints = hints(vision)?.or(usual);
    if vision.flag("vision_use_head")? == Some(false) && !is_classifier {
        says.refuse("no pooling (vision_use_head)");
    }
    extents(vision, &mut says)?;
    Ok(says)
}

/// A vision transformer with a class token and no projection. Its classifiers take the class token, but DINOv2's, which
/// take the mean of the patches too, and those of a DeiT with a teacher.
fn read_vit(config: Keys<'_>, kind: &str, epsilon: Epsilon) -> Result<TowerSays> {
    let mut says = TowerSays { pre_norm: Some(false), ..TowerSays::default() };
    let architectures = config.texts("architectures")?;
    let is_of = |name: &str| architectures.iter().any(|architecture| architecture.starts_with(name));
    let pooling = match kind {
        "dinov2" if is_of("Dinov2ForImage") => Pooling::ClassAndMean,
        "dinov2_with_registers" if is_of("Dinov2WithRegistersForImage") => Pooling::ClassAndMean,
        "deit" if is_of("DeiTForImageClassificationWithTeacher") => Pooling::ClassAndDistillation,
        _ => Pooling::ClassToken,
    };
    let usual = ArchHints {
        heads: Some(12),
        activation: Some(Activation::Gelu),
        norm_epsilon: Some(epsilon),
        pooling: Some(pooling),
        grid: None,
    };
    says.hints = hints(config)?.or(usual);
    // DINOv2's gate is SiLU whatever the activation of the others is.
    if config.flag("use_swiglu_ffn")? == Some(true) {
        says.hints.activation = Some(Activation::Silu);
    }
    let size = config.side("image_size")?;
    says.hints.grid = size.zip(config.side("patch_size")?).map(|(size, patch)| size / patch);
    says.extent(Extent::Width, config.number("hidden_size")?);
    says.extent(Extent::Layers, config.number("num_hidden_layers")?);
    says.extent(Extent::Patch, config.side("patch_size")?);
    if kind == "dinov3_vit" {
        let base = config.float("rope_theta")?.unwrap_or(100.0);
        if base != 100.0 {
            says.refuse(format!("rotary positions of base {base}"));
        }
    } else {
        says.extent(Extent::ImageSize, size);
    }
    Ok(says)
}

fn extents(vision: Keys<'_>, says: &mut TowerSays) -> Result<()> {
    says.extent(Extent::Width, vision.number("hidden_size")?);
    says.extent(Extent::Layers, vision.number("num_hidden_layers")?);
    says.extent(Extent::MlpWidth, vision.number("intermediate_size")?);
    says.extent(Extent::Patch, vision.side("patch_size")?);
    says.extent(Extent::ImageSize, vision.side("image_size")?);
    Ok(())
}

/// The text tower of SigLIP, and of SigLIP 2 whatever its image tower is.
fn read_siglip_text(text: Option<Keys<'_>>) -> Result<TowerSays> {
    let mut says = TowerSays { siglip_text: Some(true), ..TowerSays::default() };
    let usual = ArchHints {
        heads: Some(12),
        activation: Some(Activation::GeluTanh),
        norm_epsilon: Some(Epsilon::SMALL),
        ..ArchHints::default()
    };
    let Some(text) = text else { return Ok(TowerSays { hints: usual, ..says }) };
    says.hints = hints(text)?.or(usual);
    of_text(text, &mut says)?;
    Ok(says)
}

fn of_text(text: Keys<'_>, says: &mut TowerSays) -> Result<()> {
    says.extent(Extent::Width, text.number("hidden_size")?);
    says.extent(Extent::Layers, text.number("num_hidden_layers")?);
    says.extent(Extent::MlpWidth, text.number("intermediate_size")?);
    Ok(())
}

fn read_text(text: Keys<'_>) -> Result<TowerSays> {
    let mut says = TowerSays { hints: hints(text)?, siglip_text: Some(false), ..TowerSays::default() };
    let usual = ArchHints { heads: Some(8), ..image_hints() };
    says.hints = says.hints.or(usual);
    of_text(text, &mut says)?;
    Ok(says)
}

fn hints(section: Keys<'_>) -> Result<ArchHints> {
    Ok(ArchHints {
        heads: section.number("num_attention_heads")?,
        activation: section.text("hidden_act")?.map(activation).transpose()?,
        norm_epsilon: section.float("layer_norm_eps")?.map(Epsilon::new).transpose()?,
        pooling: None,
        grid: None,
    })
}
