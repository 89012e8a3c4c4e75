//! The statistics of a cache.

use std::time::Duration;

/// The statistics of a [`WeightsCache`](super::WeightsCache): how it has done so far, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Requests that found their weights, or waited for a reconstruction that was under way.
    pub hits: u64,
    /// Requests that had to reconstruct.
    pub misses: u64,
    /// Weights and promoted sessions dropped to keep within the budget.
    pub evictions: u64,
    /// Prefetches that were cancelled and so not reconstructed, or not to the end.
    pub cancelled: u64,
    /// Weights kept now.
    pub entries: usize,
    /// Promoted sessions kept now.
    pub promoted: usize,
    /// Bytes of memory that weights and promoted sessions take.
    pub bytes: usize,
    /// Bytes of them that the promoted sessions take: as much as their weights, in whatever memory ONNX Runtime has
    /// them.
    pub promoted_bytes: usize,
    /// Bytes of memory that held weights and waits to hold others. Within the budget too.
    pub spare_bytes: usize,
    /// Bytes that may be kept.
    pub budget: usize,
    /// Time spent reconstructing, summed over all misses.
    pub reconstructing: Duration,
}
