//! The weights of a task on a device: immutable, as those in memory.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::arena::DeviceArena;
use super::inputs::{Inputs, Place};
use crate::basis::Coefficients;
use crate::error::{Error, Result};
use crate::kernel::cuda::{Event, Queue};
use crate::tensor::try_zeroed;
use crate::weights::Reconstructed;
use crate::weights::arena::{ArenaMemory, Spares};

/// The weights of one task expression in device memory: named tensors of f32. They never change.
///
/// They are computed in a stream of their own, perhaps still when this value is there already. Whoever reads them in
/// another stream calls [`DeviceWeights::wait_in`] before, and [`DeviceWeights::used_in`] after, unless the work has
/// ended by then.
pub struct DeviceWeights {
    inputs: Arc<Inputs>,
    coefficients: Coefficients,
    /// `None` only in `drop`.
    arena: Mutex<Option<DeviceArena>>,
    address: u64,
    bytes: usize,
    ready: Arc<Event>,
    /// Where the arena goes when nobody needs it any more.
    home: Weak<Spares<DeviceArena>>,
}

/// A tensor of some [`DeviceWeights`]: f32, row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceTensor<'a> {
    /// Its canonical name.
    pub name: &'a str,
    /// Its extents.
    pub shape: &'a [usize],
    /// Where its first element lies in device memory, a multiple of 256; in the device's primary context.
    pub address: u64,
}

impl DeviceTensor<'_> {
    /// How many elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }
}

impl DeviceWeights {
    /// Those that the work in [`Queue::Combine`] writes into the arena.
    pub(super) fn new(
        inputs: &Arc<Inputs>,
        coefficients: &Coefficients,
        arena: DeviceArena,
        ready: Arc<Event>,
        home: &Arc<Spares<DeviceArena>>,
    ) -> Self {
        Self {
            inputs: Arc::clone(inputs),
            coefficients: coefficients.clone(),
            address: arena.address(),
            bytes: arena.nbytes(),
            arena: Mutex::new(Some(arena)),
            ready,
            home: Arc::downgrade(home),
        }
    }

    /// What multiplied the basis vectors.
    pub fn coefficients(&self) -> &Coefficients {
        &self.coefficients
    }

    /// Every tensor, in the order of the base.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = DeviceTensor<'_>> {
        self.inputs.tensors().map(|(name, shape, place)| DeviceTensor { name, shape, address: self.at(place) })
    }

    /// The tensor called `name`; `None` where there is none, or it is no float.
    pub fn get(&self, name: &str) -> Option<DeviceTensor<'_>> {
        let (name, shape, place) = self.inputs.tensor(name)?;
        Some(DeviceTensor { name, shape, address: self.at(place) })
    }

    fn at(&self, place: Place) -> u64 {
        match place {
            Place::Arena(at) => self.address + at,
            Place::Resident(address) => address,
        }
    }

    /// Bytes of device memory that belong to these weights alone.
    pub fn nbytes(&self) -> usize {
        self.bytes
    }

    /// Has the work that comes next in a stream wait until they are computed. `stream` is a `CUstream` of the same
    /// device, or a `cudaStream_t`, as a number.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub fn wait_in(&self, stream: u64) -> Result<()> {
        self.ready.hold_up(Queue::Foreign(stream))
    }

    /// Says that the work that is in a stream now reads them: their memory is not used for others before it has ended.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub fn used_in(&self, stream: u64) -> Result<()> {
        let event = Event::record(&self.inputs.device, Queue::Foreign(stream))?;
        let mut arena = self.arena.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(arena) = arena.as_mut() {
            // Those that have happened say nothing any more. One that cannot be asked stays.
            arena.uses.retain(|event| !event.has_happened().unwrap_or(false));
            arena.uses.push(Arc::new(event));
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

    /// A tensor's values, copied from the device: to look at, not to run with.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) where there is none of that name;
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub fn to_host(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = self.get(name).ok_or_else(|| Error::not_found("there is no tensor of that name").tensor(name))?;
        let mut values = try_zeroed::<f32>(tensor.numel())?;
        let bytes = crate::tensor::f32_bytes_mut(&mut values);
        self.inputs.device.copy_out(Queue::Combine, tensor.address, bytes)?;
        Ok(values)
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
        let arena = self.arena.get_mut().unwrap_or_else(PoisonError::into_inner).take();
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
