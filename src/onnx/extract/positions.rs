//! A table of positions that an exporter cut in two: the class token's, and the patches', which the graph resizes.

use super::super::file::{OnnxFile, is_onnx};
use super::beside::Neighbours;
use super::names::is_given;
use super::{ExtractedTensor, NameSource};
use crate::error::Result;
use crate::tensor::Tensor;

/// The nodes that the patches' positions may go through before they are put behind the class token's, at most.
const MAX_STEPS: usize = 16;

/// The patch embedding beside a class token, by library, and what that library calls its positions.
const LIBRARIES: [(&str, &str); 2] =
    [("patch_embeddings.projection.weight", "position_embeddings"), ("patch_embed.proj.weight", "pos_embed")];

/// The tables that are in two pieces, put together. There is one where the graph has one class token by name, and puts
/// one nameless table behind another.
///
/// # Errors
/// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
pub(super) fn find(file: &OnnxFile, neighbours: &Neighbours<'_>) -> Result<Vec<ExtractedTensor>> {
    let tokens: Vec<&str> = neighbours.given().iter().copied().filter(|name| is_class_token(name)).collect();
    let [token] = tokens.as_slice() else { return Ok(Vec::new()) };
    let prefix = token.strip_suffix("cls_token").unwrap_or_default();
    let library = LIBRARIES.iter().find(|(patches, _)| neighbours.constant(&format!("{prefix}{patches}")).is_some());
    let Some((_, own)) = library else { return Ok(Vec::new()) };
    let name = format!("{prefix}{own}");
    if neighbours.constant(&name).is_some() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for node in file.nodes.iter().filter(|node| node.op == "Concat" && is_onnx(&node.domain)) {
        let [first, rest] = node.inputs.as_slice() else { continue };
        let Some(first_table) = nameless(neighbours, first) else { continue };
        let Some((rest, rest_table)) = source(neighbours, rest) else { continue };
        if let (&[1, ahead, width], &[1, behind, across]) = (first_table.shape(), rest_table.shape())
            && width == across
            && first_table.dtype() == rest_table.dtype()
        {
            let parts = [first_table.reshaped(&[ahead, width])?, rest_table.reshaped(&[behind, width])?];
            let table = Tensor::concatenated(&[&parts[0], &parts[1]])?.reshaped(&[1, ahead + behind, width])?;
            let constants = vec![first.clone(), rest.to_owned()];
            let source = NameSource::Positions((*token).to_owned());
            found.push(ExtractedTensor { name: name.clone(), tensor: table, constants, source });
        }
    }
    // Several would be several towers', and which is which is not told.
    Ok(if found.len() == 1 { found } else { Vec::new() })
}

fn is_class_token(name: &str) -> bool {
    name == "cls_token" || name.ends_with(".cls_token")
}

fn nameless<'a>(neighbours: &Neighbours<'a>, value: &str) -> Option<&'a Tensor> {
    neighbours.constant(value).filter(|_| !is_given(value))
}

/// The nameless table that a value is made of by resizing.
fn source<'a>(neighbours: &Neighbours<'a>, value: &str) -> Option<(&'a str, &'a Tensor)> {
    let (_, mut node) = neighbours.producer(value)?;
    for _ in 0..MAX_STEPS {
        if !is_onnx(&node.domain) || !matches!(node.op.as_str(), "Reshape" | "Transpose" | "Cast" | "Resize") {
            return None;
        }
        let from = node.inputs.first()?;
        if let Some(table) = nameless(neighbours, from) {
            return Some((from, table));
        }
        (_, node) = neighbours.producer(from)?;
    }
    None
}
