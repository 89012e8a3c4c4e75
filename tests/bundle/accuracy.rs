//! What every format costs on the digits family: embeddings against the reference's, predictions and accuracies on all
//! test images. `cargo test --test bundle accuracy -- --nocapture` prints the table of docs/bundle-format.md.

use crate::support;
use crate::support::bundle::{METHODS, digits_files, format, pack_digits};
use crate::support::{digits, relative_l2, whole_digits};
use taskbasis::{
    BaseFormat, Bundle, Checkpoint, Dataset, Encoder, EncoderOptions, Head, Model, ModelOptions, OpenModel,
    OpenOptions, Preprocess, TaskExpr,
};

/// A task's test images, ready to be embedded.
struct Images {
    task: String,
    pixels: Vec<f32>,
    labels: Vec<usize>,
    head: Head,
}

fn images() -> Vec<Images> {
    let data = Dataset::open(digits("images.safetensors").unwrap()).unwrap();
    let preprocess = Preprocess::new(32).unwrap();
    let of_task = |task: &str| {
        let split = data.split(task, "test").unwrap();
        let images: Vec<_> = (0..split.len()).map(|i| split.image(i).unwrap()).collect();
        let head = Head::open(digits("heads.safetensors").unwrap(), Some(task)).unwrap();
        let labels = head.check_labels(split.labels()).unwrap().to_vec();
        Images { task: task.to_owned(), pixels: preprocess.images(&images, 0).unwrap(), labels, head }
    };
    data.tasks_with("test").unwrap().into_iter().map(of_task).collect()
}

/// The class of every image of every task that can be recovered.
fn predictions(model: &std::sync::Arc<Model>, encoder: &Encoder, images: &[Images]) -> Vec<(usize, Vec<usize>)> {
    let recoverable = images.iter().enumerate().filter_map(|(i, images)| {
        let weights = model.weights(&TaskExpr::task(&images.task)).ok()?.get().unwrap();
        let embeds = encoder.encode(&weights, &images.pixels, images.labels.len()).unwrap();
        let best = |embedding: &[f32]| images.head.classify(embedding, 1).unwrap()[0].class;
        Some((i, embeds.chunks_exact(encoder.arch().embed_dim).map(best).collect()))
    });
    recoverable.collect()
}

/// Points that each task loses.
fn losses(images: &[Images], before: &[(usize, Vec<usize>)], after: &[(usize, Vec<usize>)]) -> Vec<f64> {
    let right = |(i, predicted): &(usize, Vec<usize>)| {
        let labels = &images[*i].labels;
        100.0 * predicted.iter().zip(labels).filter(|(a, b)| a == b).count() as f64 / labels.len() as f64
    };
    before.iter().zip(after).map(|(before, after)| right(before) - right(after)).collect()
}

/// The bounds: vectors, base, predictions that may change (of 400 per task), points that a task may lose, and that the
/// mean may lose.
const BOUNDS: [(&str, BaseFormat, usize, f64, f64); 9] = [
    ("f32", BaseFormat::F32, 0, 0.0, 0.0),
    ("f16", BaseFormat::F32, 0, 0.0, 0.0),
    ("bf16", BaseFormat::F32, 2, 0.25, 0.1),
    ("q8", BaseFormat::F32, 0, 0.0, 0.0),
    ("q8", BaseFormat::F16, 0, 0.0, 0.0),
    ("q6", BaseFormat::F16, 3, 0.25, 0.1),
    ("q4", BaseFormat::F16, 8, 1.0, 0.2),
    ("q3", BaseFormat::F16, 20, 1.0, 0.2),
    ("q2", BaseFormat::F16, 60, 2.0, 0.5),
];

#[test]
fn every_format_keeps_its_promise() {
    let images = images();
    let golden = Checkpoint::open(whole_digits("golden.safetensors").unwrap()).unwrap();
    let pixels = golden.require("pixel_values").unwrap().to_f32().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let options = ModelOptions { cache_bytes: Some(0), ..ModelOptions::default() };
    println!(
        "| method | vectors | base | bytes | error of a task vector | of an embedding | changed predictions | worst task | mean |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for method in METHODS {
        let Some((basis, base)) = digits_files(method) else { continue };
        let how = OpenOptions { base: Some(base), model: options.clone(), ..OpenOptions::default() };
        let opened = OpenModel::open(basis, &how).unwrap();
        let model = opened.model();
        let arch = taskbasis::Arch::of(model.base(), taskbasis::ArchHints::default()).unwrap();
        let encoder = Encoder::new(&arch, &EncoderOptions::default()).unwrap();
        let before = predictions(model, &encoder, &images);
        for (vectors, base, may_change, may_lose, mean_may_lose) in BOUNDS {
            let path = folder.path().join(format!("{method}-{vectors}.taskbasis"));
            let report = pack_digits(method, format(vectors), base, &path).unwrap();
            let bundle = Bundle::open(&path).unwrap();
            let packed = bundle.model(None, &options).unwrap();
            let after = predictions(&packed, &encoder, &images);
            let changed: usize = before
                .iter()
                .zip(&after)
                .map(|(before, after)| before.1.iter().zip(&after.1).filter(|(a, b)| a != b).count())
                .sum();
            let losses = losses(&images, &before, &after);
            let worst = losses.iter().copied().fold(f64::MIN, f64::max);
            let mean = losses.iter().sum::<f64>() / losses.len() as f64;

            let mut error = 0.0f64;
            for task in bundle.tasks() {
                let Ok(weights) = packed.weights(&TaskExpr::task(task)) else { continue };
                // The goldens have no single tasks of RandomSample.
                let Some(expected) = golden.get(&format!("{method}/task/{task}@1.0/embeds")) else { continue };
                let embeds = encoder.encode(&*weights.get().unwrap(), &pixels, 32).unwrap();
                error = error.max(relative_l2(&embeds, &expected.to_f32().unwrap()));
            }
            println!(
                "| {method} | {vectors} | {} | {} | {:.2e} | {error:.1e} | {changed} of {} | {worst:+.2} | {mean:+.3} |",
                if base == BaseFormat::F32 { "f32" } else { "f16" },
                report.bytes,
                report.errors.largest(),
                before.iter().map(|(_, predicted)| predicted.len()).sum::<usize>(),
            );
            let what = format!("{method}, {vectors}: {changed} changed, {worst} points, mean {mean}");
            assert!(changed <= may_change && worst <= may_lose + 1e-9 && mean <= mean_may_lose + 1e-9, "{what}");
            // Measured: at most 0.16 of the vector's error and 3.5 of the base's.
            let bound = 2e-6 + 0.25 * report.errors.largest() + 5.0 * report.base_error.unwrap_or(0.0);
            assert!(error <= bound, "{what}: embeddings are off by {error:e}, bound {bound:e}");
        }
    }
}

#[test]
fn a_bundle_of_f32_gives_the_bits_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    for method in METHODS {
        let Some((basis, base)) = digits_files(method) else { continue };
        let path = folder.path().join("f32.taskbasis");
        pack_digits(method, format("f32"), BaseFormat::F32, &path).unwrap();
        let how = OpenOptions { base: Some(base), ..OpenOptions::default() };
        let from_folder = OpenModel::open(basis, &how).unwrap();
        let from_bundle = Bundle::open(&path).unwrap().model(None, &ModelOptions::default()).unwrap();
        for expr in ["MNIST", "MNIST@0.3 + Parity@0.5 - Loops", "merged@0.4", "all@0.2", "base"] {
            let expr: TaskExpr = expr.parse().unwrap();
            let (Ok(a), Ok(b)) = (from_folder.model().weights(&expr), from_bundle.weights(&expr)) else {
                assert_eq!(method, "RandomSample", "{expr}");
                continue;
            };
            let (a, b) = (a.get().unwrap(), b.get().unwrap());
            assert_eq!(b.len(), 44, "the image tower");
            for (name, shape, _) in b.iter() {
                assert_eq!(a.shape(name), Some(shape));
                assert_eq!(
                    support::bits(a.get(name).unwrap()),
                    support::bits(b.get(name).unwrap()),
                    "{method}, {expr}, {name}"
                );
            }
        }
    }
}
