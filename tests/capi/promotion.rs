//! Promotion and the shared cache through the C ABI.

#![allow(clippy::undocumented_unsafe_blocks)]

use std::ptr::{null, null_mut};

use crate::support::bits;
use crate::support::capi::*;
use taskbasis::capi::*;

fn state(o: &Opened, weights: *const tb_weights) -> i32 {
    let mut state = -1;
    ok(|e| unsafe { tb_encoder_promotion(o.encoder, weights, &mut state, e) });
    state
}

#[test]
fn the_built_graph_gains_nothing() {
    let Some(o) = open(AE) else { return };
    let pixels = o.pixels(2);
    let before = encode(&o, o.weights, &pixels, 2);
    for wait in [0, 1] {
        ok(|e| unsafe { tb_encoder_promote(o.encoder, o.weights, wait, e) });
        assert_eq!(state(&o, o.weights), TB_PROMOTION_STATE_UNNEEDED);
    }
    assert_eq!(bits(&before), bits(&encode(&o, o.weights, &pixels, 2)));
    let mut stats: tb_cache_statistics = sized();
    ok(|e| unsafe { tb_cache_stats(o.basis, &mut stats, e) });
    assert_eq!((stats.promoted, stats.promoted_bytes), (0, 0));
    ok(|e| unsafe { tb_encoder_demote(o.encoder, o.weights, e) });
    assert_eq!(state(&o, o.weights), TB_PROMOTION_STATE_UNNEEDED);
}

#[test]
fn bases_can_share_a_cache() {
    let Some(o) = open(AE) else { return };
    let mut other = null_mut();
    let mut weights = null_mut();
    let mut stats: tb_cache_statistics = sized();
    unsafe {
        let options = tb_basis_options { share_cache: o.basis, ..basis_options(&o.base) };
        ok(|e| tb_basis_open(o.folder.as_ptr(), &options, &mut other, e));
        ok(|e| tb_weights_create(other, c"MNIST".as_ptr(), &mut weights, e));
        let mut mine = null_mut();
        ok(|e| tb_weights_create(o.basis, c"MNIST".as_ptr(), &mut mine, e));
        // The encoder is the first basis's; with the first run it is known to the other one.
        let first = encode(&o, weights, &o.pixels(1), 1);
        ok(|e| tb_weights_prepare(mine, e));
        assert_eq!(bits(&first), bits(&encode(&o, mine, &o.pixels(1), 1)));
        ok(|e| tb_cache_stats(other, &mut stats, e));
        assert_eq!((stats.hits, stats.misses, stats.entries), (2, 1, 1), "the same files, so the same weights");

        // Another basis over the same base has other weights.
        let base_alone = tb_basis_options { share_cache: other, ..basis_options(&o.base) };
        let (mut base, mut zero_shot) = (null_mut(), null_mut());
        ok(|e| tb_basis_open(null(), &base_alone, &mut base, e));
        ok(|e| tb_weights_create(base, c"base".as_ptr(), &mut zero_shot, e));
        ok(|e| tb_weights_prepare(zero_shot, e));
        tb_basis_free(other);
        ok(|e| tb_cache_stats(base, &mut stats, e));
        assert_eq!((stats.misses, stats.entries), (2, 2));
        for weights in [weights, mine, zero_shot] {
            tb_weights_free(weights);
        }
        tb_basis_free(base);
    }
}

#[test]
fn a_prefetch_that_has_ended_cannot_be_cancelled() {
    let Some(o) = open(AE) else { return };
    let mut stopped = 7;
    ok(|e| unsafe { tb_weights_cancel_prefetch(o.weights, &mut stopped, e) });
    assert_eq!(stopped, 0, "none was started");
    ok(|e| unsafe { tb_weights_prefetch(o.weights, e) });
    ok(|e| unsafe { tb_weights_prepare(o.weights, e) });
    ok(|e| unsafe { tb_weights_cancel_prefetch(o.weights, &mut stopped, e) });
    assert_eq!(stopped, 0);
}

#[test]
fn a_prefetch_is_either_cancelled_or_ready() {
    let Some(o) = open(AE) else { return };
    for round in 0..200 {
        let (mut stopped, mut ready) = (7, 7);
        unsafe {
            for _ in 0..=round % 3 {
                ok(|e| tb_weights_prefetch(o.weights, e));
            }
            ok(|e| tb_weights_cancel_prefetch(o.weights, &mut stopped, e));
            ok(|e| tb_weights_is_ready(o.weights, &mut ready, e));
            assert_eq!(stopped + ready, 1, "stopped {stopped}, ready {ready} in round {round}");
            ok(|e| tb_cache_trim(o.basis, 0, e));
        }
    }
    let mut stats: tb_cache_statistics = sized();
    ok(|e| unsafe { tb_cache_stats(o.basis, &mut stats, e) });
    assert!(stats.cancelled > 0);
}
