//! The weights of a graph come out under the names and in the orientation that their library gave them.

use std::collections::HashMap;
use std::path::Path;

use crate::support;
use crate::support::onnx::proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto};
use crate::support::onnx::tower::{float, floats, int, integers, ints};
use crate::support::onnx::{external, graph, node, parse, write};
use taskbasis::onnx::{Extracted, NameSource, OnnxFile, extract};
use taskbasis::{Checkpoint, ErrorKind};

/// A number for each place, so that what is exchanged is seen.
fn counted(name: &str, dims: &[i64]) -> TensorProto {
    let start = name.bytes().map(u32::from).sum::<u32>() as f32;
    let values: Vec<f32> = (0..dims.iter().product::<i64>()).map(|i| start + i as f32).collect();
    floats(name, dims, &values)
}

fn model(node: Vec<NodeProto>, initializer: Vec<TensorProto>) -> ModelProto {
    let opset = OperatorSetIdProto { version: Some(17), ..OperatorSetIdProto::default() };
    let graph = GraphProto { node, initializer, ..GraphProto::default() };
    ModelProto { ir_version: Some(8), opset_import: vec![opset], graph: Some(graph), ..ModelProto::default() }
}

/// What torch.onnx makes of layers: the names of its matrices are made up, those of vectors are the state dict's.
fn layers() -> ModelProto {
    let nodes = vec![
        node("MatMul", &["x", "onnx::MatMul_7"], "/fc1/MatMul_output_0", Vec::new()),
        node("Add", &["blocks.0.fc1.bias", "/fc1/MatMul_output_0"], "a", Vec::new()),
        node("Gemm", &["a", "onnx::Gemm_8", "head.bias"], "b", Vec::new()),
        node("Gemm", &["a", "onnx::Gemm_9", "aux.bias"], "c", vec![int("transB", 1)]),
        node("Transpose", &["val_3"], "turned", vec![ints("perm", &[1, 0])]),
        node("MatMul", &["c", "turned"], "d", Vec::new()),
        node("Add", &["d", "blocks.1.in_proj_bias"], "e", Vec::new()),
        // Without a bias the exporter's note of the module is left.
        node("MatMul", &["e", "onnx::MatMul_10"], "/blocks/blocks.1/out/MatMul_output_0", Vec::new()),
        node("Mul", &["/blocks/blocks.1/out/MatMul_output_0", "onnx::Mul_11"], "f", Vec::new()),
        node("Add", &["f", "norm.bias"], "g", Vec::new()),
        // A module that has parameters of its own is no linear layer.
        node("MatMul", &["g", "onnx::MatMul_12"], "/blocks/blocks.0/MatMul_output_0", Vec::new()),
        node("Add", &["g", "eps"], "y", Vec::new()),
    ];
    let constants = [
        ("onnx::MatMul_7", &[2, 3][..]),
        ("blocks.0.fc1.bias", &[3]),
        ("onnx::Gemm_8", &[3, 2]),
        ("head.bias", &[2]),
        ("onnx::Gemm_9", &[4, 3]),
        ("aux.bias", &[4]),
        ("val_3", &[6, 4]),
        ("blocks.1.in_proj_bias", &[6]),
        ("onnx::MatMul_10", &[6, 5]),
        ("onnx::Mul_11", &[5]),
        ("norm.bias", &[5]),
        ("onnx::MatMul_12", &[5, 5]),
        ("eps", &[]),
        ("scale.gamma", &[1]),
    ];
    model(nodes, constants.iter().map(|(name, dims)| counted(name, dims)).collect())
}

fn by_name(extracted: &Extracted) -> HashMap<&str, (&[usize], Vec<f32>)> {
    let one = |tensor: &'_ taskbasis::onnx::ExtractedTensor| tensor.tensor.to_f32().unwrap().into_owned();
    extracted.tensors.iter().map(|found| (found.name.as_str(), (found.tensor.shape(), one(found)))).collect()
}

#[test]
fn names_and_orientations_are_recovered() {
    let extracted = extract(&parse(&layers())).unwrap();
    let found = by_name(&extracted);
    let mut names: Vec<&str> = found.keys().copied().collect();
    names.sort_unstable();
    let expected = [
        "aux.bias",
        "aux.weight",
        "blocks.0.fc1.bias",
        "blocks.0.fc1.weight",
        "blocks.1.in_proj_bias",
        "blocks.1.in_proj_weight",
        "blocks.1.out.weight",
        "head.bias",
        "head.weight",
        "norm.bias",
        "norm.weight",
        "onnx::MatMul_12",
        "scale.gamma",
    ];
    assert_eq!(names, expected);
    assert_eq!(extracted.left_out, ["eps"]);
    let unknown: Vec<&str> = extracted.unknown().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(unknown, ["onnx::MatMul_12"]);

    let first = |name: &str| name.bytes().map(u32::from).sum::<u32>() as f32;
    let at = first("onnx::MatMul_7");
    let turned = vec![at, at + 3.0, at + 1.0, at + 4.0, at + 2.0, at + 5.0];
    assert_eq!(found["blocks.0.fc1.weight"], (&[3, 2][..], turned));
    let at = first("onnx::Gemm_9");
    assert_eq!(found["aux.weight"], (&[4, 3][..], (0..12).map(|i| at + i as f32).collect()));
    assert_eq!(found["head.weight"].0, [2, 3]);
    assert_eq!(found["blocks.1.in_proj_weight"].0, [6, 4]);
    assert_eq!((found["blocks.1.out.weight"].0, found["norm.weight"].0), (&[5, 6][..], &[5][..]));
    let source = |name: &str| &extracted.tensors.iter().find(|tensor| tensor.name == name).unwrap().source;
    assert_eq!(*source("head.weight"), NameSource::Beside("head.bias".into()));
    let module = "/blocks/blocks.1/out/MatMul_output_0";
    assert_eq!(*source("blocks.1.out.weight"), NameSource::Module(module.into()));
}

/// Two matrices beside biases of one name would be one parameter: neither is believed.
#[test]
fn names_that_are_claimed_twice_are_not_given() {
    let mut model = layers();
    graph(&mut model).node[2].input[2] = "aux.bias".into();
    let extracted = extract(&parse(&model)).unwrap();
    let names = by_name(&extracted);
    assert!(names.contains_key("onnx::Gemm_8") && names.contains_key("onnx::Gemm_9"), "{:?}", names.keys());
    // Nor is a name that the file has already.
    let mut model = layers();
    graph(&mut model).initializer.push(counted("head.weight", &[2, 3]));
    assert!(by_name(&extract(&parse(&model)).unwrap()).contains_key("onnx::Gemm_8"));
}

#[test]
fn a_table_of_positions_is_put_together() {
    let nodes = vec![
        node("Reshape", &["onnx::Reshape_2", "grid"], "g", Vec::new()),
        node("Transpose", &["g"], "t", vec![ints("perm", &[0, 3, 1, 2])]),
        node("Resize", &["t", "", "", "sizes"], "r", vec![float("cubic_coeff_a", -0.75)]),
        node("Transpose", &["r"], "u", vec![ints("perm", &[0, 2, 3, 1])]),
        node("Reshape", &["u", "row"], "v", Vec::new()),
        node("Concat", &["onnx::Concat_1", "v"], "p", vec![int("axis", 1)]),
        node("Concat", &["m.embeddings.cls_token", "x"], "tokens", vec![int("axis", 1)]),
        node("Add", &["tokens", "p"], "y", Vec::new()),
    ];
    let mut constants = vec![
        counted("onnx::Reshape_2", &[1, 4, 3]),
        counted("onnx::Concat_1", &[1, 1, 3]),
        counted("m.embeddings.cls_token", &[1, 1, 3]),
        counted("m.embeddings.patch_embeddings.projection.weight", &[3, 3, 2, 2]),
    ];
    constants.extend(["grid", "sizes", "row"].map(|name| integers(name, &[1, 2, 2, 3])));
    let file = model(nodes.clone(), constants.clone());
    let extracted = extract(&parse(&file)).unwrap();
    let found = by_name(&extracted);
    let (shape, _) = &found["m.embeddings.position_embeddings"];
    assert_eq!(*shape, [1, 5, 3]);
    let values = |name: &str| {
        let tensor = constants.iter().find(|tensor| tensor.name() == name).unwrap();
        tensor.raw_data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(
        *found["m.embeddings.position_embeddings"].1,
        [values("onnx::Concat_1"), values("onnx::Reshape_2")].concat()
    );
    assert_eq!(found.len(), 3);

    // In timm's model they have another name, and beside no patches that are known none.
    let renamed = |to: &str| {
        let mut file = model(nodes.clone(), constants.clone());
        graph(&mut file).initializer[3].name = Some(to.to_owned());
        extract(&parse(&file)).unwrap()
    };
    assert!(by_name(&renamed("m.embeddings.patch_embed.proj.weight")).contains_key("m.embeddings.pos_embed"));
    assert!(by_name(&renamed("m.embeddings.stem.weight")).contains_key("onnx::Concat_1"));
}

#[test]
fn the_program_writes_a_state_dict() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = layers();
    external(&mut model, folder.path());
    let file = write(&model, folder.path(), "model.onnx");
    let (out, again) = (folder.path().join("base.safetensors"), folder.path().join("again.safetensors"));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let told = support::program::json(&["extract", &text(&file), "-o", &text(&out)]);
    assert_eq!((&told["parameters"], &told["left_out"]), (&129.into(), &serde_json::json!(["eps"])));
    let named = |name: &str| {
        let all = told["tensors"].as_array().unwrap().clone();
        all.into_iter().find(|tensor| tensor["name"] == name).unwrap()
    };
    assert_eq!(named("head.weight")["named_by"], "beside");
    assert_eq!(
        (&named("onnx::MatMul_12")["named_by"], &named("onnx::MatMul_12")["evidence"]),
        (&"unknown".into(), &serde_json::Value::Null)
    );

    let written = Checkpoint::open(&out).unwrap();
    let extracted = extract(&OnnxFile::open(&file).unwrap()).unwrap();
    assert_eq!(written.len(), extracted.tensors.len());
    for tensor in &extracted.tensors {
        let read = written.require(&tensor.name).unwrap();
        assert_eq!((read.shape(), read.to_f32().unwrap()), (tensor.tensor.shape(), tensor.tensor.to_f32().unwrap()));
    }
    let ran = support::program::run(&["extract", &text(&file), "-o", &text(&again)]);
    let note = String::from_utf8(ran.stderr).unwrap();
    assert!(note.contains("1 tensor: `onnx::MatMul_12`"), "{note}");
    assert_eq!(std::fs::read(&out).unwrap(), std::fs::read(&again).unwrap());

    // Neither the model nor its file of values is overwritten, and what is no number is named.
    let values = text(&folder.path().join("weights/model.bin"));
    support::program::fail(&["extract", &text(&file), "-o", &values], &["model.bin"]);
    let mut broken = layers();
    graph(&mut broken).initializer[3] = floats("head.bias", &[2], &[1.0, f32::NAN]);
    let broken = write(&broken, folder.path(), "broken.onnx");
    let error = extract(&OnnxFile::open(&broken).unwrap()).unwrap().save(&again, &[], &|_| {}).unwrap_err();
    assert_eq!((error.kind(), error.tensor_name()), (ErrorKind::Format, Some("head.bias")));
}
