//! The hand-written schema reads what other programs write.

use crate::support;
use crate::support::onnx::proto::{ModelProto, TensorType, dimension::Value};
use prost::Message;

#[test]
fn exported_models_are_read_in_full() {
    for (file, opset, nodes, weights) in
        [("onnx/torchscript_export_opset16.onnx", 16, 432, 44), ("onnx/transformers_style_opset14.onnx", 14, 314, 56)]
    {
        let Some(path) = support::digits(file) else { continue };
        let bytes = std::fs::read(path).unwrap();
        let model = ModelProto::decode(&*bytes).unwrap();
        assert_eq!(model.producer_name(), "pytorch");
        assert_eq!(
            model.opset_import.iter().map(|set| (set.domain(), set.version())).collect::<Vec<_>>(),
            [("", opset)]
        );
        assert_eq!(ModelProto::decode(&*model.encode_to_vec()).unwrap(), model);

        let graph = model.graph.unwrap();
        let pixels = &graph.input[0];
        let shape = pixels.r#type.as_ref().unwrap().tensor_type.as_ref().unwrap().shape.as_ref().unwrap();
        assert_eq!((pixels.name(), shape.dim.len()), ("pixel_values", 4));
        assert_eq!(shape.dim[2].value, Some(Value::DimValue(32)));

        let mut floats = 0;
        for tensor in &graph.initializer {
            let count: i64 = tensor.dims.iter().product();
            let size = if tensor.data_type() == TensorType::Float as i32 { 4 } else { 8 };
            assert_eq!(tensor.raw_data().len() as i64, count * size, "{}", tensor.name());
            floats += usize::from(size == 4);
        }
        assert_eq!((graph.node.len(), graph.initializer.len(), floats), (nodes, weights, weights), "{file}");
        let named = graph.node.iter().all(|node| !node.op_type().is_empty() && !node.output.is_empty());
        let typed =
            graph.node.iter().flat_map(|node| &node.attribute).all(|a| !a.name().is_empty() && a.r#type() as i32 != 0);
        assert!(named && typed);
    }
}

#[test]
fn a_damaged_model_is_an_error() {
    let Some(path) = support::digits("onnx/torchscript_export_opset16.onnx") else { return };
    let bytes = std::fs::read(path).unwrap();
    for end in (1..bytes.len()).step_by(bytes.len() / 97) {
        // Cut anywhere inside the one big field, the graph.
        let cut = ModelProto::decode(&bytes[..end]);
        assert!(cut.is_err() || cut.unwrap().graph.is_none(), "{end}");
    }
}
