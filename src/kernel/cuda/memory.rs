//! Resources of a device that are given back when they are dropped: memory, pinned memory of the host, points in
//! queues, and the two slots of pinned memory that bytes go to the device through.

use std::ptr::NonNull;
use std::sync::Arc;

use super::device::{Device, Queue};
use crate::error::Result;

/// Memory of a device. No work may use it any more when it is dropped.
#[derive(Debug)]
pub(crate) struct Memory {
    device: Arc<dyn Device>,
    address: u64,
    bytes: usize,
}

impl Memory {
    /// Allocates this many bytes, of any content.
    ///
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
// SAFETY: shared references only read it.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Allocates this many zeros, at least one.
    ///
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
    /// When there are fewer.
    pub(crate) fn copy_to(&self, to: u64, bytes: usize) -> Result<()> {
        // SAFETY: `alloc_pinned` gave `bytes` initialised bytes to this value alone, which nothing writes while `self`
        // is borrowed.
        let all = unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) };
        self.device.copy_in(self.queue, to, &all[..bytes])
    }

    /// Copies from the device to its start, once all that is in its queue now is done; waits for it.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    ///
    /// # Panics
    /// When there are fewer.
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
#[derive(Debug)]
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

    /// Makes the queue wait for the event before what comes next.
    pub(crate) fn wait_on(&self, queue: Queue) -> Result<()> {
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

/// Two slots of pinned memory, by turns: one is copied to the device while the next is written.
#[derive(Debug)]
pub(crate) struct Staging {
    device: Arc<dyn Device>,
    queue: Queue,
    slots: [PinnedSlot; 2],
    next: usize,
    bytes: usize,
}

#[derive(Debug)]
struct PinnedSlot {
    memory: Pinned,
    /// The event after which it can be written again.
    copied: Option<Event>,
}

impl Staging {
    /// Slots of `bytes` bytes each, for copies in this queue, which has to outlive them.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub(crate) fn new(device: &Arc<dyn Device>, queue: Queue, bytes: usize) -> Result<Self> {
        let slot = || Ok(PinnedSlot { memory: Pinned::new(device, queue, bytes)?, copied: None });
        Ok(Self { device: Arc::clone(device), queue, slots: [slot()?, slot()?], next: 0, bytes })
    }

    /// Bytes of a slot.
    pub(crate) fn slot_bytes(&self) -> usize {
        self.bytes
    }

    /// Lets `fill` write a slot, and copies its first bytes, as many as it says, to the device. The event is the copy's
    /// end.
    ///
    /// # Errors
    /// Those of `fill`; [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub(crate) fn send(&mut self, to: u64, fill: impl FnOnce(&mut [u8]) -> Result<usize>) -> Result<&Event> {
        let slot = &mut self.slots[self.next];
        self.next = 1 - self.next;
        if let Some(copied) = slot.copied.take() {
            copied.synchronize()?;
        }
        let bytes = fill(slot.memory.bytes_mut())?;
        slot.memory.copy_to(to, bytes)?;
        Ok(slot.copied.insert(Event::record(&self.device, self.queue)?))
    }

    /// Copies any number of bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`](crate::ErrorKind::Runtime).
    pub(crate) fn send_bytes(&mut self, mut to: u64, bytes: &[u8]) -> Result<()> {
        for some in bytes.chunks(self.bytes) {
            self.send(to, |out| {
                out[..some.len()].copy_from_slice(some);
                Ok(some.len())
            })?;
            to += some.len() as u64;
        }
        Ok(())
    }
}
