//! The input that takes the images, and the output that gives the embeddings.

use std::collections::HashSet;

use super::super::file::{OnnxFile, Port};
use super::super::rewrite::Needed;
use super::super::types::{float_dtype, type_name};
use crate::checkpoint::Checkpoint;
use crate::did_you_mean;
use crate::error::{Error, Result};
use crate::tensor::DType;

/// The names that exporters give to embeddings, the likeliest first.
const EMBEDS: [&str; 6] =
    ["image_embeds", "image_features", "image_embedding", "image_embeddings", "embeds", "embedding"];

/// The output that gives the embeddings: the one that is named, else the only one that can be.
///
/// # Errors
/// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for a name that is none,
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) where there are several, and no name.
pub(super) fn output(file: &OnnxFile, base: &Checkpoint, name: Option<&str>) -> Result<String> {
    let names = || file.outputs.iter().map(|port| port.name.as_str());
    if let Some(name) = name {
        return match file.outputs.iter().find(|port| port.name == name) {
            Some(found) => check_output(found),
            None => Err(did_you_mean::unknown("output", name, names())),
        };
    }
    let length = base.get("visual.proj").and_then(|projection| projection.shape().get(1).copied());
    let could_be = |port: &&Port| {
        let is_float = is_taken(port.data_type);
        let fits = port.shape.as_ref().is_none_or(|shape| match shape.as_slice() {
            [_, extent] => extent.is_none() || length.is_none() || *extent == length,
            _ => false,
        });
        is_float && fits && inputs_of(file, &file.needed(&port.name)).len() == 1
    };
    let candidates: Vec<&Port> = match file.outputs.as_slice() {
        [one] => vec![one],
        several => several.iter().filter(could_be).collect(),
    };
    let known = EMBEDS.iter().find(|known| candidates.iter().any(|port| port.name == **known));
    match (candidates.as_slice(), known) {
        ([one], _) => check_output(one),
        (_, Some(known)) => Ok((*known).to_owned()),
        _ => Err(Error::invalid("which output gives the embeddings is not clear")
            .got(names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))
            .hint("Name the output")),
    }
}

/// The input that takes the images.
///
/// # Errors
/// As [`output`], and where the output needs other inputs too.
pub(super) fn pixels(file: &OnnxFile, needed: &Needed, name: Option<&str>) -> Result<String> {
    let inputs = inputs_of(file, needed);
    let names = || inputs.iter().map(|port| port.name.as_str());
    if let Some(name) = name
        && !names().any(|known| known == name)
    {
        return Err(did_you_mean::unknown("input that this output needs", name, names()));
    }
    match inputs.as_slice() {
        [one] => check_pixels(one),
        _ => Err(Error::mismatch("the embeddings are computed from something else than images")
            .expected("one input")
            .got(names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))
            .hint("Is it another output that gives the image embeddings?")),
    }
}

impl OnnxFile {
    /// The side of the square images that the graph takes, in pixels, by the shape of its input.
    ///
    /// # Errors
    /// As [`bind`](super::bind()) of inputs and outputs that have to be named;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) where the shape does not say it, or images are not
    /// square.
    pub(crate) fn image_size(&self, input: Option<&str>, output: Option<&str>) -> Result<usize> {
        let named = |error: Error| error.at(self.path());
        let needed = match (output, self.outputs.as_slice()) {
            (Some(output), _) => self.needed(output),
            (None, outputs) => self.needed(outputs.first().map_or("", |port| &port.name)),
        };
        let name = pixels(self, &needed, input).map_err(named)?;
        let port = self.inputs.iter().find(|port| port.name == name);
        match port.and_then(|port| port.shape.as_deref()) {
            Some([_, _, Some(height), Some(width)]) if height == width => Ok(*height),
            _ => Err(named(
                Error::unsupported(
                    "the graph does not say how large its images are, and the base holds no tower that does",
                )
                .tensor(&name)
                .expected("[N, 3, S, S] with numbers for S")
                .got(port.map_or_else(String::new, shape_text))
                .hint("Export it for one size of images; the number of images may be left open"),
            )),
        }
    }
}

/// Whether it is of a type that encoders hand over and take.
fn is_taken(data_type: i32) -> bool {
    data_type == 0 || matches!(float_dtype(data_type), Some(DType::F32 | DType::F16))
}

/// Whether an output can be one embedding for each image.
fn check_output(port: &Port) -> Result<String> {
    if !is_taken(port.data_type) {
        return Err(Error::unsupported("the graph gives another type of embeddings than encoders take")
            .tensor(&port.name)
            .expected("f32 or f16")
            .got(type_name(port.data_type)));
    }
    // Beside the number of images one extent is more than 1.
    let extents = port.shape.as_deref().unwrap_or_default().iter().skip(1);
    if extents.flatten().filter(|extent| **extent != 1).count() > 1 {
        return Err(Error::mismatch("the output is not one embedding for each image")
            .tensor(&port.name)
            .expected("[N, e]")
            .got(shape_text(port))
            .hint("Name another output (--graph-output), or export one that gives the pooled features"));
    }
    Ok(port.name.clone())
}

/// The extents, `?` for one that is only known in a run.
fn shape_text(port: &Port) -> String {
    let Some(shape) = &port.shape else { return "an unknown shape".into() };
    let extents = shape.iter().map(|extent| extent.map_or("?".into(), |n| n.to_string())).collect::<Vec<_>>();
    format!("[{}]", extents.join(", "))
}

fn check_pixels(port: &Port) -> Result<String> {
    let is_image = port.shape.as_ref().is_none_or(|shape| match shape.as_slice() {
        [_, channels, _, _] => channels.is_none_or(|n| n == 3),
        _ => false,
    });
    if is_image && is_taken(port.data_type) {
        return Ok(port.name.clone());
    }
    Err(Error::unsupported("the input does not take images as this encoder does")
        .tensor(&port.name)
        .expected("f32 or f16 [N, 3, S, S], normalised")
        .got(format_args!("{} {}", type_name(port.data_type), shape_text(port)))
        .hint("Export the encoder with such an input"))
}

/// The inputs that a part of the graph needs, constants that old models list among them left out.
fn inputs_of<'a>(file: &'a OnnxFile, needed: &Needed) -> Vec<&'a Port> {
    let constants: HashSet<&str> = file.constants.iter().map(|constant| constant.name.as_str()).collect();
    file.inputs.iter().filter(|port| needed.reads(&port.name) && !constants.contains(port.name.as_str())).collect()
}
