//! Tensors made of tensors: transposed, cut, reshaped, put together. Views where layout allows, copies elsewhere.

use std::ops::Range;
use std::sync::Arc;

use super::dense::Tensor;
use super::memory::{checked_numel, contiguous_strides, is_contiguous, try_zeroed};
use crate::error::{Error, Result};
use crate::mmap::Mapping;

impl Tensor {
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

    /// Zeros of the same type and shape.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub fn zeros(&self) -> Result<Self> {
        let bytes = try_zeroed(self.nbytes())?;
        let length = bytes.len();
        Self::contiguous(&Arc::new(Mapping::from_vec(bytes, self.mapping.path())), 0..length, self.dtype, &self.shape)
    }

    /// The rows `rows` of the first dimension: a view, no copy.
    ///
    /// # Errors
    /// When there are fewer rows.
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

    /// The elements in another shape: a view where they are contiguous, else a contiguous copy.
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

    /// The elements of a contiguous tensor at other places: `offset` and `strides` in elements. A view, no copy.
    ///
    /// # Errors
    /// When an element would lie outside, or the tensor is not contiguous.
    pub(crate) fn rearranged(&self, offset: usize, shape: &[usize], strides: &[usize]) -> Result<Self> {
        if !self.contiguous {
            return Err(Error::format("only a contiguous tensor can be rearranged").got(format_args!("{self:?}")));
        }
        let storage = self.offset..self.offset + self.nbytes();
        Self::strided(&self.mapping, storage, self.dtype, offset, shape, strides)
    }

    /// The same elements in this process's memory: read from the file where that is mapped, so that what the disk
    /// cannot give is an error; itself where they are there already.
    ///
    /// # Errors
    /// As [`Mapping::read_at`].
    pub fn in_memory(&self) -> Result<Self> {
        if self.numel == 0 || !self.mapping.is_mapped() {
            return Ok(self.clone());
        }
        let last: usize = self.shape.iter().zip(&self.strides).map(|(extent, stride)| (extent - 1) * stride).sum();
        let bytes = self.mapping.read_at(self.offset..self.offset + (last + 1) * self.dtype.size())?.into_owned();
        Ok(Self { mapping: Arc::new(Mapping::from_vec(bytes, self.mapping.path())), offset: 0, ..self.clone() })
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
}
