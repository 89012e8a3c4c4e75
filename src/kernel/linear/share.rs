//! Work shared between threads, and the memory for it.

use super::layout::PANEL;
use crate::error::{Error, Result};

/// Threads that share work out.
pub trait Pool {
    /// The number of threads, the caller's among them.
    fn threads(&self) -> usize;

    /// Calls `work` on every number below `count`, each once, on any of the threads, and waits for all.
    fn run(&self, count: usize, work: &(dyn Fn(usize) + Sync));
}

/// The pieces that this much work is cut into: several per thread, so that none is waited for long.
pub(super) fn pieces(pool: &dyn Pool, work: usize) -> usize {
    const PER_THREAD: usize = 4;
    (pool.threads() * PER_THREAD).min(work)
}

/// A pointer that threads share, each with places of its own.
#[derive(Clone, Copy)]
pub(super) struct Shared<T>(pub(super) *mut T);
// SAFETY: threads write what is theirs alone, as every use says.
unsafe impl<T> Sync for Shared<T> {}
// SAFETY: as before.
unsafe impl<T> Send for Shared<T> {}

impl<T> Shared<T> {
    pub(super) fn at(&self, offset: usize) -> *mut T {
        self.0.wrapping_add(offset)
    }
}

/// A cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Line(#[allow(dead_code)] [u8; 64]);

/// Memory that grows, aligned to a cache line.
#[derive(Default, Debug)]
pub(super) struct Room(Vec<Line>);

impl Room {
    /// The memory, of this many bytes at least. What is in it is any bytes.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub(super) fn reserve(&mut self, bytes: usize) -> Result<Shared<u8>> {
        let lines = bytes.div_ceil(size_of::<Line>());
        let missing = lines.saturating_sub(self.0.len());
        self.0.try_reserve_exact(missing).map_err(|_| Error::out_of_memory(bytes))?;
        self.0.resize(lines.max(self.0.len()), Line([0; 64]));
        Ok(Shared(self.0.as_mut_ptr().cast()))
    }
}

/// The most rows of a tile of any instruction set.
pub(super) const MAX_ROWS: usize = 8;

/// The sums of a tile of rows with a panel.
pub(super) struct Tile([Line; MAX_ROWS * PANEL * 4 / 64]);

impl Tile {
    pub(super) fn new() -> Self {
        Self([Line([0; 64]); MAX_ROWS * PANEL * 4 / 64])
    }

    /// [`PANEL`] sums to the row.
    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }
}
