//! Sizes, numbers, names and options of the C ABI that are wrong, and those at the edge: an error that says so, and
//! nothing written that should not be.
#![allow(clippy::undocumented_unsafe_blocks)] // Each calls the C ABI as a C program would; the point is what it survives.

use crate::support;
use std::ffi::CStr;
use std::ptr::{null, null_mut};

use crate::support::capi::*;
use taskbasis::capi::tb_status::*;
use taskbasis::capi::*;

const NO: tb_status = TB_ERR_INVALID_ARGUMENT;

/// Where a function says how much room it needs, beside the message.
#[derive(Clone, Copy, PartialEq)]
enum Reported {
    Needed,
    MessageAlone,
}

/// A buffer one too small: nothing is written, the size is told. One that fits: nothing is written behind it.
#[track_caller]
fn room<T: Copy + PartialEq + std::fmt::Debug>(
    count: usize,
    reported: Reported,
    canary: T,
    call: impl Fn(*mut T, usize, *mut usize, *mut *mut tb_error) -> tb_status,
) {
    let mut buffer = vec![canary; count + 8];
    for (out, capacity) in [(buffer.as_mut_ptr(), count - 1), (null_mut(), 0)] {
        let mut needed = 77;
        let message = fails(TB_ERR_BUFFER_TOO_SMALL, |e| call(out, capacity, &mut needed, e));
        assert_eq!(needed, if reported == Reported::Needed { count } else { 77 });
        assert!(message.contains(&count.to_string()), "{message}");
    }
    assert!(buffer.iter().all(|value| *value == canary));
    ok(|e| call(buffer.as_mut_ptr(), count, null_mut(), e));
    assert!(buffer[..count].iter().any(|value| *value != canary));
    assert!(buffer[count..].iter().all(|value| *value == canary));
}

#[test]
fn buffers_that_are_too_small() {
    let Some(o) = open(PCA) else { return };
    let (tasks, vectors, embedding) = (o.about.tasks, o.about.vectors, o.model.embedding);
    let (pixels, bytes) = (o.pixels(2), [200u8; 3 * 12]);
    let image = tb_image { data: bytes.as_ptr(), width: 4, height: 3, row_stride: 0, format: TB_PIXELS_RGB8 };
    let images = [image; 2];
    let mut classes = 0;
    let mut tensor: tb_tensor = sized();
    unsafe {
        ok(|e| tb_head_classes(o.head, &mut classes, e));
        ok(|e| tb_weights_tensor(o.weights, c"visual.proj".as_ptr(), &mut tensor, e));
        room(tasks * vectors, Reported::Needed, -7.5, |out, capacity, needed, e| {
            tb_basis_coefficients(o.basis, out, capacity, needed, e)
        });
        room(vectors, Reported::Needed, -7.5, |out, capacity, needed, e| {
            tb_weights_coefficients(o.weights, out, capacity, needed, null_mut(), e)
        });
        room(tensor.count, Reported::Needed, -7.5, |out, capacity, needed, e| {
            tb_weights_copy_tensor(o.weights, c"visual.proj".as_ptr(), out, capacity, needed, e)
        });
        room(3 * 5 * 5, Reported::Needed, -7.5, |out, capacity, needed, e| {
            tb_preprocess(&image, 5, out, capacity, needed, e)
        });
        room(2 * embedding, Reported::MessageAlone, -7.5, |out, capacity, _, e| {
            tb_encoder_encode(o.encoder, o.weights, pixels.as_ptr(), 2, out, capacity, e)
        });
        room(2 * embedding, Reported::MessageAlone, -7.5, |out, capacity, _, e| {
            tb_encoder_encode_images(o.encoder, o.weights, images.as_ptr(), 2, out, capacity, e)
        });
        // NULL logits are not wanted, so the smallest that are is one.
        let (mut logits, embeds) = (vec![-7.5f32; 2 * classes + 8], vec![0.5f32; 2 * embedding]);
        let mut classify = |capacity, e| {
            let (embeds, logits) = (embeds.as_ptr(), logits.as_mut_ptr());
            tb_head_classify(o.head, embeds, 2, embedding, logits, capacity, null_mut(), 0, e)
        };
        fails(TB_ERR_BUFFER_TOO_SMALL, |e| classify(2 * classes - 1, e));
        ok(|e| classify(2 * classes, e));
        assert!(logits[..2 * classes].iter().all(|v| *v != -7.5) && logits[2 * classes..].iter().all(|v| *v == -7.5));
        let heads = [o.head.cast_const(); 2];
        let mut logits = vec![-7.5f32; 4 * classes + 8];
        let mut classify = |capacity, e| {
            let (heads, embeds, logits) = (heads.as_ptr(), embeds.as_ptr(), logits.as_mut_ptr());
            tb_head_classify_many(heads, 2, embeds, 2, embedding, logits, capacity, null_mut(), 0, e)
        };
        fails(TB_ERR_BUFFER_TOO_SMALL, |e| classify(4 * classes - 1, e));
        ok(|e| classify(4 * classes, e));
        assert!(logits[..4 * classes].iter().all(|v| *v != -7.5) && logits[4 * classes..].iter().all(|v| *v == -7.5));
        assert_eq!(logits[..2 * classes], logits[2 * classes..4 * classes], "one head after the other");

        // `needed` is 0 where the call fails before the size is known.
        let mut needed = 77;
        fails(TB_ERR_NOT_FOUND, |e| {
            tb_weights_copy_tensor(o.weights, c"visual.nothing".as_ptr(), null_mut(), 0, &mut needed, e)
        });
        assert_eq!(needed, 0);
    }
}

#[test]
fn nothing_at_all_is_fine() {
    let Some(o) = open(AE) else { return };
    let (mut weights, mut tensors) = (null_mut(), 0);
    unsafe {
        ok(|e| tb_encoder_encode(o.encoder, o.weights, null(), 0, null_mut(), 0, e));
        ok(|e| tb_encoder_encode_images(o.encoder, o.weights, null(), 0, null_mut(), 0, e));
        ok(|e| tb_head_classify(o.head, null(), 0, o.model.embedding, null_mut(), 0, null_mut(), 0, e));
        ok(|e| tb_head_classify_many(null(), 0, null(), 0, 0, null_mut(), 0, null_mut(), 5, e));
        let heads = [o.head.cast_const()];
        let (heads, embedding) = (heads.as_ptr(), o.model.embedding);
        ok(|e| tb_head_classify_many(heads, 1, null(), 0, embedding, null_mut(), 0, null_mut(), 5, e));
        ok(|e| tb_weights_create_from_tasks(o.basis, null(), 0, &mut weights, e));
        assert_eq!(text(tb_weights_expression(weights)), "base");
        ok(|e| tb_weights_tensor_count(weights, &mut tensors, e));
        assert!(tensors > 0);
        tb_weights_free(weights);
    }
}

#[test]
fn names_numbers_and_expressions_that_are_wrong() {
    let Some(o) = open(AE) else { return };
    let mut weights = std::ptr::without_provenance_mut(8);
    let (mut name, mut index, mut tensor) = (c"x".as_ptr(), 0, sized::<tb_tensor>());
    unsafe {
        let create =
            |expression: &CStr, to: *mut *mut tb_weights, e| tb_weights_create(o.basis, expression.as_ptr(), to, e);
        for expression in [c"", c"MNIST@", c"MNIST@nan", c"MNIST@inf", c"MNIST@1e999", c"+", c"MNIST +"] {
            fails(NO, |e| create(expression, &mut weights, e));
            assert!(weights.is_null());
        }
        let message = fails(TB_ERR_NOT_FOUND, |e| create(c"MNITS", &mut weights, e));
        assert!(message.contains("MNIST"), "the nearest name: {message}");

        for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let task = tb_task { name: c"MNIST".as_ptr(), lambda: wrong };
            fails(NO, |e| tb_weights_create_from_tasks(o.basis, &task, 1, &mut weights, e));
            let (vectors, mut values) = (o.about.vectors, vec![0.1; o.about.vectors]);
            values[vectors - 1] = wrong;
            let from = tb_weights_create_from_coefficients;
            fails(NO, |e| from(o.basis, values.as_ptr(), vectors, 0.0, &mut weights, e));
            values[vectors - 1] = 0.0;
            fails(NO, |e| from(o.basis, values.as_ptr(), vectors, wrong, &mut weights, e));
            fails(NO, |e| from(o.basis, values.as_ptr(), vectors - 1, 0.0, &mut weights, e));
            fails(NO, |e| from(o.basis, values.as_ptr(), usize::MAX, 0.0, &mut weights, e));
            assert!(weights.is_null());
        }

        fails(TB_ERR_NOT_FOUND, |e| tb_basis_task_name(o.basis, o.about.tasks, &mut name, e));
        assert!(name.is_null());
        let message = fails(TB_ERR_NOT_FOUND, |e| tb_basis_task_index(o.basis, c"MNITS".as_ptr(), &mut index, e));
        assert!(index == usize::MAX && message.contains("MNIST"), "{message}");
        let message =
            fails(TB_ERR_NOT_FOUND, |e| tb_weights_tensor(o.weights, c"visual.porj".as_ptr(), &mut tensor, e));
        assert!(message.contains("visual.porj") && tensor.data.is_null() && tensor.name.is_null(), "{message}");
        let at = |index, tensor: *mut tb_tensor, e| tb_weights_tensor_at(o.weights, index, tensor, e);
        assert_ne!(outcome(|e| at(usize::MAX, &mut tensor, e)).0, TB_OK);
        fails(TB_ERR_NOT_FOUND, |e| tb_head_class_name(o.head, 10_000, &mut name, e));
        assert!(name.is_null());

        for status in (0..=12).chain([99]) {
            assert_ne!(text(tb_status_name(status)), "unknown", "{status}");
        }
        for status in [-1, 13, 98, i32::MAX, i32::MIN] {
            assert_eq!(text(tb_status_name(status)), "unknown");
        }
    }
}

#[test]
fn sizes_beyond_all_memory() {
    let Some(o) = open(AE) else { return };
    let (pixel, mut out, mut score) = (0f32, 0f32, tb_score { class_index: 0, logit: 0.0, probability: 0.0 });
    let byte = 0u8;
    let mut weights = null_mut();
    let task = tb_task { name: c"MNIST".as_ptr(), lambda: 1.0 };
    unsafe {
        for n in [usize::MAX, usize::MAX / 2, isize::MAX as usize] {
            fails(NO, |e| tb_encoder_encode(o.encoder, o.weights, &pixel, n, &mut out, usize::MAX, e));
            let embedding = o.model.embedding;
            fails(NO, |e| tb_head_classify(o.head, &pixel, n, embedding, &mut out, usize::MAX, null_mut(), 0, e));
            fails(NO, |e| tb_head_classify(o.head, &pixel, 1, embedding, null_mut(), 0, &mut score, n, e));
            let heads = [o.head.cast_const()];
            let mut many = |n, k, e| {
                tb_head_classify_many(heads.as_ptr(), 1, &pixel, n, embedding, null_mut(), 0, &mut score, k, e)
            };
            fails(NO, |e| many(n, 0, e));
            fails(NO, |e| many(1, n, e));
            fails(NO, |e| {
                tb_head_classify_many(heads.as_ptr(), n, &pixel, 1, embedding, &mut out, 1, &mut score, 1, e)
            });
            fails(TB_ERR_MISMATCH, |e| tb_head_classify(o.head, &pixel, 1, n, null_mut(), 0, &mut score, 1, e));
            fails(NO, |e| tb_weights_create_from_tasks(o.basis, &task, n, &mut weights, e));
            let image = tb_image { data: &byte, width: 1, height: 1, row_stride: 0, format: TB_PIXELS_GRAY8 };
            fails(NO, |e| tb_encoder_encode_images(o.encoder, o.weights, &image, n, &mut out, usize::MAX, e));
            assert_ne!(outcome(|e| tb_preprocess(&image, n, &mut out, usize::MAX, null_mut(), e)).0, TB_OK);
        }
        for (width, height, row_stride) in [
            (usize::MAX, 1, 0),
            (1, usize::MAX, 0),
            (usize::MAX, usize::MAX, 0),
            (1, 3, usize::MAX),
            (0, 1, 0),
            (1, 0, 0),
        ] {
            let image = tb_image { data: &byte, width, height, row_stride, format: TB_PIXELS_RGB8 };
            let message =
                fails(NO, |e| tb_encoder_encode_images(o.encoder, o.weights, &image, 1, &mut out, 1 << 20, e));
            assert!(!message.is_empty());
        }
        let image = tb_image { data: &byte, width: 1, height: 1, row_stride: 0, format: 77 };
        assert!(fails(NO, |e| tb_preprocess(&image, 1, null_mut(), 3, null_mut(), e)).len() > 4);

        // A budget larger than memory is a limit that is never reached; the options' is the same.
        let mut stats: tb_cache_statistics = sized();
        ok(|e| tb_cache_set_budget(o.basis, u64::MAX, e));
        ok(|e| tb_cache_stats(o.basis, &mut stats, e));
        assert_eq!(stats.budget, u64::MAX);
        ok(|e| tb_cache_trim(o.basis, u64::MAX, e));
        for threads in [u32::MAX, 4097] {
            let options = tb_encoder_options { threads, ..sized() };
            fails(NO, |e| tb_encoder_create(o.basis, &options, &mut null_mut(), e));
        }
    }
}

#[test]
fn options_that_cannot_be_had() {
    let Some(o) = open(AE) else { return };
    let create = |options: tb_encoder_options| {
        move |e: *mut *mut tb_error| {
            let mut encoder = std::ptr::without_provenance_mut(8);
            let status = unsafe { tb_encoder_create(o.basis, &options, &mut encoder, e) };
            assert!(encoder.is_null());
            status
        }
    };
    let none: tb_encoder_options = sized();
    let mut about: tb_library_properties = sized();
    ok(|e| unsafe { tb_library_info(null(), &mut about, e) });
    let providers = unsafe { CStr::from_ptr(about.providers) }.to_str().unwrap();
    if providers == "cpu" {
        for provider in [c"cuda", c"tensorrt"] {
            let options = tb_encoder_options { provider: provider.as_ptr(), ..none };
            let message = fails(TB_ERR_UNSUPPORTED, create(options));
            assert!(message.contains("onnxruntime-gpu"), "{message}");
        }
    } else {
        assert_eq!(providers, "cpu,cuda,tensorrt");
    }
    fails(NO, create(tb_encoder_options { provider: c"gpu".as_ptr(), ..none }));
    fails(NO, create(tb_encoder_options { tensorrt_min_cosine: 2.0, ..none }));
    fails(NO, create(tb_encoder_options { map: c"map.json".as_ptr(), ..none }));
    fails(TB_ERR_IO, create(tb_encoder_options { graph: c"no/such.onnx".as_ptr(), ..none }));
    fails(TB_ERR_UNSUPPORTED, create(tb_encoder_options { device: 1, ..none }));
    fails(TB_ERR_UNSUPPORTED, create(tb_encoder_options { image_size: 7, ..none }));
    fails(NO, create(tb_encoder_options { activation: 9, ..none }));
    fails(NO, create(tb_encoder_options { weights_on: 9, ..none }));
    let on_device = tb_encoder_options { weights_on: TB_WEIGHTS_ON_DEVICE, ..none };
    assert!(fails(TB_ERR_UNSUPPORTED, create(on_device)).contains("cuda"));
    fails(NO, create(tb_encoder_options { promotion: 9, ..none }));
    fails(NO, create(tb_encoder_options { log_level: 9, ..none }));
    let message = outcome(create(tb_encoder_options { onnxruntime: c"/no/such/libonnxruntime.so".as_ptr(), ..none })).1;
    assert!(message.contains("/no/such/libonnxruntime.so"), "{message}");

    let base_alone = basis_options(&o.base);
    unsafe {
        let mut basis = null_mut();
        ok(|e| tb_basis_open(null(), &base_alone, &mut basis, e));
        tb_basis_free(basis);
        let both = tb_basis_options { share_cache: o.basis, cache_bytes: 1, ..base_alone };
        fails(NO, |e| tb_basis_open(null(), &both, &mut null_mut(), e));
        let of_base = |prefix: &'static std::ffi::CStr| tb_basis_options { base_prefix: prefix.as_ptr(), ..base_alone };
        ok(|e| tb_basis_open(null(), &of_base(c"model"), &mut basis, e));
        tb_basis_free(basis);
        let message = fails(TB_ERR_NOT_FOUND, |e| tb_basis_open(null(), &of_base(c"teacher"), &mut null_mut(), e));
        assert!(message.contains("no image tower under `teacher`: got `"), "{message}");
        let in_vain = tb_basis_options { base_prefix: c"teacher".as_ptr(), ..sized() };
        fails(NO, |e| tb_basis_open(o.folder.as_ptr(), &in_vain, &mut null_mut(), e));
        let missing = tb_basis_options { base: c"/no/such/base.pt".as_ptr(), ..base_alone };
        let message = fails(TB_ERR_IO, |e| tb_basis_open(o.folder.as_ptr(), &missing, &mut null_mut(), e));
        assert!(message.contains("/no/such/base.pt"), "{message}");
        assert_ne!(outcome(|e| tb_basis_open(o.base.as_ptr(), &base_alone, &mut null_mut(), e)).0, TB_OK);
        fails(TB_ERR_NOT_FOUND, |e| tb_head_open(o.heads.as_ptr(), c"NoTask".as_ptr(), null(), &mut null_mut(), e));
    }
}

/// What is really used, with `auto` as well as by default.
#[test]
fn what_computes_is_told() {
    let Some(o) = open(AE) else { return };
    let none: tb_encoder_options = sized();
    for provider in [null(), c"cpu".as_ptr(), c"auto".as_ptr()] {
        let (mut encoder, options) = (null_mut(), tb_encoder_options { provider, ..none });
        let mut info: tb_encoder_properties = sized();
        unsafe {
            ok(|e| tb_encoder_create(o.basis, &options, &mut encoder, e));
            ok(|e| tb_encoder_info(encoder, &mut info, e));
            let used = CStr::from_ptr(info.provider).to_str().unwrap();
            let is_auto = provider == c"auto".as_ptr();
            assert!(used == "cpu" || (is_auto && used == "cuda"));
            assert_eq!((info.device, info.fallback.is_null()), (0, !is_auto || used == "cuda"));
            tb_encoder_free(encoder);
        }
    }
}

/// Weights that other encoders can run are kept, and still of no use to one of another architecture.
#[test]
fn weights_of_another_architecture() {
    let Some(o) = open(AE) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.pt");
    support::family::small(taskbasis::Method::Pca, 2).write_base(&path).unwrap();
    let (base, pixels, mut out) = (c(&path), o.pixels(1), vec![0f32; o.model.embedding]);
    let (mut basis, mut weights, mut is) = (null_mut(), null_mut(), 7);
    unsafe {
        ok(|e| tb_basis_open(null(), &basis_options(&base), &mut basis, e));
        ok(|e| tb_weights_create(basis, c"base".as_ptr(), &mut weights, e));
        for _ in 0..2 {
            let message = fails(TB_ERR_MISMATCH, |e| tb_encoder_prepare(o.encoder, weights, e));
            assert!(message.contains("tensor `visual."), "{message}");
            ok(|e| tb_encoder_is_prepared(o.encoder, weights, &mut is, e));
            assert_eq!(is, 0);
            fails(TB_ERR_MISMATCH, |e| {
                tb_encoder_encode(o.encoder, weights, pixels.as_ptr(), 1, out.as_mut_ptr(), out.len(), e)
            });
            // Ready, and kept: it is the encoder that has no use for them.
            ok(|e| tb_weights_prepare(weights, e));
        }
        ok(|e| tb_encoder_prepare(o.encoder, o.weights, e));
        ok(|e| tb_encoder_is_prepared(o.encoder, o.weights, &mut is, e));
        assert_eq!(is, 1);
        tb_weights_free(weights);
        tb_basis_free(basis);
    }
}

#[test]
fn which_of_many_is_wrong() {
    let Some(o) = open(AE) else { return };
    let (bytes, mut out) = ([9u8; 12], vec![0f32; 3 * o.model.embedding]);
    let good = tb_image { data: bytes.as_ptr(), width: 2, height: 2, row_stride: 0, format: TB_PIXELS_RGB8 };
    let task = |name: *const std::ffi::c_char, lambda| tb_task { name, lambda };
    let fine = task(c"MNIST".as_ptr(), 0.5);
    unsafe {
        for (wrong, says) in [
            (tb_image { format: 77, ..good }, "images[2]: no such pixel format"),
            (tb_image { width: 0, ..good }, "images[2]: an image has at least one pixel"),
            (tb_image { data: null(), ..good }, "images[2]: `data` is NULL"),
            (tb_image { row_stride: 5, ..good }, "images[2]: "),
        ] {
            let images = [good, good, wrong];
            let message = fails(NO, |e| {
                tb_encoder_encode_images(o.encoder, o.weights, images.as_ptr(), 3, out.as_mut_ptr(), out.len(), e)
            });
            assert!(message.starts_with(says), "{message}");
        }
        for (wrong, says) in [
            (task(null(), 1.0), "tasks[1]: `name` is NULL"),
            (task(c"\xff".as_ptr(), 1.0), "tasks[1]: `name` is not UTF-8"),
            (task(c"MNIST".as_ptr(), f64::NAN), "tasks[1]: a scaling coefficient"),
        ] {
            let tasks = [fine, wrong];
            let mut weights = null_mut();
            let message = fails(NO, |e| tb_weights_create_from_tasks(o.basis, tasks.as_ptr(), 2, &mut weights, e));
            assert!(message.starts_with(says), "{message}");
        }
    }
}

#[test]
fn messages_stay_readable() {
    let Some(o) = open(AE) else { return };
    let (mut weights, mut index, mut tensor) = (null_mut(), 0, sized::<tb_tensor>());
    let long = c("A".repeat(1 << 20));
    let number = c(format!("MNIST@{}x", "1".repeat(1 << 20)));
    let options = tb_encoder_options { provider: long.as_ptr(), ..sized() };
    let task = |lambda| tb_task { name: long.as_ptr(), lambda };
    unsafe {
        for message in [
            fails(TB_ERR_NOT_FOUND, |e| tb_basis_task_index(o.basis, long.as_ptr(), &mut index, e)),
            fails(TB_ERR_NOT_FOUND, |e| tb_weights_create(o.basis, long.as_ptr(), &mut weights, e)),
            fails(NO, |e| tb_weights_create(o.basis, number.as_ptr(), &mut weights, e)),
            fails(TB_ERR_NOT_FOUND, |e| tb_weights_create_from_tasks(o.basis, &task(1.0), 1, &mut weights, e)),
            fails(TB_ERR_NOT_FOUND, |e| tb_weights_tensor(o.weights, long.as_ptr(), &mut tensor, e)),
            fails(TB_ERR_NOT_FOUND, |e| tb_head_open(o.heads.as_ptr(), long.as_ptr(), null(), &mut null_mut(), e)),
            fails(NO, |e| tb_encoder_create(o.basis, &options, &mut null_mut(), e)),
        ] {
            assert!(message.len() < 4096 && message.contains('…'), "{} bytes", message.len());
        }
        for (lambda, spelled) in [(1e-310, "MNIST@1e-310"), (1e30, "MNIST@1e30"), (0.25, "MNIST@0.25")] {
            let task = tb_task { name: c"MNIST".as_ptr(), lambda };
            let (mut ours, mut again, mut values) = (null_mut(), null_mut(), [vec![0.0; 4], vec![0.0; 4]]);
            ok(|e| tb_weights_create_from_tasks(o.basis, &task, 1, &mut ours, e));
            assert_eq!(text(tb_weights_expression(ours)), spelled);
            ok(|e| tb_weights_create(o.basis, tb_weights_expression(ours), &mut again, e));
            for (weights, values) in [ours, again].into_iter().zip(&mut values) {
                ok(|e| tb_weights_coefficients(weights, values.as_mut_ptr(), 4, null_mut(), null_mut(), e));
                tb_weights_free(weights);
            }
            assert_eq!(values[0], values[1]);
        }
        let huge = tb_task { name: c"MNIST".as_ptr(), lambda: 1e300 };
        let message = fails(NO, |e| tb_weights_create_from_tasks(o.basis, &huge, 1, &mut weights, e));
        assert!(message.len() < 200, "{message}");
    }
}

#[test]
fn more_threads_than_there_may_be() {
    let Some(o) = open(AE) else { return };
    let most = taskbasis::kernel::max_threads();
    let told = format!("at most {most}");
    unsafe {
        for threads in [u32::try_from(most).unwrap() + 1, u32::MAX] {
            let options = tb_basis_options { threads, ..basis_options(&o.base) };
            let message =
                fails(TB_ERR_INVALID_ARGUMENT, |e| tb_basis_open(o.folder.as_ptr(), &options, &mut null_mut(), e));
            assert!(message.contains(&told), "{message}");
            let options = tb_encoder_options { threads, ..sized() };
            let message = fails(TB_ERR_INVALID_ARGUMENT, |e| tb_encoder_create(o.basis, &options, &mut null_mut(), e));
            assert!(message.contains(&told), "{message}");
        }
    }
}
