//! An encoder that is no vision transformer, with weights of any names and its graph: a convolution, a block with a
//! linear layer, features, and a classifier that the graph ends before.

use std::collections::HashMap;
use std::path::Path;

use super::Random;
use super::onnx::node;
use super::onnx::proto::{
    Dimension, GraphProto, ModelProto, OperatorSetIdProto, TensorShapeProto, TensorType, TensorTypeProto, TypeProto,
    ValueInfoProto, dimension,
};
use super::onnx::tower::{floats, ints};
use taskbasis::save_arrays;

/// The side of the images.
pub const SIZE: usize = 4;
/// Values in one.
pub const IMAGE: usize = 3 * SIZE * SIZE;
/// The usual width: too narrow for its linear layers to be most of it.
pub const WIDTH: usize = 6;
/// The length of embeddings.
pub const OUT: usize = 5;

fn shapes(width: usize) -> [(&'static str, Vec<usize>); 9] {
    [
        ("stem.conv.weight", vec![width, 3, SIZE, SIZE]),
        ("stem.conv.bias", vec![width]),
        ("blocks.0.fc1.weight", vec![width, width]),
        ("blocks.0.fc1.bias", vec![width]),
        ("blocks.0.gamma", vec![width]),
        ("fc.weight", vec![OUT, width]),
        ("fc.bias", vec![OUT]),
        ("classifier.weight", vec![7, OUT]),
        ("classifier.bias", vec![7]),
    ]
}

pub type Values = HashMap<&'static str, Vec<f32>>;

fn width_of(values: &Values) -> usize {
    values["stem.conv.bias"].len()
}

/// Weights around `center`; biases of linear layers are zeros, as many are, where `scale` is 1.
pub fn weights(width: usize, seed: u64, center: Option<&Values>) -> Values {
    let mut random = Random(seed);
    // As deep layers have them, whatever the width is.
    let scale = (WIDTH as f32 / width as f32).sqrt();
    let value = |(name, shape): &(&'static str, Vec<usize>)| {
        let mut values = random.many(shape.iter().product());
        if let Some(center) = center {
            values.iter_mut().zip(&center[name]).for_each(|(value, center)| *value = center + 0.1 * scale * *value);
        } else if *name == "blocks.0.fc1.bias" || *name == "stem.conv.bias" {
            values.fill(0.0);
        }
        if center.is_none() && shape.last() == Some(&width) && shape.len() == 2 {
            values.iter_mut().for_each(|value| *value *= scale);
        }
        (*name, values)
    };
    shapes(width).iter().map(value).collect()
}

pub fn save(path: &Path, values: &Values) {
    let shapes = shapes(width_of(values));
    let arrays: Vec<(&str, &[usize], &[f32])> =
        shapes.iter().map(|(name, shape)| (*name, shape.as_slice(), values[name].as_slice())).collect();
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
pub fn model(values: &Values) -> ModelProto {
    let turned = |name: &str, rows: usize, columns: usize| -> Vec<f32> {
        (0..columns).flat_map(|c| (0..rows).map(move |r| (r, c))).map(|(r, c)| values[name][r * columns + c]).collect()
    };
    let width = width_of(values);
    let (w, s, e) = (width as i64, SIZE as i64, OUT as i64);
    let initializer = vec![
        floats("c0", &[w, 3, s, s], &values["stem.conv.weight"]),
        floats("c1", &[w], &values["stem.conv.bias"]),
        floats("c2", &[w, w], &turned("blocks.0.fc1.weight", width, width)),
        floats("c3", &[w], &values["blocks.0.fc1.bias"]),
        floats("c4", &[w], &values["blocks.0.gamma"]),
        floats("c5", &[w, e], &turned("fc.weight", OUT, width)),
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
pub fn features(values: &Values, pixels: &[f32]) -> Vec<f32> {
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
pub fn mixed(base: &Values, tasks: &[(f32, &Values)]) -> Values {
    let at = |name: &str, i: usize| {
        tasks.iter().map(|(factor, task)| factor * (task[name][i] - base[name][i])).sum::<f32>() + base[name][i]
    };
    base.iter().map(|(name, values)| (*name, (0..values.len()).map(|i| at(name, i)).collect())).collect()
}

/// The preparation of images beside the base, as timm says it of a model that is not built in.
pub const TIMM: &str = r#"{"architecture": "convnext_tiny", "num_classes": 0, "pretrained_cfg": {
    "input_size": [3, 4, 4], "crop_pct": 1.0, "crop_mode": "center", "interpolation": "bilinear",
    "mean": [0.25, 0.5, 0.75], "std": [0.5, 0.25, 0.125]}}"#;

/// The pixels of an image of bytes `[S, S, 3]` as [`TIMM`] has it.
pub fn prepared(image: &[u8]) -> Vec<f32> {
    let (mean, std) = ([0.25, 0.5, 0.75], [0.5, 0.25, 0.125]);
    let value = |c: usize, i: usize| (f32::from(image[3 * i + c]) / 255.0 - mean[c]) / std[c];
    (0..3).flat_map(|c| (0..SIZE * SIZE).map(move |i| value(c, i))).collect()
}

/// Files of a family: `model/base.safetensors` with `config.json` beside it, `tasks/A.safetensors` and
/// `tasks/B.safetensors`, `basis`, `model.onnx`.
#[cfg(feature = "cli")]
pub struct Other {
    pub folder: tempfile::TempDir,
    pub base: Values,
    pub tasks: [Values; 2],
}

#[cfg(feature = "cli")]
impl Other {
    pub fn new(width: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base = weights(width, 1, None);
        let mut tasks = [weights(width, 2, Some(&base)), weights(width, 3, Some(&base))];
        // What no task changes is a constant of the graph that runs.
        for task in &mut tasks {
            task.insert("blocks.0.gamma", base["blocks.0.gamma"].clone());
        }
        let this = Self { folder, base, tasks };
        for name in ["model", "tasks"] {
            std::fs::create_dir(this.folder.path().join(name)).unwrap();
        }
        std::fs::write(this.path("model/config.json"), TIMM).unwrap();
        save(Path::new(&this.path("model/base.safetensors")), &this.base);
        save(Path::new(&this.path("tasks/A.safetensors")), &this.tasks[0]);
        save(Path::new(&this.path("tasks/B.safetensors")), &this.tasks[1]);
        super::onnx::write(&model(&this.base), this.folder.path(), "model.onnx");
        let (base, tasks, basis) = (this.path("model/base.safetensors"), this.path("tasks"), this.path("basis"));
        super::program::json(&["build", "--base", &base, "--tasks-dir", &tasks, "--vectors", "2", "-o", &basis]);
        this
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// `--basis` and `--base` of the folder.
    pub fn of_folder(&self) -> [String; 4] {
        ["--basis".into(), self.path("basis"), "--base".into(), self.path("model/base.safetensors")]
    }

    /// Packs the bundle called `name`, with its graph and these options.
    pub fn pack(&self, name: &str, options: &[&str]) -> String {
        let (path, graph, of_folder) = (self.path(name), self.path("model.onnx"), self.of_folder());
        let of_folder: Vec<&str> = of_folder.iter().map(String::as_str).collect();
        super::program::json(&[&["pack", "--graph", &graph, "-o", &path][..], &of_folder, options].concat());
        path
    }

    /// The features of `pixels` with `Σ factors · (task − base)` added to the base.
    pub fn features(&self, factors: [f32; 2], pixels: &[f32]) -> Vec<f32> {
        features(&mixed(&self.base, &[(factors[0], &self.tasks[0]), (factors[1], &self.tasks[1])]), pixels)
    }
}
