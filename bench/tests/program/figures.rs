//! `taskbasis bench`: the keys that it promises, a report that needs nothing else, and the soak.

use std::path::Path;
use std::process::{Command, Output};

use crate::driver::on_the_hosts_driver;
use crate::need::{digits, root, runtime};
use serde_json::Value;
use taskbasis::onnx::{BindOptions, BoundGraph};
use taskbasis::{ArchHints, Basis, BlockFormat, Checkpoint, Packer, VectorFormat};

/// Runs the bench on the digits family.
fn bench(arguments: &[&str]) -> Output {
    bench_command(arguments).output().unwrap()
}

fn bench_command(arguments: &[&str]) -> Command {
    let path = |relative| digits(relative).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_taskbasis-bench"));
    command.arg("--basis").arg(path("bases/ViT-D-8_AE_M4_8task"));
    command.arg("--base").arg(path("base/pickled_module.pt")).args(arguments);
    command
}

#[track_caller]
fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// `a.b.c`, as a number.
#[track_caller]
fn number(value: &Value, path: &str) -> f64 {
    let found = path.split('.').try_fold(value, |value, key| value.get(key));
    found.and_then(Value::as_f64).unwrap_or_else(|| panic!("no number at {path} in {value:#}"))
}

#[test]
fn every_promised_figure_is_there_and_documented() {
    if !runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.html");
    let output = bench(&["--quick", "--json", "--batch", "2", "--threads", "2", "--report", report.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let measured = json(&output);
    for path in [
        "reconstruct.bandwidth_ratio",
        "reconstruct.ms",
        "switch.vs_reload",
        "encode.promoted_vs_frozen.1",
        "encode.promoted_vs_frozen.2",
        "encode.inputs_vs_frozen.1",
        "encode.inputs_vs_frozen.2",
        "open.ms",
        "memory.peak_over_model",
        "storage.basis",
        "machine.processors",
        "machine.page_size",
    ] {
        assert!(number(&measured, path) > 0.0, "{path}");
    }
    assert!(number(&measured, "switch.cached_overhead_ms").is_finite());
    assert!(number(&measured, "encode.inputs_difference") < 1e-5, "both ways compute the same");
    assert!(number(&measured, "encode.promoted_difference") < 1e-5);
    // One and two threads, M = 1 to 4, five formats; each the bytes of M vectors, base and result.
    let cases = measured["reconstruct"]["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 2 * 4 * 5);
    let tower = 4.0 * number(&measured, "family.parameters");
    for case in cases {
        let vector = (number(case, "bytes") - 2.0 * tower) / number(case, "vectors") / tower;
        match case["format"].as_str().unwrap() {
            "f32" => assert_eq!(vector, 1.0),
            "f16" | "bf16" => assert_eq!(vector, 0.5),
            // A block of 64 values has a scale, and what has one dimension is f16.
            "q8" => assert!((8.25 / 32.0..0.27).contains(&vector), "{case}"),
            "q4" => assert!((4.25 / 32.0..0.15).contains(&vector), "{case}"),
            other => panic!("{other}"),
        }
    }
    for format in ["f16", "bf16", "q8", "q4"] {
        assert!(number(&measured, &format!("reconstruct.over_own_format.{format}")) > 0.0);
    }
    assert_eq!(measured["machine"]["onnxruntime"], taskbasis::Runtime::probe(None).unwrap().version.as_str());

    assert_documented(&measured);

    // Reconstruction twice, switching, throughput.
    assert_whole_page(&report, 4);
}

/// A report that needs nothing else, with this many plots at least.
#[track_caller]
fn assert_whole_page(report: &Path, plots: usize) -> String {
    let page = std::fs::read_to_string(report).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert!(page.matches("<svg").count() >= plots);
    let address = page.replace("http://www.w3.org/2000/svg", "");
    for outside in ["http:", "https:", "src=", "href=", "@import", "url(", "<script"] {
        assert!(!address.contains(outside), "the report refers to something outside: {outside}");
    }
    page
}

#[track_caller]
fn assert_documented(measured: &Value) {
    let docs = std::fs::read_to_string(root().join("docs/performance.md")).unwrap();
    let mut missing = Vec::new();
    undocumented(measured, &docs, &mut missing);
    assert!(missing.is_empty(), "docs/performance.md does not tell of {missing:?}");
}

/// Keys that the documentation does not name, but for those of maps whose keys are data.
fn undocumented(value: &Value, docs: &str, missing: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let formats = ["f32", "f16", "bf16", "q8", "q4"];
                let is_data = key.parse::<u32>().is_ok() || formats.contains(&key.as_str());
                if !is_data && !docs.contains(&format!("`{key}`")) {
                    missing.push(key.clone());
                }
                undocumented(value, docs, missing);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| undocumented(value, docs, missing)),
        _ => {}
    }
}

#[test]
fn a_bundle_is_measured_without_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("model.taskbasis");
    let path = |relative| digits(relative).unwrap();
    let (base, basis) = (path("base/pickled_module.pt"), path("bases/ViT-D-8_AE_M4_8task"));
    let (base, basis) = (Checkpoint::open(base).unwrap(), Basis::open(basis).unwrap());
    let packer = Packer::new(&base, &basis, ArchHints::default()).unwrap();
    packer.write(&bundle, &packer.uniform(VectorFormat::Blocks(BlockFormat::Q8)), &[], &|_| ()).unwrap();
    if !runtime() {
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_taskbasis-bench"))
        .args(["--quick", "--json", "--formats", "--only", "open,reconstruct,memory,storage", "--basis"])
        .arg(&bundle)
        .output()
        .unwrap();
    let measured = json(&output);
    assert_eq!(measured["family"]["format"], "q8");
    assert!(measured["reconstruct"]["cases"].as_array().unwrap().iter().all(|case| case["format"] == "q8"));
    assert_eq!(number(&measured, "storage.basis") as u64, std::fs::metadata(&bundle).unwrap().len());
    assert!(number(&measured, "memory.peak_over_model") > 1.0 && number(&measured, "open.ms") > 0.0);
    assert!(measured.get("switch").is_none(), "only what was asked for");
}

#[test]
fn a_users_graph_is_measured_beside_the_built_one() {
    let Some(graph) = digits("onnx/transformers_style_opset14.onnx").filter(|_| runtime()) else { return };
    let of_graph = ["--quick", "--json", "--batch", "2", "--threads", "2", "--graph", graph.to_str().unwrap()];
    let measured = json(&bench(&[&of_graph[..], &["--only", "encode"]].concat()));
    for ratio in ["inputs_vs_frozen", "promoted_vs_frozen", "vs_built"] {
        for batch in ["1", "2"] {
            assert!(number(&measured, &format!("encode.graph.{ratio}.{batch}")) > 0.0, "{ratio}, {batch}");
        }
    }
    assert!(number(&measured, "encode.graph.inputs_difference") < 1e-5, "each way computes the same");
    assert!(number(&measured, "encode.graph.promoted_difference") < 1e-5);
    assert_eq!(measured["encode"]["graph"]["batches"].as_array().unwrap().len(), 2);
    assert_documented(&measured);

    // Never taken and left out in silence.
    let output = bench(&[&of_graph[..], &["--only", "open"]].concat());
    assert!(String::from_utf8_lossy(&output.stderr).contains("'--only' leaves out"));
    assert_eq!(bench(&[&of_graph[..], &["--soak", "1"]].concat()).status.code(), Some(2));
}

#[test]
fn a_bundles_graph_is_measured_unless_the_built_one_is_asked_for() {
    let Some(graph) = digits("onnx/transformers_style_opset14.onnx").filter(|_| runtime()) else { return };
    let base = Checkpoint::open(digits("base/pickled_module.pt").unwrap()).unwrap();
    let basis = Basis::open(digits("bases/ViT-D-8_AE_M4_8task").unwrap()).unwrap();
    let graph = BoundGraph::open(graph, &base, Some(&basis), &BindOptions::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("model.taskbasis");
    let mut packer = Packer::new(&base, &basis, ArchHints::default()).unwrap();
    packer.graph(&graph).unwrap();
    packer.write(&bundle, &packer.uniform(VectorFormat::Blocks(BlockFormat::Q8)), &[], &|_| ()).unwrap();
    let quick = |more: &[&str]| {
        let mut bench = Command::new(env!("CARGO_BIN_EXE_taskbasis-bench"));
        bench.args(["--json", "--only", "encode", "--quick", "--batch", "2", "--threads", "2", "--basis"]);
        json(&bench.arg(&bundle).args(more).output().unwrap())
    };
    assert!(number(&quick(&[]), "encode.graph.inputs_difference") < 1e-5);
    assert!(quick(&["--built-graph"])["encode"].get("graph").is_none());
}

/// On a driver that has no GPU, and without ONNX Runtime.
#[test]
fn weights_on_a_gpu_are_measured_without_a_provider() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.html");
    let arguments = ["--only", "device", "--quick", "--json", "--threads", "2", "--formats", "f16,q4", "--report"];
    let others = [report.to_str().unwrap(), "--provider", "auto", "--onnxruntime", "/nowhere/libonnxruntime.so"];
    let mut command = bench_command(&[&arguments[..], &others].concat());
    let Some(output) = on_the_hosts_driver(&mut command, &[]) else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let measured = json(&output);
    assert_documented(&measured);
    assert!(measured.get("reconstruct").is_none() && measured.get("switch").is_none(), "only what was asked for");
    let device = &measured["device"];
    let gpu = &device["gpu"];
    assert_eq!((gpu["name"].as_str(), gpu["compute_capability"].as_str()), (Some("none at all"), Some("9.0")));
    assert_eq!((gpu["cuda"].as_str(), number(gpu, "memory_bytes")), (Some("12.8"), (1u64 << 32) as f64));
    assert!(measured["machine"]["onnxruntime"].is_null() && measured["machine"]["provider"].is_null());
    assert!(device["encode"].is_null() && device["not_encoded"].as_str().unwrap().contains("/nowhere/"), "{device}");

    let tower = 4.0 * number(&measured, "family.parameters");
    let formats = device["formats"].as_array().unwrap();
    let names: Vec<_> = formats.iter().map(|format| format["format"].as_str().unwrap()).collect();
    assert_eq!(names, ["f32", "f16", "q4"]);
    for (format, vectors) in formats.iter().zip([4.0, 2.0, 4.0 * 4.25 / 32.0]) {
        let bytes = |key: &str| number(format, key);
        // What has one dimension is f16 in q4.
        assert!((1.0..1.1).contains(&(bytes("basis_bytes") / tower / vectors)), "{format}");
        assert_eq!((bytes("base_bytes"), bytes("bytes")), (tower, 2.0 * tower + bytes("basis_bytes")));
        // Whole tiles of 8 KiB, and where they are.
        let whole = |stored: f64, on_device: f64| (stored..3.0 * stored).contains(&on_device);
        assert!(whole(tower + bytes("basis_bytes"), bytes("resident_bytes")) && whole(tower, bytes("weights_bytes")));
        // To the byte, as this driver counts: base and basis, and the weights of two tasks.
        assert_eq!(bytes("peak_bytes"), bytes("resident_bytes") + 2.0 * bytes("weights_bytes"));
        assert_eq!((bytes("slot_bytes"), bytes("streamed_bytes")), (0.0, 0.0));
        assert_eq!(bytes("copy_bytes"), bytes("bytes"), "there is room for copies of as many");
        for rate in ["gb_s", "copy_gb_s", "upload_gb_s", "ratio"] {
            assert!(bytes(rate).is_finite() && bytes(rate) > 0.0, "{rate} of {format}");
        }
        assert!((bytes("gb_s") / bytes("copy_gb_s") / bytes("ratio") - 1.0).abs() < 1e-9);
        assert!((bytes("gb_s") * bytes("computed_ms.median") * 1e6 / bytes("bytes") - 1.0).abs() < 1e-9);
        assert!((bytes("upload_gb_s") * bytes("upload_ms.median") * 1e6 / bytes("resident_bytes") - 1.0).abs() < 1e-9);
        assert!(bytes("computed_ms.runs") >= 10.0 && bytes("queued_ms.runs") == bytes("computed_ms.runs"));
        for quantile in ["median", "p99"] {
            let of = |key| bytes(&format!("{key}.{quantile}"));
            assert!(of("queued_ms") > 0.0 && of("queued_ms") <= of("computed_ms"), "{format}");
        }
    }
    for (figure, of_own_format) in
        [("bandwidth_ratio", "ratio"), ("switch_p50_ms", "computed_ms.median"), ("switch_p99_ms", "computed_ms.p99")]
    {
        assert_eq!(number(device, figure), number(&formats[0], of_own_format));
    }
    let lowest = formats.iter().map(|format| number(format, "ratio")).fold(f64::INFINITY, f64::min);
    assert_eq!(number(device, "lowest_ratio"), lowest);
    let page = assert_whole_page(&report, 1);
    assert!(page.contains("On the GPU") && page.contains("none at all, compute capability 9.0"));

    // The same as text, where the basis does not fit.
    let tight = (tower + tower * 4.0).to_string();
    let mut command = bench_command(&["--only", "device", "--quick", "--formats", "--provider", "tensorrt"]);
    let output = on_the_hosts_driver(&mut command, &[("FAKE_MEMORY", &tight)]).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for said in ["driver for CUDA 12.8", "clocks not known", ", slots ", "of the copy", "encoding was not measured"] {
        assert!(text.contains(said), "{said}: {text}");
    }
}

#[test]
fn what_a_gpu_lacks_is_said_before_anything_is_measured() {
    let said = |output: Output| {
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{text}");
        text
    };
    let on_cpu = said(bench(&["--only", "device"]));
    assert!(on_cpu.contains("measured on a GPU") && on_cpu.contains("--provider cuda"), "{on_cpu}");
    let device = ["--only", "device", "--provider", "auto"];
    if let Err(error) = taskbasis::Cuda::open(0) {
        assert!(said(bench(&device)).contains(&error.to_string()));
    }
    for (setting, missing) in [
        (("FAKE_DEVICES", "0"), "the CUDA driver finds no GPU that it can use"),
        (("FAKE_CAPABILITY", "61"), "none at all is too old for the kernels"),
    ] {
        let Some(output) = on_the_hosts_driver(&mut bench_command(&device), &[setting]) else { return };
        assert!(said(output).contains(missing), "{missing}");
    }
    // The driver alone is not enough for the parts that encode.
    if runtime() {
        let mut all = bench_command(&["--only", "device,encode", "--provider", "cuda"]);
        let text = said(on_the_hosts_driver(&mut all, &[]).unwrap());
        assert!(text.contains("CUDA"), "{text}");
    }
}

#[test]
fn a_short_soak_passes() {
    if !runtime() {
        return;
    }
    let output = bench(&["--soak", "3", "--json"]);
    let soak = json(&output);
    assert_eq!(output.status.code(), Some(0), "{soak:#}");
    assert_documented(&soak);

    let soak = &soak["soak"];
    assert_eq!(soak["passed"], true);
    for mode in ["plain", "promoted", "blockwise"] {
        let (name, mode) = (mode, &soak[mode]);
        assert_eq!((number(mode, "differing"), mode["errors"].as_array().unwrap().len()), (0.0, 0));
        // More tasks than fit: there must have been switches, and weights dropped and made again.
        let is_kept = name != "blockwise";
        assert!(number(mode, "switches") > 0.0 && (number(mode, "evictions") > 0.0) >= is_kept, "{mode}");
    }
    assert_eq!(number(soak, "plain.difference"), 0.0, "bit for bit");
    assert_eq!(number(soak, "blockwise.difference"), 0.0, "bit for bit");
}

#[test]
fn what_cannot_be_measured_is_said() {
    let output = Command::new(env!("CARGO_BIN_EXE_taskbasis-bench"))
        .args(["--synthetic", "ViT-B-99", "--only", "open"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{text}");
    assert!(text.contains("ViT-B-99") && text.contains("ViT-B-32"), "{text}");
    // A report is never written over what is measured.
    let base = digits("base/pickled_module.pt").unwrap();
    let before = std::fs::read(&base).unwrap();
    let output = bench(&["--quick", "--only", "storage", "--report", base.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(std::fs::read(&base).unwrap(), before);
}
