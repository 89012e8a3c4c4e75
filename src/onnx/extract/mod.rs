//! The weights of a graph as a state dict: every constant of floats, under the name and in the orientation that the
//! library had it in, as far as the graph tells.
//!
//! Exporters keep most names, and give new ones to what they transpose: a matrix that a `MatMul` multiplies with is
//! `onnx::MatMul_123`, [in, out]. The bias that is added behind it kept its name, and the matrix is called after it
//! (`beside.rs`). What has no bias is called after the module that its node is in, where the exporter wrote that down
//! (`names.rs`); a table of positions that was cut in two is put together again (`positions.rs`).

mod beside;
mod found;
mod names;
mod positions;

use std::collections::{HashMap, HashSet};

use self::beside::{Claim, Neighbours};
pub use self::found::{Extracted, ExtractedTensor, NameSource};
use super::constant::Constant;
use super::file::OnnxFile;
use crate::error::Result;
use crate::tensor::Tensor;

/// Reads the weights of a graph: its constants of floats, also those in other files, as a state dict. Values stay in
/// the mapped file, but for a table of positions that is put together.
///
/// # Errors
/// [`ErrorKind::Format`](crate::ErrorKind::Format) for a node that is damaged;
/// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
pub fn extract(file: &OnnxFile) -> Result<Extracted> {
    let neighbours = Neighbours::of(file);
    let mut extracted = Extracted::default();
    let joined = positions::find(file, &neighbours)?;
    let in_table: HashSet<&str> = joined.iter().flat_map(|table| table.constants.iter().map(String::as_str)).collect();

    let floats = || file.constants.iter().filter_map(|constant| Some((constant, constant.tensor.as_ref()?)));
    let mut claims: Vec<(&Constant, &Tensor, Vec<Claim>)> = Vec::new();
    for (constant, tensor) in floats().filter(|(constant, tensor)| {
        let is_parameter = names::is_given(&constant.name) || tensor.numel() > 1;
        if !is_parameter {
            extracted.left_out.push(constant.name.clone());
        }
        is_parameter && !in_table.contains(constant.name.as_str())
    }) {
        let claimed = match names::is_given(&constant.name) {
            true => Vec::new(),
            false => neighbours.claims(constant, tensor)?,
        };
        claims.push((constant, tensor, claimed));
    }

    // A name that two constants claim, or that another one has, tells nothing.
    let mut count: HashMap<String, usize> = HashMap::new();
    let claimed = claims.iter().flat_map(|(.., claims)| claims.iter().map(|claim| &claim.name));
    let taken = floats().map(|(constant, _)| &constant.name).chain(joined.iter().map(|table| &table.name));
    claimed.chain(taken).for_each(|name| *count.entry(name.clone()).or_default() += 1);
    for (constant, tensor, mut claims) in claims {
        claims.retain(|claim| count.get(&claim.name) == Some(&1));
        let constants = vec![constant.name.clone()];
        if claims.is_empty() {
            let source = if names::is_given(&constant.name) { NameSource::Graph } else { NameSource::Unknown };
            let (name, tensor) = (constant.name.clone(), tensor.clone());
            extracted.tensors.push(ExtractedTensor { name, tensor, constants, source });
            continue;
        }
        // One constant can stand for several parameters of equal values.
        for Claim { name, is_transposed, source } in claims {
            let tensor = if is_transposed { tensor.transposed()? } else { tensor.clone() };
            extracted.tensors.push(ExtractedTensor { name, tensor, constants: constants.clone(), source });
        }
    }
    extracted.tensors.extend(joined);
    Ok(extracted)
}
