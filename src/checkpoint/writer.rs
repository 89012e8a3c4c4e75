//! Writes archives as `torch.save` does, so that `torch.load(…, weights_only=True)` and [`super::torch`] read them.
//!
//! Storages are declared first and their bytes asked for one storage at a time while the file is written, so gigabytes
//! never sit in memory; several tensors may be views of one storage.
//!
//! ```
//! use taskbasis::DType;
//! use taskbasis::checkpoint::writer::{TorchWriter, Value};
//!
//! let mut writer = TorchWriter::new("weights");
//! let proj = writer.tensor(DType::F32, &[2, 2])?;
//! let model = Value::dict([("visual.proj", proj), ("epoch", Value::Int(3))]);
//! let mut file = Vec::new();
//! writer.write(&mut file, &model, |_storage, out| out.write_all(&[0; 16]))?;
//! # Ok::<(), taskbasis::Error>(())
//! ```

mod pickle;
mod value;
mod zip;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

pub use zip::ZipWriter;

use self::value::Storage;
pub use self::value::{StorageId, TensorView, Value};
use super::torch::types::storage_class;
use crate::atomic_file::replace_file;
use crate::error::{Error, Result};
use crate::tensor::{DType, WRITE_BUFFER, checked_numel, contiguous_strides};

/// An archive in the making.
#[derive(Debug)]
pub struct TorchWriter {
    folder: String,
    storages: Vec<Storage>,
    zip64: bool,
}

impl TorchWriter {
    /// An archive whose entries lie in the folder `folder`; `torch.save` names it after the file's stem.
    pub fn new(folder: impl Into<String>) -> Self {
        Self { folder: folder.into(), storages: Vec::new(), zip64: false }
    }

    /// Writes every record in its zip64 form, also where the file is small enough to do without.
    #[must_use]
    pub fn force_zip64(mut self) -> Self {
        self.zip64 = true;
        self
    }

    /// Declares a storage of `numel` elements.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for a type without a storage class (u16, u32, u64);
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when its bytes overflow.
    pub fn storage(&mut self, dtype: DType, numel: usize) -> Result<StorageId> {
        storage_class(dtype)?;
        numel.checked_mul(dtype.size()).ok_or_else(|| Error::invalid("a storage is too large"))?;
        self.storages.push(Storage { dtype, numel });
        Ok(StorageId(self.storages.len() - 1))
    }

    /// A contiguous tensor of `shape` that begins `offset` elements into the storage.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when it reaches outside the storage.
    pub fn view(&self, storage: StorageId, offset: usize, shape: &[usize]) -> Result<Value> {
        self.strided(storage, offset, shape, &contiguous_strides(shape))
    }

    /// A tensor of any strides, in elements.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when it reaches outside the storage.
    pub fn strided(&self, storage: StorageId, offset: usize, shape: &[usize], strides: &[usize]) -> Result<Value> {
        let reach = shape.iter().zip(strides).try_fold(offset, |reach, (&extent, &stride)| {
            reach.checked_add(extent.saturating_sub(1).checked_mul(stride)?)
        });
        let numel = self.storages.get(storage.0).map(|storage| storage.numel);
        let inside = numel.zip(reach).is_some_and(|(numel, reach)| reach < numel) || shape.contains(&0);
        if numel.is_none() || !inside || shape.len() != strides.len() {
            return Err(Error::invalid("a tensor reaches outside its storage").got(format_args!(
                "shape {shape:?}, strides {strides:?}, offset {offset} in {} elements",
                numel.unwrap_or(0)
            )));
        }
        Ok(Value::Tensor(TensorView { storage, offset, shape: shape.to_vec(), strides: strides.to_vec() }))
    }

    /// A contiguous tensor with a storage of its own; its [`StorageId`] counts up from 0.
    ///
    /// # Errors
    /// As [`TorchWriter::storage`].
    pub fn tensor(&mut self, dtype: DType, shape: &[usize]) -> Result<Value> {
        let numel = checked_numel(shape).ok_or_else(|| Error::invalid("a tensor is too large"))?;
        let storage = self.storage(dtype, numel)?;
        self.view(storage, 0, shape)
    }

    /// Writes the archive to `out`. `fill` is called once for every storage, in the order of their declaration, and
    /// writes exactly its bytes, little-endian.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) when `out` or `fill` fails;
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) when `fill` writes more or less than the
    /// storage holds.
    pub fn write(
        &self,
        out: impl Write,
        value: &Value,
        mut fill: impl FnMut(StorageId, &mut dyn Write) -> io::Result<()>,
    ) -> Result<()> {
        let mut zip = ZipWriter::new(out);
        if self.zip64 {
            zip = zip.force_zip64();
        }
        zip.bytes(&format!("{}/data.pkl", self.folder), &pickle::encode(value, &self.storages)?)?;
        zip.bytes(&format!("{}/byteorder", self.folder), b"little")?;
        for (key, storage) in self.storages.iter().enumerate() {
            let name = format!("{}/data/{key}", self.folder);
            zip.entry(&name, storage.bytes(), |out| fill(StorageId(key), out))?;
        }
        zip.bytes(&format!("{}/version", self.folder), b"3\n")?;
        zip.finish()
    }

    /// Writes the archive to a file: beside its place, synced, and then put there, so that a file that is mapped
    /// meanwhile stays whole and a failure leaves nothing behind.
    ///
    /// # Errors
    /// As [`TorchWriter::write`], naming the file.
    pub fn write_file(
        &self,
        path: impl AsRef<Path>,
        value: &Value,
        fill: impl FnMut(StorageId, &mut dyn Write) -> io::Result<()>,
    ) -> Result<()> {
        let path = path.as_ref();
        replace_file(path, &[], |sibling| {
            let file = File::create(sibling).map_err(|e| Error::io("cannot write", path, e))?;
            self.write(BufWriter::with_capacity(WRITE_BUFFER, file), value, fill).map_err(|e| e.at(path))
        })
    }
}
