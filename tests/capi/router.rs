//! Routers through the C ABI: the values of Rust's, batches grouped by task, and what is refused.
#![cfg(feature = "build")]
#![allow(clippy::undocumented_unsafe_blocks)] // Each calls the C ABI as a C program would; the point is what it survives.

use std::ffi::{CStr, CString};
use std::ptr::{null, null_mut};

use crate::support::capi::*;
use taskbasis::capi::tb_status::*;
use taskbasis::capi::*;
use taskbasis::{OpenModel, OpenOptions, Router, RouterFit};

const TASKS: [&str; 2] = ["MNIST", "Parity"];

/// A router of made-up features, of two tasks that lie apart, over the basis that is open.
pub(crate) fn write_router(o: &Opened, fallback: Option<&str>) -> (tempfile::TempDir, CString) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("router.safetensors");
    let e = o.model.embedding;
    let base = o.base.to_str().unwrap();
    let options = OpenOptions { base: Some(base.into()), ..OpenOptions::default() };
    let opened = OpenModel::open(o.folder.to_str().unwrap(), &options).unwrap();
    let feature = |task: usize, n: usize| {
        (0..e).map(move |i| f32::from(u8::from(i == task)) + ((i * 7 + n * 13 + task) % 11) as f32 * 0.01)
    };
    let features = [0, 1].map(|task| (TASKS[task].to_owned(), (0..12).flat_map(|n| feature(task, n)).collect()));
    let fit = RouterFit { fallback: fallback.map(|text| text.parse().unwrap()), ..RouterFit::default() };
    let pooling = taskbasis::Pooling::ClassToken;
    fit.fit(opened.fingerprint().unwrap(), pooling, e, &features).unwrap().0.save(&path, &[]).unwrap();
    (folder, CString::new(path.to_str().unwrap()).unwrap())
}

pub(crate) const NO_ROUTE: tb_route = tb_route { task: 0, probability: 0.0, confidence: 0.0, choice: 0, reserved: 0 };

#[test]
fn a_router_tells_tasks_and_groups_a_batch() {
    let Some(o) = open(AE) else { return };
    let (_folder, path) = write_router(&o, Some("all@0.3"));
    let e = o.model.embedding;
    let pixels = o.pixels(6);
    unsafe {
        let mut router = null_mut();
        ok(|err| tb_router_open(o.basis, path.as_ptr(), null(), &mut router, err));
        let mut info: tb_router_properties = sized();
        ok(|err| tb_router_info(router, &mut info, err));
        assert_eq!((info.tasks, info.embedding, info.threshold), (2, e, 0.5));
        assert_eq!(CStr::from_ptr(info.features), c"base");
        assert_eq!(CStr::from_ptr(info.fallback), c"all@0.3");
        for (index, task) in TASKS.iter().enumerate() {
            let mut name = null();
            ok(|err| tb_router_task_name(router, index, &mut name, err));
            assert_eq!(CStr::from_ptr(name).to_str().unwrap(), *task);
        }
        fails(TB_ERR_NOT_FOUND, |err| tb_router_task_name(router, 2, &mut null(), err));

        // The features that it was made of, and what Rust says of them.
        let mut features = vec![0.01f32; 2 * e];
        (features[0], features[e + 1]) = (1.0, 1.0);
        let mut routes = [NO_ROUTE; 2];
        ok(|err| tb_router_route(router, features.as_ptr(), 2, e, routes.as_mut_ptr(), err));
        let expected = Router::open(path.to_str().unwrap()).unwrap().route(&features).unwrap();
        for (at, (got, want)) in routes.iter().zip(expected).enumerate() {
            let (task, probability, confidence) = (want.task, want.probability, want.confidence);
            assert_eq!((got.task, got.probability, got.confidence), (task, probability, confidence));
            assert_eq!(task, at);
        }
        let message = fails(TB_ERR_MISMATCH, |err| {
            tb_router_route(router, features.as_ptr(), 2, e - 1, routes.as_mut_ptr(), err)
        });
        assert!(message.contains("features of another length"), "{message}");
        features[3] = f32::NAN;
        fails(TB_ERR_INVALID_ARGUMENT, |err| {
            tb_router_route(router, features.as_ptr(), 2, e, routes.as_mut_ptr(), err)
        });

        // Whatever was chosen for an image: its embedding is the one of that task, or of the fallback.
        let (mut embeds, mut routes) = (vec![-7.5f32; 6 * e + 1], [NO_ROUTE; 6]);
        let encode = |router, room: usize, to: *mut f32, routes, err| {
            tb_router_encode(router, o.encoder, pixels.as_ptr(), 6, to, room, routes, err)
        };
        ok(|err| encode(router, 6 * e, embeds.as_mut_ptr(), routes.as_mut_ptr(), err));
        assert_eq!(embeds[6 * e], -7.5);
        for (at, route) in routes.iter().enumerate() {
            let expression = match route.choice {
                TB_CHOICE_TASK => CString::new(TASKS[route.task]).unwrap(),
                _ => c"all@0.3".to_owned(),
            };
            let (mut weights, mut alone) = (null_mut(), vec![0f32; e]);
            ok(|err| tb_weights_create(o.basis, expression.as_ptr(), &mut weights, err));
            let image = pixels[at * pixels.len() / 6..].as_ptr();
            ok(|err| tb_encoder_encode(o.encoder, weights, image, 1, alone.as_mut_ptr(), e, err));
            let difference = crate::support::relative_l2(&embeds[at * e..][..e], &alone);
            assert!(difference < 1e-5, "image {at}: {difference}");
            tb_weights_free(weights);
        }
        let before = embeds.clone();
        fails(TB_ERR_BUFFER_TOO_SMALL, |err| encode(router, 6 * e - 1, embeds.as_mut_ptr(), null_mut(), err));
        assert_eq!(embeds, before);
        ok(|err| encode(router, 6 * e, embeds.as_mut_ptr(), null_mut(), err));

        // Heads in the order of the tasks; a router of no fallback answers for none.
        let mut heads = [null_mut(), null_mut()];
        for (head, task) in heads.iter_mut().zip([c"MNIST", c"Parity"]) {
            ok(|err| tb_head_open(o.heads.as_ptr(), task.as_ptr(), null(), head, err));
        }
        let heads = heads.map(|head: *mut tb_head| head.cast_const());
        let mut top = [tb_score { class_index: 9, logit: 9.0, probability: 9.0 }; 6 * 3];
        ok(|err| {
            let (images, routes) = (pixels.as_ptr(), routes.as_mut_ptr());
            tb_router_classify(router, o.encoder, heads.as_ptr(), 2, images, 6, routes, top.as_mut_ptr(), 3, err)
        });
        for (route, best) in routes.iter().zip(top.chunks_exact(3)) {
            // Parity has two classes, which leaves one place of three.
            assert_eq!(best[2].class_index == usize::MAX, route.task == 1, "{}", best[2].class_index);
            assert!(best[0].probability >= best[1].probability && best[1].class_index < 10);
        }
        fails(TB_ERR_INVALID_ARGUMENT, |err| {
            let (images, routes) = (pixels.as_ptr(), routes.as_mut_ptr());
            tb_router_classify(router, o.encoder, heads.as_ptr(), 1, images, 6, routes, null_mut(), 0, err)
        });
        let mut silent = null_mut();
        let options = tb_router_options { threshold: 1.0, fallback: c"none".as_ptr(), ..sized() };
        ok(|err| tb_router_open(o.basis, path.as_ptr(), &options, &mut silent, err));
        ok(|err| tb_router_info(silent, &mut info, err));
        assert!(info.fallback.is_null() && info.threshold == 1.0);
        ok(|err| {
            let (images, routes) = (pixels.as_ptr(), routes.as_mut_ptr());
            tb_router_classify(silent, o.encoder, heads.as_ptr(), 2, images, 6, routes, top.as_mut_ptr(), 3, err)
        });
        let unanswered = routes.iter().zip(top.chunks_exact(3)).filter(|(route, _)| route.choice == TB_CHOICE_NONE);
        assert!(unanswered.clone().count() > 0, "none is as sure as that");
        for (_, best) in unanswered {
            assert!(best.iter().all(|score| score.class_index == usize::MAX && score.logit == 0.0));
        }

        // Handles go in any order: the router keeps what it needs.
        heads.iter().for_each(|head| tb_head_free(head.cast_mut()));
        tb_router_free(silent);
        tb_router_free(router);
        tb_router_free(null_mut());
    }
}

#[test]
fn routers_that_do_not_belong_are_refused() {
    let Some(o) = open(AE) else { return };
    let (_folder, path) = write_router(&o, None);
    let said = |path: &CStr, options: *const tb_router_options, status: tb_status, part: &str| {
        let mut router = null_mut();
        let message = fails(status, |err| unsafe { tb_router_open(o.basis, path.as_ptr(), options, &mut router, err) });
        assert!(router.is_null() && message.contains(part), "{message}");
    };
    said(c"/nonexistent", null(), TB_ERR_IO, "/nonexistent");
    said(&o.base, null(), TB_ERR_FORMAT, "not a router");
    let options =
        |threshold: f64, fallback: &CStr| tb_router_options { threshold, fallback: fallback.as_ptr(), ..sized() };
    for threshold in [1.5, -0.5, f64::NAN] {
        said(&path, &options(threshold, c"none"), TB_ERR_INVALID_ARGUMENT, "a threshold is a confidence");
    }
    said(&path, &options(0.0, c"Cars@0.3"), TB_ERR_NOT_FOUND, "Cars");
    said(&path, &options(0.0, c"@"), TB_ERR_INVALID_ARGUMENT, "");
}
