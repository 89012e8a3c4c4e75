//! Weights as a safetensors file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, View, serialize_to_file};

use super::{Values, Weights};
use crate::error::{Error, ErrorKind, Result};
use crate::replace::replace_file;
use crate::tensor::{DType, f32_bytes};

impl Weights {
    /// Writes every tensor under its canonical name; `about` becomes the file's metadata. The file is replaced whole
    /// or not at all, and none of `inputs` is overwritten ([`replace_file`]).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for an output that is an input; [`ErrorKind::Io`].
    pub fn save(&self, path: &Path, about: &[(&str, String)], inputs: &[&Path]) -> Result<()> {
        let tensors = self.iter().map(|(name, shape, values)| {
            let (dtype, bytes) = match values {
                Values::F32(values) => (DType::F32, Cow::Borrowed(f32_bytes(values))),
                Values::Carried(tensor) => (tensor.dtype(), tensor.to_bytes()?),
                Values::Cast(dtype, bytes) => (dtype, Cow::Borrowed(bytes)),
            };
            Ok((name, Out { dtype: safetensors_dtype(dtype)?, shape, bytes }))
        });
        let tensors = tensors.collect::<Result<Vec<_>>>()?;
        save_tensors(path, tensors, about, inputs)
    }
}

/// Writes f32 arrays as safetensors, under the same promises as [`Weights::save`].
///
/// # Errors
/// As [`Weights::save`]; also where an array does not fill its shape.
pub fn save_arrays(
    path: &Path,
    arrays: &[(&str, &[usize], &[f32])],
    about: &[(&str, String)],
    inputs: &[&Path],
) -> Result<()> {
    let tensors = arrays
        .iter()
        .map(|&(name, shape, values)| (name, Out { dtype: Dtype::F32, shape, bytes: f32_bytes(values).into() }));
    save_tensors(path, tensors.collect(), about, inputs)
}

fn save_tensors(path: &Path, tensors: Vec<(&str, Out<'_>)>, about: &[(&str, String)], inputs: &[&Path]) -> Result<()> {
    let about: HashMap<String, String> = about.iter().map(|(key, value)| ((*key).into(), value.clone())).collect();
    replace_file(path, inputs, |sibling| {
        serialize_to_file(tensors, Some(about), sibling)
            .map_err(|e| Error::new(ErrorKind::Io, "cannot write").at(path).because(e))
    })
}

struct Out<'a> {
    dtype: Dtype,
    shape: &'a [usize],
    bytes: Cow<'a, [u8]>,
}

impl View for Out<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

pub(crate) fn safetensors_dtype(dtype: DType) -> Result<Dtype> {
    Ok(match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    })
}
