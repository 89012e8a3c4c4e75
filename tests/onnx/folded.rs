//! Graphs whose batch normalisations exporters have folded into the layers before them: recognised by every value, run
//! with what tasks make of all that was folded, and refused where anything is uncertain.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::support::onnx::proto::{GraphProto, ModelProto, OperatorSetIdProto};
use crate::support::onnx::tower::{floats, ints};
use crate::support::onnx::{graph, node, parse, write};
use crate::support::onnx_file::OnnxFileEncoder;
use crate::support::other::port;
use crate::support::{Random, program, relative_l2, runtime};
use taskbasis::onnx::{BindOptions, BoundGraph, GraphMap, bind};
use taskbasis::{Basis, Checkpoint, EncoderOptions, Error, ErrorKind, save_arrays};

const EPSILON: f32 = 1e-3;
/// The extents of images, and of the kernels of both convolutions.
const SIZE: usize = 8;
const IMAGE: usize = 3 * SIZE * SIZE;
const WIDTHS: [usize; 4] = [3, 6, 6, 4];

type Values = BTreeMap<String, Vec<f32>>;

/// The layers with their normalisations, and the extents of their weights: a convolution without a bias, one with a
/// bias, and a linear layer.
const LAYERS: [(&str, &str, bool, &[usize]); 3] = [
    ("stem.conv", "stem.bn", false, &[6, 3, 4, 4]),
    ("body.0", "body.1", true, &[6, 6, 2, 2]),
    ("fc", "last", true, &[4, 6]),
];

fn shapes() -> Vec<(String, Vec<usize>)> {
    let mut shapes = Vec::new();
    for (layer, norm, has_bias, shape) in LAYERS {
        shapes.push((format!("{layer}.weight"), shape.to_vec()));
        if has_bias {
            shapes.push((format!("{layer}.bias"), vec![shape[0]]));
        }
        shapes.extend(
            ["weight", "bias", "running_mean", "running_var"].map(|word| (format!("{norm}.{word}"), vec![shape[0]])),
        );
    }
    shapes
}

/// Weights, of trained normalisations.
fn weights(seed: u64) -> Values {
    let mut random = Random(seed);
    let of = |(name, shape): (String, Vec<usize>)| {
        let mut values = random.many(shape.iter().product());
        if name.ends_with("running_var") {
            values.iter_mut().for_each(|value| *value = 0.4 + value.abs());
        }
        (name, values)
    };
    shapes().into_iter().map(of).collect()
}

/// These weights, moved where `moves` says so.
fn tuned(base: &Values, seed: u64, moves: impl Fn(&str) -> bool) -> Values {
    let mut random = Random(seed);
    let mut tuned = base.clone();
    for (_, values) in tuned.iter_mut().filter(|(name, _)| moves(name)) {
        values.iter_mut().for_each(|value| *value += 0.1 * random.uniform());
    }
    tuned
}

fn save(path: &Path, values: &Values) {
    let shapes = shapes();
    let arrays: Vec<(&str, &[usize], &[f32])> =
        shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice(), values[name].as_slice())).collect();
    save_arrays(path, &arrays, &[], &[]).unwrap();
}

/// Weight and bias of a layer with its normalisation in it, computed in f32, as exporters do.
fn fold(values: &Values, (layer, norm, has_bias, shape): (&str, &str, bool, &[usize])) -> (Vec<f32>, Vec<f32>) {
    let of = |name: &str, word: &str| values[&format!("{name}.{word}")].as_slice();
    let (gamma, beta) = (of(norm, "weight"), of(norm, "bias"));
    let (mean, variance) = (of(norm, "running_mean"), of(norm, "running_var"));
    let factor: Vec<f32> = gamma.iter().zip(variance).map(|(gamma, v)| gamma * (1.0 / (v + EPSILON).sqrt())).collect();
    let row: usize = shape[1..].iter().product();
    let weight = of(layer, "weight").iter().enumerate().map(|(i, weight)| weight * factor[i / row]).collect();
    let own = |c: usize| if has_bias { of(layer, "bias")[c] } else { 0.0 };
    let bias = (0..shape[0]).map(|c| (own(c) - mean[c]) * factor[c] + beta[c]).collect();
    (weight, bias)
}

/// The encoder with these weights as exporters write it.
fn model(values: &Values) -> ModelProto {
    let folded = LAYERS.map(|layer| fold(values, layer));
    let dims = |shape: &[usize]| shape.iter().map(|extent| *extent as i64).collect::<Vec<_>>();
    let (fc, [of, columns]) = (&folded[2].0, [4, 6]);
    let turned: Vec<f32> = (0..columns).flat_map(|c| (0..of).map(move |r| r * columns + c)).map(|i| fc[i]).collect();
    let initializer = vec![
        floats("w0", &dims(LAYERS[0].3), &folded[0].0),
        floats("b0", &[6], &folded[0].1),
        floats("w1", &dims(LAYERS[1].3), &folded[1].0),
        floats("b1", &[6], &folded[1].1),
        floats("w2", &[6, 4], &turned),
        floats("b2", &[4], &folded[2].1),
    ];
    let nodes = vec![
        node("Conv", &["pixels", "w0", "b0"], "a", vec![ints("strides", &[4, 4])]),
        node("Relu", &["a"], "b", Vec::new()),
        node("Conv", &["b", "w1", "b1"], "c", Vec::new()),
        node("Flatten", &["c"], "d", Vec::new()),
        node("Gemm", &["d", "w2", "b2"], "features", Vec::new()),
    ];
    let graph = GraphProto {
        node: nodes,
        name: Some("encoder".into()),
        initializer,
        input: vec![port("pixels", &[3, SIZE, SIZE])],
        output: vec![port("features", &[WIDTHS[3]])],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { version: Some(17), ..OperatorSetIdProto::default() };
    ModelProto { ir_version: Some(8), opset_import: vec![opset], graph: Some(graph), ..ModelProto::default() }
}

/// What the encoder gives, layer and normalisation one after the other, in f64.
fn features(values: &Values, pixels: &[f32]) -> Vec<f32> {
    let of = |name: &str, word: &str, i: usize| f64::from(values[&format!("{name}.{word}")][i]);
    let through = |layer: usize, x: &[f64]| -> Vec<f64> {
        let (name, norm, has_bias, shape) = LAYERS[layer];
        let row = x.len();
        let one = |c: usize| {
            let product: f64 = (0..row).map(|i| of(name, "weight", c * row + i) * x[i]).sum();
            let y = product + if has_bias { of(name, "bias", c) } else { 0.0 };
            let deviation = (of(norm, "running_var", c) + f64::from(EPSILON)).sqrt();
            (y - of(norm, "running_mean", c)) / deviation * of(norm, "weight", c) + of(norm, "bias", c)
        };
        (0..shape[0]).map(one).collect()
    };
    let one = |image: &[f32]| {
        // Patches of 4 × 4, of which the second convolution sees all four.
        let mut body = vec![0.0; 24];
        for patch in 0..4 {
            let pixel = |i: usize| {
                let (channel, y, x) = (i / 16, i / 4 % 4 + patch / 2 * 4, i % 4 + patch % 2 * 4);
                f64::from(image[(channel * SIZE + y) * SIZE + x])
            };
            let seen: Vec<f64> = (0..48).map(pixel).collect();
            for (c, value) in through(0, &seen).into_iter().enumerate() {
                body[c * 4 + patch] = value.max(0.0);
            }
        }
        through(2, &through(1, &body)).into_iter().map(|value| value as f32).collect::<Vec<_>>()
    };
    pixels.chunks(IMAGE).flat_map(one).collect()
}

/// `Σ factors · (task − base)` added to the base.
fn mixed(base: &Values, tasks: &[(f32, &Values)]) -> Values {
    let at = |name: &str, i: usize| {
        tasks.iter().map(|(factor, task)| factor * (task[name][i] - base[name][i])).sum::<f32>() + base[name][i]
    };
    base.iter().map(|(name, values)| (name.clone(), (0..values.len()).map(|i| at(name, i)).collect())).collect()
}

/// A base, two tasks, a basis of both, and the graph, in a folder.
struct Family {
    folder: tempfile::TempDir,
    base: Values,
    tasks: [Values; 2],
    pixels: Vec<f32>,
}

impl Family {
    fn new(moves: impl Fn(&str) -> bool) -> Self {
        let base = weights(1);
        let tasks = [tuned(&base, 2, &moves), tuned(&base, 3, &moves)];
        let family = Self { folder: tempfile::tempdir().unwrap(), base, tasks, pixels: Random(9).many(2 * IMAGE) };
        std::fs::create_dir(family.folder.path().join("tasks")).unwrap();
        save(&family.at("base.safetensors"), &family.base);
        save(&family.at("tasks/A.safetensors"), &family.tasks[0]);
        save(&family.at("tasks/B.safetensors"), &family.tasks[1]);
        let pixels = [("pixel_values", &[2, 3, SIZE, SIZE][..], family.pixels.as_slice())];
        save_arrays(&family.at("pixels.safetensors"), &pixels, &[], &[]).unwrap();
        write(&model(&family.base), family.folder.path(), "model.onnx");
        let (base, tasks, basis) = (family.path("base.safetensors"), family.path("tasks"), family.path("basis"));
        program::json(&["build", "--base", &base, "--tasks-dir", &tasks, "--vectors", "2", "-o", &basis]);
        family
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.at(name).to_str().unwrap().to_owned()
    }

    /// A command over this family.
    fn command(&self, name: &str, more: &[&str]) -> Vec<String> {
        let own = ["--basis", &self.path("basis"), "--base", &self.path("base.safetensors")].map(str::to_owned);
        let more = more.iter().map(|&word| word.to_owned());
        std::iter::once(name.to_owned()).chain(more).chain(own).collect()
    }

    fn json(&self, name: &str, more: &[&str]) -> serde_json::Value {
        let command = self.command(name, more);
        program::json(&command.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Compares every kind of expression with what the encoder gives with its weights.
    fn check_embeddings(&self) {
        let (graph, pixels, out) =
            (self.path("model.onnx"), self.path("pixels.safetensors"), self.path("out.safetensors"));
        for (expression, factors) in
            [("base", [0.0, 0.0]), ("A", [1.0, 0.0]), ("-B", [0.0, -1.0]), ("A@0.3 + B@0.4", [0.3, 0.4])]
        {
            self.json("embed", &["--graph", &graph, "-i", &pixels, "--weights", expression, "-o", &out]);
            let found = Checkpoint::open(&out).unwrap().require("embeds").unwrap().to_f32().unwrap().into_owned();
            let parts = [(factors[0], &self.tasks[0]), (factors[1], &self.tasks[1])];
            let expected = features(&mixed(&self.base, &parts), &self.pixels);
            assert!(relative_l2(&found, &expected) <= 2e-6, "{expression}: {found:?} {expected:?}");
        }
    }

    /// The graph, changed, bound.
    fn bind(&self, change: impl Fn(&mut GraphProto)) -> taskbasis::Result<GraphMap> {
        let mut model = model(&self.base);
        change(graph(&mut model));
        bind(&parse(&model), &Checkpoint::open(self.at("base.safetensors")).unwrap(), &BindOptions::default())
    }
}

#[test]
fn what_was_folded_runs_with_every_task() {
    let family = Family::new(|_| true);
    let graph = family.path("model.onnx");
    let bound = family.json("bind", &[&graph]);
    assert_eq!(bound["inputs"], 6);
    let of = |name: &str| bound["map"]["tensors"][name]["sum"].clone();
    let is_of = |part: &serde_json::Value, parameter: &str, module: &str| {
        let norm = &part["norm"];
        (norm["epsilon"].as_f64().unwrap() - f64::from(EPSILON)).abs() < 1e-9
            && part["parameter"] == parameter
            && norm["weight"] == format!("{module}.weight")
            && norm["variance"] == format!("{module}.running_var")
    };
    assert!(is_of(&of("w0")[0], "stem.conv.weight", "stem.bn"), "{}", of("w0"));
    assert!(is_of(&of("w2")[0], "fc.weight", "last"), "{}", of("w2"));
    let biases: Vec<_> = of("b1").as_array().unwrap().iter().map(|part| part["parameter"].clone()).collect();
    assert_eq!(biases, ["body.1.bias", "body.0.bias", "body.1.running_mean"]);
    let command = family.command("bind", &[&graph]);
    let text = program::succeed(&command.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(text.contains("folded: body.0.weight × body.1"), "{text}");
    if !runtime() {
        return;
    }
    family.check_embeddings();
    // What is written runs alone, and is what would have been exported from the task's own weights.
    let exported = family.path("a.onnx");
    family.json("export", &["--graph", &graph, "--weights", "A", "-o", &exported]);
    let encoder = OnnxFileEncoder::open(&exported, &EncoderOptions::default()).unwrap();
    let found = encoder.encode(&family.pixels, 2).unwrap();
    assert!(relative_l2(&found, &features(&family.tasks[0], &family.pixels)) <= 2e-6);
    let theirs = crate::support::onnx::decode(Path::new(&exported));
    for (name, layer) in ["w0", "w1"].into_iter().zip(LAYERS) {
        let tensor = theirs.graph.as_ref().unwrap().initializer.iter().find(|t| t.name.as_deref() == Some(name));
        let bytes = tensor.unwrap().raw_data.as_deref().unwrap();
        let values: Vec<f32> = bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert!(relative_l2(&values, &fold(&family.tasks[0], layer).0) <= 3e-7, "{name}");
    }
    // A variance that is subtracted away has no root.
    let out = family.path("none.safetensors");
    let pixels = family.path("pixels.safetensors");
    let command = family.command("embed", &["--graph", &graph, "-i", &pixels, "--weights", "A@-90", "-o", &out]);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    program::fail(&command, &["running_var", "a variance is below zero"]);
}

#[test]
fn what_no_task_changes_stays_in_the_graph() {
    // Normalisations that were frozen, as fine-tunes of few images do.
    let family = Family::new(|name| name.ends_with(".weight") && !name.contains("bn") && !name.contains('1'));
    let bound = family.json("bind", &[&family.path("model.onnx")]);
    // Weights of three layers, γ of the last normalisation, which is in its bias too.
    assert_eq!(bound["inputs"], 4, "{bound}");
    // A graph that was bound with this basis takes no basis that moves what it kept.
    let (base, basis) = (Checkpoint::open(family.at("base.safetensors")).unwrap(), family.at("basis"));
    let graph =
        BoundGraph::open(family.at("model.onnx"), &base, Some(&Basis::open(basis).unwrap()), &BindOptions::default())
            .unwrap();
    let kept = Family::new(|name| name == "stem.bn.running_var");
    let model =
        taskbasis::Model::new(base, Some(Basis::open(kept.at("basis")).unwrap()), &taskbasis::ModelOptions::default());
    let weights = model.unwrap().weights(&"A".parse().unwrap()).unwrap();
    let error = weights.in_layout(graph.layout()).get().unwrap_err();
    assert_eq!((error.kind(), error.tensor_name()), (ErrorKind::Mismatch, Some("stem.bn.running_var")), "{error}");
    if runtime() {
        family.check_embeddings();
        kept.check_embeddings();
    }
}

#[test]
fn a_map_is_compared_with_the_base() {
    let family = Family::new(|_| true);
    let map = family.bind(|_| {}).unwrap();
    let base = Checkpoint::open(family.at("base.safetensors")).unwrap();
    let with = |map: GraphMap| BoundGraph::with_map(parse(&model(&family.base)).into(), map, &base, None);
    assert_eq!(with(map.clone()).unwrap().layout().tensors().len(), 6);
    let text = serde_json::to_string(&map).unwrap();
    assert_eq!(serde_json::from_str::<GraphMap>(&text).unwrap(), map);
    let changed = |from: &str, to: &str| {
        assert!(text.contains(from), "{text}");
        with(serde_json::from_str(&text.replace(from, to)).unwrap()).unwrap_err()
    };
    // Another normalisation of the same width, another ε, one below 0, and one of another width.
    let refused = |error: Error| assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    refused(changed("\"weight\":\"stem.bn.weight\"", "\"weight\":\"body.1.weight\""));
    refused(changed("\"epsilon\":0.001", "\"epsilon\":0.002"));
    refused(changed("\"variance\":\"stem.bn.running_var\"", "\"variance\":\"last.running_var\""));
    let error = changed("\"epsilon\":0.001", "\"epsilon\":-0.001");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
}

#[test]
fn what_is_not_certain_is_refused() {
    let family = Family::new(|_| true);
    let says = |change: &dyn Fn(&mut GraphProto), name: &str, parts: &[&str]| {
        let error = family.bind(change).unwrap_err();
        let text = error.to_string();
        // The first one that is lost, of the layer or of its normalisation.
        let is_theirs = name.split(' ').any(|module| error.tensor_name().is_some_and(|lost| lost.starts_with(module)));
        assert!(error.kind() == ErrorKind::Mismatch && is_theirs, "{text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    let set = |graph: &mut GraphProto, name: &str, at: usize, change: fn(f32) -> f32| {
        let tensor = graph.initializer.iter_mut().find(|t| t.name.as_deref() == Some(name)).unwrap();
        let bytes = &mut tensor.raw_data.as_mut().unwrap()[at * 4..][..4];
        let value = f32::from_le_bytes((&*bytes).try_into().unwrap());
        bytes.copy_from_slice(&change(value).to_le_bytes());
    };
    // One value in the middle of one of the constants, by a few millionths.
    for (name, lost) in [("w0", "stem."), ("b0", "stem.")] {
        let change = |graph: &mut GraphProto| set(graph, name, 3, |value| value * 1.000_01);
        says(&change, lost, &["folded into the layer before it", "training=torch.onnx.TrainingMode.PRESERVE"]);
    }
    // The bias of that layer comes first, and may be lost for other reasons.
    says(&|graph: &mut GraphProto| set(graph, "w2", 3, |value| value * 1.000_01), "fc. last.", &[]);
    // Without its bias the layer is none that exporters write.
    let change = |graph: &mut GraphProto| graph.node[0].input.truncate(2);
    says(&change, "stem.", &["`stem.bn`"]);
    // Weights of one convolution with the normalisation of another.
    let change = |graph: &mut GraphProto| {
        let other = ("stem.conv", "body.1", false, LAYERS[0].3);
        graph.initializer[1] = floats("b0", &[6], &fold(&family.base, other).1);
    };
    says(&change, "stem.", &[]);
}

/// A base whose normalisations of one width are alike, and the map of its graph.
fn of_untrained(change: impl Fn(&mut Values, &mut GraphProto)) -> taskbasis::Result<GraphMap> {
    let folder = tempfile::tempdir().unwrap();
    let mut base = weights(1);
    for word in ["weight", "bias", "running_mean", "running_var"] {
        let value = f32::from(word == "weight" || word == "running_var");
        ["stem.bn", "body.1"].iter().for_each(|norm| base.get_mut(&format!("{norm}.{word}")).unwrap().fill(value));
    }
    let mut model = model(&base);
    change(&mut base, graph(&mut model));
    save(&folder.path().join("base.safetensors"), &base);
    let base = Checkpoint::open(folder.path().join("base.safetensors")).unwrap();
    bind(&parse(&model), &base, &BindOptions::default())
}

#[test]
fn normalisations_of_equal_values_are_told_by_names_alone() {
    // `conv` and `bn` of one module, 0 and 1 of another.
    let map = of_untrained(|_, _| {}).unwrap();
    let norm = |name: &str| map.tensors[name].sum[0].norm.as_ref().unwrap().variance.clone();
    assert_eq!((norm("w0").as_str(), norm("w1").as_str()), ("stem.bn.running_var", "body.1.running_var"));
    // Two layers of the same values too: no name of the base says which is which.
    let error = of_untrained(|base, graph| {
        let zeros = |values: &mut Vec<f32>| values.fill(0.0);
        zeros(base.get_mut("stem.conv.weight").unwrap());
        ["body.1.weight", "stem.bn.weight"].iter().for_each(|name| zeros(base.get_mut(*name).unwrap()));
        let blank = |name: &str, dims: &[i64]| floats(name, dims, &vec![0.0; dims.iter().product::<i64>() as usize]);
        graph.initializer[0] = blank("w0", &[6, 3, 4, 4]);
        graph.initializer[1] = blank("b0", &[6]);
        graph.initializer[2] = blank("w1", &[6, 6, 2, 2]);
        graph.initializer[3] = blank("b1", &[6]);
    })
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
}

#[test]
fn constants_of_several_layers_become_an_input_each() {
    // A bias that an exporter merged, behind a node that gives it another name.
    let map = of_untrained(|base, graph| {
        // The second layer's bias would make the two biases differ.
        let bias = base.get_mut("body.0.bias").unwrap();
        bias.fill(0.0);
        graph.initializer.retain(|tensor| tensor.name.as_deref() != Some("b1"));
        graph.node.insert(2, node("Identity", &["b0"], "b1", Vec::new()));
    })
    .unwrap();
    let of = |parameter: &str| {
        let mut found = map.tensors.iter().filter(|(_, mapped)| mapped.sum[0].parameter == parameter);
        let (name, mapped) = found.next().unwrap();
        assert!(found.next().is_none());
        (name.clone(), mapped.constant.clone(), mapped.uses.clone())
    };
    let shared = Some("b0".to_owned());
    assert_eq!(of("stem.bn.bias"), ("stem.bn.bias".into(), shared.clone(), vec![(0, 2)]));
    assert_eq!(of("body.1.bias"), ("body.1.bias".into(), shared, vec![(2, 0)]));
}
