//! The weights of a task on a device: immutable, as those in memory.

use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::arena::DeviceArena;
use super::inputs::{Inputs, PlacedTensor, TensorPlace, Tensors};
use super::layout::DeviceRelayout;
use crate::basis::CoefficientMatrix;
use crate::error::{Error, Result};
use crate::kernel::cuda::{CudaStream, Event, Queue};
use crate::tensor::{DType, f32_bytes_mut, try_zeroed};
use crate::weights::arena::{ArenaMemory, BufferPool};
use crate::weights::cache::Reconstructed;

/// The weights of one task expression in device memory: named tensors, of f32 or as a graph's layout has them. They
/// never change.
///
/// They are computed in a stream of their own, perhaps still when this value is there already. Code that reads them in
/// another stream calls [`DeviceWeights::wait_in`] before, and [`DeviceWeights::used_in`] after, unless the work has
/// ended by then.
pub struct DeviceWeights {
    /// `None` only in `drop`.
    arena: Mutex<Option<DeviceArena>>,
    /// The graph's layout, whose names, shapes and types the tensors have; `None` for canonical weights.
    layout: Option<Arc<DeviceRelayout>>,
    inputs: Arc<Inputs>,
    coefficients: CoefficientMatrix,
    address: u64,
    bytes: usize,
    ready: Arc<Event>,
    /// The pool that the arena goes to in the end.
    home: Weak<BufferPool<DeviceArena>>,
}

/// A tensor of [`DeviceWeights`], row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceTensor<'a> {
    /// The tensor's name: the canonical one, or the graph's.
    pub name: &'a str,
    /// The tensor's extents.
    pub shape: &'a [usize],
    /// The type of its elements: f32, or what the graph wants.
    pub dtype: DType,
    /// The address of the first element in device memory, a multiple of 256; in the device's primary context.
    pub address: u64,
}

impl DeviceTensor<'_> {
    /// The number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes that they take.
    pub fn nbytes(&self) -> usize {
        self.numel() * self.dtype.size()
    }
}

impl DeviceWeights {
    /// The weights that the work in [`Queue::Combine`] writes into the arena.
    pub(super) fn new(
        inputs: &Arc<Inputs>,
        layout: Option<&Arc<DeviceRelayout>>,
        coefficients: &CoefficientMatrix,
        arena: DeviceArena,
        ready: Arc<Event>,
        home: &Arc<BufferPool<DeviceArena>>,
    ) -> Self {
        Self {
            inputs: Arc::clone(inputs),
            layout: layout.cloned(),
            coefficients: coefficients.clone(),
            address: arena.address(),
            bytes: arena.nbytes(),
            arena: Mutex::new(Some(arena)),
            ready,
            home: Arc::downgrade(home),
        }
    }

    /// The coefficients that multiplied the basis vectors.
    pub fn coefficients(&self) -> &CoefficientMatrix {
        &self.coefficients
    }

    /// Every tensor, in the order of the base, or of the graph's inputs.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = DeviceTensor<'_>> {
        self.tensors().iter().map(|(name, held)| self.tensor(name, held))
    }

    /// The tensor called `name`; `None` where there is none, or it is no float.
    pub fn get(&self, name: &str) -> Option<DeviceTensor<'_>> {
        self.tensors().get_key_value(name).map(|(name, held)| self.tensor(name, held))
    }

    fn tensors(&self) -> &Tensors {
        self.layout.as_ref().map_or(&self.inputs.tensors, |layout| &layout.tensors)
    }

    fn tensor<'a>(&self, name: &'a str, held: &'a PlacedTensor) -> DeviceTensor<'a> {
        let address = match held.place {
            TensorPlace::Arena(at) => self.address + at,
            TensorPlace::Resident(address) => address,
        };
        DeviceTensor { name, shape: &held.shape, dtype: held.dtype, address }
    }

    /// Bytes of device memory that belong to these weights alone.
    pub fn nbytes(&self) -> usize {
        self.bytes
    }

    /// Makes the work that comes next in a stream wait until the weights are computed.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime), also for a stream of another device.
    pub fn wait_in(&self, stream: &CudaStream) -> Result<()> {
        // SAFETY: a stream lives as long as its `CudaStream`.
        unsafe { self.wait_in_raw(stream.as_raw()) }
    }

    /// Makes the next work wait, as [`DeviceWeights::wait_in`], in a stream that others made: a `CUstream`, or a
    /// `cudaStream_t`, as a number; 0 is the default stream.
    ///
    /// # Safety
    /// `stream` is 0 or a stream that has not been destroyed: the driver follows the number as a pointer.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime), also for a stream of another device.
    pub unsafe fn wait_in_raw(&self, stream: u64) -> Result<()> {
        self.ready.wait_on(Queue::Foreign(stream))
    }

    /// Says that the work that is in a stream now reads them: their memory is not used for others before it has ended.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime), also for a stream of another device.
    pub fn used_in(&self, stream: &CudaStream) -> Result<()> {
        // SAFETY: a stream lives as long as its `CudaStream`.
        unsafe { self.used_in_raw(stream.as_raw()) }
    }

    /// Notes a use, as [`DeviceWeights::used_in`], in a stream that others made, as [`DeviceWeights::wait_in_raw`]
    /// takes it.
    ///
    /// # Safety
    /// `stream` is 0 or a stream that has not been destroyed.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime), also for a stream of another device.
    pub unsafe fn used_in_raw(&self, stream: u64) -> Result<()> {
        let event = Arc::new(Event::record(&self.inputs.device, Queue::Foreign(stream))?);
        let mut arena = self.arena.lock();
        if let Some(arena) = arena.as_mut() {
            arena.used_until(Arc::clone(&event));
        }
        if let Some(layout) = &self.layout {
            layout.used_until(event);
        }
        Ok(())
    }

    /// Waits until they are computed.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime), where computing them failed.
    pub fn synchronize(&self) -> Result<()> {
        self.ready.synchronize()
    }

    /// The values of a tensor of f32, copied from the device: to look at, not to run with.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where there is none of that name;
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) for one of another type;
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub fn to_host(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = self.known(name)?;
        if tensor.dtype != DType::F32 {
            return Err(Error::unsupported("the tensor is not of f32")
                .tensor(name)
                .got(tensor.dtype)
                .hint("`bytes_to_host` copies any type"));
        }
        let mut values = try_zeroed::<f32>(tensor.numel())?;
        self.copy_out(tensor, f32_bytes_mut(&mut values))?;
        Ok(values)
    }

    /// A tensor's elements as bytes, little-endian, copied from the device.
    ///
    /// # Errors
    /// As [`DeviceWeights::to_host`], but of any type.
    pub fn bytes_to_host(&self, name: &str) -> Result<Vec<u8>> {
        let tensor = self.known(name)?;
        let mut bytes = try_zeroed::<u8>(tensor.nbytes())?;
        self.copy_out(tensor, &mut bytes)?;
        Ok(bytes)
    }

    fn known(&self, name: &str) -> Result<DeviceTensor<'_>> {
        self.get(name).ok_or_else(|| Error::not_found("there is no tensor of that name").tensor(name))
    }

    fn copy_out(&self, tensor: DeviceTensor<'_>, to: &mut [u8]) -> Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        self.inputs.device.copy_out(Queue::Combine, tensor.address, to)
    }
}

impl Reconstructed for DeviceWeights {
    type Memory = DeviceArena;

    fn nbytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for DeviceWeights {
    fn drop(&mut self) {
        let arena = self.arena.get_mut().take();
        // It remembers the work that uses it.
        match (self.home.upgrade(), arena) {
            (Some(spares), Some(arena)) => spares.keep(arena),
            (None, arena) => drop(arena),
            (Some(_), None) => {}
        }
    }
}

impl fmt::Debug for DeviceWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceWeights({:?}, {} bytes)", self.coefficients, self.bytes)
    }
}
