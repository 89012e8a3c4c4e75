//! Variants of exported graphs, made here so that a clone has them.

pub mod proto;
pub mod tower;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::support::onnx::proto::{
    AttributeProto, AttributeType, DataLocation, GraphProto, ModelProto, NodeProto, StringStringEntryProto,
    TensorProto, TensorType,
};
use half::f16;
use prost::Message;
use taskbasis::Mapping;
use taskbasis::onnx::OnnxFile;

pub const GRAPHS: [&str; 2] = ["onnx/torchscript_export_opset16.onnx", "onnx/transformers_style_opset14.onnx"];

pub fn decode(path: &Path) -> ModelProto {
    ModelProto::decode(&*std::fs::read(path).unwrap()).unwrap()
}

pub fn graph(model: &mut ModelProto) -> &mut GraphProto {
    model.graph.as_mut().unwrap()
}

pub fn parse(model: &ModelProto) -> OnnxFile {
    OnnxFile::parse(Arc::new(Mapping::from_vec(model.encode_to_vec(), "variant.onnx"))).unwrap()
}

pub fn write(model: &ModelProto, folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, model.encode_to_vec()).unwrap();
    path
}

/// Every constant's values in one file beside the model.
pub fn external(model: &mut ModelProto, folder: &Path) {
    let mut data = Vec::new();
    for tensor in &mut graph(model).initializer {
        let raw = tensor.raw_data.take().unwrap();
        let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
        tensor.external_data = vec![
            entry("location", "weights/model.bin".into()),
            entry("offset", data.len().to_string()),
            entry("length", raw.len().to_string()),
        ];
        tensor.data_location = Some(DataLocation::External as i32);
        data.extend(raw);
        data.resize(data.len().next_multiple_of(64), 0);
    }
    std::fs::create_dir(folder.join("weights")).unwrap();
    std::fs::write(folder.join("weights/model.bin"), data).unwrap();
}

/// Every name of a constant becomes noise, and so do the names of nodes.
pub fn rename(model: &mut ModelProto, noise: &mut impl FnMut() -> u64) {
    let names: std::collections::HashMap<String, String> =
        graph(model).initializer.iter().map(|tensor| (tensor.name().to_owned(), format!("n{:x}", noise()))).collect();
    for tensor in &mut graph(model).initializer {
        tensor.name = names.get(tensor.name()).cloned();
    }
    for node in &mut graph(model).node {
        node.name = Some(format!("x{:x}", noise()));
        for input in &mut node.input {
            if let Some(new) = names.get(input) {
                input.clone_from(new);
            }
        }
    }
}

fn to_half(tensor: &mut TensorProto) {
    if tensor.data_type() != TensorType::Float as i32 {
        return;
    }
    let values = tensor.raw_data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    tensor.raw_data = Some(values.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect());
    tensor.data_type = Some(TensorType::Float16 as i32);
}

/// Half floats everywhere: constants, input and output, and what is computed in between.
pub fn half(model: &mut ModelProto) {
    let graph = graph(model);
    graph.initializer.iter_mut().for_each(to_half);
    graph.value_info.clear();
    for node in &mut graph.node {
        let is_cast = node.op_type() == "Cast";
        for attribute in &mut node.attribute {
            attribute.t.iter_mut().for_each(to_half);
            if is_cast && attribute.i == Some(TensorType::Float as i64) {
                attribute.i = Some(TensorType::Float16 as i64);
            }
        }
    }
    for port in graph.input.iter_mut().chain(&mut graph.output) {
        let tensor = port.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
        tensor.elem_type = Some(TensorType::Float16 as i32);
    }
}

/// Constants in half floats, computing in f32: a cast after each.
pub fn half_weights(model: &mut ModelProto) {
    let graph = graph(model);
    let mut casts = Vec::new();
    for tensor in graph.initializer.iter_mut().filter(|tensor| tensor.data_type() == TensorType::Float as i32) {
        let name = tensor.name().to_owned();
        to_half(tensor);
        tensor.name = Some(format!("{name}.half"));
        let to = AttributeProto {
            name: Some("to".into()),
            i: Some(TensorType::Float as i64),
            r#type: Some(AttributeType::Int as i32),
            ..AttributeProto::default()
        };
        casts.push(node("Cast", &[&format!("{name}.half")], &name, vec![to]));
    }
    graph.node.splice(0..0, casts);
}

/// A cast from f32 to f32 in front of every matrix that is the second factor of a product: the same values, and no
/// linear layer to be recognised.
pub fn hide_matrices(model: &mut ModelProto) {
    let graph = graph(model);
    let mut casts = Vec::new();
    for node in &mut graph.node {
        let is_product = matches!(node.op_type(), "MatMul" | "Gemm");
        if is_product && graph.initializer.iter().any(|tensor| tensor.name() == node.input[1]) {
            let cast = format!("{}.cast.{}", node.input[1], casts.len());
            casts.push(self::node("Cast", &[&node.input[1]], &cast, vec![tower::int("to", TensorType::Float as i64)]));
            node.input[1] = cast;
        }
    }
    graph.node.splice(0..0, casts);
}

pub fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.to_owned()],
        op_type: Some(op.to_owned()),
        attribute,
        ..NodeProto::default()
    }
}
