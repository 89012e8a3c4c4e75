//! The named tensors of a file that holds heads or evaluation data.

use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::tensor::Tensor;

/// The tensors of the file at `path`, in the order of their names.
///
/// # Errors
/// As [`Checkpoint::open`].
pub(super) fn tensors(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let file = Checkpoint::open(path)?;
    let mut tensors: Vec<_> = file.iter().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(tensors)
}
