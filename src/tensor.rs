//! Tensors as views into a [`Mapping`]: data type, shape, strides, place. Nothing is copied until somebody asks.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::mmap::Mapping;

#[cfg(target_endian = "big")]
compile_error!("taskbasis maps little-endian files in place and needs a little-endian machine");

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)] // The names say it all.
pub enum DType {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

impl DType {
    /// Bytes an element.
    pub const fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether weights can have this type; others are carried, never combined.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }

    /// `f32`, `bf16`, `i64`, …
    pub const fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::I16 => "i16",
            Self::I8 => "i8",
            Self::U64 => "u64",
            Self::U32 => "u32",
            Self::U16 => "u16",
            Self::U8 => "u8",
            Self::Bool => "bool",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A view of elements inside a [`Mapping`], which it keeps alive. Cloning copies no data.
///
/// Every element that shape and strides reach lies inside the storage: [`Tensor::strided`] checks it once, with
/// checked arithmetic, and everything after relies on it.
#[derive(Clone)]
pub struct Tensor {
    mapping: Arc<Mapping>,
    dtype: DType,
    /// Of the first element, in bytes from the mapping's start.
    offset: usize,
    numel: usize,
    contiguous: bool,
    shape: Box<[usize]>,
    /// In elements, as PyTorch counts them.
    strides: Box<[usize]>,
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

    /// How many elements.
    pub fn numel(&self) -> usize {
        self.numel
    }

    /// How many bytes the elements take when they stand side by side.
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

    /// Where the first element lies, in bytes from the mapping's start.
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

    /// All elements as f32 in row-major order; borrowed where [`Tensor::as_f32`] can, else converted
    /// (f64 is rounded to nearest, f16 and bf16 are exact).
    ///
    /// # Errors
    /// When the type is not a float, or memory is refused.
    pub fn to_f32(&self) -> Result<Cow<'_, [f32]>> {
        if let Some(values) = self.as_f32() {
            return Ok(Cow::Borrowed(values));
        }
        let mut values = try_zeroed::<f32>(self.numel)?;
        self.read_f32(0, &mut values)?;
        Ok(Cow::Owned(values))
    }

    /// All elements as f64 in row-major order: floats and integers.
    ///
    /// # Errors
    /// When memory is refused.
    pub fn to_f64(&self) -> Result<Vec<f64>> {
        let mut values = try_zeroed::<f64>(self.numel)?;
        let size = self.dtype.size();
        let mut at = 0;
        self.for_each_run(0, self.numel, |bytes, stride, count| {
            for i in 0..count {
                values[at] = element_f64(self.dtype, &bytes[i * stride * size..][..size]);
                at += 1;
            }
        });
        Ok(values)
    }

    /// Writes the elements `start..start + out.len()` of the row-major order into `out` as f32.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when the type is not a float.
    ///
    /// # Panics
    /// When the range leaves the tensor.
    pub fn read_f32(&self, start: usize, out: &mut [f32]) -> Result<()> {
        assert!(start.checked_add(out.len()).is_some_and(|end| end <= self.numel), "range outside the tensor");
        let mut out = out.iter_mut();
        let count = out.len();
        macro_rules! run {
            ($size:literal, $convert:expr) => {
                self.for_each_run(start, count, |bytes, stride, count| {
                    let step = stride.max(1) * $size;
                    for (slot, i) in out.by_ref().take(count).zip((0..).step_by(step)) {
                        let element: [u8; $size] = std::array::from_fn(|k| bytes[i + k]);
                        *slot = $convert(element);
                    }
                })
            };
        }
        match self.dtype {
            DType::F32 => run!(4, f32::from_le_bytes),
            DType::F16 => run!(2, |b| f16::from_le_bytes(b).to_f32()),
            DType::BF16 => run!(2, |b| bf16::from_le_bytes(b).to_f32()),
            DType::F64 => run!(8, |b| f64::from_le_bytes(b) as f32),
            _ => {
                return Err(Error::unsupported("not a tensor of floats")
                    .expected("f32, f16, bf16 or f64")
                    .got(self.dtype));
            }
        }
        Ok(())
    }

    /// Whether every element's bits are those of zero (−0.0 counts as zero). Stops at the first that is not.
    pub fn is_zero(&self) -> bool {
        let sign: u8 = if self.dtype.is_float() { 0x80 } else { 0 };
        if let Some(bytes) = self.bytes() {
            // Whole words first: nearly always either the first word is not zero, or all are.
            // SAFETY: every bit pattern is a u64.
            let (before, words, after) = unsafe { bytes.align_to::<u64>() };
            if before.iter().chain(after).all(|&b| b == 0)
                && words.chunks(512).all(|chunk| chunk.iter().fold(0, |any, &w| any | w) == 0)
            {
                return true;
            }
        }
        let size = self.dtype.size();
        let mut zero = true;
        let mut at = 0;
        // In pieces, so that the first element that is not zero ends the search soon.
        while zero && at < self.numel {
            let count = (self.numel - at).min(4096);
            self.for_each_run(at, count, |bytes, stride, count| {
                zero = zero
                    && (0..count).all(|i| {
                        let element = &bytes[i * stride * size..][..size];
                        element[..size - 1].iter().all(|&b| b == 0) && element[size - 1] & !sign == 0
                    });
            });
            at += count;
        }
        zero
    }

    /// Whether every element is finite; what is no float always is.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format), with the first that is not.
    pub fn verify_finite(&self) -> Result<()> {
        if !self.dtype.is_float() {
            return Ok(());
        }
        let mut buffer = [0.0f32; 4096];
        for at in (0..self.numel).step_by(buffer.len()) {
            let part = &mut buffer[..(self.numel - at).min(4096)];
            self.read_f32(at, part)?;
            if let Some(i) = part.iter().position(|value| !value.is_finite()) {
                return Err(Error::format("a value is not finite").at(self.mapping.path()).got(format_args!(
                    "{} at element {}",
                    part[i],
                    at + i
                )));
            }
        }
        Ok(())
    }

    /// The matrix with its two dimensions exchanged: a view, no copy.
    ///
    /// # Errors
    /// When it is not a matrix.
    pub fn transposed(&self) -> Result<Self> {
        let (&[rows, columns], &[down, across]) = (&*self.shape, &*self.strides) else {
            return Err(Error::format("only a matrix can be transposed").got(format_args!("shape {:?}", self.shape)));
        };
        let (shape, strides) = ([columns, rows], [across, down]);
        Ok(Self {
            contiguous: is_contiguous(&shape, &strides),
            shape: shape.into(),
            strides: strides.into(),
            ..self.clone()
        })
    }

    /// The rows `rows` of the first dimension: a view, no copy.
    ///
    /// # Errors
    /// When there are not so many.
    pub fn rows(&self, rows: Range<usize>) -> Result<Self> {
        match self.shape.first() {
            Some(&n) if rows.start <= rows.end && rows.end <= n => {}
            _ => return Err(Error::format("rows outside the tensor").got(format_args!("{rows:?} of {:?}", self.shape))),
        }
        let mut view = self.clone();
        view.shape[0] = rows.len();
        view.numel = view.shape.iter().product();
        if view.numel > 0 {
            view.offset += rows.start * self.strides[0] * self.dtype.size();
        }
        view.contiguous = is_contiguous(&view.shape, &view.strides);
        Ok(view)
    }

    /// The same elements in another shape: a view where they are contiguous, else a contiguous copy.
    ///
    /// # Errors
    /// When the number of elements differs, or memory is refused.
    pub fn reshaped(&self, shape: &[usize]) -> Result<Self> {
        if checked_numel(shape) != Some(self.numel) {
            return Err(Error::format("cannot reshape")
                .expected(format_args!("{} elements", self.numel))
                .got(format_args!("shape {shape:?}")));
        }
        let mut view = self.to_contiguous()?;
        view.shape = shape.into();
        view.strides = contiguous_strides(shape).into();
        Ok(view)
    }

    /// Itself where contiguous, else a contiguous copy of the same type.
    ///
    /// # Errors
    /// When memory is refused.
    pub fn to_contiguous(&self) -> Result<Self> {
        if self.contiguous {
            return Ok(self.clone());
        }
        Self::concatenated(&[self])
    }

    /// The tensors one after another along their first dimension, as one contiguous copy.
    ///
    /// # Errors
    /// When types or the other dimensions differ, there is none, or memory is refused.
    pub fn concatenated(parts: &[&Self]) -> Result<Self> {
        let Some((first, rest)) = parts.split_first() else {
            return Err(Error::format("nothing to concatenate"));
        };
        let mut shape = first.shape.to_vec();
        for part in rest {
            if part.dtype != first.dtype || part.shape.len() != shape.len() || part.shape.get(1..) != shape.get(1..) {
                return Err(Error::format("tensors to be concatenated differ")
                    .expected(format_args!("{} {:?}", first.dtype, first.shape))
                    .got(format_args!("{} {:?}", part.dtype, part.shape)));
            }
            match shape.first_mut() {
                Some(rows) => *rows += part.shape[0],
                None => return Err(Error::format("scalars cannot be concatenated")),
            }
        }
        let size = first.dtype.size();
        let length = parts.iter().map(|part| part.nbytes()).sum();
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).map_err(|_| Error::out_of_memory(length))?;
        for part in parts {
            part.for_each_run(0, part.numel, |run, stride, count| {
                if stride == 1 {
                    bytes.extend_from_slice(&run[..count * size]);
                } else {
                    (0..count).for_each(|i| bytes.extend_from_slice(&run[i * stride * size..][..size]));
                }
            });
        }
        Self::contiguous(&Arc::new(Mapping::from_vec(bytes, first.mapping.path())), 0..length, first.dtype, &shape)
    }

    /// The elements' bytes side by side: borrowed where they stand so, else copied.
    ///
    /// # Errors
    /// When memory is refused.
    pub fn to_bytes(&self) -> Result<Cow<'_, [u8]>> {
        match self.bytes() {
            Some(bytes) => Ok(Cow::Borrowed(bytes)),
            None => Ok(Cow::Owned(self.to_contiguous()?.bytes().unwrap_or_default().to_vec())),
        }
    }

    /// Walks the elements `start..start + count` of the row-major order as runs along the last dimension:
    /// `visit(bytes from the run's first element on, stride in elements, count)`.
    fn for_each_run(&self, start: usize, count: usize, mut visit: impl FnMut(&[u8], usize, usize)) {
        if count == 0 {
            return;
        }
        let size = self.dtype.size();
        if self.contiguous {
            let from = self.offset + start * size;
            visit(&self.mapping[from..from + count * size], 1, count);
            return;
        }
        // A tensor that is not contiguous has at least one dimension.
        let last = self.shape.len() - 1;
        let (width, stride) = (self.shape[last], self.strides[last]);
        let (mut at, end) = (start, start + count);
        while at < end {
            let (mut row, column) = (at / width, at % width);
            let mut element = column * stride;
            for dimension in (0..last).rev() {
                element += (row % self.shape[dimension]) * self.strides[dimension];
                row /= self.shape[dimension];
            }
            let run = (width - column).min(end - at);
            let from = self.offset + element * size;
            let to = from + ((run - 1) * stride + 1) * size;
            visit(&self.mapping[from..to], stride, run);
            at += run;
        }
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

/// The bytes of f32 values, as a little-endian file holds them.
pub(crate) fn f32_bytes(values: &[f32]) -> &[u8] {
    // SAFETY: every f32 is four bytes that may be read as such, and the slice covers exactly those.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// A vector of `count` zeros, or an error where the allocator refuses.
pub(crate) fn try_zeroed<T: Clone + Default>(count: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| Error::out_of_memory(count.saturating_mul(size_of::<T>())))?;
    values.resize(count, T::default());
    Ok(values)
}

/// The product of the extents, or `None` where it overflows.
pub(crate) fn checked_numel(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent))
}

/// Row-major strides, in elements.
pub(crate) fn contiguous_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i]);
    }
    strides
}

/// Dimensions of extent 1 may have any stride, and an empty tensor is contiguous whatever its strides.
fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    shape.contains(&0)
        || contiguous_strides(shape).iter().zip(strides).zip(shape).all(|((want, have), &n)| n == 1 || want == have)
}

fn bytes_text(bytes: usize) -> String {
    format!("{bytes} bytes")
}

/// One little-endian element; `bytes` has exactly the type's size.
fn element_f64(dtype: DType, bytes: &[u8]) -> f64 {
    macro_rules! read {
        ($type:ty) => {
            <$type>::from_le_bytes(std::array::from_fn(|k| bytes[k]))
        };
    }
    match dtype {
        DType::F64 => read!(f64),
        DType::F32 => read!(f32).into(),
        DType::F16 => read!(f16).to_f64(),
        DType::BF16 => read!(bf16).to_f64(),
        DType::I64 => read!(i64) as f64,
        DType::I32 => read!(i32).into(),
        DType::I16 => read!(i16).into(),
        DType::I8 => read!(i8).into(),
        DType::U64 => read!(u64) as f64,
        DType::U32 => read!(u32).into(),
        DType::U16 => read!(u16).into(),
        DType::U8 | DType::Bool => bytes[0].into(),
    }
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
