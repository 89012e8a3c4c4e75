//! Dense tensors: views of elements in a file's bytes.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::dtype::DType;
use super::memory::{checked_numel, contiguous_strides, is_contiguous};
use crate::error::{Error, Result};
use crate::mmap::Mapping;

/// A view of elements inside a [`Mapping`], which it keeps alive. Cloning copies no data.
///
/// Every element that shape and strides reach lies inside the storage: [`Tensor::strided`] checks it once, with
/// checked arithmetic, and everything after relies on it.
#[derive(Clone)]
pub struct Tensor {
    pub(super) mapping: Arc<Mapping>,
    pub(super) dtype: DType,
    /// The place of the first element, in bytes from the mapping's start.
    pub(super) offset: usize,
    pub(super) numel: usize,
    pub(super) contiguous: bool,
    pub(super) shape: Box<[usize]>,
    /// Distances in elements, as PyTorch counts them.
    pub(super) strides: Box<[usize]>,
}

impl Tensor {
    /// A contiguous (row-major) tensor that fills `bytes` of the mapping exactly.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) when shape and range disagree or the range leaves the mapping.
    pub fn contiguous(mapping: &Arc<Mapping>, bytes: Range<usize>, dtype: DType, shape: &[usize]) -> Result<Self> {
        let length = checked_numel(shape).and_then(|n| n.checked_mul(dtype.size()));
        if length != bytes.end.checked_sub(bytes.start) {
            return Err(Error::format("a tensor's shape and bytes disagree")
                .at(mapping.path())
                .expected(format_args!("{} for {dtype} {shape:?}", length.map_or("too many bytes".into(), bytes_text)))
                .got(format_args!("the range {bytes:?}")));
        }
        Self::strided(mapping, bytes, dtype, 0, shape, &contiguous_strides(shape))
    }

    /// A tensor over a storage that others may share: `storage` in bytes of the mapping, `offset` and `strides` in
    /// elements of the storage, as PyTorch keeps them.
    ///
    /// A tensor with more elements than its storage (an expanded one, stride 0) is refused: weights are never
    /// expanded, and a small file could ask for any amount of memory with it.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) when an element would lie outside the storage, or the storage
    /// outside the mapping.
    pub fn strided(
        mapping: &Arc<Mapping>,
        storage: Range<usize>,
        dtype: DType,
        offset: usize,
        shape: &[usize],
        strides: &[usize],
    ) -> Result<Self> {
        let fail = |what: &str| {
            Error::format(what.to_owned()).at(mapping.path()).got(format_args!(
                "{dtype} of shape {shape:?}, strides {strides:?}, offset {offset}, in a storage at {storage:?}"
            ))
        };
        if storage.start > storage.end || storage.end > mapping.len() {
            return Err(fail("a storage lies outside its file"));
        }
        if shape.len() != strides.len() {
            return Err(fail("a tensor has another number of strides than dimensions"));
        }
        let available = (storage.end - storage.start) / dtype.size();
        let numel = checked_numel(shape).ok_or_else(|| fail("a tensor's shape overflows"))?;
        if numel > 1 && shape.iter().zip(strides).any(|(&extent, &stride)| extent > 1 && stride == 0) {
            return Err(fail("a tensor repeats its elements (stride 0)"));
        }
        if numel > available {
            return Err(fail("a tensor has more elements than its storage"));
        }
        // The last element's index plus one; an empty tensor reaches nothing.
        let reach = if numel == 0 {
            Some(0)
        } else {
            shape
                .iter()
                .zip(strides)
                .try_fold(offset, |at, (&n, &stride)| (n - 1).checked_mul(stride).and_then(|x| at.checked_add(x)))
                .and_then(|last| last.checked_add(1))
        };
        match reach {
            Some(reach) if reach <= available => {}
            _ => return Err(fail("a tensor reaches outside its storage")),
        }
        let start = if numel == 0 { storage.start } else { storage.start + offset * dtype.size() };
        Ok(Self {
            mapping: Arc::clone(mapping),
            dtype,
            offset: start,
            numel,
            contiguous: is_contiguous(shape, strides),
            shape: shape.into(),
            strides: strides.into(),
        })
    }

    /// A tensor of its own memory, f32; `name` is what errors will show as its file.
    ///
    /// # Errors
    /// When `values` does not fill `shape`.
    pub fn from_f32(values: &[f32], shape: &[usize], name: &str) -> Result<Self> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let length = bytes.len();
        Self::contiguous(&Arc::new(Mapping::from_vec(bytes, name)), 0..length, DType::F32, shape)
    }

    /// The elements' type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The extent of every dimension; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The distance between neighbours along every dimension, in elements.
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }

    /// The number of elements.
    pub fn numel(&self) -> usize {
        self.numel
    }

    /// The bytes that the elements take when they stand side by side.
    pub fn nbytes(&self) -> usize {
        self.numel * self.dtype.size()
    }

    /// Whether the elements stand side by side in row-major order.
    pub fn is_contiguous(&self) -> bool {
        self.contiguous
    }

    /// The bytes that the tensor is a view of.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// The place of the first element, in bytes from the mapping's start.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The elements' bytes, when they stand side by side. They may be at any alignment.
    pub fn bytes(&self) -> Option<&[u8]> {
        self.contiguous.then(|| &self.mapping[self.offset..self.offset + self.nbytes()])
    }

    /// The elements themselves, when they are contiguous f32 at an address that f32 may have.
    pub fn as_f32(&self) -> Option<&[f32]> {
        if self.dtype != DType::F32 {
            return None;
        }
        // SAFETY: every bit pattern is an f32, and `align_to` gives only what is aligned.
        let (before, values, after) = unsafe { self.bytes()?.align_to::<f32>() };
        (before.is_empty() && after.is_empty()).then_some(values)
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?}", self.dtype, self.shape)?;
        if !self.contiguous {
            write!(f, ", strides {:?}", self.strides)?;
        }
        f.write_str(")")
    }
}

fn bytes_text(bytes: usize) -> String {
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(floats: &[f32]) -> Arc<Mapping> {
        Arc::new(Mapping::from_vec(floats.iter().flat_map(|v| v.to_le_bytes()).collect(), "test"))
    }

    #[test]
    fn strides_are_honoured() {
        let m = mapping(&[0., 1., 2., 3., 4., 5.]);
        let t = Tensor::strided(&m, 0..24, DType::F32, 0, &[3, 2], &[1, 3]).unwrap();
        assert!(!t.is_contiguous() && t.as_f32().is_none());
        assert_eq!(*t.to_f32().unwrap(), [0., 3., 1., 4., 2., 5.]);
        let mut middle = [0.; 3];
        t.read_f32(1, &mut middle).unwrap();
        assert_eq!(middle, [3., 1., 4.]);
        assert_eq!(*t.transposed().unwrap().to_f32().unwrap(), [0., 1., 2., 3., 4., 5.]);
        assert_eq!(*t.rows(1..3).unwrap().to_f32().unwrap(), [1., 4., 2., 5.]);
        assert_eq!(t.to_contiguous().unwrap().to_f64().unwrap(), [0., 3., 1., 4., 2., 5.]);
        assert_eq!(*Tensor::concatenated(&[&t, &t]).unwrap().shape(), [6, 2]);
    }

    #[test]
    fn what_leaves_the_storage_is_refused() {
        let m = mapping(&[0.; 6]);
        for (offset, shape, strides) in [
            (0, &[7][..], &[1][..]),
            (1, &[6], &[1]),
            (0, &[2, 3], &[4, 1]),
            (0, &[2, 3], &[1]),
            (usize::MAX, &[1], &[1]),
            (0, &[2], &[usize::MAX]),
            (0, &[usize::MAX, usize::MAX], &[0, 0]),
            (0, &[1000], &[0]),
            (0, &[2, 3], &[1, 0]),
        ] {
            assert!(Tensor::strided(&m, 0..24, DType::F32, offset, shape, strides).is_err(), "{offset} {shape:?}");
        }
        assert!(Tensor::strided(&m, 0..25, DType::F32, 0, &[1], &[1]).is_err());
        assert!(Tensor::strided(&m, 0..24, DType::F32, 9, &[0], &[1]).is_ok(), "an empty tensor reaches nothing");
        assert!(Tensor::contiguous(&m, 0..20, DType::F32, &[6]).is_err());
    }

    #[test]
    fn zero_means_every_element() {
        let mut values = vec![0.0f32; 10_000];
        values[3] = -0.0;
        assert!(Tensor::contiguous(&mapping(&values), 0..40_000, DType::F32, &[10_000]).unwrap().is_zero());
        values[9_999] = f32::from_bits(1);
        let m = mapping(&values);
        assert!(!Tensor::contiguous(&m, 0..40_000, DType::F32, &[10_000]).unwrap().is_zero());
        assert!(Tensor::strided(&m, 0..40_000, DType::F32, 0, &[5_000], &[2]).unwrap().is_zero());
        assert!(!Tensor::strided(&m, 0..40_000, DType::F32, 1, &[5_000], &[2]).unwrap().is_zero());
    }
}
