//! Device memory for weights, within a budget, and used again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::cuda::{Device, Event, Memory};
use crate::weights::arena::ArenaMemory;

/// How much memory weights take on a device, all together: kept, spare, and held by whoever runs with them.
#[derive(Debug)]
pub(super) struct Allowance {
    pub(super) limit: usize,
    taken: AtomicUsize,
}

impl Allowance {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: AtomicUsize::new(0) })
    }

    /// Bytes that are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

/// Memory for the weights of a task.
#[derive(Debug)]
pub struct DeviceArena {
    memory: Memory,
    /// The ends of all work that uses it.
    pub(super) uses: Vec<Arc<Event>>,
    allowance: Arc<Allowance>,
}

impl DeviceArena {
    /// Fresh memory.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`] where the allowance has no room, or the device.
    pub(super) fn new(device: &Arc<dyn Device>, bytes: usize, allowance: &Arc<Allowance>) -> Result<Self> {
        let more = |taken: usize| taken.checked_add(bytes).filter(|&all| all <= allowance.limit);
        if allowance.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            return Err(Error::new(ErrorKind::OutOfMemory, "the budget of device memory is taken by weights in use")
                .expected(format_args!("room for {bytes} bytes in {}", allowance.limit))
                .got(format_args!("{} bytes in use", allowance.taken()))
                .hint("Let go of weights that no longer run, or raise the budget"));
        }
        match Memory::new(device, bytes) {
            Ok(memory) => Ok(Self { memory, uses: Vec::new(), allowance: Arc::clone(allowance) }),
            Err(error) => {
                allowance.taken.fetch_sub(bytes, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    pub(super) fn address(&self) -> u64 {
        self.memory.address()
    }
}

impl ArenaMemory for DeviceArena {
    fn nbytes(&self) -> usize {
        self.memory.nbytes()
    }
}

impl Drop for DeviceArena {
    fn drop(&mut self) {
        for event in self.uses.drain(..) {
            // A failure has ended the work as well.
            let _ = event.synchronize();
        }
        self.allowance.taken.fetch_sub(self.memory.nbytes(), Ordering::Relaxed);
    }
}
