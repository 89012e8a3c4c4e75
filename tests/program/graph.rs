//! `bind`, `export` and `--graph`, as a user runs them.

use crate::support;
use crate::support::runtime;
use std::path::Path;

use crate::support::program::{fail, json, run};
use crate::support::{digits, relative_l2};
use serde_json::Value;
use taskbasis::Checkpoint;

fn embeds(path: &Path) -> Vec<f32> {
    Checkpoint::open(path).unwrap().require("embeds").unwrap().to_f32().unwrap().into_owned()
}

#[test]
fn a_graph_from_binding_to_export() {
    let Some(graph) = digits("onnx/transformers_style_opset14.onnx") else { return };
    let (basis, base) = (digits("bases/ViT-D-8_AE_M4_8task").unwrap(), digits("base/pickled_module.pt").unwrap());
    let [graph, basis, base] = [&graph, &basis, &base].map(|path| path.to_str().unwrap());
    let model = ["--basis", basis, "--base", base];
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();

    let map = path("map.json");
    let told = json(&[&["bind", graph, "-o", &map][..], &model].concat());
    assert_eq!((&told["inputs"], &told["map"]["output"]), (&56.into(), &"image_embeds".into()));
    assert_eq!(told["map"], serde_json::from_slice::<Value>(&std::fs::read(&map).unwrap()).unwrap());
    let shown = run(&[&["bind", graph][..], &model].concat());
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("visual.proj") && shown.contains("rows 0 to 64, transposed"), "{shown}");

    let golden = digits("golden.safetensors").unwrap();
    let (pixels, golden) = (golden.to_str().unwrap(), Checkpoint::open(&golden).unwrap());
    let expected = golden.require("AE/task/MNIST@1.0/embeds").unwrap().to_f32().unwrap();
    if !runtime() {
        return;
    }
    for extra in [&[][..], &["--map", &map], &["--optimise-graph"]] {
        let out = path("embeds.safetensors");
        let embed = ["embed", "--weights", "MNIST", "--input", pixels, "-o", &out, "--graph", graph];
        json(&[&embed[..], &model, extra].concat());
        assert!(relative_l2(&embeds(Path::new(&out)), &expected) <= 5e-5, "{extra:?}");
    }

    // The graph has its activation.
    for command in [&["embed", "--input", pixels][..], &["export"]] {
        let (out, of_graph) = (path("none"), ["--activation", "quick_gelu", "--graph", graph]);
        let refused = run(&[command, &["--weights", "MNIST", "-o", &out], &model, &of_graph].concat());
        let message = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(1) && message.contains("--activation"), "{message}");
        assert!(!Path::new(&out).exists());
    }

    // Exported with the task's weights, the file binds to no other weights than those.
    for of_graph in [&[][..], &["--graph", graph]] {
        let plain = path("task.onnx");
        json(&[&["export", "--weights", "MNIST", "-o", &plain][..], &model, of_graph].concat());
        let encoder =
            crate::support::onnx_file::OnnxFileEncoder::open(&plain, &taskbasis::EncoderOptions::default()).unwrap();
        let values = golden.require("pixel_values").unwrap();
        let found = encoder.encode(&values.to_f32().unwrap(), 32).unwrap();
        assert!(relative_l2(&found, &expected) <= 5e-5);

        let halves = path("halves.onnx");
        json(&[&["export", "--f16", "--weights", "MNIST", "-o", &halves][..], &model, of_graph].concat());
        let size = |path: &str| std::fs::metadata(path).unwrap().len() as f64;
        let share = size(&halves) / size(&plain);
        assert!((0.5..0.6).contains(&share), "{of_graph:?}: {share}");
        let encoder =
            crate::support::onnx_file::OnnxFileEncoder::open(&halves, &taskbasis::EncoderOptions::default()).unwrap();
        let rounded = encoder.encode(&values.to_f32().unwrap(), 32).unwrap();
        let error = relative_l2(&rounded, &found);
        assert!((1e-7..2e-3).contains(&error), "{of_graph:?}: {error}");
        let refused = run(&[&["bind", &plain][..], &model].concat());
        let message = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(1) && message.contains("the graph lacks this parameter"), "{message}");
    }
    // What is wrong with a map names it, and the graph.
    let mut wrong: Value = serde_json::from_slice(&std::fs::read(&map).unwrap()).unwrap();
    wrong["output"] = "nowhere".into();
    std::fs::write(&map, wrong.to_string()).unwrap();
    fail(&[&["bind", graph, "--map", &map][..], &model].concat(), &[graph, &map, "no output `nowhere`"]);
    let cut = path("cut.onnx");
    std::fs::write(&cut, &std::fs::read(graph).unwrap()[..20_000]).unwrap();
    fail(&[&["bind", &cut][..], &model].concat(), &[&cut, "not an ONNX model, or cut off: a field that is longer"]);
    // Also what lies beside a graph is not written over.
    let mut apart = support::onnx::decode(Path::new(graph));
    support::onnx::external(&mut apart, folder.path());
    let (apart, values) = (support::onnx::write(&apart, folder.path(), "apart.onnx"), path("weights/model.bin"));
    let apart = ["export", "--weights", "MNIST", "--graph", apart.to_str().unwrap(), "-o", &values];
    fail(&[&apart[..], &model].concat(), &["would overwrite the input"]);
    let overwrite = run(&[&["export", "--weights", "MNIST", "-o", graph, "--graph", graph][..], &model].concat());
    assert!(String::from_utf8(overwrite.stderr).unwrap().contains("would overwrite the input"));
}
