//! Weights on the device that computes: made ready there, and what they take.

use super::basis::{model, tb_basis};
use super::encoder::tb_encoder;
use super::error::{tb_error, tb_status};
use super::guard::call;
use super::handle::{self, Out, StructOut, Versioned};
use super::weights::tb_weights;

/// Statistics of a basis on an encoder's device: its memory, and its hits and misses.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tb_device_statistics {
    /// sizeof(tb_device_statistics), set by the caller.
    pub struct_size: usize,
    /// Bytes of base and basis that stay on the device.
    pub resident_bytes: u64,
    /// Bytes of the slots that the rest is streamed through; 0 where everything stays.
    pub slot_bytes: u64,
    /// Bytes that have been streamed so far.
    pub streamed: u64,
    /// Bytes that weights take now, those in use and memory that waits for others among them.
    pub weights_bytes: u64,
    /// Bytes that they may take: what base, basis and slots leave of the budget.
    pub weights_budget: u64,
    /// Requests that found their weights there.
    pub hits: u64,
    /// Requests that had to reconstruct.
    pub misses: u64,
    /// Weights that were dropped to keep within the budget.
    pub evictions: u64,
    /// Weights that are kept now.
    pub entries: u64,
}

// SAFETY: repr(C), the size first, and every field may be zero.
unsafe impl Versioned for tb_device_statistics {}

/// Reconstructs these weights where this encoder reads them, unless they are there: the next call with them need not.
/// In the host's memory that is tb_weights_prepare(). On a device it returns when the work is in the queue, before it
/// is done.
///
/// @return TB_OK; TB_ERR_MISMATCH where the weights are of another architecture, and then nothing is reconstructed;
///         what tb_weights_prepare() returns; on a device TB_ERR_OUT_OF_MEMORY where weights in use leave no
///         room, TB_ERR_RUNTIME; TB_ERR_UNSUPPORTED with TB_RESIDENCY_BLOCKWISE
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_encoder_prepare(
    encoder: *const tb_encoder,
    weights: *const tb_weights,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, handle::borrow(encoder)?.encoder.prepare(&handle::borrow(weights)?.weights))
}

/// Sets `*out` to 1 where the next call with these weights need not reconstruct them: they are kept where this encoder
/// reads them, or promoted; else to 0, as always with TB_RESIDENCY_BLOCKWISE and for weights of another
/// architecture.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_encoder_is_prepared(
    encoder: *const tb_encoder,
    weights: *const tb_weights,
    out: *mut i32,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Out::new(out, "out", 0)?;
        let encoder = &handle::borrow(encoder)?.encoder;
        let weights = &handle::borrow(weights)?.weights;
        out.set(encoder.is_prepared(weights).into());
        Ok(())
    })
}

/// Tells what the basis takes on this encoder's device: nothing where it is not there, or the encoder's weights are in
/// the host's memory, which tb_encoder_info() says.
///
/// @param stats  `struct_size` set by the caller; the rest is zero on failure
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_encoder_device_stats(
    encoder: *const tb_encoder,
    basis: *const tb_basis,
    stats: *mut tb_device_statistics,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = StructOut::new(stats, "stats")?;
        let (encoder, model) = (&handle::borrow(encoder)?.encoder, model(basis)?);
        let stats = encoder.device_stats(model);
        out.set(tb_device_statistics {
            struct_size: 0,
            resident_bytes: stats.resident_bytes as u64,
            slot_bytes: stats.slot_bytes as u64,
            streamed: stats.streamed,
            weights_bytes: stats.weights_bytes as u64,
            weights_budget: stats.cache.budget as u64,
            hits: stats.cache.hits,
            misses: stats.cache.misses,
            evictions: stats.cache.evictions,
            entries: stats.cache.entries as u64,
        });
        Ok(())
    })
}
