//! Graphs of encoders that are no vision transformers: bound by values alone, and run with weights of any names.

use std::path::Path;

use crate::support::onnx::proto::GraphProto;
use crate::support::onnx::tower::floats;
use crate::support::onnx::{graph, node, parse, write};
use crate::support::other::{IMAGE, SIZE, Values, WIDTH, features, mixed, model, port, save, weights};
use crate::support::{Random, program, relative_l2, runtime};
use taskbasis::onnx::{BindOptions, bind};
use taskbasis::{Checkpoint, Error, ErrorKind, save_arrays};

#[test]
fn an_encoder_of_another_kind_from_binding_to_export() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let base = weights(WIDTH, 1, None);
    let tasks = [weights(WIDTH, 2, Some(&base)), weights(WIDTH, 3, Some(&base))];
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
    let base = weights(WIDTH, 1, None);
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
