//! Every function of the C ABI with every argument that is wrong: an error each, and nothing written that should not be.
#![allow(clippy::undocumented_unsafe_blocks)] // Each calls the C ABI as a C program would; the point is what it survives.

mod capi_support;

use std::ffi::{CStr, c_char};
use std::ptr::{null, null_mut};

use capi_support::*;
use taskbasis::capi::tb_status::*;
use taskbasis::capi::*;

const NO: tb_status = TB_ERR_INVALID_ARGUMENT;
const FINE: tb_status = TB_OK;

/// `pointer`, or NULL where it is this argument's turn to be wrong.
fn p<T>(turn: usize, argument: usize, pointer: *const T) -> *const T {
    if turn == argument { null() } else { pointer }
}

fn m<T>(turn: usize, argument: usize, pointer: *mut T) -> *mut T {
    p(turn, argument, pointer).cast_mut()
}

/// Calls once with everything right, and then with one pointer NULL after the other: `expected[i]` is what the i-th
/// gives. Each also without a place for the error.
#[track_caller]
fn nulls(name: &str, expected: &[tb_status], call: impl Fn(usize, *mut *mut tb_error) -> tb_status) {
    let (status, message) = outcome(|err| call(usize::MAX, err));
    assert_eq!(status, TB_OK, "{name}: {message}");
    assert_eq!(call(usize::MAX, null_mut()), TB_OK, "{name} without a place for the error");
    for (turn, &expected) in expected.iter().enumerate() {
        let (status, message) = outcome(|err| call(turn, err));
        assert_eq!(status, expected, "{name} with pointer argument {turn} NULL: {message}");
        assert_eq!(call(turn, null_mut()), expected, "{name} with argument {turn} and the place for the error NULL");
    }
}

/// A call that makes a handle into the given place: made exactly where the call succeeds, and freed again.
unsafe fn made<T>(
    turn: usize,
    argument: usize,
    free: unsafe extern "C" fn(*mut T),
    call: impl FnOnce(*mut *mut T) -> tb_status,
) -> tb_status {
    let mut handle = std::ptr::without_provenance_mut(8);
    let status = call(m(turn, argument, &mut handle));
    if turn != argument {
        assert_eq!(handle.is_null(), status != TB_OK, "a handle exactly where the call succeeded");
        unsafe { free(handle) };
    }
    status
}

#[test]
fn null_in_every_pointer_argument() {
    let Some(o) = open(AE) else { return };
    let (options, encoder_options) = (basis_options(&o.base), sized::<tb_encoder_options>());
    let (options, encoder_options) = (&raw const options, &raw const encoder_options);
    let (pixels, bytes) = (o.pixels(1), [9u8; 12]);
    let image = tb_image { data: bytes.as_ptr(), width: 2, height: 2, row_stride: 0, format: TB_PIXELS_RGB8 };
    let (image, no_data) = (&raw const image, tb_image { data: null(), ..image });
    let task = tb_task { name: c"MNIST".as_ptr(), lambda: 0.5 };
    let no_name = tb_task { name: null(), ..task };
    let coefficients = [0.1f64; 4];
    const ROOM: usize = 1 << 16;
    let (mut floats, mut doubles) = (vec![0f32; ROOM], [0f64; 64]);
    let (out, doubles) = (floats.as_mut_ptr(), doubles.as_mut_ptr());
    let (mut number, mut flag, mut mean, mut name) = (0usize, 0i32, 0f64, null::<c_char>());
    let (number, flag, mean, name) = (&raw mut number, &raw mut flag, &raw mut mean, &raw mut name);
    let mut score = tb_score { class_index: 0, logit: 0.0, probability: 0.0 };
    let score = &raw mut score;
    let (mut tensor, mut library, mut about, mut stats, mut model) = (sized(), sized(), sized(), sized(), sized());
    let (tensor, library, about) = (&raw mut tensor, &raw mut library, &raw mut about);
    let (stats, model): (*mut tb_cache_statistics, *mut tb_encoder_properties) = (&raw mut stats, &raw mut model);
    let mut on_device: tb_device_statistics = sized();
    let on_device = &raw mut on_device;
    let mnist = c"MNIST".as_ptr();
    let proj = c"visual.proj".as_ptr();
    let embedding = o.model.embedding;
    let embeds = vec![0.5f32; embedding];

    unsafe {
        nulls("tb_library_info", &[NO], |t, e| tb_library_info(null(), m(t, 0, library), e));
        nulls("tb_basis_open", &[FINE, NO, NO], |t, e| {
            made(t, 2, tb_basis_free, |to| tb_basis_open(p(t, 0, o.folder.as_ptr()), p(t, 1, options), to, e))
        });
        nulls("tb_basis_info", &[NO, NO], |t, e| tb_basis_info(p(t, 0, o.basis), m(t, 1, about), e));
        nulls("tb_basis_task_name", &[NO, NO], |t, e| tb_basis_task_name(p(t, 0, o.basis), 0, m(t, 1, name), e));
        nulls("tb_basis_task_index", &[NO, NO, NO], |t, e| {
            tb_basis_task_index(p(t, 0, o.basis), p(t, 1, mnist), m(t, 2, number), e)
        });
        nulls("tb_basis_coefficients", &[NO, NO, FINE], |t, e| {
            tb_basis_coefficients(p(t, 0, o.basis), m(t, 1, doubles), 64, m(t, 2, number), e)
        });
        nulls("tb_basis_verify", &[NO], |t, e| tb_basis_verify(p(t, 0, o.basis), e));
        nulls("tb_cache_set_budget", &[NO], |t, e| tb_cache_set_budget(p(t, 0, o.basis), 1 << 20, e));
        nulls("tb_cache_stats", &[NO, NO], |t, e| tb_cache_stats(p(t, 0, o.basis), m(t, 1, stats), e));
        nulls("tb_cache_trim", &[NO], |t, e| tb_cache_trim(p(t, 0, o.basis), 0, e));
        nulls("tb_weights_create", &[NO, NO, NO], |t, e| {
            made(t, 2, tb_weights_free, |to| tb_weights_create(p(t, 0, o.basis), p(t, 1, mnist), to, e))
        });
        nulls("tb_weights_create_from_tasks", &[NO, NO, NO, NO], |t, e| {
            let tasks = p(t, 1, if t == 3 { &no_name } else { &task });
            made(t, 2, tb_weights_free, |to| tb_weights_create_from_tasks(p(t, 0, o.basis), tasks, 1, to, e))
        });
        nulls("tb_weights_create_from_coefficients", &[NO, NO, NO], |t, e| {
            let values = p(t, 1, coefficients.as_ptr());
            made(t, 2, tb_weights_free, |to| {
                tb_weights_create_from_coefficients(p(t, 0, o.basis), values, o.about.vectors, 0.0, to, e)
            })
        });
        nulls("tb_weights_coefficients", &[NO, NO, FINE, FINE], |t, e| {
            tb_weights_coefficients(p(t, 0, o.weights), m(t, 1, doubles), 64, m(t, 2, number), m(t, 3, mean), e)
        });
        nulls("tb_weights_prepare", &[NO], |t, e| tb_weights_prepare(p(t, 0, o.weights), e));
        nulls("tb_weights_prefetch", &[NO], |t, e| tb_weights_prefetch(p(t, 0, o.weights), e));
        nulls("tb_weights_cancel_prefetch", &[NO, FINE], |t, e| {
            tb_weights_cancel_prefetch(p(t, 0, o.weights), m(t, 1, flag), e)
        });
        nulls("tb_weights_is_ready", &[NO, NO], |t, e| tb_weights_is_ready(p(t, 0, o.weights), m(t, 1, flag), e));
        nulls("tb_weights_tensor_count", &[NO, NO], |t, e| {
            tb_weights_tensor_count(p(t, 0, o.weights), m(t, 1, number), e)
        });
        nulls("tb_weights_tensor", &[NO, NO, NO], |t, e| {
            tb_weights_tensor(p(t, 0, o.weights), p(t, 1, proj), m(t, 2, tensor), e)
        });
        nulls("tb_weights_tensor_at", &[NO, NO], |t, e| {
            tb_weights_tensor_at(p(t, 0, o.weights), 0, m(t, 1, tensor), e)
        });
        nulls("tb_weights_copy_tensor", &[NO, NO, NO, FINE], |t, e| {
            tb_weights_copy_tensor(p(t, 0, o.weights), p(t, 1, proj), m(t, 2, out), ROOM, m(t, 3, number), e)
        });
        nulls("tb_preprocess", &[NO, NO, FINE, NO], |t, e| {
            tb_preprocess(p(t, 0, if t == 3 { &no_data } else { image }), 8, m(t, 1, out), ROOM, m(t, 2, number), e)
        });
        nulls("tb_encoder_create", &[NO, FINE, NO], |t, e| {
            made(t, 2, tb_encoder_free, |to| tb_encoder_create(p(t, 0, o.basis), p(t, 1, encoder_options), to, e))
        });
        nulls("tb_encoder_info", &[NO, NO], |t, e| tb_encoder_info(p(t, 0, o.encoder), m(t, 1, model), e));
        nulls("tb_encoder_encode", &[NO, NO, NO, NO], |t, e| {
            let (encoder, weights) = (p(t, 0, o.encoder), p(t, 1, o.weights));
            tb_encoder_encode(encoder, weights, p(t, 2, pixels.as_ptr()), 1, m(t, 3, out), ROOM, e)
        });
        nulls("tb_encoder_encode_images", &[NO, NO, NO, NO, NO], |t, e| {
            let (encoder, weights) = (p(t, 0, o.encoder), p(t, 1, o.weights));
            let images = p(t, 2, if t == 4 { &no_data } else { image });
            tb_encoder_encode_images(encoder, weights, images, 1, m(t, 3, out), ROOM, e)
        });
        nulls("tb_encoder_prepare", &[NO, NO], |t, e| tb_encoder_prepare(p(t, 0, o.encoder), p(t, 1, o.weights), e));
        nulls("tb_encoder_is_prepared", &[NO, NO, NO], |t, e| {
            tb_encoder_is_prepared(p(t, 0, o.encoder), p(t, 1, o.weights), m(t, 2, flag), e)
        });
        nulls("tb_encoder_device_stats", &[NO, NO, NO], |t, e| {
            tb_encoder_device_stats(p(t, 0, o.encoder), p(t, 1, o.basis), m(t, 2, on_device), e)
        });
        nulls("tb_encoder_promote", &[NO, NO], |t, e| tb_encoder_promote(p(t, 0, o.encoder), p(t, 1, o.weights), 1, e));
        nulls("tb_encoder_promotion", &[NO, NO, NO], |t, e| {
            tb_encoder_promotion(p(t, 0, o.encoder), p(t, 1, o.weights), m(t, 2, flag), e)
        });
        nulls("tb_encoder_demote", &[NO, NO], |t, e| tb_encoder_demote(p(t, 0, o.encoder), p(t, 1, o.weights), e));
        nulls("tb_encoder_trim", &[NO], |t, e| tb_encoder_trim(p(t, 0, o.encoder), e));
        nulls("tb_head_open", &[NO, NO, FINE, NO], |t, e| {
            let (path, task, classes) = (p(t, 0, o.heads.as_ptr()), p(t, 1, mnist), p(t, 2, o.classes.as_ptr()));
            made(t, 3, tb_head_free, |to| tb_head_open(path, task, classes, to, e))
        });
        nulls("tb_head_classes", &[NO, NO], |t, e| tb_head_classes(p(t, 0, o.head), m(t, 1, number), e));
        nulls("tb_head_class_name", &[NO, NO], |t, e| tb_head_class_name(p(t, 0, o.head), 0, m(t, 1, name), e));
        nulls("tb_head_classify", &[NO, NO, FINE, NO], |t, e| {
            let (head, embeds, logits) = (p(t, 0, o.head), p(t, 1, embeds.as_ptr()), m(t, 2, out));
            tb_head_classify(head, embeds, 1, embedding, logits, ROOM, m(t, 3, score), 1, e)
        });

        // Those that give no status.
        assert_eq!(tb_error_status(null()), TB_OK);
        assert_eq!(text(tb_error_message(null())), "");
        assert!(tb_weights_expression(null()).is_null());
        assert_eq!(text(tb_weights_expression(o.weights)), "MNIST");
        tb_error_free(null_mut());
        tb_basis_free(null_mut());
        tb_weights_free(null_mut());
        tb_encoder_free(null_mut());
        tb_head_free(null_mut());
        tb_log_set_callback(None, null_mut(), TB_LOG_INFO);
    }
}

/// The list above is complete: every function of the header is tried there, or takes no pointer.
#[test]
fn no_function_is_forgotten() {
    let header = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/include/taskbasis.h")).unwrap();
    let tests = include_str!("capi_arguments.rs");
    let code = header.lines().filter(|line| !line.starts_with([' ', '/', '#']) && !line.starts_with("typedef"));
    let names: Vec<&str> = code
        .filter_map(|line| line.split_once('(')?.0.rsplit([' ', '*']).next())
        .filter(|name| name.starts_with("tb_"))
        .collect();
    assert!(names.len() > 35, "{names:?}");
    for name in names {
        let takes_none = ["tb_status_name", "tb_version_number", "tb_version_string"].contains(&name);
        assert!(takes_none || tests.contains(&format!("{name}(")), "{name} is not tested");
    }
}

#[test]
fn text_that_is_not_utf8() {
    let Some(o) = open(AE) else { return };
    let bad = c"\xff\xfe".as_ptr();
    let (good_basis, good_encoder) = (basis_options(&o.base), sized::<tb_encoder_options>());
    let task = tb_task { name: bad, lambda: 1.0 };
    let (mut basis, mut weights, mut encoder, mut head) = (null_mut(), null_mut(), null_mut(), null_mut());
    let (mut number, mut tensor, mut library) = (0, sized(), sized());
    let no = |what: &str, call: &dyn Fn(*mut *mut tb_error) -> tb_status| {
        let message = fails(NO, call);
        assert!(message.contains("UTF-8") && message.contains(what), "{message}");
    };
    unsafe {
        let (basis, weights, encoder, head) = (&raw mut basis, &raw mut weights, &raw mut encoder, &raw mut head);
        let (number, tensor, library) = (&raw mut number, &raw mut tensor, &raw mut library);
        no("onnxruntime", &|e| tb_library_info(bad, library, e));
        no("path", &|e| tb_basis_open(bad, &good_basis, basis, e));
        no("base", &|e| tb_basis_open(null(), &tb_basis_options { base: bad, ..good_basis }, basis, e));
        no("name", &|e| tb_basis_task_index(o.basis, bad, number, e));
        no("expression", &|e| tb_weights_create(o.basis, bad, weights, e));
        no("name", &|e| tb_weights_create_from_tasks(o.basis, &task, 1, weights, e));
        no("name", &|e| tb_weights_tensor(o.weights, bad, tensor, e));
        no("name", &|e| tb_weights_copy_tensor(o.weights, bad, null_mut(), 0, null_mut(), e));
        let provider = tb_encoder_options { provider: bad, ..good_encoder };
        no("provider", &|e| tb_encoder_create(o.basis, &provider, encoder, e));
        let cache = tb_encoder_options { tensorrt_cache: bad, ..good_encoder };
        no("tensorrt_cache", &|e| tb_encoder_create(o.basis, &cache, encoder, e));
        let runtime = tb_encoder_options { onnxruntime: bad, ..good_encoder };
        no("onnxruntime", &|e| tb_encoder_create(o.basis, &runtime, encoder, e));
        let graph = tb_encoder_options { graph: bad, ..good_encoder };
        no("graph", &|e| tb_encoder_create(o.basis, &graph, encoder, e));
        let map = tb_encoder_options { map: bad, ..good_encoder };
        no("map", &|e| tb_encoder_create(o.basis, &map, encoder, e));
        no("path", &|e| tb_head_open(bad, null(), null(), head, e));
        no("task", &|e| tb_head_open(o.heads.as_ptr(), bad, null(), head, e));
        no("classes", &|e| tb_head_open(o.heads.as_ptr(), c"MNIST".as_ptr(), bad, head, e));
    }
}

/// A buffer one too small: nothing is written, the size is told. One that fits: nothing is written behind it.
/// Where a function says how much room it needs, beside the message.
#[derive(Clone, Copy, PartialEq)]
enum Reported {
    Needed,
    MessageAlone,
}

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
    let providers = unsafe { std::ffi::CStr::from_ptr(about.providers) }.to_str().unwrap();
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
        ok(|e| made(usize::MAX, 0, tb_basis_free, |to| tb_basis_open(null(), &base_alone, to, e)));
        let both = tb_basis_options { share_cache: o.basis, cache_bytes: 1, ..base_alone };
        fails(NO, |e| tb_basis_open(null(), &both, &mut null_mut(), e));
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
            let used = std::ffi::CStr::from_ptr(info.provider).to_str().unwrap();
            let is_auto = provider == c"auto".as_ptr();
            assert!(used == "cpu" || (is_auto && used == "cuda"));
            assert_eq!((info.device, info.fallback.is_null()), (0, !is_auto || used == "cuda"));
            tb_encoder_free(encoder);
        }
    }
}
