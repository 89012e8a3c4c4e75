//! What a device does for us, and what is owned on it. The driver does it on a GPU (`driver.rs`), the tests in memory
//! (`host.rs`).

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use super::lay_out::LayOut;
use super::table::Launch;
use crate::error::Result;

/// A device's architecture, as its compute capability: 90 for 9.0.
pub(crate) type Architecture = u32;

/// Where work waits for its turn. Work of one queue is done in order; that of two is not, unless one waits for an event
/// of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Queue {
    /// Ours, for copies from the host.
    Copy,
    /// Ours, for the kernel.
    Combine,
    /// Somebody else's stream (a `CUstream`, as a number): that which an encoder runs on.
    Foreign(u64),
}

/// What kind of device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Info {
    pub(crate) name: String,
    /// As the driver counts.
    pub(crate) ordinal: u32,
    pub(crate) architecture: Architecture,
    pub(crate) multiprocessors: u32,
    /// The CUDA that its driver is for, major and minor.
    pub(crate) driver: (u32, u32),
}

/// A device, by its bare handles; [`Memory`], [`Pinned`] and [`Event`] own them. Calls only put work into a queue,
/// except where something else is said.
///
/// Addresses and streams are numbers here, and a driver follows them as pointers. What keeps them alive stands around
/// this trait: [`Memory`], [`Pinned`], [`Event`] and [`CudaStream`](super::CudaStream) own what they name, and a foreign
/// stream comes from a `CudaStream` or through an `unsafe fn`.
///
/// # Safety
/// An implementation gives addresses of as many bytes as were asked for, which are in no other use until they are
/// freed; memory of the host is readable, writable and initialised. A copy from the host may read its source after
/// [`Device::copy_in`] has returned, up to [`Device::free_pinned`], which waits for it; a copy to the host has ended
/// when [`Device::copy_out`] returns.
pub(crate) unsafe trait Device: fmt::Debug + Send + Sync {
    fn info(&self) -> &Info;

    /// A stream for somebody else: a `CUstream`, as a number, and what [`Queue::Foreign`] takes.
    fn new_stream(&self) -> Result<u64>;

    /// Gives back what [`Device::new_stream`] made, once all that is in it has ended.
    fn free_stream(&self, stream: u64);

    /// Bytes of memory that are free now, and all there are.
    fn memory(&self) -> Result<(usize, usize)>;

    /// The address of so many bytes, a multiple of 256; their content is arbitrary.
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

    /// Runs the kernel, in [`Queue::Combine`].
    fn combine(&self, launch: &Launch) -> Result<()>;

    /// Runs the kernel that puts tensors into a layout, in [`Queue::Combine`].
    fn lay_out(&self, launch: &LayOut) -> Result<()>;

    /// An event that happens when all that is in the queue now is done.
    fn record(&self, queue: Queue) -> Result<u64>;

    /// Has the queue wait for the event before what comes after.
    fn wait(&self, queue: Queue, event: u64) -> Result<()>;

    /// Whether the event has happened.
    fn has_happened(&self, event: u64) -> Result<bool>;

    /// Waits for the event.
    fn synchronize(&self, event: u64) -> Result<()>;

    fn free_event(&self, event: u64);
}

/// Memory of a device. Whoever drops it knows that no work uses it any more.
pub(crate) struct Memory {
    device: Arc<dyn Device>,
    address: u64,
    bytes: usize,
}

impl Memory {
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub(crate) fn new(device: &Arc<dyn Device>, bytes: usize) -> Result<Self> {
        // No device gives no bytes.
        let address = if bytes == 0 { 0 } else { device.alloc(bytes)? };
        Ok(Self { device: Arc::clone(device), address, bytes })
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn nbytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.device.free(self.address);
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} bytes at {:#x})", self.bytes, self.address)
    }
}

/// Memory of the host which copies of one queue read or write.
#[derive(Debug)]
pub(crate) struct Pinned {
    device: Arc<dyn Device>,
    queue: Queue,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it is memory like any other, owned by this value alone.
unsafe impl Send for Pinned {}
// SAFETY: as above; shared references only read it.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub(crate) fn new(device: &Arc<dyn Device>, queue: Queue, bytes: usize) -> Result<Self> {
        let bytes = bytes.max(1);
        Ok(Self { device: Arc::clone(device), queue, start: device.alloc_pinned(bytes)?, bytes })
    }

    /// The bytes, to be written. What was copied from here before has to be at its end, or the device receives what is
    /// written now: wrong values, though nothing of this process is harmed. An event says when that is.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `alloc_pinned` gave `bytes` initialised bytes to this value alone, and `self` is borrowed. The device
        // only reads them, for copies that were put into a queue before.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }

    /// Copies the first `bytes` bytes to the device, in its queue.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    ///
    /// # Panics
    /// When there are not so many.
    pub(crate) fn copy_to(&self, to: u64, bytes: usize) -> Result<()> {
        // SAFETY: as above, and nobody writes while `self` is borrowed.
        let all = unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) };
        self.device.copy_in(self.queue, to, &all[..bytes])
    }

    /// Copies from the device to its start, once all that is in its queue now is done; waits for it.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    ///
    /// # Panics
    /// When there are not so many bytes.
    pub(crate) fn copy_from(&mut self, from: u64, bytes: usize) -> Result<&[u8]> {
        let (device, queue) = (Arc::clone(&self.device), self.queue);
        let here = &mut self.bytes_mut()[..bytes];
        device.copy_out(queue, from, here)?;
        Ok(here)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.device.free_pinned(self.queue, self.start, self.bytes);
    }
}

/// A point in a queue.
pub(crate) struct Event {
    device: Arc<dyn Device>,
    raw: u64,
}

impl Event {
    /// The end of all that is in the queue now.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime), in all its functions.
    pub(crate) fn record(device: &Arc<dyn Device>, queue: Queue) -> Result<Self> {
        Ok(Self { device: Arc::clone(device), raw: device.record(queue)? })
    }

    /// Has the queue wait for it.
    pub(crate) fn hold_up(&self, queue: Queue) -> Result<()> {
        self.device.wait(queue, self.raw)
    }

    pub(crate) fn has_happened(&self) -> Result<bool> {
        self.device.has_happened(self.raw)
    }

    /// Waits for it.
    pub(crate) fn synchronize(&self) -> Result<()> {
        self.device.synchronize(self.raw)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.device.free_event(self.raw);
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({:#x})", self.raw)
    }
}
