//! Weights as a safetensors file.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use super::values::{Values, Weights};
use crate::atomic_file::{replace_file, unwritten};
use crate::checkpoint::safetensors::{self, HeaderEntry};
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, checked_numel, f32_bytes};

/// What the data's first byte lies at a multiple of.
const ALIGNMENT: usize = 8;

impl Weights {
    /// Writes every tensor under its canonical name; `about` becomes the file's metadata. The same weights and metadata
    /// give the same bytes. The file is replaced whole or not at all, and none of `inputs` is overwritten
    /// ([`replace_file`]).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for an output that is an input;
    /// [`ErrorKind::Format`](crate::ErrorKind::Format), naming the tensor, for a weight that is not finite (the base's
    /// masks outside the image tower may hold −∞); [`ErrorKind::Io`](crate::ErrorKind::Io).
    pub fn save(&self, path: &Path, about: &[(&str, String)], inputs: &[&Path]) -> Result<()> {
        self.verify_finite()?;
        let tensors = self.iter().map(|(name, shape, values)| {
            let (dtype, bytes) = match values {
                Values::F32(values) => (DType::F32, OutBytes::Ready(f32_bytes(values))),
                Values::Carried(tensor) => (tensor.dtype(), OutBytes::Of(tensor)),
                Values::Cast(dtype, bytes) => (dtype, OutBytes::Ready(bytes)),
                Values::Packed(..) => {
                    return Err(Error::unsupported("packed weights are in memory alone").tensor(name));
                }
            };
            Ok(Out { name, dtype, shape, bytes })
        });
        let tensors = tensors.collect::<Result<Vec<_>>>()?;
        save_tensors(path, tensors, about, inputs, &|_| {})
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
    save_tensors(path, outs(arrays), about, inputs, &|_| {})
}

/// The bytes of the file that [`save_arrays`] writes.
///
/// # Errors
/// As [`save_arrays`], but for the file's.
pub(crate) fn arrays_in_memory(arrays: &[(&str, &[usize], &[f32])], about: &[(&str, String)]) -> Result<Vec<u8>> {
    let Layout { tensors, mut header, .. } = lay_out(outs(arrays), about)?;
    for tensor in &tensors {
        header.extend_from_slice(&tensor.bytes.get()?);
    }
    Ok(header)
}

fn outs<'a>(arrays: &[(&'a str, &'a [usize], &'a [f32])]) -> Vec<Out<'a>> {
    let out = |&(name, shape, values): &(&'a str, &'a [usize], &'a [f32])| Out {
        name,
        dtype: DType::F32,
        shape,
        bytes: OutBytes::Ready(f32_bytes(values)),
    };
    arrays.iter().map(out).collect()
}

/// Writes tensors in their own types as safetensors, under the same promises as [`Weights::save`]; `progress` is told
/// how many bytes are written.
///
/// # Errors
/// As [`Weights::save`].
pub(crate) fn save_stored(
    path: &Path,
    tensors: &[(&str, &Tensor)],
    about: &[(&str, String)],
    inputs: &[&Path],
    progress: &dyn Fn(u64),
) -> Result<()> {
    let tensors = tensors.iter().map(|&(name, tensor)| Out {
        name,
        dtype: tensor.dtype(),
        shape: tensor.shape(),
        bytes: OutBytes::Of(tensor),
    });
    save_tensors(path, tensors.collect(), about, inputs, progress)
}

/// Writes the tensors; equal tensors and metadata give equal bytes.
fn save_tensors(
    path: &Path,
    tensors: Vec<Out<'_>>,
    about: &[(&str, String)],
    inputs: &[&Path],
    progress: &dyn Fn(u64),
) -> Result<()> {
    let Layout { tensors, header, end } = lay_out(tensors, about)?;
    replace_file(path, inputs, |sibling| {
        let fail = |e| unwritten("cannot write", path, Some((header.len() + end) as u64), e);
        let mut file = OpenOptions::new().write(true).truncate(true).open(sibling).map_err(fail)?;
        file.write_all(&header).map_err(fail)?;
        let mut written = 0;
        tensors.iter().try_for_each(|tensor| {
            // One at a time: what is no stretch of memory is put together here.
            let bytes = tensor.bytes.get().map_err(|e| e.tensor(tensor.name))?;
            file.write_all(&bytes).map_err(fail)?;
            written += bytes.len() as u64;
            progress(written);
            Ok(())
        })
    })
}

/// A file to be: its tensors in their order, behind the header.
struct Layout<'a> {
    tensors: Vec<Out<'a>>,
    header: Vec<u8>,
    /// The bytes of all tensors.
    end: usize,
}

fn lay_out<'a>(mut tensors: Vec<Out<'a>>, about: &[(&str, String)]) -> Result<Layout<'a>> {
    // As the format advises: no tensor lies at less than its alignment.
    tensors.sort_by_key(|tensor| (Reverse(tensor.dtype.size()), tensor.name));
    let mut end = 0usize;
    let mut entries = Vec::with_capacity(tensors.len());
    for &Out { name, dtype, shape, ref bytes } in &tensors {
        let expected = checked_numel(shape).and_then(|n| n.checked_mul(dtype.size()));
        if expected != Some(bytes.count()) {
            return Err(Error::invalid("the values do not fill the shape")
                .tensor(name)
                .expected(format_args!("{shape:?} of {dtype}"))
                .got(format_args!("{} bytes", bytes.count())));
        }
        let start = end;
        end = start.checked_add(bytes.count()).ok_or_else(|| Error::invalid("more bytes than a file can have"))?;
        entries.push(HeaderEntry { name, dtype, shape, bytes: start..end });
    }
    let header = safetensors::header(about.iter().cloned(), entries, ALIGNMENT)?;
    Ok(Layout { tensors, header, end })
}

/// A tensor and its bytes.
struct Out<'a> {
    name: &'a str,
    dtype: DType,
    shape: &'a [usize],
    bytes: OutBytes<'a>,
}

/// The bytes of a tensor to be written.
enum OutBytes<'a> {
    Ready(&'a [u8]),
    /// As they lie in a tensor, contiguous or not.
    Of(&'a Tensor),
}

impl OutBytes<'_> {
    fn count(&self) -> usize {
        match self {
            Self::Ready(bytes) => bytes.len(),
            Self::Of(tensor) => tensor.nbytes(),
        }
    }

    fn get(&self) -> Result<Cow<'_, [u8]>> {
        match self {
            Self::Ready(bytes) => Ok(Cow::Borrowed(bytes)),
            Self::Of(tensor) => tensor.to_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ErrorKind;
    use crate::mmap::{MapMode, Mapping};

    const SEVEN: [u8; 8] = 7i64.to_le_bytes();

    #[test]
    fn what_is_written_reads_back_in_a_fixed_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let tensors = || {
            vec![
                Out { name: "b", dtype: DType::F32, shape: &[2], bytes: OutBytes::Ready(f32_bytes(&[1.0, 2.0])) },
                Out { name: "c", dtype: DType::I64, shape: &[], bytes: OutBytes::Ready(&SEVEN) },
                Out { name: "z", dtype: DType::U8, shape: &[3], bytes: OutBytes::Ready(&[1, 2, 3]) },
                Out { name: "a", dtype: DType::F32, shape: &[1, 0], bytes: OutBytes::Ready(&[]) },
            ]
        };
        let about = [("z", "1".to_owned()), ("a", "2".to_owned()), ("m", "3".to_owned())];
        save_tensors(&path, tensors(), &about, &[], &|_| {}).unwrap();
        let written = std::fs::read(&path).unwrap();
        let header = &written[8..];
        assert!(header.starts_with(br#"{"__metadata__":{"z":"1","a":"2","m":"3"},"c":{"dtype":"I64""#));
        assert_eq!((written.len() - (8 + 8 + 3)) % ALIGNMENT, 0);

        // The crate that the format comes from takes it too.
        let theirs = ::safetensors::SafeTensors::deserialize(&written).unwrap();
        assert_eq!(theirs.tensor("z").unwrap().data(), [1, 2, 3]);
        let read = safetensors::read(&Arc::new(Mapping::open(&path, MapMode::Map).unwrap())).unwrap();
        assert_eq!(read.metadata["m"], "3");
        let mut left = tensors();
        for (name, stored) in &read.tensors {
            let tensor = stored.as_ref().unwrap();
            let at = left.iter().position(|out| out.name == name).unwrap();
            let out = left.remove(at);
            let expected = (out.dtype, out.shape, out.bytes.get().unwrap());
            assert_eq!((tensor.dtype(), tensor.shape(), tensor.to_bytes().unwrap()), expected);
        }
        assert!(left.is_empty());

        let twice = vec![tensors().remove(2), tensors().remove(2)];
        assert!(
            save_tensors(&path, twice, &about, &[], &|_| {})
                .unwrap_err()
                .to_string()
                .contains("tensor `z`: two tensors")
        );
        let error = save_arrays(&path, &[("w", &[2, 2], &[1.0])], &[], &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("`w`") && error.to_string().contains("got 4 bytes"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), written, "what failed has changed nothing");
    }
}
