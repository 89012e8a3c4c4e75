//! `tb_cache_*`: the weights that a basis keeps for the next time.

use super::basis::{model, tb_basis};
use super::error::{tb_error, tb_status};
use super::guard::call;
use super::handle::{StructOut, Versioned};

/// Statistics of the cache of weights.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tb_cache_statistics {
    /// sizeof(tb_cache_statistics), set by the caller.
    pub struct_size: usize,
    /// Requests that found their weights ready.
    pub hits: u64,
    /// Requests that had to reconstruct.
    pub misses: u64,
    /// Weights that were dropped to keep within the budget.
    pub evictions: u64,
    /// Weights that are kept now.
    pub entries: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// Bytes that may be kept.
    pub budget: u64,
    /// Nanoseconds spent reconstructing.
    pub reconstruct_ns: u64,
    /// Prefetches that tb_weights_cancel_prefetch() stopped, before or while they were reconstructed.
    pub cancelled: u64,
    /// Promoted sessions that are kept now. `bytes` and `evictions` count them too.
    pub promoted: u64,
    /// Bytes that they take.
    pub promoted_bytes: u64,
    /// Bytes of memory that held weights and waits to hold others; within the budget, beside `bytes`.
    pub spare_bytes: u64,
}

// SAFETY: repr(C), the size first, and every field may be zero.
unsafe impl Versioned for tb_cache_statistics {}

/// Sets how many bytes of reconstructed weights and promoted sessions are kept, 0 for none, and drops what no longer
/// fits, the least recently used first. What is in use (by a running call, or by views) stays alive until it no longer
/// is, beside the budget. A budget beyond all memory is none at all. Bases that share a cache share its budget.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_cache_set_budget(basis: *const tb_basis, bytes: u64, err: *mut *mut tb_error) -> tb_status {
    call!(err, {
        model(basis)?.cache().set_budget(usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok(())
    })
}

/// Tells how the cache has done since the basis was opened.
///
/// @param stats  `struct_size` set by the caller; the rest is zero on failure
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_cache_stats(
    basis: *const tb_basis,
    stats: *mut tb_cache_statistics,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = StructOut::new(stats, "stats")?;
        let stats = model(basis)?.cache().stats();
        out.set(tb_cache_statistics {
            struct_size: 0,
            hits: stats.hits,
            misses: stats.misses,
            evictions: stats.evictions,
            entries: stats.entries as u64,
            bytes: stats.bytes as u64,
            budget: stats.budget as u64,
            reconstruct_ns: u64::try_from(stats.reconstructing.as_nanos()).unwrap_or(u64::MAX),
            cancelled: stats.cancelled,
            promoted: stats.promoted as u64,
            promoted_bytes: stats.promoted_bytes as u64,
            spare_bytes: stats.spare_bytes as u64,
        });
        Ok(())
    })
}

/// Drops the least recently used weights until at most `bytes` are kept; the budget stays as it is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_cache_trim(basis: *const tb_basis, bytes: u64, err: *mut *mut tb_error) -> tb_status {
    call!(err, {
        model(basis)?.cache().trim(usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok(())
    })
}
