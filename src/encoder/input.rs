//! Tensors that a run reads where they are.

use ort::memory::MemoryInfo;

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
    /// Floats of this type in the memory of a device.
    Device(DType, OnDevice<'a>),
}

impl<'a> Elements<'a> {
    /// Where it lies in a device's memory, if it does.
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
            #[cfg(feature = "text")]
            Self::I64(_) => &[],
            Self::Device(..) => &[],
        }
    }
}

/// Where values lie in a device's memory.
#[derive(Clone, Copy)]
pub(super) struct OnDevice<'a> {
    pub(super) address: u64,
    pub(super) memory: &'a MemoryInfo<'static>,
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
