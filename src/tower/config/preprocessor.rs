//! transformers' `preprocessor_config.json`.

use serde_json::Value;

use super::images::ImageHints;
use super::keys::Keys;
use super::stated::Stated;
use crate::error::{Error, Result};
use crate::preprocess::{Interpolation, ResizeMode};

/// The factor that takes a value of 255 to 1.
const RESCALE: f32 = 1.0 / 255.0;

/// The beginning of the name of a processor with a way of its own, and its share where the file does not say it.
const CONVNEXT: &str = "ConvNext";
const CONVNEXT_SHARE: f32 = 0.875;
/// Processors whose `size` means something else.
const ODD: [(&str, &str); 1] = [("Levit", "the shorter side is resized to 256/224 of what it says")];

/// The name of the image processor; empty where there is none.
fn kind<'a>(config: Keys<'a>) -> Result<&'a str> {
    let kind = config.text("image_processor_type")?;
    Ok(kind.map_or_else(|| config.text("feature_extractor_type"), |kind| Ok(Some(kind)))?.unwrap_or_default())
}

/// The sides that are resized, and to what, and what is cut out of that.
struct ResizeAndCrop {
    resize: ResizeMode,
    edge: usize,
    crop: Option<usize>,
}

/// The content of `config`, if it is of an image processor.
pub(super) fn read(config: Keys<'_>) -> Result<Option<Stated>> {
    let has_kind = ["image_processor_type", "feature_extractor_type", "processor_class"].iter();
    if config.get("image_mean").is_none() && !has_kind.clone().any(|key| config.get(key).is_some()) {
        return Ok(None);
    }
    let kind = kind(config)?;
    if let Some(reason) = ODD.iter().find(|(known, _)| kind.starts_with(known)).map(|(_, reason)| reason) {
        return Err(Error::unsupported(format!("images as {kind} prepares them: {reason}")));
    }
    if config.flag("do_flip_channel_order")? == Some(true) {
        return Err(Error::unsupported("images with blue before red (`do_flip_channel_order`) are not prepared here"));
    }
    let size = match config.float("crop_pct")? {
        None if kind.starts_with(CONVNEXT) => Some(of_share(config, CONVNEXT_SHARE)?),
        Some(share) if kind.starts_with(CONVNEXT) => Some(of_share(config, share)?),
        Some(_) => {
            return Err(Error::unsupported(
                "a `crop_pct` of another image processor than ConvNextImageProcessor is not built in",
            )
            .got(kind));
        }
        None => size(config)?,
    };
    let Some(size) = size else { return Ok(None) };
    for key in ["do_resize", "do_rescale"] {
        if config.flag(key)? == Some(false) {
            return Err(Error::unsupported(format!("images without `{key}` are not prepared here")));
        }
    }
    if let Some(factor) = config.float("rescale_factor")?.filter(|factor| (factor / RESCALE - 1.0).abs() > 1e-3) {
        return Err(Error::unsupported("another `rescale_factor` than 1/255 is not built in").got(factor));
    }
    let is_normalised = config.flag("do_normalize")?.unwrap_or(true);
    let images = ImageHints {
        mean: if is_normalised { config.channels("image_mean")? } else { Some([0.0; 3]) },
        std: if is_normalised { config.channels("image_std")? } else { Some([1.0; 3]) },
        resize: Some(size.resize),
        edge: Some(size.edge),
        interpolation: resample(config)?,
        fill: None,
    };
    let side = Some(size.crop.unwrap_or(size.edge));
    Ok(Some(Stated { images: Some(images.or(ImageHints::clip())), side, ..Stated::default() }))
}

/// `size` and `crop_size`; `None` where there is no size.
fn size(config: Keys<'_>) -> Result<Option<ResizeAndCrop>> {
    let (resize, edge) = match config.get("size") {
        None => return Ok(None),
        Some(Value::Object(_)) => {
            let size = Keys(&config.0["size"]);
            match (size.number("shortest_edge")?, size.number("height")?, size.number("width")?) {
                (Some(edge), ..) => (ResizeMode::Shortest, edge),
                (None, Some(height), Some(width)) if height == width => (ResizeMode::Squash, height),
                _ => {
                    return Err(Error::unsupported("a `size` that is not built in")
                        .expected("shortest_edge, or height and width that are equal")
                        .got(&config.0["size"]));
                }
            }
        }
        // As the library had it before sizes had names.
        Some(_) => (ResizeMode::Shortest, config.number("size")?.unwrap_or(1)),
    };
    let is_cropped = config.flag("do_center_crop")?.unwrap_or(resize == ResizeMode::Shortest);
    let crop = match config.get("crop_size") {
        Some(Value::Object(_)) if is_cropped => {
            let size = Keys(&config.0["crop_size"]);
            match (size.number("height")?, size.number("width")?) {
                (Some(height), Some(width)) if height == width => Some(height),
                _ => {
                    return Err(Error::unsupported("a `crop_size` that is not square").got(&config.0["crop_size"]));
                }
            }
        }
        Some(_) if is_cropped => config.number("crop_size")?,
        _ if !is_cropped && resize == ResizeMode::Shortest => {
            return Err(Error::unsupported(
                "`shortest_edge` without `do_center_crop` leaves images that are not square",
            ));
        }
        _ => None,
    };
    Ok(Some(ResizeAndCrop { resize, edge, crop }))
}

/// The sides of transformers' ConvNextImageProcessor, which ConvNeXt's, ResNet's and Swin's checkpoints name: below 384
/// pixels the shorter one is resized to the wanted side over `share`, and the centre cropped; above, both are resized.
fn of_share(config: Keys<'_>, share: f32) -> Result<ResizeAndCrop> {
    const WHOLE: usize = 384;

    let side = match config.get("size") {
        Some(Value::Object(_)) => Keys(&config.0["size"]).number("shortest_edge")?,
        _ => config.number("size")?,
    };
    let Some(side) = side else {
        return Err(Error::unsupported("a `size` that is not built in").expected("shortest_edge"));
    };
    if !(0.05..=1.0).contains(&share) {
        return Err(Error::format("`crop_pct` is out of range").expected("0.05 to 1").got(share));
    }
    if side >= WHOLE {
        return Ok(ResizeAndCrop { resize: ResizeMode::Squash, edge: side, crop: None });
    }
    // As the file writes the share, not as f32 rounds it.
    let share: f64 = share.to_string().parse().unwrap_or(f64::from(share));
    Ok(ResizeAndCrop { resize: ResizeMode::Shortest, edge: (side as f64 / share) as usize, crop: Some(side) })
}

/// Pillow's number of a filter.
fn resample(config: Keys<'_>) -> Result<Option<Interpolation>> {
    let Some(number) = config.get("resample") else { return Ok(None) };
    Ok(Some(match number.as_u64() {
        Some(0) => Interpolation::Nearest,
        Some(1) => Interpolation::Lanczos,
        Some(2) => Interpolation::Bilinear,
        Some(3) => Interpolation::Bicubic,
        Some(4) => Interpolation::Box,
        Some(5) => Interpolation::Hamming,
        _ => return Err(Error::format("`resample` is no filter of Pillow's").expected("0 to 5").got(number)),
    }))
}
