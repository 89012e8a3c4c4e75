//! A user's graph gives what the reference computes, with the weights of any task.

mod encoder_support;

use std::path::Path;
use std::sync::Arc;

use encoder_support::{Tensors, digits, relative_l2, runtime};
use taskbasis::onnx::{BindOptions, BoundGraph};
use taskbasis::{Arch, ArchHints, Basis, Checkpoint, Encoder, EncoderOptions, Model, ModelOptions};

const GRAPHS: [&str; 2] = ["onnx/torchscript_export_opset16.onnx", "onnx/transformers_style_opset14.onnx"];

fn model(method: &str) -> Option<Arc<Model>> {
    let base = Checkpoint::open(digits("base/pickled_module.pt")?).unwrap();
    let basis = Basis::open(digits(&format!("bases/ViT-D-8_{method}_M4_8task"))?).unwrap();
    Some(Model::new(base, Some(basis), &ModelOptions::default()).unwrap())
}

fn encoder(model: &Model, graph: &Path) -> Encoder {
    let graph = BoundGraph::open(graph, model.base(), model.basis(), &BindOptions::default()).unwrap();
    over(model, &graph)
}

fn over(model: &Model, graph: &BoundGraph) -> Encoder {
    let arch = Arch::of(model.base(), ArchHints::default()).unwrap();
    Encoder::with_graph(&arch, graph, &EncoderOptions { threads: 2, ..EncoderOptions::default() }).unwrap()
}

/// Every weight that the goldens know, by expression; those that a method cannot recover are not among them.
fn goldens(golden: &Tensors, method: &str) -> Vec<(String, String)> {
    let mut all = vec![("base".to_owned(), "zeroshot/embeds".to_owned())];
    for key in golden.0.keys().filter(|key| key.starts_with(&format!("{method}/")) && key.ends_with("/embeds")) {
        let what = key.trim_start_matches(&format!("{method}/")).trim_end_matches("/embeds");
        let expression = match what.split_once('/') {
            Some(("task", task)) => task.to_owned(),
            Some(("negated", task)) => format!("-{task}"),
            _ => what.to_owned(),
        };
        all.push((expression, key.clone()));
    }
    assert!(all.len() > 2, "{method}");
    all
}

/// The largest relative difference from the goldens, over all weights of one method.
fn worst(model: &Arc<Model>, encoder: &Encoder, golden: &Tensors, method: &str) -> f64 {
    let pixels = golden.values("pixel_values");
    let mut worst = 0.0f64;
    for (expression, key) in goldens(golden, method) {
        let weights = model.weights(&expression.parse().unwrap()).unwrap();
        let embeds = encoder.encode_task(&weights, pixels, 32).unwrap();
        worst = worst.max(relative_l2(&embeds, golden.values(&key)));
    }
    worst
}

#[test]
fn both_graphs_give_the_goldens_of_every_method() {
    let Some(golden) = digits("golden.safetensors").filter(|_| runtime()) else { return };
    let golden = Tensors::open(&golden);
    for method in ["AE", "PCA", "Random", "RandomSample"] {
        let Some(model) = model(method) else { continue };
        for graph in GRAPHS.iter().filter_map(|graph| digits(graph)) {
            let encoder = encoder(&model, &graph);
            let error = worst(&model, &encoder, &golden, method);
            println!("{method} {}: {error:.1e}", graph.display());
            assert!(error <= 5e-5, "{method} {}: {error}", graph.display());
        }
    }
}
