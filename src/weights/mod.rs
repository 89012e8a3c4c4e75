//! Weights: immutable values, always computed from the untouched base.
//!
//! `weights = base + Σ_m a_m·s_m`, in one pass over what changes. What does not change is a view of the base.

mod arena;
mod cache;
#[allow(unsafe_code)] // A contract with the streams of a GPU.
mod device;
mod finite;
mod lay_out;
mod layout;
mod model;
mod parts;
mod plan;
mod save;

use std::ops::Range;
use std::sync::atomic::AtomicBool;

use indexmap::IndexMap;

use self::arena::Arena;
pub(crate) use self::cache::{CacheLease, Derived, Holder, Key, Owner};
pub use self::cache::{CacheStats, Reconstructed, WeightsCache};
pub use self::device::{DeviceModel, DeviceOptions, DeviceStats, DeviceTensor, DeviceWeights};
pub(crate) use self::finite::{first_of, not_finite};
pub use self::layout::{LaidOut, Layout, View};
pub use self::model::{Model, ModelOptions, TaskWeights};
pub(crate) use self::parts::Ring;
pub(crate) use self::plan::check_models;
pub use self::save::save_arrays;
use crate::basis::{Basis, Coefficients, TaskExpr};
use crate::checkpoint::Checkpoint;
use crate::did_you_mean;
use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::tensor::{DType, Tensor, f32_bytes};

/// Which parameters weights are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Those of the image tower (`visual.…`): all that an encoder needs.
    #[default]
    ImageTower,
    /// Every parameter that the base holds.
    All,
}

/// How to reconstruct; `default()` is right nearly always.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReconstructOptions<'a> {
    /// Which parameters.
    pub scope: Scope,
    /// Threads; 0 means one a processor. The result is the same, bit for bit, whatever their number.
    pub threads: usize,
    /// The kernel; `None` means the fastest that this machine has, or the one that `TASKBASIS_KERNEL` names.
    pub kernel: Option<Kernel>,
    /// Calls it off: once this is true, reconstruction ends soon with
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
    pub cancel: Option<&'a AtomicBool>,
}

/// The weights of one task expression, or a task vector: named tensors of f32. They never change.
#[derive(Debug)]
pub struct Weights {
    coefficients: Coefficients,
    tensors: IndexMap<String, Entry>,
    arena: Arena,
    /// The [`Layout::id`] of the layout that they are in, where it is a graph's. It does not hold the layout, which is
    /// to go with the last who asks for weights in it.
    layout: Option<u64>,
}

#[derive(Debug)]
struct Entry {
    shape: Vec<usize>,
    /// Of what lies in the arena.
    dtype: DType,
    place: Place,
}

/// Where a tensor lives.
#[derive(Debug)]
enum Place {
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
    /// Not a float: carried over from the base as it is.
    Carried(&'a Tensor),
    /// Floats of another type, as a graph's layout wants them: their bytes, little-endian.
    Cast(DType, &'a [u8]),
}

impl Weights {
    /// The weights of `expr`: `base + Σ_m a_m·s_m`, with the coefficients a that the basis gives for it.
    ///
    /// # Errors
    /// What [`Basis::coefficients`] says of the expression; [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch),
    /// naming the tensor, where base and basis are not of one model;
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub fn reconstruct(
        base: &Checkpoint,
        basis: &Basis,
        expr: &TaskExpr,
        options: &ReconstructOptions<'_>,
    ) -> Result<Self> {
        Self::from_coefficients(base, basis, &basis.coefficients(expr)?, options)
    }

    /// The weights that these coefficients give.
    ///
    /// # Errors
    /// As [`Weights::reconstruct`]; [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a number of
    /// coefficients that is not M, or one that is not finite.
    pub fn from_coefficients(
        base: &Checkpoint,
        basis: &Basis,
        coefficients: &Coefficients,
        options: &ReconstructOptions<'_>,
    ) -> Result<Self> {
        plan::with_base(base, basis, coefficients, options.scope)?.run(options)
    }

    /// The base's own weights; nothing is computed where the base is f32.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub fn of_base(base: &Checkpoint, options: &ReconstructOptions<'_>) -> Result<Self> {
        plan::base_alone(base, options.scope).run(options)
    }

    /// The combined task vector `Σ_m a_m·s_m`, without a base.
    ///
    /// # Errors
    /// As [`Weights::from_coefficients`].
    pub fn task_vector(basis: &Basis, coefficients: &Coefficients, options: &ReconstructOptions<'_>) -> Result<Self> {
        plan::vector_alone(basis, coefficients, options.scope)?.run(options)
    }

    /// What multiplied the basis vectors.
    pub fn coefficients(&self) -> &Coefficients {
        &self.coefficients
    }

    /// The f32 values of a tensor in row-major order; `None` where there is none of that name, or it is no float.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        match self.values(self.tensors.get(name)?) {
            Values::F32(values) => Some(values),
            Values::Carried(_) | Values::Cast(..) => None,
        }
    }

    /// Whether the tensors have the names, shapes and types of this layout of a graph, instead of the canonical ones.
    pub fn is_in(&self, layout: &Layout) -> bool {
        self.layout == Some(layout.id())
    }

    /// The extents of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| entry.shape.as_slice())
    }

    /// Every tensor: name, extents, values.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &[usize], Values<'_>)> {
        self.tensors.iter().map(|(name, entry)| (name.as_str(), entry.shape.as_slice(), self.values(entry)))
    }

    /// The tensor at `index`, in the order of [`Weights::iter`].
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when there are not so many.
    pub fn at(&self, index: usize) -> Result<(&str, &[usize], Values<'_>)> {
        let (name, entry) = self.tensors.get_index(index).ok_or_else(|| {
            Error::not_found("there is no tensor of that index")
                .expected(format_args!("an index below {}", self.tensors.len()))
                .got(index)
        })?;
        Ok((name, &entry.shape, self.values(entry)))
    }

    /// Where the tensor called `name` stands in the order of [`Weights::iter`].
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound), with the nearest name.
    pub fn index_of(&self, name: &str) -> Result<usize> {
        let known = self.tensors.keys().map(String::as_str);
        self.tensors.get_index_of(name).ok_or_else(|| did_you_mean::unknown("tensor", name, known))
    }

    /// How many tensors.
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

    fn values<'a>(&'a self, entry: &'a Entry) -> Values<'a> {
        match &entry.place {
            Place::Arena(place) if entry.dtype == DType::F32 => Values::F32(self.arena.slice(place.clone())),
            Place::Arena(place) => {
                let length = entry.shape.iter().product::<usize>() * entry.dtype.size();
                Values::Cast(entry.dtype, &f32_bytes(self.arena.slice(place.clone()))[..length])
            }
            Place::Base(tensor) => match (tensor.as_f32(), tensor.bytes()) {
                (Some(values), _) => Values::F32(values),
                (None, Some(bytes)) if self.layout.is_some() => Values::Cast(tensor.dtype(), bytes),
                _ => Values::Carried(tensor),
            },
        }
    }
}
