//! A merge as a checkpoint: the base with λ times the merged vector, in one safetensors file.

use std::cmp::Reverse;
use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::merged::MergedVector;
use crate::atomic_file::{replace_file, unwritten};
use crate::bundle::VectorSource;
use crate::checkpoint::safetensors::{self, HeaderEntry};
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, WRITE_BUFFER, f32_bytes, try_zeroed};

/// What the data's first byte lies at a multiple of.
const ALIGNMENT: usize = 8;

impl MergedVector<'_> {
    /// The bytes of the values that [`MergedVector::write_checkpoint`] writes.
    pub fn checkpoint_bytes(&self) -> u64 {
        self.outputs().iter().map(|(_, tensor, dtype)| (tensor.numel() * dtype.size()) as u64).sum()
    }

    /// The base's tensors by their names, each with the type that it is written in: f32 where it is merged, else its
    /// own. The largest types first, so that none lies at less than its alignment.
    fn outputs(&self) -> Vec<(&str, &Tensor, DType)> {
        let typed = |name: &str, tensor: &Tensor| if self.changes(name) { DType::F32 } else { tensor.dtype() };
        let mut all: Vec<_> = self.family.base().iter().map(|(n, tensor)| (n, tensor, typed(n, tensor))).collect();
        all.sort_by_key(|(name, _, dtype)| (Reverse(dtype.size()), *name));
        all
    }

    /// Writes the checkpoint `base + lambda·merged`: whole or not at all, and none of `inputs` is overwritten
    /// ([`replace_file`]). Its tensors have the base's canonical names; those that are merged are f32, the others as in
    /// the base. `progress` is told how many more of [`MergedVector::checkpoint_bytes`] are written.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a `lambda` that is not finite, and an
    /// output that is an input; [`ErrorKind::Format`](crate::ErrorKind::Format), naming the tensor, for a weight beyond
    /// f32; [`ErrorKind::Io`](crate::ErrorKind::Io).
    pub fn write_checkpoint(
        &self,
        lambda: f64,
        path: impl AsRef<Path>,
        inputs: &[&Path],
        progress: &dyn Fn(u64),
    ) -> Result<()> {
        let path = path.as_ref();
        if !lambda.is_finite() {
            return Err(Error::invalid("the scaling coefficient must be finite").got(lambda));
        }
        let mut end = 0;
        let outputs = self.outputs();
        let entries = outputs.iter().map(|&(name, tensor, dtype)| {
            let bytes = end..end + tensor.numel() * dtype.size();
            end = bytes.end;
            HeaderEntry { name, dtype, shape: tensor.shape(), bytes }
        });
        let entries: Vec<_> = entries.collect();
        let about = [("taskbasis.merge", self.merge().to_string()), ("taskbasis.lambda", lambda.to_string())];
        let header = safetensors::header(about, entries, ALIGNMENT)?;
        let total = (header.len() + end) as u64;
        replace_file(path, inputs, |sibling| {
            let fail = |e| unwritten("cannot write", path, Some(total), e);
            let file = OpenOptions::new().write(true).truncate(true).open(sibling).map_err(fail)?;
            let mut out = BufWriter::with_capacity(WRITE_BUFFER, file);
            out.write_all(&header).map_err(fail)?;
            for &(name, tensor, _) in &outputs {
                let written = if self.changes(name) {
                    let weights = self.weights(name, tensor, lambda)?;
                    out.write_all(f32_bytes(&weights)).map_err(fail)?;
                    size_of_val(weights.as_slice())
                } else {
                    let bytes = tensor.to_bytes()?;
                    out.write_all(&bytes).map_err(fail)?;
                    bytes.len()
                };
                progress(written as u64);
            }
            out.flush().map_err(fail)
        })
    }

    /// `base + lambda·merged` of a parameter.
    fn weights(&self, name: &str, base: &Tensor, lambda: f64) -> Result<Vec<f32>> {
        let mut weights: Vec<f32> = try_zeroed(base.numel())?;
        base.read_f32(0, &mut weights)?;
        for (weight, value) in weights.iter_mut().zip(self.values(name)?) {
            *weight = (f64::from(*weight) + lambda * f64::from(value)) as f32;
        }
        match weights.iter().position(|weight| !weight.is_finite()) {
            None => Ok(weights),
            Some(at) => Err(Error::format("a merged weight is beyond what f32 can hold")
                .tensor(name)
                .got(format_args!("{} at element {at}", weights[at]))),
        }
    }
}
