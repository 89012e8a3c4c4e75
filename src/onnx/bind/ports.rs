//! Which input takes the images, and which output gives the embeddings.
#![forbid(unsafe_code)]

use std::collections::HashSet;

use super::super::constant::float_dtype;
use super::super::file::{OnnxFile, Port};
use super::super::rewrite::Needed;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::suggest;

/// What embeddings are called by those who export encoders, the likeliest first.
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
        return match names().find(|known| *known == name) {
            Some(found) => Ok(found.to_owned()),
            None => Err(suggest::unknown("output", name, names())),
        };
    }
    let length = base.get("visual.proj").and_then(|projection| projection.shape().get(1).copied());
    let could_be = |port: &&Port| {
        let is_float = port.data_type == 0 || float_dtype(port.data_type).is_some();
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
        ([one], _) => Ok(one.name.clone()),
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
        return Err(suggest::unknown("input that this output needs", name, names()));
    }
    match inputs.as_slice() {
        [one] => check_pixels(one),
        _ => Err(Error::mismatch("the embeddings are computed from something else than images")
            .expected("one input")
            .got(names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))
            .hint("Is it another output that gives the image embeddings?")),
    }
}

fn check_pixels(port: &Port) -> Result<String> {
    let is_image = port.shape.as_ref().is_none_or(|shape| match shape.as_slice() {
        [_, channels, _, _] => channels.is_none_or(|n| n == 3),
        _ => false,
    });
    if is_image && (port.data_type == 0 || float_dtype(port.data_type).is_some()) {
        return Ok(port.name.clone());
    }
    Err(Error::unsupported("the input does not take images as this encoder does")
        .tensor(&port.name)
        .expected("floats [N, 3, S, S]")
        .got(format_args!("type {} {:?}", port.data_type, port.shape)))
}

/// The inputs that a part of the graph needs, constants that old models list among them left out.
fn inputs_of<'a>(file: &'a OnnxFile, needed: &Needed) -> Vec<&'a Port> {
    let constants: HashSet<&str> = file.constants.iter().map(|constant| constant.name.as_str()).collect();
    file.inputs.iter().filter(|port| needed.reads(&port.name) && !constants.contains(port.name.as_str())).collect()
}
