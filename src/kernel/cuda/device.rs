//! The operations of a device, by its bare handles: `driver.rs` does it on a GPU, `simulated.rs` in the memory of
//! tests.

use std::fmt;
use std::ptr::NonNull;

use super::launch::Launch;
use crate::error::Result;

/// A line in which work waits for its turn. Work of one queue is done in order; that of two is not, unless one waits
/// for an event of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Queue {
    /// Ours, for copies from the host.
    Copy,
    /// Ours, for the kernels.
    Combine,
    /// A stream that an encoder or a caller runs in (a `CUstream`, as a number).
    Foreign(u64),
}

/// The driver's information about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceInfo {
    pub(crate) name: String,
    /// The device's number, as the driver counts.
    pub(crate) ordinal: u32,
    /// The compute capability: 90 for 9.0.
    pub(crate) architecture: u32,
    pub(crate) multiprocessors: u32,
    /// The CUDA that its driver is for, major and minor.
    pub(crate) driver: (u32, u32),
}

/// A device. Calls put work into a queue and return, except where something else is said.
///
/// Addresses and streams are numbers here, and a driver follows them as pointers. What keeps them alive stands around
/// this trait: [`Memory`](super::Memory), [`Pinned`](super::Pinned), [`Event`](super::Event) and
/// [`CudaStream`](super::CudaStream) own what they name, and a foreign stream comes from a `CudaStream` or through an
/// `unsafe fn`.
///
/// # Safety
/// An implementation gives addresses of as many bytes as were asked for, which are in no other use until they are
/// freed; memory of the host is readable, writable and initialised. A copy from the host may read its source after
/// [`Device::copy_in`] has returned, up to [`Device::free_pinned`], which waits for it; a copy to the host has ended
/// when [`Device::copy_out`] returns.
pub(crate) unsafe trait Device: fmt::Debug + Send + Sync {
    fn info(&self) -> &DeviceInfo;

    /// A stream for work that is not ours: a `CUstream`, as a number, and what [`Queue::Foreign`] takes.
    fn new_stream(&self) -> Result<u64>;

    /// Gives back what [`Device::new_stream`] made, once all that is in it has ended.
    fn free_stream(&self, stream: u64);

    /// Bytes of memory that are free now, and all there are.
    fn memory(&self) -> Result<(usize, usize)>;

    /// The address of this many bytes, a multiple of 256; their content is arbitrary.
    fn alloc(&self, bytes: usize) -> Result<u64>;

    /// Frees what [`Device::alloc`] gave. No work that uses it may be left.
    fn free(&self, address: u64);

    /// Memory of the host that the device reads fast, and while the host does something else; zeros.
    fn alloc_pinned(&self, bytes: usize) -> Result<NonNull<u8>>;

    /// Frees what [`Device::alloc_pinned`] gave, after all that waits in the queue.
    fn free_pinned(&self, queue: Queue, start: NonNull<u8>, bytes: usize);

    /// Copies from pinned memory.
    fn copy_in(&self, queue: Queue, to: u64, from: &[u8]) -> Result<()>;

    /// Copies to the host once all that is in the queue now is done, and waits for it.
    fn copy_out(&self, queue: Queue, from: u64, to: &mut [u8]) -> Result<()>;

    /// Copies within the device's memory, in [`Queue::Combine`].
    fn copy_within(&self, from: u64, to: u64, bytes: usize) -> Result<()>;

    /// Runs a kernel, in [`Queue::Combine`].
    fn launch(&self, launch: &Launch) -> Result<()>;

    /// An event that happens when all that is in the queue now is done.
    fn record(&self, queue: Queue) -> Result<u64>;

    /// Makes the queue wait for the event before what comes after.
    fn wait(&self, queue: Queue, event: u64) -> Result<()>;

    /// Whether the event has happened.
    fn has_happened(&self, event: u64) -> Result<bool>;

    /// Waits for the event.
    fn synchronize(&self, event: u64) -> Result<()>;

    fn free_event(&self, event: u64);
}
