//! The items that a cache keeps, and what tells one thing in it from another.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::mmap::Identity;
use crate::weights::arena::ArenaMemory;

/// The key that determines the bits of weights: the files of base and basis, and the coefficients as the kernel takes
/// them. Expressions that mean the same have the same key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(in crate::weights) files: Arc<[Identity]>,
    /// Bits of f32, row after row; where there are several rows, then the row of each parameter.
    pub(in crate::weights) factors: Arc<[u32]>,
    /// The [`Layout`](crate::weights::Layout) that they are in; 0 is none.
    pub(in crate::weights) layout: u64,
}

/// The encoder that promoted a session, or the [`TaskWeights`](crate::weights::TaskWeights) through which weights are
/// prefetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Owner(u64);

impl Owner {
    /// Different from every other in this process.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Weights that a [`WeightsCache`](super::WeightsCache) can keep: those in memory, or those on a device.
pub trait Reconstructed: std::fmt::Debug + Send + Sync {
    /// The memory that they live in.
    type Memory: ArenaMemory;

    /// Bytes of it; always the same.
    fn nbytes(&self) -> usize;
}

/// Something that was made of weights and serves in their place: a session with the weights frozen into it.
pub(crate) type Derived = Arc<dyn Any + Send + Sync>;
