//! The values that are pickled, and the storages that their tensors are views of.

use crate::tensor::DType;

/// A value that is to be pickled.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // The names are Python's.
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    List(Vec<Value>),
    Tuple(Vec<Value>),
    /// Pairs in the order in which Python will iterate over them.
    Dict(Vec<(String, Value)>),
    /// A `torch.Size`.
    Size(Vec<usize>),
    Tensor(TensorView),
}

impl Value {
    /// A dict of these pairs.
    pub fn dict<K: Into<String>>(pairs: impl IntoIterator<Item = (K, Value)>) -> Self {
        Self::Dict(pairs.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Str(text.to_owned())
    }
}

/// A storage of one [`TorchWriter`](super::TorchWriter): its number, which is also its key in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StorageId(pub usize);

/// A tensor: elements of a storage. Made by [`TorchWriter::view`](super::TorchWriter::view) and [`TorchWriter::tensor`](super::TorchWriter::tensor), which check it.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorView {
    pub(super) storage: StorageId,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// A storage that was declared.
#[derive(Debug)]
pub(super) struct Storage {
    pub(super) dtype: DType,
    pub(super) numel: usize,
}

impl Storage {
    pub(super) fn bytes(&self) -> u64 {
        // Checked when the storage was declared.
        self.numel as u64 * self.dtype.size() as u64
    }
}
