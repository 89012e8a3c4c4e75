//! Device memory for weights, within a budget, and used again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::cuda::{Device, Event, Memory};
use crate::weights::arena::ArenaMemory;

/// The memory that weights take on a device, all together: kept, spare, and in use; and what serves the layouts that
/// they are in.
#[derive(Debug)]
pub(super) struct Allowance {
    pub(super) limit: usize,
    taken: AtomicUsize,
    layouts: AtomicUsize,
}

impl Allowance {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: AtomicUsize::new(0), layouts: AtomicUsize::new(0) })
    }

    /// Bytes that are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Bytes that serve layouts, of those that are taken.
    pub(super) fn layouts(&self) -> usize {
        self.layouts.load(Ordering::Relaxed)
    }
}

/// The purpose of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The weights of a task.
    Weights,
    /// What serves all tasks of a layout, or of all layouts.
    Layout,
}

/// Memory for the weights of a task, or for a layout.
#[derive(Debug)]
pub struct DeviceArena {
    memory: Memory,
    purpose: Purpose,
    /// The ends of all work that uses it.
    pub(super) uses: Vec<Arc<Event>>,
    allowance: Arc<Allowance>,
}

impl DeviceArena {
    /// Fresh memory.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`] where the allowance has no room, or the device.
    pub(super) fn new(
        device: &Arc<dyn Device>,
        bytes: usize,
        allowance: &Arc<Allowance>,
        purpose: Purpose,
    ) -> Result<Self> {
        let more = |taken: usize| taken.checked_add(bytes).filter(|&all| all <= allowance.limit);
        if allowance.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            let (taken, layouts) = (allowance.taken(), allowance.layouts());
            let error = Error::new(ErrorKind::OutOfMemory, "the budget of device memory is taken by weights in use")
                .expected(format_args!("room for {bytes} bytes in {}", allowance.limit));
            return Err(if purpose == Purpose::Weights && layouts == 0 {
                error
                    .got(format_args!("{taken} bytes in use"))
                    .hint("Let go of weights that no longer run, or raise the budget")
            } else {
                error.got(format_args!("{taken} bytes in use, {layouts} of them for layouts of graphs")).hint(
                    "Let go of weights that no longer run and of graphs, raise the budget, or bring the model there for \
                     this layout (`DeviceModel::for_layout`)",
                )
            });
        }
        match Memory::new(device, bytes) {
            Ok(memory) => {
                if purpose == Purpose::Layout {
                    allowance.layouts.fetch_add(bytes, Ordering::Relaxed);
                }
                Ok(Self { memory, purpose, uses: Vec::new(), allowance: Arc::clone(allowance) })
            }
            Err(error) => {
                allowance.taken.fetch_sub(bytes, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    pub(super) fn address(&self) -> u64 {
        self.memory.address()
    }

    /// Keeps the memory from being given to others, or freed, before this event.
    pub(super) fn used_until(&mut self, event: Arc<Event>) {
        // Those that have happened say nothing any more. One that cannot be asked stays.
        self.uses.retain(|event| !event.has_happened().unwrap_or(false));
        self.uses.push(event);
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
        let bytes = self.memory.nbytes();
        self.allowance.taken.fetch_sub(bytes, Ordering::Relaxed);
        if self.purpose == Purpose::Layout {
            self.allowance.layouts.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}
