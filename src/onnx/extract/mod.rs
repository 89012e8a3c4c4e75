//! The weights of a graph as a state dict: every constant of floats, under the name and in the orientation that the
//! library had it in, as far as the graph tells.
//!
//! Exporters keep most names, and give new ones to what they transpose: a matrix that a `MatMul` multiplies with is
//! `onnx::MatMul_123`, [in, out]. The bias that is added behind it kept its name, and the matrix is called after it
//! (`beside.rs`). What has no bias is called after the module that its node is in, where the exporter wrote that down
//! (`names.rs`); a table of positions that was cut in two is put together again (`positions.rs`).

mod beside;
mod names;
mod positions;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use self::beside::{Claim, Neighbours};
use super::constant::Constant;
use super::file::OnnxFile;
use crate::error::Result;
use crate::tensor::Tensor;
use crate::weights::save_stored;

/// The reason for the name of an extracted tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameSource {
    /// The graph calls it so.
    Graph,
    /// The graph calls it so, and the name is one that an exporter made up: the state dict had another.
    Unknown,
    /// The parameter of the same module that is used beside it: this one.
    Beside(String),
    /// The module that the node that reads it is in: this value of the graph says so.
    Module(String),
    /// The class token's and the patches' positions, which were kept apart, in the place where the class token is:
    /// this one.
    Positions(String),
}

/// A tensor of a state dict that was found in a graph.
#[derive(Clone, Debug)]
pub struct ExtractedTensor {
    /// The name in the state dict.
    pub name: String,
    /// The values; a matrix of a linear layer is [out, in].
    pub tensor: Tensor,
    /// The graph's constants that hold it.
    pub constants: Vec<String>,
    /// The reason for its name.
    pub source: NameSource,
}

/// What [`extract`] found.
#[derive(Clone, Debug, Default)]
pub struct Extracted {
    /// The tensors, in the order of the file.
    pub tensors: Vec<ExtractedTensor>,
    /// The constants of one element that no library's parameter is: an epsilon, a factor.
    pub left_out: Vec<String>,
}

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

impl Extracted {
    /// The tensors whose names in the state dict the graph does not tell.
    pub fn unknown(&self) -> impl Iterator<Item = &ExtractedTensor> {
        self.tensors.iter().filter(|tensor| tensor.source == NameSource::Unknown)
    }

    /// The number of elements of all tensors together.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(|extracted| extracted.tensor.numel() as u64).sum()
    }

    /// Bytes that all tensors take.
    pub fn nbytes(&self) -> u64 {
        self.tensors.iter().map(|extracted| extracted.tensor.nbytes() as u64).sum()
    }

    /// Writes the tensors as safetensors, in the types that the graph has them in; the same graph gives the same bytes.
    /// The file is replaced whole or not at all, and none of `inputs` is overwritten. `progress` is told how many bytes
    /// are written.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for an output that is an input;
    /// [`ErrorKind::Format`](crate::ErrorKind::Format), naming the tensor, for a value that is not finite;
    /// [`ErrorKind::Io`](crate::ErrorKind::Io).
    pub fn save(&self, path: &Path, inputs: &[&Path], progress: &dyn Fn(u64)) -> Result<()> {
        for ExtractedTensor { name, tensor, .. } in &self.tensors {
            tensor.verify_finite().map_err(|e| e.at(tensor.mapping().path()).tensor(name))?;
        }
        let tensors: Vec<_> = self.tensors.iter().map(|found| (found.name.as_str(), &found.tensor)).collect();
        // As libraries that read such files ask for.
        save_stored(path, &tensors, &[("format", "pt".to_owned())], inputs, progress)
    }
}
