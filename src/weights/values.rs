//! Weights as values: named tensors that never change.

use std::ops::Range;

use indexmap::IndexMap;

use super::arena::Arena;
use crate::basis::CoefficientMatrix;
use crate::did_you_mean;
use crate::error::{Error, Result};
use crate::kernel::linear::PackedLayout;
use crate::tensor::{DType, Tensor, f32_bytes};

/// The weights of one task expression, or a task vector: named tensors of f32. They never change.
#[derive(Debug)]
pub struct Weights {
    pub(super) coefficients: CoefficientMatrix,
    pub(super) tensors: IndexMap<String, StoredTensor>,
    pub(super) arena: Arena,
    /// The [`Layout::id`] of the layout that they are in. It does not hold the layout, which is to go with the last who
    /// asks for weights in it.
    pub(super) layout: u64,
}

#[derive(Debug)]
pub(super) struct StoredTensor {
    pub(super) shape: Vec<usize>,
    pub(super) dtype: DType,
    pub(super) packed: Option<PackedLayout>,
    pub(super) memory: TensorMemory,
}

/// The memory that a tensor lives in.
#[derive(Debug)]
pub(super) enum TensorMemory {
    /// Computed, in the arena.
    Arena(Range<usize>),
    /// Unchanged: the base's own bytes.
    Base(Tensor),
}

/// A tensor of some [`Weights`].
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// f32, row-major.
    F32(&'a [f32]),
    /// A tensor that is no float, carried over from the base as it is.
    Carried(&'a Tensor),
    /// Floats of another type, as a graph's layout wants them: their bytes, little-endian.
    Cast(DType, &'a [u8]),
    /// A matrix as the linear kernel reads it, in memory alone.
    Packed(PackedLayout, &'a [u8]),
}

impl Weights {
    /// The coefficients that multiplied the basis vectors.
    pub fn coefficients(&self) -> &CoefficientMatrix {
        &self.coefficients
    }

    /// The f32 values of a tensor in row-major order; `None` where there is none of that name, or it is no float.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        match self.values(self.tensors.get(name)?) {
            Values::F32(values) => Some(values),
            Values::Carried(_) | Values::Cast(..) | Values::Packed(..) => None,
        }
    }

    /// The extents of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| tensor.shape.as_slice())
    }

    /// Every tensor: name, extents, values.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &[usize], Values<'_>)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.shape.as_slice(), self.values(tensor)))
    }

    /// The tensor at `index`, in the order of [`Weights::iter`].
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where the index is beyond the last.
    pub fn at(&self, index: usize) -> Result<(&str, &[usize], Values<'_>)> {
        let (name, tensor) = self.tensors.get_index(index).ok_or_else(|| {
            Error::not_found("there is no tensor of that index")
                .expected(format_args!("an index below {}", self.tensors.len()))
                .got(index)
        })?;
        Ok((name, &tensor.shape, self.values(tensor)))
    }

    /// The place of the tensor called `name` in the order of [`Weights::iter`].
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound), with the nearest name.
    pub fn index_of(&self, name: &str) -> Result<usize> {
        let known = self.tensors.keys().map(String::as_str);
        self.tensors.get_index_of(name).ok_or_else(|| did_you_mean::unknown("tensor", name, known))
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no tensor at all.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Bytes of memory that belong to these weights alone (views of the base are not counted).
    pub fn nbytes(&self) -> usize {
        self.arena.nbytes()
    }

    pub(super) fn values<'a>(&'a self, tensor: &'a StoredTensor) -> Values<'a> {
        if let (TensorMemory::Arena(place), Some(packed)) = (&tensor.memory, tensor.packed) {
            return Values::Packed(packed, &f32_bytes(self.arena.slice(place.clone()))[..packed.nbytes()]);
        }
        match &tensor.memory {
            TensorMemory::Arena(place) if tensor.dtype == DType::F32 => Values::F32(self.arena.slice(place.clone())),
            TensorMemory::Arena(place) => {
                let length = tensor.shape.iter().product::<usize>() * tensor.dtype.size();
                Values::Cast(tensor.dtype, &f32_bytes(self.arena.slice(place.clone()))[..length])
            }
            TensorMemory::Base(view) => match (view.as_f32(), view.bytes()) {
                (Some(values), _) => Values::F32(values),
                (None, Some(bytes)) if view.dtype().is_float() => Values::Cast(view.dtype(), bytes),
                _ => Values::Carried(view),
            },
        }
    }
}
