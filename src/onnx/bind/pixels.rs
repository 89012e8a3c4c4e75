//! The operations of a graph on its pixels before the patch embedding. Encoders hand over normalised pixels; a graph
//! that normalises them itself would do it twice, and give plausible, wrong embeddings.

use std::collections::{HashMap, HashSet};

use super::super::file::{OnnxFile, is_onnx};
use super::super::rewrite::Needed;
use super::map::{GraphMap, Mapped};
use crate::checkpoint::is_image_tower;
use crate::error::{Error, Result};

/// The parameter of the patch embedding.
const PATCHES: &str = "visual.conv1.weight";

/// Operators that leave pixels as they are, but for their order and type.
const LAYOUT: [&str; 17] = [
    "Cast",
    "CastLike",
    "Identity",
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Slice",
    "Split",
    "Gather",
    "Concat",
    "Expand",
    "Pad",
    "SpaceToDepth",
    "DepthToSpace",
    "ReverseSequence",
];

/// The operators of [`LAYOUT`] that can exchange, leave out or add pixels and channels.
const MOVES: [&str; 7] = ["Slice", "Split", "Gather", "Concat", "Expand", "Pad", "ReverseSequence"];

/// Operators that the patch embedding may be, where it was not found.
const EMBEDDING: [&str; 6] = ["Conv", "FusedConv", "MatMul", "Gemm", "FusedMatMul", "Einsum"];

/// Whether the graph takes pixels as encoders hand them over.
///
/// # Errors
/// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported), naming the operators, for a graph that computes with its
/// pixels before the patch embedding.
pub(crate) fn check(file: &OnnxFile, needed: &Needed, map: &GraphMap) -> Result<()> {
    let ends = embedding(file, needed, map);
    let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (i, node) in file.nodes.iter().enumerate().filter(|(i, _)| needed.nodes[*i]) {
        let names = node.inputs.iter().chain(&node.captured).filter(|name| !name.is_empty());
        names.for_each(|name| readers.entry(name).or_default().push(i));
    }
    let (mut open, mut seen, mut computes) = (vec![map.pixels.as_str()], HashSet::new(), Vec::new());
    while let Some(value) = open.pop() {
        for &i in readers.get(value).into_iter().flatten() {
            let node = &file.nodes[i];
            let is_shape = is_onnx(&node.domain) && matches!(node.op.as_str(), "Shape" | "Size");
            if is_shape || !seen.insert(i) || ends.contains(&i) {
                continue;
            }
            let keeps = is_onnx(&node.domain) && LAYOUT.contains(&node.op.as_str()) && node.captured.is_empty();
            if ends.is_empty() && EMBEDDING.contains(&node.op.as_str()) {
                continue;
            }
            if !keeps && !computes.contains(&node.op.as_str()) {
                computes.push(&node.op);
            }
            // Where the embedding is known, everything before it is told.
            if keeps || !ends.is_empty() {
                open.extend(node.outputs.iter().map(String::as_str).filter(|name| !name.is_empty()));
            }
        }
    }
    if computes.is_empty() {
        return Ok(());
    }
    computes.truncate(8);
    Err(Error::unsupported(
        "the graph computes with its pixels before the patch embedding, as if to normalise them itself",
    )
    .tensor(&map.pixels)
    .expected("a graph that takes pixels that are normalised already")
    .got(computes.join(", "))
    .hint("Normalised twice they would give wrong embeddings: export the encoder without its preprocessing"))
}

/// The operators by which a graph moves its pixels on every way to the patch embedding: it may exchange red and blue,
/// or see the image mirrored. Empty where one way leads there without any, as in the mean of an image and its mirror
/// image.
pub(crate) fn moved(file: &OnnxFile, needed: &Needed, map: &GraphMap) -> Vec<String> {
    let ends = embedding(file, needed, map);
    // Values that are the pixels as they came in, but for layout and type; and those that were moved.
    let (mut still, mut shifted) = (HashSet::from([map.pixels.as_str()]), HashSet::new());
    let mut moves: Vec<String> = Vec::new();
    for (i, node) in file.sorted().filter(|(i, _)| needed.nodes[*i]) {
        let reads = |values: &HashSet<&str>| node.inputs.iter().any(|name| values.contains(name.as_str()));
        let (is_still, is_shifted) = (reads(&still), reads(&shifted));
        if ends.contains(&i) {
            if is_still && !is_shifted {
                return Vec::new();
            }
            continue;
        }
        if !(is_still || is_shifted) || !is_onnx(&node.domain) || !LAYOUT.contains(&node.op.as_str()) {
            continue;
        }
        let is_move = MOVES.contains(&node.op.as_str());
        if is_move && !moves.contains(&node.op) {
            moves.push(node.op.clone());
        }
        let made = node.outputs.iter().map(String::as_str).filter(|name| !name.is_empty());
        if is_move || is_shifted { shifted.extend(made) } else { still.extend(made) }
    }
    moves
}

/// The nodes where the patch embedding's weights meet the pixels.
fn embedding(file: &OnnxFile, needed: &Needed, map: &GraphMap) -> HashSet<usize> {
    let mut values: HashSet<&str> = HashSet::new();
    let mut nodes = HashSet::new();
    let parts = || map.tensors.values().flat_map(|mapped| &mapped.sum);
    // Of an encoder that is not known any weight that the pixels meet will do.
    let is_known = parts().any(|part| is_image_tower(&part.parameter));
    let is_end = |mapped: &Mapped| !is_known || mapped.sum.iter().any(|part| part.parameter == PATCHES);
    for (name, mapped) in map.tensors.iter().filter(|(_, mapped)| is_end(mapped)) {
        if mapped.uses.is_empty() {
            values.insert(mapped.constant.as_ref().unwrap_or(name));
        }
        nodes.extend(mapped.uses.iter().map(|(node, _)| *node));
    }
    // Transposed or cast first, the weights go further; what they meet at the end is not made of constants alone.
    let constants: HashSet<&str> = file.constants.iter().map(|constant| constant.name.as_str()).collect();
    let mut made: HashSet<&str> = HashSet::new();
    for (i, node) in file.sorted().filter(|(i, _)| needed.nodes[*i]) {
        let reads = |name: &String| values.contains(name.as_str());
        if !node.inputs.iter().any(reads) && !nodes.contains(&i) {
            continue;
        }
        let is_constant = |name: &String| {
            name.is_empty() || constants.contains(name.as_str()) || made.contains(name.as_str()) || reads(name)
        };
        if node.inputs.iter().all(is_constant) {
            nodes.remove(&i);
            values.extend(node.outputs.iter().map(String::as_str));
            made.extend(node.outputs.iter().map(String::as_str));
        } else {
            nodes.insert(i);
        }
    }
    nodes
}
