//! Tensors that a run reads where they are.

use std::ffi::{CString, c_char, c_void};

use half::{bf16, f16};
use ort::AsPointer;
use ort::memory::MemoryInfo;
use ort::value::{DynValueRef, PrimitiveTensorElementType, Shape, TensorRef, TensorRefMut};

use super::ort_error::failed;
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::{DType, f32_bytes};

/// A tensor of the caller's: name, shape and values. The values are read in place, not copied.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) name: &'a str,
    pub(super) shape: &'a [usize],
    pub(super) values: Elements<'a>,
}

/// Values, of the type that the graph takes.
#[derive(Clone, Copy)]
pub(super) enum Elements<'a> {
    F32(&'a [f32]),
    /// Indices.
    #[cfg(feature = "text")]
    I64(&'a [i64]),
    /// Little-endian bytes at an address that the type may have.
    Other(DType, &'a [u8]),
    /// Packed weights, aligned as they have to be: a tensor of bytes, as long as they are, whatever its shape says.
    Packed(&'a [u8]),
    /// Floats of this type in the memory of a device.
    Device(DType, OnDevice<'a>),
}

impl<'a> Elements<'a> {
    /// The input's address in a device's memory, if it lies there.
    pub(super) fn address(&self) -> Option<u64> {
        match self {
            Self::Device(_, place) => Some(place.address),
            _ => None,
        }
    }

    /// The bytes of floats in the host's memory; none of others.
    pub(super) fn bytes(&self) -> &'a [u8] {
        match *self {
            Self::F32(values) => f32_bytes(values),
            Self::Other(_, bytes) => bytes,
            Self::Packed(_) => &[],
            #[cfg(feature = "text")]
            Self::I64(_) => &[],
            Self::Device(..) => &[],
        }
    }
}

/// The place of values in a device's memory.
#[derive(Clone, Copy)]
pub(super) struct OnDevice<'a> {
    address: u64,
    memory: &'a MemoryInfo<'static>,
}

impl<'a> OnDevice<'a> {
    /// # Safety
    /// At `address`, of memory that is `memory`, there have to be as many values of the type that is said with it as
    /// the [`Input`] or output has elements, during every run of it and until its session's stream has come past that.
    /// What an output is written to must not be read or written by others meanwhile.
    pub(super) unsafe fn new(address: u64, memory: &'a MemoryInfo<'static>) -> Self {
        Self { address, memory }
    }
}

/// Tensors by name, as ONNX Runtime takes them.
pub(super) struct Tensors<'a>(Vec<(CString, DynValueRef<'a>)>);

impl<'a> Tensors<'a> {
    pub(super) fn of(inputs: impl IntoIterator<Item = Input<'a>>) -> Result<Self> {
        let tensor = |input: Input<'a>| {
            let name = CString::new(input.name).map_err(|_| Error::invalid("a NUL in a name").tensor(input.name))?;
            Ok((name, view(&input)?))
        };
        inputs.into_iter().map(tensor).collect::<Result<_>>().map(Self)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn names(&self) -> Vec<*const c_char> {
        self.0.iter().map(|(name, _)| name.as_ptr()).collect()
    }

    pub(super) fn values(&self) -> Vec<*const ort::sys::OrtValue> {
        self.0.iter().map(|(_, value)| value.ptr()).collect()
    }
}

/// A view of the caller's memory: ONNX Runtime takes the pointer as it is.
pub(super) fn view<'a>(input: &Input<'a>) -> Result<DynValueRef<'a>> {
    fn here<'a, T: PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static>(
        shape: &'a [usize],
        bytes: &'a [u8],
    ) -> Result<DynValueRef<'a>> {
        // SAFETY: the types that this is called with are plain numbers of which every bit pattern is one.
        let (before, values, after) = unsafe { bytes.align_to::<T>() };
        if !before.is_empty() || !after.is_empty() {
            return Err(Error::new(ErrorKind::Internal, "weights are not aligned"));
        }
        Ok(TensorRef::from_array_view((shape, values)).map_err(failed("cannot make a view"))?.into_dyn())
    }
    /// A tensor in a device's memory.
    fn there<'a, T: PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static>(
        shape: &[usize],
        OnDevice { address, memory }: OnDevice<'a>,
    ) -> Result<DynValueRef<'a>> {
        let shape: Shape = shape.iter().map(|&extent| extent as i64).collect();
        let start = std::ptr::with_exposed_provenance_mut::<c_void>(address as usize);
        // SAFETY: `OnDevice::new` demands that the values are there, and lets the output of a run be written to.
        let tensor = unsafe { TensorRefMut::<T>::from_raw(memory.clone(), start, shape) };
        tensor.map_err(failed("cannot make a view")).map(|tensor| tensor.into_dyn().into())
    }
    let made = match input.values {
        Elements::F32(values) => TensorRef::from_array_view((input.shape, values))
            .map_err(failed("cannot make a view"))
            .map(TensorRef::into_dyn),
        #[cfg(feature = "text")]
        Elements::I64(values) => TensorRef::from_array_view((input.shape, values))
            .map_err(failed("cannot make a view"))
            .map(TensorRef::into_dyn),
        Elements::Packed(bytes) => TensorRef::from_array_view(([bytes.len()], bytes))
            .map_err(failed("cannot make a view"))
            .map(TensorRef::into_dyn),
        Elements::Other(DType::F16, bytes) => here::<f16>(input.shape, bytes),
        Elements::Other(DType::BF16, bytes) => here::<bf16>(input.shape, bytes),
        Elements::Other(DType::F64, bytes) => here::<f64>(input.shape, bytes),
        Elements::Other(DType::F32, bytes) => here::<f32>(input.shape, bytes),
        Elements::Device(DType::F32, place) => there::<f32>(input.shape, place),
        Elements::Device(DType::F16, place) => there::<f16>(input.shape, place),
        Elements::Device(DType::BF16, place) => there::<bf16>(input.shape, place),
        Elements::Device(DType::F64, place) => there::<f64>(input.shape, place),
        Elements::Other(dtype, _) | Elements::Device(dtype, _) => {
            Err(Error::unsupported("weights are floats").got(dtype))
        }
    };
    made.map_err(|e| e.tensor(input.name))
}
