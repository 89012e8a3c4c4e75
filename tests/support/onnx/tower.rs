//! A small tower of our own as others export it: the built graph with the base's weights in it, and edits of that.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::onnx::proto::{
    AttributeProto, AttributeType, GraphProto, ModelProto, TensorProto, TensorType, dimension::Value,
};
use crate::support::synthetic::Synthetic;
use taskbasis::onnx::{BindOptions, BoundGraph};
use taskbasis::{
    Activation, Arch, Basis, Checkpoint, DType, Encoder, EncoderOptions, Method, Model, ModelOptions, Promotion,
    ReconstructOptions, Result, Weights,
};

use super::{decode, graph, node, write};

pub const CLASS: &str = "visual.class_embedding";
pub const POSITIONS: &str = "visual.positional_embedding";
pub const PROJECTION: &str = "visual.proj";

/// A base, a basis over it, and the graph with the base's weights.
pub struct Tower {
    pub folder: tempfile::TempDir,
    pub arch: Arch,
    pub model: Arc<Model>,
    pub plain: ModelProto,
    written: AtomicUsize,
}

impl Tower {
    pub fn new() -> Self {
        let arch = Arch {
            width: 16,
            layers: 2,
            heads: 2,
            mlp_width: 24,
            patch: 2,
            grid: 2,
            embed_dim: 12,
            activation: Activation::QuickGelu,
            variant: taskbasis::Variant::default(),
        };
        let (method, dtype) = (Method::Autoencoder, DType::F32);
        let family = Synthetic { arch, text: Vec::new(), method, tasks: 3, vectors: 2, dtype, seed: 11 };
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        family.write_base(path("base.pt")).unwrap();
        family.write_basis(path("basis")).unwrap();
        let (base, basis) = (Checkpoint::open(path("base.pt")).unwrap(), Basis::open(path("basis")).unwrap());
        let weights = Weights::of_base(&base, &ReconstructOptions::default()).unwrap();
        taskbasis::write_onnx(&family.arch, &weights, &path("plain.onnx"), &[]).unwrap();
        let plain = decode(&path("plain.onnx"));
        let model = Model::new(base, Some(basis), &ModelOptions::default()).unwrap();
        Self { arch: family.arch, model, plain, folder, written: AtomicUsize::new(0) }
    }

    /// Writes it into a file of its own: those before may be mapped.
    pub fn write(&self, model: &ModelProto, name: &str) -> PathBuf {
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        write(model, self.folder.path(), &format!("{number}-{name}"))
    }

    pub fn bind(&self, model: &ModelProto) -> Result<BoundGraph> {
        self.bind_with(model, &BindOptions::default())
    }

    pub fn bind_with(&self, model: &ModelProto, options: &BindOptions) -> Result<BoundGraph> {
        BoundGraph::open(self.write(model, "form.onnx"), self.model.base(), self.model.basis(), options)
    }

    pub fn encoder(&self, graph: &BoundGraph) -> Encoder {
        Encoder::with_graph(&self.arch, graph, &options()).unwrap()
    }

    /// The embeddings of the built graph.
    pub fn expected(&self, expression: &str, pixels: &[f32]) -> Vec<f32> {
        self.embeds(&Encoder::new(&self.arch, &options()).unwrap(), expression, pixels)
    }

    pub fn embeds(&self, encoder: &Encoder, expression: &str, pixels: &[f32]) -> Vec<f32> {
        let task = self.model.weights(&expression.parse().unwrap()).unwrap();
        encoder.encode_task(&task, pixels, pixels.len() / self.arch.pixels()).unwrap()
    }

    /// Some images that differ, and are not symmetric.
    pub fn pixels(&self, n: usize) -> Vec<f32> {
        (0..n * self.arch.pixels()).map(|i| (i * 37 % 101) as f32 / 50.5 - 1.0).collect()
    }

    pub fn values(&self, parameter: &str) -> Vec<f32> {
        self.model.base().get(parameter).unwrap().to_f32().unwrap().into_owned()
    }
}

pub fn options() -> EncoderOptions {
    EncoderOptions { threads: 1, promotion: Promotion::Manual, ..EncoderOptions::default() }
}

pub fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(TensorType::Float as i32),
        raw_data: Some(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        ..TensorProto::default()
    }
}

pub fn integers(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: vec![values.len() as i64],
        data_type: Some(TensorType::Int64 as i32),
        raw_data: Some(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        ..TensorProto::default()
    }
}

pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        i: Some(value),
        r#type: Some(AttributeType::Int as i32),
        ..AttributeProto::default()
    }
}

pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        ints: values.to_vec(),
        r#type: Some(AttributeType::Ints as i32),
        ..AttributeProto::default()
    }
}

pub fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        f: Some(value),
        r#type: Some(AttributeType::Float as i32),
        ..AttributeProto::default()
    }
}

/// The place of the node that makes a value.
pub fn maker(graph: &GraphProto, value: &str) -> usize {
    graph.node.iter().position(|node| node.output.iter().any(|output| output == value)).unwrap()
}

/// The place of the node that reads a value first.
pub fn reader(graph: &GraphProto, value: &str) -> usize {
    graph.node.iter().position(|node| node.input.iter().any(|input| input == value)).unwrap()
}

/// The number of images that the graph says it takes; the output's, too.
pub fn declare_batch(model: &mut ModelProto, batch: i64) {
    let graph = graph(model);
    for port in graph.input.iter_mut().chain(&mut graph.output) {
        let tensor = port.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
        tensor.shape.as_mut().unwrap().dim[0].value = Some(Value::DimValue(batch));
    }
}

/// The class token as a constant `[batch, 1, w]` of equal rows, as exporters fold it for a fixed batch.
pub fn repeat_token(tower: &Tower, model: &mut ModelProto, batch: usize) {
    let token = floats("token", &[batch as i64, 1, tower.arch.width as i64], &tower.values(CLASS).repeat(batch));
    replace_token(model, token);
}

/// [`repeat_token`] with the first position added to it, and the other positions to the patches.
pub fn repeat_token_with_position(tower: &Tower, model: &mut ModelProto, batch: usize) {
    let (w, tokens) = (tower.arch.width, tower.arch.tokens());
    let positions = tower.values(POSITIONS);
    let first: Vec<f32> = tower.values(CLASS).iter().zip(&positions).map(|(a, b)| a + b).collect();
    replace_token(model, floats("token", &[batch as i64, 1, w as i64], &first.repeat(batch)));
    let graph = graph(model);
    let rest = floats("rest", &[tokens as i64 - 1, w as i64], &positions[w..]);
    graph.initializer.retain(|tensor| tensor.name() != POSITIONS);
    graph.initializer.push(rest);
    let at = reader(graph, POSITIONS);
    let (sum, tokens) = (graph.node[at].output[0].clone(), graph.node[at].input[0].clone());
    graph.node.remove(at);
    let concat = maker(graph, &tokens);
    let patches = graph.node[concat].input[1].clone();
    graph.node[concat].input[1] = "placed".into();
    graph.node[concat].output[0] = sum;
    graph.node.insert(concat, node("Add", &[&patches, "rest"], "placed", Vec::new()));
}

fn replace_token(model: &mut ModelProto, token: TensorProto) {
    let graph = graph(model);
    graph.initializer.retain(|tensor| tensor.name() != CLASS);
    graph.initializer.push(token);
    let at = reader(graph, CLASS);
    let made = graph.node.remove(at).output.remove(0);
    for input in graph.node.iter_mut().flat_map(|node| &mut node.input).filter(|input| **input == made) {
        *input = "token".into();
    }
}

/// The encoder twice with the same weights, for an image and its mirror image; the output is the mean.
pub fn mirror(model: &mut ModelProto) {
    let graph = graph(model);
    let (pixels, output) = (graph.input[0].name().to_owned(), graph.output[0].name().to_owned());
    let constants: Vec<String> = graph.initializer.iter().map(|tensor| tensor.name().to_owned()).collect();
    let mut all = vec![node("Slice", &[&pixels, "last", "least", "across", "back"], "mirrored", Vec::new())];
    for branch in ["left", "right"] {
        for original in &graph.node {
            let mut copy = original.clone();
            copy.name = Some(format!("{branch}/{}", original.name()));
            for name in copy.input.iter_mut().chain(&mut copy.output) {
                if *name == pixels {
                    *name = if branch == "left" { pixels.clone() } else { "mirrored".into() };
                } else if !constants.contains(name) && !name.is_empty() {
                    *name = format!("{branch}/{name}");
                }
            }
            all.push(copy);
        }
    }
    all.push(node("Add", &[&format!("left/{output}"), &format!("right/{output}")], "sum", Vec::new()));
    all.push(node("Mul", &["sum", "half"], &output, Vec::new()));
    graph.node = all;
    for (name, value) in [("last", -1), ("least", i64::MIN + 1), ("across", 3), ("back", -1)] {
        graph.initializer.push(integers(name, &[value]));
    }
    graph.initializer.push(floats("half", &[], &[0.5]));
}
