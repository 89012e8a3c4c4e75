//! A user's graph gives what the reference computes, with the weights of any task.

use crate::support;
use std::path::Path;
use std::sync::Arc;

use crate::support::onnx::GRAPHS;
use crate::support::tensors::Tensors;
use crate::support::{Random, digits, relative_l2, runtime, whole_digits};
use taskbasis::encoder::optimise_graph;
use taskbasis::onnx::{BindOptions, BoundGraph, GraphMap, OnnxFile};
use taskbasis::{Arch, ArchHints, Basis, Checkpoint, Encoder, EncoderOptions, Model, ModelOptions};

fn model(method: &str) -> Option<Arc<Model>> {
    let base = Checkpoint::open(digits("base/pickled_module.pt")?).unwrap();
    let basis = Basis::open(whole_digits(&format!("bases/ViT-D-8_{method}_M4_8task"))?).unwrap();
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
    assert!(all.len() >= 2, "{method}");
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
    let Some(golden) = whole_digits("golden.safetensors").filter(|_| runtime()) else { return };
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

fn bound(model: &Model, path: &Path) -> BoundGraph {
    BoundGraph::open(path, model.base(), model.basis(), &BindOptions::default()).unwrap()
}

/// A graph in other clothes: values in another file, every name noise, half floats, ONNX Runtime's own optimiser.
#[test]
fn variants_give_the_goldens_too() {
    let (Some(golden), Some(model)) = (digits("golden.safetensors").filter(|_| runtime()), model("AE")) else { return };
    let golden = Tensors::open(&golden);
    let mut random = Random(7);
    for graph in GRAPHS.iter().filter_map(|graph| digits(graph)) {
        let folder = tempfile::tempdir().unwrap();
        let check = |what: &str, path: &Path, allowed: f64| {
            let error = worst(&model, &encoder(&model, path), &golden, "AE");
            println!("{} {what}: {error:.1e}", graph.display());
            assert!(error <= allowed, "{} {what}: {error}", graph.display());
        };
        let mut external = support::onnx::decode(&graph);
        support::onnx::external(&mut external, folder.path());
        check("external", &support::onnx::write(&external, folder.path(), "external.onnx"), 5e-5);

        let mut renamed = support::onnx::decode(&graph);
        support::onnx::rename(&mut renamed, &mut || random.uniform().to_bits().into());
        check("renamed", &support::onnx::write(&renamed, folder.path(), "renamed.onnx"), 5e-5);

        // Half floats round weights by 2⁻¹¹ of their size; the first also everything in between.
        let mut half = support::onnx::decode(&graph);
        support::onnx::half(&mut half);
        check("half", &support::onnx::write(&half, folder.path(), "half.onnx"), 1e-2);
        let mut half = support::onnx::decode(&graph);
        support::onnx::half_weights(&mut half);
        check("half weights", &support::onnx::write(&half, folder.path(), "half_weights.onnx"), 3e-3);

        for extended in [false, true] {
            let file = optimise_graph(&graph, extended, &EncoderOptions::default()).unwrap();
            let optimised =
                BoundGraph::bind(Arc::new(file), model.base(), model.basis(), &BindOptions::default()).unwrap();
            let error = worst(&model, &over(&model, &optimised), &golden, "AE");
            println!("{} optimised, extended {extended}: {error:.1e}", graph.display());
            assert!(error <= 5e-5, "{error}");
        }
    }
}

/// Promotion, fixed batches, maps, the fastest form: other ways to the same embeddings.
#[test]
fn other_ways_to_the_same_embeddings() {
    let (Some(golden), Some(model)) = (digits("golden.safetensors").filter(|_| runtime()), model("AE")) else { return };
    let golden = Tensors::open(&golden);
    let (pixels, arch) = (golden.values("pixel_values"), Arch::of(model.base(), ArchHints::default()).unwrap());
    for path in GRAPHS.iter().filter_map(|graph| digits(graph)) {
        let graph = bound(&model, &path);
        let (encoder, task) = (over(&model, &graph), model.weights(&"MNIST - Parity@0.3".parse().unwrap()).unwrap());
        let expected = encoder.encode_task(&task, pixels, 32).unwrap();

        let folder = tempfile::tempdir().unwrap();
        let mut plain = support::onnx::decode(&path);
        support::onnx::hide_matrices(&mut plain);
        let plain = over(&model, &bound(&model, &support::onnx::write(&plain, folder.path(), "plain.onnx")));
        let as_inputs = plain.encode_task(&task, pixels, 32).unwrap();
        assert!(relative_l2(&as_inputs, &expected) < 1e-5, "as inputs");
        plain.promote(&task).unwrap();
        assert!(plain.is_promoted(&task));
        assert!(relative_l2(&plain.encode_task(&task, pixels, 32).unwrap(), &expected) < 1e-5, "promoted");
        assert!(plain.demote(&task));
        assert_eq!(plain.encode_task(&task, pixels, 32).unwrap(), as_inputs, "the same bits as before");
        let canonical = task.get().unwrap();
        assert_eq!(encoder.encode(&canonical, pixels, 32).unwrap(), expected, "reconstruct, then convert");

        // The map, written and read again, binds the same; a changed one is refused.
        let saved = folder.path().join("map.json");
        graph.map().save(&saved, &[]).unwrap();
        let map = GraphMap::open(&saved).unwrap();
        assert_eq!(&map, graph.map());
        let file = Arc::new(OnnxFile::open(&path).unwrap());
        let again = BoundGraph::with_map(Arc::clone(&file), map.clone(), model.base(), model.basis()).unwrap();
        assert_eq!(over(&model, &again).encode_task(&task, pixels, 32).unwrap(), expected);
        let mut swapped = map.clone();
        let (a, b) = ("visual.ln_pre.weight", "visual.ln_post.weight");
        for part in swapped.tensors.values_mut().flat_map(|mapped| &mut mapped.sum) {
            if part.parameter == a || part.parameter == b {
                part.parameter = if part.parameter == a { b.into() } else { a.into() };
            }
        }
        let error = BoundGraph::with_map(file, swapped, model.base(), model.basis()).unwrap_err();
        assert!(error.to_string().contains("not those of the base"), "{error}");

        // A graph exported for batches of five.
        let mut five = support::onnx::decode(&path);
        for port in support::onnx::graph(&mut five).input.iter_mut() {
            let tensor = port.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
            tensor.shape.as_mut().unwrap().dim[0].value =
                Some(crate::support::onnx::proto::dimension::Value::DimValue(5));
        }
        let five = bound(&model, &support::onnx::write(&five, folder.path(), "five.onnx"));
        let by_fives = over(&model, &five).encode_task(&task, pixels, 32).unwrap();
        assert!(relative_l2(&by_fives, &expected) < 1e-5);

        let (fastest, trials) = Encoder::with_fastest_graph(&arch, &graph, &model, &EncoderOptions::default()).unwrap();
        assert!(trials.iter().all(|trial| trial.result.is_ok()), "{trials:?}");
        assert!(relative_l2(&fastest.encode_task(&task, pixels, 32).unwrap(), &expected) < 1e-5);

        // Exported with the task's weights it is a plain file.
        let plain = folder.path().join("task.onnx");
        let weights = task.in_layout(graph.layout()).get().unwrap();
        graph.write(&weights, &plain, &[]).unwrap();
        let frozen = crate::support::onnx_file::OnnxFileEncoder::open(&plain, &EncoderOptions::default()).unwrap();
        assert!(relative_l2(&frozen.encode(pixels, 32).unwrap(), &expected) < 1e-5);

        // Kept as f16, unless a name is taken or the operator set is of old.
        graph.write_f16(&weights, &plain, &[]).unwrap();
        let frozen = crate::support::onnx_file::OnnxFileEncoder::open(&plain, &EncoderOptions::default()).unwrap();
        assert!(relative_l2(&frozen.encode(pixels, 32).unwrap(), &expected) < 2e-3);
        let name = format!("{}.f16", graph.layout().tensors()[0].name);
        let (mut taken, mut old) = (support::onnx::decode(&path), support::onnx::decode(&path));
        let identity = support::onnx::node("Identity", &[&graph.map().pixels], &name, Vec::new());
        support::onnx::graph(&mut taken).node.push(identity);
        old.opset_import.iter_mut().for_each(|set| set.version = Some(5));
        for (model_file, what) in [(&taken, "has a value of this name"), (&old, "operator set 6")] {
            let graph = bound(&model, &support::onnx::write(model_file, folder.path(), "refused.onnx"));
            let (weights, path) = (task.in_layout(graph.layout()).get().unwrap(), folder.path().join("none.onnx"));
            let error = graph.write_f16(&weights, &path, &[]).unwrap_err();
            assert!(error.kind() == taskbasis::ErrorKind::Unsupported && error.to_string().contains(what), "{error}");
            assert!(!path.exists());
        }
    }
}

/// Weights in a graph's layout, which no handle can ask for any more, do not fill the cache; those of others stay.
#[test]
fn what_a_graph_needed_goes_with_the_last_who_has_it() {
    let (Some(path), Some(model)) = (digits(GRAPHS[0]).filter(|_| runtime()), model("AE")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut plain = support::onnx::decode(&path);
    support::onnx::hide_matrices(&mut plain);
    let plain = support::onnx::write(&plain, folder.path(), "plain.onnx");
    drop(model);
    // With packed weights, and promoted.
    for (path, promoted) in [(path, 0), (plain, 1)] {
        let model = self::model("AE").unwrap();
        let pixels = vec![0.25; Arch::of(model.base(), ArchHints::default()).unwrap().pixels()];
        let tasks = ["MNIST", "merged@0.4"].map(|task| model.weights(&task.parse().unwrap()).unwrap());
        drop(tasks[0].get().unwrap());
        let (first, second, graph) = (encoder(&model, &path), encoder(&model, &path), bound(&model, &path));
        let third = over(&model, &graph);
        for task in &tasks {
            let expected = first.encode_task(task, &pixels, 1).unwrap();
            assert_eq!(second.encode_task(task, &pixels, 1).unwrap(), expected);
            assert_eq!(third.encode_task(task, &pixels, 1).unwrap(), expected);
        }
        first.promote(&tasks[0]).unwrap();
        let stats = || model.cache().stats();
        let entries = || (stats().entries, stats().promoted, stats().spare_bytes);
        assert_eq!(entries(), (7, promoted, 0), "each binding of a graph is a layout of its own");
        drop(first);
        assert_eq!(entries(), (5, 0, 0));
        // A caller that holds the graph can run with what is kept.
        drop(third);
        assert_eq!(entries(), (5, 0, 0));
        assert!(over(&model, &graph).is_prepared(&tasks[1]));
        // So can a caller that holds a name of such weights.
        let taken = tasks[0].in_layout(second.layout());
        drop((graph, second));
        assert_eq!(entries(), (3, 0, 0));
        let held = taken.get().unwrap();
        drop(taken);
        assert_eq!(entries(), (1, 0, 0));
        assert!(held.iter().count() > 0 && tasks[0].is_ready());
    }
}

/// What a basis leaves as it is stays in the graph; weights that have it otherwise are refused, not run.
#[test]
fn weights_of_another_base_do_not_fit_what_the_graph_holds() {
    let (Some(golden), Some(ae), Some(pca)) =
        (digits("golden.safetensors").filter(|_| runtime()), model("AE"), model("PCA"))
    else {
        return;
    };
    let golden = Tensors::open(&golden);
    let (Some(path), pixels) = (digits(GRAPHS[0]), golden.values("pixel_values")) else { return };
    // Bound as if nothing but one parameter were changed: the rest stays in the graph.
    let graph = bound(&ae, &path);
    let (inputs, held): (Vec<_>, Vec<_>) =
        graph.layout().tensors().iter().cloned().partition(|tensor| tensor.name == "visual.proj");
    let kept: Vec<&str> = held.iter().flat_map(|tensor| &tensor.parts).map(|part| part.parameter.as_str()).collect();
    let layout = taskbasis::weights::Layout::new(inputs, &kept, ae.base()).unwrap();
    assert!(ae.weights(&"base".parse().unwrap()).unwrap().in_layout(&layout).get().is_ok());
    for model in [&ae, &pca] {
        let task = model.weights(&"MNIST".parse().unwrap()).unwrap();
        let error = task.in_layout(&layout).get().unwrap_err();
        assert!(error.to_string().contains("another"), "{error}");
    }
    // Another basis over the same base runs on a graph that holds nothing of it.
    let embeds = over(&ae, &graph).encode_task(&pca.weights(&"MNIST".parse().unwrap()).unwrap(), pixels, 32).unwrap();
    assert!(relative_l2(&embeds, golden.values("PCA/task/MNIST@1.0/embeds")) <= 5e-5);
}
