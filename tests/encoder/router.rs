//! Images sent to their tasks: the embeddings are those of each image's own task, whatever stands beside it in the
//! batch.

use std::path::PathBuf;

use crate::support::{digits, relative_l2, runtime, whole_digits};
use taskbasis::{
    Choice, Dataset, Encoder, EncoderOptions, ErrorKind, FeatureKind, OpenModel, OpenOptions, Preprocess, Residency,
    Router, RouterFit, Routing, TaskExpr,
};

/// Tasks of the digits family whose images look different.
const TASKS: [&str; 4] = ["Colors", "Inverted", "MNIST", "Quadrant"];
const SIZE: usize = 3 * 32 * 32;

fn open() -> Option<(OpenModel, Encoder)> {
    let base: PathBuf = digits("base/pickled_module.pt")?;
    let options = OpenOptions { base: Some(base), ..OpenOptions::default() };
    let opened = OpenModel::open(digits("bases/ViT-D-8_AE_M4_8task")?, &options).unwrap();
    let encoder = opened.encoder(&EncoderOptions::default()).unwrap();
    Some((opened, encoder))
}

/// The pixels of the first `n` images of a task.
fn pixels(data: &Dataset, task: &str, split: &str, n: usize) -> Vec<f32> {
    data.split(task, split).unwrap().preprocess(&Preprocess::new(32).unwrap(), 0..n, 1).unwrap()
}

fn router(opened: &OpenModel, encoder: &Encoder, data: &Dataset) -> Router {
    let base = opened.model().weights(&TaskExpr::base()).unwrap();
    let features = TASKS.map(|task| {
        let pixels = pixels(data, task, "test", 24);
        (task.to_owned(), encoder.encode_task(&base, &pixels, 24).unwrap())
    });
    let fit = RouterFit { fallback: Some("all@0.3".parse().unwrap()), ..RouterFit::default() };
    let arch = encoder.arch();
    let fingerprint = opened.fingerprint().unwrap();
    let (router, report) = fit.fit(fingerprint, arch.variant.pooling, arch.embed_dim, &features).unwrap();
    assert!(report.own.iter().all(|&own| own > 0.6), "{report:?}");
    router
}

/// A router of hidden features sends images where it should, and embeds each by its task, or by the features' own run.
#[test]
fn hidden_features_route_and_embed() {
    if !runtime() {
        return;
    }
    let (Some((opened, encoder)), Some(images)) = (open(), whole_digits("images.safetensors")) else { return };
    let data = Dataset::open(images).unwrap();
    let weights = |expr: &str| opened.model().weights(&expr.parse().unwrap()).unwrap();
    let features = TASKS.map(|task| {
        let pixels = pixels(&data, task, "test", 24);
        (task.to_owned(), encoder.encode_hidden(&weights("all@0.3"), &pixels, 24).unwrap().features)
    });
    let merged: TaskExpr = "all@0.3".parse().unwrap();
    let kind = FeatureKind::Hidden;
    let fit = RouterFit { kind, features: merged.clone(), fallback: Some(merged), ..RouterFit::default() };
    let arch = encoder.arch();
    let fingerprint = opened.fingerprint().unwrap();
    let (router, report) = fit.fit(fingerprint, arch.variant.pooling, kind.extent(arch), &features).unwrap();
    assert!(report.own.iter().all(|&own| own > 0.7), "{report:?}");
    let unsure = router.clone().with_threshold(1.0).unwrap();
    let e = arch.embed_dim;
    let mut batch = Vec::new();
    TASKS.iter().for_each(|task| batch.extend(pixels(&data, task, "test", 8)));
    let mut fell = 0;
    for (router, least) in [(router.clone(), 26), (unsure, 0)] {
        let routing = Routing::new(router, &opened).unwrap();
        let routed = routing.encode(&encoder, &batch, 32).unwrap();
        let mut own = 0;
        for (at, (route, choice)) in routed.routes.iter().zip(&routed.choices).enumerate() {
            own += usize::from(route.task == at / 8 && *choice == Choice::Task);
            fell += usize::from(*choice == Choice::Fallback);
            let expr = if *choice == Choice::Task { TASKS[route.task] } else { "all@0.3" };
            let alone = encoder.encode_task(&weights(expr), &batch[at * SIZE..][..SIZE], 1).unwrap();
            assert!(relative_l2(&routed.embeds[at * e..][..e], &alone) < 1e-5, "image {at} by {expr}");
        }
        assert!(own >= least, "{own} of 32");
    }
    assert!(fell > 0);
    let blockwise = EncoderOptions { residency: Residency::Blockwise, ..EncoderOptions::default() };
    let blockwise = opened.encoder(&blockwise).unwrap();
    let error = Routing::new(router, &opened).unwrap().encode(&blockwise, &batch, 32).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[test]
fn a_batch_of_several_tasks_is_encoded_by_each_images_own() {
    if !runtime() {
        return;
    }
    let (Some((opened, encoder)), Some(images)) = (open(), whole_digits("images.safetensors")) else { return };
    let data = Dataset::open(images).unwrap();
    let router = router(&opened, &encoder, &data);
    let routing = Routing::new(router.clone(), &opened).unwrap();
    // One image of each task in turn, of those that the router was made of.
    let of_each = TASKS.map(|task| pixels(&data, task, "test", 8));
    let mut batch = Vec::new();
    for at in 0..8 {
        of_each.iter().for_each(|pixels| batch.extend_from_slice(&pixels[at * SIZE..][..SIZE]));
    }
    let routed = routing.encode(&encoder, &batch, 32).unwrap();
    let e = encoder.arch().embed_dim;
    assert_eq!((routed.embeds.len(), routed.routes.len(), routed.choices.len()), (32 * e, 32, 32));
    let weights = |expr: &str| opened.model().weights(&expr.parse().unwrap()).unwrap();
    let mut own = 0;
    for at in 0..32 {
        let (route, choice) = (routed.routes[at], routed.choices[at]);
        own += usize::from(route.task == at % 4 && choice == Choice::Task);
        let expr = match choice {
            Choice::Task => TASKS[route.task],
            Choice::Fallback => "all@0.3",
            Choice::None => panic!("there is a fallback"),
        };
        let alone = encoder.encode_task(&weights(expr), &batch[at * SIZE..][..SIZE], 1).unwrap();
        assert!(relative_l2(&routed.embeds[at * e..][..e], &alone) < 1e-5, "image {at} by {expr}");
    }
    assert!(own >= 24, "{own} of 32");

    // All to the fallback, and none at all.
    let unsure = router.clone().with_threshold(1.0).unwrap();
    let routed = Routing::new(unsure.clone(), &opened).unwrap().encode(&encoder, &batch, 32).unwrap();
    let merged = encoder.encode_task(&weights("all@0.3"), &batch, 32).unwrap();
    let fell = (0..32).filter(|&at| routed.choices[at] == Choice::Fallback);
    fell.clone().for_each(|at| assert!(relative_l2(&routed.embeds[at * e..][..e], &merged[at * e..][..e]) < 1e-5));
    assert!(fell.count() > 0);
    let silent = Routing::new(unsure.with_fallback(None), &opened).unwrap().encode(&encoder, &batch, 32).unwrap();
    for (choice, embed) in silent.choices.iter().zip(silent.embeds.chunks_exact(e)) {
        assert_eq!(*choice == Choice::None, embed.iter().all(|&value| value == 0.0));
    }
    // Features that answer themselves take no other run.
    let based = Routing::new(router.clone().with_fallback(Some(TaskExpr::base())), &opened).unwrap();
    assert_eq!(based.encode(&encoder, &[], 0).unwrap().embeds, [0.0f32; 0]);

    let mut other = OpenOptions { base: digits("base/pickled_module.pt"), ..OpenOptions::default() };
    other.image_size = Some(64);
    let other = OpenModel::open(digits("bases/ViT-D-8_AE_M4_8task").unwrap(), &other).unwrap();
    let error = Routing::new(router.clone(), &other).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    let alone = OpenModel::open_base(&OpenOptions { base: digits("base/pickled_module.pt"), ..Default::default() });
    assert_eq!(Routing::new(router, &alone.unwrap()).unwrap_err().kind(), ErrorKind::InvalidArgument);
}
