//! Tensors that were found in a graph, and the file that they are written to.

use std::path::Path;

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

/// What [`extract`](super::extract()) found.
#[derive(Clone, Debug, Default)]
pub struct Extracted {
    /// The tensors, in the order of the file.
    pub tensors: Vec<ExtractedTensor>,
    /// The constants of one element that no library's parameter is: an epsilon, a factor.
    pub left_out: Vec<String>,
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
