//! The named tensors of a file that holds heads or evaluation data.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;

use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result};
use crate::mmap::{MapMode, Mapping};
use crate::tensor::{DType, Tensor};

/// The tensors of the safetensors file at `path` as views into its mapping, in the order of their names.
/// Only the header is read.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io), or [`ErrorKind::Format`](crate::ErrorKind::Format) where it is not a
/// valid safetensors file.
pub(super) fn tensors(path: &Path) -> Result<Vec<(String, Tensor)>> {
    let mapping = Arc::new(Mapping::open(path, MapMode::Map)?);
    let (header, metadata) = SafeTensors::read_metadata(&mapping)
        .map_err(|e| Error::format("not a valid safetensors file").at(path).because(e))?;
    // A length of eight bytes stands before the header.
    let data = header + size_of::<u64>();
    let mut tensors = Vec::new();
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        let tensor = dtype(info.dtype)
            .and_then(|dtype| Tensor::contiguous(&mapping, data + start..data + end, dtype, &info.shape))
            .map_err(|e| e.at(path).tensor(&name))?;
        tensors.push((name, tensor));
    }
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(tensors)
}

fn dtype(dtype: Dtype) -> Result<DType> {
    Ok(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U64 => DType::U64,
        Dtype::U32 => DType::U32,
        Dtype::U16 => DType::U16,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool,
        other => return Err(Error::unsupported("a data type that is not supported").got(format_args!("{other:?}"))),
    })
}
