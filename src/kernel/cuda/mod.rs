//! The kernels on a GPU: combine, with the bits of `scalar.rs`, where the encoder will read them; and relayout, which
//! puts weights into the layout of a user's graph.
//!
//! # Where to read
//! `combine.cu` and `relayout.cu` are the kernels, in CUDA C; `kernels.ptx` is what NVRTC has made of them
//! (`scripts/make-ptx`), and what the driver is given. `tiles.rs` says how inputs lie in device memory, `launch.rs`
//! what a launch is told, `rows.rs` what it is told where parameters have coefficients of their own. `device.rs` is
//! what is asked of a device, `memory.rs` what is owned on one, `driver.rs` the one that is a GPU, and `simulated.rs`
//! the one that tests have, which runs the kernels' source as C++.

#[cfg(test)]
#[path = "../../../tests/cuda_host/mod.rs"]
pub(crate) mod cuda_host;
mod device;
#[cfg(feature = "cuda")]
mod driver;
mod launch;
mod memory;
mod rows;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;
pub(crate) mod tiles;

use std::sync::Arc;
use std::time::Instant;

pub(crate) use device::{Device, Queue};
pub(crate) use launch::{Launch, Segment, StridedPart, Table};
pub(crate) use memory::{Event, Memory, Pinned, Staging};
pub(crate) use rows::{AddedTerms, row_bytes};
#[cfg(test)]
pub(crate) use simulated::SimulatedDevice;

use crate::error::Result;

/// A GPU that weights can be reconstructed on; [`DeviceModel`](crate::weights::DeviceModel) does.
///
/// It lives in the GPU's primary context, as everything that uses the CUDA runtime in this process.
#[derive(Clone, Debug)]
pub struct Cuda {
    device: Arc<dyn Device>,
}

impl Cuda {
    /// The GPU of this number, as the CUDA driver counts them; the first is 0.
    ///
    /// Opening it again, while it is in use, gives the same one. Only NVIDIA's driver is needed: it makes machine code
    /// of the kernels the first time, and keeps it (`docs/gpu.md`).
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) where this library was built without the feature
    /// `cuda`, and for a GPU of a compute capability below 7.5;
    /// [`ErrorKind::RuntimeMissing`](crate::ErrorKind::RuntimeMissing) without a driver, or one for CUDA 11.4 or newer,
    /// or without a GPU; [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for a number beyond the last;
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime) with the words of the driver.
    pub fn open(ordinal: usize) -> Result<Self> {
        #[cfg(feature = "cuda")]
        return Ok(Self { device: driver::open(ordinal)? });
        #[cfg(not(feature = "cuda"))]
        return Err(crate::Error::unsupported(format!(
            "GPU {ordinal} cannot be used: built without the feature `cuda`"
        ))
        .hint("Build with `--features cuda`"));
    }

    /// The device's name, as the driver calls it.
    pub fn name(&self) -> &str {
        &self.device.info().name
    }

    /// The device's compute capability, major and minor.
    pub fn compute_capability(&self) -> (u32, u32) {
        let architecture = self.device.info().architecture;
        (architecture / 10, architecture % 10)
    }

    /// The CUDA that its driver is for, major and minor: the newest that can run on it.
    pub fn driver_version(&self) -> (u32, u32) {
        self.device.info().driver
    }

    /// Bytes of its memory that are free now, and all there are.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.device.memory()
    }

    /// A stream of its own, to run something in.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub fn stream(&self) -> Result<CudaStream> {
        Ok(CudaStream { device: Arc::clone(&self.device), raw: self.device.new_stream()? })
    }

    /// Bytes per second that are read and written by copies of `bytes` bytes within its memory: the yardstick of
    /// reconstruction.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory) without room for twice as many bytes;
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub fn copy_bandwidth(&self, bytes: usize) -> Result<f64> {
        const COPIES: u32 = 20;

        let (from, to) = (Memory::new(&self.device, bytes)?, Memory::new(&self.device, bytes)?);
        let copy = |times: u32| {
            let began = Instant::now();
            let copies: Result<()> =
                (0..times).try_for_each(|_| self.device.copy_within(from.address(), to.address(), bytes));
            // Before the memory is freed, whatever failed.
            Event::record(&self.device, Queue::Combine)?.synchronize()?;
            copies.map(|()| began.elapsed())
        };
        copy(1)?;
        Ok(2.0 * bytes as f64 * f64::from(COPIES) / copy(COPIES)?.as_secs_f64())
    }

    pub(crate) fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// The GPU that something was brought to.
    pub(crate) fn on(device: &Arc<dyn Device>) -> Self {
        Self { device: Arc::clone(device) }
    }

    /// Whether both are the same device.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.ordinal() == other.ordinal()
    }

    /// The device's number, as [`Cuda::open`] takes it.
    pub(crate) fn ordinal(&self) -> u32 {
        self.device.info().ordinal
    }

    /// A device of the tests.
    #[cfg(test)]
    pub(crate) fn of(device: Arc<SimulatedDevice>) -> Self {
        Self { device }
    }
}

/// A stream of a GPU, in its primary context: what is put into it is done in order. ONNX Runtime can run in it
/// (`user_compute_stream` of its CUDA provider). Dropping it waits for all that is in it.
#[derive(Debug)]
pub struct CudaStream {
    device: Arc<dyn Device>,
    raw: u64,
}

impl CudaStream {
    /// The `CUstream`, which is a `cudaStream_t` too, as a number: for what runs in it beside taskbasis.
    pub fn as_raw(&self) -> u64 {
        self.raw
    }

    /// Waits for all that is in it.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime), where some of it failed.
    pub fn synchronize(&self) -> Result<()> {
        Event::record(&self.device, Queue::Foreign(self.raw))?.synchronize()
    }
}

impl Drop for CudaStream {
    fn drop(&mut self) {
        self.device.free_stream(self.raw);
    }
}
