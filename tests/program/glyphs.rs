//! The family `examples/glyphs`: the program on the files as they are shipped, beside what PyTorch measured of the
//! weights that they were packed from.
#![cfg(feature = "cli")]

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::need::root;
use crate::support::program::{json, text};
use crate::support::{relative_l2, runtime};
use taskbasis::{Bundle, Checkpoint, Dataset, Encoder, EncoderOptions, ModelOptions, Preprocess, TaskExpr};

fn file(name: &str) -> PathBuf {
    root().join("examples/glyphs").join(name)
}

fn report() -> Value {
    serde_json::from_slice(&fs::read(file("report.json")).unwrap()).unwrap()
}

fn eval(more: &[&str]) -> Value {
    let (bundle, data) = (file("glyphs.taskbasis"), file("data"));
    json(&[&["eval", "--basis", text(&bundle), "--data", text(&data), "--batch", "100"], more].concat())
}

/// What negation must not harm, and where its images are: a domain of the base's that is no task.
fn control() -> String {
    format!("Latin={}", text(&file("control/Latin")))
}

fn mean(accuracies: &Value) -> f64 {
    let accuracies = accuracies.as_object().unwrap();
    accuracies.values().map(|accuracy| accuracy.as_f64().unwrap()).sum::<f64>() / accuracies.len() as f64
}

/// The images of a task that may be told otherwise than by PyTorch: the bundle's base is in half floats and its vectors
/// are q8 (task vectors are off by 0.5 % of their length), and images whose two best classes are nearer than that moves
/// logits change.
const IMAGES: f64 = 2.0;

/// That every task's accuracy is `expected`'s.
#[track_caller]
fn check(what: &str, got: &Value, expected: &Value) {
    let expected = expected.as_object().unwrap();
    assert_eq!(got.as_object().unwrap().len(), expected.len(), "{what}");
    for (task, accuracy) in expected {
        let images = got[task]["images"].as_f64().unwrap();
        let (got, expected) = (got[task]["accuracy"].as_f64().unwrap(), accuracy.as_f64().unwrap());
        let apart = ((got - expected) * images).abs();
        println!("{what}, {task}: {:.0} of {images:.0} images, PyTorch {:.0}", got * images, expected * images);
        assert!(apart <= IMAGES + 1e-6, "{what}, {task}: {got}, and PyTorch {expected}");
    }
}

#[test]
fn base_tasks_and_merges_have_the_accuracies_of_pytorch() {
    if !runtime() {
        return;
    }
    let report = report();
    check("base", &eval(&["--weights", "base"])["tasks"], &report["zeroshot"]["test"]);
    check("tasks", &eval(&[])["tasks"], &report["finetuned"]["test"]);
    for (lambda, expected) in report["merged"].as_object().unwrap() {
        check(lambda, &eval(&["--weights", &format!("merged@{lambda}")])["tasks"], expected);
    }
    for (task, negated) in report["negation"]["tasks"].as_object().unwrap() {
        let expression = format!("-{task}@{}", negated["coef"]);
        let control = report["negation"]["control"].as_str().unwrap();
        let got = eval(&["--data", &self::control(), "--weights", &expression, "--task", task, "--task", control]);
        let expected = serde_json::json!({ task: negated["test"], control: negated["control"] });
        check(&expression, &got["tasks"], &expected);
    }
}

#[test]
fn a_part_of_all_task_vectors_makes_the_base_better() {
    if !runtime() {
        return;
    }
    let report = report();
    let grid = report["addition"]["grid"].as_array().unwrap();
    let sweep = eval(&["--sweep", "0:1:21"]);
    assert_eq!(sweep["val"].as_object().unwrap().len(), grid.len());
    // The curve is flat at its best: a step beside is as good.
    let (best, expected) =
        (sweep["optimal_coefficient"].as_f64().unwrap(), report["addition"]["best"].as_f64().unwrap());
    assert!((best - expected).abs() <= 0.05 + 1e-9, "λ = {best}, and PyTorch {expected}");
    let zeroshot = mean(&report["zeroshot"]["test"]);
    let tasks = report["zeroshot"]["test"].as_object().unwrap();
    let test: f64 = tasks.keys().map(|task| sweep["test"][format!("{task}:top1")].as_f64().unwrap()).sum();
    let gained = test / tasks.len() as f64 - zeroshot;
    println!("λ = {best}: {:.2} points above zero-shot, of {:.2}", 100.0 * gained, 100.0 * zeroshot);
    assert!(best > 0.1 && gained >= 0.1, "λ = {best}, {gained}");
}

#[test]
fn what_the_bundle_keeps_beside_its_tasks_gains() {
    if !runtime() {
        return;
    }
    let of = |expr: &str| {
        let found = eval(&["--weights", expr]);
        let tasks = found["tasks"].as_object().unwrap().values();
        tasks.clone().map(|task| task["accuracy"].as_f64().unwrap()).sum::<f64>() / tasks.len() as f64
    };
    let (base, one, layers) = (of("base"), of("one_lambda"), of("per_layer"));
    println!("base {base:.4}, one λ {one:.4}, by layer {layers:.4}");
    assert!(one > base + 0.1 && layers > one, "base {base}, one λ {one}, by layer {layers}");

    let routed = &eval(&["--task", "auto"])["mean"];
    let share = |name: &str| routed[name].as_f64().unwrap();
    println!("{routed}");
    assert!(share("own") > 0.95 && share("routed") > layers + 0.02, "{routed}");
    // Layers close a third of the distance between the best single λ and each task's own weights.
    let known = share("known");
    assert!(layers - one > (known - one) / 3.0, "one λ {one}, by layer {layers}, own {known}");
}

#[test]
fn negation_forgets_its_task_and_keeps_the_control() {
    if !runtime() {
        return;
    }
    let report = report();
    let expected = &report["negation"];
    let (data, keep) = (control(), expected["keep"].to_string());
    let ask = ["--data", &data, "--negate", "--control", "Latin", "--keep", &keep, "--sweep", "0:1:11"];
    let found = eval(&[&ask[..], &["--task", "Greek", "--task", "Icons"]].concat());
    for task in ["Greek", "Icons"] {
        let (found, expected) = (&found[task], &expected["tasks"][task]);
        let (best, coef) = (found["optimal_coefficient"].as_f64().unwrap(), expected["coef"].as_f64().unwrap());
        assert!((best - coef).abs() <= 0.1 + 1e-9, "{task}: λ = {best}, and PyTorch {coef}");
        let before = report["zeroshot"]["test"][task].as_f64().unwrap();
        let after = found["test"].as_f64().unwrap();
        let kept = found["test_control"].as_f64().unwrap() / report["negation"]["zeroshot"].as_f64().unwrap();
        println!("{task}: {before} to {after} at λ = {best}, {kept:.3} of the control kept");
        assert!(after < before - 0.15 && kept > 0.95, "{task}: {before} to {after}, {kept} of the control");
    }
}

#[test]
fn embeddings_are_those_of_pytorch() {
    if !runtime() {
        return;
    }
    let golden = Checkpoint::open(file("golden.safetensors")).unwrap();
    let model = Bundle::open(file("glyphs.taskbasis")).unwrap().model(None, &ModelOptions::default()).unwrap();
    let arch = taskbasis::Arch::of(model.base(), taskbasis::ArchHints::default()).unwrap();
    let encoder = Encoder::new(&arch, &EncoderOptions::default()).unwrap();
    let (data, preprocess) = (Dataset::open(file("data")).unwrap(), Preprocess::new(32).unwrap());
    let mut pixels = Vec::new();
    let report = report();
    let tasks = report["zeroshot"]["test"].as_object().unwrap();
    for task in tasks.keys() {
        let split = data.split(task, "test").unwrap();
        let images: Vec<_> = (0..4).map(|i| split.image(i).unwrap()).collect();
        pixels.extend(preprocess.images(&images, 0).unwrap());
    }
    let mut compared = 0;
    for (expression, expected) in golden.iter() {
        let weights = model.weights(&expression.parse::<TaskExpr>().unwrap()).unwrap().get().unwrap();
        let embeds = encoder.encode(&*weights, &pixels, 4 * tasks.len()).unwrap();
        let apart = relative_l2(&embeds, &expected.to_f32().unwrap());
        println!("{expression}: {apart:.1e}");
        assert!(apart < 1e-2, "{expression}: {apart:e}");
        compared += 1;
    }
    assert_eq!(compared, 2 + 2 * tasks.len());
}
