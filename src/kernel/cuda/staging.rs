//! Getting bytes onto a device: written into pinned memory, from where one piece is copied while the next is written.

use std::sync::Arc;

use super::device::{Device, Event, Pinned, Queue};
use crate::error::Result;

/// Two pieces of pinned memory, by turns.
#[derive(Debug)]
pub(crate) struct Staging {
    device: Arc<dyn Device>,
    queue: Queue,
    slots: [Slot; 2],
    next: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Slot {
    memory: Pinned,
    /// When it can be written again.
    copied: Option<Event>,
}

impl Staging {
    /// Of `bytes` bytes each, for copies in this queue, which has to outlive it.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub(crate) fn new(device: &Arc<dyn Device>, queue: Queue, bytes: usize) -> Result<Self> {
        let slot = || Ok(Slot { memory: Pinned::new(device, queue, bytes)?, copied: None });
        Ok(Self { device: Arc::clone(device), queue, slots: [slot()?, slot()?], next: 0, bytes })
    }

    /// Bytes of a piece.
    pub(crate) fn piece(&self) -> usize {
        self.bytes
    }

    /// Lets `fill` write a piece, and copies its first bytes, as many as it says, to the device. Their end is the
    /// event.
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

    /// Copies bytes, however many.
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
