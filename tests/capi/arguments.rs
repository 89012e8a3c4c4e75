//! Every function of the C ABI with every pointer NULL and every text that is none: an error each, and nothing written
//! that should not be. `capi_values.rs` has sizes, numbers and names.
#![allow(clippy::undocumented_unsafe_blocks)] // Each calls the C ABI as a C program would; the point is what it survives.

use std::ffi::c_char;
use std::ptr::{null, null_mut};

use crate::support::capi::*;
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
    let (coefficients, no_mean) = ([0.1f64; 4], 0.0f64);
    const ROOM: usize = 1 << 16;
    let (mut floats, mut doubles) = (vec![0f32; ROOM], [0f64; 64]);
    let (out, doubles) = (floats.as_mut_ptr(), doubles.as_mut_ptr());
    let (mut number, mut flag, mut mean, mut name) = (0usize, 0i32, 0f64, null::<c_char>());
    let (number, flag, mean, name) = (&raw mut number, &raw mut flag, &raw mut mean, &raw mut name);
    let mut scores = [tb_score { class_index: 0, logit: 0.0, probability: 0.0 }; 2];
    let (score, mut function) = (scores.as_mut_ptr(), 0u32);
    let function = &raw mut function;
    let (mut tensor, mut library, mut about, mut stats, mut model) = (sized(), sized(), sized(), sized(), sized());
    let (tensor, library, about) = (&raw mut tensor, &raw mut library, &raw mut about);
    let (stats, model): (*mut tb_cache_statistics, *mut tb_encoder_properties) = (&raw mut stats, &raw mut model);
    let mut on_device: tb_device_statistics = sized();
    let on_device = &raw mut on_device;
    let routed: tb_router_options = sized();
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
        nulls("tb_basis_dot", &[NO, NO, NO, NO], |t, e| {
            tb_basis_dot(p(t, 0, o.basis), p(t, 1, mnist), p(t, 2, mnist), m(t, 3, mean), e)
        });
        nulls("tb_basis_norm", &[NO, NO, NO], |t, e| tb_basis_norm(p(t, 0, o.basis), p(t, 1, mnist), m(t, 2, mean), e));
        nulls("tb_basis_cosine", &[NO, NO, NO, NO], |t, e| {
            tb_basis_cosine(p(t, 0, o.basis), p(t, 1, mnist), p(t, 2, mnist), m(t, 3, mean), e)
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
        nulls("tb_weights_create_grouped", &[NO, NO, NO, FINE, NO, NO], |t, e| {
            let group = [if t == 5 { null() } else { c"*".as_ptr() }];
            let (groups, values) = (p(t, 1, group.as_ptr()), p(t, 2, coefficients.as_ptr()));
            let means = p(t, 3, &raw const no_mean);
            made(t, 4, tb_weights_free, |to| {
                tb_weights_create_grouped(p(t, 0, o.basis), groups, 1, values, o.about.vectors, means, to, e)
            })
        });
        nulls("tb_weights_coefficients_of", &[NO, NO, NO, FINE, FINE], |t, e| {
            let (of, to, needed, mean) = (p(t, 1, proj), m(t, 2, doubles), m(t, 3, number), m(t, 4, mean));
            tb_weights_coefficients_of(p(t, 0, o.weights), of, to, 64, needed, mean, e)
        });
        nulls("tb_basis_group_count", &[NO, NO, NO], |t, e| {
            tb_basis_group_count(p(t, 0, o.basis), p(t, 1, c"block".as_ptr()), m(t, 2, number), e)
        });
        nulls("tb_basis_group", &[NO, NO, NO, FINE], |t, e| {
            let (mut text, number) = ([0; 64], m(t, 3, number));
            tb_basis_group(p(t, 0, o.basis), p(t, 1, c"kind".as_ptr()), 0, m(t, 2, text.as_mut_ptr()), 64, number, e)
        });
        let (_folder, file) = crate::router::write_router(&o, Some("base"));
        let (file, mut router) = (file.as_ptr(), null_mut());
        let (mut route, mut properties): (_, tb_router_properties) = (crate::router::NO_ROUTE, sized());
        let (route, properties, how) = (&raw mut route, &raw mut properties, &raw const routed);
        ok(|e| tb_router_open(o.basis, file, null(), &mut router, e));
        nulls("tb_router_open", &[NO, NO, FINE, NO], |t, e| {
            made(t, 3, tb_router_free, |to| tb_router_open(p(t, 0, o.basis), p(t, 1, file), p(t, 2, how), to, e))
        });
        nulls("tb_router_info", &[NO, NO], |t, e| tb_router_info(p(t, 0, router), m(t, 1, properties), e));
        nulls("tb_router_task_name", &[NO, NO], |t, e| tb_router_task_name(p(t, 0, router), 1, m(t, 1, name), e));
        nulls("tb_router_route", &[NO, NO, NO], |t, e| {
            tb_router_route(p(t, 0, router), p(t, 1, embeds.as_ptr()), 1, embedding, m(t, 2, route), e)
        });
        nulls("tb_router_encode", &[NO, NO, NO, NO, FINE], |t, e| {
            let (encoder, from, to) = (p(t, 1, o.encoder), p(t, 2, pixels.as_ptr()), m(t, 3, out));
            tb_router_encode(p(t, 0, router), encoder, from, 1, to, ROOM, m(t, 4, route), e)
        });
        nulls("tb_router_classify", &[NO, NO, NO, NO, NO, NO, NO], |t, e| {
            let heads = [o.head.cast_const(), if t == 6 { null() } else { o.head.cast_const() }];
            let (encoder, heads, from) = (p(t, 1, o.encoder), p(t, 2, heads.as_ptr()), p(t, 3, pixels.as_ptr()));
            let (routes, top) = (m(t, 4, route), m(t, 5, score));
            tb_router_classify(p(t, 0, router), encoder, heads, 2, from, 1, routes, top, 1, e)
        });
        tb_router_free(router);
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
        nulls("tb_encoder_preprocess", &[NO, NO, NO, FINE, NO], |t, e| {
            let image = p(t, 1, if t == 4 { &no_data } else { image });
            tb_encoder_preprocess(p(t, 0, o.encoder), image, m(t, 2, out), ROOM, m(t, 3, number), e)
        });
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
        nulls("tb_head_function", &[NO, NO], |t, e| tb_head_function(p(t, 0, o.head), m(t, 1, function), e));
        let heads = [o.head.cast_const(); 2];
        nulls("tb_head_classify_many", &[NO, NO, FINE, NO], |t, e| {
            let (heads, embeds, logits) = (p(t, 0, heads.as_ptr()), p(t, 1, embeds.as_ptr()), m(t, 2, out));
            tb_head_classify_many(heads, 2, embeds, 1, embedding, logits, ROOM, m(t, 3, score), 1, e)
        });
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
    let tests = include_str!("arguments.rs");
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
        let (mut product, mnist) = (0.0, c"MNIST".as_ptr());
        let product = &raw mut product;
        no("b", &|e| tb_basis_dot(o.basis, mnist, bad, product, e));
        no("a", &|e| tb_basis_norm(o.basis, bad, product, e));
        no("a", &|e| tb_basis_cosine(o.basis, bad, mnist, product, e));
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
