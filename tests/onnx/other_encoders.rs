//! Graphs of encoders that are no vision transformers: bound by values alone, and run with weights of any names.

use std::collections::HashMap;
use std::path::Path;

use crate::support::onnx::proto::{
    Dimension, GraphProto, ModelProto, OperatorSetIdProto, TensorShapeProto, TensorType, TensorTypeProto, TypeProto,
    ValueInfoProto, dimension,
};
use crate::support::onnx::tower::{floats, ints};
use crate::support::onnx::{graph, node, parse, write};
use crate::support::{Random, program, relative_l2, runtime};
use taskbasis::onnx::{BindOptions, bind};
use taskbasis::{Checkpoint, Error, ErrorKind, save_arrays};

const SIZE: usize = 4;
const IMAGE: usize = 3 * SIZE * SIZE;
const WIDTH: usize = 6;
const OUT: usize = 5;

const SHAPES: [(&str, &[usize]); 9] = [
    ("stem.conv.weight", &[WIDTH, 3, SIZE, SIZE]),
    ("stem.conv.bias", &[WIDTH]),
    ("blocks.0.fc1.weight", &[WIDTH, WIDTH]),
    ("blocks.0.fc1.bias", &[WIDTH]),
    ("blocks.0.gamma", &[WIDTH]),
    ("fc.weight", &[OUT, WIDTH]),
    ("fc.bias", &[OUT]),
    ("classifier.weight", &[7, OUT]),
    ("classifier.bias", &[7]),
];

type Values = HashMap<&'static str, Vec<f32>>;

/// Weights around `center`; biases of linear layers are zeros, as many are, where `scale` is 1.
fn weights(seed: u64, center: Option<&Values>) -> Values {
    let mut random = Random(seed);
    let value = |(name, shape): &(&'static str, &[usize])| {
        let mut values = random.many(shape.iter().product());
        if let Some(center) = center {
            values.iter_mut().zip(&center[name]).for_each(|(value, center)| *value = center + 0.1 * *value);
        } else if *name == "blocks.0.fc1.bias" || *name == "stem.conv.bias" {
            values.fill(0.0);
        }
        (*name, values)
    };
    SHAPES.iter().map(value).collect()
}

fn save(path: &Path, values: &Values) {
    let arrays: Vec<(&str, &[usize], &[f32])> =
        SHAPES.iter().map(|(name, shape)| (*name, *shape, values[name].as_slice())).collect();
    save_arrays(path, &arrays, &[], &[]).unwrap();
}

pub fn port(name: &str, extents: &[usize]) -> ValueInfoProto {
    let number = |extent: &usize| Dimension { value: Some(dimension::Value::DimValue(*extent as i64)) };
    let images = Dimension { value: Some(dimension::Value::DimParam("n".into())) };
    let shape = TensorShapeProto { dim: std::iter::once(images).chain(extents.iter().map(number)).collect() };
    let tensor = TensorTypeProto { elem_type: Some(TensorType::Float as i32), shape: Some(shape) };
    let of = TypeProto { tensor_type: Some(tensor) };
    ValueInfoProto { name: Some(name.into()), r#type: Some(of), ..ValueInfoProto::default() }
}

/// The encoder with these weights, as an exporter writes it: made-up names, matrices transposed. The classifier behind
/// it is not there.
fn model(values: &Values) -> ModelProto {
    let turned = |name: &str, rows: usize, columns: usize| -> Vec<f32> {
        (0..columns).flat_map(|c| (0..rows).map(move |r| (r, c))).map(|(r, c)| values[name][r * columns + c]).collect()
    };
    let (w, s, e) = (WIDTH as i64, SIZE as i64, OUT as i64);
    let initializer = vec![
        floats("c0", &[w, 3, s, s], &values["stem.conv.weight"]),
        floats("c1", &[w], &values["stem.conv.bias"]),
        floats("c2", &[w, w], &turned("blocks.0.fc1.weight", WIDTH, WIDTH)),
        floats("c3", &[w], &values["blocks.0.fc1.bias"]),
        floats("c4", &[w], &values["blocks.0.gamma"]),
        floats("c5", &[w, e], &turned("fc.weight", OUT, WIDTH)),
        floats("c6", &[e], &values["fc.bias"]),
    ];
    let nodes = vec![
        node("Conv", &["pixels", "c0", "c1"], "a", vec![ints("strides", &[s, s])]),
        node("Flatten", &["a"], "b", Vec::new()),
        node("MatMul", &["b", "c2"], "c", Vec::new()),
        node("Add", &["c", "c3"], "d", Vec::new()),
        node("Relu", &["d"], "r", Vec::new()),
        node("Mul", &["r", "c4"], "f", Vec::new()),
        node("Add", &["b", "f"], "g", Vec::new()),
        node("Gemm", &["g", "c5", "c6"], "features", Vec::new()),
    ];
    let graph = GraphProto {
        node: nodes,
        name: Some("encoder".into()),
        initializer,
        input: vec![port("pixels", &[3, SIZE, SIZE])],
        output: vec![port("features", &[OUT])],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { version: Some(17), ..OperatorSetIdProto::default() };
    ModelProto { ir_version: Some(8), opset_import: vec![opset], graph: Some(graph), ..ModelProto::default() }
}

/// What the encoder gives, computed plainly.
fn features(values: &Values, pixels: &[f32]) -> Vec<f32> {
    let linear = |name: &str, x: &[f32]| -> Vec<f32> {
        let (weight, bias) = (&values[format!("{name}.weight").as_str()], &values[format!("{name}.bias").as_str()]);
        let dot = |row: &[f32]| row.iter().zip(x).map(|(a, b)| a * b).sum::<f32>();
        weight.chunks(x.len()).zip(bias).map(|(row, bias)| dot(row) + bias).collect()
    };
    let one = |image: &[f32]| {
        let b = linear("stem.conv", image);
        let mut d = linear("blocks.0.fc1", &b);
        d.iter_mut().zip(&values["blocks.0.gamma"]).zip(&b).for_each(|((d, gamma), b)| *d = b + gamma * d.max(0.0));
        linear("fc", &d)
    };
    pixels.chunks(IMAGE).flat_map(one).collect()
}

/// `Σ factors · (task − base)` added to the base.
fn mixed(base: &Values, tasks: &[(f32, &Values)]) -> Values {
    let at = |name: &str, i: usize| {
        tasks.iter().map(|(factor, task)| factor * (task[name][i] - base[name][i])).sum::<f32>() + base[name][i]
    };
    base.iter().map(|(name, values)| (*name, (0..values.len()).map(|i| at(name, i)).collect())).collect()
}

#[test]
fn an_encoder_of_another_kind_from_binding_to_export() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let base = weights(1, None);
    let tasks = [weights(2, Some(&base)), weights(3, Some(&base))];
    std::fs::create_dir(folder.path().join("tasks")).unwrap();
    save(Path::new(&path("base.safetensors")), &base);
    save(Path::new(&path("tasks/A.safetensors")), &tasks[0]);
    save(Path::new(&path("tasks/B.safetensors")), &tasks[1]);
    let graph_path = write(&model(&base), folder.path(), "model.onnx");
    let graph = graph_path.to_str().unwrap();
    let pixels = Random(9).many(2 * IMAGE);
    save_arrays(Path::new(&path("pixels.safetensors")), &[("pixel_values", &[2, 3, SIZE, SIZE], &pixels)], &[], &[])
        .unwrap();

    let (base_path, basis, tasks_dir) = (path("base.safetensors"), path("basis"), path("tasks"));
    program::json(&["build", "--base", &base_path, "--tasks-dir", &tasks_dir, "--vectors", "2", "-o", &basis]);
    let of_model = ["--basis", &basis, "--base", &base_path];
    let bound = program::json(&[&["bind", graph][..], &of_model].concat());
    assert_eq!(bound["inputs"], 7);
    // Zeros of one length are told apart by what is used beside them.
    assert_eq!(bound["map"]["tensors"]["c1"]["sum"][0]["parameter"], "stem.conv.bias");
    assert_eq!(bound["map"]["tensors"]["c3"]["sum"][0]["parameter"], "blocks.0.fc1.bias");
    if !runtime() {
        return;
    }
    for (expression, factors) in
        [("base", [0.0, 0.0]), ("A", [1.0, 0.0]), ("-B", [0.0, -1.0]), ("A@0.3 + B@0.4", [0.3, 0.4])]
    {
        let out = path("out.safetensors");
        let embed = ["embed", "--graph", graph, "-i", &path("pixels.safetensors"), "--weights", expression, "-o", &out];
        program::json(&[&embed[..], &of_model].concat());
        let found = Checkpoint::open(&out).unwrap().require("embeds").unwrap().to_f32().unwrap().into_owned();
        let expected = features(&mixed(&base, &[(factors[0], &tasks[0]), (factors[1], &tasks[1])]), &pixels);
        assert!(relative_l2(&found, &expected) <= 2e-5, "{expression}: {found:?} {expected:?}");
    }
    let exported = path("a.onnx");
    program::json(&[&["export", "--graph", graph, "--weights", "A", "-o", &exported][..], &of_model].concat());
    let encoder =
        crate::support::onnx_file::OnnxFileEncoder::open(&exported, &taskbasis::EncoderOptions::default()).unwrap();
    assert!(relative_l2(&encoder.encode(&pixels, 2).unwrap(), &features(&tasks[0], &pixels)) <= 2e-5);
    // Without a graph nothing says how to run it.
    let embed = ["embed", "-i", &path("pixels.safetensors"), "--weights", "A", "-o", &path("none.safetensors")];
    program::fail(&[&embed[..], &of_model].concat(), &["holds no image encoder"]);
}

/// Binding with these weights of the base, over a graph that was changed.
fn refused(base: &Values, change: impl Fn(&mut GraphProto)) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.safetensors");
    save(&path, base);
    let mut model = model(base);
    change(graph(&mut model));
    bind(&parse(&model), &Checkpoint::open(&path).unwrap(), &BindOptions::default()).unwrap_err()
}

#[test]
fn what_may_be_there_in_another_form_is_refused() {
    let base = weights(1, None);
    // A bias that the graph left out: its module is there.
    let error = refused(&base, |graph| {
        graph.node[3].input[1] = "c".into();
    });
    assert_eq!((error.kind(), error.tensor_name()), (ErrorKind::Mismatch, Some("blocks.0.fc1.bias")));
    // A matrix of a module of its own, and something in the graph that could be the classifier in another form.
    let error = refused(&base, |graph| {
        graph.initializer.push(floats("c7", &[5, 7], &[0.5; 35]));
        graph.node.push(node("MatMul", &["features", "c7"], "more", Vec::new()));
        graph.output[0] = port("more", &[7]);
    });
    assert!(error.tensor_name().is_some_and(|name| name.starts_with("classifier.")), "{error}");
    // Values that changed nothing may have been left out.
    let mut neutral = base.clone();
    neutral.insert("classifier.weight", vec![1.0; 35]);
    let error = refused(&neutral, |_| {});
    assert!(error.tensor_name().is_some_and(|name| name.starts_with("classifier.")), "{error}");
}
