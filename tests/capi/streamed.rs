//! An encoder of the C ABI that never has all weights of a task in memory.
#![allow(clippy::undocumented_unsafe_blocks)] // Each calls the C ABI as a C program would.

use std::ptr::null_mut;

use crate::support::capi::*;
use crate::support::{bits, digits};
use taskbasis::capi::tb_status::*;
use taskbasis::capi::*;

/// Over the same basis as `o`, whose own encoder goes.
fn streamed(o: &mut Opened) {
    residing(o, tb_encoder_options { streamed: 1, concurrency: 2, ..sized() });
}

/// With these options, over the same basis as `o`, whose own encoder goes.
fn residing(o: &mut Opened, options: tb_encoder_options) {
    unsafe {
        tb_encoder_free(o.encoder);
        o.encoder = null_mut();
        ok(|e| tb_encoder_create(o.basis, &options, &mut o.encoder, e));
        ok(|e| tb_encoder_info(o.encoder, &mut o.model, e));
    }
}

fn weights(o: &Opened, expression: &std::ffi::CStr) -> *mut tb_weights {
    let mut weights = null_mut();
    ok(|e| unsafe { tb_weights_create(o.basis, expression.as_ptr(), &mut weights, e) });
    weights
}

#[test]
fn it_embeds_as_the_other_encoders_do_and_keeps_nothing() {
    let Some(mut o) = open(AE) else { return };
    let pixels = o.pixels(3);
    let tasks = [c"MNIST", c"base", c"MNIST@0.3 + Loops@0.3 - Parity@0.2"].map(|expression| weights(&o, expression));
    let whole = tasks.map(|task| encode(&o, task, &pixels, 3));
    let all = o.model.weight_bytes;
    assert!(o.model.streamed == 0 && all == 4 * 167_744);
    ok(|e| unsafe { tb_cache_trim(o.basis, 0, e) });
    let mut before: tb_cache_statistics = sized();
    ok(|e| unsafe { tb_cache_stats(o.basis, &mut before, e) });

    streamed(&mut o);
    assert!(o.model.streamed == 1 && o.model.weight_bytes * 2 < all, "{} of {all}", o.model.weight_bytes);
    assert_eq!((o.model.graph, o.model.weights_on), (TB_GRAPH_BUILT, TB_WEIGHTS_ON_HOST as usize));
    for (task, whole) in tasks.into_iter().zip(whole) {
        let embeds = encode(&o, task, &pixels, 3);
        let largest = whole.iter().fold(0f32, |most, x| most.max(x.abs()));
        assert!(embeds.iter().zip(&whole).all(|(a, b)| (a - b).abs() <= 1e-5 * largest));
        // Also when memory was given back, and from several threads.
        ok(|e| unsafe { tb_encoder_trim(o.encoder, e) });
        let (encoder, task) = (o.encoder.expose_provenance(), task.expose_provenance());
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let (embeds, pixels) = (&embeds, &pixels);
                scope.spawn(move || {
                    let mut out = vec![0.0; embeds.len()];
                    let (encoder, task) =
                        (std::ptr::with_exposed_provenance(encoder), std::ptr::with_exposed_provenance(task));
                    let room = out.len();
                    ok(|e| unsafe { tb_encoder_encode(encoder, task, pixels.as_ptr(), 3, out.as_mut_ptr(), room, e) });
                    assert_eq!(bits(&out), bits(embeds));
                });
            }
        });
        unsafe { tb_weights_free(std::ptr::with_exposed_provenance_mut(task)) };
    }
    let mut after: tb_cache_statistics = sized();
    ok(|e| unsafe { tb_cache_stats(o.basis, &mut after, e) });
    assert_eq!((after.misses, after.entries, after.bytes), (before.misses, 0, before.bytes), "past the cache");
}

/// By its name, and by the older option.
#[test]
fn a_residency_is_asked_for_by_its_name() {
    let Some(mut o) = open(AE) else { return };
    let pixels = o.pixels(2);
    streamed(&mut o);
    let expected = encode(&o, o.weights, &pixels, 2);
    residing(&mut o, tb_encoder_options { residency: TB_RESIDENCY_BLOCKWISE as usize, ..sized() });
    assert_eq!(o.model.streamed, TB_RESIDENCY_BLOCKWISE as usize);
    assert_eq!(bits(&encode(&o, o.weights, &pixels, 2)), bits(&expected));
    let mut encoder = null_mut();
    let unknown = tb_encoder_options { residency: 2, ..sized() };
    let message = fails(TB_ERR_INVALID_ARGUMENT, |e| unsafe { tb_encoder_create(o.basis, &unknown, &mut encoder, e) });
    assert!(encoder.is_null() && message.contains("TB_RESIDENCY"), "{message}");
}

#[test]
fn what_needs_all_weights_is_refused() {
    let Some(mut o) = open(AE) else { return };
    streamed(&mut o);
    let (pixels, mut out) = (o.pixels(1), vec![7.0f32; o.model.embedding]);
    let message = fails(TB_ERR_UNSUPPORTED, |e| unsafe { tb_encoder_prepare(o.encoder, o.weights, e) });
    assert!(message.contains("streamed"), "{message}");
    fails(TB_ERR_UNSUPPORTED, |e| unsafe { tb_encoder_promote(o.encoder, o.weights, 1, e) });
    let mut number = 7;
    ok(|e| unsafe { tb_encoder_demote(o.encoder, o.weights, e) });
    ok(|e| unsafe { tb_encoder_promotion(o.encoder, o.weights, &mut number, e) });
    assert_eq!(number, TB_PROMOTION_STATE_INPUTS);
    number = 7;
    ok(|e| unsafe { tb_encoder_is_prepared(o.encoder, o.weights, &mut number, e) });
    assert_eq!(number, 0);
    let mut stats: tb_device_statistics = sized();
    ok(|e| unsafe { tb_encoder_device_stats(o.encoder, o.basis, &mut stats, e) });
    assert_eq!((stats.resident_bytes, stats.weights_bytes), (0, 0));
    let room = out.len() - 1;
    fails(TB_ERR_BUFFER_TOO_SMALL, |e| unsafe {
        tb_encoder_encode(o.encoder, o.weights, pixels.as_ptr(), 1, out.as_mut_ptr(), room, e)
    });
    assert!(out.iter().all(|&value| value == 7.0));
}

#[test]
fn options_that_it_excludes_are_errors() {
    let Some(o) = open(AE) else { return };
    let make = |options: tb_encoder_options, status: tb_status| {
        let mut encoder = null_mut();
        let options = tb_encoder_options { streamed: 1, ..options };
        let message = fails(status, |e| unsafe { tb_encoder_create(o.basis, &options, &mut encoder, e) });
        assert!(encoder.is_null() && message.contains("streamed"), "{message}");
    };
    make(tb_encoder_options { weights_on: TB_WEIGHTS_ON_DEVICE, ..sized() }, TB_ERR_INVALID_ARGUMENT);
    make(tb_encoder_options { cuda_graphs: 1, ..sized() }, TB_ERR_INVALID_ARGUMENT);
    make(tb_encoder_options { promotion: TB_PROMOTION_MANUAL, ..sized() }, TB_ERR_INVALID_ARGUMENT);
    let graph = c(digits("onnx/torchscript_export_opset16.onnx").unwrap());
    make(tb_encoder_options { graph: graph.as_ptr(), ..sized() }, TB_ERR_UNSUPPORTED);
}
