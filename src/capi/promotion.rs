//! `tb_encoder_promote` and its kin: sessions with the weights of one task frozen into them.

use super::encoder::tb_encoder;
use super::error::{tb_error, tb_status};
use super::guard::call;
use super::handle::{self, Out};
use super::weights::tb_weights;
use crate::encoder::PromotionState;

/// Runs with the weights as inputs.
pub const TB_PROMOTION_STATE_INPUTS: i32 = 0;
/// A session is being built, or waits for its turn; runs go on with the weights as inputs.
pub const TB_PROMOTION_STATE_BUILDING: i32 = 1;
/// Runs in a session of its own.
pub const TB_PROMOTION_STATE_PROMOTED: i32 = 2;
/// The session could not be built; runs go on with the weights as inputs. Why is told to the log callback, as
/// TB_LOG_WARN, and by tb_encoder_promote() with `wait`.
pub const TB_PROMOTION_STATE_FAILED: i32 = 3;

/// No session, for it would gain nothing: the encoder takes weights packed.
pub const TB_PROMOTION_STATE_UNNEEDED: i32 = 4;

/// Gives these weights a session of their own on this encoder, unless they have one: their matrices are packed once, as
/// ONNX Runtime's kernels like them best, instead of in every run. It is built by a thread of low priority while runs
/// go on, takes over from one run to the next, takes as much memory as the weights in the budget of the basis's cache,
/// and is dropped there when it has not been used for longest. The built graph on the CPU takes packed weights and
/// gains nothing from it: there nothing is done, and TB_OK returned.
///
/// @param wait  not zero: return when the session is there, or could not be built
/// @return TB_OK; TB_ERR_INVALID_ARGUMENT with TB_PROMOTION_OFF, TB_ERR_UNSUPPORTED with TB_RESIDENCY_BLOCKWISE;
///         with `wait` also TB_ERR_OUT_OF_MEMORY where the whole budget has no room for it, TB_ERR_RUNTIME, and what
///         tb_weights_prepare() returns
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_encoder_promote(
    encoder: *const tb_encoder,
    weights: *const tb_weights,
    wait: i32,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let encoder = &handle::borrow(encoder)?.encoder;
        let weights = &handle::borrow(weights)?.weights;
        if wait == 0 { encoder.promote_in_background(weights) } else { encoder.promote(weights) }
    })
}

/// Drops the session that these weights have on this encoder, if there is one, or has one that is being built dropped
/// when it is there. Runs that use it end as if nothing had happened.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_encoder_demote(
    encoder: *const tb_encoder,
    weights: *const tb_weights,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let (encoder, weights) = (&handle::borrow(encoder)?.encoder, &handle::borrow(weights)?.weights);
        encoder.demote(weights);
        Ok(())
    })
}

/// Tells how these weights run on this encoder.
///
/// @param state  set to one of the TB_PROMOTION_STATE_ constants; 0 on failure
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tb_encoder_promotion(
    encoder: *const tb_encoder,
    weights: *const tb_weights,
    state: *mut i32,
    err: *mut *mut tb_error,
) -> tb_status {
    call!(err, {
        let out = Out::new(state, "state", 0)?;
        let encoder = &handle::borrow(encoder)?.encoder;
        let weights = &handle::borrow(weights)?.weights;
        out.set(match encoder.promotion(weights) {
            PromotionState::Inputs(_) => TB_PROMOTION_STATE_INPUTS,
            PromotionState::Building => TB_PROMOTION_STATE_BUILDING,
            PromotionState::Promoted => TB_PROMOTION_STATE_PROMOTED,
            PromotionState::Failed(_) => TB_PROMOTION_STATE_FAILED,
            PromotionState::Unneeded => TB_PROMOTION_STATE_UNNEEDED,
        });
        Ok(())
    })
}
