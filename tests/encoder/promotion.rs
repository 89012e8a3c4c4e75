//! Promotion: a hot task gets a session of its own, and a caller notices only by the speed.
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::bundle::promotable;
use taskbasis::{
    Arch, ArchHints, Basis, Checkpoint, Encoder, EncoderOptions, Model, ModelOptions, Promotion, PromotionState,
    TaskWeights,
};

const FOLDER: &str = "examples/digits/bases/ViT-D-8_AE_M4_8task";
const BASE: &str = "examples/digits/base/pickled_module.pt";

fn model(cache_bytes: usize) -> Arc<Model> {
    let options = ModelOptions { cache_bytes: Some(cache_bytes), ..ModelOptions::default() };
    Model::new(Checkpoint::open(BASE).unwrap(), Some(Basis::open(FOLDER).unwrap()), &options).unwrap()
}

/// An encoder over a graph whose layers are not recognised: the others gain nothing.
fn encoder(promotion: Promotion, concurrency: usize) -> Encoder {
    let (base, basis) = (Checkpoint::open(BASE).unwrap(), Basis::open(FOLDER).unwrap());
    let arch = Arch::of(&base, ArchHints::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let graph = promotable(&arch, &base, &basis, &folder.path().join("graph.onnx"));
    let options = EncoderOptions { promotion, concurrency, ..EncoderOptions::default() };
    Encoder::with_graph(&arch, &graph, &options).unwrap()
}

fn task(model: &Arc<Model>, expression: &str) -> TaskWeights {
    model.weights(&expression.parse().unwrap()).unwrap()
}

/// `n` images of this encoder, all different.
fn images(encoder: &Encoder, n: usize) -> Vec<f32> {
    (0..n * encoder.arch().pixels()).map(|i| ((i * 37 % 1009) as f32 / 504.5) - 1.0).collect()
}

/// The largest difference, relative to the largest value.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let largest = a.iter().fold(0f32, |most, x| most.max(x.abs()));
    a.iter().zip(b).fold(0f32, |most, (x, y)| most.max((x - y).abs())) / largest
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what} never came");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn before_and_after_agree_and_each_is_reproducible() {
    let (model, encoder) = (model(64 << 20), encoder(Promotion::Manual, 1));
    for expression in ["MNIST", "-Parity@0.5", "merged@0.4", "base"] {
        let task = task(&model, expression);
        for n in [1, 3, 8] {
            encoder.demote(&task);
            let pixels = images(&encoder, n);
            let before = encoder.encode_task(&task, &pixels, n).unwrap();
            assert_eq!(before, encoder.encode(&task.get().unwrap(), &pixels, n).unwrap());
            encoder.promote(&task).unwrap();
            assert!(encoder.is_promoted(&task));
            let after = encoder.encode_task(&task, &pixels, n).unwrap();
            assert!(distance(&before, &after) < 1e-5, "{expression}, {n} images: {}", distance(&before, &after));
            assert_eq!(after, encoder.encode_task(&task, &pixels, n).unwrap());
            // The same again in another session of the same weights.
            encoder.demote(&task);
            encoder.promote(&task).unwrap();
            assert_eq!(after, encoder.encode_task(&task, &pixels, n).unwrap());
        }
    }
}

#[test]
fn a_task_is_promoted_after_its_runs_and_no_other() {
    let (model, encoder) = (model(64 << 20), encoder(Promotion::After(5), 1));
    let (hot, cold) = (task(&model, "MNIST"), task(&model, "Parity"));
    let pixels = images(&encoder, 1);
    encoder.encode_task(&cold, &pixels, 1).unwrap();
    for run in 1..5 {
        encoder.encode_task(&hot, &pixels, 1).unwrap();
        assert_eq!(encoder.promotion(&hot), PromotionState::Inputs(run));
    }
    // Another spelling of the same weights counts for them.
    encoder.encode_task(&task(&model, "MNIST@0.5 + MNIST@0.5"), &pixels, 1).unwrap();
    wait_until("the promotion", || encoder.is_promoted(&hot));
    assert_eq!(encoder.promotion(&cold), PromotionState::Inputs(1));
    assert_eq!(model.cache().stats().promoted, 1);
    assert!(model.cache().stats().promoted_bytes >= 4 * 150_000);

    assert!(encoder.demote(&hot) && !encoder.demote(&hot));
    assert_eq!(encoder.promotion(&hot), PromotionState::Inputs(0));
}

#[test]
fn a_promoted_task_needs_no_weights() {
    let (model, encoder) = (model(64 << 20), encoder(Promotion::Manual, 1));
    let task = task(&model, "MNIST");
    encoder.promote(&task).unwrap();
    let (misses, pixels) = (model.cache().stats().misses, images(&encoder, 2));
    let first = encoder.encode_task(&task, &pixels, 2).unwrap();
    // As many others as it takes to push its weights out; each time the session is used, so it stays.
    for i in 1..200 {
        model.weights(&format!("Parity@0.{i:03}").parse().unwrap()).unwrap().get().unwrap();
        assert_eq!(encoder.encode_task(&task, &pixels, 2).unwrap(), first);
    }
    assert!(!task.is_ready() && encoder.is_promoted(&task));
    assert_eq!(model.cache().stats().misses, misses + 199);
    let stats = model.cache().stats();
    assert!(stats.bytes + stats.spare_bytes <= 64 << 20);
}

#[test]
fn the_budget_decides() {
    let encoder = encoder(Promotion::Manual, 1);
    let small = model(4096);
    let error = encoder.promote(&task(&small, "MNIST")).unwrap_err();
    assert!(error.to_string().contains("budget"), "{error}");
    assert!(matches!(encoder.promotion(&task(&small, "MNIST")), PromotionState::Failed(_)));
    encoder.encode_task(&task(&small, "MNIST"), &images(&encoder, 1), 1).unwrap();

    let model = model(64 << 20);
    let (first, second) = (task(&model, "MNIST"), task(&model, "Parity"));
    encoder.promote(&first).unwrap();
    let session = model.cache().stats().promoted_bytes;
    // Room for one session alone: the one that was used last stays.
    model.cache().set_budget(session);
    assert!(encoder.is_promoted(&first));
    encoder.promote(&second).unwrap();
    assert!(encoder.is_promoted(&second) && !encoder.is_promoted(&first));
    model.cache().set_budget(0);
    assert!(!encoder.is_promoted(&second));
    assert_eq!(model.cache().stats().promoted, 0);
    encoder.encode_task(&second, &images(&encoder, 1), 1).unwrap();
}

#[test]
fn the_built_graph_needs_none() {
    let (model, arch) = (model(64 << 20), Arch::of(&Checkpoint::open(BASE).unwrap(), ArchHints::default()).unwrap());
    for promotion in [Promotion::Manual, Promotion::After(2), Promotion::Off] {
        let encoder = Encoder::new(&arch, &EncoderOptions { promotion, ..EncoderOptions::default() }).unwrap();
        let (task, pixels) = (task(&model, "MNIST"), images(&encoder, 1));
        let first = encoder.encode_task(&task, &pixels, 1).unwrap();
        encoder.promote(&task).unwrap();
        encoder.promote_in_background(&task).unwrap();
        for _ in 0..4 {
            assert_eq!(encoder.encode_task(&task, &pixels, 1).unwrap(), first);
        }
        assert_eq!((encoder.promotion(&task), encoder.is_promoted(&task)), (PromotionState::Unneeded, false));
        assert!(!encoder.demote(&task) && model.cache().stats().promoted == 0);
    }
}

#[test]
fn off_is_off() {
    let (model, encoder) = (model(64 << 20), encoder(Promotion::Off, 1));
    let task = task(&model, "MNIST");
    let pixels = images(&encoder, 1);
    let first = encoder.encode_task(&task, &pixels, 1).unwrap();
    for _ in 0..Promotion::DEFAULT_RUNS + 5 {
        assert_eq!(encoder.encode_task(&task, &pixels, 1).unwrap(), first);
    }
    assert!(encoder.promote(&task).is_err() && !encoder.is_promoted(&task));
}

#[test]
fn an_encoder_takes_its_sessions_with_it() {
    let model = model(64 << 20);
    let (first, second) = (encoder(Promotion::Manual, 1), encoder(Promotion::Manual, 1));
    let tasks: Vec<_> = ["MNIST", "Parity", "Loops"].map(|name| task(&model, name)).into();
    for task in &tasks {
        first.promote_in_background(task).unwrap();
        second.promote(task).unwrap();
    }
    drop(first);
    assert_eq!(model.cache().stats().promoted, 3);
    drop(second);
    assert_eq!(model.cache().stats().promoted, 0);
}

#[test]
fn threads_may_run_promote_and_demote_as_they_like() {
    let (model, encoder) = (model(64 << 20), encoder(Promotion::After(3), 4));
    let tasks: Vec<_> = ["MNIST", "Parity", "Loops", "Colors"].map(|name| task(&model, name)).into();
    let pixels = images(&encoder, 2);
    let inputs: Vec<_> = tasks.iter().map(|task| encoder.encode(&task.get().unwrap(), &pixels, 2).unwrap()).collect();
    let frozen: Vec<_> = tasks
        .iter()
        .map(|task| {
            encoder.promote(task).unwrap();
            encoder.encode_task(task, &pixels, 2).unwrap()
        })
        .collect();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (model, encoder, tasks, pixels, inputs, frozen) = (&model, &encoder, &tasks, &pixels, &inputs, &frozen);
            scope.spawn(move || {
                for i in 0..200 {
                    let t = (i * 7 + thread * 3) % tasks.len();
                    match i % 40 {
                        7 => drop(encoder.demote(&tasks[t])),
                        19 => model.cache().trim(1 << 20),
                        31 => encoder.promote_in_background(&tasks[t]).unwrap(),
                        _ => {
                            let embeds = encoder.encode_task(&tasks[t], pixels, 2).unwrap();
                            assert!(embeds == inputs[t] || embeds == frozen[t], "neither way of running gives these");
                        }
                    }
                }
            });
        }
    });
}
